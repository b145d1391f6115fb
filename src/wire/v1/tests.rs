//! What is read is what was written, whatever it is about.

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{
    Authenticated, Command, Digits, Event, Gap, Heartbeat, HistoryPage, MembersPage, Message, Payload, Pong,
    Position, Presence, PresenceChange, ProtocolError, Published, Rules, Subjects, Subscribed, TokenExpires,
    Unsubscribed,
};
use crate::limits::{HISTORY_PAGE_MAX, JSON_DEPTH_MAX, PRESENCE_PAGE_MAX};

const RULES: Rules = Rules { is_topic_name, topic_bytes_max: 255, key_bytes_max: 255, token_bytes_max: 64 };

fn is_topic_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn parse(text: &[u8]) -> Result<Command<'_>, ProtocolError> {
    Command::parse(text, &RULES)
}

const INTEGER_MAX: u64 = (1 << 53) - 1;

fn error_of(text: &str) -> ProtocolError {
    parse(text.as_bytes()).expect_err(text)
}

fn assert_fault(text: &str, code: &str, field: &str, id: Option<u64>) {
    let error = error_of(text);
    assert_eq!((&*error.code, &*error.field, error.id), (code, field, id), "{text}");
}

fn written(event: &Event<'_>) -> String {
    let mut out = b"before".to_vec();
    event.write(&mut out);
    let written = out.strip_prefix(b"before").expect("what was there stays");
    String::from_utf8(written.to_vec()).expect("text")
}

/// What another parser reads. What this one reads is the same again when it is written.
fn read(event: &Event<'_>) -> Value {
    let text = written(event);
    let again = Event::read(&text).unwrap_or_else(|error| panic!("{error}: {text}")).expect(&text);
    assert_eq!(written(&again), text);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn message(message: Message<'_>, payload: Payload<'_>) -> String {
    let mut head = b"rubbish".to_vec();
    String::from_utf8(message.parts(&mut head, payload).concat()).expect("text")
}

fn client(number: u64) -> Digits<'static> {
    number.into()
}

fn raw(json: &str) -> &RawValue {
    serde_json::from_str(json).expect("JSON")
}

