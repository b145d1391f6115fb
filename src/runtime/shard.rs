//! The per-core event loop, generic over a [`Driver`] and an [`Application`].
//!
//! A [`Shard`] owns its connections, timers, buffers and its ends of the mailboxes; it shares nothing. One
//! [`tick`](Shard::tick) is: one trip to the kernel; all events in order; mail; timers; the application's end of tick;
//! a flush of the queues. It never blocks except in the driver, takes no lock, and allocates nothing per message.
#![forbid(unsafe_code)]

mod access;
mod application;
mod config;
mod connection_log;
mod context;
mod control;
mod core;
mod inspect;
mod kinds;
mod mailbox;
mod refusals;
mod route;
mod slots;
mod timer_wheel;
mod tls;
mod tunnel;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use crate::admission::{Admission, PeerLimits};
use crate::driver::{Driver, Event, Waker};
use crate::stats::Snapshot;
use echoring_proto::limits::{MILLISECOND, Nanos};

pub use self::core::{ConnectionMemory, Core};
pub use access::{AccessLog, AccessRecord, WriteAccess};
pub use application::{Answer, Application, Disposition, Extras, MessageOf, OwnedReply};
pub use config::{Allowance, ShardConfig};
pub use context::{ConnectionContext, Context, ShardResources};
pub use control::{ControlMessage, DrainPlan, Goodbye, LiveConfig, Remote};
pub use inspect::ConnectionView;
pub use kinds::Kinds;
pub use mailbox::{Bridge, FarEnd, FarInlet, FarOutlet, Full, Lane, Mailboxes};
pub use route::Route;
pub use tls::Security;

/// How soon a shard retries a message that found another shard's mailbox full.
const ROOM_RETRY: Nanos = MILLISECOND;

/// An event loop with its application. Created and run on its thread.
#[derive(Debug)]
pub struct Shard<D: Driver, A: Application> {
    core: Core<D, A::Kinds>,
    application: A,
    orders: mpsc::Receiver<ControlMessage<A::Command, A::Report>>,
    remote: Remote<A::Command, A::Report>,
    events: Vec<Event>,
    /// Control messages wait. They are handled after the events: by then the rest of a short send is not counted as
    /// sent.
    woken: bool,
    /// The senders that wait until nothing is accepted any more.
    quiet: Option<mpsc::SyncSender<()>>,
    payload: Vec<u8>,
}

impl<D: Driver, A: Application> Shard<D, A> {
    /// A shard on `driver`.
    pub fn new(
        driver: D,
        application: A,
        config: ShardConfig,
        allowance: Allowance,
        mailboxes: Mailboxes<MessageOf<A>>,
    ) -> Shard<D, A> {
        let (sender, orders) = mpsc::channel();
        let remote = Remote { orders: sender, waker: driver.waker(), is_woken: Arc::default() };
        Shard {
            core: Core::new(driver, config, allowance, mailboxes),
            application,
            orders,
            remote,
            events: Vec::with_capacity(1024),
            woken: false,
            quiet: None,
            payload: Vec::new(),
        }
    }

    /// Where control messages for this shard are sent.
    pub fn remote(&self) -> Remote<A::Command, A::Report> {
        self.remote.clone()
    }

    /// Sets the wakers of all shards, in the order of their numbers.
    pub fn set_wakers(&mut self, wakers: &[Waker]) {
        self.core.mailboxes.set_wakers(wakers);
    }

