//! Settings of a connection, the result of its handshake, and its buffers.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::heartbeat::Heartbeat;
use crate::limits::{
    BUFFERS_KEPT_MAX, CONN_BUFFER_BYTES_DEFAULT, SPARE_BUFFERS_BYTES_MAX, SPARE_BUFFERS_MAX,
    SPARE_BUFFERS_TRIM_AFTER,
};
use echoring_proto::Role;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{Codecs, Compression, ConnectionConfig, Pings};
use echoring_proto::deflate::Agreement;
use echoring_proto::limits;
use echoring_proto::limits::{COMPRESSION_LEASE_BYTES, MEMORY_BUDGET_DEFAULT, Nanos};

/// A time that never comes, far enough from the maximum that times may be added to it.
const NEVER: Nanos = Nanos::MAX / 4;

/// Settings of a connection.
///
/// ```
/// use std::time::Duration;
/// use echoring::{BufferPool, Heartbeat, Settings};
///
/// let buffers = BufferPool::new();
/// let settings = Settings::default()
///     .message_bytes_max(1 << 20)
///     .buffers(buffers.clone())
///     .heartbeat(Heartbeat::every(Duration::from_secs(30)));
/// assert_eq!(settings.read_buffer_bytes, 4096);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Number of bytes per read of the transport at first. It grows with what the peer sends, up to 68 KiB, and shrinks again.
    /// 0 means the default of 4,096.
    pub read_buffer_bytes: usize,
    /// Size in bytes of the fragments that a [`MessageWriter`](super::MessageWriter) sends, and of the buffer of a
    /// sink. After 64 KiB of a streamed message its fragments are larger. Messages that are written whole are sent as
    /// one frame regardless. 0 means the default of 4,096.
    pub write_buffer_bytes: usize,
    /// The pool of buffers; without one, the connections of a thread share buffers.
    pub buffers: Option<BufferPool>,
    /// Maximum size of a received message in bytes; a longer one closes the connection with 1009.
    pub message_bytes_max: u64,
    /// Bytes queued to the peer above which writing waits. Reading never waits: what it queues is bounded separately.
    pub queue_bytes: u32,
    /// Time limit from the first byte of a message to its last, including time in which nobody reads; `None` for no
    /// limit.
    pub message_timeout: Option<Duration>,
    /// Time limit for the transport to accept a frame, or several that leave together, since it accepted no more; `None` for no limit.
    /// So no write, flush, ping or close waits longer for a peer that does not read, and no pong or heartbeat stays queued while the
    /// connection is read. The peer may have got a frame in part, so the connection has ended then: that call and all later ones,
    /// reads too, return [`Error::SendTimeout`](super::Error::SendTimeout). A long message takes its time: 64 MB at 1 MB/s more than a
    /// minute.
    ///
    /// A [deadline](super::Writer::set_write_deadline) leaves the connection as it is instead, and the message queued.
    pub write_timeout: Option<Duration>,
    /// Time limit from our Close frame to the end.
    pub close_timeout: Duration,
    /// Maximum number of pings per second from the peer; more close the connection with 1008.
    pub pings_per_second_max: u32,
    /// Compression level and threshold of outgoing messages, if compression was negotiated.
    pub compression: Option<Compression>,
    /// The heartbeat, if any.
    pub heartbeat: Option<Heartbeat>,
}

impl Default for Settings {
    /// Messages of up to 64 KiB, no heartbeat, no message timeout, no write timeout, 5 s to close.
    fn default() -> Settings {
        Settings {
            read_buffer_bytes: CONN_BUFFER_BYTES_DEFAULT,
            write_buffer_bytes: CONN_BUFFER_BYTES_DEFAULT,
            buffers: None,
            message_bytes_max: limits::MESSAGE_BYTES_DEFAULT,
            queue_bytes: limits::QUEUE_BYTES_DEFAULT,
            message_timeout: None,
            write_timeout: None,
            close_timeout: Duration::from_nanos(limits::CLOSE_TIMEOUT),
            pings_per_second_max: limits::PINGS_PER_SECOND_MAX,
            compression: None,
            heartbeat: None,
        }
    }
}

