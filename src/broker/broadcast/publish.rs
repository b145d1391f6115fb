//! The path of a publication: to the owner of its topic, and from there to all subscribing shards.

use super::Broadcast;
use super::held_publications::{HeldPublications, is_paused, release_one};
use super::sequencer::{OrderedBy, Routed, Sequenced, Sequencer};
use super::sessions::{latest_request, limit_of};
use super::shard_mail::{AckMode, OrderedMessage, PublishResult, Publisher};
use crate::gate::Gate;
use crate::peer::{ConnectionContext, Context, Peer};
use crate::publications::TopicPublication;
use crate::publications::on_close::OnClose;
use echoring_auth::Identity;
use echoring_cluster::Ticket;
use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::Full;
use echoring_runtime::traces;
use echoring_topics::{Author, Content, Position, Publication, Refused, SubscriberId, TopicId};

/// The outcome of a publication of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorPublished {
    /// It got this position.
    Now(Position),
    /// Another node decides; see [`Broadcast::take_decided`].
    Later(Ticket),
}

impl Broadcast {
    /// A raw subscriber sent a whole message.
    pub fn relay_message(&mut self, link: &mut ConnectionContext<'_>, kind: MessageKind, payload: &[u8]) {
        let Peer::Subscriber(subscriber) = &mut *link.peer else { return };
        let member = subscriber.member;
        if member.is_none() && !self.settling.replays(link.token) {
            // A slow consumer is being closed: its messages are discarded.
            return;
        }
        let (topic, may_publish) = (subscriber.topic, subscriber.may_publish);
        let skipping = member.filter(|_| !subscriber.echo_own);
        if self.drain.is_on() {
            // The message was received when the drain stopped reading.
            return self.sequencer.topics.note_refused();
        }
        if self.fan_out.has(topic, |settings| settings.refuses_raw()) {
            self.sequencer.topics.note_refused();
            return link.close(
                CloseCode::POLICY,
                "messages of this topic need a key, or come from its operator only",
            );
        }
        if !may_publish {
            self.sequencer.topics.note_refused();
            return link.close(CloseCode::POLICY, "not allowed to publish to this topic");
        }
        let content = match kind {
            MessageKind::Text => Content::Text,
            MessageKind::Binary => Content::Binary,
        };
        // Its topic exists, so it creates none.
        let publisher = self.publisher(link, None, skipping, AckMode::Never);
        let publication = Publication::new(content, "", payload);
        let Broadcast { sequencer, held, fan_out, settling, .. } = self;
        let message = TopicPublication::plain(fan_out.name(topic), publication);
        if member.is_none() {
            return settling.hold(link, publisher, &message);
        }
        let Some(sequenced) = route_or_hold(sequencer, held, link, publisher, &message) else { return };
        let result =
            sequencer.deliver_here(fan_out, &mut link.resources(), &publisher, sequenced, publication);
        // A raw publisher is not acknowledged, so the topic's name is not needed.
        self.sessions.acknowledge(link, "", &publisher, result);
    }

    /// A session publishes, unless it is faster than it may be.
    pub(super) fn publish_within_rate(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        id: Option<u64>,
        message: &TopicPublication<'_>,
    ) {
        if let Err(limit) = gate.publish(link.token, link.now()) {
            link.note_excess(limit, false);
            return self.refuse_publication(link, id, message.topic, Refused::RateLimited);
        }
        let client = gate.client(link.token);
        if self.drain.is_on() {
            self.refuse_publication(link, id, message.topic, Refused::Draining);
        } else if !self.may_publish(link, client, message.topic) {
            self.refuse_publication(link, id, message.topic, Refused::Forbidden);
        } else {
            self.publish_allowed(link, client, id, message);
        }
    }

    /// A publication of a session is refused.
    pub(super) fn refuse_publication(
        &mut self,
        link: &mut ConnectionContext<'_>,
        id: Option<u64>,
        topic: &str,
        refused: Refused,
    ) {
        self.sequencer.topics.note_refused();
        self.sessions.refuse_publication(link, topic, id, refused);
    }

    /// A session publishes if its permissions allow it.
    pub(super) fn publish_allowed(
        &mut self,
        link: &mut ConnectionContext<'_>,
        client: Option<&Identity>,
        id: Option<u64>,
        message: &TopicPublication<'_>,
    ) {
        let publisher = self.publisher(link, client, None, id.map_or(AckMode::OnRefusal, AckMode::Always));
        let author = self.author_of(link, message);
        let publication = Publication { author: Author::new(&author), ..message.publication };
        let message = &TopicPublication { publication, ..*message };
        let topic = message.topic;
        let Broadcast { sequencer, held, fan_out, .. } = self;
        let Some(sequenced) = route_or_hold(sequencer, held, link, publisher, message) else {
            if let (Some(session), AckMode::Always(_)) = (link.peer.session_mut(), publisher.ack_mode) {
                session.unanswered.get_or_insert_default().add(topic, publisher.request);
            }
            return;
        };
        let (mut resources, publication) = (link.resources(), message.publication);
        match sequencer.deliver_here(fan_out, &mut resources, &publisher, sequenced, publication) {
            Err(refused) => self.sessions.refuse_publication(link, topic, id, refused),
            result => self.sessions.acknowledge(link, topic, &publisher, result),
        }
    }

