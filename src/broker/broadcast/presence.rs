//! Presence: the owner of a topic counts its subscribers and tells every subscribing shard of the changes of each tick.

use super::Broadcast;
use super::events::PresenceChange;
use super::presence_changes::Membership;
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
            // Nothing is told of who returns at once, and the next subscriber is told the number.
            let present = subscription.present;
            subscription.present =
                if joined.is_some() { present.saturating_add(1) } else { present.saturating_sub(1) };
        }
        self.post_presence(resources, topic, client, joined);
    }

    /// Informs the owner that this shard has a member of a topic with presence now. It is listed and counted already.
    pub(super) fn announce_moved(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) {
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
                self.change_presence(resources, owned, &change);
            }
        }
    }

    /// The owner's part: counts the subscriber. The event follows at the end of the tick, unless the subscriber is then what it was
    /// before: a client that leaves and returns costs the others nothing. One that joins and is listed has moved, and nobody is told.
    /// In a cluster, the owner node counts.
    pub(super) fn change_presence(
        &mut self,
        resources: &mut ShardResources<'_>,
        owned: OwnedTopicId,
        change: &MembershipChange<'_>,
    ) {
        let MembershipChange { client, joined, is_far } = *change;
        let Broadcast { sequencer, presence_changes, subscriptions, topic_events, .. } = self;
        let topics = &mut sequencer.topics;
        let is_far = is_far && joined.is_some();
        let subject = if topics.lists_forgotten() {
            topics.set_member_far(owned, client, is_far);
            topics.member(owned, client).unwrap_or_default().into()
        } else {
            let has_moved = joined.is_some() && topics.member(owned, client).is_some();
            let Some((count, subject, shards)) = topics.presence(owned, client, joined) else { return };
            let here = resources.mailboxes.shard();
            let local = shards.iter().find(|(shard, _)| *shard == here).map(|(_, local)| *local);
            topics.set_member_far(owned, client, is_far);
            if has_moved {
                return;
            }
            // New subscribers are told the number.
            if let Some(local) = local
                && let Some(subscription) = subscriptions.get_mut(local)
            {
                subscription.present = count;
            }
            subject
        };
        if let (Some(events), Some(topic)) = (topic_events, topics.name(owned)) {
            events.note_topic(owned, topic);
        }
        let before = joined.is_none().then_some(subject);
        presence_changes.note((owned, client), before, joined.map(Box::from));
    }

    /// Reports the changes of members since the last tick, as far as there is room.
    ///
    /// `now` is the time by the clock, behind everything that was answered in this tick.
    pub(super) fn tell_presence_changes(&mut self, resources: &mut ShardResources<'_>, now: Nanos) {
        self.presence_told_at = now;
        let is_shared = self.sequencer.topics.lists_forgotten();
        while is_shared
            || (resources.mailboxes.all_have_room(Lane::Forward, 0) && self.sequencer.forwards.is_empty())
        {
            let Some(((owned, client), Membership { before, now })) = self.presence_changes.take() else {
                return;
            };
            if is_shared {
                // The cluster tells them.
                let Sequencer { topics, queue, .. } = &mut self.sequencer;
                let Some(name) = topics.name(owned) else { continue };
                if before.is_some() {
                    queue.change_presence(name, client, None);
                }
                if now.is_some() {
                    queue.change_presence(name, client, now.as_deref());
                }
                continue;
            }
            let joined = now.is_some();
            let subject = now.or(before).unwrap_or_default();
            self.tell_presence(resources, owned, client, &subject, joined);
        }
    }

    /// Changes the list, and forwards the event.
    pub(super) fn apply_presence(
        &mut self,
        resources: &mut ShardResources<'_>,
        owned: OwnedTopicId,
        client: ClientId,
        joined: Option<&str>,
    ) {
        if let Some((_, subject, _)) = self.sequencer.topics.presence(owned, client, joined) {
            self.tell_presence(resources, owned, client, &subject, joined.is_some());
        }
    }

    fn tell_presence(
        &mut self,
        resources: &mut ShardResources<'_>,
        owned: OwnedTopicId,
        client: ClientId,
        subject: &str,
        joined: bool,
    ) {
        let Sequencer { topics, forwards, .. } = &mut self.sequencer;
        if let Some(events) = &mut self.topic_events {
            events.note_member(owned, topics.name(owned), (client, subject), joined);
        }
        topics.note_presence_told(owned, self.presence_told_at);
        let Some((count, shards)) = topics.present(owned) else { return };
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
