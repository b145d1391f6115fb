//! The topics that have their home on this shard: the order of what is published, where it goes, and what of it is kept
//! for those who come back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};
use std::ops::Bound;

use super::accounts::{Publications, TopicHome};
use super::by_size::BySize;
use super::idempotency::{Keys, digest};
use super::keyed::Keyed;
use super::log::{Log, Origin};
use super::message::{Content, Position, Publication, Refused};
use super::remembered::Remembered;
use super::settings::{Rules, Settings, Slow};
use super::topic::TopicId;
use crate::buffer::{Lease, Pool};
use crate::limits::{
    IDEMPOTENCY_KEYS_PER_SHARD_MAX, IDEMPOTENCY_WINDOW, KEYS_MAX, Nanos, SECOND, TOPICS_BEGUN_MAX,
};

/// Names a topic on its home shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HomeId {
    /// Position in the home shard's table.
    pub index: u32,
    /// Counts the reuses of `index`.
    pub generation: u32,
}

#[derive(Debug)]
struct Home {
    name: Box<str>,
    settings: Settings,
    epoch: u64,
    /// Messages published so far; the next one gets the next offset.
    offset: u64,
    /// The shards with subscribers, and what they call the topic.
    shards: Vec<(usize, TopicId)>,
    publications: Publications,
    payload_bytes: u64,
    rate: Rate,
    history: Log,
    /// The latest message of each key, where that is what slow and new subscribers get.
    keyed: Keyed,
    /// Messages up to this offset were forgotten with the topic, those of keys among them.
    keyed_since: u64,
    /// Idempotency keys: the operator's, and the clients', who may not speak for the operator. Few topics have any.
    idempotent: Option<Box<[Keys; 2]>>,
    /// Subscribers whose presence is told.
    members: BTreeSet<u64>,
    /// Who was the first to publish; 0 for nobody, and for the operator.
    begun_by: Origin,
    /// Since when nobody subscribes; none while somebody does.
    idle_since: Option<Nanos>,
}

/// The shards that subscribed to a topic, and what they call it.
pub type Shards<'a> = &'a [(usize, TopicId)];

/// What a shard is told that subscribed to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The home's name for the topic.
    pub home: HomeId,
    /// What was published before is history.
    pub position: Position,
    /// Subscribers whose presence is told.
    pub present: u64,
}

/// What a subscriber is sent before what is published from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// What came after this offset.
    After(u64),
    /// The latest message of each key behind this offset: the next page of such a replay.
    Latest(u64),
    /// What its topic has for new subscribers.
    Newcomer,
}

/// Some of the subscribers whose presence is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members {
    /// How many there are in all.
    pub count: u64,
    /// The last one told of, when there are more.
    pub next: Option<u64>,
}

/// A piece of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The topic's position now.
    pub head: Position,
    /// The offset after which it was asked for, or that the topic chose for a newcomer.
    pub after: u64,
    /// The messages are the latest of their keys: those between them are replaced by them. Otherwise they follow one
    /// another.
    pub conflated: bool,
    /// From which offset on messages are told, the first one's unless they are conflated. When it is not the one after
    /// `after`, those between are not kept any more.
    pub first: u64,
    /// How many they are.
    pub messages: u32,
    /// With it everything was told that was published before now.
    pub complete: bool,
}

/// What became of a publication with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted<'a> {
    /// It got its position, and goes to these shards.
    New(Position, Shards<'a>),
    /// It was published before, at this position.
    Again(Position),
}

/// The directory of one home shard.
#[derive(Debug)]
pub struct Homes {
    by_name: BTreeMap<Box<str>, HomeId>,
    table: Vec<(u32, Option<Home>)>,
    free: Vec<u32>,
    /// Since when nobody subscribes to the topics without subscribers: one entry for each of them, the longest first.
    idle: BTreeSet<(Nanos, HomeId)>,
    /// The one of them that was looked at last.
    looked_at: Option<(Nanos, HomeId)>,
    /// What their histories take.
    by_size: BySize,
    /// How many of the topics each connection began.
    begun: BTreeMap<Origin, u32>,
    rules: Rules,
    /// The node's topics, one each.
    lease: Lease,
    epochs: u64,
    publications: Publications,
    /// The topics of all idempotency keys, the oldest key first. Some are forgotten already.
    idempotent: VecDeque<(Nanos, HomeId, bool)>,
    seed: u64,
    /// How far topics had come that were forgotten.
    forgotten: Remembered<Forgotten>,
}