    /// Publishes the held publications in order, as far as there is room.
    pub(super) fn publish_held(&mut self, cx: &mut Context<'_>) {
        while let Some(held) = self.held.pop() {
            let Some(message) = held.stored.read() else { continue };
            let name = message.topic;
            let publisher = match self.fan_out.topics.find(name) {
                Some(topic) => publisher_now(cx, topic, &held.publisher),
                None => held.publisher,
            };
            let (now, mut resources) = (cx.now(), cx.resources());
            let Broadcast { sequencer, fan_out, .. } = self;
            let result = match sequencer.route(&mut resources, now, publisher, &message) {
                Err(Full) => return self.held.put_back(held),
                Ok(Routed::Posted) => None,
                Ok(Routed::Here(sequenced)) => {
                    let publication = message.publication;
                    Some(sequencer.deliver_here(fan_out, &mut resources, &publisher, sequenced, publication))
                }
            };
            if let Some(mut link) = cx.link(publisher.token) {
                self.resume_reading(&mut link);
                if let Some(result) = result {
                    self.sessions.acknowledge(&mut link, name, &publisher, result);
                }
            } else if let Some(Err(refused)) = result {
                refused_of_closed(name, refused);
            }
            held.stored.release(cx.pool());
        }
    }

    /// Reads a publisher again once none of its publications is held, except for a raw publisher of a drain.
    fn resume_reading(&self, link: &mut ConnectionContext<'_>) {
        let stays = self.drain.is_on() && matches!(link.peer, Peer::Subscriber(_));
        if release_one(link.peer) && !stays {
            let is_paused = is_paused(link.peer);
            link.set_backpressured(is_paused);
        }
    }

    /// Whether messages of the operator must wait for room. While the server drains they are refused instead.
    pub fn has_operator_wait(&self, cx: &Context<'_>) -> bool {
        let is_owner = !self.drain.is_on() && self.sequencer.ordered_by != OrderedBy::FarShards;
        is_owner && !self.takes_requests(cx)
    }

    /// The operator publishes to a topic that this shard owns.
    ///
    /// # Errors
    /// The reason why the topic refuses the message.
    pub fn publish_for_operator(
        &mut self,
        cx: &mut Context<'_>,
        message: &TopicPublication<'_>,
    ) -> Result<OperatorPublished, Refused> {
        let refused = if self.drain.is_on() || self.sequencer.ordered_by == OrderedBy::FarShards {
            Some(Refused::Draining)
        } else if message.publication.payload.len() > self.sequencer.max_message() {
            Some(Refused::TooLarge)
        } else {
            (!self.takes_requests(cx)).then_some(Refused::Busy)
        };
        if let Some(refused) = refused {
            self.sequencer.topics.note_refused();
            return Err(refused);
        }
        let (now, mut resources) = (cx.now(), cx.resources());
        let operator = Publisher::operator(now);
        let Broadcast { sequencer, fan_out, .. } = self;
        if let Some(ticket) = sequencer.stage(operator, message) {
            return Ok(OperatorPublished::Later(ticket));
        }
        let sequenced = sequencer.sequence(&mut resources, now, operator, message);
        let result =
            sequencer.deliver_here(fan_out, &mut resources, &operator, sequenced, message.publication);
        if let Err(refused) = result
            && let Some(limit) = limit_of(refused)
        {
            cx.count_limited(limit);
        }
        result.map(OperatorPublished::Now)
    }

    /// A publication of the operator is refused because one before it in its batch was.
    pub fn refuse_for_operator(&mut self) {
        self.sequencer.topics.note_refused();
    }

    /// The outcomes of the operator's publications that other nodes have decided about.
    pub fn take_decided(&mut self) -> Vec<(Ticket, PublishResult)> {
        std::mem::take(&mut self.sequencer.queue.decided)
    }

    /// The next message of a topic arrived from its owner. It acknowledges a publication of this shard.
    #[inline]
    pub(super) fn deliver(&mut self, cx: &mut Context<'_>, topic: TopicId, message: &OrderedMessage<'_>) {
        let publisher = &publisher_now(cx, topic, message.publisher);
        let Broadcast { sequencer, fan_out, .. } = self;
        let message = OrderedMessage { publisher, ..*message };
        fan_out.append(&mut sequencer.topics, &mut cx.resources(), topic, &message);
        if matches!(publisher.ack_mode, AckMode::Always(_)) && publisher.is_on(cx.shard()) {
            self.acknowledge_delivered(cx, topic, publisher, message.offset);
        }
    }

