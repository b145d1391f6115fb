//! `POST /broadcast`: one message to several topics, or a batch of messages to any topics.
//!
//! A batch is read and published in blocks: the messages of a block at once, those of one topic in order, and the next block once
//! all of them are answered.

use std::collections::BTreeMap;
use std::mem;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use serde::Serialize;
use tokio::time::{Duration, Instant};

use super::{Outcome, Refusal, Topics, no_body, not_published, refuse, single};
use crate::http::lines::LineBounds;
use crate::http::socket::AdminPeer;
use crate::http::{Reply, RequestBody};
use crate::limits::{
    ADMIN_BATCH_BYTES_MAX, ADMIN_BROADCAST_BLOCK_BYTES, ADMIN_BROADCAST_BLOCK_MESSAGES,
    ADMIN_BROADCAST_BYTES_MAX, ADMIN_BROADCAST_MESSAGES_MAX, ADMIN_BROADCAST_TIME,
};
use crate::publications::{Addressed, Format, InvalidBody, addressed, idempotency_key, with_idempotency_key};
use echoring_broker::limits::{OUTSIDE_MESSAGES_MAX, SNAPSHOT_TIMEOUT};
use echoring_server::{OwnedPublication, PublishError, machinery};
use echoring_topics::{Content, Position, Refused, is_topic_name};

/// The result of a message.
type PublishResult = Result<Position, PublishError>;

#[derive(Debug, Serialize)]
struct Results<'a> {
    refused: usize,
    results: Vec<OfTopic<'a>>,
}

