//! The syntax of templates.

use super::format::{Format, LengthFormat};
use super::{Part, TEMPLATE_BYTES_MAX, Term, Value};
use crate::plan::listening::TimeUnit;

const VALUES: &str = "connection, seq, id, row, now_ms, data.COLUMN, capture.NAME, payload, topic, \
                      random.hex(8), random.int(1, 6), random.uuid, request(/pointer), length or 'text'";
/// Maximum digits of `random.hex`.
const HEX_DIGITS_MAX: u32 = 1 << 16;

pub(super) fn parse(text: &str, binary: bool) -> Result<Vec<Part>, String> {
    if text.len() > TEMPLATE_BYTES_MAX {
        return Err(format!("a template has at most {TEMPLATE_BYTES_MAX} bytes"));
    }
    let mut parser = Parser::default();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '\\']) {
        parser.literal.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix("{{") {
            let (expression, behind) = split_expression(behind)?;
            parser.expression(expression.trim())?;
            rest = behind;
        } else if binary && rest.starts_with('\\') {
            let (byte, behind) = escape(&rest[1..])?;
            parser.literal.push(byte);
            rest = behind;
        } else {
            parser.literal.push(rest.as_bytes()[0]);
            rest = &rest[1..];
        }
    }
    parser.literal.extend_from_slice(rest.as_bytes());
    Ok(parser.finish())
}

/// Replaces each `${NAME}` of a template's text by the value of an environment variable, as `variable` reads it. Within the values
/// nothing is an expression. `$${` becomes `${`.
///
/// # Errors
/// One line that names the variable that is not set.
pub fn expand_variables(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("${") {
            let (name, behind) = behind.split_once('}').ok_or("${ has no }; $${ is a literal ${")?;
            let value = variable(name).ok_or_else(|| {
                format!("the environment variable {name} is not set; $${{ is a literal ${{")
            })?;
            out.push_str(&value.replace("{{", "{{'{{'}}"));
            rest = behind;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The text up to the matching `}}`, which may not be within quotes, and the text behind it.
fn split_expression(text: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\'' => quoted = !quoted,
            b'}' if !quoted && text[at..].starts_with("}}") => return Ok((&text[..at], &text[at + 2..])),
            _ => {}
        }
    }
    Err("{{ has no }}; a literal {{ is {{'{{'}}".to_owned())
}

fn escape(text: &str) -> Result<(u8, &str), String> {
    const EXPECTED: &str = "expected \\xNN or \\\\ after a backslash in a binary message";
    if let Some(rest) = text.strip_prefix('\\') {
        return Ok((b'\\', rest));
    }
    let digits = text.strip_prefix('x').and_then(|text| text.get(..2)).ok_or(EXPECTED)?;
    // `from_str_radix` would accept a sign.
    let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).ok_or(EXPECTED)?;
    Ok((byte, &text[3..]))
}

#[derive(Default)]
struct Parser {
    parts: Vec<Part>,
    literal: Vec<u8>,
    /// Lengths that have no end yet, by their part.
    open: Vec<usize>,
}

impl Parser {
    fn push(&mut self, part: Part) {
        self.end_literal();
        self.parts.push(part);
    }

    fn end_literal(&mut self) {
        if !self.literal.is_empty() {
            self.parts.push(Part::Literal(std::mem::take(&mut self.literal)));
        }
    }

