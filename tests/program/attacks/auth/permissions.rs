//! Every permission, for every role, on every way in.

use serde_json::{Value, json};

use super::super::peer::{Peer, TEXT, frame, request};
use super::super::server::{Server, on_both_drivers};
use super::{ALICE, BOB, Session, TestFile, answer, bearer, open, session, tokens};

const WORDS: [&str; 6] = ["nobody", "everybody", "authenticated", "claim", "operator", "named"];

/// The end of a topic's name that lists its subjects.
const LISTED: &str = "room#alice,bob";

/// A client: its token, and for each word of [`WORDS`] whether it has the right on a topic that it may have claims for.
struct Role {
    name: &'static str,
    token: &'static str,
    topic: &'static str,
    rights: [bool; 6],
}

const ROLES: [Role; 5] = [
    Role { name: "anonymous", token: "", topic: "mine", rights: [false, true, false, false, false, false] },
    Role {
        name: "without claims",
        token: BOB,
        topic: "mine",
        rights: [false, true, true, false, false, false],
    },
    Role {
        name: "with other claims",
        token: ALICE,
        topic: "other",
        rights: [false, true, true, false, false, false],
    },
    Role {
        name: "with claims",
        token: ALICE,
        topic: "mine",
        rights: [false, true, true, true, false, false],
    },
    Role { name: "in the name", token: BOB, topic: LISTED, rights: [false, true, true, false, false, true] },
];

/// One table for each right and each word: the topics `RIGHT-WORD.*`.
fn config() -> TestFile {
    let mut text = "[topic_defaults]\nhistory_messages = 10\n".to_owned();
    for word in WORDS {
        for right in ["subscribe", "publish", "presence"] {
            text += &format!("[[topics]]\npattern = \"{right}-{word}.*\"\n{right} = \"{word}\"\n");
        }
        text += &format!("[[topics]]\npattern = \"history-{word}.*\"\nhistory = \"{word}\"\nsnapshot = 5\n");
    }
    TestFile::new(text)
}

fn everywhere(test: impl Fn(&Server) + Sync) {
    let (tokens, config) = (tokens(), config());
    let flags = [tokens.flag("auth-tokens"), config.flag("config")];
    // Two shards, so that owners are on the client's shard and on the other.
    on_both_drivers(&[&flags[0], &flags[1], "--auth-anonymous", "--shards", "2"], test);
}

/// Calls `check` for each role and word with the name of the topic and whether the role has the right.
fn matrix(right: &str, check: impl Fn(&Role, &str, bool)) {
    for role in &ROLES {
        for (word, may) in WORDS.iter().zip(role.rights) {
            check(role, &format!("{right}-{word}.{}", role.topic), may);
        }
    }
}

/// A topic's name as a part of a path.
fn in_path(topic: &str) -> String {
    topic.replace('#', "%23")
}

fn is_forbidden(event: &Value) -> bool {
    event["type"] == "error" && event["code"] == "forbidden"
}

#[test]
fn subscribing_on_raw_routes() {
    everywhere(|server| {
        matrix("subscribe", |role, topic, may| {
            let field = bearer(role.token);
            let fields: &[&str] = if role.token.is_empty() { &[] } else { &[&field] };
            let (_, answer) = answer(server, &format!("/broadcast/{}", in_path(topic)), fields);
            assert_eq!(answer.status, if may { 101 } else { 403 }, "{} {topic}", role.name);
        });
    });
}

#[test]
fn subscribing_and_history_on_event_streams() {
    everywhere(|server| {
        let listen = |role: &Role, topic: &str, more: &str| {
            let field = bearer(role.token);
            let mut fields = vec!["Host: a"];
            fields.extend((!role.token.is_empty()).then_some(&*field));
            fields.extend((!more.is_empty()).then_some(more));
            let mut peer = Peer::connect(server);
            peer.send(&request(&format!("GET /sse/{} HTTP/1.1", in_path(topic)), &fields));
            let status = peer.answer().status;
            (peer, status)
        };
        // The id and the name of the first event.
        let first = |peer: &mut Peer| {
            let mut lines = std::iter::from_fn(|| peer.line());
            let mut field = |name: &str| lines.find_map(|line| line.strip_prefix(name).map(str::to_owned));
            (field("id: ").expect("an id"), field("event: ").expect("a name"))
        };
        matrix("subscribe", |role, topic, may| {
            let (_, status) = listen(role, topic, "");
            assert_eq!(status, if may { 200 } else { 403 }, "{} {topic}", role.name);
        });
        for word in WORDS {
            for place in ["mine", "other", LISTED] {
                let path = format!("/topics/history-{word}.{}", in_path(place));
                assert_eq!(server.post(&path, b"old").expect("published").0, 200);
            }
        }
        matrix("history", |role, topic, may| {
            let (mut peer, status) = listen(role, topic, "");
            assert_eq!(status, 200);
            let (id, _) = first(&mut peer);
            let epoch = id.split('-').next().expect("an epoch");
            assert_eq!(id, format!("{epoch}-{}", if may { 0 } else { 1 }), "{} {topic}", role.name);
            let (mut peer, _) = listen(role, topic, &format!("Last-Event-ID: {epoch}-0"));
            let (_, name) = first(&mut peer);
            assert_eq!(name, if may { "subscribed" } else { "reset" }, "{} {topic}", role.name);
        });
    });
}

