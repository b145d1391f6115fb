//! Medians and ratios with confidence intervals: exact rank intervals for paired and unpaired runs, the bootstrap for the
//! median of repeated runs and for the correlated intervals of one run.
//!
//! Ratios are estimated on the logarithm. Pairs use the pseudo-median (Hodges and Lehmann) with the interval of Wilcoxon's
//! signed-rank test: under equal targets the two runs of a pair are exchangeable, since their order is random, so the interval
//! keeps its level for any distribution, outliers included. Unpaired runs use the shift with the interval of the rank-sum test
//! (Mann and Whitney).
//!
//! All results follow from the values and a seed. Never: a clock, a source of randomness, or a claim from too few
//! values.

use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

use echoring_proto::random::SplitMix64;

/// Confidence level of the intervals.
pub(crate) const CONFIDENCE: f64 = 0.95;
/// Resamples of a bootstrap.
pub(crate) const RESAMPLES: usize = 2_000;
/// Share of comparisons in which at least one metric's interval misses the true value.
pub(crate) const ERROR_SHARE: f64 = 1.0 - CONFIDENCE;
/// Minimum number of runs for an interval of the median: the range of five values misses the median in more than one
/// case of twenty.
pub(crate) const RUNS_MIN: usize = 6;
/// Pairs, and products of two numbers of runs, up to which the rank distribution is computed exactly; above, the normal
/// approximation is accurate enough.
const EXACT_PAIRS_MAX: usize = 128;
const EXACT_RUNS_MAX: usize = 4_096;
/// Minimum number of intervals of a run for a bootstrap.
pub(crate) const INTERVALS_MIN: usize = 10;

/// Seed of all resampling, so that the same records always give the same result.
pub(crate) const SEED: u64 = 0x6563_686f_7269_6e67;

/// The `q`-quantile (0 to 1), interpolated between neighbouring values. `None` without values.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    of_sorted(&sorted, q)
}

/// The median. `None` without values.
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

/// A value with its [`CONFIDENCE`] interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    /// The estimate.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// The median of repetitions with its interval. `None` with fewer than [`RUNS_MIN`].
pub(crate) fn median_of(values: &[f64], seed: u64) -> Option<Estimate> {
    (values.len() >= RUNS_MIN).then_some(())?;
    let mut drawn = Vec::new();
    bootstrap(median(values)?, seed, |random| {
        random.draw_into(values, &mut drawn);
        median_of_scratch(&mut drawn)
    })
}

/// Minimum number of pairs whose interval misses the true value in at most a share `error` of cases.
pub(crate) fn pairs_needed(error: f64) -> usize {
    (1..).find(|pairs| 2.0 * 0.5_f64.powi(*pairs) <= error).map_or(usize::MAX, |pairs| pairs as usize)
}

/// The same for unpaired runs of each side.
pub(crate) fn runs_needed(error: f64) -> usize {
    // Of all interleavings of the two sides' runs, two put one side completely before the other.
    let mut orders = 1.0;
    (1..)
        .find(|runs| {
            let runs = f64::from(*runs);
            orders *= (2.0 * runs) * (2.0 * runs - 1.0) / (runs * runs);
            2.0 / orders <= error
        })
        .map_or(usize::MAX, |runs: u32| runs as usize)
}

/// The ratio `b / a` of pairs, whose two values were measured next to each other, so that common disturbances cancel
/// out. Its interval misses the true value in at most a share `error` of cases. `None` if there are too few pairs, see
/// [`pairs_needed`], or a value is not above zero.
pub(crate) fn ratio_of_pairs(a: &[f64], b: &[f64], error: f64) -> Option<Estimate> {
    if a.len() != b.len() || !all_positive(a) || !all_positive(b) {
        return None;
    }
    let logs: Vec<f64> = a.iter().zip(b).map(|(a, b)| (b / a).ln()).collect();
    let mut resources = Vec::with_capacity(logs.len() * (logs.len() + 1) / 2);
    for (at, one) in logs.iter().enumerate() {
        resources.extend(logs[at..].iter().map(|other| f64::midpoint(*one, *other)));
    }
    of_ranks(resources, signed_rank(logs.len(), error))
}

/// The ratio `b / a` of unpaired values, with such an interval. `None` if there are too few of either, see
/// [`runs_needed`], or a value is not above zero.
pub(crate) fn ratio_of_runs(a: &[f64], b: &[f64], error: f64) -> Option<Estimate> {
    if !all_positive(a) || !all_positive(b) {
        return None;
    }
    let shifts = a.iter().flat_map(|a| b.iter().map(move |b| (b / a).ln())).collect();
    of_ranks(shifts, rank_sum(a.len(), b.len(), error))
}

