//! The shard without its application: connections, timers, buffers, and how they meet the driver.

use std::io;
use std::net::SocketAddr;

use super::context::{Context, Link};
use super::mailbox::Mailboxes;
use super::refusals;
use super::slots::Slots;
use super::wheel::Wheel;
use super::{Answer, Application, Config, Disposition};
use crate::buffer::{Buffer, Lease, Pool};
use crate::connection::{
    Cause, Chunk, Connection, Entropy, Env, Fate, LONE_BYTES_MAX, LONE_REPLY_START, Marks, OutOfMemory,
    Piece, Reply, Run, Step, echo_lone, echo_short,
};
use crate::driver::{Driver, Source, Span, Token};
use crate::limits::{DRAIN_TIMEOUT, Nanos, TRIM_INTERVAL};
use crate::protocol::CloseCode;
use crate::protocol::handshake::{self, Refusal};
use crate::stats::{Counters, Snapshot};

/// What a shard owns besides its application.
#[derive(Debug)]
pub struct Core<D: Driver, A: Application> {
    pub(super) driver: D,
    pub(super) slots: Slots<A::Peer>,
    pub(super) pool: Pool,
    pub(super) config: Config,
    pub(super) entropy: Entropy,
    pub(super) wheel: Wheel,
    pub(super) now: Nanos,
    pub(super) counters: Counters,
    pub(super) mailboxes: Mailboxes<A::Message>,
    /// Messages of this turn that were answered with themselves and are not counted yet.
    echoed: u64,
    /// Connections to be flushed at the turn's end.
    pub(super) dirty: Vec<Token>,
    /// Connections whose send went through after it had not.
    pub(super) unblocked: Vec<Token>,
    /// What arrived while a request waited for its decision, to be read now.
    held: Vec<(Token, Buffer)>,
    /// Connections whose queue did not fit the batch.
    retry: Vec<Token>,
    /// Connections that had no room for another piece in this turn's batch.
    pub(super) refused: Vec<Token>,
    /// When free buffers are looked at next.
    pub(super) trim_at: Nanos,
    /// Whether that is worth waking up for.
    pub(super) trim_wanted: bool,
    pub(super) draining_since: Option<Nanos>,
    pub(super) stopping: bool,
    lease: Lease,
    due: Vec<(Token, u32)>,
}

/// Built where a field of `Core` must stay borrowed beside it.
macro_rules! env {
    ($core:expr) => {
        Env {
            pool: &mut $core.pool,
            config: &$core.config.connection,
            now: $core.now,
            entropy: &mut $core.entropy,
        }
    };
}

impl<D: Driver, A: Application> Core<D, A> {
    pub(super) fn new(
        driver: D,
        config: Config,
        pool: Pool,
        lease: Lease,
        mailboxes: Mailboxes<A::Message>,
    ) -> Core<D, A> {
        let now = driver.now();
        Core {
            slots: Slots::with_capacity(config.connections),
            entropy: Entropy::new(config.seed),
            wheel: Wheel::new(now),
            now,
            counters: Counters::default(),
            echoed: 0,
            dirty: Vec::new(),
            unblocked: Vec::new(),
            held: Vec::new(),
            refused: Vec::new(),
            trim_at: 0,
            trim_wanted: false,
            retry: Vec::new(),
            draining_since: None,
            stopping: false,
            due: Vec::new(),
            driver,
            pool,
            config,
            mailboxes,
            lease,
        }
    }

    // ---- events ----

    pub(super) fn accepted(&mut self, token: Token) {
        self.counters.accepted += 1;
        let admitted = self.lease.take(1);
        let connection = Connection::server(&env!(self));
        self.slots.insert(token, connection, None);
        if let Some(slot) = self.slots.get_mut(token) {
            slot.leased = admitted;
        }
        if !admitted {
            let refusal = refusals::busy(self.entropy.next());
            self.refuse(token, &refusal);
        } else if self.draining_since.is_some() {
            self.refuse(token, &Refusal::DRAINING);
        }
        self.touch(token);
    }

