//! Push mode: inter-arrival times of a connection's messages, and messages without a usable time.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::distribution::{histogram, packed};
use echoring_proto::limits::Nanos;

/// Push messages of one thread's listeners within the measured time, or of a whole run once merged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PushTally {
    /// Inter-arrival times of a connection's messages, if they ended within the measured time.
    #[serde(with = "packed")]
    pub(crate) gap: Histogram<u64>,
    /// Messages without the configured time field.
    pub(crate) untimed: u64,
    /// Messages whose time is later than their arrival, according to the two clocks.
    pub(crate) ahead: u64,
}

impl Default for PushTally {
    fn default() -> PushTally {
        PushTally { gap: histogram(), untimed: 0, ahead: 0 }
    }
}

impl PushTally {
    /// A message arrived this long after the previous one.
    #[inline]
    pub fn gap(&mut self, gap: Nanos) {
        self.gap.saturating_record(gap);
    }

    /// A message has no time field.
    pub fn untimed(&mut self) {
        self.untimed += 1;
    }

    /// The time of a message is later than its arrival.
    pub fn ahead(&mut self) {
        self.ahead += 1;
    }

    /// Adds the counts of another thread.
    pub fn merge(&mut self, other: &PushTally) {
        self.gap.add(&other.gap).expect("all histograms have the same bounds");
        self.untimed += other.untimed;
        self.ahead += other.ahead;
    }
}
