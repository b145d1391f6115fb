//! The configuration of a run: the target, the loads, and the resources that the generator may use.
//!
//! It is the first of the crate's modules and imports none of the others. Never: a socket, a clock, a thread.

pub(crate) mod churn;
pub(crate) mod connecting;
pub(crate) mod contradiction;
pub(crate) mod declared;
pub(crate) mod file;
pub(crate) mod flaw;
pub(crate) mod listening;
pub(crate) mod mode;
pub(crate) mod pace;
pub(crate) mod payload;
pub(crate) mod protocol;
pub(crate) mod random_time;
pub(crate) mod replay;
pub(crate) mod rows;
pub(crate) mod schedule;
pub(crate) mod segment;
pub(crate) mod target;
pub(crate) mod template;
pub(crate) mod timestamps;
pub(crate) mod units;
pub(crate) mod workload;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use churn::{Backoff, Churn, Cut, STORM_BACKOFF_DEFAULT};
pub use connecting::{CONNECT_RATE_DEFAULT, CONNECT_SLOTS_DEFAULT, ConnectOptions};
pub use contradiction::Contradiction;
use declared::with_defaults;
pub use echoring_runtime::driver::DriverChoice;
pub use file::read_file;
pub use flaw::Flaw;
pub use listening::{Listening, TimeField, TimeUnit};
pub use mode::Mode;
pub use pace::Pace;
pub use payload::lines::Lines;
pub use payload::sizes::Spread;
pub use payload::style::Style;
pub use payload::{CONNECTIONS_MAX, Payloads};
pub use protocol::{Protocol, preset_names};
pub use random_time::RandomTime;
pub use replay::comparison::{AnswerComparison, ComparisonRule};
pub use replay::script::{REPLAY_BYTES_MAX, RecordedEnd, Script, ScriptBuilder};
pub use replay::speed::Speed;
pub use replay::{REPLAY_MESSAGES_MAX, Replay};
pub use rows::{RowOrder, Rows};
pub use schedule::profile::{Profile, RATE_MAX, RateStage, STAGE_TIME_MAX, STAGES_MAX};
pub use schedule::{Arrivals, BURST_MAX, Cursor, Schedule};
pub use segment::{SEGMENTS_MAX, Segment};
pub(crate) use target::turns;
pub use target::{Embedded, Endpoint, Refused, StartServer, Target, WEIGHT_MAX};
pub use template::{Template, expand_variables};
pub use timestamps::Timestamps;
pub(crate) use units::in_words;
pub use units::{bytes, count, duration, message};
pub use workload::{
    Compress, DEPTH_MAX, DRAIN_DEFAULT, MAX_LATENESS_DEFAULT, RATE_PERIOD_S_MAX, SAMPLES_MAX, Workload,
};

/// The configuration of a run.
#[derive(Debug)]
pub struct Plan {
    /// The target.
    pub target: Target,
    /// The loads, run one after the other; all have passed [`Workload::check`].
    pub workloads: Vec<Workload>,
    /// Resources that the generator may use.
    pub resources: Resources,
}

with_defaults! {
    /// Resources of this host that the generator may use. By default: one thread on any CPU, any driver, and the 1,024
    /// descriptors that a Linux process has.
    #[derive(Clone, Debug)]
    pub struct Resources {
        /// Threads, at least 1.
        pub threads: usize = 1,
        /// CPUs to pin the threads to, in turn; none leaves them free.
        pub cpus: Vec<usize> = Vec::new(),
        /// CPUs for an embedded server; none leaves it free.
        pub server_cpus: Vec<usize> = Vec::new(),
        /// Local addresses, used in turn. Empty: the kernel chooses, or, if a loopback target has too few ports for one
        /// address, connections are spread over 127.0.0.x.
        pub sources: Vec<IpAddr> = Vec::new(),
        /// The driver.
        pub driver: DriverChoice = DriverChoice::Auto,
        /// Descriptor limit of this process.
        pub descriptors: u64 = 1_024,
        /// A process whose CPU time and memory are sampled.
        pub server_pid: Option<u32> = None,
        /// Set from outside to end the run early with partial results.
        pub stop: Arc<AtomicBool> = Arc::default(),
    }
}

impl Resources {
    /// The CPU that a thread is pinned to.
    pub(crate) fn cpu_of(&self, thread: usize) -> Option<usize> {
        (!self.cpus.is_empty()).then(|| self.cpus[thread % self.cpus.len()])
    }
}

/// Minimum size in bytes at which a message identifies itself, so that losses, duplicates and reorderings are
/// distinguishable.
pub fn min_bytes(style: Style, mode: Mode) -> usize {
    Payloads::min_bytes(style, mode.form())
}
