//! `/topics`, `/topics/{topic}` and `/broadcast`: publishing, and reports about topics.
//!
//! Waiting messages are bounded: a message without room is refused at once, with the time of a retry.

mod broadcast;
mod query;
mod report;

use std::cell::RefCell;
use std::collections::BTreeMap;

use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};
use serde::Serialize;
use tracing::field::display;

use super::http::{Bodies, BodyError, Reply, RequestBody};
use super::publications::{Format, InvalidBody, check_key, idempotency_key};
use super::reload::served::Served;
use crate::access::failed_attempts::Offender;
use crate::http::socket::AdminPeer;
use crate::limits::ADMIN_BATCH_BYTES_MAX;
use echoring_broker::limits::{OUTSIDE_MESSAGES_MAX, SNAPSHOT_TIMEOUT};
use echoring_proto::handshake::percent_decode_path;
use echoring_runtime::admission::{Limit, LogInterval};
use echoring_runtime::driver::monotonic_now;
use echoring_runtime::limits::LIMIT_LOG_INTERVAL;
use echoring_runtime::stats::DeliveryAges;
use echoring_runtime::traces;
use echoring_server::{OnShard, OwnedPublication, PublishError, Published, machinery};
use echoring_topics::limits::TOPIC_BYTES_MAX;
use echoring_topics::{Position, Refused, is_topic_name};
use query::TopicQuery;

/// The inputs of a request about topics.
#[derive(Debug)]
pub(super) struct Topics {
    server: Served,
    pub(super) bodies: Bodies,
    /// Records about topics that were refused because there are too many.
    limit_logged: RefCell<LogInterval>,
}

impl Topics {
    pub(super) fn new(server: Served) -> Topics {
        Topics { server, bodies: Bodies::default(), limit_logged: RefCell::default() }
    }

    /// `GET /topics`.
    pub(super) async fn list(&self, query: &str) -> Reply {
        let query = match TopicQuery::parse(query) {
            Ok(query) => query,
            Err(fault) => return refuse(&fault),
        };
        let server = self.server.handle();
        // The call waits for the shards, so it must not block this thread.
        let topics = tokio::task::spawn_blocking(move || server.topics().unwrap_or_default())
            .await
            .unwrap_or_default();
        Reply::json(StatusCode::OK, report::list(self.server.shards(), topics, &query))
    }

    /// `GET /topics/{segment}`.
    pub(super) async fn one(&self, segment: &str) -> Reply {
        let name = match topic_of(segment) {
            Ok(name) => name,
            Err(fault) => return refuse(&fault),
        };
        let server = self.server.handle();
        let asked = name.clone();
        let ask = move || {
            let mut ages = DeliveryAges::default();
            server.snapshots()?.iter().for_each(|snapshot| ages.add(&snapshot.counters.delivery_ages));
            Ok::<_, OnShard>((server.topic(&asked)?, ages))
        };
        let answers = tokio::task::spawn_blocking(ask).await;
        let (reports, ages) = answers.ok().and_then(Result::ok).unwrap_or_default();
        match report::one(self.server.shards(), &name, reports, &ages) {
            Some(json) => Reply::json(StatusCode::OK, json),
            None => Reply::problem(StatusCode::NOT_FOUND, "unknown-topic", "no such topic"),
        }
    }

