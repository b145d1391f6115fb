//! The record of a run: JSON with the schema `echoring.run/1`, described in `docs/reference/run-record.md`. Fields are
//! only ever added.

pub mod calibration;
pub mod comparison;
pub(crate) mod describe;
pub mod failures;
pub mod replay;
pub mod search;
pub mod segment;
pub mod time_series;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::measure::integrity::Integrity;
pub use crate::measure::quantiles::Quantiles;
pub use crate::measure::tally::reconnects::{HERD_INTERVAL, HerdInterval};
use crate::plan::flaw::Flaw;
use calibration::Quotation;
use comparison::{BaselineComparison, Comparison};
use failures::NO_REPLY;
use replay::Replay;
use search::SearchResult;
use time_series::TimeSeries;

/// Name and version of the schema.
pub const SCHEMA: &str = "echoring.run/1";

/// A file of records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct File {
    /// [`SCHEMA`].
    pub schema: String,
    /// In the order in which they ran.
    pub runs: Vec<Record>,
    /// Comparisons of two targets, or the spread of repeated runs, load by load; omitted if nothing was repeated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparison: Vec<Comparison>,
    /// The runs compared with results that were kept; omitted without `--baseline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BaselineComparison>,
}

impl File {
    /// A file of these runs.
    pub fn new(runs: Vec<Record>) -> File {
        File { schema: SCHEMA.to_owned(), runs, comparison: Vec::new(), baseline: None }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The label of the run, if any.
    #[serde(default)]
    pub label: Option<String>,
    /// The target's URL, or `embedded`.
    pub target: String,
    /// The options of the run, defaults included.
    pub config: Config,
    /// Where it ran.
    pub environment: Environment,
    /// Start of the measured time, RFC 3339, UTC.
    pub started_at: String,
    /// Length of the measured time.
    pub duration_s: f64,
    /// Whether a signal or a condition ended the run early.
    pub interrupted: bool,
    /// Messages that arrived in the measured time; in broadcast mode each delivery is one.
    pub messages: u64,
    /// Messages per second.
    pub messages_per_s: f64,
    /// Payload bytes of those per second.
    pub bytes_per_s: f64,
    /// From the intended send time to the arrival; `null` if nothing was timed.
    #[serde(with = "null_for_none")]
    pub response_ns: Quantiles,
    /// From the actual send to the arrival; `null` if nothing was timed.
    #[serde(with = "null_for_none")]
    pub service_ns: Quantiles,
    /// The distribution behind `response_ns`, which [`decode`](crate::measure::decode) reads. Records from older
    /// versions have none.
    #[serde(default)]
    pub response_histogram: Option<String>,
    /// The distribution behind `service_ns`.
    #[serde(default)]
    pub service_histogram: Option<String>,
    /// How much of the response time is the generator's, the host's, and the server's. `None` if nothing was timed, and in
    /// records from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    /// Replies over the whole run that did not identify their message, so that they have no latency; only if nothing
    /// was checked. Records from older versions have none.
    #[serde(default)]
    pub unmatched: u64,
    /// What the calibration of this host says, if it has one. The command line adds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Quotation>,
    /// Only in broadcast mode.
    pub broadcast: Option<Broadcast>,
    /// The conversations of a declared protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Pings beside the load, or as the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping: Option<Ping>,
    /// Only in push mode. Records from older versions have none.
    #[serde(default)]
    pub push: Option<Push>,
    /// Changes of the rate by the user while the load ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_changes: Vec<RateChange>,
    /// Connections that ended and opened again; only if connections come and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnects: Option<Reconnects>,
    /// Only in storm mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm: Option<Storm>,
    /// Only for replays of recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// The deliberately slow subscribers, if any.
    pub stalled: Option<Stalled>,
    /// Compression statistics, if compression was offered.
    pub compression: Option<Compression>,
    /// The TLS handshakes, if the server uses TLS.
    pub tls: Option<Tls>,
    /// Times of connection handshakes; `null` if there were none. Records from older versions have none.
    #[serde(default)]
    pub handshake: Option<Handshake>,
    /// Integrity failures over the whole run with warm-up and drain.
    pub integrity: Integrity,
    /// Counts of connections.
    pub connections: Connections,
    /// Failures by cause.
    pub errors: BTreeMap<String, u64>,
    /// Ends of connections by close code.
    pub closes: BTreeMap<String, u64>,
    /// The health of the generator.
    pub generator: Generator,
    /// The server's process.
    pub server: Option<Server>,
    /// The stages of the rate; none if the rate did not change.
    #[serde(default)]
    pub stages: Vec<StageResult>,
    /// The measured time in intervals.
    pub intervals: Vec<Interval>,
    /// The generators that shared the run, if several did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<Agent>,
    /// The share of a run that this is, for `echoring merge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentPart>,
    /// The measured time in slices, which are shorter. Records from older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimeSeries>,
    /// The search whose best run this is.
    #[serde(default)]
    pub search: Option<SearchResult>,
    /// The repetition that this run is.
    #[serde(default)]
    pub repetition: Option<Repetition>,
    /// The results of the `fail_if` conditions.
    #[serde(default)]
    pub fail_if: Vec<FailIf>,
    /// The condition that ended the run before its time, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted_by: Option<String>,
    /// The sample of single messages; omitted if none was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<Sampled>,
}

impl Record {
    /// Whether a failure occurred that was not allowed. Failed connections are never allowed, nor are those that ended
    /// without a Close frame: both are among the `errors`. `no reply` is allowed if lost messages are.
    pub fn is_broken(&self) -> bool {
        let allowed = |flaw: Flaw| self.config.allow.contains(&flaw);
        let mut integrity = self.integrity;
        for flaw in &self.config.allow {
            integrity.allow(*flaw);
        }
        let closed = self.connections.ended_early > 0 && !allowed(Flaw::Closed);
        let unsent = self.generator.unsent_gone > 0 && !allowed(Flaw::Unsent);
        let failed = self.errors.keys().any(|cause| !(cause == NO_REPLY && allowed(Flaw::Lost)));
        !integrity.is_clean() || unsent || closed || failed
    }
}

/// One of the generators that shared a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Connections that it had to open.
    pub connections: u32,
    /// Those that opened.
    pub opened: u64,
    /// Messages that arrived at it in the measured time; those that it had told of, if it was lost.
    pub messages: u64,
    /// How far its clock was behind the common clock in the end, in nanoseconds; `None` if they were not compared.
    pub clock_behind_ns: Option<i64>,
    /// Half the shortest round trip of those comparisons, which bounds the error of `clock_behind_ns`.
    pub clock_uncertainty_ns: Option<u64>,
    /// Why its results are missing, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Where it ran; `None` if it was lost.
    pub environment: Option<Environment>,
}

