//! Causes of delays on this side: the generator's own loop, and the host that gives it no CPU.
//!
//! Between two looks at its connections (a *span*), a thread was on a CPU, runnable without one, stopped, or asleep. Only
//! the sleep delays no message: an arrival ends it. So a message that was handed over or that arrived in a span waited
//! for this side no longer than the rest of the span. When exactly it arrived is unknown, so these are upper bounds.
//!
//! Never: an allocation or a system call. Threads read each other's logs without locks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use echoring_proto::limits::Nanos;

/// How long this side may have delayed a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// The generator worked, in its own code or in the kernel, or was stopped.
    pub generator: Nanos,
    /// A thread of the generator was runnable and had no CPU.
    pub host: Nanos,
}

impl Delays {
    /// A thread's states during a span: `cpu` of it on a CPU, and `run_delay` runnable without one. It was due to
    /// wake up `overdue` before the end: the rest since then, it was stopped.
    pub(crate) fn of_span(span: Nanos, cpu: Nanos, run_delay: Nanos, overdue: Nanos) -> Delays {
        let cpu = cpu.min(span);
        let host = run_delay.min(span - cpu);
        let stopped = overdue.min(span - cpu - host);
        Delays { generator: cpu + stopped, host }
    }

    /// As much of them as fits into `time`. The host goes first: a wait for a CPU is not the generator's.
    #[inline]
    pub(crate) fn within(self, time: Nanos) -> Delays {
        let host = self.host.min(time);
        Delays { generator: self.generator.min(time - host), host }
    }

    #[inline]
    pub(crate) fn plus(self, other: Delays) -> Delays {
        Delays { generator: self.generator + other.generator, host: self.host + other.host }
    }
}

/// Length of a slot, as a power of two in nanoseconds: about a millisecond.
const SLOT_BITS: u32 = 20;
/// Slots of a log, which reach 8.6 s back. A message that was sent earlier gets the longest delays of the run.
const SLOTS: usize = 8_192;
/// Bits of a value in a slot: a quarter of an hour. The others hold the number of the slot.
const VALUE_BITS: u32 = 40;
const VALUE_MAX: u64 = (1 << VALUE_BITS) - 1;

/// The delays of one thread over time: the longest in each slot. Written by this thread only.
#[derive(Debug)]
pub(crate) struct DelayLog {
    slots: Box<[Slot]>,
    /// The end of the latest span.
    until: AtomicU64,
    longest: [AtomicU64; 2],
    latest_send: AtomicU64,
}

/// The longest delays of the spans and ticks in a slot, each behind the number of the slot.
#[derive(Debug, Default)]
struct Slot {
    generator: AtomicU64,
    host: AtomicU64,
    /// The work of a tick, which is known before the span ends.
    work: AtomicU64,
}

impl Default for DelayLog {
    fn default() -> DelayLog {
        DelayLog {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            until: AtomicU64::new(0),
            longest: [AtomicU64::new(0), AtomicU64::new(0)],
            latest_send: AtomicU64::new(0),
        }
    }
}

impl DelayLog {
    /// A span is over.
    pub(crate) fn span(&self, from: Nanos, until: Nanos, delays: Delays) {
        for (number, slot) in self.slots_of(from, until) {
            raise(&slot.generator, number, delays.generator);
            raise(&slot.host, number, delays.host);
        }
        for (longest, delay) in self.longest.iter().zip([delays.generator, delays.host]) {
            longest.store(longest.load(Relaxed).max(delay), Relaxed);
        }
        self.until.store(until, Relaxed);
    }

    /// A tick has staged its sends: it was at work from `from` to `until`.
    pub(crate) fn work(&self, from: Nanos, until: Nanos) {
        for (number, slot) in self.slots_of(from, until) {
            raise(&slot.work, number, until.saturating_sub(from));
        }
    }

    /// A message was sent with this delay.
    #[inline]
    pub(crate) fn sent_late(&self, lateness: Nanos) {
        if lateness > self.latest_send.load(Relaxed) {
            self.latest_send.store(lateness, Relaxed);
        }
    }

    /// The highest lateness of a message so far.
    #[inline]
    pub(crate) fn lateness_max(&self) -> Nanos {
        self.latest_send.load(Relaxed)
    }

