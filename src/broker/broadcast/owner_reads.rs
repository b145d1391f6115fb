//! The stored data of a topic, for operators: its history, and the members of a topic with presence.
//!
//! In a cluster, a shard without the topic follows it for a while, and history that is no longer in memory is read from the stream
//! of a durable topic.

use echoring_topics::{OwnedTopicId, SlowConsumerPolicy};

use super::Broadcast;
use super::following::stream_pages::{PageReader, PageRequest, WantedPage};
use super::sequencer::OrderedBy;
use super::topic_read::{HistoryRead, TopicAnswer, TopicQuestion, TopicRead};
use crate::limits::{CENTRIFUGE_PRESENCE_BYTES_MAX, CENTRIFUGE_PRESENCE_CLIENTS_MAX, SNAPSHOT_TIMEOUT};
use crate::peer::Context;

impl Broadcast {
    /// Answers a question about a topic of this shard, now or later.
    pub fn read_topic(&mut self, cx: &mut Context<'_>, read: TopicRead) {
        if self.sequencer.ordered_by != OrderedBy::ThisProcess {
            return read.answer(cx.shard(), TopicAnswer::Busy);
        }
        let settings = self.fan_out.topics.settings_of(&read.topic);
        let is_kept = match read.question {
            TopicQuestion::History(_) => {
                settings.history.messages > 0 || settings.slow == SlowConsumerPolicy::Conflate
            }
            // What a stream has stays there.
            TopicQuestion::Removal => settings.history.messages > 0 && !settings.durable.is_on,
            TopicQuestion::Members => settings.has_presence(),
        };
        if !is_kept {
            return read.answer(cx.shard(), TopicAnswer::NotKept);
        }
        if read.question == TopicQuestion::Removal {
            self.sequencer.topics.forget_messages(&read.topic, cx.pool());
            return read.answer(cx.shard(), TopicAnswer::Removed);
        }
        let until = cx.now() + SNAPSHOT_TIMEOUT;
        let read = match &mut self.sequencer.following {
            Some(following) => following.begin_read(&mut self.sequencer.queue, read, until),
            None => Some(read),
        };
        if let Some(read) = read {
            self.answer_read(cx, read);
        }
    }

    /// Answers a question about a topic of which this shard has everything.
    pub(super) fn answer_read(&mut self, cx: &mut Context<'_>, read: TopicRead) {
        let topics = &self.sequencer.topics;
        let known = topics.find(&read.topic).zip(topics.position(&read.topic));
        match (read.question, known) {
            (TopicQuestion::Members, owned) => {
                let answer = self.members_of(owned.map(|(owned, _)| owned));
                read.answer(cx.shard(), answer);
            }
            (TopicQuestion::History(range), Some((owned, head))) if range.limit != Some(0) => {
                self.read_pages(cx, owned, HistoryRead::new(read, range, head));
            }
            (TopicQuestion::History(_) | TopicQuestion::Removal, known) => {
                let head = known.map(|(_, head)| head);
                read.answer(cx.shard(), TopicAnswer::History(head, Vec::new()));
            }
        }
    }

    fn members_of(&self, owned: Option<OwnedTopicId>) -> TopicAnswer {
        let mut page = Vec::new();
        let (most, bytes_max) = (CENTRIFUGE_PRESENCE_CLIENTS_MAX, CENTRIFUGE_PRESENCE_BYTES_MAX);
        let topics = &self.sequencer.topics;
        let members = owned.and_then(|owned| topics.members(owned, None, most, bytes_max, &mut page));
        match members.is_some_and(|members| members.next.is_some() || members.unlisted > 0) {
            true => TopicAnswer::TooMuch,
            false => TopicAnswer::Members(page),
        }
    }

    /// Reads pages until the range is complete, or one must come from a stream.
    pub(super) fn read_pages(&mut self, cx: &mut Context<'_>, owned: OwnedTopicId, mut history: HistoryRead) {
        loop {
            let (wanted, now) = (WantedPage { owned, from: history.from() }, cx.now());
            if let Some(stream) = self.sequencer.stream_range(wanted, now, cx.pool()) {
                let reader = PageReader::Operator(Box::new(history));
                return self.sequencer.queue.pages.push(PageRequest { reader, wanted, stream });
            }
            let (page, messages) = self.sequencer.history(wanted, now, cx.pool());
            match history.add(cx.shard(), page.ok(), &messages) {
                Some(more) => history = more,
                None => return,
            }
        }
    }
}
