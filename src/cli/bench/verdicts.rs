//! Flags of `bench` for experiments and checks, and the exit code that the results give.

use std::process::ExitCode;
use std::str::FromStr as _;
use std::time::Duration;

use clap::ValueEnum;

use super::headings::{EXPERIMENTS, NONE};
use super::search::SearchArgs;
use super::usage::{refuse, usage};
use crate::common::output::note;
use crate::common::values;
use crate::{EXIT_ENVIRONMENT, Failure};
use echoring_load::analyse::compare::JUDGED;
use echoring_load::analyse::objective::{Metric, Objective};
use echoring_load::record::comparison::Comparison;
use echoring_load::record::failures;
use echoring_load::record::search::Limit;
use echoring_load::render::summary;
use echoring_load::{Baseline, Experiment, Outcome, Results, RunProgress, RunStage, RunVerdict, Workload};

/// Exit code of a run with lost, damaged or failed messages or connections, or that misses a threshold.
const EXIT_BROKEN: u8 = 1;
/// Exit code of a run that measured the generator.
const EXIT_SATURATED: u8 = 4;
/// How often the conditions of `--abort-if` are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Repetitions that one `bench` makes at most.
const REPEAT_MAX: u32 = 1_000;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = EXPERIMENTS)]
pub(super) struct Args {
    /// Exit with 1 if this condition holds, such as 'p99.9>5ms' or 'lost>0'; repeatable
    ///
    /// METRIC OP VALUE, several joined by &&. A condition that cannot be evaluated also fails the run.
    #[arg(long, value_name = "EXPR", value_parser = Objective::from_str, help_heading = NONE)]
    pub(super) fail_if: Vec<Objective>,

    /// End the run with exit code 1 as soon as this condition holds, such as 'p99>50ms'; repeatable
    ///
    /// It is checked once per second of the measured time. METRIC is one of response time, duplicated, reordered, corrupted,
    /// late or errors; a quantile counts once ten messages lie beyond it.
    #[arg(long, value_name = "EXPR", value_parser = Objective::from_str)]
    pub(super) abort_if: Vec<Objective>,

    /// Number of runs; the results include their spread [default: 1]
    #[arg(long, value_name = "N", value_parser = values::number_in(2..=REPEAT_MAX))]
    pub(super) repeat: Option<u32>,

    /// Compare with this server: in --repeat pairs of runs, or as many as --until needs
    #[arg(long, value_name = "URL")]
    pub(super) against: Option<String>,

    /// Exit with 1 if the server of --against is worse: its p50, p99, messages_per_s or cpu_per_message
    #[arg(long, value_enum, value_name = "VERDICT")]
    pub(super) fail_on: Option<FailOn>,

    /// Process of the server of --against; its CPU time and memory become part of the results
    #[arg(long, value_name = "PID")]
    pub(super) against_pid: Option<u32>,

    /// The search of `capacity`.
    #[arg(skip)]
    pub(super) capacity: Option<SearchArgs>,
}

impl Args {
    /// Refuses flags that contradict one another, whatever the load is.
    pub(super) fn check(&self, has_goals: bool) -> Result<(), Failure> {
        let example = "such as bench ws://127.0.0.1:9001 --repeat 10 --against ws://127.0.0.1:9101";
        let is_missing = self.against.is_some() && self.repeat.is_none() && !has_goals;
        let why =
            format!("set the number of pairs of runs with --repeat, {example}, or their goal with --until");
        refuse([("--against", is_missing)], &why)
    }

