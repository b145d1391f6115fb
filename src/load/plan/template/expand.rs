//! Expansion of templates, and comparison with what arrived.

use super::format::{Format, HEX, LengthFormat, Sink, put_length, put_number, put_text, put_time};
use super::{Names, Part, Value};
use crate::plan::listening::TimeUnit;
use crate::plan::rows::Row;
use echoring_proto::random::{SplitMix64, mix};

/// The values of one expansion.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the connection.
    pub connection: u32,
    /// Number of the message on its connection, from 0.
    pub sequence: u64,
    /// The id by which an answer is recognised.
    pub id: u64,
    /// Nanoseconds since 1970.
    pub now_ns: u64,
    /// The row of the data that belongs to the connection.
    pub row: Option<Row<'a>>,
    /// Captured values, in the order of their names.
    pub captures: &'a [Vec<u8>],
    /// Generated payload.
    pub payload: &'a [u8],
    /// Name of the topic.
    pub topic: &'a [u8],
}

/// A template whose names are looked up.
#[derive(Clone, Debug, Default)]
pub struct BoundTemplate {
    parts: Vec<BoundPart>,
    /// All literals.
    text: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum BoundPart {
    Literal { from: u32, until: u32 },
    Value(BoundValue, Format),
    Length { format: LengthFormat, until: u32 },
}

#[derive(Clone, Copy, Debug)]
enum BoundValue {
    Connection,
    Sequence,
    Id,
    Row,
    Now(TimeUnit),
    Column(u32),
    Capture(u32),
    Payload,
    Topic,
    RandomHex(u32),
    RandomInteger(u64, u64),
    RandomUuid,
}

pub(super) fn bind(parts: &[Part], names: &Names<'_>) -> Result<BoundTemplate, String> {
    let mut bound = BoundTemplate::default();
    for part in parts {
        let part = match part {
            Part::Literal(text) => {
                let from = bound.text.len() as u32;
                bound.text.extend_from_slice(text);
                BoundPart::Literal { from, until: bound.text.len() as u32 }
            }
            Part::Length { format, until } => BoundPart::Length { format: *format, until: *until as u32 },
            Part::Value(value, format) => BoundPart::Value(bind_value(value, names)?, *format),
        };
        bound.parts.push(part);
    }
    Ok(bound)
}

fn bind_value(value: &Value, names: &Names<'_>) -> Result<BoundValue, String> {
    let unknown = |why: String| Err(format!("{{{{{}}}}}: {why}", value.name()));
    let find = |names: &[String], wanted: &str| names.iter().position(|name| name == wanted);
    Ok(match value {
        Value::Connection => BoundValue::Connection,
        Value::Sequence => BoundValue::Sequence,
        Value::Id if names.requests => BoundValue::Id,
        Value::Payload if names.requests => BoundValue::Payload,
        Value::Id | Value::Payload => return unknown("only in requests".to_owned()),
        Value::Topic if names.topics => BoundValue::Topic,
        Value::Topic => return unknown("only where there are topics".to_owned()),
        Value::Row if names.columns.is_empty() => return unknown("no data; pass --data FILE".to_owned()),
        Value::Row => BoundValue::Row,
        Value::Now(unit) => BoundValue::Now(*unit),
        Value::Data(_) if names.columns.is_empty() => return unknown("no data; pass --data FILE".to_owned()),
        Value::Data(column) => match find(names.columns, column) {
            Some(index) => BoundValue::Column(index as u32),
            None => return unknown(format!("the columns of the data are {}", names.columns.join(", "))),
        },
        Value::Captured(name) => match find(names.captures, name) {
            Some(index) => BoundValue::Capture(index as u32),
            None => return unknown("nothing captures it before".to_owned()),
        },
        Value::RandomHex(digits) => BoundValue::RandomHex(*digits),
        Value::RandomInteger(first, last) => BoundValue::RandomInteger(*first, *last),
        Value::RandomUuid => BoundValue::RandomUuid,
    })
}

impl BoundTemplate {
    /// Whether every expansion is the same.
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, BoundPart::Literal { .. }))
    }

    /// Appends an expansion to `out`.
    #[inline]
    pub fn expand(&self, scope: &Scope<'_>, out: &mut Vec<u8>) {
        self.put(0..self.parts.len(), scope, out);
    }

    /// Bytes of an expansion.
    pub fn bytes(&self, scope: &Scope<'_>) -> usize {
        let mut counter = Counter(0);
        self.put(0..self.parts.len(), scope, &mut counter);
        counter.0
    }

    /// Whether `message` is an expansion; the times in it may be others.
    pub fn matches(&self, scope: &Scope<'_>, message: &[u8]) -> bool {
        let mut comparison = Comparison { rest: Some(message) };
        self.put(0..self.parts.len(), scope, &mut comparison);
        comparison.rest.is_some_and(<[u8]>::is_empty)
    }

    fn put(&self, parts: std::ops::Range<usize>, scope: &Scope<'_>, sink: &mut impl Sink) {
        for index in parts {
            match self.parts[index] {
                BoundPart::Literal { from, until } => sink.put(&self.text[from as usize..until as usize]),
                BoundPart::Value(value, format) => put_value(sink, value, format, index, scope),
                BoundPart::Length { format, until } => {
                    let mut counter = Counter(0);
                    self.put(index + 1..until as usize, scope, &mut counter);
                    put_length(sink, counter.0, format);
                }
            }
        }
    }
}