#[derive(Debug, Serialize)]
struct OfTopic<'a> {
    topic: &'a str,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Topics {
    /// `POST /broadcast`.
    pub(crate) async fn broadcast(&self, request: &mut Request<RequestBody>) -> Reply {
        let answered = match Format::of(request.headers()) {
            _ if request.uri().query().is_some_and(|query| !query.is_empty()) => {
                Err(super::unknown_parameter())
            }
            Ok(Format::Single(Content::Json)) => self.to_several(request).await,
            Ok(Format::Batch) => self.batch(request).await,
            Ok(Format::Single(_)) => {
                Err(InvalidBody::Media("use Content-Type: application/json or application/x-ndjson"))
            }
            Err(fault) => Err(fault),
        };
        answered.unwrap_or_else(|fault| refuse(&fault))
    }

    async fn to_several(&self, request: &mut Request<RequestBody>) -> Result<Reply, InvalidBody> {
        let until = Instant::now() + Duration::from_nanos(ADMIN_BROADCAST_TIME);
        let of_request = idempotency_key(request.headers(), Format::Single(Content::Json))?;
        let bytes_max = ADMIN_BATCH_BYTES_MAX.max(2 * self.server.handle().max_message());
        let held = match self.bodies.read(request.body_mut(), bytes_max).await {
            Ok(held) => held,
            Err(error) => return Ok(no_body(error, bytes_max)),
        };
        let (topics, message) = several(&held.bytes)?;
        let message = with_idempotency_key(message, &of_request, None)?;
        let peer = request.extensions().get().copied();
        let at_once = (ADMIN_BROADCAST_BLOCK_BYTES / message.bytes()).max(1) as usize;
        let mut results: Vec<PublishResult> = Vec::with_capacity(topics.len());
        for block in topics.chunks(at_once.min(ADMIN_BROADCAST_BLOCK_MESSAGES)) {
            let block = block.iter().map(|topic| (topic.clone(), message.clone())).collect();
            results.extend(self.publish_block(peer, block, until).await);
        }
        drop(held);
        Ok(results_reply(&topics, &results))
    }

    async fn batch(&self, request: &mut Request<RequestBody>) -> Result<Reply, InvalidBody> {
        let of_request = idempotency_key(request.headers(), Format::Batch)?;
        let peer = request.extensions().get().copied();
        let max_message = self.server.handle().max_message();
        let bounds = LineBounds {
            bytes_max: ADMIN_BROADCAST_BYTES_MAX.max(2 * max_message),
            line_bytes_max: ADMIN_BATCH_BYTES_MAX.max(2 * max_message),
            block_bytes: ADMIN_BROADCAST_BLOCK_BYTES,
            until: Instant::now() + Duration::from_nanos(ADMIN_BROADCAST_TIME),
        };
        let mut lines = self.bodies.lines(request.body_mut(), bounds);
        let mut batch = Batch::new(of_request);
        let end = loop {
            let block = match lines.next().await {
                Ok(Some(block)) => block,
                Ok(None) => break None,
                Err(error) => break Some(no_body(error, bounds.bytes_max)),
            };
            let mut rest = &*block.bytes;
            while !rest.is_empty() && batch.is_within_bound() {
                let (messages, behind) = batch.read(rest);
                rest = behind;
                let results = self.publish_block(peer, messages, bounds.until).await;
                batch.answer(results);
            }
            if !batch.is_within_bound() {
                break Some(too_many());
            }
        };
        Ok(batch.reply(end))
    }

    /// Publishes messages to their topics at once, those of one topic in order. None once the time is over.
    async fn publish_block(
        &self,
        peer: Option<AdminPeer>,
        messages: Vec<(String, OwnedPublication)>,
        until: Instant,
    ) -> Vec<PublishResult> {
        let mut results = vec![Err(PublishError::Busy); messages.len()];
        if messages.is_empty() || Instant::now() >= until {
            return results;
        }
        let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut of_topics: BTreeMap<String, Vec<OwnedPublication>> = BTreeMap::new();
        for (place, (topic, message)) in messages.into_iter().enumerate() {
            places.entry(topic.clone()).or_default().push(place);
            of_topics.entry(topic).or_default().push(message);
        }
        let server = self.server.handle();
        // The call waits for the shards, so it must not block this thread.
        let publishing = tokio::task::spawn_blocking(move || {
            machinery::commands(&server).publish_each_at_once(of_topics, SNAPSHOT_TIMEOUT)
        });
        let published = publishing.await.unwrap_or_default();
        for (at, places) in places.into_values().enumerate() {
            for (index, place) in places.into_iter().enumerate() {
                results[place] = match published.get(at) {
                    Some(Ok(of_topic)) => of_topic
                        .get(index)
                        .map_or(Err(PublishError::Ended), |result| result.map_err(Into::into)),
                    Some(Err(error)) => Err(*error),
                    None => Err(PublishError::Ended),
                };
            }
        }
        if results.contains(&Err(PublishError::Refused(Refused::TooManyTopics))) {
            self.log_limit(peer);
        }
        results
    }
}

/// The topics and the message of a JSON object.
fn several(body: &[u8]) -> Result<(Vec<String>, OwnedPublication), InvalidBody> {
    let Addressed { topics, message, .. } = addressed(body)?;
    let topics =
        topics.filter(|topics| !topics.is_empty() && topics.iter().all(|topic| is_topic_name(topic)));
    let topics = topics.ok_or_else(|| InvalidBody::bad("topics", "must list names of topics"))?;
    if topics.len() as u64 > OUTSIDE_MESSAGES_MAX { Err(InvalidBody::TooMany) } else { Ok((topics, message)) }
}

fn too_many() -> Reply {
    let message = format!("a batch has at most {ADMIN_BROADCAST_MESSAGES_MAX} messages");
    Reply::problem(StatusCode::PAYLOAD_TOO_LARGE, "too-many-messages", &message)
}

/// The answer about one message.
fn reply_of(topic: &str, result: PublishResult) -> Reply {
    match result {
        Ok(position) => single(topic, &vec![Ok(position)]),
        Err(PublishError::Refused(refused)) => single(topic, &vec![Err(refused)]),
        Err(error) => not_published(error),
    }
}

