//! `serve` under a service manager: notifications, the watchdog, and sockets that were opened for it. The service manager is a
//! datagram socket of the test, and `systemd-socket-activate` where the machine has it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{self as unix, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{certificate, patient, ports, program};
use patient::Patient;
use program::command;
use rustix::process::Signal;
use tungstenite::Message;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server, killed when it goes out of scope at the latest.
struct Server {
    process: Child,
    /// The `listening` lines.
    listening: Vec<String>,
}

impl Server {
    /// Starts it, and waits for `lines` addresses.
    fn start(command: &mut Command, lines: usize) -> Server {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        let listening = (0..lines).map(|_| {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("a line");
            assert!(line.starts_with("listening "), "{line:?}");
            line
        });
        Server { listening: listening.collect(), process }
    }

    fn signal(&self, signal: Signal) {
        program::signal(&self.process, signal);
    }

    fn exit_code(mut self) -> Option<i32> {
        self.process.wait().expect("a child").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The socket of a service manager, and the value of `NOTIFY_SOCKET`.
fn manager(name: &str) -> (UnixDatagram, String) {
    let name = format!("echoring-test-{}-{name}", std::process::id());
    let address = unix::SocketAddr::from_abstract_name(&name).expect("a name");
    let socket = UnixDatagram::bind_addr(&address).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    (socket, format!("@{name}"))
}

/// The next notification that is no kick of the watchdog.
fn notified(socket: &UnixDatagram) -> String {
    loop {
        let state = any(socket);
        if state != "WATCHDOG=1" {
            return state;
        }
    }
}

fn any(socket: &UnixDatagram) -> String {
    let mut state = [0; 4096];
    let bytes = socket.recv(&mut state).expect("a notification");
    String::from_utf8(state[..bytes].to_vec()).expect("text")
}

fn serve(flags: &[&str]) -> Command {
    command(&[&["serve", "--admin", "off", "--shards", "2", "--log", "warn"], flags].concat())
}

#[test]
fn a_service_manager_hears_of_the_start_a_reload_and_the_end() {
    let (socket, name) = manager("states");
    let server = Server::start(serve(&["--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", name), 1);
    let pid = server.process.id();
    let ready = notified(&socket);
    assert!(ready.starts_with(&format!("READY=1\nMAINPID={pid}\nSTATUS=listening on 127.0.0.1:")), "{ready}");
    server.signal(Signal::HUP);
    let reloading = notified(&socket);
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload");
    assert!(time.parse::<u64>().expect("a time") > 0);
    assert!(notified(&socket).starts_with("READY=1\n"));
    server.signal(Signal::TERM);
    assert!(notified(&socket).starts_with("STOPPING=1\nSTATUS="));
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_service_manager_waits_for_the_whole_drain() {
    for (name, flags, least) in [
        ("short-drain", &[][..], Duration::from_secs(8)),
        ("long-drain", &["--drain", "5m"], Duration::from_secs(300)),
    ] {
        let (socket, name) = manager(name);
        let flags = [&["--listen", "127.0.0.1:0"], flags].concat();
        let server = Server::start(serve(&flags).env("NOTIFY_SOCKET", name), 1);
        assert!(notified(&socket).starts_with("READY=1\n"));
        server.signal(Signal::TERM);
        let stopping = notified(&socket);
        let time = stopping.split_once("\nEXTEND_TIMEOUT_USEC=").expect("a time").1;
        let time = Duration::from_micros(time.parse().expect("a number"));
        assert!(time > least && time < least + Duration::from_secs(60), "{flags:?}: {time:?}");
    }
}

#[test]
fn a_socket_file_of_a_service_manager_works_as_well() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("notify-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let server = Server::start(serve(&["--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", &path), 1);
    assert!(notified(&socket).starts_with("READY=1\n"));
    drop(server);
    std::fs::remove_file(&path).expect("it is there");
}

#[test]
fn the_watchdog_is_kicked_while_every_shard_makes_ticks() {
    let (socket, name) = manager("watchdog");
    let mut command = serve(&["--listen", "127.0.0.1:0"]);
    let server = Server::start(command.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "20000"), 1);
    assert!(any(&socket).starts_with("READY=1\n"));
    for _ in 0..3 {
        assert_eq!(any(&socket), "WATCHDOG=1");
    }
    // One shard stands still: its thread is stopped, as a debugger stops it.
    let stopped = StoppedThread::of(&server.process, "shard-1");
    socket.set_nonblocking(true).expect("non-blocking");
    while socket.recv(&mut [0; 64]).is_ok() {}
    socket.set_nonblocking(false).expect("blocking");
    // A query that the shard answered before may still be kicked for; none follows that the shard does not answer.
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
    let kicks = std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).take(10).count();
    assert!(kicks < 10, "it is kicked although a shard stands still");
    drop(stopped);
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(any(&socket), "WATCHDOG=1");
}

/// The service manager takes kicks of every process of the service: those of a predecessor would hide a successor that stands
/// still.
#[test]
fn a_server_that_was_taken_over_kicks_the_watchdog_no_more() {
    let [address] = ports::free();
    let listen = address.to_string();
    let files = certificate::certificate();
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().expect("UTF-8"));
    let tls = ["--tls-cert", cert, "--tls-key", key];
    let flags = [&["--listen", &listen, "--takeover", "--drain", "60s"], &tls[..]].concat();
    let start = |manager: &str| {
        Server::start(serve(&flags).env("NOTIFY_SOCKET", manager).env("WATCHDOG_USEC", "20000"), 1)
    };
    let ((socket, name), (next_socket, next_name)) = (manager("taken"), manager("taker"));
    let mut server = start(&name);
    assert!(any(&socket).starts_with("READY=1\n"));
    assert_eq!(any(&socket), "WATCHDOG=1");
    // They keep the predecessor draining, because TLS sessions do not move.
    let client = |_| {
        let session = rustls::ClientConnection::new(certificate::trusting(), certificate::localhost());
        let stream = rustls::StreamOwned::new(session.expect("a client"), connect(address));
        tungstenite::client(format!("ws://{address}/echo"), stream).expect("open")
    };
    let clients: Vec<_> = (0..20).map(client).collect();
    let _successor = start(&next_name);
    assert!(notified(&next_socket).starts_with("READY=1\n"));
    // Kicks of before may still be queued.
    socket.set_nonblocking(true).expect("non-blocking");
    while socket.recv(&mut [0; 4096]).is_ok() {}
    socket.set_nonblocking(false).expect("blocking");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let kicks = std::iter::from_fn(|| socket.recv(&mut [0; 4096]).ok()).take(100).count();
    assert!(kicks < 100, "it is kicked by the predecessor");
    assert!(server.process.try_wait().expect("a child").is_none(), "it still drains");
    assert_eq!(any(&next_socket), "WATCHDOG=1");
    drop(clients);
}

#[test]
fn a_new_server_is_the_main_process_when_the_grace_of_the_old_one_is_over() {
    let [address] = ports::free();
    let listen = address.to_string();
    let start = |manager: &str, grace: &str| {
        let flags = ["--listen", &listen, "--takeover", "--takeover-grace", grace];
        Server::start(serve(&flags).env("NOTIFY_SOCKET", manager), 1)
    };
    let ((socket, name), (next_socket, next_name)) = (manager("grace"), manager("settled"));
    let first = start(&name, "1h");
    assert!(notified(&socket).starts_with("READY=1\n"));
    let successor = start(&next_name, "0s");
    next_socket.set_nonblocking(true).expect("non-blocking");
    assert!(next_socket.recv(&mut [0; 4096]).is_err(), "its end would still give everything back");
    next_socket.set_nonblocking(false).expect("blocking");
    // A server that drains does not serve again.
    first.signal(Signal::TERM);
    let main = format!("READY=1\nMAINPID={}\n", successor.process.id());
    assert!(notified(&next_socket).starts_with(&main));
    assert_eq!(first.exit_code(), Some(0));
}

#[test]
fn a_watchdog_of_another_process_is_left_alone() {
    let (socket, name) = manager("other");
    let mut command = serve(&["--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let server = Server::start(&mut command, 1);
    assert!(any(&socket).starts_with("READY=1\n"));
    server.signal(Signal::TERM);
    assert!(any(&socket).starts_with("STOPPING=1\n"), "nothing in between");
    assert_eq!(server.exit_code(), Some(0));
}

/// A thread of a child that a debugger has stopped, until it is dropped.
struct StoppedThread(libc::pid_t);

impl StoppedThread {
    fn of(process: &Child, name: &str) -> StoppedThread {
        let tasks = PathBuf::from(format!("/proc/{}/task", process.id()));
        let is_named = |task: &PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let mut tasks = std::fs::read_dir(tasks).expect("procfs").map(|task| task.expect("a task").path());
        let task = tasks.find(is_named).expect("a thread of that name");
        let id: libc::pid_t = task.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("a number");
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            // SAFETY: these requests name no memory.
            assert_eq!(unsafe { libc::ptrace(request, id, 0, 0) }, 0, "{}", std::io::Error::last_os_error());
        }
        // SAFETY: no status is asked for.
        assert_eq!(unsafe { libc::waitpid(id, std::ptr::null_mut(), libc::__WALL) }, id);
        StoppedThread(id)
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // SAFETY: the request names no memory.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

/// Runs the command with these sockets as descriptors 3 and following.
fn activate<'a>(command: &'a mut Command, sockets: Vec<OwnedFd>, names: &str) -> &'a mut Command {
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names);
    let place = move || {
        // First out of the way of their places.
        let high: Vec<i32> = sockets
            .iter()
            // SAFETY: a system call with numbers only.
            .map(|socket| unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100) })
            .collect();
        for (index, socket) in high.into_iter().enumerate() {
            // SAFETY: a system call with numbers only. The child uses no other descriptors from 3 on.
            if unsafe { libc::dup2(socket, 3 + index as i32) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made; the vector is small, and the child has one thread.
    unsafe { command.pre_exec(place) }
}

fn echoes<S: std::io::Read + std::io::Write>(stream: S) {
    let (mut socket, _) = tungstenite::client("ws://localhost/echo", stream).expect("open");
    socket.send("hello".into()).expect("sent");
    assert_eq!(socket.read().expect("an answer"), Message::text("hello"));
}

fn connect(address: SocketAddr) -> Patient {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    Patient(stream)
}

#[test]
fn sockets_of_a_service_manager_are_served_on_both_drivers() {
    for driver in ["auto", "epoll"] {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let admin = TcpListener::bind("127.0.0.1:0").expect("a port");
        let [address, admin_address] = [&tcp, &admin].map(|socket| socket.local_addr().expect("bound"));
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("activated-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let unix = UnixListener::bind(&path).expect("a socket");
        // It waits for the server, which does not exist yet.
        let early = connect(address);
        let mut command = command(&["serve", "--shards", "2", "--log", "warn", "--driver", driver]);
        let sockets = vec![tcp.into(), admin.into(), unix.into()];
        let server = Server::start(activate(&mut command, sockets, "ws:admin:local"), 2);
        drop(command);
        assert!(server.listening[0].contains(&format!(" ws://{address} ")), "{:?}", server.listening);
        assert!(server.listening[1].contains("ws+unix:"), "{:?}", server.listening);
        echoes(early);
        echoes(connect(address));
        echoes(UnixStream::connect(&path).expect("connected"));
        let mut health = TcpStream::connect(admin_address).expect("connected");
        health.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        health.write_all(request).expect("sent");
        let mut answer = String::new();
        health.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        server.signal(Signal::TERM);
        assert_eq!(server.exit_code(), Some(0));
        assert!(path.exists(), "the file belongs to the service manager");
        std::fs::remove_file(&path).expect("it is there");
    }
}

#[test]
fn the_admin_socket_of_a_service_manager_may_be_a_unix_socket() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("admin-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let admin = UnixListener::bind(&path).expect("a socket");
    let mut command = command(&["serve", "--shards", "1", "--log", "warn"]);
    let server = Server::start(activate(&mut command, vec![tcp.into(), admin.into()], "ws:admin"), 1);
    let mut stats = UnixStream::connect(&path).expect("connected");
    stats.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = b"GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stats.write_all(request).expect("sent");
    let mut answer = String::new();
    stats.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0));
    assert!(path.exists(), "the file belongs to the service manager");
    std::fs::remove_file(&path).expect("it is there");
}

#[test]
fn a_socket_that_cannot_be_served_is_an_error_with_its_number() {
    let datagram = UnixDatagram::unbound().expect("a socket");
    let mut command = serve(&[]);
    let output = activate(&mut command, vec![datagram.into()], "").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("socket 0 of LISTEN_FDS"), "{said}");
}

#[test]
fn systemd_itself_activates_the_server() {
    let tool = "systemd-socket-activate";
    if Command::new(tool).arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "{tool} is missing");
        eprintln!("skipped: sudo apt-get install systemd");
        return;
    }
    let [address, admin] = ports::free();
    let mut command = Command::new(tool);
    command.args(["--listen", &address.to_string(), "--listen", &admin.to_string(), "--fdname=ws:admin"]);
    command.args([env!("CARGO_BIN_EXE_echoring"), "serve", "--shards", "2", "--log", "warn"]);
    let mut manager =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    // It starts the server with the first connection, once it listens.
    let mut said = BufReader::new(manager.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains(&admin.to_string()) {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("a line"), 0, "it ended");
    }
    let early = connect(address);
    let mut listening = String::new();
    let mut stdout = BufReader::new(manager.stdout.take().expect("piped"));
    stdout.read_line(&mut listening).expect("a line");
    let server = Server { process: manager, listening: vec![listening] };
    assert!(server.listening[0].contains(&format!(" ws://{address} ")), "{:?}", server.listening);
    echoes(early);
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0));
}
