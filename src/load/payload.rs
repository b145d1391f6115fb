//! What messages say: generated from (seed, connection, sequence) and compared whole, without a heap
//! allocation per message.
//!
//! A message is a header of fixed width and a body cut from one pseudo-random template; where the cut begins
//! follows from the seed and all that the header says. A receiver that knows what it expects compares a few
//! slices; one that does not reads the header and then compares. Headers are ASCII, and what must be text is
//! valid UTF-8: bodies of several bytes a character are cut between characters. Fields are written in 5-bit
//! digits, `0` to `O`:
//!
//! ```text
//! echo       | connection 4 | sequence 8 |                          body …
//! broadcast  | publisher 4  | sequence 8 | intended 10 | sent 10 |  body …
//! json echo  {"c":"cccc","s":"ssssssss","p":"body …"}
//!            {"c":"cccc","s":"ssssssss","p":"body …","d":[record,record …]}
//! ```
//!
//! The body alone would hardly shrink when it is compressed. A JSON message is therefore made of records as far as
//! whole ones fit, and of a body that fills up what they leave.
//!
//! An echo shorter than its header ([`Payloads::least_bytes`]) is *bare*: all body. It is still compared whole
//! with the one message that is due, so corruption is found. It carries no sequence; one of 8 bytes or more is
//! known by its bytes among those around the one that is due, a shorter one that is lost, duplicated or reordered
//! shows as corrupted ones, as lost at the end, or as surplus. Messages that are the lines of a file are bare.

mod json;
mod lines;
mod sizes;
mod text;

use self::json::{RECORD_BYTES_MAX, Records};
pub use self::lines::Lines;
use self::sizes::Sizes;
pub use self::sizes::Spread;
use self::text::Characters;
use crate::connection::Kind;
use crate::limits::Nanos;

/// Distinct cuts of the template.
const TEMPLATE_CUTS: usize = 1 << 16;
/// Longest header of any form, with room to spare.
const HEADER_BYTES_MAX: usize = 80;
const CONNECTION_DIGITS: usize = 4;
const SEQUENCE_DIGITS: usize = 8;
const TIME_DIGITS: usize = 10;
/// Connections that a header can name.
pub const CONNECTIONS_MAX: u32 = 1 << (5 * CONNECTION_DIGITS);
/// Body bytes of a broadcast message at least, and of a message with records: they are what shows a damaged header.
const BODY_BYTES_MIN: usize = 8;
/// What stands between the body and the records of a JSON message, and behind the records.
const RECORDS_OPEN: &[u8] = b"\",\"d\":[";
const RECORDS_CLOSE: &[u8] = b"]}";
/// 64 characters that need no escape in JSON.
const TEXT: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -";

/// What the bytes of a message are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// ASCII in a text message.
    Text,
    /// Words of several scripts in a text message, of one to three bytes a character.
    Mixed,
    /// Emoji in a text message: four bytes a character, and sequences of such.
    Emoji,
    /// Any bytes in a binary message.
    Binary,
    /// A JSON object in a text message.
    Json,
}

impl Style {
    /// The message type that carries it.
    pub fn kind(self) -> Kind {
        match self {
            Style::Text | Style::Mixed | Style::Emoji | Style::Json => Kind::Text,
            Style::Binary => Kind::Binary,
        }
    }

    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Style::Text | Style::Mixed | Style::Emoji => "text",
            Style::Binary => "binary",
            Style::Json => "json",
        }
    }

    /// What text is made of, as the command line calls it; `None` for what is no plain text.
    pub fn script(self) -> Option<&'static str> {
        match self {
            Style::Text => Some("ascii"),
            Style::Mixed => Some("mixed"),
            Style::Emoji => Some("emoji"),
            Style::Binary | Style::Json => None,
        }
    }
}

/// What a message has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Connection and sequence.
    Echo,
    /// Publisher, sequence and two times.
    Broadcast,
}

/// The name of one message. The times are zero in echoes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Id {
    /// Number of the connection that sends it.
    pub connection: u32,
    /// Counts the messages of that connection.
    pub sequence: u64,
    /// When it should have left.
    pub intended: Nanos,
    /// When it was handed to the connection.
    pub sent: Nanos,
}

/// The messages of one run. Shared by its threads.
#[derive(Debug)]
pub struct Payloads {
    seed: u64,
    style: Style,
    form: Form,
    sizes: Sizes,
    bytes_max: usize,
    bare: bool,
    /// The header with its digits still zero, and where they go. Bare messages have none.
    literal: Vec<u8>,
    fields: [usize; 4],
    suffix: &'static [u8],
    content: Content,
}

/// What messages are cut from.
#[derive(Debug)]
enum Content {
    /// Bytes that may be cut anywhere.
    Bytes(Box<[u8]>),
    /// Characters of several bytes.
    Characters(Characters),
    /// Records, and bytes that fill up what whole ones leave.
    Records(Box<[u8]>, Records),
    /// Whole messages.
    Lines(Lines),
}

