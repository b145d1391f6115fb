//! Connections that move to another shard, or to another process: their subscriptions and sessions are turned into bytes, and continued
//! from them.
//!
//! ```text
//! begin_fence ─> is_fenced ─> may_move ─> put_peer ─ bytes ─> take_peer ─> set_peer ─> begin_continued
//! ```
//!
//! From before the fence until the connection is put into bytes, nothing is read from it. Then nothing that was sent to it is
//! queued or partly sent. Then nobody notices the move: neither the client, nor the other subscribers of its topics. A move that fails
//! continues with `take_peer` on the shard that it was on.

use super::Broadcast;
use super::centrifuge_session::CentrifugeSession;
use super::dialect::Dialect;
use super::events::SessionEvent;
use super::plain_session::{
    PlainPeer, PlainProtocol, PlainSession, PlainSubscriber, PlainSubscription, Reached,
};
use super::refreshing::refresh_of;
use super::sequencer::OrderedBy;
use super::session::{
    AllowedBy, ApplicationData, Protocol, Session, SessionSubscription, Subscriber, SubscriptionState,
};
use super::settling::RefusedSubscription;
use super::unanswered::Unanswered;
use crate::gate::Gate;
use crate::peer::{ConnectionContext, Context, DrainPhase, HandlerPeer, Peer, ShardResources};
use echoring_auth::AppEvent;
use echoring_proto::limits::Nanos;
use echoring_proto::{CloseCode, Plain as _};
use echoring_runtime::driver::Token;
use echoring_topics::{Creator, GapReason, Position, Refused, SubscriberId, TopicId, TopicSettings};

/// Stands for the topic of a raw subscriber that the shard could not subscribe to.
const NOWHERE: TopicId = TopicId { index: u32::MAX, generation: u32::MAX };
/// Stands for the slot of a handler that is not made yet.
const NO_SLOT: u32 = u32::MAX;

impl Broadcast {
    /// Whether a connection can be put into bytes now: it is a raw subscriber, a session or a handler's connection that has been sent
    /// everything, and no request of it is open. Otherwise it may later.
    pub fn may_move(&self, cx: &Context<'_>, token: Token) -> bool {
        let is_served = !self.drain.is_on()
            && self.sequencer.ordered_by != OrderedBy::Nobody
            && !self.sequencer.has_lost_far_shards
            && !self.settling.replays(token);
        is_served
            && !self.sessions.handler_events.are_for(token)
            && cx.peer_of(token).is_some_and(|peer| self.is_quiescent(peer))
    }

