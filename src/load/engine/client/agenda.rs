//! The timers of single connections: overdue steps, ends of pauses, heartbeats, pings, dials and ends of lifetimes.
//!
//! A heartbeat or ping is entered again only when it was sent, and every other entry once. So the agenda does not grow
//! with the number of messages.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use echoring_proto::limits::Nanos;

/// The due action of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// The message that an opening step awaits is overdue.
    Step,
    /// The pause before the next request ends.
    Request,
    /// A heartbeat of the protocol.
    Heartbeat,
    /// A ping in addition to the load.
    Ping,
    /// The connection is dialled again.
    Dial,
    /// Its lifetime ends.
    Retire,
    /// The next event of a replay.
    Replay,
}

/// Times, earliest first, with the positions of connections. The connection may have ended since, or its time may be
/// another one.
#[derive(Debug, Default)]
pub(super) struct Agenda(BinaryHeap<Reverse<(Nanos, u32, Due)>>);

impl Agenda {
    pub(super) fn push(&mut self, at: Nanos, position: usize, due: Due) {
        self.0.push(Reverse((at, position as u32, due)));
    }

    /// The earliest time.
    pub(super) fn next_at(&self) -> Option<Nanos> {
        self.0.peek().map(|Reverse((at, ..))| *at)
    }

    /// Removes the earliest entry.
    pub(super) fn pop(&mut self) -> Option<(Nanos, usize, Due)> {
        self.0.pop().map(|Reverse((at, position, due))| (at, position as usize, due))
    }
}
