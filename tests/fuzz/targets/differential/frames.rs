//! Frames behind a handshake.
//!
//! tungstenite looks at a frame when all of it is there, we at each field when it comes. So where we refuse a frame
//! that is not complete, it gets the frame completed with zeros: nothing that was wrong becomes right by them.

use echoring::connection::{Cause, Config};
use echoring::protocol::{Offence, Role};
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{Role as TheirRole, WebSocketConfig};
use tungstenite::{Error, Message as TheirMessage, WebSocket};

use super::super::connection::opposite;
use super::super::cursor::Choices;
use super::super::peer::{App, Habits, Peer};
use super::super::reference::{self, Message, Rules};
use super::Transport;

const MESSAGE_BYTES_MAX: usize = 65_536;

/// What one side made of the bytes.
#[derive(Debug, PartialEq)]
struct Heard {
    messages: Vec<Message>,
    pings: Vec<Vec<u8>>,
    pongs: Vec<Vec<u8>>,
}

/// How it went on.
#[derive(Debug)]
enum End<R> {
    /// More may come.
    Open,
    /// The peer closed; this code answers it.
    Closed(u16),
    Refused(R),
}

/// Offences that tungstenite takes, and those that we take and it does not.
struct Difference {
    /// The section that decides it, and how.
    #[expect(dead_code, reason = "for who reads the table")]
    why: &'static str,
    shows: fn(&Frame<'_>, &End<Offence>, &End<Error>) -> bool,
}

const DIFFERENCES: [Difference; 3] = [
    Difference {
        why: "RFC 6455, 5.2: the minimal number of bytes MUST be used for a length; tungstenite takes any, and refuses \
              such a frame only for what else is wrong with it. In a control frame a longer form is at once one \
              byte too many (5.5)",
        shows: |frame, ours, theirs| {
            let offences = frame.offences();
            matches!(ours, End::Refused(Offence::NotMinimalLength | Offence::OversizedControl))
                && offences.contains(&Offence::NotMinimalLength)
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
            matches!(ours, End::Refused(Offence::BadCloseCode)) && matches!(theirs, End::Closed(1002))
        },
    },
    Difference {
        why: "RFC 6455, 7.4.2: 1014 is registered with IANA, so it may be sent; tungstenite does not know it and answers \
              1002",
        shows: |_, ours, theirs| matches!((ours, theirs), (End::Closed(1014), End::Closed(1002))),
    },
];

/// The frame at which it ended, completed.
struct Frame<'a> {
    bytes: &'a [u8],
    /// Whether a message was under way, and whether of text.
    inside: Option<bool>,
    receiver: Role,
    /// Bytes of that message before.
    before_bytes: usize,
}

pub fn check(wire: &[u8], role: Role, whole: bool, mut choices: Choices<'_>) {
    let rules = Rules { message_bytes_max: MESSAGE_BYTES_MAX as u64, ..Rules::of(role) };
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
            // A frame may be wrong in several ways, and each side has its own order to look for them.
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

fn hear_ours(wire: &[u8], role: Role, whole: bool, choices: &mut Choices<'_>) -> (Heard, End<Offence>) {
    let config = Config {
        message_bytes_max: MESSAGE_BYTES_MAX as u64,
        pings_per_second_max: u32::MAX,
        ..Config::default()
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
        Some(Cause::Offence(offence)) => End::Refused(offence),
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
                // The answer is written by the next call, which has nothing else to do.
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

/// The code of the Close frame among what they wrote.
fn their_answer(written: &[u8], role: Role) -> u16 {
    let sent = reference::receive(written, Rules::of(opposite(role)));
    reference::close_code(&sent.close.expect("a Close frame is answered"))
}

/// `wire` up to the end of the frame at `at`, which is made whole: its header, and its payload unless that is
/// beyond all limits.
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

/// What a header says its payload's length is, and its own; whatever else is wrong with it.
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
    /// All that is wrong with it, whatever is noticed first.
    fn offences(&self) -> Vec<Offence> {
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
        note(first & 0x70 != 0, Offence::ReservedBits);
        note(!matches!(opcode, 0..=2 | 8..=10), Offence::UnknownOpcode);
        note(is_control && !fin, Offence::FragmentedControl);
        note(is_control && length > 125, Offence::OversizedControl);
        note(is_control && second & 0x7f > 125, Offence::OversizedControl);
        note(second & 0x7f == 127 && length >> 63 == 1, Offence::LengthTopBit);
        note(second & 0x7f == 126 && length < 126, Offence::NotMinimalLength);
        note(second & 0x7f == 127 && length < 1 << 16, Offence::NotMinimalLength);
        note(self.receiver == Role::Server && !masked, Offence::NotMasked);
        note(self.receiver == Role::Client && masked, Offence::Masked);
        note(opcode == 0 && self.inside.is_none(), Offence::StrayContinuation);
        note(starts && self.inside.is_some(), Offence::InterleavedData);
        note(beyond, Offence::MessageTooBig);
        let text = opcode == 1 || (opcode == 0 && self.inside == Some(true));
        // Whether it is none, the reference found out; what is called so is no data but text.
        note(text, Offence::InvalidUtf8);
        if opcode == 8 {
            let payload = &self.bytes[header_bytes..];
            note(payload.len() == 1, Offence::BadClosePayload);
            note(payload.len() > 1, Offence::BadCloseCode);
            note(payload.len() > 2, Offence::BadCloseReason);
        }
        offences
    }
}

/// Whether `error` is tungstenite's name for `offence`.
fn is_same(offence: Offence, error: &Error) -> bool {
    use ProtocolError as P;
    match (offence, error) {
        (Offence::ReservedBits, Error::Protocol(P::NonZeroReservedBits))
        | (Offence::FragmentedControl, Error::Protocol(P::FragmentedControlFrame))
        | (Offence::OversizedControl, Error::Protocol(P::ControlFrameTooBig))
        | (Offence::NotMasked, Error::Protocol(P::UnmaskedFrameFromClient))
        | (Offence::Masked, Error::Protocol(P::MaskedFrameFromServer))
        | (Offence::StrayContinuation, Error::Protocol(P::UnexpectedContinueFrame))
        | (Offence::InterleavedData, Error::Protocol(P::ExpectedFragment(_)))
        | (Offence::BadClosePayload, Error::Protocol(P::InvalidCloseSequence))
        | (Offence::InvalidUtf8 | Offence::BadCloseReason, Error::Utf8(_)) => true,
        (Offence::UnknownOpcode, Error::Protocol(P::InvalidOpcode(_))) => true,
        // It has one limit for all lengths, reached before it looks at what the frame is.
        (Offence::MessageTooBig | Offence::LengthTopBit | Offence::OversizedControl, Error::Capacity(_)) => {
            true
        }
        _ => false,
    }
}
