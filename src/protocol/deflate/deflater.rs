//! Compressing one direction of a connection (RFC 7692, 7.2.1).

#![forbid(unsafe_code)]

use std::fmt;

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

use super::{Direction, TAIL};

/// An empty message: an empty stored block without its length (RFC 7692, 7.2.3.6).
const EMPTY: u8 = 0x00;

/// zlib's measure of the memory that a block's symbols wait in: 4,096 of them, in 28 KiB. The usual four times as
/// many made no message smaller by a hundredth, and none faster.
const MEMORY_LEVEL: i32 = 6;
/// The engine's table of hashes, whatever the window.
const HASH_BYTES: usize = 128 * 1024;
/// Symbols and output of a block, and the state.
const BLOCK_BYTES: usize = 32 * 1024;

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
            mem_level: MEMORY_LEVEL,
            ..DeflateConfig::default()
        };
        Deflater { direction, engine: Deflate::new_with_config(config) }
    }

    /// Bytes of heap that a deflater of this direction owns, at once and for good.
    pub const fn memory_bytes(direction: Direction) -> usize {
        // The window twice, so that it slides seldom, and as much again for its chains of hashes.
        4 * direction.window_bytes() + HASH_BYTES + BLOCK_BYTES
    }

    /// Compresses one whole message. The payload is `out[..n]` for the `n` returned, never empty, without the
    /// `00 00 ff ff` that the receiver adds; `out` is scratch, which grows to an eighth more than the message and is
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