/// What is known of a topic that was forgotten, for those who come back.
#[derive(Debug)]
struct Forgotten {
    position: Position,
    publications: Publications,
    payload_bytes: u64,
}

impl Homes {
    /// An empty directory. `lease` counts the node's topics; `seed` makes epochs differ from those of other lives.
    pub fn new(rules: Rules, lease: Lease, seed: u64) -> Homes {
        Homes {
            by_name: BTreeMap::new(),
            table: Vec::new(),
            free: Vec::new(),
            idle: BTreeSet::new(),
            looked_at: None,
            by_size: BySize::default(),
            begun: BTreeMap::new(),
            rules,
            lease,
            epochs: seed,
            publications: Publications::default(),
            forgotten: Remembered::default(),
            idempotent: VecDeque::new(),
            seed,
        }
    }

    /// Forwards the topic `name` to `shard` from now on, which calls it `local`.
    ///
    /// # Errors
    /// [`Refused::TooManyTopics`] when there are as many as there may be, all of them with subscribers.
    pub fn subscribe(
        &mut self,
        name: &str,
        shard: usize,
        local: TopicId,
        pool: &mut Pool,
    ) -> Result<Subscribed, Refused> {
        let id = self.find_or_create(name, 0, pool)?;
        let home = get_mut(&mut self.table, id).ok_or(Refused::TooManyTopics)?;
        home.shards.retain(|(other, _)| *other != shard);
        home.shards.push((shard, local));
        if let Some(since) = home.idle_since.take() {
            self.idle.remove(&(since, id));
        }
        let position = Position { epoch: home.epoch, offset: home.offset };
        Ok(Subscribed { home: id, position, present: home.members.len() as u64 })
    }

    /// Forwards no longer to `shard`, unless it has subscribed anew under another local id. A topic without
    /// subscribers is forgotten as soon as its history is too old.
    pub fn unsubscribe(&mut self, id: HomeId, shard: usize, local: TopicId, now: Nanos, pool: &mut Pool) {
        let Some(home) = self.get_mut(id) else { return };
        home.shards.retain(|entry| *entry != (shard, local));
        if home.shards.is_empty() && home.idle_since.is_none() {
            home.idle_since = Some(now);
            let (keeps_nothing, begun_by) = (home.keeps_nothing(), home.begun_by);
            if keeps_nothing || self.has_begun(begun_by) > TOPICS_BEGUN_MAX {
                return self.forget(id, now, pool);
            }
            self.idle.insert((now, id));
        }
    }

    /// The topic `name`, for somebody who publishes without subscribing.
    ///
    /// # Errors
    /// As for [`subscribe`](Homes::subscribe).
    pub fn find_or_create(&mut self, name: &str, now: Nanos, pool: &mut Pool) -> Result<HomeId, Refused> {
        if let Some(id) = self.by_name.get(name) {
            return Ok(*id);
        }
        while !self.lease.take(1) {
            // Whoever has waited longest for somebody to come back makes room.
            let Some(&(_, id)) = self.idle.first() else { return Err(Refused::TooManyTopics) };
            self.forget(id, now, pool);
        }
        let id = self.create(name, now, pool);
        self.idle.insert((now, id));
        Ok(id)
    }

