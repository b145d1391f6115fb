//! Why a frame cannot be read.

use std::fmt;

/// Why a frame, or the rest of it, cannot be read. The protocol asks to close the connection with
/// [`Disconnect::BadRequest`](crate::centrifuge::Disconnect::BadRequest).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The frame is empty.
    Empty,
    /// A command is not a JSON object, or has a field of the wrong type, or the same field twice.
    Json,
    /// A command is not a protobuf message of the definition.
    Protobuf,
    /// A command is shorter than the length in front of it.
    Truncated,
    /// A command that has a reply comes without an id.
    NoId,
    /// The frame has more than [`COMMANDS_PER_FRAME_MAX`](crate::limits::COMMANDS_PER_FRAME_MAX) commands.
    TooManyCommands,
    /// A connect command has more than
    /// [`SUBSCRIPTIONS_PER_CONNECT_MAX`](crate::limits::SUBSCRIPTIONS_PER_CONNECT_MAX) subscriptions.
    TooManySubscriptions,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Empty => "the frame is empty",
            Malformed::Json => "a command is not a JSON object of the protocol",
            Malformed::Protobuf => "a command is not a protobuf message of the protocol",
            Malformed::Truncated => "a command is shorter than its length says",
            Malformed::NoId => "a command has no id",
            Malformed::TooManyCommands => "the frame has too many commands",
            Malformed::TooManySubscriptions => "the connect command has too many subscriptions",
        })
    }
}

impl std::error::Error for Malformed {}
