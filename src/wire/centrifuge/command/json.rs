//! Reads a command from a line of JSON. A field that is `null` counts as absent, except data.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Command, Connect, History, Parts, Publish, Rpc, SubRefresh, Subscribe};
use crate::centrifuge::Malformed;
use crate::limits::SUBSCRIPTIONS_PER_CONNECT_MAX;

pub(super) fn command(line: &[u8]) -> Result<Command<'_>, Malformed> {
    let Object(line): Object<Line<'_>> = serde_json::from_slice(line).map_err(|_| Malformed::Json)?;
    let parts = Parts {
        id: line.id,
        connect: line.connect,
        subscribe: line.subscribe,
        unsubscribe: line.unsubscribe.map(|request| request.channel),
        publish: line.publish,
        presence: line.presence.map(|request| request.channel),
        presence_stats: line.presence_stats.map(|request| request.channel),
        history: line.history,
        ping: line.ping.is_some(),
        send: line.send.map(|request| request.data),
        rpc: line.rpc,
        refresh: line.refresh.map(|request| request.token),
        sub_refresh: line.sub_refresh,
    };
    Ok(parts.command())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    #[serde(deserialize_with = "or_default")]
    id: u32,
    #[serde(borrow, deserialize_with = "object")]
    connect: Option<Connect<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    unsubscribe: Option<OnlyChannel<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    publish: Option<Publish<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    presence: Option<OnlyChannel<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    presence_stats: Option<OnlyChannel<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    history: Option<History<'a>>,
    #[serde(deserialize_with = "object")]
    ping: Option<Nothing>,
    #[serde(borrow, deserialize_with = "object")]
    send: Option<OnlyData<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    rpc: Option<Rpc<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    refresh: Option<OnlyToken<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    sub_refresh: Option<SubRefresh<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OnlyChannel<'a> {
    #[serde(borrow, deserialize_with = "text")]
    channel: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OnlyData<'a> {
    #[serde(borrow, deserialize_with = "data")]
    data: &'a [u8],
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OnlyToken<'a> {
    #[serde(borrow, deserialize_with = "text")]
    token: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Nothing {}

/// A structure from an object. By itself, serde also takes an array of the fields' values.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::<Object<T>>::deserialize(deserializer).map(|object| object.map(|Object(inner)| inner))
}

pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

pub(super) fn is_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::<IgnoredAny>::deserialize(deserializer).map(|filter| filter.is_some())
}

/// A value as it is written, `null` too.
pub(crate) fn data<'a, 'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<&'a [u8], D::Error> {
    <&RawValue>::deserialize(deserializer).map(|value| value.get().as_bytes())
}

pub(crate) fn text<'a, 'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'a, str>, D::Error> {
    Text::deserialize(deserializer).map(|Text(text)| text)
}

/// A string, borrowed if it has no escapes.
#[derive(Default)]
struct Text<'a>(Cow<'a, str>);

impl<'a, 'de: 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E: Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

/// Subscriptions by channel: at most one more than the maximum, which shows that there are too many.
pub(super) fn subscriptions<'a, 'de: 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Subscribe<'a>>, D::Error> {
    struct MapVisitor;

    impl<'de> Visitor<'de> for MapVisitor {
        type Value = Vec<Subscribe<'de>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("subscriptions by channel")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut subscriptions = Vec::new();
            while let Some(Text(channel)) = map.next_key()? {
                let Object(subscribe) = map.next_value::<Object<Subscribe<'de>>>()?;
                if subscriptions.len() <= SUBSCRIPTIONS_PER_CONNECT_MAX {
                    subscriptions.push(Subscribe { channel, ..subscribe });
                }
            }
            Ok(subscriptions)
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }
    }

    deserializer.deserialize_any(MapVisitor)
}
