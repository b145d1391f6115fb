//! The budget of the whole node, and the leases of the shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::limits::{
    HANDSHAKE_RESERVE_PARTS, HISTORY_SHARE_PARTS, MEMORY_BUDGET_MIN, MEMORY_RESERVE_PARTS,
    OPTIONAL_FREE_PARTS, SHARD_RESERVE_BYTES_MAX, SHARD_RESERVE_PARTS,
};

/// Blocks that a budget consists of at least.
const BLOCKS_MIN: u64 = 16;

/// Units that the whole node may use: bytes of buffers and logs, or connections. Shards lease them in blocks, see
/// [`Lease`].
///
/// A budget of bytes has a reserve. While less than the reserve is free, the node is *short of memory*: histories get
/// no more memory, and shards release memory, see [`Pool::is_short`](super::Pool::is_short). The last part of
/// the reserve is for handshakes only.
#[derive(Debug)]
pub struct Budget {
    units: AtomicU64,
    /// Units that no shard leases; negative after a [`resize`](Budget::resize) below the leased units.
    free: AtomicI64,
    /// The least that was ever free.
    free_min: AtomicI64,
    /// Leased units that histories use.
    histories: AtomicU64,
    /// Leased units that are optional.
    optional: AtomicU64,
    /// Connections that share the budget.
    holders: AtomicU64,
    /// Number of requests of a shard that all other shards release memory.
    reclaim_requests: AtomicU64,
}

impl Budget {
    /// A budget of `units`.
    pub fn new(units: u64) -> Arc<Budget> {
        Arc::new(Budget {
            units: AtomicU64::new(units),
            free: AtomicI64::new(signed(units)),
            free_min: AtomicI64::new(signed(units)),
            histories: AtomicU64::new(0),
            optional: AtomicU64::new(0),
            holders: AtomicU64::new(0),
            reclaim_requests: AtomicU64::new(0),
        })
    }

    /// Units of the whole node.
    pub fn units(&self) -> u64 {
        self.units.load(Ordering::Relaxed)
    }

    /// Units that no shard leases.
    pub fn free(&self) -> u64 {
        unsigned(self.free.load(Ordering::Relaxed))
    }

    /// Whether more units are leased than there are.
    fn is_overdrawn(&self) -> bool {
        self.free.load(Ordering::Relaxed) < 0
    }

    /// Changes the number of units. If more are leased, none are free until enough have been returned.
    pub fn resize(&self, units: u64) {
        let before = self.units.swap(units, Ordering::Relaxed);
        let more = signed(units) - signed(before);
        self.free.fetch_add(more, Ordering::Relaxed);
        self.free_min.fetch_add(more, Ordering::Relaxed);
    }

    /// Units that shards lease.
    pub fn leased(&self) -> u64 {
        unsigned(signed(self.units()) - self.free.load(Ordering::Relaxed))
    }

    /// The most units that shards ever leased.
    pub fn peak(&self) -> u64 {
        unsigned(signed(self.units()) - self.free_min.load(Ordering::Relaxed))
    }

    /// Leased units that histories use.
    pub fn history_units(&self) -> u64 {
        self.histories.load(Ordering::Relaxed)
    }

    /// Leased units that are optional: freed before anything else when the node is short of memory.
    pub fn optional_units(&self) -> u64 {
        self.optional.load(Ordering::Relaxed)
    }

