//! Experiments: a plan's loads run once, as a search for the highest rate that meets an objective, or repeatedly,
//! alternating with a baseline if there is one.
//!
//! Never: counting or timing anything itself.

use serde_json::Value;

use super::compare::{self, THRESHOLD_DEFAULT};
use super::search::{self, Search, SearchOptions};
use crate::engine::{Outcome, RunProgress, RunVerdict, TargetSession};
use crate::plan::{Pace, Plan, Refused, Resources, Target, Workload, count, duration};
use crate::record::Repetition;
use crate::record::comparison::Comparison;
use crate::record::search::{Limit, SearchResult, SearchStep};
use echoring_proto::random::{SplitMix64, mix};

/// How often the loads run, and at which rates.
#[derive(Debug)]
pub enum Experiment {
    /// Each load once.
    Once,
    /// Each load at rates that follow from the results so far.
    Search(SearchOptions),
    /// Each load this many times.
    Repeat {
        /// Runs of each load, at least 1.
        times: u32,
        /// The baseline, measured as often, in turn.
        against: Option<Baseline>,
    },
}

/// The second of two targets.
#[derive(Debug)]
pub struct Baseline {
    /// The baseline's address.
    pub target: Target,
    /// A process whose CPU time and memory are sampled.
    pub server_pid: Option<u32>,
}

/// A target that can be put under a load, by this process or by others.
pub trait Measures {
    /// Puts it under one load. `show` is called a few times per second.
    ///
    /// # Errors
    /// If the environment prevents the run.
    fn measure(&self, load: Workload, show: &mut dyn FnMut(&RunProgress<'_>)) -> Result<Outcome, Refused>;

    /// Whether the user has stopped the experiment.
    fn is_stopped(&self) -> bool;
}

impl Measures for TargetSession {
    fn measure(&self, load: Workload, show: &mut dyn FnMut(&RunProgress<'_>)) -> Result<Outcome, Refused> {
        TargetSession::measure(self, load, show)
    }

    fn is_stopped(&self) -> bool {
        TargetSession::is_stopped(self)
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
        Experiment::Search(options) => {
            let session = TargetSession::open(target, resources)?;
            return or_refused(search_all(&session, &workloads, &options, show));
        }
        Experiment::Once => (None, None),
    };
    let baseline = baseline
        .map(|Baseline { target, server_pid }| (target, Resources { server_pid, ..resources.clone() }));
    let session = TargetSession::open(target, resources)?;
    let other = baseline.map(|(target, resources)| TargetSession::open(target, resources)).transpose()?;
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
        Experiment::Search(options) => search_all(target, workloads, options, show),
        Experiment::Repeat { times, .. } => repeat(target, None, workloads, Some(*times), show),
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
        results.comparison = compare_all(&results.outcomes);
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

fn compare_all(outcomes: &[Outcome]) -> Vec<Comparison> {
    let side = |wanted: &str| -> Vec<Value> {
        let own = |outcome: &&Outcome| outcome.record.repetition.as_ref().is_some_and(|r| r.side == wanted);
        outcomes.iter().filter(own).map(|outcome| outcome.record.value()).collect()
    };
    let metrics = compare::metrics(&compare::METRICS).unwrap_or_default();
    let (a, b) = (side("a"), side("b"));
    if b.is_empty() {
        return compare::spread(&a, &metrics);
    }
    // Without a complete run on each side there is nothing to compare.
    let options = compare::CompareOptions {
        metrics,
        threshold: THRESHOLD_DEFAULT,
        trust_single: false,
        one_machine: true,
    };
    compare::compare(&a, &b, &options).unwrap_or_default()
}

// ---- the search ----

fn search_all(
    session: &dyn Measures,
    workloads: &[Workload],
    options: &SearchOptions,
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

/// The best run, with the search in its record; the last run if none met the objective.
fn search_one(
    session: &dyn Measures,
    load: &Workload,
    options: &SearchOptions,
    show: &mut dyn FnMut(Progress<'_>),
) -> (Option<Outcome>, Option<Refused>) {
    let mut search = Search::new(options.start, search::bounds(options), options.precision);
    let mut steps: Vec<SearchStep> = Vec::new();
    let (mut best, mut last) = (None, None);
    let (mut refused, mut ended_by) = (None, None);
    while let Some(rate) = search.next_rate() {
        let duration = options.step_time(load.duration, rate);
        let seed = mix(load.seed ^ steps.len() as u64);
        let one = Workload { pace: Pace::Rate(rate), duration, seed, ..load.clone() };
        let outcome = match session.measure(one.clone(), &mut |moment| show(Progress::Run(moment))) {
            Ok(outcome) => outcome,
            Err(reason) => {
                (refused, ended_by) = (Some(reason), Some(Limit::Target));
                break;
            }
        };
        let step = search::evaluate(&outcome, &one, rate, &options.objective);
        show(Progress::Note(&text(load, &step)));
        if step.held && search.max_rate().is_none_or(|held| rate > held) {
            best = Some(outcome);
        } else {
            last = Some(outcome);
        }
        search.tell(rate, step.limit);
        steps.push(step);
        if session.is_stopped() {
            ended_by = Some(Limit::Interrupted);
            break;
        }
    }
    let mut outcome: Option<Outcome> = best.or(last);
    if let Some(outcome) = &mut outcome {
        outcome.record.search = Some(SearchResult {
            objective: options.objective.to_string(),
            precision: options.precision,
            max_rate: search.max_rate(),
            knee: search::knee(&steps),
            limited_by: ended_by.unwrap_or_else(|| search.limited_by()),
            steps,
        });
    }
    (outcome, refused)
}

fn text(load: &Workload, step: &SearchStep) -> String {
    let came = match &step.why {
        None => format!("meets the objective, p99 {}", duration(step.p99_ns)),
        Some(why) => format!("fails: {why}"),
    };
    format!("{}: {} messages/s {came}", load.mode.name(), count(step.rate))
}

#[cfg(test)]
mod tests {
    use super::*;

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
