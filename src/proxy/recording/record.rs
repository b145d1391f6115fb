//! The records of a recording.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The schema in the header line. It changes when readers of the old schema cannot read the new one.
pub const SCHEMA: &str = "echoring.recording/1";

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since the start of the recording, by a monotonic clock.
    pub t_ns: u64,
    /// Connection number, from 1 in the order of opening; unique in a recording.
    pub conn: u64,
    /// The sender; in [`Event::End`], the side that ended the connection.
    pub from: Side,
    /// The event.
    pub event: Event,
}

/// A side of a recorded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
}

/// An event of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The connection was opened by a successful handshake.
    Open(Open),
    /// A frame of a message, a ping or a pong.
    Frame(Frame),
    /// A Close frame (RFC 6455, 5.5.1).
    Close {
        /// The close code; `None` if the frame was empty.
        code: Option<u16>,
        /// The reason, possibly empty.
        reason: String,
    },
    /// The connection was closed; always its last record.
    End {
        /// The close code as the other side saw it; 1006 without a Close frame.
        code: u16,
    },
}

/// The request and the result of a connection's handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Path and query of the request.
    pub path: String,
    /// Address of the client.
    pub peer: String,
    /// URL of the upstream.
    pub upstream: String,
    /// The subprotocol that the upstream chose.
    pub subprotocol: Option<String>,
    /// `Sec-WebSocket-Extensions` as negotiated for the frames that follow; `None` without extensions.
    pub extensions: Option<String>,
}

/// One frame, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The kind of the frame.
    pub kind: FrameKind,
    /// FIN: the last frame of its message; always set for pings and pongs.
    pub fin: bool,
    /// RSV1: this frame begins a compressed message (RFC 7692, 6), whose payloads are recorded compressed.
    pub compressed: bool,
    /// The payload as it was on the wire, unmasked.
    pub payload: Bytes,
}

/// The opcodes of all frames except Close frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// The first or only frame of a text message.
    Text,
    /// The first or only frame of a binary message.
    Binary,
    /// A further frame of the current message.
    Continuation,
    /// A ping.
    Ping,
    /// A pong.
    Pong,
}