    /// The budget divided by `parts`; 0 below the minimum budget of a node, as in unit tests.
    fn part(&self, parts: u64) -> u64 {
        let units = self.units();
        if units < MEMORY_BUDGET_MIN { 0 } else { units / parts }
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

    /// The share of one connection. While no connection exceeds it, the reserve is free. A connection below it is not ended
    /// first when the node is short of memory.
    pub fn share(&self) -> u64 {
        (self.units() - self.reserve()) / self.holders.load(Ordering::Relaxed).max(1)
    }

    pub(super) fn block(&self, most: u64) -> u64 {
        match self.part(64) {
            0 => most,
            part => part.min(most),
        }
    }

    /// Counts a new connection that shares the budget.
    pub fn add_holder(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a connection that shared the budget.
    pub fn remove_holder(&self) {
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

    /// Bytes that stay free when optional memory is granted.
    pub(super) fn free_of_optional(&self) -> u64 {
        self.part(OPTIONAL_FREE_PARTS)
    }

    pub(super) fn add_optional(&self, units: u64) {
        self.optional.fetch_add(units, Ordering::Relaxed);
    }

    pub(super) fn remove_optional(&self, units: u64) {
        self.optional.fetch_sub(units, Ordering::Relaxed);
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
                let open = unsigned(free).saturating_sub(floor);
                (open >= least).then(|| free - signed(open.min(most)))
            })
            .ok()?;
        let taken = unsigned(before).saturating_sub(floor).min(most);
        self.free_min.fetch_min(before - signed(taken), Ordering::Relaxed);
        Some(taken)
    }

    /// Charges bytes held by other threads, all or none, without a lease. The reserve stays free.
    pub fn take_outside(&self, bytes: u64) -> bool {
        self.take(bytes, bytes, self.reserve()).is_some()
    }

    /// Returns bytes of [`take_outside`](Budget::take_outside).
    pub fn give_outside(&self, bytes: u64) {
        self.give(bytes);
    }

    fn give(&self, units: u64) {
        self.free.fetch_add(signed(units), Ordering::Relaxed);
    }
}

/// Budgets are far below 2^63.
fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

fn unsigned(units: i64) -> u64 {
    u64::try_from(units).unwrap_or(0)
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
    /// An empty lease that grows by `block` units at a time. With blocks of one unit it holds none that it does not use, so that
    /// however many leases a budget has, all of it can be used.
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
        // A sum that cannot be expressed is more than any budget.
        let needed = (self.used + self.kept).saturating_add(units);
        if needed > self.leased && !self.grow(needed - self.leased, floor) {
            return false;
        }
        self.used += units;
        true
    }

    fn grow(&mut self, missing: u64, floor: u64) -> bool {
        let most = missing.checked_next_multiple_of(self.small_block()).unwrap_or(missing);
        let Some(taken) = self.budget.take(missing, most, floor) else {
            return false;
        };
        self.leased += taken;
        true
    }

    /// A block, or less of a small budget, so that one shard does not lease the units that others need.
    fn small_block(&self) -> u64 {
        self.block.min(self.budget.units() / BLOCKS_MIN).max(1)
    }

    /// Uses `units` of the reserve. False when the reserve is too small.
    pub(super) fn take_kept(&mut self, units: u64) -> bool {
        let taken = self.used.saturating_add(units) <= self.leased;
        if taken {
            self.used += units;
        }
        taken
    }

    /// Stops using `units`.
    pub fn give(&mut self, units: u64) {
        self.used -= units;
        self.shrink(self.block);
    }

    /// As [`give`](Lease::give), for a budget that may be small or [resized](Budget::resize): unused units do not stay
    /// leased while others need them.
    pub fn give_back(&mut self, units: u64) {
        self.used -= units;
        if self.budget.is_overdrawn() {
            self.give_spare();
        } else {
            self.shrink(self.small_block());
        }
    }

    /// Returns unused blocks. One of several units stays leased, so that a unit at a block boundary does not move back and forth.
    fn shrink(&mut self, block: u64) {
        if block == 1 {
            return self.give_spare();
        }
        let spare = self.spare();
        if spare >= 2 * block {
            let returned = (spare / block - 1) * block;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leases_of_single_units_use_the_whole_budget_however_many_they_are() {
        let budget = Budget::new(100);
        let mut leases: Vec<Lease> = (0..64).map(|_| Lease::new(Arc::clone(&budget), 1)).collect();
        // Each has had as many as it could get.
        for lease in &mut leases {
            while lease.take(1) {}
            while lease.used() > 1 {
                lease.give_back(1);
            }
        }
        assert_eq!(budget.leased(), 64);
        while leases[7].take(1) {}
        assert_eq!((leases[7].used(), budget.free(), budget.peak()), (37, 0, 100));
    }

    #[test]
    fn a_budget_that_shrinks_below_what_is_used_admits_nobody_until_enough_has_been_returned() {
        let budget = Budget::new(100);
        let [mut one, mut other] = [(); 2].map(|()| Lease::new(Arc::clone(&budget), 16));
        assert!((0..40).all(|_| one.take(1)) && (0..40).all(|_| other.take(1)));
        budget.resize(50);
        one.give_back(0);
        other.give_back(0);
        assert!(!one.take(1) && !other.take(1));
        assert_eq!(budget.free(), 0);
        (0..30).for_each(|_| one.give_back(1));
        assert!(!other.take(1) && !one.take(1), "50 are used");
        (0..10).for_each(|_| one.give_back(1));
        while other.take(1) {}
        while one.take(1) {}
        assert_eq!(one.used() + other.used(), 50);
        assert!(other.used() > 40, "what one returned is not kept from the other");
        budget.resize(100);
        assert!((0..50).all(|_| one.take(1)));
        assert!(!one.take(1) && !other.take(1));
    }
}
