//! `echoring compare`: compares results of `bench --json`. Two URLs instead are a run of `bench` ([`with_servers_measured`]).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr as _;

use serde_json::Value;

use crate::common::file::beginning;
use crate::common::output::note;
use crate::common::values::{self, FileOrStream};
use crate::{Failure, to_stdout};
use echoring_load::analyse::compare;
use echoring_load::analyse::objective::Metric;
use echoring_load::analyse::pairs::{self, Pairs};
use echoring_load::analyse::until::Goal;
use echoring_load::record::{self, comparison::Comparison};
use echoring_load::render::tables;

const EXAMPLES: &str = "\
Examples:
  echoring bench ws://127.0.0.1:9001 --repeat 10 --against ws://127.0.0.1:9101 --json both.json
  echoring compare both.json
      two servers, measured in turn: changes on the machine affect both alike
  echoring compare before.json after.json --threshold 3% --metric p99.9 --metric messages_per_s
      exit code 1 when one of these is worse by more than 3 %, surely
  echoring compare ws://127.0.0.1:9001/echo ws://127.0.0.1:9101/echo --metric p99 --threshold 3% --rate 5000 -c 100
      two running servers, measured in pairs of runs until it is known which has the lower p99, if by more than 3 %

B is better or worse where the whole confidence interval of B / A lies beyond the threshold, slightly better or worse where it \
lies on one side of 1, the same where it lies within the threshold, and undecided otherwise. The interval comes from \
pairs of runs that were made in turn or from repeated runs. A single run of each decides nothing: see docs/guide/comparing.md.

Two URLs are measured in turn, as by bench URL_A --against URL_B --until 'p99±3%', until the verdict on every --metric is known: with the \
options of bench, such as --rate, --connections, --message-bytes, --duration of each run, --seed and --json, whose results are runs.

Exit codes: 0 not worse, 1 worse, 2 usage or nothing to compare, 3 the environment forbids it, 4 the generator was the bottleneck.";

/// Name and version of the JSON.
const SCHEMA: &str = "echoring.comparison/1";
/// Maximum file size.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Maximum threshold: ten times as bad.
const THRESHOLD_MAX: f64 = 10.0;
/// Exit code if something is worse.
const EXIT_WORSE: u8 = 1;

/// The flags of `compare`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// File of bench --json, or URL of a server; a single file needs runs of --repeat with --against
    #[arg(value_name = "A", required_unless_present = "pairs")]
    a: Option<PathBuf>,

    /// File or server to compare with A
    #[arg(value_name = "B")]
    b: Option<PathBuf>,

    /// Of two servers: --metric and --threshold in one, such as p99±3% or messages_per_s+-5%; repeatable
    ///
    /// Of several metrics, each has a part of the error rate of 5 %, and the same difference.
    #[arg(long, value_name = "METRIC±SHARE")]
    until: Vec<String>,

    /// Of two servers: longest time of all pairs of runs [default: 10m]
    #[arg(long, value_name = "TIME", requires = "until")]
    max_duration: Option<String>,

    /// Smallest difference that matters, such as 5% or 0.05
    #[arg(long, value_name = "SHARE", value_parser = values::share_in(..=THRESHOLD_MAX), default_value = "5%")]
    threshold: f64,

    /// Metric that must not be worse, as in bench --fail-if; repeatable
    ///
    /// The default is p50, p99, messages_per_s, and cpu_per_message where it is known; of searches the capacity. Of two servers, times and
    /// rates can be compared.
    #[arg(long, value_name = "METRIC", value_parser = Metric::from_str)]
    metric: Vec<Metric>,

    /// Compare runs with different settings (mode, sizes, connections, …)
    #[arg(long)]
    allow_different: bool,

    /// Print the median ratio of pairs in this JSON file, with its interval
    ///
    /// The file has pairs of values [[A, B], ...], or their ratios B / A. The output is JSON. - reads stdin.
    #[arg(long, value_name = "FILE|-", exclusive = true)]
    pairs: Option<FileOrStream>,

    /// Write the comparison as JSON; - writes only the JSON to stdout
    #[arg(long, value_name = "FILE|-")]
    json: Option<FileOrStream>,
}

