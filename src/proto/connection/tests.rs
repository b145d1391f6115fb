//! Tests of the state machine with explicit input and time.

mod applications;
mod compression;
mod event_stream;
mod handshake;
mod plain;
mod progress;
mod properties;

use super::*;
use crate::buffer::{Budget, Lease};
use crate::frame::{self, HEADER_BYTES_MAX, Header};
use crate::handshake::{BadHandshake, Dial};
use crate::limits::{MILLISECOND, SECOND};
use crate::{CloseCode, ProtocolError, close, deflate, mask};

const KEY: [u8; 4] = [0x12, 0x80, 0x7f, 0xfe];
const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// An echo application on one connection without a transport. Sent bytes are collected.
struct Echo {
    connection: Connection,
    pool: Pool,
    codecs: Codecs,
    config: ConnectionConfig,
    entropy: Entropy,
    /// At even times spans take the fast path first, as in a shard. At odd times all frames are polled.
    now: Nanos,
    /// Bytes that the kernel has accepted.
    sent: Vec<u8>,
    action: Option<TransportAction>,
    whole: bool,
    /// The extensions that the next request offers.
    offer: Option<Vec<u8>>,
    /// The head of the 101 response.
    head: Vec<u8>,
    /// Replies are new, uncompressed messages.
    reply_uncompressed: bool,
    /// The send of a header without its payload is short.
    blocks_behind_header: bool,
    /// Spans so far. Behind every second one the connection moves, unless it stays.
    spans: usize,
    stays: bool,
}

fn codecs(config: &ConnectionConfig) -> Codecs {
    Codecs::new(config.compression, Lease::new(Budget::new(1 << 20), 1 << 10))
}

impl Echo {
    fn new(config: ConnectionConfig) -> Echo {
        let (mut pool, mut entropy) = (Pool::standalone(), Entropy::new(1));
        let now = 100 * SECOND;
        let mut codecs = codecs(&config);
        let env = Env { pool: &mut pool, codecs: &mut codecs, config: &config, now, entropy: &mut entropy };
        let connection = Connection::server(&env);
        Echo {
            connection,
            pool,
            codecs,
            config,
            entropy,
            now,
            sent: Vec::new(),
            action: None,
            whole: false,
            offer: None,
            head: Vec::new(),
            reply_uncompressed: false,
            blocks_behind_header: false,
            spans: 0,
            stays: false,
        }
    }

    fn open() -> Echo {
        Echo::open_with(ConnectionConfig::default(), false)
    }

