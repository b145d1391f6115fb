//! How a connection ends (RFC 6455, section 7): every transition towards the end is made here.

use crate::tunnel::TunnelError;
use std::io;

use super::outbox::{self, CONTROL_FRAME_BYTES_MAX};
use super::reader::ReadError;
use super::{
    Cause, CloseFrame, Closed, Connection, ConnectionConfig, Env, OutOfMemory, Phase, SpanCursor, TlsFault,
};
use crate::buffer::Pool;
use crate::close::{self, CloseCode};
use crate::event_stream::{self, StreamFormat, WriteEnd};
use crate::frame::Opcode;
use crate::limits::{DISCARD_BYTES_MAX, MILLISECOND, Nanos};
use crate::{ProtocolError, Role};

/// How to close a connection: with or without the queued messages and the closing handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Send a Close frame behind the queue, and await the peer's.
    Graceful,
    /// Drop the queue, send a Close frame, and await the peer's.
    DropQueued,
    /// Drop the queue, send a Close frame, and read nothing more: for a peer that does not keep up.
    DropPeer,
}

/// The action on the transport once the outbox was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportAction {
    /// Send FIN and continue to receive.
    Shutdown,
    /// Close.
    Close,
    /// Close now; unsent data is dropped.
    Abort,
}

/// A connection that is about to end.
///
/// ```text
/// close ──► AwaitingClose ──peer's Close──► Flushing (server) ──► Done
///                                      ├──► ShuttingDown (server that awaits a pong)
///                                      └──► AwaitingFin (client) ──FIN──► Flushing
/// protocol error, refusal ──► ShuttingDown ──► Discarding ──FIN──► Flushing
/// deadline, fault ──► Aborting ──► Done
/// ```
#[derive(Debug)]
pub(super) struct Closing {
    state: ClosingState,
    until: Nanos,
    end: Box<End>,
}

/// The end of a connection, as it is reported.
#[derive(Debug)]
struct End {
    closed: Closed,
    /// It was a WebSocket, or an event stream, before.
    was_open: bool,
    /// Bytes of messages that were dropped for the Close frame of a protocol error.
    displaced_bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClosingState {
    /// Our Close frame is queued, and frames are read up to the peer's (RFC 6455, 7.1.2).
    AwaitingClose,
    /// FIN must be sent after the queued bytes. Received bytes are discarded, so that no reset overtakes our sent
    /// bytes.
    ShuttingDown { discard_left: u32 },
    /// FIN was sent, and the peer's is awaited. Received bytes are discarded.
    Discarding { discard_left: u32 },
    /// Both Close frames were sent, and the server closes the TCP connection first (RFC 6455, 7.1.1).
    AwaitingFin,
    /// The transport must be closed after the queued bytes.
    Flushing,
    /// The transport must be closed at once.
    Aborting,
    /// The transport has been closed.
    Done,
}

crate::plain!(for enum ClosingState {
    AwaitingClose,
    ShuttingDown { discard_left },
    Discarding { discard_left },
    AwaitingFin,
    Flushing,
    Aborting,
    Done,
} where |state| !matches!(state, ClosingState::ShuttingDown { discard_left } if *discard_left > DISCARD_BYTES_MAX));

crate::plain! {
    /// What moves of it.
    pub(super) struct PlainClosing<'a> {
        state: ClosingState,
        left: Nanos,
        was_open: bool,
        displaced_bytes: u32,
        code: CloseCode,
        by_peer: bool,
        /// The text of a protocol error, as releases number them differently.
        error: &'a str,
        peer_close: Option<CloseFrame>,
    }
}

impl ClosingState {
    const SHUTTING_DOWN: ClosingState = ClosingState::ShuttingDown { discard_left: DISCARD_BYTES_MAX };

