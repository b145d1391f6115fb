//! Inflating by another implementation than ours: miniz_oxide, driven as RFC 7692 asks.
//!
//! Never: speed; each message is inflated behind a copy of all that it may refer to.

use echoring::protocol::Offence;
use echoring::protocol::deflate::Direction;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// What a sender cuts off (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// A final block with nothing in it: it ends a stream where a block may begin, and nowhere else.
const END: [u8; 2] = [3, 0];

/// The messages of one direction.
#[derive(Debug)]
pub struct Inflation {
    direction: Direction,
    /// What the next message may refer to.
    known: Vec<u8>,
    /// The last message ended as messages do: all that was known before still is.
    continues: bool,
    /// The window that was agreed on.
    window: Vec<u8>,
}

impl Inflation {
    pub fn new(direction: Direction) -> Inflation {
        Inflation { direction, known: Vec::new(), continues: false, window: Vec::new() }
    }

    /// One message without its tail. References are good as far as something is known, up to DEFLATE's 32 KiB: the
    /// agreed window is a promise of the sender's, which nobody has to check (RFC 7692, 7.1.2).
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, Offence> {
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
                self.continues = output.end(&mut engine)? && self.direction.takeover;
                break;
            }
            if rest.is_empty() {
                break;
            }
            // Behind a final block another stream begins, from the agreed window and this message.
            output.forget(&self.window);
        }
        let message = output.bytes[output.from..].to_vec();
        if self.direction.takeover {
            self.window.extend_from_slice(&message);
            let excess = self.window.len().saturating_sub(self.direction.window_bytes());
            self.window.drain(..excess);
            self.known = output.bytes;
            self.known.drain(..self.known.len().saturating_sub(1 << 15));
        }
        Ok(message)
    }
}

/// What is known, and behind it the message.
struct Output {
    bytes: Vec<u8>,
    from: usize,
    bytes_max: usize,
}

impl Output {
    /// Feeds `input` until it is used up or a final block ends.
    fn run(&mut self, engine: &mut DecompressorOxide, input: &[u8]) -> Result<(TINFLStatus, usize), Offence> {
        const FLAGS: u32 = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let mut used = 0;
        loop {
            let at = self.bytes.len();
            // One byte more than is allowed shows that there is more.
            let room = (self.bytes_max - (at - self.from)).saturating_add(1).min(1 << 16);
            self.bytes.resize(at + room, 0);
            let (status, taken, made) = decompress(engine, &input[used..], &mut self.bytes, at, FLAGS);
            self.bytes.truncate(at + made);
            used += taken;
            if self.bytes.len() - self.from > self.bytes_max {
                return Err(Offence::MessageTooBig);
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput | TINFLStatus::Done => return Ok((status, used)),
                _ => return Err(Offence::BadCompression),
            }
        }
    }

    /// Puts back the tail, behind which a block must be able to begin, or which is itself the end of a final one.
    /// Says whether the stream goes on.
    fn end(&mut self, engine: &mut DecompressorOxide) -> Result<bool, Offence> {
        let before = self.bytes.len();
        let (status, used) = self.run(engine, &TAIL)?;
        if used < TAIL.len() || self.bytes.len() != before {
            return Err(Offence::BadCompression);
        }
        if status == TINFLStatus::Done {
            return Ok(false);
        }
        match self.run(engine, &END)? {
            (TINFLStatus::Done, 2) if self.bytes.len() == before => Ok(true),
            _ => Err(Offence::BadCompression),
        }
    }

    /// Leaves only `window` in front of the message.
    fn forget(&mut self, window: &[u8]) {
        self.bytes.splice(..self.from, window.iter().copied());
        self.from = window.len();
    }
}
