//! Metrics: the figures of a record by name, with their dimensions.
//!
//! A metric that a record does not have has no value; it never counts as zero.

mod rows;

use std::str::FromStr;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::measure::{Quantiles, distribution};
use crate::plan::{Mode, Protocol, Timestamps, Workload, units};
use rows::{CPU_PER_MESSAGE, NUMBERS, TIMES, UNREACHED};
pub use rows::{Times, metric_names};

/// The dimension of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dimension {
    /// Nanoseconds.
    Time,
    /// A count.
    Count,
    /// A count per second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// A ratio: 1 is the whole.
    Share,
}

impl Dimension {
    /// That of the number at this path, by its name.
    fn of(path: &str) -> Dimension {
        let name = path.rsplit('.').next().unwrap_or(path);
        match name {
            _ if name.ends_with("_ns") || name.contains("_ns_") => Dimension::Time,
            "bytes_per_s" => Dimension::BytesPerSecond,
            "reach" | "cpu_share" => Dimension::Share,
            "max_rate" | "knee" => Dimension::PerSecond,
            _ if name.ends_with("per_s") => Dimension::PerSecond,
            _ if name.contains("bytes") => Dimension::Bytes,
            _ => Dimension::Count,
        }
    }

    /// The unit of the values in a record.
    pub fn unit(self) -> &'static str {
        match self {
            Dimension::Time => "ns",
            Dimension::Count | Dimension::Share => "1",
            Dimension::PerSecond => "1/s",
            Dimension::Bytes => "B",
            Dimension::BytesPerSecond => "B/s",
        }
    }

    /// Formats a value.
    pub fn shown(self, value: f64) -> String {
        match self {
            Dimension::Time => units::duration(value as u64),
            Dimension::Count => units::count(value as u64),
            Dimension::PerSecond => format!("{}/s", units::count(value as u64)),
            Dimension::Bytes => units::bytes(value),
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
            (Dimension::Bytes, _) => bytes(unit)?,
            (Dimension::BytesPerSecond, _) => bytes(per_second.unwrap_or(unit))?,
        })
    }

    pub(super) fn expected(self) -> &'static str {
        match self {
            Dimension::Time => "a time with its unit ns, us, ms or s",
            Dimension::Count => "a number, optionally with k or M",
            Dimension::PerSecond => "a number per second, optionally with k or M",
            Dimension::Bytes => "bytes, optionally with kB, MB, KiB or MiB",
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

fn bytes(unit: &str) -> Option<f64> {
    Some(match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        other => thousands(other)?,
    })
}

/// Where a record contains a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    /// A number at this path, or the sum of all numbers in an object there.
    At(&'static str),
    /// A member of the distribution at this path.
    Of(&'static str, &'static str),
    /// A quantile of the distribution at this path, as a share of its values, read from the histogram at the other
    /// path.
    Quantile(&'static str, &'static str, f64),
}

/// A close code that is no failure.
const GOOD_CLOSE: &str = "1000";
/// The member of a distribution that is no time.
const COUNT: &str = "count";

/// Members of a distribution by name, with their names in a record and the share of values below.
const MEMBERS: [(&str, &str, Option<f64>); 16] = [
    (COUNT, COUNT, None),
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

/// A metric of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name in expressions.
    pub name: String,
    source: Source,
    pub(crate) dimension: Dimension,
    /// Whether more of it is better.
    pub more_is_better: bool,
    pub(crate) share_below: Option<f64>,
}

impl Metric {
    /// Whether records of this mode can have it.
    pub fn is_of_mode(&self, mode: &str) -> bool {
        match self.section() {
            // A storm may have topics.
            "broadcast" => matches!(mode, "broadcast" | "storm"),
            "sessions" => mode == "session",
            only @ ("push" | "storm" | "replay") => mode == only,
            _ => true,
        }
    }

