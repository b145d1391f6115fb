//! Messages as owned values.

use std::fmt;

use bytes::Bytes;

use echoring_proto::connection::MessageKind;
use echoring_proto::{ProtocolError, Text};

/// A complete message (RFC 6455, 5.6). Its memory is shared: a clone copies no bytes.
///
/// Control frames are no messages: reading answers pings and Close frames by itself, so there is no `Ping`, `Pong` or
/// `Close` here. [`ping`](super::Conn::ping), [`pong`](super::Conn::pong) and [`close`](super::Conn::close) send them, by
/// a [`Control`](super::Control) from any task; [`set_ping_handler`](super::Conn::set_ping_handler) and its siblings see
/// those that arrive; and a Close frame ends reading with [`Error::Closed`](super::Error::Closed).
///
/// ```
/// use echoring::{Message, Text};
///
/// let message = Message::from("hello");
/// let Message::Text(text) = message.clone() else { panic!("a text") };
/// assert_eq!(text, "hello");
/// assert!(text.starts_with("he"));
/// let same: &Text = &text;
/// assert_eq!(Message::from(same.clone()), message);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// A text message.
    Text(Text),
    /// A binary message.
    Binary(Bytes),
}

impl Message {
    /// A message whose payload was received. A text is validated (RFC 6455, 8.1).
    #[inline]
    pub(super) fn received(kind: MessageKind, bytes: Bytes) -> Result<Message, ProtocolError> {
        match kind {
            MessageKind::Text => {
                Text::from_utf8(bytes).map(Message::Text).map_err(|_| ProtocolError::InvalidUtf8)
            }
            MessageKind::Binary => Ok(Message::Binary(bytes)),
        }
    }

    /// The type of the message.
    pub fn kind(&self) -> MessageKind {
        match self {
            Message::Text(_) => MessageKind::Text,
            Message::Binary(_) => MessageKind::Binary,
        }
    }

    /// Size of the payload in bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the payload is empty, which is valid.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload of either type.
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

    /// The text of a text message, without a copy; a binary message is returned as the error.
    ///
    /// # Errors
    /// The message, if it is binary.
    pub fn into_text(self) -> Result<Text, Message> {
        match self {
            Message::Text(text) => Ok(text),
            binary @ Message::Binary(_) => Err(binary),
        }
    }

    /// The payload of either type, without a copy.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Message::Text(text) => text.into_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }
}

impl From<String> for Message {
    fn from(text: String) -> Message {
        Message::Text(text.into())
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Message {
        Message::Text(text.into())
    }
}

impl From<Text> for Message {
    fn from(text: Text) -> Message {
        Message::Text(text)
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

/// Shows only the beginning of the payload, because messages can be large.
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
