//! Decompression of one direction of a connection (RFC 7692, 7.2.2).
//!
//! Never: output above the bound of the caller.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use zlib_rs::{Inflate, InflateFlush, Status};

use super::window::Window;
use super::{Direction, TAIL, WINDOW_BITS_MAX};
use crate::ProtocolError;

/// Heap of the engine in bytes, for any window size: 32 KiB of window, the tables and the state.
const ENGINE_BYTES: usize = 48 * 1024;

/// Minimum size of the output buffer in bytes after it grows.
const OUTPUT_BYTES_MIN: usize = 1024;

/// A decompressor. It serves any number of connections. A connection with context takeover needs a [`Window`] of its
/// own.
pub struct Inflater {
    direction: Direction,
    engine: Engine,
    /// With context takeover: the window of the one connection that owns this inflater.
    window: Window,
}

impl Inflater {
    /// An inflater with an empty window of its own.
    ///
    /// # Panics
    /// When `direction.window_bits` is not 8 to 15.
    pub fn new(direction: Direction) -> Inflater {
        let engine = Engine { zlib: Inflate::new(false, WINDOW_BITS_MAX), id: Arc::new(()), messages: 0 };
        Inflater { direction, engine, window: Window::new(direction.window_bits) }
    }

    /// Bytes of heap that an inflater of this direction owns at most.
    pub const fn memory_bytes(direction: Direction) -> usize {
        ENGINE_BYTES
            + if direction.context_takeover { Window::memory_bytes(direction.window_bits) } else { 0 }
    }

