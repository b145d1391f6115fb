//! The log of a topic's encoded frames on one shard: bounded, with numbered frames.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::limits::{LOG_SEGMENT_BYTES, LOG_SEGMENT_BYTES_MIN};
use echoring_proto::buffer::{Pool, allocated_bytes};
use echoring_proto::limits::Nanos;

/// The number of a frame in its log, from 0, never reused.
pub type Sequence = u64;

/// The connection that published a frame, so that it does not get its own frames back. 0 for none.
pub type Origin = u64;

/// A frame in parts, to be joined.
pub type Parts<'a> = [&'a [u8]; 4];

/// A bounded log of encoded frames. Readers hold a [`Sequence`]; frames that are evicted before they are read are lost
/// to them.
///
/// ```text
/// evicted | piece | piece | piece of this tick ] tail (not readable until `publish`)
///         ^ start                              ^ end
/// ```
///
/// The frames of one tick form one piece, so that the readers that keep up, nearly all, share one allocation and one
/// range. The pieces of a full segment are joined, so that slow readers need few of them. Segments start small and
/// grow, so that a quiet topic costs little.
///
/// Each frame has the offset that its topic reaches with it: its own for a message, that of the previous message for an
/// event. So the difference between two frames is a number of messages.
#[derive(Debug, Default)]
pub struct Log {
    pieces: VecDeque<Piece>,
    /// The frames in the log, including those of the tail.
    frames: VecDeque<Frame>,
    /// The number of the first frame.
    first: Sequence,
    /// The topic's offset before the first frame.
    first_offset: u64,
    /// Byte position of the first frame.
    first_bytes: u64,
    tail: BytesMut,
    tail_frames: u32,
    /// Number of pieces at the end that were cut from the current segment.
    unjoined: usize,
    /// End of the readable frames.
    end: Sequence,
    end_bytes: u64,
    end_offset: u64,
    /// Size of the next segment in bytes, if that is not the smallest.
    segment_bytes: usize,
    bytes_max: usize,
    /// Charges against the budget: for the tail's segment, for the lists, and with the segments of all pieces.
    tail_charged_bytes: usize,
    lists_charged_bytes: usize,
    charged_bytes: usize,
    /// Whether this is a history, which is bounded on the whole node.
    is_history: bool,
}

/// Bytes of the reference count of a segment.
const SHARED_BYTES: usize = 48;

/// Later than any time: the time of a piece whose tick has not ended.
const UNDATED: Nanos = Nanos::MAX;

#[derive(Debug)]
struct Piece {
    first: Sequence,
    frames: u32,
    messages: u32,
    /// Byte position of its beginning, counted since the log began.
    start_bytes: u64,
    bytes: Bytes,
    /// When its oldest message was received, or it became readable if it has none. Never less than that of the piece before it.
    at: Nanos,
    /// The charge of its segment, if this is the segment's last piece and the tail is in another one.
    charged_bytes: usize,
}

impl Piece {
    fn end(&self) -> Sequence {
        self.first + u64::from(self.frames)
    }
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Byte position of its end, counted since the log began.
    end_bytes: u64,
    origin: Origin,
    /// The topic's offset with this frame.
    offset: u64,
}

/// The node's memory budget is spent; nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// The latest piece of a log, which readers that keep up are sent.
#[derive(Clone, Copy, Debug)]
pub struct Latest<'a> {
    /// Its first frame.
    pub first: Sequence,
    /// End of its frames.
    pub end: Sequence,
    /// The frames.
    pub bytes: &'a Bytes,
    /// Number of messages among them.
    pub messages: u32,
}

impl Log {
    /// An empty log that keeps about `bytes_max` bytes, and always the latest piece. The topic has reached `offset`.
    pub fn new(bytes_max: usize, offset: u64) -> Log {
        Log { first_offset: offset, end_offset: offset, bytes_max, ..Log::default() }
    }

    /// The same for a history.
    pub fn history(bytes_max: usize, offset: u64) -> Log {
        Log { is_history: true, ..Log::new(bytes_max, offset) }
    }

    /// The oldest readable frame.
    pub fn start(&self) -> Sequence {
        self.pieces.front().map_or(self.end, |piece| piece.first)
    }

