//! Replies and pushes, as a client reads them from a frame.
//!
//! Never: copies a payload; allocates more than a multiple of the frame's length.

mod protobuf;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use crate::centrifuge::command::{OnlyData, data, first_line, object, or_default, text};
use crate::centrifuge::fields::Nothing;
use crate::centrifuge::protobuf::delimited;
use crate::centrifuge::{Encoding, Malformed};

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
    PresenceStats(Stats),
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
    Disconnect(Ended<'a>),
    /// The connection expires at another time.
    Refresh(Lifetime),
    /// A push of a kind that is not known here.
    Unknown,
}

/// Why a command failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Failure<'a> {
    /// The code.
    #[serde(deserialize_with = "or_default")]
    pub code: u32,
    /// The explanation, for people.
    #[serde(borrow, deserialize_with = "text")]
    pub message: Cow<'a, str>,
    /// The same command may succeed later.
    #[serde(deserialize_with = "or_default")]
    pub temporary: bool,
}

/// A client as others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Info<'a> {
    /// The user; empty for an anonymous one.
    #[serde(borrow, deserialize_with = "text")]
    pub user: Cow<'a, str>,
    /// The connection.
    #[serde(borrow, deserialize_with = "text")]
    pub client: Cow<'a, str>,
}

/// A published message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Publication<'a> {
    /// The data: a JSON value in JSON, any bytes in protobuf.
    #[serde(borrow, deserialize_with = "data")]
    pub data: &'a [u8],
    /// The position in the channel; 0 for none.
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// The data is a [delta](crate::centrifuge::delta) from the previous publication.
    #[serde(deserialize_with = "or_default")]
    pub delta: bool,
    /// The key whose latest state it is; empty for none.
    #[serde(borrow, deserialize_with = "text")]
    pub key: Cow<'a, str>,
}

/// How long a token is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Lifetime {
    #[serde(deserialize_with = "or_default")]
    expires: bool,
    #[serde(deserialize_with = "or_default")]
    ttl: u32,
}

impl Lifetime {
    /// Seconds until it expires, if it does.
    pub fn expires_in_s(self) -> Option<u32> {
        self.expires.then_some(self.ttl)
    }
}

/// The session has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Connected<'a> {
    /// The id of the connection.
    #[serde(borrow, deserialize_with = "text")]
    pub client: Cow<'a, str>,
    #[serde(deserialize_with = "or_default")]
    expires: bool,
    #[serde(deserialize_with = "or_default")]
    ttl: u32,
    /// The server-side subscriptions by channel.
    #[serde(borrow, rename = "subs", deserialize_with = "or_default")]
    pub subscriptions: BTreeMap<Cow<'a, str>, Subscription<'a>>,
    /// Seconds between pings of the server; 0 if it sends none.
    #[serde(deserialize_with = "or_default")]
    pub ping: u32,
    /// Whether the client answers pings.
    #[serde(deserialize_with = "or_default")]
    pub pong: bool,
}

impl Connected<'_> {
    /// Seconds until the connection expires, if it does.
    pub fn expires_in_s(&self) -> Option<u32> {
        self.expires.then_some(self.ttl)
    }
}

/// The beginning of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Subscription<'a> {
    #[serde(deserialize_with = "or_default")]
    expires: bool,
    #[serde(deserialize_with = "or_default")]
    ttl: u32,
    /// The client may recover from its position later.
    #[serde(deserialize_with = "or_default")]
    pub recoverable: bool,
    /// The epoch of the channel.
    #[serde(borrow, deserialize_with = "text")]
    pub epoch: Cow<'a, str>,
    /// The publications that were recovered, oldest first.
    #[serde(borrow, deserialize_with = "or_default")]
    pub publications: Vec<Publication<'a>>,
    /// The publications are all that the client missed.
    #[serde(deserialize_with = "or_default")]
    pub recovered: bool,
    /// The position of the latest publication in the channel.
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// The server checks the client's position.
    #[serde(deserialize_with = "or_default")]
    pub positioned: bool,
    /// The client asked to recover.
    #[serde(deserialize_with = "or_default")]
    pub was_recovering: bool,
    /// Publications use delta compression.
    #[serde(deserialize_with = "or_default")]
    pub delta: bool,
}

impl Subscription<'_> {
    /// Seconds until the subscription expires, if it does.
    pub fn expires_in_s(&self) -> Option<u32> {
        self.expires.then_some(self.ttl)
    }
}

/// Messages of a channel's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Messages<'a> {
    /// The publications, in the requested order.
    #[serde(borrow, deserialize_with = "or_default")]
    pub publications: Vec<Publication<'a>>,
    /// The epoch of the channel.
    #[serde(borrow, deserialize_with = "text")]
    pub epoch: Cow<'a, str>,
    /// The position of the latest publication in the channel.
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
}

