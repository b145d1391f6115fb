//! Reads from the transport and parses messages, one event at a time, so that a read may stop between any two events.
//!
//! Reading never waits for writing: two peers that both did would deadlock. What a peer can make this end queue is
//! bounded nevertheless: to the pongs for one read, and behind an incomplete send to the latest few.

use std::future::Future as _;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};

use super::core::{Core, Transport};
use super::error::{End, Error};
use super::heartbeat::{HeartbeatFrame, HeartbeatTimer};
use super::incoming::{Incoming, may_share};
use super::sending::Writing;
use crate::limits::{
    CONN_READ_BYTES_MAX, CONN_READ_GROWTH, CONN_SHORT_READS_MAX, INFLATED_BYTES_PER_TURN,
    READS_BEFORE_FLUSH_MAX,
};
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::{
    Cause, ChunkFlags, CloseFrame, MessageKind, Piece, SpanCursor, Step, TransportAction,
};
use echoring_proto::frame::HEADER_BYTES_MAX;
use echoring_proto::limits::CONTROL_PAYLOAD_BYTES_MAX;
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

/// The result of a step of the state machine; a range of the unread bytes where it is not copied.
enum Parsed {
    Nothing,
    Chunk(ChunkFlags, Range<usize>),
    Inflated(ChunkFlags, Buffer),
    ControlEvent(ControlEvent),
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
        if self.has_timers() {
            self.update_clock();
        }
        self.queue_heartbeat();
        loop {
            // Frames that are queued while messages are read are sent once nothing more is to be read. So those that a
            // sink buffers in between are sent together.
            let flushed = match self.connection.is_open() {
                true => Poll::Pending,
                false => self.poll_flush(cx),
            };
            if let Some(end) = &self.end {
                return Poll::Ready(Err(end.error()));
            }
            if let Some(frame) = self.unanswered.take() {
                return Poll::Ready(Ok(Event::ControlEvent(ControlEvent::Close(frame))));
            }
            let stuck = if self.reads_nothing_more() {
                self.poll_end(flushed, cx).is_pending()
            } else if self.inflated_bytes >= INFLATED_BYTES_PER_TURN {
                self.inflated_bytes = 0;
                self.yields = true;
                true
            } else if !self.input.is_empty() {
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
                self.poll_received(cx).is_pending()
            };
            if stuck && self.poll_timers(cx)?.is_pending() {
                self.release_buffers();
                return Poll::Pending;
            }
        }
    }

    /// Receives, and sends what is queued once there is nothing to receive.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.reads_since_flush >= READS_BEFORE_FLUSH_MAX {
            self.reads_since_flush = 0;
            let _ = self.poll_flush(cx);
        }
        if self.poll_fill(cx).is_ready() {
            self.reads_since_flush += 1;
            return Poll::Ready(());
        }
        self.reads_since_flush = 0;
        self.inflated_bytes = 0;
        let _ = self.poll_flush(cx);
        Poll::Pending
    }

    /// The first event in the received bytes.
    fn parse_event(&mut self) -> Option<Event> {
        let was_open = self.connection.is_open();
        let (parsed, read) = self.poll_step();
        let event = match parsed {
            Parsed::Nothing => {
                self.input.advance(read);
                None
            }
            Parsed::ControlEvent(event) => {
                self.input.advance(read);
                Some(Event::ControlEvent(event))
            }
            Parsed::Chunk(flags, at) => {
                let bytes = at.len();
                let is_whole = flags.first && flags.last;
                let appended = if is_whole && !may_share(at.len(), self.region_bytes) {
                    let bytes = Bytes::copy_from_slice(&self.input[at]);
                    self.input.advance(read);
                    self.incoming.append_whole(flags.kind, bytes)
                } else {
                    let mut piece = self.input.split_to(read);
                    piece.truncate(at.end);
                    piece.advance(at.start);
                    match is_whole {
                        true => self.incoming.append_whole(flags.kind, piece.freeze()),
                        false => self.incoming.append_part(flags, piece, self.region_bytes),
                    }
                };
                self.payload_received(appended, bytes, flags.last)
            }
            Parsed::Inflated(flags, buffer) => {
                self.input.advance(read);
                self.inflated_bytes += buffer.len();
                // A compressed message is shown whole.
                let appended = self.incoming.append_inflated(flags.kind, buffer.as_slice());
                let bytes = buffer.as_slice().len();
                self.with(|_, env, _, _| env.pool.put(buffer));
                self.payload_received(appended, bytes, true)
            }
        };
        self.note_ending(was_open);
        event
    }

    fn payload_received(
        &mut self,
        appended: Result<bool, ProtocolError>,
        payload_bytes: usize,
        ends_message: bool,
    ) -> Option<Event> {
        match appended {
            Ok(wanted) => {
                self.trace.received(payload_bytes, ends_message);
                wanted.then_some(Event::PayloadReceived)
            }
            Err(error) => {
                self.incoming = Incoming::default();
                self.with(|connection, env, _, _| {
                    connection.fail_protocol(&mut SpanCursor::new(), error, env)
                });
                None
            }
        }
    }

    /// The next step in the received bytes, and their number up to its end.
    #[inline]
    fn poll_step(&mut self) -> (Parsed, usize) {
        let shows_pongs = self.shows_pongs;
        self.with(|connection, env, bytes, _| {
            let mut cursor = SpanCursor::new();
            connection.begin_span(env.now);
            let step = connection.poll(&mut cursor, bytes, env);
            let idle = matches!(step, Step::Idle);
            let mut control = |piece: Piece| match piece {
                Piece::InSpan(at) => Control::new(&bytes[at]),
                Piece::Buffered(buffer) => {
                    let control = Control::new(buffer.as_slice());
                    env.pool.put(buffer);
                    control
                }
            };
            let parsed = match step {
                Step::Chunk(flags, Piece::InSpan(at)) => Parsed::Chunk(flags, at),
                Step::Chunk(flags, Piece::Buffered(buffer)) => Parsed::Inflated(flags, buffer),
                Step::Ping(piece) => Parsed::ControlEvent(ControlEvent::Ping(control(piece))),
                Step::Pong(piece) => {
                    let control = control(piece);
                    if shows_pongs {
                        Parsed::ControlEvent(ControlEvent::Pong(control))
                    } else {
                        Parsed::Nothing
                    }
                }
                Step::Idle | Step::Head(_) | Step::Refused(_) | Step::Opened(_) => Parsed::Nothing,
            };
            connection.note_unfinished(env);
            let answered = connection.end_span(&cursor, bytes, env).and_then(|block| match block {
                Some(_) => connection.copy_replies(&cursor, bytes, env),
                None => Ok(()),
            });
            if answered.is_err() {
                connection.abort(Cause::OutOfMemory);
            }
            (parsed, if idle { bytes.len() } else { cursor.position() })
        })
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
        let all_read = self.eof && self.input.is_empty();
        self.fate.is_some() || all_read || !self.connection.reads_frames()
    }

    /// Receives into an empty input buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let bytes_max = self.make_room();
        let mut target = (&mut self.input).limit(bytes_max);
        let received = ready!(pin!(self.stream.read_buf(&mut target)).poll(cx));
        self.update_clock();
        if let Some(heartbeat_timer) = &mut self.heartbeat_timer {
            heartbeat_timer.heard();
        }
        match received {
            Ok(0) => self.ended(),
            Ok(received) => self.adapt_reads(received, bytes_max),
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

    /// Makes room behind the received bytes, all of which were parsed. Returns the maximum of bytes to read.
    fn make_room(&mut self) -> usize {
        let left = usize::try_from(self.connection.frame_bytes_left()).unwrap_or(usize::MAX);
        let kept = self.incoming.kept_bytes();
        if kept > 0 && left > 0 {
            return self.make_payload_room(left, kept);
        }
        // Of the next frame, what is available; inside a frame, what is left of it.
        let rest = if left == 0 { 0 } else { left.saturating_add(HEADER_BYTES_MAX) };
        let wanted = rest.min(CONN_READ_BYTES_MAX).max(self.read_bytes);
        if self.input.capacity() < wanted {
            self.take_region(wanted);
        }
        wanted
    }

    /// Makes room right behind the `kept` bytes of a message, of whose frame `left` bytes are missing. Past the size of one
    /// read, the memory grows with what has arrived, not with what was announced.
    fn make_payload_room(&mut self, left: usize, kept: usize) -> usize {
        let growth = (CONN_READ_GROWTH - 1).saturating_mul(kept).max(CONN_READ_BYTES_MAX);
        // With room for a byte more, a read that takes all that is there says so.
        let needed = left.saturating_add(HEADER_BYTES_MAX + 1).min(growth);
        if self.input.capacity() < needed {
            let room = std::mem::take(&mut self.input);
            self.input = self.incoming.grow_room(room, needed.max(self.read_bytes));
            self.region_bytes = kept + self.input.capacity();
        }
        self.input.capacity()
    }

    /// Takes memory to receive into: that of the buffer set, if no message shares it any more.
    fn take_region(&mut self, bytes: usize) {
        let buffers = self.buffer_slot.open(self.config.compression);
        let spare = buffers.take_region(bytes);
        // A region that a message has taken over stays with it.
        let mut region = std::mem::take(&mut self.input);
        region.clear();
        self.input = if region.try_reclaim(bytes) {
            buffers.put_region(spare);
            region
        } else {
            match spare {
                Some(spare) => spare,
                None => BytesMut::with_capacity(bytes),
            }
        };
        self.region_bytes = self.input.capacity();
    }

    /// Adapts the size of reads to what the peer sends.
    fn adapt_reads(&mut self, received: usize, bytes_max: usize) {
        if received >= self.read_bytes {
            self.short_reads = 0;
            if received >= bytes_max {
                let grown = self.read_bytes.saturating_mul(CONN_READ_GROWTH);
                self.read_bytes = grown.min(CONN_READ_BYTES_MAX).max(self.read_bytes);
            }
        } else if received < self.read_bytes / 4 && self.read_bytes > self.read_bytes_min {
            self.short_reads += 1;
            if self.short_reads >= CONN_SHORT_READS_MAX {
                self.short_reads = 0;
                self.read_bytes = (self.read_bytes / 2).max(self.read_bytes_min);
            }
        } else {
            self.short_reads = 0;
        }
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
        self.input.clear();
        ready!(self.poll_fill(cx));
        if !self.input.is_empty() {
            self.parse_event();
        }
        self.input.clear();
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
        if self.end.is_none() {
            self.trace.ended(&end);
            self.end = Some(end);
        }
        self.changed = true;
        self.input.clear();
        self.drop_queue();
    }

    /// Whether anything is to be done at some time.
    fn has_timers(&self) -> bool {
        self.read_deadline.is_some() || self.heartbeat_timer.is_some() || self.machine_deadline().is_some()
    }

    /// Waits for the next deadline. Ready once one was handled.
    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        if !self.has_timers() {
            return Ok(Poll::Pending);
        }
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
