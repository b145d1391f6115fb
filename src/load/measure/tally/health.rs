//! The health of the generator: its heartbeats and its CPU time.

use serde::{Deserialize, Serialize};

use crate::measure::distribution::Distribution;
use crate::measure::merge::summed;

/// The health of one thread within the window, or of all threads once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HealthTally {
    /// How late the thread's heartbeats were.
    pub heartbeat: Distribution,
    /// How long the thread was runnable without a CPU, if the kernel counts it.
    pub run_delay_ns: Option<u64>,
    /// CPU time of the thread.
    pub cpu_ns: u64,
    /// Wall time of the same span.
    pub wall_ns: u64,
}

summed!(for HealthTally { heartbeat, run_delay_ns, cpu_ns, wall_ns });