/// A share of a run whose other shares are in other records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentPart {
    /// Number of the share, from 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
    /// All counts and distributions: JSON of the same version, deflated, in Base64.
    pub results: String,
}

/// The shares of quantiles of the response time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Of the median.
    pub p50: QuantileShares,
    /// 99 %.
    pub p99: QuantileShares,
    /// 99.9 %.
    pub p999: QuantileShares,
}

/// The shares of one quantile: the means of the messages whose response time is within a few per cent of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantileShares {
    /// The quantile, which is the sum of its shares.
    pub total_ns: u64,
    /// At most so much is the generator's: its lateness, its work, and the time that it was stopped.
    pub generator_ns: u64,
    /// At most so much is the host's: the generator was runnable and had no CPU. `None` if the kernel does not count that,
    /// so that it is among the other shares.
    pub host_ns: Option<u64>,
    /// At least so much is the server's and the network's, the kernel included.
    pub server_ns: u64,
    /// Number of messages with about that response time.
    pub messages: u64,
}

/// One of several repetitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repetition {
    /// Number from 1; the runs of two targets with the same number were made next to each other.
    pub number: u32,
    /// Total number of repetitions.
    pub of: u32,
    /// `a`, or `b` for the second of two targets.
    pub side: String,
}

/// A condition under which a run fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailIf {
    /// The expression as given.
    pub expression: String,
    /// Whether the run failed by it: the condition held, or its metrics were missing.
    pub failed: bool,
    /// The values of its metrics in the units of the record; `null` if missing.
    pub seen: BTreeMap<String, Option<f64>>,
}

