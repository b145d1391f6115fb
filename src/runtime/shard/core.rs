//! The shard without its application: connections, timers, buffers, and how they meet the driver.

mod arrivals;
mod arriving;
mod by_index;
mod connection_env;
mod draining;
mod farewells;
mod handshakes;
mod held;
mod keeping;
mod leaving;
mod lifetimes;
mod listeners;
mod memory;
mod opening;
mod plain_connection;
mod reading;
mod refusing;
mod relief;
mod sealing;
mod secure;
mod tcp_samples;
mod tcp_sampling;
mod throttle;
mod throttling;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

#[doc(hidden)]
pub use self::plain_connection::check_plain_connection;

use self::arrivals::Arrivals;
use self::connection_env::ConnectionEnv;
use self::farewells::Farewells;
use self::handshakes::Handshakes;
use self::leaving::Leaving;
use self::lifetimes::Lifetimes;
use self::relief::{MemoryRelief, UnfinishedSend};
use self::sealing::{flush_sealed, flush_tunnel, send_queued};
use self::tcp_samples::TcpSamples;
use self::throttle::Throttle;
use super::Exits;
use super::access::AccessRecord;
use super::config::{Allowance, ShardConfig};
use super::connection_log::{self, ConnectionLog};
use super::control::{Goodbye, LiveConfig};
use super::kinds::Kinds;
use super::mailbox::Mailboxes;
use super::refusals::{self, RefusedConnection};
use super::slots::{Path, Slot, Slots};
use super::timer_wheel::TimerWheel;
use super::tls::{Layer, Security, Sessions};
use crate::admission::Limit;
use crate::driver::{Driver, Token};
use crate::limits::{RELEASE_CHECK_INTERVAL, STALL, TRIM_INTERVAL};
use crate::stats::{Account, BucketIndex, BudgetFigures, Counters, End, HANDSHAKE_CLASS, Snapshot, Traffic};
use crate::traces;
use echoring_proto::buffer::{Buffer, Lease};
use echoring_proto::connection::{
    Closed, Codecs, Connection, ConnectionConfig, Entropy, SINGLE_REPLY_START, TransportAction,
};
use echoring_proto::handshake::Refusal;
use echoring_proto::limits::Nanos;

pub(super) use self::held::HeldInput;
pub(super) use self::leaving::TakenIn;
pub(super) use self::reading::ReadSource;
pub use self::relief::ConnectionMemory;

/// Messages that this tick answered in place, which the counters do not contain yet.
#[derive(Debug, Default)]
pub(super) struct Echoed {
    pub(super) messages: u64,
    /// Bytes received with them.
    pub(super) bytes: u64,
}

/// A shard without its application.
#[derive(Debug)]
pub struct Core<K: Kinds> {
    pub(super) driver: Driver,
    pub(super) slots: Slots<K::Peer>,
    /// TLS sessions of secured connections.
    pub(super) sessions: Sessions,
    /// The parts that every call to a connection borrows.
    pub(super) env: ConnectionEnv,
    pub(super) security: Security,
    pub(super) timers: TimerWheel,
    pub(super) counters: Counters,
    /// Logs connections with the addresses of their peers.
    pub(super) log: ConnectionLog,
    pub(super) mailboxes: Mailboxes<K::Message>,
    pub(super) echoed: Echoed,
    /// The account of connections whose messages are echoed.
    pub(super) echo_account: Account,
    /// The account's figures at the last measurement.
    echoed_before: u64,
    /// Broadcast messages of this tick: when they were received, and how many.
    pub(super) sent: Vec<(Nanos, u32)>,
    /// Connections to be flushed at the tick's end.
    pub(super) dirty: Vec<Token>,
    /// Connections whose partial send is complete.
    pub(super) unblocked: Vec<Token>,
    /// Closing connections that were processed in this flush.
    pub(super) ending: Vec<Token>,
    /// Connections with deferred input, to be read now.
    pub(super) deferred: Vec<(Token, Buffer)>,
    /// Connections whose stream ended behind deferred input.
    pub(super) ended_behind: BTreeSet<Token>,
    /// Connections whose queue did not fit the batch.
    pub(super) retry: Vec<Token>,
    /// Connections that will be writable with the next tick without an event: this tick's batch had no room for
    /// everything, or deferred answers were queued after their send was complete.
    pub(super) refused: Vec<Token>,
    /// When free buffers are checked next.
    pub(super) trim_at: Nanos,
    /// Whether that is worth waking up for.
    pub(super) trim_wanted: bool,
    /// The connections that a paced drain closes one by one, before the shard drains.
    farewells: Option<Farewells>,
    /// When the remaining connections are cut, once the shard drains.
    pub(super) draining_until: Option<Nanos>,
    /// The Close code and reason of the drain.
    pub(super) goodbye: Goodbye,
    pub(super) stopping: bool,
    lease: Lease,
    pub(super) arrivals: Arrivals,
    pub(super) handshakes: Handshakes,
    /// Connections that are refused once their request is there. Empty while nobody is over a limit.
    refused_later: BTreeMap<Token, RefusedConnection>,
    pub(super) throttle: Throttle,
    pub(super) leaving: Leaving,
    pub(super) lifetimes: Lifetimes,
    /// The addresses of the listeners, by the numbers that the driver knows.
    listeners: Vec<Box<str>>,
    tcp_samples: TcpSamples,
    /// The ways to other shards; `None` where connections stay.
    pub(super) exits: Option<Arc<Exits>>,
    /// Limits of the application that connections were over, and whether that ended them.
    pub(super) excesses: Vec<(Token, Limit, bool)>,
    due: Vec<(Token, u32)>,
    /// The partial sends that are checked for progress, the next first.
    unfinished_sends: VecDeque<UnfinishedSend>,
    relief: MemoryRelief,
}

