//! The frame header (RFC 6455, section 5.2), read and written.
//!
//! ```text
//!  0               1               2 .. 9            then
//! |F|RRR|opcode   |M|length 7      |16 or 64 bit     |4 bytes of masking key
//! ```
//!
//! Never: payload, message state (which frame may follow which), limits on messages; those are the
//! connection's.

#![forbid(unsafe_code)]

use super::{Offence, Role};

/// The longest header: two bytes, a 64-bit length and a masking key.
pub const HEADER_BYTES_MAX: usize = 14;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const OPCODE: u8 = 0x0f;
const MASK: u8 = 0x80;
/// The 7-bit length that announces 16 bits of length.
const LENGTH_16: u8 = 126;
/// The 7-bit length that announces 64 bits of length.
const LENGTH_64: u8 = 127;

/// What a frame is (RFC 6455, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of the message under way.
    Continuation = 0,
    /// The first or only frame of a text message.
    Text = 1,
    /// The first or only frame of a binary message.
    Binary = 2,
    /// The peer closes.
    Close = 8,
    /// The peer asks for a pong with the same payload.
    Ping = 9,
    /// The answer to a ping, or a heartbeat nobody asked for.
    Pong = 10,
}

impl Opcode {
    /// Close, ping and pong: at most 125 bytes, never fragmented, allowed between fragments.
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }

    const fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub opcode: Opcode,
    /// The last frame of its message.
    pub fin: bool,
    /// RSV1: the message is compressed (RFC 7692, section 6). Only on a message's first frame.
    pub compressed: bool,
    /// The key the payload is masked with. Clients mask, servers do not.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload behind the header, below 2^63.
    pub payload_bytes: u64,
}

/// Reads the header at the start of `bytes` and says how many bytes it took; `None` when more are needed.
///
/// `receiver` is who received them: a server requires masks, a client forbids them. `allow_rsv1` tells
/// whether compression was negotiated.
///
/// # Errors
/// The first offence, as soon as the bytes that show it are there, be the header complete or not.
#[inline]
pub fn decode(bytes: &[u8], receiver: Role, allow_rsv1: bool) -> Result<Option<(Header, usize)>, Offence> {
    // Whole messages of at most 125 bytes are what most connections carry: two compares settle them.
    const TEXT: u8 = FIN | Opcode::Text as u8;
    let opcode = |first: u8| if first == TEXT { Opcode::Text } else { Opcode::Binary };
    match receiver {
        Role::Server => {
            if let Some(&[first, second, k0, k1, k2, k3]) = bytes.first_chunk()
                && first.wrapping_sub(TEXT) < 2
                && second.wrapping_sub(MASK) < LENGTH_16
            {
                let header = Header {
                    opcode: opcode(first),
                    fin: true,
                    compressed: false,
                    mask: Some([k0, k1, k2, k3]),
                    payload_bytes: u64::from(second - MASK),
                };
                return Ok(Some((header, 6)));
            }
        }
        Role::Client => {
            if let Some(&[first, second]) = bytes.first_chunk()
                && first.wrapping_sub(TEXT) < 2
                && second < LENGTH_16
            {
                let header = Header {
                    opcode: opcode(first),
                    fin: true,
                    compressed: false,
                    mask: None,
                    payload_bytes: u64::from(second),
                };
                return Ok(Some((header, 2)));
            }
        }
    }
    decode_any(bytes, receiver, allow_rsv1)
}

#[inline(never)]
fn decode_any(bytes: &[u8], receiver: Role, allow_rsv1: bool) -> Result<Option<(Header, usize)>, Offence> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let opcode = Opcode::from_bits(first & OPCODE);
    let fin = first & FIN != 0;
    let compressed = first & RSV1 != 0;
    if first & RSV2_RSV3 != 0 || (compressed && !allow_rsv1) {
        return Err(Offence::ReservedBits);
    }
    let opcode = opcode.ok_or(Offence::UnknownOpcode)?;
    // RFC 7692, 6: only a message's first frame says that the message is compressed.
    if compressed && (opcode.is_control() || opcode == Opcode::Continuation) {
        return Err(Offence::ReservedBits);
    }
    if opcode.is_control() && !fin {
        return Err(Offence::FragmentedControl);
    }

    let Some(&second) = bytes.get(1) else { return Ok(None) };
    let masked = second & MASK != 0;
    match receiver {
        Role::Server if !masked => return Err(Offence::NotMasked),
        Role::Client if masked => return Err(Offence::Masked),
        _ => {}
    }
    let length = second & !MASK;
    if opcode.is_control() && length >= LENGTH_16 {
        return Err(Offence::OversizedControl);
    }

    let (payload_bytes, key_at) = match length {
        LENGTH_16 => {
            let Some(&length) = bytes[2..].first_chunk() else { return Ok(None) };
            let length = u16::from_be_bytes(length);
            if length < u16::from(LENGTH_16) {
                return Err(Offence::NotMinimalLength);
            }
            (u64::from(length), 4)
        }
        LENGTH_64 => {
            let length = &bytes[2..];
            if length.first().is_some_and(|high| high & 0x80 != 0) {
                return Err(Offence::LengthTopBit);
            }
            // Six zeros leave 16 bits: too few for this form, whatever they are.
            if length.starts_with(&[0; 6]) {
                return Err(Offence::NotMinimalLength);
            }
            let Some(&length) = length.first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(length), 10)
        }
        length => (u64::from(length), 2),
    };
    let (mask, header_bytes) = if masked {
        let Some(&key) = bytes[key_at..].first_chunk() else { return Ok(None) };
        (Some(key), key_at + 4)
    } else {
        (None, key_at)
    };
    Ok(Some((Header { opcode, fin, compressed, mask, payload_bytes }, header_bytes)))
}

/// Bytes of the header that [`encode`] writes for such a frame.
#[inline]
pub const fn header_bytes(payload_bytes: u64, masked: bool) -> usize {
    let length = match payload_bytes {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    if masked { length + 4 } else { length }
}

/// Writes `header` to the start of `out` and returns its length, [`header_bytes`].
///
/// # Panics
/// When `out` is shorter than that.
#[inline]
pub fn encode(header: &Header, out: &mut [u8]) -> usize {
    debug_assert!(!header.opcode.is_control() || (header.fin && header.payload_bytes <= 125));
    debug_assert!(header.payload_bytes < 1 << 63);
    let first =
        header.opcode as u8 | if header.fin { FIN } else { 0 } | if header.compressed { RSV1 } else { 0 };
    let mask = if header.mask.is_some() { MASK } else { 0 };
    let key_at = match header.payload_bytes {
        length @ 0..=125 => {
            out[..2].copy_from_slice(&[first, mask | length as u8]);
            2
        }
        length @ 126..=0xffff => {
            let [high, low] = (length as u16).to_be_bytes();
            out[..4].copy_from_slice(&[first, mask | LENGTH_16, high, low]);
            4
        }
        length => {
            out[..2].copy_from_slice(&[first, mask | LENGTH_64]);
            out[2..10].copy_from_slice(&length.to_be_bytes());
            10
        }
    };
    match header.mask {
        Some(key) => {
            out[key_at..key_at + 4].copy_from_slice(&key);
            key_at + 4
        }
        None => key_at,
    }
}
