//! A room of 100,000 members that a handler of 20 lines makes, on the simulated driver: every member gets every message, in one order
//! and at the positions that its publisher was told, and the room costs what the built-in route costs.
//!
//! The simulated clients are bytes only. `ECHORING_MEMBERS` sets another number of members.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::support::counting::held_bytes;
use crate::support::{broadcast, reports};
use echoring_broker::limits::SUBSCRIPTIONS_WAITING_MAX;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::ConnectionConfig;
use echoring_proto::limits::{MESSAGE_BYTES_DEFAULT, MILLISECOND, SECOND};
use echoring_runtime::driver::sim::{ClientId, Faults, Heard, Network};
use echoring_runtime::driver::{Driver, Options, Waker};
use echoring_runtime::shard::{Allowance, Application, Mailboxes, Security, Shard, ShardConfig};
use echoring_server::{
    Disposition, Handler, Message, Position, PublishOutcome, Remote, Result, Route, Routes, Service,
    SubscribeOptions, SubscriptionEvent,
};
use echoring_topics::{Deliveries, HubReport, Publications, Rules, TopicSettings};

use super::support::service::with_broadcast;

const SHARDS: usize = 2;
const TOPIC: &str = "everyone";
const GOOD_BYE: &str = "somebody has left";
/// Of the handler and of the built-in route. They have one length, so that the simulated network takes one memory.
const PATHS: [&str; 2] = ["/room-with/everyone", "/broadcast/everyone"];

fn members() -> usize {
    std::env::var("ECHORING_MEMBERS").ok().map_or(100_000, |text| text.parse().expect("a number"))
}

// ---- the handler ----

/// The events that the handlers were told.
#[derive(Debug, Default)]
struct Told {
    /// How many subscriptions begin at each position.
    begun: BTreeMap<(u64, u64), usize>,
    /// The position of each message, by its number.
    positions: BTreeMap<u64, Position>,
}

/// A member of the room.
struct Member {
    skips_own: bool,
    says_good_bye: bool,
    told: Arc<Mutex<Told>>,
}

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        if self.says_good_bye {
            remote.publish_on_close(TOPIC, GOOD_BYE)?;
        }
        let options = SubscribeOptions::new();
        Ok(remote.subscribe_with(TOPIC, if self.skips_own { options.skip_own() } else { options })?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        let number = message.text().and_then(|text| text.get(..NUMBER_BYTES)?.parse().ok());
        remote.publish_with_id(number.ok_or("no number")?, TOPIC, message)?;
        Ok(Disposition::Done)
    }

    fn subscription(&mut self, _: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
        let SubscriptionEvent::Subscribed { position: Position { epoch, offset }, .. } = *event else {
            panic!("{event:?}")
        };
        *self.told.lock().expect("no panic").begun.entry((epoch, offset)).or_default() += 1;
        Ok(())
    }

    fn published(&mut self, _: &mut Remote<'_>, outcome: &PublishOutcome<'_>) -> Result {
        let (number, position) = (outcome.id.expect("it has one"), outcome.result.expect("accepted"));
        let before = self.told.lock().expect("no panic").positions.insert(number, position);
        assert_eq!(before, None, "one outcome for each");
        Ok(())
    }
}

// ---- the node and its clients ----

/// Digits of the number at the beginning of a message.
const NUMBER_BYTES: usize = 6;
const PAYLOAD_BYTES: usize = 64;

struct Node {
    network: Network,
    shards: Vec<Shard<Service>>,
    members: Vec<ClientId>,
    told: Arc<Mutex<Told>>,
    /// The bytes of the member that was read last; the memory serves all members.
    received: Vec<u8>,
    next_number: u64,
}

