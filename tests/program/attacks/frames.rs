//! Violations in frames, messages and the closing handshake, and their close codes (RFC 6455, sections 5 to 8).

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::peer::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Peer, TEXT, close, each_is_told, fragment, frame, header,
    header_in_form, mask, masked,
};
use super::server::{PATIENCE, Server, everywhere, on_both_drivers};

/// The default of `--max-message`.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;
const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;

/// Sends `bytes` and reads the Close frame, which must be the only answer, with FIN after it. Further bytes are neither
/// parsed as frames nor answered with a reset.
fn offend(server: &Server, path: &str, bytes: &[u8]) -> Option<u16> {
    let mut peer = Peer::open(server, path);
    peer.send(bytes);
    let code = peer.close_frame();
    peer.send(&[frame(PING, b"more"), frame(TEXT, b"more"), close(1000, b"")].concat());
    peer.finish();
    peer.expect_end();
    code
}

/// The close code of each violation, on a route that streams messages and on one that collects them.
fn offend_with_each(server: &Server, code: u16, offences: &[Vec<u8>]) {
    each_is_told(code, offences, |path, bytes| offend(server, path, bytes));
}

// ---- headers (5.2) ----

#[test]
fn a_length_with_its_top_bit_set_ends_with_1002() {
    everywhere(&[], |server| {
        let offences = [1 << 63, (1 << 63) + 1, u64::MAX].map(|length| header(FIN | BINARY, length));
        offend_with_each(server, 1002, &offences);
    });
}

#[test]
fn a_length_that_is_not_minimal_ends_with_1002() {
    everywhere(&[], |server| {
        let in_16_bits = [0, 1, 125].map(|length| header_in_form(FIN | BINARY, length, 2));
        let in_64_bits = [0, 125, 126, 0xffff].map(|length| header_in_form(FIN | TEXT, length, 8));
        offend_with_each(server, 1002, &in_16_bits);
        offend_with_each(server, 1002, &in_64_bits);
    });
}

#[test]
fn a_message_over_the_limit_ends_with_1009_from_its_header_alone() {
    everywhere(&[], |server| {
        let lengths = [MESSAGE_BYTES_MAX + 1, 1 << 31, 1 << 32, (1 << 63) - 1];
        let mut offences: Vec<_> = lengths.iter().map(|length| header(FIN | BINARY, *length)).collect();
        offences.push(header(TEXT, MESSAGE_BYTES_MAX + 1));
        offend_with_each(server, 1009, &offences);
    });
}

/// The answer to a Close frame comes although the peer withholds the masking key.
#[test]
fn a_length_over_the_limit_is_answered_without_waiting_for_the_masking_key() {
    everywhere(&["--max-message", "1000"], |server| {
        for path in ["/echo", "/broadcast/offended"] {
            for length in [1001, 0xffff, 0x1_0000, (1 << 63) - 1] {
                let whole = header(FIN | BINARY, length);
                let mut peer = Peer::open(server, path);
                peer.send(&whole[..whole.len() - 4]);
                assert_eq!(peer.close_frame(), Some(1009), "{length} on {path}");
                // Byte by byte it is the last one of the length that tells.
                let mut peer = Peer::open(server, path);
                peer.send(&fragment(TEXT, b"begun"));
                let whole = header(FIN | CONTINUATION, length);
                whole[..whole.len() - 4].iter().for_each(|byte| peer.send(&[*byte]));
                let mut code = None;
                while code.is_none() {
                    let (first, payload) = peer.frame();
                    code = (first == FIN | CLOSE).then(|| u16::from_be_bytes([payload[0], payload[1]]));
                }
                assert_eq!(code, Some(1009), "{length} behind a fragment on {path}");
            }
        }
        // A message within the limit goes on to wait.
        let mut peer = Peer::open(server, "/echo");
        let whole = frame(BINARY, &[7; 1000]);
        peer.send(&whole[..4]);
        server.serves();
        peer.send(&whole[4..]);
        assert_eq!(peer.message(), (BINARY, vec![7; 1000]));
    });
}

#[test]
fn fragments_over_the_limit_together_end_with_1009_from_the_header_that_passes_it() {
    everywhere(&[], |server| {
        for path in ["/echo", "/broadcast/offended"] {
            for length in [25_537, (1 << 63) - 1] {
                let mut peer = Peer::open(server, path);
                peer.send(&fragment(BINARY, &[7; 40_000]));
                peer.send(&header(CONTINUATION, length));
                let mut code = None;
                // Fragments may have been echoed before.
                while code.is_none() {
                    let (first, payload) = peer.frame();
                    assert!(matches!(first, BINARY | CONTINUATION | 0x88), "{first:#x}");
                    code = (first == FIN | CLOSE).then(|| payload[..2].to_vec());
                }
                assert_eq!(code, Some(1009_u16.to_be_bytes().to_vec()), "{path}");
                peer.finish();
                peer.expect_end();
            }
        }
    });
}

