//! Sends: the batch that a tick stages, and the rests of those that were short.
//!
//! A connection has at most one entry in a batch, because two sends of one connection in one batch corrupt
//! the stream when the first is short. The usual entry is one stretch of receive memory and is kept inline;
//! anything more is a chain of pieces.

use libc::{iovec, msghdr};

use super::slots::NONE;
use crate::driver::sockets::message;
use crate::driver::stamps::{Asked, ask_for_time};
use crate::driver::unsent::{BudgetSpent, Unsent};
use crate::driver::{Source, Span};
use crate::limits::SEND_PIECES_MAX;
use echoring_proto::buffer::Pool;

/// The send of one connection in this tick's batch.
#[derive(Debug)]
pub(super) struct Staged {
    /// User data of its operation.
    pub(super) user_data: u64,
    /// Number of its socket.
    pub(super) file: u32,
    /// Pieces; 0 without any.
    count: u8,
    /// The times that it asks for.
    asked: Option<Asked>,
    /// Flags of its send in addition to the common ones. A segment that the end of the stream follows at once waits for
    /// it.
    flags: u16,
    span: Span,
    /// First and last piece of the chain, counted from 1; `NONE` with only `span`, `DROPPED` when nothing must be sent.
    first: u32,
    last: u32,
}

/// No piece of a chain.
const DROPPED: u32 = u32::MAX;

impl Staged {
    /// An entry of one piece: the chain's `piece`, or `span` where that is `NONE`.
    #[inline(always)]
    fn of_one(file: u32, user_data: u64, span: Span, piece: u32) -> Staged {
        Staged { user_data, file, count: 1, asked: None, flags: 0, span, first: piece, last: piece }
    }

    /// The only piece, if it is a stretch of receive memory.
    #[inline]
    pub(super) fn span(&self) -> Option<Span> {
        (self.first == NONE).then_some(self.span)
    }

    /// Makes the entry a chain.
    fn chain(&mut self, pieces: &mut Vec<Piece>) {
        if self.first == NONE {
            pieces.push(Piece { source: Source::Received(self.span), next: NONE });
            self.first = pieces.len() as u32;
            self.last = self.first;
        }
    }

    /// Flags of its send in addition to the common ones.
    pub(super) fn flags(&self) -> i32 {
        i32::from(self.flags)
    }

    /// Whether the entry was dropped.
    pub(super) fn is_dropped(&self) -> bool {
        self.first == DROPPED
    }
}

/// Builds the messages of a batch's chains.
#[derive(Debug)]
pub(super) struct Messages<'a> {
    pieces: &'a [Piece],
    headers: &'a mut Vec<msghdr>,
    vectors: &'a mut Vec<iovec>,
}

#[derive(Debug)]
struct Piece {
    source: Source,
    /// Counted from 1.
    next: u32,
}

/// The sends of one tick, in the order in which their connections came.
///
/// Entries are numbered through from 1 over all batches, so that a connection's note of its entry expires by itself
/// with the batch, without being cleared.
#[derive(Debug)]
pub(super) struct Batch {
    staged: Vec<Staged>,
    /// Number of the first entry.
    start: u64,
    pieces: Vec<Piece>,
    /// Entries that are sent as messages, at most.
    chains: usize,
    /// Memory of the batch's vectored sends; neither moves between filling and consumption.
    headers: Vec<msghdr>,
    vectors: Vec<iovec>,
}

impl Default for Batch {
    fn default() -> Batch {
        // Room for what an ordinary tick brings, so that a first chain in the middle of the day allocates nothing.
        Batch {
            staged: Vec::with_capacity(64),
            start: 1,
            pieces: Vec::with_capacity(64),
            chains: 0,
            headers: Vec::with_capacity(64),
            vectors: Vec::with_capacity(64),
        }
    }
}