/// The median of differences of logarithms, with the interval from the `rank`-th smallest to the `rank`-th largest.
fn of_ranks(mut logs: Vec<f64>, rank: Option<usize>) -> Option<Estimate> {
    let rank = rank?;
    logs.sort_unstable_by(f64::total_cmp);
    let (low, high) = (logs[rank - 1], logs[logs.len() - rank]);
    Some(Estimate { value: of_sorted(&logs, 0.5)?.exp(), low: low.exp(), high: high.exp() })
}

/// The rank from either end at which the interval of pairs begins; `None` if no rank meets `error`.
fn signed_rank(pairs: usize, error: f64) -> Option<usize> {
    let most = pairs * (pairs + 1) / 2;
    if pairs > EXACT_PAIRS_MAX {
        let n = pairs as f64;
        return normal_rank(most as f64 / 2.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0, error);
    }
    // Probability of each sum of the ranks with a positive sign.
    let mut chances = vec![0.0; most + 1];
    chances[0] = 1.0;
    for rank in 1..=pairs {
        for sum in (0..=most).rev() {
            let with = sum.checked_sub(rank).map_or(0.0, |before| chances[before]);
            chances[sum] = f64::midpoint(chances[sum], with);
        }
    }
    rank_within(&chances, error)
}

/// The same for runs of each side that are not paired.
fn rank_sum(a: usize, b: usize, error: f64) -> Option<usize> {
    if a * b > EXACT_RUNS_MAX {
        let (a, b) = (a as f64, b as f64);
        return normal_rank(a * b / 2.0, a * b * (a + b + 1.0) / 12.0, error);
    }
    // Probability of each number of pairs in which the value of B is the smaller one, for 0 to `a` values of A.
    let mut of_a = vec![vec![1.0]; a + 1];
    for more_b in 1..=b {
        for more_a in 1..=a {
            let all = (more_a + more_b) as f64;
            // The largest of all values is one of A, above all of B, or one of B.
            let chances = (0..=more_a * more_b).map(|count| {
                let is_a = count.checked_sub(more_b).and_then(|below| of_a[more_a - 1].get(below));
                let is_b = of_a[more_a].get(count);
                let chance = |share: usize, of: Option<&f64>| share as f64 / all * of.unwrap_or(&0.0);
                chance(more_a, is_a) + chance(more_b, is_b)
            });
            of_a[more_a] = chances.collect();
        }
    }
    rank_within(&of_a[a], error)
}

/// The largest rank below which at most half of `error` lies.
fn rank_within(chances: &[f64], error: f64) -> Option<usize> {
    let mut below = 0.0;
    let rank = chances.iter().position(|chance| {
        below += chance;
        2.0 * below > error * (1.0 + 1e-9)
    })?;
    (rank > 0).then_some(rank)
}

fn normal_rank(mean: f64, variance: f64, error: f64) -> Option<usize> {
    let deviations = Normal::standard().inverse_cdf(1.0 - error / 2.0);
    let rank = (mean - deviations * variance.sqrt()).floor();
    (rank >= 1.0).then_some(rank as usize)
}

/// The scatter of a figure of a time series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scatter {
    /// Standard error of the logarithm.
    log_error: f64,
    /// Number of bootstrap blocks.
    blocks: usize,
}

impl Scatter {
    /// The scatter of `figure` over a series of `parts`; `figure` gets how often each part was drawn. Parts are drawn
    /// in circular blocks of neighbours (circular block bootstrap), because drawing them one by one would underestimate
    /// the scatter. `None` with fewer than [`INTERVALS_MIN`] parts, or if a figure is not above zero.
    pub fn of(parts: usize, seed: u64, mut figure: impl FnMut(&[u32]) -> Option<f64>) -> Option<Scatter> {
        (parts >= INTERVALS_MIN).then_some(())?;
        // The usual order of growth: long enough to keep neighbours together, short enough to have many blocks.
        let block = (parts as f64).cbrt().ceil() as usize;
        let mut random = SplitMix64::new(seed);
        let mut taken = vec![0; parts];
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..RESAMPLES {
            taken.fill(0);
            let mut left = parts;
            while left > 0 {
                let start = random.below(parts as u64) as usize;
                let drawn = block.min(left);
                (start..start + drawn).for_each(|at| taken[at % parts] += 1);
                left -= drawn;
            }
            let log = figure(&taken).filter(|figure| figure.is_finite() && *figure > 0.0)?.ln();
            sum += log;
            squares += log * log;
        }
        let mean = sum / RESAMPLES as f64;
        let variance = (squares / RESAMPLES as f64 - mean * mean).max(0.0);
        Some(Scatter { log_error: variance.sqrt(), blocks: parts / block })
    }