    /// The topic `name`, for the connection `origin` that publishes to it. Of topics that are there because it was the
    /// first to publish to them, there are so many and no more, unless somebody subscribes to them; they are no longer
    /// there than somebody does.
    ///
    /// # Errors
    /// As for [`subscribe`](Homes::subscribe), and when the topic would be one more than that.
    pub fn find_or_begin(
        &mut self,
        name: &str,
        origin: Origin,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<HomeId, Refused> {
        if !self.by_name.contains_key(name) && self.has_begun(origin) >= TOPICS_BEGUN_MAX {
            return Err(Refused::TooManyTopics);
        }
        let id = self.find_or_create(name, now, pool)?;
        if let Some(home) = get_mut(&mut self.table, id)
            && home.begun_by == 0
        {
            home.begun_by = origin;
            *self.begun.entry(origin).or_default() += 1;
        }
        Ok(id)
    }

    /// How many topics are there because `origin` was the first to publish to them.
    fn has_begun(&self, origin: Origin) -> u32 {
        self.begun.get(&origin).copied().unwrap_or(0)
    }

    /// Judges a message for a topic and gives it its offset. `by_client` says that it does not come from the operator.
    /// Returns which shards it goes to.
    ///
    /// # Errors
    /// Why the topic does not take it.
    pub fn publish(
        &mut self,
        id: HomeId,
        publication: &Publication<'_>,
        by_client: bool,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<(Position, Shards<'_>), Refused> {
        let refused = loop {
            let Some(home) = self.get_mut(id) else { return Err(Refused::Busy) };
            let refused = home.refusal(publication, by_client, pool);
            if refused != Some(Refused::OutOfMemory) || !self.shed(pool) {
                break refused;
            }
        };
        let Homes { table, publications, by_size, .. } = self;
        let Some(home) = get_mut(table, id) else { return Err(Refused::Busy) };
        let count = Publications {
            published: 1,
            accepted: u64::from(refused.is_none()),
            refused: u64::from(refused.is_some()),
        };
        home.publications.add(&count);
        publications.add(&count);
        if let Some(refused) = refused {
            return Err(refused);
        }
        home.offset += 1;
        home.payload_bytes += publication.payload.len() as u64;
        home.rate.count(now);
        let mut kept = home.remember(publication, now, pool);
        by_size.set(id.index, home.history.charged_bytes());
        for _ in 0..SHED_TRIES {
            if kept || !make_room(table, by_size, id, pool) {
                break;
            }
            let Some(home) = get_mut(table, id) else { break };
            kept = home.remember(publication, now, pool);
            by_size.set(id.index, home.history.charged_bytes());
        }
        let Some(home) = get_mut(table, id) else { return Err(Refused::Busy) };
        if !kept {
            // Who comes back is told that it is not kept.
            home.history.forget_all(home.offset, pool);
            by_size.set(id.index, 0);
        }
        Ok((Position { epoch: home.epoch, offset: home.offset }, &home.shards))
    }

    /// The same as [`publish`](Homes::publish), but a message that was accepted with the same `idempotency_key` within the last
    /// [`IDEMPOTENCY_WINDOW`] is not published again. Keys of clients and of the operator are apart.
    ///
    /// # Errors
    /// Why the topic does not take it. [`Refused::KeyReused`] when the key is that of another message, and
    /// [`Refused::OutOfMemory`] also when the key could not be remembered.
    pub fn publish_once(
        &mut self,
        id: HomeId,
        publication: &Publication<'_>,
        idempotency_key: &str,
        by_client: bool,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<Accepted<'_>, Refused> {
        let digest = digest(self.seed, publication);
        let Some(home) = self.get_mut(id) else { return Err(Refused::Busy) };
        let (epoch, offset) = (home.epoch, home.offset + 1);
        let keys = home.keys(by_client);
        match keys.find(idempotency_key, now) {
            Some(known) if known.digest == digest => {
                return Ok(Accepted::Again(Position { epoch, offset: known.offset }));
            }
            Some(_) => return Err(self.refuse(id, Refused::KeyReused)),
            None => {}
        }
        // What cannot be remembered is not published: its publisher was promised that it may try again.
        while let Some(home) = self.get_mut(id)
            && !home.keys(by_client).keep(idempotency_key, offset, digest, now, pool)
        {
            if !self.shed(pool) {
                return Err(self.refuse(id, Refused::OutOfMemory));
            }
        }
        if let Err(refused) = self.publish(id, publication, by_client, now, pool).map(|_| ()) {
            if let Some(home) = self.get_mut(id) {
                home.keys(by_client).forget_latest(pool);
            }
            return Err(refused);
        }
        if self.idempotent.len() >= IDEMPOTENCY_KEYS_PER_SHARD_MAX {
            self.forget_oldest_key(pool);
        }
        self.idempotent.push_back((now, id, by_client));
        let Some(home) = get_mut(&mut self.table, id) else { return Err(Refused::Busy) };
        Ok(Accepted::New(Position { epoch, offset }, &home.shards))
    }

    fn forget_oldest_key(&mut self, pool: &mut Pool) {
        if let Some((at, id, by_client)) = self.idempotent.pop_front()
            && let Some(home) = self.get_mut(id)
        {
            home.keys(by_client).forget_one_until(at, pool);
        }
    }

    /// Counts a message that is refused before its topic judges it.
    fn refuse(&mut self, id: HomeId, refused: Refused) -> Refused {
        let count = Publications { published: 1, accepted: 0, refused: 1 };
        self.publications.add(&count);
        if let Some(home) = self.get_mut(id) {
            home.publications.add(&count);
        }
        refused
    }

    /// A message was refused before it came to its topic.
    pub fn note_refused(&mut self) {
        self.publications.published += 1;
        self.publications.refused += 1;
    }

    /// Appends to `page` the messages of a replay, about `bytes_max` bytes of them and at least one; see [`entries`].
    pub fn history(
        &mut self,
        id: HomeId,
        from: Replay,
        bytes_max: usize,
        now: Nanos,
        pool: &mut Pool,
        page: &mut Vec<u8>,
    ) -> Option<Page> {
        let home = get_mut(&mut self.table, id)?;
        home.forget_old(now, pool);
        self.by_size.set(id.index, home.history.charged_bytes());
        let head = Position { epoch: home.epoch, offset: home.offset };
        // Whoever was counted in by the bound on messages, though its bytes are still there, is not told.
        let oldest = home.oldest_kept();
        let conflates = home.settings.slow == Slow::Conflate;
        let after = match from {
            Replay::After(after) | Replay::Latest(after) => after,
            Replay::Newcomer if conflates => home.keyed_since,
            Replay::Newcomer => home.offset.saturating_sub(home.settings.snapshot.into()).max(oldest - 1),
        };
        let keeps_all = matches!(from, Replay::After(_)) && after + 1 >= oldest;
        if conflates && after < home.offset && !keeps_all {
            return Some(home.latest(after, bytes_max, page));
        }
        let log = &home.history;
        let from = after.max(oldest - 1);
        let mut told = Page { head, after, conflated: false, first: from + 1, messages: 0, complete: true };
        let mut sequence = log.behind_offset(from).max(log.start());
        for stretch in log.read(sequence, None) {
            let mut bytes = &stretch.bytes[..];
            while let Some((frame_bytes, _)) = log.frame(sequence).filter(|_| !bytes.is_empty()) {
                if told.messages > 0 && page.len() + frame_bytes + ENTRY_BYTES > bytes_max {
                    told.complete = false;
                    return Some(told);
                }
                let (entry, rest) = bytes.split_at(frame_bytes);
                append_entry(page, told.first + u64::from(told.messages), &[entry]);
                bytes = rest;
                told.messages += 1;
                sequence += 1;
            }
        }
        Some(told)
    }

    /// Somebody whose presence is told came or went. Returns how many there are and which shards are to be told.
    pub fn presence(&mut self, id: HomeId, client: u64, joined: bool) -> Option<(u64, Shards<'_>)> {
        let home = get_mut(&mut self.table, id)?;
        if joined {
            home.members.insert(client);
        } else {
            home.members.remove(&client);
        }
        Some((home.members.len() as u64, &home.shards))
    }

    /// Appends to `page` at most `most` of the subscribers whose presence is told, those after `after`; see [`members`].
    pub fn members(
        &mut self,
        id: HomeId,
        after: Option<u64>,
        most: usize,
        page: &mut Vec<u8>,
    ) -> Option<Members> {
        let home = get_mut(&mut self.table, id)?;
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = home.members.range((first, Bound::Unbounded));
        let mut last = None;
        for client in rest.by_ref().take(most) {
            page.extend_from_slice(&client.to_le_bytes());
            last = Some(*client);
        }
        let next = last.filter(|_| rest.next().is_some());
        Some(Members { count: home.members.len() as u64, next })
    }

    /// Forgets topics that nobody subscribes to and whose history is too old. Looks at so many of them in one go, and at
    /// the others in the next.
    pub fn expire(&mut self, now: Nanos, pool: &mut Pool) {
        while self.idempotent.front().is_some_and(|(at, ..)| at + IDEMPOTENCY_WINDOW <= now) {
            self.forget_oldest_key(pool);
        }
        for _ in 0..self.idle.len().min(EXPIRED_MAX) {
            let from = self.looked_at.map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.idle.range((from, Bound::Unbounded)).next().or(self.idle.first());
            let Some(&(since, id)) = next else { break };
            self.looked_at = Some((since, id));
            let Some(home) = get_mut(&mut self.table, id) else { continue };
            // What came meanwhile is kept as long as anything else.
            let until = since.max(home.rate.latest) + home.settings.history.age;
            if !home.is_idempotent() && (home.keeps_nothing() || now >= until) {
                self.forget(id, now, pool);
            }
        }
        self.forgotten.expire(now, pool);
    }

    /// When [`expire`](Homes::expire) may find something.
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty() || !self.forgotten.is_empty() || !self.idempotent.is_empty()
    }

    /// Gives back the memory of one of the largest histories. False when none is kept.
    pub fn shed(&mut self, pool: &mut Pool) -> bool {
        let Some(index) = self.by_size.largest() else { return false };
        self.by_size.set(index, 0);
        if let Some((_, Some(home))) = self.table.get_mut(index as usize) {
            home.history.forget_all(home.offset, pool);
        }
        true
    }

    /// What became of messages to all topics.
    pub fn publications(&self) -> Publications {
        self.publications
    }

    /// Whether messages of the topic `name` go to `shard`.
    pub fn forwards_to(&self, name: &str, shard: usize) -> bool {
        let home = self.by_name.get(name).and_then(|id| self.table.get(id.index as usize)?.1.as_ref());
        home.is_some_and(|home| home.shards.iter().any(|(other, _)| *other == shard))
    }

    /// What is known of the topic `name`.
    pub fn report(&self, name: &str, now: Nanos) -> Option<TopicHome> {
        let id = self.by_name.get(name)?;
        self.table.get(id.index as usize)?.1.as_ref().map(|home| home.report(now))
    }

    /// What is known of all topics.
    pub fn reports(&self, now: Nanos) -> impl Iterator<Item = (&str, TopicHome)> {
        let homes = self.table.iter().filter_map(|(_, home)| home.as_ref());
        homes.map(move |home| (&*home.name, home.report(now)))
    }

    /// How many of the topics have no subscribers.
    #[cfg(test)]
    pub(super) fn idle_len(&self) -> usize {
        self.idle.len()
    }

    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is no topic.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    fn create(&mut self, name: &str, now: Nanos, pool: &mut Pool) -> HomeId {
        self.epochs = self.epochs.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let begun = Position { epoch: epoch(self.epochs), offset: 0 };
        let Forgotten { position, publications, payload_bytes } =
            self.forgotten.take(name, pool).unwrap_or(Forgotten {
                position: begun,
                publications: Publications::default(),
                payload_bytes: 0,
            });
        let settings = *self.rules.of(name);
        let home = Home {
            name: name.into(),
            settings,
            epoch: position.epoch,
            offset: position.offset,
            shards: Vec::new(),
            publications,
            payload_bytes,
            rate: Rate::default(),
            history: Log::history(settings.history.bytes, position.offset),
            keyed: Keyed::default(),
            keyed_since: position.offset,
            idempotent: None,
            members: BTreeSet::new(),
            begun_by: 0,
            idle_since: Some(now),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push((0, None));
            (self.table.len() - 1) as u32
        });
        let entry = &mut self.table[index as usize];
        entry.1 = Some(home);
        let id = HomeId { index, generation: entry.0 };
        self.by_name.insert(name.into(), id);
        id
    }

