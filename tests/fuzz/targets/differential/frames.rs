//! Frames after a handshake.
//!
//! tungstenite checks a frame when it is complete, we check each field as it arrives. So if we refuse an incomplete frame,
//! tungstenite gets it completed with zeros, which do not correct any error.

use echoring_proto::connection::{Cause, ConnectionConfig};
use echoring_proto::{ProtocolError, Role};
use tungstenite::error::ProtocolError as TheirProtocolError;
use tungstenite::protocol::{Role as TheirRole, WebSocketConfig};
use tungstenite::{Error, Message as TheirMessage, WebSocket};

use super::super::connection::opposite;
use super::super::cursor::Choices;
use super::super::peer::{App, Habits, Peer};
use super::super::reference::{self, Message, Rules};
use super::Transport;

const MESSAGE_BYTES_MAX: usize = 65_536;

/// The result of one side.
#[derive(Debug, PartialEq)]
struct Heard {
    messages: Vec<Message>,
    pings: Vec<Vec<u8>>,
    pongs: Vec<Vec<u8>>,
}

/// How the connection continues.
#[derive(Debug)]
enum End<R> {
    /// More may come.
    Open,
    /// The peer closed; this code answers it.
    Closed(u16),
    Refused(R),
}

/// Protocol errors that tungstenite accepts, and frames that only we accept.
struct Difference {
    /// The section that decides the difference, and the decision.
    #[expect(dead_code, reason = "for who reads the table")]
    why: &'static str,
    shows: fn(&Frame<'_>, &End<ProtocolError>, &End<Error>) -> bool,
}

const DIFFERENCES: [Difference; 3] = [
    Difference {
        why: "RFC 6455, 5.2: the minimal number of bytes MUST be used for a length; tungstenite takes any, and refuses \
              such a frame only for what else is wrong with it. In a control frame a longer form is at once one \
              byte too many (5.5)",
        shows: |frame, ours, theirs| {
            let offences = frame.offences();
            matches!(ours, End::Refused(ProtocolError::NotMinimalLength | ProtocolError::OversizedControl))
                && offences.contains(&ProtocolError::NotMinimalLength)
                && match theirs {
                    End::Refused(error) => offences.iter().any(|offence| is_same(*offence, error)),
                    End::Open | End::Closed(_) => true,
                }
        },
    },
    Difference {
        why: "RFC 6455, 7.4.1 and 7.4.2: 1004 to 1006, 1015 and what is not registered MUST NOT be sent. We refuse such \
              a Close frame with 1002 as an offence, tungstenite takes it for a close and answers it with 1002",
        shows: |_, ours, theirs| {
            matches!(ours, End::Refused(ProtocolError::BadCloseCode)) && matches!(theirs, End::Closed(1002))
        },
    },
    Difference {
        why: "RFC 6455, 7.4.2: 1014 is registered with IANA, so it may be sent; tungstenite does not know it and answers \
              1002",
        shows: |_, ours, theirs| matches!((ours, theirs), (End::Closed(1014), End::Closed(1002))),
    },
];

/// The last frame, completed.
struct Frame<'a> {
    bytes: &'a [u8],
    /// Whether a message was unfinished, and whether it is text.
    inside: Option<bool>,
    receiver: Role,
    /// Earlier bytes of that message.
    before_bytes: usize,
}

pub fn check(wire: &[u8], role: Role, whole: bool, mut choices: Choices<'_>) {
    let rules = Rules { max_message: MESSAGE_BYTES_MAX as u64, ..Rules::of(role) };
    let read = reference::receive(wire, rules);
    let (ours, our_end) = hear_ours(wire, role, whole, &mut choices);
    let completed = complete(wire, read.frame_at);
    let their_wire = if matches!(our_end, End::Refused(_)) { &completed[..] } else { wire };
    let (theirs, their_end) = hear_theirs(their_wire, role);
    let before = reference::receive(&wire[..read.frame_at], rules).unfinished;
    let frame = Frame {
        bytes: &completed[read.frame_at..],
        inside: before.as_ref().map(|message| message.text),
        receiver: role,
        before_bytes: before.map_or(0, |message| message.payload.len()),
    };
    if DIFFERENCES.iter().any(|difference| (difference.shows)(&frame, &our_end, &their_end)) {
        assert!(theirs.messages.starts_with(&ours.messages) && theirs.pings.starts_with(&ours.pings));
        return;
    }
    assert_eq!(ours, theirs, "{our_end:?} and {their_end:?}");
    match (&our_end, &their_end) {
        (End::Open, End::Open) => {}
        (End::Closed(code), End::Closed(other)) => assert_eq!(code, other, "the code that answers"),
        (End::Refused(offence), End::Refused(error)) => {
            // A frame may have several errors, and each side checks them in its own order.
            let offences = frame.offences();
            assert!(offences.contains(offence), "{offence:?} is not among {offences:?}");
            assert!(
                offences.iter().any(|offence| is_same(*offence, error)),
                "{error:?} is not what {offences:?} are called"
            );
        }
        _ => panic!("{our_end:?}, but {their_end:?}"),
    }
}

