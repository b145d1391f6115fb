//! The bodies of publish requests and their messages.
//!
//! JSON is checked to be one value and text to be UTF-8, because the parts that relay them do not check again.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use echoring_broker::limits::{IDEMPOTENCY_KEY_BYTES_MAX, JSON_DEPTH_MAX, OUTSIDE_MESSAGES_MAX};
use echoring_server::OwnedPublication;
use echoring_topics::Content;
use echoring_topics::limits::KEY_BYTES_MAX;
use echoring_wire::is_too_deep;

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One message: the body is its payload.
    Single(Content),
    /// One message per line, as a JSON object.
    Batch,
}

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InvalidBody {
    /// A form or a compressed body, neither of which is a message.
    Media(&'static str),
    /// More messages than fit a batch.
    TooMany,
    /// A part of the body is wrong.
    Bad {
        /// A code for programs.
        code: &'static str,
        /// The field, if it has a name.
        field: Option<&'static str>,
        /// The line of a batch, from 1.
        line: Option<usize>,
        message: String,
    },
}

impl InvalidBody {
    pub(super) fn bad(field: &'static str, message: impl Into<String>) -> InvalidBody {
        InvalidBody::Bad { code: "bad-field", field: Some(field), line: None, message: message.into() }
    }

    pub(super) fn bad_json(message: impl Into<String>) -> InvalidBody {
        InvalidBody::Bad { code: "bad-json", field: None, line: None, message: message.into() }
    }

    pub(super) fn in_line(self, number: usize) -> InvalidBody {
        match self {
            InvalidBody::Bad { code, field, message, .. } => {
                InvalidBody::Bad { code, field, line: Some(number), message }
            }
            other => other,
        }
    }
}

impl Format {
    /// The format of a body by its header. A body without a type is a binary message.
    pub(super) fn of(headers: &HeaderMap) -> Result<Format, InvalidBody> {
        if headers.contains_key(CONTENT_ENCODING) {
            return Err(InvalidBody::Media("send the body uncompressed, without Content-Encoding"));
        }
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let (first, None) = (types.next(), types.next()) else {
            return Err(InvalidBody::Media("send one Content-Type"));
        };
        let Some(media) = first else { return Ok(Format::Single(Content::Binary)) };
        // A parameter may have other characters than ASCII.
        let media = String::from_utf8_lossy(media.as_bytes());
        let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        Ok(match &*essence {
            "application/json" => Format::Single(Content::Json),
            "text/plain" => Format::Single(Content::Text),
            "application/x-ndjson" => Format::Batch,
            "application/x-www-form-urlencoded" | "multipart/form-data" => {
                return Err(InvalidBody::Media(
                    "a form is not a message; use Content-Type: application/json, text/plain, application/x-ndjson or \
                     application/octet-stream",
                ));
            }
            _ => Format::Single(Content::Binary),
        })
    }

    /// The messages of a body. `key` is that of a single message. `idempotency_key` is that of the request; each
    /// message of a batch gets its own from it. Both are empty for none.
    pub(super) fn messages(
        self,
        body: Vec<u8>,
        key: &str,
        idempotency_key: &str,
    ) -> Result<Vec<OwnedPublication>, InvalidBody> {
        let Format::Single(content) = self else { return batch(&body, idempotency_key) };
        Ok(vec![owned(content, key, idempotency_key, payload(content, body)?)])
    }
}

/// A body that is one message, without keys.
pub(super) fn one_message(content: Content, body: Vec<u8>) -> Result<OwnedPublication, InvalidBody> {
    Ok(owned(content, "", "", payload(content, body)?))
}

/// The payload of a body that is one message; of JSON, the value without surrounding white space.
fn payload(content: Content, body: Vec<u8>) -> Result<Vec<u8>, InvalidBody> {
    match content {
        Content::Json => {
            let value: &RawValue =
                serde_json::from_slice(&body).map_err(|error| InvalidBody::bad_json(error.to_string()))?;
            published_json(value)
        }
        Content::Text => {
            let text = String::from_utf8(body).map_err(|_| InvalidBody::bad("text", "must be UTF-8"))?;
            Ok(text.into_bytes())
        }
        Content::Binary => Ok(body),
    }
}

/// A message of these parts.
pub(crate) fn owned(
    content: Content,
    key: impl Into<Box<str>>,
    idempotency_key: impl Into<Box<str>>,
    payload: Vec<u8>,
) -> OwnedPublication {
    let mut publication = OwnedPublication::binary(payload).key(key).idempotency_key(idempotency_key);
    publication.content = content;
    publication
}

/// Checks the key of a message.
pub(super) fn check_key(key: &str) -> Result<(), InvalidBody> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        Ok(())
    } else {
        Err(InvalidBody::bad("key", format!("must have 1 to {KEY_BYTES_MAX} bytes")))
    }
}

