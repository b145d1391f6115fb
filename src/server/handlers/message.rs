//! [`Message`], as handlers get it, and which messages a route accepts.

use echoring_proto::connection::MessageKind;

/// A whole message, borrowed for the length of a call.
///
/// ```
/// use echoring::server::Message;
///
/// fn describe(message: Message<'_>) -> String {
///     match message.text() {
///         Some(text) => format!("{} characters", text.chars().count()),
///         None => format!("{} bytes", message.len()),
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub(crate) kind: MessageKind,
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Text or binary.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The payload. That of a text message is valid UTF-8.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Length of the payload in bytes.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The text of a text message; `None` for a binary one. The bytes are validated again, with SIMD, because this
    /// crate has no unsafe code.
    pub fn text(&self) -> Option<&'a str> {
        match self.kind {
            MessageKind::Text => simdutf8::basic::from_utf8(self.payload).ok(),
            MessageKind::Binary => None,
        }
    }
}

/// The messages that a route accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageFilter {
    /// The only kind that is accepted; another kind closes with 1003. `None` accepts both.
    pub(crate) kind: Option<MessageKind>,
    /// Maximum message size in bytes; a longer message closes with 1009.
    pub(crate) max_message: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_had_of_text_only() {
        let message = |kind, payload| Message { kind, payload };
        assert_eq!(message(MessageKind::Text, "Grüße".as_bytes()).text(), Some("Grüße"));
        assert_eq!(message(MessageKind::Binary, b"a").text(), None);
    }
}
