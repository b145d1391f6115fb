//! A takeover under load: whatever the interleaving, every topic has one order, in one epoch, across both processes. A handover that
//! is given up at any step leaves the first process as it was.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use echoring_async::limits::DRAIN_TIMEOUT;
use echoring_broker::broadcast::Ids;
use echoring_proto::buffer::Budget;
use echoring_proto::connection::Entropy;
use echoring_runtime::driver::sim::Random;
use echoring_runtime::shard::{ControlMessage, DrainPlan};
use echoring_server::{BroadcastSettings, Routes, Service};
use echoring_topics::{Placement, Rules, TopicSettings};

use super::client::{Client, Item, Leave};
use super::last_messages::{Joined, members, texts};
use super::rehearsal::Rehearsal;
use super::service::with_broadcast;
use super::sessions::{Request, Session, notices, number, text};
use super::topics::MESSAGE_BYTES_MAX;
use super::world::{Memory, World, config};
use super::{broadcast_settings, for_each_seed};

const LAG_BYTES: usize = 1 << 22;
const TOPICS: [&str; 4] = ["one", "two", "three", "four"];
/// Phases of publications: before, while and after the topics move.
const PHASES: usize = 4;

/// Two processes, of which the first has the clients.
fn world(seed: u64, processes: [usize; 2], routes: &Routes) -> Rc<World<Service>> {
    let config = echoring_proto::connection::ConnectionConfig { max_message: MESSAGE_BYTES_MAX, ..config() };
    let topics = [0, 1].map(|_| Budget::new(100));
    let mailbox_bytes = 2 * MESSAGE_BYTES_MAX as usize + 2_048;
    let memory = Memory { budget_bytes: 256 << 20, refused: 0 };
    let routes = routes.clone();
    World::of_processes(seed, &processes, config, mailbox_bytes, false, memory, move |shard| {
        let process = usize::from(shard >= processes[0]);
        let settings = TopicSettings { lag_bytes: LAG_BYTES, lag: u64::MAX / 4, ..TopicSettings::default() };
        let rules = Rules::new(Vec::new(), settings);
        let settings = BroadcastSettings {
            seed: seed ^ (shard as u64) << 8,
            placement: placement(seed, process),
            first_number: if process == 0 { 0 } else { processes[0] as u8 },
            ids: Ids::new(Some(1), &mut Entropy::new(seed ^ process as u64)),
            digest_seed: seed,
            ..broadcast_settings(rules, &topics[process], MESSAGE_BYTES_MAX, seed, shard)
        };
        with_broadcast(settings).with_routes(routes.clone())
    })
}

/// Where the topics of a process are.
pub(super) fn placement(seed: u64, process: usize) -> Placement {
    Placement::new(seed ^ (process as u64 + 1))
}

fn count(client: &Client, kind: &str) -> usize {
    let start = format!("{{\"type\":\"{kind}\"");
    let is_one = |item: &&Item| matches!(item, Item::Message(_, text) if text.starts_with(start.as_bytes()));
    client.heard.iter().filter(is_one).count()
}

struct Model {
    world: Rc<World<Service>>,
    random: Random,
    sessions: Vec<Session>,
    /// The subscriptions of each session.
    topics: Vec<Vec<&'static str>>,
}

impl Model {
    fn new(seed: u64, processes: [usize; 2]) -> Model {
        let mut random = Random::new(seed);
        let world = world(seed, processes, &Routes::default());
        let sessions: Vec<Session> = (0..random.between(2, 6)).map(|_| Session::open(&world)).collect();
        let topics = sessions.iter().map(|_| Vec::new()).collect();
        for client in world.clients.borrow_mut().iter_mut() {
            client.eagerness = client.eagerness.max(250);
            client.sip_bytes = client.sip_bytes.max(600);
        }
        let mut model = Model { world, random, sessions, topics };
        model.subscribe();
        model
    }

