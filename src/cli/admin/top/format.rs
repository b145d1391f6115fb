//! Figures as text, for the screen and for the snapshot of `--once`.

use std::time::Duration;

use super::answers::{Budget, Connection, Limits};
use crate::connect::talk::escaped;
use crate::limits::TOP_NAME_CHARS_MAX;
use echoring_load::plan;

/// A rate: three digits below 100, then thousands separators.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        _ if per_second <= 0.0 => "0".to_owned(),
        _ if per_second < 100.0 => format!("{per_second:.1}"),
        _ => plan::count(per_second.round() as u64),
    }
}

/// A number of bytes, in the units of the options and of the operator's page.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    match value {
        _ if unit == "B" || value >= 99.95 => format!("{value:.0} {unit}"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// The addresses that are banned: how many, and the first.
pub(super) fn banned(limits: &Limits) -> Option<String> {
    let first = limits.most_refused.iter().find(|one| one.banned_s > 0).map(|one| name(&one.address));
    match (limits.addresses.banned, first) {
        (0, _) => None,
        (1, Some(only)) => Some(format!("1 address banned: {only}")),
        (many, Some(first)) => Some(format!("{} addresses banned, such as {first}", plan::count(many))),
        (many, None) => Some(format!("{} addresses banned", plan::count(many))),
    }
}

/// Seconds of a histogram; 0 is below all buckets.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        0.0 => "<60 ns".to_owned(),
        _ => plan::duration((seconds * 1e9).round() as u64),
    }
}

/// An age, in its largest unit.
pub(super) fn age(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A part of 1.
pub(super) fn share(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

/// The use of a budget, with its limit if that is known.
pub(super) fn used(now: u64, budget: Budget, show: impl Fn(u64) -> String) -> String {
    match budget.limit {
        0 => show(now),
        limit => format!("{} of {}", show(now), show(limit)),
    }
}

/// A name that a client has chosen: without control characters, and shortened.
pub(super) fn name(text: &str) -> String {
    let escaped = escaped(text).replace(['\n', '\t'], " ");
    match escaped.char_indices().nth(TOP_NAME_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &escaped[..end]),
        None => escaped,
    }
}

/// The address and the identity of a consumer, and its process if that is another one.
pub(super) fn client(one: &Connection) -> String {
    let address = one.address.as_deref().unwrap_or("unix");
    let process = one.process.as_ref().map(|process| format!("({process})"));
    let parts = [Some(address), one.identity.as_deref(), process.as_deref()];
    name(&parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

/// The topics of a consumer: the first, and how many more.
pub(super) fn topics(one: &Connection) -> String {
    let more = one.topic_count.max(one.topics.len() as u64).saturating_sub(1);
    match (one.topics.first(), more) {
        (None, _) => name(one.path.as_deref().unwrap_or(&one.route)),
        (Some(first), 0) => name(first),
        (Some(first), more) => format!("{} and {more} more", name(first)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::{Addresses, Refused};
    use super::*;

    #[test]
    fn figures_have_few_digits_and_units() {
        for (value, text) in
            [(0.0, "0"), (0.25, "0.2"), (99.94, "99.9"), (100.0, "100"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(rate(value), text);
        }
        for (value, text) in [(0.0, "<60 ns"), (1.5e-6, "1.50 µs"), (2.0, "2.00 s")] {
            assert_eq!(time(value), text);
        }
        for (value, text) in
            [(-1.0, "0 s"), (119.9, "119 s"), (120.0, "2 min"), (7_200.0, "2 h"), (1e6, "11 d")]
        {
            assert_eq!(age(value), text);
        }
        for (value, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 10, "1.0 KiB"),
            (19 << 20, "19.0 MiB"),
            (1023 << 20, "1023 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (1 << 30, "1.0 GiB"),
            (2 << 50, "2048 TiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        let show = |value: u64| value.to_string();
        assert_eq!(used(3, Budget { used: 9, limit: 0 }, show), "3");
        assert_eq!(used(3, Budget { used: 9, limit: 10 }, show), "3 of 10");
    }

    #[test]
    fn banned_addresses_are_counted_and_the_first_is_named() {
        let limits = |banned, most_refused: &[(&str, u64)]| Limits {
            addresses: Addresses { banned },
            most_refused: most_refused
                .iter()
                .map(|(address, banned_s)| Refused { address: (*address).to_owned(), banned_s: *banned_s })
                .collect(),
        };
        let two = [("192.0.2.7", 540), ("192.0.2.8", 0)];
        for (given, expected) in [
            (limits(0, &two[1..]), None),
            (limits(1, &two), Some("1 address banned: 192.0.2.7")),
            (limits(1_200, &two), Some("1,200 addresses banned, such as 192.0.2.7")),
            (limits(1, &[]), Some("1 addresses banned")),
        ] {
            assert_eq!(banned(&given).as_deref(), expected);
        }
    }

    #[test]
    fn names_of_clients_are_shown_and_not_obeyed() {
        assert_eq!(name("a\x1b[2J\nb\u{202e}"), "a\\u{1b}[2J b\\u{202e}");
        assert_eq!(name(&"x".repeat(TOP_NAME_CHARS_MAX + 1)), format!("{}…", "x".repeat(TOP_NAME_CHARS_MAX)));
        let one = Connection { topics: vec!["t\x07".to_owned()], topic_count: 3, ..Connection::default() };
        assert_eq!((client(&one), topics(&one)), ("unix".to_owned(), "t\\u{7} and 2 more".to_owned()));
        let text = |text: &str| Some(text.to_owned());
        let known = Connection { address: text("192.0.2.7:5000"), identity: text("alice"), ..one };
        assert_eq!(client(&known), "192.0.2.7:5000 alice");
        let other = Connection { process: text("predecessor"), ..known };
        assert_eq!(client(&other), "192.0.2.7:5000 alice (predecessor)");
    }
}
