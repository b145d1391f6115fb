//! Flaws of a run that can be allowed, so that they do not fail the run.
//!
//! Never: a failure that is not counted. Allowed flaws are in the record like all others.

use std::str::FromStr;

use super::declared::words;

words! {
    /// A kind of failure of messages or connections.
    pub enum Flaw {
        /// A message did not arrive
        Lost => "lost",
        /// A message arrived again
        Duplicated => "duplicated",
        /// A message arrived after one that was sent later
        Reordered => "reordered",
        /// A message arrived with other bytes
        Corrupted => "corrupted",
        /// A message arrived later than the configured bound
        Late => "late",
        /// A message was due and never sent: its connection had ended or accepted nothing more
        Unsent => "unsent",
        /// A Close frame of the server ended a connection before the run was over
        Closed => "closed",
    }
}

impl FromStr for Flaw {
    type Err = String;

    fn from_str(word: &str) -> Result<Flaw, String> {
        Flaw::WORDS.iter().find(|(name, ..)| *name == word).map(|(.., flaw)| *flaw).ok_or_else(|| {
            let names = Flaw::WORDS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
            format!("unknown flaw `{word}`: expected {names}, such as --allow lost,closed")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_names_of_records() {
        for &(_, _, flaw) in Flaw::WORDS {
            assert_eq!(flaw.name().parse(), Ok(flaw));
            assert_eq!(serde_json::to_string(&flaw).expect("a word"), format!("\"{}\"", flaw.name()));
        }
        let wrong = "lose".parse::<Flaw>().expect_err("no such word");
        assert!(wrong.contains("lost") && wrong.contains("--allow"), "{wrong}");
    }
}
