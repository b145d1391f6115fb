//! What the environment does to a server that runs: a log that cannot be written, signals, a shard that stands still.
//!
//! The real binary, on both drivers, as `serve` and as `proxy`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use echoring::control::Control;
use echoring::driver::Features;
use echoring::limits::LOG_QUEUE_RECORDS;
use echoring::server::{
    Builder, Config, Disposition, DriverChoice, Failure, Handler, ListenAddress, Message, Remote, Server,
};
use program::command;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

#[path = "support/program.rs"]
#[allow(dead_code, reason = "these tests start servers in their own way")]
mod program;

/// Longer than any deadline of the server that a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);
const DRIVERS: [&str; 2] = ["uring", "epoll"];
/// Nobody listens on this port, so that a proxy in front of it refuses everything.
const NOWHERE: &str = "ws://127.0.0.1:1";

/// A running server, killed at the latest when it goes out of scope.
struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Program {
    /// `serve` without a control plane.
    fn serve(driver: &str, flags: &[&str], stderr: impl Into<Stdio>) -> Program {
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--driver", driver];
        Program::start(command(&words).args(flags).stderr(stderr))
    }

    /// `proxy` in front of nothing.
    fn proxy(driver: &str, flags: &[&str], stderr: impl Into<Stdio>) -> Program {
        let words = ["proxy", "--listen", "127.0.0.1:0", "--upstream", NOWHERE, "--driver", driver];
        Program::start(command(&words).args(flags).stderr(stderr))
    }

    fn start(command: &mut Command) -> Program {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (line, address) = program::listening(&mut stdout);
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        Program { child, stdout, address }
    }

    fn signal(&self, signal: Signal) {
        program::signal(&self.child, signal);
    }

    /// The exit code after SIGTERM.
    fn end(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.exit_code()
    }

    fn exit_code(&mut self) -> Option<i32> {
        // Stdout ends with the process. What hangs is killed by another thread, and fails the test by its code.
        let (ended, has_ended) = mpsc::channel::<()>();
        let pid = Pid::from_child(&self.child);
        let watch = thread::spawn(move || {
            if has_ended.recv_timeout(PATIENCE).is_err() {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        self.stdout.read_to_string(&mut String::new()).expect("text");
        ended.send(()).ok();
        watch.join().expect("no panic");
        self.child.wait().expect("ended").code()
    }

    /// The status of the answer to a request.
    fn status(&self, path: &str) -> u16 {
        get(self.address, path).0
    }

    /// Opens a WebSocket.
    fn open(&self) -> TcpStream {
        open(self.address, "/echo")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens a WebSocket.
fn open(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("TCP");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Sends "hi" and reads it back.
fn echo(stream: &mut TcpStream) {
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).expect("sent");
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).expect("an echo");
    assert_eq!(echoed, [0x81, 2, b'h', b'i']);
}

/// The status and the body of the answer to a request.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    let status = response.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = response.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status, body.unwrap_or_default())
}

/// Both kinds of server on both drivers, each with a log like `stderr` makes it. `test` gets a path that is refused with
/// a line in the log, and the status of that.
fn each_server(flags: &[&str], stderr: impl Fn() -> Stdio, test: impl Fn(Program, u16)) {
    for driver in DRIVERS {
        test(Program::serve(driver, flags, stderr()), 404);
        test(Program::proxy(driver, flags, stderr()), 502);
    }
}

/// A stderr that takes nothing more, and the end by which it is read.
fn blocked_stderr() -> (UnixStream, Stdio) {
    let (reader, mut writer) = UnixStream::pair().expect("a pair");
    writer.set_nonblocking(true).expect("set");
    while writer.write(&[b'\n'; 1024]).is_ok() {}
    while writer.write(b"\n").is_ok() {}
    writer.set_nonblocking(false).expect("set");
    (reader, Stdio::from(OwnedFd::from(writer)))
}

#[test]
fn a_log_on_a_full_disk_stops_nothing() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("a device"));
    each_server(&["--log", "debug"], full, |mut server, refused| {
        for _ in 0..40 {
            assert_eq!(server.status("/nothing-here"), refused);
        }
        assert_eq!(server.end(), Some(0));
    });
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    for driver in DRIVERS {
        let (_reader, stderr) = blocked_stderr();
        let mut server = Program::serve(driver, &["--shards", "1"], stderr);
        let mut open = server.open();
        for _ in 0..40 {
            assert_eq!(server.status("/nothing-here"), 404);
            echo(&mut open);
        }
        drop(open);
        assert_eq!(server.end(), Some(0));
        let (_reader, stderr) = blocked_stderr();
        let mut proxy = Program::proxy(driver, &["--shards", "1"], stderr);
        for _ in 0..40 {
            assert_eq!(proxy.status("/nothing-here"), 502);
        }
        assert_eq!(proxy.end(), Some(0));
    }
}

#[test]
fn a_log_whose_reader_is_gone_stops_nothing() {
    let gone = || {
        let (reader, writer) = UnixStream::pair().expect("a pair");
        drop(reader);
        Stdio::from(OwnedFd::from(writer))
    };
    each_server(&[], gone, |mut server, refused| {
        for _ in 0..40 {
            assert_eq!(server.status("/nothing-here"), refused);
        }
        assert_eq!(server.end(), Some(0));
    });
}

/// The binary with these words, started by a shell line that ends in `exec "$0" "$@"` and what it redirects.
fn by_shell(script: &str, words: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_echoring")]).args(words).stdin(Stdio::null());
    shell
}

#[test]
fn a_closed_stderr_stops_nothing() {
    for driver in DRIVERS {
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--driver", driver];
        let mut server = Program::start(&mut by_shell("exec \"$0\" \"$@\" 2>&-", &words));
        for _ in 0..40 {
            assert_eq!(server.status("/nothing-here"), 404);
        }
        assert_eq!(server.end(), Some(0));
    }
}

/// A path for a file of this test, which is removed when it goes out of scope.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("lifecycle-{}-{name}", std::process::id());
        Scratch(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Scratch {
    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_log_as_long_as_files_may_be_stops_nothing() {
    for driver in DRIVERS {
        let log = Scratch::new(driver);
        let script = "ulimit -f 2 && log=$1 && shift && exec \"$0\" \"$@\" 2>\"$log\"";
        let words = [log.path(), "serve", "--listen", "127.0.0.1:0", "--admin", "off", "--driver", driver];
        let mut server = Program::start(&mut by_shell(script, &words));
        // Ten records of each of these, some 250 bytes each.
        for path in ["/nothing-here", "/echo", "/broadcast/x", "//"] {
            for _ in 0..10 {
                assert!([404, 426, 400].contains(&server.status(path)));
            }
        }
        assert_eq!(server.end(), Some(0));
    }
}

/// Everything that a server says, read on a thread of its own.
struct Log {
    lines: mpsc::Receiver<String>,
    text: String,
}

impl Log {
    fn new() -> (Log, Stdio) {
        let (reader, writer) = UnixStream::pair().expect("a pair");
        let (line_in, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                line_in.send(line.expect("text")).ok();
            }
        });
        (Log { lines, text: String::new() }, Stdio::from(OwnedFd::from(writer)))
    }

    /// The next line that has these words in it.
    fn line_with(&mut self, words: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
                panic!("no line with {words:?} in\n{}", self.text);
            });
            self.text += &line;
            self.text += "\n";
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Where the control plane is.
    fn admin(&mut self) -> SocketAddr {
        admin_of(&self.line_with("control plane on http://"))
    }

    /// All of it, once the server has ended.
    fn text(mut self) -> String {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.text += &line;
            self.text += "\n";
        }
        self.text
    }
}

