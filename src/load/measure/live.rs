//! Live results: each thread sends a snapshot once per second of the measured time, and the session adds them up for
//! the progress display, for exported figures and for conditions that end a run.
//!
//! They are the distribution that becomes the record, so far, and the ages of the messages that are outstanding: due, and
//! waiting to be sent, or sent and awaited. After the run they are the record's.
//!
//! Never: a lock, a counter or an allocation per message. A thread copies two packed distributions per second.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::measure::distribution::{self, Distribution, histogram};
use crate::measure::integrity::Integrity;
use crate::measure::interval;
use crate::measure::merge::{Merge, merge_each};
use crate::measure::quantiles::Quantiles;
use crate::measure::tally::Tally;
use crate::measure::window::Window;
use echoring_proto::limits::{Nanos, SECOND};

/// Age of the oldest outstanding message from which on it tells something about the server.
pub const LONG_OUTSTANDING_NS: Nanos = SECOND;

/// The snapshot of one thread.
#[derive(Debug)]
pub(crate) struct ThreadSnapshot {
    thread: usize,
    /// Packed response times of the messages that are over, by stage of the rate, where they have changed since the last
    /// snapshot.
    changed: Vec<(usize, Vec<u8>)>,
    /// Packed ages of the outstanding messages.
    outstanding: Vec<u8>,
    counts: Counts,
}

/// Counts of failures so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Failures by cause.
    pub errors: BTreeMap<String, u64>,
    /// Losses, and reorderings across publishers, are known only at the end.
    pub integrity: Integrity,
    /// Messages that were due and never sent, known at the end.
    pub unsent: u64,
    /// The highest lateness of the generator, in nanoseconds; 0 in a closed loop.
    pub lateness_ns_max: u64,
}

impl Counts {
    fn of(tally: &Tally, integrity: Integrity) -> Counts {
        Counts {
            errors: tally.connections.errors.clone(),
            integrity,
            unsent: tally.counts.unsent,
            lateness_ns_max: tally.latency.all().map(|times| times.lateness.max()).max().unwrap_or(0),
        }
    }
}

impl Merge for Counts {
    fn merge(&mut self, other: &Counts) {
        merge_each!(self, other: errors, integrity, unsent);
        self.lateness_ns_max = self.lateness_ns_max.max(other.lateness_ns_max);
    }
}

/// The ages of outstanding messages that were due within the measured time.
#[derive(Debug)]
pub(crate) struct Ages {
    window: Window,
    pub(crate) now: Nanos,
    /// Messages that each one stands for.
    pub(crate) weight: u64,
    values: Histogram<u64>,
}

impl Ages {
    /// This number of messages that were due at `intended` are outstanding.
    #[inline]
    pub(crate) fn add(&mut self, intended: Nanos, messages: u64) {
        if self.window.contains(intended) {
            let messages = messages.saturating_mul(self.weight);
            self.values.saturating_record_n(self.now.saturating_sub(intended), messages);
        }
    }
}

/// When a thread takes its next snapshot, and the part that it has sent.
#[derive(Debug)]
pub(crate) struct SnapshotTaker {
    due_at: Nanos,
    /// Messages in each distribution when it was sent.
    sent: Vec<u64>,
    ages: Ages,
}

impl Default for SnapshotTaker {
    fn default() -> SnapshotTaker {
        let ages = Ages { window: Window::default(), now: 0, weight: 1, values: histogram() };
        SnapshotTaker { due_at: 0, sent: Vec::new(), ages }
    }
}

impl SnapshotTaker {
    /// Whether a snapshot is due at the end of the tick at `now`: not so in nearly all ticks.
    #[inline]
    pub(crate) fn is_due(&self, now: Nanos) -> bool {
        now >= self.due_at
    }

    /// Takes the ages of the outstanding messages for the next snapshot. Those that were given up are among them.
    pub(crate) fn ages(&mut self, tally: &Tally, now: Nanos) -> &mut Ages {
        self.ages.values.reset();
        (self.ages.window, self.ages.now, self.ages.weight) = (tally.window, now, 1);
        for (intended, messages) in tally.latency.missing.intended() {
            self.ages.add(intended, messages);
        }
        &mut self.ages
    }

