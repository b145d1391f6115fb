//! The unsent rest of a short send, in every driver: pieces that own their bytes, first in first out.
//!
//! Bytes of receive memory are copied, because the next tick overwrites that. Taking back never empties a rest: drivers
//! report its end only once the kernel has accepted the last byte.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bytes::Buf;

use super::{Shared, Source, Span};
use echoring_proto::buffer::{Buffer, Pool, allocated_bytes};

/// The node's byte budget has no room for the rest of a short send.
#[derive(Debug)]
pub(super) struct BudgetSpent;

/// The rest of one send. Small while it is one piece, because very many connections may have one.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    first: Option<Piece>,
    /// The pieces behind it; `None` without any.
    #[expect(clippy::box_collection, reason = "one piece pays 8 bytes for it, not 32")]
    more: Option<Box<VecDeque<Piece>>>,
    bytes: usize,
    /// Bytes of the first piece that the kernel has accepted.
    taken_bytes: usize,
}

impl Source {
    /// Its bytes, of which those of the receive region are where `received` says.
    pub(super) fn bytes<'a>(&'a self, received: impl FnOnce(Span) -> &'a [u8]) -> &'a [u8] {
        match self {
            Source::Received(span) => received(*span),
            Source::Pooled(buffer) => buffer.as_slice(),
            Source::Shared(shared) => &shared.bytes,
        }
    }
}

#[derive(Debug)]
enum Piece {
    Pooled(Buffer),
    Shared(Shared),
}

impl Unsent {
    /// Bytes that the kernel has not accepted.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the node's budget that the pieces occupy, including accepted bytes: those are freed with the last byte
    /// of their piece.
    pub(super) fn held_bytes(&self) -> usize {
        let first = self.first.iter().map(|piece| piece.held_bytes(self.taken_bytes));
        let more = self.more.iter().flat_map(|more| more.iter()).map(|piece| piece.held_bytes(0));
        first.chain(more).sum()
    }

