//! Limits on the messages and bytes that a connection sends per second.
//!
//! They are counted per received span, after it was read: a connection that has sent too much waits for as long as it would
//! have taken, or is closed. Without limits this code is never reached.

use super::Core;
use super::by_index::ByIndex;
use super::throttle::{Buckets, Meter};
use crate::admission::{Bucket, Limit, RateAction, TrafficLimits};
use crate::driver::{Span, Token};
use crate::limits::TIMER_TICK;
use crate::shard::kinds::Kinds;
use echoring_proto::CloseCode;
use echoring_proto::connection::CloseMode;
use echoring_proto::limits::{DEFERRED_BYTES_MAX, Nanos};

impl<K: Kinds> Core<K> {
    /// Uses other limits from now on.
    pub(super) fn set_throttle(&mut self, limits: &TrafficLimits) {
        self.throttle.limits = limits.clone();
        self.throttle.is_on = !limits.is_none();
        // Those that wait are looked at again with the next tick.
        for (_, token) in std::mem::take(&mut self.throttle.paused) {
            self.throttle.buckets(token.index).bytes = Bucket::default();
            self.throttle.buckets(token.index).messages = Bucket::default();
            self.pause_until(token, self.env.now);
        }
        if self.throttle.is_on || !self.throttle.paused.is_empty() {
            self.slots.leave_fast_path();
        } else {
            self.throttle.buckets = ByIndex::default();
        }
    }

    /// The messages and bytes that a connection has sent so far. Zero without limits.
    #[inline]
    pub(in crate::shard) fn meter(&mut self, token: Token) -> Meter {
        if self.throttle.is_on { self.read_meter(token) } else { Meter::default() }
    }

    fn read_meter(&mut self, token: Token) -> Meter {
        let Some(slot) = self.slots.get(token) else { return Meter::default() };
        let (account, in_handshake) = (slot.account, slot.peer.is_none());
        Meter { messages: self.messages_of(account, in_handshake), in_handshake }
    }

    fn messages_of(&mut self, account: crate::stats::Account, in_handshake: bool) -> u64 {
        match in_handshake {
            true => self.counters.traffic.total().messages_in,
            false => self.counters.traffic.at(account).messages_in,
        }
    }

    /// A connection has sent bytes, and the messages since `before`.
    #[inline]
    pub(in crate::shard) fn charge(&mut self, token: Token, before: Meter, bytes: u32) {
        if self.throttle.is_on {
            self.charge_any(token, before, u64::from(bytes));
        }
    }

    /// Counts and logs a finding of the application.
    #[inline]
    pub(in crate::shard) fn note_excesses(&mut self) {
        while let Some((token, limit, counts)) = self.excesses.pop() {
            self.note_excess(token, limit, counts);
        }
    }

    fn charge_any(&mut self, token: Token, before: Meter, bytes: u64) {
        let Some(slot) = self.slots.get(token) else { return };
        let account = slot.account;
        let messages = self.messages_of(account, before.in_handshake).saturating_sub(before.messages);
        if before.in_handshake && messages == 0 {
            // A handshake has limits of its own, and an idle connection needs no buckets.
            return;
        }
        let spent = self.throttle.spend(token, messages, bytes, self.env.now);
        self.throttle.sweep(self.env.now);
        let Some((limit, until)) = spent else { return };
        let Some(slot) = self.slots.get_mut(token).filter(|slot| slot.connection.is_open()) else { return };
        match self.throttle.limits.rate_action {
            RateAction::Pause => {
                slot.connection.set_throttled(true, self.env.now);
                // Input that was on its way when the connection was paused makes it wait longer.
                if self.throttle.buckets(token.index).paused_until == 0 {
                    self.pause_until(token, until);
                    self.note_excess(token, limit, false);
                }
            }
            RateAction::Close => {
                let reason = if limit == Limit::Messages { "too many messages" } else { "too many bytes" };
                let code = CloseCode::POLICY;
                slot.connection.close(code, reason, CloseMode::Graceful, &mut self.env.lend());
                self.note_excess(token, limit, true);
            }
        }
        self.touch(token);
    }

    /// Whether any connection is paused.
    #[inline]
    pub(in crate::shard) fn has_throttled(&self) -> bool {
        !self.throttle.paused.is_empty()
    }

    /// Whether a connection is paused.
    pub(in crate::shard) fn is_throttled(&self, token: Token) -> bool {
        self.throttle.buckets.get(token.index).is_some_and(|buckets| buckets.paused_until != 0)
    }

    /// A connection that has waited long enough, and that is read again.
    pub(in crate::shard) fn next_resumed(&mut self) -> Option<Token> {
        while let Some(&(until, token)) = self.throttle.paused.first()
            && until <= self.env.now
        {
            self.throttle.paused.pop_first();
            self.throttle.buckets(token.index).paused_until = 0;
            if let Some((_, until)) = self.throttle.spend(token, 0, 0, self.env.now) {
                self.pause_until(token, until);
                continue;
            }
            self.with_connection(token, |connection, now| connection.set_throttled(false, now));
            return Some(token);
        }
        // The wheel may have a shorter reach than the longest pause.
        if let Some(&(until, token)) = self.throttle.paused.first()
            && self.throttle.wakes_at <= self.env.now
        {
            self.wake_at(token, until);
        }
        None
    }

    /// Keeps bytes of a connection that is paused.
    pub(in crate::shard) fn hold_throttled(&mut self, token: Token, span: Span) {
        let held = self.throttle.held.get_mut(&token).and_then(|input| input.bytes.take());
        if let Some(kept) = self.keep(token, held, span, DEFERRED_BYTES_MAX) {
            self.throttle.held.entry(token).or_default().bytes = Some(kept);
        }
    }

    fn pause_until(&mut self, token: Token, until: Nanos) {
        self.throttle.buckets(token.index).paused_until = until;
        self.throttle.paused.insert((until, token));
        if self.throttle.wakes_at <= self.env.now || until < self.throttle.wakes_at {
            self.wake_at(token, until);
        }
    }

    /// An entry of the wheel that belongs to no deadline of a connection: it only makes the shard look.
    fn wake_at(&mut self, token: Token, until: Nanos) {
        self.throttle.wakes_at = u64::from(self.timers.arm(token, until)) * TIMER_TICK;
    }

    /// A connection has ended.
    pub(super) fn forget_throttled(&mut self, token: Token) {
        if let Some(buckets) = self.throttle.buckets.get_mut(token.index) {
            let Buckets { paused_until, .. } = std::mem::take(buckets);
            self.throttle.paused.remove(&(paused_until, token));
        }
        let input = self.throttle.held.remove(&token);
        self.drop_held(input);
    }
}
