//! The state machine driven by hand: every byte and every moment is given.

mod compression;
mod elsewhere;
mod handshake;
mod properties;

use super::*;
use crate::buffer::{Budget, Lease};
use crate::limits::{MILLISECOND, SECOND};
use crate::protocol::frame::{self, Header};
use crate::protocol::handshake::BadHandshake;
use crate::protocol::{CloseCode, Offence, deflate, mask};

const KEY: [u8; 4] = [0x12, 0x80, 0x7f, 0xfe];
const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// An echo application on one connection, without a transport: what would be sent is collected.
struct Echo {
    connection: Connection,
    pool: Pool,
    codecs: Codecs,
    config: Config,
    entropy: Entropy,
    /// At even times the short path is taken, as the shard does; at odd times everything is polled.
    now: Nanos,
    /// What the kernel has taken.
    sent: Vec<u8>,
    fate: Option<Fate>,
    whole: bool,
    /// The extensions that the next request offers.
    agree_on: Option<Vec<u8>>,
    /// The response that agreed.
    head: Vec<u8>,
    /// Answers are new messages that are not compressed.
    answer_plain: bool,
}

fn codecs(config: &Config) -> Codecs {
    Codecs::new(config.compression, Lease::new(Budget::new(1 << 20), 1 << 10))
}

impl Echo {
    fn new(config: Config) -> Echo {
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
            fate: None,
            whole: false,
            agree_on: None,
            head: Vec::new(),
            answer_plain: false,
        }
    }

    fn open() -> Echo {
        Echo::open_with(Config::default(), false)
    }

    fn open_with(config: Config, whole: bool) -> Echo {
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

    /// One run.
    fn receive(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let (whole, answer_plain, mut offer) = (self.whole, self.answer_plain, self.agree_on.take());
        let mut run = Run::new();
        let now = self.now;
        let (connection, mut env) = self.env();
        connection.begin_run(now);
        if connection.is_between_messages() && connection.has_clear_way() && now.is_multiple_of(2) {
            let bytes_max = env.config.message_bytes_max;
            if bytes_max >= LONE_BYTES_MAX as u64 && now.is_multiple_of(4) && echo_lone(&mut bytes) {
                run = Run::read_to_the_end(bytes.len(), LONE_REPLY_START..bytes.len());
            } else {
                echo_short(&mut run, &mut bytes, bytes_max);
            }
            connection.go_on(&run);
        }
        loop {
            match connection.poll(&mut run, &mut bytes, &mut env) {
                Step::Idle => break,
                Step::Head(head) => {
                    env.pool.put(head);
                    if let Some(offer) = offer.take() {
                        let preferences = env.codecs.preferences().expect("compression is on");
                        let agreed = deflate::agree([&offer[..]].into_iter(), preferences);
                        connection.agree(agreed.expect("a good offer"), &mut env).unwrap();
                    }
                    connection
                        .accept(Some(*b"AAAAAAAAAAAAAAAAAAAAAA=="), None, &[], whole, &mut env)
                        .unwrap();
                }
                Step::Chunk(marks, piece) => {
                    let marks = Marks { compressed: marks.compressed && !answer_plain, ..marks };
                    connection.echo(&mut run, &mut bytes, marks, piece, &mut env).unwrap();
                }
                Step::Refused(_) | Step::Opened(_) | Step::Ping(_) | Step::Pong(_) => {}
            }
        }
        let block = connection.end_run(&run, &bytes, &mut env).unwrap();
        let mut sent = Vec::new();
        if let Some(block) = block {
            while let Some(buffer) = connection.pop() {
                sent.extend_from_slice(buffer.as_slice());
                env.pool.put(buffer);
            }
            sent.extend_from_slice(run.head());
            if !run.head().is_empty() && now.is_multiple_of(4) {
                // The header was taken and the rest was not.
                connection.copy_headless_block(&run, &bytes, &mut env).unwrap();
            } else {
                sent.extend_from_slice(&bytes[block]);
                connection.block_sent();
            }
        }
        self.sent.extend_from_slice(&sent);
        // What the region held is gone after the turn.
        bytes.fill(0xdd);
        self.flush();
    }

    fn flush(&mut self) {
        if !self.connection.is_blocked() {
            while let Some(buffer) = self.connection.pop() {
                self.sent.extend_from_slice(buffer.as_slice());
                self.pool.put(buffer);
            }
        }
        self.fate = self.connection.take_fate().or(self.fate);
    }

    /// What the connection had put off and can read now.
    fn take_parked(&mut self) -> Option<Vec<u8>> {
        let parked = self.connection.take_parked(&self.config)?;
        let bytes = parked.as_slice().to_vec();
        self.pool.put(parked);
        Some(bytes)
    }

    fn pass(&mut self, time: Nanos) {
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
            frame::decode(bytes, Role::Client, false).unwrap().expect("whole frames were sent");
        let end = at + header.payload_bytes as usize;
        frames.push((header.opcode, header.fin, bytes[at..end].to_vec()));
        bytes = &bytes[end..];
    }
    frames
}

