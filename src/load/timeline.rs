//! The measured time in stretches, with their whole distributions: what logs and tables by time are written from.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

use super::interval::{self, Series};
use super::tally::{Tally, histogram};
use crate::limits::Nanos;

/// All stretches of a run, in their order.
#[derive(Clone, Debug)]
pub struct Timeline {
    began: SystemTime,
    length_ns: Nanos,
    interval_ns: Nanos,
    /// Of each thread.
    series: Vec<Series>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// Its beginning, from the start of the measured time.
    pub at: Duration,
    /// Its length; the last one may be shorter than the others.
    pub duration: Duration,
    /// Messages that arrived in it.
    pub messages: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Distributions in nanoseconds, each with its name: the same ones, in the same order, in all stretches.
    pub distributions: Vec<(&'static str, Histogram<u64>)>,
}

impl Timeline {
    /// Takes what a whole run counted by time.
    pub(super) fn take(tally: &mut Tally) -> Timeline {
        tally.close();
        Timeline {
            began: tally.began_at.unwrap_or_else(SystemTime::now),
            length_ns: tally.window.until.saturating_sub(tally.window.from),
            interval_ns: tally.interval_ns(),
            series: std::mem::take(&mut tally.series),
        }
    }

    /// When the measured time began.
    pub fn began(&self) -> SystemTime {
        self.began
    }

    /// The stretches that began before the run was over.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch> {
        let all = self.series.iter().map(Series::len).max().unwrap_or(0) as u64;
        let starts = (0..all).map(|number| (number, number * self.interval_ns));
        starts.take_while(|(_, start)| *start < self.length_ns).map(|(number, start)| {
            let at = number as usize;
            let counts = self.series.iter().map(|series| series.counts(at));
            let (messages, bytes) = counts.fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
            Stretch {
                at: Duration::from_nanos(start),
                duration: Duration::from_nanos(self.interval_ns.min(self.length_ns - start)),
                messages,
                bytes,
                distributions: vec![
                    ("response", sum(self.series.iter().map(|series| series.response(at)))),
                    ("service", sum(self.series.iter().map(|series| series.service(at)))),
                ],
            }
        })
    }
}

/// What all threads have of one stretch.
fn sum<'a>(packed: impl Iterator<Item = &'a [u8]>) -> Histogram<u64> {
    let mut sum = histogram();
    packed.for_each(|packed| interval::unpack(packed, &mut sum));
    sum
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::limits::{MILLISECOND, SECOND};
    use crate::load::tally::Window;

    /// Two seconds and a half, with a message of 5 ms in the first and one of 7 ms in the last of its three stretches.
    pub(in crate::load) fn timeline() -> Timeline {
        let mut tally = Tally::new();
        let from = 10 * SECOND;
        tally.open(Window { from, until: from + 2_500 * MILLISECOND });
        tally.arrived(from + 5 * MILLISECOND, from, from, 16);
        let last = from + 2_100 * MILLISECOND;
        tally.arrived(last + 7 * MILLISECOND, last, last, 32);
        tally.began_at = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500));
        Timeline::take(&mut tally)
    }

    #[test]
    fn stretches_cover_the_measured_time_and_the_last_may_be_short() {
        let timeline = timeline();
        let stretches: Vec<Stretch> = timeline.stretches().collect();
        let times: Vec<(u128, u128)> =
            stretches.iter().map(|stretch| (stretch.at.as_millis(), stretch.duration.as_millis())).collect();
        assert_eq!(times, [(0, 1_000), (1_000, 1_000), (2_000, 500)]);
        let counts: Vec<(u64, u64)> =
            stretches.iter().map(|stretch| (stretch.messages, stretch.bytes)).collect();
        assert_eq!(counts, [(1, 16), (0, 0), (1, 32)]);
        for (at, expected) in ["response", "service"].into_iter().enumerate() {
            let (name, values) = &stretches[2].distributions[at];
            assert_eq!((*name, values.len()), (expected, 1));
            assert!((values.max() as f64 / 7e6 - 1.0).abs() < 0.001, "{}", values.max());
        }
    }
}
