//! The measurements of one generator in a run, so that the results of several can be merged without loss.

use std::io::Read as _;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Environment, GeneratorThread, WarmUp};
use crate::measure::Tally;
use crate::measure::merge::Merge as _;
use crate::measure::meter::{CpuSpan, Sample, ServerSamples};
use crate::measure::samples::Sampler;
use crate::plan::timestamps::Stamping;
use echoring_proto::limits::Nanos;

/// Maximum bytes of a serialised result: histograms of a day of many stages and requests are far below.
const BYTES_MAX: u64 = 256 << 20;

/// The results of one generator: all counts and distributions, not only their quantiles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SegmentResult {
    pub(crate) tally: Tally,
    /// The health of each thread.
    pub(crate) threads: Vec<GeneratorThread>,
    /// CPUs that the threads are pinned to.
    pub(crate) cpus: Vec<usize>,
    /// Local addresses of the connections, if chosen.
    pub(crate) sources: Vec<IpAddr>,
    /// Whether messages were long enough to identify themselves.
    pub(crate) sequenced: bool,
    pub(crate) interrupted: bool,
    /// How the warm-up ended, if that was to be found.
    pub(crate) warm_up: Option<WarmUp>,
    pub(crate) environment: Environment,
    /// Whose times were used.
    pub(crate) stamping: Stamping,
    pub(crate) server_rss_bytes: Option<u64>,
    /// Time that the hypervisor took from the generator's CPUs in the measured time.
    pub(crate) stolen_ns: Option<u64>,
    pub(crate) server_samples: ServerSamples,
    /// Single messages, if some were picked.
    pub(crate) samples: Option<Sampler>,
}

/// Why a text is not a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the results of a segment of this version: {0}")]
pub struct Unreadable(String);

/// A [`SegmentResult`] as text: JSON, deflated, in Base64. Compiled in the crate that calls it, like [`from_text`],
/// because code that reads and writes such large types needs little optimisation.
pub fn to_text(value: &impl Serialize) -> String {
    let mut deflater = ZlibEncoder::new(Vec::new(), Compression::default());
    serde_json::to_writer(&mut deflater, value).expect("a vector takes all, and all keys are names");
    STANDARD.encode(deflater.finish().expect("a vector takes all"))
}

/// Reads what [`to_text`] wrote.
///
/// # Errors
/// If the text is no value of this version, or more than 256 MiB inflated.
pub fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, Unreadable> {
    let deflated = STANDARD.decode(text).map_err(|error| Unreadable(error.to_string()))?;
    let mut inflated = String::new();
    ZlibDecoder::new(deflated.as_slice())
        .take(BYTES_MAX)
        .read_to_string(&mut inflated)
        .map_err(|error| Unreadable(error.to_string()))?;
    serde_json::from_str(&inflated).map_err(|error| Unreadable(error.to_string()))
}

impl SegmentResult {
    /// Where it was measured.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Messages that arrived in the measured time.
    pub fn messages(&self) -> u64 {
        self.tally.counts.messages
    }

    /// Connections that opened.
    pub fn opened(&self) -> u64 {
        self.tally.connections.opened
    }

    /// Counts a failure that belongs to no connection.
    pub fn fail(&mut self, cause: &str) {
        self.tally.connections.error(cause);
    }

    /// The server's CPU time and memory, measured beside the generators.
    pub fn measured_server(&mut self, samples: ServerSamples) {
        let window = self.tally.window;
        if let [first, .., last] = samples.cpu_ns[..] {
            self.tally.cpu_span.first = Some(Sample { at: window.from, cpu_ns: first, messages: 0 });
            let messages = self.tally.counts.messages;
            self.tally.cpu_span.last = Some(Sample { at: window.until, cpu_ns: last, messages });
        }
        self.server_rss_bytes = samples.rss_bytes.last().copied().or(self.server_rss_bytes);
        self.server_samples = samples;
    }

    /// The results of all generators of a run; `None` if there are none.
    pub fn merged(results: impl IntoIterator<Item = SegmentResult>) -> Option<SegmentResult> {
        results.into_iter().reduce(|mut sum, other| {
            sum.merge(other);
            sum
        })
    }

