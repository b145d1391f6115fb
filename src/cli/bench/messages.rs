//! Flags of `bench`: what messages are, who gets them, and what is checked of them.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use super::usage;
use super::words::{Compression, Kind, Sizes, Switch};
use crate::cli::{Failure, values};
use crate::load::{self, Flaw, Lines, Spread, Style};

/// What `--trickle` is unless it is said.
const TRICKLE_BYTES_PER_S_DEFAULT: u64 = 16 * 1024;
const MESSAGE_BYTES_DEFAULT: usize = 64;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Payload of a message in bytes: one size, a range that sizes are spread over evenly, or zipf: and a range, most
    /// of them near its least, the k-th size 1/k times as often as the first [default: 64, or what --kind and
    /// --mode need]
    #[arg(long, value_name = "N|A..B|zipf:A..B", value_parser = Sizes::from_str)]
    pub(super) message_bytes: Option<Sizes>,

    /// What messages are
    #[arg(long, value_enum, default_value = "text")]
    pub(super) kind: Kind,

    /// What --kind text is made of; always valid UTF-8, never cut inside a character [default: ascii]
    #[arg(long, value_enum)]
    pub(super) text: Option<Text>,

    /// Send the lines of this file, each a message as it is: UTF-8, with --kind json one JSON value a line (NDJSON),
    /// with --kind binary anything; at most 64 MiB and 1,048,576 lines. Each connection goes through the file in its
    /// order. Lines carry no sequence: they are compared with the one that is due (echo) [default: generated messages]
    #[arg(long, value_name = "FILE")]
    pub(super) payload_file: Option<PathBuf>,

    /// Connections that publish; the others subscribe (broadcast) [default: one for each topic]
    #[arg(long, value_name = "N")]
    pub(super) publishers: Option<u32>,

    /// Topics that publishers and subscribers are spread over (broadcast) [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) topics: Option<u32>,

    /// Subscribers, so many or such a share, that are slow from the start of the measured time until the run is over
    /// (broadcast): what the server does with them is told apart, and the others are measured; also called --stalled
    /// [default: 0]
    #[arg(long, alias = "stalled", value_name = "N|P%", value_parser = Share::from_str)]
    pub(super) slow: Option<Share>,

    /// What those do [default: stop]
    #[arg(long, value_enum)]
    pub(super) slow_how: Option<SlowHow>,

    /// Bytes a second that each of those reads on average with --slow-how trickle, in steps of what a read brings, up
    /// to 256 KiB [default: 16KiB/s]
    #[arg(long, value_name = "BYTES/s", value_parser = bytes_per_s)]
    pub(super) trickle: Option<u64>,

    /// Compression of messages to offer (permessage-deflate), in the words of `serve --compress`: on, off, or
    /// PARAMS such as "server_max_window_bits=12; level=6"; without URL the server's too [default: off]
    #[arg(long, value_name = "off|on|PARAMS", value_parser = Compression::from_str)]
    pub(super) compress: Option<Compression>,

    /// Whether to check what arrives; off only for peers that do not return messages as they were: answers that do not
    /// name what they answer have no latency then
    #[arg(long, value_enum, default_value = "on")]
    pub(super) verify: Switch,

    /// What may go wrong without the run having failed, a list of lost, duplicated, reordered, corrupted, late (see
    /// --late-after), unsent (due, and their connection gone) and closed (by a Close frame of the server, before the run is over); all of it is counted as ever [default: nothing]
    #[arg(long, value_name = "LIST", value_parser = Allow::from_str)]
    pub(super) allow: Option<Allow>,
}

/// Messages as the flags describe them.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) style: Style,
    pub(super) message_bytes: (usize, usize),
    pub(super) spread: Spread,
    pub(super) lines: Option<Lines>,
}

impl Args {
    /// What messages are in `mode`. Reads the file that is named.
    pub(super) fn describe(&self, mode: load::Mode) -> Result<Described, Failure> {
        let style = self.style()?;
        if let Some(file) = &self.payload_file {
            if self.message_bytes.is_some() {
                let why = "the lines of --payload-file have their own sizes: such as --payload-file messages.ndjson \
                           --kind json";
                return Err(usage("--message-bytes", why));
            }
            let lines = Lines::read(file, style).map_err(|wrong| usage("--payload-file", &wrong))?;
            return Ok(Described {
                style,
                message_bytes: lines.bytes(),
                spread: Spread::Even,
                lines: Some(lines),
            });
        }
        let (message_bytes, spread) = match self.message_bytes {
            Some(Sizes(least, most, spread)) => ((least, most), spread),
            // The default fits every style; what was typed is taken as it is.
            None => {
                let fitting = load::least_bytes(style, mode).max(MESSAGE_BYTES_DEFAULT);
                ((fitting, fitting), Spread::Even)
            }
        };
        Ok(Described { style, message_bytes, spread, lines: None })
    }

