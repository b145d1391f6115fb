//! Message payloads: generated from (seed, connection, sequence) and compared completely, without a heap allocation per
//! message.
//!
//! A message is a header of fixed width and a body that is cut from one pseudo-random template; the offset of the cut
//! follows from the seed and the header. A receiver that knows which message it expects compares a few slices;
//! otherwise it parses the header first. Headers and text messages are ASCII. Fields are written in 5-bit digits, `0` to `O`; sequences are spread over their 40 bits, so
//! that a damaged one names a message that was never sent:
//!
//! ```text
//! echo       | connection 4 | sequence 8 |                          body …
//! broadcast  | publisher 4  | sequence 8 | intended 10 | sent 10 |  body …
//! json echo  {"c":"cccc","s":"ssssssss","p":"body …"}
//!            {"c":"cccc","s":"ssssssss","p":"body …","d":[record,record …]}
//! ```
//!
//! A random body hardly compresses. A JSON message therefore consists of as many whole records as fit, and of a body
//! that fills the rest.
//!
//! An echo shorter than its header ([`Payloads::min_bytes`]) is *bare*: it has only a body. It is still compared
//! completely with the expected message, so corruption is found. It has no sequence: a message of 8 bytes or more is
//! recognised by its bytes among those near the expected one. A shorter one that is lost, duplicated or reordered shows
//! as corrupted, as lost at the end, or as duplicated. Lines of a file are bare messages.

mod json;
pub(crate) mod lines;
mod random_bytes;
pub(crate) mod sizes;
pub(crate) mod style;

use self::json::{RECORD_BYTES_MAX, Records};
use self::lines::Lines;
use self::random_bytes::{cut, random_bytes};
use self::sizes::{Sizes, Spread};
use self::style::{Form, Style};
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::Nanos;
use echoring_proto::random::mix;

/// Upper bound of any header's size.
const HEADER_BYTES_MAX: usize = 80;
const CONNECTION_DIGITS: usize = 4;
const SEQUENCE_DIGITS: usize = 8;
const SEQUENCE_MASK: u64 = (1 << (5 * SEQUENCE_DIGITS)) - 1;
/// A sequence is written as its product with this, modulo 2^40. Found by search: no other digit in one place yields a
/// sequence closer than 1.9 · 10^10 to the sent one.
const SPREAD: u64 = 0x20_911a_cc7b;
/// The inverse of [`SPREAD`] modulo 2^40.
const SPREAD_INVERSE: u64 = 0x26_fa09_32b3;
const TIME_DIGITS: usize = 10;
/// Times in messages are modulo this and one: 13 days.
const TIME_MASK: Nanos = (1 << (5 * TIME_DIGITS)) - 1;
/// Connections that a header can name.
pub const CONNECTIONS_MAX: u32 = 1 << (5 * CONNECTION_DIGITS);
/// Minimum body bytes of a broadcast message, and of a message with records, so that a damaged header is detected.
const BODY_BYTES_MIN: usize = 8;
/// Separates the body from the records of a JSON message; and the end of the records.
const RECORDS_OPEN: &[u8] = b"\",\"d\":[";
const RECORDS_CLOSE: &[u8] = b"]}";
/// Identifies one message. The times are zero in echoes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Id {
    /// Number of the connection that sends it.
    pub connection: u32,
    /// Counts the messages of that connection.
    pub sequence: u64,
    /// When the message is due, in broadcasts: as [`written_time`] writes it.
    pub intended: Nanos,
    /// When it was handed to the connection, likewise.
    pub sent: Nanos,
}

/// A time as messages carry it: by a clock that is ahead of this one by the offset.
#[inline]
pub(crate) fn written_time(at: Nanos, ahead: i64) -> Nanos {
    at.wrapping_add_signed(ahead) & TIME_MASK
}

/// The time that a message carries, by this clock, which shows `now`. By two clocks it may be in the future; it is `now` then.
#[inline]
pub(crate) fn read_time(written: Nanos, now: Nanos, ahead: i64) -> Nanos {
    let age = now.wrapping_add_signed(ahead).wrapping_sub(written) & TIME_MASK;
    if age > TIME_MASK / 2 { now } else { now.saturating_sub(age) }
}

/// The payloads of one run, shared by its threads.
#[derive(Debug)]
pub struct Payloads {
    seed: u64,
    style: Style,
    form: Form,
    sizes: Sizes,
    pub(crate) bytes_max: usize,
    pub(crate) bare: bool,
    /// The header with zero digits, and the offsets of its fields. Bare messages have none.
    literal: Vec<u8>,
    fields: [usize; 4],
    suffix: &'static [u8],
    content: Content,
}

/// The source of bodies.
#[derive(Debug)]
enum Content {
    /// Bytes that may be cut at any offset.
    Bytes(Box<[u8]>),
    /// Records, and a template that fills the rest.
    Records(Box<[u8]>, Records),
    /// Whole messages.
    Lines(Lines),
}

