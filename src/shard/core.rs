//! The shard without its application: connections, timers, buffers, and how they meet the driver.

use std::collections::BTreeSet;

use super::context::Context;
use super::mailbox::Mailboxes;
use super::notes::{self, Notes};
use super::refusals;
use super::slots::Slots;
use super::tls::Sessions;
use super::wheel::Wheel;
use super::{Allowance, Application, Config, Goodbye};
use crate::buffer::{Buffer, Lease, Pool};
use crate::connection::{Cause, Codecs, Connection, Entropy, Env, Fate};
use crate::driver::{Driver, Source, Token};
use crate::limits::{Nanos, TRIM_INTERVAL};
use crate::protocol::CloseCode;
use crate::protocol::handshake::Refusal;
use crate::stats::{Counters, Snapshot};

/// What a shard owns besides its application.
#[derive(Debug)]
pub struct Core<D: Driver, A: Application> {
    pub(super) driver: D,
    pub(super) slots: Slots<A::Peer>,
    /// Of those connections that are secured.
    pub(super) sessions: Sessions,
    pub(super) pool: Pool,
    pub(super) codecs: Codecs,
    pub(super) config: Config,
    pub(super) entropy: Entropy,
    pub(super) wheel: Wheel,
    pub(super) now: Nanos,
    pub(super) counters: Counters,
    /// What the log knows of connections.
    pub(super) notes: Notes,
    pub(super) mailboxes: Mailboxes<A::Message>,
    /// Messages of this turn that were answered with themselves and are not counted yet.
    echoed: u64,
    /// Connections to be flushed at the turn's end.
    pub(super) dirty: Vec<Token>,
    /// Connections whose send went through after it had not.
    pub(super) unblocked: Vec<Token>,
    /// What connections had put off, to be read now.
    parked: Vec<(Token, Buffer)>,
    /// Connections whose stream ended behind what they have put off.
    ended_behind: BTreeSet<Token>,
    /// Connections whose queue did not fit the batch.
    retry: Vec<Token>,
    /// Connections that no event will call writable, though they can be with the next turn: this turn's batch had no room
    /// for all they have, or what they had put off was answered after their send had gone through.
    pub(super) refused: Vec<Token>,
    /// When free buffers are looked at next.
    pub(super) trim_at: Nanos,
    /// Whether that is worth waking up for.
    pub(super) trim_wanted: bool,
    /// When what is left is cut off, once the shard drains.
    pub(super) draining_until: Option<Nanos>,
    /// What everyone is told then.
    pub(super) goodbye: Goodbye,
    pub(super) stopping: bool,
    lease: Lease,
    due: Vec<(Token, u32)>,
    watches: Watches,
    giving_way: GivingWay,
}

/// Built where a field of `Core` must stay borrowed beside it.
macro_rules! env {
    ($core:expr) => {
        Env {
            pool: &mut $core.pool,
            codecs: &mut $core.codecs,
            config: &$core.config.connection,
            now: $core.now,
            entropy: &mut $core.entropy,
        }
    };
}

/// Likewise, with what belongs to one connection.
macro_rules! link {
    ($core:expr, $slot:expr, $token:expr) => {
        Link {
            token: $token,
            peer: $slot.peer.get_or_insert_default(),
            mailboxes: &mut $core.mailboxes,
            connection: &mut $slot.connection,
            env: env!($core),
            counters: &mut $core.counters,
        }
    };
}

pub use memory::Holding;
use memory::{GivingWay, Watches};
use secure::flush_sealed;

// Behind the macros, which they use.
mod memory;
mod opening;
mod reading;
mod secure;

