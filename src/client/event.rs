//! The events of subscriptions, and the results of requests.

#[cfg(feature = "topics")]
mod conversions;
pub(crate) mod payload;

use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ClientError, Payload, Refusal, RequestError, SubscribeError};

/// A position in a topic: the place behind the message with this offset.
///
/// As text it is `EPOCH-OFFSET`, which [`parse`](str::parse) reads: what a server's `Position` and the `id` of an event stream are,
/// too. For serde it is an object. [`From`] and [`TryFrom`] convert from and to the `Position` of a server in the same program.
///
/// ```
/// use echoring::client::{Position, PositionError, SubscribeOptions};
///
/// // The position that an earlier run of the program has stored.
/// let position: Position = "1f3a5c-42".parse()?;
/// assert_eq!(position.to_string(), "1f3a5c-42");
/// let same = serde_json::from_str(r#"{"epoch":"1f3a5c","offset":42}"#).unwrap();
/// assert_eq!(position, same);
/// let options = SubscribeOptions::from_position(position);
/// # drop(options);
/// # Ok::<(), PositionError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The life of the topic at the server. Offsets of different epochs cannot be compared.
    pub epoch: String,
    /// The number of the message, from 1; 0 is the place before the first one.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Position, PositionError> {
        // An epoch is any text.
        let (epoch, offset) = text.rsplit_once('-').ok_or(PositionError(()))?;
        // The library accepts a sign, too.
        let offset = offset.parse().ok().filter(|_| !offset.starts_with('+')).ok_or(PositionError(()))?;
        Ok(Position { epoch: epoch.to_owned(), offset })
    }
}

/// A string is not a [`Position`].
///
/// ```
/// use echoring::client::{Position, PositionError};
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

impl StdError for PositionError {}

echoring_proto::error_debug!(struct PositionError(nothing));

/// An event of a subscription.
///
/// ```
/// use echoring::client::{Event, Subscription};
///
/// async fn follow(mut news: Subscription<String>) {
///     while let Some(event) = news.next().await {
///         match event {
///             Event::Message(message) => println!("{}, for {} more", message.data, message.skipped),
///             Event::Malformed(message, error) => eprintln!("message {} is no text: {error}", message.offset),
///             Event::Gap(gap) => println!("{gap}"),
///             Event::Ended(why) => println!("no longer subscribed: {why}"),
///             _ => {}
///         }
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<T = Payload> {
    /// The subscription has begun, for the first time or again. The missed messages follow, or a [`Gap`] does.
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
    /// A client no longer subscribes to the topic.
    Leave(Member),
    /// Joins and leaves were missed: ask for [`presence`](crate::Client::presence) again.
    PresenceStale,
    /// The subscription has ended, and nothing follows.
    Ended(Ended),
}

/// The beginning of a subscription.
///
/// ```
/// use echoring::client::Subscribed;
///
/// fn report(subscribed: &Subscribed) {
///     if subscribed.recovered == Some(false) {
///         println!("messages before {} may be missing", subscribed.position.offset);
///     }
/// }
/// ```
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
///
/// ```
/// use echoring::client::Message;
///
/// fn show(price: &Message<f64>) {
///     let symbol = price.key.as_deref().unwrap_or("?");
///     println!("{symbol} {} ({} earlier prices were skipped)", price.data, price.skipped);
/// }
/// ```
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
///
/// ```
/// use echoring::client::{Gap, GapReason};
///
/// fn report(gap: &Gap) {
///     match (&gap.reason, gap.count()) {
///         (GapReason::Slow, Some(count)) => println!("too slow for {count} messages"),
///         // Such as "missed 20 messages, 41 to 60: the server no longer keeps them".
///         _ => println!("{gap}"),
///     }
/// }
/// ```
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

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.missed {
            Missed::Range { from, to } if from == to => write!(f, "missed message {from}: ")?,
            Missed::Range { from, to } => {
                write!(f, "missed {} messages, {from} to {to}: ", self.count().unwrap_or_default())?;
            }
            Missed::Unknown => f.write_str("missed an unknown number of messages: ")?,
        }
        self.reason.fmt(f)
    }
}

/// The extent of a gap.
///
/// ```
/// use echoring::client::Missed;
///
/// fn reload(missed: Missed) -> String {
///     match missed {
///         Missed::Range { from, to } => format!("/archive?from={from}&to={to}"),
///         _ => "/archive".to_owned(),
///     }
/// }
/// ```
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
    /// Nobody knows: the epoch has changed, or the topic has no positions. The program fetches its state by other means.
    Unknown,
}

