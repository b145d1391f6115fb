//! Topics that nodes share: the data that a node keeps of a topic that another node orders, and those that move with a
//! topic from one node to the next.
//!
//! A topic that is followed has the same position, history and subscribers as one that is owned. It differs in the node
//! that gives its messages their offsets.

use super::changes::note_lost;
use super::{OwnedTopicId, OwnedTopics, Shards, epoch};
use crate::channel::keyed::Keyed;
use crate::channel::log::Log;
use crate::client::ClientId;
use crate::message::{Position, Publication, Refused};
use crate::owner::creators::Creator;
use crate::settings::TopicSettings;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

impl OwnedTopics {
    /// Lists the topics that are forgotten from now on, for [`take_names_forgotten`](OwnedTopics::take_names_forgotten).
    pub fn list_forgotten(&mut self) {
        self.names_forgotten.get_or_insert_default();
    }

    /// Whether they are listed.
    pub fn lists_forgotten(&self) -> bool {
        self.names_forgotten.is_some()
    }

    /// The topics that were forgotten since the last call.
    pub fn take_names_forgotten(&mut self) -> Vec<Box<str>> {
        self.names_forgotten.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The topic `name`, if it exists.
    pub fn find(&self, name: &str) -> Option<OwnedTopicId> {
        self.by_name.get(name).copied()
    }

    /// The name of a topic.
    pub fn name(&self, id: OwnedTopicId) -> Option<&str> {
        self.table.get(id.key()).map(|owned| &*owned.name)
    }

    /// The position of the topic `name`, if it exists.
    pub fn position(&self, name: &str) -> Option<Position> {
        self.named(name).map(|owned| owned.position())
    }

    /// Whether a shard subscribes to the topic `name`.
    pub fn is_subscribed(&self, name: &str) -> bool {
        self.named(name).is_some_and(|owned| !owned.shards.is_empty())
    }

    /// The offset of the oldest stored message of the topic `name`; the next offset if there is none. 1 if there is no
    /// such topic.
    pub fn oldest(&self, name: &str) -> u64 {
        self.named(name).map_or(1, |owned| owned.oldest_kept())
    }

    /// Whether only the latest messages of keys are kept of the topic `name`.
    pub fn is_conflated(&self, name: &str) -> bool {
        self.named(name).is_some_and(|owned| !owned.keyed.is_empty())
    }

    /// Restarts the topic `name` at a position, or in a new epoch, without messages. It is created if it does not
    /// exist. Returns the position, and the shards that subscribe.
    ///
    /// # Errors
    /// As for [`find_or_create`](OwnedTopics::find_or_create).
    pub fn restart(
        &mut self,
        name: &str,
        position: Option<Position>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<(Position, Shards<'_>), Refused> {
        self.forgotten.take(name, pool);
        let id = self.find_or_create(name, Creator::NOBODY, now, pool)?;
        let begun = Position { epoch: epoch(self.epochs.next_u64()), offset: 0 };
        let position = position.unwrap_or(begun);
        let history_bytes = self.rules.of(name).history.bytes;
        self.by_size.set(id.index, 0);
        let Some(owned) = self.table.get_mut(id.key()) else { return Err(Refused::Busy) };
        if owned.offset > 0 && owned.epoch != position.epoch {
            note_lost(&mut self.changes, name, "epoch");
        }
        owned.release(pool);
        owned.history = Log::history(history_bytes, position.offset);
        owned.keyed = Keyed::default();
        owned.retained_after = None;
        owned.version = Box::default();
        (owned.epoch, owned.offset, owned.keyed_since) = (position.epoch, position.offset, position.offset);
        Ok((position, &owned.shards))
    }

    /// Whether this node may order the topic `name` for its own clients while it does not reach its owner.
    pub fn has_local_epochs(&self, name: &str) -> bool {
        self.settings_of(name).local_epochs
    }

    /// The settings that a topic has, or would have.
    pub(super) fn settings_of(&self, name: &str) -> &TopicSettings {
        self.named(name).map_or_else(|| self.rules.of(name), |owned| &owned.settings)
    }

    /// The beginning of an epoch that only this node has.
    pub fn local_position(&mut self) -> Position {
        Position { epoch: (epoch(self.epochs.next_u64()) ^ 1).max(2), offset: 0 }
    }

    /// Takes the next message of a topic that another node orders. Returns the shards that it is forwarded to.
    pub fn accept(
        &mut self,
        id: OwnedTopicId,
        publication: &Publication<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Shards<'_> {
        // The owner has accepted the message, so it is not refused here. If there is no memory for the latest message of its key,
        // later subscribers do not get it.
        let _ = self.refusal(id, publication, false, pool);
        self.advance(id, publication, now, pool);
        self.table.get(id.key()).map_or(&[], |owned| &owned.shards)
    }

    /// The messages of a followed topic up to `offset` are missing. Returns the position, and the shards that subscribe.
    pub fn skip(&mut self, name: &str, offset: u64, pool: &mut Pool) -> Option<(Position, Shards<'_>)> {
        let id = self.find(name)?;
        self.by_size.set(id.index, 0);
        let owned = self.table.get_mut(id.key())?;
        owned.offset = offset;
        note_lost(&mut self.changes, name, "skipped");
        owned.history.forget_all(offset, pool);
        Some((owned.position(), &owned.shards))
    }

    /// Charges a change of the member list, which [`presence`](OwnedTopics::presence) must then make: `count` are
    /// members after it. False, and nothing done, if it changes nothing.
    ///
    /// # Errors
    /// [`Refused::OutOfMemory`] if there is no memory for the member, even after histories were evicted.
    pub fn charge_member(
        &mut self,
        id: OwnedTopicId,
        client: ClientId,
        joined: Option<&str>,
        count: u64,
        pool: &mut Pool,
    ) -> Result<bool, Refused> {
        loop {
            let Some(owned) = self.table.get_mut(id.key()) else { return Ok(false) };
            if owned.members.lists(client) == joined.is_some() {
                return Ok(false);
            }
            if owned.members.charge(client, joined, pool) {
                owned.members.set_count(count);
                return Ok(true);
            }
            if !self.shed(pool) {
                return Err(Refused::OutOfMemory);
            }
        }
    }

    /// The number of members, on all nodes, whether they are listed or not.
    pub fn count_members(&mut self, id: OwnedTopicId, count: u64) {
        if let Some(owned) = self.table.get_mut(id.key()) {
            owned.members.set_count(count);
        }
    }

    /// Whether the topic `name` has a member list.
    pub fn has_presence(&self, name: &str) -> bool {
        self.named(name).is_some_and(|owned| owned.settings.has_presence())
    }

    /// The number of members of a topic, and the shards to notify of changes.
    pub fn present(&self, id: OwnedTopicId) -> Option<(u64, Shards<'_>)> {
        let owned = self.table.get(id.key())?;
        Some((owned.members.count(), &owned.shards))
    }

    /// Subscribers are told of a change of the members.
    pub fn note_presence_told(&mut self, id: OwnedTopicId, now: Nanos) {
        if let Some(owned) = self.table.get_mut(id.key()) {
            owned.members.note_told(now);
        }
    }

    /// From when on subscribers may be told of further changes of the members.
    pub fn tell_presence_at(&self, id: OwnedTopicId, now: Nanos) -> Nanos {
        self.table.get(id.key()).map_or(now, |owned| owned.members.tell_at(now))
    }

    /// When subscribers were last told of a change of the members; `None` for an unknown topic.
    pub fn presence_told_at(&self, id: OwnedTopicId) -> Option<Nanos> {
        self.table.get(id.key()).map(|owned| owned.members.told_at)
    }

    /// The subject of a member, empty for none; `None` for a client that is not listed.
    pub fn member(&self, id: OwnedTopicId, client: ClientId) -> Option<&str> {
        self.table.get(id.key())?.members.subject(client)
    }

    /// Keeps the topic `name` although no shard may subscribe to it, or no longer.
    pub fn hold(&mut self, name: &str, is_held: bool, now: Nanos) {
        let Some(id) = self.find(name) else { return };
        let Some(owned) = self.table.get_mut(id.key()) else { return };
        owned.is_held = is_held;
        if is_held && let Some(since) = owned.idle_since.take() {
            self.idle.remove(&(since, id));
        }
        self.note_idle(id, now);
    }

    /// A topic may be forgotten from now on, if nobody uses it. Returns whether that is new.
    pub(super) fn note_idle(&mut self, id: OwnedTopicId, now: Nanos) -> bool {
        let Some(owned) = self.table.get_mut(id.key()) else { return false };
        let is_new = owned.shards.is_empty() && owned.idle_since.is_none() && !owned.is_held;
        if is_new {
            owned.idle_since = Some(now);
            self.idle.insert((now, id));
        }
        is_new
    }

    /// Forgets the topic `name` with its position: another node has it.
    pub fn remove(&mut self, name: &str, now: Nanos, pool: &mut Pool) {
        if let Some(id) = self.find(name) {
            self.forget(id, now, pool);
            if let Some(names) = &mut self.names_forgotten {
                names.retain(|other| &**other != name);
            }
        }
        self.forgotten.take(name, pool);
    }

    /// Takes the position of a forgotten topic for which `is_wanted` is true.
    pub fn take_forgotten(
        &mut self,
        is_wanted: &mut dyn FnMut(&str) -> bool,
        pool: &mut Pool,
    ) -> Option<(Box<str>, Position)> {
        let name: Box<str> = self.forgotten.iter().map(|(name, _)| name).find(|name| is_wanted(name))?.into();
        let forgotten = self.forgotten.take(&name, pool)?;
        Some((name, forgotten.position))
    }
}