    fn open_with(config: ConnectionConfig, whole: bool) -> Echo {
        let mut echo = Echo::new(config);
        echo.whole = whole;
        echo.receive(REQUEST);
        assert!(echo.sent.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&echo.sent));
        echo.sent.clear();
        echo
    }

    fn env(&mut self) -> (&mut Connection, Env<'_>) {
        let Echo { connection, pool, codecs, config, entropy, now, .. } = self;
        (connection, Env { pool, codecs, config, now: *now, entropy })
    }

    /// Receives one span.
    fn receive(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let (whole, reply_uncompressed, mut offer) = (self.whole, self.reply_uncompressed, self.offer.take());
        let blocks_behind_header = self.blocks_behind_header;
        let mut cursor = SpanCursor::new();
        let now = self.now;
        let (connection, mut env) = self.env();
        connection.begin_span(now);
        if connection.is_between_messages() && connection.is_flushed() && now.is_multiple_of(2) {
            let bytes_max = env.config.max_message;
            if bytes_max >= SINGLE_FRAME_BYTES_MAX as u64 && now.is_multiple_of(4) && echo_single(&mut bytes)
            {
                cursor = SpanCursor::at_end(bytes.len(), SINGLE_REPLY_START..bytes.len());
            } else {
                echo_short(&mut cursor, &mut bytes, bytes_max);
            }
            connection.resume_span(&cursor);
        }
        loop {
            match connection.poll(&mut cursor, &mut bytes, &mut env) {
                Step::Idle => break,
                Step::Head(head) => {
                    env.pool.put(head);
                    if let Some(offer) = offer.take() {
                        let preferences = env.codecs.preferences().expect("compression is on");
                        let agreed = deflate::agree([&offer[..]].into_iter(), preferences);
                        connection.agree(agreed.expect("an acceptable offer"), &mut env).unwrap();
                    }
                    connection
                        .accept(Some(*b"AAAAAAAAAAAAAAAAAAAAAA=="), None, &[], whole, &mut env)
                        .unwrap();
                }
                Step::Chunk(flags, piece) => {
                    let flags = ChunkFlags { compressed: flags.compressed && !reply_uncompressed, ..flags };
                    connection.echo(&mut cursor, &mut bytes, flags, piece, &mut env).unwrap();
                }
                Step::Refused(_) | Step::Opened(_) | Step::Ping(_) | Step::Pong(_) => {}
            }
        }
        let replies = connection.end_span(&cursor, &bytes, &mut env).unwrap();
        let (mut sent, mut blocks) = (Vec::new(), false);
        if let Some(replies) = replies {
            while let Some(buffer) = connection.pop() {
                sent.extend_from_slice(buffer.as_slice());
                env.pool.put(buffer);
            }
            sent.extend_from_slice(cursor.detached_header());
            if !cursor.detached_header().is_empty() && now.is_multiple_of(4) {
                // A partial send: the kernel accepted only the header.
                connection.copy_replies_behind_header(&cursor, &bytes, &mut env).unwrap();
                blocks = blocks_behind_header;
            } else {
                sent.extend_from_slice(&bytes[replies]);
                connection.replies_sent();
            }
        }
        if blocks {
            connection.blocked(2);
        }
        self.sent.extend_from_slice(&sent);
        // The content of the receive buffer is invalid after the tick.
        bytes.fill(0xdd);
        self.flush();
        self.spans += 1;
        let may_move = !self.stays && self.connection.may_move() && !self.connection.is_blocked();
        if may_move && self.spans.is_multiple_of(2) {
            self.move_connection();
        }
    }

    /// Puts the connection into bytes and continues it from its bytes.
    fn move_connection(&mut self) {
        let mut bytes = Vec::new();
        self.connection.put(&mut bytes, self.now);
        let (connection, mut env) = self.env();
        connection.release(env.pool, env.codecs);
        let mut rest = &bytes[..];
        let mut continued = Connection::take(&mut rest, &mut env).expect("it was put");
        assert!(rest.is_empty());
        let mut again = Vec::new();
        continued.put(&mut again, env.now);
        assert_eq!(again, bytes);
        // What the application or the settings decide.
        continued.flow = std::mem::take(&mut connection.flow);
        (continued.times, continued.deadline_changed) = (connection.times, connection.deadline_changed);
        *connection = continued;
    }

    fn flush(&mut self) {
        if !self.connection.is_blocked() {
            while let Some(buffer) = self.connection.pop() {
                self.sent.extend_from_slice(buffer.as_slice());
                self.pool.put(buffer);
            }
        }
        self.action = self.connection.take_transport_action().or(self.action);
    }

    /// The deferred bytes that the connection can read now.
    fn take_deferred(&mut self) -> Option<Vec<u8>> {
        let deferred = self.connection.take_deferred(&self.config)?;
        let bytes = deferred.as_slice().to_vec();
        self.pool.put(deferred);
        Some(bytes)
    }

    fn advance(&mut self, time: Nanos) {
        self.now += time;
        if self.connection.deadline(&self.config) <= self.now {
            let (connection, mut env) = self.env();
            connection.handle_timeout(&mut env);
        }
        self.flush();
    }

    fn frames(&self) -> Vec<(Opcode, bool, Vec<u8>)> {
        frames(&self.sent)
    }

    fn close_code(&self) -> Option<u16> {
        let frames = self.frames();
        let (_, _, payload) = frames.iter().find(|(opcode, ..)| *opcode == Opcode::Close)?;
        Some(if payload.is_empty() { 1005 } else { u16::from_be_bytes([payload[0], payload[1]]) })
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(Opcode, bool, Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (header, at) =
            frame::decode(bytes, Role::Client, false).unwrap().expect("only complete frames were sent");
        let end = at + header.payload_bytes as usize;
        frames.push((header.opcode, header.fin, bytes[at..end].to_vec()));
        bytes = &bytes[end..];
    }
    frames
}

/// Data messages with their types, and the payloads of pongs.
type Received = (Vec<(Opcode, Vec<u8>)>, Vec<Vec<u8>>);

/// The data messages of `frames`, with joined fragments, and the pongs.
fn messages(frames: &[(Opcode, bool, Vec<u8>)]) -> Received {
    let (mut messages, mut pongs) = (Vec::new(), Vec::new());
    let mut open: Option<(Opcode, Vec<u8>)> = None;
    for (opcode, fin, payload) in frames {
        match opcode {
            Opcode::Pong => pongs.push(payload.clone()),
            Opcode::Text | Opcode::Binary => {
                assert!(open.is_none());
                open = Some((*opcode, payload.clone()));
            }
            Opcode::Continuation => open.as_mut().expect("a message is open").1.extend_from_slice(payload),
            Opcode::Close | Opcode::Ping => {}
        }
        if *fin && !opcode.is_control() {
            messages.extend(open.take());
        }
    }
    assert!(open.is_none(), "the last message is incomplete");
    (messages, pongs)
}

