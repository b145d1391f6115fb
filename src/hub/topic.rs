//! The topics of one shard: a log and the cursors into it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::log::{Log, Origin, OutOfMemory, Position};
use crate::buffer::Pool;
use crate::limits::Nanos;

/// Names a topic on its shard. Generations tell reuses of an index apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId {
    /// Position in the shard's table.
    pub index: u32,
    /// Counts the reuses of `index`.
    pub generation: u32,
}

/// How far a subscriber may lag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Encoded bytes kept for those who lag.
    pub log_bytes: usize,
    /// Time since a subscriber last had everything.
    pub lag: Nanos,
}

/// Where a topic's frames go. Implemented over the shard; `K` names a connection.
pub trait Sink<K> {
    /// Whether a send would be taken now.
    fn is_writable(&self, key: K) -> bool;
    /// Sends encoded frames. Gives them back when they are not taken.
    ///
    /// # Errors
    /// The frames, when the connection does not take them now.
    fn send(&mut self, key: K, frames: Bytes, count: u32) -> Result<(), Bytes>;
    /// The subscriber fell behind its bound and is dropped from the topic.
    fn fell_behind(&mut self, key: K);
}

/// One subscriber: a cursor.
#[derive(Debug)]
struct Member<K> {
    key: K,
    cursor: Position,
    /// Frames of this origin are not sent back; 0 for all are sent.
    skip: Origin,
    /// The end of the latest frame of `skip`: while it lies before the cursor there is nothing to skip.
    own_end: Position,
    /// Since when the cursor has not been at the end; 0 when it is.
    behind_since: Nanos,
}

/// Names a subscriber within its topic while it is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberId(pub u32);

#[derive(Debug)]
struct Topic<K> {
    name: Box<str>,
    log: Log,
    /// By member id; holes are reused.
    members: Vec<Option<Member<K>>>,
    free: Vec<u32>,
    count: usize,
    behind: usize,
    dirty: bool,
    /// A message was lost for want of memory.
    failed: bool,
}

/// All topics of a shard that have subscribers here.
#[derive(Debug)]
pub struct Topics<K> {
    by_name: BTreeMap<Box<str>, TopicId>,
    table: Vec<(u32, Option<Topic<K>>)>,
    free: Vec<u32>,
    /// Topics with frames that nobody was offered yet.
    dirty: Vec<TopicId>,
    bounds: Bounds,
    subscriptions: usize,
}

impl<K: Copy + Eq> Topics<K> {
    /// No topics.
    pub fn new(bounds: Bounds) -> Topics<K> {
        Topics {
            by_name: BTreeMap::new(),
            table: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            bounds,
            subscriptions: 0,
        }
    }

    /// How many topics have a log here.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is no topic.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// How many subscribers all topics have here.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// The topic of this name, if it has a log here.
    pub fn find(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// Makes a topic with an empty log.
    pub fn create(&mut self, name: &str) -> TopicId {
        let topic = Topic {
            name: name.into(),
            log: Log::new(self.bounds.log_bytes),
            members: Vec::new(),
            free: Vec::new(),
            count: 0,
            behind: 0,
            dirty: false,
            failed: false,
        };
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
        if self.get_mut(id).is_none() {
            return;
        }
        let entry = &mut self.table[id.index as usize];
        if let Some(mut topic) = entry.1.take() {
            entry.0 = entry.0.wrapping_add(1);
            self.free.push(id.index);
            self.subscriptions -= topic.count;
            self.by_name.remove(&topic.name);
            topic.log.release(pool);
        }
    }

    fn get_mut(&mut self, id: TopicId) -> Option<&mut Topic<K>> {
        let (generation, topic) = self.table.get_mut(id.index as usize)?;
        if *generation != id.generation {
            return None;
        }
        topic.as_mut()
    }

    /// Adds a subscriber that is sent all that is appended from now on, less what has the origin `skip`.
    pub fn subscribe(&mut self, id: TopicId, key: K, skip: Origin) -> Option<MemberId> {
        let topic = self.get_mut(id)?;
        // Frames of this turn that were appended before now are not for it.
        let cursor = topic.log.appended();
        let member = Member { key, cursor, skip, own_end: 0, behind_since: 0 };
        topic.count += 1;
        let index = match topic.free.pop() {
            Some(index) => {
                topic.members[index as usize] = Some(member);
                index
            }
            None => {
                topic.members.push(Some(member));
                (topic.members.len() - 1) as u32
            }
        };
        self.subscriptions += 1;
        Some(MemberId(index))
    }

    /// Removes a subscriber. Returns whether the topic has none left.
    pub fn unsubscribe(&mut self, id: TopicId, member: MemberId) -> bool {
        let Some(topic) = self.get_mut(id) else { return false };
        let removed = topic.remove(member);
        let empty = topic.count == 0;
        self.subscriptions -= usize::from(removed);
        removed && empty
    }

    /// Appends an encoded frame to a topic's log. `own` is the subscriber that published it, when it is one
    /// here.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the node's budget is spent.
    pub fn append(
        &mut self,
        id: TopicId,
        pool: &mut Pool,
        origin: Origin,
        own: Option<MemberId>,
        frame: [&[u8]; 2],
    ) -> Result<(), OutOfMemory> {
        let Some(topic) = self.get_mut(id) else { return Ok(()) };
        let end = topic.log.append(pool, origin, frame)?;
        let newly_dirty = !std::mem::replace(&mut topic.dirty, true);
        if let Some(own) = own
            && let Some(Some(member)) = topic.members.get_mut(own.0 as usize)
            && member.skip == origin
        {
            member.own_end = end;
        }
        if newly_dirty {
            self.dirty.push(id);
        }
        Ok(())
    }

    /// Subscribers of a topic; none when there is no such topic.
    pub fn subscribers(&self, id: TopicId) -> Option<usize> {
        let (generation, topic) = self.table.get(id.index as usize)?;
        topic.as_ref().filter(|_| *generation == id.generation).map(|topic| topic.count)
    }

    /// Whether some topic has frames that were not offered.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Makes readable what was appended since the last call. [`deliver`](Topics::deliver) offers it.
    pub fn publish(&mut self, pool: &mut Pool) {
        for index in 0..self.dirty.len() {
            let id = self.dirty[index];
            if let Some(topic) = self.get_mut(id) {
                topic.log.publish(pool);
            }
        }
    }

    /// Offers what was published to all subscribers.
    pub fn deliver(&mut self, now: Nanos, sink: &mut impl Sink<K>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let lag = self.bounds.lag;
            let Some(topic) = self.get_mut(id) else { continue };
            topic.dirty = false;
            let dropped = topic.deliver(now, lag, sink);
            self.subscriptions -= dropped;
        }
        self.dirty = dirty;
    }

