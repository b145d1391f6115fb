//! The offset of another machine's clock, by the times of messages to it and back.

use std::collections::VecDeque;

use echoring_proto::limits::Nanos;

/// Comparisons that count: the last half a minute. An older one would miss how clocks drift.
const COMPARISONS: usize = 16;

/// A message to the other clock and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoundTrip {
    /// When the message left, by this clock.
    pub(crate) sent: Nanos,
    /// When it arrived, by the other clock.
    pub(crate) received: Nanos,
    /// When the answer left, by the other clock.
    pub(crate) answered: Nanos,
    /// When the answer arrived, by this clock.
    pub(crate) arrived: Nanos,
}

/// How far the other clock is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Offset {
    /// In nanoseconds.
    pub(crate) ahead_ns: i64,
    /// Maximum error: half of the time that the messages were under way. It is reached if one of them took all of that time.
    pub(crate) uncertainty_ns: u64,
}

/// Compares this clock with another one. The shortest round trip has the least error.
#[derive(Debug, Default)]
pub(crate) struct ClockComparison {
    latest: VecDeque<Offset>,
}

impl ClockComparison {
    /// Adds a comparison.
    pub(crate) fn add(&mut self, RoundTrip { sent, received, answered, arrived }: RoundTrip) {
        let difference = |a: Nanos, b: Nanos| i128::from(a) - i128::from(b);
        let ahead = (difference(received, sent) + difference(answered, arrived)) / 2;
        let under_way = difference(arrived, sent) - difference(answered, received);
        let Ok(ahead_ns) = i64::try_from(ahead) else { return };
        if self.latest.len() == COMPARISONS {
            self.latest.pop_front();
        }
        let uncertainty_ns = u64::try_from(under_way / 2).unwrap_or(0);
        self.latest.push_back(Offset { ahead_ns, uncertainty_ns });
    }

    /// How many comparisons count.
    pub(crate) fn count(&self) -> usize {
        self.latest.len()
    }

    /// The best estimate; `None` before the first comparison.
    pub(crate) fn offset(&self) -> Option<Offset> {
        self.latest.iter().min_by_key(|offset| offset.uncertainty_ns).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_error_is_at_most_the_uncertainty(
            ahead in -1_000_000_000_000_i64..1_000_000_000_000,
            delays in prop::collection::vec((0..5_000_000_u64, 0..1_000_000_u64, 0..5_000_000_u64), 1..40),
        ) {
            let mut comparison = ClockComparison::default();
            let mut now = 2_000_000_000_000_u64;
            for (there, pause, back) in delays {
                let received = (now + there).wrapping_add_signed(ahead);
                let arrived = now + there + pause + back;
                comparison.add(RoundTrip { sent: now, received, answered: received + pause, arrived });
                now = arrived + 1_000_000;
                let found = comparison.offset().expect("compared");
                prop_assert!(found.ahead_ns.abs_diff(ahead) <= found.uncertainty_ns + 1, "{found:?}");
            }
        }
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        let mut comparison = ClockComparison::default();
        assert_eq!((comparison.offset(), comparison.count()), (None, 0));
        for round in 0..100_u64 {
            // The other clock gains 1,000 ns in each round; the first comparison was the best.
            let (sent, took) = (round * 1_000_000, if round == 0 { 0 } else { 10 });
            let received = sent + took + round * 1_000;
            comparison.add(RoundTrip { sent, received, answered: received, arrived: sent + 2 * took });
        }
        let found = comparison.offset().expect("compared");
        assert!((80_000..100_000).contains(&found.ahead_ns), "{found:?}");
    }
}
