//! Retention: while connections move between shards or processes, topics keep the messages that their subscribers are not sent
//! meanwhile, whatever the settings of their histories say.

use super::{OwnedTopic, OwnedTopicId, OwnedTopics};
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

impl OwnedTopics {
    /// Keeps every message of topics that are not durable from now on until this time at least, within a bound in bytes per topic and as far as there is memory. No
    /// topic is forgotten meanwhile for lack of subscribers.
    pub fn retain_until(&mut self, until: Nanos) {
        self.retain_until = self.retain_until.max(until);
    }

    /// Whether messages are kept for subscribers that move.
    pub fn retains(&self, now: Nanos) -> bool {
        now < self.retain_until
    }

    /// Until when they are; 0 if no topic has any.
    pub fn retained_until(&self) -> Nanos {
        self.retain_until
    }

    /// Keeps the message that a topic is about to store, and those behind it.
    #[inline]
    pub(super) fn retain(&mut self, id: OwnedTopicId, now: Nanos) {
        if self.retains(now) {
            self.begin_retention(id);
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_retention(&mut self, id: OwnedTopicId) {
        // The stream of a durable topic has its messages.
        let begins =
            |owned: &&mut OwnedTopic| owned.retained_after.is_none() && !owned.settings.durable.is_on;
        if let Some(owned) = self.table.get_mut(id.key()).filter(begins) {
            owned.retain_after(owned.offset - 1);
            self.retained.push(id);
        }
    }

    /// Once the time is over, the topics keep again what their settings say.
    pub(super) fn expire_retention(&mut self, now: Nanos, pool: &mut Pool) {
        if self.retain_until == 0 || self.retains(now) {
            return;
        }
        self.retain_until = 0;
        for id in std::mem::take(&mut self.retained) {
            if let Some(owned) = self.table.get_mut(id.key()) {
                owned.end_retention(pool);
                self.by_size.set(id.index, owned.history.charged_bytes());
            }
        }
    }
}
