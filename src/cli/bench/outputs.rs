//! Where the results of `bench` go: stdout first, then files.
//!
//! A file that cannot be written is reported in a line after all results are printed; the others are still written.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
#[cfg(feature = "otlp")]
use std::str::FromStr as _;

use super::exporter::{Exporter, Monitoring};
use super::headings::OUTPUT;
use super::parsers::{sample_share, socket_address};
#[cfg(feature = "otlp")]
use super::push::{Pusher, ReceiverUrl};
use super::usage::usage;
use crate::Failure;
use crate::common::output::{note, try_to_stdout, write_file};
use crate::common::values::FileOrStream;
use echoring_load::render::{self, export, samples, summary, tables};
use echoring_load::{Outcome, Results, record};

/// The outputs to print and to write.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Write the results as JSON; - writes only the JSON to stdout
    #[arg(long, value_name = "FILE|-")]
    pub(super) json: Option<FileOrStream>,

    /// Write response times in milliseconds for HdrHistogram's plotter
    ///
    /// With several runs, the mode is put before the extension, or the run's number if modes repeat.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) hgrm: Option<PathBuf>,

    /// Write an HdrHistogram interval log (version 1.3), one distribution per second in nanoseconds
    ///
    /// Files of several runs are named as for --hgrm.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) hlog: Option<PathBuf>,

    /// Write a CSV row per second: rates, and latencies in nanoseconds
    ///
    /// Files of several runs are named as for --hgrm.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) csv: Option<PathBuf>,

    /// Share of single messages to write to --samples-file [default: 1/1000]
    ///
    /// Messages are picked at random, whatever their latency. If all runs of --repeat together pick more than 500,000
    /// messages, the files hold a random sample of them.
    #[arg(long, value_name = "SHARE", value_parser = sample_share, help_heading = OUTPUT)]
    pub(super) samples: Option<f64>,

    /// Write a sample of single messages with their times
    ///
    /// The extension is .csv. Files of several runs are named as for --hgrm.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) samples_file: Option<PathBuf>,

    /// Write the checks of each run as tests in JUnit's format, for CI servers
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) junit: Option<PathBuf>,

    /// Append the results as Markdown to this file, such as $GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) markdown: Option<PathBuf>,

    /// Name of the run in results and reports [default: mode and target]
    #[arg(long, value_name = "TEXT", help_heading = OUTPUT)]
    pub(super) label: Option<String>,

    /// Serve Prometheus metrics of the run at http://ADDR:PORT/metrics
    ///
    /// Port 0 takes a free port, printed on stderr.
    #[arg(long, value_name = "ADDR:PORT", value_parser = socket_address, help_heading = OUTPUT)]
    pub(super) prometheus: Option<SocketAddr>,

    /// Send metrics of the run every 5 s to this OpenTelemetry collector, such as http://127.0.0.1:4318
    ///
    /// OTLP over HTTP; without a path it is /v1/metrics. USER:PASSWORD@ in the URL is Basic authentication, and
    /// OTEL_EXPORTER_OTLP_HEADERS has further header fields.
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL", value_parser = ReceiverUrl::from_str, help_heading = OUTPUT)]
    pub(super) otlp: Option<ReceiverUrl>,

    /// Read flags from a TOML file; flags on the command line override it
    ///
    /// Its keys are the long flags. Each [[run]] table is a run.
    #[arg(short = 'f', long = "scenario", value_name = "FILE")]
    pub(super) scenario: Option<PathBuf>,
}

/// The share of --samples where there is a file only.
const SAMPLE_SHARE_DEFAULT: f64 = 1e-3;

/// The files of each run.
type Format = fn(&Outcome, &mut dyn io::Write) -> io::Result<()>;