    /// A snapshot of everything that was not sent yet. The outstanding messages are the [ages](SnapshotTaker::ages)
    /// that were taken since the last one.
    #[cold]
    pub(crate) fn part(&mut self, thread: usize, tally: &Tally, now: Nanos) -> ThreadSnapshot {
        let from = tally.window.from;
        self.due_at = match now.checked_sub(from) {
            Some(passed) => now + SECOND - passed % SECOND,
            None => from.min(now + SECOND),
        };
        let mut changed = Vec::new();
        for (at, times) in tally.latency.all().enumerate() {
            if self.sent.len() == at {
                self.sent.push(0);
            }
            if std::mem::replace(&mut self.sent[at], times.response.len()) != times.response.len() {
                changed.push((at, interval::packed(&times.response)));
            }
        }
        let outstanding = interval::packed(&self.ages.values);
        self.ages.values.reset();
        ThreadSnapshot { thread, changed, outstanding, counts: Counts::of(tally, tally.integrity) }
    }
}

/// The latest snapshots of the threads of a run, and their sum.
#[derive(Debug, Default)]
pub(crate) struct LiveThreads {
    threads: BTreeMap<usize, LiveThread>,
    pub(crate) sum: LiveResults,
}

/// The latest of one thread.
#[derive(Debug, Default)]
struct LiveThread {
    /// Packed, by stage of the rate.
    settled: BTreeMap<usize, Vec<u8>>,
    outstanding: Vec<u8>,
    counts: Counts,
}

impl LiveThreads {
    /// Takes the snapshot of a thread in place of its former one.
    pub(crate) fn take(&mut self, part: ThreadSnapshot) {
        let thread = self.threads.entry(part.thread).or_default();
        thread.settled.extend(part.changed);
        (thread.outstanding, thread.counts) = (part.outstanding, part.counts);
        self.sum = LiveResults::default();
        for thread in self.threads.values() {
            thread.settled.values().for_each(|packed| interval::unpack(packed, &mut self.sum.settled));
            interval::unpack(&thread.outstanding, &mut self.sum.outstanding);
            self.sum.counts.merge(&thread.counts);
        }
    }
}

/// The results of a run so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LiveResults {
    /// Response times in nanoseconds of the messages that were due in the measured time and are over, up to a second ago:
    /// those that arrived, and in the end those that did not. Its counts never decrease; in the end it is the record's
    /// distribution.
    pub settled: Distribution,
    /// Ages in nanoseconds of the messages that were due in the measured time and are outstanding: due and waiting to be sent,
    /// or sent and awaited. In broadcast mode each delivery is one.
    pub outstanding: Distribution,
    /// Counts of failures.
    pub counts: Counts,
}

impl LiveResults {
    /// The results of a run that is over: nothing is outstanding.
    pub(crate) fn of(tally: &Tally) -> LiveResults {
        let settled = tally.latency.whole.response.clone();
        LiveResults {
            settled,
            outstanding: Distribution::default(),
            counts: Counts::of(tally, tally.integrity()),
        }
    }

    /// Adds the results of another generator of the same run.
    pub fn merge(&mut self, other: &LiveResults) {
        merge_each!(self, other: settled, outstanding, counts);
    }

    /// Response times of all messages that were due in the measured time, where an outstanding message has its age. `None`
    /// without any.
    pub fn response(&self) -> Option<Histogram<u64>> {
        let mut sum = self.settled.clone();
        sum.merge(&self.outstanding);
        // Untimed messages have no response times.
        Some(sum.into()).filter(|sum: &Histogram<u64>| !sum.is_empty())
    }

