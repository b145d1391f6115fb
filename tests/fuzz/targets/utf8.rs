//! The streaming UTF-8 validator against the standard library's.
//!
//! Input: a script of chunk borders, then the text.

use echoring_proto::{ProtocolError, Utf8, utf8};

use super::cursor::Cursor;

pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let mut borders = cursor.choices();
    let text = cursor.rest();
    let verdict = str::from_utf8(text);
    assert_eq!(utf8::is_valid(text), verdict.is_ok(), "the whole text");

    let offending_at = offending_at(text);
    check(text, borders.chunks(text), offending_at);
    check(text, text.chunks(1).collect(), offending_at);
    check(text, vec![text], offending_at);
    // Empty chunks are skipped.
    check(text, text.chunks(3).flat_map(|chunk| [chunk, &[]]).collect(), offending_at);
}

/// The position of the first byte after which no continuation is valid UTF-8.
fn offending_at(text: &[u8]) -> Option<usize> {
    let error = str::from_utf8(text).err()?;
    error.error_len()?;
    let from = error.valid_up_to();
    let is_hopeless =
        |end: &usize| str::from_utf8(&text[from..*end]).is_err_and(|error| error.error_len().is_some());
    (from + 1..=text.len()).find(is_hopeless).map(|end| end - 1)
}

/// The first refused chunk is the one with the invalid byte. The end is refused inside a character.
fn check(text: &[u8], chunks: Vec<&[u8]>, offending_at: Option<usize>) {
    let mut utf8 = Utf8::new();
    let mut read = 0;
    for chunk in chunks {
        let before = read;
        read += chunk.len();
        let expected = match offending_at {
            Some(at) if (before..read).contains(&at) => Err(ProtocolError::InvalidUtf8),
            _ => Ok(()),
        };
        assert_eq!(utf8.push(chunk), expected, "bytes {before}..{read} of {text:x?}");
        if expected.is_err() {
            break;
        }
    }
    if offending_at.is_none() {
        assert_eq!(utf8.finish().is_ok(), str::from_utf8(text).is_ok(), "the end of {text:x?}");
    } else {
        let _ = utf8.finish();
    }
    assert_eq!(utf8, Utf8::new(), "finishing makes ready for the next message");
}
