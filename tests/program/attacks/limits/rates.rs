//! Messages and bytes per second of a connection.

use super::*;
use crate::attacks::peer::{BINARY, TEXT, frame};

#[test]
fn a_connection_that_sends_too_much_waits_and_loses_nothing() {
    let [auto, epoll] = ["auto", "epoll"].map(|driver| ["--driver", driver]);
    let tls = [&auto[..], &tls_flags()].concat();
    at_once(&[&auto, &epoll, &tls], &["--message-rate=200"], |server| {
        let mut peer = Peer::connect_from(server, STRANGER);
        peer.upgrade("/echo");
        let started = Instant::now();
        // The first 200 are the bucket; the others take a second.
        for number in 0..400_u32 {
            peer.send(&frame(BINARY, &number.to_be_bytes()));
        }
        for number in 0..400_u32 {
            assert_eq!(peer.frame(), (0x82, number.to_be_bytes().to_vec()));
        }
        // Its next message has to wait for all of them.
        peer.send(&frame(TEXT, b"last"));
        assert_eq!(peer.frame(), (0x81, b"last".to_vec()));
        // A lower bound: a slow machine only makes it longer.
        assert!(started.elapsed().as_millis() >= 950, "{:?}", started.elapsed());
        assert!(limited(server, "messages") >= 1);
        let line = server.wait_for_log("address over a limit");
        assert!(line.contains("peer=127.0.0.7") && line.contains("limit=\"messages\""), "{line}");
        // Others do not wait.
        server.serves();
    });
}

#[test]
fn a_connection_that_sends_too_much_is_closed_where_that_is_asked_for() {
    let [auto, epoll] = ["auto", "epoll"].map(|driver| ["--driver", driver]);
    let tls = [&auto[..], &tls_flags()].concat();
    let flags = ["--byte-rate=64KiB", "--rate-action=close", "--ban-after=2"];
    at_once(&[&auto, &epoll, &tls], &flags, |server| {
        for _ in 0..2 {
            let mut peer = Peer::connect_from(server, STRANGER);
            peer.upgrade("/echo");
            for _ in 0..8 {
                let _ = peer.offer(&frame(BINARY, &[0; 16 * 1024]));
            }
            let close = loop {
                match peer.frame() {
                    (0x88, payload) => break payload,
                    (first, payload) => assert_eq!((first, payload.len()), (0x82, 16 * 1024)),
                }
            };
            assert_eq!(close, [&1008_u16.to_be_bytes()[..], b"too many bytes"].concat());
        }
        assert_eq!(limited(server, "bytes"), 2);
        server.wait_for_log("address banned");
        expect_silence(&mut Peer::connect_from(server, STRANGER));
    });
}

#[test]
fn rates_hold_for_open_connections_as_soon_as_they_change() {
    let config = TestFile::new("");
    let server = Server::start(&[&config.flag("config"), "--watch", "off"]);
    let mut peer = Peer::connect_from(&server, STRANGER);
    peer.upgrade("/echo");
    let reload = |text: &str| {
        fs::write(config.path(), text).expect("written");
        assert_eq!(server.ask_admin("POST", "/reload", &[]).0, 200);
    };
    let mut exchange = |count: usize| {
        for _ in 0..count {
            peer.send(&frame(TEXT, b"x"));
        }
        (0..count).all(|_| peer.frame() == (0x81, b"x".to_vec()))
    };
    assert!(exchange(300));
    assert_eq!(limited(&server, "messages"), 0);
    reload("message_rate = 50\n");
    // More than a second of tokens, so that it has to wait for the last.
    for _ in 0..4 {
        assert!(exchange(30));
    }
    assert!(limited(&server, "messages") >= 1);
    // A pause ends with its limit.
    reload("max_topics = 65536\n");
    let before = limited(&server, "messages");
    assert!(exchange(300));
    assert_eq!(limited(&server, "messages"), before);
    reload("byte_rate = 64\nrate_action = \"close\"\n");
    peer.send(&frame(TEXT, &[b'x'; 100]));
    let close = loop {
        match peer.frame() {
            (0x88, payload) => break payload,
            (first, payload) => assert_eq!((first, payload.len()), (0x81, 100)),
        }
    };
    assert_eq!(close[..2], 1008_u16.to_be_bytes());
}

