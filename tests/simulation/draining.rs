//! The drain of a server: every acknowledged message reaches every reading subscriber, or the subscriber is told that
//! it is lost, with any number of shards and in whatever order the drain reaches them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use echoring_async::limits::DRAIN_TIMEOUT;
use echoring_proto::limits::MILLISECOND;
use echoring_runtime::driver::sim::Random;
use echoring_server::Service;
use echoring_topics::{Rules, TopicSettings};

use super::client::{self, Client, Item, MessageKind};
use super::sessions::{Request, Session, Turns, notices, number, text};
use super::topics::TopicWorld;
use super::world::World;
use super::{for_each_seed, seeds};

const GOING_AWAY: u16 = 1001;
const SLOW_CONSUMER: u16 = 4008;
const TOPICS: [&str; 3] = ["one", "two", "three"];

type Topics = World<Service>;

fn world(seed: u64, shards: usize, secured: bool, lag_bytes: usize, coalesce: u64) -> Rc<Topics> {
    // Nobody is too slow before the drain ends.
    let settings = TopicSettings { lag_bytes, coalesce, lag: 10 * DRAIN_TIMEOUT, ..TopicSettings::default() };
    let topics = TopicWorld::new(Rules::new(Vec::new(), settings));
    TopicWorld { secured, ..topics }.start(seed, shards)
}

/// The clients of a world in which a drain begins under load.
struct Model {
    world: Rc<Topics>,
    random: Random,
    /// Publishers; each also subscribes to the topics of its bit set.
    sessions: Vec<Session>,
    /// Raw subscribers, and the topic of each.
    raws: Vec<(usize, usize)>,
}

