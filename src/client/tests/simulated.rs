//! The session with echoring itself, in a simulation: connections end anywhere, servers restart, and readers are slow. Each message
//! is delivered or reported as missed, once and in order.

use std::time::Duration;

use echoring_server::testing::{TestClient, TestServer};
use echoring_server::{Builder, OwnedPublication, ServerConfig};
use echoring_topics::{HistoryBounds, Rules, TopicSettings};
use proptest::prelude::*;

use super::session::{TOPIC, TestSession};
use super::world::{Reader, World, steps};
use crate::protocol::Protocol;

/// More messages than are published.
const KEEPS_ALL: u32 = 10_000;

/// So many milliseconds pass.
#[derive(Clone, Copy, Debug)]
struct Wait(u16);

/// A server with one topic, and one client with a subscription.
struct Simulated {
    protocol: Protocol,
    keeps: u32,
    seed: u64,
    server: TestServer,
    peer: TestClient,
    client: TestSession,
    reader: Reader,
    /// Messages of this server.
    published: u64,
}

fn start(keeps: u32, seed: u64) -> TestServer {
    let history = HistoryBounds { messages: keeps, bytes: 16 << 20, ..HistoryBounds::default() };
    let settings = TopicSettings { history, ..TopicSettings::default() };
    let topics = Rules::new(Vec::new(), settings);
    let config = ServerConfig { topics, ..Builder::new().config().clone() };
    TestServer::with_seed(Builder::from(config).shards(2).builtin_routes(true), seed)
}

fn dial(server: &TestServer, protocol: Protocol) -> TestClient {
    let path = if protocol.connects() { "/connection/websocket" } else { "/broadcast" };
    server.request(path).subprotocols([protocol.subprotocol()]).connect().expect("the server is there")
}

impl Simulated {
    fn new(protocol: Protocol, keeps: u32, capacity: usize, seed: u64) -> Simulated {
        let server = start(keeps, seed);
        let peer = dial(&server, protocol);
        let mut client = TestSession::new(protocol, capacity);
        client.subscribe(false, None);
        client.session.handle_open(client.now);
        let (reader, published) = (Reader::default(), 0);
        Simulated { protocol, keeps, seed, server, peer, client, reader, published }
    }

    /// The connection is lost.
    fn redial(&mut self) {
        self.peer = dial(&self.server, self.protocol);
        self.client.reconnect();
    }
}

impl World for Simulated {
    type Special = Wait;

    const PAUSE: Duration = Duration::from_millis(500);

    fn publish(&mut self, messages: u8) {
        let first = self.published + 1;
        self.published += u64::from(messages);
        let batch = (first..=self.published).map(|number| OwnedPublication::json(number.to_string()));
        let positions = self.server.handle().publish_all(TOPIC, batch).expect("the server is there");
        for position in positions {
            position.expect("accepted");
        }
    }

    fn send(&mut self) {
        while let Some(text) = self.client.sent() {
            self.peer.send_text(&text);
        }
    }

    fn receive(&mut self, messages: usize) {
        for _ in 0..messages {
            let Some(message) = self.peer.next_message() else { break };
            self.client.receive(message.text().expect("a text")).expect("a message of the protocol");
        }
        if self.peer.closed().is_some() {
            self.redial();
        }
    }

    fn read(&mut self, events: usize) -> Result<(), TestCaseError> {
        self.client.read(&mut self.reader, events)
    }

    fn reconnect(&mut self) {
        self.peer.disconnect();
        self.redial();
    }

    fn restart(&mut self) {
        self.seed += 1;
        (self.server, self.published) = (start(self.keeps, self.seed), 0);
        self.redial();
    }

    fn wait(&mut self, time: Duration) {
        self.server.advance(time);
        self.client.wait(time);
    }

    fn run_special(&mut self, Wait(ms): Wait) {
        self.wait(Duration::from_millis(ms.into()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// The reader fails at a hole, a repetition, and a gap that is longer or shorter than what is missing. Where the server keeps
    /// everything, nothing is missing but with its other epoch.
    #[test]
    fn a_client_of_a_server_that_restarts_loses_nothing_silently(
        steps in steps((1..2_000_u16).prop_map(Wait)),
        keeps in prop::sample::select(vec![0, 1, 5, KEEPS_ALL]),
        capacity in 1..12_usize,
        protocol in prop::sample::select(vec![Protocol::Echoring, Protocol::Centrifuge]),
        seed in 0..1_000_u64,
    ) {
        let mut world = Simulated::new(protocol, keeps, capacity, seed);
        world.settle()?;
        world.run_all(steps)?;
        let reached = world.reader.position.as_ref().map(|position| position.offset);
        prop_assert_eq!(reached, Some(world.published), "{}", world.server.transcript());
        if keeps == KEEPS_ALL {
            prop_assert_eq!(world.reader.missed, 0, "{}", world.server.transcript());
        }
    }
}
