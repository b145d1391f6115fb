//! Sessions subscribe, unsubscribe, publish, stall and reconnect at random: each receives a legal history of its
//! topics, gaps are reported, and the accounts match what they received.

use std::collections::BTreeSet;
use std::rc::Rc;

use echoring_proto::limits::SECOND;
use echoring_runtime::driver::sim::Random;
use echoring_server::Service;
use echoring_topics::limits::{HEARTBEAT_INTERVAL, LAG_MAX, PRESENCE_INTERVAL, REMEMBERED_AGE};
use echoring_topics::{Access, HistoryBounds, Pattern, Permission, Rules, SlowConsumerPolicy, TopicSettings};

use super::client::{self, Leave, MessageKind};
use super::sessions::{Heard, Orders, Place, Session, check_raw, notices, number, text, witnessed};
use super::topics::TopicWorld;
use super::world::{World, move_some};
use super::{for_each_seed, seeds};

const LAG_BYTES: usize = 24 * 1024;
/// Maximum published before everyone but the stalled sessions has caught up.
const BURST_BYTES: usize = 10 * 1024;
/// Messages that topic `plain` keeps.
const KEPT_MAX: u32 = 20;
const SLOW_CONSUMER: u16 = 4008;
pub const TOPICS: [&str; 3] = ["plain", "drop", "conflate"];
const KEYS: [&str; 4] = ["a", "b", "ß", "key"];

type Topics = World<Service>;

pub fn rules(presence: bool) -> Rules {
    let everybody_or_nobody = |presence| if presence { Permission::Everybody } else { Permission::Nobody };
    let of = |slow, presence, messages| TopicSettings {
        slow,
        access: Access { presence: everybody_or_nobody(presence), ..Access::default() },
        lag_bytes: LAG_BYTES,
        history: HistoryBounds { messages, ..HistoryBounds::default() },
        ..TopicSettings::default()
    };
    let rules = vec![
        (Pattern::new("plain"), of(SlowConsumerPolicy::Disconnect, true, KEPT_MAX)),
        (Pattern::new("drop"), of(SlowConsumerPolicy::DropOldest, presence, 1_000)),
        (Pattern::new("conflate"), of(SlowConsumerPolicy::Conflate, presence, 1_000)),
        (Pattern::new("fleeting"), of(SlowConsumerPolicy::Disconnect, false, 0)),
    ];
    Rules::new(rules, TopicSettings::default())
}

fn world(seed: u64, shards: usize, presence: bool) -> Rc<Topics> {
    TopicWorld::new(rules(presence)).start(seed, shards)
}

/// A witness, which receives everything of all topics, and others.
pub struct Model {
    pub world: Rc<Topics>,
    pub random: Random,
    pub sessions: Vec<Session>,
    /// By session, whether it ever stopped reading or disconnected: others are never closed.
    pub blamed: Vec<bool>,
    /// Raw subscribers of `plain`.
    raws: Vec<usize>,
    unsettled_bytes: usize,
    /// The clients' offers of extensions.
    offers: &'static [&'static str],
    pub others: Others,
}

/// Subscriptions to other topics, and publications.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    pub subscriptions: u64,
    pub accepted: u64,
}

impl Model {
    fn new(seed: u64, sessions: usize, raws: usize) -> Model {
        let mut random = Random::new(seed);
        let presence = random.chance(500);
        let world = world(seed, random.between(1, 3), presence);
        Model::on(world, random, sessions, raws, &[""])
    }

