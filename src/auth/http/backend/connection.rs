//! The events of one connection, in their order. One request at a time has some of them; after its answer, the shard says when the
//! answer is carried out, and only then the next request is made. So a client that does not read what it is answered stops its own
//! messages, and nobody else's.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;

use super::Backend;
use super::counters::End;
use super::settings::{BackendEvent, ConnectFacts, OnFailure};
use super::wire::BackendAnswer;
use super::wire::{self, Head};
use crate::http::load::{Counted, Full};
use crate::limits::{BACKEND_BATCH_BYTES_MAX, BACKEND_EVENT_BYTES, BACKEND_MESSAGE_BYTES};

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendOutcome {
    /// The instructions of the back end.
    Answered(BackendAnswer),
    /// It refuses a new connection with this status.
    Refused(u16),
    /// There is no usable answer.
    Failed,
}

/// The result of a request, for the connection.
#[derive(Debug)]
pub struct BackendDelivery {
    /// Messages that the request had, and their bytes, each with [`BACKEND_MESSAGE_BYTES`].
    pub messages: (usize, usize),
    /// The result.
    pub outcome: BackendOutcome,
}

type Deliver = Box<dyn Fn(BackendDelivery) + Send + Sync>;

/// A connection of a back end. When it is dropped, the connection counts as broken.
pub struct BackendConnection(Arc<Line>);

impl fmt::Debug for BackendConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendConnection").field("id", &self.0.id).finish_non_exhaustive()
    }
}

pub(super) struct Line {
    pub(super) backend: Arc<Backend>,
    id: String,
    path: Box<str>,
    deliver: Deliver,
    state: Mutex<State>,
}

struct State {
    events: VecDeque<Event>,
    turn: Turn,
    identity: Option<Box<str>>,
    /// The connection has ended.
    is_over: bool,
    /// A message was not answered, and the connection is closed for that: those behind it are not sent.
    has_failed: bool,
    /// Whether the back end may know the connection.
    is_known: bool,
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// No event waits.
    Idle,
    /// That of the back end's thread.
    Requests,
    /// That of the shard, which has the answer.
    Shard,
}

enum Event {
    Connect(Box<ConnectFacts>, Counted),
    Message(Waiting),
    Disconnect(CloseCode, Box<str>, Counted),
}

/// A message that waits.
struct Waiting {
    kind: MessageKind,
    payload: Box<[u8]>,
    counted: Counted,
}

/// A request before it is sent.
pub(super) struct Prepared {
    pub(super) event: BackendEvent,
    /// The number of events.
    pub(super) events: usize,
    pub(super) body: Vec<u8>,
    /// Those of [`BackendDelivery`].
    bytes: usize,
    /// Until it is over.
    _counted: Vec<Counted>,
}

impl BackendConnection {
    /// A connection with the id, the subject and the path. `deliver` is called on the thread of the back end.
    pub fn new(
        backend: &Arc<Backend>,
        (id, identity, path): (String, Option<&str>, &str),
        deliver: impl Fn(BackendDelivery) + Send + Sync + 'static,
    ) -> BackendConnection {
        let state = State {
            events: VecDeque::new(),
            turn: Turn::Idle,
            identity: identity.map(Into::into),
            is_over: false,
            has_failed: false,
            is_known: !backend.has(BackendEvent::Connect),
        };
        BackendConnection(Arc::new(Line {
            backend: Arc::clone(backend),
            id,
            path: path.into(),
            deliver: Box::new(deliver),
            state: Mutex::new(state),
        }))
    }

    /// The back end.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0.backend
    }

    /// Bytes that an idle connection holds.
    pub fn held_bytes(&self) -> usize {
        size_of::<Line>() + self.0.path.len() + BACKEND_EVENT_BYTES
    }

    /// Asks whether the client may connect. The result is delivered.
    ///
    /// # Errors
    /// If too much waits for the back end.
    pub fn connect(&self, facts: ConnectFacts) -> Result<(), Full> {
        let bytes = BACKEND_EVENT_BYTES + 2 * facts.head.bytes();
        self.0.push(BackendEvent::Connect, bytes, |counted| Event::Connect(Box::new(facts), counted))
    }

    /// Sends a message. The result is delivered; further messages may wait meanwhile.
    ///
    /// # Errors
    /// If too much waits for the back end.
    pub fn message(&self, kind: MessageKind, payload: &[u8]) -> Result<(), Full> {
        let bytes = BACKEND_MESSAGE_BYTES + payload.len() + wire::encoded_bytes(kind, payload);
        self.0.push(BackendEvent::Message, bytes, |counted| {
            Event::Message(Waiting { kind, payload: payload.into(), counted })
        })
    }

    /// Carries out the instructions of an answer.
    pub fn delivered(&self) {
        let mut state = self.0.state();
        if state.turn == Turn::Shard {
            self.0.proceed(&mut state);
        }
    }

    /// The connection has ended. The back end is told behind everything else, and only if it may know the connection.
    pub fn end(&self, code: CloseCode, reason: &str) {
        let line = &self.0;
        let mut state = line.state();
        if std::mem::replace(&mut state.is_over, true) {
            return;
        }
        if line.backend.has(BackendEvent::Disconnect) {
            match line.backend.ends.take(self.held_bytes() + line.path.len() + 2 * reason.len()) {
                Ok(counted) => state.events.push_back(Event::Disconnect(code, reason.into(), counted)),
                Err(_) => {
                    line.backend.counters.count(BackendEvent::Disconnect, End::Rejected, 1);
                    let backend = &*line.backend.settings.path;
                    tracing::warn!(
                        backend,
                        connection = line.id,
                        "too many events wait: the end of a connection is not sent"
                    );
                }
            }
        }
        if state.turn != Turn::Requests {
            line.proceed(&mut state);
        }
    }
}

