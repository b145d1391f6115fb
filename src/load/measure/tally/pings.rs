//! Pings and their pongs.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::distribution::{histogram, packed};

/// The pings of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PingTally {
    /// Pings in addition to the load, over the whole run.
    pub sent: u64,
    /// Their pongs.
    pub answered: u64,
    /// Round trips of those that were sent within the window.
    #[serde(with = "packed")]
    pub round_trip: Histogram<u64>,
    /// Pings as the load that were answered by the pong of a later one.
    pub skipped: u64,
}

impl Default for PingTally {
    fn default() -> PingTally {
        PingTally { sent: 0, answered: 0, round_trip: histogram(), skipped: 0 }
    }
}

impl PingTally {
    pub(super) fn merge(&mut self, other: &PingTally) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.round_trip.add(&other.round_trip).expect("all histograms have the same bounds");
        self.skipped += other.skipped;
    }
}
