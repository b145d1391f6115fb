//! The record of a run: JSON with the schema `echoring.run/1`, described in `docs/reference/run-record.md`. Fields are
//! only ever added.

pub mod calibration;
pub mod comparison;
mod config;
pub(crate) mod describe;
mod environment;
pub mod failures;
mod health;
mod reconnects;
pub mod replay;
pub mod search;
pub mod segment;
pub mod split;
pub mod time_series;
pub mod until;
mod users;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::measure::WireBytes;
pub use crate::measure::integrity::Integrity;
pub use crate::measure::quantiles::Quantiles;
pub use crate::measure::shares::QuantileShares;
use crate::plan::Flaw;
use calibration::Quotation;
use comparison::{BaselineComparison, Comparison};
pub use config::{Config, Connecting, RateStage};
pub use environment::{Agent, Environment, SegmentPart};
use failures::NO_REPLY;
pub use health::{Generator, GeneratorThread, Server};
pub use reconnects::{HERD_INTERVAL, HerdInterval, Reconnects, Storm, StormTimes};
use replay::Replay;
use search::SearchResult;
use split::Split;
use time_series::TimeSeries;
use until::Until;
pub use users::{ProtocolShare, Sessions};

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
    /// The runs compared with stored results; omitted without `--baseline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BaselineComparison>,
}

impl File {
    /// A file of these runs.
    pub fn new(runs: Vec<Record>) -> File {
        File { schema: SCHEMA.to_owned(), runs, comparison: Vec::new(), baseline: None }
    }

    /// The file as JSON, with a newline at its end.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a record has only names as keys");
        text.push('\n');
        text
    }
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The label of the run, if any.
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
    /// Messages that arrived over the whole run, with warm-up and drain. Records from older versions have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
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
    pub response_histogram: Option<String>,
    /// The distribution behind `service_ns`.
    pub service_histogram: Option<String>,
    /// How much of the response time is the generator's, the host's, and the server's. `None` if nothing was timed, and in
    /// records from older versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    /// From leaving the generator's kernel to the arrival of the answer there, of the stamped messages. `None` if none was,
    /// and in records from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_and_network_ns: Option<Quantiles>,
    /// The distribution behind `server_and_network_ns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_and_network_histogram: Option<String>,
    /// The response time by the kernel's times. `None` if no message was to be stamped, and in records from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Replies over the whole run that did not identify their message, so that they have no latency; only if nothing
    /// was checked. Records from older versions have none.
    #[serde(default)]
    pub unmatched: u64,
    /// Messages over the whole run that answer nothing and are no part of the load, such as pushes beside requests;
    /// they are not among the `messages`. Records from older versions have none.
    #[serde(default)]
    pub unsolicited: u64,
    /// The statement of this host's calibration, if it has one. The command line adds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Quotation>,
    /// Only in broadcast mode.
    pub broadcast: Option<Broadcast>,
    /// The conversations of a declared protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Each of several protocols.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ProtocolShare>,
    /// Only in session mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Sessions>,
    /// Pings in addition to the load, or as the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<Ping>,
    /// Only in push mode. Records from older versions have none.
    pub push: Option<Push>,
    /// Changes of the rate by the user while the load ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_changes: Vec<RateChange>,
    /// Connections that ended and opened again; only if connections come and go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconnects: Option<Reconnects>,
    /// Only in storm mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm: Option<Storm>,
    /// Only for replays of recordings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// The deliberately slow subscribers, if any.
    pub stalled: Option<Stalled>,
    /// Compression statistics, if compression was offered.
    pub compression: Option<Compression>,
    /// Bytes over the whole run with warm-up and drain, as they are sent and received. Records from older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire: Option<WireBytes>,
    /// The TLS handshakes, if the server uses TLS.
    pub tls: Option<Tls>,
    /// Times of connection handshakes; `null` if there were none. Records from older versions have none.
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
    /// The share of a run in this record, for `echoring merge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentPart>,
    /// The measured time in slices, which are shorter. Records from older versions have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimeSeries>,
    /// The search whose best run this is.
    pub search: Option<SearchResult>,
    /// The repetition in this record.
    pub repetition: Option<Repetition>,
    /// The results of the `fail_if` conditions.
    #[serde(default)]
    pub fail_if: Vec<FailIf>,
    /// The condition that ended the run before its time, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_by: Option<String>,
    /// How the warm-up ended, if that was to be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<WarmUp>,
    /// How exactly quantiles were known, if the run was to end by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Until>,
    /// The sample of single messages; omitted if none was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<Sampled>,
}