impl Node {
    fn new(seed: u64, connections: usize, skips_own: bool, says_good_bye: bool) -> Node {
        let told = Arc::<Mutex<Told>>::default();
        let mut routes = Routes::default();
        let to = Arc::clone(&told);
        routes.add(Route::new(PATHS[0], move || Member { skips_own, says_good_bye, told: Arc::clone(&to) }));
        let network = Network::new(seed, Faults::NONE);
        let drivers: Vec<Driver> = (0..SHARDS).map(|_| driver(&network, connections)).collect();
        let wakers: Vec<Waker> = drivers.iter().map(Driver::waker).collect();
        let (topics, slots) = (Budget::new(1_000), Budget::new(connections as u64 + 1_000));
        let (memory, contexts) = (Budget::new(1 << 30), Budget::new(1 << 20));
        let mailboxes = Mailboxes::connect(SHARDS, 4 << 20);
        let shards = drivers.into_iter().zip(mailboxes).enumerate().map(|(number, (driver, mailboxes))| {
            let allowance = Allowance {
                pool: Pool::new(memory.clone()),
                connections: Lease::new(slots.clone(), 64),
                contexts: Lease::new(contexts.clone(), 1 << 16),
            };
            let config = ShardConfig {
                connection: ConnectionConfig {
                    ping_interval: 0,
                    handshake_timeout: 600 * SECOND,
                    ..ConnectionConfig::default()
                },
                connections: connections as u32,
                security: Security::default(),
                seed: seed.into(),
            };
            let service = with_broadcast(broadcast::settings(
                Rules::new(Vec::new(), TopicSettings::default()),
                &topics,
                MESSAGE_BYTES_DEFAULT,
                seed,
                number,
            ))
            .with_routes(routes.clone());
            let mut shard = Shard::new(driver, service, config, allowance, mailboxes);
            shard.set_wakers(&wakers);
            shard
        });
        let shards = shards.collect();
        Node { network, shards, members: Vec::new(), told, received: Vec::new(), next_number: 1 }
    }

    /// Ticks the shards until they have nothing to do at this time. What a tick stages leaves with the next one.
    fn settle(&mut self) {
        let mut quiet_rounds = 0;
        while quiet_rounds < 2 {
            let is_busy = (0..SHARDS).any(|number| self.network.is_runnable(number));
            quiet_rounds = if is_busy { 0 } else { quiet_rounds + 1 };
            for shard in &mut self.shards {
                assert!(shard.tick(None).expect("a simulated driver works"));
            }
        }
    }

    /// The same for so many milliseconds.
    fn pass(&mut self, milliseconds: usize) {
        for _ in 0..milliseconds {
            self.network.advance(MILLISECOND);
            self.settle();
        }
    }

    /// Connects members, and takes their responses: a part after the other, because [`SUBSCRIPTIONS_WAITING_MAX`] may wait for a topic
    /// to begin on their shard. They are connected before the first tick, so that the seed alone decides which shard has which.
    fn join(&mut self, count: usize, path: &str, buffer_bytes: usize) {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        let first = self.members.len();
        self.members.extend((0..count).map(|_| self.network.connect_with(buffer_bytes)));
        let numbers: Vec<usize> = (first..self.members.len()).collect();
        for part in numbers.chunks(SUBSCRIPTIONS_WAITING_MAX) {
            for &member in part {
                let written = self.network.client_write(self.members[member], request.as_bytes());
                assert_eq!(written, request.len());
            }
            self.settle();
            for &member in part {
                let head = String::from_utf8_lossy(self.receive(member));
                let is_opened = head.starts_with("HTTP/1.1 101 ") && head.ends_with("\r\n\r\n");
                assert!(is_opened, "member {member}: {head}");
            }
        }
    }

    /// The bytes that a member has received since it was last read.
    fn receive(&mut self, member: usize) -> &[u8] {
        self.received.clear();
        let heard = self.network.client_read(self.members[member], usize::MAX, &mut self.received);
        assert!(matches!(heard, Heard::Bytes | Heard::Nothing), "member {member}: {heard:?}");
        &self.received
    }

