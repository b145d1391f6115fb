//! Topics for handlers: their connections subscribe like sessions, whose messages are raw and whose events go to the handler.
//!
//! A handler is the program's own code. Permissions, which are for clients, do not restrict it; limits and rates, which protect
//! the node from clients, do.

use super::Broadcast;
use super::handler_events::{HandlerEvent, HandlerEvents};
use super::publish::{route_or_hold, skipping_member};
use super::requests::{Rejected, WantedSubscription, subscription};
use super::session::{
    AllowedBy, Protocol, Session, SessionSubscription, SubscriptionRequest, SubscriptionState, Terms,
};
use super::sessions::note_limit;
use super::shard_mail::AckMode;
use crate::gate::Gate;
use crate::limits::HANDLER_HELD_MAX;
use crate::peer::{ConnectionContext, Peer};
use crate::publications::{self, PublishError, TopicPublication};
use crate::subscription::{SubscribeError, SubscribeOptions, TopicMessage};
use echoring_auth::Identity;
use echoring_topics::is_topic_name;
use echoring_topics::{Refused, TopicId};

impl Broadcast {
    /// The connection of a handler subscribes.
    ///
    /// # Errors
    /// Why it does not.
    pub fn subscribe_for_handler(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        name: &str,
        options: SubscribeOptions,
    ) -> Result<(), SubscribeError> {
        if !link.is_open() {
            return Err(SubscribeError::Closing);
        }
        if !is_topic_name(name) {
            return Err(SubscribeError::BadTopic);
        }
        self.ensure_session(link, gate.client(link.token));
        let topic = self.fan_out.topics.find(name);
        if topic.is_some_and(|topic| subscription(link, topic).is_some()) {
            return Err(SubscribeError::AlreadySubscribed);
        }
        let SubscribeOptions { from, skips_own } = options;
        let request = SubscriptionRequest { from, skips_own, ..SubscriptionRequest::default() };
        let terms = Terms { allowed_by: AllowedBy::Handler, ..Terms::default() };
        let wanted = WantedSubscription { id: None, name, request, terms };
        self.try_subscribe(link, gate, wanted).map_err(|rejected| match rejected {
            Rejected::Refused(refused) => {
                note_limit(link, refused);
                SubscribeError::Refused(refused)
            }
            // Nothing else is wrong with a request of a handler.
            Rejected::Error(_) | Rejected::TooFast(_) => SubscribeError::TooMany,
        })
    }

    /// The session of a handler's connection, which begins with its first subscription.
    fn ensure_session(&mut self, link: &mut ConnectionContext<'_>, client: Option<&Identity>) {
        let Peer::Handler(handler) = &mut *link.peer else { return };
        if handler.session.is_none() {
            self.sessions.count += 1;
            handler.session = Some(Box::new(Session::new(client, Protocol::Handler)));
        }
    }

    /// The connection of a handler unsubscribes. False if it does not subscribe to the topic.
    pub fn unsubscribe_for_handler(&mut self, link: &mut ConnectionContext<'_>, name: &str) -> bool {
        let topic = self.fan_out.topics.find(name);
        let taken = topic.and_then(|topic| link.peer.session_mut()?.take(topic));
        let Some(subscription) = taken else { return false };
        self.leave_topic(link, &subscription);
        true
    }

    /// A handler publishes in the name of its connection. Its outcome is an event for the handler: a refusal or, with
    /// an `id`, any result.
    ///
    /// # Errors
    /// Nothing is published, and no event follows.
    pub fn publish_for_handler(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        name: &str,
        message: &TopicMessage<'_>,
        id: Option<u64>,
    ) -> Result<(), PublishError> {
        let message = TopicPublication::new(name, message);
        let allowed = self.check_publication(&message).and_then(|()| may_publish_now(link, gate));
        if matches!(allowed, Err(PublishError::Refused(_) | PublishError::Closing)) {
            self.sequencer.topics.note_refused();
        }
        allowed?;
        let topic = self.fan_out.topics.find(name);
        let member = topic.and_then(|topic| skipping_member(link.peer, topic));
        let ack_mode = id.map_or(AckMode::OnRefusal, AckMode::Always);
        let publisher = self.publisher(link, gate.client(link.token), member, ack_mode);
        let Broadcast { sequencer, held, fan_out, .. } = self;
        if let Some(sequenced) = route_or_hold(sequencer, held, link, publisher, &message) {
            let (mut resources, publication) = (link.resources(), message.publication);
            let result = sequencer.deliver_here(fan_out, &mut resources, &publisher, sequenced, publication);
            self.sessions.acknowledge(link, name, &publisher, result);
        }
        Ok(())
    }