/// The options of a run, defaults included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `echo`, `broadcast`, `connect`, `push`, `ping`, `storm` or `replay`.
    pub mode: String,
    /// Publishers included.
    pub connections: u32,
    /// Seconds.
    pub duration_s: f64,
    /// Seconds.
    pub warmup_s: f64,
    /// Smallest and largest payload.
    pub message_bytes: [u64; 2],
    /// Distribution of sizes in the range: `even` or `zipf`. `None` for the lines of a file, which have their own
    /// sizes.
    #[serde(default)]
    pub sizes: Option<String>,
    /// `text`, `binary` or `json`; `recorded` for replays.
    pub kind: String,
    /// The kind of text: `ascii`, `mixed` or `emoji`. `None` for other content and for the lines of a file.
    #[serde(default)]
    pub text: Option<String>,
    /// The file whose lines were sent.
    #[serde(default)]
    pub payload_file: Option<String>,
    /// Its number of lines.
    #[serde(default)]
    pub payload_lines: Option<u64>,
    /// Messages that each sender keeps in flight; closed loop only.
    pub depth: Option<u32>,
    /// Messages per second over all senders, written as an integer if it is one; open loop only.
    pub rate: Option<serde_json::Number>,
    /// `even` or `poisson`; open loop only.
    pub arrivals: Option<String>,
    /// The stages of a changing rate; none for a constant rate.
    #[serde(default)]
    pub stages: Vec<RateStage>,
    /// The part of the warm-up in which the rate rises from zero, in seconds.
    #[serde(default)]
    pub ramp_s: f64,
    /// Messages per burst.
    #[serde(default = "one")]
    pub burst: u32,
    /// Response time above which a message counts as late, in seconds.
    #[serde(default)]
    pub late_after_s: Option<f64>,
    /// Whether a late generator is not a failure.
    #[serde(default)]
    pub allow_saturated: bool,
    /// Lateness at p99 above which a generator counts as saturated, in seconds.
    #[serde(default = "one_millisecond")]
    pub max_lateness_s: f64,
    /// Broadcast mode only.
    pub publishers: Option<u32>,
    /// Broadcast mode only.
    pub topics: Option<u32>,
    /// Number of slow subscribers; broadcast mode only.
    pub stalled: Option<u32>,
    /// Bytes per second that those read; `None` if they read nothing.
    #[serde(default)]
    pub trickle_bytes_per_s: Option<u64>,
    /// Threads of the generator.
    pub threads: usize,
    /// CPUs that they are pinned to, if any.
    pub cpus: Vec<usize>,
    /// Local addresses of the connections, if chosen.
    pub source_addresses: Vec<String>,
    /// The compression offer as given; `off` for none.
    pub compress: String,
    /// Whether received messages were checked.
    pub verify: bool,
    /// Whether messages were long enough to identify themselves.
    pub sequenced: bool,
    /// Flaws that do not fail the run.
    #[serde(default)]
    pub allow: Vec<Flaw>,
    /// How connections were opened. Records from older versions have none.
    #[serde(default, rename = "dialling")]
    pub connecting: Option<Connecting>,
    /// Names of the header fields that were added to upgrade requests. Their values may be secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// The file of data for templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// How connections took its rows: `in-order`, `shuffled` or `once`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_order: Option<String>,
    /// Name of the declared protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Interval of the pings beside the load, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping_every_s: Option<f64>,
    /// How long connections are open, as given: `1m`, `30s..90s` or `exp:1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<String>,
    /// The pauses before connections open again, as given: `500ms..20s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnect: Option<String>,
    /// The time over which connections open while the load runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_ramp_s: Option<f64>,
    /// The message that each connection sent once it was open; push mode only.
    #[serde(default)]
    pub hello: Option<String>,
    /// The member of messages that says when they were made; push mode only.
    #[serde(default)]
    pub time_field: Option<String>,
    /// Unit of `time_field`: `ns`, `us`, `ms` or `s`.
    #[serde(default)]
    pub time_unit: Option<String>,
    /// How long messages in flight at the end are awaited before they count as lost, in seconds.
    pub drain_s: f64,
    /// Seed of payloads and arrivals.
    pub seed: u64,
}

