//! One WebSocket peer, in either role, as a state machine: handshake, open, closing, closed. A server may answer a request
//! with an event stream instead, which is a connection in one direction.
//!
//! Bytes and the time come in, steps and bytes go out. This module does no I/O, reads no clock and starts no thread. The shard,
//! the simulator and the tests drive a [`Connection`] in the same way:
//!
//! 1. [`begin_span`](Connection::begin_span) with the time at which a span of received bytes is read;
//! 2. [`poll`](Connection::poll) until it returns [`Step::Idle`]. The caller acts on each other step before the next
//!    poll: it answers a head ([`accept`](Connection::accept), [`refuse`](Connection::refuse),
//!    [`respond`](Connection::respond)), and may send a chunk back ([`echo`](Connection::echo));
//! 3. [`end_span`](Connection::end_span) returns the part of the span that is to be sent from where it lies, between
//!    the buffers that [`pop`](Connection::pop) returns before it and those that it returns after it;
//! 4. when all of that was sent, [`take_transport_action`](Connection::take_transport_action) tells whether to close the
//!    transport.
//!
//! Beside spans, [`handle_timeout`](Connection::handle_timeout) is called when
//! [`deadline`](Connection::deadline) has passed, and events of the driver are passed to
//! [`blocked`](Connection::blocked), [`unblocked`](Connection::unblocked) and [`ended`](Connection::ended).
//!
//! In a span, a reply that fits takes the place of the frame it answers. A server's header is four bytes shorter than a
//! client's, so replies never reach bytes that were not read:
//!
//! ```text
//! span     | frame 1 (answered) | frame 2 (answered) | frame 3 …
//! replies      | reply 1 | reply 2 |   ^ read
//!              ^ start             ^ end
//! ```
//!
//! A connection consists of parts, each with its own state: `Reader` (bytes to frames), `Outbox` (queued frames),
//! `MessageCodec` (compression), `Liveness` (pings), `Flow` (pauses) and `Closing` (the end).
#![forbid(unsafe_code)]

mod closed;
mod closing;
mod codec;
mod compression;
mod config;
mod control;
mod echo_in_place;
mod entropy;
mod environment;
mod flow;
mod handshake;
mod liveness;
mod outbox;
mod plain;
mod reader;
mod replies;
mod restoring;
mod span_cursor;
mod step;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::Role;
use crate::buffer::{Buffer, Pool};
use crate::deflate::Agreement;
use crate::frame::{Header, Opcode};
use crate::limits::Nanos;
use crate::mask;

pub use closed::{Cause, CauseRow, CloseFrame, Closed, TlsFault};
pub use closing::{CloseMode, TransportAction};
pub use compression::{Codecs, Compressed, Compression, SharedWindow};
#[doc(hidden)]
pub use config::nanos;
pub use config::{ConnectionConfig, Delivery, MessageProgress, Pings, Times};
pub use echo_in_place::{SINGLE_FRAME_BYTES_MAX, SINGLE_REPLY_START, echo_short, echo_single};
pub use entropy::{Entropy, Seed};
pub use environment::Env;
pub use handshake::Reply;
pub use outbox::OutOfMemory;
pub use restoring::RestoreError;
pub use span_cursor::SpanCursor;
pub use step::{Chunk, ChunkFlags, MessageKind, Piece, Step};

use closing::Closing;
use codec::MessageCodec;
use flow::Flow;
use liveness::Liveness;
use outbox::Outbox;
use reader::{Found, ReadContext, ReadError, Reader};

#[derive(Debug)]
enum Phase {
    /// Waits for a complete head.
    Head { nonce: Option<Box<[u8; 16]>>, until: Nanos },
    /// The application has the request; later bytes are deferred. `key` is that of an upgrade.
    Deciding { key: Option<Box<[u8; 24]>>, until: Nanos },
    /// Messages are exchanged, or events are sent.
    Open,
    /// The connection is about to end.
    Closing(Closing),
}

