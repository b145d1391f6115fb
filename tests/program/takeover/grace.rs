//! A predecessor with a grace: the end of its successor gives everything back to it, and otherwise it leaves.

use rustix::process::Signal;

use super::*;

/// Long enough for every step of a test.
const LONG: &str = "1h";

fn start(at: Addresses, driver: &str, grace: &str, more: &[&str]) -> Result<Server, (Option<i32>, String)> {
    let flags = ["--driver", driver, "--drain", "1s", "--takeover-grace", grace];
    Server::start(at, &[&flags[..], more].concat())
}

fn json(text: Result<String, u16>) -> Value {
    serde_json::from_str(&text.expect("no Close")).expect("JSON")
}

/// Texts of a topic's messages, up to one that is expected.
fn until(socket: &mut Socket, last: &str) -> Vec<Value> {
    let mut heard = Vec::new();
    loop {
        let event = json(next(socket));
        let is_last = event["text"] == last;
        heard.push(event);
        if is_last {
            return heard;
        }
    }
}

/// A request for `t` from a position.
fn again_from(epoch: &Value, offset: u64) -> String {
    let position = serde_json::json!({"epoch": epoch, "offset": offset});
    serde_json::json!({"type": "subscribe", "id": 2, "topic": "t", "position": position}).to_string()
}

/// Subscribes again behind the position of an event, and returns the answer.
fn again(socket: &mut Socket, event: &Value) -> Value {
    let request = again_from(&event["epoch"], event["offset"].as_u64().expect("an offset"));
    socket.send(request.into()).expect("sent");
    json(next(socket))
}

fn given_back(driver: &str) {
    let at = Addresses::free();
    let first = start(at, driver, LONG, &[]).expect("the first");
    let (mut session, begun) = subscribed(at, SUBSCRIBE);
    let mut raw = open(at, "/broadcast/t");
    let mut echo = open(at, "/echo");
    assert!(publish(at, "before").starts_with("HTTP/1.1 200 "));
    until(&mut session, "before");
    assert_eq!(next(&mut raw).as_deref(), Ok("before"));
    for round in 0..2 {
        let mut successor = start(at, driver, LONG, &["--takeover"]).expect("a successor");
        let mut later = open(at, "/broadcast/t");
        // It orders, also for the clients of the first.
        assert!(publish(at, "during").starts_with("HTTP/1.1 200 "));
        until(&mut session, "during");
        for socket in [&mut raw, &mut later] {
            assert_eq!(next(socket).as_deref(), Ok("during"), "{round}");
        }
        program::signal(&successor.0, Signal::KILL);
        assert_eq!(successor.ended(), None);
        drop(later);
        // Nobody is refused meanwhile: the sockets are those of the first.
        echo.send("still here".into()).expect("sent");
        assert_eq!(next(&mut echo).as_deref(), Ok("still here"));
        assert_eq!(next(&mut raw), Err(1012));
        let moved = json(next(&mut session));
        assert_eq!((&moved["type"], &moved["reason"]), (&"unsubscribed".into(), &"moved".into()), "{moved}");
        let answer = again(&mut session, &moved);
        assert_eq!(
            (&answer["type"], &answer["recovered"]),
            (&"subscribed".into(), &false.into()),
            "{answer}"
        );
        assert_ne!(answer["epoch"], begun["epoch"], "what the other ordered is gone");
        raw = open(at, "/broadcast/t");
        assert!(publish(at, "after").starts_with("HTTP/1.1 200 "));
        until(&mut session, "after");
        let request = again_from(&answer["epoch"], 0);
        let heard = until(&mut subscribed(at, &request).0, "after");
        assert!(heard.iter().any(|event| event["text"] == "before"), "the history of before: {heard:?}");
        assert_eq!(next(&mut raw).as_deref(), Ok("after"));
    }
    drop(first);
}

#[test]
fn a_successor_that_is_killed_within_the_grace_gives_everything_back_on_io_uring() {
    if let Err(error) = echoring_async::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        return;
    }
    given_back("uring");
}

#[test]
fn a_successor_that_is_killed_within_the_grace_gives_everything_back_on_epoll() {
    given_back("epoll");
}

/// Afterwards it leaves: its connections move.
#[test]
fn when_the_grace_is_over_the_predecessor_leaves() {
    let at = Addresses::free();
    let mut first = start(at, "auto", "100ms", &[]).expect("the first");
    let mut echo = open(at, "/echo");
    let (mut session, begun) = subscribed(at, SUBSCRIBE);
    let _successor = start(at, "auto", "100ms", &["--takeover"]).expect("a successor");
    assert_eq!(first.ended(), Some(0));
    assert!(publish(at, "after").starts_with("HTTP/1.1 200 "));
    if next(&mut session).map(|text| text.contains("after")) != Ok(true) {
        // Where connections cannot move.
        (session, _) = subscribed(at, SUBSCRIBE);
        let answer = again(&mut session, &begun);
        assert_eq!(answer["epoch"], begun["epoch"], "{answer}");
        return;
    }
    echo.send("still here".into()).expect("sent");
    assert_eq!(next(&mut echo).as_deref(), Ok("still here"));
}

/// A predecessor that is told to stop does not serve again.
#[test]
fn a_predecessor_that_stops_within_its_grace_leaves_the_place_to_its_successor() {
    let at = Addresses::free();
    let mut first = start(at, "auto", LONG, &[]).expect("the first");
    let mut echo = open(at, "/echo");
    let successor = start(at, "auto", LONG, &["--takeover"]).expect("a successor");
    program::signal(&first.0, Signal::TERM);
    assert_eq!(next(&mut echo), Err(1001));
    drop(echo);
    assert_eq!(first.ended(), Some(0));
    let mut echo = open(at, "/echo");
    echo.send("here".into()).expect("sent");
    assert_eq!(next(&mut echo).as_deref(), Ok("here"));
    drop(successor);
}
