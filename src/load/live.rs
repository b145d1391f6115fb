//! What has been measured so far: each thread tells it once a second, at the ends of seconds of the measured time, and
//! the conductor of the run adds it up for whoever looks on.
//!
//! Never: a lock, a counter or an allocation for a message. A thread copies one packed distribution a second.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::interval;
use super::record::Quantiles;
use super::tally::{Tally, histogram};
use super::track::Integrity;
use crate::limits::{Nanos, SECOND};

/// What one thread tells.
#[derive(Debug)]
pub struct Part {
    thread: usize,
    /// Response times of stretches that are over and were not told of before, packed.
    finished: Vec<Vec<u8>>,
    /// Those of the one that goes on, as far as it is.
    current: Option<Vec<u8>>,
    counts: Counts,
}

/// What a thread has counted since the run began.
#[derive(Clone, Debug, Default)]
struct Counts {
    errors: BTreeMap<String, u64>,
    integrity: Integrity,
    unsent: u64,
    lateness_ns_max: u64,
}

/// When a thread tells next, and of which stretches it has told.
#[derive(Debug, Default)]
pub(super) struct Teller {
    due_at: Nanos,
    told: usize,
}

impl Teller {
    /// What is to be told at the end of the turn at `now`, which is nothing in nearly all of them.
    #[inline]
    pub(super) fn tell(&mut self, thread: usize, tally: &mut Tally, now: Nanos) -> Option<Box<Part>> {
        (now >= self.due_at).then(|| Box::new(self.part(thread, tally, now)))
    }

    /// All that is left to be told.
    #[cold]
    pub(super) fn part(&mut self, thread: usize, tally: &mut Tally, now: Nanos) -> Part {
        tally.roll(now);
        let window = tally.window;
        self.due_at = match now.checked_sub(window.from) {
            Some(passed) => now + SECOND - passed % SECOND,
            None => window.from.min(now + SECOND),
        };
        let mut finished = Vec::new();
        if let Some(series) = tally.over() {
            let untold = (self.told..series.len()).map(|at| series.response(at));
            finished.extend(untold.filter(|packed| !packed.is_empty()).map(<[u8]>::to_vec));
            self.told = series.len();
        }
        // A stretch of a second is told of once, when it is over.
        let is_long = tally.interval_ns() > SECOND;
        let current = if is_long { tally.current() } else { None };
        Part {
            thread,
            finished,
            current,
            counts: Counts {
                errors: tally.errors.clone(),
                integrity: tally.integrity,
                unsent: tally.unsent,
                lateness_ns_max: tally.lateness.max(),
            },
        }
    }
}

/// All threads' parts.
#[derive(Debug, Default)]
pub struct SoFar {
    finished: Option<Histogram<u64>>,
    latest: BTreeMap<usize, (Option<Vec<u8>>, Counts)>,
}

impl SoFar {
    /// Adds what a thread told.
    pub(super) fn take(&mut self, part: Part) {
        for more in &part.finished {
            interval::unpack(more, self.finished.get_or_insert_with(histogram));
        }
        self.latest.insert(part.thread, (part.current, part.counts));
    }

    /// Response times in nanoseconds of messages that arrived in the measured time, up to a second ago. `None` before
    /// there are any.
    pub fn response(&self) -> Option<Histogram<u64>> {
        let mut sum = self.finished.clone();
        for (current, _) in self.latest.values() {
            if let Some(current) = current.as_ref().filter(|current| !current.is_empty()) {
                interval::unpack(current, sum.get_or_insert_with(histogram));
            }
        }
        // Messages of which nobody knows when they left have no times.
        sum.filter(|sum| !sum.is_empty())
    }

