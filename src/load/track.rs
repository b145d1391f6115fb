//! Which messages arrived: lost, duplicated and reordered ones, found from their sequence numbers.

use crate::limits::Nanos;

/// Messages of one connection that may be under way at once. In an open loop a connection that has so many
/// unanswered holds back what is due next, which is still measured from when it should have left.
pub const OUTSTANDING_MAX: usize = 16 * 1024;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When it should have left.
    pub intended: Nanos,
    /// When it was handed to the connection.
    pub sent: Nanos,
}

/// What an arrival turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The one that was due, or one after a gap.
    InOrder(Times),
    /// A missing one, after later ones.
    Late(Times),
    /// One that had arrived before.
    Again,
    /// One that was never sent.
    Unknown,
}

/// The messages of one echo connection, sent and awaited.
///
/// Sequences below `expected` have arrived or are missing; those from there to `next` are in flight, unless
/// their connection gave up waiting. Only the latest are remembered one by one: a message that is later than
/// all of those counts as lost and, when it arrives after all, as received again.
#[derive(Debug, Default)]
pub struct Awaited {
    /// A ring by sequence; `sent` is 0 in a slot that awaits nothing.
    slots: Vec<Times>,
    expected: u64,
    next: u64,
    /// Those below are not waited for.
    waived: u64,
    /// Missing ones that the ring has forgotten.
    forgotten: u64,
}

impl Awaited {
    /// With room for `outstanding` messages in flight; it grows up to [`OUTSTANDING_MAX`].
    pub fn new(outstanding: usize) -> Awaited {
        // Twice the flight, so that what comes late is still known.
        let slots = (outstanding * 2).clamp(8, OUTSTANDING_MAX).next_power_of_two();
        Awaited { slots: vec![NOTHING; slots], ..Awaited::default() }
    }

    /// Messages waited for: in flight, not overtaken by later ones, not given up.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        self.next - self.expected.max(self.waived)
    }

    /// Whether no further message may be sent before one arrives.
    pub fn is_full(&self) -> bool {
        self.in_flight() >= OUTSTANDING_MAX as u64
    }

    /// The sequence of the next message to send.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The sequence that should arrive next.
    #[inline]
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// When the first message that is waited for left.
    pub fn oldest(&self) -> Option<Times> {
        let oldest = self.expected.max(self.waived);
        (oldest < self.next).then(|| self.slots[self.slot(oldest)])
    }

    /// The message [`next`](Awaited::next) was handed to its connection. Gives one that is missing and can be remembered no
    /// longer.
    #[inline]
    pub fn sent(&mut self, times: Times) -> Option<Times> {
        if (self.next - self.expected) as usize == self.slots.len() && self.slots.len() < OUTSTANDING_MAX {
            self.grow();
        }
        let slot = self.slot(self.next);
        // A clock at zero would look like an empty slot.
        let before = std::mem::replace(&mut self.slots[slot], Times { sent: times.sent.max(1), ..times });
        self.next += 1;
        let forgotten = (before.sent != 0).then_some(before);
        self.forgotten += u64::from(forgotten.is_some());
        forgotten
    }

    /// A message that says it is `sequence` arrived.
    #[inline]
    pub fn arrived(&mut self, sequence: u64) -> Arrival {
        if sequence >= self.next {
            return Arrival::Unknown;
        }
        if sequence + (self.slots.len() as u64) < self.next {
            return Arrival::Again;
        }
        let slot = self.slot(sequence);
        let times = std::mem::replace(&mut self.slots[slot], NOTHING);
        if times.sent == 0 {
            return Arrival::Again;
        }
        if sequence < self.expected {
            return Arrival::Late(times);
        }
        self.expected = sequence + 1;
        Arrival::InOrder(times)
    }

    /// Nothing in flight is waited for any longer. Should it arrive after all, it is welcome.
    pub fn give_up(&mut self) {
        self.waived = self.next;
    }

    /// Messages that were sent and have not arrived.
    pub fn missing(&self) -> u64 {
        self.forgotten + self.unanswered().count() as u64
    }

    /// The times of those that are remembered.
    pub fn unanswered(&self) -> impl Iterator<Item = Times> {
        self.slots.iter().copied().filter(|times| times.sent != 0)
    }

    fn slot(&self, sequence: u64) -> usize {
        sequence as usize & (self.slots.len() - 1)
    }

    #[cold]
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

