//! A calibration of the generator on a host: JSON with the schema `echoring.calibration/1`, described in
//! `docs/reference/run-record.md`, and its quotation in the records of later runs.

use serde::{Deserialize, Serialize};

use crate::measure::Integrity;
use crate::record::{Environment, Record};

/// Name and version of the schema.
pub const SCHEMA: &str = "echoring.calibration/1";

/// How far results on a host can be believed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// [`SCHEMA`].
    pub schema: String,
    /// When it was measured, RFC 3339, UTC.
    pub measured_at: String,
    /// Where it was measured.
    pub environment: Environment,
    /// Threads of the generator.
    pub threads: usize,
    /// CPUs that they were pinned to, if any.
    pub cpus: Vec<usize>,
    /// Connections of each step.
    pub connections: u32,
    /// Smallest and largest payload.
    pub message_bytes: [u64; 2],
    /// The result.
    pub believed: Believed,
    /// The same for the time of server and network by the kernel's timestamps; `None` without these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Believed>,
    /// The planted faults, and those that the generator reported.
    pub faults: Faults,
    /// The runs with planted delays.
    pub steps: Vec<CalibrationStep>,
}

/// The limits within which quantiles of the response time are right to within a tenth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Believed {
    /// Medians above this; `None` if unknown, as are the following.
    pub p50_above_ns: Option<u64>,
    /// 99 %.
    pub p99_above_ns: Option<u64>,
    /// 99.9 %.
    pub p999_above_ns: Option<u64>,
    /// Up to this number of messages per second; `None` if no rate was held.
    pub rate_max: Option<u64>,
}

/// Faults of the calibration server.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Faults {
    /// By its own log.
    pub planted: Integrity,
    /// By the generator.
    pub reported: Integrity,
}

impl Faults {
    /// Whether each kind was reported exactly as often as it was planted.
    pub fn is_exact(&self) -> bool {
        self.planted == self.reported
    }
}

/// A run with planted delays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationStep {
    /// Messages due per second.
    pub rate: u64,
    /// The planted delays in words, such as `1.00 ms`.
    pub delays: String,
    /// Messages that arrived per second.
    pub messages_per_s: f64,
    /// Why the rate was not held; `None` if it was.
    pub why: Option<String>,
    /// The response times.
    #[serde(flatten)]
    pub response: QuantilePairs,
    /// Those of server and network by the kernel's timestamps.
    #[serde(default, skip_serializing_if = "QuantilePairs::are_unknown")]
    pub kernel: QuantilePairs,
}

/// Quantiles, planted and measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantilePairs {
    /// The medians; `None` where too few messages are beyond the quantile.
    pub p50: Option<QuantilePair>,
    /// 99 %.
    pub p99: Option<QuantilePair>,
    /// 99.9 %.
    pub p999: Option<QuantilePair>,
}

impl QuantilePairs {
    fn are_unknown(&self) -> bool {
        *self == QuantilePairs::default()
    }
}

/// A quantile, planted and measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantilePair {
    /// By the server's log of the time for which it kept each message.
    pub planted_ns: u64,
    /// By the generator.
    pub measured_ns: u64,
}

impl QuantilePair {
    /// By how much the measured one is wrong.
    pub fn error_ns(&self) -> u64 {
        self.measured_ns.abs_diff(self.planted_ns)
    }
}

/// A record's quotation of the calibration of its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotation {
    /// When it was measured.
    pub measured_at: String,
    /// Its result.
    #[serde(flatten)]
    pub believed: Believed,
    /// Its result for the time of server and network by the kernel's timestamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Believed>,
}

impl Calibration {
    /// The quotation in the record of a run; `None` if the calibration is of another host, program or number of
    /// threads.
    pub fn quoted_in(&self, record: &Record) -> Option<Quotation> {
        let (own, other) = (&self.environment, &record.environment);
        let is_same = (&own.cpu, own.cpus, &own.kernel, &own.version, &own.driver, own.optimized)
            == (&other.cpu, other.cpus, &other.kernel, &other.version, &other.driver, other.optimized)
            && self.threads == record.config.threads
            // Agents are on other hosts.
            && record.agents.is_empty();
        is_same.then(|| Quotation {
            measured_at: self.measured_at.clone(),
            believed: self.believed,
            kernel: self.kernel,
        })
    }
}
