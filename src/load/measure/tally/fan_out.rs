//! Broadcast mode: how fast, how far and in which order messages reached the subscribers.

use serde::{Deserialize, Serialize};

use crate::measure::distribution::Distribution;
use crate::measure::fan_out::Milestones;
use crate::measure::merge::summed;
use crate::measure::order::OrderFindings;
use echoring_proto::limits::Nanos;

/// The fan-out at one thread's connections, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FanOutTally {
    /// Latency of the first subscriber that a message reached.
    pub first: Distribution,
    /// Latency of the median subscriber.
    pub median: Distribution,
    /// Latency of the last subscriber, for messages that reached all.
    pub last: Distribution,
    /// Deliveries that are due for the published messages.
    pub deliveries_due: u64,
    /// Deliveries made.
    pub deliveries: u64,
    /// Number of times that a subscriber received a later message before an earlier one.
    pub gaps: u64,
    /// Disagreements of subscribers about the order across publishers.
    pub order: OrderFindings,
}

impl FanOutTally {
    /// Records the latency of a delivery that is a milestone.
    #[inline]
    pub(crate) fn reached(&mut self, at: Milestones, latency: Nanos) {
        for (is_reached, histogram) in
            [(at.first, &mut self.first), (at.median, &mut self.median), (at.last, &mut self.last)]
        {
            if is_reached {
                histogram.saturating_record(latency);
            }
        }
    }
}

summed!(for FanOutTally { first, median, last, deliveries_due, deliveries, gaps, order });
