//! The measured time.

use serde::{Deserialize, Serialize};

use super::merge::Merge;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

/// Maximum number of intervals of a run. Longer runs have longer intervals.
const INTERVALS_MAX: u64 = 600;
/// Maximum number of slices of a run. Longer runs have longer slices. A thread has 2.5 KiB for each.
const SLICES_MAX: u64 = 1_200;
/// The shortest slice.
const SLICE_MIN: Nanos = 100 * MILLISECOND;

/// The time in which results count. Warm-up comes before it; messages in flight are awaited after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// First nanosecond.
    pub from: Nanos,
    /// One past the last.
    pub until: Nanos,
}

/// The span of both.
impl Merge for Window {
    fn merge(&mut self, other: &Window) {
        self.from = self.from.min(other.from);
        self.until = self.until.max(other.until);
    }
}

impl Window {
    /// Whether `at` counts.
    #[inline]
    pub fn contains(&self, at: Nanos) -> bool {
        (self.from..self.until).contains(&at)
    }

    /// The same by a clock that is ahead by this number of nanoseconds.
    pub(crate) fn shifted(self, ahead: i64) -> Window {
        Window { from: self.from.wrapping_add_signed(ahead), until: self.until.wrapping_add_signed(ahead) }
    }

    /// Length of an interval of this window.
    pub fn interval(&self) -> Nanos {
        (self.until.saturating_sub(self.from)).div_ceil(INTERVALS_MAX).next_multiple_of(SECOND).max(SECOND)
    }

    /// Length of a slice of this window: 100 ms, or one, two or five times a power of ten of that.
    pub fn slice(&self) -> Nanos {
        let least = self.until.saturating_sub(self.from).div_ceil(SLICES_MAX);
        let powers = std::iter::successors(Some(SLICE_MIN), |power| power.checked_mul(10));
        let mut lengths = powers.flat_map(|power| [1, 2, 5].map(|times| power.saturating_mul(times)));
        lengths.find(|length| *length >= least).unwrap_or(Nanos::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_has_longer_slices() {
        let slice = |seconds: u64| Window { from: 7, until: 7 + seconds * SECOND }.slice() / MILLISECOND;
        assert_eq!([1, 120, 121, 241, 600, 601].map(slice), [100, 100, 200, 500, 500, 1_000]);
        assert_eq!(slice(24 * 3_600), 100_000);
        let longest = Window { from: 0, until: Nanos::MAX };
        assert!(longest.until.div_ceil(longest.slice()) <= SLICES_MAX);
    }
}
