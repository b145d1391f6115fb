//! The three formats of the metrics, and the choice between them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::family::{Families, Family, Kind, Value};
use super::native;

/// A format that Prometheus reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' text format.
    Text,
    /// OpenMetrics' text format.
    OpenMetrics,
    /// Prometheus' protobuf format.
    Protobuf,
}

impl Format {
    /// The format that an `Accept` field prefers (RFC 9110, 12.5.1). Text, if it accepts anything or nothing of these.
    pub(super) fn negotiate(accept: &str) -> Format {
        let mut best = (Format::Text, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |name: &str| {
                let found = parameters.iter().find(|(other, _)| other.trim().eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.trim().trim_matches('"'))
            };
            let format = match &*media_type {
                "application/openmetrics-text"
                    if matches!(parameter("version"), None | Some("1.0.0" | "0.0.1")) =>
                {
                    Format::OpenMetrics
                }
                "application/vnd.google.protobuf"
                    if parameter("proto") == Some("io.prometheus.client.MetricFamily")
                        && parameter("encoding") == Some("delimited") =>
                {
                    Format::Protobuf
                }
                "text/plain" | "text/*" | "*/*" => Format::Text,
                _ => continue,
            };
            let quality = parameter("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The metrics in this format.
    ///
    /// # Errors
    /// Never, because all are well formed.
    pub(super) fn render(self, families: Families) -> Result<Vec<u8>, fmt::Error> {
        match self {
            Format::Text => text(families).map(String::into_bytes),
            Format::OpenMetrics => open_metrics(families).map(String::into_bytes),
            Format::Protobuf => Ok(native::encode(families.0)),
        }
    }
}

fn open_metrics(families: Families) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(families));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// Prometheus' older format is OpenMetrics with other headers: a counter has its suffix there, an info is a gauge, and
/// there is no end.
fn text(families: Families) -> Result<String, fmt::Error> {
    let named: Vec<(&str, &str, Kind)> =
        families.0.iter().map(|family| (family.stem(), family.name, family.kind)).collect();
    let mut named = named.into_iter().peekable();
    let mut out = String::new();
    for line in open_metrics(families)?.lines() {
        let Some(header) = line.strip_prefix("# ").filter(|header| *header != "EOF") else {
            if !line.starts_with('#') {
                out.extend([line, "\n"]);
            }
            continue;
        };
        let Some(&(stem, name, kind)) = named.peek() else { return Err(fmt::Error) };
        let is_type = header.starts_with("TYPE ");
        let header = header.replacen(&format!(" {stem} "), &format!(" {name} "), 1);
        if is_type {
            named.next();
        }
        let header = if is_type && kind == Kind::Info { header.replace(" info", " gauge") } else { header };
        out.extend(["# ", &*header, "\n"]);
    }
    Ok(out)
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.iter().try_for_each(|family| encode(family, &mut encoder))
    }
}

fn encode(family: &Family, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
        Kind::Info => MetricType::Info,
    };
    let mut metric = encoder.encode_descriptor(family.stem(), family.help, None, kind)?;
    for (labels, value) in &family.samples {
        if family.kind == Kind::Info {
            metric.encode_info(labels)?;
        } else if labels.is_empty() {
            encode_sample(family.kind, value, &mut metric)?;
        } else {
            encode_sample(family.kind, value, &mut metric.encode_family(labels)?)?;
        }
    }
    Ok(())
}

fn encode_sample(kind: Kind, value: &Value, metric: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match (kind, value) {
        (Kind::Counter, Value::Whole(value)) => metric.encode_counter::<NoLabelSet, _, u64>(value, None),
        (Kind::Counter, Value::Real(value)) => metric.encode_counter::<NoLabelSet, _, u64>(value, None),
        (_, Value::Whole(value)) => metric.encode_gauge(value),
        (_, Value::Real(value)) => metric.encode_gauge(value),
        (_, Value::Histogram(durations)) => {
            let sum_s = durations.sum_ns() as f64 * 1e-9;
            metric.encode_histogram::<NoLabelSet>(sum_s, durations.count(), &durations.octaves(), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_runtime::stats::Durations;

    fn families() -> Families {
        let mut families = Families::default();
        families.counters("a_b_total").by("c", [("d\"e\\", 7u64)]).help("Counts b.");
        families.gauge("a_gauge_bytes", 2.5).help("A gauge of a_gauge_bytes.");
        families.info("a_build_info", vec![("version", "1".to_owned())]).help("Tells.");
        families.counters("a_none_total").help("Never.");
        families
    }

    #[test]
    fn counters_and_infos_differ_between_the_text_formats() {
        let sample = "a_b_total{c=\"d\\\"e\\\\\"} 7\n";
        let open = open_metrics(families()).expect("well formed");
        assert!(open.starts_with(&format!("# HELP a_b Counts b.\n# TYPE a_b counter\n{sample}# HELP")));
        assert!(open.contains("# TYPE a_build info\na_build_info{version=\"1\"} 1\n"));
        assert!(open.ends_with("# TYPE a_none counter\n# EOF\n"));
        let plain = text(families()).expect("well formed");
        assert!(
            plain.starts_with(&format!("# HELP a_b_total Counts b.\n# TYPE a_b_total counter\n{sample}"))
        );
        assert!(
            plain.contains("# HELP a_gauge_bytes A gauge of a_gauge_bytes.\n# TYPE a_gauge_bytes gauge\n")
        );
        assert!(plain.contains("# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n"));
        assert!(plain.ends_with("# TYPE a_none_total counter\n"));
    }

    #[test]
    fn histograms_have_cumulative_buckets() {
        let mut durations = Durations::default();
        durations.record(1_000_000_000, 2);
        durations.record(3_000_000_000, 1);
        let mut families = Families::default();
        families.histogram("a_seconds", durations).help("Takes.");
        let plain = text(families).expect("well formed");
        for line in
            ["a_seconds_sum 5.0", "a_seconds_count 3", "le=\"1.0\"} 2", "le=\"2.0\"} 2", "le=\"+Inf\"} 3"]
        {
            assert!(plain.contains(line), "no {line} in {plain}");
        }
    }

    #[test]
    fn the_preferred_format_is_taken() {
        let native =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html, */*;q=0.1", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;version=2.0.0, text/plain;q=0.5", Format::Text),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;q=0.4, text/plain", Format::Text),
            (&*format!("{native},application/openmetrics-text;version=1.0.0;q=0.8"), Format::Protobuf),
            ("application/vnd.google.protobuf;proto=other;encoding=delimited", Format::Text),
            ("application/openmetrics-text;q=nonsense", Format::Text),
            ("application/json", Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept}");
        }
    }
}
