//! A reference receiver of frames, written after the text of RFC 6455. It reads all bytes at once, field by field, and
//! shares only the names of roles and protocol errors with the tested code.
//!
//! Never: speed, or a rule that is not in the standard.

use echoring_proto::deflate::Direction;
use echoring_proto::{ProtocolError, Role};

use super::inflate::Inflation;

/// The rules for received frames.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub receiver: Role,
    pub max_message: u64,
    /// Number of pings above which they are a flood.
    pub pings_max: usize,
    /// The negotiated compression, if any. RSV1 is then allowed on the first frame of a message.
    pub deflate: Option<Direction>,
}

impl Rules {
    pub fn of(receiver: Role) -> Rules {
        Rules { receiver, max_message: u64::MAX, pings_max: usize::MAX, deflate: None }
    }
}

/// A message, or the received part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub text: bool,
    /// Whether it is compressed, by its first frame. The payload stays compressed until the message is complete.
    pub compressed: bool,
    pub payload: Vec<u8>,
}

/// How reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the end of the bytes, perhaps inside a frame.
    Open,
    /// After a Close frame.
    Closed,
    ProtocolError(ProtocolError),
}

/// The result for the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub messages: Vec<Message>,
    /// The unfinished message.
    pub unfinished: Option<Message>,
    pub pings: Vec<Vec<u8>>,
    pub pongs: Vec<Vec<u8>>,
    /// The payload of the Close frame.
    pub close: Option<Vec<u8>>,
    pub end: End,
    /// Offset of the last frame that was read.
    pub frame_at: usize,
    /// Number of used bytes: all, or up to the end of the Close frame.
    pub used_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub compressed: bool,
    pub opcode: u8,
    pub key: [u8; 4],
    pub payload_bytes: u64,
    pub header_bytes: usize,
}

/// Reads `bytes` to their end or to the end of the connection.
pub fn receive(bytes: &[u8], rules: Rules) -> Heard {
    let mut heard = Heard {
        messages: Vec::new(),
        unfinished: None,
        pings: Vec::new(),
        pongs: Vec::new(),
        close: None,
        end: End::Open,
        frame_at: 0,
        used_bytes: bytes.len(),
    };
    let mut inflation = rules.deflate.map(Inflation::new);
    let mut at = 0;
    while heard.end == End::Open {
        heard.frame_at = at;
        match receive_frame(&bytes[at..], rules, inflation.as_mut(), &mut heard) {
            Ok(Some(frame_bytes)) => at += frame_bytes,
            Ok(None) => break,
            Err(offence) => heard.end = End::ProtocolError(offence),
        }
    }
    if heard.end == End::Closed {
        heard.used_bytes = at;
    }
    heard
}

/// Reads one frame; `None` if it is incomplete.
fn receive_frame(
    bytes: &[u8],
    rules: Rules,
    inflation: Option<&mut Inflation>,
    heard: &mut Heard,
) -> Result<Option<usize>, ProtocolError> {
    let Some(frame) = header(bytes, rules)? else {
        // The length is checked before the masking key arrives.
        if let Some(frame) = announced(bytes, rules)?
            && frame.opcode < 8
        {
            check_place(&frame, heard.unfinished.is_some())?;
            let (before, compressed) = match &heard.unfinished {
                Some(message) => (message.payload.len(), message.compressed),
                None => (0, frame.compressed),
            };
            check_size(&frame, before, compressed, rules)?;
        }
        return Ok(None);
    };
    if frame.opcode < 8 {
        return receive_data(&frame, &bytes[frame.header_bytes..], rules, inflation, heard);
    }
    let end = frame.header_bytes + frame.payload_bytes as usize;
    let Some(payload) = bytes.get(frame.header_bytes..end) else { return Ok(None) };
    let payload = unmasked(payload, frame.key);
    match frame.opcode {
        8 => {
            check_close(&payload)?;
            heard.close = Some(payload);
            heard.end = End::Closed;
        }
        9 => {
            if heard.pings.len() == rules.pings_max {
                return Err(ProtocolError::PingFlood);
            }
            heard.pings.push(payload);
        }
        _ => heard.pongs.push(payload),
    }
    Ok(Some(end))
}

/// RFC 6455, 5.4: a continuation needs an unfinished message, and no other message may begin meanwhile.
fn check_place(frame: &Frame, is_open: bool) -> Result<(), ProtocolError> {
    match (frame.opcode, is_open) {
        (0, false) => Err(ProtocolError::StrayContinuation),
        (1 | 2, true) => Err(ProtocolError::InterleavedData),
        _ => Ok(()),
    }
}

fn check_size(frame: &Frame, before: usize, compressed: bool, rules: Rules) -> Result<(), ProtocolError> {
    let bytes_max = rules.max_message;
    // Incompressible data grows a little.
    let bytes_max = if compressed { bytes_max.saturating_add(bytes_max / 8 + 1024) } else { bytes_max };
    let total = (before as u64).saturating_add(frame.payload_bytes);
    if total > bytes_max { Err(ProtocolError::MessageTooBig) } else { Ok(()) }
}