    fn style(&self) -> Result<Style, Failure> {
        if self.text.is_some() && self.payload_file.is_some() {
            let why = "the lines of --payload-file are as they are: such as --payload-file lines.txt";
            return Err(usage("--text", why));
        }
        match (self.kind, self.text) {
            (Kind::Text, None | Some(Text::Ascii)) => Ok(Style::Text),
            (Kind::Text, Some(Text::Mixed)) => Ok(Style::Mixed),
            (Kind::Text, Some(Text::Emoji)) => Ok(Style::Emoji),
            (Kind::Binary, None) => Ok(Style::Binary),
            (Kind::Json, None) => Ok(Style::Json),
            (Kind::Binary | Kind::Json, Some(_)) => {
                Err(usage("--text", "only for --kind text: such as --kind text --text mixed"))
            }
        }
    }

    /// How many of so many subscribers are slow, and what they read, in bytes a second.
    pub(super) fn slow(&self, subscribers: u32) -> Result<(u32, Option<u64>), Failure> {
        let Some(slow) = self.slow else {
            let typed = [("--slow-how", self.slow_how.is_some()), ("--trickle", self.trickle.is_some())];
            return match typed.into_iter().find(|(_, typed)| *typed) {
                Some((flag, _)) => Err(usage(flag, "only with --slow: such as --slow 1% --slow-how trickle")),
                None => Ok((0, None)),
            };
        };
        let trickle = match (self.slow_how, self.trickle) {
            (Some(SlowHow::Trickle), rate) => Some(rate.unwrap_or(TRICKLE_BYTES_PER_S_DEFAULT)),
            (None | Some(SlowHow::Stop), None) => None,
            (None | Some(SlowHow::Stop), Some(_)) => {
                let why =
                    "those who stop read nothing: such as --slow 1% --slow-how trickle --trickle 64KiB/s";
                return Err(usage("--trickle", why));
            }
        };
        Ok((slow.of(subscribers), trickle))
    }

    /// The flags that only broadcasts have, and whether each was typed.
    pub(super) fn of_broadcasts(&self) -> [(&'static str, bool); 5] {
        [
            ("--publishers", self.publishers.is_some()),
            ("--topics", self.topics.is_some()),
            ("--slow", self.slow.is_some()),
            ("--slow-how", self.slow_how.is_some()),
            ("--trickle", self.trickle.is_some()),
        ]
    }

    /// The flags that say what is sent, and whether each was typed.
    pub(super) fn of_senders(&self) -> [(&'static str, bool); 3] {
        [
            ("--message-bytes", self.message_bytes.is_some()),
            ("--text", self.text.is_some()),
            ("--payload-file", self.payload_file.is_some()),
        ]
    }

    pub(super) fn allowed(&self) -> Vec<Flaw> {
        self.allow.as_ref().map(|allow| allow.0.clone()).unwrap_or_default()
    }
}

/// `--text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Text {
    /// One byte a character
    Ascii,
    /// Words of eleven scripts, of one to three bytes a character
    Mixed,
    /// Emoji of four bytes, and sequences of several joined into one
    Emoji,
}

/// `--slow-how`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SlowHow {
    /// They read nothing
    Stop,
    /// They read at the rate of --trickle
    Trickle,
}

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

impl FromStr for Share {
    type Err = String;

    fn from_str(word: &str) -> Result<Share, String> {
        let expected = || "expected a number or a share, such as 10 or 1%".to_owned();
        match word.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.trim_end().parse().map_err(|_| expected())?;
                if (0.0..=100.0).contains(&percent) { Ok(Share::Percent(percent)) } else { Err(expected()) }
            }
            None => word.parse().map(Share::Count).map_err(|_| expected()),
        }
    }
}

/// `--allow`, wrapped because clap gives `Vec` a meaning of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Allow(Vec<Flaw>);

impl FromStr for Allow {
    type Err = String;

    fn from_str(word: &str) -> Result<Allow, String> {
        let mut flaws =
            word.split(',').map(|word| word.trim().parse()).collect::<Result<Vec<Flaw>, String>>()?;
        flaws.sort_unstable();
        flaws.dedup();
        Ok(Allow(flaws))
    }
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
        let of = |word: &str, all| Share::from_str(word).map(|share| share.of(all));
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
        let allow = |words: &str| Allow::from_str(words).map(|allow| allow.0);
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
