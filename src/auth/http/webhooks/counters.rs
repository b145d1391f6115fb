//! The counts of all webhooks of the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of webhooks.
pub static WEBHOOKS: WebhookCounters = WebhookCounters {
    delivered: AtomicU64::new(0),
    lost: [const { AtomicU64::new(0) }; CAUSES.len()],
    failed_requests: AtomicU64::new(0),
    waiting_events: AtomicU64::new(0),
    waiting_bytes: AtomicU64::new(0),
};

/// Why an event is lost.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    QueueFull,
    Refused,
    Expired,
    Ended,
}

const CAUSES: [&str; 4] = ["queue_full", "refused", "expired", "ended"];

/// Counts of webhooks. They begin at zero with the process.
#[derive(Debug)]
pub struct WebhookCounters {
    /// Events that were accepted.
    pub delivered: AtomicU64,
    lost: [AtomicU64; CAUSES.len()],
    /// Requests that failed, and are sent again.
    pub failed_requests: AtomicU64,
    /// Events that wait.
    pub waiting_events: AtomicU64,
    /// Their bytes.
    pub waiting_bytes: AtomicU64,
}

impl WebhookCounters {
    /// Events that were lost, by cause.
    pub fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CAUSES.into_iter().zip(&self.lost).map(|(cause, count)| (cause, count.load(Relaxed)))
    }

    pub(super) fn lose(&self, events: u64, cause: Cause) {
        self.lost[cause as usize].fetch_add(events, Relaxed);
    }

    pub(super) fn add(&self, events: u64, bytes: u64) {
        self.waiting_events.fetch_add(events, Relaxed);
        self.waiting_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn remove(&self, events: u64, bytes: u64) {
        self.waiting_events.fetch_sub(events, Relaxed);
        self.waiting_bytes.fetch_sub(bytes, Relaxed);
    }
}
