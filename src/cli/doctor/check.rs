//! One check and its verdict.

use std::borrow::Cow;

use serde::Serialize;

use crate::common::values::shown_bytes;

/// How a host does, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Nothing to do.
    Green,
    /// It works, at a cost.
    Yellow,
    /// A server with this configuration does not start, or may be killed.
    Red,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Verdict::Green => "green",
            Verdict::Yellow => "yellow",
            Verdict::Red => "red",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// A stable name for scripts.
    pub(super) id: Cow<'static, str>,
    pub(super) verdict: Verdict,
    /// The finding, and its cost.
    pub(super) finding: String,
    /// The remedy; every check that is not green has one.
    pub(super) cure: Option<String>,
}

impl Check {
    pub(super) fn green(id: impl Into<Cow<'static, str>>, finding: impl Into<String>) -> Check {
        Check { id: id.into(), verdict: Verdict::Green, finding: finding.into(), cure: None }
    }

    pub(super) fn yellow(
        id: impl Into<Cow<'static, str>>,
        finding: impl Into<String>,
        cure: impl Into<String>,
    ) -> Check {
        Check { id: id.into(), verdict: Verdict::Yellow, finding: finding.into(), cure: Some(cure.into()) }
    }

    /// The check if it fails; a green one with this finding otherwise.
    pub(super) fn unless(self, is_good: bool, finding: impl Into<String>) -> Check {
        if is_good { Check::green(self.id, finding) } else { self }
    }

    pub(super) fn red(
        id: impl Into<Cow<'static, str>>,
        finding: impl Into<String>,
        cure: impl Into<String>,
    ) -> Check {
        Check { id: id.into(), verdict: Verdict::Red, finding: finding.into(), cure: Some(cure.into()) }
    }
}

/// Bytes to read, not to compute with: whole MiB.
pub(crate) fn shown_size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < MIB { shown_bytes(bytes) } else { format!("{} MiB", bytes.div_ceil(MIB)) }
}
