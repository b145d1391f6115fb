//! The record of a run: JSON with the schema `echoring.run/1`, described in `docs/reference/run-record.md`. Fields are
//! only ever added. Every field is always there; `null` means that it does not apply or is unknown.

pub mod comparison;
mod config;
mod connections;
mod environment;
pub mod failures;
mod health;
mod messages;
pub mod replay;
pub mod search;
pub mod segment;
pub mod split;
pub mod time_series;
pub mod until;
mod users;

use std::collections::BTreeMap;
use std::time::SystemTime;

use hdrhistogram::Histogram;
use serde_json::Value;

pub use crate::measure::integrity::Integrity;
pub use crate::measure::quantiles::Quantiles;
use crate::measure::{WireTraffic, distribution, host};
use crate::plan::declared::part;
use crate::plan::{Flaw, Mode, Workload};
use comparison::Comparison;
pub use config::{Config, Connecting};
use connections::by_code;
pub use connections::{
    Compression, Connections, HERD_INTERVAL, Handshake, HerdInterval, Reconnects, Stalled, Storm, StormTimes,
    Tls,
};
pub use environment::{Agent, Environment};
use failures::NO_REPLY;
pub use health::{Generator, GeneratorThread, Server};
pub use messages::{Broadcast, Ping, Push, QuantileShares, Sampled, Shares, StageResult};
use replay::Replay;
use search::SearchResult;
use segment::SegmentResult;
use split::Split;
pub use time_series::Interval;
use time_series::TimeSeries;
use until::Until;
pub use until::WarmUp;
pub use users::{Protocol, ProtocolShare, Request, Sessions};

/// Name and version of the schema.
pub const SCHEMA: &str = "echoring.run/1";

part! {
    /// A file of records.
    File {
        /// [`SCHEMA`].
        schema: String,
        /// In the order in which they ran.
        runs: Vec<Record>,
        /// Comparisons of two targets, or the spread of repeated runs, load by load; empty if nothing was repeated.
        comparison: Vec<Comparison>,
    }
}

impl File {
    /// A file of these runs.
    pub fn new(runs: Vec<Record>) -> File {
        File { schema: SCHEMA.to_owned(), runs, comparison: Vec::new() }
    }

    /// The file as JSON, with a newline at its end.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a record has only names as keys");
        text.push('\n');
        text
    }
}

