//! Durable topics at the node that owns them: a publication is accepted once the topic's stream has stored it.
//!
//! One batch is on its way to the stream at a time, and later publications form the next one. The batches of this node
//! and of others wait in one order. Only what is stored gets a position, so whoever owns the topic next finds all
//! accepted publications in the stream, in the same epoch.
//!
//! ```text
//!   begin ──> Loading ── Loaded ──> Owner: Append ── Stored ──> positions, followers, answers
//!                                     ^       └──── Failed ──> Load: was the batch stored? ─┐
//!                                     └─────────────────────────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};

use echoring_proto::Plain as _;
use echoring_proto::limits::Nanos;
use echoring_topics::Position;

use super::{OwnerTable, Role, Shard, next_batch};
use crate::limits::{
    DURABLE_BATCH_BYTES_MAX, DURABLE_BATCH_PUBLICATIONS_MAX, DURABLE_TIMEOUT, STREAM_RETRY_DELAY,
    STREAM_UNUSABLE_AFTER, STREAM_UNUSED_AFTER,
};
use crate::message::{Message, Outcome, append_entry, entries, values};
use crate::store::Decision;
use crate::stream::{StoredBatch, StreamAnswer, StreamHead, StreamRequest, WriteId};
use crate::view::NodeId;

/// The owner's knowledge of a durable topic's stream.
#[derive(Debug, Default)]
pub(super) struct Durable {
    /// The sequence number of the topic's last batch, if it is known; 0 for none.
    sequence: Option<u64>,
    /// The request that is on its way.
    request: Option<u64>,
    /// When the stream is asked again.
    retry_at: Option<Nanos>,
    /// The stream may have messages that this node lacks.
    is_behind: bool,
    /// Since when there has been no stream, and none could be made.
    unusable_since: Option<Nanos>,
    storing: Option<Storing>,
    waiting: VecDeque<Batch>,
    /// When this topic's timer goes off.
    timer_at: Option<Nanos>,
    /// The store must keep the topic, because publications wait.
    is_held: bool,
}

/// A batch of this node or another that waits to be stored.
#[derive(Debug)]
struct Batch {
    part: Part,
    entries: Vec<u8>,
    /// When it is given up.
    until: Nanos,
}

/// Whose publications they are.
#[derive(Clone, Copy, Debug)]
struct Part {
    from: NodeId,
    batch: u32,
}

/// The batch that is being stored.
#[derive(Debug)]
struct Storing {
    batch: StoredBatch,
    /// The sequence number behind which it is stored, if it is.
    behind: u64,
    /// Its publications, with their outcomes.
    parts: Vec<(Batch, Vec<Fate>)>,
    until: Nanos,
}

/// The outcome of a publication.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Decided(Outcome),
    /// It is the one of this number in the batch that is being stored.
    Stored(u64),
}

impl Durable {
    /// Whether something is on its way that may be stored.
    pub(super) fn is_storing(&self) -> bool {
        self.storing.is_some()
    }

    /// Whether no request to the stream is pending.
    pub(super) fn is_idle(&self) -> bool {
        self.storing.is_none() && self.waiting.is_empty()
    }

    /// Whether nothing is asked of the stream.
    pub(super) fn is_at_rest(&self) -> bool {
        // One that stores nothing is asked again and again, for no answer that matters.
        self.is_idle() && (self.request.is_none() || self.unusable_since.is_some())
    }

    /// Whether the stream has been unusable for so long that publications should no longer wait for it.
    fn stores_nothing(&self, now: Nanos) -> bool {
        self.unusable_since.is_some_and(|since| since + STREAM_UNUSABLE_AFTER <= now)
    }

    /// Whether the stream has been unusable for so long that this node need not query it for an unused topic.
    fn is_unused(&self, now: Nanos) -> bool {
        let is_over = self.unusable_since.is_some_and(|since| since + STREAM_UNUSED_AFTER <= now);
        is_over && self.request.is_none() && self.is_idle()
    }

    /// A node's link is lost: it has abandoned its waiting publications.
    pub(super) fn reset(&mut self, node: NodeId) {
        self.waiting.retain(|batch| batch.part.from != node);
    }

    /// Returns when the timer is due, if it is due earlier than before.
    fn set_timer(&mut self, now: Nanos) -> Option<Nanos> {
        self.timer_at = self.timer_at.filter(|at| *at > now);
        let until = self.storing.iter().map(|storing| storing.until);
        let times = until.chain(self.waiting.front().map(|batch| batch.until)).chain(self.retry_at);
        // What is late already waits for an answer.
        let next = times.filter(|at| *at > now).min()?;
        let is_earlier = self.timer_at.is_none_or(|at| next < at);
        is_earlier.then(|| *self.timer_at.insert(next))
    }