#[test]
fn a_message_of_just_the_limit_is_taken() {
    everywhere(&["--max-message", "100000"], |server| {
        let payload = vec![b'x'; 100_000];
        let mut peer = Peer::open(server, "/echo");
        peer.send(&frame(BINARY, &payload));
        assert_eq!(peer.message(), (BINARY, payload.clone()));
        peer.send(&fragment(TEXT, &payload[..60_000]));
        peer.send(&frame(CONTINUATION, &payload[..40_000]));
        assert_eq!(peer.message(), (TEXT, payload));
        peer.send(&header(FIN | BINARY, 100_001));
        assert_eq!(peer.close_frame(), Some(1009));
    });
}

#[test]
fn reserved_bits_end_with_1002() {
    everywhere(&[], |server| {
        for bits in [RSV1, RSV2, RSV3, RSV1 | RSV2 | RSV3] {
            let offences = [TEXT, BINARY, PING, PONG, CLOSE].map(|opcode| masked(FIN | bits | opcode, b""));
            offend_with_each(server, 1002, &offences);
            let continued = [fragment(TEXT, b""), masked(FIN | bits | CONTINUATION, b"x")].concat();
            assert_eq!(offend(server, "/broadcast/offended", &continued), Some(1002));
        }
    });
}

#[test]
fn reserved_opcodes_end_with_1002() {
    everywhere(&[], |server| {
        let offences: Vec<_> = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(|opcode| frame(opcode, b"")).into();
        offend_with_each(server, 1002, &offences);
        offend_with_each(server, 1002, &[fragment(3, b"x"), frame(11, &[0; 125])]);
    });
}

#[test]
fn a_fragmented_control_frame_ends_with_1002() {
    everywhere(&[], |server| {
        let offences: Vec<_> = [PING, PONG, CLOSE].map(|opcode| fragment(opcode, b"")).into();
        offend_with_each(server, 1002, &offences);
    });
}

#[test]
fn a_control_frame_over_125_bytes_ends_with_1002_from_its_header_alone() {
    everywhere(&[], |server| {
        let mut offences = Vec::new();
        for opcode in [PING, PONG, CLOSE] {
            offences.push(header(FIN | opcode, 126));
            offences.push(header(FIN | opcode, 1 << 20));
        }
        offend_with_each(server, 1002, &offences);
        let mut peer = Peer::open(server, "/echo");
        peer.send(&frame(PING, &[b'p'; 125]));
        assert_eq!(peer.frame(), (FIN | PONG, vec![b'p'; 125]));
    });
}

#[test]
fn an_unmasked_frame_ends_with_1002() {
    everywhere(&[], |server| {
        let offences: Vec<Vec<u8>> = vec![
            b"\x81\x00".to_vec(),
            b"\x81\x04bare".to_vec(),
            b"\x82\x7e\x01\x00".to_vec(),
            b"\x82\x7f\0\0\0\0\0\x01\0\0".to_vec(),
            b"\x89\x00".to_vec(),
            b"\x8a\x01x".to_vec(),
            b"\x88\x02\x03\xe8".to_vec(),
        ];
        offend_with_each(server, 1002, &offences);
    });
}

#[test]
fn a_frame_that_comes_byte_by_byte_is_judged_like_one_that_comes_whole() {
    everywhere(&[], |server| {
        let mut peer = Peer::open(server, "/echo");
        for byte in [frame(TEXT, b"slowly"), frame(PING, b"p"), frame(BINARY, &[9; 200])].concat() {
            peer.send(&[byte]);
        }
        assert_eq!(peer.message(), (TEXT, b"slowly".to_vec()));
        assert_eq!(peer.frame(), (FIN | PONG, b"p".to_vec()));
        assert_eq!(peer.message(), (BINARY, vec![9; 200]));
        for byte in header(FIN | BINARY, MESSAGE_BYTES_MAX + 1) {
            peer.send(&[byte]);
        }
        assert_eq!(peer.close_frame(), Some(1009));
    });
}

// ---- fragments (5.4) ----