    /// Sessions subscribe to further topics.
    fn subscribe(&mut self) {
        let Model { world, random, sessions, topics } = self;
        for (session, topics) in sessions.iter_mut().zip(topics) {
            for topic in TOPICS {
                if !topics.contains(&topic) && random.chance(400) {
                    session.subscribe(world, random, topic, None);
                    topics.push(topic);
                }
            }
        }
    }

    fn publish(&mut self) {
        let Model { world, random, sessions, .. } = self;
        for session in sessions.iter_mut() {
            for _ in 0..random.below(12) {
                let topic = TOPICS[random.below(TOPICS.len())];
                let pad_bytes_max = [40, 400, 4_000][random.below(3)];
                session.publish(world, random, topic, "", pad_bytes_max);
            }
        }
    }

    /// Runs until everything asked for is answered and delivered, and `step` agrees.
    fn settle(&self, step: impl Fn() -> bool + 'static) {
        let expected: Vec<(usize, usize, usize)> = (self.sessions.iter().zip(&self.topics))
            .map(|(session, topics)| (session.client, session.published.len(), topics.len()))
            .collect();
        self.world.run(move |clients| {
            let goes_on = step();
            goes_on
                && expected.iter().all(|(client, published, subscribed)| {
                    let client = &clients[*client];
                    count(client, "published") == *published && count(client, "subscribed") == *subscribed
                })
        });
    }

    /// The offsets at which messages were acknowledged, by topic: each once, from 1 without holes. Returns the last ones.
    fn check_acknowledged(&self) -> BTreeMap<String, (String, u64)> {
        let clients = self.world.clients.borrow();
        let mut all: BTreeMap<String, (String, Vec<u64>)> = BTreeMap::new();
        for session in &self.sessions {
            for notice in notices(&clients[session.client]).0 {
                assert!(!matches!(text(&notice, "type"), "error" | "gap" | "unsubscribed"), "{notice}");
                if text(&notice, "type") == "published" {
                    let request = &session.requests[number(&notice, "id") as usize];
                    assert!(
                        matches!(request, Request::Publish { topic, .. } if topic == text(&notice, "topic"))
                    );
                    let epoch = text(&notice, "epoch").to_owned();
                    let (known, offsets) =
                        all.entry(text(&notice, "topic").to_owned()).or_insert((epoch.clone(), Vec::new()));
                    assert_eq!(*known, epoch, "one epoch");
                    offsets.push(number(&notice, "offset"));
                }
            }
        }
        let last = |(topic, (epoch, mut offsets)): (String, (String, Vec<u64>))| {
            offsets.sort_unstable();
            let all = offsets.len() as u64;
            assert_eq!(offsets, (1..=all).collect::<Vec<_>>(), "{topic}");
            (topic, (epoch, all))
        };
        all.into_iter().map(last).collect()
    }

    /// How many messages each session is to get.
    fn expected(&self) -> Vec<(usize, usize)> {
        let last = self.check_acknowledged();
        let clients = self.world.clients.borrow();
        let behind = |session: &Session| {
            let subscribed = notices(&clients[session.client]).0.into_iter();
            let subscribed = subscribed.filter(|notice| text(notice, "type") == "subscribed");
            let missing = subscribed.map(|notice| {
                let last = last.get(text(&notice, "topic")).map_or(0, |(_, last)| *last);
                (last - number(&notice, "offset")) as usize
            });
            (session.client, missing.sum())
        };
        self.sessions.iter().map(behind).collect()
    }

