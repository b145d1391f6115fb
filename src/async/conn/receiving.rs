//! Reads from the transport and parses messages, one event at a time, so that a read may stop between any two events.
//!
//! Reading never waits for writing: two peers that both did would deadlock. A peer can make this end queue only the
//! pongs for one read, and behind an incomplete send only the latest few.

use std::future::Future as _;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes};
use tokio::io::AsyncReadExt as _;

use super::core::{Core, Transport, stream_of};
use super::error::{End, Error};
use super::incoming::Incoming;
use super::message::Message;
use crate::limits::{
    CONN_READ_BYTES_MAX, CONN_READ_GROWTH, CONN_SHORT_READS_MAX, INFLATED_BYTES_PER_TURN,
    READS_BEFORE_FLUSH_MAX,
};
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::{
    Cause, ChunkFlags, CloseFrame, MessageKind, Piece, SpanCursor, Step, TransportAction,
};
use echoring_proto::frame::HEADER_BYTES_MAX;
use echoring_proto::{ProtocolError, Role};

/// A control frame or Close frame that is handled between messages. Only handlers see the payloads, so an allocation is acceptable.
pub(super) enum ControlEvent {
    Ping(Box<[u8]>),
    Pong(Box<[u8]>),
    /// The peer closes, and waits for the answer.
    Close(CloseFrame),
}

/// The wanted value, or a control frame to handle first.
pub(super) enum Found<T> {
    Wanted(T),
    ControlEvent(ControlEvent),
}

/// The result of a step of the state machine; a range of the unread bytes where it is not copied.
enum Parsed {
    Chunk(ChunkFlags, Range<usize>),
    Inflated(ChunkFlags, Buffer),
    /// No part of a message, but maybe something to show.
    Other(Option<ControlEvent>),
}

impl<S: Transport> Core<S> {
    /// The next message, if it has been received whole.
    #[inline]
    pub(super) fn next_message(&mut self) -> Option<Message> {
        // Most reads begin without any bytes.
        match self.buffer_slot.has_input() || self.incoming.is_whole() {
            true => self.take_message(),
            false => None,
        }
    }

    fn take_message(&mut self) -> Option<Message> {
        if let Some(message) = self.incoming.take() {
            return Some(message);
        }
        // A heartbeat is sent between two messages, too.
        if self.heartbeat_timer.is_some() || !self.connection.is_open() {
            return None;
        }
        let (kind, bytes) = self.take_next_whole()?;
        let payload_bytes = bytes.len();
        match Message::received(kind, bytes) {
            Ok(message) => {
                self.trace.received(payload_bytes, true);
                Some(message)
            }
            Err(error) => {
                self.fail_protocol(error);
                None
            }
        }
    }

