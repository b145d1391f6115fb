//! Metrics: the figures of a record by name, with their dimensions.
//!
//! A metric that a record does not have has no value; it never counts as zero.

use std::str::FromStr;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::measure::distribution;
use crate::plan::{Mode, Protocol, Timestamps, Workload, units};

/// All metrics, for error texts; of the other distributions, the quantiles are omitted.
const METRICS: &str = "pN such as p50, p97.5 or p99.9, min max mean stddev (of response time, or of another as in \
                       service.p99 or kernel.p99), lost duplicated reordered corrupted late errors closes ended_early unsent \
                       missed refused not_back unmatched unsolicited messages messages_per_s bytes_per_s reach gaps cpu_per_message run_delay max_rate unreached";

/// The dimension of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dimension {
    /// Nanoseconds.
    Time,
    /// A count.
    Count,
    /// A count per second.
    PerSecond,
    /// Bytes per second.
    BytesPerSecond,
    /// A ratio: 1 is the whole.
    Share,
}

impl Dimension {
    /// The unit of the values in a record.
    pub fn unit(self) -> &'static str {
        match self {
            Dimension::Time => "ns",
            Dimension::Count | Dimension::Share => "1",
            Dimension::PerSecond => "1/s",
            Dimension::BytesPerSecond => "B/s",
        }
    }

    /// Formats a value.
    pub fn shown(self, value: f64) -> String {
        match self {
            Dimension::Time => units::duration(value as u64),
            Dimension::Count => units::count(value as u64),
            Dimension::PerSecond => format!("{}/s", units::count(value as u64)),
            Dimension::BytesPerSecond => format!("{}/s", units::bytes(value)),
            Dimension::Share => format!("{:.4} %", 100.0 * value),
        }
    }

    /// Factor of a unit; `None` for a unit of another dimension.
    pub(super) fn factor(self, unit: &str) -> Option<f64> {
        let per_second = unit.strip_suffix("/s");
        Some(match (self, unit) {
            (Dimension::Time, "ns") => 1.0,
            (Dimension::Time, "us" | "µs") => 1e3,
            (Dimension::Time, "ms") => 1e6,
            (Dimension::Time, "s") => 1e9,
            (Dimension::Time, _) => return None,
            (Dimension::Share, "") => 1.0,
            (Dimension::Share, "%") => 0.01,
            (Dimension::Share, _) => return None,
            (Dimension::Count, _) => thousands(unit)?,
            (Dimension::PerSecond, _) => thousands(per_second.unwrap_or(unit))?,
            (Dimension::BytesPerSecond, _) => match per_second.unwrap_or(unit) {
                "B" => 1.0,
                "kB" => 1e3,
                "MB" => 1e6,
                "GB" => 1e9,
                "KiB" => 1024.0,
                "MiB" => 1_048_576.0,
                "GiB" => 1_073_741_824.0,
                other => thousands(other)?,
            },
        })
    }

    pub(super) fn expected(self) -> &'static str {
        match self {
            Dimension::Time => "a time with its unit ns, us, ms or s",
            Dimension::Count => "a number, optionally with k or M",
            Dimension::PerSecond => "a number per second, optionally with k or M",
            Dimension::BytesPerSecond => "bytes per second, optionally with kB, MB, KiB or MiB",
            Dimension::Share => "a share such as 100% or 0.999",
        }
    }
}

fn thousands(unit: &str) -> Option<f64> {
    match unit {
        "" => Some(1.0),
        "k" => Some(1e3),
        "M" => Some(1e6),
        _ => None,
    }
}

/// Where a record contains a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    /// A number at this path.
    At(&'static [&'static str]),
    /// A member of the distribution at this path.
    Of(&'static [&'static str], &'static str),
    /// A quantile of the distribution at this path, as a share of its values, read from the histogram at the other
    /// path.
    Quantile(&'static [&'static str], &'static str, f64),
    /// The sum of all numbers at this path.
    Sum(&'static [&'static str]),
    /// Ends of connections with a close code other than 1000.
    Closes,
}

