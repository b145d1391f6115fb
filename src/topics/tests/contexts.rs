//! Contexts that the subscribers of a topic share: whatever happens, each of them can decompress what it is sent.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::world::{CODEC, World, framed, settings};
use crate::{Compression, Deltas, Encoding, Format, SlowConsumerPolicy, SubscriberId};
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{self, Codecs};
use echoring_proto::deflate::{Deflater, Direction, Inflater};
use echoring_proto::limits::Nanos;
use echoring_proto::random::SplitMix64;

/// The smallest window, so that much happens in few messages.
const BITS: u8 = 9;
const SHARED: Compression = Compression::Shared { bits: BITS };
const JOINING: Compression = Compression::Joining { bits: BITS };
const SINGLE: Compression = Compression::Single { bits: BITS };
/// Of a raw route.
const RAW: Format = Format { dialect: Encoding::Raw, compression: SHARED };
/// A subscriber that wants no messages of its own has its number as its origin. This is the origin of others.
const NOBODY: u64 = 99;

fn codecs() -> Codecs {
    Codecs::new(Some(connection::Compression::default().shared(true)), Lease::new(Budget::new(1 << 20), 1))
}

fn world(slow: SlowConsumerPolicy, pool: Pool) -> World {
    let mut world = World::with(pool, crate::TopicSettings { lag_bytes: 1_500, ..settings(slow) });
    world.codecs = Some(codecs());
    world
}

/// A subscriber that decompresses what it receives, with its own window.
struct Receiver {
    inflater: Inflater,
    read: usize,
    frames: usize,
    deflated_bytes: usize,
    messages: Vec<String>,
    /// The number of the last message of the topic.
    last: u64,
}

impl Receiver {
    fn new() -> Receiver {
        let inflater = Inflater::new(Direction { context_takeover: true, window_bits: BITS });
        Receiver { inflater, read: 0, frames: 0, deflated_bytes: 0, messages: Vec::new(), last: 0 }
    }

