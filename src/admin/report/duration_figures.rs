//! Histograms of durations in `/stats`, in a form whose differences between two answers are histograms again.

use echoring_runtime::stats::{DeliveryAge, Durations};
use serde::Serialize;

/// A histogram since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct DurationFigures {
    count: u64,
    sum_ns: u64,
    /// Durations that are too short for the buckets.
    zero: u64,
    /// `[n, count]` of each bucket that is not empty: it holds durations above 2^((n - 1) / 8) seconds and at most
    /// 2^(n / 8).
    buckets: Vec<(i32, u64)>,
}

impl DurationFigures {
    pub(crate) fn new(durations: &Durations) -> DurationFigures {
        DurationFigures {
            count: durations.count(),
            sum_ns: durations.sum_ns(),
            zero: durations.zero(),
            buckets: durations.buckets().collect(),
        }
    }
}

/// Ages of deliveries, see [`DeliveryAge`].
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AgeFigures {
    acknowledged: DurationFigures,
    sent: DurationFigures,
}

impl AgeFigures {
    pub(crate) fn new(age: &DeliveryAge) -> AgeFigures {
        AgeFigures {
            acknowledged: DurationFigures::new(&age.acknowledged),
            sent: DurationFigures::new(&age.sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::limits::SECOND;

    #[test]
    fn buckets_that_are_empty_are_left_out() {
        let mut durations = Durations::default();
        durations.record(0, 2);
        durations.record(SECOND, 3);
        durations.record(2 * SECOND, 1);
        let json = serde_json::to_value(DurationFigures::new(&durations)).expect("plain data");
        let expected =
            serde_json::json!({"count": 6, "sum_ns": 5 * SECOND, "zero": 2, "buckets": [[0, 3], [8, 1]]});
        assert_eq!(json, expected);
    }
}
