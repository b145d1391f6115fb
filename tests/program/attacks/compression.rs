//! Compressed messages (RFC 7692): decompression bombs, frames that must not be compressed, invalid DEFLATE data, and
//! the memory of windows.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use super::deflate::{bomb, reaching_back, stored};
use super::peer::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Peer, TEXT, close, each_is_told, frame, header, masked,
    upgrade,
};
use super::server::{Server, everywhere, on_both_drivers};

const RSV1: u8 = 0x40;
const MIB: u64 = 1024 * 1024;
/// The server cannot deflate with so small a window: its messages are uncompressed and can be read here.
const PLAIN_ANSWERS: &str = "permessage-deflate; server_max_window_bits=8";

/// A connection with compression; `offer` is the client's offer. Returns the response's value too.
pub(crate) fn agree(server: &Server, path: &str, offer: &str) -> (Peer, String) {
    let mut peer = Peer::connect(server);
    peer.send(&upgrade(path, &[&format!("Sec-WebSocket-Extensions: {offer}")]));
    let answer = peer.answer();
    assert_eq!(answer.status, 101, "{answer:?}");
    let agreed = answer.field("sec-websocket-extensions").expect("an agreement").to_owned();
    (peer, agreed)
}

pub(crate) fn compressed(opcode: u8, payload: &[u8]) -> Vec<u8> {
    masked(FIN | RSV1 | opcode, payload)
}

/// The code of the Close frame that must be the only answer to `bytes`.
fn offend(server: &Server, path: &str, bytes: &[u8]) -> Option<u16> {
    let (mut peer, _) = agree(server, path, PLAIN_ANSWERS);
    peer.send(&[bytes, &frame(PING, b"more"), &frame(TEXT, b"more")].concat());
    let code = peer.close_frame();
    peer.finish();
    peer.expect_end();
    code
}

fn offend_with_each(server: &Server, code: u16, offences: &[Vec<u8>]) {
    each_is_told(code, offences, |path, bytes| offend(server, path, bytes));
}

// ---- bombs ----

#[test]
fn a_deflate_bomb_ends_with_1009_at_the_bound() {
    everywhere(&["--compress", "on", "--max-message", "1MiB"], |server| {
        let bound = MIB as usize;
        let (mut peer, _) = agree(server, "/echo", PLAIN_ANSWERS);
        peer.send(&compressed(BINARY, &bomb(bound)));
        assert_eq!(peer.message(), (BINARY, vec![b'x'; bound]), "a message of just the bound");
        for bytes in [bound + 1, 100 * bound] {
            assert_eq!(offend(server, "/echo", &compressed(BINARY, &bomb(bytes))), Some(1009), "{bytes}");
            assert_eq!(
                offend(server, "/broadcast/bombed", &compressed(TEXT, &bomb(bytes))),
                Some(1009),
                "{bytes}"
            );
        }
    });
}

#[test]
fn a_compressed_message_that_cannot_be_within_the_bound_ends_with_1009_from_its_header_alone() {
    everywhere(&["--compress", "on"], |server| {
        // Twice the bound is more than any encoder makes of what is within it.
        for length in [2 * 64 * 1024, (1 << 63) - 1] {
            let (mut peer, _) = agree(server, "/echo", PLAIN_ANSWERS);
            peer.send(&header(FIN | RSV1 | BINARY, length));
            assert_eq!(peer.close_frame(), Some(1009), "{length}");
        }
    });
}

#[test]
fn many_bombs_do_not_grow_memory() {
    on_both_drivers(&["--compress", "on", "--max-message", "1MiB"], |server| {
        let bomb = compressed(BINARY, &bomb(100 * MIB as usize));
        offend(server, "/echo", &bomb);
        let resident = server.resident_bytes();
        for _ in 0..30 {
            assert_eq!(offend(server, "/echo", &bomb), Some(1009));
        }
        let grown = server.resident_bytes().saturating_sub(resident);
        assert!(grown < 8 * MIB, "{grown} bytes more behind 30 bombs of 100 MiB");
    });
}

