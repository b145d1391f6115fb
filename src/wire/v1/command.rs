//! Commands: each is one JSON object in a text message, which a client writes and a server parses.
//!
//! Time and memory of the parser are linear in the length of the message. The parser never guesses: a wrong field is named, and the
//! command is rejected.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{CowStrDeserializer, Error as ValueError};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::error::ProtocolError;
use super::{Digits, Position, Value};
use crate::is_too_deep;
use crate::limits::{
    HISTORY_PAGE_MAX, IDEMPOTENCY_KEY_BYTES_MAX, INTEGER_END, JSON_DEPTH_MAX, PRESENCE_PAGE_MAX,
};

/// A client's request. Its `id` is chosen by the client, is below 2^53, and is repeated in the answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// Subscribe to a topic.
    Subscribe {
        /// The id of the command.
        id: Option<u64>,
        /// A [valid name](Rules::is_topic_name).
        topic: Cow<'a, str>,
        /// Replay the messages after this position first; without it, start with new messages.
        position: Option<Position<'a>>,
    },
    /// Unsubscribe from a topic.
    Unsubscribe {
        /// The id of the command.
        id: Option<u64>,
        /// A [valid name](Rules::is_topic_name).
        topic: Cow<'a, str>,
    },
    /// List the members of a topic.
    Presence {
        /// The id of the command.
        id: Option<u64>,
        /// A [valid name](Rules::is_topic_name).
        topic: Cow<'a, str>,
        /// List the members after this one; without it, the first ones.
        after: Option<Digits<'a>>,
        /// Maximum number of members, at most [`PRESENCE_PAGE_MAX`].
        limit: usize,
    },
    /// List earlier messages of a topic.
    History {
        /// The id of the command.
        id: Option<u64>,
        /// A [valid name](Rules::is_topic_name).
        topic: Cow<'a, str>,
        /// List the messages before this offset; without it, the latest ones.
        before: Option<u64>,
        /// Maximum number of messages, at most [`HISTORY_PAGE_MAX`].
        limit: usize,
    },
    /// Present fresh credentials of the same client.
    Authenticate {
        /// The id of the command.
        id: Option<u64>,
        /// 1 to [`Rules::token_bytes_max`] visible ASCII characters.
        token: Cow<'a, str>,
    },
    /// Ask for an answer, which shows that the connection is alive.
    Ping {
        /// The id of the command.
        id: Option<u64>,
    },
    /// Publish a message to a topic.
    Publish {
        /// The id of the command.
        id: Option<u64>,
        /// A [valid name](Rules::is_topic_name).
        topic: Cow<'a, str>,
        /// 1 to [`Rules::key_bytes_max`] bytes.
        key: Option<Cow<'a, str>>,
        /// 1 to [`IDEMPOTENCY_KEY_BYTES_MAX`] bytes.
        idempotency_key: Option<Cow<'a, str>>,
        /// The content.
        value: Value<'a>,
    },
}

/// What a server accepts in a command.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether a topic may have a name.
    pub is_topic_name: fn(&str) -> bool,
    /// Maximum bytes of such a name.
    pub topic_bytes_max: usize,
    /// Maximum bytes of a message's key.
    pub key_bytes_max: usize,
    /// Maximum bytes of a token.
    pub token_bytes_max: usize,
}

/// The types of commands.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CommandType {
    Subscribe,
    Unsubscribe,
    Presence,
    History,
    Authenticate,
    Ping,
    Publish,
}

