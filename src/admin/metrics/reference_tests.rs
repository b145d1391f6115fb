//! The table of `docs/reference/metrics.md`, generated from the metrics.
//!
//! The test here fails where the document differs. With `UPDATE=1`, as in `scripts/docs --update`, it writes the table.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::collect::families;
use super::family::{Families, Kind};
use super::{AllocatorFigures, set_allocator};
use crate::access::failed_attempts::AttemptFigures;
use crate::report::Node;
use echoring_async::tls::CertificateReport;
use echoring_auth::BackendFigures;
use echoring_runtime::stats::End;
use echoring_server::{AuthCounters, AuthFigures, ClusterStatus, KeySetFigures, NodeStatus, Snapshot};

const PAGE: &str = "docs/reference/metrics.md";
const BEGIN: &str = "<!-- metrics: made by scripts/docs --update from src/admin, do not edit. -->\n";
const END: &str = "<!-- metrics: end of the part that scripts/docs made. -->\n";

/// Metrics of which each has a sample.
fn all() -> Families {
    set_allocator(|| Some(AllocatorFigures::default()));
    let mut snapshot = Snapshot::default();
    (snapshot.driver, snapshot.degraded) = ("uring", vec!["receive-total"]);
    snapshot.counters.ends.insert(End { code: Some(1000), cause: "peer" }, 1);
    snapshot.counters.answers.insert(200, 1);
    let member = NodeStatus { round_trip_us: Some(1), ..NodeStatus::default() };
    let node = Node {
        uptime_s: 1.0,
        draining: false,
        control: "tokio",
        shards: 1,
        reloads: Arc::default(),
        auth: AuthFigures { key_set: Some(KeySetFigures::default()), ..AuthCounters::default().figures() },
        admin: AttemptFigures::default(),
        backends: vec![BackendFigures::default()],
        failed_takeovers: 0,
        bans: 0,
        certificates: vec![CertificateReport {
            file: "server.pem".into(),
            number: 1,
            expires_at: 0,
            key: "ecdsa-p256".to_owned(),
        }],
        cluster: Some(ClusterStatus { members: vec![member], ..ClusterStatus::default() }),
    };
    families(node, &[snapshot])
}

fn table(families: &Families) -> String {
    let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for family in &families.0 {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        let (labels, _) = family.samples.first().expect("each metric has a sample");
        let labels: Vec<String> = labels.iter().map(|(name, _)| format!("`{name}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        // Writing to a string does not fail.
        let _ = writeln!(table, "| `{}` | {kind} | {labels} | {} |", family.name, family.help);
    }
    table
}

#[test]
fn the_reference_lists_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PAGE);
    let text = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the table");
    let (_, after) = rest.split_once(END).expect("the end of the table");
    let made = format!("{before}{BEGIN}\n{}\n{END}{after}", table(&all()));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, made).expect("written");
    } else {
        assert!(made == text, "{PAGE} differs from the metrics: run this test with UPDATE=1");
    }
}

#[test]
fn names_follow_the_conventions_and_occur_once() {
    let mut names = BTreeSet::new();
    for family in all().0 {
        let name = family.name;
        assert!(names.insert(name), "{name} occurs twice");
        assert!(name.starts_with("echoring_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_info"), family.kind == Kind::Info, "{name}");
        assert!(family.help.ends_with('.'), "the help of {name} is no sentence");
        assert!(!family.help.contains(['\n', '|', '\\']), "{name}");
    }
}

#[test]
fn no_label_set_occurs_twice() {
    for family in all().0 {
        let labels: BTreeSet<_> = family.samples.iter().map(|(labels, _)| labels).collect();
        assert_eq!(labels.len(), family.samples.len(), "{}", family.name);
    }
}
