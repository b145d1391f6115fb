//! The bytes that came before a message, as far back as it may refer to them.
//!
//! Never: more memory than the window has bytes, or memory before there is something to keep.

#![forbid(unsafe_code)]

/// The latest output of one direction, at most a window of it.
#[derive(Debug)]
pub(super) struct Window {
    /// A ring once it is full.
    bytes: Vec<u8>,
    /// Where the ring begins: its oldest byte.
    start: usize,
    bytes_max: usize,
}

impl Window {
    pub fn new(bytes_max: usize) -> Window {
        Window { bytes: Vec::new(), start: 0, bytes_max }
    }

    /// Appends `message`, and drops as much of what is oldest.
    pub fn push(&mut self, message: &[u8]) {
        if message.len() >= self.bytes_max {
            self.clear();
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
    pub fn halves(&self) -> [&[u8]; 2] {
        let (newer, older) = self.bytes.split_at(self.start);
        [older, newer]
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_bytes_are_kept_in_order_whatever_the_pieces() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(4000).collect();
        for bytes_max in [1, 2, 7, 256] {
            for piece_bytes in [1, 2, 3, 6, 7, 8, 13, 255, 256, 257, 600] {
                let mut window = Window::new(bytes_max);
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
