//! SplitMix64: a small deterministic generator for schedules, payloads, resampling and tests.
//!
//! Its output is predictable. Masking keys (RFC 6455, section 10.3) come from [`Seed`](crate::connection::Seed).

/// Increment of the state: 2⁶⁴ divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output of SplitMix64 for the state `z`: every bit of the input reaches every bit of the output.
#[inline]
pub fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(GAMMA);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `bound` from 64 random bits, or 0. Its bias is negligible for bounds far below 2⁶⁴.
#[inline]
pub fn scale(random: u64, bound: u64) -> u64 {
    // The upper half of the product.
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// A deterministic sequence of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64 { state: seed }
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let drawn = mix(self.state);
        self.state = self.state.wrapping_add(GAMMA);
        drawn
    }

    /// A number below `bound`, which is at least 1.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        scale(self.next_u64(), bound)
    }

    /// A number from 0 up to, but not including, 1.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of `items`, which must not be empty.
    #[inline]
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Replaces the content of `drawn` by `items.len()` draws from `items`, with replacement.
    pub fn draw_into<T: Copy>(&mut self, items: &[T], drawn: &mut Vec<T>) {
        drawn.clear();
        drawn.extend(items.iter().map(|_| *self.pick(items)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_equal_those_of_the_reference_implementation() {
        let mut random = SplitMix64::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_seed_gives_one_sequence_and_every_number_below_the_bound() {
        let draw = |seed| {
            let mut random = SplitMix64::new(seed);
            (0..1_000).map(|_| random.below(7)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        for number in 0..7 {
            let times = draw(5).into_iter().filter(|drawn| *drawn == number).count();
            // The expected count is 143; six standard deviations are 66.
            assert!(times.abs_diff(143) < 66, "{number}: {times} times");
        }
        let mut random = SplitMix64::new(9);
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&random.unit())));
    }
}
