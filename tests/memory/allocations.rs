//! In the steady state an echoed message of any size causes no heap allocation, and a broadcast message only its entry in the
//! logs; the same holds for compressed messages. The shard and its clients run in one thread, whose allocations are counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::counting::{allocations, held_bytes};
use echoring_proto::buffer::Pool;
use echoring_proto::connection::{self, Compression};
use echoring_proto::deflate::{Deflater, Direction, Preferences};
use echoring_proto::limits::{MESSAGE_BYTES_DEFAULT, QUEUE_BYTES_DEFAULT};
use echoring_runtime::driver::uring::Uring;
use echoring_runtime::driver::{Driver, Options};
use echoring_runtime::shard::{Allowance, Mailboxes, Shard, ShardConfig};
use echoring_server::{
    Chunk, Disposition, Handler, Message, PublishOutcome, Remote, Result, Route, Routes, Service,
    SubscribeOptions,
};
use echoring_topics::limits::LOG_SEGMENT_BYTES;

use super::support::service::service;

/// Counts the allocations of this thread during `work`.
fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = allocations();
    work();
    allocations() - before
}

/// The first of at most [`STRETCHES`] counts that is no more than `allowed`, or the least. Buffers that were unused for a second are freed
/// and allocated again, which is no cost of a message; on a busy machine this occurs in most of them.
fn least_allocations_of(allowed: u64, mut work: impl FnMut()) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..STRETCHES {
        least = least.min(allocations_of(&mut work));
        if least <= allowed {
            break;
        }
    }
    least
}

const KEY: [u8; 4] = [0x12, 0x80, 0x7f, 0xfe];
const CONNECTIONS: usize = 10;
const WARM_UP_ROUNDS: usize = 100;
const ROUNDS: usize = 300;
/// Number of parts into which rounds are divided, where other work than messages may allocate occasionally: once a second, which on a busy
/// machine is the time of fifty rounds.
const STRETCHES: usize = 30;

/// A shard on io_uring with its clients.
struct World {
    shard: Shard<Service>,
    address: SocketAddr,
    clients: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl World {
    /// A world whose clients are connected to `path`.
    fn new(path: &str) -> World {
        World::offering(path, &[""])
    }

    /// A world whose clients are connected to `path` and offer the extensions of `offers` in turn.
    fn offering(path: &str, offers: &[&str]) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let options = Options { connections: 64, ..Options::default() };
        let driver = Driver::Uring(Uring::new(&options).expect("io_uring"));
        let direction = Direction { context_takeover: true, window_bits: 15 };
        let preferences = Preferences { server: direction, client: direction };
        let compression = Some(Compression::default().preferences(preferences));
        let connection =
            connection::ConnectionConfig { compression, ..connection::ConnectionConfig::default() };
        let config =
            ShardConfig { connection, connections: 64, security: Default::default(), seed: 1.into() };
        let service = service(MESSAGE_BYTES_DEFAULT, QUEUE_BYTES_DEFAULT).with_routes(parrots());
        let mailboxes = Mailboxes::connect(1, 0).remove(0);
        let allowance = Allowance { pool: used_pool(), ..Allowance::standalone(64) };
        let mut shard = Shard::new(driver, service, config, allowance, mailboxes);
        shard.listen(listener.into()).expect("listening");
        let mut world = World { shard, address, clients: Vec::new(), buffer: vec![0; 1 << 20] };
        for offer in (0..CONNECTIONS).map(|index| offers[index % offers.len()]) {
            let client = world.connect(path, offer);
            world.clients.push(client);
        }
        world
    }

    fn connect(&mut self, path: &str, offer: &str) -> TcpStream {
        let (client, head) = self.open(path, offer);
        let agreed = head.windows(18).any(|bytes| bytes == b"permessage-deflate");
        assert_eq!(agreed, !offer.is_empty());
        client
    }

