//! Push mode: inter-arrival times of a connection's messages, and messages without a usable time.

use serde::{Deserialize, Serialize};

use crate::measure::distribution::Distribution;
use crate::measure::merge::summed;

/// Push messages of one thread's listeners within the measured time, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PushTally {
    /// Inter-arrival times of a connection's messages, if they ended within the measured time.
    pub(crate) gap: Distribution,
    /// Messages without the configured time field.
    pub(crate) untimed: u64,
    /// Messages whose time is later than their arrival, according to the two clocks.
    pub(crate) ahead: u64,
}

summed!(for PushTally { gap, untimed, ahead });
