//! What peers that do not read may cost: sends that make no progress end, and when the node is short of memory, those
//! who hold most beyond their share give way, never whoever asks next.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::Core;
use crate::connection::Cause;
use crate::driver::{Driver, Token};
use crate::limits::{Nanos, RELIEF_INTERVAL, RELIEF_PARTS, SEND_LOOKS};
use crate::shard::Application;

/// Unfinished sends, each looked at now and then: one entry for each connection that has one, or had one when it was
/// last looked at.
#[derive(Debug, Default)]
pub(super) struct Watches {
    /// By the time of their next look.
    queue: VecDeque<Watch>,
}

#[derive(Debug)]
struct Watch {
    token: Token,
    /// What the kernel had not taken when it was last looked at.
    unsent_bytes: usize,
    /// Since when that has not become less.
    since: Nanos,
    look_at: Nanos,
}

/// Connections that were ended for want of memory.
#[derive(Debug, Default)]
pub(super) struct GivingWay {
    /// Those whose memory has not come back yet, and how much that is.
    coming: Vec<(Token, u64)>,
    coming_bytes: u64,
    /// How many there have been.
    count: u64,
    /// When connections are looked at next for those that hold more than their share, unless less is free by then.
    look_at: Nanos,
    look_below_bytes: u64,
    /// The last look found none, on this shard.
    found_none: bool,
    /// When the other shards are asked again.
    call_at: Nanos,
}

/// What a connection holds that may be ended to make memory.
#[derive(Clone, Copy, Debug)]
pub struct Holding {
    /// The connection.
    pub token: Token,
    /// Bytes of the node's budget, those of an unfinished send included.
    pub held_bytes: u64,
    /// Its peer does not read as fast as it is sent to.
    pub is_blocked: bool,
}

impl<D: Driver, A: Application> Core<D, A> {
    /// A connection's send was short: from now on it has to make progress.
    pub(in crate::shard) fn watch(&mut self, token: Token) {
        let timeout = self.config.connection.send_timeout;
        let Some(slot) = self.slots.get_mut(token).filter(|_| timeout > 0) else { return };
        slot.progressed = true;
        if !std::mem::replace(&mut slot.watched, true) {
            let look_at = self.now + timeout / SEND_LOOKS;
            self.watches.queue.push_back(Watch { token, unsent_bytes: 0, since: self.now, look_at });
        }
    }

    /// Ends connections whose sends have made no progress for too long, and reads once more from those that are paused for it.
    /// Returns whether any is unfinished.
    pub(super) fn look_at_sends(&mut self) -> bool {
        let timeout = self.config.connection.send_timeout;
        // What is read adds to what such a connection holds.
        let has_memory = !self.is_short();
        while let Some(watch) = self.watches.queue.front()
            && watch.look_at <= self.now
            && let Some(mut watch) = self.watches.queue.pop_front()
        {
            let token = watch.token;
            let Some(slot) = self.slots.get_mut(token) else { continue };
            if !slot.connection.is_blocked() || !slot.connection.is_open() {
                // What is about to end has a deadline of its own.
                slot.watched = false;
                continue;
            }
            let unsent_bytes = self.driver.unsent_bytes(token);
            if std::mem::take(&mut slot.progressed) || unsent_bytes != watch.unsent_bytes {
                (watch.unsent_bytes, watch.since) = (unsent_bytes, self.now);
            } else if self.now.saturating_sub(watch.since) >= timeout {
                slot.watched = false;
                tracing::info!(unsent_bytes, "connection ended: a send made no progress");
                slot.connection.give_way(Cause::SendTimeout, &mut self.pool);
                self.touch(token);
                continue;
            } else if has_memory && slot.connection.wants_one_more(&self.config.connection) {
                self.driver.resume(token);
            }
            watch.look_at = self.now + timeout / SEND_LOOKS;
            self.watches.queue.push_back(watch);
        }
        !self.watches.queue.is_empty()
    }

