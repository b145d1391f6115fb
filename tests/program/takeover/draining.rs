//! While a predecessor drains, its connections are seen and closed at the admin address of its successor. They are secured by TLS, so that
//! they do not move.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use tungstenite::WebSocket;

use super::ends::wait_until;
use super::patient::Patient;
use super::program::{signal, stop};
use super::{Addresses, PATIENCE, Server, certificate, connected, http, next, opened, publish};

type Socket = WebSocket<StreamOwned<ClientConnection, Patient>>;

/// The flags of a server that speaks TLS.
pub(super) fn secured<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let files = certificate::certificate();
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().expect("UTF-8"));
    [flags, &["--tls-cert", cert, "--tls-key", key]].concat()
}

fn open(at: Addresses, path: &str) -> Socket {
    let session = ClientConnection::new(certificate::trusting(), certificate::localhost()).expect("a client");
    opened(at, path, StreamOwned::new(session, connected(at)))
}

/// The status and the body of an answer of the admin address.
fn ask(at: Addresses, method: &str, path: &str) -> (u16, Value) {
    let answer = http(at.admin, &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn get(at: Addresses, path: &str) -> Value {
    let (status, body) = ask(at, "GET", path);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn delete(at: Addresses, path: &str) -> (u16, Value) {
    ask(at, "DELETE", path)
}

/// The listed connections, of one page or all pages from there on.
fn listed(at: Addresses, query: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = get(at, &format!("/connections?{query}{after}"));
        all.extend_from_slice(page["connections"].as_array().expect("a list"));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return all,
        }
    }
}

fn ids<'a>(connections: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    connections.into_iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
}

/// The ids of those of the predecessor.
fn draining(connections: &[Value]) -> BTreeSet<String> {
    ids(connections.iter().filter(|one| one["process"] == "predecessor"))
}

fn id_of(connections: &[Value], socket: &Socket) -> String {
    let own = socket.get_ref().sock.local_addr().expect("connected").to_string();
    let one = connections.iter().find(|one| one["address"] == own.as_str()).expect("it is listed");
    one["id"].as_str().expect("an id").to_owned()
}

/// Reads to the end behind a Close frame.
fn finish(socket: &mut Socket, code: u16) {
    assert_eq!(next(socket), Err(code));
    while socket.read().is_ok() {}
}