    fn path(&self) -> &'static str {
        let (Source::At(path) | Source::Of(path, _) | Source::Quantile(path, ..)) = self.source;
        path
    }

    /// The field of the record that has it.
    fn section(&self) -> &'static str {
        self.path().split_once('.').map_or(self.path(), |(section, _)| section)
    }

    /// Why runs of this load do not have it although their mode does; `None` if they may.
    pub fn missing_in(&self, load: &Workload) -> Option<&'static str> {
        let protocol_has_time = load.protocols().any(Protocol::has_time);
        let is_timed = !load.only_listens() || load.listening.time.is_some() || protocol_has_time;
        let answers_first = match load.mode {
            Mode::Connect => load.connecting.first_message,
            _ => load.only_listens(),
        };
        match self.section() {
            "ping" if load.mode != Mode::Ping && load.ping_every.is_none() => {
                Some("only with pings, such as --ping-every 100ms or --mode ping")
            }
            "reconnects" if !load.churn.is_some() => {
                Some("only of connections that come back, such as --reconnect 500ms..20s or --lifetime 60s")
            }
            "response_ns" | "service_ns" if !is_timed => {
                Some("pushed messages have a time only with --time-field, such as --time-field ts")
            }
            "compression" if load.compress.compression.is_none() => {
                Some("only with compression, such as --compress on")
            }
            "stalled" if load.stalled == 0 => Some("only of slow subscribers, such as --slow 5%"),
            "protocol" if load.protocol.is_none() => {
                Some("only of a declared protocol, such as --protocol json-rpc")
            }
            "server_and_network_ns"
                if load.timestamps == Timestamps::Program
                    || !matches!(load.mode, Mode::Echo | Mode::Ping) =>
            {
                Some(
                    "the kernel's times are known only with --timestamps kernel or auto, of echoes and pings",
                )
            }
            "handshake" if self.path() == "handshake.first_message_ns" && !answers_first => {
                Some("only where connections are opened for a message, such as --mode connect")
            }
            _ => None,
        }
    }

    /// The value of the response times of a part of a run; `None` of other metrics, and without messages.
    pub(crate) fn of_response(&self, response: &Histogram<u64>) -> Option<f64> {
        let member = match self.source {
            Source::Of("response_ns", member) => member,
            Source::Quantile("response_ns", ..) => "",
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
        self.section() == "search"
    }

    /// Whether only runs that end by goals have it.
    pub fn needs_goals(&self) -> bool {
        self.name == UNREACHED
    }

    /// Whether it is known while a run lasts.
    pub fn is_live(&self) -> bool {
        match self.source {
            Source::Of("response_ns", _) | Source::Quantile("response_ns", ..) | Source::At("errors") => true,
            // Losses are known when nobody waits any longer.
            Source::At(path) => self.section() == "integrity" && path != "integrity.lost",
            _ => false,
        }
    }

    /// Whether it needs a schedule.
    pub fn needs_schedule(&self) -> bool {
        matches!(self.source, Source::Of("generator.lateness_ns", _))
    }

    /// The value in a record. `None` if the record does not have it: it does not apply, or nothing was timed.
    pub fn of(&self, record: &Value) -> Option<f64> {
        match self.source {
            Source::At(path) => match at(record, path)? {
                Value::Object(members) => {
                    let each = members.iter().filter(|(name, _)| *name != GOOD_CLOSE);
                    Some(each.filter_map(|(_, value)| value.as_f64()).sum())
                }
                value => value.as_f64(),
            },
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
        }
    }

    /// How the metric is computed from a record's intervals; `None` if only whole runs have it.
    pub(crate) fn of_intervals(&self) -> Option<OfIntervals> {
        match self.source {
            Source::At("messages_per_s") => Some(OfIntervals::PerSecond("messages")),
            Source::At("bytes_per_s") => Some(OfIntervals::PerSecond("bytes")),
            Source::Of(distribution, member) => {
                let histogram = TIMES.iter().find(|times| times.path == distribution)?.histogram()?;
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

fn at<'a>(record: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(record, |value, name| value.get(name))
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(word: &str) -> Result<Metric, String> {
        if let Some(number) = NUMBERS.iter().find(|number| number.name == word) {
            return Ok(Metric {
                name: word.to_owned(),
                source: Source::At(number.path),
                dimension: Dimension::of(number.path),
                more_is_better: number.more_is_better,
                share_below: None,
            });
        }
        TIMES.iter().find_map(|times| of_times(word, times)).ok_or_else(|| {
            format!(
                "unknown metric `{word}`: expected pN, min, max, mean, stddev or count of the response time, the same of another time as \
                 in service.p99, or a number such as lost; `echoring bench --help` has all"
            )
        })
    }
}

/// The metric of these times with this name.
fn of_times(word: &str, times: &Times) -> Option<Metric> {
    let wanted = match times.prefix {
        "" => word.strip_prefix("response.").unwrap_or(word),
        prefix => word.strip_prefix(prefix)?.strip_prefix('.')?,
    };
    let known = MEMBERS.iter().find(|(name, ..)| *name == wanted);
    let (source, share_below) = match known {
        Some((_, member, share_below)) => (Source::Of(times.path, member), *share_below),
        None => {
            let share = share_of(wanted)?;
            (Source::Quantile(times.path, times.histogram()?, share), Some(share))
        }
    };
    let is_count = wanted == COUNT;
    Some(Metric {
        name: word.to_owned(),
        source,
        dimension: if is_count { Dimension::Count } else { Dimension::Time },
        more_is_better: is_count,
        share_below,
    })
}

/// The share of values below any quantile in percent, such as `p97.5`.
fn share_of(quantile: &str) -> Option<f64> {
    let digits = quantile.strip_prefix('p')?;
    let is_decimal = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_number = is_decimal && !digits.starts_with('.') && !digits.ends_with('.');
    let percent: f64 = digits.parse().ok().filter(|percent| is_number && (0.0..100.0).contains(percent))?;
    Some(percent / 100.0)
}

/// The distributions of a record that have values, with their names in tables.
pub fn distributions(record: &Value) -> impl Iterator<Item = (&'static Times, Quantiles)> {
    TIMES.iter().filter_map(|times| {
        let found: Quantiles = serde_json::from_value(at(record, times.path)?.clone()).ok()?;
        (found.count > 0).then_some((times, found))
    })
}

#[cfg(test)]
pub(crate) mod tests;
