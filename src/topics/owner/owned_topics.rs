//! The topics that this shard owns: it orders their messages, forwards them, and keeps their history.

mod changes;
mod collecting;
mod durable;
mod import;
mod retention;
mod shared;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

pub use self::changes::TopicChanges;
pub(crate) use self::import::ImportedTopic;
use super::creators::{CreationLimits, Creator, Creators};
use super::idempotency::{Known, digest};
use super::owned_topic::OwnedTopic;
use super::replay::{ENTRY_BYTES, Members, Page, Replay, append_entry};
use crate::accounts::{OwnerReport, PatternCounts, Publications};
use crate::channel::log::Log;
use crate::client::ClientId;
use crate::collections::by_pattern::ByPattern;
use crate::collections::by_size::BySize;
use crate::collections::retained::Retained;
use crate::collections::slot_map::SlotMap;
use crate::limits::{IDEMPOTENCY_KEYS_PER_SHARD_MAX, IDEMPOTENCY_WINDOW};
use crate::message::{Position, Publication, Refused, Submission};
use crate::settings::{Relay, Rules, SlowConsumerPolicy};
use crate::topic::TopicId;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::limits::Nanos;
use echoring_proto::random::SplitMix64;

/// Identifies a topic on its owner shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnedTopicId {
    /// Index in the owner shard's table.
    pub index: u32,
    /// Generation: counts the reuses of `index`.
    pub generation: u32,
}

echoring_proto::plain!(for OwnedTopicId { index, generation });

impl OwnedTopicId {
    fn from_key((index, generation): (u32, u32)) -> OwnedTopicId {
        OwnedTopicId { index, generation }
    }

    fn key(self) -> (u32, u32) {
        (self.index, self.generation)
    }
}

/// The shards that subscribed to a topic, each with its own id of the topic.
pub type Shards<'a> = &'a [(usize, TopicId)];

/// The owner's answer to a shard that subscribes to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The owner's id of the topic.
    pub id: OwnedTopicId,
    /// Messages up to this offset are history.
    pub position: Position,
    /// Number of subscribers with presence.
    pub present: u64,
}

echoring_proto::plain!(for Subscribed { id, position, present });

/// The result of a publication with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted<'a> {
    /// It got its position, and is forwarded to these shards.
    New(Position, Shards<'a>),
    /// It was published before, at this position.
    Again(Position),
}

/// The topics of one owner shard.
#[derive(Debug)]
pub struct OwnedTopics {
    by_name: BTreeMap<Box<str>, OwnedTopicId>,
    table: SlotMap<OwnedTopic>,
    /// The topics without subscribers and the times since when; the longest first.
    idle: BTreeSet<(Nanos, OwnedTopicId)>,
    /// The one of them that was checked last.
    looked_at: Option<(Nanos, OwnedTopicId)>,
    /// Bytes of their histories.
    by_size: BySize,
    creators: Creators,
    creation: CreationLimits,
    rules: Rules,
    /// The lease of the node's topics, one each.
    lease: Lease,
    epochs: SplitMix64,
    by_pattern: ByPattern,
    /// The topics of all idempotency keys, the oldest key first. Some no longer exist.
    idempotent: VecDeque<(Nanos, OwnedTopicId, bool)>,
    /// Of the digests of publications with idempotency keys.
    seed: u64,
    /// The positions of forgotten topics.
    forgotten: Retained<Forgotten>,
    /// Until when messages are kept for subscribers that move; 0 if no topic has any.
    retain_until: Nanos,
    /// The topics with such messages.
    retained: Vec<OwnedTopicId>,
    /// The recently forgotten topics, if they are collected.
    names_forgotten: Option<Vec<Box<str>>>,
    /// Changes since they were last taken, if they are collected.
    changes: Option<Box<TopicChanges>>,
}

/// The position and counts of a forgotten topic, for returning subscribers.
#[derive(Debug, Default)]
struct Forgotten {
    position: Position,
    publications: Publications,
    payload_bytes: u64,
}

