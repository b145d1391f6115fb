//! Templates of URLs, header fields and messages, such as `{"id":{{id}},"token":"{{data.token}}"}`.
//!
//! [`Template::parse`] checks the syntax, [`Template::bind`] looks up the names, and [`BoundTemplate`] expands. An expansion appends to
//! a buffer and allocates only when that grows. All values but the clock's follow from the seed, the connection and the sequence.
//! So a message can be compared with what came back without being stored.
//!
//! ```text
//! {{ VALUE }}  {{ VALUE | FORMAT }}
//!   VALUE   connection, seq, id, row, now_ms (now_s, now_us, now_ns), data.COLUMN, capture.NAME, payload, topic,
//!           random.hex(DIGITS), random.int(FIRST, LAST), random.uuid, request(POINTER), 'text';
//!           integers and values that are integers, with " + ", " - " and " * " between them
//!   FORMAT  text, json (within a JSON string), url, base64, u8, u16, u32, u64 (big-endian)
//! {{ length | FORMAT }} … {{ end }}   bytes up to the matching end, or to the end of the message
//!   FORMAT  text, varint (as in MQTT), u8, u16, u32
//! \xNN         a byte, in binary messages
//! ${NAME}      an environment variable; see [`expand_variables`]
//! ```

mod expand;
mod format;
mod parse;

use serde::{Deserialize, Serialize};

pub use expand::{BoundTemplate, Scope};
pub(in crate::plan) use format::number_bytes;
use format::{Format, LengthFormat};
pub use parse::expand_variables;

use crate::plan::listening::TimeUnit;

/// Maximum size of a template in bytes.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;

/// A template whose syntax is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    Literal(Vec<u8>),
    Value(Value, Format),
    /// Integers that are added up.
    Sum(Vec<Term>, Format),
    /// The length of the parts up to the index `until`.
    Length {
        format: LengthFormat,
        until: usize,
    },
}

/// A product of a sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Term {
    is_subtracted: bool,
    /// Numbers, and values in decimal.
    factors: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Value {
    Connection,
    Sequence,
    Id,
    Row,
    Now(TimeUnit),
    Data(String),
    Captured(String),
    Payload,
    Topic,
    RandomHex(u32),
    RandomInteger(u64, u64),
    RandomUuid,
    /// A value of the request by its JSON pointer.
    Request(String),
}

/// The values that a template may use, besides those that are always known: the connection, its row, the clock and
/// random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// Columns of the data.
    pub columns: &'a [String],
    /// Names of captured values.
    pub captures: &'a [String],
    /// Whether `payload` and `id` are known: in requests.
    pub requests: bool,
    /// Whether the request is known: in what its answer is expected to be.
    pub answers: bool,
    /// Whether `topic` is known.
    pub topics: bool,
}

impl Template {
    /// Parses a template of text.
    ///
    /// # Errors
    /// One line that names the wrong expression.
    pub fn parse(text: &str) -> Result<Template, String> {
        parse::parse(text, false).map(|parts| Template { parts })
    }

    /// Parses a template of a binary message, where `\xNN` is a byte, and `\\` a backslash.
    ///
    /// # Errors
    /// As [`parse`](Template::parse).
    pub fn parse_binary(text: &str) -> Result<Template, String> {
        parse::parse(text, true).map(|parts| Template { parts })
    }

    /// Looks up the names.
    ///
    /// # Errors
    /// The first value that is unknown here, in one line.
    pub fn bind(&self, names: &Names<'_>) -> Result<BoundTemplate, String> {
        expand::bind(&self.parts, names)
    }

    /// Percent-encodes values without another format: for URLs.
    #[must_use]
    pub fn for_url(mut self) -> Template {
        for part in &mut self.parts {
            if let Part::Value(_, format @ Format::Text) = part {
                *format = Format::Url;
            }
        }
        self
    }

    /// Whether the name of the topic is used.
    pub fn uses_topic(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Value(Value::Topic, _)))
    }
}

impl Value {
    /// Whether it may be an integer, and is the same in each expansion for a message.
    fn is_number(&self) -> bool {
        use Value::{Captured, Connection, Data, Id, Request, Row, Sequence};
        matches!(self, Connection | Sequence | Id | Row | Data(_) | Captured(_) | Request(_))
    }

    fn name(&self) -> String {
        match self {
            Value::Connection => "connection".to_owned(),
            Value::Sequence => "seq".to_owned(),
            Value::Id => "id".to_owned(),
            Value::Row => "row".to_owned(),
            Value::Now(unit) => format!("now_{}", unit.name()),
            Value::Data(column) => format!("data.{column}"),
            Value::Captured(name) => format!("capture.{name}"),
            Value::Payload => "payload".to_owned(),
            Value::Topic => "topic".to_owned(),
            Value::RandomHex(_) => "random.hex".to_owned(),
            Value::RandomInteger(..) => "random.int".to_owned(),
            Value::RandomUuid => "random.uuid".to_owned(),
            Value::Request(pointer) => format!("request({pointer})"),
        }
    }
}

#[cfg(test)]
mod tests;
