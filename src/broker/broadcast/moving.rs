//! Connections that move to another shard, or to another process: their subscriptions and sessions are turned into bytes, and continued
//! from them.
//!
//! ```text
//! begin_fence ─> is_fenced ─> may_move ─> freeze_peer ─ bytes ─> thaw_peer ─> set_peer ─> begin_thawed
//! ```
//!
//! From before the fence until the connection is frozen, nothing is read from it. When it is frozen, nothing that was sent to it is
//! queued or partly sent. Then nobody notices the move: neither the client, nor the other subscribers of its topics. A move that fails
//! continues with `thaw_peer` on the shard that has frozen the connection.

use super::Broadcast;
use super::arrivals::RefusedSubscription;
use super::centrifuge_session::CentrifugeSession;
use super::dialect::Dialect;
use super::events::SessionEvent;
use super::frozen_session::{
    FrozenPeer, FrozenProtocol, FrozenSession, FrozenSubscriber, FrozenSubscription,
};
use super::handover::OrderedBy;
use super::refreshing::refresh_of;
use super::session::{
    AllowedBy, ApplicationData, Protocol, Session, SessionSubscription, Subscriber, SubscriptionState,
};
use super::unanswered::Unanswered;
use crate::gate::Gate;
use crate::peer::{ConnectionContext, Context, DrainPhase, HandlerPeer, Peer, ShardResources};
use echoring_auth::AppEvent;
use echoring_proto::CloseCode;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::{Driver, Token};
use echoring_topics::{Creator, GapReason, Position, Refused, SubscriberId, TopicId, TopicSettings};

/// Stands for the topic of a raw subscriber that the shard could not subscribe to.
const NOWHERE: TopicId = TopicId { index: u32::MAX, generation: u32::MAX };
/// Stands for the slot of a handler that is not made yet.
const NO_SLOT: u32 = u32::MAX;

impl Broadcast {
    /// Whether a connection can be frozen now: it is a raw subscriber, a session or a handler's connection that has been sent
    /// everything, and no request of it is open. Otherwise it may later.
    pub fn may_move<D: Driver>(&self, cx: &Context<'_, D>, token: Token) -> bool {
        let is_served = !self.drain.is_on()
            && self.sequencer.ordered_by != OrderedBy::Nobody
            && !self.handover.is_lost
            && !self.arrivals.replays(token);
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
    pub fn freeze_peer<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        peer: Peer,
        out: &mut Vec<u8>,
    ) -> Result<(), Peer> {
        let freeze = |session: &Session| self.frozen_session(cx, token, session).map(Box::new);
        let frozen = match &peer {
            _ if !self.is_quiescent(&peer) => None,
            Peer::Subscriber(subscriber) => self.frozen_subscriber(subscriber).map(FrozenPeer::Subscriber),
            Peer::Session(session) => freeze(session).map(FrozenPeer::Session),
            &Peer::Handler(HandlerPeer { is_paused, session: None, .. }) => {
                Some(FrozenPeer::Handler { is_paused, session: None })
            }
            &Peer::Handler(HandlerPeer { is_paused, session: Some(ref session), .. }) => {
                freeze(session).map(|session| FrozenPeer::Handler { is_paused, session: Some(session) })
            }
            Peer::Echo => None,
        };
        let Some(frozen) = frozen else { return Err(peer) };
        frozen.put(out);
        self.fan_out.ages.forget(token);
        match peer {
            Peer::Subscriber(subscriber) => self.subscriber_closed(&mut cx.resources(), token, &subscriber),
            Peer::Session(session) | Peer::Handler(HandlerPeer { session: Some(session), .. }) => {
                self.session_frozen(&mut cx.resources(), token, &session);
            }
            Peer::Echo | Peer::Handler(_) => {}
        }
        Ok(())
    }

    fn frozen_subscriber(&self, subscriber: &Subscriber) -> Option<FrozenSubscriber> {
        let &Subscriber { topic, member, echo_own, may_publish, .. } = subscriber;
        let position = self.settled(topic, member?)?;
        Some(FrozenSubscriber { topic: self.fan_out.name(topic).into(), position, echo_own, may_publish })
    }

