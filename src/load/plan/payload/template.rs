//! The pseudo-random bytes that bodies are cut from.

use super::style::Style;
use echoring_proto::random::SplitMix64;

/// Distinct cuts of the template.
pub(super) const TEMPLATE_CUTS: usize = 1 << 16;
/// 64 characters that need no escape in JSON.
const TEXT: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -";

/// Bytes of a style that can be cut anywhere, for bodies of up to `body_bytes_max`.
pub(super) fn template(seed: u64, style: Style, body_bytes_max: usize) -> Box<[u8]> {
    let mut random = SplitMix64::new(seed);
    (0..TEMPLATE_CUTS + body_bytes_max)
        .map(|_| {
            let byte = random.next_u64() as u8;
            if style == Style::Binary { byte } else { TEXT[usize::from(byte & 63)] }
        })
        .collect()
}

/// The `bytes` of the template that `hash` selects.
#[inline]
pub(super) fn cut(template: &[u8], hash: u64, bytes: usize) -> &[u8] {
    let start = hash as usize % TEMPLATE_CUTS;
    &template[start..start + bytes]
}
