//! Access to the admin address: tokens and what they allow, Unix sockets, and attempts without access.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::server::{PATIENCE, Server, on_both_drivers};

const WRITE: &str = "0123456789abcdef-write";
const READ: &str = "0123456789abcdef-read";

/// A new folder that every user may enter. The paths of sockets are short.
pub fn folder() -> PathBuf {
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("echoring-admin-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its owner");
    folder
}

/// Files with both tokens.
pub fn tokens() -> [PathBuf; 2] {
    let folder = folder();
    [("write", WRITE), ("read", READ)].map(|(name, token)| {
        let file = folder.join(name);
        fs::write(&file, token).expect("written");
        file
    })
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[test]
fn each_token_does_what_it_is_for_at_every_endpoint() {
    let [write, read] = tokens();
    let flags = ["--admin-token-file", text(&write), "--admin-read-token-file", text(&read)];
    on_both_drivers(&flags, |server| {
        let reading = [
            ("GET", "/stats"),
            ("GET", "/metrics"),
            ("GET", "/topics"),
            ("GET", "/connections"),
            ("GET", "/log-level"),
            ("GET", "/readyz"),
            ("HEAD", "/stats"),
        ];
        let writing = [
            ("POST", "/topics/a", 200),
            ("POST", "/reload", 200),
            ("POST", "/trace", 400),
            ("PUT", "/log-level", 400),
            ("DELETE", "/connections", 400),
            ("DELETE", "/connections/9c", 404),
            ("POST", "/connections/9c", 404),
            ("POST", "/identities/a", 404),
            ("POST", "/broadcast", 415),
        ];
        let ask = |method: &str, path: &str, fields: &[&str]| server.ask_admin(method, path, fields).0;
        for (method, path) in reading {
            for token in [WRITE, READ] {
                assert_eq!(ask(method, path, &[&bearer(token)]), 200, "{method} {path}");
            }
        }
        for (method, path, status) in writing {
            assert_eq!(ask(method, path, &[&bearer(WRITE)]), status, "{method} {path}");
        }
        // Refusals are delayed, so they are asked for at the same time.
        thread::scope(|scope| {
            for (method, path) in writing.map(|(method, path, _)| (method, path)) {
                scope.spawn(move || assert_eq!(ask(method, path, &[&bearer(READ)]), 403, "{method} {path}"));
            }
            for (method, path) in reading.into_iter().chain(writing.map(|(method, path, _)| (method, path))) {
                scope.spawn(move || assert_eq!(ask(method, path, &[]), 401, "{method} {path}"));
            }
        });
        assert_eq!(ask("GET", "/healthz", &[]), 200);
        let report = server.ask_admin("GET", "/stats", &[&bearer(READ)]).1;
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        let refused = serde_json::json!({"unauthorized": 16, "forbidden": 9});
        assert_eq!(report["admin"]["refused"], refused);
        let metrics = server.ask_admin("GET", "/metrics", &[&bearer(READ)]).1;
        for line in [
            "echoring_admin_refusals_total{reason=\"unauthorized\"} 16",
            "echoring_admin_refusals_total{reason=\"forbidden\"} 9",
        ] {
            assert!(metrics.contains(line), "{line}");
        }
    });
}

#[test]
fn the_read_token_is_replaced_while_the_server_runs() {
    let [write, read] = tokens();
    let flags =
        ["--admin-token-file", text(&write), "--admin-read-token-file", text(&read), "--watch", "off"];
    on_both_drivers(&flags, |server| {
        let ask = |token: &str| server.ask_admin("GET", "/stats", &[&bearer(token)]).0;
        assert_eq!(ask(READ), 200);
    });
    let server = Server::start(&flags);
    fs::write(&read, "0123456789abcdef-other").expect("written");
    let reload = server.ask_admin("POST", "/reload", &[&bearer(WRITE)]);
    assert_eq!(reload.0, 200, "{}", reload.1);
    let ask = |token: &str| server.ask_admin("GET", "/stats", &[&bearer(token)]).0;
    assert_eq!((ask("0123456789abcdef-other"), ask(READ), ask(WRITE)), (200, 401, 200));
    // One that does everything must not be called a token to read.
    fs::write(&read, WRITE).expect("written");
    let (status, answer) = server.ask_admin("POST", "/reload", &[&bearer(WRITE)]);
    assert!(status == 422 && answer.contains("the same token"), "{status} {answer}");
}

#[test]
fn guesses_are_counted_logged_once_and_in_nobodys_way() {
    let [write, _] = tokens();
    on_both_drivers(&["--admin-token-file", text(&write)], |server| {
        // More than the admin address has connections, so some lose theirs before they are answered.
        const GUESSES: usize = 150;
        thread::scope(|scope| {
            for number in 0..GUESSES {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(server.admin_address()).expect("connected");
                    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    let guess = bearer(&format!("0123456789abcdef-{number}"));
                    let request = format!(
                        "GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{guess}\r\n\r\n"
                    );
                    stream.write_all(request.as_bytes()).expect("sent");
                    let mut answer = Vec::new();
                    // Reset, closed, or told.
                    let _ = stream.read_to_end(&mut answer);
                    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 401 "), "{answer:?}");
                });
            }
            // The right token is answered meanwhile, and so are health checks.
            loop {
                let (status, report) = server.ask_admin("GET", "/stats", &[&bearer(WRITE)]);
                assert_eq!((status, server.status("/healthz")), (200, 200));
                let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
                if report["admin"]["refused"]["unauthorized"] == GUESSES {
                    break;
                }
            }
        });
        let line = server.wait_for_log("admin requests without access were refused");
        assert!(line.contains("127.0.0.1") && line.contains("attempts=1"), "{line}");
    });
}