    /// Reads the complete frames, gap reports and conflated messages that were sent since the last call.
    fn read(&mut self, sent: &[u8]) -> Result<(), String> {
        let until = |rest: &[u8], end: u8| rest.iter().position(|byte| *byte == end);
        while let Some((&kind, _)) = sent[self.read..].split_first() {
            let rest = &sent[self.read..];
            match kind {
                b'<' => self.read += until(rest, b'>').ok_or("an incomplete report")? + 1,
                b'[' => {
                    let head = until(rest, b']').ok_or("an incomplete key")? + 1;
                    let message = head + until(&rest[head..], b'\n').ok_or("an incomplete message")? + 1;
                    self.messages.push(String::from_utf8_lossy(&rest[head..message]).into_owned());
                    self.read += message;
                }
                b'P' | b'Z' => {
                    let Some(bytes) =
                        rest.get(1..3).map(|bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
                    else {
                        return Ok(());
                    };
                    let Some(payload) = rest.get(3..3 + bytes) else { return Ok(()) };
                    self.read += 3 + bytes;
                    self.frames += 1;
                    let mut plain = payload.to_vec();
                    if kind == b'Z' {
                        self.deflated_bytes += bytes;
                        let mut out = Vec::new();
                        let length = self.inflater.inflate(payload, &mut out, 1 << 16);
                        plain = out[..length.map_err(|error| format!("{error:?}"))?].to_vec();
                    }
                    self.messages.push(String::from_utf8_lossy(&plain).into_owned());
                }
                other => return Err(format!("no frame begins with {other}")),
            }
        }
        Ok(())
    }
}

/// Messages of one kind, which have much in common.
fn message(number: u64) -> String {
    let price = 10_000 + number * 7_919 % 1_000;
    format!(
        r#"{{"n":{number},"symbol":"EURUSD","bid":{price},"ask":{},"venue":"XETR","state":"open"}}"#,
        price + 3
    ) + "\n"
}

#[test]
fn subscribers_share_a_context_from_the_first_message_on() {
    let mut world = world(SlowConsumerPolicy::Disconnect, Pool::standalone());
    (1..=4).for_each(|key| _ = world.subscribe(key, RAW));
    let formats: HashSet<_> = (1..=50)
        .flat_map(|number| world.publish(message(number).as_bytes(), number))
        .map(|format| format.compression)
        .collect();
    assert_eq!(formats, HashSet::from([SHARED]), "each message was compressed once");
    for key in 1..=4 {
        let mut receiver = Receiver::new();
        receiver.read(world.got(key)).expect("it is what was sent");
        assert_eq!(receiver.messages, (1..=50).map(message).collect::<Vec<_>>());
        assert!(receiver.deflated_bytes < 50 * 30, "{} bytes", receiver.deflated_bytes);
    }
}

#[test]
fn a_newcomer_joins_when_it_has_the_whole_window() {
    let mut world = world(SlowConsumerPolicy::Disconnect, Pool::standalone());
    (1..=4).for_each(|key| _ = world.subscribe(key, RAW));
    (1..=10).for_each(|number| _ = world.publish(message(number).as_bytes(), number));
    world.subscribe(5, RAW);
    let mut formats = Vec::new();
    for number in 11..=40 {
        let compressions = world.publish(message(number).as_bytes(), number);
        formats.push(compressions.into_iter().map(|format| format.compression).collect::<HashSet<_>>());
    }
    let joining = formats.iter().take_while(|formats| formats.contains(&JOINING)).count();
    // A window has five to six messages of 90 bytes, and the newcomer waits for up to two windows.
    assert!((6..=13).contains(&joining), "{joining} messages");
    assert!(formats[joining..].iter().all(|formats| *formats == HashSet::from([SHARED])));
    let mut receiver = Receiver::new();
    receiver.read(world.got(5)).expect("it is what was sent");
    assert_eq!(receiver.messages, (11..=40).map(message).collect::<Vec<_>>());
}

#[test]
fn few_subscribers_have_no_context_and_a_silent_topic_keeps_none() {
    let mut world = world(SlowConsumerPolicy::Disconnect, Pool::standalone());
    (1..=3).for_each(|key| _ = world.subscribe(key, RAW));
    (1..=3).for_each(|number| _ = world.publish(message(number).as_bytes(), number));
    let without = world.peers.pool.used_bytes();
    world.subscribe(4, RAW);
    world.publish(message(4).as_bytes(), 4);
    let bytes = Deflater::memory_bytes(Direction { context_takeover: true, window_bits: BITS }) as u64;
    assert!(world.peers.pool.used_bytes() >= without + bytes);
    world.topics.silent(Nanos::MAX / 2, &mut Vec::new(), &mut world.peers.pool);
    assert!(world.peers.pool.used_bytes() < without + bytes);
    world.publish(message(5).as_bytes(), 5);
    let members: Vec<SubscriberId> =
        world.topics.subscribers(world.id).iter().map(|(_, member)| *member).collect();
    members.into_iter().for_each(|member| world.unsubscribe(member));
    assert_eq!(world.peers.pool.used_bytes(), 0);
}

#[test]
fn a_publisher_that_is_not_sent_its_own_messages_leaves_the_context() {
    let mut world = world(SlowConsumerPolicy::Disconnect, Pool::standalone());
    let members: Vec<_> = (1..=5).map(|key| world.subscribe(key, RAW)).collect();
    for number in 1..=30 {
        let own = (number % 10 == 5).then_some(members[1]);
        world.append(if own.is_some() { 2 } else { NOBODY }, own, message(number).as_bytes());
        world.deliver(number);
    }
    for key in 1..=5 {
        let mut receiver = Receiver::new();
        receiver.read(world.got(key)).expect("it is what was sent");
        let expected = (1..=30).filter(|number| key != 2 || number % 10 != 5).map(message);
        assert_eq!(receiver.messages, expected.collect::<Vec<_>>(), "of {key}");
    }
}

/// A topic on which everything happens.
struct Simulation {
    dice: SplitMix64,
    world: World,
    dialect: Encoding,
    receivers: BTreeMap<u32, Receiver>,
    /// Subscribers outside the context, whose connections get other compressed messages too.
    apart: BTreeSet<u32>,
    others: Codecs,
    published: u64,
    now: Nanos,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut dice = SplitMix64::new(seed);
        let pool = if dice.below(4) == 0 { Pool::new(Budget::new(1 << 20)) } else { Pool::standalone() };
        let pool = if dice.below(3) == 0 { pool.refusing(seed, 100) } else { pool };
        let (slow, dialect) = match dice.below(4) {
            0 => (SlowConsumerPolicy::Disconnect, Encoding::Raw),
            1 => (
                SlowConsumerPolicy::Disconnect,
                Encoding::Resuming { codec: CODEC, presence: true, deltas: Deltas::Off, filtered: false },
            ),
            2 => (SlowConsumerPolicy::DropOldest, Encoding::WithEvents { codec: CODEC, presence: true }),
            _ => (SlowConsumerPolicy::Conflate, Encoding::WithEvents { codec: CODEC, presence: true }),
        };
        Simulation {
            dice,
            world: world(slow, pool),
            dialect,
            receivers: BTreeMap::new(),
            apart: BTreeSet::new(),
            others: codecs(),
            published: 0,
            now: 1,
        }
    }

