//! The figures for the time between two answers of `/stats`. Never: I/O, clocks, a terminal.

use std::collections::{BTreeMap, VecDeque};

use super::answers::{Counts, Histogram, Shard, Stats};
use crate::limits::TOP_WINDOW_S;

/// The figures of the time between two answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Interval {
    /// Its length by the server's clock.
    pub(super) seconds: f64,
    // Per second:
    pub(super) messages_in: f64,
    pub(super) messages_out: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
    pub(super) opened: f64,
    pub(super) ended: f64,
    pub(super) refused: f64,
    pub(super) dropped: f64,
    pub(super) limited: f64,
    pub(super) receive_to_send: Percentiles,
    pub(super) delivery_age: Percentiles,
    pub(super) tick_time: Percentiles,
    pub(super) shards: Vec<ShardInterval>,
}

/// The figures of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ShardInterval {
    pub(super) shard: usize,
    pub(super) connections: u64,
    pub(super) messages_in: f64,
    pub(super) messages_out: f64,
    /// The part of the time that it spent outside the kernel's wait.
    pub(super) busy: f64,
    pub(super) tick_time: Percentiles,
}

/// Percentiles in seconds: upper bounds of buckets, which are at most 9 % wide.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// Whether the two answers are of one process, in this order.
pub(super) fn belong_together(before: &Stats, now: &Stats) -> bool {
    before.pid == now.pid && before.uptime_s < now.uptime_s
}

/// The figures between two answers of one process. Only shards that are in both count: sums would jump when a shard is
/// silent.
pub(super) fn between(before: &Stats, now: &Stats) -> Interval {
    let seconds = (now.uptime_s - before.uptime_s).max(1e-3);
    let pairs: Vec<(&Shard, &Shard)> = now
        .shards
        .iter()
        .filter_map(|shard| Some((before.shards.iter().find(|other| other.shard == shard.shard)?, shard)))
        .collect();
    let rate = |of: fn(&Shard) -> u64| rate(&pairs, of, seconds);
    Interval {
        seconds,
        messages_in: rate(|shard| shard.messages_in),
        messages_out: rate(|shard| shard.messages_out),
        bytes_in: rate(|shard| shard.bytes_in),
        bytes_out: rate(|shard| shard.bytes_out),
        opened: rate(|shard| shard.opened),
        ended: rate(|shard| shard.closes.values().sum()),
        refused: rate(|shard| shard.refusals.values().sum()),
        dropped: rate(|shard| shard.deliveries.dropped.values().sum()),
        limited: rate(|shard| shard.limited.values().sum()),
        receive_to_send: percentiles(&pairs, |shard| vec![&shard.receive_to_send]),
        delivery_age: percentiles(&pairs, Shard::ages),
        tick_time: percentiles(&pairs, |shard| vec![&shard.tick_time]),
        shards: pairs.iter().map(|(before, now)| of_shard(before, now, seconds)).collect(),
    }
}

fn of_shard(before: &Shard, now: &Shard, seconds: f64) -> ShardInterval {
    let pair = &[(before, now)];
    ShardInterval {
        shard: now.shard,
        connections: now.connections,
        messages_in: rate(pair, |shard| shard.messages_in, seconds),
        messages_out: rate(pair, |shard| shard.messages_out, seconds),
        busy: rate(pair, |shard| shard.tick_time.sum_ns, seconds) * 1e-9,
        tick_time: percentiles(pair, |shard| vec![&shard.tick_time]),
    }
}

fn rate(pairs: &[(&Shard, &Shard)], of: fn(&Shard) -> u64, seconds: f64) -> f64 {
    let growth: u64 = pairs.iter().map(|(before, now)| of(now).saturating_sub(of(before))).sum();
    growth as f64 / seconds
}

