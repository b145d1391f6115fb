//! The progress of a run as figures that monitoring systems collect: one definition for Prometheus' text format, its remote
//! write and OpenTelemetry.
//!
//! `docs/reference/outputs.md` documents names, units and types. Counters never decrease within a run.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::engine::{RunProgress, RunStage};
use crate::measure::{LiveResults, Quantiles};
use crate::plan::Mode;
use echoring_proto::limits::SECOND;

/// Upper bounds of the buckets of response times in nanoseconds: 1, 2.5 and 5 times each power of ten, from 10 µs to 10 s.
fn buckets_ns() -> impl Iterator<Item = u64> {
    let bounds = (3..=9).flat_map(|power| [10, 25, 50].map(|times| times * 10_u64.pow(power)));
    bounds.take_while(|bound| *bound <= 10 * SECOND)
}

/// The figures of a run at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// The target, a label of every series.
    pub target: String,
    /// The families, in the order of the text format.
    pub families: Vec<Family>,
}

/// All series of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The name in Prometheus without its prefix.
    pub name: &'static str,
    /// Its meaning, in a sentence.
    pub help: &'static str,
    /// The values.
    pub values: Values,
}

/// The values of a family.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Numbers that rise and fall.
    Gauge(Vec<Series>),
    /// Numbers that only rise within a run.
    Counter(Vec<Series>),
    /// Times.
    Histogram(Distribution),
}

/// One number, with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Names and values of its own labels.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: f64,
}

/// A distribution of times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Number of times.
    pub count: u64,
    /// Their sum in nanoseconds, as precise as the histogram.
    pub sum_ns: f64,
    /// Times in nanoseconds, rising, with how often each occurred.
    pub values_ns: Vec<(u64, u64)>,
}

impl Distribution {
    /// A bucket of the histogram counts with its midpoint.
    fn of(values: &Histogram<u64>) -> Distribution {
        let mut distribution = Distribution::default();
        for step in values.iter_recorded() {
            let (value, times) = (step.value_iterated_to(), step.count_at_value());
            let middle = values.median_equivalent(value);
            distribution.count += times;
            distribution.sum_ns += middle as f64 * times as f64;
            distribution.values_ns.push((middle, times));
        }
        distribution
    }

    /// For each bucket of Prometheus its upper bound in seconds, and the number of times that are not above it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let (mut values, mut below) = (self.values_ns.iter().peekable(), 0);
        buckets_ns().map(move |bound| {
            while let Some((_, times)) = values.next_if(|(value, _)| *value <= bound) {
                below += times;
            }
            (seconds(bound), below)
        })
    }
}

/// The progress of run number `run` (from 1) of this process, at a current rate of `messages_per_s`.
pub fn figures(moment: &RunProgress<'_>, run: usize, messages_per_s: f64) -> Figures {
    let load = moment.load;
    let about = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("mode", load.mode.name().to_owned()),
        ("run", run.to_string()),
    ];
    let info = Values::Gauge(vec![Series { labels: about.to_vec(), value: 1.0 }]);
    let stage =
        |(name, _, stage): &(&str, _, _)| ((*name).to_owned(), u8::from(moment.stage == *stage).into());
    let stages = Values::Gauge(by("stage", RunStage::WORDS.iter().map(stage)));
    let measured = if moment.stage == RunStage::Measuring { moment.elapsed } else { Duration::ZERO };
    // The rate of sessions is not that of their messages.
    let due = load.pace.rate_at(measured).filter(|_| load.mode != Mode::Session);
    let due = due.map(|rate| rate / f64::from(load.rate_period_s));
    let mut families = vec![
        family("info", "The current run: always 1, with labels that describe it.", info),
        family("stage", "1 for the current stage of the run, 0 for all others.", stages),
        gauge("stage_seconds", "Time since the current stage began.", moment.elapsed.as_secs_f64()),
        gauge("connections", "Configured connections.", f64::from(load.connections)),
        gauge("connections_open", "Connections open now.", moment.open as f64),
        counter("connections_failed_total", "Connections that failed or ended early.", moment.failed),
        counter("messages_received_total", "Messages that arrived, warm-up included.", moment.messages),
        gauge("messages_per_second", "Current rate of arriving messages.", messages_per_s),
    ];
    families.extend(due.map(|due| gauge("target_messages_per_second", "Messages that are due.", due)));
    families.extend(live_figures(moment.live));
    Figures { target: moment.target.to_owned(), families }
}

/// Failures, response times, and the ages of outstanding messages. Those are not in the histogram, as they grow, and a bucket must not
/// decrease.
fn live_figures(live: &LiveResults) -> [Family; 8] {
    let LiveResults { settled, outstanding, counts } = live;
    let errors = counts.errors.iter().map(|(cause, count)| (cause.clone(), *count as f64));
    let kinds = counts.integrity.by_kind().map(|(kind, count)| (kind.to_owned(), count as f64));
    let quantiles = live.quantiles().into_iter().flat_map(|Quantiles { p50, p90, p99, p999, .. }| {
        let each = [("0.5", p50), ("0.9", p90), ("0.99", p99), ("0.999", p999)];
        each.map(|(quantile, ns)| (quantile.to_owned(), seconds(ns)))
    });
    let lateness = seconds(counts.lateness_ns_max);
    [
        counter("messages_unsent_total", "Messages that were due and never sent.", counts.unsent),
        family("errors_total", "Failures by cause.", Values::Counter(by("cause", errors))),
        family(
            "integrity_total",
            "Integrity failures of messages by kind; losses are known at the end.",
            Values::Counter(by("kind", kinds)),
        ),
        gauge("lateness_max_seconds", "Maximum lateness of the generator behind its schedule.", lateness),
        gauge(
            "messages_outstanding",
            "Messages of the measured time that are due or sent, but neither answered nor given up.",
            outstanding.len() as f64,
        ),
        gauge(
            "outstanding_age_max_seconds",
            "Age of the oldest outstanding message.",
            seconds(outstanding.max()),
        ),
        family(
            "response_quantile_seconds",
            "Quantiles of the response time so far; outstanding messages count with their age.",
            Values::Gauge(by("quantile", quantiles)),
        ),
        family(
            "response_seconds",
            "Time from the intended send to the arrival, for finished messages of the measured time.",
            Values::Histogram(Distribution::of(settled)),
        ),
    ]
}

fn family(name: &'static str, help: &'static str, values: Values) -> Family {
    Family { name, help, values }
}

fn gauge(name: &'static str, help: &'static str, value: f64) -> Family {
    family(name, help, Values::Gauge(vec![Series { labels: Vec::new(), value }]))
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
    family(name, help, Values::Counter(vec![Series { labels: Vec::new(), value: value as f64 }]))
}

/// A series for each value of a label.
fn by(label: &'static str, values: impl IntoIterator<Item = (String, f64)>) -> Vec<Series> {
    let series = |(word, value)| Series { labels: vec![(label, word)], value };
    values.into_iter().map(series).collect()
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
