//! Connect and session mode: the slots of a thread, each for one connection at a time.

use std::collections::VecDeque;

use crate::measure::Times;
use echoring_proto::limits::Nanos;

/// Maximum number of connections of a thread that wait for a slot. At this bound the schedule pauses.
const WAITING_MAX: usize = 1 << 20;

/// One slot, and the stage of its current connection.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    pub(super) stage: AttemptStage,
    /// Number of earlier messages of the slot, or of its earlier connections; the sequence of its message.
    pub(super) sequence: u64,
    /// The session that has the slot, until it is counted.
    pub(super) visit: Option<Visit>,
    /// Another message came instead of the echo, at this time.
    pub(super) replaced: Option<(Times, Nanos)>,
}

/// A session of a user.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Visit {
    /// When it was due to begin.
    pub(super) due: Nanos,
    /// The random number that its draws follow from.
    pub(super) drawn: u64,
    /// The number of its requests.
    pub(super) steps: u32,
    /// How many of them were answered.
    pub(super) step: u32,
    /// The place in the protocol of the latest one.
    pub(super) request: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AttemptStage {
    /// The slot is free.
    #[default]
    Free,
    /// The handshake is in progress.
    HandshakeTimes(Times),
    /// The message was sent and its echo is awaited.
    Awaiting(Times),
    /// The echo has arrived; the connection is held open.
    Held,
    /// Between two requests of a session.
    Thinking,
    /// The connection is closing, or was counted already.
    Leaving,
}

/// The slots of a thread.
#[derive(Debug, Default)]
pub(super) struct ConnectionSlots {
    /// Positions of the free slots.
    pub(super) free: Vec<u32>,
    /// Number of connections that were begun.
    pub(super) begun: u64,
    /// Due times of the connections that wait for a slot.
    pub(super) waiting: VecDeque<Nanos>,
    /// When held connections are closed, earliest first, with indices and sequences. Some may have ended since.
    pub(super) held: VecDeque<(Nanos, u32, u64)>,
    /// When the pause of slots after a failure ends.
    pub(super) pausing: VecDeque<(Nanos, u32)>,
    /// Number of connections that have neither been answered nor failed.
    pub(super) unanswered: usize,
}

impl ConnectionSlots {
    /// Whether another due connection may wait.
    pub(super) fn have_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }
}
