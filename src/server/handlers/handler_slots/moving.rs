//! The handlers of connections that move: each leaves its slot as bytes, and continues in a slot of another shard.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};

use super::{HandlerSlots, Handlers};
use crate::handlers::handler::Handler;
use crate::handlers::migrate::ThawContext;
use crate::handlers::panics::caught;
use crate::limits::MIGRATE_STATE_BYTES_MAX;
use crate::routes::route::{Route, Routes};
use echoring_broker::peer::ConnectionContext;
use echoring_broker::publications::on_close::OnClose;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::Destination;

/// The handler of a connection that has come in, before it has its slot.
pub(crate) struct Newcomer {
    handler: Box<dyn Handler>,
    route: Arc<Route>,
    message_bytes: u64,
    reserved_bytes: usize,
    wake_at: Option<Nanos>,
    on_close: OnClose,
}

impl Newcomer {
    /// The connection gets no slot: releases what the handler holds.
    pub(crate) fn give_up(self, pool: &mut Pool) {
        pool.discharge(self.reserved_bytes);
        self.on_close.release(pool);
        caught(move || drop(self.handler));
    }
}

impl HandlerSlots {
    /// Whether the handler of a slot can move at all.
    pub(crate) fn is_movable(&self, number: u32) -> bool {
        self.entries[number as usize].movable_by.is_some()
    }

    /// Whether it owes and awaits nothing now.
    pub(crate) fn may_leave(&self, number: u32, to: Destination) -> bool {
        let slot = &self.entries[number as usize];
        let is_waiting = slot.waiting || slot.wants_address || self.yielding.contains(&number);
        slot.handler.is_some()
            && !slot.has_failed
            && !is_waiting
            && slot.senders.as_deref().is_none_or(|senders| senders.may_stay_behind(to))
    }

    /// Appends the state of a handler. From now on its senders have no room. The slot is [left](HandlerSlots::move_out), or
    /// [kept](HandlerSlots::keep). `None`, and nothing done, if the handler cannot move now.
    pub(crate) fn freeze(&mut self, number: u32, now: Nanos, out: &mut Vec<u8>) -> Option<()> {
        let slot = &self.entries[number as usize];
        let (route, handler) = (slot.movable_by.as_deref()?, slot.handler.as_deref()?);
        let migration = route.migration()?;
        // A panic changes nothing: the handler goes on here.
        let state = caught(|| migration.freeze(handler))??;
        if slot.senders.as_deref().is_some_and(|senders| !senders.shut()) {
            return None;
        }
        let name = route.name();
        out.put_u16_le(name.len() as u16);
        out.put_slice(name.as_bytes());
        out.put_u8(u8::from(slot.streaming));
        out.put_u64_le(slot.message_bytes);
        out.put_u64_le(slot.reserved_bytes as u64);
        let left = self.timers.time_of(number).map(|at| at.saturating_sub(now));
        out.put_u8(u8::from(left.is_some()));
        out.put_u64_le(left.unwrap_or(0));
        slot.on_close.freeze(out);
        out.put_u32_le(state.len() as u32);
        out.put_slice(&state);
        Some(())
    }

    /// A handler that was frozen goes on here.
    pub(crate) fn keep(&self, number: u32) {
        self.entries[number as usize].senders.iter().for_each(|senders| senders.open_again());
    }

    /// A handler that was frozen is gone. Its connection is not closed.
    pub(crate) fn move_out(&mut self, number: u32, pool: &mut Pool) {
        let slot = &mut self.entries[number as usize];
        pool.discharge(std::mem::take(&mut slot.reserved_bytes));
        if let Some(handler) = slot.handler.take() {
            caught(move || drop(handler));
        }
        self.vacate(number).release(pool);
    }

    /// The handler that `from` begins with. `None`, and nothing kept, if the bytes are malformed, no route has it, its program does not
    /// know its state, or there is no memory for it.
    pub(crate) fn thaw(
        from: &mut &[u8],
        routes: &Routes,
        here: &ThawContext<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<Newcomer> {
        let name_bytes = usize::from(from.try_get_u16_le().ok()?);
        let route = routes.find_migrating(std::str::from_utf8(from.split_off(..name_bytes)?).ok()?)?;
        let is_streaming = from.try_get_u8().ok()? == 1;
        let message_bytes = from.try_get_u64_le().ok()?;
        let reserved_bytes = usize::try_from(from.try_get_u64_le().ok()?).ok()?;
        let (has_timer, left) = (from.try_get_u8().ok()? == 1, from.try_get_u64_le().ok()?);
        let on_close = OnClose::thaw(from, pool)?;
        let handler = HandlerSlots::thaw_handler(from, &route, here).filter(|handler| {
            caught(|| handler.is_streaming()) == Some(is_streaming) && pool.charge(reserved_bytes)
        });
        let Some(handler) = handler else {
            on_close.release(pool);
            return None;
        };
        let wake_at = has_timer.then_some(now.saturating_add(left));
        Some(Newcomer { handler, route, message_bytes, reserved_bytes, wake_at, on_close })
    }

    fn thaw_handler(from: &mut &[u8], route: &Route, here: &ThawContext<'_>) -> Option<Box<dyn Handler>> {
        let bytes = from.try_get_u32_le().ok()? as usize;
        let state = from.split_off(..bytes).filter(|state| state.len() <= MIGRATE_STATE_BYTES_MAX)?;
        let migration = route.migration()?;
        caught(|| (migration.thaw)(state, here))?
    }

    /// Puts the handler of a connection that has come in into a free slot. Returns the slot's number.
    pub(crate) fn move_in(&mut self, token: Token, newcomer: Newcomer) -> u32 {
        let Newcomer { handler, route, message_bytes, reserved_bytes, wake_at, on_close } = newcomer;
        let number = self.take(token, handler, &route);
        if let Some(at) = wake_at {
            self.timers.set(number, at);
        }
        let slot = &mut self.entries[number as usize];
        (slot.message_bytes, slot.reserved_bytes, slot.on_close) = (message_bytes, reserved_bytes, on_close);
        number
    }
}

impl Handlers<'_> {
    /// The connection of a handler goes on here.
    pub(crate) fn thawed(&mut self, link: &mut ConnectionContext<'_>, number: u32) {
        let route = self.slots.entries[number as usize].movable_by.clone();
        if let Some(migration) = route.as_deref().and_then(Route::migration) {
            self.call(link, number, |handler, remote| (migration.thawed)(handler, remote));
        }
    }
}