    /// Whether a message may be published once the connection of a handler is closed. One that `is_new` counts for the rates of its
    /// client.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check_on_close(
        &self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        name: &str,
        message: &TopicMessage<'_>,
        is_new: bool,
    ) -> Result<(), PublishError> {
        self.check_publication(&TopicPublication::new(name, message))?;
        if is_new { take_rate(link, gate) } else { Ok(()) }
    }

    /// Whether this shard lets a message of a handler pass.
    fn check_publication(&self, message: &TopicPublication<'_>) -> Result<(), PublishError> {
        publications::check(message, 0)?;
        if self.drain.is_on() {
            return Err(PublishError::Refused(Refused::Draining));
        }
        if message.publication.payload.len() > self.sequencer.max_message() {
            return Err(PublishError::Refused(Refused::TooLarge));
        }
        Ok(())
    }

    /// The handler pauses or resumes reading. While publications of the connection wait for room, it is not read anyhow.
    pub fn set_handler_paused(&self, link: &mut ConnectionContext<'_>, is_paused: bool) {
        let Peer::Handler(handler) = &mut *link.peer else { return };
        handler.is_paused = is_paused;
        let is_held = handler.held > 0;
        link.set_backpressured(is_paused || is_held);
    }

    /// The subscription of a handler is refused after all.
    pub(super) fn handler_refused(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        refused: Refused,
    ) {
        note_limit(link, refused);
        let Broadcast { fan_out, sessions, .. } = self;
        let event = HandlerEvent::Refused(refused);
        sessions.handler_events.push(link.token, fan_out.name(topic), event);
    }

    /// The events for handlers. `spare` is used for the next ones.
    pub fn take_handler_events(&mut self, spare: HandlerEvents) -> HandlerEvents {
        std::mem::replace(&mut self.sessions.handler_events, spare)
    }

    /// Whether there are events for handlers.
    #[inline]
    pub fn has_handler_events(&self) -> bool {
        !self.sessions.handler_events.is_empty()
    }

    /// Whether a subscription of a connection is sent history first.
    pub fn is_replaying(peer: &Peer) -> bool {
        let replays = |subscription: &SessionSubscription| {
            matches!(subscription.state, SubscriptionState::Replaying(_))
        };
        peer.session().is_some_and(|session| session.subscriptions.iter().any(replays))
    }

    /// Whether no publication of a connection waits for room.
    pub fn has_room_for(peer: &Peer) -> bool {
        !matches!(peer, Peer::Handler(handler) if handler.held > 0)
    }
}

/// Whether the connection of a handler may publish at this moment. It then counts for the rates.
fn may_publish_now(link: &mut ConnectionContext<'_>, gate: &mut Gate) -> Result<(), PublishError> {
    if !link.is_open() {
        return Err(PublishError::Closing);
    }
    if matches!(link.peer, Peer::Handler(handler) if handler.held >= HANDLER_HELD_MAX) {
        return Err(PublishError::Busy);
    }
    take_rate(link, gate)
}

/// Counts a publication for the rates of the connection and its client.
fn take_rate(link: &mut ConnectionContext<'_>, gate: &mut Gate) -> Result<(), PublishError> {
    gate.publish(link.token, link.now()).map_err(|limit| {
        link.note_excess(limit, false);
        PublishError::Refused(Refused::RateLimited)
    })
}
