//! Medians and ratios with confidence intervals: exact rank intervals for medians, for paired and for unpaired runs, and
//! intervals from slow waves for the correlated intervals of one run.
//!
//! Ratios are estimated on the logarithm. Pairs use the pseudo-median (Hodges and Lehmann) with the interval of Wilcoxon's
//! signed-rank test: under equal targets the two runs of a pair are exchangeable, since their order is random, so the interval
//! keeps its level for any distribution, outliers included. Unpaired runs use the shift with the interval of the rank-sum test
//! (Mann and Whitney), a median that of the sign test. These two are for independent runs: from `CORRELATED_RUNS_MIN` runs on,
//! a correlation of neighbours is estimated, and counts as fewer runs.
//!
//! All results follow from the values. Never: a clock, a source of randomness, or a claim from too few values. The tests
//! simulate how often each interval contains the true value.

use std::f64::consts::PI;

use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};
use statrs::statistics::{Data, OrderStatistics as _, RankTieBreaker};

/// Confidence level of the intervals.
pub(crate) const CONFIDENCE: f64 = 0.95;
/// Share of comparisons in which at least one metric's interval misses the true value.
pub(crate) const ERROR_SHARE: f64 = 1.0 - CONFIDENCE;
/// Minimum number of runs for an interval of the median: the range of five values misses the median in more than one
/// case of twenty.
pub(crate) const RUNS_MIN: usize = 6;
/// Number of runs from which on the correlation of neighbours is estimated. With fewer the estimate is mostly noise.
const CORRELATED_RUNS_MIN: usize = 20;
/// Pairs, and products of two numbers of runs, up to which the rank distribution is computed exactly; above, the normal
/// approximation is accurate enough.
const EXACT_PAIRS_MAX: usize = 128;
const EXACT_RUNS_MAX: usize = 4_096;
/// Minimum number of intervals of a run. Fewer may all lie in one mode of a target that alternates between two, and do
/// not show how long a disturbance lasts.
pub(crate) const INTERVALS_MIN: usize = 24;
/// Intervals of a run for each slow wave. More waves make the interval narrower, and miss more of a correlation.
const INTERVALS_PER_WAVE: usize = 8;
/// Correlation of neighbouring intervals that is assumed at least, since few intervals hide it.
const CORRELATION_MIN: f64 = 0.6;
/// The highest correlation that is corrected for. At higher ones a run is too short for any interval.
const CORRELATION_MAX: f64 = 0.9;

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

