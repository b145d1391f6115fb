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
        is_due(&mut self.publishers_checked_at, now, WATCH_INTERVAL)
    }

    /// Whether senders must be checked for overdue replies.
    pub(super) fn replies_are_due(&mut self, now: Nanos) -> bool {
        is_due(&mut self.replies_checked_at, now, REPLY_TIME / 5)
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

/// Whether this much time has passed since the last check, which is then now.
fn is_due(checked_at: &mut Nanos, now: Nanos, interval: Nanos) -> bool {
    let is_due = now >= *checked_at + interval;
    if is_due {
        *checked_at = now;
    }
    is_due
}
