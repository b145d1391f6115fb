//! One shard's part in a takeover: its topics move to the owner shards of another process.
//!
//! ```text
//! Own ── freeze ─> Frozen ── all shards have said so ─> the topics change no more: export
//!  ^                 │ └── the successor has everything ── follow ─> Theirs
//!  └───── thaw ──────┘
//! ```
//!
//! While it is frozen, a shard posts no requests: publications are held and their publishers not read, and the others are
//! queued. Once a shard has said so in its request lanes, nothing follows there, so an owner shard that has heard it
//! from all others orders nothing more. Then the requests go to the successor's owner shards, over a bridge, or after a
//! failure to where they would have gone. So every publication is ordered by one of the two, in the order in which it
//! was posted.

use std::sync::mpsc::SyncSender;

use super::Broadcast;
use super::pending_requests::RequestRoute;
use super::shard_mail::ShardMail;
use crate::peer::Context;
use echoring_runtime::driver::Driver;
use echoring_runtime::shard::{Bridge, Lane, Mailboxes};
use echoring_topics::{ClientId, ExportCursor, ImportError, Importer, OwnedTopicId, Record};

/// The process that orders the messages of the topics that this shard owned when the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ordering {
    /// This shard.
    #[default]
    Own,
    /// None, until the successor has everything.
    Frozen,
    /// The successor's owner shards.
    Theirs,
}

/// The progress of a handover.
#[derive(Debug, Default)]
pub(super) struct Handover {
    pub(super) ordering: Ordering,
    /// The current attempt, and the number of shards that have reported being frozen in it.
    heard: (u32, usize),
    freeze: Option<Freeze>,
    /// A mailbox had no room for the notice that this shard is frozen.
    waits_for_room: bool,
    /// The bridge is broken: nothing can be ordered any more.
    pub(super) is_lost: bool,
    importer: Importer,
}

/// The numbers of the clients of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientNumbers {
    /// The number of its first shard.
    pub first: u8,
    /// How many shards it has.
    pub shards: u16,
}

impl ClientNumbers {
    /// Whether a client is one of them.
    pub fn contains(&self, client: ClientId) -> bool {
        u16::from(((client.number >> 56) as u8).wrapping_sub(self.first)) < self.shards
    }
}

#[derive(Debug)]
struct Freeze {
    round: u32,
    /// The next shard to notify.
    next: usize,
    /// Notified once the topics of this shard no longer change.
    done: Option<SyncSender<usize>>,
}

impl Handover {
    /// Another shard is frozen.
    pub(super) fn count(&mut self, round: u32) {
        let heard = if self.heard.0 == round { self.heard.1 } else { 0 };
        self.heard = (round, heard + 1);
    }

    /// Notifies the other shards, as far as there is room, and the control thread, once all have reported.
    fn advance(&mut self, mailboxes: &mut Mailboxes<ShardMail>) {
        self.waits_for_room = false;
        let Some(freeze) = &mut self.freeze else { return };
        while freeze.next < mailboxes.shards() {
            let mail = ShardMail::Frozen { round: freeze.round };
            let is_here = freeze.next == mailboxes.shard();
            if !is_here && mailboxes.post(freeze.next, Lane::Request, mail, &[]).is_err() {
                self.waits_for_room = true;
                return;
            }
            freeze.next += 1;
        }
        let others = mailboxes.shards() - 1;
        if (others == 0 || self.heard == (freeze.round, others))
            && let Some(done) = freeze.done.take()
        {
            // Fails only if nobody waits any more.
            let _ = done.try_send(mailboxes.shard());
        }
    }
}

impl Broadcast {
    /// Posts no more requests. `done` is notified once the topics of this shard no longer change.
    pub fn freeze<D: Driver>(&mut self, cx: &mut Context<'_, D>, round: u32, done: SyncSender<usize>) {
        self.set_ordering(Ordering::Frozen);
        self.handover.freeze = Some(Freeze { round, next: 0, done: Some(done) });
        self.handover.advance(cx.resources().mailboxes);
    }

