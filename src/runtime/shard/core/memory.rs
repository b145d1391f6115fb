//! Limits on peers that do not read. Sends without progress are ended, and when the node is short of memory, the
//! connections that hold most beyond their share are closed.

use std::cmp::Reverse;

use super::Core;
use super::relief::{ConnectionMemory, MemoryRelief, UnfinishedSend};
use crate::driver::Token;
use crate::limits::{RELIEF_INTERVAL, RELIEF_PARTS, SEND_LOOKS};
use crate::shard::kinds::Kinds;
use crate::shard::slots::SendCheck;
use echoring_proto::connection::Cause;

impl<K: Kinds> Core<K> {
    /// A connection's send was short: it must make progress from now on.
    pub(in crate::shard) fn watch(&mut self, token: Token) {
        let timeout = self.env.config.send_timeout;
        let Some(slot) = self.slots.get_mut(token).filter(|_| timeout > 0) else { return };
        if std::mem::replace(&mut slot.send_check, SendCheck::Progressed) == SendCheck::No {
            let (since, look_at) = (self.env.now, self.env.now + timeout / SEND_LOOKS);
            self.unfinished_sends.push_back(UnfinishedSend { token, unsent_bytes: 0, since, look_at });
        }
    }

    /// Makes this tick check all partial sends, because their check times follow from another timeout.
    pub(super) fn look_at_sends_now(&mut self) {
        let now = self.env.now;
        self.unfinished_sends.iter_mut().for_each(|watch| watch.look_at = now);
        if !self.unfinished_sends.is_empty() {
            (self.trim_at, self.trim_wanted) = (now, true);
        }
    }

    /// Flushes all connections that are not read from in this tick: they may queue more than before.
    pub(super) fn touch_paused(&mut self) {
        let paused = self.slots.iter().filter(|(_, slot)| slot.connection.is_paused());
        let paused: Vec<Token> = paused.map(|(token, _)| token).collect();
        for token in paused {
            self.touch(token);
        }
    }

    /// Closes connections whose sends have made no progress for too long, and resumes reading from those that were
    /// paused for it. Returns whether any send is partial.
    pub(super) fn look_at_sends(&mut self) -> bool {
        let timeout = self.env.config.send_timeout;
        // Reading adds to the memory of such a connection.
        let has_memory = !self.is_short();
        while let Some(watch) = self.unfinished_sends.front()
            && watch.look_at <= self.env.now
            && let Some(mut watch) = self.unfinished_sends.pop_front()
        {
            let token = watch.token;
            let Some(slot) = self.slots.get_mut(token) else { continue };
            if !slot.connection.is_blocked() || !slot.connection.is_open() {
                // A closing connection has a deadline of its own.
                slot.send_check = SendCheck::No;
                continue;
            }
            let unsent_bytes = self.driver.unsent_bytes(token);
            let has_progressed =
                std::mem::replace(&mut slot.send_check, SendCheck::Due) == SendCheck::Progressed;
            if has_progressed || unsent_bytes != watch.unsent_bytes {
                (watch.unsent_bytes, watch.since) = (unsent_bytes, self.env.now);
            } else if self.env.now.saturating_sub(watch.since) >= timeout {
                slot.send_check = SendCheck::No;
                tracing::info!(unsent_bytes, "connection ended: a send made no progress");
                slot.connection.abort_and_release(Cause::SendTimeout, &mut self.env.pool);
                self.touch(token);
                continue;
            } else if has_memory && slot.connection.wants_one_more(&self.env.config) {
                slot.connection.note_resumed(self.env.now);
                self.driver.resume(token);
            }
            watch.look_at = self.env.now + timeout / SEND_LOOKS;
            self.unfinished_sends.push_back(watch);
        }
        !self.unfinished_sends.is_empty()
    }

    /// Begins to free memory. Returns whether another shard has requested it.
    pub(in crate::shard) fn begin_relief(&mut self) -> bool {
        let called = self.env.pool.is_reclaim_requested();
        self.env.pool.acknowledge_reclaim();
        self.env.pool.free_all();
        called
    }

    /// Whether connections must be closed for their memory.
    pub(in crate::shard) fn is_relief_due(&self) -> bool {
        let MemoryRelief { look_at, look_below_bytes, .. } = self.relief;
        self.is_short() && (look_at <= self.env.now || self.env.pool.free_bytes() < look_below_bytes)
    }

