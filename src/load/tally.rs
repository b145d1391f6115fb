//! What one thread counts and times. Recorded locally without locks, merged once at the end: histograms are
//! added, percentiles are never averaged.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hdrhistogram::Histogram;

use super::handshakes::Handshakes;
use super::interval::{Recorder, Series};
use super::meter::Stretch;
use super::missing::Missing;
use super::order::Findings;
use super::plan::RateStage;
use super::pushes::Pushes;
use super::track::{Integrity, Times};
use crate::limits::{Nanos, SECOND};
use crate::stats::Compressed;

/// The longest latency that is told apart: one hour.
pub const LATENCY_NS_MAX: u64 = 3_600 * SECOND;
/// Significant digits of the histograms that results are read from.
const DIGITS: u8 = 3;
/// Intervals of a run at most. Longer runs have longer intervals.
const INTERVALS_MAX: u64 = 600;

/// A histogram of nanoseconds, from 1 ns to [`LATENCY_NS_MAX`], exact to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds are valid")
}

/// What is counted and timed of the messages of one stage of the rate.
#[derive(Clone, Debug)]
pub struct StageTally {
    /// When its messages are due.
    pub window: Window,
    /// Messages that arrived within it.
    pub messages: u64,
    /// Response times of those that were due in it.
    pub response: Histogram<u64>,
    /// Their service times.
    pub service: Histogram<u64>,
    /// How late the generator came to them.
    pub lateness: Histogram<u64>,
}

impl StageTally {
    fn new(window: Window) -> StageTally {
        let (response, service, lateness) = (histogram(), histogram(), histogram());
        StageTally { window, messages: 0, response, service, lateness }
    }

    fn merge(&mut self, other: &StageTally) {
        self.messages += other.messages;
        for (mine, theirs) in [
            (&mut self.response, &other.response),
            (&mut self.service, &other.service),
            (&mut self.lateness, &other.lateness),
        ] {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
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
    /// How long the turns of the thread's loop within the window took, without their trip to the kernel.
    pub turns: Histogram<u64>,
    /// How late the thread's heartbeats were that were due within the window.
    pub heartbeat: Histogram<u64>,
    /// How long the thread was ready to run within the window and had no CPU, where that is known.
    pub run_delay_ns: Option<u64>,
    /// What was due in each stage of the rate; only where there are stages. Until it is [complete](Tally::complete), what is
    /// timed there is nowhere else.
    pub stages: Vec<StageTally>,
    /// A message that takes longer counts as late.
    pub late_after_ns: Nanos,
    /// Messages of which it is known already that they will not come.
    pub missing: Missing,
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
    /// Answers that did not tell which message they answer, over the whole run; where nothing is checked only.
    pub unmatched: u64,
    /// Messages that were due and could not be sent because their connection was full or gone; open loop only.
    pub unsent: u64,
    /// Of those, messages whose connection was gone.
    pub unsent_gone: u64,
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
    /// What came of itself; push mode only.
    pub pushes: Pushes,
    /// CPU time of the thread within the window.
    pub cpu_ns: u64,
    /// The same stretch by the clock.
    pub wall_ns: u64,
    /// The window in stretches, of each thread.
    pub series: Vec<Series>,
    recorder: Option<Recorder>,
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
            turns: histogram(),
            heartbeat: histogram(),
            run_delay_ns: None,
            stages: Vec::new(),
            late_after_ns: Nanos::MAX,
            missing: Missing::default(),
            first: histogram(),
            median: histogram(),
            last: histogram(),
            began_at: None,
            stretch: Stretch::default(),
            received: 0,
            messages: 0,
            bytes: 0,
            sent: 0,
            unmatched: 0,
            unsent: 0,
            unsent_gone: 0,
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
            pushes: Pushes::default(),
            cpu_ns: 0,
            wall_ns: 0,
            series: Vec::new(),
            recorder: None,
            interval_ns: SECOND,
        }
    }

    /// The same, with messages that take longer than `late_after_ns` counting as late.
    pub fn with_bound(late_after_ns: Nanos) -> Tally {
        Tally { late_after_ns, ..Tally::new() }
    }

