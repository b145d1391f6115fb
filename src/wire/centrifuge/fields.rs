//! The common ground of both encodings: a message is a series of fields, each with a number for protobuf and a name for JSON.
//! Every message describes its fields once, to a [`Writer`].

use serde::Deserialize;

use crate::centrifuge::{Body, Payload};

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    /// JSON has the field even if it is empty, because clients read it without a test.
    pub(crate) required: bool,
}

impl Field {
    pub(crate) const fn new(number: u32, name: &'static str) -> Field {
        Field { number, name, required: false }
    }

    pub(crate) const fn required(number: u32, name: &'static str) -> Field {
        Field { number, name, required: true }
    }
}

/// A message of the protocol.
pub(crate) trait Message {
    fn write<W: Writer>(&self, to: &mut W);
}

impl<M: Message> Message for &M {
    fn write<W: Writer>(&self, to: &mut W) {
        M::write(self, to);
    }
}

/// Writes the fields of a message in one encoding. Zeros, empty strings, absent data and empty collections are left out.
pub(crate) trait Writer {
    fn number(&mut self, field: Field, value: u64);
    /// A number that may be negative.
    fn integer(&mut self, field: Field, value: i64);
    fn flag(&mut self, field: Field, value: bool);
    fn text(&mut self, field: Field, value: &str);
    fn body(&mut self, field: Field, value: Body<'_>);
    /// A message is written even if it is empty.
    fn message(&mut self, field: Field, value: &impl Message);
    fn list<M: Message>(&mut self, field: Field, items: impl Iterator<Item = M>);
    fn map<'a, M: Message>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, M)>);
    fn texts<'a>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, &'a str)>);

    fn data(&mut self, field: Field, value: Option<Payload<'_>>) {
        if let Some(value) = value {
            self.body(field, Body::Plain(value));
        }
    }

    /// The seconds until something expires, if it does.
    fn lifetime(&mut self, [expires, ttl]: [Field; 2], seconds: Option<u32>) {
        if let Some(seconds) = seconds {
            self.flag(expires, true);
            self.number(ttl, u64::from(seconds));
        }
    }
}

/// A message without fields.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Nothing {}

impl Message for Nothing {
    fn write<W: Writer>(&self, _: &mut W) {}
}
