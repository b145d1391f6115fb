//! One conversation in detail, for `--try`.

/// An event of the conversation on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Number of the connection.
    pub connection: u32,
    /// The event.
    pub event: TraceEvent,
}

/// An event of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// A message was sent.
    Sent {
        /// The entry of the protocol, or the name of the request.
        entry: String,
        /// Its bytes.
        message: Vec<u8>,
    },
    /// A message is awaited.
    Expects {
        /// The entry of the protocol.
        entry: String,
        /// Its conditions.
        what: String,
    },
    /// The awaited message of a step arrived.
    Stepped {
        /// The entry of the protocol.
        entry: String,
        /// Its bytes.
        message: Vec<u8>,
        /// Names and values of captures.
        captured: Vec<(String, Vec<u8>)>,
    },
    /// A message arrived that a rule knows.
    Arrived {
        /// The entry of the protocol.
        entry: String,
        /// Its bytes.
        message: Vec<u8>,
        /// Its meaning, such as `answers request echo with id 1, as expected`.
        what: String,
    },
    /// A message arrived that no rule knows.
    Unexpected {
        /// Its bytes.
        message: Vec<u8>,
        /// The rules that were tried.
        rules: Vec<String>,
    },
    /// A step failed.
    Failed {
        /// The entry of the protocol.
        entry: String,
        /// Why.
        why: String,
    },
    /// A request was answered rightly.
    Answered {
        /// The name of the request.
        request: String,
    },
}
