//! Questions of operators about a topic, and their answers.

use std::sync::mpsc;

use echoring_topics::{Page, Position, Replay};

use super::history_range::{HistoryPages, HistoryRange, Progress};

/// A question about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicQuestion {
    /// Messages of this range.
    History(HistoryRange),
    /// The subscribers with presence.
    Members,
    /// That its history is removed, from the memory of this node.
    Removal,
}

/// The answer of a shard that has the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicAnswer {
    /// The position of the topic, none if there is no such topic; and messages, see [`entries`](echoring_topics::entries), that
    /// contain those of the range.
    History(Option<Position>, Vec<u8>),
    /// The history is removed.
    Removed,
    /// All subscribers with presence; see [`members`](echoring_topics::members).
    Members(Vec<u8>),
    /// The topic keeps nothing of the kind.
    NotKept,
    /// It is more than an answer has.
    TooMuch,
    /// The shard orders no topics now, or the topic has begun another epoch meanwhile.
    Busy,
}

/// A question, and the recipient of the answer.
#[derive(Debug)]
pub struct TopicRead {
    /// The name of the topic.
    pub topic: Box<str>,
    /// What is asked.
    pub question: TopicQuestion,
    /// Gets the number of the shard with the answer.
    pub reply: mpsc::SyncSender<(usize, TopicAnswer)>,
}

/// A range of history that is being read.
#[derive(Debug)]
pub struct HistoryRead {
    read: TopicRead,
    head: Position,
    pages: HistoryPages,
}

impl TopicRead {
    pub(super) fn answer(self, shard: usize, answer: TopicAnswer) {
        // Fails if nobody waits for the answer any more.
        let _ = self.reply.try_send((shard, answer));
    }
}

impl HistoryRead {
    /// Nothing of a range, in a topic that has reached `head`.
    pub(super) fn new(read: TopicRead, range: HistoryRange, head: Position) -> HistoryRead {
        HistoryRead { read, head, pages: HistoryPages::new(range, head.offset) }
    }

    /// Where the next page begins.
    pub(super) fn from(&self) -> Replay {
        self.pages.from
    }

    /// A page cannot be read now.
    pub(super) fn fail(self, shard: usize) {
        self.read.answer(shard, TopicAnswer::Busy);
    }

    /// Adds a page. Returns the range if another page is wanted; otherwise the question is answered.
    pub(super) fn add(mut self, shard: usize, page: Option<Page>, messages: &[u8]) -> Option<HistoryRead> {
        let head = self.head;
        let Some(page) = page.filter(|page| page.head.epoch == head.epoch) else {
            self.read.answer(shard, TopicAnswer::Busy);
            return None;
        };
        let answer = match self.pages.add(&page, messages) {
            Progress::More => return Some(self),
            Progress::Complete => TopicAnswer::History(Some(head), self.pages.into_bytes()),
            Progress::TooLong => TopicAnswer::TooMuch,
        };
        self.read.answer(shard, answer);
        None
    }
}
