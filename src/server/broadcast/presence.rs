//! Presence: the owner of a topic counts its subscribers and tells every subscribing shard of each change.

use super::Broadcast;
use super::shard_mail::ShardMail;
use echoring_runtime::shard::{Lane, ShardResources};
use echoring_topics::{ClientId, OwnedTopicId, TopicId, TopicSettings};

/// A subscriber joined or left.
#[derive(Clone, Copy, Debug)]
pub(super) struct PresenceChange<'a> {
    pub(super) client: ClientId,
    /// The subject of its credentials; empty for none.
    pub(super) subject: &'a str,
    pub(super) joined: bool,
    /// Subscribers after the change.
    pub(super) count: u64,
}

impl Broadcast {
    /// Tells the owner that a session joined a topic, with the subject of its credentials, or left it, if the topic has presence.
    pub(super) fn report_presence(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        topic: TopicId,
        client: ClientId,
        joined: Option<&str>,
    ) {
        if !self.fan_out.has(topic, TopicSettings::has_presence) {
            return;
        }
        let Some((owner, owned)) = self.subscriptions.owner(topic) else { return };
        let mail = ShardMail::Presence { owned, client, joined: joined.is_some() };
        self.pending.push(owner, mail, joined.unwrap_or_default());
        // Earlier requests are tried again at the end of the tick.
        if self.pending.len() == 1 {
            self.post_pending(resources);
        }
    }

    /// Posts the pending requests, and does those for topics that this shard owns.
    pub(super) fn post_pending(&mut self, resources: &mut ShardResources<'_, ShardMail>) {
        self.pending.post(resources.mailboxes);
        let here = resources.mailboxes.shard();
        while resources.mailboxes.all_have_room(Lane::Forward, 0)
            && let Some((mail, subject)) = self.pending.take_for(here)
        {
            if let ShardMail::Presence { owned, client, joined } = mail {
                self.change_presence(resources, owned, client, joined.then_some(&*subject));
            }
        }
    }

    /// The owner's part: counts the subscriber and forwards the event. In a cluster, the owner node does.
    pub(super) fn change_presence(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        owned: OwnedTopicId,
        client: ClientId,
        joined: Option<&str>,
    ) {
        let (topics, queue) = (&self.sequencer.topics, &mut self.sequencer.queue);
        if !topics.lists_forgotten() {
            self.apply_presence(resources, owned, client, joined);
        } else if let Some(name) = topics.name(owned) {
            queue.change_member(name, client, joined);
        }
    }

    /// Changes the list, and forwards the event.
    pub(super) fn apply_presence(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        owned: OwnedTopicId,
        client: ClientId,
        joined: Option<&str>,
    ) {
        let changed = self.sequencer.change_presence(resources.mailboxes, owned, client, joined);
        if let Some((count, subject, Some(local))) = changed {
            let change = PresenceChange { client, subject: &subject, joined: joined.is_some(), count };
            self.presence_changed(resources, local, &change);
        }
    }

    /// A presence event for the subscribers of this shard.
    pub(super) fn presence_changed(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        topic: TopicId,
        change: &PresenceChange<'_>,
    ) {
        if let Some(subscription) = self.subscriptions.get_mut(topic) {
            subscription.present = change.count;
        }
        let Broadcast { fan_out, sequencer, .. } = self;
        fan_out.append_presence(&mut sequencer.topics, resources, topic, change);
    }
}
