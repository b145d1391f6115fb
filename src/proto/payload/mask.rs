//! Masking (RFC 6455, section 5.3): the payload XOR the repeated 4-byte key. The same operation masks and unmasks.
//!
//! Most payloads have at most [`INLINE_BYTES_MAX`] bytes. They are masked inline, in a few instructions: the first and
//! last words are loaded before any word is stored, so they may overlap, and all lengths of a class take the same
//! path. The vector kernels of `simd` mask longer payloads.
//!
//! Never: choosing keys. The keys of a client come from the random source of its caller.

#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use crate::simd::Kernel;

/// Longest payload in bytes that is masked without a function call.
pub const INLINE_BYTES_MAX: usize = 64;

/// Lengths of the most common payloads, for which two words of eight bytes suffice.
pub const TWO_WORDS: RangeInclusive<usize> = 8..=16;

/// The key rotated to an offset of `by` bytes in the payload.
#[inline]
pub const fn rotate(key: [u8; 4], by: usize) -> [u8; 4] {
    u32::from_le_bytes(key).rotate_right(8 * (by as u32 & 3)).to_le_bytes()
}

/// Masks or unmasks `bytes` in place.
#[inline]
pub fn apply(bytes: &mut [u8], key: [u8; 4]) {
    let len = bytes.len();
    if len <= INLINE_BYTES_MAX {
        let _ = shift_short(bytes, 0, 0, len, key);
    } else {
        apply_long(bytes, key);
    }
}

/// Masks or unmasks `bytes[from..from + len]` while moving it to `bytes[to..to + len]`, in one forward pass.
/// The ranges may overlap. Source bytes outside the target range keep their values.
///
/// # Panics
/// When `to > from`, or the source is not within `bytes`.
#[inline]
pub fn shift(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) {
    assert!(to <= from, "a shift moves towards the front");
    if len <= INLINE_BYTES_MAX {
        let _ = shift_short(bytes, from, to, len, key);
    } else {
        shift_long(bytes, from, to, len, key);
    }
}

/// Like [`apply`], for at most [`INLINE_BYTES_MAX`] bytes. Returns the bitwise OR of the resulting words, for
/// [`has_high_bits`].
///
/// # Panics
/// When `bytes` is longer.
#[inline(always)]
pub fn apply_and_or(bytes: &mut [u8], key: [u8; 4]) -> u64 {
    assert!(bytes.len() <= INLINE_BYTES_MAX, "apply_and_or takes short payloads");
    shift_short(bytes, 0, 0, bytes.len(), key)
}

/// Whether one of the bytes in a bitwise OR of words is not ASCII.
#[inline(always)]
pub fn has_high_bits(word: u64) -> bool {
    word & HIGH_BITS != 0
}

/// Like [`shift`]. Returns whether the bytes are known to be ASCII; payloads above [`INLINE_BYTES_MAX`] are not checked.
///
/// # Panics
/// When `to > from`, or the source is not within `bytes`.
#[inline(always)]
pub fn shift_and_check_ascii(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) -> bool {
    assert!(to <= from, "a shift moves towards the front");
    if len <= INLINE_BYTES_MAX {
        !has_high_bits(shift_short(bytes, from, to, len, key))
    } else {
        shift_long(bytes, from, to, len, key);
        false
    }
}

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Appends `src`, masked or unmasked, to `out`. Allocates only when the capacity of `out` is too small.
#[inline]
pub fn append(out: &mut Vec<u8>, src: &[u8], key: [u8; 4]) {
    if src.len() <= INLINE_BYTES_MAX {
        let at = out.len();
        out.extend_from_slice(src);
        let _ = shift_short(out, at, at, src.len(), key);
    } else {
        append_long(out, src, key);
    }
}

// Not inlined, so that the callers need no stack frame on their short path.
#[inline(never)]
fn apply_long(bytes: &mut [u8], key: [u8; 4]) {
    let len = bytes.len();
    Kernel::in_place().shift(bytes, 0, 0, len, key);
}

#[inline(never)]
fn shift_long(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) {
    Kernel::shifting().shift(bytes, from, to, len, key);
}

#[inline(never)]
fn append_long(out: &mut Vec<u8>, src: &[u8], key: [u8; 4]) {
    Kernel::shifting().append(out, src, key);
}

