//! What the whole node may spend, and the shards' parts of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{
    HANDSHAKE_RESERVE_PARTS, HISTORY_SHARE_PARTS, MEMORY_BUDGET_MIN, MEMORY_RESERVE_PARTS,
    SHARD_RESERVE_BYTES_MAX, SHARD_RESERVE_PARTS,
};

/// Units (bytes of buffers and logs, or connections) that the whole node may spend. Shards lease from it in
/// blocks, see [`Lease`].
///
/// Of a budget of bytes the last part is a reserve: while less than that is free the node is *short*, histories get
/// nothing, and shards give back what they can, see [`Pool::is_short`](super::Pool::is_short). The last of the reserve
/// is kept for handshakes.
#[derive(Debug)]
pub struct Budget {
    units: u64,
    free: AtomicU64,
    /// Of those that are taken, histories'.
    histories: AtomicU64,
    /// Connections among which it is shared.
    holders: AtomicU64,
    /// Counts the times that a shard asked all others to give back what they can.
    calls: AtomicU64,
}

impl Budget {
    /// A budget of `units`.
    pub fn new(units: u64) -> Arc<Budget> {
        Arc::new(Budget {
            units,
            free: AtomicU64::new(units),
            histories: AtomicU64::new(0),
            holders: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        })
    }

    /// Units not leased to anyone.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// A part of the whole; nothing where the whole is less than a node can have, as in tests of single parts.
    fn part(&self, parts: u64) -> u64 {
        if self.units < MEMORY_BUDGET_MIN { 0 } else { self.units / parts }
    }

    /// Free bytes below which the node is short of memory.
    pub(super) fn reserve(&self) -> u64 {
        self.part(MEMORY_RESERVE_PARTS)
    }

    /// Free bytes that only handshakes may take.
    pub(super) fn handshake_reserve(&self) -> u64 {
        self.part(HANDSHAKE_RESERVE_PARTS)
    }

    /// What each shard keeps for what cannot wait until memory has been made.
    pub(super) fn shard_reserve(&self) -> u64 {
        self.part(SHARD_RESERVE_PARTS).min(SHARD_RESERVE_BYTES_MAX)
    }

    /// What one of those who share it may hold without being the first to give way. When nobody holds more, the reserve
    /// is there.
    pub(super) fn share(&self) -> u64 {
        (self.units - self.reserve()) / self.holders.load(Ordering::Relaxed).max(1)
    }

    pub(super) fn block(&self, most: u64) -> u64 {
        match self.part(64) {
            0 => most,
            part => part.min(most),
        }
    }

    pub(super) fn add_holder(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_holder(&self) {
        self.holders.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts `units` as histories'. False, and nothing counted, when they would be more than histories may take.
    pub(super) fn add_history(&self, units: u64) -> bool {
        let most = match self.part(HISTORY_SHARE_PARTS) {
            0 => u64::MAX,
            most => most,
        };
        let add = |histories: u64| histories.checked_add(units).filter(|sum| *sum <= most);
        self.histories.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    pub(super) fn remove_history(&self, units: u64) {
        self.histories.fetch_sub(units, Ordering::Relaxed);
    }

    /// Asks all shards to give back what they can.
    pub(super) fn call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How often that was asked.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Takes up to `most` units and at least `least`, or none; `floor` units stay.
    fn take(&self, least: u64, most: u64, floor: u64) -> Option<u64> {
        let before = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                let open = free.saturating_sub(floor);
                (open >= least).then(|| free - open.min(most))
            })
            .ok()?;
        Some(before.saturating_sub(floor).min(most))
    }

    fn give(&self, units: u64) {
        self.free.fetch_add(units, Ordering::Relaxed);
    }
}

/// One shard's part of a [`Budget`]: taken in blocks, so that the shared counter is rarely touched, and given
/// back when two blocks are spare.
#[derive(Debug)]
pub struct Lease {
    pub(super) budget: Arc<Budget>,
    block: u64,
    leased: u64,
    used: u64,
    /// Units that stay spare for [`take_kept`](Lease::take_kept).
    kept: u64,
}

impl Lease {
    /// An empty lease that grows by `block` units at a time.
    pub fn new(budget: Arc<Budget>, block: u64) -> Lease {
        Lease::keeping(budget, block, 0)
    }

    /// The same, which keeps `kept` units beyond what is used.
    pub(super) fn keeping(budget: Arc<Budget>, block: u64, kept: u64) -> Lease {
        Lease { budget, block, leased: 0, used: 0, kept }
    }

    /// Uses `units` more. False, and nothing used, when the node's budget is spent.
    pub fn take(&mut self, units: u64) -> bool {
        self.take_above(units, 0)
    }

    /// The same, but `floor` units of the budget stay.
    #[inline]
    pub(super) fn take_above(&mut self, units: u64, floor: u64) -> bool {
        let needed = self.used + units + self.kept;
        if needed > self.leased && !self.grow(needed - self.leased, floor) {
            return false;
        }
        self.used += units;
        true
    }

    fn grow(&mut self, short: u64, floor: u64) -> bool {
        let Some(taken) = self.budget.take(short, short.next_multiple_of(self.block), floor) else {
            return false;
        };
        self.leased += taken;
        true
    }

    /// Uses units that were kept back. False when there are not as many.
    pub(super) fn take_kept(&mut self, units: u64) -> bool {
        let taken = self.used + units <= self.leased;
        if taken {
            self.used += units;
        }
        taken
    }

    /// Stops using `units`.
    pub fn give(&mut self, units: u64) {
        self.used -= units;
        // One block is kept as slack, so that a unit at the border does not go to and fro for ever.
        let spare = self.spare();
        if spare >= 2 * self.block {
            let returned = (spare / self.block - 1) * self.block;
            self.leased -= returned;
            self.budget.give(returned);
        }
    }

    /// Gives all back that is neither used nor kept.
    pub(super) fn give_spare(&mut self) {
        let spare = self.spare();
        self.leased -= spare;
        self.budget.give(spare);
    }

    /// Units in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Units leased, in use or not.
    pub(super) fn leased(&self) -> u64 {
        self.leased
    }

    /// Units that are neither used nor kept.
    pub(super) fn spare(&self) -> u64 {
        self.leased.saturating_sub(self.used + self.kept)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.give(self.leased);
    }
}
