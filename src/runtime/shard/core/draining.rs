//! The drain of a shard: connections are closed one by one over a time, or all at once.

use super::Core;
use super::farewells::Farewells;
use crate::driver::Token;
use crate::shard::control::{DrainPlan, Goodbye};
use crate::shard::kinds::Kinds;
use echoring_proto::connection::CloseMode;
use echoring_proto::handshake::Refusal;
use echoring_proto::limits::Nanos;

impl<K: Kinds> Core<K> {
    /// Decides how the shard drains. Returns until when it does, unless it closes its connections one by one.
    pub(in crate::shard) fn plan_drain(&mut self, plan: &DrainPlan) -> Option<Nanos> {
        if self.farewells.is_none() && self.draining_until.is_none() {
            self.goodbye = plan.goodbye;
        }
        if plan.paced > 0 && self.draining_until.is_none() {
            self.pace_drain(plan);
            return None;
        }
        let until = self.env.now.saturating_add(plan.timeout);
        Some(self.farewells.take().map_or(until, |farewells| farewells.until.min(until)))
    }

    /// Stops accepting, and arranges all connections in a random order.
    fn pace_drain(&mut self, plan: &DrainPlan) {
        if self.farewells.is_some() {
            return;
        }
        self.driver.stop_listening();
        let mut tokens = self.slots.tokens();
        for last in (1..tokens.len()).rev() {
            tokens.swap(last, (self.env.entropy.next() % (last as u64 + 1)) as usize);
        }
        let now = self.env.now;
        let interval = (plan.paced / (tokens.len() as u64).max(1)).max(plan.spacing).max(1);
        let mut farewells = Farewells {
            queue: tokens.into(),
            interval_at: now,
            interval,
            next_at: 0,
            paced_until: now.saturating_add(plan.paced),
            until: now.saturating_add(plan.timeout.max(plan.paced)),
        };
        farewells.schedule(&mut self.env.entropy);
        self.farewells = Some(farewells);
    }

    /// When the connections that are left are cut, in a drain of any kind.
    pub(in crate::shard) fn drain_ends_at(&self) -> Option<Nanos> {
        self.draining_until.or_else(|| self.farewells.as_ref().map(|farewells| farewells.until))
    }

    /// When the next connection of a paced drain is closed.
    pub(in crate::shard) fn farewell_at(&self) -> Option<Nanos> {
        let Farewells { next_at, paced_until, queue, .. } = self.farewells.as_ref()?;
        let is_idle = self.slots.len() == 0 || queue.is_empty();
        Some(if is_idle { 0 } else { *next_at.min(paced_until) })
    }

    /// The next connection of a paced drain whose turn it is.
    pub(in crate::shard) fn next_farewell(&mut self) -> Option<Token> {
        let farewells = self.farewells.as_mut().filter(|farewells| farewells.next_at <= self.env.now)?;
        let token = farewells.queue.pop_front()?;
        farewells.schedule(&mut self.env.entropy);
        Some(token)
    }

    /// Ends a paced drain that is over. Returns until when the shard drains.
    pub(in crate::shard) fn end_farewells(&mut self) -> Option<Nanos> {
        let (now, is_empty) = (self.env.now, self.slots.len() == 0);
        let is_over = |farewells: &mut Farewells| {
            is_empty || farewells.queue.is_empty() || farewells.paced_until <= now
        };
        let Farewells { until, queue, .. } = self.farewells.take_if(is_over)?;
        if !queue.is_empty() && !is_empty {
            let connections = queue.len();
            tracing::warn!(
                connections,
                "the drain time ended before all connections were closed at the drain rate; closing the rest"
            );
        }
        Some(until)
    }

    /// Stops accepting, and closes all connections that the application does not close itself.
    pub(in crate::shard) fn drain_until(&mut self, until: Nanos) {
        if let Some(earlier) = &mut self.draining_until {
            *earlier = until.min(*earlier);
            return;
        }
        self.draining_until = Some(until);
        self.driver.stop_listening();
        for token in self.slots.tokens() {
            let peer = self.slots.get(token).and_then(|slot| slot.peer.as_ref());
            let stays = peer.is_some_and(K::outlives_drain);
            self.say_goodbye(token, !stays);
            self.touch(token);
        }
    }

    /// Refuses a connection whose request is undecided, and closes one which is open, if `open`.
    pub(in crate::shard) fn say_goodbye(&mut self, token: Token, open: bool) {
        if self.leaving.is_given_up(token) {
            return;
        }
        let goodbye = self.goodbye_to(token);
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.connection.is_deciding() {
            self.refuse(token, &Refusal::DRAINING);
        } else if slot.connection.is_open() && open {
            let Goodbye { code, reason } = goodbye;
            slot.connection.close(code, reason, CloseMode::Graceful, &mut self.env.lend());
        }
    }
}
