//! Others at the socket where a server waits for its successor: any process of the machine may connect there. They are closed without a
//! word, and keep no successor out.

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Uid;

use super::*;

/// Connections that each of them makes before the successor comes.
const ENOUGH: usize = 200;
/// Connections that one of them keeps open.
const KEPT: usize = 100;

/// A stranger's connection.
fn connect(at: Addresses) -> std::io::Result<UnixStream> {
    let name = format!("echoring/takeover/{}", at.listen);
    UnixStream::connect_addr(&unix::SocketAddr::from_abstract_name(name).expect("a name"))
}

/// What a stranger does with a connection; those that it keeps stay open.
type Conduct = fn(UnixStream, &mut Vec<UnixStream>);

const CONDUCTS: [Conduct; 4] = [
    |stream, _| drop(stream),
    |stream, kept| kept.push(stream),
    |mut stream, kept| {
        // It may be closed before.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        kept.push(stream);
    },
    |mut stream, _| drop(stream.write_all(b"echoring takeover 7\n")),
];

/// Strangers of these users, each of whom goes on in one way, again and again, while `test` runs.
fn among_strangers(at: Addresses, users: &[Option<u32>], test: impl FnOnce()) {
    let (is_over, counts) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    thread::scope(|scope| {
        for user in users.iter().copied() {
            for conduct in CONDUCTS {
                scope.spawn(move || {
                    if let Some(user) = user {
                        let user = Uid::from_raw(user);
                        // Of this thread only.
                        rustix::thread::set_thread_res_uid(user, user, user).expect("the test is root");
                    }
                    let (mut kept, mut count) = (Vec::new(), 0);
                    while !is_over.load(Ordering::Acquire) {
                        // The place moves to the successor.
                        let Ok(stream) = connect(at) else { continue };
                        conduct(stream, &mut kept);
                        count += 1;
                        if kept.len() > KEPT {
                            kept.remove(0);
                        }
                        if count == ENOUGH {
                            counts.fetch_add(1, Ordering::Release);
                        }
                    }
                });
            }
        }
        let everybody = CONDUCTS.len() * users.len();
        let given_up = Instant::now() + PATIENCE;
        while counts.load(Ordering::Acquire) < everybody && Instant::now() < given_up {
            thread::sleep(Duration::from_millis(5));
        }
        // Also when it panics.
        let over = Over(is_over);
        let are_served = counts.load(Ordering::Acquire);
        assert_eq!(are_served, everybody, "they are kept waiting");
        test();
        drop(over);
    });
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn a_successor_comes_through(users: &[Option<u32>]) {
    let at = Addresses::free();
    let flags = ["--drain", "1s"];
    let mut server = Server::start(at, &flags).expect("the first");
    let mut socket = open(at, "/broadcast/t");
    among_strangers(at, users, || {
        let metrics = http(at.admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(metrics.contains("\nechoring_takeovers_failed_total 0\n"), "no alert is raised");
        for _ in 0..2 {
            let taken = Server::start(at, &[&flags[..], &["--takeover"]].concat());
            let successor = taken.unwrap_or_else(|(code, said)| panic!("{code:?}: {said}"));
            assert_eq!(pid(at), successor.0.id());
            assert_eq!(server.ended(), Some(0));
            let mut said = String::new();
            server.0.stderr.take().expect("piped").read_to_string(&mut said).expect("its log");
            assert!(!said.contains("successor") && !said.contains("takeover"), "{said}");
            server = successor;
        }
    });
    assert!(publish(at, "still here").starts_with("HTTP/1.1 200 "));
    assert_eq!(next(&mut socket).as_deref(), Ok("still here"));
}

#[test]
fn strangers_of_the_same_user_keep_no_successor_out() {
    a_successor_comes_through(&[None]);
}

#[test]
fn strangers_of_other_users_keep_no_successor_out() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs it as root");
        return;
    }
    a_successor_comes_through(&[Some(4242), Some(65_534)]);
}

/// Somebody who is not heard reads the end of the stream and nothing else.
#[test]
fn strangers_are_told_nothing() {
    let at = Addresses::free();
    let _server = Server::start(at, &[]).expect("a server");
    let mut said = vec![&b"GET / HTTP/1.1\r\n\r\n"[..], b"\n", b"echoring", b"echoring takeovers\n"];
    let long = vec![b'a'; 300];
    said.push(&long);
    for said in said {
        let mut stranger = connect(at).expect("connected");
        stranger.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // It may be closed before all is sent.
        let _ = stranger.write_all(said);
        let _ = stranger.shutdown(Shutdown::Write);
        let mut told = Vec::new();
        // Nothing is read behind the first words.
        let end = stranger.read_to_end(&mut told);
        assert!(end.is_ok() || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
        assert_eq!(told, b"", "{}", said.escape_ascii());
    }
}
