//! The state that all handles of a connection share: the state machine, the transport, and the buffers between them.
//!
//! It is locked only inside poll functions and calls that do not wait; handlers run outside the lock. `receiving` and
//! `sending` implement the two directions.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::buffers::BufferSlot;
use super::error::{End, Error};
use super::heartbeat::HeartbeatTimer;
use super::incoming::Incoming;
use super::origin::{Head, Origin};
use super::outgoing::Outgoing;
use super::sending::Writing;
use super::settings::{Opened, Settings, nanos};
use super::trace::Trace;
use super::waiters::{CommonWaker, Waiters};
use crate::limits::CONN_BUFFER_BYTES_DEFAULT;
use echoring_proto::connection::{
    CloseFrame, CloseMode, Connection, ConnectionConfig, Delivery, Entropy, Env, Seed, TransportAction,
};
use echoring_proto::limits::{MESSAGE_BYTES_MAX, Nanos};
use echoring_proto::{CloseCode, Role};

/// A stream that a connection runs over.
///
/// ```
/// use echoring::{Conn, Error, Transport};
///
/// /// Over TCP, TLS, a Unix socket, or in memory.
/// async fn greet<S: Transport>(conn: &mut Conn<S>) -> Result<(), Error> {
///     conn.write("welcome").await
/// }
/// ```
pub trait Transport: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Transport for S {}

/// A connection, shared by all its handles.
pub(super) struct Shared<S> {
    core: Mutex<Core<S>>,
    /// Passed to the transport while several tasks wait for it.
    common: OnceLock<(Arc<CommonWaker>, Waker)>,
    pub(super) opened: Opened,
    /// The peer's head of the handshake, if it was kept.
    pub(super) head: Option<Box<Head>>,
    pub(super) write_buffer_bytes: usize,
}

impl<S> Shared<S> {
    pub(super) fn new(
        stream: S,
        settings: &Settings,
        mut opened: Opened,
        Origin { head, trace }: Origin,
    ) -> Arc<Shared<S>> {
        let early = std::mem::take(&mut opened.early);
        trace.opened(&opened);
        let core = Mutex::new(Core::new(stream, settings, &opened, &early, trace));
        let write_buffer_bytes = or_default(settings.write_buffer_bytes);
        Arc::new(Shared { core, common: OnceLock::new(), opened, head, write_buffer_bytes })
    }

    /// Polls as the waiter `place`. If the result is pending, the task waits, and `for_transport` says whether for the
    /// transport.
    #[inline]
    pub(super) fn poll<R>(
        &self,
        place: usize,
        for_transport: bool,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Core<S>, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        let mut core = self.lock();
        if for_transport && core.waiters.has_competitor(place, cx.waker()) {
            return self.poll_shared(core, place, cx.waker(), poll);
        }
        let polled = poll(&mut core, cx);
        self.end_lone_poll(core, place, for_transport, polled.is_ready(), cx.waker());
        polled
    }

    /// Unlocks after a poll with the waiter's own waker. It waits from now on unless it is ready: under the lock nothing else
    /// happens between the poll and this.
    #[inline(always)]
    pub(super) fn end_lone_poll(
        &self,
        mut core: MutexGuard<'_, Core<S>>,
        place: usize,
        for_transport: bool,
        is_ready: bool,
        waker: &Waker,
    ) {
        let replaced = if is_ready { None } else { core.waiters.wait(place, waker, for_transport) };
        self.end_poll(core, place, is_ready, waker);
        drop(replaced);
    }

