//! UTF-8 validation of whole messages and of messages that arrive in pieces (RFC 6455, section 8.1).
//!
//! Never: holding text back. A piece is judged when it comes, and a piece that no continuation could make
//! valid is an offence at once.

#![forbid(unsafe_code)]

use super::Offence;

/// Up to here, text that is plain ASCII is recognised without a call.
const INLINE_BYTES_MAX: usize = 64;

/// Whether a whole message is UTF-8.
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    (bytes.len() <= INLINE_BYTES_MAX && is_short_ascii(bytes)) || simdutf8::basic::from_utf8(bytes).is_ok()
}

/// Whether all of `bytes` are ASCII. Words at the end overlap those before them, so that no length needs a
/// loop over single bytes.
#[inline]
fn is_short_ascii(bytes: &[u8]) -> bool {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    if let Some(last) = bytes.last_chunk::<8>() {
        let mut bits = u64::from_ne_bytes(*last);
        for word in bytes.as_chunks::<8>().0 {
            bits |= u64::from_ne_bytes(*word);
        }
        bits & HIGH_BITS == 0
    } else {
        bytes.iter().fold(0, |bits, byte| bits | byte) < 0x80
    }
}

/// Validates text that comes in pieces, cut anywhere. Three bytes of state.
///
/// [`push`](Utf8::push) each piece, then [`finish`](Utf8::finish) at the message's end. After an error the
/// state is of no use until [`finish`](Utf8::finish) has reset it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utf8 {
    /// Bytes the unfinished sequence still needs; 0 between characters.
    missing: u8,
    /// Lowest and highest value of the next of them.
    low: u8,
    high: u8,
}

impl Utf8 {
    /// At the start of a message.
    #[inline]
    pub const fn new() -> Utf8 {
        Utf8 { missing: 0, low: 0x80, high: 0xbf }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// [`Offence::InvalidUtf8`] when no continuation of what has come so far is UTF-8.
    #[inline]
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Offence> {
        if self.missing == 0 && chunk.len() <= INLINE_BYTES_MAX && is_short_ascii(chunk) {
            return Ok(());
        }
        self.push_any(chunk)
    }

    /// Ends the message and makes ready for the next one.
    ///
    /// # Errors
    /// [`Offence::InvalidUtf8`] when the text ends inside a character.
    #[inline]
    pub fn finish(&mut self) -> Result<(), Offence> {
        let unfinished = self.missing != 0;
        *self = Utf8::new();
        if unfinished { Err(Offence::InvalidUtf8) } else { Ok(()) }
    }

    fn push_any(&mut self, mut chunk: &[u8]) -> Result<(), Offence> {
        while self.missing != 0 {
            let Some((&byte, rest)) = chunk.split_first() else { return Ok(()) };
            self.step(byte)?;
            chunk = rest;
        }
        let (whole, unfinished) = chunk.split_at(unfinished_at(chunk));
        if simdutf8::basic::from_utf8(whole).is_err() {
            return Err(Offence::InvalidUtf8);
        }
        if let Some((&lead, rest)) = unfinished.split_first() {
            let Some(state) = after_lead(lead) else { return Err(Offence::InvalidUtf8) };
            *self = state;
            for &byte in rest {
                self.step(byte)?;
            }
        }
        Ok(())
    }

    /// Takes one byte of the sequence under way.
    fn step(&mut self, byte: u8) -> Result<(), Offence> {
        if !(self.low..=self.high).contains(&byte) {
            return Err(Offence::InvalidUtf8);
        }
        *self = Utf8 { missing: self.missing - 1, ..Utf8::new() };
        Ok(())
    }
}

impl Default for Utf8 {
    fn default() -> Utf8 {
        Utf8::new()
    }
}

/// Where the last character of `text` begins if it is cut off at the end, else the length. What comes
/// before is judged as a whole, and so is everything when the end makes no sense.
fn unfinished_at(text: &[u8]) -> usize {
    for (behind, &byte) in text.iter().rev().take(3).enumerate() {
        if byte & 0xc0 == 0x80 {
            continue;
        }
        return match after_lead(byte) {
            Some(state) if usize::from(state.missing) > behind => text.len() - 1 - behind,
            _ => text.len(),
        };
    }
    text.len()
}

/// The state behind the first byte of a sequence of two to four (Unicode, table 3-7): the second byte's
/// range is what keeps out overlong forms, surrogates and code points past U+10FFFF.
const fn after_lead(lead: u8) -> Option<Utf8> {
    let (missing, low, high) = match lead {
        0xc2..=0xdf => (1, 0x80, 0xbf),
        0xe0 => (2, 0xa0, 0xbf),
        0xed => (2, 0x80, 0x9f),
        0xe1..=0xef => (2, 0x80, 0xbf),
        0xf0 => (3, 0x90, 0xbf),
        0xf1..=0xf3 => (3, 0x80, 0xbf),
        0xf4 => (3, 0x80, 0x8f),
        _ => return None,
    };
    Some(Utf8 { missing, low, high })
}