    /// Refuses metrics that no run of these loads has. `server_known`: whether the server's CPU time is; `has_goals`: whether
    /// runs end by goals.
    pub(super) fn check_metrics(
        &self,
        workloads: &[Workload],
        server_known: bool,
        has_goals: bool,
    ) -> Result<(), Failure> {
        let all = [("--fail-if", &self.fail_if[..]), (ABORT_IF, &self.abort_if)];
        let all = all.into_iter().chain(self.capacity.as_ref().map(SearchArgs::condition));
        let all = all.into_iter().flat_map(|(flag, list)| list.iter().map(move |one| (flag, one)));
        for (flag, expression) in all {
            let searches = self.capacity.is_some();
            if let Some(why) = unknown_metric(flag, expression, workloads, server_known, searches) {
                return Err(usage(flag, &format!("{expression}: {why}")));
            }
            if !has_goals && expression.metrics().any(Metric::needs_goals) {
                let why =
                    "only runs with --until have goals, such as --until 'p99±5%' --fail-if 'unreached>0'";
                return Err(usage(flag, &format!("{expression}: {why}")));
            }
        }
        Ok(())
    }

    /// How often the loads run.
    pub(super) fn experiment(&self, rival: Option<Baseline>) -> Experiment {
        self.repeat.map_or(Experiment::Once, |times| Experiment::Repeat { times, against: rival })
    }
}

const OBJECTIVE: &str = "--objective";
const ABORT_IF: &str = "--abort-if";

/// Why a metric of `expression` is in no run of these loads, if one is.
fn unknown_metric(
    flag: &str,
    expression: &Objective,
    workloads: &[Workload],
    server_known: bool,
    searches: bool,
) -> Option<&'static str> {
    let fits = |load: &Workload| expression.is_of_mode(load.mode.name());
    // A search is made for each load, while a condition passes over those that it does not fit.
    let fit = if flag == OBJECTIVE { workloads.iter().all(fits) } else { workloads.iter().any(fits) };
    let has = |is: fn(&Metric) -> bool| expression.metrics().any(is);
    // All that it fits have the same options.
    let missing = |load: &Workload| expression.metrics().find_map(|metric| metric.missing_in(load));
    let missing = workloads.iter().filter(|load| fits(load)).find_map(missing);
    let is_closed = !workloads.iter().any(Workload::is_open_loop);
    if flag == ABORT_IF && !expression.metrics().all(Metric::is_live) {
        Some("that metric is known only at the end, such as --fail-if 'lost>0'")
    } else if !fit {
        Some("no run of this mode has that metric, such as --mode broadcast --fail-if 'last.p99>5ms'")
    } else if missing.is_some() {
        missing
    } else if has(|metric| metric.needs_server()) && !server_known {
        Some("the server's CPU time is known only with its process, such as --server-pid 4711")
    } else if has(|metric| metric.needs_schedule()) && is_closed {
        Some("only an open loop has lateness, such as --rate 5000")
    } else if has(|metric| metric.needs_search()) && (!searches || flag == OBJECTIVE) {
        Some("only a search has that metric, such as echoring capacity --fail-if 'max_rate<20k'")
    } else {
        None
    }
}

/// A verdict on two servers that fails the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FailOn {
    /// B, the server of --against, is worse than A by 5 % or more
    Worse,
}

/// The judged metrics in which B is worse, a line each. Where pairs had goals, these are judged.
pub(super) fn worse(comparison: &[Comparison]) -> impl Iterator<Item = String> {
    let of_two = comparison.iter().filter_map(|load| Some((load, load.b.as_ref()?)));
    of_two.flat_map(|(load, b)| {
        let is_judged = |name: &str| load.until.is_some() || JUDGED.contains(&name);
        let judged = load.metrics.iter().filter(move |finding| is_judged(&finding.metric));
        judged.filter_map(move |finding| {
            let (mode, metric, by) = (&load.mode, &finding.metric, finding.worse_by()?);
            Some(format!("{mode}: {metric} of {} is worse: {by} {}", b.target, load.a.target))
        })
    })
}

/// Ends runs by the conditions of `--abort-if`.
#[derive(Debug)]
pub(super) struct Watch {
    abort_if: Vec<Objective>,
    /// When it looks again, from the start of the measured time.
    next: Duration,
    /// The condition that held.
    pub(super) held: Option<Objective>,
}

impl Watch {
    pub(super) fn new(abort_if: Vec<Objective>) -> Watch {
        Watch { abort_if, next: LOOK_INTERVAL, held: None }
    }