/// What follows the header of a message.
struct Parts<'a> {
    body: &'a [u8],
    /// Between the body and the records, or what fills up the body.
    infix: &'static [u8],
    records: &'a [u8],
    suffix: &'static [u8],
}

impl Payloads {
    /// Messages of `bytes.0` to `bytes.1` bytes.
    ///
    /// # Panics
    /// When the range falls; the plan has checked it and what [`usage`](Payloads::usage) says.
    pub fn new(seed: u64, style: Style, form: Form, bytes: (usize, usize), spread: Spread) -> Payloads {
        assert!(bytes.0 <= bytes.1, "sizes rise");
        let (literal, fields, suffix) = layout(style, form);
        let bare = bytes.0 < literal.len() + suffix.len();
        let content = match style {
            Style::Text | Style::Binary => Content::Bytes(template(seed, style, bytes.1)),
            Style::Mixed | Style::Emoji => Content::Characters(Characters::new(seed, style, bytes.1)),
            // Where records fit, the body only fills up what the next one would have taken.
            Style::Json => Content::Records(
                template(seed, style, bytes.1.min(2 * RECORD_BYTES_MAX)),
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

    /// Echoes that are the lines of a file, which are of the type of `style`.
    pub fn of_lines(seed: u64, style: Style, lines: Lines) -> Payloads {
        Payloads {
            seed,
            style,
            form: Form::Echo,
            // Each line has its own.
            sizes: Sizes::new((0, 0), Spread::Even),
            bytes_max: lines.bytes().1,
            bare: true,
            literal: Vec::new(),
            fields: [0; 4],
            suffix: b"",
            content: Content::Lines(lines),
        }
    }

    /// The least size at which a message of this style and form names itself.
    pub fn least_bytes(style: Style, form: Form) -> usize {
        let (literal, _, suffix) = layout(style, form);
        let body = if form == Form::Broadcast { BODY_BYTES_MIN } else { 0 };
        literal.len() + suffix.len() + body
    }

    /// What is wrong with a size, if it cannot be made at all.
    ///
    /// # Errors
    /// Says the least size. Only plain echoes may be smaller than [`least_bytes`](Payloads::least_bytes).
    pub fn usage(style: Style, form: Form, bytes_min: usize) -> Result<(), String> {
        let least = Payloads::least_bytes(style, form);
        if bytes_min >= least || (form == Form::Echo && style != Style::Json) {
            return Ok(());
        }
        let what = match form {
            Form::Echo => "a JSON message that names its connection and sequence",
            Form::Broadcast => "a broadcast message that names its publisher, sequence and times",
        };
        Err(format!("{what} takes at least {least} bytes"))
    }

    /// Whether messages are too short to name themselves.
    pub fn bare(&self) -> bool {
        self.bare
    }

    /// The type of the messages.
    pub fn kind(&self) -> Kind {
        self.style.kind()
    }

    /// The largest message, in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
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

    /// What `payload` says it is. `None` when it has no legible header. Nothing else is checked.
    #[inline]
    pub fn identify(&self, payload: &[u8]) -> Option<Id> {
        if self.bare || payload.len() < self.literal.len() {
            return None;
        }
        let mut id = Id {
            connection: digits(payload, self.fields[0], CONNECTION_DIGITS)? as u32,
            sequence: digits(payload, self.fields[1], SEQUENCE_DIGITS)?,
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
        put_digits(out, self.fields[1], SEQUENCE_DIGITS, id.sequence);
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
            Content::Characters(characters) => {
                let (body, infix) = characters.cut(self.hash(id), bytes - suffix.len());
                Parts { body, infix, records: &[], suffix }
            }
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
            // A size must not depend on the times alone, nor the cut on the name alone: mix both.
            Form::Broadcast => mix(name ^ id.intended.rotate_left(17) ^ id.sent.rotate_left(41)),
        }
    }
}

/// Bytes of a style that any cut may be made of, for bodies of `body_bytes_max`.
fn template(seed: u64, style: Style, body_bytes_max: usize) -> Box<[u8]> {
    let mut state = seed;
    (0..TEMPLATE_CUTS + body_bytes_max)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let byte = mix(state) as u8;
            if style == Style::Binary { byte } else { TEXT[usize::from(byte & 63)] }
        })
        .collect()
}

#[inline]
fn cut(template: &[u8], hash: u64, bytes: usize) -> &[u8] {
    let start = hash as usize % TEMPLATE_CUTS;
    &template[start..start + bytes]
}

/// The literal parts of a header, where its fields begin, and what follows the body.
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

/// The finalizer of SplitMix64: every bit of the input reaches every bit of the output.
#[inline]
pub(super) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
