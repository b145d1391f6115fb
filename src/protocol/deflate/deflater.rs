//! Compressing one direction of a connection (RFC 7692, 7.2.1).

#![forbid(unsafe_code)]

use std::fmt;

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

use super::{Direction, TAIL};

/// An empty message: an empty stored block without its length (RFC 7692, 7.2.3.6).
const EMPTY: u8 = 0x00;

/// One direction's compressor. Without takeover one object serves any number of connections.
pub struct Deflater {
    direction: Direction,
    engine: Deflate,
}

impl Deflater {
    /// A deflater with an empty window. `level` is 1, the fastest, to 9, the densest.
    ///
    /// # Panics
    /// If the direction does not [deflate](Direction::deflates), or for another level.
    pub fn new(direction: Direction, level: u8) -> Deflater {
        assert!(direction.deflates() && direction.window_bits <= 15, "RFC 7692, 7.1.2");
        assert!((1..=9).contains(&level), "a level from 1 to 9");
        let config = DeflateConfig {
            window_bits: -i32::from(direction.window_bits),
            level: level.into(),
            ..DeflateConfig::default()
        };
        Deflater { direction, engine: Deflate::new_with_config(config) }
    }

    /// Bytes of heap that a deflater of this direction owns at most.
    pub const fn memory_bytes(direction: Direction) -> usize {
        // Window twice, its hash chains, the hash table, output and symbols of a block, the state.
        4 * direction.window_bytes() + (128 + 64 + 64 + 8) * 1024
    }

    /// Compresses one whole message. The payload is `out[..n]` for the `n` returned, never empty, without the
    /// `00 00 ff ff` that the receiver adds; `out` is scratch, which grows to little more than the message and is
    /// kept for the next one.
    pub fn deflate(&mut self, message: &[u8], out: &mut Vec<u8>) -> usize {
        let bytes_max = message.len() + message.len() / 8 + 64;
        if out.len() < bytes_max {
            out.reserve_exact(bytes_max - out.len());
            out.resize(bytes_max, 0);
        }
        if message.is_empty() {
            out[0] = EMPTY;
            return 1;
        }
        if !self.direction.takeover {
            self.engine.reset();
        }
        let (input_before, output_before) = (self.engine.total_in(), self.engine.total_out());
        let mut written = 0;
        loop {
            let used = (self.engine.total_in() - input_before) as usize;
            let status = self.engine.compress(&message[used..], &mut out[written..], DeflateFlush::SyncFlush);
            assert!(status.is_ok(), "a deflater takes any input");
            written = (self.engine.total_out() - output_before) as usize;
            // Output that does not fill its room is all there is.
            if written < out.len() {
                break;
            }
            out.resize(written * 2, 0);
        }
        debug_assert!(out[..written].ends_with(&TAIL), "a sync flush ends in an empty stored block");
        written - TAIL.len()
    }

    /// Forgets the window: the deflater goes to another connection, or its last message did not reach the peer
    /// from this window.
    pub fn reset(&mut self) {
        self.engine.reset();
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").field("direction", &self.direction).finish_non_exhaustive()
    }
}
