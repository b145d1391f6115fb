//! Connect and push mode of `echoring bench`: the real binary against the real server and against one that misbehaves.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::{certificate, peer, program, pusher, silent};
use serde_json::{Value, json};

use certificate::certificate;
use peer::{Fault, Peer, Planted};
use program::{Run, Serve, command};
use silent::Answer;

/// A run for a short time.
fn run(url: &str, flags: &[&str]) -> Run {
    let common = ["bench", url, "--warmup", "0s", "--json", "-"];
    let time: &[&str] = if flags.contains(&"-d") { &[] } else { &["-d", "400ms"] };
    command(&common).args(time).args(flags).output().expect("the binary runs").into()
}

/// The same with its record.
fn bench(url: &str, flags: &[&str]) -> (Run, Value) {
    let run = run(url, flags);
    let mut json = run.json();
    let runs = json["runs"].as_array_mut().expect("runs");
    assert_eq!(runs.len(), 1, "{run}");
    let record = runs.remove(0);
    (run, record)
}

/// A server with TLS, its URL, and the file of its CA certificate.
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

/// Lost, duplicated, reordered, corrupted.
fn integrity(record: &Value) -> [u64; 4] {
    ["lost", "duplicated", "reordered", "corrupted"].map(|field| count(&record["integrity"][field]))
}

#[test]
fn each_message_of_a_schedule_is_a_connection_of_its_own() {
    let server = Serve::start(&["--shards", "1"]);
    for (arrivals, first_message) in [("even", "on"), ("even", "off"), ("poisson", "on")] {
        let flags = ["--mode", "connect", "--rate", "500/s", "--threads", "2", "-d", "1s"];
        // A place for each, so that none is left out on a machine that is busy elsewhere.
        let more = ["--arrivals", arrivals, "--first-message", first_message, "-c", "700"];
        let (run, record) = bench(&server.url(), &[&flags[..], &more].concat());
        let due = count(&record["response_ns"]["count"]);
        // A Poisson process has less than six standard deviations more or fewer.
        assert!(if arrivals == "even" { due == 500 } else { due.abs_diff(500) < 135 }, "{due}: {run}");
        assert_eq!(integrity(&record), [0; 4], "{run}");
        assert_eq!(record["errors"], json!({}), "{run}");
        assert_eq!(record["connections"], json!({"opened": due, "ended_early": 0, "dialled": due}), "{run}");
        assert_eq!(record["closes"], json!({ "1000": due }), "{run}");
        let found = &record["handshake"];
        assert_eq!((count(&found["count"]), count(&found["total_ns"]["count"])), (due, due), "{run}");
        let answered = if first_message == "on" { json!(due) } else { Value::Null };
        assert_eq!(found["first_message_ns"]["count"], answered, "{run}");
        let dialling = json!({"rate": null, "timeout_s": 5.0, "resumption": true, "hold_s": 0.0,
            "first_message": first_message == "on"});
        assert_eq!(record["config"]["dialling"], dialling, "{run}");
        // A machine that is busy elsewhere may make the generator late.
        assert!(matches!(run.code, Some(0 | 4)), "{run}");
    }
}

#[test]
fn a_closed_loop_keeps_so_many_connections_there() {
    let server = Serve::start(&["--shards", "1"]);
    for driver in ["auto", "epoll"] {
        let flags = ["--mode", "connect", "--depth", "7", "--driver", driver, "-d", "2s"];
        let (run, record) = bench(&server.url(), &flags);
        assert_eq!((&record["config"]["connections"], &record["config"]["depth"]), (&json!(7), &json!(7)));
        let opened = count(&record["connections"]["opened"]);
        assert!(opened > 50, "{run}");
        assert_eq!(record["closes"], json!({ "1000": opened }), "{run}");
        assert_eq!(integrity(&record), [0; 4], "{run}");
        assert_eq!((&record["errors"], run.code), (&json!({}), Some(0)), "{run}");
    }
}

