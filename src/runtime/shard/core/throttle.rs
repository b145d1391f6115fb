//! Rates of connections: the limits per second, and the connections that are paused because they exceeded one.

use std::collections::{BTreeMap, BTreeSet};

use super::by_index::ByIndex;
use super::held::HeldInput;
use crate::admission::{Bucket, Limit, TrafficLimits};
use crate::driver::Token;
use echoring_proto::limits::Nanos;

/// The limits of a shard's connections.
#[derive(Debug, Default)]
pub(in crate::shard) struct Throttle {
    pub(super) limits: TrafficLimits,
    pub(super) is_on: bool,
    /// Full buckets without a pause need not be kept.
    pub(super) buckets: ByIndex<Buckets>,
    /// Counts the charges, for sweeping [`buckets`](Throttle::buckets).
    charges: usize,
    /// Connections that are not read, by the time at which they are again.
    pub(super) paused: BTreeSet<(Nanos, Token)>,
    /// Their input in the meantime: bytes that were in flight when they were paused.
    pub(in crate::shard) held: BTreeMap<Token, HeldInput>,
    /// When the timer wheel looks at them next.
    pub(super) wakes_at: Nanos,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buckets {
    pub(super) messages: Bucket,
    pub(super) bytes: Bucket,
    /// Until when the connection is not read; 0 if it is.
    pub(super) paused_until: Nanos,
}

/// Charges after which one block of buckets is checked: so many that the check costs each of them nothing, and so few
/// that the buckets of a flood of connections are forgotten while it lasts.
const CHARGES_PER_SWEEP: usize = 32;

/// A connection's traffic before a span.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::shard) struct Meter {
    pub(super) messages: u64,
    /// Its messages were not counted in a class of their own yet.
    pub(super) in_handshake: bool,
}

impl Throttle {
    /// A connection has sent FIN. True if that waits until its earlier input is read.
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

    pub(super) fn buckets(&mut self, index: u32) -> &mut Buckets {
        self.buckets.get_or_default(index)
    }

    /// Forgets buckets that need not be kept, a few at a time.
    pub(super) fn sweep(&mut self, now: Nanos) {
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
    pub(super) fn spend(
        &mut self,
        token: Token,
        messages: u64,
        bytes: u64,
        now: Nanos,
    ) -> Option<(Limit, Nanos)> {
        let TrafficLimits { message_rate, byte_rate, .. } = self.limits;
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
