//! Application data: published messages, and the data of connections and calls.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::centrifuge::Encoding;

/// Data by its type. Protobuf carries the bytes of each as they are. In JSON, a value stays as it is, text is a string, and
/// bytes are a string in base64 (RFC 4648, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A valid JSON value. In JSON, line feeds between its tokens are left out, because they separate replies.
    Json(&'a [u8]),
    /// UTF-8 text.
    Text(&'a [u8]),
    /// Any bytes.
    Bytes(&'a [u8]),
}

impl<'a> Payload<'a> {
    /// Bytes that are no JSON value: text, if they are UTF-8.
    pub fn of_bytes(bytes: &'a [u8]) -> Payload<'a> {
        if str::from_utf8(bytes).is_ok() { Payload::Text(bytes) } else { Payload::Bytes(bytes) }
    }

    /// Appends the data as a client with this encoding receives it. A [delta](crate::centrifuge::delta) starts from this and leads
    /// to it.
    pub fn write(self, encoding: Encoding, out: &mut Vec<u8>) {
        match (encoding, self) {
            (Encoding::Protobuf, _) => out.extend_from_slice(self.bytes()),
            (_, Payload::Json(value)) => {
                value.split(|&byte| byte == b'\n').for_each(|line| out.extend_from_slice(line));
            }
            (_, Payload::Text(text)) => write_string(out, &String::from_utf8_lossy(text)),
            (_, Payload::Bytes(bytes)) => write_string(out, &STANDARD.encode(bytes)),
        }
    }

    /// The bytes as they were published.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Payload::Json(bytes) | Payload::Text(bytes) | Payload::Bytes(bytes) => bytes,
        }
    }
}

/// How a publication carries its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// For subscriptions without delta compression.
    Plain(Payload<'a>),
    /// For subscriptions with delta compression: the whole data, as [`Payload::write`] wrote it for the same encoding. In
    /// JSON, a string contains it.
    Whole(&'a [u8]),
    /// For subscriptions with delta compression: a [delta](crate::centrifuge::delta) from the previous publication of the channel. In
    /// JSON, a string contains it.
    Delta(&'a [u8]),
}

impl Body<'_> {
    pub(crate) fn is_delta(self) -> bool {
        matches!(self, Body::Delta(_))
    }

    pub(crate) fn write_json(self, out: &mut Vec<u8>) {
        match self {
            Body::Plain(payload) => payload.write(Encoding::Json, out),
            Body::Whole(text) | Body::Delta(text) => write_string(out, &String::from_utf8_lossy(text)),
        }
    }

    /// The bytes that protobuf carries.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Body::Plain(payload) => payload.bytes(),
            Body::Whole(bytes) | Body::Delta(bytes) => bytes,
        }
    }
}

/// Appends a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, value: &str) {
    // Neither a vector nor a string can fail.
    _ = serde_json::to_writer(out, value);
}
