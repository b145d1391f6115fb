//! Tracks messages by sequence number: losses, duplicates and reorderings.

use std::collections::BTreeMap;

use super::times::Times;
use echoring_proto::limits::{Nanos, SECOND};

/// Maximum number of messages of one connection that may be sent beyond the latest answered one. At this bound an open
/// loop defers the next message, which is still measured from when it was due.
pub(crate) const OUTSTANDING_MAX: usize = 16 * 1024;
/// A message without a reply for this long is given up: a closed loop sends another instead. A later reply still
/// counts.
pub(crate) const REPLY_TIME: Nanos = 5 * SECOND;
/// Maximum unanswered messages of one connection beyond [`OUTSTANDING_MAX`]. Above it, given-up messages are forgotten,
/// the oldest first; while there are none, nothing is sent.
const OVERTAKEN_MAX: usize = 64 * 1024;
/// Maximum number of gaps in one publisher's messages that a subscriber stores. Beyond that the oldest is forgotten.
const GAPS_MAX: usize = 4 * 1024;

/// Maximum number of messages of a connection whose replies may be others that could not be identified.
pub(crate) const REPLACED_MAX: usize = 64;

/// A message whose place a reply took that could not be identified: damaged, or unrequested. Its own
/// reply may still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) sequence: u64,
    pub(crate) times: Times,
    /// When that reply arrived.
    pub(crate) at: Nanos,
}

/// How a reply relates to the sent messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The next one after the latest answered, or a later one.
    InOrder(Times),
    /// An earlier one, after later ones.
    Late(Times),
    /// One that had arrived before.
    Again,
    /// One that was never sent.
    Unknown,
}

/// The messages of one echo connection, sent and awaited. Each is awaited until its own reply arrives, in any order.
#[derive(Debug, Default)]
pub struct Awaited {
    /// A ring by sequence over the latest messages; `sent` is 0 in an empty slot.
    slots: Vec<Times>,
    /// Unanswered ones beyond the ring.
    overtaken: BTreeMap<u64, Times>,
    /// One past the highest sequence that was answered.
    expected: u64,
    next: u64,
    /// All below are given up or answered.
    given_up_below: u64,
    /// Unanswered messages that are not given up.
    in_flight: u64,
    /// All unanswered messages in memory.
    unanswered: u64,
    /// Unanswered ones that were forgotten.
    forgotten: u64,
    /// Replies that do not identify their message.
    unmatched: u64,
    /// The latest messages whose place another reply took.
    replaced: Vec<Replaced>,
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
    pub(crate) fn is_settled(&self) -> bool {
        self.missing() == 0
    }

    /// Whether no further message may be sent before one is answered or given up.
    pub fn is_full(&self) -> bool {
        self.next - self.expected.max(self.given_up_below) >= OUTSTANDING_MAX as u64
            || self.overtaken.len() >= OVERTAKEN_MAX && self.first_overtaken() >= Some(self.given_up_below)
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

    /// The sequence of the oldest unanswered message; the next one if there is none.
    #[inline]
    pub(crate) fn oldest(&self) -> u64 {
        if self.unanswered == self.next - self.expected.min(self.next) {
            return self.expected;
        }
        self.unanswered_from(0).next().map_or(self.next, |(sequence, _)| sequence)
    }

    /// The message [`next`](Awaited::next) was sent. Returns a given-up message that is forgotten now.
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

    /// The slot of the next message holds one that is still unanswered.
    #[cold]
    fn make_room(&mut self) -> Option<Times> {
        if self.slots.len() < OUTSTANDING_MAX {
            self.grow();
            return None;
        }
        let slot = self.slot(self.next);
        let times = std::mem::replace(&mut self.slots[slot], NOTHING);
        self.overtaken.insert(self.next - self.slots.len() as u64, times);
        if self.overtaken.len() <= OVERTAKEN_MAX || self.first_overtaken() >= Some(self.given_up_below) {
            return None;
        }
        let (_, forgotten) = self.overtaken.pop_first()?;
        self.unanswered -= 1;
        self.forgotten += 1;
        Some(forgotten)
    }

    /// A message with this sequence arrived.
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
        let Some(times) = times else { return self.arrived_again(sequence) };
        self.unanswered -= 1;
        self.in_flight -= u64::from(sequence >= self.given_up_below);
        if sequence < self.expected {
            return Arrival::Late(times);
        }
        self.expected = sequence + 1;
        Arrival::InOrder(times)
    }