/// The command line of `bench` that measures the two servers named in one of `compare`; others as they are.
pub(crate) fn with_servers_measured(mut words: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let is_url = |word: &OsString| {
        word.to_str().is_some_and(|word| ["ws://", "wss://"].iter().any(|scheme| word.starts_with(scheme)))
    };
    let urls = words.iter().skip(2).filter(|word| is_url(word)).count();
    if urls != 2 || words[1] != "compare" {
        return Ok(words);
    }
    let mut own = OwnFlags::default();
    let mut rest = words.split_off(2).into_iter();
    let mut measured: Vec<OsString> = vec![std::mem::take(&mut words[0]), "bench".into()];
    let mut seen = 0;
    while let Some(word) = rest.next() {
        if own.takes(&word, || rest.next())? {
            continue;
        }
        seen += usize::from(is_url(&word));
        if seen == 2 && is_url(&word) {
            measured.push("--against".into());
        }
        measured.push(word);
    }
    let has_flag = |flag: &str| {
        measured.iter().filter_map(|word| word.to_str()).any(|word| word.split('=').next() == Some(flag))
    };
    let cpu_is_known = has_flag("--server-pid") && has_flag("--against-pid");
    measured.extend(own.goals(cpu_is_known)?.into_iter().map(|goal| format!("--until={goal}").into()));
    Ok(measured)
}

/// The flags of `compare` in a command line that measures servers.
#[derive(Debug, Default)]
struct OwnFlags {
    goals: Vec<Goal>,
    metrics: Vec<Metric>,
    threshold: Option<f64>,
}

impl OwnFlags {
    /// Whether a word is one of these flags. Its value is behind the sign of equality, or the next word.
    fn takes(&mut self, word: &OsString, next: impl FnOnce() -> Option<OsString>) -> Result<bool, Failure> {
        let Some(word) = word.to_str() else { return Ok(false) };
        let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        if ["--allow-different", "--pairs"].contains(&flag) {
            return Err(Failure::Usage(format!("{flag}: only for files of results, not for servers")));
        }
        if !["--until", "--metric", "--threshold"].contains(&flag) {
            return Ok(false);
        }
        let wrong = |why: String| Failure::Usage(format!("{flag}: {why}"));
        let value = value.map(OsString::from).or_else(next).unwrap_or_default();
        let value = value.to_str().ok_or_else(|| wrong("expected text".to_owned()))?;
        match flag {
            "--until" => self.goals.push(value.parse().map_err(wrong)?),
            "--metric" => self.metrics.push(value.parse().map_err(wrong)?),
            _ => {
                let share = values::share_in(..=THRESHOLD_MAX)(value).map_err(wrong)?;
                self.threshold = Some(share);
            }
        }
        Ok(true)
    }

    /// The goals of the run. All have the same margin.
    fn goals(self, cpu_is_known: bool) -> Result<Vec<String>, Failure> {
        let OwnFlags { goals, mut metrics, threshold } = self;
        let differs = |goal: &&Goal| threshold.is_some_and(|share| (share - goal.width()).abs() > 1e-9);
        if let Some(goal) = goals.iter().find(differs) {
            let why = format!("--until {goal} names another difference that matters: leave one out");
            return Err(Failure::Usage(format!("--threshold: {why}")));
        }
        let named = |name: &str| goals.iter().any(|goal| goal.metric().name == name);
        if goals.is_empty() && metrics.is_empty() {
            metrics = compare::metrics(&compare::JUDGED).map_err(Failure::Usage)?;
            metrics.retain(|metric| !metric.needs_search() && (cpu_is_known || !metric.needs_server()));
        }
        metrics.retain(|metric| !named(&metric.name));
        let margin = goals.first().map(Goal::width).or(threshold).unwrap_or(compare::THRESHOLD_DEFAULT);
        let of_metric = |metric: &Metric| {
            let goal = format!("{}±{}%", metric.name, (1e11 * margin).round() / 1e9);
            let wrong = |why| Failure::Usage(format!("--metric {}: {why}", metric.name));
            goal.parse::<Goal>().map(|goal| goal.to_string()).map_err(wrong)
        };
        let added = metrics.iter().map(of_metric).collect::<Result<Vec<_>, _>>()?;
        Ok(goals.iter().map(Goal::to_string).chain(added).collect())
    }
}

