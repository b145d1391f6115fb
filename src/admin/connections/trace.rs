//! `POST /trace`: follows one connection, the connections of an identity, or a topic for a time, and answers with what happens as lines
//! of JSON.
//!
//! The shards put their lines into a bounded queue, and count those for which it has no room. A task passes the lines on to the client as
//! fast as that reads them; when the client is gone, the shards notice that nobody takes the lines any more.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_local;
use tokio::time::{Instant, interval_at, sleep_until};

use super::Connections;
use crate::http::socket::AdminPeer;
use crate::http::{Bodies, Reply, RequestBody};
use crate::limits::{
    TRACE_ALIVE_INTERVAL, TRACE_BODY_BYTES_MAX, TRACE_LINES_MAX, TRACE_TIME_DEFAULT_S, TRACE_TIME_MAX_S,
};
use crate::publications::InvalidBody;
use crate::topics::refuse;
use echoring_auth::limits::SUBJECT_BYTES_MAX;
use echoring_proto::limits::SECOND;
use echoring_server::machinery::{self, ConnectionId, Missing, WatchOrder, WatchTarget};
use echoring_topics::is_topic_name;

/// The body of a request.
#[derive(Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
struct TraceRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
}

/// The target of a trace. The shard of a connection is not known yet.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Connection(ConnectionId),
    Everywhere(WatchTarget),
}

impl TraceRequest {
    fn parse(body: &[u8]) -> Result<(TraceRequest, Target, u64), InvalidBody> {
        let request: TraceRequest =
            serde_json::from_slice(body).map_err(|error| InvalidBody::bad_json(error.to_string()))?;
        let TraceRequest { connection, identity, topic, seconds } = &request;
        let target = match (connection, identity, topic) {
            (Some(id), None, None) => {
                let id = id
                    .parse()
                    .map_err(|()| InvalidBody::bad("connection", "must be an id as in /connections"))?;
                Target::Connection(id)
            }
            (None, Some(subject), None) if (1..=SUBJECT_BYTES_MAX).contains(&subject.len()) => {
                Target::Everywhere(WatchTarget::Identity(subject.clone()))
            }
            (None, Some(_), None) => return Err(InvalidBody::bad("identity", "must have 1 to 255 bytes")),
            (None, None, Some(name)) if is_topic_name(name) => {
                Target::Everywhere(WatchTarget::Topic(name.clone()))
            }
            (None, None, Some(_)) => return Err(InvalidBody::bad("topic", "must be the name of a topic")),
            _ => return Err(InvalidBody::bad_json("say whom to follow: one connection, identity or topic")),
        };
        let seconds = seconds.unwrap_or(TRACE_TIME_DEFAULT_S);
        if !(1..=TRACE_TIME_MAX_S).contains(&seconds) {
            return Err(InvalidBody::bad("seconds", format!("must be from 1 to {TRACE_TIME_MAX_S}")));
        }
        Ok((request, target, seconds))
    }
}

impl Connections {
    /// Follows what a request says.
    pub(crate) async fn trace(&self, request: &mut Request<RequestBody>, bodies: &Bodies) -> Reply {
        // Only who asks at the admin address itself is named in the log, and can be answered for so long.
        let Some(peer) = request.extensions().get::<AdminPeer>().copied() else {
            return Reply::text(StatusCode::NOT_FOUND, "only the admin address itself follows clients");
        };
        let Ok(body) = bodies.read(request.body_mut(), TRACE_BODY_BYTES_MAX).await else {
            return refuse(&InvalidBody::bad_json("expected one JSON object"));
        };
        let (asked, target, seconds) = match TraceRequest::parse(&body.bytes) {
            Ok(parsed) => parsed,
            Err(fault) => return refuse(&fault),
        };
        let Ok(permit) = Arc::clone(&self.traces).try_acquire_owned() else {
            return Reply::busy("too many traces at once");
        };
        let (shard, target) = match target {
            Target::Everywhere(target) => (None, target),
            Target::Connection(id) => match self.asked(move |pages| pages.own_shard(id)).await {
                Ok(Some((shard, token))) => (Some(shard), WatchTarget::Connection(token)),
                Ok(None) => {
                    let hint = "no such open connection of this process";
                    return Reply::problem(StatusCode::NOT_FOUND, "unknown-connection", hint);
                }
                Err(error) => return super::failed(&error),
            },
        };
        tracing::info!(
            %peer,
            connection = asked.connection,
            identity = asked.identity,
            topic = asked.topic,
            seconds,
            "a client or a topic is traced"
        );
        let (events, lines) = mpsc::channel(TRACE_LINES_MAX);
        let order = WatchOrder { target, time: seconds * SECOND, events };
        machinery::commands(&self.server.handle()).watch(shard, &order);
        let (to, body) = mpsc::channel(1);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut begun = json!({"event": "started", "at": at, "seconds": seconds, "follows": asked});
        if machinery::previous(&self.server.handle()).is_some_and(|previous| !previous.is_gone()) {
            begun["predecessor"] = json!(Missing::Unsupported);
        }
        spawn_local(pass_on(begun, lines, to, Duration::from_secs(seconds), permit));
        Reply { content_type: "application/x-ndjson", lines: Some(body), ..Reply::empty(StatusCode::OK) }
    }
}

