//! The part of a record that describes the replay of a recording.

pub use crate::measure::tally::replay::Example;
use crate::measure::{Integrity, Tally};
use crate::plan::Replay as Plan;
use crate::plan::declared::part;

part! {
    /// The replay of a recording.
    Replay of(plan: &Plan, tally: &Tally)
    where { let script = &plan.script; } {
        /// The recording.
        file: String = script.name.clone(),
        /// From its first connection to its last event.
        recorded_s: f64 = script.length as f64 / 1e9,
        /// Its connections.
        connections: u32 = script.dialogues.len() as u32,
        /// Messages of its clients.
        messages: u64 = script.messages,
        /// Messages of its servers.
        answers: u64 = script.answers,
        /// Why the recording is not complete; `null` if it is.
        truncated: Option<String> = script.truncated.clone(),
        /// How much faster than recorded it was replayed.
        speed: f64 = plan.speed.factor(),
        /// How often each connection was made.
        copies: u32 = plan.copies,
        /// How answers were compared: `exact`, `json`, `json:/POINTER`, `count` or `none`.
        rule: String = script.comparison.rule.to_string(),
        /// JSON pointers to values that were not compared.
        ignored: Vec<String> = script.comparison.ignored.clone(),
        /// Messages that were sent, over the whole run.
        sent: u64 = tally.counts.sent,
        /// Messages that were equal to recorded answers.
        equal: u64 = tally.replay.equal,
        /// Messages that have no response time; those that were not compared too.
        untimed: u64 = tally.replay.untimed,
        /// Differences by kind.
        differences: Differences = Differences::of(&tally.integrity),
        /// Connections that the server ended in the recording and not in the replay.
        not_ended: u64 = tally.replay.not_ended,
        /// Examples of differences, up to four of each kind.
        examples: Vec<Example> = tally.replay.examples.clone(),
    }
}

part! {
    /// Differences between the answers and the recorded ones. They are the integrity failures of the run.
    #[derive(Copy, Default, Eq)]
    Differences of(found: &Integrity) {
        /// Recorded answers that did not arrive: `lost`.
        missing: u64 = found.lost,
        /// Messages that are not in the recording, or came again: `duplicated`.
        unexpected: u64 = found.duplicated,
        /// Messages that came instead of recorded answers: `corrupted`.
        different: u64 = found.corrupted,
        /// Answers that came after later ones: `reordered`.
        out_of_order: u64 = found.reordered,
    }
}
