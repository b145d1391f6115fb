//! Connections that are plain on one shard and continued there or on another one, on a simulated network. A continued connection continues
//! on one that was opened for it.

use super::*;
use crate::broadcast::{BroadcastSettings, Ids, TopicRequest, mail_codec, shard_mail::ShardMail};
use crate::gate::AuthCounters;
use crate::limits::SUBSCRIPTIONS_DEFAULT;
use crate::peer::ServerKinds;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{Chunk, Closed, ConnectionConfig, Entropy, Seed};
use echoring_proto::handshake::{Request, Upgrade};
use echoring_proto::limits::{MILLISECOND, SECOND};
use echoring_runtime::driver::Options;
use echoring_runtime::driver::sim::{ClientId as Client, Faults, Network, Random};
use echoring_runtime::shard::{
    Allowance, Answer, Application, Bridge, ControlMessage, Disposition, FarInlet, FarOutlet, Lane,
    Mailboxes, Security, Shard, ShardConfig, StreamHead,
};
use echoring_topics::limits::PRESENCE_INTERVAL;
use echoring_topics::{
    Access, CreationLimits, Creators, HistoryBounds, Permission, Placement, Rules, TopicSettings,
};
use echoring_wire::centrifuge::Encoding;
use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

const SHARDS: usize = 2;

/// The shard and token of each connection, by its path.
type Connections = Arc<Mutex<BTreeMap<String, (usize, Token)>>>;
/// Where the bytes of a connection go, if it may move.
type Bytes = SyncSender<Option<Vec<u8>>>;

#[derive(Debug)]
enum Step {
    Fence,
    Put(Token, Bytes),
    Take(Token, Vec<u8>),
    /// The predecessor is about to hand its topics over, of which it has none.
    HandOver(SyncSender<usize>),
    /// The successor leads, with this bridge.
    Lead(Bridge<ShardMail>),
    /// The predecessor follows, with this bridge.
    Follow(Bridge<ShardMail>),
    ForgetFarShards,
}

/// Serves topics, and nothing else.
struct Topics {
    /// The number of the shard, in all processes.
    number: usize,
    broadcast: Broadcast,
    gate: Gate,
    connections: Connections,
}

impl Application for Topics {
    type Kinds = ServerKinds;
    type Command = Step;
    type Report = ();

    fn request(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
        _: Option<&Upgrade<'_>>,
    ) -> Answer<Peer> {
        self.connections.lock().unwrap().insert(request.path.into(), (self.number, token));
        let kind = request.path.split('/').nth(1).unwrap_or_default();
        let topic = TopicRequest { token, topic: "t", gate: &mut self.gate };
        match kind {
            "raw" => self.broadcast.subscribe_raw(cx, topic, false, None),
            "events" => self.broadcast.open_event_stream(cx, topic, None, "".into()),
            "v1" => self.broadcast.open_session("echoring.v1.json", None),
            "json" | "protobuf" => {
                let encoding = if kind == "json" { Encoding::Json } else { Encoding::Protobuf };
                let session = CentrifugeSession::new(encoding, cx.now() + SECOND, None);
                self.broadcast.open_centrifuge(token, None, None, session)
            }
            "blank-events" => Answer::EventStream { peer: Peer::Echo, head: StreamHead::events("".into()) },
            _ => Answer::Upgrade { peer: Peer::Echo, subprotocol: None, whole: true },
        }
    }

    fn opened(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        _: Option<&echoring_proto::handshake::Response>,
    ) {
        if let Some(mut link) = cx.link(token).filter(|link| link.peer.is_event_stream()) {
            self.broadcast.begin_event_stream(&mut link);
        }
    }

    fn chunk(&mut self, link: &mut ConnectionContext<'_>, chunk: Chunk<'_>) -> Disposition {
        match link.peer {
            Peer::Subscriber(_) => self.broadcast.relay_message(link, chunk.kind, chunk.payload),
            _ => self.broadcast.request(link, &mut self.gate, chunk.kind, chunk.payload),
        }
        Disposition::Done
    }

