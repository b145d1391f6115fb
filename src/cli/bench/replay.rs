//! Flags of `bench` that replay a recording of `echoring proxy --record`.

mod recording;

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use super::headings::REPLAY;
use super::usage::usage;
use crate::Failure;
use crate::common::values;
use echoring_load::{AnswerComparison, ComparisonRule, Mode, Replay, Speed, Workload};

/// The largest value of `--replay-copies`.
const COPIES_MAX: u32 = 1_000_000;
/// Flags of other loads, by their ids.
const OF_OTHER_LOADS: [&str; 30] = [
    "mode",
    "connections",
    "depth",
    "rate",
    "stage",
    "ramp",
    "arrivals",
    "burst",
    "connect_rate",
    "hold",
    "first_message",
    "data",
    "lifetime",
    "reconnect",
    "connect_ramp",
    "protocol",
    "message",
    "try",
    "hello",
    "time_field",
    "message_bytes",
    "kind",
    "payload_file",
    "publishers",
    "topics",
    "slow",
    "verify",
    "cut",
    "show_protocol",
    "agents",
];

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = REPLAY)]
pub(super) struct Args {
    /// Replay a recording of echoring proxy --record at its original times, and compare the answers
    ///
    /// Each connection opens, sends its messages and closes at the recorded times, whatever the server does. The path is the
    /// recorded one, unless the URL has one. Without --duration the run lasts as long as the recording.
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_OTHER_LOADS)]
    replay: Option<PathBuf>,

    /// Replay this much faster than recorded, such as 2 or 0.5
    #[arg(long, value_name = "FACTOR", default_value_t = Speed::default(), value_parser = Speed::from_str)]
    replay_speed: Speed,

    /// Replay each recorded connection this many times, spread over a second
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = values::number_in(1..=COPIES_MAX))]
    replay_copies: u32,

    /// How to compare answers with the recorded ones: exact, json, json:/POINTER, count or none
    ///
    /// exact compares bytes, json values, both in the recorded order. json:/id matches answers by the value at a JSON pointer, in any
    /// order. count compares the number of messages. Missing answers count as lost, others as duplicated, corrupted or reordered.
    #[arg(long, value_name = "RULE", default_value_t = ComparisonRule::default(), value_parser = ComparisonRule::from_str)]
    replay_rule: ComparisonRule,

    /// Do not compare the value at this JSON pointer, such as /ts; repeatable
    #[arg(long, value_name = "POINTER")]
    replay_ignore: Vec<String>,
}

impl Args {
    /// The recording as a load, if there is one.
    pub(super) fn read(&self) -> Result<Option<Replay>, Failure> {
        let Some(file) = &self.replay else { return Ok(None) };
        let comparison = AnswerComparison::new(self.replay_rule.clone(), self.replay_ignore.clone())
            .map_err(|why| usage("--replay-ignore", &why))?;
        let script = recording::read(file, comparison)
            .map_err(|why| usage("--replay", &format!("{}: {why}", file.display())))?;
        Ok(Some(Replay { script: Arc::new(script), speed: self.replay_speed, copies: self.replay_copies }))
    }
}

/// The load with a recording in place of its own messages.
pub(super) fn replayed(
    load: Workload,
    replay: Replay,
    duration: Option<Duration>,
    warmup: Option<Duration>,
) -> Workload {
    let warmup = warmup.unwrap_or_default();
    Workload {
        mode: Mode::Replay,
        connections: replay.connections(),
        message_bytes: replay.script.message_bytes,
        warmup,
        duration: duration.unwrap_or(replay.duration().saturating_sub(warmup)),
        replay: Some(replay),
        ..load
    }
}
