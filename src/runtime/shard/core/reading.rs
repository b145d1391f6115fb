//! The ends of received spans: sends the replies that lie in them.

use super::Core;
use super::sealing::send_queued;
use crate::admission::Limit;
use crate::driver::{Driver, Source, Span, Token};
use crate::shard::kinds::Kinds;
use crate::shard::slots::Path;
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::{Cause, Connection, OutOfMemory, SINGLE_FRAME_BYTES_MAX, SpanCursor};
use echoring_proto::{ProtocolError, Role};

impl<K: Kinds> Core<K> {
    /// Determines whether the next span may take the fast path.
    pub(in crate::shard) fn look_for_plain_echo(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.path == Path::Listed {
            return;
        }
        let is_plain = !slot.leaving
            && !self.leaving.holds(token)
            && !self.sessions.has(token.index)
            && !slot.account.is_own()
            && !self.throttle.is_on
            && self.env.config.max_message >= SINGLE_FRAME_BYTES_MAX as u64
            && slot.connection.may_echo_in_place()
            && slot.peer.as_ref().is_some_and(|peer| K::echoes(peer));
        slot.path = if is_plain { Path::PlainEcho } else { Path::Common };
    }

    /// A connection has begun to close because of the peer's messages, or their absence: counts and logs a message that
    /// is too big or too slow.
    #[cold]
    pub(in crate::shard) fn note_message(&mut self, token: Token) {
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
    pub(in crate::shard) fn end_span(&mut self, token: Token, span: Span, cursor: &SpanCursor) {
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

    /// Sends the replies that lie in a span, behind the queued data. Bytes that the driver does not accept
    /// are copied; a frame whose header it has accepted continues first.
    fn send_replies(
        &mut self,
        token: Token,
        span: Span,
        cursor: &SpanCursor,
        piece: Span,
    ) -> Result<(), OutOfMemory> {
        let Some(slot) = self.slots.get_mut(token) else { return Ok(()) };
        let connection = &mut slot.connection;
        let traffic = self.counters.traffic.at(slot.account);
        let (pop, push_front) = (Connection::pop, Connection::push_front);
        let mut taken = send_queued(&mut self.driver, token, traffic, connection, pop, push_front);
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
            traffic.bytes_out += u64::from(piece.bytes) + cursor.detached_header().len() as u64;
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
}

/// The location of a span's bytes. They are looked up again whenever the whole shard was borrowed in between.
pub(in crate::shard) trait ReadSource {
    fn bytes<'a>(&'a mut self, driver: &'a mut Driver) -> &'a mut [u8];
}

impl ReadSource for Span {
    #[inline(always)]
    fn bytes<'a>(&'a mut self, driver: &'a mut Driver) -> &'a mut [u8] {
        driver.received(*self)
    }
}

impl ReadSource for Buffer {
    fn bytes<'a>(&'a mut self, _: &'a mut Driver) -> &'a mut [u8] {
        self.as_mut_slice()
    }
}
