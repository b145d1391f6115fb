//! The handlers of one shard. An error or a panic of a handler closes its own connection only.

mod fragments;
pub(crate) mod plain_handler;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::handlers::backend::BackendHandler;
use crate::handlers::drain_notice::{DrainAction, DrainNotice};
use crate::handlers::failure::{Failure, Result};
use crate::handlers::handler::Handler;
use crate::handlers::handler_drain::HandlerDrain;
use crate::handlers::message::{Message, MessageFilter};
use crate::handlers::panics::caught;
use crate::handlers::remote::{HandlerServices, Remote};
use crate::handlers::sender::{Inlet, SenderAction, SenderMail, SenderQueue, Waiter};
use crate::handlers::subscription::{PublishOutcome, SubscriptionEvent};
use crate::limits::{
    DRAIN_NOTICES_PER_TICK, PACED_DRAIN_NOTICE, SENDER_BYTES_PER_TICK, SENDER_MESSAGE_BYTES,
};
use crate::routes::route::Route;
use echoring_broker::broadcast::{Broadcast, HandlerEvent, HandlerEvents};
use echoring_broker::observer;
use echoring_broker::peer::{ConnectionContext, Context, DrainPhase, Peer};
use echoring_broker::publications::on_close::OnClose;
use echoring_broker::timers::Timers;
use echoring_proto::CloseCode;
use echoring_proto::buffer::Pool;
use echoring_proto::connection::{Chunk, Closed, MessageKind};
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_runtime::admission::Limit;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Disposition, Goodbye, earlier};
use echoring_topics::Gap;

/// Delay before connections without memory retry.
const RETRY_DELAY: Nanos = MILLISECOND;

/// A connection's handler and its state.
struct HandlerSlot {
    /// `None` after the handler panicked, and in a free slot.
    handler: Option<Box<dyn Handler>>,
    token: Token,
    filter: MessageFilter,
    /// The route, if its connections can move.
    movable_by: Option<Arc<Route>>,
    /// Bytes of the current message so far.
    message_bytes: u64,
    reserved_bytes: usize,
    /// A call returned an error: the handler is only notified of the end.
    has_failed: bool,
    streaming: bool,
    /// Listed in `waiting`, or about to be when the message that is echoed in fragments is complete.
    waiting: bool,
    /// The handler waits for the peer's address.
    wants_address: bool,
    /// The messages of other threads' senders for the connection, once there is one.
    senders: Option<Box<SenderQueue>>,
    /// The messages that are published when the connection is closed, also if the handler has failed.
    on_close: OnClose,
}

/// The slots of a shard, by number.
#[derive(Default)]
pub(crate) struct HandlerSlots {
    entries: Vec<HandlerSlot>,
    free: Vec<u32>,
    timers: Timers,
    /// Handlers whose send was refused. They are called when their connection is writable.
    waiting: VecDeque<u32>,
    /// Handlers whose timer is due in this tick.
    due: VecDeque<u32>,
    /// Slots with messages of senders.
    sending: VecDeque<u32>,
    /// Slots whose peers' next messages wait for others.
    yielding: Vec<u32>,
    /// Some of them have not been processed yet.
    yields_anew: bool,
    /// Connections that wait for memory of the node, and the time of their retry.
    short_of_memory: Vec<Waiter>,
    retry_at: Nanos,
    /// The channel from senders to this shard.
    pub(crate) inlet: Option<Arc<dyn Inlet>>,
    spare_events: HandlerEvents,
    drain: HandlerDrain,
    /// The connections of back ends that have come from elsewhere, by the ids that they have kept.
    pub(crate) kept_ids: BTreeMap<Box<str>, Token>,
}

impl fmt::Debug for HandlerSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots, {} free", self.entries.len(), self.free.len())
    }
}

impl HandlerSlots {
    /// Puts the handler of a new connection into a free slot. Returns the slot's number.
    pub(crate) fn take(&mut self, token: Token, handler: Box<dyn Handler>, route: &Arc<Route>) -> u32 {
        let slot = HandlerSlot {
            streaming: caught(|| handler.is_streaming()).unwrap_or(false),
            handler: Some(handler),
            token,
            filter: route.filter(),
            movable_by: route.migration().is_some().then(|| Arc::clone(route)),
            message_bytes: 0,
            reserved_bytes: 0,
            has_failed: false,
            waiting: false,
            wants_address: false,
            senders: None,
            on_close: OnClose::default(),
        };
        match self.free.pop() {
            Some(number) => {
                self.entries[number as usize] = slot;
                number
            }
            None => {
                self.entries.push(slot);
                (self.entries.len() - 1) as u32
            }
        }
    }