/// Why messages were missed.
///
/// ```
/// use echoring::client::GapReason;
///
/// assert_eq!(GapReason::from("slow"), GapReason::Slow);
/// assert_eq!(GapReason::from("maintenance"), GapReason::Other("maintenance".to_owned()));
/// ```
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

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GapReason::Slow => "this subscriber is too slow",
            GapReason::History => "the server no longer keeps them",
            GapReason::Memory => "the server had no memory for them",
            GapReason::Drain => "the server stopped",
            GapReason::Epoch => "the topic has restarted",
            GapReason::Unreported => "the server gave no reason",
            GapReason::Other(reason) => reason,
        })
    }
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
///
/// ```
/// use echoring::client::Member;
///
/// fn name(member: &Member) -> &str {
///     if member.user.is_empty() { &member.client } else { &member.user }
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Member {
    /// The connection, as the topic's presence names it.
    pub client: String,
    /// The user; empty for one without credentials.
    pub user: String,
}

/// Why a subscription ended. It is an error, so that a program can return it.
///
/// ```
/// use echoring::client::{Ended, Event, Subscription};
///
/// async fn print(mut news: Subscription<String>) -> Result<(), Ended> {
///     while let Some(event) = news.next().await {
///         match event {
///             Event::Message(message) => println!("{}", message.data),
///             Event::Ended(Ended::Closed) => break,
///             Event::Ended(why) => return Err(why),
///             _ => {}
///         }
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Ended {
    /// The server refused it, or ended it for good.
    Refused(Refusal),
    /// The program's [`TokenSource`](crate::TokenSource) has no token for it, with this error.
    Token(String),
    /// The program has closed the client.
    Closed,
    /// The client has given up.
    Failed(ClientError),
}

echoring_proto::error_texts! {
    enum Ended {
        Refused(refusal) => "the server ended the subscription: {refusal}";
        Token(error) => "no token for the subscription: {error}";
        Closed => "the client is closed";
        Failed(error) from error => "{error}";
    }
}

impl Ended {
    /// As the failure of a request.
    pub(crate) fn request_error(&self) -> RequestError {
        match self {
            Ended::Failed(error) => RequestError::Failed(error.clone()),
            _ => RequestError::Closed,
        }
    }

    /// As the reason why there is no subscription.
    pub(crate) fn subscribe_error(&self) -> SubscribeError {
        match self {
            Ended::Failed(error) => SubscribeError::Failed(error.clone()),
            _ => SubscribeError::Closed,
        }
    }
}

/// An acknowledged publication.
///
/// ```
/// use echoring::client::{Client, RequestError};
///
/// async fn publish(client: &Client) -> Result<(), RequestError> {
///     if let Some(position) = client.publish("news", "hello").await?.position {
///         println!("message {} of epoch {}", position.offset, position.epoch);
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its position; `None` if the protocol does not tell, as Centrifuge's does not.
    pub position: Option<Position>,
}

/// Who subscribes to a topic.
///
/// ```
/// use echoring::client::{Client, Member, RequestError};
///
/// async fn everybody(client: &Client) -> Result<Vec<Member>, RequestError> {
///     let (mut all, mut after) = (Vec::new(), None);
///     loop {
///         let page = client.presence("rooms.blue", after.as_deref()).await?;
///         all.extend(page.members);
///         after = page.next;
///         if after.is_none() {
///             return Ok(all);
///         }
///     }
/// }
/// ```
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
///
/// ```
/// use echoring::client::{HistoryQuery, Position};
///
/// let latest = HistoryQuery::latest(20);
/// assert!(latest.reverse);
/// let later = HistoryQuery::since(Position { epoch: "1f3a5c".to_owned(), offset: 42 });
/// assert_eq!(later.limit, None);
/// ```
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
///
/// ```
/// use echoring::client::{Client, HistoryQuery, RequestError};
///
/// async fn latest(client: &Client) -> Result<(), RequestError> {
///     let history = client.history("rooms:blue", HistoryQuery::latest(20)).await?;
///     for message in history.messages.iter().rev() {
///         println!("{} of {}", message.offset, history.position.offset);
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct History {
    /// The position of the topic's latest message.
    pub position: Position,
    /// The messages, in the requested order.
    pub messages: Vec<Message<Payload>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written_and_anything_else_is_none() {
        for (epoch, offset, text) in [
            ("1f3a5c", 42, "1f3a5c-42"),
            ("a-b", 1, "a-b-1"),
            ("", u64::MAX, "-18446744073709551615"),
            ("ü", 0, "ü-0"),
        ] {
            let position = Position { epoch: epoch.to_owned(), offset };
            assert_eq!(position.to_string(), text);
            assert_eq!(text.parse(), Ok(position));
        }
        for bad in ["", "42", "1f-", "1f-+1", "1f-x", "1f-18446744073709551616", "1f-1 "] {
            assert_eq!(bad.parse::<Position>(), Err(PositionError(())), "{bad:?}");
        }
    }
}
