//! When messages should leave, at a fixed rate: computed from their number, never from what was answered.
//!
//! The whole run is one sequence of slots, `1 / rate` apart. Connection `i` of `n` owns the slots `i`,
//! `n + i`, `2 n + i` …, so the connections are spread evenly and a stalled one keeps its slots: its messages
//! leave late and are measured from when they should have left.

use crate::limits::{Nanos, SECOND};

/// Messages a second: one for each nanosecond.
pub const RATE_MAX: u64 = 1_000_000_000;

/// The slots of a run, shared by all its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    start: Nanos,
    rate: u64,
    senders: u32,
}

impl Schedule {
    /// `rate` messages a second (1 to [`RATE_MAX`]) over `senders` connections (at least 1), from `start` on.
    pub fn new(start: Nanos, rate: u64, senders: u32) -> Schedule {
        Schedule { start, rate: rate.clamp(1, RATE_MAX), senders: senders.max(1) }
    }

    /// When the message `sequence` of sender `sender` should leave. Exact to the nanosecond over any run.
    #[inline]
    pub fn intended(&self, sender: u32, sequence: u64) -> Nanos {
        let slot = sequence * u64::from(self.senders) + u64::from(sender);
        // In two steps, so that nothing overflows: whole seconds, and the slots of the last one.
        self.start + slot / self.rate * SECOND + slot % self.rate * SECOND / self.rate
    }
}

/// Walks the slots of some senders in order of time.
#[derive(Debug)]
pub struct Cursor {
    schedule: Schedule,
    /// Sender numbers, rising.
    senders: Vec<u32>,
    position: usize,
    sequence: u64,
    next: Nanos,
}

impl Cursor {
    /// Over `senders`, whose numbers must rise. `None` when there are none.
    pub fn new(schedule: Schedule, senders: Vec<u32>) -> Option<Cursor> {
        let first = *senders.first()?;
        debug_assert!(senders.is_sorted());
        Some(Cursor { schedule, next: schedule.intended(first, 0), senders, position: 0, sequence: 0 })
    }

    /// When the next slot is.
    pub fn next(&self) -> Nanos {
        self.next
    }

    /// The next slot that is due at `now`: position of its sender in the list, and when it should have been.
    #[inline]
    pub fn due(&mut self, now: Nanos) -> Option<(usize, Nanos)> {
        if self.next > now {
            return None;
        }
        let due = (self.position, self.next);
        self.position += 1;
        if self.position == self.senders.len() {
            self.position = 0;
            self.sequence += 1;
        }
        self.next = self.schedule.intended(self.senders[self.position], self.sequence);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_even_over_all_connections() {
        let schedule = Schedule::new(5 * SECOND, 1_000, 4);
        let mut times: Vec<Nanos> = (0..4)
            .flat_map(|sender| (0..250).map(move |sequence| schedule.intended(sender, sequence)))
            .collect();
        times.sort_unstable();
        assert_eq!(times[0], 5 * SECOND);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000));
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        let schedule = Schedule::new(0, 7, 3);
        // 7 a second over 3 senders: sequence 7 of sender 0 is slot 21, exactly three seconds in.
        assert_eq!(schedule.intended(0, 7), 3 * SECOND);
        assert_eq!(schedule.intended(0, 7_000_000), 3_000_000 * SECOND);
    }

    #[test]
    fn threads_share_the_slots_without_overlap() {
        let schedule = Schedule::new(0, 10_000, 7);
        let mut all = Vec::new();
        for thread in 0..3 {
            let mine: Vec<u32> = (0..7).filter(|sender| sender % 3 == thread).collect();
            let mut cursor = Cursor::new(schedule, mine.clone()).expect("has senders");
            let mut last = 0;
            while let Some((position, at)) = cursor.due(SECOND - 1) {
                assert!(at >= last, "a cursor runs in order of time");
                last = at;
                all.push((at, mine[position]));
            }
            assert!(cursor.next() >= SECOND);
        }
        all.sort_unstable();
        assert_eq!(all.len(), 10_000);
        assert!(all.windows(2).all(|pair| pair[1].0 - pair[0].0 == 100_000));
    }

    #[test]
    fn a_late_caller_gets_every_slot_it_missed_with_its_own_time() {
        let mut cursor = Cursor::new(Schedule::new(0, 1_000, 1), vec![0]).expect("has senders");
        let missed: Vec<_> = std::iter::from_fn(|| cursor.due(3_500_000)).collect();
        assert_eq!(missed, [(0, 0), (0, 1_000_000), (0, 2_000_000), (0, 3_000_000)]);
    }

    #[test]
    fn nobody_to_send_is_no_schedule() {
        assert!(Cursor::new(Schedule::new(0, 1, 1), Vec::new()).is_none());
    }
}
