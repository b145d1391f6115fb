//! Push mode: the message that each listener sends first, and the time field that says when a message was made.
//!
//! The field is searched in the received bytes. Never: an allocation per message, or a validation of the JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::contradiction::{Contradiction, refuse};
use crate::plan::declared::words;
use crate::plan::mode::Mode;
use crate::plan::pace::Pace;
use echoring_proto::limits::MESSAGE_BYTES_DEFAULT;

/// Maximum size of `hello` in bytes: every server must accept it.
const HELLO_BYTES_MAX: usize = MESSAGE_BYTES_DEFAULT as usize;

/// Options of [`Mode::Push`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Text message that each connection sends once it is open.
    pub hello: Option<String>,
    /// The field with a message's creation time; `None` leaves messages untimed.
    pub time: Option<TimeField>,
}

/// A member of JSON objects that contains the time since 1970-01-01T00:00:00Z as a number, possibly in quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeField {
    /// The path of member names: `data`, then `sent` for `data.sent`. At least one.
    path: Vec<String>,
    unit: TimeUnit,
}

words! {
    /// Unit of a time field.
    pub enum TimeUnit {
        /// Nanoseconds
        Nanoseconds = 1 => "ns",
        /// Microseconds
        Microseconds = 1_000 => "us",
        /// Milliseconds
        Milliseconds = 1_000_000 => "ms",
        /// Seconds
        Seconds = 1_000_000_000 => "s",
    }
}

impl TimeUnit {
    /// The unit of this name.
    pub(in crate::plan) fn named(name: &str) -> Option<TimeUnit> {
        TimeUnit::WORDS.iter().find(|(word, ..)| *word == name).map(|(.., unit)| *unit)
    }

    /// The time of this number of units since 1970, written as an integer or a fraction.
    pub(crate) fn time(self, digits: &[u8]) -> Option<Duration> {
        let digits = str::from_utf8(digits).ok()?;
        let unit_ns = self.ns();
        if let Ok(whole) = digits.parse::<u64>() {
            return whole.checked_mul(unit_ns).map(Duration::from_nanos);
        }
        let time_ns = digits.parse::<f64>().ok()? * unit_ns as f64;
        (time_ns >= 0.0 && time_ns < u64::MAX as f64).then(|| Duration::from_nanos(time_ns as u64))
    }

    pub(in crate::plan) fn ns(self) -> u64 {
        self as u64
    }
}

impl TimeField {
    /// The member `name`. Dots separate nested objects, as in `data.sent`.
    pub fn new(name: &str, unit: TimeUnit) -> TimeField {
        TimeField { path: name.split('.').map(str::to_owned).collect(), unit }
    }

    /// The name as it was given.
    pub fn name(&self) -> String {
        self.path.join(".")
    }

    /// Its unit.
    pub fn unit(&self) -> TimeUnit {
        self.unit
    }

    /// The time of a message since 1970. `None` without a valid field.
    pub fn read(&self, message: &[u8]) -> Option<Duration> {
        self.unit.time(find(message, &self.path)?)
    }
}

/// The number, or the contents of the string, of the member at this path.
fn find<'a>(json: &'a [u8], path: &[String]) -> Option<&'a [u8]> {
    let (mut at, mut depth, mut found) = (0, 0_usize, 0);
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let name_from = at;
                at = string_end(json, at)?;
                let name = &json[name_from..at];
                at = behind_spaces(json, at + 1);
                // A string that no colon follows is a value.
                if json.get(at) != Some(&b':') {
                    continue;
                }
                at = behind_spaces(json, at + 1);
                if depth != found + 1 || name != path[found].as_bytes() {
                    continue;
                }
                if found + 1 == path.len() {
                    return scalar(json, at);
                }
                if json.get(at) == Some(&b'{') {
                    (at, depth, found) = (at + 1, depth + 1, found + 1);
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                // The object ended without a match.
                found = found.min(depth.saturating_sub(1));
            }
            _ => {}
        }
    }
    None
}

