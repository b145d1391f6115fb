//! The values of commands and events.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// An epoch or a client, as a string of hexadecimal digits: numbers of JavaScript cannot hold all of their bits.
///
/// A server has the number. A client repeats the text that it was sent, which at other servers is any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Digits<'a> {
    /// The number.
    Number(u128),
    /// The text.
    Text(Cow<'a, str>),
}

impl Digits<'_> {
    /// The number of 1 to `digits_max` digits, at most 32.
    pub(super) fn parse(text: &str, digits_max: usize) -> Option<Digits<'static>> {
        // The library accepts a sign, too.
        let is_good =
            (1..=digits_max).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| is_good).map(Digits::Number)
    }

    /// The number; 0 for a text that is none.
    pub fn number(&self) -> u128 {
        match self {
            Digits::Number(number) => *number,
            Digits::Text(text) => u128::from_str_radix(text, 16).unwrap_or_default(),
        }
    }
}

impl From<u64> for Digits<'_> {
    fn from(number: u64) -> Self {
        Digits::Number(number.into())
    }
}

impl<'a> From<&'a str> for Digits<'a> {
    fn from(text: &'a str) -> Self {
        Digits::Text(text.into())
    }
}

impl fmt::Display for Digits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Digits::Number(number) => write!(f, "{number:x}"),
            Digits::Text(text) => f.write_str(text),
        }
    }
}

impl Serialize for Digits<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digits<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Digits::Text(text.into()))
    }
}

/// A position in a topic: the place behind the message with this offset. As text it is `EPOCH-OFFSET`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Position<'a> {
    /// The life of the topic. Offsets of different epochs cannot be compared.
    pub epoch: Digits<'a>,
    /// The number of the message, below 2^53.
    pub offset: u64,
}

impl fmt::Display for Position<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

/// The content of a message, as it was published.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// A JSON value, which is not validated here.
    Json(&'a [u8]),
    /// UTF-8 text.
    Text(&'a [u8]),
    /// Any bytes.
    Binary(&'a [u8]),
}

/// What a command publishes.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// A JSON value, as it was written.
    Json(&'a RawValue),
    /// A text.
    Text(Cow<'a, str>),
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Value::Json(one), Value::Json(other)) => one.get() == other.get(),
            (Value::Text(one), Value::Text(other)) => one == other,
            _ => false,
        }
    }
}
