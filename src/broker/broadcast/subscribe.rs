//! Subscribing: the shard to a topic at its owner, and connections to the shard's part of the topic; and unsubscribing.

use super::Broadcast;
use super::centrifuge_session::CentrifugeSession;
use super::session::{AllowedBy, Protocol, Session, SessionSubscription, Subscriber, SubscriptionState};
use super::sessions::limit_of;
use super::shard_mail::{ShardMail, origin};
use super::subscriptions::{Subscription, Waiting};
use crate::gate::Gate;
use crate::limits::SUBSCRIPTIONS_WAITING_MAX;
use crate::peer::{ConnectionContext, Context, Peer, ShardResources};
use echoring_auth::{Denied, Identity};
use echoring_proto::handshake::Refusal;
use echoring_proto::limits::Nanos;
use echoring_runtime::admission::Limit;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Answer, StreamHead};
use echoring_topics::{
    ClientId, Creator, Encoding, Format, Refused, Right, Subscribed, SubscriberId, TopicId,
};

echoring_proto::refusals! {
    /// A client that may not subscribe to the topic of a raw route.
    NOT_ALLOWED = 403, "not allowed to subscribe to this topic", "",
        "the topic's permissions and the client's credentials decide";
    TOO_MANY_TOPICS = 503, "too many topics", "Retry-After: 5\r\n",
        "use fewer topics, raise `max_topics`, or add a node";
    TOO_MANY_CREATED = 429, "too many topics created", "Retry-After: 5\r\n",
        "use fewer topics, or raise `max_topics_per_connection` or `max_topics_per_identity`";
    TOO_MANY_SUBSCRIPTIONS = 429, "too many subscriptions", "Retry-After: 5\r\n",
        "end other subscriptions of this identity, or raise `max_subscriptions_per_identity`";
    SUBSCRIBES_TOO_FAST = 429, "too many new subscriptions per second", "Retry-After: 1\r\n",
        "subscribe less often, or raise `subscribe_rate` or `subscribe_rate_per_identity`";
    pub(super) BUSY = 503, "the topic's owner is busy", "Retry-After: 1\r\n",
        "try again; if it persists, add shards or publish less";
}

/// A request for one topic, whose answer begins a subscription.
#[derive(Debug)]
pub struct TopicRequest<'a> {
    /// Its connection.
    pub token: Token,
    /// The name of the topic.
    pub topic: &'a str,
    /// The identities and rights of clients.
    pub gate: &'a mut Gate,
}

impl Broadcast {
    /// Opens a raw subscription. The 101 is sent once the owner knows of the subscription.
    pub fn subscribe_raw(
        &mut self,
        cx: &mut Context<'_>,
        request: TopicRequest<'_>,
        echo_own: bool,
        subprotocol: Option<&'static str>,
    ) -> Answer<Peer> {
        let TopicRequest { token, topic: name, gate } = request;
        let topic = match self.enter_topic(cx, token, name, gate) {
            Ok(topic) => topic,
            Err(refusal) => return Answer::Refuse(refusal),
        };
        let may_publish = self.may_publish_subscribed(gate.client(token), name);
        let mut subscriber = Subscriber { topic, member: None, echo_own, may_publish, held: 0 };
        let Some(subscription) = self.subscriptions.get_mut(topic) else { return Answer::Refuse(BUSY) };
        if subscription.owned.is_none() {
            subscription.waiting.push(Waiting::Raw(token, subprotocol));
            return Answer::Later { peer: Peer::Subscriber(subscriber) };
        }
        subscriber.member = self.join_raw(cx, token, topic, echo_own);
        Answer::Upgrade { peer: Peer::Subscriber(subscriber), subprotocol, whole: true }
    }

    /// The topic `name` for a connection that subscribes to nothing else and whose request is not answered yet.
    ///
    /// # Errors
    /// The refusal of the request: the client may not subscribe, or a limit is reached.
    pub(super) fn enter_topic(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        name: &str,
        gate: &mut Gate,
    ) -> Result<TopicId, Refusal> {
        let client = gate.client(token);
        if !self.may(client, Right::Subscribe, name) {
            gate.note_denied(Denied::Forbidden);
            return Err(NOT_ALLOWED);
        }
        let creator = self.creator(cx.shard(), token, client);
        let now = cx.now();
        if let Err(limit) = gate.request_subscription(token, false, now) {
            cx.note_excess(token, limit, true);
            return Err(SUBSCRIBES_TOO_FAST);
        }
        match gate.subscribe(token, now) {
            Ok(counted) => gate.keep_subscription(token, counted),
            Err(limit) => {
                cx.note_excess(token, limit, true);
                return Err(TOO_MANY_SUBSCRIPTIONS);
            }
        }
        let found = self.find_or_subscribe(&mut cx.resources(), name, creator, now);
        found.map_err(|refused| refuse(cx, token, refused))
    }

