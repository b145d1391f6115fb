//! Broadcast mode: how fast, how far and in which order messages reached the subscribers.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::distribution::{histogram, packed};
use crate::measure::fan_out::Milestones;
use crate::measure::order::OrderFindings;
use echoring_proto::limits::Nanos;

/// The fan-out at one thread's connections, or of a whole run once merged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FanOutTally {
    /// Latency of the first subscriber that a message reached.
    #[serde(with = "packed")]
    pub first: Histogram<u64>,
    /// Latency of the median subscriber.
    #[serde(with = "packed")]
    pub median: Histogram<u64>,
    /// Latency of the last subscriber, for messages that reached all.
    #[serde(with = "packed")]
    pub last: Histogram<u64>,
    /// Deliveries that are due for the published messages.
    pub deliveries_due: u64,
    /// Deliveries made.
    pub deliveries: u64,
    /// Number of times that a subscriber received a later message before an earlier one.
    pub gaps: u64,
    /// Disagreements of subscribers about the order across publishers.
    pub order: OrderFindings,
}

impl Default for FanOutTally {
    fn default() -> FanOutTally {
        FanOutTally {
            first: histogram(),
            median: histogram(),
            last: histogram(),
            deliveries_due: 0,
            deliveries: 0,
            gaps: 0,
            order: OrderFindings::default(),
        }
    }
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

    /// Adds another thread's counts.
    pub(super) fn merge(&mut self, other: &FanOutTally) {
        for (mine, theirs) in [
            (&mut self.first, &other.first),
            (&mut self.median, &other.median),
            (&mut self.last, &other.last),
        ] {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
        self.deliveries_due += other.deliveries_due;
        self.deliveries += other.deliveries;
        self.gaps += other.gaps;
        self.order.merge(&other.order);
    }
}