    /// Accepts connections from a listening socket.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        self.core.driver.listen(listener)
    }

    /// Records ended connections from now on. Recorded connections cost memory, and a lookup of their address.
    pub fn set_access_log(&mut self, log: AccessLog) {
        self.core.log.set_access_log(log);
    }

    /// Limits peers from now on. `admission` is that of all shards of the node.
    pub fn set_limits(&mut self, admission: Arc<Admission>, limits: Arc<PeerLimits>) {
        self.core.set_limits(Some(admission), limits);
    }

    /// The application.
    pub fn application(&mut self) -> &mut A {
        &mut self.application
    }

    /// Connections now, in any state.
    pub fn connections(&self) -> usize {
        self.core.slots.len()
    }

    /// Bytes of the node's budget that the shard uses.
    pub fn charged_bytes(&self) -> u64 {
        self.core.env.pool.used_bytes()
    }

    /// Memory of the connections that may be closed when the node is short of memory.
    pub fn holdings(&self) -> impl Iterator<Item = ConnectionMemory> {
        self.core.holdings()
    }

    /// Bytes that a connection may hold before it is among the first to be closed for memory.
    pub fn share_bytes(&self) -> u64 {
        self.core.env.pool.share_bytes()
    }

    /// Connections that were closed for lack of memory.
    pub fn ended_for_memory(&self) -> u64 {
        self.core.ended_for_memory()
    }

    /// Bytes received so far.
    pub fn received_bytes(&self) -> u64 {
        self.core.counters.traffic.total().bytes_in
    }

    /// Connections that ended by the cause with this name.
    pub fn ended_by(&self, cause: &str) -> u64 {
        self.core.counters.causes().get(cause).copied().unwrap_or(0)
    }

    /// Ticks until it is stopped or, after [`ControlMessage::Drain`], until the last connection has ended. Returns the
    /// application with the last snapshot.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn run(mut self) -> io::Result<(A, Snapshot<A::Report>)> {
        while self.tick(None)? {}
        let snapshot = self.core.snapshot(&self.application);
        Ok((self.application, snapshot))
    }

    /// One tick, waiting no longer than until `latest`. False if the shard must end.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn tick(&mut self, latest: Option<Nanos>) -> io::Result<bool> {
        let takes_requests = self.application.takes_requests(&Context { core: &mut self.core });
        let mut deadline = self.deadline(latest);
        if !takes_requests {
            deadline = earlier(deadline, Some(self.core.env.now + ROOM_RETRY));
        }
        let has_mail = !self.core.mailboxes.fall_asleep(takes_requests);
        // After that, a waker wakes it or is noticed in the next tick.
        let mut called = self.core.env.pool.is_reclaim_requested();
        if has_mail || called {
            deadline = Some(0);
        }
        let mut events = std::mem::take(&mut self.events);
        let core = &mut self.core;
        core.driver.tick(&mut core.env.pool, deadline, &mut events)?;
        core.mailboxes.wake_up();
        if !core.refused.is_empty() {
            // Once each, however often they were refused.
            core.refused.sort_unstable();
            core.refused.dedup();
            core.unblocked.append(&mut core.refused);
        }
        core.env.now = core.driver.now();
        core.counters.ticks += 1;
        let had_handshakes = core.continue_handshakes(&mut self.application);
        for event in &events {
            self.handle(event);
        }
        let had_events = !events.is_empty();
        // Something was due, such as the timer of a handler.
        let was_due = deadline.is_some_and(|at| at != 0 && at <= self.core.env.now);
        self.core.trim_wanted |= had_events;
        events.clear();
        self.events = events;
        self.core.count_echoed();
        if std::mem::take(&mut self.woken) {
            self.take_orders();
            called = self.core.env.pool.is_reclaim_requested();
        }
        if called {
            self.core.relieve(&mut self.application);
        }
        if self.quiet.is_some() && !self.core.driver.is_listening() {
            // Fails if nobody waits any more.
            self.quiet.take().map(|to| to.try_send(()));
        }
        self.take_mail(takes_requests);
        self.core.expire_timers(&mut self.application);
        self.core.say_farewells(&mut self.application);
        // Answers and pongs leave first, so that the connections are writable for the application: nothing would report
        // that later.
        self.core.flush_dirty(&mut self.application);
        self.application.tick_ended(&mut Context { core: &mut self.core });
        self.core.note_excesses();
        if self.core.env.pool.is_under_pressure() {
            self.core.relieve(&mut self.application);
        }
        self.core.flush_dirty(&mut self.application);
        let core = &mut self.core;
        // A tick that finds nothing to do is not worth another look at the clock.
        if had_events || had_handshakes || has_mail || was_due || !core.sent.is_empty() {
            core.measure_tick(&self.application);
        }
        core.mailboxes.wake(&mut core.driver);
        let drained = core.draining_until.is_some()
            && core.slots.len() == 0
            && !core.driver.is_listening()
            && self.application.is_drained();
        let is_over = core.stopping || drained;
        if is_over {
            core.end();
        }
        Ok(!is_over)
    }

    fn deadline(&self, latest: Option<Nanos>) -> Option<Nanos> {
        let core = &self.core;
        if !core.dirty.is_empty()
            || !core.refused.is_empty()
            || core.has_waiting_handshakes()
            || core.stopping
        {
            return Some(0);
        }
        let own = earlier(core.timers.deadline(), self.application.deadline());
        let trim = core.trim_wanted.then_some(core.trim_at);
        let drain = earlier(core.draining_until, core.farewell_at());
        earlier(earlier(own, trim), earlier(drain, latest))
    }

    #[inline]
    fn handle(&mut self, event: &Event) {
        match *event {
            Event::Received { token, span } => self.core.received(&mut self.application, token, span),
            other => self.handle_other(other),
        }
    }

    #[inline(never)]
    fn handle_other(&mut self, event: Event) {
        let Shard { core, application, .. } = self;
        match event {
            Event::Received { token, span } => core.received(application, token, span),
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
            Event::Addressed { token } => core.addressed(application, token),
            Event::Woken => self.woken = true,
            Event::AcceptFailed { errno } => {
                let error = io::Error::from_raw_os_error(errno);
                core.counters.accept_failures += 1;
                let hint = "raise the descriptor limit (ulimit -n) or lower `connections_max`";
                tracing::warn!(%error, hint, "a connection could not be accepted");
            }
        }
    }

    fn take_orders(&mut self) {
        // Whoever sends from now on wakes the shard again.
        self.remote.is_woken.swap(false, Ordering::AcqRel);
        while let Ok(order) = self.orders.try_recv() {
            match order {
                ControlMessage::Snapshot(to) => {
                    // Fails if nobody waits any more.
                    let _ = to.try_send(self.core.snapshot(&self.application));
                }
                ControlMessage::Answer(to) => drop(to.try_send(())),
                ControlMessage::Command(ask) => {
                    self.application.command(&mut Context { core: &mut self.core }, ask)
                }
                ControlMessage::Configure(config) => self.core.configure(*config),
                ControlMessage::Drain(plan) => self.core.begin_drain(&mut self.application, &plan),
                ControlMessage::StopListening(to) => {
                    self.core.driver.stop_listening();
                    self.quiet = Some(to);
                }
                ControlMessage::Listen(sockets, to) => {
                    let listening = sockets.into_iter().try_for_each(|socket| self.listen(socket));
                    let _ = to.try_send(listening);
                }
                ControlMessage::Stop => self.core.stopping = true,
            }
        }
    }

    fn take_mail(&mut self, takes_requests: bool) {
        let (shard, shards) = (self.core.mailboxes.shard(), self.core.mailboxes.shards());
        for from in (0..shards).filter(|from| *from != shard) {
            while self.take_message(from, Lane::Forward) {}
        }
        // After the last mail of owner shards whose topics have moved.
        while self.take_far_message(Lane::Forward) {}
        // One request of each shard in turn, so that none is starved.
        let mut waiting = takes_requests && (shards > 1 || self.core.mailboxes.far_shards() > 0);
        while waiting {
            waiting = false;
            for from in (0..shards).filter(|from| *from != shard) {
                if !self.application.takes_requests(&Context { core: &mut self.core }) {
                    return;
                }
                waiting |= self.take_message(from, Lane::Request);
            }
            if self.application.takes_requests(&Context { core: &mut self.core }) {
                waiting |= self.take_far_message(Lane::Request);
            }
        }
    }

    fn take_message(&mut self, from: usize, lane: Lane) -> bool {
        let Some((message, bytes)) = self.core.mailboxes.take(from, lane) else { return false };
        self.payload.clear();
        self.core.mailboxes.take_bytes(from, lane, bytes, &mut self.payload);
        self.handle_message(from, message);
        true
    }

    #[cold]
    fn take_far_message(&mut self, lane: Lane) -> bool {
        let Some((from, message, bytes)) = self.core.mailboxes.take_far(lane) else { return false };
        self.payload.clear();
        self.core.mailboxes.take_far_bytes(bytes, &mut self.payload);
        self.handle_message(from, message);
        true
    }

    fn handle_message(&mut self, from: usize, message: MessageOf<A>) {
        self.application.message(&mut Context { core: &mut self.core }, from, message, &self.payload);
        if self.core.env.pool.is_under_pressure() {
            self.core.relieve(&mut self.application);
        }
    }
}

/// The earlier of two deadlines.
#[inline]
pub fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
