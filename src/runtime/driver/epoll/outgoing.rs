//! Sends: pieces staged for the next tick, and partial sends.
//!
//! Staged pieces are in one list for all connections, emptied every tick. Partial sends own their bytes: bytes of the
//! receive region were copied, because the region is overwritten each tick.

use std::io::IoSlice;

use super::slots::{NONE, Slot};
use crate::driver::Source;
use crate::driver::regions::Regions;
use crate::driver::unsent::{BudgetSpent, Unsent};
use crate::limits::SEND_PIECES_MAX;
use echoring_proto::buffer::Pool;

/// Pieces staged since the last tick, of all connections, each connection's linked in order.
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
    /// Appends `source` to the staged pieces of `slot`. Adjacent spans are joined. Returns the source if the connection
    /// has [`SEND_PIECES_MAX`] pieces.
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
        self.sources(slot).next().filter(|_| slot.staged_count == 1).map(|source| bytes_of(source, regions))
    }

    /// Calls `send` with all pieces of `slot` in order.
    pub(super) fn with_pieces<R>(
        &self,
        slot: &Slot,
        regions: &Regions,
        send: impl FnOnce(&[IoSlice<'_>]) -> R,
    ) -> R {
        with_slices(self.sources(slot).map(|source| bytes_of(source, regions)), send)
    }

    /// Bytes staged for `slot`.
    pub(super) fn bytes(&self, slot: &Slot) -> usize {
        self.sources(slot).map(Source::len).sum()
    }

    /// The pieces staged for `slot`, in order.
    fn sources(&self, slot: &Slot) -> impl Iterator<Item = &Source> {
        let piece = |index: u32| self.pieces.get(index as usize);
        let pieces = std::iter::successors(piece(slot.staged_head), move |before| piece(before.next));
        pieces.filter_map(|piece| piece.source.as_ref())
    }

    /// Removes and returns the next piece of `slot`.
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

    /// Drops the staged pieces of `slot`; pooled buffers are returned.
    pub(super) fn discard(&mut self, slot: &mut Slot, pool: &mut Pool) {
        while let Some(source) = self.pop(slot) {
            source.give_back(pool);
        }
    }

    /// Resets the list. Every piece must have been popped.
    pub(super) fn clear(&mut self) {
        debug_assert!(self.pieces.iter().all(|piece| piece.source.is_none()));
        self.pieces.clear();
    }
}

/// The partial sends of blocked connections.
#[derive(Debug, Default)]
pub(super) struct PartialSends {
    rests: Vec<Unsent>,
    free: Vec<u32>,
}

impl PartialSends {
    /// Stores everything that is staged for `slot` except its first `sent` bytes. Bytes of the receive region are
    /// copied to pooled buffers; pooled and shared pieces are kept.
    pub(super) fn keep(
        &mut self,
        slot: &mut Slot,
        mut sent: usize,
        staged: &mut Staged,
        regions: &Regions,
        pool: &mut Pool,
    ) -> Result<(), BudgetSpent> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.rests.push(Unsent::default());
            self.rests.len() as u32 - 1
        });
        slot.unfinished = index;
        let unsent = &mut self.rests[index as usize];
        while let Some(source) = staged.pop(slot) {
            unsent.append(source, &mut sent, pool, |span| regions.slice(span))?;
        }
        Ok(())
    }

    /// The partial send of `slot`, which must be blocked.
    pub(super) fn of(&self, slot: &Slot) -> &Unsent {
        &self.rests[slot.unfinished as usize]
    }

    /// The same, to be changed.
    pub(super) fn of_mut(&mut self, slot: &Slot) -> &mut Unsent {
        &mut self.rests[slot.unfinished as usize]
    }

    /// Calls `send` with at most [`SEND_PIECES_MAX`] pieces of the partial send of `slot`.
    pub(super) fn with_pieces<R>(&self, slot: &Slot, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        with_slices(self.of(slot).slices(), send)
    }

    /// Drops the first `sent` bytes of the partial send of `slot`. True if nothing remains: the slot is then no longer
    /// blocked.
    pub(super) fn advance(&mut self, slot: &mut Slot, sent: usize, pool: &mut Pool) -> bool {
        let unsent = self.of_mut(slot);
        unsent.advance(sent, pool);
        let over = unsent.bytes() == 0;
        if over {
            self.release(slot);
        }
        over
    }

    /// Drops the partial send of `slot`, if any; pooled buffers are returned.
    pub(super) fn discard(&mut self, slot: &mut Slot, pool: &mut Pool) {
        if slot.unfinished == NONE {
            return;
        }
        self.of_mut(slot).clear(pool);
        self.release(slot);
    }

    fn release(&mut self, slot: &mut Slot) {
        self.free.push(slot.unfinished);
        slot.unfinished = NONE;
    }
}

fn bytes_of<'a>(source: &'a Source, regions: &'a Regions) -> &'a [u8] {
    source.bytes(|span| regions.slice(span))
}

/// Calls `send` with the first [`SEND_PIECES_MAX`] of `pieces`.
fn with_slices<'a, R>(pieces: impl Iterator<Item = &'a [u8]>, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
    let mut slices = [IoSlice::new(&[]); SEND_PIECES_MAX];
    let mut count = 0;
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
        count += 1;
    }
    send(&slices[..count])
}