/// How connections were opened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connecting {
    /// Connections per second; `null` for as fast as the number of concurrent handshakes allows, and in connect mode,
    /// where `rate` or `depth` decides.
    pub rate: Option<u64>,
    /// Time limit of a handshake, in seconds.
    pub timeout_s: f64,
    /// Whether TLS resumed earlier sessions, if the server allowed it.
    pub resumption: bool,
    /// How long each connection was held after its reply, in seconds; connect mode only.
    pub hold_s: Option<f64>,
    /// Whether each sent a message and awaited its echo; connect mode only.
    pub first_message: Option<bool>,
}

/// The default in records from versions without bursts.
fn one() -> u32 {
    1
}

/// The default in records from versions without this option, in seconds.
fn one_millisecond() -> f64 {
    0.001
}

/// A part of the measured time in which the rate is constant or changes linearly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateStage {
    /// Length of the stage.
    pub seconds: f64,
    /// Messages per second at its beginning.
    pub from: u64,
    /// Messages per second at its end.
    pub to: u64,
}

/// The results of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageResult {
    /// The stage as configured.
    #[serde(flatten)]
    pub asked: RateStage,
    /// Messages that arrived within it; in broadcast mode each delivery is one.
    pub messages: u64,
    /// Messages per second.
    pub messages_per_s: f64,
    /// Response times of the messages that were due in it.
    pub response_ns: Quantiles,
    /// Their service times.
    pub service_ns: Quantiles,
    /// How late the generator sent them: 99 %.
    pub lateness_ns_p99: u64,
}

/// Where a run took place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Commit of the source, if the build was given one.
    pub commit: Option<String>,
    /// Version of this program.
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
    /// Kernel features that are unavailable.
    pub degraded: Vec<String>,
    /// Whether this program was built with optimisations.
    pub optimized: bool,
}

/// Writes an empty distribution as `null`.
mod null_for_none {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::measure::quantiles::Quantiles;

    pub fn serialize<S: Serializer>(quantiles: &Quantiles, serializer: S) -> Result<S::Ok, S::Error> {
        Some(quantiles).filter(|quantiles| quantiles.count > 0).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Quantiles, D::Error> {
        Option::<Quantiles>::deserialize(deserializer).map(Option::unwrap_or_default)
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
    /// Deliveries made, as a share of deliveries due over the whole run: 1 is all.
    pub reach: f64,
    /// Number of times that a subscriber received a later message before an earlier one.
    pub gaps: u64,
    /// Messages published over the whole run.
    pub published: u64,
}

/// The conversations of a declared protocol, over the whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// Its requests.
    pub requests: Vec<Request>,
    /// From the upgrade to the end of the opening steps; `null` if no conversation was opened.
    pub opening_ns: Option<Quantiles>,
    /// Heartbeats of the application that were answered.
    pub heartbeats_answered: u64,
    /// Heartbeats that the generator sent.
    pub heartbeats_sent: u64,
    /// Messages that no rule knows; they are among the errors too.
    pub unexpected: u64,
}

/// A request of a protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// How often it was sent.
    pub sent: u64,
    /// Answers, right or wrong.
    pub answered: u64,
    /// Answers that report an error.
    pub errors: u64,
    /// Response times of requests that were due in the measured time; `null` if the protocol has only one request, whose
    /// times are those of the run.
    pub response_ns: Option<Quantiles>,
    /// Service times of the same.
    pub service_ns: Option<Quantiles>,
}

/// Pings and their pongs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ping {
    /// Pings beside the load that were sent, over the whole run; 0 in ping mode, where pings are the load.
    pub sent: u64,
    /// Their pongs.
    pub answered: u64,
    /// Round trips of those that were sent in the measured time; `null` if there were none.
    pub rtt_ns: Option<Quantiles>,
    /// In ping mode: pings that were answered by the pong of a later one (RFC 6455, 5.5.3).
    pub skipped: u64,
}

/// Messages that the server pushed within the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Push {
    /// Inter-arrival times of a connection's messages.
    pub gap_ns: Quantiles,
    /// Messages without a usable time field.
    pub untimed: u64,
    /// Messages whose time is later than their arrival, according to the two clocks. Their response time counts as 0.
    pub ahead: u64,
}