fn client_frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let header =
        Header { opcode, fin, compressed: false, mask: Some(KEY), payload_bytes: payload.len() as u64 };
    let mut head = [0; 14];
    let head_bytes = frame::encode(&header, &mut head);
    let mut bytes = head[..head_bytes].to_vec();
    mask::append(&mut bytes, payload, KEY);
    bytes
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Connection>() <= 152, "{} bytes", size_of::<Connection>());
}

#[test]
fn text_and_binary_messages_are_echoed_with_their_type() {
    let mut echo = Echo::open();
    echo.receive(&client_frame(Opcode::Text, true, "grüße".as_bytes()));
    echo.receive(&client_frame(Opcode::Binary, true, &[0xff, 0, 1]));
    echo.receive(&client_frame(Opcode::Text, true, b""));
    let expected = [
        (Opcode::Text, true, "grüße".as_bytes().to_vec()),
        (Opcode::Binary, true, vec![0xff, 0, 1]),
        (Opcode::Text, true, vec![]),
    ];
    assert_eq!(echo.frames(), expected);
}

#[test]
fn clients_are_told_when_to_return_if_they_may() {
    let delayed = || ConnectionConfig { reconnect_delay: 2 * SECOND, ..ConnectionConfig::default() };
    for (config, code, is_told) in [
        (delayed(), 1001, true),
        (delayed(), 1012, true),
        (delayed(), 3001, true),
        (delayed(), 4008, true),
        (delayed(), 4010, true),
        (delayed(), 1000, false),
        (delayed(), 1008, false),
        (delayed(), 3500, false),
        (ConnectionConfig::default(), 1001, false),
    ] {
        let mut echo = Echo::open_with(config, false);
        let (connection, mut env) = echo.env();
        connection.close(CloseCode(code), "bye", CloseMode::Graceful, &mut env);
        echo.flush();
        let frames = echo.frames();
        let close = close::parse(&frames[0].2).expect("a Close");
        assert_eq!(close.code, CloseCode(code));
        match close::retry_after(close.reason) {
            Some(delay) => {
                assert!(is_told && delay.as_secs() < 2 && close.reason.starts_with("bye; "), "{close:?}")
            }
            None => assert!(!is_told && close.reason == "bye", "{close:?}"),
        }
    }
}

#[test]
fn pipelined_messages_and_pings_are_answered_in_order() {
    let mut echo = Echo::open();
    let mut cursor = Vec::new();
    for index in 0..40_usize {
        cursor.extend(client_frame(Opcode::Text, true, "m".repeat(index * 7).as_bytes()));
        cursor.extend(client_frame(Opcode::Ping, true, format!("p{index}").as_bytes()));
    }
    echo.receive(&cursor);
    let frames = echo.frames();
    assert_eq!(frames.len(), 80);
    for (index, pair) in frames.chunks(2).enumerate() {
        assert_eq!(pair[0], (Opcode::Text, true, "m".repeat(index * 7).into_bytes()));
        assert_eq!(pair[1], (Opcode::Pong, true, format!("p{index}").into_bytes()));
    }
}

#[test]
fn a_message_of_exactly_the_limit_is_echoed_and_one_byte_more_is_1009_from_its_header() {
    let config = ConnectionConfig { max_message: 1000, ..ConnectionConfig::default() };
    let mut echo = Echo::open_with(config.clone(), false);
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 1000]));
    assert_eq!(echo.frames()[0].2.len(), 1000);
    let mut echo = Echo::open_with(config.clone(), false);
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 1001])[..8]);
    assert_eq!((echo.close_code(), echo.action), (Some(1009), Some(TransportAction::Shutdown)));
    let mut echo = Echo::open_with(config, true);
    echo.receive(&client_frame(Opcode::Binary, false, &[1; 600]));
    echo.receive(&client_frame(Opcode::Continuation, true, &[1; 401])[..8]);
    assert_eq!(echo.close_code(), Some(1009));
}

