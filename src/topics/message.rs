//! Publications, their positions, and the reasons for refusing them.

mod author;
mod tags;
mod version;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::author::Author;
pub use self::tags::Tags;
pub use self::version::Version;

use crate::limits::{INTEGER_END, TOPIC_BYTES_MAX};

/// Whether a topic may have this name: 1 to [`TOPIC_BYTES_MAX`] bytes without control characters, which would break log
/// lines invisibly.
pub fn is_topic_name(name: &str) -> bool {
    (1..=TOPIC_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// The type of a message's payload.
///
/// ```
/// # mod echoring { pub use echoring_topics as server; }
/// use echoring::server::Content;
///
/// fn content_type(content: Content) -> &'static str {
///     match content {
///         Content::Json => "application/json",
///         Content::Text => "text/plain; charset=utf-8",
///         Content::Binary => "application/octet-stream",
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    /// One JSON value (RFC 8259), which is not validated here. Raw routes relay it as text.
    Json = 0,
    /// UTF-8 text.
    Text = 1,
    /// Any bytes.
    Binary = 2,
}

echoring_proto::plain!(for enum Content { Json, Text, Binary });

impl Content {
    /// The content type with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Content> {
        match number {
            0 => Some(Content::Json),
            1 => Some(Content::Text),
            2 => Some(Content::Binary),
            _ => None,
        }
    }
}

/// A message as it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// The type of the payload.
    pub content: Content,
    /// The key whose latest state the message is; empty for none. UTF-8 of at most
    /// [`KEY_BYTES_MAX`](crate::limits::KEY_BYTES_MAX).
    pub key: &'a str,
    /// The payload.
    pub payload: &'a [u8],
    /// The client that published it, if subscribers are told.
    pub author: Author<'a>,
    /// The tags, by which subscribers may filter.
    pub tags: Tags<'a>,
    /// Whether the history has it.
    pub keeping: Keeping,
}

/// Whether a history has a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Keeping {
    /// It has.
    #[default]
    Kept = 0,
    /// It has not, except for subscribers that move.
    Skipped = 1 << 5,
    /// The message is not there: this is its place in the history.
    Omitted = 1 << 4,
}

echoring_proto::plain!(for enum Keeping { Kept, Skipped, Omitted });

/// Set in the first byte of a publication with tags.
const HAS_TAGS: u8 = 1 << 7;
/// Set in the first byte of a publication with an author.
const HAS_AUTHOR: u8 = 1 << 2;
/// The bits of the type in the first byte.
const CONTENT: u8 = 3;

impl<'a> Publication<'a> {
    /// A message without an author and tags, to be kept in the history.
    pub const fn new(content: Content, key: &'a str, payload: &'a [u8]) -> Publication<'a> {
        let (author, tags, keeping) = (Author::NONE, Tags::NONE, Keeping::Kept);
        Publication { content, key, payload, author, tags, keeping }
    }

    /// The type and what else is special about the message, in one byte, as mail and histories have it. Its [`body`](Publication::body)
    /// is read with it. Without an author and tags, and if it is kept, it is the number of the type.
    #[inline]
    pub fn head(&self) -> u8 {
        let author = if self.author.is_none() { 0 } else { HAS_AUTHOR };
        let tags = if self.tags.is_empty() { 0 } else { HAS_TAGS };
        self.content as u8 | author | tags | self.keeping as u8
    }

    /// The author, the tags and the payload.
    #[inline]
    pub fn body(&self) -> [&'a [u8]; 3] {
        [self.author.as_bytes(), self.tags.as_bytes(), self.payload]
    }

    /// Bytes of the key, the author, the tags and the payload.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.body().iter().map(|part| part.len()).sum::<usize>()
    }

    /// The message with this head and body. `None` if they are malformed.
    #[inline]
    pub fn read(head: u8, key: &'a str, body: &'a [u8]) -> Option<Publication<'a>> {
        let content = Content::from_number(head & CONTENT)?;
        if head == content as u8 {
            return Some(Publication::new(content, key, body));
        }
        let (author, body) = if head & HAS_AUTHOR == 0 { (Author::NONE, body) } else { Author::split(body)? };
        let (tags, payload) = if head & HAS_TAGS == 0 { (Tags::NONE, body) } else { Tags::split(body)? };
        let keepings = [Keeping::Kept, Keeping::Skipped, Keeping::Omitted];
        let keeping = head & !HAS_AUTHOR & !HAS_TAGS & !CONTENT;
        let keeping = keepings.into_iter().find(|known| keeping == *known as u8)?;
        Some(Publication { author, tags, keeping, ..Publication::new(content, key, payload) })
    }
}

