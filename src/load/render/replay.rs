//! The replay of a recording, as lines of the summary.

use crate::plan::{count, duration, in_words};
use crate::record::replay::{Example, Replay};

/// The replayed messages, and examples of differences, with their labels.
pub(super) fn lines(found: &Replay) -> Vec<(&'static str, String)> {
    let copies = if found.copies > 1 {
        format!(", {} copies each", count(found.copies.into()))
    } else {
        String::new()
    };
    let recording = format!(
        "{} connections{copies}, {} messages, {} answers in {}{}",
        count(found.connections.into()),
        count(found.messages),
        count(found.answers),
        duration((found.recorded_s * 1e9) as u64),
        found.truncated.as_ref().map_or(String::new(), |why| format!("; incomplete: {why}")),
    );
    let ignored = match found.ignored.as_slice() {
        [] => String::new(),
        pointers => format!(" without {}", pointers.join(", ")),
    };
    let compared = match found.rule.as_str() {
        "none" => "nothing compared (--replay-rule none)".to_owned(),
        rule => format!(
            "{} answers as recorded by rule {rule}{ignored}; {} not timed",
            count(found.equal),
            count(found.untimed)
        ),
    };
    let not_ended = match found.not_ended {
        0 => String::new(),
        number => format!("; {} connections not ended by the server as recorded", count(number)),
    };
    let replay = format!("{} messages sent; {compared}{not_ended}", count(found.sent));
    let differences = found.examples.iter().map(|example| ("difference", difference(example)));
    [("recording", recording), ("replay", replay)].into_iter().chain(differences).collect()
}

fn difference(example: &Example) -> String {
    let answer = example.answer.map_or(String::new(), |number| format!(" answer {number}"));
    let copy = if example.copy > 1 { format!(" (copy {})", example.copy) } else { String::new() };
    let mut line =
        format!("{}: connection {}{copy}{answer}", in_words(example.kind.name()), example.connection);
    let parts = [("recorded", &example.recorded), ("seen", &example.seen)];
    for (name, content) in parts {
        if let Some(content) = content {
            line.push_str(&format!(", {name} `{content}`"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::tally::replay::Difference;
    use crate::record::replay::Differences;

    #[test]
    fn a_replay_is_told_with_its_differences() {
        let example = Example {
            kind: Difference::OutOfOrder,
            connection: 7,
            copy: 2,
            answer: Some(3),
            recorded: Some("{}".to_owned()),
            seen: None,
        };
        let replay = Replay {
            file: "day.jsonl".to_owned(),
            recorded_s: 2.5,
            connections: 1_200,
            messages: 5_000,
            answers: 4_000,
            truncated: Some("line 9 is cut off".to_owned()),
            speed: 2.0,
            copies: 3,
            rule: "json".to_owned(),
            ignored: vec!["/ts".to_owned()],
            sent: 15_000,
            equal: 11_000,
            untimed: 1_000,
            differences: Differences::default(),
            not_ended: 2,
            examples: vec![example],
        };
        let expected = [
            (
                "recording",
                "1,200 connections, 3 copies each, 5,000 messages, 4,000 answers in 2.50 s; incomplete: line 9 is cut off",
            ),
            (
                "replay",
                "15,000 messages sent; 11,000 answers as recorded by rule json without /ts; 1,000 not timed; \
                 2 connections not ended by the server as recorded",
            ),
            ("difference", "out of order: connection 7 (copy 2) answer 3, recorded `{}`"),
        ];
        assert_eq!(lines(&replay), expected.map(|(name, line)| (name, line.to_owned())));
    }
}
