//! The forms of a record: a line of text, a JSON object in a line, or the fields of the journal.
//!
//! All of them truncate and escape values that peers choose, as [`Fields`](super::fields::Fields) does.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use super::fields::Cut;
use crate::limits::LOG_MESSAGE_BYTES_MAX;
use echoring_runtime::limits::LOG_FIELD_BYTES_MAX;

/// The form of the records of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `TIME LEVEL module: message field=value …`
    Text,
    /// One object per line.
    Json,
    /// A datagram of `FIELD=value` lines for journald.
    Journal,
}

impl Form {
    /// A line of the program itself as a record of this form.
    pub(super) fn line(self, line: &str) -> Vec<u8> {
        match self {
            Form::Text => format!("{line}\n").into_bytes(),
            Form::Json => {
                let mut record = json_head(&Level::INFO, "echoring");
                record.insert("message".to_owned(), line.into());
                format!("{}\n", Value::Object(record)).into_bytes()
            }
            Form::Journal => {
                // A line break would end the field.
                let line = line.replace('\n', " ");
                format!("PRIORITY=5\nSYSLOG_IDENTIFIER=echoring\nMESSAGE={line}\n").into_bytes()
            }
        }
    }
}

/// Writes events in a form.
#[derive(Debug)]
pub(super) struct Format(pub(super) Form);

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self.0 {
            Form::Text => {
                let text: format::Format<format::Full> = format::Format::default();
                text.format_event(context, writer, event)
            }
            Form::Json => {
                let metadata = event.metadata();
                let mut object = Object(json_head(metadata.level(), metadata.target()));
                event.record(&mut object);
                writeln!(writer, "{}", Value::Object(object.0))
            }
            Form::Journal => write_journal(writer, event),
        }
    }
}

/// The part of an object that all records have.
fn json_head(level: &Level, target: &str) -> Map<String, Value> {
    let mut time = String::new();
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let Value::Object(head) = json!({"time": time, "level": level.as_str(), "target": target}) else {
        return Map::new();
    };
    head
}

/// Collects fields into an object.
struct Object(Map<String, Value>);

impl Object {
    fn insert(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Object {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, shown(field, value).into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, shown(field, &format_args!("{value}")).into());
    }
}

/// A value with its control characters escaped, at most as long as its field may be.
fn shown(field: &Field, value: &dyn fmt::Debug) -> String {
    let bytes_max = if field.name() == "message" { LOG_MESSAGE_BYTES_MAX } else { LOG_FIELD_BYTES_MAX };
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(Cut::new(&mut text, bytes_max), "{value:?}");
    text
}

/// The message is repeated with its fields, because `journalctl` shows no others.
fn write_journal(mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
    let metadata = event.metadata();
    let priority = match *metadata.level() {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    writeln!(
        writer,
        "PRIORITY={priority}\nSYSLOG_IDENTIFIER=echoring\nECHORING_TARGET={}",
        metadata.target()
    )?;
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        writeln!(writer, "CODE_FILE={file}\nCODE_LINE={line}")?;
    }
    let mut object = Object(Map::new());
    event.record(&mut object);
    let mut message = match object.0.remove("message") {
        Some(Value::String(message)) => message,
        _ => String::new(),
    };
    for (name, value) in &object.0 {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(writer, "ECHORING_{}={value}", name.to_ascii_uppercase())?;
        // Writing to a string does not fail.
        let _ = write!(message, " {name}={value}");
    }
    writeln!(writer, "MESSAGE={message}")
}
