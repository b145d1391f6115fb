//! The messages that a request of history wants, and the pages that have them.

use echoring_topics::{Page, Publication, Replay, entries};

use super::wanted::is_kept;
use crate::limits::HISTORY_BYTES_MAX;

/// A range of a topic's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRange {
    /// Maximum number of messages; `None` without a bound of the client's.
    pub limit: Option<usize>,
    /// Messages after this offset are wanted, or those before it if the latest come first.
    pub since: Option<u64>,
    /// The latest first.
    pub reverse: bool,
}

impl HistoryRange {
    /// The offset after which the wanted messages begin, in a topic that has reached `head`.
    pub fn after(&self, head: u64) -> u64 {
        if !self.reverse {
            return self.since.unwrap_or(0);
        }
        let last = head.min(self.before().saturating_sub(1));
        self.limit.map_or(0, |limit| last.saturating_sub(limit as u64))
    }

    /// Messages from this offset on are not wanted.
    pub fn before(&self) -> u64 {
        if self.reverse { self.since.unwrap_or(u64::MAX) } else { u64::MAX }
    }

    /// The wanted messages of these pages, in the order in which they are wanted.
    pub fn messages<'a>(&self, pages: &'a [u8]) -> Vec<(u64, Publication<'a>)> {
        let before = self.before();
        let is_wanted = |(offset, message): &(u64, Publication<'_>)| *offset < before && is_kept(message);
        let mut messages: Vec<_> = entries(pages).filter(is_wanted).collect();
        if self.reverse {
            messages.reverse();
        }
        messages.truncate(self.limit.unwrap_or(usize::MAX));
        messages
    }
}

/// The pages of a range that have been read so far.
#[derive(Debug)]
pub struct HistoryPages {
    range: HistoryRange,
    /// Where the next page begins.
    pub from: Replay,
    bytes: Vec<u8>,
    messages: usize,
    /// The offset after which the pages begin, and whether there may be messages before it.
    start: u64,
    has_earlier: bool,
    /// Whether messages that history skips make the range begin earlier.
    widens: bool,
}

/// How far a range is after another page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another page is wanted.
    More,
    /// There is an answer.
    Complete,
    /// The latest messages, which would come first, are beyond the bound of an answer.
    TooLong,
}

impl HistoryPages {
    /// Nothing of the range, in a topic that has reached `head`.
    pub fn new(range: HistoryRange, head: u64) -> HistoryPages {
        let start = range.after(head);
        HistoryPages {
            range,
            from: Replay::After(start),
            bytes: Vec::new(),
            messages: 0,
            start,
            has_earlier: false,
            widens: true,
        }
    }

    /// The same, of no more offsets than messages are wanted, however many of them history skips.
    pub fn exact(self) -> HistoryPages {
        HistoryPages { widens: false, ..self }
    }

    /// Half of an exact range, its later one: begins again, in a topic that has reached `head`. One message is never too long.
    pub fn halved(&self, head: u64) -> HistoryPages {
        let limit = self.range.limit.map(|limit| limit / 2);
        HistoryPages::new(HistoryRange { limit, ..self.range }, head).exact()
    }

    /// The offset before which the next page of earlier messages ends, if there may be any.
    pub fn next(&self) -> Option<u64> {
        self.has_earlier.then_some(self.start + 1)
    }

    /// The bytes of the pages.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The wanted messages, in the order in which they are wanted.
    pub fn wanted(&self) -> Vec<(u64, Publication<'_>)> {
        self.range.messages(&self.bytes)
    }

    /// The pages.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds the page that begins at [`from`](HistoryPages::from).
    pub fn add(&mut self, page: &Page, messages: &[u8]) -> Progress {
        let last = entries(messages).last().map(|(offset, _)| offset);
        if self.bytes.is_empty() {
            // Latest messages of keys may be anywhere before.
            let may_continue = if page.conflated { !self.widens } else { page.first == self.start + 1 };
            self.has_earlier = self.start > 0 && may_continue;
        }
        self.bytes.extend_from_slice(messages);
        self.messages += entries(messages).filter(|(_, message)| is_kept(message)).count();
        let has_all = page.complete
            || last.is_none_or(|last| last + 1 >= self.range.before())
            || (!self.range.reverse && self.range.limit.is_some_and(|limit| self.messages >= limit));
        if has_all {
            return if self.widen() { Progress::More } else { Progress::Complete };
        }
        if self.bytes.len() >= HISTORY_BYTES_MAX {
            return if self.range.reverse { Progress::TooLong } else { Progress::Complete };
        }
        let reached = last.unwrap_or(page.after);
        self.from = self.from.behind(page, reached);
        Progress::More
    }
}