    fn take_late(&mut self, now: Nanos) -> Option<Batch> {
        if self.waiting.front()?.until <= now { self.waiting.pop_front() } else { None }
    }
}

impl OwnerTable {
    /// Begins a durable topic: its stream knows where it continues.
    pub(super) fn begin_durable(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        (topic.role, topic.is_without_storage) = (Role::Loading, false);
        topic.durable = Some(Box::default());
        self.hold(shard, name);
        self.advance_durable(shard, name);
    }

    /// This node owns a topic that may be durable.
    pub(super) fn own_durable(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.durable = shard.store.is_durable(name).then(Box::default);
    }

    /// Another node may have stored messages of a durable topic that this node owns: two nodes have owned it, or a client is ahead of
    /// this node. Its stream knows all of them.
    pub fn reload(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(durable) = self.durable(name) else { return };
        durable.sequence = None;
        durable.is_behind = true;
        self.advance_durable(shard, name);
    }

    /// Whether a durable topic has no stream, and none can be created: by this node, or by one that reported so.
    pub fn stores_nothing(&self, name: &str, now: Nanos) -> bool {
        self.topics.get(name).is_some_and(|topic| topic.is_without_storage) || self.has_no_stream(name, now)
    }

    /// The same for a topic of this node.
    pub(super) fn has_no_stream(&self, name: &str, now: Nanos) -> bool {
        self.known_durable(name).is_some_and(|durable| durable.stores_nothing(now))
    }

    /// Whether the stream of a topic is read because it may have messages that this node, the owner, lacks.
    pub fn reads_stream(&self, name: &str) -> bool {
        self.known_durable(name).is_some_and(|durable| durable.is_behind)
    }

    /// Publications of another node wait to be stored.
    pub(super) fn wait_for_stream(
        &mut self,
        shard: &mut Shard<'_>,
        from: NodeId,
        name: &str,
        batch: u32,
        list: &[u8],
    ) {
        let until = shard.now + DURABLE_TIMEOUT;
        let Some(durable) = self.durable(name) else { return };
        let part = Part { from, batch };
        durable.waiting.push_back(Batch { part, entries: list.to_vec(), until });
        self.advance_durable(shard, name);
    }

    /// Takes the answer of a stream.
    pub fn handle_stream(&mut self, shard: &mut Shard<'_>, name: &str, number: u64, answer: StreamAnswer) {
        let is_loading = self.topics.get(name).is_some_and(|topic| matches!(topic.role, Role::Loading));
        let Some(durable) = self.durable(name) else { return };
        if durable.request.take_if(|request| *request == number).is_none() {
            return;
        }
        let since = durable.unusable_since.take();
        match answer {
            StreamAnswer::Failed | StreamAnswer::Unusable => {
                let is_unusable = answer == StreamAnswer::Unusable;
                durable.unusable_since = since.or(is_unusable.then_some(shard.now));
                durable.sequence = None;
                durable.retry_at = Some(shard.now + STREAM_RETRY_DELAY);
            }
            StreamAnswer::Stored(sequence) => {
                // Nothing was stored that this node does not know.
                (durable.sequence, durable.is_behind) = (Some(sequence), false);
                if let Some(storing) = durable.storing.take() {
                    self.take_batch(shard, name, &storing.batch);
                    self.finish(shard, name, storing);
                }
            }
            StreamAnswer::Loaded(head, batches) if is_loading => {
                self.begin_loaded(shard, name, head, &batches);
            }
            StreamAnswer::Loaded(head, batches) => self.take_loaded(shard, name, head, &batches),
        }
        self.hand_over(shard);
        self.drive(shard, name);
    }

