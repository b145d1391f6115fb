//! A rate that is changed from outside while a load runs.

use std::sync::atomic::{AtomicU64, Ordering};

use super::schedule::profile::RATE_MAX;

/// The rate of the running load, which may be changed from any thread.
#[derive(Debug, Default)]
pub struct RateControl {
    /// The rate in force, or that was asked for; 0 while no load with a constant rate runs.
    rate: AtomicU64,
}

impl RateControl {
    /// Messages per second of the running load, or per period of its rate; `None` while no load runs whose rate can be
    /// changed.
    pub fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// Asks for another rate of 1 to [`RATE_MAX`]. Returns the rate that is asked for, or `None` while no load runs
    /// whose rate can be changed.
    pub fn set(&self, rate: u64) -> Option<u64> {
        self.change(|_| rate)
    }

    /// Asks for a rate that follows from the present one.
    pub fn change(&self, next: impl Fn(u64) -> u64) -> Option<u64> {
        let wanted = |rate: u64| (rate > 0).then(|| next(rate).clamp(1, RATE_MAX));
        self.rate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, wanted).ok().and_then(wanted)
    }

    /// A load with this rate begins, or the load ends.
    pub fn begin(&self, rate: Option<u64>) {
        self.rate.store(rate.unwrap_or(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_running_rate_is_changed() {
        let control = RateControl::default();
        assert_eq!((control.rate(), control.set(5)), (None, None));
        control.begin(Some(1_000));
        assert_eq!((control.set(2_000), control.rate()), (Some(2_000), Some(2_000)));
        assert_eq!(control.change(|rate| rate / 2_001), Some(1));
        assert_eq!(control.set(u64::MAX), Some(RATE_MAX));
        control.begin(None);
        assert_eq!((control.rate(), control.set(5)), (None, None));
    }
}