/// Compares, and returns the exit code that says whether B is worse.
pub(crate) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    if let Some(path) = &arguments.pairs {
        return compare_pairs(path);
    }
    let is_url = |path: &&PathBuf| path.to_str().is_some_and(|word| word.contains("://"));
    if !arguments.until.is_empty() || arguments.a.iter().chain(&arguments.b).any(|path| is_url(&path)) {
        let example = "echoring compare ws://127.0.0.1:9001 ws://127.0.0.1:9101 --metric p99 --threshold 3%";
        return Err(Failure::Usage(format!("servers are compared by two URLs, as in {example}")));
    }
    let Some(path) = &arguments.a else { return Err(Failure::Usage("A: expected a file".to_owned())) };
    let (a, b) = sides(path, arguments.b.as_deref())?;
    let (shown, judged) = chosen(&arguments.metric)?;
    let terms = compare::CompareOptions { metrics: shown, threshold: arguments.threshold };
    let found = compare::compare(&a, &b, &terms).map_err(Failure::Usage)?;
    check(&found, &arguments)?;
    write(&found, arguments.json.as_ref())?;
    for comparison in &found {
        for warning in comparison.differences.iter().chain(&comparison.warnings) {
            note(format_args!("warning: {}: {warning}", comparison.mode));
        }
    }
    let worse: Vec<String> = found.iter().flat_map(|comparison| worse(comparison, &judged)).collect();
    for line in &worse {
        note(format_args!("error: {line}"));
    }
    Ok(if worse.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_WORSE) })
}

/// Prints the median ratio of pairs that another program measured.
fn compare_pairs(from: &FileOrStream) -> Result<ExitCode, Failure> {
    let (name, source): (_, io::Result<Box<dyn io::Read>>) = match from {
        FileOrStream::Stream => ("stdin".to_owned(), Ok(Box::new(io::stdin()))),
        FileOrStream::File(path) => {
            (path.display().to_string(), File::open(path).map(|file| Box::new(file) as Box<dyn io::Read>))
        }
    };
    let mut bytes = Vec::new();
    source
        .and_then(|source| source.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| Failure::Environment(format!("--pairs: {name} cannot be read: {error}")))?;
    let wrong = |why: String| Failure::Usage(format!("--pairs: {name}: {why}"));
    let pairs: Pairs = serde_json::from_slice(&bytes)
        .map_err(|error| wrong(format!("{error}; expected JSON such as [[2.0, 1.9], [2.1, 2.0]]")))?;
    let found = pairs.ratio().map_err(wrong)?;
    let mut json = serde_json::to_value(found).expect("names are the only keys");
    json["schema"] = pairs::SCHEMA.into();
    to_stdout(format!("{json}\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The runs of both sides.
fn sides(one: &Path, other: Option<&Path>) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let is_second = |run: &Value| run["repetition"]["side"] == "b";
    let first = read(one)?;
    let Some(path) = other else {
        let (b, a): (Vec<Value>, Vec<Value>) = first.into_iter().partition(is_second);
        if b.is_empty() {
            return Err(Failure::Usage(format!(
                "{} has runs of one target: name a second file, such as compare a.json b.json, or make one with \
                 bench --repeat 10 --against URL --json",
                one.display()
            )));
        }
        return Ok((a, b));
    };
    let second = read(path)?;
    for (runs, path) in [(&first, one), (&second, path)] {
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
    let new: Vec<Metric> =
        asked.iter().filter(|metric| shown.iter().all(|known| known.name != metric.name)).cloned().collect();
    shown.extend(new);
    let judged = match asked {
        [] => compare::metrics(&compare::JUDGED).map_err(Failure::Usage)?,
        asked => asked.to_vec(),
    };
    Ok((shown, judged))
}

/// Refuses meaningless comparisons: other loads, and a metric that was asked for and that neither side knows.
fn check(found: &[Comparison], arguments: &Args) -> Result<(), Failure> {
    if let Some(line) = found.iter().flat_map(|comparison| &comparison.differences).next()
        && !arguments.allow_different
    {
        return Err(Failure::Usage(format!(
            "not the same load: {line}; --allow-different compares them anyway"
        )));
    }
    match unknown_metric(found, &arguments.metric) {
        None => Ok(()),
        Some(metric) => Err(Failure::Usage(format!(
            "--metric: neither file has {metric}; choose one, such as --metric p99 --metric messages_per_s"
        ))),
    }
}

/// A metric that was asked for and that neither side knows.
fn unknown_metric<'a>(found: &[Comparison], asked: &'a [Metric]) -> Option<&'a str> {
    let is_known = |metric: &&Metric| {
        found.iter().flat_map(|comparison| &comparison.metrics).any(|finding| finding.metric == metric.name)
    };
    asked.iter().find(|metric| !is_known(metric)).map(|metric| metric.name.as_str())
}

/// The metrics in which B is worse, a line each.
fn worse(comparison: &Comparison, judged: &[Metric]) -> Vec<String> {
    compare::worse(comparison, judged)
        .filter_map(|finding| {
            let (mode, metric, by) = (&comparison.mode, &finding.metric, finding.worse_by()?);
            Some(format!("{mode}: {metric} is worse in B: {by} A"))
        })
        .collect()
}

/// The runs of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Value>, Failure> {
    let shown = path.display();
    let bytes = beginning(path, FILE_BYTES_MAX).map_err(|error| {
        Failure::Environment(format!("{shown} cannot be read: {error}; name a file of bench --json"))
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Usage(format!("{shown} is longer than {FILE_BYTES_MAX} bytes")));
    }
    let wrong = |why: String| Failure::Usage(format!("{shown} does not hold results of bench --json: {why}"));
    let mut file: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if file["schema"] != record::SCHEMA {
        return Err(wrong(format!("its schema is not {}", record::SCHEMA)));
    }
    match file["runs"].take() {
        Value::Array(runs) if !runs.is_empty() => Ok(runs),
        _ => Err(wrong("it contains no run".to_owned())),
    }
}