/// The address that a line tells of.
fn admin_of(line: &str) -> SocketAddr {
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line}"))
}

#[test]
fn records_of_one_cause_are_limited_and_the_others_counted() {
    const REQUESTS: u64 = 500;
    for driver in DRIVERS {
        let (log, stderr) = Log::new();
        let mut server = Program::serve(driver, &[], stderr);
        for _ in 0..REQUESTS {
            assert_eq!(server.status("/nothing-here"), 404);
        }
        assert_eq!(server.end(), Some(0));
        let text = log.text();
        let refusals = text.lines().filter(|line| line.contains("/nothing-here")).count() as u64;
        let left_out: u64 = text
            .lines()
            .filter(|line| line.contains("more of these were left out: request refused"))
            .filter_map(|line| line.split("left_out=").nth(1)?.split(' ').next()?.parse::<u64>().ok())
            .sum();
        assert!(refusals >= 10, "{text}");
        assert_eq!(refusals + left_out, REQUESTS, "{text}");
    }
}

#[test]
fn what_a_peer_chose_is_cut_in_the_log() {
    for driver in DRIVERS {
        let (log, stderr) = Log::new();
        let mut server = Program::serve(driver, &[], stderr);
        assert_eq!(server.status(&format!("/{}", "x".repeat(10_000))), 404);
        assert_eq!(server.end(), Some(0));
        let text = log.text();
        let line = text.lines().find(|line| line.contains("/xxx")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains('…') && line.len() < 1_000, "{line}");
    }
}

