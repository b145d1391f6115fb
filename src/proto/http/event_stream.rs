//! The format of event streams, `text/event-stream` (WHATWG HTML, section 9.2: server-sent events).
//!
//! An event is a block of lines, each of which is a field, and ends with an empty line. A reader drops an event whose empty
//! line has not arrived, so a stream may end anywhere.
//!
//! Never: what an event means. Only the end of a stream, which takes the place of a Close frame, is written here as a whole.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::Write as _;

use crate::CloseCode;
use crate::close::retry_after;

/// How a response goes on that ends only with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamFormat {
    /// As events of an event stream. Pings are comments, and there is a last event.
    Events,
    /// As events too, each of which is a message of a protocol of the application, which has pings and a last message.
    Messages,
    /// The same messages, one on each line.
    Lines,
}

crate::plain!(for enum StreamFormat { Events, Messages, Lines });

impl StreamFormat {
    /// The type of the response.
    pub fn content_type(self) -> &'static str {
        match self {
            StreamFormat::Events | StreamFormat::Messages => "text/event-stream",
            StreamFormat::Lines => "application/x-ndjson",
        }
    }

    /// Whether clients are told when to return.
    pub fn has_retry(self) -> bool {
        self != StreamFormat::Lines
    }
}

/// Appends the last message of a stream in a format other than [`StreamFormat::Events`].
#[derive(Clone, Copy)]
pub struct WriteEnd(pub fn(StreamFormat, &mut Vec<u8>, CloseCode, &str));

impl fmt::Debug for WriteEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteEnd")
    }
}

/// A comment, which readers skip. It is a line and not an event, so that no reader mistakes it for an empty message.
pub const HEARTBEAT: &[u8] = b":\n";

const DATA: &[u8] = b"data: ";

/// Appends the name of an event. Without a name it is a `message`.
pub fn name(out: &mut Vec<u8>, name: &str) {
    field(out, "event", format_args!("{name}"));
}

/// Appends the id of an event: the value of `Last-Event-ID` when the client returns.
pub fn id(out: &mut Vec<u8>, id: impl std::fmt::Display) {
    field(out, "id", format_args!("{id}"));
}

/// Appends the time in milliseconds after which a client returns.
pub fn retry(out: &mut Vec<u8>, milliseconds: u64) {
    field(out, "retry", format_args!("{milliseconds}"));
}

/// Appends a comment of one line.
pub fn comment(out: &mut Vec<u8>, text: impl std::fmt::Display) {
    field(out, "", format_args!("{text}"));
}

/// Appends a field whose value has no line break.
fn field(out: &mut Vec<u8>, name: &str, value: std::fmt::Arguments<'_>) {
    // Writing to a vector cannot fail.
    let _ = writeln!(out, "{name}: {value}");
}

/// Appends the data of an event: the text of `parts` in one piece, one field per line. A reader joins the lines with LF, so
/// the line breaks CR and CR LF arrive as LF.
pub fn data(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.extend_from_slice(DATA);
    let mut after_cr = false;
    for mut rest in parts.iter().copied() {
        if let [first, behind @ ..] = rest
            && std::mem::take(&mut after_cr)
            && *first == b'\n'
        {
            rest = behind;
        }
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
            let (line, behind) = rest.split_at(at);
            // The LF of a CR LF may be the first byte of the next part.
            after_cr = behind == b"\r";
            out.extend_from_slice(line);
            out.push(b'\n');
            out.extend_from_slice(DATA);
            rest = &behind[if behind.starts_with(b"\r\n") { 2 } else { 1 }..];
        }
        out.extend_from_slice(rest);
    }
    out.push(b'\n');
}

/// Appends the empty line that completes an event.
pub fn complete(out: &mut Vec<u8>) {
    out.push(b'\n');
}

/// Appends the last event of a stream: its data is the code and the reason that a Close frame would have. If that [tells](retry_after) when
/// to return, the client's reconnection time is set to it.
pub fn end(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    if let Some(delay) = retry_after(reason) {
        retry(out, delay.as_millis() as u64);
    }
    name(out, "end");
    data(out, &[code.0.to_string().as_bytes(), b" ", reason.as_bytes()]);
    complete(out);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data_of(parts: &[&[u8]]) -> String {
        let mut out = Vec::new();
        data(&mut out, parts);
        String::from_utf8(out).expect("text")
    }

    /// A reader's view of data fields (WHATWG HTML, 9.2.6).
    fn read(fields: &str) -> String {
        let lines = fields.strip_suffix('\n').expect("a last line").split('\n');
        let values = lines.map(|line| {
            assert!(!line.contains('\r'), "a line break within {line:?}");
            line.strip_prefix("data: ").expect("a field of data")
        });
        values.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_line_of_the_text_is_a_field() {
        for (parts, expected) in [
            (&[&b""[..]][..], "data: \n"),
            (&[], "data: \n"),
            (&[b"one"], "data: one\n"),
            (&[b" a space stays"], "data:  a space stays\n"),
            (&[b"one\ntwo"], "data: one\ndata: two\n"),
            (&[b"one\rtwo\r\nthree"], "data: one\ndata: two\ndata: three\n"),
            (&[b"\n"], "data: \ndata: \n"),
            (&[b"\n\r"], "data: \ndata: \ndata: \n"),
            (&[b"one\r", b"\ntwo"], "data: one\ndata: two\n"),
            (&[b"one\r", b"", b"\n", b"\ntwo"], "data: one\ndata: \ndata: two\n"),
            (&[b"one\r", b"two\n"], "data: one\ndata: two\ndata: \n"),
            (&[b"{\"a\":", b"1", b"}"], "data: {\"a\":1}\n"),
            (
                "gr\u{fc}n\u{2028}".as_bytes().chunks(3).collect::<Vec<_>>().as_slice(),
                "data: gr\u{fc}n\u{2028}\n",
            ),
        ] {
            assert_eq!(data_of(parts), expected, "{parts:?}");
        }
    }

    #[test]
    fn fields_stand_in_lines_of_their_own() {
        let mut out = Vec::new();
        retry(&mut out, 2_500);
        name(&mut out, "gap");
        id(&mut out, "1f-40");
        comment(&mut out, "1f-41");
        complete(&mut out);
        assert_eq!(out, b"retry: 2500\nevent: gap\nid: 1f-40\n: 1f-41\n\n");
    }

    #[test]
    fn the_end_of_a_stream_says_why() {
        let mut out = Vec::new();
        end(&mut out, CloseCode::SLOW_CONSUMER, "slow consumer");
        end(&mut out, CloseCode::GOING_AWAY, "");
        assert_eq!(out, b"event: end\ndata: 4008 slow consumer\n\nevent: end\ndata: 1001 \n\n");
    }

    proptest! {
        #[test]
        fn a_reader_gets_the_text_with_its_lines(text in "[a\r\n ]{0,20}", cut in 0_usize..20) {
            let (one, two) = text.as_bytes().split_at(cut.min(text.len()));
            let expected = text.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(read(&data_of(&[one, two])), expected);
        }
    }
}
