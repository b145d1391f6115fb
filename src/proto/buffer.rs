//! Pooled write buffers by size class, their accounting, and leases from the byte budget of the node.
//!
//! A shard owns one [`Pool`]. It hands out boxed buffers by value and takes them back by value, so the steady state
//! allocates nothing. Every byte of a pool, in use or free, is leased from the [`Budget`] of the node. When the
//! budget is spent, [`Pool::get`] returns `None` and the caller decides which memory to release.
//!
//! Never: WebSocket frames or messages.

#![forbid(unsafe_code)]

mod budget;

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{BUDGET_LEASE_BYTES, MEMORY_BUDGET_DEFAULT};

pub use budget::{Budget, Lease};

/// Capacities of pooled buffers in bytes. A larger request gets a buffer of its own, which is freed on return. The
/// large classes are closer together: they hold the queues of slow peers, where rounding up wastes the most memory.
const CLASS_BYTES: [usize; 8] = [256, 1 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10];
/// Free bytes kept per class; beyond that a returned buffer is freed.
const FREE_BYTES_MAX: usize = 1 << 20;
/// Minimum number of entries in [`Pool::pending_releases`] before the list is scanned.
const PENDING_SCAN_MIN: usize = 64;

/// Bytes that the allocator (mimalloc) uses for a block of `bytes`. It rounds up to one of four sizes between two
/// powers of two, and rounds large blocks up to pages of 64 KiB. The budget is charged with the rounded size.
pub const fn allocated_bytes(bytes: usize) -> usize {
    const WORD: usize = size_of::<u64>();
    const PAGE_BYTES: usize = 64 << 10;
    if bytes <= 8 * WORD {
        return if bytes <= WORD { WORD } else { bytes.next_multiple_of(2 * WORD) };
    }
    if bytes > 2 * PAGE_BYTES {
        return bytes.next_multiple_of(PAGE_BYTES);
    }
    let last = bytes.div_ceil(WORD) - 1;
    let shift = last.ilog2() - 2;
    (((last >> shift) + 1) << shift) * WORD
}

/// A byte buffer with optional headroom, which has one owner at a time.
///
/// [`as_slice`](Buffer::as_slice) returns its bytes; [`skip`](Buffer::skip) drops bytes from the front after a
/// partial send.
#[derive(Debug)]
pub struct Buffer(Box<Inner>);

#[derive(Debug)]
struct Inner {
    data: Vec<u8>,
    start: usize,
    /// Bytes that the pool charged for this buffer.
    accounted_bytes: usize,
}

impl Buffer {
    /// The remaining bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.0.data[self.0.start..]
    }

    /// The remaining bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0.data[self.0.start..]
    }

    /// Number of remaining bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.data.len() - self.0.start
    }

    /// Whether no bytes remain.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that can be appended without growing.
    #[inline]
    pub fn room(&self) -> usize {
        self.0.data.capacity() - self.0.data.len()
    }

    /// Appends `bytes`, at most [`room`](Buffer::room).
    ///
    /// # Panics
    /// When they do not fit: the pool could not charge the growth to the budget.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "append past a pooled buffer's capacity");
        self.0.data.extend_from_slice(bytes);
    }

    /// Bytes that the buffer uses of the budget of the node.
    pub fn accounted_bytes(&self) -> usize {
        self.0.accounted_bytes
    }

    /// The underlying vector, for writers that append in place. They must append at most `room()` bytes.
    pub fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.0.data
    }

    /// Reserves `bytes` of headroom for [`prepend`](Buffer::prepend). The buffer must be empty.
    pub fn reserve_front(&mut self, bytes: usize) {
        debug_assert!(self.is_empty());
        self.0.data.clear();
        self.0.data.resize(bytes, 0);
        self.0.start = bytes;
    }

    /// Writes `bytes` before the first byte, into the headroom of [`reserve_front`](Buffer::reserve_front).
    ///
    /// # Panics
    /// When the headroom is too small.
    pub fn prepend(&mut self, bytes: &[u8]) {
        let start = self.0.start.checked_sub(bytes.len()).expect("the headroom was reserved");
        self.0.data[start..start + bytes.len()].copy_from_slice(bytes);
        self.0.start = start;
    }

    /// Drops `bytes` from the front.
    pub fn skip(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.len());
        self.0.start += bytes;
    }
}

