//! Messages that programs publish, and why they are not published. No logic besides the checks.

pub mod on_close;
pub mod stored;

use crate::limits::{
    IDEMPOTENCY_KEY_BYTES_MAX, JSON_DEPTH_MAX, ON_CLOSE_BYTES_MAX, ON_CLOSE_MESSAGES_MAX,
    OUTSIDE_MESSAGES_MAX,
};
use crate::subscription::TopicMessage;
use echoring_topics::is_topic_name;
use echoring_topics::limits::{KEY_BYTES_MAX, TOPIC_BYTES_MAX};
use echoring_topics::{Content, Keeping, Position, Publication, Refused, Tags, Version};
use echoring_wire::is_too_deep;

/// A message to publish from another thread. A string converts to a text message, and bytes to a binary one.
///
/// ```
/// use echoring::server::OwnedPublication;
///
/// let price = OwnedPublication::json(r#"{"bid":101.5}"#).key("EURUSD").idempotency_key("feed-7041");
/// assert_eq!(&*price.key, "EURUSD");
/// assert_eq!(OwnedPublication::from("hello"), OwnedPublication::text("hello"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnedPublication {
    /// The type of the payload. The caller guarantees that JSON is one JSON value and text is UTF-8; it is not checked
    /// again.
    pub content: Content,
    /// The key of which the message is the latest state, at most [`KEY_BYTES_MAX`] bytes; empty for none.
    pub key: Box<str>,
    /// The idempotency key, at most [`IDEMPOTENCY_KEY_BYTES_MAX`] bytes; empty for none. A message with the key of one
    /// that was accepted in the last five minutes ([`IDEMPOTENCY_WINDOW`](echoring_topics::limits::IDEMPOTENCY_WINDOW))
    /// is a duplicate of it.
    pub idempotency_key: Box<str>,
    /// The payload.
    pub payload: Vec<u8>,
    /// What few publications have.
    #[doc(hidden)]
    pub options: PublicationOptions,
}

echoring_proto::plain!(for OwnedPublication { content, key, idempotency_key, payload, options });

/// What few publications have.
#[doc(hidden)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicationOptions {
    /// See [`Tags::encode`].
    pub tags: Box<[u8]>,
    /// See [`Version::encode`].
    pub version: Box<[u8]>,
    /// Whether the history has it.
    pub keeping: Keeping,
}

echoring_proto::plain!(for PublicationOptions { tags, version, keeping });

impl OwnedPublication {
    fn new(content: Content, payload: Vec<u8>) -> OwnedPublication {
        let options = PublicationOptions::default();
        OwnedPublication { content, key: "".into(), idempotency_key: "".into(), payload, options }
    }

    /// A text message without keys.
    pub fn text(text: impl Into<String>) -> OwnedPublication {
        OwnedPublication::new(Content::Text, text.into().into_bytes())
    }

    /// A JSON value without keys. The caller guarantees that it is one.
    pub fn json(value: impl Into<String>) -> OwnedPublication {
        OwnedPublication::new(Content::Json, value.into().into_bytes())
    }

    /// A binary message without keys.
    pub fn binary(payload: impl Into<Vec<u8>>) -> OwnedPublication {
        OwnedPublication::new(Content::Binary, payload.into())
    }

    /// Sets the key of which the message is the latest state, at most [`KEY_BYTES_MAX`] bytes.
    #[must_use]
    pub fn key(self, key: impl Into<Box<str>>) -> OwnedPublication {
        OwnedPublication { key: key.into(), ..self }
    }

    /// Sets the idempotency key, at most [`IDEMPOTENCY_KEY_BYTES_MAX`] bytes.
    #[must_use]
    pub fn idempotency_key(self, key: impl Into<Box<str>>) -> OwnedPublication {
        OwnedPublication { idempotency_key: key.into(), ..self }
    }

    /// The publication for a topic, borrowed.
    #[doc(hidden)]
    pub fn for_topic<'a>(&'a self, topic: &'a str) -> TopicPublication<'a> {
        let PublicationOptions { tags, version, keeping } = &self.options;
        let publication = Publication {
            tags: Tags::new(tags),
            keeping: *keeping,
            ..Publication::new(self.content, &self.key, &self.payload)
        };
        let (idempotency_key, version) = (&*self.idempotency_key, Version::new(version));
        TopicPublication { topic, publication, idempotency_key, version }
    }

    /// Bytes that the message is charged while it waits.
    #[doc(hidden)]
    pub fn bytes(&self) -> u64 {
        let options_bytes = self.options.tags.len() + self.options.version.len();
        let texts_bytes = self.key.len() + self.idempotency_key.len();
        (size_of::<OwnedPublication>() + texts_bytes + options_bytes + self.payload.len()) as u64
    }
}

