//! The requests of a session: publish, subscribe, unsubscribe, and list the members.

use super::Broadcast;
use super::dialect::Dialect;
use super::events::{SessionEvent, SubscribedEvent};
use super::ids::{ConnectionId, Ids};
use super::members::MembersPage;
use super::session::{
    AllowedBy, ReplayState, Session, SessionSubscription, SubscriptionRequest, SubscriptionState, Terms,
};
use super::sessions::dialect_of;
use super::shard_mail::origin;
use super::subscriptions::Waiting;
use crate::gate::Gate;
use crate::gate::quotas::CountedSubscription;
use crate::peer::{ConnectionContext, Peer};
use crate::publications::TopicPublication;
use crate::v1;
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::SECOND;
use echoring_runtime::admission::Limit;
use echoring_runtime::driver::Token;
use echoring_topics::{
    AllowedDelta, ClientId, Format, Position, Refused, Replay, Right, TopicId, TopicSettings,
};
use echoring_wire::v1::{Command, ProtocolError};

/// Stands for the epoch of the topic in the position of a client that does not name one. No topic has it.
pub(super) const ANY_EPOCH: u64 = 0;

/// A subscription that a client requests.
pub(super) struct WantedSubscription<'a> {
    pub(super) id: Option<u64>,
    pub(super) name: &'a str,
    pub(super) request: SubscriptionRequest,
    pub(super) terms: Terms,
}

/// Why a session does not get a subscription.
pub(super) enum Rejected {
    /// The request is wrong, or forbidden.
    Error(ProtocolError),
    /// The client subscribes faster than it may. That will pass, so it does not count as a protocol error.
    TooFast(ProtocolError),
    /// The topic cannot take it.
    Refused(Refused),
}

impl Rejected {
    /// The error for the client.
    pub(super) fn into_error(self, id: Option<u64>) -> ProtocolError {
        match self {
            Rejected::Error(error) | Rejected::TooFast(error) => error,
            Rejected::Refused(refused) => v1::refused(id, refused),
        }
    }
}

/// The answer to a subscription, see [`SubscribedEvent`].
pub(super) struct Begun<'a> {
    pub(super) id: Option<u64>,
    pub(super) position: Position,
    pub(super) recovered: Option<bool>,
    pub(super) snapshot: Option<u64>,
    pub(super) messages: &'a [u8],
}

impl Broadcast {
    /// A session sent a message.
    pub fn request(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        kind: MessageKind,
        payload: &[u8],
    ) {
        let Some(session) = link.peer.session_mut() else { return };
        if session.centrifuge().is_some() {
            return self.centrifuge_frame(link, gate, kind, payload);
        }
        session.requests.begin();
        let command = match kind {
            MessageKind::Text => Command::parse(payload, &v1::RULES),
            MessageKind::Binary => Err(ProtocolError::not_text()),
        };
        match command {
            Ok(Command::Publish { id, topic, key, idempotency_key, value }) => {
                let publication = v1::publication(key.as_deref(), &value);
                let idempotency_key = idempotency_key.as_deref().unwrap_or_default();
                let message =
                    TopicPublication { idempotency_key, ..TopicPublication::plain(&topic, publication) };
                self.publish_within_rate(link, gate, id, &message);
            }
            Ok(Command::Subscribe { id, topic, position }) => {
                let from = position.as_ref().map(v1::position_of);
                let request = SubscriptionRequest { from, presence: true, ..SubscriptionRequest::default() };
                let wanted = WantedSubscription { id, name: &topic, request, terms: Terms::default() };
                self.subscribe_session(link, gate, wanted);
            }
            Ok(Command::Presence { id, topic, after, limit }) => {
                let (client, after) = (gate.client(link.token), after.as_ref().map(v1::client_of));
                let page = MembersPage { id, name: &topic, after, limit };
                let _ = self.list_members(link, client, &page);
            }
            Ok(Command::History { id, topic, before, limit }) => {
                self.list_history(link, gate.client(link.token), id, &topic, (before, limit));
            }
            Ok(Command::Authenticate { id, token }) => self.authenticate(link, gate, id, &token),
            Ok(Command::Ping { id }) => {
                // A successor may take less than this connection.
                let owned = self.sequencer.max_message() as u64;
                let max_message = owned.min(link.max_message());
                self.sessions.send(link, &SessionEvent::Pong { id, max_message });
            }
            Ok(Command::Unsubscribe { id, topic }) => self.unsubscribe_session(link, id, &topic),
            Err(error) => self.sessions.reject(link, &error),
        }
    }