    /// The next action on the transport, and the state after it.
    fn action(self) -> Option<(TransportAction, ClosingState)> {
        match self {
            ClosingState::ShuttingDown { discard_left } => {
                Some((TransportAction::Shutdown, ClosingState::Discarding { discard_left }))
            }
            ClosingState::Flushing => Some((TransportAction::Close, ClosingState::Done)),
            ClosingState::Aborting => Some((TransportAction::Abort, ClosingState::Done)),
            ClosingState::AwaitingClose
            | ClosingState::Discarding { .. }
            | ClosingState::AwaitingFin
            | ClosingState::Done => None,
        }
    }
}

impl Closing {
    pub(super) fn reads_frames(&self) -> bool {
        self.state == ClosingState::AwaitingClose
    }

    pub(super) fn abort(&mut self) {
        self.state = ClosingState::Aborting;
    }

    /// Whether it can be put into bytes: it waits for the peer or for its last bytes to be sent, its cause is one that the format has, and the
    /// driver was not asked for FIN, which it may not have sent yet.
    pub(super) fn may_move(&self) -> bool {
        let waits = !matches!(
            self.state,
            ClosingState::Discarding { .. } | ClosingState::Aborting | ClosingState::Done
        );
        waits && matches!(self.end.closed.cause, Cause::Local | Cause::Peer | Cause::ProtocolError(_))
    }

    pub(super) fn plain(&self, now: Nanos) -> PlainClosing<'static> {
        let End { closed: Closed { code, cause, peer_close }, was_open, displaced_bytes } = &*self.end;
        PlainClosing {
            state: self.state,
            left: self.until.saturating_sub(now),
            was_open: *was_open,
            displaced_bytes: *displaced_bytes,
            code: *code,
            by_peer: *cause == Cause::Peer,
            error: if let Cause::ProtocolError(error) = cause { error.text() } else { "" },
            peer_close: peer_close.clone(),
        }
    }

    /// `None` for one that does not move.
    pub(super) fn restored(plain: PlainClosing<'_>, now: Nanos) -> Option<Closing> {
        let PlainClosing { state, left, was_open, displaced_bytes, code, by_peer, error, peer_close } = plain;
        let cause = match ProtocolError::ALL.into_iter().find(|known| known.text() == error) {
            Some(error) => Cause::ProtocolError(error),
            None if !error.is_empty() => return None,
            None => {
                if by_peer {
                    Cause::Peer
                } else {
                    Cause::Local
                }
            }
        };
        let end = Box::new(End { closed: Closed { code, cause, peer_close }, was_open, displaced_bytes });
        let closing = Closing { state, until: now.saturating_add(left), end };
        closing.may_move().then_some(closing)
    }

    /// Received bytes are discarded, up to a limit.
    pub(super) fn discard(&mut self, bytes: usize) {
        let (ClosingState::ShuttingDown { discard_left } | ClosingState::Discarding { discard_left }) =
            &mut self.state
        else {
            return;
        };
        *discard_left = discard_left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        if *discard_left == 0 {
            self.abort();
        }
    }
}

impl Connection {
    /// Closes the connection by a Close frame, or by the last event of an event stream; does nothing when it is closing already.
    /// Without either, the transport is closed after the queued bytes, by [`CloseMode::Graceful`] only. Returns the
    /// queued bytes that were dropped.
    pub fn close(&mut self, code: CloseCode, reason: &str, mode: CloseMode, env: &mut Env<'_>) -> u32 {
        if !self.is_open() {
            if mode == CloseMode::Graceful {
                self.end_stream_as(code, env);
            }
            return 0;
        }
        let dropped = if mode == CloseMode::Graceful { 0 } else { self.outbox.drop_messages(env.pool) };
        let delay = env.config.reconnect_delay;
        let queued = if delay > 0 && code.invites_return() {
            let reason = close::with_retry_after(reason, env.entropy.below(delay) / MILLISECOND);
            self.queue_close(code, &reason, env)
        } else {
            self.queue_close(code, reason, env)
        };
        if queued.is_err() {
            self.abort(Cause::OutOfMemory);
            return dropped;
        }
        let awaits_close = mode != CloseMode::DropPeer && !self.is_event_stream();
        let state = if awaits_close { ClosingState::AwaitingClose } else { ClosingState::SHUTTING_DOWN };
        self.enter(state, Closed::new(code, Cause::Local), env);
        dropped
    }