/// Data messages with their kinds, and the payloads of pongs.
type Heard = (Vec<(Opcode, Vec<u8>)>, Vec<Vec<u8>>);

/// The data messages among frames, joined, and the pongs apart.
fn messages(frames: &[(Opcode, bool, Vec<u8>)]) -> Heard {
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
    assert!(open.is_none(), "a message was left unfinished");
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
fn text_and_binary_come_back_with_their_type() {
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
fn pipelined_messages_and_pings_are_answered_in_order_in_one_block() {
    let mut echo = Echo::open();
    let mut run = Vec::new();
    for index in 0..40_usize {
        run.extend(client_frame(Opcode::Text, true, "m".repeat(index * 7).as_bytes()));
        run.extend(client_frame(Opcode::Ping, true, format!("p{index}").as_bytes()));
    }
    echo.receive(&run);
    let frames = echo.frames();
    assert_eq!(frames.len(), 80);
    for (index, pair) in frames.chunks(2).enumerate() {
        assert_eq!(pair[0], (Opcode::Text, true, "m".repeat(index * 7).into_bytes()));
        assert_eq!(pair[1], (Opcode::Pong, true, format!("p{index}").into_bytes()));
    }
}

#[test]
fn a_message_of_the_limit_passes_and_one_byte_more_is_1009_from_its_header() {
    let config = Config { message_bytes_max: 1000, ..Config::default() };
    let mut echo = Echo::open_with(config.clone(), false);
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 1000]));
    assert_eq!(echo.frames()[0].2.len(), 1000);
    let mut echo = Echo::open_with(config.clone(), false);
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 1001])[..8]);
    assert_eq!((echo.close_code(), echo.fate), (Some(1009), Some(Fate::Shutdown)));
    let mut echo = Echo::open_with(config, true);
    echo.receive(&client_frame(Opcode::Binary, false, &[1; 600]));
    echo.receive(&client_frame(Opcode::Continuation, true, &[1; 401])[..8]);
    assert_eq!(echo.close_code(), Some(1009));
}

#[test]
fn each_offence_gets_its_code_and_nothing_more_is_read() {
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
        ("length with the top bit", [&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], &KEY[..]].concat(), 1002),
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
            assert_eq!(echo.fate, Some(Fate::Shutdown), "{name}");
        }
    }
}

#[test]
fn bad_utf8_fails_at_the_first_offending_byte_inside_an_unfinished_frame() {
    let mut echo = Echo::open();
    let frame = client_frame(Opcode::Text, true, b"abc\xed\xa0\x80 and much more to come");
    echo.receive(&frame[..10]);
    assert_eq!(echo.close_code(), None);
    echo.receive(&frame[10..11]);
    assert_eq!(echo.close_code(), Some(1007), "a surrogate's second byte is enough");
}

