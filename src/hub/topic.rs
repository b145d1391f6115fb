//! The topics of one shard: for each, a channel per format that subscribers take.

use std::collections::BTreeMap;

use super::channel::{Channel, Encode, Format, MemberId, Sink, Sums};
use super::log::Origin;
use crate::buffer::Pool;
use crate::limits::Nanos;

/// Names a topic on its shard. Generations tell reuses of an index apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId {
    /// LogPosition in the shard's table.
    pub index: u32,
    /// Counts the reuses of `index`.
    pub generation: u32,
}

/// How far a subscriber may lag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Encoded bytes kept for those who lag, for each format.
    pub log_bytes: usize,
    /// Time since a subscriber last had everything.
    pub lag: Nanos,
}

#[derive(Debug)]
struct Topic<K> {
    name: Box<str>,
    /// One for each format that has subscribers.
    channels: Vec<Channel<K>>,
    dirty: bool,
}

/// All topics of a shard that have subscribers here.
#[derive(Debug)]
pub struct Topics<K> {
    by_name: BTreeMap<Box<str>, TopicId>,
    table: Vec<Entry<K>>,
    free: Vec<u32>,
    /// Topics with frames that nobody was offered yet.
    dirty: Vec<TopicId>,
    bounds: Bounds,
    sums: Sums,
}

/// The generation, and the topic if there is one.
type Entry<K> = (u32, Option<Topic<K>>);

impl<K: Copy + Eq> Topics<K> {
    /// No topics.
    pub fn new(bounds: Bounds) -> Topics<K> {
        Topics {
            by_name: BTreeMap::new(),
            table: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            bounds,
            sums: Sums::default(),
        }
    }

    /// How many topics there are here.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is no topic.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// How many subscribers all topics have here.
    pub fn subscriptions(&self) -> usize {
        self.sums.subscriptions
    }