#[test]
fn only_a_signal_to_end_ends_a_server() {
    for driver in DRIVERS {
        let (log, stderr) = Log::new();
        let mut server = Program::serve(driver, &[], stderr);
        let mut open = server.open();
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::PROF, Signal::XFSZ] {
            for _ in 0..20 {
                server.signal(signal);
                echo(&mut open);
            }
        }
        drop(open);
        assert_eq!(server.end(), Some(0));
        let text = log.text();
        assert!(text.contains("SIGHUP: there is nothing to reload"), "{text}");
        let (log, stderr) = Log::new();
        let mut proxy = Program::proxy(driver, &[], stderr);
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
            for _ in 0..20 {
                proxy.signal(signal);
                assert_eq!(proxy.status("/"), 502);
            }
        }
        assert_eq!(proxy.end(), Some(0));
        let text = log.text();
        assert!(text.contains("SIGHUP: there is nothing to reload"), "{text}");
    }
}

#[test]
fn every_signal_to_end_drains() {
    for driver in DRIVERS {
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            for mut server in
                [Program::serve(driver, &[], Stdio::null()), Program::proxy(driver, &[], Stdio::null())]
            {
                server.signal(signal);
                assert_eq!(server.exit_code(), Some(0), "{signal:?}");
            }
        }
    }
}