    /// End of the readable frames.
    pub fn end(&self) -> Sequence {
        self.end
    }

    /// The topic's offset with the last readable frame.
    pub(crate) fn end_offset(&self) -> u64 {
        self.end_offset
    }

    /// End of the appended frames, readable or not.
    pub fn appended(&self) -> Sequence {
        self.end + u64::from(self.tail_frames)
    }

    /// Readable bytes.
    pub fn bytes(&self) -> usize {
        self.pieces.front().map_or(0, |piece| (self.end_bytes - piece.start_bytes) as usize)
    }

    /// Readable bytes from the frame `sequence` on; all of them if it has been dropped.
    pub(crate) fn bytes_from(&self, sequence: Sequence) -> u64 {
        if sequence >= self.end { 0 } else { self.end_bytes - self.start_bytes(sequence.max(self.start())) }
    }

    /// Bytes charged to the node's budget.
    pub fn charged_bytes(&self) -> usize {
        self.charged_bytes
    }

    /// Appends one encoded frame with which the topic reaches `offset`. It becomes readable with
    /// [`publish`](Log::publish).
    ///
    /// # Errors
    /// [`OutOfMemory`] if the node's budget has no room for another segment.
    pub fn append<const PARTS: usize>(
        &mut self,
        pool: &mut Pool,
        origin: Origin,
        offset: u64,
        frame: &[&[u8]; PARTS],
    ) -> Result<(), OutOfMemory> {
        let frame_bytes: usize = frame.iter().map(|part| part.len()).sum();
        if self.frames.len() == self.frames.capacity() {
            self.grow_frames(pool)?;
        }
        if self.tail.capacity() - self.tail.len() < frame_bytes {
            self.open_segment(pool, frame_bytes)?;
        }
        frame.iter().for_each(|part| self.tail.extend_from_slice(part));
        self.tail_frames += 1;
        self.frames.push_back(Frame { end_bytes: self.end_bytes + self.tail.len() as u64, origin, offset });
        Ok(())
    }

    /// Makes the appended frames readable, the oldest of which was received at `since`. Nothing is evicted yet, so that readers
    /// that keep up get them first, however many there are.
    pub fn publish(&mut self, since: Nanos) {
        if self.tail.is_empty() {
            return;
        }
        // Messages of other shards may arrive in another order.
        let before = self.pieces.iter().rev().find(|piece| piece.at != UNDATED);
        let at = before.map_or(since, |piece| piece.at.max(since));
        for piece in self.pieces.iter_mut().rev().take_while(|piece| piece.at == UNDATED) {
            piece.at = at;
        }
        self.cut(at);
    }

    fn cut(&mut self, at: Nanos) {
        let bytes = self.tail.split().freeze();
        let frames = std::mem::take(&mut self.tail_frames);
        let offset = self.offset_before(self.end + u64::from(frames));
        let piece = Piece {
            first: self.end,
            frames,
            messages: (offset - self.end_offset) as u32,
            start_bytes: self.end_bytes,
            bytes,
            at,
            charged_bytes: 0,
        };
        self.end = piece.end();
        self.end_bytes += piece.bytes.len() as u64;
        self.end_offset = offset;
        self.pieces.push_back(piece);
        self.unjoined += 1;
    }

    fn charge(&mut self, pool: &mut Pool, bytes: usize) -> Result<(), OutOfMemory> {
        let charged = if self.is_history { pool.charge_history(bytes) } else { pool.charge(bytes) };
        if !charged {
            return Err(OutOfMemory);
        }
        self.charged_bytes += bytes;
        Ok(())
    }

    fn discharge(&mut self, pool: &mut Pool, bytes: usize) {
        self.charged_bytes -= bytes;
        if self.is_history { pool.discharge_history(bytes) } else { pool.discharge(bytes) }
    }

    /// Closes a segment whose last piece is `last`. Sends from it may still be pending.
    fn drop_segment(&mut self, pool: &mut Pool, last: Bytes, bytes: usize) {
        if self.is_history {
            return self.discharge(pool, bytes);
        }
        self.charged_bytes -= bytes;
        pool.discharge_shared(last, bytes);
    }