fn write(found: &[Comparison], json: Option<&FileOrStream>) -> Result<(), Failure> {
    if json != Some(&FileOrStream::Stream) {
        let texts: Vec<String> = found.iter().map(tables::comparison).collect();
        to_stdout(texts.join("\n").as_bytes())?;
    }
    let Some(json) = json else { return Ok(()) };
    let file = serde_json::json!({ "schema": SCHEMA, "comparisons": found });
    let mut text = serde_json::to_string_pretty(&file).expect("names are the only keys");
    text.push('\n');
    crate::write(json, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<String, String> {
        let words = text.split(' ').map(OsString::from).collect();
        let told = |failure| match failure {
            Failure::Usage(line) | Failure::Environment(line) => line,
        };
        let words = with_servers_measured(words).map_err(told)?;
        Ok(words.join(std::ffi::OsStr::new(" ")).into_string().expect("text"))
    }

    #[test]
    fn two_servers_are_measured_by_bench_until_the_verdicts_on_the_metrics_are_known() {
        for (typed, measured) in [
            ("ws://a -c 2 wss://b --until p99+-3%", "ws://a -c 2 --against wss://b --until=p99+-3%"),
            ("--until=p99±3% ws://a ws://b", "ws://a --against ws://b --until=p99±3%"),
            ("ws://a ws://b --metric p99 --threshold 3%", "ws://a --against ws://b --until=p99±3%"),
            (
                "--threshold=0.07 ws://a --metric=p50 ws://b --metric messages_per_s --rate 9",
                "ws://a --against ws://b --rate 9 --until=p50±7% --until=messages_per_s±7%",
            ),
            (
                "ws://a ws://b --metric p50 --until p99±2.5%",
                "ws://a --against ws://b --until=p99±2.5% --until=p50±2.5%",
            ),
            ("ws://a ws://b --metric p99 --until p99±3%", "ws://a --against ws://b --until=p99±3%"),
            ("ws://a ws://b --threshold 3% --until p99±3%", "ws://a --against ws://b --until=p99±3%"),
            (
                "ws://a ws://b",
                "ws://a --against ws://b --until=p50±5% --until=p99±5% --until=messages_per_s±5%",
            ),
            (
                "ws://a ws://b --server-pid 1 --against-pid=2 --threshold 10%",
                "ws://a --against ws://b --server-pid 1 --against-pid=2 --until=p50±10% --until=p99±10% \
                 --until=messages_per_s±10% --until=cpu_per_message±10%",
            ),
        ] {
            assert_eq!(
                line(&format!("echoring compare {typed}")).expect(typed),
                format!("echoring bench {measured}")
            );
        }
        for same in [
            "echoring compare a.json b.json --metric p99",
            "echoring compare ws://a --until p99+-3%",
            "echoring compare ws://a ws://b ws://c --until p99+-3%",
            "echoring bench ws://a ws://b --until p99+-3%",
            "echoring",
        ] {
            assert_eq!(line(same).expect(same), same);
        }
    }

    #[test]
    fn flags_without_a_meaning_for_servers_are_refused_by_name() {
        for (typed, told) in [
            ("--allow-different", "--allow-different: only for files of results"),
            ("--pairs=-", "--pairs: only for files of results"),
            ("--threshold 2% --until p99±3%", "--threshold: --until p99±3% names another difference"),
            ("--threshold 0.1%", "--metric p50: expected a time or a rate and 0.5% to 50%"),
            ("--threshold much", "--threshold: "),
            ("--metric fast", "--metric: unknown metric `fast`"),
            ("--metric lost", "--metric lost: expected a time or a rate"),
            ("--until p99", "--until: expected a time or a rate"),
            ("--metric", "--metric: unknown metric ``"),
        ] {
            let wrong = line(&format!("echoring compare ws://a ws://b {typed}")).expect_err(typed);
            assert!(wrong.starts_with(told), "{typed}: {wrong}");
        }
    }
}
