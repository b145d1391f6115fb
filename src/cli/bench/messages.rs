//! Flags of `bench` for messages, their receivers and their verification.

use std::path::PathBuf;

use clap::{ArgAction, ArgMatches};

use super::headings::{BROADCAST, MESSAGES, NONE};
use super::parsers::{Sizes, compression, sizes};
use super::usage::{refuse_typed, usage};
use crate::Failure;
use crate::common::values::{self, Word};
use echoring_load::{self, Flaw, Lines, Mode, Style, Workload};

const TRICKLE_BYTES_PER_S_DEFAULT: u64 = 16 * 1024;
const MESSAGE_BYTES_DEFAULT: usize = 64;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = BROADCAST)]
pub(super) struct Args {
    /// Payload size in bytes: N, a range A..B, or zipf:A..B [default: 64, or the minimum needed]
    ///
    /// Sizes of a range are distributed evenly. With zipf most are near A: the k-th size is 1/k times as frequent as the first.
    /// The minimum depends on --kind and --mode.
    #[arg(long, value_name = "N|A..B|zipf:A..B", value_parser = sizes, help_heading = NONE)]
    pub(super) message_bytes: Option<Sizes>,

    /// Kind of messages
    #[arg(long, value_parser = values::one_of(Style::WORDS), default_value = "text", help_heading = MESSAGES)]
    pub(super) kind: Style,

    /// Send the lines of this file as messages [default: generated messages]
    ///
    /// Lines are UTF-8, with --kind json one JSON value each (NDJSON), with --kind binary any bytes. The file has at most
    /// 64 MiB and 1,048,576 lines. Each connection sends the lines in their order. Lines have no sequence number: an echo is compared
    /// with the line that is due.
    #[arg(long, value_name = "FILE", help_heading = MESSAGES)]
    pub(super) payload_file: Option<PathBuf>,

    /// Number of connections that publish; the others subscribe [default: one per topic]
    #[arg(long, value_name = "N")]
    pub(super) publishers: Option<u32>,

    /// Number of topics that publishers and subscribers are distributed over
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) topics: u32,

    /// Number or share of slow subscribers [default: 0]
    ///
    /// They are slow from the start of the measured time until the run ends. Their results are reported separately.
    #[arg(long, value_name = "N|P%", value_parser = share)]
    pub(super) slow: Option<Share>,

    /// Behaviour of slow subscribers
    #[arg(long, action = ArgAction::Set, value_parser = values::one_of(TRICKLES), default_value = "stop")]
    pub(super) slow_how: bool,

    /// Mean bytes per second that a slow subscriber reads with --slow-how trickle
    ///
    /// Each read takes up to 256 KiB.
    #[arg(
        long,
        value_name = "BYTES/s",
        default_value = format!("{}/s", values::shown_bytes(TRICKLE_BYTES_PER_S_DEFAULT)),
        value_parser = bytes_per_s
    )]
    pub(super) trickle: u64,

    /// Offer permessage-deflate: off, on, or parameters as in serve --compress
    ///
    /// Such as "server_max_window_bits=12; level=6". Without URL the embedded server gets them too.
    #[arg(long, value_name = "off|on|PARAMS", default_value = "off", value_parser = compression, help_heading = NONE)]
    pub(super) compress: echoring_load::Compress,

    /// Compare received messages with what was sent
    ///
    /// off is for servers that change messages. Then an answer that does not identify its request has no latency.
    #[arg(long, action = ArgAction::Set, value_parser = values::one_of(values::SWITCH), default_value = "on", help_heading = MESSAGES)]
    pub(super) verify: bool,

    /// Faults that do not fail the run, such as lost,late [default: none]
    ///
    /// A list of lost, duplicated, reordered, corrupted, late (see --late-after), unsent (due, but the connection was lost
    /// or blocked) and closed (the server sent a Close frame before the end of the run). The faults are still counted.
    #[arg(long, value_name = "LIST", value_parser = allow, help_heading = MESSAGES)]
    pub(super) allow: Option<Flaws>,
}

