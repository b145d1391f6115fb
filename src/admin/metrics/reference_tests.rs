//! The table of `docs/reference/metrics.md`, generated from the metrics, and that of the ends of connections in
//! `docs/contributing/metrics-to-code.md`, generated from the close codes, the causes and the source.
//!
//! The tests here fail where a document differs. With `UPDATE=1`, as in `scripts/docs --update`, they write the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::collect::{KNOWN_ENDS, families};
use super::family::{Families, Kind};
use super::{AllocatorFigures, set_allocator};
use crate::access::failed_attempts::AttemptFigures;
use crate::page::name_of_code;
use crate::report::Node;
use echoring_async::tls::CertificateReport;
use echoring_auth::BackendFigures;
use echoring_runtime::stats::End;
use echoring_server::machinery::TakeoverFigures;
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
        takeovers: TakeoverFigures::default(),
        webhooks: vec![("app.example:443".into(), Arc::default())],
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
    hold(PAGE, (BEGIN, END), &table(&all()));
}

/// The part of a page between two lines is this table.
fn hold(page: &str, (begin, end): (&str, &str), table: &str) {
    let path = root().join(page);
    let text = fs::read_to_string(&path).expect("the page");
    let (before, rest) = text.split_once(begin).expect("the beginning of the table");
    let (_, after) = rest.split_once(end).expect("the end of the table");
    let made = format!("{before}{begin}\n{table}\n{end}{after}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, made).expect("written");
    } else {
        assert!(made == text, "{page} differs from the source: run this test with UPDATE=1");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

const ENDS_PAGE: &str = "docs/contributing/metrics-to-code.md";
const ENDS: (&str, &str) = (
    "<!-- ends: made by scripts/docs --update from src, do not edit. -->\n",
    "<!-- ends: end of the part that scripts/docs made. -->\n",
);
/// The crates whose connections end in a server, or in the proxy.
const ENDING: [&str; 5] = ["broker", "proto", "proxy", "runtime", "server"];

/// The lines of a file that are neither comments nor tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let text = text.split_once("#[cfg(test)]\nmod ").map_or(text, |(code, _)| code);
    text.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

/// Files of the server's crates by path, with their code.
fn sources() -> BTreeMap<String, String> {
    let root = root();
    let mut folders: Vec<PathBuf> = ENDING.iter().map(|name| root.join("src").join(name)).collect();
    let mut sources = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let path = entry.strip_prefix(&root).expect("below").to_str().expect("UTF-8").to_owned();
            let of_tests = ["tests", "testing", "tests.rs"].iter().any(|name| path.ends_with(name));
            if entry.is_dir() && !of_tests {
                folders.push(entry);
            } else if path.ends_with(".rs") && !of_tests {
                let text = fs::read_to_string(&entry).expect("a file");
                sources.insert(path, code(&text).collect::<Vec<_>>().join("\n"));
            }
        }
    }
    sources
}

/// The files that name a constant or a variant, but for the one that defines it.
fn naming(sources: &BTreeMap<String, String>, name: &str, definition: &str) -> String {
    let is_name = |text: &str| {
        let ends = text.match_indices(name).map(|(at, _)| at + name.len());
        ends.into_iter().any(|end| !text[end..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    let files = sources.iter().filter(|(path, text)| *path != definition && is_name(text));
    files.map(|(path, _)| format!("`{path}`")).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_end_has_a_name_and_the_files_that_decide_it() {
    const CODES: &str = "src/proto/close.rs";
    const CAUSES: &str = "src/proto/connection/closed.rs";
    let sources = sources();
    let mut table = "| code | name | files that close with it |\n|---|---|---|\n".to_owned();
    let constants = sources[CODES].lines().filter_map(|line| {
        let (name, code) = line.strip_prefix("pub const ")?.split_once(": CloseCode = CloseCode(")?;
        Some((name, code.strip_suffix(");")?.parse().expect("a code")))
    });
    let mut count = 0;
    for (constant, code) in constants {
        count += 1;
        let files = naming(&sources, &format!("CloseCode::{constant}"), CODES);
        let _ = writeln!(table, "| {code} | {} | {files} |", name_of_code(code));
    }
    assert_eq!(count, 18, "as many as the page of the operator names");
    let _ = write!(table, "\n| cause | files that end a connection for it |\n|---|---|\n");
    let mut causes = BTreeSet::new();
    for line in sources[CAUSES].lines() {
        let Some((variant, name)) = line.strip_prefix("Cause::").and_then(|line| line.split_once(" => "))
        else {
            continue;
        };
        let variant = variant.split('(').next().expect("a variant");
        let name = match variant {
            "Tls" => "`tls-handshake`, `tls-alert`, `tls-record`".to_owned(),
            "NotAdmitted" => "the name of a limit or a rule".to_owned(),
            _ => format!("`{}`", name.trim_matches(['"', ','])),
        };
        causes.extend(name.split(", ").map(|name| name.trim_matches('`').to_owned()));
        let _ = writeln!(table, "| {name} | {} |", naming(&sources, &format!("Cause::{variant}"), CAUSES));
    }
    for (cause, codes) in KNOWN_ENDS {
        assert!(causes.contains(cause), "{cause} is no cause");
        assert!(codes.iter().filter(|code| **code < 3000).all(|code| !name_of_code(*code).is_empty()));
    }
    hold(ENDS_PAGE, ENDS, &table);
}

/// Where memory is: no gauge of bytes is missing on the dashboard.
#[test]
fn every_gauge_of_bytes_has_a_panel() {
    let dashboard = fs::read_to_string(root().join("packaging/grafana/echoring.json")).expect("a file");
    let of_bytes = |name: &str| name.starts_with("echoring_") && name.ends_with("_bytes");
    let gauges: Vec<_> =
        all().0.iter().filter(|family| family.kind == Kind::Gauge).map(|family| family.name).collect();
    let gauges: Vec<_> = gauges.into_iter().filter(|name| of_bytes(name)).collect();
    assert!(gauges.len() >= 14, "{gauges:?}");
    let missing: Vec<_> = gauges.iter().filter(|name| !dashboard.contains(&format!("{name}{{"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
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
