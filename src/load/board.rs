//! How far each broadcast message has got, over all threads of the generator.
//!
//! A message's arrivals are counted in one shared slot, so that its first, median and last delivery and the
//! moment at which everybody has it are known without keeping latencies: they are the arrivals with those
//! numbers. Beside them lies the place that the message has in the order of its topic, see [`order`](super::order).
//! This is the only memory that the threads write together: one atomic addition per delivery and, where a topic has
//! several publishers, one look at the same cache line.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::plan::Workload;
use super::track::Times;

/// Slots of all publishers together, at most and where the depth asks for no more.
const SLOTS_TOTAL: usize = 64 * 1024;
/// Slots of one publisher, at least. A message that is so many behind its publisher's latest is not counted
/// any further, and so never reaches everybody.
const SLOTS_MIN: usize = 256;
/// Bits of a slot that count arrivals; the others hold the sequence.
const COUNT_BITS: u32 = 24;
/// Bits of a slot that hold a place; the others count how often the ring has gone round.
const PLACE_BITS: u32 = 48;

/// Which arrival of its message one was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Milestones {
    /// The first.
    pub first: bool,
    /// The middle one (the lower of two).
    pub median: bool,
    /// The one after which everybody has it.
    pub last: bool,
}

/// Shared by the threads of one broadcast run.
#[derive(Debug)]
pub struct Board {
    publishers: Vec<Publisher>,
    /// Open subscribers by topic.
    subscribers: Vec<AtomicU32>,
    /// Places given so far, by topic.
    places: Vec<AtomicU64>,
}

#[derive(Debug)]
struct Publisher {
    topic: usize,
    published: AtomicU64,
    /// A ring by sequence.
    slots: Vec<Slot>,
}

/// What is known of one message. All of it lies in one cache line.
#[derive(Debug, Default)]
#[repr(align(32))]
struct Slot {
    /// `(sequence + 1) << COUNT_BITS | arrivals`
    arrivals: AtomicU64,
    /// `(rounds of the ring + 1) << PLACE_BITS | place`; 0 when no message of this slot has had a place.
    place: AtomicU64,
    /// When it should have left, and when it did.
    intended: AtomicU64,
    sent: AtomicU64,
}

impl Publisher {
    #[inline]
    fn slot(&self, sequence: u64) -> &Slot {
        &self.slots[sequence as usize & (self.slots.len() - 1)]
    }

    /// How often the ring has gone round at `sequence`, counted from 1 and cut to what a slot holds.
    #[inline]
    fn round(&self, sequence: u64) -> u16 {
        ((sequence >> self.slots.len().trailing_zeros()) + 1) as u16
    }
}