    /// Opens a session.
    pub fn open_session(&mut self, subprotocol: &'static str, client: Option<&Identity>) -> Answer<Peer> {
        self.sessions.count += 1;
        let peer = Peer::Session(Box::new(Session::new(client, Protocol::V1)));
        Answer::Upgrade { peer, subprotocol: Some(subprotocol), whole: true }
    }

    /// Opens a session of Centrifuge's protocol. The bytes of its forwarded fields are charged.
    pub fn open_centrifuge(
        &mut self,
        token: Token,
        client: Option<&Identity>,
        subprotocol: Option<&'static str>,
        session: CentrifugeSession,
    ) -> Answer<Peer> {
        let peer = self.centrifuge_peer(token, client, session);
        Answer::Upgrade { peer, subprotocol, whole: true }
    }

    /// The session of a client of Centrifuge's protocol. The bytes of its forwarded fields are charged.
    pub fn centrifuge_peer(
        &mut self,
        token: Token,
        client: Option<&Identity>,
        session: CentrifugeSession,
    ) -> Peer {
        self.sessions.count += 1;
        self.sessions.alarms.add(token, &session);
        Peer::Session(Box::new(Session::new(client, Protocol::Centrifuge(Box::new(session)))))
    }

    /// A client, as the creator of a topic.
    pub(super) fn creator(&self, shard: usize, token: Token, client: Option<&Identity>) -> Creator {
        let identity = client.map_or(0, Identity::number);
        Creator { connection: origin(self.number(shard), token), identity }
    }

    /// The topic `name` on this shard, which subscribes to it at the owner if it does not yet.
    pub(super) fn find_or_subscribe(
        &mut self,
        resources: &mut ShardResources<'_>,
        name: &str,
        creator: Creator,
        now: Nanos,
    ) -> Result<TopicId, Refused> {
        let is_full = self.subscriptions.awaiting_owner >= SUBSCRIPTIONS_WAITING_MAX;
        if is_full && self.fan_out.topics.find(name).is_none() {
            return Err(Refused::Busy);
        }
        self.find_or_subscribe_anyway(resources, name, creator, now)
    }

    /// The same without a bound on the subscriptions that wait for owners: for connections that move, which their mover bounds.
    pub(super) fn find_or_subscribe_anyway(
        &mut self,
        resources: &mut ShardResources<'_>,
        name: &str,
        creator: Creator,
        now: Nanos,
    ) -> Result<TopicId, Refused> {
        if let Some(topic) = self.fan_out.topics.find(name) {
            return Ok(topic);
        }
        let Broadcast { fan_out, sequencer, subscriptions, presence_changes, .. } = self;
        let (shard, shards) = (resources.mailboxes.shard(), resources.mailboxes.shards());
        let owner_shard = sequencer.placement.owner(name, shards);
        let topic = fan_out.topics.create(name, now, resources.pool);
        let mut subscription = Subscription::new(topic, owner_shard);
        if !sequencer.orders(owner_shard, shard) {
            subscriptions.insert(subscription);
            let mail = ShardMail::Subscribe { local: topic, creator };
            sequencer.request(resources.mailboxes, owner_shard, mail, name);
            return Ok(topic);
        }
        if let Some(answer) = sequencer.subscribe(name, creator, shard, topic, resources.pool) {
            let answer = answer.inspect_err(|_| fan_out.topics.remove(topic, now, resources.pool))?;
            subscription.confirm(presence_changes.subscribed(answer));
            fan_out.topics.begin_at(topic, answer.position.offset);
        }
        subscriptions.insert(subscription);
        Ok(topic)
    }

    fn join_raw(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        topic: TopicId,
        echo_own: bool,
    ) -> Option<SubscriberId> {
        let skip = if echo_own { 0 } else { origin(self.number(cx.shard()), token) };
        let compression = self.raw_compression(cx, token, topic);
        self.fan_out.topics.subscribe(topic, token, Format { dialect: Encoding::Raw, compression }, skip)
    }