    /// Reads until a message has been received whole. Cancel-safe.
    #[inline(always)]
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Found<Message>, Error>> {
        loop {
            if let Some(control_event) = ready!(self.poll_event_inline(cx))? {
                return Poll::Ready(Ok(Found::ControlEvent(control_event)));
            }
            if let Some(message) = self.next_message() {
                return Poll::Ready(Ok(Found::Wanted(message)));
            }
        }
    }

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
            if let Some(control_event) = ready!(self.poll_event(cx))? {
                return Poll::Ready(Ok(Found::ControlEvent(control_event)));
            }
        }
    }

    /// The next event; `None` if bytes were received, the current message has grown, or something else was done, so that there may be
    /// more to do. Answers to control frames are queued, and sent as far as the transport accepts them.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<ControlEvent>, Error>> {
        self.poll_event_inline(cx)
    }

    /// The same, as a part of the caller.
    #[inline(always)]
    fn poll_event_inline(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<ControlEvent>, Error>> {
        if self.heartbeat_timer.is_some() {
            self.update_clock();
            self.queue_heartbeat();
        }
        let ending = match self.connection.is_open() {
            true => None,
            false => self.poll_ending(cx)?,
        };
        let found = match ending {
            None => self.poll_frame(cx),
            Some(found) => found,
        };
        match found {
            Poll::Ready(event) => Poll::Ready(Ok(event)),
            Poll::Pending if self.has_timers() && self.poll_timers(cx)?.is_ready() => Poll::Ready(Ok(None)),
            Poll::Pending => {
                self.release_buffers();
                Poll::Pending
            }
        }
    }

    /// Parses the received bytes, or receives some.
    ///
    /// Frames that are queued while messages are read are sent once nothing more is to be read. So those that a sink
    /// buffers in between are sent together.
    #[inline(always)]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<ControlEvent>> {
        if self.inflated_bytes >= INFLATED_BYTES_PER_TURN {
            return self.end_turn();
        }
        if !self.buffer_slot.has_input() {
            return self.poll_received(cx).map(|()| None);
        }
        Poll::Ready(self.parse_next(cx))
    }

    /// The first event in the received bytes. A message that they begin with is taken.
    #[inline(never)]
    fn parse_next(&mut self, cx: &mut Context<'_>) -> Option<ControlEvent> {
        let Some((kind, bytes)) = self.take_next_whole() else { return self.parse_any(cx) };
        let payload_bytes = bytes.len();
        let appended = self.incoming.append_whole(kind, bytes);
        self.appended(appended, payload_bytes, true);
        None
    }

    /// Other tasks have their turn; this one continues then.
    #[cold]
    fn end_turn(&mut self) -> Poll<Option<ControlEvent>> {
        self.inflated_bytes = 0;
        self.yields = true;
        Poll::Pending
    }

    /// The result of reading from a connection that is closing, or the error of its end. `None` if it still reads frames.
    #[cold]
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Result<Option<Poll<Option<ControlEvent>>>, Error> {
        let flushed = self.poll_flush(cx);
        if let Some(end) = &self.end {
            return Err(end.error());
        }
        if let Some(frame) = self.unanswered.take() {
            return Ok(Some(Poll::Ready(Some(ControlEvent::Close(frame)))));
        }
        if self.reads_nothing_more() {
            return Ok(Some(self.poll_end(flushed, cx).map(|()| None)));
        }
        Ok(None)
    }

    /// Receives, and sends queued frames once there is nothing to receive.
    #[inline(always)]
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
        if self.unflushed || !self.connection.is_flushed() {
            let _ = self.poll_flush(cx);
        }
        Poll::Pending
    }

    /// Takes the payload of the message that the received bytes begin with, if it is whole: nearly all messages. A text is
    /// not validated.
    #[inline(always)]
    fn take_next_whole(&mut self) -> Option<(MessageKind, Bytes)> {
        let buffers = self.buffer_slot.buffers()?;
        let (kind, at) = self.connection.next_whole(&mut buffers.input, self.config.max_message)?;
        let read = at.end;
        Some((kind, buffers.take_whole(at, read)))
    }

    /// Drops received bytes from the front.
    fn consume(&mut self, bytes: usize) {
        self.buffer_slot.open(&self.config).consume(bytes);
    }

    /// The first event in the received bytes, whatever they are. An answer to a control frame is sent at once.
    #[inline(never)]
    fn parse_any(&mut self, cx: &mut Context<'_>) -> Option<ControlEvent> {
        let queued_bytes = self.connection.queued_bytes();
        let event = self.parse_event();
        if self.connection.queued_bytes() > queued_bytes {
            let _ = self.poll_flush(cx);
        }
        event
    }

    /// The first event in the received bytes.
    fn parse_event(&mut self) -> Option<ControlEvent> {
        self.update_clock();
        let was_open = self.connection.is_open();
        let (parsed, read) = self.poll_step();
        let event = match parsed {
            Parsed::Other(event) => {
                self.consume(read);
                event
            }
            Parsed::Chunk(flags, at) => {
                let payload_bytes = at.len();
                let buffers = self.buffer_slot.open(&self.config);
                let appended = if flags.first && flags.last {
                    self.incoming.append_whole(flags.kind, buffers.take_whole(at, read))
                } else {
                    self.incoming.append_part(flags, buffers.split_off(at, read), buffers.region_bytes)
                };
                self.appended(appended, payload_bytes, flags.last);
                None
            }
            Parsed::Inflated(flags, buffer) => {
                self.consume(read);
                let payload_bytes = buffer.len();
                self.inflated_bytes += payload_bytes;
                // A compressed message is shown whole.
                let appended = self.incoming.append_inflated(flags.kind, buffer.as_slice());
                self.with(|_, env, _| env.pool.put(buffer));
                self.appended(appended, payload_bytes, true);
                None
            }
        };
        self.note_ending(was_open);
        event
    }

    #[inline]
    fn appended(&mut self, appended: Result<(), ProtocolError>, payload_bytes: usize, ends_message: bool) {
        match appended {
            Ok(()) => self.trace.received(payload_bytes, ends_message),
            Err(error) => self.fail_protocol(error),
        }
    }

    /// The peer broke a rule in a payload.
    #[cold]
    fn fail_protocol(&mut self, error: ProtocolError) {
        self.incoming = Incoming::default();
        self.update_clock();
        let was_open = self.connection.is_open();
        self.with(|connection, env, _| connection.fail_protocol(&mut SpanCursor::new(), error, env));
        self.note_ending(was_open);
    }

    /// The next step in the received bytes, and their number up to its end.
    #[inline]
    fn poll_step(&mut self) -> (Parsed, usize) {
        let shows_pongs = self.shows_pongs;
        self.with(|connection, env, bytes| {
            let mut cursor = SpanCursor::new();
            connection.begin_span(env.now);
            let step = connection.poll(&mut cursor, bytes, env);
            let idle = matches!(step, Step::Idle);
            let mut control = |piece: Piece, is_shown: bool| {
                let shown = is_shown.then(|| match &piece {
                    Piece::InSpan(at) => Box::from(&bytes[at.clone()]),
                    Piece::Buffered(buffer) => Box::from(buffer.as_slice()),
                });
                if let Piece::Buffered(buffer) = piece {
                    env.pool.put(buffer);
                }
                shown
            };
            let parsed = match step {
                Step::Chunk(flags, Piece::InSpan(at)) => Parsed::Chunk(flags, at),
                Step::Chunk(flags, Piece::Buffered(buffer)) => Parsed::Inflated(flags, buffer),
                Step::Ping(piece) => Parsed::Other(control(piece, true).map(ControlEvent::Ping)),
                Step::Pong(piece) => Parsed::Other(control(piece, shows_pongs).map(ControlEvent::Pong)),
                Step::Idle | Step::Head(_) | Step::Refused(_) | Step::Opened(_) => Parsed::Other(None),
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
    pub(super) fn note_ending(&mut self, was_open: bool) {
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
        let all_read = self.eof && !self.buffer_slot.has_input();
        self.fate.is_some() || all_read || !self.connection.reads_frames()
    }

    /// Receives into an empty input buffer.
    #[inline(always)]
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let bytes_max = self.make_room();
        let mut target = (&mut self.buffer_slot.open(&self.config).input).limit(bytes_max);
        let received = ready!(pin!(stream_of(&mut self.stream).read_buf(&mut target)).poll(cx));
        if let Some(heartbeat_timer) = &mut self.heartbeat_timer {
            heartbeat_timer.heard();
        }
        match received {
            Ok(received @ 1..) => self.adapt_reads(received, bytes_max),
            end => self.received_end(end),
        }
        Poll::Ready(())
    }

    /// The stream has ended, or has failed.
    #[cold]
    fn received_end(&mut self, end: io::Result<usize>) {
        match end {
            Ok(_) => self.ended(),
            // rustls reports a stream that ends without close_notify this way.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.ended(),
            Err(error) => {
                self.eof = true;
                self.changed = true;
                self.end_with(End::io(&error));
                self.connection.failed(error.kind());
            }
        }
    }

    /// Makes room behind the received bytes, all of which were parsed. Returns the maximum of bytes to read.
    #[inline]
    fn make_room(&mut self) -> usize {
        let has_room = self.buffer_slot.open(&self.config).has_room(self.read_bytes);
        match self.connection.frame_bytes_left() {
            0 if has_room => self.read_bytes,
            left => self.make_room_for(left),
        }
    }

    /// The same where `left` payload bytes of a frame are missing, or there is no memory.
    #[inline(never)]
    fn make_room_for(&mut self, left: u64) -> usize {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let kept = self.incoming.kept_bytes();
        if kept > 0 && left > 0 {
            return self.make_payload_room(left, kept);
        }
        // Of the next frame, what is available; inside a frame, what is left of it.
        let rest = if left == 0 { 0 } else { left.saturating_add(HEADER_BYTES_MAX) };
        let wanted = rest.min(CONN_READ_BYTES_MAX).max(self.read_bytes);
        self.buffer_slot.open(&self.config).make_room(wanted);
        wanted
    }

    /// Makes room right behind the `kept` bytes of a message, of whose frame `left` bytes are missing. Past the size of one
    /// read, the memory grows with what has arrived, not with what was announced.
    fn make_payload_room(&mut self, left: usize, kept: usize) -> usize {
        let growth = (CONN_READ_GROWTH - 1).saturating_mul(kept).max(CONN_READ_BYTES_MAX);
        // With room for a byte more, a read that takes all that is there says so.
        let needed = left.saturating_add(HEADER_BYTES_MAX + 1).min(growth);
        let buffers = self.buffer_slot.open(&self.config);
        let is_adjacent = self.incoming.lies_before(&buffers.input);
        if !is_adjacent || buffers.input.capacity() < needed {
            let room = if is_adjacent { std::mem::take(&mut buffers.input) } else { buffers.park_input() };
            buffers.input = self.incoming.grow_room(room, needed.max(self.read_bytes));
            buffers.region_bytes = kept + buffers.input.capacity();
        }
        buffers.input.capacity()
    }

    /// Adapts the size of reads to the peer's traffic.
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
        self.update_clock();
        let until = self.with(|_, env, _| env.now + env.config.close_timeout);
        self.connection.ended(until);
    }

    /// Reading has ended: sends queued frames, shuts the transport down, and then ends.
    fn poll_end(&mut self, flushed: Poll<()>, cx: &mut Context<'_>) -> Poll<()> {
        if self.fate != Some(TransportAction::Abort) {
            ready!(flushed);
            if self.fate.is_some() && self.write_end.is_none() {
                // The result makes no difference.
                let _ = ready!(Pin::new(stream_of(&mut self.stream)).poll_shutdown(cx));
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
        self.clear_input();
        ready!(self.poll_fill(cx));
        if self.buffer_slot.has_input() {
            self.parse_event();
        }
        self.clear_input();
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
            Cause::SendTimeout => End::SendTimeout,
            Cause::PongTimeout => End::PongTimeout,
            Cause::OutOfMemory => End::OutOfMemory,
            Cause::Local if !self.eof => End::CloseTimeout,
            Cause::Failed(kind) => End::Io(*kind, kind.to_string()),
            _ => self.write_end.clone().unwrap_or(End::Broken),
        }
    }

    /// The connection has ended; the first cause is kept.
    pub(super) fn end_with(&mut self, end: End) {
        if self.end.is_none() {
            self.trace.ended(&end);
            self.end = Some(end);
        }
        self.changed = true;
        self.clear_input();
        self.drop_queue();
    }

    /// Drops the received bytes.
    fn clear_input(&mut self) {
        if let Some(buffers) = self.buffer_slot.buffers() {
            buffers.input.clear();
        }
    }

    /// Reads and discards until the connection ends. A client also waits until the server ends the stream (RFC 6455,
    /// 7.1.1).
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let error = loop {
            match ready!(self.poll_event(cx)) {
                Ok(Some(ControlEvent::Close(frame))) => self.answer_close(&frame),
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
        self.with(|connection, env, _| connection.answer_close(frame.code, &frame.reason, env));
    }
}
