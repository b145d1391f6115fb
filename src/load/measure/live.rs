//! Live results: each thread sends a snapshot once per second of the measured time, and the session adds them up for
//! the progress display.
//!
//! Never: a lock, a counter or an allocation per message. A thread copies one packed distribution per second.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::measure::distribution::{self, histogram, packed};
use crate::measure::integrity::Integrity;
use crate::measure::interval;
use crate::measure::quantiles::Quantiles;
use crate::measure::tally::Tally;
use echoring_proto::limits::{Nanos, SECOND};

/// The snapshot of one thread.
#[derive(Debug)]
pub(crate) struct ThreadSnapshot {
    thread: usize,
    /// Packed response times of the intervals that finished since the last snapshot.
    finished: Vec<Vec<u8>>,
    /// Those of the current interval, if intervals are long.
    current: Option<Vec<u8>>,
    counts: Counts,
}

/// Counts of a thread since the run began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Counts {
    errors: BTreeMap<String, u64>,
    integrity: Integrity,
    unsent: u64,
    lateness_ns_max: u64,
}

/// When a thread takes its next snapshot, and which intervals it has sent.
#[derive(Debug, Default)]
pub(crate) struct SnapshotTaker {
    due_at: Nanos,
    text: usize,
}

impl SnapshotTaker {
    /// The snapshot that is due at the end of the tick at `now`; `None` in nearly all ticks.
    #[inline]
    pub(crate) fn tell(
        &mut self,
        thread: usize,
        tally: &mut Tally,
        now: Nanos,
    ) -> Option<Box<ThreadSnapshot>> {
        (now >= self.due_at).then(|| Box::new(self.part(thread, tally, now)))
    }

    /// A snapshot of everything that was not sent yet.
    #[cold]
    pub(crate) fn part(&mut self, thread: usize, tally: &mut Tally, now: Nanos) -> ThreadSnapshot {
        tally.roll(now);
        let window = tally.window;
        self.due_at = match now.checked_sub(window.from) {
            Some(passed) => now + SECOND - passed % SECOND,
            None => window.from.min(now + SECOND),
        };
        let mut finished = Vec::new();
        if let Some(series) = tally.intervals.over() {
            let untold = (self.text..series.len()).map(|at| series.response(at));
            finished.extend(untold.filter(|packed| !packed.is_empty()).map(<[u8]>::to_vec));
            self.text = series.len();
        }
        // An interval of a second is sent once, when it is over.
        let is_long = tally.intervals.interval_ns() > SECOND;
        let current = if is_long { tally.intervals.current() } else { None };
        ThreadSnapshot {
            thread,
            finished,
            current,
            counts: Counts {
                errors: tally.connections.errors.clone(),
                integrity: tally.integrity,
                unsent: tally.counts.unsent,
                lateness_ns_max: tally.latency.whole.lateness.max(),
            },
        }
    }
}

/// The snapshots of all threads, added up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LiveResults {
    finished: Option<Finished>,
    latest: BTreeMap<usize, (Option<Current>, Counts)>,
}

/// Response times of finished intervals.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Finished(#[serde(with = "packed")] Histogram<u64>);

/// Packed response times of the current interval of a thread.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct Current(Vec<u8>);

impl From<Current> for String {
    fn from(Current(packed): Current) -> String {
        STANDARD.encode(packed)
    }
}

impl TryFrom<String> for Current {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Current, base64::DecodeError> {
        STANDARD.decode(text).map(Current)
    }
}

impl LiveResults {
    /// Adds the snapshot of a thread.
    pub(crate) fn take(&mut self, part: ThreadSnapshot) {
        for more in &part.finished {
            let Finished(finished) = self.finished.get_or_insert_with(|| Finished(histogram()));
            interval::unpack(more, finished);
        }
        self.latest.insert(part.thread, (part.current.map(Current), part.counts));
    }

    /// Adds the results of another generator of the same run.
    pub fn merge(&mut self, other: &LiveResults) {
        if let Some(Finished(theirs)) = &other.finished {
            let Finished(mine) = self.finished.get_or_insert_with(|| Finished(histogram()));
            mine.add(theirs).expect("all histograms have the same bounds");
        }
        let first = self.latest.last_key_value().map_or(0, |(thread, _)| thread + 1);
        self.latest.extend((first..).zip(other.latest.values().cloned()));
    }

    /// Response times in nanoseconds of messages that arrived in the measured time, up to a second ago. `None` without
    /// any.
    pub fn response(&self) -> Option<Histogram<u64>> {
        let mut sum = self.finished.clone().map(|Finished(finished)| finished);
        for (current, _) in self.latest.values() {
            if let Some(Current(current)) = current.as_ref().filter(|Current(packed)| !packed.is_empty()) {
                interval::unpack(current, sum.get_or_insert_with(histogram));
            }
        }
        // Untimed messages have no response times.
        sum.filter(|sum| !sum.is_empty())
    }

    /// The quantiles of [`LiveResults::response`].
    pub fn quantiles(&self) -> Option<Quantiles> {
        self.response().map(|response| Quantiles::of(&response))
    }