impl<D: Driver, A: Application> Core<D, A> {
    pub(super) fn new(
        driver: D,
        config: Config,
        allowance: Allowance,
        mailboxes: Mailboxes<A::Message>,
    ) -> Core<D, A> {
        let now = driver.now();
        let Allowance { pool, connections, contexts } = allowance;
        Core {
            codecs: Codecs::new(config.connection.compression, contexts),
            slots: Slots::with_capacity(config.connections),
            sessions: Sessions::with_capacity(&config.security, config.connections),
            entropy: Entropy::new(config.seed),
            wheel: Wheel::new(now),
            now,
            counters: Counters::default(),
            notes: Notes::default(),
            echoed: 0,
            dirty: Vec::new(),
            unblocked: Vec::new(),
            parked: Vec::new(),
            ended_behind: BTreeSet::new(),
            refused: Vec::new(),
            trim_at: 0,
            trim_wanted: false,
            retry: Vec::new(),
            draining_until: None,
            goodbye: Goodbye::GOING_AWAY,
            stopping: false,
            due: Vec::new(),
            watches: Watches::default(),
            giving_way: GivingWay::default(),
            driver,
            pool,
            config,
            mailboxes,
            lease: connections,
        }
    }

    // ---- events ----

    pub(super) fn accepted(&mut self, token: Token) {
        self.counters.accepted += 1;
        let admitted = self.lease.take(1);
        let connection = Connection::server(&env!(self));
        self.slots.insert(token, connection, None);
        self.pool.add_holder();
        if let Some(slot) = self.slots.get_mut(token) {
            slot.leased = admitted;
        }
        if self.notes.accepted(token) {
            self.driver.find_address(token);
        }
        if !admitted {
            let refusal = refusals::busy(self.entropy.next());
            self.refuse(token, &refusal);
        } else if self.draining_until.is_some() {
            self.refuse(token, &Refusal::DRAINING);
        }
        if self.config.security.server.is_some() {
            self.secure_accepted(token);
        }
        self.touch(token);
    }

    /// The peer sent FIN.
    pub(super) fn ended(&mut self, token: Token) {
        if let Some(session) = self.sessions.get_mut(token.index) {
            session.hear_out();
        }
        if self.slots.get(token).is_some_and(|slot| slot.connection.is_open() && slot.connection.has_parked())
        {
            // What came before is read first.
            self.ended_behind.insert(token);
            return self.with_connection(token, |connection, now| connection.half_closed(now));
        }
        let close_timeout = self.config.connection.close_timeout;
        self.with_connection(token, |connection, now| connection.ended(now + close_timeout));
    }

    /// The transport of a connection of our own is there.
    pub(super) fn connected(&mut self, application: &mut A, token: Token) {
        application.connected(&mut Context { core: self }, token);
        if self.sessions.has(token.index) {
            self.start_session(token);
        }
        self.touch(token);
    }

    /// Lets a connection know something, and sees to what follows from it at the turn's end.
    pub(super) fn with_connection(&mut self, token: Token, tell: impl FnOnce(&mut Connection, Nanos)) {
        if let Some(slot) = self.slots.get_mut(token) {
            tell(&mut slot.connection, self.now);
            self.touch(token);
        }
    }

    /// Lists a connection for the flush at the turn's end.
    pub(super) fn touch(&mut self, token: Token) {
        if let Some(slot) = self.slots.get_mut(token)
            && slot.mark_dirty()
        {
            self.dirty.push(token);
        }
    }

    // ---- the end of a turn ----

    /// Counts what the turn's shortest path put off.
    #[inline]
    pub(super) fn count_echoed(&mut self) {
        let echoed = std::mem::take(&mut self.echoed);
        self.counters.messages_in += echoed;
        self.counters.messages_out += echoed;
    }

    #[inline]
    pub(super) fn expire_timers(&mut self, application: &mut A) {
        if self.wheel.is_due(self.now) || self.trim_at <= self.now || self.draining_until.is_some() {
            self.expire_due(application);
        }
    }

