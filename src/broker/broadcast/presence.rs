//! Presence: the owner of a topic counts its subscribers and tells every subscribing shard of the changes, so often. Changes
//! that wait are merged.

use super::Broadcast;
use super::events::PresenceChange;
use super::presence_changes::Change;
use super::sequencer::Sequencer;
use super::shard_mail::ShardMail;
use crate::peer::{ConnectionContext, ShardResources};
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::Lane;
use echoring_topics::{ClientId, OwnedTopicId, Profile, TopicId, TopicSettings};

/// A subscriber that joins a topic, with its profile, or leaves it.
pub(super) struct MembershipChange<'a> {
    pub(super) client: ClientId,
    pub(super) joined: Option<&'a str>,
    /// It is a client of the predecessor.
    pub(super) is_far: bool,
}

impl Broadcast {
    /// Informs the owner that a session joined a topic, with the subject of its credentials, or left it, if the topic
    /// has presence.
    pub(super) fn report_presence(
        &mut self,
        resources: &mut ShardResources<'_>,
        topic: TopicId,
        client: ClientId,
        joined: Option<&str>,
    ) {
        if !self.fan_out.has(topic, TopicSettings::has_presence) {
            return;
        }
        if let Some(subscription) = self.subscriptions.get_mut(topic) {
            // The next subscriber of this shard is told the number, before the owner tells the change.
            let present = subscription.present;
            subscription.present =
                if joined.is_some() { present.saturating_add(1) } else { present.saturating_sub(1) };
        }
        self.post_presence(resources, topic, client, joined);
    }

    /// Informs the owner that this shard has a member of a topic with presence now. It is listed and counted already.
    pub(super) fn announce_continued(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) {
        if !self.fan_out.has(topic, TopicSettings::has_presence) {
            return;
        }
        let client = self.client_id(link);
        let profile = link.peer.session().map(|session| session.profile_in(Some(topic))).unwrap_or_default();
        self.post_presence(&mut link.resources(), topic, client, Some(&profile));
    }

    fn post_presence(
        &mut self,
        resources: &mut ShardResources<'_>,
        topic: TopicId,
        client: ClientId,
        joined: Option<&str>,
    ) {
        let Some((owner_shard, owned)) = self.subscriptions.owner_shard(topic) else { return };
        let mail = ShardMail::Presence { owned, client, joined: joined.is_some() };
        self.sequencer.requests.push(owner_shard, mail, joined.unwrap_or_default());
        // Earlier requests are tried again at the end of the tick.
        if self.sequencer.requests.len() == 1 {
            self.post_pending(resources);
        }
    }

    /// Posts the pending requests, and does those for topics that this shard owns.
    pub(super) fn post_pending(&mut self, resources: &mut ShardResources<'_>) {
        let Sequencer { requests, ordered_by, .. } = &mut self.sequencer;
        requests.post(resources.mailboxes, *ordered_by);
        let here = resources.mailboxes.shard();
        while self.sequencer.orders(here, here)
            && resources.mailboxes.all_have_room(Lane::Forward, 0)
            && let Some((mail, subject)) = self.sequencer.requests.take_for(here)
        {
            if let ShardMail::Presence { owned, client, joined } = mail {
                let change = MembershipChange { client, joined: joined.then_some(&*subject), is_far: false };
                self.change_presence(owned, &change);
            }
        }
    }

    /// The owner's part: counts the subscriber. The event follows when it is due, unless the subscriber has joined and left until then. One
    /// that joins and is listed has moved, and nobody is told. Webhooks are told every change. In a cluster, the owner node counts.
    pub(super) fn change_presence(&mut self, owned: OwnedTopicId, change: &MembershipChange<'_>) {
        let MembershipChange { client, joined, is_far } = *change;
        let Broadcast { sequencer, presence_changes, presence_reports, topic_events, now, .. } = self;
        let topics = &mut sequencer.topics;
        let is_far = is_far && joined.is_some();
        if topics.lists_forgotten() {
            topics.set_member_far(owned, client, is_far);
            let subject = joined.or_else(|| topics.member(owned, client)).unwrap_or_default();
            return presence_reports.note((owned, client), subject.into(), joined.is_some(), 0);
        }
        let is_listed = joined.is_some() && topics.member(owned, client).is_some();
        let Some((_, subject, _)) = topics.presence(owned, client, joined) else { return };
        topics.set_member_far(owned, client, is_far);
        if is_listed {
            return;
        }
        if let (Some(events), Some(topic)) = (topic_events, topics.name(owned)) {
            events.note_member(topic, client, &subject, joined.is_some());
        }
        let due = topics.tell_presence_at(owned, *now);
        presence_changes.note((owned, client), subject, joined.is_some(), due);
    }