#[test]
fn each_protocol_error_has_its_close_code_and_later_frames_are_not_read() {
    let masked = |first: u8, length: u8| [&[first, 0x80 | length], &KEY[..], &[0; 8]].concat();
    let stray = client_frame(Opcode::Continuation, true, b"x");
    let interleaved =
        [client_frame(Opcode::Text, false, b"x"), client_frame(Opcode::Text, true, b"y")].concat();
    let late_utf8 =
        [client_frame(Opcode::Text, false, b"\xe2\x82"), client_frame(Opcode::Continuation, true, b"A")];
    let cut_utf8 =
        [client_frame(Opcode::Text, false, b"\xe2\x82"), client_frame(Opcode::Continuation, true, b"")];
    for (name, bytes, code) in [
        ("reserved bit", masked(0xc1, 1), 1002),
        ("unknown opcode", masked(0x83, 1), 1002),
        ("unknown control opcode", masked(0x8b, 1), 1002),
        ("fragmented ping", masked(0x09, 1), 1002),
        ("oversized ping", [&[0x89, 0xfe, 0, 126], &KEY[..], &[0; 126]].concat(), 1002),
        ("length not minimal", [&[0x82, 0xfe, 0, 5], &KEY[..], &[0; 5]].concat(), 1002),
        ("length of 2^63", [&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], &KEY[..]].concat(), 1002),
        ("unmasked", vec![0x81, 0x01, b'a'], 1002),
        ("stray continuation", stray, 1002),
        ("interleaved message", interleaved, 1002),
        ("bad UTF-8", client_frame(Opcode::Text, true, b"ab\xffcd"), 1007),
        ("bad UTF-8 across fragments", late_utf8.concat(), 1007),
        ("UTF-8 cut off at the end", cut_utf8.concat(), 1007),
        ("close of one byte", client_frame(Opcode::Close, true, b"\x03"), 1002),
        ("close with 1005", client_frame(Opcode::Close, true, &1005_u16.to_be_bytes()), 1002),
        ("close with a bad reason", client_frame(Opcode::Close, true, b"\x03\xe8\xff"), 1007),
    ] {
        for (bytewise, odd) in [(false, 0), (false, 1), (true, 0)] {
            let mut echo = Echo::open();
            echo.now += odd;
            let mut bytes = bytes.clone();
            bytes.extend(client_frame(Opcode::Text, true, b"never echoed"));
            if bytewise {
                bytes.iter().for_each(|byte| echo.receive(&[*byte]));
            } else {
                echo.receive(&bytes);
            }
            assert_eq!(echo.close_code(), Some(code), "{name}, bytewise: {bytewise}");
            assert_eq!(echo.frames().last().map(|frame| frame.0), Some(Opcode::Close), "{name}");
            assert_eq!(echo.action, Some(TransportAction::Shutdown), "{name}");
        }
    }
}

#[test]
fn invalid_utf8_fails_at_the_first_invalid_byte_inside_an_incomplete_frame() {
    let mut echo = Echo::open();
    let frame = client_frame(Opcode::Text, true, b"abc\xed\xa0\x80 and much more to come");
    echo.receive(&frame[..10]);
    assert_eq!(echo.close_code(), None);
    echo.receive(&frame[10..11]);
    assert_eq!(echo.close_code(), Some(1007), "the second byte of a surrogate is invalid");
}

#[test]
fn invalid_utf8_after_valid_messages_is_detected_on_both_paths() {
    for odd in [0, 1] {
        let mut echo = Echo::open();
        echo.now += odd;
        let good = client_frame(Opcode::Text, true, b"good");
        echo.receive(&[good.clone(), good, client_frame(Opcode::Text, true, b"b\xffd")].concat());
        let opcodes: Vec<Opcode> = echo.frames().iter().map(|frame| frame.0).collect();
        assert_eq!(opcodes, [Opcode::Text, Opcode::Text, Opcode::Close]);
        assert_eq!(echo.close_code(), Some(1007));
    }
}

#[test]
fn valid_messages_before_a_protocol_error_are_answered_before_the_close() {
    let mut echo = Echo::open();
    let mut cursor = client_frame(Opcode::Text, true, b"good");
    cursor.extend(client_frame(Opcode::Ping, true, b"ping"));
    cursor.extend([0x83, 0x80, 1, 2, 3, 4]);
    echo.receive(&cursor);
    let opcodes: Vec<Opcode> = echo.frames().iter().map(|frame| frame.0).collect();
    assert_eq!(opcodes, [Opcode::Text, Opcode::Pong, Opcode::Close]);
}

#[test]
fn a_close_is_answered_with_its_code_after_the_queued_messages_and_the_server_closes() {
    let mut echo = Echo::open();
    echo.connection.blocked(10);
    echo.receive(&client_frame(Opcode::Text, true, b"queued"));
    echo.receive(&client_frame(Opcode::Close, true, b"\x0f\xa1bye"));
    assert_eq!((echo.sent.len(), echo.action), (0, None));
    echo.connection.unblocked(echo.now);
    echo.flush();
    let expected =
        [(Opcode::Text, true, b"queued".to_vec()), (Opcode::Close, true, 4001_u16.to_be_bytes().to_vec())];
    assert_eq!((echo.frames(), echo.action), (expected.to_vec(), Some(TransportAction::Close)));
    let peer_close = CloseFrame { code: CloseCode(4001), reason: "bye".to_owned() };
    let closed = Closed { code: CloseCode(4001), cause: Cause::Peer, peer_close: Some(peer_close) };
    assert_eq!(echo.connection.closed(), Some(&closed));
}