fn receive_data(
    frame: &Frame,
    behind: &[u8],
    rules: Rules,
    inflation: Option<&mut Inflation>,
    heard: &mut Heard,
) -> Result<Option<usize>, ProtocolError> {
    check_place(frame, heard.unfinished.is_some())?;
    if heard.unfinished.is_none() {
        let text = frame.opcode == 1;
        heard.unfinished = Some(Message { text, compressed: frame.compressed, payload: Vec::new() });
    }
    let Some(message) = &mut heard.unfinished else { unreachable!("it was begun above") };
    let before = message.payload.len();
    check_size(frame, before, message.compressed, rules)?;
    let here = frame.payload_bytes.min(behind.len() as u64) as usize;
    message.payload.extend(unmasked(&behind[..here], frame.key));
    let whole = here as u64 == frame.payload_bytes;
    if message.text && !message.compressed {
        // A character may span frames; validation starts three bytes before this frame's payload.
        let from = char_start(&message.payload, before.saturating_sub(3));
        match str::from_utf8(&message.payload[from..]) {
            Err(error) if error.error_len().is_some() || (whole && frame.fin) => {
                return Err(ProtocolError::InvalidUtf8);
            }
            _ => {}
        }
    }
    if whole
        && frame.fin
        && let Some(mut message) = heard.unfinished.take()
    {
        if let Some(inflation) = inflation.filter(|_| message.compressed) {
            let bytes_max = usize::try_from(rules.max_message).unwrap_or(usize::MAX);
            message.payload = inflation.inflate(&message.payload, bytes_max)?;
            message.compressed = false;
            if message.text && str::from_utf8(&message.payload).is_err() {
                return Err(ProtocolError::InvalidUtf8);
            }
        }
        heard.messages.push(message);
    }
    Ok(whole.then_some(frame.header_bytes + here))
}

/// The first position from `at` on that is not inside a character. The bytes before `at + 3` are already validated.
fn char_start(text: &[u8], at: usize) -> usize {
    if at == 0 {
        return 0;
    }
    (at..text.len()).find(|&at| text[at] & 0xc0 != 0x80).unwrap_or(text.len()).min(at + 3)
}

/// RFC 6455, 5.2, field by field.
pub fn header(bytes: &[u8], rules: Rules) -> Result<Option<Frame>, ProtocolError> {
    let Some(frame) = announced(bytes, rules)? else { return Ok(None) };
    if rules.receiver == Role::Client {
        return Ok(Some(frame));
    }
    let Some(key) = bytes.get(frame.header_bytes..frame.header_bytes + 4) else { return Ok(None) };
    let key = key.try_into().expect("four bytes");
    Ok(Some(Frame { key, header_bytes: frame.header_bytes + 4, ..frame }))
}

/// A header up to its length, without the masking key that may follow.
fn announced(bytes: &[u8], rules: Rules) -> Result<Option<Frame>, ProtocolError> {
    let bit = |at: usize, bit: u8| bytes[at] >> (7 - bit) & 1 == 1;
    if bytes.is_empty() {
        return Ok(None);
    }
    let opcode = bytes[0] % 16;
    let is_control = opcode >= 8;
    let (fin, rsv1) = (bit(0, 0), bit(0, 1));
    if bit(0, 2) || bit(0, 3) || (rsv1 && rules.deflate.is_none()) {
        return Err(ProtocolError::ReservedBits);
    }
    if !matches!(opcode, 0..=2 | 8..=10) {
        return Err(ProtocolError::UnknownOpcode);
    }
    if rsv1 && !matches!(opcode, 1 | 2) {
        return Err(ProtocolError::ReservedBits);
    }
    if is_control && !fin {
        return Err(ProtocolError::FragmentedControl);
    }
    if bytes.len() < 2 {
        return Ok(None);
    }
    let masked = bit(1, 0);
    if masked != (rules.receiver == Role::Server) {
        return Err(if masked { ProtocolError::Masked } else { ProtocolError::NotMasked });
    }
    let length = bytes[1] % 128;
    if is_control && length > 125 {
        return Err(ProtocolError::OversizedControl);
    }
    let length_bytes = [0, 2, 8][usize::from(length.saturating_sub(125))];
    let extended = &bytes[2..bytes.len().min(2 + length_bytes)];
    if length == 127 && extended.first().is_some_and(|byte| *byte > 127) {
        return Err(ProtocolError::LengthTopBit);
    }
    if length == 127 && extended.len() >= 6 && extended[..6] == [0; 6] {
        return Err(ProtocolError::NotMinimalLength);
    }
    if extended.len() < length_bytes {
        return Ok(None);
    }
    let wide = extended.iter().fold(0, |value, byte| value * 256 + u64::from(*byte));
    if length == 126 && wide < 126 {
        return Err(ProtocolError::NotMinimalLength);
    }
    let payload_bytes = if length_bytes == 0 { u64::from(length) } else { wide };
    let header_bytes = 2 + length_bytes;
    Ok(Some(Frame { fin, compressed: rsv1, opcode, key: [0; 4], payload_bytes, header_bytes }))
}

/// RFC 6455, 5.3.
pub fn unmasked(bytes: &[u8], key: [u8; 4]) -> Vec<u8> {
    bytes.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect()
}

/// RFC 6455, 5.5.1 and 7.4, with the codes registered since.
fn check_close(payload: &[u8]) -> Result<(), ProtocolError> {
    if payload.is_empty() {
        return Ok(());
    }
    if payload.len() == 1 {
        return Err(ProtocolError::BadClosePayload);
    }
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(ProtocolError::BadCloseCode);
    }
    str::from_utf8(&payload[2..]).map_err(|_| ProtocolError::BadCloseReason)?;
    Ok(())
}

/// The code of a Close frame, or 1005 if it has none.
pub fn close_code(payload: &[u8]) -> u16 {
    payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))
}
