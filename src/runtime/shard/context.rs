//! The application's handles: one connection ([`ConnectionContext`]) and the whole shard ([`Context`]).

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use super::Destination;
use super::answer::{Extras, StreamHead};
use super::control::Goodbye;
use super::core::Core;
use super::kinds::Kinds;
use super::mailbox::{Bridge, Full, Lane, Mailboxes};
use super::route::Route;
use super::slots::Slot;
use super::tls::Session;
use crate::admission::Limit;
use crate::driver::{SendTimes, Shared, Source, TcpInfo, Token};
use crate::stats::{Account, Counters};
use echoring_proto::CloseCode;
use echoring_proto::buffer::Pool;
use echoring_proto::connection::{
    Cause, CloseMode, Closed, Codecs, Connection, Env, MessageKind, OutOfMemory, Reply, SharedWindow,
};
use echoring_proto::handshake::{Dial, Refusal};
use echoring_proto::limits::Nanos;

/// The parts of a shard that carry messages to other connections and shards.
#[derive(Debug)]
pub struct ShardResources<'a, M> {
    /// The ends of the mailboxes to other shards.
    pub mailboxes: &'a mut Mailboxes<M>,
    /// The buffers.
    pub pool: &'a mut Pool,
    /// For messages that are compressed once for many connections.
    pub codecs: &'a mut Codecs,
}

/// One connection, for the length of a call.
#[derive(Debug)]
pub struct ConnectionContext<'a, K: Kinds> {
    /// The connection's token.
    pub token: Token,
    /// The application's state of the connection.
    pub peer: &'a mut K::Peer,
    /// The shard's ends of the mailboxes to other shards.
    pub mailboxes: &'a mut Mailboxes<K::Message>,
    pub(super) connection: &'a mut Connection,
    pub(super) env: Env<'a>,
    pub(super) counters: &'a mut Counters,
    pub(super) account: Account,
    pub(super) excesses: &'a mut Vec<(Token, Limit, bool)>,
}

/// What a connection's context uses of its shard, beside the environment.
pub(super) type ShardParts<'a, K> =
    (&'a mut Mailboxes<<K as Kinds>::Message>, &'a mut Counters, &'a mut Vec<(Token, Limit, bool)>);

impl<'a, K: Kinds> ConnectionContext<'a, K> {
    /// The context of a connection that has reached the application.
    #[inline(always)]
    pub(super) fn of(
        slot: &'a mut Slot<K::Peer>,
        token: Token,
        env: Env<'a>,
        (mailboxes, counters, excesses): ShardParts<'a, K>,
    ) -> ConnectionContext<'a, K> {
        let Slot { connection, peer, account, .. } = slot;
        let (peer, account) = (peer.get_or_insert_default(), *account);
        ConnectionContext { token, peer, mailboxes, connection, env, counters, account, excesses }
    }
}

