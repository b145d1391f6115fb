//! Handlers that echo messages chunk by chunk and subscribe to topics: no message comes between two fragments (RFC 6455, 5.4), which
//! the model of the client checks, and what waits for the end of a message is sent behind it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use echoring_proto::connection::Chunk;
use echoring_proto::limits::SECOND;
use echoring_runtime::driver::sim::Random;
use echoring_server::{
    Disposition, Handler, Path, Position, Remote, Result, Route, Routes, Service, SubscribeOptions,
    SubscriptionEvent,
};
use echoring_topics::{HistoryBounds, SlowConsumerPolicy, TopicSettings};

use super::client::{Item, MessageKind, frame};
use super::for_each_seed;
use super::topics::TopicWorld;
use super::world::World;

const ROOM: &str = "the room";
/// The first byte of a message that is published. All others are echoed.
const PUBLISHED: u8 = b'p';

/// What the handler of a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Subscribes at once, echoes all chunks, and has a text of its own for each chunk within a message.
    Talks,
    /// Subscribes within its first message, to the history, too.
    SubscribesLate,
    /// Does not echo the last chunk of a message.
    KeepsLast,
    /// Does not echo the first chunk of a message.
    KeepsFirst,
}

#[derive(Clone, Debug, Default)]
struct Told {
    subscribed: bool,
    epoch: u64,
    /// Messages that were reported as missing.
    missing: u64,
    /// Texts that the handler could not send within a message.
    refused: usize,
    /// Bytes of the chunks that were echoed, by message.
    echoed: Vec<usize>,
    published: usize,
}

type AllTold = Arc<Mutex<BTreeMap<String, Told>>>;

struct Streamer {
    name: String,
    habit: Habit,
    /// Whether a message is echoed, and not complete.
    is_within: bool,
    has_subscribed: bool,
    owed: usize,
    told: AllTold,
}

impl Streamer {
    fn note(&self, note: impl FnOnce(&mut Told)) {
        note(self.told.lock().expect("no panic").entry(self.name.clone()).or_default());
    }

    fn publish(&self, remote: &mut Remote<'_>, payload: &[u8]) -> Result<Disposition> {
        remote.publish(ROOM, &payload[1..])?;
        self.note(|told| told.published += 1);
        Ok(Disposition::Done)
    }

    /// Sends a text for each that was refused, in front of which nothing is incomplete.
    fn send_owed(&mut self, remote: &mut Remote<'_>) {
        while self.owed > 0 && remote.send_text("owed").is_ok() {
            self.owed -= 1;
        }
    }
}

impl Handler for Streamer {
    fn is_streaming(&self) -> bool {
        true
    }

    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        if self.habit != Habit::SubscribesLate {
            remote.subscribe(ROOM)?;
        }
        Ok(())
    }

    fn chunk(&mut self, remote: &mut Remote<'_>, chunk: &Chunk<'_>) -> Result<Disposition> {
        if chunk.first && chunk.last && chunk.payload.first() == Some(&PUBLISHED) {
            return self.publish(remote, chunk.payload);
        }
        if self.is_within && self.habit == Habit::Talks {
            assert!(remote.send_text("owed").is_err(), "within a message");
            self.owed += 1;
            self.note(|told| told.refused += 1);
        }
        let keeps = match self.habit {
            Habit::KeepsLast => chunk.last && !chunk.first,
            Habit::KeepsFirst => chunk.first,
            Habit::Talks | Habit::SubscribesLate => false,
        };
        if chunk.first && !chunk.last && self.habit == Habit::SubscribesLate && !self.has_subscribed {
            self.has_subscribed = true;
            let epoch = self.told.lock().expect("no panic")["publisher"].epoch;
            remote.subscribe_with(ROOM, SubscribeOptions::new().from(Position { epoch, offset: 0 }))?;
        }
        self.is_within = !chunk.last;
        if keeps {
            return Ok(Disposition::Done);
        }
        let bytes = chunk.payload.len();
        let first = chunk.first;
        self.note(|told| match told.echoed.last_mut().filter(|_| !first) {
            Some(last) => *last += bytes,
            None => told.echoed.push(bytes),
        });
        Ok(Disposition::Echo)
    }

    fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
        self.send_owed(remote);
        Ok(())
    }

    fn subscription(&mut self, _: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
        match *event {
            SubscriptionEvent::Subscribed { position, .. } => self.note(|told| {
                (told.subscribed, told.epoch) = (true, position.epoch);
            }),
            SubscriptionEvent::Gap { from, to, .. } => self.note(|told| told.missing += to - from + 1),
            ref other => other.or_close()?,
        }
        Ok(())
    }
}

