//! The capacity of a server: the highest load at which it meets an objective, as an interval with a confidence, and what is
//! full beyond it.
//!
//! `step` judges a run, `search` decides which load is tried next; here are the options, the answer, and its reason.
//!
//! Never: a clock, I/O, a run.

mod search;
pub(crate) mod step;

use std::time::Duration;

use crate::analyse::objective::Objective;
use crate::plan::{CONNECTIONS_MAX, Pace, RATE_MAX, Workload};
use crate::record::search::{Axis, CpuUse, Limit, SearchResult, SearchStep};
use search::{BLOCKS, CapacitySearch, ERROR};

/// Default first rate in messages per second.
pub const START_DEFAULT: u64 = 1_000;
/// Default precision: the relative distance of the two loads at which a search ends.
pub const PRECISION_DEFAULT: f64 = 0.05;
/// The smallest and largest precision.
pub const PRECISIONS: (f64, f64) = (0.005, 0.5);
/// Default measured time of a step.
pub const STEP_TIME_DEFAULT: Duration = Duration::from_secs(5);
/// Default time of a search.
pub const SEARCH_TIME_DEFAULT: Duration = Duration::from_secs(600);
/// The default objective.
pub const OBJECTIVE_DEFAULT: &str = "p99<50ms, lost=0";
/// Measured time of a quick step, in slices of the record: one for each block.
const QUICK: Duration = Duration::from_millis(100 * BLOCKS as u64);
/// Maximum measured time of a step, if the objective's quantile needs more messages.
const STEP_TIME_MAX: Duration = Duration::from_secs(120);
/// Maximum measured time of a quick step, and of one at a load below the first.
const LOWER_STEP_TIME_MAX: Duration = Duration::from_secs(30);
/// A search goes down to the first load divided by this. If the objective still fails, it is unreachable, or the first
/// load was far too high.
const DOWN: u64 = 32;
/// Share of a CPU that is full.
const FULL: f64 = 0.95;
/// Share of a CPU by which it was less busy at a load that held, if it is what stops a higher one.
const CONTRAST: f64 = 0.01;
/// CPUs from which on other programs than server and generator are told.
const OTHERS_SHARE: f64 = 0.5;
/// Digits of the ends of an interval, which is rounded outward.
const DIGITS: u32 = 3;

/// The options of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct CapacityOptions {
    /// The objective.
    pub objective: Objective,
    /// The load that is varied. The first one is that of the workload.
    pub axis: Axis,
    /// The relative distance of the two loads at which the search ends: 0.05 is 5 %.
    pub precision: f64,
    /// When no further step begins.
    pub max_duration: Duration,
    /// The highest number of connections that the descriptors allow.
    pub connections_max: u32,
}

impl CapacityOptions {
    pub(crate) fn search(&self, load: &Workload) -> CapacitySearch {
        let start = self.start(load);
        let fixed = u64::from(load.publishers) + u64::from(load.stalled);
        let connections = u64::from(self.connections_max.min(CONNECTIONS_MAX));
        let (least, most) = match self.axis {
            Axis::Rate => {
                let needed = self.objective.messages_needed().div_ceil(LOWER_STEP_TIME_MAX.as_secs());
                (needed.max(start / DOWN).min(start), RATE_MAX)
            }
            Axis::Connections => (start / DOWN, connections),
            Axis::Subscribers => (start / DOWN, connections.saturating_sub(fixed)),
        };
        CapacitySearch::new(start, (least, most), self.precision)
    }

    fn start(&self, load: &Workload) -> u64 {
        match self.axis {
            Axis::Rate => load.pace.rate().unwrap_or(START_DEFAULT),
            Axis::Connections => load.connections.into(),
            Axis::Subscribers => (load.connections - load.publishers - load.stalled).into(),
        }
    }

    /// The lowest first rate: one that gives the objective enough messages within a step.
    pub fn least_start(&self) -> u64 {
        self.objective.messages_needed().div_ceil(STEP_TIME_MAX.as_secs()).max(1)
    }

    /// The workload of a step. `times`: its length, as a multiple of a full step.
    pub(crate) fn at(&self, load: &Workload, value: u64, times: Option<u32>) -> Workload {
        let start = self.start(load).max(1);
        let rate = load.pace.rate().unwrap_or(START_DEFAULT);
        let as_count = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let (rate, connections) = match self.axis {
            Axis::Rate => (value, load.connections),
            Axis::Connections => (rate * value / start, as_count(value)),
            Axis::Subscribers => (rate, as_count(value) + load.publishers + load.stalled),
        };
        let rate = rate.max(1);
        // Enough for the quantile, and in a full step twice that, since each block has one.
        let needed = Duration::from_secs_f64(self.objective.messages_needed() as f64 / rate as f64);
        let duration = match times {
            None => QUICK.max(needed.min(LOWER_STEP_TIME_MAX)),
            Some(times) => load.duration.max((2 * needed).min(STEP_TIME_MAX)) * times,
        };
        Workload { pace: Pace::Rate(rate), connections, duration, ..load.clone() }
    }

