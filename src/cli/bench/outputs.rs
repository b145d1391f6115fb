//! Where the results of `bench` go.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::usage;
use crate::cli::Failure;
use crate::load::compare::Comparison;
use crate::load::{Outcome, record, show, tables};

/// What is to be printed and written.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Write the results as JSON; - writes them to stdout, and nothing else
    #[arg(long, value_name = "FILE|-")]
    pub(super) json: Option<PathBuf>,

    /// Write response times for HdrHistogram's plotter; with several runs the mode goes before the extension, and
    /// which of repeated runs it is
    #[arg(long, value_name = "FILE")]
    pub(super) hgrm: Option<PathBuf>,
}

impl Args {
    /// Finds out before the run that a file cannot be written after it.
    pub(super) fn check(&self) -> Result<(), Failure> {
        for (flag, path) in [("--json", &self.json), ("--hgrm", &self.hgrm)] {
            let Some(path) = path else { continue };
            if flag == "--hgrm" && path.file_name().is_none() {
                return Err(usage(flag, "expected a file"));
            }
            if flag == "--json" && path.as_os_str() == "-" {
                continue;
            }
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|error| usage(flag, &format!("{} cannot be written: {error}", path.display())))?;
        }
        Ok(())
    }

    /// Prints and writes all runs; of repeated ones what is said of them together is printed.
    pub(super) fn write(&self, outcomes: &[Outcome], comparison: &[Comparison]) -> Result<(), Failure> {
        let cannot = |path: &Path, error: io::Error| {
            Failure::Environment(format!("{} could not be written: {error}", path.display()))
        };
        let json_only = self.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
        if let Some(path) = &self.json {
            let mut file = record::File::new(outcomes.iter().map(|outcome| outcome.record.clone()).collect());
            file.comparison = comparison.to_vec();
            let mut text = serde_json::to_string_pretty(&file).expect("a record has only names as keys");
            text.push('\n');
            let written = if json_only { to_stdout(text.as_bytes()) } else { fs::write(path, text) };
            written.map_err(|error| cannot(path, error))?;
        }
        if let Some(path) = &self.hgrm {
            for outcome in outcomes {
                let mut text = Vec::new();
                show::hgrm(&outcome.response, &mut text).expect("a vector takes all");
                let path = hgrm_path(path, outcome, outcomes.len());
                fs::write(&path, text).map_err(|error| cannot(&path, error))?;
            }
        }
        if !json_only {
            let mut text = Vec::new();
            let alone = if comparison.is_empty() { outcomes } else { &[] };
            for (at, outcome) in alone.iter().enumerate() {
                if at > 0 {
                    text.push(b'\n');
                }
                show::table(outcome, &mut text).expect("a vector takes all");
            }
            for (at, one) in comparison.iter().enumerate() {
                if at > 0 {
                    text.push(b'\n');
                }
                tables::comparison(one, &mut text).expect("a vector takes all");
            }
            to_stdout(&text).map_err(|error| cannot(Path::new("stdout"), error))?;
        }
        Ok(())
    }
}

/// Where a run's distribution goes: as named when there is one run.
fn hgrm_path(path: &Path, outcome: &Outcome, runs: usize) -> PathBuf {
    if runs == 1 {
        return path.to_path_buf();
    }
    let mut mode = outcome.record.config.mode.clone();
    if let Some(repetition) = &outcome.record.repetition {
        mode = format!("{mode}.{}{}", repetition.side, repetition.number);
    }
    match path.extension() {
        Some(extension) => path.with_extension(format!("{mode}.{}", extension.to_string_lossy())),
        None => path.with_extension(&mode),
    }
}

/// Writes to stdout. A reader that went away (`| head`) is no failure.
fn to_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
