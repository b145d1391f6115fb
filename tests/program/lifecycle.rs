//! Effects of the environment on a running server: a log that cannot be written, signals, a stalled shard.
//!
//! The real binary, on both drivers, as `serve` and as `proxy`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::program;
use program::command;
use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

mod environment;
mod failures;
mod log;
mod sandbox;
mod signals;

/// Longer than any deadline of the server that a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);
const DRIVERS: [&str; 2] = ["uring", "epoll"];
/// A port without a listener, so that a proxy in front of it refuses everything.
const NOWHERE: &str = "ws://127.0.0.1:1";

/// A running server, killed when it goes out of scope at the latest.
struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Program {
    /// `serve` without an admin address.
    fn serve(driver: &str, flags: &[&str], stderr: impl Into<Stdio>) -> Program {
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--driver", driver];
        Program::start(command(&words).args(flags).stderr(stderr))
    }

    /// `proxy` in front of no server.
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

    /// Sends a signal by number.
    fn signal_number(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process");
        // SAFETY: plain numbers; the process was not waited for, so that its id is nobody else's.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "signal {signal}");
    }

    /// The exit code after SIGTERM.
    fn end(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.exit_code()
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.exit_status().code()
    }

    fn exit_status(&mut self) -> ExitStatus {
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
        self.child.wait().expect("ended")
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

/// Both kinds of server on both drivers, each with a stderr made by `stderr`. `test` gets a path that is refused and
/// logged, and its status.
fn each_server(flags: &[&str], stderr: impl Fn() -> Stdio, test: impl Fn(Program, u16)) {
    for driver in DRIVERS {
        test(Program::serve(driver, flags, stderr()), 404);
        test(Program::proxy(driver, flags, stderr()), 502);
    }
}

/// A stderr that is full, and the end from which it is read.
fn blocked_stderr() -> (UnixStream, Stdio) {
    let (reader, mut writer) = UnixStream::pair().expect("a pair");
    writer.set_nonblocking(true).expect("set");
    while writer.write(&[b'\n'; 1024]).is_ok() {}
    while writer.write(b"\n").is_ok() {}
    writer.set_nonblocking(false).expect("set");
    (reader, Stdio::from(OwnedFd::from(writer)))
}

/// The binary with these arguments, started by a shell line that ends in `exec "$0" "$@"` with redirections.
fn by_shell(script: &str, words: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_echoring")]).args(words).stdin(Stdio::null());
    shell
}

/// A path for a file of this test, which is deleted when it goes out of scope.
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

/// The output of a server, read on a separate thread.
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

    /// The next line that contains these words.
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

    /// The admin address.
    fn admin(&mut self) -> SocketAddr {
        admin_of(&self.line_with("admin address http://"))
    }

    /// The whole output, once the server has ended.
    fn text(mut self) -> String {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.text += &line;
            self.text += "\n";
        }
        self.text
    }
}

/// The address in a line.
fn admin_of(line: &str) -> SocketAddr {
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line}"))
}

/// Makes the kernel refuse the system calls that match these rules, as if their descriptor did not exist.
fn refusing(command: &mut Command, rules: Vec<(i64, Vec<SeccompRule>)>) -> &mut Command {
    filtered(command, rules, SeccompAction::Errno(libc::EBADF as u32))
}

/// Makes the kernel take this action for system calls that match one of these rules.
fn filtered(
    command: &mut Command,
    rules: Vec<(i64, Vec<SeccompRule>)>,
    action: SeccompAction,
) -> &mut Command {
    let architecture = std::env::consts::ARCH.try_into().expect("one that is known");
    let rules = rules.into_iter().collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture).expect("valid");
    let program: BpfProgram = filter.try_into().expect("it compiles");
    // SAFETY: between fork and exec the filter is only installed, by system calls.
    unsafe { command.pre_exec(move || seccompiler::apply_filter(&program).map_err(std::io::Error::other)) }
}

fn argument(at: u8, comparison: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(at, SeccompCmpArgLen::Dword, comparison, value).expect("valid")
}