impl Batch {
    /// Entries, dropped ones included.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.staged.len()
    }

    /// The entry with this number, if it belongs to this batch.
    #[inline]
    pub(super) fn position(&self, number: u64) -> Option<usize> {
        (number >= self.start).then(|| (number - self.start) as usize)
    }

    /// Number of the entry that is started next.
    #[inline]
    pub(super) fn next_number(&self) -> u64 {
        self.start + self.staged.len() as u64
    }

    /// Starts the entry of the connection on `file`, whose operation `user_data` will name, with a stretch of
    /// receive memory.
    #[inline]
    pub(super) fn start_received(&mut self, file: u32, user_data: u64, span: Span) {
        if self.staged.len() == self.staged.capacity() {
            self.grow();
        }
        self.staged.push(Staged::of_one(file, user_data, span, NONE));
    }

    // Out of line, so that the usual path keeps its registers.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        self.staged.reserve(64);
    }

    /// The same with a source of any kind.
    pub(super) fn start(&mut self, file: u32, user_data: u64, source: Source) {
        if let Source::Received(span) = source {
            return self.start_received(file, user_data, span);
        }
        self.pieces.push(Piece { source, next: NONE });
        let (piece, span) = (self.pieces.len() as u32, Span { offset: 0, bytes: 0 });
        self.staged.push(Staged::of_one(file, user_data, span, piece));
    }

    /// Appends `source` to the entry at `position`. Stretches of receive memory
    /// that meet become one. Returns it when the entry is full.
    pub(super) fn extend(&mut self, position: usize, source: Source) -> Result<(), Source> {
        let entry = &mut self.staged[position];
        if let Source::Received(span) = source {
            let last = match entry.last {
                NONE => Some(&mut entry.span),
                last => match &mut self.pieces[last as usize - 1].source {
                    Source::Received(last) => Some(last),
                    _ => None,
                },
            };
            if let Some(last) = last
                && last.offset + last.bytes == span.offset
            {
                last.bytes += span.bytes;
                return Ok(());
            }
        }
        if usize::from(entry.count) >= SEND_PIECES_MAX {
            return Err(source);
        }
        entry.chain(&mut self.pieces);
        self.pieces.push(Piece { source, next: NONE });
        let new = self.pieces.len() as u32;
        self.pieces[entry.last as usize - 1].next = new;
        entry.last = new;
        entry.count += 1;
        self.chains += usize::from(entry.count == 2);
        Ok(())
    }

    /// Notes of the entry at `position` that the connection is closed when it is sent.
    pub(super) fn end_with(&mut self, position: usize) {
        let entry = &mut self.staged[position];
        // A chain of one piece, so that the usual path need not ask.
        entry.chain(&mut self.pieces);
        entry.flags |= libc::MSG_MORE as u16;
    }

    /// Asks for the times of the last byte of the entry at `position`.
    pub(super) fn stamp(&mut self, position: usize, asked: Asked) {
        let entry = &mut self.staged[position];
        entry.chain(&mut self.pieces);
        entry.asked = Some(asked);
        self.chains += 1;
    }

    /// Drops the entry at `position`; nothing of it is sent.
    pub(super) fn drop_entry(&mut self, position: usize) {
        let entry = &mut self.staged[position];
        // No piece is what neither of the usual two kinds has, so that the usual path need not ask.
        (entry.first, entry.count) = (DROPPED, 0);
    }

    /// The entries, and the message headers of those that are chains. There is room for the vectors of all, so
    /// that none of them moves.
    pub(super) fn entries(&mut self) -> (std::slice::Iter<'_, Staged>, Messages<'_>) {
        self.headers.clear();
        self.vectors.clear();
        // Single pieces need neither.
        if self.chains > 0 {
            self.headers.reserve(self.chains);
            self.vectors.reserve(self.pieces.len());
        }
        let Batch { staged, pieces, headers, vectors, .. } = self;
        (staged.iter(), Messages { pieces, headers, vectors })
    }

    /// The user data of the entry at `position`, unless it was dropped.
    pub(super) fn user_data(&self, position: usize) -> Option<u64> {
        self.staged.get(position).filter(|entry| !entry.is_dropped()).map(|entry| entry.user_data)
    }

    /// Bytes of the entry at `position`.
    pub(super) fn bytes(&self, position: usize) -> usize {
        let entry = &self.staged[position];
        let (mut bytes, mut next) = (0, entry.first);
        if next == NONE {
            return entry.span.bytes as usize;
        }
        while next != NONE {
            let piece = &self.pieces[next as usize - 1];
            bytes += piece.source.len();
            next = piece.next;
        }
        bytes
    }

    /// The unsent rest of the entry at `position` after `sent` bytes. Receive memory is copied, everything else moves.
    pub(super) fn partial_send<'a>(
        &mut self,
        position: usize,
        sent: usize,
        pool: &mut Pool,
        received: impl Fn(Span) -> &'a [u8],
    ) -> Result<PartialSend, BudgetSpent> {
        let entry = &mut self.staged[position];
        let mut rest = PartialSend::default();
        let mut skip = sent;
        if entry.first == NONE {
            rest.unsent.append(Source::Received(entry.span), &mut skip, pool, received)?;
            return Ok(rest);
        }
        let mut next = entry.first;
        while next != NONE {
            let piece = &mut self.pieces[next as usize - 1];
            let nothing = Source::Received(Span { offset: 0, bytes: 0 });
            let source = std::mem::replace(&mut piece.source, nothing);
            next = piece.next;
            if let Err(spent) = rest.unsent.append(source, &mut skip, pool, &received) {
                rest.unsent.clear(pool);
                return Err(spent);
            }
        }
        Ok(rest)
    }

    /// Forgets the batch after the kernel has consumed it; buffers go back to `pool`.
    #[inline]
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        self.start += self.staged.len() as u64;
        self.staged.clear();
        self.chains = 0;
        if !self.pieces.is_empty() {
            for piece in self.pieces.drain(..) {
                if let Source::Pooled(buffer) = piece.source {
                    pool.put(buffer);
                }
            }
        }
    }
}

