//! Recordings of WebSocket traffic: the format, its writer and its reader. `docs/reference/recording.md` describes it.
//!
//! A recording is a file of JSON lines: a header line, then one line for each frame, in the order of capture.
//! [`Recorder`] writes it on its own thread, [`Reader`] reads it.
//!
//! Never: a record that is dropped because the disk is slow (its sender waits instead), or more than
//! `RECORDING_QUEUE_BYTES` of records that wait to be written.

#![forbid(unsafe_code)]

mod line;
mod reader;
mod record;
#[cfg(not(target_env = "musl"))]
mod ring_file;
#[cfg(target_env = "musl")]
#[path = "recording/no_ring_file.rs"]
mod ring_file;
mod writer;

pub use reader::{Reader, ReaderError};
pub use record::{Event, Frame, FrameKind, Open, Record, SCHEMA, Side};
pub use ring_file::RingFile;
pub use writer::{Failed, Recorder, Room, Tap};

#[cfg(test)]
mod tests;
