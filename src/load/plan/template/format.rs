//! Formats of values: decimal text, escapes, and binary numbers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Format {
    Text,
    /// As the content of a JSON string.
    Json,
    /// Percent-encoded, except for unreserved characters (RFC 3986, 2.3).
    Url,
    Base64,
    /// A big-endian number of this many bytes.
    Number(u8),
}

/// How a length is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LengthFormat {
    Text,
    /// A variable byte integer of MQTT 5.0, section 1.5.5.
    Varint,
    /// A big-endian number of this many bytes.
    Number(u8),
}

impl Format {
    pub(super) fn named(name: &str) -> Option<Format> {
        Some(match name {
            "text" => Format::Text,
            "json" => Format::Json,
            "url" => Format::Url,
            "base64" => Format::Base64,
            _ => Format::Number(number_bytes(name)?),
        })
    }

    pub(super) const NAMES: &str = "text, json, url, base64, u8, u16, u32 or u64";
}

impl LengthFormat {
    pub(super) fn named(name: &str) -> Option<LengthFormat> {
        Some(match name {
            "text" => LengthFormat::Text,
            "varint" => LengthFormat::Varint,
            _ => LengthFormat::Number(number_bytes(name)?),
        })
    }

    pub(super) const NAMES: &str = "text, varint, u8, u16 or u32";
}

pub(in crate::plan) fn number_bytes(name: &str) -> Option<u8> {
    Some(match name {
        "u8" => 1,
        "u16" => 2,
        "u32" => 4,
        "u64" => 8,
        _ => return None,
    })
}

/// Where an expansion goes.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    /// Bytes of a time, which differ from one expansion to the next.
    fn put_time(&mut self, bytes: &[u8]) {
        self.put(bytes);
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Writes text in this format; numbers are [`put_number`]'s.
pub(super) fn put_text(sink: &mut impl Sink, text: &[u8], format: Format) {
    match format {
        Format::Text => sink.put(text),
        Format::Json => put_json(sink, text),
        Format::Url => put_url(sink, text),
        Format::Base64 => put_base64(sink, text),
        // A column of data may be a number.
        Format::Number(bytes) => {
            let number = str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            put_binary(number, bytes, |bytes| sink.put(bytes));
        }
    }
}

/// Writes a number in this format.
pub(super) fn put_number(sink: &mut impl Sink, number: u64, format: Format) {
    match format {
        Format::Number(bytes) => put_binary(number, bytes, |bytes| sink.put(bytes)),
        Format::Base64 => put_base64(sink, itoa::Buffer::new().format(number).as_bytes()),
        Format::Text | Format::Json | Format::Url => {
            sink.put(itoa::Buffer::new().format(number).as_bytes());
        }
    }
}

/// Writes a time in this format.
pub(super) fn put_time(sink: &mut impl Sink, time: u64, format: Format) {
    match format {
        Format::Number(bytes) => put_binary(time, bytes, |bytes| sink.put_time(bytes)),
        _ => sink.put_time(itoa::Buffer::new().format(time).as_bytes()),
    }
}

pub(super) fn put_length(sink: &mut impl Sink, length: usize, format: LengthFormat) {
    match format {
        LengthFormat::Text => put_number(sink, length as u64, Format::Text),
        LengthFormat::Number(bytes) => put_binary(length as u64, bytes, |bytes| sink.put(bytes)),
        LengthFormat::Varint => {
            let mut rest = length;
            loop {
                let digit = (rest & 0x7f) as u8;
                rest >>= 7;
                sink.put(&[if rest > 0 { digit | 0x80 } else { digit }]);
                if rest == 0 {
                    break;
                }
            }
        }
    }
}

/// The low bytes of `number`, big-endian.
fn put_binary(number: u64, bytes: u8, put: impl FnOnce(&[u8])) {
    let whole = number.to_be_bytes();
    put(&whole[whole.len() - usize::from(bytes)..]);
}

/// Escapes what a JSON string may not contain (RFC 8259, section 7).
fn put_json(sink: &mut impl Sink, text: &[u8]) {
    let mut from = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        sink.put(&text[from..at]);
        from = at + 1;
        if byte >= 0x20 {
            sink.put(&[b'\\', byte]);
        } else {
            sink.put(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    sink.put(&text[from..]);
}

fn put_url(sink: &mut impl Sink, text: &[u8]) {
    let mut from = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            continue;
        }
        sink.put(&text[from..at]);
        from = at + 1;
        let upper = |digit: u8| HEX[usize::from(digit)].to_ascii_uppercase();
        sink.put(&[b'%', upper(byte >> 4), upper(byte & 15)]);
    }
    sink.put(&text[from..]);
}

fn put_base64(sink: &mut impl Sink, text: &[u8]) {
    const CHUNK: usize = 48;
    let mut encoded = [0; CHUNK / 3 * 4];
    for chunk in text.chunks(CHUNK) {
        // 48 bytes encode to 64 characters.
        let written = STANDARD.encode_slice(chunk, &mut encoded).unwrap_or(0);
        sink.put(&encoded[..written]);
    }
}

pub(super) const HEX: &[u8; 16] = b"0123456789abcdef";
