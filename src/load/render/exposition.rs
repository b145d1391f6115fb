//! The progress of a run in Prometheus' text format (version 0.0.4).
//!
//! `docs/reference/outputs.md` documents names, units and types. Counters never decrease within a run.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::engine::progress::{RunProgress, RunStage};

/// Media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper bounds of the buckets of response times in nanoseconds: 1, 2.5 and 5 times each power of ten.
const BUCKETS_NS: [u64; 19] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
const STAGES: [(RunStage, &str); 4] = [
    (RunStage::Connecting, "connecting"),
    (RunStage::WarmingUp, "warming_up"),
    (RunStage::Measuring, "measuring"),
    (RunStage::Draining, "draining"),
];

/// The progress of run number `run` (from 1) of this process, at a current rate of `messages_per_s`.
pub fn exposition(moment: &RunProgress<'_>, run: usize, messages_per_s: f64) -> String {
    let mut text = Text { text: String::new(), target: escaped(moment.target) };
    let load = moment.load;
    let mode = load.mode.name();
    let version = env!("CARGO_PKG_VERSION");
    text.family("info", "gauge", "The current run: always 1, with labels that describe it.");
    text.labelled("info", &[("version", version), ("mode", mode), ("run", &run.to_string())], 1.0);
    text.family("stage", "gauge", "1 for the current stage of the run, 0 for all others.");
    for (stage, name) in STAGES {
        text.labelled("stage", &[("stage", name)], f64::from(u8::from(moment.stage == stage)));
    }
    text.one("stage_seconds", "gauge", "Time since the current stage began.", moment.elapsed.as_secs_f64());
    text.one("connections", "gauge", "Configured connections.", f64::from(load.connections));
    text.one("connections_open", "gauge", "Connections open now.", moment.open as f64);
    let failed = "Connections that failed or ended early.";
    text.one("connections_failed_total", "counter", failed, moment.failed as f64);
    let received = "Messages that arrived, warm-up included.";
    text.one("messages_received_total", "counter", received, moment.messages as f64);
    text.one("messages_per_second", "gauge", "Current rate of arriving messages.", messages_per_s);
    let measured = if moment.stage == RunStage::Measuring { moment.elapsed } else { Duration::ZERO };
    if let Some(rate) = load.pace.rate_at(measured) {
        let rate = moment.rate.map_or(rate / f64::from(load.rate_period_s), |changed| changed as f64);
        text.one("target_messages_per_second", "gauge", "Messages that are due.", rate);
    }
    let live = moment.live;
    let unsent = "Messages that were due and never sent.";
    text.one("messages_unsent_total", "counter", unsent, live.unsent() as f64);
    text.family("errors_total", "counter", "Failures by cause.");
    for (cause, count) in live.errors() {
        text.labelled("errors_total", &[("cause", cause)], count as f64);
    }
    let integrity = live.integrity();
    text.family(
        "integrity_total",
        "counter",
        "Integrity failures of messages by kind; losses are known at the end.",
    );
    for (kind, count) in [
        ("lost", integrity.lost),
        ("duplicated", integrity.duplicated),
        ("reordered", integrity.reordered),
        ("corrupted", integrity.corrupted),
        ("late", integrity.late),
    ] {
        text.labelled("integrity_total", &[("kind", kind)], count as f64);
    }
    let late = "Maximum lateness of the generator for its schedule.";
    text.one("lateness_max_seconds", "gauge", late, seconds(live.lateness_ns_max()));
    text.histogram(live.response().as_ref());
    text.text
}

/// The text under construction.
struct Text {
    text: String,
    /// The target, as a label of every sample.
    target: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ =
            writeln!(self.text, "# HELP echoring_bench_{name} {help}\n# TYPE echoring_bench_{name} {kind}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.labelled(name, &[], value);
    }

    fn labelled(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let own = labels.iter().map(|(label, value)| format!("{label}=\"{}\",", escaped(value)));
        let own: String = own.collect();
        let _ = writeln!(self.text, "echoring_bench_{name}{{{own}target=\"{}\"}} {value}", self.target);
    }

    /// Writes the buckets of response times. A bucket of the histogram that spans a bound is counted by its midpoint.
    fn histogram(&mut self, values: Option<&Histogram<u64>>) {
        const NAME: &str = "response_seconds";
        let help = "Time from the intended send to the arrival, within the measured time.";
        self.family(NAME, "histogram", help);
        let mut buckets = [0_u64; BUCKETS_NS.len()];
        let (mut count, mut sum_ns) = (0_u64, 0.0);
        for step in values.into_iter().flat_map(|values| values.iter_recorded()) {
            let (value, times) = (step.value_iterated_to(), step.count_at_value());
            let middle = values.map_or(value, |values| values.median_equivalent(value));
            count += times;
            sum_ns += middle as f64 * times as f64;
            if let Some(bucket) = BUCKETS_NS.iter().position(|&bound| middle <= bound) {
                buckets[bucket] += times;
            }
        }
        let mut below = 0;
        for (bound, times) in BUCKETS_NS.into_iter().zip(buckets) {
            below += times;
            self.labelled(&format!("{NAME}_bucket"), &[("le", &seconds(bound).to_string())], below as f64);
        }
        self.labelled(&format!("{NAME}_bucket"), &[("le", "+Inf")], count as f64);
        self.labelled(&format!("{NAME}_sum"), &[], sum_ns / 1e9);
        self.labelled(&format!("{NAME}_count"), &[], count as f64);
    }
}

