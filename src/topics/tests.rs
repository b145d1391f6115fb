//! Topics and owned with subscribers that are numbers: what each gets, what it is told that it missed, and that
//! everything is accounted for.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::creators::Creator;
use crate::limits::{LOG_SEGMENT_BYTES, REMEMBERED_AGE};
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::limits::Nanos;

/// A send that the kernel has not taken all of: what is unsent of its pieces, with their tags.
type Unfinished = Vec<(u64, Vec<u8>)>;

/// Subscribers by number; those in `stuck` take nothing, those in `refusing` although they seemed to.
struct Peers {
    got: BTreeMap<u32, Vec<u8>>,
    unfinished: BTreeMap<u32, Unfinished>,
    /// Those whose send was short just now.
    fresh: Vec<u32>,
    /// Bytes of a subscriber's next send that the kernel takes, once.
    short: BTreeMap<u32, usize>,
    stuck: Vec<u32>,
    refusing: Vec<u32>,
    refusals: usize,
    fell: Vec<u32>,
    moved: Vec<(u32, MemberId, MemberId)>,
    pool: Pool,
}

impl Sink<u32> for Peers {
    fn is_writable(&self, key: u32) -> bool {
        // That a send is short is heard of in the next tick.
        let blocked = self.unfinished.contains_key(&key) && !self.fresh.contains(&key);
        !self.stuck.contains(&key) && !blocked
    }
    fn send(&mut self, key: u32, frames: Bytes, _: u32, tag: u64) -> Result<(), Bytes> {
        if self.refusing.contains(&key) {
            self.refusals += 1;
            return Err(frames);
        }
        if let Some(unfinished) = self.unfinished.get_mut(&key) {
            // It leaves with what was sent in this tick before.
            unfinished.push((tag, frames.to_vec()));
            return Ok(());
        }
        let got = self.got.entry(key).or_default();
        match self.short.remove(&key).filter(|taken| *taken < frames.len()) {
            Some(taken) => {
                got.extend_from_slice(&frames[..taken]);
                self.unfinished.insert(key, vec![(tag, frames[taken..].to_vec())]);
                self.fresh.push(key);
            }
            None => got.extend_from_slice(&frames),
        }
        Ok(())
    }
    fn tell_gap(&mut self, key: u32, topic: &str, Gap { from, to, reason }: Gap) -> bool {
        let said = format!("<{topic}:{from}-{to} {reason:?}>");
        self.got.entry(key).or_default().extend_from_slice(said.as_bytes());
        true
    }
    fn tell_stale(&mut self, key: u32, _: MemberId, topic: &str) -> bool {
        self.got.entry(key).or_default().extend_from_slice(format!("<{topic}:stale>").as_bytes());
        true
    }
    fn send_latest(&mut self, key: u32, _: &str, latest: &Keyed, after: u64) -> Option<(u64, u32)> {
        let got = self.got.entry(key).or_default();
        let (mut reached, mut count) = (after, 0);
        // Two at a time, so that there is a rest.
        for (offset, publication) in latest.after(after).take(2) {
            let said = format!("[{} +{}]", publication.key, offset - reached - 1);
            got.extend_from_slice(said.as_bytes());
            got.extend_from_slice(publication.payload);
            (reached, count) = (offset, count + 1);
        }
        Some((reached, count))
    }
    fn fell_behind(&mut self, key: u32, _: MemberId, _: u64, _: GapReason) {
        self.fell.push(key);
    }
    fn moved(&mut self, key: u32, from: MemberId, to: MemberId) {
        self.moved.push((key, from, to));
    }
    fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }
}

/// Its frame in a compressed format is its last byte behind the window's bits.
struct Message<'a> {
    plain: &'a [u8],
    header: [u8; 1],
    asked: Vec<Format>,
    /// In front of its bytes in a format with deltas: the previous message, or that there is none.
    delta: Vec<u8>,
}

impl Encode for Message<'_> {
    fn frame(&mut self, _: &str, format: Format, previous: Option<Publication<'_>>) -> Parts<'_> {
        self.asked.push(format);
        if format.dialect.deltas() != Deltas::Off {
            self.delta = previous.map_or(b"!".to_vec(), |previous| [b"<", previous.payload, b">"].concat());
            return [&self.delta, self.plain, b"", b""];
        }
        match format.window_bits {
            None => [self.plain, b"", b"", b""],
            Some(window_bits) => {
                self.header = [window_bits];
                [&self.header, &self.plain[self.plain.len() - 1..], b"", b""]
            }
        }
    }
}

const LAG: Nanos = 1_000;
const PLAIN: Format = Format { dialect: Encoding::Raw, window_bits: None };
const SMALL: Format = Format { dialect: Encoding::Raw, window_bits: Some(9) };
const LARGE: Format = Format { dialect: Encoding::Raw, window_bits: Some(15) };
/// Of those who can be told.
const TOLD: Format = Format { dialect: Encoding::Adapter(0), window_bits: None };

fn settings(slow: SlowConsumerPolicy) -> TopicSettings {
    let history = HistoryBounds { messages: 4, bytes: 1_000, age: 500 };
    TopicSettings { slow, lag_bytes: 100, lag: LAG, history, ..TopicSettings::default() }
}

fn owned(rules: &Rules) -> OwnedTopics {
    OwnedTopics::new(rules.clone(), Lease::new(Budget::new(2), 1), 7)
}

/// The topics of a shard, one of which is `id`, and their subscribers.
struct World {
    topics: Topics<u32>,
    owned: OwnedTopics,
    peers: Peers,
    id: TopicId,
    offset: u64,
}

impl World {
    fn new() -> World {
        World::with(Pool::standalone(), settings(SlowConsumerPolicy::Disconnect))
    }

    fn slow(slow: SlowConsumerPolicy) -> World {
        World::with(Pool::standalone(), settings(slow))
    }

    fn with(mut pool: Pool, settings: TopicSettings) -> World {
        let rules = Rules::new(Vec::new(), settings);
        let owned = owned(&rules);
        let mut topics = Topics::new(rules);
        let id = topics.create("t", 0, &mut pool);
        let peers = Peers {
            got: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            fresh: Vec::new(),
            short: BTreeMap::new(),
            stuck: Vec::new(),
            refusing: Vec::new(),
            refusals: 0,
            fell: Vec::new(),
            moved: Vec::new(),
            pool,
        };
        World { topics, owned, peers, id, offset: 0 }
    }

    /// Subscribes `key`, which does not hear what has the origin `key`.
    fn subscribe(&mut self, key: u32, format: Format) -> MemberId {
        self.topics.subscribe(self.id, key, format, key.into()).expect("the topic is there")
    }

    fn unsubscribe(&mut self, member: MemberId) {
        self.topics.unsubscribe(member, &mut self.peers.pool);
    }

    /// Returns the formats that were encoded.
    fn append(&mut self, origin: Origin, own: Option<MemberId>, frame: &[u8]) -> Vec<Format> {
        self.append_keyed(origin, own, "", frame)
    }

    fn append_keyed(
        &mut self,
        origin: Origin,
        own: Option<MemberId>,
        key: &str,
        frame: &[u8],
    ) -> Vec<Format> {
        let mut message = Message { plain: frame, header: [0], asked: Vec::new(), delta: Vec::new() };
        self.offset += 1;
        let publication = Publication { content: Content::Text, key, payload: frame };
        let World { topics, owned, peers, id, offset } = self;
        let accepted = AcceptedMessage {
            publication: &publication,
            offset: *offset,
            origin,
            publisher: own,
            received_at: 0,
        };
        let memory = &mut LogMemory { pool: &mut peers.pool, owned };
        topics.append(*id, memory, &accepted, &mut message);
        self.check();
        message.asked
    }

    fn deliver(&mut self, now: Nanos) {
        self.topics.deliver(now, &mut self.peers);
        self.blocked(now);
        self.check();
    }

