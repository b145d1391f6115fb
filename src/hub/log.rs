//! One topic's encoded frames on one shard, bounded, with positions that never repeat.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::buffer::Pool;
use crate::limits::LOG_SEGMENT_BYTES;

/// A position in a log: encoded bytes appended before it since the log began.
pub type LogPosition = u64;

/// Who appended a frame, so that it can be kept from coming back. 0 is nobody.
pub type Origin = u64;

/// A bounded log of encoded frames. Readers hold a [`LogPosition`]; what they have not read by the time the
/// log's bound passes it is lost to them.
///
/// ```text
/// evicted | piece | piece | piece of this turn ] tail (not readable until `publish`)
///         ^ start                              ^ end
/// ```
///
/// Frames of one turn become one piece, so that the readers that keep up, nearly all, share one allocation
/// and one range. Pieces of a full segment are joined, so that those that do not keep up need few of them.
#[derive(Debug)]
pub struct Log {
    pieces: VecDeque<Piece>,
    /// Ends and origins of the frames that are kept.
    frames: VecDeque<Frame>,
    tail: BytesMut,
    tail_frames: u32,
    /// Pieces at the end that were cut from the current segment.
    unjoined: usize,
    end: LogPosition,
    bytes_max: usize,
    charged_bytes: usize,
}

#[derive(Debug)]
struct Piece {
    start: LogPosition,
    frames: u32,
    bytes: Bytes,
}

impl Piece {
    fn end(&self) -> LogPosition {
        self.start + self.bytes.len() as u64
    }
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    end: LogPosition,
    origin: Origin,
}