    /// The delays around a time.
    #[inline]
    pub(crate) fn at(&self, at: Nanos) -> Delays {
        let number = at >> SLOT_BITS;
        let slot = &self.slots[number as usize % SLOTS];
        if at >= self.until.load(Relaxed) {
            // The span is not over at its thread.
            return Delays { generator: value(&slot.work, number).unwrap_or(0), host: 0 };
        }
        match (value(&slot.generator, number), value(&slot.host, number)) {
            (Some(generator), Some(host)) => Delays { generator, host },
            _ => {
                let [generator, host] = [0, 1].map(|at| self.longest[at].load(Relaxed));
                Delays { generator, host }
            }
        }
    }

    fn slots_of(&self, from: Nanos, until: Nanos) -> impl Iterator<Item = (u64, &Slot)> {
        let last = until >> SLOT_BITS;
        let first = (from >> SLOT_BITS).max((last + 1).saturating_sub(SLOTS as u64));
        (first..=last).map(|number| (number, &self.slots[number as usize % SLOTS]))
    }
}

/// Raises the value of a slot, or begins it.
fn raise(entry: &AtomicU64, number: u64, delay: Nanos) {
    let delay = delay.min(VALUE_MAX).max(value(entry, number).unwrap_or(0));
    entry.store(number << VALUE_BITS | delay, Relaxed);
}

/// The value of a slot, unless it is that of another time.
#[inline]
fn value(entry: &AtomicU64, number: u64) -> Option<Nanos> {
    let entry = entry.load(Relaxed);
    (entry >> VALUE_BITS == number << VALUE_BITS >> VALUE_BITS).then_some(entry & VALUE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::limits::{MILLISECOND, SECOND};

    const MICROSECOND: Nanos = 1_000;

    #[test]
    fn a_span_without_sleep_is_all_delay_and_sleep_is_none() {
        let of = |cpu, run_delay, overdue| Delays::of_span(1_000, cpu, run_delay, overdue);
        assert_eq!(of(1_000, 0, 0), Delays { generator: 1_000, host: 0 });
        assert_eq!(of(100, 0, 0), Delays { generator: 100, host: 0 }, "it slept");
        assert_eq!(of(100, 700, 0), Delays { generator: 100, host: 700 });
        // Woken 600 too late, of which it waited 200 for a CPU.
        assert_eq!(of(100, 200, 600), Delays { generator: 700, host: 200 });
        // Counters that ran ahead of the clock.
        assert_eq!(of(5_000, 700, 900), Delays { generator: 1_000, host: 0 });
    }

    #[test]
    fn delays_are_found_around_their_time_and_nowhere_else() {
        let log = DelayLog::default();
        let begin = 77 * SECOND;
        let (calm, busy) =
            (Delays { generator: 9, host: 0 }, Delays { generator: 7, host: 50 * MILLISECOND });
        let mut from = begin;
        for span in 0..3_000 {
            let (length, delays) = if span == 1_500 { (60, busy) } else { (1, calm) };
            let until = from + length * MILLISECOND;
            log.span(from, until, delays);
            from = until;
        }
        let stalled = begin + 1_500 * MILLISECOND;
        assert_eq!(log.at(begin + 700 * MILLISECOND), calm);
        for offset in [0, 30, 59] {
            assert_eq!(log.at(stalled + offset * MILLISECOND).host, busy.host, "{offset} ms");
        }
        assert_eq!(log.at(stalled - 2 * MILLISECOND), calm);
        assert_eq!(log.at(stalled + 62 * MILLISECOND), calm);
        // Of what is too long ago, only the longest is known.
        log.span(from, from + 10 * SECOND, calm);
        assert_eq!(log.at(begin + 700 * MILLISECOND), Delays { generator: 9, host: busy.host });
    }

    #[test]
    fn a_tick_that_goes_on_is_known_by_its_work() {
        let log = DelayLog::default();
        let now = 3 * SECOND;
        log.span(now - MILLISECOND, now, Delays { generator: 5, host: 6 });
        log.work(now, now + 40 * MICROSECOND);
        assert_eq!(log.at(now + 3), Delays { generator: 40 * MICROSECOND, host: 0 });
        log.span(now, now + MILLISECOND, Delays { generator: 30, host: 2 });
        assert_eq!(log.at(now + 3).host, 6, "the longest within a millisecond");
        assert_eq!(log.at(now + 3).generator, 30);
    }
}
