//! The record of a run as others read it: JSON of the schema `echoring.run/1`, described in
//! `docs/run-record.md`. Fields are only ever added.

use std::collections::BTreeMap;

use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

use super::allow::Flaw;
use super::compare::Comparison;
use super::search;
use super::track::Integrity;

/// Name and version of the schema.
pub const SCHEMA: &str = "echoring.run/1";

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct File {
    /// [`SCHEMA`].
    pub schema: String,
    /// In the order in which they ran.
    pub runs: Vec<Record>,
    /// Runs of two targets compared, or the spread of repeated runs, load by load; left out where nothing was repeated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparison: Vec<Comparison>,
}

impl File {
    /// A file of these runs.
    pub fn new(runs: Vec<Record>) -> File {
        File { schema: SCHEMA.to_owned(), runs, comparison: Vec::new() }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What the run was called, if it was.
    #[serde(default)]
    pub label: Option<String>,
    /// URL, or `embedded`.
    pub target: String,
    /// What was asked for, defaults included.
    pub config: Config,
    /// Where it ran.
    pub environment: Environment,
    /// Start of the measured time, RFC 3339, UTC.
    pub started_at: String,
    /// Length of the measured time.
    pub duration_s: f64,
    /// Whether a signal ended the run early.
    pub interrupted: bool,
    /// Messages that arrived in the measured time; in broadcast mode each delivery is one.
    pub messages: u64,
    /// The same per second.
    pub messages_per_s: f64,
    /// Payload bytes of those per second.
    pub bytes_per_s: f64,
    /// From the intended send time to the arrival; `null` where nothing was timed.
    #[serde(with = "null_for_none")]
    pub response_ns: Quantiles,
    /// From the actual send to the arrival; `null` where nothing was timed.
    #[serde(with = "null_for_none")]
    pub service_ns: Quantiles,
    /// The whole distribution behind `response_ns`, as [`decode`](super::distribution::decode) reads it. Records from
    /// before it was added have none.
    #[serde(default)]
    pub response_histogram: Option<String>,
    /// The same behind `service_ns`.
    #[serde(default)]
    pub service_histogram: Option<String>,
    /// Answers over the whole run that did not tell which message they answer, so that they have no latency; only where
    /// nothing was checked. Records from before it was counted have none.
    #[serde(default)]
    pub unmatched: u64,
    /// Only in broadcast mode.
    pub broadcast: Option<Broadcast>,
    /// Only in push mode. Records from before it was added have none.
    #[serde(default)]
    pub push: Option<Push>,
    /// The subscribers that were slow on purpose; only where some were to.
    pub stalled: Option<Stalled>,
    /// What compression did; only where it was offered.
    pub compression: Option<Compression>,
    /// The TLS handshakes; only where the server speaks TLS.
    pub tls: Option<Tls>,
    /// How long connections took to open; `null` when none did. Records from before it was added have none.
    #[serde(default)]
    pub handshake: Option<Handshake>,
    /// What is wrong with the messages, over the whole run with warm-up and drain.
    pub integrity: Integrity,
    /// How the connections fared.
    pub connections: Connections,
    /// Failures by cause.
    pub errors: BTreeMap<String, u64>,
    /// Ends of connections by close code.
    pub closes: BTreeMap<String, u64>,
    /// What the generator says of itself.
    pub generator: Generator,
    /// What is known of the server's process.
    pub server: Option<Server>,
    /// What was due in each stage of the rate; none where the rate did not change.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// The measured time in stretches.
    pub intervals: Vec<Interval>,
    /// The search of which this is the best run.
    #[serde(default)]
    pub search: Option<search::Found>,
    /// Which of repeated runs this is.
    #[serde(default)]
    pub repetition: Option<Repetition>,
    /// What was not to be, and whether it was.
    #[serde(default)]
    pub fail_if: Vec<FailIf>,
}

/// Which of repeated runs one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repetition {
    /// From 1; the runs of two targets that have the same number were made next to each other.
    pub number: u32,
    /// How many there were to be.
    pub of: u32,
    /// `a`, or `b` for the second of two targets.
    pub side: String,
}