impl Record {
    /// The record as a value, for conditions that name its fields.
    pub fn value(&self) -> Value {
        serde_json::to_value(self).expect("a record has only names as keys")
    }

    /// Whether a failure occurred that was not allowed. Failed connections are never allowed, nor are those that ended
    /// without a Close frame: both are among the `errors`. `no reply` is allowed if lost messages are.
    pub fn is_broken(&self) -> bool {
        self.is_broken_beyond(&self.config.allow)
    }

    /// The same where these flaws are allowed.
    pub(crate) fn is_broken_beyond(&self, allow: &[Flaw]) -> bool {
        let allowed = |flaw: Flaw| allow.contains(&flaw);
        let mut integrity = self.integrity;
        for flaw in allow {
            integrity.allow(*flaw);
        }
        let closed = self.connections.ended_early > 0 && !allowed(Flaw::Closed);
        // If the generator was too late for its schedule, unsent messages do not show that the server took too few of them. A
        // saturated generator is a verdict of its own, which may be allowed.
        let Generator { saturated, unsent, unsent_gone, .. } = self.generator;
        let unsent = if saturated { unsent_gone } else { unsent };
        let unsent = unsent > 0 && !allowed(Flaw::Unsent);
        let failed = self.errors.keys().any(|cause| !(cause == NO_REPLY && allowed(Flaw::Lost)));
        !integrity.is_clean() || unsent || closed || failed || self.is_empty()
    }

    /// Whether nothing came back that the run measures; corrupted answers did come back. A part of a run may have no subscribers,
    /// a storm without topics only connections, a recording no answers, and a schedule no messages.
    pub fn is_empty(&self) -> bool {
        let Config { mode, stages, topics, .. } = &self.config;
        let measures_none = self.segment.is_some()
            || self.replay.is_some()
            || mode == "storm" && topics.is_none()
            || !stages.is_empty() && stages.iter().all(|stage| stage.from == 0 && stage.to == 0);
        let nothing_came = self.received == Some(0) && self.integrity.corrupted == 0;
        !measures_none && !self.interrupted && nothing_came
    }
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

/// A warm-up that lasted until the load was steady.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmUp {
    /// Its length.
    pub seconds: f64,
    /// The longest that it could have been.
    pub longest_s: f64,
    /// Whether the load was steady at its end.
    pub steady: bool,
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
    /// The name of its protocol, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
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
    /// Pings that were sent over the whole run: in addition to the load, or in ping mode as the load.
    pub sent: u64,
    /// Their pongs.
    pub answered: u64,
    /// Round trips of those that were sent in the measured time, from the actual send; `null` if there were none.
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
    /// The share of messages that was asked for: 0.001 is one in a thousand.
    pub share: f64,
    /// Messages that were picked.
    pub picked: u64,
    /// Picked messages without room; the others are a random sample of all picked ones.
    pub left_out: u64,
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
    pub failed_ns: Option<Quantiles>,
    /// Handshakes that resumed an earlier TLS session.
    pub resumed: u64,
    /// Connections that were due while all slots were in use, and had to wait; connect mode only.
    pub waited: u64,
}

/// Counts of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Handshakes that succeeded.
    pub opened: u64,
    /// Of those, connections that ended before the run did.
    pub ended_early: u64,
    /// Connections that were dialled, or could not be. Records from older versions have none.
    pub dialled: Option<u64>,
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
    pub p90_ns: Option<u64>,
    /// 99.9 %.
    pub p999_ns: Option<u64>,
    /// Service time of the same messages: median.
    pub service_p50_ns: Option<u64>,
    /// 90 %.
    pub service_p90_ns: Option<u64>,
    /// 99 %.
    pub service_p99_ns: Option<u64>,
    /// 99.9 %.
    pub service_p999_ns: Option<u64>,
    /// Largest.
    pub service_max_ns: Option<u64>,
    /// The distribution of the response time, which [`decode`](crate::measure::decode) reads. Records from older
    /// versions have none.
    pub response_histogram: Option<String>,
    /// The distribution of the service time.
    pub service_histogram: Option<String>,
    /// The distribution of the time of server and network; only if messages were stamped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_and_network_histogram: Option<String>,
}

#[cfg(test)]
pub(crate) mod tests;