#[test]
fn a_continuation_of_nothing_ends_with_1002() {
    everywhere(&[], |server| {
        let offences = [frame(CONTINUATION, b"x"), fragment(CONTINUATION, b"x"), frame(CONTINUATION, b"")];
        offend_with_each(server, 1002, &offences);
        // Behind a whole message there is nothing to go on with either.
        let mut peer = Peer::open(server, "/echo");
        peer.send(&[frame(TEXT, b"whole"), frame(CONTINUATION, b"x")].concat());
        assert_eq!(peer.message(), (TEXT, b"whole".to_vec()));
        assert_eq!(peer.close_frame(), Some(1002));
        let mut peer = Peer::open(server, "/echo");
        peer.send(&[fragment(TEXT, b"a"), frame(CONTINUATION, b"b"), frame(CONTINUATION, b"c")].concat());
        assert_eq!(peer.message(), (TEXT, b"ab".to_vec()));
        assert_eq!(peer.close_frame(), Some(1002));
    });
}

#[test]
fn a_message_inside_a_fragmented_one_ends_with_1002() {
    everywhere(&[], |server| {
        for inner in [frame(TEXT, b"b"), frame(BINARY, b""), fragment(BINARY, b"b"), fragment(TEXT, b"")] {
            let sent = [fragment(TEXT, b""), inner.clone(), frame(CONTINUATION, b"c")].concat();
            assert_eq!(offend(server, "/broadcast/offended", &sent), Some(1002));
            let mut peer = Peer::open(server, "/echo");
            peer.send(&sent);
            assert_eq!(peer.frame(), (TEXT, vec![]), "the first fragment, which was in order");
            assert_eq!(peer.close_frame(), Some(1002));
        }
    });
}

#[test]
fn control_frames_between_fragments_are_answered_at_once() {
    everywhere(&[], |server| {
        for path in ["/echo", "/broadcast/between?self=1"] {
            let mut peer = Peer::open(server, path);
            peer.send(&[fragment(TEXT, b"one "), frame(PING, b"1"), frame(PONG, b"unasked")].concat());
            let pong = loop {
                let (first, payload) = peer.frame();
                if first & 0x08 != 0 {
                    break (first, payload);
                }
            };
            assert_eq!(pong, (FIN | PONG, b"1".to_vec()), "before the message is complete");
            peer.send(&frame(CONTINUATION, b"message"));
            let (_, payload) = peer.message();
            assert!(payload.ends_with(b"message"), "{path}");
        }
    });
}

// ---- text (8.1) ----

