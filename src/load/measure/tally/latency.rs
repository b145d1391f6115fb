//! The times of messages: response, service and lateness, of the whole run and of each stage of its rate.

use serde::{Deserialize, Serialize};

use crate::measure::distribution::Distribution;
use crate::measure::lost_messages::LostMessages;
use crate::measure::merge::{Merge, merge_each, summed};
use crate::measure::times::Times;
use crate::measure::window::Window;
use crate::plan::RateStage;
use echoring_proto::limits::Nanos;

/// The three distributions that are kept for the whole run and for each stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Distributions {
    /// From the intended send time to the arrival, of messages that were intended within the window.
    pub response: Distribution,
    /// From the actual send to the arrival, of the same messages.
    pub service: Distribution,
    /// How late the generator sent a message; open loop only.
    pub lateness: Distribution,
}

summed!(for Distributions { response, service, lateness });

/// The messages of one stage of the rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageTally {
    /// When its messages are due.
    pub window: Window,
    /// Messages that arrived within it.
    pub messages: u64,
    /// The times of the messages that were due in it.
    pub times: Distributions,
}

/// The times of all messages of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LatencyTally {
    /// The whole run. With stages it is empty until [`complete`](LatencyTally::complete).
    pub whole: Distributions,
    /// The stages of the rate, if it has any.
    pub stages: Vec<StageTally>,
    /// Lost messages whose final age is not known yet; none once the run is over.
    #[serde(skip)]
    pub missing: LostMessages,
}

summed!(for StageTally { window, messages, times });

impl LatencyTally {
    /// Records messages separately by the stage in which they are due. The stages fill the window.
    pub(super) fn open_stages(&mut self, window: Window, stages: &[RateStage]) {
        let mut from = window.from;
        for stage in stages {
            let until = from + stage.time.as_nanos() as Nanos;
            let window = Window { from, until };
            self.stages.push(StageTally { window, messages: 0, times: Distributions::default() });
            from = until;
        }
    }

    /// The stage of a time within the window.
    #[inline]
    pub(super) fn stage(&mut self, at: Nanos) -> Option<&mut StageTally> {
        if self.stages.is_empty() {
            return None;
        }
        let stage = self.stages.partition_point(|stage| stage.window.until <= at);
        self.stages.get_mut(stage)
    }

    /// The distributions for a message that was due at `intended`.
    #[inline]
    pub(super) fn of(&mut self, intended: Nanos) -> &mut Distributions {
        if self.stages.is_empty() {
            return &mut self.whole;
        }
        let stage = self.stages.partition_point(|stage| stage.window.until <= intended);
        self.stages.get_mut(stage).map_or(&mut self.whole, |stage| &mut stage.times)
    }

    /// All distributions, which together are those of the whole run before it is [complete](LatencyTally::complete).
    pub(crate) fn all(&self) -> impl Iterator<Item = &Distributions> {
        std::iter::once(&self.whole).chain(self.stages.iter().map(|stage| &stage.times))
    }

    /// A message arrived that was due within the window.
    #[inline]
    pub(super) fn record(&mut self, intended: Nanos, response: Nanos, service: Nanos) {
        let times = self.of(intended);
        times.response.saturating_record(response);
        times.service.saturating_record(service);
    }

    /// Some deliveries of a message that was due within the window were missing at `until`.
    pub(super) fn record_lost(&mut self, until: Nanos, Times { intended, sent }: Times, copies: u64) {
        self.record_unsent(until, intended, copies);
        self.of(intended).service.saturating_record_n(until.saturating_sub(sent), copies);
    }

    /// Some deliveries of a message that was due within the window were not sent. They have no service time.
    pub(super) fn record_unsent(&mut self, until: Nanos, intended: Nanos, copies: u64) {
        self.of(intended).response.saturating_record_n(until.saturating_sub(intended), copies);
    }

    /// Records all [`missing`](LatencyTally::missing) messages with their age at `until`. Calls `tell` with the times at
    /// which they were due, and their numbers.
    pub(super) fn settle_missing(&mut self, until: Nanos, mut tell: impl FnMut(Nanos, u64)) {
        let missing = std::mem::take(&mut self.missing);
        for (intended, copies) in missing.intended() {
            self.record_unsent(until, intended, copies);
            tell(intended, copies);
        }
        for (sent, copies) in missing.sent() {
            self.of(sent).service.saturating_record_n(until.saturating_sub(sent), copies);
        }
    }

    /// Adds the stages to the whole run, once at the end.
    pub(super) fn complete(&mut self) {
        for stage in &self.stages {
            self.whole.merge(&stage.times);
        }
    }
}

impl Merge for LatencyTally {
    fn merge(&mut self, other: &LatencyTally) {
        merge_each!(self, other: whole, stages);
    }
}
