//! The types of fields: how a value is read from both encodings, and how it is written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Field, Fields, Message, Writer};
use crate::centrifuge::protobuf::{Outcome, Value, fields, map_entry};
use crate::centrifuge::{Body, Payload, Texts};

/// A value that is read. In JSON, `null` counts as absent, except as data. Of a field that occurs twice in protobuf, the last number
/// or string counts, and the fields of both messages are merged, as protobuf specifies.
pub(crate) trait Read<'de>: Default {
    fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error>;
    fn read(&mut self, value: Value<'de>) -> Outcome;
}

/// A value of a message that is written.
pub(crate) trait Write {
    fn put<W: Writer>(&self, to: &mut W, field: Field);
}

/// A value as JSON has it.
pub(crate) struct Json<T>(pub(crate) T);

impl<'de, T: Read<'de>> Deserialize<'de> for Json<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        T::from_json(json).map(Json)
    }
}

pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    json: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(json).map(Option::unwrap_or_default)
}

/// Data that is absent if it is empty.
pub(crate) fn payload(data: &[u8]) -> Option<Payload<'_>> {
    (!data.is_empty()).then_some(Payload::Json(data))
}

macro_rules! values {
    ($($type:ty: $method:ident as $written:ty, |$number:ident| $read:expr;)*) => {
        $(
            impl<'de> Read<'de> for $type {
                fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
                    or_default(json)
                }

                fn read(&mut self, value: Value<'de>) -> Outcome {
                    let $number = value.number()?;
                    *self = $read;
                    Ok(())
                }
            }

            impl Write for $type {
                fn put<W: Writer>(&self, to: &mut W, field: Field) {
                    to.$method(field, <$written>::from(*self));
                }
            }
        )*
    };
}

values! {
    bool: flag as bool, |number| number != 0;
    i32: integer as i64, |number| number as i32;
    i64: integer as i64, |number| number as i64;
    u16: number as u64, |number| number as u16;
    u32: number as u64, |number| number as u32;
    u64: number as u64, |number| number;
}

/// A string, borrowed if it has no escapes.
impl<'a, 'de: 'a> Read<'de> for Cow<'a, str> {
    fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Cow<'de, str>, E> {
                Ok(Cow::Owned(text.to_owned()))
            }

            fn visit_unit<E: Error>(self) -> Result<Cow<'de, str>, E> {
                Ok(Cow::default())
            }
        }

        json.deserialize_any(TextVisitor)
    }

    fn read(&mut self, value: Value<'de>) -> Outcome {
        *self = Cow::Borrowed(value.text()?);
        Ok(())
    }
}

/// Data as it is written, `null` too.
impl<'a, 'de: 'a> Read<'de> for &'a [u8] {
    fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(json).map(|value| value.get().as_bytes())
    }

    fn read(&mut self, value: Value<'de>) -> Outcome {
        *self = value.bytes()?;
        Ok(())
    }
}

/// A message as it is written, unless it is `null`.
impl<'a, 'de: 'a> Read<'de> for Option<&'a [u8]> {
    fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        <&[u8]>::from_json(json).map(|value| Some(value).filter(|value| *value != b"null"))
    }

    fn read(&mut self, value: Value<'de>) -> Outcome {
        *self = Some(value.bytes()?);
        Ok(())
    }
}

/// A message from an object. By itself, serde also takes an array of the fields' values.
impl<'de, M: Fields<'de>> Read<'de> for M {
    fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<M>(PhantomData<M>);

        impl<'de, M: Fields<'de>> Visitor<'de> for ObjectVisitor<M> {
            type Value = M;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<M, A::Error> {
                M::deserialize(MapAccessDeserializer::new(map))
            }
        }

        json.deserialize_map(ObjectVisitor(PhantomData))
    }

    fn read(&mut self, value: Value<'de>) -> Outcome {
        fields(value.bytes()?, |number, value| self.field(number, value))
    }
}

/// A message that may be absent.
impl<'de, M: Fields<'de>> Read<'de> for Option<M> {
    fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        Option::<Json<M>>::deserialize(json).map(|message| message.map(|Json(message)| message))
    }

    fn read(&mut self, value: Value<'de>) -> Outcome {
        self.get_or_insert_default().read(value)
    }
}

impl<'a, 'de: 'a, V: Read<'de>> Read<'de> for BTreeMap<Cow<'a, str>, V> {
    fn from_json<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let mut map = BTreeMap::new();
        json_entries(json, |key, value| {
            map.insert(key, value);
        })?;
        Ok(map)
    }

    fn read(&mut self, value: Value<'de>) -> Outcome {
        let (key, value) = map_entry(value)?;
        self.insert(key, value);
        Ok(())
    }
}

/// Calls `each` for the entries of an object.
pub(crate) fn json_entries<'de, D: Deserializer<'de>, V: Read<'de>>(
    json: D,
    each: impl FnMut(Cow<'de, str>, V),
) -> Result<(), D::Error> {
    struct MapVisitor<F, V>(F, PhantomData<V>);

    impl<'de, V: Read<'de>, F: FnMut(Cow<'de, str>, V)> Visitor<'de> for MapVisitor<F, V> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("values by their names")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((Json(key), Json(value))) = map.next_entry()? {
                self.0(key, value);
            }
            Ok(())
        }

        fn visit_unit<E: Error>(self) -> Result<(), E> {
            Ok(())
        }
    }

    json.deserialize_any(MapVisitor(each, PhantomData))
}

macro_rules! written {
    ($([$($generics:tt)*] $type:ty, |$value:ident, $to:ident, $field:ident| $write:expr;)*) => {
        $(impl<$($generics)*> Write for $type {
            fn put<W: Writer>(&self, $to: &mut W, $field: Field) {
                let $value = self;
                $write;
            }
        })*
    };
}

written! {
    [] &str, |value, to, field| to.text(field, value);
    [] Cow<'_, str>, |value, to, field| to.text(field, value);
    [] Body<'_>, |value, to, field| to.body(field, *value);
    [] Option<Payload<'_>>, |value, to, field| to.data(field, *value);
    // Whether it is there: its value is another field.
    [] Option<u32>, |value, to, field| to.flag(field, value.is_some());
    [] &[u8], |value, to, field| to.data(field, payload(value));
    [] Option<&[u8]>, |value, to, field| to.data(field, value.and_then(payload));
    [] Texts<'_>, |value, to, field| to.texts(field, value.iter());
    [] BTreeMap<Cow<'_, str>, Cow<'_, str>>, |value, to, field| {
        to.texts(field, value.iter().map(|(key, value)| (&**key, &**value)))
    };
    [M: Message] Option<M>, |value, to, field| if let Some(value) = value {
        to.message(field, value)
    };
    [M: Message] &[M], |value, to, field| to.list(field, value.iter());
    [M: Message] &[(&str, M)], |value, to, field| {
        to.map(field, value.iter().map(|(key, value)| (*key, value)))
    };
}
