//! Flags of `bench` for runs that end when a quantile is known as exactly as asked, and for pairs of runs of two servers
//! that end when it is known which is better.

use std::str::FromStr as _;
use std::time::Duration;

use clap::ArgMatches;

use super::headings::EXPERIMENTS;
use super::parsers::DURATION_MAX;
use super::usage::{refuse, refuse_typed, usage};
use crate::Failure;
use crate::common::values;
use echoring_load::analyse::until::{Goal, UntilWatch};
use echoring_load::{Baseline, PairedOptions, Workload};

/// The longest measured time by default: up to it, blocks and the intervals of the record are seconds.
const MAX_DURATION_DEFAULT: Duration = Duration::from_secs(600);
/// Flags that set the measured time or the load in another way.
const INSTEAD: [&str; 4] = ["duration", "stage", "replay", "try"];

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = EXPERIMENTS)]
pub(super) struct Args {
    /// End the run once this quantile of the response time is known so exactly, as 'p99±5%'; repeatable
    ///
    /// p99+-5% is the same. Its 95 % interval then lies within that share of its value, or the run ends at --max-duration and says how wide it
    /// is. That is no failure, except with --fail-if 'unreached>0'. A run takes a minute at least. With --against and without --repeat,
    /// pairs of runs are made until it is known whether B, the server of --against, is better, worse, or the same within that share: also for
    /// other times and rates, such as messages_per_s±3%.
    #[arg(long, value_name = "METRIC±WIDTH", value_parser = Goal::from_str)]
    until: Vec<Goal>,

    /// Longest measured time with --until; with --against, time of all pairs [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = values::duration_in(..=DURATION_MAX))]
    pub(super) max_duration: Option<Duration>,
}

impl Args {
    /// Refuses flags that contradict these.
    pub(super) fn check(&self, typed: &ArgMatches, is_shared: bool, compares: bool) -> Result<(), Failure> {
        if !self.is_given() {
            return Ok(());
        }
        let why = "not with --until, which ends a run of one load by its results; its longest time is --max-duration";
        refuse_typed(typed, if compares { &INSTEAD[1..] } else { &INSTEAD }, why)?;
        let mut names: Vec<&str> = self.until.iter().map(|goal| goal.metric().name.as_str()).collect();
        names.sort_unstable();
        let is_repeated = names.windows(2).any(|pair| pair[0] == pair[1]);
        refuse([("--until", is_repeated)], "name each metric once")?;
        if compares {
            let differs = self.until.windows(2).any(|pair| pair[0].width() != pair[1].width());
            let why = "a comparison has one margin: give all metrics the same, such as 'p50±3%' and 'p99±3%'";
            refuse([("--until", differs)], why)?;
        } else if let Some(goal) = self.until.iter().find(|goal| !goal.is_of_one_run()) {
            let why =
                "one run needs a quantile of the response time, such as 'p99±5%'; others need --against";
            return Err(usage("--until", &format!("{goal}: {why}")));
        }
        let why = "not with --agents: one generator decides when the run ends; use --duration";
        refuse([("--until", is_shared)], why)
    }

    /// Refuses quantiles that no run of these loads has.
    pub(super) fn check_loads(&self, workloads: &[Workload], server_known: bool) -> Result<(), Failure> {
        let missing_in = |goal: &Goal, load: &Workload| match goal.metric() {
            metric if !metric.is_of_mode(load.mode.name()) => Some("no run of this mode has that metric"),
            metric if metric.needs_server() && !server_known => {
                Some("the CPU time needs both processes: --server-pid 4711 --against-pid 4712")
            }
            metric if metric.needs_schedule() && !load.is_open_loop() => {
                Some("only an open loop has lateness, such as --rate 5000")
            }
            _ => goal.missing_in(load),
        };
        let missing = |goal: &Goal| workloads.iter().find_map(|load| missing_in(goal, load));
        match self.until.iter().find_map(|goal| Some((goal, missing(goal)?))) {
            Some((goal, why)) => Err(usage("--until", &format!("{goal}: {why}"))),
            None => Ok(()),
        }
    }

    pub(super) fn is_given(&self) -> bool {
        !self.until.is_empty()
    }

    /// The longest measured time, or that of all pairs.
    pub(super) fn longest(&self) -> Option<Duration> {
        self.is_given().then(|| self.max_duration.unwrap_or(MAX_DURATION_DEFAULT))
    }

    /// Ends runs; without goals, if pairs are to end.
    pub(super) fn watch(&self, compares: bool) -> UntilWatch {
        UntilWatch::new(if compares { Vec::new() } else { self.until.clone() })
    }

    /// Pairs with this server that end when the verdicts are known.
    pub(super) fn pairs(&self, against: Baseline) -> PairedOptions {
        let longest = self.longest().unwrap_or(MAX_DURATION_DEFAULT);
        PairedOptions { against, goals: self.until.clone(), longest }
    }
}
