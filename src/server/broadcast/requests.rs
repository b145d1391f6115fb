//! The requests of a session: publish, subscribe, unsubscribe, and list the members.

use super::Broadcast;
use super::members::MembersPage;
use super::session::{ReplayState, SessionSubscription, SubscriptionState};
use super::shard_mail::origin;
use super::subscriptions::Waiting;
use crate::auth::Gate;
use crate::event_stream;
use crate::peer::{Peer, ServerApplication};
use crate::v1::{Command, ProtocolError, parse, server_event};
use echoring_proto::connection::MessageKind;
use echoring_runtime::admission::Limit;
use echoring_runtime::shard::ConnectionContext;
use echoring_topics::{Position, Publication, Refused, Replay, Right, TopicId, TopicSettings};

impl Broadcast {
    /// A session sent a message.
    pub(crate) fn request<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &mut Gate,
        kind: MessageKind,
        payload: &[u8],
    ) {
        if let Peer::Session(session) = &mut *link.peer {
            session.requests.begin();
        }
        let command = if kind == MessageKind::Text { parse(payload) } else { Err(ProtocolError::not_text()) };
        match command {
            Ok(Command::Publish { id, topic, content, key, idempotency_key, payload }) => {
                if let Err(limit) = gate.publish(link.token, link.now()) {
                    link.note_excess(limit, false);
                    self.sequencer.topics.note_refused();
                    return self.sessions.refuse(link, id, Refused::RateLimited);
                }
                let client = gate.client(link.token);
                let publication = Publication { content, key: &key, payload: &payload };
                self.publish_for_session(link, client, id, &topic, publication, &idempotency_key);
            }
            Ok(Command::Subscribe { id, topic, position }) => {
                self.subscribe_session(link, gate, id, &topic, position);
            }
            Ok(Command::Presence { id, topic, after, limit }) => {
                let client = gate.client(link.token);
                self.list_members(link, client, &MembersPage { id, name: &topic, after, limit });
            }
            Ok(Command::Authenticate { id, token }) => self.authenticate(link, gate, id, &token),
            Ok(Command::Unsubscribe { id, topic }) => self.unsubscribe_session(link, id, &topic),
            Err(error) => self.sessions.reject(link, &error),
        }
    }

    fn subscribe_session<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        gate: &mut Gate,
        id: Option<u64>,
        name: &str,
        from: Option<Position>,
    ) {
        let client = gate.client(link.token);
        if self.drain.is_on() {
            return self.sessions.refuse(link, id, Refused::Draining);
        }
        if !self.may(client, Right::Subscribe, name) {
            return self.sessions.reject(link, &ProtocolError::forbidden(id, Right::Subscribe));
        }
        let granted = self.granted(client, name);
        if let Some(error) = self.subscribe_error(link, id, name) {
            return self.sessions.reject(link, &error);
        }
        let creator = self.creator(link.mailboxes.shard(), link.token, client);
        let now = link.now();
        let counted = match gate.subscribe(link.token, now) {
            Ok(counted) => counted,
            Err(limit) => {
                link.note_excess(limit, false);
                let error = ProtocolError::too_many_subscriptions(id, limit);
                return self.sessions.reject(link, &error);
            }
        };
        let topic = match self.find_or_subscribe(&mut link.resources(), name, creator, now) {
            Ok(topic) => topic,
            Err(refused) => return self.sessions.refuse(link, id, refused),
        };
        let Peer::Session(session) = &mut *link.peer else { return };
        let state = SubscriptionState::AwaitingOwner { id, request: session.requests.latest(), from };
        session.subscriptions.push(SessionSubscription { topic, state, granted, counted });
        match self.subscriptions.get_mut(topic) {
            Some(subscription) if subscription.owned.is_none() => {
                subscription.waiting.push(Waiting::Session(link.token, now));
            }
            Some(_) => self.begin_subscription(link, topic),
            None => {}
        }
    }

    /// Why a session may not subscribe to a topic.
    fn subscribe_error<A: ServerApplication>(
        &self,
        link: &mut ConnectionContext<'_, A>,
        id: Option<u64>,
        name: &str,
    ) -> Option<ProtocolError> {
        let subscriptions_max = self.sessions.subscriptions_max;
        let Peer::Session(session) = &mut *link.peer else { return None };
        if self.fan_out.topics.find(name).is_some_and(|topic| session.find(topic).is_some()) {
            return Some(ProtocolError::already_subscribed(id));
        }
        (session.subscriptions.len() >= subscriptions_max as usize).then(|| {
            link.note_excess(Limit::Subscriptions, false);
            ProtocolError::too_many_subscriptions(id, Limit::Subscriptions)
        })
    }

    /// The owner is known: a subscription goes live, or replays history first.
    pub(super) fn begin_subscription<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        topic: TopicId,
    ) {
        let Some(epoch) = self.subscriptions.epoch(topic) else { return };
        let head = Position { epoch, offset: self.fan_out.topics.offset(topic) };
        let has_snapshot = head.offset > 0 && self.has_snapshot(topic);
        let Peer::Session(session) = &mut *link.peer else { return };
        let Some(subscription) = session.find(topic) else { return };
        let may_replay = subscription.granted.history;
        let has_snapshot = has_snapshot && may_replay;
        let SubscriptionState::AwaitingOwner { id, from, .. } = subscription.state else { return };
        match from {
            // The messages after a position of another epoch are unknown.
            Some(from) if from.epoch != epoch && has_snapshot => {
                self.begin_replay(link, topic, ReplayState::new(id, Replay::Newcomer, true));
            }
            Some(from) if from.epoch != epoch => self.begin_live(link, topic, id, head, Some(false)),
            Some(from) if from.offset != head.offset && !may_replay => {
                self.begin_live(link, topic, id, head, Some(false));
            }
            Some(from) if from.offset != head.offset => {
                self.begin_replay(link, topic, ReplayState::new(id, Replay::After(from.offset), false));
            }
            None if has_snapshot => {
                self.begin_replay(link, topic, ReplayState::new(id, Replay::Newcomer, false));
            }
            _ => self.begin_live(link, topic, id, head, from.map(|_| true)),
        }
    }

    /// Whether new subscribers of a topic are sent a part of its history.
    pub(super) fn has_snapshot(&self, topic: TopicId) -> bool {
        self.fan_out.has(topic, |settings| settings.has_snapshot())
    }

    /// Answers a subscription and makes it live at the head of the topic.
    pub(super) fn begin_live<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        topic: TopicId,
        id: Option<u64>,
        head: Position,
        recovered: Option<bool>,
    ) {
        self.send_subscribed(link, topic, id, head, recovered, None);
        self.go_live(link, topic);
    }

    pub(super) fn send_subscribed<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        topic: TopicId,
        id: Option<u64>,
        position: Position,
        recovered: Option<bool>,
        snapshot: Option<u64>,
    ) {
        let client = origin(self.number(link.mailboxes.shard()), link.token);
        let sees_presence = sees_presence(link, topic);
        let Broadcast { fan_out, subscriptions, sessions, .. } = self;
        if let Peer::Session(session) = &mut *link.peer
            && session.is_event_stream()
        {
            // A replay from the client's position says what is missing.
            let replays = |replay: &mut ReplayState| replay.from == Replay::After(position.offset);
            let is_reset = recovered == Some(false) && !session.replay(topic).is_some_and(replays);
            let name = fan_out.name(topic);
            return sessions.send_event(link, |event, _| {
                event_stream::subscribed(event, name, position, recovered, snapshot, is_reset);
            });
        }
        let has_presence = sees_presence && fan_out.has(topic, TopicSettings::has_presence);
        let known = subscriptions.get(topic).filter(|_| has_presence);
        let presence = known.map(|subscription| (subscription.present + 1, client));
        let name = fan_out.name(topic);
        sessions.send(link, |text| {
            server_event::subscribed(text, id, name, position, recovered, snapshot, presence);
        });
    }

    pub(super) fn go_live<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        topic: TopicId,
    ) {
        self.subscriptions.stop_waiting(topic, link.token);
        let window_bits = link.share_window();
        let sees_presence = sees_presence(link, topic);
        let token = link.token;
        let member = if link.peer.is_event_stream() {
            let epoch = self.subscriptions.epoch(topic).unwrap_or_default();
            self.fan_out.subscribe_event_stream(topic, token, epoch)
        } else {
            self.fan_out.subscribe_session(topic, token, window_bits, sees_presence)
        };
        let Some(member) = member else { return };
        let Peer::Session(session) = &mut *link.peer else { return };
        if let Some(subscription) = session.find(topic) {
            subscription.state = SubscriptionState::Live(member);
        }
        let subject = session.subject.clone();
        let client = origin(self.number(link.mailboxes.shard()), link.token);
        self.report_presence(&mut link.resources(), topic, client, Some(&subject));
    }

    fn unsubscribe_session<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        id: Option<u64>,
        name: &str,
    ) {
        let topic = self.fan_out.topics.find(name);
        let Peer::Session(session) = &mut *link.peer else { return };
        let Some(subscription) = topic.and_then(|topic| session.take(topic)) else {
            return self.sessions.reject(link, &ProtocolError::not_subscribed(id));
        };
        self.cancel_subscribe(link, &subscription.state);
        let token = link.token;
        self.leave(&mut link.resources(), token, &subscription);
        self.sessions.send(link, |text| server_event::unsubscribed(text, id, name));
    }

    /// Answers a subscribe request that was not answered yet, so that its client does not wait for ever.
    pub(super) fn cancel_subscribe<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        state: &SubscriptionState,
    ) {
        if let SubscriptionState::AwaitingOwner { id: id @ Some(_), .. }
        | SubscriptionState::Replaying(ReplayState { id, answered: false, .. }) = *state
        {
            let error = ProtocolError::not_subscribed(id);
            self.sessions.send(link, |text| server_event::error(text, &error));
        }
    }
}

/// Whether the client of a subscription may see who else subscribes.
fn sees_presence<A: ServerApplication>(link: &mut ConnectionContext<'_, A>, topic: TopicId) -> bool {
    let Peer::Session(session) = &mut *link.peer else { return false };
    session.find(topic).is_some_and(|subscription| subscription.granted.presence)
}
