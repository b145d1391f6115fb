//! The metrics of operation: each is provoked once, and read.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use super::*;
use crate::attacks::server::{PATIENCE, tls_flags};

const ADMIN: &str = "0123456789abcdef-write";
const READER: &str = "0123456789abcdef-read";

/// The value of a sample of `/metrics`; `None` if there is none.
fn sample(server: &Server, name: &str) -> Option<f64> {
    let (status, text) = server.ask_admin("GET", "/metrics", &[&bearer(ADMIN)]);
    assert_eq!(status, 200, "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.map(|value| value.trim().parse().expect("a number"))
}

fn expect(server: &Server, name: &str, value: f64) {
    let deadline = Instant::now() + PATIENCE;
    while sample(server, name) != Some(value) {
        assert!(Instant::now() < deadline, "{name}: {:?} instead of {value}", sample(server, name));
    }
}

/// The status of an upgrade from an address of its own, with a connection that stays open.
fn upgrade_from(server: &Server, last: u8, before: &str, fields: &[&str]) -> (Peer, u16) {
    let mut peer = Peer::connect_from(server, IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    peer.send(&[before.as_bytes(), &upgrade("/echo", fields)].concat());
    let status = peer.answer().status;
    (peer, status)
}

#[test]
fn each_metric_of_operation_counts_what_it_is_for() {
    let [key, admin, reader, access] = [SECRET, ADMIN.as_bytes(), READER.as_bytes(), b""].map(TestFile::new);
    let settings = format!("[auth]\njwt_key = [{:?}]\nanonymous = true\n", key.path());
    let config = TestFile::new(&settings);
    let files = [
        config.flag("config"),
        admin.flag("admin-token-file"),
        reader.flag("admin-read-token-file"),
        access.flag("access-log"),
    ];
    let mut flags: Vec<&str> = files.iter().map(String::as_str).collect();
    flags.extend(["--watch=off", "--max-connections-per-address=1", "--ban-after=1"]);
    flags.extend(["--trusted-proxy=127.0.0.8", "--proxy-protocol"]);
    let server = Server::start(&flags);
    reloads_and_refusals(&server, &config, &settings);
    clients(&server);
    for gauge in ["reserved_bytes", "committed_bytes", "committed_peak_bytes", "pages"] {
        let value = sample(&server, &format!("echoring_allocator_{gauge}"));
        assert!(value.is_some_and(|value| value > 0.0), "{gauge}: {value:?}");
    }
    assert!(sample(&server, "echoring_allocator_mmap_calls_total").is_some_and(|calls| calls > 0.0));
}

fn reloads_and_refusals(server: &Server, config: &TestFile, settings: &str) {
    let reload = |token: &str| server.ask_admin("POST", "/reload", &[&bearer(token)]).0;
    assert_eq!(reload(ADMIN), 200);
    expect(server, "echoring_reloads_total{result=\"accepted\"}", 1.0);
    expect(server, "echoring_last_reload_refused", 0.0);
    fs::write(config.path(), "no_such_key = 1\n").expect("written");
    assert_ne!(reload(ADMIN), 200);
    expect(server, "echoring_reloads_total{result=\"refused\"}", 1.0);
    expect(server, "echoring_last_reload_refused", 1.0);
    fs::write(config.path(), settings).expect("written");
    assert_eq!(reload(READER), 403);
    expect(server, "echoring_admin_refusals_total{reason=\"forbidden\"}", 1.0);
    assert_eq!(server.ask_admin("GET", "/metrics", &[]).0, 401);
    expect(server, "echoring_admin_refusals_total{reason=\"unauthorized\"}", 1.0);
}

fn clients(server: &Server) {
    let (_anonymous, status) = upgrade_from(server, 10, "", &[]);
    assert_eq!(status, 101);
    expect(server, "echoring_authentications_total{method=\"none\"}", 1.0);
    assert_eq!(upgrade_from(server, 11, "", &[&bearer("a.b.c")]).1, 401);
    expect(server, "echoring_authentication_refusals_total{reason=\"invalid\"}", 1.0);
    let (_expiring, status) = upgrade_from(server, 12, "", &[&bearer(&jwt("carol", 2, json!({})))]);
    assert_eq!(status, 101);
    expect(server, "echoring_authentications_total{method=\"jwt\"}", 1.0);
    let mut session = session(server, &jwt("dave", 600, json!({})));
    let event = session.ask(&json!({"type": "authenticate", "id": 1, "token": jwt("dave", 700, json!({}))}));
    assert_eq!(event["type"], "authenticated", "{event}");
    expect(server, "echoring_tokens_refreshed_total", 1.0);
    let (_proxied, status) = upgrade_from(server, 8, "PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n", &[]);
    assert_eq!(status, 101);
    expect(server, "echoring_proxy_headers_total", 1.0);
    assert_eq!(upgrade_from(server, 10, "", &[]).1, 429);
    expect(server, "echoring_limited_total{limit=\"connections_per_address\"}", 1.0);
    expect(server, "echoring_bans_total", 1.0);
    // The refused ones have ended.
    expect(server, "echoring_credentials_ended_total{cause=\"expired\"}", 1.0);
    let written = sample(server, "echoring_access_log_records_total{result=\"written\"}");
    assert!(written.is_some_and(|written| written >= 2.0), "{written:?}");
}

#[test]
fn tls_sessions_are_counted_while_they_are_open() {
    let admin = TestFile::new(ADMIN);
    let token = admin.flag("admin-token-file");
    let server = Server::start(&[&[&*token], &tls_flags()[..]].concat());
    let mut peer = Peer::connect(&server);
    peer.upgrade("/echo");
    expect(&server, "echoring_tls_sessions", 1.0);
    peer.reset();
    expect(&server, "echoring_tls_sessions", 0.0);
}
