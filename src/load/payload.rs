//! What messages say: generated from (seed, connection, sequence) and compared whole, without a heap
//! allocation per message.
//!
//! A message is a header of fixed width and a body cut from one pseudo-random template; where the cut begins
//! follows from the seed and all that the header says. A receiver that knows what it expects compares a few
//! slices; one that does not reads the header and then compares. All bytes are ASCII in the kinds that must
//! be text. Fields are written in 5-bit digits, `0` to `O`:
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
//! with the one message that is due, so corruption is found; but it carries no sequence, so a lost,
//! duplicated or reordered message shows as corrupted ones, as lost at the end, or as surplus.

mod json;

use self::json::{RECORD_BYTES_MAX, Records};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// ASCII in a text message.
    Text,
    /// Any bytes in a binary message.
    Binary,
    /// A JSON object in a text message.
    Json,
}

impl Style {
    /// The message type that carries it.
    pub fn kind(self) -> Kind {
        match self {
            Style::Text | Style::Json => Kind::Text,
            Style::Binary => Kind::Binary,
        }
    }

    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Style::Text => "text",
            Style::Binary => "binary",
            Style::Json => "json",
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
    bytes_min: usize,
    bytes_max: usize,
    bare: bool,
    /// The header with its digits still zero, and where they go.
    literal: Vec<u8>,
    fields: [usize; 4],
    suffix: &'static [u8],
    template: Box<[u8]>,
    /// JSON style only.
    records: Option<Records>,
}

/// What follows the header of a message.
struct Parts<'a> {
    body: &'a [u8],
    /// Between the body and the records.
    infix: &'static [u8],
    records: &'a [u8],
    suffix: &'static [u8],
}

