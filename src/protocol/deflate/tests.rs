//! Codecs: the examples of RFC 7692, hostile input, and round trips in every setting.

use super::*;
use crate::protocol::Offence;

const KEPT: Direction = Direction { takeover: true, window_bits: 15 };
const FRESH: Direction = Direction { takeover: false, window_bits: 15 };
const BYTES_MAX: usize = 1 << 20;

fn inflate(inflater: &mut Inflater, payload: &[u8]) -> Result<Vec<u8>, Offence> {
    let mut out = Vec::new();
    inflater.inflate(payload, &mut out, BYTES_MAX).map(|bytes| out[..bytes].to_vec())
}

#[test]
fn the_examples_of_rfc_7692_inflate() {
    // 7.2.3.1, 7.2.3.3, 7.2.3.4, 7.2.3.5 and 7.2.3.6, by their sections.
    let table: &[(&[u8], &[u8])] = &[
        (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
        (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], b"Hello"),
        (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], b"Hello"),
        (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
        (&[0x00], b""),
    ];
    for direction in [KEPT, FRESH] {
        for (payload, expected) in table {
            let inflated = inflate(&mut Inflater::new(direction), payload);
            assert_eq!(inflated.as_deref(), Ok(*expected), "{payload:x?}");
        }
    }
}

#[test]
fn the_second_hello_of_rfc_7692_needs_the_window_of_the_first() {
    // 7.2.3.2.
    let first = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let second = [0xf2, 0x00, 0x11, 0x00, 0x00];
    let mut inflater = Inflater::new(KEPT);
    assert_eq!(inflate(&mut inflater, &first).as_deref(), Ok(&b"Hello"[..]));
    assert_eq!(inflate(&mut inflater, &second).as_deref(), Ok(&b"Hello"[..]));
    let mut inflater = Inflater::new(FRESH);
    assert_eq!(inflate(&mut inflater, &first).as_deref(), Ok(&b"Hello"[..]));
    assert_eq!(inflate(&mut inflater, &second), Err(Offence::BadCompression));
}

#[test]
fn messages_come_back_in_every_setting() {
    let messages: Vec<Vec<u8>> = (0..40u32)
        .map(|n| (0..n * n * 37).map(|i| (i.wrapping_mul(i >> 3) >> 5) as u8 & 0x3f).collect())
        .collect();
    for takeover in [false, true] {
        for window_bits in 9..=15 {
            let direction = Direction { takeover, window_bits };
            let mut deflater = Deflater::new(direction, 6);
            let mut inflater = Inflater::new(direction);
            let mut out = Vec::new();
            for message in &messages {
                let bytes = deflater.deflate(message, &mut out);
                assert_eq!(inflate(&mut inflater, &out[..bytes]).as_ref(), Ok(message));
            }
        }
    }
}
