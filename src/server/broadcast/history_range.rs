//! The messages that a request of history wants.

use echoring_topics::{Publication, entries};

/// A range of a topic's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryRange {
    /// Maximum number of messages; `None` without a bound of the client's.
    pub(crate) limit: Option<usize>,
    /// Messages after this offset are wanted, or those before it if the latest come first.
    pub(crate) since: Option<u64>,
    /// The latest first.
    pub(crate) reverse: bool,
}

impl HistoryRange {
    /// The offset after which the wanted messages begin, in a topic that has reached `head`.
    pub(crate) fn after(&self, head: u64) -> u64 {
        if !self.reverse {
            return self.since.unwrap_or(0);
        }
        let last = head.min(self.before().saturating_sub(1));
        self.limit.map_or(0, |limit| last.saturating_sub(limit as u64))
    }

    /// Messages from this offset on are not wanted.
    pub(crate) fn before(&self) -> u64 {
        if self.reverse { self.since.unwrap_or(u64::MAX) } else { u64::MAX }
    }

    /// The wanted messages of these pages, in the order in which they are wanted.
    pub(crate) fn messages<'a>(&self, pages: &'a [u8]) -> Vec<(u64, Publication<'a>)> {
        let before = self.before();
        let mut messages: Vec<_> = entries(pages).filter(|(offset, _)| *offset < before).collect();
        if self.reverse {
            messages.reverse();
        }
        messages.truncate(self.limit.unwrap_or(usize::MAX));
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_begins_where_its_first_message_is() {
        for (limit, since, reverse, expected) in [
            (Some(10), None, false, (0, u64::MAX)),
            (Some(10), Some(40), false, (40, u64::MAX)),
            (Some(10), None, true, (90, u64::MAX)),
            (Some(10), Some(40), true, (29, 40)),
            (Some(10), Some(5), true, (0, 5)),
            (Some(10), Some(0), true, (0, 0)),
            (None, Some(40), true, (0, 40)),
            (None, None, false, (0, u64::MAX)),
        ] {
            let range = HistoryRange { limit, since, reverse };
            assert_eq!((range.after(100), range.before()), expected, "{range:?}");
        }
    }
}
