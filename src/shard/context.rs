//! What an application can do: with one connection ([`Link`]) and with the whole shard ([`Context`]).

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use super::mailbox::{Full, Lane, Mailboxes};
use super::slots::Slot;
use super::{Application, Core, Goodbye};
use crate::buffer::Pool;
use crate::connection::{Codecs, Connection, Env, Kind, Reply};
use crate::driver::{Driver, Shared, Source, Token};
use crate::limits::Nanos;
use crate::protocol::CloseCode;
use crate::protocol::handshake::{Dial, Refusal};
use crate::stats::Counters;

/// What carries messages on to others, each of it the shard's own.
#[derive(Debug)]
pub struct Means<'a, M> {
    /// The ends of the mailboxes to other shards.
    pub mailboxes: &'a mut Mailboxes<M>,
    /// The buffers.
    pub pool: &'a mut Pool,
    /// For messages that are compressed once for many connections.
    pub codecs: &'a mut Codecs,
}

/// One connection, for the length of a call.
#[derive(Debug)]
pub struct Link<'a, A: Application> {
    /// Its name.
    pub token: Token,
    /// The application's state of it.
    pub peer: &'a mut A::Peer,
    /// The shard's ends of the mailboxes to other shards.
    pub(crate) mailboxes: &'a mut Mailboxes<A::Message>,
    pub(super) connection: &'a mut Connection,
    pub(super) env: Env<'a>,
    pub(super) counters: &'a mut Counters,
}

