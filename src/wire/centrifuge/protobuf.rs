//! Reads and writes protobuf's wire format.
//!
//! Written by hand, because strings and payloads are borrowed and a broadcast is encoded without an allocation. The tests
//! compare it with another implementation.

use std::borrow::Cow;

use crate::centrifuge::fields::{Field, Message, Read, Write, Writer};
use crate::centrifuge::{Body, Malformed};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;
/// A varint has 7 bits per byte.
const VARINT_BYTES_MAX: usize = 10;

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    /// A number or a Boolean.
    Number(u64),
    /// A string, bytes, or a message.
    Bytes(&'a [u8]),
    /// A type that the protocol does not have.
    Other,
}

impl<'a> Value<'a> {
    pub(crate) fn number(self) -> Result<u64, Malformed> {
        match self {
            Value::Number(number) => Ok(number),
            Value::Bytes(_) | Value::Other => Err(Malformed::Protobuf),
        }
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) | Value::Other => Err(Malformed::Protobuf),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, Malformed> {
        str::from_utf8(self.bytes()?).map_err(|_| Malformed::Protobuf)
    }
}

/// Calls `field` for each field of a message, in its order.
pub(crate) fn fields<'a>(
    mut message: &'a [u8],
    mut field: impl FnMut(u32, Value<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !message.is_empty() {
        let (key, rest) = varint(message).ok_or(Malformed::Protobuf)?;
        let number = u32::try_from(key >> 3).ok().filter(|&number| number != 0).ok_or(Malformed::Protobuf)?;
        let (value, rest) = value((key & 7) as u8, rest).ok_or(Malformed::Protobuf)?;
        field(number, value)?;
        message = rest;
    }
    Ok(())
}

fn value(kind: u8, rest: &[u8]) -> Option<(Value<'_>, &[u8])> {
    match kind {
        VARINT => varint(rest).map(|(number, rest)| (Value::Number(number), rest)),
        BYTES => behind_length(rest).map(|(bytes, rest)| (Value::Bytes(bytes), rest)),
        FIXED64 => rest.split_at_checked(8).map(|(_, rest)| (Value::Other, rest)),
        FIXED32 => rest.split_at_checked(4).map(|(_, rest)| (Value::Other, rest)),
        _ => None,
    }
}

/// The first message of a frame, which is behind its length, and the rest.
pub(crate) fn delimited(frame: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    behind_length(frame).ok_or(Malformed::Truncated)
}

fn behind_length(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shifted = bits << (7 * at);
        if shifted >> (7 * at) != bits {
            return None;
        }
        number |= shifted;
        if byte < 0x80 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

pub(crate) type Outcome = Result<(), Malformed>;

/// The key and the value of an entry of a map.
pub(crate) fn map_entry<'a, V: Read<'a>>(entry: Value<'a>) -> Result<(Cow<'a, str>, V), Malformed> {
    let (mut key, mut value) = (Cow::default(), V::default());
    fields(entry.bytes()?, |number, field| match number {
        1 => Read::read(&mut key, field),
        2 => value.read(field),
        _ => Ok(()),
    })?;
    Ok((key, value))
}

/// Appends a message behind its length.
pub(crate) fn append_delimited(out: &mut Vec<u8>, message: &impl Message) {
    write_varint(out, length(message));
    message.write(out);
}

fn length(message: &impl Message) -> u64 {
    let mut length = Length(0);
    message.write(&mut length);
    length.0
}

/// Takes bytes, or only counts them.
trait Sink {
    fn put(&mut self, bytes: &[u8]);
    /// The content of a field whose length is known.
    fn put_message(&mut self, length: u64, message: &impl Message);
}

/// Counts the bytes of a message, which come behind their number.
struct Length(u64);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }

    fn put_message(&mut self, length: u64, _: &impl Message) {
        self.0 += length;
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_message(&mut self, _: u64, message: &impl Message) {
        message.write(self);
    }
}

impl<S: Sink> Writer for S {
    fn number(&mut self, field: Field, value: u64) {
        if value != 0 {
            write_key(self, field, VARINT);
            write_varint(self, value);
        }
    }

    fn integer(&mut self, field: Field, value: i64) {
        // Negative numbers take ten bytes, also those of 32 bits.
        self.number(field, value as u64);
    }

    fn flag(&mut self, field: Field, value: bool) {
        self.number(field, u64::from(value));
    }

    fn text(&mut self, field: Field, value: &str) {
        write_bytes(self, field, value.as_bytes());
    }

    fn body(&mut self, field: Field, value: Body<'_>) {
        write_bytes(self, field, value.bytes());
    }

    fn message(&mut self, field: Field, value: &impl Message) {
        let length = length(value);
        write_key(self, field, BYTES);
        write_varint(self, length);
        self.put_message(length, value);
    }

    fn list<M: Message>(&mut self, field: Field, items: impl Iterator<Item = M>) {
        items.for_each(|item| self.message(field, &item));
    }

    fn map<'a, M: Message>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, M)>) {
        entries.for_each(|(key, value)| self.message(field, &Entry { key, value: Some(value) }));
    }

    fn texts<'a>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, &'a str)>) {
        entries.for_each(|(key, value)| self.message(field, &Entry { key, value }));
    }
}

/// An entry of a map is a message with two fields.
struct Entry<'a, V> {
    key: &'a str,
    value: V,
}

impl<V: Write> Message for Entry<'_, V> {
    fn write<W: Writer>(&self, to: &mut W) {
        self.key.put(to, Field::new(1, "key"));
        self.value.put(to, Field::new(2, "value"));
    }
}

fn write_bytes(out: &mut impl Sink, field: Field, bytes: &[u8]) {
    if !bytes.is_empty() {
        write_key(out, field, BYTES);
        write_varint(out, bytes.len() as u64);
        out.put(bytes);
    }
}

fn write_key(out: &mut impl Sink, field: Field, kind: u8) {
    write_varint(out, (u64::from(field.number) << 3) | u64::from(kind));
}

fn write_varint(out: &mut impl Sink, mut number: u64) {
    while number >= 0x80 {
        out.put(&[(number as u8) | 0x80]);
        number >>= 7;
    }
    out.put(&[number as u8]);
}
