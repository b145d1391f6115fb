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
    pub(super) shard: usize,
    pub(super) round: u32,
    /// The latest of its publications.
    pub(super) latest: Ticket,
}

impl Fence {
    /// Begins the next fence, which so many owner shards answer; `None` if none does. Returns its number.
    pub(super) fn begin(&mut self, owners: Option<usize>) -> u32 {
        self.round = self.round.wrapping_add(1);
        self.awaited = owners;
        self.round
    }

    /// Whether all owner shards have answered.
    pub(super) fn is_up(&self) -> bool {
        self.awaited == Some(0)
    }

    /// Whether it can be up at some time.
    pub(super) fn is_there(&self) -> bool {
        self.awaited.is_some()
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