impl<A: Application> Link<'_, A> {
    /// The same connection, for a shorter time.
    pub fn reborrow(&mut self) -> Link<'_, A> {
        let Env { pool, codecs, config, now, entropy } = &mut self.env;
        Link {
            token: self.token,
            peer: self.peer,
            mailboxes: self.mailboxes,
            connection: self.connection,
            env: Env { pool, codecs, config, now: *now, entropy },
            counters: self.counters,
        }
    }

    /// The time of this turn.
    pub fn now(&self) -> Nanos {
        self.env.now
    }

    /// Whether messages may be sent.
    pub fn is_open(&self) -> bool {
        self.connection.is_open()
    }

    /// Whether messages would leave with this turn: nothing is queued and no send is unfinished.
    pub fn is_writable(&self) -> bool {
        self.connection.is_writable()
    }

    /// Whether a send is unfinished, so that [`Application::writable`] will be called.
    pub fn is_blocked(&self) -> bool {
        self.connection.is_blocked()
    }

    /// Bytes queued to the peer.
    pub fn queued_bytes(&self) -> u32 {
        self.connection.queued_bytes()
    }

    /// So much may be queued to the peer before [`send`](Link::send) refuses.
    pub fn queue_bytes(&self) -> u32 {
        self.env.config.queue_bytes
    }

    /// The buffers of this shard.
    pub fn pool(&mut self) -> &mut Pool {
        self.env.pool
    }

    /// What carries messages on to others.
    pub fn means(&mut self) -> Means<'_, A::Message> {
        Means { mailboxes: self.mailboxes, pool: self.env.pool, codecs: self.env.codecs }
    }

    /// Counts a message that a full mailbox held up.
    pub fn note_mailbox_full(&mut self) {
        self.counters.mailbox_full += 1;
    }

    /// Queues a message. False, and nothing queued, when the connection is not open or more than the queue's
    /// bound is queued already; one message always fits an empty queue.
    pub fn send(&mut self, kind: Kind, payload: &[u8]) -> bool {
        self.connection.queued_bytes() <= self.env.config.queue_bytes && self.send_past(kind, payload)
    }

    /// The same whatever is queued: for what its caller bounds.
    pub fn send_past(&mut self, kind: Kind, payload: &[u8]) -> bool {
        if !self.connection.is_open() {
            return false;
        }
        let sent = self.connection.send(kind, payload, &mut self.env).is_ok();
        if sent {
            self.counters.messages_out += 1;
        } else {
            self.connection.out_of_memory();
        }
        sent
    }

    /// The same as [`Context::share_window`].
    pub fn share_window(&mut self) -> Option<u8> {
        self.connection.share_window(self.env.codecs)
    }

    /// Queues one frame of a message in several, see [`Connection::send_fragment`]. False when a message is to begin
    /// while more than the queue's bound is queued, or the connection is not open: a message that was begun may be
    /// ended.
    pub fn send_fragment(&mut self, kind: Kind, first: bool, last: bool, payload: &[u8]) -> bool {
        let full = first && self.connection.queued_bytes() > self.env.config.queue_bytes;
        if !self.connection.is_open() || full {
            return false;
        }
        let sent = self.connection.send_fragment(kind, first, last, payload, &mut self.env).is_ok();
        if !sent {
            self.connection.out_of_memory();
        } else if last {
            self.counters.messages_out += 1;
        }
        sent
    }

    /// Queues a ping of at most 125 bytes, under the same conditions as [`send`](Link::send).
    pub fn ping(&mut self, payload: &[u8]) -> bool {
        let queued = self.connection.queued_bytes();
        if !self.connection.is_open() || queued > self.env.config.queue_bytes {
            return false;
        }
        let queued = if self.connection.is_blocked() {
            self.connection.ping(payload, &mut self.env)
        } else {
            // What is queued leaves with this turn; the 101 may be part of it.
            self.connection.ping_behind(payload, &mut self.env)
        };
        let sent = queued.is_ok();
        if !sent {
            self.connection.out_of_memory();
        }
        sent
    }

    /// Ends the stream without a Close frame, behind what is queued.
    pub fn hang_up(&mut self) {
        self.connection.hang_up(&self.env);
    }

    /// Counts a handler that failed, or panicked.
    pub fn note_handler_failure(&mut self, panicked: bool) {
        self.counters.handler_failures += 1;
        self.counters.handler_panics += u64::from(panicked);
    }

    /// Starts the closing handshake, behind what is queued.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.connection.close(code, reason, &mut self.env);
    }

    /// Closes in front of what is queued, which is dropped. Returns the bytes dropped.
    pub fn close_at_once(&mut self, code: CloseCode, reason: &str) -> u32 {
        self.connection.close_at_once(code, reason, &mut self.env)
    }

    /// Reads no further messages from the peer, or reads on. What is under way still comes.
    pub fn hold_up(&mut self, held_up: bool) {
        self.connection.hold_up(held_up, self.env.now);
    }
}

/// The shard, for the length of a call.
#[derive(Debug)]
pub struct Context<'a, D: Driver, A: Application> {
    pub(super) core: &'a mut Core<D, A>,
}

