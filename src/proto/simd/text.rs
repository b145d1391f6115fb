//! Text with shared memory: bytes that were validated as UTF-8 once, and are not validated again to be read as `str`.
//!
//! Every constructor either takes a `str` or validates, and the bytes never change afterwards. Therefore the type is
//! safe to use anywhere.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::str::FromStr;

use bytes::Bytes;

use crate::utf8;

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
    fn a_text_is_found_by_its_str() {
        let texts: HashSet<Text> = ["one", "two"].map(Text::from).into();
        assert!(texts.contains("one") && !texts.contains("three"));
        assert_eq!(format!("{:>5}|{:?}", Text::from_static("a\"b"), Text::from("a\"b")), "  a\"b|\"a\\\"b\"");
    }
}
