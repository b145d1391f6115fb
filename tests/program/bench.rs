//! `echoring bench` as a user runs it: the real binary against the real server and against one that misbehaves.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::support::{peer, ports, program};
use echoring_load::{
    self, DriverChoice, Endpoint, Mode, Pace, Plan, Resources, RunStage, Target, Workload, record,
};
use serde_json::Value;

use peer::{Fault, Peer, Planted};
use program::{Run, Serve};

impl Run {
    /// The only run's record.
    fn record(&self) -> Value {
        let mut json = self.json();
        let runs = json["runs"].as_array_mut().expect("runs");
        assert_eq!(runs.len(), 1);
        runs.remove(0)
    }
}

fn command(flags: &[&str]) -> Command {
    let mut command = program::command(&["bench"]);
    command.args(flags);
    command
}

fn bench(flags: &[&str]) -> Run {
    command(flags).output().expect("the binary runs").into()
}

/// Runs against a misbehaving peer for a short time and returns the record.
fn against(peer: &Peer, path: &str, flags: &[&str]) -> (Run, Value) {
    let url = format!("ws://{}{path}", peer.address);
    // A closed loop has no messages while a machine is busy elsewhere, and a schedule has all of its messages.
    let duration = if flags.contains(&"--rate") { "400ms" } else { "1s" };
    let mut all = vec![url.as_str(), "--duration", duration, "--warmup", "0s", "--json", "-"];
    all.extend_from_slice(flags);
    let run = bench(&all);
    let record = run.record();
    (run, record)
}

fn planted(connection: usize, message: u64, fault: Fault) -> Planted {
    Planted { connection, message, fault }
}

