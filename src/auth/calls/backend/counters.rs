//! Counts of what happens to events, and the metrics of back ends.

use std::sync::atomic::{AtomicU64, Ordering};

use echoring_proto::happenings;

use super::settings::{BackendEvent, BackendSettings};
use crate::calls::metrics::{CallMetric, CallSamples};

/// The state of a back end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendFigures {
    /// The pattern of its paths.
    pub path: String,
    /// The results of connects, messages and disconnects: how many were answered, refused, failed and rejected.
    pub events: [[u64; End::ALL.len()]; BackendEvent::ALL.len()],
    /// Requests that were sent again.
    pub retries: u64,
    /// Requests in progress.
    pub requests: u64,
    /// Bytes of the events that wait, those in progress included.
    pub queued_bytes: u64,
    /// The bound on these bytes, without those of ends of connections.
    pub queue_limit_bytes: u64,
}

impl BackendFigures {
    /// The metrics of back ends.
    pub const METRICS: [CallMetric<BackendFigures>; 5] = [
        CallMetric {
            name: "echoring_backend_events_total",
            help: "Events for back ends of [[backends]], by path, event and result: answered, refused (a connect with a status from 400 to 499), \
             failed (no usable answer after all attempts), rejected (not sent, because too much waited). Messages that failed or were \
             rejected are lost.",
            samples: BackendFigures::results,
        },
        CallMetric {
            name: "echoring_backend_retries_total",
            help: "Requests to back ends that were sent again.",
            samples: |backend| backend.of_path(backend.retries),
        },
        CallMetric {
            name: "echoring_backend_requests",
            help: "Current requests to back ends.",
            samples: |backend| backend.of_path(backend.requests),
        },
        CallMetric {
            name: "echoring_backend_queued_bytes",
            help: "Bytes of the events that wait for back ends, those of current requests included.",
            samples: |backend| backend.of_path(backend.queued_bytes),
        },
        CallMetric {
            name: "echoring_backend_queue_limit_bytes",
            help: "Maximum bytes of these events, besides those of the ends of connections.",
            samples: |backend| backend.of_path(backend.queue_limit_bytes),
        },
    ];

    fn of_path(&self, value: u64) -> CallSamples {
        vec![(vec![("path", self.path.clone())], value)]
    }

    fn results(&self) -> CallSamples {
        let of_event = |((event, _), counts): ((&'static str, BackendEvent), &[u64; _])| {
            End::ALL.into_iter().zip(*counts).map(move |(result, count)| {
                let labels = [("path", &*self.path), ("event", event), ("result", result.word())];
                (labels.map(|(name, value)| (name, value.to_owned())).to_vec(), count)
            })
        };
        BackendEvent::ALL.into_iter().zip(&self.events).flat_map(of_event).collect()
    }
}

happenings! {
    /// The end of an event.
    pub(super) enum End: word {
        Answered = "answered",
        /// By the back end.
        Refused = "refused",
        /// There was no usable answer.
        Failed = "failed",
        /// It was not sent, because too much waited.
        Rejected = "rejected",
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    events: [[AtomicU64; End::ALL.len()]; BackendEvent::ALL.len()],
    pub(super) retries: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, event: BackendEvent, end: End, events: usize) {
        self.events[event as usize][end as usize].fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(super) fn figures(
        &self,
        settings: &BackendSettings,
        requests: usize,
        queued_bytes: usize,
    ) -> BackendFigures {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        BackendFigures {
            path: settings.path.clone(),
            events: self.events.each_ref().map(|of_event| of_event.each_ref().map(load)),
            retries: load(&self.retries),
            requests: requests as u64,
            queued_bytes: queued_bytes as u64,
            queue_limit_bytes: settings.queue_bytes as u64,
        }
    }
}
