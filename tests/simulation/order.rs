//! Two and three shards deliver one order of each topic to all its subscribers, with any encoding and on any shard,
//! under random delays; and the accounts match the deliveries exactly.
//!
//! `ECHORING_ORDER_DELIVERIES` makes it a campaign: seeds are run until this many messages were delivered and compared,
//! and the result is written to the file in `ECHORING_ORDER_RECORD`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use echoring_runtime::driver::sim::Random;
use echoring_server::Service;
use echoring_topics::{Rules, TopicSettings};
use serde_json::json;

use super::client::{self, Client};
use super::seeds::{single, variable};
use super::sessions::{Entry, Heard, Orders, Said, Session, check_raw, witnessed};
use super::topics::TopicWorld;
use super::world::World;

/// Maximum published, as a fraction of the lag bound, before everyone has caught up.
const LAG_BYTES: usize = 256 * 1024;
const ROUND_BYTES: usize = 120 * 1024;
const PAD_BYTES_MAX: usize = 120;
const SEEDS_DEFAULT: u64 = 250;

/// A subscriber on a raw route, which publishes too.
struct Raw {
    client: usize,
    topic: usize,
    hears_itself: bool,
    published: Vec<Said>,
}

/// What a run compared.
#[derive(Clone, Copy, Debug, Default)]
struct Compared {
    messages: u64,
    deliveries: u64,
}

type Topics = World<Service>;

fn world(seed: u64, shards: usize) -> std::rc::Rc<Topics> {
    let settings = TopicSettings { lag_bytes: LAG_BYTES, ..TopicSettings::default() };
    TopicWorld::new(Rules::new(Vec::new(), settings)).start(seed, shards)
}

fn topic_name(topic: usize) -> String {
    format!("topic {topic}")
}

/// Some subscribers are slow, but not for ever.
fn brisk(client: &mut Client) {
    client.eagerness = client.eagerness.max(250);
    client.sip_bytes = client.sip_bytes.max(600);
}

struct Run {
    world: std::rc::Rc<Topics>,
    random: Random,
    topics: usize,
    sessions: Vec<Session>,
    raws: Vec<Raw>,
}

impl Run {
    /// Everyone is subscribed; the first session, the witness, to all topics.
    fn new(seed: u64) -> Run {
        let mut random = Random::new(seed);
        let world = world(seed, random.between(2, 3));
        let topics = random.between(1, 3);
        let mut sessions: Vec<Session> = (0..=random.between(1, 5)).map(|_| Session::open(&world)).collect();
        let mut raws = Vec::new();
        for _ in 0..random.between(2, 7) {
            let (topic, hears_itself) = (random.below(topics), random.chance(300));
            let query = if hears_itself { "?self=1" } else { "" };
            let client = world.add(&format!("/broadcast/topic%20{topic}{query}"));
            raws.push(Raw { client, topic, hears_itself, published: Vec::new() });
        }
        world.clients.borrow_mut().iter_mut().for_each(brisk);
        for (at, session) in sessions.iter_mut().enumerate() {
            for topic in 0..topics {
                if at == 0 || topic == 0 || random.chance(500) {
                    session.subscribe(&world, &mut random, &topic_name(topic), None);
                }
            }
        }
        let answers: Vec<usize> = sessions.iter().map(|session| session.requests.len()).collect();
        let asked: Vec<usize> = sessions.iter().map(|session| session.client).collect();
        world.run(move |clients| {
            clients.iter().all(|client| client.decoder.opened)
                && asked.iter().zip(&answers).all(|(at, answers)| clients[*at].heard.len() == *answers)
        });
        Run { world, random, topics, sessions, raws }
    }

    /// Publishes about this many messages from everywhere, in any order, and lets them arrive.
    fn round(&mut self, messages: usize) {
        let Run { world, random, topics, sessions, raws } = self;
        let mut bytes = 0;
        for _ in 0..messages {
            if bytes > ROUND_BYTES {
                break;
            }
            let publisher = random.below(sessions.len() - 1 + raws.len());
            bytes += match raws.get_mut(publisher) {
                Some(raw) => raw.publish(world, random),
                None => {
                    let topic = topic_name(random.below(*topics));
                    let session = &mut sessions[publisher - raws.len() + 1];
                    session.publish(world, random, &topic, "", PAD_BYTES_MAX)
                }
            };
        }
        world.run_until_quiet();
    }

    fn check(&self) -> Compared {
        let clients = self.world.clients.borrow();
        let orders = witnessed(&clients[self.sessions[0].client]);
        let mut compared = Compared::default();
        let mut owed = 0;
        for order in orders.values() {
            let accepted = order.entries.len() as u64;
            compared.messages += accepted;
            compared.deliveries += accepted;
            owed += accepted;
        }
        for session in &self.sessions[1..] {
            let client = &clients[session.client];
            let heard = Heard::read(session, client, &orders);
            assert!(heard.unanswered(session).is_empty(), "everything is answered");
            assert_eq!(heard.placed.len(), session.published.len(), "all were accepted");
            for (topic, view) in &heard.live {
                assert_eq!(view.next, orders[topic].entries.len() as u64 + 1, "nothing is lost at the end");
                owed += view.next - 1;
            }
            assert_eq!(heard.gaps + heard.skipped, 0, "nobody is slow");
            compared.deliveries += heard.messages;
        }
        for raw in &self.raws {
            let order = &orders[&topic_name(raw.topic)];
            let heard = check_raw(&clients[raw.client], raw.client, raw.hears_itself, order, true);
            owed += heard as u64;
            compared.deliveries += heard as u64;
        }
        self.check_publishers(&orders);
        self.check_accounts(compared.messages, owed);
        compared
    }

