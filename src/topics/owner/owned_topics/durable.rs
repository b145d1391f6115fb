//! Durable topics: the decision about a publication before a stream stores it, and the steps after that.

use super::{Known, OwnedTopicId, OwnedTopics, Shards, digest};
use crate::message::{Content, Position, Publication, Refused, Submission};
use crate::owner::owned_topic::OwnedTopic;
use crate::owner::replay::Replay;
use crate::settings::Durable;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

impl OwnedTopics {
    /// How the topic `name` is stored, or would be.
    pub fn durable(&self, name: &str) -> Durable {
        self.settings_of(name).durable
    }

    /// Decides about a message that is stored before it is delivered. `Some` if it was accepted before.
    ///
    /// # Errors
    /// As for [`publish_once`](OwnedTopics::publish_once).
    pub fn decide(
        &mut self,
        id: OwnedTopicId,
        submission: &Submission<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Result<Option<Position>, Refused> {
        let &Submission { publication, by_client, .. } = submission;
        let before = self.published_before(id, submission, digest(self.seed, &publication), now)?;
        if before.is_some() {
            return Ok(before);
        }
        match self.refusal(id, &publication, by_client, pool) {
            Some(refused) => Err(self.refuse(id, refused)),
            None => Ok(None),
        }
    }

    /// Digests of an idempotency key and of its publication.
    pub fn digests(&self, submission: &Submission<'_>) -> (u64, u64) {
        let &Submission { publication, idempotency_key, by_client, .. } = submission;
        let content = if by_client { Content::Text } else { Content::Binary };
        let key = Publication::new(content, "", idempotency_key.as_bytes());
        (digest(self.seed, &key), digest(self.seed, &publication))
    }

    /// Takes the next message of a durable topic, which is stored. Returns the shards that it is forwarded to.
    pub fn accept_stored(
        &mut self,
        id: OwnedTopicId,
        submission: &Submission<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Shards<'_> {
        if self.table.get(id.key()).is_none() {
            return &[];
        }
        self.count(id, true);
        self.advance(id, &submission.publication, now, pool);
        if let Some(owned) = self.table.get_mut(id.key()) {
            owned.note_version(submission.version);
        }
        let offset = self.owned(id).map_or(0, |owned| owned.offset);
        self.note_key(id, offset, submission, now, pool);
        self.owned(id).map_or(&[], |owned| &owned.shards)
    }

    /// Remembers the idempotency key of a stored message. Without memory for it, the message can be published again.
    pub fn note_key(
        &mut self,
        id: OwnedTopicId,
        offset: u64,
        submission: &Submission<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) {
        let &Submission { publication, idempotency_key, by_client, .. } = submission;
        if idempotency_key.is_empty() {
            return;
        }
        let known = Known { offset, digest: digest(self.seed, &publication), at: now };
        while let Some(owned) = self.table.get_mut(id.key()) {
            let keys = owned.keys(by_client);
            if keys.find(idempotency_key, now).is_some() {
                return;
            }
            if keys.keep(idempotency_key, known, pool) {
                break;
            }
            if !self.shed(pool) {
                return;
            }
        }
        self.list_key(id, by_client, now, pool);
    }

    /// The position behind which the stream of a durable topic must be read for a replay, if that begins before the
    /// messages in memory.
    pub fn stream_position(
        &mut self,
        id: OwnedTopicId,
        from: Replay,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<Position> {
        // Without a cluster there are no streams.
        let is_durable = |owned: &&mut OwnedTopic| owned.settings.durable.is_on;
        let owned = self.table.get_mut(id.key()).filter(is_durable)?;
        self.names_forgotten.as_ref()?;
        owned.forget_old(now, pool);
        self.by_size.set(id.index, owned.history.charged_bytes());
        let after = match from {
            Replay::After(after) | Replay::Continued(after) => after,
            Replay::Newcomer => owned.offset.saturating_sub(owned.settings.snapshot.into()),
            Replay::Latest(_) => return None,
        };
        // Of the messages in one stream of many topics, no more are read than a topic may have.
        let first = owned.offset.saturating_sub(owned.settings.durable.messages.into());
        let offset = after.max(first);
        (offset + 1 < owned.oldest_kept()).then_some(Position { offset, epoch: owned.epoch })
    }
}