    /// `POST /topics/{segment}`.
    pub(super) async fn publish(
        &self,
        segment: &str,
        request: &mut Request<RequestBody>,
    ) -> Result<Reply, InvalidBody> {
        let topic = topic_of(segment)?;
        let traceparent = request.headers().get("traceparent").and_then(|field| field.to_str().ok());
        let span = traces::post(traceparent);
        let format = Format::of(request.headers())?;
        let key = key_parameter(request.uri().query().unwrap_or_default())?;
        let idempotency_key = idempotency_key(request.headers(), format)?;
        let max_message = self.server.handle().max_message();
        let bytes_max = match format {
            Format::Single(_) => max_message,
            Format::Batch if !key.is_empty() => {
                return Err(InvalidBody::bad("key", "the messages of a batch have their own"));
            }
            Format::Batch => ADMIN_BATCH_BYTES_MAX.max(2 * max_message),
        };
        let mut held = match self.bodies.read(request.body_mut(), bytes_max).await {
            Ok(held) => held,
            Err(error) => return Ok(no_body(error, bytes_max)),
        };
        let messages = format.messages(std::mem::take(&mut held.bytes), &key, &idempotency_key)?;
        let count = messages.len();
        let peer = request.extensions().get().copied();
        let published = self.publish_messages(peer, &topic, messages).await;
        // The body was copied until now.
        drop(held);
        let reply = match (published, format) {
            (Err(error), _) => not_published(error),
            (Ok(published), Format::Single(_)) => single(&topic, &published),
            (Ok(published), Format::Batch) => batch(&topic, &published),
        };
        if let Some(span) = span {
            span.end(&topic, reply.status.as_u16(), count);
        }
        Ok(reply)
    }

    /// Publishes messages of a peer.
    pub(super) async fn publish_messages(
        &self,
        peer: Option<AdminPeer>,
        topic: &str,
        messages: Vec<OwnedPublication>,
    ) -> Result<Published, PublishError> {
        let (server, name) = (self.server.handle(), topic.to_owned());
        // The call waits for the shard, so it must not block this thread.
        let publishing = tokio::task::spawn_blocking(move || {
            machinery::commands(&server).publish_at_once(&name, messages, SNAPSHOT_TIMEOUT)
        });
        let published = publishing.await.unwrap_or(Err(PublishError::Ended));
        if published.as_ref().is_ok_and(|results| results.contains(&Err(Refused::TooManyTopics))) {
            self.log_limit(peer);
        }
        published
    }

    /// Logs that there is no room for a topic. The shard has counted it.
    fn log_limit(&self, peer: Option<AdminPeer>) {
        let Some(left_out) = self.limit_logged.borrow_mut().due(monotonic_now(), LIMIT_LOG_INTERVAL) else {
            return;
        };
        let peer = peer.map(|peer| display(Offender::from(peer)));
        tracing::warn!(peer, limit = Limit::Topics.name(), left_out, "address over a limit");
    }
}

/// The topic of the last path segment, percent-encoded as in the server's own routes.
fn topic_of(segment: &str) -> Result<String, InvalidBody> {
    let name = (!segment.contains('/')).then(|| percent_decode_path(segment)).flatten();
    name.filter(|name| is_topic_name(name)).ok_or_else(|| {
        InvalidBody::bad(
            "topic",
            format!(
                "must be one path segment of 1 to {TOPIC_BYTES_MAX} bytes, UTF-8 without control characters, \
                 percent-encoded where needed"
            ),
        )
    })
}

/// The parameters of a query in their order, percent-decoded.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (&str, Option<String>)> {
    query.split('&').filter(|parameter| !parameter.is_empty()).map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (name, percent_decode_path(value))
    })
}

pub(super) fn unknown_parameter() -> InvalidBody {
    InvalidBody::bad("query", "has an unknown parameter")
}

/// The key of a single message; empty for none.
fn key_parameter(query: &str) -> Result<String, InvalidBody> {
    let mut key = String::new();
    for (name, value) in parameters(query) {
        if name != "key" {
            return Err(unknown_parameter());
        }
        if !key.is_empty() {
            return Err(InvalidBody::bad("key", "is given twice"));
        }
        key = value.ok_or_else(|| InvalidBody::bad("key", "must be percent-encoded UTF-8"))?;
        check_key(&key)?;
    }
    Ok(key)
}

// ---- replies ----

#[derive(Debug, Serialize)]
struct Problem<'a> {
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    message: &'a str,
}

#[derive(Debug, Serialize)]
struct Single<'a> {
    topic: &'a str,
    epoch: String,
    offset: u64,
}