#[test]
fn a_server_that_awaits_a_pong_reads_on_behind_the_close_of_the_peer() {
    let pong = || client_frame(Opcode::Pong, true, b"");
    let close = || client_frame(Opcode::Close, true, b"\x03\xe8");
    // Pings, pongs, and whether the last one is still on its way.
    for (pings, pongs, is_awaited) in
        [(0, 0, false), (1, 1, false), (3, 3, false), (1, 0, true), (2, 1, true)]
    {
        let mut echo = Echo::open();
        for _ in 0..pings {
            let (connection, mut env) = echo.env();
            connection.ping(b"", &mut env).expect("memory");
        }
        echo.flush();
        (0..pongs).for_each(|_| echo.receive(&pong()));
        echo.receive(&close());
        assert_eq!(echo.close_code(), Some(1000));
        if !is_awaited {
            assert_eq!(echo.action, Some(TransportAction::Close), "{pings} pings, {pongs} pongs");
            continue;
        }
        assert_eq!(echo.action, Some(TransportAction::Shutdown), "{pings} pings, {pongs} pongs");
        echo.receive(&pong());
        assert_eq!(echo.action, Some(TransportAction::Shutdown));
        let until = echo.now + SECOND;
        echo.connection.ended(until);
        echo.flush();
        assert_eq!(echo.action, Some(TransportAction::Close));
        assert_eq!(echo.connection.closed().map(|closed| &closed.cause), Some(&Cause::Peer));
    }
}

#[test]
fn after_a_sent_close_messages_are_dropped_until_the_close_of_the_peer() {
    let mut echo = Echo::open();
    let (connection, mut env) = echo.env();
    connection.close(CloseCode::GOING_AWAY, "bye", CloseMode::Graceful, &mut env);
    echo.flush();
    assert_eq!((echo.close_code(), echo.action), (Some(1001), None));
    echo.receive(&client_frame(Opcode::Text, true, b"late"));
    echo.receive(&client_frame(Opcode::Binary, true, &[7; 5000])[..3000]);
    echo.receive(&client_frame(Opcode::Binary, true, &[7; 5000])[3000..]);
    echo.receive(&client_frame(Opcode::Close, true, b"\x03\xe9"));
    assert_eq!((echo.frames().len(), echo.action), (1, Some(TransportAction::Close)));
}

#[test]
fn a_peer_that_does_not_answer_a_close_is_aborted_at_the_deadline() {
    let mut echo = Echo::open();
    let (connection, mut env) = echo.env();
    connection.close(CloseCode::GOING_AWAY, "", CloseMode::Graceful, &mut env);
    echo.flush();
    echo.advance(5 * SECOND - 1);
    assert_eq!(echo.action, None);
    echo.advance(1);
    assert_eq!(echo.action, Some(TransportAction::Abort));
}

#[test]
fn a_text_that_ends_inside_a_character_releases_its_memory() {
    for whole in [false, true] {
        let mut echo = Echo::open_with(ConnectionConfig::default(), whole);
        let frame = client_frame(Opcode::Text, true, b"cut \xce");
        frame.chunks(3).for_each(|span| echo.receive(span));
        assert_eq!(echo.close_code(), Some(1007));
        echo.connection.release(&mut echo.pool, &mut echo.codecs);
        while echo.pool.trim() {}
        assert_eq!(echo.pool.used_bytes(), 0, "whole: {whole}");
    }
}

#[test]
fn short_queued_replies_share_a_buffer() {
    let mut echo = Echo::open();
    echo.connection.blocked(1);
    let bytes: Vec<u8> = (0..200_u8).flat_map(|index| client_frame(Opcode::Binary, true, &[index])).collect();
    // Spans of four bytes end at every position of a frame, also directly after a header.
    bytes.chunks(4).for_each(|span| echo.receive(span));
    while echo.pool.trim() {}
    assert_eq!(echo.connection.queued_bytes(), 1 + 200 * 3);
    assert!(echo.pool.used_bytes() < 4 * 1024, "{} bytes", echo.pool.used_bytes());
    echo.connection.unblocked(echo.now);
    echo.flush();
    let payloads: Vec<u8> = echo.frames().into_iter().map(|frame| frame.2[0]).collect();
    assert_eq!(payloads, (0..200).collect::<Vec<u8>>());
}

#[test]
fn a_silent_peer_is_pinged_and_aborted_without_a_pong() {
    let mut echo = Echo::open();
    echo.advance(25 * SECOND - 1);
    assert!(echo.sent.is_empty());
    echo.advance(1);
    assert_eq!(echo.frames(), [(Opcode::Ping, true, vec![])]);
    echo.advance(9 * SECOND);
    echo.receive(&client_frame(Opcode::Pong, true, b""));
    echo.advance(24 * SECOND);
    assert_eq!((echo.frames().len(), echo.action), (1, None));
    echo.advance(SECOND);
    echo.advance(10 * SECOND);
    assert_eq!((echo.frames().len(), echo.action), (2, Some(TransportAction::Abort)));
    assert_eq!(echo.connection.closed().map(|closed| closed.cause.clone()), Some(Cause::PongTimeout));
}

