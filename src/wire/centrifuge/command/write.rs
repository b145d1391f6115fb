//! Writes commands, as a client sends them.

use super::{Command, Connect, History, Position, Publish, Request, Rpc, SubRefresh, Subscribe};
use crate::centrifuge::fields::{Empty, Field, Message, Writer};
use crate::centrifuge::frame::append;
use crate::centrifuge::{Encoding, Payload};

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
        to.number(Field::new(1, "id"), u64::from(self.id));
        match &self.request {
            Request::Connect(connect) => to.message(Field::new(4, "connect"), connect),
            Request::Subscribe(subscribe) => to.message(Field::new(5, "subscribe"), subscribe),
            Request::Unsubscribe { channel } => to.message(Field::new(6, "unsubscribe"), &Channel(channel)),
            Request::Publish(publish) => to.message(Field::new(7, "publish"), publish),
            Request::Presence { channel } => to.message(Field::new(8, "presence"), &Channel(channel)),
            Request::PresenceStats { channel } => {
                to.message(Field::new(9, "presence_stats"), &Channel(channel));
            }
            Request::History(history) => to.message(Field::new(10, "history"), history),
            Request::Ping => to.message(Field::new(11, "ping"), &Empty),
            Request::Send { data } => to.message(Field::new(12, "send"), &Data(data)),
            Request::Rpc(rpc) => to.message(Field::new(13, "rpc"), rpc),
            Request::Refresh { token } => to.message(Field::new(14, "refresh"), &Token(token)),
            Request::SubRefresh(refresh) => to.message(Field::new(15, "sub_refresh"), refresh),
            Request::Pong | Request::Unknown => {}
        }
    }
}

/// Data that is absent if it is empty.
fn data(to: &mut impl Writer, field: Field, data: &[u8]) {
    to.data(field, (!data.is_empty()).then_some(Payload::Json(data)));
}

impl Message for Connect<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "token"), &self.token);
        data(to, Field::new(2, "data"), self.data);
        let subscriptions =
            self.subscriptions.iter().map(|subscribe| (&*subscribe.channel, Entry(subscribe)));
        to.map(Field::new(3, "subs"), subscriptions);
        to.text(Field::new(4, "name"), &self.name);
        to.text(Field::new(5, "version"), &self.version);
    }
}

impl Message for Subscribe<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "channel"), &self.channel);
        Entry(self).write(to);
    }
}

/// A subscription without its channel, which is the key of the map that it is an entry of.
struct Entry<'a>(&'a Subscribe<'a>);

impl Message for Entry<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        let Entry(subscribe) = self;
        to.text(Field::new(2, "token"), &subscribe.token);
        to.flag(Field::new(3, "recover"), subscribe.recover);
        to.text(Field::new(6, "epoch"), &subscribe.epoch);
        to.number(Field::new(7, "offset"), subscribe.offset);
        data(to, Field::new(8, "data"), subscribe.data);
        to.flag(Field::new(9, "positioned"), subscribe.positioned);
        to.flag(Field::new(10, "recoverable"), subscribe.recoverable);
        to.flag(Field::new(11, "join_leave"), subscribe.join_leave);
        to.text(Field::new(12, "delta"), &subscribe.delta);
        if subscribe.has_tags_filter {
            to.message(Field::new(13, "tf"), &Empty);
        }
        to.integer(Field::new(14, "flag"), subscribe.flags);
        to.integer(Field::new(15, "type"), i64::from(subscribe.kind));
    }
}

impl Message for Publish<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "channel"), &self.channel);
        data(to, Field::new(2, "data"), self.data);
        to.integer(Field::new(3, "type"), i64::from(self.kind));
        to.text(Field::new(4, "key"), &self.key);
        to.flag(Field::new(5, "removed"), self.removed);
    }
}

impl Message for History<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "channel"), &self.channel);
        to.integer(Field::new(7, "limit"), i64::from(self.limit));
        if let Some(since) = &self.since {
            to.message(Field::new(8, "since"), since);
        }
        to.flag(Field::new(9, "reverse"), self.reverse);
    }
}

impl Message for Position<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.number(Field::new(1, "offset"), self.offset);
        to.text(Field::new(2, "epoch"), &self.epoch);
    }
}

impl Message for Rpc<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        data(to, Field::new(1, "data"), self.data);
        to.text(Field::new(2, "method"), &self.method);
    }
}

impl Message for SubRefresh<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "channel"), &self.channel);
        to.text(Field::new(2, "token"), &self.token);
        to.integer(Field::new(3, "type"), i64::from(self.kind));
    }
}

struct Channel<'a>(&'a str);

impl Message for Channel<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "channel"), self.0);
    }
}

struct Token<'a>(&'a str);

impl Message for Token<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "token"), self.0);
    }
}

struct Data<'a>(&'a [u8]);

impl Message for Data<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        data(to, Field::new(1, "data"), self.0);
    }
}