#[test]
fn many_large_messages_in_one_run_wait_for_their_reader_and_hold_nobody_up() {
    on_both_drivers(&["--compress", "on", "--max-message", "1MiB"], |server| {
        const MESSAGES: usize = 100;
        let (mut peer, _) = agree(server, "/echo", PLAIN_ANSWERS);
        let sent = compressed(BINARY, &bomb(MIB as usize)).repeat(MESSAGES);
        let mut writing = peer.stream.try_clone().expect("a descriptor");
        let writer = thread::spawn(move || writing.write_all(&sent));
        server.wait_until("paused", |stats| stats["pauses"].as_u64() >= Some(1));
        // 100 MiB are owed to it, of which few are made before it takes some.
        server.serves();
        let pooled = server.figure("pool_bytes");
        assert!(pooled < 12 * MIB, "{pooled} bytes for a peer that does not read");
        for at in 0..MESSAGES {
            let (opcode, payload) = peer.message();
            assert_eq!((opcode, payload.len()), (BINARY, MIB as usize), "message {at}");
        }
        writer.join().expect("no panic").expect("all was sent");
        let peak = server.figure("pool_bytes_peak");
        assert!(peak < 16 * MIB, "{peak} bytes at most");
    });
}

/// Each arrives in its own tick, so that no received span has two.
#[test]
fn a_reader_that_stalls_has_no_further_message_inflated_however_they_come() {
    on_both_drivers(&["--compress", "on"], |server| {
        const MESSAGES: usize = 600;
        const BYTES: usize = 64 * 1024;
        let (mut peer, _) = agree(server, "/echo", PLAIN_ANSWERS);
        let message = compressed(BINARY, &bomb(BYTES));
        let mut clock = Peer::open(server, "/echo");
        for _ in 0..MESSAGES {
            peer.send(&message);
            clock.send(&frame(TEXT, b"a turn"));
            assert_eq!(clock.message(), (TEXT, b"a turn".to_vec()));
        }
        server.wait_until("paused", |stats| stats["pauses"].as_u64() >= Some(1));
        let pooled = server.figure("pool_bytes");
        assert!(pooled < 2 * MIB, "{pooled} bytes for a peer that does not read");
        for at in 0..MESSAGES {
            let (opcode, payload) = peer.message();
            assert_eq!((opcode, payload.len()), (BINARY, BYTES), "message {at}");
        }
        let peak = server.figure("pool_bytes_peak");
        assert!(peak < 6 * MIB, "{peak} bytes at most");
        peer.send(&close(1000, b""));
        assert_eq!(peer.close_frame(), Some(1000));
    });
}

/// Both directions of each connection are full by then, also in the kernel: neither may wait for the other for ever.
#[test]
fn peers_that_begin_to_read_again_get_all_of_it_however_much_they_sent_before() {
    on_both_drivers(&["--compress", "on"], |server| {
        const PEERS: usize = 16;
        // More than a receive buffer has room for, in segments of their own.
        const MESSAGES: usize = 1_000;
        const BYTES: usize = 64 * 1024;
        let message = compressed(BINARY, &bomb(BYTES));
        thread::scope(|scope| {
            for _ in 0..PEERS {
                scope.spawn(|| {
                    let (mut peer, _) = agree(server, "/echo", PLAIN_ANSWERS);
                    let mut clock = Peer::open(server, "/echo");
                    for _ in 0..MESSAGES {
                        peer.send(&message);
                        clock.send(&frame(TEXT, b"a turn"));
                        assert_eq!(clock.message(), (TEXT, b"a turn".to_vec()));
                    }
                    for at in 0..MESSAGES {
                        let (opcode, payload) = peer.message();
                        assert_eq!((opcode, payload.len()), (BINARY, BYTES), "message {at}");
                    }
                    peer.send(&close(1000, b""));
                    assert_eq!(peer.close_frame(), Some(1000));
                });
            }
        });
    });
}