#[test]
fn what_is_logged_about_a_connection_names_its_peer() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let mut server = Program::serve(driver, &["--shards", "2", "--queue-bytes", "4KiB"], stderr);
        let peer = |stream: &TcpStream| format!("peer={}", stream.local_addr().expect("connected"));
        for request in ["GET /nothing-here HTTP/1.1\r\nHost: localhost\r\n\r\n", "nonsense\r\n\r\n"] {
            let mut client = TcpStream::connect(server.address).expect("connected");
            client.write_all(request.as_bytes()).expect("sent");
            let line = log.line_with("request refused");
            assert!(line.contains(&peer(&client)), "{line}");
        }
        let mut offender = server.open();
        // No client may send a frame without a mask.
        offender.write_all(&[0x81, 0]).expect("sent");
        let line = log.line_with("connection closed for an offence");
        assert!(line.contains(&peer(&offender)), "{line}");
        let slow = open(server.address, "/broadcast/topic");
        let mut publisher = open(server.address, "/broadcast/topic");
        let mut frame = vec![0x82, 0xfe, 0x40, 0, 0, 0, 0, 0];
        frame.resize(frame.len() + 0x4000, 0);
        for _ in 0..400 {
            publisher.write_all(&frame).expect("sent");
        }
        let line = log.line_with("slow consumer disconnected");
        assert!(line.contains(&peer(&slow)) && line.contains("4008"), "{line}");
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn openings_and_closings_are_logged_at_debug() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let mut server = Program::serve(driver, &["--log", "debug"], stderr);
        let client = server.open();
        let peer = format!("peer={}", client.local_addr().expect("connected"));
        let line = log.line_with("connection opened");
        assert!(line.contains(&peer) && line.contains("/echo"), "{line}");
        drop(client);
        let line = log.line_with("connection closed");
        assert!(line.contains(&peer), "{line}");
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn dropped_records_are_counted_and_told_once_the_log_is_read() {
    for driver in DRIVERS {
        let (reader, writer) = UnixStream::pair().expect("a pair");
        reader.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "debug"];
        let mut command = command(&words);
        let stderr = OwnedFd::from(writer);
        let mut server = Program::start(command.args(["--driver", driver]).stderr(stderr));
        let mut lines = BufReader::new(reader).lines();
        let mut line_with = |words: &str| {
            let mut lines = lines.by_ref().map(|line| line.expect("a line in time"));
            lines.find(|line| line.contains(words)).expect("the log goes on")
        };
        let admin = admin_of(&line_with("control plane on http://"));
        // Now nobody reads. Each of these is a record for its opening and one for its closing.
        for _ in 0..LOG_QUEUE_RECORDS {
            drop(server.open());
        }
        let stats: serde_json::Value = serde_json::from_str(&get(admin, "/stats").1).expect("JSON");
        assert!(stats["log"]["dropped"].as_u64().is_some_and(|dropped| dropped > 0), "{}", stats["log"]);
        let told = line_with("log records were dropped");
        assert!(told.contains("WARN") && told.contains("records="), "{told}");
        // Whoever reads goes on reading.
        thread::spawn(move || lines.count());
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn silent_connections_to_the_admin_address_keep_no_health_check_out() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--driver", driver];
        let mut server = Program::start(command(&words).stderr(stderr));
        let admin = log.admin();
        let silent: Vec<TcpStream> =
            (0..192).map(|_| TcpStream::connect(admin).expect("connected")).collect();
        let asked = Instant::now();
        assert_eq!(get(admin, "/healthz"), (200, "ok\n".to_owned()));
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        drop(silent);
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn running_out_of_descriptors_is_survived() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--driver", driver];
        let mut server = Program::start(command(&words).stderr(stderr));
        let admin = log.admin();
        let mut before = server.open();
        let pid = i32::try_from(server.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        let limit = getrlimit_of(pid);
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(0), ..limit }).expect("lowered");
        let address = server.address;
        let clients: Vec<_> =
            (0..20).map(|_| thread::spawn(move || echo(&mut open(address, "/echo")))).collect();
        let health = thread::spawn(move || get(admin, "/healthz").0);
        for _ in 0..100 {
            echo(&mut before);
        }
        log.line_with("the admin address could not accept a connection");
        prlimit(Some(pid), Resource::Nofile, limit).expect("raised");
        for client in clients {
            client.join().expect("an echo");
        }
        assert_eq!(health.join().expect("no panic"), 200);
        echo(&mut before);
        drop(before);
        assert_eq!(server.end(), Some(0));
        let lines = log.text().lines().filter(|line| line.contains("could not")).count();
        assert!(lines < 200, "{lines} lines about the same");
    }
}

fn getrlimit_of(pid: Pid) -> Rlimit {
    let unchanged = getrlimit(Resource::Nofile);
    // What is set is given back: set what this process has, which the child has inherited and at most raised.
    let raised = Rlimit { current: unchanged.maximum, maximum: unchanged.maximum };
    prlimit(Some(pid), Resource::Nofile, raised).expect("its own limit")
}

#[test]
fn an_expired_certificate_is_warned_about() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    (parameters.not_before, parameters.not_after) =
        (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let made = parameters.self_signed(&key).expect("a certificate");
    let (cert, key_file) = (Scratch::new("expired.pem"), Scratch::new("expired.key"));
    std::fs::write(&cert.0, made.pem()).expect("written");
    std::fs::write(&key_file.0, key.serialize_pem()).expect("written");
    let tls = ["--tls-cert", cert.path(), "--tls-key", key_file.path()];
    let words = [&["serve", "--listen", "127.0.0.1:0", "--admin", "off"][..], &tls].concat();
    let check = command(&[&words[..], &["--check"]].concat()).output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(0), "{stderr}");
    assert!(stderr.starts_with("warning: certificate 1 of ") && stderr.contains(" expired "), "{stderr}");
    let proxy = [&["proxy", "--listen", "127.0.0.1:0", "--upstream", NOWHERE][..], &tls].concat();
    for words in [&words[..], &proxy] {
        let (mut log, stderr) = Log::new();
        let mut server = Program::start(command(words).stderr(stderr));
        let line = log.line_with(" expired ");
        assert!(line.contains("WARN") && line.contains("renew it"), "{line}");
        assert_eq!(server.end(), Some(0));
    }
}

