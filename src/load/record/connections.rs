//! The connections of a run in its record: handshakes, compression, returns, slow subscribers.

use std::collections::BTreeMap;

use crate::measure::Quantiles;
use crate::measure::handshakes::HandshakeTally;
use crate::measure::tally::connections::{ConnectionTally, SlowTally};
use crate::measure::tally::reconnects::ReconnectTally;
pub use crate::measure::tally::reconnects::{HERD_INTERVAL, HerdInterval};
use crate::plan::declared::part;
use crate::plan::{Cut, Workload};
use echoring_proto::limits::SECOND;

part! {
    /// Counts of connections.
    #[derive(Copy, Default, Eq)]
    Connections of(found: &ConnectionTally) {
        /// Handshakes that succeeded.
        opened: u64 = found.opened,
        /// Of those, connections that the server or the network ended before the run was over.
        ended_early: u64 = found.ended_early,
        /// Connections that were dialled, or could not be.
        dialled: Option<u64> = Some(found.handshakes.dialled),
    }
}

part! {
    /// The TLS handshakes of a run.
    #[derive(Copy, Eq)]
    Tls of(found: &ConnectionTally) {
        /// Completed handshakes.
        handshakes: u64 = found.tls_handshakes,
        /// Of those, handshakes that resumed a session of an earlier connection.
        resumed: u64 = found.tls_resumed,
    }
}

part! {
    /// Times of connection handshakes. In connect mode, of the connections that were due in the measured time; in other
    /// modes, of all, because they open before it.
    Handshake of(found: &HandshakeTally)
    where { let span_ns = found.span.map_or(0, |span| span.until.saturating_sub(span.from)); } {
        /// Completed handshakes. Failed ones are among the `errors`.
        count: u64 = found.total.len(),
        /// Handshakes per second, from the first dial to the last completion; `null` if all completed in one tick.
        per_s: Option<f64> = (span_ns > 0).then(|| found.total.len() as f64 * SECOND as f64 / span_ns as f64),
        /// From the dial to TCP.
        connect_ns: Quantiles = Quantiles::of(&found.connect),
        /// From TCP to TLS; `null` without TLS.
        tls_ns: Option<Quantiles> = Quantiles::of_some(&found.tls),
        /// From there to the 101.
        upgrade_ns: Quantiles = Quantiles::of(&found.upgrade),
        /// From the 101 to the first message; `null` where the mode has none.
        first_message_ns: Option<Quantiles> = Quantiles::of_some(&found.first_message),
        /// From the dial to the 101.
        total_ns: Quantiles = Quantiles::of(&found.total),
        /// From the dial to the failure of connections that did not open; `null` if all opened.
        failed_ns: Option<Quantiles> = Quantiles::of_some(&found.failed),
        /// Handshakes that resumed an earlier TLS session.
        resumed: u64 = found.resumed,
        /// Connections that were due while all slots were in use, and had to wait; connect mode only.
        waited: u64 = found.waited,
    }
}

impl Handshake {
    /// The handshakes of a run; `None` when there were none.
    pub(super) fn of_some(found: &HandshakeTally) -> Option<Handshake> {
        (found.total.len() + found.failed.len() > 0).then(|| Handshake::of(found))
    }
}

part! {
    /// Compression statistics over the whole run with warm-up and drain. Only compressed messages are counted: those below
    /// the threshold, and those that would not shrink, are sent uncompressed.
    #[derive(Copy, Eq)]
    Compression of(found: &ConnectionTally)
    where { let done = &found.compressed; } {
        /// Opened connections with negotiated compression.
        agreed: u64 = found.agreed,
        /// Messages that arrived compressed.
        messages_in: u64 = done.messages_in,
        /// Their compressed payload bytes.
        bytes_in: u64 = done.bytes_in,
        /// Their decompressed payload bytes.
        bytes_in_plain: u64 = done.bytes_in_inflated,
        /// Messages that were sent compressed.
        messages_out: u64 = done.messages_out,
        /// Their compressed payload bytes.
        bytes_out: u64 = done.bytes_out,
        /// Their uncompressed payload bytes.
        bytes_out_plain: u64 = done.bytes_out_plain,
    }
}

part! {
    /// The subscribers that read slowly or not at all from the start of the measured time, and their ends.
    #[derive(Eq)]
    Stalled of(found: &SlowTally) {
        /// Slow subscribers that opened.
        count: u64 = found.opened,
        /// Their ends by close code: `4008` if the server closed them as slow consumers, `1006` if no Close frame could be
        /// read, `1000` if they stayed open until the end.
        closed_by_code: BTreeMap<String, u64> = by_code(&found.closes),
        /// Messages that they received in the measured time: those in flight when they stopped, and those of the limited
        /// rate.
        messages: u64 = found.messages,
        /// Payload bytes of those messages.
        bytes: u64 = found.bytes,
    }
}

