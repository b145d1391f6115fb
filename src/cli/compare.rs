//! `echoring compare`: results of `bench --json` compared, for people and for scripts.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr as _;

use serde_json::Value;

use super::{Failure, to_stdout, values};
use crate::load::compare::{self, Comparison};
use crate::load::objective::Metric;
use crate::load::{record, tables};

const EXAMPLES: &str = "\
Examples:
  echoring bench ws://127.0.0.1:9001 --repeat 10 --against ws://127.0.0.1:9101 --json both.json
  echoring compare both.json
      two servers, measured in turn: what the machine did meanwhile falls out
  echoring compare before.json after.json --threshold 3% --metric p99.9 --metric messages_per_s
      exit code 1 when one of these is worse by more than 3 %, surely

B is better or worse where the whole interval of B / A lies beyond the threshold, slightly better or worse where it
lies on one side of 1, the same where it lies within the threshold, and undecided otherwise. The interval comes from
pairs of runs that were made in turn or from repeated runs. A single run of each decides nothing unless --trust-single
takes their seconds for repetitions: see docs/comparing.md.

Exit codes: 0 not worse, 1 worse, 2 usage or nothing to compare, 3 the environment forbids it.";

/// Name and version of the JSON.
const SCHEMA: &str = "echoring.comparison/1";
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The largest threshold that makes sense: ten times as bad.
const THRESHOLD_MAX: f64 = 10.0;
/// Exit code when something is worse.
const EXIT_WORSE: u8 = 1;

/// The flags of `compare`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Results of `bench --json`; alone, of --repeat with --against
    #[arg(value_name = "A.json")]
    a: PathBuf,

    /// Results to compare them with
    #[arg(value_name = "B.json")]
    b: Option<PathBuf>,

    /// The difference that matters, such as 5% or 0.05
    #[arg(long, value_name = "SHARE", value_parser = values::share, default_value = "5%")]
    threshold: f64,

    /// What must not be worse, in the words of `bench --fail-if`; repeatable [default: p50, p99,
    /// messages_per_s, and cpu_per_message where it is known]
    #[arg(long, value_name = "METRIC", value_parser = Metric::from_str)]
    metric: Vec<Metric>,

    /// Let a single run of each decide, by its seconds: they tell how steady these two runs were, not how much another
    /// run would differ
    #[arg(long)]
    trust_single: bool,

    /// Compare runs although something else was asked of them (mode, sizes, connections, …)
    #[arg(long)]
    allow_different: bool,

    /// Write the comparison as JSON; - writes it to stdout, and nothing else
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

/// Compares, and tells by the exit code whether the second is worse.
pub(super) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    if arguments.threshold > THRESHOLD_MAX {
        return Err(Failure::Usage("--threshold: expected 0% to 1000%, such as --threshold 5%".to_owned()));
    }
    let (a, b) = sides(&arguments)?;
    let (shown, judged) = chosen(&arguments.metric)?;
    let terms = compare::Terms {
        metrics: shown,
        threshold: arguments.threshold,
        trust_single: arguments.trust_single,
    };
    let found = compare::compare(&a, &b, &terms).map_err(Failure::Usage)?;
    check(&found, &arguments)?;
    write(&found, arguments.json.as_deref())?;
    let mut stderr = io::stderr();
    for comparison in &found {
        for warning in comparison.differences.iter().chain(&comparison.warnings) {
            // A closed stderr must not turn an exit code into a panic.
            let _ = writeln!(stderr, "warning: {}: {warning}", comparison.mode);
        }
    }
    let worse: Vec<String> = found.iter().flat_map(|comparison| worse(comparison, &judged)).collect();
    for line in &worse {
        let _ = writeln!(stderr, "error: {line}");
    }
    Ok(if worse.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_WORSE) })
}

/// The runs of both sides.
fn sides(arguments: &Args) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let is_second = |run: &Value| run["repetition"]["side"] == "b";
    let first = read(&arguments.a)?;
    let Some(path) = &arguments.b else {
        let (b, a): (Vec<Value>, Vec<Value>) = first.into_iter().partition(is_second);
        if b.is_empty() {
            return Err(Failure::Usage(format!(
                "{} has runs of one target: name a second file, such as compare a.json b.json, or make one with \
                 bench --repeat 10 --against URL --json",
                arguments.a.display()
            )));
        }
        return Ok((a, b));
    };
    let second = read(path)?;
    for (runs, path) in [(&first, &arguments.a), (&second, path)] {
        if runs.iter().any(is_second) {
            return Err(Failure::Usage(format!(
                "{0} has runs of two targets already: compare it alone, as in compare {0}",
                path.display()
            )));
        }
    }
    Ok((first, second))
}

