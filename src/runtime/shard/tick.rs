//! The event loop: one tick after the other, with calls to the application.

mod arriving;
mod echoes;
mod ending;
mod flushing;
mod held;
mod leaving;
mod mail;
mod reading;
mod requests;
mod sealed;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use super::access::AccessLog;
use super::application::{Application, MessageOf, Shed};
use super::config::{Allowance, ShardConfig};
use super::context::Context;
use super::control::{ControlMessage, OnceWaker, Remote};
use super::core::{ConnectionMemory, Core};
use super::mailbox::Mailboxes;
use super::slots::SendCheck;
use super::timer_wheel::earlier;
use super::times::TimesConfig;
use super::{Detached, Entrance, Exits};
use crate::admission::{Admission, PeerLimits};
use crate::driver::{Driver, Event, Token, Waker};
use crate::stats::Snapshot;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// How soon a shard retries a message that found another shard's mailbox full.
const ROOM_RETRY: Nanos = MILLISECOND;

/// How a tick has waited.
struct Wait {
    /// Until when it would have waited.
    deadline: Option<Nanos>,
    has_mail: bool,
    /// Another shard is short of memory.
    called: bool,
}

/// An event loop with its application. Created and run on its thread.
#[derive(Debug)]
pub struct Shard<A: Application> {
    core: Core<A::Kinds>,
    application: A,
    orders: mpsc::Receiver<ControlMessage<A::Command, A::Report>>,
    remote: Remote<A::Command, A::Report>,
    /// Connections that other shards have sent.
    newcomers: mpsc::Receiver<Detached>,
    entrance: Entrance,
    events: Vec<Event>,
    /// Control messages wait. They are handled after the events: by then the rest of a short send is not counted as
    /// sent.
    woken: bool,
    /// The senders that wait for the end of accepting.
    quiet: Option<mpsc::SyncSender<()>>,
    payload: Vec<u8>,
}

impl<A: Application> Shard<A> {
    /// A shard on `driver`.
    pub fn new(
        driver: Driver,
        application: A,
        config: ShardConfig,
        allowance: Allowance,
        mailboxes: Mailboxes<MessageOf<A>>,
    ) -> Shard<A> {
        let (sender, orders) = mpsc::channel();
        let remote = Remote { orders: sender, waker: OnceWaker::new(driver.waker()) };
        let (newcomers_sender, newcomers) = mpsc::channel();
        let memory = Arc::clone(allowance.pool.budget());
        let entrance = Entrance { newcomers: newcomers_sender, waker: remote.waker.clone(), memory };
        Shard {
            core: Core::new(driver, config, allowance, mailboxes),
            application,
            orders,
            remote,
            newcomers,
            entrance,
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

    /// Where connections of other shards are sent.
    pub fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }

    /// Sets the ways on which connections leave. Without them none does.
    pub fn set_exits(&mut self, exits: Arc<Exits>) {
        self.core.exits = Some(exits);
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
        self.core.listen(listener)
    }

    /// Records ended connections from now on. Recorded connections cost memory, and a lookup of their address.
    pub fn set_access_log(&mut self, log: AccessLog) {
        self.core.log.set_access_log(log);
    }

    /// Limits peers from now on. `admission` is that of all shards of the node.
    pub fn set_limits(&mut self, admission: Arc<Admission>, limits: Arc<PeerLimits>) {
        self.core.set_limits(Some(admission), limits);
    }

    /// Limits the times of connections from now on.
    pub fn set_times(&mut self, times: TimesConfig) {
        self.core.set_times(times);
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
        self.core.env.pool.budget().share()
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
        let snapshot = self.core.snapshot(self.application.report());
        Ok((self.application, snapshot))
    }

    /// One tick, waiting no longer than until `latest`. False if the shard must end.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn tick(&mut self, latest: Option<Nanos>) -> io::Result<bool> {
        let takes_requests = self.application.takes_requests(&Context { core: &mut self.core });
        let Wait { deadline, has_mail, mut called } = self.wait(latest, takes_requests)?;
        let had_handshakes = self.continue_handshakes();
        let had_events = self.handle_events();
        // Something was due, such as the timer of a handler.
        let was_due = deadline.is_some_and(|at| at != 0 && at <= self.core.env.now);
        self.core.trim_wanted |= had_events;
        self.core.count_echoed();
        // Before the questions of other threads: what a client was told of before it asked has been posted by then.
        self.take_mail(takes_requests);
        if std::mem::take(&mut self.woken) {
            self.take_orders();
            called = self.core.env.pool.is_reclaim_requested();
        }
        if called {
            self.relieve();
        }
        if self.quiet.is_some() && !self.core.driver.is_listening() {
            // Fails if nobody waits any more.
            self.quiet.take().map(|to| to.try_send(()));
        }
        if self.core.has_timers_due() {
            self.expire_due();
        }
        if self.core.farewell_at().is_some_and(|at| at <= self.core.env.now) {
            self.say_due_farewells();
        }
        if self.core.lifetimes.look_at().is_some_and(|at| at <= self.core.env.now) {
            self.end_due_lives();
        }
        // Answers and pongs leave first, so that the connections are writable for the application: nothing would report
        // that later.
        self.flush_dirty();
        self.application.tick_ended(&mut Context { core: &mut self.core });
        self.core.note_excesses();
        if self.core.env.pool.is_under_pressure() {
            self.relieve();
        }
        self.flush_dirty();
        // A tick that finds nothing to do is not worth another look at the clock.
        if (had_events || had_handshakes || has_mail || was_due || !self.core.sent.is_empty())
            && let Some(taken) = self.core.measure_tick()
        {
            self.application.stalled(self.core.mailboxes.shard(), taken);
        }
        self.core.mailboxes.wake(&mut self.core.driver);
        let is_over = self.core.stopping || self.is_drained();
        if is_over {
            self.core.end();
        }
        Ok(!is_over)
    }

