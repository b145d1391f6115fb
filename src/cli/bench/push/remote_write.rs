//! Prometheus' remote write, version 1.0: a message of Protocol Buffers, compressed as a block of Snappy.

use std::collections::BTreeSet;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// The value that ends a series (Prometheus' remote write 1.0, "Stale Markers").
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// The series that the receiver has, and the data for it.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Labels of the series that were sent last and have not ended.
    present: BTreeSet<Vec<Label>>,
    /// When they were sent, in milliseconds since 1970.
    sent_at: i64,
}

impl Writer {
    /// The request with all series of a moment, and the ends of those that it has no longer.
    pub(super) fn encode(&self, moment: &Moment) -> io::Result<Vec<u8>> {
        compressed(self.request(moment))
    }

    /// The receiver has the series of a moment.
    pub(super) fn written(&mut self, moment: &Moment) {
        let series = request(moment).timeseries;
        self.sent_at = milliseconds(moment.at);
        self.present = series.into_iter().map(|series| series.labels).collect();
    }

    /// The request that ends all series; `None` if the receiver has none.
    pub(super) fn end(&self, at: SystemTime) -> Option<io::Result<Vec<u8>>> {
        if self.present.is_empty() {
            return None;
        }
        let timeseries = self.ends(&BTreeSet::new(), milliseconds(at)).collect();
        Some(compressed(WriteRequest { timeseries }))
    }

    fn request(&self, moment: &Moment) -> WriteRequest {
        let mut request = request(moment);
        let present = request.timeseries.iter().map(|series| series.labels.clone()).collect();
        request.timeseries.extend(self.ends(&present, milliseconds(moment.at)));
        request
    }

    /// The ends of the series that are not among `present`.
    fn ends(&self, present: &BTreeSet<Vec<Label>>, at: i64) -> impl Iterator<Item = TimeSeries> {
        // A series has one value at a time, and the end is the last.
        let timestamp = at.max(self.sent_at + 1);
        let stale = Sample { value: f64::from_bits(STALE), timestamp };
        self.present
            .difference(present)
            .map(move |labels| TimeSeries { labels: labels.clone(), samples: vec![stale] })
            .collect::<Vec<_>>()
            .into_iter()
    }
}

fn compressed(request: WriteRequest) -> io::Result<Vec<u8>> {
    snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).map_err(io::Error::other)
}

fn milliseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The series of a moment.
fn request(moment: &Moment) -> WriteRequest {
    let timestamp = milliseconds(moment.at);
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
    use std::time::Duration;

    use super::*;
    use echoring_load::render::figures::{Distribution, Figures};

    fn decoded(bytes: &[u8]) -> WriteRequest {
        let bytes = snap::raw::Decoder::new().decompress_vec(bytes).expect("Snappy");
        WriteRequest::decode(bytes.as_slice()).expect("a request")
    }

    #[test]
    fn a_series_that_is_no_longer_there_ends_once() {
        let moment = |ms, runs: &[&str]| {
            let series = |run: &&str| Series { labels: vec![("run", (*run).to_owned())], value: 1.0 };
            let values = Values::Gauge(runs.iter().map(series).collect());
            let families = vec![Family { name: "info", help: "", values }];
            let figures = Arc::new(Figures { target: String::new(), families });
            let at = UNIX_EPOCH + Duration::from_millis(ms);
            Moment { figures, at, began: at }
        };
        // The labels `run`, whether the series ends, and when.
        let shown = |request: WriteRequest| {
            let shown = |series: &TimeSeries| {
                let run = series.labels.iter().find(|label| label.name == "run").expect("its label");
                let Sample { value, timestamp } = series.samples[0];
                (run.value.clone(), value.to_bits() == STALE, timestamp)
            };
            request.timeseries.iter().map(shown).collect::<Vec<_>>()
        };
        let named = |run: &str, ends, at| (run.to_owned(), ends, at);
        let mut writer = Writer::default();
        assert!(writer.end(UNIX_EPOCH).is_none(), "nothing was sent");
        writer.written(&moment(1_000, &["1"]));
        let second = moment(2_000, &["2"]);
        let first = [named("2", false, 2_000), named("1", true, 2_000)];
        assert_eq!(shown(writer.request(&second)), first);
        assert_eq!(shown(writer.request(&second)), first, "it was not written yet");
        writer.written(&second);
        assert_eq!(shown(writer.request(&moment(3_000, &["2"]))), [named("2", false, 3_000)]);
        // The end is behind the last value, whatever the clock says.
        let end = writer.end(UNIX_EPOCH).expect("a series is there").expect("small");
        assert_eq!(shown(decoded(&end)), [named("2", true, 2_001)]);
    }

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
        let bytes = Writer::default().encode(&Moment { figures, at, began: at });
        let request = decoded(&bytes.expect("small"));
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