/// Quantiles by name, with their names in a record and the share of values below.
const QUANTILES: [(&str, &str, Option<f64>); 15] = [
    ("p75", "p75", Some(0.75)),
    ("p95", "p95", Some(0.95)),
    ("p99.5", "p995", Some(0.995)),
    ("p995", "p995", Some(0.995)),
    ("min", "min", None),
    ("stddev", "stddev", None),
    ("p50", "p50", Some(0.5)),
    ("p90", "p90", Some(0.9)),
    ("p99", "p99", Some(0.99)),
    ("p99.9", "p999", Some(0.999)),
    ("p99.99", "p9999", Some(0.9999)),
    ("p999", "p999", Some(0.999)),
    ("p9999", "p9999", Some(0.9999)),
    ("max", "max", None),
    ("mean", "mean", None),
];

/// Distributions by the prefix of their quantiles, with the only mode that has them.
const DISTRIBUTIONS: [(&str, &[&str], Option<&str>); 22] = [
    ("", &["response_ns"], None),
    ("response.", &["response_ns"], None),
    ("service.", &["service_ns"], None),
    ("kernel.", &["server_and_network_ns"], None),
    ("lateness.", &["generator", "lateness_ns"], None),
    ("turn.", &["generator", "turn_ns"], None),
    ("heartbeat.", &["generator", "heartbeat_ns"], None),
    ("first.", &["broadcast", "first_ns"], Some("broadcast")),
    ("median.", &["broadcast", "median_ns"], Some("broadcast")),
    ("last.", &["broadcast", "last_ns"], Some("broadcast")),
    ("gap.", &["push", "gap_ns"], Some("push")),
    ("ping.", &["ping", "rtt_ns"], None),
    ("back.", &["reconnects", "back_ns"], None),
    ("storm.", &["storm", "back_ns"], Some("storm")),
    ("session.", &["sessions", "duration_ns"], Some("session")),
    ("session.setup.", &["sessions", "setup_ns"], Some("session")),
    ("handshake.", &["handshake", "total_ns"], None),
    ("handshake.connect.", &["handshake", "connect_ns"], None),
    ("handshake.tls.", &["handshake", "tls_ns"], None),
    ("handshake.upgrade.", &["handshake", "upgrade_ns"], None),
    ("handshake.failed.", &["handshake", "failed_ns"], None),
    ("handshake.first_message.", &["handshake", "first_message_ns"], None),
];

/// Distributions of which a record has the histogram, with its name and the prefix of any quantile; the default last.
const HISTOGRAMS: [(&[&str], &str, &str); 4] = [
    (&["service_ns"], "service_histogram", "service."),
    (&["server_and_network_ns"], "server_and_network_histogram", "kernel."),
    (&["response_ns"], "response_histogram", "response."),
    (&["response_ns"], "response_histogram", ""),
];

/// Metrics that are not quantiles, with whether more is better and the only mode that has them.
const NUMBERS: [(&str, Source, Dimension, bool, Option<&str>); 23] = [
    ("unmatched", Source::At(&["unmatched"]), Dimension::Count, false, None),
    ("unsolicited", Source::At(&["unsolicited"]), Dimension::Count, false, None),
    ("run_delay", Source::At(&["generator", "run_delay_ns"]), Dimension::Time, false, None),
    ("lost", Source::At(&["integrity", "lost"]), Dimension::Count, false, None),
    ("duplicated", Source::At(&["integrity", "duplicated"]), Dimension::Count, false, None),
    ("reordered", Source::At(&["integrity", "reordered"]), Dimension::Count, false, None),
    ("corrupted", Source::At(&["integrity", "corrupted"]), Dimension::Count, false, None),
    ("late", Source::At(&["integrity", "late"]), Dimension::Count, false, None),
    ("errors", Source::Sum(&["errors"]), Dimension::Count, false, None),
    ("closes", Source::Closes, Dimension::Count, false, None),
    ("ended_early", Source::At(&["connections", "ended_early"]), Dimension::Count, false, None),
    ("missed", Source::At(&["reconnects", "missed"]), Dimension::Count, false, None),
    ("refused", Source::Sum(&["reconnects", "refused"]), Dimension::Count, false, None),
    ("not_back", Source::At(&["reconnects", "not_back"]), Dimension::Count, false, None),
    ("unsent", Source::At(&["generator", "unsent"]), Dimension::Count, false, None),
    ("messages", Source::At(&["messages"]), Dimension::Count, true, None),
    ("messages_per_s", Source::At(&["messages_per_s"]), Dimension::PerSecond, true, None),
    ("bytes_per_s", Source::At(&["bytes_per_s"]), Dimension::BytesPerSecond, true, None),
    ("reach", Source::At(&["broadcast", "reach"]), Dimension::Share, true, Some("broadcast")),
    ("gaps", Source::At(&["broadcast", "gaps"]), Dimension::Count, false, Some("broadcast")),
    (MAX_RATE, Source::At(&["search", "max_rate"]), Dimension::PerSecond, true, None),
    (UNREACHED, Source::At(&["until", "unreached"]), Dimension::Count, false, None),
    (CPU_PER_MESSAGE, Source::At(&["server", "cpu_ns_per_message"]), Dimension::Time, false, None),
];

