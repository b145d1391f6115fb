//! What the halves of a connection share: the state machine, the transport, and what lies between them.
//!
//! It is locked only inside of poll functions and of calls that do not wait; handlers run outside of the lock.
//! `receiving` and `sending` are its two directions.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::{End, Error};
use super::heartbeat::Pulse;
use super::receiving::Incoming;
use super::sending::Writing;
use super::settings::{Opened, Settings, Toolbox, nanos};
use super::waking::Waiting;
use crate::aio::handshake;
use crate::buffer::Buffer;
use crate::connection::{CloseFrame, Config, Connection, Delivery, Entropy, Env, Fate, Seed};
use crate::limits::{CONN_BUFFER_BYTES_DEFAULT, MESSAGE_BYTES_MAX, Nanos};
use crate::protocol::{CloseCode, Role};

/// A transport that a connection runs over.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Transport for S {}

/// A connection, for all who hold a part of it.
pub(super) struct Shared<S> {
    core: Mutex<Core<S>>,
    waiting: Arc<Waiting>,
    /// What the transport is given: wakes all that wait for it.
    waker: Waker,
    pub(super) opened: Opened,
    pub(super) write_buffer_bytes: usize,
}

impl<S> Shared<S> {
    pub(super) fn new(stream: S, settings: &Settings, mut opened: Opened) -> Arc<Shared<S>> {
        let early = std::mem::take(&mut opened.early);
        let core = Core::new(stream, settings, &opened, &early);
        let waiting = Waiting::new();
        let waker = Waker::from(Arc::clone(&waiting));
        let write_buffer_bytes = or_default(settings.write_buffer_bytes);
        Arc::new(Shared { core: Mutex::new(core), waiting, waker, opened, write_buffer_bytes })
    }

    /// Polls as the one in `place`, who waits `for_transport` when nothing comes of it.
    pub(super) fn poll<R>(
        &self,
        place: usize,
        for_transport: bool,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Core<S>, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        let mut core = self.lock();
        self.waiting.wait(place, cx.waker(), for_transport);
        let polled = poll(&mut core, &mut Context::from_waker(&self.waker));
        let changed = std::mem::take(&mut core.changed);
        drop(core);
        if polled.is_ready() {
            self.waiting.stop(place);
        }
        if changed {
            self.waiting.wake_others(place);
        }
        polled
    }

    /// Does something that nobody waits for; those who wait may find that it concerns them.
    pub(super) fn act<R>(&self, act: impl FnOnce(&mut Core<S>) -> R) -> R {
        let mut core = self.lock();
        let done = act(&mut core);
        let changed = std::mem::take(&mut core.changed);
        drop(core);
        if changed {
            self.waiting.wake_others(usize::MAX);
        }
        done
    }

    /// A place to wait in, until it is dropped.
    pub(super) fn enter(&self) -> Guest {
        Guest { place: self.waiting.enter(), waiting: Arc::clone(&self.waiting) }
    }

    fn lock(&self) -> MutexGuard<'_, Core<S>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who is neither the reader nor the writer.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) place: usize,
    waiting: Arc<Waiting>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.waiting.leave(self.place);
    }
}

/// The connection itself.
pub(super) struct Core<S> {
    pub(super) stream: S,
    pub(super) connection: Connection,
    pub(super) config: Config,
    pub(super) role: Role,
    pub(super) toolbox: Toolbox,
    entropy: Entropy,
    epoch: Instant,
    /// The time of the present call.
    pub(super) now: Instant,
    pub(super) pulse: Option<Pulse>,

    // Reading.
    pub(super) read_buffer_bytes: usize,
    /// What was received and not looked at, in the toolbox's input.
    pub(super) unread: Range<usize>,
    pub(super) incoming: Incoming,
    pub(super) eof: bool,
    pub(super) read_deadline: Option<Instant>,
    pub(super) read_timer: Timer,
    pub(super) shows_pongs: bool,

    // Writing.
    /// What the transport has taken a part of.
    pub(super) sending: Option<Buffer>,
    /// The transport has taken bytes since it was last flushed.
    pub(super) unflushed: bool,
    /// Writing has failed; reading goes on, for the peer may have said why.
    pub(super) write_end: Option<End>,
    pub(super) writing: Writing,
    pub(super) compresses: bool,
    pub(super) write_deadline: Option<Instant>,
    pub(super) write_timer: Timer,

    // The end.
    /// The peer's Close frame waits for a handler's answer.
    pub(super) unanswered: Option<CloseFrame>,
    /// What was queued has been dropped by a Close frame that overtook it.
    pub(super) overtaken: bool,
    pub(super) fate: Option<Fate>,
    pub(super) end: Option<End>,
    /// Something happened that others may wait for.
    pub(super) changed: bool,
}