impl Args {
    /// Detects before the run that a file cannot be written after it.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.check_samples()?;
        let json = match &self.json {
            Some(FileOrStream::File(path)) => Some(("--json", path)),
            Some(FileOrStream::Stream) | None => None,
        };
        let per_run = self.per_run().into_iter().filter_map(|(flag, path, _)| Some((flag, path.as_ref()?)));
        let of_all = [("--junit", &self.junit), ("--markdown", &self.markdown)];
        let of_all = of_all.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?)));
        for (flag, path) in per_run.chain(json).chain(of_all) {
            if path.file_name().is_none() {
                return Err(usage(flag, &format!("expected a file, such as {flag} run.txt")));
            }
            try_to_write(path)
                .map_err(|error| usage(flag, &format!("{} cannot be written: {error}", path.display())))?;
        }
        Ok(())
    }

    fn check_samples(&self) -> Result<(), Failure> {
        match &self.samples_file {
            None if self.samples.is_some() => Err(usage(
                "--samples",
                "name a file too, such as --samples 1/1000 --samples-file messages.csv",
            )),
            Some(path) if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("csv")) => {
                Err(usage(
                    "--samples-file",
                    &format!("{}: expected a file that ends in .csv", path.display()),
                ))
            }
            _ => Ok(()),
        }
    }

    /// The share of single messages to sample, if any.
    pub(super) fn sample_share(&self) -> Option<f64> {
        self.samples_file.as_ref().map(|_| self.samples.unwrap_or(SAMPLE_SHARE_DEFAULT))
    }

    fn per_run(&self) -> [(&'static str, &Option<PathBuf>, Format); 4] {
        [
            ("--hgrm", &self.hgrm, |outcome, out| export::hgrm(&outcome.response, out)),
            ("--hlog", &self.hlog, |outcome, out| {
                export::hlog(&outcome.timeline, &summary::headline(&outcome.record), out)
            }),
            ("--csv", &self.csv, |outcome, out| export::csv(&outcome.timeline, out)),
            ("--samples-file", &self.samples_file, |outcome, out| samples::csv(outcome, out)),
        ]
    }

    /// Everything that shows figures of the runs in progress.
    ///
    /// # Errors
    /// When an address cannot be had, or no thread can be started.
    pub(super) fn monitoring(&self) -> Result<Monitoring, Failure> {
        #[cfg(feature = "otlp")]
        let pusher = self
            .otlp
            .as_ref()
            .map(Pusher::start)
            .transpose()
            .map_err(|error| Failure::Environment(format!("no figures can be sent: {error}")))?;
        Ok(Monitoring::new(
            self.exporter()?,
            #[cfg(feature = "otlp")]
            pusher,
        ))
    }

    /// The address to be scraped, if one was asked for, printed on stderr.
    fn exporter(&self) -> Result<Option<Exporter>, Failure> {
        let Some(address) = self.prometheus else { return Ok(None) };
        let refused = |error| {
            let hint = "name a free port, such as 127.0.0.1:0";
            Failure::Environment(format!("--prometheus: cannot listen on {address}: {error}; {hint}"))
        };
        let exporter = Exporter::start(address).map_err(refused)?;
        note(format_args!("metrics http://{}/metrics", exporter.address()));
        Ok(Some(exporter))
    }

    /// The outcome with the name of its run.
    pub(super) fn labelled(&self, mut outcome: Outcome) -> Outcome {
        outcome.record.label.clone_from(&self.label);
        outcome
    }

    /// Prints the results (of repeated runs their summary), then writes the files. Returns a line for each file that
    /// could not be written.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(super) fn write(&self, results: &Results) -> Result<Vec<String>, Failure> {
        let outcomes = &results.outcomes;
        let printed = match &self.json {
            Some(FileOrStream::Stream) => json(results),
            Some(FileOrStream::File(_)) | None => printed(results),
        };
        try_to_stdout(printed.as_bytes())
            .map_err(|error| Failure::Environment(format!("stdout could not be written: {error}")))?;
        let mut failed = Vec::new();
        let mut write = |path: &Path, bytes: &[u8]| failed.extend(write_file(path, bytes).err());
        if let Some(FileOrStream::File(path)) = &self.json {
            write(path, json(results).as_bytes());
        }
        if let Some(path) = &self.junit {
            write(path, render::junit(outcomes).as_bytes());
        }
        let names = names(outcomes.iter().map(|outcome| outcome.record.config.mode.name()));
        for (_, path, format) in self.per_run() {
            let Some(path) = path else { continue };
            for (outcome, name) in outcomes.iter().zip(&names) {
                let mut bytes = Vec::new();
                format(outcome, &mut bytes).expect("a vector takes all");
                write(&path_of(path, name.as_deref()), &bytes);
            }
        }
        if let Some(path) = &self.markdown {
            let text = render::markdown(outcomes);
            let file = File::options().append(true).create(true).open(path);
            if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
                failed.push(format!("{} could not be written: {error}", path.display()));
            }
        }
        Ok(failed)
    }
}

