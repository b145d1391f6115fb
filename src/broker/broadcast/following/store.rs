//! The topics of a shard, as its owner table uses them.

use std::collections::BTreeMap;

use echoring_cluster::{Decision, History, IdempotencyKey, NodeId, Outcome, TopicStore, append_entry};
use echoring_topics::{ClientId, Creator, Exported, Importer, Position, Refused, Replay, entries};

use super::entry::{Origin, StreamEntry};
use crate::broadcast::Broadcast;
use crate::broadcast::publish::publisher_now;
use crate::broadcast::sequencer::Stored;
use crate::broadcast::shard_mail::{OrderedMessage, Publisher};
use crate::limits::CLUSTER_STATE_BYTES_MAX;
use crate::peer::Context;
use crate::publications::TopicPublication;

/// The topics of a shard, and everything that a change of them reaches.
pub(super) struct Store<'a, 'c> {
    pub(super) broadcast: &'a mut Broadcast,
    pub(super) cx: &'a mut Context<'c>,
    pub(super) heads: &'a mut BTreeMap<Box<str>, u64>,
    pub(super) node: NodeId,
}

impl Store<'_, '_> {
    /// Begins a topic at a position, or in a new epoch. Subscribers are notified.
    fn restart(&mut self, topic: &str, position: Option<Position>) -> Option<Position> {
        self.heads.remove(topic);
        let now = self.broadcast.now;
        let begun = self.broadcast.sequencer.topics.restart(topic, position, now, self.cx.pool());
        let (position, shards) = match begun {
            Ok((position, shards)) => (position, shards.to_vec()),
            Err(refused) => {
                tracing::warn!(topic, %refused, "this node cannot keep a topic of the cluster");
                return None;
            }
        };
        self.broadcast.interrupt(self.cx, &shards, position);
        Some(position)
    }

    /// The publisher of a message of a topic, on this node if that is its own.
    fn publisher(&mut self, topic: &str, entry: &StreamEntry<'_>) -> Publisher {
        let now = self.broadcast.now;
        match (entry.node == self.node, entry.by_client) {
            (true, _) => {
                let publisher = entry.origin.publisher(now);
                let local = self.broadcast.fan_out.topics.find(topic);
                local.map_or(publisher, |local| publisher_now(self.cx, local, &publisher))
            }
            (false, true) => Publisher::elsewhere(now),
            (false, false) => Publisher::operator(now),
        }
    }

    fn export(&mut self, topic: &str, exported: Exported, bytes: &mut Vec<u8>) {
        let (topics, now) = (&mut self.broadcast.sequencer.topics, self.broadcast.now);
        if let Some(id) = topics.find(topic) {
            let state = topics.export_state(id, exported, CLUSTER_STATE_BYTES_MAX, now, self.cx.pool());
            bytes.extend_from_slice(&state);
        }
    }

    /// The followed topic has reached an offset.
    fn reached(&mut self, topic: &str, offset: u64) {
        if self.heads.get(topic).is_some_and(|head| *head <= offset) {
            self.heads.remove(topic);
        }
    }
}

impl TopicStore for Store<'_, '_> {
    fn position(&self, topic: &str) -> Option<Position> {
        self.broadcast.sequencer.topics.position(topic)
    }

    fn begin(&mut self, topic: &str) -> Result<Position, u8> {
        // What was followed is another node's: only what this node has owned goes on in its epoch.
        let (topics, now) = (&mut self.broadcast.sequencer.topics, self.broadcast.now);
        if topics.find(topic).is_some() {
            return self.restart(topic, None).ok_or_else(|| Refused::TooManyTopics.number());
        }
        let begun = topics.find_or_create(topic, Creator::NOBODY, now, self.cx.pool());
        begun.map(|_| self.position(topic).unwrap_or_default()).map_err(Refused::number)
    }

    fn has_local_epochs(&self, topic: &str) -> bool {
        self.broadcast.sequencer.topics.has_local_epochs(topic)
    }

    fn begin_local(&mut self, topic: &str) -> bool {
        let position = self.broadcast.sequencer.topics.local_position();
        self.restart(topic, Some(position)).is_some()
    }

