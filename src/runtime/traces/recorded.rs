//! Recording, in programs with the feature `traces`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use super::context::TraceContext;
use crate::driver::{Token, monotonic_now};
use crate::limits::{LOG_FIELD_BYTES_MAX, TRACED_CONNECTIONS_MAX};
use echoring_proto::handshake::Request;
use echoring_proto::limits::Nanos;
use echoring_proto::random::SplitMix64;
use rand::TryRng as _;
use rand::rngs::SysRng;

/// A finished span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// A name of few values.
    pub name: &'static str,
    /// Its part in its trace.
    pub kind: SpanKind,
    /// Itself.
    pub context: TraceContext,
    /// The span that caused it.
    pub parent_id: Option<u64>,
    /// Whether the parent is in another process.
    pub is_parent_remote: bool,
    /// Its beginning.
    pub began: SystemTime,
    /// Its end.
    pub ended: SystemTime,
    /// Attributes by the names of OpenTelemetry's conventions.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed.
    pub error: Option<&'static str>,
}

/// The part of a span in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// It answers a request.
    Server,
    /// It hands a message on.
    Producer,
    /// A part of another span.
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
    /// A flag.
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

/// Where spans go.
pub struct Sink {
    /// The part of all handshakes and publications that are traced, from 0 to 1. A request with a `traceparent` is
    /// traced if its sampled flag says so.
    pub sample: f64,
    /// Names of the classes of connections.
    pub classes: &'static [(u8, &'static str)],
    /// Takes a span. It must not block.
    pub write: Box<dyn Fn(Span) + Send + Sync>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("sample", &self.sample).finish_non_exhaustive()
    }
}

/// A process exports to one place.
static SINK: OnceLock<Sink> = OnceLock::new();

/// Traces from now on. Only the first call has an effect.
pub fn set_sink(sink: Sink) {
    // The first one stays.
    let _ = SINK.set(sink);
}

thread_local! {
    static TRACER: RefCell<Tracer> = RefCell::new(Tracer::new());
}

/// Calls `f` if this process traces.
fn with(f: impl FnOnce(&mut Tracer, &Sink)) {
    if let Some(sink) = SINK.get() {
        TRACER.with_borrow_mut(|tracer| f(tracer, sink));
    }
}

/// The traces of one thread.
#[derive(Debug)]
struct Tracer {
    ids: SplitMix64,
    /// The parts of handshakes and of publications that add up to the next one that is traced.
    due: [f64; 2],
    connections: BTreeMap<Token, Traced>,
}

/// A traced connection. It stays until the connection ends, because its publications belong to its trace.
#[derive(Debug)]
struct Traced {
    context: TraceContext,
    parent_id: Option<u64>,
    accepted_at: Nanos,
    secured: Option<(Nanos, bool)>,
    path: Option<String>,
    class: Option<u8>,
    is_answered: bool,
}

const HANDSHAKES: usize = 0;
const PUBLICATIONS: usize = 1;

impl Tracer {
    fn new() -> Tracer {
        // Without randomness of the system the ids are those of a fixed seed and the time.
        let seed = SysRng.try_next_u64().unwrap_or_else(|_| monotonic_now());
        Tracer { ids: SplitMix64::new(seed), due: [0.0; 2], connections: BTreeMap::new() }
    }

    /// Whether the next one of a kind is traced. They are distributed evenly.
    fn takes_next(&mut self, kind: usize, sample: f64) -> bool {
        self.due[kind] += sample;
        let takes = self.due[kind] >= 1.0;
        if takes {
            self.due[kind] -= 1.0;
        }
        takes
    }

    fn id(&mut self) -> u64 {
        self.ids.next_u64().max(1)
    }

    fn root(&mut self) -> TraceContext {
        let trace_id = u128::from(self.id()) << 64 | u128::from(self.id());
        TraceContext { trace_id, span_id: self.id() }
    }

    fn child(&mut self, of: TraceContext) -> TraceContext {
        TraceContext { trace_id: of.trace_id, span_id: self.id() }
    }

