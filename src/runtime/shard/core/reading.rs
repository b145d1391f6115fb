//! Reads received spans: passes messages to the application, and sends replies from the span.

use super::{Core, send_pooled};
use crate::admission::Limit;
use crate::driver::{Driver, Source, Span, Token};
use crate::shard::application::{Application, Disposition};
use crate::shard::context::{ConnectionContext, Context};
use crate::shard::kinds::Kinds;
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::{
    Cause, Chunk, ChunkFlags, OutOfMemory, Piece, SINGLE_FRAME_BYTES_MAX, SINGLE_REPLY_START, SpanCursor,
    Step, echo_short, echo_single,
};
use echoring_proto::{ProtocolError, Role};

impl<D: Driver, K: Kinds> Core<D, K> {
    /// A received span. This is the path of every message, and short echoes end here: one lookup of the connection, one
    /// of the bytes, one send.
    #[inline]
    pub(in crate::shard) fn received<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        span: Span,
    ) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        slot.connection.begin_span(self.env.now);
        if !slot.plain_echo {
            self.counters.traffic.at(slot.account).bytes_in += u64::from(span.bytes);
            return self.received_any(application, token, span, SpanCursor::new());
        }
        debug_assert!(slot.connection.may_echo_in_place());
        self.echoed.bytes += u64::from(span.bytes);
        let bytes = self.driver.received(span);
        if !echo_single(bytes) {
            return self.received_short(application, token, span);
        }
        self.echoed.messages += 1;
        const START: u32 = SINGLE_REPLY_START as u32;
        let reply = Span { offset: span.offset + START, bytes: span.bytes - START };
        if !self.driver.send_received(token, reply) {
            self.single_refused(application, token, span);
        }
    }

    /// The driver did not take the answer to a single message.
    #[cold]
    #[inline(never)]
    fn single_refused<A: Application<Kinds = K>>(&mut self, application: &mut A, token: Token, span: Span) {
        self.echoed.messages -= 1;
        let traffic = self.counters.traffic.at(self.echo_account);
        traffic.messages_in += 1;
        traffic.messages_out += 1;
        self.count_received(span);
        let bytes = span.bytes as usize;
        self.end_plain(application, token, span, SpanCursor::at_end(bytes, SINGLE_REPLY_START..bytes));
    }

    /// Counts a span that was not answered as a single message, although it was about to.
    fn count_received(&mut self, span: Span) {
        self.echoed.bytes -= u64::from(span.bytes);
        self.counters.traffic.at(self.echo_account).bytes_in += u64::from(span.bytes);
    }

    /// Several messages in one span, for a connection whose short ones are answered at once.
    #[inline(never)]
    fn received_short<A: Application<Kinds = K>>(&mut self, application: &mut A, token: Token, span: Span) {
        self.count_received(span);
        let mut cursor = SpanCursor::new();
        let bytes = self.driver.received(span);
        let echoed = echo_short(&mut cursor, bytes, self.env.config.message_bytes_max);
        let traffic = self.counters.traffic.at(self.echo_account);
        traffic.messages_in += echoed;
        traffic.messages_out += echoed;
        if cursor.position() == span.bytes as usize {
            let block = cursor.replies();
            let piece = Span { offset: span.offset + block.start as u32, bytes: block.len() as u32 };
            if self.driver.send_received(token, piece) {
                self.counters.traffic.at(self.echo_account).bytes_out += u64::from(piece.bytes);
                return;
            }
        }
        self.end_plain(application, token, span, cursor);
    }

    /// A span that began with short messages continues differently, or its replies were not accepted.
    #[inline(never)]
    fn end_plain<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        span: Span,
        cursor: SpanCursor,
    ) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.connection.resume_span(&cursor);
        }
        self.received_any(application, token, span, cursor);
    }

    /// Everything except short echoes: heads, fragments, control frames, long messages, messages for the application,
    /// and replies that must wait.
    #[inline(never)]
    fn received_any<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        mut span: Span,
        cursor: SpanCursor,
    ) {
        let handshake = self.slots.get(token).is_some_and(|slot| slot.connection.is_in_handshake());
        self.env.pool.set_handshake(handshake);
        let waits = self.holds_back(application, token, span)
            || (handshake && self.must_wait(application, token, span));
        if !waits {
            let read = self.meter(token);
            if !(self.sessions.has(token.index) && self.received_sealed(application, token, &mut span)) {
                self.received_plain(application, token, span, cursor);
            }
            self.charge(token, read, span.bytes);
            self.note_excesses();
        }
        self.env.pool.set_handshake(false);
        if self.env.pool.is_under_pressure() {
            self.relieve(application);
        }
    }

    /// Keeps the input of a connection whose client is not known yet, or whose TLS handshake has to wait. It is metered when
    /// it is read. False if it can be read now.
    fn must_wait<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        span: Span,
    ) -> bool {
        if self.arrivals.holds(token) {
            self.hold(application, token, span);
            return true;
        }
        let must_wait = self.handshake_must_wait(token);
        if must_wait {
            self.queue_handshake(token, span);
        }
        must_wait
    }

    fn received_plain<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        mut span: Span,
        mut cursor: SpanCursor,
    ) {
        if let Some(slot) = self.slots.get_mut(token)
            && slot.connection.is_between_messages()
            && slot.peer.as_ref().is_some_and(|peer| !K::echoes(peer))
        {
            self.show_short(application, token, &mut span, &mut cursor);
        }
        while let Some(head) = self.read(application, token, &mut span, &mut cursor) {
            self.request(application, token, head);
        }
        self.end_span(token, span, &cursor);
        self.look_for_plain_echo(token);
    }

    /// Determines whether the next span may take the fast path.
    pub(super) fn look_for_plain_echo(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        slot.plain_echo = !slot.dirty
            && !slot.leaving
            && !self.sessions.has(token.index)
            && !slot.account.is_own()
            && !self.throttle.is_on()
            && self.env.config.message_bytes_max >= SINGLE_FRAME_BYTES_MAX as u64
            && slot.connection.may_echo_in_place()
            && slot.peer.as_ref().is_some_and(|peer| K::echoes(peer));
    }

    /// Passes the short messages at the front of a span to the application.
    #[inline(never)]
    fn show_short<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        source: &mut impl ReadSource<D>,
        cursor: &mut SpanCursor,
    ) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.peer.is_none() {
            return;
        }
        let bytes = source.bytes(&mut self.driver);
        let bytes_max = self.env.config.message_bytes_max;
        while let Some((kind, at)) = slot.connection.next_short(cursor, bytes, bytes_max) {
            self.counters.traffic.at(slot.account).messages_in += 1;
            let env = self.env.lend();
            let link = ConnectionContext::of(
                slot,
                token,
                env,
                &mut self.mailboxes,
                &mut self.counters,
                &mut self.excesses,
            );
            let flags = ChunkFlags::whole(kind);
            show_chunk(application, link, cursor, bytes, flags, Piece::InSpan(at));
            if !slot.connection.is_open() {
                break;
            }
        }
    }

    /// Reads a span until it is used up or a request head is complete.
    fn read<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        source: &mut impl ReadSource<D>,
        cursor: &mut SpanCursor,
    ) -> Option<Buffer> {
        let slot = self.slots.get_mut(token)?;
        let was_open = slot.connection.is_open();
        let bytes = source.bytes(&mut self.driver);
        loop {
            let step = slot.connection.poll(cursor, bytes, &mut self.env.lend());
            let (piece, show): (Piece, ShowControl<A>) = match step {
                Step::Idle => {
                    if was_open && slot.connection.is_closing() {
                        self.note_message(token);
                    }
                    return None;
                }
                Step::Chunk(flags, piece) => {
                    self.counters.traffic.at(slot.account).messages_in += u64::from(flags.last);
                    let link = ConnectionContext::of(
                        slot,
                        token,
                        self.env.lend(),
                        &mut self.mailboxes,
                        &mut self.counters,
                        &mut self.excesses,
                    );
                    show_chunk(application, link, cursor, bytes, flags, piece);
                    continue;
                }
                Step::Ping(piece) => (piece, A::ping),
                Step::Pong(piece) => (piece, A::pong),
                Step::Head(head) => return Some(head),
                Step::Refused(refusal) => {
                    self.note_refusal(token, &refusal);
                    return self.read(application, token, source, cursor);
                }
                Step::Opened(response) => {
                    self.counters.opened += 1;
                    application.opened(&mut Context { core: self }, token, Some(&response));
                    return self.read(application, token, source, cursor);
                }
            };
            let env = self.env.lend();
            let link = ConnectionContext::of(
                slot,
                token,
                env,
                &mut self.mailboxes,
                &mut self.counters,
                &mut self.excesses,
            );
            show_control(application, link, bytes, piece, show);
        }
    }

    /// A connection has begun to close because of what it has sent, or has not: counts and logs a message that is too big or too
    /// slow.
    #[cold]
    pub(super) fn note_message(&mut self, token: Token) {
        let Some(connection) = self.slots.get(token).map(|slot| &slot.connection) else { return };
        let limit = match connection.closed().map(|closed| &closed.cause) {
            Some(Cause::ProtocolError(ProtocolError::MessageTooBig)) => Limit::MessageSize,
            Some(Cause::ProtocolError(ProtocolError::SlowMessage)) => Limit::MessageProgress,
            _ => return,
        };
        if connection.role() == Role::Server {
            self.note_excess(token, limit, false);
        }
    }

    /// The span is read: its replies are sent in place, or are copied if they must wait.
    #[inline(never)]
    fn end_span(&mut self, token: Token, span: Span, cursor: &SpanCursor) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let connection = &mut slot.connection;
        let bytes = self.driver.received(span);
        match connection.end_span(cursor, bytes, &mut self.env.lend()) {
            Ok(None) => {}
            Ok(Some(block)) => {
                let piece = Span { offset: span.offset + block.start as u32, bytes: block.len() as u32 };
                if self.send_replies(token, span, cursor, piece).is_err() {
                    self.with_connection(token, |connection, _| connection.abort(Cause::OutOfMemory));
                }
            }
            Err(OutOfMemory) => connection.abort(Cause::OutOfMemory),
        }
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.connection.needs_attention() && slot.mark_dirty() {
            self.dirty.push(token);
        }
    }

    /// Sends the replies that lie in a span behind what is queued before them. What the driver does not take
    /// is copied; a frame whose header it has taken goes on first.
    fn send_replies(
        &mut self,
        token: Token,
        span: Span,
        cursor: &SpanCursor,
        piece: Span,
    ) -> Result<(), OutOfMemory> {
        let Some(slot) = self.slots.get_mut(token) else { return Ok(()) };
        let connection = &mut slot.connection;
        let mut taken = true;
        while let Some(buffer) = connection.pop() {
            let traffic = self.counters.traffic.at(slot.account);
            taken = send_pooled(&mut self.driver, token, buffer, connection, traffic);
            if !taken {
                break;
            }
        }
        let mut headless = false;
        if taken && !cursor.detached_header().is_empty() {
            let mut head = self.env.pool.get(cursor.detached_header().len()).ok_or(OutOfMemory)?;
            head.append(cursor.detached_header());
            match self.driver.send(token, Source::Pooled(head)) {
                Ok(()) => headless = true,
                Err(source) => {
                    taken = false;
                    if let Source::Pooled(head) = source {
                        self.env.pool.put(head);
                    }
                }
            }
        }
        if taken && self.driver.send_received(token, piece) {
            self.counters.traffic.at(slot.account).bytes_out +=
                u64::from(piece.bytes) + cursor.detached_header().len() as u64;
            connection.replies_sent();
            return Ok(());
        }
        let bytes = self.driver.received(span);
        if headless {
            connection.copy_replies_behind_header(cursor, bytes, &mut self.env.lend())
        } else {
            connection.copy_replies(cursor, bytes, &mut self.env.lend())
        }
    }

    /// Reads deferred or decrypted input. Replies cannot be sent from there, so they are copied.
    pub(super) fn read_buffer<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        buffer: &mut Buffer,
    ) {
        let mut cursor = SpanCursor::new();
        let bytes_max = self.env.config.message_bytes_max;
        if let Some(slot) = self.slots.get_mut(token)
            && let Some(peer) = &slot.peer
            && slot.connection.is_between_messages()
        {
            if !K::echoes(peer) {
                self.show_short(application, token, buffer, &mut cursor);
            } else if slot.connection.may_echo_in_place() {
                let echoed = echo_short(&mut cursor, buffer.as_mut_slice(), bytes_max);
                slot.connection.resume_span(&cursor);
                let traffic = self.counters.traffic.at(slot.account);
                traffic.messages_in += echoed;
                traffic.messages_out += echoed;
            }
        }
        while let Some(head) = self.read(application, token, buffer, &mut cursor) {
            self.request(application, token, head);
        }
        let Some(slot) = self.slots.get_mut(token) else { return };
        let (connection, bytes) = (&mut slot.connection, buffer.as_slice());
        let copied = match connection.end_span(&cursor, bytes, &mut self.env.lend()) {
            Ok(Some(_)) => connection.copy_replies(&cursor, bytes, &mut self.env.lend()),
            Ok(None) => Ok(()),
            Err(OutOfMemory) => Err(OutOfMemory),
        };
        if copied.is_err() {
            connection.abort(Cause::OutOfMemory);
        }
        self.touch(token);
    }
}

/// The location of a span's bytes. They are looked up again whenever the whole shard was borrowed in between.
pub(super) trait ReadSource<D> {
    fn bytes<'a>(&'a mut self, driver: &'a mut D) -> &'a mut [u8];
}

impl<D: Driver> ReadSource<D> for Span {
    #[inline(always)]
    fn bytes<'a>(&'a mut self, driver: &'a mut D) -> &'a mut [u8] {
        driver.received(*self)
    }
}

impl<D> ReadSource<D> for Buffer {
    fn bytes<'a>(&'a mut self, _: &'a mut D) -> &'a mut [u8] {
        self.as_mut_slice()
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
