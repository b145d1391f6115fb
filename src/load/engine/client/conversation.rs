//! The state of a declared protocol's conversation on one connection.

use crate::plan::protocol::CompiledProtocol;
use crate::plan::protocol::rules::{Extractor, ParsedMessage};
use echoring_proto::limits::Nanos;

/// The state of a conversation.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) stage: Stage,
    /// Values of earlier messages, by their places.
    pub(super) captures: Vec<Vec<u8>>,
    /// When the next heartbeat is due.
    pub(super) heartbeat_at: Nanos,
    /// End of the pause before the next request; 0 for no pause.
    pub(super) pause_until: Nanos,
    /// Why the opening failed, until the connection has ended.
    pub(super) failure: Option<String>,
    /// The beginning of an incomplete message, in protocols whose messages form a stream.
    pub(super) stream: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not upgraded.
    Idle,
    /// The awaited message of an opening step is due.
    Opening { step: usize, until: Nanos },
    /// Requests may be sent.
    Ready,
    /// The awaited message of a closing step is due.
    Leaving { step: usize },
}

impl Session {
    pub(super) fn new(protocol: &CompiledProtocol) -> Session {
        Session {
            stage: Stage::Idle,
            captures: vec![Vec::new(); protocol.captures],
            heartbeat_at: Nanos::MAX,
            pause_until: 0,
            failure: None,
            stream: Vec::new(),
        }
    }

    /// Keeps values of a message.
    pub(super) fn keep(&mut self, capture: &[(usize, String, Extractor)], message: &ParsedMessage<'_>) {
        for (place, _, extractor) in capture {
            let value = extractor.value(message).unwrap_or_default();
            self.captures[*place].clear();
            self.captures[*place].extend_from_slice(&value);
        }
    }

    /// Whether the connection pauses between two requests.
    pub(super) fn pauses(&self) -> bool {
        self.pause_until > 0
    }
}
