//! `echoring bench` against a server with known faults: every planted fault is found, exactly as often as the server
//! reports, and a stall shows in the percentiles as computed.

mod silence;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{planted, program};
use serde_json::{Value, json};
use tungstenite::Message;

use planted::{Fault, Server};

/// Tolerance of a quantile on a busy machine, beyond the known lateness.
const SLACK_MS: f64 = 15.0;

/// How much later than others an answer comes that is to be late.
const LATE: Duration = Duration::from_millis(300);

/// Lines of text in eleven scripts, and emoji.
const WIDE_TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/support/wide-text.txt");

/// Plants a fault in every n-th message.
type Plant = fn(u64) -> Fault;
/// Whether a message is as expected.
type Check<'a> = &'a dyn Fn(&Message) -> bool;

/// A finished run: its exit code, its record, and its output.
struct Run {
    code: Option<i32>,
    record: Value,
    told: String,
}

impl Run {
    fn integrity(&self) -> BTreeMap<String, u64> {
        serde_json::from_value(self.record["integrity"].clone()).expect("counts by name")
    }

    fn count(&self, pointer: &str) -> u64 {
        self.record
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("{pointer}: {}", self.told))
    }

    fn ms(&self, pointer: &str) -> f64 {
        let ns = self.record.pointer(pointer).and_then(Value::as_f64);
        ns.unwrap_or_else(|| panic!("{pointer}: {}", self.told)) / 1e6
    }
}

/// Measures the server, without warm-up by default, so that everything it does is within the measured time.
fn bench(server: &Server, flags: &[&str]) -> Run {
    finished(flags, command(server, flags).output().expect("the binary runs"))
}

fn command(server: &Server, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echoring"));
    command.args(["bench", &format!("ws://{}", server.address), "--json", "-"]);
    if !flags.contains(&"--warmup") {
        command.args(["--warmup", "0s"]);
    }
    command.args(flags).stdin(Stdio::null());
    command
}

fn finished(flags: &[&str], output: Output) -> Run {
    let told = format!(
        "{flags:?}: exit code {:?}\n{}{}",
        output.status.code(),
        lossy(&output.stdout),
        lossy(&output.stderr)
    );
    let mut json: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    Run { code: output.status.code(), record: json["runs"][0].take(), told }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The expected counts, with all others 0.
fn only(counts: &[(&str, u64)], run: &Run) -> BTreeMap<String, u64> {
    let zeros = run.integrity().into_keys().map(|name| (name, 0));
    let mut all: BTreeMap<String, u64> = zeros.collect();
    for (name, count) in counts {
        *all.get_mut(*name).expect("a name of the record") += count;
    }
    all
}

/// Plants a fault in every n-th message of a closed loop, of an open loop and of a broadcast, and compares the findings
/// with what the server did, and that with what follows from the rate.
fn each_is_counted(fault: Plant, name: &str) {
    let closed = ["-c", "3", "--depth", "8", "-d", "1s", "--message-bytes", "20..300", "--kind", "binary"];
    let open = ["-c", "3", "--rate", "3000", "-d", "2100ms"];
    let broadcast = ["--mode", "broadcast", "-c", "4", "--rate", "500", "-d", "1050ms"];
    for (flags, number, planted, due) in [
        (&closed[..], 50, None, None),
        // 2,100 on each of three connections.
        (&open[..], 1_000, Some(6), Some(6_300)),
        // 525 for each of three subscribers.
        (&broadcast[..], 100, Some(15), Some(1_575)),
    ] {
        let server = Server::start(fault(number));
        // What else is allowed excuses nothing.
        let run = bench(&server, &[flags, &["--allow", "closed"]].concat());
        let counts = server.finish();
        let (did, owed) = (counts.planted.load(Ordering::Relaxed), counts.unanswered.load(Ordering::Relaxed));
        assert!(planted.map_or(did > 0, |planted| did == planted), "{did} planted: {}", run.told);
        assert_eq!(run.integrity(), only(&[(name, did), ("lost", owed)], &run), "{}", run.told);
        assert_eq!(run.code, Some(1), "{}", run.told);
        assert_eq!(run.record["errors"], json!({}), "{}", run.told);
        // What is lost is in the distributions as well, as old as it was when nobody waited any longer.
        if let Some(due) = due.filter(|_| name == "lost") {
            let (response, service) = (run.count("/response_ns/count"), run.count("/service_ns/count"));
            assert_eq!((response, service), (due, due), "{}", run.told);
        }
    }
    let server = Server::start(fault(50));
    let allowed = format!("{name},lost");
    let run = bench(&server, &[&closed[..], &["--allow", &allowed]].concat());
    assert_eq!(run.code, Some(0), "{}", run.told);
    assert!(run.count(&format!("/integrity/{name}")) > 0, "it is counted all the same: {}", run.told);
    let words = run.record["config"]["allow"].as_array().expect("a list");
    assert!(words.contains(&json!(name)) && words.contains(&json!("lost")), "{}", run.told);
}

#[test]
fn each_dropped_message_is_lost() {
    each_is_counted(Fault::Drop, "lost");
}

#[test]
fn each_message_that_is_sent_twice_is_duplicated() {
    each_is_counted(Fault::Duplicate, "duplicated");
}

#[test]
fn each_exchange_of_two_messages_is_reordered_once() {
    each_is_counted(Fault::Swap, "reordered");
}

#[test]
fn each_flipped_byte_is_one_corrupted_message() {
    each_is_counted(Fault::Flip, "corrupted");
}

#[test]
fn a_flipped_byte_is_found_in_the_shortest_messages_as_well() {
    for bytes in ["16", "8", "1"] {
        let server = Server::start(Fault::Flip(30));
        let run = bench(&server, &["-c", "3", "--depth", "8", "-d", "700ms", "--message-bytes", bytes]);
        let planted = server.finish().planted.load(Ordering::Relaxed);
        assert!(planted > 0, "{}", run.told);
        assert_eq!(run.integrity(), only(&[("corrupted", planted)], &run), "{bytes} bytes: {}", run.told);
    }
}

#[test]
fn a_sample_of_all_messages_tells_what_became_of_each() {
    let cases: [(Plant, &str); 3] =
        [(Fault::Drop, "lost"), (Fault::Flip, "corrupted"), (|each| Fault::LateEach(each, LATE), "late")];
    for (fault, outcome) in cases {
        let server = Server::start(fault(40));
        let file = std::env::temp_dir().join(format!("echoring-{outcome}-{}.csv", std::process::id()));
        let name = file.to_string_lossy();
        let flags = ["-c", "3", "--depth", "8", "-d", "700ms", "--late-after", "250ms", "--drain", "1s"];
        let sampled = ["--samples", "1/1", "--samples-file", &name];
        let run = bench(&server, &[&flags[..], &sampled].concat());
        let planted = server.finish().planted.load(Ordering::Relaxed);
        let text = std::fs::read_to_string(&file).expect("written");
        std::fs::remove_file(&file).expect("our own file");
        let mut rows = text.lines().map(|row| row.split(',').collect::<Vec<_>>());
        let columns = rows.next().expect("the names of the columns");
        let column = |name: &str| columns.iter().position(|column| *column == name).expect("a column");
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows.len() as u64, run.count("/response_ns/count"), "{}", run.told);
        let is = |row: &&Vec<&str>| row[column("outcome")] == outcome;
        let flawed = rows.iter().filter(is).count() as u64;
        assert!(
            flawed > 0 && flawed == run.count(&format!("/integrity/{outcome}")),
            "{flawed}: {}",
            run.told
        );
        assert!(outcome == "late" || flawed == planted, "{flawed} of {planted}: {}", run.told);
        for row in rows.iter().filter(is) {
            let has_arrived = !row[column("arrived_ns")].is_empty();
            assert_eq!(has_arrived, outcome != "lost", "{row:?}");
            assert!(!row[column("sequence")].is_empty() && !row[column("response_ns")].is_empty(), "{row:?}");
        }
    }
}

