//! Decompressing one direction of a connection (RFC 7692, 7.2.2), never past the caller's bound.

#![forbid(unsafe_code)]

use zlib_rs::{Inflate, InflateFlush, Status};

use super::{Direction, TAIL, WINDOW_BITS_MAX};
use crate::protocol::Offence;

/// Behind the last block of a message: what the sender cut off, and an empty final block. Only if the decoder
/// meets that one at the very end was the message's data whole.
const END: [u8; 6] = [TAIL[0], TAIL[1], TAIL[2], TAIL[3], 0x03, 0x00];

/// The least that the output grows to.
const OUTPUT_BYTES_MIN: usize = 1024;

/// One direction's decompressor. Without takeover one object serves any number of connections.
pub struct Inflater {
    direction: Direction,
    engine: Inflate,
    /// With takeover: the latest output, at most a window of it.
    window: Vec<u8>,
}

impl Inflater {
    /// An inflater with an empty window.
    ///
    /// # Panics
    /// If `direction.window_bits` is not 8 to 15.
    pub fn new(direction: Direction) -> Inflater {
        assert!((8..=15).contains(&direction.window_bits), "RFC 7692, 7.1.2");
        // The window belongs to us, so the engine's own may as well be the largest.
        Inflater { direction, engine: Inflate::new(false, WINDOW_BITS_MAX), window: Vec::new() }
    }

    /// Bytes of heap that an inflater of this direction owns at most.
    pub const fn memory_bytes(direction: Direction) -> usize {
        let window_bytes = if direction.takeover { direction.window_bytes() } else { 0 };
        48 * 1024 + window_bytes
    }

    /// Decompresses one whole message: the payloads of all its frames without the `00 00 ff ff` that the
    /// sender cut off. The message is `out[..n]` for the `n` returned; `out` is scratch, which grows by
    /// doubling up to `bytes_max` bytes and is kept for the next message.
    ///
    /// An empty payload is an empty message. A final block (BFINAL) may stand anywhere and ends nothing but
    /// itself (RFC 7692, 7.2.3.4); behind one, the message may also end without the empty block that the RFC
    /// asks for, since nothing can be missing there.
    ///
    /// # Errors
    /// [`Offence::MessageTooBig`] for more than `bytes_max` bytes, noticed when they are full and without
    /// producing one more; [`Offence::BadCompression`] for what is not DEFLATE, is cut short, or refers to bytes
    /// before the window. After an error the inflater must be [reset](Inflater::reset).
    pub fn inflate(&mut self, payload: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<usize, Offence> {
        if payload.is_empty() {
            return Ok(0);
        }
        self.engine.reset(false);
        self.prime(&[])?;
        let mut written = 0;
        let mut rest = payload;
        loop {
            if self.run(&mut rest, out, &mut written, bytes_max)? {
                // A final block of the message's own. The engine forgets its window behind it; the message does not.
                if rest.is_empty() {
                    break;
                }
                self.engine.reset(false);
                self.prime(&out[..written])?;
            } else {
                let mut end = &END[..];
                if self.run(&mut end, out, &mut written, bytes_max)? && end.is_empty() {
                    break;
                }
                return Err(Offence::BadCompression);
            }
        }
        self.remember(&out[..written]);
        Ok(written)
    }

    /// Forgets the window: the inflater goes to another connection.
    pub fn reset(&mut self) {
        self.window.clear();
    }

    /// Feeds `input` to the engine until it is used up (`false`) or a final block ended (`true`).
    fn run(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
        written: &mut usize,
        bytes_max: usize,
    ) -> Result<bool, Offence> {
        loop {
            if *written == out.len().min(bytes_max) {
                grow(out, bytes_max);
            }
            let room = out.len().min(bytes_max);
            let (input_before, output_before) = (self.engine.total_in(), self.engine.total_out());
            let status = self
                .engine
                .decompress(input, &mut out[*written..room], InflateFlush::SyncFlush)
                .map_err(|_| Offence::BadCompression)?;
            let used = (self.engine.total_in() - input_before) as usize;
            let made = (self.engine.total_out() - output_before) as usize;
            *input = &input[used..];
            *written += made;
            if status == Status::StreamEnd {
                return Ok(true);
            }
            let full = *written == room;
            if full && room < bytes_max {
                continue;
            }
            // All input used and room left: no output is pending either.
            if input.is_empty() && !full {
                return Ok(false);
            }
            if used == 0 && made == 0 {
                return if input.is_empty() { Ok(false) } else { Err(Offence::MessageTooBig) };
            }
        }
    }

    /// Shows the engine what went before: the window, and what this message has become so far.
    fn prime(&mut self, message: &[u8]) -> Result<(), Offence> {
        for earlier in [&self.window[..], message] {
            if !earlier.is_empty() {
                let window_bytes = 1 << WINDOW_BITS_MAX;
                let latest = &earlier[earlier.len().saturating_sub(window_bytes)..];
                self.engine.set_dictionary(latest).map_err(|_| Offence::BadCompression)?;
            }
        }
        Ok(())
    }

    /// Keeps the end of `message` for the next one.
    fn remember(&mut self, message: &[u8]) {
        if !self.direction.takeover {
            return;
        }
        let window_bytes = self.direction.window_bytes();
        let latest = &message[message.len().saturating_sub(window_bytes)..];
        let stale = (self.window.len() + latest.len()).saturating_sub(window_bytes);
        self.window.drain(..stale);
        self.window.reserve_exact(window_bytes - self.window.len());
        self.window.extend_from_slice(latest);
    }
}

/// Doubles `out`, up to `bytes_max`.
fn grow(out: &mut Vec<u8>, bytes_max: usize) {
    let bytes = (out.len() * 2).max(OUTPUT_BYTES_MIN).min(bytes_max);
    if bytes > out.len() {
        out.reserve_exact(bytes - out.len());
        out.resize(bytes, 0);
    }
}