impl HistoryPages {
    /// The latest messages are wanted, and history has skipped some of them: begins earlier, if there
    /// are earlier ones.
    fn widen(&mut self) -> bool {
        let (limit, kept) = (self.range.limit.unwrap_or(0), self.wanted().len());
        if !self.range.reverse || !self.widens || kept >= limit || !self.has_earlier {
            return false;
        }
        let last = entries(&self.bytes).last().map_or(self.start, |(offset, _)| offset);
        self.start = self.start.saturating_sub((last - self.start).max(limit as u64));
        (self.bytes, self.messages, self.from) = (Vec::new(), 0, Replay::After(self.start));
        true
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

    #[test]
    fn pages_are_read_until_the_range_or_the_bound_is_reached() {
        let bytes = vec![b'x'; HISTORY_BYTES_MAX / 4];
        let publication = Publication::new(echoring_topics::Content::Text, "", &bytes);
        // The offset after which the pages end, and the progress there.
        for (limit, reverse, last, expected) in [
            (None, false, 4, Progress::Complete),
            (Some(2), false, 2, Progress::Complete),
            (Some(3), true, 10, Progress::Complete),
            (None, true, 4, Progress::TooLong),
        ] {
            let mut pages = HistoryPages::new(HistoryRange { limit, since: None, reverse }, 10);
            loop {
                let Replay::After(after) = pages.from else { panic!("{:?}", pages.from) };
                let (first, complete) = (after + 1, after + 1 == 10);
                let head = echoring_topics::Position { epoch: 1, offset: 10 };
                let page = Page { head, after, conflated: false, first, messages: 1, complete };
                let mut messages = Vec::new();
                echoring_topics::append_message(&mut messages, first, &publication);
                match pages.add(&page, &messages) {
                    Progress::More => {}
                    progress => {
                        assert_eq!((first, progress), (last, expected), "{limit:?} {reverse}");
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn an_exact_range_ends_where_the_next_one_begins() {
        use echoring_topics::{Content, Position, append_message};
        // The first offset that is kept, the messages of each answer, and where the last one begins.
        for (oldest, limit, bytes, expected) in [
            (1, 4, 1, &[4, 4, 2][..]),
            (4, 4, 1, &[4, 3]),
            (1, 10, 1, &[10]),
            // Three of these are too long together.
            (1, 8, HISTORY_BYTES_MAX / 3 + 1, &[2, 2, 2, 2, 2]),
        ] {
            let (payload, head) = (vec![b'x'; bytes], Position { epoch: 1, offset: 10 });
            let (mut before, mut answers, mut reached) = (None, Vec::new(), 11);
            loop {
                let range = HistoryRange { limit: Some(limit), since: before, reverse: true };
                let mut pages = HistoryPages::new(range, 10).exact();
                loop {
                    let Replay::After(after) = pages.from else { panic!("{:?}", pages.from) };
                    let (first, mut messages) = (oldest.max(after + 1), Vec::new());
                    append_message(&mut messages, first, &Publication::new(Content::Text, "", &payload));
                    let page =
                        Page { head, after, conflated: false, first, messages: 1, complete: first == 10 };
                    match pages.add(&page, &messages) {
                        Progress::More => {}
                        Progress::Complete => break,
                        Progress::TooLong => pages = pages.halved(10),
                    }
                }
                let offsets: Vec<u64> = pages.wanted().iter().map(|(offset, _)| *offset).collect();
                assert!(
                    offsets.iter().rev().copied().eq(reached - offsets.len() as u64..reached),
                    "{offsets:?}"
                );
                (reached, before) = (reached - offsets.len() as u64, pages.next());
                answers.push(offsets.len());
                let Some(next) = before else { break };
                assert_eq!(next, reached);
            }
            assert_eq!((&answers[..], reached), (expected, oldest));
        }
    }

    #[test]
    fn messages_that_history_skips_do_not_count() {
        use echoring_topics::{Content, Keeping, Position, append_message};
        let all = |offset: u64| match offset {
            3 | 7 => Keeping::Kept,
            _ => Keeping::Omitted,
        };
        // The first offset that is kept, and those that a request gets.
        for (oldest, limit, reverse, expected) in [
            (1, Some(1), true, &[7][..]),
            (1, Some(2), true, &[7, 3]),
            (1, Some(3), true, &[7, 3]),
            (5, Some(2), true, &[7]),
            (1, Some(1), false, &[3]),
            (1, None, false, &[3, 7]),
        ] {
            let mut pages = HistoryPages::new(HistoryRange { limit, since: None, reverse }, 10);
            loop {
                let Replay::After(after) = pages.from else { panic!("{:?}", pages.from) };
                let (first, mut messages) = (oldest.max(after + 1), Vec::new());
                // Two messages on each page.
                let last = (first + 1).min(10);
                for offset in first..=last {
                    let publication =
                        Publication { keeping: all(offset), ..Publication::new(Content::Binary, "", b"") };
                    append_message(&mut messages, offset, &publication);
                }
                let (head, count) = (Position { epoch: 1, offset: 10 }, (last + 1 - first) as u32);
                let page =
                    Page { head, after, conflated: false, first, messages: count, complete: last == 10 };
                if pages.add(&page, &messages) == Progress::Complete {
                    break;
                }
            }
            let offsets: Vec<u64> = pages.wanted().iter().map(|(offset, _)| *offset).collect();
            assert_eq!(offsets, expected, "{limit:?} {reverse}");
        }
    }
}