    /// Goes to the kernel, and waits there for events while there is nothing to do.
    #[inline]
    fn wait(&mut self, latest: Option<Nanos>, takes_requests: bool) -> io::Result<Wait> {
        let mut deadline = self.deadline(latest);
        let core = &mut self.core;
        if !takes_requests {
            deadline = earlier(deadline, Some(core.env.now + ROOM_RETRY));
        }
        let has_mail = !core.mailboxes.fall_asleep(takes_requests);
        // After that, a waker wakes it or is noticed in the next tick.
        let called = core.env.pool.is_reclaim_requested();
        if has_mail || called {
            deadline = Some(0);
        }
        core.driver.tick(&mut core.env.pool, deadline, &mut self.events)?;
        core.mailboxes.wake_up();
        if !core.refused.is_empty() {
            // Once each, however often they were refused.
            core.refused.sort_unstable();
            core.refused.dedup();
            core.unblocked.append(&mut core.refused);
        }
        core.env.now = core.driver.now();
        core.counters.ticks += 1;
        Ok(Wait { deadline, has_mail, called })
    }

    /// Handles the events of the driver. Returns whether there were any.
    #[inline]
    fn handle_events(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let mut at = 0;
        while at < events.len() {
            at += self.echo(&events[at..]);
            if let Some(event) = events.get(at) {
                self.handle(event);
                at += 1;
            }
        }
        let had_events = !events.is_empty();
        events.clear();
        self.events = events;
        had_events
    }

    /// Whether a drain is complete.
    fn is_drained(&self) -> bool {
        self.core.draining_until.is_some()
            && self.core.slots.len() == 0
            && !self.core.driver.is_listening()
            && self.application.is_drained()
    }

    fn deadline(&self, latest: Option<Nanos>) -> Option<Nanos> {
        let core = &self.core;
        if !core.dirty.is_empty() || !core.refused.is_empty() || !core.handshakes.is_empty() || core.stopping
        {
            return Some(0);
        }
        let own = earlier(core.timers.deadline(), self.application.deadline());
        let trim = core.trim_wanted.then_some(core.trim_at);
        let drain = earlier(core.draining_until, core.farewell_at());
        let lives = earlier(core.lifetimes.look_at(), latest);
        earlier(earlier(own, trim), earlier(drain, lives))
    }

