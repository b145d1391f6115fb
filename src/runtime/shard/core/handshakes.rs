//! TLS handshakes that wait for their turn.
//!
//! A handshake takes as long as hundreds of messages. When thousands arrive together, a tick does a few of them, and the
//! messages of other connections come between.

use std::collections::{BTreeMap, VecDeque};

use super::Core;
use super::held::HeldInput;
use crate::driver::{Driver, Span, Token};
use crate::limits::TLS_HANDSHAKES_PER_TICK;
use crate::shard::application::Application;
use crate::shard::kinds::Kinds;

/// The handshakes of a shard. Empty without TLS.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// How many flights this tick has answered.
    answered: usize,
    /// Connections in the order of their turns. Some may have ended.
    turns: VecDeque<Token>,
    waiting: BTreeMap<Token, HeldInput>,
}

impl Handshakes {
    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether a connection has to wait, because the tick has answered enough or its earlier input waits. Otherwise its
    /// input counts as answered.
    fn must_wait(&mut self, token: Token) -> bool {
        if self.answered >= TLS_HANDSHAKES_PER_TICK || self.waiting.contains_key(&token) {
            return true;
        }
        self.answered += 1;
        false
    }

    /// A connection waits for its turn.
    pub(super) fn wait(&mut self, token: Token, input: HeldInput) {
        self.turns.push_back(token);
        self.waiting.insert(token, input);
    }

    /// A connection has sent FIN. True if that waits with its input.
    pub(super) fn note_ended(&mut self, token: Token) -> bool {
        !self.waiting.is_empty() && self.waiting.get_mut(&token).map(|waiting| waiting.ended = true).is_some()
    }

    /// A connection has ended.
    pub(super) fn forget(&mut self, token: Token) -> Option<HeldInput> {
        if self.waiting.is_empty() { None } else { self.waiting.remove(&token) }
    }

    /// The connection whose turn it is.
    fn next(&mut self) -> Option<(Token, HeldInput)> {
        while self.answered < TLS_HANDSHAKES_PER_TICK
            && let Some(token) = self.turns.pop_front()
        {
            if let Some(waiting) = self.waiting.remove(&token) {
                self.answered += 1;
                return Some((token, waiting));
            }
        }
        None
    }
}

impl<D: Driver, K: Kinds> Core<D, K> {
    /// Whether the input of a connection has to wait for the turn of its TLS handshake.
    pub(super) fn handshake_must_wait(&mut self, token: Token) -> bool {
        let is_open = self.sessions.get(token.index).is_none_or(|session| session.is_open());
        !is_open && self.handshakes.must_wait(token)
    }

    /// Keeps the input of a connection for its turn.
    #[cold]
    pub(super) fn queue_handshake(&mut self, token: Token, span: Span) {
        let held = self.handshakes.waiting.get_mut(&token).and_then(|input| input.bytes.take());
        if let Some(kept) = self.keep(token, held, span, self.arrival_bytes_max()) {
            match self.handshakes.waiting.get_mut(&token) {
                Some(input) => input.bytes = Some(kept),
                None => self.handshakes.wait(token, HeldInput { bytes: Some(kept), ended: false }),
            }
        }
    }

    /// Whether the next tick has handshakes to continue.
    #[inline]
    pub(in crate::shard) fn has_waiting_handshakes(&self) -> bool {
        !self.handshakes.is_empty()
    }

    /// A tick begins: continues the handshakes whose turn it is.
    /// Returns whether there were any.
    #[inline]
    pub(in crate::shard) fn continue_handshakes<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
    ) -> bool {
        self.handshakes.answered = 0;
        let are_waiting = !self.handshakes.is_empty();
        if are_waiting {
            self.answer_handshakes(application);
        }
        are_waiting
    }

    #[cold]
    fn answer_handshakes<A: Application<Kinds = K>>(&mut self, application: &mut A) {
        while let Some((token, input)) = self.handshakes.next() {
            self.env.pool.set_handshake(true);
            self.read_held(application, token, input);
            self.env.pool.set_handshake(false);
            if self.env.pool.is_under_pressure() {
                self.relieve(application);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::buffer::Pool;

    fn token(index: usize) -> Token {
        Token { index: index as u32, generation: 1 }
    }

    fn turns(handshakes: &mut Handshakes) -> Vec<(Token, bool)> {
        handshakes.answered = 0;
        std::iter::from_fn(|| handshakes.next()).map(|(token, waiting)| (token, waiting.ended)).collect()
    }

    #[test]
    fn a_tick_answers_a_few_and_the_others_keep_their_order() {
        let mut pool = Pool::standalone();
        let mut held = || HeldInput { bytes: pool.get(100), ended: false };
        let mut handshakes = Handshakes::default();
        let waiting: Vec<usize> =
            (0..3 * TLS_HANDSHAKES_PER_TICK).filter(|index| handshakes.must_wait(token(*index))).collect();
        assert_eq!(waiting, (TLS_HANDSHAKES_PER_TICK..3 * TLS_HANDSHAKES_PER_TICK).collect::<Vec<_>>());
        waiting.iter().for_each(|index| handshakes.wait(token(*index), held()));
        let [first, second] = [waiting[0], waiting[1]].map(token);
        // More input, the end of the stream, and the end of the connection.
        assert!(handshakes.must_wait(second));
        assert!(handshakes.waiting.get(&second).is_some_and(|input| input.bytes.is_some()));
        assert!(handshakes.note_ended(second) && !handshakes.note_ended(token(0)));
        assert!(handshakes.forget(first).is_some());
        let expected: Vec<_> =
            waiting[1..].iter().map(|index| (token(*index), token(*index) == second)).collect();
        let (now, later) = expected.split_at(TLS_HANDSHAKES_PER_TICK);
        assert_eq!(turns(&mut handshakes), now);
        assert!(handshakes.must_wait(token(0)), "the tick has answered enough");
        assert_eq!(turns(&mut handshakes), later);
        assert!(handshakes.is_empty());
    }
}
