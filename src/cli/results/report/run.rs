//! Recorded runs, as a page shows them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::series::Slices;
use crate::Failure;
use crate::common::file::beginning;
use echoring_load::measure;
use echoring_load::record::comparison::Comparison;
use echoring_load::record::{Record, SCHEMA};

/// Maximum size of a file of runs in bytes. A run of ten minutes has a hundred thousand.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Maximum runs of a page; more could not be distinguished.
const RUNS_MAX: usize = 64;

/// A run on the page.
#[derive(Debug)]
pub(super) struct Run {
    /// The unique name of the run on the page.
    pub(super) name: String,
    /// Number of the file that it is from.
    pub(super) file: usize,
    /// Whether it is of the side that the others are compared with.
    pub(super) is_rival: bool,
    /// The record, without its slices.
    pub(super) record: Record,
    /// Its slices, if it has any.
    pub(super) slices: Option<Slices>,
    /// The histograms, if the record has them.
    pub(super) response: Option<Histogram<u64>>,
    pub(super) service: Option<Histogram<u64>>,
    pub(super) server_and_network: Option<Histogram<u64>>,
}

/// The outer form of a result file. Its runs are parsed one by one afterwards, so that an error names its run.
#[derive(Deserialize)]
#[serde(expecting = "an object with a schema and runs")]
struct ResultFile<'a> {
    schema: Option<String>,
    #[serde(borrow)]
    runs: Option<Vec<&'a RawValue>>,
}

/// The comparisons of a file that its runs do not tell: those whose pairs ended by their results.
#[derive(Default, Deserialize)]
struct ResultComparisons {
    #[serde(default)]
    comparison: Vec<Comparison>,
}

/// Reads the runs of these files, and of those that they are compared with, and from a single file the comparisons whose pairs ended by
/// their results.
pub(super) fn read_all(
    paths: &[PathBuf],
    against: &[PathBuf],
) -> Result<(Vec<Run>, Vec<Comparison>), Failure> {
    let (mut runs, mut ended) = (Vec::new(), Vec::new());
    let files = paths.len() + against.len();
    for (file, path) in paths.iter().chain(against).enumerate() {
        let (of_file, comparisons) = read(path)?;
        let is_rival = file >= paths.len();
        runs.extend(of_file.into_iter().map(|run| Run { file, is_rival, ..run }));
        ended = if files == 1 { comparisons } else { Vec::new() };
    }
    if runs.len() > RUNS_MAX && ended.is_empty() {
        return Err(Failure::Usage(format!(
            "RUN: {} runs exceed the maximum of {RUNS_MAX} per page",
            runs.len()
        )));
    }
    name_apart(&mut runs);
    Ok((runs, ended))
}

fn read(path: &Path) -> Result<(Vec<Run>, Vec<Comparison>), Failure> {
    let name = path.display();
    let text = beginning(path, FILE_BYTES_MAX)
        .map_err(|error| Failure::Environment(format!("RUN: cannot read {name}: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Usage(format!("RUN: {name} is larger than 256 MiB; check the file")));
    }
    let runs = parse(&text).map_err(|why| {
        Failure::Usage(format!("RUN: {name} is not a result file of `bench --json FILE`: {why}"))
    })?;
    Ok((runs, ended_comparisons(&text)))
}

/// The comparisons of a file whose pairs ended by their results. Those of other versions may have another form.
pub(super) fn ended_comparisons(text: &[u8]) -> Vec<Comparison> {
    let file: ResultComparisons = serde_json::from_slice(text).unwrap_or_default();
    file.comparison.into_iter().filter(|found| found.until.is_some()).collect()
}

/// The runs of a file.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Run>, String> {
    let text = str::from_utf8(text).map_err(|error| error.to_string())?;
    let file: ResultFile<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match file.schema.as_deref() {
        Some(SCHEMA) => {}
        Some(other) => return Err(format!("its schema is {other:.40}, not {SCHEMA}")),
        None => return Err("it has no schema".to_owned()),
    }
    let runs = file.runs.ok_or("it has no runs")?;
    runs.into_iter()
        .enumerate()
        .map(|(at, run)| of(run.get()).map_err(|why| format!("run {}: {why}", at + 1)))
        .collect()
}

fn of(json: &str) -> Result<Run, String> {
    let mut record: Record = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let whole = |text: &Option<String>| {
        text.as_deref().map(measure::decode).transpose().map_err(|error| error.to_string())
    };
    let (response, service) = (whole(&record.response_histogram)?, whole(&record.service_histogram)?);
    let server_and_network = whole(&record.server_and_network_histogram)?;
    let name = record.label.clone().unwrap_or_else(|| format!("{} of {}", record.config.mode, record.target));
    let slices = Slices::take(&mut record)?;
    Ok(Run { name, file: 0, is_rival: false, record, slices, response, service, server_and_network })
}

/// Names the side of each run, A or B, if there are two, and numbers the runs with equal names.
pub(super) fn name_apart(runs: &mut [Run]) {
    if let Some(is_b) = side_of(runs) {
        for run in runs.iter_mut() {
            run.name = format!("{}: {}", if is_b(run) { "B" } else { "A" }, run.name);
        }
    }
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

/// Tells the runs of side B; `None` if there are not two.
pub(super) fn side_of(runs: &[Run]) -> Option<fn(&Run) -> bool> {
    fn is_b(run: &Run) -> bool {
        run.record.repetition.as_ref().is_some_and(|repetition| repetition.side == "b")
    }
    if runs.iter().any(|run| run.is_rival) {
        return Some(|run| run.is_rival);
    }
    let files = runs.iter().map(|run| run.file + 1).max().unwrap_or(0);
    match (files, runs.iter().any(is_b)) {
        (1, true) => Some(is_b),
        (2, false) => Some(|run| run.file == 1),
        _ => None,
    }
}