    pub(super) fn connected(&mut self, token: Token) {
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

    /// A run of bytes arrived. This is the path of every message, and the short ones of an echo end here: one
    /// look-up of the connection, one of the bytes, one send.
    #[inline]
    pub(super) fn received(&mut self, application: &mut A, token: Token, span: Span) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        self.counters.bytes_in += u64::from(span.bytes);
        slot.connection.begin_run(self.now);
        if !slot.plain_echo {
            return self.received_any(application, token, span, Run::new());
        }
        debug_assert!(slot.connection.is_plain());
        let bytes = self.driver.received(span);
        if !echo_lone(bytes) {
            return self.received_short(application, token, span);
        }
        self.echoed += 1;
        const START: u32 = LONE_REPLY_START as u32;
        let reply = Span { offset: span.offset + START, bytes: span.bytes - START };
        if self.driver.send_received(token, reply) {
            self.counters.bytes_out += u64::from(reply.bytes);
        } else {
            let bytes = span.bytes as usize;
            self.end_plain(application, token, span, Run::read_to_the_end(bytes, LONE_REPLY_START..bytes));
        }
    }

    /// Several messages in one run, for a connection whose short ones are answered at once.
    #[inline(never)]
    fn received_short(&mut self, application: &mut A, token: Token, span: Span) {
        let mut run = Run::new();
        let bytes = self.driver.received(span);
        let echoed = echo_short(&mut run, bytes, self.config.connection.message_bytes_max);
        self.counters.messages_in += echoed;
        self.counters.messages_out += echoed;
        if run.position() == span.bytes as usize {
            let block = run.block();
            let piece = Span { offset: span.offset + block.start as u32, bytes: block.len() as u32 };
            if self.driver.send_received(token, piece) {
                self.counters.bytes_out += u64::from(piece.bytes);
                return;
            }
        }
        self.end_plain(application, token, span, run);
    }

