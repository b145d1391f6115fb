//! Reads a reply or a push from protobuf.

use super::{
    Connected, Ended, Failure, Info, InfoParts, Lifetime, Messages, Parts, PresenceParts, Publication,
    PushParts, Stats, Subscription,
};
use crate::centrifuge::Malformed;
use crate::centrifuge::protobuf::{Outcome, Read, Value, messages, read_fields};

pub(super) fn parts(message: &[u8]) -> Result<Parts<'_>, Malformed> {
    let mut parts = Parts::default();
    parts.read(Value::Bytes(message))?;
    Ok(parts)
}

messages! {
    Parts<'a> {
        1 id, 2 error, 4 push, 5 connect, 6 subscribe, 7 unsubscribe, 8 publish, 9 presence, 10 presence_stats, 11 history,
        12 ping, 13 rpc, 14 refresh by refresh_result, 15 sub_refresh,
    }
    PushParts<'a> {
        2 channel, 4 publication, 5 join, 6 leave, 7 unsubscribe by unsubscribe_push, 8 message, 9 subscribe by subscribe_push,
        10 connect, 11 disconnect, 12 refresh,
    }
    Failure<'a> { 1 code, 2 message, 3 temporary }
    Connected<'a> { 1 client, 3 expires, 4 ttl, 6 subscriptions, 7 ping, 8 pong }
    Subscription<'a> {
        1 expires, 2 ttl, 3 recoverable, 6 epoch, 7 publications, 8 recovered, 9 offset, 10 positioned, 12 was_recovering,
        13 delta,
    }
    PresenceParts<'a> { 1 presence }
    Stats { 1 clients, 2 users }
    Messages<'a> { 1 publications, 2 epoch, 3 offset }
    Publication<'a> { 4 data, 6 offset, 8 delta, 11 key }
    InfoParts<'a> { 1 info }
    Info<'a> { 1 user, 2 client }
    Ended<'a> { 1 code, 2 reason }
    Lifetime { 1 expires, 2 ttl }
}

/// The id and the version of the server come before.
fn refresh_result(lifetime: &mut Option<Lifetime>, value: Value<'_>) -> Outcome {
    let lifetime = lifetime.get_or_insert_default();
    read_fields!(lifetime, value, { 3 expires, 4 ttl })
}

fn unsubscribe_push<'a>(ended: &mut Option<Ended<'a>>, value: Value<'a>) -> Outcome {
    let ended = ended.get_or_insert_default();
    read_fields!(ended, value, { 2 code, 3 reason })
}

/// Its fields have other numbers than those of the result of a subscribe command.
fn subscribe_push<'a>(subscription: &mut Option<Subscription<'a>>, value: Value<'a>) -> Outcome {
    let subscription = subscription.get_or_insert_default();
    read_fields!(subscription, value, { 1 recoverable, 4 epoch, 5 offset, 6 positioned })
}
