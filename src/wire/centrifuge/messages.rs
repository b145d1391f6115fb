//! The content of replies and pushes: what a server writes, and what a client reads of it. A field that is empty, zero or false
//! is left out in both encodings, except where JSON clients need it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::Deserializer;

use crate::centrifuge::fields::{Read, answer, message, or_default};
use crate::centrifuge::protobuf::{Outcome, Value};
use crate::centrifuge::{Body, Disconnect, Payload, Texts};

answer! {
    /// An error in a reply. Applications may use codes from 400 to 1999 of their own.
    pub sent Error<'a>;
    /// Why a command failed.
    pub received Failure<'a>;

    /// The code, for programs.
    1 "code" code: u32 => pub code: u32;
    /// The description, for people.
    2 "message" message: &'a str => pub message: Cow<'a, str>;
    /// Whether the client may try again.
    3 "temporary" temporary: bool => pub temporary: bool;
}

answer! {
    /// A client as others see it.
    #[derive(Default)]
    pub sent ClientInfo<'a>;
    /// A client as others see it.
    pub received Info<'a>;

    /// The user; empty for an anonymous one.
    1 "user".required user: &'a str => pub user: Cow<'a, str>;
    /// The connection.
    2 "client".required client: &'a str => pub client: Cow<'a, str>;
    /// The application's data about the connection.
    3 "conn_info" connection: Option<Payload<'a>>;
    /// The application's data about the connection in this channel.
    4 "chan_info" channel: Option<Payload<'a>>;
}

answer! {
    /// A join or a leave.
    pub(crate) sent Presence<'a>;
    pub(crate) received PresenceInfo<'a>;

    /// The client.
    1 "info" info: Option<ClientInfo<'a>> => pub(crate) info: Option<Info<'a>>;
}

answer! {
    /// A published message.
    pub sent Publication<'a>;
    /// A published message.
    pub received Published<'a>;

    /// The data. A client receives a JSON value in JSON, any bytes in protobuf.
    4 "data" body: Body<'a> => pub data: &'a [u8];
    /// The publisher, if it is known and clients may see it.
    5 "info" info: Option<ClientInfo<'a>>;
    /// The position in the channel; 0 for none.
    6 "offset" offset: u64 => pub offset: u64;
    /// Its tags.
    7 "tags" tags: Texts<'a>;
    /// The data is a [delta](crate::centrifuge::delta) from the previous publication.
    8 "delta" = |sent| sent.body.is_delta() => pub delta: bool;
    /// The key whose latest state it is; empty for none.
    11 "key" key: &'a str => pub key: Cow<'a, str>;
}

impl<'a, 'de: 'a> Read<'de> for Vec<Published<'a>> {
    fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        or_default(json)
    }

    fn read(&mut self, value: Value<'de>) -> Outcome {
        let mut publication = Published::default();
        publication.read(value)?;
        self.push(publication);
        Ok(())
    }
}

answer! {
    /// The result of a connect command, and the content of a connect push.
    #[derive(Default)]
    pub sent ConnectResult<'a>;
    /// The session has begun.
    pub received Connected<'a>;

    /// The id of the connection, unique among all.
    1 "client" client: &'a str => pub client: Cow<'a, str>;
    /// The version of the server.
    2 "version" version: &'a str;
    /// Seconds until the connection expires, if it does.
    3 "expires" expires_in_s: Option<u32> => expires: bool;
    /// Those seconds.
    4 "ttl" = |sent| sent.expires_in_s.unwrap_or_default() => ttl: u32;
    /// Data for the application.
    5 "data" data: Option<Payload<'a>>;
    /// The server-side subscriptions by channel.
    6 "subs" subscriptions: &'a [(&'a str, SubscribeResult<'a>)]
        => pub subscriptions: BTreeMap<Cow<'a, str>, Subscription<'a>>;
    /// Seconds between pings of the server; 0 if it sends none.
    7 "ping" ping_s: u32 => pub ping: u32;
    /// Whether the client answers pings.
    8 "pong" pong: bool => pub pong: bool;
    /// The id of the session; empty for none. Only transports other than WebSocket need it.
    9 "session" session: &'a str;
    /// The id of the node; empty for none.
    10 "node" node: &'a str;
    /// The server's time in milliseconds since 1970; 0 to keep silent.
    11 "time" time_ms: u64;
}

answer! {
    /// The result of a refresh command.
    #[derive(Default)]
    pub sent RefreshResult<'a>;
    #[derive(Copy)]
    pub(crate) received Refreshed;

    /// The id of the connection.
    1 "client" client: &'a str;
    /// The version of the server.
    2 "version" version: &'a str;
    /// Seconds until the connection expires, if it does.
    3 "expires" expires_in_s: Option<u32> => expires: bool;
    /// Those seconds.
    4 "ttl" = |sent| sent.expires_in_s.unwrap_or_default() => ttl: u32;
}

answer! {
    /// How long a token is valid.
    pub(crate) sent Expiry;
    /// How long a token is valid.
    #[derive(Copy)]
    pub received Lifetime;

    /// Seconds until it expires, if it does.
    1 "expires" expires_in_s: Option<u32> => expires: bool;
    /// Those seconds.
    2 "ttl" = |sent| sent.expires_in_s.unwrap_or_default() => ttl: u32;
}