    /// A message could not be kept: every subscriber has missed it, and is dropped at the next delivery.
    pub fn fail(&mut self, id: TopicId) {
        let Some(topic) = self.get_mut(id) else { return };
        topic.failed = true;
        if !std::mem::replace(&mut topic.dirty, true) {
            self.dirty.push(id);
        }
    }

    /// Offers a subscriber what it has not got: it can take bytes again.
    pub fn catch_up(&mut self, id: TopicId, member: MemberId, now: Nanos, sink: &mut impl Sink<K>) {
        let lag = self.bounds.lag;
        let Some(topic) = self.get_mut(id) else { return };
        if !topic.offer(member, now, lag, sink) {
            topic.remove(member);
            self.subscriptions -= 1;
        }
    }

    /// Drops subscribers that have lagged too long although nothing new was appended.
    pub fn drop_laggards(&mut self, now: Nanos, sink: &mut impl Sink<K>) {
        let lag = self.bounds.lag;
        for topic in self.table.iter_mut().filter_map(|(_, topic)| topic.as_mut()) {
            if topic.behind > 0 {
                self.subscriptions -= topic.deliver(now, lag, sink);
            }
        }
    }

    /// Whether some subscriber lags.
    pub fn has_laggards(&self) -> bool {
        self.table.iter().filter_map(|(_, topic)| topic.as_ref()).any(|topic| topic.behind > 0)
    }
}

impl<K: Copy + Eq> Topic<K> {
    fn remove(&mut self, id: MemberId) -> bool {
        let Some(member) = self.members.get_mut(id.0 as usize).and_then(Option::take) else { return false };
        self.behind -= usize::from(member.behind_since != 0);
        self.count -= 1;
        self.free.push(id.0);
        true
    }

    /// Offers the log to every subscriber; returns how many were dropped.
    fn deliver(&mut self, now: Nanos, lag: Nanos, sink: &mut impl Sink<K>) -> usize {
        let before = self.count;
        for index in 0..self.members.len() as u32 {
            if !self.offer(MemberId(index), now, lag, sink) {
                self.remove(MemberId(index));
            }
        }
        self.failed = false;
        before - self.count
    }