    /// Makes memory when the node is short of it: what is kept free goes first, then histories, then the connections
    /// that hold most beyond their share, and what only laggards still need of logs at last.
    #[cold]
    #[inline(never)]
    pub(in crate::shard) fn relieve(&mut self, application: &mut A) {
        let called = self.pool.is_called();
        self.pool.answer();
        self.pool.free_all();
        while self.is_short() && application.shed(&mut self.pool, false) {}
        let GivingWay { look_at, look_below_bytes, .. } = self.giving_way;
        if self.is_short() && (look_at <= self.now || self.pool.free_bytes() < look_below_bytes) {
            if !called && self.giving_way.call_at <= self.now {
                // Other shards may have more of what is worth less.
                self.giving_way.call_at = self.now + RELIEF_INTERVAL;
                self.pool.call();
                self.mailboxes.call_all();
            }
            let found_none = !self.end_largest();
            if found_none {
                self.giving_way.look_at = self.now + RELIEF_INTERVAL;
                self.giving_way.look_below_bytes = self.pool.free_bytes() / RELIEF_PARTS * (RELIEF_PARTS - 1);
                if self.giving_way.found_none {
                    while self.is_short() && application.shed(&mut self.pool, true) {}
                }
            }
            self.giving_way.found_none = found_none;
        }
        self.pool.free_all();
        self.pool.set_pressed(false);
    }

    /// Whether more has to be given back. What is about to come back counts, but not for all of it: this turn may need
    /// some at once.
    fn is_short(&self) -> bool {
        self.pool.is_short(self.giving_way.coming_bytes) || self.pool.is_low()
    }

    /// Ends those who hold more than their share until the node is not short of memory any more: who does not read first,
    /// and of those who holds most. Who is in the middle of a long message reads, and is not ended before half of the
    /// reserve is gone. False when there is none.
    fn end_largest(&mut self) -> bool {
        let share_bytes = self.pool.share_bytes();
        let low = self.pool.is_low();
        let is_over = |holding: &Holding| holding.held_bytes > share_bytes && (holding.is_blocked || low);
        let mut over: Vec<Holding> = self.holdings().filter(is_over).collect();
        over.sort_unstable_by_key(|holding| Reverse((holding.is_blocked, holding.held_bytes, holding.token)));
        let found = !over.is_empty();
        for Holding { token, held_bytes, .. } in over {
            if !self.is_short() {
                break;
            }
            tracing::warn!(
                held_bytes,
                share_bytes,
                "the node is short of memory: who holds most beyond its share is ended"
            );
            self.giving_way.coming.push((token, held_bytes));
            self.giving_way.coming_bytes += held_bytes;
            self.giving_way.count += 1;
            if let Some(slot) = self.slots.get_mut(token) {
                let before = self.pool.used_bytes();
                slot.connection.give_way(Cause::OverShare, &mut self.pool);
                self.pool.free_all();
                // What came back at once is not awaited.
                let freed_bytes = before.saturating_sub(self.pool.used_bytes()).min(held_bytes);
                self.giving_way.coming_bytes -= freed_bytes;
                if let Some((_, coming_bytes)) = self.giving_way.coming.last_mut() {
                    *coming_bytes -= freed_bytes;
                }
            }
            self.touch(token);
        }
        found
    }

    pub(in crate::shard) fn gave_way(&self) -> u64 {
        self.giving_way.count
    }

    /// The connections that may be ended to make memory, with what they hold of the node's budget.
    pub(in crate::shard) fn holdings(&self) -> impl Iterator<Item = Holding> {
        let slots = self.slots.iter().filter(|(_, slot)| !slot.leaving && slot.connection.may_give_way());
        slots.map(|(token, slot)| {
            let session_bytes = self.sessions.get(token.index).map_or(0, |session| session.held_bytes());
            let unsent_bytes = self.driver.held_bytes(token) as u64;
            let held_bytes = slot.connection.held_bytes() + session_bytes + unsent_bytes;
            Holding { token, held_bytes, is_blocked: slot.connection.is_blocked() }
        })
    }

    /// What a connection that was ended for want of memory held has come back.
    pub(super) fn came_back(&mut self, token: Token) {
        let GivingWay { coming, coming_bytes, .. } = &mut self.giving_way;
        if let Some(at) = coming.iter().position(|(other, _)| *other == token) {
            *coming_bytes -= coming.swap_remove(at).1;
        }
    }
}