    fn writable(&mut self, cx: &mut Context<'_>, token: Token) {
        self.broadcast.writable(cx, token);
    }

    fn blocked(&mut self, cx: &mut Context<'_>, token: Token) {
        self.broadcast.blocked(cx, token);
    }

    fn closed(&mut self, cx: &mut Context<'_>, token: Token, peer: Peer, _: &Closed) {
        self.broadcast.closed(cx, token, peer);
    }

    fn message(&mut self, cx: &mut Context<'_>, from: usize, mail: ShardMail, payload: &[u8]) {
        self.broadcast.mail(cx, from, mail, payload);
    }

    fn command(&mut self, cx: &mut Context<'_>, step: Step) {
        match step {
            Step::Fence => self.broadcast.begin_fence(cx),
            Step::Put(token, plain) => {
                // The runtime moves no connection whose latest bytes may not be with the kernel.
                let is_sent = cx.is_writable(token);
                if !is_sent || !self.broadcast.is_fenced() || !self.broadcast.may_move(cx, token) {
                    return plain.try_send(None).unwrap();
                }
                let (peer, mut bytes) = (std::mem::take(cx.peer(token).unwrap()), Vec::new());
                self.broadcast.put_peer(cx, token, peer, &mut bytes).unwrap();
                plain.try_send(Some(bytes)).unwrap();
            }
            Step::Take(token, bytes) => {
                let mut rest = &bytes[..];
                let peer = self.broadcast.take_peer(cx, token, &mut self.gate, &mut rest).unwrap();
                assert!(rest.is_empty());
                cx.set_peer(token, peer);
                self.broadcast.begin_continued(cx, token);
            }
            Step::HandOver(done) => self.broadcast.stop_ordering(cx, 1, done),
            Step::Lead(bridge) => self.broadcast.lead(cx, bridge),
            Step::Follow(bridge) => self.broadcast.follow(cx, bridge, 1 << 16),
            Step::ForgetFarShards => self.broadcast.forget_far_shards(cx),
        }
    }

    fn takes_requests(&self, cx: &Context<'_>) -> bool {
        self.broadcast.takes_requests(cx)
    }

    fn tick_ended(&mut self, cx: &mut Context<'_>) {
        self.broadcast.tick_ended(cx);
    }

    fn deadline(&self) -> Option<Nanos> {
        self.broadcast.deadline()
    }

    fn report(&self) {}
}

/// Two shards and their clients.
struct World {
    /// What carries mail between two processes.
    ways: Option<[Way; 2]>,
    network: Network,
    shards: Vec<Shard<Topics>>,
    connections: Connections,
    opened: usize,
    published: u32,
}

impl World {
    /// A world whose topics keep so many messages, and are owned by the shards that `seed` decides.
    fn new(seed: u64, messages: u32) -> World {
        World::of_processes(seed, messages, Mailboxes::connect(SHARDS, 1 << 20))
    }

