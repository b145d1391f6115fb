//! Masking (RFC 6455, section 5.3): payload XOR a repeated 4-byte key; the same operation masks and unmasks.
//!
//! Payloads of up to [`INLINE_BYTES_MAX`] bytes, which is most of them, are done in a handful of
//! instructions where the call stands: first and last words are loaded before anything is stored, so they
//! may overlap and every length of a class takes the same path. Longer ones go to the vector kernels.
//!
//! Never: choosing keys; a client's keys come from its caller's random source.

#![forbid(unsafe_code)]

use super::simd::Kernel;

/// Longest payload that is masked without a call.
pub const INLINE_BYTES_MAX: usize = 64;

/// The key as it stands `by` bytes further into the payload.
#[inline]
pub const fn rotate(key: [u8; 4], by: usize) -> [u8; 4] {
    u32::from_le_bytes(key).rotate_right(8 * (by as u32 & 3)).to_le_bytes()
}

/// Masks or unmasks `bytes` where they lie.
#[inline]
pub fn apply(bytes: &mut [u8], key: [u8; 4]) {
    let len = bytes.len();
    if len <= INLINE_BYTES_MAX {
        short(bytes, 0, 0, len, key);
    } else {
        Kernel::best().shift(bytes, 0, 0, len, key);
    }
}

/// Masks or unmasks `bytes[from..from + len]` while moving it to `bytes[to..to + len]`, in one forward pass.
/// The two ranges may overlap; what of the source is not overwritten is left as it was.
///
/// # Panics
/// When `to > from`, or the source is not within `bytes`.
#[inline]
pub fn shift(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) {
    assert!(to <= from, "a shift moves towards the front");
    if len <= INLINE_BYTES_MAX {
        short(bytes, from, to, len, key);
    } else {
        Kernel::best().shift(bytes, from, to, len, key);
    }
}

/// Appends `src`, masked or unmasked, to `out`. Allocates only when `out` has too little room.
#[inline]
pub fn append(out: &mut Vec<u8>, src: &[u8], key: [u8; 4]) {
    if src.len() <= INLINE_BYTES_MAX {
        let at = out.len();
        out.extend_from_slice(src);
        short(out, at, at, src.len(), key);
    } else {
        Kernel::best().append(out, src, key);
    }
}

/// [`shift`] for at most [`INLINE_BYTES_MAX`] bytes: all loads come before all stores.
#[inline(always)]
fn short(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) {
    let key32 = u32::from_le_bytes(key);
    // The key has period 4, so rotating any multiple of it by the offset modulo 4 gives the key there.
    let turn = 8 * (len as u32 & 3);
    let source = &bytes[from..][..len];
    if len > 32 {
        let key = key128(key32);
        let [a, b] = [load16(source, 0), load16(source, 16)].map(|word| word ^ key);
        let key = key.rotate_right(turn);
        let [c, d] = [load16(source, len - 32), load16(source, len - 16)].map(|word| word ^ key);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, 16, b.to_le_bytes());
        store(target, len - 32, c.to_le_bytes());
        store(target, len - 16, d.to_le_bytes());
    } else if len > 16 {
        let key = key128(key32);
        let a = load16(source, 0) ^ key;
        let b = load16(source, len - 16) ^ key.rotate_right(turn);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, len - 16, b.to_le_bytes());
    } else if len >= 8 {
        let key = key64(key32);
        let a = u64::from_le_bytes(load(source, 0)) ^ key;
        let b = u64::from_le_bytes(load(source, len - 8)) ^ key.rotate_right(turn);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, len - 8, b.to_le_bytes());
    } else if len >= 4 {
        let a = u32::from_le_bytes(load(source, 0)) ^ key32;
        let b = u32::from_le_bytes(load(source, len - 4)) ^ key32.rotate_right(turn);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, len - 4, b.to_le_bytes());
    } else {
        for at in 0..len {
            bytes[to + at] = bytes[from + at] ^ key[at];
        }
    }
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