/// The pooled buffers of a shard. Reuse is last in, first out: the latest returned buffer is still in the CPU cache.
#[derive(Debug)]
pub struct Pool {
    free: [Vec<Buffer>; CLASS_BYTES.len()],
    /// The minimum number of free buffers per class since the last [`trim`](Pool::trim).
    idle: [usize; CLASS_BYTES.len()],
    /// Covers buffers, in use or free, and the bytes of [`Pool::charge`].
    lease: Lease,
    peak_bytes: u64,
    /// Of the used bytes, those of [`Pool::charge_optional`].
    optional_bytes: u64,
    /// Allocations now belong to a handshake.
    handshake: bool,
    /// The node was short of memory at an allocation.
    pressed: bool,
    /// Number of the latest reclaim request that this shard answered.
    acknowledged: u64,
    /// Released bytes that another owner, such as an incomplete send, still references.
    pending_releases: Vec<PendingRelease>,
    /// Length of `pending_releases` at which it is scanned next.
    pending_scan_at: usize,
    /// Injected charge failures: the state of the generator, and the rate per 1,000.
    injected_failures: Option<(u64, u64)>,
}

#[derive(Debug)]
struct PendingRelease {
    bytes: Bytes,
    charged_bytes: usize,
}

impl Pool {
    /// A pool that leases from `budget`.
    pub fn new(budget: Arc<Budget>) -> Pool {
        let (block, kept) = (budget.block(BUDGET_LEASE_BYTES), budget.shard_reserve());
        let acknowledged = budget.reclaim_requests();
        Pool {
            free: Default::default(),
            idle: Default::default(),
            lease: Lease::keeping(budget, block, kept),
            peak_bytes: 0,
            optional_bytes: 0,
            handshake: false,
            pressed: false,
            acknowledged,
            pending_releases: Vec::new(),
            pending_scan_at: PENDING_SCAN_MIN,
            injected_failures: None,
        }
    }

    /// A pool with its own budget, for programs with one shard and for tests.
    pub fn standalone() -> Pool {
        Pool::new(Budget::new(MEMORY_BUDGET_DEFAULT))
    }

    /// The same pool with injected failures for simulations: `per_mille` of 1,000 charges, chosen by `seed`, fail at
    /// their first attempt.
    pub fn refusing(self, seed: u64, per_mille: u64) -> Pool {
        Pool { injected_failures: Some((seed, per_mille)), ..self }
    }

    /// An empty buffer with room for `bytes`, or `None` when the budget of the node is spent.
    #[inline]
    pub fn get(&mut self, bytes: usize) -> Option<Buffer> {
        // Most frames are short.
        if bytes <= CLASS_BYTES[0]
            && let Some(buffer) = self.take_free(0)
        {
            return Some(buffer);
        }
        self.get_any(bytes)
    }

    /// A free buffer of a class.
    #[inline]
    fn take_free(&mut self, class: usize) -> Option<Buffer> {
        let buffer = self.free[class].pop()?;
        self.idle[class] = self.idle[class].min(self.free[class].len());
        Some(buffer)
    }

    #[inline(never)]
    fn get_any(&mut self, bytes: usize) -> Option<Buffer> {
        match CLASS_BYTES.iter().position(|&class| bytes <= class) {
            Some(class) => self.take_free(class).or_else(|| self.allocate(CLASS_BYTES[class])),
            None => self.allocate(bytes),
        }
    }

    fn allocate(&mut self, capacity: usize) -> Option<Buffer> {
        let accounted_bytes = allocated_bytes(capacity) + allocated_bytes(size_of::<Inner>());
        if !self.charge(accounted_bytes) {
            return None;
        }
        Some(Buffer(Box::new(Inner { data: Vec::with_capacity(capacity), start: 0, accounted_bytes })))
    }

    /// Takes a buffer back.
    #[inline]
    pub fn put(&mut self, buffer: Buffer) {
        match buffer.0.data.capacity() == CLASS_BYTES[0] && self.may_keep(0) {
            true => self.keep_free(0, buffer),
            false => self.put_any(buffer),
        }
    }

    #[inline(never)]
    fn put_any(&mut self, buffer: Buffer) {
        let capacity = buffer.0.data.capacity();
        match CLASS_BYTES.iter().position(|&class| capacity == class) {
            Some(class) if self.may_keep(class) => self.keep_free(class, buffer),
            _ => self.discharge(buffer.0.accounted_bytes),
        }
    }