    /// What the shard does about sends that were short: takes back whole frames.
    fn blocked(&mut self, now: Nanos) {
        for key in std::mem::take(&mut self.peers.fresh) {
            let Some(unfinished) = self.peers.unfinished.get_mut(&key) else { continue };
            while let Some((tag, bytes)) = unfinished.pop() {
                let (back, _) = self.topics.take_back(tag, key, bytes.len(), unfinished.is_empty(), now);
                if back < bytes.len() {
                    unfinished.push((tag, bytes[..bytes.len() - back].to_vec()));
                    break;
                }
                assert!(!unfinished.is_empty(), "something stays");
            }
        }
    }

    /// The kernel takes the rest of what was sent to `key`.
    fn finish(&mut self, key: u32, member: MemberId, now: Nanos) {
        for (_, bytes) in self.peers.unfinished.remove(&key).unwrap_or_default() {
            self.peers.got.entry(key).or_default().extend_from_slice(&bytes);
        }
        self.catch_up(member, now);
    }

    fn catch_up(&mut self, member: MemberId, now: Nanos) {
        self.topics.catch_up(member, now, &mut self.peers);
        self.blocked(now);
        self.check();
    }

    fn check(&self) {
        let deliveries = self.topics.deliveries();
        assert!(deliveries.add_up(), "{deliveries:?}");
        if let Some(report) = self.topics.report(self.id) {
            assert!(report.deliveries.add_up(), "{report:?}");
        }
    }

    /// Publishes something that nobody here said.
    fn publish(&mut self, frame: &[u8], now: Nanos) -> Vec<Format> {
        let formats = self.append(99, None, frame);
        self.deliver(now);
        formats
    }

    fn publish_keyed(&mut self, key: &str, frame: &[u8], now: Nanos) {
        self.append_keyed(99, None, key, frame);
        self.deliver(now);
    }

    fn got(&self, key: u32) -> &[u8] {
        self.peers.got.get(&key).map_or(b"", Vec::as_slice)
    }

    fn unsent(&self, key: u32) -> Vec<u8> {
        self.peers.unfinished[&key].iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    fn told(&self, key: u32) -> String {
        String::from_utf8_lossy(self.got(key)).into_owned()
    }
}

#[test]
fn everyone_gets_what_was_published_after_subscribing_but_not_their_own() {
    let mut world = World::new();
    let one = world.subscribe(1, PLAIN);
    world.append(1, Some(one), b"a");
    world.subscribe(2, PLAIN);
    world.publish(b"b", 1);
    assert_eq!((world.got(1), world.got(2)), (&b"b"[..], &b"b"[..]));
    world.append(1, Some(one), b"c");
    world.deliver(2);
    assert_eq!((world.got(1), world.got(2)), (&b"b"[..], &b"bc"[..]));
    assert!(!world.topics.has_laggards());
    let Deliveries { offered, sent, .. } = world.topics.deliveries();
    assert_eq!((offered, sent), (3, 3));
}

#[test]
fn who_lags_catches_up_and_who_falls_off_the_log_is_dropped() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    world.subscribe(2, PLAIN);
    world.peers.stuck = vec![1];
    (0..5).for_each(|_| drop(world.publish(&[b'x'; 10], 1)));
    assert!(world.topics.has_laggards());
    assert_eq!(world.topics.deliveries().queued, 5);
    world.peers.stuck.clear();
    world.catch_up(member, 2);
    assert_eq!(world.got(1), [b'x'; 50]);
    assert!(!world.topics.has_laggards());
    world.peers.stuck = vec![1];
    (0..20).for_each(|_| drop(world.publish(&[b'y'; 10], 3)));
    assert_eq!((&world.peers.fell, world.topics.subscriptions()), (&vec![1], 1));
    assert_eq!(world.got(2).len(), 250);
    let Deliveries { offered, sent, dropped_disconnect, .. } = world.topics.deliveries();
    assert_eq!((offered, sent, dropped_disconnect), (25 + 5 + 11, 25 + 5, 11));
}

#[test]
fn those_who_keep_up_get_however_much_comes_in_one_turn() {
    let mut world = World::new();
    world.subscribe(1, PLAIN);
    world.subscribe(2, PLAIN);
    world.peers.stuck = vec![2];
    for _ in 0..5_000 {
        world.append(99, None, &[b'x'; 10]);
    }
    world.deliver(1);
    assert_eq!((world.got(1).len(), &world.peers.fell), (50_000, &vec![2]));
    assert!(world.peers.pool.used_bytes() < 3 * LOG_SEGMENT_BYTES as u64, "and then it is gone");
}

#[test]
fn who_refuses_a_message_is_tried_once_and_gets_it_later() {
    let mut world = World::new();
    let members: Vec<MemberId> = (1..=3).map(|key| world.subscribe(key, PLAIN)).collect();
    world.peers.refusing = vec![1, 2];
    world.publish(b"a", 1);
    assert_eq!((world.peers.refusals, world.got(3)), (2, &b"a"[..]));
    world.peers.refusing = vec![2];
    world.publish(b"b", 2);
    assert_eq!((world.got(1), world.got(2), world.got(3)), (&b"ab"[..], &b""[..], &b"ab"[..]));
    world.peers.refusing.clear();
    world.catch_up(members[1], 3);
    assert_eq!((world.got(2), world.topics.has_laggards()), (&b"ab"[..], false));
}

#[test]
fn who_lags_too_long_is_dropped_without_further_messages() {
    let mut world = World::new();
    world.subscribe(1, PLAIN);
    world.peers.stuck = vec![1];
    world.publish(b"x", 5);
    world.topics.drop_laggards(1_005, &mut world.peers);
    assert!(world.peers.fell.is_empty());
    world.topics.drop_laggards(1_006, &mut world.peers);
    assert_eq!(world.peers.fell, [1]);
    assert_eq!((world.topics.subscriptions(), world.topics.has_laggards()), (0, false));
}

#[test]
fn the_age_of_a_lag_is_that_of_the_oldest_message_that_is_lacking() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    // It never has everything, and is never far behind.
    for now in 1..50 {
        world.peers.stuck = vec![1];
        world.publish(b"x", now * 100);
        world.topics.drop_laggards(now * 100, &mut world.peers);
        world.peers.stuck.clear();
        world.catch_up(member, now * 100 + 50);
        world.peers.stuck = vec![1];
        world.publish(b"y", now * 100 + 60);
    }
    assert!(world.peers.fell.is_empty());
}

#[test]
fn of_a_short_send_the_whole_frames_are_taken_back() {
    for (taken, stays) in [(0, "aa"), (1, "a"), (2, "bb"), (3, "b"), (4, "cc"), (5, "c")] {
        let mut world = World::new();
        let member = world.subscribe(1, PLAIN);
        world.peers.short.insert(1, taken);
        for frame in [b"aa", b"bb", b"cc"] {
            world.append(99, None, frame);
        }
        world.deliver(1);
        assert_eq!(world.unsent(1), stays.as_bytes(), "{taken} bytes were taken");
        let Deliveries { sent, queued, .. } = world.topics.deliveries();
        let whole = taken as u64 / 2;
        assert_eq!((sent, queued), (whole, 3 - whole), "what is under way is not sent");
        world.publish(b"dd", 2);
        world.finish(1, member, 3);
        assert_eq!(world.got(1), b"aabbccdd");
        assert_eq!((world.topics.deliveries().sent, world.topics.has_laggards()), (4, false));
    }
}

/// What it lacks has left the log between the send and the report that the send was short.
#[test]
fn nothing_is_lost_silently_when_a_send_was_short_and_the_log_has_moved_on() {
    for format in [TOLD, Format { dialect: Encoding::RawWithGaps, window_bits: None }] {
        let mut world = World::slow(SlowConsumerPolicy::DropOldest);
        let member = world.subscribe(1, format);
        world.peers.short.insert(1, 10);
        world.append(99, None, &[b'a'; 50]);
        world.topics.deliver(1, &mut world.peers);
        world.peers.stuck.push(1);
        for frame in [[b'b'; 200], [b'c'; 200]] {
            world.append(99, None, &frame);
            world.topics.deliver(2, &mut world.peers);
        }
        world.blocked(3);
        world.check();
        world.peers.stuck.clear();
        world.finish(1, member, 4);
        let got = String::from_utf8_lossy(world.got(1)).into_owned();
        let (a, c) = ("a".repeat(50), "c".repeat(200));
        assert!(got.starts_with(&a) && got.ends_with(&c) && got[50..].contains(":2-2 Slow"), "{got}");
        let Deliveries { sent, dropped_oldest, .. } = world.topics.deliveries();
        assert_eq!((sent, dropped_oldest), (2, 1));
    }
}

