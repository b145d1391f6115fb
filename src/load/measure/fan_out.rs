//! The fan-out tracker: how far each broadcast message has been delivered, over all threads of the generator.
//!
//! One shared slot per message counts its deliveries. Delivery 1 is the first, the middle one the median, and the one
//! that completes the topic the last, so no latencies have to be stored. The slot also holds the message's position in
//! the order of its topic, see [`order`](super::order). This is the only memory that several threads write: one atomic
//! addition per delivery and, if a topic has several publishers, one read of the same cache line.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::measure::times::Times;
use crate::plan::Workload;

/// Maximum slots of all publishers together, unless the depth requires more.
const SLOTS_TOTAL: usize = 64 * 1024;
/// Minimum slots of one publisher. A message that is this far behind its publisher's latest is no longer tracked and
/// never counts as delivered to all.
const SLOTS_MIN: usize = 256;
/// Bits of a slot that count arrivals; the others hold the sequence.
const COUNT_BITS: u32 = 24;
/// Bits of a slot that hold a position; the others count rounds of the ring.
const PLACE_BITS: u32 = 48;

/// Milestones that a delivery reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Milestones {
    /// The first.
    pub first: bool,
    /// The middle one, the lower of two.
    pub median: bool,
    /// The one that completes the delivery to all subscribers.
    pub last: bool,
}

/// The fan-out tracker, shared by the threads of one broadcast run.
#[derive(Debug)]
pub(crate) struct FanOutTracker {
    publishers: Vec<Publisher>,
    /// Open subscribers by topic.
    subscribers: Vec<AtomicU32>,
    /// Positions assigned so far, by topic.
    places: Vec<AtomicU64>,
}

#[derive(Debug)]
struct Publisher {
    topic: usize,
    published: AtomicU64,
    /// A ring by sequence.
    slots: Vec<Slot>,
}

/// One message, in one cache line.
#[derive(Debug, Default)]
#[repr(align(32))]
struct Slot {
    /// `(sequence + 1) << COUNT_BITS | arrivals`
    arrivals: AtomicU64,
    /// `(rounds of the ring + 1) << PLACE_BITS | position`; 0 while no message of this slot has a position.
    place: AtomicU64,
    /// When the message was due, and when it was sent.
    intended: AtomicU64,
    sent: AtomicU64,
}

impl Publisher {
    #[inline]
    fn slot(&self, sequence: u64) -> &Slot {
        &self.slots[sequence as usize & (self.slots.len() - 1)]
    }

    /// Rounds of the ring at `sequence`, counted from 1, truncated to the bits of a slot.
    #[inline]
    fn round(&self, sequence: u64) -> u16 {
        ((sequence >> self.slots.len().trailing_zeros()) + 1) as u16
    }
}

