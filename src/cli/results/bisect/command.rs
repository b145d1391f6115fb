//! Runs the commands that build and measure a commit, and reads the figure that was printed. A command has a process group of its
//! own, which ends with it: no process that it started survives.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use super::Stop;
use super::history::GIT_VARIABLES;
use crate::Failure;
use crate::signals::{self, Signals, Woken};
use echoring_load::analyse::objective::Metric;
use echoring_load::analyse::statistics::median;
use echoring_load::record;

/// Time that an interrupted command has to end by itself before it is killed.
const END_GRACE: Duration = Duration::from_secs(2);
/// Maximum output that is read: a run record of hours has some megabytes.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// Part of the errors of a failed command that is read for its last line.
const ERROR_BYTES_MAX: u64 = 64 << 10;
/// Exit code by which a command asks for the commit to be skipped, as in `git bisect run`.
const EXIT_SKIP: i32 = 125;

/// The commands of a search.
pub(super) struct Commands {
    pub signals: Signals,
    /// For the shell.
    pub build: Option<OsString>,
    /// The command with its arguments, at least one word.
    pub measure: Vec<OsString>,
    pub timeout: Option<Duration>,
    pub metric: Option<Metric>,
}

/// The result of a measurement.
pub(super) enum Measured {
    Value(f64),
    /// The command failed, by this reason.
    Failed(String),
    /// It succeeded, and its output has no figure.
    NoFigure(String),
}

/// A command that has ended, and its output.
struct Ended {
    end: End,
    stdout: File,
    stderr: File,
}

enum End {
    Exited(ExitStatus),
    /// It could not be started, by this reason: in another commit it may be another file.
    NotStarted(String),
    TimedOut(Duration),
}

impl Commands {
    /// Builds in a worktree. The inner error is the reason why that failed.
    pub(super) fn build(&self, folder: &Path) -> Result<Result<(), String>, Stop> {
        let Some(build) = &self.build else { return Ok(Ok(())) };
        let mut command = Command::new("sh");
        command.arg("-c").arg(build);
        let mut ended = self.run(command, folder, None)?;
        Ok(match ended.failure() {
            None => Ok(()),
            Some(why) => Err(format!("the build {why}")),
        })
    }

    /// Measures once in a worktree.
    pub(super) fn measure(&self, folder: &Path) -> Result<Measured, Stop> {
        let mut command = Command::new(&self.measure[0]);
        command.args(&self.measure[1..]);
        let mut ended = self.run(command, folder, self.timeout)?;
        if let Some(why) = ended.failure() {
            return Ok(Measured::Failed(format!("CMD {why}")));
        }
        let mut output = Vec::new();
        let read = ended
            .stdout
            .rewind()
            .and_then(|()| ended.stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut output));
        Ok(match read {
            Err(error) => Measured::NoFigure(format!("its output cannot be read: {error}")),
            Ok(_) if output.len() as u64 > OUTPUT_BYTES_MAX => {
                Measured::NoFigure(format!("it printed more than {OUTPUT_BYTES_MAX} bytes"))
            }
            Ok(_) => match figure(&String::from_utf8_lossy(&output), self.metric.as_ref()) {
                Ok(value) => Measured::Value(value),
                Err(why) => Measured::NoFigure(why),
            },
        })
    }

    /// Runs a command until it ends, the time is up, or a signal arrives.
    fn run(&self, mut command: Command, folder: &Path, timeout: Option<Duration>) -> Result<Ended, Stop> {
        let cannot = |what: String| {
            move |error: io::Error| Stop::Failed(Failure::Environment(format!("{what}: {error}")))
        };
        // Files, because whoever keeps a pipe open would be waited for.
        let file = || tempfile::tempfile().map_err(cannot("cannot create a temporary file".to_owned()));
        let (stdout, stderr) = (file()?, file()?);
        let copy =
            |file: &File| file.try_clone().map_err(cannot("a temporary file cannot be used".to_owned()));
        let name = command.get_program().to_string_lossy().into_owned();
        command.current_dir(folder).process_group(0).stdin(Stdio::null());
        command.stdout(Stdio::from(copy(&stdout)?)).stderr(Stdio::from(copy(&stderr)?));
        GIT_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                return Ok(Ended { end: End::NotStarted(format!("{name}: {error}")), stdout, stderr });
            }
        };
        let end = match (signals::wait_for(&child, Some(&self.signals), timeout), timeout) {
            (Ok(Woken::Ended), _) => {
                // Before it is waited for, while its id is still its own.
                end_group(&child, Signal::KILL);
                End::Exited(child.wait().map_err(cannot(format!("cannot wait for {name}")))?)
            }
            (Ok(Woken::TimeUp), Some(timeout)) => {
                end_group(&child, Signal::KILL);
                let _ = child.wait();
                End::TimedOut(timeout)
            }
            (Ok(Woken::Signal | Woken::TimeUp), _) => {
                end_gently(&mut child);
                return Err(Stop::Interrupted);
            }
            (Err(error), _) => {
                end_gently(&mut child);
                return Err(cannot(format!("cannot wait for {name}"))(error));
            }
        };
        Ok(Ended { end, stdout, stderr })
    }
}

