//! Reads a command from protobuf. A field that occurs twice is read as protobuf specifies: the last number or string,
//! and all fields of both messages.

use std::borrow::Cow;

use super::{Command, Connect, History, Parts, Position, Publish, Rpc, SubRefresh, Subscribe};
use crate::centrifuge::Malformed;
use crate::centrifuge::protobuf::{Value, fields};
use crate::limits::SUBSCRIPTIONS_PER_CONNECT_MAX;

type Outcome = Result<(), Malformed>;

pub(super) fn command(message: &[u8]) -> Result<Command<'_>, Malformed> {
    let mut parts = Parts::default();
    fields(message, |number, value| {
        match number {
            1 => parts.id = value.number()? as u32,
            4 => connect(parts.connect.get_or_insert_default(), value)?,
            5 => subscribe(parts.subscribe.get_or_insert_default(), value)?,
            6 => only_text(parts.unsubscribe.get_or_insert_default(), value)?,
            7 => publish(parts.publish.get_or_insert_default(), value)?,
            8 => only_text(parts.presence.get_or_insert_default(), value)?,
            9 => only_text(parts.presence_stats.get_or_insert_default(), value)?,
            10 => history(parts.history.get_or_insert_default(), value)?,
            11 => {
                fields(value.bytes()?, |_, _| Ok(()))?;
                parts.ping = true;
            }
            12 => send(parts.send.get_or_insert_default(), value)?,
            13 => rpc(parts.rpc.get_or_insert_default(), value)?,
            14 => only_text(parts.refresh.get_or_insert_default(), value)?,
            15 => sub_refresh(parts.sub_refresh.get_or_insert_default(), value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(parts.command())
}

fn connect<'a>(connect: &mut Connect<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => connect.token = text(value)?,
            2 => connect.data = value.bytes()?,
            3 => {
                let subscription = entry(value)?;
                // One more than the maximum shows that there are too many.
                if connect.subscriptions.len() <= SUBSCRIPTIONS_PER_CONNECT_MAX {
                    connect.subscriptions.push(subscription);
                }
            }
            4 => connect.name = text(value)?,
            5 => connect.version = text(value)?,
            _ => {}
        }
        Ok(())
    })
}

/// A subscription by its channel, which is the key of the map.
fn entry(value: Value<'_>) -> Result<Subscribe<'_>, Malformed> {
    let (mut channel, mut subscription) = (Cow::default(), Subscribe::default());
    fields(value.bytes()?, |number, value| {
        match number {
            1 => channel = text(value)?,
            2 => subscribe(&mut subscription, value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(Subscribe { channel, ..subscription })
}

fn subscribe<'a>(subscribe: &mut Subscribe<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => subscribe.channel = text(value)?,
            2 => subscribe.token = text(value)?,
            3 => subscribe.recover = flag(value)?,
            6 => subscribe.epoch = text(value)?,
            7 => subscribe.offset = value.number()?,
            8 => subscribe.data = value.bytes()?,
            9 => subscribe.positioned = flag(value)?,
            10 => subscribe.recoverable = flag(value)?,
            11 => subscribe.join_leave = flag(value)?,
            12 => subscribe.delta = text(value)?,
            13 => {
                value.bytes()?;
                subscribe.has_tags_filter = true;
            }
            14 => subscribe.flags = value.number()? as i64,
            15 => subscribe.kind = value.number()? as i32,
            _ => {}
        }
        Ok(())
    })
}

fn publish<'a>(publish: &mut Publish<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => publish.channel = text(value)?,
            2 => publish.data = value.bytes()?,
            3 => publish.kind = value.number()? as i32,
            4 => publish.key = text(value)?,
            5 => publish.removed = flag(value)?,
            _ => {}
        }
        Ok(())
    })
}

fn history<'a>(history: &mut History<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => history.channel = text(value)?,
            7 => history.limit = value.number()? as i32,
            8 => position(history.since.get_or_insert_default(), value)?,
            9 => history.reverse = flag(value)?,
            _ => {}
        }
        Ok(())
    })
}

fn position<'a>(position: &mut Position<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => position.offset = value.number()?,
            2 => position.epoch = text(value)?,
            _ => {}
        }
        Ok(())
    })
}

fn send<'a>(data: &mut &'a [u8], value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        if number == 1 {
            *data = value.bytes()?;
        }
        Ok(())
    })
}

fn rpc<'a>(rpc: &mut Rpc<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => rpc.data = value.bytes()?,
            2 => rpc.method = text(value)?,
            _ => {}
        }
        Ok(())
    })
}

fn sub_refresh<'a>(refresh: &mut SubRefresh<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => refresh.channel = text(value)?,
            2 => refresh.token = text(value)?,
            3 => refresh.kind = value.number()? as i32,
            _ => {}
        }
        Ok(())
    })
}

/// A message of which only the first field counts, a string.
fn only_text<'a>(to: &mut Cow<'a, str>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        if number == 1 {
            *to = text(value)?;
        }
        Ok(())
    })
}

fn text(value: Value<'_>) -> Result<Cow<'_, str>, Malformed> {
    value.text().map(Cow::Borrowed)
}

fn flag(value: Value<'_>) -> Result<bool, Malformed> {
    value.number().map(|number| number != 0)
}