    /// Has each of `publishers` send a message. Returns the message of each.
    fn publish(&mut self, publishers: &[usize]) -> BTreeMap<usize, Vec<u8>> {
        let mut sent = BTreeMap::new();
        for &publisher in publishers {
            let mut payload = format!("{:0NUMBER_BYTES$} of {publisher}", self.next_number).into_bytes();
            payload.resize(PAYLOAD_BYTES, b'.');
            self.next_number += 1;
            let mut frame = vec![0x81, 0x80 | PAYLOAD_BYTES as u8, 1, 2, 3, 4];
            frame.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, key)| byte ^ key));
            assert_eq!(self.network.client_write(self.members[publisher], &frame), frame.len());
            sent.insert(publisher, payload);
        }
        self.settle();
        sent
    }

    /// The accounts of all shards together.
    fn report(&mut self) -> HubReport {
        reports::sum(self.shards.iter_mut().map(|shard| shard.application().report()))
    }

    /// Bytes of the node's budget that the shards use.
    fn charged_bytes(&self) -> u64 {
        self.shards.iter().map(Shard::charged_bytes).sum()
    }
}

fn driver(network: &Network, connections: usize) -> Driver {
    let mut driver = network.driver(&Options {
        connections: connections as u32,
        receive_bytes: 32 << 20,
        ..Options::default()
    });
    driver.listen(network.listener().expect("a descriptor"), 0).expect("a simulated driver listens");
    driver
}

/// The payloads of whole, short text frames.
fn payloads(mut frames: &[u8]) -> Vec<&[u8]> {
    let mut payloads = Vec::new();
    while let [0x81, bytes, rest @ ..] = frames {
        assert!(*bytes < 126, "a short frame");
        let (payload, rest) = rest.split_at(usize::from(*bytes));
        payloads.push(payload);
        frames = rest;
    }
    assert!(frames.is_empty(), "nothing else: {frames:?}");
    payloads
}

// ---- the tests ----

/// The accounts that are the same for a room and the built-in route, and the memory that a member takes.
#[derive(Debug)]
struct Figures {
    report: HubReport,
    charged_bytes: u64,
    /// Bytes of this process for each member, those of the simulated network and driver included.
    bytes_per_member: u64,
}

/// Members join, some publish, and everybody has to have everything.
fn figures(members: usize, path: &str, skips_own: bool) -> Figures {
    let is_room = path == PATHS[0];
    let path = format!("{path}?self={}", u8::from(!skips_own));
    let mut node = Node::new(7, members, skips_own, false);
    node.members.reserve_exact(members);
    let before = held_bytes();
    node.join(members, &path, 2_048);
    let bytes_per_member = (held_bytes() - before) as u64 / members as u64;

    let publishers: Vec<usize> = (0..8).map(|number| number * members / 8).collect();
    let mut order = Vec::new();
    for _ in 0..2 {
        let sent = node.publish(&publishers);
        check_round(&mut node, &sent, skips_own, &mut order);
    }
    let report = node.report();
    let charged_bytes = node.charged_bytes();
    if is_room {
        check_told(&node, members, &order);
    }
    Figures { report, charged_bytes, bytes_per_member }
}

/// All members have received the same messages in the same order, without their own if they skip those.
fn check_round(node: &mut Node, sent: &BTreeMap<usize, Vec<u8>>, skips_own: bool, order: &mut Vec<Vec<u8>>) {
    let listener = (0..node.members.len()).find(|member| !sent.contains_key(member)).expect("a listener");
    let all = node.receive(listener).to_vec();
    let round: Vec<Vec<u8>> = payloads(&all).into_iter().map(<[u8]>::to_vec).collect();
    let mut sorted = round.clone();
    sorted.sort();
    assert_eq!(sorted, sent.values().cloned().collect::<Vec<_>>(), "each once");
    for member in (0..node.members.len()).filter(|member| *member != listener) {
        match sent.get(&member).filter(|_| skips_own) {
            None => assert!(node.receive(member) == all, "member {member}"),
            Some(own) => {
                let others: Vec<&[u8]> = round.iter().filter(|one| *one != own).map(Vec::as_slice).collect();
                assert_eq!(payloads(node.receive(member)), others, "member {member}");
            }
        }
    }
    order.extend(round);
}