    fn is_quiescent(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Subscriber(subscriber) => {
                let position = subscriber.member.and_then(|member| self.settled(subscriber.topic, member));
                subscriber.held == 0 && position.is_some()
            }
            Peer::Session(session) => self.is_at_rest(session),
            Peer::Handler(handler) => {
                handler.held == 0
                    && handler.drain == DrainPhase::Serving
                    && handler.session.as_deref().is_none_or(|session| self.is_at_rest(session))
            }
            Peer::Echo => false,
        }
    }

    fn is_at_rest(&self, session: &Session) -> bool {
        let is_settled = |own: &SessionSubscription| {
            own.member().is_some_and(|member| self.settled(own.topic, member).is_some())
        };
        has_no_request(session) && session.subscriptions.iter().all(is_settled)
    }

    /// The position of a subscriber that has been sent everything.
    fn settled(&self, topic: TopicId, member: SubscriberId) -> Option<Position> {
        self.subscriptions.owner_shard(topic)?;
        let offset = self.fan_out.topics.settled(member)?;
        Some(Position { epoch: self.subscriptions.epoch(topic)?, offset })
    }

    /// Appends the state of a connection, which leaves its topics and this shard without an announcement.
    ///
    /// # Errors
    /// Returns the state, and appends nothing, if the connection [may not move](Broadcast::may_move).
    pub fn put_peer(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        peer: Peer,
        out: &mut Vec<u8>,
    ) -> Result<(), Peer> {
        let plain = |session: &Session| self.plain_session(cx, token, session).map(Box::new);
        let plain = match &peer {
            _ if !self.is_quiescent(&peer) => None,
            Peer::Subscriber(subscriber) => self.plain_subscriber(subscriber).map(PlainPeer::Subscriber),
            Peer::Session(session) => plain(session).map(PlainPeer::Session),
            &Peer::Handler(HandlerPeer { is_paused, session: None, .. }) => {
                Some(PlainPeer::Handler { is_paused, session: None })
            }
            &Peer::Handler(HandlerPeer { is_paused, session: Some(ref session), .. }) => {
                plain(session).map(|session| PlainPeer::Handler { is_paused, session: Some(session) })
            }
            Peer::Echo => None,
        };
        let Some(plain) = plain else { return Err(peer) };
        plain.put(out);
        self.fan_out.ages.forget(token);
        match peer {
            Peer::Subscriber(subscriber) => self.subscriber_closed(&mut cx.resources(), token, &subscriber),
            Peer::Session(session) | Peer::Handler(HandlerPeer { session: Some(session), .. }) => {
                self.session_left(&mut cx.resources(), token, &session);
            }
            Peer::Echo | Peer::Handler(_) => {}
        }
        Ok(())
    }

    fn plain_subscriber(&self, subscriber: &Subscriber) -> Option<PlainSubscriber> {
        let &Subscriber { topic, member, echo_own, may_publish, .. } = subscriber;
        Some(PlainSubscriber { reached: self.reached(topic, member)?, echo_own, may_publish })
    }

    /// How far a subscriber has got that has been sent everything.
    fn reached(&self, topic: TopicId, member: Option<SubscriberId>) -> Option<Reached> {
        let position = self.settled(topic, member?)?;
        Some(Reached { topic: self.fan_out.name(topic).into(), position })
    }

    fn plain_session(&self, cx: &Context<'_>, token: Token, session: &Session) -> Option<PlainSession> {
        let now = cx.now();
        let is_told = |own: &SessionSubscription| {
            session.dialect() == Dialect::V1
                && own.granted.presence
                && self.fan_out.has(own.topic, TopicSettings::has_presence)
        };
        let plain = |own: &SessionSubscription| {
            Some(PlainSubscription {
                reached: self.reached(own.topic, own.member())?,
                granted: own.granted,
                must_recover: own.must_recover,
                deltas: own.deltas,
                skips_own: own.skips_own,
                allowed_by: own.allowed_by,
                expires_in: own.expires_at.map(|at| at.saturating_sub(now)),
                is_counted: own.counted.is_some(),
                info: own.application.as_deref().map(|data| data.info.clone()).unwrap_or_default(),
                presence_since: is_told(own).then_some(self.fence.since),
            })
        };
        let protocol = match &session.protocol {
            Protocol::V1 => PlainProtocol::V1,
            Protocol::EventStream => PlainProtocol::EventStream,
            Protocol::Centrifuge(own) => {
                let (pings, forwarded) = (own.plain_pings(now)?, own.forwarded.clone());
                let (encoding, info, filters) = (own.encoding, own.info.clone(), own.filters.clone());
                PlainProtocol::Centrifuge { encoding, pings, forwarded, info, filters }
            }
            Protocol::Handler => PlainProtocol::Handler,
        };
        let client = self.client_of_session(cx.shard(), token, session);
        Some(PlainSession {
            client,
            subject: session.subject.clone(),
            requests: session.requests,
            protocol,
            subscriptions: session.subscriptions.iter().map(plain).collect::<Option<_>>()?,
        })
    }

    fn session_left(&mut self, resources: &mut ShardResources<'_>, token: Token, session: &Session) {
        self.forget_session(resources, token, session);
        for own in &session.subscriptions {
            if let Some(member) = own.member() {
                self.fan_out.topics.unsubscribe(member, resources.pool);
            }
            self.leave_if_deserted(resources, own.topic);
        }
    }

    /// Reads the state of a connection from the front of `from`, with `token` on this shard, where its client is known already. The
    /// shard subscribes to its topics. The caller makes it the peer of the connection and calls
    /// [`begin_continued`](Broadcast::begin_continued), or, if the connection is gone, [`closed`](Broadcast::closed). Nothing is refused for
    /// a limit of clients. The connection of a handler still needs its slot.
    ///
    /// `None`, and nothing done, if the bytes are malformed, or there is no memory for them.
    pub fn take_peer(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        gate: &mut Gate,
        from: &mut &[u8],
    ) -> Option<Peer> {
        Some(match PlainPeer::take(from)? {
            PlainPeer::Subscriber(plain) => {
                Peer::Subscriber(self.continue_subscriber(cx, token, gate, &plain))
            }
            PlainPeer::Session(plain) => {
                if !cx.pool().charge(plain.protocol.charged_bytes()) {
                    return None;
                }
                Peer::Session(Box::new(self.continue_session(cx, token, gate, *plain)))
            }
            PlainPeer::Handler { is_paused, session } => {
                let session = session.map(|plain| Box::new(self.continue_session(cx, token, gate, *plain)));
                Peer::Handler(HandlerPeer { is_paused, session, ..HandlerPeer::new(NO_SLOT) })
            }
        })
    }

    fn continue_subscriber(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        gate: &mut Gate,
        plain: &PlainSubscriber,
    ) -> Subscriber {
        count_connection(gate, token, cx.now());
        let topic = self.take_topic(cx, token, &plain.reached.topic).unwrap_or(NOWHERE);
        self.settling.begin_raw(token, plain.reached.position);
        let &PlainSubscriber { echo_own, may_publish, .. } = plain;
        Subscriber { topic, member: None, echo_own, may_publish, held: 0 }
    }

    /// Subscribes the shard to a topic of a connection. It stays subscribed until the connection is live, or gone.
    fn take_topic(&mut self, cx: &mut Context<'_>, token: Token, name: &str) -> Result<TopicId, Refused> {
        let now = cx.now();
        // The topic exists, unless its owner was short of room.
        let topic = self.find_or_subscribe_anyway(&mut cx.resources(), name, Creator::NOBODY, now)?;
        self.subscriptions.keep_for(topic, token, now);
        Ok(topic)
    }

    fn continue_session(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        gate: &mut Gate,
        plain: PlainSession,
    ) -> Session {
        let PlainSession { client, subject, requests, protocol, subscriptions } = plain;
        let now = cx.now();
        let is_kept = client.node == self.ids.node() && client != self.client_at(cx.shard(), token);
        let client = is_kept.then(|| Box::new(client));
        let mut session = Session { subject, requests, client, ..Session::default() };
        session.subscriptions.reserve_exact(subscriptions.len());
        for plain in subscriptions {
            match self.take_topic(cx, token, &plain.reached.topic) {
                Ok(topic) => {
                    if let Some(since) = plain.presence_since {
                        self.settling.note_presence_since(token, topic, since);
                    }
                    let hooks = self.hooks_of(&plain.reached.topic);
                    session.subscriptions.push(continued((topic, hooks), &plain, token, gate, now));
                }
                Err(_) => {
                    let PlainSubscription { reached: Reached { topic, position }, allowed_by, .. } = plain;
                    self.settling.refuse(RefusedSubscription { token, topic, position, allowed_by });
                }
            }
        }
        session.protocol = match protocol {
            PlainProtocol::V1 => Protocol::V1,
            PlainProtocol::EventStream => {
                count_connection(gate, token, now);
                Protocol::EventStream
            }
            PlainProtocol::Handler => Protocol::Handler,
            PlainProtocol::Centrifuge { encoding, pings, forwarded, info, filters } => {
                let own = CentrifugeSession::continued(encoding, pings, forwarded, now);
                let mut own = own.with_address(cx.client_address(token));
                (own.info, own.filters, own.refresh_at) = (info, filters, refresh_of(gate, token, now));
                if let Some(at) = session.next_expiry().into_iter().chain(own.refresh_at).min() {
                    own.wake_by(at);
                }
                self.sessions.alarms.add(token, &own);
                Protocol::Centrifuge(Box::new(own))
            }
        };
        self.sessions.count += 1;
        session
    }

    /// A connection that is continued has its peer: its subscriptions go on.
    pub fn begin_continued(&mut self, cx: &mut Context<'_>, token: Token) {
        let Some(mut link) = cx.link(token) else { return };
        match &*link.peer {
            // Replayed messages are compressed from an empty window, like those that follow.
            Peer::Subscriber(_) => drop(link.share_window()),
            Peer::Handler(handler) if handler.is_paused => link.set_backpressured(true),
            _ => {}
        }
        let topics: Vec<TopicId> = match &*link.peer {
            Peer::Subscriber(Subscriber { topic: NOWHERE, .. }) => {
                return self.refuse_raw(&mut link, NOWHERE, Refused::Busy);
            }
            Peer::Subscriber(subscriber) => vec![subscriber.topic],
            peer => {
                let own = peer.session().map(|session| &session.subscriptions[..]).unwrap_or_default();
                own.iter().map(|own| own.topic).collect()
            }
        };
        for topic in topics {
            self.continue_subscription(&mut link, topic);
        }
        for refused in self.settling.take_refused(token) {
            self.end_refused(&mut link, &refused);
        }
    }

    fn end_refused(&mut self, link: &mut ConnectionContext<'_>, refused: &RefusedSubscription) {
        let RefusedSubscription { topic, position, allowed_by, .. } = refused;
        if link.peer.is_event_stream() {
            return link.close(CloseCode::TRY_AGAIN_LATER, "the topic has moved");
        }
        let (position, reason) = (*position, GapReason::History);
        self.tell_ended(link, *allowed_by, &SessionEvent::Dropped { topic, position, reason });
    }
}

