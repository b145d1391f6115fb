//! The quantiles of a distribution, as in records.

use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

/// Values above a quantile below which it is mostly chance.
const VALUES_ABOVE_MIN: u64 = 10;

/// A distribution in nanoseconds, exact to three digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Smallest value. Optional fields are `None` if nothing was recorded, and in records from older versions.
    pub min: Option<u64>,
    /// 75 %.
    pub p75: Option<u64>,
    /// 95 %.
    pub p95: Option<u64>,
    /// 99.5 %.
    pub p995: Option<u64>,
    /// Standard deviation.
    pub stddev: Option<f64>,
    /// Median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// 99.99 %.
    pub p9999: u64,
    /// Largest.
    pub max: u64,
    /// Mean.
    pub mean: f64,
    /// Number of recorded values. If 0, all other fields are 0.
    pub count: u64,
}

impl Quantiles {
    /// Read from a histogram of nanoseconds.
    pub fn of<T: Counter>(histogram: &Histogram<T>) -> Quantiles {
        if histogram.is_empty() {
            return Quantiles::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
        Quantiles {
            min: Some(histogram.min()),
            p75: Some(at(0.75)),
            p95: Some(at(0.95)),
            p995: Some(at(0.995)),
            stddev: Some(histogram.stdev()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
            mean: histogram.mean(),
            count: histogram.len(),
        }
    }

    /// The same; `None` if nothing was recorded.
    pub fn of_some<T: Counter>(histogram: &Histogram<T>) -> Option<Quantiles> {
        (!histogram.is_empty()).then(|| Quantiles::of(histogram))
    }

    /// How many of the values lie above the quantile above which `share` of 10,000 values lie.
    pub fn above(&self, share: u64) -> u64 {
        self.count.saturating_mul(share) / 10_000
    }

    /// Whether so few values lie above that quantile that it is mostly chance.
    pub fn is_chance(&self, share: u64) -> bool {
        self.above(share) < VALUES_ABOVE_MIN
    }

    /// An upper bound of the generator's part of these response times: the excess over the same quantile of the service
    /// time, without the wait for room in the connection. No quantile's part exceeds the highest lateness, nor the
    /// mean's the mean lateness.
    pub fn own(&self, service: &Quantiles, lateness: &Quantiles) -> Quantiles {
        let beyond = |one: u64, other: u64| one.saturating_sub(other).min(lateness.max);
        let known = |one: Option<u64>, other: Option<u64>| Some(beyond(one?, other?));
        Quantiles {
            min: known(self.min, service.min),
            p75: known(self.p75, service.p75),
            p95: known(self.p95, service.p95),
            p995: known(self.p995, service.p995),
            // A difference of quantiles has no standard deviation.
            stddev: None,
            p50: beyond(self.p50, service.p50),
            p90: beyond(self.p90, service.p90),
            p99: beyond(self.p99, service.p99),
            p999: beyond(self.p999, service.p999),
            p9999: beyond(self.p9999, service.p9999),
            max: beyond(self.max, service.max),
            mean: (self.mean - service.mean).clamp(0.0, lateness.mean.max(0.0)),
            count: self.count,
        }
    }
}
