//! The path of a publication: to the owner of its topic, and from there to all subscribing shards.

use super::Broadcast;
use super::handover::Ordering;
use super::held_publications::{HeldPublications, is_paused, release_one};
use super::own_messages::publisher_now;
use super::sequencer::{Routed, Sequenced, Sequencer};
use super::sessions::{latest_request, limit_of};
use super::shard_mail::{AckMode, PublishResult, Publisher, ShardMail};
use crate::peer::{ConnectionContext, Context, Peer};
use echoring_auth::Identity;
use echoring_cluster::Ticket;
use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_runtime::driver::Driver;
use echoring_runtime::shard::{Full, ShardResources};
use echoring_runtime::traces;
use echoring_topics::{Content, Position, Publication, Refused, Right, SubscriberId, TopicId};

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
        // A slow consumer is being closed: its messages are discarded.
        let Some(member) = subscriber.member else { return };
        let (topic, may_publish) = (subscriber.topic, subscriber.may_publish);
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
        let publisher = publisher(
            link,
            self.number(link.mailboxes.shard()),
            // Its topic exists, so it creates none.
            None,
            Some(member),
            AckMode::Never,
        );
        let content = match kind {
            MessageKind::Text => Content::Text,
            MessageKind::Binary => Content::Binary,
        };
        self.publish_raw(link, topic, publisher, Publication { content, key: "", payload });
    }

    fn publish_raw(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        publisher: Publisher,
        publication: Publication<'_>,
    ) {
        let Broadcast { sequencer, held, fan_out, .. } = self;
        let name = fan_out.name(topic);
        let Some(sequenced) = route_or_hold(sequencer, held, link, name, publisher, publication, "") else {
            return;
        };
        let result = self.append_sequenced(&mut link.resources(), &publisher, sequenced, publication);
        // A raw publisher is not acknowledged, so the topic's name is not needed.
        self.sessions.acknowledge(link, "", &publisher, result);
    }

    /// A session publishes.
    pub(super) fn publish_for_session(
        &mut self,
        link: &mut ConnectionContext<'_>,
        client: Option<&Identity>,
        id: Option<u64>,
        name: &str,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) {
        let refused = match self.drain.is_on() {
            true => Some(Refused::Draining),
            false => (!self.may(client, Right::Publish, name)).then_some(Refused::Forbidden),
        };
        if let Some(refused) = refused {
            self.sequencer.topics.note_refused();
            return self.sessions.refuse_publication(link, name, id, refused);
        }
        self.publish_allowed(link, client, id, name, publication, idempotency_key);
    }

    /// A session publishes if its permissions allow it.
    pub(super) fn publish_allowed(
        &mut self,
        link: &mut ConnectionContext<'_>,
        client: Option<&Identity>,
        id: Option<u64>,
        name: &str,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) {
        let publisher = publisher(
            link,
            self.number(link.mailboxes.shard()),
            client,
            None,
            id.map_or(AckMode::OnRefusal, AckMode::Always),
        );
        let Broadcast { sequencer, held, .. } = self;
        let Some(sequenced) =
            route_or_hold(sequencer, held, link, name, publisher, publication, idempotency_key)
        else {
            if let (Some(session), AckMode::Always(_)) = (link.peer.session_mut(), publisher.ack_mode) {
                session.unanswered.get_or_insert_default().add(name, publisher.request);
            }
            return;
        };
        match self.append_sequenced(&mut link.resources(), &publisher, sequenced, publication) {
            Err(refused) => self.sessions.refuse_publication(link, name, id, refused),
            result => self.sessions.acknowledge(link, name, &publisher, result),
        }
    }

    /// Publishes the held publications in order, as far as there is room.
    pub(super) fn publish_held<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        while let Some(held) = self.held.pop() {
            let Some((name, publication, idempotency_key)) = held.stored.parts() else { continue };
            let publisher = match self.fan_out.topics.find(name) {
                Some(topic) => publisher_now(cx, topic, &held.publisher),
                None => held.publisher,
            };
            let (now, mut resources) = (cx.now(), cx.resources());
            let routed =
                self.sequencer.route(&mut resources, now, name, publisher, publication, idempotency_key);
            let result = match routed {
                Err(Full) => return self.held.put_back(held),
                Ok(Routed::Posted) => None,
                Ok(Routed::Here(sequenced)) => {
                    Some(self.append_sequenced(&mut resources, &publisher, sequenced, publication))
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
    pub fn has_operator_wait<D: Driver>(&self, cx: &Context<'_, D>) -> bool {
        let is_owner = !self.drain.is_on() && self.sequencer.ordering != Ordering::Theirs;
        is_owner && !self.takes_requests(cx)
    }

    /// The operator publishes to a topic that this shard owns.
    ///
    /// # Errors
    /// The reason why the topic refuses the message.
    pub fn publish_for_operator<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        name: &str,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Result<OperatorPublished, Refused> {
        if self.drain.is_on() || self.sequencer.ordering == Ordering::Theirs {
            self.sequencer.topics.note_refused();
            return Err(Refused::Draining);
        }
        if publication.payload.len() > self.sequencer.message_bytes_max() {
            self.sequencer.topics.note_refused();
            return Err(Refused::TooLarge);
        }
        if !self.takes_requests(cx) {
            self.sequencer.topics.note_refused();
            return Err(Refused::Busy);
        }
        let (now, mut resources) = (cx.now(), cx.resources());
        let operator = Publisher::operator(now);
        if let Some(ticket) = self.sequencer.stage(name, operator, publication, idempotency_key) {
            return Ok(OperatorPublished::Later(ticket));
        }
        let sequenced =
            self.sequencer.sequence(&mut resources, now, name, operator, publication, idempotency_key);
        let result = self.append_sequenced(&mut resources, &operator, sequenced, publication);
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

    /// Delivers a message to this shard's own subscribers, if it has any.
    #[inline]
    pub(super) fn append_sequenced(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        publisher: &Publisher,
        sequenced: Result<Sequenced, Refused>,
        publication: Publication<'_>,
    ) -> PublishResult {
        let Sequenced { position, local, .. } = sequenced?;
        if let Some(topic) = local {
            let Broadcast { fan_out, sequencer, .. } = self;
            let owned = &mut sequencer.topics;
            fan_out.append(owned, resources, topic, publisher, position.offset, publication);
        }
        Ok(position)
    }

    /// The next message of a topic arrived from its owner. It acknowledges a publication of this shard.
    #[inline]
    pub(super) fn deliver<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        topic: TopicId,
        publisher: &Publisher,
        offset: u64,
        publication: Publication<'_>,
    ) {
        let publisher = &publisher_now(cx, topic, publisher);
        let Broadcast { sequencer, fan_out, .. } = self;
        fan_out.append(&mut sequencer.topics, &mut cx.resources(), topic, publisher, offset, publication);
        if matches!(publisher.ack_mode, AckMode::Always(_)) && publisher.is_on(cx.shard()) {
            self.acknowledge_delivered(cx, topic, publisher, offset);
        }
    }

    fn acknowledge_delivered<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
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
}

/// Routes a publication. It is held if others are held before it, or if a mailbox is full. Returns the result if this shard
/// owns the topic.
pub(super) fn route_or_hold(
    sequencer: &mut Sequencer,
    held: &mut HeldPublications,
    link: &mut ConnectionContext<'_>,
    name: &str,
    publisher: Publisher,
    publication: Publication<'_>,
    idempotency_key: &str,
) -> Option<Result<Sequenced, Refused>> {
    let now = link.now();
    let mut resources = link.resources();
    let routed = match held.is_empty() {
        true => sequencer.route(&mut resources, now, name, publisher, publication, idempotency_key),
        false => Err(Full),
    };
    let bytes = publication.payload.len();
    traces::published(publisher.token, name, bytes, publisher.received_at, outcome(&routed));
    match routed {
        Ok(Routed::Here(sequenced)) => return Some(sequenced),
        Ok(Routed::Posted) => {}
        Err(Full) => held.hold(link, name, publisher, publication, idempotency_key),
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

/// This connection as a publisher.
pub(super) fn publisher(
    link: &ConnectionContext<'_>,
    number: u8,
    client: Option<&Identity>,
    member: Option<SubscriberId>,
    ack_mode: AckMode,
) -> Publisher {
    let identity = client.map_or(0, Identity::number);
    let shard = link.mailboxes.shard() as u16;
    let request = latest_request(link);
    Publisher {
        shard,
        number,
        token: link.token,
        identity,
        member,
        ack_mode,
        request,
        received_at: link.now(),
    }
}
