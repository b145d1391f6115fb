//! A running `echoring serve`, and its state as seen from outside.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::certificate::certificate;
use super::peer::{Peer, TEXT, frame, upgrade};

/// Longer than any deadline of the server that a test waits for, so that a hang fails and a slow machine does not.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Warnings, and the line with the admin address.
const LOG: &str = "warn,echoring_admin=info";

pub struct Server {
    child: Child,
    log: Mutex<Receiver<String>>,
    pub address: SocketAddr,
    /// Whether it uses TLS.
    pub secure: bool,
    /// Whether clients without credentials are refused.
    authenticates: bool,
    admin: SocketAddr,
}

/// Runs `test` against a server with `flags` on io_uring (if the kernel allows it) and against one on epoll, at the
/// same time. Each must still be running and serving afterwards.
pub fn on_both_drivers(flags: &[&str], test: impl Fn(&Server) + Sync) {
    at_once(&[&["--driver", "auto"], &["--driver", "epoll"]], flags, test);
}

/// The same, also with TLS.
pub fn everywhere(flags: &[&str], test: impl Fn(&Server) + Sync) {
    let tls = [&["--driver", "auto"][..], &tls_flags()].concat();
    at_once(&[&["--driver", "auto"], &["--driver", "epoll"], &tls], flags, test);
}

/// The same with TLS only.
pub fn through_tls(flags: &[&str], test: impl Fn(&Server) + Sync) {
    let [uring, epoll] = ["auto", "epoll"].map(|driver| [&["--driver", driver][..], &tls_flags()].concat());
    at_once(&[&uring, &epoll], flags, test);
}

pub fn tls_flags() -> [&'static str; 4] {
    let files = certificate();
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().expect("a path in UTF-8"));
    ["--tls-cert", cert, "--tls-key", key]
}

/// Runs `test` against servers with `flags` beside flags of their own, at the same time.
pub fn at_once(servers: &[&[&str]], flags: &[&str], test: impl Fn(&Server) + Sync) {
    thread::scope(|scope| {
        let test = &test;
        let mut runs = Vec::new();
        for own in servers {
            let run = move || {
                let server = Server::start(&[own, flags].concat());
                test(&server);
                server.serves();
            };
            runs.push((own, scope.spawn(run)));
        }
        for (own, run) in runs {
            if let Err(panic) = run.join() {
                eprintln!("failed with {}", own.join(" "));
                resume_unwind(panic);
            }
        }
    });
}

impl Server {
    /// Starts on free ports, with one shard and accepting every host name unless `flags` say otherwise.
    pub fn start(flags: &[&str]) -> Server {
        Server::start_beside(flags, &[("--shards", "1"), ("--log", LOG), ("--allow-host", "*")])
    }

