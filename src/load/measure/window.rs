//! The measured time.

use serde::{Deserialize, Serialize};

use echoring_proto::limits::{Nanos, SECOND};

/// Maximum number of intervals of a run. Longer runs have longer intervals.
const INTERVALS_MAX: u64 = 600;

/// The time in which results count. Warm-up comes before it; messages in flight are awaited after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// First nanosecond.
    pub from: Nanos,
    /// One past the last.
    pub until: Nanos,
}

impl Window {
    /// Whether `at` counts.
    #[inline]
    pub fn contains(&self, at: Nanos) -> bool {
        (self.from..self.until).contains(&at)
    }

    /// The same by a clock that is so many nanoseconds ahead.
    pub(crate) fn shifted(self, ahead: i64) -> Window {
        Window { from: self.from.wrapping_add_signed(ahead), until: self.until.wrapping_add_signed(ahead) }
    }

    /// Length of an interval of this window.
    pub fn interval(&self) -> Nanos {
        (self.until.saturating_sub(self.from)).div_ceil(INTERVALS_MAX).next_multiple_of(SECOND).max(SECOND)
    }
}