fn hear_ours(wire: &[u8], role: Role, whole: bool, choices: &mut Choices<'_>) -> (Heard, End<ProtocolError>) {
    let config = ConnectionConfig {
        max_message: MESSAGE_BYTES_MAX as u64,
        pings_per_second_max: u32::MAX,
        ..ConnectionConfig::default()
    };
    let habits = Habits { whole, ..Habits::plain(role, App::Silent) };
    let mut peer = Peer::open(habits, config, Choices::default()).expect("memory for one");
    choices.chunks(wire).into_iter().for_each(|chunk| peer.receive(chunk));
    let closed = peer.connection.closed().cloned();
    peer.finish();
    let sent = reference::receive(&peer.sent, Rules::of(opposite(role)));
    let heard = Heard {
        messages: std::mem::take(&mut peer.shown),
        pings: sent.pongs,
        pongs: std::mem::take(&mut peer.pongs),
    };
    let end = match closed.map(|closed| closed.cause) {
        None => End::Open,
        Some(Cause::Peer) => End::Closed(reference::close_code(&sent.close.expect("an answer"))),
        Some(Cause::ProtocolError(offence)) => End::Refused(offence),
        Some(cause) => panic!("ended because of {cause:?}"),
    };
    (heard, end)
}

fn hear_theirs(wire: &[u8], role: Role) -> (Heard, End<Error>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .read_buffer_size(4_096);
    let their_role = match role {
        Role::Server => TheirRole::Server,
        Role::Client => TheirRole::Client,
    };
    let mut socket = WebSocket::from_raw_socket(Transport::of(wire), their_role, Some(config));
    let mut heard = Heard { messages: Vec::new(), pings: Vec::new(), pongs: Vec::new() };
    let end = loop {
        match socket.read() {
            Ok(TheirMessage::Text(text)) => heard.messages.push(message(true, text.as_bytes())),
            Ok(TheirMessage::Binary(bytes)) => heard.messages.push(message(false, &bytes)),
            Ok(TheirMessage::Ping(bytes)) => heard.pings.push(bytes.to_vec()),
            Ok(TheirMessage::Pong(bytes)) => heard.pongs.push(bytes.to_vec()),
            Ok(TheirMessage::Close(_)) => {
                // The next call only writes the answer.
                let _ = socket.flush();
                break End::Closed(their_answer(&socket.get_ref().written, role));
            }
            Ok(TheirMessage::Frame(_)) => unreachable!("reading gives no raw frames"),
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => break End::Open,
            Err(error) => break End::Refused(error),
        }
    };
    (heard, end)
}

fn message(text: bool, payload: &[u8]) -> Message {
    Message { text, compressed: false, payload: payload.to_vec() }
}

/// The code of the Close frame among the written bytes.
fn their_answer(written: &[u8], role: Role) -> u16 {
    let sent = reference::receive(written, Rules::of(opposite(role)));
    reference::close_code(&sent.close.expect("a Close frame is answered"))
}

/// `wire` up to the end of the frame at `at`, which is completed: its header, and its payload unless that exceeds all limits.
fn complete(wire: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = wire.to_vec();
    let present = bytes.len() - at;
    bytes.resize(at + present.max(14), 0);
    let (payload_bytes, header_bytes) = payload_bytes(&bytes[at..]).expect("14 bytes are a header");
    let frame_bytes = if payload_bytes <= MESSAGE_BYTES_MAX as u64 {
        header_bytes + payload_bytes as usize
    } else {
        header_bytes
    };
    bytes.resize(at + frame_bytes, 0);
    bytes
}

