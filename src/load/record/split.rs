//! The response times of a run, split by the kernel's times.

use serde::{Deserialize, Serialize};

pub use crate::measure::split::QuantileSplit;
use crate::measure::tally::Tally;

/// How quantiles of the response time are split, and how many messages that is known of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Messages that were to be stamped.
    pub sampled: u64,
    /// Of those, messages whose stamps are known: the parts are theirs.
    pub stamped: u64,
    /// Of those, messages to which no stamps could be attributed.
    pub unattributed: u64,
    /// The median; `None` if no stamped message took about as long, as for the others.
    pub p50: Option<QuantileSplit>,
    /// 90 %.
    pub p90: Option<QuantileSplit>,
    /// 99 %.
    pub p99: Option<QuantileSplit>,
    /// 99.9 %.
    pub p999: Option<QuantileSplit>,
}

impl Split {
    /// The split of a run; `None` if no message was to be stamped.
    pub(super) fn of(tally: &Tally) -> Option<Split> {
        let of = |quantile| tally.split.of(&tally.latency.whole.response, quantile);
        let (stamped, unattributed) = (tally.split.server_and_network.len(), tally.split.unattributed);
        (stamped + unattributed > 0).then(|| Split {
            sampled: stamped + unattributed,
            stamped,
            unattributed,
            p50: of(0.5),
            p90: of(0.9),
            p99: of(0.99),
            p999: of(0.999),
        })
    }

    /// The quantiles that are split, with their names.
    pub fn quantiles(&self) -> impl Iterator<Item = (&'static str, QuantileSplit)> {
        let all = [("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("p99.9", self.p999)];
        all.into_iter().filter_map(|(name, split)| Some((name, split?)))
    }
}