impl FanOutTracker {
    /// For a workload in broadcast mode; `depth` is the number of messages that a publisher keeps in flight.
    pub fn new(load: &Workload, depth: u32) -> FanOutTracker {
        let share = SLOTS_TOTAL / load.publishers.max(1) as usize;
        let slots = share.clamp(SLOTS_MIN, 4_096).max(2 * depth as usize).next_power_of_two();
        FanOutTracker {
            publishers: (0..load.publishers)
                .map(|number| Publisher {
                    topic: load.topic(number) as usize,
                    published: AtomicU64::new(0),
                    slots: (0..slots).map(|_| Slot::default()).collect(),
                })
                .collect(),
            subscribers: (0..load.topics).map(|_| AtomicU32::new(0)).collect(),
            places: (0..load.topics).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A subscriber of `topic` opened.
    pub fn joined(&self, topic: u32) {
        self.subscribers[topic as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A subscriber of `topic` is gone.
    pub fn left(&self, topic: u32) {
        self.subscribers[topic as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Open subscribers of `topic`.
    pub fn subscribers(&self, topic: u32) -> u32 {
        self.subscribers[topic as usize].load(Ordering::Relaxed)
    }

    /// A publisher queues `sequence`, which is sent after this call.
    #[inline]
    pub fn publish(&self, publisher: u32, sequence: u64, times: Times) {
        let publisher = &self.publishers[publisher as usize];
        let slot = publisher.slot(sequence);
        // Cleared first, so that no reader mistakes these times for those of the slot's previous message.
        slot.arrivals.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        slot.intended.store(times.intended, Ordering::Relaxed);
        slot.sent.store(times.sent, Ordering::Relaxed);
        slot.arrivals.store((sequence + 1) << COUNT_BITS, Ordering::Release);
        // A reader that sees this count sees the slot.
        publisher.published.store(sequence + 1, Ordering::Release);
    }

    /// A message of a publisher of another generator arrived, which was due and sent at `times`. Its first arrival here makes room for
    /// its other arrivals.
    #[inline]
    pub fn observe(&self, publisher: u32, sequence: u64, times: Times) {
        let publisher = &self.publishers[publisher as usize];
        let slot = publisher.slot(sequence);
        let seen = slot.arrivals.load(Ordering::Acquire);
        if seen >> COUNT_BITS > sequence {
            return;
        }
        // Of two threads that observe one message, both write the same times.
        slot.intended.store(times.intended, Ordering::Relaxed);
        slot.sent.store(times.sent, Ordering::Relaxed);
        let fresh = (sequence + 1) << COUNT_BITS;
        let _ = slot.arrivals.compare_exchange(seen, fresh, Ordering::AcqRel, Ordering::Relaxed);
        publisher.published.fetch_max(sequence + 1, Ordering::AcqRel);
    }

    /// Number of all published messages, by each publisher of any generator.
    pub fn conclude(&self, published: &[u64]) {
        for (publisher, published) in self.publishers.iter().zip(published) {
            publisher.published.fetch_max(*published, Ordering::AcqRel);
        }
    }

    /// When a message was due and sent. `None` if the message is too far behind its publisher's latest.
    pub fn times(&self, publisher: u32, sequence: u64) -> Option<Times> {
        let slot = self.publishers[publisher as usize].slot(sequence);
        let is_its_own = || slot.arrivals.load(Ordering::Acquire) >> COUNT_BITS == sequence + 1;
        if !is_its_own() {
            return None;
        }
        let (intended, sent) = (slot.intended.load(Ordering::Relaxed), slot.sent.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        is_its_own().then_some(Times { intended, sent })
    }

    /// Whether a message has reached a subscriber, if it is still tracked.
    pub(crate) fn has_reached_some(&self, publisher: u32, sequence: u64) -> bool {
        let seen = self.publishers[publisher as usize].slot(sequence).arrivals.load(Ordering::Relaxed);
        seen >> COUNT_BITS == sequence + 1 && seen & ((1 << COUNT_BITS) - 1) > 0
    }

    /// Messages that a publisher has sent.
    pub fn published(&self, publisher: u32) -> u64 {
        self.publishers[publisher as usize].published.load(Ordering::Acquire)
    }

    /// Calls `tell` with the times of a publisher's messages from `from` on, each with the number of messages it stands
    /// for. Messages that are no longer tracked get the times of the oldest tracked one. While somebody publishes,
    /// messages that are about to leave the tracker may get later times.
    pub fn behind(&self, publisher: u32, from: u64, mut tell: impl FnMut(Times, u64)) {
        let publisher = &self.publishers[publisher as usize];
        let published = publisher.published.load(Ordering::Acquire);
        let known = from.max(published.saturating_sub(publisher.slots.len() as u64));
        let mut times = Times::default();
        for sequence in known..published {
            let slot = publisher.slot(sequence);
            // Of a message of another generator that arrived nowhere here, only those before it are known.
            if slot.arrivals.load(Ordering::Acquire) >> COUNT_BITS == sequence + 1 || sequence == known {
                let (intended, sent) = (&slot.intended, &slot.sent);
                times =
                    Times { intended: intended.load(Ordering::Relaxed), sent: sent.load(Ordering::Relaxed) };
            }
            tell(times, if sequence == known { 1 + known - from } else { 1 });
        }
    }

    /// A subscriber received a message for the first time.
    #[inline]
    pub fn arrived(&self, publisher: u32, sequence: u64) -> Milestones {
        let publisher = &self.publishers[publisher as usize];
        let slot = &publisher.slot(sequence).arrivals;
        let mut seen = slot.load(Ordering::Relaxed);
        loop {
            if seen >> COUNT_BITS != sequence + 1 {
                return Milestones::default();
            }
            match slot.compare_exchange_weak(seen, seen + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        let arrival = (seen & ((1 << COUNT_BITS) - 1)) as u32 + 1;
        let all = self.subscribers[publisher.topic].load(Ordering::Relaxed);
        Milestones { first: arrival == 1, median: arrival == all.div_ceil(2), last: arrival == all }
    }

    /// The topic of a publisher.
    pub fn topic(&self, publisher: u32) -> u32 {
        self.publishers[publisher as usize].topic as u32
    }

    /// The position of a message in the order of its topic, from 1. The first subscriber that asks assigns it;
    /// subscribers ask for each received message in the order of arrival. `None` if the message is too far behind its
    /// publisher's latest. Some positions stay unused when two threads assign at once.
    #[inline]
    pub fn place(&self, publisher: u32, sequence: u64) -> Option<u64> {
        let publisher = &self.publishers[publisher as usize];
        let slot = &publisher.slot(sequence).place;
        let round = publisher.round(sequence);
        // Acquire and Release: a thread that sees a position here takes later ones from the counter.
        let mut seen = slot.load(Ordering::Acquire);
        loop {
            match SlotPosition::of(seen, round) {
                SlotPosition::At(place) => return Some(place),
                SlotPosition::Overtaken => return None,
                SlotPosition::Unassigned => {}
            }
            let place = self.places[publisher.topic].fetch_add(1, Ordering::Relaxed) + 1;
            let given = u64::from(round) << PLACE_BITS | place;
            match slot.compare_exchange(seen, given, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(place),
                Err(now) => seen = now,
            }
        }
    }
}

/// The position in a slot, for one message.
enum SlotPosition {
    At(u64),
    /// Not assigned yet.
    Unassigned,
    /// The slot belongs to a later message.
    Overtaken,
}

impl SlotPosition {
    /// For a message of this round.
    #[inline]
    fn of(seen: u64, round: u16) -> SlotPosition {
        // The order of rounds is known while they are less than half of all values apart.
        match round.wrapping_sub((seen >> PLACE_BITS) as u16) as i16 {
            0 if seen != 0 => SlotPosition::At(seen & ((1 << PLACE_BITS) - 1)),
            ..0 => SlotPosition::Overtaken,
            _ => SlotPosition::Unassigned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::mode::Mode;
    use crate::plan::workload::tests::workload;

    const NEVER: Times = Times { intended: 0, sent: 0 };

    fn fan_out(subscribers: u32) -> FanOutTracker {
        let fan_out = FanOutTracker::new(&workload(Mode::Broadcast), 1);
        for _ in 0..subscribers {
            fan_out.joined(1);
        }
        fan_out
    }

    #[test]
    fn milestones_follow_from_the_number_of_deliveries() {
        let fan_out = fan_out(4);
        fan_out.publish(1, 0, NEVER);
        let arrivals: Vec<Milestones> = (0..4).map(|_| fan_out.arrived(1, 0)).collect();
        let none = Milestones::default();
        assert_eq!(arrivals[0], Milestones { first: true, ..none });
        assert_eq!(arrivals[1], Milestones { median: true, ..none });
        assert_eq!(arrivals[2], none);
        assert_eq!(arrivals[3], Milestones { last: true, ..none });
        assert_eq!(fan_out.published(1), 1);
    }

    #[test]
    fn one_subscriber_is_first_median_and_last() {
        let fan_out = fan_out(1);
        fan_out.publish(1, 7, NEVER);
        assert_eq!(fan_out.arrived(1, 7), Milestones { first: true, median: true, last: true });
    }

    #[test]
    fn a_subscriber_that_left_is_not_waited_for() {
        let fan_out = fan_out(3);
        fan_out.publish(1, 0, NEVER);
        fan_out.left(1);
        fan_out.arrived(1, 0);
        assert!(fan_out.arrived(1, 0).last);
    }

    #[test]
    fn a_message_that_was_overtaken_counts_no_further() {
        let fan_out = fan_out(2);
        let slots = fan_out.publishers[1].slots.len() as u64;
        fan_out.publish(1, 3, NEVER);
        fan_out.arrived(1, 3);
        fan_out.publish(1, 3 + slots, NEVER);
        assert_eq!(fan_out.arrived(1, 3), Milestones::default());
        assert!(fan_out.arrived(1, 3 + slots).first);
    }

    #[test]
    fn missed_messages_are_reported_with_their_times() {
        let fan_out = fan_out(1);
        let slots = fan_out.publishers[1].slots.len() as u64;
        let times = |sequence| Times { intended: 10 * sequence, sent: 10 * sequence + 1 };
        let behind = |from| {
            let mut text = Vec::new();
            fan_out.behind(1, from, |times, copies| text.push((times, copies)));
            text
        };
        assert_eq!(behind(0), []);
        for sequence in 0..slots + 5 {
            fan_out.publish(1, sequence, times(sequence));
        }
        assert_eq!(behind(slots + 3), [(times(slots + 3), 1), (times(slots + 4), 1)]);
        let all = behind(2);
        assert_eq!(all[0], (times(5), 4), "2, 3 and 4 are no longer tracked");
        assert_eq!(all.iter().map(|(_, copies)| copies).sum::<u64>(), slots + 3);
    }

    #[test]
    fn the_times_of_a_message_are_known_until_its_slot_is_reused() {
        let fan_out = fan_out(2);
        let slots = fan_out.publishers[1].slots.len() as u64;
        let times = Times { intended: 5, sent: 6 };
        assert_eq!(fan_out.times(1, 3), None);
        fan_out.publish(1, 3, times);
        assert_eq!((fan_out.times(1, 3), fan_out.has_reached_some(1, 3)), (Some(times), false));
        fan_out.arrived(1, 3);
        assert_eq!((fan_out.times(1, 3), fan_out.has_reached_some(1, 3)), (Some(times), true));
        fan_out.publish(1, 3 + slots, NEVER);
        assert_eq!((fan_out.times(1, 3), fan_out.has_reached_some(1, 3)), (None, false));
    }

    #[test]
    fn a_message_keeps_the_position_that_was_assigned_first() {
        let fan_out = fan_out(2);
        assert_eq!(
            [fan_out.place(1, 0), fan_out.place(1, 2), fan_out.place(1, 1)],
            [Some(1), Some(2), Some(3)]
        );
        assert_eq!([fan_out.place(1, 1), fan_out.place(1, 0)], [Some(3), Some(1)]);
        // Publishers 0 and 2 share another topic.
        assert_eq!(
            [fan_out.place(0, 0), fan_out.place(2, 0), fan_out.place(0, 1)],
            [Some(1), Some(2), Some(3)]
        );
    }

    #[test]
    fn a_message_whose_slot_was_reused_gets_no_position() {
        let fan_out = fan_out(2);
        let slots = fan_out.publishers[1].slots.len() as u64;
        assert_eq!(fan_out.place(1, 3 + slots), Some(1));
        assert_eq!(fan_out.place(1, 3), None);
        // Far enough for the rounds to wrap around repeatedly.
        for round in (2..200_000).step_by(7_001) {
            let place = fan_out.place(1, 3 + round * slots);
            assert!(place.is_some_and(|place| fan_out.place(1, 3 + round * slots) == Some(place)), "{round}");
            assert_eq!(fan_out.place(1, 3 + (round - 1) * slots), None, "{round}");
        }
    }

    #[test]
    fn concurrent_threads_assign_one_position_per_message_in_order() {
        let fan_out = fan_out(4);
        let places: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let asking = || (0..40_000).map(|sequence| fan_out.place(1, sequence % 200)).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(asking)).collect();
            let joined = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            joined.map(|places| places.into_iter().map(|place| place.expect("near")).collect()).collect()
        });
        assert!(places.iter().all(|theirs| *theirs == places[0]), "all see the same");
        assert!(places[0][..200].is_sorted(), "and each in the order in which it was asked");
    }

    #[test]
    fn concurrent_threads_find_one_first_one_median_and_one_last() {
        let fan_out = fan_out(400);
        for sequence in 0..50 {
            fan_out.publish(1, sequence, NEVER);
            let counts: Vec<[u32; 3]> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            let mut counts = [0; 3];
                            for _ in 0..100 {
                                let at = fan_out.arrived(1, sequence);
                                counts[0] += u32::from(at.first);
                                counts[1] += u32::from(at.median);
                                counts[2] += u32::from(at.last);
                            }
                            counts
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            });
            for milestone in 0..3 {
                assert_eq!(counts.iter().map(|counts| counts[milestone]).sum::<u32>(), 1);
            }
        }
    }
}