    fn handle(&mut self, event: &Event) {
        let core = &mut self.core;
        match *event {
            Event::Received { token, span } => self.received(token, span),
            Event::Accepted { token, listener } => core.accepted(token, listener),
            Event::Connected { token } => self.connected(token),
            Event::Ended { token } => core.ended(token),
            Event::HalfClosed { token } => {
                core.with_connection(token, |connection, now| connection.half_closed(now));
            }
            Event::Blocked { token, unsent } => {
                core.counters.short_sends += 1;
                core.with_connection(token, |connection, _| connection.blocked(unsent));
                core.watch(token);
                if core.slots.get(token).is_some_and(|slot| slot.peer.is_some()) {
                    self.application.blocked(&mut Context { core }, token);
                }
            }
            Event::Unblocked { token } => {
                core.with_connection(token, |connection, now| connection.unblocked(now));
                if let Some(slot) = core.slots.get_mut(token)
                    && slot.send_check == SendCheck::Due
                {
                    slot.send_check = SendCheck::Progressed;
                }
                core.unblocked.push(token);
            }
            Event::Failed { token, error } => {
                if core.leaving.holds(token) {
                    self.stay(token);
                }
                let core = &mut self.core;
                core.with_connection(token, |connection, _| connection.failed(error));
            }
            Event::Closed { token } => self.closed(token),
            Event::Released { token } => self.released(token),
            Event::Kept { token } => self.stay(token),
            Event::Addressed { token } => self.addressed(token),
            Event::Acknowledged { token, at } => {
                self.application.acknowledged(&mut Context { core }, token, at);
            }
            Event::Arrived { token, at } => {
                self.application.arrived(&mut Context { core }, token, at);
            }
            Event::Woken => self.woken = true,
            Event::AcceptFailed { errno } => {
                let error = io::Error::from_raw_os_error(errno);
                core.counters.accept_failures += 1;
                let hint = "raise the descriptor limit (ulimit -n) or lower `max_connections`";
                // The name by which filters of the log know it.
                tracing::warn!(target: "echoring_runtime::shard", %error, hint, "a connection could not be accepted");
            }
        }
    }

    /// The transport of a dialled connection is connected.
    fn connected(&mut self, token: Token) {
        self.application.connected(&mut Context { core: &mut self.core }, token);
        self.core.connected(token);
    }

    fn take_orders(&mut self) {
        // Whoever sends from now on wakes the shard again.
        self.remote.waker.reset();
        self.take_newcomers();
        while let Ok(order) = self.orders.try_recv() {
            match order {
                ControlMessage::Snapshot(to) => {
                    // Fails if nobody waits any more.
                    let _ = to.try_send(self.core.snapshot(self.application.report()));
                    self.core.sample_tcp();
                }
                ControlMessage::Answer(to) => drop(to.try_send(())),
                ControlMessage::Command(ask) => {
                    self.application.command(&mut Context { core: &mut self.core }, ask)
                }
                ControlMessage::Configure(config) => self.core.configure(*config),
                ControlMessage::Drain(plan) => self.begin_drain(&plan),
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

    /// Frees memory when the node is short of it: free buffers first, then optional memory on all shards, histories, the
    /// connections that hold most beyond their share, and finally the backlogs of slow consumers.
    #[cold]
    #[inline(never)]
    pub(super) fn relieve(&mut self) {
        let called = self.core.begin_relief();
        if self.core.env.pool.is_optional_due() {
            self.application.shed(&mut self.core.env.pool, Shed::Optional);
        }
        if self.core.env.pool.is_optional_due() {
            self.core.call_others(called);
        }
        self.shed(Shed::Histories);
        if self.core.is_relief_due() && self.core.end_over_share(called) {
            self.shed(Shed::Backlogs);
        }
        self.core.env.pool.free_all();
        self.core.env.pool.set_under_pressure(false);
    }

    /// Has the application free memory until there is enough, or it has none to free.
    fn shed(&mut self, what: Shed) {
        while self.core.is_short() && self.application.shed(&mut self.core.env.pool, what) {}
    }
}
