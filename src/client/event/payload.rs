//! The content of messages, and its conversion to values of the program.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer as _};
use serde_json::value::RawValue;

/// The content of a message, as it was published.
///
/// ```
/// use echoring::client::Payload;
///
/// let payload = Payload::json(&[1, 2, 3])?;
/// assert_eq!(payload.to_string(), "[1,2,3]");
/// assert_eq!(payload.parse::<Vec<u8>>()?, [1, 2, 3]);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Payload {
    /// A JSON value, byte for byte.
    Json(Box<RawValue>),
    /// A text.
    Text(String),
    /// Bytes. With Centrifuge's protocol in JSON, bytes are a JSON string in base64 (RFC 4648, section 4); in protobuf, all
    /// content is bytes.
    Bytes(Bytes),
}

impl Payload {
    /// The value as JSON.
    ///
    /// # Errors
    /// If it cannot be serialised, such as a map whose keys are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Payload, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Payload::Json)
    }

    /// The content as a value. A text is the string that it is, where `T` takes a string; otherwise it is read as JSON.
    /// Bytes are read as JSON, or else as such a text: Centrifuge's protocol in protobuf does not tell one from the other.
    ///
    /// # Errors
    /// If it is not a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        match self {
            Payload::Json(value) => serde_json::from_str(value.get()),
            Payload::Text(text) => {
                let as_string: StrDeserializer<'_, serde_json::Error> = text.as_str().into_deserializer();
                T::deserialize(as_string).or_else(|_| serde_json::from_str(text))
            }
            Payload::Bytes(bytes) => serde_json::from_slice(bytes).or_else(|error| {
                let as_string: StrDeserializer<'_, serde_json::Error> = match str::from_utf8(bytes) {
                    Ok(text) => text.into_deserializer(),
                    Err(_) => return Err(error),
                };
                T::deserialize(as_string).map_err(|_| error)
            }),
        }
    }

    /// The bytes of the content.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Payload::Json(value) => value.get().as_bytes(),
            Payload::Text(text) => text.as_bytes(),
            Payload::Bytes(bytes) => bytes,
        }
    }
}

/// The text, the JSON value, or the bytes as UTF-8, with U+FFFD for invalid sequences.
impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Payload) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.as_bytes() == other.as_bytes()
    }
}

/// A type that a [`Subscription`](crate::Subscription) yields: each one that serde can read, and [`Payload`] itself.
///
/// ```
/// use echoring::client::{FromPayload, Payload};
/// use serde::Deserialize;
///
/// #[derive(Debug, PartialEq, Deserialize)]
/// struct Price {
///     bid: f64,
/// }
///
/// let payload = Payload::json(&serde_json::json!({"bid": 1.5}))?;
/// assert_eq!(Price::from_payload(&payload)?, Price { bid: 1.5 });
/// # Ok::<(), serde_json::Error>(())
/// ```
pub trait FromPayload: Sized {
    /// The value of a payload.
    ///
    /// # Errors
    /// If it is not a `Self`.
    fn from_payload(payload: &Payload) -> Result<Self, serde_json::Error>;
}

impl<T: DeserializeOwned> FromPayload for T {
    fn from_payload(payload: &Payload) -> Result<T, serde_json::Error> {
        payload.parse()
    }
}

impl FromPayload for Payload {
    fn from_payload(payload: &Payload) -> Result<Payload, serde_json::Error> {
        Ok(payload.clone())
    }
}

/// A message to publish.
///
/// ```
/// use echoring::client::Publication;
///
/// # fn main() -> Result<(), serde_json::Error> {
/// let price = Publication::json(&serde_json::json!({"bid": 1.0842}))?.key("EUR");
/// let order = Publication::text("buy 3").idempotency_key("5f0c6a8e");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Publication {
    pub(crate) payload: Payload,
    pub(crate) key: Option<String>,
    pub(crate) idempotency_key: Option<String>,
}

impl Publication {
    /// A message with this content.
    pub fn new(payload: Payload) -> Publication {
        Publication { payload, key: None, idempotency_key: None }
    }

    /// A message with `value` as JSON.
    ///
    /// # Errors
    /// As [`Payload::json`].
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Publication, serde_json::Error> {
        Payload::json(value).map(Publication::new)
    }

    /// A text message. Centrifuge's protocol publishes it as a JSON string.
    pub fn text(text: impl Into<String>) -> Publication {
        Publication::new(Payload::Text(text.into()))
    }

    /// The key whose latest state it is, 1 to 255 bytes, for topics that conflate.
    pub fn key(self, key: impl Into<String>) -> Publication {
        Publication { key: Some(key.into()), ..self }
    }

    /// A name that its publisher makes up for this one message, 1 to 255 bytes, such as a UUID. With it, the message is
    /// published again if the connection is lost before the answer, and once for all that. `echoring.v1.json` only.
    pub fn idempotency_key(self, key: impl Into<String>) -> Publication {
        Publication { idempotency_key: Some(key.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_strings_or_json() {
        let text = |text: &str| Payload::Text(text.into());
        assert_eq!(text("hello").parse::<String>().expect("a string"), "hello");
        assert_eq!(text("7").parse::<String>().expect("a string"), "7");
        assert_eq!(text("7").parse::<u8>().expect("a number"), 7);
        assert_eq!(text("[1,2]").parse::<Vec<u8>>().expect("a list"), [1, 2]);
        assert!(text("seven").parse::<u8>().is_err());
        let json = Payload::json(&[1, 2]).expect("JSON");
        assert_eq!(json.parse::<Vec<u8>>().expect("a list"), [1, 2]);
        let bytes = |bytes: &'static [u8]| Payload::Bytes(Bytes::from_static(bytes));
        assert_eq!(bytes(b"[1]").parse::<[u8; 1]>().expect("a list"), [1]);
        assert_eq!(bytes(b"hello").parse::<String>().expect("a text"), "hello");
        assert_eq!(bytes(b"\"hello\"").parse::<String>().expect("a JSON string"), "hello");
        assert!(bytes(b"\xff").parse::<String>().is_err());
        assert_eq!(format!("{} {} {}", text("a"), json, bytes(b"\xff!")), "a [1,2] \u{fffd}!");
        assert_eq!(Payload::from_payload(&json).expect("itself"), json);
    }
}