/// Messages before it are still answered, to the last one.
#[test]
fn a_peer_that_half_closes_behind_what_waits_gets_all_of_it() {
    on_both_drivers(&["--compress", "on"], |server| {
        const MESSAGES: usize = 200;
        const BYTES: usize = 64 * 1024;
        let (mut peer, _) = agree(server, "/echo", PLAIN_ANSWERS);
        peer.send(&compressed(BINARY, &bomb(BYTES)).repeat(MESSAGES));
        peer.finish();
        server.wait_until("paused", |stats| stats["pauses"].as_u64() >= Some(1));
        for at in 0..MESSAGES {
            let (opcode, payload) = peer.message();
            assert_eq!((opcode, payload.len()), (BINARY, BYTES), "message {at}");
        }
        peer.expect_end();
        server.wait_for_nobody();
    });
}

// ---- frames (6, 7.2) ----

#[test]
fn rsv1_without_an_agreement_ends_with_1002() {
    for flags in [&["--compress", "on"][..], &[]] {
        everywhere(flags, |server| {
            for path in ["/echo", "/broadcast/plain"] {
                let mut peer = Peer::open(server, path);
                peer.send(&compressed(TEXT, &stored(b"hello")));
                assert_eq!(peer.close_frame(), Some(1002), "{path} {flags:?}");
            }
        });
    }
}

#[test]
fn a_compressed_control_frame_or_continuation_ends_with_1002() {
    everywhere(&["--compress", "on"], |server| {
        let mut offences: Vec<_> = [PING, PONG, CLOSE].map(|opcode| compressed(opcode, b"")).into();
        offences.push(compressed(CLOSE, &[3, 0xe8]));
        // Refused before there is a message to go on with, and within one.
        offences.push(compressed(CONTINUATION, b""));
        let message = stored(b"hello");
        let start = masked(RSV1 | TEXT, &message[..4]);
        offences.push([start.clone(), masked(FIN | RSV1 | CONTINUATION, &message[4..])].concat());
        offences.push([start, masked(RSV1 | CONTINUATION, b"")].concat());
        offend_with_each(server, 1002, &offences);
    });
}

#[test]
fn the_other_reserved_bits_end_with_1002_although_compression_was_agreed_on() {
    everywhere(&["--compress", "on"], |server| {
        let bits = [0x20, 0x10, 0x60, 0x50, 0x70];
        offend_with_each(server, 1002, &bits.map(|bits| masked(FIN | bits | TEXT, &stored(b"hello"))));
    });
}

#[test]
fn a_compressed_message_may_be_fragmented_and_pinged_between() {
    everywhere(&["--compress", "on"], |server| {
        for path in ["/echo", "/broadcast/compressed?self=1"] {
            let (mut peer, _) = agree(server, path, PLAIN_ANSWERS);
            let message = stored("grüße".as_bytes());
            peer.send(&masked(RSV1 | TEXT, &message[..1]));
            for byte in &message[1..] {
                peer.send(&[masked(CONTINUATION, &[*byte]), frame(PING, b"between")].concat());
                assert_eq!(peer.frame(), (FIN | PONG, b"between".to_vec()));
            }
            peer.send(&frame(CONTINUATION, b""));
            assert_eq!(peer.message(), (TEXT, "grüße".into()), "{path}");
            // Messages that are not compressed go on as ever (6.1).
            peer.send(&frame(TEXT, b"plain"));
            assert_eq!(peer.message(), (TEXT, b"plain".to_vec()));
            peer.send(&close(1000, b""));
            assert_eq!(peer.close_frame(), Some(1000));
        }
    });
}

// ---- data ----

#[test]
fn data_that_is_not_deflate_ends_with_1007() {
    everywhere(&["--compress", "on"], |server| {
        let mut lying = stored(b"hello");
        lying[3] ^= 1;
        let large = bomb(10_000);
        let bad: [&[u8]; 7] = [
            b"\x06",
            b"\xff\xff\xff\xff\xff\xff",
            &lying,
            &stored(b"hello")[..7],
            &large[..large.len() / 2],
            &reaching_back(),
            b"\x04\xff\xff\xff\xff",
        ];
        for kind in [TEXT, BINARY] {
            let offences: Vec<_> = bad.iter().map(|payload| compressed(kind, payload)).collect();
            offend_with_each(server, 1007, &offences);
        }
    });
}

