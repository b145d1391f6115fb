//! A topic on its owner shard: its position, its history, and the permission to publish.

use super::creators::Creator;
use super::idempotency::Keys;
use super::member_list::MemberList;
use super::replay::{ENTRY_BYTES, KEPT_BYTES, Page, append_message};
use crate::accounts::{OwnerReport, Publications};
use crate::channel::keyed::Keyed;
use crate::channel::log::Log;
use crate::collections::by_pattern::PatternNumber;
use crate::limits::{KEYS_MAX, RETAINED_BYTES_MAX};
use crate::message::{Content, Keeping, Position, Publication, Refused, Version};
use crate::settings::{HistoryBounds, SlowConsumerPolicy, TopicSettings};
use crate::topic::TopicId;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::{Nanos, SECOND};

#[derive(Debug, Default)]
pub(crate) struct OwnedTopic {
    pub(crate) name: Box<str>,
    pub(crate) settings: TopicSettings,
    pub(crate) epoch: u64,
    /// Messages published so far; the next one gets the next offset.
    pub(crate) offset: u64,
    /// The shards with subscribers, and their ids of the topic.
    pub(crate) shards: Vec<(usize, TopicId)>,
    pub(crate) publications: Publications,
    pub(crate) payload_bytes: u64,
    /// The place of its counts on the shard.
    pub(crate) pattern: PatternNumber,
    pub(crate) rate: Rate,
    pub(crate) history: Log,
    /// The latest message of each key, if the topic conflates.
    pub(crate) keyed: Keyed,
    /// Messages up to this offset, including those of keys, were forgotten with the topic.
    pub(crate) keyed_since: u64,
    /// Idempotency keys: the operator's, and the clients', which must not interfere with the operator's. Few topics
    /// have any.
    pub(crate) idempotent: Option<Box<[Keys; 2]>>,
    /// The version of the latest publication, encoded. Few topics have any.
    pub(crate) version: Box<[u8]>,
    /// Subscribers with presence.
    pub(crate) members: MemberList,
    pub(crate) creator: Creator,
    /// When the last subscriber left; `None` while there are subscribers.
    pub(crate) idle_since: Option<Nanos>,
    /// Kept for other users than the shards of this node.
    pub(crate) is_held: bool,
    /// Messages after this offset are kept for subscribers that move, whatever the settings say.
    pub(crate) retained_after: Option<u64>,
}