    /// Has the other shards free memory, which may be less important than this shard's. They do so at most once in a
    /// [`RELIEF_INTERVAL`], and not if this shard was `called` itself.
    pub(in crate::shard) fn call_others(&mut self, called: bool) {
        if !called && self.relief.call_at <= self.env.now {
            self.relief.call_at = self.env.now + RELIEF_INTERVAL;
            self.env.pool.request_reclaim();
            self.mailboxes.call_all();
        }
    }

    /// Closes the connections that hold most beyond their share. True if there was none, now and before.
    pub(in crate::shard) fn end_over_share(&mut self, called: bool) -> bool {
        self.call_others(called);
        let found_none = !self.end_largest();
        if found_none {
            self.relief.look_at = self.env.now + RELIEF_INTERVAL;
            self.relief.look_below_bytes = self.env.pool.free_bytes() / RELIEF_PARTS * (RELIEF_PARTS - 1);
        }
        std::mem::replace(&mut self.relief.found_none, found_none) && found_none
    }

    /// Whether more memory must be freed. Memory that is about to be returned counts only in part, because this tick
    /// may need some at once.
    pub(in crate::shard) fn is_short(&self) -> bool {
        self.env.pool.is_short(self.relief.coming_bytes) || self.env.pool.is_low()
    }

    /// Closes connections that hold more than their share until the node has memory again: blocked ones first, the
    /// largest of them first. A connection that is receiving a long message is not closed before half of the reserve is
    /// used. False if there is no such connection.
    fn end_largest(&mut self) -> bool {
        let share_bytes = self.env.pool.budget().share();
        let low = self.env.pool.is_low();
        let is_over =
            |holding: &ConnectionMemory| holding.held_bytes > share_bytes && (holding.is_blocked || low);
        let mut over: Vec<ConnectionMemory> = self.holdings().filter(is_over).collect();
        over.sort_unstable_by_key(|holding| Reverse((holding.is_blocked, holding.held_bytes, holding.token)));
        let found = !over.is_empty();
        for ConnectionMemory { token, held_bytes, .. } in over {
            if !self.is_short() {
                break;
            }
            tracing::warn!(
                held_bytes,
                share_bytes,
                "the node is short of memory: ending the connection that holds most beyond its share"
            );
            self.relief.coming.push((token, held_bytes));
            self.relief.coming_bytes += held_bytes;
            self.relief.count += 1;
            if let Some(slot) = self.slots.get_mut(token) {
                let before = self.env.pool.used_bytes();
                slot.connection.abort_and_release(Cause::OverShare, &mut self.env.pool);
                let input = self.throttle.held.remove(&token);
                self.drop_held(input);
                self.env.pool.free_all();
                // Memory that was returned at once is not awaited.
                let freed_bytes = before.saturating_sub(self.env.pool.used_bytes()).min(held_bytes);
                self.relief.coming_bytes -= freed_bytes;
                if let Some((_, coming_bytes)) = self.relief.coming.last_mut() {
                    *coming_bytes -= freed_bytes;
                }
            }
            self.touch(token);
        }
        found
    }

    pub(in crate::shard) fn ended_for_memory(&self) -> u64 {
        self.relief.count
    }

    /// The connections that may be closed to free memory, with their bytes of the node's budget.
    pub(in crate::shard) fn holdings(&self) -> impl Iterator<Item = ConnectionMemory> {
        let slots =
            self.slots.iter().filter(|(_, slot)| !slot.leaving && slot.connection.may_be_ended_for_memory());
        slots.map(|(token, slot)| {
            let session_bytes = self.sessions.get(token.index).map_or(0, |session| session.held_bytes());
            let unsent_bytes = self.driver.held_bytes(token) as u64;
            let paused_bytes = self.throttle.held_bytes(token);
            let held_bytes = slot.connection.held_bytes() + session_bytes + unsent_bytes + paused_bytes;
            ConnectionMemory { token, held_bytes, is_blocked: slot.connection.is_blocked() }
        })
    }

    /// The memory of a connection that was closed for lack of memory has been returned.
    pub(super) fn came_back(&mut self, token: Token) {
        let MemoryRelief { coming, coming_bytes, .. } = &mut self.relief;
        if let Some(at) = coming.iter().position(|(other, _)| *other == token) {
            *coming_bytes -= coming.swap_remove(at).1;
        }
    }
}
