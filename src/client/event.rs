//! What subscriptions yield, and what requests return.

use serde::{Deserialize, Serialize};

use crate::{Payload, Refusal};

/// A position in a topic: the place behind the message with this offset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The life of the topic at the server. Offsets of different epochs cannot be compared.
    pub epoch: String,
    /// The number of the message, from 1; 0 is the place before the first one.
    pub offset: u64,
}

/// An event of a subscription.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<T = Payload> {
    /// The subscription has begun, for the first time or again. What was missed meanwhile follows, or a [`Gap`] does.
    /// Joins and leaves from before are not repeated: ask for [`presence`](crate::Client::presence).
    Subscribed(Subscribed),
    /// A message.
    Message(Message<T>),
    /// A message that is not a `T`.
    Malformed(Message<Payload>, serde_json::Error),
    /// Messages were missed, and will not come.
    Gap(Gap),
    /// A client subscribed to the topic.
    Join(Member),
    /// A client does not subscribe to the topic any more.
    Leave(Member),
    /// Joins and leaves were missed: ask for [`presence`](crate::Client::presence) again.
    PresenceStale,
    /// The subscription has ended, and nothing follows.
    Ended(Ended),
}

/// The beginning of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscribed {
    /// Messages after this position follow.
    pub position: Position,
    /// Whether all messages after the previous position follow; `None` if there is no previous one.
    pub recovered: Option<bool>,
    /// The number of subscribers, this one included, if the topic has presence and the protocol tells.
    pub count: Option<u64>,
    /// The name of this client in the topic's presence, if it has presence and the protocol tells.
    pub client: Option<String>,
}

/// A message of a topic.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Message<T = Payload> {
    /// Its number in the topic's epoch.
    pub offset: u64,
    /// The key whose latest state it is.
    pub key: Option<String>,
    /// The number of messages since the previous one that it stands for, because the topic conflates.
    pub skipped: u64,
    /// It was published before the subscription began, and is part of the topic's snapshot.
    pub snapshot: bool,
    /// The content.
    pub data: T,
}

/// Messages that will not come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// Which ones.
    pub missed: Missed,
    /// Why.
    pub reason: GapReason,
}

impl Gap {
    /// The number of missed messages, if it is known.
    pub fn count(&self) -> Option<u64> {
        match self.missed {
            Missed::Range { from, to } => Some(to.saturating_sub(from).saturating_add(1)),
            Missed::Unknown => None,
        }
    }
}

/// The extent of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// The messages with these offsets, both included.
    Range {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// Nobody knows: the epoch has changed. The program fetches its state by other means.
    Unknown,
}

/// Why messages were missed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// This subscriber lagged, and the topic drops the oldest messages.
    Slow,
    /// The server does not keep all messages after the position.
    History,
    /// The server had no memory for more messages.
    Memory,
    /// The server stopped before they could be sent.
    Drain,
    /// The topic has another epoch.
    Epoch,
    /// The server sent a later message, or said that there is one, and gave no reason.
    Unreported,
    /// Another reason of the server.
    Other(String),
}

impl From<&str> for GapReason {
    fn from(word: &str) -> GapReason {
        match word {
            "slow" => GapReason::Slow,
            "history" => GapReason::History,
            "memory" => GapReason::Memory,
            "drain" => GapReason::Drain,
            other => GapReason::Other(other.to_owned()),
        }
    }
}

/// A subscriber of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Member {
    /// The connection, as the topic's presence names it.
    pub client: String,
    /// The user; empty for one without credentials.
    pub user: String,
}

/// Why a subscription ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The server refused it, or ended it for good.
    Refused(Refusal),
    /// The task of the client has ended.
    Closed,
}

/// An acknowledged publication.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its position; `None` if the protocol does not tell, as Centrifuge's does not.
    pub position: Option<Position>,
}

/// Who subscribes to a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Members {
    /// The number of subscribers.
    pub count: u64,
    /// Some of them, or all.
    pub members: Vec<Member>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// Which messages to read from a topic's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryQuery {
    /// Only messages after this position, or before it if `reverse`.
    pub since: Option<Position>,
    /// Maximum number of messages; 0 reads the position only, `None` is without a limit.
    pub limit: Option<u32>,
    /// From the newest to the oldest.
    pub reverse: bool,
}

impl HistoryQuery {
    /// The latest `limit` messages, newest first.
    pub fn latest(limit: u32) -> HistoryQuery {
        HistoryQuery { limit: Some(limit), reverse: true, since: None }
    }

    /// The messages after `position`, oldest first. The server bounds the size of its answer.
    pub fn since(position: Position) -> HistoryQuery {
        HistoryQuery { since: Some(position), ..HistoryQuery::default() }
    }
}

/// Messages of a topic's history.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct History {
    /// The position of the topic's latest message.
    pub position: Position,
    /// The messages, in the requested order.
    pub messages: Vec<Message<Payload>>,
}