/// How many there are in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Connections.
    #[serde(rename = "num_clients", deserialize_with = "or_default")]
    pub clients: u32,
    /// Distinct users.
    #[serde(rename = "num_users", deserialize_with = "or_default")]
    pub users: u32,
}

/// Why a subscription or a connection ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ended<'a> {
    /// The code.
    #[serde(deserialize_with = "or_default")]
    pub code: u32,
    /// The explanation, for people.
    #[serde(borrow, deserialize_with = "text")]
    pub reason: Cow<'a, str>,
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
                protobuf::parts(message)
            }),
        };
        if read.is_err() {
            self.rest = &[];
        }
        Some(read.map(Parts::received))
    }
}

impl std::iter::FusedIterator for Frame<'_> {}

/// A message as both encodings have it: the first field that is present counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parts<'a> {
    #[serde(deserialize_with = "or_default")]
    id: u32,
    #[serde(borrow, deserialize_with = "object")]
    error: Option<Failure<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    push: Option<PushParts<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    connect: Option<Connected<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    subscribe: Option<Subscription<'a>>,
    #[serde(deserialize_with = "object")]
    unsubscribe: Option<Nothing>,
    #[serde(deserialize_with = "object")]
    publish: Option<Nothing>,
    #[serde(borrow, deserialize_with = "object")]
    presence: Option<PresenceParts<'a>>,
    #[serde(deserialize_with = "object")]
    presence_stats: Option<Stats>,
    #[serde(borrow, deserialize_with = "object")]
    history: Option<Messages<'a>>,
    #[serde(deserialize_with = "object")]
    ping: Option<Nothing>,
    #[serde(borrow, deserialize_with = "object")]
    rpc: Option<OnlyData<'a>>,
    #[serde(deserialize_with = "object")]
    refresh: Option<Lifetime>,
    #[serde(deserialize_with = "object")]
    sub_refresh: Option<Lifetime>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PushParts<'a> {
    #[serde(borrow, deserialize_with = "text")]
    channel: Cow<'a, str>,
    #[serde(borrow, rename = "pub", deserialize_with = "object")]
    publication: Option<Publication<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    join: Option<InfoParts<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    leave: Option<InfoParts<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    unsubscribe: Option<Ended<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    message: Option<OnlyData<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    subscribe: Option<Subscription<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    connect: Option<Connected<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    disconnect: Option<Ended<'a>>,
    #[serde(deserialize_with = "object")]
    refresh: Option<Lifetime>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InfoParts<'a> {
    #[serde(borrow, deserialize_with = "or_default")]
    info: Info<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PresenceParts<'a> {
    #[serde(borrow, deserialize_with = "or_default")]
    presence: BTreeMap<Cow<'a, str>, Info<'a>>,
}

impl<'a> Parts<'a> {
    fn received(self) -> ServerMessage<'a> {
        let Parts { id, .. } = self;
        if id == 0 {
            return match (self.push, self.error) {
                (Some(push), _) => ServerMessage::Push(push.push()),
                (None, Some(error)) => ServerMessage::Reply(0, Reply::Error(error)),
                (None, None) => ServerMessage::Ping,
            };
        }
        let reply = None
            .or(self.error.map(Reply::Error))
            .or(self.connect.map(Reply::Connect))
            .or(self.subscribe.map(Reply::Subscribe))
            .or(self.unsubscribe.map(|_| Reply::Unsubscribe))
            .or(self.publish.map(|_| Reply::Publish))
            .or(self.presence.map(|presence| Reply::Presence(presence.presence)))
            .or(self.presence_stats.map(Reply::PresenceStats))
            .or(self.history.map(Reply::History))
            .or(self.ping.map(|_| Reply::Ping))
            .or(self.rpc.map(|rpc| Reply::Rpc(rpc.data)))
            .or(self.refresh.map(Reply::Refresh))
            .or(self.sub_refresh.map(Reply::SubRefresh));
        reply.map_or(ServerMessage::Unknown, |reply| ServerMessage::Reply(id, reply))
    }
}

impl<'a> PushParts<'a> {
    fn push(self) -> Push<'a> {
        let event = None
            .or(self.publication.map(PushEvent::Publication))
            .or(self.join.map(|join| PushEvent::Join(join.info)))
            .or(self.leave.map(|leave| PushEvent::Leave(leave.info)))
            .or(self.unsubscribe.map(PushEvent::Unsubscribe))
            .or(self.message.map(|message| PushEvent::Message(message.data)))
            .or(self.subscribe.map(PushEvent::Subscribe))
            .or(self.connect.map(PushEvent::Connect))
            .or(self.disconnect.map(PushEvent::Disconnect))
            .or(self.refresh.map(PushEvent::Refresh));
        Push { channel: self.channel, event: event.unwrap_or(PushEvent::Unknown) }
    }
}
