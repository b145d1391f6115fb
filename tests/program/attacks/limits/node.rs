//! Limits of the node, and on sizes: clients over one are told, counted, logged with their address, and not banned.

use std::time::Duration;

use serde_json::json;

use super::super::centrifuge::Client;
use super::super::compression::compressed;
use super::super::deflate::bomb;
use super::rates::open_session;
use super::*;
use crate::attacks::peer::{BINARY, FIN, TEXT, frame, header, request};

/// Limits that need the addresses of clients, so that these are known before anybody goes over another limit.
const KNOWN: [&str; 2] = ["--max-connections-per-address=100", "--ban-after=1"];

/// Makes clients go over a limit so many times, with both drivers, and with addresses that are known and ones that are not.
fn each_is_told(flags: &[&str], limit: &str, times: u64, offend: impl Fn(&Server) -> Vec<Peer> + Sync) {
    let [uring, epoll] = ["auto", "epoll"].map(|driver| ["--driver", driver]);
    let [known_uring, known_epoll] = [&uring, &epoll].map(|driver| [&driver[..], &KNOWN].concat());
    at_once(&[&uring, &epoll, &known_uring, &known_epoll], flags, |server| {
        let held = offend(server);
        let line = server.wait_for_log("address over a limit");
        assert!(line.contains("peer=127.0.0.7") && line.contains(&format!("limit=\"{limit}\"")), "{line}");
        assert_eq!(limited(server, limit), times);
        let report = server.get("/limits");
        assert_eq!((&report["limited"][limit], &report["bans"]), (&times.into(), &0.into()), "{report}");
        let sample = format!("echoring_limited_total{{limit=\"{limit}\"}} {times}\n");
        assert!(server.ask_admin("GET", "/metrics", &[]).1.contains(&sample), "{sample}");
        held.into_iter().for_each(Peer::reset);
        server.wait_for_nobody();
    });
}

#[test]
fn a_client_for_which_the_node_has_no_connection_is_told_counted_and_logged() {
    each_is_told(&["--max-connections=1"], "connections", 2, |server| {
        let (held, answer) = answer_from(server, STRANGER, &[]);
        assert_eq!(answer.status, 101);
        for _ in 0..2 {
            assert_eq!(answer_from(server, STRANGER, &[]).1.status, 503);
        }
        vec![held]
    });
}

#[test]
fn a_client_for_which_the_node_has_no_connection_is_logged_without_a_tls_handshake() {
    let [uring, epoll] = ["auto", "epoll"].map(|driver| [&["--driver", driver][..], &tls_flags()].concat());
    let known = [&uring[..], &KNOWN].concat();
    at_once(&[&uring, &epoll, &known], &["--max-connections=1"], |server| {
        let (held, answer) = answer_from(server, STRANGER, &[]);
        assert_eq!(answer.status, 101);
        let before = server.figure("tls_handshakes");
        assert!(Peer::connect_from(server, STRANGER).shake().is_err(), "a handshake was made");
        let line = server.wait_for_log("address over a limit");
        assert!(line.contains("peer=127.0.0.7") && line.contains("limit=\"connections\""), "{line}");
        assert_eq!((limited(server, "connections"), server.figure("tls_handshakes")), (1, before));
        held.reset();
        server.wait_for_nobody();
    });
}

#[test]
fn a_check_of_life_is_answered_whatever_limit_its_client_is_over() {
    let limits = [
        ("max_connections = 1", 503),
        ("max_connections_per_address = 1", 429),
        ("handshake_rate_per_address = 1", 429),
        ("handshake_rate = 1", 503),
    ];
    let runs = limits.into_iter().flat_map(|limit| [(limit, "auto"), (limit, "epoll")]);
    for ((limit, expected), driver) in runs {
        let config = TestFile::new(limit);
        at_once(&[&["--driver", driver]], &[&config.flag("config"), "--watch", "off"], |server| {
            let held = answer_from(server, STRANGER, &[]);
            assert_eq!(held.1.status, 101);
            let get = |path: &str| status_of(server, &request(&format!("GET {path} HTTP/1.1"), &["Host: a"]));
            for _ in 0..20 {
                assert_eq!(get("/healthz"), 200, "{limit}");
                // It opens nothing.
                assert_ne!(status_of(server, &upgrade("/healthz", &[])), 101, "{limit}");
            }
            // Readiness, and everything else, is as it was: at most one a second is let in by the rates.
            let statuses: Vec<u16> = (0..20).map(|_| get("/readyz")).collect();
            assert!(statuses.contains(&expected), "{limit}: {statuses:?}");
            assert!(statuses.iter().all(|status| [200, expected].contains(status)), "{limit}: {statuses:?}");
            held.0.reset();
            server.wait_for_nobody();
            // Another client is let in next, which the rate of all need not allow yet.
            fs::write(config.path(), "max_topics = 65536\n").expect("written");
            assert_eq!(server.ask_admin("POST", "/reload", &[]).0, 200);
        });
    }
}

/// A request from the stranger, and the status of its answer.
fn status_of(server: &Server, request: &[u8]) -> u16 {
    let mut peer = Peer::connect_from(server, STRANGER);
    peer.send(request);
    peer.answer().status
}

