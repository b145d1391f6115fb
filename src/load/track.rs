//! Which messages arrived: lost, duplicated and reordered ones, found from their sequence numbers.

use std::collections::BTreeMap;

use crate::limits::{Nanos, SECOND};

/// Messages of one connection that may be sent behind the latest one that was answered. In an open loop a connection that
/// has so many holds back what is due next, which is still measured from when it should have left.
pub const OUTSTANDING_MAX: usize = 16 * 1024;
/// A message that is unanswered for so long is given up: a closed loop sends another in its place. Its answer is welcome
/// whenever it comes.
pub const REPLY_TIME: Nanos = 5 * SECOND;
/// Unanswered messages of one connection that are remembered although [`OUTSTANDING_MAX`] were sent behind them. Beyond that
/// those that were given up are forgotten, the oldest first; while there are none, nothing is sent.
const OVERTAKEN_MAX: usize = 64 * 1024;
/// Separate gaps in one publisher's messages that a subscriber remembers. Beyond that the oldest is forgotten.
const GAPS_MAX: usize = 4 * 1024;

/// What is wrong with a run's messages, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Integrity {
    /// Sent and not received by the end of the drain time.
    pub lost: u64,
    /// Received again.
    pub duplicated: u64,
    /// Received after a message that was sent later.
    pub reordered: u64,
    /// Received with other bytes, another length or another type than sent, or never sent at all.
    pub corrupted: u64,
    /// Received later than a bound that was asked for, from when they should have left. Records from before it was counted
    /// have none.
    #[serde(default)]
    pub late: u64,
}

impl Integrity {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        *self == Integrity::default()
    }

    /// Adds the counts of another part of the run.
    pub fn merge(&mut self, other: &Integrity) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.late += other.late;
    }
}

/// When a message should have left and when it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When it should have left.
    pub intended: Nanos,
    /// When it was handed to the connection.
    pub sent: Nanos,
}

/// What an arrival turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The one behind the latest that was answered, or one farther behind.
    InOrder(Times),
    /// An earlier one, after later ones.
    Late(Times),
    /// One that had arrived before.
    Again,
    /// One that was never sent.
    Unknown,
}

/// The messages of one echo connection, sent and awaited. A message is awaited until its own answer comes, in whatever
/// order answers do.
#[derive(Debug, Default)]
pub struct Awaited {
    /// A ring by sequence over the latest; `sent` is 0 in a slot that awaits nothing.
    slots: Vec<Times>,
    /// Unanswered ones that the ring has no room for.
    overtaken: BTreeMap<u64, Times>,
    /// One past the highest sequence that was answered.
    expected: u64,
    next: u64,
    /// Those below are given up, or answered.
    waived: u64,
    /// Unanswered messages that are not given up.
    in_flight: u64,
    /// All unanswered messages that are remembered.
    unanswered: u64,
    /// Unanswered ones that were forgotten.
    forgotten: u64,
    /// Answers that did not tell which message they answer.
    unmatched: u64,
}

impl Awaited {
    /// With room for `outstanding` messages in flight; it grows up to [`OUTSTANDING_MAX`].
    pub fn new(outstanding: usize) -> Awaited {
        let slots = (outstanding * 2).clamp(8, OUTSTANDING_MAX).next_power_of_two();
        Awaited { slots: vec![NOTHING; slots], ..Awaited::default() }
    }

    /// Unanswered messages that are not given up.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Whether every message was answered.
    pub fn is_settled(&self) -> bool {
        self.missing() == 0
    }

    /// Whether no further message may be sent before one is answered or given up.
    pub fn is_full(&self) -> bool {
        self.next - self.expected.max(self.waived) >= OUTSTANDING_MAX as u64
            || self.overtaken.len() >= OVERTAKEN_MAX && self.first_overtaken() >= Some(self.waived)
    }

    fn first_overtaken(&self) -> Option<u64> {
        self.overtaken.first_key_value().map(|(sequence, _)| *sequence)
    }