#[test]
fn own_messages_between_do_not_confuse_what_is_taken_back() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    world.peers.stuck = vec![1];
    for (own, frame) in [(false, b"aa"), (true, b"--"), (false, b"bb"), (true, b"--"), (false, b"cc")] {
        let (origin, own) = if own { (1, Some(member)) } else { (99, None) };
        world.append(origin, own, frame);
    }
    world.deliver(1);
    assert_eq!(world.topics.deliveries().queued, 3);
    world.peers.stuck.clear();
    // The first of three stretches is short, and the second and third are not taken while it is.
    world.peers.short.insert(1, 1);
    world.catch_up(member, 2);
    assert_eq!(world.unsent(1), b"a");
    world.finish(1, member, 3);
    assert_eq!((world.got(1), world.topics.deliveries().sent), (&b"aabbcc"[..], 3));
}

#[test]
fn who_is_gone_with_an_unfinished_send_has_not_got_it() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    world.peers.short.insert(1, 3);
    world.append(99, None, b"aa");
    world.append(99, None, b"bb");
    world.deliver(1);
    world.unsubscribe(member);
    let Deliveries { offered, sent, dropped_disconnect, queued, .. } = world.topics.deliveries();
    assert_eq!((offered, sent, dropped_disconnect, queued), (2, 1, 1, 0));
}

#[test]
fn who_can_be_told_misses_the_oldest_and_hears_which() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    let one = world.subscribe(1, TOLD);
    world.subscribe(2, TOLD);
    world.subscribe(3, PLAIN);
    world.peers.stuck = vec![1, 3];
    for at in 0..20 {
        world.publish(format!("{at:010}").as_bytes(), 1);
    }
    assert_eq!(world.peers.fell, [3], "a raw route has no words for it");
    let Deliveries { queued, dropped_oldest, .. } = world.topics.deliveries();
    assert_eq!((queued, dropped_oldest), (10, 10), "known before it reads on");
    world.peers.stuck.clear();
    world.catch_up(one, 2);
    let kept: String = (10..20).fold(String::new(), |mut all, at| {
        let _ = write!(all, "{at:010}");
        all
    });
    assert_eq!(world.told(1), format!("<t:1-10 SlowConsumerPolicy>{kept}"));
    assert_eq!(world.got(2).len(), 200);
    assert_eq!(world.topics.deliveries().dropped_oldest, 10);
    world.publish(b"next", 3);
    assert!(world.told(1).ends_with("next"), "{}", world.told(1));
}

#[test]
fn what_is_too_old_is_not_sent_to_who_can_be_told() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    let one = world.subscribe(1, TOLD);
    world.peers.stuck = vec![1];
    world.publish(b"old", 10);
    world.publish(b"new", 800);
    world.peers.stuck.clear();
    world.catch_up(one, 1_011);
    assert_eq!(world.told(1), "<t:1-1 SlowConsumerPolicy>new");
}

#[test]
fn who_lags_behind_keys_gets_the_latest_of_each() {
    let mut world = World::slow(SlowConsumerPolicy::Conflate);
    let one = world.subscribe(1, TOLD);
    world.peers.stuck = vec![1];
    for at in 0..30 {
        let key = ["a", "b", "c"][at % 3];
        world.publish_keyed(key, format!("{key}{at:09}").as_bytes(), 1);
    }
    world.peers.stuck.clear();
    world.catch_up(one, 2);
    // Two of them in the first go, and the third is in the log.
    assert_eq!(world.told(1), "[a +27]a000000027[b +0]b000000028c000000029");
    assert_eq!(world.topics.deliveries().dropped_conflated, 27);
    assert!(!world.topics.has_laggards());
}

#[test]
fn many_keys_come_in_several_goes() {
    let mut world = World::slow(SlowConsumerPolicy::Conflate);
    let one = world.subscribe(1, TOLD);
    world.peers.stuck = vec![1];
    for at in 1..=40 {
        world.publish_keyed(&format!("k{}", at % 20), &[b'.'; 10], 1);
    }
    world.peers.stuck.clear();
    for _ in 0..12 {
        world.catch_up(one, 2);
    }
    let told = world.told(1);
    assert!(told.starts_with("[k1 +20].........."), "{told}");
    assert_eq!(world.topics.deliveries().sent, 20);
    assert_eq!(world.topics.deliveries().dropped_conflated, 20);
    assert!(!world.topics.has_laggards());
}

#[test]
fn notices_go_to_those_who_can_be_told_and_count_as_nothing() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    world.subscribe(1, TOLD);
    world.subscribe(2, PLAIN);
    world.publish(b"a", 1);
    let mut notice = Message { plain: b"!", header: [0], asked: Vec::new(), delta: Vec::new() };
    let World { topics, owned, peers, id, .. } = &mut world;
    topics.append_notice(*id, &mut LogMemory { pool: &mut peers.pool, owned }, &mut notice);
    world.publish(b"b", 2);
    assert_eq!((world.got(1), world.got(2)), (&b"a!b"[..], &b"ab"[..]));
    assert_eq!((world.topics.deliveries().offered, world.topics.deliveries().sent), (4, 4));
}

/// Of those who recover by themselves.
const RESUMING: Format = Format {
    dialect: Encoding::Resuming { codec: 0, presence: true, deltas: Deltas::Off },
    window_bits: None,
};

#[test]
fn who_recovers_is_dropped_where_others_are_told_of_a_gap() {
    for slow in [SlowConsumerPolicy::DropOldest, SlowConsumerPolicy::Conflate] {
        let mut world = World::slow(slow);
        let member = world.subscribe(1, RESUMING);
        world.subscribe(2, RESUMING);
        world.publish_keyed("k", b"a", 1);
        world.peers.stuck = vec![1];
        (0..20).for_each(|_| world.publish_keyed("k", &[b'x'; 10], 1));
        assert_eq!((world.told(1), &world.peers.fell), ("a".to_owned(), &vec![1]), "{slow:?}");
        assert_eq!((world.got(2).len(), world.topics.subscriptions()), (201, 1));
        assert_eq!(world.topics.reached(member), None);
    }
}

#[test]
fn who_recovers_gets_presence_events_and_no_others() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    world.subscribe(1, RESUMING);
    let deaf = Encoding::Resuming { codec: 0, presence: false, deltas: Deltas::Off };
    world.subscribe(2, Format { dialect: deaf, window_bits: None });
    let mut notice = Message { plain: b"!", header: [0], asked: Vec::new(), delta: Vec::new() };
    let World { topics, owned, peers, id, .. } = &mut world;
    topics.append_notice(*id, &mut LogMemory { pool: &mut peers.pool, owned }, &mut notice);
    topics.append_presence(*id, &mut LogMemory { pool: &mut peers.pool, owned }, &mut notice);
    world.deliver(1);
    assert_eq!((world.told(1), world.told(2)), ("!".to_owned(), String::new()));
    let mut silent = Vec::new();
    world.topics.silent(Nanos::MAX / 2, &mut silent);
    assert!(silent.is_empty(), "nobody waits for a heartbeat");
}

/// Of those who negotiated deltas.
const DELTAS: Format = Format {
    dialect: Encoding::Resuming { codec: 0, presence: true, deltas: Deltas::Beginning },
    window_bits: None,
};

