//! `GET /sse/TOPIC`: what a client is told, what it may not do, and clients that send, do not read, or leave.

use std::net::TcpStream;
use std::thread;

use serde_json::{Value, json};

use super::auth::TestFile;
use super::peer::{BINARY, Peer, TEXT, ask, frame, request, status, upgrade};
use super::server::{Server, everywhere, on_both_drivers};

const HOST: &str = "Host: server.example:9001";

/// An event: its id, its name, and its data.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    id: String,
    name: String,
    data: String,
}

impl Event {
    fn new(id: &str, name: &str, data: &str) -> Event {
        Event { id: id.to_owned(), name: name.to_owned(), data: data.to_owned() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.data).expect("JSON")
    }

    /// Epoch and offset.
    fn position(&self) -> (&str, u64) {
        let (epoch, offset) = self.id.split_once('-').expect("a position");
        (epoch, offset.parse().expect("an offset"))
    }
}

fn get(path: &str, fields: &[&str]) -> Vec<u8> {
    request(&format!("GET {path} HTTP/1.1"), &[&[HOST], fields].concat())
}

/// Asks for an event stream, and reads the head of the answer.
fn begin(mut peer: Peer, path: &str, fields: &[&str]) -> Peer {
    peer.send(&get(path, fields));
    let answer = peer.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.field("content-type"), Some("text/event-stream"));
    assert_eq!(answer.field("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(answer.field("x-accel-buffering"), Some("no"));
    assert_eq!(answer.field("content-length"), None);
    let retry = peer.line().expect("a line");
    let retry_ms: u64 = retry.strip_prefix("retry: ").and_then(|time| time.parse().ok()).expect("a time");
    assert!((2_000..5_000).contains(&retry_ms), "{retry}");
    peer
}

fn open(server: &Server, path: &str, fields: &[&str]) -> Peer {
    begin(Peer::connect(server), path, fields)
}

/// The next event as a reader makes it of its fields (WHATWG HTML, 9.2.6); `None` at the end of the stream.
fn event(peer: &mut Peer) -> Option<Event> {
    let (mut id, mut name, mut data) = (String::new(), String::new(), Vec::new());
    loop {
        let line = peer.line()?;
        if line.is_empty() {
            return Some(Event { id, name, data: data.join("\n") });
        }
        let (field, value) = line.split_once(':').expect("a field");
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match field {
            "" => {}
            "id" => id = value,
            "event" => name = value,
            "data" => data.push(value),
            "kind" => assert_eq!(value, "text", "the only kind that is told"),
            _ => panic!("the field {line}"),
        }
    }
}

fn next(peer: &mut Peer) -> Event {
    event(peer).expect("an event")
}

/// The server has ended the stream, with this code.
fn expect_end(peer: &mut Peer, code: u16) {
    let last = next(peer);
    assert_eq!(last.name, "end", "{last:?}");
    assert_eq!(last.data.split(' ').next(), Some(code.to_string().as_str()), "{last:?}");
    assert_eq!(event(peer), None);
}

fn post(server: &Server, topic: &str, text: &str) {
    let (status, answer) = server.post(&format!("/topics/{topic}"), text.as_bytes()).expect("an answer");
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_client_that_returns_gets_what_it_missed() {
    everywhere(&["--shards", "2"], |server| {
        // On one of them the topic's owner is the other shard.
        for topic in ["a", "b", "c"] {
            let path = format!("/sse/{topic}");
            let mut peer = open(server, &path, &[]);
            let subscribed = next(&mut peer);
            assert_eq!(subscribed.name, "subscribed");
            let (epoch, offset) = subscribed.position();
            assert_eq!(offset, 0);
            assert_eq!(
                subscribed.json(),
                json!({"type": "subscribed", "topic": topic, "epoch": epoch, "offset": 0})
            );
            let message = |offset: u64, data: &str| Event::new(&format!("{epoch}-{offset}"), "", data);
            for text in ["one", "two\nlines", "three"] {
                post(server, topic, text);
            }
            assert_eq!(next(&mut peer), message(1, "one"));
            assert_eq!(next(&mut peer), message(2, "two\nlines"));
            drop(peer);
            post(server, topic, "four");
            // The field of a browser, and the parameter of a client that can set none; the field is newer.
            for (path, fields) in [
                (path.clone(), vec![format!("Last-Event-ID: {epoch}-2")]),
                (format!("{path}?last_event_id={epoch}-2"), vec![]),
                (format!("{path}?last_event_id={epoch}-1"), vec![format!("Last-Event-ID: {epoch}-2")]),
            ] {
                let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
                let mut peer = open(server, &path, &fields);
                let subscribed = next(&mut peer);
                assert_eq!((&*subscribed.name, subscribed.position()), ("subscribed", (epoch, 2)));
                assert_eq!(subscribed.json()["recovered"], true);
                assert_eq!(next(&mut peer), message(3, "three"));
                assert_eq!(next(&mut peer), message(4, "four"));
            }
            // It has everything.
            let mut peer = open(server, &path, &[&format!("Last-Event-ID: {epoch}-4")]);
            assert_eq!(next(&mut peer).json()["recovered"], true);
            // Nobody knows what came after these.
            for id in ["1-4", &format!("{epoch}-5"), "nonsense", "-"] {
                let mut peer = open(server, &path, &[&format!("Last-Event-ID: {id}")]);
                let reset = next(&mut peer);
                assert_eq!((&*reset.name, reset.position()), ("reset", (epoch, 4)), "{id}");
                assert_eq!(reset.json()["recovered"], false);
            }
        }
        server.wait_for_nobody();
    });
}

#[test]
fn a_gap_in_the_history_is_told_before_the_next_message() {
    let config = TestFile::new("[topic_defaults]\nhistory_messages = 2\n");
    on_both_drivers(&[&config.flag("config"), "--shards", "2"], |server| {
        let mut peer = open(server, "/sse/t", &[]);
        let subscribed = next(&mut peer);
        let (epoch, _) = subscribed.position();
        (1..=5).for_each(|number| post(server, "t", &number.to_string()));
        let mut late = open(server, "/sse/t", &[&format!("Last-Event-ID: {epoch}-1")]);
        let subscribed = next(&mut late);
        assert_eq!((&*subscribed.name, subscribed.position()), ("subscribed", (epoch, 1)));
        assert_eq!(subscribed.json()["recovered"], false);
        let gap = next(&mut late);
        assert_eq!((&*gap.name, gap.position()), ("gap", (epoch, 3)));
        assert_eq!(gap.json(), json!({"type": "gap", "topic": "t", "from": 2, "to": 3, "reason": "history"}));
        assert_eq!(next(&mut late), Event::new(&format!("{epoch}-4"), "", "4"));
        assert_eq!(next(&mut late), Event::new(&format!("{epoch}-5"), "", "5"));
    });
}

#[test]
fn each_kind_of_message_has_its_event() {
    let config = TestFile::new("[[topics]]\npattern = \"prices\"\nslow = \"conflate\"\n");
    on_both_drivers(&[&config.flag("config"), "--shards", "2"], |server| {
        let mut peer = open(server, "/sse/t", &[]);
        let epoch = next(&mut peer).position().0.to_owned();
        let mut raw = Peer::open(server, "/broadcast/t");
        raw.send(&frame(TEXT, "grün\r\nund blau".as_bytes()));
        raw.send(&frame(BINARY, b"\0\xff"));
        let mut session = Peer::connect(server);
        session.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
        assert_eq!(session.answer().status, 101);
        let publish = |session: &mut Peer, mut message: Value| {
            message["type"] = "publish".into();
            message["id"] = 1.into();
            session.send(&frame(TEXT, message.to_string().as_bytes()));
            let (_, answer) = session.frame();
            assert!(answer.starts_with(b"{\"type\":\"published\""), "{}", answer.escape_ascii());
        };
        assert_eq!(next(&mut peer), Event::new(&format!("{epoch}-1"), "", "grün\nund blau"));
        assert_eq!(next(&mut peer), Event::new(&format!("{epoch}-2"), "bytes", "AP8="));
        publish(&mut session, json!({"topic": "t", "data": {"bid": 1}}));
        publish(&mut session, json!({"topic": "t", "key": "EUR", "text": "one\ntwo"}));
        assert_eq!(next(&mut peer), Event::new(&format!("{epoch}-3"), "", "{\"bid\":1}"));
        let keyed = next(&mut peer);
        assert_eq!((&*keyed.name, keyed.position()), ("keyed", (&*epoch, 4)));
        let expected =
            json!({"type": "message", "topic": "t", "offset": 4, "key": "EUR", "text": "one\ntwo"});
        assert_eq!(keyed.json(), expected);
        // A new subscriber of a topic that conflates gets the latest message of each key.
        for (key, bid) in [("EUR", 1), ("USD", 2), ("EUR", 3)] {
            publish(&mut session, json!({"topic": "prices", "key": key, "data": bid}));
        }
        let mut peer = open(server, "/sse/prices", &[]);
        assert_eq!(next(&mut peer).json()["snapshot"], 3);
        for (offset, key, skipped, bid) in [(2, "USD", 1, 2), (3, "EUR", 0, 3)] {
            let message = next(&mut peer);
            assert_eq!((&*message.name, message.position().1), ("keyed", offset));
            let message = message.json();
            assert_eq!((&message["key"], &message["data"]), (&json!(key), &json!(bid)));
            assert_eq!(message["skipped"].as_u64().unwrap_or_default(), skipped);
            assert_eq!(message["snapshot"], true);
        }
    });
}

#[test]
fn requests_that_are_none_for_a_stream_are_refused() {
    on_both_drivers(&["--allow-origin", "https://app.example"], |server| {
        for method in ["POST", "PUT", "DELETE"] {
            let answer = ask(server, &request(&format!("{method} /sse/t HTTP/1.1"), &[HOST]));
            assert_eq!((answer.status, answer.field("allow")), (405, Some("GET, OPTIONS")), "{method}");
        }
        let mut head = Peer::connect(server);
        head.send(&request("HEAD /sse/t HTTP/1.1", &[HOST]));
        let answer = head.answer();
        assert_eq!((answer.status, answer.field("allow"), answer.body.len()), (405, Some("GET, OPTIONS"), 0));
        head.expect_end();
        for path in ["/sse/", "/sse/a/b", "/sse/%00", "/sse/%ff"] {
            assert_eq!(status(server, &get(path, &[])), 400, "{path}");
        }
        assert_eq!(status(server, &get("/sse", &[])), 404);
        assert_eq!(status(server, &upgrade("/sse/t", &[])), 404);
        assert_eq!(status(server, &request("GET /sse/t HTTP/2.0", &[HOST])), 505);
        for origin in ["https://b.example", "null"] {
            assert_eq!(status(server, &get("/sse/t", &[&format!("Origin: {origin}")])), 403, "{origin}");
        }
        // A page that sends a token in a header field asks first.
        let allowed = "Origin: https://app.example";
        let answer = ask(server, &request("OPTIONS /sse/t HTTP/1.1", &[HOST, allowed]));
        assert_eq!((answer.status, answer.field("access-control-allow-methods")), (200, Some("GET")));
        assert_eq!(answer.field("access-control-allow-headers"), Some("authorization, content-type"));
        assert_eq!(answer.field("access-control-allow-origin"), Some("https://app.example"));
        let refused = ask(server, &request("OPTIONS /sse/t HTTP/1.1", &[HOST, "Origin: https://b.example"]));
        assert_eq!(refused.status, 403);
        // It may know why it gets no stream.
        let refused = ask(server, &get("/sse/a/b", &[allowed]));
        assert_eq!(
            (refused.status, refused.field("access-control-allow-origin")),
            (400, Some("https://app.example"))
        );
        let mut peer = Peer::connect(server);
        peer.send(&get("/sse/t", &[allowed]));
        let answer = peer.answer();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("access-control-allow-origin"), Some("https://app.example"));
        assert_eq!(answer.field("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.field("vary"), Some("Origin"));
    });
}

#[test]
fn a_client_that_sends_is_told_that_it_may_not() {
    everywhere(&[], |server| {
        let mut quiet = open(server, "/sse/t", &[]);
        next(&mut quiet);
        // A request that was pipelined is not answered.
        quiet.send(&get("/sse/u", &[]));
        post(server, "t", "still here");
        assert_eq!(next(&mut quiet).data, "still here");
        let mut loud = open(server, "/sse/t", &[]);
        next(&mut loud);
        // The server may close before it has got all of it.
        while loud.offer(&[b'x'; 16 * 1024]).is_ok() {}
        let stats = server.wait_until("closed", |stats| stats["closes"]["1008"] == 1);
        assert_eq!(stats["causes"]["offence"], 1, "{stats}");
        let mut told = open(server, "/sse/t", &[]);
        next(&mut told);
        told.send(&[b'x'; 64 * 1024 + 1]);
        expect_end(&mut told, 1008);
        drop(told);
        post(server, "t", "still here");
        assert_eq!(next(&mut quiet).data, "still here");
    });
}

#[test]
fn a_client_that_closes_its_end_has_left() {
    everywhere(&[], |server| {
        let mut peer = open(server, "/sse/t", &[]);
        next(&mut peer);
        peer.finish();
        assert_eq!(event(&mut peer), None);
        drop(peer);
        server.wait_for_nobody();
        let stats = server.stats();
        assert_eq!((&stats["closes"]["1005"], &stats["causes"]["peer"]), (&json!(1), &json!(1)), "{stats}");
        assert_eq!(stats["subscriptions"], 0);
        // One that leaves before it is answered, and one that resets.
        drop(Peer::connect(server));
        let mut peer = open(server, "/sse/t", &[]);
        next(&mut peer);
        peer.reset();
        server.wait_for_nobody();
    });
}

#[test]
fn a_client_that_does_not_read_ends_as_a_slow_consumer_and_the_others_do_not() {
    on_both_drivers(&["--queue-bytes", "64KiB"], |server| {
        let mut slow = begin(Peer::connect_narrow(server, 4 * 1024), "/sse/t", &[]);
        let mut quick = open(server, "/sse/t", &[]);
        next(&mut quick);
        let text = "x".repeat(32 * 1024);
        let mut count = 0;
        loop {
            post(server, "t", &text);
            count += 1;
            assert_eq!(next(&mut quick).data.len(), text.len());
            if server.stats()["deliveries"]["dropped"]["disconnect"] != 0 {
                break;
            }
            assert!(count < 1_000, "never slow");
        }
        // It reads what the kernel had for it, and then the reason. Every message is whole.
        assert_eq!(next(&mut slow).name, "subscribed");
        let mut reached = 0;
        let last = loop {
            let event = next(&mut slow);
            if event.name == "end" {
                break event;
            }
            reached += 1;
            assert_eq!((event.position().1, event.data.len()), (reached, text.len()));
        };
        assert_eq!(last.data, "4008 slow consumer");
        assert_eq!(event(&mut slow), None);
        drop(slow);
        server.wait_until("closed", |stats| stats["closes"]["4008"] == 1);
        let deliveries = server.stats()["deliveries"].clone();
        let [offered, sent] = ["offered", "sent"].map(|name| deliveries[name].as_u64().expect("a figure"));
        // The last message was half sent when the stream ended.
        assert!(offered == 2 * count && count + reached - sent <= 1, "{count} {reached} {deliveries}");
    });
}

#[test]
fn a_topic_that_drops_the_oldest_tells_the_gap() {
    let config = TestFile::new("[topic_defaults]\nslow = \"drop-oldest\"\nlag_bytes = \"64KiB\"\n");
    on_both_drivers(&[&config.flag("config")], |server| {
        let mut slow = begin(Peer::connect_narrow(server, 4 * 1024), "/sse/t", &[]);
        let subscribed = next(&mut slow);
        let (epoch, _) = subscribed.position();
        let text = "x".repeat(16 * 1024);
        (0..600).for_each(|_| post(server, "t", &text));
        let (mut reached, mut gaps) = (0, 0);
        while reached < 600 {
            let event = next(&mut slow);
            let (own, offset) = event.position();
            assert_eq!(own, epoch);
            if event.name == "gap" {
                let gap = event.json();
                assert_eq!((&gap["from"], &gap["to"]), (&json!(reached + 1), &json!(offset)), "{gap}");
                assert_eq!(gap["reason"], "slow");
                gaps += 1;
            } else {
                assert_eq!((offset, event.data.len()), (reached + 1, text.len()));
            }
            reached = offset;
        }
        assert!(gaps > 0, "it kept up");
    });
}

#[test]
fn a_send_without_progress_ends_the_stream() {
    on_both_drivers(&["--send-timeout", "1s", "--queue-bytes", "4MiB"], |server| {
        let _stuck = begin(Peer::connect_narrow(server, 4 * 1024), "/sse/t", &[]);
        let text = "x".repeat(60 * 1024);
        (0..50).for_each(|_| post(server, "t", &text));
        server.wait_until("the send is given up", |stats| stats["causes"]["send-timeout"] == 1);
        server.wait_for_nobody();
    });
}

#[test]
fn a_drain_ends_streams_after_everything_was_sent() {
    for driver in ["auto", "epoll"] {
        let server = Server::start(&["--driver", driver, "--shards", "2"]);
        let mut streams: Vec<Peer> = (0..4).map(|_| open(&server, "/sse/t", &[])).collect();
        streams.iter_mut().for_each(|peer| assert_eq!(next(peer).name, "subscribed"));
        let published = thread::scope(|scope| {
            let publisher = scope.spawn(|| {
                let mut published = 0;
                while let Some((200, _)) = server.post("/topics/t", b"m") {
                    published += 1;
                }
                published
            });
            server.wait_until("busy", |stats| {
                stats["deliveries"]["sent"].as_u64().is_some_and(|sent| sent > 100)
            });
            server.terminate();
            publisher.join().expect("no panic")
        });
        for mut peer in streams {
            let mut reached = 0;
            loop {
                let event = next(&mut peer);
                if event.name == "end" {
                    assert!(event.data.starts_with("1001 "), "{event:?}");
                    break;
                }
                reached += 1;
                assert_eq!(event.position().1, reached);
            }
            assert!(reached >= published, "{reached} of {published}");
            assert_eq!(event(&mut peer), None);
        }
        assert_eq!(server.exit_code(), Some(0));
    }
}

#[test]
fn streams_count_as_connections_and_as_a_route_of_their_own() {
    on_both_drivers(&["--max-connections", "64"], |server| {
        let mut streams: Vec<Peer> = (0..64).map(|_| open(server, "/sse/t", &[])).collect();
        streams.iter_mut().for_each(|peer| assert_eq!(next(peer).name, "subscribed"));
        let mut refused = Peer::over(TcpStream::connect(server.address).expect("connected"));
        refused.send(&get("/sse/t", &[]));
        assert_eq!(refused.answer().status, 503);
        drop(refused);
        post(server, "t", "m");
        streams.iter_mut().for_each(|peer| assert_eq!(next(peer).data, "m"));
        let (status, metrics) = server.ask_admin("GET", "/metrics", &[]);
        assert_eq!(status, 200);
        // Each was told that it is subscribed, and got the message.
        let line = "echoring_messages_total{route=\"sse\",direction=\"out\"} 128";
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
        let listed = server.get("/connections?topic=t");
        assert_eq!(listed["connections"][0]["route"], "sse", "{listed}");
        assert!(listed["connections"][0]["subprotocol"].is_null(), "{listed}");
        drop(streams);
        server.wait_for_nobody();
        assert_eq!(server.stats()["topics"], 0);
    });
}
