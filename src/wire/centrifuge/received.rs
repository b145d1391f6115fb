//! Replies and pushes, as a client reads them from a frame.
//!
//! Never: copies a payload; allocates more than a multiple of the frame's length.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::centrifuge::command::first_line;
use crate::centrifuge::fields::{Nothing, Read, envelope};
use crate::centrifuge::messages::{Begun, OnlyData, PresenceInfo, PresenceStats, Refreshed};
use crate::centrifuge::protobuf::{Value, delimited};
use crate::centrifuge::{Encoding, Malformed};

pub use crate::centrifuge::messages::{
    Closed, Connected, Ended, Failure, Info, Lifetime, Messages, Published as Publication, Subscription,
};

/// A message of the server. Its strings and payloads borrow from the frame; only JSON strings with escapes are copied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerMessage<'a> {
    /// The empty message: the client answers with [`Pong`](crate::centrifuge::Request::Pong).
    Ping,
    /// The reply to the command with this number.
    Reply(u32, Reply<'a>),
    /// A message without a request.
    Push(Push<'a>),
    /// A message of a kind that is not known here.
    Unknown,
}

/// The reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply<'a> {
    /// The command failed.
    Error(Failure<'a>),
    /// The session has begun.
    Connect(Connected<'a>),
    /// The client is subscribed.
    Subscribe(Subscription<'a>),
    /// The client is no longer subscribed.
    Unsubscribe,
    /// The publication was accepted.
    Publish,
    /// Who is subscribed, by the id of the connection.
    Presence(BTreeMap<Cow<'a, str>, Info<'a>>),
    /// How many are subscribed.
    PresenceStats(PresenceStats),
    /// The history of a channel, or its position.
    History(Messages<'a>),
    /// The answer to a ping of the client.
    Ping,
    /// The result of a call.
    Rpc(&'a [u8]),
    /// The connection has a new token.
    Refresh(Lifetime),
    /// The subscription has a new token.
    SubRefresh(Lifetime),
}

/// A push, and the channel that it belongs to; empty for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// The event.
    pub event: PushEvent<'a>,
}

/// The content of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushEvent<'a> {
    /// A message was published.
    Publication(Publication<'a>),
    /// A client subscribed.
    Join(Info<'a>),
    /// A client no longer subscribes.
    Leave(Info<'a>),
    /// The server ended the subscription.
    Unsubscribe(Ended<'a>),
    /// A message of the server's application.
    Message(&'a [u8]),
    /// The server subscribed the client.
    Subscribe(Subscription<'a>),
    /// The session has begun, on a transport that has no commands.
    Connect(Connected<'a>),
    /// The connection ends.
    Disconnect(Closed<'a>),
    /// The connection expires at another time.
    Refresh(Lifetime),
    /// A push of a kind that is not known here.
    Unknown,
}

/// The messages of a frame, in its order. Ends with the first error.
///
/// ```
/// use echoring_wire::centrifuge::received::{ServerMessage, Reply, decode};
/// use echoring_wire::centrifuge::{Encoding, reply};
///
/// let mut frame = Vec::new();
/// reply::publish(Encoding::Protobuf, &mut frame, 7);
/// let messages: Result<Vec<_>, _> = decode(Encoding::Protobuf, &frame).collect();
/// assert_eq!(messages.unwrap(), [ServerMessage::Reply(7, Reply::Publish)]);
/// ```
pub fn decode(encoding: Encoding, frame: &[u8]) -> Frame<'_> {
    Frame { encoding, rest: frame }
}

/// Yields the messages of a frame.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    encoding: Encoding,
    rest: &'a [u8],
}

impl<'a> Iterator for Frame<'a> {
    type Item = Result<ServerMessage<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = match self.encoding {
            Encoding::Json | Encoding::Events | Encoding::Lines => loop {
                if self.rest.is_empty() {
                    return None;
                }
                let (line, rest) = first_line(self.rest);
                self.rest = rest.unwrap_or_default();
                if !line.trim_ascii().is_empty() {
                    break serde_json::from_slice::<Parts<'a>>(line).map_err(|_| Malformed::Json);
                }
            },
            Encoding::Protobuf if self.rest.is_empty() => return None,
            Encoding::Protobuf => delimited(self.rest).and_then(|(message, rest)| {
                self.rest = rest;
                let mut parts = Parts::default();
                parts.read(Value::Bytes(message)).map(|()| parts)
            }),
        };
        if read.is_err() {
            self.rest = &[];
        }
        Some(read.map(Parts::received))
    }
}

impl std::iter::FusedIterator for Frame<'_> {}

envelope! {
    /// A message as both encodings have it: the first field that is present counts.
    pub(crate) struct Parts<'a> -> Reply<'a> {
        1 "id" id: u32;
        2 "error" error: Option<Failure<'a>> => Reply::Error;
        4 "push" push: Option<PushParts<'a>>;
        5 "connect" connect: Option<Connected<'a>> => Reply::Connect;
        6 "subscribe" subscribe: Option<Subscription<'a>> => Reply::Subscribe;
        7 "unsubscribe" unsubscribe: Option<Nothing> => |_| Reply::Unsubscribe;
        8 "publish" publish: Option<Nothing> => |_| Reply::Publish;
        9 "presence" presence: Option<PresenceParts<'a>> => |members| Reply::Presence(members.presence);
        10 "presence_stats" presence_stats: Option<PresenceStats> => Reply::PresenceStats;
        11 "history" history: Option<Messages<'a>> => Reply::History;
        12 "ping" ping: Option<Nothing> => |_| Reply::Ping;
        13 "rpc" rpc: Option<OnlyData<'a>> => |result| Reply::Rpc(result.data);
        14 "refresh" refresh: Option<Refreshed> => |refreshed| Reply::Refresh(refreshed.into());
        15 "sub_refresh" sub_refresh: Option<Lifetime> => Reply::SubRefresh;
    }
}

envelope! {
    /// The parts of a push.
    pub(crate) struct PushParts<'a> -> PushEvent<'a> {
        2 "channel" channel: Cow<'a, str>;
        4 "pub" publication: Option<Publication<'a>> => PushEvent::Publication;
        5 "join" join: Option<PresenceInfo<'a>> => |join| PushEvent::Join(join.info.unwrap_or_default());
        6 "leave" leave: Option<PresenceInfo<'a>> => |leave| PushEvent::Leave(leave.info.unwrap_or_default());
        7 "unsubscribe" unsubscribe: Option<Ended<'a>> => PushEvent::Unsubscribe;
        8 "message" message: Option<OnlyData<'a>> => |message| PushEvent::Message(message.data);
        9 "subscribe" subscribe: Option<Begun<'a>> => |begun| PushEvent::Subscribe(begun.into());
        10 "connect" connect: Option<Connected<'a>> => PushEvent::Connect;
        11 "disconnect" disconnect: Option<Closed<'a>> => PushEvent::Disconnect;
        12 "refresh" refresh: Option<Lifetime> => PushEvent::Refresh;
    }
}

envelope! {
    pub(crate) struct PresenceParts<'a> {
        1 "presence".required presence: BTreeMap<Cow<'a, str>, Info<'a>>;
    }
}

impl<'a> Parts<'a> {
    fn received(self) -> ServerMessage<'a> {
        let id = self.id;
        if id == 0 {
            return match (self.push, self.error) {
                (Some(mut push), _) => {
                    let channel = std::mem::take(&mut push.channel);
                    ServerMessage::Push(Push { channel, event: push.content().unwrap_or(PushEvent::Unknown) })
                }
                (None, Some(error)) => ServerMessage::Reply(0, Reply::Error(error)),
                (None, None) => ServerMessage::Ping,
            };
        }
        self.content().map_or(ServerMessage::Unknown, |reply| ServerMessage::Reply(id, reply))
    }
}
