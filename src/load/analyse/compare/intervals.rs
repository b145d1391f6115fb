//! The intervals of a single run, weighted: counts and distributions of each interval, which count more or less.

use std::cell::OnceCell;

use serde_json::Value;

use crate::analyse::objective::{Metric, OfIntervals};
use crate::analyse::statistics::Scatter;
use crate::measure::decode;
use crate::record::comparison::Spread;

/// An interval shorter than this share of the first is the remainder of a run.
const WHOLE_SHARE: f64 = 0.9;
/// Maximum number of parts; neighbouring intervals are combined if there are more.
const PARTS_MAX: usize = 60;

/// The complete intervals of a run.
pub(super) struct Intervals<'a> {
    /// In order; the intervals of a part have one weight.
    parts: Vec<&'a [Value]>,
    count: usize,
}

impl<'a> Intervals<'a> {
    pub(super) fn of(run: &'a Value) -> Intervals<'a> {
        let intervals = run["intervals"].as_array().map(Vec::as_slice).unwrap_or_default();
        let length = |interval: &Value| interval["duration_s"].as_f64().unwrap_or(0.0);
        let whole_s = intervals.first().map_or(0.0, length) * WHOLE_SHARE;
        // Only the last one may be shorter.
        let count = intervals.iter().take_while(|interval| length(interval) >= whole_s).count();
        let parts = intervals[..count].chunks(count.div_ceil(PARTS_MAX).max(1)).collect();
        Intervals { parts, count }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The data that a metric is computed from, or one line with the reason why it cannot be computed.
    pub(super) fn figure(&self, metric: &Metric) -> Result<WeightedMetric, String> {
        let text = metric.of_intervals().ok_or("available for whole runs only")?;
        let made = match text {
            OfIntervals::PerSecond(field) => {
                let sum = |part: &&[Value], field: &str| {
                    part.iter().filter_map(|interval| interval[field].as_f64()).sum()
                };
                let totals =
                    self.parts.iter().map(|part| (sum(part, field), sum(part, "duration_s"))).collect();
                MetricParts::PerSecond(totals)
            }
            OfIntervals::Quantile(field, share) => MetricParts::Quantile(share, self.distributions(field)?),
            OfIntervals::Mean(field) => MetricParts::Mean(self.distributions(field)?),
        };
        Ok(WeightedMetric { made, parts: self.parts.len(), scatter: OnceCell::new() })
    }

    fn distributions(&self, field: &str) -> Result<Distributions, String> {
        let mut values: Vec<u64> = Vec::new();
        let mut parts = Vec::new();
        for part in &self.parts {
            let mut counts = Vec::new();
            for interval in *part {
                let text = interval[field].as_str().ok_or("the records have no histograms per interval")?;
                let histogram = decode(text).map_err(|error| error.to_string())?;
                counts.extend(
                    histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())),
                );
            }
            values.extend(counts.iter().map(|(value, _)| *value));
            parts.push(counts);
        }
        values.sort_unstable();
        values.dedup();
        let place = |value: u64| values.partition_point(|known| *known < value);
        let counts = parts
            .iter()
            .map(|part| part.iter().map(|(value, count)| (place(*value), *count)).collect())
            .collect();
        Ok(Distributions { values, counts })
    }
}

/// The parts that a metric is computed from.
enum MetricParts {
    /// An amount and a time in seconds for each part.
    PerSecond(Vec<(f64, f64)>),
    Quantile(f64, Distributions),
    Mean(Distributions),
}

/// A distribution for each part.
struct Distributions {
    /// All recorded values in ascending order.
    values: Vec<u64>,
    /// For each part, indices into `values` with their counts.
    counts: Vec<Vec<(usize, u64)>>,
}

impl Distributions {
    /// Adds up the parts, each with its weight.
    fn merge(&self, weights: &[f64], sums: &mut Vec<f64>) -> f64 {
        sums.clear();
        sums.resize(self.values.len(), 0.0);
        for (counts, weight) in self.counts.iter().zip(weights).filter(|(_, weight)| **weight > 0.0) {
            for (place, count) in counts {
                sums[*place] += weight * *count as f64;
            }
        }
        sums.iter().sum()
    }

    /// The value at or below which this share of the merged values lies.
    fn quantile(&self, share: f64, weights: &[f64], sums: &mut Vec<f64>) -> Option<f64> {
        let wanted = (share * self.merge(weights, sums)).max(f64::MIN_POSITIVE);
        let mut below = 0.0;
        let place = sums.iter().position(|count| {
            below += count;
            below >= wanted
        })?;
        Some(self.values[place] as f64)
    }

    fn mean(&self, weights: &[f64], sums: &mut Vec<f64>) -> Option<f64> {
        let total = self.merge(weights, sums);
        let sum: f64 = self.values.iter().zip(&*sums).map(|(value, count)| *value as f64 * count).sum();
        (total > 0.0).then(|| sum / total)
    }
}

/// A metric of one run that can be recomputed from weighted parts.
pub(super) struct WeightedMetric {
    made: MetricParts,
    parts: usize,
    scatter: OnceCell<Option<Scatter>>,
}

