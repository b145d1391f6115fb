//! `echoring bench --replay`: what `echoring proxy --record` took is sent again, to servers that answer as recorded and to
//! servers that do not.

use std::fs;
use std::io::BufReader;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use crate::support::{planted, program};
use rustix::process::Signal;
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::HeaderValue;
use tungstenite::protocol::CloseFrame;

use planted::{Fault, Server};
use program::{Run, Serve, command, listening, signal};

/// A folder of one test, removed with what is in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replay-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// A recording of these records.
    fn recording(&self, records: &[Value]) -> String {
        let head = json!({"schema": "echoring.recording/1", "started_unix_ns": 1, "version": "0"});
        let lines: Vec<String> = [&head].into_iter().chain(records).map(|line| format!("{line}\n")).collect();
        let file = self.file("written.jsonl");
        fs::write(&file, lines.concat()).expect("written");
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `echoring proxy --record`.
struct Proxy {
    process: Child,
    address: SocketAddr,
}

impl Proxy {
    fn start(upstream: &str, recording: &str) -> Proxy {
        let mut process =
            command(&["proxy", "--listen", "127.0.0.1:0", "--log", "error", "--upstream", upstream])
                .args(["--record", recording])
                .stdout(Stdio::piped())
                .spawn()
                .expect("the binary runs");
        let (line, address) = listening(&mut BufReader::new(process.stdout.take().expect("piped")));
        Proxy { process, address: address.unwrap_or_else(|| panic!("no address in {line:?}")) }
    }

    /// Ends the proxy, so that the recording is complete.
    fn finish(mut self) {
        signal(&self.process, Signal::TERM);
        assert!(self.process.wait().expect("it ends").success());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Records what `bench` does with these flags on this server.
fn record(server: &str, recording: &str, flags: &[&str]) {
    let proxy = Proxy::start(server, recording);
    let url = format!("ws://{}", proxy.address);
    let common = ["bench", &url, "--warmup", "0s", "--allow-saturated", "--json", "-"];
    let run: Run = command(&common).args(flags).output().expect("the binary runs").into();
    assert_eq!(run.code, Some(0), "{run}");
    proxy.finish();
}

fn replay(url: &str, recording: &str, flags: &[&str]) -> (Run, Value) {
    let common = ["bench", url, "--replay", recording, "--json", "-", "--allow-saturated"];
    let run: Run = command(&common).args(flags).output().expect("the binary runs").into();
    let record = run.json()["runs"][0].take();
    (run, record)
}

/// All integrity counts are 0, but for these.
fn assert_integrity(run: &Run, record: &Value, expected: &[(&str, u64)]) {
    for (name, found) in record["integrity"].as_object().expect("counts") {
        let expected = expected.iter().find(|(other, _)| other == name).map_or(0, |(_, number)| *number);
        assert_eq!(found.as_u64(), Some(expected), "{name}: {run}");
    }
}

#[test]
fn a_server_that_answers_as_recorded_has_no_differences() {
    let folder = Folder::new("same");
    let recording = folder.file("recording.jsonl");
    let serve = Serve::start(&[]);
    record(
        &serve.url(),
        &recording,
        &["-c", "4", "--rate", "400", "-d", "1s", "--message-bytes", "16..2000"],
    );
    for (flags, copies) in [
        (&[][..], 1),
        (&["--replay-speed", "5", "--replay-copies", "3", "--threads", "2"], 3),
        (&["--replay-speed", "2", "--replay-rule", "count", "--driver", "epoll"], 1),
    ] {
        let (run, record) = replay(&serve.url(), &recording, flags);
        assert_eq!(run.code, Some(0), "{run}");
        assert_integrity(&run, &record, &[]);
        let found = &record["replay"];
        assert_eq!(
            (&found["connections"], &found["messages"], &found["answers"]),
            (&json!(4), &json!(400), &json!(400))
        );
        assert_eq!((&found["sent"], &found["equal"]), (&json!(400 * copies), &json!(400 * copies)), "{run}");
        assert_eq!((&found["untimed"], &found["not_ended"]), (&json!(0), &json!(0)), "{run}");
        assert_eq!(record["response_ns"]["count"], 400 * copies, "{run}");
        assert_eq!(record["generator"]["lateness_ns"]["count"], 400 * copies, "{run}");
        assert_eq!(
            (&record["connections"]["opened"], &record["errors"]),
            (&json!(4 * copies), &json!({})),
            "{run}"
        );
        assert_eq!(record["closes"], json!({"1000": 4 * copies}), "{run}");
        assert_eq!(record["config"]["mode"], "replay", "{run}");
    }
}

#[test]
fn each_fault_of_a_server_is_counted_as_the_difference_that_it_is() {
    let folder = Folder::new("faults");
    let recording = folder.file("recording.jsonl");
    let right = Server::start(Fault::Nothing);
    record(&format!("ws://{}", right.address), &recording, &["-c", "2", "--rate", "300", "-d", "1s"]);
    for (fault, name, kind) in [
        (Fault::Drop(7), "lost", "missing"),
        (Fault::Duplicate(7), "duplicated", "unexpected"),
        (Fault::Flip(7), "corrupted", "different"),
        (Fault::Swap(7), "reordered", "out_of_order"),
    ] {
        let server = Server::start(fault);
        let flags = ["--replay-speed", "3", "--drain", "1s", "--fail-if", &format!("{name}>0")];
        let (run, record) = replay(&format!("ws://{}", server.address), &recording, &flags);
        let planted = server.finish().planted.load(Ordering::Relaxed);
        assert_eq!(planted, 2 * (150 / 7), "{fault:?}");
        assert_eq!(run.code, Some(1), "{run}");
        assert_integrity(&run, &record, &[(name, planted)]);
        assert_eq!(record["replay"]["differences"][kind], planted, "{run}");
        let examples = record["replay"]["examples"].as_array().expect("examples");
        assert!(
            (1..=8).contains(&examples.len()) && examples.iter().all(|example| example["kind"] == kind),
            "{run}"
        );
        assert_eq!(record["fail_if"][0]["failed"], true, "{run}");
    }
}

#[test]
fn a_server_that_closes_too_early_ends_connections_early() {
    let folder = Folder::new("close");
    let recording = folder.file("recording.jsonl");
    let right = Server::start(Fault::Nothing);
    record(&format!("ws://{}", right.address), &recording, &["-c", "2", "--rate", "200", "-d", "500ms"]);
    let server = Server::start(Fault::Close(20, 4001));
    let (run, record) = replay(&format!("ws://{}", server.address), &recording, &["--allow", "lost,unsent"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert_eq!(
        (&record["connections"]["ended_early"], &record["closes"]),
        (&json!(2), &json!({"4001": 2})),
        "{run}"
    );
    let [sent, unsent] = [&record["replay"]["sent"], &record["generator"]["unsent"]]
        .map(|count| count.as_u64().expect("a count"));
    assert_eq!(sent + unsent, 100, "{run}");
    assert_integrity(&run, &record, &[("lost", sent - 40)]);
}

fn open(conn: u64, path: &str) -> Value {
    json!({"t_ns": conn * 1_000_000, "conn": conn, "dir": "client", "kind": "open", "path": path, "peer": "a", "upstream": "b"})
}

/// A frame at so many milliseconds.
fn frame(ms: u64, conn: u64, dir: &str, kind: &str, data: &str) -> Value {
    json!({"t_ns": ms * 1_000_000, "conn": conn, "dir": dir, "kind": kind, "data": data})
}

/// Requests with ids, and answers of which the second came first and all have other times than the requests.
fn with_other_times() -> Vec<Value> {
    let text = |id: u32, ts: u32| format!("{{\"id\": {id}, \"ts\": {ts}}}");
    vec![
        open(1, "/echo"),
        frame(10, 1, "client", "text", &text(1, 0)),
        frame(11, 1, "client", "text", &text(2, 0)),
        frame(20, 1, "upstream", "text", &text(2, 77)),
        frame(21, 1, "upstream", "text", &text(1, 78)),
        frame(30, 1, "client", "text", &text(3, 0)),
        frame(40, 1, "upstream", "text", "{\"ts\":79,\"id\":3.0}"),
    ]
}

#[test]
fn a_rule_says_what_a_difference_is() {
    let folder = Folder::new("rules");
    let recording = folder.recording(&with_other_times());
    let serve = Serve::start(&[]);
    let check = |rule: &[&str], differences: &[(&str, u64)], equal: u64| {
        let (run, record) = replay(&serve.url(), &recording, &[&["--replay-rule"], rule].concat());
        assert_integrity(&run, &record, differences);
        assert_eq!(run.code, Some(i32::from(!differences.is_empty())), "{run}");
        assert_eq!(record["replay"]["equal"], equal, "{run}");
        assert_eq!(record["replay"]["rule"], rule[0], "{run}");
    };
    check(&["exact"], &[("corrupted", 3)], 0);
    check(&["json"], &[("corrupted", 3)], 0);
    check(&["json", "--replay-ignore", "/ts"], &[("reordered", 1)], 3);
    check(&["json:/id", "--replay-ignore", "/ts"], &[], 3);
    check(&["count"], &[], 3);
    check(&["none"], &[], 0);
    let (run, record) = replay(&serve.url(), &recording, &["--replay-rule", "exact"]);
    let example = &record["replay"]["examples"][0];
    assert_eq!((&example["kind"], &example["answer"]), (&json!("different"), &json!(1)), "{run}");
    assert!(example["recorded"].as_str().is_some_and(|text| text.contains("77")), "{run}");
}

#[test]
fn missing_and_further_answers_of_a_recording_are_counted() {
    let folder = Folder::new("edited");
    let serve = Serve::start(&[]);
    // The echo has one answer too many for the first message and one too few for the second. On a busy host it takes a while until
    // the connection is open, and a recording ends with its time.
    let records = [
        open(1, "/echo"),
        frame(4_005, 1, "client", "text", "a"),
        frame(4_009, 1, "client", "text", "b"),
        frame(4_011, 1, "upstream", "text", "b"),
        frame(4_012, 1, "upstream", "text", "b again"),
        frame(4_012, 1, "upstream", "text", "b at last"),
    ];
    let (run, record) = replay(&serve.url(), &folder.recording(&records), &["--drain", "300ms"]);
    assert_eq!(run.code, Some(1), "{run}");
    // `a` is none of the recorded answers, and takes the place of one.
    assert_integrity(&run, &record, &[("lost", 2), ("duplicated", 1)]);
    assert_eq!(record["replay"]["equal"], 1, "{run}");
}

/// What a server saw of one connection.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: String,
    offered: Option<String>,
    messages: Vec<String>,
    /// Code and reason of the client's Close frame.
    close: Option<(u16, String)>,
}

/// Takes so many connections, one after the other. On `/kick` it answers the first message with the Close frame 4008.
#[allow(clippy::result_large_err)]
fn witness(connections: usize) -> (SocketAddr, JoinHandle<Vec<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serve = move || {
        let streams = (0..connections).map(|_| listener.accept().expect("a connection").0);
        let threads: Vec<_> = streams
            .map(|stream| {
                thread::spawn(move || {
                    let mut seen =
                        Seen { path: String::new(), offered: None, messages: Vec::new(), close: None };
                    let look =
                        |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
                            seen.path = request.uri().to_string();
                            if let Some(offered) = request.headers().get("sec-websocket-protocol") {
                                seen.offered = offered.to_str().ok().map(str::to_owned);
                                response
                                    .headers_mut()
                                    .insert("sec-websocket-protocol", HeaderValue::clone(offered));
                            }
                            Ok(response)
                        };
                    let mut socket = tungstenite::accept_hdr(stream, look).expect("a handshake");
                    while let Ok(message) = socket.read() {
                        match message {
                            Message::Close(frame) => {
                                seen.close = frame.map(|frame| (frame.code.into(), frame.reason.to_string()))
                            }
                            Message::Text(text) => {
                                seen.messages.push(text.to_string());
                                if seen.path == "/kick" {
                                    let frame = CloseFrame { code: 4008.into(), reason: "slow".into() };
                                    socket.close(Some(frame)).expect("sent");
                                }
                            }
                            Message::Ping(payload) => {
                                seen.messages.push(format!("ping {}", String::from_utf8_lossy(&payload)))
                            }
                            _ => {}
                        }
                    }
                    seen
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    };
    (address, thread::spawn(serve))
}

#[test]
fn connections_ask_send_and_end_as_recorded() {
    let folder = Folder::new("ends");
    let mut chat = open(1, "/chat?room=7");
    chat["subprotocol"] = "chat.v2".into();
    let records = [
        chat,
        json!({"t_ns": 30_000_000, "conn": 1, "dir": "client", "kind": "text", "data": "hel", "fin": false}),
        frame(31, 1, "client", "ping", "beside"),
        frame(32, 1, "client", "continuation", "lo"),
        json!({"t_ns": 90_000_000, "conn": 1, "dir": "client", "kind": "close", "code": 4001, "reason": "bye"}),
        open(40, "/gone"),
        json!({"t_ns": 95_000_000, "conn": 40, "dir": "client", "kind": "end", "code": 1006}),
        open(80, "/kick"),
        frame(120, 80, "client", "text", "now"),
        json!({"t_ns": 121_000_000, "conn": 80, "dir": "upstream", "kind": "close", "code": 4008}),
    ];
    let recording = folder.recording(&records);
    let (address, server) = witness(3);
    let (run, record) = replay(&format!("ws://{address}"), &recording, &[]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_integrity(&run, &record, &[]);
    assert_eq!(
        (&record["connections"]["ended_early"], &record["replay"]["not_ended"]),
        (&json!(0), &json!(0)),
        "{run}"
    );
    let mut seen = server.join().expect("no panic");
    seen.sort_by(|one, other| one.path.cmp(&other.path));
    let expected = [
        ("/chat?room=7", Some("chat.v2"), &["ping beside", "hello"][..], Some((4001, "bye"))),
        ("/gone", None, &[], None),
        // tungstenite tells of no answer to its own Close frame but for its code.
        ("/kick", None, &["now"], Some((4008, "slow"))),
    ];
    for (seen, (path, offered, messages, close)) in seen.iter().zip(expected) {
        assert_eq!((seen.path.as_str(), seen.offered.as_deref()), (path, offered));
        let mut found: Vec<&str> = seen.messages.iter().map(String::as_str).collect();
        let mut messages = messages.to_vec();
        found.sort_unstable();
        messages.sort_unstable();
        assert_eq!(found, messages);
        if path != "/kick" {
            assert_eq!(seen.close.as_ref().map(|(code, reason)| (*code, reason.as_str())), close);
        }
    }
    // The URL's path and the named subprotocol go before the recorded ones.
    let (address, server) = witness(3);
    let (run, _) =
        replay(&format!("ws://{address}/other"), &recording, &["--subprotocol", "mine", "-d", "1500ms"]);
    let seen = server.join().expect("no panic");
    assert!(
        seen.iter().all(|seen| seen.path == "/other" && seen.offered.as_deref() == Some("mine")),
        "{run}"
    );
    // The server does not end the third connection there, so the generator does.
    let third = seen.iter().find(|seen| seen.messages == ["now"]).expect("the third");
    assert_eq!(third.close.as_ref().map(|(code, _)| *code), Some(1000), "{run}");
    assert_eq!((run.code, &run.json()["runs"][0]["replay"]["not_ended"]), (Some(0), &json!(1)), "{run}");
}

#[test]
fn compressed_messages_are_compared_as_they_were_before() {
    let folder = Folder::new("compressed");
    let recording = folder.file("recording.jsonl");
    let serve = Serve::start(&["--compress", "on"]);
    let flags = [
        "-c",
        "2",
        "--rate",
        "100",
        "-d",
        "500ms",
        "--kind",
        "json",
        "--message-bytes",
        "2KiB",
        "--compress",
        "on",
    ];
    record(&serve.url(), &recording, &flags);
    let text = fs::read_to_string(&recording).expect("a recording");
    assert!(text.contains("\"compressed\":true") && text.contains("permessage-deflate"));
    for flags in [&["--compress", "on"][..], &["--compress", "off", "--replay-rule", "json"]] {
        let (run, record) = replay(&serve.url(), &recording, flags);
        assert_eq!((run.code, &record["replay"]["equal"]), (Some(0), &json!(50)), "{run}");
        assert_integrity(&run, &record, &[]);
    }
}

#[test]
fn a_recording_that_is_cut_off_and_one_that_is_stopped_are_replayed_in_part() {
    let folder = Folder::new("cut");
    let recording = folder.file("recording.jsonl");
    let serve = Serve::start(&[]);
    record(&serve.url(), &recording, &["-c", "2", "--rate", "200", "-d", "1s"]);
    let whole = fs::read(&recording).expect("a recording");
    let cut = folder.file("cut.jsonl");
    let middle = whole.len() / 2;
    let end = (middle..).find(|at| whole[*at] != b'\n' && whole[*at - 1] != b'\n').expect("within a line");
    fs::write(&cut, &whole[..end]).expect("written");
    let (run, record) = replay(&serve.url(), &cut, &[]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_integrity(&run, &record, &[]);
    assert!(record["replay"]["truncated"].as_str().is_some_and(|why| why.ends_with("is cut off")), "{run}");
    assert!(record["replay"]["messages"].as_u64() < Some(200), "{run}");

    let (run, record) = replay(&serve.url(), &recording, &["-d", "300ms"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_integrity(&run, &record, &[]);
    let (sent, recorded) = (record["replay"]["sent"].as_u64(), record["replay"]["messages"].as_u64());
    assert!(sent > Some(0) && sent < recorded, "{run}");
}

#[test]
fn what_cannot_be_replayed_is_refused_before_anything_is_sent() {
    let folder = Folder::new("refused");
    let nonsense = folder.file("nonsense");
    fs::write(&nonsense, "nonsense\n").expect("written");
    let recording = folder.recording(&with_other_times());
    let refused = |flags: &[&str], expected: &str| {
        let run: Run = command(&["bench"]).args(flags).output().expect("the binary runs").into();
        assert_eq!(run.code, Some(2), "{run}");
        assert!(run.stderr.contains(expected), "{expected}: {run}");
    };
    let url = "ws://127.0.0.1:1";
    refused(&[url, "--replay", &nonsense], "line 1: not the header of a recording");
    refused(&[url, "--replay", "/nowhere"], "/nowhere: No such file");
    refused(&["--replay", &recording], "only with a URL");
    refused(&[url, "--replay", &recording, "--rate", "5"], "--rate");
    refused(&[url, "--replay", &recording, "-c", "5"], "--connections");
    refused(&[url, "--replay", &recording, "--replay-ignore", "/ts"], "--replay-rule json");
    refused(&[url, "--replay", &recording, "--replay-rule", "sometimes"], "json:/POINTER");
    refused(&[url, "--replay", &recording, "--replay-copies", "0"], "--replay-copies");
    refused(&[url, "--replay-speed", "2"], "only with --replay");
}
