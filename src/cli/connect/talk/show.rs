//! Formats messages for display.
//!
//! Never: a character of the server that a terminal would obey.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::IgnoredAny;

use echoring_async::Message;

/// How messages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Pretty-print texts that are JSON.
    pub json: bool,
    /// Show the time of each message.
    pub timestamps: bool,
    /// For a terminal: escape control characters, and mark the sender.
    pub terminal: bool,
    /// In colour.
    pub colours: bool,
}

impl Style {
    /// Formats a message that arrived at `now`; the last line has no line end.
    pub(super) fn message(self, message: &Message, now: SystemTime) -> String {
        let mut line = String::new();
        if self.timestamps {
            let stamp = stamp(now, self.terminal);
            let _ =
                if self.colours { write!(line, "\x1b[2m{stamp}\x1b[0m ") } else { write!(line, "{stamp} ") };
        }
        if self.terminal {
            line += if self.colours { "\x1b[32m<\x1b[0m " } else { "< " };
        }
        match message.as_text() {
            Some(text) => {
                let pretty = self.json.then(|| pretty(text)).flatten();
                let text = pretty.as_deref().unwrap_or(text);
                // A line of a message must not look like one of the program's own.
                if self.terminal { line += &escaped(text).replace('\n', "\n  ") } else { line += text }
            }
            None => {
                if self.terminal {
                    let _ = write!(line, "{} bytes: ", message.len());
                }
                line += &hex(message.as_bytes());
            }
        }
        line
    }

    /// Formats a notice of the program, for a terminal.
    pub(super) fn notice(self, text: &str) -> String {
        if self.colours { format!("\x1b[2m* {text}\x1b[0m") } else { format!("* {text}") }
    }
}

/// The time of day in UTC for people, seconds since 1970 for scripts; both in milliseconds.
fn stamp(now: SystemTime, terminal: bool) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    if terminal {
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        format!("{hour:02}:{minute:02}:{second:02}.{millis:03}")
    } else {
        format!("{seconds}.{millis:03}")
    }
}

/// Bytes as pairs of hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Escapes the characters of `text` that a terminal obeys: escape sequences, carriage returns, and bidirectional
/// controls. Line feeds and tabs stay.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let obeyed = (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if obeyed {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Pretty-prints JSON without changing the order of keys or the digits of numbers; `None` if it is not JSON.
fn pretty(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut characters = text.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = characters.next() {
        if in_string {
            out.push(c);
            (in_string, escaped) = match c {
                _ if escaped => (true, false),
                '\\' => (true, true),
                '"' => (false, false),
                _ => (true, false),
            };
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while characters.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                // An empty array or object stays on its line.
                if let Some(end) = characters.next_if(|&next| next == '}' || next == ']') {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    Some(out)
}