/// A condition under which a run fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailIf {
    /// As it was typed.
    pub expression: String,
    /// Whether the run failed by it: it held, or could not be judged.
    pub failed: bool,
    /// What the run has of each metric that it names, in the units of the record; `null` for what is not known.
    pub seen: BTreeMap<String, Option<f64>>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `echo`, `broadcast`, `connect` or `push`.
    pub mode: String,
    /// Publishers included.
    pub connections: u32,
    /// Seconds.
    pub duration_s: f64,
    /// Seconds.
    pub warmup_s: f64,
    /// Smallest and largest payload.
    pub message_bytes: [u64; 2],
    /// How sizes between the two are spread: `even` or `zipf`. `None` where the lines of a file have their own.
    #[serde(default)]
    pub sizes: Option<String>,
    /// `text`, `binary` or `json`.
    pub kind: String,
    /// What text is made of: `ascii`, `mixed` or `emoji`. `None` for other kinds, and for the lines of a file.
    #[serde(default)]
    pub text: Option<String>,
    /// The file whose lines were sent.
    #[serde(default)]
    pub payload_file: Option<String>,
    /// How many lines it had.
    #[serde(default)]
    pub payload_lines: Option<u64>,
    /// Messages each sender keeps under way; closed loop only.
    pub depth: Option<u32>,
    /// Messages a second over all senders, a whole number where it is one; open loop only.
    pub rate: Option<serde_json::Number>,
    /// `even` or `poisson`; open loop only.
    pub arrivals: Option<String>,
    /// The stages of a rate that changes; none where it does not.
    #[serde(default)]
    pub stages: Vec<RateStage>,
    /// The part of the warm-up in which the rate rises from nothing, in seconds.
    #[serde(default)]
    pub ramp_s: f64,
    /// Messages that a sender sends at one instant.
    #[serde(default = "one")]
    pub burst: u32,
    /// From when a message counts as late, in seconds.
    #[serde(default)]
    pub late_after_s: Option<f64>,
    /// Whether a generator that was late for its own schedule is no failure.
    #[serde(default)]
    pub allow_saturated: bool,
    /// How late a generator may come at p99 without being saturated, in seconds.
    #[serde(default = "one_millisecond")]
    pub max_lateness_s: f64,
    /// Broadcast mode only.
    pub publishers: Option<u32>,
    /// Broadcast mode only.
    pub topics: Option<u32>,
    /// Subscribers that were to be slow; broadcast mode only.
    pub stalled: Option<u32>,
    /// Bytes a second that those were to read; `None` where that was nothing.
    #[serde(default)]
    pub trickle_bytes_per_s: Option<u64>,
    /// Threads of the generator.
    pub threads: usize,
    /// CPUs that they are pinned to, if any.
    pub cpus: Vec<usize>,
    /// Local addresses of the connections, if chosen.
    pub source_addresses: Vec<String>,
    /// What was offered of compression, as it was typed; `off` for nothing.
    pub compress: String,
    /// Whether received messages were checked.
    pub verify: bool,
    /// Whether messages were long enough to name themselves.
    pub sequenced: bool,
    /// What could go wrong without the run having failed.
    #[serde(default)]
    pub allow: Vec<Flaw>,
    /// How connections were opened. Records from before it was added have none.
    #[serde(default)]
    pub dialling: Option<Dialling>,
    /// What each connection said when it was open; push mode only.
    #[serde(default)]
    pub hello: Option<String>,
    /// The member of messages that told when they were made; push mode only.
    #[serde(default)]
    pub time_field: Option<String>,
    /// What that counted since 1970: `ns`, `us`, `ms` or `s`.
    #[serde(default)]
    pub time_unit: Option<String>,
    /// How long messages under way at the end are awaited before they count as lost.
    pub drain_s: f64,
    /// What all payloads follow from.
    pub seed: u64,
}

/// How connections were opened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dialling {
    /// Connections a second; `null` for as fast as few at a time go, and in connect mode, where `rate` or `depth` says it.
    pub rate: Option<u64>,
    /// What a handshake may take, in seconds.
    pub timeout_s: f64,
    /// Whether TLS went on with the sessions of earlier connections, where the server let it.
    pub resumption: bool,
    /// How long each stayed once it had what it was opened for, in seconds; connect mode only.
    pub hold_s: Option<f64>,
    /// Whether each sent a message and awaited its echo; connect mode only.
    pub first_message: Option<bool>,
}