    fn forget(&mut self, id: HomeId, now: Nanos, pool: &mut Pool) {
        let entry = &mut self.table[id.index as usize];
        if entry.0 == id.generation
            && let Some(mut home) = entry.1.take()
        {
            home.history.release(pool);
            home.keyed.release(pool);
            for keys in home.idempotent.iter_mut().flat_map(|keys| keys.iter_mut()) {
                keys.release(pool);
            }
            self.by_size.set(id.index, 0);
            if let Some(since) = home.idle_since {
                self.idle.remove(&(since, id));
            }
            if let Some(begun) = self.begun.get_mut(&home.begun_by) {
                *begun -= 1;
                if *begun == 0 {
                    self.begun.remove(&home.begun_by);
                }
            }
            self.by_name.remove(&home.name);
            let position = Position { epoch: home.epoch, offset: home.offset };
            let Home { publications, payload_bytes, .. } = home;
            self.forgotten.put(&home.name, Forgotten { position, publications, payload_bytes }, now, pool);
            entry.0 = entry.0.wrapping_add(1);
            self.free.push(id.index);
            self.lease.give(1);
        }
    }

    fn get_mut(&mut self, id: HomeId) -> Option<&mut Home> {
        get_mut(&mut self.table, id)
    }
}

fn get_mut(table: &mut [(u32, Option<Home>)], id: HomeId) -> Option<&mut Home> {
    let (generation, home) = table.get_mut(id.index as usize)?;
    home.as_mut().filter(|_| *generation == id.generation)
}

