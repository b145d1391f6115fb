//! Publications with idempotency keys are retried over new connections to any shard, after the first ones failed: each
//! is one message, and everyone who gets an answer gets its position.

use std::collections::BTreeMap;

use echoring_runtime::driver::sim::Random;
use echoring_server::Service;
use echoring_topics::{Rules, TopicSettings};
use serde_json::json;

use super::client::{self, Item, Leave, MessageKind};
use super::for_each_seed;
use super::newcomers::world;
use super::sessions::{SUBPROTOCOL, Said, Session, number, text, witnessed};
use super::world::World;

/// A connection, and what it published by the number of its request.
struct Publisher {
    client: usize,
    said: Vec<String>,
}

impl Publisher {
    fn open(world: &World<Service>) -> Publisher {
        Publisher { client: world.connect("/broadcast", "", SUBPROTOCOL), said: Vec::new() }
    }

    /// Publishes `said`, which is also its key.
    fn publish(&mut self, world: &World<Service>, random: &mut Random, said: &str) {
        let (id, key) = (self.said.len(), &said[..said.find('.').unwrap_or(said.len())]);
        let asked = json!({"type": "publish", "id": id, "topic": "t", "text": said, "idempotency_key": key})
            .to_string();
        let mut script = Vec::new();
        client::message(random, MessageKind::Text, asked.as_bytes(), &mut script, |_, _| {});
        world.clients.borrow_mut()[self.client].script.extend(script);
        self.said.push(said.to_owned());
    }
}

/// Runs until a few more messages have arrived somewhere.
fn run_on(world: &World<Service>, random: &mut Random) {
    let heard = |clients: &[client::Client]| clients.iter().map(|client| client.heard.len()).sum::<usize>();
    let some = heard(&world.clients.borrow()) + random.below(30);
    world.run_or_quiet(move |clients| heard(clients) > some);
}

fn retries(seed: u64) {
    let mut random = Random::new(seed);
    let world = world(seed, random.between(1, 3), Rules::new(Vec::new(), TopicSettings::default()));
    let mut witness = Session::open(&world);
    world.clients.borrow_mut()[witness.client].hurry();
    witness.subscribe(&world, &mut random, "t", None);
    world.run_until_quiet();
    let mut publishers = Vec::new();
    let mut all = Vec::new();
    for author in 0..random.between(1, 3) {
        let messages: Vec<String> = (0..random.between(1, 30))
            .map(|number| format!("{author}:{number}.{}", "x".repeat(random.below(2_000))))
            .collect();
        for attempt in 0..random.between(1, 4) {
            let mut publisher = Publisher::open(&world);
            messages.iter().for_each(|said| publisher.publish(&world, &mut random, said));
            if attempt > 0 && random.chance(500) {
                // Two of them at the same time.
                let mut other = Publisher::open(&world);
                messages.iter().for_each(|said| other.publish(&world, &mut random, said));
                publishers.push(other);
            }
            run_on(&world, &mut random);
            if random.chance(600) {
                let leave = if random.chance(500) { Leave::Fin } else { Leave::Reset(0) };
                world.clients.borrow_mut()[publisher.client].leave = leave;
            }
            publishers.push(publisher);
            run_on(&world, &mut random);
        }
        // At last one that stays.
        let mut publisher = Publisher::open(&world);
        messages.iter().for_each(|said| publisher.publish(&world, &mut random, said));
        publishers.push(publisher);
        all.extend(messages);
    }
    world.clients.borrow_mut().iter_mut().for_each(client::Client::hurry);
    world.run_until_quiet();
    let clients = world.clients.borrow();
    let order = &witnessed(&clients[witness.client])["t"];
    let mut places: BTreeMap<&str, u64> = BTreeMap::new();
    for (entry, offset) in order.entries.iter().zip(1..) {
        let Said::Text(said) = &entry.said else { panic!("{entry:?} was not published") };
        assert_eq!(places.insert(said, offset), None, "it was published once");
    }
    assert_eq!(places.len(), all.len(), "all of it was published");
    assert!(all.iter().all(|said| places.contains_key(said.as_str())));
    for publisher in &publishers {
        let mut answers = 0;
        for item in &clients[publisher.client].heard {
            let Item::Message(MessageKind::Text, answer) = item else { continue };
            let answer: serde_json::Value = serde_json::from_slice(answer).expect("JSON");
            assert_eq!(text(&answer, "type"), "published", "{answer}");
            let said = publisher.said[number(&answer, "id") as usize].as_str();
            assert_eq!(number(&answer, "offset"), places[said], "the position that it got at first");
            assert_eq!(text(&answer, "epoch"), order.epoch);
            answers += 1;
        }
        let stays = clients[publisher.client].end.is_none();
        assert!(!stays || answers == publisher.said.len(), "everything is answered");
    }
    drop(clients);
    let known = world.known();
    assert_eq!((known.publications.accepted, known.publications.refused), (all.len() as u64, 0));
    world.drain();
}

#[test]
fn what_is_sent_again_is_the_same_message() {
    for_each_seed("what_is_sent_again_is_the_same_message", retries);
}