/// Lost, duplicated, reordered, corrupted.
fn integrity(record: &Value) -> [u64; 4] {
    ["lost", "duplicated", "reordered", "corrupted"]
        .map(|field| record["integrity"][field].as_u64().expect("a count"))
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn a_faithful_peer_is_found_faithful() {
    let peer = Peer::start(vec![], vec![]);
    for flags in [
        &["-c", "3"][..],
        &["-c", "3", "--depth", "7", "--kind", "binary", "--message-bytes", "12..3000"],
        &["-c", "2", "--rate", "500", "--kind", "json"],
        &["-c", "2", "--depth", "4", "--message-bytes", "0..11"],
        &["-c", "2", "--driver", "epoll"],
        &["-c", "4", "--threads", "2", "--message-bytes", "70000"],
    ] {
        let (run, record) = against(&peer, "/", flags);
        assert_eq!(integrity(&record), [0; 4], "{flags:?}: {run}");
        assert!(record["response_ns"]["count"].as_u64() > Some(10), "{flags:?}: {run}");
        assert!(matches!(run.code, Some(0 | 4)), "{flags:?}: {run}");
        assert_eq!(keys(&record["errors"]), Vec::<&str>::new());
    }
}

#[test]
fn each_planted_fault_of_an_echo_is_counted_exactly_once() {
    for (fault, expected) in [
        (Fault::Drop, [1, 0, 0, 0]),
        (Fault::Duplicate, [0, 1, 0, 0]),
        (Fault::Swap, [0, 0, 1, 0]),
        (Fault::Flip(40), [0, 0, 0, 1]),
        (Fault::Flip(11), [0, 0, 0, 1]),
        (Fault::Flip(2), [0, 0, 0, 1]),
        (Fault::OtherKind, [0, 0, 0, 1]),
        (Fault::Shorten, [0, 0, 0, 1]),
    ] {
        let peer = Peer::start(vec![planted(1, 20, fault)], vec![]);
        let (run, record) = against(&peer, "/", &["-c", "3", "--depth", "4"]);
        assert_eq!(integrity(&record), expected, "{fault:?}: {run}");
        assert_eq!(run.code, Some(1), "{fault:?}: {run}");
        assert!(run.stderr.contains("integrity broken"), "{run}");
    }
}

#[test]
fn many_faults_add_up() {
    let faults = vec![
        planted(0, 5, Fault::Drop),
        planted(0, 9, Fault::Duplicate),
        planted(0, 30, Fault::Flip(0)),
        planted(1, 3, Fault::Drop),
        planted(1, 4, Fault::Drop),
        planted(1, 12, Fault::Swap),
        planted(1, 20, Fault::Swap),
        planted(2, 7, Fault::Flip(63)),
        planted(2, 8, Fault::Duplicate),
        planted(2, 9, Fault::Duplicate),
    ];
    let peer = Peer::start(faults, vec![]);
    let (run, record) = against(&peer, "/", &["-c", "3", "--depth", "8"]);
    assert_eq!(integrity(&record), [3, 3, 2, 2], "{run}");
}

#[test]
fn unchecked_contents_are_not_judged_and_the_record_says_so() {
    let peer = Peer::start(vec![planted(0, 5, Fault::Flip(3)), planted(1, 5, Fault::OtherKind)], vec![]);
    let (run, record) = against(&peer, "/", &["-c", "2", "--verify", "off"]);
    assert_eq!(integrity(&record), [0; 4], "{run}");
    assert_eq!(record["config"]["verify"], false);
    assert_eq!(run.code, Some(0), "{run}");
}

#[test]
fn a_message_that_never_comes_back_is_lost_after_the_drain_time() {
    let peer = Peer::start(vec![planted(0, 3, Fault::Drop)], vec![]);
    let (run, record) = against(&peer, "/", &["-c", "1"]);
    assert_eq!(integrity(&record), [1, 0, 0, 0], "{run}");
    assert_eq!(run.code, Some(1), "{run}");
}

#[test]
fn each_planted_fault_of_a_broadcast_is_counted_exactly_once() {
    for (fault, expected, gaps) in [
        (Fault::Drop, [1, 0, 0, 0], 1),
        (Fault::Duplicate, [0, 1, 0, 0], 0),
        (Fault::Swap, [0, 0, 1, 0], 1),
        (Fault::Flip(60), [0, 0, 0, 1], 0),
        (Fault::Flip(25), [0, 0, 0, 1], 0),
        (Fault::Flip(1), [0, 0, 0, 1], 0),
    ] {
        // The publisher is dialled first.
        let peer = Peer::start(vec![planted(2, 10, fault)], vec![]);
        let flags = ["--mode", "broadcast", "-c", "4", "--rate", "200"];
        let (run, record) = against(&peer, "", &flags);
        assert_eq!(integrity(&record), expected, "{fault:?}: {run}");
        assert_eq!(record["broadcast"]["gaps"], gaps, "{fault:?}: {run}");
        assert_eq!(run.code, Some(1), "{fault:?}: {run}");
        let whole = record["broadcast"]["reach"].as_f64() == Some(1.0);
        assert_eq!(whole, !matches!(fault, Fault::Drop), "{fault:?}: {run}");
    }
}

#[test]
fn each_planted_fault_among_several_publishers_is_counted_exactly_once() {
    let run = |faults, flags: &[&str]| {
        let peer = Peer::start(faults, vec![]);
        let common = ["--mode", "broadcast", "--publishers", "3", "--rate", "300"];
        let (run, record) = against(&peer, "", &[&common[..], flags].concat());
        assert!(record["response_ns"]["count"].as_u64() > Some(100), "{run}");
        (integrity(&record), run)
    };
    let (found, told) = run(vec![], &["-c", "20", "--threads", "2"]);
    assert_eq!(found, [0; 4], "{told}");
    // A machine that is busy elsewhere may make the generator late.
    assert!(matches!(told.code, Some(0 | 4)), "{told}");
    for (fault, expected) in [
        (Fault::Drop, [1, 0, 0, 0]),
        (Fault::Duplicate, [0, 1, 0, 0]),
        (Fault::Swap, [0, 0, 1, 0]),
        (Fault::Flip(60), [0, 0, 0, 1]),
    ] {
        // Where two subscribe, it is the same which of them is said to be in the wrong.
        let (found, told) = run(vec![planted(4, 10, fault)], &["-c", "5", "--threads", "1"]);
        assert_eq!(found, expected, "{fault:?}: {told}");
    }
    let faults = vec![
        planted(3, 10, Fault::Drop),
        planted(4, 30, Fault::Swap),
        planted(3, 50, Fault::Flip(50)),
        planted(4, 60, Fault::Drop),
        planted(3, 90, Fault::Swap),
    ];
    let (found, told) = run(faults, &["-c", "5", "--threads", "1"]);
    assert_eq!(found, [2, 0, 2, 1], "{told}");
}

#[test]
fn two_shards_show_four_publishers_in_one_order_to_all() {
    let server = Serve::start(&["--shards", "2"]);
    let url = server.url();
    for pace in [["--depth", "8"], ["--rate", "4000"]] {
        let flags = [url.as_str(), "--mode", "broadcast", "-c", "54", "--publishers", "4", "--threads", "2"];
        let more = ["-d", "1s", "--warmup", "0s", "--json", "-", pace[0], pace[1]];
        let run = bench(&[&flags[..], &more].concat());
        let record = run.record();
        assert_eq!(integrity(&record), [0; 4], "{run}");
        assert_eq!(record["broadcast"]["reach"], 1.0, "{run}");
        assert_eq!(record["broadcast"]["gaps"], 0, "{run}");
        assert!(record["messages"].as_u64() > Some(5_000), "{run}");
        assert!(matches!(run.code, Some(0 | 4)), "{run}");
    }
}

#[test]
fn those_who_stop_reading_are_told_apart_and_the_others_miss_nothing() {
    // More than a second of messages, for which the others may not be run on a busy machine.
    let server = Serve::start(&["--shards", "1", "--queue-bytes", "4MiB"]);
    let url = server.url();
    // More than the kernel keeps for a connection, many times over.
    let flags = [url.as_str(), "--mode", "broadcast", "-c", "21", "--slow", "5", "--rate", "200"];
    let more = ["--message-bytes", "16KiB", "-d", "4s", "--warmup", "200ms", "--json", "-"];
    let run = bench(&[&flags[..], &more].concat());
    let record = run.record();
    assert_eq!(integrity(&record), [0; 4], "{run}");
    assert_eq!(record["broadcast"]["reach"], 1.0, "{run}");
    assert_eq!(record["config"]["stalled"], 5, "{run}");
    let stalled = &record["stalled"];
    assert_eq!(stalled["count"], 5, "{run}");
    let closed = stalled["closed_by_code"].as_object().expect("by code");
    assert!(!closed.contains_key("1000"), "the server ended all of them: {run}");
    assert_eq!(closed.values().filter_map(Value::as_u64).sum::<u64>(), 5, "{run}");
    assert_eq!(record["closes"], serde_json::json!({ "1000": 16 }), "{run}");
    assert_eq!(record["connections"]["ended_early"], 0, "{run}");
    assert_eq!(keys(&record["errors"]), Vec::<&str>::new(), "{run}");
    assert!(matches!(run.code, Some(0 | 4)), "{run}");
}

#[test]
fn those_who_stop_reading_and_lag_little_are_let_be() {
    let flags = ["--mode", "broadcast", "-c", "11", "--slow", "5", "--rate", "50"];
    let run = bench(&[&flags[..], &["-d", "400ms", "--warmup", "100ms", "--json", "-"]].concat());
    let record = run.record();
    let stalled = &record["stalled"];
    assert_eq!((&stalled["count"], &stalled["closed_by_code"]["1000"]), (&5.into(), &5.into()), "{run}");
    assert_eq!(keys(stalled), ["bytes", "closed_by_code", "count", "messages"]);
    assert!(matches!(run.code, Some(0 | 4)), "{run}");
    assert_eq!(record["broadcast"]["reach"], 1.0, "{run}");
    assert_eq!(record["broadcast"]["first_ns"]["count"], record["broadcast"]["last_ns"]["count"], "{run}");
    // Five are timed.
    let published = record["broadcast"]["first_ns"]["count"].as_u64().expect("a count");
    assert_eq!(record["response_ns"]["count"].as_u64(), Some(5 * published), "{run}");
}

#[test]
fn those_who_trickle_read_at_their_rate_and_the_others_miss_nothing() {
    // More than a second of messages, for which the others may not be run on a busy machine.
    let server = Serve::start(&["--shards", "1", "--queue-bytes", "4MiB"]);
    let url = server.url();
    const RATE: u64 = 128 * 1024;
    // Five times what they take, and yet too little for the server to find them slow.
    let flags = [url.as_str(), "--mode", "broadcast", "-c", "11", "--slow", "50%", "--slow-how", "trickle"];
    let more = ["--trickle", "128KiB/s", "--rate", "40", "--message-bytes", "16KiB", "--threads", "1"];
    let run = bench(&[&flags[..], &more, &["-d", "3s", "--warmup", "200ms", "--json", "-"]].concat());
    let record = run.record();
    assert_eq!(integrity(&record), [0; 4], "{run}");
    assert_eq!(record["broadcast"]["reach"], 1.0, "{run}");
    assert_eq!(record["config"]["stalled"], 5, "{run}");
    assert_eq!(record["config"]["trickle_bytes_per_s"], RATE, "{run}");
    let stalled = &record["stalled"];
    assert_eq!(stalled["count"], 5, "{run}");
    // What one read brings comes on top, and a message that was under way.
    let read = stalled["bytes"].as_u64().expect("a count") / 5;
    assert!((RATE..3 * RATE + (256 + 64) * 1024).contains(&read), "{read}: {run}");
    assert_eq!(
        stalled["bytes"].as_u64(),
        stalled["messages"].as_u64().map(|count| count * 16 * 1024),
        "{run}"
    );
    let other = record["messages"].as_u64().expect("a count") * 16 * 1024 / 5;
    assert!(other > 2 * read, "{other} {read}: {run}");
    assert!(matches!(run.code, Some(0 | 4)), "{run}");
}

#[test]
fn random_arrivals_have_the_rate_that_was_asked_for_and_are_not_even() {
    let peer = Peer::start(vec![], vec![]);
    for arrivals in ["even", "poisson"] {
        let flags = ["-c", "5", "--rate", "2500", "--arrivals", arrivals];
        let (run, record) = against(&peer, "/", &flags);
        assert_eq!(integrity(&record), [0; 4], "{run}");
        assert_eq!(record["config"]["arrivals"], arrivals, "{run}");
        let due = record["response_ns"]["count"].as_u64().expect("a count");
        // 1,000 are due; a Poisson process has less than six standard deviations more or fewer.
        assert!(if arrivals == "even" { due == 1_000 } else { due.abs_diff(1_000) < 190 }, "{due}: {run}");
    }
}

#[test]
fn a_stall_is_felt_by_every_message_that_was_due_in_it() {
    // At 1,000 a second for 400 ms, a stall of 200 ms delays about half of all messages.
    let stall = Duration::from_millis(200);
    let peer = Peer::start(vec![planted(0, 50, Fault::Stall(stall))], vec![]);
    let (run, record) = against(&peer, "/", &["-c", "1", "--rate", "1000"]);
    assert_eq!(integrity(&record), [0; 4], "{run}");
    assert!(record["response_ns"]["max"].as_u64() >= Some(stall.as_nanos() as u64 * 9 / 10), "{run}");
    // A tenth of them had at least the last fifth of the stall before them, each measured from its own time.
    let late = record["response_ns"]["p90"].as_u64().expect("a quantile");
    assert!(late >= stall.as_nanos() as u64 / 2, "{late}: {run}");
}

#[test]
fn connections_that_end_early_are_counted_by_code_and_cause() {
    let faults = vec![planted(0, 5, Fault::Close(1001)), planted(1, 5, Fault::Cut)];
    let peer = Peer::start(faults, vec![]);
    let (run, record) = against(&peer, "/", &["-c", "3"]);
    assert_eq!(record["connections"]["opened"], 3, "{run}");
    assert_eq!(record["connections"]["ended_early"], 2, "{run}");
    assert_eq!(record["closes"]["1001"], 1, "{run}");
    assert_eq!(record["closes"]["1006"], 1, "{run}");
    assert_eq!(record["closes"]["1000"], 1, "{run}");
    assert_eq!(integrity(&record), [2, 0, 0, 0], "what was under way then is lost: {run}");
    assert_eq!(
        record["errors"].as_object().expect("an object").values().next(),
        Some(&Value::from(1)),
        "{run}"
    );
    assert_eq!(run.code, Some(1), "{run}");
}

#[test]
fn a_refused_handshake_is_an_error_with_its_status() {
    let peer = Peer::start(vec![], vec![(1, 503)]);
    let (run, record) = against(&peer, "/", &["-c", "3"]);
    assert_eq!(record["errors"]["status 503"], 1, "{run}");
    assert_eq!(record["connections"]["opened"], 2, "{run}");
    assert_eq!(integrity(&record), [0; 4], "{run}");
    assert_eq!(run.code, Some(1), "{run}");
}

#[test]
fn a_server_that_cannot_be_reached_is_one_line_with_the_cure() {
    let [free] = ports::free();
    let nobody = format!("ws://{free}/");
    let run = bench(&[&nobody, "-c", "2", "-d", "300ms"]);
    let last = run.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("error: ") && last.contains("refused") && last.contains("start the server"),
        "{run}"
    );
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{run}");

    let peer = Peer::start(vec![], vec![(0, 403), (1, 403)]);
    let run = bench(&[&format!("ws://{}/", peer.address), "-c", "2", "-d", "300ms"]);
    assert!(run.stderr.contains("status 403"), "{run}");
    assert_eq!(run.code, Some(3), "{run}");
}

