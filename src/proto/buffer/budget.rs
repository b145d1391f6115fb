//! The budget of the whole node, and the leases of the shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{
    HANDSHAKE_RESERVE_PARTS, HISTORY_SHARE_PARTS, MEMORY_BUDGET_MIN, MEMORY_RESERVE_PARTS,
    SHARD_RESERVE_BYTES_MAX, SHARD_RESERVE_PARTS,
};

/// Units that the whole node may use: bytes of buffers and logs, or connections. Shards lease them in blocks, see
/// [`Lease`].
///
/// A budget of bytes has a reserve. While less than the reserve is free, the node is *short of memory*: histories get
/// no more memory, and shards release what they can, see [`Pool::is_short`](super::Pool::is_short). The last part of
/// the reserve is for handshakes only.
#[derive(Debug)]
pub struct Budget {
    units: u64,
    free: AtomicU64,
    /// The least that was ever free.
    free_min: AtomicU64,
    /// Leased units that histories use.
    histories: AtomicU64,
    /// Connections that share the budget.
    holders: AtomicU64,
    /// Number of requests of a shard that all other shards release memory.
    reclaim_requests: AtomicU64,
}

impl Budget {
    /// A budget of `units`.
    pub fn new(units: u64) -> Arc<Budget> {
        Arc::new(Budget {
            units,
            free: AtomicU64::new(units),
            free_min: AtomicU64::new(units),
            histories: AtomicU64::new(0),
            holders: AtomicU64::new(0),
            reclaim_requests: AtomicU64::new(0),
        })
    }

    /// Units that no shard leases.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// All units.
    pub fn units(&self) -> u64 {
        self.units
    }

    /// Units that shards lease.
    pub fn leased(&self) -> u64 {
        self.units.saturating_sub(self.free())
    }

    /// The most units that shards ever leased.
    pub fn peak(&self) -> u64 {
        self.units.saturating_sub(self.free_min.load(Ordering::Relaxed))
    }

    /// Leased units that histories use.
    pub fn history_units(&self) -> u64 {
        self.histories.load(Ordering::Relaxed)
    }

    /// The budget divided by `parts`; 0 below the minimum budget of a node, as in unit tests.
    fn part(&self, parts: u64) -> u64 {
        if self.units < MEMORY_BUDGET_MIN { 0 } else { self.units / parts }
    }

    /// Free bytes below which the node is short of memory.
    pub(super) fn reserve(&self) -> u64 {
        self.part(MEMORY_RESERVE_PARTS)
    }

    /// Free bytes that only handshakes may use.
    pub(super) fn handshake_reserve(&self) -> u64 {
        self.part(HANDSHAKE_RESERVE_PARTS)
    }

    /// Bytes that each shard reserves for allocations that cannot wait until memory has been freed.
    pub(super) fn shard_reserve(&self) -> u64 {
        self.part(SHARD_RESERVE_PARTS).min(SHARD_RESERVE_BYTES_MAX)
    }

    /// The share of one connection. While no connection exceeds it, the reserve is free.
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

    /// Counts `units` as used by histories. False, without counting them, when they would exceed the share of histories.
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

    /// Requests that all shards release memory, and returns the number of the request.
    pub(super) fn request_reclaim(&self) -> u64 {
        self.reclaim_requests.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Number of such requests so far.
    pub(super) fn reclaim_requests(&self) -> u64 {
        self.reclaim_requests.load(Ordering::SeqCst)
    }

    /// Takes at least `least` and at most `most` units, or none. `floor` units stay free.
    fn take(&self, least: u64, most: u64, floor: u64) -> Option<u64> {
        let before = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                let open = free.saturating_sub(floor);
                (open >= least).then(|| free - open.min(most))
            })
            .ok()?;
        let taken = before.saturating_sub(floor).min(most);
        self.free_min.fetch_min(before - taken, Ordering::Relaxed);
        Some(taken)
    }

    fn give(&self, units: u64) {
        self.free.fetch_add(units, Ordering::Relaxed);
    }
}

/// The part of a [`Budget`] that one shard leases. It grows in blocks, so that the shared counter is rarely updated,
/// and shrinks when two blocks are unused.
#[derive(Debug)]
pub struct Lease {
    pub(super) budget: Arc<Budget>,
    block: u64,
    leased: u64,
    used: u64,
    /// Units in reserve for [`take_kept`](Lease::take_kept).
    kept: u64,
}

impl Lease {
    /// An empty lease that grows by `block` units at a time.
    pub fn new(budget: Arc<Budget>, block: u64) -> Lease {
        Lease::keeping(budget, block, 0)
    }

    /// An empty lease that keeps `kept` units in reserve beyond the used units.
    pub(super) fn keeping(budget: Arc<Budget>, block: u64, kept: u64) -> Lease {
        Lease { budget, block, leased: 0, used: 0, kept }
    }

    /// Uses `units` more. False, without using any, when the budget of the node is spent.
    pub fn take(&mut self, units: u64) -> bool {
        self.take_above(units, 0)
    }

    /// Like [`take`](Lease::take), but leaves `floor` units of the budget free.
    #[inline]
    pub(super) fn take_above(&mut self, units: u64, floor: u64) -> bool {
        let needed = self.used + units + self.kept;
        if needed > self.leased && !self.grow(needed - self.leased, floor) {
            return false;
        }
        self.used += units;
        true
    }

    fn grow(&mut self, missing: u64, floor: u64) -> bool {
        let Some(taken) = self.budget.take(missing, missing.next_multiple_of(self.block), floor) else {
            return false;
        };
        self.leased += taken;
        true
    }

    /// Uses `units` of the reserve. False when the reserve is too small.
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
        // One unused block stays leased, so that a unit at a block boundary does not move back and forth.
        let spare = self.spare();
        if spare >= 2 * self.block {
            let returned = (spare / self.block - 1) * self.block;
            self.leased -= returned;
            self.budget.give(returned);
        }
    }

    /// Returns all units that are neither used nor in reserve.
    pub(super) fn give_spare(&mut self) {
        let spare = self.spare();
        self.leased -= spare;
        self.budget.give(spare);
    }

    /// The budget that it is part of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Units in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Units leased, in use or not.
    pub(super) fn leased(&self) -> u64 {
        self.leased
    }

    /// Units that are neither used nor in reserve.
    pub(super) fn spare(&self) -> u64 {
        self.leased.saturating_sub(self.used + self.kept)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.give(self.leased);
    }
}
