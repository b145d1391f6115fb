//! What is to be sent: pieces staged for the next turn, and what short sends left over.
//!
//! Staged pieces live in one list for all connections, emptied every turn. Leftovers own their bytes: what
//! lay in the receive region has been copied, for the region is written anew each turn.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::slots::{NONE, Slot};
use crate::buffer::{Buffer, Pool};
use crate::driver::Source;
use crate::driver::regions::Regions;
use crate::limits::SEND_PIECES_MAX;

/// Pieces staged since the last turn, of all connections, each connection's linked in order.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    /// Taken when the send is over.
    source: Option<Source>,
    next: u32,
}

impl Staged {
    /// Puts `source` behind what is staged for `slot`. A span that begins where the last one ended is
    /// joined to it. Gives the source back when the connection has [`SEND_PIECES_MAX`] pieces.
    pub(super) fn push(&mut self, slot: &mut Slot, source: Source) -> Result<(), Source> {
        if slot.staged_count > 0
            && let Source::Received(new) = &source
            && let Some(Source::Received(last)) = &mut self.pieces[slot.staged_tail as usize].source
            && last.offset + last.bytes == new.offset
        {
            last.bytes += new.bytes;
            return Ok(());
        }
        if usize::from(slot.staged_count) == SEND_PIECES_MAX {
            return Err(source);
        }
        let index = self.pieces.len() as u32;
        self.pieces.push(Piece { source: Some(source), next: NONE });
        match slot.staged_count {
            0 => slot.staged_head = index,
            _ => self.pieces[slot.staged_tail as usize].next = index,
        }
        slot.staged_tail = index;
        slot.staged_count += 1;
        Ok(())
    }

    /// The only piece staged for `slot`, when there is just one: the usual case.
    pub(super) fn single<'a>(&'a self, slot: &Slot, regions: &'a Regions) -> Option<&'a [u8]> {
        if slot.staged_count != 1 {
            return None;
        }
        self.pieces[slot.staged_head as usize].source.as_ref().map(|source| bytes_of(source, regions))
    }

