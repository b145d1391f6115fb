//! The metrics by name. `docs/reference/metrics.md` is generated from here.

mod cluster;
mod connections;
mod memory;
mod operation;
mod shards;
mod sum;
mod topics;

use std::sync::atomic::Ordering::Relaxed;

use super::family::Families;
use super::process;
use crate::ProgramMetric;
use crate::access::failed_attempts::AttemptFigures;
use crate::reload::ReloadCounters;
use crate::report::Node;
use echoring_auth::{BackendFigures, WebhookReceivers};
use echoring_runtime::stats::{ACCESS_LOG, Counters, LOG, TRACES};
use echoring_server::Snapshot;

/// All metrics, of all shards together unless they have the label `shard`.
pub(super) fn families(node: Node, snapshots: &[Snapshot]) -> Families {
    let mut counters = Counters::default();
    snapshots.iter().for_each(|snapshot| counters.add(&snapshot.counters));
    let mut out = Families::default();
    about(&mut out, &node, snapshots);
    operation::reloads(&mut out, &node.reloads);
    operation::processes(&mut out, &node.processes);
    operation::auth(&mut out, &node.auth, node.uptime_s);
    operation::calls(&mut out, &WebhookReceivers::METRICS, &node.webhooks);
    operation::admin(&mut out, node.admin);
    operation::calls(&mut out, &BackendFigures::METRICS, &node.backends);
    operation::certificates(&mut out, &node.certificates);
    cluster::collect(&mut out, node.cluster.as_ref());
    connections::collect(&mut out, node.bans, snapshots, &counters);
    topics::collect(&mut out, snapshots, &counters);
    memory::collect(&mut out, snapshots);
    shards::collect(&mut out, snapshots, &counters);
    log(&mut out);
    process::collect(&mut out);
    out
}

/// All metrics of a program that is not the server: its own, and those of what it shares with it.
pub(super) fn program_families(
    own: Vec<ProgramMetric>,
    reloads: &ReloadCounters,
    attempts: AttemptFigures,
) -> Families {
    let mut out = Families::default();
    for ProgramMetric { name, label, help, samples } in own {
        let family = if name.ends_with("_total") { out.counters(name) } else { out.gauges(name) };
        let labels = |value: String| if label.is_empty() { Vec::new() } else { vec![(label, value)] };
        family.samples(samples.into_iter().map(|(value, figure)| (labels(value), figure))).help(help);
    }
    operation::reloads(&mut out, reloads);
    operation::admin(&mut out, attempts);
    log(&mut out);
    process::collect(&mut out);
    out
}

fn about(out: &mut Families, node: &Node, snapshots: &[Snapshot]) {
    let driver = snapshots.first().map_or("", |snapshot| snapshot.driver);
    let build = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("driver", driver.to_owned()),
        ("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)),
    ];
    out.info("echoring_build_info", build.to_vec()).help("The program and its I/O driver.");
    let degraded = snapshots.first().map_or(&[][..], |snapshot| &snapshot.degraded);
    out.gauges("echoring_degraded_features")
        .by("feature", degraded.iter().map(|feature| (feature, 1u64)))
        .help("1 for each kernel feature that the driver would use but the kernel lacks.");
    out.gauge("echoring_uptime_seconds", node.uptime_s)
        .help("Time since the shards were started. The counters begin at zero then.");
    out.gauge("echoring_draining", u64::from(node.draining)).help("1 while the server drains.");
    let silent = node.shards.saturating_sub(snapshots.len()) as u64;
    out.gauge("echoring_silent_shards", silent)
        .help("Shards that did not answer within two seconds; their counts are missing from this response.");
}

fn log(out: &mut Families) {
    out.counters("echoring_log_records_lost_total")
        .by(
            "reason",
            [("dropped", LOG.dropped.load(Relaxed)), ("rate_limited", LOG.rate_limited.load(Relaxed))],
        )
        .help(
            "Log records not written: dropped (the log could not be written fast enough), rate_limited (too \
             many from one cause in the same second).",
        );
    out.counters("echoring_access_log_records_total")
        .by(
            "result",
            [("written", ACCESS_LOG.written.load(Relaxed)), ("dropped", ACCESS_LOG.dropped.load(Relaxed))],
        )
        .help(
            "Records of the access log, by result. Records are dropped if the queue is full or the file \
             cannot be written.",
        );
    out.counters("echoring_trace_spans_total")
        .by(
            "result",
            [("exported", TRACES.exported.load(Relaxed)), ("dropped", TRACES.dropped.load(Relaxed))],
        )
        .help(
            "Spans of handshakes and publications, by result, in programs that trace. Spans are dropped if \
             the queue is full or the collector does not accept them.",
        );
}
