//! The response times of a run, split by the kernel's times.

pub use crate::measure::split::QuantileSplit;
use crate::measure::tally::Tally;
use crate::plan::declared::part;

part! {
    /// How quantiles of the response time are split, and how many messages that is known of.
    #[derive(Copy, Default, Eq)]
    Split of(tally: &Tally)
    where { let of = |quantile| tally.split.of(&tally.latency.whole.response, quantile); } {
        /// Messages whose kernel times were to be known: the parts are theirs.
        sampled: u64 = tally.split.server_and_network.len(),
        /// Of those, messages for which the part of server and network is an upper bound, because a time is unknown.
        bounded: u64 = tally.split.bounded,
        /// The median; `null` if no sampled message took about as long, as for the others.
        p50: Option<QuantileSplit> = of(0.5),
        /// 90 %.
        p90: Option<QuantileSplit> = of(0.9),
        /// 99 %.
        p99: Option<QuantileSplit> = of(0.99),
        /// 99.9 %.
        p999: Option<QuantileSplit> = of(0.999),
    }
}

impl Split {
    /// The quantiles that are split, with their names.
    pub fn quantiles(&self) -> impl Iterator<Item = (&'static str, QuantileSplit)> {
        let all = [("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("p99.9", self.p999)];
        all.into_iter().filter_map(|(name, split)| Some((name, split?)))
    }
}