#[test]
fn bad_utf8_behind_good_messages_is_found_on_either_path() {
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
fn good_messages_before_an_offence_are_answered_before_the_close() {
    let mut echo = Echo::open();
    let mut run = client_frame(Opcode::Text, true, b"good");
    run.extend(client_frame(Opcode::Ping, true, b"ping"));
    run.extend([0x83, 0x80, 1, 2, 3, 4]);
    echo.receive(&run);
    let opcodes: Vec<Opcode> = echo.frames().iter().map(|frame| frame.0).collect();
    assert_eq!(opcodes, [Opcode::Text, Opcode::Pong, Opcode::Close]);
}

#[test]
fn a_close_is_answered_with_its_code_behind_what_was_queued_and_the_server_closes() {
    let mut echo = Echo::open();
    echo.connection.blocked(10);
    echo.receive(&client_frame(Opcode::Text, true, b"queued"));
    echo.receive(&client_frame(Opcode::Close, true, b"\x0f\xa1bye"));
    assert_eq!((echo.sent.len(), echo.fate), (0, None));
    echo.connection.unblocked(echo.now);
    echo.flush();
    let expected =
        [(Opcode::Text, true, b"queued".to_vec()), (Opcode::Close, true, 4001_u16.to_be_bytes().to_vec())];
    assert_eq!((echo.frames(), echo.fate), (expected.to_vec(), Some(Fate::Close)));
    let said = CloseFrame { code: CloseCode(4001), reason: "bye".to_owned() };
    let closed = Closed { code: CloseCode(4001), cause: Cause::Peer, peer_close: Some(said) };
    assert_eq!(echo.connection.closed(), Some(&closed));
}

#[test]
fn our_close_waits_for_the_peers_and_drops_its_messages_meanwhile() {
    let mut echo = Echo::open();
    let (connection, mut env) = echo.env();
    connection.close(CloseCode::GOING_AWAY, "bye", &mut env);
    echo.flush();
    assert_eq!((echo.close_code(), echo.fate), (Some(1001), None));
    echo.receive(&client_frame(Opcode::Text, true, b"late"));
    echo.receive(&client_frame(Opcode::Binary, true, &[7; 5000])[..3000]);
    echo.receive(&client_frame(Opcode::Binary, true, &[7; 5000])[3000..]);
    echo.receive(&client_frame(Opcode::Close, true, b"\x03\xe9"));
    assert_eq!((echo.frames().len(), echo.fate), (1, Some(Fate::Close)));
}

#[test]
fn a_peer_that_does_not_answer_our_close_is_cut_at_the_deadline() {
    let mut echo = Echo::open();
    let (connection, mut env) = echo.env();
    connection.close(CloseCode::GOING_AWAY, "", &mut env);
    echo.flush();
    echo.pass(5 * SECOND - 1);
    assert_eq!(echo.fate, None);
    echo.pass(1);
    assert_eq!(echo.fate, Some(Fate::Abort));
}

#[test]
fn a_text_that_ends_inside_a_character_gives_its_memory_back() {
    for whole in [false, true] {
        let mut echo = Echo::open_with(Config::default(), whole);
        let frame = client_frame(Opcode::Text, true, b"cut \xce");
        frame.chunks(3).for_each(|run| echo.receive(run));
        assert_eq!(echo.close_code(), Some(1007));
        echo.connection.release(&mut echo.pool, &mut echo.codecs);
        while echo.pool.trim() {}
        assert_eq!(echo.pool.used_bytes(), 0, "whole: {whole}");
    }
}

#[test]
fn short_replies_that_wait_share_a_buffer() {
    let mut echo = Echo::open();
    echo.connection.blocked(1);
    let bytes: Vec<u8> = (0..200_u8).flat_map(|index| client_frame(Opcode::Binary, true, &[index])).collect();
    // Cut everywhere, also just behind a header.
    bytes.chunks(4).for_each(|run| echo.receive(run));
    while echo.pool.trim() {}
    assert_eq!(echo.connection.queued_bytes(), 1 + 200 * 3);
    assert!(echo.pool.used_bytes() < 4 * 1024, "{} bytes", echo.pool.used_bytes());
    echo.connection.unblocked(echo.now);
    echo.flush();
    let payloads: Vec<u8> = echo.frames().into_iter().map(|frame| frame.2[0]).collect();
    assert_eq!(payloads, (0..200).collect::<Vec<u8>>());
}

#[test]
fn a_silent_peer_is_pinged_and_dropped_when_it_stays_silent() {
    let mut echo = Echo::open();
    echo.pass(25 * SECOND - 1);
    assert!(echo.sent.is_empty());
    echo.pass(1);
    assert_eq!(echo.frames(), [(Opcode::Ping, true, vec![])]);
    echo.pass(9 * SECOND);
    echo.receive(&client_frame(Opcode::Pong, true, b""));
    echo.pass(24 * SECOND);
    assert_eq!((echo.frames().len(), echo.fate), (1, None));
    echo.pass(SECOND);
    echo.pass(10 * SECOND);
    assert_eq!((echo.frames().len(), echo.fate), (2, Some(Fate::Abort)));
    assert_eq!(echo.connection.closed().map(|closed| closed.cause.clone()), Some(Cause::PongTimeout));
}

#[test]
fn a_ping_of_which_the_kernel_takes_a_part_first_is_to_be_answered_all_the_same() {
    let mut echo = Echo::open();
    echo.pass(25 * SECOND);
    assert_eq!(echo.frames(), [(Opcode::Ping, true, vec![])]);
    echo.connection.blocked(1);
    echo.pass(3 * SECOND);
    echo.connection.unblocked(echo.now);
    echo.pass(10 * SECOND - 1);
    assert_eq!((echo.frames().len(), echo.fate), (1, None));
    echo.pass(1);
    assert_eq!((echo.frames().len(), echo.fate), (1, Some(Fate::Abort)));
    assert_eq!(echo.connection.closed().map(|closed| closed.cause.clone()), Some(Cause::PongTimeout));
}

#[test]
fn a_message_that_is_not_finished_in_time_is_1008() {
    for (first, config) in [
        (client_frame(Opcode::Text, false, b"begun"), Config::default()),
        (client_frame(Opcode::Binary, true, &[0; 100])[..50].to_vec(), Config::default()),
        (client_frame(Opcode::Binary, true, &[0; 100])[..3].to_vec(), Config::default()),
    ] {
        let mut echo = Echo::open_with(config, false);
        echo.receive(&first);
        assert!(echo.connection.take_deadline_moved());
        for _ in 0..2 {
            echo.pass(14 * SECOND);
            echo.receive(&client_frame(Opcode::Ping, true, b"")[..0]);
        }
        assert_eq!(echo.close_code(), None);
        echo.pass(2 * SECOND);
        assert_eq!(echo.close_code(), Some(1008));
    }
}

#[test]
fn each_control_frame_has_a_time_of_its_own() {
    let mut echo = Echo::open();
    let ping = client_frame(Opcode::Ping, true, b"split");
    let (front, back) = ping.split_at(8);
    echo.receive(front);
    for _ in 0..10 {
        // One ping ends and the next begins in the same run, always.
        echo.pass(10 * SECOND);
        echo.receive(&[back, front].concat());
    }
    assert_eq!(echo.close_code(), None);
    // Inside a message the message's time runs, whatever comes between its fragments.
    echo.receive(back);
    echo.receive(&client_frame(Opcode::Text, false, b"begun"));
    for _ in 0..3 {
        echo.receive(front);
        echo.pass(10 * SECOND);
        echo.receive(back);
    }
    assert_eq!(echo.close_code(), Some(1008));
}

/// Its send would never be over, and until then its memory would not come back.
#[test]
fn whoever_has_to_give_way_is_cut_although_it_sends_fin() {
    let mut echo = Echo::open();
    echo.connection.blocked(1000);
    let (connection, env) = echo.env();
    connection.give_way(Cause::OverShare, env.pool);
    connection.ended(5 * SECOND);
    echo.flush();
    assert_eq!(echo.fate, Some(Fate::Abort));
    assert_eq!(echo.connection.closed().map(|closed| &closed.cause), Some(&Cause::OverShare));
}

#[test]
fn what_a_short_send_left_and_has_no_memory_for_is_told_as_such() {
    let mut echo = Echo::open();
    echo.connection.failed(std::io::ErrorKind::OutOfMemory);
    assert_eq!(echo.connection.closed().map(|closed| &closed.cause), Some(&Cause::OutOfMemory));
}

#[test]
fn a_peer_that_sends_fin_and_does_not_read_is_cut_at_the_deadline() {
    let mut echo = Echo::open();
    echo.connection.blocked(1000);
    let until = echo.now + 5 * SECOND;
    echo.connection.ended(until);
    assert!(echo.connection.take_deadline_moved());
    echo.flush();
    assert_eq!(echo.fate, None, "it may still read");
    echo.pass(4 * SECOND);
    assert_eq!(echo.fate, None);
    echo.pass(SECOND);
    assert_eq!(echo.fate, Some(Fate::Abort));
}

#[test]
fn a_long_message_streams_through_as_fragments_and_reserves_nothing() {
    let config = Config { message_bytes_max: 1 << 20, ..Config::default() };
    let mut echo = Echo::open_with(config, false);
    let text = "Straße ".repeat(40_000);
    let frame = client_frame(Opcode::Text, true, text.as_bytes());
    for run in frame.chunks(10_001) {
        echo.receive(run);
        assert!(echo.pool.used_bytes() < 64 * 1024);
    }
    assert!(echo.frames().len() > 10);
    assert_eq!(messages(&echo.frames()).0, [(Opcode::Text, text.into_bytes())]);
}

#[test]
fn a_declared_length_reserves_nothing() {
    let mut echo = Echo::open_with(Config::default(), true);
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 60_000])[..20]);
    assert!(echo.pool.used_bytes() < 4 * 1024, "{}", echo.pool.used_bytes());
}

