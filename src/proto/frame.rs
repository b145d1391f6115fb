//! Encoding and decoding of the frame header (RFC 6455, section 5.2).
//!
//! ```text
//!  0               1               2 .. 9            then
//! |F|RRR|opcode   |M|length 7      |16 or 64 bit     |4 bytes of masking key
//! ```
//!
//! Never: payloads, the state of messages, or limits on messages. `connection` handles those.

#![forbid(unsafe_code)]

use super::{ProtocolError, Role};

/// The longest header: two bytes, a 64-bit length and a masking key.
pub const HEADER_BYTES_MAX: usize = 14;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const OPCODE: u8 = 0x0f;
const MASK: u8 = 0x80;
/// The 7-bit length that precedes a 16-bit length.
const LENGTH_16: u8 = 126;
/// The 7-bit length that precedes a 64-bit length.
const LENGTH_64: u8 = 127;

/// The opcode of a frame (RFC 6455, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of the current message.
    Continuation = 0,
    /// The first or only frame of a text message.
    Text = 1,
    /// The first or only frame of a binary message.
    Binary = 2,
    /// The peer closes the connection.
    Close = 8,
    /// The peer requests a pong with the same payload.
    Ping = 9,
    /// The response to a ping, or an unsolicited heartbeat.
    Pong = 10,
}

impl Opcode {
    /// Whether the opcode is close, ping or pong. Control frames have at most 125 bytes of payload, are never
    /// fragmented, and may arrive between fragments.
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }

    pub(crate) const fn from_bits(bits: u8) -> Option<Opcode> {
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

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The opcode.
    pub opcode: Opcode,
    /// FIN: the final fragment of its message.
    pub fin: bool,
    /// RSV1: the message is compressed (RFC 7692, section 6). Set only on the first frame of a message.
    pub compressed: bool,
    /// The masking key. Only clients mask their frames.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload after the header, below 2^63.
    pub payload_bytes: u64,
}

impl Header {
    /// The header of an uncompressed frame.
    #[inline]
    pub const fn new(opcode: Opcode, fin: bool, mask: Option<[u8; 4]>, payload_bytes: usize) -> Header {
        Header { opcode, fin, compressed: false, mask, payload_bytes: payload_bytes as u64 }
    }
}

