//! Fences: this shard posts its own to the owner shards of topics, and answers those of other shards.

use super::Broadcast;
use super::fence::UndecidedFence;
use super::sequencer::{OrderedBy, Sequencer};
use super::shard_mail::ShardMail;
use crate::limits::FENCE_RETENTION;
use crate::peer::Context;

impl Broadcast {
    /// Begins a fence, in place of an earlier one. Connections that move behind it are not read from before until they have moved.
    pub fn begin_fence(&mut self, cx: &mut Context<'_>) {
        let mailboxes = cx.resources().mailboxes;
        let (here, shards, far_shards) = (mailboxes.shard(), mailboxes.shards(), mailboxes.far_shards());
        let owners: Vec<usize> = match self.sequencer.ordered_by {
            OrderedBy::ThisProcess => (0..shards).filter(|shard| *shard != here).collect(),
            OrderedBy::FarShards => (shards..shards + far_shards).collect(),
            OrderedBy::Nobody => Vec::new(),
        };
        let orders_here = self.sequencer.ordered_by == OrderedBy::ThisProcess;
        let awaited = owners.len() + usize::from(orders_here);
        self.fence.since = cx.clock();
        let round = self.fence.begin((awaited > 0).then_some(awaited));
        self.sequencer.requests.forget_fences();
        for owner in owners {
            self.sequencer.request(cx.resources().mailboxes, owner, ShardMail::Fence { round }, "");
        }
        if orders_here {
            self.answer_fence(cx, here, round);
        }
    }

    /// Whether all owner shards have answered the latest fence. It never is once the link to a successor is broken.
    pub fn is_fenced(&self) -> bool {
        let is_ordered =
            self.sequencer.ordered_by != OrderedBy::Nobody && !self.sequencer.has_lost_far_shards;
        is_ordered && self.fence.is_up()
    }

    /// Whether the latest fence will never be up: others order the topics since, or nobody.
    pub fn has_lost_fence(&self) -> bool {
        !self.fence.is_there()
    }

    /// A shard has posted a fence. It is answered at once, unless publications of its clients were left to other nodes.
    pub(super) fn answer_fence(&mut self, cx: &mut Context<'_>, shard: usize, round: u32) {
        self.sequencer.topics.retain_until(cx.now() + FENCE_RETENTION);
        // The answer to an earlier one counts for nothing.
        self.fence.undecided.retain(|fence| fence.shard != shard);
        let Sequencer { following, queue, .. } = &self.sequencer;
        match following.as_ref().and_then(|following| following.latest_undecided(queue, shard)) {
            Some(latest) => self.fence.undecided.push(UndecidedFence { shard, round, latest }),
            None => self.answer(cx, shard, ShardMail::Fenced { round }, &[]),
        }
    }

    /// Answers the fences whose publications were decided.
    pub(super) fn answer_decided_fences(&mut self, cx: &mut Context<'_>) {
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
}