    /// Sends the stream the next request, if none is open.
    pub(super) fn advance_durable(&mut self, shard: &mut Shard<'_>, name: &str) {
        self.give_up_late(shard, name);
        let Some(topic) = self.topics.get_mut(name) else { return };
        if matches!(topic.role, Role::Owner(_)) && shard.store.position(name).is_none() {
            // The store had no use for it.
            topic.role = Role::Loading;
        }
        let is_loading = matches!(topic.role, Role::Loading);
        if is_loading && self.has_no_stream(name, shard.now) {
            self.refuse_outgoing(name, Outcome::NoStorage);
        }
        let OwnerTable { topics, node, batches, .. } = self;
        let Some(topic) = topics.get_mut(name) else { return };
        let Some(durable) = topic.durable.as_deref_mut() else { return };
        if is_loading && durable.is_unused(shard.now) && !topic.is_wanted && topic.outgoing.is_unused() {
            topics.remove(name);
            return shard.store.hold(name, false);
        }
        if topic.outgoing.is_waiting() && !is_loading {
            let batch = next_batch(batches);
            let entries = topic.outgoing.send(*node, batch);
            let part = Part { from: *node, batch };
            durable.waiting.push_back(Batch { part, entries, until: shard.now + DURABLE_TIMEOUT });
        }
        let is_due = durable.retry_at.is_none_or(|at| at <= shard.now);
        if durable.request.is_none() && is_due {
            durable.retry_at = None;
            // Publications from other nodes are refused meanwhile, and do not make this node ask.
            let is_unusable = durable.unusable_since.is_some();
            let has_use = is_loading || durable.is_behind || is_unusable || !durable.is_idle();
            match durable.sequence {
                None if has_use => {
                    // A node that begins the topic must know the idempotency keys.
                    let after = shard.store.position(name).filter(|_| !is_loading);
                    self.ask(name, StreamRequest::Load(after));
                }
                Some(sequence) => self.store_next(shard, name, sequence),
                None => {}
            }
        }
        let now = shard.now;
        let Some(durable) = self.durable(name) else { return };
        let timer = durable.set_timer(now);
        let is_busy = !durable.is_idle();
        let has_changed = std::mem::replace(&mut durable.is_held, is_busy) != is_busy;
        self.timers.extend(timer.map(|at| (at, name.into())));
        if has_changed {
            self.hold(shard, name);
        }
    }

    pub(super) fn known_durable(&self, name: &str) -> Option<&Durable> {
        self.topics.get(name)?.durable.as_deref()
    }

    fn durable(&mut self, name: &str) -> Option<&mut Durable> {
        self.topics.get_mut(name)?.durable.as_deref_mut()
    }

    fn ask(&mut self, name: &str, request: StreamRequest) {
        self.requests_made += 1;
        let number = self.requests_made;
        if let Some(durable) = self.durable(name) {
            durable.request = Some(number);
            self.requests.push_back((name.into(), number, request));
        }
    }

    /// Sends the stream the batch whose outcome is unknown, or the next one.
    fn store_next(&mut self, shard: &mut Shard<'_>, name: &str, sequence: u64) {
        let Some(head) = shard.store.position(name) else { return };
        let first = Position { offset: head.offset + 1, ..head };
        loop {
            let write = WriteId { node: self.node, number: self.requests_made + 1 };
            let Some(durable) = self.durable(name) else { return };
            if let Some(storing) = &mut durable.storing {
                // Nothing was stored since, so it would be decided about as before.
                storing.batch.first = first;
                let batch = storing.batch.clone();
                return self.ask(name, StreamRequest::Append(sequence, batch));
            }
            if durable.waiting.is_empty() {
                return;
            }
            let storing =
                gather(shard, name, durable, StoredBatch { write, first, entries: Vec::new() }, sequence);
            if storing.batch.entries.is_empty() {
                self.finish(shard, name, storing);
            } else if let Some(durable) = self.durable(name) {
                durable.storing = Some(storing);
            }
        }
    }

    /// Reports the outcome of a batch to its publishers. The batch has been stored.
    fn finish(&mut self, shard: &mut Shard<'_>, name: &str, storing: Storing) {
        let first = storing.batch.first;
        for (batch, fates) in storing.parts {
            let mut list = Vec::new();
            for fate in fates {
                let outcome = match fate {
                    Fate::Decided(outcome) => outcome,
                    Fate::Stored(index) => {
                        Outcome::Accepted(Position { offset: first.offset + index, ..first })
                    }
                };
                outcome.put(&mut list);
            }
            self.answer_part(shard, name, batch.part, &list);
        }
    }

    fn answer_part(&mut self, shard: &mut Shard<'_>, name: &str, part: Part, list: &[u8]) {
        let Part { from, batch } = part;
        if from != self.node {
            return shard.peers.send(from, &Message::Published { topic: name, batch, outcomes: list });
        }
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.outgoing.answer(from, batch, values(list), &mut self.decided);
    }