/// Escapes backslashes, quotes and line breaks of a label value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::measure::live::{LiveResults, SnapshotTaker};
    use crate::measure::samples::MessageName;
    use crate::measure::tally::Tally;
    use crate::measure::times::Times;
    use crate::measure::window::Window;
    use crate::plan::mode::Mode;
    use crate::plan::pace::Pace;
    use crate::plan::workload::Workload;
    use crate::plan::workload::tests::workload;
    use echoring_proto::limits::{MILLISECOND, SECOND};

    fn live() -> LiveResults {
        let mut tally = Tally::new();
        tally.open(Window { from: SECOND, until: 10 * SECOND });
        let now = SECOND + 500 * MILLISECOND;
        for (micros, times) in [(900, 90), (40_000, 9), (1_500_000, 1)] {
            for _ in 0..times {
                tally.arrived(
                    now,
                    MessageName::default(),
                    Times { intended: now - micros * 1_000, sent: now },
                    16,
                );
            }
        }
        tally.connections.error("a \"bad\" cause\\");
        let mut live = LiveResults::default();
        live.take(*SnapshotTaker::default().tell(0, &mut tally, 2 * SECOND).expect("due"));
        live
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample_of_a_family_that_was_announced() {
        let (load, live) = (Workload { pace: Pace::Rate(500), ..workload(Mode::Echo) }, live());
        let moment = RunProgress {
            rate: None,
            load: &load,
            target: "ws://host/\"a\"",
            stage: RunStage::Measuring,
            elapsed: Duration::from_millis(1_500),
            open: 9,
            failed: 1,
            messages: 100,
            live: &live,
            traced: &[],
        };
        let text = exposition(&moment, 2, 66.5);
        let mut kinds = BTreeMap::new();
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            } else if !line.starts_with("# HELP ") {
                let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
                let target = r#"target="ws://host/\"a\""}"#;
                let sample = sample.strip_suffix(target).unwrap_or_else(|| panic!("no target: {line}"));
                let sample = match sample.strip_suffix(',') {
                    Some(labelled) => format!("{labelled}}}"),
                    None => sample.trim_end_matches('{').to_owned(),
                };
                let name = sample.split('{').next().expect("a name");
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end).filter(|name| kinds.contains_key(*name)));
                let kind = kinds.get(family.unwrap_or(name)).unwrap_or_else(|| panic!("{name} has no type"));
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                let value: f64 = value.parse().expect("a number");
                assert!(samples.insert(sample.to_owned(), value).is_none(), "{sample} twice");
            }
        }
        let sample = |name: &str| samples[&format!("echoring_bench_{name}")];
        assert_eq!(sample("connections_open"), 9.0);
        assert_eq!(sample("target_messages_per_second"), 500.0);
        assert_eq!(sample("messages_per_second"), 66.5);
        assert_eq!(sample("stage{stage=\"measuring\"}"), 1.0);
        assert_eq!(sample("stage{stage=\"draining\"}"), 0.0);
        assert_eq!(sample("errors_total{cause=\"a \\\"bad\\\" cause\\\\\"}"), 1.0);
        let bucket = |bound: &str| sample(&format!("response_seconds_bucket{{le=\"{bound}\"}}"));
        assert_eq!((bucket("0.0005"), bucket("0.001"), bucket("0.025")), (0.0, 90.0, 90.0));
        assert_eq!((bucket("0.05"), bucket("1"), bucket("2.5"), bucket("+Inf")), (99.0, 99.0, 100.0, 100.0));
        assert_eq!(sample("response_seconds_count"), 100.0);
        assert!((sample("response_seconds_sum") - (0.081 + 0.36 + 1.5)).abs() < 0.03);
    }

    #[test]
    fn before_anything_was_measured_the_histogram_is_empty() {
        let (load, live) = (workload(Mode::Echo), LiveResults::default());
        let moment = RunProgress {
            rate: None,
            load: &load,
            target: "embedded",
            stage: RunStage::Connecting,
            elapsed: Duration::ZERO,
            open: 0,
            failed: 0,
            messages: 0,
            live: &live,
            traced: &[],
        };
        let text = exposition(&moment, 1, 0.0);
        assert!(
            text.contains("\nechoring_bench_response_seconds_bucket{le=\"+Inf\",target=\"embedded\"} 0\n"),
            "{text}"
        );
        assert!(!text.contains("target_messages_per_second"), "a closed loop has no rate");
    }
}
