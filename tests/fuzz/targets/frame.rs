//! The frame decoder and the connection above it: the result does not depend on how the bytes are split.
//!
//! Input: options, a script of chunk borders, and the wire, raw or as frames made from it.

use echoring_proto::connection::{Closed, ConnectionConfig};
use echoring_proto::deflate::Direction;
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use echoring_proto::{ProtocolError, Role};

use super::cursor::{Choices, Cursor};
use super::peer::{App, Habits, Peer};
use super::reference::{self, End, Heard, Message, Rules};
use super::{connection, wire};

const MESSAGE_BYTES_MAX: u64 = 1 << 17;

pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let options = cursor.byte();
    let choices = cursor.choices();
    let role = if options & 2 == 0 { Role::Server } else { Role::Client };
    let wire = wire::wire(cursor.rest(), connection::opposite(role), options & 1 == 1);
    for receiver in [Role::Server, Role::Client] {
        for deflate in [None, Some(Direction { context_takeover: false, window_bits: 15 })] {
            check_header(&wire, Rules { deflate, ..Rules::of(receiver) });
        }
    }
    let rules = Rules { max_message: MESSAGE_BYTES_MAX, ..Rules::of(role) };
    let expected = reference::receive(&wire, rules);
    for app in [App::Echo, App::Silent] {
        let habits = Habits { whole: options & 4 != 0, ..Habits::plain(role, app) };
        let chunks = choices.clone().chunks(&wire);
        check_connection(habits, &[&wire], &expected);
        check_connection(habits, &chunks, &expected);
        if wire.len() <= 4_096 {
            check_connection(habits, &wire.chunks(1).collect::<Vec<_>>(), &expected);
        }
    }
}

/// Decodes the header from any number of its first bytes: incomplete, then always the same header. A protocol error is
/// reported at the first byte that shows it.
fn check_header(bytes: &[u8], rules: Rules) {
    let decode = |bytes: &[u8]| frame::decode(bytes, rules.receiver, rules.deflate.is_some());
    let mut settled: Option<Result<Option<(Header, usize)>, ProtocolError>> = None;
    for length in 0..=bytes.len().min(HEADER_BYTES_MAX + 2) {
        let decoded = decode(&bytes[..length]);
        check_against_reference(&bytes[..length], rules, &decoded);
        match &settled {
            Some(settled) => assert_eq!(decoded, *settled, "with {length} bytes"),
            None if decoded == Ok(None) => {}
            None => settled = Some(decoded),
        }
    }
    let Some(Ok(Some((header, header_bytes)))) = settled else { return };
    let mut encoded = [0; HEADER_BYTES_MAX];
    assert_eq!(frame::encode(&header, &mut encoded), header_bytes);
    assert_eq!(encoded[..header_bytes], bytes[..header_bytes], "a header has one form");
    assert_eq!(frame::header_bytes(header.payload_bytes, header.mask.is_some()), header_bytes);
    check_short(bytes, rules.receiver, &header, header_bytes);
}

fn check_against_reference(
    bytes: &[u8],
    rules: Rules,
    decoded: &Result<Option<(Header, usize)>, ProtocolError>,
) {
    let expected = reference::header(bytes, rules).map(|header| {
        header.map(|frame| {
            let opcode = match frame.opcode {
                0 => Opcode::Continuation,
                1 => Opcode::Text,
                2 => Opcode::Binary,
                8 => Opcode::Close,
                9 => Opcode::Ping,
                _ => Opcode::Pong,
            };
            let header = Header {
                opcode,
                fin: frame.fin,
                compressed: frame.compressed,
                mask: (rules.receiver == Role::Server).then_some(frame.key),
                payload_bytes: frame.payload_bytes,
            };
            (header, frame.header_bytes)
        })
    });
    assert_eq!(*decoded, expected, "{bytes:x?}");
}

/// The fast paths accept only the headers that they are for.
fn check_short(bytes: &[u8], receiver: Role, header: &Header, header_bytes: usize) {
    if receiver != Role::Server {
        return;
    }
    let is_short = header.fin
        && !header.compressed
        && matches!(header.opcode, Opcode::Text | Opcode::Binary)
        && header.payload_bytes <= 125;
    let text = header.opcode == Opcode::Text;
    let payload_bytes = header.payload_bytes as usize;
    let key = header.mask.expect("a server requires masks");
    assert_eq!(frame::decode_short_masked(bytes), is_short.then_some((text, payload_bytes, key)));
    let Some(head) = bytes.first_chunk() else { return };
    for length in [payload_bytes, payload_bytes ^ 1, bytes.len() - head.len()] {
        let expected = (is_short && length == payload_bytes).then_some((text, key));
        assert_eq!(frame::decode_single_masked(head, length), expected, "{length} bytes follow");
    }
    if is_short {
        assert_eq!(frame::short_masked_header(text, payload_bytes, key)[..], bytes[..header_bytes]);
    }
}

/// The connection receives the messages of the reference, and an echo returns them.
fn check_connection(habits: Habits, chunks: &[&[u8]], expected: &Heard) {
    let config = ConnectionConfig {
        max_message: MESSAGE_BYTES_MAX,
        pings_per_second_max: u32::MAX,
        ..ConnectionConfig::default()
    };
    let mut peer = Peer::open(habits, config, Choices::default()).expect("memory for one");
    chunks.iter().for_each(|chunk| peer.receive(chunk));
    let end = match expected.end {
        End::Open => None,
        End::Closed => Some(reference::close_code(expected.close.as_deref().unwrap_or_default())),
        End::ProtocolError(offence) => Some(offence.close_code().0),
    };
    let closed = peer.connection.closed().cloned();
    assert_eq!(closed.as_ref().map(|Closed { code, .. }| code.0), end, "{closed:?}");
    if let End::ProtocolError(offence) = expected.end {
        assert_eq!(
            closed.map(|closed| closed.cause),
            Some(echoring_proto::connection::Cause::ProtocolError(offence))
        );
    }
    peer.finish();
    let sent = reference::receive(&peer.sent, Rules::of(connection::opposite(habits.role)));
    assert_eq!(sent.pongs, expected.pings);
    let none: Vec<Message> = Vec::new();
    if habits.app == App::Echo {
        assert_eq!(sent.messages, expected.messages);
    } else {
        assert_eq!((&peer.shown, &peer.pongs), (&expected.messages, &expected.pongs));
        assert_eq!(sent.messages, none);
    }
}
