//! The drain of a shard: connections are closed one by one over a time, or all at once.

use std::collections::VecDeque;

use super::Core;
use crate::driver::{Driver, Token};
use crate::shard::application::Application;
use crate::shard::context::Context;
use crate::shard::control::{DrainPlan, Goodbye};
use crate::shard::kinds::Kinds;
use echoring_proto::connection::CloseMode;
use echoring_proto::handshake::Refusal;
use echoring_proto::limits::Nanos;

/// Connections that are closed one by one. Until its turn a connection is served as before.
#[derive(Debug)]
pub(super) struct Farewells {
    queue: VecDeque<Token>,
    /// When the interval of the next close begins. The close falls at a random time in it.
    interval_at: Nanos,
    interval: Nanos,
    next_at: Nanos,
    /// When the remaining connections are closed together.
    paced_until: Nanos,
    /// When the remaining connections are cut.
    until: Nanos,
}

impl<D: Driver, K: Kinds> Core<D, K> {
    /// Begins a drain. Of several plans, the one that closes everyone at once wins, and the earliest deadline.
    pub(in crate::shard) fn begin_drain<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        plan: &DrainPlan,
    ) {
        if self.farewells.is_none() && self.draining_until.is_none() {
            self.goodbye = plan.goodbye;
        }
        if plan.paced > 0 && self.draining_until.is_none() {
            self.pace_drain(plan);
            return;
        }
        let until = self.env.now.saturating_add(plan.timeout);
        let until = self.farewells.take().map_or(until, |farewells| farewells.until.min(until));
        self.drain_until(application, until);
    }

    /// Stops accepting, and puts all connections in a random order.
    fn pace_drain(&mut self, plan: &DrainPlan) {
        if self.farewells.is_some() {
            return;
        }
        self.driver.stop_listening();
        let mut tokens: Vec<Token> = self.slots.tokens().collect();
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
        farewells.schedule(self.env.entropy.next() as u32);
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

    /// Closes the connections of a paced drain whose turn it is. At its end, the rest is drained together.
    #[inline]
    pub(in crate::shard) fn say_farewells<A: Application<Kinds = K>>(&mut self, application: &mut A) {
        if self.farewell_at().is_some_and(|at| at <= self.env.now) {
            self.say_due_farewells(application);
        }
    }

    #[cold]
    fn say_due_farewells<A: Application<Kinds = K>>(&mut self, application: &mut A) {
        while let Some(farewells) = &mut self.farewells
            && farewells.next_at <= self.env.now
            && let Some(token) = farewells.queue.pop_front()
        {
            farewells.schedule(self.env.entropy.next() as u32);
            self.say_farewell(application, token);
        }
        let (now, is_empty) = (self.env.now, self.slots.len() == 0);
        let is_over = |farewells: &mut Farewells| {
            is_empty || farewells.queue.is_empty() || farewells.paced_until <= now
        };
        if let Some(Farewells { until, queue, .. }) = self.farewells.take_if(is_over) {
            if !queue.is_empty() && !is_empty {
                let connections = queue.len();
                tracing::warn!(
                    connections,
                    "the drain time is over before all connections could be closed at its rate; closing \
                     the rest"
                );
            }
            self.drain_until(application, until);
        }
    }

    fn say_farewell<A: Application<Kinds = K>>(&mut self, application: &mut A, token: Token) {
        let Some(slot) = self.slots.get(token) else { return };
        let is_deciding = slot.connection.is_deciding();
        if !is_deciding && slot.peer.as_ref().is_some_and(|peer| K::outlives_drain(peer)) {
            application.farewell(&mut Context { core: self }, token);
        } else {
            self.say_goodbye(token, true);
        }
        self.touch(token);
    }

    /// Stops accepting, and closes all connections that the application does not close itself.
    fn drain_until<A: Application<Kinds = K>>(&mut self, application: &mut A, until: Nanos) {
        if let Some(earlier) = &mut self.draining_until {
            *earlier = until.min(*earlier);
        } else {
            self.draining_until = Some(until);
            self.driver.stop_listening();
            let tokens: Vec<Token> = self.slots.tokens().collect();
            for token in tokens {
                let stays = |peer| K::outlives_drain(peer);
                let stays = self.slots.get(token).is_some_and(|slot| slot.peer.as_ref().is_some_and(stays));
                self.say_goodbye(token, !stays);
                self.touch(token);
            }
        }
        application.draining(&mut Context { core: self });
    }

    /// Refuses a connection whose request is undecided, and closes one which is open, if `open`.
    fn say_goodbye(&mut self, token: Token, open: bool) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.connection.is_deciding() {
            self.refuse(token, &Refusal::DRAINING);
        } else if slot.connection.is_open() && open {
            let Goodbye { code, reason } = self.goodbye;
            slot.connection.close(code, reason, CloseMode::Graceful, &mut self.env.lend());
        }
    }
}

impl Farewells {
    /// Chooses the time of the next close within the next interval.
    fn schedule(&mut self, random: u32) {
        let jitter = (u128::from(self.interval) * u128::from(random)) >> 32;
        self.next_at = self.interval_at + jitter as Nanos;
        self.interval_at += self.interval;
    }
}