#[inline]
fn put_value(sink: &mut impl Sink, value: BoundValue, format: Format, part: usize, scope: &Scope<'_>) {
    // Each expression of a message has numbers of its own.
    let random = || {
        let message = mix(scope.seed ^ (u64::from(scope.connection) << 40) ^ scope.sequence);
        SplitMix64::new(message ^ mix(part as u64))
    };
    match value {
        BoundValue::Connection => put_number(sink, scope.connection.into(), format),
        BoundValue::Sequence => put_number(sink, scope.sequence, format),
        BoundValue::Id => put_number(sink, scope.id, format),
        BoundValue::Row => put_number(sink, scope.row.map_or(0, |row| row.number().into()), format),
        BoundValue::Now(unit) => put_time(sink, scope.now_ns / unit.ns(), format),
        BoundValue::Column(column) => {
            put_text(sink, scope.row.map_or(b"", |row| row.cell(column as usize)), format);
        }
        BoundValue::Capture(capture) => {
            put_text(sink, scope.captures.get(capture as usize).map_or(b"", Vec::as_slice), format);
        }
        BoundValue::Payload => put_text(sink, scope.payload, format),
        BoundValue::Topic => put_text(sink, scope.topic, format),
        BoundValue::RandomInteger(first, last) => {
            let span = (last - first).saturating_add(1);
            put_number(sink, first + random().below(span), format);
        }
        BoundValue::RandomHex(digits) => put_hex(sink, random(), digits, format),
        BoundValue::RandomUuid => put_text(sink, &uuid(random()), format),
    }
}

/// Digits of one draw: a multiple of three, so that Base64 has no padding within.
const HEX_CHUNK: usize = 12;

fn put_hex(sink: &mut impl Sink, mut random: SplitMix64, digits: u32, format: Format) {
    let mut left = digits as usize;
    while left > 0 {
        let bits = random.next_u64();
        let text: [u8; HEX_CHUNK] = std::array::from_fn(|digit| HEX[(bits >> (4 * digit)) as usize & 15]);
        let count = left.min(text.len());
        put_text(sink, &text[..count], format);
        left -= count;
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid(mut random: SplitMix64) -> [u8; 36] {
    let bits = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
    let bits = bits & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut digit = 32;
    std::array::from_fn(|at| match at {
        8 | 13 | 18 | 23 => b'-',
        _ => {
            digit -= 1;
            HEX[(bits >> (4 * digit)) as usize & 15]
        }
    })
}

/// Counts bytes.
struct Counter(usize);

impl Sink for Counter {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Compares bytes; `rest` is `None` after a difference.
struct Comparison<'a> {
    rest: Option<&'a [u8]>,
}

impl Sink for Comparison<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.rest = self.rest.and_then(|rest| rest.strip_prefix(bytes));
    }

    fn put_time(&mut self, bytes: &[u8]) {
        self.rest = self.rest.and_then(|rest| rest.get(bytes.len()..));
    }
}