/// The idempotency key of a request; empty for none. Quotes, as of an RFC 8941 string, are not part of it.
pub(super) fn idempotency_key(headers: &HeaderMap, format: Format) -> Result<String, InvalidBody> {
    const NAME: &str = "Idempotency-Key";
    let mut values = headers.get_all(NAME).iter();
    let (first, None) = (values.next(), values.next()) else {
        return Err(InvalidBody::bad(NAME, "is given twice"));
    };
    let Some(value) = first else { return Ok(String::new()) };
    let value = value.to_str().unwrap_or_default().trim();
    let key = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let most = match format {
        Format::Single(_) => IDEMPOTENCY_KEY_BYTES_MAX,
        Format::Batch => IDEMPOTENCY_KEY_BYTES_MAX - IDEMPOTENCY_PLACE_BYTES_MAX,
    };
    if (1..=most).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(key.to_owned())
    } else {
        Err(InvalidBody::bad(NAME, format!("must have 1 to {most} visible ASCII characters")))
    }
}

/// Separates the idempotency key of a batch from the index of the message: a line break, which no header has.
const IDEMPOTENCY_PLACE_BYTES_MAX: usize = 5;

/// The bytes of a JSON value to publish, if common parsers accept it.
fn published_json(value: &RawValue) -> Result<Vec<u8>, InvalidBody> {
    let json = value.get().as_bytes();
    if is_too_deep(json) {
        let message = format!("has more than {JSON_DEPTH_MAX} nested arrays and objects");
        return Err(InvalidBody::bad("data", message));
    }
    Ok(json.to_vec())
}

/// A line of a batch, with one of three payloads.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    #[serde(default, deserialize_with = "present")]
    topic: Option<String>,
    #[serde(default, deserialize_with = "present")]
    topics: Option<Vec<String>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    base64: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    idempotency_key: Option<Cow<'a, str>>,
}

/// A field that is present. `null` counts as a value.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn batch(body: &[u8], idempotency_key: &str) -> Result<Vec<OwnedPublication>, InvalidBody> {
    let mut messages = Vec::new();
    for (at, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if messages.len() as u64 == OUTSIDE_MESSAGES_MAX {
            return Err(InvalidBody::TooMany);
        }
        let message = addressed(line).and_then(|Addressed { message, .. }| {
            with_idempotency_key(message, idempotency_key, Some(messages.len()))
        });
        messages.push(message.map_err(|fault| fault.in_line(at + 1))?);
    }
    if messages.is_empty() {
        return Err(InvalidBody::bad_json("a batch has one JSON object per line; this one is empty"));
    }
    Ok(messages)
}

/// The message with its key from that of the request, which is empty for none. One of a batch has a `place` in it.
pub(super) fn with_idempotency_key(
    message: OwnedPublication,
    of_request: &str,
    place: Option<usize>,
) -> Result<OwnedPublication, InvalidBody> {
    match (of_request, &*message.idempotency_key, place) {
        ("", _, _) => Ok(message),
        (_, "", Some(place)) => Ok(message.idempotency_key(format!("{of_request}\n{place}"))),
        (_, "", None) => Ok(message.idempotency_key(of_request)),
        _ => Err(InvalidBody::bad("idempotency_key", "the request has an Idempotency-Key already")),
    }
}

/// A message as a JSON object, with its topics.
#[derive(Debug)]
pub(super) struct Addressed {
    pub(super) topic: Option<String>,
    pub(super) topics: Option<Vec<String>>,
    pub(super) message: OwnedPublication,
}