    /// Offers one subscriber what lies behind its cursor. False when it is past its bound.
    fn offer(&mut self, id: MemberId, now: Nanos, lag: Nanos, sink: &mut impl Sink<K>) -> bool {
        let Some(Some(member)) = self.members.get_mut(id.0 as usize) else { return true };
        let end = self.log.end();
        if self.failed {
            sink.fell_behind(member.key);
            return false;
        }
        if member.cursor >= end {
            return true;
        }
        if sink.is_writable(member.key) && member.cursor >= self.log.start() {
            let nothing_own = member.own_end <= member.cursor;
            if nothing_own && let Some((bytes, frames)) = self.log.latest(member.cursor) {
                if sink.send(member.key, bytes.clone(), frames).is_ok() {
                    member.cursor = end;
                }
            } else {
                let skip = (!nothing_own).then_some(member.skip);
                for stretch in self.log.read(member.cursor, skip) {
                    if sink.send(member.key, stretch.bytes, stretch.frames).is_err() {
                        break;
                    }
                    member.cursor = stretch.end;
                }
                // Own frames at the end are behind the last stretch.
                if self.log.read(member.cursor, skip).next().is_none() {
                    member.cursor = end;
                }
            }
        }
        let was_behind = member.behind_since != 0;
        if member.cursor == end {
            member.behind_since = 0;
        } else if !was_behind {
            member.behind_since = now.max(1);
        }
        let is_behind = member.behind_since != 0;
        self.behind = self.behind + usize::from(is_behind) - usize::from(was_behind);
        let lost = member.cursor < self.log.start();
        let late = is_behind && member.behind_since + lag < now;
        if lost || late {
            sink.fell_behind(member.key);
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Subscribers by number; those in `stuck` take nothing.
    #[derive(Default)]
    struct Peers {
        got: BTreeMap<u32, Vec<u8>>,
        stuck: Vec<u32>,
        fell: Vec<u32>,
    }

    impl Sink<u32> for Peers {
        fn is_writable(&self, key: u32) -> bool {
            !self.stuck.contains(&key)
        }
        fn send(&mut self, key: u32, frames: Bytes, _: u32) -> Result<(), Bytes> {
            self.got.entry(key).or_default().extend_from_slice(&frames);
            Ok(())
        }
        fn fell_behind(&mut self, key: u32) {
            self.fell.push(key);
        }
    }

    const BOUNDS: Bounds = Bounds { log_bytes: 100, lag: 1_000 };

    #[test]
    fn everyone_gets_what_was_published_after_subscribing_but_not_their_own() {
        let (mut topics, mut pool, mut peers) = (Topics::new(BOUNDS), Pool::standalone(), Peers::default());
        let id = topics.create("t");
        let one = topics.subscribe(id, 1, 1).unwrap();
        topics.append(id, &mut pool, 1, Some(one), [b"a", b""]).unwrap();
        topics.subscribe(id, 2, 2).unwrap();
        topics.append(id, &mut pool, 9, None, [b"b", b""]).unwrap();
        topics.publish(&mut pool);
        topics.deliver(1, &mut peers);
        assert_eq!(peers.got[&1], b"b");
        assert_eq!(peers.got[&2], b"b");
        topics.append(id, &mut pool, 1, Some(one), [b"c", b""]).unwrap();
        topics.publish(&mut pool);
        topics.deliver(2, &mut peers);
        assert_eq!((peers.got[&1].as_slice(), peers.got[&2].as_slice()), (&b"b"[..], &b"bc"[..]));
        assert!(!topics.has_laggards());
    }

    #[test]
    fn who_lags_catches_up_and_who_falls_off_the_log_is_dropped() {
        let (mut topics, mut pool, mut peers) = (Topics::new(BOUNDS), Pool::standalone(), Peers::default());
        let id = topics.create("t");
        let member = topics.subscribe(id, 1, 0).unwrap();
        topics.subscribe(id, 2, 0).unwrap();
        peers.stuck = vec![1];
        for _ in 0..5 {
            topics.append(id, &mut pool, 9, None, [&[b'x'; 10], b""]).unwrap();
            topics.publish(&mut pool);
            topics.deliver(1, &mut peers);
        }
        assert!(topics.has_laggards());
        peers.stuck.clear();
        topics.catch_up(id, member, 2, &mut peers);
        assert_eq!(peers.got[&1], [b'x'; 50]);
        assert!(!topics.has_laggards());
        peers.stuck = vec![1];
        for _ in 0..20 {
            topics.append(id, &mut pool, 9, None, [&[b'y'; 10], b""]).unwrap();
            topics.publish(&mut pool);
            topics.deliver(3, &mut peers);
        }
        assert_eq!((peers.fell, topics.subscriptions()), (vec![1], 1));
        assert_eq!(peers.got[&2].len(), 250);
    }

    #[test]
    fn who_lags_too_long_is_dropped_without_further_messages() {
        let (mut topics, mut pool, mut peers) = (Topics::new(BOUNDS), Pool::standalone(), Peers::default());
        let id = topics.create("t");
        topics.subscribe(id, 1, 0).unwrap();
        peers.stuck = vec![1];
        topics.append(id, &mut pool, 9, None, [b"x", b""]).unwrap();
        topics.publish(&mut pool);
        topics.deliver(5, &mut peers);
        topics.drop_laggards(1_005, &mut peers);
        assert!(peers.fell.is_empty());
        topics.drop_laggards(1_006, &mut peers);
        assert_eq!((peers.fell, topics.subscriptions(), topics.has_laggards()), (vec![1], 0, false));
    }
}
