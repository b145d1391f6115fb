//! Reads a command from protobuf.

use super::{
    Command, Connect, History, OnlyChannel, OnlyData, OnlyToken, Parts, Position, Publish, Rpc, SubRefresh,
    Subscribe,
};
use crate::centrifuge::Malformed;
use crate::centrifuge::protobuf::{MapEntry, Outcome, Read, Value, messages, read_fields};
use crate::limits::SUBSCRIPTIONS_PER_CONNECT_MAX;

pub(super) fn command(message: &[u8]) -> Result<Command<'_>, Malformed> {
    let mut parts = Parts::default();
    parts.read(Value::Bytes(message))?;
    Ok(parts.command())
}

messages! {
    Parts<'a> {
        1 id, 4 connect, 5 subscribe, 6 unsubscribe, 7 publish, 8 presence, 9 presence_stats, 10 history, 11 ping, 12 send,
        13 rpc, 14 refresh, 15 sub_refresh,
    }
    Connect<'a> { 1 token, 2 data, 3 subscriptions by subscription, 4 name, 5 version, 6 headers }
    Subscribe<'a> {
        1 channel, 2 token, 3 recover, 6 epoch, 7 offset, 8 data, 9 positioned, 10 recoverable, 11 join_leave, 12 delta,
        13 tags_filter by present, 14 flags, 15 kind,
    }
    Publish<'a> { 1 channel, 2 data, 3 kind, 4 key, 5 removed }
    History<'a> { 1 channel, 7 limit, 8 since, 9 reverse }
    Position<'a> { 1 offset, 2 epoch }
    Rpc<'a> { 1 data, 2 method }
    SubRefresh<'a> { 1 channel, 2 token, 3 kind }
    OnlyChannel<'a> { 1 channel }
    OnlyToken<'a> { 1 token }
    OnlyData<'a> { 1 data }
}

/// A subscription by its channel, which is the key of the map.
fn subscription<'a>(subscriptions: &mut Vec<Subscribe<'a>>, value: Value<'a>) -> Outcome {
    let MapEntry { key: channel, value: subscription } = MapEntry::read_from(value)?;
    // One more than the maximum shows that there are too many.
    if subscriptions.len() <= SUBSCRIPTIONS_PER_CONNECT_MAX {
        subscriptions.push(Subscribe { channel, ..subscription });
    }
    Ok(())
}

fn present<'a>(bytes: &mut Option<&'a [u8]>, value: Value<'a>) -> Outcome {
    *bytes = Some(value.bytes()?);
    Ok(())
}