/// A publication, with what its topic decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission<'a> {
    /// The message.
    pub publication: Publication<'a>,
    /// Identifies the publication if it is retried; empty for none.
    pub idempotency_key: &'a str,
    /// The publication is skipped if the topic has a version that is as new.
    pub version: Version<'a>,
    /// Whether it is not from the operator.
    pub by_client: bool,
}

/// A message's position in its topic: the offset counts from 1 within an epoch. The epoch changes when the state of the
/// topic is lost; offsets of different epochs cannot be compared.
///
/// As text it is `EPOCH-OFFSET`: the epoch in 1 to 16 hexadecimal digits, because JavaScript numbers cannot hold all its bits, and the
/// offset in decimal ones, below 2^53. [`parse`](str::parse) reads the output of [`Display`](fmt::Display). The `id` of
/// an event stream has the same format, and a client's position, too. For serde it is an object, as a client's is, with the epoch as text.
///
/// ```
/// # mod echoring { pub use echoring_topics as server; }
/// use echoring::server::{Position, PositionError};
///
/// let position: Position = "1f3a5c-42".parse()?;
/// assert_eq!(position, Position { epoch: 0x1f3a5c, offset: 42 });
/// assert_eq!(position.to_string(), "1f3a5c-42");
/// let same = serde_json::from_str(r#"{"epoch":"1f3a5c","offset":42}"#).unwrap();
/// assert_eq!(position, same);
/// # Ok::<(), PositionError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "PositionFields", into = "PositionFields")]
pub struct Position {
    /// The epoch.
    pub epoch: u64,
    /// The offset; 0 is before the first message.
    pub offset: u64,
}

echoring_proto::plain!(for Position { epoch, offset });

/// A position for serde.
#[derive(Serialize, Deserialize)]
struct PositionFields {
    epoch: String,
    offset: u64,
}

impl From<Position> for PositionFields {
    fn from(Position { epoch, offset }: Position) -> PositionFields {
        PositionFields { epoch: format!("{epoch:x}"), offset }
    }
}

impl TryFrom<PositionFields> for Position {
    type Error = PositionError;

    fn try_from(PositionFields { epoch, offset }: PositionFields) -> Result<Position, PositionError> {
        let epoch = parse_epoch(&epoch).filter(|_| offset < INTEGER_END).ok_or(PositionError(()))?;
        Ok(Position { epoch, offset })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Position, PositionError> {
        let parse = || {
            let (epoch, offset) = text.split_once('-')?;
            // The library accepts a sign, too.
            let is_signed = offset.starts_with('+');
            let offset = offset.parse().ok().filter(|&offset| offset < INTEGER_END && !is_signed)?;
            Some(Position { epoch: parse_epoch(epoch)?, offset })
        };
        parse().ok_or(PositionError(()))
    }
}

/// The number of an epoch: 1 to 16 hexadecimal digits.
pub fn parse_epoch(digits: &str) -> Option<u64> {
    hexadecimal(digits, 16).map(|epoch| epoch as u64)
}

/// A number of 1 to `digits_max` hexadecimal digits, at most 32.
pub(crate) fn hexadecimal(digits: &str, digits_max: usize) -> Option<u128> {
    // The library accepts a sign, too.
    let is_good =
        (1..=digits_max).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u128::from_str_radix(digits, 16).ok().filter(|_| is_good)
}

/// A string is not a [`Position`].
///
/// ```
/// # mod echoring { pub use echoring_topics as server; }
/// use echoring::server::{Position, PositionError};
///
/// let bad: Result<Position, PositionError> = "42".parse();
/// assert_eq!(bad.unwrap_err().to_string(), "a position is an epoch and an offset, such as 1f3a5c-42");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PositionError(());

impl fmt::Display for PositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position is an epoch and an offset, such as 1f3a5c-42")
    }
}