#[test]
fn a_whole_message_application_sees_each_message_once() {
    let mut echo = Echo::open_with(Config::default(), true);
    let frames = [
        client_frame(Opcode::Text, false, "ä".as_bytes()),
        client_frame(Opcode::Ping, true, b"between"),
        client_frame(Opcode::Continuation, false, b""),
        client_frame(Opcode::Continuation, true, "ö".as_bytes()),
        client_frame(Opcode::Binary, true, &[3; 300]),
    ]
    .concat();
    for size in [1, 7, frames.len()] {
        frames.chunks(size).for_each(|run| echo.receive(run));
        let expected = [
            (Opcode::Pong, b"between".to_vec()),
            (Opcode::Text, "äö".into()),
            (Opcode::Binary, vec![3; 300]),
        ];
        let got: Vec<_> = echo.frames().into_iter().map(|(opcode, _, payload)| (opcode, payload)).collect();
        assert_eq!(got, expected, "runs of {size}");
        echo.sent.clear();
    }
}

#[test]
fn a_whole_message_of_many_small_fragments_is_copied_a_few_times_and_not_once_for_each() {
    const FRAGMENTS: usize = 8_192;
    let payload = [7; 256];
    let bytes = FRAGMENTS * payload.len();
    let mut echo = Echo::open_with(Config { message_bytes_max: bytes as u64, ..Config::default() }, true);
    let (mut grown, mut capacity, mut capacity_max) = (0, 0, 0);
    for number in 0..FRAGMENTS {
        let opcode = if number == 0 { Opcode::Binary } else { Opcode::Continuation };
        echo.receive(&client_frame(opcode, number == FRAGMENTS - 1, &payload));
        if let Some(assembly) = &echo.connection.assembly {
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
fn reading_pauses_above_the_mark_and_resumes_at_half() {
    let config = Config { queue_bytes: 1_000, ..Config::default() };
    let mut echo = Echo::open_with(config, false);
    echo.connection.blocked(600);
    let config = echo.config.clone();
    assert_eq!(echo.connection.pause_wanted(&config), None);
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 500]));
    assert_eq!(echo.connection.pause_wanted(&config), Some(true));
    assert_eq!(echo.connection.pause_wanted(&config), None);
    echo.connection.unblocked(echo.now);
    assert_eq!(echo.connection.pause_wanted(&config), None, "504 bytes are still more than half");
    echo.flush();
    assert_eq!(echo.connection.pause_wanted(&config), Some(false));
}