    /// The figure with its interval, which misses the true value in a share `error` of cases.
    pub fn around(self, value: f64, error: f64) -> Estimate {
        // Few blocks estimate their own scatter badly; Student's distribution accounts for that.
        let freedom = (self.blocks - 1).max(1) as f64;
        let deviations =
            StudentsT::new(0.0, 1.0, freedom).map_or(f64::INFINITY, |t| t.inverse_cdf(1.0 - error / 2.0));
        let factor = (deviations * self.log_error).exp();
        Estimate { value, low: value / factor, high: value * factor }
    }

    /// The scatter of the ratio of two figures.
    pub fn and(self, other: Scatter) -> Scatter {
        Scatter { log_error: self.log_error.hypot(other.log_error), blocks: self.blocks.min(other.blocks) }
    }
}

fn all_positive(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_finite() && *value > 0.0)
}

/// The percentile interval of a figure, which `resampled` computes from values drawn with replacement.
pub(super) fn bootstrap(
    value: f64,
    seed: u64,
    mut resampled: impl FnMut(&mut SplitMix64) -> f64,
) -> Option<Estimate> {
    let mut random = SplitMix64::new(seed);
    let mut found: Vec<f64> = (0..RESAMPLES).map(|_| resampled(&mut random)).collect();
    found.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    // All resampled figures may lie on one side of the value; the interval must still contain it.
    let low = of_sorted(&found, tail)?.min(value);
    let high = of_sorted(&found, 1.0 - tail)?.max(value);
    Some(Estimate { value, low, high })
}

