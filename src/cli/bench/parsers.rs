//! Parsers of values that only `bench` has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::common::compress::Compress;
use crate::common::values::{self, Word};
use echoring_load::{DriverChoice, Mode, RateStage, Timestamps};

/// The longest measured time, and the longest warm-up.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Maximum addresses of one `--source-addr`.
const SOURCES_MAX: usize = 65_536;

/// `--mode`: all but replays, which `--replay` asks for.
pub(super) const MODES: &[Word<Mode>] = Mode::WORDS.split_at(Mode::WORDS.len() - 1).0;

/// `--rate`: this many messages in this many seconds; 1 second for an integer rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) messages: u64,
    pub(super) period_s: u32,
}

/// `--rate`.
pub(super) fn rate(word: &str) -> Result<Rate, String> {
    const DECIMALS: usize = 3;
    let whole = match values::rate(word) {
        Ok(messages) => return Ok(Rate { messages, period_s: 1 }),
        Err(why) => why,
    };
    let number = word.strip_suffix("/s").unwrap_or(word).trim_end();
    let Some((before, behind)) = number.split_once('.').filter(|(_, behind)| behind.len() <= DECIMALS) else {
        return Err(whole);
    };
    let digits = format!("{before}{behind:0<DECIMALS$}");
    let is_number = !before.is_empty() && !behind.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let messages: u64 = digits.parse().ok().filter(|_| is_number).ok_or(whole)?;
    let period_s = echoring_load::RATE_PERIOD_S_MAX;
    // The shortest period: 0.5 is one message in two seconds.
    let divisor = (1..=period_s)
        .rev()
        .find(|divisor| period_s.is_multiple_of(*divisor) && messages.is_multiple_of(u64::from(*divisor)));
    let divisor = divisor.unwrap_or(1);
    Ok(Rate { messages: messages / u64::from(divisor), period_s: period_s / divisor })
}

/// `--stage`.
pub(super) fn stage(word: &str) -> Result<RateStage, String> {
    const EXPECTED: &str = "expected a time and a rate, or two rates, such as 30s@10k or 30s@1k..10k";
    let (time, rates) = word.split_once('@').ok_or(EXPECTED)?;
    let time = values::duration(time).map_err(|why| format!("{why}: {EXPECTED}"))?;
    let rate = |word: &str| values::rate(word).map_err(|why| format!("{why}: {EXPECTED}"));
    let (from, to) = match rates.split_once("..") {
        Some((from, to)) => (rate(from)?, rate(to)?),
        None => (rate(rates)?, rate(rates)?),
    };
    Ok(RateStage { time, from, to })
}

/// `--samples`: one in a number of messages, or a share as elsewhere.
pub(super) fn sample_share(word: &str) -> Result<f64, String> {
    const EXPECTED: &str = "expected a share above 0 and up to 1, such as 1/1000 or 0.1%";
    let share = match word.split_once('/') {
        Some((part, whole)) => {
            let number = |word: &str| word.trim().parse::<u32>().map(f64::from).ok();
            number(part).zip(number(whole)).map(|(part, whole)| part / whole)
        }
        None => values::share(word).ok(),
    };
    share.filter(|share| *share > 0.0 && *share <= 1.0).ok_or_else(|| EXPECTED.to_owned())
}

/// `--prometheus`.
pub(super) fn socket_address(word: &str) -> Result<SocketAddr, String> {
    word.parse().map_err(|_| "expected ADDR:PORT such as 127.0.0.1:9464 or [::1]:0".to_owned())
}

/// `--driver`.
pub(super) const DRIVERS: &[Word<DriverChoice>] = &[
    ("auto", "io_uring where the kernel allows it, otherwise epoll", DriverChoice::Auto),
    ("uring", "io_uring, or exit code 3", DriverChoice::Uring),
    ("epoll", "epoll", DriverChoice::Epoll),
];

/// `--timestamps`.
pub(super) fn timestamps(word: &str) -> Result<Timestamps, String> {
    const EXPECTED: &str = "expected auto, program, kernel, or kernel:1/N such as kernel:1/100";
    match word {
        "auto" => Ok(Timestamps::Auto),
        "program" => Ok(Timestamps::Program),
        "kernel" => Ok(Timestamps::Kernel { every: 1 }),
        _ => {
            let every = word.strip_prefix("kernel:1/").and_then(|every| every.parse().ok());
            let every = every.filter(|every| *every > 0).ok_or(EXPECTED)?;
            Ok(Timestamps::Kernel { every })
        }
    }
}

