//! The handlers of one shard, and the walls around them: what one of them does wrong ends its own connection only.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::alarms::Alarms;
use super::handler::{Failure, Handler, Message};
use super::remote::Remote;
use super::service::{Peer, Service};
use crate::buffer::Pool;
use crate::connection::{Chunk, Closed, Kind};
use crate::driver::{Driver, Token};
use crate::limits::Nanos;
use crate::protocol::CloseCode;
use crate::shard::{Context, Disposition, Link};

/// What a route asks of each message before its handler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taste {
    /// The only kind that is taken; others are told 1003.
    pub(super) kind: Option<Kind>,
    /// Bytes of a message, at most; longer ones are told 1009.
    pub(super) message_bytes_max: u64,
}

/// A connection's handler and what is kept for it.
struct Seat {
    /// None when it failed, and where the seat is free.
    handler: Option<Box<dyn Handler>>,
    token: Token,
    taste: Taste,
    /// Of the message under way, so far.
    message_bytes: u64,
    reserved_bytes: usize,
    streaming: bool,
    /// Listed among the starved.
    starved: bool,
}

/// All seats of a shard, by their number.
#[derive(Default)]
pub(super) struct Seats {
    seats: Vec<Seat>,
    free: Vec<u32>,
    alarms: Alarms,
    /// Whose send was refused, and who will be told when there is room.
    starved: Vec<u32>,
    /// Reused from turn to turn.
    due: Vec<u32>,
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seats, {} free", self.seats.len(), self.free.len())
    }
}

impl Seats {
    /// A new connection's handler takes a seat.
    pub(super) fn take(&mut self, token: Token, handler: Box<dyn Handler>, taste: Taste) -> u32 {
        let streaming = catch_unwind(AssertUnwindSafe(|| handler.is_streaming()));
        let seat = Seat {
            streaming: streaming.unwrap_or_else(|panic| {
                log_panic(panic);
                false
            }),
            handler: Some(handler),
            token,
            taste,
            message_bytes: 0,
            reserved_bytes: 0,
            starved: false,
        };
        match self.free.pop() {
            Some(number) => {
                self.seats[number as usize] = seat;
                number
            }
            None => {
                self.seats.push(seat);
                (self.seats.len() - 1) as u32
            }
        }
    }

    /// Whether the handler of a seat wants messages in pieces.
    pub(super) fn is_streaming(&self, number: u32) -> bool {
        self.seats[number as usize].streaming
    }

    /// The connection of a seat is over.
    pub(super) fn leave(&mut self, number: u32, closed: &Closed, pool: &mut Pool) {
        let seat = &mut self.seats[number as usize];
        pool.discharge(std::mem::take(&mut seat.reserved_bytes));
        if let Some(mut handler) = seat.handler.take() {
            let left = catch_unwind(AssertUnwindSafe(move || handler.close(closed)));
            if let Err(panic) = left {
                log_panic(panic);
            }
        }
        self.alarms.clear(number);
        self.free.push(number);
    }

    /// A piece of a message, or all of it, goes to its handler.
    pub(super) fn chunk(
        &mut self,
        link: &mut Link<'_, Service>,
        number: u32,
        chunk: &Chunk<'_>,
    ) -> Disposition {
        let seat = &mut self.seats[number as usize];
        if chunk.first {
            seat.message_bytes = 0;
        }
        seat.message_bytes += chunk.payload.len() as u64;
        let Taste { kind, message_bytes_max } = seat.taste;
        if kind.is_some_and(|kind| kind != chunk.kind) {
            let reason = match chunk.kind {
                Kind::Text => "only binary messages are taken here",
                Kind::Binary => "only text messages are taken here",
            };
            link.close(CloseCode::UNSUPPORTED, reason);
            return Disposition::Done;
        }
        if seat.message_bytes > message_bytes_max {
            link.close(CloseCode::TOO_BIG, "message too big for this path");
            return Disposition::Done;
        }
        let streaming = seat.streaming;
        let message = Message { kind: chunk.kind, payload: chunk.payload };
        let shown = self.call(link, number, |handler, remote| {
            if streaming { handler.chunk(remote, chunk) } else { handler.message(remote, message) }
        });
        shown.unwrap_or(Disposition::Done)
    }

    /// A ping goes to its handler.
    pub(super) fn ping(&mut self, link: &mut Link<'_, Service>, number: u32, payload: &[u8]) {
        self.call(link, number, |handler, remote| handler.ping(remote, payload));
    }

    /// A pong goes to its handler.
    pub(super) fn pong(&mut self, link: &mut Link<'_, Service>, number: u32, payload: &[u8]) {
        self.call(link, number, |handler, remote| handler.pong(remote, payload));
    }

    /// The 101 is staged. Says whether the handler wants to know who is at the other end.
    pub(super) fn open(&mut self, link: &mut Link<'_, Service>, number: u32) -> bool {
        let opened = self.call(link, number, |handler, remote| {
            let wants_address = handler.wants_address();
            handler.open(remote).map(|()| wants_address)
        });
        opened.unwrap_or(false)
    }