/// Of the histograms of a shard together.
fn percentiles(pairs: &[(&Shard, &Shard)], of: fn(&Shard) -> Vec<&Histogram>) -> Percentiles {
    let sum = |shard| {
        let mut buckets: BTreeMap<i32, u64> = BTreeMap::new();
        for (bucket, count) in of(shard).into_iter().flat_map(|histogram| &histogram.buckets) {
            *buckets.entry(*bucket).or_default() += count;
        }
        (of(shard).iter().map(|histogram| histogram.zero).sum::<u64>(), buckets)
    };
    let mut zero = 0;
    let mut buckets: BTreeMap<i32, u64> = BTreeMap::new();
    for (before, now) in pairs {
        let ((zero_before, before), (zero_now, now)) = (sum(before), sum(now));
        zero += zero_now.saturating_sub(zero_before);
        for (bucket, count) in now {
            let more = count.saturating_sub(before.get(&bucket).copied().unwrap_or(0));
            if more > 0 {
                *buckets.entry(bucket).or_default() += more;
            }
        }
    }
    let count = zero + buckets.values().sum::<u64>();
    let at = |share: f64| quantile(zero, &buckets, (share * count as f64).ceil() as u64);
    Percentiles { count, p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
}

/// The upper bound of the bucket with the duration of this rank, counted from 1.
fn quantile(zero: u64, buckets: &BTreeMap<i32, u64>, rank: u64) -> f64 {
    let mut below = zero;
    for (bucket, count) in buckets {
        below += count;
        if below >= rank && *count > 0 && rank > zero {
            return (f64::from(*bucket) / 8.0).exp2();
        }
    }
    0.0
}

/// A counter with its growth in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) name: String,
    pub(super) recent: u64,
    pub(super) all: u64,
}

/// The counters of all shards, most recent growth first.
fn counts(first: &Stats, last: &Stats, of: fn(&Shard) -> &Counts) -> Vec<Count> {
    let sum = |stats: &Stats| {
        let mut sum = Counts::new();
        for (name, count) in stats.shards.iter().flat_map(of) {
            *sum.entry(name.clone()).or_default() += count;
        }
        sum
    };
    let earlier = sum(first);
    let mut counts: Vec<Count> = sum(last)
        .into_iter()
        .map(|(name, all)| {
            let before = earlier.get(&name).copied().unwrap_or(0);
            Count { recent: all.saturating_sub(before), name, all }
        })
        .collect();
    counts.sort_by_key(|count| std::cmp::Reverse((count.recent, count.all)));
    counts
}

/// The answers of the last minute, oldest first, all of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    answers: VecDeque<Stats>,
    /// The process before this one has ended while it was watched.
    pub(super) was_restarted: bool,
}

impl Window {
    /// Takes an answer.
    pub(super) fn add(&mut self, stats: Stats) {
        if let Some(last) = self.answers.back()
            && !belong_together(last, &stats)
        {
            self.was_restarted |= last.pid != stats.pid;
            self.answers.clear();
        }
        let begin = stats.uptime_s - TOP_WINDOW_S;
        self.answers.push_back(stats);
        // One answer that is older than the window stays, to be its beginning.
        while self.answers.len() > 2 && self.answers[1].uptime_s <= begin {
            self.answers.pop_front();
        }
    }

    /// The latest answer.
    pub(super) fn last(&self) -> Option<&Stats> {
        self.answers.back()
    }

    /// The figures since the answer before the latest.
    pub(super) fn interval(&self) -> Option<Interval> {
        let before = self.answers.len().checked_sub(2).and_then(|at| self.answers.get(at))?;
        Some(between(before, self.last()?))
    }

