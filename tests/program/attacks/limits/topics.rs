//! Topics that clients create and subscribe to.

use serde_json::json;

use super::rates::open_session;
use super::*;
use crate::attacks::peer::{TEXT, frame};

/// Two clients with tokens, who may do everything.
struct Clients {
    tokens: TestFile,
    config: TestFile,
}

impl Clients {
    fn new() -> Clients {
        let tokens = ["alice", "bob"].map(|name| {
            format!("[[tokens]]\ntoken = \"token-of-{name}-0123456789\"\nsubject = \"{name}\"\n")
        });
        Clients { tokens: TestFile::new(tokens.concat()), config: TestFile::new(settings("")) }
    }

    fn flags(&self) -> Vec<String> {
        let flags = [self.tokens.flag("auth-tokens"), self.config.flag("config")];
        flags.into_iter().chain(["--watch=off".to_owned()]).collect()
    }

    /// Replaces the limits of a server.
    fn limit(&self, server: &Server, limits: &str) {
        fs::write(self.config.path(), settings(limits)).expect("written");
        let (status, report) = server.ask_admin("POST", "/reload", &[]);
        assert_eq!(status, 200, "{report}");
    }
}

/// A configuration with limits, in which everybody may publish.
fn settings(limits: &str) -> String {
    format!("{limits}\n[topic_defaults]\npublish = \"everybody\"\n")
}

fn bearer(name: &str) -> String {
    format!("Authorization: Bearer token-of-{name}-0123456789")
}

fn session(server: &Server, name: &str) -> Peer {
    open_session(server, STRANGER, &[&bearer(name)])
}

/// The type of the event that answers a request, or the code of its error.
fn ask(session: &mut Peer, verb: &str, topic: &str) -> String {
    let mut request = json!({"type": verb, "id": 1, "topic": topic});
    if verb == "publish" {
        request["data"] = json!(1);
    }
    session.send(&frame(TEXT, request.to_string().as_bytes()));
    loop {
        let event: Value = serde_json::from_slice(&session.message().1).expect("JSON");
        if event["id"] == 1 {
            return event["code"].as_str().or(event["type"].as_str()).expect("a name").to_owned();
        }
    }
}

/// The status of a raw subscription, and its connection.
fn raw(server: &Server, name: &str, topic: &str) -> (u16, Peer) {
    let mut peer = Peer::connect_from(server, STRANGER);
    peer.send(&upgrade(&format!("/broadcast/{topic}"), &[&bearer(name)]));
    (peer.answer().status, peer)
}

fn with_clients(check: impl Fn(&Server, &Clients) + Sync) {
    let clients = Clients::new();
    let flags = clients.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for driver in ["auto", "epoll"] {
        let server = Server::start(&[&flags[..], &["--shards", "2", "--driver", driver]].concat());
        check(&server, &clients);
    }
}

#[test]
fn a_connection_creates_a_limited_number_of_topics() {
    with_clients(|server, clients| {
        clients.limit(server, "max_topics_per_connection = 4");
        let mut first = session(server, "alice");
        for topic in ["a", "b"] {
            assert_eq!(ask(&mut first, "publish", topic), "published");
        }
        for topic in ["c", "d"] {
            assert_eq!(ask(&mut first, "subscribe", topic), "subscribed");
        }
        for verb in ["publish", "subscribe"] {
            assert_eq!(ask(&mut first, verb, "e"), "too-many-topics-per-connection");
        }
        assert_eq!(limited(server, "topics_per_connection"), 2);
        // Topics that exist are used as before, whoever created them.
        let mut second = session(server, "alice");
        assert_eq!(ask(&mut second, "publish", "e"), "published");
        for topic in ["a", "e"] {
            assert_eq!(ask(&mut first, "publish", topic), "published");
            assert_eq!(ask(&mut first, "subscribe", topic), "subscribed");
        }
        // A topic that ends counts no more.
        assert_eq!(ask(&mut first, "unsubscribe", "c"), "unsubscribed");
        server.wait_until("room", |_| ask(&mut first, "subscribe", "f") == "subscribed");
        assert_eq!(ask(&mut first, "subscribe", "g"), "too-many-topics-per-connection");
        // More are allowed as soon as the limit is higher.
        clients.limit(server, "max_topics_per_connection = 5");
        assert_eq!(server.get("/limits")["limits"]["max_topics_per_connection"], 5);
        assert_eq!(ask(&mut first, "subscribe", "g"), "subscribed");
        assert_eq!(ask(&mut first, "subscribe", "h"), "too-many-topics-per-connection");
    });
}

