//! Conversations of declared protocols: requests by name, openings and heartbeats.

use serde::{Deserialize, Serialize};

use super::latency::Distributions;
use crate::measure::distribution::Distribution;
use crate::measure::merge::summed;
use crate::measure::times::Times;
use echoring_proto::limits::Nanos;

/// The conversations of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProtocolTally {
    /// In the order of the protocol.
    pub requests: Vec<RequestTally>,
    /// Conversations that were opened, by protocol.
    pub conversations: Vec<u64>,
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

summed!(for RequestTally { sent, answered, errors, times });

impl ProtocolTally {
    /// A conversation of a protocol was opened.
    pub(crate) fn opened(&mut self, protocol: usize, took: Nanos) {
        self.opening.saturating_record(took);
        if protocol >= self.conversations.len() {
            self.conversations.resize(protocol + 1, 0);
        }
        self.conversations[protocol] += 1;
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
}

summed!(for ProtocolTally { requests, conversations, opening, heartbeats_answered, heartbeats_sent, unexpected });