    fn acknowledge_delivered(
        &mut self,
        cx: &mut Context<'_>,
        topic: TopicId,
        publisher: &Publisher,
        offset: u64,
    ) {
        let Broadcast { subscriptions, fan_out, sessions, .. } = self;
        let subscribed = subscriptions.epoch(topic).map(|epoch| (fan_out.name(topic), epoch));
        let Some((name, epoch)) = subscribed.or_else(|| subscriptions.left(topic)) else { return };
        if let Some(mut link) = cx.link(publisher.token) {
            sessions.acknowledge(&mut link, name, publisher, Ok(Position { epoch, offset }));
        }
    }

    /// A connection has ended, with its subscriptions: publishes the messages that its handler has left, behind all its earlier
    /// publications. They were charged when they were set, so none is lost for lack of memory. `identity` is the number of its
    /// client.
    pub fn publish_on_close(&mut self, cx: &mut Context<'_>, token: Token, identity: u64, messages: OnClose) {
        if self.refuses_last_messages(cx) {
            for stored in messages {
                self.sequencer.topics.note_refused();
                stored.release(cx.pool());
            }
            return;
        }
        let publisher = Publisher {
            shard: cx.shard() as u16,
            number: self.number(cx.shard()),
            token,
            identity,
            member: None,
            ack_mode: AckMode::OnRefusal,
            request: 0,
            received_at: cx.now(),
        };
        let waits = !self.held.is_empty();
        messages.into_iter().for_each(|stored| self.held.add_of_closed(publisher, stored));
        if !waits {
            self.publish_held(cx);
        }
    }

    /// A drain refuses publications, as it closes their subscribers, too. The topics count these refusals. The subscribers of a
    /// predecessor's messages are the clients of its successor, so it publishes until its last seconds.
    fn refuses_last_messages(&self, cx: &Context<'_>) -> bool {
        let is_ordered_far = self.sequencer.ordered_by == OrderedBy::FarShards;
        match self.drain.is_on() && is_ordered_far {
            true => self.sequencer.has_lost_far_shards || self.drain.goodbye_at <= cx.now(),
            false => self.drain.is_on(),
        }
    }

    /// This connection as a publisher.
    pub(super) fn publisher(
        &self,
        link: &ConnectionContext<'_>,
        client: Option<&Identity>,
        member: Option<SubscriberId>,
        ack_mode: AckMode,
    ) -> Publisher {
        let shard = link.mailboxes.shard();
        Publisher {
            shard: shard as u16,
            number: self.number(shard),
            token: link.token,
            identity: client.map_or(0, Identity::number),
            member,
            ack_mode,
            request: latest_request(link),
            received_at: link.now(),
        }
    }
}

/// Routes a publication. It is held if others are held before it, or if a mailbox is full. Returns the result if this shard
/// owns the topic.
pub(super) fn route_or_hold(
    sequencer: &mut Sequencer,
    held: &mut HeldPublications,
    link: &mut ConnectionContext<'_>,
    publisher: Publisher,
    message: &TopicPublication<'_>,
) -> Option<Result<Sequenced, Refused>> {
    let now = link.now();
    let routed = match held.is_empty() {
        true => sequencer.route(&mut link.resources(), now, publisher, message),
        false => Err(Full),
    };
    let bytes = message.publication.payload.len();
    traces::published(publisher.token, message.topic, bytes, publisher.received_at, outcome(&routed));
    match routed {
        Ok(Routed::Here(sequenced)) => return Some(sequenced),
        Ok(Routed::Posted) => {}
        Err(Full) => held.hold(link, publisher, message),
    }
    None
}

/// The publisher of a refused publication is closed and cannot be notified. The topic counts the refusal.
#[cold]
pub(super) fn refused_of_closed(topic: &str, refused: Refused) {
    tracing::info!(topic, reason = refused.code(), "a message from a closed connection was refused");
}

/// The outcome of a publication, for its span.
fn outcome(routed: &Result<Routed, Full>) -> Result<&'static str, &'static str> {
    match routed {
        Ok(Routed::Here(Ok(_))) => Ok("ordered"),
        Ok(Routed::Here(Err(refused))) => Err(refused.code()),
        Ok(Routed::Posted) => Ok("posted"),
        Err(Full) => Ok("held"),
    }
}

/// The publisher of a message that is appended now, with its subscription as it is now. A handler publishes before its
/// subscription is live, as in the same call, and may have subscribed again since.
pub(super) fn publisher_now(cx: &mut Context<'_>, topic: TopicId, publisher: &Publisher) -> Publisher {
    let member = match publisher.is_on(cx.shard()).then(|| cx.peer(publisher.token)).flatten() {
        Some(peer @ Peer::Handler(_)) => skipping_member(peer, topic),
        _ => publisher.member,
    };
    Publisher { member, ..*publisher }
}

/// The live subscription of a handler's connection to a topic, if it does not get the connection's own messages.
pub(super) fn skipping_member(peer: &mut Peer, topic: TopicId) -> Option<SubscriberId> {
    let subscription = peer.session_mut()?.find(topic)?;
    subscription.member().filter(|_| subscription.skips_own)
}