impl<K: Kinds> Core<K> {
    pub(super) fn new(
        driver: Driver,
        config: ShardConfig,
        allowance: Allowance,
        mailboxes: Mailboxes<K::Message>,
    ) -> Core<K> {
        let now = driver.now();
        let ShardConfig { connection, connections, security, seed } = config;
        let Allowance { pool, connections: lease, contexts } = allowance;
        Core {
            slots: Slots::with_capacity(connections),
            sessions: Sessions::with_capacity(&security, connections),
            env: ConnectionEnv {
                codecs: Codecs::new(connection.compression, contexts),
                entropy: Entropy::new(seed),
                config: connection,
                pool,
                now,
            },
            security,
            timers: TimerWheel::new(now),
            counters: Counters::default(),
            log: ConnectionLog::default(),
            echoed: Echoed::default(),
            echo_account: Account::of_class(K::ECHO_CLASS),
            echoed_before: 0,
            sent: Vec::new(),
            dirty: Vec::new(),
            unblocked: Vec::new(),
            ending: Vec::new(),
            deferred: Vec::new(),
            ended_behind: BTreeSet::new(),
            refused: Vec::new(),
            trim_at: 0,
            trim_wanted: false,
            retry: Vec::new(),
            farewells: None,
            draining_until: None,
            goodbye: Goodbye::GOING_AWAY,
            stopping: false,
            arrivals: Arrivals::default(),
            handshakes: Handshakes::default(),
            refused_later: BTreeMap::new(),
            throttle: Throttle::default(),
            leaving: Leaving::default(),
            lifetimes: Lifetimes::default(),
            listeners: Vec::new(),
            tcp_samples: TcpSamples::default(),
            exits: None,
            excesses: Vec::new(),
            due: Vec::new(),
            unfinished_sends: VecDeque::new(),
            relief: MemoryRelief::default(),
            driver,
            mailboxes,
            lease,
        }
    }

    // ---- events ----

    pub(super) fn accepted(&mut self, token: Token, listener: u8) {
        self.counters.accepted += 1;
        let admitted = self.lease.take(1);
        let connection = Connection::server(&self.env.lend());
        self.slots.insert(token, connection, None).leased = admitted;
        self.set_listener(token, listener);
        self.env.pool.budget().add_holder();
        traces::accepted(token, self.env.now);
        let noted = self.log.accepted(token, self.env.now);
        if noted.wants_address {
            self.driver.find_address(token);
        }
        if noted.wants_traffic
            && let Some(slot) = self.slots.get_mut(token)
        {
            slot.account = self.counters.traffic.open(HANDSHAKE_CLASS);
        }
        if !admitted {
            let refusal = refusals::busy(self.env.entropy.next());
            self.refuse_accepted(token, refusal);
            self.note_excess(token, Limit::Connections, false);
        } else if self.draining_until.is_some() {
            self.refuse_accepted(token, Refusal::DRAINING);
        } else if self.arrivals.is_on() {
            return self.begin_arrival(token);
        }
        if self.security.server.is_some() {
            self.secure_accepted(token);
        }
        self.touch(token);
    }

