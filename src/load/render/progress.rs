//! The progress of a run on stderr: a bar on a terminal, one line a second elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::engine::{RunProgress, RunStage};
use crate::measure::{LONG_OUTSTANDING_NS, Quantiles};
use crate::plan::{count, duration};

/// How often a plain progress line is written.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Generators that a line names.
const AWAITED_NAMED_MAX: usize = 4;
/// Minimum time over which a rate is computed.
const SHORTEST_RATE: Duration = Duration::from_millis(400);

/// The current message rate.
#[derive(Debug, Default)]
pub struct MessageRate {
    counted: Option<(Instant, u64)>,
    per_s: Option<f64>,
}

impl MessageRate {
    /// Observes the progress. `None` until messages are sent.
    pub fn observe(&mut self, moment: &RunProgress<'_>, now: Instant) -> Option<f64> {
        match self.counted {
            Some((since, before)) if moment.stage != RunStage::Connecting && moment.messages >= before => {
                let elapsed = now.saturating_duration_since(since);
                if elapsed >= SHORTEST_RATE {
                    self.per_s = Some((moment.messages - before) as f64 / elapsed.as_secs_f64());
                    self.counted = Some((now, moment.messages));
                }
            }
            // Another run has begun.
            _ => *self = MessageRate { counted: Some((now, moment.messages)), per_s: None },
        }
        self.per_s
    }
}

/// Shows a run's progress on stderr: a bar on a terminal, otherwise plain lines.
#[derive(Debug)]
pub struct ProgressReporter {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    last_stage: Option<RunStage>,
    speed: MessageRate,
}

impl Default for ProgressReporter {
    fn default() -> ProgressReporter {
        ProgressReporter::new()
    }
}