    /// Whether one more buffer of a class may be kept.
    /// Moves the bytes of `buffer` into one with room for `bytes` in all. False, with `buffer` as it was, if the budget is
    /// spent.
    pub fn grow(&mut self, buffer: &mut Buffer, bytes: usize) -> bool {
        let Some(mut larger) = self.get(bytes) else { return false };
        larger.append(buffer.as_slice());
        self.put(std::mem::replace(buffer, larger));
        true
    }

    #[inline]
    fn may_keep(&self, class: usize) -> bool {
        (self.free[class].len() + 1) * CLASS_BYTES[class] <= FREE_BYTES_MAX
    }

    #[inline]
    fn keep_free(&mut self, class: usize, mut buffer: Buffer) {
        buffer.0.data.clear();
        buffer.0.start = 0;
        self.free[class].push(buffer);
    }

    /// Frees the buffers that were unused since the last call. Returns whether the pool still keeps memory that a later
    /// call may free. Periodic calls release the buffers of a burst.
    pub fn trim(&mut self) -> bool {
        self.finish_releases();
        for class in 0..CLASS_BYTES.len() {
            for _ in 0..self.idle[class] {
                if let Some(buffer) = self.free[class].pop() {
                    self.lease.give(buffer.0.accounted_bytes as u64);
                }
            }
            if self.free[class].is_empty() {
                self.free[class].shrink_to_fit();
            }
            self.idle[class] = self.free[class].len();
        }
        !self.pending_releases.is_empty() || self.free.iter().any(|free| !free.is_empty())
    }

    /// Charges `bytes` that the caller keeps elsewhere, such as a segment of a log. False when the budget is spent.
    pub fn charge(&mut self, bytes: usize) -> bool {
        let floor = if self.handshake { 0 } else { self.lease.budget.handshake_reserve() };
        let leased = self.lease.leased();
        let taken = (!self.injects_failure() && self.lease.take_above(bytes as u64, floor))
            || self.charge_spent(bytes, floor);
        if self.lease.leased() != leased {
            self.pressed |= self.lease.budget.free() < self.lease.budget.reserve();
        }
        self.peak_bytes = self.peak_bytes.max(self.lease.used());
        taken
    }

    /// Retries when the budget of the node is spent: frees unused buffers first, then uses the reserve of the shard.
    #[cold]
    #[inline(never)]
    fn charge_spent(&mut self, bytes: usize, floor: u64) -> bool {
        self.free_all();
        self.pressed = true;
        self.lease.take_above(bytes as u64, floor) || self.lease.take_kept(bytes as u64)
    }

    fn injects_failure(&mut self) -> bool {
        let Some((state, per_mille)) = &mut self.injected_failures else { return false };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % 1_000 < *per_mille
    }

    /// Reverts a [`charge`](Pool::charge) of `bytes`.
    pub fn discharge(&mut self, bytes: usize) {
        self.lease.give(bytes as u64);
    }

    /// Charges `bytes` of a history. False when histories use their whole share, or the node is short of memory.
    pub fn charge_history(&mut self, bytes: usize) -> bool {
        !self.is_short(0) && self.charge_retained(bytes)
    }

    /// Charges `bytes` of retained messages, which are not evicted. They count towards the share of histories, but are
    /// granted as long as the node has free memory.
    pub fn charge_retained(&mut self, bytes: usize) -> bool {
        if !self.lease.budget.add_history(bytes as u64) {
            return false;
        }
        let taken = self.charge(bytes);
        if !taken {
            self.lease.budget.remove_history(bytes as u64);
        }
        taken
    }

    /// Reverts [`charge_history`](Pool::charge_history) and [`charge_retained`](Pool::charge_retained).
    pub fn discharge_history(&mut self, bytes: usize) {
        self.lease.budget.remove_history(bytes as u64);
        self.discharge(bytes);
    }

    /// Charges `bytes` of memory that only saves work or traffic. It is freed before anything else, so it is not in the share of
    /// histories. False when too little would stay free.
    pub fn charge_optional(&mut self, bytes: usize) -> bool {
        let budget = &self.lease.budget;
        let taken = self.free_bytes() >= budget.free_of_optional() + bytes as u64 && self.charge(bytes);
        if taken {
            self.lease.budget.add_optional(bytes as u64);
            self.optional_bytes += bytes as u64;
        }
        taken
    }

    /// Reverts a [`charge_optional`](Pool::charge_optional).
    pub fn discharge_optional(&mut self, bytes: usize) {
        self.lease.budget.remove_optional(bytes as u64);
        self.optional_bytes -= bytes as u64;
        self.discharge(bytes);
    }