#[derive(Debug, Serialize)]
struct Batch<'a> {
    topic: &'a str,
    refused: usize,
    results: Vec<Outcome>,
    /// The first refusal, if no message was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refusal>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Taken { epoch: String, offset: u64 },
    Refused { error: Refusal },
}

#[derive(Debug, Serialize)]
struct Refusal {
    code: &'static str,
    message: String,
}

impl From<Result<Position, Refused>> for Outcome {
    fn from(result: Result<Position, Refused>) -> Outcome {
        match result {
            Ok(position) => {
                let (epoch, offset) = travelling(position);
                Outcome::Taken { epoch, offset }
            }
            Err(refused) => Outcome::Refused { error: Refusal::of(refused) },
        }
    }
}

impl Refusal {
    fn of(refused: Refused) -> Refusal {
        Refusal { code: refused.code(), message: refused.to_string() }
    }
}

/// A position in JSON: the epoch is hexadecimal.
fn travelling(position: Position) -> (String, u64) {
    (format!("{:x}", position.epoch), position.offset)
}

fn single(topic: &str, published: &Published) -> Reply {
    match published.first() {
        Some(Ok(position)) => {
            let (epoch, offset) = travelling(*position);
            Reply::json(StatusCode::OK, serde_json::to_vec(&Single { topic, epoch, offset }))
        }
        Some(Err(refused)) => {
            let (status, retry_after) = response_of(*refused);
            with_retry(Reply::problem(status, refused.code(), &refused.to_string()), retry_after)
        }
        None => not_published(PublishError::Ended),
    }
}

fn batch(topic: &str, published: &Published) -> Reply {
    let results: Vec<Outcome> = published.iter().copied().map(Outcome::from).collect();
    let refused = published.iter().filter(|result| result.is_err()).count();
    let nothing = (refused == published.len()).then(|| published.iter().find_map(|result| result.err()));
    let reason = nothing.flatten();
    let body = Batch { topic, refused, results, error: reason.map(Refusal::of) };
    let status = reason.map_or(StatusCode::OK, |reason| response_of(reason).0);
    let reply = Reply::json(status, serde_json::to_vec(&body));
    let hindered = published.iter().find_map(|result| response_of(result.err()?).1);
    with_retry(reply, hindered)
}

fn not_published(error: PublishError) -> Reply {
    let message = error.to_string();
    let problem = |status, code| Reply::problem(status, code, &message);
    match error {
        PublishError::BadTopic => refuse(&InvalidBody::bad("topic", message)),
        PublishError::BadKey(_) => refuse(&InvalidBody::bad("key", message)),
        PublishError::BadIdempotencyKey(_) => refuse(&InvalidBody::bad("idempotency_key", message)),
        PublishError::TooDeep(_) => refuse(&InvalidBody::bad("data", message)),
        PublishError::TooMany => refuse(&InvalidBody::TooMany),
        PublishError::Busy => with_retry(problem(StatusCode::TOO_MANY_REQUESTS, "busy"), Some("1")),
        // The server has ended. Only handlers get others.
        _ => problem(StatusCode::SERVICE_UNAVAILABLE, "ended"),
    }
}

pub(super) fn no_body(error: BodyError, bytes_max: u64) -> Reply {
    match error {
        BodyError::TooLong => Reply::problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            Refused::TooLarge.code(),
            &format!("the body has more than {bytes_max} bytes"),
        ),
        BodyError::NoRoom => not_published(PublishError::Busy),
        BodyError::TooLate => Reply::problem(StatusCode::REQUEST_TIMEOUT, "timeout", "the body timed out"),
        BodyError::Broken => Reply::problem(StatusCode::BAD_REQUEST, "bad-body", "the body ended too early"),
    }
}

