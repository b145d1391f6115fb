//! The part of a record that describes the replay of a recording.

use serde::{Deserialize, Serialize};

use crate::measure::Tally;
pub use crate::measure::tally::replay::Example;
use crate::plan::Replay as Plan;

/// The replay of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// The recording.
    pub file: String,
    /// From its first connection to its last event, in seconds.
    pub recorded_s: f64,
    /// Its connections.
    pub connections: u32,
    /// Messages of its clients.
    pub messages: u64,
    /// Messages of its servers.
    pub answers: u64,
    /// Why the recording is not complete; absent if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<String>,
    /// How much faster than recorded it was replayed.
    pub speed: f64,
    /// How often each connection was made.
    pub copies: u32,
    /// How answers were compared: `exact`, `json`, `json:/POINTER`, `count` or `none`.
    pub rule: String,
    /// JSON pointers to values that were not compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    /// Messages that were sent, over the whole run.
    pub sent: u64,
    /// Messages that were equal to recorded answers.
    pub equal: u64,
    /// Messages that have no response time; those that were not compared too.
    pub untimed: u64,
    /// Differences by kind.
    pub differences: Differences,
    /// Connections that the server ended in the recording and not in the replay.
    pub not_ended: u64,
    /// Examples of differences, a few of each kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
}

/// Differences between the answers and the recorded ones. They are the integrity failures of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// Recorded answers that did not arrive: `lost`.
    pub missing: u64,
    /// Messages that are not in the recording, or came again: `duplicated`.
    pub unexpected: u64,
    /// Messages that came instead of recorded answers: `corrupted`.
    pub different: u64,
    /// Answers that came after later ones: `reordered`.
    pub out_of_order: u64,
}

/// The replay as planned, and its result.
pub(super) fn describe(plan: &Plan, tally: &Tally) -> Replay {
    let script = &plan.script;
    Replay {
        file: script.name.clone(),
        recorded_s: script.length as f64 / 1e9,
        connections: script.dialogues.len() as u32,
        messages: script.messages,
        answers: script.answers,
        truncated: script.truncated.clone(),
        speed: plan.speed.factor(),
        copies: plan.copies,
        rule: script.comparison.rule.to_string(),
        ignored: script.comparison.ignored.clone(),
        sent: tally.counts.sent,
        equal: tally.replay.equal,
        untimed: tally.replay.untimed,
        differences: Differences {
            missing: tally.integrity.lost,
            unexpected: tally.integrity.duplicated,
            different: tally.integrity.corrupted,
            out_of_order: tally.integrity.reordered,
        },
        not_ended: tally.replay.not_ended,
        examples: tally.replay.examples.clone(),
    }
}
