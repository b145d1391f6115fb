//! The LZ77 window of a connection: the latest output, to which the next message may refer.
//!
//! Never: more memory than the size of the window, or memory before the first message.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

/// The state that a direction with context takeover keeps between messages: the latest output, up to the size of the
/// window. An [`Inflater`](super::Inflater) shares all other state among connections.
pub struct Window {
    /// A ring buffer once it is full.
    bytes: Vec<u8>,
    /// The position of the oldest byte.
    start: usize,
    bytes_max: usize,
    /// The inflater that has loaded this window. Valid while its message count is unchanged.
    loaded_in: Option<(Arc<()>, u64)>,
}

impl Window {
    /// An empty window of at most 2^`window_bits` bytes. It allocates with the first message.
    ///
    /// # Panics
    /// When `window_bits` is not 8 to 15.
    pub fn new(window_bits: u8) -> Window {
        assert!((8..=15).contains(&window_bits), "RFC 7692, 7.1.2");
        Window { bytes: Vec::new(), start: 0, bytes_max: 1 << window_bits, loaded_in: None }
    }

    /// Bytes of heap that a window owns at most.
    pub const fn memory_bytes(window_bits: u8) -> usize {
        1 << window_bits
    }

    /// Clears the window and keeps its memory, so that another connection can use it.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
        self.loaded_in = None;
    }

    /// Whether `inflater` has loaded this window and has begun no message since.
    pub(super) fn is_loaded_in(&self, inflater: &Arc<()>, messages: u64) -> bool {
        matches!(&self.loaded_in, Some((loaded, count)) if Arc::ptr_eq(loaded, inflater) && *count == messages)
    }

    /// [Appends](Window::push) a message. `inflater`, if any, is the inflater that has the result loaded, with its
    /// message count.
    pub(crate) fn append(&mut self, message: &[u8], inflater: Option<(&Arc<()>, u64)>) {
        self.push(message);
        self.loaded_in = inflater.map(|(inflater, messages)| (Arc::clone(inflater), messages));
    }

    /// Appends `message` and drops the oldest bytes beyond the size of the window.
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

    /// The content in two parts, the older first; either may be empty.
    pub(crate) fn halves(&self) -> [&[u8]; 2] {
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
    fn the_latest_bytes_are_kept_in_order_for_every_chunk_size() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(4000).collect();
        for bytes_max in [256_usize, 512] {
            for chunk_bytes in [1, 2, 3, 6, 7, 8, 13, 255, 256, 257, 511, 513, 1100] {
                let mut window = Window::new(bytes_max.ilog2() as u8);
                let mut pushed = 0;
                for chunk in bytes.chunks(chunk_bytes) {
                    window.push(chunk);
                    window.push(&[]);
                    pushed += chunk.len();
                    let kept = &bytes[pushed.saturating_sub(bytes_max)..pushed];
                    assert_eq!(window.halves().concat(), kept, "{bytes_max} by {chunk_bytes}");
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