impl<S> Core<S> {
    fn new(stream: S, settings: &Settings, opened: &Opened, early: &[u8]) -> Core<S> {
        let mut config = settings.config();
        if opened.agreement.is_some() {
            config.compression.get_or_insert_default();
        }
        // A second behind the epoch: on the machine's clock 0 stands for no time at all.
        let now = Instant::now();
        let epoch = now.checked_sub(std::time::Duration::from_secs(1)).unwrap_or(now);
        let mut toolbox = Toolbox::new(settings.buffers.clone());
        let mut entropy = Entropy::new(Seed::Source(handshake::seed));
        let tools = toolbox.open(config.compression);
        let mut env = Env {
            pool: &mut tools.pool,
            codecs: &mut tools.codecs,
            config: &config,
            now: nanos(now - epoch),
            entropy: &mut entropy,
        };
        let made = Connection::opened(opened.role, opened.agreement, Delivery::Chunks, &mut env);
        let (connection, end) = match made {
            Ok(connection) => (connection, None),
            Err(_) => (Connection::server(&env), Some(End::OutOfMemory)),
        };
        let read_buffer_bytes = or_default(settings.read_buffer_bytes);
        if !early.is_empty() {
            tools.input(early.len()).copy_from_slice(early);
        }
        let mut core = Core {
            stream,
            connection,
            config,
            role: opened.role,
            toolbox,
            entropy,
            epoch,
            now,
            pulse: settings.heartbeat.clone().map(|heartbeat| Pulse::new(heartbeat, now)),
            read_buffer_bytes,
            unread: 0..early.len(),
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
            write_timer: Timer::default(),
            unanswered: None,
            overtaken: false,
            fate: None,
            end,
            changed: false,
        };
        core.put_tools_away();
        core
    }

    /// Lends the state machine what it needs.
    pub(super) fn with<R>(
        &mut self,
        act: impl FnOnce(&mut Connection, &mut Env<'_>, &mut [u8], &mut Incoming) -> R,
    ) -> R {
        let now = self.nanos();
        let tools = self.toolbox.open(self.config.compression);
        let mut env = Env {
            pool: &mut tools.pool,
            codecs: &mut tools.codecs,
            config: &self.config,
            now,
            entropy: &mut self.entropy,
        };
        let unread = self.unread.clone();
        let unread = tools.input.get_mut(unread).unwrap_or_default();
        act(&mut self.connection, &mut env, unread, &mut self.incoming)
    }

    /// Looks at the clock.
    pub(super) fn look_at_clock(&mut self) {
        self.now = Instant::now();
    }

    fn nanos(&self) -> Nanos {
        nanos(self.now.saturating_duration_since(self.epoch))
    }

    /// When the state machine wants to be told that time has passed.
    pub(super) fn machine_deadline(&self) -> Option<Instant> {
        let at = self.connection.deadline(&self.config);
        (at < Nanos::MAX / 8).then(|| self.epoch + std::time::Duration::from_nanos(at))
    }

    /// Begins to close, if that has not been begun: behind the data that is queued, or in front of it. Returns the
    /// bytes dropped.
    pub(super) fn begin_close(&mut self, code: CloseCode, reason: &str, overtaking: bool) -> u32 {
        if !self.connection.is_open() || self.end.is_some() {
            return 0;
        }
        self.look_at_clock();
        self.changed = true;
        let dropped = self.with(|connection, env, _, _| {
            if overtaking {
                connection.close_overtaking(code, reason, env)
            } else {
                connection.close(code, reason, env);
                0
            }
        });
        self.overtaken |= dropped > 0;
        dropped
    }

    /// Why nothing can be written, if so.
    pub(super) fn write_error(&self) -> Option<Error> {
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
        self.config.message_bytes_max = bytes.min(MESSAGE_BYTES_MAX);
    }

    /// When nothing of them is in use, buffers go where others find them.
    pub(super) fn put_tools_away(&mut self) {
        if self.unread.is_empty() && self.sending.is_none() && !self.connection.owns_memory() {
            self.toolbox.put_away();
        }
    }
}

impl<S> Drop for Core<S> {
    fn drop(&mut self) {
        let tools = self.toolbox.open(self.config.compression);
        if let Some(buffer) = self.sending.take() {
            tools.pool.put(buffer);
        }
        self.connection.release(&mut tools.pool, &mut tools.codecs);
        self.toolbox.put_away();
    }
}

/// A deadline that may move. Moving it later costs nothing until the earlier one has passed.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready at `at`, or earlier: whoever asks looks at the clock.
    pub(super) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at || sleep.is_elapsed() {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

/// Buffer sizes of 0 stand for the default.
fn or_default(bytes: usize) -> usize {
    if bytes == 0 { CONN_BUFFER_BYTES_DEFAULT } else { bytes }
}
