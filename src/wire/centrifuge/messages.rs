//! The content of replies and pushes, with the numbers and names of its fields. A field that is empty, zero or false is
//! left out in both encodings, except where JSON clients need it.

use crate::centrifuge::fields::{Field, Message, Writer};
use crate::centrifuge::{Body, Payload, Texts};

/// A client as others see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo<'a> {
    /// The user; empty for an anonymous one.
    pub user: &'a str,
    /// The connection.
    pub client: &'a str,
    /// The application's data about the connection.
    pub connection: Option<Payload<'a>>,
    /// The application's data about the connection in this channel.
    pub channel: Option<Payload<'a>>,
}

/// A published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// The data.
    pub body: Body<'a>,
    /// The position in the channel; 0 for none.
    pub offset: u64,
    /// The publisher, if it is known and clients may see it.
    pub info: Option<ClientInfo<'a>>,
    /// The key whose latest state it is; empty for none.
    pub key: &'a str,
    /// Its tags.
    pub tags: Texts<'a>,
}

/// The result of a connect command, and the content of a connect push.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectResult<'a> {
    /// The id of the connection, unique among all.
    pub client: &'a str,
    /// The version of the server.
    pub version: &'a str,
    /// Seconds until the connection expires, if it does.
    pub expires_in_s: Option<u32>,
    /// Data for the application.
    pub data: Option<Payload<'a>>,
    /// The server-side subscriptions by channel.
    pub subscriptions: &'a [(&'a str, SubscribeResult<'a>)],
    /// Seconds between pings of the server; 0 if it sends none.
    pub ping_s: u32,
    /// Whether the client answers pings.
    pub pong: bool,
    /// The id of the session; empty for none. Only transports other than WebSocket need it.
    pub session: &'a str,
    /// The id of the node; empty for none.
    pub node: &'a str,
    /// The server's time in milliseconds since 1970; 0 to keep silent.
    pub time_ms: u64,
}

/// The result of a refresh command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefreshResult<'a> {
    /// The id of the connection.
    pub client: &'a str,
    /// The version of the server.
    pub version: &'a str,
    /// Seconds until the connection expires, if it does.
    pub expires_in_s: Option<u32>,
}

/// The result of a subscribe command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeResult<'a> {
    /// Seconds until the subscription expires, if it does.
    pub expires_in_s: Option<u32>,
    /// Whether the client may recover from its position later.
    pub recoverable: bool,
    /// The epoch of the channel.
    pub epoch: &'a str,
    /// The publications that were recovered, oldest first.
    pub publications: &'a [Publication<'a>],
    /// Whether the publications are all that the client missed.
    pub recovered: bool,
    /// The position of the latest publication in the channel.
    pub offset: u64,
    /// Whether the server checks the client's position.
    pub positioned: bool,
    /// Data for the application.
    pub data: Option<Payload<'a>>,
    /// Whether the client asked to recover.
    pub was_recovering: bool,
    /// Whether publications of this subscription use delta compression: all of them are [`Body::Whole`] or
    /// [`Body::Delta`].
    pub delta: bool,
}

/// The content of a subscribe push: a new server-side subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscribed<'a> {
    /// Whether the client may recover from its position later.
    pub recoverable: bool,
    /// The epoch of the channel.
    pub epoch: &'a str,
    /// The position of the latest publication in the channel.
    pub offset: u64,
    /// Whether the server checks the client's position.
    pub positioned: bool,
    /// Data for the application.
    pub data: Option<Payload<'a>>,
}

/// A connection in a channel, by its id.
pub type Member<'a> = (&'a str, ClientInfo<'a>);

/// How many there are in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceStats {
    /// Connections.
    pub clients: u32,
    /// Distinct users.
    pub users: u32,
}

/// The result of a history command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryResult<'a> {
    /// The requested publications, in the requested order.
    pub publications: &'a [Publication<'a>],
    /// The epoch of the channel.
    pub epoch: &'a str,
    /// The position of the latest publication in the channel.
    pub offset: u64,
}

impl Message for ClientInfo<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::required(1, "user"), self.user);
        to.text(Field::required(2, "client"), self.client);
        to.data(Field::new(3, "conn_info"), self.connection);
        to.data(Field::new(4, "chan_info"), self.channel);
    }
}

impl Message for Publication<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.body(Field::new(4, "data"), self.body);
        if let Some(info) = &self.info {
            to.message(Field::new(5, "info"), info);
        }
        to.number(Field::new(6, "offset"), self.offset);
        to.texts(Field::new(7, "tags"), self.tags.iter());
        to.flag(Field::new(8, "delta"), self.body.is_delta());
        to.text(Field::new(11, "key"), self.key);
    }
}

impl Message for ConnectResult<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "client"), self.client);
        to.text(Field::new(2, "version"), self.version);
        to.lifetime([Field::new(3, "expires"), Field::new(4, "ttl")], self.expires_in_s);
        to.data(Field::new(5, "data"), self.data);
        to.map(Field::new(6, "subs"), self.subscriptions.iter().map(|(channel, result)| (*channel, result)));
        to.number(Field::new(7, "ping"), u64::from(self.ping_s));
        to.flag(Field::new(8, "pong"), self.pong);
        to.text(Field::new(9, "session"), self.session);
        to.text(Field::new(10, "node"), self.node);
        to.number(Field::new(11, "time"), self.time_ms);
    }
}

impl Message for RefreshResult<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "client"), self.client);
        to.text(Field::new(2, "version"), self.version);
        to.lifetime([Field::new(3, "expires"), Field::new(4, "ttl")], self.expires_in_s);
    }
}

impl Message for SubscribeResult<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.lifetime([Field::new(1, "expires"), Field::new(2, "ttl")], self.expires_in_s);
        to.flag(Field::new(3, "recoverable"), self.recoverable);
        to.text(Field::new(6, "epoch"), self.epoch);
        to.list(Field::new(7, "publications"), self.publications.iter());
        to.flag(Field::new(8, "recovered"), self.recovered);
        to.number(Field::new(9, "offset"), self.offset);
        to.flag(Field::new(10, "positioned"), self.positioned);
        to.data(Field::new(11, "data"), self.data);
        to.flag(Field::new(12, "was_recovering"), self.was_recovering);
        to.flag(Field::new(13, "delta"), self.delta);
    }
}

impl Message for Subscribed<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.flag(Field::new(1, "recoverable"), self.recoverable);
        to.text(Field::new(4, "epoch"), self.epoch);
        to.number(Field::new(5, "offset"), self.offset);
        to.flag(Field::new(6, "positioned"), self.positioned);
        to.data(Field::new(7, "data"), self.data);
    }
}

impl Message for PresenceStats {
    fn write<W: Writer>(&self, to: &mut W) {
        to.number(Field::required(1, "num_clients"), u64::from(self.clients));
        to.number(Field::required(2, "num_users"), u64::from(self.users));
    }
}

impl Message for HistoryResult<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.list(Field::required(1, "publications"), self.publications.iter());
        to.text(Field::required(2, "epoch"), self.epoch);
        to.number(Field::required(3, "offset"), self.offset);
    }
}

/// Messages that have only data: calls and messages of the application.
pub(crate) struct OnlyData<'a>(pub(crate) Option<Payload<'a>>);

impl Message for OnlyData<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.data(Field::new(1, "data"), self.0);
    }
}

/// Until when a token is valid, in seconds.
pub(crate) struct Lifetime(pub(crate) Option<u32>);

impl Message for Lifetime {
    fn write<W: Writer>(&self, to: &mut W) {
        to.lifetime([Field::new(1, "expires"), Field::new(2, "ttl")], self.0);
    }
}
