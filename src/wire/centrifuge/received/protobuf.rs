//! Reads a reply or a push from protobuf. A field that occurs twice is read as protobuf specifies: the last number or
//! string, and all fields of both messages.

use std::borrow::Cow;

use super::{
    Connected, DataParts, Ended, Failure, Info, InfoParts, Lifetime, Messages, Nothing, Parts, PresenceParts,
    Publication, PushParts, Stats, Subscription,
};
use crate::centrifuge::Malformed;
use crate::centrifuge::protobuf::{Value, fields};

type Outcome = Result<(), Malformed>;

pub(super) fn parts(message: &[u8]) -> Result<Parts<'_>, Malformed> {
    let mut parts = Parts::default();
    fields(message, |number, value| {
        match number {
            1 => parts.id = value.number()? as u32,
            2 => failure(parts.error.get_or_insert_default(), value)?,
            4 => push(parts.push.get_or_insert_default(), value)?,
            5 => connected(parts.connect.get_or_insert_default(), value)?,
            6 => subscribe_result(parts.subscribe.get_or_insert_default(), value)?,
            7 => parts.unsubscribe = Some(nothing(value)?),
            8 => parts.publish = Some(nothing(value)?),
            9 => presence(parts.presence.get_or_insert_default(), value)?,
            10 => stats(parts.presence_stats.get_or_insert_default(), value)?,
            11 => history(parts.history.get_or_insert_default(), value)?,
            12 => parts.ping = Some(nothing(value)?),
            13 => data(parts.rpc.get_or_insert_default(), value)?,
            // The id and the version of the server come before.
            14 => lifetime(parts.refresh.get_or_insert_default(), value, [3, 4])?,
            15 => lifetime(parts.sub_refresh.get_or_insert_default(), value, [1, 2])?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(parts)
}

fn push<'a>(push: &mut PushParts<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            2 => push.channel = text(value)?,
            4 => publication(push.publication.get_or_insert_default(), value)?,
            5 => info_of(push.join.get_or_insert_default(), value)?,
            6 => info_of(push.leave.get_or_insert_default(), value)?,
            7 => ended(push.unsubscribe.get_or_insert_default(), value, [2, 3])?,
            8 => data(push.message.get_or_insert_default(), value)?,
            9 => subscribed(push.subscribe.get_or_insert_default(), value)?,
            10 => connected(push.connect.get_or_insert_default(), value)?,
            11 => ended(push.disconnect.get_or_insert_default(), value, [1, 2])?,
            12 => lifetime(push.refresh.get_or_insert_default(), value, [1, 2])?,
            _ => {}
        }
        Ok(())
    })
}

fn failure<'a>(failure: &mut Failure<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => failure.code = value.number()? as u32,
            2 => failure.message = text(value)?,
            3 => failure.temporary = flag(value)?,
            _ => {}
        }
        Ok(())
    })
}

fn connected<'a>(connected: &mut Connected<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => connected.client = text(value)?,
            3 => connected.expires = flag(value)?,
            4 => connected.ttl = value.number()? as u32,
            6 => {
                let (channel, subscription) = entry(value, subscribe_result)?;
                connected.subscriptions.insert(channel, subscription);
            }
            7 => connected.ping = value.number()? as u32,
            8 => connected.pong = flag(value)?,
            _ => {}
        }
        Ok(())
    })
}

/// The result of a subscribe command.
fn subscribe_result<'a>(subscription: &mut Subscription<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => subscription.expires = flag(value)?,
            2 => subscription.ttl = value.number()? as u32,
            3 => subscription.recoverable = flag(value)?,
            6 => subscription.epoch = text(value)?,
            7 => push_publication(&mut subscription.publications, value)?,
            8 => subscription.recovered = flag(value)?,
            9 => subscription.offset = value.number()?,
            10 => subscription.positioned = flag(value)?,
            12 => subscription.was_recovering = flag(value)?,
            13 => subscription.delta = flag(value)?,
            _ => {}
        }
        Ok(())
    })
}

/// The content of a subscribe push, whose fields have other numbers.
fn subscribed<'a>(subscription: &mut Subscription<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => subscription.recoverable = flag(value)?,
            4 => subscription.epoch = text(value)?,
            5 => subscription.offset = value.number()?,
            6 => subscription.positioned = flag(value)?,
            _ => {}
        }
        Ok(())
    })
}

fn presence<'a>(presence: &mut PresenceParts<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        if number == 1 {
            let (client, member) = entry(value, info)?;
            presence.presence.insert(client, member);
        }
        Ok(())
    })
}

fn stats(stats: &mut Stats, value: Value<'_>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => stats.clients = value.number()? as u32,
            2 => stats.users = value.number()? as u32,
            _ => {}
        }
        Ok(())
    })
}

fn history<'a>(history: &mut Messages<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => push_publication(&mut history.publications, value)?,
            2 => history.epoch = text(value)?,
            3 => history.offset = value.number()?,
            _ => {}
        }
        Ok(())
    })
}

fn push_publication<'a>(publications: &mut Vec<Publication<'a>>, value: Value<'a>) -> Outcome {
    let mut read = Publication::default();
    publication(&mut read, value)?;
    publications.push(read);
    Ok(())
}

fn publication<'a>(publication: &mut Publication<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            4 => publication.data = value.bytes()?,
            6 => publication.offset = value.number()?,
            8 => publication.delta = flag(value)?,
            11 => publication.key = text(value)?,
            _ => {}
        }
        Ok(())
    })
}

fn info_of<'a>(parts: &mut InfoParts<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| if number == 1 { info(&mut parts.info, value) } else { Ok(()) })
}

fn info<'a>(info: &mut Info<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        match number {
            1 => info.user = text(value)?,
            2 => info.client = text(value)?,
            _ => {}
        }
        Ok(())
    })
}

fn ended<'a>(ended: &mut Ended<'a>, value: Value<'a>, [code, reason]: [u32; 2]) -> Outcome {
    fields(value.bytes()?, |number, value| {
        if number == code {
            ended.code = value.number()? as u32;
        } else if number == reason {
            ended.reason = text(value)?;
        }
        Ok(())
    })
}

fn lifetime(lifetime: &mut Lifetime, value: Value<'_>, [expires, ttl]: [u32; 2]) -> Outcome {
    fields(value.bytes()?, |number, value| {
        if number == expires {
            lifetime.expires = flag(value)?;
        } else if number == ttl {
            lifetime.ttl = value.number()? as u32;
        }
        Ok(())
    })
}

fn data<'a>(parts: &mut DataParts<'a>, value: Value<'a>) -> Outcome {
    fields(value.bytes()?, |number, value| {
        if number == 1 {
            parts.data = value.bytes()?;
        }
        Ok(())
    })
}

fn nothing(value: Value<'_>) -> Result<Nothing, Malformed> {
    fields(value.bytes()?, |_, _| Ok(()))?;
    Ok(Nothing {})
}

/// An entry of a map.
fn entry<'a, T: Default>(
    value: Value<'a>,
    read: impl Fn(&mut T, Value<'a>) -> Outcome,
) -> Result<(Cow<'a, str>, T), Malformed> {
    let (mut key, mut content) = (Cow::default(), T::default());
    fields(value.bytes()?, |number, value| {
        match number {
            1 => key = text(value)?,
            2 => read(&mut content, value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, content))
}

fn text(value: Value<'_>) -> Result<Cow<'_, str>, Malformed> {
    value.text().map(Cow::Borrowed)
}

fn flag(value: Value<'_>) -> Result<bool, Malformed> {
    value.number().map(|number| number != 0)
}
