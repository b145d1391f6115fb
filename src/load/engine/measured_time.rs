//! The ends of the measured time where they are decided while the load runs. All threads follow them from the same time on.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::measure::Window;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// From the decision about an end to the end itself, so that every thread knows of it in time: twice the maximum sleep of a
/// thread.
pub(super) const NOTICE: Nanos = 100 * MILLISECOND;

/// The beginning and the end as the session decided them; 0 where it did not.
#[derive(Debug, Default)]
pub(super) struct MeasuredTime {
    from: AtomicU64,
    until: AtomicU64,
}

impl MeasuredTime {
    /// The measured time begins at `at`, unless a beginning was decided before.
    pub(super) fn begin_at(&self, at: Nanos) {
        let _ = self.from.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The measured time ends at `at`, unless an end was decided before.
    pub(super) fn end_at(&self, at: Nanos) {
        let _ = self.until.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The present window, with the ends that were decided since. Its length stays if only the beginning moves.
    #[inline]
    pub(super) fn of(&self, window: Window) -> Window {
        let Window { mut from, mut until } = window;
        let (decided_from, decided_until) =
            (self.from.load(Ordering::Relaxed), self.until.load(Ordering::Relaxed));
        if decided_from != 0 && decided_from < from {
            until -= from - decided_from;
            from = decided_from;
        }
        if decided_until != 0 {
            until = until.min(decided_until.max(from));
        }
        Window { from, until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_time_only_moves_to_earlier_times() {
        let (decided, window) = (MeasuredTime::default(), Window { from: 100, until: 150 });
        assert_eq!(decided.of(window), window);
        decided.end_at(200);
        assert_eq!(decided.of(window), window, "it is over by then");
        let decided = MeasuredTime::default();
        decided.end_at(130);
        decided.end_at(120);
        assert_eq!(decided.of(window), Window { from: 100, until: 130 });
        let decided = MeasuredTime::default();
        decided.begin_at(110);
        assert_eq!(decided.of(window), window, "it begins before");
        let decided = MeasuredTime::default();
        decided.begin_at(80);
        decided.begin_at(70);
        let moved = Window { from: 80, until: 130 };
        assert_eq!((decided.of(window), decided.of(moved)), (moved, moved), "as long as before");
    }
}
