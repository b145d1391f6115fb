//! Requests of the subprotocol `echoring.v1.json`: parsed as by another JSON parser, or refused for a reason. A published
//! value is delivered unchanged.
//!
//! Input: a client's message.

use echoring_auth::limits::CREDENTIAL_BYTES_MAX;
use echoring_broker::v1::RULES;
use echoring_topics::is_topic_name;
use echoring_topics::limits::KEY_BYTES_MAX;
use echoring_wire::limits::{HISTORY_PAGE_MAX, IDEMPOTENCY_KEY_BYTES_MAX, PRESENCE_PAGE_MAX};
use echoring_wire::v1::{Command, Event, Message, Payload, ProtocolError, Value as Published};
use serde_json::{Map, Value};

const INTEGER_END: u64 = 1 << 53;
const KNOWN: [&str; 12] = [
    "id",
    "type",
    "topic",
    "position",
    "key",
    "idempotency_key",
    "after",
    "before",
    "limit",
    "token",
    "data",
    "text",
];

pub fn run(data: &[u8]) {
    // The result of the other parser, if it has one: it refuses values deeper than 128 and incomplete characters even where
    // the request does not need them.
    let read = match serde_json::from_slice(data) {
        Ok(Value::Object(read)) => Some(read),
        _ => None,
    };
    match Command::parse(data, &RULES) {
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
        Command::Ping { id } => return assert!(id.is_none_or(|id| id < INTEGER_END)),
        Command::Subscribe { id, topic, position } => {
            assert!(position.as_ref().is_none_or(|position| position.offset < INTEGER_END));
            (id, topic)
        }
        Command::Unsubscribe { id, topic } => (id, topic),
        Command::Presence { id, topic, limit, .. } => {
            assert!(*limit <= PRESENCE_PAGE_MAX);
            (id, topic)
        }
        Command::History { id, topic, before, limit } => {
            assert!(*limit <= HISTORY_PAGE_MAX && before.is_none_or(|before| before < INTEGER_END));
            (id, topic)
        }
        Command::Publish { id, topic, key, idempotency_key, value } => {
            let key = key.as_deref().unwrap_or_default();
            assert!(key.len() <= KEY_BYTES_MAX);
            assert!(idempotency_key.as_ref().is_none_or(|key| key.len() <= IDEMPOTENCY_KEY_BYTES_MAX));
            check_message(topic, key, value);
            if let Published::Json(json) = value {
                assert!(data.as_ptr_range().contains(&json.get().as_ptr()));
            }
            (id, topic)
        }
    };
    assert!(id.is_none_or(|id| id < INTEGER_END));
    assert!(is_topic_name(topic));
}

/// Subscribers get one JSON object with the topic, the key and the value.
fn check_message(topic: &str, key: &str, value: &Published<'_>) {
    let payload = match value {
        Published::Json(json) => Payload::Json(json.get().as_bytes()),
        Published::Text(text) => Payload::Text(text.as_bytes()),
    };
    let mut head = Vec::new();
    let message = Message::new(topic, 7, key).parts(&mut head, payload).concat();
    let Ok(read) = serde_json::from_slice::<Value>(&message) else {
        // It is valid JSON if the value is.
        let Published::Json(json) = value else { panic!("a text is not JSON") };
        return assert!(serde_json::from_str::<Value>(json.get()).is_err());
    };
    assert_eq!((read["type"].as_str(), read["topic"].as_str()), (Some("message"), Some(topic)));
    assert_eq!((read["offset"].as_u64(), read["key"].as_str()), (Some(7), (!key.is_empty()).then_some(key)));
    match value {
        Published::Json(json) => {
            assert_eq!(read["data"], serde_json::from_str::<Value>(json.get()).expect("JSON within JSON"))
        }
        Published::Text(text) => assert_eq!(read["text"].as_str(), Some(&**text)),
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
        Command::Ping { id } => {
            assert_eq!(field("type"), "ping");
            return assert_eq!(read.get("id").map(|id| id.as_u64().expect("an id")), *id);
        }
        Command::Subscribe { id, topic, position } => {
            let place = read.get("position");
            assert_eq!(position.is_some(), place.is_some());
            if let (Some(position), Some(place)) = (position, place) {
                assert_eq!(place["offset"], position.offset);
                let epoch = place["epoch"].as_str().expect("a string");
                assert_eq!(u128::from_str_radix(epoch, 16), Ok(position.epoch.number()));
            }
            ("subscribe", id, topic)
        }
        Command::Unsubscribe { id, topic } => ("unsubscribe", id, topic),
        Command::Presence { id, topic, after, limit } => {
            assert_eq!(read.contains_key("after"), after.is_some());
            if let Some(after) = after {
                assert_eq!(u128::from_str_radix(field("after"), 16), Ok(after.number()));
            }
            assert!(read.get("limit").is_none_or(|read| read.as_u64() == Some(*limit as u64)));
            ("presence", id, topic)
        }
        Command::History { id, topic, before, limit } => {
            assert_eq!(read.get("before").map(|read| read.as_u64().expect("an offset")), *before);
            assert!(read.get("limit").is_none_or(|read| read.as_u64() == Some(*limit as u64)));
            ("history", id, topic)
        }
        Command::Publish { id, topic, key, idempotency_key, value } => {
            assert_eq!(field("key"), key.as_deref().unwrap_or_default());
            assert_eq!(field("idempotency_key"), idempotency_key.as_deref().unwrap_or_default());
            match value {
                Published::Json(json) => {
                    assert_eq!(serde_json::from_str::<Value>(json.get()).ok().as_ref(), read.get("data"))
                }
                Published::Text(text) => assert_eq!(field("text"), &**text),
            }
            ("publish", id, topic)
        }
    };
    assert_eq!((field("type"), field("topic")), (kind, &**topic));
    assert_eq!(read.get("id").map(|id| id.as_u64().expect("an id")), *id);
}

fn check_protocol_error(error: &ProtocolError, read: Option<&Map<String, Value>>) {
    let mut out = Vec::new();
    Event::Error(error.clone()).write(&mut out);
    let event: Value = serde_json::from_slice(&out).expect("an error is JSON");
    assert_eq!((&event["type"], &event["code"]), (&"error".into(), &Value::from(&*error.code)));
    assert_eq!(event["id"].as_u64(), error.id);
    assert!(event["message"].as_str().is_some_and(|message| !message.is_empty()));
    match &*error.code {
        "bad-json" => assert_eq!(read, None, "an object that can be read"),
        "missing-field" | "bad-field" | "unknown-type" => {
            let first = error.field.split('.').next().expect("a part");
            assert!(KNOWN.contains(&first), "{error:?}");
            if let (Some(read), "missing-field", true) = (read, &*error.code, first == error.field) {
                assert!(!read.contains_key(first), "{error:?}");
            }
        }
        code => panic!("a request by itself cannot be {code}"),
    }
    if let (Some(id), Some(read)) = (error.id, read) {
        assert_eq!(read.get("id").and_then(Value::as_u64), Some(id), "the client's own number");
    }
}