#[test]
fn deltas_are_from_the_message_that_a_subscriber_was_sent_before() {
    let mut world = World::new();
    world.publish(b"a", 1);
    world.subscribe(1, DELTAS);
    let formats = [world.publish(b"b", 2), world.publish(b"c", 3)];
    world.subscribe(2, DELTAS);
    let both = world.publish(b"d", 4);
    let alone = world.publish(b"e", 5);
    assert_eq!((world.told(1), world.told(2)), ("!b<b>c<c>d<d>e".to_owned(), "!d<d>e".to_owned()));
    let following = Format {
        dialect: Encoding::Resuming { codec: 0, presence: true, deltas: Deltas::Following },
        ..DELTAS
    };
    assert_eq!(formats, [vec![DELTAS], vec![following]]);
    assert_eq!((both, alone), (vec![following, DELTAS], vec![following]), "once for each format");
    assert_eq!((world.topics.subscriptions(), world.topics.deliveries().sent), (2, 6));
    let members: Vec<MemberId> =
        world.topics.subscribers(world.id).iter().map(|(_, member)| *member).collect();
    assert_eq!(world.peers.moved.iter().map(|(_, _, to)| *to).collect::<Vec<_>>(), members);
    members.into_iter().for_each(|member| world.unsubscribe(member));
    assert_eq!(world.peers.pool.used_bytes(), 0, "the previous message is not kept for nobody");
}

#[test]
fn who_missed_a_message_gets_the_next_one_whole() {
    let mut world = World::new();
    world.subscribe(1, DELTAS);
    world.subscribe(2, DELTAS);
    // It is not sent the first message before the third one is published.
    world.peers.stuck = vec![2];
    world.publish(b"a", 1);
    world.publish(b"b", 2);
    world.peers.stuck.clear();
    world.publish(b"c", 3);
    world.publish(b"d", 4);
    assert_eq!((world.told(1), world.told(2)), ("!a<a>b<b>c<c>d".to_owned(), "!a!b!c<c>d".to_owned()));
    // Too far behind, it is removed, and begins again.
    world.peers.stuck = vec![2];
    (0..5).for_each(|_| _ = world.publish(&[b'x'; 30], 5));
    assert_eq!(world.peers.fell, [2]);
    world.peers.stuck.clear();
    world.subscribe(2, DELTAS);
    world.publish(b"y", 6);
    assert!(world.told(2).ends_with("<c>d!y"), "{}", world.told(2));
}

proptest! {
    /// Whatever is published, and whoever subscribes, cannot be sent anything, or takes only a part.
    #[test]
    fn every_delta_fits(steps in prop::collection::vec((0..8u8, 1..4u32), 1..60)) {
        let mut world = World::new();
        for (number, (step, key)) in (1..).zip(steps) {
            let member_of = |world: &World| {
                let subscribers = world.topics.subscribers(world.id);
                subscribers.iter().find(|(known, _)| *known == key).map(|(_, member)| *member)
            };
            match (step, member_of(&world)) {
                (0, None) => _ = world.subscribe(key, DELTAS),
                (1, _) => world.peers.stuck = vec![key],
                (2, _) => world.peers.stuck.clear(),
                (3, _) => _ = world.peers.short.insert(key, 2),
                (4, Some(member)) => world.finish(key, member, number),
                _ => _ = world.publish(&[b'A' + (number % 26) as u8; 20], number),
            }
        }
        for key in 1..4 {
            // What it has not got yet is the rest of a frame.
            let told = world.told(key);
            let (mut previous, mut rest) = (None, told.as_str());
            while rest.len() >= 42 || rest.starts_with('!') && rest.len() >= 21 {
                let message;
                if rest.starts_with('!') {
                    (message, rest) = rest[1..].split_at(20);
                } else {
                    prop_assert_eq!(Some(&rest[1..21]), previous, "{}", told);
                    (message, rest) = rest[22..].split_at(20);
                }
                previous = Some(message);
            }
        }
    }
}

#[test]
fn silence_is_noticed_once_per_interval() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    let mut silent = Vec::new();
    let heartbeat = TopicSettings::default().heartbeat;
    world.topics.silent(2 * heartbeat, &mut silent);
    assert!(silent.is_empty(), "nobody is there");
    world.subscribe(1, TOLD);
    world.publish(b"a", 2 * heartbeat);
    world.topics.silent(3 * heartbeat - 1, &mut silent);
    assert!(silent.is_empty());
    world.topics.silent(3 * heartbeat, &mut silent);
    world.topics.silent(3 * heartbeat, &mut silent);
    assert_eq!(silent, [world.id]);
}

#[test]
fn messages_wait_for_others_only_while_there_are_many() {
    let coalesced = TopicSettings { coalesce: 80, ..settings(SlowConsumerPolicy::Disconnect) };
    let mut world = World::with(Pool::standalone(), coalesced);
    world.subscribe(1, PLAIN);
    world.publish(b"a", 1_000);
    assert_eq!((world.got(1), world.topics.due_at()), (&b"a"[..], None), "a quiet topic does not wait");
    world.append(99, None, b"b");
    world.append(99, None, b"c");
    world.deliver(2_000);
    assert_eq!((world.got(1), world.topics.due_at()), (&b"a"[..], Some(2_010)));
    world.append(99, None, b"d");
    world.append(99, None, b"e");
    world.deliver(2_005);
    world.deliver(2_010);
    assert_eq!((world.got(1), world.topics.due_at()), (&b"abcde"[..], None));
    for tick in 0..20 {
        world.append(99, None, b"x");
        world.append(99, None, b"y");
        world.deliver(3_000 + tick * 100);
        assert!(world.topics.due_at().is_some_and(|due| due <= 3_000 + tick * 100 + 80));
        world.deliver(3_000 + tick * 100 + 80);
    }
    // One at a time, it shrinks to nothing.
    for tick in 0..4 {
        world.publish(b"z", 9_000 + tick * 100);
        world.deliver(9_000 + tick * 100 + 80);
    }
    world.publish(b"!", 9_900);
    assert!(world.got(1).ends_with(b"!"));
}

#[test]
fn a_message_is_encoded_once_for_each_format_and_everyone_gets_it_in_its_own() {
    let mut world = World::new();
    let formats = [PLAIN, SMALL, LARGE, SMALL, PLAIN, LARGE];
    let members: Vec<MemberId> =
        (1..).zip(formats).map(|(key, format)| world.subscribe(key, format)).collect();
    assert_eq!(world.publish(b"-a", 1), [PLAIN, SMALL, LARGE]);
    // Of the small window, its own publisher does not hear it.
    assert_eq!(world.append(4, Some(members[3]), b"-b"), [PLAIN, SMALL, LARGE]);
    world.deliver(2);
    world.publish(b"-c", 3);
    for (key, format) in (1..).zip(formats) {
        let expected: &[u8] = match format.window_bits {
            _ if key == 4 => b"\x09a\x09c",
            None => b"-a-b-c",
            Some(9) => b"\x09a\x09b\x09c",
            Some(_) => b"\x0fa\x0fb\x0fc",
        };
        assert_eq!(world.got(key), expected, "{format:?}");
    }
}

#[test]
fn a_format_lives_from_its_first_subscriber_to_its_last() {
    let mut world = World::new();
    let plain = world.subscribe(1, PLAIN);
    assert_eq!(world.publish(b"-a", 1), [PLAIN]);
    let plain_bytes = world.peers.pool.used_bytes();
    let (two, three) = (world.subscribe(2, LARGE), world.subscribe(3, LARGE));
    assert_eq!(world.publish(b"-b", 2), [PLAIN, LARGE]);
    assert!(world.peers.pool.used_bytes() > plain_bytes);
    world.unsubscribe(two);
    assert_eq!(world.publish(b"-c", 3), [PLAIN, LARGE]);
    world.unsubscribe(three);
    assert_eq!(world.peers.pool.used_bytes(), plain_bytes, "the log went with its last reader");
    assert_eq!(world.publish(b"-d", 4), [PLAIN]);
    world.subscribe(4, LARGE);
    world.unsubscribe(plain);
    assert_eq!(world.publish(b"-e", 5), [LARGE]);
    assert_eq!([1, 2, 3, 4].map(|key| world.got(key)), [&b"-a-b-c-d"[..], b"\x0fb", b"\x0fb\x0fc", b"\x0fe"]);
    assert!(!world.topics.is_deserted(world.id));
    world.topics.remove(world.id, 0, &mut world.peers.pool);
    world.topics.expire(REMEMBERED_AGE, &mut world.peers.pool);
    assert_eq!((world.topics.subscriptions(), world.peers.pool.used_bytes()), (0, 0));
}

