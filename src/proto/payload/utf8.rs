//! UTF-8 validation of whole messages and of messages that arrive in chunks (RFC 6455, section 8.1).
//!
//! Never: delaying validation. Each chunk is validated when it arrives, and fails at once when no continuation could
//! make the text valid.

#![forbid(unsafe_code)]

use crate::ProtocolError;

/// Up to this length, ASCII text is recognised without a function call.
const INLINE_BYTES_MAX: usize = 64;

/// Whether a whole message is UTF-8.
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    (bytes.len() <= INLINE_BYTES_MAX && is_short_ascii(bytes)) || simdutf8::basic::from_utf8(bytes).is_ok()
}

/// Whether all of `bytes` are ASCII. The last word overlaps the word before it, so texts of 8 bytes or more need no
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

/// Validates text that arrives in chunks with arbitrary boundaries. The state takes three bytes.
///
/// [`push`](Utf8::push) each chunk, then [`finish`](Utf8::finish) at the end of the message. After an error the
/// state is invalid until [`finish`](Utf8::finish) resets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utf8 {
    /// Missing bytes of the incomplete sequence; 0 between characters.
    missing: u8,
    /// Lowest and highest value of the next missing byte.
    low: u8,
    high: u8,
}

crate::plain!(for Utf8 { missing, low, high } where Utf8::is_reached);

impl Utf8 {
    /// The state at the start of a message.
    #[inline]
    pub const fn new() -> Utf8 {
        Utf8 { missing: 0, low: 0x80, high: 0xbf }
    }

    /// Validates the next chunk.
    ///
    /// # Errors
    /// [`ProtocolError::InvalidUtf8`] when no continuation could make the text valid UTF-8.
    #[inline]
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ProtocolError> {
        if self.missing == 0 && chunk.len() <= INLINE_BYTES_MAX && is_short_ascii(chunk) {
            return Ok(());
        }
        self.push_any(chunk)
    }

    /// Ends the message and resets the state for the next message.
    ///
    /// # Errors
    /// [`ProtocolError::InvalidUtf8`] when the text ends inside a character.
    #[inline]
    pub fn finish(&mut self) -> Result<(), ProtocolError> {
        let unfinished = self.missing != 0;
        *self = Utf8::new();
        if unfinished { Err(ProtocolError::InvalidUtf8) } else { Ok(()) }
    }

    /// Whether a text leads to this state.
    fn is_reached(&self) -> bool {
        let is_inside =
            (1..=2).contains(&self.missing) && *self == Utf8 { missing: self.missing, ..Utf8::new() };
        *self == Utf8::new() || is_inside || (0xc2..=0xf4).any(|lead| after_lead(lead) == Some(*self))
    }

    fn push_any(&mut self, mut chunk: &[u8]) -> Result<(), ProtocolError> {
        while self.missing != 0 {
            let Some((&byte, rest)) = chunk.split_first() else { return Ok(()) };
            self.step(byte)?;
            chunk = rest;
        }
        let (whole, unfinished) = chunk.split_at(unfinished_at(chunk));
        if simdutf8::basic::from_utf8(whole).is_err() {
            return Err(ProtocolError::InvalidUtf8);
        }
        if let Some((&lead, rest)) = unfinished.split_first() {
            let Some(state) = after_lead(lead) else { return Err(ProtocolError::InvalidUtf8) };
            *self = state;
            for &byte in rest {
                self.step(byte)?;
            }
        }
        Ok(())
    }