    /// A session subscribes.
    pub(super) fn subscribe_session(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        wanted: WantedSubscription<'_>,
    ) {
        let id = wanted.id;
        match self.try_subscribe(link, gate, wanted) {
            Ok(()) => {}
            Err(Rejected::Error(error)) => self.sessions.reject(link, &error),
            Err(Rejected::TooFast(error)) => self.sessions.send(link, &SessionEvent::Error(&error)),
            Err(Rejected::Refused(refused)) => self.sessions.refuse(link, id, refused),
        }
    }

    /// The same, with nothing sent if it fails.
    ///
    /// # Errors
    /// Why the session does not subscribe.
    pub(super) fn try_subscribe(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        wanted: WantedSubscription<'_>,
    ) -> Result<(), Rejected> {
        let WantedSubscription { id, name, request, terms } = wanted;
        let SubscriptionRequest { from, presence, must_recover, deltas, skips_own } = request;
        let Terms { allowed_by, application, expires_at } = terms;
        let client = gate.client(link.token);
        if self.drain.is_on() {
            return Err(Rejected::Refused(Refused::Draining));
        }
        if !self.may_subscribe(client, name, allowed_by) {
            return Err(Rejected::Error(v1::forbidden(id, Right::Subscribe)));
        }
        let mut granted = self.granted(client, name, allowed_by);
        granted.presence &= presence;
        let deltas = deltas && self.fan_out.topics.settings_of(name).delta == AllowedDelta::Fossil;
        if let Some(error) = self.subscribe_error(link, id, name) {
            return Err(Rejected::Error(error));
        }
        let creator = self.creator(link.mailboxes.shard(), link.token, client);
        let now = link.now();
        let counted = count_subscription(link, gate, id, allowed_by)?;
        let found = self.find_or_subscribe(&mut link.resources(), name, creator, now);
        let topic = found.map_err(Rejected::Refused)?;
        let Some(session) = link.peer.session_mut() else { return Ok(()) };
        let state = SubscriptionState::AwaitingOwner { id, request: session.requests.latest(), from };
        if session.subscriptions.is_empty() {
            // Members of a room have one: room for four would be most of what they take.
            session.subscriptions.reserve_exact(1);
        }
        session.subscriptions.push(SessionSubscription {
            topic,
            state,
            granted,
            must_recover,
            deltas,
            skips_own,
            allowed_by,
            expires_at,
            application,
            counted,
        });
        match self.subscriptions.get_mut(topic) {
            Some(subscription) if subscription.owned.is_none() => {
                subscription.waiting.push(Waiting::Session(link.token, now));
            }
            Some(_) => self.begin_subscription(link, topic),
            None => {}
        }
        Ok(())
    }

    /// Why a session may not subscribe to a topic.
    pub(super) fn subscribe_error(
        &self,
        link: &mut ConnectionContext<'_>,
        id: Option<u64>,
        name: &str,
    ) -> Option<ProtocolError> {
        let max_subscriptions = self.sessions.max_subscriptions;
        let session = link.peer.session_mut()?;
        if self.fan_out.topics.find(name).is_some_and(|topic| session.find(topic).is_some()) {
            return Some(ProtocolError::already_subscribed(id));
        }
        (session.subscriptions.len() >= max_subscriptions as usize).then(|| {
            link.note_excess(Limit::Subscriptions, false);
            v1::too_many_subscriptions(id, Limit::Subscriptions)
        })
    }