    /// The message has been answered, unless another reply took its place.
    #[cold]
    fn arrived_again(&mut self, sequence: u64) -> Arrival {
        let Some(at) = self.replaced.iter().position(|replaced| replaced.sequence == sequence) else {
            return Arrival::Again;
        };
        let Replaced { times, .. } = self.replaced.remove(at);
        let mut expected = self.expected;
        while self.replaced.iter().any(|replaced| replaced.sequence + 1 == expected) {
            expected -= 1;
        }
        if expected > sequence + 1 { Arrival::Late(times) } else { Arrival::InOrder(times) }
    }

    /// A reply arrived at `at` that could not be identified. It takes the place of the message with this sequence until that one's
    /// own reply arrives. Returns whether that is outstanding, and another that is over now because too many are replaced.
    #[cold]
    pub(crate) fn replace(&mut self, sequence: u64, at: Nanos) -> (bool, Option<Replaced>) {
        if self.replaced.iter().any(|replaced| replaced.sequence == sequence) {
            return (false, None);
        }
        let (Arrival::InOrder(times) | Arrival::Late(times)) = self.arrived(sequence) else {
            return (false, None);
        };
        self.replaced.push(Replaced { sequence, times, at });
        (true, (self.replaced.len() > REPLACED_MAX).then(|| self.replaced.remove(0)))
    }

    /// No replies are awaited after this: the messages that were answered by something else.
    pub(crate) fn take_replaced(&mut self) -> Vec<Replaced> {
        std::mem::take(&mut self.replaced)
    }

    /// A reply arrived that does not identify its message: it counts for the oldest unanswered one. Returns whether
    /// there was one.
    pub(crate) fn arrived_unmatched(&mut self) -> bool {
        let Some((oldest, _)) = self.unanswered_from(0).next() else { return false };
        self.unmatched += 1;
        self.arrived(oldest);
        true
    }

    /// Whether some replies did not identify their message, so that the missing ones are unknown.
    pub(crate) fn has_unmatched(&self) -> bool {
        self.unmatched > 0
    }

    /// Gives up messages that were sent at `sent_by` or before; returns their number. In an open loop only those that
    /// later ones have overtaken.
    pub fn give_up(&mut self, sent_by: Nanos, only_overtaken: bool) -> u64 {
        let end = if only_overtaken { self.expected } else { self.next };
        let mut given_up_below = self.given_up_below;
        let mut count = 0;
        for (sequence, times) in
            self.unanswered_from(self.given_up_below).take_while(|(sequence, _)| *sequence < end)
        {
            if times.sent > sent_by {
                break;
            }
            given_up_below = sequence + 1;
            count += 1;
        }
        self.given_up_below = given_up_below;
        self.in_flight -= count;
        count
    }

    /// The connection ended: no reply is awaited after this. Calls `tell` with the sequences and times of the messages
    /// that were, and returns their number.
    pub(crate) fn abandon(&mut self, mut tell: impl FnMut(u64, Times)) -> u64 {
        let missing = self.missing();
        // If some replies could not be matched, it is unknown which messages are missing.
        if !self.has_unmatched() {
            self.unanswered_from(0).for_each(|(sequence, times)| tell(sequence, times));
        }
        self.slots.fill(NOTHING);
        self.overtaken.clear();
        (self.expected, self.given_up_below) = (self.next, self.next);
        (self.in_flight, self.unanswered, self.forgotten) = (0, 0, 0);
        missing
    }

    /// Leaves out the messages before `next`, which are not sent. Only when nothing is awaited.
    pub(crate) fn skip_to(&mut self, next: u64) {
        debug_assert!(self.is_settled() && next >= self.next);
        (self.next, self.expected, self.given_up_below) = (next, next, next);
    }

    /// Messages that were sent and have not been answered.
    pub fn missing(&self) -> u64 {
        self.forgotten + self.unanswered
    }

    /// The unanswered messages that are stored, from the sequence `from` on, oldest first.
    pub(crate) fn unanswered_from(&self, from: u64) -> impl Iterator<Item = (u64, Times)> {
        let known = from.max(self.next.saturating_sub(self.slots.len() as u64));
        let overtaken = self.overtaken.range(from..).map(|(sequence, times)| (*sequence, *times));
        let recent = (known..self.next).map(|sequence| (sequence, self.slots[self.slot(sequence)]));
        overtaken.chain(recent.filter(|(_, times)| times.sent != 0))
    }

    /// Calls `tell` about `most` times with the times of stored unanswered messages, oldest first, and the number of
    /// messages that each represents.
    pub(crate) fn outstanding(&self, most: u64, mut tell: impl FnMut(Times, u64)) {
        let step = self.unanswered.div_ceil(most).max(1);
        // All from here on are unanswered; before it, some are.
        let latest = self.expected.max(self.next.saturating_sub(self.slots.len() as u64));
        let mut left = self.unanswered.saturating_sub(self.next - latest);
        let overtaken = self.unanswered_from(0).take(left as usize);
        for (_, times) in overtaken.step_by(step as usize) {
            tell(times, step.min(left));
            left -= step.min(left);
        }
        for sequence in (latest..self.next).step_by(step as usize) {
            tell(self.slots[self.slot(sequence)], step.min(self.next - sequence));
        }
    }

