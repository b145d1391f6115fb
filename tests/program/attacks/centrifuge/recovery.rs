//! Subscriptions from a position, and what they are told if not every message is kept.

use serde_json::{Value, json};

use super::super::server::{Server, on_both_drivers};
use super::client::{Client, offsets};
use super::{SHARDS, config};

fn with_topics(test: impl Fn(&Server) + Sync) {
    let config = config();
    on_both_drivers(&[&config.flag("config"), SHARDS[0], SHARDS[1]], test);
}

fn post(server: &Server, channel: &str, count: usize) {
    for number in 0..count {
        let answer = server.post(&format!("/topics/{channel}"), format!("{number}").as_bytes());
        assert_eq!(answer.expect("an answer").0, 200);
    }
}

/// The epoch of a channel that somebody stays subscribed to.
fn epoch(server: &Server, channel: &str) -> (Client, Value) {
    let mut client = Client::connect(server);
    let epoch = client.subscribe(channel, json!({}))["epoch"].clone();
    (client, epoch)
}

#[test]
fn what_was_missed_comes_with_the_answer() {
    with_topics(|server| {
        let (_witness, epoch) = epoch(server, "a");
        post(server, "a", 5);
        let mut client = Client::connect(server);
        let result = client.subscribe("a", json!({"recover": true, "epoch": epoch, "offset": 2}));
        assert_eq!(offsets(&result["publications"]), [3, 4, 5], "{result}");
        let of = |name: &str| result[name].clone();
        assert_eq!(
            (of("recovered"), of("was_recovering"), of("offset")),
            (json!(true), json!(true), json!(5))
        );
        // What follows joins without a hole.
        post(server, "a", 1);
        assert_eq!(client.push("a")["pub"]["offset"], 6);
        // Nothing was missed.
        let mut client = Client::connect(server);
        let result = client.subscribe("a", json!({"recover": true, "epoch": epoch, "offset": 6}));
        assert_eq!((&result["recovered"], offsets(&result["publications"])), (&json!(true), vec![]));
    });
}

#[test]
fn what_is_no_longer_kept_is_not_recovered() {
    with_topics(|server| {
        let (_witness, epoch) = epoch(server, "short.a");
        post(server, "short.a", 5);
        let unknown = json!("0123");
        for (epoch, offset, expected) in
            [(&epoch, 1, vec![4, 5]), (&epoch, 3, vec![4, 5]), (&unknown, 3, vec![]), (&epoch, 99, vec![])]
        {
            let mut client = Client::connect(server);
            let asked = json!({"recover": true, "epoch": epoch, "offset": offset});
            let result = client.subscribe("short.a", asked);
            let recovered = if offset == 3 && *epoch != unknown { json!(true) } else { Value::Null };
            assert_eq!(
                (&result["recovered"], &result["was_recovering"]),
                (&recovered, &json!(true)),
                "{result}"
            );
            assert_eq!((offsets(&result["publications"]), &result["offset"]), (expected, &json!(5)));
        }
        // A client may want an error instead.
        for (asked, offset) in [(&epoch, 1), (&unknown, 3), (&epoch, 99)] {
            let mut client = Client::connect(server);
            let position = json!({"channel": "short.a", "recover": true, "epoch": asked, "offset": offset});
            let mut request = position.clone();
            request["flag"] = 2.into();
            assert_eq!(client.error(json!({"subscribe": request})), 112);
            // It is not subscribed.
            assert!(client.ask(json!({"subscribe": position}))["subscribe"].is_object());
        }
        // Without the right to read it, history is not sent, and the client is not led to believe so.
        let (_witness, epoch) = self::epoch(server, "secret.a");
        post(server, "secret.a", 2);
        let mut client = Client::connect(server);
        let result = client.subscribe("secret.a", json!({"recover": true, "epoch": epoch, "offset": 1}));
        assert_eq!((&result["recoverable"], &result["recovered"]), (&Value::Null, &Value::Null), "{result}");
        assert_eq!(offsets(&result["publications"]), Vec::<u64>::new());
    });
}

#[test]
fn a_long_replay_goes_on_behind_the_answer() {
    with_topics(|server| {
        let (mut publisher, epoch) = epoch(server, "long.a");
        let data = "x".repeat(10_000);
        for _ in 0..20 {
            publisher.ask(json!({"publish": {"channel": "long.a", "data": data}}));
        }
        let mut client = Client::connect(server);
        let result = client.subscribe("long.a", json!({"recover": true, "epoch": epoch, "offset": 0}));
        let mut heard = offsets(&result["publications"]);
        assert!(!heard.is_empty() && heard.len() < 20, "{} in the answer", heard.len());
        assert_eq!((&result["offset"], &result["recovered"]), (&json!(heard.len()), &json!(true)));
        while heard.len() < 20 {
            heard.push(client.push("long.a")["pub"]["offset"].as_u64().expect("an offset"));
        }
        assert_eq!(heard, (1..=20).collect::<Vec<u64>>());
        publisher.ask(json!({"publish": {"channel": "long.a", "data": 1}}));
        assert_eq!(client.push("long.a")["pub"], json!({"data": 1, "offset": 21}));
    });
}

#[test]
fn snapshots_come_with_the_answer_too() {
    with_topics(|server| {
        let (_witness, _) = epoch(server, "last.a");
        post(server, "last.a", 5);
        let mut client = Client::connect(server);
        let result = client.subscribe("last.a", json!({}));
        assert_eq!(
            (offsets(&result["publications"]), &result["offset"]),
            (vec![4, 5], &json!(5)),
            "{result}"
        );
        assert_eq!(result["was_recovering"], Value::Null);
    });
}