/// The payload length that a header declares, and the length of the header, whatever else is wrong with it.
fn payload_bytes(bytes: &[u8]) -> Option<(u64, usize)> {
    let second = *bytes.get(1)?;
    let (length, key_at) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    Some((length, if second & 0x80 != 0 { key_at + 4 } else { key_at }))
}

impl Frame<'_> {
    /// All errors of the frame, whichever is reported first.
    fn offences(&self) -> Vec<ProtocolError> {
        let (length, header_bytes) = payload_bytes(self.bytes).expect("it was completed");
        let (first, second) = (self.bytes[0], self.bytes[1]);
        let (opcode, fin, masked) = (first & 0x0f, first & 0x80 != 0, second & 0x80 != 0);
        let is_control = opcode >= 8;
        let starts = matches!(opcode, 1 | 2);
        let beyond = self.before_bytes as u64 + length.min(1 << 40) > MESSAGE_BYTES_MAX as u64;
        let mut offences = Vec::new();
        let mut note = |wrong: bool, offence| {
            if wrong {
                offences.push(offence)
            }
        };
        note(first & 0x70 != 0, ProtocolError::ReservedBits);
        note(!matches!(opcode, 0..=2 | 8..=10), ProtocolError::UnknownOpcode);
        note(is_control && !fin, ProtocolError::FragmentedControl);
        note(is_control && length > 125, ProtocolError::OversizedControl);
        note(is_control && second & 0x7f > 125, ProtocolError::OversizedControl);
        note(second & 0x7f == 127 && length >> 63 == 1, ProtocolError::LengthTopBit);
        note(second & 0x7f == 126 && length < 126, ProtocolError::NotMinimalLength);
        note(second & 0x7f == 127 && length < 1 << 16, ProtocolError::NotMinimalLength);
        note(self.receiver == Role::Server && !masked, ProtocolError::NotMasked);
        note(self.receiver == Role::Client && masked, ProtocolError::Masked);
        note(opcode == 0 && self.inside.is_none(), ProtocolError::StrayContinuation);
        note(starts && self.inside.is_some(), ProtocolError::InterleavedData);
        note(beyond, ProtocolError::MessageTooBig);
        let text = opcode == 1 || (opcode == 0 && self.inside == Some(true));
        // The reference has checked the UTF-8; only text can have this error, not binary data.
        note(text, ProtocolError::InvalidUtf8);
        if opcode == 8 {
            let payload = &self.bytes[header_bytes..];
            note(payload.len() == 1, ProtocolError::BadClosePayload);
            note(payload.len() > 1, ProtocolError::BadCloseCode);
            note(payload.len() > 2, ProtocolError::BadCloseReason);
        }
        offences
    }
}

/// Whether `error` is tungstenite's error for `offence`.
fn is_same(offence: ProtocolError, error: &Error) -> bool {
    use TheirProtocolError as P;
    match (offence, error) {
        (ProtocolError::ReservedBits, Error::Protocol(P::NonZeroReservedBits))
        | (ProtocolError::FragmentedControl, Error::Protocol(P::FragmentedControlFrame))
        | (ProtocolError::OversizedControl, Error::Protocol(P::ControlFrameTooBig))
        | (ProtocolError::NotMasked, Error::Protocol(P::UnmaskedFrameFromClient))
        | (ProtocolError::Masked, Error::Protocol(P::MaskedFrameFromServer))
        | (ProtocolError::StrayContinuation, Error::Protocol(P::UnexpectedContinueFrame))
        | (ProtocolError::InterleavedData, Error::Protocol(P::ExpectedFragment(_)))
        | (ProtocolError::BadClosePayload, Error::Protocol(P::InvalidCloseSequence))
        | (ProtocolError::InvalidUtf8 | ProtocolError::BadCloseReason, Error::Utf8(_)) => true,
        (ProtocolError::UnknownOpcode, Error::Protocol(P::InvalidOpcode(_))) => true,
        // tungstenite has one limit for all lengths and checks it before the type of the frame.
        (
            ProtocolError::MessageTooBig | ProtocolError::LengthTopBit | ProtocolError::OversizedControl,
            Error::Capacity(_),
        ) => true,
        _ => false,
    }
}