/// A valid prefix, and the first byte that makes it invalid.
const NOT_UTF8: &[(&[u8], u8)] = &[
    (b"", 0x80),
    (b"", 0xbf),
    (b"", 0xc0),
    (b"", 0xc1),
    (b"", 0xf5),
    (b"", 0xfe),
    (b"", 0xff),
    (b"ok", 0xff),
    (b"\xc3", 0x28),
    (b"\xc3", 0xc3),
    (b"\xe0", 0x80),
    (b"\xe0", 0x9f),
    (b"\xed", 0xa0),
    (b"\xe2", 0x28),
    (b"\xe2\x82", 0x28),
    (b"\xf0", 0x80),
    (b"\xf0", 0x8f),
    (b"\xf4", 0x90),
    (b"\xf0\x9f", 0x28),
    (b"\xf0\x9f\x92", 0x28),
    (b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5", 0xff),
];

/// Reads up to the pong of `ping`, which shows that everything before it was handled.
fn read_to_pong(peer: &mut Peer, ping: &[u8]) {
    loop {
        let (first, payload) = peer.frame();
        assert_ne!(first, FIN | CLOSE, "closed too early");
        if (first, &*payload) == (FIN | PONG, ping) {
            return;
        }
    }
}

#[test]
fn bad_utf8_ends_with_1007_at_its_first_offending_byte_across_fragments() {
    everywhere(&[], |server| {
        for path in ["/echo", "/broadcast/text"] {
            for (good, bad) in NOT_UTF8 {
                let mut peer = Peer::open(server, path);
                let mut opcode = TEXT;
                for byte in *good {
                    peer.send(&fragment(opcode, &[*byte]));
                    opcode = CONTINUATION;
                }
                peer.send(&frame(PING, b"so far"));
                read_to_pong(&mut peer, b"so far");
                // The message goes on behind it, had anybody asked.
                peer.send(&fragment(opcode, &[*bad]));
                assert_eq!(peer.close_frame(), Some(1007), "{path}: {} {bad:#x}", good.escape_ascii());
                peer.finish();
                peer.expect_end();
            }
        }
    });
}

#[test]
fn bad_utf8_ends_with_1007_at_its_first_offending_byte_inside_a_frame() {
    everywhere(&[], |server| {
        for path in ["/echo", "/broadcast/text"] {
            for (good, bad) in NOT_UTF8 {
                for announced in [100, 1_000, MESSAGE_BYTES_MAX] {
                    // The rest of the frame never comes.
                    let start = [header(FIN | TEXT, announced), mask(&[good, &[*bad][..]].concat())].concat();
                    assert_eq!(offend_unfinished(server, path, &start), Some(1007), "{path}: {announced}");
                }
            }
        }
    });
}

/// Like [`offend`] for an incomplete frame: further bytes would be its payload, if they were still read.
fn offend_unfinished(server: &Server, path: &str, bytes: &[u8]) -> Option<u16> {
    let mut peer = Peer::open(server, path);
    peer.send(bytes);
    let code = peer.close_frame();
    peer.finish();
    peer.expect_end();
    code
}

#[test]
fn bad_utf8_is_found_across_tcp_segments_and_not_before_it_is_there() {
    everywhere(&[], |server| {
        for announced in [10, 1_000, MESSAGE_BYTES_MAX] {
            let mut peer = Peer::open(server, "/echo");
            let before = server.figure("bytes_in");
            let front = [header(FIN | TEXT, announced), mask(b"ok \xf0\x9f")].concat();
            peer.send(&front);
            server.wait_for_bytes(before, front.len());
            // The mask goes on where it stood: at the sixth byte of the payload.
            peer.send(&mask(b"ok \xf0\x9f\xc3")[5..]);
            assert_eq!(peer.close_frame(), Some(1007), "{announced}");
        }
    });
}

#[test]
fn text_that_ends_inside_a_character_ends_with_1007() {
    everywhere(&[], |server| {
        let cut: [&[u8]; 4] = [b"\xc3", b"ok \xe2\x82", b"\xf0\x9f\x92", b"\xe2"];
        let offences: Vec<_> = cut.iter().map(|text| frame(TEXT, text)).collect();
        offend_with_each(server, 1007, &offences);
        let long = [&[b'x'; 500][..], b"\xe2\x82"].concat();
        offend_with_each(server, 1007, &[frame(TEXT, &long)]);
        let mut peer = Peer::open(server, "/echo");
        peer.send(&[fragment(TEXT, b"\xe2\x82"), frame(CONTINUATION, b"")].concat());
        assert_eq!(peer.frame().0, TEXT);
        assert_eq!(peer.close_frame(), Some(1007));
    });
}

#[test]
fn a_character_that_is_split_between_fragments_is_whole() {
    everywhere(&[], |server| {
        let text = "grüße → 水 🜁 𐍈".as_bytes();
        let mut peer = Peer::open(server, "/echo");
        for cut in 0..=text.len() {
            peer.send(&[fragment(TEXT, &text[..cut]), frame(CONTINUATION, &text[cut..])].concat());
            assert_eq!(peer.message(), (TEXT, text.to_vec()));
        }
        // Binary messages may be anything.
        peer.send(&frame(BINARY, b"\xff\xc0\x80"));
        assert_eq!(peer.message(), (BINARY, b"\xff\xc0\x80".to_vec()));
    });
}

// ---- Close frames (5.5.1, 7.4) ----

#[test]
fn a_close_payload_of_one_byte_ends_with_1002() {
    everywhere(&[], |server| {
        let offences = [frame(CLOSE, b"\x03"), frame(CLOSE, b"\xff")];
        offend_with_each(server, 1002, &offences);
    });
}

#[test]
fn a_close_code_that_must_not_be_sent_ends_with_1002() {
    everywhere(&[], |server| {
        let codes = [
            0, 1, 100, 999, 1004, 1005, 1006, 1015, 1016, 1017, 1100, 1999, 2000, 2999, 5000, 5001, 10_000,
            65_535,
        ];
        let offences: Vec<_> = codes.iter().map(|code| close(*code, b"")).collect();
        offend_with_each(server, 1002, &offences);
    });
}

#[test]
fn a_close_reason_that_is_not_utf8_ends_with_1007() {
    everywhere(&[], |server| {
        let reasons: [&[u8]; 5] =
            [b"\xff", b"cut \xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"];
        let offences: Vec<_> = reasons.iter().map(|reason| close(1000, reason)).collect();
        offend_with_each(server, 1007, &offences);
    });
}

#[test]
fn a_good_close_is_answered_with_its_code_and_the_server_closes_tcp_first() {
    everywhere(&[], |server| {
        for path in ["/echo", "/broadcast/closed"] {
            for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999] {
                let mut peer = Peer::open(server, path);
                peer.send(&close(code, &[b'r'; 123]));
                assert_eq!(peer.close_frame(), Some(code));
                // This side has not said FIN, and still the connection ends.
                peer.expect_end();
            }
        }
    });
}

