//! Sends what was queued in a tick, and reports the state of connections to the application.

use super::Shard;
use crate::shard::application::Application;
use crate::shard::context::Context;
use crate::shard::slots::Path;

impl<A: Application> Shard<A> {
    /// Sends queued data and carries out the decisions of connections, until nothing is left.
    #[inline]
    pub(super) fn flush_dirty(&mut self) {
        if !self.core.dirty.is_empty() || !self.core.unblocked.is_empty() {
            self.flush_any();
        }
    }

    #[inline(never)]
    fn flush_any(&mut self) {
        // They are dirty since they were let go.
        self.read_staying();
        for _ in 0..2 {
            self.core.flush_listed();
            while let Some(token) = self.core.ending.pop() {
                self.application.ending(&mut Context { core: &mut self.core }, token);
            }
            self.read_deferred();
            self.tell_writable();
            if self.core.dirty.is_empty() {
                break;
            }
        }
        self.core.dirty.append(&mut self.core.retry);
    }

    fn read_deferred(&mut self) {
        while let Some((token, mut deferred)) = self.core.deferred.pop() {
            let read = self.core.meter(token);
            self.read_buffer(token, &mut deferred);
            self.core.env.pool.put(deferred);
            self.core.charge(token, read, 0);
            if self.core.ended_behind.remove(&token) {
                self.core.ended(token);
            }
            if self.core.env.pool.is_under_pressure() {
                self.relieve();
            }
        }
    }

    fn tell_writable(&mut self) {
        let mut unblocked = std::mem::take(&mut self.core.unblocked);
        for token in unblocked.drain(..) {
            let Some(slot) = self.core.slots.get(token) else { continue };
            if slot.connection.is_writable() {
                self.application.writable(&mut Context { core: &mut self.core }, token);
            } else if slot.path == Path::Listed && !slot.connection.is_blocked() {
                // Replies to deferred input leave first, and no event will report that.
                self.core.refused.push(token);
            }
        }
        self.core.unblocked = unblocked;
    }
}