/// [`shift`] for at most [`INLINE_BYTES_MAX`] bytes. All loads come before all stores. Returns the bitwise OR of the
/// stored words.
#[inline(always)]
fn shift_short(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) -> u64 {
    let key32 = u32::from_le_bytes(key);
    // The key has a period of 4 bytes, so rotating a repeated key by an offset gives the key at that offset.
    let rotation = 8 * len as u32;
    let source = &bytes[from..][..len];
    // The most common lengths come first, because each comparison costs time.
    if TWO_WORDS.contains(&len) {
        let key = key64(key32);
        let a = u64::from_le_bytes(load(source, 0)) ^ key;
        let b = u64::from_le_bytes(load(source, len - 8)) ^ key.rotate_right(rotation & 63);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, len - 8, b.to_le_bytes());
        a | b
    } else if len > 32 {
        let key = key128(key32);
        let [a, b] = [load16(source, 0), load16(source, 16)].map(|word| word ^ key);
        let key = key.rotate_right(rotation & 31);
        let [c, d] = [load16(source, len - 32), load16(source, len - 16)].map(|word| word ^ key);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, 16, b.to_le_bytes());
        store(target, len - 32, c.to_le_bytes());
        store(target, len - 16, d.to_le_bytes());
        or_halves(a | b | c | d)
    } else if len > 16 {
        let key = key128(key32);
        let a = load16(source, 0) ^ key;
        let b = load16(source, len - 16) ^ key.rotate_right(rotation & 31);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, len - 16, b.to_le_bytes());
        or_halves(a | b)
    } else if len >= 4 {
        let a = u32::from_le_bytes(load(source, 0)) ^ key32;
        let b = u32::from_le_bytes(load(source, len - 4)) ^ key32.rotate_right(rotation & 31);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, len - 4, b.to_le_bytes());
        u64::from(a | b)
    } else {
        let mut bits = 0;
        for at in 0..len {
            let byte = bytes[from + at] ^ key[at];
            bytes[to + at] = byte;
            bits |= byte;
        }
        u64::from(bits)
    }
}

#[inline(always)]
fn or_halves(bits: u128) -> u64 {
    bits as u64 | (bits >> 64) as u64
}

#[inline(always)]
fn key64(key: u32) -> u64 {
    u64::from(key) << 32 | u64::from(key)
}

#[inline(always)]
fn key128(key: u32) -> u128 {
    u128::from(key64(key)) << 64 | u128::from(key64(key))
}

#[inline(always)]
fn load<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut word = [0; N];
    word.copy_from_slice(&bytes[at..at + N]);
    word
}

#[inline(always)]
fn load16(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(load(bytes, at))
}

#[inline(always)]
fn store<const N: usize>(bytes: &mut [u8], at: usize, word: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&word);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// Masking as RFC 6455, 5.3, defines it.
    fn masked(bytes: &[u8], key: [u8; 4]) -> Vec<u8> {
        bytes.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect()
    }

    #[test]
    fn the_example_of_rfc_6455_is_unmasked() {
        let mut hello = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply(&mut hello, KEY);
        assert_eq!(&hello, b"Hello");
    }

    #[test]
    fn every_length_below_and_above_the_inline_limit_is_masked() {
        for len in 0..=2 * INLINE_BYTES_MAX + 2 {
            let plain: Vec<u8> = (0..len).map(|at| (at * 31) as u8).collect();
            let mut bytes = plain.clone();
            apply(&mut bytes, KEY);
            assert_eq!(bytes, masked(&plain, KEY), "in place, {len} bytes");

            let mut out = b"before".to_vec();
            append(&mut out, &plain, KEY);
            assert_eq!(out, [&b"before"[..], &masked(&plain, KEY)].concat(), "appended, {len} bytes");
        }
    }

    #[test]
    fn every_length_is_masked_while_moving_by_any_distance() {
        for len in 0..=2 * INLINE_BYTES_MAX + 2 {
            for by in 0..=20 {
                let before: Vec<u8> = (0..len + by + 9).map(|at| (at * 31) as u8).collect();
                let mut after = before.clone();
                let (from, to) = (5 + by, 5);
                shift(&mut after, from, to, len, KEY);
                let mut expected = before.clone();
                expected[to..to + len].copy_from_slice(&masked(&before[from..from + len], KEY));
                assert_eq!(after, expected, "{len} bytes by {by}");
            }
        }
    }

    #[test]
    fn non_ascii_bytes_are_detected_at_every_position() {
        for len in 0..=INLINE_BYTES_MAX {
            for odd in 0..=len {
                let mut plain = vec![b'a'; len + 3];
                if odd < len {
                    plain[3 + odd] = 0x80;
                }
                let mut bytes = plain.clone();
                apply(&mut bytes[3..], KEY);
                // Bytes before the payload, and the masked bytes themselves, have no influence.
                bytes[..3].fill(0xff);
                assert_eq!(
                    shift_and_check_ascii(&mut bytes, 3, 1, len, KEY),
                    odd == len,
                    "{len} bytes, {odd}"
                );
                assert_eq!(bytes[1..=len], plain[3..]);
                let mut bytes = plain[3..].to_vec();
                apply(&mut bytes, KEY);
                assert_eq!(has_high_bits(apply_and_or(&mut bytes, KEY)), odd < len, "{len} bytes, {odd}");
                assert_eq!(bytes, plain[3..]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "towards the front")]
    fn moving_away_from_the_front_panics() {
        shift(&mut [0; 16], 2, 4, 8, KEY);
    }

    proptest! {
        #[test]
        fn parts_masked_with_rotated_keys_equal_the_whole(
            plain in prop::collection::vec(any::<u8>(), 0..400),
            key: [u8; 4],
            cut in 0usize..400,
        ) {
            let cut = cut.min(plain.len());
            let mut parts = plain.clone();
            let (front, back) = parts.split_at_mut(cut);
            apply(front, key);
            apply(back, rotate(key, cut));
            prop_assert_eq!(&parts, &masked(&plain, key));
            apply(&mut parts, key);
            prop_assert_eq!(parts, plain);
        }
    }
}