#[test]
fn a_window_that_was_not_kept_cannot_be_reached_back_into() {
    everywhere(&["--compress", "on"], |server| {
        let (mut peer, agreed) = agree(server, "/echo", PLAIN_ANSWERS);
        assert!(agreed.contains("client_no_context_takeover"), "{agreed}");
        peer.send(&compressed(TEXT, &stored(b"a secret")));
        assert_eq!(peer.message(), (TEXT, b"a secret".to_vec()));
        peer.send(&compressed(TEXT, &reaching_back()));
        assert_eq!(peer.close_frame(), Some(1007));
    });
}

#[test]
fn a_kept_window_is_the_connections_own() {
    everywhere(&["--compress", "client_max_window_bits=15"], |server| {
        let (mut one, agreed) = agree(server, "/echo", PLAIN_ANSWERS);
        assert!(!agreed.contains("client_no_context_takeover"), "{agreed}");
        one.send(&compressed(TEXT, &stored(b"a secret")));
        assert_eq!(one.message(), (TEXT, b"a secret".to_vec()));
        one.send(&compressed(TEXT, &reaching_back()));
        assert_eq!(one.message(), (TEXT, b"ttt".to_vec()));
        // Neither beside it nor in the context that it leaves is anything of it to be had.
        assert_eq!(offend(server, "/echo", &compressed(TEXT, &reaching_back())), Some(1007));
        one.send(&close(1000, b""));
        assert_eq!(one.close_frame(), Some(1000));
        one.expect_end();
        server.wait_for_nobody();
        assert_eq!(offend(server, "/echo", &compressed(TEXT, &reaching_back())), Some(1007));
    });
}

#[test]
fn inflated_text_that_is_not_utf8_ends_with_1007() {
    everywhere(&["--compress", "on"], |server| {
        let texts: [&[u8]; 4] = [b"\xff", b"ok \xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"];
        let mut offences: Vec<_> = texts.iter().map(|text| compressed(TEXT, &stored(text))).collect();
        let message = stored(b"ok \xff ok");
        offences.push([masked(RSV1 | TEXT, &message[..8]), frame(CONTINUATION, &message[8..])].concat());
        offend_with_each(server, 1007, &offences);
        // The compressed bytes themselves may be anything, and so may a binary message.
        let (mut peer, _) = agree(server, "/echo", PLAIN_ANSWERS);
        peer.send(&compressed(BINARY, &stored(b"\xff\xc0")));
        assert_eq!(peer.message(), (BINARY, b"\xff\xc0".to_vec()));
    });
}

// ---- offers and windows ----

#[test]
fn a_malformed_offer_is_declined_and_not_failed() {
    everywhere(&["--compress", "on"], |server| {
        for offer in [
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; unknown",
            "permessage-deflate;",
            "permessage-deflate; =",
            "permessage-deflate; \"",
            "permessage-bzip2",
            "x-webkit-deflate-frame",
            ";;;,,,",
            "",
        ] {
            let mut peer = Peer::connect(server);
            peer.send(&upgrade("/echo", &[&format!("Sec-WebSocket-Extensions: {offer}")]));
            let answer = peer.answer();
            assert_eq!((answer.status, answer.field("sec-websocket-extensions")), (101, None), "{offer}");
            peer.send(&frame(TEXT, b"plain"));
            assert_eq!(peer.message(), (TEXT, b"plain".to_vec()));
        }
    });
}

