//! The verdicts of `echoring bench`, and `echoring compare`: thresholds, the search for the highest rate, repetitions
//! that alternate with another server. The real binary, and servers of known speed.

mod counts;

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::support::{peer, ports, program};
use peer::{Fault, Peer, Planted};
use program::{Run, Serve};
use serde_json::{Value, json};

/// Time per message of the slow server.
const SERVICE_TIME: Duration = Duration::from_millis(2);

fn echoring(words: &[&str]) -> Run {
    program::command(words).output().expect("the binary runs").into()
}

/// A short `bench` with its results as JSON.
fn bench(words: &[&str]) -> Run {
    let mut all = vec!["bench"];
    all.extend_from_slice(words);
    for (flag, value) in [("-d", "300ms"), ("--warmup", "0s"), ("-c", "4"), ("--json", "-")] {
        if !words.contains(&flag) {
            all.extend([flag, value]);
        }
    }
    echoring(&all)
}

/// A server that echoes one message after the other and takes `service_time` for each, written with another library.
/// It runs until the test's process ends.
fn slow_server(service_time: Duration) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            stream.set_nodelay(true).expect("TCP");
            thread::spawn(move || {
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                // The other end closes, or goes away.
                while let Ok(message) = socket.read() {
                    if message.is_text() || message.is_binary() {
                        thread::sleep(service_time);
                        if socket.send(message).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// A file that is deleted when it goes out of scope.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("echoring-verdicts-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("written");
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn a_threshold_that_is_missed_is_exit_code_1_and_the_line_that_failed() {
    let run = bench(&["--mode", "echo", "--fail-if", "max>3000s", "--fail-if", "messages>0 && p50>0ns"]);
    assert_eq!(run.code, Some(1), "{run}");
    let last = last_line(&run.stderr);
    assert!(last.starts_with("error: echo: --fail-if messages>0 && p50>0ns: messages is "), "{run}");
    let told = &run.json()["runs"][0]["fail_if"];
    assert_eq!((&told[0]["expression"], &told[0]["failed"]), (&json!("max>3000s"), &json!(false)), "{run}");
    assert_eq!(told[1]["failed"], true, "{run}");
    assert_eq!(told[1]["seen"]["messages"].as_f64(), run.json()["runs"][0]["messages"].as_f64(), "{run}");

    let run = bench(&["--mode", "echo", "--fail-if", "max>3000s", "--fail-if", "lost>0"]);
    assert_eq!(run.code, Some(0), "{run}");
}

#[test]
fn a_threshold_is_asked_of_the_runs_that_can_have_it() {
    let run = bench(&["--fail-if", "reach<=100%"]);
    assert_eq!(run.code, Some(1), "{run}");
    let json = run.json();
    assert_eq!(json["runs"][0]["fail_if"], json!([]), "an echo reaches nobody: {run}");
    assert_eq!(json["runs"][1]["fail_if"][0]["seen"], json!({"reach": 1.0}), "{run}");
    assert_eq!(run.stderr.matches("--fail-if").count(), 1, "{run}");
}

#[test]
fn broken_integrity_and_a_missed_threshold_are_both_told() {
    let peer = Peer::start(vec![Planted { connection: 0, message: 3, fault: Fault::Drop }], vec![]);
    let url = format!("ws://{}", peer.address);
    let run = bench(&[&url, "--fail-if", "lost>0", "--fail-if", "corrupted>0"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.stderr.contains("integrity broken: 1 lost"), "{run}");
    assert!(run.stderr.contains("--fail-if lost>0: lost is 1"), "{run}");
    assert!(!run.stderr.contains("--fail-if corrupted>0"), "{run}");
}

#[test]
fn what_a_run_turns_out_not_to_know_fails_its_threshold() {
    // Closed by the peer before the measured time begins.
    let faults = vec![Planted { connection: 0, message: 0, fault: Fault::Close(1001) }];
    let peer = Peer::start(faults, vec![]);
    let url = format!("ws://{}", peer.address);
    let run = bench(&[&url, "-c", "1", "--warmup", "2s", "--fail-if", "p99>1000s"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.stderr.contains("p99 is not available for this run"), "{run}");
}

#[test]
fn a_missed_threshold_goes_before_a_late_generator() {
    // More than a thread can send in any build: it comes late to its own schedule.
    let server = Serve::start(&["--shards", "1", "--log", "off"]);
    let server_url = server.url();
    let late = [server_url.as_str(), "--rate", "50000000", "-d", "200ms", "--threads", "1"];
    let run = bench(&late);
    assert_eq!(run.code, Some(4), "{run}");
    let run = bench(&[&late[..], &["--fail-if", "unsent>=0"]].concat());
    assert_eq!(run.code, Some(1), "{run}");
}

#[test]
fn of_several_reasons_the_first_in_the_order_of_exit_codes_is_told() {
    let server = Serve::start(&["--shards", "1", "--log", "off"]);
    let server_url = server.url();
    let unwritable = [server_url.as_str(), "--junit", "/dev/full"];
    let late = ["--rate", "50000000", "-d", "200ms", "--threads", "1"];
    let run = bench(&[&unwritable[..], &late].concat());
    assert_eq!(run.code, Some(3), "a file goes before a late generator: {run}");
    let missed = ["--fail-if", "messages>=0"];
    let run = bench(&[&unwritable[..], &missed, &["--allow-saturated"]].concat());
    assert_eq!(run.code, Some(1), "a missed threshold goes before a file: {run}");

    let mut words = vec!["bench", &server_url, "-c", "4", "-d", "100s", "--warmup", "0s"];
    words.extend(missed);
    let mut child = program::command(&words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("measuring"))), "progress is told");
    program::signal(&child, rustix::process::Signal::INT);
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let run = Run::from(child.wait_with_output().expect("it ends"));
    assert_eq!(run.code, Some(130), "a signal goes before everything: {run}");
    assert!(rest.iter().any(|line| line.contains("--fail-if messages>=0")), "{rest:?}");
}

#[test]
fn an_objective_that_no_load_holds_is_exit_code_1_with_what_was_seen() {
    let url = format!("ws://{}", slow_server(SERVICE_TIME));
    let find = ["--objective", "p50<1us", "--rate", "320", "-d", "200ms", "-c", "1", "--warmup", "0s"];
    let run = echoring(&[&["capacity", url.as_str()], &find[..], &["--max-duration", "20s"]].concat());
    assert!(run.stdout.starts_with("this server holds "), "{run}");
    assert!(run.stdout.contains("arrived/s"), "the curve is shown: {run}");
    let last = last_line(&run.stderr);
    match run.code {
        // A busy machine gives the generator too little time, which is told instead.
        Some(1) => {
            assert!(last.contains("was met at no load") || last.contains("no load was decided"), "{run}")
        }
        Some(4) => assert!(last.contains("the generator is the limit of p50<1us"), "{run}"),
        _ => panic!("{run}"),
    }
}

#[test]
fn repetitions_tell_how_far_they_lie_apart() {
    let words = ["--mode", "echo", "--repeat", "3"];
    let run = bench(&words);
    assert_eq!(run.code, Some(0), "{run}");
    let json = run.json();
    let numbers: Vec<&Value> =
        json["runs"].as_array().expect("runs").iter().map(|record| &record["repetition"]).collect();
    assert_eq!(numbers[2], &json!({"number": 3, "of": 3, "side": "a"}), "{run}");
    assert_eq!(numbers.len(), 3, "{run}");
    let comparison = &json["comparison"][0];
    assert_eq!((&comparison["b"], &comparison["a"]["runs"]), (&Value::Null, &json!(3)), "{run}");
    let messages = &comparison["metrics"][0];
    assert_eq!(messages["metric"], "messages_per_s", "{run}");
    assert!(messages["a"]["least"].as_f64() <= messages["a"]["median"].as_f64(), "{run}");
    assert_eq!(
        comparison["metrics"].as_array().map(Vec::len),
        Some(5),
        "with the embedded server's CPU: {run}"
    );

    let run = echoring(&["bench", "-c", "2", "-d", "200ms", "--warmup", "0s", "--repeat", "2"]);
    assert_eq!(run.code, Some(0), "{run}");
    for words in
        ["echo: 2 runs of embedded", "broadcast: 2 runs of embedded", "needs 6 runs, but there are 2"]
    {
        assert!(run.stdout.contains(words), "{words}: {run}");
    }
}

/// A fast and a slow server, alternating, in as many pairs as four metrics need.
fn in_turn() -> Run {
    let (fast, slow) = (Serve::start(&["--shards", "1", "--log", "off"]), slow_server(10 * SERVICE_TIME));
    let pid = fast.process.id().to_string();
    let slow = format!("ws://{slow}");
    let fast_url = fast.url();
    let words = [fast_url.as_str(), "--against", &slow, "--repeat", "8", "--server-pid", &pid];
    let fails = ["--fail-on", "worse"];
    bench(&[&words[..], &["-c", "2", "-d", "150ms", "--warmup", "50ms"], &fails].concat())
}

#[test]
fn two_servers_measured_in_turn_are_told_apart_and_the_file_is_judged_again() {
    let run = in_turn();
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.stderr.contains("error: echo: p50 of ws://127.0.0.1:"), "{run}");
    let json = run.json();
    let runs = json["runs"].as_array().expect("runs");
    let sides: Vec<&str> =
        runs.iter().map(|record| record["repetition"]["side"].as_str().expect("a side")).collect();
    assert_eq!(sides.len(), 16, "{run}");
    for four in sides.chunks(4) {
        // One pair each way round.
        assert!([["a", "b", "b", "a"], ["b", "a", "a", "b"]].iter().any(|order| order == four), "{sides:?}");
    }
    for pair in runs.chunks(2) {
        assert_eq!(pair[0]["config"]["seed"], pair[1]["config"]["seed"], "{run}");
        assert_ne!(pair[0]["target"], pair[1]["target"], "{run}");
    }
    let comparison = &json["comparison"][0];
    assert_eq!((&comparison["basis"], &comparison["b"]["runs"]), (&json!("pairs"), &json!(8)), "{run}");
    let finding = |name: &str| {
        let metrics = comparison["metrics"].as_array().expect("metrics");
        metrics.iter().find(|finding| finding["metric"] == name).unwrap_or_else(|| panic!("{name}: {run}"))
    };
    // 20 ms a message are many times what the other takes, even where the host holds it for most of a run.
    assert_eq!(
        (&finding("p50")["verdict"], &finding("messages_per_s")["verdict"]),
        (&json!("worse"), &json!("worse")),
        "{run}"
    );
    let cpu = finding("cpu_per_message");
    assert_eq!(
        (&cpu["b"], &cpu["verdict"]),
        (&Value::Null, &json!("undecided")),
        "one process is named: {run}"
    );

    let both = Scratch::new("both.json", &run.stdout);
    let again = echoring(&["compare", both.path()]);
    assert_eq!(again.code, Some(1), "{again}");
    assert!(again.stdout.contains("alternating runs") && again.stdout.contains("worse"), "{again}");
    for metric in ["messages_per_s", "p50"] {
        assert!(again.stderr.contains(&format!("error: echo: {metric} is worse")), "{metric}: {again}");
    }
    let as_json = echoring(&["compare", both.path(), "--json", "-", "--metric", "p50"]);
    assert_eq!(
        (as_json.code, &as_json.json()["schema"]),
        (Some(1), &json!("echoring.comparison/1")),
        "{as_json}"
    );

    // The other way round it is better, which is nothing to fail by.
    let mut turned = json.clone();
    for record in turned["runs"].as_array_mut().expect("runs") {
        let other = if record["repetition"]["side"] == "a" { "b" } else { "a" };
        record["repetition"]["side"] = json!(other);
    }
    let turned = Scratch::new("turned.json", &turned.to_string());
    let better = echoring(&["compare", turned.path(), "--metric", "p50"]);
    assert_eq!(better.code, Some(0), "{better}");
    assert!(better.stdout.contains("better"), "{better}");

    let refused = echoring(&["compare", both.path(), both.path()]);
    assert_eq!((refused.code, refused.stderr.lines().count()), (Some(2), 1), "{refused}");
    assert!(refused.stderr.contains("compare it alone"), "{refused}");
}

#[test]
fn pairs_that_other_programs_measured_have_a_ratio_with_its_interval() {
    let pairs = Scratch::new("pairs.json", "[[2.0, 1.0], [4.0, 3.0], [1.0, 1.0]]");
    let found = echoring(&["compare", "--pairs", pairs.path()]);
    assert_eq!(found.code, Some(0), "{found}");
    let json = found.json();
    assert_eq!((&json["schema"], &json["pairs"]), (&json!("echoring.pairs/1"), &json!(3)), "{found}");
    let ratios = (&json["ratio_low"], &json["ratio"], &json["ratio_high"]);
    assert_eq!(ratios, (&json!(0.5), &json!(0.75), &json!(1.0)), "{found}");
    let wrong = Scratch::new("wrong.json", "[[0.0, 1.0]]");
    for arguments in [vec!["compare", "--pairs", wrong.path()], vec!["compare"]] {
        let refused = echoring(&arguments);
        assert_eq!(refused.code, Some(2), "{refused}");
    }
    let mixed = echoring(&["compare", pairs.path(), "--pairs", pairs.path()]);
    assert_eq!(mixed.code, Some(2), "{mixed}");
}

#[test]
fn files_are_compared_with_one_another_unless_other_loads_are_in_them() {
    let one = bench(&["--mode", "echo", "-c", "2", "-d", "200ms"]);
    let other = bench(&["--mode", "echo", "-c", "3", "-d", "200ms"]);
    let (a, b) = (Scratch::new("a.json", &one.stdout), Scratch::new("b.json", &other.stdout));
    // With itself, of which it says that two hundred milliseconds carry nothing.
    let same = echoring(&["compare", a.path(), a.path()]);
    assert_eq!(same.code, Some(0), "{same}");
    assert!(same.stdout.contains("undecided") && same.stderr.contains("one run of each"), "{same}");
    let differs = echoring(&["compare", a.path(), b.path()]);
    assert_eq!((differs.code, differs.stderr.lines().count()), (Some(2), 1), "{differs}");
    assert!(differs.stderr.contains("connections is 2 in A and 3 in B"), "{differs}");
    let anyway = echoring(&["compare", a.path(), b.path(), "--allow-different"]);
    assert_eq!(anyway.code, Some(0), "{anyway}");
    assert!(anyway.stderr.contains("warning: echo: connections is 2"), "{anyway}");

    let gate = echoring(&["compare", a.path(), a.path(), "--metric", "max_rate"]);
    assert_eq!(gate.code, Some(2), "what nobody knows is no gate: {gate}");
    let alone = echoring(&["compare", a.path()]);
    assert_eq!(alone.code, Some(2), "{alone}");
    assert!(alone.stderr.contains("--against"), "{alone}");
    let empty = Scratch::new("empty.json", "{\"schema\": \"echoring.run/1\", \"runs\": []}");
    for (path, code) in [(empty.path(), 2), ("/nowhere/run.json", 3), ("/", 3)] {
        let run = echoring(&["compare", a.path(), path]);
        assert_eq!((run.code, run.stderr.lines().count()), (Some(code), 1), "{path}: {run}");
    }
}

/// The results of a run of a second, repeated for each of 24 seconds.
fn prolonged(run: &Run) -> String {
    let mut json = run.json();
    let intervals = json["runs"][0]["intervals"].as_array_mut().expect("intervals");
    intervals.retain(|interval| interval["duration_s"] == 1.0);
    let second = intervals.first().expect("a whole second").clone();
    *intervals = (0..24).map(|at| json!({"at_s": at})).collect();
    for interval in intervals {
        let at = interval.take();
        *interval = second.clone();
        interval["at_s"] = at["at_s"].clone();
    }
    json.to_string()
}

#[test]
fn a_single_run_of_each_decides_nothing() {
    let fast = Serve::start(&["--shards", "1", "--log", "off"]);
    let slow = format!("ws://{}", slow_server(SERVICE_TIME));
    let [a, b] = [fast.url(), slow].map(|url| prolonged(&bench(&[&url, "-c", "2", "-d", "1s"])));
    let (a, b) = (Scratch::new("single-a.json", &a), Scratch::new("single-b.json", &b));
    let compare = |flags: &[&str]| echoring(&[&["compare", a.path(), b.path()], flags].concat());
    let json = Scratch::new("single.json", "");
    let run = compare(&["--json", json.path()]);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("undecided") && !run.stdout.contains("worse"), "{run}");
    assert!(run.stderr.contains("one run of each decides nothing"), "{run}");
    assert!(run.stderr.contains("--against"), "it says what would tell more: {run}");
    let written = std::fs::read_to_string(json.path()).expect("written");
    let json: Value = serde_json::from_str(&written).expect("JSON");
    assert_eq!(json["comparisons"][0]["basis"], "slices", "{json}");
}

#[test]
fn what_cannot_be_reached_any_more_leaves_the_runs_before_it() {
    let fast = Serve::start(&["--shards", "1", "--log", "off"]);
    let [free] = ports::free();
    let nobody = format!("ws://{free}");
    let run = bench(&[&fast.url(), "--against", &nobody, "--repeat", "2"]);
    assert_eq!(run.code, Some(3), "{run}");
    assert!(last_line(&run.stderr).contains("no connection to"), "{run}");
}

#[test]
fn a_run_ends_as_soon_as_a_condition_holds() {
    let slow = format!("ws://{}", slow_server(SERVICE_TIME));
    // An hour, which only the condition ends.
    let run = bench(&[
        &slow,
        "-c",
        "2",
        "-d",
        "1h",
        "--abort-if",
        "p50>3000s && errors>0",
        "--abort-if",
        "p90>1us",
    ]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(last_line(&run.stderr).starts_with("error: echo: ended by --abort-if p90>1us: p90 is "), "{run}");
    let record = &run.json()["runs"][0];
    assert_eq!((&record["aborted_by"], &record["interrupted"]), (&"p90>1us".into(), &true.into()), "{run}");
    assert!(record["duration_s"].as_f64().is_some_and(|seconds| seconds >= 0.9), "{run}");
    let run = bench(&[&slow, "-c", "2", "-d", "1s", "--abort-if", "lost>0"]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("known only at the end"), "{run}");
    let run = bench(&[&slow, "-c", "2", "-d", "1500ms", "--abort-if", "p90>3000s"]);
    assert_eq!(
        (run.code, &run.json()["runs"][0]["aborted_by"]),
        (Some(0), &serde_json::Value::Null),
        "{run}"
    );
}
