//! Input that is kept until a connection may be read: its client is unknown, its TLS handshake waits, or it is paused.

use super::Core;
use crate::driver::{Driver, Span, Token};
use crate::limits::ARRIVAL_BYTES_BESIDE_HEAD;
use crate::shard::application::Application;
use crate::shard::kinds::Kinds;
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::Cause;

/// What a connection has sent meanwhile.
#[derive(Debug, Default)]
pub(super) struct HeldInput {
    pub(super) bytes: Option<Buffer>,
    /// It has sent FIN.
    pub(super) ended: bool,
}

impl<D: Driver, K: Kinds> Core<D, K> {
    /// Maximum bytes that are kept of a connection whose handshake has not begun.
    pub(super) fn arrival_bytes_max(&self) -> usize {
        self.env.config.head_bytes_max.saturating_add(ARRIVAL_BYTES_BESIDE_HEAD)
    }

    /// Adds a span to what is kept of a connection. `None` if that would be more than `bytes_max`, or there is no memory: the
    /// connection is aborted then.
    pub(super) fn keep(
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
            Some(held) if held.room() >= more => held,
            Some(held) => {
                let mut grown = self.env.pool.get(held.len() + more);
                if let Some(grown) = &mut grown {
                    grown.append(held.as_slice());
                }
                self.env.pool.put(held);
                grown?
            }
            None => self.env.pool.get(more)?,
        };
        held.append(self.driver.received(span));
        Some(held)
    }

    /// Reads what was kept of a connection.
    pub(super) fn read_held<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        input: HeldInput,
    ) {
        if let Some(bytes) = input.bytes {
            self.read_kept(application, token, bytes);
        }
        // It may have to wait again, but nothing of it is left.
        if input.ended {
            self.ended(token);
        }
    }

    fn read_kept<A: Application<Kinds = K>>(&mut self, application: &mut A, token: Token, mut kept: Buffer) {
        let read = self.meter(token);
        let bytes = kept.len() as u32;
        let is_sealed = self.sessions.has(token.index);
        if bytes > 0 && !(is_sealed && self.received_sealed(application, token, &mut kept)) {
            self.read_buffer(application, token, &mut kept);
        }
        self.env.pool.put(kept);
        self.charge(token, read, bytes);
        self.note_excesses();
    }

    /// What was kept of a connection is not read any more.
    pub(super) fn drop_held(&mut self, input: Option<HeldInput>) {
        self.put_back(input.and_then(|input| input.bytes));
    }

    /// A buffer that is dropped instead would stay charged.
    fn put_back(&mut self, buffer: Option<Buffer>) {
        if let Some(buffer) = buffer {
            self.env.pool.put(buffer);
        }
    }
}