/// Servers inside this process, one at a time: a test that breaks descriptors must not find those of another.
static EMBEDDED: Mutex<()> = Mutex::new(());

fn embedded(driver: DriverChoice, shards: usize, stuck: Option<Stuck>) -> Server {
    let builder =
        Builder::new().builtin_routes(true).listen(([127, 0, 0, 1], 0)).shards(shards).driver(driver);
    let builder = match stuck {
        Some(stuck) => builder.handle("/stuck", move || stuck.clone()),
        None => builder,
    };
    // A descriptor that is registered works on when its number names something else.
    let config = Config { without: Features::REGISTERED_RING, ..builder.config().clone() };
    Server::start(config).expect("it starts")
}

fn address(server: &Server) -> SocketAddr {
    match server.addresses() {
        [ListenAddress::Tcp(address)] => *address,
        other => panic!("{other:?}"),
    }
}

fn control(server: &Server) -> (Control, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    (Control::start(listener, server, None).expect("it starts"), address)
}

/// A handler that holds up its shard until it is told to go on.
#[derive(Clone)]
struct Stuck {
    entered: mpsc::Sender<()>,
    goes_on: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Handler for Stuck {
    fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition, Failure> {
        self.entered.send(())?;
        self.goes_on.lock().expect("no panic").recv()?;
        Ok(Disposition::Echo)
    }
}

#[test]
fn a_shard_that_stands_still_is_told_by_health_checks() {
    let _alone = EMBEDDED.lock().unwrap_or_else(PoisonError::into_inner);
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let (entered, has_entered) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let stuck = Stuck { entered, goes_on: Arc::new(Mutex::new(goes_on)) };
        let server = embedded(driver, 1, Some(stuck));
        let (control, admin) = control(&server);
        let ok = (200, "ok\n".to_owned());
        assert_eq!(get(admin, "/healthz"), ok);
        let mut client = open(address(&server), "/stuck");
        client.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).expect("sent");
        has_entered.recv_timeout(PATIENCE).expect("the handler is called");
        let stalled = (503, "stalled shards: [0]\n".to_owned());
        for _ in 0..5 {
            assert_eq!(get(admin, "/healthz"), stalled);
        }
        go_on.send(()).expect("it waits for that");
        client.read_exact(&mut [0; 4]).expect("an echo");
        assert_eq!(get(admin, "/healthz"), ok);
        drop(client);
        server.shutdown(PATIENCE).expect("it ends in order");
        control.stop();
    }
}

/// The descriptors of this process that are an event loop of this kind.
fn event_loops(kind: &str) -> BTreeSet<i32> {
    let link = format!("anon_inode:[{kind}]");
    std::fs::read_dir("/proc/self/fd")
        .expect("procfs is mounted")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let target = std::fs::read_link(&path).ok()?;
            (target.to_str() == Some(&link)).then(|| path.file_name()?.to_str()?.parse().ok()).flatten()
        })
        .collect()
}

#[test]
fn a_shard_that_ends_by_itself_ends_the_server_with_a_reason() {
    let _alone = EMBEDDED.lock().unwrap_or_else(PoisonError::into_inner);
    for (driver, kind) in [(DriverChoice::Uring, "io_uring"), (DriverChoice::Epoll, "eventpoll")] {
        let before = event_loops(kind);
        let server = embedded(driver, 2, None);
        let broken = *event_loops(kind).difference(&before).next().expect("a shard has one");
        let (control, admin) = control(&server);
        assert_eq!(get(admin, "/healthz").0, 200);
        let mut clients: Vec<TcpStream> = (0..20).map(|_| open(address(&server), "/echo")).collect();
        let nowhere = File::open("/dev/null").expect("a device");
        // SAFETY: both are open descriptors of this process. The shard notices that its own is something else now.
        assert_eq!(unsafe { libc::dup2(nowhere.as_raw_fd(), broken) }, broken);
        let handle = server.handle();
        // Wakes the shards; the broken one cannot wait again.
        let woken = thread::spawn(move || handle.snapshots().len());
        let error = server.join().expect_err("it did not end in order").to_string();
        assert!(error.starts_with("shard "), "{error}");
        assert!(woken.join().expect("no panic") <= 2);
        assert_eq!(get(admin, "/healthz"), (503, "failed\n".to_owned()));
        control.stop();
        // Those of the other shard are told, and those of the one that ended are cut.
        for client in &mut clients {
            let mut rest = Vec::new();
            let ended = client.read_to_end(&mut rest);
            assert!(rest.is_empty() || rest[..4] == [0x88, rest[1], 3, 0xe9], "{ended:?} {rest:?}");
        }
    }
}