    /// Calls `send` with all pieces of `slot` in order.
    pub(super) fn with_pieces<R>(
        &self,
        slot: &Slot,
        regions: &Regions,
        send: impl FnOnce(&[IoSlice<'_>]) -> R,
    ) -> R {
        let mut slices = [IoSlice::new(&[]); SEND_PIECES_MAX];
        let mut count = 0;
        let mut index = slot.staged_head;
        while index != NONE {
            let piece = &self.pieces[index as usize];
            if let Some(source) = &piece.source {
                slices[count] = IoSlice::new(bytes_of(source, regions));
                count += 1;
            }
            index = piece.next;
        }
        send(&slices[..count])
    }

    /// Bytes staged for `slot`.
    pub(super) fn bytes(&self, slot: &Slot) -> usize {
        let mut bytes = 0;
        let mut index = slot.staged_head;
        while index != NONE {
            let piece = &self.pieces[index as usize];
            bytes += piece.source.as_ref().map_or(0, Source::len);
            index = piece.next;
        }
        bytes
    }

    /// Hands out the next piece of `slot`, unlinking it.
    pub(super) fn pop(&mut self, slot: &mut Slot) -> Option<Source> {
        if slot.staged_count == 0 {
            return None;
        }
        let piece = &mut self.pieces[slot.staged_head as usize];
        slot.staged_head = piece.next;
        slot.staged_count -= 1;
        if slot.staged_count == 0 {
            slot.staged_tail = NONE;
        }
        piece.source.take()
    }

    /// Drops what is staged for `slot`; pooled buffers go back.
    pub(super) fn discard(&mut self, slot: &mut Slot, pool: &mut Pool) {
        while let Some(source) = self.pop(slot) {
            source.give_back(pool);
        }
    }

    /// Forgets the list. Every piece must have been popped.
    pub(super) fn clear(&mut self) {
        debug_assert!(self.pieces.iter().all(|piece| piece.source.is_none()));
        self.pieces.clear();
    }
}

/// What short sends left: per blocked connection a queue of pieces that own their bytes.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    queues: Vec<VecDeque<Rest>>,
    free: Vec<u32>,
}

#[derive(Debug)]
enum Rest {
    Pooled(Buffer),
    Shared(Bytes),
}

/// The node's byte budget does not hold what a short send left.
#[derive(Debug)]
pub(super) struct BudgetSpent;

impl Leftovers {
    /// Keeps all that is staged for `slot` except its first `sent` bytes. Bytes of the receive region are
    /// copied to pooled buffers; pooled and shared pieces are kept as they are.
    pub(super) fn keep(
        &mut self,
        slot: &mut Slot,
        mut sent: usize,
        staged: &mut Staged,
        regions: &Regions,
        pool: &mut Pool,
    ) -> Result<(), BudgetSpent> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.queues.push(VecDeque::new());
            self.queues.len() as u32 - 1
        });
        slot.unfinished = index;
        let queue = &mut self.queues[index as usize];
        while let Some(mut source) = staged.pop(slot) {
            let skipped = sent.min(source.len());
            sent -= skipped;
            source.skip(skipped);
            if source.len() == 0 {
                source.give_back(pool);
                continue;
            }
            match source {
                Source::Pooled(buffer) => queue.push_back(Rest::Pooled(buffer)),
                Source::Shared(bytes) => queue.push_back(Rest::Shared(bytes)),
                Source::Received(_) => copy_behind(queue, bytes_of(&source, regions), pool)?,
            }
        }
        Ok(())
    }

    /// Calls `send` with what is left for `slot`, at most [`SEND_PIECES_MAX`] pieces of it.
    pub(super) fn with_pieces<R>(&self, slot: &Slot, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        let mut slices = [IoSlice::new(&[]); SEND_PIECES_MAX];
        let queue = &self.queues[slot.unfinished as usize];
        let count = queue.len().min(SEND_PIECES_MAX);
        for (slice, rest) in slices.iter_mut().zip(queue) {
            *slice = IoSlice::new(match rest {
                Rest::Pooled(buffer) => buffer.as_slice(),
                Rest::Shared(bytes) => bytes,
            });
        }
        send(&slices[..count])
    }

    /// Drops the first `sent` bytes of what is left for `slot`. True when nothing remains: the slot is then
    /// no longer blocked.
    pub(super) fn advance(&mut self, slot: &mut Slot, mut sent: usize, pool: &mut Pool) -> bool {
        let queue = &mut self.queues[slot.unfinished as usize];
        while let Some(rest) = queue.front_mut() {
            let bytes = match rest {
                Rest::Pooled(buffer) => buffer.len(),
                Rest::Shared(bytes) => bytes.len(),
            };
            if sent < bytes {
                match rest {
                    Rest::Pooled(buffer) => buffer.skip(sent),
                    Rest::Shared(bytes) => bytes.advance(sent),
                }
                return false;
            }
            sent -= bytes;
            if let Some(Rest::Pooled(buffer)) = queue.pop_front() {
                pool.put(buffer);
            }
        }
        self.release(slot);
        true
    }

    /// Drops what is left for `slot`, if anything is; pooled buffers go back.
    pub(super) fn discard(&mut self, slot: &mut Slot, pool: &mut Pool) {
        if slot.unfinished == NONE {
            return;
        }
        for rest in self.queues[slot.unfinished as usize].drain(..) {
            if let Rest::Pooled(buffer) = rest {
                pool.put(buffer);
            }
        }
        self.release(slot);
    }

    fn release(&mut self, slot: &mut Slot) {
        self.free.push(slot.unfinished);
        slot.unfinished = NONE;
    }
}

/// Appends a copy of `bytes`, to the last buffer where it has the room.
fn copy_behind(queue: &mut VecDeque<Rest>, bytes: &[u8], pool: &mut Pool) -> Result<(), BudgetSpent> {
    if let Some(Rest::Pooled(last)) = queue.back_mut()
        && last.room() >= bytes.len()
    {
        last.append(bytes);
        return Ok(());
    }
    let mut buffer = pool.get(bytes.len()).ok_or(BudgetSpent)?;
    buffer.append(bytes);
    queue.push_back(Rest::Pooled(buffer));
    Ok(())
}

fn bytes_of<'a>(source: &'a Source, regions: &'a Regions) -> &'a [u8] {
    match source {
        Source::Pooled(buffer) => buffer.as_slice(),
        Source::Shared(bytes) => bytes,
        Source::Received(span) => {
            let (offset, bytes) = (span.offset as usize, span.bytes as usize);
            assert!(offset + bytes <= regions.bytes(), "a span lies within the receive memory");
            // SAFETY: in bounds by the assertion and initialised, since the mapping starts as zeros. The
            // region is written through `&mut Regions` (the shard) or by a receive of this driver's turn,
            // and neither can happen while `regions` is borrowed here.
            unsafe { std::slice::from_raw_parts(regions.address(offset), bytes) }
        }
    }
}