#[test]
fn a_slow_subscriber_of_one_format_costs_those_of_others_nothing() {
    let mut world = World::new();
    world.subscribe(1, PLAIN);
    world.subscribe(2, SMALL);
    world.subscribe(3, LARGE);
    world.peers.stuck = vec![1];
    // The plain log passes its bound with the eleventh; those of two bytes a message are far from theirs.
    for sent in 1..=30_usize {
        world.publish(&[b'x'; 10], 1);
        assert_eq!((world.got(2).len(), world.got(3).len()), (2 * sent, 2 * sent));
        assert_eq!(world.peers.fell.is_empty(), sent <= 10);
    }
    assert_eq!((&world.peers.fell, world.topics.subscriptions()), (&vec![1], 2));
    assert!(!world.topics.has_laggards());
    assert_eq!(world.publish(b"-y", 2), [SMALL, LARGE], "nobody reads plain any more");
}

#[test]
fn without_memory_the_log_that_is_longest_gives_way_and_then_the_message() {
    // The frame of this size needs more than a segment plain, and nearly nothing compressed.
    let large = vec![b'x'; 4 * LOG_SEGMENT_BYTES];
    let pool = Pool::new(Budget::new(3 * LOG_SEGMENT_BYTES as u64));
    let mut world = World::with(pool, settings(SlowConsumerPolicy::DropOldest));
    world.subscribe(1, PLAIN);
    let two = world.subscribe(2, TOLD);
    world.subscribe(3, SMALL);
    world.publish(b"-a", 1);
    world.append(99, None, &large);
    world.deliver(2);
    assert_eq!(world.peers.fell, [1]);
    assert_eq!((world.got(1), world.got(3)), (&b"-a"[..], &b"\x09a\x09x"[..]));
    world.publish(b"-b", 3);
    world.catch_up(two, 4);
    assert_eq!(world.told(2), "-a<t:2-2 Memory>-b");
    assert_eq!(world.topics.deliveries().dropped_memory, 2);
    // Who comes now has missed nothing, and there is room.
    world.subscribe(4, PLAIN);
    world.publish(b"-c", 5);
    assert_eq!((world.got(4), world.got(3)), (&b"-c"[..], &b"\x09a\x09x\x09b\x09c"[..]));
}

#[test]
fn the_history_of_others_gives_way_before_a_subscriber_misses_anything() {
    let rules = Rules::new(
        Vec::new(),
        TopicSettings {
            lag_bytes: 1 << 20,
            history: HistoryBounds { messages: 1_000, bytes: 1 << 20, age: 500 },
            ..TopicSettings::default()
        },
    );
    let pool = Pool::new(Budget::new(8 * LOG_SEGMENT_BYTES as u64));
    let mut world = World::with(pool, *rules.of(""));
    world.owned = owned(&rules);
    let home = world.owned.find_or_create("other", Creator::NOBODY, 0, &mut world.peers.pool).unwrap();
    let publication = Publication { content: Content::Binary, key: "", payload: &[0; 1_000] };
    for _ in 0..100 {
        world.owned.publish(home, &publication, true, 1, &mut world.peers.pool).unwrap();
    }
    world.subscribe(1, PLAIN);
    world.peers.stuck = vec![1];
    for _ in 0..50 {
        world.publish(&[b'x'; 1_000], 1);
    }
    assert_eq!(world.topics.deliveries().queued, 50, "nothing was lost");
}

// ---- owned ----

const LOCAL: TopicId = TopicId { index: 3, generation: 0 };

fn a_home(slow: SlowConsumerPolicy) -> (OwnedTopics, Pool) {
    (owned(&Rules::new(Vec::new(), settings(slow))), Pool::standalone())
}

fn said(payload: &[u8]) -> Publication<'_> {
    Publication { content: Content::Json, key: "", payload }
}

#[test]
fn offsets_count_up_and_survive_a_shard_that_comes_and_goes() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::Disconnect);
    let Subscribed { id: home, position, .. } =
        owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert_eq!(position.offset, 0);
    let (first, shards) = owned.publish(home, &said(b"1"), true, 0, &mut pool).unwrap();
    assert_eq!((first, shards), (Position { offset: 1, ..position }, &[(0, LOCAL)][..]));
    assert_eq!(owned.subscribe("t", Creator::NOBODY, 1, LOCAL, &mut pool).unwrap().position, first);
    owned.unsubscribe(home, 1, LOCAL, 0, &mut pool);
    assert_eq!(owned.publish(home, &said(b"2"), true, 0, &mut pool).unwrap().1, [(0, LOCAL)]);
}

#[test]
fn a_late_unsubscribe_does_not_end_a_newer_subscription() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::Disconnect);
    let home = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap().id;
    let newer = TopicId { generation: 1, ..LOCAL };
    owned.subscribe("t", Creator::NOBODY, 0, newer, &mut pool).unwrap();
    owned.unsubscribe(home, 0, LOCAL, 0, &mut pool);
    assert_eq!(owned.publish(home, &said(b""), true, 0, &mut pool).unwrap().1, [(0, newer)]);
}

#[test]
fn a_topic_is_forgotten_with_its_history_and_keeps_its_epoch_for_a_while() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::Disconnect);
    let first = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    owned.publish(first.id, &said(b"1"), true, 100, &mut pool).unwrap();
    owned.unsubscribe(first.id, 0, LOCAL, 200, &mut pool);
    owned.expire(650, &mut pool);
    let back = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert_eq!(back.position, Position { offset: 1, ..first.position }, "somebody came back in time");
    owned.unsubscribe(back.id, 0, LOCAL, 700, &mut pool);
    owned.expire(1_200, &mut pool);
    assert!(owned.is_empty());
    assert!(owned.publish(first.id, &said(b""), true, 0, &mut pool).is_err(), "its id is stale");
    let again = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert_eq!(again.position, back.position, "it goes on from there");
    assert_eq!(owned.report("t", 0).unwrap().publications.accepted, 1, "and so do its figures");
    let mut page = Vec::new();
    let told = owned.history(again.id, Replay::After(0), 1_000, 0, &mut pool, &mut page).unwrap();
    assert_eq!((told.first, told.messages), (2, 0), "its history is lost");
    owned.unsubscribe(again.id, 0, LOCAL, 1_300, &mut pool);
    owned.expire(1_300 + REMEMBERED_AGE, &mut pool);
    assert_eq!(pool.used_bytes(), 0);
    assert!(!owned.has_idle());
    let later = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert_eq!(later.position.offset, 0);
    assert_ne!(later.position.epoch, first.position.epoch);
}

/// On a shard that comes and goes: what was offered there before counts as long as the topic is there.
#[test]
fn a_topics_figures_do_not_fall_when_its_last_subscriber_leaves() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    for _ in 0..3 {
        world.append(0, None, b"x");
    }
    world.deliver(0);
    world.unsubscribe(member);
    let World { topics, peers, id, .. } = &mut world;
    let before = topics.report(*id).expect("there").deliveries;
    assert_eq!(before.offered, 3);
    topics.remove(*id, 0, &mut peers.pool);
    assert_eq!(topics.left("t").expect("there were subscribers").deliveries, before);
    assert_eq!(topics.all_left().count(), 1);
    let again = topics.create("t", 1, &mut peers.pool);
    assert!(topics.left("t").is_none(), "counted once");
    assert_eq!(topics.report(again).expect("there").deliveries, before);
}

/// What a laggard had lost already is not counted anew as what its end lost.
#[test]
fn what_was_dropped_stays_counted_for_its_reason_when_a_laggard_leaves() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    world.peers.stuck.push(1);
    let member = world.subscribe(1, TOLD);
    for _ in 0..40 {
        world.append(0, None, &[b'x'; 30]);
        world.deliver(0);
    }
    let before = world.topics.deliveries();
    assert!(before.dropped_oldest > 0 && before.queued > 0, "{before:?}");
    world.unsubscribe(member);
    let after = world.topics.deliveries();
    assert_eq!(after.dropped_oldest, before.dropped_oldest);
    assert_eq!(after.dropped_disconnect, before.queued);
}

