//! Token buckets.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

use echoring_proto::limits::{Nanos, SECOND};

/// A rate: tokens per second. A bucket holds those of one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// This number of tokens per second; `None` for none, which would let nothing through.
    pub fn per_second(tokens: u64) -> Option<Rate> {
        NonZeroU64::new(tokens).map(Rate)
    }

    /// Tokens per second.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The time in which this number of tokens flows in, rounded down: a second has all of its tokens.
    fn time_of(self, tokens: u64) -> Nanos {
        let time = (u128::from(tokens) * u128::from(SECOND)) / u128::from(self.get());
        Nanos::try_from(time).unwrap_or(Nanos::MAX / 4)
    }
}

/// A token bucket, as the time at which it is full again (the generic cell rate algorithm): eight bytes that need no upkeep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Nanos,
}

impl Bucket {
    /// When it is full again.
    pub fn as_nanos(self) -> Nanos {
        self.full_at
    }

    /// Whether it is full.
    pub fn is_full(self, now: Nanos) -> bool {
        self.full_at <= now
    }

    /// Takes tokens, if there are as many.
    #[inline]
    pub fn take(&mut self, rate: Rate, tokens: u64, now: Nanos) -> bool {
        let full_at = self.full_at.max(now).saturating_add(rate.time_of(tokens));
        let has = full_at - now <= SECOND.max(rate.time_of(tokens));
        if has {
            self.full_at = full_at;
        }
        has
    }

    /// Takes tokens, even those that are not there yet: they have been used already. Returns when the bucket has none too
    /// few; that is now or earlier unless it has.
    #[inline]
    pub fn spend(&mut self, rate: Rate, tokens: u64, now: Nanos) -> Nanos {
        self.full_at = self.full_at.max(now).saturating_add(rate.time_of(tokens));
        self.full_at - SECOND.min(self.full_at)
    }
}

/// A bucket that several threads take from, without a lock.
#[derive(Debug, Default)]
pub struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// Takes tokens, if there are as many.
    pub fn take(&self, rate: Rate, tokens: u64, now: Nanos) -> bool {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let mut bucket = Bucket { full_at };
            bucket.take(rate, tokens, now).then_some(bucket.full_at)
        });
        taken.is_ok()
    }

    /// Whether it is full.
    pub fn is_full(&self, now: Nanos) -> bool {
        Bucket { full_at: self.0.load(Ordering::Relaxed) }.is_full(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::random::SplitMix64;

    fn rate(tokens: u64) -> Rate {
        Rate::per_second(tokens).expect("not zero")
    }

    #[test]
    fn a_bucket_gives_a_second_at_once_and_then_its_rate() {
        let (mut bucket, rate, start) = (Bucket::default(), rate(10), 77 * SECOND);
        assert_eq!((0..20).filter(|_| bucket.take(rate, 1, start)).count(), 10);
        assert!(!bucket.take(rate, 1, start + SECOND / 10 - 1));
        assert!(bucket.take(rate, 1, start + SECOND / 10));
        assert!(bucket.is_full(start + 2 * SECOND));
        assert_eq!((0..20).filter(|_| bucket.take(rate, 1, start + 60 * SECOND)).count(), 10);
    }

    #[test]
    fn over_any_time_no_more_is_taken_than_the_rate_and_one_second() {
        let mut random = SplitMix64::new(3);
        for _ in 0..200 {
            let rate = rate(1 + random.below(5_000));
            let (mut bucket, mut now, mut taken) = (Bucket::default(), SECOND, 0);
            let start = now;
            for _ in 0..500 {
                now += random.below(SECOND / 50);
                let tokens = 1 + random.below(3);
                taken += if bucket.take(rate, tokens, now) { tokens } else { 0 };
                let most = u128::from(rate.get()) * u128::from(now - start + SECOND) / u128::from(SECOND);
                assert!(u128::from(taken) <= most + 3, "{taken} of {most} at {rate:?}");
            }
        }
    }

    #[test]
    fn what_was_spent_too_early_is_paid_back_by_waiting() {
        let (mut bucket, rate, now) = (Bucket::default(), rate(100), 9 * SECOND);
        assert!(bucket.spend(rate, 100, now) <= now);
        assert_eq!(bucket.spend(rate, 50, now), now + SECOND / 2);
        assert_eq!(bucket.spend(rate, 1, now + SECOND / 2), now + SECOND / 2 + SECOND / 100);
        // Nothing overflows.
        assert!(bucket.spend(Rate::per_second(1).expect("one"), u64::MAX, now) > now);
    }

    #[test]
    fn a_rate_below_one_token_of_a_request_lets_single_requests_through() {
        let (mut bucket, rate) = (Bucket::default(), rate(2));
        assert!(bucket.take(rate, 5, SECOND), "an empty debt lets it pass");
        assert!(!bucket.take(rate, 5, 2 * SECOND));
    }
}