    fn renew(&mut self, topic: &str) -> Position {
        self.restart(topic, None).unwrap_or_default()
    }

    fn append(&mut self, topic: &str, entry: &[u8]) -> Outcome {
        let Some(entry) = StreamEntry::read(entry) else {
            return Outcome::Refused(Refused::TooLarge.number());
        };
        let publisher = self.publisher(topic, &entry);
        let (message, publication) = (TopicPublication { topic, ..entry.message }, entry.message.publication);
        let (now, broadcast) = (self.broadcast.now, &mut *self.broadcast);
        let mut resources = self.cx.resources();
        let Broadcast { sequencer, fan_out, .. } = broadcast;
        let sequenced = sequencer.sequence(&mut resources, now, publisher, &message);
        match sequencer.deliver_here(fan_out, &mut resources, &publisher, sequenced, publication) {
            Ok(position) => Outcome::Accepted(position),
            Err(refused) => Outcome::Refused(refused.number()),
        }
    }

    fn is_durable(&self, topic: &str) -> bool {
        self.broadcast.sequencer.topics.durable(topic).is_on
    }

    fn decide(&mut self, topic: &str, entry: &[u8]) -> Decision {
        let (topics, now) = (&mut self.broadcast.sequencer.topics, self.broadcast.now);
        let Some((entry, id)) = StreamEntry::read(entry).zip(topics.find(topic)) else {
            return Decision::Refused(Refused::Busy.number());
        };
        let submission = entry.submission();
        match topics.decide(id, &submission, now, self.cx.pool()) {
            Err(refused) => Decision::Refused(refused.number()),
            Ok(Some(position)) => Decision::Again(position),
            Ok(None) if submission.idempotency_key.is_empty() => Decision::Store(None),
            Ok(None) => {
                let (key, digest) = topics.digests(&submission);
                let reused = Refused::KeyReused.number();
                Decision::Store(Some(IdempotencyKey { key, digest, reused }))
            }
        }
    }

    fn append_stored(&mut self, topic: &str, offset: u64, entry: &[u8]) {
        let topics = &mut self.broadcast.sequencer.topics;
        let Some((id, position)) = topics.find(topic).zip(topics.position(topic)) else { return };
        let Some(entry) = StreamEntry::read(entry) else {
            // Of another version: the message is missing here.
            return self.skip(topic, offset.max(position.offset));
        };
        let (submission, now) = (entry.submission(), self.broadcast.now);
        if offset <= position.offset {
            return topics.note_key(id, offset, &submission, now, self.cx.pool());
        }
        let publisher = self.publisher(topic, &entry);
        let broadcast = &mut *self.broadcast;
        let mut resources = self.cx.resources();
        let Broadcast { sequencer, fan_out, .. } = broadcast;
        let position = Position { offset, ..position };
        let stored = Stored { publisher: &publisher, topic, submission, position };
        sequencer.accept_stored(fan_out, &mut resources, now, id, &stored);
        self.reached(topic, offset);
    }

    fn follow(&mut self, topic: &str, start: Position, head: u64) {
        if self.restart(topic, Some(start)).is_some() && head > start.offset {
            self.heads.insert(topic.into(), head);
        }
    }

    fn deliver(&mut self, topic: &str, offset: u64, entry: &[u8]) {
        let Some(id) = self.broadcast.sequencer.topics.find(topic) else { return };
        let Some(entry) = StreamEntry::read(entry) else {
            // Of another version: the message is missing here.
            return self.skip(topic, offset);
        };
        let publisher = self.publisher(topic, &entry);
        let (now, broadcast) = (self.broadcast.now, &mut *self.broadcast);
        let mut resources = self.cx.resources();
        let Broadcast { sequencer, fan_out, .. } = broadcast;
        let message =
            OrderedMessage { publisher: &publisher, offset, publication: entry.message.publication };
        sequencer.accept(fan_out, &mut resources, now, id, &message);
        self.reached(topic, offset);
    }

    fn skip(&mut self, topic: &str, offset: u64) {
        let skipped = self.broadcast.sequencer.topics.skip(topic, offset, self.cx.pool());
        if let Some((position, shards)) = skipped.map(|(position, shards)| (position, shards.to_vec())) {
            self.broadcast.interrupt(self.cx, &shards, position);
        }
        self.reached(topic, offset);
    }

