//! Back ends against services that are scripted.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use echoring_async::tls::Source;
use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_proto::handshake::with_request;
use serde_json::{Value, json};

use super::*;
use crate::calls::head::OwnedHead;
use crate::calls::http_client::tests::read_head;
use crate::calls::load::{self, Full};
use crate::identity::{Identity, Method, Rights};

const SECRET: &str = "a secret in plain text, 32 bytes";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const EMPTY: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";
const PARTIAL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{";
const LATER: &str = "HTTP/1.1 503 Later\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";

/// A request that a service has read.
struct Seen {
    id: String,
    event: Value,
    is_genuine: bool,
}

/// The answer to an event. `None` ends the connection instead.
type Reply = dyn Fn(&Value) -> Option<String> + Send + Sync;

fn service(reply: impl Fn(&Value) -> Option<String> + Send + Sync + 'static) -> (String, Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/events", listener.local_addr().expect("an address"));
    let (seen, requests) = channel();
    let reply: Arc<Reply> = Arc::new(reply);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (reply, seen) = (Arc::clone(&reply), seen.clone());
            thread::spawn(move || serve(stream, &*reply, &seen));
        }
    });
    (url, requests)
}

fn serve(mut stream: TcpStream, reply: &Reply, seen: &Sender<Seen>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (fields, length) =
            read_head(&mut reader, ["webhook-id", "webhook-timestamp", "webhook-signature"])?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let [id, time, signature] = fields;
        let secrets = SigningSecrets::parse(SECRET).expect("a secret");
        let [.., (_, expected)] = secrets.sign(&id, time.parse().expect("a time"), &body).expect("an id");
        let event: Value = serde_json::from_slice(&body).expect("JSON");
        let answer = reply(&event);
        seen.send(Seen { id, event, is_genuine: expected == *signature }).ok()?;
        let answer = answer?;
        stream.write_all(answer.as_bytes()).ok()?;
        if answer == PARTIAL {
            return None;
        }
    }
}