#[test]
fn source_addresses_are_used_in_turn() {
    let peer = Peer::start(vec![], vec![]);
    let flags = ["-c", "4", "--source-addr", "127.0.0.2-127.0.0.3"];
    let (run, record) = against(&peer, "/", &flags);
    assert_eq!(run.code, Some(0), "{run}");
    let mut seen = peer.seen.lock().expect("no panic").clone();
    seen.sort_unstable();
    let [two, three] = [2, 3].map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    assert_eq!(seen, [two, two, three, three]);
    assert_eq!(record["config"]["source_addresses"], serde_json::json!(["127.0.0.2", "127.0.0.3"]));
}

#[test]
fn a_wrong_flag_is_one_line_and_exit_code_2() {
    for flags in [
        &["ws://127.0.0.1:1", "--depth", "0"][..],
        &["ws://127.0.0.1:1", "--hlog", "/nowhere/run.hlog"],
        &["ws://127.0.0.1:1", "--mode", "dance"],
        &["http://127.0.0.1:1"],
        &["ws://127.0.0.1:1", "--mode", "broadcast", "--message-bytes", "10"],
    ] {
        let run = bench(flags);
        assert_eq!(run.code, Some(2), "{flags:?}: {run}");
        assert_eq!((run.stderr.lines().count(), run.stdout.as_str()), (1, ""), "{flags:?}: {run}");
    }
}

