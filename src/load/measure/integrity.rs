//! Integrity failures of messages.

use crate::measure::merge::summed;
use crate::plan::Flaw;
use crate::plan::declared::part;

part! {
    /// Counts of integrity failures.
    #[derive(Copy, Default, Eq)]
    Integrity {
        /// Sent and not received by the end of the drain time.
        lost: u64,
        /// Received again.
        duplicated: u64,
        /// Received after a message that was sent later.
        reordered: u64,
        /// Received with other bytes, another length or another type than sent, or never sent at all.
        corrupted: u64,
        /// Received later than the configured bound after they were due.
        late: u64,
    }
}

impl Integrity {
    /// Whether there is no failure.
    pub fn is_clean(&self) -> bool {
        *self == Integrity::default()
    }

    /// The failures of each kind, with its name.
    pub fn by_kind(&self) -> [(&'static str, u64); 5] {
        let Integrity { lost, duplicated, reordered, corrupted, late } = *self;
        [
            ("lost", lost),
            ("duplicated", duplicated),
            ("reordered", reordered),
            ("corrupted", corrupted),
            ("late", late),
        ]
    }

    /// The failures of each kind except late messages, in words, where `number` writes a number.
    pub(crate) fn listed(&self, number: impl Fn(u64) -> String) -> String {
        self.by_kind()[..4]
            .iter()
            .map(|(kind, times)| format!("{} {kind}", number(*times)))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Clears the count of a flaw that is allowed.
    pub(crate) fn allow(&mut self, flaw: Flaw) {
        match flaw {
            Flaw::Lost => self.lost = 0,
            Flaw::Duplicated => self.duplicated = 0,
            Flaw::Reordered => self.reordered = 0,
            Flaw::Corrupted => self.corrupted = 0,
            Flaw::Late => self.late = 0,
            // These concern the schedule and connections.
            Flaw::Unsent | Flaw::Closed => {}
        }
    }
}

summed!(for Integrity { lost, duplicated, reordered, corrupted, late });