    fn expression(&mut self, text: &str) -> Result<(), String> {
        if let Some(quoted) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
            self.literal.extend_from_slice(quoted.as_bytes());
            return Ok(());
        }
        if text == "end" {
            self.end_literal();
            let length = self.open.pop().ok_or("{{end}} belongs to no {{length}}")?;
            self.end_length(length);
            return Ok(());
        }
        let (value, format) = match text.split_once('|') {
            Some((value, format)) => (value.trim(), format.trim()),
            None => (text, "text"),
        };
        if value == "length" {
            let format = LengthFormat::named(format)
                .ok_or_else(|| format!("{{{{{text}}}}}: expected {}", LengthFormat::NAMES))?;
            self.push(Part::Length { format, until: usize::MAX });
            self.open.push(self.parts.len() - 1);
            return Ok(());
        }
        let format =
            Format::named(format).ok_or_else(|| format!("{{{{{text}}}}}: expected {}", Format::NAMES))?;
        let part = parse_sum(value, format).map_err(|why| format!("{{{{{text}}}}}: {why}"))?;
        self.push(part);
        Ok(())
    }

    fn end_length(&mut self, length: usize) {
        let end = self.parts.len();
        if let Part::Length { until, .. } = &mut self.parts[length] {
            *until = end;
        }
    }

    fn finish(mut self) -> Vec<Part> {
        self.end_literal();
        while let Some(length) = self.open.pop() {
            self.end_length(length);
        }
        self.parts
    }
}

/// A sum of products, or one value.
fn parse_sum(text: &str, format: Format) -> Result<Part, String> {
    let mut terms = Vec::new();
    let (mut rest, mut is_subtracted) = (text, false);
    loop {
        let end = [" + ", " - "].iter().filter_map(|sign| rest.find(sign)).min();
        let factors: Vec<&str> = rest[..end.unwrap_or(rest.len())].split(" * ").map(str::trim).collect();
        if terms.is_empty() && end.is_none() && factors.len() == 1 {
            return parse_value(text).map(|value| Part::Value(value, format));
        }
        let factors = factors.into_iter().map(parse_factor).collect::<Result<_, _>>()?;
        terms.push(Term { is_subtracted, factors });
        let Some(end) = end else { return Ok(Part::Sum(terms, format)) };
        is_subtracted = rest[end..].starts_with(" - ");
        rest = &rest[end + 3..];
    }
}

/// An integer, or a value that may be one.
fn parse_factor(text: &str) -> Result<Part, String> {
    if text.parse::<i64>().is_ok() {
        return Ok(Part::Literal(text.as_bytes().to_vec()));
    }
    let value = parse_value(text)?;
    if value.is_number() {
        return Ok(Part::Value(value, Format::Text));
    }
    Err(format!("{} is no number to calculate with", value.name()))
}

fn parse_value(text: &str) -> Result<Value, String> {
    let (name, arguments) = match text.split_once('(') {
        Some((name, rest)) => {
            let inner = rest.trim_end().strip_suffix(')').ok_or("( has no )")?;
            (name.trim_end(), inner.split(',').map(str::trim).collect())
        }
        None => (text, Vec::new()),
    };
    let number =
        |text: &str| text.parse::<u64>().map_err(|_| format!("expected a number instead of `{text}`"));
    if let Some(unit) = name.strip_prefix("now_").and_then(TimeUnit::named)
        && arguments.is_empty()
    {
        return Ok(Value::Now(unit));
    }
    Ok(match (name, arguments.as_slice()) {
        ("connection", []) => Value::Connection,
        ("seq", []) => Value::Sequence,
        ("id", []) => Value::Id,
        ("row", []) => Value::Row,
        ("payload", []) => Value::Payload,
        ("topic", []) => Value::Topic,
        ("random.uuid", []) => Value::RandomUuid,
        ("random.hex", [digits]) => match u32::try_from(number(digits)?) {
            Ok(digits @ 1..=HEX_DIGITS_MAX) => Value::RandomHex(digits),
            _ => return Err(format!("expected 1 to {HEX_DIGITS_MAX} digits")),
        },
        ("random.int", [first, last]) => match (number(first)?, number(last)?) {
            (first, last) if first <= last => Value::RandomInteger(first, last),
            _ => return Err("expected two ascending numbers".to_owned()),
        },
        ("request", [pointer]) => Value::Request((*pointer).to_owned()),
        _ => match (name.split_once('.'), arguments.is_empty()) {
            (Some(("data", column)), true) if !column.is_empty() => Value::Data(column.to_owned()),
            (Some(("capture", name)), true) if !name.is_empty() => Value::Captured(name.to_owned()),
            _ => return Err(format!("expected {VALUES}")),
        },
    })
}