    /// Opens a WebSocket. Returns it and the server's response.
    fn open(&mut self, path: &str, fields: &str) -> (TcpStream, Vec<u8>) {
        let mut client = TcpStream::connect(self.address).expect("connect");
        client.set_nodelay(true).expect("nodelay");
        client.set_nonblocking(true).expect("nonblocking");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{fields}\r\n"
        );
        client.write_all(request.as_bytes()).expect("request");
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            match client.read(&mut byte) {
                Ok(read) => head.extend_from_slice(&byte[..read]),
                Err(_) => assert!(self.shard.tick(Some(0)).expect("the driver works")),
            }
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        (client, head)
    }

    /// Runs ticks until only the first clients are connected.
    fn await_departures(&mut self) {
        while self.shard.connections() > CONNECTIONS {
            assert!(self.shard.tick(Some(0)).expect("the driver works"));
        }
    }

    /// Runs ticks until `client` has received `needle` this many times. Returns all received bytes.
    fn hear(&mut self, client: &mut TcpStream, needle: &str, times: usize) -> String {
        let mut heard = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&heard);
            if text.matches(needle).count() >= times {
                return text.into_owned();
            }
            match client.read(&mut self.buffer) {
                Ok(0) => panic!("the server closed behind {text}"),
                Ok(read) => heard.extend_from_slice(&self.buffer[..read]),
                Err(_) => assert!(self.shard.tick(Some(0)).expect("the driver works")),
            }
        }
    }

    /// Runs ticks until the client at `index` has received `bytes` bytes.
    fn await_bytes(&mut self, index: usize, bytes: usize) {
        let World { shard, clients, buffer, .. } = self;
        let mut filled = 0;
        while filled < bytes {
            match clients[index].read(&mut buffer[filled..bytes]) {
                Ok(0) => panic!("the server closed"),
                Ok(read) => filled += read,
                Err(_) => assert!(shard.tick(Some(0)).expect("the driver works")),
            }
        }
    }

    /// Runs ticks until the client at `index` has received a data frame of less than 64 KiB. Returns its bytes, header
    /// included, and whether it is compressed.
    fn await_frame(&mut self, index: usize) -> (usize, bool) {
        self.await_bytes(index, 2);
        let compressed = self.buffer[0] & 0x40 != 0;
        let (header_bytes, payload_bytes) = match self.buffer[1] {
            126 => {
                self.await_bytes(index, 2);
                (4, u16::from_be_bytes([self.buffer[0], self.buffer[1]]).into())
            }
            bytes => (2, usize::from(bytes)),
        };
        self.await_bytes(index, payload_bytes);
        (header_bytes + payload_bytes, compressed)
    }

    /// Sends `bytes` from the client at `index`. The socket buffers take them at once.
    fn send(&mut self, index: usize, bytes: &[u8]) {
        self.clients[index].write_all(bytes).expect("the socket takes a message");
    }

    /// Every client sends a message and awaits its echo.
    fn echo_rounds(&mut self, rounds: usize, frames: &[u8], reply_bytes: usize) {
        for _ in 0..rounds {
            (0..CONNECTIONS).for_each(|index| self.send(index, frames));
            (0..CONNECTIONS).for_each(|index| self.await_bytes(index, reply_bytes));
        }
    }

    /// The first client publishes; all others receive it.
    fn broadcast_rounds(&mut self, rounds: usize, frame: &[u8], delivered_bytes: usize) {
        for _ in 0..rounds {
            self.send(0, frame);
            (1..CONNECTIONS).for_each(|index| self.await_bytes(index, delivered_bytes));
        }
    }
}

/// A message that compression makes shorter, but not below 126 bytes.
fn text(payload_bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let letter = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 28) as u8
    };
    (0..payload_bytes).map(letter).collect()
}

/// Fills the pool as after some time of use. A message that spans two receive buffers is assembled in a pooled buffer. Chance
/// decides where it is split, and therefore which size class it takes first.
fn used_pool() -> Pool {
    let mut pool = Pool::standalone();
    let sizes = [128, 1 << 10, 4 << 10, 16 << 10, 64 << 10].into_iter().flat_map(|bytes| [bytes; 4]);
    let buffers: Vec<_> = sizes.map(|bytes| pool.get(bytes).expect("there is memory")).collect();
    buffers.into_iter().for_each(|buffer| pool.put(buffer));
    pool
}

/// A masked text frame.
fn text_frame(payload_bytes: usize) -> Vec<u8> {
    masked_frame(0x81, &vec![b'a'; payload_bytes])
}

fn masked_frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first_byte];
    let payload_bytes = payload.len();
    match payload_bytes {
        0..126 => frame.push(0x80 | payload_bytes as u8),
        _ => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(payload_bytes).expect("16 bits").to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

#[test]
fn an_echoed_message_allocates_nothing() {
    for (payload_bytes, depth) in [(16, 1), (16, 16), (1 << 10, 1), (1 << 10, 16), (16 << 10, 1)] {
        let mut world = World::new("/echo");
        let frame = text_frame(payload_bytes);
        let (frames, reply_bytes) = (frame.repeat(depth), (frame.len() - KEY.len()) * depth);
        world.echo_rounds(WARM_UP_ROUNDS, &frames, reply_bytes);
        let allocations = least_allocations_of(0, || world.echo_rounds(ROUNDS, &frames, reply_bytes));
        let messages = ROUNDS * CONNECTIONS * depth;
        assert_eq!(allocations, 0, "for {messages} messages of {payload_bytes} B, {depth} at a time");
    }
}

/// Echoes messages: by a send, or by its return value. It reads their text, and sets its alarm repeatedly.
struct Parrot {
    by_copy: bool,
}

impl Handler for Parrot {
    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.wake_at(remote.now() + 1_000_000);
        if !self.by_copy {
            return Ok(Disposition::Echo);
        }
        let text = message.text().ok_or(std::fmt::Error)?;
        remote.send_text(text)?;
        Ok(Disposition::Done)
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.wake_at(remote.now() + 1_000_000);
        Ok(())
    }
}