/// Decodes the header at the start of `bytes` and returns it with its length. `None` when more bytes are needed.
///
/// `receiver` is the role of the endpoint that received them: a server requires masked frames, a client rejects them.
/// `allow_rsv1` is whether compression was negotiated.
///
/// # Errors
/// The first protocol error, as soon as the bytes that prove it are present, even if the header is incomplete.
#[inline]
pub fn decode(
    bytes: &[u8],
    receiver: Role,
    allow_rsv1: bool,
) -> Result<Option<(Header, usize)>, ProtocolError> {
    // Most messages are unfragmented and have at most 125 bytes: two comparisons identify them. Messages of up to
    // 64 KiB come next.
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
            if let Some(&[first, second, high, low, k0, k1, k2, k3]) = bytes.first_chunk()
                && first.wrapping_sub(TEXT) < 2
                && second == MASK | LENGTH_16
                && let payload_bytes = u16::from_be_bytes([high, low])
                && payload_bytes >= u16::from(LENGTH_16)
            {
                let header = Header {
                    opcode: opcode(first),
                    fin: true,
                    compressed: false,
                    mask: Some([k0, k1, k2, k3]),
                    payload_bytes: u64::from(payload_bytes),
                };
                return Ok(Some((header, 8)));
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

/// Bytes of a masked header with a 7-bit length.
pub const SHORT_MASKED_HEADER_BYTES: usize = 6;
/// Bytes of an unmasked header with a 7-bit length.
pub const SHORT_HEADER_BYTES: usize = 2;

/// Decodes the header of a masked, unfragmented data frame of at most 125 bytes. Returns whether it is text, the
/// length of the payload, and the key. `None` for every other header, complete or not.
#[inline(always)]
pub fn decode_short_masked(bytes: &[u8]) -> Option<(bool, usize, [u8; 4])> {
    const TEXT: u8 = FIN | Opcode::Text as u8;
    let &[first, second, k0, k1, k2, k3] = bytes.first_chunk()?;
    let (not_text, length) = (first.wrapping_sub(TEXT), second.wrapping_sub(MASK));
    (not_text < 2 && length < LENGTH_16).then_some((not_text == 0, usize::from(length), [k0, k1, k2, k3]))
}

/// Decodes the header of a masked, unfragmented data frame of exactly `payload_bytes` bytes, at most 125. Returns
/// whether it is text, and the key. `None` for every other header. The unmasked frame has the same first byte.
#[inline(always)]
pub fn decode_single_masked(
    head: &[u8; SHORT_MASKED_HEADER_BYTES],
    payload_bytes: usize,
) -> Option<(bool, [u8; 4])> {
    const TEXT: u8 = FIN | Opcode::Text as u8;
    let &[first, second, k0, k1, k2, k3] = head;
    let length = usize::from(second ^ MASK);
    let (not_text, fits) = (first.wrapping_sub(TEXT), length == payload_bytes && length < LENGTH_16.into());
    (not_text < 2 && fits).then_some((not_text == 0, [k0, k1, k2, k3]))
}

/// The header that [`decode_short_masked`] decodes to these values.
pub fn short_masked_header(
    text: bool,
    payload_bytes: usize,
    key: [u8; 4],
) -> [u8; SHORT_MASKED_HEADER_BYTES] {
    let [first, length] = short_header(text, payload_bytes);
    [first, MASK | length, key[0], key[1], key[2], key[3]]
}

/// The header of an unmasked, unfragmented data frame of at most 125 bytes.
#[inline(always)]
pub const fn short_header(text: bool, payload_bytes: usize) -> [u8; SHORT_HEADER_BYTES] {
    let opcode = if text { Opcode::Text } else { Opcode::Binary };
    [FIN | opcode as u8, payload_bytes as u8]
}

#[inline(never)]
fn decode_any(
    bytes: &[u8],
    receiver: Role,
    allow_rsv1: bool,
) -> Result<Option<(Header, usize)>, ProtocolError> {
    let Some((header, key_at)) = decode_announced(bytes, receiver, allow_rsv1)? else { return Ok(None) };
    if receiver == Role::Client {
        return Ok(Some((header, key_at)));
    }
    let Some(&key) = bytes[key_at..].first_chunk() else { return Ok(None) };
    Ok(Some((Header { mask: Some(key), ..header }, key_at + 4)))
}

/// Like [`decode`], but without the masking key, which may not have arrived yet. Returns the header as soon as the
/// length is present, and the position of the key in place of the length of the header.
///
/// # Errors
/// As [`decode`].
pub fn decode_announced(
    bytes: &[u8],
    receiver: Role,
    allow_rsv1: bool,
) -> Result<Option<(Header, usize)>, ProtocolError> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let opcode = Opcode::from_bits(first & OPCODE);
    let fin = first & FIN != 0;
    let compressed = first & RSV1 != 0;
    if first & RSV2_RSV3 != 0 || (compressed && !allow_rsv1) {
        return Err(ProtocolError::ReservedBits);
    }
    let opcode = opcode.ok_or(ProtocolError::UnknownOpcode)?;
    // RFC 7692, 6: RSV1 is set only on the first frame of a compressed message.
    if compressed && (opcode.is_control() || opcode == Opcode::Continuation) {
        return Err(ProtocolError::ReservedBits);
    }
    if opcode.is_control() && !fin {
        return Err(ProtocolError::FragmentedControl);
    }

    let Some(&second) = bytes.get(1) else { return Ok(None) };
    let masked = second & MASK != 0;
    match receiver {
        Role::Server if !masked => return Err(ProtocolError::NotMasked),
        Role::Client if masked => return Err(ProtocolError::Masked),
        _ => {}
    }
    let length = second & !MASK;
    if opcode.is_control() && length >= LENGTH_16 {
        return Err(ProtocolError::OversizedControl);
    }

    let (payload_bytes, key_at) = match length {
        LENGTH_16 => {
            let Some(&length) = bytes[2..].first_chunk() else { return Ok(None) };
            let length = u16::from_be_bytes(length);
            if length < u16::from(LENGTH_16) {
                return Err(ProtocolError::NotMinimalLength);
            }
            (u64::from(length), 4)
        }
        LENGTH_64 => {
            let length = &bytes[2..];
            if length.first().is_some_and(|high| high & 0x80 != 0) {
                return Err(ProtocolError::LengthTopBit);
            }
            // Six zero bytes leave a value below 2^16, which has a shorter encoding.
            if length.starts_with(&[0; 6]) {
                return Err(ProtocolError::NotMinimalLength);
            }
            let Some(&length) = length.first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(length), 10)
        }
        length => (u64::from(length), 2),
    };
    Ok(Some((Header { opcode, fin, compressed, mask: None, payload_bytes }, key_at)))
}

