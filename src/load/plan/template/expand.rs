//! Expansion of templates, and comparison with what arrived.

use super::format::{Format, HEX, Sink, put_length, put_number, put_text, put_time};
use super::{Names, Part, Term, Value};
use crate::plan::protocol::json::Pointers;
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
    /// The request whose answer is compared.
    pub request: &'a [u8],
}

/// A template whose names are looked up: its parts, with what a part names.
#[derive(Clone, Debug, Default)]
pub struct BoundTemplate {
    parts: Vec<(Part, Named)>,
}

/// What a part of a template names.
#[derive(Clone, Debug)]
enum Named {
    /// The column or capture with this index; 0 for parts that name none.
    Index(usize),
    /// A value of the request.
    OfRequest(Pointers),
    /// The factors of a sum, one after the other.
    Factors(Vec<BoundTemplate>),
}

pub(super) fn bind(parts: &[Part], names: &Names<'_>) -> Result<BoundTemplate, String> {
    let bound = parts.iter().map(|part| Ok((part.clone(), named(part, names)?)));
    bound.collect::<Result<_, String>>().map(|parts| BoundTemplate { parts })
}

fn named(part: &Part, names: &Names<'_>) -> Result<Named, String> {
    match part {
        Part::Sum(terms, _) => {
            let factors = terms.iter().flat_map(|term| &term.factors);
            let bound = factors.map(|factor| bind(std::slice::from_ref(factor), names));
            bound.collect::<Result<_, _>>().map(Named::Factors)
        }
        Part::Value(Value::Request(pointer), _) if names.answers => {
            let mut pointers = Pointers::default();
            pointers.add(pointer)?;
            Ok(Named::OfRequest(pointers))
        }
        _ => index_of(part, names).map(Named::Index),
    }
}

/// The index of the column or capture that a part names; 0 for other parts.
fn index_of(part: &Part, names: &Names<'_>) -> Result<usize, String> {
    let Part::Value(value, _) = part else { return Ok(0) };
    let find = |names: &[String], wanted: &str| names.iter().position(|name| name == wanted);
    let why = match value {
        Value::Id | Value::Payload if !names.requests => "only in requests".to_owned(),
        Value::Request(_) => "only in expect and error".to_owned(),
        Value::Topic if !names.topics => "only where there are topics".to_owned(),
        Value::Row | Value::Data(_) if names.columns.is_empty() => "no data; pass --data FILE".to_owned(),
        Value::Data(column) => match find(names.columns, column) {
            Some(index) => return Ok(index),
            None => format!("the columns of the data are {}", names.columns.join(", ")),
        },
        Value::Captured(name) => match find(names.captures, name) {
            Some(index) => return Ok(index),
            None => "nothing captures it before".to_owned(),
        },
        _ => return Ok(0),
    };
    Err(format!("{{{{{}}}}}: {why}", value.name()))
}

impl BoundTemplate {
    /// Whether every expansion is the same.
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, (Part::Literal(_), _)))
    }

    /// Whether it contains the payload.
    pub fn uses_payload(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, (Part::Value(Value::Payload, _), _)))
    }

    /// Whether it contains values of the request.
    pub(in crate::plan) fn uses_request(&self) -> bool {
        self.parts.iter().any(|(_, named)| match named {
            Named::OfRequest(_) => true,
            Named::Factors(factors) => factors.iter().any(BoundTemplate::uses_request),
            Named::Index(_) => false,
        })
    }

    /// Appends an expansion to `out`.
    #[inline]
    pub fn expand(&self, scope: &Scope<'_>, out: &mut Vec<u8>) {
        self.put(0..self.parts.len(), scope, out);
    }

    /// Whether `message` is an expansion; the times in it may be others.
    pub fn matches(&self, scope: &Scope<'_>, message: &[u8]) -> bool {
        let mut comparison = Comparison { rest: Some(message) };
        self.put(0..self.parts.len(), scope, &mut comparison);
        comparison.rest.is_some_and(<[u8]>::is_empty)
    }

    fn put(&self, parts: std::ops::Range<usize>, scope: &Scope<'_>, sink: &mut impl Sink) {
        for at in parts {
            match &self.parts[at] {
                (Part::Literal(text), _) => sink.put(text),
                (Part::Value(_, format), Named::OfRequest(pointers)) => {
                    if let Some(value) = pointers.find(scope.request)[0] {
                        put_text(sink, &value.text(), *format);
                    }
                }
                (Part::Value(value, format), Named::Index(index)) => {
                    put_value(sink, value, *format, (at, *index), scope);
                }
                // Where a value is no integer there is no sum.
                (Part::Sum(terms, format), Named::Factors(factors)) => match sum(terms, factors, scope) {
                    Some(sum) if matches!(format, Format::Number(_)) => put_number(sink, sum as u64, *format),
                    Some(sum) => put_text(sink, itoa::Buffer::new().format(sum).as_bytes(), *format),
                    None => {}
                },
                // No part is bound so.
                (Part::Value(..), Named::Factors(_)) | (Part::Sum(..), _) => {}
                (Part::Length { format, until }, _) => {
                    let mut counter = Counter(0);
                    self.put(at + 1..*until, scope, &mut counter);
                    put_length(sink, counter.0, *format);
                }
            }
        }
    }
}

/// The sum of products whose factors follow one another.
fn sum(terms: &[Term], mut factors: &[BoundTemplate], scope: &Scope<'_>) -> Option<i64> {
    let mut text = Vec::new();
    let mut sum = 0_i64;
    for term in terms {
        let (own, rest) = factors.split_at_checked(term.factors.len())?;
        factors = rest;
        let mut product = 1_i64;
        for factor in own {
            text.clear();
            factor.expand(scope, &mut text);
            product = product.checked_mul(str::from_utf8(&text).ok()?.parse().ok()?)?;
        }
        sum = if term.is_subtracted { sum.checked_sub(product) } else { sum.checked_add(product) }?;
    }
    Some(sum)
}

#[inline]
fn put_value(
    sink: &mut impl Sink,
    value: &Value,
    format: Format,
    (part, index): (usize, usize),
    scope: &Scope<'_>,
) {
    // Each expression of a message has numbers of its own.
    let random = || {
        let message = mix(scope.seed ^ (u64::from(scope.connection) << 40) ^ scope.sequence);
        SplitMix64::new(message ^ mix(part as u64))
    };
    match value {
        Value::Connection => put_number(sink, scope.connection.into(), format),
        Value::Sequence => put_number(sink, scope.sequence, format),
        Value::Id => put_number(sink, scope.id, format),
        Value::Row => put_number(sink, scope.row.map_or(0, |row| row.number().into()), format),
        Value::Now(unit) => put_time(sink, scope.now_ns / unit.ns(), format),
        Value::Data(_) => put_text(sink, scope.row.map_or(b"", |row| row.cell(index)), format),
        Value::Captured(_) => {
            put_text(sink, scope.captures.get(index).map_or(b"", Vec::as_slice), format);
        }
        Value::Payload => put_text(sink, scope.payload, format),
        Value::Topic => put_text(sink, scope.topic, format),
        // It is bound to a pointer.
        Value::Request(_) => {}
        Value::RandomInteger(first, last) => {
            let span = (last - first).saturating_add(1);
            put_number(sink, first + random().below(span), format);
        }
        Value::RandomHex(digits) => put_hex(sink, random(), *digits, format),
        Value::RandomUuid => put_text(sink, &uuid(random()), format),
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
