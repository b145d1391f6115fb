//! What one thread counts and times. Recorded locally without locks, merged once at the end: histograms are
//! added, percentiles are never averaged.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hdrhistogram::Histogram;

use super::handshakes::Handshakes;
use super::meter::Stretch;
use super::order::Findings;
use super::track::Integrity;
use crate::limits::{Nanos, SECOND};
use crate::stats::Compressed;

/// The longest latency that is told apart: one hour.
pub const LATENCY_NS_MAX: u64 = 3_600 * SECOND;
/// Significant digits of the histograms that results are read from.
const DIGITS: u8 = 3;
/// Significant digits of an interval's histogram: there are many of those.
const INTERVAL_DIGITS: u8 = 2;
/// Intervals of a run at most. Longer runs have longer intervals.
const INTERVALS_MAX: u64 = 600;

/// A histogram of nanoseconds, from 1 ns to [`LATENCY_NS_MAX`], exact to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds are valid")
}

/// One stretch of the measured time.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Messages received in it.
    pub messages: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Response times of those.
    pub response: Histogram<u32>,
}

impl Interval {
    fn new() -> Interval {
        let response = Histogram::new_with_bounds(1, LATENCY_NS_MAX, INTERVAL_DIGITS);
        Interval { messages: 0, bytes: 0, response: response.expect("constant bounds are valid") }
    }
}

/// The time in which results count. Before it is warm-up, after it only what is still under way is awaited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// First nanosecond.
    pub from: Nanos,
    /// One past the last.
    pub until: Nanos,
}

impl Window {
    /// Whether `at` counts.
    #[inline]
    pub fn contains(&self, at: Nanos) -> bool {
        (self.from..self.until).contains(&at)
    }

    /// Length of an interval of this window.
    pub fn interval(&self) -> Nanos {
        (self.until.saturating_sub(self.from)).div_ceil(INTERVALS_MAX).next_multiple_of(SECOND).max(SECOND)
    }
}

/// The counts of one thread, or of a whole run once merged.
#[derive(Clone, Debug)]
pub struct Tally {
    /// When results count.
    pub window: Window,
    /// From the intended send time to the arrival, of messages that were intended within the window.
    pub response: Histogram<u64>,
    /// From the actual send to the arrival, of the same messages.
    pub service: Histogram<u64>,
    /// How much later than intended the generator itself came to a message; open loop only.
    pub lateness: Histogram<u64>,
    /// Broadcast: latency of the first subscriber that a message reached.
    pub first: Histogram<u64>,
    /// Broadcast: of the median subscriber.
    pub median: Histogram<u64>,
    /// Broadcast: of the last one, of messages that reached all.
    pub last: Histogram<u64>,
    /// When the window began, as the first thread saw it.
    pub began_at: Option<SystemTime>,
    /// The window as the server's CPU time was sampled at its ends; the first thread's.
    pub stretch: Stretch,
    /// Messages that arrived, over the whole run.
    pub received: u64,
    /// Messages that arrived within the window.
    pub messages: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Messages that were sent, over the whole run.
    pub sent: u64,
    /// Messages that were due and could not be sent because their connection was full or gone; open loop only.
    pub unsent: u64,
    /// Broadcast: deliveries that the published messages ask for.
    pub deliveries_due: u64,
    /// Broadcast: deliveries made.
    pub deliveries: u64,
    /// Broadcast: times that a subscriber saw a later message before one that precedes it.
    pub gaps: u64,
    /// What is wrong with the messages, but for their order over several publishers.
    pub integrity: Integrity,
    /// Broadcast: what subscribers met that did not see their topics in the order of others.
    pub order: Findings,
    /// Failed connections by cause.
    pub errors: BTreeMap<String, u64>,
    /// Ends of connections that this side did not ask for, and those it did, by close code.
    pub closes: BTreeMap<u16, u64>,
    /// Broadcast: connections that opened and were to stop reading.
    pub stalled: u64,
    /// Their ends by close code, as the server gave it. They are in nothing else.
    pub stalled_closes: BTreeMap<u16, u64>,
    /// Messages that came to those within the window.
    pub stalled_messages: u64,
    /// Payload bytes of those messages.
    pub stalled_bytes: u64,
    /// Connections that ended before the run did.
    pub ended_early: u64,
    /// Connections that opened.
    pub opened: u64,
    /// Of those, connections whose server agreed to compression.
    pub agreed: u64,
    /// What was inflated and deflated, over the whole run.
    pub compressed: Compressed,
    /// TLS handshakes over the whole run.
    pub tls_handshakes: u64,
    /// Those of them that resumed a session.
    pub tls_resumed: u64,
    /// How long connections took to open.
    pub handshakes: Handshakes,
    /// CPU time of the thread within the window.
    pub cpu_ns: u64,
    /// The same stretch by the clock.
    pub wall_ns: u64,
    /// The window in stretches.
    pub intervals: Vec<Interval>,
    interval_ns: Nanos,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally::new()
    }
}