    fn member(&self, key: u32) -> Option<SubscriberId> {
        let subscribers = self.world.topics.subscribers(self.world.id);
        subscribers.iter().find(|(known, _)| *known == key).map(|(_, member)| *member)
    }

    fn step(&mut self) {
        let key = 1 + self.dice.below(9) as u32;
        let member = self.member(key);
        let Simulation { world, now, .. } = self;
        match (self.dice.below(40), member) {
            (0..=2, None) => {
                let compression = if self.apart.contains(&key) { SINGLE } else { SHARED };
                world.subscribe(key, Format { dialect: self.dialect, compression });
                self.receivers.entry(key).or_insert_with(Receiver::new);
            }
            (3, Some(member)) => world.unsubscribe(member),
            (4, _) => world.peers.stuck.push(key),
            (5, _) => world.peers.stuck.clear(),
            (6, _) => world.peers.refusing = vec![key],
            (7, _) => world.peers.refusing.clear(),
            (8, _) => _ = world.peers.short.insert(key, self.dice.below(120) as usize),
            (9, Some(member)) => world.finish(key, member, *now),
            (10, Some(member)) => world.catch_up(member, *now),
            (11, _) => *now += self.dice.below(700),
            (12, Some(member)) => {
                if world.topics.leave_context(member, *now, &mut world.peers.pool).is_some() {
                    self.apart.insert(key);
                }
            }
            (13, Some(member)) => {
                world.topics.rejoin_context(member);
                self.apart.remove(&key);
            }
            (14, _) => world.topics.silent(Nanos::MAX / 2, &mut Vec::new(), &mut world.peers.pool),
            (15, _) => {
                let pool = &mut world.peers.pool;
                let _ = world.topics.shed_optional(pool) || world.topics.shed(pool);
            }
            (16, _) => world.append_notice(&framed(b'P', b"notice\n")),
            (17..=19, _) => self.send_another(key),
            (20, Some(member)) => self.publish(key.into(), Some(member)),
            (21..=31, _) => self.publish(NOBODY, None),
            _ => {
                *now += 1;
                world.deliver(*now);
            }
        }
        self.world.check();
        self.read();
    }

    fn publish(&mut self, origin: u64, own: Option<SubscriberId>) {
        self.published += 1;
        let mut text = message(self.published);
        if self.dice.below(5) == 0 {
            // Short ones are not compressed.
            text = format!("{}\n", self.published);
        }
        let key = format!("k{}", self.dice.below(5));
        self.world.append_keyed(origin, own, &key, text.as_bytes());
    }

    /// A message that is not of the topic, and is compressed by itself, to a connection whose window no topic has.
    fn send_another(&mut self, key: u32) {
        if !self.apart.contains(&key) || self.world.peers.unfinished.contains_key(&key) {
            return;
        }
        let text = format!(
            "another message of the connection {key}: {}\n",
            "abc".repeat(self.dice.below(90) as usize)
        );
        let frame = match self.others.deflate_for_all(BITS, text.as_bytes()) {
            Some(deflated) => framed(b'Z', deflated),
            None => framed(b'P', text.as_bytes()),
        };
        self.world.peers.got.entry(key).or_default().extend_from_slice(&frame);
    }

    /// Each subscriber decompresses what it was sent: messages of the topic in order, and others.
    fn read(&mut self) {
        for (key, receiver) in &mut self.receivers {
            receiver.read(self.world.got(*key)).unwrap_or_else(|error| panic!("{key}: {error}"));
            for text in receiver.messages.drain(..) {
                let number = text.trim_end().strip_prefix(r#"{"n":"#).unwrap_or(&text);
                let number = number.split(',').next().unwrap_or_default().trim_end().parse::<u64>();
                match number {
                    Ok(number) => {
                        assert!(text == message(number) || text == format!("{number}\n"), "{key}: {text}");
                        assert!(number > receiver.last, "{key}: {number} after {}", receiver.last);
                        receiver.last = number;
                    }
                    Err(_) => {
                        assert!(text.starts_with("another message") || text == "notice\n", "{key}: {text}")
                    }
                }
            }
        }
    }
}

#[test]
fn in_each_simulation_everybody_can_decompress_what_it_is_sent() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = variable("SIMULATION_FIRST_SEED").unwrap_or(0);
    let seeds = match variable("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + variable("SIMULATION_SEEDS").unwrap_or(1_000),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut simulation = Simulation::new(seed);
            (0..600).for_each(|_| simulation.step());
            simulation.receivers.values().map(|receiver| receiver.frames).sum::<usize>()
        });
        assert!(run.is_ok(), "SIMULATION_SEED={seed}");
    }
}
