//! The bytes that came before a message, as far back as it may refer to them.
//!
//! Never: more memory than the window has bytes, or memory before there is something to keep.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

/// What a direction with takeover keeps from message to message: the latest output, at most a window of it. All
/// else that inflating takes an [`Inflater`](super::Inflater) shares among connections.
pub struct Window {
    /// A ring once it is full.
    bytes: Vec<u8>,
    /// Where the ring begins: its oldest byte.
    start: usize,
    bytes_max: usize,
    /// The inflater that has this window in place, while its count of messages stays so.
    in_place: Option<(Arc<()>, u64)>,
}

impl Window {
    /// An empty window of at most 2^`window_bits` bytes; it owns memory from the first message on.
    ///
    /// # Panics
    /// If `window_bits` is not 8 to 15.
    pub fn new(window_bits: u8) -> Window {
        assert!((8..=15).contains(&window_bits), "RFC 7692, 7.1.2");
        Window { bytes: Vec::new(), start: 0, bytes_max: 1 << window_bits, in_place: None }
    }

    /// Bytes of heap that a window owns at most.
    pub const fn memory_bytes(window_bits: u8) -> usize {
        1 << window_bits
    }

    /// Forgets everything, but keeps its memory: the window goes to another connection.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
        self.in_place = None;
    }

    /// Whether `inflater` has begun no message since it stood behind what is kept here.
    pub(super) fn is_in_place(&self, inflater: &Arc<()>, messages: u64) -> bool {
        matches!(&self.in_place, Some((behind, count)) if Arc::ptr_eq(behind, inflater) && *count == messages)
    }

    /// [Appends](Window::push) a message; the inflater named, if any, now stands behind it, having begun so many
    /// messages.
    pub(super) fn take(&mut self, message: &[u8], inflater: Option<(&Arc<()>, u64)>) {
        self.push(message);
        self.in_place = inflater.map(|(inflater, messages)| (Arc::clone(inflater), messages));
    }

    /// Appends `message`, and drops as much of what is oldest.
    fn push(&mut self, message: &[u8]) {
        if message.len() >= self.bytes_max {
            self.bytes.clear();
            self.start = 0;
        }
        let latest = &message[message.len().saturating_sub(self.bytes_max)..];
        let (appended, mut rest) = latest.split_at(latest.len().min(self.bytes_max - self.bytes.len()));
        let bytes = self.bytes.len() + appended.len();
        if bytes > self.bytes.capacity() {
            let capacity = (self.bytes.capacity() * 2).clamp(bytes, self.bytes_max);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(appended);
        while !rest.is_empty() {
            let end = self.bytes_max.min(self.start + rest.len());
            let (overwriting, next) = rest.split_at(end - self.start);
            self.bytes[self.start..end].copy_from_slice(overwriting);
            self.start = end % self.bytes_max;
            rest = next;
        }
    }

    /// What is kept, the older half first; either may be empty.
    pub(super) fn halves(&self) -> [&[u8]; 2] {
        let (newer, older) = self.bytes.split_at(self.start);
        [older, newer]
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_bytes_are_kept_in_order_whatever_the_pieces() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(4000).collect();
        for bytes_max in [256_usize, 512] {
            for piece_bytes in [1, 2, 3, 6, 7, 8, 13, 255, 256, 257, 511, 513, 1100] {
                let mut window = Window::new(bytes_max.ilog2() as u8);
                let mut pushed = 0;
                for piece in bytes.chunks(piece_bytes) {
                    window.push(piece);
                    window.push(&[]);
                    pushed += piece.len();
                    let kept = &bytes[pushed.saturating_sub(bytes_max)..pushed];
                    assert_eq!(window.halves().concat(), kept, "{bytes_max} by {piece_bytes}");
                    assert!(window.bytes.capacity() <= bytes_max);
                }
                window.clear();
                assert_eq!(window.halves().concat(), b"");
                window.push(b"a");
                assert_eq!(window.halves().concat(), b"a");
            }
        }
    }
}
