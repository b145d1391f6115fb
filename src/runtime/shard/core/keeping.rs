//! Keeps input of connections that may not be read yet, up to a bound.

use super::Core;
use super::held::HeldInput;
use crate::driver::{Span, Token};
use crate::limits::ARRIVAL_BYTES_BESIDE_HEAD;
use crate::shard::kinds::Kinds;
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::Cause;

impl<K: Kinds> Core<K> {
    /// Maximum input that is kept of a connection whose handshake has not begun.
    pub(in crate::shard) fn arrival_bytes_max(&self) -> usize {
        self.env.config.max_header.saturating_add(ARRIVAL_BYTES_BESIDE_HEAD)
    }

    /// Adds a span to the kept input of a connection. `None` if that would be more than `bytes_max`, or there is no
    /// memory: the connection is aborted then.
    pub(in crate::shard) fn keep(
        &mut self,
        token: Token,
        held: Option<Buffer>,
        span: Span,
        bytes_max: usize,
    ) -> Option<Buffer> {
        let length = held.as_ref().map_or(0, Buffer::len) + span.bytes as usize;
        let kept = if length > bytes_max {
            self.put_back(held);
            None
        } else {
            self.append(held, span)
        };
        if kept.is_none() {
            self.with_connection(token, |connection, _| connection.abort(Cause::OutOfMemory));
        }
        kept
    }

    fn append(&mut self, held: Option<Buffer>, span: Span) -> Option<Buffer> {
        let more = span.bytes as usize;
        let mut held = match held {
            Some(held) => held,
            None => self.env.pool.get(more)?,
        };
        let bytes = held.len() + more;
        if held.room() < more && !self.env.pool.grow(&mut held, bytes) {
            self.env.pool.put(held);
            return None;
        }
        held.append(self.driver.received(span));
        Some(held)
    }

    /// Returns the buffer of kept input that will not be read.
    pub(in crate::shard) fn drop_held(&mut self, input: Option<HeldInput>) {
        self.put_back(input.and_then(|input| input.bytes));
    }

    /// A buffer that is dropped instead would stay charged.
    fn put_back(&mut self, buffer: Option<Buffer>) {
        if let Some(buffer) = buffer {
            self.env.pool.put(buffer);
        }
    }
}