#[test]
fn publishing_on_raw_routes() {
    everywhere(|server| {
        matrix("publish", |role, topic, may| {
            let path = format!("/broadcast/{}", in_path(topic));
            let mut reader = open(server, &path, "");
            let mut writer = open(server, &format!("{path}?self=1"), role.token);
            writer.send(&frame(TEXT, b"hello"));
            if may {
                assert_eq!(reader.frame(), (0x81, b"hello".to_vec()), "{} {topic}", role.name);
            } else {
                assert_eq!(writer.close_frame(), Some(1008), "{} {topic}", role.name);
            }
        });
    });
}

#[test]
fn subscribing_and_publishing_in_sessions() {
    everywhere(|server| {
        matrix("subscribe", |role, topic, may| {
            let mut client = session(server, role.token);
            let event = client.ask(&json!({"type": "subscribe", "id": 1, "topic": topic}));
            assert_eq!(
                event["type"],
                if may { "subscribed" } else { "error" },
                "{} {topic} {event}",
                role.name
            );
            assert!(may || (is_forbidden(&event) && event["id"] == 1), "{event}");
        });
        matrix("publish", |role, topic, may| {
            let mut client = session(server, role.token);
            let event = client.ask(&json!({"type": "publish", "id": 2, "topic": topic, "data": 7}));
            assert_eq!(
                event["type"],
                if may { "published" } else { "error" },
                "{} {topic} {event}",
                role.name
            );
            assert!(may || (is_forbidden(&event) && event["id"] == 2), "{event}");
        });
    });
}

#[test]
fn presence_and_history_in_sessions() {
    everywhere(|server| {
        matrix("presence", |role, topic, may| {
            let mut client = session(server, role.token);
            let subscribed = client.ask(&json!({"type": "subscribe", "id": 1, "topic": topic}));
            assert_eq!(subscribed["type"], "subscribed", "{} {topic} {subscribed}", role.name);
            assert_eq!(subscribed["count"].is_u64(), may, "{} {topic} {subscribed}", role.name);
            // Another client's arrival is an event for those who may see it, and the message behind it may overtake it: only
            // messages have an order.
            let mut other = session(server, ALICE);
            let arrived = other.ask(&json!({"type": "subscribe", "id": 1, "topic": topic}));
            assert_eq!(arrived["type"], "subscribed", "{arrived}");
            assert_eq!(server.post(&format!("/topics/{}", in_path(topic)), b"m").expect("published").0, 200);
            let is_message = |event: &Value| event["type"] == "message";
            // Clients of earlier roles may be leaving still.
            let is_join = |event: &Value| event["event"] == "join" && event["client"] == arrived["client"];
            let mut events: Vec<Value> = Vec::new();
            while !events.iter().any(is_message) || (may && !events.iter().any(is_join)) {
                events.push(client.event());
            }
            for event in &events {
                assert!(may || is_message(event), "{} {topic} {event}", role.name);
                assert!(!is_join(event) || event["subject"] == "alice", "{event}");
            }
            let asked = json!({"type": "presence", "id": 2, "topic": topic});
            client.0.send(&frame(TEXT, asked.to_string().as_bytes()));
            let answer = loop {
                let event = client.event();
                if event["id"] == 2 {
                    break event;
                }
            };
            assert_eq!(
                answer["type"],
                if may { "members" } else { "error" },
                "{} {topic} {answer}",
                role.name
            );
            let subjects = answer["subjects"].as_object();
            assert!(
                !may || subjects.is_some_and(|known| known.values().any(|name| name == "alice")),
                "{answer}"
            );
            if !may {
                // Nor is it told later.
                assert_eq!(
                    server.post(&format!("/topics/{}", in_path(topic)), b"m").expect("published").0,
                    200
                );
                let event = client.event();
                assert!(is_message(&event), "{} {topic} {event}", role.name);
            }
        });
        for word in WORDS {
            for place in ["mine", "other", LISTED] {
                let path = format!("/topics/history-{word}.{}", in_path(place));
                let (status, answer) = server.post(&path, b"old").expect("published");
                assert_eq!(status, 200, "{answer}");
            }
        }
        matrix("history", |role, topic, may| {
            let mut client = session(server, role.token);
            let event = client.ask(&json!({"type": "subscribe", "id": 1, "topic": topic}));
            assert_eq!(event["snapshot"].is_u64(), may, "{} {topic} {event}", role.name);
            let epoch = event["epoch"].clone();
            let mut client = session(server, role.token);
            let from = json!({"epoch": epoch, "offset": 0});
            let event = client.ask(&json!({"type": "subscribe", "id": 1, "topic": topic, "position": from}));
            assert_eq!(event["recovered"], may, "{} {topic} {event}", role.name);
            assert_eq!(event["offset"], if may { 0 } else { 1 }, "{} {topic} {event}", role.name);
        });
    });
}

