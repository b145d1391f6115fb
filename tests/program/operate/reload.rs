//! Reloads: what a running server takes over, and what it does with a configuration that is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use super::certificate::{Certificate, another_in, certificate, trusting};
use super::peer::{BINARY, Peer, TEXT, frame, status, upgrade};
use super::server::{PATIENCE, Server};

/// A new folder for the files of one server.
pub(super) fn folder() -> PathBuf {
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("reload-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Replaces a file as operators should: at once.
pub(super) fn replace(file: &Path, contents: &str) {
    let new = file.with_extension("new");
    fs::write(&new, contents).expect("written");
    fs::rename(new, file).expect("renamed");
}

/// A server with a configuration file.
struct Configured {
    server: Server,
    file: PathBuf,
}

impl Configured {
    fn start(driver: &str, contents: &str, flags: &[&str]) -> Configured {
        let file = folder().join("echoring.toml");
        fs::write(&file, contents).expect("written");
        let config = ["--config", text(&file), "--driver", driver];
        Configured { server: Server::start(&[&config, flags].concat()), file }
    }

    /// Replaces the file and reloads it.
    fn reload(&self, contents: &str) -> (u16, Value) {
        replace(&self.file, contents);
        self.server.post("/reload", b"").expect("an answer")
    }

    /// The same for contents that are right. Returns the changed keys and those that need a restart.
    fn change(&self, contents: &str) -> (Vec<String>, Vec<String>) {
        let (status, report) = self.reload(contents);
        assert_eq!((status, &report["schema"]), (200, &"echoring.reload/1".into()), "{report}");
        (keys(&report["changed"]), keys(&report["restart"]))
    }
}

pub(super) fn keys(changes: &Value) -> Vec<String> {
    let changes = changes.as_array().expect("a list").iter();
    changes.map(|change| change["key"].as_str().expect("a key").to_owned()).collect()
}

fn configured(contents: &str, flags: &[&str], test: impl Fn(&Configured)) {
    for driver in ["auto", "epoll"] {
        test(&Configured::start(driver, contents, flags));
    }
}

/// The close code of a connection that sends a message of this size, or `None` if it is echoed.
fn refusal_of(peer: &mut Peer, bytes: usize) -> Option<u16> {
    peer.send(&frame(BINARY, &vec![7; bytes]));
    let (mut first, mut payload) = peer.frame();
    if first & 0x0f != BINARY {
        return Some(u16::from_be_bytes([payload[0], payload[1]]));
    }
    // A long echo is several frames.
    while first & 0x80 == 0 {
        let (next, more) = peer.frame();
        payload.extend_from_slice(&more);
        first = next;
    }
    assert_eq!(payload.len(), bytes);
    None
}

#[test]
fn a_file_outside_of_the_sandbox_is_told_as_such() {
    let elsewhere = folder();
    let token = elsewhere.join("token");
    fs::write(&token, "0123456789abcdef").expect("written");
    configured("", &[], |node| {
        let wanted = format!("max_topics = 7\nadmin_read_token_file = '{}'", text(&token));
        let (status, report) = node.reload(&wanted);
        let line = report["error"]["message"].as_str().expect("a line");
        assert_eq!(status, 422, "{line}");
        let place = format!(
            "{}:2:25: admin_read_token_file: {} is outside the sandbox",
            text(&node.file),
            text(&token)
        );
        assert!(line.starts_with(&place) && line.ends_with("restart the server"), "{line}");
        assert_eq!(node.change("max_topics = 7").0, ["max_topics"]);
    });
}

#[test]
fn limits_hold_for_open_connections_and_new_ones() {
    configured("max_message = '1KiB'", &[], |node| {
        let mut small = Peer::open(&node.server, "/echo");
        assert_eq!(refusal_of(&mut small, 2_000), Some(1009));
        let mut open = Peer::open(&node.server, "/echo");
        assert_eq!(refusal_of(&mut open, 1_000), None);
        assert_eq!(node.change("max_message = '4KiB'"), (vec!["max_message".to_owned()], vec![]));
        assert_eq!(refusal_of(&mut open, 4_000), None, "it was opened before");
        let mut new = Peer::open(&node.server, "/echo");
        assert_eq!(refusal_of(&mut new, 4_000), None);
        assert_eq!(refusal_of(&mut new, 5_000), Some(1009));
        // Back to the default.
        assert_eq!(node.change("max_topics = 65536"), (vec!["max_message".to_owned()], vec![]));
        assert_eq!(refusal_of(&mut open, 60_000), None);
    });
}

#[test]
fn a_larger_message_than_the_mailboxes_hold_needs_a_restart() {
    configured("", &["--shards", "2"], |node| {
        let (status, report) = node.reload("max_message = '64MiB'\nmax_topics = 7");
        assert_eq!(status, 200, "{report}");
        assert_eq!(keys(&report["changed"]), ["max_topics"]);
        assert_eq!(keys(&report["restart"]), ["max_message"]);
        let hint = report["restart"][0]["hint"].as_str().expect("a hint");
        let most: usize = hint.split(' ').nth(2).and_then(|most| most.parse().ok()).expect("a number");
        let mut peer = Peer::open(&node.server, "/echo");
        assert_eq!(refusal_of(&mut peer, 64 * 1024), None);
        // What the hint says is right, also for a topic whose owner is the other shard.
        assert_eq!(node.change(&format!("max_message = {most}\nmax_topics = 7")).0, ["max_message"]);
        assert_eq!(refusal_of(&mut peer, most), None);
        for topic in ["a", "b", "c"] {
            let mut subscriber = Peer::open(&node.server, &format!("/broadcast/{topic}?self=1"));
            subscriber.send(&frame(BINARY, &vec![1; most]));
            assert_eq!(subscriber.message(), (BINARY, vec![1; most]));
        }
    });
}

#[test]
fn another_number_of_shards_needs_a_restart() {
    let file = folder().join("echoring.toml");
    fs::write(&file, "shards = 2").expect("written");
    let defaults = [("--log", "info"), ("--allow-host", "*")];
    let server = Server::start_beside(&["--config", text(&file)], &defaults);
    let node = Configured { server, file };
    let mut open = Peer::open(&node.server, "/echo");
    let (changed, restart) = node.change("shards = 3\nmax_topics = 7");
    assert_eq!((changed, restart), (vec!["max_topics".to_owned()], vec!["shards".to_owned()]));
    assert_eq!(node.server.report()["shards"].as_array().expect("a list").len(), 2);
    assert_eq!(refusal_of(&mut open, 10), None);
}

#[test]
fn the_number_of_connections_can_shrink_and_grow_back() {
    configured("max_connections = 4", &[], |node| {
        let mut open: Vec<Peer> = (0..4).map(|_| Peer::open(&node.server, "/echo")).collect();
        assert_eq!(status(&node.server, &upgrade("/echo", &[])), 503);
        node.change("max_connections = 2");
        // Nobody is closed for it.
        for peer in &mut open {
            assert_eq!(refusal_of(peer, 10), None);
        }
        open.pop().expect("a peer").reset();
        open.pop().expect("a peer").reset();
        node.server.wait_until("left", |stats| stats["connections"] == 2);
        assert_eq!(status(&node.server, &upgrade("/echo", &[])), 503);
        node.change("max_connections = 4");
        open.push(Peer::open(&node.server, "/echo"));
        assert_eq!(keys(&node.reload("max_connections = 5").1["restart"]), ["max_connections"]);
    });
}

#[test]
fn origins_hosts_and_subprotocols_are_those_of_the_new_file() {
    configured("", &[], |node| {
        let from = |origin: &str| status(&node.server, &upgrade("/echo", &[&format!("Origin: {origin}")]));
        assert_eq!(from("https://a.example"), 403);
        node.change("allow_origin = 'https://a.example'\nsubprotocol = ['x', 'y']");
        assert_eq!((from("https://a.example"), from("https://b.example")), (101, 403));
        let offered = upgrade("/echo", &["Sec-WebSocket-Protocol: y, x"]);
        let mut peer = Peer::connect(&node.server);
        peer.send(&offered);
        assert_eq!(peer.answer().field("sec-websocket-protocol"), Some("x"));
        node.change("allow_origin = 'https://b.example'");
        assert_eq!((from("https://a.example"), from("https://b.example")), (403, 101));
    });
}

#[test]
fn topics_that_exist_get_their_new_settings() {
    configured("", &[], |node| {
        let mut subscriber = Peer::open(&node.server, "/broadcast/news?self=1");
        subscriber.send(&frame(TEXT, b"from a client"));
        assert_eq!(subscriber.message(), (TEXT, b"from a client".to_vec()));
        let operators = "[[topics]]\npattern = 'new*'\npublish = 'operator'\nhistory_messages = 2";
        let (changed, restart) = node.change(operators);
        assert!(changed.contains(&"topics".to_owned()) && restart.is_empty(), "{changed:?} {restart:?}");
        for _ in 0..5 {
            node.server.post("/topics/news", b"from the operator").expect("accepted");
            assert_eq!(subscriber.message(), (TEXT, b"from the operator".to_vec()));
        }
        let history = node.server.get("/topics/news")["history"]["messages"].clone();
        assert_eq!(history, 2, "of six messages");
        subscriber.send(&frame(TEXT, b"once more"));
        assert_eq!(subscriber.close_frame(), Some(1008));
    });
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told_everywhere() {
    configured("max_message = '1KiB'\nmax_topics = 5", &["--log", "info"], |node| {
        for (wrong, complaint) in [
            ("max_message = '2KiB'\nmax_topics = 0", "echoring.toml:2:14: max_topics: must be"),
            ("max_message = ", "echoring.toml:1:"),
            ("max_message = '2KiB'\nnonsense = 1", "echoring.toml:2:1: nonsense: there is no such key"),
            ("max_message = '2KiB'\ntls_cert = 'missing'", "tls_cert: needs its private key"),
            ("max_message = '2KiB'\ntls_cert = 'missing'\ntls_key = 'missing'", "missing"),
            ("max_message = '2KiB'\nadmin_token_file = 'missing'", "no token in missing"),
        ] {
            let (status, answer) = node.reload(wrong);
            let message = answer["error"]["message"].as_str().expect("a line").to_owned();
            assert_eq!((status, &answer["error"]["code"]), (422, &"bad-configuration".into()));
            assert!(message.contains(complaint), "{message}\n{complaint}");
            let line = node.server.wait_for_log("was not reloaded");
            assert!(line.contains("ERROR") && line.contains(&message), "{line}");
        }
        assert_eq!(
            node.server.get("/stats")["reloads"],
            serde_json::json!({
                "accepted": 0, "refused": 6, "last_refused": true,
            })
        );
        assert_eq!(refusal_of(&mut Peer::open(&node.server, "/echo"), 1_500), Some(1009));
        fs::remove_file(&node.file).expect("removed");
        assert_eq!(node.server.post("/reload", b"").expect("an answer").0, 422);
        assert_eq!(node.reload("max_message = '2KiB'").0, 200);
        assert_eq!(node.server.get("/stats")["reloads"]["last_refused"], false);
    });
}

#[test]
fn a_hangup_reloads_and_says_what_needs_a_restart() {
    configured("max_message = '1KiB'", &["--log", "info"], |node| {
        let mut peer = Peer::open(&node.server, "/echo");
        replace(&node.file, "max_message = '2KiB'\nqueue_bytes = '1MiB'\ncompress = 'on'\ndriver = 'epoll'");
        node.server.signal("HUP");
        let line = node.server.wait_for_log("the configuration was reloaded");
        assert!(line.contains("SIGHUP") && line.contains("max_message, queue_bytes"), "{line}");
        let line = node.server.wait_for_log("need a restart");
        // The driver is a flag, which wins over the file.
        assert!(line.contains("\"compress\""), "{line}");
        assert_eq!(refusal_of(&mut peer, 2_000), None);
    });
}

#[test]
fn the_log_level_changes() {
    configured("log = 'info'", &["--log", "info"], |node| {
        // The flag wins over the file.
        assert_eq!(node.change("log = 'error'").0, Vec::<String>::new());
    });
    for driver in ["auto", "epoll"] {
        let file = folder().join("echoring.toml");
        fs::write(&file, "").expect("written");
        let server = Server::start_beside(&["--config", text(&file), "--driver", driver], &[]);
        for (level, is_logged) in [("debug", true), ("warn", false), ("info,echoring_runtime=debug", true)] {
            replace(&file, &format!("log = '{level}'"));
            let (answered, report) = server.post("/reload", b"").expect("an answer");
            assert_eq!((answered, keys(&report["changed"])), (200, vec!["log".to_owned()]));
            assert_eq!(status(&server, &upgrade("/", &["Host: localhost"])), 101);
            if is_logged {
                server.wait_for_log("DEBUG");
            }
        }
    }
}

#[test]
fn a_reload_of_something_else_keeps_the_log_level_that_an_operator_has_set() {
    let file = folder().join("echoring.toml");
    fs::write(&file, "log = 'info'").expect("written");
    let server = Server::start_beside(&["--config", text(&file)], &[]);
    let reload = |contents: &str| {
        replace(&file, contents);
        let (status, report) = server.post("/reload", b"").expect("an answer");
        assert_eq!(status, 200, "{report}");
        keys(&report["changed"])
    };
    let level = || server.get("/log-level")["level"].clone();
    let put =
        b"PUT /log-level HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\ndebug";
    assert_eq!(server.exchange(put).expect("an answer").0, 200);
    assert_eq!(reload("log = 'info'\nmax_topics = 7"), ["max_topics"]);
    assert_eq!(level(), "debug");
    assert_eq!(reload("log = 'warn'\nmax_topics = 7"), ["log"]);
    assert_eq!(level(), "warn");
}

/// A file is cut wherever it can be and still be TOML. Nothing that was closed is open in any of them.
#[test]
fn a_truncated_file_opens_nothing() {
    let token = folder().join("token");
    let secret = "0123456789abcdef";
    fs::write(&token, secret).expect("written");
    let whole = format!(
        "max_message = '2KiB'\nadmin_token_file = '{}'\nmessage_rate = 50\n[topic_defaults]\npublish = 'operator'\n\
         [[topics]]\npattern = 'a*'\nsubscribe = 'operator'\npublish = 'nobody'\n",
        text(&token)
    );
    configured(&whole, &["--watch", "off"], |Configured { server, file }| {
        let authorization = format!("Authorization: Bearer {secret}");
        let reload = || server.ask_admin("POST", "/reload", &[&authorization]);
        let ends = whole.match_indices('\n').map(|(at, _)| at);
        for end in [0].into_iter().chain(ends.filter(|at| at + 1 < whole.len())) {
            replace(file, &whole[..end]);
            let (status, answer) = reload();
            assert_eq!(status, 422, "{:?} {answer}", &whole[..end]);
        }
        assert_eq!(server.ask_admin("POST", "/reload", &[]).0, 401);
        replace(file, &whole);
        assert_eq!(reload().0, 200);
        let opened = whole.replace("publish = 'nobody'", "publish = 'everybody'");
        replace(file, &opened);
        assert_eq!(reload().0, 200, "it says so");
        let line = server.wait_for_log("topics.\"a*\".publish: more clients");
        assert!(line.contains("WARN") && line.contains("\"everybody\" instead of \"nobody\""), "{line}");
        replace(file, &opened.replace("message_rate = 50\n", ""));
        assert_eq!(reload().0, 200);
        server.wait_for_log("message_rate: this limit no longer holds");
    });
}

#[test]
fn a_new_admin_token_replaces_the_old_one() {
    let token = folder().join("token");
    let [old, new] = ["0123456789abcdef-old", "0123456789abcdef-new"];
    fs::write(&token, old).expect("written");
    let server = Server::start(&["--admin-token-file", text(&token)]);
    let ask =
        |token: &str| server.ask_admin("POST", "/reload", &[&format!("Authorization: Bearer {token}")]).0;
    assert_eq!((ask(old), ask(new)), (200, 401));
    replace(&token, new);
    assert_eq!(ask(old), 200);
    assert_eq!((ask(old), ask(new)), (401, 200));
    // Without a request: the file is watched.
    replace(&token, old);
    let given_up = Instant::now() + PATIENCE;
    while ask(old) != 200 {
        assert!(Instant::now() < given_up, "the file is not watched");
        thread::yield_now();
    }
    assert_eq!(ask(new), 401);
}

#[test]
fn a_watched_configuration_is_taken_over_without_a_request() {
    configured("max_message = \"1KiB\"\n", &["--watch", "all"], |Configured { server, file }| {
        let most = || server.get("/limits")["limits"]["max_message"].clone();
        assert_eq!(most(), 1_024);
        replace(file, "max_message = \"2KiB\"\n");
        let given_up = Instant::now() + PATIENCE;
        while most() != 2_048 {
            assert!(Instant::now() < given_up, "the configuration is not watched");
            thread::yield_now();
        }
    });
}

#[test]
fn a_renewed_certificate_serves_new_connections_and_leaves_the_old_ones_open() {
    for driver in ["auto", "epoll"] {
        let folder = folder();
        let Certificate { cert, key } = another_in(&folder);
        let flags = ["--driver", driver, "--tls-cert", text(&cert), "--tls-key", text(&key), "--log", "info"];
        let server = Server::start(&flags);
        // The client trusts the certificate of the tests only, which is not served yet.
        let shakes = || Peer::connect_plainly(&server).speaking_tls(trusting()).shake().is_ok();
        assert!(!shakes());
        let trusted = |file: &Path| {
            let trust = echoring_async::tls::Trust::CaFile(file.to_owned());
            echoring_async::tls::client_config(&trust).expect("a configuration")
        };
        let old = folder.join("old.pem");
        fs::copy(&cert, &old).expect("copied");
        let resumes = trusted(&old);
        let mut open = Peer::connect_plainly(&server).speaking_tls(resumes.clone());
        open.upgrade("/echo");
        assert_eq!(refusal_of(&mut open, 100), None);
        // One file first: the two do not match, the old certificate is kept, and that is told.
        replace(&cert, &fs::read_to_string(&certificate().cert).expect("read"));
        server.wait_for_log("was not reloaded");
        assert!(!shakes());
        replace(&key, &fs::read_to_string(&certificate().key).expect("read"));
        server.wait_for_log("the configuration was reloaded");
        assert!(shakes());
        assert_eq!(refusal_of(&mut open, 100), None, "it was opened before");
        // A client that was here before resumes its session: the ticket keys are the same.
        let before = server.figure("tls_resumed");
        let mut again = Peer::connect_plainly(&server).speaking_tls(resumes);
        again.upgrade("/echo");
        assert_eq!(refusal_of(&mut again, 100), None);
        assert_eq!(server.figure("tls_resumed"), before + 1);
        // TLS cannot be taken away from a running server.
        assert_eq!(server.post("/reload", b"").expect("an answer").1["files"], serde_json::json!([]));
    }
}

#[test]
fn reloads_in_a_storm_lose_nothing() {
    configured("max_message = '4KiB'", &["--shards", "2"], |node| {
        let mut echo = Peer::open(&node.server, "/echo");
        let mut topic = Peer::open(&node.server, "/broadcast/storm?self=1");
        for round in 0..100_u32 {
            let payload = round.to_be_bytes().repeat(500);
            echo.send(&frame(BINARY, &payload));
            topic.send(&frame(BINARY, &payload));
            let [most, kept] = [2_048 + round % 3, 1 + round % 5];
            let contents = format!(
                "max_message = {most}\nmax_subscriptions = {kept}\n[[topics]]\npattern = 's{}*'\nhistory_messages = {kept}",
                if round % 2 == 0 { "t" } else { "x" }
            );
            assert_eq!(node.reload(&contents).0, 200);
            assert_eq!(echo.message(), (BINARY, payload.clone()));
            assert_eq!(topic.message(), (BINARY, payload));
        }
        assert_eq!(node.server.get("/stats")["reloads"]["accepted"], 100);
    });
}

#[test]
fn the_command_reports_and_exits_as_documented() {
    configured("max_message = '1KiB'", &[], |node| {
        let run = |words: &[&str]| {
            let admin = node.server.admin_address().to_string();
            let mut command = Command::new(env!("CARGO_BIN_EXE_echoring"));
            let output = command.args(["reload", "--admin", &admin]).args(words).output().expect("it runs");
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).expect("text"));
            (output.status.code(), said)
        };
        assert_eq!(run(&[]), (Some(0), ["nothing has changed\n".to_owned(), String::new()]));
        replace(&node.file, "max_message = '2KiB'\ncompress = 'on'");
        let (code, [told, _]) = run(&[]);
        assert_eq!(code, Some(0));
        assert_eq!(
            told,
            "changed: max_message from \"1KiB\" to \"2KiB\"\n\
             needs a restart: compress from \"off\" to \"on\"\n"
        );
        let (_, [json, _]) = run(&["--json"]);
        let report: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(keys(&report["restart"]), ["compress"], "still");
        replace(&node.file, "max_message = 0");
        let (code, [told, error]) = run(&[]);
        assert_eq!((code, told), (Some(2), String::new()));
        assert!(error.contains("echoring.toml:1:15: max_message"), "{error}");
    });
    let nobody = Command::new(env!("CARGO_BIN_EXE_echoring"))
        .args(["reload", "--admin", "unix:/nonexistent/echoring.sock"])
        .output()
        .expect("it runs");
    assert_eq!(nobody.status.code(), Some(3));
}

/// An absent key leaves the admin address closed, and the word `off` opens it, which the log says.
#[test]
fn a_word_removes_what_an_absent_key_does_not() {
    let token = folder().join("token");
    let secret = "0123456789abcdef";
    fs::write(&token, secret).expect("written");
    let whole = format!("max_message = '2KiB'\nadmin_token_file = '{}'\n", text(&token));
    configured(&whole, &["--watch", "off"], |Configured { server, file }| {
        let authorization = format!("Authorization: Bearer {secret}");
        let reload = |contents: &str| {
            replace(file, contents);
            server.ask_admin("POST", "/reload", &[&authorization])
        };
        let (status, answer) = reload("max_message = '2KiB'");
        assert!(status == 422 && answer.contains("set it to \\\"off\\\""), "{answer}");
        assert_eq!(server.ask_admin("GET", "/stats", &[]).0, 401);
        assert_eq!(reload("max_message = '2KiB'\nadmin_token_file = 'off'").0, 200);
        let line = server.wait_for_log("admin_token_file: off opens what it has closed");
        assert!(line.contains("WARN"), "{line}");
        assert_eq!(server.ask_admin("GET", "/stats", &[]).0, 200);
        assert_eq!(reload("max_message = '2KiB'").0, 200);
        assert_eq!(server.ask_admin("GET", "/stats", &[]).0, 200);
        assert_eq!(reload(&whole).0, 200);
        assert_eq!(server.ask_admin("GET", "/stats", &[]).0, 401);
    });
}