    /// Answers the peer's Close frame, when [`ConnectionConfig::answers_closes`] leaves that to the application: called
    /// once, when the connection is closing with [`Cause::Peer`].
    pub fn answer_close(&mut self, code: CloseCode, reason: &str, env: &mut Env<'_>) {
        if self.queue_close(code, reason, env).is_err() {
            self.abort(Cause::OutOfMemory);
        }
    }

    /// Ends the stream after the queued bytes, without a Close frame: for tests of peers. The peer sees
    /// 1006. Does nothing when the connection is closing already.
    pub fn end_stream(&mut self, env: &Env<'_>) {
        self.end_stream_as(CloseCode::ABNORMAL, env);
    }

    fn end_stream_as(&mut self, code: CloseCode, env: &Env<'_>) {
        if !self.is_closing() {
            self.enter(ClosingState::Flushing, Closed::new(code, Cause::Local), env);
        }
    }

    /// Closes the transport at once. The first cause of an end is kept.
    #[cold]
    pub fn abort(&mut self, cause: Cause) {
        if !self.is_closing() {
            self.enter_until(ClosingState::Aborting, Closed::new(CloseCode::ABNORMAL, cause), Nanos::MAX);
        }
        if let Phase::Closing(closing) = &mut self.phase {
            closing.abort();
        }
    }

    /// Like [`abort`](Connection::abort), and returns all memory from which no send is in progress.
    pub fn abort_and_release(&mut self, cause: Cause, pool: &mut Pool) {
        self.abort(cause);
        self.outbox.clear(pool);
        self.reader.release(pool);
    }

    /// The peer broke a rule. A Close frame names it, and nothing more of the peer is read.
    #[cold]
    pub fn fail_protocol(&mut self, cursor: &mut SpanCursor, error: ProtocolError, env: &mut Env<'_>) {
        let closed = Closed::new(error.close_code(), Cause::ProtocolError(error));
        if self.is_closing() {
            // Our Close frame was sent; there is no second one.
            return self.enter(ClosingState::SHUTTING_DOWN, closed, env);
        }
        let mut displaced_bytes = 0;
        if self.outbox.is_blocked() {
            // What waits behind an unfinished send would delay the Close frame.
            cursor.replies = 0..0;
            displaced_bytes = self.outbox.drop_messages(env.pool);
        }
        if !self.is_open() || self.queue_close(closed.code, &error.to_string(), env).is_ok() {
            self.enter(ClosingState::SHUTTING_DOWN, closed, env);
        } else {
            self.abort(Cause::OutOfMemory);
        }
        if let Phase::Closing(closing) = &mut self.phase {
            closing.end.displaced_bytes = displaced_bytes;
        }
    }

    /// Bytes of queued messages that were dropped for the Close frame when the peer broke a rule.
    pub fn displaced_bytes(&self) -> u32 {
        self.closing().map_or(0, |closing| closing.end.displaced_bytes)
    }

    /// The request was answered by a response, which is queued.
    pub(super) fn end_with_response(&mut self, cause: Cause, env: &Env<'_>) {
        self.enter(ClosingState::SHUTTING_DOWN, Closed::new(CloseCode::ABNORMAL, cause), env);
    }

    /// The server's answer is not the upgrade that was asked for.
    pub(super) fn fail_handshake(&mut self, cause: Cause, env: &Env<'_>) {
        self.enter(ClosingState::Flushing, Closed::new(CloseCode::ABNORMAL, cause), env);
    }

