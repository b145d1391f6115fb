//! Connections of `echoring bench` that come and go: reconnects, lifetimes, a ramp and storms, against a server that
//! counts.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{planted, program};
use serde_json::{Value, json};

use planted::{Fault, Server};
use program::{Run, Serve, command};

fn bench(url: &str, flags: &[&str]) -> (Run, Value) {
    let common = ["bench", url, "--json", "-", "--allow-saturated"];
    let run: Run = command(&common).args(flags).output().expect("the binary runs").into();
    let record = run.json()["runs"][0].take();
    (run, record)
}

fn url(server: &Server) -> String {
    format!("ws://{}", server.address)
}

fn count(record: &Value, pointer: &str) -> u64 {
    let number = record.pointer(pointer).and_then(Value::as_u64);
    number.unwrap_or_else(|| panic!("{pointer}: {record:#}"))
}

/// All integrity counts are 0, but for these.
fn assert_integrity(record: &Value, expected: &[(&str, u64)]) {
    for (name, found) in record["integrity"].as_object().expect("counts") {
        let expected = expected.iter().find(|(other, _)| other == name).map_or(0, |(_, number)| *number);
        assert_eq!(found.as_u64(), Some(expected), "{name}: {record:#}");
    }
}

#[test]
fn connections_that_end_come_back_and_what_was_in_flight_is_lost() {
    let server = Server::start(Fault::Close(50, 4001));
    let flags = [
        "-c",
        "3",
        "--depth",
        "4",
        "-d",
        "1s",
        "--warmup",
        "0s",
        "--reconnect",
        "5ms..20ms",
        "--allow",
        "lost,closed",
    ];
    let (run, record) = bench(&url(&server), &flags);
    let owed = server.finish().unanswered.load(Ordering::Relaxed);
    let [ended, back, away] = ["/reconnects/ended", "/reconnects/back_ns/count", "/reconnects/not_back"]
        .map(|at| count(&record, at));
    assert!(ended > 10, "{run}");
    assert_eq!(ended, back + away, "{run}");
    // Some may end when the run is over, and stay away.
    let late = count(&record, "/connections/ended_early") - away;
    assert_eq!(count(&record, "/closes/4001"), ended + late, "{run}");
    assert_eq!(count(&record, "/connections/opened"), 3 + back, "{run}");
    assert!(late <= 3, "{run}");
    assert_eq!(record["reconnects"]["refused"], json!({}), "{run}");
    // Each had its depth in flight.
    assert!((4 * ended..=4 * (ended + late)).contains(&owed), "{owed}: {run}");
    assert_integrity(&record, &[("lost", owed)]);
    assert_eq!((run.code, &record["errors"]), (Some(0), &json!({})), "{run}");
    assert_eq!(record["config"]["reconnect"], "5ms..20ms", "{run}");
}

#[test]
fn messages_that_are_due_meanwhile_wait_for_the_return() {
    let server = Server::start(Fault::Close(50, 4001));
    let flags = [
        "-c",
        "2",
        "--rate",
        "200",
        "-d",
        "1500ms",
        "--warmup",
        "0s",
        "--reconnect",
        "100ms",
        "--allow",
        "lost",
    ];
    let (run, record) = bench(&url(&server), &flags);
    server.finish();
    // Of 150 messages of each connection the 50th is the last of its connection, and so are the 100th and 150th.
    assert!(count(&record, "/reconnects/back_ns/count") >= 4, "{run}");
    assert_eq!(count(&record, "/generator/unsent"), 0, "{run}");
    // About ten messages of each outage were due in it, the first of them 100 ms before the return.
    assert!(count(&record, "/response_ns/p99") > 80_000_000, "{run}");
    assert!(count(&record, "/response_ns/p50") < 80_000_000, "{run}");
}