    /// The topic of this name, if it is known here.
    pub fn find(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// Makes a topic without subscribers.
    pub fn create(&mut self, name: &str) -> TopicId {
        let topic = Topic { name: name.into(), channels: Vec::new(), dirty: false };
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push((0, None));
            (self.table.len() - 1) as u32
        });
        let entry = &mut self.table[index as usize];
        entry.1 = Some(topic);
        let id = TopicId { index, generation: entry.0 };
        self.by_name.insert(name.into(), id);
        id
    }

    /// Forgets a topic and gives its memory back. Its subscribers are forgotten with it.
    pub fn remove(&mut self, id: TopicId, pool: &mut Pool) {
        if get_mut(&mut self.table, id).is_none() {
            return;
        }
        let entry = &mut self.table[id.index as usize];
        if let Some(topic) = entry.1.take() {
            entry.0 = entry.0.wrapping_add(1);
            self.free.push(id.index);
            self.by_name.remove(&topic.name);
            topic.channels.into_iter().for_each(|channel| channel.release(pool, &mut self.sums));
        }
    }

    /// Adds a subscriber that is sent all that is appended from now on, encoded as `format`, less what has the
    /// origin `skip`. The first of a format brings a log into being.
    pub fn subscribe(&mut self, id: TopicId, key: K, format: Format, skip: Origin) -> Option<MemberId> {
        let topic = get_mut(&mut self.table, id)?;
        let channel = topic.channel_or_new(format, self.bounds.log_bytes);
        Some(MemberId { format, index: channel.subscribe(key, skip, &mut self.sums) })
    }

    /// Removes a subscriber. The last of a format leaves no log behind.
    pub fn unsubscribe(&mut self, id: TopicId, member: MemberId, pool: &mut Pool) {
        let Some(topic) = get_mut(&mut self.table, id) else { return };
        if let Some(channel) = topic.channel_mut(member.format) {
            channel.remove(member.index, &mut self.sums);
            topic.release_deserted(&mut self.sums, pool);
        }
    }

    /// Appends a message to a topic's logs, encoded once for each format. `own` is the subscriber that published it,
    /// when it is one here. Where the node's budget has no room for it all subscribers of that format have missed it,
    /// and are dropped at the next delivery.
    #[inline]
    pub fn append(
        &mut self,
        id: TopicId,
        pool: &mut Pool,
        origin: Origin,
        own: Option<MemberId>,
        message: &mut impl Encode,
    ) {
        let Some(topic) = get_mut(&mut self.table, id) else { return };
        for channel in &mut topic.channels {
            channel.append(pool, origin, own, message);
        }
        if !std::mem::replace(&mut topic.dirty, true) {
            self.dirty.push(id);
        }
    }

    /// Whether a topic is there that has no subscribers.
    pub fn is_deserted(&self, id: TopicId) -> bool {
        let topic = self.table.get(id.index as usize).filter(|entry| entry.0 == id.generation);
        topic.and_then(|(_, topic)| topic.as_ref()).is_some_and(|topic| topic.channels.is_empty())
    }

    /// Whether some topic has frames that were not offered.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Makes readable what was appended since the last call. [`deliver`](Topics::deliver) offers it.
    pub fn publish(&mut self, pool: &mut Pool) {
        for id in &self.dirty {
            let Some(topic) = get_mut(&mut self.table, *id) else { continue };
            topic.channels.iter_mut().for_each(|channel| channel.publish(pool));
        }
    }

    /// Offers what was published to all subscribers.
    pub fn deliver(&mut self, now: Nanos, sink: &mut impl Sink<K>) {
        for id in self.dirty.drain(..) {
            let Some(topic) = get_mut(&mut self.table, id) else { continue };
            topic.dirty = false;
            topic.deliver(now, self.bounds.lag, &mut self.sums, sink);
        }
    }

    /// Offers a subscriber what it has not got: it can take bytes again.
    pub fn catch_up(&mut self, id: TopicId, member: MemberId, now: Nanos, sink: &mut impl Sink<K>) {
        let Some(topic) = get_mut(&mut self.table, id) else { return };
        if let Some(channel) = topic.channel_mut(member.format) {
            channel.offer(member.index, now, self.bounds.lag, &mut self.sums, sink);
            topic.release_deserted(&mut self.sums, sink.pool());
        }
    }

    /// Drops subscribers that have lagged too long although nothing new was appended.
    pub fn drop_laggards(&mut self, now: Nanos, sink: &mut impl Sink<K>) {
        if !self.has_laggards() {
            return;
        }
        for topic in self.table.iter_mut().filter_map(|(_, topic)| topic.as_mut()) {
            if topic.channels.iter().any(Channel::has_laggards) {
                topic.deliver(now, self.bounds.lag, &mut self.sums, sink);
            }
        }
    }

    /// Whether some subscriber lags.
    pub fn has_laggards(&self) -> bool {
        self.sums.laggards > 0
    }
}

fn get_mut<K>(table: &mut [Entry<K>], id: TopicId) -> Option<&mut Topic<K>> {
    let (generation, topic) = table.get_mut(id.index as usize)?;
    if *generation != id.generation {
        return None;
    }
    topic.as_mut()
}

impl<K: Copy + Eq> Topic<K> {
    fn channel_mut(&mut self, format: Format) -> Option<&mut Channel<K>> {
        self.channels.iter_mut().find(|channel| channel.format == format)
    }

    fn channel_or_new(&mut self, format: Format, log_bytes_max: usize) -> &mut Channel<K> {
        let index = match self.channels.iter().position(|channel| channel.format == format) {
            Some(index) => index,
            None => {
                // Nearly every topic has one format, and there may be many topics.
                self.channels.reserve_exact(1);
                self.channels.push(Channel::new(format, log_bytes_max));
                self.channels.len() - 1
            }
        };
        &mut self.channels[index]
    }

    fn deliver(&mut self, now: Nanos, lag: Nanos, sums: &mut Sums, sink: &mut impl Sink<K>) {
        self.channels.iter_mut().for_each(|channel| channel.deliver(now, lag, sums, sink));
        self.release_deserted(sums, sink.pool());
    }

