//! What a connection is made with: its bounds, its buffers, and what its handshake came to.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::heartbeat::Heartbeat;
use crate::buffer::{Budget, Lease, Pool};
use crate::connection::{Codecs, Compression, Config, Pings};
use crate::limits::{
    self, BUFFERS_KEPT_MAX, COMPRESSION_LEASE_BYTES, CONN_BUFFER_BYTES_DEFAULT, MEMORY_BUDGET_DEFAULT, Nanos,
    SPARE_BUFFERS_BYTES_MAX, SPARE_BUFFERS_MAX, SPARE_BUFFERS_TRIM_AFTER,
};
use crate::protocol::Role;
use crate::protocol::deflate::Agreement;

/// For what never comes; far enough from the largest number that times may be added to it.
const NEVER: Nanos = Nanos::MAX / 4;

/// What a connection is made with.
///
/// ```
/// use std::time::Duration;
/// use echoring::aio::{BufferPool, Heartbeat, Settings};
///
/// let buffers = BufferPool::new();
/// let settings = Settings {
///     message_bytes_max: 1 << 20,
///     buffers: Some(buffers.clone()),
///     heartbeat: Some(Heartbeat::every(Duration::from_secs(30))),
///     ..Settings::default()
/// };
/// assert_eq!(settings.read_buffer_bytes, 4096);
/// ```
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes that one read of the transport brings at most, unless it is in the middle of a longer frame: then up to
    /// 64 KiB. 0 means the default of 4,096.
    pub read_buffer_bytes: usize,
    /// Bytes of the fragments that a [`MessageWriter`](super::MessageWriter) sends, and of what a sink gathers before
    /// it sends. A streamed message of which 64 KiB were sent goes on in fragments of at least as much. Messages written
    /// whole leave in one frame whatever this is. 0 means the default of 4,096.
    pub write_buffer_bytes: usize,
    /// Where buffers come from; without, connections share what their thread keeps.
    pub buffers: Option<BufferPool>,
    /// Bytes of a message of the peer, at most: past it the peer is told 1009.
    pub message_bytes_max: u64,
    /// Bytes queued to the peer above which writing waits. Reading never does: what it queues is bounded by itself.
    pub queue_bytes: u32,
    /// From the first byte of a message to its last, the time included in which nobody reads; `None` for ever.
    pub message_timeout: Option<Duration>,
    /// From our Close frame to the end.
    pub close_timeout: Duration,
    /// Pings that the peer may send in a second before it is told 1008.
    pub pings_per_second_max: u32,
    /// With which effort, and from which length on, messages are compressed, when that was agreed on.
    pub compression: Option<Compression>,
    /// Whether, and how, the peer is asked for a sign of life.
    pub heartbeat: Option<Heartbeat>,
}

impl Default for Settings {
    /// Messages of up to 64 KiB, no heartbeat, no message timeout, 5 s to close.
    fn default() -> Settings {
        Settings {
            read_buffer_bytes: CONN_BUFFER_BYTES_DEFAULT,
            write_buffer_bytes: CONN_BUFFER_BYTES_DEFAULT,
            buffers: None,
            message_bytes_max: limits::MESSAGE_BYTES_DEFAULT,
            queue_bytes: limits::QUEUE_BYTES_DEFAULT,
            message_timeout: None,
            close_timeout: Duration::from_nanos(limits::CLOSE_TIMEOUT),
            pings_per_second_max: limits::PINGS_PER_SECOND_MAX,
            compression: None,
            heartbeat: None,
        }
    }
}

impl Settings {
    pub(super) fn config(&self) -> Config {
        Config {
            message_bytes_max: self.message_bytes_max.min(limits::MESSAGE_BYTES_MAX),
            queue_bytes: self.queue_bytes,
            reads_when_full: false,
            handshake_timeout: NEVER,
            message_timeout: self.message_timeout.map_or(NEVER, nanos),
            ping_interval: 0,
            pong_timeout: 0,
            close_timeout: nanos(self.close_timeout),
            // Whoever awaits a send decides how long.
            send_timeout: 0,
            pings_per_second_max: self.pings_per_second_max,
            pings: Pings::Answered,
            answers_closes: true,
            compression: self.compression,
            dial: None,
        }
    }
}

/// A duration on the connection's own clock.
pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(NEVER).min(NEVER)
}

/// What a handshake, done by whomever, came to.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Which end this is: only clients mask what they send.
    pub role: Role,
    /// The subprotocol that was agreed on.
    pub subprotocol: Option<String>,
    /// How messages are compressed, when that was agreed on.
    pub agreement: Option<Agreement>,
    /// What came behind the peer's head and was read with it: the first bytes of its frames.
    pub early: Bytes,
    /// This end's address, where the transport has one.
    pub local: Option<SocketAddr>,
    /// The peer's.
    pub peer: Option<SocketAddr>,
}

impl Opened {
    /// A connection of which nothing is known but which end this is.
    pub fn new(role: Role) -> Opened {
        Opened { role, subprotocol: None, agreement: None, early: Bytes::new(), local: None, peer: None }
    }
}