    /// Every subscriber has every message behind its subscription, in order.
    fn check(&self) {
        let last = self.check_acknowledged();
        let clients = self.world.clients.borrow();
        for session in &self.sessions {
            let mut reached: BTreeMap<String, u64> = BTreeMap::new();
            for notice in notices(&clients[session.client]).0 {
                let topic = text(&notice, "topic").to_owned();
                match text(&notice, "type") {
                    "subscribed" => {
                        if let Some((epoch, _)) = last.get(&topic) {
                            assert_eq!(text(&notice, "epoch"), epoch, "one epoch");
                        }
                        reached.insert(topic, number(&notice, "offset"));
                    }
                    "message" => {
                        let reached = reached.get_mut(&topic).expect("subscribed");
                        assert_eq!(
                            number(&notice, "offset"),
                            *reached + 1,
                            "nothing is left out or repeated"
                        );
                        *reached += 1;
                    }
                    _ => {}
                }
            }
            for (topic, reached) in reached {
                assert_eq!(reached, last.get(&topic).map_or(0, |(_, last)| *last), "{topic}");
            }
        }
    }
}

/// Lets a handover go on, and gives it up at a step, if at all. Returns whether it is over.
fn step(handover: &RefCell<Option<Rehearsal>>, random: &RefCell<Random>, left: &Cell<Option<usize>>) -> bool {
    let mut handover = handover.borrow_mut();
    let Some(handover) = handover.as_mut() else { return true };
    left.set(left.get().map(|left| left.saturating_sub(1)));
    if left.get() == Some(0) && handover.give_up() {
        return true;
    }
    // Everyone may sleep until something is sent, so that it goes as far as the answers allow.
    for _ in 0..8 {
        handover.advance(random.borrow_mut().between(1, 20));
    }
    handover.is_linked()
}

/// A handover during the second phase, which is given up after `until` steps, if at all.
fn hands_over(seed: u64, until: Option<usize>) {
    let mut random = Random::new(seed ^ 0xfeed);
    let processes = [random.between(1, 4), random.between(1, 4)];
    let mut model = Model::new(seed, processes);
    let handover: Rc<RefCell<Option<Rehearsal>>> = Rc::default();
    let (random, left) = (Rc::new(RefCell::new(random)), Rc::new(Cell::new(until)));
    for phase in 0..PHASES {
        model.publish();
        model.subscribe();
        if phase == 1 {
            let (shards, topics) = (model.world.remotes(), placement(seed, 1));
            let (first, second) = shards.split_at(processes[0]);
            let begun = Rehearsal::begin(first.to_vec(), second.to_vec(), topics, MESSAGE_BYTES_MAX, 1);
            *handover.borrow_mut() = Some(begun);
        }
        let (handover, random, left) = (Rc::clone(&handover), Rc::clone(&random), Rc::clone(&left));
        model.settle(move || step(&handover, &random, &left));
    }
    let expected = model.expected();
    model.world.run(move |clients| {
        step(&handover, &random, &left);
        expected.iter().all(|(client, messages)| count(&clients[*client], "message") == *messages)
    });
    model.check();
}

#[test]
fn topics_that_move_under_load_keep_their_order_and_epoch() {
    for_each_seed("topics_that_move_under_load_keep_their_order_and_epoch", |seed| hands_over(seed, None));
}

#[test]
fn a_handover_that_is_given_up_at_any_step_changes_nothing() {
    for_each_seed("a_handover_that_is_given_up_at_any_step_changes_nothing", |seed| {
        hands_over(seed, Some(1 + (seed as usize * 7) % 150));
    });
}