/// Whether no request of a session waits for anything.
fn has_no_request(session: &Session) -> bool {
    let is_free = match &session.protocol {
        Protocol::V1 | Protocol::Handler => true,
        Protocol::EventStream => session.subscriptions.len() == 1,
        Protocol::Centrifuge(own) => own.has_no_request(),
    };
    is_free
        && session.held == 0
        && session.refreshing.is_none()
        && session.member_lists.is_empty()
        && session.histories().is_empty()
        && session.unanswered.as_deref().is_none_or(Unanswered::is_empty)
}

/// The subscription of a connection that has one, as that of a raw route.
fn count_connection(gate: &mut Gate, token: Token, now: Nanos) {
    let counted = gate.continue_subscription(token, now);
    gate.keep_subscription(token, counted);
}

fn continued(
    (topic, hooks): (TopicId, u64),
    plain: &PlainSubscription,
    token: Token,
    gate: &mut Gate,
    now: Nanos,
) -> SessionSubscription {
    let expires_at = plain.expires_in.map(|left| now.saturating_add(left));
    let by_hook = expires_at.filter(|_| plain.allowed_by == AllowedBy::Hook);
    let refresh_at = gate.refresh_at((AppEvent::SubRefresh, hooks), now, by_hook);
    let application = ApplicationData { data: None, info: plain.info.clone(), refresh_at }.boxed();
    SessionSubscription {
        topic,
        state: SubscriptionState::Continued(plain.reached.position),
        granted: plain.granted,
        must_recover: plain.must_recover,
        deltas: plain.deltas,
        skips_own: plain.skips_own,
        allowed_by: plain.allowed_by,
        expires_at,
        application,
        counted: if plain.is_counted { gate.continue_subscription(token, now) } else { None },
    }
}

#[cfg(test)]
mod tests;