/// Another rate from a time on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateChange {
    /// Seconds from the start of the measured time; negative in the warm-up.
    pub at_s: f64,
    /// Messages per second.
    pub rate: f64,
}

/// A sample of single messages.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// The share of messages that was asked for: 0.001 is one of a thousand.
    pub share: f64,
    /// Messages that were picked.
    pub picked: u64,
    /// Those for which there was no room; the others are a random sample of all that were picked.
    pub left_out: u64,
}

/// Connections that ended and opened again while the load ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconnects {
    /// Connections that ended by themselves, cut ones included.
    pub ended: u64,
    /// Connections that were closed at the end of their lifetime.
    pub retired: u64,
    /// Dials of connections that had been open.
    pub attempts: u64,
    /// Attempts that failed, by cause.
    pub refused: BTreeMap<String, u64>,
    /// Connections that were not back at the end. They are among those that ended early.
    pub not_back: u64,
    /// From the end of a connection until it took part again; `null` if none did.
    pub back_ns: Option<Quantiles>,
    /// Messages that were published while a subscriber was away, which it never received; only with topics.
    pub missed: Option<u64>,
    /// Messages that were published while a subscriber was away, which it received after its return; only with topics.
    pub recovered: Option<u64>,
}

/// All connections that were cut at once, and their return.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Storm {
    /// Who cut them: `client` or `server`.
    pub cut_by: String,
    /// Connections that were cut.
    pub cut: u64,
    /// Of those, connections that came back.
    pub back: u64,
    /// The time from the cut until a part of them was back.
    pub back_ns: StormTimes,
    /// What connections did in each [`HERD_INTERVAL`] of the measured time.
    pub over_time: Vec<HerdInterval>,
}

/// The times from the cut of all connections until a part of them was back; `null` if so many never were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StormTimes {
    /// Half of them.
    pub p50: Option<u64>,
    /// 90 %.
    pub p90: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// All.
    pub max: Option<u64>,
}

/// The subscribers that read slowly or not at all from the start of the measured time, and their ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    /// Slow subscribers that opened.
    pub count: u64,
    /// Their ends by close code: `4008` if the server closed them as slow consumers, `1006` if no Close frame could be
    /// read, `1000` if they stayed open until the end.
    pub closed_by_code: BTreeMap<String, u64>,
    /// Messages that they received in the measured time: those in flight when they stopped, and those of the limited
    /// rate.
    #[serde(default)]
    pub messages: u64,
    /// Payload bytes of those messages.
    #[serde(default)]
    pub bytes: u64,
}

/// Compression statistics over the whole run with warm-up and drain. Only compressed messages are counted: those below
/// the threshold, and those that would not shrink, are sent uncompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compression {
    /// Opened connections with negotiated compression.
    pub agreed: u64,
    /// Messages that arrived compressed.
    pub messages_in: u64,
    /// Their compressed payload bytes.
    pub bytes_in: u64,
    /// Their decompressed payload bytes.
    pub bytes_in_plain: u64,
    /// Messages that were sent compressed.
    pub messages_out: u64,
    /// Their compressed payload bytes.
    pub bytes_out: u64,
    /// Their uncompressed payload bytes.
    pub bytes_out_plain: u64,
}

/// The TLS handshakes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Completed handshakes.
    pub handshakes: u64,
    /// Of those, handshakes that resumed a session of an earlier connection.
    pub resumed: u64,
}

/// Times of connection handshakes. In connect mode, of the connections that were due in the measured time; in other
/// modes, of all, because they open before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handshake {
    /// Completed handshakes. Failed ones are among the `errors`.
    pub count: u64,
    /// Handshakes per second, from the first dial to the last completion; `null` if all completed in one tick.
    pub per_s: Option<f64>,
    /// From the dial to TCP.
    pub connect_ns: Quantiles,
    /// From TCP to TLS; `null` without TLS.
    pub tls_ns: Option<Quantiles>,
    /// From there to the 101.
    pub upgrade_ns: Quantiles,
    /// From the 101 to the first message; `null` where the mode has none.
    pub first_message_ns: Option<Quantiles>,
    /// From the dial to the 101.
    pub total_ns: Quantiles,
    /// From the dial to the failure of connections that did not open; `null` if all opened, and in records from older
    /// versions.
    #[serde(default)]
    pub failed_ns: Option<Quantiles>,
    /// Handshakes that resumed an earlier TLS session.
    pub resumed: u64,
    /// Connections that were due while all slots were in use, and had to wait; connect mode only.
    pub waited: u64,
}