/// Gives up one of the largest histories for the message that the topic `id` has just come to. False when none is kept.
fn make_room(table: &mut [(u32, Option<Home>)], by_size: &mut BySize, id: HomeId, pool: &mut Pool) -> bool {
    let Some(index) = by_size.largest() else { return false };
    by_size.set(index, 0);
    if let Some((_, Some(home))) = table.get_mut(index as usize) {
        // The message itself is not part of it yet.
        let reached = if index == id.index { home.offset - 1 } else { home.offset };
        home.history.forget_all(reached, pool);
    }
    true
}

/// Spreads `state` over 48 bits, which a number in JavaScript holds too; never 0.
fn epoch(state: u64) -> u64 {
    let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 16 | 1
}

/// Topics without subscribers that are looked at in one go.
const EXPIRED_MAX: usize = 4_096;
/// Histories that are given up for one message, at most.
const SHED_TRIES: usize = 4;
/// Bytes in front of each entry of a page: its length and its offset.
const ENTRY_BYTES: usize = 4 + 8;
/// Bytes in front of key and payload of a message that is kept: its content, and the bytes of its key.
const KEPT_BYTES: usize = 2;

impl Home {
    fn refusal(
        &mut self,
        publication: &Publication<'_>,
        by_client: bool,
        pool: &mut Pool,
    ) -> Option<Refused> {
        if by_client && !self.settings.clients_publish {
            return Some(Refused::Forbidden);
        }
        if self.settings.slow == Slow::Conflate {
            if publication.key.is_empty() {
                return Some(Refused::NoKey);
            }
            if !self.keyed.contains(publication.key) && self.keyed.len() >= KEYS_MAX {
                return Some(Refused::TooManyKeys);
            }
            // It is accepted if it is kept: nobody is sent an older message of its key as the latest.
            if !self.keyed.keep(pool, self.offset + 1, publication) {
                return Some(Refused::OutOfMemory);
            }
        }
        None
    }

