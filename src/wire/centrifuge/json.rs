//! Writes JSON (RFC 8259).

use std::io::Write;

use crate::centrifuge::Body;
use crate::centrifuge::fields::{Field, Message, Writer};
use crate::centrifuge::payload::write_string;

/// Appends a message as an object.
pub(crate) fn object(out: &mut Vec<u8>, message: &impl Message) {
    out.push(b'{');
    message.write(&mut Object { out, is_empty: true });
    out.push(b'}');
}

/// The inside of an object.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl Object<'_> {
    /// Appends the name of a field whose value follows.
    fn name(&mut self, field: Field) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(field.name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// Appends items between brackets, unless there are none and the field is not required.
    fn collection<T>(
        &mut self,
        field: Field,
        [open, close]: [u8; 2],
        items: impl Iterator<Item = T>,
        write: impl Fn(&mut Vec<u8>, T),
    ) {
        let mut items = items.peekable();
        if items.peek().is_none() && !field.required {
            return;
        }
        let out = self.name(field);
        out.push(open);
        for (at, item) in items.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write(out, item);
        }
        out.push(close);
    }
}

impl Writer for Object<'_> {
    fn number(&mut self, field: Field, value: u64) {
        if value != 0 || field.required {
            _ = write!(self.name(field), "{value}");
        }
    }

    fn integer(&mut self, field: Field, value: i64) {
        if value != 0 {
            _ = write!(self.name(field), "{value}");
        }
    }

    fn flag(&mut self, field: Field, value: bool) {
        if value {
            self.name(field).extend_from_slice(b"true");
        }
    }

    fn text(&mut self, field: Field, value: &str) {
        if !value.is_empty() || field.required {
            write_string(self.name(field), value);
        }
    }

    fn body(&mut self, field: Field, value: Body<'_>) {
        value.write_json(self.name(field));
    }

    fn message(&mut self, field: Field, value: &impl Message) {
        object(self.name(field), value);
    }

    fn list<M: Message>(&mut self, field: Field, items: impl Iterator<Item = M>) {
        self.collection(field, [b'[', b']'], items, |out, item| object(out, &item));
    }

    fn texts<'a>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, &'a str)>) {
        self.collection(field, [b'{', b'}'], entries, |out, (key, value)| {
            write_string(out, key);
            out.push(b':');
            write_string(out, value);
        });
    }

    fn map<'a, M: Message>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, M)>) {
        self.collection(field, [b'{', b'}'], entries, |out, (key, value)| {
            write_string(out, key);
            out.push(b':');
            object(out, &value);
        });
    }
}
