//! The server's part of `echoring.v1.json`: the rules for commands, and refusals. The codec is in [`echoring_wire::v1`].

use echoring_auth::limits::CREDENTIAL_BYTES_MAX;
use echoring_runtime::admission::Limit;
use echoring_topics::limits::{KEY_BYTES_MAX, TOPIC_BYTES_MAX};
use echoring_topics::{ClientId, Content, Position, Publication, Refused, Right, is_topic_name};
use echoring_wire::v1::{self, Digits, Payload, ProtocolError, Rules, Value};

/// What commands may contain.
pub const RULES: Rules = Rules {
    is_topic_name,
    topic_bytes_max: TOPIC_BYTES_MAX,
    key_bytes_max: KEY_BYTES_MAX,
    token_bytes_max: CREDENTIAL_BYTES_MAX,
};

/// The session, or its identity, has the maximum number of subscriptions.
pub(crate) fn too_many_subscriptions(id: Option<u64>, limit: Limit) -> ProtocolError {
    let message = match limit {
        Limit::SubscriptionsPerIdentity => "this identity has the maximum number of subscriptions",
        _ => "this connection has the maximum number of subscriptions",
    };
    ProtocolError::new(id, "too-many-subscriptions", "topic", message)
}

/// The client does not have a right on the topic.
pub(crate) fn forbidden(id: Option<u64>, right: Right) -> ProtocolError {
    let message = match right {
        Right::Subscribe => "not allowed to subscribe to this topic",
        Right::Publish => "not allowed to publish to this topic",
        Right::Presence => "not allowed to see who subscribes to this topic",
        Right::History => "not allowed to receive earlier messages of this topic",
    };
    ProtocolError::new(id, "forbidden", "topic", message)
}

/// The topic refused a message or a subscription.
pub(crate) fn refused(id: Option<u64>, refused: Refused) -> ProtocolError {
    ProtocolError::new(id, refused.code(), refused.field(), refused.to_string())
}

/// The position of a command.
pub(crate) fn position_of(position: &v1::Position<'_>) -> Position {
    Position { epoch: position.epoch.number() as u64, offset: position.offset }
}

/// The client of a command.
pub(crate) fn client_of(digits: &Digits<'_>) -> ClientId {
    ClientId::from_bits(digits.number())
}

/// A client in an event.
pub(crate) fn digits(client: ClientId) -> Digits<'static> {
    Digits::Number(client.bits())
}

/// What a command publishes.
pub(crate) fn publication<'a>(key: Option<&'a str>, value: &'a Value<'_>) -> Publication<'a> {
    let (content, payload) = match value {
        Value::Json(json) => (Content::Json, json.get().as_bytes()),
        Value::Text(text) => (Content::Text, text.as_bytes()),
    };
    Publication::new(content, key.unwrap_or_default(), payload)
}

/// The message event of a publication, and its payload.
#[inline]
pub(crate) fn message<'a, 'p: 'a>(
    topic: &'a str,
    offset: u64,
    publication: &Publication<'p>,
) -> (v1::Message<'a>, Payload<'p>) {
    (v1::Message::new(topic, offset, publication.key), payload(publication))
}

/// The payload of a publication.
#[inline]
pub(crate) fn payload<'p>(publication: &Publication<'p>) -> Payload<'p> {
    let Publication { content, payload, .. } = *publication;
    match content {
        Content::Json => Payload::Json(payload),
        Content::Text => Payload::Text(payload),
        Content::Binary => Payload::Binary(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_code_of_its_own() {
        let mut codes = Vec::new();
        for refusal in Refused::ALL {
            let error = refused(Some(1), refusal);
            assert_eq!((error.id, &*error.message), (Some(1), &*refusal.to_string()));
            // A client hears that the outcome is uncertain, and decides by itself.
            let is_passing = refusal.is_passing() && refusal != Refused::Uncertain;
            assert_eq!(v1::is_temporary(&error.code), is_passing, "{}", error.code);
            codes.push(error.code);
        }
        codes.sort();
        codes.dedup();
        assert_eq!(codes.len(), Refused::ALL.len());
    }
}