    /// The sequence of the next message to send.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The sequence that comes next when answers come in order.
    #[inline]
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// The message [`next`](Awaited::next) was handed to its connection. Gives one that was given up and can be remembered
    /// no longer.
    #[inline]
    pub fn sent(&mut self, times: Times) -> Option<Times> {
        let mut slot = self.slot(self.next);
        let mut forgotten = None;
        if self.slots[slot].sent != 0 {
            forgotten = self.make_room();
            slot = self.slot(self.next);
        }
        // A clock at zero would look like an empty slot.
        self.slots[slot] = Times { sent: times.sent.max(1), ..times };
        self.next += 1;
        self.in_flight += 1;
        self.unanswered += 1;
        forgotten
    }

    /// The slot of the next message is taken by one that is still unanswered.
    #[cold]
    fn make_room(&mut self) -> Option<Times> {
        if self.slots.len() < OUTSTANDING_MAX {
            self.grow();
            return None;
        }
        let slot = self.slot(self.next);
        let times = std::mem::replace(&mut self.slots[slot], NOTHING);
        self.overtaken.insert(self.next - self.slots.len() as u64, times);
        if self.overtaken.len() <= OVERTAKEN_MAX || self.first_overtaken() >= Some(self.waived) {
            return None;
        }
        let (_, forgotten) = self.overtaken.pop_first()?;
        self.unanswered -= 1;
        self.forgotten += 1;
        Some(forgotten)
    }

    /// A message that says it is `sequence` arrived.
    #[inline]
    pub fn arrived(&mut self, sequence: u64) -> Arrival {
        if sequence >= self.next {
            return Arrival::Unknown;
        }
        let times = if sequence + (self.slots.len() as u64) < self.next {
            self.overtaken.remove(&sequence)
        } else {
            let slot = self.slot(sequence);
            Some(std::mem::replace(&mut self.slots[slot], NOTHING)).filter(|times| times.sent != 0)
        };
        let Some(times) = times else { return Arrival::Again };
        self.unanswered -= 1;
        self.in_flight -= u64::from(sequence >= self.waived);
        if sequence < self.expected {
            return Arrival::Late(times);
        }
        self.expected = sequence + 1;
        Arrival::InOrder(times)
    }

    /// An answer came that does not tell which message it answers: it stands for the oldest that is unanswered. Whether there
    /// was one.
    pub fn arrived_unmatched(&mut self) -> bool {
        let Some((oldest, _)) = self.unanswered_from(0).next() else { return false };
        self.unmatched += 1;
        self.arrived(oldest);
        true
    }

    /// Whether some answers did not tell which message they answer: nobody knows then which are missing.
    pub fn has_unmatched(&self) -> bool {
        self.unmatched > 0
    }

    /// Gives up what was sent at `sent_by` or before; how many there were. In an open loop only those that later ones have
    /// overtaken are given up.
    pub fn give_up(&mut self, sent_by: Nanos, only_overtaken: bool) -> u64 {
        let end = if only_overtaken { self.expected } else { self.next };
        let mut waived = self.waived;
        let mut count = 0;
        for (sequence, times) in self.unanswered_from(self.waived).take_while(|(sequence, _)| *sequence < end)
        {
            if times.sent > sent_by {
                break;
            }
            waived = sequence + 1;
            count += 1;
        }
        self.waived = waived;
        self.in_flight -= count;
        count
    }

    /// Messages that were sent and have not been answered.
    pub fn missing(&self) -> u64 {
        self.forgotten + self.unanswered
    }

    /// The unanswered messages that are remembered, from the sequence `from` on, the oldest first.
    pub fn unanswered_from(&self, from: u64) -> impl Iterator<Item = (u64, Times)> {
        let known = from.max(self.next.saturating_sub(self.slots.len() as u64));
        let overtaken = self.overtaken.range(from..).map(|(sequence, times)| (*sequence, *times));
        let recent = (known..self.next).map(|sequence| (sequence, self.slots[self.slot(sequence)]));
        overtaken.chain(recent.filter(|(_, times)| times.sent != 0))
    }