#[test]
fn a_lifetime_ends_when_its_messages_are_answered() {
    for pace in [["--rate", "400"], ["--depth", "3"]] {
        let server = Server::start(Fault::Late(Duration::from_millis(2)));
        let flags = ["-c", "4", "-d", "1500ms", "--warmup", "0s", "--lifetime", "50ms..150ms"];
        let (run, record) = bench(&url(&server), &[&flags[..], &pace].concat());
        let counts = server.finish();
        let (retired, attempts) =
            (count(&record, "/reconnects/retired"), count(&record, "/reconnects/attempts"));
        assert!(retired > 8 && attempts <= retired && attempts + 4 >= retired, "{run}");
        assert_eq!(
            count(&record, "/connections/opened"),
            4 + count(&record, "/reconnects/back_ns/count"),
            "{run}"
        );
        assert_eq!(
            (count(&record, "/reconnects/ended"), count(&record, "/reconnects/not_back")),
            (0, 0),
            "{run}"
        );
        assert_integrity(&record, &[]);
        let received = counts.received.load(Ordering::Relaxed);
        // On a busy machine a connection is away when the load ends, and what was due meanwhile is a slow response.
        let unsent = count(&record, "/generator/unsent");
        assert!(unsent <= if pace[0] == "--rate" { 40 } else { 0 }, "{run}");
        let answered = count(&record, "/response_ns/count") - unsent;
        assert_eq!(answered, received, "all that was sent is answered: {run}");
        assert_eq!(record["errors"], json!({}), "{run}");
        assert!(run.code == Some(0) || unsent > 0, "{run}");
    }
}

#[test]
fn a_ramp_opens_connections_while_the_load_runs() {
    let server = Server::start(Fault::Nothing);
    let flags = ["-c", "10", "--rate", "1000", "-d", "2s", "--warmup", "0s", "--connect-ramp", "1s"];
    let (run, record) = bench(&url(&server), &flags);
    let received = server.finish().received.load(Ordering::Relaxed);
    assert_eq!(count(&record, "/connections/opened"), 10, "{run}");
    assert_integrity(&record, &[]);
    assert_eq!(run.code, Some(0), "{run}");
    // Connection i of 10 sends 100 a second from i tenths of a second on; on a busy machine it opens later.
    assert!((800..=1_560).contains(&received), "{received}: {run}");
    assert_eq!(count(&record, "/response_ns/count"), received, "{run}");
    assert_eq!(count(&record, "/generator/unsent"), 0, "who has not come has nothing to send: {run}");
}

#[test]
fn a_storm_cuts_all_and_counts_those_that_come_back() {
    let server = Server::start(Fault::Nothing);
    let flags =
        ["--mode", "storm", "-c", "20", "-d", "1500ms", "--warmup", "0s", "--reconnect", "10ms..100ms"];
    let (run, record) = bench(&url(&server), &flags);
    server.finish();
    assert_eq!((count(&record, "/storm/cut"), count(&record, "/storm/back")), (20, 20), "{run}");
    assert_eq!(
        (count(&record, "/reconnects/attempts"), count(&record, "/connections/opened")),
        (20, 40),
        "{run}"
    );
    let times = ["p50", "p90", "p99", "max"].map(|name| count(&record, &format!("/storm/back_ns/{name}")));
    assert!(times.is_sorted() && times[3] < 1_500_000_000, "{run}");
    let herd = record["storm"]["over_time"].as_array().expect("intervals");
    for (name, sum) in [("ended", 20), ("attempts", 20), ("refused", 0), ("back", 20)] {
        assert_eq!(
            herd.iter().map(|interval| count(interval, &format!("/{name}"))).sum::<u64>(),
            sum,
            "{name}: {run}"
        );
    }
    assert_integrity(&record, &[]);
    assert_eq!(run.code, Some(0), "{run}");
}

#[test]
fn who_is_not_back_fails_the_run() {
    let server = Server::start(Fault::Nothing);
    let flags = ["--mode", "storm", "-c", "4", "-d", "300ms", "--warmup", "0s", "--reconnect", "10s"];
    let (run, record) = bench(&url(&server), &flags);
    server.finish();
    assert_eq!((count(&record, "/storm/cut"), count(&record, "/storm/back")), (4, 0), "{run}");
    assert_eq!(
        record["storm"]["back_ns"],
        json!({"p50": null, "p90": null, "p99": null, "max": null}),
        "{run}"
    );
    assert_eq!((count(&record, "/reconnects/not_back"), run.code), (4, Some(1)), "{run}");
}