/// The median of at least one value. Reorders the values.
pub(super) fn median_of_scratch(values: &mut [f64]) -> f64 {
    let (count, middle) = (values.len(), values.len() / 2);
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if count % 2 == 1 {
        return upper;
    }
    let lower = below.iter().copied().max_by(f64::total_cmp).unwrap_or(upper);
    lower + (upper - lower) / 2.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A normally distributed number (Box-Muller transform).
    pub(crate) fn normal(random: &mut SplitMix64) -> f64 {
        let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * random.unit()).cos()
    }

    /// The number of 300 intervals that contain the true value.
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
        let mut random = SplitMix64::new(1);
        for count in 1..40 {
            let mut values: Vec<f64> = (0..count).map(|_| random.unit()).collect();
            let (exact, found) = (median(&values), median_of_scratch(&mut values));
            assert!((exact.expect("values") - found).abs() < 1e-12, "{count} values");
        }
    }

    #[test]
    fn intervals_follow_from_the_seed_and_hold_what_was_found() {
        let mut random = SplitMix64::new(3);
        let values: Vec<f64> = (0..20).map(|_| random.unit()).collect();
        let found = median_of(&values, 7).expect("enough values");
        assert_eq!(Some(found), median_of(&values, 7));
        assert!(found.low < found.value && found.value < found.high, "{found:?}");
        let same = median_of(&[2.0; 6], 7);
        assert_eq!(same, Some(Estimate { value: 2.0, low: 2.0, high: 2.0 }));
    }

    #[test]
    fn too_few_values_and_zeros_have_no_interval() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(median_of(&values[1..], 1), None);
        assert!(median_of(&values, 1).is_some());
        assert_eq!(ratio_of_pairs(&values, &values[1..], 0.05), None);
        assert_eq!(ratio_of_pairs(&values, &[0.0; 6], 0.05), None);
        assert!(ratio_of_pairs(&values, &values, 0.05).is_some());
        assert_eq!(ratio_of_pairs(&values, &values, 0.03), None);
        assert_eq!(ratio_of_runs(&[0.0; 6], &values, 0.05), None);
        assert_eq!(ratio_of_runs(&values[..3], &values[..3], 0.05), None);
        assert!(ratio_of_runs(&values[..4], &values[..4], 0.05).is_some());
        assert_eq!(
            (pairs_needed(0.05), pairs_needed(0.01), runs_needed(0.05), runs_needed(0.01)),
            (6, 8, 4, 5)
        );
        assert_eq!(Scatter::of(INTERVALS_MIN - 1, 1, |_| Some(1.0)), None);
        assert_eq!(Scatter::of(INTERVALS_MIN, 1, |_| Some(0.0)), None);
    }

    #[test]
    fn ranks_are_those_of_the_printed_tables() {
        // The largest sum of signed ranks, and number of inversions, that is significant in a two-sided test, plus one.
        for (pairs, error, rank) in [(6, 0.05, 1), (8, 0.05, 4), (10, 0.05, 9), (20, 0.05, 53), (10, 0.01, 4)]
        {
            assert_eq!(signed_rank(pairs, error), Some(rank), "{pairs} pairs, {error}");
        }
        for (a, b, error, rank) in
            [(5, 5, 0.05, 3), (10, 10, 0.05, 24), (7, 12, 0.05, 19), (10, 10, 0.01, 17)]
        {
            assert_eq!(rank_sum(a, b, error), Some(rank), "{a} and {b} runs, {error}");
        }
        // Where the exact computation ends, the normal approximation gives nearly the same.
        let exact = signed_rank(EXACT_PAIRS_MAX, 0.05).expect("enough");
        let n = EXACT_PAIRS_MAX as f64;
        let near =
            normal_rank(n * (n + 1.0) / 4.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0, 0.05).expect("enough");
        assert!(exact.abs_diff(near) <= 2, "{exact} {near}");
    }

    #[test]
    fn intervals_of_pairs_contain_the_true_value_as_often_as_promised() {
        for (pairs, error) in [(6, 0.05), (10, 0.05), (10, 0.01), (25, 0.05)] {
            let times = covered(1.1, |trial| {
                let mut random = SplitMix64::new(1_000 * pairs as u64 + trial);
                let (mut a, mut b) = (Vec::new(), Vec::new());
                for _ in 0..pairs {
                    // The common disturbance of a pair is twenty times the difference.
                    let machine = (2.0 * normal(&mut random)).exp();
                    a.push(machine * (0.02 * normal(&mut random)).exp());
                    b.push(machine * 1.1 * (0.02 * normal(&mut random)).exp());
                }
                let found = ratio_of_pairs(&a, &b, error)?;
                assert!(found.high - found.low < 0.2, "common disturbances cancel out: {found:?}");
                Some(found)
            });
            // Three standard deviations of 300 trials are 3.8 %, and 1.7 % for the stricter level.
            assert!(
                times as f64 >= 300.0 * (1.0 - error - 3.0 * (error / 300.0).sqrt()),
                "{pairs} pairs: {times}"
            );
        }
    }

    #[test]
    fn one_disturbed_pair_in_ten_moves_the_ratio_little() {
        let mut random = SplitMix64::new(12);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for pair in 0..20 {
            let spoilt = if pair % 10 == 3 { 8.0 } else { 1.0 };
            a.push((0.01 * normal(&mut random)).exp());
            b.push(spoilt * (0.01 * normal(&mut random)).exp());
        }
        let found = ratio_of_pairs(&a, &b, 0.05).expect("enough pairs");
        assert!(0.95 < found.low && found.high < 1.05, "{found:?}");
    }

    #[test]
    fn intervals_of_unpaired_runs_contain_the_true_value_too() {
        let times = covered(0.8, |trial| {
            let mut random = SplitMix64::new(77_000 + trial);
            let mut runs = |scale: f64| -> Vec<f64> {
                (0..15).map(|_| scale * (0.1 * normal(&mut random)).exp()).collect()
            };
            ratio_of_runs(&runs(10.0), &runs(8.0), 0.05)
        });
        assert!(times >= 300 * 91 / 100, "{times} of 300");
    }

    #[test]
    fn correlated_neighbours_widen_the_interval() {
        let series = |trial: u64, scale: f64| -> Vec<f64> {
            let mut random = SplitMix64::new(trial);
            let mut level = normal(&mut random) / (1.0 - 0.6_f64.powi(2)).sqrt();
            (0..60)
                .map(|_| {
                    level = 0.6 * level + normal(&mut random);
                    scale * (0.05 * level).exp()
                })
                .collect()
        };
        let mean = |values: &[f64], taken: &[u32]| {
            let sum: f64 = values.iter().zip(taken).map(|(value, times)| value * f64::from(*times)).sum();
            sum / values.len() as f64
        };
        let times = covered(1.2, |trial| {
            let (a, b) = (series(2 * trial, 5.0), series(2 * trial + 1, 6.0));
            let of_a = Scatter::of(a.len(), trial, |taken| Some(mean(&a, taken)))?;
            let of_b = Scatter::of(b.len(), trial, |taken| Some(mean(&b, taken)))?;
            let ratio = b.iter().sum::<f64>() / a.iter().sum::<f64>();
            Some(of_a.and(of_b).around(ratio, 0.05))
        });
        // Blocks of four capture most of the correlation, not all. Drawn one by one, intervals would contain the value
        // in 67 %.
        assert!(times >= 300 * 80 / 100, "{times} of 300");
    }
}
