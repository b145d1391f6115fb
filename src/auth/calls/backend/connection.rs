//! The events of one connection, in their order. One request at a time has some of them; after its answer, the shard says when the
//! answer is carried out, and only then the next request is made. So a client that does not read what it is answered stops its own
//! messages, and nobody else's.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};

use echoring_proto::connection::MessageKind;
use echoring_proto::{CloseCode, Plain as _, plain};

use tokio::sync::Notify;

use super::Backend;
use super::counters::End;
use super::settings::{BackendEvent, ConnectFacts, OnFailure};
use super::wire::BackendAnswer;
use super::wire::{self, Head};
use crate::calls::load::{Counted, Full, Share, Source};
use crate::calls::lock;
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

opaque!(BackendConnection, |it| id: it.0.id);

pub(super) struct Line {
    pub(super) backend: Arc<Backend>,
    /// Whose load it is.
    pub(super) source: Source,
    /// The share of the client's address in what waits, and in the ends of connections.
    queue: Arc<Share>,
    ends: Arc<Share>,
    id: String,
    path: Box<str>,
    deliver: Deliver,
    state: Mutex<ConnectionState>,
    /// Nobody waits for the answer to the connect.
    given_up: Notify,
}

struct ConnectionState {
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

plain! {
    /// What moves of a connection that its back end owes nothing.
    struct PlainLine<'a> {
        id: &'a str,
        identity: Option<&'a str>,
        path: &'a str,
        is_known: bool,
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// No event waits.
    Idle,
    /// That of the thread for calls.
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
    pub(super) body: Vec<u8>,
    /// Those of [`BackendDelivery`].
    bytes: usize,
    /// Of each event, until the request is over.
    counted: Vec<Counted>,
}

impl BackendConnection {
    /// A connection of a client of `source` with the id, the subject and the path. `deliver` is called on the thread for calls.
    pub fn new(
        backend: &Arc<Backend>,
        source: Source,
        (id, identity, path): (String, Option<&str>, &str),
        deliver: impl Fn(BackendDelivery) + Send + Sync + 'static,
    ) -> BackendConnection {
        let state = ConnectionState {
            events: VecDeque::new(),
            turn: Turn::Idle,
            identity: identity.map(Into::into),
            is_over: false,
            has_failed: false,
            is_known: !backend.has(BackendEvent::Connect),
        };
        BackendConnection(Arc::new(Line {
            backend: Arc::clone(backend),
            queue: backend.queue.waiting.share(source.clone()),
            ends: backend.ends.share(source.clone()),
            source,
            id,
            path: path.into(),
            deliver: Box::new(deliver),
            state: Mutex::new(state),
            given_up: Notify::new(),
        }))
    }

    /// Continues a connection from its [state](BackendConnection::idle_state). `None` if that is malformed.
    pub fn from_state(
        backend: &Arc<Backend>,
        source: Source,
        state: &[u8],
        deliver: impl Fn(BackendDelivery) + Send + Sync + 'static,
    ) -> Option<BackendConnection> {
        let PlainLine { id, identity, path, is_known } = PlainLine::decode(state)?;
        let connection = BackendConnection::new(backend, source, (id.to_owned(), identity, path), deliver);
        connection.0.state().is_known = is_known;
        Some(connection)
    }

    /// The state of the connection, for another shard or process. `None` while an event waits, or an answer is not carried out.
    pub fn idle_state(&self) -> Option<Vec<u8>> {
        let (Line { id, path, .. }, state) = (&*self.0, self.0.state());
        let plain = PlainLine { id, identity: state.identity.as_deref(), path, is_known: state.is_known };
        (state.turn == Turn::Idle).then(|| plain.encode())
    }

    /// The connection goes on elsewhere, where its end is told.
    pub fn leave(&self) {
        self.0.state().is_over = true;
    }

    /// The id, which stays the same when the connection moves.
    pub fn id(&self) -> &str {
        &self.0.id
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

    /// The client cannot wait longer: the connect has failed, and a message does not wait for its answer.
    pub fn give_up_connect(&self) {
        self.0.given_up.notify_one();
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
            let bytes = self.held_bytes() + line.path.len() + 2 * reason.len();
            match line.ends.take(bytes).or_else(|_| line.queue.take(bytes)) {
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
    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        lock(&self.state)
    }

    fn push(
        self: &Arc<Line>,
        event: BackendEvent,
        bytes: usize,
        make: impl FnOnce(Counted) -> Event,
    ) -> Result<(), Full> {
        let counted = self.queue.take(bytes).inspect_err(|_| {
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
    fn proceed(self: &Arc<Line>, state: &mut ConnectionState) {
        state.turn = if state.events.is_empty() { Turn::Idle } else { Turn::Requests };
        if state.turn == Turn::Requests {
            // Before the start nothing is accepted.
            let _ = self.backend.inlet.send((Arc::clone(self), self.backend.running.begin()));
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
        let node = &self.backend.settings.node;
        let head = Head { node, connection: &self.id, identity, path: &self.path };
        let (event, body, bytes, counted) = match event {
            Event::Connect(facts, counted) => {
                let body = head.connect(&facts, facts.client.as_deref());
                (BackendEvent::Connect, body, 0, vec![counted])
            }
            Event::Message(first) => {
                let messages: Vec<Waiting> = std::iter::once(first).chain(behind).collect();
                let contents = messages.iter().map(|message| (message.kind, &*message.payload));
                let body = head.messages(contents, self.backend.settings.batch > 1);
                let bytes =
                    messages.iter().map(|message| message.payload.len() + BACKEND_MESSAGE_BYTES).sum();
                let counted = messages.into_iter().map(|message| message.counted).collect();
                (BackendEvent::Message, body, bytes, counted)
            }
            Event::Disconnect(code, reason, counted) => {
                (BackendEvent::Disconnect, head.disconnect(code, &reason), 0, vec![counted])
            }
        };
        Prepared { event, body, bytes, counted }
    }

    /// Completes when a request is given up, which only a connect can be.
    pub(super) async fn given_up(&self, event: BackendEvent) {
        match event {
            BackendEvent::Connect => self.given_up.notified().await,
            BackendEvent::Message | BackendEvent::Disconnect => pending().await,
        }
    }

    /// Whether a request is of no use any more: it is about a new connection that has ended.
    pub(super) fn is_pointless(&self, event: BackendEvent) -> bool {
        event == BackendEvent::Connect && self.state().is_over
    }

    /// A request is over. `is_known` tells whether the back end may have read it. Returns whether the thread goes on with the next
    /// one; otherwise the turn is that of the shard.
    pub(super) fn complete(&self, request: Prepared, outcome: BackendOutcome, is_known: bool) -> bool {
        let Prepared { event, bytes, counted, .. } = request;
        let events = counted.len();
        drop(counted);
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

impl ConnectionState {
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
