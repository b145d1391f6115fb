//! What a client asks for: one JSON object in a text message.
//!
//! It must never take more time or memory than the message's bytes account for, and never guess: a field that is not what
//! it should be is named, and nothing is done.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::complaint::Complaint;
use crate::hub::{Content, Position, is_topic_name};
use crate::limits::{IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX, PRESENCE_PAGE_MAX};
use crate::server::validation::is_too_deep;

/// What is no integer in JavaScript any more.
const INTEGER_END: u64 = 1 << 53;

/// A request. Its `id` is the client's own number for it, below 2^53, which the reply repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Send me the messages of a topic.
    Subscribe {
        /// The request's number.
        id: Option<u64>,
        /// A [good name](is_topic_name).
        topic: Cow<'a, str>,
        /// Those after this place first; without it those from now on.
        position: Option<Position>,
    },
    /// Send me no more of them.
    Unsubscribe {
        /// The request's number.
        id: Option<u64>,
        /// A [good name](is_topic_name).
        topic: Cow<'a, str>,
    },
    /// Tell me who subscribes to a topic.
    Presence {
        /// The request's number.
        id: Option<u64>,
        /// A [good name](is_topic_name).
        topic: Cow<'a, str>,
        /// Those behind this one; without it the first ones.
        after: Option<u64>,
        /// So many at most, and at most [`PRESENCE_PAGE_MAX`].
        limit: usize,
    },
    /// Send this to all subscribers of a topic.
    Publish {
        /// The request's number.
        id: Option<u64>,
        /// A [good name](is_topic_name).
        topic: Cow<'a, str>,
        /// [`Json`](Content::Json) or [`Text`](Content::Text).
        content: Content,
        /// Of at most [`KEY_BYTES_MAX`] bytes; empty when there is none.
        key: Cow<'a, str>,
        /// Of at most [`IDEMPOTENCY_KEY_BYTES_MAX`] bytes; empty when there is none.
        idempotency_key: Cow<'a, str>,
        /// A JSON value as it was written, or the text.
        payload: Cow<'a, [u8]>,
    },
}

/// Reads a client's message. Nothing is copied but strings with escapes in them; nothing is allocated but for those,
/// and for following arrays and objects that lie within others.
///
/// # Errors
/// What the client is told: that it is no JSON object, or which field is missing or bad. Its `id` is repeated whenever
/// the message is JSON and the `id` itself is good.
pub fn parse(text: &[u8]) -> Result<Command<'_>, Complaint> {
    let fields: Fields<'_> = serde_json::from_slice(text).map_err(|error| Complaint::bad_json(&error))?;
    let id = fields.id()?;
    if let Some(field) = fields.duplicate {
        return Err(Complaint::bad(id, field, format!("the field `{field}` is there twice")));
    }
    let kind = fields.kind.ok_or_else(|| Complaint::missing(id, "type"))?;
    let kind = string(kind).ok_or_else(|| Complaint::bad(id, "type", "the type is a string"))?;
    match &*kind {
        "subscribe" => {
            Ok(Command::Subscribe { id, topic: fields.topic(id)?, position: fields.position(id)? })
        }
        "presence" => {
            let (topic, after) = (fields.topic(id)?, fields.after(id)?);
            Ok(Command::Presence { id, topic, after, limit: fields.limit(id)? })
        }
        "unsubscribe" => Ok(Command::Unsubscribe { id, topic: fields.topic(id)? }),
        "publish" => {
            let (topic, key) = (fields.topic(id)?, fields.key(id)?);
            let idempotency_key = fields.idempotency_key(id)?;
            let (content, payload) = fields.payload(id)?;
            Ok(Command::Publish { id, topic, content, key, idempotency_key, payload })
        }
        _ => Err(Complaint::unknown_type(id)),
    }
}

/// The fields that mean something, each as it was written.
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
    data: Option<&'a RawValue>,
    text: Option<&'a RawValue>,
    /// The first that was there before.
    duplicate: Option<&'static str>,
}

impl<'a> Fields<'a> {
    /// An `id` that is there twice has two values, none of which is the request's.
    fn id(&self) -> Result<Option<u64>, Complaint> {
        let Some(raw) = self.id.filter(|_| self.duplicate != Some("id")) else { return Ok(None) };
        match integer(raw) {
            Some(id) => Ok(Some(id)),
            None => Err(Complaint::bad(None, "id", "an id is an integer from 0 to 2^53 - 1")),
        }
    }