    /// Bytes of the lists of frames and pieces.
    fn lists_bytes(&self) -> usize {
        let lists =
            [self.frames.capacity() * size_of::<Frame>(), self.pieces.capacity() * size_of::<Piece>()];
        lists.into_iter().filter(|bytes| *bytes > 0).map(allocated_bytes).sum()
    }

    #[cold]
    #[inline(never)]
    fn grow_frames(&mut self, pool: &mut Pool) -> Result<(), OutOfMemory> {
        let more = self.frames.capacity().max(16);
        let before = match self.frames.capacity() * size_of::<Frame>() {
            0 => 0,
            bytes => allocated_bytes(bytes),
        };
        let grown = allocated_bytes((self.frames.capacity() + more) * size_of::<Frame>()) - before;
        self.charge(pool, grown)?;
        self.lists_charged_bytes += grown;
        self.frames.reserve_exact(more);
        Ok(())
    }

    fn open_segment(&mut self, pool: &mut Pool, frame_bytes: usize) -> Result<(), OutOfMemory> {
        let segment_bytes = self.segment_bytes.max(LOG_SEGMENT_BYTES_MIN);
        let capacity = allocated_bytes(frame_bytes.max(segment_bytes));
        self.charge(pool, capacity + SHARED_BYTES)?;
        self.segment_bytes = (segment_bytes * 2).min(LOG_SEGMENT_BYTES);
        if !self.tail.is_empty() {
            // It becomes readable in this tick, and its age counts from the tick's end.
            self.cut(UNDATED);
        }
        let tail = std::mem::replace(&mut self.tail, BytesMut::with_capacity(capacity));
        let charged_bytes = std::mem::replace(&mut self.tail_charged_bytes, capacity + SHARED_BYTES);
        self.close_segment(pool, tail.freeze(), charged_bytes);
        Ok(())
    }

    /// Closes a full segment, of which `rest` was unused: its pieces are joined into one. If there is no memory for
    /// that, they stay separate.
    fn close_segment(&mut self, pool: &mut Pool, rest: Bytes, charged_bytes: usize) {
        self.shrink_pieces();
        let first = self.pieces.len() - std::mem::take(&mut self.unjoined);
        match self.pieces.len() - first {
            0 => return self.drop_segment(pool, rest, charged_bytes),
            1 => {}
            _ => {
                let bytes = (self.end_bytes - self.pieces[first].start_bytes) as usize;
                let joined_charged_bytes = allocated_bytes(bytes) + SHARED_BYTES;
                if self.charge(pool, joined_charged_bytes).is_ok() {
                    self.join(first, bytes, joined_charged_bytes);
                    return self.drop_segment(pool, rest, charged_bytes);
                }
            }
        }
        if let Some(last) = self.pieces.back_mut() {
            last.charged_bytes = charged_bytes;
        }
    }

    /// Shrinks the list of pieces. It is longest when a segment is full, so a segment of many short pieces does not
    /// make it grow again.
    fn shrink_pieces(&mut self) {
        let (pieces, capacity) = (self.pieces.len(), self.pieces.capacity());
        if capacity > 16 && pieces < capacity / 4 {
            self.pieces.shrink_to((2 * pieces).max(16));
        }
    }

    /// Joins the pieces from `first` on, of `bytes` bytes, into one.
    fn join(&mut self, first: usize, bytes: usize, charged_bytes: usize) {
        let Piece { first: sequence, start_bytes, .. } = self.pieces[first];
        let mut joined = BytesMut::with_capacity(bytes);
        let (mut frames, mut messages, mut at) = (0, 0, 0);
        for piece in self.pieces.drain(first..) {
            joined.extend_from_slice(&piece.bytes);
            frames += piece.frames;
            messages += piece.messages;
            at = piece.at;
        }
        let bytes = joined.freeze();
        self.pieces.push_back(Piece {
            first: sequence,
            frames,
            messages,
            start_bytes,
            bytes,
            at,
            charged_bytes,
        });
    }

    /// Changes the bound; the excess is removed with the next eviction.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Evicts the excess over the bound.
    pub(crate) fn evict(&mut self, pool: &mut Pool) {
        self.forget_while(|log| log.bytes() > log.bytes_max, pool);
    }

