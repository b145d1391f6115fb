//! The buffers of busy connections: taken from a pool or from the thread, and given back while a connection is idle.
//!
//! Never: bytes of one connection that another one can read.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};

use super::incoming::may_share;
use crate::limits::{BUFFERS_KEPT_MAX, SPARE_BUFFERS_BYTES_MAX, SPARE_BUFFERS_MAX, SPARE_BUFFERS_TRIM_AFTER};
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{Codecs, Compression, ConnectionConfig};
use echoring_proto::limits::{COMPRESSION_LEASE_BYTES, MEMORY_BUDGET_DEFAULT};

/// Buffers that connections share: an idle connection owns none. A connection takes a set of buffers when bytes arrive
/// or are to be sent, and returns it once none of it is in use. Connections with context takeover keep their set.
///
/// Without a pool, the connections of a thread share up to 16 sets that the thread keeps. Use a pool for connections
/// that move between threads, or to know the number of spare sets.
///
/// Clones share the pool.
///
/// ```
/// use echoring::{BufferPool, Upgrader};
///
/// let buffers = BufferPool::new();
/// let upgrader = Upgrader::new().buffers(buffers.clone());
/// assert_eq!(buffers.spare(), 0);
/// # drop(upgrader);
/// ```
#[derive(Clone)]
pub struct BufferPool {
    kept: Arc<Mutex<Spare>>,
}

impl BufferPool {
    /// An empty pool: a buffer set is created when one is needed and none is spare.
    #[expect(clippy::new_without_default, reason = "a pool is shared on purpose, not by default")]
    pub fn new() -> BufferPool {
        BufferPool { kept: Arc::default() }
    }

    /// The number of buffer sets that no connection is using.
    pub fn spare(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self, compression: Option<&Compression>) -> Option<Box<BufferSet>> {
        take_spare(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner), compression)
    }

    fn put(&self, buffers: Box<BufferSet>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT_MAX {
            kept.push(buffers);
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("spare", &self.spare()).finish_non_exhaustive()
    }
}

/// All buffers of a busy connection.
#[derive(Debug)]
pub(super) struct BufferSet {
    pub(super) pool: Pool,
    pub(super) codecs: Codecs,
    /// Received bytes that were not parsed, with room behind them: empty in a spare set. Its memory may be shared with
    /// messages that were received in it.
    pub(super) input: BytesMut,
    /// Size of the memory that `input` is a part of.
    pub(super) region_bytes: usize,
    /// Memory of its own, and its size, while `input` is the room behind an unfinished message.
    parked: (BytesMut, usize),
    /// The longest read since the last trim.
    longest_read: usize,
    /// How often the set was released since the last trim.
    releases: u32,
}

/// Spare buffer sets. Boxed, so that only pointers move.
type Spare = Vec<Box<BufferSet>>;

thread_local! {
    /// The buffer set that this thread released last: connections that have work in succession all use it.
    static LAST: Cell<Option<Box<BufferSet>>> = const { Cell::new(None) };
    /// The other spare buffer sets of this thread.
    static SPARE: RefCell<Spare> = const { RefCell::new(Vec::new()) };
}

impl BufferSet {
    fn new(compression: Option<Compression>) -> BufferSet {
        let lease = Lease::new(Budget::new(MEMORY_BUDGET_DEFAULT), COMPRESSION_LEASE_BYTES);
        BufferSet {
            pool: Pool::standalone(),
            codecs: Codecs::new(compression, lease),
            input: BytesMut::new(),
            region_bytes: 0,
            parked: (BytesMut::new(), 0),
            longest_read: 0,
            releases: 0,
        }
    }

    /// Keeps bytes that were received before the connection was made.
    pub(super) fn set_input(&mut self, early: &[u8]) {
        if !early.is_empty() {
            (self.input, self.region_bytes) = (BytesMut::from(early), early.len());
        }
    }

    /// Puts the empty input aside, because the next bytes are received right behind an unfinished message. Returns an empty
    /// input.
    pub(super) fn park_input(&mut self) -> BytesMut {
        self.parked = (std::mem::take(&mut self.input), self.region_bytes);
        BytesMut::new()
    }

    /// Takes the empty input, which lies behind an unfinished message, and reuses the input that was put aside.
    pub(super) fn swap_input(&mut self) -> BytesMut {
        let (parked, region_bytes) = std::mem::take(&mut self.parked);
        self.region_bytes = region_bytes;
        std::mem::replace(&mut self.input, parked)
    }

    /// Takes the message that lies at `at` out of the input, which is read up to `read`.
    #[inline(always)]
    pub(super) fn take_whole(&mut self, at: Range<usize>, read: usize) -> Bytes {
        if may_share(at.len(), self.region_bytes) {
            return self.split_off(at, read).freeze();
        }
        let bytes = Bytes::copy_from_slice(&self.input[at]);
        self.consume(read);
        bytes
    }

    /// Takes the bytes at `at` out of the input, which is read up to `read`, without a copy.
    #[inline(never)]
    pub(super) fn split_off(&mut self, at: Range<usize>, read: usize) -> BytesMut {
        let mut piece = self.input.split_to(read);
        piece.truncate(at.end);
        piece.advance(at.start);
        piece
    }

    /// Drops input from the front.
    #[inline]
    pub(super) fn consume(&mut self, bytes: usize) {
        // The room of what was read entirely is received into again.
        match bytes == self.input.len() {
            true => self.input.clear(),
            false => self.input.advance(bytes),
        }
    }