/// Counts of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Handshakes that succeeded.
    pub opened: u64,
    /// Of those, connections that ended before the run did.
    pub ended_early: u64,
    /// Connections that were dialled, or could not be. Records from older versions have none.
    #[serde(default)]
    pub dialled: Option<u64>,
}

/// The health of the generator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// The generator was so late for its schedule that the latencies are in doubt.
    pub saturated: bool,
    /// How late it sent messages; empty in a closed loop.
    pub lateness_ns: Quantiles,
    /// An upper bound of the generator's part of each percentile of the response time: the excess over the same
    /// percentile of the service time, limited by the largest lateness. `None` in a closed loop, and in records from
    /// older versions.
    #[serde(default)]
    pub own_ns: Option<Quantiles>,
    /// CPU time of its threads as a share of their wall time: 1 is all.
    pub cpu_share: f64,
    /// Messages that were due and never sent, because their connection was full or gone.
    pub unsent: u64,
    /// Those whose connection was gone. Records from older versions have none.
    #[serde(default)]
    pub unsent_gone: u64,
    /// Duration of the ticks of its event loops, without the wait in the kernel. `None` in records from older versions.
    #[serde(default)]
    pub turn_ns: Option<Quantiles>,
    /// How late its threads' heartbeats were, one per 10 ms: how long the threads were stalled, in either loop. `None`
    /// in records from older versions.
    #[serde(default)]
    pub heartbeat_ns: Option<Quantiles>,
    /// How long its threads were runnable without a CPU, all together; `None` if the kernel does not count it.
    #[serde(default)]
    pub run_delay_ns: Option<u64>,
    /// How long the hypervisor ran something else on the CPUs that it may use, all together, in steps of 10 ms; `None` if
    /// unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stolen_ns: Option<u64>,
    /// Its threads.
    #[serde(default)]
    pub threads: Vec<GeneratorThread>,
}

/// The health of one thread of the generator, within the measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorThread {
    /// The CPU that it is pinned to, if any.
    pub cpu: Option<usize>,
    /// Its CPU time as a share of its wall time: 1 is all.
    pub cpu_share: f64,
    /// How late it sent messages: 99 %; 0 in a closed loop.
    pub lateness_ns_p99: u64,
    /// The same: maximum.
    pub lateness_ns_max: u64,
    /// Duration of its ticks: 99 %.
    pub turn_ns_p99: u64,
    /// The same: maximum.
    pub turn_ns_max: u64,
    /// How late its heartbeats were: 99 %. This and the following fields are `None` in records from older versions.
    #[serde(default)]
    pub heartbeat_ns_p99: Option<u64>,
    /// The same: maximum.
    #[serde(default)]
    pub heartbeat_ns_max: Option<u64>,
    /// How long it was runnable without a CPU.
    #[serde(default)]
    pub run_delay_ns: Option<u64>,
}

/// The server's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// CPU time, user and system, per arrived message, both between the same two samples.
    pub cpu_ns_per_message: Option<f64>,
    /// The same CPU time as a share of the wall time: 1 is one CPU.
    pub cpu_share: Option<f64>,
    /// Resident memory at the end of the measured time; `None` if it shares the generator's process.
    pub rss_bytes: Option<u64>,
    /// Messages that arrived between the two samples.
    pub sampled_messages: Option<u64>,
    /// Time between the samples, which are taken in the generator's first ticks after the ends of the measured time.
    pub sampled_s: Option<f64>,
}

/// An interval of the measured time.
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
    /// Response time: 90 %. This and the following fields are `None` in records from older versions.
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
    /// The distribution of the response time, which [`decode`](crate::measure::decode) reads. Records from older
    /// versions have none.
    #[serde(default)]
    pub response_histogram: Option<String>,
    /// The distribution of the service time.
    #[serde(default)]
    pub service_histogram: Option<String>,
}

#[cfg(test)]
pub(crate) mod tests;
