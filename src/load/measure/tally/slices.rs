//! The window in slices of 100 ms or more, for charts over time: a coarse distribution of response times, and what
//! messages and connections did.
//!
//! A message costs one addition in the row of its slice; everything else is the difference of counts that the tally has
//! anyway, between the ends of a slice. The rows of all slices are reserved beforehand, and packed when the window is over.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::distribution::LATENCY_NS_MAX;
use crate::measure::merge::{Merge, merge_each};
use crate::measure::window::Window;
use echoring_proto::limits::Nanos;

/// Significant digits of a slice's distribution. Its buckets are 6 % wide at most.
const DIGITS: u8 = 1;
/// Buckets of each doubling of a value, as a power of two: those of HdrHistogram with one digit.
const BUCKET_BITS: u32 = 4;
/// Buckets up to [`LATENCY_NS_MAX`].
const BUCKETS: usize = bucket(LATENCY_NS_MAX) + 1;

/// The bucket of a value, as HdrHistogram numbers them.
#[inline]
const fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - 1 - BUCKET_BITS) - (value | 1 << BUCKET_BITS).leading_zeros();
    ((shift << BUCKET_BITS) as usize) + (value >> shift) as usize
}

/// The smallest value of a bucket.
fn lowest(bucket: usize) -> u64 {
    let shift = (bucket >> BUCKET_BITS).saturating_sub(1);
    ((bucket - (shift << BUCKET_BITS)) as u64) << shift
}

/// Counts of a thread since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    pub(crate) opened: u64,
    pub(crate) errors: u64,
    pub(crate) closed: u64,
}

/// A slice of the window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slice {
    /// Messages that were sent in it.
    pub(crate) sent: u64,
    /// Messages that arrived in it.
    pub(crate) arrived: u64,
    /// Connections that were open at its end.
    pub(crate) open: u64,
    /// Connections that opened in it.
    pub(crate) opened: u64,
    /// Failures in it, of connections, messages and attempts to connect again.
    pub(crate) errors: u64,
    /// Connections that ended in it.
    pub(crate) closed: u64,
    /// Response times of the messages that arrived in it: buckets in rising order, and their counts.
    response: Vec<(u16, u64)>,
}

impl Slice {
    /// The distribution of response times, exact to one digit.
    pub(crate) fn response(&self) -> Histogram<u64> {
        let mut histogram =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds are valid");
        for &(bucket, count) in &self.response {
            histogram.saturating_record_n(lowest(bucket.into()), count);
        }
        histogram
    }
}

impl Merge for Slice {
    fn merge(&mut self, other: &Slice) {
        merge_each!(self, other: sent, arrived, open, opened, errors, closed);
        for &(bucket, count) in &other.response {
            match self.response.binary_search_by_key(&bucket, |(mine, _)| *mine) {
                Ok(at) => self.response[at].1 += count,
                Err(at) => self.response.insert(at, (bucket, count)),
            }
        }
    }
}

/// The slices of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SliceTally {
    pub(crate) slice_ns: Nanos,
    pub(crate) slices: Vec<Slice>,
    /// Connections that are open now, for the next slice that ends.
    #[serde(skip)]
    pub(crate) open_now: u64,
    #[serde(skip)]
    recorder: Option<Recorder>,
}

impl SliceTally {
    /// Makes room for the slices of a window, so that recording allocates nothing.
    pub(super) fn open(&mut self, window: Window) {
        self.slice_ns = window.slice();
        let count = window.until.saturating_sub(window.from).div_ceil(self.slice_ns) as usize;
        self.slices = Vec::with_capacity(count);
        self.recorder =
            Some(Recorder { count, ends: window.from, before: None, rows: vec![0; count * BUCKETS], row: 0 });
    }

    /// A message arrived within the current slice.
    #[inline]
    pub(super) fn record(&mut self, response: Nanos) {
        if let Some(recorder) = &mut self.recorder {
            recorder.rows[recorder.row + bucket(response.min(LATENCY_NS_MAX))] += 1;
        }
    }

    /// End of the current slice: first the beginning of the window, then the ends of its slices. [`Nanos::MAX`] if there
    /// is none.
    pub(super) fn ends(&self) -> Nanos {
        self.recorder.as_ref().map_or(Nanos::MAX, |recorder| recorder.ends)
    }

    /// Finishes the slices that are over at `now`.
    pub(super) fn roll(&mut self, now: Nanos, totals: Totals) {
        let SliceTally { slice_ns, slices, open_now, recorder } = self;
        let Some(recorder) = recorder else { return };
        while now >= recorder.ends && slices.len() < recorder.count {
            if let Some(before) = recorder.before.replace(totals) {
                slices.push(Slice {
                    sent: totals.sent - before.sent,
                    arrived: totals.arrived - before.arrived,
                    open: *open_now,
                    opened: totals.opened - before.opened,
                    errors: totals.errors - before.errors,
                    closed: totals.closed - before.closed,
                    response: Vec::new(),
                });
                recorder.row = slices.len().min(recorder.count - 1) * BUCKETS;
            }
            recorder.ends = recorder.ends.saturating_add(*slice_ns);
        }
        if slices.len() == recorder.count {
            recorder.ends = Nanos::MAX;
        }
    }

    /// The window is over, perhaps early: packs the slices that began within it.
    pub(super) fn close(&mut self, window: Window, totals: Totals) {
        if self.recorder.is_none() {
            return;
        }
        // The last slice may be shorter than the others.
        let length = window.until.saturating_sub(window.from);
        let began = length.div_ceil(self.slice_ns);
        self.roll(window.from + began * self.slice_ns, totals);
        let Some(recorder) = self.recorder.take() else { return };
        for (slice, row) in self.slices.iter_mut().zip(recorder.rows.chunks(BUCKETS)) {
            let used = row.iter().enumerate().filter(|(_, count)| **count > 0);
            slice.response = used.map(|(bucket, count)| (bucket as u16, u64::from(*count))).collect();
        }
    }
}