pub(super) fn of_sorted(sorted: &[f64], q: f64) -> Option<f64> {
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

impl Estimate {
    /// The value whose logarithm was estimated.
    pub(crate) fn exp(self) -> Estimate {
        Estimate { value: self.value.exp(), low: self.low.exp(), high: self.high.exp() }
    }
}

/// The median of repetitions in the order of their times, with its interval. `None` with fewer than [`RUNS_MIN`], or if they
/// are so correlated that they count as fewer.
pub(crate) fn median_of(values: &[f64]) -> Option<Estimate> {
    let count = independent(values);
    let rank = sign_rank(count, ERROR_SHARE)? * values.len() / count;
    between_ranks(values.to_vec(), rank)
}

/// The median of independent values with its interval, which misses the true value in at most a share `error` of cases. `None`
/// if there are too few values, see [`pairs_needed`].
pub(crate) fn median_of_independent(values: &[f64], error: f64) -> Option<Estimate> {
    between_ranks(values.to_vec(), sign_rank(values.len(), error)?)
}

/// Number of independent values that show the median as exactly as these, which are in the order of their times.
pub(super) fn independent(values: &[f64]) -> usize {
    let count = values.len();
    if count < CORRELATED_RUNS_MIN {
        return count;
    }
    let middle = (count + 1) as f64 / 2.0;
    let ranks = Data::new(values.to_vec()).ranks(RankTieBreaker::Average);
    let ranks: Vec<f64> = ranks.iter().map(|rank| rank - middle).collect();
    let own: f64 = ranks.iter().map(|rank| rank * rank).sum();
    let shared: f64 = ranks.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let correlation = unbiased(shared / own.max(f64::MIN_POSITIVE), count).clamp(0.0, CORRELATION_MAX);
    (count as f64 * (1.0 - correlation) / (1.0 + correlation)) as usize
}

/// The correlation of neighbours in a series of this length without the bias of the estimate, which is too low because the
/// mean comes from the same values (Kendall; Marriott and Pope).
fn unbiased(correlation: f64, count: usize) -> f64 {
    let count = count as f64;
    (count * correlation + 1.0) / (count - 3.0)
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
    between_ranks(walsh_averages(&logs), signed_rank(logs.len(), error)?).map(Estimate::exp)
}

/// The pseudo-median (Hodges and Lehmann): the median of the means of any two values, or of one with itself. `None` without
/// values.
pub(crate) fn pseudo_median(values: &[f64]) -> Option<f64> {
    median(&walsh_averages(values))
}

/// The means of any two values, and of each with itself.
pub(super) fn walsh_averages(values: &[f64]) -> Vec<f64> {
    let mut means = Vec::with_capacity(values.len() * (values.len() + 1) / 2);
    for (at, one) in values.iter().enumerate() {
        means.extend(values[at..].iter().map(|other| f64::midpoint(*one, *other)));
    }
    means
}

/// The ratio `b / a` of unpaired values, with such an interval. `None` if there are too few of either, see
/// [`runs_needed`], or a value is not above zero.
pub(crate) fn ratio_of_runs(a: &[f64], b: &[f64], error: f64) -> Option<Estimate> {
    if !all_positive(a) || !all_positive(b) {
        return None;
    }
    let shifts: Vec<f64> = a.iter().flat_map(|a| b.iter().map(move |b| (b / a).ln())).collect();
    let (of_a, of_b) = (independent(a), independent(b));
    let rank = rank_sum(of_a, of_b, error)? * shifts.len() / (of_a * of_b);
    between_ranks(shifts, rank).map(Estimate::exp)
}

/// The median of values, with the interval from the `rank`-th smallest to the `rank`-th largest.
fn between_ranks(mut values: Vec<f64>, rank: usize) -> Option<Estimate> {
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = (*values.get(rank.checked_sub(1)?)?, *values.get(values.len().checked_sub(rank)?)?);
    Some(Estimate { value: of_sorted(&values, 0.5)?, low, high })
}

/// The rank from either end at which the interval of a median begins; `None` if no rank meets `error`.
fn sign_rank(values: usize, error: f64) -> Option<usize> {
    if values > EXACT_PAIRS_MAX {
        let n = values as f64;
        return normal_rank(n / 2.0, n / 4.0, error);
    }
    // Each value is above or below the median, and counts once.
    rank_within(&chances_of_sums(std::iter::repeat_n(1, values), values), error)
}

/// The rank from either end at which the interval of pairs begins; `None` if no rank meets `error`.
pub(super) fn signed_rank(pairs: usize, error: f64) -> Option<usize> {
    let most = pairs * (pairs + 1) / 2;
    if pairs > EXACT_PAIRS_MAX {
        let n = pairs as f64;
        return normal_rank(most as f64 / 2.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0, error);
    }
    // Each rank has a positive sign or none.
    rank_within(&chances_of_sums(1..=pairs, most), error)
}

/// The probability of each sum from 0 to `most` of numbers of which each takes part with a chance of one half.
fn chances_of_sums(numbers: impl Iterator<Item = usize>, most: usize) -> Vec<f64> {
    let mut chances = vec![0.0; most + 1];
    chances[0] = 1.0;
    for number in numbers {
        for sum in (0..=most).rev() {
            let with = sum.checked_sub(number).map_or(0.0, |before| chances[before]);
            chances[sum] = f64::midpoint(chances[sum], with);
        }
    }
    chances
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
    /// Variance of the logarithm.
    log_variance: f64,
    /// Degrees of freedom of the variance.
    freedom: f64,
}

impl Scatter {
    /// The scatter of `figure` over a series of `parts`; `figure` gets a weight for each part. `None` with fewer than
    /// [`INTERVALS_MIN`] parts, or if a figure is not above zero.
    ///
    /// Neighbouring parts resemble one another, so they must not count as independent. The weights follow cosine waves: each
    /// shows how much the figure changes when some stretches of the series count more than others. The changes by the
    /// slowest waves are nearly independent and have the variance of the figure, whatever the correlation within shorter
    /// stretches (the orthonormal series estimator of the long-run variance, with Student's distribution; Müller).
    pub fn of(parts: usize, mut figure: impl FnMut(&[f64]) -> Option<f64>) -> Option<Scatter> {
        (parts >= INTERVALS_MIN).then_some(())?;
        let mut weights = vec![1.0; parts];
        let whole = log_of(&mut figure, &weights)?;
        let mut changes = Vec::with_capacity(parts);
        for wave in 1..parts {
            let mut change = |sign: f64| {
                for (at, weight) in weights.iter_mut().enumerate() {
                    *weight = 1.0 + sign * (angle(wave, parts) * (at as f64 + 0.5)).cos();
                }
                Some((log_of(&mut figure, &weights)? - whole).powi(2))
            };
            // Of a percentile between two modes, one is much larger than the other.
            changes.push(f64::midpoint(change(1.0)?, change(-1.0)?));
        }
        let waves = (parts / INTERVALS_PER_WAVE).max(2);
        let slow = changes[..waves].iter().sum::<f64>() / waves as f64;
        // A mean of weights 1 ± cosine has half the variance of the plain mean.
        let log_variance = 2.0 * slow / share_of_slow(waves, parts, neighbours(&changes, parts));
        Some(Scatter { log_variance, freedom: waves as f64 })
    }

    /// The figure with its interval, which misses the true value in a share `error` of cases.
    pub fn around(self, value: f64, error: f64) -> Estimate {
        // Few waves estimate the scatter badly; Student's distribution accounts for that.
        let deviations = StudentsT::new(0.0, 1.0, self.freedom)
            .map_or(f64::INFINITY, |t| t.inverse_cdf(1.0 - error / 2.0));
        let factor = (deviations * self.log_variance.sqrt()).exp();
        Estimate { value, low: value / factor, high: value * factor }
    }

    /// The scatter of the ratio of two figures, with the degrees of freedom of Welch and Satterthwaite.
    pub fn and(self, other: Scatter) -> Scatter {
        let log_variance = self.log_variance + other.log_variance;
        let share = |one: Scatter| (one.log_variance / log_variance).powi(2) / one.freedom;
        let freedom = if log_variance > 0.0 {
            1.0 / (share(self) + share(other))
        } else {
            self.freedom.min(other.freedom)
        };
        Scatter { log_variance, freedom }
    }
}

fn log_of(figure: &mut impl FnMut(&[f64]) -> Option<f64>, weights: &[f64]) -> Option<f64> {
    figure(weights).filter(|figure| figure.is_finite() && *figure > 0.0).map(f64::ln)
}

/// Angle between two neighbours in a wave, of which a series contains `wave` half periods.
fn angle(wave: usize, parts: usize) -> f64 {
    PI * wave as f64 / parts as f64
}

/// The correlation of neighbours, from the squared changes by all waves.
fn neighbours(changes: &[f64], parts: usize) -> f64 {
    let all: f64 = changes.iter().sum();
    let shared: f64 =
        changes.iter().enumerate().map(|(at, change)| change * angle(at + 1, parts).cos()).sum();
    unbiased(shared / all.max(f64::MIN_POSITIVE), parts).clamp(CORRELATION_MIN, CORRELATION_MAX)
}

/// How much of the variance of the infinitely slow wave the slowest `waves` have on average, if a series is an
/// autoregression of first order.
fn share_of_slow(waves: usize, parts: usize, correlation: f64) -> f64 {
    let slowest = (1.0 - correlation).powi(2);
    let share = |wave: usize| slowest / (slowest + 2.0 * correlation * (1.0 - angle(wave, parts).cos()));
    (1..=waves).map(share).sum::<f64>() / waves as f64
}

fn all_positive(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_finite() && *value > 0.0)
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
pub(crate) mod tests;