/// Passes lines on until the time is over, the shards have ended, or the client is gone.
async fn pass_on(
    begun: serde_json::Value,
    mut lines: mpsc::Receiver<Bytes>,
    to: mpsc::Sender<Bytes>,
    time: Duration,
    _permit: OwnedSemaphorePermit,
) {
    let end = Instant::now() + time;
    let mut alive = interval_at(Instant::now() + TRACE_ALIVE_INTERVAL, TRACE_ALIVE_INTERVAL);
    let mut next = Some(line(&begun));
    while let Some(text) = next {
        if to.send(text).await.is_err() {
            return;
        }
        next = tokio::select! {
            biased;
            () = to.closed() => return,
            text = lines.recv() => text,
            () = sleep_until(end) => None,
            // A client that is gone is noticed when it is sent something.
            _ = alive.tick() => Some(line(&json!({"event": "alive"}))),
        };
    }
    // It may be gone, too.
    let _ = to.send(line(&json!({"event": "ended"}))).await;
}

fn line(value: &serde_json::Value) -> Bytes {
    format!("{value}\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_one_thing_to_follow_and_for_how_long() {
        let parse =
            |text: &str| TraceRequest::parse(text.as_bytes()).map(|(_, target, seconds)| (target, seconds));
        let id = "9c".parse().expect("an id");
        assert_eq!(parse(r#"{"connection":"9c"}"#), Ok((Target::Connection(id), TRACE_TIME_DEFAULT_S)));
        let identity = Target::Everywhere(WatchTarget::Identity("alice".into()));
        assert_eq!(parse(r#"{"identity":"alice","seconds":600}"#), Ok((identity, 600)));
        let topic = Target::Everywhere(WatchTarget::Topic("a b".into()));
        assert_eq!(parse(r#"{"topic":"a b","seconds":1}"#), Ok((topic, 1)));
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"connection":"0-17"}"#,
            r#"{"identity":""}"#,
            r#"{"topic":""}"#,
            r#"{"topic":"a","identity":"b"}"#,
            r#"{"topic":"a","seconds":0}"#,
            r#"{"topic":"a","seconds":601}"#,
            r#"{"topic":"a","seconds":-1}"#,
            r#"{"topic":"a","minutes":1}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    async fn passed_on(lines: mpsc::Receiver<Bytes>, read: impl AsyncFnOnce(mpsc::Receiver<Bytes>)) {
        let (to, body) = mpsc::channel(1);
        let traces = Arc::new(tokio::sync::Semaphore::new(1));
        let permit = Arc::clone(&traces).try_acquire_owned().expect("the first");
        let passing = pass_on(json!({"event": "started"}), lines, to, Duration::from_secs(60), permit);
        tokio::join!(passing, read(body));
        assert_eq!(traces.available_permits(), 1);
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(test);
    }

    async fn rest(mut body: mpsc::Receiver<Bytes>) -> String {
        let mut all = String::new();
        while let Some(text) = body.recv().await {
            all.push_str(str::from_utf8(&text).expect("JSON"));
        }
        all
    }

    #[test]
    fn lines_end_with_the_shards_with_the_time_or_with_the_client() {
        let (started, alive, ended) =
            ("{\"event\":\"started\"}\n", "{\"event\":\"alive\"}\n", "{\"event\":\"ended\"}\n");
        run(async {
            let (events, lines) = mpsc::channel(8);
            events.try_send(Bytes::from_static(b"1\n")).expect("room");
            drop(events);
            passed_on(lines, async |body| assert_eq!(rest(body).await, format!("{started}1\n{ended}"))).await;

            let (_events, lines) = mpsc::channel(8);
            passed_on(lines, async |body| {
                assert_eq!(rest(body).await, format!("{started}{}{ended}", alive.repeat(11)));
            })
            .await;

            let (events, lines) = mpsc::channel(8);
            passed_on(lines, async |mut body| {
                assert_eq!(body.recv().await.expect("a line"), started);
            })
            .await;
            assert!(events.is_closed(), "the shards see that nobody reads");
        });
    }
}