#[test]
fn sessions_are_resumed_unless_that_is_refused() {
    let (_server, url, ca) = secured();
    let flags = ["--mode", "connect", "--depth", "1", "--threads", "1", "--ca-file", ca, "-d", "2s"];
    let (run, record) = bench(&url, &flags);
    let found = &record["handshake"];
    let handshakes = count(&found["count"]);
    assert!(handshakes > 10, "{run}");
    assert_eq!(count(&found["tls_ns"]["count"]), handshakes, "{run}");
    // All but the first, which has nothing to go on with.
    assert_eq!(count(&found["resumed"]), handshakes - 1, "{run}");
    assert_eq!(run.code, Some(0), "{run}");

    let (run, record) = bench(&url, &[&flags[..], &["--no-resumption"]].concat());
    let found = &record["handshake"];
    assert!(count(&found["count"]) > 10, "{run}");
    assert_eq!((count(&found["resumed"]), &record["config"]["dialling"]["resumption"]), (0, &json!(false)));
    assert_eq!(run.code, Some(0), "{run}");
}

#[test]
fn each_fault_of_a_connection_is_counted_exactly() {
    let planted = |connection, fault| Planted { connection, message: 0, fault };
    let faults = vec![
        planted(3, Fault::Drop),
        planted(5, Fault::Flip(20)),
        planted(6, Fault::Close(1001)),
        planted(8, Fault::Duplicate),
        planted(9, Fault::OtherKind),
        planted(11, Fault::Cut),
    ];
    let peer = Peer::start(faults, vec![(13, 503), (14, 503)]);
    let url = format!("ws://{}/", peer.address);
    let flags = ["--mode", "connect", "--rate", "100", "--hold", "150ms", "-c", "60", "--threads", "1"];
    let (run, record) = bench(&url, &flags);
    // Dropped, closed and cut; sent again; flipped and of another kind.
    assert_eq!(integrity(&record), [3, 1, 0, 2], "{run}");
    assert_eq!(record["connections"], json!({"opened": 38, "ended_early": 2, "dialled": 40}), "{run}");
    assert_eq!(record["closes"], json!({"1000": 36, "1001": 1, "1006": 1}), "{run}");
    let errors = record["errors"].as_object().expect("by cause");
    assert_eq!(errors["status 503"], 2, "{run}");
    // Cut off: by FIN, or by a reset where bytes were on their way.
    assert_eq!(errors.values().map(count).sum::<u64>(), 3, "{run}");
    assert_eq!(count(&record["handshake"]["count"]), 38, "{run}");
    // All but the three that are lost, the two that are damaged, and the two that were refused.
    assert_eq!(count(&record["handshake"]["first_message_ns"]["count"]), 33, "{run}");
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.stderr.contains("opened 38 of 40 connections: 2 × status 503"), "{run}");
}

#[test]
fn handshakes_that_fail_are_counted_and_as_old_as_they_were() {
    let failed = |record: &Value| {
        let found = &record["handshake"]["failed_ns"];
        [count(&found["count"]), count(&found["min"]) / 1_000_000, count(&found["max"]) / 1_000_000]
    };
    // One is refused at once, and one never answered.
    let echo = ["--mode", "echo", "-c", "6"];
    let connect = ["--mode", "connect", "--rate", "50", "-c", "20"];
    for (flags, opened) in [(&echo[..], 4), (&connect[..], 18)] {
        let peer = Peer::start(vec![], vec![(1, 503), (2, 0)]);
        let url = format!("ws://{}/", peer.address);
        let flags = [flags, &["--threads", "1", "--connect-timeout", "2s", "--allow-saturated"]].concat();
        let (run, record) = bench(&url, &flags);
        assert_eq!(record["errors"], json!({"status 503": 1, "handshake timeout": 1}), "{run}");
        let [times, least, most] = failed(&record);
        assert_eq!((times, count(&record["handshake"]["count"])), (2, opened), "{run}");
        assert!(least <= most && (1_999..30_000).contains(&most), "{run}");
        assert_eq!(run.code, Some(1), "{run}");
    }
    // All of them are refused: nothing was measured, and there is nothing to tell of. One that opens is enough.
    let peer = Peer::start(vec![], vec![]);
    let (run, record) = bench(&format!("ws://{}/", peer.address), &["-c", "2", "--mode", "echo"]);
    assert_eq!(record["handshake"]["failed_ns"], Value::Null, "{run}");

    // One whose handshake has not ended when nobody waits any longer is as old as it is then.
    let peer = Peer::start(vec![], vec![(1, 0)]);
    let flags = [&connect[..], &["--threads", "1", "--connect-timeout", "1h", "--drain", "200ms"]].concat();
    let (run, record) = bench(&format!("ws://{}/", peer.address), &flags);
    assert_eq!(record["errors"], json!({"unfinished handshake": 1}), "{run}");
    let [times, _, most] = failed(&record);
    // Due at 20 ms, and given up at 600 ms.
    assert!(times == 1 && (400..30_000).contains(&most), "{run}");
}