impl std::error::Error for PositionError {}

echoring_proto::error_debug!(struct PositionError(nothing));

/// The refusals: each with its code, whether a retry may succeed, the wrong field of a publication (empty if it is the state of the server),
/// the HTTP status with the seconds of `Retry-After`, and its text.
macro_rules! refusals {
    (
        $(#[$doc:meta])*
        enum Refused {
            $($(#[$about:meta])* $refusal:ident $code:literal $is_passing:literal $field:literal $http:expr => $text:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Refused {
            $($(#[$about])* $refusal,)*
        }

        impl Refused {
            /// All refusals.
            #[doc(hidden)]
            pub const ALL: [Refused; [$($code),*].len()] = [$(Refused::$refusal),*];

            /// The number, for other nodes.
            #[doc(hidden)]
            pub fn number(self) -> u8 {
                self as u8
            }

            /// The refusal with this number.
            #[doc(hidden)]
            pub fn of_number(number: u8) -> Option<Refused> {
                echoring_proto::Plain::decode(&[number])
            }

            /// The error code, for programs.
            pub fn code(self) -> &'static str {
                match self {
                    $(Refused::$refusal => $code,)*
                }
            }

            /// Whether a retry may succeed.
            pub fn is_passing(self) -> bool {
                match self {
                    $(Refused::$refusal => $is_passing,)*
                }
            }

            /// The field of a publication that is wrong; empty if it is the state of the server.
            #[doc(hidden)]
            pub fn field(self) -> &'static str {
                match self {
                    $(Refused::$refusal => $field,)*
                }
            }

            /// The status of an HTTP response, and the seconds of its `Retry-After`.
            #[doc(hidden)]
            pub fn http(self) -> (u16, Option<&'static str>) {
                match self {
                    $(Refused::$refusal => $http,)*
                }
            }
        }

        impl fmt::Display for Refused {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Refused::$refusal => $text,)*
                })
            }
        }

        echoring_proto::error_debug!(enum Refused { $($refusal),* });

        echoring_proto::plain!(for enum Refused { $($refusal),* });
    };
}