    /// The quantiles of [`SoFar::response`].
    pub fn quantiles(&self) -> Option<Quantiles> {
        self.response().map(|response| Quantiles::of(&response))
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

    /// What is wrong with the messages. Lost ones are known at the end only, exchanges among several publishers not here.
    pub fn integrity(&self) -> Integrity {
        let mut sum = Integrity::default();
        for (_, counts) in self.latest.values() {
            sum.merge(&counts.integrity);
        }
        sum
    }

    /// Messages that were due and never sent.
    pub fn unsent(&self) -> u64 {
        self.latest.values().map(|(_, counts)| counts.unsent).sum()
    }

    /// The latest that the generator came to a message, in nanoseconds; 0 in a closed loop.
    pub fn lateness_ns_max(&self) -> u64 {
        self.latest.values().map(|(_, counts)| counts.lateness_ns_max).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MILLISECOND;
    use crate::load::tally::Window;

    const FROM: Nanos = 100 * SECOND;

    fn tally(duration: Nanos) -> Tally {
        let mut tally = Tally::new();
        tally.open(Window { from: FROM, until: FROM + duration });
        tally
    }

    #[test]
    fn every_message_of_a_finished_second_is_told_once() {
        let (mut tally, mut teller, mut so_far) = (tally(10 * SECOND), Teller::default(), SoFar::default());
        let mut told = 0;
        for message in 0..2_000_u64 {
            // One every 7 ms, each a millisecond under way.
            let now = FROM + message * 7 * MILLISECOND;
            tally.arrived(now, now - MILLISECOND, now - MILLISECOND, 16);
            if let Some(part) = teller.tell(0, &mut tally, now) {
                so_far.take(*part);
                told += 1;
                let finished = now.min(FROM + 10 * SECOND).saturating_sub(FROM) / SECOND;
                let arrived = (finished * SECOND).div_ceil(7 * MILLISECOND);
                assert_eq!(so_far.response().map_or(0, |response| response.len()), arrived, "{message}");
            }
        }
        assert!((11..=15).contains(&told), "about once a second, not {told} times");
        let quantiles = so_far.quantiles().expect("told");
        assert!((quantiles.p99 as f64 / 1e6 - 1.0).abs() < 0.02, "{quantiles:?}");
        assert_eq!(quantiles.count, tally.messages);
    }

    #[test]
    fn a_long_stretch_is_told_as_far_as_it_is_and_counted_once() {
        let (mut tally, mut teller, mut so_far) =
            (tally(2_000 * SECOND), Teller::default(), SoFar::default());
        assert!(tally.interval_ns() > SECOND);
        for second in 0..30_u64 {
            let now = FROM + second * SECOND + 1;
            tally.arrived(now, now, now, 16);
            so_far.take(*teller.tell(0, &mut tally, now).expect("a second has passed"));
            assert_eq!(so_far.response().map(|response| response.len()), Some(second + 1));
        }
    }

    #[test]
    fn threads_add_up_and_tell_before_the_window_opens() {
        let mut so_far = SoFar::default();
        for thread in 0..3 {
            let mut tally = Tally::new();
            tally.error("refused");
            tally.unsent = 5;
            tally.integrity.duplicated = 1;
            let mut teller = Teller::default();
            assert!(teller.tell(thread, &mut tally, SECOND / 2).is_some());
            assert!(teller.tell(thread, &mut tally, SECOND / 2 + 1).is_none(), "not in every turn");
            so_far.take(*teller.tell(thread, &mut tally, SECOND).expect("a second later"));
        }
        assert_eq!((so_far.errors()["refused"], so_far.unsent()), (3, 15));
        assert_eq!(so_far.integrity().duplicated, 3);
        assert!(so_far.quantiles().is_none());
    }

    #[test]
    fn a_run_that_is_cut_short_has_told_all_of_it() {
        let (mut tally, mut teller, mut so_far) = (tally(10 * SECOND), Teller::default(), SoFar::default());
        let now = FROM + 300 * MILLISECOND;
        tally.arrived(now, now, now, 16);
        tally.cut(now + 1);
        so_far.take(*teller.tell(0, &mut tally, now + SECOND).expect("due"));
        assert_eq!(so_far.response().map(|response| response.len()), Some(1));
    }
}
