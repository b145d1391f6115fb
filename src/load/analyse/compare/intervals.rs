//! The intervals of a single run, resampled: counts and distributions of each interval, as often as it was drawn.

use std::cell::OnceCell;

use serde_json::Value;

use crate::analyse::objective::{Metric, OfIntervals};
use crate::analyse::statistics::{SEED, Scatter};
use crate::measure::distribution::decode;
use crate::record::comparison::Spread;

/// An interval shorter than this share of the first is the remainder of a run.
const WHOLE_SHARE: f64 = 0.9;
/// Maximum number of parts to draw; neighbouring intervals are combined if there are more.
const PARTS_MAX: usize = 60;

/// The complete intervals of a run.
pub(super) struct Intervals<'a> {
    /// In order; the intervals of a part are drawn together.
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

    /// The parts that a metric is computed from, or one line that says why it cannot be.
    pub(super) fn figure(&self, metric: &Metric) -> Result<ResampledMetric, String> {
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
        Ok(ResampledMetric { made, parts: self.parts.len(), scatter: OnceCell::new() })
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
    /// Adds up the parts, each as often as it was drawn.
    fn merge(&self, taken: &[u32], sums: &mut Vec<u64>) -> u64 {
        sums.clear();
        sums.resize(self.values.len(), 0);
        let mut total = 0;
        for (counts, times) in self.counts.iter().zip(taken).filter(|(_, times)| **times > 0) {
            for (place, count) in counts {
                sums[*place] += u64::from(*times) * count;
                total += u64::from(*times) * count;
            }
        }
        total
    }

    /// The value at or below which this share of the merged values lies.
    fn quantile(&self, share: f64, taken: &[u32], sums: &mut Vec<u64>) -> Option<f64> {
        let total = self.merge(taken, sums);
        let wanted = ((share * total as f64).ceil() as u64).max(1);
        let mut below = 0;
        let place = sums.iter().position(|count| {
            below += count;
            below >= wanted
        })?;
        Some(self.values[place] as f64)
    }

    fn mean(&self, taken: &[u32], sums: &mut Vec<u64>) -> Option<f64> {
        let total = self.merge(taken, sums);
        let sum: f64 =
            self.values.iter().zip(&*sums).map(|(value, count)| *value as f64 * *count as f64).sum();
        (total > 0).then(|| sum / total as f64)
    }
}

/// A metric of one run that can be recomputed from resampled parts.
pub(super) struct ResampledMetric {
    made: MetricParts,
    parts: usize,
    scatter: OnceCell<Option<Scatter>>,
}

impl ResampledMetric {
    /// The scatter of the metric; `None` with too few parts.
    pub(super) fn scatter(&self) -> Option<Scatter> {
        *self.scatter.get_or_init(|| {
            let mut sums = Vec::new();
            Scatter::of(self.parts, SEED, |taken| self.of(taken, &mut sums))
        })
    }

    /// The value of the whole run with its interval, and the smallest and largest value of a part.
    pub(super) fn spread(&self, value: f64, error: f64) -> Spread {
        let mut sums = Vec::new();
        let own = |part: usize| {
            let alone: Vec<u32> = (0..self.parts).map(|other| u32::from(other == part)).collect();
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

    /// The metric over the parts, each as often as it was drawn.
    fn of(&self, taken: &[u32], sums: &mut Vec<u64>) -> Option<f64> {
        match &self.made {
            MetricParts::PerSecond(totals) => {
                let (mut amount, mut seconds) = (0.0, 0.0);
                for ((part, length), times) in totals.iter().zip(taken) {
                    amount += f64::from(*times) * part;
                    seconds += f64::from(*times) * length;
                }
                (seconds > 0.0).then(|| amount / seconds)
            }
            MetricParts::Quantile(share, distributions) => distributions.quantile(*share, taken, sums),
            MetricParts::Mean(distributions) => distributions.mean(taken, sums),
        }
    }
}