impl Drop for BackendConnection {
    fn drop(&mut self) {
        self.end(CloseCode::ABNORMAL, "");
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(
        self: &Arc<Line>,
        event: BackendEvent,
        bytes: usize,
        make: impl FnOnce(Counted) -> Event,
    ) -> Result<(), Full> {
        let counted = self.backend.queue.take(bytes).inspect_err(|_| {
            self.backend.counters.count(event, End::Rejected, 1);
        })?;
        let mut state = self.state();
        state.events.push_back(make(counted));
        if state.turn == Turn::Idle {
            self.proceed(&mut state);
        }
        Ok(())
    }

    /// Gives the turn to the thread, if there is something to do.
    fn proceed(self: &Arc<Line>, state: &mut State) {
        state.turn = if state.events.is_empty() { Turn::Idle } else { Turn::Requests };
        if state.turn == Turn::Requests {
            self.backend.run(Arc::clone(self));
        }
    }

    /// The next request. `None` gives the turn back.
    pub(super) fn next(&self) -> Option<Prepared> {
        let mut state = self.state();
        let event = loop {
            match state.events.pop_front() {
                None => {
                    state.turn = Turn::Idle;
                    return None;
                }
                Some(Event::Connect(..)) if state.is_over => {}
                Some(Event::Message(..)) if state.has_failed => {
                    self.backend.counters.count(BackendEvent::Message, End::Failed, 1);
                }
                Some(Event::Disconnect(..)) if !state.is_known => {}
                Some(event) => break event,
            }
        };
        let behind = match &event {
            Event::Message(message) => state.take_behind(message, self.backend.settings.batch - 1),
            Event::Connect(..) | Event::Disconnect(..) => Vec::new(),
        };
        let identity = state.identity.clone();
        // The shard must not wait for the lock while JSON is written.
        drop(state);
        Some(self.prepare(event, behind, identity.as_deref()))
    }

    fn prepare(&self, event: Event, behind: Vec<Waiting>, identity: Option<&str>) -> Prepared {
        let head = Head { connection: &self.id, identity, path: &self.path };
        match event {
            Event::Connect(facts, counted) => {
                let body = head.connect(&facts, facts.client.as_deref());
                Prepared { event: BackendEvent::Connect, events: 1, body, bytes: 0, _counted: vec![counted] }
            }
            Event::Message(first) => {
                let messages: Vec<Waiting> = std::iter::once(first).chain(behind).collect();
                let contents = messages.iter().map(|message| (message.kind, &*message.payload));
                let body = head.messages(contents, self.backend.settings.batch > 1);
                let bytes =
                    messages.iter().map(|message| message.payload.len() + BACKEND_MESSAGE_BYTES).sum();
                let counted: Vec<Counted> = messages.into_iter().map(|message| message.counted).collect();
                Prepared {
                    event: BackendEvent::Message,
                    events: counted.len(),
                    body,
                    bytes,
                    _counted: counted,
                }
            }
            Event::Disconnect(code, reason, counted) => {
                let body = head.disconnect(code, &reason);
                Prepared {
                    event: BackendEvent::Disconnect,
                    events: 1,
                    body,
                    bytes: 0,
                    _counted: vec![counted],
                }
            }
        }
    }

    /// Whether a request is of no use any more: it is about a new connection that has ended.
    pub(super) fn is_pointless(&self, event: BackendEvent) -> bool {
        event == BackendEvent::Connect && self.state().is_over
    }

    /// A request is over. `is_known` tells whether the back end may have read it. Returns whether the thread goes on with the next
    /// one; otherwise the turn is that of the shard.
    pub(super) fn complete(&self, request: Prepared, outcome: BackendOutcome, is_known: bool) -> bool {
        let Prepared { event, events, bytes, .. } = request;
        drop(request);
        let end = match outcome {
            BackendOutcome::Answered(_) => End::Answered,
            BackendOutcome::Refused(_) => End::Refused,
            BackendOutcome::Failed => End::Failed,
        };
        self.backend.counters.count(event, end, events);
        let mut state = self.state();
        state.is_known |= is_known;
        if let BackendOutcome::Answered(BackendAnswer { identity: Some(identity), .. }) = &outcome
            && event == BackendEvent::Connect
        {
            state.identity = Some(identity.subject().into());
        }
        state.has_failed |= event == BackendEvent::Message
            && end == End::Failed
            && self.backend.settings.on_failure == OnFailure::Close;
        if state.is_over {
            return true;
        }
        state.turn = Turn::Shard;
        drop(state);
        let messages = if event == BackendEvent::Message { events } else { 0 };
        (self.deliver)(BackendDelivery { messages: (messages, bytes), outcome });
        false
    }
}

impl State {
    /// At most `messages_max` messages behind `first` that have room in the same request.
    fn take_behind(&mut self, first: &Waiting, messages_max: usize) -> Vec<Waiting> {
        let mut bytes = first.payload.len();
        let mut messages = Vec::new();
        while messages.len() < messages_max
            && let Some(Event::Message(next)) = self.events.front()
            && bytes + next.payload.len() <= BACKEND_BATCH_BYTES_MAX
            && let Some(Event::Message(message)) = self.events.pop_front()
        {
            bytes += message.payload.len();
            messages.push(message);
        }
        messages
    }
}