    /// The same with these mailboxes, which connect the shards of the same process.
    fn of_processes(seed: u64, messages: u32, mailboxes: Vec<Mailboxes<ShardMail>>) -> World {
        let network = Network::new(seed, Faults::NONE);
        let connections = Connections::default();
        let history = HistoryBounds { messages, ..HistoryBounds::default() };
        let access = Access { presence: Permission::Everybody, ..Access::default() };
        let settings = TopicSettings { history, access, lag_bytes: 16 << 20, ..TopicSettings::default() };
        let rules = Rules::new(Vec::new(), settings);
        let (budget, slots) = (Budget::new(64 << 20), Budget::new(1_000));
        let mut shards = Vec::new();
        let processes = mailboxes.len() / mailboxes[0].shards();
        for (number, mailboxes) in mailboxes.into_iter().enumerate() {
            let mut driver = network.driver(&Options { connections: 64, ..Options::default() });
            driver.listen(network.listener().unwrap(), 0).unwrap();
            let broadcast = Broadcast::new(BroadcastSettings {
                rules: rules.clone(),
                topics: Lease::new(Arc::clone(&slots), 16),
                max_subscriptions: SUBSCRIPTIONS_DEFAULT,
                age_sample: 0,
                creators: Creators::default(),
                creation: CreationLimits::default(),
                max_message: 1 << 16,
                seed: seed + number as u64,
                placement: Placement::new(seed),
                // Those of the second process follow.
                first_number: (number - mailboxes.shard()) as u8,
                ids: Ids::new(Some(7), &mut Entropy::new(seed ^ (number - mailboxes.shard()) as u64)),
                digest_seed: seed,
            });
            let gate = Gate::new(None, Arc::<AuthCounters>::default());
            let service = Topics { number, broadcast, gate, connections: Arc::clone(&connections) };
            let config = ShardConfig {
                connection: ConnectionConfig { ping_interval: 0, ..ConnectionConfig::default() },
                connections: 64,
                security: Security::default(),
                seed: Seed::from(seed),
            };
            let allowance = Allowance {
                pool: Pool::new(Arc::clone(&budget)),
                connections: Lease::new(Arc::clone(&slots), 16),
                contexts: Lease::new(Budget::new(1 << 20), 1 << 16),
            };
            shards.push(Shard::new(driver, service, config, allowance, mailboxes));
        }
        let wakers: Vec<_> = shards.iter().map(|shard| shard.remote().waker().clone()).collect();
        let shards_of_each = shards.len() / processes;
        for (shard, wakers) in
            shards.iter_mut().zip(wakers.chunks(shards_of_each).flat_map(|own| vec![own; own.len()]))
        {
            shard.set_wakers(wakers);
        }
        World { ways: None, network, shards, connections, opened: 0, published: 0 }
    }

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            for shard in &mut self.shards {
                assert!(shard.tick(None).unwrap());
            }
            self.ways.iter_mut().flatten().for_each(Way::carry);
            self.network.advance(MILLISECOND);
        }
    }

    fn tick_only(&mut self, shard: usize) {
        assert!(self.shards[shard].tick(None).unwrap());
        self.network.advance(MILLISECOND);
    }

    fn settle(&mut self) {
        self.tick(12);
    }

    fn order(&mut self, shard: usize, step: Step) {
        assert!(self.shards[shard].remote().send(ControlMessage::Command(step)));
    }

    /// A connection of this kind to this shard.
    fn open(&mut self, kind: &str, shard: usize) -> At {
        loop {
            self.opened += 1;
            let path = format!("/{kind}/{}", self.opened);
            let client = self.network.connect();
            let head = if kind.ends_with("events") {
                format!("GET {path} HTTP/1.1\r\nHost: sim\r\n\r\n")
            } else {
                format!(
                    "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     Sec-WebSocket-Protocol: echoring.v1.json\r\n\r\n"
                )
            };
            self.write(client, head.as_bytes());
            let (on, token) = loop {
                self.settle();
                if let Some(at) = self.connections.lock().unwrap().get(&path) {
                    break *at;
                }
            };
            // Its answer may be late, too.
            self.settle();
            if on == shard {
                return At { client, shard, token };
            }
            self.network.client_close(client);
        }
    }

    /// Writes all bytes, however long that takes.
    fn write(&mut self, client: Client, mut bytes: &[u8]) {
        loop {
            let written = self.network.client_write(client, bytes);
            bytes = &bytes[written..];
            if bytes.is_empty() {
                return;
            }
            self.tick(1);
        }
    }

    /// Sends a message, as text or as bytes.
    fn send(&self, to: &At, message: &[u8], is_binary: bool) {
        assert!(message.len() < 126);
        let head = [if is_binary { 0x82 } else { 0x81 }, 0x80 | message.len() as u8, 0, 0, 0, 0];
        self.network.client_write(to.client, &[&head, message].concat());
    }

    /// Publishes the next messages, each with this many bytes.
    fn publish_long(&mut self, publisher: &At, count: u32, bytes: usize) {
        for _ in 0..count {
            self.published += 1;
            let filling = "x".repeat(bytes);
            let message =
                format!(r#"{{"type":"publish","topic":"t","data":"m{}.{filling}"}}"#, self.published);
            let length = (message.len() as u16).to_be_bytes();
            let head = [0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0];
            let frame = [&head, message.as_bytes()].concat();
            self.write(publisher.client, &frame);
        }
    }

    /// Publishes the next messages.
    fn publish(&mut self, publisher: &At, count: u32) {
        for _ in 0..count {
            self.published += 1;
            let command = format!(r#"{{"type":"publish","topic":"t","data":"m{}."}}"#, self.published);
            self.send(publisher, command.as_bytes(), false);
        }
    }

    /// Everything that a client was sent since the last time.
    fn take(&self, from: &At) -> String {
        let mut bytes = Vec::new();
        self.network.client_read(from.client, 1 << 20, &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn subscriber(&mut self, kind: &str, shard: usize) -> At {
        let opened = self.open(kind, shard);
        match kind {
            "v1" => self.send(&opened, br#"{"type":"subscribe","topic":"t"}"#, false),
            "json" => {
                self.send(&opened, br#"{"id":1,"connect":{}}"#, false);
                self.settle();
                self.send(&opened, br#"{"id":2,"subscribe":{"channel":"t","join_leave":true}}"#, false);
            }
            "protobuf" => {
                // connect, then subscribe to `t`.
                self.send(&opened, &[4, 8, 1, 0x22, 0], true);
                self.settle();
                self.send(&opened, &[7, 8, 2, 0x2a, 3, 0x0a, 1, b't'], true);
            }
            _ => {}
        }
        self.settle();
        opened
    }

    fn put(&mut self, connection: &At) -> Vec<u8> {
        self.order(connection.shard, Step::Fence);
        self.settle();
        self.try_put(connection).expect("it was plain")
    }

    fn try_put(&mut self, connection: &At) -> Option<Vec<u8>> {
        let (plain, answer) = sync_channel(1);
        self.order(connection.shard, Step::Put(connection.token, plain));
        loop {
            self.tick(1);
            if let Ok(bytes) = answer.try_recv() {
                return bytes;
            }
        }
    }

    fn take_in(&mut self, connection: &At, bytes: Vec<u8>) {
        self.order(connection.shard, Step::Take(connection.token, bytes));
    }
}

/// Carries mail from the shard of one process to that of another.
struct Way {
    from: FarInlet<ShardMail>,
    to: FarOutlet<ShardMail>,
}

impl Way {
    fn carry(&mut self) {
        let mut payload = Vec::new();
        while let Some((_, mail)) = self.from.take(&mut payload) {
            let mut wire = Vec::new();
            assert!(mail_codec::encode(&mail, &payload, &mut wire), "{mail:?} stays in its process");
            let (mut mail, bytes) = mail_codec::decode(&wire).unwrap();
            if let ShardMail::Publish { publisher, .. }
            | ShardMail::Deliver { publisher, .. }
            | ShardMail::PublishResult { publisher, .. } = &mut mail
            {
                // Each process has one shard, and the number of the other one follows it.
                publisher.move_to(|shard| Some(1 - shard)).unwrap();
            }
            assert!(self.to.post(1, &mail, bytes).unwrap());
        }
    }
}

impl World {
    /// Two processes with one shard each, of which the second orders the topics of both.
    fn of_predecessor_and_successor() -> World {
        let alone = || Mailboxes::connect(1, 1 << 20);
        let mut world = World::of_processes(1, 0, alone().into_iter().chain(alone()).collect());
        let (done, plain) = sync_channel(1);
        world.order(0, Step::HandOver(done));
        world.settle();
        assert_eq!(plain.try_recv(), Ok(0));
        let bridge = |shard: usize, posts| {
            let waker = world.shards[shard].remote().waker().clone();
            Bridge::new(posts, 1, 1 << 20, std::thread::current(), waker)
        };
        let (leads, successor) = bridge(1, Lane::Forward);
        let (follows, predecessor) = bridge(0, Lane::Request);
        let ((requests, to_predecessor), (forwards, to_successor)) = (predecessor.split(), successor.split());
        let ways = [Way { from: requests, to: to_successor }, Way { from: forwards, to: to_predecessor }];
        world.order(1, Step::Lead(leads));
        world.settle();
        world.order(0, Step::Follow(follows));
        world.ways = Some(ways);
        world.settle();
        world
    }
}

/// A client, and where its connection is.
#[derive(Clone, Copy)]
struct At {
    client: Client,
    shard: usize,
    token: Token,
}

/// The numbers of the messages in what a client was sent.
fn numbers(text: &str) -> Vec<u32> {
    let rest = text.split("\"m").skip(1);
    rest.filter_map(|rest| rest.split_once('.')?.0.parse().ok()).collect()
}

/// The events in what a client was sent, besides messages.
fn events(text: &str) -> Vec<&'static str> {
    const EVENTS: [&str; 9] =
        ["subscribed", "\"gap\"", "error", "presence", "members", "join", "leave", "unsubscribe", "recover"];
    EVENTS.into_iter().filter(|word| text.contains(word)).collect()
}

#[test]
fn nothing_is_lost_or_doubled_when_a_subscriber_moves_and_nothing_else_is_sent() {
    for kind in ["raw", "events", "v1", "json", "protobuf"] {
        for (seed, messages) in [(1, 0), (2, 0), (3, 0), (4, 3)] {
            for to in 0..SHARDS {
                let mut world = World::new(seed, messages);
                let publisher = world.open("v1", 0);
                let before = world.subscriber(kind, 0);
                world.publish(&publisher, 3);
                world.settle();
                let said = world.take(&before);
                assert_eq!(numbers(&said), [1, 2, 3], "{kind}: {said}");
                let blank = if kind == "events" { "blank-events" } else { "blank" };
                let after = if to == 0 { before } else { world.open(blank, to) };
                world.take(&after);
                for round in 0..3 {
                    let first = world.published + 1;
                    let from = if round == 0 { before } else { after };
                    world.publish(&publisher, 2);
                    let bytes = world.put(&from);
                    let mut heard = numbers(&world.take(&from));
                    world.publish(&publisher, 5);
                    world.tick(seed as usize);
                    world.take_in(&after, bytes);
                    world.publish(&publisher, 2);
                    world.tick(1);
                    world.publish(&publisher, 4);
                    world.settle();
                    let said = world.take(&after);
                    heard.extend(numbers(&said));
                    let all: Vec<u32> = (first..=world.published).collect();
                    assert_eq!(heard, all, "{kind} to {to}, seed {seed}, round {round}: {said}");
                    assert_eq!(events(&said), [""; 0], "{kind} to {to}: {said}");
                }
            }
        }
    }
}

/// A subscriber in a random run, and what it has heard.
struct Wanderer {
    kind: &'static str,
    at: At,
    heard: String,
    plain: Option<Vec<u8>>,
}

#[test]
fn subscribers_that_move_at_random_times_on_a_faulty_network_hear_everything_once() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut world = World::new(seed, [0, 2, 100][random.below(3)]);
        let publisher = world.open("v1", random.below(SHARDS));
        let kinds = ["raw", "events", "v1", "json", "protobuf", "v1"];
        let mut wanderers: Vec<Wanderer> = Vec::new();
        for kind in kinds {
            // Until everybody was told of connections that were opened at the other shard.
            world.tick((PRESENCE_INTERVAL / MILLISECOND) as usize);
            let at = world.subscriber(kind, random.below(SHARDS));
            let heard = world.take(&at);
            wanderers.push(Wanderer { kind, at, heard, plain: None });
        }
        world.network.set_faults(Faults::random(&mut random));
        let mut moves = 0;
        for _ in 0..150 {
            let (count, bytes) = (random.below(4) as u32, [130, 600][random.below(2)]);
            world.publish_long(&publisher, count, bytes);
            world.tick(random.below(3));
            let chosen = random.below(wanderers.len());
            let wanderer = &mut wanderers[chosen];
            match wanderer.plain.take() {
                None if random.chance(500) => {
                    world.order(wanderer.at.shard, Step::Fence);
                    world.tick(random.between(1, 6));
                    wanderer.plain = world.try_put(&wanderer.at);
                    moves += u32::from(wanderer.plain.is_some());
                }
                None => {}
                Some(bytes) => {
                    // What was sent before may still be under way.
                    let mut silent = 0;
                    while silent < 10 {
                        world.tick(1);
                        let said = world.take(&wanderer.at);
                        silent = if said.is_empty() { silent + 1 } else { 0 };
                        wanderer.heard += &said;
                    }
                    if random.chance(700) {
                        let is_stream = wanderer.kind == "events";
                        let to = random.below(SHARDS);
                        world.network.client_close(wanderer.at.client);
                        wanderer.at = world.open(if is_stream { "blank-events" } else { "blank" }, to);
                        world.take(&wanderer.at);
                    }
                    world.take_in(&wanderer.at, bytes);
                }
            }
            let listener = random.below(wanderers.len());
            let said = world.take(&wanderers[listener].at);
            wanderers[listener].heard += &said;
        }
        world.network.set_faults(Faults::NONE);
        for wanderer in &mut wanderers {
            if let Some(bytes) = wanderer.plain.take() {
                world.take_in(&wanderer.at, bytes);
            }
        }
        for _ in 0..50 {
            world.settle();
            for wanderer in &mut wanderers {
                wanderer.heard += &world.take(&wanderer.at);
            }
        }
        assert!(moves > 5, "seed {seed}: {moves} moves");
        let all: Vec<u32> = (1..=world.published).collect();
        for Wanderer { kind, heard, .. } in &wanderers {
            assert_eq!(numbers(heard), all, "{kind}, seed {seed}");
            let told = ["\"gap\"", "unsubscribe", "stale", "members", "leave", "error"];
            let told: Vec<&str> = told.into_iter().filter(|word| heard.contains(word)).collect();
            assert_eq!(told, [""; 0], "{kind}, seed {seed}");
            assert!(heard.matches("\"subscribed\"").count() <= 1, "{kind}, seed {seed}");
        }
    }
}

#[test]
fn a_long_replay_comes_page_by_page_and_ends_where_new_messages_begin() {
    for kind in ["raw", "v1", "json", "events"] {
        for seed in 1..4 {
            let mut world = World::new(seed, 0);
            let publisher = world.open("v1", 0);
            let before = world.subscriber(kind, 0);
            let after = world.open(if kind == "events" { "blank-events" } else { "blank" }, 1);
            world.take(&after);
            let bytes = world.put(&before);
            for _ in 0..12 {
                world.publish_long(&publisher, 10, 1_000);
            }
            world.settle();
            world.take_in(&after, bytes);
            let mut heard = Vec::new();
            for _ in 0..20 {
                world.publish_long(&publisher, 1, 1_000);
                world.tick(1);
                heard.extend(numbers(&world.take(&after)));
            }
            world.settle();
            heard.extend(numbers(&world.take(&after)));
            let all: Vec<u32> = (1..=world.published).collect();
            assert_eq!(heard, all, "{kind}, seed {seed}");
        }
    }
}

#[test]
fn messages_that_are_lost_meanwhile_are_told_as_ever() {
    for (kind, told) in
        [("raw", "slow consumer"), ("v1", "\"gap\""), ("json", "unsubscribe"), ("events", "event: gap")]
    {
        let mut world = World::new(1, 0);
        let publisher = world.open("v1", 0);
        let before = world.subscriber(kind, 0);
        let after = world.open(if kind == "events" { "blank-events" } else { "blank" }, 1);
        world.take(&after);
        let bytes = world.put(&before);
        for _ in 0..90 {
            world.publish_long(&publisher, 1, 60_000);
        }
        world.take_in(&after, bytes);
        world.settle();
        let said = world.take(&after);
        let end = said.len().min(300);
        assert!(said.contains(told), "{kind}: {}", &said[..end]);
    }
}

#[test]
fn a_client_returns_to_a_topic_that_has_another_epoch() {
    for (kind, told) in [("raw", "moved"), ("v1", "unsubscribed"), ("json", "unsubscribe"), ("events", "")] {
        for to in 0..SHARDS {
            let mut world = World::new(2, 0);
            let publisher = world.open("v1", 0);
            let other = world.subscriber("v1", to);
            let before = world.subscriber(kind, 0);
            let after = world.open(if kind == "events" { "blank-events" } else { "blank" }, to);
            world.take(&after);
            let bytes = world.put(&before);
            let bytes = of_another_epoch(&bytes);
            world.take_in(&after, bytes);
            world.settle();
            let said = world.take(&after);
            assert!(said.contains(told), "{kind} to {to}: {said}");
            world.publish(&publisher, 1);
            world.settle();
            assert!(numbers(&world.take(&after)).is_empty());
            assert_eq!(numbers(&world.take(&other)), [1], "nobody else notices");
        }
    }
}

/// The connection, as if its topic had begun again.
fn of_another_epoch(bytes: &[u8]) -> Vec<u8> {
    let mut plain = PlainPeer::take(&mut &bytes[..]).unwrap();
    match &mut plain {
        PlainPeer::Subscriber(subscriber) => subscriber.reached.position.epoch ^= 2,
        PlainPeer::Session(session) => session.subscriptions[0].reached.position.epoch ^= 2,
        PlainPeer::Handler { .. } => panic!("there are no handlers here"),
    }
    let mut bytes = Vec::new();
    plain.put(&mut bytes);
    bytes
}

#[test]
fn nobody_sees_a_member_move_and_it_leaves_under_its_own_id() {
    for (seed, to) in [(1, 0), (1, 1), (2, 0), (2, 1), (3, 1)] {
        let mut world = World::new(seed, 0);
        let witness = world.subscriber("v1", 1);
        world.take(&witness);
        let before = world.subscriber("v1", 0);
        let joined = world.take(&witness);
        let (_, client) = joined.split_once(r#""event":"join""#).unwrap_or_else(|| panic!("{joined}"));
        let client = client.split_once(r#""client":""#).unwrap().1.split_once('"').unwrap().0.to_owned();
        let after = if to == 0 { before } else { world.open("blank", to) };
        let bytes = world.put(&before);
        world.settle();
        world.take_in(&after, bytes);
        world.settle();
        assert_eq!(world.take(&witness), "", "seed {seed} to {to}");
        world.network.client_close(after.client);
        world.settle();
        let left = world.take(&witness);
        assert!(left.contains(r#""event":"leave""#) && left.contains(&client), "{left}, not {client}");
        assert_eq!(left.matches(r#""event":"leave""#).count(), 1);
    }
}

#[test]
fn clients_of_a_predecessor_move_to_its_successor_and_only_the_others_leave_with_it() {
    for kind in ["raw", "events", "v1", "json", "protobuf"] {
        let mut world = World::of_predecessor_and_successor();
        let (publisher, witness) = (world.open("v1", 0), world.subscriber("v1", 1));
        let (before, stays) = (world.subscriber(kind, 0), world.subscriber("v1", 0));
        let after = world.open(if kind == "events" { "blank-events" } else { "blank" }, 1);
        world.publish(&publisher, 2);
        world.settle();
        let mut heard = numbers(&world.take(&before));
        for from in [before, after] {
            world.take(&after);
            world.publish(&publisher, 2);
            let bytes = world.put(&from);
            heard.extend(numbers(&world.take(&from)));
            world.take(&witness);
            world.publish(&publisher, 3);
            world.tick(2);
            world.take_in(&after, bytes);
            world.publish(&publisher, 3);
            world.settle();
            let said = world.take(&after);
            heard.extend(numbers(&said));
            assert_eq!(events(&said), [""; 0], "{kind}: {said}");
            assert_eq!(events(&world.take(&witness)), [""; 0]);
        }
        assert_eq!(heard, (1..=world.published).collect::<Vec<_>>(), "{kind}");
        world.network.client_close(publisher.client);
        world.take(&stays);
        world.order(1, Step::ForgetFarShards);
        world.ways = None;
        world.settle();
        let left = world.take(&witness);
        assert_eq!(left.matches(r#""event":"leave""#).count(), 1, "{kind}: {left}");
        assert!(world.take(&after).len() < 200, "it goes on");
    }
}

#[test]
fn a_client_is_sent_the_members_if_others_have_joined_or_left_meanwhile() {
    for (seed, to) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let mut world = World::new(seed, 0);
        let before = world.subscriber("v1", 0);
        let after = if to == 0 { before } else { world.open("blank", to) };
        let other = world.subscriber("v1", 1);
        let bytes = world.put(&before);
        world.take(&after);
        world.network.client_close(other.client);
        world.settle();
        world.take_in(&after, bytes);
        world.settle();
        let said = world.take(&after);
        assert!(said.contains("stale") && said.contains("members"), "seed {seed} to {to}: {said}");
    }
}

#[test]
fn a_member_that_is_gone_before_it_is_live_leaves() {
    for seed in 1..4 {
        let mut world = World::new(seed, 0);
        let witness = world.subscriber("v1", 0);
        let before = world.subscriber("v1", 0);
        let after = world.open("blank", 1);
        let bytes = world.put(&before);
        world.take(&witness);
        world.take_in(&after, bytes);
        world.network.client_close(after.client);
        world.settle();
        let left = world.take(&witness);
        assert_eq!(left.matches(r#""event":"leave""#).count(), 1, "{left}");
    }
}

#[test]
fn a_raw_publisher_gets_none_of_its_own_messages_while_it_moves() {
    for (seed, to) in [(1, 0), (1, 1), (2, 0), (2, 1), (3, 1)] {
        let mut world = World::new(seed, 0);
        let witness = world.subscriber("v1", 1);
        let before = world.open("raw", 0);
        let after = if to == 0 { before } else { world.open("blank", to) };
        world.take(&after);
        world.send(&before, b"own 1", false);
        let bytes = world.put(&before);
        world.take_in(&after, bytes);
        // Nobody answers yet: a page is on its way unless the owner is this shard.
        world.tick_only(to);
        world.send(&after, b"own 2", false);
        world.tick_only(to);
        world.send(&after, b"own 3", false);
        world.settle();
        world.send(&after, b"own 4", false);
        world.settle();
        assert!(!world.take(&before).contains("own") && !world.take(&after).contains("own"));
        let heard = world.take(&witness);
        let own: Vec<&str> = heard.split("\"own ").skip(1).map(|rest| &rest[..1]).collect();
        assert_eq!(own, ["1", "2", "3", "4"], "seed {seed} to {to}: {heard}");
    }
}

#[test]
fn a_connection_with_unsent_messages_stays_and_so_does_one_without_a_fence() {
    let mut world = World::new(1, 0);
    let publisher = world.open("v1", 0);
    let echo = world.open("blank", 0);
    let session = world.subscriber("v1", 0);
    assert!(world.try_put(&session).is_none(), "there is no fence");
    world.order(0, Step::Fence);
    world.settle();
    assert!(world.try_put(&echo).is_none(), "there is nothing to move");
    // More than the client's receive window takes.
    world.publish_long(&publisher, 200, 10_000);
    world.order(0, Step::Fence);
    world.settle();
    assert!(world.try_put(&session).is_none(), "it has not been sent everything");
}
