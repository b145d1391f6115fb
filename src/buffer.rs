//! Pooled write buffers by size class, their accounting, and leases from the node's byte budget.
//!
//! A shard owns one [`Pool`]. Buffers are handed out by value, boxed as a whole, and come back the same way,
//! so that the steady state allocates nothing. Every byte that a pool holds, in use or free, is leased from
//! the node's [`Budget`]; when the budget is spent, [`Pool::get`] says no and the caller decides who pays.
//! This module does not know what a WebSocket is.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{BUDGET_LEASE_BYTES, MEMORY_BUDGET_DEFAULT};

/// Capacities of pooled buffers. Larger requests get a buffer of their own, freed on return. The large ones lie
/// closer together: they hold what peers that do not read are owed, and what is rounded up is owed to nobody.
const CLASS_BYTES: [usize; 7] = [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10];
/// Free bytes kept per class; beyond that a returned buffer is freed.
const FREE_BYTES_MAX: usize = 1 << 20;

/// Units (bytes of buffers and logs, or connections) that the whole node may spend. Shards lease from it in
/// blocks, see [`Lease`].
#[derive(Debug)]
pub struct Budget {
    free: AtomicU64,
}

impl Budget {
    /// A budget of `units`.
    pub fn new(units: u64) -> Arc<Budget> {
        Arc::new(Budget { free: AtomicU64::new(units) })
    }

    /// Units not leased to anyone.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Takes up to `most` units and at least `least`, or none.
    fn take(&self, least: u64, most: u64) -> Option<u64> {
        let before = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                (free >= least).then(|| free - free.min(most))
            })
            .ok()?;
        Some(before.min(most))
    }

    fn give(&self, units: u64) {
        self.free.fetch_add(units, Ordering::Relaxed);
    }
}

/// One shard's part of a [`Budget`]: taken in blocks, so that the shared counter is rarely touched, and given
/// back when two blocks are spare.
#[derive(Debug)]
pub struct Lease {
    budget: Arc<Budget>,
    block: u64,
    leased: u64,
    used: u64,
}

impl Lease {
    /// An empty lease that grows by `block` units at a time.
    pub fn new(budget: Arc<Budget>, block: u64) -> Lease {
        Lease { budget, block, leased: 0, used: 0 }
    }

    /// Uses `units` more. False, and nothing used, when the node's budget is spent.
    pub fn take(&mut self, units: u64) -> bool {
        let used = self.used + units;
        if used > self.leased {
            let short = used - self.leased;
            match self.budget.take(short, short.next_multiple_of(self.block)) {
                Some(taken) => self.leased += taken,
                None => return false,
            }
        }
        self.used = used;
        true
    }

    /// Stops using `units`.
    pub fn give(&mut self, units: u64) {
        self.used -= units;
        // One block is kept as slack, so that a unit at the border does not go to and fro for ever.
        let spare = self.leased - self.used;
        if spare >= 2 * self.block {
            let returned = (spare / self.block - 1) * self.block;
            self.leased -= returned;
            self.budget.give(returned);
        }
    }

    /// Units in use.
    pub fn used(&self) -> u64 {
        self.used
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.give(self.leased);
    }
}

/// A growable run of bytes with room in front, owned by one holder at a time.
///
/// Its bytes are `as_slice()`; [`skip`](Buffer::skip) drops bytes from the front, as a partial send does.
#[derive(Debug)]
pub struct Buffer(Box<Inner>);

#[derive(Debug)]
struct Inner {
    data: Vec<u8>,
    start: usize,
    /// What the pool accounted for this buffer.
    accounted_bytes: usize,
}

impl Buffer {
    /// The bytes that are still in the buffer.
    pub fn as_slice(&self) -> &[u8] {
        &self.0.data[self.0.start..]
    }

    /// The same, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0.data[self.0.start..]
    }

    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        self.0.data.len() - self.0.start
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that fit behind the present ones without growing.
    pub fn room(&self) -> usize {
        self.0.data.capacity() - self.0.data.len()
    }

    /// Appends within [`room`](Buffer::room).
    ///
    /// # Panics
    /// When they do not fit: the pool could not account for the growth.
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "append past a pooled buffer's capacity");
        self.0.data.extend_from_slice(bytes);
    }

    /// The vector behind the buffer, for writers that append in place. They must stay within `room()`.
    pub fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.0.data
    }

    /// Leaves `bytes` of room in front of what is appended next. The buffer must be empty.
    pub fn reserve_front(&mut self, bytes: usize) {
        debug_assert!(self.is_empty());
        self.0.data.clear();
        self.0.data.resize(bytes, 0);
        self.0.start = bytes;
    }

    /// Puts `bytes` in front, into room left by [`reserve_front`](Buffer::reserve_front).
    ///
    /// # Panics
    /// When the room in front is too small.
    pub fn prepend(&mut self, bytes: &[u8]) {
        let start = self.0.start.checked_sub(bytes.len()).expect("room in front was reserved");
        self.0.data[start..start + bytes.len()].copy_from_slice(bytes);
        self.0.start = start;
    }

    /// Drops `bytes` from the front.
    pub fn skip(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.len());
        self.0.start += bytes;
    }
}