    /// A poll beside other tasks that wait for the transport.
    #[inline(never)]
    pub(super) fn poll_shared<R>(
        &self,
        mut core: MutexGuard<'_, Core<S>>,
        place: usize,
        own_waker: &Waker,
        poll: impl FnOnce(&mut Core<S>, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        // Waits before the transport is polled, which may use the common waker at once.
        let before = core.waiters.wait(place, own_waker, true);
        let (common, waker) = self.common.get_or_init(|| {
            let common = Arc::<CommonWaker>::default();
            (Arc::clone(&common), Waker::from(common))
        });
        let replaced = core.waiters.share(place, common);
        let polled = poll(&mut core, &mut Context::from_waker(waker));
        self.end_poll(core, place, polled.is_ready(), waker);
        drop((before, replaced));
        polled
    }

    /// Unlocks after a poll as the waiter `place`. A task that is ready no longer waits; one that only yields to other
    /// tasks is woken at once.
    #[inline(always)]
    fn end_poll(&self, mut core: MutexGuard<'_, Core<S>>, place: usize, is_ready: bool, waker: &Waker) {
        let yields = std::mem::take(&mut core.yields);
        if is_ready {
            let was_shared = core.waiters.stop(place);
            self.unlock(core, place);
            if was_shared {
                self.disarm(place);
            }
            return;
        }
        self.unlock(core, place);
        if yields {
            waker.wake_by_ref();
        }
    }

    /// The waiter `place`, which no longer waits, is not woken by the common waker.
    #[cold]
    fn disarm(&self, place: usize) {
        if let Some((common, _)) = self.common.get() {
            common.disarm(place);
        }
    }

    /// Runs `update`; waiting tasks are woken if it changed the connection.
    #[inline]
    pub(super) fn update<R>(&self, update: impl FnOnce(&mut Core<S>) -> R) -> R {
        let mut core = self.lock();
        let done = update(&mut core);
        self.unlock(core, usize::MAX);
        done
    }

    /// Unlocks, and wakes all waiters except `place` if the connection changed.
    #[inline]
    pub(super) fn unlock(&self, mut core: MutexGuard<'_, Core<S>>, place: usize) {
        if std::mem::take(&mut core.changed) && core.waiters.has_others(place) {
            Shared::wake_others(core, place);
        }
    }

    #[inline(never)]
    fn wake_others(mut core: MutexGuard<'_, Core<S>>, place: usize) {
        let wakers = core.waiters.take_others(place);
        drop(core);
        wakers.wake();
    }

    /// The connection itself, if there is no other handle.
    pub(super) fn into_core(self: Arc<Self>) -> Result<Core<S>, Arc<Shared<S>>> {
        Arc::try_unwrap(self).map(|shared| shared.core.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a waiter that is neither the reader nor the writer, until the guard is dropped. The guard does not keep the
    /// connection alive.
    pub(super) fn enter(self: &Arc<Self>) -> WaiterGuard<S> {
        WaiterGuard { place: self.lock().waiters.enter(), shared: Arc::downgrade(self) }
    }

    fn leave(&self, place: usize) {
        let left = self.lock().waiters.leave(place);
        let forgotten = self.common.get().and_then(|(common, _)| common.forget(place));
        drop((left, forgotten));
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core<S>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiter that is neither the reader nor the writer.
#[derive(Debug)]
pub(super) struct WaiterGuard<S> {
    pub(super) place: usize,
    shared: Weak<Shared<S>>,
}

impl<S> Drop for WaiterGuard<S> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.leave(self.place);
        }
    }
}

/// The connection itself.
pub(super) struct Core<S> {
    pub(super) waiters: Waiters,
    pub(super) stream: Option<S>,
    pub(super) connection: Connection,
    pub(super) config: ConnectionConfig,
    pub(super) role: Role,
    pub(super) buffer_slot: BufferSlot,
    entropy: Entropy,
    epoch: Instant,
    /// The time when something last asked for it: most calls do not.
    pub(super) now: Instant,
    pub(super) now_ns: Nanos,
    pub(super) heartbeat_timer: Option<HeartbeatTimer>,

    // Reading.
    /// Number of bytes that the next read may take, and its minimum.
    pub(super) read_bytes: usize,
    pub(super) read_bytes_min: usize,
    /// Number of reads in a row that took much less.
    pub(super) short_reads: u8,
    /// Number of reads since queued frames were sent.
    pub(super) reads_since_flush: u8,
    /// Bytes that were inflated since other tasks had their turn.
    pub(super) inflated_bytes: usize,
    /// Other tasks have their turn now; this one continues then.
    pub(super) yields: bool,
    pub(super) incoming: Incoming,
    pub(super) eof: bool,
    pub(super) read_deadline: Option<Instant>,
    pub(super) read_timer: Timer,
    pub(super) shows_pongs: bool,

    // Writing.
    /// The frames that are sent next, or that the transport has accepted in part.
    pub(super) sending: Option<Outgoing>,
    /// Bytes were written to the transport since the last flush.
    pub(super) unflushed: bool,
    /// Writing has failed; reading continues, because the peer may have sent the reason.
    pub(super) write_end: Option<End>,
    pub(super) writing: Writing,
    pub(super) compresses: bool,
    pub(super) write_deadline: Option<Instant>,
    pub(super) write_timeout: Option<Duration>,
    /// When the transport stopped accepting, if it has accepted no frame since.
    pub(super) blocked_since: Option<Instant>,
    pub(super) write_timer: Timer,

    // The end.
    /// The peer's Close frame that a handler has to answer.
    pub(super) unanswered: Option<CloseFrame>,
    /// Queued data was dropped because a Close frame overtook it.
    pub(super) overtaken: bool,
    /// Bytes that were queued and dropped, for whatever reason.
    pub(super) dropped_bytes: u64,
    pub(super) fate: Option<TransportAction>,
    pub(super) end: Option<End>,
    /// The state changed, so other tasks must be woken.
    pub(super) changed: bool,
    pub(super) trace: Trace,
}

impl<S> Core<S> {
    fn new(stream: S, settings: &Settings, opened: &Opened, early: &[u8], trace: Trace) -> Core<S> {
        let mut config = settings.config();
        if opened.agreement.is_some() {
            config.compression.get_or_insert_default();
        }
        // One second after the epoch, because the state machine reads a time of 0 as "none".
        let now = Instant::now();
        let epoch = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let now_ns = nanos(now - epoch);
        let mut buffer_slot = BufferSlot::new(settings.buffers.clone());
        let mut entropy = Entropy::new(Seed::System);
        let buffers = buffer_slot.open(&config);
        buffers.set_input(early);
        let (pool, codecs) = (&mut buffers.pool, &mut buffers.codecs);
        let env = Env { pool, codecs, config: &config, now: now_ns, entropy: &mut entropy };
        let (connection, end) = connection(opened, env);
        let read_buffer_bytes = or_default(settings.read_buffer_bytes);
        let mut core = Core {
            waiters: Waiters::default(),
            stream: Some(stream),
            connection,
            config,
            role: opened.role,
            buffer_slot,
            entropy,
            epoch,
            now,
            now_ns,
            heartbeat_timer: settings.heartbeat.clone().map(|heartbeat| HeartbeatTimer::new(heartbeat, now)),
            read_bytes: read_buffer_bytes,
            read_bytes_min: read_buffer_bytes,
            short_reads: 0,
            reads_since_flush: 0,
            inflated_bytes: 0,
            yields: false,
            incoming: Incoming::default(),
            eof: false,
            read_deadline: None,
            read_timer: Timer::default(),
            shows_pongs: false,
            sending: None,
            unflushed: false,
            write_end: None,
            writing: Writing::Between,
            compresses: true,
            write_deadline: None,
            write_timeout: settings.write_timeout,
            blocked_since: None,
            write_timer: Timer::default(),
            unanswered: None,
            overtaken: false,
            dropped_bytes: 0,
            fate: None,
            end,
            changed: false,
            trace,
        };
        core.release_buffers();
        core
    }

    /// Calls `update` with the state machine and its environment. Whatever depends on the time
    /// [updates](Core::update_clock) it first.
    #[inline]
    pub(super) fn with<R>(
        &mut self,
        update: impl FnOnce(&mut Connection, &mut Env<'_>, &mut [u8]) -> R,
    ) -> R {
        let buffers = self.buffer_slot.open(&self.config);
        let mut env = Env {
            pool: &mut buffers.pool,
            codecs: &mut buffers.codecs,
            config: &self.config,
            now: self.now_ns,
            entropy: &mut self.entropy,
        };
        update(&mut self.connection, &mut env, &mut buffers.input)
    }

    /// Updates the current time.
    pub(super) fn update_clock(&mut self) {
        self.now = Instant::now();
        self.now_ns = nanos(self.now.saturating_duration_since(self.epoch));
    }

    /// The next deadline of the state machine.
    pub(super) fn machine_deadline(&self) -> Option<Instant> {
        let at = self.connection.deadline(&self.config);
        (at < Nanos::MAX / 8).then(|| self.epoch + Duration::from_nanos(at))
    }

    /// Begins to close, unless that was done already: behind the queued data, or ahead of it. Returns the number of
    /// bytes dropped.
    pub(super) fn begin_close(&mut self, code: CloseCode, reason: &str, overtaking: bool) -> u32 {
        if !self.connection.is_open() || self.end.is_some() {
            return 0;
        }
        self.update_clock();
        self.changed = true;
        let dropped = if overtaking { self.drop_unbegun() } else { 0 };
        let dropped = self.with(|connection, env, _| {
            if overtaking {
                dropped + connection.close(code, reason, CloseMode::DropQueued, env)
            } else {
                connection.close(code, reason, CloseMode::Graceful, env);
                0
            }
        });
        self.overtaken |= dropped > 0;
        self.dropped_bytes += u64::from(dropped);
        dropped
    }

    /// The error of a write, if nothing can be written.
    #[inline]
    pub(super) fn write_error(&self) -> Option<Error> {
        if self.is_writable() { None } else { self.error_of_writes() }
    }

    /// Whether messages can be written.
    #[inline]
    pub(super) fn is_writable(&self) -> bool {
        self.connection.is_open() && self.write_end.is_none() && self.end.is_none()
    }

    #[cold]
    fn error_of_writes(&self) -> Option<Error> {
        if let Some(end) = self.end.as_ref().or(self.write_end.as_ref()) {
            return Some(end.error());
        }
        if self.connection.is_open() {
            return None;
        }
        let said = self.connection.closed().and_then(|closed| closed.peer_close.clone());
        Some(said.map_or(Error::Closing, Error::Closed))
    }

    pub(super) fn set_read_limit(&mut self, bytes: u64) {
        self.config.max_message = bytes.min(MESSAGE_BYTES_MAX);
    }

    /// Drops a message that is sent from where it lies and that the transport has not begun to accept, and what is in front
    /// of it. Returns the number of bytes.
    fn drop_unbegun(&mut self) -> u32 {
        let Some(outgoing) = self.sending.take_if(|outgoing| !outgoing.is_begun()) else { return 0 };
        let bytes = outgoing.len() as u32;
        let buffer = outgoing.into_buffer();
        self.with(|connection, env, _| {
            connection.unblocked(env.now);
            if let Some(buffer) = buffer {
                env.pool.put(buffer);
            }
        });
        bytes
    }

    /// The transport, and the bytes that were received and not parsed.
    pub(super) fn into_stream(mut self) -> (S, Bytes) {
        let buffers = self.buffer_slot.buffers().filter(|buffers| !buffers.input.is_empty());
        let unread = buffers.map_or_else(Bytes::new, |buffers| buffers.input.split().freeze());
        let Some(stream) = self.stream.take() else { unreachable!("it is taken here only") };
        (stream, unread)
    }

    /// Releases the buffer set if none of it is in use.
    #[inline]
    pub(super) fn release_buffers(&mut self) {
        if self.buffer_slot.has_input() {
            return;
        }
        if self.incoming.kept_bytes() > 0 {
            self.settle_unfinished();
        }
        if self.sending.is_none() && !self.connection.owns_memory() {
            self.buffer_slot.release();
        }
    }

    /// Keeps the memory of an unfinished message with the message, or copies its bytes if they are few.
    #[inline(never)]
    fn settle_unfinished(&mut self) {
        if self.incoming.compact_if_small() {
            return;
        }
        if let Some(buffers) = self.buffer_slot.buffers()
            && self.incoming.lies_before(&buffers.input)
        {
            self.incoming.join_room(buffers.swap_input());
        }
    }
}

/// The state machine of an upgraded connection, which has ended if there is no memory for its codecs.
fn connection(opened: &Opened, mut env: Env<'_>) -> (Connection, Option<End>) {
    match Connection::opened(opened.role, opened.agreement, Delivery::Chunks, &mut env) {
        Ok(connection) => (connection, None),
        Err(_) => (Connection::server(&env), Some(End::OutOfMemory)),
    }
}

/// The transport, which [`Core::into_stream`] takes together with its core.
#[inline]
pub(super) fn stream_of<S>(stream: &mut Option<S>) -> &mut S {
    stream.as_mut().unwrap_or_else(|| unreachable!("it is taken with the last handle"))
}

impl<S> Drop for Core<S> {
    fn drop(&mut self) {
        let buffers = self.buffer_slot.open(&self.config);
        if let Some(buffer) = self.sending.take().and_then(Outgoing::into_buffer) {
            buffers.pool.put(buffer);
        }
        self.connection.release(&mut buffers.pool, &mut buffers.codecs);
        self.buffer_slot.release();
    }
}

/// A deadline that may move. Moving it to a later time costs nothing until the earlier one has passed.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready at `at`, or earlier: callers compare the time themselves.
    pub(super) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at || sleep.is_elapsed() {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

/// Replaces a buffer size of 0 by the default.
fn or_default(bytes: usize) -> usize {
    if bytes == 0 { CONN_BUFFER_BYTES_DEFAULT } else { bytes }
}