    /// Validates the next byte of the incomplete sequence.
    fn step(&mut self, byte: u8) -> Result<(), ProtocolError> {
        if !(self.low..=self.high).contains(&byte) {
            return Err(ProtocolError::InvalidUtf8);
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

/// The bytes at the start of `text` that are whole characters: all, or all but an incomplete character at the end.
///
/// # Errors
/// [`ProtocolError::InvalidUtf8`] when no continuation could make `text` valid UTF-8.
pub(crate) fn whole_characters(text: &[u8]) -> Result<usize, ProtocolError> {
    let (whole, partial) = text.split_at(unfinished_at(text));
    if !is_valid(whole) {
        return Err(ProtocolError::InvalidUtf8);
    }
    match str::from_utf8(partial) {
        Err(error) if error.error_len().is_some() => Err(ProtocolError::InvalidUtf8),
        _ => Ok(whole.len()),
    }
}

/// The start of the last character of `text` if that character is incomplete, else the length of `text`. The bytes
/// before it are validated as a whole. If the end is invalid, the whole text is.
fn unfinished_at(text: &[u8]) -> usize {
    for (after, &byte) in text.iter().rev().take(3).enumerate() {
        if byte & 0xc0 == 0x80 {
            continue;
        }
        return match after_lead(byte) {
            Some(state) if usize::from(state.missing) > after => text.len() - 1 - after,
            _ => text.len(),
        };
    }
    text.len()
}

/// The state after the first byte of a sequence of two to four bytes (Unicode, table 3-7). The range of the second
/// byte excludes overlong encodings, surrogates and code points above U+10FFFF.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether `text` is a prefix of valid UTF-8, according to the standard library.
    fn is_viable(text: &[u8]) -> bool {
        str::from_utf8(text).map_or_else(|error| error.error_len().is_none(), |_| true)
    }

    /// Pushes `chunks` and compares every result with that of the standard library for all bytes so far.
    fn check<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) {
        let (mut utf8, mut valid_bytes, mut so_far) = (Utf8::new(), 0, Vec::new());
        for chunk in chunks {
            so_far.extend_from_slice(chunk);
            let result = utf8.push(chunk);
            assert_eq!(result.is_ok(), is_viable(&so_far), "{so_far:x?}, last {chunk:x?}");
            let whole = whole_characters(&so_far[valid_bytes..]);
            assert_eq!(whole.is_ok(), result.is_ok(), "{so_far:x?}, last {chunk:x?}");
            let Ok(whole) = whole else { return };
            valid_bytes += whole;
            assert!(str::from_utf8(&so_far[..valid_bytes]).is_ok() && so_far.len() - valid_bytes < 4);
        }
        assert_eq!(utf8.finish().is_ok(), str::from_utf8(&so_far).is_ok(), "{so_far:x?}");
        assert_eq!(utf8, Utf8::new());
        assert_eq!(valid_bytes == so_far.len(), str::from_utf8(&so_far).is_ok(), "{so_far:x?}");
    }

    /// Bytes at the boundaries of the ranges of table 3-7.
    const BOUNDARIES: [u8; 26] = [
        0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed,
        0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf8, 0xff,
    ];

    #[test]
    fn every_sequence_of_four_boundary_bytes_is_validated_like_the_standard_library() {
        for a in BOUNDARIES {
            for b in BOUNDARIES {
                for c in BOUNDARIES {
                    for d in BOUNDARIES {
                        check([a, b, c, d].chunks(1));
                        check([&[a, b, c, d][..]]);
                    }
                }
            }
        }
    }

    #[test]
    fn every_scalar_value_is_valid_when_split_anywhere() {
        let mut text = [0; 4];
        for character in '\0'..=char::MAX {
            let text = character.encode_utf8(&mut text).as_bytes();
            for cut in 0..text.len() {
                let mut utf8 = Utf8::new();
                assert!(utf8.push(&text[..cut]).is_ok() && utf8.push(&text[cut..]).is_ok());
                assert!(utf8.finish().is_ok(), "{character:?} cut at {cut}");
            }
            assert!(is_valid(text));
        }
    }

    #[test]
    fn an_error_after_a_long_valid_text_is_detected_at_once() {
        for len in 0..200 {
            let mut text = vec![b'a'; len];
            text.extend_from_slice(b"\xf4\x90");
            assert_eq!(Utf8::new().push(&text), Err(ProtocolError::InvalidUtf8));
            assert!(!is_valid(&text));
        }
    }

    #[test]
    fn finishing_inside_a_character_is_an_error_and_resets_the_state() {
        let mut utf8 = Utf8::new();
        assert_eq!(utf8.push("κόσμ".as_bytes()), Ok(()));
        assert_eq!(utf8.push(b"\xce"), Ok(()));
        assert_eq!(utf8.finish(), Err(ProtocolError::InvalidUtf8));
        assert_eq!(utf8, Utf8::new());
        assert_eq!(utf8.push(b"\xb5"), Err(ProtocolError::InvalidUtf8));
    }

    /// Text of mostly whole characters, with some invalid bytes.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            6 => "[a-z ]{0,40}".prop_map(String::into_bytes),
            6 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
            1 => prop::sample::select(&BOUNDARIES[..]).prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn chunk_boundaries_make_no_difference(text in texts(), mut cuts in prop::collection::vec(0usize..300, 0..12)) {
            cuts.retain(|&cut| cut <= text.len());
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            check(cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]));
        }

        #[test]
        fn whole_messages_are_validated_like_the_standard_library(text in texts()) {
            prop_assert_eq!(is_valid(&text), str::from_utf8(&text).is_ok());
        }
    }
}