impl<K: Kinds> ConnectionContext<'_, K> {
    /// The same connection, for a shorter time.
    pub fn reborrow(&mut self) -> ConnectionContext<'_, K> {
        let Env { pool, codecs, config, now, entropy } = &mut self.env;
        ConnectionContext {
            token: self.token,
            peer: self.peer,
            mailboxes: self.mailboxes,
            connection: self.connection,
            env: Env { pool, codecs, config, now: *now, entropy },
            counters: self.counters,
            account: self.account,
            excesses: self.excesses,
        }
    }

    /// The peer was over a limit of the application: it is counted and logged with its address. `counts` says that it may ban
    /// the address.
    pub fn note_excess(&mut self, limit: Limit, counts: bool) {
        self.excesses.push((self.token, limit, counts));
    }

    /// The time of this tick.
    pub fn now(&self) -> Nanos {
        self.env.now
    }

    /// Whether messages may be sent.
    pub fn is_open(&self) -> bool {
        self.connection.is_open()
    }

    /// Whether messages would leave with this tick: nothing is queued and no send is partial.
    pub fn is_writable(&self) -> bool {
        self.connection.is_writable()
    }

    /// Whether a send is partial, so that [`Application::writable`](super::Application::writable) will be called.
    pub fn is_blocked(&self) -> bool {
        self.connection.is_blocked()
    }

    /// Whether the connection echoes a message in fragments that is not complete, so that no other may be sent (RFC 6455, 5.4).
    pub fn sends_fragments(&self) -> bool {
        self.connection.sends_fragments()
    }

    /// Whether the peer's next byte begins a message, so that none of its messages is being echoed.
    pub fn is_between_messages(&self) -> bool {
        self.connection.is_between_messages()
    }

    /// A message whose chunks are echoed begins, or is about to end. Until then the application sends nothing else, and
    /// [`Context::share`] is not accepted.
    pub fn set_sends_fragments(&mut self, sends_fragments: bool) {
        self.connection.set_sends_fragments(sends_fragments);
    }

    /// Whether the peer's next message waits for others, see [`Connection::set_yields`].
    pub fn set_yields(&mut self, yields: bool) {
        self.connection.set_yields(yields, self.env.now);
    }

    /// Ends a message whose last chunk was not echoed with an empty fragment.
    pub fn end_fragments(&mut self, kind: MessageKind) {
        self.connection.set_sends_fragments(false);
        if self.connection.is_open() {
            let queued = self.connection.send_fragment(kind, false, true, &[], &mut self.env);
            self.count_queued(queued, 1);
        }
    }

    /// Maximum bytes of a message of the peer.
    pub fn max_message(&self) -> u64 {
        self.env.config.max_message
    }

    /// Bytes queued to the peer.
    pub fn queued_bytes(&self) -> u32 {
        self.connection.queued_bytes()
    }

    /// Silence after which the peer is pinged, or 0 for never, and the time limit of its answer.
    pub fn ping_times(&self) -> (Nanos, Nanos) {
        let times = self.connection.times(self.env.config);
        (times.ping_interval, times.pong_timeout)
    }

    /// Maximum queued bytes above which [`send`](ConnectionContext::send) refuses.
    pub fn queue_bytes(&self) -> u32 {
        self.env.config.queue_bytes
    }

    /// The buffers of this shard.
    pub fn pool(&mut self) -> &mut Pool {
        self.env.pool
    }

    /// The parts that carry messages to other connections and shards.
    pub fn resources(&mut self) -> ShardResources<'_, K::Message> {
        ShardResources { mailboxes: self.mailboxes, pool: self.env.pool, codecs: self.env.codecs }
    }

    /// Counts a message that a full mailbox delayed.
    pub fn note_mailbox_full(&mut self) {
        self.counters.mailbox_full += 1;
    }

    /// Queues a message. False, with nothing queued, if the connection is not open or more than the queue's bound is
    /// queued already; one message always fits an empty queue.
    pub fn send(&mut self, kind: MessageKind, payload: &[u8]) -> bool {
        self.connection.queued_bytes() <= self.env.config.queue_bytes && self.send_past(kind, payload)
    }

    /// The same without the bound, for callers with their own.
    pub fn send_past(&mut self, kind: MessageKind, payload: &[u8]) -> bool {
        if !self.connection.is_open() {
            return false;
        }
        debug_assert!(!self.connection.is_event_stream());
        let queued = self.connection.send(kind, payload, &mut self.env);
        self.count_queued(queued, 1)
    }

    /// Queues an event of an event stream, see [`Connection::send_encoded`], without a bound as
    /// [`send_past`](ConnectionContext::send_past). Does nothing if the connection is not open.
    pub fn send_event(&mut self, event: &[u8]) {
        if !self.connection.is_open() {
            return;
        }
        debug_assert!(self.connection.is_event_stream());
        let queued = self.connection.send_encoded(event, &mut self.env);
        self.count_queued(queued, 1);
    }

    /// Counts `messages` that were queued, or ends the connection for lack of memory.
    fn count_queued(&mut self, queued: Result<(), OutOfMemory>, messages: u64) -> bool {
        match queued {
            Ok(()) => self.counters.traffic.at(self.account).messages_out += messages,
            Err(OutOfMemory) => self.connection.abort(Cause::OutOfMemory),
        }
        queued.is_ok()
    }

    /// The same as [`Context::share_window`].
    pub fn share_window(&mut self) -> Option<SharedWindow> {
        self.connection.share_window(self.env.codecs)
    }

    /// The same as [`Context::leave_window_to_topic`].
    pub fn leave_window_to_topic(&mut self) {
        self.connection.leave_window_to_topic();
    }

    /// Queues one frame of a fragmented message, see [`Connection::send_fragment`]. False if a message would begin
    /// while more than the queue's bound is queued, or if the connection is not open; a message that was begun may be
    /// finished.
    pub fn send_fragment(&mut self, kind: MessageKind, first: bool, last: bool, payload: &[u8]) -> bool {
        let full = first && self.connection.queued_bytes() > self.env.config.queue_bytes;
        if !self.connection.is_open() || full {
            return false;
        }
        let queued = self.connection.send_fragment(kind, first, last, payload, &mut self.env);
        self.count_queued(queued, u64::from(last))
    }

    /// Queues a ping of at most 125 bytes, under the same conditions as [`send`](ConnectionContext::send).
    pub fn ping(&mut self, payload: &[u8]) -> bool {
        let queued = self.connection.queued_bytes();
        if !self.connection.is_open() || queued > self.env.config.queue_bytes {
            return false;
        }
        let queued = if self.connection.is_blocked() {
            self.connection.ping(payload, &mut self.env)
        } else {
            // The queue, perhaps with the 101 in it, leaves with this tick.
            self.connection.ping_behind(payload, &mut self.env)
        };
        self.count_queued(queued, 0)
    }

    /// Ends the stream without a Close frame, behind the queued data.
    pub fn hang_up(&mut self) {
        self.connection.end_stream(&self.env);
    }

    /// Counts a handler that failed, or panicked.
    pub fn note_handler_failure(&mut self, panicked: bool) {
        self.counters.handler_failures += 1;
        self.counters.handler_panics += u64::from(panicked);
    }

    /// Starts the closing handshake, behind the queued data.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.connection.close(code, reason, CloseMode::Graceful, &mut self.env);
    }

    /// Closes ahead of the queued data, which is dropped. Returns the bytes dropped.
    pub fn close_at_once(&mut self, code: CloseCode, reason: &str) -> u32 {
        self.connection.close(code, reason, CloseMode::DropPeer, &mut self.env)
    }

    /// Ends the connection without a closing handshake; unsent data is dropped. The peer sees 1006.
    pub fn abort(&mut self) {
        self.connection.abort(Cause::Local);
    }

    /// Pauses or resumes reading from the peer. Bytes in flight still arrive.
    pub fn set_backpressured(&mut self, backpressured: bool) {
        self.connection.set_backpressured(backpressured, self.env.now);
    }
}