fn answered(json: &Value) -> Option<String> {
    let body = json.to_string();
    Some(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn settings(url: &str) -> BackendSettings {
    let secret = Source::Memory(SECRET.as_bytes().to_vec());
    BackendSettings {
        timeout: PATIENCE,
        node: "n 1".into(),
        ..BackendSettings::new("/chat/{room}", url, secret)
    }
}

/// A connection, and what is delivered to it.
struct Client {
    connection: BackendConnection,
    deliveries: Receiver<BackendDelivery>,
}

impl Client {
    fn of(settings: BackendSettings) -> Client {
        let backend = Arc::new(Backend::load(settings).expect("valid"));
        backend.start().expect("a thread");
        let (sender, deliveries) = channel();
        let facts = ("1-2-3".to_owned(), Some("alice"), "/chat/a");
        let deliver = move |delivery| drop(sender.send(delivery));
        Client {
            connection: BackendConnection::new(&backend, load::Source::NoAddress, facts, deliver),
            deliveries,
        }
    }

    fn without_connect(settings: BackendSettings) -> Client {
        Client::of(BackendSettings {
            events: vec![BackendEvent::Message, BackendEvent::Disconnect],
            ..settings
        })
    }

    fn connect(&self) -> Result<(), Full> {
        let text = b"GET /chat/a?b=c HTTP/1.1\r\nHost: h\r\n\r\n";
        let head = with_request(text, |request, _| OwnedHead::of(request)).expect("valid").expect("complete");
        let lists = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let rights = Rights::of_lists(lists(&["a.*"]), lists(&[]), None, Some(lists(&["b"]))).expect("valid");
        let client = Identity::new("alice", Method::Jwt, rights, None).map(Arc::new);
        let address = Some("192.0.2.1:7".parse().expect("an address"));
        self.connection.connect(ConnectFacts { head, address, client })
    }

    fn text(&self, text: &str) -> Result<(), Full> {
        self.connection.message(MessageKind::Text, text.as_bytes())
    }

    fn outcome(&self) -> BackendOutcome {
        self.deliveries.recv_timeout(PATIENCE).expect("a delivery").outcome
    }

    /// Ends the connection, and waits until the back end is sent everything.
    fn end(&self) -> BackendFigures {
        self.connection.end(CloseCode::NORMAL, "bye");
        let backend = self.connection.backend();
        backend.finish(Instant::now() + PATIENCE);
        let figures = backend.figures();
        assert_eq!((figures.queued_bytes, figures.requests), (0, 0));
        figures
    }
}

fn events(requests: &Receiver<Seen>) -> Vec<Value> {
    requests.try_iter().map(|seen| seen.event["event"].clone()).collect()
}

#[test]
fn events_are_signed_and_in_order_and_answers_are_delivered() {
    let (url, requests) = service(|event| match event["event"].as_str() {
        Some("connect") => {
            answered(&json!({"subscribe": ["t"], "messages": [{"text": "hi"}, {"base64": "AP8="}]}))
        }
        Some("message") => answered(
            &json!({"close": {"code": 4000, "reason": "ß"}, "publish": [{"topic": "t", "text": "x"}]}),
        ),
        _ => Some(EMPTY.to_owned()),
    });
    let client = Client::of(settings(&url));
    client.connect().expect("room");
    let BackendOutcome::Answered(answer) = client.outcome() else { panic!("an answer") };
    let expected = [
        BackendAction::Subscribe("t".to_owned()),
        BackendAction::Send(MessageKind::Text, b"hi".to_vec()),
        BackendAction::Send(MessageKind::Binary, b"\0\xff".to_vec()),
    ];
    assert_eq!(answer.actions, expected);
    client.text("grün\n").expect("room");
    client.connection.delivered();
    let expected = [
        BackendAction::Publish("t".to_owned(), MessageKind::Text, b"x".to_vec()),
        BackendAction::Close(CloseCode(4000), "ß".to_owned()),
    ];
    assert_eq!(
        client.outcome(),
        BackendOutcome::Answered(BackendAnswer { actions: expected.into(), identity: None })
    );
    client.connection.message(MessageKind::Binary, &[0, 255]).expect("room");
    let figures = client.end();
    let seen: Vec<Seen> = requests.try_iter().collect();
    assert!(seen.iter().all(|seen| seen.is_genuine && seen.id.len() == 32));
    let head = json!({"node": "n 1", "connection": "1-2-3", "identity": "alice", "path": "/chat/a"});
    let of = |event: Value| {
        let Value::Object(mut all) = head.clone() else { panic!("an object") };
        all.extend(event.as_object().expect("an object").clone());
        Value::Object(all)
    };
    let rights = json!({"subscribe": ["a.*"], "publish": [], "presence": ["a.*"], "history": ["b"]});
    let expected = [
        of(
            json!({"event": "connect", "query": "b=c", "address": "192.0.2.1:7", "headers": [["Host", "h"]], "rights": rights}),
        ),
        of(json!({"event": "message", "text": "grün\n"})),
        of(json!({"event": "message", "base64": "AP8="})),
        of(json!({"event": "disconnect", "code": 1000, "reason": "bye"})),
    ];
    assert_eq!(seen.into_iter().map(|seen| seen.event).collect::<Vec<_>>(), expected);
    let answered = |answered| [answered, 0, 0, 0];
    assert_eq!(figures.events, [answered(1), answered(2), answered(1)]);
}

#[test]
fn the_next_request_waits_until_the_answer_is_carried_out_and_has_what_came_meanwhile() {
    let (url, requests) = service(|_| Some(EMPTY.to_owned()));
    let client = Client::without_connect(BackendSettings { batch: 3, ..settings(&url) });
    for text in ["1", "2", "3", "4", "5"] {
        client.text(text).expect("room");
    }
    let nothing = BackendOutcome::Answered(BackendAnswer::default());
    assert_eq!(client.outcome(), nothing);
    client.connection.backend().finish(Instant::now() + PATIENCE);
    let list =
        |requests: &Receiver<Seen>| requests.try_recv().map(|seen| seen.event["messages"].clone()).ok();
    let first = list(&requests).expect("a request");
    assert_eq!(first[0]["text"], "1");
    assert!(list(&requests).is_none(), "the turn is that of the shard");
    client.connection.delivered();
    assert_eq!(client.outcome(), nothing);
    let second = list(&requests).expect("a request");
    assert!(first.as_array().expect("a list").len() + second.as_array().expect("a list").len() >= 4);
    client.end();
    assert_eq!(events(&requests).last(), Some(&json!("disconnect")), "behind the messages");
}

#[test]
fn a_message_is_sent_again_only_where_that_is_safe() {
    // Each reply to the first request, whether there is another one, and whether that is answered.
    for (reply, attempts, is_answered) in [
        (Some(LATER), 2, true),
        (Some(BROKEN), 1, false),
        (Some("HTTP/1.1 503 Never\r\ncontent-length: 0\r\n\r\n"), 1, false),
        (Some("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"), 1, false),
        (Some(PARTIAL), 1, false),
        (Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), 1, false),
        (Some("not HTTP\r\n\r\n"), 1, false),
        (None, 1, false),
    ] {
        let count = AtomicUsize::new(0);
        let (url, requests) = service(move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0 => reply.map(str::to_owned),
            _ => Some(EMPTY.to_owned()),
        });
        let client = Client::without_connect(settings(&url));
        client.text("once").expect("room");
        let outcome = client.outcome();
        assert_eq!(matches!(outcome, BackendOutcome::Answered(_)), is_answered, "{reply:?} {outcome:?}");
        let seen: Vec<String> = requests.try_iter().map(|seen| seen.id).collect();
        assert_eq!(seen.len(), attempts, "{reply:?}");
        assert!(seen.iter().all(|id| *id == seen[0]), "an event keeps its id");
        assert_eq!(client.connection.backend().figures().retries, attempts as u64 - 1);
    }
}

