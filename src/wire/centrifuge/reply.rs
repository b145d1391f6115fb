//! Replies to commands: each is appended to `out`, which holds the content of one frame. A frame may have many replies and
//! [pushes](crate::centrifuge::push). Where there are only pushes, nothing is appended.

use crate::centrifuge::fields::{Field, Message, Nothing, Write, Writer};
use crate::centrifuge::frame::append;
use crate::centrifuge::messages::{Data, Expiry};
use crate::centrifuge::received::{Parts, PresenceParts};
use crate::centrifuge::{
    ConnectResult, Encoding, Error, HistoryResult, Member, Payload, PresenceStats, RefreshResult,
    SubscribeResult, push,
};

/// The command failed.
pub fn error<'a>(encoding: Encoding, out: &mut Vec<u8>, id: u32, error: impl Into<Error<'a>>) {
    reply(encoding, out, id, Parts::error, &error.into());
}

/// The session has begun. Where there are only pushes, it is one.
pub fn connect(encoding: Encoding, out: &mut Vec<u8>, id: u32, result: &ConnectResult<'_>) {
    if encoding.is_unidirectional() {
        return push::connect(encoding, out, result);
    }
    reply(encoding, out, id, Parts::connect, result);
}

/// The client is subscribed.
pub fn subscribe(encoding: Encoding, out: &mut Vec<u8>, id: u32, result: &SubscribeResult<'_>) {
    reply(encoding, out, id, Parts::subscribe, result);
}

/// The client is no longer subscribed.
pub fn unsubscribe(encoding: Encoding, out: &mut Vec<u8>, id: u32) {
    reply(encoding, out, id, Parts::unsubscribe, &Nothing {});
}

/// The publication was accepted.
pub fn publish(encoding: Encoding, out: &mut Vec<u8>, id: u32) {
    reply(encoding, out, id, Parts::publish, &Nothing {});
}

/// Who is subscribed to a channel.
pub fn presence<'a>(
    encoding: Encoding,
    out: &mut Vec<u8>,
    id: u32,
    members: impl Iterator<Item = Member<'a>> + Clone,
) {
    reply(encoding, out, id, Parts::presence, &Members(members));
}

/// How many are subscribed to a channel.
pub fn presence_stats(encoding: Encoding, out: &mut Vec<u8>, id: u32, stats: PresenceStats) {
    reply(encoding, out, id, Parts::presence_stats, &stats);
}

/// The history of a channel, or its position.
pub fn history(encoding: Encoding, out: &mut Vec<u8>, id: u32, result: &HistoryResult<'_>) {
    reply(encoding, out, id, Parts::history, result);
}

/// The answer to a ping of the client.
pub fn ping(encoding: Encoding, out: &mut Vec<u8>, id: u32) {
    reply(encoding, out, id, Parts::ping, &Nothing {});
}

/// The result of a call.
pub fn rpc(encoding: Encoding, out: &mut Vec<u8>, id: u32, data: Option<Payload<'_>>) {
    reply(encoding, out, id, Parts::rpc, &Data { data });
}

/// The connection has a new token.
pub fn refresh(encoding: Encoding, out: &mut Vec<u8>, id: u32, result: &RefreshResult<'_>) {
    reply(encoding, out, id, Parts::refresh, result);
}

/// A subscription has a new token; it expires after this number of seconds, if it does.
pub fn sub_refresh(encoding: Encoding, out: &mut Vec<u8>, id: u32, expires_in_s: Option<u32>) {
    reply(encoding, out, id, Parts::sub_refresh, &Expiry { expires_in_s });
}

fn reply(encoding: Encoding, out: &mut Vec<u8>, id: u32, field: Field, result: &impl Message) {
    if !encoding.is_unidirectional() {
        append(encoding, out, &Reply { id, field, result });
    }
}

/// A reply; a push is one without an id.
pub(crate) struct Reply<'a, M> {
    pub(crate) id: u32,
    pub(crate) field: Field,
    pub(crate) result: &'a M,
}

impl<M: Message> Message for Reply<'_, M> {
    fn write<W: Writer>(&self, to: &mut W) {
        self.id.put(to, Parts::id);
        to.message(self.field, self.result);
    }
}

struct Members<I>(I);

impl<'a, I: Iterator<Item = Member<'a>> + Clone> Message for Members<I> {
    fn write<W: Writer>(&self, to: &mut W) {
        to.map(PresenceParts::presence, self.0.clone());
    }
}