fn world(seed: u64, shards: usize, settings: TopicSettings, told: &AllTold) -> Rc<World<Service>> {
    let mut routes = Routes::default();
    let habits = [
        ("/talk/{name}", Habit::Talks),
        ("/late/{name}", Habit::SubscribesLate),
        ("/keep-last/{name}", Habit::KeepsLast),
        ("/keep-first/{name}", Habit::KeepsFirst),
    ];
    for (path, habit) in habits {
        let told = Arc::clone(told);
        routes.add(Route::new(path, move |Path(name): Path<String>| {
            let told = Arc::clone(&told);
            Streamer { name, habit, is_within: false, has_subscribed: false, owed: 0, told }
        }));
    }
    let secured = seed.is_multiple_of(4);
    TopicWorld { secured, ..TopicWorld::of_handlers(settings, routes) }.start(seed, shards)
}

/// Settings with which no subscriber of these tests is too slow, and which keep everything.
fn patient() -> TopicSettings {
    let history = HistoryBounds { messages: 1_000, bytes: 1 << 24, age: 600 * SECOND };
    TopicSettings { lag: 600 * SECOND, lag_bytes: 1 << 24, history, ..TopicSettings::default() }
}

/// Writes a message in at least two frames.
fn write_fragments(world: &World<Service>, random: &mut Random, client: usize, payload: &[u8]) {
    let mut script = Vec::new();
    let mut rest = payload;
    let fragments = random.between(2, 5);
    for left in (0..fragments).rev() {
        let split = if left == 0 { rest.len() } else { random.between(0, rest.len()) };
        let (part, more) = rest.split_at(split);
        let opcode = if left + 1 == fragments { 2 } else { 0 };
        frame(random, left == 0, opcode, part, &mut script);
        rest = more;
    }
    world.clients.borrow_mut()[client].script.extend(script);
}

/// Writes numbered messages that are published.
fn write_published(
    world: &World<Service>,
    random: &mut Random,
    client: usize,
    numbers: std::ops::Range<usize>,
    bytes: usize,
) {
    let mut script = Vec::new();
    for number in numbers {
        let payload = format!("p{number:06}{}", "x".repeat(bytes));
        frame(random, true, 1, payload.as_bytes(), &mut script);
    }
    world.clients.borrow_mut()[client].script.extend(script);
}

/// The numbers of the published messages that a client has heard, and how many bytes the echoed ones have.
fn heard(items: &[Item]) -> (Vec<usize>, Vec<usize>) {
    let (mut numbers, mut echoed) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            // Handlers publish chunks, which are binary; their own messages are all zero.
            Item::Message(MessageKind::Binary, payload) if payload.first().is_some_and(|byte| *byte != 0) => {
                numbers.push(String::from_utf8_lossy(&payload[..6]).parse().expect("a number"));
            }
            Item::Message(MessageKind::Binary, payload) => echoed.push(payload.len()),
            Item::Message(MessageKind::Text, payload) => assert_eq!(payload, b"owed"),
            Item::Close(_) => {}
            other => panic!("{other:.40?}"),
        }
    }
    (numbers, echoed)
}

fn told_of(told: &AllTold, name: &str) -> Told {
    told.lock().expect("no panic").get(name).cloned().unwrap_or_default()
}

fn run_until_subscribed(world: &World<Service>, told: &AllTold, count: usize) {
    let told = Arc::clone(told);
    world.run(move |_| {
        told.lock().expect("no panic").values().filter(|told| told.subscribed).count() == count
    });
}

