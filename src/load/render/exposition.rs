//! The figures of a run in Prometheus' text format (version 0.0.4).

use std::fmt::Write as _;

use super::figures::{Distribution, Family, Figures, Series, Values};

/// Media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The figures as text.
pub fn exposition(figures: &Figures) -> String {
    let mut text = Text { text: String::new(), target: escaped(&figures.target) };
    for Family { name, help, values } in &figures.families {
        match values {
            Values::Gauge(series) => text.family(name, "gauge", help, series),
            Values::Counter(series) => text.family(name, "counter", help, series),
            Values::Histogram(distribution) => {
                text.family(name, "histogram", help, &[]);
                text.histogram(name, distribution);
            }
        }
    }
    text.text
}

/// The text under construction.
struct Text {
    text: String,
    /// The target, as a label of every sample.
    target: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str, series: &[Series]) {
        let _ =
            writeln!(self.text, "# HELP echoring_bench_{name} {help}\n# TYPE echoring_bench_{name} {kind}");
        for Series { labels, value } in series {
            self.labelled(name, labels, *value);
        }
    }

    fn labelled(&mut self, name: &str, labels: &[(&str, String)], value: f64) {
        let own = labels.iter().map(|(label, value)| format!("{label}=\"{}\",", escaped(value)));
        let own: String = own.collect();
        let _ = writeln!(self.text, "echoring_bench_{name}{{{own}target=\"{}\"}} {value}", self.target);
    }

    fn histogram(&mut self, name: &str, values: &Distribution) {
        for (bound, below) in values.buckets() {
            self.labelled(&format!("{name}_bucket"), &[("le", bound.to_string())], below as f64);
        }
        self.labelled(&format!("{name}_bucket"), &[("le", "+Inf".to_owned())], values.count as f64);
        self.labelled(&format!("{name}_sum"), &[], values.sum_ns / 1e9);
        self.labelled(&format!("{name}_count"), &[], values.count as f64);
    }
}

/// Escapes backslashes, quotes and line breaks of a label value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::engine::progress::{RunProgress, RunStage};
    use crate::measure::live::{LiveResults, LiveThreads, SnapshotTaker};
    use crate::measure::samples::MessageName;
    use crate::measure::tally::Tally;
    use crate::measure::times::Times;
    use crate::measure::window::Window;
    use crate::plan::mode::Mode;
    use crate::plan::pace::Pace;
    use crate::plan::workload::Workload;
    use crate::plan::workload::tests::workload;
    use crate::render::figures;
    use echoring_proto::limits::{MILLISECOND, SECOND};

    fn live() -> LiveResults {
        let mut tally = Tally::default();
        tally.open(Window { from: 0, until: 10 * SECOND });
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
        let (mut snapshots, mut live) = (SnapshotTaker::default(), LiveThreads::default());
        snapshots.ages(&tally, 5 * SECOND).add(SECOND, 100);
        live.take(snapshots.part(0, &tally, 5 * SECOND));
        live.sum.clone()
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample_of_a_family_that_was_announced() {
        let (load, live) = (Workload { pace: Pace::Rate(500), ..workload(Mode::Echo) }, live());
        let moment = RunProgress {
            load: &load,
            target: "ws://host/\"a\"",
            stage: RunStage::Measuring,
            elapsed: Duration::from_millis(1_500),
            open: 9,
            failed: 1,
            messages: 100,
            live: &live,
            awaited: &[],
            end: None,
            traced: &[],
        };
        let text = exposition(&figures(&moment, 2, 66.5));
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
        // Half of all messages are outstanding, for four seconds.
        assert_eq!(sample("messages_outstanding"), 100.0);
        let near = |name: &str, value: f64| assert!((sample(name) / value - 1.0).abs() < 2e-3, "{name}");
        near("outstanding_age_max_seconds", 4.0);
        near("response_quantile_seconds{quantile=\"0.9\"}", 4.0);
        assert!(sample("response_quantile_seconds{quantile=\"0.5\"}") < 1.51);
    }

    #[test]
    fn before_anything_was_measured_the_histogram_is_empty() {
        let (load, live) = (workload(Mode::Echo), LiveResults::default());
        let moment = RunProgress {
            load: &load,
            target: "embedded",
            stage: RunStage::Connecting,
            elapsed: Duration::ZERO,
            open: 0,
            failed: 0,
            messages: 0,
            live: &live,
            awaited: &[],
            end: None,
            traced: &[],
        };
        let text = exposition(&figures(&moment, 1, 0.0));
        assert!(
            text.contains("\nechoring_bench_response_seconds_bucket{le=\"+Inf\",target=\"embedded\"} 0\n"),
            "{text}"
        );
        assert!(!text.contains("target_messages_per_second"), "a closed loop has no rate");
    }
}