/// A server whose admin address is a Unix socket.
pub struct UnixAdmin {
    child: Child,
    path: PathBuf,
    _stdout: BufReader<ChildStdout>,
    listen: String,
}

impl UnixAdmin {
    pub fn start(path: &Path, flags: &[&str]) -> UnixAdmin {
        let admin = format!("unix:{}", path.display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_echoring"));
        command.args(["serve", "--shards", "1", "--log", "warn", "--admin", &admin]).args(flags);
        if !flags.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let listen = line.split(' ').nth(1).and_then(|url| url.split_once("://")).expect("an address").1;
        UnixAdmin { child, path: path.to_owned(), _stdout: stdout, listen: listen.to_owned() }
    }

    /// The status and the body of a request.
    fn ask(&self, method: &str, path: &str, fields: &[&str]) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.path).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    fn pid(&self) -> u64 {
        let report: serde_json::Value =
            serde_json::from_str(&self.ask("GET", "/stats", &[]).1).expect("JSON");
        report["pid"].as_u64().expect("a number")
    }

    pub fn terminate(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        self.child.wait().expect("it ran").code()
    }
}

impl Drop for UnixAdmin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reload(binary: &Path, socket: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["reload", "--admin", &format!("unix:{}", socket.display())]);
    command
}

pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_echoring"))
}

#[test]
fn a_unix_socket_needs_no_token_and_is_removed_at_the_end() {
    for driver in ["auto", "epoll"] {
        let path = folder().join("admin.sock");
        let server = UnixAdmin::start(&path, &["--driver", driver]);
        assert_eq!(fs::metadata(&path).expect("a socket").mode() & 0o777, 0o600);
        assert_eq!(server.ask("GET", "/stats", &[]).0, 200);
        assert_eq!(
            server.ask("POST", "/topics/a", &["Content-Length: 0", "Content-Type: text/plain"]).0,
            200
        );
        assert_eq!(server.ask("GET", "/stats", &["Origin: null"]).0, 403, "a browser's page");
        let reloaded = reload(binary(), &path).output().expect("it runs");
        assert!(reloaded.status.success(), "{reloaded:?}");
        assert_eq!(server.terminate(), Some(0));
        assert!(!path.exists());
    }
}