    /// The answer of a search. `target`: the server's address; `ended_by`: why the search ended before its time.
    pub(crate) fn answer(
        &self,
        search: &CapacitySearch,
        steps: Vec<SearchStep>,
        ended_by: Option<Limit>,
        target: &str,
    ) -> SearchResult {
        let limit = ended_by.unwrap_or_else(|| search.limited_by());
        let failed =
            search.high().or_else(|| steps.iter().filter(|step| !step.held).map(SearchStep::on_axis).min());
        let failed =
            failed.and_then(|load| steps.iter().rev().find(|step| step.on_axis() == load && !step.held));
        let is_servers = failed.is_none_or(|step| step.limit != Some(Limit::Generator));
        let low = search.low();
        let held = steps.iter().filter(|step| Some(step.on_axis()) == low && step.held);
        // Where an upper end is known, it tells more than how the search ended.
        let of_end = search.high().and(failed).and_then(|step| step.limit).unwrap_or(limit);
        let reason = reason(of_end, failed, held.clone().next_back(), is_local(target));
        SearchResult {
            objective: self.objective.to_string(),
            axis: self.axis,
            precision: self.precision,
            low: low.map(|load| rounded(load, u64::div_euclid)),
            high: search.high().filter(|_| is_servers).map(|load| rounded(load, u64::div_ceil)),
            confidence: 1.0 - ERROR,
            beyond: reason.as_ref().map(|(what, _)| what.clone()),
            next: reason.and_then(|(_, next)| next),
            at_least: None,
            elapsed_s: 0.0,
            max_rate: held.map(|step| step.rate).max(),
            knee: step::knee(&steps),
            limited_by: limit,
            steps,
        }
    }
}

/// A load with few digits, by a division that rounds up or down.
fn rounded(load: u64, divide: fn(u64, u64) -> u64) -> u64 {
    let unit = 10_u64.pow((load.max(1).ilog10() + 1).saturating_sub(DIGITS));
    divide(load, unit) * unit
}

/// Whether the server runs on this host, by its address.
fn is_local(target: &str) -> bool {
    let host = target.split_once("://").map_or(target, |(_, rest)| rest);
    ["embedded", "127.", "localhost", "[::1]", "unix:"].iter().any(|local| host.starts_with(local))
}

/// What is full beyond the capacity, in contrast with a step at its lower end, and the experiment that tells more.
fn reason(
    limit: Limit,
    failed: Option<&SearchStep>,
    held: Option<&SearchStep>,
    is_local: bool,
) -> Option<(String, Option<String>)> {
    let some = |what: &str, next: &str| Some((what.to_owned(), Some(next.to_owned())));
    match limit {
        Limit::Generator => {
            some("the generator is full", "give it more --threads or CPUs, or share the load with --agents")
        }
        Limit::Host => some(
            "the host took CPU time away from the measurement, so that nothing was decided",
            "repeat it while the host does nothing else, or put the generator on another host",
        ),
        Limit::Time => {
            Some((limit.words().to_owned() + " was over", Some("allow a longer --max-duration".to_owned())))
        }
        Limit::Steps | Limit::Bound | Limit::Interrupted | Limit::Target => {
            Some((format!("nothing was measured because of {}", limit.words()), None))
        }
        Limit::Objective | Limit::Rate | Limit::Integrity => failed.map(|step| full(step, held, is_local)),
    }
}

/// The resource that is full in a step that the server did not hold, and was not full in one that it `held`.
fn full(step: &SearchStep, held: Option<&SearchStep>, is_local: bool) -> (String, Option<String>) {
    let was_full = |cpu: &CpuUse| {
        let before = held.and_then(|held| held.cpus.iter().find(|before| before.cpu == cpu.cpu));
        before.is_some_and(|before| before.busy + CONTRAST > cpu.busy)
    };
    let (busy, always): (Vec<&CpuUse>, Vec<&CpuUse>) =
        step.cpus.iter().filter(|cpu| cpu.busy >= FULL).partition(|cpu| !was_full(cpu));
    let why = step.why.as_deref().unwrap_or("it failed");
    let server_before = held.and_then(|held| held.server_cpu);
    if let Some(share) =
        step.server_cpu.filter(|share| *share >= FULL && share.fract().min(1.0 - share.fract()) < 0.1)
        && server_before.is_none_or(|before| before + CONTRAST <= share)
    {
        return (format!("the server's process takes {share:.1} CPUs, all that its threads can use"), None);
    }
    let busy_cpus: f64 = step.cpus.iter().map(|cpu| cpu.busy).sum();
    let others = step.server_cpu.map_or(0.0, |server| busy_cpus - server - step.generator_cpu);
    if is_local && others >= OTHERS_SHARE {
        let next = "repeat it while the host does nothing else, since they delay the server too";
        return (format!("{why}, while other programs take {others:.1} CPUs"), Some(next.to_owned()));
    }
    let all = !step.cpus.is_empty() && busy.len() == step.cpus.len();
    match (is_local, busy.as_slice()) {
        (true, [..]) if all && busy.len() > 1 => (
            "all CPUs of this host are full".to_owned(),
            Some("put the generator on another host: it shares the CPUs with the server".to_owned()),
        ),
        (true, [one, rest @ ..]) => {
            let names =
                rest.iter().fold(one.cpu.to_string(), |names, cpu| format!("{names} and {}", cpu.cpu));
            let (word, are) = if rest.is_empty() { ("CPU", "is") } else { ("CPUs", "are") };
            (format!("{word} {names} {are} full"), None)
        }
        (true, []) if !always.is_empty() => (
            format!(
                "{why}, while the CPUs are no fuller than at the highest load that held: the server waits for something else"
            ),
            Some(format!("watch where it waits, at --rate {}", step.rate)),
        ),
        (true, []) => (
            format!("no CPU is full and {why}: the server waits for something else"),
            Some(format!("watch where it waits, at --rate {}", step.rate)),
        ),
        (false, _) => (
            why.to_owned(),
            Some("measure on the server's host with --server-pid to see its CPUs".to_owned()),
        ),
    }
}

#[cfg(test)]
mod tests;
