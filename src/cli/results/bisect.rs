//! `echoring bisect`: finds the commit that made a metric worse, by pairs of measurements of two commits.
//!
//! [`history`] asks git and keeps the worktrees, [`command`] runs the commands that build and measure. [`Bisection`]
//! decides what is measured next, and when a step has enough pairs.

mod command;
mod history;
mod report;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr as _;
use std::time::Duration;

use self::command::{Commands, Measured};
use self::history::{Commit, Repository, Worktrees};
use self::report::Report;
use crate::common::environment;
use crate::common::output::note;
use crate::common::values::{self, FileOrStream, Word};
use crate::{EXIT_INTERRUPTED, Failure, signals::Signals};
use echoring_load::analyse::bisect::{BisectOptions, Bisection, Ending, NextPair, PAIRS_MAX_DEFAULT};
use echoring_load::analyse::objective::Metric;
use echoring_proto::random::SplitMix64;

const EXAMPLES: &str = "\
Examples:
  echoring bisect v1.2 main --build 'cargo build --release' --metric cpu_per_message -- \\
      target/release/echoring bench --mode echo --duration 5s --json -
      the commit after v1.2 that made an echo cost more CPU time
  echoring bisect HEAD~50 HEAD --worse lower --threshold 10% -- sh -c 'make -s bench | tail -n 1'
      a command that prints a number; higher is better

Each commit gets a worktree of its own, in which --build runs once and the command once for each pair. GOOD and the commit are
measured in random order, until the pairs decide. A commit is skipped if it does not build, or if the command fails; exit code
125 means the same as in git bisect run. A merge counts as one commit. See docs/guide/comparing.md.

Exit codes: 0 found, 1 BAD is not worse, 2 usage, 3 the environment forbids it, or GOOD or BAD cannot be measured,
4 undecided, 130 interrupted.";

/// Maximum threshold: ten times as bad.
const THRESHOLD_MAX: f64 = 10.0;
/// Minimum threshold: a smaller difference cannot be measured.
const THRESHOLD_MIN: f64 = 0.001;
/// Error rates: with a lower one, a step takes more pairs than fit into an evening.
const ERRORS: std::ops::RangeInclusive<f64> = 0.0001..=0.5;
/// Pairs of a step: with fewer than ten no test decides.
const PAIRS: std::ops::RangeInclusive<u32> = 10..=100_000;
/// Exit code if BAD is not worse than GOOD.
const EXIT_NO_DIFFERENCE: u8 = 1;
/// Exit code if the pairs did not decide.
const EXIT_UNDECIDED: u8 = 4;
/// A pair whose measurement of GOOD fails is repeated so often.
const GOOD_REPEATS_MAX: usize = 1;

/// The flags of `bisect`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Revision that is known to be good; an ancestor of BAD
    #[arg(value_name = "GOOD")]
    good: String,

    /// Revision that is known to be worse
    #[arg(value_name = "BAD")]
    bad: String,

    /// Command that measures: prints a number, or with --metric the JSON of bench --json -
    ///
    /// The number is the last line of its output, and above zero. The command runs in a worktree of the commit, so a relative
    /// path names a file of that commit.
    #[arg(value_name = "CMD", last = true, required = true)]
    command: Vec<OsString>,

    /// Folder of the repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,

    /// Shell command that builds a commit, run once in its worktree
    #[arg(long, value_name = "CMD")]
    build: Option<OsString>,

    /// Metric of the run records that CMD prints, as in bench --fail-if
    #[arg(long, value_name = "METRIC", value_parser = Metric::from_str)]
    metric: Option<Metric>,

    /// Direction that counts as worse: by default that of --metric, otherwise higher
    #[arg(long, value_name = "DIRECTION", value_parser = values::one_of(MORE_IS_WORSE))]
    worse: Option<bool>,

    /// Smallest regression to detect, such as 5% or 0.05
    #[arg(long, value_name = "SHARE", value_parser = values::share_in(THRESHOLD_MIN..=THRESHOLD_MAX), default_value = "5%")]
    threshold: f64,

    /// Maximum share of searches that give a wrong answer
    ///
    /// It is divided among the steps. A lower one takes more pairs.
    #[arg(long, value_name = "SHARE", value_parser = values::share_in(ERRORS), default_value = "5%")]
    error: f64,

    /// Maximum number of pairs of a step; then the search ends undecided
    #[arg(long, value_name = "N", value_parser = values::number_in(PAIRS), default_value_t = PAIRS_MAX_DEFAULT as u32)]
    pairs_max: u32,

    /// Maximum time of a measurement; a longer one fails
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,

    /// Seed of the order within the pairs; random by default, and in the JSON
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Write the search as JSON; - writes only the JSON to stdout
    #[arg(long, value_name = "FILE|-")]
    json: Option<FileOrStream>,
}

/// Whether the higher of two figures is worse.
const MORE_IS_WORSE: &[Word<bool>] = &[("higher", "More is worse", true), ("lower", "Less is worse", false)];