/// One peer. About 150 bytes: an idle connection is this and nothing else.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    reader: Reader,
    outbox: Outbox,
    /// Present once compression was agreed on.
    codec: Option<Box<MessageCodec>>,
    liveness: Liveness,
    flow: Flow,
    deadline_changed: bool,
    /// A message was begun in fragments, and its last one was not sent.
    sends_fragments: bool,
    /// Its times: 0 for those of all, or one more than their place among [those of their own](ConnectionConfig::own_times).
    times: u8,
    /// Payload bytes of the unfinished message that were there when more was waited for.
    counted: u32,
}

impl Connection {
    /// The server's end of a connection that was accepted now.
    pub fn server(env: &Env<'_>) -> Connection {
        Connection::new(Role::Server, None, env)
    }

    /// The client's end of a connection that was established now; its request is queued.
    ///
    /// # Errors
    /// When the node's memory is spent. A configuration without [`ConnectionConfig::dial`] sends no request.
    pub fn client(env: &mut Env<'_>, whole: bool) -> Result<Connection, OutOfMemory> {
        let nonce = env.entropy.nonce();
        let mut connection = Connection::new(Role::Client, Some(Box::new(nonce)), env);
        connection.reader.set_delivery(Delivery::of(whole));
        connection.queue_request(env, nonce)?;
        Ok(connection)
    }

    /// An end of a connection whose handshake was done elsewhere.
    ///
    /// # Errors
    /// When the memory that `agreement` takes is spent: only possible for windows that are kept.
    pub fn opened(
        role: Role,
        agreement: Option<Agreement>,
        delivery: Delivery,
        env: &mut Env<'_>,
    ) -> Result<Connection, OutOfMemory> {
        let mut connection = Connection::new(role, None, env);
        connection.reader.set_delivery(delivery);
        connection.phase = Phase::Open;
        if let Some(agreement) = agreement {
            connection.codec = Some(Box::new(MessageCodec::new(agreement, role, false, env.codecs)?));
        }
        Ok(connection)
    }

    fn new(role: Role, nonce: Option<Box<[u8; 16]>>, env: &Env<'_>) -> Connection {
        Connection {
            phase: Phase::Head { nonce, until: env.now + env.config.handshake_timeout },
            reader: Reader::new(role),
            outbox: Outbox::default(),
            codec: None,
            liveness: Liveness::new(env.now),
            flow: Flow::default(),
            deadline_changed: true,
            sends_fragments: false,
            times: 0,
            counted: 0,
        }
    }

    /// Bytes of the node's budget that this connection takes, without an unfinished send, which the driver owns.
    pub fn held_bytes(&self) -> u64 {
        let buffers: usize = self.reader.buffers().map(Buffer::accounted_bytes).sum();
        buffers as u64 + self.outbox.held_bytes()
    }

    /// Whether messages may be sent.
    #[inline]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether the peer is sent an event stream, or another stream: it is no WebSocket, and no frames of the peer are read.
    pub fn is_event_stream(&self) -> bool {
        self.reader.stream().is_some()
    }

    /// Whether the application was asked to accept the request, and has not answered.
    pub fn is_deciding(&self) -> bool {
        matches!(self.phase, Phase::Deciding { .. })
    }

    /// Whether the opening handshake is not complete.
    pub fn is_in_handshake(&self) -> bool {
        matches!(self.phase, Phase::Head { .. } | Phase::Deciding { .. })
    }

    /// Bytes queued to the peer, those of an unfinished send included.
    #[inline]
    pub fn queued_bytes(&self) -> u32 {
        self.outbox.bytes()
    }

    /// Whether a send straight from other memory would keep the order and be taken.
    pub fn is_writable(&self) -> bool {
        self.is_open() && self.outbox.is_flushed()
    }

    /// Whether a message was begun in fragments and is not complete. No other message may come in between (RFC 6455, 5.4); control
    /// frames may.
    #[inline]
    pub fn sends_fragments(&self) -> bool {
        self.sends_fragments
    }

    /// The caller has begun a message whose fragments it [echoes](Connection::echo), or is about to end it.
    pub fn set_sends_fragments(&mut self, sends_fragments: bool) {
        self.sends_fragments = sends_fragments;
    }

    /// Whether the peer was pinged and not heard since.
    pub fn is_pinged(&self) -> bool {
        self.liveness.is_pinged()
    }