part! {
    /// Connections that ended and opened again while the load ran.
    Reconnects of(load: &Workload, found: &ReconnectTally) {
        /// Connections that ended by themselves, cut ones included.
        ended: u64 = found.ended,
        /// Connections that were closed at the end of their lifetime.
        retired: u64 = found.retired,
        /// Dials of connections that had been open.
        attempts: u64 = found.attempts,
        /// Attempts that failed, by cause.
        refused: BTreeMap<String, u64> = found.refused.clone(),
        /// Connections that were not back at the end. They are among those that ended early.
        not_back: u64 = found.away,
        /// From the end of a connection until it took part again; `null` if none did.
        back_ns: Option<Quantiles> = Quantiles::of_some(&found.back),
        /// Messages that were published while a subscriber was away, which it never received; only with topics.
        missed: Option<u64> = load.has_topics().then(|| found.published_away - found.recovered),
        /// Messages that were published while a subscriber was away, which it received after its return; only with topics.
        recovered: Option<u64> = load.has_topics().then_some(found.recovered),
    }
}

part! {
    /// All connections that were cut at once, and their return.
    Storm of(load: &Workload, found: &ReconnectTally) {
        /// Who cut them.
        cut_by: Cut = load.churn.cut,
        /// Connections that were cut.
        cut: u64 = found.cut,
        /// Of those, connections that came back.
        back: u64 = found.since_cut.len(),
        /// The time from the cut until a part of them was back.
        back_ns: StormTimes = StormTimes::of(found),
        /// Events of connections in each 100 ms of the measured time.
        over_time: Vec<HerdInterval> = found.herd.clone(),
    }
}

part! {
    /// The times from the cut of all connections until a part of them was back; `null` if that part never was.
    #[derive(Copy, Eq)]
    StormTimes of(found: &ReconnectTally) {
        /// Half of them.
        p50: Option<u64> = until_back(found, 0.5),
        /// 90 %.
        p90: Option<u64> = until_back(found, 0.9),
        /// 99 %.
        p99: Option<u64> = until_back(found, 0.99),
        /// All.
        max: Option<u64> = until_back(found, 1.0),
    }
}

/// The time until a share of those that were cut was back, not of those that are back.
fn until_back(found: &ReconnectTally, share: f64) -> Option<u64> {
    let (wanted, back) = ((found.cut as f64 * share).ceil() as u64, found.since_cut.len());
    (0 < wanted && wanted <= back)
        .then(|| found.since_cut.value_at_quantile(wanted as f64 / back as f64).min(found.since_cut.max()))
}

/// Ends of connections, with their codes as words.
pub(super) fn by_code(closes: &BTreeMap<u16, u64>) -> BTreeMap<String, u64> {
    closes.iter().map(|(code, count)| (code.to_string(), *count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::handshakes::HandshakeTimes;
    use crate::measure::merge::Merge as _;

    #[test]
    fn steps_add_up_to_the_whole_with_and_without_tls() {
        let mut one = HandshakeTally::default();
        one.opened(&HandshakeTimes {
            dialled: 1_000,
            connected: 1_200,
            secured: 0,
            opened: 1_500,
            resumed: false,
        });
        let mut other = HandshakeTally::default();
        let times =
            HandshakeTimes { dialled: 2_000, connected: 2_100, secured: 2_700, opened: 3_000, resumed: true };
        other.opened(&times);
        other.answered(&times, 3_250);
        other.waited += 1;
        one.merge(&other);
        let found = Handshake::of_some(&one).expect("two");
        assert_eq!((found.count, found.resumed, found.waited), (2, 1, 1));
        assert_eq!(found.first_message_ns.map(|first| (first.max, first.count)), Some((250, 1)));
        assert_eq!((found.connect_ns.max, found.connect_ns.count), (200, 2));
        assert_eq!(found.tls_ns.map(|tls| (tls.max, tls.count)), Some((600, 1)));
        assert_eq!((found.upgrade_ns.max, found.upgrade_ns.count), (300, 2));
        assert_eq!((found.total_ns.max, found.total_ns.mean), (1_000, 750.0));
        // Two within two microseconds.
        assert_eq!(found.per_s, Some(1e6));
    }

    #[test]
    fn failed_handshakes_are_separate_from_successful_ones() {
        let mut failing = HandshakeTally::default();
        failing.failed.saturating_record(1_000);
        let found = Handshake::of_some(&failing).expect("one that failed");
        assert_eq!(
            (found.count, found.failed_ns.map(|failed| (failed.count, failed.p50))),
            (0, Some((1, 1_000)))
        );
    }

    #[test]
    fn no_handshakes_are_none() {
        let mut none = HandshakeTally::default();
        none.merge(&HandshakeTally::default());
        assert_eq!(Handshake::of_some(&none), None);
    }
}
