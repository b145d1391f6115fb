//! Receive memory as the kernel sees it: a ring of provided buffers.
//!
//! Two kinds. An *incremental* ring has few large buffers that the kernel fills from front to back, so that
//! small receives lie side by side in hot memory; a buffer comes back when it is full. A *classic* ring
//! has many small buffers, one for each receive.
//!
//! ```text
//! buffer 0 │ A: 22 │ B: 22 │ A: 22 │ free …          incremental: the kernel's head moves on
//! buffer 0 │ A: 22 ─────── │ buffer 1 │ B: 22 ───    classic: one receive, one buffer
//! ```
//!
//! A buffer that the kernel is done with is *finished*; it is given back only when nothing that was sent from
//! it can still be under way.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::{self, BufRingEntry};

use crate::driver::Span;
use crate::driver::regions::Regions;

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;
const PAGE_BYTES: usize = 4096;
/// Size of a buffer of a classic ring.
const CLASSIC_BUFFER_BYTES: usize = 4096;
/// Memory of a classic ring where nothing else is asked for: more buffers than connections that are active
/// at once, since running out costs a fifth.
const CLASSIC_BYTES: usize = 2048 * CLASSIC_BUFFER_BYTES;
/// Memory of an incremental ring where nothing else is asked for. Measured: half and double are no better. Bytes that
/// arrive in a tick stay until the next trip to the kernel is over, so it is several ticks' worth.
const INCREMENTAL_BYTES: usize = 4 * 512 * 1024;
/// Buffers of an incremental ring: one being filled, and others meanwhile being sent from. Not more, since the
/// message at a buffer's end comes in two parts: one in 32 of 16 KiB.
const INCREMENTAL_BUFFERS: usize = 4;

/// The table of entries that user space and the kernel share, registered with a ring.
#[derive(Debug)]
pub(super) struct BufferRing {
    /// Page-aligned, as the kernel asks.
    table: Regions,
    entries: u16,
    tail: u16,
}

impl BufferRing {
    /// Registers an empty table of `entries` (a power of two) with `ring`.
    ///
    /// # Errors
    /// `EINVAL` where the kernel knows no incremental buffers and they were asked for.
    ///
    /// # Safety
    /// The table must stay until every operation of the ring is over.
    pub(super) unsafe fn register(ring: &IoUring, entries: u16, incremental: bool) -> io::Result<BufferRing> {
        let bytes = (usize::from(entries) * size_of::<BufRingEntry>()).next_multiple_of(PAGE_BYTES);
        let table = Regions::new(bytes)?;
        let flags = if incremental { types::IOU_PBUF_RING_INC as u16 } else { 0 };
        let address = table.address(Span { offset: 0, bytes: bytes as u32 }) as u64;
        // SAFETY: the table is mapped, page-aligned and long enough. The caller keeps it until every operation of the
        // ring is over.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, entries, GROUP, flags)? };
        Ok(BufferRing { table, entries, tail: 0 })
    }