refusals! {
    /// Why a topic refused a message or a subscription.
    ///
    /// ```
    /// # mod echoring { pub use echoring_topics as server; }
    /// use echoring::server::Refused;
    ///
    /// assert!(Refused::Busy.is_passing());
    /// assert!(!Refused::TooLarge.is_passing());
    /// ```
    enum Refused {
        /// A mailbox is full; the client may retry soon.
        Busy "busy" true "" (429, Some("1")) => "the topic's owner shard is busy",
        /// The node has the maximum number of topics.
        TooManyTopics "too-many-topics" false "topic" (503, Some("5")) => "the node has the maximum number of topics",
        /// The connection has created the maximum number of topics.
        TooManyByConnection "too-many-topics-per-connection" false "topic" (429, Some("5")) =>
            "this connection has created the maximum number of topics",
        /// The identity has created the maximum number of topics.
        TooManyByIdentity "too-many-topics-per-identity" false "topic" (429, Some("5")) =>
            "this identity has created the maximum number of topics",
        /// The topic conflates by key, and the message has none.
        NoKey "no-key" false "key" (400, None) => "messages of this topic need a key",
        /// The topic has the maximum number of keys.
        TooManyKeys "too-many-keys" false "key" (400, None) => "the topic has the maximum number of keys",
        /// The publisher may not publish to this topic.
        Forbidden "forbidden" false "topic" (403, None) => "not allowed to publish to this topic",
        /// The message exceeds the node's size limit.
        TooLarge "too-large" false "data" (413, None) => "the message exceeds the size limit of this node",
        /// The node's memory for messages is exhausted; try again soon.
        OutOfMemory "out-of-memory" true "" (503, Some("1")) => "the node's memory for messages is exhausted",
        /// The server is shutting down: reconnect elsewhere, or later.
        Draining "draining" true "" (503, Some("5")) => "the server is shutting down",
        /// The idempotency key was used with another message.
        KeyReused "idempotency-key-reused" false "idempotency_key" (422, None) =>
            "another message was published with this idempotency key",
        /// The publisher is faster than it may be; try again soon.
        RateLimited "rate-limited" true "" (429, Some("1")) => "more publications per second than allowed",
        /// The node that owns the topic cannot be reached. Nothing was published; try again.
        Unreachable "unreachable" true "" (503, Some("1")) => "the node that owns the topic cannot be reached",
        /// The node that owns the topic was lost before it answered. The message may have been published; with an idempotency key it
        /// can be sent again.
        Uncertain "uncertain" true "" (503, Some("1")) => "the node that owns the topic was lost before it answered",
        /// This node has not received messages that another has sent the client already: try again, or another node.
        Behind "behind" true "" (503, Some("1")) =>
            "this node has not received what you have: try again, or try another node",
        /// The topic is durable, and there is no stream that stores its messages. Nothing was published.
        NoStorage "no-storage" true "" (503, Some("1")) =>
            "the durable topic cannot be stored: NATS has no JetStream for it, or too little room",
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{ClientId, Profile};

    #[test]
    fn a_topic_name_is_short_and_shows_itself() {
        let longest = "ü".repeat(TOPIC_BYTES_MAX / 2) + "x";
        for good in ["a", "prices.EUR/USD", "a b", "水", &longest] {
            assert!(is_topic_name(good), "{good:?}");
        }
        for bad in ["", "a\nb", "\0", "\u{7f}", "\u{85}", &format!("{longest}x")] {
            assert!(!is_topic_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_publication_is_read_from_its_head_and_its_body() {
        let author = Author::encode(ClientId::local(7), Profile("alice"));
        let tags = Tags::encode([("a", "b")].into_iter()).expect("short");
        let (named, tagged) = (Author::new(&author), Tags::new(&tags));
        for content in [Content::Json, Content::Text, Content::Binary] {
            for (author, tags, keeping) in [
                (Author::NONE, Tags::NONE, Keeping::Kept),
                (named, Tags::NONE, Keeping::Skipped),
                (named, tagged, Keeping::Kept),
                (Author::NONE, tagged, Keeping::Omitted),
            ] {
                let plain = Publication::new(content, "k", b"payload");
                let publication = Publication { author, tags, keeping, ..plain };
                let body = publication.body().concat();
                assert_eq!(Publication::read(publication.head(), "k", &body), Some(publication));
            }
        }
        for head in [3, 7, 8, 0x30, 0x40] {
            assert_eq!(Publication::read(head, "", &author), None, "{head}");
        }
        for has in [HAS_AUTHOR, HAS_TAGS] {
            assert_eq!(Publication::read(has, "", b"\x05\0abc"), None);
        }
    }

    #[test]
    fn a_position_is_read_as_it_is_written_and_anything_else_is_none() {
        for (epoch, offset, text) in [
            (0x001f_3a5c, 41, "1f3a5c-41"),
            (0, 0, "0-0"),
            (u64::MAX, INTEGER_END - 1, "ffffffffffffffff-9007199254740991"),
        ] {
            let position = Position { epoch, offset };
            assert_eq!(position.to_string(), text);
            assert_eq!(text.parse(), Ok(position));
            let (epoch, _) = text.split_once('-').expect("two numbers");
            let fields = serde_json::json!({ "epoch": epoch, "offset": offset });
            assert_eq!(serde_json::to_value(position).expect("JSON"), fields);
            assert_eq!(serde_json::from_value::<Position>(fields).expect("a position"), position);
        }
        for bad in [
            r#"{"epoch":"xyz","offset":1}"#,
            r#"{"epoch":"1f","offset":9007199254740992}"#,
            r#"{"epoch":31,"offset":1}"#,
            r#"{"epoch":"1f"}"#,
        ] {
            assert!(serde_json::from_str::<Position>(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "-",
            "1f",
            "1f-",
            "-1",
            "1f-1-1",
            "+1f-1",
            "1f-+1",
            "xyz-1",
            "1f-9007199254740992",
            "1f 1",
            "1f:1",
            "00000000000000001-1",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(PositionError(())), "{bad:?}");
        }
    }
}
