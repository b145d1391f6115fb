//! TLS handshakes that wait for their turn.
//!
//! A handshake takes as long as hundreds of messages. When thousands arrive together, a tick does a few of them, and the
//! messages of other connections come between.

use std::collections::{BTreeMap, VecDeque};

use super::held::HeldInput;
use crate::driver::Token;
use crate::limits::TLS_HANDSHAKES_PER_TICK;

/// The handshakes of a shard. Empty without TLS.
#[derive(Debug, Default)]
pub(in crate::shard) struct Handshakes {
    /// How many flights this tick has answered.
    pub(in crate::shard) answered: usize,
    /// Connections in the order of their turns. Some may have ended.
    turns: VecDeque<Token>,
    pub(super) waiting: BTreeMap<Token, HeldInput>,
}

impl Handshakes {
    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether a connection must wait, because the tick has answered enough or its earlier input waits. Otherwise its
    /// input counts as answered.
    pub(super) fn must_wait(&mut self, token: Token) -> bool {
        if self.answered >= TLS_HANDSHAKES_PER_TICK || self.waiting.contains_key(&token) {
            return true;
        }
        self.answered += 1;
        false
    }

    /// A connection waits for its turn.
    pub(in crate::shard) fn wait(&mut self, token: Token, input: HeldInput) {
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
    pub(in crate::shard) fn next(&mut self) -> Option<(Token, HeldInput)> {
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
