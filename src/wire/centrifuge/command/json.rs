//! Reads a command from a line of JSON. A field that is `null` counts as absent, except data.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Command, Connect, Parts, Subscribe};
use crate::centrifuge::Malformed;
use crate::limits::SUBSCRIPTIONS_PER_CONNECT_MAX;

pub(super) fn command(line: &[u8]) -> Result<Command<'_>, Malformed> {
    let Object(parts): Object<Parts<'_>> = serde_json::from_slice(line).map_err(|_| Malformed::Json)?;
    Ok(parts.command())
}

pub(super) fn connect(bytes: &[u8]) -> Result<Connect<'_>, Malformed> {
    let Object(connect): Object<Connect<'_>> = serde_json::from_slice(bytes).map_err(|_| Malformed::Json)?;
    Ok(connect)
}

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

/// A value as it is written, unless it is `null`.
pub(super) fn present<'a, 'de: 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a [u8]>, D::Error> {
    data(deserializer).map(|value| Some(value).filter(|value| *value != b"null"))
}

/// A value as it is written, `null` too.
pub(crate) fn data<'a, 'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<&'a [u8], D::Error> {
    <&RawValue>::deserialize(deserializer).map(|value| value.get().as_bytes())
}

pub(crate) fn text<'a, 'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'a, str>, D::Error> {
    Text::deserialize(deserializer).map(|Text(text)| text)
}

/// Strings by strings.
pub(super) fn texts<'a, 'de: 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Cow<'a, str>, Cow<'a, str>>, D::Error> {
    let texts = Option::<BTreeMap<Text<'de>, Text<'de>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(texts.into_iter().map(|(Text(key), Text(value))| (key, value)).collect())
}

/// A string, borrowed if it has no escapes.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
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