    /// Sets the window and makes room for its intervals, so that recording allocates nothing.
    pub fn open(&mut self, window: Window) {
        self.window = window;
        self.interval_ns = window.interval();
        self.missing = Missing::new(window);
        self.recorder = Some(Recorder::new(window));
    }

    /// Times what is due in each of these stages, which fill the window, apart.
    pub fn open_stages(&mut self, stages: &[RateStage]) {
        let mut from = self.window.from;
        for stage in stages {
            let until = from + stage.time.as_nanos() as Nanos;
            self.stages.push(StageTally::new(Window { from, until }));
            from = until;
        }
    }

    /// A message arrived, whole.
    #[inline]
    pub fn arrived(&mut self, now: Nanos, intended: Nanos, sent: Nanos, payload_bytes: usize) {
        let (response, service) = (now.saturating_sub(intended), now.saturating_sub(sent));
        self.received += 1;
        self.integrity.late += u64::from(response > self.late_after_ns);
        if self.window.contains(intended) {
            match self.stage(intended) {
                Some(stage) => {
                    stage.response.saturating_record(response);
                    stage.service.saturating_record(service);
                }
                None => {
                    self.response.saturating_record(response);
                    self.service.saturating_record(service);
                }
            }
        }
        if self.window.contains(now) {
            self.messages += 1;
            self.bytes += payload_bytes as u64;
            if let Some(recorder) = &mut self.recorder {
                recorder.record(now, response, service, payload_bytes);
            }
            if let Some(stage) = self.stage(now) {
                stage.messages += 1;
            }
        }
    }

    /// Something came in place of a message, or a connection failed that should have been begun then: it is no message that
    /// arrived, and is as old as it is.
    #[cold]
    pub fn damaged(&mut self, now: Nanos, times: Times) {
        self.never_came(now, times, 1);
    }

    /// A message arrived, whole, of which nobody knows when it left.
    #[inline]
    pub fn heard(&mut self, now: Nanos, payload_bytes: usize) {
        self.received += 1;
        if self.window.contains(now) {
            self.messages += 1;
            self.bytes += payload_bytes as u64;
            if let Some(recorder) = &mut self.recorder {
                recorder.count(now, payload_bytes);
            }
        }
    }

    /// The stage of a time within the window.
    #[inline]
    fn stage(&mut self, at: Nanos) -> Option<&mut StageTally> {
        if self.stages.is_empty() {
            return None;
        }
        let stage = self.stages.partition_point(|stage| stage.window.until <= at);
        self.stages.get_mut(stage)
    }

    /// The generator came to a message that was intended for `intended`.
    #[inline]
    pub fn late(&mut self, now: Nanos, intended: Nanos) {
        if self.window.contains(intended) {
            let lateness = now.saturating_sub(intended);
            match self.stage(intended) {
                Some(stage) => stage.lateness.saturating_record(lateness),
                None => self.lateness.saturating_record(lateness),
            }
        }
    }

    /// A message that the server sent by itself arrived, which says that it was made at `made`: it is timed where it arrived
    /// within the window, or was made in it and came behind its end.
    pub fn pushed(&mut self, now: Nanos, made: Nanos, payload_bytes: usize) {
        // One that came within the window is timed as if it had been made there: no delay takes any out of it.
        if self.window.contains(now) && !self.window.contains(made) {
            let age = now.saturating_sub(made);
            self.response.saturating_record(age);
            self.service.saturating_record(age);
        }
        self.arrived(now, made, made, payload_bytes);
    }

    /// A heartbeat that was due at `due` came.
    pub fn beat(&mut self, now: Nanos, due: Nanos) {
        if self.window.contains(due) {
            self.heartbeat.saturating_record(now.saturating_sub(due));
        }
    }

    /// A turn of the loop took so long.
    #[inline]
    pub fn turned(&mut self, now: Nanos, took: Nanos) {
        if self.window.contains(now) {
            self.turns.saturating_record(took);
        }
    }

    /// So many copies of a message have not come and are awaited until `until` at most: from when it was due they are as old
    /// as that.
    pub fn never_came(&mut self, until: Nanos, Times { intended, sent }: Times, copies: u64) {
        if self.window.contains(intended) {
            self.timed_response(until, intended, copies);
            self.timed_service(until, sent, intended, copies);
        }
    }

