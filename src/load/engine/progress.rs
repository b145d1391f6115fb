//! The progress of a run.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::trace::Traced;
use crate::measure::LiveResults;
use crate::plan::Workload;
use crate::plan::declared::words;

words! {
    /// The stage of a run.
    #[non_exhaustive]
    pub enum RunStage {
        /// Opening connections
        Connecting => "connecting",
        /// Load without recording
        WarmingUp => "warming_up",
        /// Load with recording
        Measuring => "measuring",
        /// Waiting for messages in flight
        Draining => "draining",
        /// Over: the results are those of the record
        Done => "done",
    }
}

/// A run in progress.
#[derive(Clone, Copy, Debug)]
pub struct RunProgress<'a> {
    /// The load.
    pub load: &'a Workload,
    /// The target: its URL, or `embedded`.
    pub target: &'a str,
    /// The stage of the run.
    pub stage: RunStage,
    /// Time in this stage.
    pub elapsed: Duration,
    /// Connections open now.
    pub open: u64,
    /// Connections that failed or ended early.
    pub failed: u64,
    /// Messages that arrived, warm-up included.
    pub messages: u64,
    /// Results of the measured time so far, up to a second old; those of the record once the run is done.
    pub live: &'a LiveResults,
    /// The generators that the others, or the end of this stage, wait for; a run of one generator has none.
    pub awaited: &'a [&'a str],
    /// Set to end the measured time now, as if its duration were over; `None` where that is not possible.
    pub end: Option<&'a AtomicBool>,
    /// The events since the last progress, if the load [traces](Workload::traces).
    pub traced: &'a [Traced],
}