impl Settings {
    /// Sets [`read_buffer_bytes`](#structfield.read_buffer_bytes).
    #[must_use]
    pub fn read_buffer_bytes(self, bytes: usize) -> Settings {
        Settings { read_buffer_bytes: bytes, ..self }
    }

    /// Sets [`write_buffer_bytes`](#structfield.write_buffer_bytes).
    #[must_use]
    pub fn write_buffer_bytes(self, bytes: usize) -> Settings {
        Settings { write_buffer_bytes: bytes, ..self }
    }

    /// Sets [`buffers`](#structfield.buffers).
    #[must_use]
    pub fn buffers(self, buffers: impl Into<Option<BufferPool>>) -> Settings {
        Settings { buffers: buffers.into(), ..self }
    }

    /// Sets [`message_bytes_max`](#structfield.message_bytes_max).
    #[must_use]
    pub fn message_bytes_max(self, bytes: u64) -> Settings {
        Settings { message_bytes_max: bytes, ..self }
    }

    /// Sets [`queue_bytes`](#structfield.queue_bytes).
    #[must_use]
    pub fn queue_bytes(self, bytes: u32) -> Settings {
        Settings { queue_bytes: bytes, ..self }
    }

    /// Sets [`message_timeout`](#structfield.message_timeout).
    #[must_use]
    pub fn message_timeout(self, timeout: impl Into<Option<Duration>>) -> Settings {
        Settings { message_timeout: timeout.into(), ..self }
    }

    /// Sets [`write_timeout`](#structfield.write_timeout).
    #[must_use]
    pub fn write_timeout(self, timeout: impl Into<Option<Duration>>) -> Settings {
        Settings { write_timeout: timeout.into(), ..self }
    }

    /// Sets [`close_timeout`](#structfield.close_timeout).
    #[must_use]
    pub fn close_timeout(self, timeout: Duration) -> Settings {
        Settings { close_timeout: timeout, ..self }
    }

    /// Sets [`pings_per_second_max`](#structfield.pings_per_second_max).
    #[must_use]
    pub fn pings_per_second_max(self, pings: u32) -> Settings {
        Settings { pings_per_second_max: pings, ..self }
    }

    /// Sets [`compression`](#structfield.compression).
    #[must_use]
    pub fn compression(self, compression: impl Into<Option<Compression>>) -> Settings {
        Settings { compression: compression.into(), ..self }
    }

    /// Sets [`heartbeat`](#structfield.heartbeat).
    #[must_use]
    pub fn heartbeat(self, heartbeat: impl Into<Option<Heartbeat>>) -> Settings {
        Settings { heartbeat: heartbeat.into(), ..self }
    }

    pub(super) fn config(&self) -> ConnectionConfig {
        ConnectionConfig {
            // Nothing is read here before the handshake is over.
            head_bytes_max: limits::HEAD_BYTES_DEFAULT,
            message_bytes_max: self.message_bytes_max.min(limits::MESSAGE_BYTES_MAX),
            queue_bytes: self.queue_bytes,
            reads_when_full: false,
            handshake_timeout: NEVER,
            message_timeout: self.message_timeout.map_or(NEVER, nanos),
            ping_interval: 0,
            pong_timeout: 0,
            close_timeout: nanos(self.close_timeout),
            // The tasks that wait look after it.
            send_timeout: 0,
            pings_per_second_max: self.pings_per_second_max,
            pings: Pings::Answered,
            answers_closes: true,
            compression: self.compression,
            dial: None,
        }
    }
}

/// A duration in nanoseconds.
pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(NEVER).min(NEVER)
}

