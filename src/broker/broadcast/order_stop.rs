//! One shard's part when all shards stop ordering, so that the owner shards of another process can go on with their topics.
//!
//! ```text
//! ThisProcess ─ stop_ordering ─> Nobody ── all shards have said so ─> the topics change no more: export
//!      ^                           │ └── the other process has everything ── follow ─> FarShards
//!      └────── order_again ────────┘
//! ```
//!
//! While it orders nothing, a shard posts no requests: publications are held and their publishers not read, and the others are
//! queued. Once a shard has said so in its request lanes, nothing follows there, so an owner shard that has heard it
//! from all others orders nothing more. Then the requests go to the successor's owner shards, over a bridge, or after a
//! failure to where they would have gone. So every publication is ordered by one of the two, in the order in which it
//! was posted.

use std::sync::mpsc::SyncSender;

use super::shard_mail::ShardMail;
use echoring_runtime::shard::{Lane, Mailboxes};

/// How far the shards are with that.
#[derive(Debug, Default)]
pub(super) struct OrderStop {
    /// The current attempt, and the number of shards that have reported in it that they order nothing.
    heard: (u32, usize),
    pub(super) stop: Option<Stop>,
    /// A mailbox had no room for the notice that this shard orders nothing.
    pub(super) waits_for_room: bool,
}

#[derive(Debug)]
pub(super) struct Stop {
    round: u32,
    /// The next shard to notify.
    next: usize,
    /// Notified once the topics of this shard no longer change.
    done: Option<SyncSender<usize>>,
}

impl Stop {
    pub(super) fn new(round: u32, done: SyncSender<usize>) -> Stop {
        Stop { round, next: 0, done: Some(done) }
    }
}

impl OrderStop {
    /// Another shard orders nothing any more.
    pub(super) fn count(&mut self, round: u32) {
        let heard = if self.heard.0 == round { self.heard.1 } else { 0 };
        self.heard = (round, heard + 1);
    }

    /// Notifies the other shards, as far as there is room, and the control thread, once all have reported.
    pub(super) fn advance(&mut self, mailboxes: &mut Mailboxes<ShardMail>) {
        self.waits_for_room = false;
        let Some(stop) = &mut self.stop else { return };
        while stop.next < mailboxes.shards() {
            let mail = ShardMail::Stopped { round: stop.round };
            let is_here = stop.next == mailboxes.shard();
            if !is_here && mailboxes.post(stop.next, Lane::Request, mail, &[]).is_err() {
                self.waits_for_room = true;
                return;
            }
            stop.next += 1;
        }
        let others = mailboxes.shards() - 1;
        if (others == 0 || self.heard == (stop.round, others))
            && let Some(done) = stop.done.take()
        {
            // Fails only if nobody waits any more.
            let _ = done.try_send(mailboxes.shard());
        }
    }
}
