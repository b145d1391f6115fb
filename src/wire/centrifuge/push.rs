//! Pushes, which the server sends without a request: each push is appended to `out`, which holds the content of one frame. A frame may have
//! many pushes and [replies](crate::centrifuge::reply).
//!
//! A push depends on nothing but its arguments, so one encoding of a publication serves all subscribers of its channel.

use crate::centrifuge::fields::{Field, Message, Nothing, Writer};
use crate::centrifuge::frame::append;
use crate::centrifuge::messages::{Lifetime, OnlyData};
use crate::centrifuge::reply::Reply;
use crate::centrifuge::{
    ClientInfo, ConnectResult, Disconnect, Encoding, Payload, Publication, Subscribed, UnsubscribeCode,
};

/// A ping to the client: the empty reply. The client answers with [`Pong`](crate::centrifuge::Request::Pong).
pub fn ping(encoding: Encoding, out: &mut Vec<u8>) {
    append(encoding, out, &Nothing {});
}

/// A message was published to a channel.
pub fn publication(encoding: Encoding, out: &mut Vec<u8>, channel: &str, publication: &Publication<'_>) {
    push(encoding, out, channel, Field::new(4, "pub"), publication);
}

/// A client subscribed to a channel.
pub fn join(encoding: Encoding, out: &mut Vec<u8>, channel: &str, info: &ClientInfo<'_>) {
    push(encoding, out, channel, Field::new(5, "join"), &Presence(info));
}

/// A client no longer subscribes to a channel.
pub fn leave(encoding: Encoding, out: &mut Vec<u8>, channel: &str, info: &ClientInfo<'_>) {
    push(encoding, out, channel, Field::new(6, "leave"), &Presence(info));
}

/// The server ended the client's subscription to a channel.
pub fn unsubscribe(encoding: Encoding, out: &mut Vec<u8>, channel: &str, code: UnsubscribeCode) {
    push(encoding, out, channel, Field::new(7, "unsubscribe"), &code);
}

/// A message of the server's application, without a channel.
pub fn message(encoding: Encoding, out: &mut Vec<u8>, data: Payload<'_>) {
    push(encoding, out, "", Field::new(8, "message"), &OnlyData(Some(data)));
}

/// The server subscribed the client to a channel.
pub fn subscribe(encoding: Encoding, out: &mut Vec<u8>, channel: &str, subscribed: &Subscribed<'_>) {
    push(encoding, out, channel, Field::new(9, "subscribe"), subscribed);
}

/// The session has begun, on a transport that has no commands.
pub fn connect(encoding: Encoding, out: &mut Vec<u8>, result: &ConnectResult<'_>) {
    push(encoding, out, "", Field::new(10, "connect"), result);
}

/// The connection ends with this [code](crate::centrifuge::Disconnect) and reason. On WebSockets, the close frame says so itself.
pub fn disconnect(encoding: Encoding, out: &mut Vec<u8>, code: u16, reason: &str) {
    push(encoding, out, "", Field::new(11, "disconnect"), &Disconnected { code, reason });
}

/// The connection expires after this number of seconds, or no longer expires.
pub fn refresh(encoding: Encoding, out: &mut Vec<u8>, expires_in_s: Option<u32>) {
    push(encoding, out, "", Field::new(12, "refresh"), &Lifetime(expires_in_s));
}

fn push(encoding: Encoding, out: &mut Vec<u8>, channel: &str, field: Field, content: &impl Message) {
    let result = &Push { channel, field, content };
    if encoding.is_unidirectional() {
        return append(encoding, out, result);
    }
    append(encoding, out, &Reply { id: 0, field: Field::new(4, "push"), result });
}

struct Push<'a, M> {
    channel: &'a str,
    field: Field,
    content: &'a M,
}

impl<M: Message> Message for Push<'_, M> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.text(Field::new(2, "channel"), self.channel);
        to.message(self.field, self.content);
    }
}

struct Presence<'a>(&'a ClientInfo<'a>);

impl Message for Presence<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.message(Field::new(1, "info"), self.0);
    }
}

impl Message for UnsubscribeCode {
    fn write<W: Writer>(&self, to: &mut W) {
        to.number(Field::new(2, "code"), u64::from(self.code()));
        to.text(Field::new(3, "reason"), self.reason());
    }
}

struct Disconnected<'a> {
    code: u16,
    reason: &'a str,
}

impl Message for Disconnected<'_> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.number(Field::new(1, "code"), u64::from(self.code));
        to.text(Field::new(2, "reason"), self.reason);
        to.flag(Field::new(3, "reconnect"), Disconnect::reconnects_after(self.code));
    }
}
