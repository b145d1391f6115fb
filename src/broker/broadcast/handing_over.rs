//! The steps of a takeover: the topics of this shard move to another process, or those of another process to this one.

use std::sync::mpsc::SyncSender;

use super::Broadcast;
use super::order_stop::Stop;
use super::presence::MembershipChange;
use super::sequencer::{OrderedBy, Sequencer};
use super::sessions::close_interrupted;
use super::shard_mail::ShardMail;
use crate::peer::Context;
use echoring_proto::Plain as _;
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::{Bridge, Lane};
use echoring_topics::{ExportCursor, ImportError, OwnedTopicId, Position, Record, Refused, TopicId};

/// How far the export of a shard's topics is.
#[derive(Clone, Debug)]
pub enum StateCursor {
    /// The topics with their messages.
    Topics(ExportCursor),
    /// What the topics behind this one are to other nodes of the cluster.
    OfNode(Option<Box<str>>),
}

impl Default for StateCursor {
    fn default() -> StateCursor {
        StateCursor::Topics(ExportCursor::default())
    }
}

impl Broadcast {
    /// Posts no more requests. `done` is notified once the topics of this shard no longer change.
    pub fn stop_ordering(&mut self, cx: &mut Context<'_>, round: u32, done: SyncSender<usize>) {
        self.sequencer.ordered_by = OrderedBy::Nobody;
        self.order_stop.stop = Some(Stop::new(round, done));
        self.order_stop.advance(cx.resources().mailboxes);
    }

    /// Another shard orders nothing any more.
    pub(super) fn shard_stopped(&mut self, cx: &mut Context<'_>, round: u32) {
        self.order_stop.count(round);
        self.order_stop.advance(cx.resources().mailboxes);
    }

    /// The other process has failed: this shard orders its topics again.
    pub fn order_again(&mut self, cx: &mut Context<'_>) {
        if self.sequencer.ordered_by != OrderedBy::Nobody {
            return;
        }
        self.sequencer.ordered_by = OrderedBy::ThisProcess;
        self.order_stop.stop = None;
        let here = cx.shard();
        for (mail, name) in self.sequencer.requests.take_all_for(here) {
            self.mail(cx, here, mail, name.as_bytes());
        }
    }

    /// The successor orders everything from now on. The topics of this shard stay as they are until they are
    /// [forgotten](Broadcast::forget_topics) or [taken back](Broadcast::take_back).
    pub fn follow(&mut self, cx: &mut Context<'_>, bridge: Bridge<ShardMail>, max_message: u64) {
        // The successor knows them, and tells only what comes after.
        let now = cx.clock();
        self.report_presence_changes();
        self.tell_presence_changes(&mut cx.resources(), now, Nanos::MAX);
        self.end_topic_events();
        cx.attach(bridge);
        self.sequencer.ordered_by = OrderedBy::FarShards;
        self.sequencer.following = None;
        self.order_stop.stop = None;
        self.fence.end();
        self.sequencer.requests.forget_fences();
        self.sequencer.lower_max_message(max_message);
        self.sequencer.requests.post(cx.resources().mailboxes, OrderedBy::FarShards);
    }

    /// The successor stays: this shard orders nothing any more.
    pub fn forget_topics(&mut self, cx: &mut Context<'_>) {
        self.sequencer.topics.release_all(cx.pool());
    }

    /// The successor is lost, and this process serves again. Messages that it ordered may be missing here, so all topics continue in new
    /// epochs, and their subscribers return for what they lack. Nothing is ordered before every shard has done this, and is
    /// told to [order again](Broadcast::order_again).
    pub fn take_back(&mut self, cx: &mut Context<'_>) {
        cx.detach();
        self.sequencer.ordered_by = OrderedBy::Nobody;
        self.fence.end();
        for (topic, is_answered) in self.subscriptions.topics() {
            if is_answered {
                self.interrupted(cx, topic, Position::default());
                self.end_waiting(cx, topic);
            } else {
                self.subscribed(cx, 0, topic, Err(Refused::Busy));
            }
        }
        for token in cx.tokens() {
            let Some(mut link) = cx.link(token).filter(|link| link.is_open()) else { continue };
            let Some(session) = link.peer.session_mut() else { continue };
            // Whether they were accepted is not known here.
            if session.unanswered.as_ref().is_some_and(|publications| !publications.is_empty()) {
                close_interrupted(&mut link);
            }
        }
        // All of them were for the successor.
        self.sequencer.requests.clear();
        self.subscriptions.forget_all_left();
        self.sequencer.restore_message_bytes_max();
        self.begin_topic_events();
        let now = cx.now();
        self.sequencer.topics.begin_epochs(now, cx.pool());
    }

    /// Closes the sessions that still wait for an answer about a topic, and leaves the topic.
    fn end_waiting(&mut self, cx: &mut Context<'_>, topic: TopicId) {
        let Some(subscription) = self.subscriptions.get_mut(topic) else { return };
        for waiting in std::mem::take(&mut subscription.waiting) {
            if let Some(mut link) = cx.link(waiting.token()).filter(|link| link.is_open()) {
                close_interrupted(&mut link);
            }
        }
        self.leave_if_deserted(&mut cx.resources(), topic);
    }

