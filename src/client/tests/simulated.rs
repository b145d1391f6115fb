//! The session with echoring itself, in a simulation: connections end anywhere, servers restart, and readers are slow. Each message
//! is delivered or reported as missed, once and in order.

use std::sync::Arc;
use std::time::Duration;

use echoring_server::testing::{TestClient, TestServer};
use echoring_server::{Builder, OwnedPublication, ServerConfig};
use echoring_topics::{HistoryBounds, Rules, TopicSettings};
use proptest::prelude::*;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::model::Reader;
use crate::command::Command;
use crate::protocol::Protocol;
use crate::queue::Queue;
use crate::session::{Session, Token};

const TOPIC: &str = "prices";
/// More messages than are published.
const KEEPS_ALL: u32 = 10_000;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// So many messages are published.
    Publish(u8),
    /// The client sends what it wants to send.
    Send,
    /// The client receives so many messages of the connection.
    Receive(u8),
    /// The reader takes so many events.
    Read(u8),
    /// The connection is cut, with what is on its way, and a new one is opened.
    Cut,
    /// Another server is started, which knows nothing of the topic.
    Restart,
    /// So many milliseconds pass.
    Wait(u16),
}

/// A server with one topic, and one client with a subscription.
struct World {
    protocol: Protocol,
    keeps: u32,
    seed: u64,
    server: TestServer,
    peer: TestClient,
    session: Session,
    queue: Arc<Queue>,
    reader: Reader,
    now: Instant,
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

impl World {
    fn new(protocol: Protocol, keeps: u32, capacity: usize, seed: u64) -> World {
        let (server, now) = (start(keeps, seed), Instant::now());
        let peer = dial(&server, protocol);
        let mut session = Session::new(protocol, Token::default(), None);
        let queue = Queue::new(capacity, Arc::new(Notify::new()));
        let (answer, _) = oneshot::channel();
        let command = Command::Subscribe {
            topic: TOPIC.into(),
            position: None,
            presence: false,
            deltas: false,
            token: None,
            queue: Arc::clone(&queue),
            answer,
        };
        session.handle_command(command, now);
        session.handle_open(now);
        let (reader, published) = (Reader::default(), 0);
        World { protocol, keeps, seed, server, peer, session, queue, reader, now, published }
    }

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
        while let Some(message) = self.session.first_outgoing() {
            self.session.take_outgoing();
            self.peer.send_text(message.as_text().expect("a text"));
        }
    }

    fn receive(&mut self, messages: usize) {
        for _ in 0..messages {
            let Some(message) = self.peer.next_message() else { break };
            let text = message.text().expect("a text").to_owned();
            self.session.handle_message(&text.into(), self.now).expect("a message of the protocol");
        }
        if self.peer.closed().is_some() {
            self.reconnect();
        }
    }

    fn read(&mut self, events: usize) -> Result<(), TestCaseError> {
        for _ in 0..events {
            let Some((event, _)) = self.queue.pop() else { break };
            self.reader.handle(event)?;
        }
        self.session.handle_wake(self.now);
        Ok(())
    }

    fn reconnect(&mut self) {
        self.session.handle_lost();
        self.peer = dial(&self.server, self.protocol);
        self.session.handle_open(self.now);
    }

    fn wait(&mut self, time: Duration) {
        self.server.advance(time);
        self.now += time;
        self.session.handle_timeout(self.now);
    }

    fn run(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Publish(messages) => self.publish(messages),
            Op::Send => self.send(),
            Op::Receive(messages) => self.receive(messages.into()),
            Op::Read(events) => self.read(events.into())?,
            Op::Cut => {
                self.peer.disconnect();
                self.reconnect();
            }
            Op::Restart => {
                self.seed += 1;
                (self.server, self.published) = (start(self.keeps, self.seed), 0);
                self.reconnect();
            }
            Op::Wait(ms) => self.wait(Duration::from_millis(ms.into())),
        }
        Ok(())
    }

    /// Everything that is on its way arrives, and is read.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..40 {
            self.wait(Duration::from_millis(500));
            self.send();
            self.receive(usize::MAX);
            self.read(usize::MAX)?;
        }
        Ok(())
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1..6_u8).prop_map(Op::Publish),
        4 => Just(Op::Send),
        4 => (1..8_u8).prop_map(Op::Receive),
        4 => (1..8_u8).prop_map(Op::Read),
        2 => Just(Op::Cut),
        1 => Just(Op::Restart),
        1 => (1..2_000_u16).prop_map(Op::Wait),
    ];
    prop::collection::vec(op, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// The reader fails at a hole, a repetition, and a gap that is longer or shorter than what is missing. Where the server keeps
    /// everything, nothing is missing but with its other epoch.
    #[test]
    fn a_client_of_a_server_that_restarts_loses_nothing_untold(
        ops in ops(),
        keeps in prop::sample::select(vec![0, 1, 5, KEEPS_ALL]),
        capacity in 1..12_usize,
        protocol in prop::sample::select(vec![Protocol::Echoring, Protocol::Centrifuge]),
        seed in 0..1_000_u64,
    ) {
        let mut world = World::new(protocol, keeps, capacity, seed);
        world.settle()?;
        for op in ops {
            world.run(op)?;
        }
        world.settle()?;
        // One last message shows that the subscription is live, and what was missed at the tail.
        world.publish(1);
        world.settle()?;
        let reached = world.reader.position.as_ref().map(|position| position.offset);
        prop_assert_eq!(reached, Some(world.published), "{}", world.server.transcript());
        if keeps == KEEPS_ALL {
            prop_assert_eq!(world.reader.missed, 0, "{}", world.server.transcript());
        }
    }
}