/// Waits until an answer is as expected.
fn wait_for<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let given_up = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < given_up, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn seen_and_closed(driver: &str) {
    let at = Addresses::free();
    // Nobody is closed by the drain itself.
    let flags = secured(&["--driver", driver, "--drain", "24h", "--drain-rate", "1"]);
    let mut server = Server::start(at, &flags).expect("the first");
    let mut of_before = BTreeSet::new();
    for _ in 0..2 {
        let mut raw: Vec<Socket> = (0..4).map(|_| open(at, "/broadcast/t")).collect();
        let mut echo: Vec<Socket> = (0..2).map(|_| open(at, "/echo")).collect();
        let before = listed(at, "limit=100");
        assert_eq!((before.len(), draining(&before).len()), (6, 0), "{before:?}");
        let first_page = get(at, "/connections?limit=2");
        let (own, page) = (ids(&before), first_page["next"].as_str().expect("a next page").to_owned());
        assert!(own.is_disjoint(&of_before), "{own:?} {of_before:?}");

        let successor = Server::start(at, &[&flags[..], &["--takeover"]].concat()).expect("a successor");
        let mut later: Vec<Socket> = (0..3).map(|_| open(at, "/broadcast/t")).collect();
        // All of both, each with the id that it had, on one page, on many, and ranked.
        for query in ["limit=100", "limit=1", "sort=lag", "sort=queued", "address=127.0.0.0%2F8"] {
            let all = listed(at, query);
            assert_eq!((all.len(), ids(&all).len()), (9, 9), "{query}: {all:?}");
            assert_eq!(draining(&all), own, "{query}: {all:?}");
        }
        assert_eq!(listed(at, "topic=t").len(), 7);
        // A walk that was begun before goes on.
        let rest = listed(at, &format!("after={page}"));
        let first = ids(first_page["connections"].as_array().expect("a list"));
        assert_eq!((rest.len(), &draining(&rest) | &first), (7, own.clone()), "{rest:?}");

        // One is closed by the id from before the takeover, and no other.
        let mut one = echo.remove(0);
        let id = id_of(&before, &one);
        let (status, answer) = delete(at, &format!("/connections/{id}"));
        assert_eq!((status, &answer["closed"]), (200, &1.into()), "{answer}");
        finish(&mut one, 4010);
        wait_for("it is gone", || (delete(at, &format!("/connections/{id}")).0 == 404).then_some(()));
        assert_eq!(draining(&listed(at, "")), own.iter().filter(|other| **other != id).cloned().collect());
        assert!(publish(at, "after").starts_with("HTTP/1.1 200 "));
        for socket in raw.iter_mut().chain(&mut later) {
            assert_eq!(next(socket).as_deref(), Ok("after"));
        }
        // And all that match, in both processes.
        let (status, answer) = delete(at, "/connections?topic=t");
        assert_eq!((status, &answer["closed"], &answer["next"]), (200, &7.into(), &Value::Null), "{answer}");
        for socket in raw.iter_mut().chain(&mut later) {
            finish(socket, 4010);
        }
        let left = wait_for("one is left", || Some(listed(at, "")).filter(|all| all.len() == 1));
        assert_eq!(draining(&left).len(), 1, "{left:?}");
        let mut last = echo.remove(0);
        let id = id_of(&before, &last);
        assert_eq!(delete(at, &format!("/connections/{id}")).0, 200);
        finish(&mut last, 4010);
        // With its last client, the predecessor ends.
        assert_eq!(server.ended(), Some(0));
        assert_eq!(listed(at, ""), Vec::<Value>::new());
        let (status, answer) = delete(at, &format!("/connections/{id}"));
        assert_eq!((status, &answer["error"]["code"]), (404, &"unknown-connection".into()), "{answer}");
        assert_eq!(get(at, &format!("/connections?after={page}"))["predecessor"], Value::Null);
        server = successor;
        of_before = own;
    }
}

#[test]
fn connections_of_a_draining_server_are_seen_and_closed_on_io_uring() {
    if let Err(error) = echoring_async::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        return;
    }
    seen_and_closed("uring");
}

#[test]
fn connections_of_a_draining_server_are_seen_and_closed_on_epoll() {
    seen_and_closed("epoll");
}

/// A page has the successor's own connections in any case, and says whose are missing.
#[test]
fn a_predecessor_that_stands_still_hides_only_its_own_connections() {
    let at = Addresses::free();
    let flags = secured(&["--drain", "24h"]);
    let mut server = Server::start(at, &flags).expect("the first");
    let mut socket = open(at, "/echo");
    let id = id_of(&listed(at, ""), &socket);
    let _successor = Server::start(at, &[&flags[..], &["--takeover"]].concat()).expect("a successor");
    let later = open(at, "/echo");
    stop(&server.0);
    for query in ["limit=100", "sort=queued"] {
        let page = get(at, &format!("/connections?{query}"));
        assert_eq!((&page["predecessor"], &page["next"]), (&"silent".into(), &Value::Null), "{page}");
        let own = page["connections"].as_array().expect("a list");
        assert_eq!((own.len(), draining(own).len()), (1, 0), "{page}");
        id_of(own, &later);
    }
    let (status, answer) = delete(at, &format!("/connections/{id}"));
    assert_eq!((status, &answer["error"]["code"]), (503, &"silent-predecessor".into()), "{answer}");
    signal(&server.0, Signal::CONT);
    // It has the questions that nobody waits for any more before this one.
    let mut page = Value::Null;
    wait_until("the predecessor answers again", || {
        page = get(at, "/connections");
        page["predecessor"].is_null()
    });
    let both = page["connections"].as_array().expect("a list");
    assert_eq!((both.len(), &page["predecessor"]), (2, &Value::Null), "{page}");
    assert_eq!(draining(both), BTreeSet::from([id.clone()]));
    // The request that got no answer was not carried out later.
    socket.send("still here".into()).expect("sent");
    assert_eq!(next(&mut socket).as_deref(), Ok("still here"));
    assert_eq!(delete(at, &format!("/connections/{id}")).1["closed"], 1);
    finish(&mut socket, 4010);
    assert_eq!(server.ended(), Some(0));
}