#[test]
fn a_close_without_a_code_is_answered_without_one_and_never_by_1005() {
    everywhere(&[], |server| {
        let mut peer = Peer::open(server, "/echo");
        peer.send(&frame(CLOSE, b""));
        assert_eq!(peer.frame(), (FIN | CLOSE, vec![]));
        peer.expect_end();
        server.wait_for_nobody();
        assert_eq!(server.stats()["closes"]["1005"], 1, "it is counted as what it stands for");
    });
}

#[test]
fn nothing_behind_a_close_is_read_as_frames() {
    everywhere(&[], |server| {
        let more = [frame(TEXT, b"more"), frame(PING, b"more"), close(1001, b""), frame(15, b"")].concat();
        for path in ["/echo", "/broadcast/closed"] {
            let mut peer = Peer::open(server, path);
            peer.send(&[close(1000, b"bye"), more.clone()].concat());
            assert_eq!(peer.close_frame(), Some(1000));
            peer.expect_end();
        }
        // Not even the rest of a message that had begun.
        let mut peer = Peer::open(server, "/echo");
        peer.send(&[fragment(TEXT, b"begun"), close(1000, b""), frame(CONTINUATION, b"more"), more].concat());
        assert_eq!(peer.frame(), (TEXT, b"begun".to_vec()));
        assert_eq!(peer.close_frame(), Some(1000));
        peer.expect_end();
    });
}

#[test]
fn a_close_comes_behind_the_echoes_that_are_owed() {
    everywhere(&[], |server| {
        let mut peer = Peer::open(server, "/echo");
        let texts: Vec<Vec<u8>> = (0..200).map(|at| vec![b'a' + at as u8 % 26; at * 5]).collect();
        let mut sent: Vec<u8> = texts.iter().flat_map(|text| frame(TEXT, text)).collect();
        sent.extend_from_slice(&close(1000, b""));
        peer.send(&sent);
        for text in texts {
            assert_eq!(peer.message(), (TEXT, text));
        }
        assert_eq!(peer.close_frame(), Some(1000));
        peer.expect_end();
    });
}

#[test]
fn after_an_error_nothing_more_is_read_as_frames() {
    everywhere(&[], |server| {
        let more = [frame(PING, b"more"), frame(TEXT, b"more"), close(1000, b""), frame(15, b"")].concat();
        let offences: [(u16, Vec<u8>); 8] = [
            (1002, frame(3, b"x")),
            (1002, masked(FIN | RSV2 | TEXT, b"x")),
            (1002, frame(CONTINUATION, b"x")),
            (1002, fragment(PING, b"x")),
            (1002, close(999, b"")),
            (1007, frame(TEXT, b"\xff")),
            (1007, close(1000, b"\xff")),
            (1009, header(FIN | BINARY, MESSAGE_BYTES_MAX + 1)),
        ];
        for path in ["/echo", "/broadcast/offended"] {
            for (code, bytes) in &offences {
                // In the same packet, so that it lies there to be read.
                assert_eq!(offend(server, path, &[&bytes[..], &more].concat()), Some(*code), "{path}");
            }
        }
        let offended = 2 * offences.len() as u64;
        server.wait_for_nobody();
        let stats = server.stats();
        assert_eq!(stats["causes"]["offence"], offended);
        assert_eq!(stats["messages_in"], 0, "nothing behind an offence is a message");
    });
}

#[test]
fn what_came_whole_before_an_error_is_answered_before_the_close() {
    everywhere(&[], |server| {
        for bad in [frame(3, b""), frame(TEXT, b"\xff"), header(FIN | TEXT, 1 << 40), b"\x81\x00".to_vec()] {
            let mut peer = Peer::open(server, "/echo");
            peer.send(&[frame(TEXT, b"one"), frame(PING, b"two"), frame(BINARY, b"three"), bad].concat());
            assert_eq!(peer.frame(), (FIN | TEXT, b"one".to_vec()));
            assert_eq!(peer.frame(), (FIN | PONG, b"two".to_vec()));
            assert_eq!(peer.frame(), (FIN | BINARY, b"three".to_vec()));
            assert!(peer.close_frame().is_some());
            peer.finish();
            peer.expect_end();
        }
    });
}