fn results_reply(topics: &[String], results: &[PublishResult]) -> Reply {
    let outcome = |result: PublishResult| match result {
        Ok(position) => Ok(position).into(),
        Err(PublishError::Refused(refused)) => Err(refused).into(),
        Err(PublishError::Busy) => Err(Refused::Busy).into(),
        Err(error) => Outcome::Refused { error: Refusal { code: "ended", message: error.to_string() } },
    };
    let of_topics =
        topics.iter().zip(results).map(|(topic, result)| OfTopic { topic, outcome: outcome(*result) });
    let refused = results.iter().filter(|result| result.is_err()).count();
    let body = Results { refused, results: of_topics.collect() };
    let mut status = Status::default();
    topics.iter().zip(results).for_each(|(topic, result)| status.note(&reply_of(topic, *result)));
    status.reply(Reply::json(StatusCode::OK, serde_json::to_vec(&body)))
}

/// The status of an answer about several messages: that of the first refusal if none was accepted.
#[derive(Debug, Default)]
struct Status {
    has_accepted: bool,
    refused: Option<StatusCode>,
    /// When to try again, if a refusal will pass.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Status {
    /// Notes the answer about one message.
    fn note(&mut self, reply: &Reply) {
        if reply.status.is_success() {
            self.has_accepted = true;
            return;
        }
        self.refused.get_or_insert(reply.status);
        if self.headers.is_empty() {
            self.headers.clone_from(&reply.headers);
        }
    }

    fn reply(self, reply: Reply) -> Reply {
        let refused = self.refused.filter(|_| !self.has_accepted);
        Reply { status: refused.unwrap_or(StatusCode::OK), headers: self.headers, ..reply }
    }
}

/// The lines of a batch, in order: read, published and answered.
#[derive(Debug, Default)]
struct Batch {
    /// The idempotency key of the request; empty for none.
    of_request: String,
    /// The number of the latest line.
    line: usize,
    /// Lines that are not blank.
    count: usize,
    /// Those that are read, and not answered.
    pending: Vec<Pending>,
    /// Topics that have refused a message that they may accept later: to keep the order, they get no further one.
    hindered: BTreeMap<String, PublishError>,
    answers: Vec<u8>,
    status: Status,
}

#[derive(Debug)]
enum Pending {
    /// It is published to this topic.
    Published(String),
    /// It is not published.
    Refused(Reply),
}

impl Batch {
    fn new(of_request: String) -> Batch {
        Batch { of_request, ..Batch::default() }
    }

    fn is_within_bound(&self) -> bool {
        self.count <= ADMIN_BROADCAST_MESSAGES_MAX
    }

