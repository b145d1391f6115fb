//! Messages as an application owns them.

use std::fmt;

use bytes::Bytes;

use crate::connection::Kind;

/// A whole message (RFC 6455, 5.6).
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// Valid UTF-8.
    Text(String),
    /// Any bytes.
    Binary(Bytes),
}

impl Message {
    /// The message's type.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Text(_) => Kind::Text,
            Message::Binary(_) => Kind::Binary,
        }
    }

    /// Bytes of the payload.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the payload is empty, which it may be.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload, whatever its type.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }

    /// The text of a text message.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Message::Text(text) => Some(text),
            Message::Binary(_) => None,
        }
    }

    /// The text of a text message; a binary one comes back as it is.
    ///
    /// # Errors
    /// The message, when it is binary.
    pub fn into_text(self) -> Result<String, Message> {
        match self {
            Message::Text(text) => Ok(text),
            binary @ Message::Binary(_) => Err(binary),
        }
    }

    /// The payload, whatever its type, without a copy.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
        }
    }
}

impl From<String> for Message {
    fn from(text: String) -> Message {
        Message::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Message {
        Message::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Message {
        Message::Binary(bytes.into())
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Message {
        Message::Binary(Bytes::copy_from_slice(bytes))
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Message {
        Message::Binary(bytes)
    }
}

/// Shows a short beginning of the payload only: messages can be large.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 64;
        let name = match self {
            Message::Text(_) => "Text",
            Message::Binary(_) => "Binary",
        };
        let shown = &self.as_bytes()[..self.len().min(SHOWN_BYTES)];
        write!(f, "{name}({} bytes, \"{}", self.len(), shown.escape_ascii())?;
        f.write_str(if self.len() > SHOWN_BYTES { "\"…)" } else { "\")" })
    }
}