#[test]
fn an_identity_creates_a_limited_number_of_topics_over_all_its_connections() {
    with_clients(|server, clients| {
        clients.limit(server, "max_topics_per_identity = 3");
        for topic in ["a", "b"] {
            assert_eq!(ask(&mut session(server, "alice"), "publish", topic), "published");
        }
        let (status, listener) = raw(server, "alice", "c");
        assert_eq!(status, 101);
        // The two are kept, although their connections are closed.
        assert_eq!(ask(&mut session(server, "alice"), "publish", "d"), "too-many-topics-per-identity");
        assert_eq!(raw(server, "alice", "d").0, 429);
        assert_eq!(limited(server, "topics_per_identity"), 2);
        assert_eq!(raw(server, "bob", "d").0, 101);
        drop(listener);
        server.wait_until("room", |_| ask(&mut session(server, "alice"), "publish", "e") == "published");
        clients.limit(server, "");
        assert_eq!(ask(&mut session(server, "alice"), "publish", "f"), "published");
    });
}

#[test]
fn an_identity_has_a_limited_number_of_subscriptions_over_all_its_connections() {
    with_clients(|server, clients| {
        clients.limit(server, "max_subscriptions_per_identity = 3");
        let [mut first, mut second] = [0; 2].map(|_| session(server, "alice"));
        assert_eq!(ask(&mut first, "subscribe", "a"), "subscribed");
        assert_eq!(ask(&mut second, "subscribe", "a"), "subscribed");
        let (status, listener) = raw(server, "alice", "b");
        assert_eq!(status, 101);
        assert_eq!(ask(&mut first, "subscribe", "b"), "too-many-subscriptions");
        assert_eq!(raw(server, "alice", "c").0, 429);
        assert_eq!(limited(server, "subscriptions_per_identity"), 2);
        assert_eq!(ask(&mut session(server, "bob"), "subscribe", "b"), "subscribed");
        // Each way in which a subscription ends makes room.
        assert_eq!(ask(&mut second, "unsubscribe", "a"), "unsubscribed");
        assert_eq!(ask(&mut first, "subscribe", "b"), "subscribed");
        drop(listener);
        server.wait_until("room", |_| ask(&mut second, "subscribe", "c") == "subscribed");
        drop(first);
        server.wait_until("room", |_| raw(server, "alice", "d").0 == 101);
        clients.limit(server, "");
        for topic in ["e", "f", "g"] {
            assert_eq!(ask(&mut second, "subscribe", topic), "subscribed");
        }
    });
}

#[test]
fn an_identity_has_a_limited_number_of_connections() {
    with_clients(|server, clients| {
        clients.limit(server, "max_connections_per_identity = 2");
        assert_eq!(server.get("/limits")["limits"]["max_connections_per_identity"], 2);
        let _session = session(server, "alice");
        let (status, listener) = raw(server, "alice", "a");
        assert_eq!(status, 101);
        assert_eq!(raw(server, "alice", "a").0, 429);
        assert_eq!(limited(server, "connections_per_identity"), 1);
        assert_eq!(raw(server, "bob", "a").0, 101);
        drop(listener);
        server.wait_until("room", |_| raw(server, "alice", "b").0 == 101);
        clients.limit(server, "");
        let _more = [0; 3].map(|_| session(server, "alice"));
    });
}

#[test]
fn a_connection_over_its_subscriptions_is_counted_and_logged() {
    at_once(&[&["--driver", "auto"], &["--driver", "epoll"]], &["--max-subscriptions=2"], |server| {
        let mut session = open_session(server, STRANGER, &[]);
        for topic in ["a", "b"] {
            assert_eq!(ask(&mut session, "subscribe", topic), "subscribed");
        }
        assert_eq!(ask(&mut session, "subscribe", "c"), "too-many-subscriptions");
        assert_eq!(limited(server, "subscriptions"), 1);
        let line = server.wait_for_log("address over a limit");
        assert!(line.contains("peer=127.0.0.7") && line.contains("limit=\"subscriptions\""), "{line}");
    });
}
