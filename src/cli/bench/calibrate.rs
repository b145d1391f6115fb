//! `bench --calibrate`: how far results can be believed on this host. It is stored in a file, and later records of the same
//! host quote it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ArgMatches;

use super::headings::EXPERIMENTS;
use super::machine::enough_address_space;
use super::usage::usage;
use super::verdicts::EXIT_BROKEN;
use crate::common::environment;
use crate::common::file::beginning;
use crate::common::file::flags::{self, is_given};
use crate::common::output::note;
use crate::common::output::{replace, try_to_stdout};
use crate::common::values::{self, FileOrStream};
use crate::{EXIT_INTERRUPTED, Failure, signals};
use echoring_load::record::calibration::{Calibration, SCHEMA};
use echoring_load::render::{self, ProgressReporter};
use echoring_load::{Outcome, Plan, Progress, Workload};

/// Measured time of all steps together, by default.
const TIME_DEFAULT: Duration = Duration::from_secs(45);
/// Maximum: a longer calibration would hardly be more exact.
const TIME_MAX: Duration = Duration::from_secs(60);
/// The largest file that is read as a calibration: one has a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The flags that a calibration takes, by their ids.
const FLAGS: [&str; 10] = [
    "calibrate",
    "calibration",
    "duration",
    "connections",
    "message_bytes",
    "threads",
    "cpus",
    "driver",
    "seed",
    "json",
];

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = EXPERIMENTS)]
pub(super) struct Args {
    /// Measure and store how accurate results are on this host
    ///
    /// A server in this process plants delays and faults, and the generator has to find them: first faults, then delays, then a
    /// delay at rising rates. It takes --duration (45s by default, 60s at most). Later records of this host quote it.
    #[arg(long)]
    pub(super) calibrate: bool,

    /// Store and read the calibration here [default: $XDG_STATE_HOME/echoring/calibration.json]
    #[arg(long, value_name = "FILE")]
    pub(super) calibration: Option<PathBuf>,
}

impl Args {
    fn file(&self) -> Option<PathBuf> {
        self.calibration.clone().or_else(|| environment::state_file("calibration.json"))
    }

    /// Quotes the stored calibration in the records of its own host. Returns a warning if the file is unusable.
    pub(super) fn quote(&self, outcomes: &mut [Outcome]) -> Option<String> {
        let file = self.file()?;
        let calibration = match read(&file) {
            Ok(calibration) => calibration,
            // Most hosts were never calibrated.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.calibration.is_none() => {
                return None;
            }
            Err(error) => {
                let file = file.display();
                return Some(format!(
                    "no calibration is quoted: {file}: {error}; run echoring bench --calibrate"
                ));
            }
        };
        for outcome in outcomes {
            outcome.record.calibration = calibration.quoted_in(&outcome.record);
        }
        None
    }
}

/// Calibrates the generator, and prints and stores the result.
pub(super) fn run(arguments: super::Args, typed: &ArgMatches) -> Result<ExitCode, Failure> {
    let others = flags::typed(&flags::command::<super::Args>(), typed, &FLAGS);
    if let Some(flag) = others.first() {
        let id = flag.id.as_str();
        let name = if id == "url" { "URL".to_owned() } else { values::flag_of(id) };
        return Err(usage(&name, "not with --calibrate, which runs its own server and loads"));
    }
    let time = if is_given(typed, "duration") { arguments.duration } else { None }.unwrap_or(TIME_DEFAULT);
    if time.is_zero() || time > TIME_MAX {
        return Err(usage("--duration", "a calibration takes up to 60s, such as --calibrate --duration 20s"));
    }
    let (own, outputs) = (arguments.calibration.clone(), arguments.outputs.clone());
    let file = own.file().ok_or_else(|| {
        usage("--calibration", "neither XDG_STATE_HOME nor HOME is set, so name a file: --calibration FILE")
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    let descriptors = environment::raise_descriptor_limit();
    let job = arguments.validate(typed, stop.clone(), Arc::default(), descriptors)?;
    enough_address_space(&job.plan)?;
    environment::start_log("warn")?;
    signals::end_on_signals(&stop)?;
    let Plan { workloads, resources, .. } = job.plan;
    let Some(echo) = workloads.into_iter().next() else { return Ok(ExitCode::SUCCESS) };
    let load = Workload { duration: time, ..echo };
    let mut reporter = ProgressReporter::new();
    let made = echoring_load::calibrate(&load, resources, &mut |progress| match progress {
        Progress::Run(run) => reporter.show(run),
        Progress::Note(line) => reporter.note(line),
    });
    reporter.clear();
    let made = made.map_err(|refused| Failure::Environment(refused.0))?;
    let Some(calibration) = made.filter(|_| !stop.load(Ordering::Relaxed)) else {
        note("error: interrupted; nothing was stored");
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    conclude(&calibration, &file, outputs.json.as_ref())
}

/// Prints the result, and stores it unless the generator miscounted.
fn conclude(
    calibration: &Calibration,
    file: &Path,
    json: Option<&FileOrStream>,
) -> Result<ExitCode, Failure> {
    let unwritten = |path: &Path, error: io::Error| {
        Failure::Environment(format!("{} could not be written: {error}", path.display()))
    };
    let mut text = serde_json::to_vec_pretty(calibration).expect("a calibration has only names as keys");
    text.push(b'\n');
    let is_exact = calibration.faults.is_exact();
    let stored = if is_exact { store(file, &text) } else { Ok(()) };
    let mut printed = Vec::new();
    if let Some(FileOrStream::Stream) = json {
        printed.clone_from(&text);
    } else {
        render::calibration(calibration, &mut printed).expect("a vector takes all");
        if is_exact && stored.is_ok() {
            writeln!(printed, "stored in {}", file.display()).expect("a vector takes all");
        }
    }
    try_to_stdout(&printed)
        .map_err(|error| Failure::Environment(format!("stdout could not be written: {error}")))?;
    if let Some(FileOrStream::File(path)) = json {
        fs::write(path, &text).map_err(|error| unwritten(path, error))?;
    }
    stored.map_err(|error| unwritten(file, error))?;
    if is_exact {
        return Ok(ExitCode::SUCCESS);
    }
    note(format_args!("error: {}; nothing was stored", render::planted_faults(calibration)));
    Ok(ExitCode::from(EXIT_BROKEN))
}

/// Writes the file as a whole or not at all, in a folder that may be new.
fn store(file: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    replace(file, text)
}

fn read(file: &Path) -> io::Result<Calibration> {
    let calibration: Calibration = serde_json::from_slice(&beginning(file, FILE_BYTES_MAX)?)?;
    match calibration.schema == SCHEMA {
        true => Ok(calibration),
        false => Err(io::Error::other(format!("its schema is not {SCHEMA}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_one_that_is_no_calibration_is_refused() {
        let folder = std::env::temp_dir().join(format!("echoring-calibration-{}", std::process::id()));
        let file = folder.join("new/calibration.json");
        assert_eq!(read(&file).expect_err("nothing there").kind(), io::ErrorKind::NotFound);
        store(&file, b"one, and longer than the next").expect("the folder is made");
        store(&file, b"{}").expect("replaced");
        assert_eq!(fs::read(&file).expect("stored"), b"{}");
        assert!(read(&file).is_err(), "no calibration");
        let left = fs::read_dir(file.parent().expect("a folder")).expect("there").count();
        assert_eq!(left, 1, "no temporary file stays");
        fs::remove_dir_all(&folder).expect("our own folder");
    }
}
