//! What the owner of a topic keeps, for operators: its history, and the members of a topic with presence.

use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use echoring_topics::{Position, Replay, SlowConsumerPolicy, entries};

use super::Broadcast;
use super::handover::Ordering;
use super::history_range::HistoryRange;
use crate::limits::{
    CENTRIFUGE_HISTORY_BYTES_MAX, CENTRIFUGE_PRESENCE_BYTES_MAX, CENTRIFUGE_PRESENCE_CLIENTS_MAX,
};

/// A question about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopicQuestion {
    /// Messages of this range.
    History(HistoryRange),
    /// The subscribers with presence.
    Members,
}

/// The answer of the topic's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopicAnswer {
    /// The position of the topic, none if there is no such topic; and messages, see [`entries`], that contain those of the
    /// range.
    History(Option<Position>, Vec<u8>),
    /// All subscribers with presence; see [`members`](echoring_topics::members).
    Members(Vec<u8>),
    /// The topic keeps nothing of the kind.
    NotKept,
    /// Other nodes may have the topic, and this one has no copy.
    NotHere,
    /// It is more than an answer has.
    TooMuch,
    /// The shard orders no topics now.
    Busy,
}

impl Broadcast {
    /// Answers a question about a topic of this shard.
    pub(crate) fn read_topic(
        &mut self,
        name: &str,
        question: TopicQuestion,
        now: Nanos,
        pool: &mut Pool,
    ) -> TopicAnswer {
        if self.sequencer.ordering != Ordering::Own {
            return TopicAnswer::Busy;
        }
        match question {
            TopicQuestion::History(range) => self.read_history_of(name, range, now, pool),
            TopicQuestion::Members => self.read_members_of(name),
        }
    }

    fn read_history_of(
        &mut self,
        name: &str,
        range: HistoryRange,
        now: Nanos,
        pool: &mut Pool,
    ) -> TopicAnswer {
        let settings = self.fan_out.topics.settings_of(name);
        if settings.history.messages == 0 && settings.slow != SlowConsumerPolicy::Conflate {
            return TopicAnswer::NotKept;
        }
        if !self.has_copy(name) {
            return TopicAnswer::NotHere;
        }
        let topics = &mut self.sequencer.topics;
        let Some((owned, head)) = topics.find(name).zip(topics.position(name)) else {
            return TopicAnswer::History(None, Vec::new());
        };
        let mut messages = Vec::new();
        if range.limit == Some(0) {
            return TopicAnswer::History(Some(head), messages);
        }
        let from = Replay::After(range.after(head.offset));
        let page = topics.history(owned, from, CENTRIFUGE_HISTORY_BYTES_MAX, now, pool, &mut messages);
        let last = entries(&messages).last().map_or(0, |(offset, _)| offset);
        let has_latest = page.is_some_and(|page| page.complete) || last + 1 >= range.before();
        if range.reverse && !has_latest {
            return TopicAnswer::TooMuch;
        }
        TopicAnswer::History(Some(head), messages)
    }

    /// Whether this node has the topic, if other nodes may have it.
    fn has_copy(&self, name: &str) -> bool {
        self.sequencer.cluster.as_deref().is_none_or(|cluster| cluster.is_live(name))
    }

    fn read_members_of(&mut self, name: &str) -> TopicAnswer {
        if !self.fan_out.topics.settings_of(name).has_presence() {
            return TopicAnswer::NotKept;
        }
        if !self.has_copy(name) {
            return TopicAnswer::NotHere;
        }
        let topics = &self.sequencer.topics;
        let mut page = Vec::new();
        let (most, bytes_max) = (CENTRIFUGE_PRESENCE_CLIENTS_MAX, CENTRIFUGE_PRESENCE_BYTES_MAX);
        let members =
            topics.find(name).and_then(|owned| topics.members(owned, None, most, bytes_max, &mut page));
        match members.is_some_and(|members| members.next.is_some() || members.unlisted > 0) {
            true => TopicAnswer::TooMuch,
            false => TopicAnswer::Members(page),
        }
    }
}
