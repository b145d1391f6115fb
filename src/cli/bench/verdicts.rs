//! Flags of `bench`: what is asked of the results, how often and at which rates it is measured, and what is said of it.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::str::FromStr as _;

use super::usage;
use crate::cli::{EXIT_ENVIRONMENT, Failure, values};
use crate::load::failures;
use crate::load::objective::Objective;
use crate::load::record::FailIf;
use crate::load::search::{Limit, PRECISION_DEFAULT, PRECISIONS, START_DEFAULT, Terms};
use crate::load::{Outcome, Results, Rival, Scheme, Verdict, Workload, show};

/// Exit code of a run with lost, damaged or failed messages or connections, or that misses a threshold.
const EXIT_BROKEN: u8 = 1;
/// Exit code of a run that measured the generator.
const EXIT_SATURATED: u8 = 4;
/// Repetitions that one `bench` makes at most.
const REPEAT_MAX: u32 = 1_000;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Exit with 1 if this holds of a run, or cannot be judged: METRIC OP VALUE such as 'p99.9>5ms' or 'lost>0',
    /// several joined by &&; repeatable [default: none]
    #[arg(long, value_name = "EXPR", value_parser = Objective::from_str)]
    pub(super) fail_if: Vec<Objective>,

    /// Search the highest rate, in messages a second, that holds this, such as 'p99<2ms': from --rate on [default:
    /// 1000] doubling, then bisecting, in runs of --duration [default: 5s, longer where the quantile needs more messages]
    #[arg(long, value_name = "EXPR", value_parser = Objective::from_str)]
    pub(super) find_max: Option<Objective>,

    /// How near the rates are between which --find-max ends, 0.5% to 50% [default: 5%]
    #[arg(long, value_name = "SHARE", value_parser = values::share)]
    pub(super) precision: Option<f64>,

    /// Measure so many times and tell how far the runs lie apart [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) repeat: Option<u32>,

    /// Measure another server in turn with the first, in pairs of runs, as many as --repeat says, and compare them
    #[arg(long, value_name = "URL")]
    pub(super) against: Option<String>,

    /// The process of the server of --against: its CPU time and memory become part of the results
    #[arg(long, value_name = "PID")]
    pub(super) against_pid: Option<u32>,
}

impl Args {
    /// Refuses flags that contradict one another, whatever the load is.
    pub(super) fn check(&self, has_url: bool, has_depth: bool) -> Result<(), Failure> {
        if let Some(objective) = &self.find_max {
            if objective.asks_for_worse() {
                let why = "says what a slow server has; say what has to hold, such as --find-max 'p99<2ms'";
                return Err(usage("--find-max", &format!("{objective} {why}")));
            }
            if has_depth {
                let why = "the search is over rates: leave it out, as in --find-max 'p99<2ms' --rate 1000";
                return Err(usage("--depth", why));
            }
            if self.repeat.is_some() {
                let why = "not with --find-max, which repeats what fails; such as --repeat 10 --rate 5000";
                return Err(usage("--repeat", why));
            }
        } else if self.precision.is_some() {
            return Err(usage(
                "--precision",
                "only with --find-max, such as --find-max 'p99<2ms' --precision 2%",
            ));
        }
        if self.precision.is_some_and(|share| !(PRECISIONS.0..=PRECISIONS.1).contains(&share)) {
            return Err(usage(
                "--precision",
                "expected 0.5% to 50%, such as --find-max 'p99<2ms' --precision 5%",
            ));
        }
        if self.repeat.is_some_and(|times| !(2..=REPEAT_MAX).contains(&times)) {
            return Err(usage("--repeat", &format!("expected 2 to {REPEAT_MAX}, such as --repeat 10")));
        }
        let example = "such as bench ws://127.0.0.1:9001 --repeat 10 --against ws://127.0.0.1:9101";
        if self.against.is_some() && self.repeat.is_none() {
            return Err(usage(
                "--against",
                &format!("say with --repeat how many pairs of runs to make, {example}"),
            ));
        }
        if self.against.is_some() && !has_url {
            return Err(usage("--against", &format!("name the first server too, {example}")));
        }
        if self.against_pid.is_some() && self.against.is_none() {
            return Err(usage(
                "--against-pid",
                &format!("only with --against, {example} --against-pid 4711"),
            ));
        }
        Ok(())
    }

