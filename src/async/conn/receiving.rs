//! Reads from the transport and parses messages, one event at a time, so that a read may stop between any two events.
//!
//! Reading never waits for writing: two peers that both did would deadlock. What a peer can make this end queue is
//! bounded nevertheless: to the pongs for one read, and behind an incomplete send to the latest few.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::core::{Core, Transport};
use super::error::{End, Error};
use super::heartbeat::{HeartbeatFrame, HeartbeatTimer};
use super::message::Message;
use super::sending::Writing;
use crate::limits::CONN_READ_BYTES_MAX;
use echoring_proto::connection::{
    Cause, ChunkFlags, CloseFrame, MessageKind, Piece, SpanCursor, Step, TransportAction,
};
use echoring_proto::frame::HEADER_BYTES_MAX;
use echoring_proto::limits::CONTROL_PAYLOAD_BYTES_MAX;
use echoring_proto::utf8::Text;
use echoring_proto::{ProtocolError, Role};

/// A control frame or Close frame that is handled between messages.
#[derive(Debug)]
pub(super) enum ControlEvent {
    Ping(Control),
    Pong(Control),
    /// The peer closes, and waits for the answer.
    Close(CloseFrame),
}

/// The next event of a read.
pub(super) enum Event {
    /// The current message has grown.
    PayloadReceived,
    ControlEvent(ControlEvent),
}

/// The wanted value, or a control frame to handle first.
pub(super) enum Found<T> {
    Wanted(T),
    ControlEvent(ControlEvent),
}

/// The payload of a control frame.
#[derive(Debug)]
pub(super) struct Control {
    bytes: [u8; CONTROL_PAYLOAD_BYTES_MAX],
    len: u8,
}

impl Control {
    fn new(payload: &[u8]) -> Control {
        let mut bytes = [0; CONTROL_PAYLOAD_BYTES_MAX];
        bytes[..payload.len()].copy_from_slice(payload);
        Control { bytes, len: payload.len() as u8 }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The message that is being received, except for the part that a [`MessageReader`](super::MessageReader) has read. It
/// survives a cancelled read; the next one continues it.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// `None` between messages.
    kind: Option<MessageKind>,
    /// The payload of a binary message.
    bytes: Vec<u8>,
    /// The payload of a text message, which is validated on the way here.
    text: Text,
    /// Number of bytes that a message reader has read.
    taken: usize,
    /// The last byte was received.
    whole: bool,
    /// The rest is discarded.
    skipped: bool,
}

impl Incoming {
    /// Appends a part of the payload; `left` bytes of its frame are still to come. Returns whether the message is
    /// wanted.
    fn append(&mut self, flags: ChunkFlags, payload: &[u8], left: u64) -> Result<bool, ProtocolError> {
        match flags.kind {
            MessageKind::Text => {
                let text = self.text.string();
                let wanted = growth(text.len(), text.capacity(), flags, payload.len(), left);
                text.reserve_exact(wanted);
                self.text.push(payload)?;
                if flags.last {
                    self.text.finish()?;
                }
            }
            MessageKind::Binary if self.skipped => {}
            MessageKind::Binary => {
                let wanted = growth(self.bytes.len(), self.bytes.capacity(), flags, payload.len(), left);
                self.bytes.reserve_exact(wanted);
                self.bytes.extend_from_slice(payload);
            }
        }
        if self.skipped {
            self.text.string().clear();
            self.skipped = !flags.last;
            return Ok(false);
        }
        self.kind = Some(flags.kind);
        self.whole = flags.last;
        Ok(true)
    }

    /// The message, once it is complete.
    pub(super) fn take(&mut self) -> Option<Message> {
        if !self.whole {
            return None;
        }
        let Incoming { kind, bytes, mut text, .. } = std::mem::take(self);
        Some(match kind {
            Some(MessageKind::Text) => Message::Text(std::mem::take(text.string())),
            _ => Message::Binary(Bytes::from(bytes)),
        })
    }

    /// The type of the current message.
    pub(super) fn kind(&self) -> Option<MessageKind> {
        self.kind
    }

    /// Copies bytes of the message to `out`, none at its end. `None` if more bytes must be received first.
    pub(super) fn copy_to(&mut self, out: &mut ReadBuf<'_>) -> Option<()> {
        let present =
            if self.kind == Some(MessageKind::Text) { self.text.as_str().as_bytes() } else { &self.bytes };
        let rest = &present[self.taken..];
        if rest.is_empty() {
            return self.whole.then_some(());
        }
        let given = rest.len().min(out.remaining());
        out.put_slice(&rest[..given]);
        self.taken += given;
        if self.taken == present.len() {
            self.bytes.clear();
            self.text.string().clear();
            self.taken = 0;
        }
        Some(())
    }