    #[inline(never)]
    fn expire_due(&mut self, application: &mut A) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.now, &mut due);
        for (token, tick) in due.drain(..) {
            let Some(slot) = self.slots.get_mut(token) else { continue };
            if slot.armed != tick {
                continue;
            }
            slot.armed = 0;
            if slot.connection.deadline(&self.config.connection) <= self.now {
                slot.connection.handle_timeout(&mut env!(self));
                self.touch(token);
            } else {
                self.arm(token);
            }
        }
        self.due = due;
        if self.trim_at <= self.now {
            self.trim_at = self.now + TRIM_INTERVAL;
            let unfinished = self.look_at_sends();
            self.trim_wanted = self.pool.trim() || unfinished;
        }
        if self.draining_until.is_some_and(|until| until <= self.now) {
            let tokens: Vec<Token> = self.slots.tokens().collect();
            for token in tokens {
                self.driver.abort(token);
                self.closed(application, token);
            }
            self.stopping = true;
        }
    }

    /// Arms the timer for a connection's deadline, unless an entry comes up before it anyway.
    fn arm(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let deadline = slot.connection.deadline(&self.config.connection);
        if deadline == Nanos::MAX || (slot.armed != 0 && self.wheel.is_before(slot.armed, deadline)) {
            return;
        }
        slot.armed = self.wheel.arm(token, deadline);
    }

    /// Sends what was queued and carries out what connections decided, until nothing is left to do.
    #[inline]
    pub(super) fn flush_dirty(&mut self, application: &mut A) {
        if !self.dirty.is_empty() || !self.unblocked.is_empty() {
            self.flush_any(application);
        }
    }

    #[inline(never)]
    fn flush_any(&mut self, application: &mut A) {
        for _ in 0..2 {
            let mut index = 0;
            while index < self.dirty.len() {
                let token = self.dirty[index];
                index += 1;
                self.flush(token);
                self.look_for_plain_echo(application, token);
            }
            self.dirty.clear();
            while let Some((token, mut parked)) = self.parked.pop() {
                self.read_buffer(application, token, &mut parked);
                self.pool.put(parked);
                if self.ended_behind.remove(&token) {
                    self.ended(token);
                }
                if self.pool.is_pressed() {
                    self.relieve(application);
                }
            }
            let mut unblocked = std::mem::take(&mut self.unblocked);
            for token in unblocked.drain(..) {
                let Some(slot) = self.slots.get(token) else { continue };
                if slot.connection.is_writable() {
                    application.writable(&mut Context { core: self }, token);
                } else if slot.dirty && !slot.connection.is_blocked() {
                    // Replies to what was parked leave first, and no event will say that they have.
                    self.refused.push(token);
                }
            }
            self.unblocked = unblocked;
            if self.dirty.is_empty() {
                break;
            }
        }
        self.dirty.append(&mut self.retry);
    }

    fn flush(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        slot.dirty = false;
        if slot.leaving {
            return;
        }
        let connection = &mut slot.connection;
        let mut refused = false;
        let session = self.sessions.get_mut(token.index);
        let mut fate_waits = false;
        if let Some(session) = session {
            refused = flush_sealed(
                session,
                connection,
                &mut env!(self),
                token,
                &mut self.driver,
                &mut self.counters,
            );
            fate_waits = refused && !connection.is_cut();
        } else if !connection.is_blocked() {
            while let Some(buffer) = connection.pop() {
                if !send_pooled(&mut self.driver, token, buffer, connection, &mut self.counters) {
                    refused = true;
                    break;
                }
            }
        }
        fate_waits |= connection.is_ending()
            && waits_for_address(&mut self.notes, &mut self.driver, token, connection, self.now);
        let mut fate = if fate_waits { None } else { connection.take_fate() };
        if fate == Some(Fate::Close)
            && self.sessions.get_mut(token.index).is_some_and(|session| session.lingers())
        {
            connection.linger();
            fate = Some(Fate::Shutdown);
        }
        match fate {
            Some(Fate::Shutdown) => self.driver.shutdown(token),
            Some(Fate::Close) => {
                slot.leaving = true;
                self.driver.close(token);
            }
            Some(Fate::Abort) => {
                slot.leaving = true;
                self.driver.abort(token);
            }
            None => {}
        }
        match connection.pause_wanted(&self.config.connection) {
            Some(true) => {
                self.counters.pauses += 1;
                self.driver.pause(token);
            }
            Some(false) => self.driver.resume(token),
            None => {}
        }
        if let Some(parked) = connection.take_parked(&self.config.connection) {
            self.parked.push((token, parked));
        }
        if refused && !slot.leaving {
            // The batch has no room for more pieces of this connection; the rest goes with the next.
            slot.dirty = true;
            self.retry.push(token);
            // It is not writable until then, and no event will say that it has become so.
            self.refused.push(token);
        }
        if connection.take_deadline_moved() {
            self.arm(token);
        }
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, application: &mut A, token: Token) {
        let Some(mut slot) = self.slots.remove(token) else { return };
        self.ended_behind.remove(&token);
        if slot.leased {
            self.lease.give(1);
        }
        self.pool.remove_holder();
        self.came_back(token);
        slot.connection.release(&mut self.pool, &mut self.codecs);
        self.sessions.remove(token.index, &mut self.pool);
        let gone = crate::connection::Closed::new(CloseCode::ABNORMAL, Cause::Gone);
        let closed = slot.connection.closed().unwrap_or(&gone);
        if slot.connection.was_open() {
            *self.counters.closes.entry(closed.code.0).or_default() += 1;
        }
        *self.counters.causes.entry(closed.cause.name()).or_default() += 1;
        self.notes.closed(token, closed);
        if let Some(peer) = slot.peer {
            application.closed(&mut Context { core: self }, token, peer, closed);
        }
    }

    pub(super) fn drain(&mut self, application: &A, timeout: Nanos) {
        let until = self.now.saturating_add(timeout);
        if let Some(earlier) = &mut self.draining_until {
            *earlier = until.min(*earlier);
            return;
        }
        self.draining_until = Some(until);
        self.driver.stop_listening();
        let tokens: Vec<Token> = self.slots.tokens().collect();
        for token in tokens {
            if let Some(slot) = self.slots.get_mut(token) {
                let mut env = env!(self);
                let stays = slot.peer.as_ref().is_some_and(|peer| application.outlives_drain(peer));
                if slot.connection.is_deciding() || (slot.connection.is_open() && !stays) {
                    let Goodbye { code, reason } = self.goodbye;
                    slot.connection.close(code, reason, &mut env);
                }
            }
            self.touch(token);
        }
    }

    /// The last act: what is staged still leaves, messages to sleeping shards included, and the transports go with the
    /// driver.
    pub(super) fn end(&mut self) {
        let mut events = Vec::new();
        let _ = self.driver.turn(&mut self.pool, Some(0), &mut events);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let described = self.driver.describe();
        Snapshot {
            shard: self.mailboxes.shard(),
            connections: self.slots.len() as u64,
            pool_bytes: self.pool.used_bytes(),
            pool_bytes_peak: self.pool.peak_bytes(),
            driver: described.name,
            features: described.features.names().collect(),
            degraded: described.degraded.names().collect(),
            compressed: self.codecs.done(),
            counters: self.counters.clone(),
            ..Snapshot::default()
        }
    }

    pub(super) fn snapshot_with(&self, application: &A) -> Snapshot {
        let mut snapshot = self.snapshot();
        application.describe(&mut snapshot);
        snapshot
    }
}

/// Looks up the address of a peer whose end is to be logged, and says whether closing has to wait for it.
#[cold]
fn waits_for_address<D: Driver>(
    notes: &mut Notes,
    driver: &mut D,
    token: Token,
    connection: &Connection,
    now: Nanos,
) -> bool {
    let fate = connection.fate();
    // Whoever is cut would be gone before.
    let is_notable = fate != Some(Fate::Abort) && connection.closed().is_some_and(notes::is_notable);
    if is_notable && notes.wants_address(token, now) {
        driver.find_address(token);
    }
    fate == Some(Fate::Close) && notes.awaits_address(token)
}

/// Hands a buffer to the driver, or back to the connection when it is not taken.
fn send_pooled<D: Driver>(
    driver: &mut D,
    token: Token,
    buffer: Buffer,
    connection: &mut Connection,
    counters: &mut Counters,
) -> bool {
    let bytes = buffer.len() as u64;
    match driver.send(token, Source::Pooled(buffer)) {
        Ok(()) => {
            counters.bytes_out += bytes;
            true
        }
        Err(Source::Pooled(buffer)) => {
            connection.unpop(buffer);
            false
        }
        Err(Source::Received(_) | Source::Shared(_)) => false,
    }
}
