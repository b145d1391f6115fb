//! What is read is what was written, whatever it is about.

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::server_event;
use super::{Command, ProtocolError, parse};
use crate::limits::{JSON_DEPTH_MAX, PRESENCE_PAGE_MAX};
use echoring_topics::{ClientId, Content, GapReason, Members, Position, Refused, is_topic_name};

const INTEGER_MAX: u64 = (1 << 53) - 1;

fn error_of(text: &str) -> ProtocolError {
    parse(text.as_bytes()).expect_err(text)
}

/// Code, field and id.
fn fault(text: &str) -> (&'static str, &'static str, Option<u64>) {
    let ProtocolError { id, code, field, .. } = error_of(text);
    (code, field, id)
}

fn read(write: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut out = b"before".to_vec();
    write(&mut out);
    let written = out.strip_prefix(b"before").expect("what was there stays");
    serde_json::from_slice(written)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(written)))
}

fn message(topic: &str, offset: u64, key: &str, skipped: u64, content: Content, payload: &[u8]) -> Vec<u8> {
    let mut head = b"rubbish".to_vec();
    server_event::message_parts(&mut head, topic, offset, key, skipped, content, payload).concat()
}

#[test]
fn each_request_is_read_as_the_document_has_it() {
    assert_eq!(
        parse(br#"{"type":"subscribe","id":1,"topic":"t","position":{"epoch":"1f3a","offset":12}}"#),
        Ok(Command::Subscribe {
            id: Some(1),
            topic: "t".into(),
            position: Some(Position { epoch: 0x1f3a, offset: 12 })
        })
    );
    assert_eq!(
        parse(br#" { "topic" : "t" , "type" : "subscribe", "more": [1, {"id": 2}] } "#),
        Ok(Command::Subscribe { id: None, topic: "t".into(), position: None })
    );
    assert_eq!(
        parse(br#"{"type":"presence","id":3,"topic":"t","after":"9c","limit":0}"#),
        Ok(Command::Presence {
            id: Some(3),
            topic: "t".into(),
            after: Some(ClientId::local(0x9c)),
            limit: 0
        })
    );
    assert_eq!(
        parse(br#"{"type":"presence","topic":"t"}"#),
        Ok(Command::Presence { id: None, topic: "t".into(), after: None, limit: PRESENCE_PAGE_MAX })
    );
    assert_eq!(
        parse(br#"{"type":"unsubscribe","id":0,"topic":"\u0074"}"#),
        Ok(Command::Unsubscribe { id: Some(0), topic: "t".into() })
    );
    assert_eq!(
        parse(br#"{"type":"publish","id":9007199254740991,"topic":"t","key":"k","data": {"a" : [1.0e2, null]} }"#),
        Ok(Command::Publish {
            id: Some(INTEGER_MAX),
            topic: "t".into(),
            content: Content::Json,
            key: "k".into(),
            idempotency_key: "".into(),
            payload: Cow::Borrowed(br#"{"a" : [1.0e2, null]}"#),
        })
    );
    assert_eq!(
        parse(br#"{"type":"publish","topic":"t","idempotency_key":"once","text":"two\nlines"}"#),
        Ok(Command::Publish {
            id: None,
            topic: "t".into(),
            content: Content::Text,
            key: "".into(),
            idempotency_key: "once".into(),
            payload: Cow::Borrowed(b"two\nlines"),
        })
    );
}

#[test]
fn a_json_value_is_not_copied_and_null_is_one() {
    let text = br#"{"type":"publish","topic":"t","data":null}"#;
    let Ok(Command::Publish { content: Content::Json, topic: Cow::Borrowed("t"), payload, .. }) = parse(text)
    else {
        panic!("{:?}", parse(text))
    };
    let Cow::Borrowed(payload) = payload else { panic!("{payload:?}") };
    assert_eq!(payload, b"null");
    assert!(text.as_ptr_range().contains(&payload.as_ptr()));
}

#[test]
fn what_is_no_object_is_bad_json() {
    for text in
        ["", " ", "{", "[]", "7", "null", r#""subscribe""#, r#"{"type":"subscribe"} x"#, r#"{"id":01}"#, "{]"]
    {
        assert_eq!(fault(text), ("bad-json", "", None), "{text}");
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
        assert_eq!(fault(text), (code, field, Some(5)), "{text}");
    }
}

#[test]
fn an_id_is_an_integer_that_javascript_has() {
    for id in ["-1", "1.0", "1e3", "9007199254740992", "18446744073709551616", "null", r#""1""#, "[1]"] {
        let text = format!(r#"{{"type":"subscribe","topic":"t","id":{id}}}"#);
        assert_eq!(fault(&text), ("bad-field", "id", None), "{id}");
    }
    assert_eq!(fault(r#"{"id":1,"id":1,"type":"subscribe","topic":"t"}"#), ("bad-field", "id", None));
}

#[test]
fn values_are_as_deep_as_others_can_read() {
    let publish = |data: &str| format!(r#"{{"type":"publish","id":5,"topic":"t","data":{data}}}"#);
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(publish(&nested(JSON_DEPTH_MAX)).as_bytes()).is_ok());
    assert_eq!(fault(&publish(&nested(JSON_DEPTH_MAX + 1))), ("bad-field", "data", Some(5)));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(60_000), "}".repeat(60_000));
    assert_eq!(fault(&publish(&objects)), ("bad-field", "data", Some(5)));
    // Side by side, and in strings, they are no deeper than one.
    let wide = format!(r#"[{}"\\\"{}"]"#, "[],{},".repeat(1_000), "[".repeat(1_000));
    assert!(parse(publish(&wide).as_bytes()).is_ok());
    // What nobody is sent may be as deep as it likes.
    let ignored = format!(r#"{{"x":{},"type":"unsubscribe","topic":"t"}}"#, nested(60_000));
    assert!(parse(ignored.as_bytes()).is_ok());
}

#[test]
fn each_notice_is_written_as_the_document_has_it() {
    let position = Position { epoch: 0x1f3a, offset: 12 };
    let mut out = Vec::new();
    server_event::subscribed(
        &mut out,
        Some(1),
        "t",
        position,
        None,
        Some(15),
        Some((5, ClientId::local(0x9c))),
    );
    out.push(b'\n');
    server_event::subscribed(&mut out, None, "t", position, None, None, None);
    out.push(b'\n');
    server_event::subscribed(&mut out, None, "t", position, Some(false), None, None);
    out.push(b'\n');
    server_event::unsubscribed(&mut out, Some(2), "t");
    out.push(b'\n');
    server_event::dropped(&mut out, "t", position, GapReason::SlowConsumerPolicy);
    out.push(b'\n');
    server_event::published(&mut out, Some(3), "t", position);
    out.push(b'\n');
    server_event::gap(&mut out, "t", 14, 20, GapReason::SlowConsumerPolicy);
    out.push(b'\n');
    server_event::presence(&mut out, "t", true, ClientId::local(0x9c), "", 5);
    out.push(b'\n');
    server_event::presence(&mut out, "t", false, ClientId::local(0x9c), "a\"b", 4);
    out.push(b'\n');
    server_event::presence_stale(&mut out, "t");
    out.push(b'\n');
    server_event::members(
        &mut out,
        Some(7),
        "t",
        None,
        Members { count: 3, next: Some(ClientId::local(0xa0)), unlisted: 0 },
        [(ClientId::local(0x9c), "alice"), (ClientId::local(0xa0), "")].into_iter(),
    );
    out.push(b'\n');
    server_event::members(
        &mut out,
        None,
        "t",
        Some(ClientId::local(0xa0)),
        Members { count: 5, next: None, unlisted: 2 },
        [(ClientId { node: 1, number: 0xa1 }, "")].into_iter(),
    );
    out.push(b'\n');
    server_event::withdrawn(&mut out, "t", position);
    out.push(b'\n');
    server_event::authenticated(&mut out, Some(8), "alice", Some(600));
    out.push(b'\n');
    server_event::authenticated(&mut out, None, "alice", None);
    out.push(b'\n');
    server_event::token_expires(&mut out, 30);
    out.push(b'\n');
    server_event::heartbeat(&mut out, "t", 20);
    out.push(b'\n');
    server_event::error(&mut out, &ProtocolError::not_subscribed(Some(4)));
    for (content, payload) in
        [(Content::Json, &b"{\"a\" :1}"[..]), (Content::Text, b"say \"hi\""), (Content::Binary, b"\0\xff")]
    {
        out.push(b'\n');
        out.extend(message("t", 13, "k", 2, content, payload));
    }
    out.push(b'\n');
    out.extend(message("t", 13, "", 0, Content::Json, b"7"));
    assert_eq!(
        std::str::from_utf8(&out).expect("text"),
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
{"type":"heartbeat","topic":"t","offset":20}
{"type":"error","id":4,"code":"not-subscribed","field":"topic","message":"not subscribed to this topic"}
{"type":"message","topic":"t","offset":13,"key":"k","skipped":2,"data":{"a" :1}}
{"type":"message","topic":"t","offset":13,"key":"k","skipped":2,"text":"say \"hi\""}
{"type":"message","topic":"t","offset":13,"key":"k","skipped":2,"base64":"AP8="}
{"type":"message","topic":"t","offset":13,"data":7}"#
    );
}

#[test]
fn a_message_of_a_snapshot_says_so() {
    let mut written = message("t", 13, "k", 2, Content::Json, b"{}");
    server_event::mark_snapshot(&mut written);
    let read: Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!((&read["snapshot"], &read["data"]), (&json!(true), &json!({})));
}

#[test]
fn a_json_value_stays_where_it_is() {
    let (mut head, payload) = (Vec::new(), *b"[1,2]");
    let [_, value, _] = server_event::message_parts(&mut head, "t", 1, "", 0, Content::Json, &payload);
    assert_eq!(value.as_ptr(), payload.as_ptr());
}

#[test]
fn what_is_not_text_after_all_is_sent_as_bytes() {
    let written = message("t", 1, "", 0, Content::Text, b"\xff");
    let read: Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!(read["base64"], "/w==");
}

#[test]
fn every_refusal_has_a_code_of_its_own() {
    let refusals = [
        Refused::Busy,
        Refused::TooManyTopics,
        Refused::TooManyByConnection,
        Refused::TooManyByIdentity,
        Refused::NoKey,
        Refused::TooManyKeys,
        Refused::Forbidden,
        Refused::TooLarge,
        Refused::OutOfMemory,
        Refused::Draining,
        Refused::KeyReused,
        Refused::RateLimited,
        Refused::Unreachable,
        Refused::Uncertain,
        Refused::Behind,
        Refused::NoStorage,
    ];
    let mut codes = Vec::new();
    for refused in refusals {
        let read = read(|out| server_event::error(out, &ProtocolError::refused(Some(1), refused)));
        assert_eq!((&read["type"], &read["id"]), (&json!("error"), &json!(1)));
        assert_eq!(read["message"], refused.to_string());
        codes.push(read["code"].as_str().expect("a code").to_owned());
    }
    codes.sort();
    codes.dedup();
    assert_eq!(codes.len(), refusals.len());
}

fn topics() -> impl Strategy<Value = String> {
    "\\PC{1,40}".prop_filter("a good name", |name| is_topic_name(name))
}

fn positions() -> impl Strategy<Value = Position> {
    (any::<u64>(), 0..=INTEGER_MAX).prop_map(|(epoch, offset)| Position { epoch, offset })
}

fn place(position: Position) -> Value {
    json!({ "epoch": format!("{:x}", position.epoch), "offset": position.offset })
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
        let subscribe = request("subscribe", position.map_or(json!({}), |p| json!({ "position": place(p) })));
        prop_assert_eq!(
            parse(&subscribe),
            Ok(Command::Subscribe { id, topic: Cow::Borrowed(&topic), position })
        );
        let unsubscribe = request("unsubscribe", json!({}));
        prop_assert_eq!(parse(&unsubscribe), Ok(Command::Unsubscribe { id, topic: Cow::Borrowed(&topic) }));
        let more = if key.is_empty() { json!({}) } else { json!({ "key": key }) };
        for (content, field, value) in [(Content::Json, "data", data), (Content::Text, "text", json!(text))] {
            let mut more = more.clone();
            more[field] = value.clone();
            let publish = request("publish", more);
            let payload = match content {
                Content::Json => serde_json::to_vec(&value).expect("JSON"),
                _ => text.clone().into_bytes(),
            };
            let (topic, key) = (Cow::Borrowed(&*topic), Cow::Borrowed(&*key));
            prop_assert_eq!(
                parse(&publish),
                Ok(Command::Publish {
                    id, topic, content, key, idempotency_key: "".into(), payload: payload.into(),
                })
            );
        }
    }

    #[test]
    fn a_notice_reads_back(
        id in option::of(0..=INTEGER_MAX), topic in topics(), position in positions(), count in 0..=INTEGER_MAX,
        node in any::<u64>(), number in any::<u64>(), joined in any::<bool>(),
    ) {
        let with_id = |mut value: Value| {
            if let Some(id) = id {
                value["id"] = json!(id);
            }
            value
        };
        let client = ClientId { node, number };
        let (epoch, client_id, offset) = (format!("{:x}", position.epoch), format!("{client:x}"), position.offset);
        prop_assert_eq!(
            read(|out| {
                let presence = Some((count, client));
                server_event::subscribed(out, id, &topic, position, Some(joined), Some(count), presence);
            }),
            with_id(json!({
                "type": "subscribed", "topic": topic, "epoch": epoch, "offset": offset, "recovered": joined,
                "snapshot": count,
                "count": count, "client": client_id,
            }))
        );
        prop_assert_eq!(
            read(|out| server_event::published(out, id, &topic, position)),
            with_id(json!({ "type": "published", "topic": topic, "epoch": epoch, "offset": offset }))
        );
        prop_assert_eq!(
            read(|out| server_event::unsubscribed(out, id, &topic)),
            with_id(json!({ "type": "unsubscribed", "topic": topic }))
        );
        prop_assert_eq!(
            read(|out| server_event::gap(out, &topic, offset, count, GapReason::Memory)),
            json!({ "type": "gap", "topic": topic, "from": offset, "to": count, "reason": "memory" })
        );
        let event = if joined { "join" } else { "leave" };
        prop_assert_eq!(
            read(|out| server_event::presence(out, &topic, joined, client, "", count)),
            json!({ "type": "presence", "topic": topic, "event": event, "client": client_id, "count": count })
        );
        prop_assert_eq!(
            read(|out| server_event::heartbeat(out, &topic, offset)),
            json!({ "type": "heartbeat", "topic": topic, "offset": offset })
        );
        prop_assert_eq!(
            read(|out| server_event::dropped(out, &topic, position, GapReason::SlowConsumerPolicy)),
            json!({ "type": "unsubscribed", "topic": topic, "epoch": epoch, "offset": offset, "reason": "slow" })
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
        for (content, payload, field, value) in [
            (Content::Json, &json[..], "data", data),
            (Content::Text, text.as_bytes(), "text", json!(text)),
            (Content::Binary, &bytes, "base64", json!(encoded)),
        ] {
            let written = message(&topic, offset, &key, skipped, content, payload);
            let mut expected = json!({ "type": "message", "topic": topic, "offset": offset, field: value });
            if !key.is_empty() {
                expected["key"] = json!(key);
            }
            if skipped > 0 {
                expected["skipped"] = json!(skipped);
            }
            let read: Value = serde_json::from_slice(&written).expect("JSON");
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }
}