/// Offset of the quote that ends the string that begins before `at`.
fn string_end(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match json.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn behind_spaces(json: &[u8], at: usize) -> usize {
    let spaces = json.get(at..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_whitespace());
    at + spaces.count()
}

fn scalar(json: &[u8], at: usize) -> Option<&[u8]> {
    if json.get(at) == Some(&b'"') {
        return Some(&json[at + 1..string_end(json, at + 1)?]);
    }
    let rest = json.get(at..)?;
    let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
    Some(&rest[..rest.iter().position(ends).unwrap_or(rest.len())])
}

impl Listening {
    /// Checks the options of a load in this mode and at this pace.
    ///
    /// # Errors
    /// The first flag that contradicts another one or a bound.
    pub(super) fn check(&self, mode: Mode, pace: &Pace) -> Result<(), Contradiction> {
        let Listening { hello, time } = self;
        if mode != Mode::Push {
            refuse(hello.is_some(), "--hello", "only for --mode push")?;
            return refuse(time.is_some(), "--time-field", "only for --mode push");
        }
        let why = "not in --mode push, where the server decides when it sends";
        refuse(pace.depth().is_none(), "--rate", why)?;
        let is_long = hello.as_ref().is_some_and(|hello| hello.len() > HELLO_BYTES_MAX);
        refuse(is_long, "--hello", format!("expected at most {HELLO_BYTES_MAX} bytes"))?;
        let is_nameless = time.as_ref().is_some_and(|time| time.path.iter().any(String::is_empty));
        let why = "expected the name of a JSON member, such as --time-field sent_at or data.sent_at";
        refuse(is_nameless, "--time-field", why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::workload::Workload;
    use crate::plan::workload::tests::workload;

    fn read(name: &str, unit: TimeUnit, message: &str) -> Option<u64> {
        let time = TimeField::new(name, unit).read(message.as_bytes());
        time.map(|time| time.as_nanos() as u64)
    }

    #[test]
    fn a_time_field_is_found_in_any_position_and_unit() {
        use TimeUnit::{Microseconds, Milliseconds, Nanoseconds, Seconds};
        let found = Some(1_700_000_000_123_000_000);
        for (name, unit, message) in [
            ("t", Milliseconds, r#"{"t":1700000000123}"#),
            ("t", Microseconds, r#"{ "a": [1, {"t": 5}], "t" : 1700000000123000 , "b": 2}"#),
            ("t", Nanoseconds, r#"{"x":{"t":1},"t":"1700000000123000000"}"#),
            ("a.b.t", Milliseconds, r#"{"a":{"c":{"t":7},"b":{"t":1700000000123}}}"#),
            // Skipped, and found in a later object of the same name.
            ("a.t", Milliseconds, r#"{"a":{"x":1},"b":{"t":3},"a":{"t":1700000000123}}"#),
            ("t", Milliseconds, r#"{"s":"\"t\":5, {","t":1700000000123}"#),
            ("t", Milliseconds, r#"{"s":["t"],"u":"t","t":1700000000123"#),
        ] {
            assert_eq!(read(name, unit, message), found, "{message}");
        }
        // Exact to a double's precision.
        for (unit, message) in
            [(Seconds, r#"{"t":1700000000.123}"#), (Milliseconds, r#"{"t":1.700000000123e12}"#)]
        {
            let near = read("t", unit, message).expect("a time");
            assert!(near.abs_diff(1_700_000_000_123_000_000) < 1_000, "{near}");
        }
    }

    #[test]
    fn messages_without_a_valid_time_are_untimed() {
        for message in [
            "",
            "{",
            "}",
            "]]",
            "heart beat",
            "\"t\"",
            "{\"t\"",
            "{\"t\":",
            "{\"t\":}",
            "{\"t\":null}",
            "{\"t\":-5}",
            "{\"t\":{}}",
            "{\"t\":[5]}",
            "[{\"t\":5}]",
            "{\"u\":{\"t\":5}}",
            "{\"t\":1e300}",
            "{\"t\":\"noon\"}",
            "{\"t\":\"5",
            "{\"t\\",
            "{\"a\":\"\\",
        ] {
            assert_eq!(read("t", TimeUnit::Milliseconds, message), None, "{message}");
        }
        assert_eq!(read("t", TimeUnit::Seconds, &format!("{{\"t\":{}}}", u64::MAX)), None, "out of range");
    }

    #[test]
    fn any_bytes_can_be_searched() {
        let mut random = echoring_proto::random::SplitMix64::new(5);
        const BYTES: &[u8] = b"{}[]\":,.\\ t1a-e\xff\n";
        for _ in 0..20_000 {
            let message: Vec<u8> = (0..random.below(40)).map(|_| *random.pick(BYTES)).collect();
            for name in ["t", "a.t"] {
                TimeField::new(name, TimeUnit::Seconds).read(&message);
            }
        }
    }

    #[test]
    fn a_contradiction_names_its_flag() {
        let blamed = |load: Workload| load.check().err().map(|wrong| wrong.flag);
        let hello = |text: &str| Listening { hello: Some(text.to_owned()), ..Listening::default() };
        let time = |name| Listening {
            time: Some(TimeField::new(name, TimeUnit::Milliseconds)),
            ..Listening::default()
        };
        let push = |listening| Workload { listening, ..workload(Mode::Push) };
        assert_eq!(blamed(push(Listening::default())), None);
        assert_eq!(blamed(push(hello("subscribe"))), None);
        assert_eq!(blamed(push(time("data.sent"))), None);
        assert_eq!(blamed(push(hello(&"x".repeat(HELLO_BYTES_MAX + 1)))), Some("--hello"));
        assert_eq!(blamed(push(time("a..b"))), Some("--time-field"));
        let rate = Workload { pace: Pace::Rate(5), ..push(Listening::default()) };
        assert_eq!(blamed(rate), Some("--rate"));
        let echo = |listening| Workload { listening, ..workload(Mode::Echo) };
        assert_eq!(blamed(echo(hello("x"))), Some("--hello"));
        assert_eq!(blamed(echo(time("t"))), Some("--time-field"));
    }
}
