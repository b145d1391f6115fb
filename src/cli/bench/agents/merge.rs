//! `echoring merge`: the shares of a run, which `bench --segment` made on several machines, as one result.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::super::{outputs, verdicts};
use crate::Failure;
use crate::common::values::FileOrStream;
use echoring_load::record::segment::{SegmentResult, SegmentRun, from_text};
use echoring_load::record::{self, Config, Record};
use echoring_load::{Outcome, Results};

const EXAMPLES: &str = "\
Examples:
  echoring bench ws://10.0.0.9:9001 -c 30000 --rate 30k --seed 7 --segment 1/3 --json a.json
      on one machine; with --segment 2/3 and 3/3 on two others, at the same time
  echoring merge a.json b.json c.json --json all.json
      one result of the whole run: counts and distributions are added, percentiles are never averaged

Exit codes: 0 done, 1 integrity broken, 2 usage or files that do not belong together, 3 a file cannot be read or written, 4 a
generator was the bottleneck.";

/// Maximum size of a file in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The flags of `merge`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct MergeArgs {
    /// Results of bench --segment K/N --json: all shares of the same runs, in any order
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    files: Vec<PathBuf>,

    /// Write the results as JSON; - writes only the JSON to stdout
    #[arg(long, value_name = "FILE|-")]
    json: Option<FileOrStream>,
}

/// Puts the shares together, and prints the results.
pub fn merge(arguments: MergeArgs) -> Result<ExitCode, Failure> {
    let files = arguments.files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let runs = files[0].1.len();
    if let Some((path, other)) = files.iter().find(|(_, records)| records.len() != runs) {
        let line =
            format!("{} has {} runs, and {} has {runs}", path.display(), other.len(), files[0].0.display());
        return Err(Failure::Usage(line));
    }
    let outcomes = (0..runs)
        .map(|run| {
            let shares = files.iter().map(|(path, records)| (*path, &records[run])).collect();
            merged(shares).map_err(|line| {
                Failure::Usage(if runs > 1 { format!("run {}: {line}", run + 1) } else { line })
            })
        })
        .collect::<Result<Vec<Outcome>, Failure>>()?;
    let results = Results { outcomes, ..Results::default() };
    let written = outputs::Written { results: &results, baseline: None };
    let unwritten = outputs::write_results(arguments.json.as_ref(), &written)?;
    Ok(verdicts::conclude(&results, None, Vec::new(), &unwritten))
}

fn read(path: &Path) -> Result<(&Path, Vec<Record>), Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| Failure::Environment(format!("{}: {error}", path.display())))?;
    let file = serde_json::from_str::<record::File>(&text).map_err(|error| {
        Failure::Usage(format!("{}: not what bench --json writes: {error}", path.display()))
    })?;
    Ok((path, file.runs))
}

/// The whole run of these shares.
fn merged(mut shares: Vec<(&Path, &Record)>) -> Result<Outcome, String> {
    let number = |record: &Record| record.segment.as_ref().map_or(0, |segment| segment.number);
    shares.sort_by_key(|(_, record)| number(record));
    let (first_path, first) = shares[0];
    let mut runs: Vec<SegmentRun> = Vec::new();
    for (expected, (path, record)) in (1..).zip(&shares) {
        let name = path.display();
        let Some(segment) = &record.segment else {
            return Err(format!("{name} is not a share of a run: make it with bench --segment K/N"));
        };
        if segment.of as usize != shares.len() || segment.number != expected {
            let found: Vec<String> = shares
                .iter()
                .filter_map(|(_, record)| record.segment.as_ref())
                .map(|segment| format!("{}/{}", segment.number, segment.of))
                .collect();
            return Err(format!("expected all shares of one run, each once; found {}", found.join(", ")));
        }
        if plan(record) != plan(first) || record.target != first.target {
            return Err(format!(
                "{name} and {} are of different runs: flags or --seed differ",
                first_path.display()
            ));
        }
        runs.push(from_text(&segment.results).map_err(|why| format!("{name}: {why}"))?);
    }
    let (load, target) = (runs[0].load.clone(), runs[0].target.clone());
    let agents = shares.iter().zip(&runs).map(|((path, record), run)| record::Agent {
        name: path.display().to_string(),
        connections: echoring_load::Segment::new(number(record) - 1, shares.len() as u32)
            .map_or(0, |segment| segment.count(load.connections)),
        opened: run.result.opened(),
        messages: run.result.messages(),
        clock_behind_ns: None,
        clock_uncertainty_ns: None,
        lost: None,
        environment: Some(record.environment.clone()),
    });
    let agents: Vec<record::Agent> = agents.collect();
    let sum = SegmentResult::merged(runs.into_iter().map(|run| run.result));
    let mut outcome = Outcome::of(&load, &target, sum.ok_or("no shares")?).by_agents(agents);
    let Config { threads, cpus, source_addresses, .. } = outcome.record.config;
    // The load of a share has no contents of files.
    outcome.record.config = Config { threads, cpus, source_addresses, ..first.config.clone() };
    outcome.record.label.clone_from(&first.label);
    Ok(outcome)
}

/// The options without those that belong to a machine.
fn plan(record: &Record) -> Config {
    Config { threads: 0, cpus: Vec::new(), source_addresses: Vec::new(), ..record.config.clone() }
}