    /// The owner is known: a subscription goes live, or replays history first.
    pub(super) fn begin_subscription(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) {
        if self.continue_subscription(link, topic) {
            return;
        }
        let Some(epoch) = self.subscriptions.epoch(topic) else { return };
        let head = Position { epoch, offset: self.fan_out.topics.offset(topic) };
        let has_snapshot = head.offset > 0 && self.has_snapshot(topic);
        let may_omit_epoch = matches!(dialect_of(link), Dialect::Centrifuge(_));
        let Some(session) = link.peer.session_mut() else { return };
        let Some(subscription) = session.find(topic) else { return };
        let may_replay = subscription.granted.history;
        let has_snapshot = has_snapshot && may_replay;
        let SubscriptionState::AwaitingOwner { id, from, .. } = subscription.state else { return };
        let is_of_any = |from: &Position| from.epoch == ANY_EPOCH && may_omit_epoch;
        let from = from.map(|from| if is_of_any(&from) { Position { epoch, ..from } } else { from });
        match from {
            // The messages after a position of another epoch are unknown.
            Some(from) if from.epoch != epoch && has_snapshot => {
                self.begin_replay(link, topic, ReplayState::new(id, Replay::Newcomer, true));
            }
            Some(from) if from.epoch != epoch => self.begin_live(link, topic, id, head, Some(false)),
            // Another node has told the client of more than this one has.
            Some(from) if from.offset > head.offset && !may_replay && self.sequencer.following.is_some() => {
                let replay = ReplayState::new(id, Replay::After(from.offset), false);
                self.abandon_replay(link, topic, &replay, Refused::Behind);
            }
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
    pub(super) fn begin_live(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        id: Option<u64>,
        head: Position,
        recovered: Option<bool>,
    ) {
        if recovered == Some(false) && subscription(link, topic).is_some_and(|own| own.must_recover) {
            return self.refuse_unrecovered(link, topic, id);
        }
        if self.awaits_connect(link, topic) {
            return self.await_connect(link, topic, head, recovered, false);
        }
        let begun = Begun { id, position: head, recovered, snapshot: None, messages: &[] };
        self.send_subscribed(link, topic, &begun);
        self.go_live(link, topic);
    }

    /// Answers a subscription.
    pub(super) fn send_subscribed(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        begun: &Begun<'_>,
    ) {
        let (client, now) = (self.client_id(link), link.now());
        let Begun { id, position, recovered, snapshot, messages } = *begun;
        let Some(own) = subscription(link, topic) else { return };
        // A replay from the client's position says what is missing.
        let all = Replay::After(position.offset);
        let is_replayed = matches!(&own.state, SubscriptionState::Replaying(replay) if replay.from == all);
        let (granted, deltas) = (own.granted, own.deltas);
        let (allowed_by, expires_at) = (own.allowed_by, own.expires_at);
        let wake_at = own.refresh_at().or(expires_at);
        let data = own.take_data();
        // Without a token there is none to refresh.
        let refresh_by = expires_at.filter(|_| allowed_by == AllowedBy::Token);
        let Broadcast { fan_out, subscriptions, sessions, .. } = self;
        let has_presence = granted.presence && fan_out.has(topic, TopicSettings::has_presence);
        let known = subscriptions.get(topic).filter(|_| has_presence);
        let event = SubscribedEvent {
            id,
            topic: fan_out.name(topic),
            position,
            recovered,
            snapshot,
            is_reset: recovered == Some(false) && !is_replayed,
            presence: known.map(|subscription| (subscription.present + 1, client)),
            recoverable: granted.history,
            is_server_side: allowed_by.is_server_side(),
            deltas,
            expires_in_s: refresh_by.map(|at| at.saturating_sub(now) / SECOND),
            data: data.as_ref(),
            messages,
        };
        sessions.send(link, &SessionEvent::Subscribed(event));
        if let Some(at) = wake_at {
            self.wake_by(link, at);
        }
    }

    /// The id of a connection's client.
    pub(super) fn client_id(&self, link: &ConnectionContext<'_>) -> ClientId {
        self.client_of(link.mailboxes.shard(), link.token, link.peer)
    }

    /// The id of the client of a connection of this shard. It stays the same when the connection moves.
    pub fn client_of(&self, shard: usize, token: Token, peer: &Peer) -> ClientId {
        let session = peer.session();
        session.map_or_else(|| self.client_at(shard, token), |own| self.client_of_session(shard, token, own))
    }

    pub(super) fn client_of_session(&self, shard: usize, token: Token, session: &Session) -> ClientId {
        session.client.as_deref().copied().unwrap_or_else(|| self.client_at(shard, token))
    }

    /// The ids of the process.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// The id of a connection of this shard.
    pub fn connection_id(&self, shard: usize, token: Token) -> ConnectionId {
        self.ids.connection(self.number(shard), token)
    }

    /// The id of the client of a connection that has not moved.
    pub(super) fn client_at(&self, shard: usize, token: Token) -> ClientId {
        self.ids.client(self.number(shard), token)
    }

    pub(super) fn go_live(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) {
        self.subscriptions.stop_waiting(topic, link.token);
        let filter = self.filter(link, topic);
        let compression = self.session_compression(link, topic, filter.is_none());
        let (token, dialect, client) = (link.token, dialect_of(link), self.client_id(link));
        let own_origin = origin(self.number(link.mailboxes.shard()), token);
        let epoch = self.subscriptions.epoch(topic).unwrap_or_default();
        let Some(session) = link.peer.session_mut() else { return };
        let Some(own) = session.find(topic) else { return };
        let dialect = dialect.of_log(own.granted.presence, own.deltas, filter.is_some());
        let format = Format { dialect, compression };
        let skip = if own.skips_own { own_origin } else { 0 };
        let continues = own.continues();
        let member = self.fan_out.subscribe_session(topic, epoch, token, format, skip);
        let Some(member) = member else { return };
        if let Some(filter) = filter {
            self.fan_out.topics.set_filter(member, filter);
        }
        own.state = SubscriptionState::Live(member);
        let profile = session.profile_in(Some(topic));
        if continues {
            // The owner lists it already.
            self.note_live(link, topic);
        } else {
            self.report_presence(&mut link.resources(), topic, client, Some(&profile));
        }
    }

    /// A session unsubscribes.
    pub(super) fn unsubscribe_session(
        &mut self,
        link: &mut ConnectionContext<'_>,
        id: Option<u64>,
        name: &str,
    ) {
        let topic = self.fan_out.topics.find(name);
        let Some(session) = link.peer.session_mut() else { return };
        let Some(subscription) = topic.and_then(|topic| session.take(topic)) else {
            return self.sessions.reject(link, &ProtocolError::not_subscribed(id));
        };
        self.cancel_subscribe(link, &subscription.state);
        self.leave_topic(link, &subscription);
        self.sessions.send(link, &SessionEvent::Unsubscribed { id, topic: name });
    }

    /// Answers a subscribe request that was not answered yet, so that its client does not wait for ever.
    pub(super) fn cancel_subscribe(&mut self, link: &mut ConnectionContext<'_>, state: &SubscriptionState) {
        if let SubscriptionState::AwaitingOwner { id: id @ Some(_), .. }
        | SubscriptionState::Replaying(ReplayState { id, answered: false, .. }) = *state
        {
            let error = ProtocolError::not_subscribed(id);
            self.sessions.send(link, &SessionEvent::Error(&error));
        }
    }
}

/// Counts a subscription for the limits of its client.
///
/// # Errors
/// The exceeded limit.
fn count_subscription(
    link: &mut ConnectionContext<'_>,
    gate: &mut Gate,
    id: Option<u64>,
    allowed_by: AllowedBy,
) -> Result<Option<CountedSubscription>, Rejected> {
    let (token, now) = (link.token, link.now());
    if allowed_by.is_requested()
        && let Err(limit) = gate.request_subscription(token, true, now)
    {
        link.note_excess(limit, false);
        return Err(Rejected::TooFast(ProtocolError::subscribes_too_fast(id)));
    }
    gate.subscribe(token, now).map_err(|limit| {
        link.note_excess(limit, false);
        Rejected::Error(v1::too_many_subscriptions(id, limit))
    })
}

/// The subscription of a session to a topic.
pub(super) fn subscription<'l>(
    link: &'l mut ConnectionContext<'_>,
    topic: TopicId,
) -> Option<&'l mut SessionSubscription> {
    link.peer.session_mut()?.find(topic)
}
