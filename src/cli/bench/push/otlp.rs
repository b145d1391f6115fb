//! OpenTelemetry's metrics (OTLP 1.0 over HTTP, in Protocol Buffers).
//!
//! Names are Prometheus' names in OpenTelemetry's form: `echoring_bench_response_seconds` is `echoring.bench.response`
//! in `s`. Response times are an exponential histogram.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{HeaderName, HeaderValue};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::Moment;
use echoring_load::render::figures::{Distribution, Family, Series, Values};

/// The finest scale: 2^(1/32) from one bucket to the next, 2.2 %.
const SCALE_MAX: i32 = 5;
/// Buckets of a histogram at most, the default of OpenTelemetry's SDKs; a wider distribution has a coarser scale.
const BUCKETS_MAX: i64 = 160;

/// The request with all metrics of a moment.
pub(super) fn encode(moment: &Moment) -> Vec<u8> {
    request(moment).encode_to_vec()
}

fn request(moment: &Moment) -> ExportMetricsServiceRequest {
    let name = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    let resource = Resource {
        attributes: vec![
            attribute("service.name", name.as_deref().unwrap_or("echoring-bench")),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "echoring.bench".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let metrics = moment.figures.families.iter().map(|family| metric(family, moment)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

fn metric(family: &Family, moment: &Moment) -> Metric {
    let target = attribute("target", &moment.figures.target);
    let point = |Series { labels, value }: &Series| NumberDataPoint {
        attributes: labels
            .iter()
            .map(|(name, value)| attribute(name, value))
            .chain([target.clone()])
            .collect(),
        start_time_unix_nano: unix_ns(moment.began),
        time_unix_nano: unix_ns(moment.at),
        value: Some(Number::AsDouble(*value)),
        ..NumberDataPoint::default()
    };
    let data = match &family.values {
        Values::Gauge(series) => Data::Gauge(Gauge { data_points: series.iter().map(point).collect() }),
        Values::Counter(series) => Data::Sum(Sum {
            data_points: series.iter().map(point).collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
        Values::Histogram(times) => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![ExponentialHistogramDataPoint {
                attributes: vec![target.clone()],
                start_time_unix_nano: unix_ns(moment.began),
                time_unix_nano: unix_ns(moment.at),
                ..exponential(times)
            }],
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        }),
    };
    let name = family.name.trim_end_matches("_total");
    let (name, unit) = match name.strip_suffix("_seconds") {
        Some(name) => (name, "s"),
        None => (name, "1"),
    };
    Metric {
        name: format!("echoring.bench.{name}"),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The distribution in seconds. A bucket `index` has the values above base^index and up to base^(index + 1), where base is
/// 2^(2^-scale).
fn exponential(times: &Distribution) -> ExponentialHistogramDataPoint {
    let mut scale = SCALE_MAX;
    let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
    let positive = || times.values_ns.iter().filter(|(value, _)| *value > 0);
    for (value, count) in positive() {
        let exponent = (*value as f64 / 1e9).log2() * f64::from(1 << SCALE_MAX);
        *counts.entry(exponent.ceil() as i64 - 1).or_default() += count;
    }
    let width = |counts: &BTreeMap<i64, u64>| {
        counts
            .last_key_value()
            .zip(counts.first_key_value())
            .map_or(0, |((last, _), (first, _))| last - first + 1)
    };
    while width(&counts) > BUCKETS_MAX {
        scale -= 1;
        let mut halved = BTreeMap::new();
        for (index, count) in counts {
            *halved.entry(index >> 1).or_default() += count;
        }
        counts = halved;
    }
    let offset = counts.first_key_value().map_or(0, |(first, _)| *first);
    let mut bucket_counts = vec![0; width(&counts) as usize];
    for (index, count) in counts {
        bucket_counts[(index - offset) as usize] = count;
    }
    let seconds = |ns: &(u64, u64)| ns.0 as f64 / 1e9;
    ExponentialHistogramDataPoint {
        count: times.count,
        sum: Some(times.sum_ns / 1e9),
        scale,
        zero_count: times.values_ns.iter().filter(|(value, _)| *value == 0).map(|(_, count)| count).sum(),
        positive: Some(Buckets { offset: offset as i32, bucket_counts }),
        min: times.values_ns.first().map(seconds),
        max: times.values_ns.last().map(seconds),
        ..ExponentialHistogramDataPoint::default()
    }
}

/// The header fields of `OTEL_EXPORTER_OTLP_HEADERS`, such as `api-key=secret,tenant=7`. Others than `name=value` are
/// ignored, as OpenTelemetry specifies.
pub(super) fn headers(variable: Option<&str>) -> Vec<(HeaderName, HeaderValue)> {
    let field = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = HeaderName::try_from(name.trim()).ok()?;
        let mut value = HeaderValue::try_from(value.trim()).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    variable.unwrap_or_default().split(',').filter_map(field).collect()
}

fn attribute(name: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: name.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn unix_ns(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(point: &ExponentialHistogramDataPoint, index: usize) -> (f64, f64) {
        let base = 2_f64.powf(2_f64.powi(-point.scale));
        let offset = point.positive.as_ref().expect("buckets").offset;
        (base.powi(offset + index as i32), base.powi(offset + index as i32 + 1))
    }

    #[test]
    fn values_are_in_the_bucket_whose_bounds_they_lie_between() {
        for spread in [1.0, 1.1, 3.0, 10.0] {
            let values_ns: Vec<(u64, u64)> = (0..9)
                .map(|at| ((70_000.0 * f64::powi(spread, at)) as u64 + at as u64, 1 + at as u64))
                .collect();
            let count = values_ns.iter().map(|(_, count)| count).sum();
            let point = exponential(&Distribution { count, sum_ns: 0.0, values_ns: values_ns.clone() });
            let buckets = &point.positive.as_ref().expect("buckets").bucket_counts;
            assert!(buckets.len() as i64 <= BUCKETS_MAX, "{}", buckets.len());
            assert_eq!(buckets.iter().sum::<u64>(), count);
            for (index, count) in buckets.iter().enumerate() {
                let (above, up_to) = bounds(&point, index);
                let within = |ns: u64| ns as f64 / 1e9 > above && ns as f64 / 1e9 <= up_to;
                let expected: u64 =
                    values_ns.iter().filter(|(ns, _)| within(*ns)).map(|(_, count)| count).sum();
                assert_eq!(*count, expected, "{above} to {up_to} at scale {}", point.scale);
            }
        }
    }

    #[test]
    fn nothing_and_zero_have_no_bucket() {
        let nothing = exponential(&Distribution::default());
        assert_eq!(
            (nothing.count, nothing.min, nothing.positive.expect("none").bucket_counts.len()),
            (0, None, 0)
        );
        let zero = exponential(&Distribution { count: 3, sum_ns: 0.0, values_ns: vec![(0, 3)] });
        assert_eq!((zero.zero_count, zero.max), (3, Some(0.0)));
    }

    #[test]
    fn header_fields_come_from_the_variable() {
        let found = headers(Some("api-key=a=b , tenant= 7,nonsense,=x"));
        let shown: Vec<(&str, &[u8])> =
            found.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(shown, [("api-key", &b"a=b"[..]), ("tenant", b"7")]);
        assert!(headers(None).is_empty());
    }
}