/// Ends and starts a server on one port while a storm is measured, and returns the record of that.
fn restarted(flags: &[&str]) -> (Run, Value) {
    let server = Serve::start(&["--shards", "1"]);
    let address = server.address.to_string();
    let common = [
        "bench",
        &format!("ws://{address}"),
        "--mode",
        "storm",
        "--cut",
        "server",
        "--json",
        "-",
        "--allow-saturated",
    ];
    let mut command = command(&common);
    command.args(flags).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut bench = command.spawn().expect("the binary runs");
    let told = BufReader::new(bench.stderr.take().expect("a pipe"));
    let mut lines = told.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("measuring")), "it measures");
    drop(server);
    let server = Serve::start(&["--shards", "1", "--listen", &address]);
    let drained = std::thread::spawn(move || lines.collect::<Vec<_>>().join("\n"));
    let run: Run = bench.wait_with_output().expect("it ends").into();
    let said = drained.join().expect("read to the end");
    drop(server);
    let record = run.json()["runs"][0].take();
    assert_eq!(run.code, Some(0), "{run}{said}");
    (run, record)
}

#[test]
fn a_restart_of_the_server_is_a_storm_of_its_own() {
    let flags = ["-c", "30", "-d", "4s", "--warmup", "100ms", "--reconnect", "20ms..200ms"];
    let (run, record) = restarted(&flags);
    assert_eq!((count(&record, "/storm/cut"), count(&record, "/storm/back")), (30, 30), "{run}");
    assert_eq!(record["storm"]["cut_by"], "server", "{run}");
    let refused: u64 =
        record["reconnects"]["refused"].as_object().expect("causes").values().filter_map(Value::as_u64).sum();
    assert_eq!(count(&record, "/reconnects/attempts"), 30 + refused, "{run}");
    assert_eq!(record["errors"], json!({}), "{run}");
}

#[test]
fn subscribers_recover_from_their_positions() {
    let server = Serve::start(&["--shards", "1"]);
    let url = format!("ws://{}", server.address);
    // 50 messages of each topic are published while its subscribers are away; the server keeps 100.
    let flags = [
        "--mode",
        "storm",
        "--protocol",
        "echoring.v1",
        "-c",
        "12",
        "--topics",
        "2",
        "--publishers",
        "4",
        "--rate",
        "200",
        "-d",
        "2s",
        "--warmup",
        "100ms",
        "--reconnect",
        "500ms",
    ];
    let (run, record) = bench(&url, &flags);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!((count(&record, "/storm/cut"), count(&record, "/storm/back")), (8, 8), "{run}");
    assert_integrity(&record, &[]);
    assert_eq!(count(&record, "/reconnects/missed"), 0, "{run}");
    assert!(count(&record, "/reconnects/recovered") >= 8 * 45, "{run}");
    assert_eq!(record["broadcast"]["reach"], 1.0, "{run}");

    // The raw route has no positions: what was published is missed, and nothing is lost.
    let raw: Vec<&str> =
        flags.iter().copied().filter(|flag| !["--protocol", "echoring.v1"].contains(flag)).collect();
    let (run, record) = bench(&url, &raw);
    assert_eq!(run.code, Some(0), "{run}");
    assert_integrity(&record, &[]);
    assert!(count(&record, "/reconnects/missed") >= 8 * 45, "{run}");
    assert_eq!(record["broadcast"]["reach"], 1.0, "{run}");
}

#[test]
fn subscribers_come_and_go() {
    let server = Serve::start(&["--shards", "1"]);
    let url = format!("ws://{}", server.address);
    let flags = [
        "--mode",
        "broadcast",
        "-c",
        "12",
        "--rate",
        "400",
        "-d",
        "1500ms",
        "--warmup",
        "0s",
        "--lifetime",
        "exp:200ms",
    ];
    for protocol in [&[][..], &["--protocol", "echoring.v1"]] {
        let (run, record) = bench(&url, &[&flags[..], protocol, &["--connect-ramp", "500ms"]].concat());
        assert_eq!(run.code, Some(0), "{run}");
        assert!(count(&record, "/reconnects/retired") > 20, "{run}");
        assert_integrity(&record, &[]);
        assert_eq!(record["broadcast"]["reach"], 1.0, "{run}");
    }
}
