//! Why a load is invalid: the flag, and the reason.

use std::fmt;

/// Why a workload is invalid: the flag, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The flag, such as `--depth`.
    pub flag: &'static str,
    /// The reason, in one line.
    pub why: String,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.flag, self.why)
    }
}