/// What records from before trains could be asked for have.
fn one() -> u32 {
    1
}

/// The bound of records from before it could be asked for, in seconds.
fn one_millisecond() -> f64 {
    0.001
}

/// A part of the measured time in which the rate is constant or goes evenly from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateStage {
    /// How long it lasts.
    pub seconds: f64,
    /// Messages a second when it begins.
    pub from: u64,
    /// Messages a second when it ends.
    pub to: u64,
}

/// What came of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// What was asked for.
    #[serde(flatten)]
    pub asked: RateStage,
    /// Messages that arrived within it; in broadcast mode each delivery is one.
    pub messages: u64,
    /// The same per second.
    pub messages_per_s: f64,
    /// Response times of the messages that were due in it.
    pub response_ns: Quantiles,
    /// Their service times.
    pub service_ns: Quantiles,
    /// How late the generator came to them: 99 %.
    pub lateness_ns_p99: u64,
}

/// Where a run took place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Of the source that this program was built from, where the build was told.
    pub commit: Option<String>,
    /// Of this program.
    pub version: String,
    /// Model name of the processor.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Kernel release.
    pub kernel: String,
    /// The generator's driver.
    pub driver: String,
    /// Kernel features that it uses.
    pub features: Vec<String>,
    /// Kernel features that it could not use.
    pub degraded: Vec<String>,
    /// Whether this program was built with optimisations.
    pub optimized: bool,
}

/// A distribution of which nothing is known is `null`.
mod null_for_none {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Quantiles;

    pub fn serialize<S: Serializer>(quantiles: &Quantiles, serializer: S) -> Result<S::Ok, S::Error> {
        Some(quantiles).filter(|quantiles| quantiles.count > 0).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Quantiles, D::Error> {
        Option::<Quantiles>::deserialize(deserializer).map(Option::unwrap_or_default)
    }
}

/// A distribution in nanoseconds, exact to three digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Smallest. This and all that is optional is `None` where nothing is recorded, and in records from before it was told.
    #[serde(default)]
    pub min: Option<u64>,
    /// 75 %.
    #[serde(default)]
    pub p75: Option<u64>,
    /// 95 %.
    #[serde(default)]
    pub p95: Option<u64>,
    /// 99.5 %.
    #[serde(default)]
    pub p995: Option<u64>,
    /// Standard deviation.
    #[serde(default)]
    pub stddev: Option<f64>,
    /// Median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// 99.99 %.
    pub p9999: u64,
    /// Largest.
    pub max: u64,
    /// Mean.
    pub mean: f64,
    /// Values recorded. All else is 0 when this is.
    pub count: u64,
}

impl Quantiles {
    /// Read from a histogram of nanoseconds.
    pub fn of<T: Counter>(histogram: &Histogram<T>) -> Quantiles {
        if histogram.is_empty() {
            return Quantiles::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
        Quantiles {
            min: Some(histogram.min()),
            p75: Some(at(0.75)),
            p95: Some(at(0.95)),
            p995: Some(at(0.995)),
            stddev: Some(histogram.stdev()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
            mean: histogram.mean(),
            count: histogram.len(),
        }
    }

    /// How much of each of these response times is the generator's own, at most: what it is above the same of the service time,
    /// without what messages waited for room in their connection. So no percentile has more of it than the generator was late
    /// for any message, nor has the mean more than it was late on average.
    pub fn own(&self, service: &Quantiles, lateness: &Quantiles) -> Quantiles {
        let beyond = |one: u64, other: u64| one.saturating_sub(other).min(lateness.max);
        let known = |one: Option<u64>, other: Option<u64>| Some(beyond(one?, other?));
        Quantiles {
            min: known(self.min, service.min),
            p75: known(self.p75, service.p75),
            p95: known(self.p95, service.p95),
            p995: known(self.p995, service.p995),
            // Of a difference of percentiles there is none.
            stddev: None,
            p50: beyond(self.p50, service.p50),
            p90: beyond(self.p90, service.p90),
            p99: beyond(self.p99, service.p99),
            p999: beyond(self.p999, service.p999),
            p9999: beyond(self.p9999, service.p9999),
            max: beyond(self.max, service.max),
            mean: (self.mean - service.mean).clamp(0.0, lateness.mean.max(0.0)),
            count: self.count,
        }
    }
}

/// Fan-out of the messages that were due in the measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broadcast {
    /// Latency of the first subscriber that a message reached.
    pub first_ns: Quantiles,
    /// Of the median subscriber.
    pub median_ns: Quantiles,
    /// Of the last one, of messages that reached every subscriber of their topic.
    pub last_ns: Quantiles,
    /// Deliveries made of deliveries due over the whole run: 1 is all.
    pub reach: f64,
    /// Times that a subscriber saw a later message before one that precedes it.
    pub gaps: u64,
    /// Messages published over the whole run.
    pub published: u64,
}

/// What the server sent by itself within the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Push {
    /// From one message of a connection to its next.
    pub gap_ns: Quantiles,
    /// Messages that were to tell when they were made and did not.
    pub untimed: u64,
    /// Messages that were made later than they came, by the two clocks. Their response time counts as 0.
    pub ahead: u64,
}