impl Board {
    /// For a workload in broadcast mode, `depth` messages of a publisher under way.
    pub fn new(load: &Workload, depth: u32) -> Board {
        let share = SLOTS_TOTAL / load.publishers.max(1) as usize;
        let slots = share.clamp(SLOTS_MIN, 4_096).max(2 * depth as usize).next_power_of_two();
        Board {
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

    /// A subscriber of `topic` is there.
    pub fn joined(&self, topic: u32) {
        self.subscribers[topic as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// It is gone.
    pub fn left(&self, topic: u32) {
        self.subscribers[topic as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Subscribers of `topic` now.
    pub fn subscribers(&self, topic: u32) -> u32 {
        self.subscribers[topic as usize].load(Ordering::Relaxed)
    }

    /// The publisher `publisher` has queued `sequence`; it leaves later than this is called.
    #[inline]
    pub fn publish(&self, publisher: u32, sequence: u64, times: Times) {
        let publisher = &self.publishers[publisher as usize];
        let slot = publisher.slot(sequence);
        // Nobody takes these times for those of the message that had the slot before.
        slot.arrivals.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        slot.intended.store(times.intended, Ordering::Relaxed);
        slot.sent.store(times.sent, Ordering::Relaxed);
        slot.arrivals.store((sequence + 1) << COUNT_BITS, Ordering::Release);
        // Whoever reads this count sees the slot.
        publisher.published.store(sequence + 1, Ordering::Release);
    }

    /// When a message should have left and did. `None` when the message is too far behind its publisher's latest.
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

    /// Whether a message has reached some subscriber, as far as it is remembered.
    pub fn has_reached_some(&self, publisher: u32, sequence: u64) -> bool {
        let seen = self.publishers[publisher as usize].slot(sequence).arrivals.load(Ordering::Relaxed);
        seen >> COUNT_BITS == sequence + 1 && seen & ((1 << COUNT_BITS) - 1) > 0
    }

    /// Messages that a publisher has sent.
    pub fn published(&self, publisher: u32) -> u64 {
        self.publishers[publisher as usize].published.load(Ordering::Acquire)
    }

    /// Tells the times of a publisher's messages from `from` on, each with how many it stands for, when nobody publishes any
    /// more. Those that are remembered no longer are told with the times of the first that is.
    pub fn behind(&self, publisher: u32, from: u64, mut tell: impl FnMut(Times, u64)) {
        let publisher = &self.publishers[publisher as usize];
        let published = publisher.published.load(Ordering::Acquire);
        let known = from.max(published.saturating_sub(publisher.slots.len() as u64));
        for sequence in known..published {
            let slot = publisher.slot(sequence);
            let (intended, sent) = (&slot.intended, &slot.sent);
            let times =
                Times { intended: intended.load(Ordering::Relaxed), sent: sent.load(Ordering::Relaxed) };
            tell(times, if sequence == known { 1 + known - from } else { 1 });
        }
    }

    /// A subscriber got a message it had not got before.
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

    /// The place of a message in the order of its topic, counted from 1. Whoever asks first gives it: a subscriber
    /// that has just received the message, and has asked for all that it received before. `None` when the message is
    /// too far behind its publisher's latest.
    ///
    /// Some places stay empty, where two asked at once.
    #[inline]
    pub fn place(&self, publisher: u32, sequence: u64) -> Option<u64> {
        let publisher = &self.publishers[publisher as usize];
        let slot = &publisher.slot(sequence).place;
        let round = publisher.round(sequence);
        // Acquire and Release: who sees a place here takes any further one from the counter after it.
        let mut seen = slot.load(Ordering::Acquire);
        loop {
            match Placed::of(seen, round) {
                Placed::At(place) => return Some(place),
                Placed::Overtaken => return None,
                Placed::Nowhere => {}
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

/// What a slot says of a message's place.
enum Placed {
    At(u64),
    /// It has none yet.
    Nowhere,
    /// The slot is a later message's.
    Overtaken,
}

impl Placed {
    /// For a message of this round.
    #[inline]
    fn of(seen: u64, round: u16) -> Placed {
        // Rounds are told apart as long as they are less than half of all apart.
        match round.wrapping_sub((seen >> PLACE_BITS) as u16) as i16 {
            0 if seen != 0 => Placed::At(seen & ((1 << PLACE_BITS) - 1)),
            ..0 => Placed::Overtaken,
            _ => Placed::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::{Mode, tests::workload};

    const NEVER: Times = Times { intended: 0, sent: 0 };

    fn board(subscribers: u32) -> Board {
        let board = Board::new(&workload(Mode::Broadcast), 1);
        for _ in 0..subscribers {
            board.joined(1);
        }
        board
    }

    #[test]
    fn arrivals_are_told_apart_by_their_number() {
        let board = board(4);
        board.publish(1, 0, NEVER);
        let arrivals: Vec<Milestones> = (0..4).map(|_| board.arrived(1, 0)).collect();
        let none = Milestones::default();
        assert_eq!(arrivals[0], Milestones { first: true, ..none });
        assert_eq!(arrivals[1], Milestones { median: true, ..none });
        assert_eq!(arrivals[2], none);
        assert_eq!(arrivals[3], Milestones { last: true, ..none });
        assert_eq!(board.published(1), 1);
    }

    #[test]
    fn one_subscriber_is_first_median_and_last() {
        let board = board(1);
        board.publish(1, 7, NEVER);
        assert_eq!(board.arrived(1, 7), Milestones { first: true, median: true, last: true });
    }

    #[test]
    fn a_subscriber_that_left_is_not_waited_for() {
        let board = board(3);
        board.publish(1, 0, NEVER);
        board.left(1);
        board.arrived(1, 0);
        assert!(board.arrived(1, 0).last);
    }

    #[test]
    fn a_message_that_was_overtaken_counts_no_further() {
        let board = board(2);
        let slots = board.publishers[1].slots.len() as u64;
        board.publish(1, 3, NEVER);
        board.arrived(1, 3);
        board.publish(1, 3 + slots, NEVER);
        assert_eq!(board.arrived(1, 3), Milestones::default());
        assert!(board.arrived(1, 3 + slots).first);
    }

    #[test]
    fn what_a_subscriber_is_behind_is_told_with_its_times() {
        let board = board(1);
        let slots = board.publishers[1].slots.len() as u64;
        let times = |sequence| Times { intended: 10 * sequence, sent: 10 * sequence + 1 };
        let behind = |from| {
            let mut told = Vec::new();
            board.behind(1, from, |times, copies| told.push((times, copies)));
            told
        };
        assert_eq!(behind(0), []);
        for sequence in 0..slots + 5 {
            board.publish(1, sequence, times(sequence));
        }
        assert_eq!(behind(slots + 3), [(times(slots + 3), 1), (times(slots + 4), 1)]);
        let all = behind(2);
        assert_eq!(all[0], (times(5), 4), "2, 3 and 4 are remembered no longer");
        assert_eq!(all.iter().map(|(_, copies)| copies).sum::<u64>(), slots + 3);
    }

    #[test]
    fn the_times_of_a_message_are_known_until_it_is_overtaken() {
        let board = board(2);
        let slots = board.publishers[1].slots.len() as u64;
        let times = Times { intended: 5, sent: 6 };
        assert_eq!(board.times(1, 3), None);
        board.publish(1, 3, times);
        assert_eq!((board.times(1, 3), board.has_reached_some(1, 3)), (Some(times), false));
        board.arrived(1, 3);
        assert_eq!((board.times(1, 3), board.has_reached_some(1, 3)), (Some(times), true));
        board.publish(1, 3 + slots, NEVER);
        assert_eq!((board.times(1, 3), board.has_reached_some(1, 3)), (None, false));
    }

    #[test]
    fn a_message_keeps_the_place_that_the_first_who_asked_gave_it() {
        let board = board(2);
        assert_eq!([board.place(1, 0), board.place(1, 2), board.place(1, 1)], [Some(1), Some(2), Some(3)]);
        assert_eq!([board.place(1, 1), board.place(1, 0)], [Some(3), Some(1)]);
        // Publishers 0 and 2 share another topic.
        assert_eq!([board.place(0, 0), board.place(2, 0), board.place(0, 1)], [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn a_message_that_was_overtaken_has_no_place_and_takes_none() {
        let board = board(2);
        let slots = board.publishers[1].slots.len() as u64;
        assert_eq!(board.place(1, 3 + slots), Some(1));
        assert_eq!(board.place(1, 3), None);
        // Far enough for the rounds to begin anew, over and over.
        for round in (2..200_000).step_by(7_001) {
            let place = board.place(1, 3 + round * slots);
            assert!(place.is_some_and(|place| board.place(1, 3 + round * slots) == Some(place)), "{round}");
            assert_eq!(board.place(1, 3 + (round - 1) * slots), None, "{round}");
        }
    }

    #[test]
    fn threads_together_give_each_message_one_place_and_keep_its_order() {
        let board = board(4);
        let places: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let asking = || (0..40_000).map(|sequence| board.place(1, sequence % 200)).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(asking)).collect();
            let joined = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            joined.map(|places| places.into_iter().map(|place| place.expect("near")).collect()).collect()
        });
        assert!(places.iter().all(|theirs| *theirs == places[0]), "all see the same");
        assert!(places[0][..200].is_sorted(), "and each in the order in which it was asked");
    }

    #[test]
    fn threads_together_find_one_first_one_median_and_one_last() {
        let board = board(400);
        for sequence in 0..50 {
            board.publish(1, sequence, NEVER);
            let counts: Vec<[u32; 3]> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            let mut counts = [0; 3];
                            for _ in 0..100 {
                                let at = board.arrived(1, sequence);
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
