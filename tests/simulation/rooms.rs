//! Topics of handlers besides their order: gaps and what was sent make up all messages, subscriptions continue from positions, and
//! each publication has one outcome.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use echoring_proto::limits::SECOND;
use echoring_runtime::driver::sim::Random;
use echoring_server::{
    Disposition, Handler, Message, Opening, Path, Position, PublishError, PublishOutcome, Refused, Remote,
    Result, Route, Routes, Service, SubscribeError, SubscribeOptions, SubscriptionEvent,
};
use echoring_topics::{HistoryBounds, SlowConsumerPolicy, TopicSettings};

use super::client::{Item, MessageKind, message};
use super::for_each_seed;
use super::topics::TopicWorld;
use super::world::World;

/// What the handler of a connection was told.
#[derive(Clone, Debug, Default)]
struct Told {
    subscribed: Option<(Position, Option<bool>)>,
    /// Messages that were reported as missing.
    missing: u64,
    ended: Option<Position>,
    outcomes: Vec<(Option<u64>, Result<Position, Refused>)>,
}

type AllTold = Arc<Mutex<BTreeMap<String, Told>>>;

/// A member that publishes its messages with ids, and goes on when some are missing.
struct Member {
    name: String,
    from: Option<Position>,
    next_id: u64,
    told: AllTold,
}

impl Member {
    fn note(&self, note: impl FnOnce(&mut Told)) {
        note(self.told.lock().expect("no panic").entry(self.name.clone()).or_default());
    }
}

const ROOM: &str = "the room";

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        let options = self.from.map_or(SubscribeOptions::new(), |from| SubscribeOptions::new().from(from));
        remote.subscribe_with(ROOM, options)?;
        assert_eq!(remote.subscribe(ROOM), Err(SubscribeError::AlreadySubscribed));
        assert_eq!(remote.subscribe(""), Err(SubscribeError::BadTopic));
        assert_eq!(remote.publish("a\nb", "text"), Err(PublishError::BadTopic));
        assert!(!remote.unsubscribe("another room"));
        Ok(())
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        if message.text() == Some("leave") {
            assert!(remote.unsubscribe(ROOM));
            return Ok(Disposition::Done);
        }
        remote.publish_with_id(self.next_id, ROOM, message)?;
        self.next_id += 1;
        Ok(Disposition::Done)
    }

    fn subscription(&mut self, _: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
        self.note(|told| match *event {
            SubscriptionEvent::Subscribed { position, recovered, .. } => {
                told.subscribed = Some((position, recovered));
            }
            SubscriptionEvent::Gap { from, to, .. } => told.missing += to - from + 1,
            SubscriptionEvent::Ended { position, .. } => told.ended = Some(position),
            ref other => panic!("{other:?}"),
        });
        Ok(())
    }

    fn published(&mut self, _: &mut Remote<'_>, outcome: &PublishOutcome<'_>) -> Result {
        assert_eq!(outcome.topic, ROOM);
        self.note(|told| told.outcomes.push((outcome.id, outcome.result)));
        Ok(())
    }
}

fn position(text: &str) -> Option<Position> {
    let (epoch, offset) = text.split_once('-')?;
    Some(Position { epoch: u64::from_str_radix(epoch, 16).ok()?, offset: offset.parse().ok()? })
}

fn world(seed: u64, shards: usize, settings: TopicSettings, told: &AllTold) -> Rc<World<Service>> {
    let mut routes = Routes::default();
    let told = Arc::clone(told);
    routes.add(Route::new("/rooms/{name}", move |opening: &mut Opening<'_>, Path(name): Path<String>| {
        Member {
            name,
            from: opening.query_value("from").and_then(position),
            next_id: 0,
            told: Arc::clone(&told),
        }
    }));
    TopicWorld::of_handlers(settings, routes).start(seed, shards)
}

fn write(world: &World<Service>, random: &mut Random, client: usize, texts: impl Iterator<Item = String>) {
    let mut script = Vec::new();
    for text in texts {
        message(random, MessageKind::Text, text.as_bytes(), &mut script, |_, _| {});
    }
    world.clients.borrow_mut()[client].script.extend(script);
}

fn texts(heard: &[Item]) -> Vec<String> {
    let text = |item: &Item| match item {
        Item::Message(MessageKind::Text, payload) => String::from_utf8(payload.clone()).ok(),
        Item::Close(_) => None,
        other => panic!("{other:.40?}"),
    };
    heard.iter().filter_map(text).collect()
}

fn told_of(told: &AllTold, name: &str) -> Told {
    told.lock().expect("no panic").get(name).cloned().unwrap_or_default()
}

fn run_until_told(
    world: &World<Service>,
    told: &AllTold,
    done: impl Fn(&BTreeMap<String, Told>) -> bool + 'static,
) {
    let told = Arc::clone(told);
    world.run(move |_| done(&told.lock().expect("no panic")));
}

