//! The progress of a drain: acknowledged messages are sent, or reported as lost, before their subscribers are closed with
//! 1001.
//!
//! ```text
//! refuse publications ── DrainStageOver(Publications) ─> no owner gets another one
//!                                                        └─ DrainStageOver(Messages) ─> the logs are complete
//!                                                                                       └─ subscribers with everything: 1001
//! no subscriber is left ── DrainStageOver(Everything) ─> no shard needs this one, and it may end
//! ```
//!
//! A stage is over on the node once every shard has told every other shard. Shards do so in the lane of the stage's
//! mail, so the notice arrives behind the last of it. A shard whose own drain has not begun only counts.
//!
//! A shard never waits for another one beyond the time of the drain.

use super::shard_mail::{DrainStage, ShardMail};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Lane, Mailboxes};

/// The progress of one stage, in both directions.
#[derive(Clone, Copy, Debug, Default)]
struct StageProgress {
    /// The next shard to notify.
    next: usize,
    /// Shards that have notified this one.
    heard: usize,
}

/// The drain of one shard.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// When the drain began.
    since: Option<Nanos>,
    /// By [`DrainStage`].
    stages: [StageProgress; 3],
    /// A mailbox had no room for the end of a stage.
    pub(super) waits_for_room: bool,
    /// When subscribers that have not got everything are closed.
    pub(super) goodbye_at: Nanos,
    /// Connections that must be closed once they have received everything.
    pub(super) remaining: Vec<Token>,
    /// No connection is left, and no other shard needs this one.
    pub(super) is_over: bool,
}

impl StageProgress {
    fn tell(&mut self, mailboxes: &mut Mailboxes<ShardMail>, stage: DrainStage) -> bool {
        let lane = match stage {
            DrainStage::Publications | DrainStage::Everything => Lane::Request,
            DrainStage::Messages => Lane::Forward,
        };
        while self.next < mailboxes.shards() {
            let is_here = self.next == mailboxes.shard();
            if !is_here && mailboxes.post(self.next, lane, ShardMail::DrainStageOver(stage), &[]).is_err() {
                return false;
            }
            self.next += 1;
        }
        true
    }
}

impl Drain {
    /// Whether publications and subscriptions are refused.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Begins the drain. False if it has begun already.
    pub(super) fn begin(&mut self, now: Nanos) -> bool {
        let begins = self.since.is_none();
        self.since.get_or_insert(now);
        begins
    }

    /// Sets the deadline of the drain; the last `goodbye` of it is reserved for subscribers that have not got
    /// everything.
    pub(super) fn set_end(&mut self, until: Nanos, goodbye: Nanos) {
        let all = until.saturating_sub(self.since.unwrap_or_default());
        self.goodbye_at = until.saturating_sub(goodbye.min(all / 4));
    }

    /// Notifies the other shards that a stage is over here, as far as there is room. Returns whether all have been
    /// notified.
    pub(super) fn tell(&mut self, mailboxes: &mut Mailboxes<ShardMail>, stage: DrainStage) -> bool {
        self.stages[stage as usize].tell(mailboxes, stage)
    }

    /// Another shard has ended a stage.
    pub(super) fn count(&mut self, stage: DrainStage) {
        self.stages[stage as usize].heard += 1;
    }

    /// Whether a stage is over on all shards.
    pub(super) fn has_ended(&self, stage: DrainStage, shards: usize) -> bool {
        let StageProgress { next, heard } = self.stages[stage as usize];
        next == shards && heard + 1 == shards
    }

    pub(super) fn deadline(&self) -> Option<Nanos> {
        (self.is_on() && !self.remaining.is_empty()).then_some(self.goodbye_at)
    }
}