#[test]
fn without_a_url_an_embedded_server_is_measured_twice() {
    let run = bench(&["-c", "10", "-d", "500ms", "--warmup", "100ms", "--json", "-"]);
    assert_eq!(run.code, Some(0), "{run}");
    let json = run.json();
    assert_eq!(json["schema"], "echoring.run/1");
    assert_eq!(keys(&json), ["comparison", "runs", "schema"]);
    let runs = json["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 2);
    for (record, mode) in runs.iter().zip(["echo", "broadcast"]) {
        assert_eq!(record["config"]["mode"], mode);
        assert_eq!(record["target"], "embedded");
        assert_eq!(integrity(record), [0; 4], "{run}");
        assert!(record["messages"].as_u64() > Some(0), "{run}");
        assert_eq!(record["closes"], serde_json::json!({ "1000": 10 }), "{run}");
        assert!(record["server"]["cpu_ns_per_message"].as_f64() > Some(0.0), "{run}");
    }
    assert_eq!(runs[1]["broadcast"]["reach"], 1.0, "{run}");
}

#[test]
fn a_record_has_every_field_of_the_schema() {
    let run = bench(&["-c", "10", "-d", "1200ms", "--warmup", "0s", "--json", "-"]);
    let json = run.json();
    const QUANTILES: [&str; 13] =
        ["count", "max", "mean", "min", "p50", "p75", "p90", "p95", "p99", "p995", "p999", "p9999", "stddev"];
    for record in json["runs"].as_array().expect("runs") {
        let schema: Value = serde_json::from_str(include_str!("../../docs/reference/run-record.schema.json"))
            .expect("a schema");
        let mut fields: Vec<&str> = schema["$defs"]["Record"]["required"]
            .as_array()
            .expect("fields")
            .iter()
            .map(|field| field.as_str().expect("a name"))
            .collect();
        fields.sort_unstable();
        assert_eq!(keys(record), fields);
        assert_eq!(keys(&record["integrity"]), ["corrupted", "duplicated", "late", "lost", "reordered"]);
        let generator = [
            "cpu_share",
            "heartbeat_ns",
            "lateness_ns",
            "run_delay_ns",
            "saturated",
            "stolen_ns",
            "threads",
            "unsent",
            "unsent_gone",
        ];
        assert_eq!(keys(&record["generator"]), generator);
        let server = ["cpu_ns_per_message", "cpu_share", "rss_bytes", "sampled_messages", "sampled_s"];
        assert_eq!(keys(&record["server"]), server);
        assert_eq!(
            (&record["config"]["compress"], &record["compression"]),
            (&Value::from("off"), &Value::Null)
        );
        for quantiles in [&record["response_ns"], &record["service_ns"], &record["generator"]["lateness_ns"]]
        {
            assert_eq!(keys(quantiles), QUANTILES);
        }
        let duration = record["duration_s"].as_f64().expect("a number");
        assert!((duration - 1.2).abs() < 1e-6, "{duration}");
        let intervals = record["intervals"].as_array().expect("intervals");
        assert_eq!(intervals.len(), 2);
        let sum: u64 = intervals.iter().map(|interval| interval["messages"].as_u64().expect("a count")).sum();
        assert_eq!(Some(sum), record["messages"].as_u64());
        let rate = sum as f64 / duration;
        assert!((record["messages_per_s"].as_f64().expect("a rate") / rate - 1.0).abs() < 1e-9);
    }
    let broadcast = &json["runs"][1]["broadcast"];
    assert_eq!(keys(broadcast), ["first_ns", "gaps", "last_ns", "median_ns", "published", "reach"]);
    let median = |field: &str| broadcast[field]["p50"].as_u64().expect("a quantile");
    assert!(median("first_ns") <= median("median_ns") && median("median_ns") <= median("last_ns"));
    assert_eq!(json["runs"][0]["broadcast"], Value::Null);
}

#[test]
fn compressed_runs_are_whole_and_tell_what_it_saved() {
    for words in ["on", "server_max_window_bits=11; client_no_context_takeover; level=6; threshold=64"] {
        let flags = ["-c", "5", "-d", "400ms", "--warmup", "0s", "--json", "-", "--kind", "json"];
        let run = bench(&[&flags[..], &["--message-bytes", "200..3000", "--compress", words]].concat());
        assert_eq!(run.code, Some(0), "{run}");
        for record in run.json()["runs"].as_array().expect("runs") {
            assert_eq!(integrity(record), [0; 4], "{run}");
            assert_eq!(record["config"]["compress"], words);
            let done = &record["compression"];
            let number = |field: &str| done[field].as_u64().expect("a count");
            assert_eq!(number("agreed"), 5, "{run}");
            let check = |compressed: &str, plain: &str, messages: &str| {
                assert!(number(messages) > 0 && number(plain) >= 200 * number(messages), "{run}");
                let share = number(compressed) as f64 / number(plain) as f64;
                assert!((0.1..0.7).contains(&share), "{share}: {run}");
            };
            check("bytes_out", "bytes_out_plain", "messages_out");
            check("bytes_in", "bytes_in_plain", "messages_in");
            // An echo comes back as it went; what is published comes to four.
            let copies = if record["config"]["mode"] == "echo" { 1 } else { 4 };
            assert_eq!(number("messages_in"), copies * number("messages_out"), "{run}");
        }
    }
}

#[test]
fn a_server_that_does_not_compress_is_measured_plainly_and_said_so_loudly() {
    let peer = Peer::start(vec![], vec![]);
    let (run, record) = against(&peer, "/", &["-c", "3", "--kind", "json", "--compress", "on"]);
    assert_eq!((integrity(&record), run.code), ([0; 4], Some(0)), "{run}");
    let done = &record["compression"];
    assert_eq!((&done["agreed"], &done["messages_out"]), (&Value::from(0), &Value::from(0)), "{run}");
    // Other warnings may follow, such as of a busy host.
    let is_told = |line: &str| line.starts_with("warning: ") && line.contains("NOTHING WAS COMPRESSED");
    assert!(run.stderr.lines().any(is_told), "{run}");
}

#[test]
fn a_conductor_that_comes_late_does_not_move_the_servers_cpu_time() {
    let server = Serve::start(&["--shards", "1"]);
    let before_ns = server.cpu_ns();
    // Held up from before the measured time begins until long after all is over.
    let held_up = Duration::from_millis(1_200);
    let mut late = true;
    let record = server.measure(Duration::from_millis(800), &mut |stage| {
        if stage != RunStage::Connecting && std::mem::take(&mut late) {
            std::thread::sleep(held_up);
        }
    });
    let whole_ns = server.cpu_ns() - before_ns;
    assert!(!late, "the conductor was held up");
    let found = record.server.expect("its process was named");
    let (sampled_s, sampled) = (found.sampled_s.expect("sampled"), found.sampled_messages.expect("sampled"));
    assert!(sampled > 100 && sampled_s < held_up.as_secs_f64(), "{sampled} messages in {sampled_s} s");
    // Without warm-up, next to all that the server did in the run was for the measured messages. The samples may come
    // late on a busy machine; but then both parts of the quotient do.
    let explained = found.cpu_ns_per_message.expect("sampled") * record.messages as f64 / whole_ns as f64;
    assert!((0.5..1.2).contains(&explained), "{explained} of {whole_ns} ns: {found:?}");
    let share = found.cpu_ns_per_message.expect("sampled") * sampled as f64 / (sampled_s * 1e9);
    assert!((found.cpu_share.expect("sampled") / share - 1.0).abs() < 1e-6, "{share}: {found:?}");
}

impl Serve {
    /// CPU time of all its threads, from the kernel's CPU clock of the process.
    fn cpu_ns(&self) -> u64 {
        let pid = nix::unistd::Pid::from_raw(self.process.id() as i32);
        let clock = nix::time::ClockId::pid_cpu_clock_id(pid).expect("a living process");
        let time = nix::time::clock_gettime(clock).expect("its clock");
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    }

    fn measure(&self, duration: Duration, look: &mut dyn FnMut(RunStage)) -> record::Record {
        let workload = Workload {
            mode: Mode::Echo,
            connections: 4,
            duration,
            pace: Pace::Depth(1),
            ..Workload::default()
        };
        let resources = Resources {
            threads: 2,
            cpus: Vec::new(),
            server_cpus: Vec::new(),
            sources: Vec::new(),
            driver: DriverChoice::Auto,
            descriptors: 1_000,
            server_pid: Some(self.process.id()),
            stop: Arc::default(),
        };
        let target = Target::Urls(vec![Endpoint {
            text: "a server".to_owned(),
            route: self.address.into(),
            authority: self.address.to_string(),
            path: None,
            authorization: None,
            weight: 1,
        }]);
        let plan = Plan { target, workloads: vec![workload], resources };
        let mut outcomes =
            echoring_load::run(plan, &mut |moment| look(moment.stage)).expect("it can be reached");
        outcomes.remove(0).record
    }
}

#[test]
fn several_threads_share_publishers_topics_and_subscribers() {
    let flags = [
        "--mode",
        "broadcast",
        "-c",
        "30",
        "--publishers",
        "5",
        "--topics",
        "2",
        "--threads",
        "2",
        "--depth",
        "3",
        "-d",
        "500ms",
        "--warmup",
        "100ms",
        "--json",
        "-",
    ];
    let run = bench(&flags);
    let record = run.record();
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(integrity(&record), [0; 4], "{run}");
    assert_eq!(record["broadcast"]["reach"], 1.0, "{run}");
    assert!(
        record["broadcast"]["last_ns"]["count"].as_u64() > Some(5),
        "publishers are told and go on: {run}"
    );
    assert_eq!(record["config"]["threads"], 2);
}

#[test]
fn sigint_prints_the_partial_result() {
    let mut child = command(&["-c", "5", "-d", "100s", "--warmup", "0s", "--mode", "echo"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut lines = stderr.lines();
    let measuring = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("measuring")));
    assert!(measuring.is_some(), "progress is told");
    // A key that is hit twice, or a shell that tells its programs again.
    program::signal(&child, rustix::process::Signal::INT);
    program::signal(&child, rustix::process::Signal::INT);
    // Reads on, so that the child never waits for room in the pipe.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let run = Run::from(child.wait_with_output().expect("it ends"));
    assert_eq!(run.code, Some(130), "{run}\n{rest:?}");
    assert!(run.stdout.contains("partial result") && run.stdout.contains("response"), "{run}");
}

#[test]
fn results_are_written_where_they_are_asked_for() {
    let directory = std::env::temp_dir().join(format!("echoring-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let file = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let flags = ["-c", "10", "-d", "300ms", "--warmup", "0s"];
    let run = bench(&[&flags[..], &["--json", &file("run.json"), "--hgrm", &file("run.hgrm")]].concat());
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("| response") && run.stdout.contains("last subscriber"), "{run}");
    let json = std::fs::read_to_string(file("run.json")).expect("written");
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON")["schema"], "echoring.run/1");
    for name in ["run.echo.hgrm", "run.broadcast.hgrm"] {
        let text = std::fs::read_to_string(file(name)).expect("written");
        assert!(text.trim_start().starts_with("Value") && text.contains("#[Max"), "{name}");
    }
    std::fs::remove_dir_all(&directory).expect("our own directory");
}
