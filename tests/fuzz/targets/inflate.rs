//! Inflates with another implementation than ours: miniz_oxide, used as RFC 7692 requires.
//!
//! Never: speed; each message is inflated after a copy of everything that it may refer to.

use echoring_proto::ProtocolError;
use echoring_proto::deflate::Direction;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// The bytes that a sender removes (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// An empty final block. It ends a stream only at a place where a block may begin.
const END: [u8; 2] = [3, 0];

/// The messages of one direction.
#[derive(Debug)]
pub struct Inflation {
    direction: Direction,
    /// The bytes that the next message may refer to.
    known: Vec<u8>,
    /// The last message ended without a final block, so earlier bytes remain known.
    continues: bool,
    /// The last inflated bytes, at most as many as the negotiated window has.
    window: Vec<u8>,
}

impl Inflation {
    pub fn new(direction: Direction) -> Inflation {
        Inflation { direction, known: Vec::new(), continues: false, window: Vec::new() }
    }

    /// Inflates one message without its tail. References are valid within the known bytes, up to DEFLATE's 32 KiB: the
    /// negotiated window is a promise of the sender that a receiver need not check (RFC 7692, 7.1.2).
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, ProtocolError> {
        if payload.is_empty() {
            return Ok(Vec::new());
        }
        if !std::mem::take(&mut self.continues) {
            self.known.clone_from(&self.window);
        }
        let mut output = Output { bytes: self.known.clone(), from: self.known.len(), bytes_max };
        let mut rest = payload;
        loop {
            let mut engine = Box::<DecompressorOxide>::default();
            let (status, used) = output.run(&mut engine, rest)?;
            rest = &rest[used..];
            if status != TINFLStatus::Done {
                self.continues = output.end(&mut engine)? && self.direction.context_takeover;
                break;
            }
            if rest.is_empty() {
                break;
            }
            // After a final block another stream begins, from the negotiated window and this message.
            output.forget(&self.window);
        }
        let message = output.bytes[output.from..].to_vec();
        if self.direction.context_takeover {
            self.window.extend_from_slice(&message);
            let excess = self.window.len().saturating_sub(self.direction.window_bytes());
            self.window.drain(..excess);
            self.known = output.bytes;
            self.known.drain(..self.known.len().saturating_sub(1 << 15));
        }
        Ok(message)
    }
}

/// The known bytes, followed by the message.
struct Output {
    bytes: Vec<u8>,
    from: usize,
    bytes_max: usize,
}

impl Output {
    /// Feeds `input` to its end or to the end of a final block.
    fn run(
        &mut self,
        engine: &mut DecompressorOxide,
        input: &[u8],
    ) -> Result<(TINFLStatus, usize), ProtocolError> {
        const FLAGS: u32 = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let mut used = 0;
        loop {
            let at = self.bytes.len();
            // One byte above the bound shows that the message exceeds it.
            let room = (self.bytes_max - (at - self.from)).saturating_add(1).min(1 << 16);
            self.bytes.resize(at + room, 0);
            let (status, taken, made) = decompress(engine, &input[used..], &mut self.bytes, at, FLAGS);
            self.bytes.truncate(at + made);
            used += taken;
            if self.bytes.len() - self.from > self.bytes_max {
                return Err(ProtocolError::MessageTooBig);
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput | TINFLStatus::Done => return Ok((status, used)),
                _ => return Err(ProtocolError::BadCompression),
            }
        }
    }

    /// Appends the tail. After it a block must be able to begin, or the tail ends a final block. Returns whether the stream
    /// continues.
    fn end(&mut self, engine: &mut DecompressorOxide) -> Result<bool, ProtocolError> {
        let before = self.bytes.len();
        let (status, used) = self.run(engine, &TAIL)?;
        if used < TAIL.len() || self.bytes.len() != before {
            return Err(ProtocolError::BadCompression);
        }
        if status == TINFLStatus::Done {
            return Ok(false);
        }
        match self.run(engine, &END)? {
            (TINFLStatus::Done, 2) if self.bytes.len() == before => Ok(true),
            _ => Err(ProtocolError::BadCompression),
        }
    }

    /// Keeps only `window` before the message.
    fn forget(&mut self, window: &[u8]) {
        self.bytes.splice(..self.from, window.iter().copied());
        self.from = window.len();
    }
}