    /// The peer sent FIN.
    pub(super) fn ended(&mut self, token: Token) {
        if self.arrivals.note_ended(token)
            || self.handshakes.note_ended(token)
            || self.throttle.note_ended(token)
            || self.leaving.note_ended(token)
        {
            return;
        }
        if let Some(session) = self.sessions.get_mut(token.index) {
            session.hear_out();
        }
        if self
            .slots
            .get(token)
            .is_some_and(|slot| slot.connection.is_open() && slot.connection.has_deferred())
        {
            // Parked input is read before the end of the stream.
            self.ended_behind.insert(token);
            return self.with_connection(token, |connection, now| connection.half_closed(now));
        }
        let close_timeout = self.env.config.close_timeout;
        self.with_connection(token, |connection, now| connection.ended(now + close_timeout));
    }

    /// The transport of a dialled connection is connected, and the application knows.
    pub(super) fn connected(&mut self, token: Token) {
        if self.sessions.has(token.index) {
            self.start_layer(token);
        }
        self.touch(token);
    }

    /// Passes an event to a connection, and lists it for the tick's end.
    pub(super) fn with_connection(&mut self, token: Token, tell: impl FnOnce(&mut Connection, Nanos)) {
        if let Some(slot) = self.slots.get_mut(token) {
            tell(&mut slot.connection, self.env.now);
            self.touch(token);
        }
    }

    /// Lists a connection for the flush at the tick's end.
    pub(super) fn touch(&mut self, token: Token) {
        if let Some(slot) = self.slots.get_mut(token)
            && slot.mark_dirty()
        {
            self.dirty.push(token);
        }
    }

    // ---- the end of a tick ----

    /// Counts the messages that the fast path has deferred.
    #[inline]
    pub(super) fn count_echoed(&mut self) {
        let Echoed { messages, bytes } = std::mem::take(&mut self.echoed);
        let traffic = self.counters.traffic.at(self.echo_account);
        traffic.messages_in += messages;
        traffic.messages_out += messages;
        traffic.bytes_in += bytes;
        traffic.bytes_out += bytes - messages * SINGLE_REPLY_START as u64;
    }

    /// Where a connection's traffic is counted.
    #[inline]
    pub(super) fn traffic_of(&mut self, token: Token) -> &mut Traffic {
        let account = self.slots.get(token).map_or(Account::HANDSHAKE, |slot| slot.account);
        self.counters.traffic.at(account)
    }

    /// Gives a connection an account of its own. Its echoes take the common path then.
    pub(super) fn count_apart(&mut self, token: Token) {
        if let Some(slot) = self.slots.get_mut(token)
            && !slot.account.is_own()
        {
            slot.account = self.counters.traffic.open(slot.account.class());
            slot.leave_fast_path();
        }
    }

    /// Measures the tick that began at `now` and that has staged all its sends. Returns how long it took if that was too long.
    pub(super) fn measure_tick(&mut self) -> Option<Nanos> {
        let ended = self.driver.now();
        let Counters { traffic, tick_time, receive_to_send, .. } = &mut self.counters;
        let taken = ended.saturating_sub(self.env.now);
        let bucket = BucketIndex::of(taken);
        tick_time.record_in(bucket, taken, 1);
        let echoed = traffic.at(self.echo_account).messages_out;
        if echoed > self.echoed_before {
            receive_to_send.record_in(bucket, taken, echoed - self.echoed_before);
            self.echoed_before = echoed;
        }
        for (received_at, messages) in self.sent.drain(..) {
            receive_to_send.record(ended.saturating_sub(received_at), u64::from(messages));
        }
        let is_stall = taken > STALL;
        self.counters.stalls += u64::from(is_stall);
        is_stall.then_some(taken)
    }

    /// Whether a deadline has passed, or other work by the clock is due.
    #[inline]
    pub(super) fn has_timers_due(&self) -> bool {
        self.timers.is_due(self.env.now) || self.trim_at <= self.env.now || self.draining_until.is_some()
    }

    /// The entries of the timer wheel that are due, for [`pass_deadlines`](Core::pass_deadlines).
    pub(super) fn take_due(&mut self) -> Vec<(Token, u32)> {
        let mut due = std::mem::take(&mut self.due);
        self.timers.expire(self.env.now, &mut due);
        due
    }

    /// Notifies connections whose deadlines have passed. Those whose requests are undecided are left to the caller, in `undecided`.
    pub(super) fn pass_deadlines(&mut self, mut due: Vec<(Token, u32)>, undecided: &mut Vec<Token>) {
        for (token, tick) in due.drain(..) {
            let Some(slot) = self.slots.get_mut(token) else { continue };
            if slot.armed != tick {
                continue;
            }
            slot.armed = 0;
            if self.leaving.is_given_up(token) {
                // It is elsewhere soon, with its deadline.
                slot.armed = self.timers.arm(token, self.env.now + RELEASE_CHECK_INTERVAL);
                continue;
            }
            if slot.connection.deadline(&self.env.config) > self.env.now {
                self.arm(token);
            } else if slot.connection.is_deciding() {
                undecided.push(token);
            } else if !self.is_refused_overdue(token) {
                self.pass_deadline(token);
            }
        }
        self.due = due;
    }