    /// The length of the window so far, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        match (self.answers.front(), self.last()) {
            (Some(first), Some(last)) => last.uptime_s - first.uptime_s,
            _ => 0.0,
        }
    }

    /// Ended connections by cause.
    pub(super) fn causes(&self) -> Vec<Count> {
        self.counts(|shard| &shard.causes)
    }

    /// WebSockets by close code.
    pub(super) fn codes(&self) -> Vec<Count> {
        self.counts(|shard| &shard.closes)
    }

    fn counts(&self, of: fn(&Shard) -> &Counts) -> Vec<Count> {
        match (self.answers.front(), self.last()) {
            (Some(first), Some(last)) => counts(first, last, of),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::{Ages, Deliveries};
    use super::*;

    fn shard(shard: usize, messages_in: u64, buckets: Vec<(i32, u64)>) -> Shard {
        let tick_time = Histogram { sum_ns: messages_in * 1_000_000, zero: 0, buckets };
        Shard { shard, messages_in, tick_time, ..Shard::default() }
    }

    fn stats(pid: u32, uptime_s: f64, shards: Vec<Shard>) -> Stats {
        Stats { pid, uptime_s, shards, ..Stats::default() }
    }

    #[test]
    fn rates_are_differences_by_the_clock_of_the_server() {
        for (earlier, later, seconds, expected) in
            [(0, 100, 2.0, 50.0), (100, 100, 2.0, 0.0), (7, 8, 0.5, 2.0), (9, 8, 1.0, 0.0)]
        {
            let before = stats(1, 10.0, vec![shard(0, earlier, vec![])]);
            let now = stats(1, 10.0 + seconds, vec![shard(0, later, vec![])]);
            assert_eq!(between(&before, &now).messages_in, expected, "{earlier} to {later}");
        }
    }

    #[test]
    fn a_shard_that_was_silent_once_makes_no_rate_jump() {
        let before = stats(1, 1.0, vec![shard(0, 10, vec![])]);
        let now = stats(1, 2.0, vec![shard(0, 15, vec![]), shard(1, 1_000_000, vec![])]);
        let interval = between(&before, &now);
        assert_eq!((interval.messages_in, interval.shards.len()), (5.0, 1));
    }

    #[test]
    fn percentiles_are_those_of_the_interval() {
        for (earlier, later, count, p50, p99, max) in [
            (vec![], vec![], 0, 0.0, 0.0, 0.0),
            (vec![(0, 5)], vec![(0, 5)], 0, 0.0, 0.0, 0.0),
            (vec![(0, 5)], vec![(0, 5), (8, 1)], 1, 2.0, 2.0, 2.0),
            (vec![(16, 9)], vec![(-8, 98), (0, 2), (16, 9)], 100, 0.5, 1.0, 1.0),
            (vec![], vec![(-8, 99), (0, 1)], 100, 0.5, 0.5, 1.0),
        ] {
            let before = stats(1, 1.0, vec![shard(0, 0, earlier)]);
            let now = stats(1, 2.0, vec![shard(0, 0, later.clone())]);
            let found = between(&before, &now).tick_time;
            assert_eq!((found.count, found.p50, found.p99, found.max), (count, p50, p99, max), "{later:?}");
        }
    }

    #[test]
    fn durations_below_the_buckets_are_zero() {
        let tick_time = Histogram { sum_ns: 0, zero: 3, buckets: vec![(8, 1)] };
        let now = stats(1, 2.0, vec![Shard { tick_time, ..Shard::default() }]);
        let found = between(&stats(1, 1.0, vec![Shard::default()]), &now).tick_time;
        assert_eq!((found.count, found.p50, found.max), (4, 0.0, 2.0));
    }

    #[test]
    fn the_busy_part_is_time_in_ticks() {
        let before = stats(1, 1.0, vec![shard(3, 0, vec![])]);
        let now = stats(1, 3.0, vec![shard(3, 500, vec![])]);
        let interval = between(&before, &now);
        assert_eq!((interval.shards[0].shard, interval.shards[0].busy), (3, 0.25));
    }

    #[test]
    fn ages_of_all_patterns_and_ends_are_one_distribution() {
        let of = |buckets| Histogram { buckets, ..Histogram::default() };
        let with = |n: u64| {
            let ages = |bucket| Ages { acknowledged: of(vec![(bucket, 2 * n)]), sent: of(vec![(0, n)]) };
            let delivery_ages = BTreeMap::from([("*".to_owned(), ages(-8)), ("a.*".to_owned(), ages(8))]);
            Shard { delivery_ages, ..Shard::default() }
        };
        let interval = between(&stats(1, 0.0, vec![with(1)]), &stats(1, 1.0, vec![with(11)]));
        let Percentiles { count, p50, max, .. } = interval.delivery_age;
        assert_eq!((count, p50, max), (60, 1.0, 2.0));
    }

    #[test]
    fn drops_and_closes_of_all_kinds_count() {
        let counts = |n: u64| Counts::from([("a".to_owned(), n), ("b".to_owned(), 1)]);
        let with = |n: u64| Shard {
            closes: counts(n),
            refusals: counts(2 * n),
            deliveries: Deliveries { queued: 0, dropped: counts(3 * n) },
            ..Shard::default()
        };
        let interval = between(&stats(1, 0.0, vec![with(0)]), &stats(1, 1.0, vec![with(4)]));
        assert_eq!((interval.ended, interval.refused, interval.dropped), (4.0, 8.0, 12.0));
    }

    #[test]
    fn the_window_is_a_minute_of_one_process() {
        let causes = |n| vec![Shard { causes: Counts::from([("gone".to_owned(), n)]), ..Shard::default() }];
        let mut window = Window::default();
        (0..100u32).for_each(|second| window.add(stats(1, f64::from(second), causes(u64::from(second)))));
        assert_eq!(window.seconds(), TOP_WINDOW_S);
        assert_eq!(window.causes(), [Count { name: "gone".to_owned(), recent: 60, all: 99 }]);
        assert!(!window.was_restarted);
        window.add(stats(2, 1.0, causes(1)));
        assert_eq!((window.seconds(), window.interval(), window.was_restarted), (0.0, None, true));
    }
}