impl Tally {
    /// Nothing counted yet, and no window: nothing counts before [`open`](Tally::open).
    pub fn new() -> Tally {
        Tally {
            window: Window::default(),
            response: histogram(),
            service: histogram(),
            lateness: histogram(),
            first: histogram(),
            median: histogram(),
            last: histogram(),
            began_at: None,
            stretch: Stretch::default(),
            received: 0,
            messages: 0,
            bytes: 0,
            sent: 0,
            unsent: 0,
            deliveries_due: 0,
            deliveries: 0,
            gaps: 0,
            integrity: Integrity::default(),
            order: Findings::default(),
            errors: BTreeMap::new(),
            closes: BTreeMap::new(),
            stalled: 0,
            stalled_closes: BTreeMap::new(),
            stalled_messages: 0,
            stalled_bytes: 0,
            ended_early: 0,
            opened: 0,
            agreed: 0,
            compressed: Compressed::default(),
            tls_handshakes: 0,
            tls_resumed: 0,
            handshakes: Handshakes::default(),
            cpu_ns: 0,
            wall_ns: 0,
            intervals: Vec::new(),
            interval_ns: SECOND,
        }
    }

    /// Sets the window and makes room for its intervals, so that recording allocates nothing.
    pub fn open(&mut self, window: Window) {
        self.window = window;
        self.interval_ns = window.interval();
        let intervals = (window.until - window.from).div_ceil(self.interval_ns);
        self.intervals = (0..intervals).map(|_| Interval::new()).collect();
    }

    /// A message arrived, whole.
    #[inline]
    pub fn arrived(&mut self, now: Nanos, intended: Nanos, sent: Nanos, payload_bytes: usize) {
        let response = now.saturating_sub(intended);
        self.received += 1;
        if self.window.contains(intended) {
            self.response.saturating_record(response);
            self.service.saturating_record(now.saturating_sub(sent));
        }
        if self.window.contains(now) {
            self.messages += 1;
            self.bytes += payload_bytes as u64;
            let interval = ((now - self.window.from) / self.interval_ns) as usize;
            if let Some(interval) = self.intervals.get_mut(interval) {
                interval.messages += 1;
                interval.bytes += payload_bytes as u64;
                interval.response.saturating_record(response);
            }
        }
    }

    /// The generator came to a message that was intended for `intended`.
    #[inline]
    pub fn late(&mut self, now: Nanos, intended: Nanos) {
        if self.window.contains(intended) {
            self.lateness.saturating_record(now.saturating_sub(intended));
        }
    }

