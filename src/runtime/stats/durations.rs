//! A histogram of durations with exponential buckets, as Prometheus' native histograms have them.
//!
//! Eight buckets for each power of two of a second: a bucket's bounds differ by 9 %. Recording costs no branch on the
//! value and no memory.

use crate::limits::{DURATION_OCTAVE_MAX, DURATION_OCTAVE_MIN};
use echoring_proto::Merge;
use echoring_proto::limits::Nanos;
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

/// The resolution in Prometheus' terms: 2^3 buckets for each power of two.
pub const SCHEMA: i32 = 3;
const PER_OCTAVE: i32 = 1 << SCHEMA;
const BUCKETS: usize = ((DURATION_OCTAVE_MAX - DURATION_OCTAVE_MIN) * PER_OCTAVE) as usize;
/// Number of the bucket below the first, where bucket `n` ends at 2^(n / 8) seconds.
const FIRST: i32 = DURATION_OCTAVE_MIN * PER_OCTAVE;

/// Counts of durations. See the module's head for the buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    buckets: Box<[u64; BUCKETS]>,
    /// Durations below all buckets.
    zero: u64,
    count: u64,
    sum_ns: u64,
}

impl Default for Durations {
    fn default() -> Durations {
        Durations { buckets: Box::new([0; BUCKETS]), zero: 0, count: 0, sum_ns: 0 }
    }
}

impl Durations {
    /// Counts `times` durations of `ns`. Durations beyond the last bucket count there.
    #[doc(hidden)]
    #[inline]
    pub fn record(&mut self, ns: Nanos, times: u64) {
        self.record_in(BucketIndex::of(ns), ns, times);
    }

    /// The same with the bucket of `ns`, for a duration that several histograms count.
    #[doc(hidden)]
    #[inline]
    pub fn record_in(&mut self, bucket: BucketIndex, ns: Nanos, times: u64) {
        self.count += times;
        self.sum_ns += ns * times;
        match self.buckets.get_mut(bucket.0 as usize) {
            Some(count) => *count += times,
            None => self.zero += times,
        }
    }

    /// Adds the durations of another histogram.
    pub fn add(&mut self, other: &Durations) {
        let Durations { buckets, zero, count, sum_ns } = other;
        self.zero += zero;
        self.count += count;
        self.sum_ns += sum_ns;
        self.buckets.iter_mut().zip(buckets.iter()).for_each(|(sum, part)| *sum += part);
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all durations, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The durations of at most [`zero_threshold_s`], which are in no bucket.
    pub fn zero(&self) -> u64 {
        self.zero
    }

    /// The buckets that are not empty, with their numbers: bucket `n` holds durations above 2^((n - 1) / 8) seconds and
    /// at most 2^(n / 8).
    pub fn buckets(&self) -> impl Iterator<Item = (i32, u64)> {
        let counted = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(index, count)| (index as i32 + FIRST + 1, *count))
    }

    /// The durations of each power of two of a second, with its upper bound in seconds; the first has all below it, and
    /// the last, whose bound is infinite, all above.
    pub fn octaves(&self) -> Vec<(f64, u64)> {
        let parts = self.buckets.chunks(PER_OCTAVE as usize).zip(DURATION_OCTAVE_MIN + 1..);
        let mut octaves: Vec<(f64, u64)> =
            parts.map(|(part, exponent)| (f64::from(exponent).exp2(), part.iter().sum())).collect();
        octaves[0].1 += self.zero;
        if let Some((bound, _)) = octaves.last_mut() {
            *bound = f64::INFINITY;
        }
        octaves
    }
}

impl Merge for Durations {
    fn merge(&mut self, other: &Durations) {
        self.add(other);
    }
}

/// In a form whose differences between two answers are histograms again.
impl Serialize for Durations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut figures = serializer.serialize_struct("Durations", 4)?;
        figures.serialize_field("count", &self.count)?;
        figures.serialize_field("sum_ns", &self.sum_ns)?;
        figures.serialize_field("zero", &self.zero)?;
        figures.serialize_field("buckets", &self.buckets().collect::<Vec<_>>())?;
        figures.end()
    }
}