/// The events that a session gets for as many publications.
pub(super) fn publish_many(session: &mut Peer, count: usize) -> (usize, usize) {
    let request = br#"{"type": "publish", "topic": "flood", "id": 1, "data": 1}"#;
    for _ in 0..count {
        session.send(&frame(TEXT, request));
    }
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..count {
        let event: Value = serde_json::from_slice(&session.frame().1).expect("JSON");
        match event["type"].as_str() {
            Some("published") => accepted += 1,
            Some("error") => {
                assert_eq!(event["code"], "rate-limited", "{event}");
                refused += 1;
            }
            _ => panic!("{event}"),
        }
    }
    (accepted, refused)
}

pub(super) fn open_session(server: &Server, address: IpAddr, fields: &[&str]) -> Peer {
    let mut session = Peer::connect_from(server, address);
    let fields = [&["Sec-WebSocket-Protocol: echoring.v1.json"][..], fields].concat();
    session.send(&upgrade("/broadcast", &fields));
    assert_eq!(session.answer().status, 101);
    session
}

#[test]
fn publications_are_limited_per_connection() {
    on_both_drivers(&["--publish-rate=20"], |server| {
        let mut session = open_session(server, STRANGER, &[]);
        let (accepted, refused) = publish_many(&mut session, 100);
        assert!(accepted >= 20 && refused > 0, "{accepted} accepted, {refused} refused");
        assert_eq!(limited(server, "publications"), refused as u64);
        let line = server.wait_for_log("address over a limit");
        assert!(line.contains("peer=127.0.0.7") && line.contains("limit=\"publications\""), "{line}");
        // Another connection has its own rate, and a raw one is closed.
        assert_eq!(publish_many(&mut open_session(server, STRANGER, &[]), 20), (20, 0));
        let mut raw = Peer::connect_from(server, STRANGER);
        raw.upgrade("/broadcast/flood");
        for _ in 0..100 {
            let _ = raw.offer(&frame(TEXT, b"1"));
        }
        assert_eq!(raw.frame(), (0x88, [&1008_u16.to_be_bytes()[..], b"too many publications"].concat()));
    });
}