    /// A connection failed.
    pub fn error(&mut self, cause: &str) {
        match self.errors.get_mut(cause) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(cause.to_owned(), 1);
            }
        }
    }

    /// The window ends early, at `now`: what comes later does not count.
    pub fn cut(&mut self, now: Nanos) {
        self.window.until = self.window.until.min(now.max(self.window.from));
    }

    /// Nanoseconds of an interval.
    pub fn interval_ns(&self) -> Nanos {
        self.interval_ns
    }

    /// Adds what another thread counted. The windows must be the same, or one of them not opened.
    pub fn merge(&mut self, other: &Tally) {
        if self.window == Window::default() {
            self.window = other.window;
            self.interval_ns = other.interval_ns;
        }
        self.window.until = self.window.until.max(other.window.until);
        for (mine, theirs) in [
            (&mut self.response, &other.response),
            (&mut self.service, &other.service),
            (&mut self.lateness, &other.lateness),
            (&mut self.first, &other.first),
            (&mut self.median, &other.median),
            (&mut self.last, &other.last),
        ] {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
        self.began_at = self.began_at.or(other.began_at);
        self.stretch.first = self.stretch.first.or(other.stretch.first);
        self.stretch.last = self.stretch.last.or(other.stretch.last);
        self.received += other.received;
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.deliveries_due += other.deliveries_due;
        self.deliveries += other.deliveries;
        self.gaps += other.gaps;
        self.ended_early += other.ended_early;
        self.opened += other.opened;
        self.stalled += other.stalled;
        self.stalled_messages += other.stalled_messages;
        self.stalled_bytes += other.stalled_bytes;
        self.agreed += other.agreed;
        self.tls_handshakes += other.tls_handshakes;
        self.tls_resumed += other.tls_resumed;
        self.handshakes.merge(&other.handshakes);
        for (mine, theirs) in [
            (&mut self.compressed.messages_in, other.compressed.messages_in),
            (&mut self.compressed.bytes_in, other.compressed.bytes_in),
            (&mut self.compressed.bytes_in_inflated, other.compressed.bytes_in_inflated),
            (&mut self.compressed.messages_out, other.compressed.messages_out),
            (&mut self.compressed.bytes_out_plain, other.compressed.bytes_out_plain),
            (&mut self.compressed.bytes_out, other.compressed.bytes_out),
        ] {
            *mine += theirs;
        }
        self.cpu_ns += other.cpu_ns;
        self.wall_ns += other.wall_ns;
        self.integrity.merge(&other.integrity);
        self.order.merge(&other.order);
        for (cause, count) in &other.errors {
            *self.errors.entry(cause.clone()).or_default() += count;
        }
        for (mine, theirs) in
            [(&mut self.closes, &other.closes), (&mut self.stalled_closes, &other.stalled_closes)]
        {
            for (code, count) in theirs {
                *mine.entry(*code).or_default() += count;
            }
        }
        while self.intervals.len() < other.intervals.len() {
            self.intervals.push(Interval::new());
        }
        for (mine, theirs) in self.intervals.iter_mut().zip(&other.intervals) {
            mine.messages += theirs.messages;
            mine.bytes += theirs.bytes;
            mine.response.add(&theirs.response).expect("all histograms have the same bounds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { from: 10 * SECOND, until: 13 * SECOND };

    #[test]
    fn merged_threads_equal_one_thread() {
        let (mut one, mut left, mut right) = (Tally::new(), Tally::new(), Tally::new());
        for tally in [&mut one, &mut left, &mut right] {
            tally.open(WINDOW);
        }
        for message in 0..30_000_u64 {
            let intended = 10 * SECOND + message * 100_000;
            let (sent, now) = (intended + message % 70, intended + 20_000 + message * message % 1_000_003);
            one.arrived(now, intended, sent, 16);
            let half = if message % 3 == 0 { &mut left } else { &mut right };
            half.arrived(now, intended, sent, 16);
            one.late(now, intended);
            half.late(now, intended);
        }
        left.error("refused");
        right.error("refused");
        right.closes.insert(1001, 3);
        let mut merged = Tally::new();
        merged.merge(&left);
        merged.merge(&right);
        assert_eq!(merged.window, one.window);
        assert_eq!((merged.messages, merged.bytes), (one.messages, one.bytes));
        assert_eq!(merged.response, one.response);
        assert_eq!(merged.service, one.service);
        assert_eq!(merged.lateness, one.lateness);
        assert_eq!(merged.intervals.len(), 3);
        for (mine, theirs) in merged.intervals.iter().zip(&one.intervals) {
            assert_eq!((mine.messages, &mine.response), (theirs.messages, &theirs.response));
        }
        assert_eq!(merged.errors["refused"], 2);
        assert_eq!(merged.closes[&1001], 3);
    }

    #[test]
    fn a_message_counts_where_it_arrives_and_is_timed_where_it_was_due() {
        let mut tally = Tally::new();
        tally.open(WINDOW);
        let before = WINDOW.from - 1;
        tally.arrived(WINDOW.from + 5, before, before, 1);
        assert_eq!((tally.messages, tally.response.len()), (1, 0), "due in the warm-up");
        tally.arrived(WINDOW.until + 5, WINDOW.until - 1, WINDOW.until - 1, 1);
        assert_eq!((tally.messages, tally.response.len()), (1, 1), "arrived after the end");
    }

    #[test]
    fn before_the_window_is_known_nothing_counts() {
        let mut tally = Tally::new();
        tally.arrived(5, 3, 4, 1);
        tally.late(5, 3);
        assert_eq!((tally.messages, tally.response.len(), tally.lateness.len()), (0, 0, 0));
    }

    #[test]
    fn a_long_run_has_longer_intervals() {
        let hours = Window { from: 0, until: 10 * 3_600 * SECOND };
        assert_eq!(hours.interval(), 60 * SECOND);
        assert_eq!(WINDOW.interval(), SECOND);
    }

    #[test]
    fn a_latency_past_the_range_is_kept_at_its_end() {
        let mut tally = Tally::new();
        tally.open(Window { from: 0, until: u64::MAX / 2 });
        tally.arrived(2 * LATENCY_NS_MAX, 0, 0, 1);
        assert!(tally.response.max() >= LATENCY_NS_MAX);
    }
}
