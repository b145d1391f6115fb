//! Counts of what happens to events.

use std::sync::atomic::{AtomicU64, Ordering};

use super::settings::BackendEvent;

/// The results of the events of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// The back end has answered.
    pub answered: u64,
    /// It has refused them.
    pub refused: u64,
    /// There was no usable answer.
    pub failed: u64,
    /// They were not sent, because too much waited.
    pub rejected: u64,
}

/// The state of a back end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendFigures {
    /// The pattern of its paths.
    pub path: String,
    /// The results of connects, messages and disconnects.
    pub events: [EventCounts; 3],
    /// Requests that were sent again.
    pub retries: u64,
    /// Requests in progress.
    pub requests: u64,
    /// Bytes of the events that wait, those in progress included.
    pub queued_bytes: u64,
}

/// The end of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    Refused,
    Failed,
    Rejected,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    events: [[AtomicU64; 4]; 3],
    pub(super) retries: AtomicU64,
    pub(super) requests: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, event: BackendEvent, end: End, events: usize) {
        self.events[event as usize][end as usize].fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(super) fn figures(&self, path: &str, queued_bytes: usize) -> BackendFigures {
        let events = BackendEvent::ALL.map(|event| {
            let [answered, refused, failed, rejected] =
                [End::Answered, End::Refused, End::Failed, End::Rejected]
                    .map(|end| self.events[event as usize][end as usize].load(Ordering::Relaxed));
            EventCounts { answered, refused, failed, rejected }
        });
        BackendFigures {
            path: path.to_owned(),
            events,
            retries: self.retries.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            queued_bytes: queued_bytes as u64,
        }
    }
}
