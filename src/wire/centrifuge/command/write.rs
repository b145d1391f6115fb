//! Writes commands, as a client sends them.

use super::{Command, Connect, History, Position, Publish, Request, Rpc, SubRefresh, Subscribe};
use crate::centrifuge::fields::{Field, Message, Nothing, Writer};
use crate::centrifuge::frame::append;
use crate::centrifuge::messages::OnlyData;
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
            Request::Unsubscribe { channel } => {
                to.message(Field::new(6, "unsubscribe"), &OnlyText("channel", channel))
            }
            Request::Publish(publish) => to.message(Field::new(7, "publish"), publish),
            Request::Presence { channel } => {
                to.message(Field::new(8, "presence"), &OnlyText("channel", channel))
            }
            Request::PresenceStats { channel } => {
                to.message(Field::new(9, "presence_stats"), &OnlyText("channel", channel));
            }
            Request::History(history) => to.message(Field::new(10, "history"), history),
            Request::Ping => to.message(Field::new(11, "ping"), &Nothing {}),
            Request::Send { data } => to.message(Field::new(12, "send"), &OnlyData(payload(data))),
            Request::Rpc(rpc) => to.message(Field::new(13, "rpc"), rpc),
            Request::Refresh { token } => to.message(Field::new(14, "refresh"), &OnlyText("token", token)),
            Request::SubRefresh(refresh) => to.message(Field::new(15, "sub_refresh"), refresh),
            Request::Pong | Request::Unknown => {}
        }
    }
}

/// Data that is absent if it is empty.
fn payload(data: &[u8]) -> Option<Payload<'_>> {
    (!data.is_empty()).then_some(Payload::Json(data))
}

impl Message for Connect<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "token"), &self.token);
        to.data(Field::new(2, "data"), payload(self.data));
        let subscriptions =
            self.subscriptions.iter().map(|subscribe| (&*subscribe.channel, Entry(subscribe)));
        to.map(Field::new(3, "subs"), subscriptions);
        to.text(Field::new(4, "name"), &self.name);
        to.text(Field::new(5, "version"), &self.version);
        to.texts(Field::new(6, "headers"), self.headers.iter().map(|(key, value)| (&**key, &**value)));
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
        to.data(Field::new(8, "data"), payload(subscribe.data));
        to.flag(Field::new(9, "positioned"), subscribe.positioned);
        to.flag(Field::new(10, "recoverable"), subscribe.recoverable);
        to.flag(Field::new(11, "join_leave"), subscribe.join_leave);
        to.text(Field::new(12, "delta"), &subscribe.delta);
        to.data(Field::new(13, "tf"), subscribe.tags_filter.and_then(payload));
        to.integer(Field::new(14, "flag"), subscribe.flags);
        to.integer(Field::new(15, "type"), i64::from(subscribe.kind));
    }
}

impl Message for Publish<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, "channel"), &self.channel);
        to.data(Field::new(2, "data"), payload(self.data));
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
        to.data(Field::new(1, "data"), payload(self.data));
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

/// A message with one string.
struct OnlyText<'a>(&'static str, &'a str);

impl Message for OnlyText<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(1, self.0), self.1);
    }
}