fn subscriptions(client: &Client) -> usize {
    let is_one = |item: &&Item| matches!(item, Item::Message(MessageKind::Text, text) if text.starts_with(br#"{"type":"subscribed""#));
    client.heard.iter().filter(is_one).count()
}

impl Model {
    fn new(seed: u64, lag_bytes: usize) -> Model {
        let mut random = Random::new(seed);
        let coalesce = [0, 5 * MILLISECOND][random.below(2)];
        let world = world(seed, random.between(1, 4), random.chance(200), lag_bytes, coalesce);
        let mut sessions: Vec<Session> = (0..random.between(2, 5)).map(|_| Session::open(&world)).collect();
        let raws: Vec<(usize, usize)> = (0..random.between(1, 4))
            .map(|_| {
                let topic = random.below(TOPICS.len());
                (world.add(&format!("/broadcast/{}?self=1", TOPICS[topic])), topic)
            })
            .collect();
        let mut expected = BTreeMap::new();
        for session in &mut sessions {
            for topic in TOPICS {
                if random.chance(600) {
                    session.subscribe(&world, &mut random, topic, None);
                    *expected.entry(session.client).or_insert(0) += 1;
                }
            }
        }
        world.run(move |clients| {
            clients.iter().all(|client| client.decoder.opened)
                && expected.iter().all(|(client, count)| subscriptions(&clients[*client]) == *count)
        });
        Model { world, random, sessions, raws }
    }

    /// Everybody publishes, and some messages are in flight.
    fn publish(&mut self, most: usize) {
        let Model { world, random, sessions, raws } = self;
        for session in sessions.iter_mut() {
            for _ in 0..random.below(most) {
                let topic = TOPICS[random.below(TOPICS.len())];
                let pad_bytes_max = [40, 400, 4_000][random.below(3)];
                session.publish(world, random, topic, "", pad_bytes_max);
            }
        }
        for (client, _) in raws.iter() {
            let mut script = Vec::new();
            for _ in 0..random.below(most / 2) {
                client::message(random, MessageKind::Text, b"raw", &mut script, |_, _| {});
            }
            world.clients.borrow_mut()[*client].script.extend(script);
        }
        let some = random.below(60);
        let heard = |clients: &[Client]| clients.iter().map(|client| client.heard.len()).sum::<usize>();
        let before = heard(&world.clients.borrow());
        world.run_or_quiet(move |clients| heard(clients) > before + some);
    }

    /// The messages that were acknowledged: by topic, by offset.
    fn acknowledged(&self) -> BTreeMap<&str, BTreeMap<u64, Vec<u8>>> {
        let clients = self.world.clients.borrow();
        let mut all: BTreeMap<&str, BTreeMap<u64, Vec<u8>>> = BTreeMap::new();
        for session in &self.sessions {
            let (notices, _) = notices(&clients[session.client]);
            let mut turns = Turns::default();
            for notice in notices {
                let id = |notice| number(notice, "id") as usize;
                if let "published" | "error" = text(&notice, "type") {
                    turns.answer(&session.requests, id(&notice));
                }
                match text(&notice, "type") {
                    "published" => {
                        let Request::Publish { topic, number: message, .. } = &session.requests[id(&notice)]
                        else {
                            panic!("{notice}");
                        };
                        let said = session.published[*message].said.raw().1.to_vec();
                        let placed =
                            all.entry(TOPICS[TOPICS.iter().position(|name| name == topic).expect("one")]);
                        assert!(placed.or_default().insert(number(&notice, "offset"), said).is_none());
                    }
                    "error" => assert_eq!(text(&notice, "code"), "draining", "{notice}"),
                    _ => {}
                }
            }
        }
        all
    }

    /// Checks all reading subscribers, and returns how many messages were reported as lost to them.
    fn check(&self) -> u64 {
        let acknowledged = self.acknowledged();
        let clients = self.world.clients.borrow();
        let mut lost = 0;
        for session in &self.sessions {
            lost += check_session(&clients[session.client], &acknowledged);
        }
        for (client, topic) in &self.raws {
            let client = &clients[*client];
            let Some(Item::Close(code)) = client.heard.last() else { panic!("no word at the end") };
            if *code == GOING_AWAY {
                let heard = |said: &[u8]| {
                    client.heard.iter().any(|item| matches!(item, Item::Message(_, text) if text == said))
                };
                for (offset, said) in acknowledged.get(TOPICS[*topic]).into_iter().flatten() {
                    assert!(heard(said), "1001, and {offset} of {} is lost", TOPICS[*topic]);
                }
            } else {
                assert_eq!(*code, SLOW_CONSUMER);
            }
        }
        lost
    }
}

/// No acknowledged message between the subscription and 1001 is missing without a report.
fn check_session(client: &Client, acknowledged: &BTreeMap<&str, BTreeMap<u64, Vec<u8>>>) -> u64 {
    let (notices, code) = notices(client);
    if code == Some(SLOW_CONSUMER) {
        return 0;
    }
    assert_eq!(code, Some(GOING_AWAY), "a goodbye");
    let mut lost = 0;
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    for notice in &notices {
        match text(notice, "type") {
            "subscribed" => {
                reached.insert(text(notice, "topic"), number(notice, "offset"));
            }
            "message" => {
                let reached = reached.get_mut(text(notice, "topic")).expect("subscribed");
                assert_eq!(number(notice, "offset"), *reached + 1, "nothing left out: {notice}");
                *reached += 1;
            }
            "gap" => {
                let reached = reached.get_mut(text(notice, "topic")).expect("subscribed");
                assert_eq!(number(notice, "from"), *reached + 1, "{notice}");
                assert_eq!(text(notice, "reason"), "drain");
                lost += number(notice, "to") - *reached;
                *reached = number(notice, "to");
            }
            _ => {}
        }
    }
    for (topic, reached) in reached {
        let last = acknowledged.get(topic).and_then(|placed| placed.keys().last()).copied();
        assert!(last <= Some(reached), "1001 at {reached} of {topic}, of which {last:?} was acknowledged");
    }
    lost
}

#[test]
fn a_drain_loses_nothing_that_was_acknowledged() {
    for_each_seed("a_drain_loses_nothing_that_was_acknowledged", |seed| {
        let mut model = Model::new(seed, 1 << 20);
        for client in model.world.clients.borrow_mut().iter_mut() {
            client.eagerness = client.eagerness.max(250);
            client.sip_bytes = client.sip_bytes.max(600);
        }
        model.publish(30);
        if seed % 2 == 0 {
            model.world.begin_drain(DRAIN_TIMEOUT);
        } else {
            model.world.begin_drain_one_by_one(DRAIN_TIMEOUT);
        }
        model.world.end_drain();
        assert_eq!(model.check(), 0, "there was time for all");
    });
}

/// Subscribers that resume reading near the end are told their position.
#[test]
fn what_a_drain_has_no_time_for_is_told() {
    let (seeds, lost) = (Cell::new(0), Cell::new(0));
    for_each_seed("what_a_drain_has_no_time_for_is_told", |seed| {
        // Each carries as much as ten others.
        if seed >= 100 && seeds::single().is_none() {
            return;
        }
        let mut model = Model::new(seed, 1 << 20);
        let stalled = model.sessions[0].client;
        let raw = model.raws[0].0;
        for at in [stalled, raw] {
            model.world.clients.borrow_mut()[at].eagerness = 0;
        }
        // More than the buffers of their sockets take.
        let Model { world, random, sessions, raws } = &mut model;
        for number in 0..150 {
            let topic = TOPICS[raws[0].1];
            sessions[1].publish(world, random, topic, "", 4_000);
            if number % 10 == 9 {
                world.run_until_quiet();
            }
        }
        model.publish(10);
        model.world.begin_drain(DRAIN_TIMEOUT);
        model.world.pass(DRAIN_TIMEOUT - 500 * MILLISECOND);
        for at in [stalled, raw] {
            model.world.clients.borrow_mut()[at].hurry();
        }
        model.world.end_drain();
        seeds.set(seeds.get() + 1);
        lost.set(lost.get() + model.check());
        let clients = model.world.clients.borrow();
        let unread = clients[raw].heard.len() < 140;
        assert!(!unread || clients[raw].heard.last() == Some(&Item::Close(SLOW_CONSUMER)));
    });
    assert!(seeds.get() < 20 || lost.get() > 0, "some have not got everything");
}
