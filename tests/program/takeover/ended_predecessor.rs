//! A predecessor whose process ends before it has handed anything over: the successor, which may have the listening sockets, serves. One
//! that only closes the socket may serve, so the successor ends. The predecessor is another process of this test.

use std::fs;
use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Signal, getpid, kill_process};

use super::ends::metric;
use super::*;
use crate::support::alone::only;

/// Steps of a takeover as the predecessor makes them.
const STEPS: usize = 8;
/// Those after which the successor has the sockets.
const OFFERED: usize = 4;
/// Connections that the predecessor says it has.
const OPEN: u64 = 7;
const NAME: &str = "a_successor_serves_once_its_predecessor_has_ended_and_not_before";

/// What the predecessor is to do, as the environment tells its process.
const AT: &str = "ECHORING_PLAYED_AT";
const STATES: &str = "ECHORING_PLAYED_STATES";
const STEPS_MADE: &str = "ECHORING_PLAYED_STEPS";
const IS_KILLED: &str = "ECHORING_PLAYED_IS_KILLED";

/// Blocks of topics, as a real server hands them over.
fn states() -> Vec<Vec<u8>> {
    let at = Addresses::free();
    let _server = Server::start(at, &[]).expect("a server");
    for _ in 0..3 {
        assert!(publish(at, "of before").starts_with("HTTP/1.1 200 "));
    }
    let mut successor = Played::connect(at);
    successor.go(4);
    let mut states = Vec::new();
    loop {
        match successor.hear_all() {
            (STATE, body) => states.push(body),
            (kind, _) => {
                assert_eq!(kind, STATE_END);
                return states;
            }
        }
    }
}

/// In the process of the predecessor.
fn play(at: &str) {
    let variable = |name| std::env::var(name).expect("it is told");
    let (listen, admin) = at.split_once(' ').expect("two addresses");
    let steps: usize = variable(STEPS_MADE).parse().expect("a number");
    let listeners = [listen, admin].map(|address| TcpListener::bind(address).expect("free"));
    let name = unix::SocketAddr::from_abstract_name(format!("echoring/takeover/{listen}")).expect("a name");
    let meeting = UnixListener::bind_addr(&name).expect("free");
    println!("\nready");
    let mut successor = Played(meeting.accept().expect("a successor").0);
    let (asked, _taking) = [0; 2].map(|_| UnixStream::pair().expect("a pair")).into();
    let mut step = 0..steps;
    let mut next = || step.next().is_some();
    if next() {
        let mut line = String::new();
        BufReader::with_capacity(1, &successor.0).read_line(&mut line).expect("a request");
        successor.0.write_all(b"ok\n").expect("sent");
    }
    if next() {
        assert_eq!(successor.hear(), HELLO);
    }
    if next() {
        // Shards, bytes of a message, process, number, ids, seed, node, tickets, listeners, admin, grace, connections.
        let offer = [
            &2_u16.to_le_bytes()[..],
            &65_536_u64.to_le_bytes(),
            &std::process::id().to_le_bytes(),
            &[0],
            &[0; 24],
            &[7; 8],
            &[0],
            &[0; 4],
            &[1, 0, 0, 0, 1, 0, 0],
            &[1, 1, 0, 0],
            &[0],
            &OPEN.to_le_bytes(),
        ];
        successor.send(OFFER, &offer.concat());
    }
    if next() {
        let passed = listeners.iter().map(|socket| socket.as_fd()).chain([asked.0.as_fd(), asked.1.as_fd()]);
        let passed: Vec<_> = passed.collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&passed)));
        sendmsg(&successor.0, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty()).expect("sent");
    }
    if next() {
        assert_eq!(successor.hear(), BEGIN);
    }
    let states: Vec<Vec<u8>> =
        serde_json::from_str(&fs::read_to_string(variable(STATES)).expect("a file")).expect("JSON");
    if next() {
        // The first half of what belongs together.
        successor.send(STATE, &states[0]);
    }
    if next() {
        states[1..].iter().for_each(|state| successor.send(STATE, state));
        successor.send(STATE_END, &[]);
    }
    if next() {
        assert_eq!(successor.hear(), IMPORTED);
    }
    if variable(IS_KILLED) == "true" {
        kill_process(getpid(), Signal::KILL).expect("itself");
    }
    drop(successor);
    println!("\nsilent");
    // Until the test ends it.
    std::io::stdin().read_to_end(&mut Vec::new()).expect("it is told");
}

/// A process that makes these steps, and is killed then or closes the socket.
fn predecessor(at: Addresses, steps: usize, is_killed: bool, states: &PathBuf) -> Server {
    let mut process = Command::new(std::env::current_exe().expect("this program"))
        .args(only(module_path!(), NAME))
        .env(AT, format!("{} {}", at.listen, at.admin))
        .env(STEPS_MADE, steps.to_string())
        .env(IS_KILLED, is_killed.to_string())
        .env(STATES, states)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(process.stdout.as_mut().expect("piped")).lines();
    assert!(lines.any(|line| line.expect("text") == "ready"), "it waits for a successor");
    Server(process)
}

#[test]
fn a_successor_serves_once_its_predecessor_has_ended_and_not_before() {
    if let Ok(at) = std::env::var(AT) {
        return play(&at);
    }
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("states-{}.json", std::process::id()));
    fs::write(&file, serde_json::to_string(&states()).expect("JSON")).expect("written");
    for steps in 0..=STEPS {
        let driver = ["auto", "epoll"][steps % 2];
        let at = Addresses::free();
        let mut first = predecessor(at, steps, true, &file);
        let waiting = request(at);
        let mut successor = Server::start(at, &["--driver", driver, "--takeover"]).expect("a successor");
        assert_eq!(first.ended(), None, "it was killed");
        assert_eq!(pid(at), successor.0.id(), "after {steps} steps");
        let lost = if steps >= OFFERED { OPEN } else { 0 };
        if lost > 0 {
            assert!(status(waiting).ends_with("200 OK"), "whoever waited is served, after {steps} steps");
        }
        assert_eq!(
            metric(at, "echoring_predecessor_connections_cut_total"),
            Some(lost),
            "after {steps} steps"
        );
        // Its topics are new, also where some of them had been handed over.
        let (mut subscriber, answer) = subscribed(at, SUBSCRIBE);
        assert_eq!(answer["offset"], 0, "after {steps} steps: {answer}");
        assert!(publish(at, "new").starts_with("HTTP/1.1 200 "));
        assert_eq!(text_of(next(&mut subscriber).expect("no close")), "new");
        // It can be taken over itself.
        let third = Server::start(at, &["--driver", driver, "--takeover"]).expect("a third");
        assert_eq!(pid(at), third.0.id());
        program::signal(&successor.0, Signal::KILL);
        let mut said = String::new();
        successor.0.stderr.take().expect("piped").read_to_string(&mut said).expect("its log");
        let told =
            said.contains("the previous server ended before it handed over") && said.contains("open=7");
        assert_eq!(told, lost > 0, "after {steps} steps: {said}");
    }
    for steps in [2, 4, 5, 8] {
        let at = Addresses::free();
        let _first = predecessor(at, steps, false, &file);
        let Err((code, said)) = Server::start(at, &["--takeover"]) else {
            panic!("it serves beside another")
        };
        assert_eq!(code, Some(3), "after {steps} steps: {said}");
    }
    fs::remove_file(&file).expect("it is there");
}