impl Merge for SliceTally {
    fn merge(&mut self, other: &SliceTally) {
        debug_assert!(other.recorder.is_none(), "its slices are not packed yet");
        if self.slices.is_empty() {
            self.slice_ns = other.slice_ns;
        }
        self.slices.merge(&other.slices);
    }
}

/// Records one slice after the other.
#[derive(Clone, Debug)]
struct Recorder {
    /// Slices of the window.
    count: usize,
    /// End of the current slice; the beginning of the window before the first.
    ends: Nanos,
    /// The counts when the current slice began; `None` before the first.
    before: Option<Totals>,
    /// A count for each bucket of each slice.
    rows: Vec<u32>,
    /// Where the row of the current slice begins.
    row: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measure::samples::MessageName;
    use crate::measure::tally::Tally;
    use crate::measure::times::Times;
    use echoring_proto::limits::{MILLISECOND, SECOND};

    const WINDOW: Window = Window { from: 100 * SECOND, until: 100 * SECOND + 450 * MILLISECOND };

    proptest! {
        #[test]
        fn buckets_are_those_of_the_library(value in prop_oneof![0..100_u64, 0..=LATENCY_NS_MAX]) {
            let library = Histogram::<u64>::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("bounds");
            prop_assert_eq!(lowest(bucket(value)), library.lowest_equivalent(value));
            prop_assert!(bucket(value) < BUCKETS);
            prop_assert_eq!(bucket(lowest(bucket(value))), bucket(value));
        }

        #[test]
        fn slices_add_up_to_the_whole(
            messages in prop::collection::vec((0..500_u64, 0..2 * LATENCY_NS_MAX), 0..200)
        ) {
            let mut messages = messages;
            messages.sort_unstable();
            let mut tally = Tally::default();
            tally.open(WINDOW);
            let mut whole = Slice::default().response();
            for (passed_ms, response) in messages {
                let now = WINDOW.from + passed_ms * MILLISECOND;
                let times = Times { intended: now.saturating_sub(response), sent: now };
                tally.arrived(now, MessageName::default(), times, 1);
                if now < WINDOW.until {
                    whole.saturating_record(response.min(now));
                }
            }
            tally.cut(WINDOW.until);
            let slices = tally.slices.slices;
            prop_assert_eq!(slices.len(), 5);
            prop_assert_eq!(slices.iter().map(|slice| slice.arrived).sum::<u64>(), tally.counts.messages);
            let mut sum = Slice::default().response();
            for slice in slices {
                prop_assert_eq!(slice.response().len(), slice.arrived);
                sum.add(slice.response()).expect("the same bounds");
            }
            prop_assert_eq!(sum, whole);
        }
    }

    #[test]
    fn counts_are_in_the_slice_in_which_they_changed() {
        let mut tally = Tally::default();
        // Before the window.
        (tally.counts.sent, tally.connections.opened, tally.slices.open_now) = (7, 4, 4);
        tally.connections.error("refused");
        tally.open(WINDOW);
        let at = |ms: u64| WINDOW.from + ms * MILLISECOND;
        tally.roll_if_due(at(3));
        tally.counts.sent += 10;
        tally.roll_if_due(at(99));
        tally.counts.sent += 1;
        tally.roll_if_due(at(100));
        tally.counts.sent += 100;
        tally.slices.open_now = 3;
        tally.connections.closed(1006);
        tally.reconnects.refused("reset");
        tally.connections.error("refused");
        // Nothing happens in the third slice.
        tally.roll_if_due(at(305));
        tally.counts.sent += 1_000;
        tally.connections.opened += 1;
        tally.slices.open_now = 4;
        tally.cut(at(450));
        let found: Vec<_> = tally.slices.slices.iter().map(|slice| (slice.sent, slice.open)).collect();
        assert_eq!(found, [(11, 4), (100, 3), (0, 3), (1_000, 4), (0, 4)]);
        let slice = &tally.slices.slices[1];
        assert_eq!((slice.opened, slice.errors, slice.closed), (0, 2, 1));
        assert_eq!(tally.slices.slices[3].opened, 1);
    }

    #[test]
    fn a_run_that_ends_early_has_fewer_slices() {
        let mut tally = Tally::default();
        tally.open(WINDOW);
        let times = Times { intended: WINDOW.from, sent: WINDOW.from };
        tally.arrived(WINDOW.from + 120 * MILLISECOND, MessageName::default(), times, 1);
        tally.cut(WINDOW.from + 130 * MILLISECOND);
        let arrived: Vec<u64> = tally.slices.slices.iter().map(|slice| slice.arrived).collect();
        assert_eq!(arrived, [0, 1]);
        let mut other = Tally::default();
        other.merge(&tally);
        other.merge(&tally);
        let arrived: Vec<u64> = other.slices.slices.iter().map(|slice| slice.arrived).collect();
        assert_eq!((arrived, other.slices.slice_ns), (vec![0, 2], 100 * MILLISECOND));
    }

    #[test]
    fn a_run_that_ends_in_the_warm_up_has_none() {
        let mut tally = Tally::default();
        tally.open(WINDOW);
        tally.roll_if_due(WINDOW.from - 1);
        tally.cut(WINDOW.from - 1);
        assert!(tally.slices.slices.is_empty());
    }
}
