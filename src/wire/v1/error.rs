//! Protocol errors: why a command is rejected, in a form for programs.
//!
//! An error repeats nothing of the command except its validated `id`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A rejected command. The connection stays open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorEvent<'a> {
    /// The id of the command, if it has a valid one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The error code, for programs.
    pub code: Cow<'a, str>,
    /// The wrong field; empty for none.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub field: Cow<'a, str>,
    /// The reason, for people.
    pub message: Cow<'a, str>,
}

/// An error as a server makes it.
pub type ProtocolError = ErrorEvent<'static>;

/// Whether the same command may succeed later, after an error with this code.
pub fn is_temporary(code: &str) -> bool {
    matches!(
        code,
        "behind" | "busy" | "draining" | "no-storage" | "out-of-memory" | "rate-limited" | "unreachable"
    )
}

impl ProtocolError {
    /// Whether a client that follows the protocol never gets this error. The other errors refuse a well-formed command.
    pub fn is_violation(&self) -> bool {
        matches!(&*self.code, "bad-json" | "not-text" | "unknown-type" | "missing-field" | "bad-field")
    }

    /// An error with these parts. `field` is empty for none.
    pub fn new(
        id: Option<u64>,
        code: &'static str,
        field: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> ProtocolError {
        ProtocolError { id, code: code.into(), field: field.into(), message: message.into() }
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

    pub(super) fn unknown_type(id: Option<u64>) -> ProtocolError {
        ProtocolError::new(
            id,
            "unknown-type",
            "type",
            "the type is one of subscribe, unsubscribe, publish, presence, authenticate, ping",
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

    /// The session, or its identity, subscribes faster than it may.
    pub fn subscribes_too_fast(id: Option<u64>) -> ProtocolError {
        ProtocolError::new(id, "rate-limited", "topic", "more new subscriptions per second than allowed")
    }

    /// The session keeps its credentials, because new ones were not accepted.
    pub fn bad_token(id: Option<u64>, reason: &'static str) -> ProtocolError {
        ProtocolError::new(id, "bad-token", "token", reason)
    }

    /// A token of the session is being checked, or cannot be checked now.
    pub fn busy_authenticating(id: Option<u64>, reason: &'static str) -> ProtocolError {
        ProtocolError::new(id, "busy", "", reason)
    }
}