    fn release_deserted(&mut self, sums: &mut Sums, pool: &mut Pool) {
        while let Some(index) = self.channels.iter().position(Channel::is_deserted) {
            self.channels.remove(index).release(pool, sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::buffer::Budget;
    use crate::limits::LOG_SEGMENT_BYTES;

    /// Subscribers by number; those in `stuck` take nothing, those in `refusing` although they seemed to.
    struct Peers {
        got: BTreeMap<u32, Vec<u8>>,
        stuck: Vec<u32>,
        refusing: Vec<u32>,
        refusals: usize,
        fell: Vec<u32>,
        pool: Pool,
    }

    impl Sink<u32> for Peers {
        fn is_writable(&self, key: u32) -> bool {
            !self.stuck.contains(&key)
        }
        fn send(&mut self, key: u32, frames: Bytes, _: u32) -> Result<(), Bytes> {
            if self.refusing.contains(&key) {
                self.refusals += 1;
                return Err(frames);
            }
            self.got.entry(key).or_default().extend_from_slice(&frames);
            Ok(())
        }
        fn fell_behind(&mut self, key: u32) {
            self.fell.push(key);
        }
        fn pool(&mut self) -> &mut Pool {
            &mut self.pool
        }
    }

    /// Its frame in a deflated format is its last byte behind the window's bits.
    struct Message<'a> {
        plain: &'a [u8],
        header: [u8; 1],
        asked: Vec<Format>,
    }

    impl Encode for Message<'_> {
        fn frame(&mut self, format: Format) -> [&[u8]; 2] {
            self.asked.push(format);
            match format {
                Format::Plain => [self.plain, b""],
                Format::Deflated { window_bits } => {
                    self.header = [window_bits];
                    [&self.header, &self.plain[self.plain.len() - 1..]]
                }
            }
        }
    }

    const BOUNDS: Bounds = Bounds { log_bytes: 100, lag: 1_000 };
    const SMALL: Format = Format::Deflated { window_bits: 9 };
    const LARGE: Format = Format::Deflated { window_bits: 15 };

    /// The topics of a shard, one of which is `id`, and their subscribers.
    struct World {
        topics: Topics<u32>,
        peers: Peers,
        id: TopicId,
    }

    impl World {
        fn new() -> World {
            World::with(Pool::standalone())
        }

        fn with(pool: Pool) -> World {
            let mut topics = Topics::new(BOUNDS);
            let id = topics.create("t");
            let peers = Peers {
                got: BTreeMap::new(),
                stuck: Vec::new(),
                refusing: Vec::new(),
                refusals: 0,
                fell: Vec::new(),
                pool,
            };
            World { topics, peers, id }
        }

        /// Subscribes `key`, which does not hear what has the origin `key`.
        fn subscribe(&mut self, key: u32, format: Format) -> MemberId {
            self.topics.subscribe(self.id, key, format, key.into()).expect("the topic is there")
        }

        fn unsubscribe(&mut self, member: MemberId) {
            self.topics.unsubscribe(self.id, member, &mut self.peers.pool);
        }

        /// Returns the formats that were encoded.
        fn append(&mut self, origin: Origin, own: Option<MemberId>, frame: &[u8]) -> Vec<Format> {
            let mut message = Message { plain: frame, header: [0], asked: Vec::new() };
            self.topics.append(self.id, &mut self.peers.pool, origin, own, &mut message);
            message.asked
        }

        fn deliver(&mut self, now: Nanos) {
            self.topics.publish(&mut self.peers.pool);
            self.topics.deliver(now, &mut self.peers);
        }

        /// Publishes something that nobody here said.
        fn publish(&mut self, frame: &[u8], now: Nanos) -> Vec<Format> {
            let formats = self.append(99, None, frame);
            self.deliver(now);
            formats
        }

        fn got(&self, key: u32) -> &[u8] {
            self.peers.got.get(&key).map_or(b"", Vec::as_slice)
        }
    }

    #[test]
    fn everyone_gets_what_was_published_after_subscribing_but_not_their_own() {
        let mut world = World::new();
        let one = world.subscribe(1, Format::Plain);
        world.append(1, Some(one), b"a");
        world.subscribe(2, Format::Plain);
        world.publish(b"b", 1);
        assert_eq!((world.got(1), world.got(2)), (&b"b"[..], &b"b"[..]));
        world.append(1, Some(one), b"c");
        world.deliver(2);
        assert_eq!((world.got(1), world.got(2)), (&b"b"[..], &b"bc"[..]));
        assert!(!world.topics.has_laggards());
    }

    #[test]
    fn who_lags_catches_up_and_who_falls_off_the_log_is_dropped() {
        let mut world = World::new();
        let member = world.subscribe(1, Format::Plain);
        world.subscribe(2, Format::Plain);
        world.peers.stuck = vec![1];
        (0..5).for_each(|_| drop(world.publish(&[b'x'; 10], 1)));
        assert!(world.topics.has_laggards());
        world.peers.stuck.clear();
        world.topics.catch_up(world.id, member, 2, &mut world.peers);
        assert_eq!(world.got(1), [b'x'; 50]);
        assert!(!world.topics.has_laggards());
        world.peers.stuck = vec![1];
        (0..20).for_each(|_| drop(world.publish(&[b'y'; 10], 3)));
        assert_eq!((&world.peers.fell, world.topics.subscriptions()), (&vec![1], 1));
        assert_eq!(world.got(2).len(), 250);
    }

    #[test]
    fn who_refuses_a_message_is_tried_once_and_gets_it_later() {
        let mut world = World::new();
        let members: Vec<MemberId> = (1..=3).map(|key| world.subscribe(key, Format::Plain)).collect();
        world.peers.refusing = vec![1, 2];
        world.publish(b"a", 1);
        assert_eq!((world.peers.refusals, world.got(3)), (2, &b"a"[..]));
        world.peers.refusing = vec![2];
        world.publish(b"b", 2);
        assert_eq!((world.got(1), world.got(2), world.got(3)), (&b"ab"[..], &b""[..], &b"ab"[..]));
        world.peers.refusing.clear();
        world.topics.catch_up(world.id, members[1], 3, &mut world.peers);
        assert_eq!((world.got(2), world.topics.has_laggards()), (&b"ab"[..], false));
    }

    #[test]
    fn who_lags_too_long_is_dropped_without_further_messages() {
        let mut world = World::new();
        world.subscribe(1, Format::Plain);
        world.peers.stuck = vec![1];
        world.publish(b"x", 5);
        world.topics.drop_laggards(1_005, &mut world.peers);
        assert!(world.peers.fell.is_empty());
        world.topics.drop_laggards(1_006, &mut world.peers);
        assert_eq!(world.peers.fell, [1]);
        assert_eq!((world.topics.subscriptions(), world.topics.has_laggards()), (0, false));
    }

    #[test]
    fn a_message_is_encoded_once_for_each_format_and_everyone_gets_it_in_its_own() {
        let mut world = World::new();
        let formats = [Format::Plain, SMALL, LARGE, SMALL, Format::Plain, LARGE];
        let members: Vec<MemberId> =
            (1..).zip(formats).map(|(key, format)| world.subscribe(key, format)).collect();
        assert_eq!(world.publish(b"-a", 1), [Format::Plain, SMALL, LARGE]);
        // Of the small window, its own publisher does not hear it.
        assert_eq!(world.append(4, Some(members[3]), b"-b"), [Format::Plain, SMALL, LARGE]);
        world.deliver(2);
        world.publish(b"-c", 3);
        for (key, format) in (1..).zip(formats) {
            let expected: &[u8] = match format {
                _ if key == 4 => b"\x09a\x09c",
                Format::Plain => b"-a-b-c",
                SMALL => b"\x09a\x09b\x09c",
                _ => b"\x0fa\x0fb\x0fc",
            };
            assert_eq!(world.got(key), expected, "{format:?}");
        }
    }

    #[test]
    fn a_publisher_is_not_taken_for_the_member_of_another_format() {
        let mut world = World::new();
        world.subscribe(1, Format::Plain);
        let two = world.subscribe(2, SMALL);
        // Both are the first of their format.
        world.append(2, Some(two), b"-a");
        world.deliver(1);
        assert_eq!((world.got(1), world.got(2)), (&b"-a"[..], &b""[..]));
        assert!(!world.topics.has_laggards(), "one's own message is no backlog");
    }

    #[test]
    fn a_format_lives_from_its_first_subscriber_to_its_last() {
        let mut world = World::new();
        let plain = world.subscribe(1, Format::Plain);
        assert_eq!(world.publish(b"-a", 1), [Format::Plain]);
        let plain_bytes = world.peers.pool.used_bytes();
        let (two, three) = (world.subscribe(2, LARGE), world.subscribe(3, LARGE));
        assert_eq!(world.publish(b"-b", 2), [Format::Plain, LARGE]);
        assert!(world.peers.pool.used_bytes() > plain_bytes);
        world.unsubscribe(two);
        assert_eq!(world.publish(b"-c", 3), [Format::Plain, LARGE]);
        world.unsubscribe(three);
        assert_eq!(world.peers.pool.used_bytes(), plain_bytes, "the log went with its last reader");
        assert_eq!(world.publish(b"-d", 4), [Format::Plain]);
        world.subscribe(4, LARGE);
        world.unsubscribe(plain);
        assert_eq!(world.publish(b"-e", 5), [LARGE]);
        assert_eq!(
            [1, 2, 3, 4].map(|key| world.got(key)),
            [&b"-a-b-c-d"[..], b"\x0fb", b"\x0fb\x0fc", b"\x0fe"]
        );
        assert!(!world.topics.is_deserted(world.id));
        world.topics.remove(world.id, &mut world.peers.pool);
        assert_eq!((world.topics.subscriptions(), world.peers.pool.used_bytes()), (0, 0));
    }

    #[test]
    fn a_slow_subscriber_of_one_format_costs_those_of_others_nothing() {
        let mut world = World::new();
        world.subscribe(1, Format::Plain);
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
    fn who_lags_in_a_compressed_format_catches_up_or_is_dropped_there() {
        let mut world = World::new();
        world.subscribe(1, Format::Plain);
        let two = world.subscribe(2, LARGE);
        world.peers.stuck = vec![2];
        for frame in [b"-a", b"-b", b"-c"] {
            world.publish(frame, 1);
        }
        assert!(world.topics.has_laggards());
        world.peers.stuck.clear();
        world.topics.catch_up(world.id, two, 2, &mut world.peers);
        assert_eq!(world.got(2), b"\x0fa\x0fb\x0fc");
        world.peers.stuck = vec![2];
        world.publish(b"-d", 3);
        world.topics.drop_laggards(1_004, &mut world.peers);
        assert_eq!((&world.peers.fell, world.got(1)), (&vec![2], &b"-a-b-c-d"[..]));
        assert_eq!((world.topics.subscriptions(), world.topics.has_laggards()), (1, false));
        assert_eq!(world.publish(b"-e", 1_005), [Format::Plain]);
    }

    #[test]
    fn a_format_whose_log_finds_no_memory_loses_its_subscribers_and_no_others() {
        // The frame of this size needs more than a segment plain, and nearly nothing compressed.
        let large = vec![b'x'; 4 * LOG_SEGMENT_BYTES];
        let mut world = World::with(Pool::new(Budget::new(3 * LOG_SEGMENT_BYTES as u64)));
        world.subscribe(1, Format::Plain);
        world.subscribe(2, Format::Plain);
        world.subscribe(3, SMALL);
        world.publish(b"-a", 1);
        world.append(99, None, &large);
        assert_eq!(world.append(99, None, b"-b"), [SMALL], "what has missed a message gets no further one");
        world.deliver(2);
        assert_eq!(world.peers.fell, [1, 2]);
        assert_eq!((world.got(1), world.got(3)), (&b"-a"[..], &b"\x09a\x09x\x09b"[..]));
        assert_eq!(world.topics.subscriptions(), 1);
        // Who comes now has missed nothing, and there is room.
        world.subscribe(4, Format::Plain);
        world.publish(b"-c", 3);
        assert_eq!((world.got(4), world.got(3)), (&b"-c"[..], &b"\x09a\x09x\x09b\x09c"[..]));
    }
}