const CPU_PER_MESSAGE: &str = "cpu_per_message";
const MAX_RATE: &str = "max_rate";
const UNREACHED: &str = "unreached";

/// A metric of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name in expressions.
    pub name: String,
    source: Source,
    pub(crate) dimension: Dimension,
    /// Whether more of it is better.
    pub more_is_better: bool,
    only_in: Option<&'static str>,
    pub(crate) share_below: Option<f64>,
}

impl Metric {
    /// Whether records of this mode can have it.
    pub fn is_of_mode(&self, mode: &str) -> bool {
        // A storm may have topics.
        self.only_in.is_none_or(|only| only == mode || (only == "broadcast" && mode == "storm"))
    }

    /// Why runs of this load do not have it although their mode does; `None` if they may.
    pub fn missing_in(&self, load: &Workload) -> Option<&'static str> {
        let (Source::At(path) | Source::Of(path, _) | Source::Quantile(path, ..) | Source::Sum(path)) =
            self.source
        else {
            return None;
        };
        let protocol_has_time = load.protocols().any(Protocol::has_time);
        let is_timed = !load.only_listens() || load.listening.time.is_some() || protocol_has_time;
        let answers_first = match load.mode {
            Mode::Connect => load.connecting.first_message,
            _ => load.only_listens(),
        };
        match path {
            ["ping", ..] if load.mode != Mode::Ping && load.ping_every.is_none() => {
                Some("only with pings, such as --ping-every 100ms or --mode ping")
            }
            ["reconnects", ..] if !load.churn.is_some() => {
                Some("only of connections that come back, such as --reconnect 500ms..20s or --lifetime 60s")
            }
            ["response_ns" | "service_ns"] if !is_timed => {
                Some("pushed messages have a time only with --time-field, such as --time-field ts")
            }
            ["server_and_network_ns"]
                if load.timestamps == Timestamps::Program
                    || !matches!(load.mode, Mode::Echo | Mode::Ping) =>
            {
                Some(
                    "the kernel's times are known only with --timestamps kernel or auto, of echoes and pings",
                )
            }
            ["handshake", "first_message_ns"] if !answers_first => {
                Some("only where connections are opened for a message, such as --mode connect")
            }
            _ => None,
        }
    }

    /// The value of the response times of a part of a run; `None` of other metrics, and without messages.
    pub(crate) fn of_response(&self, response: &Histogram<u64>) -> Option<f64> {
        let member = match self.source {
            Source::Of(["response_ns"], member) => member,
            Source::Quantile(["response_ns"], ..) => "",
            _ => return None,
        };
        if response.is_empty() {
            return None;
        }
        match (self.share_below, member) {
            (Some(share), _) => Some(response.median_equivalent(response.value_at_quantile(share)) as f64),
            (None, "mean") => Some(response.mean()),
            (None, "max") => Some(response.max() as f64),
            (None, _) => None,
        }
    }

    /// Whether it needs the server's CPU time.
    pub fn needs_server(&self) -> bool {
        self.name == CPU_PER_MESSAGE
    }

    /// Whether only a search has it.
    pub fn needs_search(&self) -> bool {
        self.name == MAX_RATE
    }

    /// Whether only runs that end by goals have it.
    pub fn needs_goals(&self) -> bool {
        self.name == UNREACHED
    }

    /// Whether it is known while a run lasts.
    pub fn is_live(&self) -> bool {
        match self.source {
            Source::Of(["response_ns"], _)
            | Source::Quantile(["response_ns"], ..)
            | Source::Sum(["errors"]) => true,
            // Losses are known when nobody waits any longer.
            Source::At(["integrity", failure]) => *failure != "lost",
            _ => false,
        }
    }

    /// Whether it needs a schedule.
    pub fn needs_schedule(&self) -> bool {
        matches!(self.source, Source::Of(["generator", "lateness_ns"], _))
    }

    /// The value in a record. `None` if the record does not have it: it does not apply, or nothing was timed.
    pub fn of(&self, record: &Value) -> Option<f64> {
        match self.source {
            Source::At(path) => at(record, path)?.as_f64(),
            Source::Of(path, member) => {
                let distribution = at(record, path)?;
                let count = distribution.get("count").and_then(Value::as_u64);
                (count != Some(0)).then(|| distribution.get(member)?.as_f64()).flatten()
            }
            Source::Quantile(path, whole, share) => {
                let distribution = at(record, path)?;
                let count = distribution.get("count").and_then(Value::as_u64);
                let whole = record.get(whole).and_then(Value::as_str).filter(|_| count != Some(0))?;
                let whole = distribution::decode(whole).ok().filter(|whole| !whole.is_empty())?;
                Some(whole.value_at_quantile(share).min(whole.max()) as f64)
            }
            Source::Sum(path) => {
                let members = at(record, path)?.as_object()?;
                Some(members.values().filter_map(Value::as_f64).sum())
            }
            Source::Closes => {
                let codes = record.get("closes")?.as_object()?;
                let bad = codes.iter().filter(|(code, _)| *code != "1000");
                Some(bad.filter_map(|(_, times)| times.as_f64()).sum())
            }
        }
    }

    /// How the metric is computed from a record's intervals; `None` if only whole runs have it.
    pub(crate) fn of_intervals(&self) -> Option<OfIntervals> {
        match self.source {
            Source::At(["messages_per_s"]) => Some(OfIntervals::PerSecond("messages")),
            Source::At(["bytes_per_s"]) => Some(OfIntervals::PerSecond("bytes")),
            Source::Of([distribution], member) => {
                let (_, histogram, _) = HISTOGRAMS.iter().find(|(path, ..)| *path == [*distribution])?;
                match self.share_below {
                    Some(share) => Some(OfIntervals::Quantile(histogram, share)),
                    None => (member == "mean").then_some(OfIntervals::Mean(histogram)),
                }
            }
            _ => None,
        }
    }
}