/// The bucket of a duration; beyond all buckets for one that is too short for them.
#[derive(Clone, Copy, Debug)]
pub struct BucketIndex(u32);

impl BucketIndex {
    /// The bucket for a duration of `ns`.
    #[inline]
    pub fn of(ns: Nanos) -> BucketIndex {
        let index = (number_of(ns) - FIRST - 1).min(BUCKETS as i32 - 1);
        BucketIndex(u32::try_from(index).unwrap_or(u32::MAX))
    }
}

/// Durations up to this number of seconds are not distinguished.
pub fn zero_threshold_s() -> f64 {
    f64::from(DURATION_OCTAVE_MIN).exp2()
}

/// The number of the bucket for a duration: the next integer above eight times the logarithm of its seconds.
#[inline]
fn number_of(ns: Nanos) -> i32 {
    /// 2^(n / 8) between 1 and 2.
    const BOUNDS: [f64; PER_OCTAVE as usize - 1] = [
        1.090_507_732_665_257_7,
        1.189_207_115_002_721,
        1.296_839_554_651_009_6,
        std::f64::consts::SQRT_2,
        1.542_210_825_407_940_7,
        1.681_792_830_507_429,
        1.834_008_086_409_342_4,
    ];
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = (ns as f64 * 1e-9).to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let mantissa = f64::from_bits(bits & MANTISSA | 1.0f64.to_bits());
    // Halves what is left in each step; the number of bounds below the mantissa.
    let mut below = 0;
    for step in [4, 2, 1] {
        below += if mantissa > BOUNDS[below + step - 1] { step } else { 0 };
    }
    exponent * PER_OCTAVE + below as i32 + i32::from(mantissa > 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::limits::SECOND;
    use proptest::prelude::*;

    fn recorded(ns: Nanos) -> Durations {
        let mut durations = Durations::default();
        durations.record(ns, 1);
        durations
    }

    #[test]
    fn a_power_of_two_is_the_last_of_its_bucket() {
        assert_eq!(recorded(SECOND).buckets().collect::<Vec<_>>(), [(0, 1)]);
        assert_eq!(recorded(SECOND + 1).buckets().collect::<Vec<_>>(), [(1, 1)]);
        assert_eq!(recorded(2 * SECOND).buckets().collect::<Vec<_>>(), [(8, 1)]);
        assert_eq!(recorded(SECOND / 2).buckets().collect::<Vec<_>>(), [(-8, 1)]);
    }

    #[test]
    fn durations_outside_the_buckets_are_counted() {
        let short = recorded(0);
        assert_eq!((short.zero(), short.count(), short.buckets().count()), (1, 1, 0));
        let long = recorded(3_600 * SECOND);
        assert_eq!(long.buckets().collect::<Vec<_>>(), [(DURATION_OCTAVE_MAX * 8, 1)]);
        assert_eq!(
            long.octaves().last().map(|(bound, count)| (bound.is_infinite(), *count)),
            Some((true, 1))
        );
    }

    #[test]
    fn histograms_add_up() {
        let mut sum = recorded(10);
        sum.record(5_000, 3);
        sum.add(&recorded(5_000));
        assert_eq!((sum.count(), sum.sum_ns()), (5, 20_010));
        assert_eq!(sum.octaves().iter().map(|(_, count)| count).sum::<u64>(), 5);
        assert_eq!(sum.buckets().map(|(_, count)| count).sum::<u64>(), 4);
    }

    proptest! {
        #[test]
        fn a_duration_is_within_the_bounds_of_its_bucket(ns in 100u64..60 * SECOND) {
            let durations = recorded(ns);
            let (number, _) = durations.buckets().next().expect("one bucket");
            let seconds = ns as f64 * 1e-9;
            let bound = |number: i32| (f64::from(number) / 8.0).exp2();
            // The bounds are rounded.
            prop_assert!(bound(number - 1) < seconds * (1.0 + 1e-12) && seconds <= bound(number) * (1.0 + 1e-12));
        }
    }
}