    /// Evicts pieces from the oldest on, but never the latest one.
    fn forget_while(&mut self, is_due: impl Fn(&Log) -> bool, pool: &mut Pool) {
        while self.pieces.len() > 1 && is_due(self) {
            if let Some(piece) = self.pieces.pop_front()
                && piece.charged_bytes > 0
            {
                self.drop_segment(pool, piece.bytes, piece.charged_bytes);
            }
            self.unjoined = self.unjoined.min(self.pieces.len());
        }
        self.forget_frames();
        self.settle_charge(pool);
    }

    /// Removes the frames of evicted pieces.
    fn forget_frames(&mut self) {
        let start = self.start();
        while self.first < start
            && let Some(frame) = self.frames.pop_front()
        {
            self.first += 1;
            self.first_offset = frame.offset;
            self.first_bytes = frame.end_bytes;
        }
    }

    /// Shrinks lists that are too large, and updates the charge for them.
    fn settle_charge(&mut self, pool: &mut Pool) {
        let capacity = self.frames.capacity();
        if capacity > 64 && self.frames.len() < capacity / 4 {
            self.frames.shrink_to((2 * self.frames.len()).max(64));
        }
        let (lists_bytes, charged_bytes) = (self.lists_bytes(), self.lists_charged_bytes);
        if lists_bytes < charged_bytes {
            self.discharge(pool, charged_bytes - lists_bytes);
            self.lists_charged_bytes = lists_bytes;
        } else if lists_bytes > charged_bytes && self.charge(pool, lists_bytes - charged_bytes).is_ok() {
            // If there is no memory for it, it is tried again in the next tick.
            self.lists_charged_bytes = lists_bytes;
        }
    }

    /// Evicts whole pieces before `sequence`, but never the latest piece.
    pub(crate) fn forget_before(&mut self, sequence: Sequence, pool: &mut Pool) {
        self.forget_while(|log| log.pieces[0].end() <= sequence, pool);
    }

    /// Removes everything, including the tail: the topic has reached `offset`, and nothing before it can be read.
    /// Readers of an earlier sequence have lost their unread frames.
    pub(crate) fn forget_all(&mut self, offset: u64, pool: &mut Pool) {
        // Sequences lost in the tail are skipped too, so that no cursor equals the end by chance.
        self.end = self.appended() + 1;
        self.first = self.end;
        self.end_offset = offset;
        self.first_offset = offset;
        self.end_bytes += self.tail.len() as u64;
        self.first_bytes = self.end_bytes;
        self.release(pool);
    }

    /// The topic's offset before the frame `sequence`, which is in the log or the next one.
    #[inline]
    pub(crate) fn offset_before(&self, sequence: Sequence) -> u64 {
        match sequence.checked_sub(self.first + 1).and_then(|at| self.frames.get(at as usize)) {
            Some(frame) => frame.offset,
            None => self.first_offset,
        }
    }

    /// The first frame after the message `offset`; the oldest in the log if that is later.
    pub(crate) fn behind_offset(&self, offset: u64) -> Sequence {
        self.first + self.frames.partition_point(|frame| frame.offset <= offset) as u64
    }

    /// The first frame that became readable at `time` or later.
    pub(crate) fn first_since(&self, time: Nanos) -> Sequence {
        let pieces = self.pieces.partition_point(|piece| piece.at < time);
        self.pieces.get(pieces).map_or(self.end, |piece| piece.first)
    }

    /// The first frame of the last `bytes` readable ones, or of the latest piece if that is longer.
    pub(crate) fn first_of_last(&self, bytes: usize) -> Sequence {
        let start = self.end_bytes.saturating_sub(bytes as u64);
        // A frame begins where the one before it ends.
        let begun = usize::from(self.first_bytes < start);
        let first =
            self.first + (begun + self.frames.partition_point(|frame| frame.end_bytes < start)) as u64;
        self.pieces.back().map_or(self.end, |piece| piece.first.min(first))
    }

    /// When the message `offset` was received, or an older one of the same delivery.
    pub(crate) fn received_at(&self, offset: u64) -> Option<Nanos> {
        let frame = self.frames.partition_point(|frame| frame.offset < offset);
        self.readable_since(self.first + frame as u64)
    }

