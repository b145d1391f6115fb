//! What handlers are told about topics: the events of subscriptions, and what became of publications.

use echoring_broker::publications::PublishError;
use echoring_broker::subscription::{SubscribeError, SubscriptionEnd, TopicMessage};
use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_topics::{Content, GapReason, Position, Refused};

use crate::handlers::failure::{Busy, Failure, Result};
use crate::handlers::message::Message;

/// An event of a subscription of a handler's connection, in the order of the topic. The messages themselves go
/// straight to the peer.
///
/// ```
/// use echoring::server::{Handler, Remote, Result, SubscriptionEvent};
///
/// struct Member;
///
/// impl Handler for Member {
///     fn subscription(&mut self, remote: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
///         match event {
///             // The peer is told, instead of being closed.
///             SubscriptionEvent::Gap { from, to, .. } => Ok(remote.send_text(&format!("missed {from} to {to}"))?),
///             event => event.or_close(),
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionEvent<'a> {
    /// The subscription has begun, with the messages behind `position`. The peer's queue has those already that were published
    /// before.
    Subscribed {
        /// The topic.
        topic: &'a str,
        /// The messages behind it follow.
        position: Position,
        /// Whether none is missing behind the position that was asked for; `None` if none was.
        recovered: Option<bool>,
    },
    /// The subscription was refused after all.
    Refused {
        /// The topic.
        topic: &'a str,
        /// The reason.
        reason: Refused,
    },
    /// These messages were not sent, and are not going to be.
    Gap {
        /// The topic.
        topic: &'a str,
        /// The offset of the first of them.
        from: u64,
        /// The offset of the last one.
        to: u64,
        /// The reason.
        reason: GapReason,
    },
    /// The server has ended the subscription. The handler may subscribe again, from `position`.
    Ended {
        /// The topic.
        topic: &'a str,
        /// Everything up to here was sent.
        position: Position,
        /// The reason.
        reason: SubscriptionEnd,
    },
}

impl SubscriptionEvent<'_> {
    /// The number of messages that a [`Gap`](SubscriptionEvent::Gap) leaves out; `None` for other events.
    ///
    /// ```
    /// use echoring::server::{Handler, Remote, Result, SubscriptionEvent};
    ///
    /// struct Member;
    ///
    /// impl Handler for Member {
    ///     fn subscription(&mut self, remote: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
    ///         match event.missed() {
    ///             Some(count) => Ok(remote.send_text(&format!("{count} messages are missing"))?),
    ///             None => event.or_close(),
    ///         }
    ///     }
    /// }
    /// ```
    pub fn missed(&self) -> Option<u64> {
        match *self {
            SubscriptionEvent::Gap { from, to, .. } => Some((to + 1).saturating_sub(from)),
            _ => None,
        }
    }

    /// The default of [`Handler::subscription`](crate::Handler::subscription): closes the connection when messages are missing,
    /// as a raw route does, so that no peer misses any without knowing.
    ///
    /// # Errors
    /// 4008 for a gap and a slow consumer, 1012 for a topic that has moved, 1013 or 1008 for a refusal, 1001 if the server drains, 1008
    /// for the rest.
    pub fn or_close(&self) -> Result {
        let slow = || Failure::from(Busy);
        match *self {
            SubscriptionEvent::Subscribed { recovered: Some(false), .. } | SubscriptionEvent::Gap { .. } => {
                Err(slow())
            }
            SubscriptionEvent::Subscribed { .. } => Ok(()),
            SubscriptionEvent::Refused { reason, .. } => Err(SubscribeError::Refused(reason).into()),
            SubscriptionEvent::Ended { reason, .. } => Err(match reason {
                SubscriptionEnd::SlowConsumer => slow(),
                SubscriptionEnd::Interrupted => {
                    Failure::new(CloseCode::SERVICE_RESTART, "the topic has moved")
                }
                _ => Failure::new(CloseCode::POLICY, "the subscription was ended"),
            }),
        }
    }
}

/// The outcome of a message that a handler has published.
///
/// ```
/// use echoring::server::{Handler, PublishOutcome, Remote, Result};
///
/// struct Member;
///
/// impl Handler for Member {
///     fn published(&mut self, remote: &mut Remote<'_>, outcome: &PublishOutcome<'_>) -> Result {
///         match outcome.result {
///             Ok(position) => Ok(remote.send_text(&format!("message {}", position.offset))?),
///             Err(_) => outcome.or_close(),
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishOutcome<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The id of [`Remote::publish_with_id`](crate::Remote::publish_with_id); `None` for a message without one.
    pub id: Option<u64>,
    /// The message's position, or why the topic's owner has refused it.
    pub result: Result<Position, Refused>,
}

impl PublishOutcome<'_> {
    /// The default of [`Handler::published`](crate::Handler::published): a refusal closes the connection, as on a raw route.
    ///
    /// # Errors
    /// 1013 for a refusal that will pass, otherwise 1008. If the server drains, it closes the connection behind the messages of its
    /// topics, with 1001.
    pub fn or_close(&self) -> Result {
        match self.result {
            Ok(_) => Ok(()),
            Err(refused) => Err(PublishError::Refused(refused).into()),
        }
    }
}

impl<'a> From<Message<'a>> for TopicMessage<'a> {
    fn from(message: Message<'a>) -> TopicMessage<'a> {
        let content = match message.kind() {
            MessageKind::Text => Content::Text,
            MessageKind::Binary => Content::Binary,
        };
        TopicMessage::new(content, message.payload())
    }
}

/// The code for something that is refused.
pub(crate) fn close_code(is_passing: bool) -> CloseCode {
    if is_passing { CloseCode::TRY_AGAIN_LATER } else { CloseCode::POLICY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_nothing_is_lost_without_a_close() {
        let (topic, position) = ("t", Position { epoch: 1, offset: 2 });
        let subscribed = |recovered| SubscriptionEvent::Subscribed { topic, position, recovered };
        let ended = |reason| SubscriptionEvent::Ended { topic, position, reason };
        let gap = |from, to| SubscriptionEvent::Gap { topic, from, to, reason: GapReason::Memory };
        assert_eq!((gap(1, 2).missed(), gap(7, 7).missed()), (Some(2), Some(1)));
        assert_eq!(subscribed(Some(false)).missed(), None);
        for (event, expected) in [
            (subscribed(None), None),
            (subscribed(Some(true)), None),
            (subscribed(Some(false)), Some(4008)),
            (SubscriptionEvent::Refused { topic, reason: Refused::Busy }, Some(1013)),
            (SubscriptionEvent::Refused { topic, reason: Refused::TooManyTopics }, Some(1008)),
            (gap(1, 2), Some(4008)),
            (ended(SubscriptionEnd::SlowConsumer), Some(4008)),
            (ended(SubscriptionEnd::Interrupted), Some(1012)),
            (ended(SubscriptionEnd::Withdrawn), Some(1008)),
        ] {
            let closed = event.or_close().err().map(|failure| failure.code().0);
            assert_eq!(closed, expected, "{event:?}");
        }
        for (result, expected) in [
            (Ok(position), None),
            (Err(Refused::Busy), Some(1013)),
            (Err(Refused::TooLarge), Some(1008)),
            (Err(Refused::Draining), Some(1001)),
        ] {
            let closed = PublishOutcome { topic, id: None, result }.or_close().err();
            assert_eq!(closed.map(|failure| failure.code().0), expected, "{result:?}");
        }
    }
}