#[test]
fn a_back_end_that_is_not_reached_is_tried_again_up_to_the_limit() {
    let refusing = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", refusing.local_addr().expect("an address"));
    drop(refusing);
    let client = Client::without_connect(BackendSettings { retries: 2, ..settings(&url) });
    client.text("once").expect("room");
    assert_eq!(client.outcome(), BackendOutcome::Failed);
    client.text("behind it").expect("room");
    let figures = client.end();
    assert_eq!(figures.retries, 4, "of the message, and of the end");
    let failed = |failed| [0, 0, failed, 0];
    assert_eq!(
        figures.events,
        [failed(0), failed(2), failed(1)],
        "the message behind the lost one is not sent"
    );
}

#[test]
fn events_about_connections_are_sent_again_with_their_id() {
    let count = AtomicUsize::new(0);
    let (url, requests) = service(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Some(BROKEN.to_owned()),
        1 => None,
        _ => Some(EMPTY.to_owned()),
    });
    let client = Client::without_connect(settings(&url));
    let figures = client.end();
    let ids: Vec<String> = requests.try_iter().map(|seen| seen.id).collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!((figures.retries, figures.events[2][0]), (2, 1));
}

#[test]
fn a_back_end_is_told_the_end_of_the_connections_that_it_may_know() {
    let statuses =
        ["HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n["];
    for (reply, outcome, expected) in [
        (statuses[0], BackendOutcome::Refused(403), &["connect"][..]),
        (statuses[1], BackendOutcome::Failed, &["connect", "disconnect"]),
        (EMPTY, BackendOutcome::Answered(BackendAnswer::default()), &["connect", "disconnect"]),
        (BROKEN, BackendOutcome::Failed, &["connect"]),
    ] {
        let (url, requests) =
            service(move |event| Some(if event["event"] == "connect" { reply } else { EMPTY }.to_owned()));
        let client = Client::of(BackendSettings { retries: 0, ..settings(&url) });
        client.connect().expect("room");
        assert_eq!(client.outcome(), outcome);
        let backend = Arc::clone(client.connection.backend());
        drop(client);
        backend.finish(Instant::now() + PATIENCE);
        assert_eq!(events(&requests), expected, "{reply}");
    }
}

#[test]
fn what_waits_is_bounded_and_ends_have_room_of_their_own() {
    let (url, requests) = service(|_| Some(EMPTY.to_owned()));
    let client = Client::without_connect(BackendSettings { queue_bytes: 4_096, ..settings(&url) });
    assert_eq!(client.text(&"x".repeat(4_096)), Err(Full::TooLarge));
    assert_eq!(client.text(&"\u{1}".repeat(600)), Err(Full::TooLarge), "as long in JSON");
    let taken = (0..100).map_while(|_| client.text(&"x".repeat(900)).ok()).count();
    assert!((1..=3).contains(&taken), "{taken}");
    let figures = client.end();
    assert_eq!(figures.events[1][0], taken as u64);
    assert_eq!((figures.events[1][3], figures.events[2][0]), (3, 1));
    assert_eq!(events(&requests).len(), taken + 1);
}

