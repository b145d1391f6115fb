//! Commands, and how they are read from a frame.
//!
//! Never: copies a payload; allocates more than the frame is long.

mod json;
mod protobuf;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use crate::centrifuge::fields::Nothing;
use crate::centrifuge::protobuf::delimited;
use crate::centrifuge::{Encoding, Malformed};
use crate::limits::{COMMANDS_PER_FRAME_MAX, SUBSCRIPTIONS_PER_CONNECT_MAX};

pub(crate) use json::{data, object, or_default, text};
pub use write::encode;

/// A command of a client. Its strings and payloads borrow from the frame; only JSON strings with escapes are copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The number that the reply repeats. It is 0 only for [`Request::Send`], which may have one, and [`Request::Pong`].
    pub id: u32,
    /// The client's request.
    pub request: Request<'a>,
}

/// A client's request. Strings are not validated, and empty if they are absent. `data` is one JSON value in JSON, any
/// bytes in protobuf, and empty if it is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Begin the session; the first command of a connection.
    Connect(Connect<'a>),
    /// Subscribe to a channel.
    Subscribe(Subscribe<'a>),
    /// Unsubscribe from a channel.
    Unsubscribe {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Publish to a channel.
    Publish(Publish<'a>),
    /// List who is subscribed to a channel.
    Presence {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Count who is subscribed to a channel.
    PresenceStats {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Read the history of a channel, or its position.
    History(History<'a>),
    /// Request an empty reply.
    Ping,
    /// A message to the server's application, without a reply.
    Send {
        /// The message.
        data: &'a [u8],
    },
    /// A call of the server's application.
    Rpc(Rpc<'a>),
    /// Present a new token of the connection.
    Refresh {
        /// The token.
        token: Cow<'a, str>,
    },
    /// Present a new token of a subscription.
    SubRefresh(SubRefresh<'a>),
    /// The empty command: the answer to the server's ping. It has no reply.
    Pong,
    /// A command with an unknown request.
    Unknown,
}

/// A connect command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Connect<'a> {
    /// The token; empty for none.
    #[serde(borrow, deserialize_with = "json::text")]
    pub token: Cow<'a, str>,
    /// Data for the server's application.
    #[serde(borrow, deserialize_with = "json::data")]
    pub data: &'a [u8],
    /// Server-side subscriptions to recover, by their channels.
    #[serde(rename = "subs", borrow, deserialize_with = "json::subscriptions")]
    pub subscriptions: Vec<Subscribe<'a>>,
    /// The name of the client program.
    #[serde(borrow, deserialize_with = "json::text")]
    pub name: Cow<'a, str>,
    /// The version of the client program.
    #[serde(borrow, deserialize_with = "json::text")]
    pub version: Cow<'a, str>,
    /// Header fields that its handshake could not have: browsers send none of a program.
    #[serde(borrow, deserialize_with = "json::texts")]
    pub headers: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// A subscribe command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Subscribe<'a> {
    /// The channel.
    #[serde(borrow, deserialize_with = "json::text")]
    pub channel: Cow<'a, str>,
    /// The token; empty for none.
    #[serde(borrow, deserialize_with = "json::text")]
    pub token: Cow<'a, str>,
    /// Recover the publications after `epoch` and `offset`.
    #[serde(deserialize_with = "json::or_default")]
    pub recover: bool,
    /// The epoch of the client's position; empty if it has none.
    #[serde(borrow, deserialize_with = "json::text")]
    pub epoch: Cow<'a, str>,
    /// The offset of the client's position.
    #[serde(deserialize_with = "json::or_default")]
    pub offset: u64,
    /// Data for the server's application.
    #[serde(borrow, deserialize_with = "json::data")]
    pub data: &'a [u8],
    /// The client asks that the server checks its position.
    #[serde(deserialize_with = "json::or_default")]
    pub positioned: bool,
    /// The client asks for a position to recover from.
    #[serde(deserialize_with = "json::or_default")]
    pub recoverable: bool,
    /// The client asks for join and leave pushes.
    #[serde(deserialize_with = "json::or_default")]
    pub join_leave: bool,
    /// The delta compression that the client offers: [`NAME`](crate::centrifuge::delta::NAME), or empty for none.
    #[serde(borrow, deserialize_with = "json::text")]
    pub delta: Cow<'a, str>,
    /// The client asks for publications with certain tags only: see [`FilterNode`](crate::centrifuge::FilterNode).
    #[serde(rename = "tf", borrow, deserialize_with = "json::present")]
    pub tags_filter: Option<&'a [u8]>,
    /// The features that the client offers or asks for, as bits.
    #[serde(rename = "flag", deserialize_with = "json::or_default")]
    pub flags: i64,
    /// The type of the subscription; 0 is the ordinary one.
    #[serde(rename = "type", deserialize_with = "json::or_default")]
    pub kind: i32,
}

impl Subscribe<'_> {
    /// The client asks for the error [`UnrecoverablePosition`](crate::centrifuge::ErrorCode::UnrecoverablePosition) instead of a
    /// subscription that is not recovered.
    pub fn rejects_unrecovered(&self) -> bool {
        self.flags & 2 != 0
    }
}

/// A publish command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Publish<'a> {
    /// The channel.
    #[serde(borrow, deserialize_with = "json::text")]
    pub channel: Cow<'a, str>,
    /// The data.
    #[serde(borrow, deserialize_with = "json::data")]
    pub data: &'a [u8],
    /// The key of the entry that it sets, in a channel with keys; empty for none.
    #[serde(borrow, deserialize_with = "json::text")]
    pub key: Cow<'a, str>,
    /// Remove the entry with this key instead.
    #[serde(deserialize_with = "json::or_default")]
    pub removed: bool,
    /// The type of the publication; 0 is the ordinary one.
    #[serde(rename = "type", deserialize_with = "json::or_default")]
    pub kind: i32,
}

/// A position in a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Position<'a> {
    /// The offset.
    #[serde(deserialize_with = "json::or_default")]
    pub offset: u64,
    /// The epoch; empty if the client knows none.
    #[serde(borrow, deserialize_with = "json::text")]
    pub epoch: Cow<'a, str>,
}

/// A history command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct History<'a> {
    /// The channel.
    #[serde(borrow, deserialize_with = "json::text")]
    pub channel: Cow<'a, str>,
    /// Maximum number of publications: 0 asks for the channel's position only, a negative one for all that the server
    /// returns at once.
    #[serde(deserialize_with = "json::or_default")]
    pub limit: i32,
    /// Only publications behind this position; with `reverse`, before it.
    #[serde(borrow, deserialize_with = "json::object")]
    pub since: Option<Position<'a>>,
    /// The latest first.
    #[serde(deserialize_with = "json::or_default")]
    pub reverse: bool,
}

/// A call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rpc<'a> {
    /// The name of the called method; may be empty.
    #[serde(borrow, deserialize_with = "json::text")]
    pub method: Cow<'a, str>,
    /// The argument.
    #[serde(borrow, deserialize_with = "json::data")]
    pub data: &'a [u8],
}

/// A command with a new token of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SubRefresh<'a> {
    /// The channel.
    #[serde(borrow, deserialize_with = "json::text")]
    pub channel: Cow<'a, str>,
    /// The token.
    #[serde(borrow, deserialize_with = "json::text")]
    pub token: Cow<'a, str>,
    /// The type of the command; 0 is the ordinary one.
    #[serde(rename = "type", deserialize_with = "json::or_default")]
    pub kind: i32,
}

/// The commands of a frame, in its order. Ends with the first error.
pub fn decode(encoding: Encoding, frame: &[u8]) -> Commands<'_> {
    // One line feed may end a JSON frame.
    let rest = match encoding {
        Encoding::Protobuf => frame,
        Encoding::Json | Encoding::Events | Encoding::Lines => frame.strip_suffix(b"\n").unwrap_or(frame),
    };
    Commands { encoding, rest: Some(rest), left: COMMANDS_PER_FRAME_MAX }
}