    /// The parts of a record that are known while a run lasts.
    pub(crate) fn record(&self) -> Value {
        let response = self.response().unwrap_or_else(histogram);
        json!({
            "response_ns": Quantiles::of(&response),
            "response_histogram": distribution::encode(&response),
            "integrity": self.integrity(),
            "errors": self.errors(),
        })
    }

    /// Failures by cause.
    pub fn errors(&self) -> BTreeMap<&str, u64> {
        let mut sum = BTreeMap::new();
        for (_, counts) in self.latest.values() {
            for (cause, count) in &counts.errors {
                *sum.entry(cause.as_str()).or_default() += count;
            }
        }
        sum
    }

    /// Integrity so far. Losses, and reorderings across publishers, are known only at the end.
    pub fn integrity(&self) -> Integrity {
        let mut sum = Integrity::default();
        for (_, counts) in self.latest.values() {
            sum.merge(&counts.integrity);
        }
        sum
    }

    /// Messages that were due and not sent.
    pub fn unsent(&self) -> u64 {
        self.latest.values().map(|(_, counts)| counts.unsent).sum()
    }

    /// The highest lateness of the generator, in nanoseconds; 0 in a closed loop.
    pub fn lateness_ns_max(&self) -> u64 {
        self.latest.values().map(|(_, counts)| counts.lateness_ns_max).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::samples::MessageName;
    use crate::measure::times::Times;
    use crate::measure::window::Window;
    use echoring_proto::limits::MILLISECOND;

    const FROM: Nanos = 100 * SECOND;

    fn tally(duration: Nanos) -> Tally {
        let mut tally = Tally::new();
        tally.open(Window { from: FROM, until: FROM + duration });
        tally
    }

    #[test]
    fn every_message_of_a_finished_second_is_reported_once() {
        let (mut tally, mut snapshots, mut live) =
            (tally(10 * SECOND), SnapshotTaker::default(), LiveResults::default());
        let mut text = 0;
        for message in 0..2_000_u64 {
            // One every 7 ms, each a millisecond in flight.
            let now = FROM + message * 7 * MILLISECOND;
            tally.arrived(
                now,
                MessageName::default(),
                Times { intended: now - MILLISECOND, sent: now - MILLISECOND },
                16,
            );
            if let Some(part) = snapshots.tell(0, &mut tally, now) {
                live.take(*part);
                text += 1;
                let finished = now.min(FROM + 10 * SECOND).saturating_sub(FROM) / SECOND;
                let arrived = (finished * SECOND).div_ceil(7 * MILLISECOND);
                assert_eq!(live.response().map_or(0, |response| response.len()), arrived, "{message}");
            }
        }
        assert!((11..=15).contains(&text), "about once a second, not {text} times");
        let quantiles = live.quantiles().expect("told");
        assert!((quantiles.p99 as f64 / 1e6 - 1.0).abs() < 0.02, "{quantiles:?}");
        assert_eq!(quantiles.count, tally.counts.messages);
    }

    #[test]
    fn a_long_interval_is_reported_partially_and_counted_once() {
        let (mut tally, mut snapshots, mut live) =
            (tally(2_000 * SECOND), SnapshotTaker::default(), LiveResults::default());
        assert!(tally.intervals.interval_ns() > SECOND);
        for second in 0..30_u64 {
            let now = FROM + second * SECOND + 1;
            tally.arrived(now, MessageName::default(), Times { intended: now, sent: now }, 16);
            live.take(*snapshots.tell(0, &mut tally, now).expect("a second has passed"));
            assert_eq!(live.response().map(|response| response.len()), Some(second + 1));
        }
    }

    #[test]
    fn snapshots_of_threads_add_up_and_begin_before_the_window() {
        let mut live = LiveResults::default();
        for thread in 0..3 {
            let mut tally = Tally::new();
            tally.connections.error("refused");
            tally.counts.unsent = 5;
            tally.integrity.duplicated = 1;
            let mut snapshots = SnapshotTaker::default();
            assert!(snapshots.tell(thread, &mut tally, SECOND / 2).is_some());
            assert!(snapshots.tell(thread, &mut tally, SECOND / 2 + 1).is_none(), "not in every tick");
            live.take(*snapshots.tell(thread, &mut tally, SECOND).expect("a second later"));
        }
        assert_eq!((live.errors()["refused"], live.unsent()), (3, 15));
        assert_eq!(live.integrity().duplicated, 3);
        assert!(live.quantiles().is_none());
    }

    #[test]
    fn an_interrupted_run_has_reported_everything() {
        let (mut tally, mut snapshots, mut live) =
            (tally(10 * SECOND), SnapshotTaker::default(), LiveResults::default());
        let now = FROM + 300 * MILLISECOND;
        tally.arrived(now, MessageName::default(), Times { intended: now, sent: now }, 16);
        tally.cut(now + 1);
        live.take(*snapshots.tell(0, &mut tally, now + SECOND).expect("due"));
        assert_eq!(live.response().map(|response| response.len()), Some(1));
    }
}
