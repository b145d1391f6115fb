//! The health of the generator: its ticks, its heartbeats, and its CPU time.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::distribution::{histogram, packed};

/// The health of one thread within the window, or of all threads once merged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HealthTally {
    /// How long the ticks of the event loop took, without the wait in the kernel.
    #[serde(with = "packed")]
    pub ticks: Histogram<u64>,
    /// How late the thread's heartbeats were.
    #[serde(with = "packed")]
    pub heartbeat: Histogram<u64>,
    /// How long the thread was runnable without a CPU, if the kernel counts it.
    pub run_delay_ns: Option<u64>,
    /// CPU time of the thread.
    pub cpu_ns: u64,
    /// Wall time of the same span.
    pub wall_ns: u64,
}

impl Default for HealthTally {
    fn default() -> HealthTally {
        HealthTally { ticks: histogram(), heartbeat: histogram(), run_delay_ns: None, cpu_ns: 0, wall_ns: 0 }
    }
}

impl HealthTally {
    /// Adds another thread.
    pub(super) fn merge(&mut self, other: &HealthTally) {
        self.ticks.add(&other.ticks).expect("all histograms have the same bounds");
        self.heartbeat.add(&other.heartbeat).expect("all histograms have the same bounds");
        self.run_delay_ns = match (self.run_delay_ns, other.run_delay_ns) {
            (Some(mine), Some(theirs)) => Some(mine + theirs),
            (mine, theirs) => mine.or(theirs),
        };
        self.cpu_ns += other.cpu_ns;
        self.wall_ns += other.wall_ns;
    }
}