/// Reads the JSON object of a message. Whether it names the right topics is the caller's to check.
pub(super) fn addressed(line: &[u8]) -> Result<Addressed, InvalidBody> {
    // Serde would take the fields from an array as well.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err(InvalidBody::bad_json("expected a JSON object"));
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| {
        // Behind the message it tells line and column; the line is not the one of the batch.
        InvalidBody::bad_json(error.to_string().replace(" at line 1 column ", " at byte "))
    })?;
    let (content, payload) = match (line.data, line.text, line.base64) {
        (Some(data), None, None) => (Content::Json, published_json(data)?),
        (None, Some(text), None) => (Content::Text, text.into_owned().into_bytes()),
        (None, None, Some(base64)) => {
            let bytes = BASE64
                .decode(&*base64)
                .map_err(|_| InvalidBody::bad("base64", "must be base64 with its padding (RFC 4648, 4)"))?;
            (Content::Binary, bytes)
        }
        (None, None, None) => {
            let message = "expected one of data, text and base64".to_owned();
            return Err(InvalidBody::Bad { code: "missing-field", field: Some("data"), line: None, message });
        }
        _ => return Err(InvalidBody::bad("data", "expected only one of data, text and base64")),
    };
    if let Some(key) = &line.key {
        check_key(key)?;
    }
    let idempotency_key = line.idempotency_key.unwrap_or_default();
    // One from a header has a line's end.
    if idempotency_key.len() > IDEMPOTENCY_KEY_BYTES_MAX || idempotency_key.chars().any(char::is_control) {
        let message = format!("must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes without control characters");
        return Err(InvalidBody::bad("idempotency_key", message));
    }
    let message = owned(content, line.key.unwrap_or_default(), idempotency_key, payload);
    Ok(Addressed { topic: line.topic, topics: line.topics, message })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn format(media: Option<&str>) -> Result<Format, InvalidBody> {
        let mut headers = HeaderMap::new();
        if let Some(media) = media {
            headers.insert(CONTENT_TYPE, media.parse().expect("a value"));
        }
        Format::of(&headers)
    }

    fn batch_of(lines: &str) -> Result<Vec<OwnedPublication>, InvalidBody> {
        Format::Batch.messages(lines.as_bytes().to_vec(), "", "")
    }

    /// Code, field and line.
    fn fault<T: std::fmt::Debug>(
        read: Result<T, InvalidBody>,
    ) -> (&'static str, Option<&'static str>, Option<usize>) {
        match read {
            Err(InvalidBody::Bad { code, field, line, .. }) => (code, field, line),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_content_type_says_what_a_body_is() {
        for (media, expected) in [
            (None, Format::Single(Content::Binary)),
            (Some("application/octet-stream"), Format::Single(Content::Binary)),
            (Some("image/png"), Format::Single(Content::Binary)),
            (Some("Application/JSON; charset=utf-8"), Format::Single(Content::Json)),
            (Some("text/plain;charset=utf-8"), Format::Single(Content::Text)),
            (Some("application/x-ndjson"), Format::Batch),
        ] {
            assert_eq!(format(media), Ok(expected), "{media:?}");
        }
        for form in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            assert!(matches!(format(Some(form)), Err(InvalidBody::Media(_))), "{form}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "gzip".parse().expect("a value"));
        assert!(matches!(Format::of(&headers), Err(InvalidBody::Media(_))));
        let mut headers = HeaderMap::new();
        let with_parameter = "application/json; profile=\"ü\"".as_bytes();
        headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(with_parameter).expect("a value"));
        assert!(matches!(Format::of(&headers), Ok(Format::Single(Content::Json))));
        let mut headers = HeaderMap::new();
        headers.append(CONTENT_TYPE, "text/plain".parse().expect("a value"));
        headers.append(CONTENT_TYPE, "application/json".parse().expect("a value"));
        assert!(matches!(Format::of(&headers), Err(InvalidBody::Media(_))));
    }

    #[test]
    fn a_single_body_is_a_message_if_it_is_what_it_says() {
        let json = |body: &[u8]| Format::Single(Content::Json).messages(body.to_vec(), "k", "");
        for value in ["null", "0", r#""a""#, "[]", r#"{"a": [1e400, "\u00e4"]}"#] {
            let messages = json(format!(" {value}\r\n").as_bytes()).expect("JSON");
            assert_eq!(messages.len(), 1);
            assert_eq!((messages[0].content, &*messages[0].key), (Content::Json, "k"));
            assert_eq!(messages[0].payload, value.as_bytes(), "as it was written");
        }
        for wrong in ["", " ", "{", "{} {}", "{'a':1}", "NaN", "\u{feff}{}", "[1,]", "\"\u{1}\"", "nul"] {
            assert_eq!(fault(json(wrong.as_bytes())), ("bad-json", None, None), "{wrong:?}");
        }
        assert_eq!(fault(json(b"\"\xff\"")).0, "bad-json");
        let deep = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        let deepest = deep(JSON_DEPTH_MAX);
        assert_eq!(json(&deepest).expect("not too deep")[0].payload, deepest);
        for depth in [JSON_DEPTH_MAX + 1, 30_000, 100_000] {
            assert_eq!(fault(json(&deep(depth))), ("bad-field", Some("data"), None), "{depth} deep");
            let line = [b"{\"data\":".to_vec(), deep(depth), b"}".to_vec()].concat();
            assert_eq!(fault(Format::Batch.messages(line, "", "")), ("bad-field", Some("data"), Some(1)));
        }
        let text = |body: &[u8]| Format::Single(Content::Text).messages(body.to_vec(), "", "");
        assert_eq!(text("ä".as_bytes()).expect("UTF-8")[0].payload, "ä".as_bytes());
        assert_eq!(text(b"").expect("empty is text")[0].payload, b"");
        assert_eq!(fault(text(b"\xff")), ("bad-field", Some("text"), None));
        let binary = Format::Single(Content::Binary).messages(vec![0xff], "", "").expect("anything");
        assert_eq!((binary[0].content, &*binary[0].payload), (Content::Binary, &b"\xff"[..]));
    }

    #[test]
    fn a_batch_has_a_message_in_each_line() {
        let messages = batch_of(
            "{\"data\": {\"a\": 1}, \"key\": \"k\"}\r\n\n{\"text\":\"\\u00e4\"}\n{\"base64\":\"/w==\",\"other\":1}\n\
             {\"data\":null}",
        )
        .expect("four messages");
        let expected: [(Content, &str, &[u8]); 4] = [
            (Content::Json, "k", b"{\"a\": 1}"),
            (Content::Text, "", "ä".as_bytes()),
            (Content::Binary, "", b"\xff"),
            (Content::Json, "", b"null"),
        ];
        for (message, expected) in messages.iter().zip(expected) {
            assert_eq!((message.content, &*message.key, &*message.payload), expected);
        }
        assert_eq!(messages.len(), 4);
    }

    #[test]
    fn what_is_wrong_with_a_batch_is_told_by_line_and_field() {
        let long = format!(r#"{{"text":"","key":"{}"}}"#, "k".repeat(KEY_BYTES_MAX + 1));
        for (line, code, field) in [
            ("[1]", "bad-json", None),
            (r#"["a","b"]"#, "bad-json", None),
            ("1", "bad-json", None),
            (r#"{"text":"a""#, "bad-json", None),
            (r#"{"text":"a"}{"text":"b"}"#, "bad-json", None),
            (r#"{"text":"a","text":"b"}"#, "bad-json", None),
            (r#"{"text":null}"#, "bad-json", None),
            (r#"{"text":"a","key":null}"#, "bad-json", None),
            (r#"{"text":"\ud800"}"#, "bad-json", None),
            ("{}", "missing-field", Some("data")),
            (r#"{"text":"a","data":null}"#, "bad-field", Some("data")),
            (r#"{"base64":"a"}"#, "bad-field", Some("base64")),
            (r#"{"base64":"_w=="}"#, "bad-field", Some("base64")),
            (r#"{"text":"a","key":""}"#, "bad-field", Some("key")),
            (&long, "bad-field", Some("key")),
        ] {
            let lines = format!("{{\"text\":\"\"}}\n{line}\n");
            assert_eq!(fault(batch_of(&lines)), (code, field, Some(2)), "{line}");
        }
        for empty in ["", "\n", " \r\n"] {
            assert_eq!(fault(batch_of(empty)), ("bad-json", None, None));
        }
        let most = "{\"text\":\"\"}\n".repeat(OUTSIDE_MESSAGES_MAX as usize);
        assert_eq!(batch_of(&most).map(|messages| messages.len() as u64), Ok(OUTSIDE_MESSAGES_MAX));
        assert_eq!(batch_of(&(most + "{\"text\":\"\"}")), Err(InvalidBody::TooMany));
    }

    #[test]
    fn a_batchs_messages_get_idempotency_keys_from_the_requests() {
        let lines = b"{\"text\":\"a\"}\n\n{\"text\":\"b\"}".to_vec();
        let messages = Format::Batch.messages(lines, "", "once").expect("two");
        let keys: Vec<&str> = messages.iter().map(|message| &*message.idempotency_key).collect();
        assert_eq!(keys, ["once\n0", "once\n1"]);
        let own = || b"{\"text\":\"a\",\"idempotency_key\":\"mine\"}".to_vec();
        let messages = Format::Batch.messages(own(), "", "").expect("one");
        assert_eq!(&*messages[0].idempotency_key, "mine");
        let both = Format::Batch.messages(own(), "", "once");
        assert_eq!(fault(both), ("bad-field", Some("idempotency_key"), Some(1)));
        let forged = b"{\"text\":\"a\",\"idempotency_key\":\"once\\n0\"}".to_vec();
        let forged = Format::Batch.messages(forged, "", "");
        assert_eq!(fault(forged), ("bad-field", Some("idempotency_key"), Some(1)));
    }

    #[test]
    fn an_idempotency_key_is_given_once_with_or_without_quotes() {
        let key = |values: &[&str], format| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("Idempotency-Key", value.parse().expect("a value"));
            }
            idempotency_key(&headers, format)
        };
        let single = Format::Single(Content::Json);
        let long = "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX);
        for (values, expected) in [(&[][..], ""), (&["a"], "a"), (&["\"a,b\""], "a,b"), (&[&long], &long)] {
            assert_eq!(key(values, single).as_deref(), Ok(expected), "{values:?}");
        }
        let longer = format!("{long}k");
        for values in [&[""][..], &["\"\""], &["a", "a"], &["\u{e4}"], &["a b"], &["\"a\tb\""], &[&longer]] {
            assert_eq!(fault(key(values, single)).1, Some("Idempotency-Key"), "{values:?}");
        }
        assert_eq!(fault(key(&[&long], Format::Batch)).1, Some("Idempotency-Key"));
    }
}
