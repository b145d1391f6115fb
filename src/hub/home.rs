//! The topics that have their home on this shard: the order of what is published, where it goes, and what of it is kept
//! for those who come back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::accounts::{Publications, TopicHome};
use super::log::Log;
use super::message::{Content, Position, Publication, Refused};
use super::remembered::Remembered;
use super::settings::{Rules, Settings, Slow};
use super::topic::TopicId;
use crate::buffer::{Lease, Pool};
use crate::limits::{KEYS_MAX, Nanos, SECOND};

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
    /// Known ones, where messages need one, and what they take of the node's budget.
    keys: BTreeSet<Box<str>>,
    keys_bytes: usize,
    /// Subscribers whose presence is told.
    present: u64,
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

/// A piece of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The topic's position now.
    pub head: Position,
    /// The offset of the first message; they follow one another. When it is not the one after that which was asked
    /// for, those between are not kept any more.
    pub first: u64,
    /// How many they are.
    pub messages: u32,
    /// With it everything was told that was published before now.
    pub complete: bool,
}

/// The directory of one home shard.
#[derive(Debug)]
pub struct Homes {
    by_name: BTreeMap<Box<str>, HomeId>,
    table: Vec<(u32, Option<Home>)>,
    free: Vec<u32>,
    /// Topics without subscribers and since when, the longest first. Some have subscribers again.
    idle: VecDeque<(HomeId, Nanos)>,
    rules: Rules,
    /// The node's topics, one each.
    lease: Lease,
    epochs: u64,
    publications: Publications,
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
            idle: VecDeque::new(),
            rules,
            lease,
            epochs: seed,
            publications: Publications::default(),
            forgotten: Remembered::default(),
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
        let home = self.get_mut(id).ok_or(Refused::TooManyTopics)?;
        home.shards.retain(|(other, _)| *other != shard);
        home.shards.push((shard, local));
        home.idle_since = None;
        let position = Position { epoch: home.epoch, offset: home.offset };
        Ok(Subscribed { home: id, position, present: home.present })
    }

    /// Forwards no longer to `shard`, unless it has subscribed anew under another local id. A topic without
    /// subscribers is forgotten as soon as its history is too old.
    pub fn unsubscribe(&mut self, id: HomeId, shard: usize, local: TopicId, now: Nanos, pool: &mut Pool) {
        let Some(home) = self.get_mut(id) else { return };
        home.shards.retain(|entry| *entry != (shard, local));
        if home.shards.is_empty() && home.idle_since.is_none() {
            home.idle_since = Some(now);
            if home.history.bytes() == 0 {
                return self.forget(id, now, pool);
            }
            self.idle.push_back((id, now));
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
            let Some((id, since)) = self.idle.pop_front() else { return Err(Refused::TooManyTopics) };
            if self.get_mut(id).is_some_and(|home| home.idle_since == Some(since)) {
                self.forget(id, now, pool);
            }
        }
        let id = self.create(name, now, pool);
        self.idle.push_back((id, now));
        Ok(id)
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
        let Homes { table, publications, .. } = self;
        let Some(home) = get_mut(table, id) else { return Err(Refused::Busy) };
        let refused = home.refusal(publication, by_client, pool);
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
        home.remember(publication, now, pool);
        Ok((Position { epoch: home.epoch, offset: home.offset }, &home.shards))
    }

    /// A message was refused before it came to its topic.
    pub fn note_refused(&mut self) {
        self.publications.published += 1;
        self.publications.refused += 1;
    }

    /// Appends to `page` the messages after `after`, about `bytes_max` bytes of them and at least one, each behind its
    /// length; see [`entries`].
    pub fn history(
        &mut self,
        id: HomeId,
        after: u64,
        bytes_max: usize,
        now: Nanos,
        pool: &mut Pool,
        page: &mut Vec<u8>,
    ) -> Option<Page> {
        let home = get_mut(&mut self.table, id)?;
        home.forget_old(now, pool);
        let head = Position { epoch: home.epoch, offset: home.offset };
        let log = &home.history;
        // Whoever was counted in by the bound on messages, though its bytes are still there, is not told.
        let oldest = home.oldest_kept();
        let from = after.max(oldest - 1);
        let mut told = Page { head, first: from + 1, messages: 0, complete: true };
        let mut sequence = log.behind_offset(from).max(log.start());
        for stretch in log.read(sequence, None) {
            let mut bytes = &stretch.bytes[..];
            while let Some((frame_bytes, _)) = log.frame(sequence).filter(|_| !bytes.is_empty()) {
                if told.messages > 0 && page.len() + frame_bytes + ENTRY_BYTES > bytes_max {
                    told.complete = false;
                    return Some(told);
                }
                let (entry, rest) = bytes.split_at(frame_bytes);
                page.extend_from_slice(&(frame_bytes as u32).to_le_bytes());
                page.extend_from_slice(entry);
                bytes = rest;
                told.messages += 1;
                sequence += 1;
            }
        }
        Some(told)
    }

    /// Somebody whose presence is told came or went. Returns how many there are and which shards are to be told.
    pub fn presence(&mut self, id: HomeId, joined: bool) -> Option<(u64, Shards<'_>)> {
        let home = get_mut(&mut self.table, id)?;
        home.present = if joined { home.present + 1 } else { home.present.saturating_sub(1) };
        Some((home.present, &home.shards))
    }

    /// Forgets topics that nobody subscribes to and whose history is too old.
    pub fn expire(&mut self, now: Nanos, pool: &mut Pool) {
        for _ in 0..self.idle.len().min(EXPIRED_MAX) {
            let Some((id, since)) = self.idle.pop_front() else { break };
            let Some(home) = self.get_mut(id).filter(|home| home.idle_since == Some(since)) else { continue };
            // What came meanwhile is kept as long as anything else.
            let until = since.max(home.rate.latest) + home.settings.history.age;
            if home.history.bytes() > 0 && now < until {
                self.idle.push_back((id, since));
            } else {
                self.forget(id, now, pool);
            }
        }
        self.forgotten.expire(now, pool);
    }

    /// When [`expire`](Homes::expire) may find something.
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty() || !self.forgotten.is_empty()
    }

    /// Gives back the memory of the largest history. False when none is kept.
    pub(super) fn shed(&mut self, pool: &mut Pool) -> bool {
        let homes = self.table.iter_mut().filter_map(|(_, home)| home.as_mut());
        let Some(home) = homes.max_by_key(|home| home.history.charged_bytes()) else { return false };
        if home.history.charged_bytes() == 0 {
            return false;
        }
        home.history.forget_all(home.offset, pool);
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
            history: Log::new(settings.history.bytes, position.offset),
            keys: BTreeSet::new(),
            keys_bytes: 0,
            present: 0,
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
            pool.discharge(home.keys_bytes);
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

/// Spreads `state` over 48 bits, which a number in JavaScript holds too; never 0.
fn epoch(state: u64) -> u64 {
    let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 16 | 1
}

/// Topics without subscribers that are looked at in one go.
const EXPIRED_MAX: usize = 4_096;
/// What keeping a key takes beside its own bytes.
const KEY_BYTES: usize = 32;
/// Bytes in front of each entry of a page.
const ENTRY_BYTES: usize = 4;
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
            if !self.keys.contains(publication.key) {
                if self.keys.len() >= KEYS_MAX {
                    return Some(Refused::TooManyKeys);
                }
                let bytes = publication.key.len() + KEY_BYTES;
                if !pool.charge(bytes) {
                    return Some(Refused::OutOfMemory);
                }
                self.keys_bytes += bytes;
                self.keys.insert(publication.key.into());
            }
        }
        None
    }

    fn remember(&mut self, publication: &Publication<'_>, now: Nanos, pool: &mut Pool) {
        if self.settings.history.messages == 0 {
            return;
        }
        let Publication { content, key, payload } = *publication;
        let meta = [content as u8, key.len() as u8];
        debug_assert_eq!(meta.len(), KEPT_BYTES);
        let parts = [&meta[..], key.as_bytes(), payload, &[]];
        if self.history.append(pool, 0, self.offset, &parts).is_err() {
            // Who comes back is told that it is not kept.
            self.history.forget_all(self.offset, pool);
            return;
        }
        self.history.publish(now);
        self.history.evict(pool);
        // As pieces go; what is kept beyond the bound for that is not told.
        let oldest = self.oldest_kept();
        let behind = self.history.behind_offset(oldest - 1);
        self.history.forget_before(behind, pool);
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

/// The messages of a [`Page`], in order.
pub fn entries(mut page: &[u8]) -> impl Iterator<Item = Publication<'_>> {
    std::iter::from_fn(move || {
        let (length, rest) = page.split_first_chunk::<ENTRY_BYTES>()?;
        let (entry, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        page = rest;
        let (&[content, key_bytes], rest) = entry.split_first_chunk::<KEPT_BYTES>()?;
        let (key, payload) = rest.split_at_checked(usize::from(key_bytes))?;
        Some(Publication {
            content: Content::from_number(content)?,
            key: std::str::from_utf8(key).ok()?,
            payload,
        })
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

/// The shard that gives a topic's messages their order. FNV-1a: the same on every node and in every run.
pub fn home_shard(name: &str, shards: usize) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of FNV-1a mix well; the high half is folded in for small shard counts.
    ((hash ^ (hash >> 32)) % shards as u64) as usize
}
