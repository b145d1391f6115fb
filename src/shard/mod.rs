//! The per-core event loop, generic over a [`Driver`] and an [`Application`].
//!
//! A [`Shard`] owns its connections, timers, buffers and its ends of the mailboxes; nothing of it is shared.
//! One [`turn`](Shard::turn) is: one trip to the kernel; all events in order; mail; timers; the
//! application's end of turn; a flush of what was queued. It never blocks but in the driver, takes no lock,
//! and allocates nothing per message.
#![forbid(unsafe_code)]

mod application;
mod context;
mod core;
mod mailbox;
mod notes;
mod refusals;
mod slots;
mod tls;
mod wheel;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc;

use rand::TryRng as _;
use rand::rngs::SysRng;

use crate::buffer::{Budget, Lease, Pool};
use crate::connection;
use crate::driver::{Driver, Event, Waker};
use crate::limits::{COMPRESSION_BYTES_DEFAULT, COMPRESSION_LEASE_BYTES, MILLISECOND, Nanos};
use crate::protocol::CloseCode;
use crate::stats::Snapshot;

pub use self::core::{Core, Holding};
pub use application::{Answer, Application, Disposition, Extras, OwnedReply};
pub use context::{Context, Link, Means};
pub use mailbox::{Full, Lane, Mailboxes};
pub use tls::Security;

/// How soon a shard looks again at what waited for another shard's room.
const ROOM_RETRY: Nanos = MILLISECOND;

/// How a shard is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// What holds for every connection.
    pub connection: connection::Config,
    /// Connections that the driver has room for.
    pub connections: u32,
    /// What connections are secured by.
    pub security: Security,
    /// Seeds masking keys and nonces: [`system_seed`] in production.
    pub seed: connection::Seed,
}

/// A seed from the system's random source.
///
/// # Panics
/// Where the system denies it.
pub fn system_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).expect("the system has a random source");
    seed
}

/// A shard's part of what the node may spend.
#[derive(Debug)]
pub struct Allowance {
    /// Buffers and logs.
    pub pool: Pool,
    /// Connections.
    pub connections: Lease,
    /// Bytes of the windows that compressed connections keep.
    pub contexts: Lease,
}

impl Allowance {
    /// For a shard that is alone: all that a node may spend, and so many connections.
    pub fn standalone(connections: u64) -> Allowance {
        Allowance {
            pool: Pool::standalone(),
            connections: Lease::new(Budget::new(connections), connections),
            contexts: Lease::new(Budget::new(COMPRESSION_BYTES_DEFAULT), COMPRESSION_LEASE_BYTES),
        }
    }
}

/// What everyone is told when a shard drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// The close code.
    pub code: CloseCode,
    /// The reason.
    pub reason: &'static str,
}

impl Goodbye {
    const GOING_AWAY: Goodbye = Goodbye { code: CloseCode::GOING_AWAY, reason: "server is going away" };
    const RESTART: Goodbye =
        Goodbye { code: CloseCode::SERVICE_RESTART, reason: "another server has taken over" };
}

/// What other threads ask of a shard; `Q` is what they ask of its application.
#[derive(Debug)]
pub enum Order<Q> {
    /// Send a snapshot taken between two turns.
    Snapshot(mpsc::SyncSender<Snapshot>),
    /// Answer that a turn was made.
    Answer(mpsc::SyncSender<()>),
    /// Something that only the application understands.
    Ask(Q),
    /// Accept nothing more, say 1001 to everyone once they have what they were promised, and end when all are gone, after
    /// so long at the latest.
    Drain(Nanos),
    /// The same, but say 1012: a successor is there to come back to.
    HandOver(Nanos),
    /// End at once.
    Stop,
}

/// Gives orders to a shard from another thread.
#[derive(Debug)]
pub struct Remote<Q> {
    orders: mpsc::Sender<Order<Q>>,
    waker: Waker,
}

// By hand, because what is asked need not be cloned for it.
impl<Q> Clone for Remote<Q> {
    fn clone(&self) -> Remote<Q> {
        Remote { orders: self.orders.clone(), waker: self.waker.clone() }
    }
}

impl<Q> Remote<Q> {
    /// Gives an order. False when the shard is gone.
    pub fn order(&self, order: Order<Q>) -> bool {
        let given = self.orders.send(order).is_ok();
        self.waker.wake();
        given
    }

