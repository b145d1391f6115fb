//! How the parts of a connection are restored from bytes: buffers, checks, and the error.

#![forbid(unsafe_code)]

use crate::buffer::{Buffer, Pool};

crate::error_enum! {
    /// Why a connection cannot be continued from these bytes.
    #[derive(Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum RestoreError {
        /// They are malformed, or no connection can be in the state that they describe.
        Malformed = "no connection of this version";
        /// The node's memory is spent.
        OutOfMemory = "the node's memory is spent";
    }
}

/// These bytes in a buffer with this headroom; `None` without memory.
pub(super) fn buffer_of(bytes: &[u8], headroom: usize, pool: &mut Pool) -> Option<Buffer> {
    let mut buffer = pool.get(headroom + bytes.len())?;
    buffer.reserve_front(headroom);
    buffer.append(bytes);
    Some(buffer)
}

/// Whether a connection can be as its bytes say.
pub(super) fn check(is_possible: bool) -> Result<(), RestoreError> {
    if is_possible { Ok(()) } else { Err(RestoreError::Malformed) }
}
