//! Subscriptions that have moved to this shard: each is replayed behind the position that its client has reached, and goes live where
//! the last page ends. The client is told nothing, unless messages are missing.
//!
//! The replay is made even where this shard has reached the same offset: only the place of a page in the forward lane says which
//! messages follow it.

use echoring_proto::CloseCode;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{
    ClientId, Encoding, Format, Keeping, OwnedTopicId, Page, Refused, Replay, SubscriberId, TopicId, entries,
};

use super::Broadcast;
use super::frame_encoder::raw_kind;
use super::sequencer::OrderedBy;
use super::session::{ReplayState, SessionSubscription, SubscriptionState};
use super::sessions::{close_interrupted, close_slow};
use super::shard_mail::{Publisher, ShardMail, origin};
use super::v1_events::write_presence_stale;
use crate::peer::{ConnectionContext, Peer, ShardResources};

impl Broadcast {
    /// Begins the replay of a subscription that has moved here, once the owner of its topic is known. False, and nothing done, for any
    /// other subscription.
    pub(super) fn continue_subscription(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) -> bool {
        if matches!(link.peer, Peer::Subscriber(_)) {
            self.continue_raw(link, topic);
            return true;
        }
        let own = link.peer.session_mut().and_then(|session| session.find(topic));
        let Some(&mut SessionSubscription { state: SubscriptionState::Continued(position), .. }) = own else {
            return false;
        };
        match self.known_epoch(topic) {
            None => {}
            Some(epoch) if epoch == position.epoch => {
                self.announce_continued(link, topic);
                self.begin_replay(link, topic, ReplayState::continued(position.offset));
            }
            Some(_) => self.interrupt_replay(link, topic, position),
        }
        true
    }

    /// The epoch of a topic whose owner has answered.
    fn known_epoch(&self, topic: TopicId) -> Option<u64> {
        self.subscriptions.get(topic).filter(|known| known.owned.is_some()).map(|known| known.epoch)
    }

    fn continue_raw(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) {
        let Some(epoch) = self.known_epoch(topic) else { return };
        let Some(replay) = self.settling.raw(link.token) else { return };
        if replay.position.epoch != epoch {
            self.interrupt_raw_replay(link, topic);
            return self.leave_if_deserted(&mut link.resources(), topic);
        }
        self.sessions.replay_due.push_back(link.token);
    }

    /// Requests the next page for a raw subscriber.
    pub(super) fn request_raw_page(&mut self, link: &mut ConnectionContext<'_>) {
        let Peer::Subscriber(subscriber) = &*link.peer else { return };
        let topic = subscriber.topic;
        let Some(owner) = self.subscriptions.owner_shard(topic) else { return };
        let replay = self.settling.raw(link.token).filter(|replay| !replay.requested);
        let Some(replay) = replay else { return };
        replay.requested = true;
        let from = Replay::Continued(replay.position.offset);
        if let Some((page, bytes)) = self.sequencer.request_page(link, topic, owner, from) {
            self.replay_page(link, topic, from, page, &bytes);
        }
    }

    /// A page of history for a raw subscriber arrived.
    pub(super) fn raw_page(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        from: Replay,
        page: Result<Page, Refused>,
        messages: &[u8],
    ) {
        let Peer::Subscriber(subscriber) = &*link.peer else { return };
        let is_its = subscriber.topic == topic;
        let replay = self.settling.raw(link.token).filter(|replay| is_its && replay.requested);
        let Some(replay) = replay.filter(|replay| Replay::Continued(replay.position.offset) == from) else {
            return;
        };
        replay.requested = false;
        match page {
            Ok(page) if page.after <= page.head.offset => {
                let reached = send_raw(link, &page, messages);
                replay.position.offset = reached.unwrap_or(replay.position.offset);
                let is_behind = page.complete && reached != Some(page.head.offset);
                if reached.is_none() || is_behind {
                    // A raw route has no event for a loss.
                    self.stop_raw_replay(link, topic);
                    close_slow(link);
                } else if page.complete {
                    self.go_live_raw(link, topic);
                }
            }
            Ok(_) | Err(Refused::Behind) => drop(self.interrupt_raw_replay(link, topic)),
            Err(refused) => self.refuse_raw(link, topic, refused),
        }
        self.leave_if_deserted(&mut link.resources(), topic);
    }

    fn go_live_raw(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) {
        self.subscriptions.stop_waiting(topic, link.token);
        let compression = self.continued_compression(link, topic);
        let own = origin(self.number(link.mailboxes.shard()), link.token);
        let Peer::Subscriber(subscriber) = &mut *link.peer else { return };
        let skip = if subscriber.echo_own { 0 } else { own };
        let format = Format { dialect: Encoding::Raw, compression };
        let member = self.fan_out.topics.subscribe(topic, link.token, format, skip);
        subscriber.member = member;
        let skipping = member.filter(|_| !subscriber.echo_own);
        self.publish_behind_replay(link.token, skipping);
    }

