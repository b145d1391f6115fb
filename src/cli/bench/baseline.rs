//! Results of `bench` that are kept by name, and runs that are compared with them.
//!
//! A kept file is what `--json` writes. It is replaced in one step, and only by the results of runs that succeeded.

use std::fs;
use std::path::PathBuf;
use std::str::FromStr as _;

use clap::ArgMatches;
use serde_json::Value;

use super::headings::EXPERIMENTS;
use super::usage::{refuse_typed, usage};
use crate::Failure;
use crate::common::output::note;
use crate::common::output::replace;
use crate::common::values;
use crate::results::compare as comparing;
use echoring_load::Outcome;
use echoring_load::analyse::compare::{self, CompareOptions, PlannedLoad};
use echoring_load::analyse::objective::Metric;
use echoring_load::record::comparison::BaselineComparison;

/// Maximum bytes of a name, which becomes a file name.
const NAME_BYTES_MAX: usize = 100;

/// The flags of baselines.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = EXPERIMENTS)]
pub(super) struct Args {
    /// Compare the results with those kept under this name; exit with 1 if they are worse
    ///
    /// The comparison is that of echoring compare. With --save-baseline of the same name, the first results are only saved.
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(super) baseline: Option<String>,

    /// Keep the results under this name for --baseline, if nothing failed
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(super) save_baseline: Option<String>,

    /// Directory of kept results
    #[arg(long, value_name = "DIR", default_value = ".echoring/baselines")]
    pub(super) baseline_dir: PathBuf,

    /// Smallest difference from --baseline that matters, such as 5% or 0.05
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = values::share_in(..=comparing::THRESHOLD_MAX),
        default_value = "5%",
    )]
    pub(super) baseline_threshold: f64,

    /// Metric that must not be worse than in --baseline, as in --fail-if; repeatable
    ///
    /// The default is p50, p99, messages_per_s, and cpu_per_message where it is known.
    #[arg(long, value_name = "METRIC", value_parser = Metric::from_str)]
    pub(super) baseline_metric: Vec<Metric>,

    /// Decide by a single run, with its seconds as repetitions
    ///
    /// The seconds show how steady the two runs were, not how much another run would differ.
    #[arg(long)]
    pub(super) trust_single: bool,
}

/// A name that is a valid file name everywhere.
fn name(word: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits = (1..=NAME_BYTES_MAX).contains(&word.len()) && !word.starts_with(['.', '-']);
    if fits && word.bytes().all(is_allowed) {
        return Ok(word.to_owned());
    }
    Err(format!("expected up to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-', such as main"))
}

/// Results that were kept.
#[derive(Debug)]
pub(super) struct Kept {
    name: String,
    path: PathBuf,
    runs: Vec<Value>,
}

impl Kept {
    fn refused(&self, why: &str) -> Failure {
        let remedy = format!("keep results of this one with --save-baseline {}", self.name);
        usage("--baseline", &format!("{}: {why}; {remedy}", self.path.display()))
    }
}

impl Args {
    /// Refuses flags without an effect, before anything runs. `has_rival`: whether two servers are measured.
    pub(super) fn check(&self, typed: &ArgMatches, has_rival: bool) -> Result<(), Failure> {
        if self.baseline.is_none() {
            let of_comparison = ["baseline_threshold", "baseline_metric", "trust_single"];
            refuse_typed(typed, &of_comparison, "only with --baseline, such as --baseline main")?;
        }
        if !has_rival {
            return Ok(());
        }
        let why = "not with --against, whose runs are compared with one another";
        refuse_typed(typed, &["baseline", "save_baseline"], why)
    }

    /// Reads the results to compare with, if any, and makes room for those to keep.
    ///
    /// # Errors
    /// If there are none, and none are about to be kept under their name, or they cannot be read.
    pub(super) fn open(&self) -> Result<Option<Kept>, Failure> {
        if self.save_baseline.is_some() {
            fs::create_dir_all(&self.baseline_dir).map_err(|error| {
                usage("--baseline-dir", &format!("{} cannot be made: {error}", self.baseline_dir.display()))
            })?;
        }
        let Some(name) = &self.baseline else { return Ok(None) };
        let path = self.path(name);
        if path.exists() {
            let runs = comparing::read(&path)?;
            return Ok(Some(Kept { name: name.clone(), path, runs }));
        }
        if self.save_baseline.as_ref() == Some(name) {
            note(format_args!("warning: there is no baseline {name} yet: nothing was compared"));
            return Ok(None);
        }
        let why = format!("there is no {}: keep one with --save-baseline {name}", path.display());
        Err(usage("--baseline", &why))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.baseline_dir.join(format!("{name}.json"))
    }