/// The result of a handshake, whoever performed it.
///
/// ```
/// use echoring::{Conn, Opened, Role, Settings};
///
/// // A protocol of the program's own has opened the stream, and has received the first bytes of a frame.
/// let (stream, _far) = tokio::io::duplex(1024);
/// let mut opened = Opened::new(Role::Server);
/// opened.subprotocol = Some("chat".to_owned());
/// opened.early = bytes::Bytes::from_static(b"\x81");
/// let conn = Conn::new(stream, &Settings::default(), opened);
/// assert_eq!(conn.subprotocol(), Some("chat"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The local role: only clients mask their frames.
    pub role: Role,
    /// The negotiated subprotocol.
    pub subprotocol: Option<String>,
    /// The negotiated compression, if any.
    pub agreement: Option<Agreement>,
    /// Bytes that were read behind the peer's head: the beginning of its frames.
    pub early: Bytes,
    /// The local address, if the transport has one.
    pub local: Option<SocketAddr>,
    /// The peer's address, if the transport has one.
    pub peer: Option<SocketAddr>,
}

impl Opened {
    /// A connection of which only the role is known.
    pub fn new(role: Role) -> Opened {
        Opened { role, subprotocol: None, agreement: None, early: Bytes::new(), local: None, peer: None }
    }
}

/// Buffers that connections share: an idle connection owns none. A connection takes a set of buffers when bytes arrive
/// or are to be sent, and returns it once none of it is in use. Connections with context takeover keep their set.
///
/// Without a pool, the connections of a thread share up to 16 sets that the thread keeps. Use a pool for connections
/// that move between threads, or to know the number of spare sets.
///
/// Clones share the pool.
///
/// ```
/// use echoring::{BufferPool, Upgrader};
///
/// let buffers = BufferPool::new();
/// let upgrader = Upgrader::new().buffers(buffers.clone());
/// assert_eq!(buffers.spare(), 0);
/// # drop(upgrader);
/// ```
#[derive(Clone)]
pub struct BufferPool {
    kept: Arc<Mutex<Spare>>,
}

impl BufferPool {
    /// An empty pool: a buffer set is created when one is needed and none is spare.
    #[expect(clippy::new_without_default, reason = "a pool is shared on purpose, not by default")]
    pub fn new() -> BufferPool {
        BufferPool { kept: Arc::default() }
    }

    /// The number of buffer sets that no connection is using.
    pub fn spare(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self, compression: Option<Compression>) -> Option<Box<BufferSet>> {
        take_spare(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner), compression)
    }

    fn put(&self, buffers: Box<BufferSet>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT_MAX {
            kept.push(buffers);
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("spare", &self.spare()).finish_non_exhaustive()
    }
}

/// All buffers of a busy connection.
#[derive(Debug)]
pub(super) struct BufferSet {
    pub(super) pool: Pool,
    pub(super) codecs: Codecs,
    /// Spare memory to read into. It may still be shared with a message that was received in it.
    region: BytesMut,
    /// The longest read since the last trim.
    region_bytes: usize,
    /// How often the set was released since the last trim.
    release: u32,
}

/// Spare buffer sets. Boxed, so that only pointers move.
type Spare = Vec<Box<BufferSet>>;

thread_local! {
    /// Spare buffer sets of this thread.
    static SPARE: RefCell<Spare> = const { RefCell::new(Vec::new()) };
}

impl BufferSet {
    fn new(compression: Option<Compression>) -> BufferSet {
        let lease = Lease::new(Budget::new(MEMORY_BUDGET_DEFAULT), COMPRESSION_LEASE_BYTES);
        BufferSet {
            pool: Pool::standalone(),
            codecs: Codecs::new(compression, lease),
            region: BytesMut::new(),
            region_bytes: 0,
            release: 0,
        }
    }

    /// The spare region, if it has room for `bytes` and no message shares it.
    pub(super) fn take_region(&mut self, bytes: usize) -> Option<BytesMut> {
        self.note_region(bytes);
        let mut region = std::mem::take(&mut self.region);
        (region.capacity() >= bytes || region.try_reclaim(bytes)).then_some(region)
    }