#[test]
fn each_request_is_read_as_the_document_has_it() {
    assert_eq!(
        parse(br#"{"type":"subscribe","id":1,"topic":"t","position":{"epoch":"1f3a","offset":12}}"#),
        Ok(Command::Subscribe {
            id: Some(1),
            topic: "t".into(),
            position: Some(Position { epoch: 0x1f3a.into(), offset: 12 })
        })
    );
    assert_eq!(
        parse(br#" { "topic" : "t" , "type" : "subscribe", "more": [1, {"id": 2}] } "#),
        Ok(Command::Subscribe { id: None, topic: "t".into(), position: None })
    );
    assert_eq!(
        parse(br#"{"type":"presence","id":3,"topic":"t","after":"9c","limit":0}"#),
        Ok(Command::Presence { id: Some(3), topic: "t".into(), after: Some(client(0x9c)), limit: 0 })
    );
    assert_eq!(
        parse(br#"{"type":"presence","topic":"t"}"#),
        Ok(Command::Presence { id: None, topic: "t".into(), after: None, limit: PRESENCE_PAGE_MAX })
    );
    assert_eq!(
        parse(br#"{"type":"history","id":5,"topic":"t","before":0,"limit":1}"#),
        Ok(Command::History { id: Some(5), topic: "t".into(), before: Some(0), limit: 1 })
    );
    assert_eq!(
        parse(br#"{"type":"history","topic":"t"}"#),
        Ok(Command::History { id: None, topic: "t".into(), before: None, limit: HISTORY_PAGE_MAX })
    );
    assert_eq!(parse(br#"{"type":"ping","id":4}"#), Ok(Command::Ping { id: Some(4) }));
    assert_eq!(
        parse(br#"{"type":"unsubscribe","id":0,"topic":"\u0074"}"#),
        Ok(Command::Unsubscribe { id: Some(0), topic: "t".into() })
    );
    assert_eq!(
        parse(br#"{"type":"publish","id":9007199254740991,"topic":"t","key":"k","data": {"a" : [1.0e2, null]} }"#),
        Ok(Command::Publish {
            id: Some(INTEGER_MAX),
            topic: "t".into(),
            key: Some("k".into()),
            idempotency_key: None,
            value: super::Value::Json(raw(r#"{"a" : [1.0e2, null]}"#)),
        })
    );
    assert_eq!(
        parse(br#"{"type":"publish","topic":"t","idempotency_key":"once","text":"two\nlines"}"#),
        Ok(Command::Publish {
            id: None,
            topic: "t".into(),
            key: None,
            idempotency_key: Some("once".into()),
            value: super::Value::Text("two\nlines".into()),
        })
    );
}

#[test]
fn each_command_is_written_as_the_document_has_it() {
    let (id, topic, position) = (Some(1), Cow::from("t"), Position { epoch: "1f3a".into(), offset: 12 });
    let publish = |key, idempotency_key, value| {
        let (key, idempotency_key) = (Option::map(key, Cow::from), Option::map(idempotency_key, Cow::from));
        Command::Publish { id, topic: "t".into(), key, idempotency_key, value }
    };
    for (command, expected) in [
        (
            Command::Subscribe { id, topic: topic.clone(), position: None },
            r#"{"type":"subscribe","id":1,"topic":"t"}"#,
        ),
        (
            Command::Subscribe { id, topic: topic.clone(), position: Some(position) },
            r#"{"type":"subscribe","id":1,"topic":"t","position":{"epoch":"1f3a","offset":12}}"#,
        ),
        (Command::Unsubscribe { id, topic: topic.clone() }, r#"{"type":"unsubscribe","id":1,"topic":"t"}"#),
        (
            Command::Presence { id, topic: topic.clone(), after: Some("9c".into()), limit: 256 },
            r#"{"type":"presence","id":1,"topic":"t","after":"9c","limit":256}"#,
        ),
        (
            Command::History { id, topic: topic.clone(), before: Some(9), limit: 50 },
            r#"{"type":"history","id":1,"topic":"t","before":9,"limit":50}"#,
        ),
        (
            Command::Authenticate { id, token: "secret".into() },
            r#"{"type":"authenticate","id":1,"token":"secret"}"#,
        ),
        (Command::Ping { id }, r#"{"type":"ping","id":1}"#),
        (
            publish(Some("k"), Some("once"), super::Value::Json(raw("{\"a\" : 1}"))),
            r#"{"type":"publish","id":1,"topic":"t","key":"k","idempotency_key":"once","data":{"a" : 1}}"#,
        ),
        (
            publish(None, None, super::Value::Text("say \"hi\"".into())),
            r#"{"type":"publish","id":1,"topic":"t","text":"say \"hi\""}"#,
        ),
    ] {
        assert_eq!(command.encode(), expected);
        let parsed = parse(expected.as_bytes()).expect(expected);
        assert_eq!(parsed.encode(), expected);
    }
}

#[test]
fn a_json_value_is_not_copied_and_null_is_one() {
    let text = br#"{"type":"publish","topic":"t","data":null}"#;
    let Ok(Command::Publish { topic: Cow::Borrowed("t"), value: super::Value::Json(json), .. }) = parse(text)
    else {
        panic!("{:?}", parse(text))
    };
    assert_eq!(json.get(), "null");
    assert!(text.as_ptr_range().contains(&json.get().as_ptr()));
}

#[test]
fn what_is_no_object_is_bad_json() {
    for text in
        ["", " ", "{", "[]", "7", "null", r#""subscribe""#, r#"{"type":"subscribe"} x"#, r#"{"id":01}"#, "{]"]
    {
        assert_fault(text, "bad-json", "", None);
    }
    assert_eq!(error_of("[1]").message, "a request is one JSON object");
    assert!(error_of("{").message.contains("line 1 column 1"), "{:?}", error_of("{"));
    assert_eq!(parse(b"{\"topic\":\"\xff\"}").expect_err("no UTF-8").code, "bad-json");
}

#[test]
fn a_fault_names_its_field_and_repeats_the_id() {
    let long_topic = format!(r#"{{"id":5,"type":"subscribe","topic":"{}"}}"#, "x".repeat(256));
    let long_key = format!(r#"{{"id":5,"type":"publish","topic":"t","data":1,"key":"{}"}}"#, "x".repeat(256));
    for (text, code, field) in [
        (r#"{"id":5}"#, "missing-field", "type"),
        (r#"{"type":7,"id":5}"#, "bad-field", "type"),
        (r#"{"type":"shout","id":5}"#, "unknown-type", "type"),
        (r#"{"type":"message","id":5,"topic":"t"}"#, "unknown-type", "type"),
        (r#"{"type":"subscribe","id":5}"#, "missing-field", "topic"),
        (r#"{"type":"history","id":5,"topic":"t","before":-1}"#, "bad-field", "before"),
        (r#"{"type":"history","id":5,"topic":"t","limit":257}"#, "bad-field", "limit"),
        (r#"{"type":"subscribe","topic":"","id":5}"#, "bad-field", "topic"),
        (r#"{"type":"subscribe","topic":7,"id":5}"#, "bad-field", "topic"),
        (r#"{"type":"subscribe","topic":"a\u0000","id":5}"#, "bad-field", "topic"),
        (r#"{"type":"subscribe","topic":"\ud800","id":5}"#, "bad-field", "topic"),
        (&long_topic, "bad-field", "topic"),
        (r#"{"type":"subscribe","topic":"t","position":7,"id":5}"#, "bad-field", "position"),
        (r#"{"type":"subscribe","topic":"t","position":null,"id":5}"#, "bad-field", "position"),
        (
            r#"{"type":"subscribe","topic":"t","position":{"offset":1},"id":5}"#,
            "missing-field",
            "position.epoch",
        ),
        (
            r#"{"type":"subscribe","topic":"t","position":{"epoch":"1"},"id":5}"#,
            "missing-field",
            "position.offset",
        ),
        (
            r#"{"type":"subscribe","topic":"t","position":{"epoch":"+1","offset":1},"id":5}"#,
            "bad-field",
            "position.epoch",
        ),
        (
            r#"{"type":"subscribe","topic":"t","position":{"epoch":"1","offset":-1},"id":5}"#,
            "bad-field",
            "position.offset",
        ),
        (
            r#"{"type":"subscribe","topic":"t","position":{"epoch":"1","offset":1,"offset":1},"id":5}"#,
            "bad-field",
            "position",
        ),
        (r#"{"type":"presence","topic":"t","after":"+1","id":5}"#, "bad-field", "after"),
        (r#"{"type":"presence","topic":"t","limit":257,"id":5}"#, "bad-field", "limit"),
        (r#"{"type":"presence","id":5}"#, "missing-field", "topic"),
        (r#"{"type":"publish","topic":"t","id":5}"#, "missing-field", "data"),
        (r#"{"type":"publish","topic":"t","text":7,"id":5}"#, "bad-field", "text"),
        (r#"{"type":"publish","topic":"t","text":"\udc00","id":5}"#, "bad-field", "text"),
        (r#"{"type":"publish","topic":"t","text":"a","data":1,"id":5}"#, "bad-field", "text"),
        (r#"{"type":"publish","topic":"t","key":"","data":1,"id":5}"#, "bad-field", "key"),
        (&long_key, "bad-field", "key"),
        (&long_key.replace("\"key", "\"idempotency_key"), "bad-field", "idempotency_key"),
        (
            r#"{"type":"publish","topic":"t","idempotency_key":7,"data":1,"id":5}"#,
            "bad-field",
            "idempotency_key",
        ),
        (r#"{"type":"subscribe","topic":"t","topic":"t","id":5}"#, "bad-field", "topic"),
        (r#"{"type":"subscribe","topic":"t","data":1,"d\u0061ta":1,"id":5}"#, "bad-field", "data"),
    ] {
        assert_fault(text, code, field, Some(5));
    }
}

#[test]
fn an_id_is_an_integer_that_javascript_has() {
    for id in ["-1", "1.0", "1e3", "9007199254740992", "18446744073709551616", "null", r#""1""#, "[1]"] {
        let text = format!(r#"{{"type":"subscribe","topic":"t","id":{id}}}"#);
        assert_fault(&text, "bad-field", "id", None);
    }
    assert_fault(r#"{"id":1,"id":1,"type":"subscribe","topic":"t"}"#, "bad-field", "id", None);
}

#[test]
fn values_are_as_deep_as_others_can_read() {
    let publish = |data: &str| format!(r#"{{"type":"publish","id":5,"topic":"t","data":{data}}}"#);
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(publish(&nested(JSON_DEPTH_MAX)).as_bytes()).is_ok());
    assert_fault(&publish(&nested(JSON_DEPTH_MAX + 1)), "bad-field", "data", Some(5));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(60_000), "}".repeat(60_000));
    assert_fault(&publish(&objects), "bad-field", "data", Some(5));
    // Side by side, and in strings, they are no deeper than one.
    let wide = format!(r#"[{}"\\\"{}"]"#, "[],{},".repeat(1_000), "[".repeat(1_000));
    assert!(parse(publish(&wide).as_bytes()).is_ok());
    // What nobody is sent may be as deep as it likes.
    let ignored = format!(r#"{{"x":{},"type":"unsubscribe","topic":"t"}}"#, nested(60_000));
    assert!(parse(ignored.as_bytes()).is_ok());
}

#[test]
fn each_event_is_written_as_the_document_has_it() {
    let topic = || Cow::from("t");
    let begun = Subscribed {
        id: None,
        topic: topic(),
        epoch: 0x1f3a.into(),
        offset: 12,
        recovered: None,
        snapshot: None,
        count: None,
        client: None,
    };
    let ended = |reason| Unsubscribed {
        id: None,
        topic: topic(),
        epoch: Some(0x1f3a.into()),
        offset: Some(12),
        reason: Some(Cow::from(reason)),
    };
    let changed = |event, subject, count| Presence {
        topic: topic(),
        event,
        client: Some(client(0x9c)),
        subject,
        count: Some(count),
    };
    let (count, own) = (Some(5), Some(client(0x9c)));
    let events = [
        Event::Subscribed(Subscribed {
            id: Some(1),
            snapshot: Some(15),
            count,
            client: own,
            ..begun.clone()
        }),
        Event::Subscribed(begun.clone()),
        Event::Subscribed(Subscribed { recovered: Some(false), ..begun }),
        Event::Unsubscribed(Unsubscribed { id: Some(2), topic: topic(), ..Unsubscribed::default() }),
        Event::Unsubscribed(ended("slow")),
        Event::Published(Published {
            id: Some(3),
            topic: topic(),
            epoch: Some(0x1f3a.into()),
            offset: Some(12),
        }),
        Event::Gap(Gap { topic: topic(), from: 14, to: 20, reason: "slow".into() }),
        Event::Presence(changed(PresenceChange::Join, None, 5)),
        Event::Presence(changed(PresenceChange::Leave, Some("a\"b".into()), 4)),
        Event::Presence(Presence {
            topic: topic(),
            event: PresenceChange::Stale,
            client: None,
            subject: None,
            count: None,
        }),
        Event::Members(MembersPage {
            id: Some(7),
            topic: topic(),
            count: 3,
            clients: vec![client(0x9c), client(0xa0)],
            subjects: Subjects(vec![(client(0x9c), "alice".into())]),
            next: Some(client(0xa0)),
            ..MembersPage::default()
        }),
        Event::Members(MembersPage {
            topic: topic(),
            after: Some(client(0xa0)),
            count: 5,
            clients: vec![Digits::Number(1 << 64 | 0xa1)],
            unlisted: 2,
            ..MembersPage::default()
        }),
        Event::Unsubscribed(ended(Unsubscribed::FORBIDDEN)),
        Event::Authenticated(Authenticated { id: Some(8), subject: "alice".into(), expires_in: Some(600) }),
        Event::Authenticated(Authenticated { id: None, subject: "alice".into(), expires_in: None }),
        Event::TokenExpires(TokenExpires { expires_in: 30 }),
        Event::Pong(Pong { id: Some(9), max_message: Some(65_536) }),
        Event::Pong(Pong { id: None, max_message: None }),
        Event::Heartbeat(Heartbeat { topic: topic(), offset: 20 }),
        Event::History(HistoryPage {
            id: Some(10),
            topic: topic(),
            epoch: 0x1f3a.into(),
            offset: 20,
            messages: vec![
                Message::new("", 12, "k").with(Payload::Json(b"{\"a\" :1}")),
                Message::new("", 13, "").with(Payload::Text(b"say")),
                Message::new("", 14, "").with(Payload::Binary(b"\0\xff")),
                Message::new("", 15, "").with(Payload::Json(b"none")),
            ],
            next: Some(12),
        }),
        Event::Error(ProtocolError::not_subscribed(Some(4))),
    ];
    let mut texts: Vec<String> = events.iter().map(written).collect();
    events.iter().for_each(|event| drop(read(event)));
    for payload in [Payload::Json(b"{\"a\" :1}"), Payload::Text(b"say \"hi\""), Payload::Binary(b"\0\xff")] {
        texts.push(message(Message { skipped: 2, ..Message::new("t", 13, "k") }, payload));
    }
    texts.push(message(Message::new("t", 13, ""), Payload::Json(b"7")));
    for payload in [Payload::Json(b"{\"a\" :1}"), Payload::Text(b"say \"hi\""), Payload::Binary(b"\0\xff")] {
        texts.push(written(&Event::Direct(payload.into())));
    }
    assert_eq!(
        texts.join("\n"),
        r#"{"type":"subscribed","id":1,"topic":"t","epoch":"1f3a","offset":12,"snapshot":15,"count":5,"client":"9c"}
{"type":"subscribed","topic":"t","epoch":"1f3a","offset":12}
{"type":"subscribed","topic":"t","epoch":"1f3a","offset":12,"recovered":false}
{"type":"unsubscribed","id":2,"topic":"t"}
{"type":"unsubscribed","topic":"t","epoch":"1f3a","offset":12,"reason":"slow"}
{"type":"published","id":3,"topic":"t","epoch":"1f3a","offset":12}
{"type":"gap","topic":"t","from":14,"to":20,"reason":"slow"}
{"type":"presence","topic":"t","event":"join","client":"9c","count":5}
{"type":"presence","topic":"t","event":"leave","client":"9c","subject":"a\"b","count":4}
{"type":"presence","topic":"t","event":"stale"}
{"type":"members","id":7,"topic":"t","count":3,"clients":["9c","a0"],"subjects":{"9c":"alice"},"next":"a0"}
{"type":"members","topic":"t","after":"a0","count":5,"clients":["100000000000000a1"],"unlisted":2}
{"type":"unsubscribed","topic":"t","epoch":"1f3a","offset":12,"reason":"forbidden"}
{"type":"authenticated","id":8,"subject":"alice","expires_in":600}
{"type":"authenticated","subject":"alice"}
{"type":"token_expires","expires_in":30}
{"type":"pong","id":9,"max_message":65536}
{"type":"pong"}
{"type":"heartbeat","topic":"t","offset":20}
{"type":"history","id":10,"topic":"t","epoch":"1f3a","offset":20,"messages":[{"offset":12,"key":"k","data":{"a" :1}},{"offset":13,"text":"say"},{"offset":14,"base64":"AP8="},{"offset":15,"base64":"bm9uZQ=="}],"next":12}
{"type":"error","id":4,"code":"not-subscribed","field":"topic","message":"not subscribed to this topic"}
{"type":"message","topic":"t","offset":13,"key":"k","skipped":2,"data":{"a" :1}}
{"type":"message","topic":"t","offset":13,"key":"k","skipped":2,"text":"say \"hi\""}
{"type":"message","topic":"t","offset":13,"key":"k","skipped":2,"base64":"AP8="}
{"type":"message","topic":"t","offset":13,"data":7}
{"type":"direct","data":{"a" :1}}
{"type":"direct","text":"say \"hi\""}
{"type":"direct","base64":"AP8="}"#
    );
}

#[test]
fn a_message_of_a_snapshot_says_so() {
    let of_snapshot = Message { skipped: 2, snapshot: true, ..Message::new("null", 13, "k") };
    assert_eq!(
        message(of_snapshot.clone(), Payload::Json(b"{}")),
        r#"{"type":"message","topic":"null","offset":13,"key":"k","skipped":2,"data":{},"snapshot":true}"#
    );
    assert_eq!(
        message(of_snapshot, Payload::Text(b"null")),
        r#"{"type":"message","topic":"null","offset":13,"key":"k","skipped":2,"text":"null","snapshot":true}"#
    );
}

#[test]
fn a_json_value_stays_where_it_is() {
    let (mut head, payload) = (Vec::new(), *b"[1,2]");
    let [_, value, _] = Message::new("t", 1, "").parts(&mut head, Payload::Json(&payload));
    assert_eq!(value.as_ptr(), payload.as_ptr());
}

#[test]
fn what_is_not_text_after_all_is_sent_as_bytes() {
    let sent = message(Message::new("t", 1, ""), Payload::Text(b"\xff"));
    let read: Value = serde_json::from_str(&sent).expect("JSON");
    assert_eq!(read["base64"], "/w==");
    for payload in [Payload::Text(b"\xff"), Payload::Json(b"\xff")] {
        let written = written(&Event::Direct(payload.into()));
        assert_eq!(written, r#"{"type":"direct","base64":"/w=="}"#);
        let Ok(Some(Event::Direct(direct))) = Event::read(&written) else { panic!("{written}") };
        assert_eq!(direct.base64.as_deref(), Some(&b"\xff"[..]));
    }
}

#[test]
fn each_message_is_read_as_it_was_published() {
    let read = |payload| {
        let text = message(Message::new("t", 1, ""), payload);
        let Ok(Some(Event::Message(message))) = Event::read(&text) else { panic!("{text}") };
        let data = message.data.map(|data| data.get().to_owned());
        (data, message.text.map(Cow::into_owned), message.base64.map(Cow::into_owned))
    };
    assert_eq!(read(Payload::Json(b"null")), (Some("null".to_owned()), None, None));
    assert_eq!(read(Payload::Text(b"a\nb")), (None, Some("a\nb".to_owned()), None));
    assert_eq!(read(Payload::Binary(b"\0\xff")), (None, None, Some(b"\0\xff".to_vec())));
}

#[test]
fn events_that_are_unknown_or_lack_a_field_are_none() {
    for text in [
        "{}",
        r#"{"type":"weather","topic":"t"}"#,
        r#"{"type":"presence","topic":"t","event":"away"}"#,
        r#"{"type":"gap","topic":"t","from":1}"#,
        r#"{"type":"message","offset":1,"base64":"*"}"#,
    ] {
        assert!(matches!(Event::read(text), Ok(None)), "{text}");
    }
    let mistyped = r#"{"type":"message","topic":"t","offset":"1","text":"a"}"#;
    for text in ["", "7", r#"{"type":"gap""#, r#"{"type":7}"#, mistyped] {
        assert!(Event::read(text).is_err(), "{text}");
    }
    // The order of fields does not matter.
    let text = r#"{"offset":20,"topic":"t","more":[{}],"type":"heartbeat"}"#;
    assert!(matches!(Event::read(text), Ok(Some(Event::Heartbeat(Heartbeat { offset: 20, .. })))));
}

fn topics() -> impl Strategy<Value = String> {
    "\\PC{1,40}".prop_filter("a good name", |name| is_topic_name(name))
}

fn positions() -> impl Strategy<Value = Position<'static>> {
    (any::<u64>(), 0..=INTEGER_MAX).prop_map(|(epoch, offset)| Position { epoch: epoch.into(), offset })
}

fn place(position: &Position<'_>) -> Value {
    json!({ "epoch": position.epoch.to_string(), "offset": position.offset })
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::hash_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_request_reads_back(
        id in option::of(0..=INTEGER_MAX), topic in topics(), position in option::of(positions()),
        key in "\\PC{0,60}", data in values(), text in any::<String>(),
    ) {
        let request = |kind: &str, more: Value| {
            let mut object = json!({ "type": kind, "topic": topic });
            let fields = object.as_object_mut().expect("an object");
            fields.extend(id.map(|id| ("id".to_owned(), json!(id))));
            fields.extend(more.as_object().expect("an object").clone());
            serde_json::to_vec(&object).expect("JSON")
        };
        let subscribe = request("subscribe", position.as_ref().map_or(json!({}), |p| json!({ "position": place(p) })));
        prop_assert_eq!(
            parse(&subscribe),
            Ok(Command::Subscribe { id, topic: Cow::Borrowed(&topic), position })
        );
        let unsubscribe = request("unsubscribe", json!({}));
        prop_assert_eq!(parse(&unsubscribe), Ok(Command::Unsubscribe { id, topic: Cow::Borrowed(&topic) }));
        let more = if key.is_empty() { json!({}) } else { json!({ "key": key }) };
        let json = serde_json::to_string(&data).expect("JSON");
        for (field, value, published) in [
            ("data", data, super::Value::Json(raw(&json))),
            ("text", json!(text), super::Value::Text(Cow::Borrowed(&text))),
        ] {
            let mut more = more.clone();
            more[field] = value;
            let publish = request("publish", more);
            let topic = Cow::Borrowed(&*topic);
            let key = (!key.is_empty()).then_some(Cow::Borrowed(&*key));
            prop_assert_eq!(
                parse(&publish),
                Ok(Command::Publish { id, topic, key, idempotency_key: None, value: published })
            );
        }
    }

    #[test]
    fn an_event_reads_back(
        id in option::of(0..=INTEGER_MAX), topic in topics(), position in positions(), count in 0..=INTEGER_MAX,
        number in any::<u128>(), joined in any::<bool>(),
    ) {
        let with_id = |mut value: Value| {
            if let Some(id) = id {
                value["id"] = json!(id);
            }
            value
        };
        let Position { epoch, offset } = position;
        let (epoch_text, client_text) = (epoch.to_string(), format!("{number:x}"));
        let (topic_name, client) = (|| Cow::Borrowed(&*topic), Digits::Number(number));
        prop_assert_eq!(
            read(&Event::Subscribed(Subscribed {
                id, topic: topic_name(), epoch: epoch.clone(), offset, recovered: Some(joined),
                snapshot: Some(count), count: Some(count), client: Some(client.clone()),
            })),
            with_id(json!({
                "type": "subscribed", "topic": topic, "epoch": epoch_text, "offset": offset, "recovered": joined,
                "snapshot": count, "count": count, "client": client_text,
            }))
        );
        prop_assert_eq!(
            read(&Event::Published(Published {
                id, topic: topic_name(), epoch: Some(epoch.clone()), offset: Some(offset),
            })),
            with_id(json!({ "type": "published", "topic": topic, "epoch": epoch_text, "offset": offset }))
        );
        prop_assert_eq!(
            read(&Event::Gap(Gap { topic: topic_name(), from: offset, to: count, reason: "memory".into() })),
            json!({ "type": "gap", "topic": topic, "from": offset, "to": count, "reason": "memory" })
        );
        let (event, name) =
            if joined { (PresenceChange::Join, "join") } else { (PresenceChange::Leave, "leave") };
        prop_assert_eq!(
            read(&Event::Presence(Presence {
                topic: topic_name(), event, client: Some(client), subject: None, count: Some(count),
            })),
            json!({ "type": "presence", "topic": topic, "event": name, "client": client_text, "count": count })
        );
        prop_assert_eq!(
            read(&Event::Unsubscribed(Unsubscribed {
                id, topic: topic_name(), epoch: Some(epoch), offset: Some(offset), reason: Some("slow".into()),
            })),
            with_id(json!({
                "type": "unsubscribed", "topic": topic, "epoch": epoch_text, "offset": offset, "reason": "slow",
            }))
        );
    }

    #[test]
    fn a_message_reads_back(
        topic in topics(), offset in 0..=INTEGER_MAX, key in "\\PC{0,60}", skipped in 0..5u64, data in values(),
        text in any::<String>(), bytes in vec(any::<u8>(), 0..200),
    ) {
        use base64::Engine;
        let json = serde_json::to_vec(&data).expect("JSON");
        let encoded = base64::engine::general_purpose::STANDARD.encode(&bytes);
        for (payload, field, value) in [
            (Payload::Json(&json), "data", data),
            (Payload::Text(text.as_bytes()), "text", json!(text)),
            (Payload::Binary(&bytes), "base64", json!(encoded)),
        ] {
            let written = message(Message { skipped, ..Message::new(&topic, offset, &key) }, payload);
            let mut expected = json!({ "type": "message", "topic": topic, "offset": offset, field: value });
            if !key.is_empty() {
                expected["key"] = json!(key);
            }
            if skipped > 0 {
                expected["skipped"] = json!(skipped);
            }
            let read: Value = serde_json::from_str(&written).expect("JSON");
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }
}
