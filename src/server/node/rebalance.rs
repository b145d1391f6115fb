//! Balances the shards: idle connections move from the fullest shard to the emptiest.
//!
//! The kernel deals connections to shards by a hash, so that with few or long-lived connections one shard may have twice as many as
//! another. The thread of [`upkeep`](super::upkeep) looks at their numbers from time to time; [`Handle::rebalance`] does so at once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::commands::ShardCommand;
use crate::commands::move_order::MoveOrder;
use crate::limits::{
    REBALANCE_BATCH, REBALANCE_DIFFERENCE_MIN, REBALANCE_MOVE_TIMEOUT, REBALANCE_PAUSE, REBALANCE_ROUNDS_MAX,
};
use crate::node::handle::Handle;
use echoring_broker::publications::OnShard;
use echoring_runtime::shard::{ControlMessage, Destination};

/// The result of [`Handle::rebalance`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebalanced {
    /// Connections that have moved.
    pub moved: u64,
    /// Connections of each shard afterwards, by number.
    pub connections: Vec<u64>,
}

/// Connections that are to move from one shard to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    from: usize,
    to: usize,
    count: u64,
}

impl Plan {
    /// What brings the fullest and the emptiest shard nearer to the mean, if they differ by more than the mean divided by `part`.
    fn of(connections: &[u64], part: u64) -> Option<Plan> {
        let (to, least) = connections.iter().copied().enumerate().min_by_key(|(_, count)| *count)?;
        let (from, most) = connections.iter().copied().enumerate().max_by_key(|(_, count)| *count)?;
        let mean = connections.iter().sum::<u64>() / connections.len() as u64;
        let count = (most - mean).min(mean - least).min(REBALANCE_BATCH);
        ((most - least) * part > mean && count > 0).then_some(Plan { from, to, count })
    }
}

/// Differences of more than a fifth of the mean are reduced to a tenth: otherwise each coming and going would cause a move.
const START_PART: u64 = 5;
const END_PART: u64 = 10;

impl Handle {
    /// Moves idle connections from the fullest shards to the emptiest until they differ by less than a tenth of the mean, as far as
    /// connections can move: no TLS sessions, and none of handlers that do not [migrate](crate::Migrate). Blocks for some seconds at
    /// most.
    ///
    /// # Errors
    /// On the thread of a shard.
    pub fn rebalance(&self) -> Result<Rebalanced, OnShard> {
        let mut balanced = Rebalanced::default();
        for _ in 0..REBALANCE_ROUNDS_MAX {
            balanced.connections = self.count_connections()?;
            let Some(plan) = self.plan_moves(&balanced.connections, END_PART) else { break };
            let moved = self.move_idle(plan);
            if moved == 0 {
                break;
            }
            balanced.moved += moved;
            thread::sleep(REBALANCE_PAUSE);
        }
        balanced.connections = self.count_connections()?;
        Ok(balanced)
    }

    /// Whether shards are balanced from time to time, from now on.
    pub fn set_rebalance(&self, is_on: bool) {
        self.rebalances.store(is_on, Ordering::Relaxed);
    }

    /// The number of connections of each shard; empty if one does not answer.
    fn count_connections(&self) -> Result<Vec<u64>, OnShard> {
        let counts = self.commands.ask_all(ShardCommand::Count)?;
        if counts.len() < self.remotes.len() {
            return Ok(Vec::new());
        }
        Ok(counts.into_iter().map(|(_, count)| count).collect())
    }

    fn plan_moves(&self, connections: &[u64], part: u64) -> Option<Plan> {
        Plan::of(connections, part).filter(|_| !self.is_leaving() && !self.is_replaced())
    }

    fn move_idle(&self, Plan { from, to, count }: Plan) -> u64 {
        let (done, moved) = mpsc::sync_channel(1);
        let order = MoveOrder {
            to: Destination::Shard(to),
            backends: Arc::default(),
            most: count as usize,
            only_idle: true,
            within: REBALANCE_MOVE_TIMEOUT,
            done,
        };
        self.remotes[from].send(ControlMessage::Command(ShardCommand::MoveAway(order)));
        let moved = moved.recv_timeout(2 * Duration::from_nanos(REBALANCE_MOVE_TIMEOUT));
        let moved = moved.map_or(0, |(_, moved)| moved as u64);
        if moved > 0 {
            tracing::debug!(from, to, moved, "connections moved between shards");
        }
        moved
    }

    /// Balances the shards if they differ much, and it is wanted.
    pub(super) fn rebalance_if_due(&self) -> Result<(), OnShard> {
        if !self.rebalances.load(Ordering::Relaxed) {
            return Ok(());
        }
        let connections = self.count_connections()?;
        let (least, most) = (connections.iter().min(), connections.iter().max());
        let difference = most.zip(least).map_or(0, |(most, least)| most - least);
        if difference >= REBALANCE_DIFFERENCE_MIN && self.plan_moves(&connections, START_PART).is_some() {
            self.rebalance()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_and_the_emptiest_shard_come_nearer_to_the_mean() {
        let plan = |connections: &[u64]| Plan::of(connections, END_PART);
        assert_eq!(plan(&[100, 300]), Some(Plan { from: 1, to: 0, count: 100 }));
        assert_eq!(plan(&[0, 90, 90, 20]), Some(Plan { from: 2, to: 0, count: 40 }));
        assert_eq!(plan(&[0, 9_000]), Some(Plan { from: 1, to: 0, count: REBALANCE_BATCH }));
        for even in [&[100, 109][..], &[100], &[0, 0], &[3, 4], &[1, 0], &[]] {
            assert_eq!(plan(even), None, "{even:?}");
        }
    }

    /// Repeated, it ends with shards that differ by less than a tenth.
    #[test]
    fn it_comes_to_an_end() {
        let mut connections = [0, 10_000, 7, 4_000, 900];
        let mut moves = 0;
        while let Some(Plan { from, to, count }) = Plan::of(&connections, END_PART) {
            connections[from] -= count;
            connections[to] += count;
            moves += 1;
            assert!(moves < 100, "{connections:?}");
        }
        let (least, most) = (connections.iter().min(), connections.iter().max());
        assert!(most.zip(least).is_some_and(|(most, least)| (most - least) * END_PART <= 14_907 / 5));
    }
}