    /// Whether a handler takes messages in chunks.
    pub(crate) fn is_streaming(&self, number: u32) -> bool {
        self.entries[number as usize].streaming
    }

    /// The connection of a slot is closed. Returns the messages that are to be published.
    pub(crate) fn leave(&mut self, number: u32, closed: &Closed, pool: &mut Pool) -> OnClose {
        let slot = &mut self.entries[number as usize];
        pool.discharge(std::mem::take(&mut slot.reserved_bytes));
        if let Some(mut handler) = self.take_handler(number) {
            caught(move || handler.close(closed));
        }
        self.vacate(number)
    }

    fn take_handler(&mut self, number: u32) -> Option<Box<dyn Handler>> {
        let handler = self.entries[number as usize].handler.take()?;
        let of_backend = BackendHandler::cast(&*handler);
        of_backend.and_then(|own| self.kept_ids.remove(own.connection.id()));
        Some(handler)
    }

    /// The handler of a slot, if its connection is one of a back end.
    pub(crate) fn of_backend(&self, number: u32) -> Option<&BackendHandler> {
        BackendHandler::cast(self.entries[number as usize].handler.as_deref()?)
    }

    /// Frees a slot. Returns the messages that were to be published on close.
    fn vacate(&mut self, number: u32) -> OnClose {
        self.timers.clear(number);
        self.free.push(number);
        let slot = &mut self.entries[number as usize];
        (slot.senders, slot.movable_by) = (None, None);
        std::mem::take(&mut slot.on_close)
    }

    /// When [`tick_ended`](HandlerSlots::tick_ended) has something to do without an event.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        if !self.waiting.is_empty() || !self.sending.is_empty() || self.yields_anew {
            return Some(0);
        }
        let retry_at = (!self.short_of_memory.is_empty()).then_some(self.retry_at);
        earlier(earlier(self.timers.next(), retry_at), self.drain.deadline())
    }

    /// Takes mail of a sender.
    pub(crate) fn mail(&mut self, mail: SenderMail, now: Nanos) {
        let number = mail.slot();
        let senders = self.entries.get_mut(number as usize).and_then(|slot| slot.senders.as_mut());
        let Some(senders) = senders.filter(|senders| senders.is_for(&mail)) else { return mail.give_up() };
        if let Some(waiter) = senders.put(mail) {
            if self.short_of_memory.is_empty() {
                self.retry_at = now + RETRY_DELAY;
            }
            self.short_of_memory.push(waiter);
        }
        self.list_sending(number);
    }

    fn list_sending(&mut self, number: u32) {
        if let Some(senders) = &mut self.entries[number as usize].senders
            && !senders.is_empty()
            && !std::mem::replace(&mut senders.is_listed, true)
        {
            self.sending.push_back(number);
        }
    }

    /// The connection of a handler must be closed by `close_at`: the handler is notified first.
    pub(crate) fn farewell(&mut self, token: Token, close_at: Nanos) {
        self.drain.add(token, close_at);
    }

    /// The same for all handlers. Called again if the drain must end earlier.
    pub(crate) fn drain_all(&mut self, cx: &mut Context<'_>, close_at: Nanos) {
        self.drain.close_all_at(close_at);
        for token in cx.tokens() {
            if cx.peer(token).and_then(|peer| peer.drain_phase()) == Some(DrainPhase::Serving) {
                self.drain.add(token, close_at);
            }
        }
    }

    /// The drain has refused something that the handler leaves to the server. It is notified of the drain if that has
    /// not happened yet. If it was to close the connection, that is the server's now.
    #[cold]
    fn refused_by_drain(&mut self, link: &mut ConnectionContext<'_>, number: u32) {
        let (token, now) = (link.token, link.now());
        let Peer::Handler(peer) = &mut *link.peer else { return };
        match peer.drain {
            DrainPhase::Serving => {
                peer.drain = DrainPhase::Due;
                self.drain.add(token, now + PACED_DRAIN_NOTICE);
            }
            DrainPhase::Told => {
                self.silence(number);
                self.drain.wait(token, now);
            }
            DrainPhase::Due | DrainPhase::Delayed | DrainPhase::Leaving => {}
        }
    }

    /// Hands messages of senders to their connections, as far as these have room.
    #[inline(never)]
    fn send_for_others(&mut self, cx: &mut Context<'_>) {
        let mut bytes_left = SENDER_BYTES_PER_TICK;
        for _ in 0..self.sending.len() {
            let Some(number) = self.sending.pop_front() else { return };
            let link = self.link(cx, number);
            let HandlerSlot { senders: Some(senders), .. } = &mut self.entries[number as usize] else {
                continue;
            };
            senders.is_listed = false;
            // Messages for a connection that is closing are dropped when it is closed.
            let Some(mut link) = link else { continue };
            if link.sends_fragments() {
                // The end of the message lists the slot again.
                continue;
            }
            send_queued(senders, &mut link, &mut bytes_left);
            senders.wake_for_room();
            if !link.is_blocked() && link.is_open() {
                self.list_sending(number);
            }
        }
    }

    fn wait_writable(&mut self, number: u32) {
        let slot = &mut self.entries[number as usize];
        if !std::mem::replace(&mut slot.waiting, true) {
            self.waiting.push_back(number);
        }
    }

    /// The connection of a slot, if it is open and the slot still belongs to it.
    fn link<'c>(&self, cx: &'c mut Context<'_>, number: u32) -> Option<ConnectionContext<'c>> {
        let link = cx.link(self.entries[number as usize].token)?;
        let own = link.peer.handler_slot() == Some(number);
        (own && link.is_open()).then_some(link)
    }

    /// Keeps a handler that failed until its connection is closed, the only event that it still receives.
    #[cold]
    fn silence(&mut self, number: u32) {
        self.timers.clear(number);
        self.entries[number as usize].has_failed = true;
    }

    /// Ends a handler that has failed, or panicked without a `failure`: counts that and closes its connection.
    #[cold]
    fn fail(&mut self, link: &mut ConnectionContext<'_>, number: u32, failure: Option<&Failure>) {
        match failure {
            Some(_) => self.silence(number),
            None => self.expel(number),
        }
        link.note_handler_failure(failure.is_none());
        let end = failure.map_or((CloseCode::INTERNAL, "internal error"), |it| (it.code(), it.reason()));
        link.close(end.0, end.1);
    }

    /// Drops a handler that panicked. Its slot stays taken until the connection is closed.
    #[cold]
    fn expel(&mut self, number: u32) {
        self.timers.clear(number);
        if let Some(handler) = self.take_handler(number) {
            caught(move || drop(handler));
        }
    }
}

