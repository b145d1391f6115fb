//! The pseudo-random bytes that bodies are cut from.

use super::style::Style;
use echoring_proto::random::SplitMix64;

/// Distinct cuts.
const CUTS: usize = 1 << 16;
/// 64 characters that need no escape in JSON.
const TEXT: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -";

/// Bytes of a style that can be cut anywhere, for bodies of up to `body_bytes_max`.
pub(super) fn random_bytes(seed: u64, style: Style, body_bytes_max: usize) -> Box<[u8]> {
    let mut random = SplitMix64::new(seed);
    (0..CUTS + body_bytes_max)
        .map(|_| {
            let byte = random.next_u64() as u8;
            if style == Style::Binary { byte } else { TEXT[usize::from(byte & 63)] }
        })
        .collect()
}

/// The `count` bytes that `hash` selects.
#[inline]
pub(super) fn cut(bytes: &[u8], hash: u64, count: usize) -> &[u8] {
    let start = hash as usize % CUTS;
    &bytes[start..start + count]
}