    /// When the frame `sequence`, or an older one of the same delivery, was received; [`Nanos::MAX`] if its tick has not ended.
    pub(crate) fn readable_since(&self, sequence: Sequence) -> Option<Nanos> {
        let at = self.pieces.partition_point(|piece| piece.end() <= sequence);
        self.pieces.get(at).map(|piece| piece.at)
    }

    /// Size and origin of the frame `sequence`; `None` if it is not in the log.
    pub fn frame(&self, sequence: Sequence) -> Option<(usize, Origin)> {
        let at = sequence.checked_sub(self.first)? as usize;
        let frame = self.frames.get(at)?;
        let start = at.checked_sub(1).map_or(self.first_bytes, |before| self.frames[before].end_bytes);
        Some(((frame.end_bytes - start) as usize, frame.origin))
    }

    /// The frames from `from` on, except those of `skip`, as ranges of pieces with their numbers of messages. `from`
    /// must not be before [`start`](Log::start).
    pub fn read(&self, from: Sequence, skip: Option<Origin>) -> impl Iterator<Item = LogRange> + '_ {
        self.read_except(from, skip.is_some(), move |at| self.is_of(at, skip))
    }

    /// The same, except those that `is_skipped` names; all of them if it `skips` none.
    pub(crate) fn read_except<'l>(
        &'l self,
        from: Sequence,
        skips: bool,
        is_skipped: impl Fn(Sequence) -> bool + Copy + 'l,
    ) -> impl Iterator<Item = LogRange> + 'l {
        let first = self.pieces.partition_point(|piece| piece.end() <= from);
        self.pieces.range(first..).flat_map(move |piece| self.stretches(piece, from, skips, is_skipped))
    }

    fn stretches<'l>(
        &'l self,
        piece: &Piece,
        from: Sequence,
        skips: bool,
        is_skipped: impl Fn(Sequence) -> bool + 'l,
    ) -> impl Iterator<Item = LogRange> + 'l {
        let (bytes, start_bytes, piece_end) = (piece.bytes.clone(), piece.start_bytes, piece.end());
        let mut at = piece.first.max(from);
        let mut whole = (at == piece.first && !skips).then_some(piece.messages);
        std::iter::from_fn(move || {
            if let Some(messages) = whole.take() {
                let first = std::mem::replace(&mut at, piece_end);
                return Some(LogRange { bytes: bytes.clone(), messages, first, end: piece_end });
            }
            while at < piece_end && is_skipped(at) {
                at += 1;
            }
            let first = at;
            while at < piece_end && !is_skipped(at) {
                at += 1;
            }
            if first == at {
                return None;
            }
            let [start, end] = [first, at].map(|at| (self.start_bytes(at) - start_bytes) as usize);
            let messages = (self.offset_before(at) - self.offset_before(first)) as u32;
            Some(LogRange { bytes: bytes.slice(start..end), messages, first, end: at })
        })
    }

    /// Byte position of the frame `sequence`.
    fn start_bytes(&self, sequence: Sequence) -> u64 {
        match sequence.checked_sub(self.first + 1) {
            Some(before) => self.frames[before as usize].end_bytes,
            None => self.first_bytes,
        }
    }

    fn is_of(&self, sequence: Sequence, origin: Option<Origin>) -> bool {
        origin.is_some()
            && self.frames.get((sequence - self.first) as usize).map(|frame| frame.origin) == origin
    }

    /// The latest piece.
    #[inline]
    pub fn latest(&self) -> Option<Latest<'_>> {
        self.pieces.back().map(|piece| Latest {
            first: piece.first,
            end: self.end,
            bytes: &piece.bytes,
            messages: piece.messages,
        })
    }

    /// Returns the log's memory to the node.
    pub fn release(&mut self, pool: &mut Pool) {
        let charged_bytes = std::mem::take(&mut self.tail_charged_bytes);
        let tail = std::mem::take(&mut self.tail).freeze();
        for piece in std::mem::take(&mut self.pieces) {
            if piece.charged_bytes > 0 {
                self.drop_segment(pool, piece.bytes, piece.charged_bytes);
            }
        }
        self.drop_segment(pool, tail, charged_bytes);
        self.frames = VecDeque::new();
        let lists_bytes = std::mem::take(&mut self.lists_charged_bytes);
        self.discharge(pool, lists_bytes);
        debug_assert_eq!(self.charged_bytes, 0);
        self.unjoined = 0;
        self.tail_frames = 0;
        self.segment_bytes = 0;
    }
}