    fn frozen_session<D: Driver>(
        &self,
        cx: &Context<'_, D>,
        token: Token,
        session: &Session,
    ) -> Option<FrozenSession> {
        let now = cx.now();
        let is_told = |own: &SessionSubscription| {
            session.dialect() == Dialect::V1
                && own.granted.presence
                && self.fan_out.has(own.topic, TopicSettings::has_presence)
        };
        let frozen = |own: &SessionSubscription| {
            Some(FrozenSubscription {
                topic: self.fan_out.name(own.topic).into(),
                position: self.settled(own.topic, own.member()?)?,
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
            Protocol::V1 => FrozenProtocol::V1,
            Protocol::EventStream => FrozenProtocol::EventStream,
            Protocol::Centrifuge(own) => {
                let (pings, forwarded) = (own.frozen(now)?, own.forwarded.clone());
                let (encoding, info, filters) = (own.encoding, own.info.clone(), own.filters.clone());
                FrozenProtocol::Centrifuge { encoding, pings, forwarded, info, filters }
            }
            Protocol::Handler => FrozenProtocol::Handler,
        };
        let client = self.client_of_session(cx.shard(), token, session);
        Some(FrozenSession {
            client,
            is_client_own: self.numbers(cx.shards()).contains(client),
            subject: session.subject.clone(),
            requests: session.requests,
            protocol,
            subscriptions: session.subscriptions.iter().map(frozen).collect::<Option<_>>()?,
        })
    }

    fn session_frozen(&mut self, resources: &mut ShardResources<'_>, token: Token, session: &Session) {
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
    /// [`begin_thawed`](Broadcast::begin_thawed), or, if the connection is gone, [`closed`](Broadcast::closed). Nothing is refused for
    /// a limit of clients. The connection of a handler still needs its slot.
    ///
    /// `None`, and nothing done, if the bytes are malformed, or there is no memory for them.
    pub fn thaw_peer<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        gate: &mut Gate,
        from: &mut &[u8],
    ) -> Option<Peer> {
        Some(match FrozenPeer::take(from)? {
            FrozenPeer::Subscriber(frozen) => {
                Peer::Subscriber(self.thaw_subscriber(cx, token, gate, &frozen))
            }
            FrozenPeer::Session(frozen) => {
                if !cx.pool().charge(frozen.protocol.charged_bytes()) {
                    return None;
                }
                Peer::Session(Box::new(self.thaw_session(cx, token, gate, *frozen)))
            }
            FrozenPeer::Handler { is_paused, session } => {
                let session = session.map(|frozen| Box::new(self.thaw_session(cx, token, gate, *frozen)));
                Peer::Handler(HandlerPeer { is_paused, session, ..HandlerPeer::new(NO_SLOT) })
            }
        })
    }

    fn thaw_subscriber<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        gate: &mut Gate,
        frozen: &FrozenSubscriber,
    ) -> Subscriber {
        count_connection(gate, token, cx.now());
        let topic = self.thaw_topic(cx, token, &frozen.topic).unwrap_or(NOWHERE);
        self.arrivals.begin_raw(token, frozen.position);
        let &FrozenSubscriber { echo_own, may_publish, .. } = frozen;
        Subscriber { topic, member: None, echo_own, may_publish, held: 0 }
    }

    /// Subscribes the shard to a topic of a connection. It stays subscribed until the connection is live, or gone.
    fn thaw_topic<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        name: &str,
    ) -> Result<TopicId, Refused> {
        let now = cx.now();
        // The topic exists, unless its owner was short of room.
        let topic = self.find_or_subscribe_anyway(&mut cx.resources(), name, Creator::NOBODY, now)?;
        self.subscriptions.keep_for(topic, token, now);
        Ok(topic)
    }

    fn thaw_session<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        gate: &mut Gate,
        frozen: FrozenSession,
    ) -> Session {
        let FrozenSession { client, is_client_own, subject, requests, protocol, subscriptions } = frozen;
        let now = cx.now();
        // One of an early predecessor whose numbers are those of this process may be that of another client.
        let is_taken = !is_client_own && self.numbers(cx.shards()).contains(client);
        let is_kept = client.node == self.node && !is_taken && client != self.client_at(cx.shard(), token);
        let client = is_kept.then(|| Box::new(client));
        let mut session = Session { subject, requests, client, ..Session::default() };
        session.subscriptions.reserve_exact(subscriptions.len());
        for frozen in subscriptions {
            match self.thaw_topic(cx, token, &frozen.topic) {
                Ok(topic) => {
                    if let Some(since) = frozen.presence_since {
                        self.arrivals.note_presence_since(token, topic, since);
                    }
                    let hooks = self.hooks_of(&frozen.topic);
                    session.subscriptions.push(thawed((topic, hooks), &frozen, token, gate, now));
                }
                Err(_) => {
                    let FrozenSubscription { topic, position, allowed_by, .. } = frozen;
                    self.arrivals.refuse(RefusedSubscription { token, topic, position, allowed_by });
                }
            }
        }
        session.protocol = match protocol {
            FrozenProtocol::V1 => Protocol::V1,
            FrozenProtocol::EventStream => {
                count_connection(gate, token, now);
                Protocol::EventStream
            }
            FrozenProtocol::Handler => Protocol::Handler,
            FrozenProtocol::Centrifuge { encoding, pings, forwarded, info, filters } => {
                let mut own = CentrifugeSession::thawed(encoding, pings, forwarded, now);
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

    /// A thawed connection has its peer: its subscriptions go on.
    pub fn begin_thawed<D: Driver>(&mut self, cx: &mut Context<'_, D>, token: Token) {
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
            self.resume(&mut link, topic);
        }
        for refused in self.arrivals.take_refused(token) {
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
        && session.unanswered.as_deref().is_none_or(Unanswered::is_empty)
}

/// The subscription of a connection that has one, as that of a raw route.
fn count_connection(gate: &mut Gate, token: Token, now: Nanos) {
    let counted = gate.resume_subscription(token, now);
    gate.keep_subscription(token, counted);
}

fn thawed(
    (topic, hooks): (TopicId, u64),
    frozen: &FrozenSubscription,
    token: Token,
    gate: &mut Gate,
    now: Nanos,
) -> SessionSubscription {
    let expires_at = frozen.expires_in.map(|left| now.saturating_add(left));
    let by_hook = expires_at.filter(|_| frozen.allowed_by == AllowedBy::Hook);
    let refresh_at = gate.refresh_at((AppEvent::SubRefresh, hooks), now, by_hook);
    let application = ApplicationData { data: None, info: frozen.info.clone(), refresh_at }.boxed();
    SessionSubscription {
        topic,
        state: SubscriptionState::Resuming(frozen.position),
        granted: frozen.granted,
        must_recover: frozen.must_recover,
        deltas: frozen.deltas,
        skips_own: frozen.skips_own,
        allowed_by: frozen.allowed_by,
        expires_at,
        application,
        counted: if frozen.is_counted { gate.resume_subscription(token, now) } else { None },
    }
}

#[cfg(test)]
mod tests;
