//! What is published, the place it gets in its topic's order, and why it may be refused.

use std::fmt;

use crate::limits::TOPIC_BYTES_MAX;

/// Whether a topic may have this name: 1 to [`TOPIC_BYTES_MAX`] bytes, none of them a control character's, which would
/// break a line of a log and be seen by nobody.
pub fn is_topic_name(name: &str) -> bool {
    (1..=TOPIC_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// What the bytes of a message are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    /// One JSON value (RFC 8259), which the hub takes on trust. Raw routes relay it as text.
    Json = 0,
    /// UTF-8.
    Text = 1,
    /// Any bytes.
    Binary = 2,
}

impl Content {
    /// The content of this number, if there is one.
    pub fn from_number(number: u8) -> Option<Content> {
        match number {
            0 => Some(Content::Json),
            1 => Some(Content::Text),
            2 => Some(Content::Binary),
            _ => None,
        }
    }
}

/// A message as its publisher gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// What the bytes are.
    pub content: Content,
    /// What the message is the latest state of; empty when it has no key. UTF-8 of at most
    /// [`KEY_BYTES_MAX`](crate::limits::KEY_BYTES_MAX).
    pub key: &'a str,
    /// The bytes.
    pub payload: &'a [u8],
}

/// A message's place in its topic: the offset counts from 1 within an epoch. The epoch changes when the state of the
/// topic was lost, so that offsets of different epochs say nothing about each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which life of the topic.
    pub epoch: u64,
    /// The message within it; 0 stands before the first.
    pub offset: u64,
}

/// Shown with the epoch in hexadecimal, as it travels: more digits than a number in JavaScript holds.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{}", self.epoch, self.offset)
    }
}

/// Why a topic did not take a message or a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// A mailbox is full; try again soon.
    Busy,
    /// The node has as many topics as it may have.
    TooManyTopics,
    /// The topic keeps the latest message for each key, and this one has none.
    NoKey,
    /// The topic has as many keys as it may have.
    TooManyKeys,
    /// Clients do not publish to this topic.
    Forbidden,
    /// The message is longer than the node takes.
    TooLarge,
    /// The node's memory for messages is spent; try again soon.
    OutOfMemory,
    /// The server is about to end: come back elsewhere, or later.
    Draining,
    /// The idempotency key is that of another message.
    KeyReused,
}

impl Refused {
    /// A word for it that programs decide by.
    pub fn code(self) -> &'static str {
        match self {
            Refused::Busy => "busy",
            Refused::TooManyTopics => "too-many-topics",
            Refused::NoKey => "no-key",
            Refused::TooManyKeys => "too-many-keys",
            Refused::Forbidden => "forbidden",
            Refused::TooLarge => "too-large",
            Refused::OutOfMemory => "out-of-memory",
            Refused::Draining => "draining",
            Refused::KeyReused => "idempotency-key-reused",
        }
    }

    /// Whether the same may be taken a little later.
    pub fn is_passing(self) -> bool {
        matches!(self, Refused::Busy | Refused::OutOfMemory | Refused::Draining)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Busy => "the topic's home is busy",
            Refused::TooManyTopics => "the node has as many topics as it may have",
            Refused::NoKey => "messages of this topic need a key",
            Refused::TooManyKeys => "the topic has as many keys as it may have",
            Refused::Forbidden => "clients do not publish to this topic",
            Refused::TooLarge => "the message is longer than this node takes",
            Refused::OutOfMemory => "the node's memory for messages is spent",
            Refused::Draining => "the server is going away",
            Refused::KeyReused => "another message was published with this idempotency key",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
