//! `echoring report`: recorded runs as one self-contained page.
//!
//! Figures are drawn as they are in the files; nothing is measured here, and percentiles are never averaged.

mod curves;
mod notes;
mod page;
mod run;
mod series;

use std::path::PathBuf;
use std::process::ExitCode;

use self::page::Page;
use self::run::{Run, read_all};
use crate::Failure;
use crate::common::values::FileOrStream;
use echoring_load::record::comparison::Comparison;

const EXAMPLES: &str = "\
Examples:
  echoring bench ws://127.0.0.1:9001 --rate 20000 --json run.json
  echoring report run.json
      writes report.html
  echoring report before.json after.json --out change.html --title 'With and without'
      both in the same charts, heat maps with the same scales, and a comparison
  echoring report before-1.json before-2.json --against after-1.json --against after-2.json
      the same of several files: the runs of each side are added up

Exit codes: 0 done, 2 usage, or a file that bench --json did not write, 3 a file cannot be read or written.";

/// The flags of `report`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Files that bench --json wrote; each may hold several runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,

    /// Compare the RUNs (A) with this file (B); repeatable
    ///
    /// The page compares the metrics of both sides, and charts have both. Two RUNs without --against are compared as well.
    #[arg(long, value_name = "RUN")]
    against: Vec<PathBuf>,

    /// The page to write; - writes it to stdout
    #[arg(long, value_name = "FILE|-", default_value = "report.html")]
    out: FileOrStream,

    /// Title of the page [default: name of the first run]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
}

/// Draws the runs.
pub(crate) fn run(arguments: &Args) -> Result<ExitCode, Failure> {
    let (mut runs, ended) = read_all(&arguments.runs, &arguments.against)?;
    if !ended.is_empty() {
        // In each pair A first, whichever was measured first.
        runs.sort_by_key(|run| run.record.repetition.as_ref().map(|pair| (pair.number, pair.side.clone())));
    }
    let title = arguments.title.clone().unwrap_or_else(|| default_title(&runs, &ended));
    let page = Page::of(title, &runs, ended);
    if page.comparisons.is_empty() && !arguments.against.is_empty() {
        let why = "--against: no load is on both sides; compare runs of the same mode, messages and rate";
        return Err(Failure::Usage(why.to_owned()));
    }
    crate::write(&arguments.out, page.html().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn default_title(runs: &[Run], ended: &[Comparison]) -> String {
    if let [Comparison { mode, a, b: Some(b), .. }, ..] = ended {
        return format!("{mode} of {} and {}", a.target, b.target);
    }
    match runs {
        [only] => only.name.clone(),
        [first, rest @ ..] => format!("{} and {} more", first.name, rest.len()),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests;
