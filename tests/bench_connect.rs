//! Connections as what `echoring bench` measures: the real binary against the real server and against one that misbehaves.

#[path = "support/certificate.rs"]
#[expect(dead_code, reason = "what a client in this process would speak")]
mod certificate;
#[path = "support/program.rs"]
mod program;

use serde_json::Value;

use certificate::certificate;
use program::{Run, Serve, command};

/// A run for a short time, and its record.
fn bench(url: &str, flags: &[&str]) -> (Run, Value) {
    let common = ["bench", url, "--warmup", "0s", "-d", "400ms", "--json", "-"];
    let run = Run::from(command(&common).args(flags).output().expect("the binary runs"));
    let mut json = run.json();
    let runs = json["runs"].as_array_mut().expect("runs");
    assert_eq!(runs.len(), 1, "{run}");
    let record = runs.remove(0);
    (run, record)
}

/// A server that speaks TLS, its URL, and the file of the certificate that vouches for it.
fn secured() -> (Serve, String, &'static str) {
    let files = certificate();
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().expect("a name in UTF-8"));
    let server = Serve::start(&["--shards", "1", "--tls-cert", cert, "--tls-key", key]);
    let url = format!("wss://127.0.0.1:{}", server.address.port());
    (server, url, cert)
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no count: {value}"))
}

#[test]
fn every_mode_times_the_opening_of_its_connections() {
    let server = Serve::start(&["--shards", "1"]);
    for mode in ["echo", "broadcast"] {
        let (run, record) = bench(&server.url(), &["--mode", mode, "-c", "30", "--threads", "2"]);
        let found = &record["handshake"];
        assert_eq!((count(&found["count"]), count(&found["resumed"])), (30, 0), "{run}");
        for step in ["connect_ns", "upgrade_ns", "total_ns"] {
            assert_eq!(found[step]["count"], 30, "{step}: {run}");
        }
        assert_eq!((&found["tls_ns"], &found["first_message_ns"]), (&Value::Null, &Value::Null), "{run}");
        let mean = |step: &str| found[step]["mean"].as_f64().expect("a number");
        assert!(mean("upgrade_ns") > 1_000.0, "{run}");
        let sum = mean("connect_ns") + mean("upgrade_ns");
        // Exact to three digits.
        assert!((mean("total_ns") / sum - 1.0).abs() < 2e-3, "{run}");
    }
}

#[test]
fn the_steps_of_tls_are_told_apart_and_can_be_asked_for() {
    let (_server, url, ca) = secured();
    let asked = ["--fail-if", "handshake.tls.p99>1s", "--fail-if", "handshake.p50<1us"];
    let flags = ["-c", "20", "--threads", "1", "--ca-file", ca];
    let (run, record) = bench(&url, &[&flags[..], &asked].concat());
    let found = &record["handshake"];
    assert_eq!((&found["count"], &found["tls_ns"]["count"]), (&20.into(), &20.into()), "{run}");
    assert_eq!(found["resumed"], record["tls"]["resumed"], "{run}");
    for (at, name) in ["handshake.tls.p99", "handshake.p50"].into_iter().enumerate() {
        let judged = &record["fail_if"][at];
        assert_eq!(judged["failed"], false, "{run}");
        assert!(judged["seen"][name].as_f64() > Some(1_000.0), "{run}");
    }
}
