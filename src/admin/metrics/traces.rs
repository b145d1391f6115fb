//! Traces of handshakes and publications, for an exporter of OpenTelemetry (feature `traces`).
//!
//! Spans wait in a bounded queue for one thread, which sends them in batches. A span that does not fit, or cannot be
//! sent, is counted and dropped. The sizes and times come from the variables that OpenTelemetry specifies (`OTEL_*`).

use std::io;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use tokio::runtime::Runtime;

use crate::limits::{TRACE_BATCH_SPANS, TRACE_FLUSH_TIMEOUT, TRACE_INTERVAL, TRACE_QUEUE_SPANS};
use echoring_runtime::stats::TRACES;
use echoring_runtime::traces::{Sink, Span, SpanKind, Value, set_sink};
use echoring_server::CLASS_NAMES;

/// A message to the exporting thread.
enum Message {
    Span(Box<Span>),
    /// Send the spans so far, then answer.
    Flush(SyncSender<()>),
}

static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();

/// Traces this fraction of handshakes and publications from now on, and exports the spans.
///
/// # Errors
/// The thread cannot be started.
pub fn start_traces(sample: f64, exporter: impl SpanExporter + 'static) -> io::Result<()> {
    let batches = Batches::from_environment();
    let runtime = echoring_async::local_runtime()?;
    let (sender, spans) = mpsc::sync_channel(number("OTEL_BSP_MAX_QUEUE_SIZE", TRACE_QUEUE_SPANS));
    thread::Builder::new()
        .name("traces".to_owned())
        .spawn(move || export(&runtime, &exporter, &spans, batches))?;
    let queue = QUEUE.get_or_init(|| sender).clone();
    let write = move |span| {
        if queue.try_send(Message::Span(Box::new(span))).is_err() {
            TRACES.dropped.fetch_add(1, Relaxed);
        }
    };
    set_sink(Sink { sample, classes: &CLASS_NAMES, write: Box::new(write) });
    tracing::info!(sample, "handshakes and publications are traced");
    Ok(())
}

/// Sends the waiting spans before the process ends. Waits for a while only.
pub fn finish_traces() {
    let (answer, answered) = mpsc::sync_channel(1);
    if let Some(queue) = QUEUE.get()
        && queue.try_send(Message::Flush(answer)).is_ok()
    {
        // Spans that are not sent by then are lost with the process.
        let _ = answered.recv_timeout(TRACE_FLUSH_TIMEOUT);
    }
}

/// When spans are sent.
#[derive(Clone, Copy, Debug)]
struct Batches {
    spans: usize,
    interval: Duration,
}

impl Batches {
    fn from_environment() -> Batches {
        let interval_ms = number("OTEL_BSP_SCHEDULE_DELAY", TRACE_INTERVAL.as_millis() as u64);
        Batches {
            spans: number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", TRACE_BATCH_SPANS).max(1),
            interval: Duration::from_millis(interval_ms),
        }
    }
}

/// The value of a variable; the specification has wrong ones ignored.
fn number<T: FromStr>(variable: &str, default: T) -> T {
    std::env::var(variable).ok().and_then(|word| word.parse().ok()).unwrap_or(default)
}

fn export(runtime: &Runtime, exporter: &impl SpanExporter, messages: &Receiver<Message>, batches: Batches) {
    let mut batch: Vec<SpanData> = Vec::new();
    let mut due = Instant::now() + batches.interval;
    loop {
        let mut flushed = None;
        match messages.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(Message::Span(span)) => batch.push(span_data(*span)),
            Ok(Message::Flush(answer)) => flushed = Some(answer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if flushed.is_some() || batch.len() >= batches.spans || Instant::now() >= due {
            send(runtime, exporter, std::mem::take(&mut batch));
            due = Instant::now() + batches.interval;
        }
        if let Some(answer) = flushed {
            // Nobody waits any more if this took too long.
            let _ = answer.try_send(());
        }
    }
}

fn send(runtime: &Runtime, exporter: &impl SpanExporter, batch: Vec<SpanData>) {
    if batch.is_empty() {
        return;
    }
    let spans = batch.len() as u64;
    match runtime.block_on(exporter.export(batch)) {
        Ok(()) => TRACES.exported.fetch_add(spans, Relaxed),
        Err(error) => {
            tracing::warn!(%error, spans, "spans are dropped: the collector does not accept them");
            TRACES.dropped.fetch_add(spans, Relaxed)
        }
    };
}

fn span_data(span: Span) -> SpanData {
    let Span { name, kind, context, parent_id, is_parent_remote, began, ended, attributes, error } = span;
    let ids = (TraceId::from(context.trace_id), SpanId::from(context.span_id));
    SpanData {
        span_context: SpanContext::new(ids.0, ids.1, TraceFlags::SAMPLED, false, TraceState::default()),
        parent_span_id: parent_id.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: is_parent_remote,
        span_kind: match kind {
            SpanKind::Server => opentelemetry::trace::SpanKind::Server,
            SpanKind::Producer => opentelemetry::trace::SpanKind::Producer,
            SpanKind::Internal => opentelemetry::trace::SpanKind::Internal,
        },
        name: name.into(),
        start_time: began,
        end_time: ended,
        attributes: attributes.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: error.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("echoring").build(),
    }
}

fn attribute(name: &'static str, value: Value) -> KeyValue {
    match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
        Value::Flag(flag) => KeyValue::new(name, flag),
    }
}