    /// A run that began with short messages goes on in another way, or its replies were not taken.
    #[inline(never)]
    fn end_plain(&mut self, application: &mut A, token: Token, span: Span, run: Run) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.connection.go_on(&run);
        }
        self.received_any(application, token, span, run);
    }

    /// What is not a short message to an echo: heads, fragments, control frames, long messages, messages that
    /// the application wants to see, and replies that must wait for others.
    #[inline(never)]
    fn received_any(&mut self, application: &mut A, token: Token, span: Span, mut run: Run) {
        if let Some(slot) = self.slots.get_mut(token)
            && slot.connection.is_between_messages()
            && slot.peer.as_ref().is_some_and(|peer| !application.echoes(peer))
        {
            self.show_short(application, token, span, &mut run);
        }
        while let Some(head) = self.read(application, token, span, &mut run) {
            self.request(application, token, head);
        }
        self.end_run(token, span, &run);
        self.look_for_plain_echo(application, token);
    }

    /// Finds out whether the next run may be answered the short way.
    fn look_for_plain_echo(&mut self, application: &A, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        slot.plain_echo = !slot.dirty
            && !slot.leaving
            && self.config.connection.message_bytes_max >= LONE_BYTES_MAX as u64
            && slot.connection.is_plain()
            && slot.peer.as_ref().is_some_and(|peer| application.echoes(peer));
    }

    /// Shows the short messages at the front of a run to the application.
    #[inline(never)]
    fn show_short(&mut self, application: &mut A, token: Token, span: Span, run: &mut Run) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let Some(peer) = &mut slot.peer else { return };
        let bytes = self.driver.received(span);
        let bytes_max = self.config.connection.message_bytes_max;
        while let Some((kind, at)) = slot.connection.next_short(run, bytes, bytes_max) {
            self.counters.messages_in += 1;
            let link = Link {
                token,
                peer: &mut *peer,
                mailboxes: &mut self.mailboxes,
                connection: &mut slot.connection,
                env: env!(self),
                counters: &mut self.counters,
            };
            let marks = Marks { kind, first: true, last: true };
            show_chunk(application, link, run, bytes, marks, Piece::Run(at));
            if !slot.connection.is_open() {
                break;
            }
        }
    }

    /// Reads a run until it is used up or a request head is complete.
    fn read(&mut self, application: &mut A, token: Token, span: Span, run: &mut Run) -> Option<Buffer> {
        let slot = self.slots.get_mut(token)?;
        let bytes = self.driver.received(span);
        loop {
            let step = slot.connection.poll(run, bytes, &mut env!(self));
            match step {
                Step::Idle => return None,
                Step::Chunk(marks, piece) => {
                    self.counters.messages_in += u64::from(marks.last);
                    let link = Link {
                        token,
                        peer: slot.peer.get_or_insert_default(),
                        mailboxes: &mut self.mailboxes,
                        connection: &mut slot.connection,
                        env: env!(self),
                        counters: &mut self.counters,
                    };
                    show_chunk(application, link, run, bytes, marks, piece);
                }
                Step::Pong(piece) => {
                    let mut link = Link {
                        token,
                        peer: slot.peer.get_or_insert_default(),
                        mailboxes: &mut self.mailboxes,
                        connection: &mut slot.connection,
                        env: env!(self),
                        counters: &mut self.counters,
                    };
                    match piece {
                        Piece::Run(at) => application.pong(&mut link, &bytes[at]),
                        Piece::Held(buffer) => {
                            application.pong(&mut link, buffer.as_slice());
                            self.pool.put(buffer);
                        }
                    }
                }
                Step::Head(head) => return Some(head),
                Step::Refused(refusal) => {
                    note_refusal(&mut self.counters, &refusal);
                }
                Step::Opened(response) => {
                    self.counters.opened += 1;
                    application.opened(&mut Context { core: self }, token, Some(&response));
                    return self.read(application, token, span, run);
                }
            }
        }
    }

    /// The run is read: its replies leave from where they lie, or are copied when they must wait.
    #[inline(never)]
    fn end_run(&mut self, token: Token, span: Span, run: &Run) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let connection = &mut slot.connection;
        let bytes = self.driver.received(span);
        match connection.end_run(run, bytes, &mut env!(self)) {
            Ok(None) => {}
            Ok(Some(block)) => {
                let piece = Span { offset: span.offset + block.start as u32, bytes: block.len() as u32 };
                if self.send_block(token, span, run, piece).is_err() {
                    self.with_connection(token, |connection, _| connection.out_of_memory());
                }
            }
            Err(OutOfMemory) => connection.out_of_memory(),
        }
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.connection.needs_attention() && slot.mark_dirty() {
            self.dirty.push(token);
        }
    }

    /// Sends the replies that lie in a run behind what is queued before them. What the driver does not take
    /// is copied; a frame whose header it has taken goes on first.
    fn send_block(&mut self, token: Token, span: Span, run: &Run, piece: Span) -> Result<(), OutOfMemory> {
        let Some(slot) = self.slots.get_mut(token) else { return Ok(()) };
        let connection = &mut slot.connection;
        let mut taken = true;
        while let Some(buffer) = connection.pop() {
            taken = send_pooled(&mut self.driver, token, buffer, connection, &mut self.counters);
            if !taken {
                break;
            }
        }
        let mut headless = false;
        if taken && !run.head().is_empty() {
            let mut head = self.pool.get(run.head().len()).ok_or(OutOfMemory)?;
            head.append(run.head());
            match self.driver.send(token, Source::Pooled(head)) {
                Ok(()) => headless = true,
                Err(source) => {
                    taken = false;
                    if let Source::Pooled(head) = source {
                        self.pool.put(head);
                    }
                }
            }
        }
        if taken && self.driver.send_received(token, piece) {
            self.counters.bytes_out += u64::from(piece.bytes) + run.head().len() as u64;
            connection.block_sent();
            return Ok(());
        }
        let bytes = self.driver.received(span);
        if headless {
            connection.copy_headless_block(run, bytes, &mut env!(self))
        } else {
            connection.copy_block(run, bytes, &mut env!(self))
        }
    }

    // ---- the opening handshake ----

    fn request(&mut self, application: &mut A, token: Token, head: Buffer) {
        let answered = handshake::with_request(head.as_slice(), |request, _| {
            let upgrade = match request.upgrade() {
                Ok(upgrade) => upgrade,
                Err(refusal) => return self.refuse_because(token, &refusal, request),
            };
            let answer = application.request(&mut Context { core: self }, token, request, upgrade.as_ref());
            let key = upgrade.map(|upgrade| upgrade.key);
            match (answer, key) {
                (Answer::Upgrade { peer, subprotocol, whole }, Some(key)) => {
                    self.set_peer(token, peer);
                    self.accept(token, Some(key), subprotocol, whole);
                    application.opened(&mut Context { core: self }, token, None);
                }
                (Answer::Later { peer }, Some(key)) => {
                    self.set_peer(token, peer);
                    if let Some(slot) = self.slots.get_mut(token) {
                        slot.connection.decide_later(key);
                    }
                }
                (Answer::Respond(reply), _) => self.respond(token, &reply),
                (Answer::Refuse(refusal), _) => self.refuse_because(token, &refusal, request),
                (Answer::Upgrade { .. } | Answer::Later { .. }, None) => {
                    self.refuse_because(token, &refusals::NOT_AN_UPGRADE, request);
                }
            }
        });
        self.pool.put(head);
        match answered {
            Ok(Some(())) => {}
            Ok(None) => self.refuse(token, &Refusal::MALFORMED),
            Err(refusal) => self.refuse(token, &refusal),
        }
        self.touch(token);
    }

    fn set_peer(&mut self, token: Token, peer: A::Peer) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.peer = Some(peer);
        }
    }

    fn accept(
        &mut self,
        token: Token,
        key: Option<[u8; 24]>,
        subprotocol: Option<&str>,
        whole: bool,
    ) -> Option<Buffer> {
        let slot = self.slots.get_mut(token)?;
        if slot.connection.is_ending() {
            return None;
        }
        match slot.connection.accept(key, subprotocol, whole, &mut env!(self)) {
            Ok(held) => {
                self.counters.opened += 1;
                held
            }
            Err(OutOfMemory) => {
                slot.connection.out_of_memory();
                None
            }
        }
    }

    /// Accepts a request whose decision had to wait; what arrived meanwhile is read at the turn's end.
    pub(super) fn accept_later(&mut self, token: Token, subprotocol: Option<&'static str>, whole: bool) {
        let held = self.accept(token, None, subprotocol, whole);
        if let Some(held) = held {
            self.held.push((token, held));
        }
        self.touch(token);
    }

    fn refuse_because(&mut self, token: Token, refusal: &Refusal, request: &handshake::Request<'_>) {
        let Refusal { status, reason, cure, .. } = *refusal;
        let origin = request.header("origin").unwrap_or("-");
        tracing::info!(status, reason, cure, path = request.path, origin, "request refused");
        self.refuse_quietly(token, refusal);
    }

    pub(super) fn refuse(&mut self, token: Token, refusal: &Refusal) {
        let Refusal { status, reason, cure, .. } = *refusal;
        tracing::info!(status, reason, cure, "request refused");
        self.refuse_quietly(token, refusal);
    }

    fn refuse_quietly(&mut self, token: Token, refusal: &Refusal) {
        *self.counters.refusals.entry(refusal.status).or_default() += 1;
        if let Some(slot) = self.slots.get_mut(token) {
            slot.connection.refuse(refusal, &mut env!(self));
        }
        self.touch(token);
    }

    pub(super) fn respond(&mut self, token: Token, reply: &Reply) {
        *self.counters.answers.entry(reply.status).or_default() += 1;
        if let Some(slot) = self.slots.get_mut(token) {
            slot.connection.respond(reply, &mut env!(self));
        }
        self.touch(token);
    }

    pub(super) fn connect(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        whole: bool,
        peer: A::Peer,
    ) -> io::Result<Token> {
        if !self.lease.take(1) {
            return Err(io::Error::other("the node's connections are used up"));
        }
        let token = match self.driver.connect(address, source) {
            Ok(token) => token,
            Err(error) => {
                self.lease.give(1);
                return Err(error);
            }
        };
        self.counters.dialled += 1;
        let connection = match Connection::client(&mut env!(self), whole) {
            Ok(connection) => connection,
            Err(OutOfMemory) => {
                self.lease.give(1);
                self.driver.abort(token);
                return Err(io::ErrorKind::OutOfMemory.into());
            }
        };
        self.slots.insert(token, connection, Some(peer));
        if let Some(slot) = self.slots.get_mut(token) {
            slot.leased = true;
        }
        Ok(token)
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
        if self.wheel.is_due(self.now) || self.trim_at <= self.now || self.draining_since.is_some() {
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
            self.trim_wanted = self.pool.trim();
        }
        if self.draining_since.is_some_and(|since| since + DRAIN_TIMEOUT <= self.now) {
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
    pub(super) fn flush_dirty(&mut self, application: &mut A) {
        if self.dirty.is_empty() && self.held.is_empty() && self.unblocked.is_empty() {
            return;
        }
        for _ in 0..2 {
            let mut index = 0;
            while index < self.dirty.len() {
                let token = self.dirty[index];
                index += 1;
                self.flush(token);
                self.look_for_plain_echo(application, token);
            }
            self.dirty.clear();
            while let Some((token, mut held)) = self.held.pop() {
                self.read_held(application, token, &mut held);
                self.pool.put(held);
            }
            let mut unblocked = std::mem::take(&mut self.unblocked);
            for token in unblocked.drain(..) {
                if self.slots.get(token).is_some_and(|slot| slot.connection.is_writable()) {
                    application.writable(&mut Context { core: self }, token);
                }
            }
            self.unblocked = unblocked;
            if self.dirty.is_empty() {
                break;
            }
        }
        self.dirty.append(&mut self.retry);
    }

    /// Reads what arrived while a request waited for its decision. Replies cannot leave from there, so they
    /// are copied.
    fn read_held(&mut self, application: &mut A, token: Token, held: &mut Buffer) {
        let mut run = Run::new();
        let Some(slot) = self.slots.get_mut(token) else { return };
        let bytes = held.as_mut_slice();
        loop {
            match slot.connection.poll(&mut run, bytes, &mut env!(self)) {
                Step::Chunk(marks, piece) => {
                    self.counters.messages_in += u64::from(marks.last);
                    let link = Link {
                        token,
                        peer: slot.peer.get_or_insert_default(),
                        mailboxes: &mut self.mailboxes,
                        connection: &mut slot.connection,
                        env: env!(self),
                        counters: &mut self.counters,
                    };
                    show_chunk(application, link, &mut run, bytes, marks, piece);
                }
                Step::Pong(Piece::Held(buffer)) => self.pool.put(buffer),
                Step::Pong(Piece::Run(_)) => {}
                Step::Idle | Step::Head(_) | Step::Refused(_) | Step::Opened(_) => break,
            }
        }
        let connection = &mut slot.connection;
        let block = connection.end_run(&run, bytes, &mut env!(self));
        let copied = match block {
            Ok(Some(_)) => connection.copy_block(&run, bytes, &mut env!(self)),
            Ok(None) => Ok(()),
            Err(OutOfMemory) => Err(OutOfMemory),
        };
        if copied.is_err() {
            connection.out_of_memory();
        }
        self.touch(token);
    }

    fn flush(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        slot.dirty = false;
        if slot.leaving {
            return;
        }
        let connection = &mut slot.connection;
        let mut refused = false;
        if !connection.is_blocked() {
            while let Some(buffer) = connection.pop() {
                if !send_pooled(&mut self.driver, token, buffer, connection, &mut self.counters) {
                    refused = true;
                    break;
                }
            }
        }
        match connection.take_fate() {
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
        if refused && !slot.leaving {
            // The batch has no room for more pieces of this connection; the rest goes with the next.
            slot.dirty = true;
            self.retry.push(token);
        }
        if connection.take_deadline_moved() {
            self.arm(token);
        }
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, application: &mut A, token: Token) {
        let Some(mut slot) = self.slots.remove(token) else { return };
        if slot.leased {
            self.lease.give(1);
        }
        slot.connection.release(&mut self.pool);
        let gone = crate::connection::Closed { code: CloseCode::ABNORMAL, cause: Cause::Gone };
        let closed = slot.connection.closed().unwrap_or(&gone);
        if slot.connection.was_open() {
            *self.counters.closes.entry(closed.code.0).or_default() += 1;
        }
        *self.counters.causes.entry(closed.cause.name()).or_default() += 1;
        if let Cause::Offence(offence) = &closed.cause {
            tracing::info!(code = closed.code.0, %offence, "connection closed for an offence");
        }
        if let Some(peer) = slot.peer {
            application.closed(&mut Context { core: self }, token, peer, closed);
        }
    }

    pub(super) fn drain(&mut self) {
        if self.draining_since.is_some() {
            return;
        }
        self.draining_since = Some(self.now);
        self.driver.stop_listening();
        let tokens: Vec<Token> = self.slots.tokens().collect();
        for token in tokens {
            if let Some(slot) = self.slots.get_mut(token) {
                let mut env = env!(self);
                if slot.connection.is_open() || slot.connection.is_deciding() {
                    slot.connection.close(CloseCode::GOING_AWAY, "server is going away", &mut env);
                }
            }
            self.touch(token);
        }
    }

    /// The last act: what is staged still leaves, and the transports go with the driver.
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

/// Shows a chunk and carries out what the application wants done with it.
#[inline]
fn show_chunk<A: Application>(
    application: &mut A,
    mut link: Link<'_, A>,
    run: &mut Run,
    bytes: &mut [u8],
    marks: Marks,
    mut piece: Piece,
) {
    let Marks { kind, first, last } = marks;
    let payload = match &mut piece {
        Piece::Run(at) => &mut bytes[at.clone()],
        Piece::Held(buffer) => buffer.as_mut_slice(),
    };
    let disposition = application.chunk(&mut link, Chunk { kind, first, last, payload });
    if disposition == Disposition::Echo && link.connection.is_open() {
        link.counters.messages_out += u64::from(last);
        if link.connection.echo(run, bytes, marks, piece, &mut link.env).is_err() {
            link.connection.out_of_memory();
        }
    } else if let Piece::Held(buffer) = piece {
        link.env.pool.put(buffer);
    }
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

fn note_refusal(counters: &mut Counters, refusal: &Refusal) {
    let Refusal { status, reason, cure, .. } = *refusal;
    tracing::info!(status, reason, cure, "request refused");
    *counters.refusals.entry(status).or_default() += 1;
}