    /// The pieces' bytes, in order.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.first.iter().chain(self.more.iter().flat_map(|more| more.iter())).map(Piece::as_slice)
    }

    /// A copy of all bytes.
    pub(super) fn copied(&self) -> Vec<u8> {
        self.slices().flatten().copied().collect()
    }

    /// The only piece's bytes; `None` when there are several or none.
    pub(super) fn single(&self) -> Option<&[u8]> {
        self.first.as_ref().filter(|_| self.more.is_none()).map(Piece::as_slice)
    }

    fn push_back(&mut self, piece: Piece) {
        if self.first.is_none() {
            self.first = Some(piece);
        } else {
            self.more.get_or_insert_default().push_back(piece);
        }
    }

    fn back_mut(&mut self) -> Option<&mut Piece> {
        self.more.as_mut().and_then(|more| more.back_mut()).or(self.first.as_mut())
    }

    fn pop_back(&mut self) {
        match &mut self.more {
            Some(more) => drop(more.pop_back()),
            None => self.first = None,
        }
        self.tidy();
    }

    fn pop_front(&mut self) -> Option<Piece> {
        let next = self.more.as_mut().and_then(|more| more.pop_front());
        self.tidy();
        std::mem::replace(&mut self.first, next)
    }

    fn tidy(&mut self) {
        if self.more.as_ref().is_some_and(|more| more.is_empty()) {
            self.more = None;
        }
    }

    /// Appends `source` without its first `sent` bytes; `sent` is reduced by them. Pooled and shared pieces are kept,
    /// received spans are copied.
    pub(super) fn append<'a>(
        &mut self,
        mut source: Source,
        sent: &mut usize,
        pool: &mut Pool,
        received: impl FnOnce(Span) -> &'a [u8],
    ) -> Result<(), BudgetSpent> {
        let skipped = source.len().min(*sent);
        *sent -= skipped;
        source.skip(skipped);
        let bytes = source.len();
        if bytes == 0 {
            source.give_back(pool);
            return Ok(());
        }
        if self.first.is_none() {
            self.taken_bytes = skipped;
        }
        match source {
            Source::Pooled(buffer) => self.push_back(Piece::Pooled(buffer)),
            Source::Shared(shared) => self.push_back(Piece::Shared(shared)),
            Source::Received(span) => self.copy(received(span), pool)?,
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Appends a copy of `bytes`, to the last buffer if it has room.
    fn copy(&mut self, bytes: &[u8], pool: &mut Pool) -> Result<(), BudgetSpent> {
        if let Some(Piece::Pooled(last)) = self.back_mut()
            && last.room() >= bytes.len()
        {
            last.append(bytes);
            return Ok(());
        }
        let mut buffer = pool.get(bytes.len()).ok_or(BudgetSpent)?;
        buffer.append(bytes);
        self.push_back(Piece::Pooled(buffer));
        Ok(())
    }

    /// Drops the first `sent` bytes, which the kernel has accepted; finished buffers return to `pool`.
    pub(super) fn advance(&mut self, sent: usize, pool: &mut Pool) {
        let mut sent = sent.min(self.bytes);
        self.bytes -= sent;
        while let Some(first) = self.first.as_mut() {
            let bytes = first.as_slice().len();
            if sent < bytes {
                self.taken_bytes += sent;
                return match first {
                    Piece::Pooled(buffer) => buffer.skip(sent),
                    Piece::Shared(shared) => shared.bytes.advance(sent),
                };
            }
            sent -= bytes;
            self.taken_bytes = 0;
            if let Some(Piece::Pooled(buffer)) = self.pop_front() {
                pool.put(buffer);
            }
        }
    }

    /// Tag and bytes of the last piece, if that is shared.
    pub(super) fn last_shared(&self) -> Option<(u64, usize)> {
        let last = self.more.as_ref().and_then(|more| more.back()).or(self.first.as_ref());
        match last? {
            Piece::Shared(shared) => Some((shared.tag, shared.bytes.len())),
            Piece::Pooled(_) => None,
        }
    }

    /// Drops the last `bytes` of the last piece, which must be shared and large enough; another piece, or a byte of
    /// this one, must stay. Otherwise false, with nothing dropped.
    pub(super) fn take_back(&mut self, bytes: usize) -> bool {
        let all = self.bytes;
        let Some(Piece::Shared(last)) = self.back_mut() else { return false };
        let fits = bytes <= last.bytes.len() && bytes < all;
        debug_assert!(fits, "{bytes} of {} are taken back, {all} in all", last.bytes.len());
        if !fits {
            return false;
        }
        last.bytes.truncate(last.bytes.len() - bytes);
        let whole = last.bytes.is_empty();
        if whole {
            self.pop_back();
        }
        self.bytes -= bytes;
        true
    }

    /// Drops everything; buffers go back to `pool`.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        self.bytes = 0;
        while let Some(piece) = self.pop_front() {
            if let Piece::Pooled(buffer) = piece {
                pool.put(buffer);
            }
        }
    }
}

