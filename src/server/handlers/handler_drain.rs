//! The drain of a shard's handlers: each is told once, some in each tick, before its connection is closed.
//!
//! ```text
//! Serving ── told, answers Close ───────────────────────> Leaving: closed by the server
//!    │└───── told, answers Wait ──> Told ── deadline, or something is refused ──> Leaving
//!    ├─ in the middle of an echo ─> Delayed ── its end ─> told
//!    └─ something is refused ─────> Due ── end of tick ─> told
//! ```
//!
//! A handler that passes on the refusal of a publication during a drain has not failed: it is notified, and its
//! connection is drained like the others.

use std::collections::VecDeque;

use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;

/// The handlers to notify, and those with a deadline.
#[derive(Debug, Default)]
pub(crate) struct HandlerDrain {
    notices: VecDeque<(Token, Nanos)>,
    /// In the order of their deadlines.
    waiting: VecDeque<(Token, Nanos)>,
    /// The deadline of all, once the whole shard drains.
    close_all_at: Option<Nanos>,
    /// Connections were left to the drain of topics, which looks at them at the end of a tick.
    pub(crate) has_released: bool,
}

impl HandlerDrain {
    /// Whether there is something to do, now or later.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.notices.is_empty() && self.waiting.is_empty() && !self.has_released
    }

    /// A handler must be notified, and its connection closed by `close_at`.
    pub(crate) fn add(&mut self, token: Token, close_at: Nanos) {
        self.notices.push_back((token, close_at));
    }

    /// All must be closed by then.
    pub(crate) fn close_all_at(&mut self, at: Nanos) {
        self.close_all_at = Some(self.close_all_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// The next handler to notify, with the deadline of its connection.
    pub(crate) fn pop_notice(&mut self) -> Option<(Token, Nanos)> {
        let (token, close_at) = self.notices.pop_front()?;
        Some((token, self.bounded(close_at)))
    }

    /// The connection is closed by `close_at` if its handler has not closed it.
    pub(crate) fn wait(&mut self, token: Token, close_at: Nanos) {
        // Deadlines come in order, but for those of handlers that were delayed.
        let behind = self.waiting.partition_point(|(_, at)| *at <= close_at);
        self.waiting.insert(behind, (token, close_at));
    }

    /// The echo of a delayed handler is complete: it is notified, with its deadline.
    #[cold]
    pub(crate) fn end_delay(&mut self, token: Token) {
        let waiting = self.waiting.iter().find(|(waiting, _)| *waiting == token);
        let close_at = waiting.map_or(Nanos::MAX, |(_, close_at)| *close_at);
        self.notices.push_front((token, close_at));
    }

    /// A connection whose deadline has passed.
    pub(crate) fn pop_due(&mut self, now: Nanos) -> Option<Token> {
        let (_, close_at) = *self.waiting.front()?;
        (self.bounded(close_at) <= now).then(|| self.waiting.pop_front().map(|(token, _)| token))?
    }

    /// When there is something to do without an event.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        if !self.notices.is_empty() || self.has_released {
            return Some(0);
        }
        self.waiting.front().map(|(_, close_at)| self.bounded(*close_at))
    }

    fn bounded(&self, close_at: Nanos) -> Nanos {
        self.close_all_at.map_or(close_at, |all| all.min(close_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(index: u32) -> Token {
        Token { index, generation: 0 }
    }

    #[test]
    fn deadlines_are_kept_in_order_and_shortened_for_all() {
        let mut drain = HandlerDrain::default();
        assert!(drain.is_idle() && drain.deadline().is_none());
        for (index, close_at) in [(1, 10), (2, 30), (3, 20), (4, 40)] {
            drain.wait(token(index), close_at);
        }
        assert_eq!((drain.deadline(), drain.pop_due(9)), (Some(10), None));
        assert_eq!((drain.pop_due(10), drain.pop_due(10)), (Some(token(1)), None));
        assert_eq!(drain.deadline(), Some(20));
        drain.close_all_at(25);
        drain.close_all_at(35);
        let due: Vec<_> = std::iter::from_fn(|| drain.pop_due(25)).collect();
        assert_eq!(due, [token(3), token(2), token(4)], "a later deadline for all changes nothing");
        assert!(drain.is_idle());
    }

    #[test]
    fn notices_have_the_earlier_deadline() {
        let mut drain = HandlerDrain::default();
        drain.add(token(1), 10);
        drain.add(token(2), 30);
        drain.wait(token(3), 15);
        drain.close_all_at(20);
        assert_eq!(drain.deadline(), Some(0), "at once");
        drain.end_delay(token(3));
        assert_eq!(drain.pop_notice(), Some((token(3), 15)), "the one that it had");
        assert_eq!(drain.pop_notice(), Some((token(1), 10)));
        assert_eq!(drain.pop_notice(), Some((token(2), 20)));
        assert_eq!(drain.pop_notice(), None);
        drain.has_released = true;
        assert_eq!((drain.is_idle(), drain.deadline()), (false, Some(0)));
        drain.has_released = false;
        assert_eq!(drain.deadline(), Some(15));
    }
}
