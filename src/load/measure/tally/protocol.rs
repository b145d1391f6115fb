//! Conversations of declared protocols: requests by name, openings and heartbeats.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::latency::Distributions;
use crate::measure::distribution::{histogram, packed};
use crate::measure::times::Times;
use echoring_proto::limits::Nanos;

/// The conversations of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProtocolTally {
    /// In the order of the protocol.
    pub requests: Vec<RequestTally>,
    /// From the upgrade to the end of the opening steps.
    #[serde(with = "packed")]
    pub opening: Histogram<u64>,
    /// Heartbeats of the application that were answered.
    pub heartbeats_answered: u64,
    /// Heartbeats that were sent.
    pub heartbeats_sent: u64,
    /// Messages that no rule knows.
    pub unexpected: u64,
}

/// One request of a protocol, over the whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RequestTally {
    /// Requests that were sent.
    pub sent: u64,
    /// Answers, right or wrong.
    pub answered: u64,
    /// Answers that report an error.
    pub errors: u64,
    /// The times of those that were due within the window.
    pub times: Distributions,
}

impl ProtocolTally {
    /// For this number of requests.
    pub(super) fn new(requests: usize) -> ProtocolTally {
        ProtocolTally {
            requests: vec![RequestTally::default(); requests],
            opening: histogram(),
            heartbeats_answered: 0,
            heartbeats_sent: 0,
            unexpected: 0,
        }
    }

    /// The opening of a conversation took this long.
    pub(crate) fn opened(&mut self, took: Nanos) {
        self.opening.saturating_record(took);
    }

    /// A request was sent.
    #[inline]
    pub(crate) fn sent(&mut self, request: usize) {
        self.requests[request].sent += 1;
    }

    /// A request was answered.
    #[inline]
    pub(crate) fn answered(&mut self, request: usize, times: Times, now: Nanos, in_window: bool) {
        // A single request has the times of the run.
        let several = self.requests.len() > 1;
        let request = &mut self.requests[request];
        request.answered += 1;
        if several && in_window {
            request.times.response.saturating_record(now.saturating_sub(times.intended));
            request.times.service.saturating_record(now.saturating_sub(times.sent));
        }
    }

    /// An answer reports an error.
    pub(crate) fn failed(&mut self, request: usize) {
        self.requests[request].errors += 1;
    }

    pub(super) fn merge(&mut self, other: &ProtocolTally) {
        if self.requests.is_empty() {
            self.requests = vec![RequestTally::default(); other.requests.len()];
        }
        for (mine, theirs) in self.requests.iter_mut().zip(&other.requests) {
            mine.sent += theirs.sent;
            mine.answered += theirs.answered;
            mine.errors += theirs.errors;
            mine.times.merge(&theirs.times);
        }
        self.opening.add(&other.opening).expect("all histograms have the same bounds");
        self.heartbeats_answered += other.heartbeats_answered;
        self.heartbeats_sent += other.heartbeats_sent;
        self.unexpected += other.unexpected;
    }
}