/// Length of the header that [`encode`] writes for such a frame, in bytes.
#[inline]
pub const fn header_bytes(payload_bytes: u64, masked: bool) -> usize {
    let length = match payload_bytes {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    if masked { length + 4 } else { length }
}

/// The header as two bytes, if it has only two: most headers of servers.
#[inline]
pub(crate) fn encode_short(header: &Header) -> Option<[u8; SHORT_HEADER_BYTES]> {
    let is_short = header.mask.is_none() && header.payload_bytes < u64::from(LENGTH_16);
    is_short.then(|| [first_byte(header), header.payload_bytes as u8])
}

/// Writes `header` to the start of `out` and returns its length, as [`header_bytes`].
///
/// # Panics
/// When `out` is shorter than that.
#[inline]
pub fn encode(header: &Header, out: &mut [u8]) -> usize {
    debug_assert!(!header.opcode.is_control() || (header.fin && header.payload_bytes <= 125));
    debug_assert!(header.payload_bytes < 1 << 63);
    if let Some(short) = encode_short(header) {
        out[..SHORT_HEADER_BYTES].copy_from_slice(&short);
        return SHORT_HEADER_BYTES;
    }
    encode_any(header, out)
}

#[inline]
fn first_byte(header: &Header) -> u8 {
    header.opcode as u8 | if header.fin { FIN } else { 0 } | if header.compressed { RSV1 } else { 0 }
}

#[inline(never)]
fn encode_any(header: &Header, out: &mut [u8]) -> usize {
    let first = first_byte(header);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_are_reported_as_soon_as_their_bytes_are_present() {
        use ProtocolError::*;
        use Role::*;
        let cases: [(&[u8], Role, bool, ProtocolError); 24] = [
            (&[0xc1], Server, false, ReservedBits),
            (&[0xa1], Server, false, ReservedBits),
            (&[0x91], Client, true, ReservedBits),
            (&[0xf1], Server, true, ReservedBits),
            (&[0xc0], Server, true, ReservedBits),
            (&[0xc8], Server, true, ReservedBits),
            (&[0xc9], Client, true, ReservedBits),
            (&[0x83], Server, false, UnknownOpcode),
            (&[0x07], Server, false, UnknownOpcode),
            (&[0x8b], Client, false, UnknownOpcode),
            (&[0x0f], Client, false, UnknownOpcode),
            (&[0x08], Server, false, FragmentedControl),
            (&[0x09], Client, false, FragmentedControl),
            (&[0x0a], Server, false, FragmentedControl),
            (&[0x81, 0x05], Server, false, NotMasked),
            (&[0x81, 0x85], Client, false, Masked),
            (&[0x88, 0xfe], Server, false, OversizedControl),
            (&[0x89, 0x7f], Client, false, OversizedControl),
            (&[0x82, 0xfe, 0, 125], Server, false, NotMinimalLength),
            (&[0x82, 0x7e, 0, 0], Client, false, NotMinimalLength),
            (&[0x82, 0xff, 0, 0, 0, 0, 0, 0], Server, false, NotMinimalLength),
            (&[0x82, 0x7f, 0, 0, 0, 0, 0, 0], Client, false, NotMinimalLength),
            (&[0x82, 0xff, 0x80], Server, false, LengthTopBit),
            (&[0x82, 0x7f, 0xff], Client, false, LengthTopBit),
        ];
        for (bytes, receiver, allow_rsv1, error) in cases {
            assert_eq!(decode(bytes, receiver, allow_rsv1), Err(error), "{bytes:x?}");
            let shorter = &bytes[..bytes.len() - 1];
            assert_eq!(decode(shorter, receiver, allow_rsv1), Ok(None), "{shorter:x?}");
            let longer = [bytes, &[0xff; 14]].concat();
            assert_eq!(decode(&longer, receiver, allow_rsv1), Err(error), "{longer:x?}");
        }
    }

    #[test]
    fn the_short_path_and_the_general_one_agree_on_every_pair_of_first_bytes() {
        for first_two in 0..=u16::MAX {
            let mut bytes = [0x11; HEADER_BYTES_MAX];
            bytes[..2].copy_from_slice(&first_two.to_be_bytes());
            for receiver in [Role::Server, Role::Client] {
                for allow_rsv1 in [false, true] {
                    for bytes in [&bytes[..2], &bytes[..5], &bytes[..6], &bytes[..]] {
                        assert_eq!(
                            decode(bytes, receiver, allow_rsv1),
                            decode_any(bytes, receiver, allow_rsv1),
                            "{bytes:x?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_are_minimally_encoded() {
        for (payload_bytes, bytes) in
            [(0, 2), (125, 2), (126, 4), (0xffff, 4), (0x1_0000, 10), ((1 << 63) - 1, 10)]
        {
            for mask in [None, Some([1, 2, 3, 4])] {
                let header =
                    Header { opcode: Opcode::Binary, fin: true, compressed: false, mask, payload_bytes };
                let mut out = [0; HEADER_BYTES_MAX];
                let written = encode(&header, &mut out);
                assert_eq!(written, bytes + if mask.is_some() { 4 } else { 0 });
                let receiver = if mask.is_some() { Role::Server } else { Role::Client };
                assert_eq!(decode(&out, receiver, false), Ok(Some((header, written))));
            }
        }
    }

    fn headers() -> impl Strategy<Value = Header> {
        const OPCODES: [Opcode; 6] =
            [Opcode::Continuation, Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong];
        // Shifting spreads the lengths over all three encodings.
        let lengths = (any::<u64>(), 1u32..64).prop_map(|(bits, by)| bits >> by);
        (prop::sample::select(&OPCODES[..]), any::<bool>(), any::<bool>(), any::<Option<[u8; 4]>>(), lengths)
            .prop_map(|(opcode, fin, compressed, mask, length)| {
                let control = opcode.is_control();
                Header {
                    opcode,
                    fin: fin || control,
                    compressed: compressed && !control && opcode != Opcode::Continuation,
                    mask,
                    payload_bytes: if control { length % 126 } else { length },
                }
            })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_and_no_prefix_does(header in headers()) {
            let mut out = [0; HEADER_BYTES_MAX];
            let bytes = encode(&header, &mut out);
            prop_assert_eq!(bytes, header_bytes(header.payload_bytes, header.mask.is_some()));
            let receiver = if header.mask.is_some() { Role::Server } else { Role::Client };
            for end in 0..bytes {
                prop_assert_eq!(decode(&out[..end], receiver, true), Ok(None));
            }
            let key_at = header_bytes(header.payload_bytes, false);
            for end in 0..bytes {
                let announced = (end >= key_at).then_some((Header { mask: None, ..header }, key_at));
                prop_assert_eq!(decode_announced(&out[..end], receiver, true), Ok(announced));
            }
            prop_assert_eq!(decode(&out[..bytes], receiver, true), Ok(Some((header, bytes))));
            prop_assert_eq!(decode(&out, receiver, true), Ok(Some((header, bytes))));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes: [u8; HEADER_BYTES_MAX], client: bool, rsv1: bool) {
            let receiver = if client { Role::Client } else { Role::Server };
            if let Ok(Some((header, header_bytes))) = decode(&bytes, receiver, rsv1) {
                let mut out = [0; HEADER_BYTES_MAX];
                prop_assert_eq!(encode(&header, &mut out), header_bytes);
                prop_assert_eq!(&out[..header_bytes], &bytes[..header_bytes]);
            }
        }

        #[test]
        fn more_bytes_never_change_a_result(bytes: [u8; HEADER_BYTES_MAX], client: bool, rsv1: bool) {
            let receiver = if client { Role::Client } else { Role::Server };
            let whole = decode(&bytes, receiver, rsv1);
            for end in 0..bytes.len() {
                let result = decode(&bytes[..end], receiver, rsv1);
                prop_assert!(result == Ok(None) || result == whole);
            }
        }
    }
}