/// Consecutive frames that are sent without copying.
#[derive(Debug)]
pub struct LogRange {
    /// The encoded frames.
    pub bytes: Bytes,
    /// Number of messages among them.
    pub messages: u32,
    /// The first of them.
    pub first: Sequence,
    /// End of the frames.
    pub end: Sequence,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(log: &Log, from: Sequence, skip: Option<Origin>) -> (Vec<u8>, u32) {
        let mut bytes = Vec::new();
        let mut messages = 0;
        for stretch in log.read(from, skip) {
            bytes.extend_from_slice(&stretch.bytes);
            messages += stretch.messages;
        }
        (bytes, messages)
    }

    fn append(log: &mut Log, pool: &mut Pool, origin: Origin, frame: &[u8]) {
        let offset = log.offset_before(log.appended()) + 1;
        log.append(pool, origin, offset, &[frame, b"", b"", b""]).unwrap();
    }

    #[test]
    fn a_reader_gets_every_frame_once_and_in_order_over_segments() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1 << 20, 0));
        let mut all = Vec::new();
        for index in 0..5_000_u32 {
            let frame = index.to_le_bytes().repeat(1 + index as usize % 9);
            append(&mut log, &mut pool, 1, &frame);
            all.extend_from_slice(&frame);
            if index % 7 == 0 {
                log.publish(u64::from(index));
            }
        }
        log.publish(5_000);
        assert!(joined(&log, 0, None) == (all.clone(), 5_000));
        assert!(joined(&log, 1, None) == (all[4..].to_vec(), 4_999));
        assert_eq!(joined(&log, log.end(), None), (vec![], 0));
        assert_eq!((log.end(), log.end_offset()), (5_000, 5_000));
    }

    #[test]
    fn own_frames_are_skipped_wherever_they_lie() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1 << 20, 0));
        for (origin, frame) in [(7, "a"), (8, "b"), (7, "c"), (7, "d"), (8, "e")] {
            append(&mut log, &mut pool, origin, frame.as_bytes());
            if frame == "c" {
                log.publish(1);
            }
        }
        log.publish(2);
        assert_eq!(joined(&log, 0, Some(7)), (b"be".to_vec(), 2));
        assert_eq!(joined(&log, 0, Some(8)), (b"acd".to_vec(), 3));
        assert_eq!(joined(&log, 2, Some(8)), (b"cd".to_vec(), 2));
        assert_eq!(log.frame(3), Some((1, 7)));
        assert_eq!(log.frame(5), None);
    }

    #[test]
    fn what_passes_the_bound_is_gone_and_what_is_kept_can_be_read() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1_000, 50));
        for index in 0..1_000_u32 {
            append(&mut log, &mut pool, 0, &[index as u8; 10]);
            log.publish(u64::from(index));
            log.evict(&mut pool);
        }
        assert_eq!((log.end(), log.end_offset()), (1_000, 1_050));
        assert!(log.bytes() <= 1_000);
        let (bytes, messages) = joined(&log, log.start(), None);
        assert_eq!((bytes.len(), u64::from(messages)), (log.bytes(), log.end() - log.start()));
        assert_eq!(
            log.offset_before(log.start()),
            50 + log.start(),
            "the number of missed messages is exact"
        );
        assert!(pool.used_bytes() < 3 * LOG_SEGMENT_BYTES as u64, "evicted segments are freed");
        log.release(&mut pool);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn what_fills_a_segment_within_a_turn_is_as_old_as_the_turn() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1 << 20, 0));
        for tick in 1..=5 {
            let first = log.end();
            for _ in 0..4 {
                append(&mut log, &mut pool, 0, &[0; LOG_SEGMENT_BYTES / 3]);
            }
            log.publish(tick * 1_000);
            assert_eq!(log.readable_since(log.end() - 1), Some(tick * 1_000));
            assert!(log.first_since(tick * 1_000) <= first, "none of them is older");
        }
    }

    #[test]
    fn the_latest_piece_is_what_a_reader_that_keeps_up_gets() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1_000, 0));
        append(&mut log, &mut pool, 0, b"one");
        log.publish(1);
        append(&mut log, &mut pool, 0, b"two");
        append(&mut log, &mut pool, 0, b"three");
        log.publish(2);
        let latest = log.latest().unwrap();
        assert_eq!(
            (latest.first, latest.end, latest.bytes.as_ref(), latest.messages),
            (1, 3, &b"twothree"[..], 2)
        );
    }

    #[test]
    fn notices_are_frames_but_no_messages() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1_000, 7));
        append(&mut log, &mut pool, 0, b"a");
        log.append(&mut pool, 0, 8, &[b"-", b"", b"", b""]).unwrap();
        append(&mut log, &mut pool, 0, b"b");
        log.publish(1);
        assert_eq!(joined(&log, 0, None), (b"a-b".to_vec(), 2));
        assert_eq!(joined(&log, 1, None), (b"-b".to_vec(), 1));
        assert_eq!([0, 1, 2, 3].map(|at| log.offset_before(at)), [7, 8, 8, 9]);
        assert_eq!([7, 8, 9].map(|offset| log.behind_offset(offset)), [0, 2, 3]);
    }

    #[test]
    fn time_finds_frames() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1_000, 0));
        for at in [10, 20, 30] {
            append(&mut log, &mut pool, 0, b"x");
            append(&mut log, &mut pool, 0, b"y");
            log.publish(at);
        }
        assert_eq!([0, 10, 11, 30, 31].map(|at| log.first_since(at)), [0, 0, 2, 4, 6]);
        assert_eq!([0, 3, 5, 6].map(|at| log.readable_since(at)), [Some(10), Some(20), Some(30), None]);
    }

    #[test]
    fn bytes_find_frames() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1_000, 0));
        assert_eq!(log.first_of_last(7), 0);
        for frame in [b"aaa", b"bbb", b"ccc", b"ddd"] {
            append(&mut log, &mut pool, 0, frame);
            log.publish(1);
        }
        // The latest piece is always among them.
        let first = [0, 1, 3, 5, 6, 8, 9, 12, 99].map(|bytes| log.first_of_last(bytes));
        assert_eq!(first, [3, 3, 3, 3, 2, 2, 1, 0, 0]);
        log.forget_before(2, &mut pool);
        assert_eq!([5, 6, 12].map(|bytes| log.first_of_last(bytes)), [3, 2, 2]);
    }

    #[test]
    fn a_quiet_log_costs_little_and_one_that_forgot_everything_nothing() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1 << 20, 0));
        append(&mut log, &mut pool, 0, b"x");
        log.publish(1);
        assert!(pool.used_bytes() < 2_048, "{}", pool.used_bytes());
        append(&mut log, &mut pool, 0, b"y");
        let reader = log.end();
        log.forget_all(9, &mut pool);
        assert_eq!((pool.used_bytes(), log.bytes(), log.end_offset()), (0, 0, 9));
        assert!(reader < log.start(), "it missed something");
        append(&mut log, &mut pool, 0, b"z");
        log.publish(2);
        assert_eq!(joined(&log, log.start(), None), (b"z".to_vec(), 1));
        assert_eq!(log.offset_before(log.start()), 9);
    }

    #[test]
    fn what_a_send_still_has_of_a_log_is_accounted_for() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1_000, 0));
        // One of them is in a segment that is still being filled, one is alone in its segment, and one was joined.
        for frame_bytes in [100, 40_000, 3_000, 3_000, 3_000, 3_000, 3_000, 3_000] {
            append(&mut log, &mut pool, 0, &vec![b'x'; frame_bytes]);
            log.publish(1);
        }
        let sending: Vec<Bytes> = log.read(log.start(), None).map(|stretch| stretch.bytes).collect();
        let held: usize = sending.iter().map(Bytes::len).sum();
        log.release(&mut pool);
        pool.trim();
        let used = pool.used_bytes() as usize;
        assert!(used >= held && used < 2 * held, "{used} for {held}");
        drop(sending);
        pool.trim();
        assert_eq!(pool.used_bytes(), 0);
    }
}
