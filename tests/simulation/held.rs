//! Input of a connection that is paused by a rate: it is kept up to a bound, charged to the last byte, attributed to its
//! connection, and released however the pause ends.

use std::sync::Arc;

use echoring_proto::buffer::{Buffer, Pool};
use echoring_proto::limits::{DEFERRED_BYTES_MAX, MILLISECOND, Nanos};
use echoring_runtime::admission::{Admission, PeerLimits, Rate, TrafficLimits};
use echoring_runtime::driver::Options;
use echoring_runtime::driver::sim::{Faults, Heard, Network, Random};
use echoring_runtime::limits::TRIM_INTERVAL;
use echoring_runtime::shard::{Allowance, Mailboxes, Security, Shard, ShardConfig};
use echoring_server::Service;

use super::client::{self, Client, Item};
use super::for_each_seed;
use super::service::service;
use super::world::config;

/// Bytes of the message for which the connection is paused: one a second. They arrive at once on every simulated connection.
const FIRST_BYTES: usize = 2_000;

struct Node {
    network: Network,
    random: Random,
    shard: Shard<Service>,
    client: Client,
}

impl Node {
    /// A shard, and a client that has opened a connection.
    fn new(seed: u64) -> Node {
        let mut random = Random::new(seed);
        // The kernel goes on receiving after a pause: without totals, as much arrives as comes before the cancellation is done.
        let network = Network::new(seed, Faults { endless_receive: 1_000, ..Faults::NONE });
        let options = Options { connections: 8, ..Options::default() };
        let mut driver = network.driver(&options);
        driver.listen(network.listener().expect("a descriptor"), 0).expect("a simulated driver listens");
        let connection = config();
        let service = service(connection.max_message, connection.queue_bytes);
        let config =
            ShardConfig { connection, connections: 8, security: Security::default(), seed: seed.into() };
        let mailboxes = Mailboxes::connect(1, 1 << 20).into_iter().next().expect("one of one shard");
        let shard = Shard::new(driver, service, config, Allowance::standalone(8), mailboxes);
        let mut client = Client::new(&network, &mut random, "/echo", "", "");
        client.hurry();
        let mut node = Node { network, random, shard, client };
        node.run("the handshake", |node| node.client.decoder.opened);
        node
    }

    /// Limits bytes per second.
    fn limit(&mut self, bytes: Option<u64>) {
        let traffic =
            TrafficLimits { byte_rate: bytes.and_then(Rate::per_second), ..TrafficLimits::default() };
        let limits = PeerLimits { traffic, ..PeerLimits::default() };
        self.shard.set_limits(Arc::<Admission>::default(), Arc::new(limits));
    }

    fn step(&mut self, time: Nanos) {
        if self.client.can_act(&self.network) {
            self.client.act(&self.network, &mut self.random);
        }
        self.network.advance(time);
        self.shard.tick(Some(0)).expect("a simulated driver works");
    }

    fn run(&mut self, what: &str, done: impl Fn(&Node) -> bool) {
        let mut steps = 0;
        while !done(self) {
            self.step(MILLISECOND);
            steps += 1;
            assert!(steps < 10_000, "{what} never happens");
        }
    }

    /// Writes a message of so many bytes, and passes the pieces in which it arrives to `arrived`.
    fn write_message(&mut self, bytes: usize, arrived: impl FnMut(usize)) {
        let mut script = Vec::new();
        client::frame(&mut self.random, true, 2, &vec![7; bytes], &mut script);
        self.write(&script, arrived);
    }

    fn write(&mut self, mut rest: &[u8], mut arrived: impl FnMut(usize)) {
        while !rest.is_empty() {
            let most = self.random.between(FIRST_BYTES + 8, PIECE_BYTES_MAX).min(rest.len());
            let written = self.network.client_write(self.client.id, &rest[..most]);
            rest = &rest[written..];
            let before = self.shard.received_bytes();
            self.step(MILLISECOND);
            let bytes = (self.shard.received_bytes() - before) as usize;
            if bytes > 0 {
                arrived(bytes);
            }
        }
    }

    /// Bytes that are charged once no buffer is kept for later use.
    fn charged_bytes(&mut self) -> u64 {
        for _ in 0..4 {
            self.step(TRIM_INTERVAL);
        }
        self.shard.charged_bytes()
    }

