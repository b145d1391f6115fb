//! The common ground of both encodings: a message is a series of fields, each with a number for protobuf and a name for JSON.
//!
//! A field is told in one row, with the number, the name, and the Rust field. [`message`] takes the rows of a message that both
//! sides read and write, and [`answer`] those of a message that a server writes from borrowed values. The type of the
//! Rust field says how the value is [read](Read) and [written](Write). Rows are in the order of their numbers.

mod values;

use serde::Deserialize;

use crate::centrifuge::protobuf::{Outcome, Value};
use crate::centrifuge::{Body, Payload};

pub(crate) use values::{Json, Read, Write, json_entries, or_default, payload};

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

    pub(crate) const fn required(self) -> Field {
        Field { required: true, ..self }
    }
}

/// A message that is written.
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
}

/// A message that is read; serde reads it from JSON. Fields with other numbers are ignored.
pub(crate) trait Fields<'de>: Default + Deserialize<'de> {
    fn field(&mut self, number: u32, value: Value<'de>) -> Outcome;
}

/// A message that is read.
macro_rules! received {
    ($(#[$meta:meta])* $vis:vis struct $name:ident<'a> $rows:tt) => {
        $crate::centrifuge::fields::received! { @ "'de: 'a", ['a] $(#[$meta])* $vis $name $rows }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident $rows:tt) => {
        $crate::centrifuge::fields::received! { @ "", [] $(#[$meta])* $vis $name $rows }
    };
    (@ $bound:literal, [$($a:lifetime)?] $(#[$meta:meta])* $vis:vis $name:ident {
        $($(#[$doc:meta])* $number:literal $json:literal $field_vis:vis $field:ident: $type:ty;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
        #[serde(default, bound(deserialize = $bound))]
        $vis struct $name$(<$a>)? {
            $(
                $(#[$doc])*
                #[serde(rename = $json, deserialize_with = "crate::centrifuge::fields::Read::from_json")]
                $field_vis $field: $type,
            )*
        }

        impl<'de$(: $a, $a)?> $crate::centrifuge::fields::Fields<'de> for $name$(<$a>)? {
            fn field(
                &mut self,
                number: u32,
                value: $crate::centrifuge::protobuf::Value<'de>,
            ) -> $crate::centrifuge::protobuf::Outcome {
                match number {
                    $($number => $crate::centrifuge::fields::Read::read(&mut self.$field, value),)*
                    _ => Ok(()),
                }
            }
        }
    };
}
pub(crate) use received;

/// A message that both sides read and write. The name of a field in JSON is followed by `.required` if JSON always has it.
macro_rules! message {
    ($(#[$meta:meta])* $vis:vis struct $name:ident$(<$a:lifetime>)? {
        $($(#[$doc:meta])* $number:literal $json:literal $(.$required:ident)? $field:ident: $type:ty;)*
    }) => {
        $crate::centrifuge::fields::received! {
            $(#[$meta])*
            $vis struct $name$(<$a>)? { $($(#[$doc])* $number $json $vis $field: $type;)* }
        }

        impl$(<$a>)? $crate::centrifuge::fields::Message for $name$(<$a>)? {
            fn write<W: $crate::centrifuge::fields::Writer>(&self, to: &mut W) {
                use $crate::centrifuge::fields::{Field, Write};
                $(Write::put(&self.$field, to, Field::new($number, $json)$(.$required())?);)*
            }
        }
    };
}
pub(crate) use message;

/// A message of a server: the form that it writes, and the form that a client reads. A row has one line of documentation. The
/// field of the written form, or a function of that form, follows the name; the field of the read form is behind `=>`.
macro_rules! answer {
    (
        $(#[$sent_meta:meta])* $sent_vis:vis sent $sent:ident$(<$sent_a:lifetime>)?;
        $(#[$meta:meta])* $vis:vis received $name:ident$(<$a:lifetime>)?;
        $(
            #[$doc:meta]
            $number:literal $json:literal $(.$required:ident)? $($sent_field:ident: $sent_type:ty)? $(= $computed:expr)?
            $(=> $field_vis:vis $field:ident: $type:ty)?;
        )*
    ) => {
        $(#[$sent_meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $sent_vis struct $sent$(<$sent_a>)? {
            $($(#[$doc] $sent_vis $sent_field: $sent_type,)?)*
        }

        impl$(<$sent_a>)? $crate::centrifuge::fields::Message for $sent$(<$sent_a>)? {
            fn write<W: $crate::centrifuge::fields::Writer>(&self, to: &mut W) {
                use $crate::centrifuge::fields::{Field, Write};
                $(
                    let field = Field::new($number, $json)$(.$required())?;
                    $(Write::put(&self.$sent_field, to, field);)?
                    $(Write::put(&$crate::centrifuge::fields::of(self, $computed), to, field);)?
                )*
            }
        }

        $crate::centrifuge::fields::received! {
            $(#[$meta])*
            $vis struct $name$(<$a>)? { $($(#[$doc] $number $json $field_vis $field: $type;)?)* }
        }
    };
}
pub(crate) use answer;

/// What `compute` makes of a message.
pub(crate) fn of<M, T>(message: &M, compute: impl Fn(&M) -> T) -> T {
    compute(message)
}

/// A message of which one part is written: each field by the constant with its name. It is read as a whole, and the first part
/// that is present counts: behind `=>` is the function that makes the content of the part.
macro_rules! envelope {
    ($(#[$meta:meta])* $vis:vis struct $name:ident<'a> -> $content:ty {
        $($number:literal $json:literal $field:ident: $type:ty $(=> $make:expr)?;)*
    }) => {
        $crate::centrifuge::fields::envelope! {
            $(#[$meta])*
            $vis struct $name<'a> { $($number $json $field: $type;)* }
        }

        impl<'a> $name<'a> {
            fn content(self) -> Option<$content> {
                $($(
                    if self.$field.is_some() {
                        return self.$field.map($make);
                    }
                )?)*
                None
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident<'a> {
        $($number:literal $json:literal $(.$required:ident)? $field:ident: $type:ty;)*
    }) => {
        $crate::centrifuge::fields::received! {
            $(#[$meta])*
            $vis struct $name<'a> { $($number $json $vis $field: $type;)* }
        }

        #[expect(non_upper_case_globals, reason = "named like the fields")]
        impl $name<'_> {
            $(
                pub(crate) const $field: $crate::centrifuge::fields::Field =
                    $crate::centrifuge::fields::Field::new($number, $json)$(.$required())?;
            )*
        }
    };
}
pub(crate) use envelope;

/// A message without fields.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Nothing {}

impl Message for Nothing {
    fn write<W: Writer>(&self, _: &mut W) {}
}

impl Fields<'_> for Nothing {
    fn field(&mut self, _: u32, _: Value<'_>) -> Outcome {
        Ok(())
    }
}
