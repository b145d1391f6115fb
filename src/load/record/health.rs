//! The health of the generator during a run, and the server's use of resources, in its record.

use serde::{Deserialize, Serialize};

use crate::measure::Quantiles;

/// The health of the generator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// The generator was so late for its schedule that the latencies are in doubt.
    pub saturated: bool,
    /// How late it sent messages; empty in a closed loop.
    pub lateness_ns: Quantiles,
    /// An upper bound of the generator's part of each percentile of the response time: the excess over the same
    /// percentile of the service time, limited by the largest lateness. `None` in a closed loop, and in records from
    /// older versions.
    pub own_ns: Option<Quantiles>,
    /// CPU time of its threads as a share of their wall time: 1 is all.
    pub cpu_share: f64,
    /// Messages that were due and never sent, because their connection was full or gone.
    pub unsent: u64,
    /// Those whose connection was gone. Records from older versions have none.
    #[serde(default)]
    pub unsent_gone: u64,
    /// Duration of the ticks of its event loops, without the wait in the kernel. `None` in records from older versions.
    pub turn_ns: Option<Quantiles>,
    /// How late its threads' heartbeats were, one per 10 ms: how long the threads were stalled, in either loop. `None`
    /// in records from older versions.
    pub heartbeat_ns: Option<Quantiles>,
    /// How long its threads were runnable without a CPU, all together; `None` if the kernel does not count it.
    pub run_delay_ns: Option<u64>,
    /// How long the hypervisor ran something else on the CPUs that it may use, all together, in steps of 10 ms; `None` if
    /// unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stolen_ns: Option<u64>,
    /// Its threads.
    #[serde(default)]
    pub threads: Vec<GeneratorThread>,
}

/// The health of one thread of the generator, within the measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorThread {
    /// The CPU that it is pinned to, if any.
    pub cpu: Option<usize>,
    /// Its CPU time as a share of its wall time: 1 is all.
    pub cpu_share: f64,
    /// How late it sent messages: 99 %; 0 in a closed loop.
    pub lateness_ns_p99: u64,
    /// The same: maximum.
    pub lateness_ns_max: u64,
    /// Duration of its ticks: 99 %.
    pub turn_ns_p99: u64,
    /// The same: maximum.
    pub turn_ns_max: u64,
    /// How late its heartbeats were: 99 %. This and the following fields are `None` in records from older versions.
    pub heartbeat_ns_p99: Option<u64>,
    /// The same: maximum.
    pub heartbeat_ns_max: Option<u64>,
    /// How long it was runnable without a CPU.
    pub run_delay_ns: Option<u64>,
}

/// The server's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// CPU time, user and system, per arrived message, both between the same two samples.
    pub cpu_ns_per_message: Option<f64>,
    /// The same CPU time as a share of the wall time: 1 is one CPU.
    pub cpu_share: Option<f64>,
    /// Resident memory at the end of the measured time; `None` if it shares the generator's process.
    pub rss_bytes: Option<u64>,
    /// Messages that arrived between the two samples.
    pub sampled_messages: Option<u64>,
    /// Time between the samples, which are taken in the generator's first ticks after the ends of the measured time.
    pub sampled_s: Option<f64>,
}
