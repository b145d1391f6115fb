//! Conversations of declared protocols: requests by name, openings and heartbeats.

use serde::{Deserialize, Serialize};

use super::latency::Distributions;
use crate::measure::distribution::Distribution;
use crate::measure::merge::merge_fields;
use crate::measure::times::Times;
use echoring_proto::limits::Nanos;

/// The conversations of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProtocolTally {
    /// In the order of the protocol.
    pub requests: Vec<RequestTally>,
    /// From the upgrade to the end of the opening steps.
    pub opening: Distribution,
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

merge_fields!(RequestTally: sent, answered, errors, times);

impl ProtocolTally {
    /// For this number of requests.
    pub(super) fn new(requests: usize) -> ProtocolTally {
        ProtocolTally {
            requests: vec![RequestTally::default(); requests],
            opening: Distribution::default(),
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
}

merge_fields!(ProtocolTally: requests, opening, heartbeats_answered, heartbeats_sent, unexpected);