/// The connect command of a client that sends no other, as JSON without the command around it. No bytes, and `null`, are one
/// without anything in it.
///
/// # Errors
/// If it is not a connect command, or wants too many subscriptions.
pub fn decode_connect(bytes: &[u8]) -> Result<Connect<'_>, Malformed> {
    let bytes = bytes.trim_ascii();
    if matches!(bytes, b"" | b"null") {
        return Ok(Connect::default());
    }
    let connect = json::connect(bytes)?;
    if connect.subscriptions.len() > SUBSCRIPTIONS_PER_CONNECT_MAX {
        return Err(Malformed::TooManySubscriptions);
    }
    Ok(connect)
}

/// Yields the commands of a frame.
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    encoding: Encoding,
    /// The unread rest; `None` at the end, and after an error.
    rest: Option<&'a [u8]>,
    left: usize,
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        Some(self.command(rest))
    }
}

impl std::iter::FusedIterator for Commands<'_> {}

impl<'a> Commands<'a> {
    /// The bytes that are not read yet, and how many commands may be in them; `None` at the end.
    pub fn unread(&self) -> Option<(&'a [u8], usize)> {
        self.rest.map(|rest| (rest, self.left))
    }

    /// Continues behind the commands of a frame that were read before, with its [`unread`](Commands::unread) part.
    pub fn resume(encoding: Encoding, rest: &'a [u8], left: usize) -> Commands<'a> {
        Commands { encoding, rest: Some(rest), left }
    }

    /// Reads the first command of `frame`, and keeps the rest if there is no error.
    fn command(&mut self, frame: &'a [u8]) -> Result<Command<'a>, Malformed> {
        if frame.is_empty() {
            return Err(Malformed::Empty);
        }
        self.left = self.left.checked_sub(1).ok_or(Malformed::TooManyCommands)?;
        let (command, rest) = match self.encoding {
            Encoding::Json | Encoding::Events | Encoding::Lines => {
                let (line, rest) = first_line(frame);
                (json::command(line)?, rest)
            }
            Encoding::Protobuf => {
                let (message, rest) = delimited(frame)?;
                (protobuf::command(message)?, Some(rest).filter(|rest| !rest.is_empty()))
            }
        };
        match &command.request {
            Request::Send { .. } | Request::Pong => {}
            _ if command.id == 0 => return Err(Malformed::NoId),
            Request::Connect(connect) if connect.subscriptions.len() > SUBSCRIPTIONS_PER_CONNECT_MAX => {
                return Err(Malformed::TooManySubscriptions);
            }
            _ => {}
        }
        self.rest = rest;
        Ok(command)
    }
}

/// The first line, and the rest after its line feed.
pub(crate) fn first_line(frame: &[u8]) -> (&[u8], Option<&[u8]>) {
    match frame.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&frame[..end], Some(&frame[end + 1..])),
        None => (frame, None),
    }
}

