//! Push mode: inter-arrival times of a connection's messages, and messages without a usable time.

use serde::{Deserialize, Serialize};

use crate::measure::distribution::Distribution;
use crate::measure::merge::merge_fields;
use echoring_proto::limits::Nanos;

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

impl PushTally {
    /// A message arrived this long after the previous one.
    #[inline]
    pub fn gap(&mut self, gap: Nanos) {
        self.gap.saturating_record(gap);
    }

    /// A message has no time field.
    pub fn untimed(&mut self) {
        self.untimed += 1;
    }

    /// The time of a message is later than its arrival.
    pub fn ahead(&mut self) {
        self.ahead += 1;
    }
}

merge_fields!(PushTally: gap, untimed, ahead);