/// A separate server for each driver, which the test ends with a drain.
fn drained_on_both_drivers(test: impl Fn(&Server, &mut Peer)) {
    for driver in ["auto", "epoll"] {
        let server = Server::start(&["--driver", driver]);
        let mut peer = Peer::open(&server, "/echo");
        peer.send(&frame(TEXT, b"before"));
        assert_eq!(peer.message(), (TEXT, b"before".to_vec()));
        server.terminate();
        assert_eq!(peer.close_frame(), Some(1001));
        test(&server, &mut peer);
        assert_eq!(server.exit_code(), Some(0), "{driver}");
    }
}

#[test]
fn a_close_of_the_servers_is_completed_by_the_peers_and_the_server_closes_tcp_first() {
    drained_on_both_drivers(|_, peer| {
        // What was on its way is read to find the Close behind it, and not answered any more.
        peer.send(&[frame(TEXT, b"on its way"), frame(PING, b"on its way"), close(1001, b"")].concat());
        peer.expect_end();
    });
}

#[test]
fn an_error_behind_the_servers_close_gets_no_second_close() {
    drained_on_both_drivers(|_, peer| {
        peer.send(&[frame(3, b""), frame(TEXT, b"more")].concat());
        peer.finish();
        peer.expect_end();
    });
}

#[test]
fn a_peer_that_stays_after_an_error_is_reset_only_at_the_close_deadline() {
    on_both_drivers(&[], |server| {
        let mut peer = Peer::open(server, "/echo");
        let started = Instant::now();
        peer.send(&frame(3, b""));
        assert_eq!(peer.close_frame(), Some(1002));
        peer.expect_end();
        // It dribbles on, and listens for a reset between two bytes: FIN has come, so that nothing else wakes it.
        let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let mut revents = PollFlags::empty();
        while !revents.contains(PollFlags::ERR) {
            assert!(started.elapsed() < PATIENCE, "never reset");
            if peer.stream.write_all(b"x").is_err() {
                break;
            }
            let mut watched = [PollFd::new(&*peer.stream, PollFlags::empty())];
            poll(&mut watched, Some(&patience)).expect("a descriptor");
            revents = watched[0].revents();
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(4_900), "reset after {took:?}");
        server.wait_for_nobody();
    });
}

// ---- the client role ----

/// The report of `echoring bench` when its server sends `bytes` after the handshake: its Close frame's code.
fn offend_the_client(bytes: &[u8]) -> Option<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/echo", listener.local_addr().expect("an address"));
    let mut client = Command::new(env!("CARGO_BIN_EXE_echoring"))
        .args(["bench", &url, "-c", "1", "--threads", "1", "-d", "1s", "--warmup", "0s"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let (stream, _) = listener.accept().expect("it connects");
    let mut peer = Peer::over(stream);
    peer.answer_upgrade();
    peer.send(bytes);
    let code = peer.masked_close_frame();
    drop((peer, listener));
    client.kill().expect("it is there");
    client.wait().expect("it ran");
    code
}

#[test]
fn a_masked_frame_of_a_server_ends_with_1002_from_the_client() {
    for bytes in [frame(TEXT, b"masked"), frame(BINARY, b""), frame(PING, b"x"), close(1000, b"")] {
        assert_eq!(offend_the_client(&bytes), Some(1002));
    }
}

#[test]
fn the_client_is_as_strict_as_the_server() {
    let cases: [(&[u8], u16); 13] = [
        (b"\xc1\x00", 1002),
        (b"\xa2\x00", 1002),
        (b"\x83\x00", 1002),
        (b"\x8f\x00", 1002),
        (b"\x80\x00", 1002),
        (b"\x09\x00", 1002),
        (b"\x89\x7e\x00\x7e", 1002),
        (b"\x82\x7e\x00\x05", 1002),
        (b"\x82\x7f\x80\0\0\0\0\0\0\0", 1002),
        (b"\x01\x01a\x81\x01b", 1002),
        (b"\x81\x0a\xff", 1007),
        (b"\x88\x01\x03", 1002),
        (b"\x88\x02\x03\xed", 1002),
    ];
    for (bytes, code) in cases {
        assert_eq!(offend_the_client(bytes), Some(code), "{}", bytes.escape_ascii());
    }
}