    /// The same of a message that was due and not sent, of which there is no service time.
    pub fn never_left(&mut self, until: Nanos, intended: Nanos, copies: u64) {
        if self.window.contains(intended) {
            self.timed_response(until, intended, copies);
        }
    }

    /// The same of all that are known to be [`missing`](Tally::missing).
    pub fn settle_missing(&mut self, until: Nanos) {
        let missing = std::mem::take(&mut self.missing);
        for (intended, copies) in missing.intended() {
            self.timed_response(until, intended, copies);
        }
        for (sent, copies) in missing.sent() {
            self.timed_service(until, sent, sent, copies);
        }
    }

    fn timed_response(&mut self, until: Nanos, intended: Nanos, copies: u64) {
        let response = until.saturating_sub(intended);
        match self.stage(intended) {
            Some(stage) => stage.response.saturating_record_n(response, copies),
            None => self.response.saturating_record_n(response, copies),
        }
    }

    fn timed_service(&mut self, until: Nanos, sent: Nanos, intended: Nanos, copies: u64) {
        let service = until.saturating_sub(sent);
        match self.stage(intended) {
            Some(stage) => stage.service.saturating_record_n(service, copies),
            None => self.service.saturating_record_n(service, copies),
        }
    }

    /// All is counted. What was timed in stages belongs to the whole run, too, and is added here: once, and not with every
    /// message.
    pub fn complete(&mut self) {
        for stage in &self.stages {
            for (whole, part) in [
                (&mut self.response, &stage.response),
                (&mut self.service, &stage.service),
                (&mut self.lateness, &stage.lateness),
            ] {
                whole.add(part).expect("all histograms have the same bounds");
            }
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

    /// The window is over, perhaps early, at `now`: what comes later does not count.
    pub fn cut(&mut self, now: Nanos) {
        self.window.until = self.window.until.min(now.max(self.window.from));
        self.close();
    }

    /// Whether the window was open, and is over at `at`.
    pub fn is_past_window(&self, at: Nanos) -> bool {
        self.window != Window::default() && at >= self.window.until
    }

    /// Nanoseconds of an interval.
    pub fn interval_ns(&self) -> Nanos {
        self.interval_ns
    }

    /// Packs what the intervals have.
    pub(super) fn close(&mut self) {
        self.series.extend(self.recorder.take().map(Recorder::finish));
    }

    /// Packs the intervals that are over at `now`.
    pub(super) fn roll(&mut self, now: Nanos) {
        if let Some(recorder) = &mut self.recorder {
            recorder.roll(now);
        }
    }

    /// The intervals that are over, of one thread.
    pub(super) fn over(&self) -> Option<&Series> {
        self.recorder.as_ref().map(Recorder::series).or(self.series.first())
    }

    /// Response times of the interval that goes on, packed; `None` when all are over.
    pub(super) fn current(&self) -> Option<Vec<u8>> {
        self.recorder.as_ref().map(Recorder::current_response)
    }

    /// Adds what another thread counted, whose window is over. The windows must be the same, or one of them not opened.
    pub fn merge(&mut self, other: &Tally) {
        debug_assert!(other.recorder.is_none(), "its intervals are not packed yet");
        if self.window == Window::default() {
            self.window = other.window;
            self.interval_ns = other.interval_ns;
        }
        self.window.until = self.window.until.max(other.window.until);
        for (mine, theirs) in [
            (&mut self.response, &other.response),
            (&mut self.service, &other.service),
            (&mut self.lateness, &other.lateness),
            (&mut self.turns, &other.turns),
            (&mut self.heartbeat, &other.heartbeat),
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
        self.unmatched += other.unmatched;
        self.unsent += other.unsent;
        self.unsent_gone += other.unsent_gone;
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
        self.pushes.merge(&other.pushes);
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
        self.run_delay_ns = match (self.run_delay_ns, other.run_delay_ns) {
            (Some(mine), Some(theirs)) => Some(mine + theirs),
            (mine, theirs) => mine.or(theirs),
        };
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
        self.series.extend(other.series.iter().cloned());
        if self.stages.is_empty() {
            self.stages.clone_from(&other.stages);
        } else {
            for (mine, theirs) in self.stages.iter_mut().zip(&other.stages) {
                mine.merge(theirs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::MILLISECOND;
    use crate::load::timeline::Timeline;

    const WINDOW: Window = Window { from: 10 * SECOND, until: 13 * SECOND };

    #[test]
    fn merged_threads_equal_one_thread() {
        let (mut one, mut left, mut right) = (Tally::new(), Tally::new(), Tally::new());
        let stages = [1, 2].map(|seconds| RateStage { time: Duration::from_secs(seconds), from: 9, to: 9 });
        for tally in [&mut one, &mut left, &mut right] {
            tally.open(WINDOW);
            tally.open_stages(&stages);
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
        for tally in [&mut one, &mut left, &mut right] {
            tally.cut(WINDOW.until);
            tally.complete();
        }
        assert_eq!((one.response.len(), one.service.len(), one.lateness.len()), (30_000, 30_000, 30_000));
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
        for (mine, theirs) in merged.stages.iter().zip(&one.stages) {
            assert_eq!((mine.window, mine.messages), (theirs.window, theirs.messages));
            assert_eq!((&mine.response, &mine.service), (&theirs.response, &theirs.service));
            assert_eq!(mine.lateness, theirs.lateness);
        }
        assert_eq!(one.stages.iter().map(|stage| stage.response.len()).collect::<Vec<_>>(), [10_000, 20_000]);
        let (merged_time, one_time) = (Timeline::take(&mut merged), Timeline::take(&mut one));
        assert_eq!(merged_time.stretches().count(), 3);
        for (mine, theirs) in merged_time.stretches().zip(one_time.stretches()) {
            assert_eq!((mine.messages, mine.bytes), (theirs.messages, theirs.bytes));
            assert_eq!(mine.distributions, theirs.distributions);
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
    fn what_never_came_is_as_old_as_it_gets() {
        let mut tally = Tally::new();
        tally.open(WINDOW);
        let until = WINDOW.until + 5 * SECOND;
        let times = |millis| {
            let intended = WINDOW.from + millis * MILLISECOND;
            Times { intended, sent: intended + 100 * MILLISECOND }
        };
        tally.never_came(until, times(0), 2);
        tally.never_left(until, WINDOW.from + SECOND, 1);
        tally.never_came(until, Times { intended: WINDOW.from - 1, sent: WINDOW.from }, 1);
        tally.missing.add(times(2_000), 3);
        tally.settle_missing(until);
        let near = |found: u64, seconds: f64| (found as f64 / SECOND as f64 / seconds - 1.0).abs() < 1e-3;
        assert_eq!((tally.response.len(), tally.service.len()), (6, 5));
        assert!(near(tally.response.max(), 8.0) && near(tally.response.min(), 6.0));
        assert!(near(tally.response.value_at_quantile(0.6), 7.0));
        assert!(near(tally.service.max(), 7.9) && near(tally.service.min(), 5.9));
        assert_eq!(tally.messages, 0, "nothing arrived");
    }

    #[test]
    fn what_is_pushed_counts_where_it_arrives_however_old_it_is() {
        let mut tally = Tally::new();
        tally.open(WINDOW);
        let age = 2 * SECOND;
        for arrival in (WINDOW.from..WINDOW.until + 5 * SECOND).step_by((100 * MILLISECOND) as usize) {
            tally.pushed(arrival, arrival - age, 1);
        }
        // 30 that came within three seconds, and the 20 of the last two that were still under way.
        assert_eq!((tally.messages, tally.response.len(), tally.service.len()), (30, 50, 50));
        assert!(tally.response.min() >= age - age / 500);
    }

    #[test]
    fn what_takes_longer_than_was_asked_for_is_late() {
        let mut tally = Tally::new();
        tally.open(WINDOW);
        tally.late_after_ns = 5 * MILLISECOND;
        for took in [4, 5, 6, 7] {
            tally.arrived(WINDOW.from + took * MILLISECOND, WINDOW.from, WINDOW.from, 1);
        }
        assert_eq!(tally.integrity.late, 2);
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
