//! The response of `GET /stats`: the shards' snapshots as JSON, individually and summed.
//!
//! Scripts rely on its form: fields are added, never renamed. Maps have close codes, HTTP statuses or causes as keys
//! and counts as values.

mod duration_figures;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use serde::Serialize;

use echoring_async::tls::CertificateReport;
use echoring_proto::connection::Compressed;
use echoring_runtime::stats::{BudgetFigures, Counters, LOG};
use echoring_topics::{Deliveries, Passed, PatternCounts, Publications};

use super::limits_report::limited;
use super::reload::ReloadCounters;
use crate::access::failed_attempts::AttemptFigures;
pub(crate) use duration_figures::AgeFigures;
use duration_figures::DurationFigures;
use echoring_auth::BackendFigures;
use echoring_server::{AuthFigures, ClusterStatus, Rebalanced, Snapshot};

/// The schema of the report.
const SCHEMA: &str = "echoring.stats/1";

/// The report.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    schema: &'static str,
    version: &'static str,
    pid: u32,
    uptime_s: f64,
    state: &'static str,
    driver: DriverReport<'a>,
    /// The runtime of the control plane.
    control: &'static str,
    /// Shards that did not answer in time; their counters are missing from `node`.
    silent_shards: usize,
    budgets: BudgetReport,
    log: LogFigures,
    #[serde(with = "ReloadFigures")]
    reloads: &'a ReloadCounters,
    auth: &'a AuthFigures,
    admin: AdminFigures,
    node: Figures<'a>,
    shards: Vec<ShardReport<'a>>,
}

#[derive(Serialize)]
#[serde(remote = "ReloadCounters")]
struct ReloadFigures {
    accepted: AtomicU64,
    refused: AtomicU64,
    last_refused: AtomicBool,
}

/// The admin address itself.
#[derive(Debug, Serialize)]
struct AdminFigures {
    /// Requests without access.
    refused: AttemptFigures,
}

/// The node's budgets.
#[derive(Debug, Default, Serialize)]
struct BudgetReport {
    #[serde(with = "BudgetUse")]
    memory_bytes: BudgetFigures,
    #[serde(with = "BudgetUse")]
    compression_bytes: BudgetFigures,
    #[serde(with = "BudgetUse")]
    connections: BudgetFigures,
}

#[derive(Serialize)]
#[serde(remote = "BudgetFigures")]
struct BudgetUse {
    #[serde(rename = "used")]
    leased: u64,
    peak: u64,
    limit: u64,
}

impl BudgetReport {
    fn of(snapshot: &Snapshot) -> BudgetReport {
        let Snapshot { memory, contexts, seats, .. } = *snapshot;
        BudgetReport { memory_bytes: memory, compression_bytes: contexts, connections: seats }
    }
}

/// Log records of this process that were lost.
#[derive(Debug, Serialize)]
struct LogFigures {
    dropped: u64,
    rate_limited: u64,
}

impl LogFigures {
    fn now() -> LogFigures {
        LogFigures { dropped: LOG.dropped.load(Relaxed), rate_limited: LOG.rate_limited.load(Relaxed) }
    }
}

#[derive(Debug, Serialize)]
struct DriverReport<'a> {
    name: &'static str,
    features: &'a [&'static str],
    degraded: &'a [&'static str],
}

#[derive(Debug, Serialize)]
struct ShardReport<'a> {
    shard: usize,
    driver: DriverReport<'a>,
    #[serde(flatten)]
    figures: Figures<'a>,
}

/// Gauges and counters of one shard, or of all.
#[derive(Debug, Serialize)]
struct Figures<'a> {
    #[serde(flatten)]
    gauges: Gauges,
    accepted: u64,
    opened: u64,
    tls_handshakes: u64,
    tls_resumed: u64,
    messages_in: u64,
    messages_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    short_sends: u64,
    pauses: u64,
    mailbox_full: u64,
    turns: u64,
    stalls: u64,
    tick_time: DurationFigures,
    receive_to_send: DurationFigures,
    /// By the pattern of the topics.
    delivery_ages: BTreeMap<&'a str, AgeFigures>,
    limited: BTreeMap<&'static str, u64>,
    proxy_headers: u64,
    accept_failures: u64,
    moved_in: u64,
    moved_out: u64,
    moves_refused: u64,
    moves_kept: u64,
    move_stall: DurationFigures,
    tcp_round_trip: DurationFigures,
    tcp_segments_sent: u64,
    tcp_segments_retransmitted: u64,
    handler_failures: u64,
    handler_panics: u64,
    closes: BTreeMap<u16, u64>,
    causes: BTreeMap<&'static str, u64>,
    refusals: &'a BTreeMap<u16, u64>,
    answers: &'a BTreeMap<u16, u64>,
}

