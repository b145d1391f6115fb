//! Experiments: a plan's loads run once, as a search for the capacity of the server, or repeatedly, alternating with a
//! baseline if there is one, or until it is known which of two targets is better.
//!
//! Never: counting or timing messages itself.

mod paired;

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

pub use self::paired::PairedOptions;
use super::capacity::{CapacityOptions, step};
use super::compare::{self, THRESHOLD_DEFAULT};
use super::objective::Metric;
use crate::engine::{Measures, Outcome, RunProgress, RunStage, RunVerdict, TargetSession};
use crate::measure::host;
use crate::plan::{Plan, Refused, Resources, Target, Workload, count, duration};
use crate::record::Repetition;
use crate::record::comparison::Comparison;
use crate::record::search::{Axis, CpuUse, Limit, SearchStep};
use echoring_proto::random::{SplitMix64, mix};

/// How often the loads run, and at which rates.
#[derive(Debug)]
pub enum Experiment {
    /// Each load once.
    Once,
    /// Each load at levels that follow from the results so far.
    Capacity(CapacityOptions),
    /// Each load this many times.
    Repeat {
        /// Runs of each load, at least 1.
        times: u32,
        /// The baseline, measured as often, in turn.
        against: Option<Baseline>,
    },
    /// Each load on two targets, in pairs of runs, until the verdicts are known.
    Compare(PairedOptions),
}

/// The second of two targets.
#[derive(Debug)]
pub struct Baseline {
    /// The baseline's address.
    pub target: Target,
    /// A process whose CPU time and memory are sampled.
    pub server_pid: Option<u32>,
}

impl Baseline {
    fn resources(&self, of_first: &Resources) -> Resources {
        Resources { server_pid: self.server_pid, ..of_first.clone() }
    }
}

/// Progress of an experiment.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// The current run, a few times a second.
    Run(&'a RunProgress<'a>),
    /// A line that stays on the screen.
    Note(&'a str),
}

/// The results of all runs.
#[derive(Debug, Default)]
pub struct Results {
    /// All runs; for a search, the best one.
    pub outcomes: Vec<Outcome>,
    /// The statistics of repeated runs, load by load.
    pub comparison: Vec<Comparison>,
    /// Why the experiment ended early.
    pub refused: Option<Refused>,
}

impl Results {
    /// Whether every run succeeded, and none is missing.
    pub fn is_good(&self) -> bool {
        self.refused.is_none()
            && self.outcomes.iter().all(|outcome| {
                let failed_search = outcome.record.search.as_ref().and_then(|found| found.failure_text());
                outcome.verdict() == RunVerdict::Good && failed_search.is_none()
            })
    }
}

