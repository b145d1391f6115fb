//! Resources that a peer can make the server spend: time, memory, descriptors. Each attack is bounded, and costs other
//! clients nothing.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{
    Codecs, Connection, ConnectionConfig, Entropy, Env, SpanCursor, Step, TransportAction,
};
use echoring_proto::limits::{MESSAGE_PROGRESS_TIME, Nanos, SECOND};

use super::peer::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Peer, TEXT, close, fragment, frame, header, upgrade,
};
use super::server::{Server, everywhere, on_both_drivers};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// The default of `--queue-bytes`.
const QUEUE_BYTES: u64 = 256 * KIB;

// ---- deadlines ----

/// A server's end of a connection on a simulated clock, because the deadline of a message is longer than a test should
/// take.
struct Clocked {
    connection: Connection,
    pool: Pool,
    codecs: Codecs,
    config: ConnectionConfig,
    entropy: Entropy,
    now: Nanos,
    fate: Option<TransportAction>,
}

impl Clocked {
    fn open() -> Clocked {
        let (mut pool, mut entropy) = (Pool::standalone(), Entropy::new(1));
        let (config, now) = (ConnectionConfig::default(), 100 * SECOND);
        let mut codecs = Codecs::new(config.compression, Lease::new(Budget::new(0), 1));
        let env = Env { pool: &mut pool, codecs: &mut codecs, config: &config, now, entropy: &mut entropy };
        let connection = Connection::server(&env);
        let mut clocked = Clocked { connection, pool, codecs, config, entropy, now, fate: None };
        clocked.receive(&upgrade("/echo", &[]));
        assert!(clocked.sent().starts_with(b"HTTP/1.1 101 "));
        clocked
    }

    fn receive(&mut self, bytes: &[u8]) {
        let (mut cursor, mut bytes) = (SpanCursor::new(), bytes.to_vec());
        let Clocked { connection, pool, codecs, config, entropy, now, .. } = self;
        let mut env = Env { pool, codecs, config, now: *now, entropy };
        connection.begin_span(env.now);
        loop {
            match connection.poll(&mut cursor, &mut bytes, &mut env) {
                Step::Idle => break,
                Step::Head(head) => {
                    env.pool.put(head);
                    connection.accept(Some([b'A'; 24]), None, &[], false, &mut env).expect("memory");
                }
                // What it would echo is of no interest here.
                _ => {}
            }
        }
        connection.end_span(&cursor, &bytes, &mut env).expect("memory");
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some(buffer) = self.connection.pop() {
            sent.extend_from_slice(buffer.as_slice());
            self.pool.put(buffer);
        }
        self.fate = self.connection.take_transport_action().or(self.fate);
        sent
    }

    /// Advances the clock to the next deadline, or by `most`.
    fn pass(&mut self, most: Nanos) {
        self.now = self.connection.deadline(&self.config).clamp(self.now, self.now + most);
        if self.connection.deadline(&self.config) <= self.now {
            let Clocked { connection, pool, codecs, config, entropy, now, .. } = self;
            connection.handle_timeout(&mut Env { pool, codecs, config, now: *now, entropy });
        }
    }
}

#[test]
fn dribbled_frames_end_with_4009_when_their_first_kibibyte_is_due() {
    let long = frame(BINARY, &[7; 1000]);
    let fragments: Vec<u8> = [fragment(TEXT, b"")]
        .into_iter()
        .chain((0..200).map(|_| fragment(CONTINUATION, b"x")))
        .flatten()
        .collect();
    let pinged: Vec<u8> =
        [fragment(TEXT, b"")].into_iter().chain((0..200).map(|_| frame(PING, b""))).flatten().collect();
    for bytes in [long, header(FIN | BINARY, 60_000), fragments, pinged] {
        let mut peer = Clocked::open();
        let begun = peer.now;
        let mut closed_at = None;
        // A byte each second, so that nobody could say that it is silent.
        for byte in bytes.iter().chain(std::iter::repeat(&b'x')) {
            peer.receive(&[*byte]);
            peer.pass(SECOND);
            let sent = peer.sent();
            if sent
                .windows(4)
                .any(|four| four == [FIN | CLOSE, 2 + "message arrived too slowly".len() as u8, 0x0f, 0xa9])
            {
                closed_at = Some(peer.now);
                break;
            }
            assert!(peer.now < begun + 2 * MESSAGE_PROGRESS_TIME, "it goes on for ever");
        }
        assert_eq!(closed_at, Some(begun + MESSAGE_PROGRESS_TIME));
        // Dribbling on does not help it either: FIN now, a reset at the close deadline.
        assert_eq!(peer.fate, Some(TransportAction::Shutdown));
        while peer.fate == Some(TransportAction::Shutdown) {
            peer.receive(b"x");
            peer.pass(SECOND);
            peer.sent();
        }
        assert_eq!(
            (peer.fate, peer.now),
            (Some(TransportAction::Abort), begun + MESSAGE_PROGRESS_TIME + peer.config.close_timeout)
        );
    }
}