#[test]
fn whoever_takes_nothing_is_read_from_once_more_and_no_further() {
    let config = Config { queue_bytes: 1_000, ..Config::default() };
    let mut echo = Echo::open_with(config, false);
    let config = echo.config.clone();
    echo.connection.blocked(600);
    assert!(!echo.connection.wants_one_more(&config), "it is being read from");
    echo.receive(&client_frame(Opcode::Binary, true, &[1; 500]));
    assert_eq!(echo.connection.pause_wanted(&config), Some(true));
    assert!(echo.connection.wants_one_more(&config));
    assert_eq!(echo.connection.pause_wanted(&config), Some(true), "and pauses again after that");
    echo.connection.hold_up(true, echo.now);
    assert!(!echo.connection.wants_one_more(&config), "whoever holds it up wants nothing");
    echo.connection.hold_up(false, echo.now);
    // Each time one receive, as long as one fits: what it holds has a bound.
    let mut times = 0;
    while echo.connection.wants_one_more(&config) {
        echo.receive(&client_frame(Opcode::Binary, true, &[1; 60_000]));
        assert_eq!(echo.connection.pause_wanted(&config), Some(true));
        times += 1;
    }
    assert!((4..=5).contains(&times), "{times}");
}

#[test]
fn whoever_reads_when_full_pauses_only_where_it_is_held_up() {
    let config = Config { queue_bytes: 1_000, reads_when_full: true, ..Config::default() };
    let mut echo = Echo::open_with(config, false);
    let config = echo.config.clone();
    echo.connection.blocked(2_000);
    assert_eq!(echo.connection.pause_wanted(&config), None);
    echo.connection.hold_up(true, echo.now);
    assert_eq!(echo.connection.pause_wanted(&config), Some(true));
    echo.connection.hold_up(false, echo.now);
    assert_eq!(echo.connection.pause_wanted(&config), Some(false), "it is as full as before");
}

