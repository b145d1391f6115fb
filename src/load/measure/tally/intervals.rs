//! The window in intervals: the current one, and the finished ones.

use serde::{Deserialize, Serialize};

use crate::measure::interval::{Arrived, Recorder, Series};
use crate::measure::merge::Merge;
use crate::measure::window::Window;
use echoring_proto::limits::Nanos;

/// The intervals of one thread, or of each thread once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IntervalTally {
    /// The packed intervals of each thread.
    pub(crate) series: Vec<Series>,
    /// None once the window is over.
    #[serde(skip)]
    recorder: Option<Recorder>,
    /// Length of an interval.
    pub(crate) interval_ns: Nanos,
}

impl IntervalTally {
    /// Makes room for the intervals of a window, so that recording allocates nothing.
    pub(super) fn open(&mut self, window: Window) {
        self.interval_ns = window.interval();
        self.recorder = Some(Recorder::new(window));
    }

    /// A message arrived within the current interval.
    #[inline]
    pub(super) fn record(&mut self, response: Nanos, service: Nanos) {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(response, service);
        }
    }

    /// The stamps of a message that arrived in the current interval, or just before it, are known.
    #[inline]
    pub(super) fn record_server_and_network(&mut self, took: Nanos) {
        if let Some(recorder) = &mut self.recorder {
            recorder.record_server_and_network(took);
        }
    }

    /// End of the current interval; [`Nanos::MAX`] if there is none.
    pub(super) fn ends(&self) -> Nanos {
        self.recorder.as_ref().map_or(Nanos::MAX, |recorder| recorder.ends)
    }

    /// Packs the intervals that are over at `now`, with `arrived` messages so far.
    pub(super) fn roll(&mut self, now: Nanos, arrived: Arrived) {
        if let Some(recorder) = &mut self.recorder {
            recorder.roll(now, arrived);
        }
    }

    /// Packs all intervals: the window is over, with `arrived` messages so far.
    pub(super) fn close(&mut self, arrived: Arrived) {
        self.series.extend(self.recorder.take().map(|recorder| recorder.finish(arrived)));
    }
}

impl Merge for IntervalTally {
    fn merge(&mut self, other: &IntervalTally) {
        debug_assert!(other.recorder.is_none(), "its intervals are not packed yet");
        if self.series.is_empty() {
            self.interval_ns = other.interval_ns;
        }
        self.series.extend(other.series.iter().cloned());
    }
}
