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

use echoring_cluster::Ticket;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Driver;

use super::Broadcast;
use super::handover::OrderedBy;
use super::sequencer::Sequencer;
use super::shard_mail::ShardMail;
use crate::limits::FENCE_RETENTION;
use crate::peer::Context;

/// The latest fence of a shard.
#[derive(Debug, Default)]
pub(super) struct Fence {
    round: u32,
    /// When it began: what owner shards have forwarded before arrives before their answers.
    pub(super) since: Nanos,
    /// Owner shards that have not answered; `None` if there is no fence, or no process that orders anything.
    awaited: Option<usize>,
    /// Fences of shards whose clients have publications that other nodes have yet to decide about.
    pub(super) undecided: Vec<UndecidedFence>,
}

/// A fence that is answered later.
#[derive(Debug)]
pub(super) struct UndecidedFence {
    /// The shard that has posted it.
    shard: usize,
    round: u32,
    /// The latest of its publications.
    latest: Ticket,
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
        let awaited = owners.len() + usize::from(orders_here);
        self.fence.since = cx.clock();
        self.fence.begin((awaited > 0).then_some(awaited));
        let round = self.fence.round;
        for owner in owners {
            self.sequencer.request(cx.resources().mailboxes, owner, ShardMail::Fence { round }, "");
        }
        if orders_here {
            self.answer_fence(cx, here, round);
        }
    }

    /// Whether all owner shards have answered the latest fence. It never is once the link to a successor is broken.
    pub fn is_fenced(&self) -> bool {
        let is_ordered = self.sequencer.ordered_by != OrderedBy::Nobody && !self.handover.is_lost;
        is_ordered && self.fence.awaited == Some(0)
    }

    /// A shard has posted a fence. It is answered at once, unless publications of its clients were left to other nodes.
    pub(super) fn answer_fence<D: Driver>(&mut self, cx: &mut Context<'_, D>, shard: usize, round: u32) {
        self.sequencer.topics.retain_until(cx.now() + FENCE_RETENTION);
        let Sequencer { following, queue, .. } = &self.sequencer;
        match following.as_ref().and_then(|following| following.latest_undecided(queue, shard)) {
            Some(latest) => self.fence.undecided.push(UndecidedFence { shard, round, latest }),
            None => self.answer(cx, shard, ShardMail::Fenced { round }, &[]),
        }
    }

    /// Answers the fences whose publications were decided.
    pub(super) fn answer_decided_fences<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        for fence in std::mem::take(&mut self.fence.undecided) {
            let UndecidedFence { shard, round, latest } = fence;
            let Sequencer { following, queue, .. } = &self.sequencer;
            let is_decided =
                following.as_ref().is_none_or(|following| following.has_decided(queue, shard, latest));
            match is_decided {
                true => self.answer(cx, shard, ShardMail::Fenced { round }, &[]),
                false => self.fence.undecided.push(fence),
            }
        }
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
