//! Commands of an operator reach connections that stay behind at the previous process. Where one cannot reach them, it fails. The connections are secured by TLS, so that they do not move.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Deref;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::peer::{Peer, upgrade};
use super::reload::{folder, replace, text};
use super::replaced::Node;
use super::server::PATIENCE;
use crate::attacks::auth::{SECRET, jwt};
use crate::attacks::centrifuge::Client;

/// The code after which a client's credentials no longer hold.
const WITHDRAWN: Option<u16> = Some(4001);

/// A node whose clients present tokens.
struct Guarded {
    node: Node,
    blocked: PathBuf,
}

impl Deref for Guarded {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Guarded {
    fn start(driver: &str) -> Guarded {
        let folder = folder();
        let [blocked, key] = ["blocked.toml", "key"].map(|name| folder.join(name));
        fs::write(&blocked, "").expect("written");
        fs::write(&key, SECRET).expect("written");
        let flags = ["--driver", driver, "--auth-blocked", text(&blocked), "--auth-jwt-key", text(&key)];
        Guarded { node: Node::start(&flags), blocked }
    }

    fn open(&self, path: &str, subject: &str) -> Peer {
        let mut peer = Peer::connect(&self.server);
        let token = jwt(subject, 600, json!({"jti": format!("token of {subject}"), "subscribe": "*"}));
        peer.send(&upgrade(path, &[&format!("Authorization: Bearer {token}")]));
        assert_eq!(peer.answer().status, 101);
        peer
    }

    /// A command of Centrifugo's API: its result or its error.
    fn call(&self, method: &str, parameters: &Value) -> Value {
        let answer = self.server.post(&format!("/api/{method}"), parameters.to_string().as_bytes());
        let (status, answer) = answer.expect("an answer");
        assert_eq!(status, 200, "{method}: {answer}");
        answer
    }

    fn done(&self, method: &str, parameters: Value) {
        assert_eq!(self.call(method, &parameters), json!({"result": {}}), "{method}");
    }

    /// The id of the only connection of a subject.
    fn id_of(&self, subject: &str) -> String {
        let page = self.server.get(&format!("/connections?identity={subject}"));
        let [one] = &page["connections"].as_array().expect("a list")[..] else { panic!("{page}") };
        assert_eq!(one["identity"], subject);
        one["id"].as_str().expect("an id").to_owned()
    }