/// The part of a message after its header.
struct Parts<'a> {
    body: &'a [u8],
    /// The separator of body and records.
    infix: &'static [u8],
    records: &'a [u8],
    suffix: &'static [u8],
}

impl Payloads {
    /// Messages of `bytes.0` to `bytes.1` bytes.
    ///
    /// # Panics
    /// If the range is descending; the plan has checked it, and the result of [`usage`](Payloads::usage).
    pub fn new(seed: u64, style: Style, form: Form, bytes: (usize, usize), spread: Spread) -> Payloads {
        assert!(bytes.0 <= bytes.1, "an ascending range");
        let (literal, fields, suffix) = layout(style, form);
        let bare = bytes.0 < literal.len() + suffix.len();
        let content = match style {
            Style::Text | Style::Binary => Content::Bytes(random_bytes(seed, style, bytes.1)),
            // If records fit, the body only fills the space that is too small for another one.
            Style::Json => Content::Records(
                random_bytes(seed, style, bytes.1.min(2 * RECORD_BYTES_MAX)),
                Records::new(seed, bytes.1),
            ),
        };
        Payloads {
            seed,
            style,
            form,
            sizes: Sizes::new(bytes, spread),
            bytes_max: bytes.1,
            bare,
            literal: if bare { Vec::new() } else { literal },
            fields,
            suffix: if bare { b"" } else { suffix },
            content,
        }
    }

    /// The lines of a file as echoes, of the type of `style`.
    pub(crate) fn of_lines(seed: u64, style: Style, lines: Lines) -> Payloads {
        Payloads {
            seed,
            style,
            form: Form::Echo,
            // Each line has its own size.
            sizes: Sizes::new((0, 0), Spread::Even),
            bytes_max: lines.bytes().1,
            bare: true,
            literal: Vec::new(),
            fields: [0; 4],
            suffix: b"",
            content: Content::Lines(lines),
        }
    }

    /// The minimum size at which a message of this style and form identifies itself.
    pub fn min_bytes(style: Style, form: Form) -> usize {
        let (literal, _, suffix) = layout(style, form);
        let body = if form == Form::Broadcast { BODY_BYTES_MIN } else { 0 };
        literal.len() + suffix.len() + body
    }

    /// Checks that messages of this size can be made.
    ///
    /// # Errors
    /// The minimum size. Only plain echoes may be smaller than [`min_bytes`](Payloads::min_bytes).
    pub fn usage(style: Style, form: Form, bytes_min: usize) -> Result<(), String> {
        let least = Payloads::min_bytes(style, form);
        if bytes_min >= least || (form == Form::Echo && style != Style::Json) {
            return Ok(());
        }
        let what = match form {
            Form::Echo => "a JSON message that names its connection and sequence",
            Form::Broadcast => "a broadcast message that names its publisher, sequence and times",
        };
        Err(format!("{what} needs at least {least} bytes"))
    }

    /// The type of the messages.
    pub fn kind(&self) -> MessageKind {
        self.style.kind()
    }

    /// The size of one message, in bytes.
    #[inline]
    pub fn bytes(&self, id: &Id) -> usize {
        match &self.content {
            Content::Lines(lines) => lines.message(self.seed, id.connection, id.sequence).len(),
            _ => self.sizes.pick(|| self.hash(id)),
        }
    }

    /// Writes a message over `out`, which keeps its capacity.
    #[inline]
    pub fn write(&self, id: &Id, out: &mut Vec<u8>) {
        out.clear();
        let bytes = self.bytes(id);
        let mut header = [0; HEADER_BYTES_MAX];
        out.extend_from_slice(self.header(id, &mut header));
        let Parts { body, infix, records, suffix } = self.parts(id, bytes - self.literal.len());
        for part in [body, infix, records, suffix] {
            out.extend_from_slice(part);
        }
    }

    /// Whether `payload` is exactly this message.
    #[inline]
    pub fn matches(&self, id: &Id, payload: &[u8]) -> bool {
        if payload.len() != self.bytes(id) {
            return false;
        }
        let mut header = [0; HEADER_BYTES_MAX];
        let (head, mut rest) = payload.split_at(self.literal.len());
        let Parts { body, infix, records, suffix } = self.parts(id, rest.len());
        head == self.header(id, &mut header)
            && [body, infix, records, suffix].into_iter().all(|part| {
                let (here, behind) = rest.split_at(part.len());
                rest = behind;
                here == part
            })
    }