    /// The latest `most` unanswered messages before the sequence `until`, the latest first.
    pub(crate) fn unanswered_before(&self, until: u64, most: usize) -> impl Iterator<Item = u64> {
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

/// The messages of one publisher as one subscriber receives them, with the gaps among them.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    expected: u64,
    pub(crate) received: u64,
    pub(crate) gaps: u64,
    /// One past the highest sequence that arrived.
    latest: u64,
    /// Messages that were published while the subscriber was away.
    away: u64,
    /// Of those, messages that arrived after its return.
    recovered: u64,
    /// The position of its latest message in the order of its topic, if that is compared; maintained by
    /// [`OrderChecker`](super::order::OrderChecker).
    pub place: u64,
    /// The gaps before `expected`, by the first sequence of each.
    missing: BTreeMap<u64, Gap>,
}

/// Consecutive missing messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    /// One past the last.
    end: u64,
    /// Approximately when they were due and sent.
    times: Times,
    /// They were published while the subscriber was away.
    is_away: bool,
}

/// How an arrival relates to a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamArrival {
    /// The expected one, or one after a gap.
    InOrder,
    /// A missing one, after later ones.
    Late,
    /// One that was published while the subscriber was away, in order.
    Recovered,
    /// One that had arrived before.
    Again,
}

impl Stream {
    /// The sequence that should arrive next.
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// The message `sequence` arrived. Missing messages in front of it were due and sent at about `times`.
    #[inline]
    pub fn arrived(&mut self, sequence: u64, times: impl FnOnce() -> Times) -> StreamArrival {
        if sequence < self.expected {
            return self.arrived_late(sequence);
        }
        if sequence > self.expected {
            self.gaps += 1;
            let gap = Gap { end: sequence, times: times(), is_away: false };
            self.missing.insert(self.expected, gap);
        }
        self.expected = sequence + 1;
        self.latest = sequence + 1;
        self.received += 1;
        StreamArrival::InOrder
    }

    #[cold]
    fn arrived_late(&mut self, sequence: u64) -> StreamArrival {
        let missing = &mut self.missing;
        let Some((&start, &gap)) = missing.range(..=sequence).next_back() else {
            return StreamArrival::Again;
        };
        if sequence >= gap.end {
            return StreamArrival::Again;
        }
        if start < sequence {
            missing.insert(start, Gap { end: sequence, ..gap });
        } else {
            missing.remove(&start);
        }
        if sequence + 1 < gap.end {
            missing.insert(sequence + 1, gap);
        }
        let in_order = sequence >= self.latest;
        self.latest = self.latest.max(sequence + 1);
        if !gap.is_away {
            self.received += 1;
            return StreamArrival::Late;
        }
        self.recovered += 1;
        if in_order { StreamArrival::Recovered } else { StreamArrival::Late }
    }

    /// The subscriber joins now, or again: it is not expected to receive the messages up to `published` that it lacks.
    pub(crate) fn returned(&mut self, published: u64) {
        let Some(away) = published.checked_sub(self.expected).filter(|away| *away > 0) else { return };
        let gap = Gap { end: published, times: Times::default(), is_away: true };
        self.missing.insert(self.expected, gap);
        self.away += away;
        self.expected = published;
    }

    /// Messages that were published while the subscriber was away, and those of them that arrived.
    pub(crate) fn away(&self) -> (u64, u64) {
        (self.away, self.recovered)
    }

    /// Forgets the oldest gap if there are too many. Its messages stay missing; a late one counts as a duplicate.
    pub(crate) fn forget_excess(&mut self) -> Option<(Times, u64)> {
        if self.missing.len() <= GAPS_MAX {
            return None;
        }
        let (start, gap) = self.missing.pop_first()?;
        (!gap.is_away).then_some((gap.times, gap.end - start))
    }

    /// The stored gaps: approximately when their messages were due and sent, and how many there are.
    pub fn missed(&self) -> impl Iterator<Item = (Times, u64)> {
        let owed = self.missing.iter().filter(|(_, gap)| !gap.is_away);
        owed.map(|(start, gap)| (gap.times, gap.end - start))
    }

    /// Messages that did not arrive although a later one did.
    pub fn skipped(&self) -> u64 {
        self.expected - self.received - self.away
    }

    /// Messages that did not arrive of `published`.
    pub fn missing(&self, published: u64) -> u64 {
        published.max(self.expected) - self.received - self.away
    }
}

#[cfg(test)]
mod tests;