#[test]
fn an_answer_has_known_instructions_only() {
    let read = |json: &str| wire::answer(json.as_bytes());
    for empty in ["", " ", "{}", "{\"messages\": []}"] {
        assert_eq!(read(empty), Ok(BackendAnswer::default()), "{empty:?}");
    }
    for wrong in [
        "[]",
        "null",
        "{",
        "{} {}",
        r#"{"message": "x"}"#,
        r#"{"messages": {}}"#,
        r#"{"messages": ["x"]}"#,
        r#"{"messages": [{}]}"#,
        r#"{"messages": [{"text": "a", "base64": "YQ=="}]}"#,
        r#"{"messages": [{"base64": "*"}]}"#,
        r#"{"messages": [{"text": 7}]}"#,
        r#"{"close": {"code": 1005}}"#,
        r#"{"close": {"code": 1006}}"#,
        r#"{"close": {"code": 99999}}"#,
        r#"{"close": {}}"#,
        r#"{"publish": [{"text": "x"}]}"#,
        r#"{"identity": ""}"#,
        r#"{"identity": "a\nb"}"#,
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    let long = json!({"close": {"code": 4000, "reason": "x".repeat(124)}}).to_string();
    assert!(read(&long).is_err());
    let named = read(r#"{"identity": "bob"}"#).expect("valid").identity.expect("a client");
    assert_eq!((named.subject(), named.method()), ("bob", Method::ConnectHook));
    for (kind, payload) in [
        (MessageKind::Text, "a\"\\\u{1}\n\u{7f}ü\u{2028}".as_bytes()),
        (MessageKind::Text, b""),
        (MessageKind::Binary, b"\0\x01\x02\x03"),
    ] {
        let text = match kind {
            MessageKind::Text => json!(str::from_utf8(payload).expect("text")).to_string(),
            MessageKind::Binary => "AAECAw==".to_owned(),
        };
        assert!(wire::encoded_bytes(kind, payload) + 2 >= text.len(), "{text}");
    }
}

#[test]
fn a_connection_moves_once_nothing_is_owed_and_its_end_is_told_once() {
    let (url, requests) = service(|event| match event["event"].as_str() {
        Some("connect") => answered(&json!({"identity": "bob"})),
        _ => Some(EMPTY.to_owned()),
    });
    let mut client = Client::of(settings(&url));
    let idle = |client: &Client| client.connection.idle_state();
    client.connect().expect("room");
    for number in 0..3 {
        assert_eq!(idle(&client), None, "the back end has not answered, or that is not carried out");
        client.outcome();
        assert_eq!(idle(&client), None, "the answer is not carried out");
        client.connection.delivered();
        let state = idle(&client).expect("nothing is owed");
        let backend = Arc::clone(client.connection.backend());
        for length in 0..state.len() {
            let cut =
                BackendConnection::from_state(&backend, load::Source::NoAddress, &state[..length], drop);
            assert!(cut.is_none(), "{length}");
        }
        let (sender, deliveries) = channel();
        let deliver = move |delivery| drop(sender.send(delivery));
        let connection = BackendConnection::from_state(&backend, load::Source::NoAddress, &state, deliver);
        let connection = connection.expect("it goes on");
        assert_eq!(connection.id(), "1-2-3");
        client.connection.leave();
        client = Client { connection, deliveries };
        client.text(&number.to_string()).expect("room");
    }
    client.outcome();
    client.connection.delivered();
    client.end();
    let told: Vec<Value> = requests.try_iter().map(|seen| seen.event).collect();
    let texts: Vec<&Value> = told.iter().map(|event| event.get("text").unwrap_or(&event["event"])).collect();
    assert_eq!(texts, ["connect", "0", "1", "2", "disconnect"]);
    assert!(told.iter().all(|event| event["connection"] == "1-2-3" && event["path"] == "/chat/a"));
    assert_eq!((&told[0]["identity"], &told[4]["identity"]), (&json!("alice"), &json!("bob")));
}

#[test]
fn a_back_end_that_cannot_know_a_connection_is_told_no_end_where_it_goes_on() {
    let (url, requests) = service(|_| Some(EMPTY.to_owned()));
    let before = Client::of(settings(&url));
    let backend = Arc::clone(before.connection.backend());
    let state = before.connection.idle_state().expect("nothing is owed");
    let after =
        BackendConnection::from_state(&backend, load::Source::NoAddress, &state, drop).expect("it goes on");
    before.connection.leave();
    drop((before, after));
    backend.finish(Instant::now() + PATIENCE);
    assert!(requests.try_iter().next().is_none());
}