    /// A read of `bytes` begins.
    #[inline]
    pub(super) fn note_region(&mut self, bytes: usize) {
        self.region_bytes = self.region_bytes.max(bytes);
    }

    /// Keeps a region that is empty, for the next read.
    #[inline]
    pub(super) fn put_region(&mut self, region: BytesMut) {
        self.region = region;
    }

    /// Every so often, returns memory that was not needed since the last trim. Not at each release: a connection that
    /// answers one long message after the other would allocate its buffers anew for each.
    #[inline]
    fn trim(&mut self) {
        self.release += 1;
        if self.release >= SPARE_BUFFERS_TRIM_AFTER || self.pool.used_bytes() > SPARE_BUFFERS_BYTES_MAX {
            self.trim_now();
        }
    }

    #[inline(never)]
    fn trim_now(&mut self) {
        if self.pool.used_bytes() > SPARE_BUFFERS_BYTES_MAX {
            self.pool = Pool::standalone();
        }
        if self.release < SPARE_BUFFERS_TRIM_AFTER {
            return;
        }
        self.pool.trim();
        if self.region.capacity() > self.region_bytes {
            self.region = BytesMut::new();
        }
        (self.region_bytes, self.release) = (0, 0);
    }

    /// A spare set of this thread.
    fn spare(compression: Option<Compression>) -> Option<Box<BufferSet>> {
        let take = |kept: &RefCell<Spare>| take_spare(&mut kept.borrow_mut(), compression);
        SPARE.try_with(take).ok().flatten()
    }

    /// Returns the set to the spare sets of this thread.
    fn leave(self: Box<BufferSet>) {
        // A thread that is ending keeps nothing.
        let _ = SPARE.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < SPARE_BUFFERS_MAX {
                kept.push(self);
            }
        });
    }
}

/// The set with this compression that was released last, because it is most likely still in cache.
#[inline]
fn take_spare(kept: &mut Spare, compression: Option<Compression>) -> Option<Box<BufferSet>> {
    let is_fit = |buffers: &mut Box<BufferSet>| buffers.codecs.compression() == compression.as_ref();
    if let Some(last) = kept.pop_if(is_fit) {
        return Some(last);
    }
    let at = kept.iter().rposition(|buffers| buffers.codecs.compression() == compression.as_ref())?;
    Some(kept.swap_remove(at))
}

/// The buffer set of a connection, while it has one.
#[derive(Debug)]
pub(super) struct BufferSlot {
    buffers: Option<Box<BufferSet>>,
    shared: Option<BufferPool>,
}

impl BufferSlot {
    pub(super) fn new(shared: Option<BufferPool>) -> BufferSlot {
        BufferSlot { buffers: None, shared }
    }

    #[inline]
    pub(super) fn open(&mut self, compression: Option<Compression>) -> &mut BufferSet {
        match self.buffers {
            Some(ref mut buffers) => buffers,
            None => self.fill(compression),
        }
    }

    #[inline(never)]
    fn fill(&mut self, compression: Option<Compression>) -> &mut BufferSet {
        let spare = match &self.shared {
            Some(shared) => shared.take(compression),
            None => BufferSet::spare(compression),
        };
        let taken = spare.unwrap_or_else(|| Box::new(BufferSet::new(compression)));
        self.buffers.insert(taken)
    }

    /// The current buffer set, if any.
    #[cfg(test)]
    pub(super) fn buffers(&self) -> Option<&BufferSet> {
        self.buffers.as_deref()
    }

    /// Returns the set, because none of it is in use.
    pub(super) fn release(&mut self) {
        let Some(mut buffers) = self.buffers.take() else { return };
        buffers.trim();
        match &self.shared {
            Some(shared) => shared.put(buffers),
            None => buffers.leave(),
        }
    }
}
