//! Server events: each is one JSON object in a text message.
//!
//! A published JSON value is written byte for byte as it was published. The order of the fields is that of the structures.

use std::borrow::Cow;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Digits, ErrorEvent, Payload, Subjects};

/// The events and their types: `Event`, its writer and its reader have them from here.
macro_rules! events {
    ($($(#[$doc:meta])* $name:literal $event:ident($fields:ty)),* $(,)?) => {
        /// An event. `id` is that of the client's command, if it has one.
        #[derive(Clone, Debug, Serialize)]
        #[serde(tag = "type")]
        pub enum Event<'a> {
            $($(#[$doc])* #[serde(rename = $name)] $event($fields),)*
        }

        impl<'a> Event<'a> {
            fn of_type(name: &str, text: &'a str) -> Result<Option<Event<'a>>, serde_json::Error> {
                Ok(match name {
                    $($name => Some(Event::$event(serde_json::from_str(text)?)),)*
                    _ => None,
                })
            }
        }
    };
}

events! {
    /// A subscription has begun.
    "subscribed" Subscribed(Subscribed<'a>),
    /// A subscription has ended: no more messages of the topic follow.
    "unsubscribed" Unsubscribed(Unsubscribed<'a>),
    /// The session has new credentials.
    "authenticated" Authenticated(Authenticated<'a>),
    /// The credentials of the session expire soon.
    "token_expires" TokenExpires(TokenExpires),
    /// The connection is alive.
    "pong" Pong(Pong),
    /// A publication was accepted.
    "published" Published(Published<'a>),
    /// A subscriber lost messages.
    "gap" Gap(Gap<'a>),
    /// A subscriber joined or left.
    "presence" Presence(Presence<'a>),
    /// A page of a member list.
    "members" Members(MembersPage<'a>),
    /// A page of a topic's history.
    "history" History(HistoryPage<'a>),
    /// Everything up to an offset was sent, so nothing was lost.
    "heartbeat" Heartbeat(Heartbeat<'a>),
    /// A command was rejected or refused.
    "error" Error(ErrorEvent<'a>),
    /// A message of a topic.
    "message" Message(Message<'a>),
    /// A message to this connection alone.
    "direct" Direct(Direct<'a>),
}

/// The fields that tell what an event is.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    r#type: Cow<'a, str>,
}

impl<'a> Event<'a> {
    /// Appends the event.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Numbers and strings can always be serialised, and writing to a vector does not fail.
        let written = serde_json::to_writer(out, self);
        debug_assert!(written.is_ok());
    }

    /// Reads an event; `None` for one that this codec does not know, or that lacks a field.
    ///
    /// # Errors
    /// If it is not a JSON object, or has a field of another type: the server speaks another protocol.
    pub fn read(text: &'a str) -> Result<Option<Event<'a>>, serde_json::Error> {
        let head: Head<'a> = serde_json::from_str(text)?;
        match Event::of_type(&head.r#type, text) {
            // serde has no kind for these, but begins its words so.
            Err(error) if error.is_data() && !error.to_string().starts_with("invalid type") => Ok(None),
            read => read,
        }
    }
}

/// A subscription has begun: messages after this position follow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscribed<'a> {
    /// The id of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The topic.
    #[serde(default)]
    pub topic: Cow<'a, str>,
    /// The epoch of the position.
    pub epoch: Digits<'a>,
    /// The offset of the position.
    pub offset: u64,
    /// If the client asked for an earlier position, whether all messages after it follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// Messages up to this offset are from the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<u64>,
    /// On a topic with presence, the number of subscribers, including this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// On a topic with presence, the client itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Digits<'a>>,
}

/// A subscription has ended. If the server ended it, the client has everything up to the position.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unsubscribed<'a> {
    /// The id of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The topic.
    pub topic: Cow<'a, str>,
    /// The epoch of the position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Digits<'a>>,
    /// The offset of the position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Why the server ended it: the reason of a gap, or one of [`Unsubscribed::FORBIDDEN`] and [`Unsubscribed::INTERRUPTED`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
}

impl Unsubscribed<'_> {
    /// The client may no longer subscribe.
    pub const FORBIDDEN: &'static str = "forbidden";
    /// The topic goes on in another epoch, or behind messages that are missing.
    pub const INTERRUPTED: &'static str = "moved";
}

/// The session has new credentials of its client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Authenticated<'a> {
    /// The id of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The subject of the credentials.
    pub subject: Cow<'a, str>,
    /// Seconds until they expire, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// The credentials of the session expire. The connection is closed then, unless fresh ones come before.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenExpires {
    /// Seconds until then.
    pub expires_in: u64,
}

/// The answer to a ping.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pong {
    /// The id of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Maximum bytes of a message of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message: Option<u64>,
}

/// A publication was accepted at this position.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Published<'a> {
    /// The id of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The topic.
    pub topic: Cow<'a, str>,
    /// The epoch of the position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Digits<'a>>,
    /// The offset of the position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// This subscriber lost the messages `from` to `to`, both included.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gap<'a> {
    /// The topic.
    #[serde(default)]
    pub topic: Cow<'a, str>,
    /// The offset of the first one.
    pub from: u64,
    /// The offset of the last one.
    pub to: u64,
    /// Why they were lost.
    pub reason: Cow<'a, str>,
}

/// A change of a topic's presence.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Presence<'a> {
    /// The topic.
    #[serde(default)]
    pub topic: Cow<'a, str>,
    /// What has changed.
    pub event: PresenceChange,
    /// The subscriber.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Digits<'a>>,
    /// The subject of its credentials, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Cow<'a, str>>,
    /// The number of subscribers now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// What has changed in a topic's presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PresenceChange {
    /// A subscriber joined.
    Join,
    /// A subscriber left.
    Leave,
    /// The subscriber missed presence events, so its list of members is stale.
    Stale,
}

/// A page of the member list: those after `after`, or the first ones.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MembersPage<'a> {
    /// The id of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The topic.
    pub topic: Cow<'a, str>,
    /// The page begins behind this member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Digits<'a>>,
    /// The number of all members.
    pub count: u64,
    /// The members of the page.
    pub clients: Vec<Digits<'a>>,
    /// The subjects of their credentials.
    #[serde(skip_serializing_if = "Subjects::is_empty")]
    pub subjects: Subjects<'a>,
    /// The last one of the page, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Digits<'a>>,
    /// Members that no page lists, because there was no memory for them.
    #[serde(skip_serializing_if = "is_zero")]
    pub unlisted: u64,
}

/// A page of a topic's history, the oldest message first. Its messages do not repeat the topic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryPage<'a> {
    /// The id of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The topic.
    #[serde(default)]
    pub topic: Cow<'a, str>,
    /// The epoch of the offsets.
    pub epoch: Digits<'a>,
    /// The offset of the topic's latest message.
    pub offset: u64,
    /// The messages.
    #[serde(borrow)]
    pub messages: Vec<Message<'a>>,
    /// The messages before this offset are the next page, if there may be earlier ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// Everything up to this offset was sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat<'a> {
    /// The topic.
    #[serde(default)]
    pub topic: Cow<'a, str>,
    /// The offset.
    pub offset: u64,
}

/// A message. It has one of `data`, `text` and `base64`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Message<'a> {
    /// The topic; empty on a page of its history.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub topic: Cow<'a, str>,
    /// The number of the message in the topic's epoch.
    pub offset: u64,
    /// The key whose latest state it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
    /// The number of messages before this one that were conflated.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// A JSON value, which may be `null`.
    #[serde(default, skip_serializing_if = "Option::is_none", borrow, deserialize_with = "present")]
    pub data: Option<&'a RawValue>,
    /// A text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Cow<'a, str>>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "bytes_in_base64")]
    pub base64: Option<Cow<'a, [u8]>>,
    /// Whether it is a part of a snapshot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshot: bool,
}

impl<'a> Message<'a> {
    /// A message without content; `key` is empty for none.
    pub fn new(topic: &'a str, offset: u64, key: &'a str) -> Message<'a> {
        let key = (!key.is_empty()).then_some(Cow::Borrowed(key));
        Message { topic: topic.into(), offset, key, ..Message::default() }
    }

    /// The message with a content. JSON that is not valid becomes bytes.
    pub fn with(self, payload: Payload<'a>) -> Message<'a> {
        let Direct { data, text, base64 } = payload.into();
        Message { data, text, base64, ..self }
    }

    /// The message with a content, in three parts: before the value, the value, and behind it. A JSON value is not copied; text and
    /// bytes are written to the first part. The previous content of `out` is discarded.
    pub fn parts<'b>(self, out: &'b mut Vec<u8>, payload: Payload<'b>) -> [&'b [u8]; 3] {
        let mut message = self;
        let json = match payload {
            Payload::Json(json) => {
                message.data = Some(RawValue::NULL);
                Some(json)
            }
            Payload::Text(text) => {
                match str::from_utf8(text) {
                    Ok(text) => message.text = Some(text.into()),
                    // Text was validated as UTF-8; should it ever not be, base64 keeps the event well-formed.
                    Err(_) => message.base64 = Some(text.into()),
                }
                None
            }
            Payload::Binary(bytes) => {
                message.base64 = Some(bytes.into());
                None
            }
        };
        out.clear();
        Event::Message(message).write(out);
        let Some(json) = json else { return [out, &[], &[]] };
        // No string follows the value, so this is the value itself.
        let null = RawValue::NULL.get().as_bytes();
        let at = out.windows(null.len()).rposition(|part| part == null).unwrap_or_default();
        [&out[..at], json, &out[at + null.len()..]]
    }
}

/// A message of the server's application to this connection, without a topic. It has one of `data`, `text` and `base64`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Direct<'a> {
    /// A JSON value, which may be `null`.
    #[serde(default, skip_serializing_if = "Option::is_none", borrow, deserialize_with = "present")]
    pub data: Option<&'a RawValue>,
    /// A text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Cow<'a, str>>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "bytes_in_base64")]
    pub base64: Option<Cow<'a, [u8]>>,
}

impl<'a> From<Payload<'a>> for Direct<'a> {
    /// Bytes that are not what the payload says are sent as bytes.
    fn from(payload: Payload<'a>) -> Direct<'a> {
        let none = Direct::default();
        let (bytes, direct) = match payload {
            Payload::Json(json) => {
                (json, serde_json::from_slice(json).ok().map(|data| Direct { data: Some(data), ..none }))
            }
            Payload::Text(text) => {
                (text, str::from_utf8(text).ok().map(|text| Direct { text: Some(text.into()), ..none }))
            }
            Payload::Binary(bytes) => (bytes, None),
        };
        direct.unwrap_or_else(|| Direct { base64: Some(bytes.into()), ..Direct::default() })
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

/// A JSON value that is there even if it is `null`.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(from).map(Some)
}

/// Bytes as base64 (RFC 4648, section 4).
mod bytes_in_base64 {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Cow<'_, [u8]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(bytes.as_deref().unwrap_or_default(), &STANDARD))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Cow<'static, [u8]>>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(|bytes| Some(bytes.into())).map_err(serde::de::Error::custom)
    }
}
