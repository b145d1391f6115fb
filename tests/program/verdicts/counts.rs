//! What a run counts and fails by, and what is refused before it: servers that push, break the protocol, answer wrongly, or have
//! several addresses.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{SERVICE_TIME, Scratch, bench, echoring, last_line, slow_server};

/// A frame with a reserved opcode.
const RESERVED: &[u8] = &[0x83, 0];
/// A Close frame with the code 1000.
const CLOSED: &[u8] = &[0x88, 2, 3, 0xe8];

/// A server that completes the upgrade, sends these bytes, and keeps the connection.
fn offending_server(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let socket = tungstenite::accept(stream.try_clone().expect("a descriptor"));
            // Who is gone hears nothing.
            let _ = stream.write_all(bytes);
            kept.push((stream, socket));
        }
    });
    address
}

/// A server that answers each message with the same and five others before it.
fn pushing_server() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            thread::spawn(move || {
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                // A ping is answered by the library.
                while let Ok(message) = socket.read() {
                    let is_asked = message.is_text() || message.is_ping();
                    for number in 0..if is_asked { 5 } else { 0 } {
                        let push = format!("{{\"push\":{number}}}");
                        let _ = socket.send(tungstenite::Message::text(push));
                    }
                    if message.is_text() && socket.send(message).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn what_answers_no_request_is_not_counted_as_one() {
    let url = format!("ws://{}", pushing_server());
    let rules = r#"
        [[request]]
        name = "ask"
        send = '{"id":{{id}},"text":"{{payload|json}}"}'
        [[answer]]
        when = { json = "/id" }
        match = { json = "/id" }
    "#;
    let with_push = Scratch::new("pushes", &format!("{rules}[push]\nwhen = {{ json = \"/push\" }}\n"));
    let without = Scratch::new("no-pushes", rules);
    let load = ["-c", "2", "--rate", "100", "-d", "1s", "--allow-saturated"];
    for (protocol, code) in [(&with_push, 0), (&without, 1)] {
        let run = bench(
            &[&[url.as_str(), "--protocol", protocol.path(), "--fail-if", "messages>100"][..], &load[..]]
                .concat(),
        );
        let record = &run.json()["runs"][0];
        assert_eq!(run.code, Some(code), "{run}");
        assert_eq!(record["fail_if"][0]["failed"], false, "{run}");
        assert_eq!((&record["unsolicited"], &record["integrity"]["lost"]), (&500.into(), &0.into()), "{run}");
        let answered = record["messages"].as_u64().expect("a count");
        assert!((1..=100).contains(&answered), "what came in the drain is not among them: {run}");
        assert_eq!(record["protocol"]["requests"][0]["answered"], 100, "{run}");
    }
    let run = bench(&[&[url.as_str(), "--mode", "ping"][..], &load].concat());
    let record = &run.json()["runs"][0];
    assert_eq!((run.code, &record["unsolicited"]), (Some(0), &500.into()), "{run}");
    assert!(record["messages"].as_u64().expect("a count") <= 100, "{run}");
}

#[test]
fn a_connection_that_fails_is_counted_whether_or_not_the_server_lets_go_of_it() {
    for (bytes, cause) in [(RESERVED, Some("protocol")), (CLOSED, None)] {
        let url = format!("ws://{}", offending_server(bytes));
        for driver in ["uring", "epoll"] {
            for pace in [["--depth", "1"], ["--rate", "100"]] {
                let flags = [
                    url.as_str(),
                    "-d",
                    "500ms",
                    "--drain",
                    "200ms",
                    "--allow",
                    "unsent,lost",
                    "--driver",
                    driver,
                ];
                let run = bench(&[&flags[..], &pace].concat());
                let record = &run.json()["runs"][0];
                assert_eq!(run.code, Some(1), "{run}");
                assert_eq!(record["connections"]["ended_early"], 4, "{run}");
                let errors = record["errors"].as_object().expect("counts");
                let causes: Vec<&str> = errors.keys().filter_map(|cause| cause.split(':').next()).collect();
                assert_eq!(causes, Vec::from_iter(cause), "{run}");
                assert!(last_line(&run.stderr).starts_with("error: echo: no message arrived"), "{run}");
            }
        }
    }
}

#[test]
fn a_run_in_which_nothing_comes_fails() {
    // It answers, and pushes nothing.
    let silent = format!("ws://{}", slow_server(SERVICE_TIME));
    let run = bench(&[&silent, "--mode", "push"]);
    assert_eq!(run.code, Some(1), "{run}");
    let line = "error: push: no message arrived: 0 connections ended early, 0 errors";
    assert_eq!(last_line(&run.stderr), line, "{run}");
}

#[test]
fn what_no_run_of_a_load_can_have_is_refused_before_it() {
    // Nobody listens there.
    let url = "ws://127.0.0.1:1";
    for (flags, words) in [
        (&["--fail-if", "ping.p99>5ms"][..], "--ping-every"),
        (&["--fail-if", "back.p99>5s"], "--reconnect"),
        (&["--fail-if", "missed>0"], "--reconnect"),
        (&["--fail-if", "handshake.first_message.p99>5ms"], "--mode connect"),
        (&["--mode", "push", "--fail-if", "p99>5ms"], "--time-field"),
    ] {
        let run = bench(&[&[url][..], flags].concat());
        assert_eq!(run.code, Some(2), "{run}");
        assert!(run.stderr.contains(words) && run.stderr.lines().count() == 1, "{run}");
    }
}

#[test]
fn pings_as_the_load_have_the_figures_of_pings() {
    let url = format!("ws://{}", slow_server(SERVICE_TIME));
    let load = ["--mode", "ping", "--rate", "100", "-d", "1s", "--allow-saturated"];
    let run = bench(&[&[url.as_str()][..], &load, &["--fail-if", "ping.p99>3000s"]].concat());
    assert_eq!(run.code, Some(0), "{run}");
    let ping = &run.json()["runs"][0]["ping"];
    assert_eq!((&ping["sent"], &ping["answered"]), (&100.into(), &100.into()), "{run}");
    assert_eq!(ping["rtt_ns"]["count"], 100, "{run}");
}

/// A server on an address that echoes, with its number of connections.
fn echoes_at(address: &str) -> Option<(u16, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind(address).ok()?;
    let port = listener.local_addr().ok()?.port();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            let count = count.clone();
            thread::spawn(move || {
                // One that only looks whether somebody answers has no request.
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                count.fetch_add(1, Ordering::Relaxed);
                while let Ok(message) = socket.read() {
                    if message.is_text() && socket.send(message).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Some((port, opened))
}

#[test]
fn of_the_addresses_of_a_name_one_that_answers_is_measured() {
    let (port, opened) = echoes_at("127.0.0.1:0").expect("a free port");
    let url = format!("ws://server.example:{port}");
    let resolve = |address: &str| format!("server.example:{port}:{address}");
    // Nobody listens on the first.
    let flags = ["--resolve", &resolve("127.0.0.3"), "--resolve", &resolve("127.0.0.1")];
    let run = bench(&[&[&*url, "-d", "1s", "-c", "10"][..], &flags].concat());
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(opened.swap(0, Ordering::Relaxed), 10, "{run}");
    let (_, other) = echoes_at(&format!("127.0.0.3:{port}")).expect("a free port of another address");
    let run = bench(&[&[&*url, "-d", "1s", "-c", "10", "--all-addresses"][..], &flags].concat());
    assert_eq!((run.code, &run.json()["runs"][0]["target"]), (Some(0), &url.into()), "{run}");
    assert_eq!([opened, other].map(|opened| opened.load(Ordering::Relaxed)), [5, 5], "{run}");
}

#[test]
fn a_wrong_answer_ends_a_trial_with_what_was_compared() {
    let url = format!("ws://{}", slow_server(SERVICE_TIME));
    let request = "[[request]]\nname = \"ask\"\nsend = '{\"id\":{{id}},\"text\":\"{{payload|json}}\"}'\n";
    let answer = "[[answer]]\nmatch = { json = \"/id\" }\n";
    for (rule, words) in [
        ("payload = { json = \"/other\" }", "nothing is at /other, where the payload `"),
        ("payload = { json = \"/id\" }", "`1` is at /id, where the payload `"),
        ("expect = { json = \"/id\", equals = 7 }", "`1` is where /id = 7 should hold"),
        ("error = { json = \"/text\" }", "the answer is an error, as /text exists"),
    ] {
        let file = Scratch::new("wrong", &format!("{request}{answer}{rule}\n"));
        let begun = std::time::Instant::now();
        let run = echoring(&["bench", &url, "--protocol", file.path(), "--try"]);
        assert_eq!(run.code, Some(1), "{run}");
        assert!(
            run.stdout.contains("failed     request ask: ") && run.stdout.contains(words),
            "{words}: {run}"
        );
        assert!(begun.elapsed() < Duration::from_secs(4), "nobody waits for another answer: {run}");
    }
}