/// Conversions into messages without keys.
macro_rules! convert {
    ($($from:ty => $content:ident)*) => {$(
        impl From<$from> for OwnedPublication {
            fn from(payload: $from) -> OwnedPublication {
                OwnedPublication::$content(payload)
            }
        }
    )*};
}

convert! {
    String => text
    &String => text
    &str => text
    Vec<u8> => binary
    &[u8] => binary
}

/// Why a message was not published, or several together.
///
/// ```
/// use echoring::server::{Handle, PublishError, Refused};
///
/// /// Whether there will be more to publish.
/// fn tell(server: &Handle, text: &str) -> bool {
///     match server.publish("news", text) {
///         Ok(_) => true,
///         // An operator shuts the server down.
///         Err(PublishError::Ended | PublishError::Refused(Refused::Draining)) => false,
///         Err(error) => {
///             eprintln!("not published: {error}");
///             true
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic's name is empty, longer than [`TOPIC_BYTES_MAX`], or has a control character.
    #[error("a topic's name has 1 to {TOPIC_BYTES_MAX} bytes of UTF-8 without control characters")]
    BadTopic,
    /// The key of the message at this index is longer than [`KEY_BYTES_MAX`].
    #[error("a key has at most {KEY_BYTES_MAX} bytes")]
    BadKey(usize),
    /// The idempotency key of the message at this index is longer than [`IDEMPOTENCY_KEY_BYTES_MAX`].
    #[error("an idempotency key has at most {IDEMPOTENCY_KEY_BYTES_MAX} bytes")]
    BadIdempotencyKey(usize),
    /// The JSON of the message at this index is nested deeper than [`JSON_DEPTH_MAX`].
    #[error("more than {JSON_DEPTH_MAX} nested arrays and objects")]
    TooDeep(usize),
    /// The request has more messages than [`OUTSIDE_MESSAGES_MAX`].
    #[error("at most {OUTSIDE_MESSAGES_MAX} messages at once")]
    TooMany,
    /// The connection would publish more than [`ON_CLOSE_MESSAGES_MAX`] messages, or [`ON_CLOSE_BYTES_MAX`] bytes, on
    /// close, with `Remote::publish_on_close`.
    #[error(
        "a connection publishes at most {ON_CLOSE_MESSAGES_MAX} messages and {ON_CLOSE_BYTES_MAX} bytes on close"
    )]
    TooManyOnClose,
    /// There is no room for the message: too many wait. `Handle::try_publish` says so at once,
    /// `Handle::publish_timeout` after its time; `Handle::publish` waits.
    #[error("too many pending messages")]
    Busy,
    /// The connection is closing, and publishes nothing more.
    #[error("the connection is closing")]
    Closing,
    /// The topic, or the node, does not take the message. Messages that were published together have a [result](Published) each
    /// instead.
    #[error("{0}")]
    Refused(Refused),
    /// A call that waits was made on the thread of a shard, and would have blocked it. Handlers use
    /// `Remote::publish` or `Handle::try_publish`.
    #[error("{OnShard}")]
    OnShard,
    /// The server has ended.
    #[error("the server has ended")]
    Ended,
}

impl PublishError {
    /// Whether a retry may succeed.
    pub fn is_passing(self) -> bool {
        match self {
            PublishError::Busy => true,
            PublishError::Refused(refused) => refused.is_passing(),
            _ => false,
        }
    }
}

echoring_proto::error_debug!(
    enum PublishError {
        BadTopic,
        BadKey(index),
        BadIdempotencyKey(index),
        TooDeep(index),
        TooMany,
        TooManyOnClose,
        Busy,
        Closing,
        Refused(refused),
        OnShard,
        Ended,
    }
);

/// A call that waits was made on the thread of a shard, where handlers and the functions of routes run. It was refused at once: nothing
/// may block there, and the call could wait for its own shard.
///
/// ```
/// use std::thread;
///
/// use echoring::server::Handle;
///
/// /// Counts connections for the log, from a handler: on a thread of its own.
/// fn log_connections(server: &Handle) {
///     let server = server.clone();
///     thread::spawn(move || match server.snapshots() {
///         Ok(shards) => println!("{}", shards.iter().map(|shard| shard.connections).sum::<u64>()),
///         Err(on_shard) => println!("{on_shard}"),
///     });
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("blocking calls are not allowed on the thread of a shard")]
pub struct OnShard;

echoring_proto::error_debug!(struct OnShard);

impl From<OnShard> for PublishError {
    fn from(OnShard: OnShard) -> PublishError {
        PublishError::OnShard
    }
}

/// For the results of messages that were published together.
impl From<Refused> for PublishError {
    fn from(refused: Refused) -> PublishError {
        PublishError::Refused(refused)
    }
}

