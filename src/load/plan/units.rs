//! Formats durations, bytes and counts with units, and reads durations.

use std::time::Duration;

/// The longest time of a plan.
const TIME_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Times as seconds, in JSON. A day is exact to the nanosecond.
pub(crate) mod seconds {
    use super::Duration;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        time.as_secs_f64().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A time such as `500ms`, up to 24 hours.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "expected a time such as 500ms or 5s")?;
    if time > TIME_MAX { Err("expected at most 24h".to_owned()) } else { Ok(time) }
}

/// Two ascending times such as `500ms..20s`, or one time for both.
pub(crate) fn parse_times(text: &str) -> Result<(Duration, Duration), String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    match (parse_time(least)?, parse_time(most)?) {
        (least, most) if least <= most => Ok((least, most)),
        _ => Err(format!("{text} is not ascending")),
    }
}

/// Nanoseconds with three significant digits and a unit.
pub fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", significant(ns as f64 / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", significant(ns as f64 / 1e6)),
        _ => format!("{} s", significant(ns as f64 / 1e9)),
    }
}

/// Bytes with three significant digits and a unit, a power of 1,000.
pub fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{} {}", if unit == 0 { format!("{value:.0}") } else { significant(value) }, UNITS[unit])
}

fn significant(value: f64) -> String {
    match value {
        _ if value < 9.995 => format!("{value:.2}"),
        _ if value < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A message in one line, cut to this size: text with escapes, or bytes in hexadecimal.
pub fn message(message: &[u8], bytes_max: usize) -> String {
    let mut part = &message[..message.len().min(bytes_max)];
    let is_shown = |byte: u8| byte >= b' ' || b"\n\r\t\0\x1e".contains(&byte);
    if let Err(error) = str::from_utf8(part)
        && error.error_len().is_none()
        && part.len() < message.len()
    {
        // The cut is within a character.
        part = &part[..error.valid_up_to()];
    }
    let mut text = String::new();
    match str::from_utf8(part) {
        Ok(whole) if whole.bytes().all(is_shown) => {
            for character in whole.chars() {
                match character.is_control() {
                    true => text.extend(character.escape_default()),
                    false => text.push(character),
                }
            }
        }
        _ => text = part.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    }
    if part.len() < message.len() {
        text.push_str(&format!(" … ({} bytes)", message.len()));
    }
    text
}

/// A number with thousands separators.
pub fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// A name of a record as people read it, such as `slightly better`.
pub(crate) fn in_words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted_with_units() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(duration(999), "999 ns");
        assert_eq!(duration(1_500), "1.50 µs");
        assert_eq!(duration(123_456_789), "123 ms");
        assert_eq!(duration(5_000_000_000), "5.00 s");
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(bytes(15_800_000.0), "15.8 MB");
    }

    #[test]
    fn messages_are_shown_in_one_line() {
        let shown = |content: &[u8]| message(content, 2_000);
        assert_eq!(shown("{\"a\":\"é\"}".as_bytes()), "{\"a\":\"é\"}");
        assert_eq!(shown(b"CONNECT\n\n\0"), "CONNECT\\n\\n\\u{0}");
        assert_eq!(shown(&[0x30, 0x02, 0xff]), "30 02 ff");
        let long = shown(&[b'a'; 3_000]);
        assert!(long.ends_with("a … (3000 bytes)") && long.len() < 2_100);
        assert_eq!(message("aéé".as_bytes(), 2), "a … (5 bytes)", "no half of a character");
    }
}