impl ProgressReporter {
    /// Checks whether stderr is a terminal.
    pub fn new() -> ProgressReporter {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1_000), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        ProgressReporter { bar, last_line: None, last_stage: None, speed: MessageRate::default() }
    }

    /// Shows the progress.
    pub fn show(&mut self, moment: &RunProgress<'_>) {
        let now = Instant::now();
        let new_stage = self.last_stage.replace(moment.stage) != Some(moment.stage);
        let due = self.last_line.is_none_or(|last| now - last >= LINE_INTERVAL);
        if self.bar.is_none() && !due && !new_stage {
            return;
        }
        self.last_line = Some(now);
        let line = self.line(moment, now);
        match &self.bar {
            Some(bar) => {
                bar.set_position(permille(moment));
                bar.set_message(line);
            }
            // A closed stderr ends the progress, not the run.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    /// Prints a permanent line, between two runs.
    pub fn note(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    /// Removes the bar before results are printed.
    pub fn clear(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, moment: &RunProgress<'_>, now: Instant) -> String {
        let load = moment.load;
        let mut line = match moment.stage {
            RunStage::Connecting => {
                let line = format!("{}: connecting {}/{}", load.mode.name(), moment.open, load.connections);
                if moment.awaited.is_empty() { line } else { format!("{line}, {}", awaited(moment.awaited)) }
            }
            _ if !moment.awaited.is_empty() => format!("{}: {}", load.mode.name(), awaited(moment.awaited)),
            RunStage::WarmingUp => format!("{}: warming up", load.mode.name()),
            RunStage::Measuring => {
                let left = load.duration.saturating_sub(moment.elapsed);
                format!("{}: measuring, {:.0} s left", load.mode.name(), left.as_secs_f64().ceil())
            }
            RunStage::Draining => format!("{}: waiting for messages in flight", load.mode.name()),
            RunStage::Done => format!("{}: done", load.mode.name()),
        };
        let per_s = self.speed.observe(moment, now);
        if let Some(per_s) = per_s.filter(|_| !matches!(moment.stage, RunStage::Draining | RunStage::Done)) {
            let _ = write!(line, ", {} {}/s", count(per_s as u64), load.mode.unit());
        }
        if let Some(Quantiles { p50, p99, p999, .. }) = moment.live.quantiles() {
            let [p50, p99, p999] = [p50, p99, p999].map(duration);
            let _ = write!(line, ", p50 {p50}, p99 {p99}, p99.9 {p999}");
        }
        let outstanding = &moment.live.outstanding;
        if outstanding.max() >= LONG_OUTSTANDING_NS {
            let oldest = duration(outstanding.max());
            let _ = write!(line, ", {} unanswered, the oldest for {oldest}", count(outstanding.len()));
        }
        if moment.failed > 0 {
            let _ = write!(line, ", {} connections failed", count(moment.failed));
        }
        let errors: u64 = moment.live.counts.errors.values().sum();
        if errors > 0 {
            let _ = write!(line, ", {} errors", count(errors));
        }
        line
    }
}

/// Such as `waiting for 2 agents (north, west)`.
fn awaited(names: &[&str]) -> String {
    let named = names[..names.len().min(AWAITED_NAMED_MAX)].join(", ");
    let agents = if names.len() == 1 { "agent" } else { "agents" };
    let rest = match names.len() - names.len().min(AWAITED_NAMED_MAX) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!("waiting for {} {agents} ({named}{rest})", names.len())
}

fn permille(moment: &RunProgress<'_>) -> u64 {
    let load = moment.load;
    let share = |part: f64, whole: f64| {
        if whole > 0.0 { (1_000.0 * part / whole).min(1_000.0) as u64 } else { 1_000 }
    };
    match moment.stage {
        RunStage::Connecting => share((moment.open + moment.failed) as f64, f64::from(load.connections)),
        RunStage::WarmingUp => share(moment.elapsed.as_secs_f64(), load.warmup.as_secs_f64()),
        RunStage::Measuring => share(moment.elapsed.as_secs_f64(), load.duration.as_secs_f64()),
        RunStage::Draining | RunStage::Done => 1_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::live::LiveResults;
    use crate::plan::mode::Mode;
    use crate::plan::workload::tests::workload;

    #[test]
    fn late_agents_are_named_instead_of_a_time_that_is_over() {
        let (load, live) = (workload(Mode::Echo), LiveResults::default());
        let line = |stage, awaited: &[&str]| {
            let moment = RunProgress {
                load: &load,
                target: "ws://h",
                stage,
                elapsed: load.duration,
                open: 7,
                failed: 0,
                messages: 9,
                live: &live,
                awaited,
                end: None,
                traced: &[],
            };
            let mut reporter = ProgressReporter {
                bar: None,
                last_line: None,
                last_stage: None,
                speed: MessageRate::default(),
            };
            reporter.line(&moment, Instant::now())
        };
        let connecting = format!("echo: connecting 7/{}", load.connections);
        assert_eq!(line(RunStage::Measuring, &[]), "echo: measuring, 0 s left");
        assert_eq!(line(RunStage::Measuring, &["west"]), "echo: waiting for 1 agent (west)");
        assert_eq!(line(RunStage::Draining, &["a", "b"]), "echo: waiting for 2 agents (a, b)");
        assert_eq!(line(RunStage::Connecting, &["a"]), format!("{connecting}, waiting for 1 agent (a)"));
        let many = line(RunStage::Measuring, &["a", "b", "c", "d", "e", "f"]);
        assert_eq!(many, "echo: waiting for 6 agents (a, b, c, d and 2 more)");
    }

    #[test]
    fn the_line_has_no_percentiles_before_anything_is_measured() {
        let load = workload(Mode::Echo);
        let line = |live: &LiveResults| {
            let moment = RunProgress {
                load: &load,
                target: "ws://h",
                stage: RunStage::Measuring,
                elapsed: Duration::ZERO,
                open: 7,
                failed: 0,
                messages: 0,
                live,
                awaited: &[],
                end: None,
                traced: &[],
            };
            let speed = MessageRate::default();
            let mut reporter = ProgressReporter { bar: None, last_line: None, last_stage: None, speed };
            reporter.line(&moment, Instant::now())
        };
        let mut live = LiveResults::default();
        // Due at the beginning of the measured time.
        live.outstanding.saturating_record_n(0, 100);
        assert!(!line(&live).contains("p50"), "{}", line(&live));
        live.settled.saturating_record(2_000_000);
        assert!(line(&live).contains(", p50 "), "{}", line(&live));
    }

    #[test]
    fn the_rate_is_the_current_one_and_restarts_with_each_run() {
        let (load, live) = (workload(Mode::Echo), LiveResults::default());
        let progress = |stage, messages| RunProgress {
            load: &load,
            target: "embedded",
            stage,
            elapsed: Duration::ZERO,
            open: 1,
            failed: 0,
            messages,
            live: &live,
            awaited: &[],
            end: None,
            traced: &[],
        };
        let (mut speed, start) = (MessageRate::default(), Instant::now());
        let mut look = |stage, messages, millis| {
            speed.observe(&progress(stage, messages), start + Duration::from_millis(millis))
        };
        assert_eq!(look(RunStage::Connecting, 0, 0), None);
        assert_eq!(look(RunStage::WarmingUp, 100, 100), None, "too short a time");
        assert_eq!(look(RunStage::WarmingUp, 500, 500), Some(1_000.0));
        assert_eq!(look(RunStage::Measuring, 600, 510), Some(1_000.0), "the previous rate");
        assert_eq!(look(RunStage::Measuring, 2_500, 1_500), Some(2_000.0));
        assert_eq!(look(RunStage::Connecting, 0, 1_600), None, "another run");
        assert_eq!(look(RunStage::WarmingUp, 50, 2_100), Some(100.0));
    }
}
