//! What holds for a topic: how far its subscribers may lag and what happens past that, how much of it is kept for those
//! who come back, and who may publish.

use std::sync::Arc;

use crate::limits::{
    HEARTBEAT_INTERVAL, HISTORY_AGE_DEFAULT, HISTORY_BYTES_DEFAULT, HISTORY_MESSAGES_DEFAULT, LAG_MAX, Nanos,
    QUEUE_BYTES_DEFAULT,
};

/// What happens to a subscriber that lags further than it may. Raw routes, which have no words for a gap, always
/// disconnect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slow {
    /// Its connection is closed with 4008.
    #[default]
    Disconnect,
    /// It misses the oldest messages, and is told which.
    DropOldest,
    /// Of the messages that it would miss it gets the latest of each key, and is told how many it did not get.
    Conflate,
}

/// How much of a topic is kept for those who ask from an earlier position. Each of the three is a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// Messages; 0 keeps none.
    pub messages: u32,
    /// Bytes of them.
    pub bytes: usize,
    /// Time since they were published.
    pub age: Nanos,
}

impl Default for HistoryBounds {
    fn default() -> HistoryBounds {
        HistoryBounds {
            messages: HISTORY_MESSAGES_DEFAULT,
            bytes: HISTORY_BYTES_DEFAULT,
            age: HISTORY_AGE_DEFAULT,
        }
    }
}

/// What holds for a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What happens to a subscriber past the bounds of its lag.
    pub slow: Slow,
    /// Encoded bytes that a subscriber may lag behind, in each format.
    pub lag_bytes: usize,
    /// Time that the oldest message it lacks may wait.
    pub lag: Nanos,
    /// How long messages may wait for others while the shard is busy, so that more of them leave together; 0 for not at
    /// all.
    pub coalesce: Nanos,
    /// What is kept for those who come back.
    pub history: HistoryBounds,
    /// Of the messages that are kept, how many the latest ones of which a new subscriber is sent first, where its protocol
    /// has words for it. Where slow subscribers get the latest message of each key, so do new ones, whatever this says.
    pub snapshot: u32,
    /// Whether subscribers are told who comes and goes, where their protocol has words for it.
    pub presence: bool,
    /// Whether clients may publish; if not, only the operator does.
    pub clients_publish: bool,
    /// How often subscribers of a silent topic are told its last offset, where their protocol has words for it.
    pub heartbeat: Nanos,
}

impl Settings {
    /// Whether new subscribers are sent something before what is published from then on.
    pub fn has_snapshot(&self) -> bool {
        self.slow == Slow::Conflate || self.snapshot > 0
    }

    /// Whether messages are refused that come without a key, or from clients at all: raw routes cannot be told which.
    pub fn refuses_raw(&self) -> bool {
        self.slow == Slow::Conflate || !self.clients_publish
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            slow: Slow::Disconnect,
            lag_bytes: QUEUE_BYTES_DEFAULT as usize,
            lag: LAG_MAX,
            coalesce: 0,
            history: HistoryBounds::default(),
            snapshot: 0,
            presence: false,
            clients_publish: true,
            heartbeat: HEARTBEAT_INTERVAL,
        }
    }
}

/// Settings by the names of topics. The first pattern that fits decides.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Arc<[(Pattern, Settings)]>,
    default: Settings,
}

impl Rules {
    /// `rules` in the order in which they are tried, and what holds where none fits.
    pub fn new(rules: Vec<(Pattern, Settings)>, default: Settings) -> Rules {
        Rules { rules: rules.into(), default }
    }

    /// What holds for the topic `name`.
    pub fn of(&self, name: &str) -> &Settings {
        let fitting = self.rules.iter().find(|(pattern, _)| pattern.fits(name));
        fitting.map_or(&self.default, |(_, settings)| settings)
    }

    /// All settings, what holds where no pattern fits included.
    pub fn all(&self) -> impl Iterator<Item = &Settings> {
        self.rules.iter().map(|(_, settings)| settings).chain([&self.default])
    }
}

/// Names of topics: `*` stands for any characters, none included; all others stand for themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// The pattern written so.
    pub fn new(written: &str) -> Pattern {
        Pattern(written.into())
    }

    /// Whether the pattern stands for `name`.
    pub fn fits(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        // `split` gives at least one part.
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The earliest place of each part leaves the most for those behind it.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_does() {
        for (pattern, fitting, others) in [
            ("a", &["a"][..], &["", "b", "aa", "A"][..]),
            ("*", &["", "a", "a*b"], &[]),
            ("prices.*", &["prices.", "prices.EUR.USD"], &["prices", "x.prices.a"]),
            ("*.raw", &[".raw", "a.raw", "a.raw.raw"], &["raw", "a.raw.b"]),
            ("a*b*c", &["abc", "axbyc", "abbcc", "abcbc"], &["ab", "acb", "bc"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("ä*", &["äö"], &["ö"]),
            ("a?", &["a?"], &["ab"]),
        ] {
            let pattern = Pattern::new(pattern);
            for name in fitting {
                assert!(pattern.fits(name), "{pattern:?} stands for {name}");
            }
            for name in others {
                assert!(!pattern.fits(name), "{pattern:?} does not stand for {name}");
            }
        }
    }

    #[test]
    fn the_first_pattern_that_fits_decides() {
        let settings = |lag_bytes| Settings { lag_bytes, ..Settings::default() };
        let rules = Rules::new(
            vec![(Pattern::new("a.b"), settings(1)), (Pattern::new("a.*"), settings(2))],
            settings(3),
        );
        assert_eq!(["a.b", "a.c", "b"].map(|name| rules.of(name).lag_bytes), [1, 2, 3]);
        assert_eq!(rules.all().count(), 3);
    }
}
