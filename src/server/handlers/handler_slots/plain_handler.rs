//! The handlers of connections that move: each leaves its slot as bytes, and continues in a slot of another shard.

use std::sync::Arc;

use super::{HandlerSlots, Handlers};
use crate::handlers::backend::BackendHandler;
use crate::handlers::handler::Handler;
use crate::handlers::migrate::ThawContext;
use crate::handlers::panics::caught;
use crate::limits::MIGRATE_STATE_BYTES_MAX;
use crate::routes::route::{Route, Routes};
use echoring_broker::peer::ConnectionContext;
use echoring_broker::publications::on_close::OnClose;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use echoring_proto::plain::at_most;
use echoring_proto::{Plain as _, plain};
use echoring_runtime::driver::Token;
use echoring_runtime::shard::Destination;

plain! {
    /// What moves of a slot, before its messages on close.
    struct PlainHandler<'a> {
        route: &'a str,
        is_streaming: bool,
        message_bytes: u64,
        reserved_bytes: usize,
        wake_in: Option<Nanos>,
        state: &'a [u8] where at_most(MIGRATE_STATE_BYTES_MAX),
    }
}

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
    pub(crate) fn put(&mut self, number: u32, now: Nanos, out: &mut Vec<u8>) -> Option<()> {
        let slot = &self.entries[number as usize];
        let (route, handler) = (slot.movable_by.as_deref()?, slot.handler.as_deref()?);
        let migration = route.migration()?;
        let Some(Ok(state)) = caught(|| migration.freeze(handler)) else {
            // The handler goes on here, and is not asked again: it would say the same.
            self.entries[number as usize].movable_by = None;
            return None;
        };
        let state = state?;
        if slot.senders.as_deref().is_some_and(|senders| !senders.shut()) {
            return None;
        }
        let plain = PlainHandler {
            route: &route.name(),
            is_streaming: slot.streaming,
            message_bytes: slot.message_bytes,
            reserved_bytes: slot.reserved_bytes,
            wake_in: self.timers.time_of(number).map(|at| at.saturating_sub(now)),
            state: &state,
        };
        plain.put(out);
        slot.on_close.put(out);
        Some(())
    }

    /// A handler that was put into bytes goes on here.
    pub(crate) fn keep(&self, number: u32) {
        self.entries[number as usize].senders.iter().for_each(|senders| senders.open_again());
    }

    /// A handler that was put into bytes is gone. Its connection is not closed.
    pub(crate) fn move_out(&mut self, number: u32, pool: &mut Pool) {
        let slot = &mut self.entries[number as usize];
        pool.discharge(std::mem::take(&mut slot.reserved_bytes));
        if let Some(handler) = self.take_handler(number) {
            BackendHandler::cast(&*handler).into_iter().for_each(|own| own.connection.leave());
            caught(move || drop(handler));
        }
        self.vacate(number).release(pool);
    }

    /// The handler that `from` begins with. `None`, and nothing kept, if the bytes are malformed, no route has it, its program does not
    /// know its state, or there is no memory for it.
    pub(crate) fn take_newcomer(
        from: &mut &[u8],
        routes: [&Routes; 2],
        here: ThawContext<'_>,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<Newcomer> {
        let PlainHandler { route, is_streaming, message_bytes, reserved_bytes, wake_in, state } =
            PlainHandler::take(from)?;
        let route = routes.iter().find_map(|routes| routes.find_migrating(route))?;
        let on_close = OnClose::take(from, pool)?;
        let here = ThawContext { backend: route.backend(), ..here };
        let made = || caught(|| (route.migration()?.thaw)(state, &here))?;
        let handler = made().filter(|handler| {
            caught(|| handler.is_streaming()) == Some(is_streaming) && pool.charge(reserved_bytes)
        });
        let Some(handler) = handler else {
            on_close.release(pool);
            return None;
        };
        let wake_at = wake_in.map(|left| now.saturating_add(left));
        Some(Newcomer { handler, route, message_bytes, reserved_bytes, wake_at, on_close })
    }

    /// Puts the handler of a connection that has come in into a free slot. Returns the slot's number.
    pub(crate) fn move_in(&mut self, token: Token, newcomer: Newcomer) -> u32 {
        let Newcomer { handler, route, message_bytes, reserved_bytes, wake_at, on_close } = newcomer;
        self.kept_ids.extend(BackendHandler::cast(&*handler).map(|own| (own.connection.id().into(), token)));
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
    pub(crate) fn continued(&mut self, link: &mut ConnectionContext<'_>, number: u32) {
        let route = self.slots.entries[number as usize].movable_by.clone();
        if let Some(migration) = route.as_deref().and_then(Route::migration) {
            self.call(link, number, |handler, remote| (migration.thawed)(handler, remote));
        }
    }
}