    /// Optional bytes of this shard.
    pub fn optional_bytes(&self) -> u64 {
        self.optional_bytes
    }

    /// Whether the optional memory of all shards must be freed, because less than the reserve is free.
    pub fn is_optional_due(&self) -> bool {
        self.lease.budget.optional_units() > 0 && self.free_bytes() < self.lease.budget.reserve()
    }

    /// Reverts a [`charge`](Pool::charge) for the memory of `bytes`, as soon as no other owner references it. An
    /// incomplete send may still do so.
    pub fn discharge_shared(&mut self, bytes: Bytes, charged_bytes: usize) {
        if charged_bytes == 0 || bytes.is_unique() {
            return self.discharge(charged_bytes);
        }
        if self.pending_releases.len() >= self.pending_scan_at {
            self.finish_releases();
        }
        self.pending_releases.push(PendingRelease { bytes, charged_bytes });
    }

    /// Discharges the pending releases that have no other owner left.
    fn finish_releases(&mut self) {
        let Pool { pending_releases: pending, lease, .. } = self;
        pending.retain(|PendingRelease { bytes, charged_bytes }| {
            let is_released = bytes.is_unique();
            if is_released {
                lease.give(*charged_bytes as u64);
            }
            !is_released
        });
        if pending.capacity() > PENDING_SCAN_MIN && pending.len() < pending.capacity() / 4 {
            pending.shrink_to(2 * pending.len());
        }
        // Doubling the threshold limits the cost to about two scans per entry.
        self.pending_scan_at = PENDING_SCAN_MIN.max(2 * self.pending_releases.len());
    }

    /// Frees all unused buffers and returns the unused part of the lease to the node.
    pub fn free_all(&mut self) {
        self.finish_releases();
        for free in &mut self.free {
            for buffer in free.drain(..) {
                self.lease.give(buffer.0.accounted_bytes as u64);
            }
        }
        self.idle = Default::default();
        self.lease.give_spare();
    }

    // ---- when the node is short of memory ----

    /// Sets whether the next allocations belong to a handshake. A part of the budget is reserved for handshakes.
    #[inline]
    pub fn set_handshake(&mut self, handshake: bool) {
        self.handshake = handshake;
    }

    /// Whether the node was short of memory at an allocation, so that this shard must free memory now.
    #[inline]
    pub fn is_under_pressure(&self) -> bool {
        self.pressed
    }

    /// Sets or clears [`is_under_pressure`](Pool::is_under_pressure), after memory was freed or no more can be freed.
    pub fn set_under_pressure(&mut self, pressed: bool) {
        self.pressed = pressed;
    }

    /// Whether the node has less free memory than its reserve. Optional memory and `coming_bytes`, which are about to be
    /// released, count as free.
    pub fn is_short(&self, coming_bytes: u64) -> bool {
        let budget = &self.lease.budget;
        self.free_bytes() + budget.optional_units() + coming_bytes < budget.reserve()
    }

    /// Free bytes that this shard can use: those of the node and the unused part of its lease.
    pub fn free_bytes(&self) -> u64 {
        self.lease.budget.free() + self.lease.spare()
    }

    /// Whether the node has less free memory than half of its reserve.
    pub fn is_low(&self) -> bool {
        self.free_bytes() < self.lease.budget.reserve() / 2
    }

    /// Requests that all other shards release memory. The caller must wake them.
    pub fn request_reclaim(&mut self) {
        self.acknowledged = self.lease.budget.request_reclaim();
    }

    /// Whether another shard made such a request that this shard has not [acknowledged](Pool::acknowledge_reclaim).
    #[inline]
    pub fn is_reclaim_requested(&self) -> bool {
        self.lease.budget.reclaim_requests() != self.acknowledged
    }

    /// Marks the pending request as acknowledged: this shard releases memory.
    pub fn acknowledge_reclaim(&mut self) {
        self.acknowledged = self.lease.budget.reclaim_requests();
    }