/// Members leave before, while and after their topic moves, and the last ones when the first process drains: all are announced, by
/// whoever orders the topic at that time.
fn members_leave(seed: u64) {
    let mut random = Random::new(seed ^ 0xfeed);
    let processes = [random.between(1, 3), random.between(1, 3)];
    let joined = Joined::default();
    let world = world(seed, processes, &members(&joined));
    let watcher = world.add("/watcher");
    world.run_until_quiet();
    world.clients.borrow_mut()[watcher].hurry();
    let handover: Rc<RefCell<Option<Rehearsal>>> = Rc::default();
    let (random, left) = (Rc::new(RefCell::new(random)), Rc::new(Cell::new(None)));
    let goes_on = || {
        let (handover, random, left) = (Rc::clone(&handover), Rc::clone(&random), Rc::clone(&left));
        move || step(&handover, &random, &left)
    };
    for phase in 0..3 {
        if phase == 1 {
            let (shards, topics) = (world.remotes(), placement(seed, 1));
            let (first, second) = shards.split_at(processes[0]);
            let begun = Rehearsal::begin(first.to_vec(), second.to_vec(), topics, MESSAGE_BYTES_MAX, 1);
            *handover.borrow_mut() = Some(begun);
        }
        let before = world.clients.borrow().len();
        let count = random.borrow_mut().between(1, 6);
        for number in 0..count {
            let member = world.add(&format!("/member-{phase}-{number}"));
            let leave = [Leave::Fin, Leave::Reset(usize::MAX)][random.borrow_mut().below(2)];
            world.clients.borrow_mut()[member].leave = leave;
        }
        let step = goes_on();
        world.run(move |clients| step() && clients[before..].iter().all(|client| client.end.is_some()));
    }
    let stays = world.add("/stays");
    let step = goes_on();
    world.run(move |clients| step() && clients[stays].decoder.opened);
    let step = goes_on();
    world.run_or_quiet(move |_| !step());
    let heard = texts(&world.clients.borrow()[watcher].heard);
    let mut left: Vec<_> = heard.iter().filter_map(|text| text.strip_suffix(" left")).collect();
    left.sort_unstable();
    assert_eq!(left.len(), heard.len());
    let joined = joined.lock().expect("no panic").clone();
    assert_eq!(left, joined.iter().map(String::as_str).filter(|name| *name != "stays").collect::<Vec<_>>());
    assert_eq!(world.known().publications.accepted, heard.len() as u64);

    for first in &world.remotes()[..processes[0]] {
        assert!(first.send(ControlMessage::Drain(DrainPlan::at_once(DRAIN_TIMEOUT))));
    }
    let step = goes_on();
    world.run(move |clients| step() && clients[stays].end.is_some());
    let step = goes_on();
    world.run_or_quiet(move |_| !step());
    assert_eq!(world.known().publications.accepted, joined.len() as u64);
}

#[test]
fn members_that_leave_while_their_topic_moves_are_announced() {
    for_each_seed("members_that_leave_while_their_topic_moves_are_announced", members_leave);
}

/// The successor is lost within the grace, at any moment of its work: the first process orders the topics again. Nobody hangs, and what was
/// received fits together, in each epoch.
fn is_given_back(seed: u64) {
    let mut random = Random::new(seed ^ 0xfeed);
    let processes = [random.between(1, 4), random.between(1, 4)];
    let mut model = Model::new(seed, processes);
    model.publish();
    model.settle(|| true);
    let (shards, topics) = (model.world.remotes(), placement(seed, 1));
    let (first, second) = shards.split_at(processes[0]);
    let begun = Rehearsal::begin(first.to_vec(), second.to_vec(), topics, MESSAGE_BYTES_MAX, 1).with_grace();
    let handover = Rc::new(RefCell::new(Some(begun)));
    model.publish();
    model.subscribe();
    let (steps, left) = (Cell::new(random.below(3_000)), Cell::new(None));
    let random = Rc::new(RefCell::new(random));
    let goes_on = {
        let (handover, random) = (Rc::clone(&handover), Rc::clone(&random));
        move || step(&handover, &random, &left)
    };
    let linking = goes_on.clone();
    model.world.run(move |_| linking());
    model.publish();
    model.world.run_or_quiet(move |_| {
        steps.set(steps.get().saturating_sub(1));
        goes_on() && steps.get() == 0
    });
    let handover = handover.take().expect("it has begun");
    model.world.lose_last_process();
    // Requests that waited for the handover are answered in the new epochs already.
    let before = model.epochs();
    let taking = RefCell::new(handover.take_back());
    model.world.run(move |_| taking.borrow_mut()());
    model.world.run_until_quiet();
    model.check_in_epochs();
    // Those that are still connected return, and everything goes on.
    let clients = model.world.clients.borrow();
    let is_open = |client: usize| clients[client].end.is_none() && !closed(&clients[client]);
    let open: Vec<bool> = model.sessions.iter().map(|session| is_open(session.client)).collect();
    drop(clients);
    let mut has_returned = false;
    for (number, session) in model.sessions.iter_mut().enumerate().filter(|(number, _)| open[*number]) {
        for topic in std::mem::take(&mut model.topics[number]) {
            let mut random = random.borrow_mut();
            session.subscribe(&model.world, &mut random, topic, None);
            session.publish(&model.world, &mut random, topic, "", 40);
            has_returned = true;
        }
    }
    model.world.run_until_quiet();
    model.check_in_epochs();
    assert!(!has_returned || !model.epochs().is_subset(&before), "they go on in new epochs");
}

