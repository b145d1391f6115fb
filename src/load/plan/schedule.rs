//! The send times of messages at a rate: computed from their numbers and the run's seed, never from replies.
//!
//! The rate follows a [`Profile`]. Even arrivals: the run is one sequence of slots, and connection `i` of `n` owns the
//! slots `i`, `n + i`, `2 n + i` …, so the connections are evenly interleaved. Random arrivals: each connection is a
//! Poisson process at an `n`-th of the rate, so their sum is one at the whole rate. Bursts: each slot or arrival is a
//! burst of messages of one connection, at the same mean rate.
//!
//! A stalled connection keeps its schedule: its messages are sent late and measured from their intended times.

pub(crate) mod profile;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use self::profile::{MESSAGE, Profile, Volume};
use super::declared::words;
use echoring_proto::limits::{Nanos, SECOND};
use echoring_proto::random::mix;

/// Maximum number of messages of a burst.
pub const BURST_MAX: u32 = 16_384;

words! {
    /// How an open loop spreads its messages over time.
    #[derive(Default)]
    pub enum Arrivals {
        /// At equal intervals, the senders in turn
        #[default]
        Even => "even",
        /// At random times, each sender independently
        Poisson => "poisson",
    }
}

/// The schedule of a run, shared by all its threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    start: Nanos,
    profile: Profile,
    senders: u32,
    arrivals: Arrivals,
    /// Messages per burst.
    burst: u64,
    /// The period of the rate in seconds.
    period: u64,
    seed: u64,
}

/// The next send time of a sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The time in the profile; random arrivals only.
    pub at: Nanos,
    /// The volume in the profile; random arrivals only.
    volume: Volume,
}

impl Schedule {
    /// `rate` messages per second (1 to `RATE_MAX`) over `senders` connections (at least 1), from `start` on. Random
    /// arrivals follow from `seed`.
    pub fn new(start: Nanos, rate: u64, senders: u32, arrivals: Arrivals, seed: u64) -> Schedule {
        Schedule::of(start, Profile::constant(rate), senders, arrivals, seed)
    }

    /// The same with a changing rate.
    pub fn of(start: Nanos, profile: Profile, senders: u32, arrivals: Arrivals, seed: u64) -> Schedule {
        Schedule { start, profile, senders: senders.max(1), arrivals, burst: 1, period: 1, seed }
    }

    /// Sends in bursts of 1 to [`BURST_MAX`] messages.
    pub fn in_bursts(self, burst: u32) -> Schedule {
        Schedule { burst: u64::from(burst.clamp(1, BURST_MAX)), ..self }
    }

    /// Makes it a rate per this many seconds: 1 in 2 is half a message per second.
    pub(crate) fn of_period(self, seconds: u32) -> Schedule {
        Schedule { period: u64::from(seconds.max(1)), ..self }
    }

    /// The send time of the first message of `sender`.
    pub fn first(&self, sender: u32) -> Mark {
        match self.arrivals {
            Arrivals::Even => Mark { at: self.slot(sender, 0), volume: 0 },
            Arrivals::Poisson => self.at(self.gap(sender, 0)),
        }
    }

    /// The send time of the message after `sequence`, which itself is due at `mark`. [`Nanos::MAX`] if there is none.
    #[inline]
    pub fn after(&self, sender: u32, sequence: u64, mark: Mark) -> Mark {
        let next = sequence + 1;
        if self.burst == 1 {
            return self.train(sender, next, mark);
        }
        if next.is_multiple_of(self.burst) { self.train(sender, next / self.burst, mark) } else { mark }
    }

    /// The send time of a sender's burst number `train`; the previous one is due at `mark`.
    #[inline]
    fn train(&self, sender: u32, train: u64, mark: Mark) -> Mark {
        match self.arrivals {
            Arrivals::Even => Mark { at: self.slot(sender, train), volume: 0 },
            Arrivals::Poisson => self.at(mark.volume + self.gap(sender, train)),
        }
    }

