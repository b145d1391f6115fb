//! The offset between the wall clock, which time fields use, and the clock of the event loop.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use echoring_proto::limits::Nanos;

/// How far the wall clock is ahead of the event loop's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClockOffset {
    ahead: Duration,
}

impl ClockOffset {
    /// Reads both clocks, at `now`.
    pub(super) fn at(now: Nanos) -> ClockOffset {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ClockOffset { ahead: time.saturating_sub(Duration::from_nanos(now)) }
    }

    /// The wall clock at `now`, in nanoseconds since 1970.
    pub(super) fn unix_ns(self, now: Nanos) -> u64 {
        self.ahead.as_nanos() as u64 + now
    }

    /// The age of a wall clock time at `now`; `None` if it is in the future.
    pub(super) fn age(self, now: Nanos, time: Duration) -> Option<Nanos> {
        let clock_offset = self.ahead + Duration::from_nanos(now);
        clock_offset.checked_sub(time).map(|age| age.as_nanos() as Nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_relative_to_the_wall_clock() {
        let clock_offset = ClockOffset { ahead: Duration::from_secs(1_700_000_000) };
        let now = 5_000_000_000;
        assert_eq!(clock_offset.age(now, Duration::from_secs(1_700_000_004)), Some(1_000_000_000));
        assert_eq!(clock_offset.age(now, Duration::from_secs(1_700_000_005)), Some(0));
        assert_eq!(clock_offset.age(now, Duration::from_secs(1_700_000_007)), None);
        assert_eq!(clock_offset.age(now, Duration::from_secs(5)), Some(1_700_000_000_000_000_000));
    }
}
