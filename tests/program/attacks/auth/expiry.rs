//! Credentials that expire, and sessions that present fresh ones.

use serde_json::{Value, json};

use super::super::server::on_both_drivers;
use super::{SECRET, TestFile, hs256, jwt, open, session, unix_now};

/// Close code of a connection whose credentials have expired.
const ENDED: Option<u16> = Some(4001);

fn with_jwt(test: impl Fn(&super::super::server::Server) + Sync) {
    let key = TestFile::new(SECRET);
    let config = TestFile::new("[topic_defaults]\nsubscribe = \"claim\"\npublish = \"claim\"\n");
    let flags = [key.flag("auth-jwt-key"), config.flag("config")];
    on_both_drivers(&[&flags[0], &flags[1], "--auth-anonymous"], test);
}

fn claims(topic: &str) -> Value {
    json!({"subscribe": topic, "publish": topic})
}

#[test]
fn connections_end_when_their_tokens_expire() {
    with_jwt(|server| {
        let mut raw = open(server, "/broadcast/a", &jwt("alice", 3, claims("a")));
        let mut echo = open(server, "/echo", &jwt("alice", 3, json!({})));
        let mut client = session(server, &jwt("alice", 3, claims("a")));
        assert_eq!(client.ask(&json!({"type": "subscribe", "topic": "a"}))["type"], "subscribed");
        let notice = client.event();
        assert_eq!(notice["type"], "token_expires", "{notice}");
        assert!(notice["expires_in"].as_u64().is_some_and(|seconds| seconds <= 3), "{notice}");
        for peer in [&mut client.0, &mut raw, &mut echo] {
            assert_eq!(peer.close_frame(), ENDED);
        }
        drop((raw, echo, client));
        server.wait_for_nobody();
        assert_eq!(server.report()["auth"]["expired"], 3);
    });
}

#[test]
fn a_session_with_a_fresh_token_outlives_the_old_one() {
    with_jwt(|server| {
        let mut client = session(server, &jwt("alice", 3, claims("a")));
        client.ask(&json!({"type": "subscribe", "topic": "a"}));
        assert_eq!(client.event()["type"], "token_expires");
        let fresh = jwt("alice", 6, claims("a"));
        let event = client.ask(&json!({"type": "authenticate", "id": 5, "token": fresh}));
        assert_eq!(
            (&event["type"], &event["id"], &event["subject"]),
            (&json!("authenticated"), &json!(5), &json!("alice"))
        );
        assert!(event["expires_in"].as_u64().is_some_and(|seconds| seconds <= 6), "{event}");
        // Half of the fresh token's life is later than the end of the old one's.
        assert_eq!(client.event_of("token_expires")["type"], "token_expires");
        assert_eq!(client.0.close_frame(), ENDED);
        assert_eq!(server.report()["auth"]["refreshed"], 1);
    });
}

#[test]
fn a_session_keeps_its_token_where_the_new_one_is_not_good() {
    with_jwt(|server| {
        let mut client = session(server, &jwt("alice", 600, claims("a")));
        let expired =
            hs256(&json!({"alg": "HS256"}), &json!({"sub": "alice", "exp": unix_now() - 1}), SECRET);
        for (token, code) in [
            (jwt("bob", 600, claims("a")), "bad-token"),
            (expired, "bad-token"),
            ("nonsense".to_owned(), "bad-token"),
            ("a\nb".to_owned(), "bad-field"),
            (String::new(), "bad-field"),
            ("x".repeat(9_000), "bad-field"),
        ] {
            let event = client.ask(&json!({"type": "authenticate", "id": 1, "token": token}));
            assert_eq!((&event["type"], &event["code"]), (&json!("error"), &json!(code)), "{event}");
            assert!(token.is_empty() || !event.to_string().contains(&token), "{event}");
        }
        let event = client.ask(&json!({"type": "publish", "id": 2, "topic": "a", "data": 1}));
        assert_eq!(event["type"], "published", "{event}");
        let refused = server.report()["auth"]["refused"].clone();
        assert_eq!(
            (&refused["foreign"], &refused["expired"], &refused["invalid"]),
            (&1.into(), &1.into(), &1.into())
        );
    });
}

#[test]
fn an_anonymous_session_may_authenticate_and_gets_the_rights_of_its_token() {
    with_jwt(|server| {
        let mut client = session(server, "");
        assert_eq!(client.ask(&json!({"type": "subscribe", "topic": "a"}))["code"], "forbidden");
        let event = client.ask(&json!({"type": "authenticate", "token": jwt("alice", 600, claims("a"))}));
        assert_eq!(event["type"], "authenticated", "{event}");
        assert_eq!(client.ask(&json!({"type": "subscribe", "topic": "a"}))["type"], "subscribed");
    });
}

#[test]
fn subscriptions_end_that_a_new_token_does_not_allow() {
    with_jwt(|server| {
        let mut client = session(server, &jwt("alice", 600, claims("*")));
        for topic in ["a", "b"] {
            let event = client.ask(&json!({"type": "subscribe", "topic": topic}));
            assert_eq!(event["type"], "subscribed", "{event}");
        }
        let event = client.ask(&json!({"type": "authenticate", "token": jwt("alice", 600, claims("b"))}));
        assert_eq!(event["type"], "authenticated", "{event}");
        let ended = client.event();
        assert_eq!(
            (&ended["type"], &ended["topic"], &ended["reason"]),
            (&json!("unsubscribed"), &json!("a"), &json!("forbidden"))
        );
        assert!(ended["offset"].is_u64() && ended["epoch"].is_string(), "{ended}");
        assert_eq!(
            client.ask(&json!({"type": "publish", "id": 1, "topic": "a", "data": 1}))["code"],
            "forbidden"
        );
        client.0.send(&super::frame(super::TEXT, br#"{"type": "publish", "topic": "b", "data": 1}"#));
        let message = client.event_of("message");
        assert_eq!(message["topic"], "b");
    });
}
