//! Decompressing one direction of a connection (RFC 7692, 7.2.2), never past the caller's bound.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use zlib_rs::{Inflate, InflateFlush, Status};

use super::window::Window;
use super::{Direction, TAIL, WINDOW_BITS_MAX};
use crate::protocol::Offence;

/// What the engine owns, whatever window it is told: 32 KiB of window, tables and state.
const ENGINE_BYTES: usize = 48 * 1024;

/// The least that the output grows to.
const OUTPUT_BYTES_MIN: usize = 1024;

/// A decompressor. One serves any number of connections: those without takeover need nothing else, those with it a
/// [`Window`] each.
pub struct Inflater {
    direction: Direction,
    engine: Engine,
    /// With takeover: of the one connection that has this inflater for itself.
    window: Window,
}

impl Inflater {
    /// An inflater with an empty window of its own.
    ///
    /// # Panics
    /// If `direction.window_bits` is not 8 to 15.
    pub fn new(direction: Direction) -> Inflater {
        let engine = Engine { zlib: Inflate::new(false, WINDOW_BITS_MAX), id: Arc::new(()), messages: 0 };
        Inflater { direction, engine, window: Window::new(direction.window_bits) }
    }

    /// Bytes of heap that an inflater of this direction owns at most.
    pub const fn memory_bytes(direction: Direction) -> usize {
        ENGINE_BYTES + if direction.takeover { Window::memory_bytes(direction.window_bits) } else { 0 }
    }