/// Connections echo long messages while others publish: each gets its own messages and those of the topic, complete and in order,
/// and what its handler was told to send later.
fn interleaved(seed: u64) {
    let mut random = Random::new(seed);
    let told = AllTold::default();
    let world = world(seed, random.between(1, 3), patient(), &told);
    let publisher = world.add("/talk/publisher");
    let talkers = random.between(1, 3);
    for talker in 0..talkers {
        world.add(&format!("/talk/{talker}"));
    }
    run_until_subscribed(&world, &told, 1 + talkers);
    let mut sent = vec![Vec::new(); talkers];
    let mut count = 0;
    for _ in 0..random.between(1, 5) {
        for (talker, sent) in sent.iter_mut().enumerate() {
            for _ in 0..random.below(4) {
                let bytes = [0, 100, 5_000, 90_000][random.below(4)];
                write_fragments(&world, &mut random, 1 + talker, &vec![0; bytes]);
                sent.push(bytes);
            }
        }
        let more = random.between(1, 30);
        let bytes = [0, 2_000][random.below(2)];
        write_published(&world, &mut random, publisher, count..count + more, bytes);
        count += more;
        let some = random.below(100_000);
        world.pass(some as u64);
    }
    world.run_until_quiet();
    for (talker, sent) in sent.iter().enumerate() {
        let client = &world.clients.borrow()[1 + talker];
        let (numbers, echoed) = heard(&client.heard);
        assert!(numbers.iter().copied().eq(0..count), "every message of the topic, in order");
        assert_eq!(&echoed, sent, "every echo, complete");
        let owed = client.heard.len() - numbers.len() - echoed.len();
        assert_eq!(owed, told_of(&told, &talker.to_string()).refused, "whoever was refused is told of room");
    }
    let deliveries = world.known().deliveries;
    assert_eq!((deliveries.queued, deliveries.sent), (0, deliveries.offered));
    world.drain();
}

#[test]
fn messages_of_topics_come_between_the_messages_that_are_echoed() {
    for_each_seed("messages_of_topics_come_between_the_messages_that_are_echoed", interleaved);
}

/// A client sends one message in fragments after the other, without a pause: a message of the topic does not wait for the last.
fn unpaused(seed: u64) {
    const MESSAGES: usize = 150;
    let mut random = Random::new(seed);
    let told = AllTold::default();
    let world = world(seed, 1, patient(), &told);
    let (publisher, busy) = (world.add("/talk/publisher"), world.add("/keep-last/busy"));
    run_until_subscribed(&world, &told, 2);
    world.clients.borrow_mut()[busy].hurry();
    let bytes = random.between(4_000, 20_000);
    for _ in 0..MESSAGES {
        write_fragments(&world, &mut random, busy, &vec![0; bytes]);
    }
    let before = random.between(1, MESSAGES / 4);
    world.run(move |clients| clients[busy].heard.len() > before);
    write_published(&world, &mut random, publisher, 0..1, 0);
    world.clients.borrow_mut()[publisher].hurry();
    let published = Arc::clone(&told);
    world.run(move |_| told_of(&published, "publisher").published == 1);
    // Chance may have let the publisher wait until the other client had nearly nothing left to write.
    let is_early = world.clients.borrow()[busy].script.len() > 200_000;
    world.run(move |clients| clients[busy].heard.len() == MESSAGES + 1);
    let clients = world.clients.borrow();
    let is_published = |item: &Item| matches!(item, Item::Message(_, payload) if payload.starts_with(b"0"));
    let at = clients[busy].heard.iter().position(is_published).expect("it was published");
    assert!(at < MESSAGES || !is_early, "behind all {at}");
    drop(clients);
    world.drain();
}

#[test]
fn a_client_that_never_pauses_hears_the_topic_between_its_messages() {
    for_each_seed("a_client_that_never_pauses_hears_the_topic_between_its_messages", unpaused);
}

