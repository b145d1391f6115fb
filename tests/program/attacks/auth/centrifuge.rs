//! Tokens of clients that speak Centrifuge's protocol: they come with the first command, and are refreshed.

use serde_json::{Value, json};

use super::super::centrifuge::{Client, PATH};
use super::super::peer::{Peer, TEXT, frame, upgrade};
use super::super::server::{Server, on_both_drivers};
use super::{SECRET, TestFile, bearer, hs256, jwt, unix_now};

fn with_jwt(more: &[&str], test: impl Fn(&Server) + Sync) {
    let key = TestFile::new(SECRET);
    let config = TestFile::new(
        "[topic_defaults]\nsubscribe = \"claim\"\npublish = \"claim\"\npresence = \"everybody\"\n",
    );
    let flags = [key.flag("auth-jwt-key"), config.flag("config")];
    on_both_drivers(&[&[&*flags[0], &flags[1]], more].concat(), test);
}

fn claims(topic: &str) -> Value {
    json!({"subscribe": topic, "publish": topic})
}

#[test]
fn the_token_of_the_first_command_says_who_the_client_is() {
    with_jwt(&[], |server| {
        let mut client = Client::open(server);
        let token = jwt("alice", 600, claims("a"));
        // What comes with it waits for the decision.
        let lines = [
            json!({"id": 1, "connect": {"token": token}}),
            json!({"id": 2, "subscribe": {"channel": "a"}}),
            json!({"id": 3, "subscribe": {"channel": "b"}}),
        ];
        client.peer.send(&frame(TEXT, lines.map(|line| line.to_string()).join("\n").as_bytes()));
        let connect = client.event()["connect"].clone();
        assert_eq!(connect["expires"], true, "{connect}");
        // It presents a fresh token in time.
        assert!(connect["ttl"].as_u64().is_some_and(|seconds| (500..600).contains(&seconds)), "{connect}");
        assert!(client.event()["subscribe"].is_object());
        assert_eq!(client.event()["error"]["code"], 103);
        assert_eq!(client.error(json!({"publish": {"channel": "b", "data": 1}})), 103);
        let reply = client.ask(json!({"presence": {"channel": "a"}}));
        let clients = reply["presence"]["presence"].as_object().expect("clients");
        assert!(clients.values().all(|info| info["user"] == "alice") && clients.len() == 1, "{reply}");
    });
}

#[test]
fn a_token_that_is_not_good_has_its_code() {
    with_jwt(&[], |server| {
        let expired =
            hs256(&json!({"alg": "HS256"}), &json!({"sub": "alice", "exp": unix_now() - 1}), SECRET);
        let mut client = Client::open(server);
        assert_eq!(client.error(json!({"connect": {"token": expired}})), 109);
        // The same connection may try again.
        let token = jwt("alice", 600, claims("a"));
        assert!(client.ask(json!({"connect": {"token": token}}))["connect"].is_object());
        let mut client = Client::open(server);
        assert_eq!(client.error(json!({"connect": {}})), 101, "nobody without a token is let in");
        for token in ["nonsense", "a b"] {
            let mut client = Client::open(server);
            client.send(&json!({"id": 1, "connect": {"token": token}}));
            assert_eq!(client.peer.close_frame(), Some(3500), "{token}");
        }
    });
}

#[test]
fn without_a_token_the_handshake_counts_or_nobody() {
    with_jwt(&["--auth-anonymous"], |server| {
        let mut client = Client::connect(server);
        assert_eq!(client.error(json!({"subscribe": {"channel": "a"}})), 103);
        let mut peer = Peer::connect(server);
        peer.send(&upgrade(PATH, &[&bearer(&jwt("alice", 600, claims("a")))]));
        assert_eq!(peer.answer().status, 101);
        peer.send(&frame(TEXT, b"{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}"));
        for name in ["connect", "subscribe"] {
            let reply: Value = serde_json::from_slice(&peer.frame().1).expect("JSON");
            assert!(reply[name].is_object(), "{reply}");
        }
        let mut peer = Peer::connect(server);
        peer.send(&upgrade(PATH, &[&bearer("nonsense")]));
        assert_eq!(peer.answer().status, 401);
    });
}

#[test]
fn a_session_that_refreshes_its_token_outlives_the_old_one() {
    with_jwt(&[], |server| {
        let mut idle = Client::open(server);
        idle.ask(json!({"connect": {"token": jwt("alice", 3, claims("a"))}}));
        let mut client = Client::open(server);
        client.ask(json!({"connect": {"token": jwt("alice", 3, claims("a"))}}));
        client.subscribe("a", json!({}));
        let reply = client.ask(json!({"refresh": {"token": jwt("alice", 600, claims("b"))}}));
        let refresh = &reply["refresh"];
        assert_eq!((&refresh["expires"], refresh["client"].is_string()), (&json!(true), true), "{reply}");
        // It does not allow the subscription any more.
        assert_eq!(client.push("a")["unsubscribe"]["code"], 2000);
        assert_eq!(idle.peer.close_frame(), Some(3005));
        assert!(client.ask(json!({"ping": {}}))["ping"].is_object());
        client.send(&json!({"id": 90, "refresh": {"token": jwt("bob", 600, claims("a"))}}));
        assert_eq!(client.peer.close_frame(), Some(3500), "another client's");
    });
}