/// A member that reads slowly is told how many messages it misses, and gets all others in order.
fn gaps(seed: u64) {
    let mut random = Random::new(seed);
    let told = AllTold::default();
    let settings = TopicSettings {
        slow: SlowConsumerPolicy::DropOldest,
        lag_bytes: [2_000, 20_000][random.below(2)],
        ..TopicSettings::default()
    };
    let world = world(seed, random.between(1, 3), settings, &told);
    let (publisher, slow) = (world.add("/rooms/publisher"), world.add("/rooms/slow"));
    run_until_told(&world, &told, |told| {
        told.len() == 2 && told.values().all(|one| one.subscribed.is_some())
    });
    world.clients.borrow_mut()[publisher].hurry();
    world.clients.borrow_mut()[slow].eagerness = 0;
    let bytes = random.between(500, 3_000);
    let mut count = 0;
    for _ in 0..random.between(1, 8) {
        let more = random.between(1, 60);
        let some = (count..count + more).map(|number| format!("{number:06}{}", "x".repeat(bytes)));
        write(&world, &mut random, publisher, some);
        count += more;
        run_until_told(&world, &told, move |told| told["publisher"].outcomes.len() == count);
        if random.chance(500) {
            world.clients.borrow_mut()[slow].hurry();
            world.run_until_quiet();
            world.clients.borrow_mut()[slow].eagerness = 0;
        }
    }
    world.clients.borrow_mut()[slow].hurry();
    world.run_until_quiet();
    let of_slow = told_of(&told, "slow");
    let heard = texts(&world.clients.borrow()[slow].heard);
    let numbers: Vec<usize> = heard.iter().map(|text| text[..6].parse().expect("a number")).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order and none twice");
    assert_eq!(numbers.len() as u64 + of_slow.missing, count as u64, "sent or told of");
    assert_eq!((of_slow.ended, world.clients.borrow()[slow].end), (None, None), "it goes on");
    for (number, (id, result)) in told_of(&told, "publisher").outcomes.iter().enumerate() {
        assert_eq!(*id, Some(number as u64));
        assert_eq!(result.expect("accepted").offset, number as u64 + 1);
    }
    world.drain();
}

#[test]
fn a_slow_member_gets_or_is_told_of_every_message() {
    for_each_seed("a_slow_member_gets_or_is_told_of_every_message", gaps);
}

/// A member that comes back with a position gets what it lacks from the history, and then what is new.
fn positions(seed: u64) {
    let mut random = Random::new(seed);
    let told = AllTold::default();
    let kept = random.between(1, 60);
    let history = HistoryBounds { messages: kept as u32, bytes: 1 << 20, age: 600 * SECOND };
    let world =
        world(seed, random.between(1, 3), TopicSettings { history, ..TopicSettings::default() }, &told);
    let publisher = world.add("/rooms/publisher");
    run_until_told(&world, &told, |told| told.values().any(|one| one.subscribed.is_some()));
    let before = random.between(1, 80);
    write(&world, &mut random, publisher, (1..=before).map(|number| number.to_string()));
    run_until_told(&world, &told, move |told| told["publisher"].outcomes.len() == before);
    let epoch = told_of(&told, "publisher").subscribed.expect("it was told").0.epoch;
    let from = random.between(0, before);
    let back = world.add(&format!("/rooms/back?from={epoch:x}-{from}"));
    let after = random.between(1, 20);
    write(&world, &mut random, publisher, (before + 1..=before + after).map(|number| number.to_string()));
    run_until_told(&world, &told, move |told| told["publisher"].outcomes.len() == before + after);
    world.run_until_quiet();
    let (_, recovered) = told_of(&told, "back").subscribed.expect("it subscribes");
    let heard: Vec<usize> = texts(&world.clients.borrow()[back].heard)
        .iter()
        .map(|text| text.parse().expect("a number"))
        .collect();
    let missing = told_of(&told, "back").missing as usize;
    let expected: Vec<usize> = (from + 1 + missing..=before + after).collect();
    assert_eq!(heard, expected, "behind what is missing, everything once");
    assert_eq!(recovered, Some(missing == 0));
    // Whoever leaves hears nothing more.
    write(&world, &mut random, back, ["leave".to_owned()].into_iter());
    world.run_until_quiet();
    write(&world, &mut random, publisher, ["unheard".to_owned()].into_iter());
    world.run_until_quiet();
    assert_eq!(world.clients.borrow()[back].heard.len(), expected.len());
    assert_eq!(world.known().subscriptions, 1);
    world.drain();
}

#[test]
fn a_member_continues_from_its_position() {
    for_each_seed("a_member_continues_from_its_position", positions);
}