    /// The same in a world with such rules.
    pub fn on(
        world: Rc<Topics>,
        mut random: Random,
        sessions: usize,
        raws: usize,
        offers: &'static [&'static str],
    ) -> Model {
        let mut offer = || offers[random.below(offers.len())];
        let mut sessions: Vec<Session> =
            (0..=sessions).map(|_| Session::open_offering(&world, offer())).collect();
        let raws: Vec<usize> =
            (0..raws).map(|_| world.add_offering("/broadcast/plain?self=1", offer())).collect();
        for client in world.clients.borrow_mut().iter_mut() {
            client.eagerness = client.eagerness.max(250);
            client.sip_bytes = client.sip_bytes.max(600);
        }
        let witness = sessions[0].client;
        world.clients.borrow_mut()[witness].hurry();
        for topic in TOPICS {
            sessions[0].subscribe(&world, &mut random, topic, None);
        }
        let subscribed = |heard: &&client::Item| matches!(heard, client::Item::Message(_, text) if text.starts_with(br#"{"type":"subscribed""#));
        world.run(move |clients| {
            clients.iter().all(|client| client.decoder.opened)
                && clients[witness].heard.iter().filter(subscribed).count() == TOPICS.len()
        });
        let blamed = vec![false; sessions.len()];
        let others = Others::default();
        Model { world, random, sessions, blamed, raws, unsettled_bytes: 0, offers, others }
    }

    /// A session or a raw subscriber comes.
    pub fn come(&mut self) {
        let offer = self.offers[self.random.below(self.offers.len())];
        self.sessions.push(Session::open_offering(&self.world, offer));
        self.blamed.push(false);
    }

    pub fn orders(&self) -> Orders {
        witnessed(&self.world.clients.borrow()[self.sessions[0].client])
    }

    pub fn settle(&mut self) {
        self.world.run_until_quiet();
        self.unsettled_bytes = 0;
    }

    fn publish(&mut self, session: usize, topic: &str, pad_bytes_max: usize) {
        if self.unsettled_bytes > BURST_BYTES {
            self.settle();
        }
        let Model { world, random, sessions, .. } = self;
        let key = match topic {
            "conflate" if random.chance(50) => "",
            "conflate" => KEYS[random.below(KEYS.len())],
            _ => ["", "", "k"][random.below(3)],
        };
        self.unsettled_bytes += sessions[session].publish(world, random, topic, key, pad_bytes_max);
    }

    fn publish_raw(&mut self) {
        let Model { world, random, raws, .. } = self;
        if raws.is_empty() {
            return;
        }
        let client = raws[random.below(raws.len())];
        let mut script = Vec::new();
        let kind = if random.chance(500) { MessageKind::Text } else { MessageKind::Binary };
        client::message(random, kind, format!("<{client}:0:>").as_bytes(), &mut script, |_, _| {});
        world.clients.borrow_mut()[client].script.extend(script);
        self.unsettled_bytes += 200;
    }

    /// A session makes a request.
    pub fn act(&mut self) {
        let session = self.random.between(1, self.sessions.len() - 1);
        let topic = TOPICS[self.random.below(TOPICS.len())];
        match self.random.below(100) {
            0..50 => {
                let pad_bytes_max = [40, 40, 3_000][self.random.below(3)];
                self.publish(session, topic, pad_bytes_max);
            }
            50..60 => self.publish_raw(),
            60..82 => {
                let from = self.place(topic);
                let Model { world, random, sessions, .. } = self;
                sessions[session].subscribe(world, random, topic, from);
            }
            82..86 => {
                let Model { world, random, sessions, .. } = self;
                let limit = [0, 1, 256][random.below(3)];
                sessions[session].members(world, random, topic, limit);
            }
            _ => {
                let Model { world, random, sessions, .. } = self;
                sessions[session].unsubscribe(world, random, topic);
            }
        }
        // What is told of presence and answers comes on top.
        self.unsettled_bytes += 150;
    }

    /// The position to subscribe from: mostly an existing one.
    fn place(&mut self, topic: &str) -> Option<Place> {
        let orders = self.orders();
        let order = &orders[topic];
        let offset = self.random.below(order.entries.len() + 1) as u64;
        match self.random.below(10) {
            0..3 => None,
            3 => Some(Place { epoch: "f00".into(), offset }),
            4 => Some(Place { epoch: order.epoch.clone(), offset: 1 << 40 }),
            _ => Some(Place { epoch: order.epoch.clone(), offset }),
        }
    }

    /// A session stops reading, or disconnects.
    pub fn trouble(&mut self) {
        let session = self.random.between(1, self.sessions.len() - 1);
        self.blamed[session] = true;
        let mut clients = self.world.clients.borrow_mut();
        let client = &mut clients[self.sessions[session].client];
        match self.random.below(10) {
            0 => client.leave = Leave::Fin,
            1 => client.leave = Leave::Reset(0),
            _ if client.eagerness == 0 => client.hurry(),
            _ => client.eagerness = 0,
        }
    }

    /// Everyone reads, until nothing is left to send.
    pub fn rest(&mut self) {
        for client in self.world.clients.borrow_mut().iter_mut() {
            client.hurry();
        }
        self.settle();
        // Until everybody has been told of everybody.
        self.world.pass(SECOND);
        self.settle();
    }

    /// Compares what sessions received with what the witness received.
    pub fn check(&self) -> Vec<Heard> {
        let orders = self.orders();
        let clients = self.world.clients.borrow();
        let mut all = Vec::new();
        for (session, blamed) in self.sessions.iter().zip(&self.blamed).skip(1) {
            let client = &clients[session.client];
            let mut heard = Heard::read(session, client, &orders);
            assert!(*blamed || heard.dropped == 0, "who reads is not too slow");
            if client.end.is_some() || client.decoder.closed {
                assert!(blamed, "who reads is not told to go: {:?}", heard.code);
                assert!(matches!(heard.code, None | Some(SLOW_CONSUMER)), "{:?}", heard.code);
                heard.live.clear();
            } else {
                let unanswered = heard.unanswered(session);
                assert!(unanswered.is_empty(), "{:?}", session.requests[unanswered[0]]);
                for (topic, view) in &heard.live {
                    assert_eq!(view.next, orders[topic].entries.len() as u64 + 1, "{topic} to its end");
                }
                check_latest(&heard, &orders);
            }
            check_published(session, &orders);
            all.push(heard);
        }
        for raw in &self.raws {
            check_raw(&clients[*raw], *raw, true, &orders["plain"], true);
        }
        self.check_presence(&all);
        self.check_accounts(&all, &orders);
        all
    }

    /// Every member knows the number of members.
    fn check_presence(&self, all: &[Heard]) {
        for topic in TOPICS {
            let there = 1 + all.iter().filter(|heard| heard.live.contains_key(topic)).count() as u64;
            let clients = self.world.clients.borrow();
            let (notices, _) = notices(&clients[self.sessions[0].client]);
            let told = notices
                .iter()
                .rfind(|notice| text(notice, "type") == "presence" && text(notice, "topic") == topic);
            // A list of the members followed.
            let is_stale = told.is_some_and(|notice| text(notice, "event") == "stale");
            if !is_stale && (topic == "plain" || told.is_some()) {
                assert_eq!(number(told.expect("its own coming"), "count"), there, "who is there in {topic}");
            }
            for (heard, _) in all.iter().zip(&self.blamed[1..]).filter(|(_, blamed)| !**blamed) {
                if heard.live.contains_key(topic) && told.is_some() {
                    assert_eq!(heard.counts.get(topic), Some(&there), "who is there in {topic}");
                }
            }
            let own = notices
                .iter()
                .rfind(|notice| text(notice, "type") == "subscribed" && text(notice, "topic") == topic)
                .and_then(|notice| notice.get("client"))
                .map(|client| client.as_str().expect("a name").to_owned());
            let live = all.iter().filter(|heard| heard.live.contains_key(topic));
            let there: BTreeSet<String> =
                live.clone().filter_map(|heard| heard.names.get(topic).cloned()).chain(own).collect();
            for heard in live {
                // Whoever was slow as well, once it has asked.
                if let Some(members) = heard.members.get(topic) {
                    assert_eq!(members, &there, "who is there in {topic}, told stale {} times", heard.stale);
                }
            }
        }
    }

    /// The accounts match what was received.
    fn check_accounts(&self, all: &[Heard], orders: &Orders) {
        let known = self.world.known();
        let accepted: usize = orders.values().map(|order| order.entries.len()).sum();
        assert_eq!(known.publications.accepted, accepted as u64 + self.others.accepted);
        assert_eq!(known.deliveries.queued, 0);
        assert_eq!(known.passed.publications_out, known.passed.publications_in);
        assert_eq!(known.passed.messages_out, known.passed.messages_in);
        let there: usize = all.iter().map(|heard| heard.live.len()).sum();
        let there = (there + TOPICS.len() + self.raws.len()) as u64;
        assert_eq!(known.subscriptions, there + self.others.subscriptions);
        if !self.blamed.contains(&true) {
            let refused: u64 = all.iter().map(|heard| heard.refused).sum();
            assert_eq!(known.publications.refused, refused);
            assert_eq!(
                known.deliveries.dropped_oldest + known.deliveries.dropped_conflated,
                0,
                "nobody is slow"
            );
        }
        let gone = all.iter().any(|heard| heard.code.is_some()) || self.someone_left();
        if !gone {
            let skipped: u64 = all.iter().map(|heard| heard.skipped).sum();
            let slow: u64 = all.iter().map(|heard| heard.gaps_slow).sum();
            assert_eq!(known.deliveries.dropped_conflated, skipped, "what was conflated away was told");
            assert_eq!(known.deliveries.dropped_oldest, slow, "what was dropped was told");
        }
    }

    fn someone_left(&self) -> bool {
        self.world.clients.borrow().iter().any(|client| client.end.is_some())
    }
}

/// The latest message of each key has arrived.
fn check_latest(heard: &Heard, orders: &Orders) {
    let Some(view) = heard.live.get("conflate").filter(|view| view.gaps == 0) else { return };
    for key in KEYS {
        let entries = &orders["conflate"].entries;
        let Some(latest) = entries.iter().rposition(|entry| entry.key == key) else { continue };
        let latest = latest as u64 + 1;
        if latest > view.after {
            assert_eq!(view.latest.get(key), Some(&latest), "the latest of {key}");
        }
    }
}

/// In order, and each at most once.
fn check_published(session: &Session, orders: &Orders) {
    let mut seen = vec![false; session.published.len()];
    for order in orders.values() {
        let mut latest = None;
        for entry in order.entries.iter().filter(|entry| entry.said.author().0 == session.client) {
            let number = entry.said.author().1;
            assert!(latest < Some(number), "first in first out");
            latest = Some(number);
            assert_eq!(entry, &session.published[number], "as it was published");
            assert!(!std::mem::replace(&mut seen[number], true), "once");
        }
    }
}

fn random_sessions(seed: u64) {
    random_sessions_in(seed, |_| {});
}

fn random_sessions_in(seed: u64, prepare: impl FnOnce(&World<Service>)) {
    let random = &mut Random::new(!seed);
    let (sessions, raws) = (random.between(1, 5), random.below(3));
    let mut model = Model::new(seed, sessions, raws);
    prepare(&model.world);
    let troubles = model.random.chance(600);
    for _ in 0..model.random.between(3, 12) {
        for _ in 0..model.random.between(1, 12) {
            model.act();
        }
        if troubles && model.random.chance(600) {
            model.trouble();
        }
        match model.random.below(8) {
            0..3 => model.settle(),
            3 => {
                model.settle();
                model.world.pass(LAG_MAX + 2 * SECOND);
            }
            _ => {
                let some =
                    model.world.clients.borrow().iter().map(|client| client.heard.len()).sum::<usize>();
                let more = model.random.below(10);
                model.world.run_or_quiet(move |clients| {
                    clients.iter().map(|client| client.heard.len()).sum::<usize>() > some + more
                });
            }
        }
    }
    model.rest();
    // A connection that moves may come after a heartbeat.
    model.world.end_moves();
    model.settle();
    let before = model.check();
    model.world.pass(HEARTBEAT_INTERVAL + 2 * SECOND);
    model.settle();
    let after = model.check();
    for (before, after) in before.iter().zip(&after) {
        let told = after.heartbeats - before.heartbeats;
        assert!(told >= after.live.len() as u64, "silence is told of");
    }
    model.world.drain();
}

#[test]
fn sessions_see_legal_histories() {
    for_each_seed("sessions_see_legal_histories", random_sessions);
}

/// Whatever the moment at which its connection moves, nobody notices it: not a session, and not those that see who is there.
#[test]
fn sessions_see_legal_histories_while_their_connections_move() {
    for_each_seed("sessions_see_legal_histories_while_their_connections_move", |seed| {
        random_sessions_in(seed, |world| move_some(world, seed));
    });
}

/// The first subscription's replay is in progress when the second one begins elsewhere.
#[test]
fn a_second_subscription_gets_its_own_history() {
    for_each_seed("a_second_subscription_gets_its_own_history", |seed| {
        let mut model = Model::new(seed, 1, 0);
        for _ in 0..10 {
            model.publish(0, "drop", 40);
        }
        model.settle();
        let epoch = model.orders()["drop"].epoch.clone();
        for _ in 0..3 {
            let offset = model.random.below(10) as u64;
            let from = Place { epoch: epoch.clone(), offset };
            let Model { world, random, sessions, .. } = &mut model;
            sessions[1].subscribe(world, random, "drop", Some(from));
            sessions[1].unsubscribe(world, random, "drop");
        }
        let Model { world, random, sessions, .. } = &mut model;
        sessions[1].subscribe(world, random, "drop", Some(Place { epoch, offset: 4 }));
        model.rest();
        let orders = model.orders();
        let clients = model.world.clients.borrow();
        let heard = Heard::read(&model.sessions[1], &clients[model.sessions[1].client], &orders);
        assert_eq!(heard.live["drop"].next, 11);
        assert!(heard.gaps == 0 && heard.messages >= 6);
    });
}

/// A new request does not wait for an answer that is no longer wanted.
#[test]
fn leaving_one_topic_while_it_is_recovered_holds_no_other_up() {
    for_each_seed("leaving_one_topic_while_it_is_recovered_holds_no_other_up", |seed| {
        let mut model = Model::new(seed, 1, 0);
        for topic in ["drop", "plain", "drop", "plain"] {
            model.publish(0, topic, 40);
        }
        model.settle();
        let orders = model.orders();
        for topic in ["drop", "plain"] {
            let from = Place { epoch: orders[topic].epoch.clone(), offset: 1 };
            let Model { world, random, sessions, .. } = &mut model;
            sessions[1].subscribe(world, random, topic, Some(from));
        }
        let Model { world, random, sessions, .. } = &mut model;
        sessions[1].unsubscribe(world, random, "drop");
        model.rest();
        let all = model.check();
        assert_eq!(all[0].live["plain"].next, 3);
    });
}

/// Both may wait for the same answer of the topic's owner.
#[test]
fn who_comes_from_an_unknown_position_takes_nobody_along() {
    for_each_seed("who_comes_from_an_unknown_position_takes_nobody_along", |seed| {
        let mut model = Model::new(seed, 2, 0);
        let unknown = Place { epoch: "f00".into(), offset: 0 };
        for (session, from) in [(1, Some(unknown)), (2, None)] {
            let Model { world, random, sessions, .. } = &mut model;
            sessions[session].subscribe(world, random, "drop", from);
        }
        model.rest();
        let all = model.check();
        assert_eq!(all[0].not_recovered, 1);
        assert!(all[0].live.contains_key("drop"), "it is let in all the same");
        assert!(all[1].live.contains_key("drop"));
    });
}

/// A session that missed presence events is told so, and gets the member list.
#[test]
fn who_lags_is_told_who_is_there() {
    for_each_seed("who_lags_is_told_who_is_there", |seed| {
        let mut random = Random::new(!seed);
        let mut model = Model::new(seed, 6, 0);
        let topic = ["drop", "conflate"][random.below(2)];
        for session in 1..4 {
            let Model { world, random, sessions, .. } = &mut model;
            sessions[session].subscribe(world, random, topic, None);
        }
        model.settle();
        let Model { world, random: of_model, sessions, .. } = &mut model;
        sessions[1].members(world, of_model, topic, 256);
        model.settle();
        model.stall(1);
        for round in 0..random.between(10, 40) {
            let session = random.between(2, 6);
            let Model { world, random: of_model, sessions, .. } = &mut model;
            match round % 2 {
                0 => sessions[session].subscribe(world, of_model, topic, None),
                _ => sessions[session].unsubscribe(world, of_model, topic),
            }
            model.publish(6, topic, 6_000);
            model.settle();
            // Each change is told.
            model.world.pass(PRESENCE_INTERVAL);
            model.settle();
        }
        model.rest();
        let all = model.check();
        let heard = &all[0];
        assert!(heard.live.contains_key(topic), "it is told, and stays");
        let has_presence = !heard.names.is_empty();
        assert_eq!(heard.members.contains_key(topic), has_presence);
        assert!(!has_presence || heard.gaps + heard.skipped == 0 || heard.stale > 0);
    });
}

/// Its shard may have left the topic when the message arrives.
#[test]
fn who_publishes_and_leaves_is_answered() {
    for_each_seed("who_publishes_and_leaves_is_answered", |seed| {
        let mut model = Model::new(seed, 1, 0);
        for topic in ["plain", "drop"] {
            let Model { world, random, sessions, .. } = &mut model;
            sessions[1].subscribe(world, random, topic, None);
            sessions[1].publish(world, random, topic, "", 40);
            sessions[1].unsubscribe(world, random, topic);
        }
        model.rest();
        let all = model.check();
        assert_eq!(all[0].placed.len(), 2);
        assert!(all[0].live.is_empty());
    });
}

/// A slow consumer has lost its subscription to that topic, and no other.
#[test]
fn who_falls_behind_is_not_counted_as_present() {
    for_each_seed("who_falls_behind_is_not_counted_as_present", |seed| {
        let mut model = Model::new(seed, 2, 0);
        for (session, topic) in [(1, "plain"), (2, "plain"), (2, "drop")] {
            let Model { world, random, sessions, .. } = &mut model;
            sessions[session].subscribe(world, random, topic, None);
        }
        model.settle();
        model.stall(2);
        model.publish_until_dropped(2);
        model.rest();
        let all = model.check();
        assert_eq!((all[1].code, all[1].dropped), (None, 1));
        assert_eq!(all[0].counts["plain"], 2);
        assert!(all[1].live.contains_key("drop"));
        let orders = model.orders();
        let offset = all[1].messages;
        let Model { world, random, sessions, .. } = &mut model;
        let from = Place { epoch: orders["plain"].epoch.clone(), offset };
        sessions[2].subscribe(world, random, "plain", Some(from));
        model.publish(0, "drop", 40);
        model.rest();
        let all = model.check();
        assert!(all[1].live.contains_key("plain"), "it comes back on the same connection");
    });
}

impl Model {
    fn stall(&mut self, session: usize) {
        self.blamed[session] = true;
        self.world.clients.borrow_mut()[self.sessions[session].client].eagerness = 0;
    }

    /// The witness publishes to `plain` until the session, which does not read, is dropped from it.
    fn publish_until_dropped(&mut self, session: usize) {
        let before = self.world.known().subscriptions;
        for _ in 0..400 {
            if self.world.known().subscriptions < before {
                return;
            }
            self.publish(0, "plain", 6_000);
            self.settle();
        }
        panic!("session {session} is never too slow");
    }
}

/// One of a hundred subscribers stops reading, or disconnects, while publishing continues: the others lose nothing, and
/// the messages that it did not get are accounted for.
fn one_of_a_hundred(seed: u64) {
    let mut model = Model::new(seed, 49, 49);
    for session in 1..model.sessions.len() {
        let Model { world, random, sessions, .. } = &mut model;
        sessions[session].subscribe(world, random, "plain", None);
    }
    model.rest();
    let everyone = model.world.known();
    assert_eq!(everyone.subscriptions as usize, 49 + 49 + TOPICS.len());
    let dead = model.random.between(1, 49);
    let breaks = model.random.chance(500);
    if breaks {
        model.publish(0, "plain", 200);
        model.publish(0, "plain", 200);
        let some = model.random.below(100);
        let heard =
            |clients: &[client::Client]| clients.iter().map(|client| client.heard.len()).sum::<usize>();
        let before = heard(&model.world.clients.borrow());
        model.world.run_or_quiet(move |clients| heard(clients) > before + some);
        model.blamed[dead] = true;
        model.world.clients.borrow_mut()[model.sessions[dead].client].leave = Leave::Reset(0);
        model.publish(0, "plain", 200);
    } else {
        model.stall(dead);
        model.publish_until_dropped(dead);
    }
    model.publish(0, "plain", 200);
    model.settle();
    let known = model.world.known();
    assert_eq!(known.subscriptions, everyone.subscriptions - 1, "the dead one is not there any more");
    model.rest();
    let all = model.check();
    let accepted = model.orders()["plain"].entries.len() as u64;
    let known = model.world.known();
    let healthy = accepted * (1 + 48 + 49);
    let deliveries = known.deliveries;
    assert_eq!(deliveries.offered, deliveries.sent + deliveries.dropped_disconnect);
    let of_dead = deliveries.offered - healthy;
    assert!(of_dead <= accepted && of_dead >= all[dead - 1].messages);
    assert!(deliveries.dropped_disconnect <= of_dead);
    if !breaks {
        assert!(deliveries.dropped_disconnect > 0, "what it was not sent is counted");
        assert_eq!((all[dead - 1].code, all[dead - 1].dropped), (None, 1));
    }
    for (heard, _) in all.iter().zip(1..).filter(|(_, session)| *session != dead) {
        assert_eq!(heard.messages, accepted, "the others lose nothing");
    }
}

#[test]
fn a_dead_subscriber_of_a_hundred_costs_only_itself() {
    // Each has as much to do as a dozen others.
    for_each_seed("a_dead_subscriber_of_a_hundred_costs_only_itself", |seed| {
        if seed < 100 || seeds::single().is_some() {
            one_of_a_hundred(seed);
        }
    });
}

/// A subscriber that returns to a forgotten topic continues in the same epoch, and after some time is told that the
/// number of missed messages is unknown.
#[test]
fn a_forgotten_topic_keeps_its_epoch_for_a_while() {
    for_each_seed("a_forgotten_topic_keeps_its_epoch_for_a_while", |seed| {
        let mut model = Model::new(seed, 1, 0);
        let said = |model: &Model| {
            let clients = model.world.clients.borrow();
            notices(&clients[model.sessions[1].client]).0
        };
        let Model { world, random, sessions, .. } = &mut model;
        sessions[1].subscribe(world, random, "fleeting", None);
        sessions[1].publish(world, random, "fleeting", "", 40);
        model.settle();
        let begun = said(&model)[0].clone();
        let epoch = text(&begun, "epoch").to_owned();
        for (away, offset, recovered) in
            [(0, 1, true), (0, 0, false), (REMEMBERED_AGE + 3 * SECOND, 1, false), (0, 0, false)]
        {
            let Model { world, random, sessions, .. } = &mut model;
            sessions[1].unsubscribe(world, random, "fleeting");
            model.settle();
            model.world.pass(away);
            let heard = said(&model).len();
            let Model { world, random, sessions, .. } = &mut model;
            let from = Place { epoch: epoch.clone(), offset };
            sessions[1].subscribe(world, random, "fleeting", Some(from));
            model.settle();
            let answer: Vec<_> = said(&model)
                .split_off(heard)
                .into_iter()
                .filter(|notice| text(notice, "type") != "heartbeat")
                .collect();
            assert_eq!(text(&answer[0], "type"), "subscribed");
            assert_eq!(answer[0]["recovered"], recovered, "{answer:?}");
            match (away, offset) {
                (0, 1) => assert!(number(&answer[0], "offset") == 1 && answer.len() == 1, "{answer:?}"),
                (0, 0) if text(&answer[0], "epoch") == epoch => {
                    assert_eq!(text(&answer[1], "type"), "gap");
                    assert_eq!((number(&answer[1], "from"), number(&answer[1], "to")), (1, 1));
                }
                _ => {
                    assert_ne!(text(&answer[0], "epoch"), epoch);
                    assert!(number(&answer[0], "offset") == 0 && answer.len() == 1, "{answer:?}");
                }
            }
        }
    });
}
