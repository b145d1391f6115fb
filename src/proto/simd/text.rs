//! Text with shared memory: bytes that were validated as UTF-8 once, and are not validated again to be read as `str`.
//!
//! Every constructor either takes a `str` or validates, and the bytes never change afterwards. Therefore the type is
//! safe to use anywhere.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::str::FromStr;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::{ProtocolError, utf8};

/// A text with shared memory: a clone copies no bytes. It is a `str` in every other respect.
///
/// ```
/// use echoring_proto::Text;
///
/// let text = Text::from("grüße");
/// let shared = text.clone();
/// assert_eq!(shared, "grüße");
/// assert_eq!(shared.as_str().as_ptr(), text.as_str().as_ptr());
/// assert!(Text::from_utf8(vec![0xff].into()).is_err());
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(Bytes);

impl Text {
    /// A text in static memory.
    pub const fn from_static(text: &'static str) -> Text {
        Text(Bytes::from_static(text.as_bytes()))
    }

    /// Validates `bytes`, without a copy.
    ///
    /// # Errors
    /// `bytes`, if they are not UTF-8.
    #[inline]
    pub fn from_utf8(bytes: Bytes) -> Result<Text, Bytes> {
        if utf8::is_valid(&bytes) { Ok(Text(bytes)) } else { Err(bytes) }
    }

    /// The text.
    #[inline]
    pub fn as_str(&self) -> &str {
        // SAFETY: every constructor takes a `str` or validates the bytes, and `Bytes` are immutable.
        unsafe { str::from_utf8_unchecked(&self.0) }
    }

    /// The text as bytes with shared memory.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for Text {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(text.into())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<Text> for Bytes {
    fn from(text: Text) -> Bytes {
        text.0
    }
}

impl From<Text> for String {
    fn from(text: Text) -> String {
        text.as_str().to_owned()
    }
}

impl FromStr for Text {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Text, Self::Err> {
        Ok(text.into())
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

/// The same hash as that of the `str`, as [`Borrow`] requires.
impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Collects the payload of a message that arrives in pieces. A piece that lies right behind the one before it is not
/// copied, and each byte of a text is validated once.
///
/// Push each piece of a message with [`push_text`](PayloadBuffer::push_text) or [`push`](PayloadBuffer::push), then
/// call [`into_text`](PayloadBuffer::into_text) or [`into_bytes`](PayloadBuffer::into_bytes).
#[derive(Debug, Default)]
pub struct PayloadBuffer {
    bytes: BytesMut,
    /// The bytes up to here are UTF-8, in a text.
    valid_bytes: usize,
}

impl PayloadBuffer {
    /// Adds a piece of a binary message.
    #[inline]
    pub fn push(&mut self, piece: BytesMut) {
        self.bytes.unsplit(piece);
    }

    /// Validates and adds a piece of a text.
    ///
    /// # Errors
    /// [`ProtocolError::InvalidUtf8`] when no continuation could make the text valid UTF-8.
    pub fn push_text(&mut self, piece: BytesMut) -> Result<(), ProtocolError> {
        self.bytes.unsplit(piece);
        self.valid_bytes += utf8::whole_characters(&self.bytes[self.valid_bytes..])?;
        Ok(())
    }

    /// The bytes that were pushed and not cleared, those of an incomplete character at the end of a text included.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of a text, without an incomplete character at the end.
    pub fn valid_slice(&self) -> &[u8] {
        &self.bytes[..self.valid_bytes]
    }

    /// Removes all bytes. Their memory is not kept.
    pub fn clear(&mut self) {
        *self = PayloadBuffer::default();
    }

    /// Removes the [valid bytes](PayloadBuffer::valid_slice) of a text. If these are all, their memory is not kept.
    pub fn clear_valid(&mut self) {
        if self.valid_bytes == self.bytes.len() {
            return self.clear();
        }
        self.bytes.advance(std::mem::take(&mut self.valid_bytes));
    }

