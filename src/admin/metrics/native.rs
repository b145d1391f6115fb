//! Prometheus' protobuf format (`io.prometheus.client`), the only one that carries native histograms.

use prost::Message;

use super::family::{Family, Kind, Labels, Value};
use echoring_runtime::stats::{DURATIONS_SCHEMA, Durations, zero_threshold_s};

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// A counter or a gauge.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    cumulative_count: u64,
    #[prost(double, tag = "2")]
    upper_bound: f64,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    /// Buckets between the previous span and this one; of the first span, its first bucket.
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(double, tag = "2")]
    sample_sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, tag = "5")]
    schema: i32,
    #[prost(double, tag = "6")]
    zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    /// Of each bucket to the previous one.
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

/// The messages of all metrics that have samples, each behind its length.
pub(super) fn encode(families: Vec<Family>) -> Vec<u8> {
    let with_samples = families.into_iter().filter(|family| !family.samples.is_empty());
    with_samples.flat_map(|family| message(family).encode_length_delimited_to_vec()).collect()
}

fn message(family: Family) -> MetricFamily {
    let kind = match family.kind {
        Kind::Counter => 0,
        Kind::Gauge | Kind::Info => 1,
        Kind::Histogram => 4,
    };
    let metric =
        family.samples.into_iter().map(|(labels, value)| metric(family.kind, labels, value)).collect();
    MetricFamily { name: family.name.to_owned(), help: family.help.to_owned(), kind, metric }
}

fn metric(kind: Kind, labels: Labels, value: Value) -> Metric {
    let label = labels.into_iter().map(|(name, value)| LabelPair { name: name.to_owned(), value }).collect();
    let empty = Metric { label, ..Metric::default() };
    let value = match value {
        Value::Whole(value) => value as f64,
        Value::Real(value) => value,
        Value::Histogram(durations) => return Metric { histogram: Some(histogram(&durations)), ..empty },
    };
    match kind {
        Kind::Counter => Metric { counter: Some(Number { value }), ..empty },
        Kind::Gauge | Kind::Info | Kind::Histogram => Metric { gauge: Some(Number { value }), ..empty },
    }
}

/// With native buckets, and with classic ones for servers that do not take those.
fn histogram(durations: &Durations) -> Histogram {
    let mut cumulative_count = 0;
    let bucket = durations.octaves().into_iter().map(|(upper_bound, count)| {
        cumulative_count += count;
        Bucket { cumulative_count, upper_bound }
    });
    let (positive_span, positive_delta) = spans(durations);
    Histogram {
        sample_count: durations.count(),
        sample_sum: durations.sum_ns() as f64 * 1e-9,
        bucket: bucket.collect(),
        schema: DURATIONS_SCHEMA,
        zero_threshold: zero_threshold_s(),
        zero_count: durations.zero(),
        positive_span,
        positive_delta,
    }
}

fn spans(durations: &Durations) -> (Vec<BucketSpan>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<BucketSpan>::new(), Vec::new());
    let (mut next, mut previous) = (0, 0);
    for (number, count) in durations.buckets() {
        match spans.last_mut() {
            Some(span) if number == next => span.length += 1,
            _ => spans.push(BucketSpan { offset: number - next, length: 1 }),
        }
        next = number + 1;
        deltas.push(count as i64 - previous);
        previous = count as i64;
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_become_spans_and_differences() {
        let mut durations = Durations::default();
        let second = 1_000_000_000;
        durations.record(second, 5);
        durations.record(second + second / 100, 2);
        durations.record(4 * second, 3);
        let (spans, deltas) = spans(&durations);
        let span = |offset, length| BucketSpan { offset, length };
        assert_eq!(spans, [span(0, 2), span(14, 1)]);
        assert_eq!(deltas, [5, -3, 1]);
    }
}