#[test]
fn server_side_subscriptions_are_those_of_the_latest_token() {
    with_jwt(&["--shards", "2"], |server| {
        let mut client = Client::open(server);
        let token =
            |channels: [&str; 2]| jwt("alice", 600, json!({"channels": channels, "subscribe": "own"}));
        let reply = client.ask(json!({"connect": {"token": token(["old", "kept"])}}));
        assert_eq!(reply["connect"]["subs"].as_object().map(serde_json::Map::len), Some(2), "{reply}");
        client.subscribe("own", json!({}));
        client.ask(json!({"refresh": {"token": token(["kept", "new"])}}));
        assert_eq!(client.push("old")["unsubscribe"]["code"], 2000);
        assert!(client.push("new")["subscribe"].is_object());
        for topic in ["old", "kept", "new", "own"] {
            server.post(&format!("/topics/{topic}"), b"1").expect("an answer");
        }
        let mut heard = [0; 3].map(|_| client.event()["push"]["channel"].clone());
        heard.sort_by_key(Value::to_string);
        assert_eq!(heard, ["kept", "new", "own"]);
    });
}

/// What configurations of Centrifugo say, off at first and on after a reload.
#[test]
fn tokens_without_an_expiry_keys_of_subscriptions_and_personal_topics_can_be_switched_on() {
    const OWN_SECRET: &[u8] = b"another secret of at least thirty-two bytes";
    let (key, own_key) = (TestFile::new(SECRET), TestFile::new(OWN_SECRET));
    let tables = "[topic_defaults]\nsubscribe = \"claim\"\npublish = \"operator\"\n\
                  [[topics]]\npattern = \"unknown:*\"\nsubscribe = \"nobody\"\npublish = \"nobody\"\n";
    let before = format!("[auth]\njwt_key = \"{}\"\n{tables}", key.path().display());
    let after = format!(
        "personal_topic = \"me:#\"\nallow_origin = \"https://*.app.example\"\n[auth]\njwt_key = \"{}\"\n\
         token_without_exp = true\nsubscription_jwt_key = \"{}\"\n{tables}",
        key.path().display(),
        own_key.path().display()
    );
    let lasting = hs256(&json!({"alg": "HS256"}), &json!({"sub": "alice"}), SECRET);
    let of_subscription = |secret| {
        let claims = json!({"sub": "alice", "exp": unix_now() + 600, "channel": "news"});
        json!({"subscribe": {"channel": "news", "token": hs256(&json!({"alg": "HS256"}), &claims, secret)}})
    };
    let origin_status = |server: &Server, origin: &str| {
        let mut peer = Peer::connect(server);
        peer.send(&upgrade(PATH, &[&format!("Origin: {origin}")]));
        peer.answer().status
    };
    for driver in ["auto", "epoll"] {
        let config = TestFile::new(&before);
        let server = Server::start(&["--driver", driver, &config.flag("config"), "--watch", "off"]);
        let mut client = Client::open(&server);
        client.send(&json!({"id": 1, "connect": {"token": lasting}}));
        assert_eq!(client.peer.close_frame(), Some(3500), "it has no expiry");
        let mut client = Client::open(&server);
        let reply = client.ask(json!({"connect": {"token": jwt("alice", 600, json!({}))}}));
        assert_eq!(reply["connect"]["subs"], Value::Null, "{reply}");
        assert_eq!(client.error(of_subscription(OWN_SECRET)), 103);
        assert!(client.ask(of_subscription(SECRET))["subscribe"].is_object());
        assert_eq!(client.error(json!({"subscribe": {"channel": "unknown:a"}})), 102);
        assert_eq!(client.error(json!({"publish": {"channel": "unknown:a", "data": 1}})), 102);
        assert_eq!(client.error(json!({"publish": {"channel": "news", "data": 1}})), 103);
        assert_eq!(origin_status(&server, "https://eu.app.example"), 403);

        std::fs::write(config.path(), &after).expect("written");
        let (status, body) = server.ask_admin("POST", "/reload", &[]);
        assert_eq!(status, 200, "{body}");
        // The personal topic comes with the next token of a session, and at once with that of a new one.
        client.ask(json!({"refresh": {"token": jwt("alice", 600, json!({}))}}));
        assert!(client.push("me:#alice")["subscribe"].is_object());
        let mut client = Client::open(&server);
        let reply = client.ask(json!({"connect": {"token": lasting}}));
        let connect = &reply["connect"];
        assert_eq!((&connect["expires"], &connect["ttl"]), (&Value::Null, &Value::Null), "{reply}");
        assert!(connect["subs"]["me:#alice"].is_object(), "{reply}");
        assert_eq!(client.error(of_subscription(SECRET)), 103);
        assert!(client.ask(of_subscription(OWN_SECRET))["subscribe"].is_object());
        assert_eq!(client.error(json!({"subscribe": {"channel": "me:#bob"}})), 103);
        assert_eq!(server.post("/topics/me:%23alice", b"hello").expect("an answer").0, 200);
        assert_eq!(client.push("me:#alice")["pub"]["data"], "hello");
        assert_eq!(origin_status(&server, "https://eu.app.example"), 101);
        assert_eq!(origin_status(&server, "https://app.example"), 403);
        // Keys of subscriptions open no connection.
        let mut client = Client::open(&server);
        let token = hs256(&json!({"alg": "HS256"}), &json!({"sub": "alice"}), OWN_SECRET);
        client.send(&json!({"id": 1, "connect": {"token": token}}));
        assert_eq!(client.peer.close_frame(), Some(3500));
    }
}
