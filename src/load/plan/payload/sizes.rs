//! Message sizes: one size, or sizes of a range that depend on the hash of each message.
//!
//! Never: a table as long as the range, or an allocation.

use crate::plan::declared::words;
use echoring_proto::random::mix;

/// Maximum number of draws for one size. Each fails with a probability of a few per cent, so the last is practically
/// never reached.
const DRAWS_MAX: usize = 64;

words! {
    /// The distribution of sizes over a range.
    #[derive(Default)]
    pub enum Spread {
        /// Uniform
        #[default]
        Even => "even",
        /// Zipf's law with exponent 1: the `k`-th size of the range has `1 / k` times the frequency of the first
        Zipf => "zipf",
    }
}

/// The sizes of a run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sizes {
    One(usize),
    Even { least: usize, count: u64 },
    Zipf { least: usize, ranks: Zipf },
}

impl Sizes {
    /// Sizes from `bytes.0` to `bytes.1`, which must be ascending.
    pub(super) fn new((least, most): (usize, usize), spread: Spread) -> Sizes {
        let count = (most - least + 1) as u64;
        match spread {
            _ if count == 1 => Sizes::One(least),
            Spread::Even => Sizes::Even { least, count },
            Spread::Zipf => Sizes::Zipf { least, ranks: Zipf::new(count) },
        }
    }

    /// The size of a message. `hash` is called only if sizes differ.
    #[inline]
    pub(super) fn pick(&self, hash: impl FnOnce() -> u64) -> usize {
        match self {
            Sizes::One(bytes) => *bytes,
            // The high half selects the size, the low bits select the cut.
            Sizes::Even { least, count } => least + (((hash() >> 32) * count) >> 32) as usize,
            Sizes::Zipf { least, ranks } => least + ranks.draw(hash()) as usize - 1,
        }
    }
}

/// Ranks 1 to `n` with probabilities exactly proportional to `1 / k`, by rejection sampling.
///
/// The area under `1 / x` from `k - 1/2` to `k + 1/2` is slightly larger than `1 / k`, because the curve is convex. So
/// a uniform point of the whole area belongs to the rank nearest to its `x`, and is accepted if it lies in the last `1
/// / k` of that rank's area. The first rank's area is cut to exactly 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zipf {
    ranks: f64,
    /// Limits of the area, as the logarithm that is its integral.
    from: f64,
    until: f64,
}

impl Zipf {
    fn new(ranks: u64) -> Zipf {
        let ranks = ranks as f64;
        Zipf { ranks, from: 1.5_f64.ln() - 1.0, until: (ranks + 0.5).ln() }
    }

    fn draw(&self, hash: u64) -> u64 {
        const MANTISSA_BITS: u32 = 53;
        let mut random = hash;
        for _ in 0..DRAWS_MAX {
            let uniform = ((random >> (64 - MANTISSA_BITS)) + 1) as f64 / (1_u64 << MANTISSA_BITS) as f64;
            let area = self.from + uniform * (self.until - self.from);
            let rank = area.exp().round().clamp(1.0, self.ranks);
            if area >= (rank + 0.5).ln() - 1.0 / rank {
                return rank as u64;
            }
            random = mix(random);
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(bytes: (usize, usize), spread: Spread, draws: u64) -> Vec<u64> {
        let sizes = Sizes::new(bytes, spread);
        let mut counts = vec![0; bytes.1 + 1];
        for draw in 0..draws {
            counts[sizes.pick(|| mix(draw))] += 1;
        }
        counts
    }

    /// Whether a count matches a probability over these draws, within five standard deviations.
    fn is_likely(count: u64, draws: u64, chance: f64) -> bool {
        let expected = draws as f64 * chance;
        (count as f64 - expected).abs() < 5.0 * (expected * (1.0 - chance)).sqrt().max(1.0)
    }

    #[test]
    fn zipf_sizes_have_the_probabilities_of_the_law() {
        const DRAWS: u64 = 1_000_000;
        for (least, most) in [(10, 11), (12, 19), (1, 100), (16, 4_096)] {
            let sum: f64 = (least..=most).map(|size| 1.0 / (size - least + 1) as f64).sum();
            let counts = counts((least, most), Spread::Zipf, DRAWS);
            assert_eq!(counts[..least].iter().sum::<u64>(), 0, "none is below the range");
            assert_eq!(counts.iter().sum::<u64>(), DRAWS);
            for size in (least..=most).take(200) {
                let chance = 1.0 / (size - least + 1) as f64 / sum;
                assert!(
                    is_likely(counts[size], DRAWS, chance),
                    "{size} of {least}..{most}: {}",
                    counts[size]
                );
            }
            // The rare sizes of a long range in groups, so that counts are large enough.
            for from in (least + 200..=most).step_by(200) {
                let stretch = from..(from + 200).min(most + 1);
                let chance: f64 = stretch.clone().map(|size| 1.0 / (size - least + 1) as f64 / sum).sum();
                let count = counts[stretch.clone()].iter().sum();
                assert!(is_likely(count, DRAWS, chance), "{stretch:?} of {least}..{most}: {count}");
            }
        }
    }

    #[test]
    fn zipf_of_a_kilobyte_range_is_as_its_description_says() {
        const DRAWS: u64 = 400_000;
        let counts = counts((16, 4_096), Spread::Zipf, DRAWS);
        let up_to_63: u64 = counts[..=63].iter().sum();
        assert!((up_to_63 as f64 / DRAWS as f64 - 0.5).abs() < 0.01, "{up_to_63}");
        let bytes: u64 = counts.iter().zip(0..).map(|(count, size)| count * size).sum();
        let mean = bytes as f64 / DRAWS as f64;
        assert!((mean - 474.0).abs() < 10.0, "{mean}");
    }

    #[test]
    fn an_even_spread_takes_every_size_equally_often() {
        let counts = counts((12, 20), Spread::Even, 90_000);
        assert_eq!(counts[..12].iter().sum::<u64>(), 0);
        assert!(counts[12..].iter().all(|&count| is_likely(count, 90_000, 1.0 / 9.0)), "{counts:?}");
    }

    #[test]
    fn the_longest_range_is_drawn_from_in_bounds() {
        let sizes = Sizes::new((1, 1 << 31), Spread::Zipf);
        for draw in 0..100_000 {
            assert!((1..=1 << 31).contains(&sizes.pick(|| mix(draw))));
        }
        for hash in [0, u64::MAX] {
            assert!((1..=1 << 31).contains(&sizes.pick(|| hash)));
        }
    }
}
