//! Protocol errors: why a request is rejected, in a form for programs.
//!
//! An error repeats nothing of the request except its validated `id`.

use std::borrow::Cow;

use crate::limits::{IDEMPOTENCY_KEY_BYTES_MAX, JSON_DEPTH_MAX};
use echoring_runtime::admission::Limit;
use echoring_topics::limits::{KEY_BYTES_MAX, TOPIC_BYTES_MAX};
use echoring_topics::{Refused, Right};

/// A rejected request. The connection stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// The id of the request, if it has a valid one.
    pub id: Option<u64>,
    /// The error code, for programs.
    pub code: &'static str,
    /// The wrong field; empty for none.
    pub field: &'static str,
    /// The reason, for people.
    pub message: Cow<'static, str>,
}

impl ProtocolError {
    fn new(
        id: Option<u64>,
        code: &'static str,
        field: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> ProtocolError {
        ProtocolError { id, code, field, message: message.into() }
    }

    pub(super) fn bad_json(error: &serde_json::Error) -> ProtocolError {
        let message = match error.classify() {
            serde_json::error::Category::Data => "a request is one JSON object".into(),
            _ => format!("not JSON: {error}"),
        };
        ProtocolError::new(None, "bad-json", "", message)
    }

    pub(super) fn missing(id: Option<u64>, field: &'static str) -> ProtocolError {
        ProtocolError::new(id, "missing-field", field, format!("the field `{field}` is missing"))
    }

    pub(super) fn bad(
        id: Option<u64>,
        field: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> ProtocolError {
        ProtocolError::new(id, "bad-field", field, message)
    }

    pub(super) fn bad_topic(id: Option<u64>) -> ProtocolError {
        let message = format!(
            "a topic is a string of 1 to {TOPIC_BYTES_MAX} bytes of UTF-8 without control characters"
        );
        ProtocolError::bad(id, "topic", message)
    }

    pub(super) fn bad_key(id: Option<u64>) -> ProtocolError {
        ProtocolError::bad(id, "key", format!("a key is a string of 1 to {KEY_BYTES_MAX} bytes of UTF-8"))
    }

    pub(super) fn bad_idempotency_key(id: Option<u64>) -> ProtocolError {
        let message =
            format!("an idempotency key is a string of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes of UTF-8");
        ProtocolError::bad(id, "idempotency_key", message)
    }

    pub(super) fn too_deep(id: Option<u64>) -> ProtocolError {
        let message = format!("more than {JSON_DEPTH_MAX} nested arrays and objects");
        ProtocolError::bad(id, "data", message)
    }

    pub(super) fn unknown_type(id: Option<u64>) -> ProtocolError {
        ProtocolError::new(
            id,
            "unknown-type",
            "type",
            "the type is one of subscribe, unsubscribe, publish, presence, authenticate",
        )
    }

    /// A binary message: requests are text.
    pub fn not_text() -> ProtocolError {
        ProtocolError::new(None, "not-text", "", "requests are text messages")
    }

    /// The session has subscribed to the topic already.
    pub fn already_subscribed(id: Option<u64>) -> ProtocolError {
        ProtocolError::new(id, "already-subscribed", "topic", "subscribed to this topic already")
    }

    /// The session is not subscribed to the topic.
    pub fn not_subscribed(id: Option<u64>) -> ProtocolError {
        ProtocolError::new(id, "not-subscribed", "topic", "not subscribed to this topic")
    }

    /// The topic has no presence.
    pub fn no_presence(id: Option<u64>) -> ProtocolError {
        ProtocolError::new(id, "no-presence", "topic", "this topic has no presence")
    }

    /// The session, or its identity, has the maximum number of subscriptions.
    pub fn too_many_subscriptions(id: Option<u64>, limit: Limit) -> ProtocolError {
        let message = match limit {
            Limit::SubscriptionsPerIdentity => "this identity has the maximum number of subscriptions",
            _ => "this connection has the maximum number of subscriptions",
        };
        ProtocolError::new(id, "too-many-subscriptions", "topic", message)
    }

    /// The session, or its identity, subscribes faster than it may.
    pub fn subscribes_too_fast(id: Option<u64>) -> ProtocolError {
        ProtocolError::new(id, "rate-limited", "topic", "more new subscriptions per second than allowed")
    }

    /// The client does not have a right on the topic.
    pub fn forbidden(id: Option<u64>, right: Right) -> ProtocolError {
        let message = match right {
            Right::Subscribe => "not allowed to subscribe to this topic",
            Right::Publish => "not allowed to publish to this topic",
            Right::Presence => "not allowed to see who subscribes to this topic",
            Right::History => "not allowed to receive earlier messages of this topic",
        };
        ProtocolError::new(id, "forbidden", "topic", message)
    }

    /// The session keeps its credentials, because new ones were not accepted.
    pub fn bad_token(id: Option<u64>, reason: &'static str) -> ProtocolError {
        ProtocolError::new(id, "bad-token", "token", reason)
    }

    /// A token of the session is being checked, or cannot be checked now.
    pub fn busy_authenticating(id: Option<u64>, reason: &'static str) -> ProtocolError {
        ProtocolError::new(id, "busy", "", reason)
    }

    /// The topic refused a message or a subscription.
    pub fn refused(id: Option<u64>, refused: Refused) -> ProtocolError {
        let field = match refused {
            Refused::KeyReused => "idempotency_key",
            Refused::NoKey | Refused::TooManyKeys => "key",
            Refused::TooManyTopics
            | Refused::TooManyByConnection
            | Refused::TooManyByIdentity
            | Refused::Forbidden => "topic",
            Refused::TooLarge => "data",
            // The state of the server, and no field of the command.
            _ => "",
        };
        ProtocolError::new(id, refused.code(), field, refused.to_string())
    }
}
