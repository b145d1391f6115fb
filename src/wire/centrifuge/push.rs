//! Pushes, which the server sends without a request: each push is appended to `out`, which holds the content of one frame. A frame may have
//! many pushes and [replies](crate::centrifuge::reply).
//!
//! A push depends on nothing but its arguments, so one encoding of a publication serves all subscribers of its channel.

use crate::centrifuge::fields::{Field, Message, Nothing, Write, Writer};
use crate::centrifuge::frame::append;
use crate::centrifuge::messages::{Data, Disconnected, Expiry, Presence, Unsubscribed};
use crate::centrifuge::received::{Parts, PushParts};
use crate::centrifuge::reply::Reply;
use crate::centrifuge::{
    ClientInfo, ConnectResult, Encoding, Payload, Publication, Subscribed, UnsubscribeCode,
};

/// A ping to the client: the empty reply. The client answers with [`Pong`](crate::centrifuge::Request::Pong).
pub fn ping(encoding: Encoding, out: &mut Vec<u8>) {
    append(encoding, out, &Nothing {});
}

/// A message was published to a channel.
pub fn publication(encoding: Encoding, out: &mut Vec<u8>, channel: &str, publication: &Publication<'_>) {
    push(encoding, out, channel, PushParts::publication, publication);
}

/// A client subscribed to a channel.
pub fn join(encoding: Encoding, out: &mut Vec<u8>, channel: &str, info: &ClientInfo<'_>) {
    push(encoding, out, channel, PushParts::join, &Presence { info: Some(*info) });
}

/// A client no longer subscribes to a channel.
pub fn leave(encoding: Encoding, out: &mut Vec<u8>, channel: &str, info: &ClientInfo<'_>) {
    push(encoding, out, channel, PushParts::leave, &Presence { info: Some(*info) });
}

/// The server ended the client's subscription to a channel.
pub fn unsubscribe(encoding: Encoding, out: &mut Vec<u8>, channel: &str, code: UnsubscribeCode) {
    let content = Unsubscribed { code: code.code(), reason: code.reason() };
    push(encoding, out, channel, PushParts::unsubscribe, &content);
}

/// A message of the server's application, without a channel.
pub fn message(encoding: Encoding, out: &mut Vec<u8>, data: Payload<'_>) {
    push(encoding, out, "", PushParts::message, &Data { data: Some(data) });
}

/// The server subscribed the client to a channel.
pub fn subscribe(encoding: Encoding, out: &mut Vec<u8>, channel: &str, subscribed: &Subscribed<'_>) {
    push(encoding, out, channel, PushParts::subscribe, subscribed);
}

/// The session has begun, on a transport that has no commands.
pub fn connect(encoding: Encoding, out: &mut Vec<u8>, result: &ConnectResult<'_>) {
    push(encoding, out, "", PushParts::connect, result);
}

/// The connection ends with this [code](crate::centrifuge::Disconnect) and reason. On WebSockets, the close frame says so itself.
pub fn disconnect(encoding: Encoding, out: &mut Vec<u8>, code: u16, reason: &str) {
    push(encoding, out, "", PushParts::disconnect, &Disconnected { code, reason });
}

/// The connection expires after this number of seconds, or no longer expires.
pub fn refresh(encoding: Encoding, out: &mut Vec<u8>, expires_in_s: Option<u32>) {
    push(encoding, out, "", PushParts::refresh, &Expiry { expires_in_s });
}

fn push(encoding: Encoding, out: &mut Vec<u8>, channel: &str, field: Field, content: &impl Message) {
    let result = &Push { channel, field, content };
    if encoding.is_unidirectional() {
        return append(encoding, out, result);
    }
    append(encoding, out, &Reply { id: 0, field: Parts::push, result });
}

struct Push<'a, M> {
    channel: &'a str,
    field: Field,
    content: &'a M,
}

impl<M: Message> Message for Push<'_, M> {
    fn write<W: Writer>(&self, to: &mut W) {
        self.channel.put(to, PushParts::channel);
        to.message(self.field, self.content);
    }
}