impl OwnedTopics {
    /// No topics. `lease` counts the node's topics; `seed` makes epochs differ from those of other runs.
    pub fn new(rules: Rules, lease: Lease, seed: u64) -> OwnedTopics {
        OwnedTopics {
            by_name: BTreeMap::new(),
            table: SlotMap::default(),
            idle: BTreeSet::new(),
            looked_at: None,
            by_size: BySize::default(),
            creators: Creators::default(),
            creation: CreationLimits::default(),
            by_pattern: ByPattern::new(&rules),
            rules,
            lease,
            epochs: SplitMix64::new(seed),
            forgotten: Retained::default(),
            idempotent: VecDeque::new(),
            seed,
            retain_until: 0,
            retained: Vec::new(),
            names_forgotten: None,
            changes: None,
        }
    }

    /// Sets the seed of the digests of publications with idempotency keys. It must be that of all processes between which
    /// topics are handed over, and secret.
    pub fn with_digest_seed(self, seed: u64) -> OwnedTopics {
        OwnedTopics { seed, ..self }
    }

    /// Limits the creators of topics, together with the other shards that share `creators`.
    pub fn with_creators(self, creators: Creators, creation: CreationLimits) -> OwnedTopics {
        OwnedTopics { creators, creation, ..self }
    }

    /// Uses other settings from now on. Existing topics keep `slow`, `lag_bytes` and `presence`.
    pub fn configure(&mut self, rules: Rules, creation: CreationLimits) {
        self.creation = creation;
        self.by_pattern.configure(&rules);
        for (_, owned) in self.table.iter_mut() {
            owned.settings = rules.of(&owned.name).renewing(&owned.settings);
            owned.pattern = ByPattern::number_of(&rules, &owned.name);
            match owned.retained_after {
                Some(after) => owned.retain_after(after),
                None => owned.history.set_bytes_max(owned.settings.history.bytes),
            }
        }
        self.lease.give_back(0);
        self.rules = rules;
    }

    /// Forwards the topic `name` to `shard` from now on, whose id of it is `local`.
    ///
    /// # Errors
    /// As for [`find_or_create`](OwnedTopics::find_or_create).
    pub fn subscribe(
        &mut self,
        name: &str,
        creator: Creator,
        shard: usize,
        local: TopicId,
        pool: &mut Pool,
    ) -> Result<Subscribed, Refused> {
        let id = self.find_or_create(name, creator, 0, pool)?;
        let owned = self.table.get_mut(id.key()).ok_or(Refused::TooManyTopics)?;
        if owned.shards.is_empty() {
            changes::note_occupied(&mut self.changes, name, true);
        }
        owned.shards.retain(|(other, _)| *other != shard);
        owned.shards.push((shard, local));
        if let Some(since) = owned.idle_since.take() {
            self.idle.remove(&(since, id));
        }
        let position = owned.position();
        Ok(Subscribed { id, position, present: owned.members.count() })
    }

    /// Stops forwarding to `shard`, unless it has subscribed again with another local id. A topic without subscribers
    /// is forgotten once its history has expired.
    pub fn unsubscribe(
        &mut self,
        id: OwnedTopicId,
        shard: usize,
        local: TopicId,
        now: Nanos,
        pool: &mut Pool,
    ) {
        let retains = self.retains(now);
        let Some(owned) = self.table.get_mut(id.key()) else { return };
        let was_occupied = !owned.shards.is_empty();
        owned.shards.retain(|entry| *entry != (shard, local));
        if was_occupied && owned.shards.is_empty() {
            changes::note_occupied(&mut self.changes, &owned.name, false);
        }
        let keeps_nothing = owned.keeps_nothing() && !retains;
        if self.note_idle(id, now) && keeps_nothing {
            self.forget(id, now, pool);
        }
    }