/// The shard, for the length of a call.
#[derive(Debug)]
pub struct Context<'a, K: Kinds> {
    pub(super) core: &'a mut Core<K>,
}

impl<K: Kinds> Context<'_, K> {
    /// As [`ConnectionContext::note_excess`].
    pub fn note_excess(&mut self, token: Token, limit: Limit, counts: bool) {
        self.core.note_excess(token, limit, counts);
    }

    /// A client that is no connection of this shard was over a limit: it is counted.
    pub fn count_limited(&mut self, limit: Limit) {
        self.core.count_limited(limit);
    }

    /// The time of this tick.
    pub fn now(&self) -> Nanos {
        self.core.env.now
    }

    /// The current time, for measuring; costs a clock read.
    pub fn clock(&self) -> Nanos {
        self.core.driver.now()
    }

    /// This shard's number.
    pub fn shard(&self) -> usize {
        self.core.mailboxes.shard()
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.core.mailboxes.shards()
    }

    /// Maximum time from accept to the 101.
    pub fn handshake_timeout(&self) -> Nanos {
        self.core.env.config.handshake_timeout
    }

    /// Connections now, in any state.
    pub fn connections(&self) -> usize {
        self.core.slots.len()
    }

    /// All connections, in any state. Allocates, so it is only for rare events.
    pub fn tokens(&self) -> Vec<Token> {
        self.core.slots.tokens()
    }

    /// The Close code and reason of a connection when the shard drains, or when its life is over.
    pub fn goodbye(&self, token: Token) -> Goodbye {
        self.core.goodbye_to(token)
    }

    /// When the remaining connections are cut, once the shard drains.
    pub fn draining_until(&self) -> Option<Nanos> {
        self.core.draining_until
    }

    /// When the connections that are left are cut, once the shard drains at once or closes its connections one by one.
    pub fn drain_ends_at(&self) -> Option<Nanos> {
        self.core.drain_ends_at()
    }

    /// Whether messages may be sent to a connection.
    pub fn is_open(&self, token: Token) -> bool {
        self.core.slots.get(token).is_some_and(|slot| slot.connection.is_open())
    }

    /// The buffers of this shard.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.core.env.pool
    }

    /// The parts that carry messages to other connections and shards.
    pub fn resources(&mut self) -> ShardResources<'_, K::Message> {
        let Core { mailboxes, env, .. } = &mut *self.core;
        ShardResources { mailboxes, pool: &mut env.pool, codecs: &mut env.codecs }
    }

    /// Counts `messages` that were read at `received_at`, here or on another shard, and that leave with this tick.
    pub fn note_sent(&mut self, received_at: Nanos, messages: u32) {
        self.core.sent.push((received_at, messages));
    }

    /// The shard's counters.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.core.counters
    }

    /// A connection, if it still exists. Everything queued through this context leaves with this tick.
    pub fn link(&mut self, token: Token) -> Option<ConnectionContext<'_, K>> {
        let core = &mut *self.core;
        if core.leaving.is_given_up(token) {
            return None;
        }
        let slot = core.slots.get_mut(token)?;
        if slot.mark_dirty() {
            core.dirty.push(token);
        }
        slot.peer.as_ref()?;
        let parts = (&mut core.mailboxes, &mut core.counters, &mut core.excesses);
        Some(ConnectionContext::of(slot, token, core.env.lend(), parts))
    }

    /// How a connection is closing; `None` if it is not.
    pub fn closed(&self, token: Token) -> Option<&Closed> {
        self.core.slots.get(token)?.connection.closed()
    }

    /// The application's state of a connection, without touching the connection.
    pub fn peer(&mut self, token: Token) -> Option<&mut K::Peer> {
        let slot = self.core.slots.get_mut(token)?;
        // The connection may become another kind of peer.
        slot.leave_fast_path();
        slot.peer.as_mut()
    }

    /// Whether a connection is between two messages in each direction, with nothing queued.
    pub fn is_idle(&self, token: Token) -> bool {
        let connection = self.core.slots.get(token).map(|slot| &slot.connection);
        connection.is_some_and(|connection| connection.is_between_messages() && connection.is_writable())
    }

    /// The same as [`ConnectionContext::sends_fragments`].
    pub fn sends_fragments(&self, token: Token) -> bool {
        self.core.slots.get(token).is_some_and(|slot| slot.connection.sends_fragments())
    }

    /// Whether TLS keeps a connection on its shard: it has an older version than 1.3, or its configuration
    /// is not [`with_secrets`](super::with_secrets).
    pub fn stays_for_tls(&self, token: Token) -> bool {
        !self.core.sessions.may_move(token.index)
    }

    /// Keeps the input of a connection from now on, because it is about to leave this shard. False if it must stay: it is in
    /// a handshake, is closing, [stays for TLS](Context::stays_for_tls), or is paused.
    pub fn hold(&mut self, token: Token) -> bool {
        self.core.exits.is_some() && self.core.hold(token)
    }

    /// A [held](Context::hold) connection stays: what it has sent is read.
    pub fn let_go(&mut self, token: Token) {
        self.core.let_go(token);
    }

    /// Takes the application's state of a connection away.
    pub fn take_peer(&mut self, token: Token) -> Option<K::Peer> {
        self.core.slots.get_mut(token)?.peer.replace(K::Peer::default())
    }

    /// Sends a [held](Context::hold) connection to another shard. Its peer was [taken](Context::take_peer), and is continued from
    /// `state` there, or here if it cannot leave: by [`Application::go_on`](super::Application::go_on).
    pub fn give_up(&mut self, token: Token, to: Destination, state: Vec<u8>) {
        self.core.give_up(token, to, state);
    }

    /// Connections of this shard that the driver is giving up, and those of all shards that are on their way.
    pub fn leaving(&self) -> usize {
        let on_the_way = self.core.exits.as_ref().map_or(0, |exits| exits.on_the_way());
        self.core.leaving.given_up() + on_the_way
    }

    /// Makes a connection another peer. Its traffic counts for the new class from now on.
    pub fn set_peer(&mut self, token: Token, peer: K::Peer) {
        if let Some(slot) = self.core.slots.get_mut(token) {
            slot.leave_fast_path();
        }
        self.core.set_peer(token, peer);
    }

    /// Whether [`share`](Context::share) would be accepted: the connection is open, nothing is queued, no send is partial, and no
    /// message in fragments is incomplete.
    #[inline]
    pub fn is_writable(&self, token: Token) -> bool {
        let connection = self.core.slots.get(token).map(|slot| &slot.connection);
        connection.is_some_and(|connection| connection.is_writable() && !connection.sends_fragments())
    }

    /// From now on every message to a connection is compressed without context takeover, if at all, so that frames of
    /// [`deflate_for_all`](Codecs::deflate_for_all) may be [shared](Context::share) with it. Returns its window;
    /// `None` if it accepts uncompressed messages only.
    pub fn share_window(&mut self, token: Token) -> Option<SharedWindow> {
        let core = &mut *self.core;
        core.slots.get_mut(token)?.connection.share_window(&mut core.env.codecs)
    }

    /// From now on the messages of the connection itself are sent uncompressed, see
    /// [`Connection::leave_window_to_topic`].
    pub fn leave_window_to_topic(&mut self, token: Token) {
        if let Some(slot) = self.core.slots.get_mut(token) {
            slot.connection.leave_window_to_topic();
        }
    }

    /// Sends encoded frames with `messages` messages from memory that other connections share. The connection must be
    /// writable, see [`is_writable`](Context::is_writable). [`unsent_shared`](Context::unsent_shared) returns `tag` if
    /// not all of them are sent.
    ///
    /// # Errors
    /// Returns the bytes if the connection cannot accept them now;
    /// [`Application::writable`](super::Application::writable) is called when it can.
    #[inline]
    pub fn share(&mut self, token: Token, frames: Bytes, messages: u64, tag: u64) -> Result<(), Bytes> {
        let bytes = frames.len() as u64;
        if self.core.sessions.has(token.index) {
            return self.share_sealed(token, frames, messages);
        }
        match self.core.driver.send(token, Source::Shared(Shared { bytes: frames, tag })) {
            Ok(()) => {
                let traffic = self.core.traffic_of(token);
                traffic.messages_out += messages;
                traffic.bytes_out += bytes;
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
            self.core.traffic_of(token).messages_out += messages;
            return Ok(());
        }
        self.core.refused.push(token);
        Err(frames)
    }

    /// The last [shared](Context::share) piece of a short send: its tag, and its unsent bytes. Known only from
    /// [`Application::blocked`](super::Application::blocked) until the tick's end. `None` at any other time, if
    /// something else is behind it (a pong), and with TLS, where nothing is shared.
    pub fn unsent_shared(&self, token: Token) -> Option<(u64, usize)> {
        self.core.driver.unsent_shared(token)
    }

    /// Unsent bytes of a short send, without those [taken back](Context::take_back); 0 without a partial send. From
    /// [`Application::blocked`](super::Application::blocked) until the tick's end this is exact.
    pub fn unsent_bytes(&self, token: Token) -> u32 {
        self.core.slots.get(token).map_or(0, |slot| slot.connection.unsent_bytes())
    }

    /// Takes back the last `bytes` of [`unsent_shared`](Context::unsent_shared), which are `messages` whole messages:
    /// they are not sent, and not counted as sent. The shared piece before them then becomes the last. At least one of
    /// the [`unsent_bytes`](Context::unsent_bytes) must stay; [`Application::writable`](super::Application::writable)
    /// follows once those are sent.
    ///
    /// False, with nothing done, if there is no such piece.
    ///
    /// # Panics
    /// In debug builds, if there are fewer bytes, or none would stay.
    pub fn take_back(&mut self, token: Token, bytes: usize, messages: u64) -> bool {
        let core = &mut *self.core;
        let Some(slot) = core.slots.get_mut(token) else { return false };
        if !core.driver.take_back(token, bytes) {
            return false;
        }
        slot.connection.cancelled(bytes as u32);
        let traffic = core.counters.traffic.at(slot.account);
        // A connection that has changed its class takes back what another class has counted.
        traffic.bytes_out = traffic.bytes_out.wrapping_sub(bytes as u64);
        traffic.messages_out = traffic.messages_out.wrapping_sub(messages);
        true
    }

    /// Asks when what is staged for a connection in this tick is acknowledged, see [`stamp`](crate::driver::Driver::stamp).
    pub fn stamp(&mut self, token: Token) -> bool {
        self.core.driver.stamp(token)
    }

    /// When the kernel saw what was sent to a connection at `sent`, see [`send_times`](crate::driver::Driver::send_times).
    pub fn send_times(&mut self, token: Token, sent: Nanos) -> Option<SendTimes> {
        self.core.driver.send_times(token, sent)
    }

    /// Whether the latest bytes of a connection ended a message, and the record of TLS that it came in.
    pub fn is_between_messages(&self, token: Token) -> bool {
        self.core.sessions.get(token.index).is_none_or(Session::is_between_records)
            && self.core.slots.get(token).is_some_and(|slot| slot.connection.is_between_messages())
    }

    /// The most bytes that so many bytes of a message are when they are sent: records of TLS are larger than what they contain.
    pub fn sent_bytes_max(&self, token: Token, bytes: usize) -> usize {
        bytes + self.core.sessions.get(token.index).map_or(0, |_| Session::added_bytes_max(bytes))
    }

    /// From now on the kernel holds few unsent bytes of a connection, see [`set_notsent_lowat`](crate::driver::Driver::set_notsent_lowat).
    pub fn set_notsent_lowat(&mut self, token: Token) {
        self.core.driver.set_notsent_lowat(token);
    }

    /// Looks up the peer's address. [`Application::addressed`](super::Application::addressed) follows, unless the
    /// connection ends before. It costs extra system calls.
    pub fn find_address(&mut self, token: Token) {
        self.core.log.asked(token);
        self.core.driver.find_address(token);
    }

    /// The name of the route whose [times](super::RouteTimes) a connection has, if it has those of one. At its request that is the address
    /// of its listener, where times are set under this name.
    pub fn route(&self, token: Token) -> Option<&str> {
        let place = self.core.slots.get(token)?.connection.own_times()?;
        self.core.lifetimes.route(place)
    }

    /// Gives a connection that is not open yet the [times](super::RouteTimes) of a route, if this route sets any.
    pub fn set_route(&mut self, token: Token, name: &str) {
        self.core.set_route(token, name);
    }

    /// The same, and looks up the state of the connection's TCP, which [`tcp_info`](Context::tcp_info) returns during the answer.
    pub fn find_tcp_info(&mut self, token: Token) {
        self.core.log.asked(token);
        self.core.driver.find_tcp_info(token);
    }

    /// `TCP_INFO` of a connection. `None` unless it was just looked up, and on Unix sockets.
    pub fn tcp_info(&self, token: Token) -> Option<TcpInfo> {
        self.core.driver.tcp_info(token)
    }

    /// Accepts a request that was answered with [`Answer::Later`](super::Answer::Later). Input that arrived meanwhile is read
    /// at the end of the tick.
    pub fn accept(&mut self, token: Token, subprotocol: Option<&'static str>, whole: bool) {
        self.core.accept(token, None, subprotocol, &[], whole);
        self.core.touch(token);
    }

    /// The same with header fields for this request.
    pub fn accept_with(&mut self, token: Token, extras: &Extras, whole: bool) {
        extras.route.iter().for_each(|route| self.core.set_route(token, route));
        self.core.accept(token, None, extras.subprotocol.as_deref(), &extras.fields, whole);
        self.core.touch(token);
    }

    /// Answers a request that was answered with [`Answer::Later`](super::Answer::Later) with an event stream, see
    /// [`Answer::EventStream`](super::Answer::EventStream).
    pub fn begin_event_stream(&mut self, token: Token, head: &StreamHead) {
        self.core.begin_event_stream(token, head);
    }

    /// Whether a request was answered with [`Answer::Later`](super::Answer::Later), and neither accepted nor refused.
    pub fn is_deciding(&self, token: Token) -> bool {
        self.core.slots.get(token).is_some_and(|slot| slot.connection.is_deciding())
    }

    /// Refuses a request that was answered with [`Answer::Later`](super::Answer::Later).
    pub fn refuse(&mut self, token: Token, refusal: &Refusal) {
        self.core.refuse(token, refusal);
    }

    /// Answers a request that was answered with [`Answer::Later`](super::Answer::Later) with a plain response.
    pub fn respond(&mut self, token: Token, reply: &Reply<'_>) {
        self.core.respond(token, reply);
    }

    /// Posts a message to another shard.
    ///
    /// # Errors
    /// [`Full`] if there is no room; nothing was posted.
    pub fn post(
        &mut self,
        to: usize,
        lane: Lane,
        message: K::Message,
        payload: &[&[u8]],
    ) -> Result<(), Full> {
        let posted = self.core.mailboxes.post(to, lane, message, payload);
        if posted.is_err() {
            self.core.counters.mailbox_full += 1;
        }
        posted
    }

    /// Connects the shard to those of another process.
    pub fn attach(&mut self, bridge: Bridge<K::Message>) {
        self.core.mailboxes.attach(bridge);
    }

    /// Ends the connection to another process.
    pub fn detach(&mut self) {
        self.core.mailboxes.detach();
    }

    /// Whether a lane to every other shard has room for `bytes`.
    pub fn all_have_room(&self, lane: Lane, bytes: usize) -> bool {
        self.core.mailboxes.all_have_room(lane, bytes)
    }

    /// The request of connections that are opened from now on, to be changed between two of them; `None` on a shard
    /// that is not configured to open any.
    pub fn dial(&mut self) -> Option<&mut Dial> {
        self.core.env.config.dial.as_mut()
    }

    /// Opens a connection in the client role. [`Application::opened`](super::Application::opened) or
    /// [`Application::closed`](super::Application::closed) follows. `whole` requests whole messages.
    ///
    /// # Errors
    /// If no socket could be created.
    pub fn connect(
        &mut self,
        route: &Route,
        source: Option<SocketAddr>,
        whole: bool,
        peer: K::Peer,
    ) -> io::Result<Token> {
        self.core.connect(route, source, whole, peer)
    }

    /// Ends [`Shard::run`](super::Shard::run) after this tick.
    pub fn stop(&mut self) {
        self.core.stopping = true;
    }
}
