//! The delays between attempts.
//!
//! Never: a clock or a random source; both are arguments.

#![forbid(unsafe_code)]

use std::time::Duration;

use echoring_proto::random::scale;

/// Delays that double up to a maximum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) initial: Duration,
    pub(super) max: Duration,
    pub(super) jitter: bool,
}

impl Backoff {
    /// The delay after `attempts` attempts. All 64 bits of `random` are used.
    pub(super) fn delay(&self, attempts: u32, random: u64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let bound = self.initial.saturating_mul(1 << doublings).min(self.max);
        if !self.jitter {
            return bound;
        }
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(scale(random, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_bound_and_are_random_below_it() {
        let backoff =
            Backoff { initial: Duration::from_millis(500), max: Duration::from_secs(5), jitter: false };
        let bounds = [500, 500, 1000, 2000, 4000, 5000, 5000];
        for (attempts, bound) in bounds.into_iter().enumerate() {
            let bound = Duration::from_millis(bound);
            let attempts = attempts as u32;
            assert_eq!(backoff.delay(attempts, u64::MAX / 3), bound);
            let jittered = Backoff { jitter: true, ..backoff };
            assert_eq!(jittered.delay(attempts, 0), Duration::ZERO);
            assert_eq!(jittered.delay(attempts, 1 << 63), bound / 2);
            let most = jittered.delay(attempts, u64::MAX);
            assert!(most < bound && bound - most < Duration::from_micros(1), "{most:?}");
        }
        assert_eq!(backoff.delay(u32::MAX, 1), Duration::from_secs(5));
        let never = Backoff { initial: Duration::MAX, max: Duration::MAX, jitter: true };
        assert!(never.delay(9, u64::MAX) > Duration::from_secs(3600));
    }
}
