//! Topics that another process owned before: their import, and the state that ends with that process.

use super::changes::{note_lost, note_occupied};
use super::{Forgotten, OwnedTopicId, OwnedTopics, epoch};
use crate::channel::log::Log;
use crate::client::ClientId;
use crate::limits::KEYS_MAX;
use crate::message::{Position, Publication, Version};
use crate::owner::creators::Creator;
use crate::owner::idempotency::Known;
use crate::owner::owned_topic::OwnedTopic;
use crate::owner::transfer::ImportError;
use crate::settings::SlowConsumerPolicy;
use crate::topic::TopicId;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

/// A topic of another process, without its messages.
pub(crate) struct ImportedTopic {
    pub(crate) position: Position,
    /// The offset from which on its keys are known.
    pub(crate) keyed_since: u64,
    /// The shards that it is forwarded to.
    pub(crate) shards: Vec<(usize, TopicId)>,
}

impl OwnedTopics {
    /// Number of slots of topics, used and free.
    pub(crate) fn slots(&self) -> usize {
        self.table.len() as usize
    }

    pub(crate) fn id_at(&self, index: usize) -> Option<OwnedTopicId> {
        let index = index as u32;
        self.table.at(index).map(|(generation, _)| OwnedTopicId { index, generation })
    }

    pub(crate) fn owned(&self, id: OwnedTopicId) -> Option<&OwnedTopic> {
        self.table.get(id.key())
    }

    /// The name and position of the forgotten topic at `index`, in the order of names.
    pub(crate) fn forgotten_position(&self, index: usize) -> Option<(&str, Position)> {
        self.forgotten.iter().nth(index).map(|(name, forgotten)| (name, forgotten.position))
    }

