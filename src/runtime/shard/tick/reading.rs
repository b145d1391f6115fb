//! Reads received spans: passes messages to the application, and sends replies from the span.

use super::Shard;
use crate::driver::{Span, Token};
use crate::shard::answer::Disposition;
use crate::shard::application::Application;
use crate::shard::context::{ConnectionContext, Context};
use crate::shard::core::ReadSource;
use crate::shard::kinds::Kinds as _;
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::{
    Cause, Chunk, ChunkFlags, OutOfMemory, Piece, SpanCursor, Step, echo_short,
};

impl<A: Application> Shard<A> {
    /// A received span that is not a short echo.
    #[inline]
    pub(super) fn received(&mut self, token: Token, span: Span) {
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        slot.connection.begin_span(self.core.env.now);
        self.core.counters.traffic.at(slot.account).bytes_in += u64::from(span.bytes);
        self.received_any(token, span, SpanCursor::new());
    }

    /// Everything except short echoes: heads, fragments, control frames, long messages, messages for the application,
    /// and replies that must wait.
    #[inline(never)]
    pub(super) fn received_any(&mut self, token: Token, mut span: Span, cursor: SpanCursor) {
        let handshake = self.core.slots.get(token).is_some_and(|slot| slot.connection.is_in_handshake());
        self.core.env.pool.set_handshake(handshake);
        let waits = self.holds_leaving(token, span)
            || (self.core.has_throttled() && self.hold_back(token, span))
            || (handshake && self.must_wait(token, span));
        if !waits {
            let read = self.core.meter(token);
            if !(self.core.sessions.has(token.index) && self.received_sealed(token, &mut span)) {
                self.received_plain(token, span, cursor);
            }
            self.core.charge(token, read, span.bytes);
            self.core.note_excesses();
        }
        self.core.env.pool.set_handshake(false);
        if self.core.env.pool.is_under_pressure() {
            self.relieve();
        }
    }

    /// Keeps the input of a connection whose client is not known yet, or whose TLS handshake must wait. It is metered
    /// when it is read. False if it can be read now.
    fn must_wait(&mut self, token: Token, span: Span) -> bool {
        if self.core.arrivals.holds(token) {
            self.hold(token, span);
            return true;
        }
        let must_wait = self.core.handshake_must_wait(token);
        if must_wait {
            self.core.queue_handshake(token, span);
        }
        must_wait
    }

    fn received_plain(&mut self, token: Token, mut span: Span, mut cursor: SpanCursor) {
        if let Some(slot) = self.core.slots.get_mut(token)
            && slot.connection.is_between_messages()
            && slot.peer.as_ref().is_some_and(|peer| !A::Kinds::echoes(peer))
        {
            self.show_short(token, &mut span, &mut cursor);
        }
        while let Some(head) = self.read(token, &mut span, &mut cursor) {
            self.request(token, head);
        }
        self.core.end_span(token, span, &cursor);
        self.core.look_for_plain_echo(token);
    }

    /// Passes the short messages at the front of a span to the application.
    #[inline(never)]
    fn show_short(&mut self, token: Token, source: &mut impl ReadSource, cursor: &mut SpanCursor) {
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        if slot.peer.is_none() {
            return;
        }
        let bytes = source.bytes(&mut self.core.driver);
        let bytes_max = self.core.env.config.max_message;
        while let Some((kind, at)) = slot.connection.next_short(cursor, bytes, bytes_max) {
            self.core.counters.traffic.at(slot.account).messages_in += 1;
            let parts = (&mut self.core.mailboxes, &mut self.core.counters, &mut self.core.excesses);
            let link = ConnectionContext::of(slot, token, self.core.env.lend(), parts);
            let flags = ChunkFlags::whole(kind);
            show_chunk(&mut self.application, link, cursor, bytes, flags, Piece::InSpan(at));
            if !slot.connection.is_open() {
                break;
            }
        }
    }