/// permessage-deflate: messages, and their bytes compressed and uncompressed.
#[derive(Serialize)]
#[serde(remote = "Compressed")]
struct CompressionFigures {
    messages_in: u64,
    bytes_in: u64,
    bytes_in_inflated: u64,
    messages_out: u64,
    bytes_out: u64,
    bytes_out_plain: u64,
    context_bytes: u64,
    declined: u64,
}

fn add_compressed(sum: &mut Compressed, done: &Compressed) {
    sum.messages_in += done.messages_in;
    sum.bytes_in += done.bytes_in;
    sum.bytes_in_inflated += done.bytes_in_inflated;
    sum.messages_out += done.messages_out;
    sum.bytes_out += done.bytes_out;
    sum.bytes_out_plain += done.bytes_out_plain;
    sum.context_bytes += done.context_bytes;
    sum.declined += done.declined;
}

/// Publications: `published = accepted + refused`.
#[derive(Serialize)]
#[serde(remote = "Publications")]
pub(super) struct PublicationFigures {
    published: u64,
    accepted: u64,
    refused: u64,
}

/// Deliveries: `offered = sent + queued + filtered +` the sum of `dropped`.
#[derive(Serialize)]
#[serde(remote = "Deliveries")]
pub(super) struct DeliveryFigures {
    offered: u64,
    sent: u64,
    queued: u64,
    filtered: u64,
    #[serde(getter = "DropFigures::of")]
    dropped: DropFigures,
}

/// Deliveries that were dropped, by cause.
#[derive(Serialize)]
struct DropFigures {
    disconnect: u64,
    oldest: u64,
    conflated: u64,
    memory: u64,
}

impl DropFigures {
    fn of(counted: &Deliveries) -> DropFigures {
        DropFigures {
            disconnect: counted.dropped_disconnect,
            oldest: counted.dropped_oldest,
            conflated: counted.dropped_conflated,
            memory: counted.dropped_memory,
        }
    }
}

/// Mail between shards. The difference between out and in is in mailboxes.
#[derive(Serialize)]
#[serde(remote = "Passed")]
struct PassedFigures {
    publications_out: u64,
    publications_in: u64,
    messages_out: u64,
    messages_in: u64,
}

