//! Content of payloads: text, binary or JSON.

use echoring_proto::connection::MessageKind;

/// Content of payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// ASCII in a text message.
    Text,
    /// Words of several scripts in a text message, with one to three bytes per character.
    Mixed,
    /// Emoji in a text message, with four bytes per character, and emoji sequences.
    Emoji,
    /// Any bytes in a binary message.
    Binary,
    /// A JSON object in a text message.
    Json,
}

impl Style {
    /// The message type.
    pub fn kind(self) -> MessageKind {
        match self {
            Style::Text | Style::Mixed | Style::Emoji | Style::Json => MessageKind::Text,
            Style::Binary => MessageKind::Binary,
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Style::Text | Style::Mixed | Style::Emoji => "text",
            Style::Binary => "binary",
            Style::Json => "json",
        }
    }

    /// The kind of text, as named on the command line; `None` for other content.
    pub fn script(self) -> Option<&'static str> {
        match self {
            Style::Text => Some("ascii"),
            Style::Mixed => Some("mixed"),
            Style::Emoji => Some("emoji"),
            Style::Binary | Style::Json => None,
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