    /// Decompresses one whole message: the payloads of all its frames without the `00 00 ff ff` that the
    /// sender cut off. The message is `out[..n]` for the `n` returned; `out` is scratch, which grows by
    /// doubling up to `bytes_max` bytes and is kept for the next message.
    ///
    /// Two shapes that the RFC does not give to any message are taken, since nothing can be missing from them: an
    /// empty payload is an empty message, and behind a final block (BFINAL) the empty block of 7.2.3.4 may be
    /// missing. A final block may stand anywhere, and ends nothing but itself: the window stays. A reference
    /// farther back than the window is an offence only if it reaches before what is known, which the
    /// message itself always is for 32 KiB.
    ///
    /// # Errors
    /// [`Offence::MessageTooBig`] for more than `bytes_max` bytes, noticed when they are full and without
    /// producing one more; [`Offence::BadCompression`] for what is not DEFLATE, is cut short, goes on behind its
    /// end, or refers to what is not known. The next message then finds the window as this one did.
    pub fn inflate(&mut self, payload: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<usize, Offence> {
        let window = self.direction.takeover.then_some(&mut self.window);
        self.engine.inflate(window, payload, out, bytes_max)
    }

    /// The same for a connection that keeps its own window, so that it needs no inflater of its own. The window is
    /// shown to the engine first (1 us for a full one of 32 KiB), unless it was the last to be.
    ///
    /// # Errors
    /// As [`Inflater::inflate`].
    pub fn inflate_after(
        &mut self,
        window: &mut Window,
        payload: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<usize, Offence> {
        self.engine.inflate(Some(window), payload, out, bytes_max)
    }

    /// Forgets the inflater's own window: it goes to another connection.
    pub fn reset(&mut self) {
        self.window.clear();
    }
}

/// zlib's state, and what tells whose it is.
struct Engine {
    zlib: Inflate,
    /// Stands for this engine in the windows that it had in place.
    id: Arc<()>,
    /// Messages begun.
    messages: u64,
}

impl Engine {
    fn inflate(
        &mut self,
        mut window: Option<&mut Window>,
        payload: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<usize, Offence> {
        if payload.is_empty() {
            return Ok(0);
        }
        let in_place = window.as_deref().is_some_and(|window| window.is_in_place(&self.id, self.messages));
        self.messages += 1;
        if !in_place {
            self.restart(window.as_deref(), &[])?;
        }
        let mut output = Output { bytes: out, written: 0, bytes_max };
        let mut rest = payload;
        let mut whole = false;
        while !whole {
            if self.run(&mut rest, &mut output)? {
                // A final block. The engine takes nothing behind it, and would forget what went before.
                if rest.is_empty() {
                    break;
                }
                self.restart(window.as_deref(), &output.bytes[..output.written])?;
            } else {
                self.end(&mut output)?;
                whole = true;
            }
        }
        let written = output.written;
        if let Some(window) = &mut window {
            window.take(&out[..written], whole.then_some((&self.id, self.messages)));
        }
        Ok(written)
    }

    /// Feeds the engine until `input` is used up (`false`) or a final block ended (`true`).
    fn run(&mut self, input: &mut &[u8], output: &mut Output<'_>) -> Result<bool, Offence> {
        loop {
            let step = self.step(input, output, InflateFlush::SyncFlush)?;
            *input = &input[step.used..];
            match step.status {
                Status::StreamEnd => return Ok(true),
                // Used up, and nothing that still waits for room.
                _ if input.is_empty() && !output.is_full() => return Ok(false),
                _ if step.used > 0 || step.made > 0 => {}
                _ if input.is_empty() => return Ok(false),
                _ => return Err(Offence::MessageTooBig),
            }
        }
    }

    /// Puts back what the sender cut off, which must end a block, as the engine tells by leaving the byte behind
    /// alone: only then was the message whole.
    fn end(&mut self, output: &mut Output<'_>) -> Result<(), Offence> {
        const PROBE: [u8; 5] = [TAIL[0], TAIL[1], TAIL[2], TAIL[3], 0];
        let step = self.step(&PROBE, output, InflateFlush::Block)?;
        match (step.status, step.used, step.made) {
            (Status::Ok, 4, 0) => Ok(()),
            // Something still waited for room.
            (_, 0, 0) if output.is_full() => Err(Offence::MessageTooBig),
            _ => Err(Offence::BadCompression),
        }
    }

    fn step(&mut self, input: &[u8], output: &mut Output<'_>, flush: InflateFlush) -> Result<Step, Offence> {
        let (input_before, output_before) = (self.zlib.total_in(), self.zlib.total_out());
        let status = self.zlib.decompress(input, output.room(), flush);
        let status = status.map_err(|_| Offence::BadCompression)?;
        let used = (self.zlib.total_in() - input_before) as usize;
        let made = (self.zlib.total_out() - output_before) as usize;
        output.written += made;
        Ok(Step { status, used, made })
    }

    /// Begins a stream, as if behind the window and what this message has become so far.
    fn restart(&mut self, window: Option<&Window>, message: &[u8]) -> Result<(), Offence> {
        self.zlib.reset(false);
        let [older, newer] = window.map_or([&[][..]; 2], Window::halves);
        for earlier in [older, newer, message] {
            let latest = &earlier[earlier.len().saturating_sub(1 << WINDOW_BITS_MAX)..];
            if !latest.is_empty() {
                self.zlib.set_dictionary(latest).map_err(|_| Offence::BadCompression)?;
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

/// What one call of the engine came to.
struct Step {
    status: Status,
    used: usize,
    made: usize,
}

/// The caller's scratch, and how much of it is message.
struct Output<'a> {
    bytes: &'a mut Vec<u8>,
    written: usize,
    bytes_max: usize,
}

impl Output<'_> {
    /// Room for more, none only where the bound is reached.
    fn room(&mut self) -> &mut [u8] {
        if self.written >= self.bytes.len() && self.bytes.len() < self.bytes_max {
            let bytes = (self.bytes.len() * 2).max(OUTPUT_BYTES_MIN).min(self.bytes_max);
            self.bytes.reserve_exact(bytes - self.bytes.len());
            self.bytes.resize(bytes, 0);
        }
        let end = self.bytes.len().min(self.bytes_max);
        &mut self.bytes[self.written..end]
    }

    /// Whether the bytes that are allocated and allowed are all written.
    fn is_full(&self) -> bool {
        self.written == self.bytes.len().min(self.bytes_max)
    }
}