#[test]
fn what_finds_no_place_waits_and_is_measured_from_when_it_was_due() {
    let stall = Duration::from_millis(200);
    let peer = Peer::start(vec![Planted { connection: 10, message: 0, fault: Fault::Stall(stall) }], vec![]);
    let url = format!("ws://{}/", peer.address);
    let (run, record) = bench(&url, &["--mode", "connect", "--rate", "200", "-c", "1"]);
    // All that were due came to their end: 40 of those in the stall waited for it.
    assert_eq!(count(&record["response_ns"]["count"]), 80, "{run}");
    assert_eq!((integrity(&record), &record["errors"]), ([0; 4], &json!({})), "{run}");
    assert!(count(&record["handshake"]["waited"]) >= 35, "{run}");
    let [p90, max] = ["p90", "max"].map(|field| count(&record["response_ns"][field]));
    assert!(max >= 200_000_000, "{run}");
    // Those 40 waited for 200 ms down to none: eight of all 80 for 160 ms or more.
    assert!(p90 >= 120_000_000, "{p90}: {run}");
    // One connection was stalled, and a service time is that of one.
    assert!(count(&record["service_ns"]["p90"]) < 100_000_000, "{run}");
}

#[test]
fn connections_are_opened_at_the_rate_that_is_asked_for() {
    let server = Serve::start(&["--shards", "1"]);
    let flags = ["-c", "400", "--connect-rate", "200/s", "--threads", "2", "-d", "100ms"];
    let (run, record) = bench(&server.url(), &flags);
    assert_eq!(count(&record["handshake"]["count"]), 400, "{run}");
    // From the first to the last are 399 distances of 5 ms, less what the first comes late; a busy machine makes them
    // longer. As fast as they go, it would be thousands.
    let per_s = record["handshake"]["per_s"].as_f64().expect("a rate");
    assert!(per_s > 20.0 && per_s < 1_000.0, "{per_s}: {run}");
    assert_eq!(record["config"]["dialling"]["rate"], 200, "{run}");
}

