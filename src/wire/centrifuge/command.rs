//! Commands, and how they are read from a frame and written to one.
//!
//! Never: copies a payload; allocates more than the frame is long.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::Deserializer;

use crate::centrifuge::fields::{
    Field, Json, Message, Nothing, Read, Write, Writer, envelope, json_entries, message, payload,
};
use crate::centrifuge::frame::append;
use crate::centrifuge::messages::{Data, OnlyData};
use crate::centrifuge::protobuf::{Outcome, Value, delimited, map_entry};
use crate::centrifuge::{Encoding, Malformed};
use crate::limits::{COMMANDS_PER_FRAME_MAX, SUBSCRIPTIONS_PER_CONNECT_MAX};

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

message! {
    /// A connect command.
    pub struct Connect<'a> {
        /// The token; empty for none.
        1 "token" token: Cow<'a, str>;
        /// Data for the server's application.
        2 "data" data: &'a [u8];
        /// Server-side subscriptions to recover, by their channels.
        3 "subs" subscriptions: Vec<Subscribe<'a>>;
        /// The name of the client program.
        4 "name" name: Cow<'a, str>;
        /// The version of the client program.
        5 "version" version: Cow<'a, str>;
        /// Header fields that its handshake could not have: browsers send none of a program.
        6 "headers" headers: BTreeMap<Cow<'a, str>, Cow<'a, str>>;
    }
}

message! {
    /// A subscribe command.
    pub struct Subscribe<'a> {
        /// The channel.
        1 "channel" channel: Cow<'a, str>;
        /// The token; empty for none.
        2 "token" token: Cow<'a, str>;
        /// Recover the publications after `epoch` and `offset`.
        3 "recover" recover: bool;
        /// The epoch of the client's position; empty if it has none.
        6 "epoch" epoch: Cow<'a, str>;
        /// The offset of the client's position.
        7 "offset" offset: u64;
        /// Data for the server's application.
        8 "data" data: &'a [u8];
        /// The client asks that the server checks its position.
        9 "positioned" positioned: bool;
        /// The client asks for a position to recover from.
        10 "recoverable" recoverable: bool;
        /// The client asks for join and leave pushes.
        11 "join_leave" join_leave: bool;
        /// The delta compression that the client offers: [`NAME`](crate::centrifuge::delta::NAME), or empty for none.
        12 "delta" delta: Cow<'a, str>;
        /// The client asks for publications with certain tags only: see [`FilterNode`](crate::centrifuge::FilterNode).
        13 "tf" tags_filter: Option<&'a [u8]>;
        /// The features that the client offers or asks for, as bits.
        14 "flag" flags: i64;
        /// The type of the subscription; 0 is the ordinary one.
        15 "type" kind: i32;
    }
}

impl Subscribe<'_> {
    /// The client asks for the error [`UnrecoverablePosition`](crate::centrifuge::ErrorCode::UnrecoverablePosition) instead of a
    /// subscription that is not recovered.
    pub fn rejects_unrecovered(&self) -> bool {
        self.flags & 2 != 0
    }
}

/// Subscriptions by channel: at most one more than the maximum is read, which shows that there are too many.
impl<'a, 'de: 'a> Read<'de> for Vec<Subscribe<'a>> {
    fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let mut subscriptions = Vec::new();
        json_entries(json, |channel, subscribe| add(&mut subscriptions, channel, subscribe))?;
        Ok(subscriptions)
    }

    fn read(&mut self, value: Value<'de>) -> Outcome {
        map_entry(value).map(|(channel, subscribe)| add(self, channel, subscribe))
    }
}

fn add<'a>(subscriptions: &mut Vec<Subscribe<'a>>, channel: Cow<'a, str>, subscribe: Subscribe<'a>) {
    if subscriptions.len() <= SUBSCRIPTIONS_PER_CONNECT_MAX {
        subscriptions.push(Subscribe { channel, ..subscribe });
    }
}

impl Write for Vec<Subscribe<'_>> {
    fn put<W: Writer>(&self, to: &mut W, field: Field) {
        // The channel is the key of its entry.
        to.map(
            field,
            self.iter().map(|all| (&*all.channel, Subscribe { channel: "".into(), ..all.clone() })),
        );
    }
}

message! {
    /// A publish command.
    pub struct Publish<'a> {
        /// The channel.
        1 "channel" channel: Cow<'a, str>;
        /// The data.
        2 "data" data: &'a [u8];
        /// The type of the publication; 0 is the ordinary one.
        3 "type" kind: i32;
        /// The key of the entry that it sets, in a channel with keys; empty for none.
        4 "key" key: Cow<'a, str>;
        /// Remove the entry with this key instead.
        5 "removed" removed: bool;
    }
}

message! {
    /// A position in a channel.
    pub struct Position<'a> {
        /// The offset.
        1 "offset" offset: u64;
        /// The epoch; empty if the client knows none.
        2 "epoch" epoch: Cow<'a, str>;
    }
}

message! {
    /// A history command.
    pub struct History<'a> {
        /// The channel.
        1 "channel" channel: Cow<'a, str>;
        /// Maximum number of publications: 0 asks for the channel's position only, a negative one for all that the server
        /// returns at once.
        7 "limit" limit: i32;
        /// Only publications behind this position; with `reverse`, before it.
        8 "since" since: Option<Position<'a>>;
        /// The latest first.
        9 "reverse" reverse: bool;
    }
}