impl Command<'_> {
    /// Parses a client's message by the rules of the server. Only strings with escapes are copied; memory is allocated only for those,
    /// and for nested arrays and objects.
    ///
    /// # Errors
    /// The error for the client: the message is not a JSON object, or a field is missing or invalid. It has the command's
    /// `id` if the message is JSON and the `id` is valid.
    pub fn parse<'a>(text: &'a [u8], rules: &Rules) -> Result<Command<'a>, ProtocolError> {
        let mut fields: Fields<'a> =
            serde_json::from_slice(text).map_err(|error| ProtocolError::bad_json(&error))?;
        let id = fields.take_id()?;
        if let Some(field) = fields.duplicate {
            return Err(fields.bad(field, format!("the field `{}` is there twice", field.name())));
        }
        let name = fields.string(Field::Type, |_| true, || "the type is a string")?;
        let Ok(command_type) = CommandType::deserialize(CowStrDeserializer::<ValueError>::new(name)) else {
            return Err(ProtocolError::unknown_type(id));
        };
        Ok(match command_type {
            CommandType::Subscribe => {
                Command::Subscribe { id, topic: fields.topic(rules)?, position: fields.position()? }
            }
            CommandType::Presence => {
                let (topic, after) = (fields.topic(rules)?, fields.after()?);
                Command::Presence { id, topic, after, limit: fields.limit(PRESENCE_PAGE_MAX)? }
            }
            CommandType::History => {
                let (topic, before) = (fields.topic(rules)?, fields.before()?);
                Command::History { id, topic, before, limit: fields.limit(HISTORY_PAGE_MAX)? }
            }
            CommandType::Authenticate => Command::Authenticate { id, token: fields.token(rules)? },
            CommandType::Unsubscribe => Command::Unsubscribe { id, topic: fields.topic(rules)? },
            CommandType::Ping => Command::Ping { id },
            CommandType::Publish => {
                let topic = fields.topic(rules)?;
                let key = fields.short(Field::Key, "a key", rules.key_bytes_max)?;
                let idempotency_key =
                    fields.short(Field::IdempotencyKey, "an idempotency key", IDEMPOTENCY_KEY_BYTES_MAX)?;
                Command::Publish { id, topic, key, idempotency_key, value: fields.value()? }
            }
        })
    }

    /// The message of the command.
    pub fn encode(&self) -> String {
        // Strings, numbers and values can always be serialised.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Command<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (command_type, id, topic) = match self {
            Command::Subscribe { id, topic, .. } => (CommandType::Subscribe, id, Some(topic)),
            Command::Unsubscribe { id, topic } => (CommandType::Unsubscribe, id, Some(topic)),
            Command::Presence { id, topic, .. } => (CommandType::Presence, id, Some(topic)),
            Command::History { id, topic, .. } => (CommandType::History, id, Some(topic)),
            Command::Authenticate { id, .. } => (CommandType::Authenticate, id, None),
            Command::Ping { id } => (CommandType::Ping, id, None),
            Command::Publish { id, topic, .. } => (CommandType::Publish, id, Some(topic)),
        };
        let mut object = ObjectWriter(serializer.serialize_map(None)?);
        object.put(Field::Type, Some(&command_type))?;
        object.put(Field::Id, id.as_ref())?;
        object.put(Field::Topic, topic)?;
        match self {
            Command::Subscribe { position, .. } => object.put(Field::Position, position.as_ref())?,
            Command::Unsubscribe { .. } | Command::Ping { .. } => {}
            Command::Presence { after, limit, .. } => {
                object.put(Field::After, after.as_ref())?;
                object.put(Field::Limit, Some(limit))?;
            }
            Command::History { before, limit, .. } => {
                object.put(Field::Before, before.as_ref())?;
                object.put(Field::Limit, Some(limit))?;
            }
            Command::Authenticate { token, .. } => object.put(Field::Token, Some(token))?,
            Command::Publish { key, idempotency_key, value, .. } => {
                object.put(Field::Key, key.as_ref())?;
                object.put(Field::IdempotencyKey, idempotency_key.as_ref())?;
                match value {
                    Value::Json(value) => object.put(Field::Data, Some(value))?,
                    Value::Text(text) => object.put(Field::Text, Some(text))?,
                }
            }
        }
        object.0.end()
    }
}

/// Writes the fields that are there.
struct ObjectWriter<M>(M);

impl<M: serde::ser::SerializeMap> ObjectWriter<M> {
    fn put(&mut self, field: Field, value: Option<&impl Serialize>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.0.serialize_entry(field.name(), value))
    }
}

/// The fields and their names.
macro_rules! fields {
    ($($name:literal $field:ident),* $(,)?) => {
        #[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
        #[serde(field_identifier)]
        enum Field {
            $(#[serde(rename = $name)] $field,)*
            #[serde(other)]
            Other,
        }

        impl Field {
            const COUNT: usize = Field::Other as usize;

            fn name(self) -> &'static str {
                match self {
                    $(Field::$field => $name,)*
                    Field::Other => "",
                }
            }
        }
    };
}

fields! {
    "id" Id,
    "type" Type,
    "topic" Topic,
    "position" Position,
    "key" Key,
    "idempotency_key" IdempotencyKey,
    "after" After,
    "before" Before,
    "limit" Limit,
    "token" Token,
    "data" Data,
    "text" Text,
}

/// The known fields of a command, each as raw JSON.
#[derive(Default)]
struct Fields<'a> {
    values: [Option<&'a RawValue>; Field::COUNT],
    /// The first duplicate field.
    duplicate: Option<Field>,
    /// The id of the command, once it is known.
    id: Option<u64>,
}

