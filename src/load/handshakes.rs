//! How long connections take to open, step by step: TCP, TLS, the upgrade, and the first message behind it.
//!
//! Times are those of the generator's turns, as everywhere in it: what came within one turn came at one time. Recorded
//! by each thread for itself, and merged at the end.

use hdrhistogram::Histogram;

use super::record::{self, Quantiles};
use super::tally::{Window, histogram};
use crate::limits::{Nanos, SECOND};

/// When a connection came how far, 0 where it has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// It was dialled.
    pub dialled: Nanos,
    /// TCP was there.
    pub connected: Nanos,
    /// TLS was there; stays 0 without it.
    pub secured: Nanos,
    /// The 101 was there.
    pub opened: Nanos,
    /// TLS went on with an earlier connection's session.
    pub resumed: bool,
}

impl Opening {
    /// Dialled at `now`.
    pub fn begun(now: Nanos) -> Opening {
        Opening { dialled: now, ..Opening::default() }
    }
}

/// The handshakes of one thread, or of a whole run once merged.
#[derive(Clone, Debug)]
pub struct Handshakes {
    /// From dialling to TCP.
    connect: Histogram<u64>,
    /// From TCP to TLS; empty without it.
    tls: Histogram<u64>,
    /// From TCP, or TLS where there is any, to the 101.
    upgrade: Histogram<u64>,
    /// From the 101 to the first message; empty where the mode has none.
    first_message: Histogram<u64>,
    /// From dialling to the 101.
    total: Histogram<u64>,
    /// From dialling to the failure of those that did not open.
    failed: Histogram<u64>,
    resumed: u64,
    dialled: u64,
    waited: u64,
    /// From the first dialling to the last 101 of those that are counted.
    span: Window,
}

impl Default for Handshakes {
    fn default() -> Handshakes {
        Handshakes {
            connect: histogram(),
            tls: histogram(),
            upgrade: histogram(),
            first_message: histogram(),
            total: histogram(),
            failed: histogram(),
            resumed: 0,
            dialled: 0,
            waited: 0,
            span: Window { from: Nanos::MAX, until: 0 },
        }
    }
}

impl Handshakes {
    /// A connection is begun, or fails to be.
    pub fn begun(&mut self) {
        self.dialled += 1;
    }

    /// Connections that were begun over the whole run.
    pub fn dialled(&self) -> u64 {
        self.dialled
    }

    /// A connection is open.
    pub fn opened(&mut self, times: &Opening) {
        let Opening { dialled, connected, secured, opened, resumed } = *times;
        self.connect.saturating_record(connected.saturating_sub(dialled));
        if secured > 0 {
            self.tls.saturating_record(secured.saturating_sub(connected));
            self.resumed += u64::from(resumed);
        }
        self.upgrade.saturating_record(opened.saturating_sub(secured.max(connected)));
        self.total.saturating_record(opened.saturating_sub(dialled));
        self.span.from = self.span.from.min(dialled);
        self.span.until = self.span.until.max(opened);
    }

    /// A connection did not open, and that took so long.
    pub fn failed(&mut self, took: Nanos) {
        self.failed.saturating_record(took);
    }

    /// Its first message came at `now`.
    pub fn answered(&mut self, times: &Opening, now: Nanos) {
        self.first_message.saturating_record(now.saturating_sub(times.opened));
    }

    /// A connection is due and has to wait for the end of another. It counts where it is due in the measured time.
    pub fn waits(&mut self, counts: bool) {
        self.waited += u64::from(counts);
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: &Handshakes) {
        for (mine, theirs) in [
            (&mut self.connect, &other.connect),
            (&mut self.tls, &other.tls),
            (&mut self.upgrade, &other.upgrade),
            (&mut self.first_message, &other.first_message),
            (&mut self.total, &other.total),
            (&mut self.failed, &other.failed),
        ] {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
        self.resumed += other.resumed;
        self.waited += other.waited;
        self.dialled += other.dialled;
        self.span.from = self.span.from.min(other.span.from);
        self.span.until = self.span.until.max(other.span.until);
    }

    /// What the record says of them; `None` when there were none.
    pub fn describe(&self) -> Option<record::Handshake> {
        let count = self.total.len();
        let some = |values: &Histogram<u64>| (!values.is_empty()).then(|| Quantiles::of(values));
        let span_ns = self.span.until.saturating_sub(self.span.from);
        (count + self.failed.len() > 0).then(|| record::Handshake {
            count,
            // All in one turn are no rate.
            per_s: (span_ns > 0).then(|| count as f64 * SECOND as f64 / span_ns as f64),
            connect_ns: Quantiles::of(&self.connect),
            tls_ns: some(&self.tls),
            upgrade_ns: Quantiles::of(&self.upgrade),
            first_message_ns: some(&self.first_message),
            total_ns: Quantiles::of(&self.total),
            failed_ns: some(&self.failed),
            resumed: self.resumed,
            waited: self.waited,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_to_the_whole_with_and_without_tls() {
        let mut one = Handshakes::default();
        one.opened(&Opening { dialled: 1_000, connected: 1_200, secured: 0, opened: 1_500, resumed: false });
        let mut other = Handshakes::default();
        let times =
            Opening { dialled: 2_000, connected: 2_100, secured: 2_700, opened: 3_000, resumed: true };
        other.opened(&times);
        other.answered(&times, 3_250);
        other.waits(true);
        other.waits(false);
        one.merge(&other);
        let found = one.describe().expect("two");
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
    fn those_that_fail_are_told_apart_from_those_that_open() {
        let mut failing = Handshakes::default();
        failing.failed(1_000);
        let found = failing.describe().expect("one that failed");
        assert_eq!(
            (found.count, found.failed_ns.map(|failed| (failed.count, failed.p50))),
            (0, Some((1, 1_000)))
        );
    }

    #[test]
    fn none_are_none() {
        let mut none = Handshakes::default();
        none.merge(&Handshakes::default());
        assert_eq!(none.describe(), None);
    }
}