part! {
    /// One run.
    #[derive(Default)]
    Record of(load: &Workload, at: &str, result: &SegmentResult)
    where {
        let tally = &result.tally;
        let length_s = tally.window.until.saturating_sub(tally.window.from) as f64 / 1e9;
        let per_s = |count: u64| if length_s > 0.0 { count as f64 / length_s } else { 0.0 };
        let kernel_times = &tally.split.server_and_network;
    } {
        /// The value of `--label`.
        label: Option<String> = None,
        /// The target's URL, or `embedded` for the server that `bench` starts itself.
        target: String = at.to_owned(),
        /// The options of the run, defaults included.
        config: Config = Config::of(load, result),
        /// Where it ran.
        environment: Environment = result.environment.clone(),
        /// Start of the measured time, RFC 3339, UTC.
        started_at: String = host::timestamp(tally.began_at.unwrap_or_else(SystemTime::now)),
        /// Length of the measured time.
        duration_s: f64 = length_s,
        /// Whether a signal or a condition ended the run early.
        interrupted: bool = result.interrupted,
        /// Messages that arrived in the measured time; in broadcast mode each delivery is one.
        messages: u64 = tally.counts.messages,
        /// Messages that arrived over the whole run, with warm-up and drain.
        received: Option<u64> = Some(tally.counts.received),
        /// Messages per second.
        messages_per_s: f64 = per_s(tally.counts.messages),
        /// Payload bytes of those per second.
        bytes_per_s: f64 = per_s(tally.counts.bytes),
        /// From the intended send time to the arrival; `null` if nothing was timed.
        #[serde(with = "null_for_none")]
        response_ns: Quantiles = Quantiles::of(&tally.latency.whole.response),
        /// From the actual send to the arrival; `null` if nothing was timed.
        #[serde(with = "null_for_none")]
        service_ns: Quantiles = Quantiles::of(&tally.latency.whole.service),
        /// The distribution behind `response_ns`.
        response_histogram: Option<String> = encoded(&tally.latency.whole.response),
        /// The distribution behind `service_ns`.
        service_histogram: Option<String> = encoded(&tally.latency.whole.service),
        /// How much of the response time is the generator's, the host's, and the server's; `null` if nothing was timed.
        shares: Option<Shares> = Shares::of_some(tally),
        /// From leaving the generator's kernel to the arrival of the answer there, of the stamped messages; `null` if none was.
        server_and_network_ns: Option<Quantiles> = Quantiles::of_some(kernel_times),
        /// The distribution behind `server_and_network_ns`.
        server_and_network_histogram: Option<String> = encoded(kernel_times),
        /// The response time by the kernel's times; `null` if no message was to be stamped.
        split: Option<Split> = (!kernel_times.is_empty()).then(|| Split::of(tally)),
        /// Replies over the whole run that did not identify their message, so that they have no latency; only with
        /// `--verify off`.
        unmatched: u64 = tally.counts.unmatched,
        /// Messages over the whole run that answer nothing and are no part of the load, such as pushes beside requests;
        /// they are not among the `messages`.
        unsolicited: u64 = tally.counts.unsolicited,
        /// The fan-out of published messages; only with topics.
        broadcast: Option<Broadcast> = load.has_topics().then(|| Broadcast::of(tally)),
        /// The conversations of a declared protocol.
        protocol: Option<Protocol> = load.protocol.as_ref().map(|_| Protocol::of(load, &tally.protocol)),
        /// Each of several protocols.
        protocols: Vec<ProtocolShare> = users::protocols(load, &tally.protocol),
        /// Sessions of users; only in session mode.
        sessions: Option<Sessions> = (load.mode == Mode::Session).then(|| Sessions::of(&tally.sessions)),
        /// Pings in addition to the load, or as the load.
        ping: Option<Ping> = (load.mode == Mode::Ping || load.ping_every.is_some()).then(|| Ping::of(load, tally)),
        /// What the server pushed; only in push mode.
        push: Option<Push> = (load.mode == Mode::Push).then(|| Push::of(&tally.pushes)),
        /// Connections that ended and opened again; only if connections come and go.
        reconnects: Option<Reconnects> = load.churn.is_some().then(|| Reconnects::of(load, &tally.reconnects)),
        /// The cut of all connections; only in storm mode.
        storm: Option<Storm> = (load.mode == Mode::Storm).then(|| Storm::of(load, &tally.reconnects)),
        /// The recording and its replay; only with `--replay`.
        replay: Option<Replay> = load.replay.as_ref().map(|replay| Replay::of(replay, tally)),
        /// The deliberately slow subscribers, if any.
        stalled: Option<Stalled> = (load.stalled > 0).then(|| Stalled::of(&tally.slow)),
        /// Compression statistics, if compression was offered.
        compression: Option<Compression> = load.compress.compression.map(|_| Compression::of(&tally.connections)),
        /// What was sent and received over the whole run with warm-up and drain.
        wire: Option<WireTraffic> = Some(tally.connections.wire),
        /// The TLS handshakes, if the server uses TLS.
        tls: Option<Tls> = (tally.connections.tls_handshakes > 0).then(|| Tls::of(&tally.connections)),
        /// Times of connection handshakes; `null` if there were none.
        handshake: Option<Handshake> = Handshake::of_some(&tally.connections.handshakes),
        /// Integrity failures over the whole run with warm-up and drain.
        integrity: Integrity = tally.integrity(),
        /// Counts of connections.
        connections: Connections = Connections::of(&tally.connections),
        /// Failures by cause: `refused`, `reset`, `timeout`, `handshake timeout`, `status 503` (the server's answer to a handshake),
        /// `too few descriptors`, `too few local ports`, `no reply` (a sender of a closed loop got nothing for 5 s and continued), and others.
        errors: BTreeMap<String, u64> = tally.connections.errors.clone(),
        /// Ends of opened connections by close code. `1000` are those that `bench` closed itself at the end; `1006` had no Close frame.
        closes: BTreeMap<String, u64> = by_code(&tally.connections.closes),
        /// The health of the generator.
        generator: Generator = Generator {
            threads: result.threads.clone(),
            stolen_ns: result.stolen_ns,
            ..Generator::of(tally, load.max_lateness)
        },
        /// The server's process, with `--server-pid` or an embedded server.
        server: Option<Server> = (tally.cpu_span.passed().is_some() || result.server_rss_bytes.is_some())
            .then(|| Server::of(tally, result.server_rss_bytes)),
        /// The stages of the rate; none if the rate did not change.
        stages: Vec<StageResult> = {
            let stages = load.pace.stages().iter().zip(&tally.latency.stages);
            stages.map(|(stage, found)| StageResult::of(stage, found)).collect()
        },
        /// The measured time in intervals.
        intervals: Vec<Interval> = Vec::new(),
        /// The generators that shared the run, if several did.
        agents: Vec<Agent> = Vec::new(),
        /// The measured time in slices, which are shorter; `null` if it never began.
        timeline: Option<TimeSeries> = (!tally.slices.slices.is_empty()).then(|| TimeSeries::of(load, result)),
        /// The search of `echoring capacity` whose best run this is.
        search: Option<SearchResult> = None,
        /// The repetition in this record, with `--repeat`.
        repetition: Option<Repetition> = None,
        /// The results of the `--fail-if` conditions that the run's mode can have.
        fail_if: Vec<FailIf> = Vec::new(),
        /// The condition of `--abort-if` that ended the run before its time, if one did.
        aborted_by: Option<String> = None,
        /// How the warm-up ended, with `--warmup auto`.
        warm_up: Option<WarmUp> = result.warm_up,
        /// How exactly quantiles were known, with `--until`.
        until: Option<Until> = None,
        /// The sample of single messages; `null` if none was taken.
        samples: Option<Sampled> = None,
    }
}

