//! The quantiles of a distribution, as in records.

use hdrhistogram::{Counter, Histogram};

use crate::plan::declared::part;

/// Values above a quantile below which it is mostly chance.
const VALUES_ABOVE_MIN: u64 = 10;

part! {
    /// A distribution in nanoseconds, exact to three digits.
    #[derive(Copy, Default)]
    Quantiles {
        /// Smallest value. Optional fields are `None` if nothing was recorded.
        min: Option<u64>,
        /// 75 %.
        p75: Option<u64>,
        /// 95 %.
        p95: Option<u64>,
        /// 99.5 %.
        p995: Option<u64>,
        /// Standard deviation.
        stddev: Option<f64>,
        /// Median.
        p50: u64,
        /// 90 %.
        p90: u64,
        /// 99 %.
        p99: u64,
        /// 99.9 %.
        p999: u64,
        /// 99.99 %.
        p9999: u64,
        /// Largest.
        max: u64,
        /// Mean.
        mean: f64,
        /// Number of recorded values. If 0, all other fields are 0.
        count: u64,
    }
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
}