    fn put(&self, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let (status, body) = self.server.exchange(request.as_bytes()).expect("an answer");
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    fn delete(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.server.ask_admin("DELETE", path, &[]);
        (status, serde_json::from_str(&body).expect("JSON"))
    }
}

fn reaches_those_that_stay(driver: &str) {
    let mut node = Guarded::start(driver);
    let subjects: Vec<String> = (0..14).map(|number| format!("subject-{number}")).collect();
    let mut peers: Vec<Peer> = subjects.iter().map(|subject| node.open("/broadcast/t", subject)).collect();
    let token = jwt("sdk", 600, json!({"subscribe": "*"}));
    let mut sdk = Client::over(Peer::connect(&node.server));
    assert!(sdk.ask(json!({"connect": {"token": token}}))["connect"].is_object());
    node.node.be_taken_over();
    let mut later = node.open("/broadcast/t", "later");
    let mut peers = peers.iter_mut().zip(&subjects);
    let mut next = || peers.next().expect("one more");

    let info = node.call("info", &json!({}))["result"]["nodes"].take();
    assert_eq!((&info[0]["num_clients"], &info[0]["num_subs"]), (&16.into(), &15.into()), "{info}");

    let (peer, subject) = next();
    node.done("block_user", json!({"user": subject}));
    assert_eq!(peer.close_frame(), WITHDRAWN, "block_user");
    let (peer, subject) = next();
    node.done("revoke_token", json!({"uid": format!("token of {subject}")}));
    assert_eq!(peer.close_frame(), WITHDRAWN, "revoke_token");
    let (peer, subject) = next();
    node.done("disconnect", json!({"user": subject}));
    assert_eq!(peer.close_frame(), Some(3503), "disconnect");
    let (peer, subject) = next();
    node.done("refresh", json!({"user": subject, "expired": true}));
    assert_eq!(peer.close_frame(), Some(3005), "refresh");

    node.done("subscribe", json!({"user": "sdk", "channel": "news"}));
    assert!(sdk.push("news")["subscribe"].is_object());
    node.done("unsubscribe", json!({"user": "sdk", "channel": "news"}));
    assert!(sdk.push("news")["unsubscribe"].is_object());

    let (peer, subject) = next();
    let (status, answer) = node.delete(&format!("/connections/{}", node.id_of(subject)));
    assert_eq!((status, &answer["closed"]), (200, &1.into()), "{answer}");
    assert_eq!(peer.close_frame(), Some(4010));
    let (peer, subject) = next();
    let (status, answer) = node.delete(&format!("/connections?identity={subject}"));
    assert_eq!((status, &answer["closed"]), (200, &1.into()), "{answer}");
    assert_eq!(peer.close_frame(), Some(4010));

    let ways: [fn(&Guarded, &str) -> String; 3] = [
        |_, subject| format!("/identities/{subject}"),
        |_, subject| format!("/connections?identity={subject}"),
        |node, subject| format!("/connections/{}", node.id_of(subject)),
    ];
    for path in ways {
        let (peer, subject) = next();
        let path = path(&node, subject);
        let (status, answer) = node.server.post(&path, b"hello").expect("an answer");
        assert_eq!((status, &answer["sent"]), (200, &1.into()), "{path}: {answer}");
        assert_eq!(peer.message().1, b"hello", "{path}");
    }

    let (status, answer) = node.server.post("/rebalance", b"").expect("an answer");
    assert_eq!((status, &answer["moved"]), (200, &0.into()), "{answer}");
    assert!(answer["predecessor"].as_u64().is_some_and(|stay| stay >= 9), "{answer}");

    let (peer, subject) = next();
    replace(&node.blocked, &format!("[[blocked]]\nsubject = '{subject}'"));
    let (status, answer) = node.server.post("/reload", b"").expect("an answer");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(peer.close_frame(), WITHDRAWN, "reload");

    // Those that nobody meant are still there.
    let (status, answer) = node.server.post("/topics/t", b"to all").expect("an answer");
    assert_eq!(status, 200, "{answer}");
    let (peer, _) = next();
    for peer in [peer, &mut later] {
        assert_eq!(peer.message().1, b"to all");
    }
}

#[test]
fn commands_reach_the_predecessor_on_io_uring() {
    reaches_those_that_stay("auto");
}

#[test]
fn commands_reach_the_predecessor_on_epoll() {
    reaches_those_that_stay("epoll");
}

/// What the previous process does not hear of is an error, and not half of a success.
#[test]
fn commands_that_do_not_reach_the_predecessor_fail() {
    let mut node = Guarded::start("auto");
    let mut stays = node.open("/broadcast/t", "stays");
    node.node.be_taken_over();
    let mut later = node.open("/broadcast/t", "later");
    node.server.stop();
    let failed = node.call("block_user", &json!({"user": "stays"}));
    assert_eq!(failed["error"]["code"], 100, "{failed}");
    let failed = node.call("info", &json!({}));
    assert_eq!(failed["error"]["code"], 100, "{failed}");
    let refused = |answer: (u16, Value), code: &str| {
        assert_eq!((answer.0, answer.1["error"]["code"].as_str()), (503, Some(code)), "{}", answer.1);
    };
    refused(node.delete("/connections?identity=stays"), "silent-predecessor");
    refused(node.server.post("/connections?topic=t", b"hello").expect("an answer"), "silent-predecessor");
    assert_eq!(later.message().1, b"hello", "the connections of the new server are reached");
    refused(node.put("/log-level", "info"), "predecessor");
    refused(node.server.post("/rebalance", b"").expect("an answer"), "silent-predecessor");
    refused(node.server.post("/reload", b"").expect("an answer"), "predecessor");
    // The first command had been sent.
    node.server.signal("CONT");
    assert_eq!(stays.close_frame(), WITHDRAWN);
}

/// A request that was begun before the takeover, whose body comes later.
fn begun(node: &Guarded, path: &str, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(node.server.admin_address()).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut goes_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut goes_on).expect("it asks for the body");
    stream
}

/// It would not reach the clients of the new server.
#[test]
fn a_server_that_was_taken_over_from_refuses_commands() {
    let mut node = Guarded::start("auto");
    let _stays = node.open("/broadcast/t", "stays");
    let body = r#"{"user":"later"}"#;
    let mut stream = begun(&node, "/api/block_user", body.len());
    node.node.be_taken_over();
    let mut later = node.open("/broadcast/t", "later");
    stream.write_all(body.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("\"code\":100") && answer.contains("another server takes over"), "{answer}");
    node.done("block_user", json!({"user": "later"}));
    assert_eq!(later.close_frame(), WITHDRAWN);
}
