//! How long an acknowledgement takes, and how long a link waits for one: RFC 6298.

use echoring_proto::limits::Nanos;

use crate::limits::{RETRANSMIT_AFTER_MAX, RETRANSMIT_AFTER_MIN};

/// An estimate of the round trip to another node.
///
/// Each transmission of a packet has a number of its own that the other node repeats, so every sample belongs to one transmission. That
/// satisfies Karn's rule.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Nanos>,
    variation: Nanos,
}

impl RoundTrip {
    /// Takes a sample (RFC 6298, 2.2 and 2.3).
    pub(crate) fn measure(&mut self, sample: Nanos) {
        match self.smoothed {
            None => (self.smoothed, self.variation) = (Some(sample), sample / 2),
            Some(smoothed) => {
                self.variation = self.variation / 4 * 3 + smoothed.abs_diff(sample) / 4;
                self.smoothed = Some(smoothed / 8 * 7 + sample / 8);
            }
        }
    }

    pub(crate) fn smoothed(&self) -> Option<Nanos> {
        self.smoothed
    }

    /// Time without an acknowledgement after which a packet is sent again, after it was sent again `times` times already.
    pub(crate) fn timeout(&self, times: u32) -> Nanos {
        let first = self.smoothed.map_or(RETRANSMIT_AFTER_MAX, |smoothed| smoothed + 4 * self.variation);
        let doubled = first.max(RETRANSMIT_AFTER_MIN).saturating_mul(1 << times.min(16));
        doubled.min(RETRANSMIT_AFTER_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::limits::MILLISECOND;

    #[test]
    fn the_timeout_is_the_mean_and_four_deviations_within_its_bounds() {
        let mut round_trip = RoundTrip::default();
        assert_eq!((round_trip.smoothed(), round_trip.timeout(0)), (None, RETRANSMIT_AFTER_MAX));
        round_trip.measure(80 * MILLISECOND);
        assert_eq!(round_trip.smoothed(), Some(80 * MILLISECOND));
        assert_eq!(round_trip.timeout(0), 240 * MILLISECOND);
        round_trip.measure(160 * MILLISECOND);
        assert_eq!(round_trip.smoothed(), Some(90 * MILLISECOND));
        // The deviation is 3/4 · 40 + 1/4 · 80.
        assert_eq!(round_trip.timeout(0), (90 + 4 * 50) * MILLISECOND);
        (0..100).for_each(|_| round_trip.measure(MILLISECOND));
        assert_eq!(round_trip.timeout(0), RETRANSMIT_AFTER_MIN);
        round_trip.measure(Nanos::MAX / 64);
        assert_eq!(round_trip.timeout(0), RETRANSMIT_AFTER_MAX);
    }

    #[test]
    fn the_timeout_doubles_up_to_its_bound() {
        let mut round_trip = RoundTrip::default();
        round_trip.measure(MILLISECOND);
        let timeouts = [0, 1, 2, 3].map(|times| round_trip.timeout(times));
        assert_eq!(timeouts, [1, 2, 4, 8].map(|factor| factor * RETRANSMIT_AFTER_MIN));
        assert_eq!([4, 100, u32::MAX].map(|times| round_trip.timeout(times)), [RETRANSMIT_AFTER_MAX; 3]);
    }
}
