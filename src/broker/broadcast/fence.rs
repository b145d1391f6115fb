//! The fence of a shard whose connections are about to move: it is up once everything that they have published, or asked owner shards
//! for, has been ordered and delivered to this shard.
//!
//! ```text
//! this shard ── Fence, behind earlier requests ──> each owner shard: keeps all messages from now on
//!            <── Fenced, behind earlier forwards ──
//! ```
//!
//! A subscriber that is up to date then may go on elsewhere: messages behind its position are in the history of their owners, and
//! none of them is its own.

use echoring_runtime::driver::Driver;

use super::Broadcast;
use super::handover::OrderedBy;
use super::shard_mail::ShardMail;
use crate::limits::FENCE_RETENTION;
use crate::peer::Context;

/// The latest fence of a shard.
#[derive(Debug, Default)]
pub(super) struct Fence {
    round: u32,
    /// Owner shards that have not answered; `None` if there is no fence, or no process that orders anything.
    awaited: Option<usize>,
}

impl Fence {
    fn begin(&mut self, owners: Option<usize>) {
        self.round = self.round.wrapping_add(1);
        self.awaited = owners;
    }

    /// An owner shard has answered.
    pub(super) fn count(&mut self, round: u32) {
        if let Some(awaited) = self.awaited.as_mut().filter(|_| round == self.round) {
            *awaited = awaited.saturating_sub(1);
        }
    }

    /// Other shards order the topics from now on, or none.
    pub(super) fn end(&mut self) {
        self.awaited = None;
    }
}

impl Broadcast {
    /// Begins a fence, in place of an earlier one. Connections that move behind it are not read from before until they have moved.
    pub fn begin_fence<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        let mailboxes = cx.resources().mailboxes;
        let (here, shards, far_shards) = (mailboxes.shard(), mailboxes.shards(), mailboxes.far_shards());
        let owners: Vec<usize> = match self.sequencer.ordered_by {
            OrderedBy::ThisProcess => (0..shards).filter(|shard| *shard != here).collect(),
            OrderedBy::Successor => (shards..shards + far_shards).collect(),
            OrderedBy::Nobody => Vec::new(),
        };
        let orders_here = self.sequencer.ordered_by == OrderedBy::ThisProcess;
        self.fence.begin((orders_here || !owners.is_empty()).then_some(owners.len()));
        if orders_here {
            self.retain(cx);
        }
        for owner in owners {
            let mail = ShardMail::Fence { round: self.fence.round };
            self.sequencer.request(cx.resources().mailboxes, owner, mail, "");
        }
    }

    /// Whether all owner shards have answered the latest fence. It never is once the link to a successor is broken.
    pub fn is_fenced(&self) -> bool {
        let is_ordered = self.sequencer.ordered_by != OrderedBy::Nobody && !self.handover.is_lost;
        is_ordered && self.fence.awaited == Some(0)
    }

    /// Another shard has posted a fence.
    pub(super) fn answer_fence<D: Driver>(&mut self, cx: &mut Context<'_, D>, from: usize, round: u32) {
        self.retain(cx);
        self.answer(cx, from, ShardMail::Fenced { round }, &[]);
    }

    fn retain<D: Driver>(&mut self, cx: &Context<'_, D>) {
        self.sequencer.topics.retain_until(cx.now() + FENCE_RETENTION);
    }

    /// An owner shard has answered a fence.
    pub(super) fn fenced(&mut self, round: u32) {
        self.fence.count(round);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_to_the_latest_fence_count() {
        let mut fence = Fence::default();
        fence.count(0);
        assert_eq!(fence.awaited, None, "there is none");
        fence.begin(Some(2));
        fence.count(1);
        assert_eq!(fence.awaited, Some(1));
        fence.begin(Some(2));
        fence.count(1);
        assert_eq!(fence.awaited, Some(2), "that is late");
        fence.count(2);
        fence.count(2);
        assert_eq!(fence.awaited, Some(0));
        fence.end();
        fence.count(2);
        assert_eq!(fence.awaited, None);
    }
}
