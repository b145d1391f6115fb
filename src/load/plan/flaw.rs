//! Flaws of a run that can be allowed, so that they do not fail the run.
//!
//! Never: a failure that is not counted. Allowed flaws are in the record like all others.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A kind of failure of messages or connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flaw {
    /// A message did not arrive.
    Lost,
    /// A message arrived again.
    Duplicated,
    /// A message arrived after one that was sent later.
    Reordered,
    /// A message arrived with other bytes.
    Corrupted,
    /// A message arrived later than the configured bound.
    Late,
    /// A message was due and never sent: its connection had ended or accepted nothing more.
    Unsent,
    /// A Close frame of the server ended a connection before the run was over.
    Closed,
}

impl Flaw {
    /// All flaws.
    pub const ALL: [Flaw; 7] = [
        Flaw::Lost,
        Flaw::Duplicated,
        Flaw::Reordered,
        Flaw::Corrupted,
        Flaw::Late,
        Flaw::Unsent,
        Flaw::Closed,
    ];

    /// Its name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Flaw::Lost => "lost",
            Flaw::Duplicated => "duplicated",
            Flaw::Reordered => "reordered",
            Flaw::Corrupted => "corrupted",
            Flaw::Late => "late",
            Flaw::Unsent => "unsent",
            Flaw::Closed => "closed",
        }
    }
}

impl FromStr for Flaw {
    type Err = String;

    fn from_str(word: &str) -> Result<Flaw, String> {
        Flaw::ALL.into_iter().find(|flaw| flaw.name() == word).ok_or_else(|| {
            let names = Flaw::ALL.map(Flaw::name).join(", ");
            format!("unknown flaw `{word}`: expected {names}, such as --allow lost,closed")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_names_of_records() {
        for flaw in Flaw::ALL {
            assert_eq!(flaw.name().parse(), Ok(flaw));
            assert_eq!(serde_json::to_string(&flaw).expect("a word"), format!("\"{}\"", flaw.name()));
        }
        let wrong = "lose".parse::<Flaw>().expect_err("no such word");
        assert!(wrong.contains("lost") && wrong.contains("--allow"), "{wrong}");
    }
}