    /// Bytes held for the message.
    #[cfg(test)]
    pub(super) fn held_bytes(&mut self) -> usize {
        self.bytes.capacity() + self.text.string().capacity()
    }

    /// Discards the rest of the message.
    pub(super) fn skip(&mut self) {
        let rest_comes = self.kind.is_some() && !self.whole;
        let skipped = rest_comes || self.skipped;
        let mut text = if skipped { std::mem::take(&mut self.text) } else { Text::default() };
        // A character may be cut; the rest of the text is validated nevertheless.
        *text.string() = String::new();
        *self = Incoming { skipped, text, ..Incoming::default() };
    }
}

/// By how much a buffer of `len` must grow for a part of a message. It grows with the received bytes, not with the
/// announced length: the `left` bytes of the frame are only an upper bound.
fn growth(len: usize, capacity: usize, flags: ChunkFlags, piece_bytes: usize, left: u64) -> usize {
    let needed = len + piece_bytes;
    if needed <= capacity {
        return 0;
    }
    let ceiling = match (flags.last, left) {
        (true, _) => needed,
        // The frame is complete and others follow: double, as usual.
        (false, 0) => needed * 2,
        (false, left) => needed.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)),
    };
    (needed * 4).min(ceiling) - len
}

impl<S: Transport> Core<S> {
    /// Reads until `want` returns something. Cancel-safe.
    pub(super) fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        want: &mut impl FnMut(&mut Incoming) -> Option<T>,
    ) -> Poll<Result<Found<T>, Error>> {
        loop {
            if let Some(wanted) = want(&mut self.incoming) {
                return Poll::Ready(Ok(Found::Wanted(wanted)));
            }
            match ready!(self.poll_event(cx))? {
                Event::PayloadReceived => {}
                Event::ControlEvent(control_event) => {
                    return Poll::Ready(Ok(Found::ControlEvent(control_event)));
                }
            }
        }
    }

    /// The next event. Answers to control frames are queued, and sent as far as the transport accepts them.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Error>> {
        self.update_clock();
        self.queue_heartbeat();
        loop {
            // Queued frames leave before the transport is read, but not before each message that was already received:
            // what a sink buffers between two such messages leaves together.
            let flushed = match self.unread.is_empty() || !self.connection.is_open() {
                true => self.poll_flush(cx),
                false => Poll::Pending,
            };
            if let Some(end) = &self.end {
                return Poll::Ready(Err(end.error()));
            }
            if let Some(frame) = self.unanswered.take() {
                return Poll::Ready(Ok(Event::ControlEvent(ControlEvent::Close(frame))));
            }
            let stuck = if self.reads_nothing_more() {
                self.poll_end(flushed, cx).is_pending()
            } else if !self.unread.is_empty() {
                let queued_bytes = self.connection.queued_bytes();
                let event = self.parse_event();
                // An answer to a control frame is sent at once.
                if self.connection.queued_bytes() > queued_bytes {
                    let _ = self.poll_flush(cx);
                }
                if let Some(event) = event {
                    return Poll::Ready(Ok(event));
                }
                false
            } else {
                self.poll_fill(cx).is_pending()
            };
            if stuck && self.poll_timers(cx)?.is_pending() {
                self.release_buffers();
                return Poll::Pending;
            }
        }
    }

    /// The first event in the received bytes.
    fn parse_event(&mut self) -> Option<Event> {
        let (shows_pongs, was_open) = (self.shows_pongs, self.connection.is_open());
        let (event, read) = self.with(|connection, env, bytes, incoming| {
            let mut cursor = SpanCursor::new();
            connection.begin_span(env.now);
            let step = connection.poll(&mut cursor, bytes, env);
            let idle = matches!(step, Step::Idle);
            let mut show = |piece: Piece, see: &mut dyn FnMut(&[u8])| match piece {
                Piece::InSpan(at) => see(&bytes[at]),
                Piece::Buffered(buffer) => {
                    see(buffer.as_slice());
                    env.pool.put(buffer);
                }
            };
            let mut event = None;
            let mut is_text = true;
            match step {
                Step::Chunk(flags, piece) => show(piece, &mut |payload| match incoming.append(
                    flags,
                    payload,
                    connection.frame_bytes_left(),
                ) {
                    Ok(wanted) => event = wanted.then_some(Event::PayloadReceived),
                    Err(_) => is_text = false,
                }),
                Step::Ping(piece) => show(piece, &mut |payload| {
                    event = Some(Event::ControlEvent(ControlEvent::Ping(Control::new(payload))));
                }),
                Step::Pong(piece) => show(piece, &mut |payload| {
                    event =
                        shows_pongs.then(|| Event::ControlEvent(ControlEvent::Pong(Control::new(payload))));
                }),
                Step::Idle | Step::Head(_) | Step::Refused(_) | Step::Opened(_) => {}
            }
            if !is_text {
                *incoming = Incoming::default();
                connection.fail_protocol(&mut cursor, ProtocolError::InvalidUtf8, env);
            }
            connection.note_unfinished(env);
            let answered = connection.end_span(&cursor, bytes, env).and_then(|block| match block {
                Some(_) => connection.copy_replies(&cursor, bytes, env),
                None => Ok(()),
            });
            if answered.is_err() {
                connection.abort(Cause::OutOfMemory);
            }
            (event, if idle { bytes.len() } else { cursor.position() })
        });
        self.unread.start += read;
        self.note_ending(was_open);
        event
    }

    /// Wakes waiting tasks when the connection begins to end, and the reader if the Close frame must be answered.
    fn note_ending(&mut self, was_open: bool) {
        if !was_open || self.connection.is_open() {
            return;
        }
        self.changed = true;
        let Some(closed) = self.connection.closed() else { return };
        if closed.cause == Cause::Peer && !self.config.answers_closes {
            self.unanswered = closed.peer_close.clone();
        }
    }

    fn reads_nothing_more(&mut self) -> bool {
        if self.connection.is_open() {
            return false;
        }
        self.fate = self.connection.take_transport_action().or(self.fate);
        let all_read = self.eof && self.unread.is_empty();
        self.fate.is_some() || all_read || !self.connection.reads_frames()
    }

    /// Receives into an empty input buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Inside a long frame, reads as much as is left of it; of the next frame, what is available.
        let left = usize::try_from(self.connection.frame_bytes_left()).unwrap_or(usize::MAX);
        let bytes = match left {
            0 => self.read_buffer_bytes,
            left => {
                self.read_buffer_bytes.max(left.saturating_add(HEADER_BYTES_MAX).min(CONN_READ_BYTES_MAX))
            }
        };
        let buffers = self.buffer_slot.open(self.config.compression);
        let mut input = ReadBuf::new(buffers.input(bytes));
        let received = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut input));
        let received = received.map(|()| input.filled().len());
        if let Some(heartbeat_timer) = &mut self.heartbeat_timer {
            heartbeat_timer.heard();
        }
        match received {
            Ok(0) => self.ended(),
            Ok(received) => self.unread = 0..received,
            // rustls reports a stream that ends without close_notify this way.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.ended(),
            Err(error) => {
                self.eof = true;
                self.changed = true;
                self.end_with(End::io(&error));
                self.connection.failed(error.kind());
            }
        }
        Poll::Ready(())
    }

    fn ended(&mut self) {
        self.eof = true;
        self.changed = true;
        let until = self.with(|_, env, _, _| env.now + env.config.close_timeout);
        self.connection.ended(until);
    }

    /// Nothing more is read: sends what is queued, shuts the transport down, and then ends.
    fn poll_end(&mut self, flushed: Poll<()>, cx: &mut Context<'_>) -> Poll<()> {
        if self.fate != Some(TransportAction::Abort) {
            ready!(flushed);
            if self.fate.is_some() && self.write_end.is_none() {
                // The result makes no difference.
                let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
            }
            if self.fate == Some(TransportAction::Shutdown) {
                // Unread bytes would cause a reset, which may overtake our last frame.
                while self.poll_discard(cx).is_ready() && !self.eof {}
            }
        }
        let end = self.end_of_connection();
        self.end_with(end);
        Poll::Ready(())
    }

    /// Discards received bytes.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.unread = 0..0;
        ready!(self.poll_fill(cx));
        if !self.unread.is_empty() {
            self.parse_event();
        }
        self.unread = 0..0;
        if self.connection.take_transport_action() == Some(TransportAction::Abort) {
            self.eof = true;
        }
        Poll::Ready(())
    }

    fn end_of_connection(&self) -> End {
        let Some(closed) = self.connection.closed() else { return End::Broken };
        if let Some(frame) = &closed.peer_close {
            return End::Closed(frame.clone());
        }
        match &closed.cause {
            Cause::ProtocolError(offence) => End::ProtocolError(*offence),
            Cause::PongTimeout => End::PongTimeout,
            Cause::OutOfMemory => End::OutOfMemory,
            Cause::Local if !self.eof => End::CloseTimeout,
            Cause::Failed(kind) => End::Io(*kind, kind.to_string()),
            _ => self.write_end.clone().unwrap_or(End::Broken),
        }
    }

    /// The connection has ended; the first cause is kept.
    fn end_with(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.changed = true;
        self.unread = 0..0;
        self.drop_queue();
    }

    /// Waits for the next deadline. Ready once one was handled.
    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        loop {
            if self.read_deadline.is_some_and(|at| at <= self.now) {
                return Err(Error::ReadTimeout);
            }
            if self.machine_deadline().is_some_and(|at| at <= self.now) {
                let was_open = self.connection.is_open();
                self.with(|connection, env, _, _| connection.handle_timeout(env));
                self.note_ending(was_open);
                return Ok(Poll::Ready(()));
            }
            if self.check_peer_timeout() || self.queue_heartbeat() {
                return Ok(Poll::Ready(()));
            }
            let heartbeat_timer = self.heartbeat_timer.as_ref().filter(|_| self.connection.is_open());
            let times = [
                self.read_deadline,
                self.machine_deadline(),
                heartbeat_timer.map(|heartbeat_timer| heartbeat_timer.next()),
            ];
            let Some(at) = times.into_iter().flatten().min() else { return Ok(Poll::Pending) };
            if self.read_timer.poll(at, cx).is_pending() {
                return Ok(Poll::Pending);
            }
            self.update_clock();
        }
    }

    /// Ends the connection if the peer sent nothing in time. Called when there is nothing to read.
    fn check_peer_timeout(&mut self) -> bool {
        let blocked = self.connection.is_blocked();
        let Some(heartbeat_timer) = self.heartbeat_timer.as_mut().filter(|_| self.connection.is_open())
        else {
            return false;
        };
        if heartbeat_timer.dead_at().is_none_or(|at| at > self.now) {
            return false;
        }
        if blocked {
            heartbeat_timer.restart_timeout(self.now);
            return false;
        }
        self.connection.abort(Cause::PongTimeout);
        self.changed = true;
        true
    }

    /// Queues the heartbeat that is due, if any.
    pub(super) fn queue_heartbeat(&mut self) -> bool {
        if !self.connection.is_open() {
            return false;
        }
        let Some(queue_heartbeat) =
            self.heartbeat_timer.as_mut().and_then(|heartbeat_timer| heartbeat_timer.due(self.now))
        else {
            return false;
        };
        // Nothing more is sent to a peer that does not accept data, and a fragmented message is not interrupted.
        let unheard = self.connection.is_blocked()
            && self.heartbeat_timer.as_ref().is_some_and(HeartbeatTimer::is_unanswered);
        let waits = unheard
            || self.connection.queued_bytes() > self.config.queue_bytes
            || matches!(
                (&queue_heartbeat, &self.writing),
                (HeartbeatFrame::Text(_), Writing::Fragments | Writing::Abandoned)
            );
        if waits {
            return false;
        }
        let queued = self.with(|connection, env, _, _| match &queue_heartbeat {
            HeartbeatFrame::Ping(payload) => connection.ping(payload, env),
            HeartbeatFrame::Text(text) => connection.send(MessageKind::Text, text.as_bytes(), env),
        });
        match queued {
            Ok(()) => {
                if let Some(heartbeat_timer) = &mut self.heartbeat_timer {
                    heartbeat_timer.sent(self.now);
                }
            }
            Err(_) => self.connection.abort(Cause::OutOfMemory),
        }
        true
    }

    /// Reads and discards until the connection ends. A client also waits until the server ends the stream (RFC 6455,
    /// 7.1.1).
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let error = loop {
            match ready!(self.poll_event(cx)) {
                Ok(Event::ControlEvent(ControlEvent::Close(frame))) => self.answer_close(&frame),
                Ok(_) => self.incoming.skip(),
                Err(Error::ReadTimeout) => self.read_deadline = None,
                Err(error) => break error,
            }
        };
        while self.role == Role::Client && error.is_clean() && !self.eof {
            self.update_clock();
            let Some(at) = self.machine_deadline().filter(|at| *at > self.now) else { break };
            if self.poll_discard(cx).is_pending() {
                ready!(self.read_timer.poll(at, cx));
            }
        }
        self.release_buffers();
        Poll::Ready(error)
    }

    /// Answers the peer's Close frame with the code of `frame`.
    pub(super) fn answer_close(&mut self, frame: &CloseFrame) {
        self.changed = true;
        self.with(|connection, env, _, _| connection.answer_close(frame.code, &frame.reason, env));
    }
}