    /// The peer's Close frame. If it came first, it is answered with its own code; otherwise it completes the handshake.
    pub(super) fn handle_close(&mut self, payload: &[u8], env: &mut Env<'_>) -> Result<(), ReadError> {
        let close = close::parse(payload)?;
        let peer_close = Some(CloseFrame { code: close.code, reason: close.reason.to_owned() });
        let closed = match &self.phase {
            Phase::Closing(closing) => Closed { peer_close, ..closing.end.closed.clone() },
            _ => {
                if env.config.answers_closes {
                    self.queue_frame(Opcode::Close, true, &payload[..payload.len().min(2)], env)?;
                }
                Closed { code: close.code, cause: Cause::Peer, peer_close }
            }
        };
        let state = match self.role() {
            // A pong that arrived at a closed socket would cause a reset, which may overtake our Close frame.
            Role::Server if self.liveness.awaits_pong() => ClosingState::SHUTTING_DOWN,
            Role::Server => ClosingState::Flushing,
            Role::Client => ClosingState::AwaitingFin,
        };
        self.enter(state, closed, env);
        Ok(())
    }

    fn queue_close(&mut self, code: CloseCode, reason: &str, env: &mut Env<'_>) -> Result<(), OutOfMemory> {
        if let Some(format) = self.reader.stream() {
            let mut event = Vec::new();
            match (format, env.config.stream_end) {
                (StreamFormat::Events, _) | (_, None) => event_stream::end(&mut event, code, reason),
                (_, Some(WriteEnd(write))) => write(format, &mut event, code, reason),
            }
            return self.outbox.raw(env.pool, &event);
        }
        let mut payload = [0; 125];
        let payload_bytes = close::write(&mut payload, code, reason);
        let key = self.key(env);
        let mut encoded = [0; CONTROL_FRAME_BYTES_MAX];
        let frame = outbox::encode_control(&mut encoded, Opcode::Close, key, &payload[..payload_bytes]);
        self.outbox.raw(env.pool, frame)
    }

    /// Enters `state`, which ends by the close timeout, or when an earlier one would have.
    fn enter(&mut self, state: ClosingState, closed: Closed, env: &Env<'_>) {
        let until = self.closing().map_or(env.now + env.config.close_timeout, |closing| closing.until);
        self.enter_until(state, closed, until);
    }

    fn enter_until(&mut self, state: ClosingState, closed: Closed, until: Nanos) {
        let was_open = self.was_open();
        let displaced_bytes = self.displaced_bytes();
        self.flow.end_backpressure();
        let end = Box::new(End { closed, was_open, displaced_bytes });
        self.phase = Phase::Closing(Closing { state, until, end });
        self.deadline_changed = true;
    }

    /// TLS failed. Queued bytes cannot be sent; an alert of the transport may be.
    #[cold]
    pub fn tls_failed(&mut self, fault: TlsFault, detail: String, env: &mut Env<'_>) {
        self.outbox.clear(env.pool);
        let failed = || Closed::new(CloseCode::ABNORMAL, Cause::Tls(fault, detail));
        let closed = self.closed().cloned().unwrap_or_else(failed);
        self.enter(ClosingState::SHUTTING_DOWN, closed, env);
    }

    /// The proxy did not open a connection to the server. Nothing that is queued can be sent.
    #[cold]
    pub fn tunnel_failed(&mut self, error: TunnelError, env: &mut Env<'_>) {
        self.outbox.clear(env.pool);
        // Some proxies keep a connection open for another request. There is none, so their FIN is not waited for.
        self.fail_handshake(Cause::Tunnel(error), env);
    }

    /// Drops the answer of a connection that is closing before its transport could carry one. The transport is closed instead.
    pub fn drop_answer(&mut self, pool: &mut Pool) {
        self.outbox.clear(pool);
        if let Phase::Closing(closing) = &mut self.phase
            && matches!(closing.state, ClosingState::ShuttingDown { .. })
        {
            closing.state = ClosingState::Flushing;
        }
    }

    /// Drops the queue, which cannot be sent because the transport was never established.
    pub fn drop_queue(&mut self, env: &mut Env<'_>) {
        self.outbox.clear(env.pool);
    }

    /// Instead of being closed, the transport announced the end of its stream (TLS's close_notify). The peer's last bytes are
    /// discarded until it does the same, up to the deadline.
    pub fn linger(&mut self) {
        if let Phase::Closing(closing) = &mut self.phase {
            closing.state = ClosingState::Discarding { discard_left: DISCARD_BYTES_MAX };
            self.deadline_changed = true;
        }
    }