/// A message that is echoed does not end: the subscriber is slow, as any that does not read.
fn unending(seed: u64) {
    let mut random = Random::new(seed);
    let told = AllTold::default();
    let slow = [SlowConsumerPolicy::Disconnect, SlowConsumerPolicy::DropOldest][random.below(2)];
    let settings = TopicSettings { slow, lag_bytes: 8_000, ..TopicSettings::default() };
    let world = world(seed, random.between(1, 3), settings, &told);
    // The publisher does not subscribe, so that chance cannot make it slow.
    let (publisher, stuck) = (world.add("/late/publisher"), world.add("/talk/stuck"));
    run_until_subscribed(&world, &told, 1);
    for client in [publisher, stuck] {
        world.clients.borrow_mut()[client].hurry();
    }
    let begun = vec![0; random.between(1, 3_000)];
    let mut script = Vec::new();
    frame(&mut random, false, 2, &begun, &mut script);
    world.clients.borrow_mut()[stuck].script.extend(script);
    world.run_until_quiet();
    assert!(!told_of(&told, "stuck").echoed.is_empty(), "the echo has begun");
    let (mut count, bytes) = (0, random.between(500, 3_000));
    while count * bytes < 20_000 {
        let more = random.between(1, 3);
        write_published(&world, &mut random, publisher, count..count + more, bytes);
        count += more;
        let told = Arc::clone(&told);
        world.run(move |_| told_of(&told, "publisher").published == count);
        world.run_until_quiet();
    }
    let known = world.known().deliveries;
    if slow == SlowConsumerPolicy::Disconnect {
        world.run(move |clients| clients[stuck].end.is_some());
        let heard = &world.clients.borrow()[stuck].heard;
        assert_eq!(heard[..], [Item::Close(4008)], "behind the fragment, and nothing else");
        assert!(known.dropped_disconnect > 0, "{known:?}");
    } else {
        assert!(world.clients.borrow()[stuck].heard.is_empty(), "nothing comes within the message");
        assert!(known.queued > 0, "{known:?}");
        let mut script = Vec::new();
        frame(&mut random, true, 0, &[], &mut script);
        world.clients.borrow_mut()[stuck].script.extend(script);
        world.run_until_quiet();
        let (numbers, echoed) = heard(&world.clients.borrow()[stuck].heard);
        assert_eq!(echoed, [begun.len()], "the message is complete");
        let of_stuck = told_of(&told, "stuck");
        assert!(of_stuck.missing > 0 && numbers.is_sorted_by(|a, b| a < b));
        assert_eq!(numbers.len() as u64 + of_stuck.missing, count as u64, "sent or told of");
    }
    world.drain();
}

#[test]
fn a_message_that_never_ends_makes_its_subscriber_slow() {
    for_each_seed("a_message_that_never_ends_makes_its_subscriber_slow", unending);
}

/// A subscription that begins within a message is sent its history behind that message.
fn late(seed: u64) {
    let mut random = Random::new(seed);
    let told = AllTold::default();
    let world = world(seed, random.between(1, 3), patient(), &told);
    let publisher = world.add("/talk/publisher");
    run_until_subscribed(&world, &told, 1);
    let before = random.between(1, 200);
    write_published(&world, &mut random, publisher, 0..before, 300);
    let all = Arc::clone(&told);
    world.run(move |_| told_of(&all, "publisher").published == before);
    world.run_until_quiet();
    let late = world.add("/late/late");
    let messages = random.between(1, 5);
    for _ in 0..messages {
        let payload = vec![0; random.between(0, 30_000)];
        let mut script = Vec::new();
        frame(&mut random, false, 2, &payload, &mut script);
        frame(&mut random, true, 0, &[0; 100], &mut script);
        world.clients.borrow_mut()[late].script.extend(script);
        let some = random.below(100_000);
        world.pass(some as u64);
    }
    world.run_until_quiet();
    write_published(&world, &mut random, publisher, before..before + 3, 0);
    world.run_until_quiet();
    let (numbers, echoed) = heard(&world.clients.borrow()[late].heard);
    assert_eq!(echoed.len(), messages);
    assert!(numbers.into_iter().eq(0..before + 3), "the history, and what is new");
    world.drain();
}

#[test]
fn a_subscription_within_a_message_begins_behind_it() {
    for_each_seed("a_subscription_within_a_message_begins_behind_it", late);
}

/// A handler that keeps chunks for itself: its peer gets whole messages, or the connection is closed.
fn parts(seed: u64) {
    let mut random = Random::new(seed);
    let told = AllTold::default();
    let world = world(seed, 1, patient(), &told);
    let (last, first) = (world.add("/keep-last/last"), world.add("/keep-first/first"));
    run_until_subscribed(&world, &told, 2);
    let messages = random.between(1, 6);
    for _ in 0..messages {
        let bytes = random.between(10, 50_000);
        write_fragments(&world, &mut random, last, &vec![0; bytes]);
    }
    let bytes = random.between(10, 50_000);
    write_fragments(&world, &mut random, first, &vec![0; bytes]);
    world.run(move |clients| clients[last].heard.len() == messages && clients[first].end.is_some());
    let (_, echoed) = heard(&world.clients.borrow()[last].heard);
    assert_eq!(echoed, told_of(&told, "last").echoed, "what was echoed, as messages");
    assert_eq!(world.clients.borrow()[first].heard, [Item::Close(1011)]);
    world.drain();
}

#[test]
fn the_echoed_chunks_of_a_message_are_one_message() {
    for_each_seed("the_echoed_chunks_of_a_message_are_one_message", parts);
}
