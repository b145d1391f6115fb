//! Compression of one direction of a connection (RFC 7692, 7.2.1).

#![forbid(unsafe_code)]

use std::fmt;

use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

use super::{Direction, TAIL};

/// An empty message: an empty stored block without its length (RFC 7692, 7.2.3.6).
const EMPTY: u8 = 0x00;

/// zlib's `memLevel` for the symbol buffer of a block: 4,096 symbols in 28 KiB. The default of four times as many
/// made no message smaller by 1 %, and none faster.
const MEMORY_LEVEL: i32 = 6;
/// Size of the hash table of the engine in bytes; it does not depend on the window.
const HASH_BYTES: usize = 128 * 1024;
/// Size of the symbols, the output of a block and the state, in bytes.
const BLOCK_BYTES: usize = 32 * 1024;

/// The compressor of one direction. Without context takeover it serves any number of connections.
pub struct Deflater {
    direction: Direction,
    engine: Deflate,
}

impl Deflater {
    /// A deflater with an empty window. `level` is from 1 (fastest) to 9 (smallest).
    ///
    /// # Panics
    /// When the direction is not [supported](Direction::deflates), or the level is out of range.
    pub fn new(direction: Direction, level: u8) -> Deflater {
        assert!(direction.deflates() && direction.window_bits <= 15, "RFC 7692, 7.1.2");
        assert!((1..=9).contains(&level), "the level must be from 1 to 9");
        let config = DeflateConfig {
            window_bits: -i32::from(direction.window_bits),
            level: level.into(),
            mem_level: MEMORY_LEVEL,
            ..DeflateConfig::default()
        };
        Deflater { direction, engine: Deflate::new_with_config(config) }
    }

    /// Bytes of heap that a deflater of this direction owns from its creation on.
    pub const fn memory_bytes(direction: Direction) -> usize {
        // Twice the window, so that it slides rarely, and the same size again for the hash chains.
        4 * direction.window_bytes() + HASH_BYTES + BLOCK_BYTES
    }

    /// Compresses one message. The payload is `out[..n]` for the returned `n`. It is never empty, and lacks the
    /// `00 00 ff ff` that the receiver appends. `out` is a scratch buffer; it grows to 9/8 of the message and is reused
    /// for the next one.
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
        if !self.direction.context_takeover {
            self.engine.reset();
        }
        let (input_before, output_before) = (self.engine.total_in(), self.engine.total_out());
        let mut written = 0;
        loop {
            let used = (self.engine.total_in() - input_before) as usize;
            let status = self.engine.compress(&message[used..], &mut out[written..], DeflateFlush::SyncFlush);
            assert!(status.is_ok(), "a deflater accepts any input");
            written = (self.engine.total_out() - output_before) as usize;
            // The output is complete when it does not fill the buffer.
            if written < out.len() {
                break;
            }
            out.resize(written * 2, 0);
        }
        debug_assert!(out[..written].ends_with(&TAIL), "a sync flush ends in an empty stored block");
        written - TAIL.len()
    }

    /// Bytes of the messages that it has compressed since its window was last empty; with context takeover only.
    pub fn consumed_bytes(&self) -> u64 {
        self.engine.total_in()
    }

    /// Clears the window. Required before another connection uses the deflater, and after a message that the peer did
    /// not receive.
    pub fn reset(&mut self) {
        self.engine.reset();
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").field("direction", &self.direction).finish_non_exhaustive()
    }
}