#[test]
fn with_a_token_a_unix_socket_requires_it_too() {
    let [write, read] = tokens();
    let flags = ["--admin-token-file", text(&write), "--admin-read-token-file", text(&read)];
    let server = UnixAdmin::start(&folder().join("admin.sock"), &flags);
    assert_eq!(server.ask("POST", "/reload", &[&bearer(WRITE)]).0, 200);
    assert_eq!(server.ask("GET", "/stats", &[&bearer(READ)]).0, 200);
    assert_eq!(server.ask("POST", "/reload", &[&bearer(READ)]).0, 403);
    assert_eq!(server.ask("GET", "/stats", &[]).0, 401);
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let path = folder().join("admin.sock");
    drop(UnixListener::bind(&path).expect("bound"));
    let server = UnixAdmin::start(&path, &[]);
    assert_eq!(server.ask("GET", "/healthz", &[]).0, 200);
    let second = |path: &Path| -> Output {
        let admin = format!("unix:{}", path.display());
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", &admin];
        Command::new(binary()).args(words).stdin(Stdio::null()).output().expect("it runs")
    };
    let refused = second(&path);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("as admin address"), "{refused:?}");
    let file = folder().join("a file");
    fs::write(&file, "kept").expect("written");
    assert_eq!(second(&file).status.code(), Some(3));
    assert_eq!(fs::read_to_string(&file).expect("kept"), "kept", "it is no socket");
    assert_eq!(server.ask("GET", "/healthz", &[]).0, 200);
}

#[test]
fn a_successor_gets_the_unix_socket_itself() {
    for driver in ["auto", "epoll"] {
        let path = folder().join("admin.sock");
        let mut first = UnixAdmin::start(&path, &["--driver", driver]);
        let inode = fs::metadata(&path).expect("a socket").ino();
        let second =
            UnixAdmin::start(&path, &["--driver", driver, "--takeover", "--listen", &first.listen.clone()]);
        assert_eq!(second.pid(), u64::from(second.child.id()));
        assert!(first.child.wait().expect("it drains").success());
        assert_eq!(fs::metadata(&path).expect("it is there").ino(), inode);
        assert_eq!(second.pid(), u64::from(second.child.id()));
        assert_eq!(second.terminate(), Some(0));
        assert!(!path.exists());
    }
}

#[test]
fn other_users_have_no_access_or_may_read() {
    if !geteuid().is_root() {
        eprintln!(
            "skipped: becoming another user needs root: sudo cargo nextest run --test program operate::"
        );
        assert!(std::env::var_os("CI").is_none(), "CI runs it as root");
        return;
    }
    let folder = folder();
    // Other users may not reach the folder of the build.
    let copy = folder.join("echoring");
    fs::copy(binary(), &copy).expect("copied");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("its owner");
    for (mode, expected) in [("600", "Permission denied"), ("660", "may only read")] {
        let path = folder.join(mode);
        let server = UnixAdmin::start(&path, &["--admin-socket-mode", mode, "--sandbox", "off"]);
        let bits = u32::from_str_radix(mode, 8).expect("octal");
        assert_eq!(fs::metadata(&path).expect("a socket").mode() & 0o777, bits);
        // A user of the file's group.
        let denied = reload(&copy, &path).uid(65_534).gid(0).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&denied.stderr);
        assert!(denied.status.code() == Some(3) && stderr.contains(expected), "{mode}: {denied:?}");
        let own = reload(&copy, &path).output().expect("it runs");
        assert!(own.status.success(), "{own:?}");
        assert_eq!(server.terminate(), Some(0));
    }
    // A server that becomes another user: that user and root have access.
    let path = folder.join("other");
    let server = UnixAdmin::start(&path, &["--user", "nobody"]);
    let nobody = fs::metadata(&path).expect("a socket").uid();
    assert_ne!(nobody, 0);
    for user in [nobody, 0] {
        let reloaded = reload(&copy, &path).uid(user).output().expect("it runs");
        assert!(reloaded.status.success(), "{user}: {reloaded:?}");
    }
    drop(server);
    fs::remove_dir_all(folder).expect("removed");
}
