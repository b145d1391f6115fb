//! Connections that leave for other shards, and those that come from there.

use super::Shard;
use crate::driver::{Span, Token};
use crate::shard::application::Application;
use crate::shard::context::Context;
use crate::shard::core::TakenIn;
use crate::shard::{Continuation, Detached};

impl<A: Application> Shard<A> {
    /// Keeps bytes of a connection that may leave. False if they must be read.
    #[inline]
    pub(super) fn holds_leaving(&mut self, token: Token, span: Span) -> bool {
        let holds = self.core.leaving.holds(token);
        if holds {
            self.core.hold_leaving(token, span);
        }
        holds
    }

    /// The driver has given a connection up, which leaves.
    #[cold]
    pub(super) fn released(&mut self, token: Token) {
        let Some(detached) = self.core.pack(token) else { return self.closed(token) };
        let unsent = match &self.core.exits {
            Some(exits) => exits.send(detached).err(),
            None => Some(detached),
        };
        if let Some(detached) = unsent {
            // It never was on its way.
            self.take_in(Detached { is_returned: true, from: None, ..detached });
        }
    }

    /// The driver cannot give a connection up, or it fails meanwhile: it goes on here.
    #[cold]
    pub(super) fn stay(&mut self, token: Token) {
        if let Some(state) = self.core.stay(token) {
            self.go_on(token, &state, Continuation::Kept);
        }
        // The rest of the tick's work comes after this input.
        self.read_staying();
    }

    fn go_on(&mut self, token: Token, state: &[u8], continuation: Continuation) {
        if !self.application.go_on(&mut Context { core: &mut self.core }, token, state, continuation) {
            self.core.cannot_continue(token);
        } else if self.core.draining_until.is_some() {
            // It was on its way when the others were told.
            self.say_farewell(token);
        }
    }

    /// Takes in the connections that other shards have sent.
    pub(super) fn take_newcomers(&mut self) {
        while let Ok(detached) = self.newcomers.try_recv() {
            self.take_in(detached);
        }
    }

    fn take_in(&mut self, detached: Detached) {
        let is_of_this_process = detached.from.is_some();
        let continuation = if detached.is_returned { Continuation::Refused } else { Continuation::New };
        let TakenIn { token, state, input } = match self.core.take_in(detached) {
            Ok(taken) => taken,
            Err(detached) => return self.turn_away(detached),
        };
        if let Some(exits) = self.core.exits.as_ref().filter(|_| is_of_this_process) {
            exits.note_arrival();
        }
        self.go_on(token, &state, continuation);
        self.read_held(token, input);
        self.core.touch(token);
        self.core.arm(token);
    }

    /// A connection is not taken in.
    fn turn_away(&mut self, detached: Detached) {
        self.core.counters.moves_refused += 1;
        if detached.answer.is_some() {
            // The other side keeps the connection until it hears that it was taken in.
            return;
        }
        let Some(exits) = &self.core.exits else { return };
        let is_lost = detached.is_returned || exits.send_back(detached).is_err();
        if is_lost {
            exits.note_arrival();
        }
    }

    /// Reads the kept input of connections that stay after all.
    #[inline]
    pub(super) fn read_staying(&mut self) {
        if self.core.leaving.has_staying() {
            self.read_all_staying();
        }
    }

    #[cold]
    fn read_all_staying(&mut self) {
        while let Some((token, input)) = self.core.leaving.next_staying() {
            self.core.look_for_plain_echo(token);
            self.read_held(token, input);
            self.core.touch(token);
        }
    }
}