    /// Gives up publications that the stream has not stored in time, or cannot store.
    fn give_up_late(&mut self, shard: &mut Shard<'_>, name: &str) {
        let now = shard.now;
        let stores_nothing = self.has_no_stream(name, now);
        let outcome = if stores_nothing { Outcome::NoStorage } else { Outcome::Unreachable };
        let until = if stores_nothing { Nanos::MAX } else { now };
        while let Some(durable) = self.durable(name)
            && let Some(batch) = durable.take_late(until)
        {
            self.answer_part(shard, name, batch.part, &all(&batch.entries, outcome));
        }
        let storing = self.durable(name).and_then(|durable| {
            // While the stream is asked, its answer may come.
            let is_asked = durable.request.is_some();
            durable.storing.take_if(|storing| !is_asked && storing.until <= now)
        });
        for (batch, _) in storing.into_iter().flat_map(|storing| storing.parts) {
            // A list that ends early says that nobody knows.
            self.answer_part(shard, name, batch.part, &[]);
        }
    }

    /// The topic continues at the position of its stream.
    fn begin_loaded(&mut self, shard: &mut Shard<'_>, name: &str, head: StreamHead, batches: &[StoredBatch]) {
        let may_begin = self.is_open && self.view.owner(name) == Some(self.node);
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.role = Role::Idle;
        if !may_begin {
            topic.durable = None;
            return;
        }
        let is_begun = match head.position {
            Some(last) => {
                self.restart_behind(shard, name, last, batches);
                let position = shard.store.position(name);
                position.is_some_and(|position| position.epoch == last.epoch)
            }
            None => self.begin_new(shard, name),
        };
        let Some(topic) = self.topics.get_mut(name) else { return };
        if !is_begun {
            topic.durable = None;
            return self.retry(shard, name);
        }
        topic.role = Role::Owner(BTreeMap::new());
        self.diverged.remove(name);
        self.hold(shard, name);
        self.own_members(shard, name);
        batches.iter().for_each(|batch| self.take_batch(shard, name, batch));
        self.reach(shard, name, head);
    }

    /// Takes messages that only the stream has, and determines the outcome of the pending batch.
    fn take_loaded(&mut self, shard: &mut Shard<'_>, name: &str, head: StreamHead, batches: &[StoredBatch]) {
        let known = shard.store.position(name).unwrap_or_default();
        match head.position {
            Some(last) if last.epoch != known.epoch => {
                self.restart_behind(shard, name, last, batches);
                self.serve_again(shard, name);
            }
            // The stream has lost messages that were accepted. Their positions must not be used again.
            Some(last) if last.offset < known.offset => {
                shard.store.renew(name);
                self.serve_again(shard, name);
                if let Some(durable) = self.durable(name) {
                    (durable.sequence, durable.is_behind) = (Some(head.sequence), false);
                }
                return;
            }
            _ => {}
        }
        batches.iter().for_each(|batch| self.take_batch(shard, name, batch));
        self.reach(shard, name, head);
        let Some(durable) = self.durable(name) else { return };
        let stored = durable.storing.as_ref().and_then(|storing| {
            batches.iter().find(|batch| batch.write == storing.batch.write).map(|batch| batch.first)
        });
        match (stored, durable.storing.take_if(|storing| storing.behind != head.sequence)) {
            (Some(first), Some(mut storing)) => {
                storing.batch.first = first;
                self.finish(shard, name, storing);
            }
            // Something else was stored instead, so it cannot be stored as it is any more.
            (None, Some(storing)) => {
                let parts = storing.parts.into_iter().map(|(batch, _)| batch);
                parts.rev().for_each(|batch| durable.waiting.push_front(batch));
                self.refuse_waiting(shard, name, None);
            }
            (_, None) => {}
        }
        // The nodes whose publications wait may have turned to the one that has stored these, with later ones.
        if batches.iter().any(|batch| batch.write.node != self.node) {
            self.refuse_waiting(shard, name, None);
        }
    }

    /// Begins the topic before the first of these batches that is of the epoch of `head`, unless this node is between that and
    /// `head` already.
    fn restart_behind(&mut self, shard: &mut Shard<'_>, name: &str, head: Position, batches: &[StoredBatch]) {
        let mut firsts = batches.iter().map(|batch| batch.first).filter(|first| first.epoch == head.epoch);
        let start = firsts.next().map_or(head.offset, |first| first.offset - 1);
        let known = shard.store.position(name);
        if known.is_none_or(|known| known.epoch != head.epoch || known.offset > head.offset) {
            shard.store.follow(name, Position { offset: start, ..head }, head.offset);
        }
    }