impl Piece {
    fn held_bytes(&self, taken_bytes: usize) -> usize {
        match self {
            Piece::Pooled(buffer) => buffer.accounted_bytes(),
            Piece::Shared(shared) => allocated_bytes(taken_bytes + shared.bytes.len()),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Pooled(buffer) => buffer.as_slice(),
            Piece::Shared(shared) => &shared.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const MEMORY: &[u8] = b"0123456789";

    fn shared(bytes: &'static [u8], tag: u64) -> Source {
        Source::Shared(Shared { bytes: Bytes::from_static(bytes), tag })
    }

    fn pooled(bytes: &[u8], pool: &mut Pool) -> Source {
        let mut buffer = pool.get(bytes.len()).unwrap();
        buffer.append(bytes);
        Source::Pooled(buffer)
    }

    /// The rest of `sources` after `sent` bytes.
    fn unsent(sources: Vec<Source>, mut sent: usize, pool: &mut Pool) -> Unsent {
        let mut unsent = Unsent::default();
        for source in sources {
            let received = |span: Span| &MEMORY[span.offset as usize..][..span.bytes as usize];
            unsent.append(source, &mut sent, pool, received).unwrap();
        }
        unsent
    }

    fn everything(unsent: &Unsent) -> Vec<u8> {
        let all: Vec<u8> = unsent.slices().flatten().copied().collect();
        assert_eq!(all.len(), unsent.bytes());
        all
    }

    #[test]
    fn a_rest_starts_at_the_first_byte_that_was_not_sent_and_is_sent_in_any_steps() {
        let mut pool = Pool::standalone();
        let whole = b"2345abcdefABCDEF0145";
        for sent in 0..whole.len() {
            for step in 1..=whole.len() {
                let sources = vec![
                    Source::Received(Span { offset: 2, bytes: 4 }),
                    pooled(b"abcdef", &mut pool),
                    shared(b"ABCDEF", 7),
                    Source::Received(Span { offset: 0, bytes: 2 }),
                    Source::Received(Span { offset: 4, bytes: 2 }),
                ];
                let mut unsent = unsent(sources, sent, &mut pool);
                for at in (sent..whole.len()).step_by(step) {
                    assert_eq!(everything(&unsent), whole[at..]);
                    unsent.advance(step, &mut pool);
                }
                assert_eq!((unsent.bytes(), unsent.slices().count()), (0, 0));
            }
        }
        assert!(pool.used_bytes() < 16 * 1024, "every buffer came back");
    }

    #[test]
    fn what_was_taken_back_is_not_sent() {
        let mut pool = Pool::standalone();
        let sources = || vec![shared(b"abcd", 1), shared(b"efgh", 2), shared(b"ijkl", 3)];
        let mut rest = unsent(sources(), 2, &mut pool);
        assert_eq!(rest.last_shared(), Some((3, 4)));
        assert!(rest.take_back(1));
        assert_eq!(rest.last_shared(), Some((3, 3)));
        assert!(rest.take_back(3));
        assert_eq!(rest.last_shared(), Some((2, 4)), "the piece before it is next");
        assert!(rest.take_back(4));
        assert_eq!(rest.last_shared(), Some((1, 2)), "of what is partly sent, the rest");
        assert!(rest.take_back(1));
        assert_eq!(everything(&rest), b"c");
        rest.advance(1, &mut pool);
        assert_eq!(rest.bytes(), 0);

        // Nothing was sent at all.
        let mut rest = unsent(sources(), 0, &mut pool);
        assert!(rest.take_back(4) && rest.take_back(4) && rest.take_back(3));
        assert_eq!((everything(&rest).as_slice(), rest.last_shared()), (&b"a"[..], Some((1, 1))));

        // The last piece is partly sent already, and alone.
        let mut rest = unsent(sources(), 9, &mut pool);
        assert_eq!(rest.last_shared(), Some((3, 3)));
        assert!(rest.take_back(2));
        assert_eq!(everything(&rest), b"j");
    }

    #[test]
    fn only_what_is_shared_and_last_is_taken_back() {
        let mut pool = Pool::standalone();
        let sources = vec![pooled(b"pong", &mut pool), shared(b"abcd", 5)];
        let mut rest = unsent(sources, 1, &mut pool);
        assert!(rest.take_back(4), "something is in front of it");
        assert_eq!((rest.last_shared(), everything(&rest).as_slice()), (None, &b"ong"[..]));
        assert!(!rest.take_back(1), "a pooled piece is not");
        rest.clear(&mut pool);

        let sources = vec![shared(b"abcd", 5), Source::Received(Span { offset: 0, bytes: 3 })];
        let mut rest = unsent(sources, 1, &mut pool);
        assert_eq!(rest.last_shared(), None, "neither is what lies in front of another piece");
        assert!(!rest.take_back(1));
        assert_eq!(everything(&rest), b"bcd012");
        rest.clear(&mut pool);
        assert!(!rest.take_back(0), "nor where there is nothing");
        assert!(pool.used_bytes() < 16 * 1024, "every buffer came back");
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "4 of 4 are taken back, 4 in all")]
    fn the_last_byte_stays() {
        let mut pool = Pool::standalone();
        unsent(vec![shared(b"abcd", 1)], 0, &mut pool).take_back(4);
    }

    #[test]
    fn a_piece_is_held_as_a_whole_until_its_last_byte_is_taken() {
        let mut pool = Pool::standalone();
        let sources = vec![shared(b"0123456789", 1), pooled(b"abc", &mut pool)];
        let mut unsent = unsent(sources, 4, &mut pool);
        let buffer_bytes = pool.used_bytes() as usize;
        for taken in [0, 5, 1, 2] {
            unsent.advance(taken, &mut pool);
            // The first six bytes that are left are the shared piece's.
            let shared_bytes = if unsent.bytes() > 3 { allocated_bytes(10) } else { 0 };
            assert_eq!(unsent.held_bytes(), shared_bytes + buffer_bytes);
        }
        assert_eq!(unsent.bytes(), 1);
        unsent.advance(1, &mut pool);
        assert_eq!(unsent.held_bytes(), 0);
    }
}