/// `--message-bytes`: minimum, maximum, and distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes(pub(super) usize, pub(super) usize, pub(super) echoring_load::Spread);

pub(super) fn sizes(word: &str) -> Result<Sizes, String> {
    let bytes = |word: &str| -> Result<usize, String> {
        usize::try_from(values::bytes(word)?)
            .map_err(|_| "more bytes than this machine can address".to_owned())
    };
    let (spread, range) = match word.strip_prefix("zipf:") {
        Some(range) => (echoring_load::Spread::Zipf, range),
        None => (echoring_load::Spread::Even, word),
    };
    match range.split_once("..") {
        Some((least, most)) => Ok(Sizes(bytes(least)?, bytes(most)?, spread)),
        None if spread == echoring_load::Spread::Zipf => {
            Err("expected a range, such as zipf:16..4096".to_owned())
        }
        None => bytes(word).map(|bytes| Sizes(bytes, bytes, spread)),
    }
}

/// `--compress`: the parsed offer, and the text for the record.
pub(super) fn compression(words: &str) -> Result<echoring_load::Compress, String> {
    let Compress { compression, memory_bytes } = words.parse()?;
    Ok(echoring_load::Compress { words: words.to_owned(), compression, context_bytes: memory_bytes })
}

/// Another name than `Vec`, to which clap gives a meaning of its own.
pub(super) type Sources = Vec<IpAddr>;

/// `--source-addr`: addresses and ranges, in the given order.
pub(super) fn sources(word: &str) -> Result<Sources, String> {
    const EXPECTED: &str = "expected addresses such as 127.0.0.1,127.0.0.4 or 127.0.0.1-127.0.0.8";
    let address = |item: &str| item.trim().parse::<IpAddr>().map_err(|_| EXPECTED.to_owned());
    let mut addresses = Vec::new();
    for item in word.split(',') {
        let (first, last) = match item.split_once('-') {
            Some((first, last)) => (address(first)?, address(last)?),
            None => (address(item)?, address(item)?),
        };
        let range: Box<dyn Iterator<Item = IpAddr>> = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                Box::new((u32::from(first)..=u32::from(last)).map(|bits| Ipv4Addr::from(bits).into()))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
                Box::new((u128::from(first)..=u128::from(last)).map(|bits| Ipv6Addr::from(bits).into()))
            }
            _ => return Err(format!("the range {item} is descending, or mixes IPv4 and IPv6")),
        };
        for address in range {
            if addresses.len() == SOURCES_MAX {
                return Err(format!("more than {SOURCES_MAX} addresses"));
            }
            addresses.push(address);
        }
    }
    if addresses.iter().any(|address| address.is_ipv4() != addresses[0].is_ipv4()) {
        return Err("IPv4 and IPv6 addresses are mixed".to_owned());
    }
    Ok(addresses)
}

/// `--resolve`: an address for a host and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resolve {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) address: IpAddr,
}

/// `--resolve`.
pub(super) fn resolve(word: &str) -> Result<Resolve, String> {
    let expected = || "expected HOST:PORT:ADDR, such as api.example:443:127.0.0.1".to_owned();
    let (host, rest) = match word.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => word.split_once(':'),
    }
    .ok_or_else(expected)?;
    let (port, address) = rest.split_once(':').ok_or_else(expected)?;
    let address = address.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(address);
    Ok(Resolve {
        host: host.to_ascii_lowercase(),
        port: port.parse().map_err(|_| expected())?,
        address: address.parse().map_err(|_| expected())?,
    })
}

/// A template whose environment variables were read.
pub(super) fn expanded(text: &str) -> Result<String, String> {
    echoring_load::expand_variables(text, &|name| std::env::var(name).ok())
}

/// A warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WarmUp {
    Time(Duration),
    /// Until the load is steady.
    Auto,
}

impl WarmUp {
    /// A given time.
    pub(super) fn time(self) -> Option<Duration> {
        match self {
            WarmUp::Time(time) => Some(time),
            WarmUp::Auto => None,
        }
    }
}