impl Args {
    /// The load with these messages, and with parts of its connections for them. Reads the file that is named.
    pub(super) fn of_load(
        &self,
        typed: &ArgMatches,
        has_rate: bool,
        mut load: Workload,
    ) -> Result<Workload, Failure> {
        (load.style, load.allow) = (self.kind, self.allow.clone().unwrap_or_default());
        if load.mode == Mode::Broadcast || (load.mode == Mode::Storm && has_rate) {
            load.topics = self.topics;
            load.publishers = self.publishers.unwrap_or(self.topics);
            let subscribers = load.connections.saturating_sub(load.publishers);
            (load.stalled, load.trickle) = self.slow(typed, subscribers)?;
        }
        match (&self.payload_file, self.message_bytes) {
            (Some(_), Some(_)) => {
                let why = "the lines of --payload-file have their own sizes, e.g. --payload-file messages.ndjson \
                           --kind json";
                return Err(usage("--message-bytes", why));
            }
            (Some(file), None) => {
                let lines = Lines::read(file, self.kind).map_err(|wrong| usage("--payload-file", &wrong))?;
                (load.message_bytes, load.lines) = (lines.bytes(), Some(lines));
            }
            (None, Some(Sizes(least, most, spread))) => {
                (load.message_bytes, load.spread) = ((least, most), spread)
            }
            // The default fits every style; what was typed is taken as it is.
            (None, None) => {
                let fitting = echoring_load::min_bytes(self.kind, load.mode).max(MESSAGE_BYTES_DEFAULT);
                load.message_bytes = (fitting, fitting);
            }
        }
        Ok(load)
    }

    /// The number of slow subscribers, and their reading rate in bytes a second.
    fn slow(&self, typed: &ArgMatches, subscribers: u32) -> Result<(u32, Option<u64>), Failure> {
        let Some(slow) = self.slow else { return Ok((0, None)) };
        if self.slow_how {
            return Ok((slow.of(subscribers), Some(self.trickle)));
        }
        let why = "subscribers that stop read nothing, e.g. --slow 1% --slow-how trickle --trickle 64KiB/s";
        refuse_typed(typed, &["trickle"], why).map(|()| (slow.of(subscribers), None))
    }
}

/// `--slow-how`: whether they trickle.
const TRICKLES: &[Word<bool>] =
    &[("stop", "They read nothing", false), ("trickle", "They read at the rate of --trickle", true)];

/// `--slow`: some of many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Share {
    Count(u32),
    Percent(f64),
}

impl Share {
    /// So many of `all`. A share that is not nothing is at least one.
    fn of(self, all: u32) -> u32 {
        match self {
            Share::Count(count) => count,
            Share::Percent(0.0) => 0,
            Share::Percent(percent) => ((f64::from(all) * percent / 100.0).round() as u32).max(1),
        }
    }
}

fn share(word: &str) -> Result<Share, String> {
    let expected = || "expected a number or a share, such as 10 or 1%".to_owned();
    match word.strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.trim_end().parse().map_err(|_| expected())?;
            if (0.0..=100.0).contains(&percent) { Ok(Share::Percent(percent)) } else { Err(expected()) }
        }
        None => word.parse().map(Share::Count).map_err(|_| expected()),
    }
}

/// `--allow`; another name than `Vec`, to which clap gives a meaning of its own.
type Flaws = Vec<Flaw>;

fn allow(word: &str) -> Result<Flaws, String> {
    let mut flaws = word.split(',').map(|word| word.trim().parse()).collect::<Result<Vec<Flaw>, String>>()?;
    flaws.sort_unstable();
    flaws.dedup();
    Ok(flaws)
}

/// `--trickle`: bytes, with or without `/s` behind them.
fn bytes_per_s(word: &str) -> Result<u64, String> {
    match values::bytes(word.strip_suffix("/s").unwrap_or(word)) {
        Ok(bytes @ 1..) => Ok(bytes),
        Ok(0) | Err(_) => Err("expected bytes a second, such as 16KiB/s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_count_or_a_percentage() {
        let of = |word: &str, all| share(word).map(|share| share.of(all));
        assert_eq!(of("10", 1_000), Ok(10));
        assert_eq!(of("1%", 1_000), Ok(10));
        assert_eq!(of("0.25%", 1_000), Ok(3));
        assert_eq!(of("1%", 20), Ok(1), "some are some");
        assert_eq!(of("0%", 20), Ok(0));
        assert_eq!(of("100 %", 20), Ok(20));
        for wrong in ["", "%", "-1", "1.5", "101%", "-1%", "NaN%", "many"] {
            assert!(of(wrong, 10).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_allowed_is_a_list_of_words() {
        assert_eq!(allow("closed, lost,lost"), Ok(vec![Flaw::Lost, Flaw::Closed]));
        assert_eq!(allow("corrupted"), Ok(vec![Flaw::Corrupted]));
        assert!(allow("lost;closed").is_err() && allow("").is_err());
    }

    #[test]
    fn a_trickle_is_bytes_a_second() {
        assert_eq!(bytes_per_s("1KiB/s"), Ok(1_024));
        assert_eq!(bytes_per_s("500"), Ok(500));
        for wrong in ["0", "0/s", "KiB/s", "1/m"] {
            assert!(bytes_per_s(wrong).is_err(), "{wrong}");
        }
    }
}