    /// The topic of a raw subscriber with a replay continues elsewhere: its client returns. False, and nothing done, for any other
    /// connection.
    pub(super) fn interrupt_raw_replay(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) -> bool {
        let replays = self.settling.replays(link.token);
        if replays {
            self.stop_raw_replay(link, topic);
            close_interrupted(link);
        }
        replays
    }

    /// The owner of the topic of a raw subscriber has refused it.
    pub(super) fn refuse_raw(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId, refused: Refused) {
        self.stop_raw_replay(link, topic);
        link.close(CloseCode::TRY_AGAIN_LATER, &refused.to_string());
    }

    fn stop_raw_replay(&mut self, link: &ConnectionContext<'_>, topic: TopicId) {
        self.subscriptions.stop_waiting(topic, link.token);
        self.publish_behind_replay(link.token, None);
    }

    /// The replay of a raw subscriber is over. Its publications go on.
    pub(super) fn publish_behind_replay(&mut self, token: Token, member: Option<SubscriberId>) {
        let Some(replay) = self.settling.take_raw(token) else { return };
        for (publisher, stored) in replay.held {
            self.held.add(Publisher { member, ..publisher }, stored);
        }
    }

    /// A subscription that has moved here is live, and gets all events from now on. If others have joined or left meanwhile, its client
    /// is sent the members.
    pub(super) fn note_live(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) {
        let token = link.token;
        let Some(since) = self.settling.take_presence_since(token, topic) else { return };
        let Some((owner_shard, owned)) = self.subscriptions.owner_shard(topic) else { return };
        if self.sequencer.ordered_by != OrderedBy::ThisProcess {
            // It has come back to a predecessor, whose successor is not asked.
            self.presence_missed(link, topic);
        } else if !self.sequencer.orders(owner_shard, link.mailboxes.shard()) {
            let mail = ShardMail::PresenceSince { owned, local: topic, token, since };
            self.sequencer.request(link.mailboxes, owner_shard, mail, "");
        } else if self.has_told_presence_since(owned, since) {
            self.presence_missed(link, topic);
        }
    }

    /// Whether subscribers of an owned topic were told of changes of its members since a time.
    pub(super) fn has_told_presence_since(&self, owned: OwnedTopicId, since: Nanos) -> bool {
        self.sequencer.topics.presence_told_at(owned).is_none_or(|at| at >= since)
    }

    /// The client of a session is sent the members of a topic, because it may have missed events of presence.
    pub(super) fn presence_missed(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) {
        // It may have left the topic since, or be about to subscribe again.
        if link.peer.session_mut().is_none_or(|session| !session.is_live(topic)) {
            return;
        }
        let Broadcast { sessions, fan_out, .. } = self;
        sessions.send_with(link, |out| write_presence_stale(fan_out.name(topic), out));
        if let Some(session) = link.peer.session_mut() {
            session.restart_members(topic);
            sessions.members_due.push_back(link.token);
        }
    }

    /// The owner of the topic of a subscription that has moved here has refused it, or does not answer. False, and nothing done, for any
    /// other subscription.
    pub(super) fn refuse_continued(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        refused: Refused,
    ) -> bool {
        if matches!(link.peer, Peer::Subscriber(_)) {
            self.refuse_raw(link, topic, refused);
            return true;
        }
        let own = link.peer.session_mut().and_then(|session| session.find(topic));
        let Some(&mut SessionSubscription { state: SubscriptionState::Continued(position), .. }) = own else {
            return false;
        };
        self.end_replay(link, topic, position);
        true
    }

    /// A subscription has ended. If it has moved here and was not live, the owner of its topic still lists its client.
    pub(super) fn depart_if_continued(
        &mut self,
        resources: &mut ShardResources<'_>,
        client: ClientId,
        subscription: &SessionSubscription,
    ) {
        let topic = subscription.topic;
        if !subscription.continues() {
            return;
        }
        if self.known_epoch(topic).is_some() {
            self.report_presence(resources, topic, client, None);
        } else if self.subscriptions.get(topic).is_some() {
            self.settling.note_departed(topic, client);
        }
    }
}

/// Sends the messages of a page to a raw subscriber. Returns the offset that it reaches; `None` if messages are missing.
fn send_raw(link: &mut ConnectionContext<'_>, page: &Page, messages: &[u8]) -> Option<u64> {
    if page.first != page.after + 1 {
        return None;
    }
    let mut reached = page.after;
    for (offset, publication) in entries(messages) {
        if offset != reached + 1 || publication.keeping == Keeping::Omitted {
            return None;
        }
        // A connection that is closed meanwhile is sent nothing more.
        link.send_past(raw_kind(publication.content), publication.payload);
        reached = offset;
    }
    Some(reached)
}