impl OwnedTopic {
    /// The current position.
    pub(crate) fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.offset }
    }

    /// Returns the memory.
    pub(crate) fn release(&mut self, pool: &mut Pool) {
        self.history.release(pool);
        self.keyed.release(pool);
        for keys in self.idempotent.iter_mut().flat_map(|keys| keys.iter_mut()) {
            keys.release(pool);
        }
    }

    pub(crate) fn refusal(
        &mut self,
        publication: &Publication<'_>,
        by_client: bool,
        pool: &mut Pool,
    ) -> Option<Refused> {
        let publish = self.settings.access.publish;
        if !(if by_client { publish.includes_clients() } else { publish.includes_operator() }) {
            return Some(Refused::Forbidden);
        }
        if self.settings.slow == SlowConsumerPolicy::Conflate {
            if publication.key.is_empty() {
                return Some(Refused::NoKey);
            }
            if !self.keyed.contains(publication.key) && self.keyed.len() >= KEYS_MAX {
                return Some(Refused::TooManyKeys);
            }
            // Accepted only if it can be stored: otherwise an older message of its key would be sent as the latest.
            // Nobody asks this copy for times.
            if !self.keyed.keep(pool, self.offset + 1, 0, publication) {
                return Some(Refused::OutOfMemory);
            }
        }
        None
    }

    /// Whether a publication of this version is not newer than the latest one. Only topics with history compare versions.
    pub(crate) fn is_stale(&self, version: Version<'_>) -> bool {
        self.settings.history.messages > 0 && version.is_stale(Version::new(&self.version))
    }

    /// A publication of this version was accepted.
    pub(crate) fn note_version(&mut self, version: Version<'_>) {
        if !version.is_none() {
            self.version = version.as_bytes().into();
        }
    }

    /// Forgets all messages that are stored for replay or for new subscribers.
    pub(crate) fn forget_messages(&mut self, pool: &mut Pool) {
        self.history.forget_all(self.offset, pool);
        self.keyed.release(pool);
        self.keyed_since = self.offset;
    }

    /// Stores a message for replay. False if there is no memory for it.
    pub(crate) fn remember(&mut self, publication: &Publication<'_>, now: Nanos, pool: &mut Pool) -> bool {
        if self.settings.history.messages == 0 && self.retained_after.is_none() {
            return true;
        }
        if self.history.end_offset() + 1 != self.offset {
            // A topic without history has stored nothing before.
            self.history.forget_all(self.offset - 1, pool);
        }
        let is_stored = self.store(self.offset, publication, now, pool);
        if is_stored {
            self.trim(pool);
        }
        is_stored
    }

    /// Adds the message `offset` to the end of the history. False if there is no memory for it.
    pub(crate) fn store(
        &mut self,
        offset: u64,
        publication: &Publication<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> bool {
        let publication = match publication.keeping {
            Keeping::Skipped if self.retained_after.is_none() => {
                Publication { keeping: Keeping::Omitted, ..Publication::new(Content::Binary, "", &[]) }
            }
            _ => *publication,
        };
        let meta: [u8; KEPT_BYTES] = [publication.head(), publication.key.len() as u8];
        let [author, tags, payload] = publication.body();
        let parts = [&meta[..], publication.key.as_bytes(), author, tags, payload];
        if self.history.append(pool, 0, offset, &parts).is_err() {
            return false;
        }
        self.history.publish(now);
        self.history.evict(pool);
        true
    }

    /// Evicts messages beyond the bound on their number. That works in pieces; those that stay are not replayed.
    pub(crate) fn trim(&mut self, pool: &mut Pool) {
        let behind = self.history.behind_offset(self.oldest_kept() - 1);
        self.history.forget_before(behind, pool);
    }

    /// Whether nothing is stored for replay or for new subscribers.
    pub(crate) fn keeps_nothing(&self) -> bool {
        self.history.bytes() == 0 && self.keyed.is_empty() && !self.is_idempotent()
    }

    /// Whether a publication may still be retried.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.idempotent.as_ref().is_some_and(|keys| keys.iter().any(|keys| !keys.is_empty()))
    }

    pub(crate) fn keys(&mut self, by_client: bool) -> &mut Keys {
        &mut self.idempotent.get_or_insert_default()[usize::from(by_client)]
    }

    /// The latest messages of their keys after `after`.
    pub(crate) fn latest(&self, after: u64, bytes_max: usize) -> (Page, Vec<u8>) {
        let (head, mut page) = (self.position(), Vec::new());
        let first = after.max(self.keyed_since) + 1;
        let mut told = Page { head, after, conflated: true, first, messages: 0, complete: true };
        for (offset, publication) in self.keyed.after(after) {
            let bytes = KEPT_BYTES + publication.bytes();
            if told.messages > 0 && page.len() + bytes + ENTRY_BYTES > bytes_max {
                told.complete = false;
                break;
            }
            append_message(&mut page, offset, &publication);
            told.messages += 1;
        }
        (told, page)
    }

    /// The offset of the oldest stored message that the settings keep. What is kept beyond them is for subscribers that move.
    pub(crate) fn oldest_shown(&self, now: Nanos) -> u64 {
        let oldest = self.oldest_kept();
        if self.retained_after.is_none() {
            return oldest;
        }
        let (HistoryBounds { messages, bytes, age }, log) = (self.settings.history, &self.history);
        let first = log.first_since(now.saturating_sub(age)).max(log.first_of_last(bytes));
        let wanted = (self.offset + 1).saturating_sub(messages.into());
        oldest.max(wanted).max(log.offset_before(first) + 1)
    }

    /// The offset of the oldest stored message.
    pub(crate) fn oldest_kept(&self) -> u64 {
        let kept = self.history.offset_before(self.history.start()) + 1;
        let wanted = (self.offset + 1).saturating_sub(u64::from(self.settings.history.messages));
        kept.max(self.retained_after.map_or(wanted, |after| wanted.min(after + 1)))
    }

    pub(crate) fn forget_old(&mut self, now: Nanos, pool: &mut Pool) {
        let since = self.history.first_since(now.saturating_sub(self.settings.history.age));
        if let Some(after) = self.retained_after {
            self.history.forget_before(since.min(self.history.behind_offset(after)), pool);
        } else if since >= self.history.end() {
            self.history.forget_all(self.offset, pool);
        } else {
            self.history.forget_before(since, pool);
        }
    }

    /// Keeps the messages after `after` from now on.
    pub(crate) fn retain_after(&mut self, after: u64) {
        self.retained_after = Some(after);
        self.history.set_bytes_max(self.settings.history.bytes.max(RETAINED_BYTES_MAX));
    }

    /// Keeps again as much as the settings say.
    pub(crate) fn end_retention(&mut self, pool: &mut Pool) {
        self.retained_after = None;
        self.history.set_bytes_max(self.settings.history.bytes);
        if self.settings.history.messages == 0 {
            return self.history.forget_all(self.offset, pool);
        }
        self.history.evict(pool);
        self.trim(pool);
    }

    pub(crate) fn report(&self, now: Nanos) -> OwnerReport {
        OwnerReport {
            epoch: self.epoch,
            offset: self.offset,
            publications: self.publications,
            payload_bytes: self.payload_bytes,
            rate: self.rate.per_second(now),
            history_messages: self.offset + 1 - self.oldest_kept().min(self.offset + 1),
            history_bytes: self.history.bytes() as u64,
            members: self.settings.has_presence().then(|| self.members.count()),
        }
    }
}

/// Messages per second, over the current and the previous period.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    period: Nanos,
    now: u64,
    before: u64,
    /// When the latest message came.
    pub(crate) latest: Nanos,
}

const PERIOD: Nanos = 10 * SECOND;

impl Rate {
    pub(crate) fn count(&mut self, now: Nanos) {
        self.latest = now;
        let period = now / PERIOD;
        if period != self.period {
            self.before = if period == self.period + 1 { self.now } else { 0 };
            self.now = 0;
            self.period = period;
        }
        self.now += 1;
    }

    pub(crate) fn per_second(&self, now: Nanos) -> f64 {
        let (current, before) = match (now / PERIOD).saturating_sub(self.period) {
            0 => (self.now, self.before),
            1 => (0, self.now),
            _ => (0, 0),
        };
        // The share of the previous period that completes the current one.
        let passed = (now % PERIOD) as f64 / PERIOD as f64;
        (current as f64 + before as f64 * (1.0 - passed)) / (PERIOD / SECOND) as f64
    }
}