    /// Adds buffer `id`, which is `span` of `memory`. The kernel sees it after [`publish`](Self::publish).
    ///
    /// # Safety
    /// `memory` must stay until every operation of the ring is over, and the kernel must have no other buffer that
    /// overlaps `span`.
    pub(super) unsafe fn provide(&mut self, id: u16, memory: &Regions, span: Span) {
        let entry = self.entry(self.tail & (self.entries - 1));
        // SAFETY: `position` is within the table, whose memory is zeroed plain integers; the kernel reads an
        // entry only once the tail has passed it, and this one is not provided now.
        let entry = unsafe { &mut *entry };
        entry.set_addr(memory.address(span) as u64);
        entry.set_len(span.bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all entries written so far.
    pub(super) fn publish(&mut self) {
        let first = self.entry(0);
        // SAFETY: the first entry is initialised (zeroed memory at least), and its reserved field is where
        // the kernel expects the tail; it is aligned as a u16 and only accessed atomically by both sides.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(first).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn entry(&self, position: u16) -> *mut BufRingEntry {
        let bytes = size_of::<BufRingEntry>() as u32;
        self.table.address(Span { offset: u32::from(position) * bytes, bytes }).cast()
    }
}

/// The receive memory of a driver, and its parts that the kernel has.
#[derive(Debug)]
pub(super) struct Receiver {
    buffers: BufferRing,
    memory: Regions,
    buffer_bytes: u32,
    incremental: bool,
    /// For each buffer the offset of the next byte to be received into, kept as the kernel does.
    heads: Box<[u32]>,
    /// Buffers that the kernel is done with, oldest first.
    finished: Vec<u16>,
}

impl Receiver {
    /// Maps the memory and hands it to the kernel. `bytes` of 0 takes the measured choice.
    ///
    /// # Errors
    /// When memory is refused.
    ///
    /// # Safety
    /// The receiver must stay until every operation of the ring is over.
    pub(super) unsafe fn new(ring: &IoUring, bytes: usize, incremental: bool) -> io::Result<Receiver> {
        let (bytes, buffer_bytes) = match (incremental, bytes) {
            (true, 0) => (INCREMENTAL_BYTES, INCREMENTAL_BYTES / INCREMENTAL_BUFFERS),
            (true, bytes) => {
                let buffer_bytes = (bytes / INCREMENTAL_BUFFERS).next_multiple_of(PAGE_BYTES).max(PAGE_BYTES);
                (buffer_bytes * INCREMENTAL_BUFFERS, buffer_bytes)
            }
            (false, 0) => (CLASSIC_BYTES, CLASSIC_BUFFER_BYTES),
            (false, bytes) => {
                (bytes.next_multiple_of(CLASSIC_BUFFER_BYTES).max(CLASSIC_BUFFER_BYTES), CLASSIC_BUFFER_BYTES)
            }
        };
        let count = u16::try_from(bytes / buffer_bytes).ok().filter(|&count| count <= 1 << 15);
        let count = count.ok_or(io::ErrorKind::InvalidInput)?;
        let mut receiver = Receiver {
            // SAFETY: the receiver owns the table, and the caller keeps the receiver as long as the ring's operations.
            buffers: unsafe { BufferRing::register(ring, count.next_power_of_two(), incremental)? },
            memory: Regions::new(bytes)?,
            buffer_bytes: buffer_bytes as u32,
            incremental,
            heads: vec![0; usize::from(count)].into_boxed_slice(),
            finished: (0..count).collect(),
        };
        receiver.give_back(usize::from(count));
        Ok(receiver)
    }

    /// Accounts for a completion with `bytes` in buffer `id`, which the kernel continues to fill. `None`
    /// for a buffer that the kernel cannot have named.
    #[inline]
    pub(super) fn take_more(&mut self, id: u16, bytes: u32) -> Option<Span> {
        let head = self.heads.get_mut(usize::from(id))?;
        let span = Span { offset: *head, bytes };
        *head += bytes;
        Some(span)
    }

    /// Accounts for a completion that brought `bytes` into buffer `id`. `more` tells that the kernel continues to fill
    /// it. `None` for a buffer that the kernel cannot have named.
    pub(super) fn take(&mut self, id: u16, bytes: u32, more: bool) -> Option<Span> {
        let span = self.take_more(id, bytes)?;
        // A classic buffer takes one receive. Kernels before 6.17 report the end of a stream, which takes
        // nothing, as if it had finished an incremental buffer.
        if !more && (bytes > 0 || !self.incremental) {
            self.finished.push(id);
        }
        Some(span)
    }

    /// Buffers that the kernel is done with.
    pub(super) fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Returns the `count` buffers that were finished first to the kernel.
    pub(super) fn give_back(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        for &id in &self.finished[..count] {
            let span = Span { offset: self.start(id), bytes: self.buffer_bytes };
            // SAFETY: the memory lives as long as the table. The kernel is done with this buffer, and the others lie
            // beside it.
            unsafe { self.buffers.provide(id, &self.memory, span) };
            self.heads[usize::from(id)] = span.offset;
        }
        self.finished.drain(..count);
        self.buffers.publish();
    }

    /// Bytes that the kernel may still fill.
    pub(super) fn available_bytes(&self) -> usize {
        let left = |id: u16| (self.start(id) + self.buffer_bytes - self.heads[usize::from(id)]) as usize;
        let all: usize = (0..self.heads.len() as u16).map(left).sum();
        all - self.finished.iter().map(|&id| left(id)).sum::<usize>()
    }

    /// Offset of a buffer's first byte.
    fn start(&self, id: u16) -> u32 {
        u32::from(id) * self.buffer_bytes
    }

    /// The bytes of a span that [`take`](Self::take) returned, to read.
    pub(super) fn slice(&self, span: Span) -> &[u8] {
        self.memory.slice(span)
    }

    /// The whole memory.
    pub(super) fn memory(&self) -> &Regions {
        &self.memory
    }

    /// The same, to read and write.
    #[inline]
    pub(super) fn slice_mut(&mut self, span: Span) -> &mut [u8] {
        self.memory.slice_mut(span)
    }

    /// Address of a span, for a send.
    ///
    /// # Panics
    /// When the span leaves the memory: a bug of the caller's.
    #[inline]
    pub(super) fn address(&self, span: Span) -> *const u8 {
        self.memory.address(span)
    }
}