    /// Bytes of memory from the first byte on.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Makes room for `additional` bytes.
    pub fn reserve(&mut self, additional: usize) {
        self.bytes.reserve(additional);
    }

    /// Takes the room behind the last byte. Bytes that are written there and pushed are not copied.
    pub fn split_room(&mut self) -> BytesMut {
        self.bytes.split_off(self.bytes.len())
    }

    /// Takes back the room that [`split_room`](PayloadBuffer::split_room) returned, if it still lies behind the last byte.
    pub fn join_room(&mut self, room: BytesMut) {
        debug_assert!(room.is_empty());
        if !self.bytes.is_empty() {
            self.bytes.unsplit(room);
        }
    }

    /// Moves the bytes to memory of their own size.
    pub fn compact(&mut self) {
        self.bytes = BytesMut::from(&self.bytes[..]);
    }

    /// The text that was pushed.
    ///
    /// # Errors
    /// [`ProtocolError::InvalidUtf8`] when it ends inside a character.
    pub fn into_text(self) -> Result<Text, ProtocolError> {
        if self.valid_bytes < self.bytes.len() {
            return Err(ProtocolError::InvalidUtf8);
        }
        Ok(Text(self.bytes.freeze()))
    }

    /// The bytes that were pushed.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn only_utf8_becomes_text_and_no_byte_is_copied() {
        for bytes in [&b""[..], b"ascii", "ß水🦀".as_bytes()] {
            let bytes = Bytes::copy_from_slice(bytes);
            let text = Text::from_utf8(bytes.clone()).expect("UTF-8");
            assert_eq!((text.as_bytes(), text.as_ptr()), (&bytes[..], bytes.as_ptr()));
            assert_eq!(text.into_bytes().as_ptr(), bytes.as_ptr());
        }
        for bytes in
            [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"long enough for a vector of bytes\xf4\x90\x80\x80"]
        {
            assert_eq!(Text::from_utf8(Bytes::from_static(bytes)), Err(Bytes::from_static(bytes)));
        }
    }

    #[test]
    fn pieces_that_are_adjacent_are_not_copied_and_others_are() {
        let text = "aß水🦀".repeat(10);
        for cut in 0..=text.len() {
            for adjacent in [true, false] {
                let mut rest = BytesMut::from(text.as_bytes());
                let at = rest.as_ptr();
                let mut buffer = PayloadBuffer::default();
                buffer.push_text(rest.split_to(cut)).expect("viable");
                let rest = if adjacent { rest } else { BytesMut::from(&rest[..]) };
                buffer.push_text(rest).expect("UTF-8");
                let whole = buffer.into_text().expect("UTF-8");
                assert_eq!(whole, text);
                // Memory is moved if the first piece is empty, or must grow.
                assert_eq!(whole.as_ptr() == at, adjacent || cut == text.len(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn cleared_bytes_are_no_part_of_the_text() {
        let mut buffer = PayloadBuffer::default();
        buffer.push_text("aß".as_bytes()[..2].into()).expect("viable");
        assert_eq!((buffer.valid_slice(), buffer.as_slice()), (&b"a"[..], &b"a\xc3"[..]));
        buffer.clear_valid();
        assert_eq!(buffer.valid_slice(), b"");
        let mut room = buffer.split_room();
        room.extend_from_slice(&"ßb".as_bytes()[1..]);
        buffer.push_text(room).expect("UTF-8");
        buffer.compact();
        assert_eq!(buffer.into_text().expect("UTF-8"), "ßb");
    }

    #[test]
    fn a_text_is_found_by_its_str() {
        let texts: HashSet<Text> = ["one", "two"].map(Text::from).into();
        assert!(texts.contains("one") && !texts.contains("three"));
        assert_eq!(format!("{:>5}|{:?}", Text::from_static("a\"b"), Text::from("a\"b")), "  a\"b|\"a\\\"b\"");
    }
}
