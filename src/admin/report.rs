//! The response of `GET /stats`: the shards' snapshots as JSON, individually and summed.
//!
//! Scripts rely on its form: fields are added, never renamed. Maps have close codes, HTTP statuses or causes as keys
//! and counts as values.

pub(crate) mod limits_report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use echoring_async::tls::CertificateReport;
use echoring_proto::Merge;
use echoring_proto::connection::Compressed;
use echoring_runtime::stats::{BudgetFigures, Counters, LOG};
use echoring_topics::{Deliveries, Passed, PatternCounts, Publications};

use super::reload::ReloadCounters;
use crate::access::failed_attempts::AttemptFigures;
use echoring_auth::{BackendFigures, WebhookReceiver};
use echoring_server::machinery::ProcessFigures;
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
    /// The runtime of the control thread.
    control: &'static str,
    /// Shards that did not answer in time; their counters are missing from `node`.
    silent_shards: usize,
    budgets: BudgetReport,
    log: LogFigures,
    reloads: &'a ReloadCounters,
    auth: &'a AuthFigures,
    admin: AdminFigures,
    node: Figures<'a>,
    shards: Vec<ShardReport<'a>>,
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
    memory_bytes: BudgetFigures,
    compression_bytes: BudgetFigures,
    connections: BudgetFigures,
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
    #[serde(flatten)]
    counters: &'a Counters,
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
    compression: Compressed,
    publications: Publications,
    deliveries: Deliveries,
    passed: Passed,
    histories_evicted: u64,
    /// By the pattern of the topics.
    patterns: BTreeMap<Box<str>, PatternCounts>,
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
        self.compression.add(&snapshot.compressed);
        self.publications.add(&hub.publications);
        self.deliveries.add(&hub.deliveries);
        self.passed.add(&hub.passed);
        self.histories_evicted += hub.histories_evicted;
        Merge::merge(&mut self.patterns, &hub.patterns);
    }
}

/// The state of the control thread itself.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) uptime_s: f64,
    pub(super) draining: bool,
    pub(super) control: &'static str,
    pub(super) shards: usize,
    pub(super) reloads: Arc<ReloadCounters>,
    pub(super) auth: AuthFigures,
    pub(super) backends: Vec<BackendFigures>,
    /// The receivers of webhooks.
    pub(super) webhooks: Vec<WebhookReceiver>,
    pub(super) admin: AttemptFigures,
    /// Figures of the processes before and after this one.
    pub(super) processes: ProcessFigures,
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
    /// Connections of the previous server, which cannot be balanced.
    predecessor: u64,
}

/// The result of a rebalancing in JSON.
pub(super) fn rebalanced(balanced: &Rebalanced, predecessor: u64) -> serde_json::Result<Vec<u8>> {
    let Rebalanced { moved, connections, .. } = balanced;
    serde_json::to_vec(&RebalanceReport { moved: *moved, connections, predecessor })
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
        log: LogFigures { dropped: LOG.dropped.load(Relaxed), rate_limited: LOG.rate_limited.load(Relaxed) },
        reloads: &node.reloads,
        auth: &node.auth,
        admin: AdminFigures { refused: node.admin },
        node: Figures { gauges, counters: &counters },
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
        figures: Figures { gauges, counters: &snapshot.counters },
    }
}

#[cfg(test)]
mod tests {
    use echoring_proto::connection::Cause;
    use echoring_proto::limits::SECOND;
    use echoring_runtime::stats::{Account, Durations, End};
    use echoring_topics::HubReport;

    use super::*;

    fn counters(messages_in: u64) -> Counters {
        let mut counters = Counters::default();
        counters.traffic.at(Account::HANDSHAKE).messages_in = messages_in;
        counters.tick_time.record(SECOND, messages_in);
        counters.ends.insert(End::by(&Cause::Peer, Some(1000)), 2);
        counters.ends.insert(End::by(&Cause::Gone, Some(1006)), messages_in);
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
            processes: ProcessFigures::default(),
            webhooks: Vec::new(),
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

    #[test]
    fn buckets_that_are_empty_are_left_out() {
        let mut durations = Durations::default();
        durations.record(0, 2);
        durations.record(SECOND, 3);
        durations.record(2 * SECOND, 1);
        let json = serde_json::to_value(durations).expect("plain data");
        let expected =
            serde_json::json!({"count": 6, "sum_ns": 5 * SECOND, "zero": 2, "buckets": [[0, 3], [8, 1]]});
        assert_eq!(json, expected);
    }
}