/// Counts of the topics of one pattern.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
struct Pattern(#[serde(with = "PatternFigures")] PatternCounts);

#[derive(Serialize)]
#[serde(remote = "PatternCounts")]
struct PatternFigures {
    #[serde(with = "PublicationFigures")]
    publications: Publications,
    published_bytes: u64,
    subscribers: u64,
    #[serde(getter = "sent")]
    delivered: u64,
    delivered_bytes: u64,
    #[serde(getter = "dropped")]
    dropped: DropFigures,
    histories_evicted: u64,
}

fn sent(counts: &PatternCounts) -> u64 {
    counts.deliveries.sent
}

fn dropped(counts: &PatternCounts) -> DropFigures {
    DropFigures::of(&counts.deliveries)
}

impl<'a> Figures<'a> {
    fn new(gauges: Gauges, counters: &'a Counters) -> Figures<'a> {
        let traffic = counters.traffic.total();
        Figures {
            gauges,
            accepted: counters.accepted,
            opened: counters.opened,
            tls_handshakes: counters.tls_handshakes,
            tls_resumed: counters.tls_resumed,
            messages_in: traffic.messages_in,
            messages_out: traffic.messages_out,
            bytes_in: traffic.bytes_in,
            bytes_out: traffic.bytes_out,
            short_sends: counters.short_sends,
            pauses: counters.pauses,
            mailbox_full: counters.mailbox_full,
            turns: counters.ticks,
            stalls: counters.stalls,
            tick_time: DurationFigures::new(&counters.tick_time),
            receive_to_send: DurationFigures::new(&counters.receive_to_send),
            delivery_ages: ages(counters),
            limited: limited(counters),
            proxy_headers: counters.proxy_headers,
            accept_failures: counters.accept_failures,
            moved_in: counters.moved_in,
            moved_out: counters.moved_out,
            moves_refused: counters.moves_refused,
            moves_kept: counters.moves_kept,
            move_stall: DurationFigures::new(&counters.move_stall),
            tcp_round_trip: DurationFigures::new(&counters.tcp_round_trip),
            tcp_segments_sent: counters.tcp_segments_sent,
            tcp_segments_retransmitted: counters.tcp_segments_retransmitted,
            handler_failures: counters.handler_failures,
            handler_panics: counters.handler_panics,
            closes: counters.closes(),
            causes: counters.causes(),
            refusals: &counters.refusals,
            answers: &counters.answers,
        }
    }
}

fn ages(counters: &Counters) -> BTreeMap<&str, AgeFigures> {
    counters.delivery_ages.iter().map(|(pattern, age)| (pattern, AgeFigures::new(age))).collect()
}

/// Gauges, as opposed to counters.
#[derive(Debug, Default, Serialize)]
struct Gauges {
    connections: u64,
    topics: u64,
    subscriptions: u64,
    pool_bytes: u64,
    pool_bytes_peak: u64,
    /// Connections with a partial send.
    blocked: u64,
    #[serde(with = "CompressionFigures")]
    compression: Compressed,
    #[serde(with = "PublicationFigures")]
    publications: Publications,
    #[serde(with = "DeliveryFigures")]
    deliveries: Deliveries,
    #[serde(with = "PassedFigures")]
    passed: Passed,
    histories_evicted: u64,
    /// By the pattern of the topics.
    patterns: BTreeMap<Box<str>, Pattern>,
}

impl Gauges {
    fn add(&mut self, snapshot: &Snapshot) {
        let hub = &snapshot.application;
        self.connections += snapshot.connections;
        self.topics += hub.topics;
        self.subscriptions += hub.subscriptions;
        self.pool_bytes += snapshot.pool_bytes;
        self.pool_bytes_peak += snapshot.pool_bytes_peak;
        self.blocked += snapshot.blocked;
        add_compressed(&mut self.compression, &snapshot.compressed);
        self.publications.add(&hub.publications);
        self.deliveries.add(&hub.deliveries);
        self.passed.add(&hub.passed);
        self.histories_evicted += hub.histories_evicted;
        for (pattern, counts) in &hub.patterns {
            self.patterns.entry(pattern.clone()).or_default().0.add(counts);
        }
    }
}

/// The state of the control plane itself.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) uptime_s: f64,
    pub(super) draining: bool,
    pub(super) control: &'static str,
    pub(super) shards: usize,
    pub(super) reloads: Arc<ReloadCounters>,
    pub(super) auth: AuthFigures,
    pub(super) backends: Vec<BackendFigures>,
    pub(super) admin: AttemptFigures,
    /// Successors that did not take over.
    pub(super) failed_takeovers: u64,
    /// Addresses that were banned.
    pub(super) bans: u64,
    /// Certificates, with those that expire first in front.
    pub(super) certificates: Vec<CertificateReport>,
    /// The node's part in its cluster.
    pub(super) cluster: Option<ClusterStatus>,
}

/// The answer to a rebalancing.
#[derive(Serialize)]
struct RebalanceReport<'a> {
    moved: u64,
    connections: &'a [u64],
}

/// The result of a rebalancing in JSON.
pub(super) fn rebalanced(balanced: &Rebalanced) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&RebalanceReport { moved: balanced.moved, connections: &balanced.connections })
}

/// The report as JSON.
pub(super) fn to_json(node: &Node, snapshots: &[Snapshot]) -> serde_json::Result<Vec<u8>> {
    let mut gauges = Gauges::default();
    let mut counters = Counters::default();
    for snapshot in snapshots {
        gauges.add(snapshot);
        counters.add(&snapshot.counters);
    }
    let first = snapshots.first();
    let report = Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        uptime_s: node.uptime_s,
        state: if node.draining { "draining" } else { "serving" },
        driver: driver(first),
        control: node.control,
        silent_shards: node.shards.saturating_sub(snapshots.len()),
        budgets: first.map(BudgetReport::of).unwrap_or_default(),
        log: LogFigures::now(),
        reloads: &node.reloads,
        auth: &node.auth,
        admin: AdminFigures { refused: node.admin },
        node: Figures::new(gauges, &counters),
        shards: snapshots.iter().map(shard).collect(),
    };
    serde_json::to_vec_pretty(&report)
}

/// All shards run on the same kernel with the same flags, so the first one represents the node.
fn driver(snapshot: Option<&Snapshot>) -> DriverReport<'_> {
    match snapshot {
        Some(snapshot) => {
            DriverReport { name: snapshot.driver, features: &snapshot.features, degraded: &snapshot.degraded }
        }
        None => DriverReport { name: "", features: &[], degraded: &[] },
    }
}