impl<'a> Fields<'a> {
    fn get(&self, field: Field) -> Option<&'a RawValue> {
        self.values[field as usize]
    }

    fn required(&self, field: Field) -> Result<&'a RawValue, ProtocolError> {
        self.get(field).ok_or_else(|| ProtocolError::missing(self.id, field.name()))
    }

    fn bad(&self, field: Field, message: impl Into<Cow<'static, str>>) -> ProtocolError {
        ProtocolError::bad(self.id, field.name(), message)
    }

    /// With two values of `id`, neither is the request's.
    fn take_id(&mut self) -> Result<Option<u64>, ProtocolError> {
        let raw = self.get(Field::Id).filter(|_| self.duplicate != Some(Field::Id));
        let bad = || self.bad(Field::Id, "an id is an integer from 0 to 2^53 - 1");
        self.id = raw.map(|raw| integer(raw).ok_or_else(bad)).transpose()?;
        Ok(self.id)
    }

    /// A string that must be there and `is_good`, as `rule` says.
    fn string<R: Into<Cow<'static, str>>>(
        &self,
        field: Field,
        is_good: impl Fn(&str) -> bool,
        rule: impl Fn() -> R,
    ) -> Result<Cow<'a, str>, ProtocolError> {
        string(self.required(field)?).filter(|text| is_good(text)).ok_or_else(|| self.bad(field, rule()))
    }

    fn topic(&self, rules: &Rules) -> Result<Cow<'a, str>, ProtocolError> {
        let most = rules.topic_bytes_max;
        let rule = || format!("a topic is a string of 1 to {most} bytes of UTF-8 without control characters");
        self.string(Field::Topic, rules.is_topic_name, rule)
    }

    /// A string of 1 to `bytes_max` bytes, if it is there. `what` is its name with an article.
    fn short(
        &self,
        field: Field,
        what: &str,
        bytes_max: usize,
    ) -> Result<Option<Cow<'a, str>>, ProtocolError> {
        let Some(raw) = self.get(field) else { return Ok(None) };
        let text = string(raw).filter(|text| (1..=bytes_max).contains(&text.len()));
        let bad = || self.bad(field, format!("{what} is a string of 1 to {bytes_max} bytes of UTF-8"));
        text.ok_or_else(bad).map(Some)
    }

    fn token(&self, rules: &Rules) -> Result<Cow<'a, str>, ProtocolError> {
        let is_good = |token: &str| {
            (1..=rules.token_bytes_max).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        self.string(Field::Token, is_good, || "a token is a string of visible ASCII characters")
    }

    fn after(&self) -> Result<Option<Digits<'a>>, ProtocolError> {
        let Some(raw) = self.get(Field::After) else { return Ok(None) };
        let client = string(raw).and_then(|client| Digits::parse(&client, 32));
        let bad = || self.bad(Field::After, "a client is a string of 1 to 32 hexadecimal digits");
        client.ok_or_else(bad).map(Some)
    }

    fn before(&self) -> Result<Option<u64>, ProtocolError> {
        let Some(raw) = self.get(Field::Before) else { return Ok(None) };
        let bad = || self.bad(Field::Before, "an offset is an integer from 0 to 2^53 - 1");
        integer(raw).ok_or_else(bad).map(Some)
    }

    fn limit(&self, most: usize) -> Result<usize, ProtocolError> {
        let Some(raw) = self.get(Field::Limit) else { return Ok(most) };
        let limit = integer(raw).map(|limit| limit as usize).filter(|limit| *limit <= most);
        limit.ok_or_else(|| self.bad(Field::Limit, format!("a limit is an integer from 0 to {most}")))
    }

    fn position(&self) -> Result<Option<Position<'a>>, ProtocolError> {
        let Some(raw) = self.get(Field::Position) else { return Ok(None) };
        let (id, missing) = (self.id, |field| move || ProtocolError::missing(self.id, field));
        let position: PositionFields<'a> = serde_json::from_str(raw.get())
            .map_err(|_| self.bad(Field::Position, "a position is an object with an epoch and an offset"))?;
        let epoch = position.epoch.ok_or_else(missing("position.epoch"))?;
        let offset = position.offset.ok_or_else(missing("position.offset"))?;
        let epoch = string(epoch).and_then(|epoch| Digits::parse(&epoch, 16)).ok_or_else(|| {
            ProtocolError::bad(id, "position.epoch", "an epoch is a string of 1 to 32 hexadecimal digits")
        })?;
        let offset = integer(offset).ok_or_else(|| {
            ProtocolError::bad(id, "position.offset", "an offset is an integer from 0 to 2^53 - 1")
        })?;
        Ok(Some(Position { epoch, offset }))
    }

    fn value(&self) -> Result<Value<'a>, ProtocolError> {
        match (self.get(Field::Data), self.get(Field::Text)) {
            (Some(data), None) if is_too_deep(data.get().as_bytes()) => {
                Err(self.bad(Field::Data, format!("more than {JSON_DEPTH_MAX} nested arrays and objects")))
            }
            (Some(data), None) => Ok(Value::Json(data)),
            (None, Some(_)) => self.string(Field::Text, |_| true, || "a text is a string").map(Value::Text),
            (None, None) => Err(ProtocolError::missing(self.id, "data")),
            (Some(_), Some(_)) => Err(self.bad(Field::Text, "expected either data or text")),
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
        while let Some(field) = map.next_key()? {
            if field == Field::Other {
                map.next_value::<IgnoredAny>()?;
            } else if fields.values[field as usize].replace(map.next_value()?).is_some() {
                fields.duplicate.get_or_insert(field);
            }
        }
        Ok(fields)
    }
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