    fn begin(&mut self, token: Token, accepted_at: Nanos) {
        if self.connections.len() < TRACED_CONNECTIONS_MAX {
            let context = self.root();
            let traced = Traced {
                context,
                parent_id: None,
                accepted_at,
                secured: None,
                path: None,
                class: None,
                is_answered: false,
            };
            self.connections.insert(token, traced);
        }
    }

    /// Continues the trace of a client that sends its context.
    fn adopt(&mut self, token: Token, now: Nanos, parent: TraceContext, is_sampled: bool) {
        if !is_sampled {
            self.connections.remove(&token);
            return;
        }
        if !self.connections.contains_key(&token) {
            self.begin(token, now);
        }
        if let Some(traced) = self.connections.get_mut(&token) {
            traced.context.trace_id = parent.trace_id;
            traced.parent_id = Some(parent.span_id);
        }
    }

    /// Writes the spans of a handshake.
    fn end_handshake(&mut self, token: Token, sink: &Sink, status: Option<u16>, cause: Option<&'static str>) {
        let tls_id = self.id();
        let Some(traced) = self.connections.get_mut(&token) else {
            return;
        };
        if std::mem::replace(&mut traced.is_answered, true) {
            return;
        }
        let clock = Clock::now();
        let mut attributes = vec![("network.protocol.name", Value::from("websocket"))];
        attributes.extend(status.map(|status| ("http.response.status_code", Value::Number(status.into()))));
        attributes.extend(traced.path.take().map(|path| ("url.path", Value::Text(path))));
        let class = sink.classes.iter().find(|(class, _)| Some(*class) == traced.class);
        attributes.extend(class.map(|(_, name)| ("http.route", Value::from(*name))));
        let span = Span {
            name: "handshake",
            kind: SpanKind::Server,
            context: traced.context,
            parent_id: traced.parent_id,
            is_parent_remote: traced.parent_id.is_some(),
            began: clock.at(traced.accepted_at),
            ended: clock.time,
            attributes,
            error: cause.or(status.filter(|status| *status >= 500).map(|_| "server error")),
        };
        if let Some((secured_at, is_resumed)) = traced.secured {
            (sink.write)(Span {
                name: "tls handshake",
                kind: SpanKind::Internal,
                context: TraceContext { span_id: tls_id, ..traced.context },
                parent_id: Some(traced.context.span_id),
                is_parent_remote: false,
                ended: clock.at(secured_at),
                attributes: vec![("tls.resumed", Value::Flag(is_resumed))],
                error: None,
                ..span.clone()
            });
        }
        (sink.write)(span);
    }
}

/// Both clocks at one moment, to convert times of shards.
struct Clock {
    time: SystemTime,
    monotonic: Nanos,
}

impl Clock {
    fn now() -> Clock {
        Clock { time: SystemTime::now(), monotonic: monotonic_now() }
    }

    fn at(&self, moment: Nanos) -> SystemTime {
        self.time - Duration::from_nanos(self.monotonic.saturating_sub(moment))
    }
}

/// A connection was accepted.
pub(crate) fn accepted(token: Token, now: Nanos) {
    with(|tracer, sink| {
        if tracer.takes_next(HANDSHAKES, sink.sample) {
            tracer.begin(token, now);
        }
    });
}

/// Its TLS handshake is complete.
pub(crate) fn secured(token: Token, is_resumed: bool) {
    with(|tracer, _| {
        if let Some(traced) = tracer.connections.get_mut(&token) {
            traced.secured = Some((monotonic_now(), is_resumed));
        }
    });
}

/// Its request was read.
pub(crate) fn requested(token: Token, request: &Request<'_>, now: Nanos) {
    with(|tracer, _| {
        if let Some((parent, is_sampled)) = request.header("traceparent").and_then(TraceContext::parse) {
            tracer.adopt(token, now, parent, is_sampled);
        }
        if let Some(traced) = tracer.connections.get_mut(&token) {
            // Encoded, so that most characters are bytes.
            traced.path = Some(request.path.chars().take(LOG_FIELD_BYTES_MAX).collect());
        }
    });
}