/// Metrics to show, and those of them that must not be worse.
fn chosen(asked: &[Metric]) -> Result<(Vec<Metric>, Vec<Metric>), Failure> {
    let mut shown = compare::metrics(&compare::METRICS).map_err(Failure::Usage)?;
    let new: Vec<Metric> = asked
        .iter()
        .filter(|metric| shown.iter().all(|known| known.name() != metric.name()))
        .cloned()
        .collect();
    shown.extend(new);
    let judged = match asked {
        [] => compare::metrics(&compare::JUDGED).map_err(Failure::Usage)?,
        asked => asked.to_vec(),
    };
    Ok((shown, judged))
}

/// Refuses what says nothing: other loads, and a metric that was asked for and that neither side knows.
fn check(found: &[Comparison], arguments: &Args) -> Result<(), Failure> {
    if let Some(line) = found.iter().flat_map(|comparison| &comparison.differences).next()
        && !arguments.allow_different
    {
        return Err(Failure::Usage(format!(
            "not the same load: {line}; --allow-different compares them anyway"
        )));
    }
    let is_known = |metric: &&Metric| {
        found.iter().flat_map(|comparison| &comparison.metrics).any(|finding| finding.metric == metric.name())
    };
    match arguments.metric.iter().find(|metric| !is_known(metric)) {
        None => Ok(()),
        Some(metric) => Err(Failure::Usage(format!(
            "--metric: neither file knows {}; such as --metric p99 --metric messages_per_s",
            metric.name()
        ))),
    }
}

/// In what the second is worse, a line each.
fn worse(comparison: &Comparison, judged: &[Metric]) -> Vec<String> {
    let is_judged = |name: &str| judged.iter().any(|metric| metric.name() == name);
    let findings = comparison.metrics.iter().filter(|finding| is_judged(&finding.metric));
    findings
        .filter(|finding| finding.verdict == Some(compare::Word::Worse))
        .map(|finding| {
            let (low, high) = (finding.ratio_low.unwrap_or(1.0), finding.ratio_high.unwrap_or(1.0));
            let (mode, metric) = (&comparison.mode, &finding.metric);
            format!("{mode}: {metric} is worse: {low:.3} to {high:.3} times that of the first")
        })
        .collect()
}

/// The runs of a file.
fn read(path: &Path) -> Result<Vec<Value>, Failure> {
    let shown = path.display();
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(
        |error| Failure::Environment(format!("{shown} cannot be read: {error}; name a file of bench --json")),
    )?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Usage(format!("{shown} is longer than {FILE_BYTES_MAX} bytes")));
    }
    let wrong = |why: String| Failure::Usage(format!("{shown} has no results of bench --json: {why}"));
    let mut file: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if file["schema"] != record::SCHEMA {
        return Err(wrong(format!("its schema is not {}", record::SCHEMA)));
    }
    match file["runs"].take() {
        Value::Array(runs) if !runs.is_empty() => Ok(runs),
        _ => Err(wrong("there is no run in it".to_owned())),
    }
}

fn write(found: &[Comparison], json: Option<&Path>) -> Result<(), Failure> {
    let only_json = json.is_some_and(|path| path.as_os_str() == "-");
    if !only_json {
        let mut text = Vec::new();
        for (at, comparison) in found.iter().enumerate() {
            if at > 0 {
                text.push(b'\n');
            }
            tables::comparison(comparison, &mut text).expect("a vector takes all");
        }
        to_stdout(&text)?;
    }
    let Some(path) = json else { return Ok(()) };
    let file = serde_json::json!({ "schema": SCHEMA, "comparisons": found });
    let mut text = serde_json::to_string_pretty(&file).expect("names are the only keys");
    text.push('\n');
    if only_json {
        return to_stdout(text.as_bytes());
    }
    fs::write(path, text)
        .map_err(|error| Failure::Environment(format!("{} could not be written: {error}", path.display())))
}