pub(super) fn refuse(fault: &InvalidBody) -> Reply {
    match fault {
        InvalidBody::Media(message) => {
            Reply::problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", message)
        }
        InvalidBody::TooMany => Reply::problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-many-messages",
            &format!("a batch has at most {OUTSIDE_MESSAGES_MAX} messages"),
        ),
        InvalidBody::Bad { code, field, line, message } => {
            let problem = Problem { code, field: *field, line: *line, message };
            let body = serde_json::to_vec(&BTreeMap::from([("error", problem)]));
            Reply::json(StatusCode::BAD_REQUEST, body)
        }
    }
}

/// The status of a refusal, and the seconds of its `Retry-After`.
fn response_of(refused: Refused) -> (StatusCode, Option<&'static str>) {
    let (status, retry_after) = refused.http();
    (StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), retry_after)
}

pub(super) fn with_retry(mut reply: Reply, seconds: Option<&'static str>) -> Reply {
    reply.headers.extend(seconds.map(|seconds| (RETRY_AFTER, HeaderValue::from_static(seconds))));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<T: std::fmt::Debug>(read: Result<T, InvalidBody>) -> &'static str {
        match read {
            Err(InvalidBody::Bad { code: "bad-field", field: Some(field), .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    fn json(reply: &Reply) -> serde_json::Value {
        serde_json::from_slice(&reply.body).expect("JSON")
    }

    #[test]
    fn topics_are_one_segment_percent_encoded() {
        assert_eq!(topic_of("a%2Fb%20%C3%A4").expect("a name"), "a/b ä");
        let long = "t".repeat(TOPIC_BYTES_MAX + 1);
        for wrong in ["", "a/b", "%", "%ff", "a b", "%00", "a%0A", "%7f", "%C2%85", &long] {
            assert_eq!(field(topic_of(wrong)), "topic", "{wrong}");
        }
        assert_eq!(topic_of(&long[1..]).expect("the longest").len(), TOPIC_BYTES_MAX);
    }

    #[test]
    fn parameters_are_known_and_given_once() {
        assert_eq!(key_parameter("").expect("none"), "");
        assert_eq!(key_parameter("key=a%26b+c").expect("a key"), "a&b+c");
        for wrong in ["key", "key=", "key=%ff", "key=a&key=b", &format!("key={}", "k".repeat(256))] {
            assert_eq!(field(key_parameter(wrong)), "key", "{wrong}");
        }
        assert_eq!(field(key_parameter("Key=a")), "query");
    }

    #[test]
    fn a_batch_of_which_something_was_taken_is_answered_by_200() {
        let taken = Ok(Position { epoch: 0x1f3a, offset: 7 });
        let reply = batch("t", &vec![taken, Err(Refused::TooLarge), Err(Refused::Busy)]);
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.headers, [(RETRY_AFTER, HeaderValue::from_static("1"))]);
        let body = json(&reply);
        assert_eq!((&body["topic"], &body["refused"]), (&"t".into(), &2.into()));
        assert_eq!(body["results"][0], serde_json::json!({"epoch": "1f3a", "offset": 7}));
        assert_eq!(body["results"][1]["error"]["code"], "too-large");
        assert!(body.get("error").is_none());
    }

    #[test]
    fn what_was_refused_says_why_and_when_to_try_again() {
        for (refused, status, retry) in [
            (Refused::Busy, 429, true),
            (Refused::OutOfMemory, 503, true),
            (Refused::TooManyTopics, 503, true),
            (Refused::Draining, 503, true),
            (Refused::TooLarge, 413, false),
            (Refused::NoKey, 400, false),
            (Refused::TooManyKeys, 400, false),
            (Refused::KeyReused, 422, false),
            (Refused::RateLimited, 429, true),
            (Refused::Unreachable, 503, true),
            (Refused::Uncertain, 503, true),
            (Refused::Behind, 503, true),
            (Refused::NoStorage, 503, true),
        ] {
            for reply in [single("t", &vec![Err(refused)]), batch("t", &vec![Err(refused); 2])] {
                assert_eq!(reply.status.as_u16(), status);
                assert_eq!(!reply.headers.is_empty(), retry, "{refused:?}");
                assert_eq!(json(&reply)["error"]["code"], refused.code());
            }
        }
    }
}