impl From<Refreshed> for Lifetime {
    fn from(Refreshed { expires, ttl }: Refreshed) -> Lifetime {
        Lifetime { expires, ttl }
    }
}

answer! {
    /// The result of a subscribe command.
    #[derive(Default)]
    pub sent SubscribeResult<'a>;
    /// The beginning of a subscription.
    pub received Subscription<'a>;

    /// Seconds until the subscription expires, if it does.
    1 "expires" expires_in_s: Option<u32> => expires: bool;
    /// Those seconds.
    2 "ttl" = |sent| sent.expires_in_s.unwrap_or_default() => ttl: u32;
    /// Whether the client may recover from its position later.
    3 "recoverable" recoverable: bool => pub recoverable: bool;
    /// The epoch of the channel.
    6 "epoch" epoch: &'a str => pub epoch: Cow<'a, str>;
    /// The publications that were recovered, oldest first.
    7 "publications" publications: &'a [Publication<'a>] => pub publications: Vec<Published<'a>>;
    /// Whether the publications are all that the client missed.
    8 "recovered" recovered: bool => pub recovered: bool;
    /// The position of the latest publication in the channel.
    9 "offset" offset: u64 => pub offset: u64;
    /// Whether the server checks the client's position.
    10 "positioned" positioned: bool => pub positioned: bool;
    /// Data for the application.
    11 "data" data: Option<Payload<'a>>;
    /// Whether the client asked to recover.
    12 "was_recovering" was_recovering: bool => pub was_recovering: bool;
    /// Whether publications use delta compression: all that a server sends are [`Body::Whole`] or [`Body::Delta`].
    13 "delta" delta: bool => pub delta: bool;
}

answer! {
    /// The content of a subscribe push: a new server-side subscription.
    #[derive(Default)]
    pub sent Subscribed<'a>;
    pub(crate) received Begun<'a>;

    /// Whether the client may recover from its position later.
    1 "recoverable" recoverable: bool => recoverable: bool;
    /// The epoch of the channel.
    4 "epoch" epoch: &'a str => epoch: Cow<'a, str>;
    /// The position of the latest publication in the channel.
    5 "offset" offset: u64 => offset: u64;
    /// Whether the server checks the client's position.
    6 "positioned" positioned: bool => positioned: bool;
    /// Data for the application.
    7 "data" data: Option<Payload<'a>>;
}

impl<'a> From<Begun<'a>> for Subscription<'a> {
    fn from(Begun { recoverable, epoch, offset, positioned }: Begun<'a>) -> Subscription<'a> {
        Subscription { recoverable, epoch, offset, positioned, ..Subscription::default() }
    }
}

macro_rules! expiring {
    ($($message:ty)*) => {
        $(impl $message {
            /// Seconds until it expires, if it does.
            pub fn expires_in_s(&self) -> Option<u32> {
                self.expires.then_some(self.ttl)
            }
        })*
    };
}

expiring!(Connected<'_> Lifetime Subscription<'_>);

answer! {
    /// The content of an unsubscribe push.
    pub(crate) sent Unsubscribed<'a>;
    /// Why a subscription ends.
    pub received Ended<'a>;

    /// The code.
    2 "code" code: u32 => pub code: u32;
    /// The explanation, for people.
    3 "reason" reason: &'a str => pub reason: Cow<'a, str>;
}

answer! {
    /// The content of a disconnect push.
    pub(crate) sent Disconnected<'a>;
    /// Why a connection ends.
    pub received Closed<'a>;

    /// The code.
    1 "code" code: u16 => pub code: u32;
    /// The explanation, for people.
    2 "reason" reason: &'a str => pub reason: Cow<'a, str>;
    /// Whether the client reconnects.
    3 "reconnect" = |sent| Disconnect::reconnects_after(sent.code);
}

/// A connection in a channel, by its id.
pub type Member<'a> = (&'a str, ClientInfo<'a>);

message! {
    /// How many there are in a channel.
    #[derive(Copy)]
    pub struct PresenceStats {
        /// Connections.
        1 "num_clients".required clients: u32;
        /// Distinct users.
        2 "num_users".required users: u32;
    }
}

answer! {
    /// The result of a history command.
    #[derive(Default)]
    pub sent HistoryResult<'a>;
    /// Messages of a channel's history.
    pub received Messages<'a>;

    /// The requested publications, in the requested order.
    1 "publications".required publications: &'a [Publication<'a>] => pub publications: Vec<Published<'a>>;
    /// The epoch of the channel.
    2 "epoch".required epoch: &'a str => pub epoch: Cow<'a, str>;
    /// The position of the latest publication in the channel.
    3 "offset".required offset: u64 => pub offset: u64;
}

answer! {
    /// A message with data alone: a call or a message of the application.
    pub(crate) sent Data<'a>;
    pub(crate) received OnlyData<'a>;

    /// The data.
    1 "data" data: Option<Payload<'a>> => pub(crate) data: &'a [u8];
}
