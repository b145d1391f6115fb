//! Presence: the owner of a topic counts its subscribers and tells every subscribing shard of each change.

use super::Broadcast;
use super::shard_mail::ShardMail;
use echoring_runtime::shard::{Lane, ShardResources};
use echoring_topics::{OwnedTopicId, TopicId};

impl Broadcast {
    /// Tells the owner that a session joined or left a topic, if the topic has presence.
    pub(super) fn report_presence(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        topic: TopicId,
        client: u64,
        joined: bool,
    ) {
        if !self.fan_out.has(topic, |settings| settings.presence) {
            return;
        }
        let Some((owner, owned)) = self.subscriptions.owner(topic) else { return };
        self.pending.push(owner, ShardMail::Presence { owned, client, joined });
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
            && let Some(mail) = self.pending.take_for(here)
        {
            if let ShardMail::Presence { owned, client, joined } = mail {
                self.change_presence(resources, owned, client, joined);
            }
        }
    }

    /// The owner's part: counts the subscriber and forwards the event.
    pub(super) fn change_presence(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        owned: OwnedTopicId,
        client: u64,
        joined: bool,
    ) {
        let changed = self.sequencer.change_presence(resources.mailboxes, owned, client, joined);
        if let Some((count, Some(local))) = changed {
            self.presence_changed(resources, local, client, joined, count);
        }
    }

    /// A presence event for the subscribers of this shard.
    pub(super) fn presence_changed(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        topic: TopicId,
        client: u64,
        joined: bool,
        count: u64,
    ) {
        if let Some(subscription) = self.subscriptions.get_mut(topic) {
            subscription.present = count;
        }
        let Broadcast { fan_out, sequencer, .. } = self;
        fan_out.append_presence(&mut sequencer.topics, resources, topic, client, joined, count);
    }
}
