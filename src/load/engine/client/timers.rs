//! When a thread must wake up, and for which work.

use crate::measure::track::REPLY_TIME;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// How often a thread checks whether the run was stopped, others are ready, or a reply is overdue.
pub(super) const WATCH_INTERVAL: Nanos = 50 * MILLISECOND;
/// Heartbeat interval. A late heartbeat shows how long the thread was stalled.
const HEARTBEAT_INTERVAL: Nanos = 10 * MILLISECOND;

/// The timers of a thread.
#[derive(Debug)]
pub(super) struct Timers {
    wake_at: Option<Nanos>,
    replies_checked_at: Nanos,
    publishers_checked_at: Nanos,
    /// When the next heartbeat is due; 0 before the first.
    heartbeat_at: Nanos,
}

impl Default for Timers {
    fn default() -> Timers {
        // The first tick dials; later ones schedule the next.
        Timers { wake_at: Some(0), replies_checked_at: 0, publishers_checked_at: 0, heartbeat_at: 0 }
    }
}

impl Timers {
    /// When the next tick is wanted.
    pub(super) fn wake_at(&self) -> Option<Nanos> {
        self.wake_at
    }

    /// Schedules the next tick after the watch interval, and no other.
    pub(super) fn restart(&mut self, now: Nanos) {
        self.wake_at = Some(now + WATCH_INTERVAL);
    }

    /// Schedules a tick at `at` at the latest.
    pub(super) fn wake_by(&mut self, at: Nanos) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    /// Whether closed-loop publishers must be checked for messages to give up.
    pub(super) fn publishers_are_due(&mut self, now: Nanos) -> bool {
        let is_due = now >= self.publishers_checked_at + WATCH_INTERVAL;
        if is_due {
            self.publishers_checked_at = now;
        }
        is_due
    }

    /// Whether senders must be checked for overdue replies.
    pub(super) fn replies_are_due(&mut self, now: Nanos) -> bool {
        let is_due = now >= self.replies_checked_at + REPLY_TIME / 5;
        if is_due {
            self.replies_checked_at = now;
        }
        is_due
    }

    /// The next heartbeat that is due at `now`, if any; schedules a tick for the one after it.
    pub(super) fn next_heartbeat(&mut self, now: Nanos) -> Option<Nanos> {
        if self.heartbeat_at == 0 {
            self.heartbeat_at = now;
        }
        if self.heartbeat_at > now {
            self.wake_by(self.heartbeat_at);
            return None;
        }
        self.heartbeat_at += HEARTBEAT_INTERVAL;
        Some(self.heartbeat_at - HEARTBEAT_INTERVAL)
    }
}