    /// Bytes that connections are said to hold, which decide who is closed when the node is short of memory.
    fn attributed_bytes(&self) -> u64 {
        self.shard.holdings().map(|holding| holding.held_bytes).sum()
    }
}

/// Longest message behind the first.
const MESSAGE_BYTES_MAX: usize = 60_000;
/// One receive.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// The buffer that is to be charged: it grows as pieces arrive.
struct Model {
    pool: Pool,
    buffer: Option<Buffer>,
}

impl Model {
    fn add(&mut self, bytes: usize) {
        let piece = vec![0; bytes];
        let buffer = match self.buffer.take() {
            Some(buffer) if buffer.room() >= bytes => buffer,
            held => {
                let held_bytes = held.as_ref().map_or(0, Buffer::len);
                let mut grown = self.pool.get(held_bytes + bytes).expect("memory");
                grown.append(held.as_ref().map_or(&[], Buffer::as_slice));
                held.into_iter().for_each(|held| self.pool.put(held));
                grown
            }
        };
        self.buffer.insert(buffer).append(&piece);
    }

    fn held_bytes(&self) -> usize {
        self.buffer.as_ref().map_or(0, Buffer::len)
    }

    fn charged_bytes(&self) -> u64 {
        self.buffer.as_ref().map_or(0, Buffer::accounted_bytes) as u64
    }
}

/// How a pause ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Reset,
    /// The limit is taken away by a reload.
    Unlimited,
    /// More comes than is kept.
    Beyond,
}

fn hold(seed: u64) {
    let mut node = Node::new(seed);
    let idle_bytes = node.charged_bytes();
    assert_eq!(node.attributed_bytes(), 0);
    node.limit(Some(1));
    node.write_message(FIRST_BYTES, |_| {});
    node.run("an answer", |node| node.client.heard.len() == 1);
    let mut model = Model { pool: Pool::standalone(), buffer: None };
    let end = [End::Reset, End::Unlimited, End::Beyond][node.random.below(3)];
    let most = if end == End::Beyond { DEFERRED_BYTES_MAX } else { node.random.below(DEFERRED_BYTES_MAX) };
    let mut messages = 1;
    while model.held_bytes() + MESSAGE_BYTES_MAX + 8 <= most {
        let bytes = node.random.between(1, MESSAGE_BYTES_MAX);
        node.write_message(bytes, |bytes| model.add(bytes));
        messages += 1;
        if node.random.chance(300) {
            assert_eq!(node.charged_bytes(), idle_bytes + model.charged_bytes(), "at {messages} messages");
            assert_eq!(node.attributed_bytes(), model.charged_bytes(), "at {messages} messages");
        }
        assert_eq!((node.shard.connections(), node.client.heard.len()), (1, 1), "it waits");
    }
    match end {
        End::Beyond => {
            let room_bytes = DEFERRED_BYTES_MAX - model.held_bytes();
            node.write(&vec![0; room_bytes], |bytes| model.add(bytes));
            assert_eq!(node.charged_bytes(), idle_bytes + model.charged_bytes(), "all that is kept");
            assert_eq!(node.shard.connections(), 1);
            node.write(&[0], |_| {});
            node.run("the end", |node| node.shard.connections() == 0);
            assert_eq!(node.shard.ended_by("out-of-memory"), 1);
        }
        End::Reset => {
            node.network.client_reset(node.client.id);
            node.client.end = Some(Heard::Reset);
            node.run("the end", |node| node.shard.connections() == 0);
        }
        End::Unlimited => {
            node.limit(None);
            node.run("the last answer", move |node| node.client.heard.len() == messages);
            assert!(node.client.heard.iter().all(|item| matches!(item, Item::Message(..))));
            assert_eq!(node.charged_bytes(), idle_bytes, "all was read");
            assert_eq!(node.attributed_bytes(), 0);
        }
    }
    assert_eq!(node.charged_bytes(), idle_bytes, "after {end:?}");
}

#[test]
fn input_of_a_paused_connection_is_charged_and_released_to_the_byte() {
    for_each_seed("input_of_a_paused_connection_is_charged_and_released_to_the_byte", hold);
}
