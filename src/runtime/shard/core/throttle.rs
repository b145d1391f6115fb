//! Limits on the messages and bytes that a connection sends per second.
//!
//! They are counted per received span, after it was read: a connection that has sent too much waits for as long as it would
//! have taken, or is closed. Without limits none of it is reached.

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use super::by_index::ByIndex;
use super::held::HeldInput;
use crate::admission::{Bucket, Limit, RateAction, TrafficLimits};
use crate::driver::{Driver, Span, Token};
use crate::limits::TIMER_TICK;
use crate::shard::application::Application;
use crate::shard::kinds::Kinds;
use echoring_proto::CloseCode;
use echoring_proto::connection::CloseMode;
use echoring_proto::limits::{DEFERRED_BYTES_MAX, Nanos};

/// The limits of a shard's connections.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    limits: TrafficLimits,
    is_on: bool,
    /// Those that are full and not paused need not be kept.
    buckets: ByIndex<Buckets>,
    /// Counts what was charged, for sweeping [`buckets`](Throttle::buckets).
    charges: usize,
    /// Connections that are not read, by the time at which they are again.
    paused: BTreeSet<(Nanos, Token)>,
    /// What they have sent meanwhile: bytes that were on the way when they were paused.
    held: BTreeMap<Token, HeldInput>,
    /// When the timer wheel looks at them next.
    wakes_at: Nanos,
}

#[derive(Clone, Copy, Debug, Default)]
struct Buckets {
    messages: Bucket,
    bytes: Bucket,
    /// Until when the connection is not read; 0 if it is.
    paused_until: Nanos,
}

/// Charges for which one block of buckets is looked at: so many that it costs each of them nothing, and so few that the
/// buckets of a flood of connections are forgotten while it goes on.
const CHARGES_PER_SWEEP: usize = 32;

/// What a connection had sent before a span.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    messages: u64,
    /// Its messages were not counted in a class of their own yet.
    in_handshake: bool,
}

impl Throttle {
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A connection has sent FIN. True if that waits until what it sent before is read.
    #[inline]
    pub(super) fn note_ended(&mut self, token: Token) -> bool {
        let held = if self.held.is_empty() { None } else { self.held.get_mut(&token) };
        held.map(|held| held.ended = true).is_some()
    }

    /// Bytes of the node's budget that the input of a paused connection takes.
    pub(super) fn held_bytes(&self, token: Token) -> u64 {
        let input = if self.held.is_empty() { None } else { self.held.get(&token) };
        input.and_then(|input| input.bytes.as_ref()).map_or(0, |bytes| bytes.accounted_bytes() as u64)
    }

    /// Takes what was kept of a connection.
    pub(super) fn take_held(&mut self, token: Token) -> Option<HeldInput> {
        self.held.remove(&token)
    }

    fn buckets(&mut self, index: u32) -> &mut Buckets {
        self.buckets.get_or_default(index)
    }

    /// Forgets buckets that need not be kept, a few at a time.
    fn sweep(&mut self, now: Nanos) {
        self.charges = self.charges.wrapping_add(1);
        if self.charges.is_multiple_of(CHARGES_PER_SWEEP) {
            let is_unused = |buckets: &Buckets| {
                let Buckets { messages, bytes, paused_until } = *buckets;
                paused_until == 0 && messages.is_full(now) && bytes.is_full(now)
            };
            self.buckets.sweep(self.charges / CHARGES_PER_SWEEP, is_unused);
        }
    }

    /// Takes from the buckets. Returns the limit that was passed, and when the connection has paid for it.
    fn spend(&mut self, token: Token, messages: u64, bytes: u64, now: Nanos) -> Option<(Limit, Nanos)> {
        let TrafficLimits { messages: message_rate, bytes: byte_rate, .. } = self.limits;
        let buckets = self.buckets(token.index);
        let mut over = None;
        for (limit, bucket, rate, spent) in [
            (Limit::Messages, &mut buckets.messages, message_rate, messages),
            (Limit::Bytes, &mut buckets.bytes, byte_rate, bytes),
        ] {
            if let Some(rate) = rate {
                let paid_at = bucket.spend(rate, spent, now);
                if paid_at > now && over.is_none_or(|(_, at)| paid_at > at) {
                    over = Some((limit, paid_at));
                }
            }
        }
        over
    }
}

impl<D: Driver, K: Kinds> Core<D, K> {
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

    /// What a connection has sent so far. Zero without limits.
    #[inline]
    pub(super) fn meter(&mut self, token: Token) -> Meter {
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
    pub(super) fn charge(&mut self, token: Token, before: Meter, bytes: u32) {
        if self.throttle.is_on {
            self.charge_any(token, before, u64::from(bytes));
        }
    }

    /// Counts and logs what the application has found.
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
        match self.throttle.limits.action {
            RateAction::Pause => {
                slot.connection.set_throttled(true, self.env.now);
                // What was on the way to a connection that is paused already makes it wait longer.
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

    /// Reads again from connections that have waited long enough.
    pub(super) fn resume_throttled<A: Application<Kinds = K>>(&mut self, application: &mut A) {
        if !self.throttle.paused.is_empty() {
            self.resume_due(application);
        }
    }

    #[cold]
    fn resume_due<A: Application<Kinds = K>>(&mut self, application: &mut A) {
        while let Some(&(until, token)) = self.throttle.paused.first()
            && until <= self.env.now
        {
            self.throttle.paused.pop_first();
            self.throttle.buckets(token.index).paused_until = 0;
            match self.throttle.spend(token, 0, 0, self.env.now) {
                Some((_, until)) => self.pause_until(token, until),
                None => self.resume_one(application, token),
            }
        }
        // The wheel may have a shorter reach than the longest pause.
        if let Some(&(until, token)) = self.throttle.paused.first()
            && self.throttle.wakes_at <= self.env.now
        {
            self.wake_at(token, until);
        }
    }

    fn resume_one<A: Application<Kinds = K>>(&mut self, application: &mut A, token: Token) {
        self.with_connection(token, |connection, now| connection.set_throttled(false, now));
        self.release(application, token);
    }

    /// Reads what was held of a connection.
    fn release<A: Application<Kinds = K>>(&mut self, application: &mut A, token: Token) {
        if let Some(input) = self.throttle.take_held(token) {
            self.read_held(application, token, input);
        }
    }

    /// Keeps bytes of a connection that is paused. False if they are to be read.
    #[inline]
    pub(super) fn holds_back<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        span: Span,
    ) -> bool {
        !self.throttle.paused.is_empty() && self.hold_back(application, token, span)
    }

    #[cold]
    fn hold_back<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        span: Span,
    ) -> bool {
        if self.throttle.buckets.get(token.index).is_none_or(|buckets| buckets.paused_until == 0) {
            return false;
        }
        if self.slots.get(token).is_none_or(|slot| !slot.connection.is_open()) {
            // It is read for the sake of its Close frame.
            self.release(application, token);
            return false;
        }
        let held = self.throttle.held.get_mut(&token).and_then(|input| input.bytes.take());
        if let Some(kept) = self.keep(token, held, span, DEFERRED_BYTES_MAX) {
            self.throttle.held.entry(token).or_default().bytes = Some(kept);
        }
        true
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
        let input = self.throttle.take_held(token);
        self.drop_held(input);
    }
}
