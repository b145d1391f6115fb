//! The heap memory of values.

#![forbid(unsafe_code)]

/// Bytes of an allocation of `bytes`, at most: size classes are an eighth apart, and no finer than 16 bytes.
pub(crate) fn allocated(bytes: usize) -> usize {
    (bytes + bytes / 8).next_multiple_of(16)
}