fn parrots() -> Routes {
    let mut routes = Routes::default();
    routes.add(Route::new("/handled", || Parrot { by_copy: false }));
    routes.add(Route::new("/handled/copied", || Parrot { by_copy: true }));
    routes.add(Route::new("/room", || Member { streams: false, with_ids: false, positions: 0 }));
    routes.add(Route::new("/room/with-ids", || Member { streams: false, with_ids: true, positions: 0 }));
    routes.add(Route::new("/room/streamed", || Member { streams: true, with_ids: false, positions: 0 }));
    routes
}

#[test]
fn a_message_to_a_handler_allocates_nothing() {
    for path in ["/handled", "/handled/copied"] {
        for (payload_bytes, depth) in [(16, 1), (16, 16), (1 << 10, 1), (1 << 10, 16), (16 << 10, 1)] {
            let mut world = World::new(path);
            let frame = text_frame(payload_bytes);
            let (frames, reply_bytes) = (frame.repeat(depth), (frame.len() - KEY.len()) * depth);
            world.echo_rounds(WARM_UP_ROUNDS, &frames, reply_bytes);
            let stretch = ROUNDS / STRETCHES;
            let allocations = least_allocations_of(0, || world.echo_rounds(stretch, &frames, reply_bytes));
            assert_eq!(allocations, 0, "{path}: messages of {payload_bytes} B, {depth} at a time");
        }
    }
}

#[test]
fn a_broadcast_message_allocates_nothing_but_the_logs_segments() {
    for payload_bytes in [16, 1 << 10] {
        let mut world = World::new("/broadcast/news");
        let frame = text_frame(payload_bytes);
        let delivered_bytes = frame.len() - KEY.len();
        // Until the log has reached its maximum length.
        let filled = QUEUE_BYTES_DEFAULT as usize / delivered_bytes;
        world.broadcast_rounds(filled + WARM_UP_ROUNDS, &frame, delivered_bytes);
        let rounds = ROUNDS + 4 * LOG_SEGMENT_BYTES / delivered_bytes;
        // In the log of the subscribers, and in the history.
        let segments = 2 * rounds.div_ceil(LOG_SEGMENT_BYTES / delivered_bytes) as u64;
        let allowed = 3 * (segments + 1);
        let allocations =
            least_allocations_of(allowed, || world.broadcast_rounds(rounds, &frame, delivered_bytes));
        // Each entry: its memory, its reference count, and the joined copy that replaces the pieces in which it was published.
        assert!(
            allocations <= allowed,
            "{allocations} allocations for {rounds} messages of {payload_bytes} B in {segments} segments"
        );
    }
}

/// A member of a room, which publishes its messages; with ids, so that it is told their positions.
struct Member {
    /// Whether messages arrive in chunks.
    streams: bool,
    with_ids: bool,
    positions: u64,
}

impl Member {
    fn publish(&self, remote: &mut Remote<'_>, payload: &[u8]) -> Result<Disposition> {
        match self.with_ids {
            true => remote.publish_with_id(7, "room", payload)?,
            false => remote.publish("room", payload)?,
        }
        Ok(Disposition::Done)
    }
}

impl Handler for Member {
    fn is_streaming(&self) -> bool {
        self.streams
    }

    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.subscribe_with("room", SubscribeOptions::new().skip_own())?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        self.publish(remote, message.payload())
    }

    fn chunk(&mut self, remote: &mut Remote<'_>, chunk: &Chunk<'_>) -> Result<Disposition> {
        self.publish(remote, chunk.payload)
    }

    fn published(&mut self, _: &mut Remote<'_>, outcome: &PublishOutcome<'_>) -> Result {
        self.positions += u64::from(outcome.result.is_ok());
        Ok(())
    }
}