impl Messages<'_> {
    /// The only piece of a chain, if it has just one: a plain send is cheaper than a message.
    #[inline]
    pub(super) fn single(
        &self,
        entry: &Staged,
        address: impl Fn(Span) -> *const u8,
    ) -> Option<(*const u8, u32)> {
        if entry.count != 1 || entry.asked.is_some() {
            return None;
        }
        let bytes = match &self.pieces[entry.first as usize - 1].source {
            Source::Received(span) => return Some((address(*span), span.bytes)),
            Source::Pooled(buffer) => buffer.as_slice(),
            Source::Shared(shared) => &shared.bytes,
        };
        // The length of a plain send has 32 bits.
        u32::try_from(bytes.len()).ok().map(|length| (bytes.as_ptr(), length))
    }

    /// The message of a chain. Valid until the batch changes.
    pub(super) fn message(&mut self, entry: &Staged, address: impl Fn(Span) -> *const u8) -> *const msghdr {
        let start = self.vectors.len();
        let mut next = entry.first;
        while next != NONE {
            let piece = &self.pieces[next as usize - 1];
            assert!(self.vectors.len() < self.vectors.capacity(), "earlier vectors do not move");
            self.vectors.push(match &piece.source {
                Source::Received(span) => {
                    iovec { iov_base: address(*span).cast_mut().cast(), iov_len: span.bytes as usize }
                }
                Source::Pooled(buffer) => vector(buffer.as_slice()),
                Source::Shared(shared) => vector(&shared.bytes),
            });
            next = piece.next;
        }
        assert!(self.headers.len() < self.headers.capacity(), "earlier headers do not move");
        let mut header = header(&self.vectors[start..]);
        if let Some(asked) = entry.asked {
            ask_for_time(&mut header, asked);
        }
        self.headers.push(header);
        &raw const self.headers[self.headers.len() - 1]
    }
}

/// The unsent rest of a short send. It owns its bytes until the kernel has taken them.
#[derive(Debug, Default)]
pub(super) struct PartialSend {
    pub(super) unsent: Unsent,
    chain: Option<Box<Chain>>,
}

/// The vectors of several pieces. They do not move while the pieces are sent.
#[derive(Debug)]
struct Chain {
    vectors: Vec<iovec>,
    header: msghdr,
}

/// The next operation of a partial send. Valid until the partial send changes or is dropped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// The only piece.
    Piece(*const u8, u32),
    /// Several.
    Message(*const msghdr),
}

impl PartialSend {
    /// The next operation.
    pub(super) fn next(&mut self) -> Next {
        if let Some(piece) = self.unsent.single() {
            self.chain = None;
            return Next::Piece(piece.as_ptr(), u32::try_from(piece.len()).unwrap_or(u32::MAX));
        }
        let chain =
            self.chain.get_or_insert_with(|| Box::new(Chain { vectors: Vec::new(), header: header(&[]) }));
        chain.vectors.clear();
        chain.vectors.extend(self.unsent.slices().take(SEND_PIECES_MAX).map(vector));
        chain.header = header(&chain.vectors);
        Next::Message(&raw const chain.header)
    }
}

/// The rests of all connections that are blocked. Their table grows by pages that never move: when very many peers stop
/// reading at once, copies of a growing one would take several times what the rests do.
#[derive(Debug, Default)]
pub(super) struct PartialSends {
    pages: Vec<Box<[Option<PartialSend>; PAGE]>>,
    /// Positions that were given out so far.
    used: usize,
    free: Vec<u32>,
}

/// PartialSends of a page.
const PAGE: usize = 64;

impl PartialSends {
    /// Keeps `rest`. Returns its position, counted from 1.
    pub(super) fn keep(&mut self, rest: PartialSend) -> u32 {
        let position = self.free.pop().unwrap_or_else(|| {
            if self.used == self.pages.len() * PAGE {
                self.pages.push(Box::new([const { None }; PAGE]));
            }
            self.used += 1;
            self.used as u32
        });
        *self.place(position) = Some(rest);
        position
    }