    /// Ends the shard's wait.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// An event loop with its application. Made and run on the thread that keeps it.
#[derive(Debug)]
pub struct Shard<D: Driver, A: Application> {
    core: Core<D, A>,
    application: A,
    orders: mpsc::Receiver<Order<A::Ask>>,
    remote: Remote<A::Ask>,
    events: Vec<Event>,
    /// There are orders. They are taken behind the events: by then what a short send left is not counted as sent.
    woken: bool,
    payload: Vec<u8>,
}

impl<D: Driver, A: Application> Shard<D, A> {
    /// A shard on `driver`.
    pub fn new(
        driver: D,
        application: A,
        config: Config,
        allowance: Allowance,
        mailboxes: Mailboxes<A::Message>,
    ) -> Shard<D, A> {
        let (sender, orders) = mpsc::channel();
        let remote = Remote { orders: sender, waker: driver.waker() };
        Shard {
            core: Core::new(driver, config, allowance, mailboxes),
            application,
            orders,
            remote,
            events: Vec::with_capacity(1024),
            woken: false,
            payload: Vec::new(),
        }
    }

    /// Where orders for this shard are given.
    pub fn remote(&self) -> Remote<A::Ask> {
        self.remote.clone()
    }

    /// Tells how the other shards are woken, in the order of their numbers.
    pub fn set_wakers(&mut self, wakers: &[Waker]) {
        self.core.mailboxes.set_wakers(wakers);
    }

    /// Takes connections from a listening socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        self.core.driver.listen(listener)
    }

    /// The application.
    pub fn application(&mut self) -> &mut A {
        &mut self.application
    }

    /// Connections now, in any state.
    pub fn connections(&self) -> usize {
        self.core.slots.len()
    }

    /// Bytes that the shard has taken of the node's budget.
    pub fn charged_bytes(&self) -> u64 {
        self.core.pool.used_bytes()
    }

    /// What the connections hold that may be ended when the node is short of memory.
    pub fn holdings(&self) -> impl Iterator<Item = Holding> {
        self.core.holdings()
    }

    /// Bytes that one of them may hold without being the first to give way.
    pub fn share_bytes(&self) -> u64 {
        self.core.pool.share_bytes()
    }

    /// How many of them were ended for that.
    pub fn gave_way(&self) -> u64 {
        self.core.gave_way()
    }

    /// Bytes received so far.
    pub fn received_bytes(&self) -> u64 {
        self.core.counters.bytes_in
    }

    /// How many connections have ended by the cause of this [name](connection::Cause::name).
    pub fn ended_by(&self, cause: &str) -> u64 {
        self.core.counters.causes.get(cause).copied().unwrap_or(0)
    }

    /// Turns until it is told to end or, after [`Order::Drain`], until the last connection is gone. Gives the
    /// application back with the last snapshot.
    ///
    /// # Errors
    /// When the driver is broken.
    pub fn run(mut self) -> io::Result<(A, Snapshot)> {
        while self.turn(None)? {}
        Ok((self.application, self.core.snapshot()))
    }

    /// One turn, waiting no longer than until `latest`. False when the shard is to end.
    ///
    /// # Errors
    /// When the driver is broken.
    pub fn turn(&mut self, latest: Option<Nanos>) -> io::Result<bool> {
        let takes_requests = self.application.takes_requests(&Context { core: &mut self.core });
        let mut deadline = self.deadline(latest);
        if !takes_requests {
            deadline = earlier(deadline, Some(self.core.now + ROOM_RETRY));
        }
        let has_mail = !self.core.mailboxes.fall_asleep(takes_requests);
        // Behind that: a call from now on wakes it, or is found out about in the next turn.
        let mut called = self.core.pool.is_called();
        if has_mail || called {
            deadline = Some(0);
        }
        let mut events = std::mem::take(&mut self.events);
        let core = &mut self.core;
        core.driver.turn(&mut core.pool, deadline, &mut events)?;
        core.mailboxes.wake_up();
        if !core.refused.is_empty() {
            // Once each, however often they were refused.
            core.refused.sort_unstable();
            core.refused.dedup();
            core.unblocked.append(&mut core.refused);
        }
        core.now = core.driver.now();
        core.counters.turns += 1;
        for event in &events {
            self.handle(event);
        }
        self.core.trim_wanted |= !events.is_empty();
        events.clear();
        self.events = events;
        self.core.count_echoed();
        if std::mem::take(&mut self.woken) {
            self.take_orders();
            called = self.core.pool.is_called();
        }
        if called {
            self.core.relieve(&mut self.application);
        }
        self.take_mail(takes_requests);
        self.core.expire_timers(&mut self.application);
        // Answers and pongs leave first, so that what the application has for the same connections finds the way
        // clear: nothing would tell it later that it has become so.
        self.core.flush_dirty(&mut self.application);
        self.application.turn_ended(&mut Context { core: &mut self.core });
        if self.core.pool.is_pressed() {
            self.core.relieve(&mut self.application);
        }
        self.core.flush_dirty(&mut self.application);
        let core = &mut self.core;
        core.mailboxes.wake(&mut core.driver);
        let drained = core.draining_until.is_some() && core.slots.len() == 0 && self.application.is_drained();
        let is_over = core.stopping || drained;
        if is_over {
            core.end();
        }
        Ok(!is_over)
    }