#[test]
fn a_topic_too_many_for_the_node_is_told_counted_and_logged() {
    let config = TestFile::new("[topic_defaults]\npublish = 'everybody'\n");
    let flags = [&config.flag("config"), "--max-topics=1", "--shards", "2"];
    each_is_told(&flags, "topics", 6, |server| {
        let mut held = Peer::connect_from(server, STRANGER);
        held.upgrade("/broadcast/one");
        assert_eq!(status_of(server, &upgrade("/broadcast/two", &[])), 503);
        assert_eq!(status_of(server, &request("GET /sse/three HTTP/1.1", &["Host: a"])), 503);
        let mut session = open_session(server, STRANGER, &[]);
        for (verb, topic) in [("subscribe", "four"), ("publish", "five")] {
            let request = json!({"type": verb, "id": 1, "topic": topic, "data": 1}).to_string();
            session.send(&frame(TEXT, request.as_bytes()));
            let event: Value = serde_json::from_slice(&session.message().1).expect("JSON");
            assert_eq!(event["code"], "too-many-topics", "{event}");
        }
        let mut client = Client::over(Peer::connect_from(server, STRANGER));
        client.ask(json!({"connect": {}}));
        let refused = client.error(json!({"subscribe": {"channel": "six"}}));
        assert_eq!(refused, 106, "the limit of the SDKs");
        let (status, body) = server.post("/topics/seven", b"x").expect("an answer");
        assert_eq!((status, &body["error"]["code"]), (503, &"too-many-topics".into()));
        vec![held, session, client.peer]
    });
}

#[test]
fn an_operator_over_the_topics_of_the_node_is_logged() {
    on_both_drivers(&["--max-topics=1"], |server| {
        let mut held = Peer::connect_from(server, STRANGER);
        held.upgrade("/broadcast/one");
        for count in 1..=2 {
            assert_eq!(server.post("/topics/two", b"x").expect("an answer").0, 503);
            assert_eq!(limited(server, "topics"), count);
        }
        let line = server.wait_for_log("address over a limit");
        assert!(line.contains("peer=127.0.0.1 ") && line.contains("limit=\"topics\""), "{line}");
    });
}

#[test]
fn a_message_that_is_too_big_is_told_counted_and_logged() {
    each_is_told(&["--max-message=1KiB", "--compress=on"], "message_size", 4, |server| {
        let offences = [
            frame(BINARY, &[7; 1_025]),
            header(FIN | BINARY, 1 << 40),
            compressed(BINARY, &bomb(1_025)),
            compressed(BINARY, &[7; 4_096]),
        ];
        let peers = offences.map(|offence| {
            let deflate = "Sec-WebSocket-Extensions: permessage-deflate";
            let (mut peer, answer) = answer_from(server, STRANGER, &[deflate]);
            assert_eq!(answer.status, 101);
            peer.send(&offence);
            assert_eq!(peer.close_frame(), Some(1009));
            peer
        });
        peers.into()
    });
}

#[test]
fn a_message_that_stops_arriving_is_told_counted_and_logged_and_a_slow_one_is_echoed() {
    each_is_told(&["--message-progress-time=4s"], "message_progress", 1, |server| {
        let mut peer = Peer::connect_from(server, STRANGER);
        peer.upgrade("/echo");
        let (payload, began) = (vec![7; 8 * 1024], Instant::now());
        // Each kibibyte comes in time, and the message takes longer.
        for piece in frame(BINARY, &payload).chunks(1_100) {
            peer.send(piece);
            thread::sleep(Duration::from_millis(600));
        }
        assert!(began.elapsed() > Duration::from_secs(4));
        assert_eq!(peer.message(), (BINARY, payload));
        peer.send(&header(FIN | BINARY, 8 * 1024));
        assert_eq!(peer.close_frame(), Some(4009));
        vec![peer]
    });
}

#[test]
fn a_request_head_that_is_too_big_is_told_counted_and_logged() {
    each_is_told(&["--max-header=2KiB"], "header_size", 3, |server| {
        let many: Vec<String> = (0..100).map(|at| format!("X-{at}: y")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let offences = [
            upgrade_of(2 * 1024 + 1),
            upgrade_of(20_000),
            request("GET / HTTP/1.1", &[&["Host: a"], &many[..]].concat()),
        ];
        let peers = offences.map(|offence| {
            let mut peer = Peer::connect_from(server, STRANGER);
            peer.send(&offence);
            assert_eq!(peer.answer().status, 431);
            peer
        });
        peers.into()
    });
}

/// A request for an upgrade of so many bytes.
pub(super) fn upgrade_of(bytes: usize) -> Vec<u8> {
    let filler = |bytes: usize| format!("X: {}", "x".repeat(bytes));
    let least = upgrade("/echo", &[&filler(0)]).len();
    upgrade("/echo", &[&filler(bytes - least)])
}

/// No buffer in front of the parser is smaller: not the one for bytes of unknown clients, and not that of TLS.
#[test]
fn a_request_head_of_the_maximum_size_is_accepted_on_every_way() {
    const BYTES: usize = 64 * 1024;
    let [uring, epoll] = ["auto", "epoll"].map(|driver| ["--driver", driver]);
    let [known_uring, known_epoll] = [&uring, &epoll].map(|driver| [&driver[..], &KNOWN].concat());
    let secure = [&uring[..], &KNOWN, &tls_flags()].concat();
    let proxied = [&uring[..], &["--trusted-proxy=127.0.0.7", "--proxy-protocol"]].concat();
    let servers: [&[&str]; 6] = [&uring, &epoll, &known_uring, &known_epoll, &secure, &proxied];
    at_once(&servers, &["--max-header=64KiB"], |server| {
        let is_proxied = server.get("/limits")["limits"]["proxy_protocol"] == true;
        let header = if is_proxied { "PROXY TCP4 192.0.2.7 127.0.0.1 12345 80\r\n" } else { "" };
        for (bytes, status) in [(BYTES, 101), (BYTES + 1, 431)] {
            let mut peer = Peer::connect_from(server, STRANGER);
            peer.send(&[header.as_bytes(), &upgrade_of(bytes)].concat());
            assert_eq!(peer.answer().status, status, "{bytes}");
        }
    });
}
