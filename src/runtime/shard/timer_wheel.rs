//! A timer wheel with lazy cancellation: one entry per connection, checked when its slot is due.

use crate::driver::Token;
use crate::limits::TIMER_TICK;
use echoring_proto::limits::Nanos;

/// Slots of the wheel. With ticks of 32 ms it reaches 65 s, beyond every default deadline; a later one is inserted
/// again after a turn of the wheel.
const SLOTS: usize = 2048;

/// Deadlines by timer tick. An entry is never removed early: its owner remembers the tick that it armed last and
/// ignores the others. A deadline that moves later keeps its entry and is checked too early, which costs one comparison
/// per connection and ping interval.
#[derive(Debug)]
pub(super) struct TimerWheel {
    slots: Vec<Vec<Token>>,
    /// The first tick that has not been expired.
    current: u64,
    /// No entry lies before this tick.
    earliest: u64,
    entries: usize,
}

impl TimerWheel {
    pub(super) fn new(now: Nanos) -> TimerWheel {
        let current = now / TIMER_TICK;
        TimerWheel { slots: vec![Vec::new(); SLOTS], current, earliest: u64::MAX, entries: 0 }
    }

    /// Arms an entry that expires not before `deadline`. Returns its tick, of which 32 bits identify the entry, because
    /// the wheel reaches 2^11 ticks.
    pub(super) fn arm(&mut self, token: Token, deadline: Nanos) -> u32 {
        let tick = deadline.div_ceil(TIMER_TICK).clamp(self.current, self.current + SLOTS as u64 - 1);
        self.slots[tick as usize % SLOTS].push(token);
        self.earliest = self.earliest.min(tick);
        self.entries += 1;
        tick as u32
    }

    /// Whether an entry that was armed at `tick` expires by `deadline`.
    pub(super) fn is_before(&self, tick: u32, deadline: Nanos) -> bool {
        let ahead = u64::from(tick.wrapping_sub(self.current as u32));
        (self.current + ahead) * TIMER_TICK <= deadline
    }

    /// When [`expire`](TimerWheel::expire) must be called next.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        (self.entries > 0).then(|| self.earliest.max(self.current) * TIMER_TICK)
    }

    /// Whether [`expire`](TimerWheel::expire) has something to do.
    #[inline]
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        self.earliest <= now / TIMER_TICK
    }

    /// Moves the entries that are due at `now` to `due`, each with its tick.
    pub(super) fn expire(&mut self, now: Nanos, due: &mut Vec<(Token, u32)>) {
        if !self.is_due(now) {
            return;
        }
        let last = now / TIMER_TICK;
        let mut tick = self.earliest.max(self.current);
        while tick <= last && self.entries > 0 {
            let slot = &mut self.slots[tick as usize % SLOTS];
            self.entries -= slot.len();
            due.extend(slot.drain(..).map(|token| (token, tick as u32)));
            // A slot that once held very many connections releases its memory.
            slot.shrink_to(16);
            tick += 1;
        }
        self.current = self.current.max(last + 1);
        self.earliest = self.next_from(tick.max(self.current));
    }

    fn next_from(&self, from: u64) -> u64 {
        if self.entries == 0 {
            return u64::MAX;
        }
        (from..from + SLOTS as u64)
            .find(|tick| !self.slots[*tick as usize % SLOTS].is_empty())
            .unwrap_or(u64::MAX)
    }
}

/// The earlier of two deadlines.
#[inline]
pub fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(index: u32) -> Token {
        Token { index, generation: 0 }
    }

    #[test]
    fn entries_come_up_in_order_and_never_early() {
        let mut wheel = TimerWheel::new(1_000 * TIMER_TICK);
        let late = wheel.arm(token(2), 1_010 * TIMER_TICK + 1);
        let early = wheel.arm(token(1), 1_005 * TIMER_TICK);
        assert_eq!((early, late), (1_005, 1_011));
        let mut due = Vec::new();
        wheel.expire(1_005 * TIMER_TICK - 1, &mut due);
        assert!(due.is_empty());
        assert_eq!(wheel.deadline(), Some(1_005 * TIMER_TICK));
        wheel.expire(1_006 * TIMER_TICK, &mut due);
        assert_eq!(due, [(token(1), 1_005)]);
        assert_eq!(wheel.deadline(), Some(1_011 * TIMER_TICK));
        wheel.expire(2_000 * TIMER_TICK, &mut due);
        assert_eq!(due[1..], [(token(2), 1_011)]);
        assert_eq!(wheel.deadline(), None);
    }

    #[test]
    fn a_deadline_past_the_horizon_comes_up_within_it() {
        let mut wheel = TimerWheel::new(0);
        let tick = wheel.arm(token(1), 10_000_000 * TIMER_TICK);
        assert_eq!(tick, SLOTS as u32 - 1);
        let mut due = Vec::new();
        wheel.expire((SLOTS as u64) * TIMER_TICK, &mut due);
        assert_eq!(due, [(token(1), tick)]);
    }

    #[test]
    fn a_long_sleep_loses_no_entry() {
        let mut wheel = TimerWheel::new(0);
        for index in 0..500 {
            wheel.arm(token(index), u64::from(index) * 7 * TIMER_TICK / 3);
        }
        let mut due = Vec::new();
        wheel.expire(100_000 * TIMER_TICK, &mut due);
        assert_eq!(due.len(), 500);
        assert!(due.is_sorted_by_key(|(_, tick)| *tick));
    }
}