/// The parts of a command as both encodings have them: at most one request is expected, and the first counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parts<'a> {
    #[serde(deserialize_with = "or_default")]
    id: u32,
    #[serde(borrow, deserialize_with = "object")]
    connect: Option<Connect<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    unsubscribe: Option<OnlyChannel<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    publish: Option<Publish<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    presence: Option<OnlyChannel<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    presence_stats: Option<OnlyChannel<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    history: Option<History<'a>>,
    #[serde(deserialize_with = "object")]
    ping: Option<Nothing>,
    #[serde(borrow, deserialize_with = "object")]
    send: Option<OnlyData<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    rpc: Option<Rpc<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    refresh: Option<OnlyToken<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    sub_refresh: Option<SubRefresh<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OnlyChannel<'a> {
    #[serde(borrow, deserialize_with = "text")]
    channel: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OnlyToken<'a> {
    #[serde(borrow, deserialize_with = "text")]
    token: Cow<'a, str>,
}

/// Of a message or a result of the application.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OnlyData<'a> {
    #[serde(borrow, deserialize_with = "data")]
    pub(crate) data: &'a [u8],
}

impl<'a> Parts<'a> {
    fn command(self) -> Command<'a> {
        let Parts { id, .. } = self;
        let request = None
            .or(self.connect.map(Request::Connect))
            .or(self.subscribe.map(Request::Subscribe))
            .or(self.unsubscribe.map(|OnlyChannel { channel }| Request::Unsubscribe { channel }))
            .or(self.publish.map(Request::Publish))
            .or(self.presence.map(|OnlyChannel { channel }| Request::Presence { channel }))
            .or(self.presence_stats.map(|OnlyChannel { channel }| Request::PresenceStats { channel }))
            .or(self.history.map(Request::History))
            .or(self.ping.map(|Nothing {}| Request::Ping))
            .or(self.send.map(|OnlyData { data }| Request::Send { data }))
            .or(self.rpc.map(Request::Rpc))
            .or(self.refresh.map(|OnlyToken { token }| Request::Refresh { token }))
            .or(self.sub_refresh.map(Request::SubRefresh))
            .unwrap_or(if id == 0 { Request::Pong } else { Request::Unknown });
        Command { id, request }
    }
}