impl WeightedMetric {
    /// The scatter of the metric; `None` with too few parts.
    pub(super) fn scatter(&self) -> Option<Scatter> {
        *self.scatter.get_or_init(|| {
            let mut sums = Vec::new();
            Scatter::of(self.parts, |weights| self.of(weights, &mut sums))
        })
    }

    /// The value of the whole run with its interval, and the smallest and largest value of a part.
    pub(super) fn spread(&self, value: f64, error: f64) -> Spread {
        let mut sums = Vec::new();
        let own = |part: usize| {
            let alone: Vec<f64> = (0..self.parts).map(|other| f64::from(other == part)).collect();
            self.of(&alone, &mut sums)
        };
        let own: Vec<f64> = (0..self.parts).filter_map(own).collect();
        let interval = self.scatter().map(|scatter| scatter.around(value, error));
        Spread {
            median: value,
            least: own.iter().copied().fold(value, f64::min),
            most: own.iter().copied().fold(value, f64::max),
            low: interval.map(|found| found.low),
            high: interval.map(|found| found.high),
        }
    }

    /// The metric over the parts, each with its weight.
    fn of(&self, weights: &[f64], sums: &mut Vec<f64>) -> Option<f64> {
        match &self.made {
            MetricParts::PerSecond(totals) => {
                let (mut amount, mut seconds) = (0.0, 0.0);
                for ((part, length), weight) in totals.iter().zip(weights) {
                    amount += weight * part;
                    seconds += weight * length;
                }
                (seconds > 0.0).then(|| amount / seconds)
            }
            MetricParts::Quantile(share, distributions) => distributions.quantile(*share, weights, sums),
            MetricParts::Mean(distributions) => distributions.mean(weights, sums),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::statistics::INTERVALS_MIN;
    use crate::analyse::statistics::tests::coverage::Series;
    use echoring_proto::random::{SplitMix64, mix};

    /// Logarithm of the distance of two neighbouring values: twice that of a recorded histogram.
    const STEP: f64 = 0.002;
    const VALUES: usize = 600;

    /// The counts of an interval of 10,000 messages: a logistic distribution of logarithms, with a scale of 8 %.
    fn counts() -> Vec<u64> {
        let below = |place: usize| 1e4 / (1.0 + f64::exp((VALUES as f64 / 2.0 - place as f64) * STEP / 0.08));
        (0..VALUES).map(|place| (below(place + 1) - below(place)).round() as u64).collect()
    }

    /// A quantile of a run whose intervals have these levels, added to the logarithms.
    fn run(share: f64, counts: &[u64], levels: &[f64]) -> WeightedMetric {
        // A level moves the distribution by a whole number of steps; the outermost ones are almost empty.
        let interval = |level: &f64| {
            let moved = |place: usize| place.checked_add_signed((level / STEP).round() as isize);
            let known = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            known
                .filter_map(|(place, count)| Some((moved(place).filter(|place| *place < VALUES)?, *count)))
                .collect()
        };
        let values = (0..VALUES).map(|place| (1e6 * (place as f64 * STEP).exp()) as u64).collect();
        let distributions = Distributions { values, counts: levels.iter().map(interval).collect() };
        let made = MetricParts::Quantile(share, distributions);
        WeightedMetric { made, parts: levels.len(), scatter: OnceCell::new() }
    }

    /// The percentage of intervals of a quantile that contain the true one, which a run of 20,000 intervals has.
    fn coverage(count: usize, share: f64, series: Series) -> f64 {
        const TRIALS: u64 = 1_000;
        let counts = counts();
        let of_run = |count: usize, seed: u64| {
            let levels = series.logs(count, &mut SplitMix64::new(mix(seed)));
            let metric = run(share, &counts, &levels);
            let whole = metric.of(&vec![1.0; count], &mut Vec::new()).expect("messages");
            (metric, whole)
        };
        let truth = of_run(20_000, TRIALS).1;
        let covered = |trial: &u64| {
            let (metric, whole) = of_run(count, *trial);
            let found = metric.scatter().expect("enough intervals").around(whole, 0.05);
            (found.low..=found.high).contains(&truth)
        };
        100.0 * (0..TRIALS).filter(covered).count() as f64 / TRIALS as f64
    }

    #[test]
    fn coverage_of_percentiles_of_one_run() {
        let independent = Series::Correlated(0.0);
        let (correlated, modes) = (Series::Correlated(0.6), Series::Bimodal(0.3));
        for share in [0.5, 0.99] {
            for (count, series) in [
                (INTERVALS_MIN, independent),
                (INTERVALS_MIN, correlated),
                (INTERVALS_MIN, modes),
                (60, correlated),
            ] {
                let found = coverage(count, share, series);
                println!("p{} of {count} intervals, {series:?}: {found:.1} %", 100.0 * share);
                // Two points around the claim, and the standard error.
                assert!(
                    (92.3..=97.7).contains(&found),
                    "p{} of {count}, {series:?}: {found:.1} %",
                    100.0 * share
                );
            }
        }
        // What it does not cover: the median of a run between two modes, each of which lasts.
        let found = coverage(INTERVALS_MIN, 0.5, Series::Bimodal(0.5));
        println!("p50 of {INTERVALS_MIN} intervals, Bimodal(0.5): {found:.1} %");
        assert!((90.0..=94.0).contains(&found), "{found:.1} %");
    }
}