impl<D: Driver, A: Application> Context<'_, D, A> {
    /// The time of this turn.
    pub fn now(&self) -> Nanos {
        self.core.now
    }

    /// The time at this very moment, for measuring; costs a clock read.
    pub fn clock(&self) -> Nanos {
        self.core.driver.now()
    }

    /// This shard's number.
    pub fn shard(&self) -> usize {
        self.core.mailboxes.shard()
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.core.mailboxes.shards()
    }

    /// From accepting a connection to its 101, at most.
    pub fn handshake_timeout(&self) -> Nanos {
        self.core.config.connection.handshake_timeout
    }

    /// Connections now, in any state.
    pub fn connections(&self) -> usize {
        self.core.slots.len()
    }

    /// All connections, in any state. Allocates: for what happens once in a shard's life.
    pub fn tokens(&self) -> Vec<Token> {
        self.core.slots.tokens().collect()
    }

    /// What everyone is told when the shard drains.
    pub fn goodbye(&self) -> Goodbye {
        self.core.goodbye
    }

    /// When what is left is cut off, once the shard drains.
    pub fn draining_until(&self) -> Option<Nanos> {
        self.core.draining_until
    }

    /// Whether messages may be sent to a connection.
    pub fn is_open(&self, token: Token) -> bool {
        self.core.slots.get(token).is_some_and(|slot| slot.connection.is_open())
    }

    /// The buffers of this shard.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.core.pool
    }

    /// What carries messages on to others.
    pub fn means(&mut self) -> Means<'_, A::Message> {
        let Core { mailboxes, pool, codecs, .. } = &mut *self.core;
        Means { mailboxes, pool, codecs }
    }

    /// What this shard counts.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.core.counters
    }

    /// A connection, if it is still there. What is queued through the link leaves with this turn.
    pub fn link(&mut self, token: Token) -> Option<Link<'_, A>> {
        let core = &mut *self.core;
        let slot = core.slots.get_mut(token)?;
        if slot.mark_dirty() {
            core.dirty.push(token);
        }
        let Slot { connection, peer, .. } = slot;
        Some(Link {
            token,
            peer: peer.as_mut()?,
            mailboxes: &mut core.mailboxes,
            connection,
            env: Env {
                pool: &mut core.pool,
                codecs: &mut core.codecs,
                config: &core.config.connection,
                now: core.now,
                entropy: &mut core.entropy,
            },
            counters: &mut core.counters,
        })
    }

    /// The application's state of a connection, without touching the connection.
    pub fn peer(&mut self, token: Token) -> Option<&mut A::Peer> {
        let slot = self.core.slots.get_mut(token)?;
        // It may become another kind of peer.
        slot.plain_echo = false;
        slot.peer.as_mut()
    }

    /// Whether [`share`](Context::share) would be taken: the connection is open, nothing is queued to it and
    /// no send is unfinished.
    #[inline]
    pub fn is_writable(&self, token: Token) -> bool {
        self.core.slots.get(token).is_some_and(|slot| slot.connection.is_writable())
    }

    /// From now on every message to a connection is compressed without reference to earlier ones, if at all, so that
    /// frames of [`deflate_for_all`](Codecs::deflate_for_all) may be [shared](Context::share) with it. Returns the
    /// bits of the window that it takes; `None` when it takes plain messages only.
    pub fn share_window(&mut self, token: Token) -> Option<u8> {
        let core = &mut *self.core;
        core.slots.get_mut(token)?.connection.share_window(&mut core.codecs)
    }

    /// Sends encoded frames, `messages` of them, from memory that other connections send too. The connection
    /// must be writable, see [`is_writable`](Context::is_writable). `tag` is what
    /// [`unsent_shared`](Context::unsent_shared) calls them, should not all of them leave.
    ///
    /// # Errors
    /// Gives the bytes back when the connection cannot take them now;
    /// [`Application::writable`] is called when it can.
    #[inline]
    pub fn share(&mut self, token: Token, frames: Bytes, messages: u64, tag: u64) -> Result<(), Bytes> {
        let bytes = frames.len() as u64;
        if self.core.sessions.has(token.index) {
            return self.share_sealed(token, frames, messages);
        }
        match self.core.driver.send(token, Source::Shared(Shared { bytes: frames, tag })) {
            Ok(()) => {
                self.core.counters.messages_out += messages;
                self.core.counters.bytes_out += bytes;
                Ok(())
            }
            Err(Source::Shared(shared)) => {
                // No event will say that the next batch has room.
                self.core.refused.push(token);
                Err(shared.bytes)
            }
            Err(Source::Received(_) | Source::Pooled(_)) => Err(Bytes::new()),
        }
    }

    #[inline(never)]
    fn share_sealed(&mut self, token: Token, frames: Bytes, messages: u64) -> Result<(), Bytes> {
        if self.core.seal_shared(token, &frames) {
            self.core.counters.messages_out += messages;
            return Ok(());
        }
        self.core.refused.push(token);
        Err(frames)
    }

    /// What a short send left that was [shared](Context::share) last: its tag, and the bytes of it that the kernel has
    /// not taken. Known from [`Application::blocked`] until the turn's end only. `None` at any other time, when
    /// something else lies behind it (a pong), and through TLS, where nothing is shared: it was sealed.
    pub fn unsent_shared(&self, token: Token) -> Option<(u64, usize)> {
        self.core.driver.unsent_shared(token)
    }

    /// Bytes of a short send that the kernel has not taken, less what was [taken back](Context::take_back); 0 when no
    /// send is unfinished. From [`Application::blocked`] until the turn's end this is exact.
    pub fn unsent_bytes(&self, token: Token) -> u32 {
        self.core.slots.get(token).map_or(0, |slot| slot.connection.unsent_bytes())
    }

    /// Takes back the last `bytes` of what [`unsent_shared`](Context::unsent_shared) tells of, `messages` whole ones:
    /// they are not sent, and not counted as sent. What was shared before them is then the last. At least one of the
    /// [`unsent_bytes`](Context::unsent_bytes) must stay; [`Application::writable`] follows when those have left.
    ///
    /// False, and nothing done, when that is not to be had.
    ///
    /// # Panics
    /// In debug builds when there are fewer bytes, or none would stay.
    pub fn take_back(&mut self, token: Token, bytes: usize, messages: u64) -> bool {
        let core = &mut *self.core;
        let Some(slot) = core.slots.get_mut(token) else { return false };
        if !core.driver.take_back(token, bytes) {
            return false;
        }
        slot.connection.taken_back(bytes as u32);
        core.counters.bytes_out -= bytes as u64;
        core.counters.messages_out -= messages;
        true
    }

    /// Asks who is at the other end of a connection. [`Application::addressed`] follows, unless the connection is
    /// gone before. It costs system calls of its own.
    pub fn find_address(&mut self, token: Token) {
        self.core.notes.asked(token);
        self.core.driver.find_address(token);
    }

    /// Answers a request that was answered with [`Answer::Later`](super::Answer::Later).
    pub fn accept(&mut self, token: Token, subprotocol: Option<&'static str>, whole: bool) {
        self.core.accept_later(token, subprotocol, whole);
    }

    /// Refuses a request that was answered with [`Answer::Later`](super::Answer::Later).
    pub fn refuse(&mut self, token: Token, refusal: &Refusal) {
        self.core.refuse(token, refusal);
    }

    /// Answers a request that was answered with [`Answer::Later`](super::Answer::Later) without upgrading.
    pub fn respond(&mut self, token: Token, reply: &Reply<'_>) {
        self.core.respond(token, reply);
    }

    /// Posts a message to another shard.
    ///
    /// # Errors
    /// [`Full`] when there is no room; nothing was posted.
    pub fn post(
        &mut self,
        to: usize,
        lane: Lane,
        message: A::Message,
        payload: &[&[u8]],
    ) -> Result<(), Full> {
        let posted = self.core.mailboxes.post(to, lane, message, payload);
        if posted.is_err() {
            self.core.counters.mailbox_full += 1;
        }
        posted
    }

    /// Whether a lane to every other shard has room for `bytes`.
    pub fn all_have_room(&self, lane: Lane, bytes: usize) -> bool {
        self.core.mailboxes.all_have_room(lane, bytes)
    }

    /// The request of connections that are opened from now on, to be changed between two of them; `None` on a
    /// shard that was not set up to open any.
    pub fn dial(&mut self) -> Option<&mut Dial> {
        self.core.config.connection.dial.as_mut()
    }

    /// Opens a connection in the client role. [`Application::opened`] or [`Application::closed`] follows.
    /// Messages are shown whole when `whole` is set.
    ///
    /// # Errors
    /// When no socket could be made.
    pub fn connect(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        whole: bool,
        peer: A::Peer,
    ) -> io::Result<Token> {
        self.core.connect(address, source, whole, peer)
    }

    /// Ends [`Shard::run`](super::Shard::run) after this turn.
    pub fn stop(&mut self) {
        self.core.stopping = true;
    }
}
