//! A part of the server stalls or ends: health checks report it, and the process ends with a reason.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use echoring_admin::{AdminTokens, Control, Reloading};
use echoring_runtime::driver::Features;
use echoring_server::{
    Builder, Disposition, DriverChoice, Handler, InheritedListener, ListenAddress, Message, Remote, Result,
    Server, ServerConfig,
};

use super::*;

/// Servers inside this process, one at a time: a test that breaks descriptors must not hit those of another.
static EMBEDDED: Mutex<()> = Mutex::new(());

fn embedded(driver: DriverChoice, shards: usize, stuck: Option<Stuck>) -> Server {
    let builder =
        Builder::new().builtin_routes(true).listen(([127, 0, 0, 1], 0)).shards(shards).driver(driver);
    let builder = match stuck {
        Some(stuck) => builder.handle("/stuck", move || stuck.clone()),
        None => builder,
    };
    // A descriptor that is registered works on when its number names something else.
    let config = ServerConfig { without: Features::REGISTERED_RING, ..builder.config().clone() };
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
    let listener = InheritedListener::new(vec![listener.into()]).expect("it listens");
    (
        Control::start(listener, server, AdminTokens::default(), Reloading::default()).expect("it starts"),
        address,
    )
}

/// A handler that blocks its shard until it is released.
#[derive(Clone)]
struct Stuck {
    entered: mpsc::Sender<()>,
    goes_on: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Handler for Stuck {
    fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
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
        let (resume, goes_on) = mpsc::channel();
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
        let health = program::command(&["health", "--admin", &admin.to_string()]).output().expect("it runs");
        assert_eq!(health.status.code(), Some(1));
        assert_eq!(
            String::from_utf8_lossy(&health.stderr),
            format!("error: {admin} is not healthy: stalled shards: [0]\n")
        );
        resume.send(()).expect("it waits for that");
        client.read_exact(&mut [0; 4]).expect("an echo");
        // The echo leaves within the turn that stood still. Orders are answered in theirs, the one of /healthz first.
        assert_eq!(server.handle().snapshots().expect("no shard").len(), 1);
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

/// Whether two descriptors of this process are duplicates of each other.
fn are_duplicates(one: i32, other: i32) -> bool {
    const FILE: libc::c_int = 0;
    let process = std::process::id();
    // SAFETY: plain numbers, of which the call changes nothing.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, process, process, FILE, one, other) };
    assert!(order >= 0, "{}", io::Error::last_os_error());
    order == 0
}

#[test]
fn a_shard_that_ends_by_itself_ends_the_server_with_a_reason() {
    let _alone = EMBEDDED.lock().unwrap_or_else(PoisonError::into_inner);
    for (driver, kind) in [(DriverChoice::Uring, "io_uring"), (DriverChoice::Epoll, "eventpoll")] {
        let before = event_loops(kind);
        let server = embedded(driver, 2, None);
        let new: Vec<i32> = event_loops(kind).difference(&before).copied().collect();
        // A ring has a second descriptor, for wakes by other shards, whose number may be the lower one.
        let (broken, rest): (Vec<i32>, Vec<i32>) = new.iter().partition(|&&fd| are_duplicates(fd, new[0]));
        assert_eq!(broken.len(), rest.len(), "those of one shard, and those of the other");
        let (control, admin) = control(&server);
        assert_eq!(get(admin, "/healthz").0, 200);
        let mut clients: Vec<TcpStream> = (0..20).map(|_| open(address(&server), "/echo")).collect();
        let nowhere = File::open("/dev/null").expect("a device");
        for fd in broken {
            // SAFETY: both are open descriptors of this process. The shard notices that its own is something else now.
            assert_eq!(unsafe { libc::dup2(nowhere.as_raw_fd(), fd) }, fd);
        }
        let handle = server.handle();
        // Wakes the shards; the broken one cannot wait again.
        let woken = thread::spawn(move || handle.snapshots().expect("no shard").len());
        let error = server.join().expect_err("it did not end in order").to_string();
        assert!(error.starts_with("shard "), "{error}");
        assert!(woken.join().expect("no panic") <= 2);
        assert_eq!(get(admin, "/healthz"), (503, "failed\n".to_owned()));
        control.stop();
        // Those of the other shard are told, and those of the one that ended are cut.
        for client in &mut clients {
            let mut rest = Vec::new();
            let ended = client.read_to_end(&mut rest);
            let is_open = ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            assert!(!is_open, "neither told nor cut");
            assert!(rest.is_empty() || rest[..4] == [0x88, rest[1], 3, 0xe9], "{ended:?} {rest:?}");
        }
    }
}

/// Shards cannot wait with a deadline, which they first do once they have a connection.
fn without_deadlines(command: &mut Command) -> &mut Command {
    const ABS_TIMER: u64 = 1 << 5;
    let timed = argument(3, SeccompCmpOp::MaskedEq(ABS_TIMER), ABS_TIMER);
    let timed = SeccompRule::new(vec![timed]).expect("valid");
    refusing(command, vec![(libc::SYS_epoll_pwait2, Vec::new()), (libc::SYS_io_uring_enter, vec![timed])])
}

/// Threads on tokio cannot either.
fn without_timers(command: &mut Command) -> &mut Command {
    let for_ever = u64::from(u32::MAX);
    let timed = vec![argument(3, SeccompCmpOp::Ne, for_ever), argument(3, SeccompCmpOp::Ne, 0)];
    refusing(command, vec![(libc::SYS_epoll_wait, vec![SeccompRule::new(timed).expect("valid")])])
}

#[test]
fn a_control_thread_that_cannot_go_on_ends_the_process_with_a_reason_and_exit_code_3() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--driver", driver];
        let mut server = Program::start(without_timers(command(&words).stderr(stderr)));
        let admin = log.admin();
        let _client = TcpStream::connect(admin).expect("connected");
        // The panic itself, with its thread, its place and its message.
        let line = log.line_with(" panicked ");
        for part in ["ERROR", "thread=\"control\"", "place=", "said="] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let line = log.line_with("the server cannot continue");
        assert!(line.contains("the control thread panicked"), "{line}");
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
    log.line_with("a worker thread has failed");
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
        let line = log.line_with("the server cannot continue");
        assert!(line.contains("ERROR") && line.contains("reason=\"shard "), "{line}");
        assert_eq!(server.exit_code(), Some(3));
        let text = log.text();
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: the server ended unexpectedly: shard "), "{text}");
    }
}

/// Only signals are received byte by byte.
fn without_signals(command: &mut Command) -> &mut Command {
    let byte = SeccompRule::new(vec![argument(2, SeccompCmpOp::Eq, 1)]).expect("valid");
    refusing(command, vec![(libc::SYS_recvfrom, vec![byte])])
}

#[test]
fn a_server_that_hears_no_signals_ends_with_a_reason_and_exit_code_3() {
    let proxy = ["proxy", "--listen", "127.0.0.1:0", "--upstream", NOWHERE];
    for words in [&["serve", "--listen", "127.0.0.1:0", "--admin", "off"][..], &proxy] {
        let (mut log, stderr) = Log::new();
        let mut server = Program::start(without_signals(command(words).stderr(stderr)));
        let line = log.line_with("cannot continue");
        assert!(line.contains("signals can no longer be received"), "{line}");
        assert_eq!(server.exit_code(), Some(3));
    }
}