#[test]
fn a_ping_flood_behind_a_blocked_send_keeps_few_pongs_and_ends_in_1008() {
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
fn pongs_go_before_queued_data_and_data_stays_in_order() {
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
fn messages_queued_in_the_middle_of_a_run_keep_their_place_between_its_echoes() {
    for blocked in [false, true] {
        let mut echo = Echo::open();
        if blocked {
            echo.connection.blocked(1);
        }
        let mut bytes: Vec<u8> =
            (0..6_u8).flat_map(|index| client_frame(Opcode::Binary, true, &[index])).collect();
        let mut run = Run::new();
        let (connection, mut env) = echo.env();
        let mut seen = 0;
        while let Step::Chunk(marks, piece) = connection.poll(&mut run, &mut bytes, &mut env) {
            connection.echo(&mut run, &mut bytes, marks, piece, &mut env).unwrap();
            if seen % 2 == 1 {
                connection.send(Kind::Binary, &[100 + seen], &mut env).unwrap();
            }
            seen += 1;
        }
        let mut sent = Vec::new();
        if let Some(block) = connection.end_run(&run, &bytes, &mut env).unwrap() {
            assert!(connection.pop().is_none(), "what was queued comes behind the block");
            sent.extend_from_slice(&bytes[block]);
            connection.block_sent();
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
fn after_an_offence_bytes_are_thrown_away_up_to_a_bound() {
    let mut echo = Echo::open();
    echo.receive(&[0x83, 0x80, 1, 2, 3, 4]);
    assert_eq!(echo.connection.closed().unwrap().cause, Cause::Offence(Offence::UnknownOpcode));
    echo.receive(&vec![0; 4 * 1024 * 1024 - 6 - 1]);
    assert_eq!(echo.fate, Some(Fate::Shutdown));
    echo.receive(&[0]);
    assert_eq!(echo.fate, Some(Fate::Abort));
}