/// How a metric is computed from the intervals of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum OfIntervals {
    /// The sum of this member, per second.
    PerSecond(&'static str),
    /// A quantile of the merged distributions of this member.
    Quantile(&'static str, f64),
    /// The mean of the merged distributions of this member.
    Mean(&'static str),
}

fn at<'a>(record: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(record, |value, name| value.get(name))
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(word: &str) -> Result<Metric, String> {
        if let Some((name, source, dimension, more_is_better, only_in)) =
            NUMBERS.iter().find(|(name, ..)| *name == word).copied()
        {
            let name = name.to_owned();
            return Ok(Metric { name, source, dimension, more_is_better, only_in, share_below: None });
        }
        for (before, path, only_in) in DISTRIBUTIONS {
            let Some(wanted) = word.strip_prefix(before) else { continue };
            if let Some((_, member, share_below)) = QUANTILES.iter().find(|(name, ..)| *name == wanted) {
                return Ok(Metric {
                    name: word.to_owned(),
                    source: Source::Of(path, member),
                    dimension: Dimension::Time,
                    more_is_better: false,
                    only_in,
                    share_below: *share_below,
                });
            }
        }
        if let Some(metric) = any_quantile(word) {
            return Ok(metric);
        }
        Err(format!("unknown metric `{word}`: expected one of {METRICS}; such as p99.9<5ms"))
    }
}

/// Any other quantile, in percent, of the distributions that a record contains: `p97.5`, `service.p98`.
fn any_quantile(word: &str) -> Option<Metric> {
    let (path, whole, wanted) = (HISTOGRAMS.into_iter())
        .find_map(|(path, whole, before)| Some((path, whole, word.strip_prefix(before)?)))?;
    let digits = wanted.strip_prefix('p')?;
    let is_decimal = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_number = is_decimal && !digits.starts_with('.') && !digits.ends_with('.');
    let percent: f64 = digits.parse().ok().filter(|percent| is_number && (0.0..100.0).contains(percent))?;
    Some(Metric {
        name: word.to_owned(),
        source: Source::Quantile(path, whole, percent / 100.0),
        dimension: Dimension::Time,
        more_is_better: false,
        only_in: None,
        share_below: Some(percent / 100.0),
    })
}
