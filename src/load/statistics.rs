//! Medians, and how sure they are: percentile intervals by the bootstrap, for runs that were made in pairs, for runs
//! that were not, and for the intervals of one run, whose neighbours resemble one another.
//!
//! All of it follows from the values and a seed. Never: a clock, a source of randomness, or a claim from fewer values
//! than can carry it.

use super::payload::mix;

/// Share of intervals that are to contain the truth.
pub const CONFIDENCE: f64 = 0.95;
/// How often values are drawn anew for an interval.
pub const RESAMPLES: usize = 2_000;
/// The fewest runs, or pairs of them, that carry an interval: the whole range of five values misses their median more
/// often than one time in twenty.
pub const RUNS_MIN: usize = 6;
/// The fewest intervals of a run that carry one.
pub const INTERVALS_MIN: usize = 10;

/// What all resampling starts from, so that the same records always give the same words.
pub const SEED: u64 = 0x6563_686f_7269_6e67;

/// A sequence that looks random and follows from its seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
    drawn: u64,
}

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Random {
        Random { seed: mix(seed), drawn: 0 }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.drawn += 1;
        mix(self.seed ^ mix(self.drawn))
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        // The upper half of a product is even enough for bounds far below 2^64.
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A number from 0 up to, but not, 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The value below which a share `q` (0 to 1) of the values lies, between two of them where it falls there. `None` of
/// nothing.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    of_sorted(&sorted, q)
}

/// The value in the middle, or the mean of the two there. `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

fn of_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    let share = at - below as f64;
    Some(sorted[below] + share * (sorted[above] - sorted[below]))
}

/// A number, and the interval that holds the true one with [`CONFIDENCE`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// What was found.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// How values may be drawn anew, so that what is drawn is as scattered as a repetition would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Each by itself: repetitions.
    Single,
    /// In stretches of neighbours, around the end to the beginning (circular block bootstrap): a series in time, where
    /// a value resembles the one before it. Drawn one by one such values would seem surer than they are.
    Blocks,
}

impl Draw {
    fn block(self, values: usize) -> usize {
        match self {
            Draw::Single => 1,
            // The usual order of growth: long enough to keep neighbours together, short enough to have many.
            Draw::Blocks => (values as f64).cbrt().ceil() as usize,
        }
    }

    /// Fills `drawn` with as many of `values`.
    fn again(self, values: &[f64], random: &mut Random, drawn: &mut Vec<f64>) {
        drawn.clear();
        let block = self.block(values.len());
        while drawn.len() < values.len() {
            let start = random.below(values.len());
            let wanted = block.min(values.len() - drawn.len());
            drawn.extend((start..start + wanted).map(|at| values[at % values.len()]));
        }
    }
}

/// The median with its interval. `None` when the values are fewer than [`RUNS_MIN`] runs or [`INTERVALS_MIN`]
/// intervals.
pub fn median_of(values: &[f64], draw: Draw, seed: u64) -> Option<Estimate> {
    let (mut random, mut drawn) = (Random::new(seed), Vec::new());
    is_enough(values.len(), draw).then_some(())?;
    estimate(median(values)?, || {
        draw.again(values, &mut random, &mut drawn);
        median_of_scratch(&mut drawn)
    })
}

/// The median of the ratios `b / a` of pairs, whose two values were taken next to each other: what moved both is in
/// neither. `None` when pairs are fewer than [`RUNS_MIN`] or a value is not above zero.
pub fn ratio_of_pairs(a: &[f64], b: &[f64], seed: u64) -> Option<Estimate> {
    if a.len() != b.len() || !all_positive(a) || !all_positive(b) {
        return None;
    }
    let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| b / a).collect();
    median_of(&ratios, Draw::Single, seed)
}

/// The ratio of the medians, `b / a`, of values that belong to one another in no way. `None` when there are too few of
/// either or a value is not above zero.
pub fn ratio_of_medians(a: &[f64], b: &[f64], draw: Draw, seed: u64) -> Option<Estimate> {
    if !is_enough(a.len().min(b.len()), draw) || !all_positive(a) || !all_positive(b) {
        return None;
    }
    let (mut random, mut drawn) = (Random::new(seed), Vec::new());
    estimate(median(b)? / median(a)?, || {
        draw.again(a, &mut random, &mut drawn);
        let of_a = median_of_scratch(&mut drawn);
        draw.again(b, &mut random, &mut drawn);
        median_of_scratch(&mut drawn) / of_a
    })
}

fn is_enough(values: usize, draw: Draw) -> bool {
    values
        >= match draw {
            Draw::Single => RUNS_MIN,
            Draw::Blocks => INTERVALS_MIN,
        }
}

fn all_positive(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_finite() && *value > 0.0)
}

/// The percentile interval of what `repeat` gives.
fn estimate(value: f64, mut repeat: impl FnMut() -> f64) -> Option<Estimate> {
    let mut found: Vec<f64> = (0..RESAMPLES).map(|_| repeat()).collect();
    found.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    // Drawn anew, values may all lie to one side of what was found; the interval still has to hold it.
    let low = of_sorted(&found, tail)?.min(value);
    let high = of_sorted(&found, 1.0 - tail)?.max(value);
    Some(Estimate { value, low, high })
}