#[test]
fn a_peer_that_sends_fin_and_never_reads_is_gone_after_the_close_deadline() {
    on_both_drivers(&[], |server| {
        let mut peer = fill_the_way(server);
        peer.finish();
        server.wait_for_nobody();
        drop(peer);
    });
}

#[test]
fn a_peer_that_floods_behind_an_error_is_cut() {
    on_both_drivers(&[], |server| {
        let mut peer = Peer::open(server, "/echo");
        peer.send(&frame(3, b""));
        assert_eq!(peer.close_frame(), Some(1002));
        let mut taken = 0_u64;
        while let Ok(count) = peer.stream.write(&[0; 64 * 1024]) {
            taken += count as u64;
            assert!(taken < 64 * MIB, "the server reads all that is sent behind an error");
        }
        server.wait_for_nobody();
    });
}

/// A peer that has disconnected does not keep its slot, whatever keeps the server from reading.
#[test]
fn a_peer_that_resets_while_it_is_not_read_leaves_its_place() {
    on_both_drivers(&[], |server| {
        // A handler that is held up, one that waits for time, and an outbox that is full.
        for path in ["/slow-read?bytes_per_s=64", "/delay?ms=60000", "/echo"] {
            let mut peer = Peer::open(server, path);
            peer.stream.set_nonblocking(true).expect("a socket");
            let (message, paused, mut quiet) = (frame(BINARY, &[7; 60_000]), server.figure("pauses"), 0);
            // Until neither the kernel nor the server takes any more.
            while quiet < 20 {
                match peer.stream.write(&message) {
                    Ok(taken) if taken > 0 => quiet = 0,
                    _ => quiet += 1,
                }
                server.serves();
            }
            assert!(server.figure("pauses") > paused, "{path} is never paused");
            peer.reset();
            server.wait_for_nobody();
        }
    });
}

/// FIN behind unread bytes is detected, and a ping finds out whether the peer still reads.
#[test]
fn a_peer_that_closes_while_it_is_not_read_leaves_its_place() {
    on_both_drivers(&[], |server| {
        let path = "/slow-read?bytes_per_s=64";
        let [closing, mut reading] = [(); 2].map(|()| {
            let mut peer = Peer::open(server, path);
            // As few as are not read, so that FIN is not stuck behind what the kernel has no room for.
            loop {
                let before = server.figure("bytes_in");
                peer.send(&frame(BINARY, &[7; 10_000]));
                server.serves();
                server.serves();
                if server.figure("bytes_in") < before + 10_000 {
                    return peer;
                }
            }
        });
        reading.finish();
        drop(closing);
        server.wait_until("one left", |stats| stats["connections"] == 1);
        // Whoever has only half-closed is asked, and stays.
        assert_eq!(reading.frame(), (FIN | PING, Vec::new()));
        server.serves();
        server.wait_until("left alone with it", |stats| stats["connections"] == 1);
        reading.reset();
    });
}

// ---- declared lengths ----

#[test]
fn declared_lengths_reserve_nothing() {
    on_both_drivers(&["--max-message", "2GiB"], |server| {
        server.serves();
        let resident = server.resident_bytes();
        let mut declaring = Vec::new();
        for path in ["/echo", "/broadcast/declared"] {
            for _ in 0..150 {
                let mut peer = Peer::open(server, path);
                peer.send(&[header(FIN | BINARY, 1 << 31), b"just these".to_vec()].concat());
                declaring.push(peer);
            }
        }
        // Each has been read when its peer hears a pong of the next.
        let read = 300 * (14 + 10);
        let stats = server.wait_until("read", |stats| stats["bytes_in"].as_u64() >= Some(read));
        let pooled = stats["pool_bytes"].as_u64().expect("a figure");
        assert!(pooled < MIB, "{pooled} bytes of buffers for what 300 peers announced");
        let grown = server.resident_bytes().saturating_sub(resident);
        assert!(grown < 16 * MIB, "{grown} bytes for what 300 peers announced");
        drop(declaring);
        server.wait_for_nobody();
    });
}

