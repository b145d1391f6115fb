//! Whose times of a message are used: the program's, or also the kernel's.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose times are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timestamps {
    /// The program's.
    #[default]
    Program,
    /// Also the kernel's, on one in `every` connections.
    Kernel {
        /// At least 1.
        every: u32,
    },
    /// Also the kernel's, where they are known and cost little.
    Auto,
}

impl fmt::Display for Timestamps {
    /// As on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Timestamps::Program => f.write_str("program"),
            Timestamps::Kernel { every: 1 } => f.write_str("kernel"),
            Timestamps::Kernel { every } => write!(f, "kernel:1/{every}"),
            Timestamps::Auto => f.write_str("auto"),
        }
    }
}

/// Whose times a run uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamping {
    /// The kernel's times are noted on one in so many connections; 0 for none.
    pub every: u32,
    /// Why none are, if they were asked for.
    pub why_not: Option<String>,
}

impl Stamping {
    /// Whether the kernel's were asked for by name, and cannot be.
    pub(crate) fn is_denied(&self, asked: Timestamps) -> bool {
        self.every == 0 && matches!(asked, Timestamps::Kernel { .. })
    }

    /// Those in effect.
    pub(crate) fn timestamps(&self) -> Timestamps {
        match self.every {
            0 => Timestamps::Program,
            every => Timestamps::Kernel { every },
        }
    }
}
