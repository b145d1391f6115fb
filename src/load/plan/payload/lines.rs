//! Messages from a file: each line is sent unchanged as one message.
//!
//! Such a message has no header, so it is compared as [bare](super::Payloads::bare) ones are.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::style::Style;
use crate::plan::file::read_file;
use echoring_proto::random::mix;

/// Maximum size of the file in bytes; it is kept in memory.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Maximum number of lines.
pub(crate) const LINES_MAX: usize = 1 << 20;

/// The lines of a file. Cheap to clone; serde writes all of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Lines(Arc<Content>);

#[derive(PartialEq, Eq)]
struct Content {
    name: String,
    bytes: Vec<u8>,
    /// The span of each line, without its line end.
    spans: Vec<(u32, u32)>,
}

/// The serialised form.
#[derive(Serialize, Deserialize)]
struct Written {
    name: String,
    base64: String,
    spans: Vec<(u32, u32)>,
}

impl From<Lines> for Written {
    fn from(lines: Lines) -> Written {
        let Content { name, bytes, spans } = &*lines.0;
        Written { name: name.clone(), base64: STANDARD.encode(bytes), spans: spans.clone() }
    }
}

impl TryFrom<Written> for Lines {
    type Error = String;

    fn try_from(Written { name, base64, spans }: Written) -> Result<Lines, String> {
        let bytes = STANDARD.decode(base64).map_err(|wrong| format!("{name}: {wrong}"))?;
        let lies_within = |(from, until): &(u32, u32)| from <= until && *until as usize <= bytes.len();
        if spans.is_empty() || spans.len() > LINES_MAX || !spans.iter().all(lies_within) {
            return Err(format!("{name}: invalid line spans"));
        }
        Ok(Lines(Arc::new(Content { name, bytes, spans })))
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({:?}, {})", self.0.name, self.0.spans.len())
    }
}

impl Lines {
    /// Reads a file.
    ///
    /// # Errors
    /// If the file cannot be read, exceeds 64 MiB or 1,048,576 lines, or a line is not valid UTF-8
    /// or JSON as `style` requires.
    pub fn read(path: &Path, style: Style) -> Result<Lines, String> {
        Lines::of(path.display().to_string(), read_file(path, FILE_BYTES_MAX)?, style)
    }

    /// Splits `bytes` of the file `name` into lines. Lines end with LF; in text, a CR in front of it belongs to the
    /// line end. The last line needs no end.
    fn of(name: String, bytes: Vec<u8>, style: Style) -> Result<Lines, String> {
        let mut spans = Vec::new();
        let mut from = 0;
        while from < bytes.len() {
            let end =
                bytes[from..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| from + at);
            let mut line = &bytes[from..end];
            if style != Style::Binary {
                line = line.strip_suffix(b"\r").unwrap_or(line);
            }
            check(line, style).map_err(|wrong| format!("line {} of {name} {wrong}", spans.len() + 1))?;
            if spans.len() == LINES_MAX {
                return Err(format!("{name} has more than {LINES_MAX} lines"));
            }
            spans.push((from as u32, (from + line.len()) as u32));
            from = end + 1;
        }
        if spans.is_empty() {
            return Err(format!("{name} has no lines"));
        }
        Ok(Lines(Arc::new(Content { name, bytes, spans })))
    }

    /// The name of the file.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Number of lines, at least 1.
    pub fn count(&self) -> usize {
        self.0.spans.len()
    }

    /// Size of the shortest and of the longest line in bytes.
    pub fn bytes(&self) -> (usize, usize) {
        let lengths = || self.0.spans.iter().map(|(from, until)| (until - from) as usize);
        (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0))
    }

    /// The message `sequence` of a connection: the lines in order, repeated, starting at a line that `seed` selects for
    /// the connection.
    #[inline]
    pub(super) fn message(&self, seed: u64, connection: u32, sequence: u64) -> &[u8] {
        let Content { bytes, spans, .. } = &*self.0;
        let begun = mix(seed ^ u64::from(connection)) % spans.len() as u64;
        let (from, until) = spans[((begun + sequence) % spans.len() as u64) as usize];
        &bytes[from as usize..until as usize]
    }
}