    /// It is known who is at the other end, or that nobody knows.
    pub(super) fn addressed(
        &mut self,
        link: &mut Link<'_, Service>,
        number: u32,
        address: Option<SocketAddr>,
    ) {
        self.call(link, number, |handler, remote| handler.addressed(remote, address));
    }

    /// The connection takes bytes again.
    pub(super) fn writable(&mut self, link: &mut Link<'_, Service>, number: u32) {
        self.call(link, number, |handler, remote| handler.writable(remote));
    }

    /// When [`turn_ended`](Seats::turn_ended) has something to do without an event.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        if self.starved.is_empty() { self.alarms.next() } else { Some(0) }
    }

    /// Rings the alarms that are due, each once, and tells the starved that there is room.
    #[inline]
    pub(super) fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        if !self.starved.is_empty() {
            self.feed(cx);
        }
        let now = cx.now();
        if self.alarms.next().is_some_and(|at| at <= now) {
            self.ring_due(cx, now);
        }
    }

    #[inline(never)]
    fn ring_due<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, now: Nanos) {
        let mut due = std::mem::take(&mut self.due);
        while let Some(number) = self.alarms.pop_due(now) {
            due.push(number);
        }
        for number in due.drain(..) {
            if let Some(mut link) = self.link(cx, number) {
                self.call(&mut link, number, |handler, remote| handler.timer(remote));
            }
        }
        self.due = due;
    }

    /// What was queued when a send was refused has gone to the driver meanwhile. If the kernel took all of it, nothing
    /// else will say so; if not, the end of that send will.
    fn feed<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        let before = self.starved.len();
        for index in 0..before {
            let number = self.starved[index];
            self.seats[number as usize].starved = false;
            let Some(mut link) = self.link(cx, number) else { continue };
            if link.is_writable() {
                self.writable(&mut link, number);
            } else if !link.is_blocked() {
                // The batch had no room for it: it goes with the next.
                self.starve(number);
            }
        }
        // Those that starve again were put behind.
        self.starved.drain(..before);
    }

    fn starve(&mut self, number: u32) {
        let seat = &mut self.seats[number as usize];
        if !std::mem::replace(&mut seat.starved, true) {
            self.starved.push(number);
        }
    }

    /// The connection of a seat, if it is open and the seat is still its own.
    fn link<'c, D: Driver>(
        &self,
        cx: &'c mut Context<'_, D, Service>,
        number: u32,
    ) -> Option<Link<'c, Service>> {
        let link = cx.link(self.seats[number as usize].token)?;
        let own = matches!(*link.peer, Peer::Handled(seat) if seat == number);
        (own && link.is_open()).then_some(link)
    }

    /// Calls a handler. An error or a panic closes the connection and drops the handler.
    fn call<R>(
        &mut self,
        link: &mut Link<'_, Service>,
        number: u32,
        tell: impl FnOnce(&mut dyn Handler, &mut Remote<'_>) -> Result<R, Failure>,
    ) -> Option<R> {
        let seat = &mut self.seats[number as usize];
        let handler = seat.handler.as_deref_mut()?;
        let mut starved = false;
        let mut remote = Remote {
            link: link.reborrow(),
            seat: number,
            alarms: &mut self.alarms,
            starved: &mut starved,
            reserved_bytes: &mut seat.reserved_bytes,
        };
        let told = catch_unwind(AssertUnwindSafe(|| tell(handler, &mut remote)));
        if starved {
            self.starve(number);
        }
        match told {
            Ok(Ok(result)) => return Some(result),
            Ok(Err(failure)) => {
                tracing::info!(code = failure.code().0, %failure, "a handler closed its connection");
                self.expel(number);
                link.note_handler_failure(false);
                link.close(failure.code(), failure.reason());
            }
            Err(panic) => {
                log_panic(panic);
                self.expel(number);
                link.note_handler_failure(true);
                link.close(CloseCode::INTERNAL, "internal error");
            }
        }
        None
    }

    /// Drops a handler that failed. Its seat stays taken until the connection is gone.
    #[cold]
    fn expel(&mut self, number: u32) {
        self.alarms.clear(number);
        if let Some(handler) = self.seats[number as usize].handler.take()
            && let Err(panic) = catch_unwind(AssertUnwindSafe(move || drop(handler)))
        {
            log_panic(panic);
        }
    }
}

/// The words of a panic.
pub(super) fn said(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(said), _) => said,
        (_, Some(said)) => said,
        _ => "something that is no text",
    }
}

/// Says what a panic said. The panic hook has told where it was.
#[cold]
pub(super) fn log_panic(panic: Box<dyn Any + Send>) {
    let said = said(&*panic);
    tracing::error!(said, "a handler panicked; its connection is closed, the others are not touched");
    // What was thrown may throw again when it is dropped.
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
        std::mem::forget(again);
    }
}