    /// Refuses to ask for what no run of these loads can tell. `server_known`: whether the server's CPU time is.
    pub(super) fn check_metrics(&self, workloads: &[Workload], server_known: bool) -> Result<(), Failure> {
        let asked = self.fail_if.iter().map(|expression| ("--fail-if", expression));
        for (flag, expression) in asked.chain(self.find_max.iter().map(|objective| ("--find-max", objective)))
        {
            let fits = |load: &Workload| expression.is_of_mode(load.mode.name());
            // A search is made for each load, while a condition passes over those that it does not fit.
            let fit =
                if flag == "--find-max" { workloads.iter().all(fits) } else { workloads.iter().any(fits) };
            let has = |is: fn(&crate::load::objective::Metric) -> bool| expression.metrics().any(is);
            let closed = workloads.iter().all(|load| load.pace.depth().is_some());
            let why = if !fit {
                "no run of this mode has that, such as --mode broadcast --fail-if 'last.p99>5ms'"
            } else if has(|metric| metric.needs_server()) && !server_known {
                "the server's CPU time is known with its process only, such as --server-pid 4711"
            } else if has(|metric| metric.needs_schedule()) && closed {
                "lateness is known in an open loop only, such as --rate 5000"
            } else if has(|metric| metric.needs_search()) && (self.find_max.is_none() || flag == "--find-max")
            {
                "only a search has that, such as --find-max 'p99<2ms' --fail-if 'max_rate<20k'"
            } else {
                continue;
            };
            return Err(usage(flag, &format!("{expression}: {why}")));
        }
        Ok(())
    }

    /// How often and at which rates; a search begins at `rate`.
    pub(super) fn scheme(&self, rate: Option<u64>, rival: Option<Rival>) -> Result<Scheme, Failure> {
        let Some(objective) = self.find_max.clone() else {
            return Ok(match self.repeat {
                Some(times) => Scheme::Repeat { times, against: rival },
                None => Scheme::Once,
            });
        };
        let start = rate.unwrap_or(START_DEFAULT);
        let precision = self.precision.unwrap_or(PRECISION_DEFAULT);
        let terms = Terms { objective, start, precision };
        let least = terms.least_start();
        if start < least {
            let needed = terms.objective.messages_needed();
            let why = format!(
                "the quantile needs {needed} messages, so begin at {least} or above, as in --rate {least}"
            );
            return Err(usage("--rate", &why));
        }
        Ok(Scheme::Search(terms))
    }
}

/// Judges each run by the conditions that its mode can have, notes it in its record, and says in a line each which failed.
pub(super) fn judge(fail_if: &[Objective], outcomes: &mut [Outcome]) -> Vec<String> {
    let mut lines = Vec::new();
    for outcome in outcomes {
        let Ok(record) = serde_json::to_value(&outcome.record) else { continue };
        let mode = outcome.record.config.mode.clone();
        for expression in fail_if.iter().filter(|expression| expression.is_of_mode(&mode)) {
            let judged = FailIf::of(expression, &record);
            if judged.failed {
                let which = outcome.record.repetition.as_ref().map_or(String::new(), |repetition| {
                    format!(" (run {} of {})", repetition.number, outcome.record.target)
                });
                let seen = expression.seen_words(&record);
                lines.push(format!("{mode}{which}: --fail-if {expression}: {seen}"));
            }
            outcome.record.fail_if.push(judged);
        }
    }
    lines
}

/// Says what is wrong with the results, and gives the exit code: what went wrong weighs more than what could not be
/// measured, and that more than a late generator.
pub(super) fn conclude(results: &Results, missed: Vec<String>, unwritten: &[String]) -> ExitCode {
    let Results { outcomes, comparison, refused } = results;
    let mut verdict = outcomes.iter().map(Outcome::verdict).max().unwrap_or(Verdict::Good);
    let warnings = comparison.iter().flat_map(|one| {
        one.differences.iter().chain(&one.warnings).map(|line| format!("{}: {line}", one.mode))
    });
    let records = outcomes.iter().map(|outcome| &outcome.record);
    let mut errors: Vec<String> = records.filter_map(failures::shortfall).collect();
    errors.extend(outcomes.iter().filter_map(show::complaint));
    if !missed.is_empty() {
        verdict = Verdict::Broken;
        errors.extend(missed);
    }
    for outcome in outcomes {
        let Some(found) = &outcome.record.search else { continue };
        if let Some(complaint) = found.complaint() {
            let by_generator = found.limited_by == Limit::Generator;
            verdict = verdict.max(if by_generator { Verdict::Saturated } else { Verdict::Broken });
            errors.push(format!("{}: {complaint}", outcome.record.config.mode));
        }
    }
    // A closed stderr must not turn an exit code into a panic.
    for warning in outcomes.iter().flat_map(show::warnings).chain(warnings) {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
    for error in errors.iter().chain(unwritten) {
        let _ = writeln!(io::stderr(), "error: {error}");
    }
    let mut cut_short = refused.clone().map(|refused| Failure::Environment(refused.0).report());
    if !unwritten.is_empty() {
        cut_short = Some(ExitCode::from(EXIT_ENVIRONMENT));
    }
    match verdict {
        Verdict::Broken => ExitCode::from(EXIT_BROKEN),
        Verdict::Saturated => cut_short.unwrap_or(ExitCode::from(EXIT_SATURATED)),
        Verdict::Good => cut_short.unwrap_or(ExitCode::SUCCESS),
    }
}