/// Its new subscription may have the place of the one before.
#[test]
fn what_a_subscription_sent_is_not_taken_back_by_the_next_of_its_connection() {
    let mut world = World::new();
    let member = world.subscribe(1, TOLD);
    world.subscribe(2, TOLD);
    for _ in 0..3 {
        world.append(0, None, b"0123456789");
    }
    world.deliver(0);
    world.unsubscribe(member);
    let again = world.subscribe(1, TOLD);
    assert_eq!(again, member);
    let back = world.topics.take_back(again.tag(), 1, 25, false, 0);
    assert_eq!(back, (0, 0), "that was before it");
}

#[test]
fn topics_that_nobody_reads_make_room_and_others_do_not() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::Disconnect);
    let idle = owned.find_or_create("idle", Creator::NOBODY, 0, &mut pool).unwrap();
    owned.publish(idle, &said(b"1"), true, 0, &mut pool).unwrap();
    owned.subscribe("read", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    owned.subscribe("also", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert!(owned.report("idle", 0).is_none());
    assert_eq!(owned.subscribe("more", Creator::NOBODY, 0, LOCAL, &mut pool), Err(Refused::TooManyTopics));
    assert_eq!(owned.find_or_create("more", Creator::NOBODY, 0, &mut pool), Err(Refused::TooManyTopics));
}

fn recalled(
    owned: &mut OwnedTopics,
    pool: &mut Pool,
    after: u64,
    bytes_max: usize,
    now: Nanos,
) -> (Page, String) {
    let id = owned.find_or_create("t", Creator::NOBODY, 0, pool).unwrap();
    let mut page = Vec::new();
    let told = owned.history(id, Replay::After(after), bytes_max, now, pool, &mut page).unwrap();
    let all: Vec<u8> = entries(&page).flat_map(|(_, publication)| publication.payload.to_vec()).collect();
    assert_eq!(entries(&page).count(), told.messages as usize);
    (told, String::from_utf8(all).unwrap())
}

#[test]
fn history_is_bounded_by_count_bytes_and_age_and_says_where_it_begins() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::Disconnect);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    for (at, payload) in (1..).zip([b"a", b"b", b"c", b"d", b"e", b"f"]) {
        owned.publish(id, &said(payload), true, at * 10, &mut pool).unwrap();
    }
    let mut recall = |after, bytes_max, now| {
        let (page, all) = recalled(&mut owned, &mut pool, after, bytes_max, now);
        (page.first, page.messages, page.complete, all)
    };
    assert_eq!(recall(4, 1_000, 60), (5, 2, true, "ef".to_owned()));
    assert_eq!(recall(0, 1_000, 60), (3, 4, true, "cdef".to_owned()), "four are kept");
    assert_eq!(recall(6, 1_000, 60), (7, 0, true, String::new()));
    assert_eq!(recall(2, 1, 60), (3, 1, false, "c".to_owned()), "at least one goes with each page");
    assert_eq!(recall(3, 1, 60), (4, 1, false, "d".to_owned()));
    assert_eq!(recall(2, 1_000, 551), (6, 1, true, "f".to_owned()), "the others are too old");
    assert_eq!(recall(2, 1_000, 561), (7, 0, true, String::new()));
}

#[test]
fn newcomers_get_the_latest_of_each_key_or_the_last_messages() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::Conflate);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    for (at, key) in (1..).zip(["a", "b", "a", "c", "b", "b", "d", "a", "a"]) {
        let payload = at.to_string();
        let publication = Publication { content: Content::Json, key, payload: payload.as_bytes() };
        owned.publish(id, &publication, true, at, &mut pool).unwrap();
    }
    let mut replay = |from, bytes_max| {
        let mut page = Vec::new();
        let told = owned.history(id, from, bytes_max, 9, &mut pool, &mut page).unwrap();
        let all: Vec<(u64, String)> = entries(&page).map(|(at, message)| (at, message.key.into())).collect();
        assert_eq!((told.head.offset, all.len()), (9, told.messages as usize));
        (told.after, told.conflated, told.complete, all)
    };
    let latest = [(4, "c"), (6, "b"), (7, "d"), (9, "a")].map(|(at, key)| (at, key.to_owned()));
    assert_eq!(replay(Replay::Newcomer, 1_000), (0, true, true, latest.to_vec()));
    assert_eq!(replay(Replay::Newcomer, 1), (0, true, false, latest[..1].to_vec()));
    assert_eq!(replay(Replay::After(4), 1), (4, true, false, latest[1..2].to_vec()));
    assert_eq!(replay(Replay::Latest(5), 1_000), (5, true, true, latest[1..].to_vec()));
    let (after, conflated, complete, all) = replay(Replay::After(5), 1_000);
    assert_eq!((after, conflated, complete, all.len()), (5, false, true, 4), "those are kept one by one");
    assert_eq!(replay(Replay::After(9), 1_000), (9, false, true, Vec::new()));

    let settings = TopicSettings { snapshot: 2, ..settings(SlowConsumerPolicy::Disconnect) };
    let mut owned = OwnedTopics::new(Rules::new(Vec::new(), settings), Lease::new(Budget::new(2), 1), 7);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let newcomer = |owned: &mut OwnedTopics, pool: &mut Pool| {
        let mut page = Vec::new();
        let told = owned.history(id, Replay::Newcomer, 1_000, 9, pool, &mut page).unwrap();
        (told.after, told.first, told.messages)
    };
    assert_eq!(newcomer(&mut owned, &mut pool), (0, 1, 0));
    for offset in 1..=5_u64 {
        owned.publish(id, &said(b"x"), true, 9, &mut pool).unwrap();
        let last = offset.min(2);
        assert_eq!(newcomer(&mut owned, &mut pool), (offset - last, offset - last + 1, last as u32));
    }
}

#[test]
fn a_publication_that_comes_again_has_its_position_and_goes_nowhere() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::Disconnect);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    let mut once = |owned: &mut OwnedTopics, payload: &[u8], key, by_client, now| match owned.publish_once(
        id,
        &said(payload),
        key,
        by_client,
        now,
        &mut pool,
    ) {
        Ok(Accepted::New(position, shards)) => Ok((position.offset, shards.len())),
        Ok(Accepted::Again(position)) => Ok((position.offset, 0)),
        Err(refused) => Err(refused),
    };
    assert_eq!(once(&mut owned, b"a", "1", true, 0), Ok((1, 1)));
    assert_eq!(once(&mut owned, b"b", "2", true, 0), Ok((2, 1)));
    assert_eq!(once(&mut owned, b"a", "1", true, 1), Ok((1, 0)));
    assert_eq!(once(&mut owned, b"x", "1", true, 1), Err(Refused::KeyReused));
    assert_eq!(once(&mut owned, b"x", "1", false, 1), Ok((3, 1)), "a client does not speak for the operator");
    let window = crate::limits::IDEMPOTENCY_WINDOW;
    assert_eq!(once(&mut owned, b"a", "1", true, window - 1), Ok((1, 0)));
    assert_eq!(once(&mut owned, b"a", "1", true, window), Ok((4, 1)), "it is another one then");
    let publications = owned.publications();
    assert!(publications.add_up());
    assert_eq!((publications.accepted, publications.refused), (4, 1));
}

#[test]
fn a_topic_lives_as_long_as_its_publications_may_come_again() {
    let settings = TopicSettings {
        history: HistoryBounds { messages: 0, ..HistoryBounds::default() },
        ..TopicSettings::default()
    };
    let mut owned = OwnedTopics::new(Rules::new(Vec::new(), settings), Lease::new(Budget::new(2), 1), 7);
    let mut pool = Pool::standalone();
    let once = |owned: &mut OwnedTopics, pool: &mut Pool, now| {
        let id = owned.find_or_create("t", Creator::NOBODY, now, pool).unwrap();
        match owned.publish_once(id, &said(b"a"), "k", true, now, pool) {
            Ok(Accepted::New(position, _)) => (position, true),
            Ok(Accepted::Again(position)) => (position, false),
            Err(refused) => panic!("{refused:?}"),
        }
    };
    let (first, true) = once(&mut owned, &mut pool, 1) else { panic!("new") };
    let window = crate::limits::IDEMPOTENCY_WINDOW;
    owned.expire(window, &mut pool);
    assert_eq!(once(&mut owned, &mut pool, window), (first, false));
    assert!(owned.has_idle());
    owned.expire(window + 1, &mut pool);
    assert!(owned.is_empty());
    let (second, true) = once(&mut owned, &mut pool, window + 2) else { panic!("new") };
    assert_eq!(second, Position { offset: 2, ..first }, "where the topic had come to is remembered longer");
    // Refused, it is not remembered.
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::Conflate);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let refused = owned.publish_once(id, &said(b"a"), "k", true, 0, &mut pool).map(|_| ());
    assert_eq!(refused, Err(Refused::NoKey));
    let keyed = Publication { key: "key", ..said(b"a") };
    let accepted = owned.publish_once(id, &keyed, "k", true, 0, &mut pool);
    assert!(matches!(accepted, Ok(Accepted::New(Position { offset: 1, .. }, _))), "{accepted:?}");
}