    /// The id in the header of `payload`. `None` without a valid header. Nothing else is checked.
    #[inline]
    pub fn identify(&self, payload: &[u8]) -> Option<Id> {
        if self.bare || payload.len() < self.literal.len() {
            return None;
        }
        let mut id = Id {
            connection: digits(payload, self.fields[0], CONNECTION_DIGITS)? as u32,
            sequence: digits(payload, self.fields[1], SEQUENCE_DIGITS)?.wrapping_mul(SPREAD_INVERSE)
                & SEQUENCE_MASK,
            intended: 0,
            sent: 0,
        };
        if self.form == Form::Broadcast {
            id.intended = digits(payload, self.fields[2], TIME_DIGITS)?;
            id.sent = digits(payload, self.fields[3], TIME_DIGITS)?;
        }
        Some(id)
    }

    #[inline]
    fn header<'a>(&self, id: &Id, out: &'a mut [u8; HEADER_BYTES_MAX]) -> &'a [u8] {
        let out = &mut out[..self.literal.len()];
        if self.bare {
            return out;
        }
        out.copy_from_slice(&self.literal);
        put_digits(out, self.fields[0], CONNECTION_DIGITS, u64::from(id.connection));
        put_digits(out, self.fields[1], SEQUENCE_DIGITS, id.sequence.wrapping_mul(SPREAD));
        if self.form == Form::Broadcast {
            put_digits(out, self.fields[2], TIME_DIGITS, id.intended);
            put_digits(out, self.fields[3], TIME_DIGITS, id.sent);
        }
        out
    }

    /// The `bytes` behind the header.
    #[inline]
    fn parts<'a>(&'a self, id: &Id, bytes: usize) -> Parts<'a> {
        let suffix = self.suffix;
        let plain = |template: &'a [u8]| {
            let body = cut(template, self.hash(id), bytes - suffix.len());
            Parts { body, infix: b"", records: &[], suffix }
        };
        match &self.content {
            Content::Bytes(template) => plain(template),
            Content::Records(template, records) => {
                let around = BODY_BYTES_MIN + RECORDS_OPEN.len() + RECORDS_CLOSE.len();
                if let Some(room) = bytes.checked_sub(around)
                    && let records @ [_, ..] = records.cut((self.hash(id) >> 16) as u32, room)
                {
                    let body = cut(template, self.hash(id), BODY_BYTES_MIN + room - records.len());
                    return Parts { body, infix: RECORDS_OPEN, records, suffix: RECORDS_CLOSE };
                }
                plain(template)
            }
            Content::Lines(lines) => {
                let body = lines.message(self.seed, id.connection, id.sequence);
                Parts { body, infix: b"", records: &[], suffix }
            }
        }
    }

    #[inline]
    fn hash(&self, id: &Id) -> u64 {
        let name = mix(self.seed ^ (u64::from(id.connection) << 40) ^ id.sequence);
        match self.form {
            Form::Echo => name,
            // Mixes both, because the size must not depend on the times alone, nor the cut on the id alone.
            Form::Broadcast => mix(name ^ id.intended.rotate_left(17) ^ id.sent.rotate_left(41)),
        }
    }
}

/// The literal parts of a header, the offsets of its fields, and the text behind the body.
fn layout(style: Style, form: Form) -> (Vec<u8>, [usize; 4], &'static [u8]) {
    let names: &[(&str, usize)] = match form {
        Form::Echo => &[("c", CONNECTION_DIGITS), ("s", SEQUENCE_DIGITS)],
        Form::Broadcast => {
            &[("c", CONNECTION_DIGITS), ("s", SEQUENCE_DIGITS), ("i", TIME_DIGITS), ("t", TIME_DIGITS)]
        }
    };
    let mut literal = Vec::new();
    let mut fields = [0; 4];
    for (field, &(name, width)) in names.iter().enumerate() {
        if style == Style::Json {
            literal.extend_from_slice(if field == 0 { b"{\"" } else { b"\",\"" });
            literal.extend_from_slice(name.as_bytes());
            literal.extend_from_slice(b"\":\"");
        }
        fields[field] = literal.len();
        literal.resize(literal.len() + width, b'0');
    }
    if style == Style::Json {
        literal.extend_from_slice(b"\",\"p\":\"");
    }
    (literal, fields, if style == Style::Json { b"\"}" } else { b"" })
}

/// Writes the low `5 * width` bits of `value`, most significant digit first.
#[inline]
fn put_digits(out: &mut [u8], at: usize, width: usize, mut value: u64) {
    for digit in out[at..at + width].iter_mut().rev() {
        *digit = b'0' + (value & 31) as u8;
        value >>= 5;
    }
}

#[inline]
fn digits(payload: &[u8], at: usize, width: usize) -> Option<u64> {
    let mut value = 0;
    let mut stray = 0;
    for &digit in &payload[at..at + width] {
        let bits = digit.wrapping_sub(b'0');
        stray |= bits & !31;
        value = value << 5 | u64::from(bits & 31);
    }
    (stray == 0).then_some(value)
}

#[cfg(test)]
mod tests;
