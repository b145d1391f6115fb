//! Reads input that was kept: of connections whose client was unknown, whose TLS handshake waited, or that were paused.

use super::Shard;
use crate::driver::{Span, Token};
use crate::shard::application::Application;
use crate::shard::core::HeldInput;
use echoring_proto::buffer::Buffer;

impl<A: Application> Shard<A> {
    /// Reads again from connections that have waited long enough.
    #[cold]
    pub(super) fn resume_due(&mut self) {
        while let Some(token) = self.core.next_resumed() {
            self.release(token);
        }
    }

    /// Reads the held input of a connection.
    fn release(&mut self, token: Token) {
        if let Some(input) = self.core.throttle.held.remove(&token) {
            self.read_held(token, input);
        }
    }

    /// Keeps bytes of a connection that is paused. False if they must be read.
    #[cold]
    pub(super) fn hold_back(&mut self, token: Token, span: Span) -> bool {
        if !self.core.is_throttled(token) {
            return false;
        }
        if self.core.slots.get(token).is_none_or(|slot| !slot.connection.is_open()) {
            // It is read for the sake of its Close frame.
            self.release(token);
            return false;
        }
        self.core.hold_throttled(token, span);
        true
    }

    /// Continues the TLS handshakes whose turn it is. Returns whether there were any.
    #[inline]
    pub(super) fn continue_handshakes(&mut self) -> bool {
        self.core.handshakes.answered = 0;
        let are_waiting = !self.core.handshakes.is_empty();
        if are_waiting {
            self.answer_handshakes();
        }
        are_waiting
    }

    #[cold]
    fn answer_handshakes(&mut self) {
        while let Some((token, input)) = self.core.handshakes.next() {
            self.core.env.pool.set_handshake(true);
            self.read_held(token, input);
            self.core.env.pool.set_handshake(false);
            if self.core.env.pool.is_under_pressure() {
                self.relieve();
            }
        }
    }

    /// Reads the kept input of a connection.
    pub(super) fn read_held(&mut self, token: Token, input: HeldInput) {
        if let Some(bytes) = input.bytes {
            self.read_kept(token, bytes);
        }
        // It may have to wait again, but nothing of it is left.
        if input.ended {
            self.core.ended(token);
        }
    }

    fn read_kept(&mut self, token: Token, mut kept: Buffer) {
        let read = self.core.meter(token);
        let bytes = kept.len() as u32;
        let is_sealed = self.core.sessions.has(token.index);
        if bytes > 0 && !(is_sealed && self.received_sealed(token, &mut kept)) {
            self.read_buffer(token, &mut kept);
        }
        self.core.env.pool.put(kept);
        self.core.charge(token, read, bytes);
        self.core.note_excesses();
    }
}
