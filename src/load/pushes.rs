//! What comes of itself from a server: how far apart the messages of a connection are, and whether their times can be.

use hdrhistogram::Histogram;

use super::record::{self, Quantiles};
use super::tally::histogram;
use crate::limits::Nanos;

/// The messages that one thread's listeners got within the measured time, or those of a whole run once merged.
#[derive(Clone, Debug)]
pub struct Pushes {
    /// From one message of a connection to its next, of those that ended within the measured time.
    gap: Histogram<u64>,
    /// Messages that did not tell when they were made, where they were to.
    untimed: u64,
    /// Messages that were made later than they came, by the two clocks.
    ahead: u64,
}

impl Default for Pushes {
    fn default() -> Pushes {
        Pushes { gap: histogram(), untimed: 0, ahead: 0 }
    }
}

impl Pushes {
    /// A message came so long after the one before it.
    #[inline]
    pub fn gap(&mut self, gap: Nanos) {
        self.gap.saturating_record(gap);
    }

    /// A message that was to tell its time did not.
    pub fn untimed(&mut self) {
        self.untimed += 1;
    }

    /// A message is said to have been made after it came.
    pub fn ahead(&mut self) {
        self.ahead += 1;
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: &Pushes) {
        self.gap.add(&other.gap).expect("all histograms have the same bounds");
        self.untimed += other.untimed;
        self.ahead += other.ahead;
    }

    /// What the record says of them.
    pub fn describe(&self) -> record::Push {
        record::Push { gap_ns: Quantiles::of(&self.gap), untimed: self.untimed, ahead: self.ahead }
    }
}