    /// Decompresses one message: the payloads of all its frames without the `00 00 ff ff` that the sender removed.
    /// The message is `out[..n]` for the returned `n`. `out` is a scratch buffer; it doubles up to `bytes_max` bytes
    /// and is reused for the next message.
    ///
    /// Two encodings that the RFC does not define are accepted, because both are complete: an empty payload is an
    /// empty message, and the empty block of 7.2.3.4 may be missing after a final block (BFINAL). A final block may
    /// occur anywhere and does not clear the window. A reference beyond the window is an error only if it reaches
    /// before the known data, which always includes the last 32 KiB of the message itself.
    ///
    /// # Errors
    /// - [`ProtocolError::MessageTooBig`] for more than `bytes_max` bytes. Decompression stops at the bound.
    /// - [`ProtocolError::BadCompression`] when the data is not DEFLATE, is truncated, continues after its end, or
    ///   refers to unknown data.
    ///
    /// After an error the window is unchanged.
    pub fn inflate(
        &mut self,
        payload: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<usize, ProtocolError> {
        let window = self.direction.context_takeover.then_some(&mut self.window);
        self.engine.inflate(window, payload, out, bytes_max)
    }

    /// Decompresses one message of a connection that has its own window, and so needs no inflater of its own. The
    /// window is first loaded into the engine, unless it is already loaded. Loading 32 KiB takes 1 µs.
    ///
    /// # Errors
    /// As [`Inflater::inflate`].
    pub fn inflate_after(
        &mut self,
        window: &mut Window,
        payload: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<usize, ProtocolError> {
        self.engine.inflate(Some(window), payload, out, bytes_max)
    }

    /// Clears the window of the inflater. Required before another connection uses it.
    pub fn reset(&mut self) {
        self.window.clear();
    }
}

/// The state of zlib, and an identity that tells which window is loaded.
struct Engine {
    zlib: Inflate,
    /// Identifies this engine in the windows that it loaded.
    id: Arc<()>,
    /// Number of messages begun.
    messages: u64,
}

impl Engine {
    fn inflate(
        &mut self,
        mut window: Option<&mut Window>,
        payload: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<usize, ProtocolError> {
        if payload.is_empty() {
            return Ok(0);
        }
        let is_loaded = window.as_deref().is_some_and(|window| window.is_loaded_in(&self.id, self.messages));
        self.messages += 1;
        if !is_loaded {
            self.restart(window.as_deref(), &[])?;
        }
        let mut output = Output { bytes: out, written: 0, bytes_max };
        let mut rest = payload;
        let mut is_complete = false;
        while !is_complete {
            if self.run(&mut rest, &mut output)? {
                // A final block. The engine accepts no input after it and would lose the earlier output.
                if rest.is_empty() {
                    break;
                }
                self.restart(window.as_deref(), &output.bytes[..output.written])?;
            } else {
                self.end(&mut output)?;
                is_complete = true;
            }
        }
        let written = output.written;
        if let Some(window) = &mut window {
            window.append(&out[..written], is_complete.then_some((&self.id, self.messages)));
        }
        Ok(written)
    }

    /// Feeds the engine until it has consumed `input` (`false`) or a final block has ended (`true`).
    fn run(&mut self, input: &mut &[u8], output: &mut Output<'_>) -> Result<bool, ProtocolError> {
        loop {
            let step = self.step(input, output, InflateFlush::SyncFlush)?;
            *input = &input[step.consumed..];
            match step.status {
                Status::StreamEnd => return Ok(true),
                // The input is consumed, and no output waits for space.
                _ if input.is_empty() && !output.is_full() => return Ok(false),
                _ if step.consumed > 0 || step.produced > 0 => {}
                _ if input.is_empty() => return Ok(false),
                _ => return Err(ProtocolError::MessageTooBig),
            }
        }
    }

    /// Appends the bytes that the sender removed. They must end a block: the engine then leaves the probe byte after
    /// them unread, which proves that the message is complete.
    fn end(&mut self, output: &mut Output<'_>) -> Result<(), ProtocolError> {
        const PROBE: [u8; 5] = [TAIL[0], TAIL[1], TAIL[2], TAIL[3], 0];
        let step = self.step(&PROBE, output, InflateFlush::Block)?;
        match (step.status, step.consumed, step.produced) {
            (Status::Ok, 4, 0) => Ok(()),
            // Output still waits for space.
            (_, 0, 0) if output.is_full() => Err(ProtocolError::MessageTooBig),
            _ => Err(ProtocolError::BadCompression),
        }
    }

    fn step(
        &mut self,
        input: &[u8],
        output: &mut Output<'_>,
        flush: InflateFlush,
    ) -> Result<Step, ProtocolError> {
        let (input_before, output_before) = (self.zlib.total_in(), self.zlib.total_out());
        let status = self.zlib.decompress(input, output.room(), flush);
        let status = status.map_err(|_| ProtocolError::BadCompression)?;
        let consumed = (self.zlib.total_in() - input_before) as usize;
        let produced = (self.zlib.total_out() - output_before) as usize;
        output.written += produced;
        Ok(Step { status, consumed, produced })
    }

    /// Begins a new DEFLATE stream whose history is the window and the output of this message so far.
    fn restart(&mut self, window: Option<&Window>, message: &[u8]) -> Result<(), ProtocolError> {
        self.zlib.reset(false);
        let [older, newer] = window.map_or([&[][..]; 2], Window::halves);
        for earlier in [older, newer, message] {
            let latest = &earlier[earlier.len().saturating_sub(1 << WINDOW_BITS_MAX)..];
            if !latest.is_empty() {
                self.zlib.set_dictionary(latest).map_err(|_| ProtocolError::BadCompression)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").field("direction", &self.direction).finish_non_exhaustive()
    }
}

/// The result of one call of the engine.
struct Step {
    status: Status,
    consumed: usize,
    produced: usize,
}

/// The scratch buffer of the caller, and the number of bytes written to it.
struct Output<'a> {
    bytes: &'a mut Vec<u8>,
    written: usize,
    bytes_max: usize,
}

impl Output<'_> {
    /// Space for more output; empty only at the bound.
    fn room(&mut self) -> &mut [u8] {
        if self.written >= self.bytes.len() && self.bytes.len() < self.bytes_max {
            let bytes = (self.bytes.len() * 2).max(OUTPUT_BYTES_MIN).min(self.bytes_max);
            self.bytes.reserve_exact(bytes - self.bytes.len());
            self.bytes.resize(bytes, 0);
        }
        let end = self.bytes.len().min(self.bytes_max);
        &mut self.bytes[self.written..end]
    }

    /// Whether all bytes that are allocated and within the bound are written.
    fn is_full(&self) -> bool {
        self.written == self.bytes.len().min(self.bytes_max)
    }
}