    /// Refuses runs of other loads than the kept ones, and metrics that they cannot have, before any is made.
    pub(super) fn check_loads(&self, kept: &Kept, loads: &[PlannedLoad<'_>]) -> Result<(), Failure> {
        compare::is_comparable(&kept.runs, loads).map_err(|why| kept.refused(&why))?;
        let has = |metric: &Metric| {
            loads.iter().any(|PlannedLoad { load, .. }| {
                metric.is_of_mode(load.mode.name()) && metric.missing_in(load).is_none()
            })
        };
        match self.baseline_metric.iter().find(|metric| !has(metric)) {
            Some(metric) => {
                Err(usage("--baseline-metric", &format!("no run of this load has {}", metric.name)))
            }
            None => Ok(()),
        }
    }

    /// Compares the results with the kept ones.
    ///
    /// # Errors
    /// If they are of other loads, or none of them has a metric that was asked for.
    pub(super) fn compare(&self, kept: &Kept, outcomes: &[Outcome]) -> Result<BaselineComparison, Failure> {
        let runs = outcomes.iter().map(|outcome| outcome.record.value());
        let (shown, judged) = comparing::chosen(&self.baseline_metric)?;
        let options = CompareOptions {
            metrics: shown,
            threshold: self.baseline_threshold,
            trust_single: self.trust_single,
            one_machine: true,
        };
        let loads = compare::compare(&kept.runs, &runs.collect::<Vec<_>>(), &options)
            .map_err(|why| kept.refused(&why))?;
        if let Some(line) = loads.iter().flat_map(|load| &load.differences).next() {
            return Err(kept.refused(&format!("not the same load: {line}")));
        }
        if let Some(metric) = comparing::unknown_metric(&loads, &self.baseline_metric) {
            return Err(usage("--baseline-metric", &format!("neither side has {metric}")));
        }
        let judged = judged.iter().map(|metric| metric.name.clone()).collect();
        Ok(BaselineComparison { name: kept.name.clone(), judged, loads })
    }

    /// Keeps the results of runs that succeeded. Says in a line why that was impossible.
    pub(super) fn save(&self, json: &str) -> Result<(), String> {
        let Some(name) = &self.save_baseline else { return Ok(()) };
        let path = self.path(name);
        replace(&path, json.as_bytes())
            .map_err(|error| format!("{} could not be written: {error}", path.display()))
    }

    /// Says that the results were not kept.
    pub(super) fn not_saved(&self) {
        if let Some(name) = &self.save_baseline {
            note(format_args!("warning: the results are not kept as baseline {name}: the run failed"));
        }
    }
}

/// The metrics in which the results are worse, a line each.
pub(super) fn worse(compared: &BaselineComparison) -> impl Iterator<Item = String> {
    compared.findings().filter_map(|(mode, finding)| {
        let by = finding.worse_by()?;
        Some(format!("{mode}: {} is worse: {by} baseline {}", finding.metric, compared.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_file_in_the_directory() {
        for good in ["main", "v1.2", "a_b-c", "7"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for wrong in ["", "..", ".main", "a/b", "-x", "a b", "ä", &"x".repeat(101)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_is_replaced_in_one_step_or_left_alone() {
        let directory = std::env::temp_dir().join(format!("echoring-baselines-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let path = directory.join("main.json");
        replace(&path, b"old").expect("written");
        replace(&path, b"new").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"new");
        assert!(replace(&directory.join("none/main.json"), b"new").is_err());
        assert_eq!(fs::read_dir(&directory).expect("there").count(), 1, "nothing is left beside it");
        fs::remove_dir_all(&directory).expect("our own directory");
    }
}