/// The subscribers that read slowly or not at all from the start of the measured time, and what became of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    /// Those that had opened.
    pub count: u64,
    /// Their ends by close code: `4008` where the server closed for that, `1006` where it ended the connection and no
    /// Close frame could be read any more, `1000` where it had let them be until the end.
    pub closed_by_code: BTreeMap<String, u64>,
    /// Messages that came to them in the measured time: those under way when they stopped, and what trickled.
    #[serde(default)]
    pub messages: u64,
    /// Payload bytes of those messages.
    #[serde(default)]
    pub bytes: u64,
}

/// What compression did over the whole run, with warm-up and drain. Only messages that were compressed are in it:
/// those below the threshold, and those that would not shrink, travel plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compression {
    /// Opened connections whose server agreed.
    pub agreed: u64,
    /// Messages that arrived compressed.
    pub messages_in: u64,
    /// Their payloads as they came, in bytes.
    pub bytes_in: u64,
    /// Their payloads inflated, in bytes.
    pub bytes_in_plain: u64,
    /// Messages that left compressed.
    pub messages_out: u64,
    /// Their payloads as they left, in bytes.
    pub bytes_out: u64,
    /// Their payloads before, in bytes.
    pub bytes_out_plain: u64,
}

/// The TLS handshakes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Those that came to their end.
    pub handshakes: u64,
    /// Of those, handshakes that resumed a session of an earlier connection.
    pub resumed: u64,
}

/// How long connections took to open. In connect mode those are counted that were due in the measured time; in others
/// all, which are open before it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handshake {
    /// Those that came to their end. Others are among the `errors`.
    pub count: u64,
    /// The same per second, from the first dialling to the last end; `null` when all came in one turn.
    pub per_s: Option<f64>,
    /// From dialling to TCP.
    pub connect_ns: Quantiles,
    /// From TCP to TLS; `null` without TLS.
    pub tls_ns: Option<Quantiles>,
    /// From there to the 101.
    pub upgrade_ns: Quantiles,
    /// From the 101 to the first message; `null` where the mode has none.
    pub first_message_ns: Option<Quantiles>,
    /// From dialling to the 101.
    pub total_ns: Quantiles,
    /// From dialling to the failure of those that did not open; `null` when all did, and in records from before it was told.
    #[serde(default)]
    pub failed_ns: Option<Quantiles>,
    /// Of those, TLS handshakes that went on with an earlier connection's session.
    pub resumed: u64,
    /// Connections that were due while as many as may be were there, and had to wait; connect mode only.
    pub waited: u64,
}

/// How the connections of a run fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Handshakes that succeeded.
    pub opened: u64,
    /// Of those, connections that ended before the run did.
    pub ended_early: u64,
    /// Connections that were begun, or could not even be. Records from before it was added have none.
    #[serde(default)]
    pub dialled: Option<u64>,
}

