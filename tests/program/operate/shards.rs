//! A reload changes the number of shards without a restart: the process and its connections stay, and a failure changes nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;
use tungstenite::Message;

use super::peer::{Peer, TEXT, frame, upgrade};
use super::reload::{folder, keys, replace, text};
use super::server::{PATIENCE, Server, tls_flags};

/// Connections of each kind.
const CLIENTS: usize = 10;

/// A server whose file says how many shards it has.
struct Sharded {
    server: Server,
    file: PathBuf,
}

impl Sharded {
    fn start(shards: &str, flags: &[&str]) -> Sharded {
        let file = folder().join("echoring.toml");
        fs::write(&file, format!("shards = {shards}")).expect("written");
        let defaults = [("--log", "info"), ("--allow-host", "*"), ("--driver", "auto")];
        Sharded {
            server: Server::start_beside(&[&["--config", text(&file)], flags].concat(), &defaults),
            file,
        }
    }

    /// Asks for shards. Returns the report.
    fn ask(&self, shards: &str) -> Value {
        replace(&self.file, &format!("shards = {shards}"));
        let (status, report) = self.server.post("/reload", b"").expect("an answer");
        assert_eq!(status, 200, "{report}");
        report
    }

    fn change(&self, shards: usize) {
        let report = self.ask(&shards.to_string());
        let changes = ["changed", "restart"].map(|part| keys(&report[part]));
        assert_eq!(changes, [vec!["shards".to_owned()], vec![]], "{report}");
        assert_eq!(self.shards().len(), shards);
    }

    /// The reason why another number of shards needs a restart.
    fn refusal(&self, shards: &str) -> String {
        let report = self.ask(shards);
        let changes = ["changed", "restart"].map(|part| keys(&report[part]));
        assert_eq!(changes, [vec![], vec!["shards".to_owned()]], "{report}");
        report["restart"][0]["hint"].as_str().expect("a hint").to_owned()
    }

    /// The connections of each shard.
    fn shards(&self) -> Vec<u64> {
        let report = self.server.report();
        assert_eq!(report["silent_shards"], 0);
        let shards = report["shards"].as_array().expect("a list").iter();
        shards.map(|shard| shard["connections"].as_u64().expect("a number")).collect()
    }

    /// Waits until this many connections are here, and returns those of each shard.
    fn spread(&self, connections: usize) -> Vec<u64> {
        self.server.wait_until("moved", |node| node["connections"] == connections);
        self.shards()
    }
}

/// Clients of all kinds that move.
struct Clients {
    echoes: Vec<Peer>,
    raw: Vec<Peer>,
    sessions: Vec<Peer>,
    streams: Vec<Peer>,
    published: usize,
}

