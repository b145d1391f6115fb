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
        let _ = short(bytes, 0, 0, len, key);
    } else {
        apply_long(bytes, key);
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
        let _ = short(bytes, from, to, len, key);
    } else {
        shift_long(bytes, from, to, len, key);
    }
}

/// [`apply`] to at most [`INLINE_BYTES_MAX`] bytes. Returns words of what they are now or-ed together, to be asked
/// [`has_high_bits`].
///
/// # Panics
/// When there are more.
#[inline(always)]
pub fn apply_and_see(bytes: &mut [u8], key: [u8; 4]) -> u64 {
    let len = bytes.len();
    if (8..=16).contains(&len) {
        return short(bytes, 0, 0, len, key);
    }
    apply_and_see_any(bytes, key)
}

// Out of line, so that the path where the most common lengths stand has registers enough.
#[inline(never)]
fn apply_and_see_any(bytes: &mut [u8], key: [u8; 4]) -> u64 {
    assert!(bytes.len() <= INLINE_BYTES_MAX, "for short payloads");
    short(bytes, 0, 0, bytes.len(), key)
}

/// Whether one of the bytes that were or-ed together is not ASCII.
#[inline(always)]
pub fn has_high_bits(word: u64) -> bool {
    word & HIGH_BITS != 0
}

/// [`shift`] that says whether the bytes are known to be ASCII. Long ones are not looked at.
///
/// # Panics
/// When `to > from`, or the source is not within `bytes`.
#[inline(always)]
pub fn shift_and_see(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) -> bool {
    assert!(to <= from, "a shift moves towards the front");
    if len <= INLINE_BYTES_MAX {
        !has_high_bits(short(bytes, from, to, len, key))
    } else {
        shift_long(bytes, from, to, len, key);
        false
    }
}

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Appends `src`, masked or unmasked, to `out`. Allocates only when `out` has too little room.
#[inline]
pub fn append(out: &mut Vec<u8>, src: &[u8], key: [u8; 4]) {
    if src.len() <= INLINE_BYTES_MAX {
        let at = out.len();
        out.extend_from_slice(src);
        let _ = short(out, at, at, src.len(), key);
    } else {
        append_long(out, src, key);
    }
}

// Out of line, so that the short path where these stand needs no stack frame.
#[inline(never)]
fn apply_long(bytes: &mut [u8], key: [u8; 4]) {
    let len = bytes.len();
    Kernel::in_place().shift(bytes, 0, 0, len, key);
}

#[inline(never)]
fn shift_long(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) {
    Kernel::moving().shift(bytes, from, to, len, key);
}

#[inline(never)]
fn append_long(out: &mut Vec<u8>, src: &[u8], key: [u8; 4]) {
    Kernel::moving().append(out, src, key);
}

/// [`shift`] for at most [`INLINE_BYTES_MAX`] bytes: all loads come before all stores. Returns all words that
/// were stored, or-ed together.
#[inline(always)]
fn short(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) -> u64 {
    let key32 = u32::from_le_bytes(key);
    // The key has period 4, so rotating any multiple of it by the offset gives the key there.
    let turn = 8 * len as u32;
    let source = &bytes[from..][..len];
    // The most common lengths first: each comparison counts.
    if (8..=16).contains(&len) {
        let key = key64(key32);
        let a = u64::from_le_bytes(load(source, 0)) ^ key;
        let b = u64::from_le_bytes(load(source, len - 8)) ^ key.rotate_right(turn & 63);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, len - 8, b.to_le_bytes());
        a | b
    } else if len > 32 {
        let key = key128(key32);
        let [a, b] = [load16(source, 0), load16(source, 16)].map(|word| word ^ key);
        let key = key.rotate_right(turn & 31);
        let [c, d] = [load16(source, len - 32), load16(source, len - 16)].map(|word| word ^ key);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, 16, b.to_le_bytes());
        store(target, len - 32, c.to_le_bytes());
        store(target, len - 16, d.to_le_bytes());
        folded(a | b | c | d)
    } else if len > 16 {
        let key = key128(key32);
        let a = load16(source, 0) ^ key;
        let b = load16(source, len - 16) ^ key.rotate_right(turn & 31);
        let target = &mut bytes[to..][..len];
        store(target, 0, a.to_le_bytes());
        store(target, len - 16, b.to_le_bytes());
        folded(a | b)
    } else if len >= 4 {
        let a = u32::from_le_bytes(load(source, 0)) ^ key32;
        let b = u32::from_le_bytes(load(source, len - 4)) ^ key32.rotate_right(turn & 31);
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
fn folded(bits: u128) -> u64 {
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

    /// RFC 6455, 5.3, to the letter.
    fn masked(bytes: &[u8], key: [u8; 4]) -> Vec<u8> {
        bytes.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect()
    }

    #[test]
    fn the_standards_example_unmasks() {
        let mut hello = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply(&mut hello, KEY);
        assert_eq!(&hello, b"Hello");
    }

    #[test]
    fn every_length_on_both_sides_of_the_inline_border() {
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
    fn every_length_and_distance_while_moving() {
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
    fn bytes_that_are_not_ascii_are_seen_wherever_they_are() {
        for len in 0..=INLINE_BYTES_MAX {
            for odd in 0..=len {
                let mut plain = vec![b'a'; len + 3];
                if odd < len {
                    plain[3 + odd] = 0x80;
                }
                let mut bytes = plain.clone();
                apply(&mut bytes[3..], KEY);
                // Neither what lies before nor the key counts.
                bytes[..3].fill(0xff);
                assert_eq!(shift_and_see(&mut bytes, 3, 1, len, KEY), odd == len, "{len} bytes, {odd}");
                assert_eq!(bytes[1..=len], plain[3..]);
                let mut bytes = plain[3..].to_vec();
                apply(&mut bytes, KEY);
                assert_eq!(has_high_bits(apply_and_see(&mut bytes, KEY)), odd < len, "{len} bytes, {odd}");
                assert_eq!(bytes, plain[3..]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "towards the front")]
    fn moving_away_from_the_front_is_refused() {
        shift(&mut [0; 16], 2, 4, 8, KEY);
    }

    proptest! {
        #[test]
        fn pieces_with_rotated_keys_equal_the_whole(
            plain in prop::collection::vec(any::<u8>(), 0..400),
            key: [u8; 4],
            cut in 0usize..400,
        ) {
            let cut = cut.min(plain.len());
            let mut pieces = plain.clone();
            let (front, back) = pieces.split_at_mut(cut);
            apply(front, key);
            apply(back, rotate(key, cut));
            prop_assert_eq!(&pieces, &masked(&plain, key));
            apply(&mut pieces, key);
            prop_assert_eq!(pieces, plain);
        }
    }
}