#[test]
fn the_scenario_of_connections_runs() {
    let server = Serve::start(&["--shards", "1"]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/scenarios/connect.toml");
    let run = run(&server.url(), &["-f", file]);
    assert!(matches!(run.code, Some(0 | 4)), "{run}");
    let json = run.json();
    let runs = json["runs"].as_array().expect("runs");
    let held = |record: &Value| record["config"]["dialling"]["hold_s"].as_f64();
    assert_eq!(runs.iter().map(held).collect::<Vec<_>>(), [Some(0.0), Some(1.0), Some(0.0)], "{run}");
    for record in &runs[..2] {
        assert_eq!(count(&record["response_ns"]["count"]), 200, "{run}");
    }
    assert!(count(&runs[2]["messages"]) > 100, "{run}");
}

#[test]
fn what_is_no_server_is_told_by_cause_with_counts() {
    const OTHER_KEY: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                               Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    for (answer, scheme, cause) in [
        (Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), "ws", "3 × status 200"),
        (Answer::Bytes(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "ws", "3 × handshake: "),
        (Answer::Bytes(OTHER_KEY), "ws", "3 × handshake: "),
        (Answer::Bytes(b""), "ws", "3 × ended in the handshake"),
        (Answer::Nothing, "ws", "3 × handshake timeout"),
        (Answer::Reset, "ws", "3 × reset"),
        (Answer::Nothing, "wss", "3 × handshake timeout"),
    ] {
        let url = format!("{scheme}://{}/", silent::start(answer.clone()));
        // Nobody waits in vain for long, and whoever is answered is not too late on a busy machine.
        let timeout = if matches!(answer, Answer::Nothing) { "300ms" } else { "30s" };
        let flags = ["-c", "3", "--threads", "1", "--connect-timeout", timeout];
        let trust: &[&str] = if scheme == "wss" { &["--insecure"] } else { &[] };
        let run = run(&url, &[&flags[..], trust].concat());
        let last = run.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: no connection to ws"), "{answer:?}: {run}");
        assert!(last.contains(&format!("could be opened (0 of 3: {cause}")), "{answer:?}: {run}");
        assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{answer:?}: {run}");
    }
    // TLS towards a server that speaks none, and one whose certificate nobody vouches for.
    let plain = Serve::start(&["--shards", "1"]);
    let run_plain = run(&format!("wss://{}", plain.address), &["-c", "2", "--insecure"]);
    assert!(run_plain.stderr.contains("0 of 2: 2 × tls-"), "{run_plain}");
    let (_server, url, _) = secured();
    let unknown = run(&url, &["-c", "2"]);
    assert!(unknown.stderr.contains("2 × tls-handshake: invalid peer certificate"), "{unknown}");
    assert!(unknown.stderr.contains("--ca-file"), "{unknown}");
    let nobody = run("ws://no-such-host.invalid/", &[]);
    assert_eq!((nobody.code, nobody.stderr.lines().count()), (Some(3), 1), "{nobody}");
    assert!(nobody.stderr.contains("no-such-host.invalid cannot be resolved"), "{nobody}");
}

#[test]
fn a_wrong_flag_is_one_line_that_names_it() {
    for (flags, flag) in [
        (&["--mode", "connect", "--rate", "1000", "--hold", "2s"][..], "--connections"),
        (&["--mode", "connect", "--depth", "10", "-c", "20"], "--connections"),
        (&["--mode", "connect", "--connect-rate", "10"], "--connect-rate"),
        (&["--mode", "connect", "--connect-timeout", "0s"], "--connect-timeout"),
        (&["--mode", "connect", "--publishers", "2"], "--publishers"),
        (&["--hold", "1s"], "--hold"),
        (&["--mode", "broadcast", "--first-message", "off"], "--first-message"),
        (&["--no-resumption"], "--no-resumption"),
        (&["--connect-rate", "0"], "--connect-rate"),
    ] {
        let run = run("ws://127.0.0.1:1/", flags);
        assert_eq!(run.code, Some(2), "{flags:?}: {run}");
        assert!(run.stderr.starts_with(&format!("error: {flag}: ")), "{flags:?}: {run}");
        assert_eq!((run.stderr.lines().count(), run.stdout.as_str()), (1, ""), "{flags:?}: {run}");
    }
}

/// Sends SIGINT once a line of its progress contains `word`, and waits for its end.
fn interrupt_when(mut child: Child, word: &str) -> Run {
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let told = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(word)));
    assert!(told.is_some(), "progress is told");
    program::signal(&child, rustix::process::Signal::INT);
    // Reads on, so that the child never waits for room in the pipe.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let output = child.wait_with_output().expect("it ends");
    let mut run = Run::from(output);
    run.stderr = rest.join("\n");
    run
}