    /// Creates a topic as it was in another process.
    pub(crate) fn import_topic(
        &mut self,
        name: &str,
        ImportedTopic { position, keyed_since, shards }: ImportedTopic,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<OwnedTopicId, ImportError> {
        if self.by_name.contains_key(name) {
            return Err(ImportError::Malformed);
        }
        if !self.lease.take(1) {
            return Err(ImportError::TooManyTopics);
        }
        let id = self.create(name, Creator::NOBODY, now, pool);
        let history_bytes = self.rules.of(name).history.bytes;
        let owned = self.table.get_mut(id.key()).ok_or(ImportError::Malformed)?;
        owned.epoch = position.epoch;
        owned.offset = position.offset;
        owned.keyed_since = keyed_since;
        owned.history = Log::history(history_bytes, position.offset);
        owned.idle_since = None;
        owned.rate.latest = now;
        owned.shards = shards;
        Ok(id)
    }

    pub(crate) fn import_forgotten(&mut self, name: &str, position: Position, now: Nanos, pool: &mut Pool) {
        if !self.by_name.contains_key(name) {
            self.forgotten.put(name, Forgotten { position, ..Forgotten::default() }, now, pool);
        }
    }

    /// Adds a message to the end of a history. Without memory the history is forgotten, and replays report the gap.
    pub(crate) fn import_message(
        &mut self,
        id: OwnedTopicId,
        offset: u64,
        publication: &Publication<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<(), ImportError> {
        let owned = self.table.get_mut(id.key()).ok_or(ImportError::Malformed)?;
        if offset == 0 || offset > owned.offset {
            return Err(ImportError::Malformed);
        }
        let is_first = owned.history.bytes() == 0;
        if owned.settings.history.messages == 0 || (!is_first && offset <= owned.history.end_offset()) {
            return Ok(());
        }
        if is_first || offset != owned.history.end_offset() + 1 {
            owned.history.forget_all(offset - 1, pool);
        }
        if !owned.store(offset, publication, now, pool) {
            note_lost(&mut self.changes, &owned.name, "memory");
            owned.history.forget_all(offset, pool);
        }
        self.by_size.set(id.index, owned.history.charged_bytes());
        Ok(())
    }

    /// Sets the version of the latest publication.
    pub(crate) fn import_version(&mut self, id: OwnedTopicId, version: Version<'_>) {
        if let Some(owned) = self.table.get_mut(id.key()) {
            owned.note_version(version);
        }
    }

    /// Adds the latest message of a key.
    pub(crate) fn import_latest(
        &mut self,
        id: OwnedTopicId,
        offset: u64,
        publication: &Publication<'_>,
        pool: &mut Pool,
    ) -> Result<(), ImportError> {
        loop {
            let owned = self.table.get_mut(id.key()).ok_or(ImportError::Malformed)?;
            if owned.settings.slow != SlowConsumerPolicy::Conflate {
                return Ok(());
            }
            let is_next = offset > owned.keyed.newest_offset() && offset <= owned.offset;
            if !is_next || publication.key.is_empty() || owned.keyed.len() >= KEYS_MAX {
                return Err(ImportError::Malformed);
            }
            if owned.keyed.keep(pool, offset, 0, publication) {
                return Ok(());
            }
            if !self.shed(pool) {
                return Err(ImportError::OutOfMemory);
            }
        }
    }

    /// Sets since which offset the latest message of each key is kept.
    pub(crate) fn import_keyed_since(&mut self, id: OwnedTopicId, since: u64) -> Result<(), ImportError> {
        let owned = self.table.get_mut(id.key()).ok_or(ImportError::Malformed)?;
        if since > owned.offset {
            return Err(ImportError::Malformed);
        }
        owned.keyed_since = since;
        Ok(())
    }

    /// Adds an idempotency key.
    pub(crate) fn import_key(
        &mut self,
        id: OwnedTopicId,
        by_client: bool,
        key: &str,
        known: Known,
        pool: &mut Pool,
    ) -> Result<(), ImportError> {
        while let Some(owned) = self.table.get_mut(id.key())
            && !owned.keys(by_client).keep(key, known, pool)
        {
            if !self.shed(pool) {
                return Err(ImportError::OutOfMemory);
            }
        }
        self.list_key(id, by_client, known.at, pool);
        Ok(())
    }

    /// Adds members. Those of the node `node` are clients of the other process. In a cluster,
    /// [`count_members`](OwnedTopics::count_members) says how many there are.
    pub(crate) fn import_members<'a>(
        &mut self,
        id: OwnedTopicId,
        members: impl Iterator<Item = (ClientId, &'a str)>,
        node: u64,
        pool: &mut Pool,
    ) {
        for (client, subject) in members {
            // In a cluster, one for which there is no memory is counted and not listed.
            if self.lists_forgotten() && self.charge_member(id, client, Some(subject), 0, pool).is_err() {
                continue;
            }
            if let Some(owned) = self.table.get_mut(id.key()) {
                owned.members.change(client, Some(subject));
                owned.members.set_far(client, client.node == node);
            }
        }
    }

    /// Everything is imported: keys of several shards are put in the order of their times.
    pub fn finish_import(&mut self, now: Nanos, pool: &mut Pool) {
        self.idempotent.make_contiguous().sort_unstable();
        for index in 0..self.slots() as u32 {
            let Some((generation, owned)) = self.table.at_mut(index) else { continue };
            // As much as this process is configured to keep.
            owned.trim(pool);
            // Not before it is known which of them other nodes follow.
            self.note_idle(OwnedTopicId { index, generation }, now);
        }
    }

    /// Forgets everything at once, because another process has it.
    pub fn release_all(&mut self, pool: &mut Pool) {
        for index in 0..self.slots() {
            if let Some(mut owned) = self.id_at(index).and_then(|id| self.table.remove(id.key())) {
                owned.release(pool);
                owned.members.release(pool);
                self.creators.remove(owned.creator);
                self.lease.give(1);
            }
            self.by_size.set(index as u32, 0);
        }
        self.by_name.clear();
        self.idle.clear();
        self.idempotent.clear();
        self.retained.clear();
        self.forgotten.clear(pool);
    }

    /// The shards from `first_shard` on have ended: nothing more is forwarded to them.
    pub fn forget_shards(&mut self, first_shard: usize, now: Nanos) {
        for index in 0..self.slots() {
            let Some(id) = self.id_at(index) else { continue };
            let Some(owned) = self.table.get_mut(id.key()) else { continue };
            let was_occupied = !owned.shards.is_empty();
            owned.shards.retain(|(shard, _)| *shard < first_shard);
            if was_occupied && owned.shards.is_empty() {
                note_occupied(&mut self.changes, &owned.name, false);
            }
            self.note_idle(id, now);
        }
    }

    /// All topics continue in new epochs, without subscribers: another process may have ordered more messages in the old ones.
    pub fn begin_epochs(&mut self, now: Nanos, pool: &mut Pool) {
        self.forgotten.clear(pool);
        self.forget_shards(0, now);
        for index in 0..self.slots() as u32 {
            if let Some((_, owned)) = self.table.at_mut(index) {
                owned.epoch = epoch(self.epochs.next_u64());
                owned.members.release(pool);
                note_lost(&mut self.changes, &owned.name, "epoch");
            }
        }
    }

    /// Sets whether a member of a topic is a client of the predecessor. Those that were imported are, until this process has them.
    pub fn set_member_far(&mut self, id: OwnedTopicId, client: ClientId, is_far: bool) {
        if let Some(owned) = self.table.get_mut(id.key()) {
            owned.members.set_far(client, is_far);
        }
    }

    /// Whether a client is a listed member of a topic, and one of the predecessor.
    pub fn is_far_member(&self, id: OwnedTopicId, client: ClientId) -> bool {
        self.owned(id).is_some_and(|owned| owned.members.is_far(client))
    }

    /// The subscribers with presence that are clients of the predecessor, with their topics.
    pub fn far_members(&self) -> Vec<(OwnedTopicId, ClientId)> {
        let ids = (0..self.slots()).filter_map(|index| self.id_at(index));
        let members = ids.filter_map(|id| Some((id, &self.owned(id)?.members)));
        members.flat_map(|(id, members)| members.far().map(move |client| (id, client))).collect()
    }
}
