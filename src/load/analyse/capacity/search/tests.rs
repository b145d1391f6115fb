//! Searches of simulated servers with a known capacity.

use super::*;
use crate::analyse::capacity::step::is_rising;
use echoring_proto::random::SplitMix64;

/// The objective: p99 of the response time in seconds.
const BOUND_S: f64 = 0.05;
/// Measured time of a full and of a quick step, and the warm-up before it, in seconds.
const STEP_S: f64 = 5.0;
const QUICK_S: f64 = 1.2;
const WARMUP_S: f64 = 1.0;

/// What disturbs a host.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Neighbour {
    Quiet,
    /// Stalls of 5 ms on average, twice a second.
    Busy,
    /// Three seconds of stalls that miss the objective, every 20 s on average.
    Bursts,
}

/// A server with `workers`, each of which takes the same time for a message (M/D/c, or D/D/c with arrivals at equal intervals).
struct QueueingServer {
    capacity: f64,
    workers: usize,
    poisson: bool,
    neighbour: Neighbour,
    random: SplitMix64,
}

impl QueueingServer {
    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.random.unit()).ln()
    }

    /// Times in which the host stands still.
    fn stalls(&mut self, length_s: f64) -> Vec<(f64, f64)> {
        let (mut stalls, mut now) = (Vec::new(), 0.0);
        let (gap, mean) = match self.neighbour {
            Neighbour::Quiet => return stalls,
            Neighbour::Busy => (0.5, 0.005),
            Neighbour::Bursts => (20.0, 0.1),
        };
        while now < length_s {
            now += self.exponential(gap);
            let times = if self.neighbour == Neighbour::Bursts { 10 } else { 1 };
            for _ in 0..times {
                let length = self.exponential(mean);
                stalls.push((now, now + length));
                now += length + 0.2 * f64::from(times > 1);
            }
        }
        stalls
    }

    /// Arrivals in the measured time, and their response times.
    fn run(&mut self, load: f64, length_s: f64) -> Vec<(f64, f64)> {
        let service_s = self.workers as f64 / self.capacity;
        let mut free_at = vec![0.0_f64; self.workers];
        let (mut now, mut stalls) = (0.0, self.stalls(WARMUP_S + length_s).into_iter().peekable());
        let (mut done, mut next) = (Vec::new(), 0);
        while now < WARMUP_S + length_s {
            now += if self.poisson { self.exponential(1.0 / load) } else { 1.0 / load };
            free_at[next] = free_at[next].max(now) + service_s;
            let mut ends = free_at[next];
            next = (next + 1) % self.workers;
            while stalls.next_if(|(_, until)| *until < ends).is_some() {}
            if let Some((from, until)) = stalls.peek() {
                ends = if ends >= *from { *until } else { ends };
            }
            done.push((ends - WARMUP_S, ends - now));
        }
        done.retain(|(at, _)| (0.0..length_s).contains(at));
        done
    }

    fn step(&mut self, load: u64, length_s: f64) -> Evidence {
        let done = self.run(load as f64, length_s);
        let p99 = |mut times: Vec<f64>| {
            times.sort_unstable_by(f64::total_cmp);
            times.get(times.len() * 99 / 100).copied().unwrap_or(f64::INFINITY)
        };
        let block = |at: usize| {
            let is_in = |ended: f64| (ended / length_s * BLOCKS as f64) as usize == at;
            let times = done.iter().filter(|(ended, _)| is_in(*ended)).map(|(_, time)| *time).collect();
            (p99(times).min(1e3) / BOUND_S).ln()
        };
        let blocks: Vec<f64> = (0..BLOCKS).map(block).collect();
        let due = load as f64 * length_s;
        let is_kept = done.len() as f64 >= 0.99 * due - if self.poisson { 4.0 * due.sqrt() } else { 0.0 };
        let held = is_kept && p99(done.iter().map(|(_, time)| *time).collect()) < BOUND_S;
        match held && is_rising(&blocks) {
            true => Evidence::default(),
            false => Evidence { blocks, held: Some(held), limit: (!held).then_some(Limit::Objective) },
        }
    }

    /// The interval of a search, with its time in seconds.
    fn searched(&mut self, start: u64) -> (Option<u64>, Option<u64>, f64) {
        let (mut search, mut seconds) = (CapacitySearch::new(start, (1, 10_000_000), 0.05), 0.0);
        while let Some(next) = search.next_step() {
            let length_s = next.times.map_or(QUICK_S, |times| f64::from(times) * STEP_S);
            seconds += WARMUP_S + length_s;
            search.tell(next, &self.step(next.load, length_s));
        }
        (search.low(), search.high(), seconds)
    }
}

/// Searches 50 servers. Returns how many intervals contain the capacity, whose middles lie within 5 % of it, and the median time.
fn fifty(
    neighbour: Neighbour,
    poisson: bool,
    contains: impl Fn(&mut QueueingServer, u64, u64) -> bool,
) -> (usize, usize, f64) {
    let (mut covered, mut near, mut times) = (0, 0, Vec::new());
    for seed in 0..50 {
        let mut random = SplitMix64::new(seed);
        let capacity = 400.0 * (1.0 + 2.0 * random.unit());
        let workers = 1 << random.below(4);
        let start = 100 + random.below(400);
        let mut server = QueueingServer { capacity, workers, poisson, neighbour, random };
        let (low, high, seconds) = server.searched(start);
        times.push(seconds);
        let (Some(low), Some(high)) = (low, high) else {
            // No answer is not a wrong one.
            covered += 1;
            continue;
        };
        covered += usize::from(contains(&mut server, low, high));
        let middle = (low as f64 * high as f64).sqrt() / capacity;
        near += usize::from((0.95..=1.05).contains(&middle));
    }
    let found = (covered, near, median(&times).expect("some"));
    println!("{neighbour:?}, Poisson {poisson}: {covered} cover, {near} within 5 %, {:.0} s", found.2);
    found
}

