//! `echoring report`: recorded runs as one self-contained page, and its charts as files.
//!
//! Figures are drawn as they are in the files; nothing is measured here, and percentiles are never averaged.

mod axis;
mod charts;
mod comparison;
mod heat;
mod notes;
mod page;
mod series;
mod svg;
mod timeline;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::Value;

use super::Failure;
use super::values::FileOrStream;
use echoring_load::measure;
use echoring_load::record::{Record, SCHEMA};
use series::Slices;

const EXAMPLES: &str = "\
Examples:
  echoring bench ws://127.0.0.1:9001 --rate 20000 --json run.json
  echoring report run.json
      writes report.html
  echoring report before.json after.json --out change.html --title 'With and without'
      both in the same charts, heat maps with the same scales, and a comparison
  echoring report run.json --svg charts
      report.html, and a file per chart for documents, such as charts/percentiles.svg

Exit codes: 0 done, 2 usage, or a file that bench --json did not write, 3 a file cannot be read or written.";

/// Maximum size of a file of runs in bytes. A run of ten minutes has a hundred thousand.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Maximum runs of a page; more could not be distinguished.
const RUNS_MAX: usize = 64;

/// The flags of `report`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Files that bench --json wrote; each may hold several runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,

    /// The page to write; - writes it to stdout
    #[arg(long, value_name = "FILE|-", default_value = "report.html")]
    out: FileOrStream,

    /// Also write each chart as an SVG file into this directory, which is created if needed
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,

    /// Title of the page [default: name of the first run]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
}

/// A run on the page.
#[derive(Debug)]
struct Run {
    /// The unique name of the run on the page.
    name: String,
    /// Number of the file that it is from.
    file: usize,
    /// The record, without its slices.
    record: Record,
    /// Its slices, if it has any.
    slices: Option<Slices>,
    /// Where it was looked for the highest rate.
    search: Option<Search>,
    /// The histograms, if the record has them.
    response: Option<Histogram<u64>>,
    service: Option<Histogram<u64>>,
}

/// A search for the highest rate that meets an objective.
#[derive(Debug, Deserialize)]
struct Search {
    #[serde(default)]
    objective: String,
    #[serde(default)]
    max_rate: Option<f64>,
    #[serde(default)]
    steps: Vec<Step>,
}

/// One step of a search.
#[derive(Debug, Deserialize)]
struct Step {
    rate: f64,
    #[serde(default)]
    messages_per_s: f64,
    #[serde(default)]
    held: bool,
    #[serde(default)]
    p50_ns: f64,
    #[serde(default)]
    p99_ns: f64,
    #[serde(default)]
    p999_ns: f64,
    #[serde(default)]
    why: Option<String>,
}

/// Draws the runs.
pub(super) fn run(arguments: &Args) -> Result<ExitCode, Failure> {
    let runs = read_all(&arguments.runs)?;
    let (charts, timeline) = (charts::all(&runs), timeline::timeline(&runs));
    let title = arguments.title.clone().unwrap_or_else(|| default_title(&runs));
    let comparisons = comparison::comparisons(&runs);
    let page = page::page(&title, &runs, &charts, timeline.as_ref(), &comparisons);
    super::write(&arguments.out, page.as_bytes())?;
    if let Some(directory) = &arguments.svg {
        fs::create_dir_all(directory).map_err(|error| {
            Failure::Environment(format!("--svg: {} cannot be created: {error}", directory.display()))
        })?;
        let over_time = timeline.iter().flat_map(|timeline| timeline.maps.iter().chain(&timeline.panels));
        for chart in charts.iter().chain(over_time) {
            let file = FileOrStream::File(directory.join(format!("{}.svg", chart.name)));
            super::write(&file, chart.file().as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn default_title(runs: &[Run]) -> String {
    match runs {
        [only] => only.name.clone(),
        [first, rest @ ..] => format!("{} and {} more", first.name, rest.len()),
        [] => String::new(),
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Run>, Failure> {
    let mut runs = Vec::new();
    for (file, path) in paths.iter().enumerate() {
        runs.extend(read(path)?.into_iter().map(|run| Run { file, ..run }));
    }
    if runs.len() > RUNS_MAX {
        return Err(Failure::Usage(format!(
            "RUN: {} runs exceed the maximum of {RUNS_MAX} per page",
            runs.len()
        )));
    }
    name_apart(&mut runs);
    Ok(runs)
}

fn read(path: &Path) -> Result<Vec<Run>, Failure> {
    let name = path.display();
    let unreadable = |error: io::Error| Failure::Environment(format!("RUN: cannot read {name}: {error}"));
    let mut text = Vec::new();
    File::open(path)
        .map_err(unreadable)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Usage(format!("RUN: {name} is larger than 256 MiB; check the file")));
    }
    parse(&text).map_err(|why| {
        Failure::Usage(format!("RUN: {name} is not a result file of `bench --json FILE`: {why}"))
    })
}

/// The runs of a file.
fn parse(text: &[u8]) -> Result<Vec<Run>, String> {
    let mut file: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    match file["schema"].as_str() {
        Some(SCHEMA) => {}
        Some(other) => return Err(format!("its schema is {other:.40}, not {SCHEMA}")),
        None => return Err("it has no schema".to_owned()),
    }
    let Value::Array(runs) = file["runs"].take() else { return Err("it has no runs".to_owned()) };
    runs.into_iter()
        .enumerate()
        .map(|(at, run)| of(run).map_err(|why| format!("run {}: {why}", at + 1)))
        .collect()
}

fn of(mut value: Value) -> Result<Run, String> {
    let search = match value.get_mut("search").map(Value::take) {
        None | Some(Value::Null) => None,
        Some(search) => Some(Search::deserialize(search).map_err(|error| format!("search: {error}"))?),
    };
    let mut record: Record = Record::deserialize(value).map_err(|error| error.to_string())?;
    let whole = |text: &Option<String>| {
        text.as_deref().map(measure::decode).transpose().map_err(|error| error.to_string())
    };
    let (response, service) = (whole(&record.response_histogram)?, whole(&record.service_histogram)?);
    let name = record.label.clone().unwrap_or_else(|| format!("{} of {}", record.config.mode, record.target));
    let slices = Slices::take(&mut record)?;
    Ok(Run { name, file: 0, record, slices, search, response, service })
}

/// Numbers the runs with equal names.
fn name_apart(runs: &mut [Run]) {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for run in runs.iter() {
        *times.entry(run.name.clone()).or_default() += 1;
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for run in runs {
        if times[&run.name] > 1 {
            let number = seen.entry(run.name.clone()).or_default();
            *number += 1;
            run.name = format!("{} #{number}", run.name);
        }
    }
}

#[cfg(test)]
mod tests;
