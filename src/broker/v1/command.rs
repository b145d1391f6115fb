//! Parses a request of a client: one JSON object in a text message.
//!
//! Time and memory are linear in the length of the message. The parser never guesses: a wrong field is named, and the
//! request is rejected.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::protocol_error::ProtocolError;
use crate::limits::{IDEMPOTENCY_KEY_BYTES_MAX, PRESENCE_PAGE_MAX};
use crate::validation::is_too_deep;
use echoring_auth::limits::CREDENTIAL_BYTES_MAX;
use echoring_topics::limits::{INTEGER_END, KEY_BYTES_MAX};
use echoring_topics::{ClientId, Content, Position, is_topic_name, parse_epoch};

/// A request. Its `id` is chosen by the client, is below 2^53, and is repeated in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Subscribe to a topic.
    Subscribe {
        /// The id of the request.
        id: Option<u64>,
        /// A [valid name](is_topic_name).
        topic: Cow<'a, str>,
        /// Replay the messages after this position first; without it, start with new messages.
        position: Option<Position>,
    },
    /// Unsubscribe from a topic.
    Unsubscribe {
        /// The id of the request.
        id: Option<u64>,
        /// A [valid name](is_topic_name).
        topic: Cow<'a, str>,
    },
    /// List the members of a topic.
    Presence {
        /// The id of the request.
        id: Option<u64>,
        /// A [valid name](is_topic_name).
        topic: Cow<'a, str>,
        /// List the members after this one; without it, the first ones.
        after: Option<ClientId>,
        /// Maximum number of members, at most [`PRESENCE_PAGE_MAX`].
        limit: usize,
    },
    /// Present fresh credentials of the same client.
    Authenticate {
        /// The id of the request.
        id: Option<u64>,
        /// 1 to [`CREDENTIAL_BYTES_MAX`](echoring_auth::limits::CREDENTIAL_BYTES_MAX) visible ASCII characters.
        token: Cow<'a, str>,
    },
    /// Publish a message to a topic.
    Publish {
        /// The id of the request.
        id: Option<u64>,
        /// A [valid name](is_topic_name).
        topic: Cow<'a, str>,
        /// [`Json`](Content::Json) or [`Text`](Content::Text).
        content: Content,
        /// At most [`KEY_BYTES_MAX`] bytes; empty for none.
        key: Cow<'a, str>,
        /// At most [`IDEMPOTENCY_KEY_BYTES_MAX`] bytes; empty for none.
        idempotency_key: Cow<'a, str>,
        /// A JSON value as it was written, or the text.
        payload: Cow<'a, [u8]>,
    },
}

/// Parses a client's message. Only strings with escapes are copied; memory is allocated only for those, and for nested
/// arrays and objects.
///
/// # Errors
/// The error for the client: the message is not a JSON object, or a field is missing or invalid. It has the request's
/// `id` if the message is JSON and the `id` is valid.
pub fn parse(text: &[u8]) -> Result<Command<'_>, ProtocolError> {
    let fields: Fields<'_> = serde_json::from_slice(text).map_err(|error| ProtocolError::bad_json(&error))?;
    let id = fields.id()?;
    if let Some(field) = fields.duplicate {
        return Err(ProtocolError::bad(id, field, format!("the field `{field}` appears twice")));
    }
    let kind = fields.kind.ok_or_else(|| ProtocolError::missing(id, "type"))?;
    let kind = string(kind).ok_or_else(|| ProtocolError::bad(id, "type", "the type is a string"))?;
    match &*kind {
        "subscribe" => {
            Ok(Command::Subscribe { id, topic: fields.topic(id)?, position: fields.position(id)? })
        }
        "presence" => {
            let (topic, after) = (fields.topic(id)?, fields.after(id)?);
            Ok(Command::Presence { id, topic, after, limit: fields.limit(id)? })
        }
        "authenticate" => Ok(Command::Authenticate { id, token: fields.token(id)? }),
        "unsubscribe" => Ok(Command::Unsubscribe { id, topic: fields.topic(id)? }),
        "publish" => {
            let (topic, key) = (fields.topic(id)?, fields.key(id)?);
            let idempotency_key = fields.idempotency_key(id)?;
            let (content, payload) = fields.payload(id)?;
            Ok(Command::Publish { id, topic, content, key, idempotency_key, payload })
        }
        _ => Err(ProtocolError::unknown_type(id)),
    }
}

/// The known fields, each as raw JSON.
#[derive(Default)]
struct Fields<'a> {
    id: Option<&'a RawValue>,
    kind: Option<&'a RawValue>,
    topic: Option<&'a RawValue>,
    position: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    idempotency_key: Option<&'a RawValue>,
    after: Option<&'a RawValue>,
    limit: Option<&'a RawValue>,
    token: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    text: Option<&'a RawValue>,
    /// The first duplicate field.
    duplicate: Option<&'static str>,
}

impl<'a> Fields<'a> {
    /// With two values of `id`, neither is the request's.
    fn id(&self) -> Result<Option<u64>, ProtocolError> {
        let Some(raw) = self.id.filter(|_| self.duplicate != Some("id")) else { return Ok(None) };
        match integer(raw) {
            Some(id) => Ok(Some(id)),
            None => Err(ProtocolError::bad(None, "id", "an id is an integer from 0 to 2^53 - 1")),
        }
    }