    /// The owner has answered the subscription of this shard.
    pub(super) fn subscribed(
        &mut self,
        cx: &mut Context<'_>,
        owner_shard: usize,
        local: TopicId,
        answer: Result<Subscribed, Refused>,
    ) {
        self.subscriptions.note_answer();
        let Some(subscription) = self.subscriptions.get_mut(local) else { return };
        // Each stays in the list until it is admitted, so that the topic is not left when an earlier one fails.
        let waiting = subscription.waiting.clone();
        match answer {
            Ok(answer) => {
                subscription.confirm(answer);
                // Not the one that was asked if the topic has moved meanwhile.
                subscription.owner_shard = owner_shard;
                self.fan_out.topics.begin_at(local, answer.position.offset);
                // Those have left before the owner was known.
                for client in self.settling.take_departed(local) {
                    self.report_presence(&mut cx.resources(), local, client, None);
                }
                waiting.into_iter().for_each(|waiting| self.admit(cx, local, &waiting));
                self.leave_if_deserted(&mut cx.resources(), local);
            }
            Err(refused) => {
                waiting.into_iter().for_each(|waiting| self.turn_away(cx, local, &waiting, refused));
                self.settling.forget_topic(local);
                self.subscriptions.remove(local);
                self.fan_out.topics.remove(local, cx.now(), cx.pool());
            }
        }
    }

    /// Subscribes a connection that waited for the owner.
    fn admit(&mut self, cx: &mut Context<'_>, topic: TopicId, waiting: &Waiting) {
        match *waiting {
            Waiting::EventStream(token, ref headers) => {
                self.subscriptions.stop_waiting(topic, token);
                cx.begin_event_stream(token, &StreamHead::events(headers.clone()));
                if let Some(mut link) = cx.link(token) {
                    self.begin_event_stream(&mut link);
                }
            }
            Waiting::Raw(token, subprotocol) => {
                self.subscriptions.stop_waiting(topic, token);
                let Some(Peer::Subscriber(subscriber)) = cx.peer(token) else { return };
                let echo_own = subscriber.echo_own;
                let member = self.join_raw(cx, token, topic, echo_own);
                if let Some(Peer::Subscriber(subscriber)) = cx.peer(token) {
                    subscriber.member = member;
                }
                cx.accept(token, subprotocol, true);
            }
            Waiting::Session(token, _) => {
                if let Some(mut link) = cx.link(token) {
                    self.begin_subscription(&mut link, topic);
                }
            }
        }
    }

    /// Refuses a connection that waited for the owner.
    fn turn_away(&mut self, cx: &mut Context<'_>, topic: TopicId, waiting: &Waiting, refused: Refused) {
        match *waiting {
            Waiting::Raw(token, _) | Waiting::EventStream(token, _) => {
                let refusal = refuse(cx, token, refused);
                cx.refuse(token, &refusal);
            }
            Waiting::Session(token, _) => {
                if let Some(mut link) = cx.link(token) {
                    self.refuse_waiting(&mut link, topic, refused);
                }
            }
        }
    }

    /// Refuses the subscription of a session that waits for the owner.
    pub(super) fn refuse_waiting(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        refused: Refused,
    ) {
        if self.refuse_continued(link, topic, refused) {
            return;
        }
        let Some(session) = link.peer.session_mut() else { return };
        let Some(own) = session.find(topic) else { return };
        let SubscriptionState::AwaitingOwner { id, request, .. } = own.state else { return };
        let allowed_by = own.allowed_by;
        session.take(topic);
        self.refuse_subscription(link, topic, allowed_by, (request, id), refused);
    }

    /// A subscription of a session that has not begun is refused. `request` is the number of the request in its session, and its id.
    pub(super) fn refuse_subscription(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        allowed_by: AllowedBy,
        request: (u32, Option<u64>),
        refused: Refused,
    ) {
        if allowed_by.is_server_side() {
            self.server_subscription_refused(link, topic, refused);
        } else if allowed_by == AllowedBy::Handler {
            self.handler_refused(link, topic, refused);
        } else {
            self.sessions.refuse_request(link, request.0, request.1, refused);
        }
    }

    /// A raw subscriber is gone.
    pub(super) fn subscriber_closed(
        &mut self,
        resources: &mut ShardResources<'_>,
        token: Token,
        subscriber: &Subscriber,
    ) {
        match subscriber.member {
            Some(member) => self.fan_out.topics.unsubscribe(member, resources.pool),
            None => {
                self.publish_behind_replay(token, None);
                self.subscriptions.stop_waiting(subscriber.topic, token);
            }
        }
        self.leave_if_deserted(resources, subscriber.topic);
    }