    /// Keeps a message for those who come back. False when there is no memory for it.
    fn remember(&mut self, publication: &Publication<'_>, now: Nanos, pool: &mut Pool) -> bool {
        if self.settings.history.messages == 0 {
            return true;
        }
        let Publication { content, key, payload } = *publication;
        let meta = [content as u8, key.len() as u8];
        debug_assert_eq!(meta.len(), KEPT_BYTES);
        let parts = [&meta[..], key.as_bytes(), payload, &[]];
        if self.history.append(pool, 0, self.offset, &parts).is_err() {
            return false;
        }
        self.history.publish(now);
        self.history.evict(pool);
        // As pieces go; what is kept beyond the bound for that is not told.
        let oldest = self.oldest_kept();
        let behind = self.history.behind_offset(oldest - 1);
        self.history.forget_before(behind, pool);
        true
    }

    /// Whether there is nothing for those who come back, or come anew.
    fn keeps_nothing(&self) -> bool {
        self.history.bytes() == 0 && self.keyed.is_empty() && !self.is_idempotent()
    }

    /// Whether a publication may still be tried again.
    fn is_idempotent(&self) -> bool {
        self.idempotent.as_ref().is_some_and(|keys| keys.iter().any(|keys| !keys.is_empty()))
    }

    fn keys(&mut self, by_client: bool) -> &mut Keys {
        &mut self.idempotent.get_or_insert_default()[usize::from(by_client)]
    }

