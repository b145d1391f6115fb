//! Why a request was not done, in a form that the client's program can decide by.
//!
//! It must never repeat what the client sent but its `id` and the name of its topic, which were found to be good.

use std::borrow::Cow;

use crate::hub::Refused;
use crate::limits::{IDEMPOTENCY_KEY_BYTES_MAX, JSON_DEPTH_MAX, KEY_BYTES_MAX, TOPIC_BYTES_MAX};

/// A request that was not done. The connection stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The request's own number, if it had one that could be read.
    pub id: Option<u64>,
    /// A word for it that programs decide by.
    pub code: &'static str,
    /// The field that it is about; empty when it is about none.
    pub field: &'static str,
    /// The reason, for people.
    pub message: Cow<'static, str>,
}

impl Complaint {
    fn new(
        id: Option<u64>,
        code: &'static str,
        field: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Complaint {
        Complaint { id, code, field, message: message.into() }
    }

    pub(super) fn bad_json(error: &serde_json::Error) -> Complaint {
        let message = match error.classify() {
            serde_json::error::Category::Data => "a request is one JSON object".into(),
            _ => format!("not JSON: {error}"),
        };
        Complaint::new(None, "bad-json", "", message)
    }

    pub(super) fn missing(id: Option<u64>, field: &'static str) -> Complaint {
        Complaint::new(id, "missing-field", field, format!("the field `{field}` is missing"))
    }

    pub(super) fn bad(
        id: Option<u64>,
        field: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Complaint {
        Complaint::new(id, "bad-field", field, message)
    }

    pub(super) fn bad_topic(id: Option<u64>) -> Complaint {
        let message = format!(
            "a topic is a string of 1 to {TOPIC_BYTES_MAX} bytes of UTF-8 without control characters"
        );
        Complaint::bad(id, "topic", message)
    }

    pub(super) fn bad_key(id: Option<u64>) -> Complaint {
        Complaint::bad(id, "key", format!("a key is a string of 1 to {KEY_BYTES_MAX} bytes of UTF-8"))
    }

    pub(super) fn bad_idempotency_key(id: Option<u64>) -> Complaint {
        let message =
            format!("an idempotency key is a string of 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes of UTF-8");
        Complaint::bad(id, "idempotency_key", message)
    }

    pub(super) fn too_deep(id: Option<u64>) -> Complaint {
        let message = format!("more than {JSON_DEPTH_MAX} arrays and objects within one another");
        Complaint::bad(id, "data", message)
    }

    pub(super) fn unknown_type(id: Option<u64>) -> Complaint {
        Complaint::new(
            id,
            "unknown-type",
            "type",
            "the type is one of subscribe, unsubscribe, publish, presence",
        )
    }

    /// A binary message: requests are text.
    pub fn not_text() -> Complaint {
        Complaint::new(None, "not-text", "", "requests are text messages")
    }

    /// The connection is subscribed to the topic, or about to be.
    pub fn already_subscribed(id: Option<u64>) -> Complaint {
        Complaint::new(id, "already-subscribed", "topic", "subscribed to this topic already")
    }

    /// The connection is not subscribed to the topic.
    pub fn not_subscribed(id: Option<u64>) -> Complaint {
        Complaint::new(id, "not-subscribed", "topic", "not subscribed to this topic")
    }

    /// Nobody is told who subscribes to the topic.
    pub fn no_presence(id: Option<u64>) -> Complaint {
        Complaint::new(id, "no-presence", "topic", "presence is not told on this topic")
    }

    /// The connection has as many subscriptions as it may have.
    pub fn too_many_subscriptions(id: Option<u64>, subscriptions_max: u32) -> Complaint {
        let message = format!("a connection may subscribe to {subscriptions_max} topics");
        Complaint::new(id, "too-many-subscriptions", "topic", message)
    }

    /// The topic did not take a message or a subscription.
    pub fn refused(id: Option<u64>, refused: Refused) -> Complaint {
        let field = match refused {
            Refused::KeyReused => "idempotency_key",
            Refused::NoKey | Refused::TooManyKeys => "key",
            Refused::TooManyTopics | Refused::Forbidden => "topic",
            Refused::TooLarge => "data",
            Refused::Busy | Refused::OutOfMemory | Refused::Draining => "",
        };
        Complaint::new(id, refused.code(), field, refused.to_string())
    }
}
