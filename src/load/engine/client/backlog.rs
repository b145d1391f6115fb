//! Deferred work: sends without room in the queue, and publishers that may continue.

use std::collections::VecDeque;

/// The deferred work of a thread.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Connections whose queue had no room.
    pub(super) held: Vec<u32>,
    /// Publishers that may send again.
    pub(super) ready: Vec<u32>,
    /// Publishers of other threads with the sequence that has reached all subscribers: messages for which the mailbox
    /// had no room.
    pub(super) unposted: VecDeque<(u32, u64)>,
}

impl Backlog {
    /// Whether work must be retried soon.
    pub(super) fn needs_retry(&self) -> bool {
        !self.held.is_empty() || !self.unposted.is_empty()
    }
}
