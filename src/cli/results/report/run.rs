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
    /// The record, without its slices.
    pub(super) record: Record,
    /// Its slices, if it has any.
    pub(super) slices: Option<Slices>,
    /// The histograms, if the record has them.
    pub(super) response: Option<Histogram<u64>>,
    pub(super) service: Option<Histogram<u64>>,
}

/// The outer form of a result file. Its runs are parsed one by one afterwards, so that an error names its run.
#[derive(Deserialize)]
#[serde(expecting = "an object with a schema and runs")]
struct ResultFile<'a> {
    schema: Option<String>,
    #[serde(borrow)]
    runs: Option<Vec<&'a RawValue>>,
}

/// Reads the runs of these files.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<Vec<Run>, Failure> {
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
    let text = beginning(path, FILE_BYTES_MAX)
        .map_err(|error| Failure::Environment(format!("RUN: cannot read {name}: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Usage(format!("RUN: {name} is larger than 256 MiB; check the file")));
    }
    parse(&text).map_err(|why| {
        Failure::Usage(format!("RUN: {name} is not a result file of `bench --json FILE`: {why}"))
    })
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
    let name = record.label.clone().unwrap_or_else(|| format!("{} of {}", record.config.mode, record.target));
    let slices = Slices::take(&mut record)?;
    Ok(Run { name, file: 0, record, slices, response, service })
}

/// Numbers the runs with equal names.
pub(super) fn name_apart(runs: &mut [Run]) {
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