    /// Checks partial sends and returns free buffers, from time to time.
    pub(super) fn trim_if_due(&mut self) {
        if self.trim_at <= self.env.now {
            self.trim_at = self.env.now + TRIM_INTERVAL;
            let unfinished = self.look_at_sends();
            self.trim_wanted = self.env.pool.trim() || unfinished;
        }
    }

    fn pass_deadline(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let was_open = slot.connection.is_open();
        slot.connection.handle_timeout(&mut self.env.lend());
        if was_open && slot.connection.is_closing() {
            self.note_message(token);
        }
        self.touch(token);
    }

    /// Arms the timer for a connection's deadline, unless an earlier entry exists.
    pub(super) fn arm(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let deadline = slot.connection.deadline(&self.env.config);
        if deadline == Nanos::MAX || (slot.armed != 0 && self.timers.is_before(slot.armed, deadline)) {
            return;
        }
        slot.armed = self.timers.arm(token, deadline);
    }

    /// Flushes the connections that are listed for it.
    pub(super) fn flush_listed(&mut self) {
        let mut index = 0;
        while index < self.dirty.len() {
            let token = self.dirty[index];
            index += 1;
            self.flush(token);
            self.look_for_plain_echo(token);
        }
        self.dirty.clear();
    }

    fn flush(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        slot.path = Path::Common;
        if slot.leaving {
            return;
        }
        let connection = &mut slot.connection;
        let traffic = self.counters.traffic.at(slot.account);
        let (mut refused, mut is_sealing) = (false, false);
        match self.sessions.layer_mut(token.index) {
            Some(Layer::Tls(session)) => {
                let (env, driver) = (&mut self.env.lend(), &mut self.driver);
                refused = flush_sealed(session, connection, env, token, driver, traffic);
                is_sealing = refused && !connection.is_aborting();
            }
            Some(Layer::Tunnel(tunnel)) => {
                let mut env = self.env.lend();
                refused = flush_tunnel(tunnel, connection, &mut env, token, &mut self.driver);
            }
            None if connection.is_blocked() => {}
            None => {
                let (pop, push_front) = (Connection::pop, Connection::push_front);
                refused = !send_queued(&mut self.driver, token, traffic, connection, pop, push_front);
            }
        }
        if connection.is_closing() {
            self.ending.push(token);
            let (log, driver) = (&mut self.log, &mut self.driver);
            let waits = waits_for_address(log, driver, token, connection, self.env.now) || is_sealing;
            let lingers = self.sessions.get_mut(token.index).is_some_and(|session| session.lingers());
            slot.leaving = !waits && end_transport(driver, token, connection, lingers);
        }
        if pause_or_resume(connection, &self.env, &mut self.driver, token) {
            self.counters.pauses += 1;
        }
        if let Some(deferred) = connection.take_deferred(&self.env.config) {
            self.deferred.push((token, deferred));
        }
        if refused && !slot.leaving {
            // The batch has no room for more pieces of this connection; the rest goes with the next.
            slot.path = Path::Listed;
            self.retry.push(token);
            // It is not writable until then, and no event will report that.
            self.refused.push(token);
        }
        if connection.take_deadline_changed() {
            self.arm(token);
        }
    }

    /// Removes a connection that has ended, and returns its resources.
    pub(super) fn remove(&mut self, token: Token) -> Option<Slot<K::Peer>> {
        let mut slot = self.slots.remove(token)?;
        self.ended_behind.remove(&token);
        self.forget_arrival(token);
        self.lifetimes.forget(token);
        if slot.leased {
            self.lease.give_back(1);
        }
        self.env.pool.budget().remove_holder();
        self.came_back(token);
        slot.connection.release(&mut self.env.pool, &mut self.env.codecs);
        self.sessions.remove(token.index, &mut self.env.pool);
        Some(slot)
    }

    /// Counts and logs the end of a connection.
    pub(super) fn note_end(
        &mut self,
        token: Token,
        slot: &Slot<K::Peer>,
        closed: &Closed,
        identity: Option<&str>,
    ) {
        let code = slot.connection.was_open().then_some(closed.code.0);
        *self.counters.ends.entry(End::by(&closed.cause, code)).or_default() += 1;
        traces::closed(token, closed.cause.name());
        let traffic = self.counters.traffic.close(slot.account);
        let record = AccessRecord { identity, code, traffic, ..AccessRecord::default() };
        self.log.closed(token, closed, record, self.env.now);
    }