fn started(words: &[&str]) -> Child {
    command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

#[test]
fn sigint_gives_what_there_is_while_connections_are_the_load() {
    let server = Serve::start(&["--shards", "1"]);
    let words =
        ["bench", &server.url(), "--mode", "connect", "--rate", "100", "-d", "100s", "--warmup", "0s"];
    let run = interrupt_when(started(&words), "measuring, 9");
    assert_eq!(run.code, Some(130), "{run}");
    assert!(run.stdout.contains("partial result") && run.stdout.contains("handshakes "), "{run}");
    assert!(run.stdout.contains("| response"), "{run}");
}

#[test]
fn sigint_while_connecting_does_not_wait_for_handshakes() {
    let url = format!("ws://{}/", silent::start(Answer::Nothing));
    let words = ["bench", &url, "-c", "5", "--connect-timeout", "1h", "--json", "-"];
    let run = interrupt_when(started(&words), "connecting");
    let record = &run.json()["runs"][0];
    assert_eq!((&record["interrupted"], &record["messages"]), (&json!(true), &json!(0)), "{run}");
    assert_eq!(record["errors"], json!({ "unfinished handshake": 5 }), "{run}");
    assert_eq!(record["handshake"]["failed_ns"]["count"], 5, "{run}");
    assert_eq!(run.code, Some(130), "{run}");
    assert!(run.stderr.contains("opened 0 of 5 connections: 5 × unfinished handshake"), "{run}");
}

#[test]
fn descriptors_that_end_are_told_with_the_number_reached() {
    const LIMIT: u64 = 256;
    const CONNECTIONS: u64 = 180;
    // Taken by somebody else in the process: what is asked for fits the limit, and does not fit what is left.
    const TAKEN: usize = 100;
    let server = Serve::start(&["--shards", "1"]);
    let held: Vec<_> = (0..TAKEN).map(|_| std::fs::File::open("/dev/null").expect("readable")).collect();
    for file in &held {
        rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).expect("an open file");
    }
    let common = ["bench", &server.url(), "--driver", "epoll", "--threads", "1", "-c", "180"];
    let mut limited = command(&common);
    limited.args(["--warmup", "0s", "-d", "300ms", "--json", "-"]);
    // SAFETY: setrlimit may be called between fork and exec (signal-safety(7)).
    unsafe {
        limited.pre_exec(|| {
            let limit = rustix::process::Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
            Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?)
        });
    }
    let run = Run::from(limited.output().expect("the binary runs"));
    drop(held);
    let record = &run.json()["runs"][0];
    let opened = count(&record["connections"]["opened"]);
    let failed = count(&record["errors"]["too few descriptors"]);
    assert_eq!(opened + failed, CONNECTIONS, "{run}");
    // What is left of the limit, but for the few that the program has for itself.
    assert!((100..LIMIT - TAKEN as u64).contains(&opened), "{run}");
    let told = format!("opened {opened} of {CONNECTIONS} connections: {failed} × too few descriptors");
    assert!(run.stderr.contains(&told) && run.stderr.contains("ulimit"), "{run}");
    assert!(count(&record["messages"]) > 0, "those that opened are measured: {run}");
    assert_eq!(run.code, Some(1), "{run}");
}

#[test]
fn what_a_server_sends_by_itself_is_counted_with_its_distances() {
    let server = Serve::start(&["--shards", "1"]);
    let url = format!("{}/push?ms=50", server.url());
    let flags = ["--mode", "push", "-c", "10", "--threads", "2", "-d", "1s"];
    for more in [&[][..], &["--hello", "good day"], &["--driver", "epoll"]] {
        let (run, record) = bench(&url, &[&flags[..], more].concat());
        assert_eq!((&record["config"]["mode"], &record["config"]["verify"]), (&json!("push"), &json!(false)));
        let messages = count(&record["messages"]);
        // Ten connections get one each 50 ms: 200, or fewer on a machine that is busy elsewhere, and an echo each.
        assert!((50..=230).contains(&messages), "{run}");
        let found = &record["push"];
        let gaps = count(&found["gap_ns"]["count"]);
        // Each message but the first of a connection has one before it.
        assert!(gaps <= messages && gaps + 10 >= messages, "{run}");
        let p90 = count(&found["gap_ns"]["p90"]);
        assert!(p90 >= 49_000_000, "{p90}: {run}");
        assert_eq!((count(&found["untimed"]), count(&found["ahead"])), (0, 0), "{run}");
        // The first beat comes at once.
        assert_eq!(record["handshake"]["first_message_ns"]["count"], 10, "{run}");
        // Nobody said when they were made.
        assert_eq!(record["response_ns"], Value::Null, "{run}");
        assert_eq!((&record["errors"], &record["closes"]), (&json!({}), &json!({"1000": 10})), "{run}");
        assert_eq!(run.code, Some(0), "{run}");
    }
}

