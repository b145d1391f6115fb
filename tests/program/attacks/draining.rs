//! The end of a server under load: its subscribers get everything that it acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;

use serde_json::{Value, json};

use super::peer::{CLOSE, FIN, Peer, TEXT, close, frame, upgrade};
use super::server::Server;

const TOPICS: [&str; 3] = ["a", "b", "c"];
const GOING_AWAY: u16 = 1001;
const SLOW_CONSUMER: u16 = 4008;
/// Messages that a publisher sends before it reads the answers.
const DEPTH: usize = 32;

/// The last known offset of each topic.
type Offsets = BTreeMap<String, u64>;

fn session(server: &Server) -> Peer {
    let mut peer = Peer::connect(server);
    peer.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
    assert_eq!(peer.answer().status, 101);
    peer
}

fn ask(peer: &mut Peer, request: &Value) {
    peer.send(&frame(TEXT, request.to_string().as_bytes()));
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

fn offset_of(notice: &Value) -> u64 {
    notice["offset"].as_u64().expect("an offset")
}

fn topic_of(notice: &Value) -> String {
    notice["topic"].as_str().expect("a topic").to_owned()
}

/// Publishes until the server closes. Returns what was acknowledged.
fn publish(mut peer: Peer) -> Offsets {
    let mut acknowledged = Offsets::new();
    let mut number = 0_u64;
    loop {
        for _ in 0..DEPTH {
            let topic = TOPICS[number as usize % TOPICS.len()];
            let data = "x".repeat(number as usize % 700);
            ask(&mut peer, &json!({"type": "publish", "id": number, "topic": topic, "data": data}));
            number += 1;
        }
        for _ in 0..DEPTH {
            match hear(&mut peer) {
                Ok(notice) if notice["type"] == "published" => {
                    let last = acknowledged.entry(topic_of(&notice)).or_default();
                    *last = offset_of(&notice).max(*last);
                }
                Ok(notice) => assert_eq!(notice["code"], "draining", "{notice}"),
                Err(code) => {
                    assert_eq!(code, GOING_AWAY);
                    return acknowledged;
                }
            }
        }
    }
}

/// Posts until there is no answer. Returns what was acknowledged.
fn post(server: &Server) -> Offsets {
    let mut acknowledged = Offsets::new();
    let mut refused = false;
    while let Some((status, body)) = server.post("/topics/a", b"posted") {
        if status == 200 {
            assert!(!refused, "a position after a refusal");
            let last = acknowledged.entry(topic_of(&body)).or_default();
            *last = offset_of(&body).max(*last);
        } else {
            assert_eq!(status, 503, "{body}");
            refused = true;
        }
    }
    acknowledged
}

/// Reads until the server closes. Returns the last offset; nothing is missing before it.
fn subscribe(mut peer: Peer) -> Offsets {
    let mut reached = Offsets::new();
    loop {
        match hear(&mut peer) {
            Ok(notice) if notice["type"] == "message" => {
                let reached = reached.get_mut(&topic_of(&notice)).expect("subscribed");
                assert_eq!(offset_of(&notice), *reached + 1, "{notice}");
                *reached += 1;
            }
            Ok(notice) => {
                assert_eq!(notice["type"], "subscribed", "{notice}");
                reached.insert(topic_of(&notice), offset_of(&notice));
            }
            Err(code) => {
                assert_eq!(code, GOING_AWAY);
                return reached;
            }
        }
    }
}

/// Messages on a raw route before 1001.
fn count(mut peer: Peer) -> u64 {
    let mut heard = 0;
    loop {
        let (first, payload) = peer.frame();
        if first == FIN | CLOSE {
            assert_eq!(payload[..2], GOING_AWAY.to_be_bytes());
            peer.send(&close(GOING_AWAY, b""));
            return heard;
        }
        heard += 1;
    }
}

fn drain_under_load(driver: &str) {
    let server = Server::start(&["--driver", driver, "--shards", "3"]);
    let mut subscribers: Vec<Peer> = (0..6).map(|_| session(&server)).collect();
    for peer in &mut subscribers {
        for topic in TOPICS {
            ask(peer, &json!({"type": "subscribe", "id": 1, "topic": topic}));
        }
    }
    let raw = [Peer::open(&server, "/broadcast/a"), Peer::open(&server, "/broadcast/a")];
    server.wait_until("subscribed", |stats| stats["subscriptions"] == 6 * 3 + 2);
    thread::scope(|scope| {
        let readers: Vec<_> =
            subscribers.into_iter().map(|peer| scope.spawn(move || subscribe(peer))).collect();
        let raw = raw.map(|peer| scope.spawn(move || count(peer)));
        let publishers: Vec<_> =
            (0..4).map(|_| session(&server)).map(|peer| scope.spawn(move || publish(peer))).collect();
        let poster = scope.spawn(|| post(&server));
        server.wait_until("busy", |stats| stats["deliveries"]["sent"].as_u64() > Some(20_000));
        server.terminate();
        let mut acknowledged = poster.join().expect("a poster");
        for publisher in publishers {
            for (topic, offset) in publisher.join().expect("a publisher") {
                let last = acknowledged.entry(topic).or_default();
                *last = offset.max(*last);
            }
        }
        for reader in readers {
            let reached = reader.join().expect("a subscriber");
            for (topic, offset) in &acknowledged {
                assert!(reached[topic] >= *offset, "1001 at {} of {offset} of {topic}", reached[topic]);
            }
        }
        for raw in raw {
            assert!(raw.join().expect("a raw subscriber") >= acknowledged["a"]);
        }
    });
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_drain_under_load_loses_nothing_that_was_acknowledged() {
    thread::scope(|scope| {
        for driver in ["auto", "epoll"] {
            scope.spawn(move || drain_under_load(driver));
        }
    });
}

/// A file with settings that have no flag.
fn settings(driver: &str) -> PathBuf {
    let name = format!("draining-{}-{driver}.toml", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Nobody is too slow before the drain ends.
    fs::write(&path, "[topic_defaults]\nlag = '60s'\nlag_bytes = '16MiB'\n").expect("written");
    path
}

/// Subscribers that do not read in time are told what they missed, once they read again.
fn drain_before_stalled(driver: &str) {
    const MESSAGES: u64 = 300;
    let settings = settings(driver);
    let path = settings.to_str().expect("a path in UTF-8");
    let server = Server::start(&["--driver", driver, "--shards", "2", "--config", path]);
    fs::remove_file(&settings).expect("it is there");
    let mut stalled = Peer::connect_narrow(&server, 4 * 1024);
    stalled.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
    assert_eq!(stalled.answer().status, 101);
    ask(&mut stalled, &json!({"type": "subscribe", "id": 1, "topic": "a"}));
    let mut raw = Peer::connect_narrow(&server, 4 * 1024);
    raw.upgrade("/broadcast/a");
    let mut reader = session(&server);
    ask(&mut reader, &json!({"type": "subscribe", "id": 1, "topic": "a"}));
    server.wait_until("subscribed", |stats| stats["subscriptions"] == 3);
    thread::scope(|scope| {
        let reader = scope.spawn(move || subscribe(reader));
        let mut publisher = session(&server);
        // More than the buffers of sockets take.
        let data = "x".repeat(10_000);
        for number in 1..=MESSAGES {
            ask(&mut publisher, &json!({"type": "publish", "id": number, "topic": "a", "data": data}));
            let notice = hear(&mut publisher).expect("acknowledged");
            assert_eq!((&notice["type"], offset_of(&notice)), (&json!("published"), number));
        }
        server.terminate();
        assert_eq!(hear(&mut publisher), Err(GOING_AWAY));
        assert_eq!(reader.join().expect("a subscriber")["a"], MESSAGES, "who reads gets everything");
        // Most of the time is over when both are told so, each by its shard.
        let mut told = 0;
        while told < 2 {
            let line = server.wait_for_log("drain timeout: closing subscribers");
            let count = line.split("subscribers=").nth(1);
            let count: Option<u64> = count.and_then(|count| count.trim().parse().ok());
            told += count.unwrap_or_else(|| panic!("{line}"));
        }
        let raw = scope.spawn(move || {
            let mut heard = 0;
            loop {
                let (first, payload) = raw.frame();
                if first == FIN | CLOSE {
                    return (heard, payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
                }
                heard += 1;
            }
        });
        let mut reached = 0;
        let mut is_told = false;
        let code = loop {
            match hear(&mut stalled) {
                Ok(notice) if notice["type"] == "message" => {
                    assert!(!is_told, "{notice}");
                    assert_eq!(offset_of(&notice), reached + 1, "{notice}");
                    reached += 1;
                }
                Ok(notice) if notice["type"] == "gap" => {
                    let (from, to) = (&notice["from"], &notice["to"]);
                    assert_eq!((from, to), (&json!(reached + 1), &json!(MESSAGES)), "{notice}");
                    assert_eq!(notice["reason"], "drain");
                    is_told = true;
                }
                Ok(notice) => assert_eq!(notice["type"], "subscribed", "{notice}"),
                Err(code) => break code,
            }
        };
        assert_eq!((code, is_told), (GOING_AWAY, true), "at {reached} of {MESSAGES}");
        let (heard, code) = raw.join().expect("a raw subscriber");
        assert_eq!(code, Some(SLOW_CONSUMER));
        assert!(heard < MESSAGES, "it has everything");
    });
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn what_a_drain_has_no_time_for_is_told_to_those_who_did_not_read() {
    thread::scope(|scope| {
        for driver in ["auto", "epoll"] {
            scope.spawn(move || drain_before_stalled(driver));
        }
    });
}