    fn at(&self, volume: Volume) -> Mark {
        Mark { at: self.start.saturating_add(self.profile.time_of(volume)), volume }
    }

    /// Exact to the nanosecond over any run.
    #[inline]
    fn slot(&self, sender: u32, train: u64) -> Nanos {
        let slot = (train * u64::from(self.senders) + u64::from(sender)) * self.burst * self.period;
        match &self.profile {
            // In two steps, so that nothing overflows: whole seconds, and the slots of the last one.
            Profile::Constant(rate) => self.start + slot / rate * SECOND + slot % rate * SECOND / rate,
            profile => self.start.saturating_add(profile.time_of(Volume::from(slot) * MESSAGE)),
        }
    }

    /// The volume of the rate before burst `train` of a sender: exponentially distributed, by inversion.
    #[inline]
    fn gap(&self, sender: u32, train: u64) -> Volume {
        const MANTISSA_BITS: u32 = 53;
        let random = mix(mix(self.seed ^ u64::from(sender)) ^ train);
        // In (0, 1], because the logarithm of zero is infinite.
        let uniform = ((random >> (64 - MANTISSA_BITS)) + 1) as f64 / (1_u64 << MANTISSA_BITS) as f64;
        let mean = f64::from(self.senders) * (self.burst * self.period) as f64 * MESSAGE as f64;
        (-uniform.ln() * mean) as Volume
    }
}

/// The send times of some senders, in order.
#[derive(Debug)]
pub struct Cursor {
    schedule: Schedule,
    /// Sender numbers in ascending order.
    senders: Vec<u32>,
    state: CursorState,
    next: Nanos,
}

#[derive(Debug)]
enum CursorState {
    /// The senders take turns with a burst each; `sent` messages of the current burst are sent.
    Round { position: usize, train: u64, sent: u64 },
    /// The next message of each sender, the earliest on top: its time, the sender's position, its sequence.
    Heap(BinaryHeap<Reverse<(Mark, u32, u64)>>),
}

impl Cursor {
    /// A cursor over `senders` in ascending order. `None` if there are none.
    pub fn new(schedule: Schedule, senders: Vec<u32>) -> Option<Cursor> {
        let first = *senders.first()?;
        debug_assert!(senders.is_sorted());
        let (state, next) = match schedule.arrivals {
            Arrivals::Even => {
                (CursorState::Round { position: 0, train: 0, sent: 0 }, schedule.first(first).at)
            }
            Arrivals::Poisson => {
                let firsts = senders.iter().zip(0..);
                let heap: BinaryHeap<_> = firsts
                    .map(|(&sender, position)| Reverse((schedule.first(sender), position, 0)))
                    .collect();
                let next = heap.peek().map_or(Nanos::MAX, |Reverse((next, ..))| next.at);
                (CursorState::Heap(heap), next)
            }
        };
        Some(Cursor { schedule, senders, state, next })
    }

    /// The next send time; [`Nanos::MAX`] if there is none.
    pub fn next(&self) -> Nanos {
        self.next
    }