/// A shard's pooled buffers. Last in, first out: the buffer handed out is the one still in cache.
#[derive(Debug)]
pub struct Pool {
    free: [Vec<Buffer>; CLASS_BYTES.len()],
    /// The fewest that each class had free since the last [`trim`](Pool::trim).
    idle: [usize; CLASS_BYTES.len()],
    /// Covers buffers, in use or free, and what [`Pool::charge`] accounts.
    lease: Lease,
    peak_bytes: u64,
}

impl Pool {
    /// A pool that leases from `budget`.
    pub fn new(budget: Arc<Budget>) -> Pool {
        Pool {
            free: Default::default(),
            idle: Default::default(),
            lease: Lease::new(budget, BUDGET_LEASE_BYTES),
            peak_bytes: 0,
        }
    }

    /// A pool with a budget of its own, for programs with one shard and for tests.
    pub fn standalone() -> Pool {
        Pool::new(Budget::new(MEMORY_BUDGET_DEFAULT))
    }

    /// An empty buffer with room for `bytes`, or `None` when the node's budget is spent.
    pub fn get(&mut self, bytes: usize) -> Option<Buffer> {
        match CLASS_BYTES.iter().position(|&class| bytes <= class) {
            Some(class) => {
                if let Some(buffer) = self.free[class].pop() {
                    self.idle[class] = self.idle[class].min(self.free[class].len());
                    return Some(buffer);
                }
                self.make(CLASS_BYTES[class])
            }
            None => self.make(bytes),
        }
    }

    fn make(&mut self, capacity: usize) -> Option<Buffer> {
        let accounted_bytes = capacity + size_of::<Inner>();
        if !self.charge(accounted_bytes) {
            return None;
        }
        Some(Buffer(Box::new(Inner { data: Vec::with_capacity(capacity), start: 0, accounted_bytes })))
    }

    /// Takes a buffer back.
    pub fn put(&mut self, mut buffer: Buffer) {
        let capacity = buffer.0.data.capacity();
        if let Some(class) = CLASS_BYTES.iter().position(|&class| capacity == class)
            && (self.free[class].len() + 1) * capacity <= FREE_BYTES_MAX
        {
            buffer.0.data.clear();
            buffer.0.start = 0;
            self.free[class].push(buffer);
            return;
        }
        self.discharge(buffer.0.accounted_bytes);
    }

    /// Frees the buffers that nobody needed since the last call. Returns whether some are still kept, so that
    /// another call may find more. Called once in a while: what a burst needed is not kept for ever.
    pub fn trim(&mut self) -> bool {
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
        self.free.iter().any(|free| !free.is_empty())
    }

    /// Accounts for `bytes` that the caller keeps elsewhere (a log's segment). False when the budget is
    /// spent.
    pub fn charge(&mut self, bytes: usize) -> bool {
        let taken = self.lease.take(bytes as u64);
        self.peak_bytes = self.peak_bytes.max(self.lease.used());
        taken
    }

    /// Takes back what [`charge`](Pool::charge) accounted.
    pub fn discharge(&mut self, bytes: usize) {
        self.lease.give(bytes as u64);
    }

    /// Bytes accounted now: buffers in use, buffers kept free, and charges.
    pub fn used_bytes(&self) -> u64 {
        self.lease.used()
    }

    /// The most that [`used_bytes`](Pool::used_bytes) has been.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_header_fits_in_front_of_a_payload() {
        let mut pool = Pool::standalone();
        let mut buffer = pool.get(64).unwrap();
        buffer.reserve_front(10);
        buffer.append(b"payload");
        buffer.prepend(b"hd");
        assert_eq!(buffer.as_slice(), b"hdpayload");
    }

    #[test]
    fn buffers_that_nobody_needs_any_more_are_freed_and_those_in_use_are_kept() {
        let mut pool = Pool::standalone();
        let burst: Vec<Buffer> = (0..10).map(|_| pool.get(100).unwrap()).collect();
        burst.into_iter().for_each(|buffer| pool.put(buffer));
        assert!(pool.trim(), "all ten were needed since the last call");
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
}
