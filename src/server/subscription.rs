//! The values of handlers' topics: options, messages, events and errors. It knows no shard and no topic.

use std::error::Error;
use std::fmt;

use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_topics::limits::INTEGER_END;
use echoring_topics::{Content, GapReason, Position, Publication, Refused};

use crate::failure::{Failure, Result};
use crate::message::Message;
use crate::publications::PublishError;

/// How a handler's connection subscribes to a topic. By default it begins at the topic's end, or with the snapshot if the topic
/// has one, and includes the connection's own messages.
///
/// ```
/// use echoring::server::{Position, Remote, Result, SubscribeOptions};
///
/// /// Continues where the client says that it was, such as "1f3a5c-42".
/// fn resume(remote: &mut Remote<'_>, reached: &str) -> Result {
///     let position: Position = reached.parse()?;
///     Ok(remote.subscribe_with("news", SubscribeOptions::new().from(position).skip_own())?)
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    pub(crate) from: Option<Position>,
    pub(crate) skips_own: bool,
}

impl SubscribeOptions {
    /// The default.
    pub fn new() -> SubscribeOptions {
        SubscribeOptions::default()
    }

    /// Begins behind a position that the client has reached before. If the history has all messages since, they are sent first.
    /// Otherwise [`SubscriptionEvent::Subscribed`] says that the subscription was not recovered and [`SubscriptionEvent::Gap`], where
    /// it is known, which messages are missing; by default either closes the connection.
    #[must_use]
    pub fn from(mut self, position: Position) -> SubscribeOptions {
        // No topic reaches an offset that the protocols cannot express.
        self.from = Some(Position { offset: position.offset.min(INTEGER_END), ..position });
        self
    }

    /// Leaves out the connection's own publications. The history that is sent first, from a position or as the topic's
    /// snapshot, is complete: it includes the connection's own messages.
    #[must_use]
    pub fn skip_own(mut self) -> SubscribeOptions {
        self.skips_own = true;
        self
    }
}

/// Why a handler's connection does not subscribe to a topic. As a [`Failure`] it closes with 1013 if a retry may succeed, with 1001 if
/// the server drains, and with 1008 otherwise.
///
/// ```
/// use echoring::server::{Remote, Result, SubscribeError};
///
/// fn join(remote: &mut Remote<'_>, room: &str) -> Result {
///     match remote.subscribe(room) {
///         Ok(()) | Err(SubscribeError::AlreadySubscribed) => Ok(()),
///         Err(error) => Ok(remote.send_text(&format!("{room}: {error}"))?),
///     }
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name is empty, longer than 255 bytes, or has a control character.
    BadTopic,
    /// The connection subscribes to this topic already.
    AlreadySubscribed,
    /// The connection, or its identity, has the maximum number of subscriptions.
    TooMany,
    /// The connection is closing.
    Closing,
    /// The topic cannot take the subscription.
    Refused(Refused),
}

impl SubscribeError {
    fn is_passing(self) -> bool {
        matches!(self, SubscribeError::Refused(refused) if refused.is_passing())
    }

    pub(crate) fn close_code(self) -> CloseCode {
        close_code(self.is_passing())
    }
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubscribeError::BadTopic => f.write_str("bad topic name"),
            SubscribeError::AlreadySubscribed => f.write_str("already subscribed to this topic"),
            SubscribeError::TooMany => f.write_str("too many subscriptions"),
            SubscribeError::Closing => f.write_str("the connection is closing"),
            SubscribeError::Refused(refused) => refused.fmt(f),
        }
    }
}

impl Error for SubscribeError {}

echoring_proto::error_debug!(
    enum SubscribeError {
        BadTopic,
        AlreadySubscribed,
        TooMany,
        Closing,
        Refused(refused),
    }
);

/// A message that a handler publishes, borrowed. Convert from `&str` (text), `&[u8]` (binary), or the [`Message`] that was
/// received.
///
/// ```
/// use echoring::server::{Remote, Result, TopicMessage};
///
/// fn tell(remote: &mut Remote<'_>) -> Result {
///     remote.publish("news", "hello")?;
///     remote.publish("prices", TopicMessage::json(r#"{"bid":1.0842}"#).key("EUR"))?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicMessage<'a> {
    pub(crate) publication: Publication<'a>,
    pub(crate) idempotency_key: &'a str,
}

impl<'a> TopicMessage<'a> {
    fn new(content: Content, payload: &'a [u8]) -> TopicMessage<'a> {
        TopicMessage { publication: Publication { content, key: "", payload }, idempotency_key: "" }
    }

    /// A JSON value. Raw subscribers get it as text; sessions of `echoring.v1.json` get it as a value. The caller
    /// guarantees that it is one JSON value.
    pub fn json(value: &'a str) -> TopicMessage<'a> {
        TopicMessage::new(Content::Json, value.as_bytes())
    }

    /// Sets the key of which the message is the latest state, at most 255 bytes, for topics that conflate.
    #[must_use]
    pub fn key(mut self, key: &'a str) -> TopicMessage<'a> {
        self.publication.key = key;
        self
    }

    /// Sets the idempotency key, at most 255 bytes: a message with the key of one that was accepted within five minutes is
    /// accepted with the position of that one, and not sent again.
    #[must_use]
    pub fn idempotency_key(mut self, key: &'a str) -> TopicMessage<'a> {
        self.idempotency_key = key;
        self
    }
}

impl<'a> From<&'a str> for TopicMessage<'a> {
    fn from(text: &'a str) -> TopicMessage<'a> {
        TopicMessage::new(Content::Text, text.as_bytes())
    }
}

impl<'a> From<&'a String> for TopicMessage<'a> {
    fn from(text: &'a String) -> TopicMessage<'a> {
        TopicMessage::from(text.as_str())
    }
}

impl<'a> From<&'a [u8]> for TopicMessage<'a> {
    fn from(payload: &'a [u8]) -> TopicMessage<'a> {
        TopicMessage::new(Content::Binary, payload)
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

/// Why the server has ended a subscription.
///
/// ```
/// use echoring::server::{SubscriptionEnd, SubscriptionEvent};
///
/// fn is_too_slow(event: &SubscriptionEvent<'_>) -> bool {
///     matches!(event, SubscriptionEvent::Ended { reason: SubscriptionEnd::SlowConsumer, .. })
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionEnd {
    /// The peer is too slow for the topic's bound, or its messages were lost for lack of memory.
    SlowConsumer,
    /// The topic continues in another epoch, or behind messages that are missing on this node.
    Moved,
    /// An operator has ended it.
    Withdrawn,
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
        let slow = || Failure::new(CloseCode::SLOW_CONSUMER, "slow consumer");
        match *self {
            SubscriptionEvent::Subscribed { recovered: Some(false), .. } | SubscriptionEvent::Gap { .. } => {
                Err(slow())
            }
            SubscriptionEvent::Subscribed { .. } => Ok(()),
            SubscriptionEvent::Refused { reason, .. } => Err(SubscribeError::Refused(reason).into()),
            SubscriptionEvent::Ended { reason, .. } => Err(match reason {
                SubscriptionEnd::SlowConsumer => slow(),
                SubscriptionEnd::Moved => Failure::new(CloseCode::SERVICE_RESTART, "the topic has moved"),
                SubscriptionEnd::Withdrawn => Failure::new(CloseCode::POLICY, "the subscription was ended"),
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
            (ended(SubscriptionEnd::Moved), Some(1012)),
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
