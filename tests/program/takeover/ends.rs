//! The end of a process that was taken over: its clock begins when its connections have moved, and an end by force is told.

use std::path::PathBuf;

use super::*;

/// Exit code of a process that its deadline has ended.
const OVERDUE: i32 = 5;
/// More than all queues in front of the shards hold.
const MESSAGES_MAX: usize = 10_000;
/// More than the buffers of a connection's two ends hold.
const LONG_BYTES: usize = 15 * 1024 * 1024;

fn log(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}

/// The moves wait for a subscriber that does not read, for longer than the whole drain lasts.
fn moves_outlast_the_drain(driver: &str) {
    let at = Addresses::free();
    let access = log(&format!("ends-{driver}"));
    let of_first = ["--driver", driver, "--drain", "1s", "--max-message", "16MiB"];
    let logged = [&of_first[..], &["--access-log", access.to_str().expect("UTF-8")]].concat();
    let mut server = Server::start(at, &logged).expect("the first");
    let (mut slow, mut echo) = (open(at, "/broadcast/t"), open(at, "/echo"));
    assert!(publish(at, &"x".repeat(LONG_BYTES)).starts_with("HTTP/1.1 200 "));
    let _successor = Server::start(at, &[&of_first[..], &["--takeover"]].concat()).expect("a successor");
    assert_eq!(server.ended(), Some(0), "it drained");
    let ends = std::fs::read_to_string(&access).expect("the access log");
    std::fs::remove_file(&access).expect("it is there");
    let stayed = ends.lines().filter(|line| line.contains("/broadcast/t")).count();
    assert_eq!(stayed, 1, "the end of the connection that stayed is told: {ends}");
    echo.send("still here".into()).expect("sent");
    assert_eq!(next(&mut echo).as_deref(), Ok("still here"));
    while slow.read().is_ok() {}
}

#[test]
fn the_clock_of_a_drain_begins_after_the_moves_on_io_uring() {
    if let Err(error) = echoring_async::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        return;
    }
    moves_outlast_the_drain("uring");
}

#[test]
fn the_clock_of_a_drain_begins_after_the_moves_on_epoll() {
    moves_outlast_the_drain("epoll");
}

/// The successor reads no mail, so that the last of it never leaves.
#[test]
fn an_end_by_force_has_its_own_exit_code_and_says_how_many_were_open() {
    let at = Addresses::free();
    let mut server = Server::start(at, &["--drain", "1s"]).expect("the first");
    let mut publisher = open(at, "/broadcast/t");
    let mut successor = Played::connect(at);
    successor.go(8);
    // Nobody orders now: what is published waits, and is the first mail later.
    let timeout = Some(Duration::from_millis(500));
    publisher.get_mut().0.set_write_timeout(timeout).expect("a timeout");
    let sent = (0..MESSAGES_MAX).take_while(|_| publisher.send("x".repeat(60_000).into()).is_ok()).count();
    assert!(sent < MESSAGES_MAX, "it is backpressured");
    successor.send(STARTED, &[]);
    assert_eq!(server.ended(), Some(OVERDUE));
    let mut said = String::new();
    server.0.stderr.take().expect("piped").read_to_string(&mut said).expect("its log");
    assert!(said.contains("the drain did not end in time") && said.contains("open="), "{said}");
}

/// The value of a metric of the server there.
pub(super) fn metric(at: Addresses, sample: &str) -> Option<u64> {
    let metrics = http(at.admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let value = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(value.parse().expect("a number"))
}

pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let given_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < given_up, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

const STAY_REFUSED: &str = r#"echoring_predecessor_connections{reason="refused"}"#;
const MOVES_REFUSED: &str = r#"echoring_connection_moves_total{result="refused"}"#;

/// The successor has room for some of the connections. The others come back once, go on, and are counted at the successor.
fn a_refused_connection_is_offered_once(driver: &str) {
    const CLIENTS: u64 = 70;
    const ROOM: u64 = 20;
    let at = Addresses::free();
    let of_first = ["--driver", driver, "--drain", "1h", "--drain-rate", "1"];
    let server = Server::start(at, &of_first).expect("the first");
    let mut clients: Vec<Socket> = (0..CLIENTS).map(|_| open(at, "/echo")).collect();
    let successor = Server::start(at, &[&of_first[..], &["--takeover", "--max-connections", "20"]].concat());
    let mut successor = successor.expect("a successor");
    wait_until("those that stay are told", || metric(at, STAY_REFUSED).is_some_and(|count| count > 0));
    let refused = metric(at, MOVES_REFUSED).expect("a metric");
    assert!((CLIENTS - ROOM..=CLIENTS).contains(&refused), "{refused} of {CLIENTS}");
    for client in &mut clients {
        client.send("still here".into()).expect("sent");
        assert_eq!(next(client).as_deref(), Ok("still here"));
    }
    // The successor knows how many are lost with a process that is killed.
    let staying = metric(at, STAY_REFUSED).expect("a metric");
    program::signal(&server.0, rustix::process::Signal::KILL);
    wait_until("its end is noticed", || metric(at, STAY_REFUSED) == Some(0));
    let cut = metric(at, "echoring_predecessor_connections_cut_total").expect("a metric");
    assert!((1..=staying).contains(&cut), "{cut} of {staying}");
    program::signal(&successor.0, rustix::process::Signal::KILL);
    let mut said = String::new();
    successor.0.stderr.take().expect("piped").read_to_string(&mut said).expect("its log");
    let words = "the previous server is lost; its clients reconnect";
    assert!(said.contains(words) && said.contains("the other process has ended"), "in words: {said}");
}

#[test]
fn a_refused_connection_is_offered_once_on_io_uring() {
    if let Err(error) = echoring_async::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        return;
    }
    a_refused_connection_is_offered_once("uring");
}

#[test]
fn a_refused_connection_is_offered_once_on_epoll() {
    a_refused_connection_is_offered_once("epoll");
}

/// A successor that ends before it takes over, such as for a wrong configuration, does not count as a failed takeover.
#[test]
fn only_takeovers_that_have_begun_count_as_failed() {
    let at = Addresses::free();
    let _server = Server::start(at, &[]).expect("a server");
    for (steps, expected) in [(0, 0), (1, 0), (2, 0), (3, 0), (5, 1), (6, 2)] {
        Played::connect(at).go(steps);
        // The next one is served when this one is over.
        assert_eq!(Played::connect(at).ask(VERSION), "ok\n");
        assert_eq!(metric(at, "echoring_takeovers_failed_total"), Some(expected), "after {steps} steps");
    }
}