/// The handlers were told where their subscriptions begin, and at which positions the messages are that everybody has received.
fn check_told(node: &Node, members: usize, order: &[Vec<u8>]) {
    let told = node.told.lock().expect("no panic");
    let begun: Vec<_> = told.begun.iter().collect();
    let [(&(epoch, 0), &count)] = begun[..] else { panic!("{begun:?}") };
    assert_eq!(count, members, "each once");
    assert_eq!(told.positions.len(), order.len());
    for (message, offset) in order.iter().zip(1..) {
        let number: u64 =
            str::from_utf8(&message[..NUMBER_BYTES]).expect("digits").parse().expect("a number");
        assert_eq!(told.positions[&number], Position { epoch, offset });
    }
}

/// The bytes that a member of a room may take more than a subscriber of the built-in route: its handler, its slot in a table that
/// doubles, and the session of its subscriptions.
const MORE_BYTES_MAX: u64 = 512;

fn compare(members: usize, skips_own: bool) {
    let [room, route] = PATHS.map(|path| figures(members, path, skips_own));
    println!("{members} members, skips_own {skips_own}: {room:?}, built in: {route:?}");
    assert_eq!(room.report, route.report, "the accounts are those of the built-in route");
    let (members, messages) = (members as u64, 16);
    let HubReport { subscriptions, publications, deliveries, .. } = room.report;
    assert_eq!(subscriptions, members);
    assert_eq!(publications, Publications { published: messages, accepted: messages, refused: 0 });
    let sent = messages * (members - u64::from(skips_own));
    let mut all_sent = Deliveries::default();
    (all_sent.offered, all_sent.sent) = (sent, sent);
    assert_eq!(deliveries, all_sent);
    assert_eq!(room.charged_bytes, route.charged_bytes, "members are not charged");
    let more = room.bytes_per_member.saturating_sub(route.bytes_per_member);
    assert!(more <= MORE_BYTES_MAX, "{more} bytes");
}

#[test]
fn a_room_of_100_000_members_has_the_figures_of_the_built_in_route() {
    compare(members(), true);
}

#[test]
fn so_has_one_whose_members_get_their_own_messages() {
    compare(members() / 10, false);
}

/// The last messages of tens of thousands that are cut in one tick reach those who stay, all of them and exactly once.
#[test]
fn tens_of_thousands_that_are_cut_at_once_are_announced_to_those_who_stay() {
    let (leaving, staying) = (members() / 2, 4);
    let mut node = Node::new(7, leaving + staying, false, true);
    let before = node.charged_bytes();
    node.join(staying, PATHS[0], 2 << 20);
    node.join(leaving, PATHS[0], 2_048);
    assert!(node.charged_bytes() - before > (leaving * GOOD_BYE.len()) as u64, "they are charged");
    for &member in &node.members[staying..] {
        node.network.client_close(member);
    }
    let mut heard = vec![0; staying];
    for _ in 0..1_000 {
        node.pass(1);
        for (member, heard) in heard.iter_mut().enumerate() {
            let texts = payloads(node.receive(member)).into_iter().inspect(|text| {
                assert_eq!(*text, GOOD_BYE.as_bytes());
            });
            *heard += texts.count();
        }
        if heard.iter().all(|heard| *heard >= leaving) {
            break;
        }
    }
    node.pass(10);
    assert!((0..staying).all(|member| node.receive(member).is_empty()));
    assert_eq!(heard, vec![leaving; staying]);
    let (leaving, staying) = (leaving as u64, staying as u64);
    let report = node.report();
    assert_eq!(report.publications, Publications { published: leaving, accepted: leaving, refused: 0 });
    // Those who are cut in the same tick are offered some, too.
    let Deliveries { offered, sent, dropped_disconnect, .. } = report.deliveries;
    assert_eq!((sent, offered - dropped_disconnect), (leaving * staying, leaving * staying));
    assert_eq!(report.subscriptions, staying);
    let left = node.charged_bytes() - before;
    assert!(left < 4 << 20, "{left} bytes for logs and a history");
}
