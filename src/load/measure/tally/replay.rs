//! A replay: the answers, and examples of differences.

use serde::{Deserialize, Serialize};

use crate::measure::merge::{Merge, merge_each};
use crate::plan::declared::{part, words};
use crate::plan::message;

/// Examples of each kind that are kept.
const EXAMPLES_MAX: usize = 4;
/// Bytes of a message in an example.
const EXAMPLE_BYTES_MAX: usize = 256;

/// The replay of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReplayTally {
    /// Messages that were equal to recorded answers.
    pub equal: u64,
    /// Messages that have no response time, because no request is known, it was not sent yet, or nothing is compared.
    pub untimed: u64,
    /// Connections that the server did not end as recorded, so that the generator did.
    pub not_ended: u64,
    /// Examples of differences, at most a few of each kind.
    pub examples: Vec<Example>,
}

part! {
    /// A difference between a recording and its replay, as in records.
    #[derive(Eq)]
    Example {
        /// Its kind.
        kind: Difference,
        /// Number of the connection in the recording.
        connection: u64,
        /// The copy of the connection, from 1.
        copy: u32,
        /// Number of the recorded answer among those of its connection, from 1.
        answer: Option<u64>,
        /// The recorded answer, cut to a few bytes.
        recorded: Option<String>,
        /// The message that arrived, cut to a few bytes.
        seen: Option<String>,
    }
}

words! {
    /// A kind of difference.
    pub enum Difference {
        /// A recorded answer did not arrive
        Missing => "missing",
        /// A message arrived that is not in the recording, or again
        Unexpected => "unexpected",
        /// A message arrived instead of a recorded answer
        Different => "different",
        /// An answer arrived after later ones
        OutOfOrder => "out_of_order",
    }
}

impl ReplayTally {
    /// Keeps an example, unless there are enough of its kind.
    #[cold]
    pub(crate) fn example(&mut self, kind: Difference, example: impl FnOnce() -> Example) {
        if self.has_room(kind) {
            self.examples.push(example());
        }
    }

    /// An answer arrived after all: the message that had its place was one too many.
    #[cold]
    pub(crate) fn restored(&mut self, connection: u64, copy: u32, answer: u64) {
        let found = self.examples.iter().position(|example| {
            example.kind == Difference::Different
                && (example.connection, example.copy) == (connection, copy)
                && example.answer == Some(answer)
        });
        if let Some(at) = found {
            let example = self.examples.remove(at);
            self.example(Difference::Unexpected, || Example {
                kind: Difference::Unexpected,
                answer: None,
                recorded: None,
                ..example
            });
        }
    }

    fn has_room(&self, kind: Difference) -> bool {
        self.examples.iter().filter(|example| example.kind == kind).count() < EXAMPLES_MAX
    }
}

impl Merge for ReplayTally {
    fn merge(&mut self, other: &ReplayTally) {
        merge_each!(self, other: equal, untimed, not_ended);
        for example in &other.examples {
            self.example(example.kind, || example.clone());
        }
    }
}

/// A message in one line, cut to a few bytes.
pub(crate) fn shown_message(content: &[u8]) -> String {
    message(content, EXAMPLE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_few() {
        let example =
            |kind| Example { kind, connection: 1, copy: 1, answer: None, recorded: None, seen: None };
        let (mut one, mut other) = (ReplayTally::default(), ReplayTally::default());
        for tally in [&mut one, &mut other] {
            for _ in 0..100 {
                tally.example(Difference::Missing, || example(Difference::Missing));
            }
        }
        other.example(Difference::Different, || example(Difference::Different));
        one.merge(&other);
        assert_eq!(one.examples.len(), EXAMPLES_MAX + 1);
        one.restored(1, 1, 1);
        assert_eq!(one.examples.len(), EXAMPLES_MAX + 1, "of another answer");
        let (answer, recorded) = (Some(7), Some("a".to_owned()));
        one.example(Difference::Different, || Example { answer, recorded, ..example(Difference::Different) });
        one.restored(1, 1, 7);
        assert_eq!(one.examples.last(), Some(&example(Difference::Unexpected)));
        assert!(shown_message(&[b'x'; 100_000]).len() < EXAMPLE_BYTES_MAX + 32);
    }
}