/// The result of each of several messages: its position, or why it was refused.
///
/// ```
/// use echoring::server::Published;
///
/// fn last_offset(published: &Published) -> Option<u64> {
///     published.iter().flatten().map(|position| position.offset).max()
/// }
/// ```
pub type Published = Vec<Result<Position, Refused>>;

/// A publication for a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicPublication<'a> {
    /// The name of the topic.
    pub topic: &'a str,
    /// The publication.
    pub publication: Publication<'a>,
    /// The idempotency key, or an empty string.
    pub idempotency_key: &'a str,
    /// The version.
    pub version: Version<'a>,
}

/// The type of a publication and the lengths of its texts, when these and the payload are in one piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicationHead {
    /// The head of the publication, and whether it has a version.
    pub(crate) head: u8,
    /// Lengths of the topic's name, the key and the idempotency key.
    pub(crate) text_bytes: [u8; 3],
}

/// Set in the head of a publication with a version.
const HAS_VERSION: u8 = 1 << 6;

impl<'a> TopicPublication<'a> {
    pub(crate) fn new(topic: &'a str, message: &TopicMessage<'a>) -> TopicPublication<'a> {
        let TopicMessage { publication, idempotency_key } = *message;
        TopicPublication { idempotency_key, ..TopicPublication::plain(topic, publication) }
    }

    /// A publication without an idempotency key and a version.
    pub(crate) fn plain(topic: &'a str, publication: Publication<'a>) -> TopicPublication<'a> {
        TopicPublication { topic, publication, idempotency_key: "", version: Version::NONE }
    }

    /// The head of the publication. The lengths of the name and the keys were checked.
    #[inline]
    pub(crate) fn head(&self) -> PublicationHead {
        let [name, key, idempotency_key, ..] = self.parts();
        let text_bytes = [name.len() as u8, key.len() as u8, idempotency_key.len() as u8];
        let version = if self.version.is_none() { 0 } else { HAS_VERSION };
        PublicationHead { head: self.publication.head() | version, text_bytes }
    }

    /// The topic's name, the key, the idempotency key, the version, the author, the tags and the payload, as they follow its head.
    #[inline]
    pub(crate) fn parts(&self) -> [&'a [u8]; 7] {
        let [author, tags, payload] = self.publication.body();
        let [name, key] = [self.topic, self.publication.key].map(str::as_bytes);
        [name, key, self.idempotency_key.as_bytes(), self.version.as_bytes(), author, tags, payload]
    }
}

impl PublicationHead {
    /// The publication whose parts these are; `None` if they are not well formed.
    #[inline]
    pub fn read(self, bytes: &[u8]) -> Option<TopicPublication<'_>> {
        let [name_bytes, key_bytes, idempotency_bytes] = self.text_bytes;
        let (topic, rest) = split_text(bytes, name_bytes)?;
        let (key, rest) = split_text(rest, key_bytes)?;
        let (idempotency_key, rest) = split_text(rest, idempotency_bytes)?;
        let has_version = self.head & HAS_VERSION != 0;
        let (version, body) = if has_version { Version::split(rest)? } else { (Version::NONE, rest) };
        let publication = Publication::read(self.head & !HAS_VERSION, key, body)?;
        Some(TopicPublication { topic, publication, idempotency_key, version })
    }
}

/// Splits a text of `text_bytes` from the front of `bytes`.
#[inline]
pub(crate) fn split_text(bytes: &[u8], text_bytes: u8) -> Option<(&str, &[u8])> {
    let (text, rest) = bytes.split_at_checked(usize::from(text_bytes))?;
    Some((str::from_utf8(text).ok()?, rest))
}

/// Whether bytes of another process are a payload of this type.
pub(crate) fn is_payload(content: Content, payload: &[u8]) -> bool {
    match content {
        Content::Binary => true,
        Content::Text => simdutf8::basic::from_utf8(payload).is_ok(),
        // The depth is that of valid JSON.
        Content::Json => is_json(payload) && !is_too_deep(payload),
    }
}

/// Whether bytes are one JSON value. A parser that skips a string does not look at its encoding.
pub(crate) fn is_json(bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes)
        .is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

/// Whether a message, the one at `index` of its batch, may be published by its own content alone.
///
/// # Errors
/// The problem with it.
pub fn check(message: &TopicPublication<'_>, index: usize) -> Result<(), PublishError> {
    let TopicPublication { topic, publication, idempotency_key, .. } = message;
    if !is_topic_name(topic) {
        return Err(PublishError::BadTopic);
    }
    if publication.key.len() > KEY_BYTES_MAX {
        return Err(PublishError::BadKey(index));
    }
    if idempotency_key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        return Err(PublishError::BadIdempotencyKey(index));
    }
    if publication.content == Content::Json && is_too_deep(publication.payload) {
        return Err(PublishError::TooDeep(index));
    }
    Ok(())
}