    /// Whether the run is to end.
    pub(super) fn ends(&mut self, run: &RunProgress<'_>) -> bool {
        if run.stage != RunStage::Measuring {
            self.next = LOOK_INTERVAL;
            return false;
        }
        if run.elapsed < self.next || self.held.is_some() {
            return false;
        }
        self.next = run.elapsed + LOOK_INTERVAL;
        self.held = self.abort_if.iter().find(|condition| condition.holds_so_far(run.live)).cloned();
        self.held.is_some()
    }

    /// Notes in the last run which condition ended it, and says so in a line.
    pub(super) fn note(&self, outcomes: &mut [Outcome]) -> Option<String> {
        let (condition, outcome) = (self.held.as_ref()?, outcomes.last_mut()?);
        let record = outcome.record.value();
        outcome.record.aborted_by = Some(condition.to_string());
        let (mode, seen) = (&outcome.record.config.mode, condition.describe_seen(&record));
        Some(format!("{mode}: ended by --abort-if {condition}: {seen}"))
    }
}

/// Judges each run by the conditions that its mode can have, notes it in its record, and says in a line each which failed.
pub(super) fn judge(fail_if: &[Objective], outcomes: &mut [Outcome]) -> Vec<String> {
    let mut lines = Vec::new();
    for outcome in outcomes {
        let record = outcome.record.value();
        let mode = outcome.record.config.mode;
        for expression in fail_if.iter().filter(|expression| expression.is_of_mode(mode.name())) {
            let judged = expression.fail_if(&record);
            if judged.failed {
                let which = outcome.record.repetition.as_ref().map_or(String::new(), |repetition| {
                    format!(" (run {} of {})", repetition.number, outcome.record.target)
                });
                let seen = expression.describe_seen(&record);
                lines.push(format!("{mode}{which}: --fail-if {expression}: {seen}"));
            }
            outcome.record.fail_if.push(judged);
        }
    }
    lines
}

/// Reports the problems of the results, and returns the exit code: failures take precedence over missing measurements,
/// and those over a late generator.
pub(super) fn conclude(results: &Results, missed: Vec<String>, unwritten: &[String]) -> ExitCode {
    let Results { outcomes, comparison, refused } = results;
    let mut verdict = outcomes.iter().map(Outcome::verdict).max().unwrap_or(RunVerdict::Good);
    let warnings = comparison.iter().flat_map(|one| {
        one.differences.iter().chain(&one.warnings).map(|line| format!("{}: {line}", one.mode))
    });
    let records = outcomes.iter().map(|outcome| &outcome.record);
    let mut errors: Vec<String> = records.filter_map(failures::shortfall).collect();
    errors.extend(outcomes.iter().filter_map(summary::failure_text));
    if !missed.is_empty() {
        verdict = RunVerdict::Broken;
        errors.extend(missed);
    }
    for outcome in outcomes {
        let Some(found) = &outcome.record.search else { continue };
        if let Some(failure_text) = found.failure_text() {
            let by_generator = found.limited_by == Limit::Generator;
            verdict = verdict.max(if by_generator { RunVerdict::Saturated } else { RunVerdict::Broken });
            errors.push(format!("{}: {failure_text}", outcome.record.config.mode));
        }
    }
    for warning in outcomes.iter().flat_map(|outcome| summary::warnings(&outcome.record)).chain(warnings) {
        note(format_args!("warning: {warning}"));
    }
    for error in errors.iter().chain(unwritten) {
        note(format_args!("error: {error}"));
    }
    let mut cut_short = refused.clone().map(|refused| Failure::Environment(refused.0).report());
    if !unwritten.is_empty() {
        cut_short = Some(ExitCode::from(EXIT_ENVIRONMENT));
    }
    match verdict {
        RunVerdict::Broken => ExitCode::from(EXIT_BROKEN),
        RunVerdict::Saturated => cut_short.unwrap_or(ExitCode::from(EXIT_SATURATED)),
        RunVerdict::Good => cut_short.unwrap_or(ExitCode::SUCCESS),
    }
}