/// The node's memory is spent; nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl Log {
    /// An empty log that keeps about `bytes_max` bytes, and always the latest piece.
    pub fn new(bytes_max: usize) -> Log {
        Log {
            pieces: VecDeque::new(),
            frames: VecDeque::new(),
            tail: BytesMut::new(),
            tail_frames: 0,
            unjoined: 0,
            end: 0,
            bytes_max,
            charged_bytes: 0,
        }
    }

    /// The oldest position that can be read.
    pub fn start(&self) -> LogPosition {
        self.pieces.front().map_or(self.end, |piece| piece.start)
    }

    /// The position behind the last published frame.
    pub fn end(&self) -> LogPosition {
        self.end
    }

    /// The position behind the last appended frame, readable or not.
    pub fn appended(&self) -> LogPosition {
        self.end + self.tail.len() as u64
    }

    /// Appends one encoded frame, given as header and payload. It is readable after [`publish`](Log::publish). Returns the position behind it.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the node's budget has no room for another segment.
    pub fn append(
        &mut self,
        pool: &mut Pool,
        origin: Origin,
        frame: [&[u8]; 2],
    ) -> Result<LogPosition, OutOfMemory> {
        let frame_bytes = frame[0].len() + frame[1].len();
        if self.tail.capacity() - self.tail.len() < frame_bytes {
            self.open_segment(pool, frame_bytes)?;
        }
        self.tail.extend_from_slice(frame[0]);
        self.tail.extend_from_slice(frame[1]);
        self.tail_frames += 1;
        let end = self.end + self.tail.len() as u64;
        self.frames.push_back(Frame { end, origin });
        Ok(end)
    }

    /// Makes readable what was appended; returns whether there was anything.
    pub fn publish(&mut self, pool: &mut Pool) -> bool {
        if self.tail.is_empty() {
            return false;
        }
        self.cut();
        self.evict(pool);
        true
    }

    fn cut(&mut self) {
        let bytes = self.tail.split().freeze();
        let piece = Piece { start: self.end, frames: std::mem::take(&mut self.tail_frames), bytes };
        self.end = piece.end();
        self.pieces.push_back(piece);
        self.unjoined += 1;
    }

    fn open_segment(&mut self, pool: &mut Pool, frame_bytes: usize) -> Result<(), OutOfMemory> {
        let capacity = frame_bytes.max(LOG_SEGMENT_BYTES);
        if !pool.charge(capacity) {
            return Err(OutOfMemory);
        }
        self.charged_bytes += capacity;
        if !self.tail.is_empty() {
            self.cut();
        }
        self.join();
        self.tail = BytesMut::with_capacity(capacity);
        Ok(())
    }

    /// Replaces the pieces of the segment that is full by one.
    fn join(&mut self) {
        let first = self.pieces.len() - std::mem::take(&mut self.unjoined);
        if self.pieces.len() - first < 2 {
            return;
        }
        let start = self.pieces[first].start;
        let mut joined = BytesMut::with_capacity((self.end - start) as usize);
        let mut frames = 0;
        for piece in self.pieces.drain(first..) {
            joined.extend_from_slice(&piece.bytes);
            frames += piece.frames;
        }
        self.pieces.push_back(Piece { start, frames, bytes: joined.freeze() });
    }

    fn evict(&mut self, pool: &mut Pool) {
        while self.pieces.len() > 1 && self.end - self.pieces[0].start > self.bytes_max as u64 {
            self.pieces.pop_front();
            self.unjoined = self.unjoined.min(self.pieces.len());
        }
        let start = self.start();
        while self.frames.front().is_some_and(|frame| frame.end <= start) {
            self.frames.pop_front();
        }
        // What is kept, and one segment that is being filled.
        let kept_bytes = (self.end - start) as usize + LOG_SEGMENT_BYTES;
        if self.charged_bytes > kept_bytes {
            pool.discharge(self.charged_bytes - kept_bytes);
            self.charged_bytes = kept_bytes;
        }
    }

    /// The frames from `from` on that are not of `skip`, as ranges of pieces with their count of frames.
    /// `from` must be a position between frames, not before [`start`](Log::start).
    pub fn read(&self, from: LogPosition, skip: Option<Origin>) -> impl Iterator<Item = Stretch> + '_ {
        let first = self.pieces.partition_point(|piece| piece.end() <= from);
        self.pieces.range(first..).flat_map(move |piece| self.stretches(piece, from, skip))
    }

    fn stretches(&self, piece: &Piece, from: LogPosition, skip: Option<Origin>) -> Stretches<'_> {
        let start = piece.start.max(from);
        let whole = start == piece.start && skip.is_none();
        let next = self.frames.partition_point(|frame| frame.end <= start);
        Stretches {
            log: self,
            bytes: piece.bytes.clone(),
            piece: piece.start..piece.end(),
            at: start,
            next,
            skip,
            whole: whole.then_some(piece.frames),
        }
    }

    /// The latest piece, with where it starts and its count of frames: what a reader that keeps up is sent.
    #[inline]
    pub fn latest(&self) -> Option<(LogPosition, &Bytes, u32)> {
        self.pieces.back().map(|piece| (piece.start, &piece.bytes, piece.frames))
    }

    /// Gives the log's memory back to the node.
    pub fn release(&mut self, pool: &mut Pool) {
        pool.discharge(std::mem::take(&mut self.charged_bytes));
        self.pieces.clear();
        self.frames.clear();
        self.tail = BytesMut::new();
    }
}

/// Consecutive frames that are sent as they lie.
#[derive(Debug)]
pub struct Stretch {
    /// The encoded frames.
    pub bytes: Bytes,
    /// How many they are.
    pub frames: u32,
    /// The position behind them and behind what was skipped after them.
    pub end: LogPosition,
}

struct Stretches<'a> {
    log: &'a Log,
    bytes: Bytes,
    piece: Range<LogPosition>,
    at: LogPosition,
    next: usize,
    skip: Option<Origin>,
    whole: Option<u32>,
}

