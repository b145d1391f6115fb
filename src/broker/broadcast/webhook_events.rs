//! When the events of topics and members are told to webhooks.

use std::sync::Arc;

use super::Broadcast;
use super::following::Following;
use super::sequencer::OrderedBy;
use super::topic_events::TopicEvents;
use echoring_auth::{WebhookKinds, Webhooks};

impl Broadcast {
    /// Tells these webhooks about topics from now on.
    pub fn set_webhooks(&mut self, webhooks: &Arc<Webhooks>) {
        let is_ordered_far = self.sequencer.ordered_by == OrderedBy::FarShards;
        let is_on = webhooks.kinds().overlap(WebhookKinds::TOPICS) && !is_ordered_far;
        self.sequencer.topics.collect_changes(is_on);
        self.topic_webhooks = Arc::clone(webhooks);
        let before = self.topic_events.take();
        self.topic_events = is_on.then(|| Box::new(TopicEvents::instead_of(before)));
    }

    /// Whether something is to be told.
    pub(super) fn has_topic_events(&self) -> bool {
        let due = self.topic_events.as_ref().and_then(|events| events.due());
        due.is_some_and(|due| due <= self.now) || self.sequencer.topics.has_changes()
    }

    pub(super) fn tell_topic_events(&mut self) {
        let is_last = self.drain.is_on();
        if let Some(events) = &mut self.topic_events {
            events.tell(&self.topic_webhooks, &mut self.sequencer, self.now, is_last);
        }
    }

    /// This process tells them again, after another has ended with all their subscribers.
    pub(super) fn begin_topic_events(&mut self) {
        let webhooks = Arc::clone(&self.topic_webhooks);
        self.set_webhooks(&webhooks);
        self.note_all_left();
    }

    /// All subscribers leave, also those that this shard no longer hears of.
    pub(super) fn note_all_left(&mut self) {
        let Some(events) = &mut self.topic_events else { return };
        for (topic, client, profile) in self.sequencer.topics.vacate_all() {
            let is_owner = |following: &Following| following.table.is_owner(&topic);
            if client.node == self.ids.node() && self.sequencer.following.as_deref().is_none_or(is_owner) {
                events.note_member(&topic, client, &profile, false);
            }
        }
    }

    /// Another process tells them from now on.
    pub(super) fn end_topic_events(&mut self) {
        if let Some(mut events) = self.topic_events.take() {
            events.tell(&self.topic_webhooks, &mut self.sequencer, self.now, true);
        }
        self.sequencer.topics.collect_changes(false);
    }
}