    /// The same with other flags that hold unless `flags` give them. Its log has to show the admin address.
    pub fn start_beside(flags: &[&str], defaults: &[(&str, &str)]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echoring"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        for (flag, default) in defaults {
            if !flags.contains(flag) {
                command.args([flag, default]);
            }
        }
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (log_in, log) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // A test that ended does not listen any more; the pipe is emptied all the same.
                let _ = log_in.send(line);
            }
        });
        let admin = wait_for(&log, "http://");
        let admin = admin.split_once("http://").and_then(|(_, rest)| rest.split('/').next());
        let admin = admin.and_then(|address| address.parse().ok()).expect("an admin address");
        let mut listening = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut listening).expect("a line on stdout");
        let url = listening.split(' ').nth(1).and_then(|url| url.split_once("://"));
        let (scheme, address) = url.expect("a URL");
        let address = address.parse().expect("a listening address");
        let has = |prefix: &str| flags.iter().any(|flag| flag.starts_with(prefix));
        let authenticates = has("--auth-") && !has("--auth-anonymous");
        Server { child, log: Mutex::new(log), address, secure: scheme == "wss", authenticates, admin }
    }

    /// The first log line that was not read yet and contains `needle`.
    pub fn wait_for_log(&self, needle: &str) -> String {
        wait_for(&self.log.lock().expect("no panic"), needle)
    }

    /// Checks that a message is echoed, or that a client without credentials is refused where they are required.
    pub fn serves(&self) {
        if self.authenticates {
            let mut peer = Peer::connect(self);
            peer.send(&upgrade("/echo", &[]));
            return assert_eq!(peer.answer().status, 401);
        }
        let mut peer = Peer::open(self, "/echo");
        peer.send(&frame(TEXT, b"still here"));
        assert_eq!(peer.frame(), (0x81, b"still here".to_vec()));
    }

    /// The status of a GET to the admin address.
    pub fn status(&self, path: &str) -> u16 {
        let mut stream = TcpStream::connect(self.admin).expect("the admin address");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.get(9..12).and_then(|status| status.parse().ok()).expect("a status")
    }

    /// `GET /stats`: the figures of the node.
    pub fn stats(&self) -> Value {
        self.report()["node"].clone()
    }

    /// `GET /stats`.
    pub fn report(&self) -> Value {
        self.get("/stats")
    }

    /// `GET` of the address for clients: the response.
    pub fn get_data(&self, path: &str) -> String {
        get_from(self.address, path)
    }

    /// `GET` to the admin address: the JSON of the response.
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask_admin("GET", path, &[]);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// A request without a body to the admin address: status and body of the response.
    pub fn ask_admin(&self, method: &str, path: &str, fields: &[&str]) -> (u16, String) {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
        self.exchange(head.as_bytes()).expect("an answer")
    }

    /// `POST` to the admin address: status and JSON of the response; `None` without a complete one.
    pub fn post(&self, path: &str, body: &[u8]) -> Option<(u16, Value)> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        let (status, body) = self.exchange(&[head.as_bytes(), body].concat())?;
        Some((status, serde_json::from_str(&body).ok()?))
    }

    pub fn exchange(&self, request: &[u8]) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(request).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// The admin address.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// A figure of [`stats`](Server::stats).
    pub fn figure(&self, name: &str) -> u64 {
        self.stats()[name].as_u64().unwrap_or_else(|| panic!("no figure {name}"))
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, metrics) = self.ask_admin("GET", "/metrics", &[]);
        let values = metrics.lines().filter_map(|line| {
            let (found, value) = line.rsplit_once(' ')?;
            (found.split('{').next() == Some(name)).then(|| value.parse::<u64>().expect("a number"))
        });
        values.reduce(|sum, value| sum + value).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Polls the figures until they are as `wanted`.
    pub fn wait_until(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let stats = self.stats();
            if wanted(&stats) {
                return stats;
            }
            assert!(started.elapsed() < PATIENCE, "never {what}: {stats}");
        }
    }

    /// Waits until all connections have ended.
    pub fn wait_for_nobody(&self) {
        self.wait_until("deserted", |stats| stats["connections"] == 0);
    }

    /// Waits until this many more bytes than `before` were received from peers.
    pub fn wait_for_bytes(&self, before: u64, bytes: usize) {
        let wanted = before + bytes as u64;
        self.wait_until("received", |stats| stats["bytes_in"].as_u64().is_some_and(|bytes| bytes >= wanted));
    }

    /// Physical memory of the process.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The same, without mapped files.
    pub fn anonymous_bytes(&self) -> u64 {
        self.memory("RssAnon:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// CPU time that the shard's thread has used.
    pub fn shard_cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a process");
        let tasks = tasks.map(|task| task.expect("a thread").path());
        let is_shard = |path: &std::path::PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == "shard-0")
        };
        let shard = tasks.into_iter().find(is_shard).expect("a shard");
        let figures = fs::read_to_string(shard.join("schedstat")).expect("scheduler statistics");
        let running_ns = figures.split(' ').next().and_then(|figure| figure.parse().ok()).expect("a number");
        Duration::from_nanos(running_ns)
    }

    /// Asks the server to drain.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal, such as `HUP`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: the program of that name is not on every machine.
        let script = format!("kill -s {name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &script]).status().expect("a shell").success());
    }

    /// Stops the process until it gets the signal CONT.
    pub fn stop(&self) {
        crate::support::program::stop(&self.child);
    }

    /// Waits for the end of the process.
    pub fn exit_code(mut self) -> Option<i32> {
        self.child.wait().expect("it ran").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(log: &Receiver<String>, needle: &str) -> String {
    loop {
        let line = log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no log line with {needle:?}"));
        if line.contains(needle) {
            return line;
        }
    }
}

fn get_from(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the address");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8(answer).expect("text")
}