/// What the generator says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// It came so late to its own schedule that the latencies are in doubt.
    pub saturated: bool,
    /// How late it came to messages; empty in a closed loop.
    pub lateness_ns: Quantiles,
    /// How much of each percentile of the response time is its own lateness, at most: what that is above the same percentile of
    /// the service time, and no more than it came late to any message. `None` in a closed loop, and in records from before it was told.
    #[serde(default)]
    pub own_ns: Option<Quantiles>,
    /// CPU time of its threads of their time by the clock: 1 is all.
    pub cpu_share: f64,
    /// Messages that were due and never sent, since their connection was full or gone.
    pub unsent: u64,
    /// Of those, messages whose connection was gone. Records from before it was told have none.
    #[serde(default)]
    pub unsent_gone: u64,
    /// How long the turns of its loops took, from when one begins to when all that it brought is done, without the trip to the
    /// kernel. `None` in records from before it was told.
    #[serde(default)]
    pub turn_ns: Option<Quantiles>,
    /// How late its threads came to heartbeats of their own, one each 10 ms: so long they were held up, in either loop. `None`
    /// in records from before it was told.
    #[serde(default)]
    pub heartbeat_ns: Option<Quantiles>,
    /// How long its threads were ready to run and had no CPU, all together; `None` where the kernel does not tell.
    #[serde(default)]
    pub run_delay_ns: Option<u64>,
    /// Its threads one by one.
    #[serde(default)]
    pub threads: Vec<GeneratorThread>,
}

/// What one thread of the generator says of itself, within the measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorThread {
    /// The CPU that it is pinned to, if it is.
    pub cpu: Option<usize>,
    /// Its CPU time of its time by the clock: 1 is all.
    pub cpu_share: f64,
    /// How late it came to messages: 99 %; 0 in a closed loop.
    pub lateness_ns_p99: u64,
    /// The largest.
    pub lateness_ns_max: u64,
    /// How long its turns took: 99 %.
    pub turn_ns_p99: u64,
    /// The longest.
    pub turn_ns_max: u64,
    /// How late its heartbeats were: 99 %. This and what follows is `None` in records from before it was told.
    #[serde(default)]
    pub heartbeat_ns_p99: Option<u64>,
    /// The latest.
    #[serde(default)]
    pub heartbeat_ns_max: Option<u64>,
    /// How long it was ready to run and had no CPU.
    #[serde(default)]
    pub run_delay_ns: Option<u64>,
}

/// What is known of the server's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its CPU time, user and system, per message that arrived, both between the same two moments.
    pub cpu_ns_per_message: Option<f64>,
    /// The same CPU time of the time by the clock: 1 is one CPU.
    pub cpu_share: Option<f64>,
    /// Its resident memory at the end of the measured time; unknown when it shares the generator's process.
    pub rss_bytes: Option<u64>,
    /// Messages that arrived between the two moments.
    pub sampled_messages: Option<u64>,
    /// From the first to the second, which are the first turns of the generator past the ends of the measured time.
    pub sampled_s: Option<f64>,
}

/// A stretch of the measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its beginning, from the start of the measured time.
    pub at_s: f64,
    /// Its length.
    pub duration_s: f64,
    /// Messages that arrived in it.
    pub messages: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Response time of those: median.
    pub p50_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// Largest.
    pub max_ns: u64,
    /// Response time: 90 %. This and what follows is `None` in records from before it was told.
    #[serde(default)]
    pub p90_ns: Option<u64>,
    /// 99.9 %.
    #[serde(default)]
    pub p999_ns: Option<u64>,
    /// Service time of the same messages: median.
    #[serde(default)]
    pub service_p50_ns: Option<u64>,
    /// 90 %.
    #[serde(default)]
    pub service_p90_ns: Option<u64>,
    /// 99 %.
    #[serde(default)]
    pub service_p99_ns: Option<u64>,
    /// 99.9 %.
    #[serde(default)]
    pub service_p999_ns: Option<u64>,
    /// Largest.
    #[serde(default)]
    pub service_max_ns: Option<u64>,
    /// The whole distribution of the response time, as [`decode`](super::distribution::decode) reads it. Records from
    /// before it was added have none.
    #[serde(default)]
    pub response_histogram: Option<String>,
    /// The same of the service time.
    #[serde(default)]
    pub service_histogram: Option<String>,
}

#[cfg(test)]
pub(in crate::load) mod tests;