/// Ends a command with its children: it has some time to do so by itself.
fn end_gently(child: &mut Child) {
    end_group(child, Signal::TERM);
    let _ = signals::wait_for(child, None, Some(END_GRACE));
    end_group(child, Signal::KILL);
    let _ = child.wait();
}

fn end_group(child: &Child, signal: Signal) {
    // It may have ended already.
    let _ = kill_process_group(Pid::from_child(child), signal);
}

impl Ended {
    /// Why the command failed; `None` if it succeeded.
    fn failure(&mut self) -> Option<String> {
        let how = match &self.end {
            End::Exited(status) if status.success() => return None,
            End::Exited(status) if status.code() == Some(EXIT_SKIP) => {
                return Some("asked to skip it (exit code 125)".to_owned());
            }
            End::Exited(status) => format!("failed ({status})"),
            End::NotStarted(why) => return Some(format!("cannot be run: {why}")),
            End::TimedOut(timeout) => return Some(format!("ran longer than {timeout:?}")),
        };
        match self.last_error() {
            Some(line) => Some(format!("{how}: {line}")),
            None => Some(how),
        }
    }

    /// The last line on stderr.
    fn last_error(&mut self) -> Option<String> {
        let length = self.stderr.metadata().ok()?.len();
        self.stderr.seek(io::SeekFrom::Start(length.saturating_sub(ERROR_BYTES_MAX))).ok()?;
        let mut bytes = Vec::new();
        (&mut self.stderr).take(ERROR_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
        Some(line.trim().chars().filter(|c| !c.is_control()).take(300).collect())
    }
}

/// The figure in the output of a measurement.
fn figure(output: &str, metric: Option<&Metric>) -> Result<f64, String> {
    let value = match metric {
        Some(metric) => of_records(output, metric)?,
        None => {
            let line = output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
            line.parse().map_err(|_| {
                let shown: String = line.chars().take(80).collect();
                match output.trim_start().starts_with('{') {
                    true => {
                        "its output is JSON: select the figure with --metric, such as --metric p99".to_owned()
                    }
                    false => {
                        format!("its last line is `{shown}`: expected a number, or --metric and a run record")
                    }
                }
            })?
        }
    };
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(format!("it printed {value}: expected a figure above zero, since ratios are compared"))
}

/// The metric of run records: of several runs of one load the median.
fn of_records(output: &str, metric: &Metric) -> Result<f64, String> {
    let file: Value = serde_json::from_str(output).map_err(|error| {
        format!("its output is not JSON ({error}): --metric needs the output of bench --json -")
    })?;
    if file["schema"] != record::SCHEMA {
        return Err(format!(
            "its output does not have the schema {}: --metric needs the output of bench --json -",
            record::SCHEMA
        ));
    }
    let runs = file["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(other) = runs.iter().find(|run| run["config"]["mode"] != runs[0]["config"]["mode"]) {
        let (one, other) = (&runs[0]["config"]["mode"], &other["config"]["mode"]);
        return Err(format!("its output has runs of {one} and {other}: bench --mode selects one"));
    }
    let values: Vec<f64> = runs.iter().filter_map(|run| metric.of(run)).collect();
    median(&values).ok_or_else(|| format!("its output does not have {}", metric.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_figure() {
        assert_eq!(figure("warming up\n12.5\n\n", None), Ok(12.5));
        assert_eq!(figure(" 3e-4", None), Ok(3e-4));
        for (output, named) in [
            ("", "expected a number"),
            ("12 ms\n", "`12 ms`"),
            ("0\n", "above zero"),
            ("-1\n", "above zero"),
            ("inf\n", "above zero"),
            ("{\"schema\": 1}\n", "--metric p99"),
        ] {
            let why = figure(output, None).expect_err(output);
            assert!(why.contains(named) && !why.contains('\n'), "{output}: {why}");
        }
    }

    #[test]
    fn a_metric_is_read_from_the_runs_of_one_load() {
        let p99: Metric = "p99".parse().expect("a metric");
        let run = |mode: &str, ns: u64| serde_json::json!({"config": {"mode": mode}, "response_ns": {"p99": ns, "count": 1}});
        let file = |runs: &[Value]| serde_json::json!({"schema": record::SCHEMA, "runs": runs}).to_string();
        assert_eq!(figure(&file(&[run("echo", 7)]), Some(&p99)), Ok(7.0));
        assert_eq!(figure(&file(&[run("echo", 7), run("echo", 9), run("echo", 8)]), Some(&p99)), Ok(8.0));
        for (output, named) in [
            ("7".to_owned(), "schema"),
            ("text".to_owned(), "is not JSON"),
            (file(&[]), "does not have p99"),
            (file(&[run("echo", 7), run("broadcast", 9)]), "--mode"),
        ] {
            let why = figure(&output, Some(&p99)).expect_err(&output);
            assert!(why.contains(named) && !why.contains('\n'), "{output}: {why}");
        }
    }
}
