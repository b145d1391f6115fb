//! The messages of a run in its record: fan-out, pings, pushes, stages, samples.

use crate::measure::push_tally::PushTally;
pub use crate::measure::shares::QuantileShares;
use crate::measure::tally::fan_out::FanOutTally;
use crate::measure::tally::latency::StageTally;
use crate::measure::{Quantiles, Samples, Tally};
use crate::plan::declared::part;
use crate::plan::{Mode, RateStage, Workload};

part! {
    /// Fan-out of the messages that were due in the measured time.
    Broadcast of(tally: &Tally)
    where { let FanOutTally { first, median, last, deliveries, deliveries_due, gaps, .. } = &tally.fan_out; } {
        /// Latency of the first subscriber that a message reached.
        first_ns: Quantiles = Quantiles::of(first),
        /// Of the median subscriber.
        median_ns: Quantiles = Quantiles::of(median),
        /// Of the last one, of messages that reached every subscriber of their topic.
        last_ns: Quantiles = Quantiles::of(last),
        /// Deliveries made, as a share of deliveries due over the whole run: 1 is all.
        reach: f64 = if *deliveries_due == 0 { 0.0 } else { *deliveries as f64 / *deliveries_due as f64 },
        /// Number of times that a subscriber received a later message before an earlier one.
        gaps: u64 = *gaps,
        /// Messages published over the whole run.
        published: u64 = tally.counts.sent,
    }
}

part! {
    /// Pings and their pongs: pings as the load, or in addition to it.
    Ping of(load: &Workload, tally: &Tally)
    where {
        let (all, pongs, round_trip) = match load.mode {
            Mode::Ping => (tally.counts.sent, tally.counts.received, &tally.latency.whole.service),
            _ => (tally.pings.sent, tally.pings.answered, &tally.pings.round_trip),
        };
    } {
        /// Pings that were sent over the whole run: in addition to the load, or in ping mode as the load.
        sent: u64 = all,
        /// Their pongs.
        answered: u64 = pongs,
        /// Round trips of those that were sent in the measured time, from the actual send; `null` if there were none.
        rtt_ns: Option<Quantiles> = Quantiles::of_some(round_trip),
        /// In ping mode: pings that were answered by the pong of a later one (RFC 6455, 5.5.3).
        skipped: u64 = tally.pings.skipped,
    }
}

part! {
    /// Messages that the server pushed within the measured time.
    #[derive(Copy)]
    Push of(found: &PushTally) {
        /// Inter-arrival times of a connection's messages.
        gap_ns: Quantiles = Quantiles::of(&found.gap),
        /// Messages without a usable time field.
        untimed: u64 = found.untimed,
        /// Messages whose time is later than their arrival, according to the two clocks. Their response time counts as 0.
        ahead: u64 = found.ahead,
    }
}

part! {
    /// A sample of single messages.
    #[derive(Copy)]
    Sampled of(found: &Samples) {
        /// The share of messages that was asked for: 0.001 is one in a thousand.
        share: f64 = found.share,
        /// Messages that were picked.
        picked: u64 = found.picked,
        /// Picked messages without room; the others are a random sample of all picked ones.
        left_out: u64 = found.left_out(),
    }
}

part! {
    /// The results of a stage.
    StageResult of(stage: &RateStage, found: &StageTally) {
        /// The stage as configured.
        #[serde(flatten)]
        asked: RateStage = *stage,
        /// Messages that arrived within it; in broadcast mode each delivery is one.
        messages: u64 = found.messages,
        /// Messages per second.
        messages_per_s: f64 = found.messages as f64 / stage.time.as_secs_f64(),
        /// Response times of the messages that were due in it.
        response_ns: Quantiles = Quantiles::of(&found.times.response),
        /// Their service times.
        service_ns: Quantiles = Quantiles::of(&found.times.service),
        /// How late the generator sent them: 99 %.
        lateness_ns_p99: u64 = Quantiles::of(&found.times.lateness).p99,
    }
}

part! {
    /// The shares of quantiles of the response time.
    #[derive(Copy, Eq)]
    Shares of(found: [QuantileShares; 3]) {
        /// Of the median.
        p50: QuantileShares = found[0],
        /// 99 %.
        p99: QuantileShares = found[1],
        /// 99.9 %.
        p999: QuantileShares = found[2],
    }
}

impl Shares {
    /// Those of a run; `None` if nothing was timed.
    pub(super) fn of_some(tally: &Tally) -> Option<Shares> {
        let of = |quantile| {
            let shares = tally.shares.of(&tally.latency.whole.response, quantile)?;
            let host_ns = tally.health.run_delay_ns.and(shares.host_ns);
            Some(QuantileShares { host_ns, ..shares })
        };
        Some(Shares::of([of(0.5)?, of(0.99)?, of(0.999)?]))
    }
}
