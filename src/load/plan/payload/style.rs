//! Content of payloads: text, binary or JSON.

use crate::plan::declared::words;
use echoring_proto::connection::MessageKind;

words! {
    /// Content of payloads.
    pub enum Style {
        /// ASCII in text messages
        Text => "text",
        /// Any bytes in binary messages
        Binary => "binary",
        /// JSON objects in text messages
        Json => "json",
    }
}

impl Style {
    /// The message type.
    pub fn kind(self) -> MessageKind {
        match self {
            Style::Text | Style::Json => MessageKind::Text,
            Style::Binary => MessageKind::Binary,
        }
    }
}

/// The fields in the header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Connection and sequence.
    Echo,
    /// Publisher, sequence and two times.
    Broadcast,
}