/// Whether a client was told the end.
fn closed(client: &Client) -> bool {
    matches!(client.heard.last(), Some(Item::Close(_)))
}

impl Model {
    /// The epochs that clients know, with their topics.
    fn epochs(&self) -> BTreeSet<(String, String)> {
        let clients = self.world.clients.borrow();
        let all = self.sessions.iter().flat_map(|session| notices(&clients[session.client]).0);
        let known = all.filter(|notice| notice.get("epoch").is_some());
        known.map(|notice| (text(&notice, "topic").to_owned(), text(&notice, "epoch").to_owned())).collect()
    }

    /// Every request of an open session is answered. In an epoch, no offset has two messages or two acknowledgements, and no subscription
    /// skips or repeats one.
    fn check_in_epochs(&self) {
        let clients = self.world.clients.borrow();
        let mut known: BTreeMap<(String, String, u64), serde_json::Value> = BTreeMap::new();
        let mut acknowledged: BTreeSet<(String, String, u64)> = BTreeSet::new();
        for session in &self.sessions {
            let client = &clients[session.client];
            let mut reached: BTreeMap<String, (String, u64)> = BTreeMap::new();
            let mut answers = 0;
            for notice in notices(client).0 {
                let topic =
                    notice.get("topic").map_or("", |topic| topic.as_str().expect("a name")).to_owned();
                let kind = text(&notice, "type");
                answers += usize::from(matches!(kind, "published" | "subscribed" | "error"));
                let epoch = || text(&notice, "epoch").to_owned();
                match kind {
                    "subscribed" => drop(reached.insert(topic, (epoch(), number(&notice, "offset")))),
                    "unsubscribed" => {
                        let (epoch, offset) = reached.remove(&topic).expect("subscribed");
                        let told = (text(&notice, "epoch"), number(&notice, "offset"));
                        assert_eq!(told, (&*epoch, offset), "it may return from there");
                    }
                    "published" => {
                        let place = (topic, epoch(), number(&notice, "offset"));
                        assert!(acknowledged.insert(place), "no other has it: {notice}");
                    }
                    "message" => {
                        let (epoch, offset) = reached.get_mut(&topic).expect("subscribed");
                        assert_eq!(number(&notice, "offset"), *offset + 1, "nothing is left out or repeated");
                        *offset += 1;
                        let said = ["data", "text", "base64"].map(|field| notice.get(field).cloned());
                        let said = serde_json::json!(said);
                        let place = (topic.clone(), epoch.clone(), *offset);
                        assert_eq!(*known.entry(place).or_insert_with(|| said.clone()), said, "one order");
                    }
                    _ => {}
                }
            }
            assert!(
                answers == session.requests.len() || closed(client) || client.end.is_some(),
                "nobody hangs"
            );
        }
    }
}

#[test]
fn a_successor_that_is_lost_within_the_grace_gives_the_topics_back() {
    for_each_seed("a_successor_that_is_lost_within_the_grace_gives_the_topics_back", is_given_back);
}