    fn deadline(&self, latest: Option<Nanos>) -> Option<Nanos> {
        let core = &self.core;
        if !core.dirty.is_empty() || !core.refused.is_empty() || core.stopping {
            return Some(0);
        }
        let own = earlier(core.wheel.deadline(), self.application.deadline());
        let trim = core.trim_wanted.then_some(core.trim_at);
        earlier(earlier(own, trim), earlier(core.draining_until, latest))
    }

    #[inline]
    fn handle(&mut self, event: &Event) {
        match *event {
            Event::Received { token, run } => self.core.received(&mut self.application, token, run),
            other => self.handle_other(other),
        }
    }

    #[inline(never)]
    fn handle_other(&mut self, event: Event) {
        let Shard { core, application, .. } = self;
        match event {
            Event::Received { token, run } => core.received(application, token, run),
            Event::Accepted { token } => core.accepted(token),
            Event::Connected { token } => core.connected(application, token),
            Event::Ended { token } => core.ended(token),
            Event::HalfClosed { token } => {
                core.with_connection(token, |connection, now| connection.half_closed(now));
            }
            Event::Blocked { token, unsent } => {
                core.counters.short_sends += 1;
                core.with_connection(token, |connection, _| connection.blocked(unsent));
                core.watch(token);
                if core.slots.get(token).is_some_and(|slot| slot.peer.is_some()) {
                    application.blocked(&mut Context { core }, token);
                }
            }
            Event::Unblocked { token } => {
                core.with_connection(token, |connection, now| connection.unblocked(now));
                if let Some(slot) = core.slots.get_mut(token) {
                    slot.progressed = true;
                }
                core.unblocked.push(token);
            }
            Event::Failed { token, error } => {
                core.with_connection(token, |connection, _| connection.failed(error));
            }
            Event::Closed { token } => core.closed(application, token),
            Event::Addressed { token } => {
                let address = core.driver.address(token);
                let asked = core.notes.addressed(token, address);
                // It may have to be closed, which waited for this.
                core.touch(token);
                if asked {
                    application.addressed(&mut Context { core }, token, address);
                }
            }
            Event::Woken => self.woken = true,
            Event::AcceptFailed { errno } => {
                let error = io::Error::from_raw_os_error(errno);
                core.counters.accept_failures += 1;
                let cure = "raise the descriptor limit (ulimit -n) or lower --max-connections";
                tracing::warn!(%error, cure, "a connection could not be accepted");
            }
        }
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Snapshot(to) => {
                    // Nobody waits any more when this fails.
                    let _ = to.try_send(self.core.snapshot_with(&self.application));
                }
                Order::Answer(to) => drop(to.try_send(())),
                Order::Ask(ask) => self.application.asked(&mut Context { core: &mut self.core }, ask),
                Order::Drain(timeout) | Order::HandOver(timeout) => {
                    if matches!(order, Order::HandOver(_)) && self.core.draining_until.is_none() {
                        self.core.goodbye = Goodbye::RESTART;
                    }
                    self.core.drain(&self.application, timeout);
                    self.application.draining(&mut Context { core: &mut self.core });
                }
                Order::Stop => self.core.stopping = true,
            }
        }
    }

    fn take_mail(&mut self, takes_requests: bool) {
        let (shard, shards) = (self.core.mailboxes.shard(), self.core.mailboxes.shards());
        for from in (0..shards).filter(|from| *from != shard) {
            while self.take_message(from, Lane::Forward) {}
        }
        // One request of each shard in turn, so that none starves another.
        let mut waiting = takes_requests && shards > 1;
        while waiting {
            waiting = false;
            for from in (0..shards).filter(|from| *from != shard) {
                if !self.application.takes_requests(&Context { core: &mut self.core }) {
                    return;
                }
                waiting |= self.take_message(from, Lane::Request);
            }
        }
    }

    fn take_message(&mut self, from: usize, lane: Lane) -> bool {
        let Some((message, bytes)) = self.core.mailboxes.take(from, lane) else { return false };
        self.payload.clear();
        self.core.mailboxes.take_bytes(from, lane, bytes, &mut self.payload);
        self.application.message(&mut Context { core: &mut self.core }, from, message, &self.payload);
        if self.core.pool.is_pressed() {
            self.core.relieve(&mut self.application);
        }
        true
    }
}

fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
