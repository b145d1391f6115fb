//! Where a run took place, and the generators that shared it, in its record.

use serde::{Deserialize, Serialize};

/// Where a run took place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Commit of the source, if the build was given one.
    pub commit: Option<String>,
    /// Version of this program.
    pub version: String,
    /// Model name of the processor.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// The generator's driver.
    pub driver: String,
    /// Kernel features that it uses.
    pub features: Vec<String>,
    /// Kernel features that are unavailable.
    pub degraded: Vec<String>,
    /// Whether this program was built with optimisations.
    pub optimized: bool,
}

/// One of the generators that shared a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Connections assigned to it.
    pub connections: u32,
    /// Those that opened.
    pub opened: u64,
    /// Messages that arrived at it in the measured time; the reported ones, if it was lost.
    pub messages: u64,
    /// How far its clock was behind the common clock in the end, in nanoseconds; `None` if they were not compared.
    pub clock_behind_ns: Option<i64>,
    /// Half the shortest round trip of those comparisons, which bounds the error of `clock_behind_ns`.
    pub clock_uncertainty_ns: Option<u64>,
    /// Why its results are missing, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Where it ran; `None` if it was lost.
    pub environment: Option<Environment>,
}

/// A share of a run whose other shares are in other records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentPart {
    /// Number of the share, from 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
    /// All counts and distributions: JSON of the same version, deflated, in Base64.
    pub results: String,
}
