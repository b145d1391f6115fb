//! What connections that only listen are to do, and when a message that they get was made, read from the message itself.
//!
//! A message is looked through where it lies. Never: an allocation for a message, or a judgement of what its JSON means.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{Contradiction, Mode, Workload};
use crate::limits::MESSAGE_BYTES_DEFAULT;

/// Bytes of `hello`, at most: it has to fit any server.
const HELLO_BYTES_MAX: usize = MESSAGE_BYTES_DEFAULT as usize;

/// What is done in [`Mode::Push`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// What each connection says once, when it is open: a text message.
    pub hello: Option<String>,
    /// Where messages tell when they were made; `None` when they do not.
    pub time: Option<TimeField>,
}

/// A member of JSON objects that is a time since 1970-01-01T00:00:00Z, as a number or as a number in quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeField {
    /// The names on the way to it: of `data.sent` first `data`, then `sent`. At least one.
    path: Vec<String>,
    unit: TimeUnit,
}

/// What a time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeUnit {
    /// Nanoseconds.
    Nanoseconds,
    /// Microseconds.
    Microseconds,
    /// Milliseconds, as JavaScript's clock does.
    Milliseconds,
    /// Seconds.
    Seconds,
}

impl TimeUnit {
    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            TimeUnit::Nanoseconds => "ns",
            TimeUnit::Microseconds => "us",
            TimeUnit::Milliseconds => "ms",
            TimeUnit::Seconds => "s",
        }
    }

    fn ns(self) -> u64 {
        match self {
            TimeUnit::Nanoseconds => 1,
            TimeUnit::Microseconds => 1_000,
            TimeUnit::Milliseconds => 1_000_000,
            TimeUnit::Seconds => 1_000_000_000,
        }
    }
}

impl TimeField {
    /// The member `name`; of a member that is an object its members follow behind a dot, as in `data.sent`.
    pub fn new(name: &str, unit: TimeUnit) -> TimeField {
        TimeField { path: name.split('.').map(str::to_owned).collect(), unit }
    }

    /// Its name as it was given.
    pub fn name(&self) -> String {
        self.path.join(".")
    }

    /// What it counts.
    pub fn unit(&self) -> TimeUnit {
        self.unit
    }

    /// The time that a message tells, since 1970. `None` when it does not.
    pub fn read(&self, message: &[u8]) -> Option<Duration> {
        let digits = str::from_utf8(find(message, &self.path)?).ok()?;
        let unit_ns = self.unit.ns();
        if let Ok(whole) = digits.parse::<u64>() {
            return whole.checked_mul(unit_ns).map(Duration::from_nanos);
        }
        let time_ns = digits.parse::<f64>().ok()? * unit_ns as f64;
        (time_ns >= 0.0 && time_ns < u64::MAX as f64).then(|| Duration::from_nanos(time_ns as u64))
    }
}

/// The number, or what is in the quotes, of the member that the names lead to.
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
                // A string behind which no colon stands is a value.
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
                // Left without having found it there.
                found = found.min(depth.saturating_sub(1));
            }
            _ => {}
        }
    }
    None
}

/// Where the string that began before `at` ends: the place of its second quote.
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

impl Workload {
    /// Checks what listeners are to do.
    ///
    /// # Errors
    /// The first flag that contradicts another one or a bound.
    pub(super) fn check_listening(&self) -> Result<(), Contradiction> {
        let wrong = |flag, why: String| Err(Contradiction { flag, why });
        let Listening { hello, time } = &self.listening;
        if self.mode != Mode::Push {
            return match (hello, time) {
                (Some(_), _) => wrong("--hello", "only for --mode push".to_owned()),
                (_, Some(_)) => wrong("--time-field", "only for --mode push".to_owned()),
                (None, None) => Ok(()),
            };
        }
        if self.pace.depth().is_none() {
            let why = "in --mode push the server decides when it sends: leave it out";
            return wrong("--rate", why.to_owned());
        }
        if hello.as_ref().is_some_and(|hello| hello.len() > HELLO_BYTES_MAX) {
            return wrong("--hello", format!("expected at most {HELLO_BYTES_MAX} bytes"));
        }
        if time.as_ref().is_some_and(|time| time.path.iter().any(String::is_empty)) {
            let why =
                "expected the name of a member of JSON objects, such as --time-field sent_at or data.sent_at";
            return wrong("--time-field", why.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::Pace;
    use crate::load::plan::tests::workload;

    fn read(name: &str, unit: TimeUnit, message: &str) -> Option<u64> {
        let time = TimeField::new(name, unit).read(message.as_bytes());
        time.map(|time| time.as_nanos() as u64)
    }

    #[test]
    fn a_time_is_a_number_of_its_unit_wherever_it_stands() {
        use TimeUnit::{Microseconds, Milliseconds, Nanoseconds, Seconds};
        let found = Some(1_700_000_000_123_000_000);
        for (name, unit, message) in [
            ("t", Milliseconds, r#"{"t":1700000000123}"#),
            ("t", Microseconds, r#"{ "a": [1, {"t": 5}], "t" : 1700000000123000 , "b": 2}"#),
            ("t", Nanoseconds, r#"{"x":{"t":1},"t":"1700000000123000000"}"#),
            ("a.b.t", Milliseconds, r#"{"a":{"c":{"t":7},"b":{"t":1700000000123}}}"#),
            // Passed by, and found in a later one of the same name.
            ("a.t", Milliseconds, r#"{"a":{"x":1},"b":{"t":3},"a":{"t":1700000000123}}"#),
            ("t", Milliseconds, r#"{"s":"\"t\":5, {","t":1700000000123}"#),
            ("t", Milliseconds, r#"{"s":["t"],"u":"t","t":1700000000123"#),
        ] {
            assert_eq!(read(name, unit, message), found, "{message}");
        }
        // As exact as a double is.
        for (unit, message) in
            [(Seconds, r#"{"t":1700000000.123}"#), (Milliseconds, r#"{"t":1.700000000123e12}"#)]
        {
            let near = read("t", unit, message).expect("a time");
            assert!(near.abs_diff(1_700_000_000_123_000_000) < 1_000, "{near}");
        }
    }

    #[test]
    fn what_tells_no_time_is_no_time() {
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
        assert_eq!(read("t", TimeUnit::Seconds, &format!("{{\"t\":{}}}", u64::MAX)), None, "past all time");
    }

    #[test]
    fn any_bytes_are_looked_through() {
        let mut random = crate::load::statistics::Random::new(5);
        const BYTES: &[u8] = b"{}[]\":,.\\ t1a-e\xff\n";
        for _ in 0..20_000 {
            let message: Vec<u8> = (0..random.below(40)).map(|_| BYTES[random.below(BYTES.len())]).collect();
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
