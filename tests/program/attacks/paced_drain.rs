//! A drain over a time: connections are served until their turn, and closed one by one.

use std::thread;

use serde_json::{Value, json};

use super::peer::{CLOSE, FIN, Peer, TEXT, close, frame, upgrade};
use super::server::Server;

const GOING_AWAY: u16 = 1001;
const CLIENTS: usize = 30;

fn session(server: &Server) -> Peer {
    let mut peer = Peer::connect(server);
    peer.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
    assert_eq!(peer.answer().status, 101);
    peer
}

/// The next event, or the code of the Close frame.
fn hear(peer: &mut Peer) -> Result<Value, u16> {
    let (first, payload) = peer.frame();
    if first == FIN | CLOSE {
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code)).expect("a code");
        peer.send(&close(code, b""));
        return Err(code);
    }
    Ok(serde_json::from_slice(&payload).expect("JSON"))
}

/// The status of a plain request on the WebSocket port.
fn status(server: &Server, path: &str) -> u16 {
    let mut peer = Peer::connect(server);
    peer.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    peer.answer().status
}

/// A session that publishes, and counts what was acknowledged until it is closed.
fn publish(mut peer: Peer) -> u64 {
    let mut acknowledged = 0;
    loop {
        let request = json!({"type": "publish", "id": 1, "topic": "t", "data": 1});
        peer.send(&frame(TEXT, request.to_string().as_bytes()));
        match hear(&mut peer) {
            Ok(event) if event["type"] == "published" => acknowledged += 1,
            // The last ones are drained together, and publications are refused before that.
            Ok(event) => assert_eq!(event["code"], "draining", "{event}"),
            Err(code) => {
                assert_eq!(code, GOING_AWAY);
                return acknowledged;
            }
        }
    }
}

/// A subscriber that reads until it is closed; its messages have no gap. Returns the last offset.
fn subscribe(mut peer: Peer) -> u64 {
    let mut reached = None;
    loop {
        match hear(&mut peer) {
            Ok(event) => {
                let offset = event["offset"].as_u64().expect("an offset");
                assert!(reached.is_none_or(|reached| offset == reached + 1), "{event} behind {reached:?}");
                reached = Some(offset);
            }
            Err(code) => {
                assert_eq!(code, GOING_AWAY);
                return reached.expect("the answer to its subscription");
            }
        }
    }
}

fn drains_over_a_time(driver: &str) {
    let server = Server::start(&["--driver", driver, "--shards", "2", "--drain", "4s"]);
    assert_eq!([status(&server, "/readyz"), server.status("/readyz")], [200, 200]);
    let mut subscribers: Vec<Peer> = (0..CLIENTS).map(|_| session(&server)).collect();
    for peer in &mut subscribers {
        peer.send(&frame(TEXT, br#"{"type":"subscribe","id":1,"topic":"t"}"#));
    }
    server.wait_until("subscribed", |stats| stats["subscriptions"] == CLIENTS);
    let mut echo = Peer::open(&server, "/echo");
    let reached = thread::scope(|scope| {
        // Several: the turn of a single one may be the first of all.
        let publishers = [(); 4].map(|()| session(&server));
        let publishers = publishers.map(|peer| scope.spawn(move || publish(peer)));
        let readers: Vec<_> =
            subscribers.into_iter().map(|peer| scope.spawn(move || subscribe(peer))).collect();
        server.terminate();
        // Not ready first, and still accepting.
        while status(&server, "/readyz") == 200 {}
        assert_eq!((server.status("/readyz"), server.status("/healthz")), (503, 200));
        assert_eq!(echo.frame().0, FIN | CLOSE);
        assert!(publishers.map(|publisher| publisher.join().expect("a publisher")).iter().sum::<u64>() > 0);
        readers.into_iter().map(|reader| reader.join().expect("a subscriber")).collect::<Vec<_>>()
    });
    // Closed at the same time, all would have got the same.
    assert!(reached.iter().any(|offset| *offset != reached[0]), "{reached:?}");
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_drain_over_a_time_serves_each_connection_until_its_turn() {
    thread::scope(|scope| {
        for driver in ["auto", "epoll"] {
            scope.spawn(move || drains_over_a_time(driver));
        }
    });
}

#[test]
fn connections_that_the_rate_leaves_are_closed_together_before_the_deadline() {
    let server = Server::start(&["--drain", "2s", "--drain-rate", "1"]);
    let peers: Vec<Peer> = (0..CLIENTS).map(|_| Peer::open(&server, "/echo")).collect();
    server.terminate();
    server.wait_for_log("were closed at the drain rate");
    for mut peer in peers {
        assert_eq!(hear(&mut peer), Err(GOING_AWAY));
    }
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_a_long_drain_at_once() {
    for (time, is_lame_duck) in [("1h", true), ("10s", false)] {
        let server = Server::start(&["--drain", time, "--log", "info"]);
        let _peers: Vec<Peer> = (0..CLIENTS).map(|_| Peer::open(&server, "/echo")).collect();
        server.terminate();
        if is_lame_duck {
            // During the lame duck nothing is logged.
            while server.status("/readyz") == 200 {}
        } else {
            server.wait_for_log("draining; a second signal");
        }
        server.terminate();
        assert_eq!(server.exit_code(), Some(128 + 15), "the number of SIGTERM");
    }
}
