//! A node that another process continues: when the shard rests, and what its topics are to other nodes, as bytes.

use echoring_proto::Plain;
use echoring_proto::limits::Nanos;
use echoring_topics::Record;

use super::{Following, FollowingQueue, Undecided, Waits};
use crate::broadcast::Broadcast;
use crate::peer::Context;

impl Following {
    /// Whether nothing waits for other nodes, or for what they have sent; with `with_streams`, nor for the streams of durable topics.
    fn is_at_rest(&self, queue: &FollowingQueue, with_streams: bool) -> bool {
        self.events.is_empty()
            && self.undecided.is_empty()
            && self.waiting.is_empty()
            && self.streams.pages.is_empty()
            && queue.is_empty()
            && queue.ahead.is_empty()
            && self.table.is_at_rest(with_streams)
    }

    /// Appends records of the topics behind `after`, until there are about `bytes_max`. Returns the last one of them, if there are more.
    pub(in crate::broadcast) fn export(
        &self,
        after: Option<Box<str>>,
        bytes_max: usize,
        now: Nanos,
        members: impl Fn(&str) -> u64,
        bytes: &mut Vec<u8>,
    ) -> Option<Box<str>> {
        let mut last = after;
        while bytes.len() < bytes_max {
            let name = self.table.next_topic(last.as_deref())?;
            let mut state = (self.heads.get(name).copied().unwrap_or_default(), members(name)).encode();
            self.table.put_topic(name, now, &mut state);
            Record::of_node(name, &state).put(bytes);
            last = Some(name.into());
        }
        last
    }

    /// The clients of the predecessor, which has ended, wait for nothing any more.
    pub(in crate::broadcast) fn forget_shards(&mut self, first_shard: usize) {
        self.waiting.retain(|_, waits| {
            waits.retain(|one| !matches!(one, Waits::Shard { shard, .. } if *shard >= first_shard));
            !waits.is_empty()
        });
        self.undecided.retain(|_, waits| match waits {
            Undecided::Client(publisher, _) => usize::from(publisher.shard) < first_shard,
            Undecided::Operator => true,
        });
    }
}

impl Broadcast {
    /// Answers who waits for the shard to rest.
    pub(super) fn answer_rests(&self, following: &mut Following) {
        for (number, with_streams) in std::mem::take(&mut following.rests) {
            match following.is_at_rest(&self.sequencer.queue, with_streams) {
                true => following.links.settled(number),
                false => following.rests.push((number, with_streams)),
            }
        }
    }

    /// Imports what a topic is to other nodes. `None` if that is malformed.
    pub(in crate::broadcast) fn import_of_node(
        &mut self,
        cx: &mut Context<'_>,
        name: &str,
        mut state: &[u8],
    ) -> Option<()> {
        self.now = cx.now();
        let mut following = self.sequencer.following.take()?;
        let mut import = || {
            let (head, members): (u64, u64) = Plain::take(&mut state)?;
            let topics = &mut self.sequencer.topics;
            if let Some(id) = topics.find(name).filter(|_| topics.has_presence(name)) {
                topics.count_members(id, members);
            }
            if topics.position(name).is_some_and(|position| position.offset < head) {
                following.heads.insert(name.into(), head);
            }
            if !topics.is_subscribed(name) {
                following.lingering.insert(name.into());
            }
            self.with_table(cx, &mut following, |table, shard| table.take_topic(shard, name, state))
        };
        let imported = import();
        self.sequencer.following = Some(following);
        imported
    }
}