/// Its route is known.
pub(crate) fn classified(token: Token, class: u8) {
    with(|tracer, _| {
        if let Some(traced) = tracer.connections.get_mut(&token) {
            traced.class = Some(class);
        }
    });
}

/// Its request was answered.
pub(crate) fn answered(token: Token, status: u16) {
    with(|tracer, sink| tracer.end_handshake(token, sink, Some(status), None));
}

/// It has ended, for this cause.
pub(crate) fn closed(token: Token, cause: &'static str) {
    with(|tracer, sink| {
        tracer.end_handshake(token, sink, None, Some(cause));
        tracer.connections.remove(&token);
    });
}

/// A client's publication was routed: ordered here, posted to its owner shard, or held back (`Ok`), or refused (`Err`).
pub fn published(
    token: Token,
    topic: &str,
    bytes: usize,
    received_at: Nanos,
    outcome: Result<&'static str, &'static str>,
) {
    with(|tracer, sink| {
        if !tracer.takes_next(PUBLICATIONS, sink.sample) {
            return;
        }
        let parent = tracer.connections.get(&token).map(|traced| traced.context);
        let context = match parent {
            Some(parent) => tracer.child(parent),
            None => tracer.root(),
        };
        let clock = Clock::now();
        (sink.write)(Span {
            name: "publish",
            kind: SpanKind::Producer,
            context,
            parent_id: parent.map(|parent| parent.span_id),
            is_parent_remote: false,
            began: clock.at(received_at),
            ended: clock.time,
            attributes: vec![
                ("messaging.system", Value::from("echoring")),
                ("messaging.operation.name", Value::from("publish")),
                ("messaging.destination.name", Value::from(topic)),
                ("messaging.message.body.size", Value::Number(i64::try_from(bytes).unwrap_or(i64::MAX))),
                ("echoring.publish.outcome", Value::from(outcome.unwrap_or_else(|code| code))),
            ],
            error: outcome.err(),
        });
    });
}

/// The span of a request that publishes.
#[derive(Debug)]
pub struct PostSpan {
    context: TraceContext,
    parent_id: Option<u64>,
    began: SystemTime,
}

/// Begins the span of a request with this `traceparent`, if the request is traced.
pub fn post(traceparent: Option<&str>) -> Option<PostSpan> {
    let mut begun = None;
    with(|tracer, sink| {
        let parent = traceparent.and_then(TraceContext::parse);
        let is_sampled = match parent {
            Some((_, is_sampled)) => is_sampled,
            None => tracer.takes_next(PUBLICATIONS, sink.sample),
        };
        if is_sampled {
            let context = match parent {
                Some((parent, _)) => tracer.child(parent),
                None => tracer.root(),
            };
            let parent_id = parent.map(|(parent, _)| parent.span_id);
            begun = Some(PostSpan { context, parent_id, began: SystemTime::now() });
        }
    });
    begun
}

impl PostSpan {
    /// Ends the span of a request to publish this number of messages to `topic`.
    pub fn end(self, topic: &str, status: u16, messages: usize) {
        let PostSpan { context, parent_id, began } = self;
        let count = i64::try_from(messages).unwrap_or(i64::MAX);
        with(|_, sink| {
            (sink.write)(Span {
                name: "POST /topics/{topic}",
                kind: SpanKind::Server,
                context,
                parent_id,
                is_parent_remote: parent_id.is_some(),
                began,
                ended: SystemTime::now(),
                attributes: vec![
                    ("http.request.method", Value::from("POST")),
                    ("http.route", Value::from("/topics/{topic}")),
                    ("http.response.status_code", Value::Number(status.into())),
                    ("messaging.system", Value::from("echoring")),
                    ("messaging.destination.name", Value::from(topic)),
                    ("messaging.batch.message_count", Value::Number(count)),
                ],
                error: (status >= 500).then_some("server error"),
            });
        });
    }
}