#[test]
fn publishing_from_a_handler_allocates_nothing_but_the_logs_segments() {
    for path in ["/room", "/room/with-ids", "/room/streamed"] {
        for payload_bytes in [16, 1 << 10] {
            let mut world = World::new(path);
            let frame = masked_frame(0x82, &vec![b'a'; payload_bytes]);
            let delivered_bytes = frame.len() - KEY.len();
            // Until the log has reached its maximum length.
            let filled = QUEUE_BYTES_DEFAULT as usize / delivered_bytes;
            world.broadcast_rounds(filled + WARM_UP_ROUNDS, &frame, delivered_bytes);
            let rounds = ROUNDS + 4 * LOG_SEGMENT_BYTES / delivered_bytes;
            // As for the built-in route: in the log of the subscribers, and in the history.
            let segments = 2 * rounds.div_ceil(LOG_SEGMENT_BYTES / delivered_bytes) as u64;
            let allowed = 3 * (segments + 1);
            let allocations =
                least_allocations_of(allowed, || world.broadcast_rounds(rounds, &frame, delivered_bytes));
            let deliveries = rounds * (CONNECTIONS - 1);
            assert!(
                allocations <= allowed,
                "{path}: {allocations} allocations for {rounds} messages of {payload_bytes} B, {deliveries} deliveries, {segments} segments"
            );
        }
    }
}