    /// The next message that is due at `now`: the position of its sender, and its intended time.
    #[inline]
    pub fn due(&mut self, now: Nanos) -> Option<(usize, Nanos)> {
        let intended = self.next;
        if intended > now {
            return None;
        }
        let Cursor { schedule, senders, state, next } = self;
        match state {
            CursorState::Round { position, train, sent } => {
                let due = *position;
                *sent += 1;
                if *sent < schedule.burst {
                    return Some((due, intended));
                }
                *sent = 0;
                *position += 1;
                if *position == senders.len() {
                    *position = 0;
                    *train += 1;
                }
                *next = schedule.slot(senders[*position], *train);
                Some((due, intended))
            }
            CursorState::Heap(heap) => {
                let mut top = heap.peek_mut()?;
                let Reverse((mark, position, sequence)) = &mut *top;
                let due = *position as usize;
                *mark = schedule.after(senders[due], *sequence, *mark);
                *sequence += 1;
                // Dropping moves it to its position in the heap.
                drop(top);
                *next = heap.peek().map_or(Nanos::MAX, |Reverse((next, ..))| next.at);
                Some((due, intended))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::profile::RateStage;
    use super::*;

    fn even(start: Nanos, rate: u64, senders: u32) -> Schedule {
        Schedule::new(start, rate, senders, Arrivals::Even, 1)
    }

    fn poisson(rate: u64, senders: u32, seed: u64) -> Schedule {
        Schedule::new(0, rate, senders, Arrivals::Poisson, seed)
    }

    /// The send times of a sender.
    fn times(schedule: &Schedule, sender: u32) -> impl Iterator<Item = Nanos> + use<> {
        let (schedule, first) = (schedule.clone(), schedule.first(sender));
        let numbered = std::iter::successors(Some((0, first)), move |&(sequence, mark)| {
            Some((sequence + 1, schedule.after(sender, sequence, mark)))
        });
        numbered.map(|(_, mark)| mark.at)
    }

    #[test]
    fn slots_are_even_over_all_connections() {
        let schedule = even(5 * SECOND, 1_000, 4);
        let mut times: Vec<Nanos> = (0..4).flat_map(|sender| times(&schedule, sender).take(250)).collect();
        times.sort_unstable();
        assert_eq!(times[0], 5 * SECOND);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000));
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        let schedule = even(0, 7, 3);
        // 7 per second over 3 senders: sequence 7 of sender 0 is slot 21, exactly three seconds in.
        assert_eq!(schedule.slot(0, 7), 3 * SECOND);
        assert_eq!(schedule.slot(0, 7_000_000), 3_000_000 * SECOND);
    }

    #[test]
    fn a_rate_below_one_per_second_has_a_period_of_several_seconds() {
        let due = |schedule: Schedule| -> Vec<Nanos> {
            let mut cursor = Cursor::new(schedule, vec![0, 1, 2]).expect("has senders");
            std::iter::from_fn(|| cursor.due(9 * SECOND)).map(|(_, at)| at).collect()
        };
        // One message in two seconds, and 3 in 2, also after a ramp.
        assert_eq!(due(even(0, 1, 3).of_period(2)), [0, 2, 4, 6, 8].map(|second| second * SECOND));
        let all = due(even(0, 3, 3).of_period(2));
        assert_eq!((all.len(), all[3], all[4]), (14, 2 * SECOND, 2 * SECOND + SECOND * 2 / 3));
        let steady = RateStage { time: Duration::from_secs(4), from: 1, to: 1 };
        let pieces = Profile::new([steady], Some(1));
        let pieces = Schedule::of(0, pieces, 3, Arrivals::Even, 1).of_period(2);
        assert_eq!(due(pieces), [0, 2, 4, 6, 8].map(|second| second * SECOND));
        let mut cursor = Cursor::new(poisson(1, 3, 7).of_period(4), vec![0, 1, 2]).expect("has senders");
        let all = std::iter::from_fn(|| cursor.due(40_000 * SECOND)).count();
        assert!((9_500..10_500).contains(&all), "{all}");
    }

    #[test]
    fn threads_share_the_slots_without_overlap() {
        let schedule = even(0, 10_000, 7);
        let mut all = Vec::new();
        for thread in 0..3 {
            let mine: Vec<u32> = (0..7).filter(|sender| sender % 3 == thread).collect();
            let mut cursor = Cursor::new(schedule.clone(), mine.clone()).expect("has senders");
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
    fn a_late_caller_gets_every_missed_slot_with_its_intended_time() {
        let mut cursor = Cursor::new(even(0, 1_000, 1), vec![0]).expect("has senders");
        let missed: Vec<_> = std::iter::from_fn(|| cursor.due(3_500_000)).collect();
        assert_eq!(missed, [(0, 0), (0, 1_000_000), (0, 2_000_000), (0, 3_000_000)]);
    }

    #[test]
    fn without_senders_there_is_no_schedule() {
        assert!(Cursor::new(even(0, 1, 1), Vec::new()).is_none());
    }

    #[test]
    fn random_arrivals_are_a_poisson_process_at_the_given_rate() {
        const RATE: u64 = 10_000;
        const TENTHS: usize = 1_000;
        let mut cursor = Cursor::new(poisson(RATE, 50, 7), (0..50).collect()).expect("has senders");
        let end = TENTHS as u64 * SECOND / 10;
        let all: Vec<Nanos> = std::iter::from_fn(|| cursor.due(end - 1)).map(|(_, at)| at).collect();
        assert!(all.is_sorted(), "a cursor runs in order of time");
        let mean = all.len() as f64 / 100.0;
        assert!((mean / RATE as f64 - 1.0).abs() < 0.01, "{mean} a second");
        // The variance of counts equals their mean, unlike with even arrivals.
        let mut counts = [0_u32; TENTHS];
        for at in &all {
            counts[(at / (SECOND / 10)) as usize] += 1;
        }
        let expected = RATE as f64 / 10.0;
        let deviations = counts.iter().map(|&count| (f64::from(count) - expected).powi(2));
        let variance = deviations.sum::<f64>() / TENTHS as f64;
        assert!((variance / expected - 1.0).abs() < 0.2, "variance {variance} of a mean of {expected}");
        // Gaps are exponential: a share of exp(-x) is longer than x times the mean.
        let gaps: Vec<u64> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for times in [0.1, 0.5, 1.0, 2.0, 4.0_f64] {
            let longer = gaps.iter().filter(|&&gap| gap as f64 > times * (SECOND / RATE) as f64).count();
            let share = longer as f64 / gaps.len() as f64;
            assert!((share - (-times).exp()).abs() < 0.005, "{share} are longer than {times} means");
        }
    }

    #[test]
    fn random_arrivals_follow_from_the_seed_however_senders_are_distributed() {
        let state = |seed, threads: u32| {
            let mut all = Vec::new();
            for thread in 0..threads {
                let mine: Vec<u32> = (thread..9).step_by(threads as usize).collect();
                let mut cursor = Cursor::new(poisson(2_000, 9, seed), mine.clone()).expect("has senders");
                all.extend(std::iter::from_fn(|| cursor.due(SECOND)).map(|(at, due)| (due, mine[at])));
            }
            all.sort_unstable();
            all
        };
        assert_eq!(state(5, 1), state(5, 4));
        assert_ne!(state(5, 1), state(6, 1));
    }

    /// Rises for a second, pauses for half a second, then is constant.
    fn slopes() -> Profile {
        let stage = |millis, from, to| RateStage { time: Duration::from_millis(millis), from, to };
        Profile::new([stage(1_000, 0, 2_000), stage(500, 0, 0)], Some(1_000))
    }

    #[test]
    fn a_changing_rate_is_distributed_without_overlap_and_keeps_its_pause() {
        for arrivals in [Arrivals::Even, Arrivals::Poisson] {
            for burst in [1, 4] {
                let schedule = Schedule::of(0, slopes(), 7, arrivals, 11).in_bursts(burst);
                let mut all = Vec::new();
                for thread in 0..3 {
                    let mine: Vec<u32> = (thread..7).step_by(3).collect();
                    let mut cursor = Cursor::new(schedule.clone(), mine).expect("has senders");
                    let due = std::iter::from_fn(|| cursor.due(3 * SECOND - 1)).map(|(_, at)| at);
                    let mine: Vec<Nanos> = due.collect();
                    assert!(mine.is_sorted());
                    all.extend(mine);
                }
                all.sort_unstable();
                let paused = all.iter().filter(|at| (SECOND..SECOND * 3 / 2).contains(at)).count();
                assert_eq!(paused, 0);
                match arrivals {
                    // Messages 0 to 999 within the ramp, then one per millisecond for one and a half seconds.
                    Arrivals::Even => {
                        let slots = (0..2_500).map(|slot| slot / u64::from(burst) * u64::from(burst));
                        let slots: Vec<Nanos> =
                            slots.map(|slot| slopes().time_of(Volume::from(slot) * MESSAGE)).collect();
                        assert_eq!(all, slots);
                    }
                    Arrivals::Poisson => assert!((2_100..2_900).contains(&all.len()), "{}", all.len()),
                }
            }
        }
    }

    #[test]
    fn random_arrivals_of_a_changing_rate_follow_it() {
        const RATE: u64 = 200_000;
        let rising = RateStage { time: Duration::from_secs(1), from: 0, to: RATE };
        let schedule = Schedule::of(0, Profile::new([rising], None), 10, Arrivals::Poisson, 5);
        let mut cursor = Cursor::new(schedule, (0..10).collect()).expect("has senders");
        let all: Vec<Nanos> = std::iter::from_fn(|| cursor.due(SECOND)).map(|(_, at)| at).collect();
        for tenth in 0..10_u64 {
            let within = tenth * SECOND / 10..(tenth + 1) * SECOND / 10;
            let count = all.iter().filter(|at| within.contains(at)).count() as f64;
            let mean = (RATE * (2 * tenth + 1)) as f64 / 200.0;
            assert!((count - mean).abs() < 5.0 * mean.sqrt(), "{count}, not {mean}, in tenth {tenth}");
        }
        assert_eq!(cursor.next(), Nanos::MAX, "nothing follows");
    }

    #[test]
    fn a_burst_is_due_at_one_instant_and_bursts_keep_the_mean_rate() {
        let schedule = even(0, 1_000, 2).in_bursts(50);
        let mut cursor = Cursor::new(schedule, vec![0, 1]).expect("has senders");
        let all: Vec<_> = std::iter::from_fn(|| cursor.due(SECOND - 1)).collect();
        assert_eq!(all.len(), 1_000);
        for (train, messages) in all.chunks(50).enumerate() {
            let leaves = (train % 2, train as u64 * 50 * SECOND / 1_000);
            assert!(messages.iter().all(|message| *message == leaves), "{train}");
        }
        // Random: bursts are a Poisson process at a fiftieth of the rate.
        let schedule = poisson(100_000, 10, 3).in_bursts(50);
        let mut cursor = Cursor::new(schedule, (0..10).collect()).expect("has senders");
        let all: Vec<_> = std::iter::from_fn(|| cursor.due(10 * SECOND)).collect();
        let trains: Vec<_> = all.chunk_by(|one, next| one == next).map(<[_]>::len).collect();
        assert!(trains.iter().rev().skip(1).all(|messages| *messages == 50));
        let mean = 20_000.0_f64;
        assert!((trains.len() as f64 - mean).abs() < 5.0 * mean.sqrt(), "{} trains", trains.len());
    }

    #[test]
    fn a_sender_and_the_cursor_agree_on_when_its_messages_are_due() {
        let slopes = |arrivals| Schedule::of(SECOND / 2, slopes(), 5, arrivals, 3);
        for schedule in [
            even(3, 700, 5),
            poisson(700, 5, 3),
            even(3, 700, 5).in_bursts(7),
            poisson(700, 5, 3).in_bursts(7),
            slopes(Arrivals::Even),
            slopes(Arrivals::Poisson),
            slopes(Arrivals::Even).in_bursts(3),
            slopes(Arrivals::Poisson).in_bursts(3),
        ] {
            let mut cursor = Cursor::new(schedule.clone(), (0..5).collect()).expect("has senders");
            let mut senders: Vec<_> = (0..5).map(|sender| times(&schedule, sender)).collect();
            while let Some((sender, due)) = cursor.due(3 * SECOND) {
                assert_eq!(senders[sender].next(), Some(due));
            }
        }
    }
}