/// The median of at least one value, which may be put in another order.
fn median_of_scratch(values: &mut [f64]) -> f64 {
    let (count, middle) = (values.len(), values.len() / 2);
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if count % 2 == 1 {
        return upper;
    }
    let lower = below.iter().copied().max_by(f64::total_cmp).unwrap_or(upper);
    lower + (upper - lower) / 2.0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A normally distributed number (Box and Muller's way).
    pub(in crate::load) fn normal(random: &mut Random) -> f64 {
        let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * random.unit()).cos()
    }

    /// How many of 300 intervals hold the truth.
    fn covered(truth: f64, mut interval: impl FnMut(u64) -> Option<Estimate>) -> usize {
        let holds = |found: Estimate| (found.low..=found.high).contains(&truth);
        (0..300).filter(|&trial| interval(trial).is_some_and(holds)).count()
    }

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 8.0]), Some(3.0));
        assert_eq!(quantile(&[10.0, 20.0, 30.0], 0.25), Some(15.0));
        assert_eq!((quantile(&[1.0, 2.0], 0.0), quantile(&[1.0, 2.0], 1.0)), (Some(1.0), Some(2.0)));
        let mut random = Random::new(1);
        for count in 1..40 {
            let mut values: Vec<f64> = (0..count).map(|_| random.unit()).collect();
            let (exact, found) = (median(&values), median_of_scratch(&mut values));
            assert!((exact.expect("values") - found).abs() < 1e-12, "{count} values");
        }
    }

    #[test]
    fn a_seed_gives_one_sequence_and_every_number_below_the_bound() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..1_000).map(|_| random.below(7)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        for number in 0..7 {
            let times = draw(5).into_iter().filter(|drawn| *drawn == number).count();
            // 143 are due; six standard deviations are 66.
            assert!(times.abs_diff(143) < 66, "{number}: {times} times");
        }
        let mut random = Random::new(9);
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&random.unit())));
    }

    #[test]
    fn intervals_follow_from_the_seed_and_hold_what_was_found() {
        let mut random = Random::new(3);
        let values: Vec<f64> = (0..20).map(|_| random.unit()).collect();
        let found = median_of(&values, Draw::Single, 7).expect("enough values");
        assert_eq!(Some(found), median_of(&values, Draw::Single, 7));
        assert!(found.low < found.value && found.value < found.high, "{found:?}");
        let same = median_of(&[2.0; 6], Draw::Single, 7);
        assert_eq!(same, Some(Estimate { value: 2.0, low: 2.0, high: 2.0 }));
    }

    #[test]
    fn too_few_values_and_zeros_carry_no_interval() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(median_of(&values[1..], Draw::Single, 1), None);
        assert_eq!(median_of(&values, Draw::Blocks, 1), None);
        assert!(median_of(&values, Draw::Single, 1).is_some());
        assert_eq!(ratio_of_pairs(&values, &values[1..], 1), None);
        assert_eq!(ratio_of_pairs(&values, &[0.0; 6], 1), None);
        assert_eq!(ratio_of_medians(&[0.0; 6], &values, Draw::Single, 1), None);
        assert_eq!(ratio_of_medians(&values, &values[1..], Draw::Single, 1), None);
    }

    #[test]
    fn intervals_of_pairs_hold_the_truth_about_as_often_as_they_say() {
        for pairs in [6, 10, 25] {
            let times = covered(1.1, |trial| {
                let mut random = Random::new(1_000 * pairs as u64 + trial);
                let (mut a, mut b) = (Vec::new(), Vec::new());
                for _ in 0..pairs {
                    // What both runs of a pair share is twenty times as large as what is sought.
                    let machine = (2.0 * normal(&mut random)).exp();
                    a.push(machine * (0.02 * normal(&mut random)).exp());
                    b.push(machine * 1.1 * (0.02 * normal(&mut random)).exp());
                }
                let found = ratio_of_pairs(&a, &b, trial)?;
                assert!(found.high - found.low < 0.2, "the pairs take away what they share: {found:?}");
                Some(found)
            });
            assert!(times >= 300 * 88 / 100, "{pairs} pairs: {times} of 300");
        }
    }

    #[test]
    fn intervals_of_runs_that_are_no_pairs_hold_the_truth_too() {
        let times = covered(0.8, |trial| {
            let mut random = Random::new(77_000 + trial);
            let mut runs = |scale: f64| -> Vec<f64> {
                (0..15).map(|_| scale * (0.1 * normal(&mut random)).exp()).collect()
            };
            ratio_of_medians(&runs(10.0), &runs(8.0), Draw::Single, trial)
        });
        assert!(times >= 300 * 88 / 100, "{times} of 300");
    }

    #[test]
    fn neighbours_that_resemble_one_another_widen_the_interval() {
        let series = |trial: u64, scale: f64| -> Vec<f64> {
            let mut random = Random::new(trial);
            let mut level = normal(&mut random) / (1.0 - 0.6_f64.powi(2)).sqrt();
            (0..60)
                .map(|_| {
                    level = 0.6 * level + normal(&mut random);
                    scale * (0.05 * level).exp()
                })
                .collect()
        };
        let times = |draw| {
            covered(1.2, |trial| {
                let (a, b) = (series(2 * trial, 5.0), series(2 * trial + 1, 6.0));
                ratio_of_medians(&a, &b, draw, trial)
            })
        };
        let (blocks, singly) = (times(Draw::Blocks), times(Draw::Single));
        assert!(blocks >= 300 * 80 / 100, "{blocks} of 300");
        assert!(blocks > singly + 15, "{blocks} and, as if each second stood for itself, {singly} of 300");
    }
}
