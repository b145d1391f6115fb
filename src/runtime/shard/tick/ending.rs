//! Deadlines, and the ends of connections.

use super::Shard;
use crate::driver::{Driver, Token};
use crate::shard::application::Application;
use crate::shard::context::Context;
use echoring_proto::CloseCode;
use echoring_proto::connection::{Cause, Closed};

impl<D: Driver, A: Application> Shard<D, A> {
    #[inline]
    pub(super) fn expire_timers(&mut self) {
        if self.core.has_timers_due() {
            self.expire_due();
        }
    }

    #[inline(never)]
    fn expire_due(&mut self) {
        let due = self.core.take_due();
        self.resume_throttled();
        self.core.pass_deadlines(due);
        self.core.trim_if_due();
        if self.core.draining_until.is_some_and(|until| until <= self.core.env.now) {
            let tokens: Vec<Token> = self.core.slots.tokens().collect();
            for token in tokens {
                self.core.driver.abort(token);
                self.closed(token);
            }
            self.core.stopping = true;
        }
    }

    /// A connection has ended.
    pub(super) fn closed(&mut self, token: Token) {
        let Some(slot) = self.core.remove(token) else { return };
        let gone = Closed::new(CloseCode::ABNORMAL, Cause::Gone);
        let closed = slot.connection.closed().unwrap_or(&gone);
        self.core.note_end(token, &slot, closed, self.application.identity(token));
        if let Some(peer) = slot.peer {
            self.application.closed(&mut Context { core: &mut self.core }, token, peer, closed);
        }
    }
}