#[test]
fn the_pong_timeout_also_applies_after_a_partial_send_of_the_ping() {
    let mut echo = Echo::open();
    echo.advance(25 * SECOND);
    assert_eq!(echo.frames(), [(Opcode::Ping, true, vec![])]);
    echo.connection.blocked(1);
    echo.advance(3 * SECOND);
    echo.connection.unblocked(echo.now);
    echo.advance(10 * SECOND - 1);
    assert_eq!((echo.frames().len(), echo.action), (1, None));
    echo.advance(1);
    assert_eq!((echo.frames().len(), echo.action), (1, Some(TransportAction::Abort)));
    assert_eq!(echo.connection.closed().map(|closed| closed.cause.clone()), Some(Cause::PongTimeout));
}

#[test]
fn a_message_that_is_incomplete_at_its_deadline_is_4009() {
    for (first, config) in [
        (client_frame(Opcode::Text, false, b"begun"), ConnectionConfig::default()),
        (client_frame(Opcode::Binary, true, &[0; 100])[..50].to_vec(), ConnectionConfig::default()),
        (client_frame(Opcode::Binary, true, &[0; 100])[..3].to_vec(), ConnectionConfig::default()),
    ] {
        let mut echo = Echo::open_with(config, false);
        echo.receive(&first);
        assert!(echo.connection.take_deadline_changed());
        for _ in 0..2 {
            echo.advance(14 * SECOND);
            echo.receive(&client_frame(Opcode::Ping, true, b"")[..0]);
        }
        assert_eq!(echo.close_code(), None);
        echo.advance(2 * SECOND);
        assert_eq!(echo.close_code(), Some(4009));
    }
}

#[test]
fn each_control_frame_has_its_own_deadline() {
    let mut echo = Echo::open();
    let ping = client_frame(Opcode::Ping, true, b"split");
    let (front, back) = ping.split_at(8);
    echo.receive(front);
    for _ in 0..10 {
        // One ping ends and the next begins in each span.
        echo.advance(10 * SECOND);
        echo.receive(&[back, front].concat());
    }
    assert_eq!(echo.close_code(), None);
    // Control frames between fragments do not extend the deadline of the message.
    echo.receive(back);
    echo.receive(&client_frame(Opcode::Text, false, b"begun"));
    for _ in 0..3 {
        echo.receive(front);
        echo.advance(10 * SECOND);
        echo.receive(back);
    }
    assert_eq!(echo.close_code(), Some(4009));
}

/// The send of such a peer never completes, and its memory is released only then.
#[test]
fn a_connection_closed_for_its_memory_share_is_aborted_although_the_peer_sends_fin() {
    let mut echo = Echo::open();
    echo.connection.blocked(1000);
    let (connection, env) = echo.env();
    connection.abort_and_release(Cause::OverShare, env.pool);
    connection.ended(5 * SECOND);
    echo.flush();
    assert_eq!(echo.action, Some(TransportAction::Abort));
    assert_eq!(echo.connection.closed().map(|closed| &closed.cause), Some(&Cause::OverShare));
}

#[test]
fn a_partial_send_without_memory_for_its_remainder_closes_with_out_of_memory() {
    let mut echo = Echo::open();
    echo.connection.failed(std::io::ErrorKind::OutOfMemory);
    assert_eq!(echo.connection.closed().map(|closed| &closed.cause), Some(&Cause::OutOfMemory));
}

#[test]
fn a_peer_that_sends_fin_and_does_not_read_is_aborted_at_the_deadline() {
    let mut echo = Echo::open();
    echo.connection.blocked(1000);
    let until = echo.now + 5 * SECOND;
    echo.connection.ended(until);
    assert!(echo.connection.take_deadline_changed());
    echo.flush();
    assert_eq!(echo.action, None, "it may still read");
    echo.advance(4 * SECOND);
    assert_eq!(echo.action, None);
    echo.advance(SECOND);
    assert_eq!(echo.action, Some(TransportAction::Abort));
}

#[test]
fn a_long_message_is_streamed_as_fragments_and_reserves_no_memory() {
    let config = ConnectionConfig { max_message: 1 << 20, ..ConnectionConfig::default() };
    let mut echo = Echo::open_with(config, false);
    let text = "Straße ".repeat(40_000);
    let frame = client_frame(Opcode::Text, true, text.as_bytes());
    for span in frame.chunks(10_001) {
        echo.receive(span);
        assert!(echo.pool.used_bytes() < 64 * 1024);
    }
    assert!(echo.frames().len() > 10);
    assert_eq!(messages(&echo.frames()).0, [(Opcode::Text, text.into_bytes())]);
}