    /// The latest messages of their keys behind `after`.
    fn latest(&self, after: u64, bytes_max: usize, page: &mut Vec<u8>) -> Page {
        let head = Position { epoch: self.epoch, offset: self.offset };
        let first = after.max(self.keyed_since) + 1;
        let mut told = Page { head, after, conflated: true, first, messages: 0, complete: true };
        for (offset, Publication { content, key, payload }) in self.keyed.after(after) {
            let bytes = KEPT_BYTES + key.len() + payload.len();
            if told.messages > 0 && page.len() + bytes + ENTRY_BYTES > bytes_max {
                told.complete = false;
                break;
            }
            append_entry(page, offset, &[&[content as u8, key.len() as u8], key.as_bytes(), payload]);
            told.messages += 1;
        }
        told
    }

    /// The offset of the oldest message that is kept.
    fn oldest_kept(&self) -> u64 {
        let kept = self.history.offset_before(self.history.start()) + 1;
        kept.max((self.offset + 1).saturating_sub(u64::from(self.settings.history.messages)))
    }

    fn forget_old(&mut self, now: Nanos, pool: &mut Pool) {
        let since = self.history.first_since(now.saturating_sub(self.settings.history.age));
        if since >= self.history.end() {
            self.history.forget_all(self.offset, pool);
        } else {
            self.history.forget_before(since, pool);
        }
    }

    fn report(&self, now: Nanos) -> TopicHome {
        TopicHome {
            epoch: self.epoch,
            offset: self.offset,
            publications: self.publications,
            payload_bytes: self.payload_bytes,
            rate: self.rate.per_second(now),
            history_messages: self.offset + 1 - self.oldest_kept().min(self.offset + 1),
            history_bytes: self.history.bytes() as u64,
        }
    }
}

fn append_entry(page: &mut Vec<u8>, offset: u64, parts: &[&[u8]]) {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    page.extend_from_slice(&(bytes as u32).to_le_bytes());
    page.extend_from_slice(&offset.to_le_bytes());
    parts.iter().for_each(|part| page.extend_from_slice(part));
}

/// The subscribers of a page of [`Homes::members`].
pub fn members(page: &[u8]) -> impl Iterator<Item = u64> {
    page.as_chunks().0.iter().map(|client| u64::from_le_bytes(*client))
}

/// The messages of a [`Page`] with their offsets, in order.
pub fn entries(mut page: &[u8]) -> impl Iterator<Item = (u64, Publication<'_>)> {
    std::iter::from_fn(move || {
        let (length, rest) = page.split_first_chunk::<4>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (entry, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        page = rest;
        let (&[content, key_bytes], rest) = entry.split_first_chunk::<KEPT_BYTES>()?;
        let (key, payload) = rest.split_at_checked(usize::from(key_bytes))?;
        let (content, key) = (Content::from_number(content)?, std::str::from_utf8(key).ok()?);
        Some((u64::from_le_bytes(*offset), Publication { content, key, payload }))
    })
}

/// Messages a second, over the present and the last period.
#[derive(Debug, Default)]
struct Rate {
    period: Nanos,
    now: u64,
    before: u64,
    /// When the latest message came.
    latest: Nanos,
}

const PERIOD: Nanos = 10 * SECOND;

impl Rate {
    fn count(&mut self, now: Nanos) {
        self.latest = now;
        let period = now / PERIOD;
        if period != self.period {
            self.before = if period == self.period + 1 { self.now } else { 0 };
            self.now = 0;
            self.period = period;
        }
        self.now += 1;
    }

    fn per_second(&self, now: Nanos) -> f64 {
        let (current, before) = match (now / PERIOD).saturating_sub(self.period) {
            0 => (self.now, self.before),
            1 => (0, self.now),
            _ => (0, 0),
        };
        // Of the last period as much as makes the present one whole.
        let passed = (now % PERIOD) as f64 / PERIOD as f64;
        (current as f64 + before as f64 * (1.0 - passed)) / (PERIOD / SECOND) as f64
    }
}

/// Which shard gives a topic's messages their order: the same on all shards of a process, and another in every process,
/// so that nobody outside can choose names that all have one home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement(u64);

impl Placement {
    /// Follows from `seed`, which nobody outside must know.
    pub fn new(seed: u64) -> Placement {
        Placement(seed)
    }

    /// The home, of so many shards, of the topic `name`.
    pub fn home(self, name: &str, shards: usize) -> usize {
        if shards == 1 {
            return 0;
        }
        // SipHash without a key of its own; the seed in front of the name is one.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher.write(name.as_bytes());
        (hasher.finish() % shards as u64) as usize
    }
}