    /// Reports the changes of this shard's members since the last tick to the cluster, which tells them.
    pub(super) fn report_presence_changes(&mut self) {
        while let Some(((owned, client), Change { was_member, subject, joined })) =
            self.presence_reports.take(0)
        {
            let Sequencer { topics, queue, .. } = &mut self.sequencer;
            let Some(name) = topics.name(owned) else { continue };
            if was_member {
                queue.change_presence(name, client, None);
            }
            if joined {
                queue.change_presence(name, client, Some(&subject));
            }
        }
    }

    /// Tells subscribers the changes of members that are due, as far as there is room.
    ///
    /// `at` is the time by the clock, behind everything that was answered in this tick. Those that are due `until` then are told.
    pub(super) fn tell_presence_changes(
        &mut self,
        resources: &mut ShardResources<'_>,
        at: Nanos,
        until: Nanos,
    ) {
        while resources.mailboxes.all_have_room(Lane::Forward, 0)
            && self.sequencer.forwards.is_empty()
            && let Some(((owned, client), Change { subject, joined, .. })) = self.presence_changes.take(until)
        {
            self.tell_presence(resources, owned, (client, &subject), joined, at);
        }
    }

    /// Changes the list of a topic by what the cluster says, at a time by the clock. The event follows when it is due. Webhooks are
    /// told by the node that owns the topic, this one if `is_owner`.
    pub(super) fn apply_presence(
        &mut self,
        (owned, is_owner): (OwnedTopicId, bool),
        client: ClientId,
        joined: Option<&str>,
        at: Nanos,
    ) {
        let Broadcast { sequencer, presence_changes, topic_events, now, .. } = self;
        let topics = &mut sequencer.topics;
        let Some((_, subject, shards)) = topics.presence(owned, client, joined) else { return };
        let is_heard = !shards.is_empty();
        if let (Some(events), Some(topic)) = (topic_events.as_mut().filter(|_| is_owner), topics.name(owned))
        {
            events.note_member(topic, client, &subject, joined.is_some());
        }
        if is_heard || presence_changes.has(owned) {
            let due = topics.tell_presence_at(owned, *now);
            presence_changes.note((owned, client), subject, joined.is_some(), due);
        } else {
            // A subscriber that is about to move here may have missed it. Others are told the list.
            topics.note_presence_told(owned, at);
        }
    }

    fn tell_presence(
        &mut self,
        resources: &mut ShardResources<'_>,
        owned: OwnedTopicId,
        (client, subject): (ClientId, &str),
        joined: bool,
        at: Nanos,
    ) {
        let Sequencer { topics, forwards, .. } = &mut self.sequencer;
        topics.note_presence_told(owned, at);
        let Some((present, shards)) = topics.present(owned) else { return };
        // The list shows the changes behind this one, too.
        let count = present.saturating_add_signed(-self.presence_changes.net(owned));
        let mail = |local| ShardMail::PresenceChanged { local, client, joined, count };
        let (local, _) = forwards.forward(resources.mailboxes, shards, mail, &[subject.as_bytes()]);
        if let Some(local) = local {
            let change = PresenceChange { client, profile: Profile(subject), joined, count };
            self.presence_changed(resources, local, &change);
        }
    }

    /// A presence event for the subscribers of this shard.
    pub(super) fn presence_changed(
        &mut self,
        resources: &mut ShardResources<'_>,
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