    /// Adds the results of another generator of the same run.
    pub fn merge(&mut self, mut other: SegmentResult) {
        // The measured time is the same; their clocks need not be.
        other.align(self.tally.window.from);
        self.tally.merge(&other.tally);
        self.threads.extend(other.threads);
        for cpu in other.cpus {
            if !self.cpus.contains(&cpu) {
                self.cpus.push(cpu);
            }
        }
        for source in other.sources {
            if !self.sources.contains(&source) {
                self.sources.push(source);
            }
        }
        self.sequenced &= other.sequenced;
        self.interrupted |= other.interrupted;
        self.environment.optimized &= other.environment.optimized;
        self.server_rss_bytes = self.server_rss_bytes.or(other.server_rss_bytes);
        if self.server_samples.at_s.is_empty() {
            self.server_samples = other.server_samples;
        }
        if let CpuSpan { first: Some(first), last: Some(last) } = &mut self.tally.cpu_span {
            // The server had the messages of all generators.
            (first.messages, last.messages) = (0, self.tally.counts.messages);
        }
        self.stolen_ns = self.stolen_ns.zip(other.stolen_ns).map(|(mine, theirs)| mine + theirs);
        self.samples.merge(&other.samples);
    }

    /// Moves all times so that the measured time begins at `from`.
    fn align(&mut self, from: Nanos) {
        let by = from.wrapping_sub(self.tally.window.from) as i64;
        if from == 0 || self.tally.window.from == 0 {
            return;
        }
        self.tally.shift(by);
        if let Some(samples) = &mut self.samples {
            samples.shift(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Outcome;
    use crate::measure::samples::{MessageName, Picker};
    use crate::measure::timeline::Timeline;
    use crate::measure::times::Times;
    use crate::measure::window::Window;
    use crate::plan::mode::Mode;
    use crate::plan::workload::tests::workload;
    use crate::record::{Record, time_series};
    use echoring_proto::limits::{MILLISECOND, SECOND};

    const AHEAD: u64 = 77 * SECOND;
    const NAME: MessageName = MessageName { connection: 0, publisher: None, sequence: None };

    /// The measurements of a generator whose clock is `ahead`: of 2,000 messages each `of`-th, from number `first` on.
    fn result(ahead: Nanos, first: u64, of: usize) -> SegmentResult {
        let picker = Picker { generator: first as u16, thread: first as usize, threads: of };
        let mut tally = Tally::for_load(None, 0, Sampler::new(1.0, 7, 10_000, picker));
        let from = ahead + 10 * SECOND;
        tally.open(Window { from, until: from + 2 * SECOND });
        for message in (first..2_000).step_by(of) {
            let intended = from + message * MILLISECOND;
            let now = intended + 20_000 + message * message % 1_000_003;
            let times = Times { intended, sent: intended + message % 70 };
            tally.arrived(now, NAME, times, 16);
            tally.late(intended + message % 70, intended);
        }
        tally.connections.opened = 3;
        tally.connections.error("refused");
        tally.connections.closes.insert(1001, 2);
        if first == 0 {
            tally.record_lost(from + 5 * SECOND, NAME, Times { intended: from, sent: from }, 1);
        }
        tally.cut(from + 2 * SECOND);
        tally.complete();
        let samples = Some(std::mem::take(&mut tally.samples));
        SegmentResult {
            tally,
            threads: Vec::new(),
            cpus: vec![1],
            sources: Vec::new(),
            sequenced: true,
            interrupted: false,
            warm_up: None,
            stamping: Stamping::default(),
            environment: Environment {
                commit: None,
                version: "1".to_owned(),
                cpu: "a CPU".to_owned(),
                cpus: 2,
                kernel: "6".to_owned(),
                driver: "uring".to_owned(),
                features: Vec::new(),
                degraded: Vec::new(),
                optimized: true,
            },
            server_rss_bytes: None,
            stolen_ns: Some(1),
            server_samples: ServerSamples::default(),
            samples,
        }
    }

    fn record(mut result: SegmentResult) -> Record {
        let timeline = Timeline::take(&mut result.tally);
        let record = Record::of(&workload(Mode::Echo), "ws://h", &result);
        Record { intervals: time_series::intervals(&timeline), ..record }
    }

    #[test]
    fn merged_segments_of_different_clocks_are_the_whole() {
        let whole = record(result(0, 0, 1));
        let mut sum = from_text::<SegmentResult>(&to_text(&result(0, 0, 2))).expect("it was written");
        sum.merge(from_text::<SegmentResult>(&to_text(&result(AHEAD, 1, 2))).expect("it was written"));
        let merged = record(sum);
        assert_eq!(merged.messages, whole.messages);
        assert_eq!(merged.response_ns.count, 2_001, "one is lost");
        assert_eq!(merged.response_ns, whole.response_ns);
        assert_eq!(merged.response_histogram, whole.response_histogram);
        assert_eq!(merged.generator.lateness_ns, whole.generator.lateness_ns);
        assert_eq!(merged.intervals, whole.intervals);
        let arrived = |record: &Record| record.timeline.as_ref().map(|series| series.arrived.clone());
        assert_eq!(arrived(&merged), arrived(&whole));
        assert_eq!(
            (merged.connections.opened, merged.errors["refused"], merged.closes["1001"]),
            (6, 2, 4),
            "those of both"
        );
        assert_eq!(merged.generator.stolen_ns, Some(2));
    }

    #[test]
    fn samples_of_all_generators_are_in_one_clock() {
        let load = workload(Mode::Echo);
        let whole = Outcome::of(&load, "ws://h", result(0, 0, 1));
        let mut sum = from_text::<SegmentResult>(&to_text(&result(0, 0, 2))).expect("it was written");
        sum.merge(from_text::<SegmentResult>(&to_text(&result(AHEAD, 1, 2))).expect("it was written"));
        let merged = Outcome::of(&load, "ws://h", sum);
        assert_eq!(merged.record.samples, whole.record.samples);
        let (whole, merged) = (whole.samples.expect("picked"), merged.samples.expect("picked"));
        assert_eq!((merged.rows().len(), merged.left_out()), (2_001, 0));
        assert!(merged.rows().eq(whole.rows()));
    }

    #[test]
    fn a_server_that_was_measured_beside_the_generators_is_in_the_record() {
        let mut sum = result(0, 0, 1);
        let samples = ServerSamples {
            at_s: vec![0.0, 0.1, 0.2],
            cpu_ns: vec![0, 7_000, 2_000_000],
            rss_bytes: vec![5, 9, 8],
        };
        sum.measured_server(samples.clone());
        let messages = sum.messages();
        let found = record(sum);
        let server = found.server.expect("measured");
        let per_message = 2_000_000.0 / messages as f64;
        assert_eq!((server.cpu_ns_per_message, server.rss_bytes), (Some(per_message), Some(8)));
        assert_eq!(found.timeline.and_then(|timeline| timeline.server), Some(samples.clone()));
        // One share of several has its process.
        let mut shares = [result(0, 0, 2), result(AHEAD, 1, 2)];
        shares[1].measured_server(samples.clone());
        let merged = record(SegmentResult::merged(shares).expect("two"));
        assert_eq!(merged.server.and_then(|server| server.cpu_ns_per_message), Some(per_message));
        assert_eq!(merged.timeline.and_then(|timeline| timeline.server), Some(samples));
        let mut ended_before = result(0, 0, 1);
        ended_before.measured_server(ServerSamples::default());
        assert_eq!(record(ended_before).server, None);
    }

    #[test]
    fn a_text_that_is_no_result_is_refused() {
        let text = to_text(&result(0, 0, 1));
        assert!(from_text::<SegmentResult>(&text).is_ok());
        for wrong in ["", "AAAA", "%", &text[..text.len() / 2]] {
            assert!(from_text::<SegmentResult>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_histogram_of_other_bounds_is_refused() {
        let mut value = serde_json::to_value(result(0, 0, 1)).expect("written");
        let mut wide = hdrhistogram::Histogram::<u64>::new(5).expect("valid");
        wide.record(u64::MAX / 4).expect("it grows");
        value["tally"]["latency"]["whole"]["response"] = crate::measure::encode(&wide).into();
        assert!(serde_json::from_value::<SegmentResult>(value).is_err());
    }
}