    /// Whether nothing is queued and no send is unfinished.
    #[inline]
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_flushed()
    }

    /// Whether a send is unfinished.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        self.outbox.is_blocked()
    }

    /// Whether this connection uses buffers of a pool, or compression contexts.
    #[inline]
    pub fn owns_memory(&self) -> bool {
        !self.outbox.is_flushed()
            || self.reader.owns_buffer()
            || self.codec.as_ref().is_some_and(|codec| codec.keeps_context())
    }

    /// Whether this connection needs anything but to wait for bytes.
    #[inline]
    pub fn needs_attention(&self) -> bool {
        !self.outbox.is_flushed()
            || self.deadline_changed
            || self.flow.is_paused()
            || !self.is_open()
            || self.reader.has_deferred()
    }

    /// Whether the next byte begins a message, so that [`next_short`](Connection::next_short) may be called.
    #[inline]
    pub fn is_between_messages(&self) -> bool {
        self.is_open() && self.reader.is_between_messages()
    }

    /// Payload bytes of the current data frame that have not arrived, for callers that read ahead.
    #[inline]
    pub fn frame_bytes_left(&self) -> u64 {
        self.reader.frame_bytes_left()
    }

    /// Starts a span of received bytes.
    #[inline]
    pub fn begin_span(&mut self, now: Nanos) {
        self.liveness.heard(now);
    }

    /// Reads up to the next step in `bytes`, the span of `cursor`.
    #[inline]
    pub fn poll(&mut self, cursor: &mut SpanCursor, bytes: &mut [u8], env: &mut Env<'_>) -> Step {
        if self.is_between_messages() {
            if cursor.read == bytes.len() {
                return Step::Idle;
            }
            let appends = self.outbox.replies_may_grow();
            match self.reader.whole_message(cursor, bytes, env.config.max_message, appends) {
                Some(Ok((flags, at))) => return Step::Chunk(flags, Piece::InSpan(at)),
                Some(Err(error)) => self.fail_protocol(cursor, error, env),
                None => {}
            }
        }
        self.poll_any(cursor, bytes, env)
    }

    /// The message that `bytes` begin with, when it is unfragmented, not compressed, and entirely there: its kind and the
    /// place of its payload, which is unmasked and ends where the frame ends. Anything else is left to
    /// [`poll`](Connection::poll).
    ///
    /// A faster way for [`Delivery::Chunks`], which needs no environment: it is no span, so nothing is answered in it, and
    /// it counts as no sign of life for [`ConnectionConfig::ping_interval`].
    #[inline(always)]
    pub fn next_whole(&self, bytes: &mut [u8], bytes_max: u64) -> Option<(MessageKind, Range<usize>)> {
        debug_assert!(!self.reader.validates(), "a text that is no UTF-8 is not found here");
        if !self.is_between_messages() {
            return None;
        }
        let (kind, key, at) = self.reader.whole_frame(bytes, bytes_max)?;
        if let Some(key) = key {
            mask::apply(&mut bytes[at.clone()], key);
        }
        Some((kind, at))
    }

    #[inline(never)]
    fn poll_any(&mut self, cursor: &mut SpanCursor, bytes: &mut [u8], env: &mut Env<'_>) -> Step {
        loop {
            let read = match &mut self.phase {
                Phase::Head { .. } => self.poll_head(cursor, bytes, env),
                Phase::Deciding { .. } => self.reader.defer(cursor, bytes, env.pool).map(|()| None),
                Phase::Closing(closing) if !closing.reads_frames() => {
                    closing.discard(bytes.len() - cursor.read);
                    cursor.read = bytes.len();
                    Ok(None)
                }
                Phase::Open | Phase::Closing(_) => self.poll_frame(cursor, bytes, env),
            };
            match read {
                Ok(None) => {
                    self.note_unfinished(env);
                    return Step::Idle;
                }
                // Behind our own Close frame the peer's messages are read only to find its Close frame.
                Ok(Some(Step::Chunk(_, piece) | Step::Ping(piece) | Step::Pong(piece)))
                    if !self.is_open() =>
                {
                    if let Piece::Buffered(buffer) = piece {
                        env.pool.put(buffer);
                    }
                }
                Ok(Some(step)) => return step,
                Err(ReadError::ProtocolError(error)) => self.fail_protocol(cursor, error, env),
                Err(ReadError::OutOfMemory) => self.abort(Cause::OutOfMemory),
            }
        }
    }

    fn poll_frame(
        &mut self,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, ReadError> {
        while self.reads_frames() {
            let mut cx = ReadContext {
                defer: self.must_defer(cursor, env.config),
                appends: self.outbox.replies_may_grow(),
                codec: self.codec.as_deref_mut(),
                env,
            };
            let step = match self.reader.next(cursor, bytes, &mut cx)? {
                None => return Ok(None),
                Some(Found::Chunk(flags, piece)) => Some(Step::Chunk(flags, piece)),
                Some(Found::Control(opcode, piece)) => {
                    self.handle_control(opcode, cursor, bytes, piece, env)?
                }
            };
            if step.is_some() {
                return Ok(step);
            }
        }
        Ok(None)
    }

    /// Starts or stops the clock of a message that spans several received spans: for callers that end a span before
    /// [`Step::Idle`].
    pub fn note_unfinished(&mut self, env: &Env<'_>) {
        let MessageProgress { bytes, .. } = self.times(env.config).message_progress;
        self.deadline_changed |= self.reader.note_unfinished(env.now, bytes, &mut self.counted);
    }

    /// Uses the times at `place` among [those of their own](ConnectionConfig::own_times), which are 255 at most.
    pub fn set_times(&mut self, place: u8) {
        self.times = place.saturating_add(1);
        self.deadline_changed = true;
    }

    /// The place of its times among those of their own, if it has them.
    pub fn own_times(&self) -> Option<usize> {
        usize::from(self.times).checked_sub(1)
    }

    /// Its times.
    pub fn times(&self, config: &ConnectionConfig) -> Times {
        self.own_times()
            .and_then(|place| config.own_times.get(place).copied())
            .unwrap_or_else(|| config.times())
    }

    /// Queues a message as one frame, compressed when that was agreed on and makes it shorter.
    ///
    /// # Errors
    /// When the node's memory is spent.
    #[inline]
    pub fn send(&mut self, kind: MessageKind, payload: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        if self.codec.is_some() {
            return self.send_compressed(kind, payload, env);
        }
        let header = Header::new(kind.opcode(), true, self.key(env), payload.len());
        self.outbox.frame_inline(env.pool, &header, payload)
    }

    /// The same once compression was agreed on.
    #[inline(never)]
    fn send_compressed(
        &mut self,
        kind: MessageKind,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        let key = self.key(env);
        let deflated = self.codec.as_mut().and_then(|codec| codec.deflate(payload, env.codecs));
        let compressed = deflated.is_some();
        let payload = deflated.unwrap_or(payload);
        let header = Header { compressed, ..Header::new(kind.opcode(), true, key, payload.len()) };
        self.outbox.frame(env.pool, &header, payload)
    }

    /// Queues a message as one frame that is not compressed.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn send_plain(
        &mut self,
        kind: MessageKind,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        self.send_fragment(kind, true, true, payload, env)
    }

    /// Queues part of a message as one frame that is not compressed: the `first` one names the kind, the `last` one ends the
    /// message (RFC 6455, 5.4). The caller queues no other message in between.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn send_fragment(
        &mut self,
        kind: MessageKind,
        first: bool,
        last: bool,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        let opcode = if first { kind.opcode() } else { Opcode::Continuation };
        self.queue_frame(opcode, last, payload, env)
    }

    /// Queues an uncompressed frame.
    fn queue_frame(
        &mut self,
        opcode: Opcode,
        fin: bool,
        payload: &[u8],
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        let key = self.key(env);
        self.outbox.frame(env.pool, &Header::new(opcode, fin, key, payload.len()), payload)
    }

    /// Queues a message that was encoded before, for many connections (server role: the frame has no masking key), or events of
    /// an [event stream](Connection::is_event_stream). If it is compressed, then from a window that this connection
    /// [shares](Connection::share_window).
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn send_encoded(&mut self, frame: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        debug_assert_eq!(self.role(), Role::Server);
        self.outbox.raw(env.pool, frame)
    }

    /// Queues a ping, in front of data.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn ping(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        self.liveness.awaits_another_pong();
        let key = self.key(env);
        self.outbox.control(env.pool, Opcode::Ping, key, payload)
    }

    /// Queues a ping behind earlier frames, among them perhaps the response to the request.
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn ping_behind(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        self.liveness.awaits_another_pong();
        self.queue_frame(Opcode::Ping, true, payload, env)
    }

    /// Queues a pong, in front of data. When many are queued, only the latest is kept (RFC 6455, 5.5.3).
    ///
    /// # Errors
    /// When the node's memory is spent.
    pub fn pong(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        let key = self.key(env);
        self.outbox.control(env.pool, Opcode::Pong, key, payload)
    }

    /// The next buffer to send. While a span is read: of those that go before the replies in it. `None` when the connection
    /// is aborting: where memory ran out, what should go before the buffer may be missing.
    #[inline]
    pub fn pop(&mut self) -> Option<Buffer> {
        if self.is_aborting() { None } else { self.outbox.pop() }
    }

    /// Puts back a buffer that [`pop`](Connection::pop) returned and that was not sent.
    pub fn push_front(&mut self, buffer: Buffer) {
        self.outbox.push_front(buffer);
    }

    /// The driver's last send was short by `unsent` bytes, and the driver continues it.
    pub fn blocked(&mut self, unsent: u32) {
        self.outbox.block(unsent);
    }

    /// Of the rest of that send, `bytes` were cancelled; the driver continues with the others.
    pub fn cancelled(&mut self, bytes: u32) {
        self.outbox.cancel(bytes);
    }

    /// Bytes of a short send that the kernel had not taken when it was reported, without those that were
    /// [cancelled](Connection::cancelled); 0 when no send is unfinished.
    pub fn unsent_bytes(&self) -> u32 {
        self.outbox.unsent_bytes()
    }

    /// The kernel has taken the rest of a short send. A pong is still awaited, from now on: the ping may have been in that
    /// send or behind it, and taking bytes is no answer.
    pub fn unblocked(&mut self, now: Nanos) {
        self.outbox.unblock();
        self.liveness.took_bytes(now);
        self.deadline_changed = true;
    }

    /// The agreement of both ends on compression.
    pub fn agreement(&self) -> Option<&Agreement> {
        self.codec.as_ref().map(|codec| codec.agreement())
    }

    /// Compresses with another effort from now on, from 1 (fast) to 9 (small). The next message refers to no earlier
    /// one.
    pub fn set_compression_level(&mut self, level: u8, codecs: &mut Codecs) {
        codecs.set_level(level);
        if let Some(codec) = &mut self.codec {
            codec.restart(codecs);
        }
    }

    /// From now on every message to the peer is deflated from an empty window, if at all, so that messages
    /// deflated for many connections may be sent as well. Returns that window; `None` when the peer takes plain
    /// messages only.
    pub fn share_window(&mut self, codecs: &mut Codecs) -> Option<SharedWindow> {
        self.codec.as_mut()?.share_window(codecs)
    }

    /// From now on the messages of the connection itself are sent plain, so that its shared window has nothing but the messages of
    /// a topic, until it [shares](Connection::share_window) the window again.
    pub fn leave_window_to_topic(&mut self) {
        if let Some(codec) = &mut self.codec {
            codec.leave_window_to_topic();
        }
    }

    /// Which end of the connection this is.
    #[inline]
    pub fn role(&self) -> Role {
        self.reader.role()
    }

    /// The masking key of the next frame: servers send none (RFC 6455, 5.1).
    #[inline]
    fn key(&self, env: &mut Env<'_>) -> Option<[u8; 4]> {
        match self.role() {
            Role::Server => None,
            Role::Client => Some(env.entropy.key()),
        }
    }

    /// Returns all buffers and contexts; the connection is not used again.
    pub fn release(&mut self, pool: &mut Pool, codecs: &mut Codecs) {
        self.outbox.clear(pool);
        self.reader.release(pool);
        if let Some(codec) = self.codec.take() {
            codec.release(codecs);
        }
    }
}