#[test]
fn unfinished_heads_cost_what_was_sent_of_them() {
    on_both_drivers(&["--max-connections", "1000"], |server| {
        let mut waiting: Vec<Peer> = (0..300).map(|_| Peer::connect(server)).collect();
        let head = upgrade("/echo", &[&format!("X: {}", "x".repeat(8 * KIB as usize))]);
        for peer in &mut waiting {
            peer.send(&head[..head.len() - 2]);
        }
        let read = (300 * head.len() - 600) as u64;
        let stats = server.wait_until("read", |stats| stats["bytes_in"].as_u64() >= Some(read));
        let pooled = stats["pool_bytes"].as_u64().expect("a figure");
        assert!(pooled < 300 * 24 * KIB, "{pooled} bytes for 300 heads of {} bytes", head.len());
        for peer in &mut waiting {
            peer.send(b"\r\n");
            assert_eq!(peer.answer().status, 101);
        }
        let pooled = server.figure("pool_bytes");
        assert!(pooled < 4 * MIB, "{pooled} bytes are kept for connections that are open and idle");
        drop(waiting);
        server.wait_for_nobody();
    });
}

// ---- floods ----

/// CPU time of the shard for one text message of `fragments` fragments of one byte each, sent and read back.
fn fragmented(server: &Server, path: &str, fragments: usize) -> Duration {
    let mut peer = Peer::open(server, path);
    let mut sent = fragment(TEXT, b"x");
    (2..fragments).for_each(|_| sent.extend_from_slice(&fragment(CONTINUATION, b"x")));
    sent.extend_from_slice(&frame(CONTINUATION, b"x"));
    let before = server.shard_cpu();
    let mut writing = peer.stream.try_clone().expect("a descriptor");
    let writer = thread::spawn(move || writing.write_all(&sent));
    let (opcode, payload) = peer.message();
    assert_eq!((opcode, payload.len()), (TEXT, fragments));
    assert!(payload.iter().all(|byte| *byte == b'x'));
    writer.join().expect("no panic").expect("all was sent");
    // The message may have come back before the shard's account of it is complete.
    server.serves();
    server.shard_cpu() - before
}

#[test]
fn fragment_floods_stay_linear_in_time_and_bounded_in_memory() {
    on_both_drivers(&[], |server| {
        for path in ["/echo", "/broadcast/flood?self=1"] {
            fragmented(server, path, 4_096);
            let few = fragmented(server, path, 16_384);
            let many = fragmented(server, path, 65_536);
            // Four times as many; sixteen times the work if it were quadratic. What a turn costs by itself, and a
            // busy machine, make the small one dearer, never the large one by so much.
            assert!(
                many < 9 * few.max(Duration::from_millis(2)),
                "{path}: {few:?}, and {many:?} for four times as many"
            );
            let peak = server.figure("pool_bytes_peak");
            assert!(peak < 3 * MIB, "{path}: {peak} bytes of buffers");
        }
    });
}

#[test]
fn empty_fragments_without_end_cost_no_memory() {
    on_both_drivers(&[], |server| {
        for path in ["/echo", "/broadcast/flood?self=1"] {
            let mut peer = Peer::open(server, path);
            let mut sent = fragment(BINARY, b"");
            (0..65_536).for_each(|_| sent.extend_from_slice(&fragment(CONTINUATION, b"")));
            sent.extend_from_slice(&frame(CONTINUATION, b"end"));
            let mut writing = peer.stream.try_clone().expect("a descriptor");
            let writer = thread::spawn(move || writing.write_all(&sent));
            assert_eq!(peer.message(), (BINARY, b"end".to_vec()));
            writer.join().expect("no panic").expect("all was sent");
        }
        let peak = server.figure("pool_bytes_peak");
        assert!(peak < 3 * MIB, "{peak} bytes of buffers");
    });
}

#[test]
fn ten_pings_at_once_are_all_answered_in_order() {
    everywhere(&[], |server| {
        let mut peer = Peer::open(server, "/echo");
        let pings: Vec<u8> = (0..10).flat_map(|at| frame(PING, format!("payload-{at}").as_bytes())).collect();
        // In one packet, and in ten.
        for packets in [1, 10] {
            for packet in pings.chunks(pings.len() / packets) {
                peer.send(packet);
            }
            for at in 0..10 {
                assert_eq!(peer.frame(), (FIN | PONG, format!("payload-{at}").into_bytes()));
            }
        }
    });
}

