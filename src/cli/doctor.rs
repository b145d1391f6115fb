//! `echoring doctor`: checks features and limits of this host for a server's configuration.
//!
//! Each group of checks is a file here. A check reads the host through [`Host`], below a root that tests replace, and
//! facts that no file has (io_uring, Landlock) through [`Probes`]. It never changes anything.

mod cgroup;
pub(crate) mod check;
mod cpu;
mod descriptors;
mod drivers;
mod host;
mod memory;
mod network;
pub(crate) mod plan;
mod probes;
mod sandbox;
#[cfg(test)]
mod tests;
mod uring;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::{Failure, serve, to_stdout};
use check::{Check, Verdict, shown_size};
use drivers::Costs;
use echoring_server::{MemoryPart, MemoryPeak};
use host::Host;
use plan::Plan;
use probes::Probes;

/// The shape of `--json`; another number means that a consumer has to look.
const SCHEMA: &str = "echoring.doctor/1";
/// Exit code if a line is red.
const EXIT_RED: u8 = 1;

const EXAMPLES: &str = "\
Examples:
  echoring doctor
      checks this host for a server with the default configuration
  echoring doctor --config /etc/echoring/echoring.toml --json
  echoring doctor --measure
      also whether io_uring or epoll is cheaper here
  systemd-run --quiet --pipe -p User=echoring -p LimitNOFILE=1048576 echoring doctor
      under the limits of a service instead of those of this shell

Each line is green, yellow (it works, at a cost) or red (a server with this configuration fails or may be killed). Lines that \
are not green name the cure. docs/reference/doctor.md explains each check.

Exit codes: 0 green or yellow, 1 red, 2 usage or a wrong configuration, 3 the configuration cannot be read.";

/// The options of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Check for a server with this configuration file; without it, for one with the defaults
    ///
    /// Environment variables (ECHORING_*) apply as in a start.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Measure within ten seconds which driver is cheaper on this host
    ///
    /// Two servers in this process, one with io_uring and one with epoll, echo in turn on free ports of the loopback address. The
    /// host should have nothing else to do.
    #[arg(long)]
    measure: bool,

    /// Print the checks and the peak of memory as JSON
    #[arg(long)]
    json: bool,
}

/// Checks this host.
pub(super) fn run(arguments: &Args) -> Result<ExitCode, Failure> {
    let settings = serve::configured(arguments.config.as_deref())?;
    let host = Host::below(Path::new("/"));
    let plan = Plan::new(settings.planned(), settings.sandbox.user.is_some(), &host);
    let probes = Probes::of_this_host();
    let mut report = Report::new(&host, &plan, &probes);
    if arguments.measure {
        report.add_costs(&plan, drivers::measure(&probes)?);
    }
    let text = if arguments.json { report.json() } else { report.text() };
    to_stdout(text.as_bytes())?;
    Ok(if report.verdict == Verdict::Red { ExitCode::from(EXIT_RED) } else { ExitCode::SUCCESS })
}

/// All checks of a host, with the needs of a server.
#[derive(Debug)]
struct Report {
    verdict: Verdict,
    checks: Vec<Check>,
    peak: MemoryPeak,
    costs: Option<Costs>,
}

impl Report {
    fn new(host: &Host, plan: &Plan, probes: &Probes) -> Report {
        let peak = plan.peak(host, probes);
        let checks: Vec<Check> = [
            uring::checks(host, plan, probes),
            sandbox::checks(host, plan, probes),
            descriptors::checks(host, plan, probes),
            network::checks(host, plan, &peak),
            memory::checks(host, &peak),
            cpu::checks(host, plan),
            cgroup::checks(host, plan),
        ]
        .into_iter()
        .flatten()
        .collect();
        let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Green);
        Report { verdict, checks, peak, costs: None }
    }

    fn add_costs(&mut self, plan: &Plan, costs: Option<Costs>) {
        let check = drivers::check(plan, costs);
        self.verdict = self.verdict.max(check.verdict);
        self.checks.push(check);
        self.costs = costs;
    }

    /// A line for each check, a line for each cure, and a verdict.
    fn text(&self) -> String {
        let mut text = String::new();
        let width = self.checks.iter().map(|check| check.id.len()).max().unwrap_or_default();
        for check in &self.checks {
            let Check { id, verdict, finding, cure } = check;
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:<6}  {id:<width$}  {finding}", verdict.name());
            if let Some(cure) = cure {
                let _ = writeln!(text, "{:<6}  {:<width$}  cure: {cure}", "", "");
            }
        }
        let count = |verdict| self.checks.iter().filter(|check| check.verdict == verdict).count();
        let [green, yellow, red] = [Verdict::Green, Verdict::Yellow, Verdict::Red].map(count);
        let (user, kernel) = (shown_size(self.peak.user_bytes()), shown_size(self.peak.kernel_bytes()));
        let _ = writeln!(text, "\npeak of memory: {user} of the process, {kernel} of the kernel's sockets");
        let _ = writeln!(text, "{}: {green} green, {yellow} yellow, {red} red", self.verdict.name());
        text
    }

    fn json(&self) -> String {
        let shown = Shown {
            schema: SCHEMA,
            verdict: self.verdict,
            checks: &self.checks,
            drivers: self.costs,
            memory: Memory {
                user_bytes: self.peak.user_bytes(),
                kernel_bytes: self.peak.kernel_bytes(),
                user: shown_parts(&self.peak.user),
                kernel: shown_parts(&self.peak.kernel),
            },
        };
        // Text and numbers only: nothing that JSON cannot say.
        let json = serde_json::to_string_pretty(&shown).unwrap_or_default();
        format!("{json}\n")
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    schema: &'static str,
    verdict: Verdict,
    checks: &'a [Check],
    #[serde(skip_serializing_if = "Option::is_none")]
    drivers: Option<Costs>,
    memory: Memory,
}

#[derive(Serialize)]
struct Memory {
    user_bytes: u64,
    kernel_bytes: u64,
    user: Vec<Part>,
    kernel: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    name: &'static str,
    bytes: u64,
}

fn shown_parts(parts: &[MemoryPart]) -> Vec<Part> {
    parts.iter().map(|part| Part { name: part.name, bytes: part.bytes }).collect()
}
