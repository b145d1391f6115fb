//! Pings and their pongs.

use serde::{Deserialize, Serialize};

use crate::measure::distribution::Distribution;
use crate::measure::merge::summed;

/// The pings of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PingTally {
    /// Pings in addition to the load, over the whole run.
    pub sent: u64,
    /// Their pongs.
    pub answered: u64,
    /// Round trips of those that were sent within the window.
    pub round_trip: Distribution,
    /// Pings as the load that were answered by the pong of a later one.
    pub skipped: u64,
}

summed!(for PingTally { sent, answered, round_trip, skipped });