    fn topic(&self, id: Option<u64>) -> Result<Cow<'a, str>, ProtocolError> {
        let raw = self.topic.ok_or_else(|| ProtocolError::missing(id, "topic"))?;
        string(raw).filter(|name| is_topic_name(name)).ok_or_else(|| ProtocolError::bad_topic(id))
    }

    fn key(&self, id: Option<u64>) -> Result<Cow<'a, str>, ProtocolError> {
        let Some(raw) = self.key else { return Ok(Cow::Borrowed("")) };
        string(raw)
            .filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()))
            .ok_or_else(|| ProtocolError::bad_key(id))
    }

    fn idempotency_key(&self, id: Option<u64>) -> Result<Cow<'a, str>, ProtocolError> {
        let Some(raw) = self.idempotency_key else { return Ok(Cow::Borrowed("")) };
        string(raw)
            .filter(|key| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()))
            .ok_or_else(|| ProtocolError::bad_idempotency_key(id))
    }

    fn token(&self, id: Option<u64>) -> Result<Cow<'a, str>, ProtocolError> {
        let raw = self.token.ok_or_else(|| ProtocolError::missing(id, "token"))?;
        let is_good = |token: &str| {
            (1..=CREDENTIAL_BYTES_MAX).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        string(raw)
            .filter(|token| is_good(token))
            .ok_or_else(|| ProtocolError::bad(id, "token", "a token is a string of visible ASCII characters"))
    }

    fn after(&self, id: Option<u64>) -> Result<Option<ClientId>, ProtocolError> {
        let Some(raw) = self.after else { return Ok(None) };
        let client = string(raw).and_then(|client| ClientId::parse(&client));
        let error = || ProtocolError::bad(id, "after", "a client is a string of 1 to 32 hexadecimal digits");
        client.ok_or_else(error).map(Some)
    }

    fn limit(&self, id: Option<u64>) -> Result<usize, ProtocolError> {
        let Some(raw) = self.limit else { return Ok(PRESENCE_PAGE_MAX) };
        let limit = integer(raw).map(|limit| limit as usize).filter(|limit| *limit <= PRESENCE_PAGE_MAX);
        limit.ok_or_else(|| {
            ProtocolError::bad(id, "limit", format!("a limit is an integer from 0 to {PRESENCE_PAGE_MAX}"))
        })
    }

    fn position(&self, id: Option<u64>) -> Result<Option<Position>, ProtocolError> {
        let Some(raw) = self.position else { return Ok(None) };
        let position: PositionFields<'a> = serde_json::from_str(raw.get()).map_err(|_| {
            ProtocolError::bad(id, "position", "a position is an object with an epoch and an offset")
        })?;
        let epoch = position.epoch.ok_or_else(|| ProtocolError::missing(id, "position.epoch"))?;
        let offset = position.offset.ok_or_else(|| ProtocolError::missing(id, "position.offset"))?;
        let epoch = string(epoch).and_then(|epoch| parse_epoch(&epoch)).ok_or_else(|| {
            ProtocolError::bad(id, "position.epoch", "an epoch is a string of 1 to 32 hexadecimal digits")
        })?;
        let offset = integer(offset).ok_or_else(|| {
            ProtocolError::bad(id, "position.offset", "an offset is an integer from 0 to 2^53 - 1")
        })?;
        Ok(Some(Position { epoch, offset }))
    }

    fn payload(&self, id: Option<u64>) -> Result<(Content, Cow<'a, [u8]>), ProtocolError> {
        match (self.data, self.text) {
            (Some(data), None) => {
                let json = data.get().as_bytes();
                if is_too_deep(json) {
                    return Err(ProtocolError::too_deep(id));
                }
                Ok((Content::Json, Cow::Borrowed(json)))
            }
            (None, Some(text)) => match string(text) {
                Some(Cow::Borrowed(text)) => Ok((Content::Text, Cow::Borrowed(text.as_bytes()))),
                Some(Cow::Owned(text)) => Ok((Content::Text, Cow::Owned(text.into_bytes()))),
                None => Err(ProtocolError::bad(id, "text", "a text is a string")),
            },
            (None, None) => Err(ProtocolError::missing(id, "data")),
            (Some(_), Some(_)) => Err(ProtocolError::bad(id, "text", "expected either data or text")),
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields<'de>, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key()? {
            let (place, name) = match name {
                Name::Id => (&mut fields.id, "id"),
                Name::Type => (&mut fields.kind, "type"),
                Name::Topic => (&mut fields.topic, "topic"),
                Name::Position => (&mut fields.position, "position"),
                Name::Key => (&mut fields.key, "key"),
                Name::IdempotencyKey => (&mut fields.idempotency_key, "idempotency_key"),
                Name::After => (&mut fields.after, "after"),
                Name::Limit => (&mut fields.limit, "limit"),
                Name::Token => (&mut fields.token, "token"),
                Name::Data => (&mut fields.data, "data"),
                Name::Text => (&mut fields.text, "text"),
                Name::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if place.replace(map.next_value()?).is_some() {
                fields.duplicate.get_or_insert(name);
            }
        }
        Ok(fields)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Name {
    Id,
    Type,
    Topic,
    Position,
    Key,
    #[serde(rename = "idempotency_key")]
    IdempotencyKey,
    After,
    Limit,
    Token,
    Data,
    Text,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct PositionFields<'a> {
    #[serde(borrow)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow)]
    offset: Option<&'a RawValue>,
}

/// The value of a JSON string.
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let written = raw.get();
    match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if !inner.contains('\\') => Some(Cow::Borrowed(inner)),
        // Fails for an escape of a lone surrogate.
        Some(_) => serde_json::from_str(written).ok().map(Cow::Owned),
        None => None,
    }
}

/// An unsigned integer that JavaScript can represent, without fraction and exponent.
fn integer(raw: &RawValue) -> Option<u64> {
    raw.get().parse().ok().filter(|&number| number < INTEGER_END)
}