    /// A session is gone.
    pub(super) fn session_closed(
        &mut self,
        resources: &mut ShardResources<'_>,
        token: Token,
        session: &Session,
    ) {
        self.forget_session(resources, token, session);
        self.settling.forget_session(token);
        let client = self.client_of_session(resources.mailboxes.shard(), token, session);
        for subscription in &session.subscriptions {
            self.leave(resources, (token, client), subscription);
        }
    }

    /// A session is no longer on this shard. Its subscriptions are left to the caller.
    pub(super) fn forget_session(
        &mut self,
        resources: &mut ShardResources<'_>,
        token: Token,
        session: &Session,
    ) {
        self.sessions.count -= 1;
        let held_bytes = session.histories().iter().map(|query| query.pages.held_bytes()).sum();
        self.sessions.kept.remove(held_bytes, resources.pool);
        if let Some(centrifuge) = session.centrifuge() {
            self.sessions.alarms.remove(token, centrifuge);
            self.sessions.kept.remove(centrifuge.kept_bytes(), resources.pool);
            resources.pool.discharge(centrifuge.charged_bytes());
        }
    }

    /// Ends a subscription of a session, which has this connection and client.
    pub(super) fn leave(
        &mut self,
        resources: &mut ShardResources<'_>,
        (token, client): (Token, ClientId),
        subscription: &SessionSubscription,
    ) {
        let topic = subscription.topic;
        match subscription.member() {
            Some(member) => {
                self.fan_out.topics.unsubscribe(member, resources.pool);
                self.left_live(resources, client, topic);
            }
            None => {
                self.depart_if_continued(resources, client, subscription);
                self.subscriptions.stop_waiting(topic, token);
                self.leave_if_deserted(resources, topic);
            }
        }
    }

    /// Ends a subscription of a session that goes on.
    pub(super) fn leave_topic(
        &mut self,
        link: &mut ConnectionContext<'_>,
        subscription: &SessionSubscription,
    ) {
        let who = (link.token, self.client_id(link));
        self.leave(&mut link.resources(), who, subscription);
        self.pass_window_on(link);
    }

    /// A live subscription of a session has ended.
    pub(super) fn left_live(&mut self, resources: &mut ShardResources<'_>, client: ClientId, topic: TopicId) {
        self.report_presence(resources, topic, client, None);
        self.leave_if_deserted(resources, topic);
    }

    /// Unsubscribes the shard from a topic without local subscribers.
    pub(super) fn leave_if_deserted(&mut self, resources: &mut ShardResources<'_>, topic: TopicId) {
        let is_deserted = self.fan_out.topics.is_deserted(topic);
        let has_waiting = |subscription: &Subscription| !subscription.waiting.is_empty();
        if !is_deserted || self.subscriptions.get(topic).is_none_or(has_waiting) {
            return;
        }
        let Some((owner_shard, owned)) = self.subscriptions.owner_shard(topic) else { return };
        let epoch = self.subscriptions.epoch(topic).unwrap_or_default();
        self.subscriptions.remove(topic);
        if self.sequencer.orders(owner_shard, resources.mailboxes.shard()) {
            self.fan_out.topics.remove(topic, self.now, resources.pool);
            self.sequencer.unsubscribe(owned, owner_shard, topic, self.now, resources.pool);
        } else {
            self.subscriptions.note_left(topic, self.fan_out.name(topic), epoch);
            self.fan_out.topics.remove(topic, self.now, resources.pool);
            self.sequencer.request(
                resources.mailboxes,
                owner_shard,
                ShardMail::Unsubscribe { owned, local: topic },
                "",
            );
        }
    }
}

/// The answer to a request whose topic was refused.
fn refuse(cx: &mut Context<'_>, token: Token, refused: Refused) -> Refusal {
    let limit = limit_of(refused);
    // A full node is no offence of one client.
    let is_own = limit.is_some_and(|limit| limit != Limit::Topics);
    if let Some(limit) = limit {
        cx.note_excess(token, limit, is_own);
    }
    match refused {
        _ if is_own => TOO_MANY_CREATED,
        _ if refused.is_passing() => BUSY,
        _ => TOO_MANY_TOPICS,
    }
}