/// A peer that does not read, with echoes that fill the path to it: the kernel accepts no more, and the server has some
/// queued, but not enough to stop reading.
fn fill_the_way(server: &Server) -> Peer {
    const PIECE: usize = 16 * 1024;
    let mut peer = Peer::connect_narrow(server, 4 * 1024);
    peer.upgrade("/echo");
    let short_sends = server.figure("short_sends");
    let mut sent = 0;
    // Each piece is seen to be read before the next is sent, so that the first that does not go through is seen.
    while server.figure("short_sends") == short_sends {
        let before = server.figure("messages_in");
        peer.send(&frame(BINARY, &[sent as u8; PIECE]));
        sent += 1;
        server.wait_until("read", |stats| stats["messages_in"].as_u64() > Some(before));
        assert!((sent * PIECE) as u64 <= 4 * MIB, "the kernel takes everything");
    }
    peer
}

#[test]
fn a_ping_flood_behind_a_blocked_send_keeps_at_most_16_pongs_and_the_latest() {
    on_both_drivers(&[], |server| {
        let mut peer = fill_the_way(server);
        let before = server.figure("bytes_in");
        let pings: Vec<u8> = (0..500_u16).flat_map(|at| frame(PING, &at.to_be_bytes())).collect();
        peer.send(&pings);
        server.wait_for_bytes(before, pings.len());
        peer.send(&close(1000, b""));
        let mut pongs = Vec::new();
        loop {
            let (first, payload) = peer.frame();
            match first & 0x0f {
                PONG => pongs.push(u16::from_be_bytes(payload.try_into().expect("what the ping had"))),
                CLOSE => break,
                _ => {}
            }
        }
        assert!((1..=16).contains(&pongs.len()), "{} pongs were queued", pongs.len());
        assert_eq!(pongs.last(), Some(&499), "the latest ping is answered");
        assert!(pongs.is_sorted());
    });
}

#[test]
fn a_ping_flood_ends_with_1008() {
    on_both_drivers(&[], |server| {
        for path in ["/echo", "/broadcast/pinged"] {
            let mut peer = Peer::open(server, path);
            // More than two seconds' worth: they may be read in two different ones.
            let pings: Vec<u8> = (0..20_000).flat_map(|_| frame(PING, b"")).collect();
            let mut writing = peer.stream.try_clone().expect("a descriptor");
            let writer = thread::spawn(move || writing.write_all(&pings));
            let mut pongs = 0;
            loop {
                let (first, payload) = peer.frame();
                if first == FIN | CLOSE {
                    assert_eq!(payload[..2], 1008_u16.to_be_bytes());
                    break;
                }
                assert_eq!((first, payload.len()), (FIN | PONG, 0));
                pongs += 1;
            }
            assert!((1_000..20_000).contains(&pongs), "{pongs} pongs before the end");
            writer.join().expect("no panic").expect("what is sent behind it is read, and thrown away");
            peer.finish();
            peer.expect_end();
        }
    });
}

// ---- connections ----

#[test]
fn a_connection_flood_meets_503_and_comes_back_at_different_times() {
    on_both_drivers(&["--max-connections", "8"], |server| {
        let mut served: Vec<Peer> = (0..8).map(|_| Peer::open(server, "/echo")).collect();
        let mut flood: Vec<Peer> = (0..60).map(|_| Peer::connect(server)).collect();
        let mut waits = BTreeSet::new();
        for (at, peer) in flood.iter_mut().enumerate() {
            if at % 2 == 0 {
                peer.send(&upgrade("/echo", &[]));
            }
            let answer = peer.answer();
            assert_eq!(answer.status, 503);
            let wait: u32 = answer.field("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
            assert!((1..=60).contains(&wait), "{wait}");
            waits.insert(wait);
            peer.expect_end();
        }
        assert!(waits.len() > 2, "all of them come back at once: {waits:?}");
        // Those who were there first do not notice.
        for peer in &mut served {
            peer.send(&frame(TEXT, b"served"));
            assert_eq!(peer.frame(), (0x81, b"served".to_vec()));
        }
        assert_eq!(server.stats()["refusals"]["503"], 60);
        drop(flood);
        served.truncate(4);
        server.wait_until("left", |stats| stats["connections"] == 4);
        // Their seats are given again.
        served.extend((0..4).map(|_| Peer::open(server, "/echo")));
        drop(served);
        server.wait_for_nobody();
    });
}

#[test]
fn a_flood_that_is_never_hung_up_cannot_keep_others_out_for_longer_than_the_close_deadline() {
    on_both_drivers(&["--max-connections", "2"], |server| {
        let held: Vec<Peer> = (0..2).map(|_| Peer::open(server, "/echo")).collect();
        // More than are accepted to be refused. None of them hangs up.
        let mut flood: Vec<Peer> = (0..80).map(|_| Peer::connect(server)).collect();
        drop(held);
        for peer in &mut flood {
            peer.send(&upgrade("/echo", &[]));
        }
        // Those who had to wait get a seat, or 503, when the first have been cut.
        let served =
            flood.iter_mut().map(|peer| peer.answer().status).filter(|status| *status == 101).count();
        assert!(served <= 2, "{served} at once");
        drop(flood);
        server.wait_for_nobody();
    });
}

// ---- peers that stop reading ----

/// Writes until it is stopped, whether or not anything is read.
fn write_on(peer: &mut Peer, messages: &[u8], stop: &AtomicBool) {
    peer.stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    while !stop.load(Ordering::Relaxed) {
        match peer.stream.write_all(messages) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("the server hung up: {error}")
            }
            _ => {}
        }
    }
}

