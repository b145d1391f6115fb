//! Connections that end and open again while the load runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::connections::count_cause;
use crate::measure::distribution::Distribution;
use crate::measure::merge::summed;
use crate::plan::declared::part;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// Length of an interval of the herd.
pub const HERD_INTERVAL: Nanos = 100 * MILLISECOND;
/// Maximum number of intervals; later events are in the last.
const HERD_INTERVALS_MAX: usize = 6_000;

part! {
    /// Events of connections in 100 ms.
    #[derive(Copy, Default, Eq)]
    HerdInterval {
        /// Ended, or were closed at the end of their lifetime.
        ended: u32,
        /// Were dialled again.
        attempts: u32,
        /// Failed to open again.
        refused: u32,
        /// Took part again.
        back: u32,
    }
}

/// The reconnects of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReconnectTally {
    /// Connections that ended by themselves and were to open again.
    pub ended: u64,
    /// Connections that were closed at the end of their lifetime.
    pub retired: u64,
    /// Dials of connections that had been open.
    pub attempts: u64,
    /// Attempts that failed, by cause.
    pub refused: BTreeMap<String, u64>,
    /// Connections that never came back.
    pub away: u64,
    /// From the end of a connection until it takes part again.
    pub back: Distribution,
    /// Storm: connections that were cut.
    pub cut: u64,
    /// Storm: from the cut of all until a connection takes part again.
    pub since_cut: Distribution,
    /// Messages that were published while a subscriber was away.
    pub published_away: u64,
    /// Of those, messages received after its return.
    pub recovered: u64,
    /// The measured time in intervals.
    pub herd: Vec<HerdInterval>,
}

summed!(for HerdInterval { ended, attempts, refused, back });

impl ReconnectTally {
    /// An attempt failed.
    pub(crate) fn refused(&mut self, cause: &str) {
        count_cause(&mut self.refused, cause);
    }

    /// The interval at `passed` after the start of the measured time.
    pub(crate) fn herd_at(&mut self, passed: Nanos) -> &mut HerdInterval {
        let at = ((passed / HERD_INTERVAL) as usize).min(HERD_INTERVALS_MAX - 1);
        if at >= self.herd.len() {
            self.herd.resize(at + 1, HerdInterval::default());
        }
        &mut self.herd[at]
    }
}

summed!(for ReconnectTally { ended, retired, attempts, refused, away, back, cut, since_cut, published_away, recovered, herd });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::merge::Merge as _;

    #[test]
    fn merged_threads_have_the_sum_of_each_interval() {
        let (mut one, mut two) = (ReconnectTally::default(), ReconnectTally::default());
        one.herd_at(50 * MILLISECOND).ended += 2;
        two.herd_at(250 * MILLISECOND).back += 1;
        two.herd_at(99 * MILLISECOND).ended += 3;
        two.refused("refused");
        one.merge(&two);
        assert_eq!(
            one.herd.iter().map(|it| (it.ended, it.back)).collect::<Vec<_>>(),
            [(5, 0), (0, 0), (0, 1)]
        );
        assert_eq!(one.refused["refused"], 1);
        one.herd_at(Nanos::MAX).attempts += 1;
        assert_eq!(one.herd.len(), HERD_INTERVALS_MAX);
    }
}