#[test]
fn publications_to_one_topic_are_answered_in_turn_also_those_that_are_refused() {
    on_both_drivers(&["--publish-rate=20", "--shards", "2"], |server| {
        // Of several topics, some belong to the shard of the client, and some to the other.
        for topic in 0..8 {
            let mut session = open_session(server, STRANGER, &[]);
            let publish =
                |id| format!(r#"{{"type": "publish", "topic": "turn {topic}", "id": {id}, "data": 1}}"#);
            let requests: Vec<u8> = (0..60).flat_map(|id| frame(TEXT, publish(id).as_bytes())).collect();
            session.send(&requests);
            let answers = (0..60).map(|_| {
                let event: Value = serde_json::from_slice(&session.frame().1).expect("JSON");
                event["id"].as_u64().expect("an id")
            });
            let answers: Vec<u64> = answers.collect();
            assert_eq!(answers, (0..60).collect::<Vec<u64>>(), "topic {topic}");
            // It is read again.
            session.send(&frame(TEXT, br#"{"type": "unsubscribe", "topic": "none", "id": 99}"#));
            let event: Value = serde_json::from_slice(&session.frame().1).expect("JSON");
            assert_eq!((&event["code"], &event["id"]), (&"not-subscribed".into(), &99.into()));
        }
    });
}

#[test]
fn publications_are_limited_per_identity_over_all_its_connections() {
    let tokens = TestFile::new(
        "[[tokens]]\ntoken = \"token-of-alice-0123456789\"\nsubject = \"alice\"\n\
         [[tokens]]\ntoken = \"token-of-bob-0123456789\"\nsubject = \"bob\"\n",
    );
    let config = TestFile::new("[topic_defaults]\npublish = \"everybody\"\n");
    let flags =
        [tokens.flag("auth-tokens"), config.flag("config"), "--publish-rate-per-identity=20".to_owned()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--shards", "2"]).collect();
    on_both_drivers(&flags, |server| {
        let sessions = |name: &str| {
            let field = format!("Authorization: Bearer token-of-{name}-0123456789");
            [0; 4].map(|_| open_session(server, STRANGER, &[&field]))
        };
        let mut accepted = 0;
        for session in &mut sessions("alice") {
            accepted += publish_many(session, 15).0;
        }
        assert!((20..60).contains(&accepted), "{accepted} were accepted");
        assert_eq!(limited(server, "publications_per_identity"), 60 - accepted as u64);
        let [mut bob, ..] = sessions("bob");
        assert_eq!(publish_many(&mut bob, 15), (15, 0));
    });
}

/// The codes of the answers to as many requests to subscribe, each to a topic of its own; `subscribed` for those that are done.
pub(super) fn subscribe_many(session: &mut Peer, count: usize) -> Vec<String> {
    for number in 0..count {
        let request = format!(r#"{{"type": "subscribe", "topic": "many {number}", "id": {number}}}"#);
        session.send(&frame(TEXT, request.as_bytes()));
    }
    let answer = |_| {
        let event: Value = serde_json::from_slice(&session.message().1).expect("JSON");
        event["code"].as_str().or(event["type"].as_str()).expect("a name").to_owned()
    };
    (0..count).map(answer).collect()
}

#[test]
fn subscriptions_are_limited_per_connection() {
    on_both_drivers(&["--subscribe-rate=20", "--shards", "2"], |server| {
        let mut session = open_session(server, STRANGER, &[]);
        let answers = subscribe_many(&mut session, 100);
        let refused = answers.iter().filter(|answer| *answer == "rate-limited").count();
        let accepted = answers.iter().filter(|answer| *answer == "subscribed").count();
        assert!(accepted >= 20 && refused > 0 && accepted + refused == 100, "{answers:?}");
        assert_eq!(limited(server, "subscribe_rate"), refused as u64);
        // Another connection has its own rate.
        let answers = subscribe_many(&mut open_session(server, STRANGER, &[]), 20);
        assert!(answers.iter().all(|answer| answer == "subscribed"), "{answers:?}");
    });
}

#[test]
fn a_raw_subscriber_over_the_rate_of_its_identity_is_refused() {
    let tokens = TestFile::new("[[tokens]]\ntoken = \"token-of-alice-0123456789\"\nsubject = \"alice\"\n");
    let flags = [tokens.flag("auth-tokens"), "--subscribe-rate-per-identity=2".to_owned()];
    on_both_drivers(&[&flags[0], &flags[1]], |server| {
        let raw = |_| {
            let mut peer = Peer::connect_from(server, STRANGER);
            peer.send(&upgrade("/broadcast/a", &["Authorization: Bearer token-of-alice-0123456789"]));
            let answer = peer.answer();
            (answer.status, answer.field("retry-after").map(str::to_owned))
        };
        let answers: Vec<_> = (0..20).map(raw).collect();
        assert_eq!(answers[..2], [(101, None), (101, None)]);
        let refused = answers.iter().filter(|answer| **answer == (429, Some("1".to_owned()))).count();
        assert!(refused > 0, "{answers:?}");
        assert_eq!(limited(server, "subscribe_rate_per_identity"), refused as u64);
    });
}

#[test]
fn subscribing_and_unsubscribing_again_and_again_costs_others_little() {
    const ROUNDS: usize = 20;
    const PAIRS: usize = 100;
    let config = TestFile::new("subscribe_rate = 1000000\n[topic_defaults]\npresence = \"everybody\"\n");
    on_both_drivers(&[&config.flag("config")], |server| {
        let said = |verb: &str| frame(TEXT, format!(r#"{{"type": "{verb}", "topic": "room"}}"#).as_bytes());
        let event =
            |session: &mut Peer| -> Value { serde_json::from_slice(&session.message().1).expect("JSON") };
        let answer = |session: &mut Peer| loop {
            let event = event(session);
            if event["type"] != "presence" {
                break event;
            }
        };
        let [mut watcher, mut other] = [0; 2].map(|_| open_session(server, STRANGER, &[]));
        watcher.send(&said("subscribe"));
        answer(&mut watcher);
        for _ in 0..ROUNDS {
            other.send(&[said("subscribe"), said("unsubscribe")].concat().repeat(PAIRS));
            for _ in 0..2 * PAIRS {
                answer(&mut other);
            }
        }
        other.send(&said("subscribe"));
        let name = answer(&mut other)["client"].clone();
        server.post("/topics/room", b"the end").expect("an answer");
        // The notice that it has joined may come after the message. It is the last notice.
        let (mut heard, mut has_ended) = (Vec::new(), false);
        let is_there = |heard: &[Value]| {
            heard
                .last()
                .is_some_and(|last| last["event"] == "join" && last["client"] == name && last["count"] == 2)
        };
        while !has_ended || !is_there(&heard) {
            match event(&mut watcher) {
                event if event["type"] == "message" => has_ended = true,
                event => heard.push(event),
            }
        }
        assert!(heard.len() < ROUNDS * PAIRS / 5, "{} events", heard.len());
    });
}