impl Payloads {
    /// Messages of `bytes.0` to `bytes.1` bytes, sizes spread evenly.
    ///
    /// # Panics
    /// When the range falls; the plan has checked it and what [`usage`](Payloads::usage) says.
    pub fn new(seed: u64, style: Style, form: Form, bytes: (usize, usize)) -> Payloads {
        assert!(bytes.0 <= bytes.1, "sizes rise");
        let (literal, fields, suffix) = layout(style, form);
        let bare = bytes.0 < literal.len() + suffix.len();
        let records = (style == Style::Json).then(|| Records::new(seed, bytes.1));
        // Where records fit, the body only fills up what the next one would have taken.
        let body_bytes_max = match records {
            Some(_) => bytes.1.min(2 * RECORD_BYTES_MAX),
            None => bytes.1,
        };
        let mut state = seed;
        let template = (0..TEMPLATE_CUTS + body_bytes_max)
            .map(|_| {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let byte = mix(state) as u8;
                if style == Style::Binary { byte } else { TEXT[usize::from(byte & 63)] }
            })
            .collect();
        Payloads {
            seed,
            style,
            form,
            bytes_min: bytes.0,
            bytes_max: bytes.1,
            bare,
            literal,
            fields,
            suffix,
            template,
            records,
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
        if self.bytes_min == self.bytes_max {
            return self.bytes_min;
        }
        let spread = (self.bytes_max - self.bytes_min + 1) as u64;
        // The high half picks the size, the low bits pick the cut.
        self.bytes_min + (((self.hash(id) >> 32) * spread) >> 32) as usize
    }

    /// Writes a message over `out`, which keeps its capacity.
    #[inline]
    pub fn write(&self, id: &Id, out: &mut Vec<u8>) {
        out.clear();
        let bytes = self.bytes(id);
        if self.bare {
            out.extend_from_slice(self.body(id, bytes));
            return;
        }
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
        if self.bare {
            return payload == self.body(id, payload.len());
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
    fn parts(&self, id: &Id, bytes: usize) -> Parts<'_> {
        if let Some(records) = &self.records
            && let Some(room) = bytes.checked_sub(BODY_BYTES_MIN + RECORDS_OPEN.len() + RECORDS_CLOSE.len())
            && let records @ [_, ..] = records.cut((self.hash(id) >> 16) as u32, room)
        {
            let body = self.body(id, BODY_BYTES_MIN + room - records.len());
            return Parts { body, infix: RECORDS_OPEN, records, suffix: RECORDS_CLOSE };
        }
        let body = self.body(id, bytes - self.suffix.len());
        Parts { body, infix: b"", records: &[], suffix: self.suffix }
    }

    #[inline]
    fn body(&self, id: &Id, bytes: usize) -> &[u8] {
        let cut = self.hash(id) as usize % TEMPLATE_CUTS;
        &self.template[cut..cut + bytes]
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
mod tests {
    use super::*;
    use crate::protocol::deflate::{Deflater, Direction};

    const STYLES: [Style; 3] = [Style::Text, Style::Binary, Style::Json];

    fn id(form: Form) -> Id {
        let id = Id { connection: 70_001, sequence: 123_456_789_012, ..Id::default() };
        match form {
            Form::Echo => id,
            Form::Broadcast => Id { intended: 987_654_321_098_765, sent: 987_654_321_198_765, ..id },
        }
    }

    #[test]
    fn a_message_names_itself_and_matches_only_itself() {
        for style in STYLES {
            for form in [Form::Echo, Form::Broadcast] {
                let least = Payloads::least_bytes(style, form);
                for bytes in [least, least + 1, 200, 70_000] {
                    let payloads = Payloads::new(7, style, form, (bytes, bytes));
                    let (id, mut out) = (id(form), Vec::new());
                    payloads.write(&id, &mut out);
                    assert_eq!(out.len(), bytes);
                    assert_eq!(payloads.identify(&out), Some(id));
                    assert!(payloads.matches(&id, &out));
                    let next = Id { sequence: id.sequence + 1, ..id };
                    assert!(!payloads.matches(&next, &out));
                    let other = Id { connection: id.connection + 1, ..id };
                    assert!(!payloads.matches(&other, &out));
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for style in STYLES {
            for form in [Form::Echo, Form::Broadcast] {
                let least = Payloads::least_bytes(style, form);
                for bytes in [least, 96, 400] {
                    let payloads = Payloads::new(11, style, form, (bytes, bytes));
                    let mut out = Vec::new();
                    payloads.write(&id(form), &mut out);
                    for bit in 0..out.len() * 8 {
                        out[bit / 8] ^= 1 << (bit % 8);
                        // What the header claims now must not match, and neither must what was sent.
                        assert!(!payloads.matches(&id(form), &out), "{style:?} {form:?} bit {bit}");
                        if let Some(claimed) = payloads.identify(&out) {
                            let body_tells = form == Form::Broadcast || bytes > least;
                            assert!(
                                !body_tells || !payloads.matches(&claimed, &out),
                                "{style:?} {form:?} bit {bit}"
                            );
                        }
                        out[bit / 8] ^= 1 << (bit % 8);
                    }
                }
            }
        }
    }

    #[test]
    fn the_least_sizes_are_what_the_manual_says() {
        assert_eq!(Payloads::least_bytes(Style::Text, Form::Echo), 12);
        assert_eq!(Payloads::least_bytes(Style::Binary, Form::Echo), 12);
        assert_eq!(Payloads::least_bytes(Style::Json, Form::Echo), 34);
        assert_eq!(Payloads::least_bytes(Style::Text, Form::Broadcast), 40);
        assert_eq!(Payloads::least_bytes(Style::Json, Form::Broadcast), 76);
        assert!(Payloads::usage(Style::Text, Form::Echo, 0).is_ok());
        assert!(Payloads::usage(Style::Json, Form::Echo, 33).unwrap_err().contains("34"));
        assert!(Payloads::usage(Style::Binary, Form::Broadcast, 39).unwrap_err().contains("40"));
    }

    #[test]
    fn a_bare_message_is_still_compared_whole() {
        for bytes in 0..12 {
            let payloads = Payloads::new(3, Style::Binary, Form::Echo, (bytes, bytes));
            assert!(payloads.bare());
            let (id, mut out) = (id(Form::Echo), Vec::new());
            payloads.write(&id, &mut out);
            assert_eq!(out.len(), bytes);
            assert!(payloads.matches(&id, &out));
            assert_eq!(payloads.identify(&out), None);
            if bytes > 0 {
                out[bytes - 1] ^= 1;
                assert!(!payloads.matches(&id, &out));
            }
        }
    }

    #[test]
    fn text_is_ascii_and_json_parses() {
        for (style, form) in
            [(Style::Text, Form::Echo), (Style::Json, Form::Echo), (Style::Json, Form::Broadcast)]
        {
            let payloads = Payloads::new(5, style, form, (300, 300));
            let mut out = Vec::new();
            for sequence in 0..500 {
                payloads.write(&Id { sequence, ..id(form) }, &mut out);
                assert!(out.is_ascii());
                if style == Style::Json {
                    let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
                    assert_eq!(value["c"].as_str().map(str::len), Some(4));
                }
            }
        }
    }

    #[test]
    fn json_of_every_size_parses_and_fills_with_records() {
        let sizes = (Payloads::least_bytes(Style::Json, Form::Echo), 1_500);
        let payloads = Payloads::new(6, Style::Json, Form::Echo, sizes);
        let mut out = Vec::new();
        for sequence in 0..5_000 {
            let id = Id { sequence, ..Id::default() };
            payloads.write(&id, &mut out);
            assert!(payloads.matches(&id, &out));
            let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            let records = value["d"].as_array().map_or(0, Vec::len);
            assert!(records >= out.len() / RECORD_BYTES_MAX - usize::from(out.len() >= RECORD_BYTES_MAX));
        }
    }

    #[test]
    fn json_shrinks_as_much_as_real_json_and_text_does_not() {
        let mut deflated = Vec::new();
        let mut share = |style, bytes: usize, level| {
            let payloads = Payloads::new(8, style, Form::Echo, (bytes, bytes));
            let direction = Direction { takeover: false, window_bits: 15 };
            let (mut deflater, mut out, mut sum) = (Deflater::new(direction, level), Vec::new(), 0);
            for sequence in 0..500 {
                payloads.write(&Id { sequence, ..Id::default() }, &mut out);
                sum += deflater.deflate(&out, &mut deflated);
            }
            sum as f64 / (500 * bytes) as f64
        };
        for (bytes, dense, fast) in
            [(256, 0.8..0.95, 0.8..1.0), (1_024, 0.36..0.46, 0.4..0.6), (16_384, 0.15..0.25, 0.2..0.4)]
        {
            let shares = (share(Style::Json, bytes, 6), share(Style::Json, bytes, 1));
            println!("{bytes} bytes: {shares:.3?} of them at levels 6 and 1");
            assert!(dense.contains(&shares.0) && fast.contains(&shares.1), "{bytes}: {shares:?}");
        }
        let text = share(Style::Text, 1_024, 6);
        assert!((0.7..0.9).contains(&text), "six random bits of eight: {text}");
    }

    #[test]
    fn sizes_cover_their_range_and_repeat() {
        let payloads = Payloads::new(9, Style::Binary, Form::Echo, (12, 20));
        let mut seen = [0; 21];
        for sequence in 0..9_000 {
            let id = Id { sequence, ..Id::default() };
            let bytes = payloads.bytes(&id);
            assert_eq!(bytes, payloads.bytes(&id));
            seen[bytes] += 1;
        }
        assert!(seen[..12].iter().all(|&count| count == 0));
        assert!(seen[12..].iter().all(|&count| (800..1_200).contains(&count)), "{seen:?}");
    }

    #[test]
    fn writing_does_not_grow_a_buffer_that_fits() {
        let payloads = Payloads::new(1, Style::Text, Form::Echo, (12, 4_096));
        let mut out = Vec::with_capacity(payloads.bytes_max());
        let address = out.as_ptr();
        for sequence in 0..1_000 {
            payloads.write(&Id { sequence, ..Id::default() }, &mut out);
        }
        assert_eq!(out.as_ptr(), address);
    }
}
