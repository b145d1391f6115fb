//! What may go wrong in a run without the run having failed: whatever is not allowed is what its verdict is about.
//!
//! Never: a failure that is not counted. What is allowed is in the record like all else.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::record::Record;
use super::track::Integrity;

/// The error of a sender of a closed loop that heard nothing for too long and went on.
pub const NO_REPLY: &str = "no reply";

/// A way in which messages or connections go wrong.
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
    /// A message arrived later than was asked for.
    Late,
    /// A message was due when its connection was gone.
    Unsent,
    /// A Close frame of the server ended a connection before the run was over.
    Closed,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Flaw; 7] = [
        Flaw::Lost,
        Flaw::Duplicated,
        Flaw::Reordered,
        Flaw::Corrupted,
        Flaw::Late,
        Flaw::Unsent,
        Flaw::Closed,
    ];

    /// The word for it on the command line and in records.
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

    /// Takes it out of what is wrong with messages.
    fn forgive(self, integrity: &mut Integrity) {
        match self {
            Flaw::Lost => integrity.lost = 0,
            Flaw::Duplicated => integrity.duplicated = 0,
            Flaw::Reordered => integrity.reordered = 0,
            Flaw::Corrupted => integrity.corrupted = 0,
            Flaw::Late => integrity.late = 0,
            // These are wrong with the schedule, and with a connection.
            Flaw::Unsent | Flaw::Closed => {}
        }
    }
}

impl FromStr for Flaw {
    type Err = String;

    fn from_str(word: &str) -> Result<Flaw, String> {
        Flaw::ALL.into_iter().find(|flaw| flaw.name() == word).ok_or_else(|| {
            let names = Flaw::ALL.map(Flaw::name).join(", ");
            format!("`{word}` is none of {names}: such as --allow lost,closed")
        })
    }
}

impl Record {
    /// Whether something went wrong that was not allowed. Failed connections never are, nor those that ended without
    /// a Close frame: both are among the `errors`. A sender that heard nothing for long is, where messages may be lost.
    pub fn is_broken(&self) -> bool {
        let allowed = |flaw: Flaw| self.config.allow.contains(&flaw);
        let mut integrity = self.integrity;
        for flaw in &self.config.allow {
            flaw.forgive(&mut integrity);
        }
        let closed = self.connections.ended_early > 0 && !allowed(Flaw::Closed);
        let unsent = self.generator.unsent_gone > 0 && !allowed(Flaw::Unsent);
        let failed = self.errors.keys().any(|cause| !(cause == NO_REPLY && allowed(Flaw::Lost)));
        !integrity.is_whole() || unsent || closed || failed
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