#[test]
fn connections_that_the_server_closes_are_counted_by_their_code() {
    for code in [1001, 1011, 4001] {
        let server = Server::start(Fault::Close(50, code));
        let run = bench(&server, &["-c", "3", "--depth", "4", "-d", "2s", "--allow", "closed"]);
        let owed = server.finish().unanswered.load(Ordering::Relaxed);
        assert_eq!(run.record["closes"], json!({ code.to_string(): 3 }), "{}", run.told);
        assert_eq!(run.count("/connections/ended_early"), 3, "{}", run.told);
        // What a connection had under way then: its depth.
        assert_eq!(owed, 12, "{}", run.told);
        assert_eq!(run.integrity(), only(&[("lost", owed)], &run), "{}", run.told);
        assert_eq!(run.code, Some(1), "what was under way is lost: {}", run.told);
        assert_eq!(run.record["errors"], json!({}), "{}", run.told);
        let server = Server::start(Fault::Close(50, code));
        let run = bench(&server, &["-c", "3", "--depth", "4", "-d", "2s", "--allow", "lost,closed"]);
        assert_eq!(run.code, Some(0), "{}", run.told);
    }
}

#[test]
fn a_stall_shows_in_the_percentiles_as_arithmetic_has_it() {
    const STALL_MS: f64 = 100.0;
    const EVERY_MS: f64 = 1_000.0;
    let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    let server = Server::start(Fault::Stall(ms(EVERY_MS), ms(STALL_MS)));
    let file = std::env::temp_dir().join(format!("echoring-stall-{}.hgrm", std::process::id()));
    let name = file.to_string_lossy();
    let open = bench(&server, &["-c", "10", "--rate", "2000", "-d", "5s", "--hgrm", &name]);
    let curve = quantiles(&file);
    std::fs::remove_file(&file).expect("our own file");
    assert_eq!(open.integrity(), only(&[], &open), "{}", open.told);
    let overslept_ms = server.finish().overslept_ns.load(Ordering::Relaxed) as f64 / 1e6;
    let late_ms = SLACK_MS + overslept_ms + open.ms("/generator/lateness_ns/max");
    // Messages are due at all times alike. So a tenth of them is due in a stall, and waits for what is left of it:
    // evenly between nothing and the whole of it.
    let expected_ms = |quantile: f64| (EVERY_MS * (quantile - 1.0) + STALL_MS).max(0.0);
    for (quantile, found_ms) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999)]
        .map(|(name, quantile)| (quantile, open.ms(&format!("/response_ns/{name}"))))
        .into_iter()
        .chain(curve)
    {
        let expected_ms = expected_ms(quantile);
        assert!(
            found_ms > expected_ms - SLACK_MS && found_ms < expected_ms + late_ms,
            "quantile {quantile} is {found_ms} ms, not {expected_ms}: {}",
            open.told
        );
    }
    let mean_ms = STALL_MS * STALL_MS / (2.0 * EVERY_MS);
    let found_ms = open.ms("/response_ns/mean");
    assert!((mean_ms * 0.7..mean_ms + late_ms).contains(&found_ms), "{found_ms} ms: {}", open.told);

    // A closed loop asks for nothing while it waits: of each stall it has one message a connection, and what those
    // would have been that it did not send, it leaves out.
    let closed = bench(&server, &["-c", "2", "--depth", "1", "-d", "3s"]);
    let stalled = 2.0 * 4.0 / closed.count("/response_ns/count") as f64;
    assert!(stalled < 0.009, "too few messages to tell: {}", closed.told);
    assert!(closed.ms("/response_ns/max") > STALL_MS - SLACK_MS, "{}", closed.told);
    assert!(closed.ms("/response_ns/p99") < expected_ms(0.99) / 2.0, "{}", closed.told);
    assert_eq!(closed.record["response_ns"], closed.record["service_ns"], "{}", closed.told);
}

