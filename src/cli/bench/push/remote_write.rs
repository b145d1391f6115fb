//! Prometheus' remote write, version 1.0: a message of Protocol Buffers, compressed as a block of Snappy.

use std::io;

use prost::Message;

use super::Moment;
use echoring_load::render::figures::{Family, Series, Values};

/// The label `job` of all series.
const JOB: &str = "echoring-bench";

/// `prometheus.WriteRequest`.
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

/// `prometheus.TimeSeries`.
#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    /// Sorted by name.
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

/// `prometheus.Label`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// `prometheus.Sample`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// The request with all series of a moment.
pub(super) fn encode(moment: &Moment) -> io::Result<Vec<u8>> {
    let bytes = request(moment).encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&bytes).map_err(io::Error::other)
}

fn request(moment: &Moment) -> WriteRequest {
    let since = moment.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let timestamp = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    let target = &moment.figures.target;
    let mut timeseries = Vec::new();
    let mut add = |name: String, labels: &[(&str, String)], value: f64| {
        let common = [("__name__", name), ("job", JOB.to_owned()), ("target", target.clone())];
        let all = common.into_iter().chain(labels.iter().cloned());
        // An empty value is that of a label that is not there, which the protocol does not allow to be named.
        let all = all.filter(|(_, value)| !value.is_empty());
        let mut labels: Vec<Label> =
            all.map(|(name, value)| Label { name: name.to_owned(), value }).collect();
        labels.sort_unstable();
        timeseries.push(TimeSeries { labels, samples: vec![Sample { value, timestamp }] });
    };
    for Family { name, values, .. } in &moment.figures.families {
        let name = format!("echoring_bench_{name}");
        match values {
            Values::Gauge(series) | Values::Counter(series) => {
                for Series { labels, value } in series {
                    add(name.clone(), labels, *value);
                }
            }
            Values::Histogram(times) => {
                let bucket = format!("{name}_bucket");
                for (bound, below) in times.buckets() {
                    add(bucket.clone(), &[("le", bound.to_string())], below as f64);
                }
                add(bucket, &[("le", "+Inf".to_owned())], times.count as f64);
                add(format!("{name}_sum"), &[], times.sum_ns / 1e9);
                add(format!("{name}_count"), &[], times.count as f64);
            }
        }
    }
    WriteRequest { timeseries }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use echoring_load::render::figures::{Distribution, Figures};

    #[test]
    fn a_request_has_all_series_with_sorted_labels() {
        let times = Distribution { count: 3, sum_ns: 6e6, values_ns: vec![(900_000, 2), (4_200_000, 1)] };
        let series = vec![Series { labels: vec![("cause", "refused".to_owned())], value: 4.0 }];
        let families = vec![
            Family { name: "errors_total", help: "", values: Values::Counter(series) },
            Family { name: "response_seconds", help: "", values: Values::Histogram(times) },
        ];
        let figures = Arc::new(Figures { target: "ws://a".to_owned(), families });
        let at = UNIX_EPOCH + Duration::from_millis(1_234);
        let bytes = encode(&Moment { figures, at, began: at }).expect("small");
        let bytes = snap::raw::Decoder::new().decompress_vec(&bytes).expect("Snappy");
        let request = WriteRequest::decode(bytes.as_slice()).expect("a request");
        let shown = |series: &TimeSeries| {
            assert!(series.labels.is_sorted() && series.samples.len() == 1, "{series:?}");
            assert_eq!(series.samples[0].timestamp, 1_234);
            let labels = series.labels.iter().map(|label| format!("{}={}", label.name, label.value));
            (labels.collect::<Vec<_>>().join(" "), series.samples[0].value)
        };
        let all: Vec<(String, f64)> = request.timeseries.iter().map(shown).collect();
        let first = "__name__=echoring_bench_errors_total cause=refused job=echoring-bench target=ws://a";
        assert_eq!(all[0], (first.to_owned(), 4.0));
        let bucket = |bound: &str| {
            let name = format!(
                "__name__=echoring_bench_response_seconds_bucket job=echoring-bench le={bound} target=ws://a"
            );
            all.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
        };
        assert_eq!([bucket("0.0005"), bucket("0.001"), bucket("0.005")], [Some(0.0), Some(2.0), Some(3.0)]);
        assert_eq!(bucket("+Inf"), Some(3.0));
        assert!(all.iter().any(|(name, value)| name.contains("response_seconds_sum") && *value == 0.006));
    }
}
