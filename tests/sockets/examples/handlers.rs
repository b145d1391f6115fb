//! The handlers of the examples, without sockets: what clients hear, see as refusals, and are closed with.

use echoring::CloseCode;
use echoring::testing::{TestClient, TestServer};

use super::embedded_server::server;
use super::rooms::rooms;

fn a_room_server(shards: usize, seed: u64) -> TestServer {
    TestServer::with_seed(rooms(([127, 0, 0, 1], 0).into()).shards(shards), seed)
}

fn code(client: &TestClient) -> Option<CloseCode> {
    client.closed().map(|closed| closed.code)
}

#[test]
fn members_hear_their_room_in_one_order_and_no_other() {
    for seed in 0..20 {
        let server = a_room_server(3, seed);
        let ann = server.connect("/rooms/blue?as=Ann").expect("a room");
        assert_eq!(ann.take_texts(), ["Ann is here"]);
        let bob = server.connect("/rooms/blue?as=Bob").expect("a room");
        let eve = server.connect("/rooms/red?as=Eve").expect("a room");
        assert_eq!(ann.take_texts(), ["Bob is here"]);
        assert_eq!(bob.take_texts(), ["Bob is here"]);
        ann.send_text("hello");
        bob.send_text("hi");
        let heard = ann.take_texts();
        let either = [["Ann: hello", "Bob: hi"], ["Bob: hi", "Ann: hello"]];
        assert!(either.iter().any(|order| heard == *order), "seed {seed}: {heard:?}");
        assert_eq!(bob.take_texts(), heard, "seed {seed}");
        assert_eq!(eve.take_texts(), ["Eve is here"]);
    }
}

#[test]
fn a_room_is_told_who_has_left_whatever_has_ended_the_connection() {
    let ends: [fn(&TestClient); 4] = [
        |ann| ann.close(CloseCode::NORMAL, "enough"),
        TestClient::disconnect,
        |ann| assert!(ann.send_binary(b"not a text")),
        |ann| assert!(ann.send_text(&"x".repeat(4097))),
    ];
    for end in ends {
        let server = a_room_server(3, 1);
        let bob = server.connect("/rooms/blue?as=Bob").expect("a room");
        let eve = server.connect("/rooms/red?as=Eve").expect("a room");
        let ann = server.connect("/rooms/blue?as=Ann").expect("a room");
        ann.send_text("bye");
        server.run();
        end(&ann);
        let heard = bob.take_texts();
        assert_eq!(heard, ["Bob is here", "Ann is here", "Ann: bye", "Ann has left"]);
        assert_eq!(eve.take_texts(), ["Eve is here"]);
    }
}

#[test]
fn messages_from_outside_go_to_a_room() {
    let server = a_room_server(2, 0);
    let ann = server.connect("/rooms/blue?as=Ann").expect("a room");
    let published = server.handle().publish("blue", "from outside");
    assert_eq!(published.expect("accepted").offset, 2);
    assert_eq!(ann.take_texts(), ["Ann is here", "from outside"]);
    let published = server.take_published("blue");
    assert_eq!(published.last().and_then(|message| message.text()), Some("from outside"));
}

#[test]
fn a_member_says_who_it_is_and_speaks_briefly() {
    let server = a_room_server(1, 0);
    let long_name = format!("/rooms/blue?as={}", "x".repeat(33));
    for path in ["/rooms/blue", "/rooms/blue?as=", &long_name] {
        let refused = server.connect(path).expect_err(path);
        assert_eq!(refused.status(), 400, "{path}");
    }
    assert_eq!(server.connect("/rooms?as=Ann").expect_err("no room").status(), 404);
    for room in ["two%0Alines", &"x".repeat(256)] {
        let refused = server.connect(&format!("/rooms/{room}?as=Ann")).expect_err("no name of a topic");
        let reason =
            "path: \"room\": a topic's name has 1 to 255 bytes of UTF-8 without control characters\n";
        assert_eq!((refused.status(), refused.text().as_str()), (400, reason));
    }
    for (bytes, closed_with) in [(4096, None), (4097, Some(CloseCode::TOO_BIG))] {
        let ann = server.connect("/rooms/blue?as=Ann").expect("a room");
        ann.send_text(&"x".repeat(bytes));
        assert_eq!(code(&ann), closed_with, "{bytes} bytes");
    }
    let ann = server.connect("/rooms/blue?as=Ann").expect("a room");
    ann.send_binary(b"not a text");
    assert_eq!(code(&ann), Some(CloseCode::UNSUPPORTED));
}

#[test]
fn a_member_that_reads_too_slowly_is_closed_and_the_others_miss_nothing() {
    let server = a_room_server(2, 0);
    let (slow, ann) = (
        server.connect("/rooms/a?as=Slow").expect("a room"),
        server.connect("/rooms/a?as=Ann").expect("a room"),
    );
    ann.take_texts();
    slow.stall();
    let text = "x".repeat(4_000);
    for _ in 0..1_000 {
        ann.send_text(&text);
        assert_eq!(ann.take_texts().len(), 1);
    }
    slow.resume();
    assert_eq!(code(&slow), Some(CloseCode::SLOW_CONSUMER));
    assert!(server.take_failures().iter().all(|failure| !failure.is_panic));
    server.drain();
    assert_eq!(code(&ann), Some(CloseCode::GOING_AWAY));
}

#[test]
fn the_embedded_server_greets_and_shouts_beside_other_routes() {
    let server = TestServer::new(server());
    let client = server.connect("/shout/ann%20b").expect("a name");
    client.send_text("is this loud?");
    assert_eq!(client.take_texts(), ["WELCOME, ANN B", "IS THIS LOUD?"]);
    assert_eq!(server.connect(&format!("/shout/{}", "x".repeat(33))).expect_err("too long").status(), 400);
    assert_eq!(server.get("/hello").text(), "hello\n");
    let echo = server.connect("/echo").expect("the built-in route");
    echo.send_text("as it is");
    assert_eq!(echo.take_texts(), ["as it is"]);
}