/// Has the kernel refuse the system calls that fit these rules, as if their descriptor were not there.
fn refusing(command: &mut Command, rules: Vec<(i64, Vec<SeccompRule>)>) -> &mut Command {
    let architecture = std::env::consts::ARCH.try_into().expect("one that is known");
    let refusal = SeccompAction::Errno(libc::EBADF as u32);
    let rules = rules.into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture).expect("valid");
    let program: BpfProgram = filter.try_into().expect("it compiles");
    // SAFETY: between fork and exec the filter is only installed, by system calls.
    unsafe { command.pre_exec(move || seccompiler::apply_filter(&program).map_err(std::io::Error::other)) }
}

fn argument(at: u8, comparison: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(at, SeccompCmpArgLen::Dword, comparison, value).expect("valid")
}

/// Shards cannot wait with a deadline, which they first do when they have a connection.
fn without_deadlines(command: &mut Command) -> &mut Command {
    const ABS_TIMER: u64 = 1 << 5;
    let timed = argument(3, SeccompCmpOp::MaskedEq(ABS_TIMER), ABS_TIMER);
    let timed = SeccompRule::new(vec![timed]).expect("valid");
    refusing(command, vec![(libc::SYS_epoll_pwait2, Vec::new()), (libc::SYS_io_uring_enter, vec![timed])])
}

/// Threads on tokio cannot, likewise.
fn without_timers(command: &mut Command) -> &mut Command {
    let for_ever = u64::from(u32::MAX);
    let timed = vec![argument(3, SeccompCmpOp::Ne, for_ever), argument(3, SeccompCmpOp::Ne, 0)];
    refusing(command, vec![(libc::SYS_epoll_wait, vec![SeccompRule::new(timed).expect("valid")])])
}

#[test]
fn a_control_plane_that_cannot_go_on_ends_the_process_with_a_reason_and_exit_code_3() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--driver", driver];
        let mut server = Program::start(without_timers(command(&words).stderr(stderr)));
        let admin = log.admin();
        let _client = TcpStream::connect(admin).expect("connected");
        let line = log.line_with("the server cannot go on");
        assert!(line.contains("the control plane panicked"), "{line}");
        assert_eq!(server.exit_code(), Some(3));
    }
}

#[test]
fn a_thread_of_the_proxy_that_cannot_go_on_ends_the_process_with_exit_code_3() {
    let (mut log, stderr) = Log::new();
    let words = ["proxy", "--listen", "127.0.0.1:0", "--upstream", NOWHERE, "--health-interval", "off"];
    let mut proxy = Program::start(without_timers(command(&words).stderr(stderr)));
    // Whichever thread takes it has to wait for its request.
    let _client = TcpStream::connect(proxy.address).expect("connected");
    log.line_with("a thread of the proxy has ended by itself");
    assert_eq!(proxy.exit_code(), Some(3));
}

#[test]
fn a_shard_that_cannot_go_on_ends_the_process_with_a_reason_and_exit_code_3() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words =
            ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--shards", "2", "--driver", driver];
        let mut server = Program::start(without_deadlines(command(&words).stderr(stderr)));
        let _client = TcpStream::connect(server.address).expect("connected");
        let line = log.line_with("the server cannot go on");
        assert!(line.contains("ERROR") && line.contains("reason=\"shard "), "{line}");
        assert_eq!(server.exit_code(), Some(3));
        let text = log.text();
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: the server ended by itself: shard "), "{text}");
    }
}