#[test]
fn members_are_told_page_by_page() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::DropOldest);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    for client in [5, 3, 9, 7, 1] {
        owned.presence(id, ClientId::local(client), Some(if client == 3 { "alice" } else { "" }));
    }
    let left = owned.presence(id, ClientId::local(7), None).map(|(count, subject, _)| (count, subject));
    assert_eq!(left, Some((4, "".into())));
    let told = |owned: &mut OwnedTopics, after: Option<u64>, most| {
        let mut page = Vec::new();
        let after = after.map(ClientId::local);
        let Members { count, next, .. } = owned.members(id, after, most, 1_000, &mut page).unwrap();
        let clients = members(&page).map(|(client, _)| client.number);
        (clients.collect::<Vec<_>>(), count, next.map(|next| next.number))
    };
    assert_eq!(told(&mut owned, None, 3), (vec![1, 3, 5], 4, Some(5)));
    assert_eq!(told(&mut owned, Some(5), 3), (vec![9], 4, None));
    assert_eq!(told(&mut owned, None, 4), (vec![1, 3, 5, 9], 4, None));
    assert_eq!(told(&mut owned, None, 0), (vec![], 4, None));
    assert_eq!(told(&mut owned, Some(9), 3), (vec![], 4, None));
    // 17 bytes each, and the subject.
    for (bytes_max, expected, next) in
        [(0, &[(1, "")][..], Some(1)), (38, &[(1, "")], Some(1)), (39, &[(1, ""), (3, "alice")], Some(3))]
    {
        let mut page = Vec::new();
        let told = owned.members(id, None, 9, bytes_max, &mut page).unwrap();
        let clients: Vec<_> = members(&page).map(|(client, subject)| (client.number, subject)).collect();
        assert_eq!((clients, told.next), (expected.to_vec(), next.map(ClientId::local)), "{bytes_max}");
    }
    let left = owned.presence(id, ClientId::local(3), None).map(|(count, subject, _)| (count, subject));
    assert_eq!(left, Some((3, "alice".into())));
}

#[test]
fn who_misses_who_came_and_went_is_told_so() {
    for slow in [SlowConsumerPolicy::DropOldest, SlowConsumerPolicy::Conflate] {
        let mut world = World::slow(slow);
        let member = world.subscribe(1, TOLD);
        world.peers.stuck.push(1);
        let mut notice = Message { plain: b"(joined)", header: [0], asked: Vec::new(), delta: Vec::new() };
        let World { topics, owned, peers, id, .. } = &mut world;
        topics.append_presence(*id, &mut LogMemory { pool: &mut peers.pool, owned }, &mut notice);
        world.deliver(1);
        for at in 2..40 {
            world.publish_keyed("k", &[b'x'; 50], at);
        }
        world.peers.stuck.clear();
        world.catch_up(member, 40);
        let told = world.told(1);
        assert!(told.starts_with("<t:stale>"), "{slow:?}: {told}");
        assert!(!told.contains("(joined)"), "{slow:?}: {told}");
        // Who keeps up misses nothing.
        let world = &mut World::slow(slow);
        world.subscribe(1, TOLD);
        let mut notice = Message { plain: b"(joined)", header: [0], asked: Vec::new(), delta: Vec::new() };
        let World { topics, owned, peers, id, .. } = world;
        topics.append_presence(*id, &mut LogMemory { pool: &mut peers.pool, owned }, &mut notice);
        world.deliver(1);
        for at in 2..40 {
            world.publish_keyed("k", &[b'x'; 50], at);
        }
        assert!(world.told(1).starts_with("(joined)x") && !world.told(1).contains("stale"), "{slow:?}");
    }
}

/// Whoever publishes under ever new keys takes no more than histories may, and those make room for it.
#[test]
fn the_latest_of_keys_and_idempotency_keys_are_in_the_share_of_histories() {
    let mut pool = Pool::new(Budget::new(echoring_proto::limits::MEMORY_BUDGET_MIN));
    let (mut owned, _) = a_home(SlowConsumerPolicy::Conflate);
    let histories = owned.find_or_create("history", Creator::NOBODY, 0, &mut pool).unwrap();
    let publish = |owned: &mut OwnedTopics, pool: &mut Pool, id, key: &str, idempotency_key: &str| {
        let publication = Publication { content: Content::Json, key, payload: &[b'1'; 10_000] };
        owned.publish_once(id, &publication, idempotency_key, true, 0, pool).map(|_| ())
    };
    for round in 0..100 {
        publish(&mut owned, &mut pool, histories, "one", &format!("r{round}")).unwrap();
    }
    assert_ne!(owned.report("history", 0).unwrap().history_bytes, 0);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let refused =
        (0..).find_map(|key| publish(&mut owned, &mut pool, id, &key.to_string(), &format!("k{key}")).err());
    assert_eq!(refused, Some(Refused::OutOfMemory));
    assert!((7 << 20..=8 << 20).contains(&pool.used_bytes()), "{}", pool.used_bytes());
    assert_eq!(owned.report("history", 0).unwrap().history_bytes, 0, "histories make room");
    // What is known already, and what others need, is not refused.
    assert!(
        owned
            .publish(id, &Publication { content: Content::Json, key: "0", payload: b"2" }, true, 0, &mut pool)
            .is_ok()
    );
    assert!(pool.charge(1 << 20) && !pool.is_short(0));
}

#[test]
fn messages_without_their_key_and_from_those_who_may_not_are_refused_and_counted() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::Conflate);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let refused = owned.publish(id, &said(b"1"), true, 0, &mut pool).map(|_| ());
    assert_eq!(refused, Err(Refused::NoKey));
    fn keyed(key: &str) -> Publication<'_> {
        Publication { content: Content::Json, key, payload: b"1" }
    }
    for key in 0..crate::limits::KEYS_MAX {
        owned.publish(id, &keyed(&key.to_string()), true, 0, &mut pool).unwrap();
    }
    let refused = owned.publish(id, &keyed("one more"), true, 0, &mut pool).map(|_| ());
    assert_eq!(refused, Err(Refused::TooManyKeys));
    owned.publish(id, &keyed("0"), true, 0, &mut pool).unwrap();
    let publications = owned.publications();
    assert!(publications.add_up());
    assert_eq!((publications.accepted, publications.refused), (crate::limits::KEYS_MAX as u64 + 1, 2));

    let access = Access { publish: Permission::Operator, ..Access::default() };
    let closed = TopicSettings { access, ..TopicSettings::default() };
    let mut owned = OwnedTopics::new(Rules::new(Vec::new(), closed), Lease::new(Budget::new(2), 1), 7);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    assert_eq!(owned.publish(id, &said(b"1"), true, 0, &mut pool).map(|_| ()), Err(Refused::Forbidden));
    assert!(owned.publish(id, &said(b"1"), false, 0, &mut pool).is_ok(), "the operator may");
}

#[test]
fn a_name_has_one_home_and_homes_are_spread() {
    let mut counts = [0_u32; 4];
    for index in 0..1_000 {
        counts[Placement::new(7).owner(&format!("topic-{index}"), 4)] += 1;
    }
    assert!(counts.iter().all(|count| (150..350).contains(count)), "{counts:?}");
    assert_eq!(Placement::new(7).owner("a", 1), 0);
}