fn shard(snapshot: &Snapshot) -> ShardReport<'_> {
    let mut gauges = Gauges::default();
    gauges.add(snapshot);
    ShardReport {
        shard: snapshot.shard,
        driver: driver(Some(snapshot)),
        figures: Figures::new(gauges, &snapshot.counters),
    }
}

#[cfg(test)]
mod tests {
    use echoring_proto::limits::SECOND;
    use echoring_runtime::stats::{Account, End};
    use echoring_topics::HubReport;

    use super::*;

    fn counters(messages_in: u64) -> Counters {
        let mut counters = Counters::default();
        counters.traffic.at(Account::HANDSHAKE).messages_in = messages_in;
        counters.tick_time.record(SECOND, messages_in);
        counters.ends.insert(End { code: Some(1000), cause: "peer" }, 2);
        counters.ends.insert(End { code: Some(1006), cause: "gone" }, messages_in);
        counters
    }

    #[test]
    fn the_node_is_the_sum_of_its_shards() {
        let snapshot = |shard: usize, messages_in: u64| {
            let mut rooms = HubReport::default();
            rooms.publications = Publications { published: 5, accepted: 4, refused: 1 };
            let Deliveries { offered, sent, dropped_disconnect, .. } = &mut rooms.deliveries;
            (*offered, *sent, *dropped_disconnect) = (9, 6, 3);
            rooms.passed = Passed { messages_out: 2, ..Passed::default() };
            let mut counts = PatternCounts::default();
            (counts.subscribers, counts.histories_evicted, counts.deliveries) = (3, 1, rooms.deliveries);
            (rooms.histories_evicted, rooms.patterns) = (1, [("a.*".into(), counts)].into());
            let mut snapshot = Snapshot::default();
            (snapshot.shard, snapshot.connections) = (shard, 10);
            (snapshot.driver, snapshot.degraded) = ("uring", vec!["receive-total"]);
            snapshot.seats = BudgetFigures { leased: 64, peak: 128, limit: 1_000 };
            (snapshot.application, snapshot.counters) = (rooms, counters(messages_in));
            snapshot
        };
        let reloads = Arc::default();
        let auth = AuthFigures::default();
        let admin = AttemptFigures::default();
        let node = Node {
            uptime_s: 1.5,
            draining: false,
            control: "tokio",
            shards: 3,
            reloads,
            auth,
            admin,
            backends: Vec::new(),
            failed_takeovers: 0,
            bans: 2,
            certificates: Vec::new(),
            cluster: None,
        };
        let json = to_json(&node, &[snapshot(0, 5), snapshot(1, 7)]).expect("plain data");
        let report: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(report["schema"], "echoring.stats/1");
        assert_eq!(report["state"], "serving");
        assert_eq!(report["driver"]["name"], "uring");
        assert_eq!(report["driver"]["degraded"][0], "receive-total");
        assert_eq!(report["silent_shards"], 1);
        assert_eq!(report["node"]["connections"], 20);
        assert_eq!(report["node"]["messages_in"], 12);
        assert_eq!(report["node"]["tick_time"]["buckets"], serde_json::json!([[0, 12]]));
        assert_eq!(report["shards"][0]["tick_time"]["count"], 5);
        let seats = serde_json::json!({"used": 64, "peak": 128, "limit": 1_000});
        assert_eq!(report["budgets"]["connections"], seats);
        assert_eq!(report["node"]["closes"]["1000"], 4);
        assert_eq!(report["node"]["publications"]["accepted"], 8);
        assert_eq!(report["node"]["deliveries"]["sent"], 12);
        assert_eq!(report["node"]["passed"]["messages_out"], 4);
        let pattern = &report["node"]["patterns"]["a.*"];
        assert_eq!((&pattern["subscribers"], &pattern["delivered"]), (&6.into(), &12.into()));
        assert_eq!(
            (&pattern["dropped"]["disconnect"], &pattern["histories_evicted"]),
            (&6.into(), &2.into())
        );
        assert_eq!(report["node"]["histories_evicted"], 2);
        assert_eq!(report["shards"][0]["deliveries"]["dropped"]["disconnect"], 3);
        assert_eq!(report["shards"][1]["shard"], 1);
        assert_eq!(report["shards"][1]["closes"]["1006"], 7);
    }
}