/// Expected quantiles if the last `lost` of `due` messages are lost: they were due from `from_ms` to `until_ms` at
/// equal intervals, and are awaited until `waited_ms`.
fn assert_ages(
    run: &Run,
    distribution: &str,
    (lost, due): (f64, f64),
    (from_ms, until_ms): (f64, f64),
    waited_ms: f64,
) {
    for (name, quantile) in [("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999), ("max", 1.0)] {
        // The oldest was due first.
        let share = (quantile - (1.0 - lost / due)) * due / lost;
        let expected_ms = waited_ms - until_ms + share * (until_ms - from_ms);
        let found_ms = run.ms(&format!("/{distribution}/{name}"));
        // Service times are as much less as the generator was late.
        let late_ms = if distribution == "service_ns" { run.ms("/generator/lateness_ns/max") } else { 0.0 };
        let span = expected_ms - SLACK_MS - late_ms..expected_ms + SLACK_MS;
        assert!(
            span.contains(&found_ms),
            "{distribution} {name} is {found_ms} ms, not {expected_ms}: {}",
            run.told
        );
    }
}

#[test]
fn a_server_that_falls_silent_for_ever_shows_as_arithmetic_has_it() {
    // 1,000 on each of four connections, of which the last 100 were due from 1.8 to 2 s and are given up at 5 s: no answer
    // takes so long on a machine that is busy.
    let server = Server::start(Fault::Mute(900));
    let flags = ["-c", "4", "--rate", "2000", "-d", "2s", "--drain", "3s", "--allow-saturated"];
    let run = bench(&server, &flags);
    assert_eq!(server.finish().planted.load(Ordering::Relaxed), 400, "{}", run.told);
    assert_eq!(run.integrity(), only(&[("lost", 400)], &run), "{}", run.told);
    assert_eq!(run.count("/response_ns/count"), 4_000, "{}", run.told);
    for distribution in ["response_ns", "service_ns"] {
        assert_ages(&run, distribution, (400.0, 4_000.0), (1_800.0, 2_000.0), 5_000.0);
    }
    assert!(run.ms("/response_ns/p50") < 2_000.0, "the others came: {}", run.told);
    assert_eq!(run.record["config"]["drain_s"], 3.0, "{}", run.told);

    // Of a broadcast each delivery counts: 100 of 500 for each of three subscribers.
    let server = Server::start(Fault::Mute(400));
    let flags =
        ["--mode", "broadcast", "-c", "4", "--rate", "500", "-d", "1s", "--drain", "3s", "--allow-saturated"];
    let run = bench(&server, &flags);
    server.finish();
    assert_eq!(run.integrity(), only(&[("lost", 300)], &run), "{}", run.told);
    assert_eq!(run.count("/response_ns/count"), 1_500, "{}", run.told);
    assert_ages(&run, "response_ns", (300.0, 1_500.0), (800.0, 1_000.0), 4_000.0);
}

#[test]
fn what_could_not_be_sent_to_a_server_that_reads_nothing_is_as_old_as_it_gets() {
    // Of 1,000 messages half are answered. The others are 32 MiB, of which the generator's send buffer takes some.
    let server = Server::start(Fault::Deaf(500));
    let flags = ["-c", "1", "--rate", "500", "-d", "2s", "--message-bytes", "64KiB", "--drain", "3s"];
    let run = bench(&server, &[&flags[..], &["--allow", "lost,closed", "--allow-saturated"]].concat());
    server.finish();
    let (lost, unsent) = (run.count("/integrity/lost"), run.count("/generator/unsent"));
    assert!(lost > 0 && unsent > 0, "{}", run.told);
    assert_eq!(lost + unsent, 500, "{}", run.told);
    assert_eq!(run.count("/response_ns/count"), 1_000, "{}", run.told);
    assert_eq!(run.count("/service_ns/count"), 1_000 - unsent, "what never left has none: {}", run.told);
    assert_eq!(run.count("/generator/unsent_gone"), 0, "its connection is there: {}", run.told);
    // Message 500 was due at 1 s and nobody waits after 5 s.
    assert_ages(&run, "response_ns", (500.0, 1_000.0), (1_000.0, 2_000.0), 5_000.0);
}

#[test]
fn a_server_that_answers_before_it_reads_on_gets_its_answers_read() {
    for drive in ["uring", "epoll"] {
        // Its answers to a quarter of these fill all buffers, and the messages behind them the connection's queue.
        let server = Server::start(Fault::Late(Duration::from_millis(2)));
        let flags =
            ["-c", "1", "--rate", "2000", "-d", "500ms", "--message-bytes", "64KiB", "--driver", drive];
        let flags = [&flags[..], &["--drain", "60s", "--allow-saturated"]].concat();
        let run = bench(&server, &[&flags[..], &["--allow", "unsent"]].concat());
        assert_eq!((run.code, run.integrity()), (Some(0), only(&[], &run)), "{}", run.told);
        let (unsent, received) =
            (run.count("/generator/unsent"), server.finish().received.load(Ordering::Relaxed));
        assert!(unsent > 0 && unsent + received == 1_000, "{received} came: {}", run.told);
        assert_eq!(run.count("/service_ns/count"), received, "{}", run.told);
        assert_eq!(run.count("/generator/unsent_gone"), 0, "its connection is there: {}", run.told);
        // A word is said of it, and it fails the run that does not allow it.
        let warning = format!("warning: echo: {unsent} messages that were due were never sent: ");
        assert!(run.told.contains(&warning) && run.told.contains("--allow unsent"), "{}", run.told);
        let server = Server::start(Fault::Late(Duration::from_millis(2)));
        let run = bench(&server, &flags);
        server.finish();
        let unsent = run.count("/generator/unsent");
        assert!(unsent > 0, "{}", run.told);
        // A generator that was late itself does not blame the server.
        if run.record["generator"]["saturated"] == false {
            let broken = format!(" 0 late, {unsent} unsent, 0 connections ended early");
            assert!(run.code == Some(1) && run.told.contains(&broken), "{}", run.told);
        }
    }
}

#[test]
fn each_answer_past_a_bound_is_late() {
    // No other answer takes so long on a machine that is busy elsewhere.
    const PAST: Duration = Duration::from_secs(3);
    let server = Server::start(Fault::LateEach(10, PAST));
    let flags = ["-c", "3", "--depth", "1", "-d", "1500ms", "--late-after", "2s", "--fail-if", "late>0"];
    let run = bench(&server, &flags);
    let planted = server.finish().planted.load(Ordering::Relaxed);
    assert!(planted > 0, "{}", run.told);
    assert_eq!(run.integrity(), only(&[("late", planted)], &run), "{}", run.told);
    assert_eq!(run.code, Some(1), "{}", run.told);
    assert_eq!(run.record["fail_if"][0]["seen"]["late"].as_f64(), Some(planted as f64), "{}", run.told);
    assert!(run.told.contains("late, "), "the line that says what broke names them: {}", run.told);

    let server = Server::start(Fault::LateEach(10, PAST));
    let run = bench(&server, &[&flags[..8], &["--allow", "late"]].concat());
    assert!(run.count("/integrity/late") > 0 && run.code == Some(0), "{}", run.told);
    let server = Server::start(Fault::LateEach(10, PAST));
    let run = bench(&server, &flags[..6]);
    assert_eq!((run.code, run.integrity()), (Some(0), only(&[], &run)), "nothing was asked: {}", run.told);
}

/// One in twenty responses of an asynchronous server takes this long, the others that long.
const ASYNCHRONOUS: (u64, Duration, Duration) = (20, Duration::from_millis(400), Duration::from_millis(5));

#[test]
fn answers_in_any_order_are_matched_with_what_they_answer() {
    let (number, late, soon) = ASYNCHRONOUS;
    for drive in ["uring", "epoll"] {
        // In a closed loop, in an open one, and with messages that are known by their bytes alone.
        for flags in [
            ["-c", "2", "--depth", "16", "-d", "2s", "--message-bytes", "64"],
            ["-c", "2", "--rate", "2000", "-d", "2s", "--message-bytes", "64"],
            ["-c", "2", "--depth", "16", "-d", "2s", "--message-bytes", "8..400"],
        ] {
            let server = Server::start(Fault::Postpone(number, late, soon));
            let run = bench(
                &server,
                &[&flags[..], &["--driver", drive, "--allow", "reordered", "--allow-saturated"]].concat(),
            );
            let counts = server.finish();
            let planted = counts.planted.load(Ordering::Relaxed);
            let reordered = run.count("/integrity/reordered");
            assert_eq!(run.integrity(), only(&[("reordered", reordered)], &run), "{}", run.told);
            assert_eq!(counts.unanswered.load(Ordering::Relaxed), 0, "{}", run.told);
            // The last of them may have nothing behind them; a busy host exchanges some of the others.
            assert!(planted > 20 && reordered >= planted / 2, "{planted}: {}", run.told);
            assert_eq!(run.code, Some(0), "{}", run.told);
            assert!(run.ms("/response_ns/p99") >= 399.0, "{}", run.told);
            assert!(run.ms("/response_ns/max") < 5_000.0, "none took nearly so long: {}", run.told);
            let most = counts.most_awaited.load(Ordering::Relaxed);
            assert!(!flags.contains(&"--depth") || most <= 16, "{most} under way: {}", run.told);
        }
    }
}

#[test]
fn the_drain_waits_for_answers_that_others_overtook() {
    // Each tenth answer takes longer than the run, and comes while the drain lasts.
    let server = Server::start(Fault::Postpone(10, Duration::from_millis(1_500), Duration::from_millis(1)));
    let flags = [
        "-c",
        "2",
        "--rate",
        "500",
        "-d",
        "1s",
        "--drain",
        "20s",
        "--allow",
        "reordered",
        "--allow-saturated",
    ];
    let run = bench(&server, &flags);
    let reordered = run.count("/integrity/reordered");
    assert_eq!(run.integrity(), only(&[("reordered", reordered)], &run), "{}", run.told);
    assert_eq!((run.code, run.count("/response_ns/count")), (Some(0), 500), "{}", run.told);
    assert!(run.ms("/response_ns/p99") >= 1_499.0, "{}", run.told);
}

#[test]
fn answers_that_say_nothing_have_no_latency() {
    let (number, late, soon) = ASYNCHRONOUS;
    let flags = ["-c", "2", "--depth", "8", "-d", "1s", "--verify", "off"];
    let server = Server::start(Fault::Shrug(number, late, soon));
    let run = bench(&server, &flags);
    server.finish();
    assert_eq!((run.code, run.integrity()), (Some(0), only(&[], &run)), "{}", run.told);
    let messages = run.count("/messages");
    assert!(messages > 20 && run.count("/unmatched") >= messages, "{}", run.told);
    for distribution in ["response_ns", "service_ns", "response_histogram", "service_histogram"] {
        assert_eq!(run.record.get(distribution), Some(&Value::Null), "{}", run.told);
    }
    // The table says it as well.
    let server = Server::start(Fault::Shrug(number, late, soon));
    let output = Command::new(env!("CARGO_BIN_EXE_echoring"))
        .args(["bench", &format!("ws://{}", server.address), "--warmup", "0s"])
        .args(flags)
        .output()
        .expect("the binary runs");
    let told = lossy(&output.stdout);
    assert!(told.contains("unmatched  ") && !told.contains("| response"), "{told}");
    // Answers that name what they answer have one, in whatever order they come.
    let server = Server::start(Fault::Postpone(number, late, soon));
    let run = bench(&server, &[&flags[..], &["--allow", "reordered"]].concat());
    assert_eq!((run.code, run.count("/unmatched")), (Some(0), 0), "{}", run.told);
    assert!(run.ms("/response_ns/max") >= 399.0, "{}", run.told);
}

#[test]
fn a_broadcast_that_is_reordered_across_the_end_of_the_warm_up_is_counted_once() {
    let server = Server::start(Fault::Postpone(7, Duration::from_millis(300), Duration::from_millis(1)));
    let flags = ["--mode", "broadcast", "-c", "4", "--rate", "500", "-d", "2s", "--warmup", "500ms"];
    let run = bench(&server, &[&flags[..], &["--allow", "reordered", "--allow-saturated"]].concat());
    let reordered = run.count("/integrity/reordered");
    assert!(reordered > 0, "{}", run.told);
    assert_eq!(run.integrity(), only(&[("reordered", reordered)], &run), "{}", run.told);
    // 1,000 messages for each of three subscribers.
    assert_eq!((run.code, run.count("/response_ns/count")), (Some(0), 3_000), "{}", run.told);
    assert!(run.ms("/response_ns/max") < 3_000.0, "{}", run.told);
}

#[test]
fn one_lost_delivery_does_not_hold_a_closed_loops_publisher_up() {
    // Each thirtieth reaches nobody.
    let server = Server::start(Fault::Drop(30));
    let flags =
        ["--mode", "broadcast", "-c", "3", "--depth", "1", "-d", "4s", "--drain", "1s", "--allow", "lost"];
    let run = bench(&server, &flags);
    let dropped = server.finish().planted.load(Ordering::Relaxed);
    assert!(dropped >= 6, "it went on behind the first: {}", run.told);
    assert_eq!(run.integrity(), only(&[("lost", dropped)], &run), "{}", run.told);
    assert_eq!((run.code, &run.record["errors"]), (Some(0), &json!({})), "{}", run.told);
}

#[test]
fn what_is_due_when_all_connections_are_gone_is_unsent() {
    let server = Server::start(Fault::Close(50, 1001));
    let flags = ["-c", "4", "--rate", "1000", "-d", "2s", "--drain", "1s", "--allow-saturated"];
    let run = bench(&server, &[&flags[..], &["--allow", "lost,closed"]].concat());
    server.finish();
    let (lost, unsent) = (run.count("/integrity/lost"), run.count("/generator/unsent"));
    // 50 on each of four connections were answered.
    assert_eq!(lost + unsent, 1_800, "{}", run.told);
    assert!(unsent > 1_000, "{}", run.told);
    // All of them because their connections were gone, as the line that says what broke has it.
    assert_eq!(run.count("/generator/unsent_gone"), unsent, "{}", run.told);
    assert!(run.told.contains(&format!(" late, {unsent} unsent, 4 connections ended early")), "{}", run.told);
    assert_eq!((run.code, run.count("/response_ns/count")), (Some(1), 2_000), "{}", run.told);
    assert_eq!(run.record["duration_s"], 2.0, "{}", run.told);
    let server = Server::start(Fault::Close(50, 1001));
    let run = bench(&server, &[&flags[..], &["--allow", "lost,closed,unsent"]].concat());
    assert_eq!(run.code, Some(0), "{}", run.told);
}

#[test]
fn corrupted_answers_are_as_old_as_they_are() {
    let server = Server::start(Fault::Flip(10));
    let run = bench(
        &server,
        &["-c", "2", "--rate", "1000", "-d", "1s", "--allow", "corrupted", "--allow-saturated"],
    );
    assert_eq!(server.finish().planted.load(Ordering::Relaxed), 100, "{}", run.told);
    assert_eq!((run.code, run.integrity()), (Some(0), only(&[("corrupted", 100)], &run)), "{}", run.told);
    for distribution in ["response_ns", "service_ns"] {
        assert_eq!(run.count(&format!("/{distribution}/count")), 1_000, "{}", run.told);
    }
}

/// Time for which the generator is frozen.
const FROZEN: Duration = Duration::from_millis(500);

/// A run whose generator is stopped for [`FROZEN`] within its measured time, and its further output on stderr.
fn bench_frozen(server: &Server, flags: &[&str]) -> (Run, String) {
    let mut command = command(server, flags);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    lines.find(|line| line.contains("measuring")).expect("it says when it measures");
    program::stop(&child);
    std::thread::sleep(FROZEN);
    program::signal(&child, rustix::process::Signal::CONT);
    let rest: Vec<String> = lines.collect();
    (finished(flags, child.wait_with_output().expect("it ends")), rest.join("\n"))
}

/// Its heartbeats show how long it was frozen.
fn assert_missed_beats(run: &Run) {
    assert!(run.ms("/generator/heartbeat_ns/max") >= 450.0, "{}", run.told);
    assert!(run.ms("/generator/threads/0/heartbeat_ns_max") >= 450.0, "{}", run.told);
    assert!(run.count("/generator/heartbeat_ns/count") >= 200, "{}", run.told);
}

#[test]
fn a_generator_that_is_frozen_says_so_in_a_closed_loop_as_well() {
    for drive in ["uring", "epoll"] {
        let server = Server::start(Fault::Nothing);
        let (run, warned) =
            bench_frozen(&server, &["-c", "2", "--depth", "1", "-d", "3s", "--driver", drive]);
        assert_eq!(run.code, Some(0), "{}", run.told);
        assert_missed_beats(&run);
        assert!(warned.contains("stalled"), "{warned}");
    }
}

#[test]
fn how_late_a_frozen_generator_may_be_is_asked_for_and_its_share_is_told() {
    for (drive, bound, code) in
        [("uring", "100ms", 4), ("uring", "1m", 0), ("epoll", "100ms", 4), ("epoll", "1m", 0)]
    {
        // Each answer takes 20 ms, and what was due while the generator was frozen up to 500 ms besides.
        let server = Server::start(Fault::Postpone(1, Duration::from_millis(20), Duration::ZERO));
        let flags = ["-c", "4", "--rate", "1000", "-d", "3s", "--driver", drive, "--max-lateness", bound];
        let (run, told) = bench_frozen(&server, &[&flags[..], &["--allow", "reordered"]].concat());
        assert_eq!(run.code, Some(code), "{told}\n{}", run.told);
        assert_eq!(run.record["generator"]["saturated"], code == 4, "{}", run.told);
        assert_eq!(told.contains("error: echo: the generator was "), code == 4, "{told}");
        assert_missed_beats(&run);
        let ms = |name: &str| run.ms(name);
        assert!(ms("/response_ns/min") >= 19.9 && ms("/service_ns/min") >= 19.9, "{}", run.told);
        // Of 3,000 messages 500 were due then, evenly: it came 470 ms late for the hundredth part, 350 ms for the twentieth,
        // 200 ms for the tenth. A machine that is busy elsewhere makes it later, and service times longer as well.
        assert!(ms("/generator/lateness_ns/max") >= 450.0, "{}", run.told);
        for (name, least) in [("p99", 450.0), ("p95", 330.0), ("p90", 180.0)] {
            let (late, response) =
                (ms(&format!("/generator/lateness_ns/{name}")), ms(&format!("/response_ns/{name}")));
            assert!(late >= least && response >= least + 19.9, "{name} {late}: {}", run.told);
        }
        let [total, generator, _, _] = shares(&run, "p99");
        assert!(generator > total / 2.0, "it was stopped: {}", run.told);
    }
}

#[test]
fn what_messages_wait_for_room_is_not_taken_for_the_generators_share() {
    // Of 1,000 messages half are answered. Of the other 32 MiB, the generator's send buffer takes a few, and the rest is never
    // sent.
    let server = Server::start(Fault::Deaf(500));
    let flags = ["-c", "1", "--rate", "500", "-d", "2s", "--message-bytes", "64KiB", "--drain", "2s"];
    let run = bench(&server, &[&flags[..], &["--allow", "lost,closed", "--allow-saturated"]].concat());
    server.finish();
    for name in ["p50", "p99", "p999"] {
        let [total, generator, ..] = shares(&run, name);
        assert!(generator < total / 2.0, "{name} {generator}: {}", run.told);
    }
    let unsent = run.count("/generator/unsent") as f64;
    assert!(unsent > 300.0 && run.ms("/response_ns/p75") > 2_000.0, "{}", run.told);
}

/// Measures the server with one thread that shares its CPU with two busy loops.
fn bench_starved(server: &Server, flags: &[&str]) -> Run {
    let cpu = *core_affinity::get_core_ids().expect("this host tells").first().expect("one");
    let over = Arc::new(AtomicBool::new(false));
    let loops: Vec<_> = (0..2)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || {
                core_affinity::set_for_current(cpu);
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let run = bench(server, &[flags, &["--threads", "1", "--cpus", &cpu.id.to_string()]].concat());
    over.store(true, Ordering::Relaxed);
    loops.into_iter().for_each(|busy| busy.join().expect("it ends"));
    run
}

/// The shares of a quantile in milliseconds: all of it, the generator's, the host's if the kernel counts it, and the server's.
fn shares(run: &Run, quantile: &str) -> [f64; 4] {
    let ns = |name: &str| run.record["shares"][quantile][name].as_f64();
    let host = ns("host_ns").unwrap_or(0.0);
    let [total, generator, server] = ["total_ns", "generator_ns", "server_ns"]
        .map(|name| ns(name).unwrap_or_else(|| panic!("{quantile} {name}: {}", run.told)));
    assert_eq!(total, generator + host + server, "{quantile}: {}", run.told);
    assert_eq!(ns("total_ns"), run.record["response_ns"][quantile].as_f64(), "{quantile}: {}", run.told);
    assert!(ns("messages") > Some(0.0), "{quantile}: {}", run.told);
    [total, generator, host, server].map(|ns| ns / 1e6)
}

#[test]
fn a_slow_server_has_the_largest_share_of_the_response_time_however_starved_the_generator_is() {
    let server = Server::start(Fault::Postpone(1, Duration::from_millis(400), Duration::ZERO));
    let flags = ["-c", "4", "--rate", "200", "-d", "2s", "--allow", "reordered", "--allow-saturated"];
    let run = bench_starved(&server, &flags);
    assert_eq!(run.code, Some(0), "{}", run.told);
    for quantile in ["p50", "p99", "p999"] {
        let [total, _, _, server] = shares(&run, quantile);
        assert!(total >= 399.0 && server > total / 2.0, "{quantile}: {}", run.told);
    }
}

#[test]
fn a_generator_that_shares_its_cpu_tells_how_long_it_waited_for_it() {
    let server = Server::start(Fault::Nothing);
    let run = bench_starved(&server, &["-c", "8", "--depth", "16", "-d", "2s"]);
    let told = &run.record["generator"]["run_delay_ns"];
    assert_eq!(told, &run.record["generator"]["threads"][0]["run_delay_ns"], "{}", run.told);
    // Two loops take most of the CPU from a thread that could use all of it. Not every kernel counts that.
    let is_counted = Path::new("/proc/thread-self/schedstat").exists();
    assert_eq!(told.is_u64(), is_counted, "{}", run.told);
    if is_counted {
        let waited = run.ms("/generator/run_delay_ns");
        assert!((20.0..60_000.0).contains(&waited), "{waited} ms: {}", run.told);
    }
    // The messages that it kept waiting meanwhile are the slowest of these.
    let [_, _, host, _] = shares(&run, "p999");
    assert_eq!(host > 0.0, is_counted, "{}", run.told);
}

/// Quantiles above 0.9 of a percentile file, with their values in milliseconds.
fn quantiles(file: &Path) -> Vec<(f64, f64)> {
    let text = std::fs::read_to_string(file).expect("it was written");
    let rows = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<f64>);
        let (value_ms, quantile) = (fields.next()?.ok()?, fields.next()?.ok()?);
        (0.9..1.0).contains(&quantile).then_some((quantile, value_ms))
    });
    let rows: Vec<(f64, f64)> = rows.collect();
    assert!(rows.len() > 10, "{text}");
    rows
}