#[test]
fn a_message_to_sessions_of_centrifuge_allocates_nothing_but_the_logs_segments() {
    let mut world = World::new("/connection/websocket");
    for index in 0..CONNECTIONS {
        let connect = r#"{"id":1,"connect":{}}"#.to_owned();
        let subscribe = r#"{"id":2,"subscribe":{"channel":"news"}}"#;
        let commands = if index > 0 { connect + "\n" + subscribe } else { connect };
        let replies = commands.lines().count();
        world.send(index, &masked_frame(0x81, commands.as_bytes()));
        for _ in 0..replies {
            world.await_frame(index);
        }
    }
    let data = "a".repeat(1 << 10);
    let publish = format!(r#"{{"id":3,"publish":{{"channel":"news","data":"{data}"}}}}"#);
    let frame = masked_frame(0x81, publish.as_bytes());
    let mut rounds = |rounds: usize| {
        let mut delivered_bytes = 0;
        for _ in 0..rounds {
            world.send(0, &frame);
            (0..CONNECTIONS).for_each(|index| delivered_bytes = world.await_frame(index).0);
        }
        delivered_bytes
    };
    let delivered_bytes = rounds(WARM_UP_ROUNDS);
    rounds(QUEUE_BYTES_DEFAULT as usize / delivered_bytes);
    // In the log of the subscribers, and in the history.
    let segments = 2 * (ROUNDS.div_ceil(LOG_SEGMENT_BYTES / delivered_bytes) + 1);
    let allowed = 3 * segments as u64;
    let allocations = least_allocations_of(allowed, || {
        rounds(ROUNDS);
    });
    assert!(allocations <= allowed, "{allocations} allocations with {segments} segments");
}

#[test]
fn a_compressed_echo_allocates_nothing() {
    let offers = [
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n",
    ];
    for payload_bytes in [1 << 10, 16 << 10] {
        let mut world = World::offering("/echo", &offers);
        let mut payload = Vec::new();
        let direction = Direction { context_takeover: false, window_bits: 15 };
        let bytes = Deflater::new(direction, 6).deflate(&text(payload_bytes), &mut payload);
        // Compressed text, legal with and without context takeover. A plain message before and after it puts its answer between
        // answers that are sent from the receive region.
        let compressed = masked_frame(0xc1, &payload[..bytes]);
        let plain = text_frame(100);
        let frames = [&plain[..], &compressed, &plain, &compressed, &plain].concat();
        let mut rounds = |rounds: usize| {
            for _ in 0..rounds {
                // One client after the other, because chance would decide how many share a tick and its buffers.
                for index in 0..CONNECTIONS {
                    world.send(index, &frames);
                    for expected in [false, true, false, true, false] {
                        let (reply_bytes, compressed) = world.await_frame(index);
                        assert!(compressed == expected && reply_bytes < payload_bytes);
                    }
                }
            }
        };
        rounds(WARM_UP_ROUNDS);
        // A frame that spans two receive buffers, by chance, needs a pooled buffer, and buffers that were unused for a second are
        // freed. This is no cost of a message, and does not occur in most parts.
        let stretch = ROUNDS / STRETCHES;
        let allocations = least_allocations_of(0, || rounds(stretch));
        assert_eq!(allocations, 0, "for {} messages of {payload_bytes} B", stretch * CONNECTIONS);
    }
}

#[test]
fn a_message_that_is_broadcast_plain_and_compressed_allocates_nothing_but_the_logs_segments() {
    let offers = [
        "",
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n",
    ];
    let mut world = World::offering("/broadcast/news", &offers);
    let frame = masked_frame(0x81, &text(1 << 10));
    // Subscribers of each format. A publisher does not receive its own messages, but other subscribers of its format do.
    let mut delivered_bytes = [0; 3];
    let mut round = || {
        world.send(0, &frame);
        for index in 1..CONNECTIONS {
            let (bytes, compressed) = world.await_frame(index);
            assert_eq!(compressed, index % offers.len() != 0);
            delivered_bytes[index % offers.len()] = bytes;
        }
        delivered_bytes
    };
    let delivered_bytes = round();
    let filled = QUEUE_BYTES_DEFAULT as usize / delivered_bytes[1].min(delivered_bytes[2]);
    let mut rounds = |rounds: usize| {
        for _ in 0..rounds {
            round();
        }
    };
    rounds(filled + WARM_UP_ROUNDS);
    // In the log of each format, and in the history.
    let logs = delivered_bytes.iter().chain([&delivered_bytes[0]]);
    let segments: usize = logs.map(|bytes| ROUNDS.div_ceil(LOG_SEGMENT_BYTES / bytes) + 1).sum();
    let allowed = 3 * segments as u64;
    let allocations = least_allocations_of(allowed, || rounds(ROUNDS));
    assert!(allocations <= allowed, "{allocations} allocations with {segments} segments");
}

/// A session connects, subscribes and unsubscribes repeatedly, publishes, recovers missed messages, and disconnects.
fn come_and_go(world: &mut World, topic: &str) {
    const TIMES: usize = 50;
    let say = |words: String| masked_frame(0x81, words.as_bytes());
    let (mut client, _) = world.open("/broadcast", "Sec-WebSocket-Protocol: echoring.v1.json\r\n");
    client.write_all(&say(format!(r#"{{"type":"subscribe","id":1,"topic":"{topic}"}}"#))).expect("sent");
    let subscribed = world.hear(&mut client, "subscribed", 1);
    let epoch =
        subscribed.split(r#""epoch":""#).nth(1).and_then(|rest| rest.split('"').next()).expect("an epoch");
    let text = "x".repeat(1_000);
    client
        .write_all(&say(format!(r#"{{"type":"publish","id":2,"topic":"{topic}","text":"{text}"}}"#)))
        .expect("sent");
    let published = world.hear(&mut client, r#""type":"message""#, 1);
    let offset = published.split(r#""offset":"#).nth(1).and_then(|rest| rest.split([',', '}']).next());
    let before: u64 = offset.and_then(|offset| offset.parse().ok()).map_or(0, |offset: u64| offset - 1);
    let mut cycles = Vec::new();
    for _ in 0..TIMES {
        cycles.extend(say(format!(r#"{{"type":"unsubscribe","topic":"{topic}"}}"#)));
        let position = format!(r#"{{"epoch":"{epoch}","offset":{before}}}"#);
        cycles.extend(say(format!(r#"{{"type":"subscribe","topic":"{topic}","position":{position}}}"#)));
    }
    client.write_all(&cycles).expect("sent");
    world.hear(&mut client, r#""type":"unsubscribed""#, TIMES);
    client.write_all(&masked_frame(0x88, &[3, 0xe8])).expect("sent");
    drop(client);
}

/// The allocated memory no longer grows after the first rounds of sessions. It is at most the charged memory plus what the
/// formula of docs/reference/configuration.md allows for a topic.
#[test]
fn coming_and_going_leaves_memory_as_it_was() {
    const TOPIC_BYTES: i64 = 2_400;
    let mut world = World::new("/echo");
    // The first sampled delivery allocates what a shard follows all of them with.
    come_and_go(&mut world, "another");
    world.await_departures();
    let (held_before, charged_before) = (held_bytes(), world.shard.charged_bytes() as i64);
    let mut held = Vec::new();
    for round in 0..20 {
        (0..15).for_each(|_| come_and_go(&mut world, "t"));
        world.await_departures();
        held.push((round, held_bytes()));
    }
    // The history is full after ten rounds. Free buffers are kept for a second, entries of the timer for 30 s.
    let (warm, end) = (held[9].1, held[19].1);
    assert!(end < warm + 48 * 1024, "{held:?}");
    let (grown, charged) = (end - held_before, world.shard.charged_bytes() as i64 - charged_before);
    assert!(
        grown <= charged + charged.abs() / 20 + TOPIC_BYTES + 48 * 1024,
        "{grown} bytes for {charged} charged"
    );
}