    /// Whether received bytes are read; otherwise they are discarded.
    #[inline]
    pub fn reads(&self) -> bool {
        self.closing().is_none_or(Closing::reads_frames)
    }

    /// Whether the transport must be closed without waiting for queued bytes.
    pub fn is_aborting(&self) -> bool {
        matches!(&self.phase, Phase::Closing(Closing { state: ClosingState::Aborting, .. }))
    }

    /// The peer sent FIN. It may still read the queued bytes, but no longer than `until`: a peer that does not read
    /// would keep an unfinished send, and this connection, for ever.
    pub fn ended(&mut self, until: Nanos) {
        let Phase::Closing(closing) = &mut self.phase else {
            // The client of an event stream has no other way to end it.
            let closed = match self.is_event_stream() {
                true => Closed::new(CloseCode::NO_STATUS, Cause::Peer),
                false => Closed::new(CloseCode::ABNORMAL, Cause::Gone),
            };
            return self.enter_until(ClosingState::Flushing, closed, until);
        };
        if !matches!(closing.state, ClosingState::Aborting | ClosingState::Done) {
            closing.state = ClosingState::Flushing;
            closing.until = closing.until.min(until);
            self.deadline_changed = true;
        }
    }

    /// The peer sent FIN, and bytes before it are still to be read. It may have closed, or it may still read: if reading
    /// stays paused, a ping finds out, which a closed peer answers with a reset.
    pub fn half_closed(&mut self, now: Nanos) {
        if self.is_open() {
            self.liveness.half_closed(now);
            self.deadline_changed = true;
        }
    }

    /// The transport failed.
    pub fn failed(&mut self, error: io::ErrorKind) {
        self.abort(match error {
            // The rest of a short send could not be kept.
            io::ErrorKind::OutOfMemory => Cause::OutOfMemory,
            error => Cause::Failed(error),
        });
    }

    /// The next action on the transport, returned once: when the outbox was sent and no send is unfinished.
    /// [`TransportAction::Abort`] does not wait for that.
    pub fn take_transport_action(&mut self) -> Option<TransportAction> {
        let (action, next) = self.next_transport_action()?;
        if let Phase::Closing(closing) = &mut self.phase {
            closing.state = next;
        }
        Some(action)
    }

    /// The action that [`take_transport_action`](Connection::take_transport_action) would return.
    pub fn transport_action(&self) -> Option<TransportAction> {
        self.next_transport_action().map(|(action, _)| action)
    }

    fn next_transport_action(&self) -> Option<(TransportAction, ClosingState)> {
        let closing = self.closing()?;
        let waits = |action| action != TransportAction::Abort && !self.outbox.is_flushed();
        closing.state.action().filter(|(action, _)| !waits(*action))
    }

    /// Whether it is, or was before it began to close, a WebSocket or an event stream. A request that was refused, or answered
    /// by an ordinary response, never is.
    pub fn was_open(&self) -> bool {
        self.closing().map_or(self.is_open(), |closing| closing.end.was_open)
    }

    /// Whether it may be ended to free memory. A connection in its handshake holds little, for a short time, and one that is
    /// aborting frees its memory anyway.
    pub fn may_be_ended_for_memory(&self) -> bool {
        !self.is_in_handshake() && !self.is_aborting()
    }

    /// Whether frames of the peer are read: until its Close frame, even behind ours.
    pub fn reads_frames(&self) -> bool {
        self.closing().map_or(self.is_open(), Closing::reads_frames)
    }

