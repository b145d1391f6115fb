//! How exactly quantiles were known when a run ended, in its record.

use serde::{Deserialize, Serialize};

/// What was asked of a run, and what it reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Until {
    /// The chance that an interval contains the true value, although the run ended because of it.
    pub confidence: f64,
    /// Goals that were not reached.
    pub unreached: u64,
    /// When the intervals were computed, in seconds from the start of the measured time.
    pub at_s: u64,
    /// The blocks of messages that they were computed from.
    pub blocks: u64,
    /// How often the results had been looked at by then.
    pub looks: u32,
    /// Each goal.
    pub goals: Vec<Reached>,
}

/// A goal, and how exactly its quantile was known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// As given.
    pub expression: String,
    /// Whether the interval was as narrow as asked.
    pub reached: bool,
    /// The quantile. `None` with too few messages or too short a time for an interval.
    pub value_ns: Option<u64>,
    /// The lower end of its interval.
    pub low_ns: Option<u64>,
    /// The upper end.
    pub high_ns: Option<u64>,
    /// The larger distance of an end from the value, as a share of the value.
    pub width: Option<f64>,
    /// The intervals of all looks, from the first that had one; empty in records from older versions.
    #[serde(default)]
    pub course: Vec<QuantileLook>,
}

/// A quantile as known at a look; all intervals of a course contain the true value together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantileLook {
    /// When, in seconds from the start of the measured time.
    pub at_s: u64,
    /// The quantile.
    pub value_ns: u64,
    /// The lower end of its interval.
    pub low_ns: u64,
    /// The upper end.
    pub high_ns: u64,
}