/// Buffers that connections share: one that is idle owns none. A connection takes a set of buffers when bytes arrive or
/// are to leave and gives it back when nothing of it is in use. Connections that keep a compression window from message
/// to message keep their set too.
///
/// Without a pool the connections of a thread share up to 16 sets that the thread keeps. A pool of its own is for
/// connections that move between threads, and for programs that want to know what is spare.
///
/// A clone is the same pool.
#[derive(Clone)]
pub struct BufferPool {
    kept: Arc<Mutex<Spare>>,
}

impl BufferPool {
    /// An empty pool: buffers are made when they are needed and no spare one is left.
    #[expect(clippy::new_without_default, reason = "a pool is shared on purpose, not by default")]
    pub fn new() -> BufferPool {
        BufferPool { kept: Arc::default() }
    }

    /// Sets of buffers that no connection is using now.
    pub fn spare(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self, compression: Option<Compression>) -> Option<Box<Tools>> {
        take_from(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner), compression)
    }

    fn put(&self, tools: Box<Tools>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT_MAX {
            kept.push(tools);
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("spare", &self.spare()).finish_non_exhaustive()
    }
}

/// All memory that a busy connection needs.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) pool: Pool,
    pub(super) codecs: Codecs,
    /// What the transport reads into. It grows with the reads, and stays so for the next.
    pub(super) input: Vec<u8>,
    /// The longest read since the tools were last trimmed.
    input_bytes: usize,
    /// How often they were put away since.
    put_away: u32,
}

/// Sets that nobody is using now. They go to and fro between here and connections, as pointers.
type Spare = Vec<Box<Tools>>;

thread_local! {
    /// Tools that no connection of this thread is using now.
    static SPARE: RefCell<Spare> = const { RefCell::new(Vec::new()) };
}

impl Tools {
    fn new(compression: Option<Compression>) -> Tools {
        let lease = Lease::new(Budget::new(MEMORY_BUDGET_DEFAULT), COMPRESSION_LEASE_BYTES);
        Tools {
            pool: Pool::standalone(),
            codecs: Codecs::new(compression, lease),
            input: Vec::new(),
            input_bytes: 0,
            put_away: 0,
        }
    }

    /// Room for a read of at most `bytes`.
    pub(super) fn input(&mut self, bytes: usize) -> &mut [u8] {
        self.input_bytes = self.input_bytes.max(bytes);
        if self.input.len() < bytes {
            self.input.resize(bytes, 0);
        }
        &mut self.input[..bytes]
    }

    /// Once in a while gives back what was not needed since the last time. Not each time: a connection that answers one
    /// long message after the other would allocate its buffers anew for each.
    fn trim(&mut self) {
        if self.pool.used_bytes() > SPARE_BUFFERS_BYTES_MAX {
            self.pool = Pool::standalone();
        }
        self.put_away += 1;
        if self.put_away < SPARE_BUFFERS_TRIM_AFTER {
            return;
        }
        self.pool.trim();
        self.input.truncate(self.input_bytes);
        self.input.shrink_to_fit();
        (self.input_bytes, self.put_away) = (0, 0);
    }

    /// Those of this thread.
    fn spare(compression: Option<Compression>) -> Option<Box<Tools>> {
        let take = |kept: &RefCell<Spare>| take_from(&mut kept.borrow_mut(), compression);
        SPARE.try_with(take).ok().flatten()
    }

    /// Leaves them for the next connection of this thread.
    fn leave(self: Box<Tools>) {
        // A thread that ends keeps nothing.
        let _ = SPARE.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < SPARE_BUFFERS_MAX {
                kept.push(self);
            }
        });
    }
}

/// The tools put away last of those for this compression: they are the ones still in cache.
fn take_from(kept: &mut Spare, compression: Option<Compression>) -> Option<Box<Tools>> {
    let at = kept.iter().rposition(|tools| tools.codecs.compression() == compression.as_ref())?;
    Some(kept.swap_remove(at))
}

/// Where a connection's [`Tools`] are.
#[derive(Debug)]
pub(super) struct Toolbox {
    tools: Option<Box<Tools>>,
    shared: Option<BufferPool>,
}

impl Toolbox {
    pub(super) fn new(shared: Option<BufferPool>) -> Toolbox {
        Toolbox { tools: None, shared }
    }

    pub(super) fn open(&mut self, compression: Option<Compression>) -> &mut Tools {
        let shared = &self.shared;
        self.tools.get_or_insert_with(|| {
            let spare = match shared {
                Some(shared) => shared.take(compression),
                None => Tools::spare(compression),
            };
            spare.unwrap_or_else(|| Box::new(Tools::new(compression)))
        })
    }

    /// What is open now.
    #[cfg(test)]
    pub(super) fn tools(&self) -> Option<&Tools> {
        self.tools.as_deref()
    }

    /// Nothing of the tools is in use: they go back where others find them.
    pub(super) fn put_away(&mut self) {
        let Some(mut tools) = self.tools.take() else { return };
        tools.trim();
        match &self.shared {
            Some(shared) => shared.put(tools),
            None => tools.leave(),
        }
    }
}
