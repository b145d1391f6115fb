//! The values of handlers' topics: options, messages, events and errors. It knows no shard and no topic.

use echoring_topics::limits::INTEGER_END;
use echoring_topics::{Content, Position, Publication, Refused};

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
    /// Otherwise `SubscriptionEvent::Subscribed` says that the subscription was not recovered and `SubscriptionEvent::Gap`, where
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

/// Why a handler's connection does not subscribe to a topic. As a `Failure` it closes with 1013 if a retry may succeed, with 1001 if
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
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name is empty, longer than 255 bytes, or has a control character.
    #[error("bad topic name")]
    BadTopic,
    /// The connection subscribes to this topic already.
    #[error("already subscribed to this topic")]
    AlreadySubscribed,
    /// The connection, or its identity, has the maximum number of subscriptions.
    #[error("too many subscriptions")]
    TooMany,
    /// The connection is closing.
    #[error("the connection is closing")]
    Closing,
    /// The topic cannot take the subscription.
    #[error("{0}")]
    Refused(Refused),
}

echoring_proto::error_debug!(
    enum SubscribeError {
        BadTopic,
        AlreadySubscribed,
        TooMany,
        Closing,
        Refused(refused),
    }
);

/// A message that a handler publishes, borrowed. Convert from `&str` (text), `&[u8]` (binary), or the `Message` that was
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
    /// A message with this payload.
    #[doc(hidden)]
    pub fn new(content: Content, payload: &'a [u8]) -> TopicMessage<'a> {
        TopicMessage { publication: Publication::new(content, "", payload), idempotency_key: "" }
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
    Interrupted,
    /// An operator has ended it.
    Withdrawn,
}