#[test]
fn the_operator_may_do_everything_but_what_nobody_may() {
    everywhere(|server| {
        for word in WORDS {
            let (status, answer) =
                server.post(&format!("/topics/publish-{word}.x"), b"m").expect("an answer");
            assert_eq!(status == 200, word != "nobody", "{word}: {status} {answer}");
            if word == "nobody" {
                assert_eq!((status, &answer["error"]["code"]), (403, &json!("forbidden")), "{answer}");
            }
        }
        let listed = server.get("/topics");
        assert!(listed.to_string().contains("publish-operator.x"), "{listed}");
    });
}

/// Topics whose subscribers have a right. Only clients with credentials may subscribe to `known.*`.
const OF_SUBSCRIBERS: &str = "
    [topic_defaults]
    publish = 'subscriber'
    presence = 'subscriber'
    history = 'subscriber'
    [[topics]]
    pattern = 'known.*'
    subscribe = 'authenticated'
";

/// The next event but those about presence, which may come at any time.
fn next(client: &mut Session) -> Value {
    std::iter::repeat_with(|| client.event()).find(|event| event["type"] != "presence").expect("endless")
}

/// Sends a request and returns the next such event.
fn ask(client: &mut Session, request: &Value) -> Value {
    client.0.send(&frame(TEXT, request.to_string().as_bytes()));
    next(client)
}

#[test]
fn rights_of_subscribers() {
    let (tokens, config) = (tokens(), TestFile::new(OF_SUBSCRIBERS));
    let flags = [tokens.flag("auth-tokens"), config.flag("config")];
    on_both_drivers(&[&flags[0], &flags[1], "--auth-anonymous", "--shards", "2"], |server| {
        for (topic, token) in [("open.a", ""), ("known.a", ALICE), ("known.b", BOB)] {
            let publish = json!({"type": "publish", "id": 1, "topic": topic, "data": 7});
            let mut client = session(server, token);
            assert!(is_forbidden(&ask(&mut client, &publish)), "{topic}");
            let subscribed = ask(&mut client, &json!({"type": "subscribe", "id": 2, "topic": topic}));
            assert_eq!(subscribed["type"], "subscribed", "{subscribed}");
            assert_eq!(subscribed["count"], 1, "{subscribed}");
            // Its own message and the result may come in either order.
            let types = [ask(&mut client, &publish), next(&mut client)].map(|event| event["type"].clone());
            assert!(["message", "published"].iter().all(|kind| types.contains(&json!(kind))), "{types:?}");
            // Another topic of the same kind is not its own.
            let other = json!({"type": "publish", "id": 3, "topic": format!("{topic}2"), "data": 7});
            assert!(is_forbidden(&ask(&mut client, &other)), "{topic}");
            let ended = ask(&mut client, &json!({"type": "unsubscribe", "id": 4, "topic": topic}));
            assert_eq!(ended["type"], "unsubscribed", "{ended}");
            assert!(is_forbidden(&ask(&mut client, &publish)), "{topic}");
            let from = json!({"epoch": subscribed["epoch"], "offset": 0});
            let again = json!({"type": "subscribe", "id": 5, "topic": topic, "position": from});
            let event = ask(&mut client, &again);
            assert_eq!(event["recovered"], true, "{topic} {event}");
        }
        let mut stranger = session(server, "");
        for kind in ["subscribe", "publish"] {
            let request = json!({"type": kind, "id": 1, "topic": "known.a", "data": 7});
            assert!(is_forbidden(&ask(&mut stranger, &request)), "{kind}");
        }
        // A connection of a raw route subscribes to its topic.
        let mut raw = open(server, "/broadcast/open.b?self=1", "");
        raw.send(&frame(TEXT, b"hello"));
        assert_eq!(raw.frame(), (0x81, b"hello".to_vec()));
    });
}