    /// In order, each once and unchanged.
    fn check_publishers(&self, orders: &Orders) {
        let mut expected: Vec<Vec<Option<&Said>>> = vec![Vec::new(); self.world.clients.borrow().len()];
        for session in &self.sessions {
            expected[session.client] =
                session.published.iter().map(|Entry { said, .. }| Some(said)).collect();
        }
        for raw in &self.raws {
            expected[raw.client] = raw.published.iter().map(Some).collect();
        }
        for order in orders.values() {
            let mut latest = vec![None; expected.len()];
            for Entry { said, .. } in &order.entries {
                let (client, number) = said.author();
                assert!(latest[client] < Some(number), "first in first out");
                latest[client] = Some(number);
                let published = expected[client][number].take().expect("once");
                assert_eq!(published.raw(), said.raw(), "as it was published");
            }
        }
        assert!(expected.iter().flatten().all(Option::is_none), "every message has a place");
    }

    /// The accounts match what the clients received.
    fn check_accounts(&self, accepted: u64, owed: u64) {
        let known = self.world.known();
        assert_eq!(known.publications.accepted, accepted);
        assert_eq!(known.publications.refused, 0);
        assert_eq!((known.deliveries.offered, known.deliveries.sent), (owed, owed));
        assert_eq!((known.deliveries.queued, known.deliveries.dropped()), (0, 0));
        assert_eq!(known.passed.publications_out, known.passed.publications_in, "nothing is under way");
        assert_eq!(known.passed.messages_out, known.passed.messages_in);
    }
}

impl Raw {
    fn publish(&mut self, world: &Topics, random: &mut Random) -> usize {
        let said = loop {
            match Said::random(random, self.client, self.published.len(), PAD_BYTES_MAX) {
                // On a raw route nobody knows that a text is JSON.
                Said::Json(_) => {}
                said => break said,
            }
        };
        let (kind, payload) = said.raw();
        let mut script = Vec::new();
        client::message(random, kind, payload, &mut script, |_, _| {});
        world.clients.borrow_mut()[self.client].script.extend(script);
        let bytes = payload.len() * 2 + 100;
        self.published.push(said);
        bytes
    }
}

/// Rounds of messages, of which one may be large.
fn order(seed: u64, rounds: usize) -> Compared {
    let mut run = Run::new(seed);
    for _ in 0..rounds {
        let messages = [run.random.between(1, 30), run.random.between(100, 400)][run.random.below(2)];
        run.round(messages);
    }
    let compared = run.check();
    run.world.drain();
    compared
}

#[test]
fn shards_deliver_one_order_of_a_topic() {
    let only = single();
    let deliveries_wanted = variable("ECHORING_ORDER_DELIVERIES");
    let (begun, mut compared, mut failed) = (Instant::now(), Compared::default(), Vec::new());
    let mut seed = only.unwrap_or(0);
    let first = seed;
    loop {
        let rounds = if deliveries_wanted.is_some() { 20 } else { 2 };
        match catch_unwind(AssertUnwindSafe(|| order(seed, rounds))) {
            Ok(Compared { messages, deliveries }) => {
                compared.messages += messages;
                compared.deliveries += deliveries;
            }
            Err(_) => {
                eprintln!("seed {seed} fails, with {rounds} rounds");
                failed.push(seed);
            }
        }
        seed += 1;
        let enough = match deliveries_wanted {
            _ if only.is_some() => true,
            Some(wanted) => compared.deliveries >= wanted || failed.len() >= 10,
            None => {
                seed >= variable("SIMULATION_SEEDS").map_or(SEEDS_DEFAULT, |seeds| seeds.min(SEEDS_DEFAULT))
            }
        };
        if enough {
            break;
        }
    }
    if let Ok(path) = std::env::var("ECHORING_ORDER_RECORD") {
        let record = json!({
            "seeds": seed - first, "messages": compared.messages, "deliveries": compared.deliveries,
            "failed_seeds": failed, "duration_s": begun.elapsed().as_secs_f64(),
        });
        std::fs::write(path, record.to_string()).expect("a file to write");
    }
    assert!(failed.is_empty(), "these seeds fail: {failed:?}");
    assert!(compared.deliveries > compared.messages && compared.messages > 0);
}

/// Answers arrive from all shards at once and exceed the queue's bound: that does not make their reader a slow
/// consumer.
#[test]
fn a_burst_of_requests_is_answered_whole() {
    const BURST: usize = 2_000;
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let world = world(seed, 3);
        let mut session = Session::open(&world);
        for request in 0..BURST {
            session.publish(&world, &mut random, &topic_name(request % 5), "", 0);
        }
        world.run_until_quiet();
        let heard = std::mem::take(&mut world.clients.borrow_mut()[session.client].heard);
        assert_eq!(heard.len(), BURST, "seed {seed}, last heard {:?}", heard.last());
        world.drain();
    }
}