#[test]
fn late_answers_are_as_late_as_they_are() {
    const LATE_MS: f64 = 40.0;
    const CONNECTIONS: f64 = 4.0;
    let server = Server::start(Fault::Late(Duration::from_secs_f64(LATE_MS / 1e3)));
    let run = bench(&server, &["-c", "4", "--depth", "1", "-d", "2s"]);
    assert_eq!(run.integrity(), only(&[], &run), "{}", run.told);
    let overslept_ms = server.finish().overslept_ns.load(Ordering::Relaxed) as f64 / 1e6;
    let found_ms = ["p50", "p90", "max"].map(|quantile| run.ms(&format!("/service_ns/{quantile}")));
    assert!(found_ms.iter().all(|found_ms| *found_ms >= LATE_MS), "{found_ms:?}: {}", run.told);
    // Whoever has no CPU for a while reads an answer later, but not half of them by as much again.
    assert!(found_ms[0] < 2.0 * LATE_MS + overslept_ms, "{found_ms:?}: {}", run.told);
    // Little's law: as many are under way as come a second, times the seconds that each takes.
    let under_way = run.count("/messages") as f64 / 2.0 * run.ms("/response_ns/mean") / 1e3;
    assert!((CONNECTIONS * 0.85..CONNECTIONS * 1.05).contains(&under_way), "{under_way}: {}", run.told);
}

