//! Parsers of values on the command line: bytes, durations, rates, lists of CPUs, addresses.
//!
//! Each function parses one word, or says what it expected; the caller adds the flag's name. Bytes and durations have no crate:
//! those that exist accept other spellings (decimal units, `1h 30m` but not `1.5m`) and explain errors in their own words, and
//! both are shown in the spelling that is read here.

use std::ffi::OsString;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};

use echoring_proto::handshake::is_subprotocol;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_server::limits::SHARDS_RANGE;

/// The flag as it is typed of the option with this id.
pub(crate) fn flag_of(id: &str) -> String {
    format!("--{}", id.replace('_', "-"))
}

/// Bytes: a number with an optional `KiB`, `MiB`, `GiB` (or `k`, `m`, `g`, in either case, which mean the
/// same powers of 1024) behind it.
///
/// # Errors
/// When it is not a whole number of bytes below 2^64.
pub fn bytes(word: &str) -> Result<u64, String> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err("expected bytes such as 65536, 64KiB or 1MiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected bytes such as 65536, 64KiB or 1MiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more bytes than can be counted".to_owned())
}

/// A duration: a number, with a fraction if need be, and `us`, `ms`, `s`, `m` or `h` behind it.
///
/// # Errors
/// When it has no unit, is negative, or is longer than 1,000 hours.
pub fn duration(word: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 500ms, 5s or 2m";
    let digits = word.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = word.split_at(digits);
    let unit_s = match unit.trim() {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(EXPECTED.to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    let seconds = number * unit_s;
    if seconds > 1_000.0 * 3_600.0 {
        return Err("longer than 1000h".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A share of a whole: `5%` or `0.05`. 1 is all; more is allowed.
///
/// # Errors
/// When it is not a number, or below zero.
pub fn share(word: &str) -> Result<f64, String> {
    const EXPECTED: &str = "expected a share such as 5% or 0.05";
    let (number, whole) = match word.strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (word, 1.0),
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(EXPECTED.to_owned());
    }
    number.parse().map(|number: f64| number / whole).map_err(|_| EXPECTED.to_owned())
}

/// Things a second: a number with an optional `k`, `M` or `G` behind it, in either case, which mean powers of 1,000, and
/// an optional `/s` behind that. It may have a fraction as long as it comes to a whole number.
///
/// # Errors
/// When it is no whole number below 2^64.
pub fn rate(word: &str) -> Result<u64, String> {
    let expected = || "expected a rate such as 2000, 10k or 1.5M/s".to_owned();
    let number = word.strip_suffix("/s").unwrap_or(word).trim_end();
    let (number, zeros) = match number.as_bytes().last() {
        Some(b'k' | b'K') => (&number[..number.len() - 1], 3),
        Some(b'm' | b'M') => (&number[..number.len() - 1], 6),
        Some(b'g' | b'G') => (&number[..number.len() - 1], 9),
        _ => (number, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let are_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) {
        return Err(expected());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > zeros {
        return Err(format!("a rate is a whole number per second: {}", expected()));
    }
    // Digits of the fraction move in front of the point.
    let digits = format!("{whole}{fraction:0<zeros$}");
    digits.parse().map_err(|_| "too many per second to count".to_owned())
}

/// A parser of bytes within `range`.
pub(crate) fn bytes_in(range: impl RangeBounds<u64> + 'static) -> impl Parser<u64> {
    within(bytes, |bytes| shown_bytes(*bytes), bounds(&range))
}

/// A parser of durations within `range`.
pub(crate) fn duration_in(range: impl RangeBounds<Duration> + 'static) -> impl Parser<Duration> {
    within(duration, |time| shown_duration(*time), bounds(&range))
}

/// The same within a range in nanoseconds.
pub(crate) fn time_in(range: RangeInclusive<Nanos>) -> impl Parser<Duration> {
    duration_in(Duration::from_nanos(*range.start())..=Duration::from_nanos(*range.end()))
}

/// A parser of shares within `range`.
pub(crate) fn share_in(range: impl RangeBounds<f64> + 'static) -> impl Parser<f64> {
    within(share, |share| format!("{}%", share * 100.0), bounds(&range))
}

/// A parser of whole numbers within `range`.
pub(crate) fn number_in(range: impl RangeBounds<u32> + 'static) -> impl Parser<u32> {
    let number = |word: &str| word.parse().map_err(|_| "expected a number".to_owned());
    within(number, ToString::to_string, bounds(&range))
}

/// A word of an option with its help, if it needs any, and its meaning.
pub(crate) type Word<T> = (&'static str, &'static str, T);

/// A file of an option that closes something. Another name than `Option`, to which clap gives a meaning of its own.
pub(crate) type FileOrOff = Option<PathBuf>;

/// A file, or none. An option that is absent removes nothing that it has closed; with this word it does.
pub(crate) fn file_or_off() -> impl TypedValueParser<Value = FileOrOff> {
    OsStringValueParser::new().try_map(|word| match word.to_str() {
        Some("") => Err("expected a path, or off"),
        Some(OFF) => Ok(None),
        _ => Ok(Some(PathBuf::from(word))),
    })
}

/// The word for no value, of options that close something.
pub(crate) const OFF: &str = "off";

/// The words of a switch that takes a value.
pub(crate) const SWITCH: &[Word<bool>] = &[("on", "", true), ("off", "", false)];

/// A parser of these words.
pub(crate) fn one_of<T>(words: &'static [Word<T>]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let shown = words
        .iter()
        .map(|(word, help, _)| PossibleValue::new(*word).help(Some(*help).filter(|help| !help.is_empty())));
    PossibleValuesParser::new(shown).map(move |word| {
        let meant = words.iter().find(|(known, ..)| *known == word);
        meant.map(|(_, _, meaning)| *meaning).expect("the parser accepts no other word")
    })
}

/// A parser of an option's value.
pub(crate) trait Parser<T>: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {}
impl<T, F: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static> Parser<T> for F {}

fn bounds<T: Clone>(range: &impl RangeBounds<T>) -> (Bound<T>, Bound<T>) {
    (range.start_bound().cloned(), range.end_bound().cloned())
}

/// `read`, with the range in every error and nothing outside the range.
fn within<T: Clone + PartialOrd + Send + Sync + 'static>(
    read: fn(&str) -> Result<T, String>,
    show: fn(&T) -> String,
    bounds: (Bound<T>, Bound<T>),
) -> impl Parser<T> {
    move |word| {
        let shown = shown_range(&bounds, show);
        match read(word) {
            Ok(value) if bounds.contains(&value) => Ok(value),
            Ok(_) => Err(format!("must be {shown}")),
            Err(wrong) => Err(format!("{wrong}, {shown}")),
        }
    }
}

/// A range as errors and documents show it.
pub(crate) fn shown_range<T>(range: &impl RangeBounds<T>, show: fn(&T) -> String) -> String {
    match (range.start_bound(), range.end_bound()) {
        (Bound::Included(least), Bound::Included(most)) => format!("from {} to {}", show(least), show(most)),
        (Bound::Included(least), _) => format!("at least {}", show(least)),
        (_, Bound::Included(most)) => format!("at most {}", show(most)),
        _ => "any".to_owned(),
    }
}

/// Bytes as [`bytes()`] reads them, in the largest unit of which they are a whole number.
pub(crate) fn shown_bytes(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A time as [`duration`] reads it, in the largest unit of which it is a whole number, or in microseconds.
pub(crate) fn shown_time(time: Nanos) -> String {
    const MINUTE: Nanos = 60 * SECOND;
    if time == 0 {
        return "0s".to_owned();
    }
    for (unit, name) in [(60 * MINUTE, "h"), (MINUTE, "m"), (SECOND, "s"), (MILLISECOND, "ms")] {
        if time.is_multiple_of(unit) {
            return format!("{}{name}", time / unit);
        }
    }
    match (time / 1_000, time % 1_000) {
        (us, 0) => format!("{us}us"),
        (us, ns) => format!("{us}.{ns:03}us"),
    }
}

/// A duration of at most 1,000 hours as [`duration`] reads it.
pub(crate) fn shown_duration(time: Duration) -> String {
    // Below 2^62 ns.
    shown_time(time.as_nanos() as Nanos)
}

/// Another name than `Vec`, to which clap gives a meaning of its own.
pub(crate) type CpuList = Vec<usize>;

/// CPUs as [`cpu_list`] reads them.
pub(crate) fn shown_cpus(cpus: &CpuList) -> String {
    cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A list of CPU numbers: `0`, `0,2`, `0-3`, `0-1,4`. Kept in the order given, without repeats.
///
/// # Errors
/// When an item is neither a number nor a rising range, or a number is above 1023 (the kernel's set size).
pub(crate) fn cpu_list(word: &str) -> Result<CpuList, String> {
    const EXPECTED: &str = "expected CPU numbers such as 0,2 or 0-3";
    const CPU_MAX: usize = 1_023;
    let number = |item: &str| match item.trim().parse::<usize>() {
        Ok(cpu) if cpu <= CPU_MAX => Ok(cpu),
        Ok(cpu) => Err(format!("there is no CPU {cpu}: the highest is {CPU_MAX}")),
        Err(_) => Err(EXPECTED.to_owned()),
    };
    let mut cpus = Vec::new();
    for item in word.split(',') {
        let (first, last) = match item.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(item)?, number(item)?),
        };
        if first > last {
            return Err(format!("the range {item} is descending"));
        }
        for cpu in first..=last {
            if !cpus.contains(&cpu) {
                cpus.push(cpu);
            }
        }
    }
    Ok(cpus)
}

/// `auto` or a number from 1 to 1024. `None` is `auto`.
///
/// # Errors
/// When it is neither.
pub(crate) fn count_or_auto(word: &str) -> Result<Option<usize>, String> {
    if word == "auto" {
        return Ok(None);
    }
    match word.parse::<usize>() {
        Ok(count) if SHARDS_RANGE.contains(&count) => Ok(Some(count)),
        _ => {
            Err(format!("expected auto or a number from {} to {}", SHARDS_RANGE.start(), SHARDS_RANGE.end()))
        }
    }
}

/// A file, or `-` for stdin or stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileOrStream {
    Stream,
    File(PathBuf),
}

impl From<OsString> for FileOrStream {
    fn from(word: OsString) -> FileOrStream {
        if word == "-" { FileOrStream::Stream } else { FileOrStream::File(word.into()) }
    }
}

/// A subprotocol's name (RFC 6455, 4.1).
pub(crate) fn subprotocol(word: &str) -> Result<String, String> {
    if is_subprotocol(word) {
        Ok(word.to_owned())
    } else {
        Err("expected a token such as chat or mqtt.v5".to_owned())
    }
}

/// An origin as browsers send it (RFC 6454, section 6.2): scheme, host and, unless it is the scheme's own,
/// port; or `*` for any, or `null`. `*.` in front of the host stands for all hosts below it. Given back in lower case.
///
/// # Errors
/// When it has a path, no scheme, or no host.
pub fn origin(word: &str) -> Result<String, String> {
    if word == "*" || word == "null" {
        return Ok(word.to_owned());
    }
    let Some((scheme, host)) = word.split_once("://") else {
        return Err("expected an origin such as https://app.example, or *".to_owned());
    };
    let host = host.strip_prefix("*.").unwrap_or(host);
    if scheme.is_empty() || host.is_empty() {
        return Err("expected an origin such as https://app.example, or *".to_owned());
    }
    if host.contains(['/', '?', '#', '@', '*']) || !word.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("an origin is a scheme, a host and optionally a port, with nothing after them".to_owned());
    }
    Ok(word.to_ascii_lowercase())
}

/// A host's name, perhaps with a port, or `*`.
pub fn host(word: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if word == "*" || (!word.is_empty() && word.bytes().all(is_name)) {
        return Ok(word.to_ascii_lowercase());
    }
    Err("expected a host name such as app.example, optionally with a port, or *".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_binary_suffixes() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("65536"), Ok(65_536));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("1MiB"), Ok(1 << 20));
        assert_eq!(bytes("2g"), Ok(2 << 30));
        for wrong in ["", "KiB", "-1", "1.5MiB", "1KB", "64 K i B", "99999999999999999999", "17179869184GiB"]
        {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_of_a_hundred_or_of_one() {
        assert_eq!((share("5%"), share("0.05")), (Ok(0.05), Ok(0.05)));
        assert_eq!((share("0"), share("150 %")), (Ok(0.0), Ok(1.5)));
        for wrong in ["", "%", "-1%", "1e9", "five", "NaN", "inf", "1.2.3%", "5%%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_take_powers_of_a_thousand_and_a_second() {
        for (word, per_s) in [
            ("2000", 2_000),
            ("0", 0),
            ("10k", 10_000),
            ("10K/s", 10_000),
            ("1.5M", 1_500_000),
            ("1.500M/s", 1_500_000),
            ("0.25k", 250),
            ("2.0/s", 2),
            ("1g", 1_000_000_000),
            ("1.234567M", 1_234_567),
            ("2000 /s", 2_000),
        ] {
            assert_eq!(rate(word), Ok(per_s), "{word}");
        }
        for wrong in [
            "",
            "k",
            "/s",
            "-1",
            "+1",
            "1.5",
            "1.2345k",
            ".5k",
            "1.k",
            "1e3",
            "10kk",
            "10k/m",
            "99999999999G",
        ] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["5", "", "s", "-1s", "1.2.3s", "1w", "1001h", "infs", "NaNs", ".s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_read_as_the_same() {
        for (number, shown) in [
            (0, "0"),
            (1, "1"),
            (1_000, "1000"),
            (1_024, "1KiB"),
            (3 << 20, "3MiB"),
            ((1 << 30) + 1024, "1048577KiB"),
        ] {
            assert_eq!(shown_bytes(number), shown);
            assert_eq!(bytes(shown), Ok(number));
        }
        for (time, shown) in [
            (0, "0s"),
            (1, "0.001us"),
            (1_500, "1.500us"),
            (2 * MILLISECOND, "2ms"),
            (1_500 * MILLISECOND, "1500ms"),
            (60 * SECOND, "1m"),
            (90 * SECOND, "90s"),
            (7_200 * SECOND, "2h"),
        ] {
            assert_eq!(shown_time(time), shown);
            assert_eq!(duration(shown).map(|read| read.as_nanos()), Ok(time.into()));
        }
    }

    #[test]
    fn a_value_outside_its_range_is_refused_with_the_range() {
        let told = |wrong: Result<_, String>| wrong.expect_err("outside");
        assert_eq!(bytes_in(4 * 1024..=1 << 30)("4KiB"), Ok(4_096));
        assert_eq!(told(bytes_in(4 * 1024..=1 << 30)("1")), "must be from 4KiB to 1GiB");
        assert_eq!(told(bytes_in(1 << 20..)("1")), "must be at least 1MiB");
        assert_eq!(
            told(bytes_in(..=1 << 20)("much")),
            "expected bytes such as 65536, 64KiB or 1MiB, at most 1MiB"
        );
        let short = duration_in(..=Duration::from_secs(60));
        assert_eq!(short("61s"), Err("must be at most 1m".to_owned()));
        assert_eq!(share_in(0.005..=0.5)("0.1%"), Err("must be from 0.5% to 50%".to_owned()));
        assert_eq!(number_in(1..=9)("-1"), Err("expected a number, from 1 to 9".to_owned()));
    }

    #[test]
    fn cpu_lists_keep_their_order() {
        assert_eq!(cpu_list("0"), Ok(vec![0]));
        assert_eq!(cpu_list("3,0-1,1"), Ok(vec![3, 0, 1]));
        for wrong in ["", "a", "1-", "2-1", "0,,1", "-1", "1024"] {
            assert!(cpu_list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_have_neither_scheme_nor_path() {
        assert_eq!(host("App.example:8443"), Ok("app.example:8443".to_owned()));
        assert_eq!(host("*"), Ok("*".to_owned()));
        for wrong in ["", "https://app.example", "app.example/", "a b", "*.example", "a@b"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn origins_have_no_path() {
        assert_eq!(origin("https://App.example:8443"), Ok("https://app.example:8443".to_owned()));
        assert_eq!(origin("*"), Ok("*".to_owned()));
        assert_eq!(origin("https://*.App.example"), Ok("https://*.app.example".to_owned()));
        for wrong in ["", "app.example", "https://", "://x", "https://a/", "https://a/b", "http://a b"]
            .into_iter()
            .chain([
                "https://*a",
                "https://*",
                "https://*.",
                "https://*.*.a",
                "https://a.*",
                "http://localhost:*",
                "*.a",
            ])
        {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