impl Clients {
    fn connect(server: &Server) -> Clients {
        let many = |open: &dyn Fn() -> Peer| (0..CLIENTS).map(|_| open()).collect::<Vec<_>>();
        let session = || {
            let mut peer = Peer::connect(server);
            peer.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
            assert_eq!(peer.answer().status, 101);
            peer.send(&frame(TEXT, br#"{"type":"subscribe","id":1,"topic":"t"}"#));
            let (_, answer) = peer.message();
            assert!(answer.starts_with(br#"{"type":"subscribed""#), "{}", answer.escape_ascii());
            peer
        };
        let stream = || {
            let mut peer = Peer::connect(server);
            peer.send(b"GET /sse/t HTTP/1.1\r\nHost: server.example\r\n\r\n");
            // The head, and the event with the position.
            for _ in 0..2 {
                while peer.line().is_some_and(|line| line.trim_end() != "") {}
            }
            peer
        };
        Clients {
            echoes: many(&|| Peer::open(server, "/echo")),
            raw: many(&|| Peer::open(server, "/broadcast/t")),
            sessions: many(&session),
            streams: many(&stream),
            published: 0,
        }
    }

    fn count(&self) -> usize {
        4 * CLIENTS
    }

    /// Each of them is sent the next message, and echoes are answered.
    fn converse(&mut self, server: &Server) {
        self.published += 1;
        let message = format!("message {}", self.published);
        let (status, answer) = server.post("/topics/t", message.as_bytes()).expect("an answer");
        assert_eq!((status, &answer["offset"]), (200, &self.published.into()), "{answer}");
        for peer in &mut self.echoes {
            peer.send(&frame(TEXT, message.as_bytes()));
        }
        for peer in self.echoes.iter_mut().chain(&mut self.raw) {
            assert_eq!(peer.message().1, message.as_bytes());
        }
        for peer in &mut self.sessions {
            let event: Value = serde_json::from_slice(&peer.message().1).expect("JSON");
            assert_eq!((&event["type"], &event["offset"]), (&"message".into(), &self.published.into()));
        }
        for peer in &mut self.streams {
            let data = loop {
                let line = peer.line().expect("the stream goes on");
                if let Some(data) = line.strip_prefix("data: ") {
                    break data.trim_end().to_owned();
                }
            };
            assert_eq!(data, message);
        }
    }
}

fn on_each_driver(shards: &str, flags: &[&str], test: impl Fn(&Sharded)) {
    for driver in ["auto", "epoll"] {
        test(&Sharded::start(shards, &[&["--driver", driver], flags].concat()));
    }
}

#[test]
fn connections_stay_open_while_the_number_of_shards_changes() {
    on_each_driver("1", &[], |node| {
        let mut clients = Clients::connect(&node.server);
        clients.converse(&node.server);
        let pid = node.server.report()["pid"].clone();
        replace(&node.file, "shards = 3");
        node.server.signal("HUP");
        let line = node.server.wait_for_log("the number of shards has changed");
        assert!(line.contains("from=1 to=3"), "{line}");
        clients.converse(&node.server);
        let spread = node.spread(clients.count());
        assert!(spread.len() == 3 && spread.iter().all(|count| *count >= 10), "{spread:?}");
        for shards in [2, 5, 1, 4] {
            node.change(shards);
            clients.converse(&node.server);
            let spread = node.spread(clients.count());
            assert!(spread.iter().all(|count| *count > 0), "{spread:?}");
        }
        // A connection that comes later, and one number of shards under two names.
        node.server.serves();
        let cpus = thread::available_parallelism().expect("a number").get();
        node.change(cpus);
        assert_eq!(keys(&node.ask("'auto'")["changed"]), ["shards"]);
        clients.converse(&node.server);
        assert_eq!(node.server.report()["pid"], pid);
        assert_eq!(node.server.status("/healthz"), 200);
    });
}

#[test]
fn other_changes_of_the_same_reload_take_effect_on_the_new_shards() {
    on_each_driver("1", &[], |node| {
        let mut clients = Clients::connect(&node.server);
        replace(&node.file, "shards = 2\nmax_message = '1KiB'\ncompress = 'on'");
        let (status, report) = node.server.post("/reload", b"").expect("an answer");
        assert_eq!((status, keys(&report["changed"])), (200, vec!["max_message".into(), "shards".into()]));
        assert_eq!(keys(&report["restart"]), ["compress"]);
        clients.converse(&node.server);
        assert_eq!(node.server.get("/limits")["limits"]["max_message"], 1_024);
        node.spread(clients.count());
        clients.echoes[0].send(&frame(TEXT, &[b'x'; 2_000]));
        assert_eq!(clients.echoes[0].frame().0, 0x88, "it is too big");
    });
}

#[test]
fn a_number_that_is_wrong_changes_nothing() {
    on_each_driver("2", &[], |node| {
        let mut clients = Clients::connect(&node.server);
        for wrong in ["0", "1025", "'many'"] {
            replace(&node.file, &format!("shards = {wrong}"));
            assert_eq!(node.server.post("/reload", b"").expect("an answer").0, 422, "{wrong}");
        }
        // The number of a client has room for 256 shards.
        assert!(node.refusal("255").contains("more than 256"));
        clients.converse(&node.server);
        assert_eq!(node.spread(clients.count()).len(), 2);
        node.change(3);
        clients.converse(&node.server);
    });
}

#[test]
fn too_few_descriptors_for_further_shards_change_nothing() {
    on_each_driver("1", &["--max-connections", "100"], |node| {
        let mut clients = Clients::connect(&node.server);
        let pid = node.server.report()["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("a process");
        let few = Rlimit { current: Some(200), ..getrlimit(Resource::Nofile) };
        let before = prlimit(Some(pid), Resource::Nofile, few).expect("lowered");
        let hint = node.refusal("3");
        assert!(hint.contains("the limit is 200") && hint.contains("ulimit -n"), "{hint}");
        clients.converse(&node.server);
        assert_eq!(node.spread(clients.count()).len(), 1);
        prlimit(Some(pid), Resource::Nofile, before).expect("raised");
        node.change(3);
        clients.converse(&node.server);
    });
}

#[test]
fn connections_that_cannot_move_drain_before_the_next_change() {
    let flags = [&tls_flags()[..], &["--drain", "6s"]].concat();
    on_each_driver("1", &flags, |node| {
        let mut before = Peer::open(&node.server, "/echo");
        node.change(2);
        let mut after = Peer::open(&node.server, "/echo");
        for peer in [&mut before, &mut after] {
            peer.send(&frame(TEXT, b"hello"));
            assert_eq!(peer.message().1, b"hello");
        }
        assert!(node.refusal("3").contains("still drain"));
        let (first, payload) = before.frame();
        assert_eq!((first, &payload[..2]), (0x88, &1012_u16.to_be_bytes()[..]));
        drop(before);
        let given_up = Instant::now() + PATIENCE;
        while keys(&node.ask("3")["restart"]) == ["shards"] {
            assert!(Instant::now() < given_up, "the old shards do not end");
        }
        assert_eq!(node.shards().len(), 3);
    });
}

#[test]
fn a_signal_drains_the_old_shards_and_the_new_ones() {
    let flags = [&tls_flags()[..], &["--drain", "30s"]].concat();
    for driver in ["auto", "epoll"] {
        let node = Sharded::start("1", &[&["--driver", driver], &flags[..]].concat());
        let old = Peer::open(&node.server, "/echo");
        node.change(2);
        let new = Peer::open(&node.server, "/echo");
        node.server.terminate();
        drop((old, new));
        assert_eq!(node.server.exit_code(), Some(0), "on {driver}");
    }
}

#[test]
fn sockets_of_files_stay_with_the_process() {
    for driver in ["auto", "epoll"] {
        let folder = folder();
        let [listen, takeover] = ["listen", "takeover"].map(|name| folder.join(name));
        let listen_on = format!("unix:{}", text(&listen));
        let flags = ["--driver", driver, "--listen", &listen_on, "--takeover-socket", text(&takeover)];
        let node = Sharded::start("1", &flags);
        let open = || {
            let stream = UnixStream::connect(&listen).expect("connected");
            tungstenite::client("ws://localhost/echo", stream).expect("open").0
        };
        let mut early = open();
        for shards in [3, 2] {
            node.change(shards);
            for socket in [&mut early, &mut open()] {
                socket.send("hello".into()).expect("sent");
                assert_eq!(socket.read().expect("an echo"), Message::text("hello"));
            }
        }
        assert!(is_socket(&listen) && is_socket(&takeover));
        drop(early);
        node.server.terminate();
        assert_eq!(node.server.exit_code(), Some(0));
        assert!(!listen.exists(), "the process removes its file");
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

#[test]
fn another_process_takes_over_after_the_number_of_shards_has_changed() {
    on_each_driver("1", &[], |node| {
        let mut clients = Clients::connect(&node.server);
        node.change(3);
        node.change(2);
        clients.converse(&node.server);
        let [listen, admin] = [node.server.address, node.server.admin_address()].map(|at| at.to_string());
        let mut successor = Command::new(env!("CARGO_BIN_EXE_echoring"));
        successor.args(["serve", "--takeover", "--listen", &listen, "--admin", &admin, "--log", "warn"]);
        successor.args(["--config", text(&node.file)]).stdout(Stdio::piped());
        let mut successor = successor.spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(successor.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert!(line.starts_with("listening "), "{line}");
        clients.converse(&node.server);
        assert_eq!(node.server.report()["pid"], successor.id());
        // It answers at the same address.
        node.change(3);
        clients.converse(&node.server);
        assert_eq!(node.spread(clients.count()).len(), 3);
        successor.kill().expect("it runs");
        successor.wait().expect("it ends");
    });
}

#[test]
fn connections_that_come_during_changes_are_answered() {
    on_each_driver("1", &[], |node| {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let mut count = 0;
                while !is_over.load(Ordering::Acquire) {
                    node.server.serves();
                    count += 1;
                }
                count
            });
            for round in 0..20 {
                node.change(1 + (round + 1) % 3);
                thread::sleep(Duration::from_millis(50));
            }
            is_over.store(true, Ordering::Release);
            assert!(connecting.join().expect("no panic") > 20);
        });
    });
}
