//! Pooled write buffers by size class, their accounting, and leases from the node's byte budget.
//!
//! A shard owns one [`Pool`]. Buffers are handed out by value, boxed as a whole, and come back the same way,
//! so that the steady state allocates nothing. Every byte that a pool holds, in use or free, is leased from
//! the node's [`Budget`]; when the budget is spent, [`Pool::get`] says no and the caller decides who pays.
//! This module does not know what a WebSocket is.

#![forbid(unsafe_code)]

mod budget;

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{BUDGET_LEASE_BYTES, MEMORY_BUDGET_DEFAULT};

pub use budget::{Budget, Lease};

/// Capacities of pooled buffers. Larger requests get a buffer of their own, freed on return. The large ones lie
/// closer together: they hold what peers that do not read are owed, and what is rounded up is owed to nobody.
const CLASS_BYTES: [usize; 8] = [256, 1 << 10, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10];
/// Free bytes kept per class; beyond that a returned buffer is freed.
const FREE_BYTES_MAX: usize = 1 << 20;
/// Entries of a [`Pool`]'s list of what it lent above which it is looked at whether they came back.
const LENT_LOOK_MIN: usize = 64;

/// Bytes that the allocator takes for `bytes`: it rounds up to one of four sizes between two powers of two, and to
/// pages of 64 KiB where blocks have pages of their own (mimalloc). What is charged is what is taken.
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

    /// Bytes that the buffer takes of the node's budget.
    pub fn accounted_bytes(&self) -> usize {
        self.0.accounted_bytes
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
    /// What is taken now belongs to a handshake.
    handshake: bool,
    /// The node had become short of memory when something was taken.
    pressed: bool,
    /// The calls for memory that were answered.
    answered: u64,
    /// Bytes that nobody here needs any more, but that somebody, such as an unfinished send, still has.
    lent: Vec<Lent>,
    /// Entries of it at which it is looked through next.
    lent_look: usize,
    /// Has charges fail now and then: state of the generator, and how many of 1,000.
    refusals: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Lent {
    bytes: Bytes,
    charged_bytes: usize,
}

impl Pool {
    /// A pool that leases from `budget`.
    pub fn new(budget: Arc<Budget>) -> Pool {
        let (block, kept) = (budget.block(BUDGET_LEASE_BYTES), budget.shard_reserve());
        let answered = budget.calls();
        Pool {
            free: Default::default(),
            idle: Default::default(),
            lease: Lease::keeping(budget, block, kept),
            peak_bytes: 0,
            handshake: false,
            pressed: false,
            answered,
            lent: Vec::new(),
            lent_look: LENT_LOOK_MIN,
            refusals: None,
        }
    }

    /// A pool with a budget of its own, for programs with one shard and for tests.
    pub fn standalone() -> Pool {
        Pool::new(Budget::new(MEMORY_BUDGET_DEFAULT))
    }

    /// The same, of which `per_mille` of 1,000 charges find no memory at first, chosen by `seed`: for simulations.
    pub fn refusing(self, seed: u64, per_mille: u64) -> Pool {
        Pool { refusals: Some((seed, per_mille)), ..self }
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
        let accounted_bytes = allocated_bytes(capacity) + allocated_bytes(size_of::<Inner>());
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
        self.collect();
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
        !self.lent.is_empty() || self.free.iter().any(|free| !free.is_empty())
    }

    /// Accounts for `bytes` that the caller keeps elsewhere (a log's segment). False when the budget is
    /// spent.
    pub fn charge(&mut self, bytes: usize) -> bool {
        let floor = if self.handshake { 0 } else { self.lease.budget.handshake_reserve() };
        let leased = self.lease.leased();
        let taken = (!self.is_refused() && self.lease.take_above(bytes as u64, floor))
            || self.charge_spent(bytes, floor);
        if self.lease.leased() != leased {
            self.pressed |= self.lease.budget.free() < self.lease.budget.reserve();
        }
        self.peak_bytes = self.peak_bytes.max(self.lease.used());
        taken
    }

    /// The node has none left: what is kept free goes first, then the shard's own reserve.
    #[cold]
    #[inline(never)]
    fn charge_spent(&mut self, bytes: usize, floor: u64) -> bool {
        self.free_all();
        self.pressed = true;
        self.lease.take_above(bytes as u64, floor) || self.lease.take_kept(bytes as u64)
    }

    fn is_refused(&mut self) -> bool {
        let Some((state, per_mille)) = &mut self.refusals else { return false };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % 1_000 < *per_mille
    }

    /// Takes back what [`charge`](Pool::charge) accounted.
    pub fn discharge(&mut self, bytes: usize) {
        self.lease.give(bytes as u64);
    }

    /// Accounts for `bytes` of a history. False when histories have all that they may have, or the node is short.
    pub fn charge_history(&mut self, bytes: usize) -> bool {
        !self.is_short(0) && self.charge_retained(bytes)
    }

    /// The same for what a topic is not to lose for others' sake: counted with histories, but to be had as long as the
    /// node has anything free.
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

    /// Takes back what [`charge_history`](Pool::charge_history) and [`charge_retained`](Pool::charge_retained) accounted.
    pub fn discharge_history(&mut self, bytes: usize) {
        self.lease.budget.remove_history(bytes as u64);
        self.discharge(bytes);
    }

    /// Takes back what [`charge`](Pool::charge) accounted for the memory that `bytes` lie in, as soon as nobody else
    /// has any of it: an unfinished send may.
    pub fn discharge_shared(&mut self, bytes: Bytes, charged_bytes: usize) {
        if charged_bytes == 0 || bytes.is_unique() {
            return self.discharge(charged_bytes);
        }
        if self.lent.len() >= self.lent_look {
            self.collect();
        }
        self.lent.push(Lent { bytes, charged_bytes });
    }

    /// Stops accounting for what was lent and has come back.
    fn collect(&mut self) {
        let Pool { lent, lease, .. } = self;
        lent.retain(|Lent { bytes, charged_bytes }| {
            let is_back = bytes.is_unique();
            if is_back {
                lease.give(*charged_bytes as u64);
            }
            !is_back
        });
        if lent.capacity() > LENT_LOOK_MIN && lent.len() < lent.capacity() / 4 {
            lent.shrink_to(2 * lent.len());
        }
        // So that looking through it costs each entry about two looks.
        self.lent_look = LENT_LOOK_MIN.max(2 * self.lent.len());
    }

    /// Frees all buffers that are not in use, and gives the node what this shard has spare.
    pub fn free_all(&mut self) {
        self.collect();
        for free in &mut self.free {
            for buffer in free.drain(..) {
                self.lease.give(buffer.0.accounted_bytes as u64);
            }
        }
        self.idle = Default::default();
        self.lease.give_spare();
    }

    // ---- when the node is short of memory ----

    /// Whether what is taken from now on belongs to a handshake: for those a part of the budget is reserved.
    #[inline]
    pub fn set_handshake(&mut self, handshake: bool) {
        self.handshake = handshake;
    }

    /// Whether the node had become short of memory when something was taken: this shard is to make some, at once.
    #[inline]
    pub fn is_pressed(&self) -> bool {
        self.pressed
    }

    /// Memory was made, or there is none to be made.
    pub fn set_pressed(&mut self, pressed: bool) {
        self.pressed = pressed;
    }

    /// Whether the node has less free than its reserve, `coming_bytes` counted that are about to be given back.
    pub fn is_short(&self, coming_bytes: u64) -> bool {
        self.free_bytes() + coming_bytes < self.lease.budget.reserve()
    }

    /// Bytes that the node has free, as far as this shard can have them.
    pub fn free_bytes(&self) -> u64 {
        self.lease.budget.free() + self.lease.spare()
    }

    /// Whether the node has less free than half of its reserve.
    pub fn is_low(&self) -> bool {
        self.free_bytes() < self.lease.budget.reserve() / 2
    }

    /// Asks all other shards to give back what they can; they have to be woken.
    pub fn call(&mut self) {
        self.answered = self.lease.budget.call();
    }

    /// Whether another shard has asked for that and this one has not [answered](Pool::answer).
    #[inline]
    pub fn is_called(&self) -> bool {
        self.lease.budget.calls() != self.answered
    }

    /// This shard gives back what it can.
    pub fn answer(&mut self) {
        self.answered = self.lease.budget.calls();
    }

    /// A connection, of those among whom the budget is shared, has come.
    pub fn add_holder(&self) {
        self.lease.budget.add_holder();
    }

    /// It has gone.
    pub fn remove_holder(&self) {
        self.lease.budget.remove_holder();
    }

    /// What a connection may hold without being the first to give way when the node is short of memory.
    pub fn share_bytes(&self) -> u64 {
        self.lease.budget.share()
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
    #[test]
    fn what_is_charged_is_what_the_allocator_takes() {
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
    fn what_somebody_else_still_has_is_accounted_for_until_it_is_back() {
        let mut pool = Pool::standalone();
        assert!(pool.charge(2_000));
        let bytes = Bytes::from(vec![7; 2_000]);
        let sending = bytes.slice(100..200);
        pool.discharge_shared(bytes, 2_000);
        assert!(pool.trim(), "it is worth to look again");
        assert_eq!(pool.used_bytes(), 2_000);
        drop(sending);
        assert!(!pool.trim());
        assert_eq!(pool.used_bytes(), 0);
        assert!(pool.charge(10));
        pool.discharge_shared(Bytes::from(vec![7; 10]), 10);
        assert_eq!(pool.used_bytes(), 0, "nobody else has it");
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
        assert!((31 * MIB..=32 * MIB).contains(&histories), "{histories} of half the budget");
        let mut others = 0_u64;
        while pools[0].charge(10_000) {
            others += 10_000;
        }
        assert!(pools[0].is_pressed() && pools[0].is_short(0) && !pools[1].is_pressed());
        assert!(others > 26 * MIB, "all but what is kept for handshakes: {others}");
        assert!(!pools[1].charge_history(100));
        pools[0].set_handshake(true);
        let mut handshakes = 0_u64;
        while pools[0].charge(10_000) {
            handshakes += 10_000;
        }
        assert!(handshakes > MIB, "{handshakes} for handshakes");
        assert!(!pools[1].is_called());
        pools[0].call();
        assert!(pools[1].is_called() && !pools[0].is_called());
        pools[1].answer();
        assert!(!pools[1].is_called());
    }

    #[test]
    fn what_is_retained_shares_with_histories_and_may_be_had_when_the_node_is_short() {
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
    fn when_all_have_no_more_than_their_share_the_reserve_is_there() {
        let budget = Budget::new(MEMORY_BUDGET_MIN);
        let mut pool = Pool::new(budget.clone());
        (0..100).for_each(|_| pool.add_holder());
        for _ in 0..100 {
            assert!(pool.charge(pool.share_bytes() as usize));
        }
        assert!(!pool.is_short(pool.lease.leased() - pool.used_bytes()));
        assert!(pool.charge(100_000) && pool.is_short(0));
    }

    #[test]
    fn a_shard_has_something_for_what_cannot_wait() {
        let budget = Budget::new(MEMORY_BUDGET_MIN);
        let (mut greedy, mut other) = (Pool::new(budget.clone()), Pool::new(budget.clone()));
        assert!(other.charge(1));
        while greedy.charge(1_000) {}
        assert!(other.charge(100_000));
        let before = other.used_bytes();
        assert!(other.charge(100_000), "although the node has none left");
        assert!(other.is_pressed());
        assert_eq!(other.used_bytes() - before, 100_000);
    }
}