#[test]
fn a_declared_length_reserves_no_memory() {
    let mut echo = Echo::open_with(ConnectionConfig::default(), true);
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 60_000])[..20]);
    assert!(echo.pool.used_bytes() < 4 * 1024, "{}", echo.pool.used_bytes());
}

#[test]
fn a_whole_message_application_sees_each_message_once() {
    let mut echo = Echo::open_with(ConnectionConfig::default(), true);
    let frames = [
        client_frame(Opcode::Text, false, "ä".as_bytes()),
        client_frame(Opcode::Ping, true, b"between"),
        client_frame(Opcode::Continuation, false, b""),
        client_frame(Opcode::Continuation, true, "ö".as_bytes()),
        client_frame(Opcode::Binary, true, &[3; 300]),
    ]
    .concat();
    for size in [1, 7, frames.len()] {
        frames.chunks(size).for_each(|span| echo.receive(span));
        let expected = [
            (Opcode::Pong, b"between".to_vec()),
            (Opcode::Text, "äö".into()),
            (Opcode::Binary, vec![3; 300]),
        ];
        let got: Vec<_> = echo.frames().into_iter().map(|(opcode, _, payload)| (opcode, payload)).collect();
        assert_eq!(got, expected, "spans of {size}");
        echo.sent.clear();
    }
}

#[test]
fn assembling_many_small_fragments_copies_the_message_only_a_few_times() {
    const FRAGMENTS: usize = 8_192;
    let payload = [7; 256];
    let bytes = FRAGMENTS * payload.len();
    let mut echo =
        Echo::open_with(ConnectionConfig { max_message: bytes as u64, ..ConnectionConfig::default() }, true);
    echo.stays = true;
    let (mut grown, mut capacity, mut capacity_max) = (0, 0, 0);
    for number in 0..FRAGMENTS {
        let opcode = if number == 0 { Opcode::Binary } else { Opcode::Continuation };
        echo.receive(&client_frame(opcode, number == FRAGMENTS - 1, &payload));
        if let Some(assembly) = echo.connection.reader.buffers().next() {
            let now = assembly.len() + assembly.room();
            grown += usize::from(now != capacity);
            capacity = now;
            capacity_max = capacity_max.max(now);
        }
    }
    let (messages, _) = messages(&echo.frames());
    assert_eq!(messages, [(Opcode::Binary, vec![7; bytes])]);
    assert!(grown < 16, "the assembly grew {grown} times");
    assert!(capacity_max <= bytes + HEADER_BYTES_MAX, "{capacity_max} bytes for a message of {bytes}");
}

#[test]
fn reading_pauses_above_the_queue_limit_and_resumes_at_half() {
    let config = ConnectionConfig { queue_bytes: 1_000, ..ConnectionConfig::default() };
    let mut echo = Echo::open_with(config, false);
    echo.connection.blocked(600);
    let config = echo.config.clone();
    assert_eq!(echo.connection.pause_wanted(&config, false), None);
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 500]));
    assert_eq!(echo.connection.pause_wanted(&config, false), Some(true));
    assert_eq!(echo.connection.pause_wanted(&config, false), None);
    echo.connection.unblocked(echo.now);
    assert_eq!(echo.connection.pause_wanted(&config, false), None, "504 bytes are still more than half");
    echo.flush();
    assert_eq!(echo.connection.pause_wanted(&config, false), Some(false));
}

#[test]
fn while_the_node_is_short_of_memory_a_peer_is_read_from_only_if_it_reads() {
    let mut echo = Echo::open_with(ConnectionConfig::default(), false);
    let config = echo.config.clone();
    assert_eq!(echo.connection.pause_wanted(&config, true), None);
    echo.connection.blocked(1);
    assert_eq!(echo.connection.pause_wanted(&config, false), None);
    assert_eq!(echo.connection.pause_wanted(&config, true), Some(true));
    assert_eq!(echo.connection.pause_wanted(&config, true), None);
    echo.connection.unblocked(echo.now);
    assert_eq!(echo.connection.pause_wanted(&config, true), Some(false));
}

#[test]
fn a_peer_that_does_not_read_is_read_from_once_more_within_a_bound() {
    let config = ConnectionConfig { queue_bytes: 1_000, ..ConnectionConfig::default() };
    let mut echo = Echo::open_with(config, false);
    let config = echo.config.clone();
    echo.connection.blocked(600);
    assert!(!echo.connection.wants_one_more(&config), "reading is not paused");
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 500]));
    assert_eq!(echo.connection.pause_wanted(&config, false), Some(true));
    assert!(echo.connection.wants_one_more(&config));
    assert_eq!(echo.connection.pause_wanted(&config, false), Some(true), "it pauses again after the receive");
    echo.connection.set_backpressured(true, echo.now);
    assert!(!echo.connection.wants_one_more(&config), "the application applies backpressure");
    echo.connection.set_backpressured(false, echo.now);
    // One receive at a time, as long as it fits into the bound on deferred bytes.
    let mut times = 0;
    while echo.connection.wants_one_more(&config) {
        echo.receive(&client_frame(Opcode::Binary, true, &[1; 60_000]));
        assert_eq!(echo.connection.pause_wanted(&config, false), Some(true));
        times += 1;
    }
    assert!((4..=5).contains(&times), "{times}");
}

