//! Nothing is lost and nothing hangs while one in a hundred calls of `io_uring_enter` fails with EAGAIN or ENOMEM, as
//! may happen on a host that is short of memory. The real binary runs with a preloaded library that makes them fail
//! (`enter.c`), built here.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{patient, ports, program};
use echoring_proxy::recording::{Event, FrameKind, Reader, Side};
use patient::Patient;
use program::{Run, Serve, command};
use serde_json::Value;

/// Longer than any deadline of the programs.
const PATIENCE: Duration = Duration::from_secs(30);
const ONE_IN: u64 = 100;

/// The library, built once.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("enter-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/program/faults/enter.c");
        // The compiler that Rust links with.
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
        let built = built.expect("a C compiler");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        library
    })
}

/// The faults of one program, and their number.
struct Faults(PathBuf);

impl Faults {
    fn plant(command: &mut Command, test: &str) -> Faults {
        let counts = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        fs::write(&counts, [0; 16]).expect("written");
        command
            .env("LD_PRELOAD", library())
            .env("ENTER_FAULTS_ONE_IN", ONE_IN.to_string())
            .env("ENTER_FAULTS_SEED", "7")
            .env("ENTER_FAULTS_COUNTS", &counts);
        Faults(counts)
    }

    /// Calls that failed so far.
    fn count(&self) -> u64 {
        let counts = fs::read(&self.0).expect("there");
        u64::from_ne_bytes(counts[8..16].try_into().expect("eight bytes"))
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Without io_uring nothing can fail.
fn ring_denied() -> bool {
    let denied = echoring_async::ring_allowed().err();
    if let Some(error) = &denied {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        eprintln!("io_uring is denied here ({error}): nothing to test");
    }
    denied.is_some()
}

/// A listening program, killed when it goes out of scope at the latest.
struct Listening {
    process: Child,
    line: String,
    address: SocketAddr,
    stderr: Option<JoinHandle<String>>,
}

impl Listening {
    fn start(mut command: Command) -> Listening {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut stderr = process.stderr.take().expect("piped");
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let url = line.split(' ').nth(1).unwrap_or_else(|| panic!("no listening line but {line:?}"));
        let address = url.rsplit('/').next().and_then(|address| address.parse().ok()).expect("an address");
        Listening { process, line, address, stderr: Some(stderr) }
    }

    /// Stops it in order; returns its log.
    fn end(mut self) -> (ExitStatus, String) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs still");
        let given_up = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < given_up, "it does not end");
            thread::sleep(Duration::from_millis(5));
        };
        let log = self.stderr.take().expect("still there").join().expect("no panic");
        (status, log)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn assert_ended_well(program: Listening) {
    let (status, log) = program.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

/// The results of `bench` at `url`, with 20 connections for two seconds.
fn load(url: &str) -> Command {
    let mut bench = command(&["bench", url, "-c", "20", "-d", "2s", "--warmup", "200ms", "--threads", "1"]);
    bench.args(["--json", "-"]);
    bench
}

/// The load's record, in which everything must have arrived.
fn assert_nothing_lost(run: &Run) -> Value {
    assert!([Some(0), Some(4)].contains(&run.code), "{run}");
    let record = run.json()["runs"][0].clone();
    for (what, times) in record["integrity"].as_object().expect("sums") {
        assert_eq!(times.as_u64().unwrap_or(0), 0, "{what}: {run}");
    }
    assert_eq!(record["errors"].as_object().map(serde_json::Map::len), Some(0), "{run}");
    assert!(record["messages"].as_u64().expect("a number") > 0, "{run}");
    record
}

/// The answer to a request that asks for the end of its connection.
fn get(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in time");
    answer
}

#[test]
fn serve_and_its_control_thread_lose_nothing() {
    if ring_denied() {
        return;
    }
    let [admin] = ports::free();
    let mut serve =
        command(&["serve", "--listen", "127.0.0.1:0", "--driver", "uring", "--shards", "1", "--log", "warn"]);
    serve.args(["--admin", &admin.to_string()]);
    let faults = Faults::plant(&mut serve, "serve");
    let serve = Listening::start(serve);
    assert!(serve.line.contains(" driver=uring "), "{}", serve.line);
    echo_one_by_one(serve.address);
    let url = format!("ws://{}/echo", serve.address);
    let bench = thread::spawn(move || Run::from(load(&url).output().expect("it runs")));
    for round in 0..200 {
        let stats = get(admin, "GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(stats.starts_with("HTTP/1.1 200 "), "{round}: {stats}");
        let head = "POST /topics/t HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        let body = "{\"a\":1}";
        let post =
            format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let published = get(admin, &post);
        assert!(published.ends_with(&format!("\"offset\":{}}}\n", round + 1)), "{published}");
    }
    assert_nothing_lost(&bench.join().expect("no panic"));
    assert!(faults.count() > 0, "{} faults", faults.count());
    assert_ended_well(serve);
}

#[test]
fn the_load_generator_loses_nothing() {
    if ring_denied() {
        return;
    }
    let serve = Serve::start(&["--shards", "1"]);
    let mut bench = load(&format!("{}/echo", serve.url()));
    bench.args(["--driver", "uring"]);
    let faults = Faults::plant(&mut bench, "bench");
    assert_nothing_lost(&bench.output().expect("it runs").into());
    assert!(faults.count() > 0, "{} faults", faults.count());
}

/// Echoes one after the other on one connection, so that nothing else makes the program enter its ring. None of them
/// may wait for an unrelated event.
fn echo_one_by_one(address: SocketAddr) {
    let given_up = Instant::now() + PATIENCE;
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (mut socket, _) =
        tungstenite::client(format!("ws://{address}/echo"), Patient(stream)).expect("an open connection");
    for number in 0..2_000 {
        let message = format!("message {number}");
        socket.send(message.as_str().into()).expect("sent");
        assert_eq!(socket.read().expect("an echo").into_text().expect("text").as_str(), message);
        assert!(Instant::now() < given_up, "{number} echoes in {PATIENCE:?}");
    }
    socket.close(None).expect("sent");
    while socket.read().is_ok() {}
}

#[test]
fn the_proxy_loses_nothing_and_records_everything() {
    if ring_denied() {
        return;
    }
    let serve = Serve::start(&["--shards", "1"]);
    let recording =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.jsonl", std::process::id()));
    let mut proxy =
        command(&["proxy", "--listen", "127.0.0.1:0", "--shards", "1", "--driver", "uring", "--log", "warn"]);
    proxy.args(["--upstream", &serve.url(), "--record"]).arg(&recording);
    let faults = Faults::plant(&mut proxy, "proxy");
    let proxy = Listening::start(proxy);
    echo_one_by_one(proxy.address);
    let run = load(&format!("ws://{}/echo", proxy.address)).output().expect("it runs").into();
    let record = assert_nothing_lost(&run);
    assert_ended_well(proxy);
    let (mut sent, mut echoed) = (0_u64, 0_u64);
    let file = BufReader::new(fs::File::open(&recording).expect("a recording"));
    for record in Reader::new(file).expect("a head") {
        let record = record.expect("a line");
        if let Event::Frame(frame) = &record.event
            && [FrameKind::Text, FrameKind::Binary].contains(&frame.kind)
        {
            *if record.from == Side::Client { &mut sent } else { &mut echoed } += 1;
        }
    }
    let _ = fs::remove_file(&recording);
    assert_eq!(sent, echoed, "each message and its echo");
    let measured = record["messages"].as_u64().expect("a number");
    assert!(echoed >= measured, "{echoed} of {measured} recorded");
    assert!(faults.count() > 0, "{} faults", faults.count());
}