    fn topic(&self, id: Option<u64>) -> Result<Cow<'a, str>, Complaint> {
        let raw = self.topic.ok_or_else(|| Complaint::missing(id, "topic"))?;
        string(raw).filter(|name| is_topic_name(name)).ok_or_else(|| Complaint::bad_topic(id))
    }

    fn key(&self, id: Option<u64>) -> Result<Cow<'a, str>, Complaint> {
        let Some(raw) = self.key else { return Ok(Cow::Borrowed("")) };
        string(raw)
            .filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()))
            .ok_or_else(|| Complaint::bad_key(id))
    }

    fn idempotency_key(&self, id: Option<u64>) -> Result<Cow<'a, str>, Complaint> {
        let Some(raw) = self.idempotency_key else { return Ok(Cow::Borrowed("")) };
        string(raw)
            .filter(|key| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()))
            .ok_or_else(|| Complaint::bad_idempotency_key(id))
    }

    fn after(&self, id: Option<u64>) -> Result<Option<u64>, Complaint> {
        let Some(raw) = self.after else { return Ok(None) };
        let client = string(raw).and_then(|client| hexadecimal(&client));
        let complaint = || Complaint::bad(id, "after", "a client is a string of 1 to 16 hexadecimal digits");
        client.ok_or_else(complaint).map(Some)
    }

    fn limit(&self, id: Option<u64>) -> Result<usize, Complaint> {
        let Some(raw) = self.limit else { return Ok(PRESENCE_PAGE_MAX) };
        let limit = integer(raw).map(|limit| limit as usize).filter(|limit| *limit <= PRESENCE_PAGE_MAX);
        limit.ok_or_else(|| {
            Complaint::bad(id, "limit", format!("a limit is an integer from 0 to {PRESENCE_PAGE_MAX}"))
        })
    }

    fn position(&self, id: Option<u64>) -> Result<Option<Position>, Complaint> {
        let Some(raw) = self.position else { return Ok(None) };
        let place: Place<'a> = serde_json::from_str(raw.get()).map_err(|_| {
            Complaint::bad(id, "position", "a position is an object with an epoch and an offset")
        })?;
        let epoch = place.epoch.ok_or_else(|| Complaint::missing(id, "position.epoch"))?;
        let offset = place.offset.ok_or_else(|| Complaint::missing(id, "position.offset"))?;
        let epoch = string(epoch).and_then(|epoch| hexadecimal(&epoch)).ok_or_else(|| {
            Complaint::bad(id, "position.epoch", "an epoch is a string of 1 to 16 hexadecimal digits")
        })?;
        let offset = integer(offset).ok_or_else(|| {
            Complaint::bad(id, "position.offset", "an offset is an integer from 0 to 2^53 - 1")
        })?;
        Ok(Some(Position { epoch, offset }))
    }

    fn payload(&self, id: Option<u64>) -> Result<(Content, Cow<'a, [u8]>), Complaint> {
        match (self.data, self.text) {
            (Some(data), None) => {
                let json = data.get().as_bytes();
                if is_too_deep(json) {
                    return Err(Complaint::too_deep(id));
                }
                Ok((Content::Json, Cow::Borrowed(json)))
            }
            (None, Some(text)) => match string(text) {
                Some(Cow::Borrowed(text)) => Ok((Content::Text, Cow::Borrowed(text.as_bytes()))),
                Some(Cow::Owned(text)) => Ok((Content::Text, Cow::Owned(text.into_bytes()))),
                None => Err(Complaint::bad(id, "text", "a text is a string")),
            },
            (None, None) => Err(Complaint::missing(id, "data")),
            (Some(_), Some(_)) => Err(Complaint::bad(id, "text", "either data is published or text")),
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
    Data,
    Text,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Place<'a> {
    #[serde(borrow)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow)]
    offset: Option<&'a RawValue>,
}

/// The string that a value is.
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let written = raw.get();
    match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if !inner.contains('\\') => Some(Cow::Borrowed(inner)),
        // Fails for an escape that stands for half a character.
        Some(_) => serde_json::from_str(written).ok().map(Cow::Owned),
        None => None,
    }
}

/// The unsigned integer that a value is, if JavaScript can have it; written without fraction and exponent.
fn integer(raw: &RawValue) -> Option<u64> {
    raw.get().parse().ok().filter(|&number| number < INTEGER_END)
}

fn hexadecimal(digits: &str) -> Option<u64> {
    // The library would take a sign, too.
    let good = (1..=16).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if good { u64::from_str_radix(digits, 16).ok() } else { None }
}