    /// Everything up to `head` is here, or missing.
    fn reach(&mut self, shard: &mut Shard<'_>, name: &str, head: StreamHead) {
        if let Some(last) = head.position {
            self.skip_to(shard, name, last);
        }
        if let Some(durable) = self.durable(name) {
            durable.sequence = Some(head.sequence);
            durable.is_behind = false;
        }
    }

    /// Delivers the publications of a batch that this node does not have.
    fn take_batch(&mut self, shard: &mut Shard<'_>, name: &str, batch: &StoredBatch) {
        let Position { epoch, offset: first } = batch.first;
        let Some(known) = shard.store.position(name).filter(|known| known.epoch == epoch) else { return };
        self.skip_to(shard, name, Position { epoch, offset: first - 1 });
        for (offset, entry) in (first..).zip(entries(&batch.entries)) {
            shard.store.append_stored(name, offset, entry);
            if offset > known.offset {
                self.forward(shard.peers, name, Position { epoch, offset }, entry);
            }
        }
    }

    /// Informs the store that it lacks the publications up to this position.
    fn skip_to(&mut self, shard: &mut Shard<'_>, name: &str, position: Position) {
        let known = shard.store.position(name);
        if known.is_some_and(|known| known.epoch == position.epoch && known.offset < position.offset) {
            shard.store.skip(name, position.offset);
            self.all_lag(name);
        }
    }

    /// Sends all followers the messages that they lack.
    fn all_lag(&mut self, name: &str) {
        let OwnerTable { topics, lagging, .. } = self;
        if let Some(Role::Owner(followers)) = topics.get(name).map(|topic| &topic.role) {
            lagging.extend(followers.keys().map(|follower| (name.into(), *follower)));
        }
    }

    /// Refuses the batches that wait for the stream. The nodes that sent them send them again, in their order, to the topic's owner.
    pub(super) fn refuse_waiting(&mut self, shard: &mut Shard<'_>, name: &str, owner: Option<NodeId>) {
        let own = self.node;
        let Some(topic) = self.topics.get_mut(name) else { return };
        let waiting = topic.durable.as_mut().map(|durable| std::mem::take(&mut durable.waiting));
        for Batch { part: Part { from, batch }, .. } in waiting.into_iter().flatten() {
            if from == own {
                topic.outgoing.refuse(own, batch);
            } else {
                let owner = owner.filter(|owner| *owner != from);
                shard.peers.send(from, &Message::NotOwner { topic: name, batch, owner });
            }
        }
    }
}

/// The outcomes of a list of publications, which are all the same.
pub(super) fn all(list: &[u8], outcome: Outcome) -> Vec<u8> {
    let mut outcomes = Vec::new();
    entries(list).for_each(|_| outcome.put(&mut outcomes));
    outcomes
}

/// Takes as many waiting publications as are stored together. Publications that the store refuses are not stored.
fn gather(
    shard: &mut Shard<'_>,
    name: &str,
    durable: &mut Durable,
    batch: StoredBatch,
    behind: u64,
) -> Storing {
    let mut storing = Storing { batch, behind, parts: Vec::new(), until: Nanos::MAX };
    // The idempotency keys of the batch, with what was published with them, and its number.
    let mut keys = BTreeMap::new();
    let mut stored = 0;
    while let Some(next) = durable.waiting.front()
        && (stored == 0
            || stored < DURABLE_BATCH_PUBLICATIONS_MAX
                && storing.batch.entries.len() + next.entries.len() <= DURABLE_BATCH_BYTES_MAX)
        && let Some(next) = durable.waiting.pop_front()
    {
        let mut fates = Vec::new();
        for entry in entries(&next.entries) {
            let fate = match shard.store.decide(name, entry) {
                Decision::Refused(reason) => Fate::Decided(Outcome::Refused(reason)),
                Decision::Again(position) => Fate::Decided(Outcome::Accepted(position)),
                Decision::Store(key) => {
                    match key.and_then(|key| keys.get(&key.key).copied().zip(Some(key))) {
                        Some(((digest, index), key)) if digest == key.digest => Fate::Stored(index),
                        Some((_, key)) => Fate::Decided(Outcome::Refused(key.reused)),
                        None => {
                            keys.extend(key.map(|key| (key.key, (key.digest, stored))));
                            append_entry(&mut storing.batch.entries, entry);
                            stored += 1;
                            Fate::Stored(stored - 1)
                        }
                    }
                }
            };
            fates.push(fate);
        }
        storing.until = storing.until.min(next.until);
        storing.parts.push((next, fates));
    }
    storing
}