impl Iterator for Stretches<'_> {
    type Item = Stretch;

    fn next(&mut self) -> Option<Stretch> {
        if let Some(frames) = self.whole.take() {
            self.next = self.log.frames.len();
            return Some(Stretch { bytes: self.bytes.clone(), frames, end: self.piece.end });
        }
        let skipped = |frame: &Frame| Some(frame.origin) == self.skip;
        let in_piece = |frame: &&Frame| frame.end <= self.piece.end;
        let frames = &self.log.frames;
        while let Some(frame) = frames.get(self.next).filter(in_piece).filter(|frame| skipped(frame)) {
            self.at = frame.end;
            self.next += 1;
        }
        let start = self.at;
        let mut count = 0;
        while let Some(frame) = frames.get(self.next).filter(in_piece).filter(|frame| !skipped(frame)) {
            self.at = frame.end;
            self.next += 1;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        let range = (start - self.piece.start) as usize..(self.at - self.piece.start) as usize;
        Some(Stretch { bytes: self.bytes.slice(range), frames: count, end: self.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(log: &Log, from: LogPosition, skip: Option<Origin>) -> (Vec<u8>, u32) {
        let mut bytes = Vec::new();
        let mut frames = 0;
        for stretch in log.read(from, skip) {
            bytes.extend_from_slice(&stretch.bytes);
            frames += stretch.frames;
        }
        (bytes, frames)
    }

    #[test]
    fn a_reader_gets_every_frame_once_and_in_order_over_segments() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1 << 20));
        let mut all = Vec::new();
        for index in 0..5_000_u32 {
            let frame = index.to_le_bytes().repeat(1 + index as usize % 9);
            log.append(&mut pool, 1, [&frame, b""]).unwrap();
            all.extend_from_slice(&frame);
            if index % 7 == 0 {
                log.publish(&mut pool);
            }
        }
        log.publish(&mut pool);
        assert!(joined(&log, 0, None) == (all.clone(), 5_000));
        assert!(joined(&log, 4, None) == (all[4..].to_vec(), 4_999));
        assert_eq!(joined(&log, log.end(), None), (vec![], 0));
    }

    #[test]
    fn own_frames_are_skipped_wherever_they_lie() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1 << 20));
        for (origin, frame) in [(7, "a"), (8, "b"), (7, "c"), (7, "d"), (8, "e")] {
            log.append(&mut pool, origin, [frame.as_bytes(), b""]).unwrap();
            if frame == "c" {
                log.publish(&mut pool);
            }
        }
        log.publish(&mut pool);
        assert_eq!(joined(&log, 0, Some(7)), (b"be".to_vec(), 2));
        assert_eq!(joined(&log, 0, Some(8)), (b"acd".to_vec(), 3));
        assert_eq!(joined(&log, 2, Some(8)), (b"cd".to_vec(), 2));
    }

    #[test]
    fn what_passes_the_bound_is_gone_and_what_is_kept_can_be_read() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1_000));
        for index in 0..1_000_u32 {
            log.append(&mut pool, 0, [&[index as u8; 4], &[index as u8; 6]]).unwrap();
            log.publish(&mut pool);
        }
        assert_eq!(log.end(), 10_000);
        assert!(log.end() - log.start() <= 1_000);
        let (bytes, frames) = joined(&log, log.start(), None);
        assert_eq!(
            (bytes.len() as u64, u64::from(frames)),
            (log.end() - log.start(), (log.end() - log.start()) / 10)
        );
        assert!(pool.used_bytes() < 3 * LOG_SEGMENT_BYTES as u64, "evicted segments are given back");
        log.release(&mut pool);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn the_latest_piece_is_what_a_reader_that_keeps_up_gets() {
        let (mut pool, mut log) = (Pool::standalone(), Log::new(1_000));
        log.append(&mut pool, 0, [b"one", b""]).unwrap();
        log.publish(&mut pool);
        let at = log.end();
        log.append(&mut pool, 0, [b"two", b""]).unwrap();
        log.append(&mut pool, 0, [b"three", b""]).unwrap();
        log.publish(&mut pool);
        assert_eq!(
            log.latest().map(|(start, bytes, frames)| (start, bytes.as_ref(), frames)),
            Some((at, &b"twothree"[..], 2))
        );
    }
}