    /// The node's budget.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.lease.budget
    }

    /// Bytes charged now: buffers in use, free buffers, and other charges.
    pub fn used_bytes(&self) -> u64 {
        self.lease.used()
    }

    /// The maximum of [`used_bytes`](Pool::used_bytes) so far.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MEMORY_BUDGET_MIN;

    #[test]
    fn a_returned_buffer_is_handed_out_again() {
        let mut pool = Pool::standalone();
        let mut buffer = pool.get(100).unwrap();
        buffer.append(b"left over");
        buffer.skip(3);
        let address = buffer.as_slice().as_ptr() as usize - 3;
        pool.put(buffer);
        let again = pool.get(100).unwrap();
        assert!(again.is_empty());
        assert_eq!(again.0.data.as_ptr() as usize, address);
    }

    #[test]
    fn a_header_is_written_into_the_headroom_of_a_payload() {
        let mut pool = Pool::standalone();
        let mut buffer = pool.get(64).unwrap();
        buffer.reserve_front(10);
        buffer.append(b"payload");
        buffer.prepend(b"hd");
        assert_eq!(buffer.as_slice(), b"hdpayload");
    }

    #[test]
    fn trim_frees_the_buffers_that_were_unused_since_the_last_call() {
        let mut pool = Pool::standalone();
        let burst: Vec<Buffer> = (0..10).map(|_| pool.get(100).unwrap()).collect();
        burst.into_iter().for_each(|buffer| pool.put(buffer));
        assert!(pool.trim(), "all ten were used since the last call");
        let steady: Vec<Buffer> = (0..3).map(|_| pool.get(100).unwrap()).collect();
        steady.into_iter().for_each(|buffer| pool.put(buffer));
        assert!(pool.trim());
        assert_eq!(pool.free[0].len(), 3);
        assert!(!pool.trim());
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn the_budget_refuses_and_recovers() {
        let budget = Budget::new(2 * BUDGET_LEASE_BYTES);
        let mut pool = Pool::new(budget.clone());
        let big = pool.get((BUDGET_LEASE_BYTES * 3 / 2) as usize).unwrap();
        assert!(pool.get((BUDGET_LEASE_BYTES * 3 / 2) as usize).is_none());
        pool.put(big);
        assert!(pool.get((BUDGET_LEASE_BYTES * 3 / 2) as usize).is_some());
        drop(pool);
        assert_eq!(budget.free(), 2 * BUDGET_LEASE_BYTES);
    }

    #[test]
    fn the_charged_size_is_the_size_class_of_the_allocator() {
        let sizes =
            [1, 8, 9, 17, 64, 65, 80, 81, 256, 257, 1_000, 1_024, 1_025, 17_000, 65_536, 65_537, 131_072];
        let taken =
            [8, 8, 16, 32, 64, 80, 80, 96, 256, 320, 1_024, 1_024, 1_280, 20_480, 65_536, 81_920, 131_072];
        assert_eq!(sizes.map(allocated_bytes), taken);
        assert_eq!([131_073, 200_000, 262_144].map(allocated_bytes), [196_608, 262_144, 262_144]);
        for bytes in 1..200_000 {
            let taken = allocated_bytes(bytes);
            assert!(taken >= bytes && allocated_bytes(taken) == taken, "{bytes}");
        }
    }

    #[test]
    fn shared_bytes_stay_charged_until_the_last_owner_drops_them() {
        let mut pool = Pool::standalone();
        assert!(pool.charge(2_000));
        let bytes = Bytes::from(vec![7; 2_000]);
        let sending = bytes.slice(100..200);
        pool.discharge_shared(bytes, 2_000);
        assert!(pool.trim(), "a later call can free more");
        assert_eq!(pool.used_bytes(), 2_000);
        drop(sending);
        assert!(!pool.trim());
        assert_eq!(pool.used_bytes(), 0);
        assert!(pool.charge(10));
        pool.discharge_shared(Bytes::from(vec![7; 10]), 10);
        assert_eq!(pool.used_bytes(), 0, "there is no other owner");
    }

    #[test]
    fn histories_have_a_share_and_handshakes_a_reserve() {
        const MIB: u64 = 1 << 20;
        let budget = Budget::new(64 * MIB);
        let mut pools = [Pool::new(budget.clone()), Pool::new(budget.clone())];
        let mut histories = 0_u64;
        for turn in 0.. {
            if !pools[turn % 2].charge_history(100_000) {
                break;
            }
            histories += 100_000;
        }
        assert!(
            (31 * MIB..=32 * MIB).contains(&histories),
            "histories use {histories} bytes, not half the budget"
        );
        let mut others = 0_u64;
        while pools[0].charge(10_000) {
            others += 10_000;
        }
        assert!(pools[0].is_under_pressure() && pools[0].is_short(0) && !pools[1].is_under_pressure());
        assert!(others > 26 * MIB, "{others} bytes, although only the handshake reserve is withheld");
        assert!(!pools[1].charge_history(100));
        pools[0].set_handshake(true);
        let mut handshakes = 0_u64;
        while pools[0].charge(10_000) {
            handshakes += 10_000;
        }
        assert!(handshakes > MIB, "{handshakes} bytes for handshakes");
        assert!(!pools[1].is_reclaim_requested());
        pools[0].request_reclaim();
        assert!(pools[1].is_reclaim_requested() && !pools[0].is_reclaim_requested());
        pools[1].acknowledge_reclaim();
        assert!(!pools[1].is_reclaim_requested());
    }

    /// Who has to free memory when others take theirs, on the same shard or another.
    #[test]
    fn each_share_of_the_budget_has_a_bound_and_optional_memory_gives_way_first() {
        const MIB: u64 = 1 << 20;
        const STEP: usize = 50_000;
        let fill = |charge: &mut dyn FnMut() -> bool| {
            (0..).take_while(|_| charge()).count() as u64 * STEP as u64 / MIB
        };
        for other in [0, 1] {
            let budget = Budget::new(64 * MIB);
            let mut pools = [Pool::new(budget.clone()), Pool::new(budget.clone())];
            // Three quarters are the most for optional memory, and it never causes a shortage.
            assert!((45..=48).contains(&fill(&mut || pools[0].charge_optional(STEP))));
            assert!(!pools[0].is_under_pressure() && !pools[0].is_optional_due());
            // Histories get their half, and only optional memory gives way.
            let mut freed = false;
            let histories = fill(&mut || {
                let taken = pools[other].charge_history(STEP);
                assert!(!pools[other].is_short(0), "no history has to be evicted");
                if pools[other].is_optional_due() {
                    while pools[0].optional_bytes() > 0 {
                        pools[0].discharge_optional(STEP);
                    }
                    freed = true;
                }
                taken
            });
            assert!(freed && (31..=32).contains(&histories), "{histories} MiB of histories");
            assert!((14..=16).contains(&fill(&mut || pools[0].charge_optional(STEP))), "of what is left");
            // Others get all but the reserve of handshakes. First optional memory gives way, then histories.
            let mut order = Vec::new();
            let others = fill(&mut || {
                let taken = pools[other].charge(STEP);
                if pools[other].is_optional_due() {
                    order.push("optional");
                    while pools[0].optional_bytes() > 0 {
                        pools[0].discharge_optional(STEP);
                    }
                } else if pools[other].is_short(0) && budget.history_units() > 0 {
                    order.push("histories");
                    while budget.history_units() > 0 {
                        pools[other].discharge_history(STEP);
                    }
                }
                taken
            });
            assert_eq!(order, ["optional", "histories"]);
            assert!((58..=62).contains(&others), "{others} MiB of buffers");
            assert!(!pools[other].charge_history(STEP) && !pools[0].charge_optional(STEP));
        }
    }

    #[test]
    fn retained_bytes_count_as_histories_and_are_granted_when_the_node_is_short() {
        let budget = Budget::new(MEMORY_BUDGET_MIN);
        let mut pool = Pool::new(budget.clone());
        while pool.charge_retained(10_000) {}
        assert!((7 << 20..=8 << 20).contains(&pool.used_bytes()), "{}", pool.used_bytes());
        assert!(!pool.charge_history(10_000));
        pool.discharge_history(100_000);
        while !pool.is_short(0) {
            assert!(pool.charge(10_000));
        }
        assert!(!pool.charge_history(10_000) && pool.charge_retained(10_000));
    }

    #[test]
    fn the_reserve_is_free_while_no_connection_exceeds_its_share() {
        let budget = Budget::new(MEMORY_BUDGET_MIN);
        let mut pool = Pool::new(budget.clone());
        (0..100).for_each(|_| pool.budget().add_holder());
        for _ in 0..100 {
            assert!(pool.charge(pool.budget().share() as usize));
        }
        assert!(!pool.is_short(pool.lease.leased() - pool.used_bytes()));
        assert!(pool.charge(100_000) && pool.is_short(0));
    }

    #[test]
    fn a_shard_keeps_a_reserve_for_urgent_allocations() {
        let budget = Budget::new(MEMORY_BUDGET_MIN);
        let (mut greedy, mut other) = (Pool::new(budget.clone()), Pool::new(budget.clone()));
        assert!(other.charge(1));
        while greedy.charge(1_000) {}
        assert!(other.charge(100_000));
        let before = other.used_bytes();
        assert!(other.charge(100_000), "the reserve of the shard covers it");
        assert!(other.is_under_pressure());
        assert_eq!(other.used_bytes() - before, 100_000);
    }
}