pub(super) fn warm_up(word: &str) -> Result<WarmUp, String> {
    if word == "auto" {
        return Ok(WarmUp::Auto);
    }
    let time = values::duration(word).map_err(|why| format!("{why}, or auto"))?;
    let why = || format!("expected a time of at most {} or auto", values::shown_duration(DURATION_MAX));
    if time <= DURATION_MAX { Ok(WarmUp::Time(time)) } else { Err(why()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_addresses_take_lists_and_ranges() {
        let sources = |word: &str| sources(word).map(|sources| sources.len());
        assert_eq!(sources("127.0.0.1"), Ok(1));
        assert_eq!(sources("127.0.0.1-127.0.0.8,127.0.1.1"), Ok(9));
        assert_eq!(sources("::1-::4"), Ok(4));
        for wrong in ["", "localhost", "127.0.0.1-", "127.0.0.1,::1", "10.0.0.0-10.255.255.255"] {
            assert!(sources(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_may_be_less_than_one_message_a_second() {
        let rate = |word: &str| rate(word).map(|rate| (rate.messages, rate.period_s));
        for (word, expected) in [
            ("2000", (2_000, 1)),
            ("1.5k", (1_500, 1)),
            ("0.5", (1, 2)),
            ("0.50/s", (1, 2)),
            ("1.5", (3, 2)),
            ("0.001", (1, 1_000)),
            ("0.2", (1, 5)),
            ("12.125", (97, 8)),
        ] {
            assert_eq!(rate(word), Ok(expected), "{word}");
        }
        for wrong in ["", "0.0001", ".5", "5.", "-0.5", "0.5.5", "1e-1", "0,5", "half"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_stage_is_a_time_and_one_rate_or_two() {
        let parsed = |word: &str| stage(word).map(|stage| (stage.time.as_millis(), stage.from, stage.to));
        assert_eq!(parsed("30s@10k"), Ok((30_000, 10_000, 10_000)));
        assert_eq!(parsed("1.5m@0..2M/s"), Ok((90_000, 0, 2_000_000)));
        assert_eq!(parsed("500ms@7/s..0"), Ok((500, 7, 0)));
        for wrong in
            ["", "30s", "10k", "30s@", "@10k", "30@10k", "30s@10k..", "30s@..10k", "30s@1..2..3", "30s@-1"]
        {
            assert!(stage(wrong).is_err_and(|why| why.contains("30s@1k..10k")), "{wrong}");
        }
    }

    #[test]
    fn a_sample_has_one_of_so_many_or_a_share() {
        for (word, share) in [("1/1000", 1e-3), ("3/4", 0.75), ("1/1", 1.0), ("0.1%", 1e-3), ("0.5", 0.5)] {
            assert_eq!(sample_share(word), Ok(share), "{word}");
        }
        for wrong in ["", "0", "0/5", "1/0", "2/1", "1/", "/9", "1/2/3", "101%", "-1/5", "all"] {
            assert!(sample_share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_one_or_a_range() {
        let (even, zipf) = (echoring_load::Spread::Even, echoring_load::Spread::Zipf);
        assert_eq!(sizes("16"), Ok(Sizes(16, 16, even)));
        assert_eq!(sizes("12..1KiB"), Ok(Sizes(12, 1_024, even)));
        assert_eq!(sizes("zipf:16..4096"), Ok(Sizes(16, 4_096, zipf)));
        for wrong in ["1..", "zipf", "zipf:", "zipf:64", "even:1..2"] {
            assert!(sizes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_given_for_a_host_and_port() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let found = resolve("API.example:443:127.0.0.1").expect("valid");
        assert_eq!(
            (found.host.as_str(), found.port, found.address),
            ("api.example", 443, address("127.0.0.1"))
        );
        assert_eq!(resolve("[::1]:80:[::2]").map(|found| found.address), Ok(address("::2")));
        assert_eq!(resolve("h:80:::2").map(|found| found.address), Ok(address("::2")));
        for wrong in ["h", "h:80", "h:x:127.0.0.1", "h:80:name"] {
            assert!(resolve(wrong).is_err(), "{wrong}");
        }
    }
}