fn check(line: &[u8], style: Style) -> Result<(), String> {
    match style {
        Style::Binary => Ok(()),
        Style::Json => serde_json::from_slice::<IgnoredAny>(line)
            .map(|_| ())
            .map_err(|error| format!("is not JSON ({error}); use --kind text for any text")),
        Style::Text => simdutf8::basic::from_utf8(line)
            .map(|_| ())
            .map_err(|_| "is not UTF-8; use --kind binary for any bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], style: Style) -> Result<Lines, String> {
        Lines::of("file".to_owned(), bytes.to_vec(), style)
    }

    fn all(lines: &Lines) -> Vec<&[u8]> {
        let Content { bytes, spans, .. } = &*lines.0;
        spans.iter().map(|&(from, until)| &bytes[from as usize..until as usize]).collect()
    }

    #[test]
    fn lines_are_split_at_line_ends() {
        let text = b"one\r\n\ntwo \xc3\xa9\nlast";
        let found = lines(text, Style::Text).expect("text");
        assert_eq!(all(&found), [b"one".as_slice(), b"", "two é".as_bytes(), b"last"]);
        assert_eq!((found.count(), found.bytes()), (4, (0, 6)));
        let found = lines(b"a\r\n\xff\n", Style::Binary).expect("any bytes");
        assert_eq!(all(&found), [b"a\r".as_slice(), b"\xff"]);
        let found = lines(b"{\"a\":1}\n[2]\n", Style::Json).expect("JSON");
        assert_eq!(all(&found), [b"{\"a\":1}".as_slice(), b"[2]"]);
    }

    #[test]
    fn errors_name_the_line_of_the_file() {
        for (bytes, style, text) in [
            (b"".as_slice(), Style::Text, "no line"),
            (b"good\n\xff\xfe\n", Style::Text, "line 2"),
            (b"{}\n{]\n", Style::Json, "line 2"),
            (b"{}\n\n", Style::Json, "line 2"),
        ] {
            let wrong = lines(bytes, style).expect_err("it is wrong");
            assert!(wrong.contains(text) && wrong.lines().count() == 1, "{wrong}");
        }
        let many = lines(&b"\n".repeat(LINES_MAX + 1), Style::Text).expect_err("too many");
        assert!(many.contains(&LINES_MAX.to_string()), "{many}");
        let wrong = Lines::read(Path::new("/nowhere/to be found"), Style::Text).expect_err("it is not there");
        assert!(wrong.starts_with("/nowhere/to be found cannot be read"), "{wrong}");
        let endless = Lines::read(Path::new("/dev/zero"), Style::Binary).expect_err("it does not end");
        assert!(endless.contains("64 MiB"), "{endless}");
    }

    #[test]
    fn lines_that_were_written_and_read_are_the_same() {
        let found = lines(b"one\r\n\xff\n\nlast", Style::Binary).expect("any bytes");
        let text = serde_json::to_string(&found).expect("they can be written");
        assert_eq!(serde_json::from_str::<Lines>(&text).expect("they can be read"), found);
        for (good, bad) in
            [("[5,", "[500,"), ("\"spans\":[", "\"spans\":[[9,90],"), ("base64\":\"", "base64\":\"?")]
        {
            let wrong = text.replacen(good, bad, 1);
            assert_ne!(wrong, text);
            assert!(serde_json::from_str::<Lines>(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_connection_sends_the_lines_in_order_from_its_own_start() {
        let found = lines(b"a\nb\nc\nd\ne\nf\ng\n", Style::Text).expect("text");
        let mut begun = std::collections::BTreeSet::new();
        for connection in 0..100 {
            let place = |message: &[u8]| u64::from(message[0] - b'a');
            let first = place(found.message(9, connection, 0));
            begun.insert(first);
            for sequence in 0..20 {
                assert_eq!(place(found.message(9, connection, sequence)), (first + sequence) % 7);
            }
        }
        assert_eq!(begun.len(), 7, "they begin everywhere");
    }
}