/// The age that each message of [`aged`] claims beyond its own.
const AGE: Duration = Duration::from_millis(1_000);

fn since_1970() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock")
}

fn aged(number: u64) -> String {
    json!({"number": number, "data": {"sent": (since_1970() - AGE).as_micros() as u64}}).to_string()
}

#[test]
fn response_time_counts_from_when_messages_say_that_they_were_made() {
    let url = format!("ws://{}/", pusher::start(Duration::from_millis(10), aged));
    let flags = ["--mode", "push", "-c", "4", "--hello", "begin", "-d", "3s"];
    let (run, record) =
        bench(&url, &[&flags[..], &["--time-field", "data.sent", "--time-unit", "us"]].concat());
    let messages = count(&record["messages"]);
    assert!(messages > 100, "{run}");
    let times = &record["response_ns"];
    // All that arrived within the measured time, and those under way at its end: a third of as many.
    let timed = count(&times["count"]);
    assert!((messages + 4..2 * messages).contains(&timed), "{run}");
    // A clock may be stepped by less than this; a machine that is busy elsewhere makes it longer.
    let p50 = count(&times["p50"]);
    assert!((990_000_000..5_000_000_000).contains(&p50), "{p50}: {run}");
    assert_eq!((&record["push"]["untimed"], &record["push"]["ahead"]), (&json!(0), &json!(0)), "{run}");
    assert_eq!(
        (&record["config"]["time_field"], &record["config"]["time_unit"]),
        (&json!("data.sent"), &json!("us"))
    );
    assert_eq!((&record["config"]["hello"], run.code), (&json!("begin"), Some(0)), "{run}");
}

/// As old as the measured time is long, and more.
fn ancient(number: u64) -> String {
    json!({"number": number, "sent": (since_1970() - 2 * AGE).as_micros() as u64}).to_string()
}

#[test]
fn a_delay_takes_no_message_out_of_the_distribution() {
    let url = format!("ws://{}/", pusher::start(Duration::from_millis(10), ancient));
    let flags = ["--mode", "push", "-c", "2", "--hello", "begin", "-d", "500ms"];
    let (run, record) = bench(&url, &[&flags[..], &["--time-field", "sent", "--time-unit", "us"]].concat());
    let messages = count(&record["messages"]);
    assert!(messages > 10, "{run}");
    // Each that came was made before the measured time; those that were made in it come in the drain.
    assert!(count(&record["response_ns"]["count"]) > messages + 4, "{run}");
    assert!(count(&record["response_ns"]["p50"]) >= 1_990_000_000, "{run}");
    assert_eq!(run.code, Some(0), "{run}");
}

/// Of three messages, one has a time in the future, one none, and one its own.
fn mixed(number: u64) -> String {
    match number % 3 {
        0 => json!({"sent": (since_1970() + Duration::from_secs(3_600)).as_secs_f64()}).to_string(),
        1 => "heart beat".to_owned(),
        _ => json!({"sent": since_1970().as_secs_f64()}).to_string(),
    }
}

#[test]
fn times_that_cannot_be_are_counted() {
    let url = format!("ws://{}/", pusher::start(Duration::from_millis(5), mixed));
    let flags = ["--mode", "push", "-c", "3", "--hello", "begin", "-d", "1s"];
    let (run, record) = bench(&url, &[&flags[..], &["--time-field", "sent", "--time-unit", "s"]].concat());
    let messages = count(&record["messages"]);
    assert!(messages > 60, "{run}");
    for field in ["untimed", "ahead"] {
        // A third of each connection's, and one more at either end of the measured time.
        let found = count(&record["push"][field]);
        assert!(found.abs_diff(messages / 3) <= 6, "{field} {found} of {messages}: {run}");
    }
    assert!(run.code == Some(0), "{run}");
}