#[test]
fn a_peer_that_stops_reading_costs_at_most_its_queue_and_others_are_served() {
    const PEERS: u64 = 24;
    // Each its queue, the half of that which may come with the last receive, and as much for what a short send
    // left, whose buffer is of the next size class; and a MiB of free buffers of each of six classes.
    const POOLED_BYTES_MAX: u64 = PEERS * 3 * QUEUE_BYTES + 6 * MIB;
    on_both_drivers(&[], |server| {
        server.serves();
        let resident = server.resident_bytes();
        for payload_bytes in [100, 60_000] {
            let messages = frame(BINARY, &vec![7; payload_bytes]).repeat(200_000 / payload_bytes);
            let mut stuck: Vec<Peer> = (0..PEERS)
                .map(|_| {
                    let mut peer = Peer::connect_narrow(server, 4 * 1024);
                    peer.upgrade("/echo");
                    peer
                })
                .collect();
            let pauses = server.figure("pauses") + PEERS;
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                for peer in &mut stuck {
                    scope.spawn(|| write_on(peer, &messages, &stop));
                }
                server.wait_until("paused", |stats| stats["pauses"].as_u64() >= Some(pauses));
                stop.store(true, Ordering::Relaxed);
            });
            let pooled = server.figure("pool_bytes");
            assert!(pooled <= POOLED_BYTES_MAX, "{pooled} bytes are queued for {PEERS} peers");
            let grown = server.resident_bytes().saturating_sub(resident);
            assert!(grown <= POOLED_BYTES_MAX + 16 * MIB, "{grown} bytes more for {PEERS} peers");
            server.serves();
            // They may go on whenever they like: nothing is lost, and nobody was closed.
            let mut last = stuck.pop().expect("a peer");
            for _ in 0..600_000 / payload_bytes {
                assert_eq!(last.frame(), (FIN | BINARY, vec![7; payload_bytes]));
            }
            stuck.into_iter().for_each(Peer::reset);
            last.reset();
            server.wait_for_nobody();
        }
    });
}

#[test]
fn a_subscriber_that_stops_reading_is_told_4008_and_costs_at_most_its_lag() {
    on_both_drivers(&[], |server| {
        let mut slow = Peer::connect_narrow(server, 4 * 1024);
        slow.upgrade("/broadcast/slow");
        let mut quick = Peer::open(server, "/broadcast/slow");
        let mut publisher = Peer::open(server, "/broadcast/slow");
        // However much the kernel holds for it, besides the log.
        let mut published = 0;
        while published % 100 > 0 || server.stats()["deliveries"]["dropped"]["disconnect"] == 0 {
            assert!(published < 20_000, "never slow");
            let payload = vec![published as u8; 4_000];
            publisher.send(&frame(BINARY, &payload));
            assert_eq!(quick.message(), (BINARY, payload), "the quick one gets everything");
            published += 1;
        }
        let pooled = server.figure("pool_bytes_peak");
        assert!(pooled <= 2 * MIB, "{pooled} bytes for one topic");
        // The slow one reads what the kernel had for it, and then the reason.
        let mut heard = 0;
        let code = loop {
            let (first, payload) = slow.frame();
            if first == FIN | CLOSE {
                break payload[..2].to_vec();
            }
            assert_eq!((first, payload), (FIN | BINARY, vec![heard as u8; 4_000]));
            heard += 1;
        };
        assert_eq!(code, 4008_u16.to_be_bytes());
        assert!(heard < published);
        slow.finish();
        slow.expect_end();
    });
}