/// Why a search stops before its end.
enum Stop {
    /// By a signal.
    Interrupted,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

/// Searches, and returns the exit code that tells the result.
pub(crate) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let metric_is_worse_if_higher = arguments.metric.as_ref().is_none_or(|metric| !metric.more_is_better);
    let more_is_worse = arguments.worse.unwrap_or(metric_is_worse_if_higher);
    let options = BisectOptions {
        threshold: arguments.threshold,
        error: arguments.error,
        pairs_max: arguments.pairs_max as usize,
        more_is_worse,
    };
    if let Some(FileOrStream::File(path)) = &arguments.json {
        // Now, and not after hours.
        OpenOptions::new().create(true).append(true).open(path).map_err(|error| {
            Failure::Environment(format!("--json: {} cannot be written: {error}", path.display()))
        })?;
    }
    let signals = Signals::listen_with_hangup()
        .map_err(|error| Failure::Environment(format!("signals cannot be handled: {error}")))?;
    let repository = Repository::open(&arguments.repo)?;
    let good = repository.commit("GOOD", &arguments.good)?;
    let commits = repository.commits_between(&good, &repository.commit("BAD", &arguments.bad)?)?;
    let seed = arguments.seed.unwrap_or_else(environment::random_seed);
    let mut search = Search {
        bisection: Bisection::new(commits.len(), options),
        commands: Commands {
            signals,
            build: arguments.build,
            measure: arguments.command,
            timeout: arguments.timeout,
            metric: arguments.metric.clone(),
        },
        worktrees: Worktrees::new(&repository)?,
        report: Report { good, commits, metric: arguments.metric, options, seed, skipped: Vec::new() },
        order: SplitMix64::new(seed),
    };
    let ending = match search.run() {
        Ok(ending) => Some(ending),
        Err(Stop::Interrupted) => None,
        Err(Stop::Failed(failure)) => return Err(failure),
    };
    let Search { bisection, report, worktrees, .. } = search;
    drop(worktrees);
    if arguments.json != Some(FileOrStream::Stream) {
        crate::to_stdout(report.text(&bisection, ending.as_ref()).as_bytes())?;
    }
    if let Some(json) = &arguments.json {
        crate::write(json, report.json(&bisection, ending.as_ref()).as_bytes())?;
    }
    Ok(ExitCode::from(report::exit_code(ending.as_ref())))
}

/// A search in progress.
struct Search<'a> {
    bisection: Bisection,
    commands: Commands,
    worktrees: Worktrees<'a>,
    report: Report,
    /// Decides which commit of a pair is measured first.
    order: SplitMix64,
}

impl Search<'_> {
    fn run(&mut self) -> Result<Ending, Stop> {
        let good = self.report.good.clone();
        if let Err(why) = self.prepare(&good)? {
            return Err(Stop::Failed(unusable("GOOD", &good, &why)));
        }
        // Not counted: it warms caches, and a command that cannot work is known before BAD is built.
        match self.commands.measure(&self.worktrees.folder(&good))? {
            Measured::Value(_) => {}
            Measured::NoFigure(why) => return Err(no_figure(&why)),
            Measured::Failed(why) => return Err(Stop::Failed(unusable("GOOD", &good, &why))),
        }
        loop {
            let index = match self.bisection.next_pair() {
                NextPair::Measure { commit } => commit,
                NextPair::Ended(ending) => return Ok(ending),
            };
            let commit = self.report.commits[index].clone();
            let compared = match self.prepare(&commit)? {
                Ok(()) => self.compare(&good, &commit)?,
                Err(why) => Err(why),
            };
            self.worktrees.remove(&commit);
            if let Err(why) = compared {
                if !self.bisection.skip() {
                    return Err(Stop::Failed(unusable("BAD", &commit, &why)));
                }
                note(format!("skipped: {commit}: {why}"));
                self.report.skipped.push((index, why));
            }
        }
    }

    /// Makes the worktree of a commit and builds it. The inner error is the reason why the commit cannot be measured.
    fn prepare(&mut self, commit: &Commit) -> Result<Result<(), String>, Stop> {
        note(format!("prepare: {commit}"));
        let folder = self.worktrees.add(commit)?;
        self.commands.build(&folder)
    }

    /// Makes pairs until they decide the step.
    fn compare(&mut self, good: &Commit, commit: &Commit) -> Result<Result<(), String>, Stop> {
        let mut failures_of_good = 0;
        loop {
            let good_first = self.order.below(2) == 0;
            let (first, second) = if good_first { (good, commit) } else { (commit, good) };
            let mut pair = Vec::with_capacity(2);
            for side in [first, second] {
                match self.commands.measure(&self.worktrees.folder(side))? {
                    Measured::Value(value) => pair.push(value),
                    Measured::Failed(why) | Measured::NoFigure(why) if side == commit => return Ok(Err(why)),
                    Measured::NoFigure(why) => return Err(no_figure(&why)),
                    Measured::Failed(why) if failures_of_good == GOOD_REPEATS_MAX => {
                        return Err(Stop::Failed(unusable("GOOD", good, &why)));
                    }
                    Measured::Failed(why) => {
                        note(format!("repeated: {good}: {why}"));
                        failures_of_good += 1;
                        break;
                    }
                }
            }
            let [one, other] = pair[..] else { continue };
            failures_of_good = 0;
            let (of_good, of_commit) = if good_first { (one, other) } else { (other, one) };
            if let Some(step) = self.bisection.record(of_good, of_commit) {
                note(self.report.step(&step, &self.bisection));
                return Ok(Ok(()));
            }
        }
    }
}

/// The output for GOOD has no figure, so the command or --metric is wrong.
fn no_figure(why: &str) -> Stop {
    Stop::Failed(Failure::Usage(format!("CMD: {why}")))
}

/// GOOD or BAD cannot be measured, and so nothing can.
fn unusable(name: &str, commit: &Commit, why: &str) -> Failure {
    Failure::Environment(format!("{name}: {commit}: {why}"))
}
