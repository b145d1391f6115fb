//! The events of a test, line by line, for people.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::message::{HandlerFailure, TestMessage, TestPublication};
use crate::limits::{TEST_TRANSCRIPT_LINES_MAX, TEST_TRANSCRIPT_PAYLOAD_BYTES};
use echoring_proto::connection::{Closed, MessageKind};
use echoring_proto::limits::Nanos;

/// The latest lines.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    lines: VecDeque<String>,
    dropped: u64,
}

impl Transcript {
    pub(super) fn sent(&mut self, now: Nanos, client: usize, kind: MessageKind, payload: &[u8]) {
        self.add(now, format_args!("client {client} sends {}", Shown { kind, payload }));
    }

    pub(super) fn received(&mut self, now: Nanos, client: usize, message: &TestMessage) {
        let kind = match message {
            TestMessage::Text(_) => MessageKind::Text,
            TestMessage::Binary(_) => MessageKind::Binary,
        };
        self.add(now, format_args!("client {client} gets {}", Shown { kind, payload: message.payload() }));
    }

    pub(super) fn closed(&mut self, now: Nanos, client: usize, closed: Option<&Closed>) {
        match closed {
            Some(Closed { code, peer_close: Some(said), .. }) => {
                self.add(
                    now,
                    format_args!("client {client} is closed with {code}, the server's frame is {said}"),
                );
            }
            Some(Closed { code, cause, .. }) => {
                self.add(now, format_args!("client {client} is closed with {code}, cause {}", cause.name()));
            }
            None => self.add(now, format_args!("client {client} has its response")),
        }
    }

    pub(super) fn published(&mut self, now: Nanos, publication: &TestPublication) {
        let TestPublication { topic, position, payload, .. } = publication;
        let kind = publication.text().map_or(MessageKind::Binary, |_| MessageKind::Text);
        self.add(now, format_args!("{topic} has {} as {}", Shown { kind, payload }, position.offset));
    }

    pub(super) fn failed(&mut self, now: Nanos, failure: &HandlerFailure) {
        self.add(now, format_args!("{failure}"));
    }

    pub(super) fn text(&self) -> String {
        let mut text = match self.dropped {
            0 => String::new(),
            dropped => format!("({dropped} lines before)\n"),
        };
        self.lines.iter().for_each(|line| text += line);
        text
    }

    fn add(&mut self, now: Nanos, what: fmt::Arguments<'_>) {
        if self.lines.len() == TEST_TRANSCRIPT_LINES_MAX {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(format!("{:>12.6} {what}\n", Duration::from_nanos(now).as_secs_f64()));
    }
}

/// The beginning of a payload.
struct Shown<'a> {
    kind: MessageKind,
    payload: &'a [u8],
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.payload[..self.payload.len().min(TEST_TRANSCRIPT_PAYLOAD_BYTES)];
        match self.kind {
            MessageKind::Text => write!(f, "{:?}", String::from_utf8_lossy(shown))?,
            MessageKind::Binary => {
                f.write_str("0x")?;
                shown.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            }
        }
        match self.payload.len() - shown.len() {
            0 => Ok(()),
            left => write!(f, " and {left} bytes more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_short_and_the_latest_are_kept() {
        let mut transcript = Transcript::default();
        transcript.sent(1_500_000_000, 3, MessageKind::Text, "x\ny".as_bytes());
        transcript.sent(0, 3, MessageKind::Binary, &[0x0a; TEST_TRANSCRIPT_PAYLOAD_BYTES + 2]);
        let bytes = "0a".repeat(TEST_TRANSCRIPT_PAYLOAD_BYTES);
        let expected = format!(
            "    1.500000 client 3 sends \"x\\ny\"\n    0.000000 client 3 sends 0x{bytes} and 2 bytes more\n"
        );
        assert_eq!(transcript.text(), expected);
        for _ in 0..TEST_TRANSCRIPT_LINES_MAX {
            transcript.sent(0, 1, MessageKind::Text, b"last");
        }
        let text = transcript.text();
        assert!(text.starts_with("(2 lines before)\n"), "{text:.60}");
        assert_eq!(text.lines().count(), TEST_TRANSCRIPT_LINES_MAX + 1);
    }
}