/// The handlers of a shard and what their calls use, for the length of a call.
pub(crate) struct Handlers<'a> {
    pub(crate) slots: &'a mut HandlerSlots,
    pub(crate) services: HandlerServices<'a>,
}

impl Handlers<'_> {
    /// Passes a message, or a chunk of one, to its handler.
    pub(crate) fn chunk(
        &mut self,
        link: &mut ConnectionContext<'_>,
        number: u32,
        chunk: &Chunk<'_>,
    ) -> Disposition {
        let slot = &mut self.slots.entries[number as usize];
        if chunk.first {
            slot.message_bytes = 0;
        }
        slot.message_bytes += chunk.payload.len() as u64;
        let MessageFilter { kind, max_message } = slot.filter;
        if kind.is_some_and(|kind| kind != chunk.kind) {
            let reason = match chunk.kind {
                MessageKind::Text => "only binary messages are accepted",
                MessageKind::Binary => "only text messages are accepted",
            };
            link.close(CloseCode::UNSUPPORTED, reason);
            return Disposition::Done;
        }
        if slot.message_bytes > max_message {
            link.note_excess(Limit::MessageSize, false);
            link.close(CloseCode::TOO_BIG, "message too big for this path");
            return Disposition::Done;
        }
        let streaming = slot.streaming;
        let message = Message { kind: chunk.kind, payload: chunk.payload };
        let shown = self.call(link, number, |handler, remote| {
            if streaming { handler.chunk(remote, chunk) } else { handler.message(remote, message) }
        });
        let shown = shown.unwrap_or(Disposition::Done);
        let shown = if streaming { self.slots.note_fragment(link, number, chunk, shown) } else { shown };
        if chunk.last && !self.slots.drain.is_idle() && link.peer.drain_phase() == Some(DrainPhase::Delayed) {
            self.slots.drain.end_delay(link.token);
        }
        shown
    }

    /// The 101 is queued. Returns whether the handler wants the address of the peer.
    pub(crate) fn open(&mut self, link: &mut ConnectionContext<'_>, number: u32) -> bool {
        let opened = self.call(link, number, |handler, remote| {
            let wants_address = handler.wants_address();
            handler.open(remote).map(|()| wants_address)
        });
        let wants_address = opened.unwrap_or(false);
        self.slots.entries[number as usize].wants_address = wants_address;
        wants_address
    }

    /// The address of the peer is known, or unavailable. Passes it to a handler that waits for it.
    pub(crate) fn addressed(
        &mut self,
        link: &mut ConnectionContext<'_>,
        number: u32,
        address: Option<SocketAddr>,
    ) {
        if std::mem::take(&mut self.slots.entries[number as usize].wants_address) {
            self.call(link, number, |handler, remote| handler.addressed(remote, address));
        }
    }

    /// The connection is writable again.
    pub(crate) fn writable(&mut self, link: &mut ConnectionContext<'_>, number: u32) {
        self.slots.list_sending(number);
        self.call(link, number, |handler, remote| handler.writable(remote));
    }

    /// Calls the handlers whose timer is due, each once, and those that wait for a writable connection.
    #[inline]
    pub(crate) fn tick_ended(&mut self, cx: &mut Context<'_>) {
        if self.services.broadcast.has_handler_events() {
            self.tell_events(cx);
        }
        if !self.slots.waiting.is_empty() {
            self.notify_writable(cx);
        }
        let now = cx.now();
        if self.slots.timers.next().is_some_and(|at| at <= now) {
            self.call_due(cx, now);
        }
        if !self.slots.sending.is_empty() {
            self.slots.send_for_others(cx);
        }
        if !self.slots.short_of_memory.is_empty() && self.slots.retry_at <= now {
            self.slots.short_of_memory.clear();
        }
        if !self.slots.drain.is_idle() {
            self.advance_drain(cx, now);
        }
    }

    /// Notifies some of the waiting handlers of the drain, and closes some of the connections whose deadline has
    /// passed.
    #[cold]
    fn advance_drain(&mut self, cx: &mut Context<'_>, now: Nanos) {
        self.slots.drain.has_released = false;
        for _ in 0..DRAIN_NOTICES_PER_TICK {
            let Some((token, close_at)) = self.slots.drain.pop_notice() else { break };
            let goodbye = cx.goodbye(token);
            if let Some(mut link) = cx.link(token).filter(|link| link.is_open()) {
                self.tell_drain(&mut link, DrainNotice::new(now, close_at, goodbye));
            }
        }
        for _ in 0..DRAIN_NOTICES_PER_TICK {
            let Some(token) = self.slots.drain.pop_due(now) else { break };
            let goodbye = cx.goodbye(token);
            if let Some(mut link) = cx.link(token).filter(|link| link.is_open()) {
                self.leave_to_server(&mut link, goodbye);
            }
        }
    }

    fn tell_drain(&mut self, link: &mut ConnectionContext<'_>, notice: DrainNotice) {
        let is_echoing = link.sends_fragments();
        let Peer::Handler(peer) = &mut *link.peer else { return };
        let (number, before) = (peer.slot, peer.drain);
        if matches!(before, DrainPhase::Told | DrainPhase::Leaving) {
            return;
        }
        peer.drain = if is_echoing { DrainPhase::Delayed } else { DrainPhase::Told };
        let action = match is_echoing {
            // Nothing may come between the fragments.
            true => Some(DrainAction::Wait),
            false => self.call(link, number, |handler, remote| handler.draining(remote, &notice)),
        };
        if action != Some(DrainAction::Wait) {
            self.leave_to_server(link, notice.goodbye());
        } else if before != DrainPhase::Delayed {
            self.slots.drain.wait(link.token, notice.deadline());
        }
    }

    /// The server closes a connection: at once, or once it has the messages of its subscriptions.
    fn leave_to_server(&mut self, link: &mut ConnectionContext<'_>, goodbye: Goodbye) {
        let Peer::Handler(peer) = &mut *link.peer else { return };
        if std::mem::replace(&mut peer.drain, DrainPhase::Leaving) == DrainPhase::Leaving {
            return;
        }
        if peer.session.is_some() {
            self.services.broadcast.farewell_of_handler(link.token);
            self.slots.drain.has_released = true;
        } else {
            link.close(goodbye.code, goodbye.reason);
        }
    }

    /// Passes the events of their subscriptions and publications to handlers.
    #[inline(never)]
    fn tell_events(&mut self, cx: &mut Context<'_>) {
        let mut events =
            self.services.broadcast.take_handler_events(std::mem::take(&mut self.slots.spare_events));
        for (token, topic, event) in events.iter() {
            let Some(mut link) = cx.link(token).filter(|link| link.is_open()) else { continue };
            let Some(number) = link.peer.handler_slot() else { continue };
            self.call(&mut link, number, |handler, remote| tell_event(handler, remote, topic, event));
        }
        events.clear();
        self.slots.spare_events = events;
    }

    #[inline(never)]
    fn call_due(&mut self, cx: &mut Context<'_>, now: Nanos) {
        // All due timers are taken first: a timer that a handler sets to a past time is due in the next tick.
        while let Some(number) = self.slots.timers.pop_due(now) {
            self.slots.due.push_back(number);
        }
        while let Some(number) = self.slots.due.pop_front() {
            if let Some(mut link) = self.slots.link(cx, number) {
                self.call(&mut link, number, |handler, remote| handler.timer(remote));
            }
        }
    }

    /// Calls the waiting handlers whose connection is writable. The bytes that were queued when a send was refused have
    /// been passed to the driver since. If the kernel accepted them all, no event reports it; otherwise the end of that
    /// send does.
    fn notify_writable(&mut self, cx: &mut Context<'_>) {
        for _ in 0..self.slots.waiting.len() {
            let Some(number) = self.slots.waiting.pop_front() else { return };
            let Some(mut link) = self.slots.link(cx, number) else {
                self.slots.entries[number as usize].waiting = false;
                continue;
            };
            if link.sends_fragments() {
                // The end of the message lists the slot again.
                continue;
            }
            if !std::mem::take(&mut self.slots.entries[number as usize].waiting) {
                // Listed twice: before the message's end, and by it.
                continue;
            }
            if link.is_writable() && Broadcast::has_room_for(link.peer) {
                self.writable(&mut link, number);
            } else if !link.is_blocked() {
                // The batch of the driver was full: the bytes go with the next one.
                self.slots.wait_writable(number);
            }
        }
    }

    /// Calls a handler. An error or a panic closes the connection.
    pub(crate) fn call<R>(
        &mut self,
        link: &mut ConnectionContext<'_>,
        number: u32,
        tell: impl FnOnce(&mut dyn Handler, &mut Remote<'_>) -> Result<R>,
    ) -> Option<R> {
        let slot = &mut self.slots.entries[number as usize];
        let handler = slot.handler.as_deref_mut().filter(|_| !slot.has_failed)?;
        let mut remote = Remote {
            link: link.reborrow(),
            services: HandlerServices { broadcast: self.services.broadcast, gate: self.services.gate },
            slot: number,
            timers: &mut self.slots.timers,
            refused: false,
            reserved_bytes: &mut slot.reserved_bytes,
            senders: &mut slot.senders,
            inlet: &self.slots.inlet,
            on_close: &mut slot.on_close,
        };
        let told = caught(|| tell(handler, &mut remote));
        if remote.refused {
            self.slots.wait_writable(number);
        }
        match told {
            Some(Ok(result)) => return Some(result),
            Some(Err(failure)) if failure.is_draining() => self.slots.refused_by_drain(link, number),
            Some(Err(failure)) => {
                tracing::info!(code = failure.code().0, %failure, "a handler closed its connection");
                observer::failed(failure.code(), &failure);
                self.slots.fail(link, number, Some(&failure));
            }
            None => self.slots.fail(link, number, None),
        }
        None
    }
}