    /// The bytes of the partial send at `position`, counted from 1.
    pub(super) fn unsent(&self, position: u32) -> &Unsent {
        let place = position as usize - 1;
        &self.pages[place / PAGE][place % PAGE].as_ref().expect(KEPT).unsent
    }

    /// The rest at `position`, counted from 1.
    pub(super) fn get(&mut self, position: u32) -> &mut PartialSend {
        self.place(position).as_mut().expect(KEPT)
    }

    /// Removes the rest at `position`.
    pub(super) fn take(&mut self, position: u32) -> PartialSend {
        self.free.push(position);
        self.place(position).take().expect(KEPT)
    }

    fn place(&mut self, position: u32) -> &mut Option<PartialSend> {
        let place = position as usize - 1;
        &mut self.pages[place / PAGE][place % PAGE]
    }
}

const KEPT: &str = "a slot names a rest that is kept";

fn vector(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn header(vectors: &[iovec]) -> msghdr {
    message(vectors.as_ptr(), vectors.len())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn span(offset: u32, bytes: u32) -> Source {
        Source::Received(Span { offset, bytes })
    }

    fn start(batch: &mut Batch, source: Source) -> usize {
        let number = batch.next_number();
        batch.start(3, 4, source);
        batch.position(number).unwrap()
    }

    #[test]
    fn numbers_of_a_batch_that_is_over_name_nothing() {
        let mut batch = Batch::default();
        assert_eq!(batch.position(0), None);
        let first = batch.next_number();
        batch.start(3, 4, span(0, 1));
        let second = batch.next_number();
        batch.start(5, 6, span(1, 1));
        assert_eq!((batch.position(first), batch.position(second)), (Some(0), Some(1)));
        batch.clear(&mut Pool::standalone());
        assert_eq!((batch.position(first), batch.position(second)), (None, None));
        let third = batch.next_number();
        batch.start(3, 4, span(0, 1));
        assert_eq!(batch.position(third), Some(0));
    }

    #[test]
    fn stretches_that_meet_become_one_piece() {
        let mut batch = Batch::default();
        let position = start(&mut batch, span(100, 10));
        batch.extend(position, span(110, 5)).unwrap();
        assert_eq!(batch.staged[0].span(), Some(Span { offset: 100, bytes: 15 }));
        batch.extend(position, span(200, 5)).unwrap();
        batch.extend(position, span(205, 5)).unwrap();
        assert_eq!(batch.staged[0].span(), None);
        assert_eq!((batch.staged[0].count, batch.bytes(0)), (2, 25));
    }

    #[test]
    fn a_rest_starts_at_the_first_byte_that_was_not_sent() {
        let mut pool = Pool::standalone();
        let memory = *b"0123456789";
        let at = |span: Span| &memory[span.offset as usize..][..span.bytes as usize];
        for sent in 0..=20 {
            let mut batch = Batch::default();
            let position = start(&mut batch, span(2, 4));
            let mut buffer = pool.get(6).unwrap();
            buffer.append(b"abcdef");
            batch.extend(position, Source::Pooled(buffer)).unwrap();
            batch.extend(position, Source::Shared(Bytes::from_static(b"ABCDEF").into())).unwrap();
            batch.extend(position, span(0, 2)).unwrap();
            batch.extend(position, span(4, 2)).unwrap();
            let whole = b"2345abcdefABCDEF0145";
            let mut rest = batch.partial_send(position, sent, &mut pool, at).unwrap();
            assert_eq!(rest.unsent.bytes(), whole.len() - sent);
            let mut seen = Vec::new();
            while rest.unsent.bytes() > 0 {
                let start = match rest.next() {
                    Next::Piece(start, bytes) => {
                        assert_eq!(bytes as usize, rest.unsent.bytes());
                        start
                    }
                    // SAFETY: the message and its vectors are alive until the rest changes below.
                    Next::Message(header) => unsafe { (*(*header).msg_iov).iov_base.cast::<u8>() },
                };
                // SAFETY: it is the first of the bytes that the rest owns.
                seen.push(unsafe { *start });
                rest.unsent.advance(1, &mut pool);
            }
            assert_eq!(seen, whole[sent..]);
        }
        assert!(pool.used_bytes() < 16 * 1024, "every buffer came back");
    }

    #[test]
    fn a_batch_takes_as_many_pieces_as_a_send_has() {
        let mut batch = Batch::default();
        let position = start(&mut batch, span(0, 1));
        for piece in 1..SEND_PIECES_MAX as u32 {
            batch.extend(position, span(2 * piece, 1)).unwrap();
        }
        assert!(batch.extend(position, span(1000, 1)).is_err());
        assert!(batch.extend(position, span(2 * SEND_PIECES_MAX as u32 - 1, 1)).is_ok());
    }
}
