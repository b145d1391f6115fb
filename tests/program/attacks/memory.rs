//! Memory that some clients use up is freed for the others, the least important first, and resident memory is as
//! docs/reference/configuration.md says.

use std::io::{ErrorKind, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::peer::{BINARY, FIN, Peer, TEXT, frame, upgrade};
use super::server::{Server, everywhere, on_both_drivers, through_tls};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Partially used pages of the allocator, per shard.
const PARTLY_FILLED: u64 = 4 * MIB;

/// A server's memory besides its budget once its receive regions have been used, without the program's text, whose size
/// depends on the build profile.
fn idle_bytes(server: &Server) -> u64 {
    let payload = vec![7; 60_000];
    let mut peers: Vec<Peer> = (0..8).map(|_| Peer::open(server, "/echo")).collect();
    for _ in 0..10 {
        peers.iter_mut().for_each(|peer| peer.send(&frame(BINARY, &payload)));
        peers.iter_mut().for_each(|peer| assert_eq!(peer.frame().1, payload));
    }
    let idle = server.anonymous_bytes() - server.figure("pool_bytes");
    peers.into_iter().for_each(Peer::reset);
    server.wait_for_nobody();
    assert!(idle <= 9 * MIB + 12 * MIB, "{idle} bytes for one shard, the program and the admin address");
    idle
}

/// Fails unless resident memory matches the formula of docs/reference/configuration.md: at most 5 % above it with
/// `charged` instead of the budget, and at least 85 % of the current charge. The allocator returns pages to the
/// kernel with a delay, so a peak is awaited.
fn check_resident(server: &Server, idle: u64, charged: u64, connections: u64, topics: u64) {
    let formula = charged + connections * 256 + topics * 1_024;
    server.wait_until(&format!("resident within 5 % of {formula} bytes"), |_| {
        server.anonymous_bytes() - idle <= formula + formula / 20
    });
    let (resident, now) = (server.anonymous_bytes() - idle, server.figure("pool_bytes"));
    // A buffer's room that nobody has written to is charged, and not resident: 8 % where messages of 60,000 bytes are in
    // buffers of 64 KiB, besides the last buffer of each connection.
    assert!(resident >= now - now / 20 * 3, "{resident} bytes resident, {now} charged");
}

fn session(server: &Server) -> Peer {
    let mut peer = Peer::connect(server);
    peer.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
    assert_eq!(peer.answer().status, 101);
    peer
}

/// Writes until it is stopped or the server disconnects, whether or not anything is read.
fn write_on(peer: &mut Peer, messages: &[u8], stop: &AtomicBool) {
    peer.stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    while !stop.load(Ordering::Relaxed) {
        match peer.stream.write_all(messages) {
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            _ => {}
        }
    }
}

/// Stops the writers, also if a test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn histories_take_their_share_at_most_and_cost_others_nothing() {
    const BUDGET: u64 = 64 * MIB;
    const TOPICS: u64 = 4_000;
    everywhere(&["--memory-budget", "64MiB"], |server| {
        let idle = idle_bytes(server);
        let text = "x".repeat(17_000);
        for publisher in 0..2 {
            let mut peer = session(server);
            for topic in 0..TOPICS / 2 {
                let name = format!("{publisher}-{topic}");
                let publish = format!(r#"{{"type":"publish","topic":"{name}","text":"{text}"}}"#);
                peer.send(&frame(TEXT, publish.as_bytes()));
                if topic % 500 == 0 {
                    // Whoever comes while histories grow is served.
                    server.serves();
                }
            }
            server.wait_until("published", |stats| {
                stats["publications"]["accepted"].as_u64() >= Some((publisher + 1) * TOPICS / 2)
            });
        }
        let pooled = server.figure("pool_bytes");
        assert!(pooled > BUDGET / 3, "histories were to fill their share: {pooled}");
        assert!(pooled < BUDGET / 2 + 8 * MIB, "{pooled} bytes although histories may take half");
        let mut others: Vec<Peer> = (0..60).map(|_| Peer::open(server, "/echo")).collect();
        for peer in &mut others {
            let payload = vec![7; 50_000];
            peer.send(&frame(BINARY, &payload));
            assert_eq!(peer.message(), (BINARY, payload));
        }
        check_resident(server, idle, server.figure("pool_bytes_peak") + PARTLY_FILLED, 62, TOPICS);
        let causes = &server.stats()["causes"];
        assert!(causes["out-of-memory"].is_null() && causes["over-share"].is_null(), "{causes}");
    });
}

/// Contexts alone would fill the share of histories. They are freed whenever somebody needs the memory: on the same shard,
/// or on another.
#[test]
fn compression_contexts_give_way_to_histories_and_to_buffers() {
    for shards in [1, 2] {
        contexts_give_way(shards);
    }
}

fn contexts_give_way(shards: usize) {
    const ROOMS: u64 = 40;
    const KEPT: u64 = 50;
    let shards_flag = shards.to_string();
    let flags = [
        "--memory-budget",
        "16MiB",
        "--compress",
        "shared",
        "--ping-interval",
        "1h",
        "--shards",
        &shards_flag,
    ];
    on_both_drivers(&flags, |server| {
        // On one of the shards, each room has the four subscribers that a context needs.
        let in_room = |room| (0..4 * shards - (shards - 1)).map(move |_| room);
        let _rooms: Vec<Peer> = (0..ROOMS)
            .flat_map(in_room)
            .map(|room| open_compressed(server, &format!("room-{room}")))
            .collect();
        let (mut publisher, text) = (session(server), "x".repeat(60_000));
        let mut published = 0;
        let mut publish = |topics: u64, name: &str, text: &str| {
            for topic in 0..topics {
                let publish = format!(r#"{{"type":"publish","topic":"{name}-{topic}","text":"{text}"}}"#);
                publisher.send(&frame(TEXT, publish.as_bytes()));
            }
            published += topics;
            server.wait_until("published", |stats| stats["publications"]["accepted"] == published);
        };
        for round in 0..2 {
            publish(ROOMS, "room", "some words");
            publish(KEPT, &format!("kept-{round}"), &text);
        }
        assert_eq!(server.figure("histories_evicted"), 0, "histories may take 8 MiB");
        let compression_bytes = || server.metric("echoring_topic_compression_bytes");
        publish(ROOMS, "room", "some words");
        let before = compression_bytes();
        assert!(before > MIB, "{before} bytes of contexts");
        // Others need what is left: each has sent the greater part of a message.
        let mut others = Vec::new();
        server.wait_until("contexts freed", |_| {
            let mut peer = Peer::open(server, "/echo");
            peer.send(&frame(BINARY, &[7; 30_000])[..20_000]);
            others.push(peer);
            compression_bytes() < before / 2
        });
        let stats = server.stats();
        assert_eq!(stats["histories_evicted"], 0, "{stats}");
        assert!(stats["causes"].as_object().is_none_or(|causes| causes.is_empty()), "{stats}");
    });
}

/// A subscriber of a raw route whose messages are compressed.
fn open_compressed(server: &Server, topic: &str) -> Peer {
    let mut peer = Peer::connect(server);
    let path = format!("/broadcast/{topic}");
    peer.send(&upgrade(&path, &["Sec-WebSocket-Extensions: permessage-deflate"]));
    assert_eq!(peer.answer().status, 101);
    peer
}

#[test]
fn a_connection_creates_so_many_topics_and_no_more() {
    on_both_drivers(&["--memory-budget", "64MiB"], |server| {
        let mut peer = session(server);
        for topic in 0..4_097 {
            let publish = format!(r#"{{"type":"publish","topic":"t{topic}","text":"x"}}"#);
            peer.send(&frame(TEXT, publish.as_bytes()));
        }
        let (_, said) = peer.message();
        let said = String::from_utf8(said).expect("text");
        assert!(said.contains("too-many-topics-per-connection"), "{said}");
        // Others begin theirs, and the same connection goes on with its own.
        let mut other = session(server);
        for (peer, topic) in [(&mut other, "other"), (&mut peer, "t7")] {
            let publish = format!(r#"{{"type":"publish","id":1,"topic":"{topic}","text":"x"}}"#);
            peer.send(&frame(TEXT, publish.as_bytes()));
            let said = String::from_utf8(peer.message().1).expect("text");
            assert!(said.contains(r#""type":"published""#), "{said}");
        }
    });
}

/// 79 of them hold more than the node has; those that read continue.
#[test]
fn peers_that_never_read_give_way_to_those_that_do() {
    stalled_give_way(1);
}

/// The requester may be on another shard than the holders of memory.
#[test]
fn peers_that_never_read_give_way_to_those_that_do_on_other_shards() {
    stalled_give_way(3);
}

fn stalled_give_way(shards: u64) {
    const STALLED: usize = 79;
    on_both_drivers(&["--memory-budget", "32MiB", "--shards", &shards.to_string()], |server| {
        let idle = idle_bytes(server);
        let mut readers: Vec<Peer> = (0..30).map(|_| Peer::open(server, "/echo")).collect();
        let mut stalled: Vec<Peer> = (0..STALLED)
            .map(|_| {
                let mut peer = Peer::connect_narrow(server, 4 * 1024);
                peer.upgrade("/echo");
                peer
            })
            .collect();
        let stop = AtomicBool::new(false);
        let messages = frame(BINARY, &vec![7; 60_000]).repeat(4);
        thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for peer in &mut stalled {
                scope.spawn(|| write_on(peer, &messages, &stop));
            }
            for round in 0..40_u8 {
                for reader in &mut readers {
                    let payload = vec![round; 20_000];
                    reader.send(&frame(BINARY, &payload));
                    assert_eq!(reader.frame(), (FIN | BINARY, payload), "who reads goes on");
                }
            }
            server.wait_until("given way", |stats| stats["causes"]["over-share"].as_u64() > Some(0));
            for reader in &mut readers {
                reader.send(&frame(TEXT, b"still here"));
                assert_eq!(reader.frame(), (0x81, b"still here".to_vec()));
            }
        });
        let causes = &server.stats()["causes"];
        assert!(causes["out-of-memory"].is_null(), "{causes}");
        assert!(server.figure("pool_bytes") <= 32 * MIB);
        check_resident(server, idle, 32 * MIB + shards * PARTLY_FILLED, 109, 0);
        readers.into_iter().chain(stalled).for_each(Peer::reset);
        server.wait_for_nobody();
    });
}

/// Each holds no more than its share, so that only the deadline ends it.
#[test]
fn peers_that_never_read_are_ended_by_a_deadline_and_readers_go_on() {
    const STALLED: u64 = 10;
    on_both_drivers(&["--send-timeout", "1s"], |server| {
        let mut readers: Vec<Peer> = (0..10).map(|_| Peer::open(server, "/echo")).collect();
        let mut stalled: Vec<Peer> = (0..STALLED)
            .map(|_| {
                let mut peer = Peer::connect_narrow(server, 4 * 1024);
                peer.upgrade("/echo");
                peer
            })
            .collect();
        let (stop, messages) = (AtomicBool::new(false), frame(BINARY, &vec![7; 60_000]).repeat(4));
        thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for peer in &mut stalled {
                scope.spawn(|| write_on(peer, &messages, &stop));
            }
            server.wait_until("ended", |stats| {
                for reader in &mut readers {
                    reader.send(&frame(TEXT, b"reading"));
                    assert_eq!(reader.frame(), (FIN | TEXT, b"reading".to_vec()));
                }
                stats["causes"]["send-timeout"] == STALLED
            });
        });
        let stats = server.stats();
        assert_eq!(stats["connections"], 10, "{stats}");
        assert_eq!(stats["causes"].as_object().map(|causes| causes.len()), Some(1), "{}", stats["causes"]);
    });
}

/// A stalled subscriber costs reading ones nothing, whatever happens to it.
#[test]
fn subscribers_that_read_get_everything_while_stalled_ones_are_disconnected() {
    const STALLED: u64 = 10;
    on_both_drivers(&["--shards", "2"], |server| {
        let mut readers: Vec<Peer> = (0..20).map(|_| Peer::open(server, "/broadcast/t")).collect();
        let stalled: Vec<Peer> = (0..STALLED)
            .map(|_| {
                let mut peer = Peer::connect_narrow(server, 4 * 1024);
                peer.upgrade("/broadcast/t");
                peer
            })
            .collect();
        let mut publisher = Peer::open(server, "/broadcast/t");
        server.wait_until("subscribed", |stats| stats["subscriptions"] == 21 + STALLED);
        let mut round = 0_u32;
        server.wait_until("disconnected", |stats| {
            for _ in 0..10 {
                let payload = round.to_be_bytes().repeat(4 * 1024);
                publisher.send(&frame(BINARY, &payload));
                for reader in &mut readers {
                    assert_eq!(reader.message(), (BINARY, payload.clone()), "round {round}");
                }
                round += 1;
            }
            stats["closes"]["4008"] == STALLED
        });
        let stats = server.stats();
        assert_eq!(stats["subscriptions"], 21, "{stats}");
        assert_eq!(stats["closes"].as_object().map(|closes| closes.len()), Some(1), "{}", stats["closes"]);
        stalled.into_iter().for_each(Peer::reset);
    });
}

/// Nobody holds more than others: memory is only freed by closing a connection.
#[test]
fn handshakes_succeed_when_the_budget_is_spent_down_to_their_reserve() {
    const BUDGET: u64 = 16 * MIB;
    everywhere(&["--memory-budget", "16MiB"], |server| {
        // A message that nobody finishes takes a buffer for good, until its holder is ended for it.
        let unfinished = &frame(BINARY, &[7; 50_000])[..40_000];
        let hold = || {
            let mut peer = Peer::open(server, "/broadcast/t");
            let _ = peer.offer(unfinished);
            peer
        };
        let mut holders: Vec<Peer> = (0..500).map(|_| hold()).collect();
        for _ in 0..60 {
            holders.push(hold());
            let mut peer = Peer::open(server, "/echo");
            peer.send(&frame(TEXT, b"a newcomer"));
            assert_eq!(peer.frame(), (FIN | TEXT, b"a newcomer".to_vec()));
            let pooled = server.figure("pool_bytes");
            assert!(pooled > BUDGET * 3 / 4, "the budget is not spent: {pooled} bytes");
        }
        let (peak, causes) = (server.figure("pool_bytes_peak"), &server.stats()["causes"]);
        assert!(peak > BUDGET - BUDGET / 8, "{peak} bytes at most");
        assert!(causes["over-share"].as_u64() > Some(0) && causes["out-of-memory"].is_null(), "{causes}");
        holders.into_iter().for_each(Peer::reset);
        server.wait_for_nobody();
    });
}

/// Unaccepted bytes of a topic's log stay charged until the kernel accepts them.
#[test]
fn frames_under_way_to_subscribers_that_never_read_are_in_the_budget() {
    on_both_drivers(&["--memory-budget", "48MiB", "--max-message", "1MiB"], |server| {
        let idle = idle_bytes(server);
        let mut publisher = Peer::open(server, "/broadcast/large?self=1");
        let mut stalled = Vec::new();
        for round in 0..60_u8 {
            let mut peer = Peer::connect_narrow(server, 4 * 1024);
            peer.upgrade("/broadcast/large");
            stalled.push(peer);
            // Each of them is stuck with another frame.
            let payload = vec![round; 1 << 20];
            publisher.send(&frame(BINARY, &payload));
            assert_eq!(publisher.message(), (BINARY, payload));
            assert!(server.figure("pool_bytes") <= 48 * MIB);
        }
        check_resident(server, idle, 48 * MIB + PARTLY_FILLED, 61, 1);
        stalled.into_iter().for_each(Peer::reset);
        drop(publisher);
        server.wait_for_nobody();
    });
}

#[test]
fn half_a_client_hello_costs_36_kib() {
    const PEERS: u64 = 200;
    through_tls(&[], |server| {
        server.serves();
        let before = server.figure("pool_bytes");
        let received = server.figure("bytes_in");
        // A record of the handshake as long as there are, of which half comes.
        let half = [&[22, 3, 1, 0x40, 0][..], &[1, 0, 0x3f, 0xfc, 3, 3], &[7; 8_000]].concat();
        let peers: Vec<Peer> = (0..PEERS)
            .map(|_| {
                let mut peer = Peer::connect_plainly(server);
                peer.send(&half);
                peer
            })
            .collect();
        server.wait_for_bytes(received, PEERS as usize * half.len());
        // Until its turn comes, the input of a handshake is there twice.
        server.wait_until("36 KiB for each half a ClientHello", |_| {
            let each = (server.figure("pool_bytes") - before) / PEERS;
            each <= 36 * KIB + 64
        });
        peers.into_iter().for_each(Peer::reset);
        server.wait_for_nobody();
    });
}