    /// The handover has failed: this shard orders its topics again.
    pub fn thaw<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        if self.handover.ordering != Ordering::Frozen {
            return;
        }
        self.set_ordering(Ordering::Own);
        self.handover.freeze = None;
        let here = cx.shard();
        for (mail, name) in self.pending.take_all_for(here) {
            self.mail(cx, here, mail, name.as_bytes());
        }
    }

    /// The successor orders everything from now on.
    pub fn follow<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        bridge: Bridge<ShardMail>,
        message_bytes_max: u64,
    ) {
        // The successor knows them, and tells only what comes after.
        self.tell_presence_changes(&mut cx.resources());
        cx.attach(bridge);
        self.set_ordering(Ordering::Theirs);
        self.handover.freeze = None;
        self.sequencer.lower_message_bytes_max(message_bytes_max);
        self.sequencer.topics.release_all(cx.pool());
        self.pending.post(cx.resources().mailboxes);
    }

    fn set_ordering(&mut self, ordering: Ordering) {
        self.handover.ordering = ordering;
        self.sequencer.ordering = ordering;
        self.pending.route = match ordering {
            Ordering::Own => RequestRoute::Lanes,
            Ordering::Frozen => RequestRoute::Held,
            Ordering::Theirs => RequestRoute::Bridge,
        };
    }

    /// Whether this shard orders the topics of the shard `owner`.
    pub(super) fn orders(&self, owner: usize, here: usize) -> bool {
        owner == here && self.handover.ordering == Ordering::Own
    }

    /// Whether publications of other threads have to wait.
    pub fn is_frozen(&self) -> bool {
        self.handover.ordering == Ordering::Frozen
    }

    pub(super) fn advance_freeze<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        self.handover.advance(cx.resources().mailboxes);
    }

    /// A block of this shard's topics, and the cursor of the next one.
    pub fn export<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        cursor: ExportCursor,
        bytes_max: usize,
    ) -> (Vec<u8>, Option<ExportCursor>) {
        let (mut bytes, now) = (Vec::new(), cx.now());
        let next = self.sequencer.topics.export(cursor, bytes_max, now, cx.pool(), &mut bytes);
        (bytes, next)
    }

    /// Imports a block of topics of a predecessor with `shards` shards. Returns the topics' old ids with their new ones.
    ///
    /// # Errors
    /// If the block is malformed, or there is no room for its topics.
    pub fn import<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        shards: usize,
        mut block: &[u8],
    ) -> Result<Vec<(OwnedTopicId, OwnedTopicId)>, ImportError> {
        let (first_shard, now) = (cx.shards(), cx.now());
        let numbers = first_shard..first_shard + shards;
        let mut moved = Vec::new();
        while !block.is_empty() {
            let record = Record::take(&mut block).ok_or(ImportError::Malformed)?;
            let Broadcast { handover, sequencer, .. } = self;
            let topics = &mut sequencer.topics;
            moved.extend(handover.importer.import(topics, record, numbers.clone(), now, cx.pool())?);
        }
        Ok(moved)
    }

    /// Everything is imported: serves the predecessor's shards too.
    pub fn lead<D: Driver>(&mut self, cx: &mut Context<'_, D>, bridge: Bridge<ShardMail>) {
        self.sequencer.topics.finish_import(cx.pool());
        cx.attach(bridge);
    }

    /// The predecessor has ended, and with it these clients.
    pub fn forget_predecessor<D: Driver>(&mut self, cx: &mut Context<'_, D>, clients: ClientNumbers) {
        cx.detach();
        let (now, first_shard) = (cx.now(), cx.shards());
        self.sequencer.topics.forget_shards(first_shard, now);
        for (owned, client) in self.sequencer.topics.members_where(|client| clients.contains(client)) {
            self.departed.push_back((owned, client));
        }
    }

    /// Notifies subscribers of the clients that ended with the predecessor, as far as there is room.
    pub(super) fn report_departed<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        let mut resources = cx.resources();
        while resources.mailboxes.all_have_room(Lane::Forward, 0)
            && let Some((owned, client)) = self.departed.pop_front()
        {
            self.change_presence(&mut resources, owned, client, None);
        }
    }

    /// The link to the successor is broken. Nothing is ordered after this; the drain that follows closes all
    /// connections.
    pub fn lose_successor<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        cx.detach();
        self.handover.is_lost = true;
        self.pending.clear();
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
    pub(super) fn waits_for_handover(&self) -> bool {
        self.handover.waits_for_room || !self.departed.is_empty()
    }
}