/// The results in the schema of records.
fn json(results: &Results) -> String {
    let records = results.outcomes.iter().map(|outcome| outcome.record.clone()).collect();
    record::File { comparison: results.comparison.clone(), ..record::File::new(records) }.json()
}

fn printed(results: &Results) -> String {
    let texts: Vec<String> = match results.comparison.as_slice() {
        [] => results.outcomes.iter().map(summary::table).collect(),
        compared => compared.iter().map(tables::comparison).collect(),
    };
    texts.join("\n")
}

/// Opens a file for writing without changing what is there, or that there is nothing.
fn try_to_write(path: &Path) -> io::Result<()> {
    match File::options().write(true).create_new(true).open(path) {
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::options().append(true).open(path).map(drop)
        }
        Err(error) => Err(error),
    }
}

/// The distinguishing part of file names of several runs: their modes, or their numbers where modes repeat.
fn names<'a>(modes: impl Iterator<Item = &'a str>) -> Vec<Option<String>> {
    let modes: Vec<&str> = modes.collect();
    let distinct = (1..modes.len()).all(|at| !modes[..at].contains(&modes[at]));
    let name = |(at, mode): (usize, &&str)| match modes.len() {
        1 => None,
        _ if distinct => Some((*mode).to_owned()),
        _ => Some((at + 1).to_string()),
    };
    modes.iter().enumerate().map(name).collect()
}

/// Where a run's file goes: as named when there is one run.
fn path_of(path: &Path, name: Option<&str>) -> PathBuf {
    match (name, path.extension()) {
        (None, _) => path.to_path_buf(),
        (Some(name), Some(extension)) => {
            path.with_extension(format!("{name}.{}", extension.to_string_lossy()))
        }
        (Some(name), None) => path.with_extension(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_several_runs_are_told_apart_by_mode_or_by_number() {
        let paths = |modes: &[&str]| -> Vec<String> {
            let names = names(modes.iter().copied());
            names
                .iter()
                .map(|name| path_of(Path::new("a/run.csv"), name.as_deref()).display().to_string())
                .collect()
        };
        assert_eq!(paths(&["echo"]), ["a/run.csv"]);
        assert_eq!(paths(&["echo", "broadcast"]), ["a/run.echo.csv", "a/run.broadcast.csv"]);
        assert_eq!(paths(&["echo", "broadcast", "echo"]), ["a/run.1.csv", "a/run.2.csv", "a/run.3.csv"]);
        assert_eq!(path_of(Path::new("run"), Some("echo")), Path::new("run.echo"));
    }

    #[test]
    fn whether_a_file_can_be_written_is_found_without_a_trace() {
        let directory = std::env::temp_dir().join(format!("echoring-outputs-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let (new, old) = (directory.join("new"), directory.join("old"));
        fs::write(&old, "kept").expect("written");
        assert!(try_to_write(&new).is_ok() && !new.exists());
        assert!(try_to_write(&old).is_ok());
        assert_eq!(fs::read_to_string(&old).expect("still there"), "kept");
        assert!(try_to_write(&directory).is_err(), "a directory");
        assert!(try_to_write(&directory.join("none/new")).is_err());
        fs::remove_dir_all(&directory).expect("our own directory");
    }
}
