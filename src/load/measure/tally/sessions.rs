//! Sessions of users: arrivals, and how each ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::connections::count_cause;
use crate::measure::distribution::Distribution;
use crate::measure::merge::summed;

/// The sessions of one thread, or of a whole run once merged: those that were due within the window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SessionTally {
    /// Arrivals for which there was no room.
    pub refused: u64,
    /// The others.
    pub started: u64,
    /// Sessions whose last request was answered.
    pub completed: u64,
    /// Sessions that ended before, by cause.
    pub failed: BTreeMap<String, u64>,
    /// Sessions that the end of the run cut off.
    pub unfinished: u64,
    /// From the time at which a session was due until its conversation was open.
    pub setup: Distribution,
    /// From the time at which a session was due until its last answer; completed ones only.
    pub duration: Distribution,
}

impl SessionTally {
    /// A session failed.
    pub(crate) fn failed(&mut self, cause: &str) {
        count_cause(&mut self.failed, cause);
    }
}

summed!(for SessionTally { refused, started, completed, failed, unfinished, setup, duration });
