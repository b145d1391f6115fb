//! The steps of reading a received span: parts of messages, control frames, and the answers of the handshake.

use std::ops::Range;

use crate::buffer::Buffer;
use crate::frame::Opcode;
use crate::handshake::{Refusal, Response};

/// The type of a message (RFC 6455, 5.6).
///
/// ```
/// # use echoring_proto::connection as echoring;
/// use echoring::MessageKind;
///
/// fn label(kind: MessageKind) -> &'static str {
///     match kind {
///         MessageKind::Text => "text",
///         MessageKind::Binary => "binary",
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

crate::plain!(for enum MessageKind { Text, Binary });

impl MessageKind {
    /// The opcode of its first frame (RFC 6455, 5.2).
    pub fn opcode(self) -> Opcode {
        match self {
            MessageKind::Text => Opcode::Text,
            MessageKind::Binary => Opcode::Binary,
        }
    }
}

/// Part of a message, as an application sees it.
///
/// ```
/// # mod echoring { pub use echoring_proto::connection as server; }
/// use echoring::server::Chunk;
///
/// /// The length of the message so far.
/// fn count(bytes: &mut u64, chunk: &Chunk<'_>) {
///     *bytes = if chunk.first { 0 } else { *bytes } + chunk.payload.len() as u64;
/// }
/// ```
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The message's type.
    pub kind: MessageKind,
    /// The message starts with this chunk.
    pub first: bool,
    /// The message ends with this chunk.
    pub last: bool,
    /// Unmasked. In a text message it is valid UTF-8, except that its last character may continue in the next chunk.
    pub payload: &'a mut [u8],
}

/// A chunk without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkFlags {
    /// The message's type.
    pub kind: MessageKind,
    /// The message starts here.
    pub first: bool,
    /// The message ends here.
    pub last: bool,
    /// The message arrived compressed. Such a chunk is a whole message, and its echo is compressed too.
    pub compressed: bool,
}

impl ChunkFlags {
    /// A whole message that arrived uncompressed.
    pub fn whole(kind: MessageKind) -> ChunkFlags {
        ChunkFlags { kind, first: true, last: true, compressed: false }
    }

    /// The opcode of the frame that carries the chunk.
    pub(super) fn opcode(self) -> Opcode {
        if self.first { self.kind.opcode() } else { Opcode::Continuation }
    }
}

/// Where the bytes of a step are.
#[derive(Debug)]
pub enum Piece {
    /// In the received span, from first to one past the last.
    InSpan(Range<usize>),
    /// In a buffer: assembled from several spans, or decompressed.
    Buffered(Buffer),
}

/// A result of [`Connection::poll`](super::Connection::poll).
#[derive(Debug)]
pub enum Step {
    /// The span is used up.
    Idle,
    /// A complete request head (server role). The caller answers it before the next poll.
    Head(Buffer),
    /// The request was refused; the response is queued.
    Refused(Refusal),
    /// The server accepted the upgrade (client role).
    Opened(Response),
    /// Part of a message.
    Chunk(ChunkFlags, Piece),
    /// The payload of a ping, where [`Pings`](super::Pings) asks for it.
    Ping(Piece),
    /// The payload of a pong.
    Pong(Piece),
}