#[test]
fn names_that_share_a_home_in_one_process_do_not_in_another() {
    let aimed: Vec<String> = (0..10_000)
        .map(|index| format!("topic-{index}"))
        .filter(|name| Placement::new(1).owner(name, 4) == 0)
        .collect();
    for seed in 2..20 {
        let mut counts = [0_usize; 4];
        aimed.iter().for_each(|name| counts[Placement::new(seed).owner(name, 4)] += 1);
        assert!(counts.iter().all(|count| (aimed.len() / 6..aimed.len() / 3).contains(count)), "{counts:?}");
    }
}

/// The same many times over leaves one entry for each topic, and none for one that is forgotten.
#[test]
fn coming_and_going_leaves_nothing_behind() {
    let mut pool = Pool::standalone();
    let rules = Rules::new(Vec::new(), TopicSettings::default());
    let mut owned = OwnedTopics::new(rules, Lease::new(Budget::new(10), 1), 7);
    let local = TopicId { index: 0, generation: 0 };
    for name in ["a", "b"] {
        let id = owned.find_or_create(name, Creator::NOBODY, 0, &mut pool).unwrap();
        owned.publish(id, &said(b"kept"), true, 1, &mut pool).unwrap();
    }
    let used_bytes = pool.used_bytes();
    for tick in 1..1_000 {
        let subscribed = owned.subscribe("a", Creator::NOBODY, 0, local, &mut pool).unwrap();
        assert_eq!(owned.idle_len(), 1);
        owned.unsubscribe(subscribed.id, 0, local, tick, &mut pool);
        assert_eq!((owned.idle_len(), owned.len()), (2, 2));
    }
    assert_eq!(pool.used_bytes(), used_bytes);
    // Whoever was left last is kept longest when others need the room.
    for index in 2..11 {
        owned.find_or_create(&format!("other {index}"), Creator::NOBODY, 2_000, &mut pool).unwrap();
    }
    assert!(owned.report("a", 0).is_some() && owned.report("b", 0).is_none());
    let later = crate::limits::HISTORY_AGE_DEFAULT + 3_000;
    owned.expire(later, &mut pool);
    assert_eq!((owned.idle_len(), owned.len()), (0, 0));
}

// ---- everything at once ----

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Publish { own: Option<usize>, bytes: usize },
    Deliver,
    Stick(usize),
    Loosen(usize),
    Short(usize, usize),
    Finish(usize),
    Wait(Nanos),
    Starve(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..6_usize;
    let step = prop_oneof![
        8 => (prop::option::weighted(0.3, who.clone()), 1..40_usize)
            .prop_map(|(own, bytes)| Step::Publish { own, bytes }),
        5 => Just(Step::Deliver),
        2 => who.clone().prop_map(Step::Stick),
        2 => who.clone().prop_map(Step::Loosen),
        2 => (who.clone(), 0..60_usize).prop_map(|(who, taken)| Step::Short(who, taken)),
        3 => who.prop_map(Step::Finish),
        1 => (1..700_u64).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Starve),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, sums hold after every step, and who can be told gets each message or is told of it, in order.
    #[test]
    fn nothing_is_lost_in_silence(steps in steps(), slow in 0..2_u8) {
        let slow = if slow == 0 { SlowConsumerPolicy::Disconnect } else { SlowConsumerPolicy::DropOldest };
        let mut world = World::with(Pool::new(Budget::new(40_000)), settings(slow));
        let members: Vec<MemberId> = (0..6)
            .map(|key| world.subscribe(key, if key < 3 { TOLD } else { PLAIN }))
            .collect();
        let (mut now, mut hoard, mut said) = (1, 0, Vec::new());
        for step in steps {
            match step {
                Step::Publish { own, bytes } => {
                    // Who fell behind is closed, and those who can be told hear themselves.
                    let own = own.filter(|own| *own >= 3 && !world.peers.fell.contains(&(*own as u32)));
                    let frame = format!("({}{})", world.offset + 1, ".".repeat(bytes));
                    let origin = own.map_or(99, |own| own as u64);
                    world.append(origin, own.map(|own| members[own]), frame.as_bytes());
                    said.push((own, frame));
                }
                Step::Deliver => world.deliver(now),
                Step::Stick(who) => world.peers.stuck.push(who as u32),
                Step::Loosen(who) => {
                    world.peers.stuck.retain(|stuck| *stuck != who as u32);
                    if !world.peers.fell.contains(&(who as u32)) {
                        world.catch_up(members[who], now);
                    }
                }
                Step::Short(who, taken) => drop(world.peers.short.insert(who as u32, taken)),
                Step::Finish(who) => {
                    if !world.peers.fell.contains(&(who as u32)) {
                        world.finish(who as u32, members[who], now);
                    }
                }
                Step::Wait(time) => {
                    now += time;
                    world.topics.drop_laggards(now, &mut world.peers);
                    world.blocked(now);
                }
                Step::Starve(true) => while world.peers.pool.charge(1_000) { hoard += 1_000 },
                Step::Starve(false) => world.peers.pool.discharge(std::mem::take(&mut hoard)),
            }
            world.check();
        }
        world.peers.pool.discharge(hoard);
        world.peers.stuck.clear();
        world.peers.short.clear();
        world.deliver(now);
        for (who, member) in (0..).zip(&members) {
            if !world.peers.fell.contains(&who) {
                for _ in 0..3 {
                    world.finish(who, *member, now);
                }
            }
        }
        for who in 0..6_u32 {
            let got = world.told(who);
            let fell = world.peers.fell.contains(&who);
            let mut rest = got.as_str();
            for (offset, (own, frame)) in (1..).zip(&said) {
                if *own == Some(who as usize) {
                    continue;
                }
                if let Some(after) = rest.strip_prefix(frame.as_str()) {
                    rest = after;
                } else if let Some((from, to)) = gap(rest) {
                    prop_assert!((from..=to).contains(&offset), "{who} at {offset}: {rest}");
                    if offset == to {
                        rest = &rest[rest.find('>').map_or(0, |end| end + 1)..];
                    }
                } else {
                    // Part of a frame may have come before it was closed.
                    prop_assert!(fell && frame.starts_with(rest), "{who} lacks {offset}: {rest}");
                    rest = "";
                    break;
                }
            }
            prop_assert_eq!(rest, "", "{} got more than was said", who);
        }
        let deliveries = world.topics.deliveries();
        prop_assert_eq!(deliveries.queued, 0);
    }
}

/// The gap that `told` begins with.
fn gap(told: &str) -> Option<(u64, u64)> {
    let (from, rest) = told.strip_prefix("<t:")?.split_once('-')?;
    let (to, _) = rest.split_once(' ')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

#[test]
fn a_list_of_all_nodes_is_charged_as_long_as_its_topic_lives_and_survives_a_new_epoch() {
    let (mut owned, mut pool) = a_home(SlowConsumerPolicy::DropOldest);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let before = pool.used_bytes();
    let client = |node| ClientId { node, number: 1 };
    for node in [7, 5] {
        let charged = owned.charge_member(id, client(node), Some("alice"), 3, &mut pool);
        assert_eq!(charged, Ok(true));
        owned.presence(id, client(node), Some("alice"));
        assert_eq!(owned.charge_member(id, client(node), Some("alice"), 9, &mut pool), Ok(false));
    }
    assert_eq!(owned.charge_member(id, client(9), None, 9, &mut pool), Ok(false));
    assert!(pool.used_bytes() > before);
    owned.restart("t", None, 0, &mut pool).unwrap();
    // One is counted elsewhere and not listed here.
    let told = owned.members(id, None, 9, 1_000, &mut Vec::new());
    assert_eq!(told, Some(Members { count: 3, next: None, unlisted: 1 }));
    assert_eq!(owned.charge_member(id, client(7), None, 2, &mut pool), Ok(true));
    owned.presence(id, client(7), None);
    let told = owned.members(id, None, 9, 1_000, &mut Vec::new());
    assert_eq!(told, Some(Members { count: 2, next: None, unlisted: 1 }));
    owned.remove("t", 0, &mut pool);
    assert_eq!(pool.used_bytes(), before);
}