    /// Uses another configuration from now on.
    pub(super) fn configure(&mut self, config: LiveConfig) {
        let LiveConfig { connection, tls, limits, times } = config;
        self.set_limits(None, limits);
        let compression = self.env.config.compression;
        self.lease.give_back(0);
        let config = ConnectionConfig { compression, ..connection };
        let before = std::mem::replace(&mut self.env.config, config);
        self.set_times(times);
        if (before.times(), &before.own_times) != (self.env.config.times(), &self.env.config.own_times) {
            // Those that are due earlier now.
            self.slots.tokens().into_iter().for_each(|token| self.arm(token));
        }
        if before.send_timeout != self.env.config.send_timeout {
            self.look_at_sends_now();
        }
        if before.queue_bytes < self.env.config.queue_bytes {
            self.touch_paused();
        }
        // Without TLS at the start there is no table of sessions.
        if let (Some(used), Some(tls)) = (&mut self.security.server, tls) {
            *used = tls;
        }
    }

    /// Submits the last staged sends, and wakes sleeping shards. The driver closes the transports.
    pub(super) fn end(&mut self) {
        let mut events = Vec::new();
        let _ = self.driver.tick(&mut self.env.pool, Some(0), &mut events);
    }

    /// The shard's figures with those of its application.
    pub(super) fn snapshot<R>(&self, application: R) -> Snapshot<R> {
        let described = self.driver.describe();
        let (mailbox_messages, mailbox_bytes) = self.mailboxes.queued();
        Snapshot {
            shard: self.mailboxes.shard(),
            connections: self.slots.len() as u64,
            pool_bytes: self.env.pool.used_bytes(),
            pool_bytes_peak: self.env.pool.peak_bytes(),
            driver: described.name,
            features: described.features.names().collect(),
            degraded: described.degraded.names().collect(),
            compressed: self.env.codecs.done(),
            blocked: self.unfinished_sends.len() as u64,
            tls_sessions: self.sessions.count(),
            memory: BudgetFigures::of(self.env.pool.budget()),
            seats: BudgetFigures::of(self.lease.budget()),
            contexts: BudgetFigures::of(self.env.codecs.budget()),
            history_bytes: self.env.pool.budget().history_units(),
            optional_bytes: self.env.pool.budget().optional_units(),
            mailbox_messages,
            mailbox_bytes,
            work: self.driver.work(),
            counters: Counters { traffic: self.counters.traffic.summed(), ..self.counters.clone() },
            application,
        }
    }
}

/// Looks up the peer address for the log record of a connection's end, and returns whether closing must wait for it.
#[cold]
fn waits_for_address(
    notes: &mut ConnectionLog,
    driver: &mut Driver,
    token: Token,
    connection: &Connection,
    now: Nanos,
) -> bool {
    let action = connection.transport_action();
    // An aborted connection would end before the address is known.
    let is_notable =
        action != Some(TransportAction::Abort) && connection.closed().is_some_and(connection_log::is_notable);
    if is_notable && notes.wants_address(token, now) {
        driver.find_address(token);
    }
    action == Some(TransportAction::Close) && notes.awaits_address(token)
}

/// Carries out what a closing connection requests of its transport. If it `lingers`, the peer's bytes are still discarded
/// before it is closed. Returns whether only the end of the connection is still awaited.
fn end_transport(driver: &mut Driver, token: Token, connection: &mut Connection, lingers: bool) -> bool {
    match connection.take_transport_action() {
        None => return false,
        Some(TransportAction::Close) if lingers => {
            connection.linger();
            driver.shutdown(token);
            return false;
        }
        Some(TransportAction::Shutdown) => {
            driver.shutdown(token);
            return false;
        }
        Some(TransportAction::Close) => driver.close(token),
        Some(TransportAction::Abort) => driver.abort(token),
    }
    true
}

/// Pauses or resumes reading from a connection, as it wants. Returns whether it was paused.
#[inline]
fn pause_or_resume(
    connection: &mut Connection,
    env: &ConnectionEnv,
    driver: &mut Driver,
    token: Token,
) -> bool {
    // What such a peer sends would take more of the memory that others need.
    let is_short = connection.is_blocked() && env.pool.is_short(0);
    let pauses = connection.pause_wanted(&env.config, is_short);
    match pauses {
        Some(true) => driver.pause(token),
        Some(false) => {
            connection.note_resumed(env.now);
            driver.resume(token);
        }
        None => {}
    }
    pauses == Some(true)
}