    /// Reads lines, as many as are published at once. Returns their messages, and the other lines.
    fn read<'b>(&mut self, lines: &'b [u8]) -> (Vec<(String, OwnedPublication)>, &'b [u8]) {
        let (mut messages, mut rest) = (Vec::new(), lines);
        while !rest.is_empty() && self.pending.len() < ADMIN_BROADCAST_BLOCK_MESSAGES {
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            let (line, behind) = rest.split_at(end);
            rest = behind;
            self.line += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            self.count += 1;
            if !self.is_within_bound() {
                break;
            }
            let pending = match self.message(line) {
                Err(fault) => Pending::Refused(refuse(&fault.in_line(self.line))),
                Ok((topic, message)) => match self.hindered.get(&topic) {
                    Some(error) => Pending::Refused(reply_of(&topic, Err(*error))),
                    None => {
                        messages.push((topic.clone(), message));
                        Pending::Published(topic)
                    }
                },
            };
            self.pending.push(pending);
        }
        (messages, rest)
    }

    fn message(&self, line: &[u8]) -> Result<(String, OwnedPublication), InvalidBody> {
        let Addressed { topic, message, .. } = addressed(line)?;
        let topic = topic.filter(|topic| is_topic_name(topic));
        let topic = topic.ok_or_else(|| InvalidBody::bad("topic", "must be the name of a topic"))?;
        Ok((topic, with_idempotency_key(message, &self.of_request, Some(self.count - 1))?))
    }

    /// Answers the lines that were read, whose messages have these results.
    fn answer(&mut self, results: Vec<PublishResult>) {
        let mut results = results.into_iter();
        for pending in mem::take(&mut self.pending) {
            let reply = match pending {
                Pending::Refused(reply) => reply,
                Pending::Published(topic) => {
                    let result = results.next().unwrap_or(Err(PublishError::Ended));
                    let reply = reply_of(&topic, result);
                    if let Some(error) = result.err().filter(|error| error.is_passing()) {
                        self.hindered.insert(topic, error);
                    }
                    reply
                }
            };
            self.add(&reply);
        }
    }

    fn add(&mut self, reply: &Reply) {
        self.status.note(reply);
        self.answers.extend_from_slice(&reply.body);
    }

    /// The answer. Its last line is the reason why further lines were not read, if there is one.
    fn reply(mut self, end: Option<Reply>) -> Reply {
        let is_empty = self.count == 0 && end.is_none();
        let end = end.or_else(|| is_empty.then(|| refuse(&InvalidBody::bad_json("the batch has no line"))));
        end.iter().for_each(|end| self.add(end));
        let reply = Reply {
            content_type: "application/x-ndjson",
            body: self.answers,
            ..Reply::empty(StatusCode::OK)
        };
        self.status.reply(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(offset: u64) -> PublishResult {
        Ok(Position { epoch: 0x1f, offset })
    }

    fn lines(reply: &Reply) -> Vec<serde_json::Value> {
        let lines = reply.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
    }

    fn codes(reply: &Reply) -> Vec<Option<String>> {
        lines(reply).iter().map(|line| line["error"]["code"].as_str().map(str::to_owned)).collect()
    }

    #[test]
    fn a_batch_is_answered_line_by_line_in_order() {
        let mut batch = Batch::new("once".to_owned());
        let text = concat!(
            r#"{"topic":"a","data":{"x":1},"key":"k"}"#,
            "\r\n\n",
            r#"{"topic":"b","text":"b"}"#,
            "\n[]\n",
            r#"{"topic":"","text":"b"}"#,
            "\n",
            r#"{"topics":["a"],"text":"b"}"#,
            "\n",
            r#"{"topic":"a","base64":"AAEC"}"#,
        );
        let (messages, rest) = batch.read(text.as_bytes());
        assert_eq!(rest, b"");
        let read: Vec<_> = messages
            .iter()
            .map(|(topic, message)| (&**topic, &*message.payload, &*message.key, &*message.idempotency_key))
            .collect();
        let expected: [(&str, &[u8], &str, &str); 3] = [
            ("a", b"{\"x\":1}", "k", "once\n0"),
            ("b", b"b", "", "once\n1"),
            ("a", b"\0\x01\x02", "", "once\n5"),
        ];
        assert_eq!(read, expected);
        batch.answer(vec![taken(7), Err(Refused::TooLarge.into()), taken(8)]);
        let reply = batch.reply(None);
        assert_eq!((reply.status, reply.headers.len()), (StatusCode::OK, 0));
        let lines = lines(&reply);
        assert_eq!(lines[0], serde_json::json!({"topic": "a", "epoch": "1f", "offset": 7}));
        assert_eq!((&lines[2]["error"]["line"], &lines[3]["error"]["field"]), (&4.into(), &"topic".into()));
        assert_eq!(lines[5]["offset"], 8);
        let codes = codes(&reply);
        let codes: Vec<_> = codes.iter().map(|code| code.as_deref().unwrap_or("")).collect();
        assert_eq!(codes, ["", "too-large", "bad-json", "bad-field", "bad-field", ""]);
    }

    #[test]
    fn behind_a_refusal_that_will_pass_a_topic_gets_nothing_more() {
        let mut batch = Batch::default();
        let text = b"{\"topic\":\"a\",\"text\":\"\"}\n{\"topic\":\"b\",\"text\":\"\"}\n";
        assert_eq!(batch.read(text).0.len(), 2);
        batch.answer(vec![Err(Refused::OutOfMemory.into()), Err(Refused::TooLarge.into())]);
        let (messages, _) = batch.read(text);
        assert_eq!(messages.iter().map(|(topic, _)| &**topic).collect::<Vec<_>>(), ["b"]);
        batch.answer(vec![Err(PublishError::Busy)]);
        assert_eq!(batch.read(text).0.len(), 0);
        batch.answer(Vec::new());
        let reply = batch.reply(None);
        assert_eq!((reply.status.as_u16(), reply.headers.len()), (503, 1), "that of the first");
        let codes = codes(&reply);
        let codes: Vec<_> = codes.iter().map(|code| code.as_deref().unwrap_or("")).collect();
        assert_eq!(codes, ["out-of-memory", "too-large", "out-of-memory", "busy", "out-of-memory", "busy"]);
    }

    #[test]
    fn a_batch_has_a_bounded_number_of_messages() {
        let line = b"{\"topic\":\"t\",\"text\":\"\"}\n";
        let text = line.repeat(ADMIN_BROADCAST_MESSAGES_MAX);
        let mut batch = Batch::default();
        let (mut rest, mut count) = (&*text, 0);
        while !rest.is_empty() {
            let (messages, behind) = batch.read(rest);
            assert!((1..=ADMIN_BROADCAST_BLOCK_MESSAGES).contains(&messages.len()));
            count += messages.len() as u64;
            batch.answer((0..messages.len()).map(|_| taken(1)).collect());
            rest = behind;
        }
        assert!(batch.is_within_bound() && count == ADMIN_BROADCAST_MESSAGES_MAX as u64);
        assert_eq!(batch.read(line).0.len(), 0);
        assert!(!batch.is_within_bound());
        let reply = batch.reply(Some(too_many()));
        assert_eq!(reply.status, StatusCode::OK, "the others are published");
        let codes = codes(&reply);
        assert_eq!(
            (codes.len(), codes.last().cloned().flatten().as_deref()),
            (10_001, Some("too-many-messages"))
        );
    }

    #[test]
    fn a_batch_without_a_line_is_none() {
        let mut batch = Batch::default();
        assert_eq!(batch.read(b" \r\n\n").0.len(), 0);
        assert_eq!(batch.reply(None).status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn one_message_for_several_topics_has_a_result_for_each() {
        let (topics, message) = several(br#"{"topics":["a","b"],"text":"x","key":"k"}"#).expect("right");
        assert_eq!((topics.len(), &*message.key), (2, "k"));
        let many = format!(
            r#"{{"topics":[{}],"text":""}}"#,
            vec!["\"t\""; OUTSIDE_MESSAGES_MAX as usize + 1].join(",")
        );
        assert_eq!(several(many.as_bytes()).expect_err("too many"), InvalidBody::TooMany);
        for wrong in [
            "[]",
            r#"{"text":""}"#,
            r#"{"topics":[],"text":""}"#,
            r#"{"topics":["a",""],"text":""}"#,
            r#"{"topics":"a","text":""}"#,
            r#"{"topic":"a","text":""}"#,
            r#"{"topics":["a"]}"#,
        ] {
            assert!(several(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let reply = results_reply(&topics, &[taken(7), Err(PublishError::Busy)]);
        assert_eq!((reply.status, reply.headers.len()), (StatusCode::OK, 1));
        let body = &lines(&reply)[0];
        assert_eq!(body["refused"], 1);
        assert_eq!(body["results"][0], serde_json::json!({"topic": "a", "epoch": "1f", "offset": 7}));
        assert_eq!(
            (&body["results"][1]["topic"], &body["results"][1]["error"]["code"]),
            (&"b".into(), &"busy".into())
        );
        for (error, status) in
            [(Refused::NoKey.into(), 400), (PublishError::Ended, 503), (PublishError::Busy, 429)]
        {
            assert_eq!(results_reply(&topics, &[Err(error); 2]).status.as_u16(), status);
        }
    }
}