    /// The quantiles of [`LiveResults::response`]; `None` before anything is measured: no message is over, and none is outstanding for long.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let is_measured = !self.settled.is_empty() || self.outstanding.max() >= LONG_OUTSTANDING_NS;
        self.response().filter(|_| is_measured).map(|response| Quantiles::of(&response))
    }

    /// The parts of a record that are known while a run lasts.
    pub(crate) fn record(&self) -> Value {
        let response = self.response().unwrap_or_else(histogram);
        json!({
            "response_ns": Quantiles::of(&response),
            "response_histogram": distribution::encode(&response),
            "integrity": self.counts.integrity,
            "errors": self.counts.errors,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::samples::MessageName;
    use crate::measure::times::Times;
    use crate::plan::schedule::profile::RateStage;
    use echoring_proto::limits::MILLISECOND;

    const FROM: Nanos = 100 * SECOND;

    fn tally(duration: Nanos) -> Tally {
        let mut tally = Tally::default();
        tally.open(Window { from: FROM, until: FROM + duration });
        tally
    }

    /// A message that arrived at `now` and took so long.
    fn arrive(tally: &mut Tally, now: Nanos, took: Nanos) {
        let times = Times { intended: now - took, sent: now - took };
        tally.arrived(now, MessageName::default(), times, 16);
    }

    fn snapshot(snapshots: &mut SnapshotTaker, tally: &Tally, now: Nanos, live: &mut LiveThreads) {
        assert!(snapshots.is_due(now), "a second has passed");
        live.take(snapshots.part(0, tally, now));
    }

    #[test]
    fn nothing_is_measured_while_the_first_messages_are_on_their_way() {
        let with = |settled: &[Nanos], outstanding: &[Nanos]| {
            let mut live = LiveResults::default();
            settled.iter().for_each(|took| live.settled.saturating_record(*took));
            outstanding.iter().for_each(|age| live.outstanding.saturating_record(*age));
            live.quantiles().map(|found| found.p50)
        };
        assert_eq!(with(&[], &[]), None);
        assert_eq!(with(&[], &[0, 0, 3]), None, "they were due a moment ago");
        assert_eq!(with(&[7], &[0]).map(|p50| p50 <= 7), Some(true));
        let silent = with(&[], &[LONG_OUTSTANDING_NS, 2 * LONG_OUTSTANDING_NS]);
        assert!(
            silent >= Some(LONG_OUTSTANDING_NS * 9 / 10),
            "a server that does not answer is slow: {silent:?}"
        );
    }

    #[test]
    fn a_snapshot_a_second_has_every_message_that_the_record_has_so_far() {
        let (mut tally, mut snapshots) = (tally(10 * SECOND), SnapshotTaker::default());
        let mut live = LiveThreads::default();
        let mut taken = 0;
        for message in 0..2_000_u64 {
            // One every 7 ms, each a millisecond in flight; the first was due before the window.
            let now = FROM + message * 7 * MILLISECOND;
            arrive(&mut tally, now, MILLISECOND);
            if snapshots.is_due(now) {
                snapshot(&mut snapshots, &tally, now, &mut live);
                taken += 1;
                assert_eq!(live.sum.settled.len(), tally.latency.whole.response.len(), "{message}");
            }
        }
        assert!((11..=15).contains(&taken), "about once a second, not {taken} times");
        let quantiles = live.sum.quantiles().expect("told");
        assert!((quantiles.p99 as f64 / 1e6 - 1.0).abs() < 0.02, "{quantiles:?}");
        assert_eq!(live.sum.settled, tally.latency.whole.response);
    }

    #[test]
    fn outstanding_messages_have_their_age_until_they_arrive() {
        let (mut tally, mut snapshots) = (tally(10 * SECOND), SnapshotTaker::default());
        let mut live = LiveThreads::default();
        for message in 0..100 {
            arrive(&mut tally, FROM + message * MILLISECOND + MILLISECOND, MILLISECOND);
        }
        let near = |found: u64, seconds: f64| (found as f64 / SECOND as f64 / seconds - 1.0).abs() < 2e-3;
        for second in 2..5 {
            let now = FROM + second * SECOND;
            let ages = snapshots.ages(&tally, now);
            ages.add(FROM + SECOND, 10);
            ages.add(FROM - 1, 10);
            snapshot(&mut snapshots, &tally, now, &mut live);
            let sum = &live.sum;
            assert_eq!((sum.settled.len(), sum.outstanding.len()), (100, 10), "due in the warm-up");
            assert!(near(sum.quantiles().expect("told").p99, second as f64 - 1.0), "{second}");
            assert!(near(sum.outstanding.max(), second as f64 - 1.0), "{second}");
        }
        // Those that were given up are lost, and as old as the others.
        tally.latency.missing.add(Times { intended: FROM + SECOND, sent: FROM + SECOND }, 3);
        let now = FROM + 6 * SECOND;
        snapshots.ages(&tally, now);
        snapshot(&mut snapshots, &tally, now, &mut live);
        assert_eq!((live.sum.settled.len(), live.sum.outstanding.len()), (100, 3));
        // In the end all are in the record.
        tally.settle_missing(now);
        snapshots.part(0, &tally, now);
        let end = LiveResults::of(&tally);
        assert_eq!((end.settled.len(), end.outstanding.len()), (103, 0));
    }

    #[test]
    fn a_sampled_message_stands_for_several() {
        let (mut tally, mut snapshots) = (tally(10 * SECOND), SnapshotTaker::default());
        let mut live = LiveThreads::default();
        tally.latency.missing.add(Times { intended: FROM + SECOND, sent: FROM + SECOND }, 3);
        for second in 2..4 {
            let now = FROM + second * SECOND;
            let ages = snapshots.ages(&tally, now);
            ages.add(FROM + SECOND, 2);
            ages.weight = 10;
            ages.add(FROM + SECOND, 4);
            snapshot(&mut snapshots, &tally, now, &mut live);
            assert_eq!(live.sum.outstanding.len(), 3 + 2 + 40, "only the last are a sample");
        }
    }

    #[test]
    fn stages_are_told_when_they_have_changed() {
        let mut tally = tally(10 * SECOND);
        let stages = [4, 6].map(|seconds| RateStage { time: Duration::from_secs(seconds), from: 9, to: 9 });
        tally.open_stages(&stages);
        let (mut snapshots, mut live) = (SnapshotTaker::default(), LiveThreads::default());
        for second in 1..10 {
            let now = FROM + second * SECOND;
            arrive(&mut tally, now, MILLISECOND);
            tally.late(now, now - 70);
            let part = snapshots.part(0, &tally, now);
            let changed: Vec<usize> = part.changed.iter().map(|(at, _)| *at).collect();
            assert_eq!(changed, [if second <= 4 { 1 } else { 2 }], "{second}");
            live.take(part);
            assert_eq!((live.sum.settled.len(), live.sum.counts.lateness_ns_max), (second, 70));
        }
        tally.complete();
        assert_eq!(LiveResults::of(&tally).settled, live.sum.settled);
    }

    #[test]
    fn snapshots_of_threads_add_up_and_begin_before_the_window() {
        let mut live = LiveThreads::default();
        for thread in 0..3 {
            let mut tally = Tally::default();
            tally.connections.error("refused");
            tally.counts.unsent = 5;
            tally.integrity.duplicated = 1;
            let mut snapshots = SnapshotTaker::default();
            for now in [SECOND / 2, SECOND] {
                assert!(snapshots.is_due(now));
                live.take(snapshots.part(thread, &tally, now));
                assert!(!snapshots.is_due(now + 1), "not in every tick");
            }
        }
        let live = live.sum;
        assert_eq!((live.counts.errors["refused"], live.counts.unsent), (3, 15));
        assert_eq!(live.counts.integrity.duplicated, 3);
        assert!(live.quantiles().is_none());
    }

    #[test]
    fn results_of_generators_add_up_as_they_travel() {
        let mut tally = tally(10 * SECOND);
        arrive(&mut tally, FROM + SECOND, MILLISECOND);
        let (mut snapshots, mut threads) = (SnapshotTaker::default(), LiveThreads::default());
        snapshots.ages(&tally, FROM + 2 * SECOND).add(FROM, 7);
        threads.take(snapshots.part(0, &tally, FROM + 2 * SECOND));
        let text = serde_json::to_string(&threads.sum).expect("text");
        let mut sum: LiveResults = serde_json::from_str(&text).expect("the same");
        sum.merge(&threads.sum);
        assert_eq!((sum.settled.len(), sum.outstanding.len()), (2, 14));
    }
}