    /// The topic `name`, which `creator` creates if it does not exist.
    ///
    /// # Errors
    /// [`Refused::TooManyTopics`] if the maximum is reached and all topics have subscribers, and the refusals of a creator of
    /// too many.
    pub fn find_or_create(
        &mut self,
        name: &str,
        creator: Creator,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<OwnedTopicId, Refused> {
        if let Some(id) = self.by_name.get(name) {
            return Ok(*id);
        }
        self.creators.add(creator, self.creation)?;
        while !self.lease.take(1) {
            // The topic that has been without subscribers for longest is evicted.
            let Some(&(_, id)) = self.idle.first() else {
                self.creators.remove(creator);
                return Err(Refused::TooManyTopics);
            };
            self.forget(id, now, pool);
        }
        let id = self.create(name, creator, now, pool);
        self.idle.insert((now, id));
        Ok(id)
    }

    /// Decides about a message and assigns its offset. `by_client` tells that it is not from the operator. Returns the
    /// shards that it is forwarded to.
    ///
    /// # Errors
    /// Why the topic refuses it.
    pub fn publish(
        &mut self,
        id: OwnedTopicId,
        publication: &Publication<'_>,
        by_client: bool,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<(Position, Shards<'_>), Refused> {
        let refused = self.refusal(id, publication, by_client, pool);
        if self.table.get(id.key()).is_none() {
            return Err(Refused::Busy);
        }
        self.count(id, refused.is_none());
        if let Some(refused) = refused {
            return Err(refused);
        }
        self.advance(id, publication, now, pool);
        let Some(owned) = self.table.get_mut(id.key()) else { return Err(Refused::Busy) };
        Ok((owned.position(), &owned.shards))
    }

    /// Why the topic refuses a message, after histories were evicted for it if there is no memory.
    fn refusal(
        &mut self,
        id: OwnedTopicId,
        publication: &Publication<'_>,
        by_client: bool,
        pool: &mut Pool,
    ) -> Option<Refused> {
        loop {
            let Some(owned) = self.table.get_mut(id.key()) else { return Some(Refused::Busy) };
            let refused = owned.refusal(publication, by_client, pool);
            if refused != Some(Refused::OutOfMemory) || !self.shed(pool) {
                return refused;
            }
        }
    }

    /// Gives a message the next offset, and stores it for replay.
    fn advance(&mut self, id: OwnedTopicId, publication: &Publication<'_>, now: Nanos, pool: &mut Pool) {
        let Some(owned) = self.table.get_mut(id.key()) else { return };
        owned.offset += 1;
        owned.payload_bytes += publication.payload.len() as u64;
        self.by_pattern.of(owned.pattern).published_bytes += publication.payload.len() as u64;
        owned.rate.count(now);
        self.retain(id, now);
        for tries in 0.. {
            let Some(owned) = self.table.get_mut(id.key()) else { return };
            let is_kept = owned.remember(publication, now, pool);
            self.by_size.set(id.index, owned.history.charged_bytes());
            if is_kept {
                return;
            }
            if tries == SHED_TRIES || !self.make_room(Some(id.index), pool) {
                break;
            }
        }
        if let Some(owned) = self.table.get_mut(id.key()) {
            // A replay reports the gap.
            if owned.history.bytes() > 0 {
                self.by_pattern.of(owned.pattern).histories_evicted += 1;
                changes::note_lost(&mut self.changes, &owned.name, "memory");
            }
            owned.history.forget_all(owned.offset, pool);
            self.by_size.set(id.index, 0);
        }
    }

    /// As [`publish`](OwnedTopics::publish), but a message that was accepted with the same idempotency key within the
    /// last [`IDEMPOTENCY_WINDOW`] is not published again. Keys of clients and of the operator are separate. Neither is one whose
    /// version is not newer than that of the topic's latest message: its position is the topic's.
    ///
    /// # Errors
    /// Why the topic refuses it. [`Refused::KeyReused`] if the key was used with another message, and
    /// [`Refused::OutOfMemory`] also if the key could not be stored.
    pub fn publish_once(
        &mut self,
        id: OwnedTopicId,
        submission: &Submission<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<Accepted<'_>, Refused> {
        let &Submission { publication, idempotency_key, by_client, version } = submission;
        let digest = digest(self.seed, &publication);
        if let Some(position) = self.published_before(id, submission, digest, now)? {
            return Ok(Accepted::Again(position));
        }
        let Some(owned) = self.table.get_mut(id.key()) else { return Err(Refused::Busy) };
        let (epoch, offset) = (owned.epoch, owned.offset + 1);
        if idempotency_key.is_empty() {
            let _ = self.publish(id, &publication, by_client, now, pool)?;
            let Some(owned) = self.table.get_mut(id.key()) else { return Err(Refused::Busy) };
            owned.note_version(version);
            return Ok(Accepted::New(Position { epoch, offset }, &owned.shards));
        }
        // Without memory for the key nothing is published, because its publisher relies on safe retries.
        let known = Known { offset, digest, at: now };
        while let Some(owned) = self.table.get_mut(id.key())
            && !owned.keys(by_client).keep(idempotency_key, known, pool)
        {
            if !self.shed(pool) {
                return Err(self.refuse(id, Refused::OutOfMemory));
            }
        }
        if let Err(refused) = self.publish(id, &publication, by_client, now, pool).map(|_| ()) {
            if let Some(owned) = self.table.get_mut(id.key()) {
                owned.keys(by_client).forget_latest(pool);
            }
            return Err(refused);
        }
        self.list_key(id, by_client, now, pool);
        let Some(owned) = self.table.get_mut(id.key()) else { return Err(Refused::Busy) };
        owned.note_version(version);
        Ok(Accepted::New(Position { epoch, offset }, &owned.shards))
    }

    /// Where the publication with this digest was accepted before, if it was; or the position of the topic, if it is an old version.
    fn published_before(
        &mut self,
        id: OwnedTopicId,
        submission: &Submission<'_>,
        digest: u64,
        now: Nanos,
    ) -> Result<Option<Position>, Refused> {
        let Some(owned) = self.table.get_mut(id.key()) else { return Err(Refused::Busy) };
        let Submission { idempotency_key, by_client, version, .. } = *submission;
        let (epoch, position) = (owned.epoch, owned.position());
        let is_stale = owned.is_stale(version);
        let known = match idempotency_key {
            "" => None,
            key => owned.keys(by_client).find(key, now),
        };
        match known {
            Some(known) if known.digest == digest => Ok(Some(Position { epoch, offset: known.offset })),
            Some(_) => Err(self.refuse(id, Refused::KeyReused)),
            None => Ok(is_stale.then_some(position)),
        }
    }

    /// Lists a key that a topic keeps among those of the shard, of which the oldest make room.
    fn list_key(&mut self, id: OwnedTopicId, by_client: bool, now: Nanos, pool: &mut Pool) {
        if self.idempotent.len() >= IDEMPOTENCY_KEYS_PER_SHARD_MAX {
            self.forget_oldest_key(pool);
        }
        self.idempotent.push_back((now, id, by_client));
    }

    fn forget_oldest_key(&mut self, pool: &mut Pool) {
        if let Some((at, id, by_client)) = self.idempotent.pop_front()
            && let Some(owned) = self.table.get_mut(id.key())
        {
            owned.keys(by_client).forget_one_until(at, pool);
        }
    }

    /// Counts a message that was refused before its topic decided about it.
    fn refuse(&mut self, id: OwnedTopicId, refused: Refused) -> Refused {
        self.count(id, false);
        refused
    }

    /// Counts a decided message of a topic.
    fn count(&mut self, id: OwnedTopicId, is_accepted: bool) {
        match self.table.get_mut(id.key()) {
            Some(owned) => {
                owned.publications.count(is_accepted);
                self.by_pattern.of(owned.pattern).publications.count(is_accepted);
            }
            None => self.by_pattern.note_refused(),
        }
    }

    /// A message was refused before it reached its topic.
    pub fn note_refused(&mut self) {
        self.by_pattern.note_refused();
    }

    /// A page of a replay, with its messages: about `bytes_max` bytes and at least one message; see `entries`.
    pub fn history(
        &mut self,
        id: OwnedTopicId,
        from: Replay,
        bytes_max: usize,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<(Page, Vec<u8>)> {
        let owned = self.table.get_mut(id.key())?;
        owned.forget_old(now, pool);
        self.by_size.set(id.index, owned.history.charged_bytes());
        let head = owned.position();
        // Messages beyond the bound on their number are omitted, although their bytes are still stored.
        let oldest = match from {
            Replay::Continued(_) => owned.oldest_kept(),
            _ => owned.oldest_shown(now),
        };
        let conflates = owned.settings.slow == SlowConsumerPolicy::Conflate;
        let after = match from.after() {
            Some(after) => after,
            None if conflates => owned.keyed_since,
            None => owned.offset.saturating_sub(owned.settings.snapshot.into()).max(oldest - 1),
        };
        let keeps_all = matches!(from, Replay::After(_) | Replay::Continued(_)) && after + 1 >= oldest;
        if conflates && after < owned.offset && !keeps_all {
            return Some(owned.latest(after, bytes_max));
        }
        let log = &owned.history;
        let from = after.max(oldest - 1);
        let mut told = Page { head, after, conflated: false, first: from + 1, messages: 0, complete: true };
        let (mut sequence, mut page) = (log.behind_offset(from).max(log.start()), Vec::new());
        for stretch in log.read(sequence, None) {
            let mut bytes = &stretch.bytes[..];
            while let Some((frame_bytes, _)) = log.frame(sequence).filter(|_| !bytes.is_empty()) {
                if told.messages > 0 && page.len() + frame_bytes + ENTRY_BYTES > bytes_max {
                    told.complete = false;
                    return Some((told, page));
                }
                let (entry, rest) = bytes.split_at(frame_bytes);
                append_entry(&mut page, told.first + u64::from(told.messages), &[entry]);
                bytes = rest;
                told.messages += 1;
                sequence += 1;
            }
        }
        Some((told, page))
    }

    /// Forgets the messages that are stored of the topic `name`, if it exists. Subscribers keep what they have.
    pub fn forget_messages(&mut self, name: &str, pool: &mut Pool) {
        let Some(id) = self.find(name) else { return };
        if let Some(owned) = self.table.get_mut(id.key()) {
            owned.forget_messages(pool);
            self.by_size.set(id.index, 0);
        }
    }

    /// The form in which other programs at the backbone get the topic's messages.
    pub fn relay(&self, id: OwnedTopicId) -> Relay {
        self.table.get(id.key()).map_or(Relay::Off, |owned| owned.settings.relay)
    }

    /// A subscriber with presence joined, with the subject of its credentials or an empty one, or left. Returns the number of
    /// such subscribers, the subject, and the shards to notify.
    pub fn presence(
        &mut self,
        id: OwnedTopicId,
        client: ClientId,
        joined: Option<&str>,
    ) -> Option<(u64, Box<str>, Shards<'_>)> {
        let owned = self.table.get_mut(id.key())?;
        let subject = owned.members.change(client, joined);
        Some((owned.members.count(), subject, &owned.shards))
    }

    /// Appends to `page` at most `most` of the subscribers with presence, those after `after`, in at most `bytes_max` unless
    /// a single one is longer; see `members`.
    pub fn members(
        &self,
        id: OwnedTopicId,
        after: Option<ClientId>,
        most: usize,
        bytes_max: usize,
        page: &mut Vec<u8>,
    ) -> Option<Members> {
        let owned = self.table.get(id.key())?;
        Some(owned.members.read(after, most, bytes_max, page))
    }

    /// Forgets topics without subscribers whose history has expired. Checks a bounded number of them per call.
    pub fn expire(&mut self, now: Nanos, pool: &mut Pool) {
        while self.idempotent.front().is_some_and(|(at, ..)| at + IDEMPOTENCY_WINDOW <= now) {
            self.forget_oldest_key(pool);
        }
        self.expire_retention(now, pool);
        let most = if self.retains(now) { 0 } else { EXPIRED_MAX };
        for _ in 0..self.idle.len().min(most) {
            let from = self.looked_at.map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.idle.range((from, Bound::Unbounded)).next().or(self.idle.first());
            let Some(&(since, id)) = next else { break };
            self.looked_at = Some((since, id));
            let Some(owned) = self.table.get_mut(id.key()) else { continue };
            // Messages published meanwhile are kept as long as any others.
            let until = since.max(owned.rate.latest) + owned.settings.history.age;
            if !owned.is_idempotent() && (owned.keeps_nothing() || now >= until) {
                self.forget(id, now, pool);
            }
        }
        self.forgotten.expire(now, pool);
    }

    /// When [`expire`](OwnedTopics::expire) may find something.
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty()
            || !self.forgotten.is_empty()
            || !self.idempotent.is_empty()
            || self.retain_until > 0
    }

    /// Evicts one of the largest histories. False if there is none.
    pub fn shed(&mut self, pool: &mut Pool) -> bool {
        self.make_room(None, pool)
    }

    /// The same for a message that the topic at the index `accepting` has just accepted, and that is not stored yet.
    fn make_room(&mut self, accepting: Option<u32>, pool: &mut Pool) -> bool {
        let Some(index) = self.by_size.largest() else { return false };
        self.by_size.set(index, 0);
        if let Some((_, owned)) = self.table.at_mut(index) {
            let not_stored = u64::from(accepting == Some(index));
            self.by_pattern.of(owned.pattern).histories_evicted += 1;
            changes::note_lost(&mut self.changes, &owned.name, "memory");
            owned.history.forget_all(owned.offset - not_stored, pool);
        }
        true
    }

    /// Publication counts of all topics.
    pub fn publications(&self) -> Publications {
        self.by_pattern.publications()
    }

    /// Histories that were evicted for lack of memory.
    pub fn histories_evicted(&self) -> u64 {
        self.by_pattern.total().histories_evicted
    }

    /// Adds this shard's counts by pattern to `report`.
    pub fn add_patterns(&self, report: &mut BTreeMap<Box<str>, PatternCounts>) {
        self.by_pattern.add_to(report);
    }

    /// Whether messages of the topic `name` are forwarded to `shard`.
    pub fn forwards_to(&self, name: &str, shard: usize) -> bool {
        self.named(name).is_some_and(|owned| owned.shards.iter().any(|(other, _)| *other == shard))
    }

    /// The report of the topic `name`.
    pub fn report(&self, name: &str, now: Nanos) -> Option<OwnerReport> {
        self.named(name).map(|owned| owned.report(now))
    }

    /// The reports of all topics.
    pub fn reports(&self, now: Nanos) -> impl Iterator<Item = (&str, OwnerReport)> {
        self.table.values().map(move |owned| (&*owned.name, owned.report(now)))
    }

    /// The topic `name`, if it exists.
    fn named(&self, name: &str) -> Option<&OwnedTopic> {
        self.owned(self.find(name)?)
    }

    /// Number of topics without subscribers.
    #[cfg(test)]
    pub(crate) fn idle_len(&self) -> usize {
        self.idle.len()
    }

    /// Number of topics.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The budget of the node's topics.
    pub fn budget(&self) -> &Budget {
        self.lease.budget()
    }

    /// Whether there is no topic.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    fn create(&mut self, name: &str, creator: Creator, now: Nanos, pool: &mut Pool) -> OwnedTopicId {
        let begun = Position { epoch: epoch(self.epochs.next_u64()), offset: 0 };
        let Forgotten { position, publications, payload_bytes } =
            self.forgotten.take(name, pool).unwrap_or(Forgotten { position: begun, ..Forgotten::default() });
        let owned = OwnedTopic {
            name: name.into(),
            settings: *self.rules.of(name),
            pattern: ByPattern::number_of(&self.rules, name),
            epoch: position.epoch,
            offset: position.offset,
            publications,
            payload_bytes,
            history: Log::history(self.rules.of(name).history.bytes, position.offset),
            keyed_since: position.offset,
            creator,
            idle_since: Some(now),
            ..OwnedTopic::default()
        };
        let id = OwnedTopicId::from_key(self.table.insert(owned));
        self.by_name.insert(name.into(), id);
        id
    }

    fn forget(&mut self, id: OwnedTopicId, now: Nanos, pool: &mut Pool) {
        let Some(mut owned) = self.table.remove(id.key()) else { return };
        owned.release(pool);
        owned.members.release(pool);
        self.by_size.set(id.index, 0);
        if let Some(since) = owned.idle_since {
            self.idle.remove(&(since, id));
        }
        self.creators.remove(owned.creator);
        self.by_name.remove(&owned.name);
        if let Some(names) = &mut self.names_forgotten {
            names.push(owned.name.clone());
        }
        let OwnedTopic { publications, payload_bytes, .. } = owned;
        let forgotten = Forgotten { position: owned.position(), publications, payload_bytes };
        self.forgotten.put(&owned.name, forgotten, now, pool);
        self.lease.give_back(1);
    }
}

/// An epoch of 48 bits, which a JavaScript number can hold; never 0. It is odd, except for local ones.
fn epoch(random: u64) -> u64 {
    random >> 16 | 1
}

/// Maximum topics without subscribers that are checked per call.
const EXPIRED_MAX: usize = 4_096;
/// Maximum histories that are evicted for one message.
const SHED_TRIES: usize = 4;