fn has_knee(server: &mut QueueingServer, low: u64, high: u64) -> bool {
    // An excess of a thousandth cannot be seen within a step.
    low as f64 <= 1.001 * server.capacity && server.capacity <= high as f64
}

#[test]
fn planted_capacities_are_found() {
    let (covered, near, seconds) = fifty(Neighbour::Quiet, false, has_knee);
    assert!(covered >= 48 && near >= 48 && seconds < 90.0);
}

#[test]
fn a_busy_host_makes_answers_wider_and_not_wrong() {
    for neighbour in [Neighbour::Busy, Neighbour::Bursts] {
        let (covered, near, _) = fifty(neighbour, false, has_knee);
        assert!(covered >= 48 && near >= 25, "{neighbour:?}");
    }
}

#[test]
fn random_arrivals_have_their_capacity_where_the_objective_is_missed_in_the_long_run() {
    let (covered, near, _) = fifty(Neighbour::Quiet, true, |server, low, high| {
        let mut p99 = |load: u64| {
            let mut times: Vec<f64> =
                server.run(load as f64, 100.0).into_iter().map(|(_, time)| time).collect();
            times.sort_unstable_by(f64::total_cmp);
            times[times.len() * 99 / 100]
        };
        // A tenth for the noise of such a run.
        p99(low) < 1.1 * BOUND_S && p99(high) > 0.9 * BOUND_S
    });
    assert!(covered >= 48 && near >= 30);
}

fn certain(search: &mut CapacitySearch, judge: impl Fn(u64) -> Option<Limit>) -> usize {
    let mut steps = 0;
    while let Some(next) = search.next_step() {
        let limit = judge(next.load);
        let blocks = vec![if limit.is_none() { -1.0 } else { 1.0 }; BLOCKS];
        search.tell(next, &Evidence { blocks, held: Some(limit.is_none()), limit });
        steps += 1;
    }
    steps
}

#[test]
fn clear_cases_need_few_steps_and_every_search_ends() {
    let mut random = SplitMix64::new(11);
    for _ in 0..500 {
        let capacity = 10_f64.powf(2.0 + 5.0 * random.unit()) as u64;
        let start = 10_f64.powf(6.0 * random.unit()) as u64;
        let mut search = CapacitySearch::new(start, (1, 50_000_000), 0.05);
        let steps = certain(&mut search, |load| (load > capacity).then_some(Limit::Objective));
        let (low, high) = (search.low().expect("some load holds"), search.high().expect("some load misses"));
        assert!(low <= capacity && capacity < high && high as f64 <= 1.05 * low as f64 + 1.0, "{search:?}");
        let far = (capacity as f64 / start as f64).log2().abs().ceil();
        assert!(steps as f64 <= far + 12.0, "{steps} steps from {start} to {capacity}");
        assert_eq!(search.limited_by(), Limit::Objective);
    }
    let mut search = CapacitySearch::new(1_000, (1, 50_000_000), 0.05);
    certain(&mut search, |_| None);
    assert_eq!((search.low(), search.high(), search.limited_by()), (Some(50_000_000), None, Limit::Bound));
    let mut search = CapacitySearch::new(1_000, (84, 50_000_000), 0.05);
    certain(&mut search, |_| Some(Limit::Rate));
    assert_eq!((search.low(), search.high(), search.limited_by()), (None, Some(84), Limit::Rate));
    for _ in 0..200 {
        let mut search = CapacitySearch::new(1 + random.below(50_000_000), (1, 50_000_000), 0.005);
        let mut steps = 0;
        while let Some(next) = search.next_step() {
            let blocks = (0..BLOCKS).map(|_| random.unit() - 0.5).collect();
            let held = [None, Some(true), Some(false)][random.below(3) as usize];
            search.tell(next, &Evidence { blocks, held, limit: None });
            steps += 1;
        }
        assert!(steps <= STEPS_MAX);
        assert!(search.low().zip(search.high()).is_none_or(|(low, high)| low < high), "{search:?}");
    }
}

#[test]
fn steps_that_say_nothing_leave_a_load_unclear() {
    let mut search = CapacitySearch::new(1_000, (1, 50_000_000), 0.05);
    let mut steps = 0;
    while let Some(next) = search.next_step() {
        let held = (next.load <= 10_000).then_some(true);
        let blocks = if held.is_some() { vec![-1.0; BLOCKS] } else { Vec::new() };
        search.tell(next, &Evidence { blocks, held, limit: held.is_none().then_some(Limit::Host) });
        steps += 1;
    }
    assert!(search.low().is_some_and(|low| (9_000..=10_000).contains(&low)), "{search:?}");
    assert_eq!((search.high(), search.limited_by()), (None, Limit::Host));
    assert!(steps <= 25, "{steps}");
}