    /// Whether publications of other threads have to wait.
    pub fn orders_nothing(&self) -> bool {
        self.sequencer.ordered_by == OrderedBy::Nobody
    }

    /// A block of this shard's topics, and the cursor of the next one.
    pub fn export(
        &mut self,
        cx: &mut Context<'_>,
        cursor: StateCursor,
        bytes_max: usize,
    ) -> (Vec<u8>, Option<StateCursor>) {
        let (mut bytes, now) = (Vec::new(), cx.now());
        let Sequencer { topics, following, .. } = &mut self.sequencer;
        let next = match (cursor, following) {
            (StateCursor::Topics(cursor), following) => {
                let next = topics.export(cursor, bytes_max, now, cx.pool(), &mut bytes);
                let of_node = following.is_some().then_some(StateCursor::OfNode(None));
                next.map(StateCursor::Topics).or(of_node)
            }
            (StateCursor::OfNode(after), Some(following)) => {
                let members = |name: &str| topics.find(name).and_then(|id| topics.present(id));
                let count = |name: &str| members(name).map_or(0, |(count, _)| count);
                let last = following.export(after, bytes_max, now, count, &mut bytes);
                last.map(|last| StateCursor::OfNode(Some(last)))
            }
            (StateCursor::OfNode(_), None) => None,
        };
        (bytes, next)
    }

    /// Imports a block of topics of a predecessor with `shards` shards. Returns the topics' old ids with their new ones.
    ///
    /// # Errors
    /// If the block is malformed, or there is no room for its topics.
    pub fn import(
        &mut self,
        cx: &mut Context<'_>,
        shards: usize,
        mut block: &[u8],
    ) -> Result<Vec<(OwnedTopicId, OwnedTopicId)>, ImportError> {
        let (first_shard, now) = (cx.shards(), cx.now());
        let numbers = first_shard..first_shard + shards;
        let mut imported = Vec::new();
        while !block.is_empty() {
            let record = Record::take(&mut block).ok_or(ImportError::Malformed)?;
            if let Some((name, state)) = record.to_nodes() {
                self.import_of_node(cx, name, state).ok_or(ImportError::Malformed)?;
                continue;
            }
            let Broadcast { importer, sequencer, .. } = self;
            let topics = &mut sequencer.topics;
            imported.extend(importer.import(topics, record, numbers.clone(), now, cx.pool())?);
        }
        Ok(imported)
    }

    /// Everything is imported: serves the predecessor's shards too.
    pub fn lead(&mut self, cx: &mut Context<'_>, bridge: Bridge<ShardMail>) {
        let now = cx.now();
        self.sequencer.topics.finish_import(now, cx.pool());
        cx.attach(bridge);
    }

    /// The far shards have ended, and with them their clients, except those that have moved here.
    pub fn forget_far_shards(&mut self, cx: &mut Context<'_>) {
        cx.detach();
        let (now, first_shard) = (cx.now(), cx.shards());
        self.sequencer.topics.forget_shards(first_shard, now);
        self.sequencer.following.iter_mut().for_each(|following| following.forget_shards(first_shard));
        self.departed.extend(self.sequencer.topics.far_members());
    }

    /// Goes on with what waits for room.
    pub(super) fn advance_handing_over(&mut self, cx: &mut Context<'_>) {
        if self.orders_nothing() {
            self.order_stop.advance(cx.resources().mailboxes);
        }
        if !self.departed.is_empty() {
            self.report_departed(cx);
        }
    }

    /// Notifies subscribers of the clients that ended with the far shards, as far as there is room.
    fn report_departed(&mut self, cx: &mut Context<'_>) {
        while cx.resources().mailboxes.all_have_room(Lane::Forward, 0)
            && let Some((owned, client)) = self.departed.pop_front()
        {
            // A connection that has moved here may have been announced since.
            if !self.sequencer.topics.is_far_member(owned, client) {
                continue;
            }
            self.change_presence(owned, &MembershipChange { client, joined: None, is_far: true });
        }
    }

    /// The link to the successor is broken. Nothing is ordered after this; the drain that follows closes all
    /// connections.
    pub fn lose_far_shards(&mut self, cx: &mut Context<'_>) {
        cx.detach();
        self.sequencer.has_lost_far_shards = true;
        self.fence.end();
        self.sequencer.requests.clear();
        for stored in self.held.take_all() {
            self.sequencer.topics.note_refused();
            stored.release(cx.pool());
        }
    }

    /// Whether a message that the successor ordered is the next one of its topic.
    pub(super) fn is_next(&self, local: echoring_topics::TopicId, offset: u64) -> bool {
        // A topic that the shard has left has no offset any more.
        self.subscriptions.get(local).is_none() || self.fan_out.topics.offset(local) + 1 == offset
    }

    /// Whether something is tried again until there is room.
    pub(super) fn waits_to_hand_over(&self) -> bool {
        self.order_stop.waits_for_room || !self.departed.is_empty()
    }
}