#[test]
fn a_wrong_flag_of_a_listener_is_one_line_that_names_it() {
    let push = |flags: &[&'static str]| [&["--mode", "push"], flags].concat();
    for (flags, flag) in [
        (push(&["--rate", "10"]), "--rate"),
        (push(&["--depth", "2"]), "--depth"),
        (push(&["--message-bytes", "20"]), "--message-bytes"),
        (push(&["--hold", "1s"]), "--hold"),
        (push(&["--time-field", "a..b"]), "--time-field"),
        (vec!["--hello", "x"], "--hello"),
        (vec!["--mode", "connect", "--time-field", "x"], "--time-field"),
    ] {
        let run = run("ws://127.0.0.1:1/", &flags);
        assert_eq!(run.code, Some(2), "{flags:?}: {run}");
        assert!(run.stderr.starts_with(&format!("error: {flag}: ")), "{flags:?}: {run}");
    }
    let nobody = Run::from(command(&["bench", "--mode", "push"]).output().expect("the binary runs"));
    assert_eq!(nobody.code, Some(2), "{nobody}");
    assert!(nobody.stderr.starts_with("error: URL: --mode push listens"), "{nobody}");
}

/// Runs the binary in a separate network namespace, whose loopback has the ports 40000 to 40049 without the last 30.
/// `None` if this user may not create one.
fn with_few_ports(words: &[&str]) -> Option<Run> {
    const SET_UP: &str = "ip link set lo up && cd /proc/sys/net/ipv4 && echo 40000 40049 > ip_local_port_range \
                          && echo 40020-40049 > ip_local_reserved_ports && exec \"$@\"";
    let unshared = |words: &[&str]| std::process::Command::new("unshare").arg("-rn").args(words).output();
    if !unshared(&["sh", "-c", SET_UP, "sh", "true"]).is_ok_and(|output| output.status.success()) {
        eprintln!("no network of its own can be made here: what is told of ports is left to the unit tests");
        return None;
    }
    let program = ["sh", "-c", SET_UP, "sh", env!("CARGO_BIN_EXE_echoring"), "bench"];
    Some(unshared(&[&program[..], words].concat()).expect("it ran before").into())
}

#[test]
fn ports_that_end_are_told_with_the_number_reached_and_more_addresses_help() {
    // Forty fit what the range says; of the twenty that are left the server has one.
    let flags =
        ["--mode", "echo", "-c", "40", "--warmup", "0s", "-d", "300ms", "--json", "-", "--source-addr"];
    for driver in ["auto", "epoll"] {
        let Some(run) = with_few_ports(&[&flags[..], &["127.0.0.1", "--driver", driver]].concat()) else {
            return;
        };
        let record = &run.json()["runs"][0];
        assert_eq!(record["connections"], json!({"opened": 19, "ended_early": 0, "dialled": 40}), "{run}");
        assert_eq!(record["errors"], json!({"too few local ports": 21}), "{run}");
        let told =
            "opened 19 of 40 connections: 21 × too few local ports; name more addresses with --source-addr";
        assert!(run.stderr.contains(told) && run.stderr.contains("ip_local_port_range"), "{run}");
        assert!(count(&record["messages"]) > 0, "those that opened are measured: {run}");
        assert_eq!(run.code, Some(1), "{run}");
    }
    let Some(run) = with_few_ports(&[&flags[..], &["127.0.0.1-127.0.0.3"]].concat()) else { return };
    let record = &run.json()["runs"][0];
    assert_eq!((&record["connections"]["opened"], &record["errors"]), (&json!(40), &json!({})), "{run}");
    assert_eq!(run.code, Some(0), "{run}");
}
