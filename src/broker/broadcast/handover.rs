//! One shard's part in a takeover: its topics move to the owner shards of another process.
//!
//! ```text
//! ThisProcess ── freeze ─> Nobody ── all shards have said so ─> the topics change no more: export
//!      ^                     │ └── the successor has everything ── follow ─> Successor
//!      └──────── thaw ───────┘
//! ```
//!
//! While it is frozen, a shard posts no requests: publications are held and their publishers not read, and the others are
//! queued. Once a shard has said so in its request lanes, nothing follows there, so an owner shard that has heard it
//! from all others orders nothing more. Then the requests go to the successor's owner shards, over a bridge, or after a
//! failure to where they would have gone. So every publication is ordered by one of the two, in the order in which it
//! was posted.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;

use super::shard_mail::ShardMail;
use echoring_runtime::shard::{Lane, Mailboxes};
use echoring_topics::{ClientId, Importer, OwnedTopicId};

/// The process that orders the messages of the topics that this shard owned when the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OrderedBy {
    /// This process: this shard.
    #[default]
    ThisProcess,
    /// None, until the successor has everything.
    Nobody,
    /// The successor's owner shards.
    Successor,
}

/// The progress of a handover.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// The current attempt, and the number of shards that have reported being frozen in it.
    heard: (u32, usize),
    pub(super) freeze: Option<Freeze>,
    /// A mailbox had no room for the notice that this shard is frozen.
    pub(super) waits_for_room: bool,
    /// The bridge is broken: nothing can be ordered any more.
    pub(super) is_lost: bool,
    pub(super) importer: Importer,
    /// Clients that ended with a predecessor, whose departure is not reported yet.
    pub(super) departed: VecDeque<(OwnedTopicId, ClientId)>,
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
pub(super) struct Freeze {
    round: u32,
    /// The next shard to notify.
    next: usize,
    /// Notified once the topics of this shard no longer change.
    done: Option<SyncSender<usize>>,
}

impl Freeze {
    pub(super) fn new(round: u32, done: SyncSender<usize>) -> Freeze {
        Freeze { round, next: 0, done: Some(done) }
    }
}

impl Handover {
    /// Another shard is frozen.
    pub(super) fn count(&mut self, round: u32) {
        let heard = if self.heard.0 == round { self.heard.1 } else { 0 };
        self.heard = (round, heard + 1);
    }

    /// Notifies the other shards, as far as there is room, and the control thread, once all have reported.
    pub(super) fn advance(&mut self, mailboxes: &mut Mailboxes<ShardMail>) {
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