    fn oldest(&self, topic: &str) -> u64 {
        let topics = &self.broadcast.sequencer.topics;
        // The latest messages of keys are no history that could be read in order.
        match (topics.is_conflated(topic), topics.position(topic)) {
            (true, Some(position)) => position.offset + 1,
            _ => topics.oldest(topic),
        }
    }

    fn read(&mut self, topic: &str, after: u64, bytes_max: usize, list: &mut Vec<u8>) -> History {
        let none = History { first: 0, messages: 0 };
        let (topics, now) = (&mut self.broadcast.sequencer.topics, self.broadcast.now);
        let Some(id) = topics.find(topic) else { return none };
        let page = topics.history(id, Replay::Continued(after), bytes_max, now, self.cx.pool());
        let page = page.filter(|(told, _)| !told.conflated && told.messages > 0);
        let Some((told, page)) = page else { return none };
        for (_, publication) in entries(&page) {
            let mut bytes = Vec::new();
            let (node, origin) = (NodeId(0), Origin::default());
            let message = TopicPublication::plain("", publication);
            StreamEntry { node, origin, by_client: true, message }.write(&mut bytes);
            append_entry(list, &bytes);
        }
        History { first: told.first, messages: told.messages.into() }
    }

    fn export_latest(&mut self, topic: &str, bytes: &mut Vec<u8>) {
        self.export(topic, Exported::Latest, bytes);
    }

    fn export_rest(&mut self, topic: &str, bytes: &mut Vec<u8>) {
        self.export(topic, Exported::LatestAndKeys, bytes);
    }

    fn import_rest(&mut self, topic: &str, bytes: &[u8]) {
        let (topics, now) = (&mut self.broadcast.sequencer.topics, self.broadcast.now);
        let Some(id) = topics.find(topic) else { return };
        if let Err(error) = Importer::import_state(topics, id, bytes, now, self.cx.pool()) {
            tracing::warn!(topic, %error, "the state of a topic that moved to this node is incomplete");
        }
    }

    fn has_presence(&self, topic: &str) -> bool {
        self.broadcast.sequencer.topics.has_presence(topic)
    }

    fn change_member(
        &mut self,
        topic: &str,
        client: ClientId,
        joined: Option<&str>,
        count: u64,
        is_owner: bool,
    ) -> bool {
        let topics = &mut self.broadcast.sequencer.topics;
        let Some(id) = topics.find(topic).filter(|_| topics.has_presence(topic)) else { return false };
        match topics.charge_member(id, client, joined, count, self.cx.pool()) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(refused) => {
                tracing::warn!(topic, %refused, "a member is counted but not listed");
                return false;
            }
        }
        // A connection that moves is told the changes that are later than its fence, by the clock.
        let at = self.cx.clock();
        self.broadcast.apply_presence((id, is_owner), client, joined, at);
        true
    }

    fn count_members(&mut self, topic: &str, count: u64) {
        let topics = &mut self.broadcast.sequencer.topics;
        if let Some(id) = topics.find(topic).filter(|_| topics.has_presence(topic)) {
            topics.count_members(id, count);
        }
    }

    fn read_members(
        &self,
        topic: &str,
        after: Option<ClientId>,
        bytes_max: usize,
        page: &mut Vec<u8>,
    ) -> Option<ClientId> {
        let topics = &self.broadcast.sequencer.topics;
        topics.members(topics.find(topic)?, after, usize::MAX, bytes_max, page)?.next
    }

    fn hold(&mut self, topic: &str, is_held: bool) {
        self.broadcast.sequencer.topics.hold(topic, is_held, self.broadcast.now);
    }

    fn remove(&mut self, topic: &str) {
        self.heads.remove(topic);
        self.broadcast.sequencer.topics.remove(topic, self.broadcast.now, self.cx.pool());
    }

    fn take_remembered(&mut self, moves: &mut dyn FnMut(&str) -> bool) -> Option<(Box<str>, Position)> {
        self.broadcast.sequencer.topics.take_forgotten(moves, self.cx.pool())
    }
}