message! {
    /// A call.
    pub struct Rpc<'a> {
        /// The argument.
        1 "data" data: &'a [u8];
        /// The name of the called method; may be empty.
        2 "method" method: Cow<'a, str>;
    }
}

message! {
    /// A command with a new token of a subscription.
    pub struct SubRefresh<'a> {
        /// The channel.
        1 "channel" channel: Cow<'a, str>;
        /// The token.
        2 "token" token: Cow<'a, str>;
        /// The type of the command; 0 is the ordinary one.
        3 "type" kind: i32;
    }
}

message! {
    pub(crate) struct OnlyChannel<'a> {
        1 "channel" channel: Cow<'a, str>;
    }
}

message! {
    pub(crate) struct OnlyToken<'a> {
        1 "token" token: Cow<'a, str>;
    }
}

impl<'a> OnlyChannel<'a> {
    fn of(channel: &'a str) -> OnlyChannel<'a> {
        OnlyChannel { channel: channel.into() }
    }
}

envelope! {
    /// The parts of a command as both encodings have them: at most one request is expected, and the first counts.
    pub(crate) struct Parts<'a> -> Request<'a> {
        1 "id" id: u32;
        4 "connect" connect: Option<Connect<'a>> => Request::Connect;
        5 "subscribe" subscribe: Option<Subscribe<'a>> => Request::Subscribe;
        6 "unsubscribe" unsubscribe: Option<OnlyChannel<'a>> => |OnlyChannel { channel }| Request::Unsubscribe { channel };
        7 "publish" publish: Option<Publish<'a>> => Request::Publish;
        8 "presence" presence: Option<OnlyChannel<'a>> => |OnlyChannel { channel }| Request::Presence { channel };
        9 "presence_stats" presence_stats: Option<OnlyChannel<'a>> => |OnlyChannel { channel }| Request::PresenceStats { channel };
        10 "history" history: Option<History<'a>> => Request::History;
        11 "ping" ping: Option<Nothing> => |_| Request::Ping;
        12 "send" send: Option<OnlyData<'a>> => |OnlyData { data }| Request::Send { data };
        13 "rpc" rpc: Option<Rpc<'a>> => Request::Rpc;
        14 "refresh" refresh: Option<OnlyToken<'a>> => |OnlyToken { token }| Request::Refresh { token };
        15 "sub_refresh" sub_refresh: Option<SubRefresh<'a>> => Request::SubRefresh;
    }
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
    let connect: Connect<'_> = from_json(bytes)?;
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
                (from_json::<Parts<'_>>(line)?.command(), rest)
            }
            Encoding::Protobuf => {
                let (message, rest) = delimited(frame)?;
                let mut parts = Parts::default();
                parts.read(Value::Bytes(message))?;
                (parts.command(), Some(rest).filter(|rest| !rest.is_empty()))
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

fn from_json<'a, M: Read<'a>>(line: &'a [u8]) -> Result<M, Malformed> {
    serde_json::from_slice(line).map(|Json(message)| message).map_err(|_| Malformed::Json)
}

/// The first line, and the rest after its line feed.
pub(crate) fn first_line(frame: &[u8]) -> (&[u8], Option<&[u8]>) {
    match frame.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&frame[..end], Some(&frame[end + 1..])),
        None => (frame, None),
    }
}

impl<'a> Parts<'a> {
    fn command(self) -> Command<'a> {
        let id = self.id;
        let request = self.content().unwrap_or(if id == 0 { Request::Pong } else { Request::Unknown });
        Command { id, request }
    }
}

/// Appends a command to `out`, which holds the content of one frame. The data of a command is one JSON value in JSON, where
/// line feeds between its tokens are left out, and any bytes in protobuf.
///
/// [`decode`](crate::centrifuge::decode) reads the output of this. [`Request::Unknown`] is written as a command without a request.
///
/// ```
/// use echoring_wire::centrifuge::{Command, Encoding, Request, decode, encode};
///
/// let command = Command { id: 7, request: Request::Presence { channel: "prices".into() } };
/// let mut frame = Vec::new();
/// encode(Encoding::Protobuf, &mut frame, &command);
/// assert_eq!(decode(Encoding::Protobuf, &frame).next(), Some(Ok(command)));
/// ```
pub fn encode(encoding: Encoding, out: &mut Vec<u8>, command: &Command<'_>) {
    append(encoding, out, command);
}

impl Message for Command<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        self.id.put(to, Parts::id);
        match &self.request {
            Request::Connect(connect) => to.message(Parts::connect, connect),
            Request::Subscribe(subscribe) => to.message(Parts::subscribe, subscribe),
            Request::Unsubscribe { channel } => to.message(Parts::unsubscribe, &OnlyChannel::of(channel)),
            Request::Publish(publish) => to.message(Parts::publish, publish),
            Request::Presence { channel } => to.message(Parts::presence, &OnlyChannel::of(channel)),
            Request::PresenceStats { channel } => {
                to.message(Parts::presence_stats, &OnlyChannel::of(channel))
            }
            Request::History(history) => to.message(Parts::history, history),
            Request::Ping => to.message(Parts::ping, &Nothing {}),
            Request::Send { data } => to.message(Parts::send, &Data { data: payload(data) }),
            Request::Rpc(rpc) => to.message(Parts::rpc, rpc),
            Request::Refresh { token } => to.message(Parts::refresh, &OnlyToken { token: (&**token).into() }),
            Request::SubRefresh(refresh) => to.message(Parts::sub_refresh, refresh),
            Request::Pong | Request::Unknown => {}
        }
    }
}
