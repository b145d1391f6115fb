//! The table of `docs/reference/metrics.md`, generated from the metrics, and that of the ends of connections in
//! `docs/contributing/metrics-to-code.md`, generated from the close codes, the causes and the source.
//!
//! The tests here fail where a document differs. With `UPDATE=1`, as in `scripts/docs --update`, they write the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::collect::families;
use super::family::{Families, Kind};
use super::{AllocatorFigures, set_allocator};
use crate::access::failed_attempts::AttemptFigures;
use crate::report::Node;
use echoring_async::tls::CertificateReport;
use echoring_auth::{BackendFigures, Denied};
use echoring_proto::CloseCode;
use echoring_proto::connection::{Cause, CauseRow, TlsFault};
use echoring_runtime::admission::Limit;
use echoring_runtime::stats::End;
use echoring_server::machinery::ProcessFigures;
use echoring_server::{AuthCounters, AuthFigures, ClusterStatus, KeySetFigures, NodeStatus, Snapshot};
use echoring_topics::Refused;

const PAGE: &str = "docs/reference/metrics.md";
const BEGIN: &str = "<!-- metrics: made by scripts/docs --update from src/admin, do not edit. -->\n";
const END: &str = "<!-- metrics: end of the part that scripts/docs made. -->\n";

/// Metrics of which each has a sample.
fn all() -> Families {
    set_allocator(|| Some(AllocatorFigures::default()));
    let mut snapshot = Snapshot::default();
    (snapshot.driver, snapshot.degraded) = ("uring", vec!["receive-total"]);
    snapshot.counters.ends.insert(End::by(&Cause::Peer, Some(1000)), 1);
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
        processes: ProcessFigures::default(),
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

/// The files that name a constant or a variant.
fn naming(sources: &BTreeMap<String, String>, name: &str) -> String {
    let is_name = |text: &str| {
        let ends = text.match_indices(name).map(|(at, _)| at + name.len());
        ends.into_iter().any(|end| !text[end..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    let files = sources.iter().filter(|(_, text)| is_name(text));
    files.map(|(path, _)| format!("`{path}`")).collect::<Vec<_>>().join(", ")
}

/// The status and the reason of each refusal in a file, from rows such as `HOST = 403, "host not allowed", …`.
fn refusals<'a>(path: &'a str, text: &'a str) -> impl Iterator<Item = (u16, &'a str, &'a str)> {
    text.lines().filter_map(move |line| {
        let (_, row) = line.split_once(" = ")?;
        let (status, rest) = row.split_once(", \"")?;
        Some((status.parse().ok()?, rest.split_once("\", \"")?.0, path))
    })
}

#[test]
fn every_end_limit_and_refusal_is_listed_with_the_files_that_decide_it() {
    let mut sources = sources();
    // Its own use of some codes closes nothing.
    sources.remove("src/proto/close.rs");
    let files = |name: &str| naming(&sources, name);
    let mut table = "| code | name | files that close with it |\n|---|---|---|\n".to_owned();
    for (constant, code, name) in CloseCode::NAMED {
        let _ = writeln!(table, "| {code} | {name} | {} |", files(&format!("CloseCode::{constant}")));
    }
    let _ = write!(table, "\n| cause | files that end a connection for it |\n|---|---|\n");
    for CauseRow { variant, name, .. } in Cause::ROWS {
        let names = match *variant {
            "Tls" => TlsFault::ALL.map(|fault| format!("`{}`", fault.name())).join(", "),
            "NotAdmitted" => (*name).to_owned(),
            _ => format!("`{name}`"),
        };
        let _ = writeln!(table, "| {names} | {} |", files(&format!("Cause::{variant}")));
    }
    let _ = write!(table, "\n| limit | files that hold clients to it |\n|---|---|\n");
    for limit in Limit::ALL {
        let _ = writeln!(table, "| `{}` | {} |", limit.name(), files(&format!("Limit::{limit:?}")));
    }
    let _ = write!(table, "\n| HTTP status | reason | file of the refusal |\n|---|---|---|\n");
    let mut refusals: BTreeSet<_> = sources.iter().flat_map(|(path, text)| refusals(path, text)).collect();
    refusals.extend(Denied::ALL.map(|denied| {
        let (status, reason, _) = denied.response();
        (status, reason, "src/auth/question.rs")
    }));
    for (status, reason, path) in refusals {
        let _ = writeln!(table, "| {status} | {reason} | `{path}` |");
    }
    hold(ENDS_PAGE, ENDS, &table);
}

/// Pages that describe them in their own words name each.
#[test]
fn the_pages_name_every_limit_and_every_refusal() {
    let page = |name: &str| fs::read_to_string(root().join("docs").join(name)).expect("a page");
    let limits = page("reference/limits.md");
    for limit in Limit::ALL.map(Limit::name) {
        let names = [format!("`{limit}`"), format!("`--max-{} N`", limit.replace('_', "-"))];
        assert!(names.iter().any(|name| limits.contains(name)), "{limit}");
    }
    let clients = page("guide/authenticate.md");
    for denied in Denied::ALL {
        let (begin, word) = (format!("| {} |", denied.response().0), format!("`{}`", denied.word()));
        assert!(clients.lines().any(|line| line.starts_with(&begin) && line.contains(&word)), "{denied:?}");
    }
    let topics = page("reference/broadcast.md");
    let (_, temporary) = topics.split_once("\nThese are temporary").expect("a sentence");
    let (temporary, codes) = temporary.split_once("\n\n").expect("its end");
    for refused in Refused::ALL {
        let code = format!("`{}`", refused.code());
        assert!(codes.lines().any(|line| line.starts_with("| ") && line.contains(&code)), "{code}");
        assert_eq!(temporary.contains(&code), refused.is_passing(), "{code}");
    }
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
