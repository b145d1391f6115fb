//! The measured time in intervals with their distributions, for logs and time series.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

use crate::measure::distribution::histogram;
use crate::measure::interval;
use crate::measure::interval::Series;
use crate::measure::tally::Tally;
use echoring_proto::limits::Nanos;

/// All intervals of a run, in order.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// When the measured time began.
    pub began: SystemTime,
    length_ns: Nanos,
    interval_ns: Nanos,
    /// Of each thread.
    series: Vec<Series>,
}

/// One interval.
#[derive(Clone, Debug)]
pub struct TimelineInterval {
    /// Its beginning, from the start of the measured time.
    pub at: Duration,
    /// Its length; the last one may be shorter than the others.
    pub duration: Duration,
    /// Messages that arrived in it.
    pub messages: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Distributions in nanoseconds with their names: the same names, in the same order, in all intervals.
    pub distributions: Vec<(&'static str, Histogram<u64>)>,
}

impl Timeline {
    /// Takes the intervals of a finished run.
    pub(crate) fn take(tally: &mut Tally) -> Timeline {
        tally.close();
        Timeline {
            began: tally.began_at.unwrap_or_else(SystemTime::now),
            length_ns: tally.window.until.saturating_sub(tally.window.from),
            interval_ns: tally.intervals.interval_ns,
            series: std::mem::take(&mut tally.intervals.series),
        }
    }

    /// The intervals that began before the run was over.
    pub fn intervals(&self) -> impl Iterator<Item = TimelineInterval> {
        let all = self.series.iter().map(Series::len).max().unwrap_or(0) as u64;
        let is_stamped = self.series.iter().any(Series::is_stamped);
        let starts = (0..all).map(|number| (number, number * self.interval_ns));
        starts.take_while(|(_, start)| *start < self.length_ns).map(move |(number, start)| {
            let at = number as usize;
            let counts = self.series.iter().map(|series| series.counts(at));
            let of = |number| sum(self.series.iter().map(|series| series.distribution(at, number)));
            let names = ["response", "service", "server_and_network"].into_iter().enumerate();
            let names = names.take(if is_stamped { 3 } else { 2 });
            let distributions = names.map(|(number, name)| (name, of(number))).collect();
            let (messages, bytes) = counts.fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
            TimelineInterval {
                at: Duration::from_nanos(start),
                duration: Duration::from_nanos(self.interval_ns.min(self.length_ns - start)),
                messages,
                bytes,
                distributions,
            }
        })
    }
}

/// Adds one interval of all threads.
fn sum<'a>(packed: impl Iterator<Item = &'a [u8]>) -> Histogram<u64> {
    let mut sum = histogram();
    packed.for_each(|packed| interval::unpack(packed, &mut sum));
    sum
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::measure::samples::MessageName;
    use crate::measure::times::Times;
    use crate::measure::window::Window;
    use echoring_proto::limits::{MILLISECOND, SECOND};

    /// Two and a half seconds, with a message of 5 ms in the first of three intervals and one of 7 ms in the last.
    pub(crate) fn timeline() -> Timeline {
        let mut tally = Tally::default();
        let from = 10 * SECOND;
        tally.open(Window { from, until: from + 2_500 * MILLISECOND });
        tally.arrived(
            from + 5 * MILLISECOND,
            MessageName::default(),
            Times { intended: from, sent: from },
            16,
        );
        let last = from + 2_100 * MILLISECOND;
        tally.arrived(
            last + 7 * MILLISECOND,
            MessageName::default(),
            Times { intended: last, sent: last },
            32,
        );
        tally.began_at = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500));
        Timeline::take(&mut tally)
    }

    #[test]
    fn intervals_cover_the_measured_time_and_the_last_may_be_short() {
        let timeline = timeline();
        let intervals: Vec<TimelineInterval> = timeline.intervals().collect();
        let times: Vec<(u128, u128)> =
            intervals.iter().map(|stretch| (stretch.at.as_millis(), stretch.duration.as_millis())).collect();
        assert_eq!(times, [(0, 1_000), (1_000, 1_000), (2_000, 500)]);
        let counts: Vec<(u64, u64)> =
            intervals.iter().map(|stretch| (stretch.messages, stretch.bytes)).collect();
        assert_eq!(counts, [(1, 16), (0, 0), (1, 32)]);
        assert!(intervals.iter().all(|stretch| stretch.distributions.len() == 2), "nothing was stamped");
        for (at, expected) in ["response", "service"].into_iter().enumerate() {
            let (name, values) = &intervals[2].distributions[at];
            assert_eq!((*name, values.len()), (expected, 1));
            assert!((values.max() as f64 / 7e6 - 1.0).abs() < 0.001, "{}", values.max());
        }
    }
}