#[test]
fn a_connection_that_reads_when_full_pauses_only_under_backpressure() {
    let config =
        ConnectionConfig { queue_bytes: 1_000, reads_when_full: true, ..ConnectionConfig::default() };
    let mut echo = Echo::open_with(config, false);
    let config = echo.config.clone();
    echo.connection.blocked(2_000);
    assert_eq!(echo.connection.pause_wanted(&config, false), None);
    echo.connection.set_backpressured(true, echo.now);
    assert_eq!(echo.connection.pause_wanted(&config, false), Some(true));
    echo.connection.set_backpressured(false, echo.now);
    assert_eq!(echo.connection.pause_wanted(&config, false), Some(false), "the queue is still full");
}

#[test]
fn a_ping_flood_during_a_blocked_send_queues_few_pongs_and_ends_in_1008() {
    let mut echo = Echo::open();
    echo.connection.blocked(1);
    for index in 0..100_u8 {
        echo.receive(&client_frame(Opcode::Ping, true, &[index]));
    }
    assert!(echo.connection.queued_bytes() <= 17 * 3);
    echo.connection.unblocked(echo.now);
    echo.flush();
    assert_eq!(echo.frames().last(), Some(&(Opcode::Pong, true, vec![99])), "the latest is answered");
    echo.sent.clear();
    for _ in 0..1_000 {
        echo.receive(&client_frame(Opcode::Ping, true, b""));
    }
    assert_eq!(echo.close_code(), Some(1008));
}

#[test]
fn pongs_overtake_queued_data_and_data_stays_in_order() {
    let mut echo = Echo::open();
    echo.connection.blocked(1);
    echo.receive(&client_frame(Opcode::Text, true, b"one"));
    echo.receive(&client_frame(Opcode::Ping, true, b"p"));
    echo.receive(&client_frame(Opcode::Text, true, b"two"));
    echo.connection.unblocked(echo.now);
    echo.flush();
    let payloads: Vec<_> = echo.frames().into_iter().map(|frame| frame.2).collect();
    assert_eq!(payloads, [b"p".to_vec(), b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn messages_sent_while_a_span_is_read_keep_their_order_among_its_echoes() {
    for blocked in [false, true] {
        let mut echo = Echo::open();
        if blocked {
            echo.connection.blocked(1);
        }
        let mut bytes: Vec<u8> =
            (0..6_u8).flat_map(|index| client_frame(Opcode::Binary, true, &[index])).collect();
        let mut cursor = SpanCursor::new();
        let (connection, mut env) = echo.env();
        let mut seen = 0;
        while let Step::Chunk(flags, piece) = connection.poll(&mut cursor, &mut bytes, &mut env) {
            connection.echo(&mut cursor, &mut bytes, flags, piece, &mut env).unwrap();
            if seen % 2 == 1 {
                connection.send(MessageKind::Binary, &[100 + seen], &mut env).unwrap();
            }
            seen += 1;
        }
        let mut sent = Vec::new();
        if let Some(replies) = connection.end_span(&cursor, &bytes, &mut env).unwrap() {
            assert!(connection.pop().is_none(), "queued frames follow the replies in the span");
            sent.extend_from_slice(&bytes[replies]);
            connection.replies_sent();
        }
        connection.unblocked(env.now);
        while let Some(buffer) = connection.pop() {
            sent.extend_from_slice(buffer.as_slice());
        }
        let payloads: Vec<u8> = frames(&sent).into_iter().map(|frame| frame.2[0]).collect();
        assert_eq!(payloads, [0, 1, 101, 2, 3, 103, 4, 5, 105], "blocked: {blocked}");
    }
}

#[test]
fn after_a_protocol_error_bytes_are_discarded_up_to_a_bound() {
    let mut echo = Echo::open();
    echo.receive(&[0x83, 0x80, 1, 2, 3, 4]);
    assert_eq!(echo.connection.closed().unwrap().cause, Cause::ProtocolError(ProtocolError::UnknownOpcode));
    echo.receive(&vec![0; 4 * 1024 * 1024 - 6 - 1]);
    assert_eq!(echo.action, Some(TransportAction::Shutdown));
    echo.receive(&[0]);
    assert_eq!(echo.action, Some(TransportAction::Abort));
}