#[test]
fn kept_windows_stay_within_their_budget_however_many_ask() {
    const PEERS: usize = 200;
    on_both_drivers(&["--compress", "client_max_window_bits=15; memory=1MiB"], |server| {
        let resident = server.resident_bytes();
        let mut kept = 0;
        let mut peers = Vec::new();
        for _ in 0..PEERS {
            let (mut peer, agreed) = agree(server, "/echo", PLAIN_ANSWERS);
            kept += usize::from(!agreed.contains("client_no_context_takeover"));
            // A context is made with the first message.
            peer.send(&compressed(BINARY, &bomb(40_000)));
            assert_eq!(peer.message(), (BINARY, vec![b'x'; 40_000]));
            peers.push(peer);
        }
        // A window alone has 32 KiB.
        assert!((1..=32).contains(&kept), "{kept} windows are kept in 1 MiB");
        let figures = server.stats()["compression"].clone();
        assert!(figures["context_bytes"].as_u64() <= Some(MIB), "{figures}");
        let grown = server.resident_bytes().saturating_sub(resident);
        assert!(grown < 8 * MIB, "{grown} bytes more for {PEERS} peers");
        // What the first leave is there for those who come.
        drop(peers);
        server.wait_for_nobody();
        let (_peer, agreed) = agree(server, "/echo", PLAIN_ANSWERS);
        assert!(!agreed.contains("client_no_context_takeover"), "{agreed}");
    });
}

#[test]
fn an_agreement_that_waits_for_another_shard_is_kept_all_the_same() {
    // With two shards about half of the topics live on the other one.
    everywhere(&["--compress", "on", "--shards", "2"], |server| {
        for topic in 0..16 {
            let (mut peer, _) = agree(server, &format!("/broadcast/{topic}?self=1"), PLAIN_ANSWERS);
            peer.send(&compressed(TEXT, &stored(b"hello")));
            assert_eq!(peer.message(), (TEXT, b"hello".to_vec()));
        }
    });
}

// ---- floods ----

#[test]
fn declared_lengths_of_compressed_messages_reserve_nothing() {
    on_both_drivers(&["--compress", "client_max_window_bits=15", "--max-message", "1GiB"], |server| {
        server.serves();
        let resident = server.resident_bytes();
        let declared = [header(FIN | RSV1 | BINARY, 1 << 30), b"just these".to_vec()].concat();
        let declaring: Vec<Peer> = (0..200)
            .map(|at| {
                let path = ["/echo", "/broadcast/declared"][at % 2];
                let (mut peer, _) = agree(server, path, PLAIN_ANSWERS);
                peer.send(&declared);
                peer
            })
            .collect();
        let read = (200 * declared.len()) as u64;
        let stats = server.wait_until("read", |stats| stats["bytes_in"].as_u64() >= Some(read));
        let pooled = stats["pool_bytes"].as_u64().expect("a figure");
        assert!(pooled < MIB, "{pooled} bytes of buffers for what 200 peers announced");
        let grown = server.resident_bytes().saturating_sub(resident);
        assert!(grown < 16 * MIB, "{grown} bytes for what 200 peers announced");
        drop(declaring);
        server.wait_for_nobody();
    });
}

#[test]
fn fragment_floods_of_compressed_messages_stay_linear_in_time_and_bounded_in_memory() {
    on_both_drivers(&["--compress", "on"], |server| {
        for path in ["/echo", "/broadcast/flood?self=1"] {
            let cost = |payload_bytes: usize| {
                let (mut peer, _) = agree(server, path, PLAIN_ANSWERS);
                let message = stored(&vec![b'x'; payload_bytes]);
                let mut sent = masked(RSV1 | TEXT, &message[..1]);
                message[1..].iter().for_each(|byte| sent.extend_from_slice(&masked(CONTINUATION, &[*byte])));
                sent.extend_from_slice(&frame(CONTINUATION, b""));
                let before = server.shard_cpu();
                let mut writing = peer.stream.try_clone().expect("a descriptor");
                let writer = thread::spawn(move || writing.write_all(&sent));
                assert_eq!(peer.message(), (TEXT, vec![b'x'; payload_bytes]));
                writer.join().expect("no panic").expect("all was sent");
                server.serves();
                server.shard_cpu() - before
            };
            cost(4_000);
            let (few, many) = (cost(15_000), cost(60_000));
            // Four times as many, and sixteen times the work if it were quadratic.
            assert!(many < 9 * few.max(Duration::from_millis(2)), "{path}: {few:?}, then {many:?}");
        }
        let peak = server.figure("pool_bytes_peak");
        assert!(peak < 3 * MIB, "{peak} bytes of buffers");
    });
}