    /// Whether the connection is closing, or closed.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing(_))
    }

    /// How the connection ended, once it is closing.
    pub fn closed(&self) -> Option<&Closed> {
        self.closing().map(|closing| &closing.end.closed)
    }

    #[inline]
    fn closing(&self) -> Option<&Closing> {
        match &self.phase {
            Phase::Closing(closing) => Some(closing),
            Phase::Head { .. } | Phase::Deciding { .. } | Phase::Open => None,
        }
    }

    /// When [`handle_timeout`](Connection::handle_timeout) must be called; [`Nanos::MAX`] for never. The deadline may
    /// move to a later time without notice; [`take_deadline_changed`](Connection::take_deadline_changed) tells whether it
    /// may have moved to an earlier one.
    pub fn deadline(&self, config: &ConnectionConfig) -> Nanos {
        match &self.phase {
            Phase::Head { until, .. } | Phase::Deciding { until, .. } => *until,
            Phase::Closing(closing) => closing.until,
            Phase::Open => {
                self.reader.deadline(self.times(config).message_progress).min(self.liveness_deadline(config))
            }
        }
    }

    /// While a send is unfinished, the peer's silence proves nothing, because it may be busy reading. A peer whose
    /// reading is paused is pinged all the same: if it has closed, it answers with a reset, although its FIN is stuck
    /// behind unread bytes.
    fn liveness_deadline(&self, config: &ConnectionConfig) -> Nanos {
        if self.liveness.is_half_closed() && self.is_reading_paused() {
            self.liveness.half_closed_deadline(config)
        } else if self.outbox.is_blocked() {
            Nanos::MAX
        } else {
            self.liveness.ping_deadline(self.times(config))
        }
    }

    /// Whether the deadline may have moved to an earlier time since this was last asked.
    #[inline]
    pub fn take_deadline_changed(&mut self) -> bool {
        std::mem::take(&mut self.deadline_changed)
    }

    /// A deadline has passed. The next deadline must be armed, whichever it is.
    pub fn handle_timeout(&mut self, env: &mut Env<'_>) {
        self.deadline_changed = true;
        if self.deadline(env.config) > env.now {
            return;
        }
        match &mut self.phase {
            Phase::Head { .. } | Phase::Deciding { .. } => {
                if self.role() == Role::Client {
                    // The request would wait for a transport that may never be connected.
                    self.outbox.clear(env.pool);
                }
                let closed = Closed::new(CloseCode::ABNORMAL, Cause::HandshakeTimeout);
                self.enter(ClosingState::Flushing, closed, env);
            }
            Phase::Closing(closing) => closing.abort(),
            Phase::Open => self.handle_open_timeout(env),
        }
    }

    fn handle_open_timeout(&mut self, env: &mut Env<'_>) {
        if self.reader.deadline(self.times(env.config).message_progress) <= env.now {
            if self.flow.reads_paused() || !self.reader.is_in_message() {
                // More of the message could not arrive because we did not read; it gets its time anew.
                return self.reader.restart_clock(env.now);
            }
            return self.fail_protocol(&mut SpanCursor::new(), ProtocolError::SlowMessage, env);
        }
        if self.flow.is_held() || (self.liveness.is_half_closed() && self.is_reading_paused()) {
            // Its answer would not be read. What is on the way to it is as good as a ping.
            self.liveness.restart(env.now);
            if self.outbox.is_flushed() {
                self.ping_or_abort(env);
            }
        } else if self.is_event_stream() {
            // Nobody answers a comment. TCP notices a client that has vanished, because the comment is not acknowledged.
            self.liveness.restart(env.now);
            self.outbox.shrink();
            self.ping_or_abort(env);
        } else if self.liveness.is_pinged() {
            self.abort(Cause::PongTimeout);
        } else {
            self.liveness.pinged(env.now);
            self.outbox.shrink();
            self.ping_or_abort(env);
        }
    }

    fn ping_or_abort(&mut self, env: &mut Env<'_>) {
        let queued = match self.reader.stream() {
            Some(StreamFormat::Events) => self.outbox.raw(env.pool, event_stream::HEARTBEAT),
            Some(StreamFormat::Messages | StreamFormat::Lines) => Ok(()),
            None => self.ping(&[], env),
        };
        if queued.is_err() {
            self.abort(Cause::OutOfMemory);
        }
    }
}