/// The messages of one publisher as one subscriber sees them.
///
/// Of the messages before `expected` the last 64 are remembered one by one; an older one that arrives counts
/// as received again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stream {
    expected: u64,
    /// Bit `i`: the message `expected - 1 - i` arrived.
    seen: u64,
    received: u64,
    gaps: u64,
    /// The place of its latest message in the order of its topic, where that is compared: see
    /// [`Walk`](super::order::Walk), which keeps it here.
    pub place: u64,
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

    /// The message `sequence` arrived.
    #[inline]
    pub fn arrived(&mut self, sequence: u64) -> Place {
        if sequence >= self.expected {
            let skipped = sequence - self.expected;
            self.gaps += u64::from(skipped > 0);
            self.seen = if skipped < 63 { self.seen << (skipped + 1) | 1 } else { 1 };
            self.expected = sequence + 1;
            self.received += 1;
            return Place::InOrder;
        }
        let back = self.expected - 1 - sequence;
        if back >= 64 || self.seen >> back & 1 == 1 {
            return Place::Again;
        }
        self.seen |= 1 << back;
        self.received += 1;
        Place::Late
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
mod tests {
    use super::*;

    fn times(sequence: u64) -> Times {
        Times { intended: 10 * sequence, sent: 10 * sequence + 1 }
    }

    fn awaiting(messages: u64) -> Awaited {
        let mut awaited = Awaited::new(4);
        for sequence in 0..messages {
            awaited.sent(times(sequence));
        }
        awaited
    }

    #[test]
    fn in_order_arrivals_give_their_times() {
        let mut awaited = awaiting(3);
        for sequence in 0..3 {
            assert_eq!(awaited.oldest(), Some(times(sequence)));
            assert_eq!(awaited.arrived(sequence), Arrival::InOrder(times(sequence)));
        }
        assert_eq!((awaited.in_flight(), awaited.missing(), awaited.oldest()), (0, 0, None));
    }

    #[test]
    fn a_loss_is_missing_and_frees_its_place() {
        let mut awaited = awaiting(3);
        assert_eq!(awaited.arrived(0), Arrival::InOrder(times(0)));
        assert_eq!(awaited.arrived(2), Arrival::InOrder(times(2)));
        assert_eq!((awaited.in_flight(), awaited.missing()), (0, 1));
    }

    #[test]
    fn a_late_arrival_is_no_loss_and_no_duplicate() {
        let mut awaited = awaiting(3);
        awaited.arrived(1);
        assert_eq!(awaited.arrived(0), Arrival::Late(times(0)));
        assert_eq!(awaited.arrived(0), Arrival::Again);
        assert_eq!(awaited.arrived(2), Arrival::InOrder(times(2)));
        assert_eq!(awaited.missing(), 0);
    }

    #[test]
    fn what_was_never_sent_is_unknown() {
        let mut awaited = awaiting(3);
        assert_eq!(awaited.arrived(3), Arrival::Unknown);
        assert_eq!(awaited.arrived(u64::MAX), Arrival::Unknown);
        assert_eq!(awaited.arrived(0), Arrival::InOrder(times(0)));
    }

    #[test]
    fn a_long_flight_grows_the_ring_and_keeps_every_time() {
        let mut awaited = awaiting(1_000);
        for sequence in (0..1_000).filter(|sequence| sequence % 10 != 3) {
            assert_eq!(awaited.arrived(sequence), Arrival::InOrder(times(sequence)));
        }
        assert_eq!(awaited.missing(), 100);
    }

    #[test]
    fn losses_are_counted_when_the_ring_has_gone_round() {
        let mut awaited = Awaited::new(1);
        let mut forgotten = Vec::new();
        for sequence in 0..100 {
            forgotten.extend(awaited.sent(times(sequence)));
            if sequence % 10 != 0 {
                assert_eq!(awaited.arrived(sequence), Arrival::InOrder(times(sequence)));
            }
        }
        assert_eq!(awaited.missing(), 10);
        assert_eq!(awaited.arrived(0), Arrival::Again);
        // All of them are told of, at the latest at the end.
        forgotten.extend(awaited.unanswered());
        assert_eq!(forgotten, (0..100).step_by(10).map(times).collect::<Vec<_>>());
    }

    #[test]
    fn giving_up_frees_the_flight_and_still_takes_what_comes() {
        let mut awaited = awaiting(2);
        awaited.give_up();
        assert_eq!((awaited.in_flight(), awaited.missing(), awaited.oldest()), (0, 2, None));
        awaited.sent(times(2));
        assert_eq!((awaited.in_flight(), awaited.oldest()), (1, Some(times(2))));
        assert_eq!(awaited.arrived(1), Arrival::InOrder(times(1)));
        assert_eq!((awaited.in_flight(), awaited.missing()), (1, 2));
        assert_eq!(awaited.arrived(2), Arrival::InOrder(times(2)));
        assert_eq!((awaited.in_flight(), awaited.missing()), (0, 1));
    }

    #[test]
    fn a_stream_tells_gaps_late_ones_and_repeats() {
        let mut stream = Stream::default();
        assert_eq!(stream.arrived(0), Place::InOrder);
        assert_eq!(stream.arrived(3), Place::InOrder);
        assert_eq!((stream.gaps(), stream.skipped()), (1, 2));
        assert_eq!(stream.arrived(1), Place::Late);
        assert_eq!(stream.arrived(1), Place::Again);
        assert_eq!(stream.arrived(3), Place::Again);
        assert_eq!((stream.gaps(), stream.skipped(), stream.missing(10)), (1, 1, 7));
    }

    #[test]
    fn a_stream_remembers_sixty_four() {
        let mut stream = Stream::default();
        assert_eq!(stream.arrived(200), Place::InOrder);
        assert_eq!(stream.arrived(199), Place::Late);
        assert_eq!(stream.arrived(137), Place::Late);
        assert_eq!(stream.arrived(136), Place::Again, "too long ago to tell");
        for sequence in 201..264 {
            assert_eq!(stream.arrived(sequence), Place::InOrder);
        }
        assert_eq!(stream.arrived(200), Place::Again);
        assert_eq!(stream.arrived(199), Place::Again);
    }
}
