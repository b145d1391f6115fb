//! Writes the fields of a record: on one line, without control characters, each with a maximum length, because peers
//! choose some of them.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::limits::LOG_MESSAGE_BYTES_MAX;
use echoring_runtime::limits::LOG_FIELD_BYTES_MAX;

/// Writes `message field=value …`.
#[derive(Debug)]
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
        if !std::mem::take(&mut self.is_empty) {
            self.writer.write_char(' ')?;
        }
        if field.name() == "message" {
            return write!(Cut::new(&mut self.writer, LOG_MESSAGE_BYTES_MAX), "{value:?}");
        }
        if self.writer.has_ansi_escapes() {
            // Italic, with a dimmed sign, like other programs that use `tracing`.
            write!(self.writer, "\x1b[3m{}\x1b[0m\x1b[2m=\x1b[0m", field.name())?;
        } else {
            write!(self.writer, "{}=", field.name())?;
        }
        write!(Cut::new(&mut self.writer, LOG_FIELD_BYTES_MAX), "{value:?}")
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_ok() {
            self.result = self.write(field, value);
        }
    }
}

/// Writes at most this many bytes, and an ellipsis for the rest. Control characters are escaped.
pub(super) struct Cut<'a, W> {
    writer: &'a mut W,
    left: usize,
    is_cut: bool,
}

impl<'a, W: Write> Cut<'a, W> {
    pub(super) fn new(writer: &'a mut W, bytes_max: usize) -> Cut<'a, W> {
        Cut { writer, left: bytes_max, is_cut: false }
    }

    fn put(&mut self, character: char) -> fmt::Result {
        if self.is_cut {
            return Ok(());
        }
        if character.len_utf8() > self.left {
            self.is_cut = true;
            return self.writer.write_char('…');
        }
        self.left -= character.len_utf8();
        self.writer.write_char(character)
    }
}

impl<W: Write> Write for Cut<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.is_cut {
                break;
            }
            if character.is_control() {
                for escaped in character.escape_default() {
                    self.put(escaped)?;
                }
            } else {
                self.put(character)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, bytes_max: usize) -> String {
        let mut line = String::new();
        write!(Cut::new(&mut line, bytes_max), "{text}").expect("a string takes everything");
        line
    }

    #[test]
    fn text_is_cut_at_its_bound_and_between_characters() {
        assert_eq!(cut("hello", 5), "hello");
        assert_eq!(cut("hello", 4), "hell…");
        assert_eq!(cut("größe", 4), "grö…");
        assert_eq!(cut("größe", 3), "gr…");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(cut("a\r\nb\x1b[31m", 100), "a\\r\\nb\\u{1b}[31m");
    }
}