    /// The latest `most` unanswered messages before the sequence `until`, the latest first.
    pub fn unanswered_before(&self, until: u64, most: usize) -> impl Iterator<Item = u64> {
        let known = self.next.saturating_sub(self.slots.len() as u64);
        let recent = (known..until.max(known)).rev();
        let recent = recent.filter(|sequence| self.slots[self.slot(*sequence)].sent != 0);
        recent.chain(self.overtaken.range(..until).rev().map(|(sequence, _)| *sequence)).take(most)
    }

    fn slot(&self, sequence: u64) -> usize {
        sequence as usize & (self.slots.len() - 1)
    }

    fn grow(&mut self) {
        let mut grown = vec![NOTHING; self.slots.len() * 2];
        let known = self.next.saturating_sub(self.slots.len() as u64);
        for sequence in known..self.next {
            grown[sequence as usize & (self.slots.len() * 2 - 1)] = self.slots[self.slot(sequence)];
        }
        self.slots = grown;
    }
}

const NOTHING: Times = Times { intended: 0, sent: 0 };

/// The messages of one publisher as one subscriber sees them. What is missing among them is remembered until it comes.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    expected: u64,
    received: u64,
    gaps: u64,
    /// The place of its latest message in the order of its topic, where that is compared: see
    /// [`Walk`](super::order::Walk), which keeps it here.
    pub place: u64,
    /// What is missing of the messages before `expected`, by the first sequence of each gap.
    missing: BTreeMap<u64, Gap>,
}

/// Messages that are missing, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    /// One past the last.
    end: u64,
    /// About when they were due and sent.
    times: Times,
}

/// What an arrival in a [`Stream`] turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one that was due, or one after a gap.
    InOrder,
    /// A missing one, after later ones.
    Late,
    /// One that had arrived before.
    Again,
}

impl Stream {
    /// The sequence that should arrive next.
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// Different messages received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Times that a message came before one that precedes it.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// The message `sequence` arrived. What turns out to be missing in front of it was due and sent about at `times`.
    #[inline]
    pub fn arrived(&mut self, sequence: u64, times: impl FnOnce() -> Times) -> Place {
        if sequence < self.expected {
            return self.came_late(sequence);
        }
        if sequence > self.expected {
            self.gaps += 1;
            self.missing.insert(self.expected, Gap { end: sequence, times: times() });
        }
        self.expected = sequence + 1;
        self.received += 1;
        Place::InOrder
    }

    #[cold]
    fn came_late(&mut self, sequence: u64) -> Place {
        let missing = &mut self.missing;
        let Some((&start, &gap)) = missing.range(..=sequence).next_back() else { return Place::Again };
        if sequence >= gap.end {
            return Place::Again;
        }
        if start < sequence {
            missing.insert(start, Gap { end: sequence, ..gap });
        } else {
            missing.remove(&start);
        }
        if sequence + 1 < gap.end {
            missing.insert(sequence + 1, gap);
        }
        self.received += 1;
        Place::Late
    }

    /// Forgets the oldest gap where there are too many. Its messages stay missing; one that comes after all is taken for a
    /// repetition.
    pub fn forget_excess(&mut self) -> Option<(Times, u64)> {
        if self.missing.len() <= GAPS_MAX {
            return None;
        }
        self.missing.pop_first().map(|(start, gap)| (gap.times, gap.end - start))
    }

    /// The gaps that are remembered: about when their messages were due and sent, and how many there are.
    pub fn missed(&self) -> impl Iterator<Item = (Times, u64)> {
        self.missing.iter().map(|(start, gap)| (gap.times, gap.end - start))
    }

    /// Messages that did not arrive although a later one did.
    pub fn skipped(&self) -> u64 {
        self.expected - self.received
    }

    /// Messages that did not arrive of `published`.
    pub fn missing(&self, published: u64) -> u64 {
        published.max(self.expected) - self.received
    }
}

#[cfg(test)]
mod tests;