/// A whole distribution; `None` if it is empty.
fn encoded(histogram: &Histogram<u64>) -> Option<String> {
    (!histogram.is_empty()).then(|| distribution::encode(histogram))
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
        let Generator { unsent, unsent_gone, .. } = self.generator;
        let unsent = if self.is_unsent_by_lateness() { unsent_gone } else { unsent };
        let unsent = unsent > 0 && !allowed(Flaw::Unsent);
        let failed = self.errors.keys().any(|cause| !(cause == NO_REPLY && allowed(Flaw::Lost)));
        !integrity.is_clean() || unsent || closed || failed || self.is_empty()
    }

    /// Whether a late generator is why messages were not sent, unless their connection was gone: that is a verdict of its own, which
    /// may be allowed. Connections and sessions are unsent because no slot was free, however late the generator was.
    pub(crate) fn is_unsent_by_lateness(&self) -> bool {
        self.generator.saturated && !matches!(self.config.mode, Mode::Connect | Mode::Session)
    }

    /// Whether nothing came back that the run measures; corrupted answers did come back. A storm without topics may have
    /// only connections, a recording no answers, and a schedule no messages.
    pub fn is_empty(&self) -> bool {
        let Config { mode, stages, topics, .. } = &self.config;
        let measures_none = self.replay.is_some()
            || *mode == Mode::Storm && topics.is_none()
            || !stages.is_empty() && stages.iter().all(|stage| stage.from == 0 && stage.to == 0);
        let nothing_came = self.received == Some(0) && self.integrity.corrupted == 0;
        !measures_none && !self.interrupted && nothing_came
    }
}

part! {
    /// One of several repetitions.
    #[derive(Eq)]
    Repetition {
        /// Number from 1; the runs of two targets with the same number were made next to each other.
        number: u32,
        /// Total number of repetitions.
        of: u32,
        /// `a`, or `b` for the second of two targets.
        side: String,
    }
}

part! {
    /// A condition under which a run fails.
    FailIf {
        /// The expression as given.
        expression: String,
        /// Whether the run failed by it: the condition held, or its metrics were missing.
        failed: bool,
        /// The values of its metrics in the units of the record; `null` if missing.
        seen: BTreeMap<String, Option<f64>>,
    }
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

#[cfg(test)]
pub(crate) mod tests;
