//! The pace of a load: a closed loop, a rate, or stages of a rate.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::schedule::profile::RateStage;

/// The pace of a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Closed loop: each sender keeps this many messages in flight; in connect mode, this many connections are open at
    /// once.
    Depth(u32),
    /// Open loop: messages per second over all senders, independent of replies.
    Rate(u64),
    /// Open loop at a changing rate: the stages fill the measured time.
    Stages(Vec<RateStage>),
}

impl Pace {
    /// Messages that a sender of a closed loop keeps in flight; `None` in an open loop.
    pub fn depth(&self) -> Option<u32> {
        match self {
            Pace::Depth(depth) => Some(*depth),
            Pace::Rate(_) | Pace::Stages(_) => None,
        }
    }

    /// The constant rate; `None` in a closed loop and with stages.
    pub fn rate(&self) -> Option<u64> {
        match self {
            Pace::Rate(rate) => Some(*rate),
            Pace::Depth(_) | Pace::Stages(_) => None,
        }
    }

    /// The highest rate; `None` in a closed loop.
    pub(crate) fn highest_rate(&self) -> Option<u64> {
        let of_stages = self.stages().iter().map(|stage| stage.from.max(stage.to)).max();
        self.rate().or(of_stages)
    }

    /// Its stages, if the rate changes.
    pub fn stages(&self) -> &[RateStage] {
        match self {
            Pace::Stages(stages) => stages,
            Pace::Depth(_) | Pace::Rate(_) => &[],
        }
    }

    /// Messages that are due per second, or per period of the rate, at a time after the start of the measured time;
    /// `None` in a closed loop.
    pub(crate) fn rate_at(&self, passed: Duration) -> Option<f64> {
        match self {
            Pace::Depth(_) => None,
            Pace::Rate(rate) => Some(*rate as f64),
            Pace::Stages(stages) => {
                let mut left = passed;
                for stage in stages {
                    if let Some(later) = left.checked_sub(stage.time) {
                        left = later;
                        continue;
                    }
                    let share = left.as_secs_f64() / stage.time.as_secs_f64();
                    return Some(stage.from as f64 + share * (stage.to as f64 - stage.from as f64));
                }
                Some(0.0)
            }
        }
    }
}