    /// A read of at most `bytes` begins. Returns whether there is room for it behind the input.
    #[inline]
    pub(super) fn has_room(&mut self, bytes: usize) -> bool {
        self.longest_read = self.longest_read.max(bytes);
        self.input.capacity() >= bytes
    }

    /// Makes room for a read of at most `bytes`, in memory that no message shares. All input was parsed.
    pub(super) fn make_room(&mut self, bytes: usize) {
        self.input.clear();
        if self.has_room(bytes) || self.input.try_reclaim(bytes) {
            return;
        }
        self.input = BytesMut::with_capacity(bytes);
        self.region_bytes = self.input.capacity();
    }

    /// Every so often, returns memory that was not needed since the last trim. Not at each release: a connection that
    /// answers many long messages in a row would allocate its buffers anew for each.
    #[inline]
    fn trim(&mut self) {
        self.releases += 1;
        if self.releases >= SPARE_BUFFERS_TRIM_AFTER || self.pool.used_bytes() > SPARE_BUFFERS_BYTES_MAX {
            self.trim_now();
        }
    }

    #[inline(never)]
    fn trim_now(&mut self) {
        if self.pool.used_bytes() > SPARE_BUFFERS_BYTES_MAX {
            self.pool = Pool::standalone();
        }
        if self.releases < SPARE_BUFFERS_TRIM_AFTER {
            return;
        }
        self.pool.trim();
        if self.input.capacity() > self.longest_read {
            (self.input, self.region_bytes) = (BytesMut::new(), 0);
        }
        (self.longest_read, self.releases) = (0, 0);
    }

    #[inline]
    fn is_for(&self, compression: Option<&Compression>) -> bool {
        self.codecs.compression() == compression
    }

    /// A spare set of this thread.
    #[inline]
    fn spare(compression: Option<&Compression>) -> Option<Box<BufferSet>> {
        match LAST.try_with(Cell::take).ok()? {
            Some(last) if last.is_for(compression) => Some(last),
            other => BufferSet::older_spare(other, compression),
        }
    }

    /// A spare set of this thread that was not released last. `other` is spare, and does not fit.
    #[cold]
    fn older_spare(
        other: Option<Box<BufferSet>>,
        compression: Option<&Compression>,
    ) -> Option<Box<BufferSet>> {
        let exchange = |kept: &RefCell<Spare>| {
            let mut kept = kept.borrow_mut();
            let found = take_spare(&mut kept, compression);
            other.into_iter().for_each(|other| keep_spare(&mut kept, other));
            found
        };
        SPARE.try_with(exchange).ok().flatten()
    }

    /// Returns the set to the spare sets of this thread.
    #[inline]
    fn leave(self: Box<BufferSet>) {
        // A thread that is ending keeps nothing.
        if let Ok(Some(before)) = LAST.try_with(|last| last.replace(Some(self))) {
            let _ = SPARE.try_with(|kept| keep_spare(&mut kept.borrow_mut(), before));
        }
    }
}

/// The set with this compression that was released last, because it is most likely still in cache.
fn take_spare(kept: &mut Spare, compression: Option<&Compression>) -> Option<Box<BufferSet>> {
    let at = kept.iter().rposition(|buffers| buffers.is_for(compression))?;
    Some(kept.remove(at))
}

/// Keeps a set of this thread, unless there are enough beside the last one.
#[cold]
fn keep_spare(kept: &mut Spare, buffers: Box<BufferSet>) {
    if kept.len() + 1 < SPARE_BUFFERS_MAX {
        kept.push(buffers);
    }
}

/// The buffer set of a connection, while it has one.
#[derive(Debug)]
pub(super) struct BufferSlot {
    buffers: Option<Box<BufferSet>>,
    shared: Option<BufferPool>,
}

impl BufferSlot {
    pub(super) fn new(shared: Option<BufferPool>) -> BufferSlot {
        BufferSlot { buffers: None, shared }
    }

    #[inline]
    pub(super) fn open(&mut self, config: &ConnectionConfig) -> &mut BufferSet {
        match self.buffers {
            Some(ref mut buffers) => buffers,
            None => self.fill(config.compression.as_ref()),
        }
    }

    #[inline]
    fn fill(&mut self, compression: Option<&Compression>) -> &mut BufferSet {
        let spare = match &self.shared {
            Some(shared) => shared.take(compression),
            None => BufferSet::spare(compression),
        };
        let taken = spare.unwrap_or_else(|| Box::new(BufferSet::new(compression.copied())));
        self.buffers.insert(taken)
    }

    /// The current buffer set, if any.
    #[inline]
    pub(super) fn buffers(&mut self) -> Option<&mut BufferSet> {
        self.buffers.as_deref_mut()
    }

    /// Whether bytes were received and not parsed.
    #[inline]
    pub(super) fn has_input(&self) -> bool {
        self.buffers.as_ref().is_some_and(|buffers| !buffers.input.is_empty())
    }

    /// Returns the set, because none of it is in use.
    #[inline]
    pub(super) fn release(&mut self) {
        let Some(mut buffers) = self.buffers.take() else { return };
        // Another connection never sees what this peer has sent.
        buffers.input.clear();
        if buffers.parked.0.capacity() > 0 {
            // The message is complete, and what is left of its memory is received into.
            buffers.parked = Default::default();
        }
        buffers.trim();
        match &self.shared {
            Some(shared) => shared.put(buffers),
            None => buffers.leave(),
        }
    }
}
