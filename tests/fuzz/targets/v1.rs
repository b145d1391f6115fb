//! Requests of the subprotocol `echoring.v1.json`: parsed as by another JSON parser, or refused for a reason. A published
//! value is delivered unchanged.
//!
//! Input: a client's message.

use std::borrow::Cow;

use echoring_auth::limits::CREDENTIAL_BYTES_MAX;
use echoring_broker::limits::{IDEMPOTENCY_KEY_BYTES_MAX, PRESENCE_PAGE_MAX};
use echoring_broker::v1::{Command, ProtocolError, parse, server_event};
use echoring_topics::limits::KEY_BYTES_MAX;
use echoring_topics::{Content, is_topic_name};
use serde_json::{Map, Value};

const INTEGER_END: u64 = 1 << 53;
const KNOWN: [&str; 11] =
    ["id", "type", "topic", "position", "key", "idempotency_key", "after", "limit", "token", "data", "text"];

pub fn run(data: &[u8]) {
    // The result of the other parser, if it has one: it refuses values deeper than 128 and incomplete characters even where
    // the request does not need them.
    let read = match serde_json::from_slice(data) {
        Ok(Value::Object(read)) => Some(read),
        _ => None,
    };
    match parse(data) {
        Ok(command) => {
            check_command(data, &command);
            if let Some(read) = &read {
                compare(&command, read);
            }
        }
        Err(error) => check_protocol_error(&error, read.as_ref()),
    }
}

fn check_command(data: &[u8], command: &Command<'_>) {
    let (id, topic) = match command {
        Command::Authenticate { id, token } => {
            assert!((1..=CREDENTIAL_BYTES_MAX).contains(&token.len()));
            return assert!(id.is_none_or(|id| id < INTEGER_END));
        }
        Command::Subscribe { id, topic, position } => {
            assert!(position.is_none_or(|position| position.offset < INTEGER_END));
            (id, topic)
        }
        Command::Unsubscribe { id, topic } => (id, topic),
        Command::Presence { id, topic, limit, .. } => {
            assert!(*limit <= PRESENCE_PAGE_MAX);
            (id, topic)
        }
        Command::Publish { id, topic, content, key, idempotency_key, payload } => {
            assert!(key.len() <= KEY_BYTES_MAX);
            assert!(idempotency_key.len() <= IDEMPOTENCY_KEY_BYTES_MAX);
            check_message(topic, key, *content, payload);
            if *content == Content::Json {
                let Cow::Borrowed(payload) = payload else { panic!("a value was copied") };
                assert!(data.as_ptr_range().contains(&payload.as_ptr()));
            }
            (id, topic)
        }
    };
    assert!(id.is_none_or(|id| id < INTEGER_END));
    assert!(is_topic_name(topic));
}

/// Subscribers get one JSON object with the topic, the key and the value.
fn check_message(topic: &str, key: &str, content: Content, payload: &[u8]) {
    let mut head = Vec::new();
    let message = server_event::message_parts(&mut head, topic, 7, key, 0, content, payload).concat();
    let Ok(read) = serde_json::from_slice::<Value>(&message) else {
        // It is valid JSON if the value is.
        assert!(content == Content::Json && serde_json::from_slice::<Value>(payload).is_err());
        return;
    };
    assert_eq!((read["type"].as_str(), read["topic"].as_str()), (Some("message"), Some(topic)));
    assert_eq!((read["offset"].as_u64(), read["key"].as_str()), (Some(7), (!key.is_empty()).then_some(key)));
    match content {
        Content::Json => {
            assert_eq!(read["data"], serde_json::from_slice::<Value>(payload).expect("JSON within JSON"))
        }
        _ => assert_eq!(read["text"].as_str().map(str::as_bytes), Some(payload)),
    }
}

/// Each known field occurs once, so both parsers read the same one.
fn compare(command: &Command<'_>, read: &Map<String, Value>) {
    let field = |name: &str| read.get(name).and_then(Value::as_str).unwrap_or_default();
    let (kind, id, topic) = match command {
        Command::Authenticate { id, token } => {
            assert_eq!((field("type"), field("token")), ("authenticate", &**token));
            return assert_eq!(read.get("id").map(|id| id.as_u64().expect("an id")), *id);
        }
        Command::Subscribe { id, topic, position } => {
            let place = read.get("position");
            assert_eq!(position.is_some(), place.is_some());
            if let (Some(position), Some(place)) = (position, place) {
                assert_eq!(place["offset"], position.offset);
                let epoch = place["epoch"].as_str().expect("a string");
                assert_eq!(u64::from_str_radix(epoch, 16), Ok(position.epoch));
            }
            ("subscribe", id, topic)
        }
        Command::Unsubscribe { id, topic } => ("unsubscribe", id, topic),
        Command::Presence { id, topic, after, limit } => {
            assert_eq!(read.contains_key("after"), after.is_some());
            if let Some(after) = after {
                let bits = u128::from(after.node) << 64 | u128::from(after.number);
                assert_eq!(u128::from_str_radix(field("after"), 16), Ok(bits));
            }
            assert!(read.get("limit").is_none_or(|read| read.as_u64() == Some(*limit as u64)));
            ("presence", id, topic)
        }
        Command::Publish { id, topic, content, key, idempotency_key, payload } => {
            assert_eq!((field("key"), field("idempotency_key")), (&**key, &**idempotency_key));
            match content {
                Content::Json => {
                    assert_eq!(serde_json::from_slice::<Value>(payload).ok().as_ref(), read.get("data"))
                }
                _ => assert_eq!(field("text").as_bytes(), &payload[..]),
            }
            ("publish", id, topic)
        }
    };
    assert_eq!((field("type"), field("topic")), (kind, &**topic));
    assert_eq!(read.get("id").map(|id| id.as_u64().expect("an id")), *id);
}

fn check_protocol_error(error: &ProtocolError, read: Option<&Map<String, Value>>) {
    let mut out = Vec::new();
    server_event::error(&mut out, error);
    let event: Value = serde_json::from_slice(&out).expect("an error is JSON");
    assert_eq!((&event["type"], &event["code"]), (&"error".into(), &error.code.into()));
    assert_eq!(event["id"].as_u64(), error.id);
    assert!(event["message"].as_str().is_some_and(|message| !message.is_empty()));
    match error.code {
        "bad-json" => assert_eq!(read, None, "an object that can be read"),
        "missing-field" | "bad-field" | "unknown-type" => {
            let first = error.field.split('.').next().expect("a part");
            assert!(KNOWN.contains(&first), "{error:?}");
            if let (Some(read), "missing-field", true) = (read, error.code, first == error.field) {
                assert!(!read.contains_key(first), "{error:?}");
            }
        }
        code => panic!("a request by itself cannot be {code}"),
    }
    if let (Some(id), Some(read)) = (error.id, read) {
        assert_eq!(read.get("id").and_then(Value::as_u64), Some(id), "the client's own number");
    }
}
