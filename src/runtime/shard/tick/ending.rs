//! Deadlines, the ends of connections, and the application's part of a drain.

use std::borrow::Cow;

use super::Shard;
use crate::driver::Token;
use crate::shard::Continuation;
use crate::shard::application::Application;
use crate::shard::context::Context;
use crate::shard::control::DrainPlan;
use crate::shard::kinds::Kinds as _;
use echoring_proto::CloseCode;
use echoring_proto::connection::{Cause, Closed};
use echoring_proto::handshake::Refusal;
use echoring_proto::limits::Nanos;

impl<A: Application> Shard<A> {
    #[inline(never)]
    pub(super) fn expire_due(&mut self) {
        let due = self.core.take_due();
        if self.core.has_throttled() {
            self.resume_due();
        }
        let mut undecided = Vec::new();
        self.core.pass_deadlines(due, &mut undecided);
        undecided.into_iter().for_each(|token| self.end_decision(token));
        self.core.trim_if_due();
        if self.core.draining_until.is_some_and(|until| until <= self.core.env.now) {
            for token in self.core.slots.tokens() {
                self.core.driver.abort(token);
                self.closed(token);
            }
            self.core.stopping = true;
        }
    }

    /// A request has waited for a decision as long as a handshake may take. The client has sent all of it, and is owed an answer.
    #[cold]
    fn end_decision(&mut self, token: Token) {
        let mut cx = Context { core: &mut self.core };
        self.application.undecided(&mut cx, token);
        if cx.is_deciding(token) {
            cx.refuse(token, &Refusal::UNDECIDED);
        }
    }

    /// A connection has ended.
    pub(super) fn closed(&mut self, token: Token) {
        if let Some(state) = self.core.forget_leaving(token) {
            // The application has to forget it, too.
            self.application.go_on(&mut Context { core: &mut self.core }, token, &state, Continuation::Kept);
        }
        let end_of_life = self.core.lifetimes.cause(token).cloned();
        let Some(slot) = self.core.remove(token) else { return };
        let gone = Closed::new(CloseCode::ABNORMAL, Cause::Gone);
        let mut closed = Cow::Borrowed(slot.connection.closed().unwrap_or(&gone));
        if let Some(cause) = end_of_life.filter(|_| closed.cause == Cause::Local) {
            closed.to_mut().cause = cause;
        }
        self.core.note_end(token, &slot, &closed, self.application.identity(token));
        if let Some(peer) = slot.peer {
            self.application.closed(&mut Context { core: &mut self.core }, token, peer, &closed);
        }
    }

    /// Begins a drain. Of several plans, the one that closes everyone at once wins, and the earliest deadline.
    pub(super) fn begin_drain(&mut self, plan: &DrainPlan) {
        if let Some(until) = self.core.plan_drain(plan) {
            self.drain_until(until);
        }
    }

    /// Closes the connections of a paced drain whose turn it is. At its end, the rest is drained together.
    #[cold]
    pub(super) fn say_due_farewells(&mut self) {
        while let Some(token) = self.core.next_farewell() {
            self.say_farewell(token);
        }
        if let Some(until) = self.core.end_farewells() {
            self.drain_until(until);
        }
    }

    /// Closes the connections whose life is over.
    #[cold]
    pub(super) fn end_due_lives(&mut self) {
        while let Some(token) = self.core.next_life_end() {
            self.say_farewell(token);
        }
    }

    pub(super) fn say_farewell(&mut self, token: Token) {
        let Some(slot) = self.core.slots.get(token) else { return };
        if !slot.connection.is_deciding() && slot.peer.as_ref().is_some_and(A::Kinds::outlives_drain) {
            self.application.farewell(&mut Context { core: &mut self.core }, token);
        } else {
            self.core.say_goodbye(token, true);
        }
        self.core.touch(token);
    }

    fn drain_until(&mut self, until: Nanos) {
        self.core.drain_until(until);
        self.application.draining(&mut Context { core: &mut self.core });
    }
}