/// Runs a plan's loads as `experiment` says.
///
/// # Errors
/// If the environment prevents the first run: the server is unreachable, ports or descriptors are too few, or the
/// driver is denied. Later failures end the experiment and are returned in [`Results::refused`].
pub fn run_experiment(
    plan: Plan,
    experiment: Experiment,
    show: &mut dyn FnMut(Progress<'_>),
) -> Result<Results, Refused> {
    let Plan { target, workloads, resources } = plan;
    let (times, baseline) = match experiment {
        Experiment::Repeat { times, against } => (Some(times), against),
        Experiment::Compare(PairedOptions { against, goals, longest }) => {
            let other = against.resources(&resources);
            let session = TargetSession::open(target, resources)?;
            let other = TargetSession::open(against.target, other)?;
            let targets: paired::Targets<'_> = [(&session, "a"), (&other, "b")];
            return or_refused(paired::compare(targets, &workloads, (&goals, longest), show));
        }
        Experiment::Capacity(options) => {
            let session = TargetSession::open(target, resources)?;
            return or_refused(search_all(&session, &workloads, &options, show));
        }
        Experiment::Once => (None, None),
    };
    let baseline = baseline.map(|baseline| (baseline.resources(&resources), baseline.target));
    let session = TargetSession::open(target, resources)?;
    let other = baseline.map(|(resources, target)| TargetSession::open(target, resources)).transpose()?;
    let other = other.as_ref().map(|other| other as &dyn Measures);
    or_refused(repeat(&session, other, &workloads, times, show))
}

/// Runs loads on a target that others than this process measure.
///
/// # Errors
/// As [`run_experiment`].
pub fn run_experiment_on(
    target: &dyn Measures,
    workloads: &[Workload],
    experiment: &Experiment,
    show: &mut dyn FnMut(Progress<'_>),
) -> Result<Results, Refused> {
    or_refused(match experiment {
        Experiment::Once => repeat(target, None, workloads, None, show),
        Experiment::Capacity(options) => search_all(target, workloads, options, show),
        Experiment::Repeat { times, .. } => repeat(target, None, workloads, Some(*times), show),
        Experiment::Compare(_) => {
            return Err(Refused("a comparison measures both targets from one process".to_owned()));
        }
    })
}

/// The results, unless there are none.
fn or_refused(mut results: Results) -> Result<Results, Refused> {
    match results.refused.take() {
        Some(refused) if results.outcomes.is_empty() => Err(refused),
        refused => Ok(Results { refused, ..results }),
    }
}

// ---- repetitions ----

fn repeat(
    target: &dyn Measures,
    other: Option<&dyn Measures>,
    workloads: &[Workload],
    repetitions: Option<u32>,
    show: &mut dyn FnMut(Progress<'_>),
) -> Results {
    let mut results = repeat_all(target, other, workloads, repetitions.unwrap_or(1), show);
    if repetitions.is_some() {
        let metrics = compare::metrics(&compare::METRICS).unwrap_or_default();
        results.comparison = compare_all(&results.outcomes, metrics, THRESHOLD_DEFAULT);
    }
    results
}

fn repeat_all(
    target: &dyn Measures,
    other: Option<&dyn Measures>,
    workloads: &[Workload],
    times: u32,
    show: &mut dyn FnMut(Progress<'_>),
) -> Results {
    let mut sides = vec![(target, "a")];
    sides.extend(other.map(|other| (other, "b")));
    let seed = workloads.first().map_or(0, |load| load.seed);
    let mut results = Results::default();
    for number in 1..=times {
        if times > 1 {
            show(Progress::Note(&format!("repetition {number} of {times}")));
        }
        let second_first = sides.len() > 1 && second_first(seed, number);
        for load in workloads {
            for at in 0..sides.len() {
                let (session, side) = &sides[if second_first { sides.len() - 1 - at } else { at }];
                // The two runs of a pair get the same payloads and arrivals; no two pairs share topics.
                let seed = if number == 1 { load.seed } else { mix(load.seed ^ u64::from(number)) };
                let load = Workload { seed, ..load.clone() };
                match session.measure(load, &mut |moment| show(Progress::Run(moment))) {
                    Ok(mut outcome) => {
                        let side = (*side).to_owned();
                        outcome.record.repetition =
                            (times > 1).then_some(Repetition { number, of: times, side });
                        results.outcomes.push(outcome);
                    }
                    Err(refused) => {
                        results.refused = Some(refused);
                        return results;
                    }
                }
                if session.is_stopped() {
                    return results;
                }
            }
        }
    }
    results
}

/// Whether the second target runs first in the pair with this number: at random in odd pairs, and the opposite in the
/// even ones after them. So a machine that slows down steadily favours neither target.
fn second_first(seed: u64, number: u32) -> bool {
    let couple = u64::from(number.saturating_sub(1) / 2);
    let drawn = SplitMix64::new(seed ^ mix(couple)).below(2) == 1;
    drawn ^ number.is_multiple_of(2)
}

fn compare_all(outcomes: &[Outcome], metrics: Vec<Metric>, threshold: f64) -> Vec<Comparison> {
    let side = |wanted: &str| -> Vec<Value> {
        let own = |outcome: &&Outcome| outcome.record.repetition.as_ref().is_some_and(|r| r.side == wanted);
        outcomes.iter().filter(own).map(|outcome| outcome.record.value()).collect()
    };
    let (a, b) = (side("a"), side("b"));
    if b.is_empty() {
        return compare::spread(&a, &metrics);
    }
    // Without a complete run on each side there is nothing to compare.
    let options = compare::CompareOptions { metrics, threshold };
    compare::compare(&a, &b, &options).unwrap_or_default()
}

// ---- the search ----

fn search_all(
    session: &dyn Measures,
    workloads: &[Workload],
    options: &CapacityOptions,
    show: &mut dyn FnMut(Progress<'_>),
) -> Results {
    let mut results = Results::default();
    for load in workloads {
        let (outcome, refused) = search_one(session, load, options, show);
        results.outcomes.extend(outcome);
        results.refused = refused;
        if results.refused.is_some() || session.is_stopped() {
            break;
        }
    }
    results
}

/// The latest run at the lower end, with the search in its record; the last run if there is no such end.
fn search_one(
    session: &dyn Measures,
    load: &Workload,
    options: &CapacityOptions,
    show: &mut dyn FnMut(Progress<'_>),
) -> (Option<Outcome>, Option<Refused>) {
    let began = Instant::now();
    let mut search = options.search(load);
    let mut steps: Vec<SearchStep> = Vec::new();
    // A load that held may be refuted later, so which one is the lower end is known in the end.
    let (mut held, mut last): (BTreeMap<u64, Outcome>, Option<Outcome>) = (BTreeMap::new(), None);
    let (mut refused, mut ended_by) = (None, None);
    while let Some(next) = search.next_step() {
        let seed = mix(load.seed ^ steps.len() as u64);
        let one = Workload { seed, ..options.at(load, next.load, next.times) };
        if !steps.is_empty() && began.elapsed() + one.warmup + one.duration > options.max_duration {
            ended_by = Some(Limit::Time);
            break;
        }
        let (outcome, cpus) = match measure_with_cpus(session, &one, show) {
            Ok(measured) => measured,
            Err(reason) => {
                (refused, ended_by) = (Some(reason), Some(Limit::Target));
                break;
            }
        };
        let mut step = step::evaluate(&outcome, &one, cpus, &options.objective);
        step.load = (options.axis != Axis::Rate).then_some(next.load);
        let unit = options.axis.unit(load.mode.name());
        show(Progress::Note(&format!("{} {unit} {}", count(next.load), text(&step))));
        search.tell(next, &step::evidence(&outcome, &one, &step, &options.objective));
        if step.held {
            held.insert(next.load, outcome);
        } else {
            last = Some(outcome);
        }
        steps.push(step);
        if session.is_stopped() {
            ended_by = Some(Limit::Interrupted);
            break;
        }
    }
    let at_low = search.low().and_then(|low| held.remove(&low));
    let mut outcome = at_low.or(last).or_else(|| held.pop_first().map(|(_, outcome)| outcome));
    if let Some(outcome) = &mut outcome {
        let mut found = options.answer(&search, steps, ended_by, &outcome.record.target);
        found.elapsed_s = began.elapsed().as_secs_f64();
        outcome.record.search = Some(found);
    }
    (outcome, refused)
}

/// A run, and what the CPUs of this host did during its measured time.
fn measure_with_cpus(
    session: &dyn Measures,
    load: &Workload,
    show: &mut dyn FnMut(Progress<'_>),
) -> Result<(Outcome, Vec<CpuUse>), Refused> {
    let (mut from, mut until) = (None, None);
    let outcome = session.measure(load.clone(), &mut |moment| {
        match moment.stage {
            RunStage::Connecting | RunStage::WarmingUp => {}
            RunStage::Measuring => _ = from.get_or_insert_with(host::cpu_times),
            RunStage::Draining | RunStage::Done => _ = until.get_or_insert_with(host::cpu_times),
        }
        show(Progress::Run(moment));
    })?;
    let (from, until) = (from.unwrap_or_default(), until.unwrap_or_default());
    let of = |(from, until): (&host::CpuTime, &host::CpuTime)| {
        let all = until.all.saturating_sub(from.all).max(1) as f64;
        let share = |part: fn(&host::CpuTime) -> u64| part(until).saturating_sub(part(from)) as f64 / all;
        let (idle, stolen) = (share(|time| time.idle), share(|time| time.stolen));
        CpuUse { cpu: until.cpu, busy: (1.0 - idle - stolen).max(0.0), stolen }
    };
    Ok((outcome, from.iter().zip(&until).map(of).collect()))
}

fn text(step: &SearchStep) -> String {
    match &step.why {
        None => format!("meet the objective, p99 {}", duration(step.p99_ns)),
        Some(why) => format!("fail: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::measure::{encode, histogram};
    use crate::plan::Mode;
    use crate::plan::workload::tests::workload;
    use crate::record::Quantiles;
    use crate::record::tests::{outcome, record};
    use crate::record::time_series::TimeSeries;

    const CAPACITY: u64 = 9_700;

    /// A server of arithmetic, whose response time is as many microseconds as messages a second, and 90 ms beyond its capacity. Up to a
    /// tenth beyond it, the first run at a load is as good as those below.
    #[derive(Default)]
    struct Arithmetic {
        tried: RefCell<BTreeSet<u64>>,
    }

    impl Measures for Arithmetic {
        fn measure(&self, load: Workload, _: &mut dyn FnMut(&RunProgress<'_>)) -> Result<Outcome, Refused> {
            let rate = load.pace.rate().expect("a search has a rate");
            let is_first = self.tried.borrow_mut().insert(rate);
            let is_held = rate <= CAPACITY || (is_first && rate <= 11 * CAPACITY / 10);
            let slices = load.duration.as_millis() as u64 / 100;
            let mut slice = histogram();
            let took_us = if is_held { rate } else { 90_000 };
            slice.record_n(1_000 * took_us, rate / 10).expect("within bounds");
            let mut all = histogram();
            all.record_n(1_000 * took_us, rate / 10 * slices).expect("within bounds");
            let counts = vec![rate / 10; slices as usize];
            let mut record = record();
            record.messages_per_s = rate as f64;
            record.config.rate = Some(rate.into());
            record.response_ns = Quantiles::of(&all);
            record.timeline = Some(TimeSeries {
                slice_s: 0.1,
                due: Some(counts.clone()),
                sent: counts.clone(),
                arrived: counts.clone(),
                open: counts.clone(),
                opened: counts.clone(),
                errors: vec![0; slices as usize],
                closed: vec![0; slices as usize],
                response_histograms: vec![Some(encode(&slice)); slices as usize],
                server: None,
            });
            Ok(Outcome { response: all, ..outcome(record) })
        }

        fn is_stopped(&self) -> bool {
            false
        }
    }

    #[test]
    fn the_record_of_a_search_is_that_of_its_lower_end_whatever_held_once_beyond() {
        for start in [500, 12_000] {
            let server = Arithmetic::default();
            let options = CapacityOptions {
                objective: "p99<50ms, lost=0".parse().expect("an objective"),
                axis: Axis::Rate,
                precision: 0.02,
                max_duration: Duration::MAX,
                connections_max: 1_000,
            };
            let load = Workload {
                pace: crate::plan::Pace::Rate(start),
                duration: Duration::from_secs(5),
                ..workload(Mode::Echo)
            };
            let (found, refused) = search_one(&server, &load, &options, &mut |_| {});
            assert!(refused.is_none());
            let record = found.expect("a record").record;
            let search = record.search.as_ref().expect("a search");
            let (low, high) = (search.low.expect("an end"), search.high.expect("an end"));
            assert!(low <= CAPACITY && CAPACITY <= high, "{start}: {low} to {high}");
            let lucky = search.steps.iter().filter(|step| step.held).map(|step| step.rate).max();
            assert!(lucky > Some(CAPACITY), "{start}: some load held once: {:?}", search.steps);
            let rate = search.max_rate.expect("a rate");
            assert!(low <= rate && rate <= CAPACITY, "{start}: {rate}");
            assert_eq!(record.config.rate, Some(rate.into()), "{start}");
            let error = record.response_ns.p99.abs_diff(1_000 * rate);
            assert!(error <= 5 * rate, "{start}: p99 {} at {rate}", record.response_ns.p99);
        }
    }

    #[test]
    fn neither_target_is_first_more_often_than_the_other() {
        for seed in 0..200 {
            let first = (1..=20).filter(|number| second_first(seed, *number)).count();
            assert_eq!(first, 10, "pairs two by two, one each way round");
            for couple in 0..10 {
                let (one, other) = (2 * couple + 1, 2 * couple + 2);
                assert_ne!(second_first(seed, one), second_first(seed, other));
            }
        }
        let starts: Vec<bool> = (0..200).map(|seed| second_first(seed, 1)).collect();
        let second = starts.iter().filter(|second_first| **second_first).count();
        assert!((60..140).contains(&second), "{second} of 200");
    }
}