    /// Reads a span until it is used up or a request head is complete.
    fn read(
        &mut self,
        token: Token,
        source: &mut impl ReadSource,
        cursor: &mut SpanCursor,
    ) -> Option<Buffer> {
        let slot = self.core.slots.get_mut(token)?;
        let was_open = slot.connection.is_open();
        let bytes = source.bytes(&mut self.core.driver);
        loop {
            let step = slot.connection.poll(cursor, bytes, &mut self.core.env.lend());
            let (piece, show): (Piece, ShowControl<A>) = match step {
                Step::Idle => {
                    if was_open && slot.connection.is_closing() {
                        self.core.note_message(token);
                    }
                    return None;
                }
                Step::Chunk(flags, piece) => {
                    self.core.counters.traffic.at(slot.account).messages_in += u64::from(flags.last);
                    let parts = (&mut self.core.mailboxes, &mut self.core.counters, &mut self.core.excesses);
                    let link = ConnectionContext::of(slot, token, self.core.env.lend(), parts);
                    show_chunk(&mut self.application, link, cursor, bytes, flags, piece);
                    continue;
                }
                Step::Ping(piece) => (piece, A::ping),
                Step::Pong(piece) => (piece, A::pong),
                Step::Head(head) => return Some(head),
                Step::Refused(refusal) => {
                    self.core.note_refusal(token, &refusal);
                    return self.read(token, source, cursor);
                }
                Step::Opened(response) => {
                    self.core.counters.opened += 1;
                    self.application.opened(&mut Context { core: &mut self.core }, token, Some(&response));
                    return self.read(token, source, cursor);
                }
            };
            let parts = (&mut self.core.mailboxes, &mut self.core.counters, &mut self.core.excesses);
            let link = ConnectionContext::of(slot, token, self.core.env.lend(), parts);
            show_control(&mut self.application, link, bytes, piece, show);
        }
    }

    /// Reads deferred or decrypted input. Replies cannot be sent from there, so they are copied.
    pub(super) fn read_buffer(&mut self, token: Token, buffer: &mut Buffer) {
        let mut cursor = SpanCursor::new();
        let bytes_max = self.core.env.config.max_message;
        if let Some(slot) = self.core.slots.get_mut(token)
            && let Some(peer) = &slot.peer
            && slot.connection.is_between_messages()
        {
            if !A::Kinds::echoes(peer) {
                self.show_short(token, buffer, &mut cursor);
            } else if slot.connection.may_echo_in_place() {
                let echoed = echo_short(&mut cursor, buffer.as_mut_slice(), bytes_max);
                slot.connection.resume_span(&cursor);
                let traffic = self.core.counters.traffic.at(slot.account);
                traffic.messages_in += echoed;
                traffic.messages_out += echoed;
            }
        }
        while let Some(head) = self.read(token, buffer, &mut cursor) {
            self.request(token, head);
        }
        let Some(slot) = self.core.slots.get_mut(token) else { return };
        let (connection, bytes) = (&mut slot.connection, buffer.as_slice());
        let copied = match connection.end_span(&cursor, bytes, &mut self.core.env.lend()) {
            Ok(Some(_)) => connection.copy_replies(&cursor, bytes, &mut self.core.env.lend()),
            Ok(None) => Ok(()),
            Err(OutOfMemory) => Err(OutOfMemory),
        };
        if copied.is_err() {
            connection.abort(Cause::OutOfMemory);
        }
        self.core.touch(token);
    }
}

/// Passes a chunk to the application and carries out its decision.
#[inline]
fn show_chunk<A: Application>(
    application: &mut A,
    mut link: ConnectionContext<'_, A::Kinds>,
    cursor: &mut SpanCursor,
    bytes: &mut [u8],
    flags: ChunkFlags,
    mut piece: Piece,
) {
    let ChunkFlags { kind, first, last, .. } = flags;
    let payload = match &mut piece {
        Piece::InSpan(at) => &mut bytes[at.clone()],
        Piece::Buffered(buffer) => buffer.as_mut_slice(),
    };
    let disposition = application.chunk(&mut link, Chunk { kind, first, last, payload });
    if disposition == Disposition::Echo && link.connection.is_open() {
        link.counters.traffic.at(link.account).messages_out += u64::from(last);
        if link.connection.echo(cursor, bytes, flags, piece, &mut link.env).is_err() {
            link.connection.abort(Cause::OutOfMemory);
        }
    } else if let Piece::Buffered(buffer) = piece {
        link.env.pool.put(buffer);
    }
}

/// The application's handler of a ping or a pong.
type ShowControl<A> = fn(&mut A, &mut ConnectionContext<'_, <A as Application>::Kinds>, &[u8]);

/// Passes the payload of a ping or a pong to the application.
fn show_control<A: Application>(
    application: &mut A,
    mut link: ConnectionContext<'_, A::Kinds>,
    bytes: &[u8],
    piece: Piece,
    show: ShowControl<A>,
) {
    match piece {
        Piece::InSpan(at) => show(application, &mut link, &bytes[at]),
        Piece::Buffered(buffer) => {
            show(application, &mut link, buffer.as_slice());
            link.env.pool.put(buffer);
        }
    }
}