/// Passes the event of a topic to a handler.
fn tell_event(
    handler: &mut dyn Handler,
    remote: &mut Remote<'_>,
    topic: &str,
    event: HandlerEvent,
) -> Result {
    let event = match event {
        HandlerEvent::Subscribed(position, recovered) => {
            SubscriptionEvent::Subscribed { topic, position, recovered }
        }
        HandlerEvent::Refused(reason) => SubscriptionEvent::Refused { topic, reason },
        HandlerEvent::Gap(Gap { from, to, reason }) => SubscriptionEvent::Gap { topic, from, to, reason },
        HandlerEvent::Ended(position, reason) => SubscriptionEvent::Ended { topic, position, reason },
        HandlerEvent::Published(id, result) => {
            return handler.published(remote, &PublishOutcome { topic, id, result });
        }
    };
    handler.subscription(remote, &event)
}

/// Hands messages of senders to a connection, at most about `bytes_left`.
fn send_queued(senders: &mut SenderQueue, link: &mut ConnectionContext<'_>, bytes_left: &mut usize) {
    while *bytes_left > 0
        && link.is_open()
        && link.queued_bytes() <= link.queue_bytes()
        && let Some(action) = senders.next()
    {
        match action {
            SenderAction::Send(message, charge) => {
                *bytes_left = bytes_left.saturating_sub(message.payload().len() + SENDER_MESSAGE_BYTES);
                // Without memory for it the connection is ended.
                if link.send(message.kind(), message.payload()) {
                    senders.sent();
                }
                drop(charge);
            }
            SenderAction::Close(code, reason, charge) => {
                link.close(code, &reason);
                drop(charge);
            }
            SenderAction::Wait(waiter) => drop(waiter),
        }
    }
}
