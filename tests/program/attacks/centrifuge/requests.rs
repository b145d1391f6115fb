//! Each request of a session, what it is answered, and the errors that it may be answered.

use serde_json::{Value, json};

use super::super::peer::{FIN, Peer, TEXT, frame, upgrade};
use super::super::server::{Server, on_both_drivers};
use super::client::{Client, offsets};
use super::{SHARDS, config};

fn with_topics(test: impl Fn(&Server) + Sync) {
    let config = config();
    on_both_drivers(&[&config.flag("config"), SHARDS[0], SHARDS[1]], test);
}

/// Publishes numbers from 1 to `last`.
fn publish(client: &mut Client, channel: &str, last: u64) {
    for number in 1..=last {
        let reply = client.ask(json!({"publish": {"channel": channel, "data": number}}));
        assert_eq!(reply["publish"], json!({}), "{reply}");
    }
}

#[test]
fn all_ways_in_lead_to_the_same_topics() {
    with_topics(|server| {
        let mut client = Client::connect(server);
        let mut raw = Peer::open(server, "/broadcast/a");
        let mut v1 = Peer::connect(server);
        v1.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
        assert_eq!(v1.answer().status, 101);
        v1.send(&frame(TEXT, br#"{"type":"subscribe","topic":"a"}"#));
        v1.frame();
        let result = client.subscribe("a", json!({}));
        assert_eq!((&result["recoverable"], &result["positioned"]), (&json!(true), &json!(true)), "{result}");
        assert!(result["epoch"].is_string(), "{result}");
        // Numbers keep their digits, objects their order.
        let data = r#"{"b": 1.50, "a": [1e3]}"#;
        client.peer.send(&frame(
            TEXT,
            format!(r#"{{"id":7,"publish":{{"channel":"a","data":{data}}}}}"#).as_bytes(),
        ));
        assert_eq!(raw.frame(), (FIN | TEXT, data.as_bytes().to_vec()));
        let event = String::from_utf8(v1.frame().1).expect("text");
        assert!(event.contains(data) && event.contains(r#""offset":1"#), "{event}");
        let pushed = loop {
            let event = String::from_utf8(client.peer.frame().1).expect("text");
            if event.contains("push") {
                break event;
            }
        };
        assert!(pushed.contains(data), "{pushed}");
        // What is not JSON is a string for clients that speak JSON.
        raw.send(&frame(TEXT, b"plain \"text\""));
        assert_eq!(client.push("a")["pub"], json!({"data": "plain \"text\"", "offset": 2}));
        raw.send(&frame(super::super::peer::BINARY, b"\xff\x00"));
        assert_eq!(client.push("a")["pub"], json!({"data": "/wA=", "offset": 3}));
    });
}

#[test]
fn requests_that_fail_are_answered_with_their_code() {
    let config = config();
    let flags = [&*config.flag("config"), "--max-subscriptions", "2", "--shards", "2"];
    on_both_drivers(&flags, |server| {
        let mut client = Client::connect(server);
        let long = "x".repeat(256);
        client.subscribe("a", json!({}));
        client.subscribe("b", json!({}));
        let deep: Value = (0..200).fold(json!(1), |inner, _| json!([inner]));
        for (request, code) in [
            (json!({"subscribe": {"channel": "a"}}), 105),
            (json!({"subscribe": {"channel": "c"}}), 106),
            (json!({"subscribe": {"channel": ""}}), 107),
            (json!({"subscribe": {"channel": long}}), 107),
            (json!({"subscribe": {"channel": "closed.a"}}), 102),
            (json!({"publish": {"channel": "closed.a", "data": 1}}), 102),
            (json!({"publish": {"channel": "", "data": 1}}), 107),
            (json!({"publish": {"channel": "a"}}), 107),
            (json!({"publish": {"channel": "latest.a", "data": 1}}), 107),
            (json!({"publish": {"channel": "a", "data": deep}}), 107),
        ] {
            assert_eq!(client.error(request.clone()), code, "{request}");
        }
        // Those in a row are bounded.
        let mut client = Client::connect(server);
        client.subscribe("a", json!({}));
        for (request, code) in [
            (json!({"presence": {"channel": "a"}}), 108),
            (json!({"presence": {"channel": "b"}}), 103),
            (json!({"presence_stats": {"channel": "a"}}), 108),
            (json!({"history": {"channel": "b", "limit": 1}}), 103),
            (json!({"history": {"channel": "a", "limit": 1, "since": {"offset": 1, "epoch": "abc"}}}), 112),
            (json!({"sub_refresh": {"channel": "a", "token": "x"}}), 108),
            (json!({"rpc": {"method": "x", "data": 1}}), 108),
            (json!({}), 104),
        ] {
            assert_eq!(client.error(request.clone()), code, "{request}");
        }
        // There is nobody to take a message, and no reply to it.
        client.send(&json!({"send": {"data": 1}}));
        assert_eq!(client.ask(json!({"ping": {}}))["ping"], json!({}));
    });
}

#[test]
fn after_unsubscribe_nothing_of_the_channel_follows() {
    with_topics(|server| {
        let mut client = Client::connect(server);
        client.subscribe("a", json!({}));
        for _ in 0..2 {
            assert_eq!(client.ask(json!({"unsubscribe": {"channel": "a"}}))["unsubscribe"], json!({}));
        }
        server.post("/topics/a", b"unheard").expect("an answer");
        let id = client.request(json!({"ping": {}}));
        assert_eq!(client.event(), json!({"id": id, "ping": {}}));
        let result = client.subscribe("a", json!({}));
        assert_eq!(result["offset"], 1);
    });
}

#[test]
fn requests_about_one_channel_are_answered_in_their_order() {
    with_topics(|server| {
        let mut client = Client::connect(server);
        let commands = |client: &mut Client, channel: &str, subscribe: &Value| {
            let [subscribe, unsubscribe] =
                [json!({"subscribe": subscribe}), json!({"unsubscribe": {"channel": channel}})];
            let all = [&subscribe, &unsubscribe, &subscribe, &unsubscribe, &subscribe];
            let line = |(command, id): (&Value, u64)| {
                let mut command = command.clone();
                command["id"] = id.into();
                command.to_string()
            };
            let lines: Vec<String> = all.into_iter().zip(90..).map(line).collect();
            client.peer.send(&frame(TEXT, lines.join("\n").as_bytes()));
            [0; 5].map(|_| {
                loop {
                    let event = client.event();
                    if event["id"].as_u64() >= Some(90) {
                        break event;
                    }
                }
            })
        };
        // Some of the channels belong to the other shard.
        for number in 0..20 {
            let channel = format!("long.turn{number}");
            let replies = commands(&mut client, &channel, &json!({"channel": channel}));
            assert_eq!(
                replies.each_ref().map(|reply| reply["id"].as_u64()),
                [90, 91, 92, 93, 94].map(Some),
                "{replies:?}"
            );
            assert!(replies.iter().all(|reply| reply.get("error").is_none()), "{replies:?}");
            for _ in 0..3 {
                server.post(&format!("/topics/{channel}"), b"1").expect("an answer");
            }
            assert_eq!([0; 3].map(|_| client.push(&channel)["pub"]["offset"].as_u64()), [1, 2, 3].map(Some));
            // With a page of history from there.
            let mut other = Client::connect(server);
            let epoch = &replies[4]["subscribe"]["epoch"];
            let recover = json!({"channel": channel, "recover": true, "epoch": epoch, "offset": 1});
            let replies = commands(&mut other, &channel, &recover);
            for reply in [&replies[0], &replies[2], &replies[4]] {
                assert_eq!(offsets(&reply["subscribe"]["publications"]), [2, 3], "{replies:?}");
            }
        }
    });
}

#[test]
fn history_is_read_forward_and_in_reverse() {
    with_topics(|server| {
        let mut client = Client::connect(server);
        let epoch = client.subscribe("long.a", json!({}))["epoch"].clone();
        publish(&mut client, "long.a", 10);
        for (mut request, expected) in [
            (json!({"limit": 0}), vec![]),
            (json!({"limit": -1}), (1..=10).collect()),
            (json!({"limit": 3}), vec![1, 2, 3]),
            (json!({"limit": 3, "reverse": true}), vec![10, 9, 8]),
            (json!({"limit": 3, "since": {"offset": 4, "epoch": epoch}}), vec![5, 6, 7]),
            (json!({"limit": 3, "since": {"offset": 4}}), vec![5, 6, 7]),
            (json!({"limit": 3, "since": {"offset": 4, "epoch": epoch}, "reverse": true}), vec![3, 2, 1]),
            (json!({"limit": 2, "since": {"offset": 9}, "reverse": true}), vec![8, 7]),
            (json!({"limit": 3, "since": {"offset": 9}}), vec![10]),
            (json!({"limit": 3, "since": {"offset": 10}}), vec![]),
        ] {
            request["channel"] = "long.a".into();
            let reply = client.ask(json!({"history": request}));
            let history = &reply["history"];
            assert_eq!((&history["epoch"], &history["offset"]), (&epoch, &json!(10)), "{request} {reply}");
            assert_eq!(offsets(&history["publications"]), expected, "{request}");
            for publication in history["publications"].as_array().into_iter().flatten() {
                assert_eq!(publication["data"], publication["offset"], "{request}");
            }
        }
        // What is no longer kept is not there, and what may not be read neither.
        client.subscribe("short.a", json!({}));
        publish(&mut client, "short.a", 5);
        let reply = client.ask(json!({"history": {"channel": "short.a", "limit": 9}}));
        assert_eq!(offsets(&reply["history"]["publications"]), [4, 5]);
        client.subscribe("secret.a", json!({}));
        assert_eq!(client.error(json!({"history": {"channel": "secret.a", "limit": 9}})), 103);
    });
}

#[test]
fn long_histories_are_answered_in_full_up_to_a_bound() {
    with_topics(|server| {
        let mut client = Client::connect(server);
        client.subscribe("long.b", json!({}));
        let data = "x".repeat(10_000);
        for _ in 0..30 {
            client.ask(json!({"publish": {"channel": "long.b", "data": data}}));
        }
        let ask = |client: &mut Client, mut request: Value| {
            request["channel"] = "long.b".into();
            client.ask(json!({"history": request}))
        };
        let reply = ask(&mut client, json!({"limit": 10, "reverse": true}));
        assert_eq!(offsets(&reply["history"]["publications"]), (21..=30).rev().collect::<Vec<u64>>());
        let reply = ask(&mut client, json!({"limit": -1}));
        let first = offsets(&reply["history"]["publications"]);
        assert!(first.len() >= 13 && first.len() < 30, "{} publications", first.len());
        let reply = ask(&mut client, json!({"limit": -1, "since": {"offset": first.len()}}));
        let more = offsets(&reply["history"]["publications"]);
        assert_eq!(more[0], first.len() as u64 + 1);
        let reply = ask(&mut client, json!({"limit": -1, "reverse": true}));
        assert_eq!(reply["error"]["code"], 106, "the latest would be missing");
    });
}

#[test]
fn who_is_there_is_told_in_full_and_as_it_changes() {
    with_topics(|server| {
        let mut first = Client::connect(server);
        first.subscribe("who.a", json!({"join_leave": true}));
        let mut second = Client::open(server);
        let id = second.ask(json!({"connect": {}}))["connect"]["client"].clone();
        second.subscribe("who.a", json!({}));
        let join = loop {
            let push = first.push("who.a");
            if push["join"]["info"]["client"] == id {
                break push;
            }
        };
        assert!(join["join"]["info"]["user"].is_string(), "JSON clients need it: {join}");
        let reply = second.ask(json!({"presence": {"channel": "who.a"}}));
        let present = reply["presence"]["presence"].as_object().expect("clients");
        assert_eq!(present.len(), 2, "{reply}");
        assert_eq!(present[id.as_str().expect("a name")]["client"], id);
        let reply = second.ask(json!({"presence_stats": {"channel": "who.a"}}));
        assert_eq!(reply["presence_stats"], json!({"num_clients": 2, "num_users": 1}));
        drop(second);
        let leave = first.push("who.a");
        assert_eq!(leave["leave"]["info"]["client"], id, "{leave}");
    });
}

#[test]
fn requests_for_the_page_that_are_no_upgrades_are_told_so() {
    on_both_drivers(&[], |server| {
        assert!(server.get_data(super::PATH).starts_with("HTTP/1.1 426 "), "an upgrade is required");
    });
}