#[test]
fn a_faithful_server_is_found_faithful_whatever_messages_are_made_of() {
    let is_wide = |message: &Message| !message.to_text().expect("text").is_ascii();
    let joined = |message: &Message| message.to_text().expect("text").contains('\u{200d}');
    let checks: [(&[&str], Check<'_>); 4] = [
        (&["--message-bytes", "12"], &|message| !is_wide(message)),
        (&["--payload-file", WIDE_TEXT], &is_wide),
        (&["--kind", "json", "--message-bytes", "zipf:40..3000"], &|message| {
            serde_json::from_str::<Value>(message.to_text().expect("text")).is_ok()
        }),
        (&["--kind", "binary", "--message-bytes", "zipf:0..3000"], &|message| message.is_binary()),
    ];
    for (flags, check) in checks {
        let server = Server::start(Fault::Nothing);
        // The server's library ends a connection with 1007 on whatever is not UTF-8.
        let run = bench(&server, &[&["-c", "3", "--depth", "4", "-d", "300ms"], flags].concat());
        assert_eq!((run.code, run.integrity()), (Some(0), only(&[], &run)), "{}", run.told);
        assert!(server.finish().received.load(Ordering::Relaxed) >= run.count("/messages"), "{}", run.told);
        let heard = server.heard();
        assert!(heard.len() > 20 && heard.iter().all(check), "{}", run.told);
        assert_eq!(
            flags.contains(&WIDE_TEXT),
            heard.iter().any(|message| message.is_text() && joined(message))
        );
    }
}

#[test]
fn lines_of_a_file_are_sent_in_their_order_and_compared_whole() {
    let file = std::env::temp_dir().join(format!("echoring-lines-{}.ndjson", std::process::id()));
    let lines: Vec<String> = (0..50).map(|line| json!({ "line": line, "text": "é" }).to_string()).collect();
    std::fs::write(&file, lines.join("\n")).expect("a temporary file");
    let name = file.to_string_lossy().into_owned();
    let flags = ["-c", "1", "--depth", "4", "-d", "300ms", "--kind", "json", "--payload-file", &name];
    let server = Server::start(Fault::Nothing);
    let run = bench(&server, &flags);
    assert_eq!((run.code, run.integrity()), (Some(0), only(&[], &run)), "{}", run.told);
    let config = &run.record["config"];
    assert_eq!((&config["payload_lines"], &config["sequenced"]), (&json!(50), &json!(false)), "{}", run.told);
    assert_eq!(config["payload_file"], name.as_str(), "{}", run.told);
    server.finish();
    let heard = server.heard();
    let first = lines.iter().position(|line| heard[0] == Message::text(line.as_str())).expect("a line");
    assert!(heard.len() > 100, "{}", run.told);
    for (message, at) in heard.iter().zip(first..) {
        assert_eq!(*message, Message::text(lines[at % 50].as_str()));
    }

    // A line has no sequence, but it is known among its neighbours.
    for (fault, name) in
        [(Fault::Drop(40), "lost"), (Fault::Duplicate(40), "duplicated"), (Fault::Swap(40), "reordered")]
    {
        let server = Server::start(fault);
        let run = bench(&server, &flags);
        let counts = server.finish();
        let (did, owed) = (counts.planted.load(Ordering::Relaxed), counts.unanswered.load(Ordering::Relaxed));
        assert!(did > 0, "{}", run.told);
        assert_eq!(run.integrity(), only(&[(name, did), ("lost", owed)], &run), "{}", run.told);
    }
    std::fs::remove_file(&file).expect("our own file");
}

#[test]
fn messages_too_short_for_a_name_are_known_by_their_neighbours() {
    let planting: [(Plant, &str); 3] =
        [(Fault::Drop, "lost"), (Fault::Duplicate, "duplicated"), (Fault::Swap, "reordered")];
    for (fault, name) in planting {
        let server = Server::start(fault(50));
        let run = bench(&server, &["-c", "2", "--depth", "8", "-d", "500ms", "--message-bytes", "8..11"]);
        let counts = server.finish();
        let (did, owed) = (counts.planted.load(Ordering::Relaxed), counts.unanswered.load(Ordering::Relaxed));
        assert!(did > 0, "{}", run.told);
        let expected = only(&[(name, did), ("lost", owed)], &run);
        // Of 2^16 messages of so few bytes two neighbours may be alike, and one is then taken for the other.
        let is_near = |(found, expected): (&u64, &u64)| found.abs_diff(*expected) <= 3;
        let integrity = run.integrity();
        assert!(integrity.values().zip(expected.values()).all(is_near), "not {expected:?}: {}", run.told);
        assert_eq!(integrity["corrupted"], 0, "{}", run.told);
    }
}
