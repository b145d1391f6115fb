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

/// Collects text that comes in pieces, cut anywhere: each byte is validated once, on its way into the `String`.
///
/// [`push`](Text::push) each piece, then [`finish`](Text::finish) at the message's end. A character that is cut is kept
/// back until its rest comes.
#[derive(Debug, Default)]
pub struct Text {
    text: String,
    cut: [u8; 4],
    cut_bytes: u8,
}

impl Text {
    /// What has come, but for a character that is cut.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The string itself, for those who take its text or give it room.
    pub fn string(&mut self) -> &mut String {
        &mut self.text
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// [`Offence::InvalidUtf8`] when no continuation of what has come so far is UTF-8.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), Offence> {
        while self.cut_bytes > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            self.cut[usize::from(self.cut_bytes)] = byte;
            self.cut_bytes += 1;
            piece = rest;
            match str::from_utf8(&self.cut[..usize::from(self.cut_bytes)]) {
                Ok(character) => {
                    self.text.push_str(character);
                    self.cut_bytes = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Offence::InvalidUtf8),
            }
        }
        let (whole, cut) = piece.split_at(unfinished_at(piece));
        self.text.push_str(simdutf8::basic::from_utf8(whole).map_err(|_| Offence::InvalidUtf8)?);
        match str::from_utf8(cut) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                self.cut[..cut.len()].copy_from_slice(cut);
                self.cut_bytes = cut.len() as u8;
                Ok(())
            }
            Err(_) => Err(Offence::InvalidUtf8),
        }
    }

    /// Says that the last piece has come. The text stays until it is taken.
    ///
    /// # Errors
    /// [`Offence::InvalidUtf8`] when the text ends inside a character.
    pub fn finish(&mut self) -> Result<(), Offence> {
        if self.cut_bytes == 0 { Ok(()) } else { Err(Offence::InvalidUtf8) }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether some continuation of `text` is UTF-8, by the standard library.
    fn is_viable(text: &[u8]) -> bool {
        str::from_utf8(text).map_or_else(|error| error.error_len().is_none(), |_| true)
    }

    /// Pushes `chunks` and compares every verdict with the standard library's on all bytes so far.
    fn check<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) {
        let (mut utf8, mut text, mut so_far) = (Utf8::new(), Text::default(), Vec::new());
        for chunk in chunks {
            so_far.extend_from_slice(chunk);
            let verdict = utf8.push(chunk);
            assert_eq!(verdict.is_ok(), is_viable(&so_far), "{so_far:x?}, last {chunk:x?}");
            assert_eq!(text.push(chunk).is_ok(), verdict.is_ok(), "{so_far:x?}, last {chunk:x?}");
            if verdict.is_err() {
                return;
            }
        }
        assert_eq!(utf8.finish().is_ok(), str::from_utf8(&so_far).is_ok(), "{so_far:x?}");
        assert_eq!(utf8, Utf8::new());
        assert_eq!(text.finish().is_ok(), str::from_utf8(&so_far).is_ok(), "{so_far:x?}");
        if text.finish().is_ok() {
            assert_eq!(text.as_str().as_bytes(), so_far);
        }
    }

    /// Bytes at which the rules change.
    const BORDERS: [u8; 26] = [
        0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed,
        0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf8, 0xff,
    ];

    #[test]
    fn every_sequence_of_four_border_bytes_byte_by_byte() {
        for a in BORDERS {
            for b in BORDERS {
                for c in BORDERS {
                    for d in BORDERS {
                        check([a, b, c, d].chunks(1));
                        check([&[a, b, c, d][..]]);
                    }
                }
            }
        }
    }

    #[test]
    fn every_scalar_value_cut_everywhere() {
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
    fn an_offence_behind_a_long_valid_text_is_seen_at_once() {
        for len in 0..200 {
            let mut text = vec![b'a'; len];
            text.extend_from_slice(b"\xf4\x90");
            assert_eq!(Utf8::new().push(&text), Err(Offence::InvalidUtf8));
            assert!(!is_valid(&text));
        }
    }

    #[test]
    fn finishing_inside_a_character_is_an_offence_and_resets() {
        let mut utf8 = Utf8::new();
        assert_eq!(utf8.push("κόσμ".as_bytes()), Ok(()));
        assert_eq!(utf8.push(b"\xce"), Ok(()));
        assert_eq!(utf8.finish(), Err(Offence::InvalidUtf8));
        assert_eq!(utf8, Utf8::new());
        assert_eq!(utf8.push(b"\xb5"), Err(Offence::InvalidUtf8));
    }

    /// Pieces of text, mostly whole characters, some broken.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            6 => "[a-z ]{0,40}".prop_map(String::into_bytes),
            6 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
            1 => prop::sample::select(&BORDERS[..]).prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(text in texts(), mut cuts in prop::collection::vec(0usize..300, 0..12)) {
            cuts.retain(|&cut| cut <= text.len());
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            check(cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]));
        }

        #[test]
        fn whole_messages_are_judged_like_the_standard_library_does(text in texts()) {
            prop_assert_eq!(is_valid(&text), str::from_utf8(&text).is_ok());
        }
    }
}
