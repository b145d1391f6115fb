//! Recordings of WebSocket traffic: one format, its writer and its reader. `docs/recording.md` describes it.
//!
//! A recording is a file of JSON lines: a head, then one line for each frame that passed, in the order in which
//! they were taken down. [`Recorder`] writes it on a thread of its own, [`Reader`] reads it back.
//!
//! Never: a record that is dropped because the disk is slow (whoever records waits instead), or memory beyond
//! [`RECORDING_QUEUE_BYTES`](crate::limits::RECORDING_QUEUE_BYTES) for those that wait to be written.

#![forbid(unsafe_code)]

mod line;
mod reader;
mod writer;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use reader::{Reader, ReaderError};
pub use writer::{Failed, Recorder, Room, Tap};

/// What the head of a recording names; the number grows when a reader of the old one could not read the new one.
pub const SCHEMA: &str = "echoring.recording/1";

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds from the start of the recording, by a clock that is never set back.
    pub t_ns: u64,
    /// The connection: numbered from 1 in the order of opening, never used again in a recording.
    pub conn: u64,
    /// Who sent it; in [`Event::End`], who ended the connection.
    pub from: Side,
    /// What passed.
    pub event: Event,
}

/// An end of a recorded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Who connected.
    Client,
    /// The server behind whoever recorded.
    Upstream,
}

/// What a record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The connection is open: both ends have agreed.
    Open(Open),
    /// A frame of a message, or a ping or pong.
    Frame(Frame),
    /// A Close frame (RFC 6455, 5.5.1); without a code it was empty.
    Close {
        /// The code, if there was one.
        code: Option<u16>,
        /// The reason, perhaps empty.
        reason: String,
    },
    /// The connection is over; no record of it follows. 1006 when it ended without a Close frame.
    End {
        /// The code as the other end saw it.
        code: u16,
    },
}

/// What was asked for and agreed when a connection opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Path and query of the request.
    pub path: String,
    /// Address of the client.
    pub peer: String,
    /// URL of the server.
    pub upstream: String,
    /// The subprotocol that the server chose.
    pub subprotocol: Option<String>,
    /// `Sec-WebSocket-Extensions` as agreed for the frames that follow; `None` when there is no extension.
    pub extensions: Option<String>,
}

/// One frame, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// Whether it is the last frame of its message; pings and pongs always are.
    pub fin: bool,
    /// RSV1: the message that begins here is compressed (RFC 7692, 6), and so are its payloads.
    pub compressed: bool,
    /// As it was on the wire, without the mask.
    pub payload: Bytes,
}

/// The opcodes of frames that are no Close frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// The first or only frame of a text message.
    Text,
    /// The first or only frame of a binary message.
    Binary,
    /// A further frame of the message under way.
    Continuation,
    /// A ping.
    Ping,
    /// A pong.
    Pong,
}

#[cfg(test)]
mod tests;
