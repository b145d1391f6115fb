//! Completion-based I/O behind one trait.
//!
//! A driver owns every buffer that the kernel may touch and keeps four promises to the shard above it:
//!
//! 1. One [`Driver::turn`] is one trip to the kernel: it submits all that was staged, waits until there is
//!    an event or the deadline, and reports.
//! 2. A run of received bytes ([`Event::Received`]) is readable and writable until the next turn begins.
//!    A send may point into it ([`Source::Received`]); nothing else may keep it.
//! 3. A connection has one send in flight. Sends staged in one turn leave together, in order, as one
//!    operation. Short sends are resumed inside; while that lasts the connection is *blocked*
//!    ([`Event::Blocked`] … [`Event::Unblocked`]) and takes no further send. The resumption begins with the turn
//!    after the one that told of it: until then, what is shared can be [taken back](Driver::take_back).
//! 4. After [`Event::Closed`] nothing more is heard of a token; its index may come back under another
//!    generation.
//!
//! A driver never knows what a WebSocket is.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use bytes::{Buf, Bytes};

use crate::buffer::{Buffer, Pool};
use crate::limits::Nanos;

/// Names one connection of one driver. Indexes are small and reused; generations tell reuses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Position in the driver's table, below [`Options::connections`].
    pub index: u32,
    /// Counts the reuses of `index`, modulo 2^24.
    pub generation: u32,
}

/// A range of this turn's receive region. Valid until the next turn begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte, counted from the start of the driver's receive memory.
    pub offset: u32,
    /// Length in bytes.
    pub bytes: u32,
}

/// What a send takes its bytes from. The driver owns it until the kernel has copied or dropped it.
#[derive(Debug)]
pub enum Source {
    /// Bytes of this turn's receive region, rewritten in place.
    Received(Span),
    /// A pooled buffer; it goes back to the pool when the send is over.
    Pooled(Buffer),
    /// Bytes that many connections send, such as a stretch of a topic's log.
    Shared(Shared),
}

/// Bytes that many connections send. What a short send left of them can be [taken back](Driver::take_back).
#[derive(Clone, Debug)]
pub struct Shared {
    /// What is sent.
    pub bytes: Bytes,
    /// By which its owner knows it again; means nothing to a driver.
    pub tag: u64,
}

impl From<Bytes> for Shared {
    /// Bytes whose owner does not ask for them again.
    fn from(bytes: Bytes) -> Shared {
        Shared { bytes, tag: 0 }
    }
}

/// Pieces are moved into batches and out of them by the hundred.
const _: () = assert!(size_of::<Source>() <= 48);

impl Source {
    /// Bytes of it that are still to be sent.
    fn len(&self) -> usize {
        match self {
            Source::Received(span) => span.bytes as usize,
            Source::Pooled(buffer) => buffer.len(),
            Source::Shared(shared) => shared.bytes.len(),
        }
    }

    /// Drops `bytes` from its front: the kernel has them.
    fn skip(&mut self, bytes: usize) {
        match self {
            Source::Received(span) => {
                span.offset += bytes as u32;
                span.bytes -= bytes as u32;
            }
            Source::Pooled(buffer) => buffer.skip(bytes),
            Source::Shared(shared) => shared.bytes.advance(bytes),
        }
    }

    /// It is over: what was pooled goes back.
    fn give_back(self, pool: &mut Pool) {
        if let Source::Pooled(buffer) = self {
            pool.put(buffer);
        }
    }
}

/// Something that happened to one connection or to the shard. Plain values: a turn's events are looked at and
/// forgotten without a step for each.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A listener took a connection; its receive is armed.
    Accepted {
        /// The new connection.
        token: Token,
    },
    /// A [`Driver::connect`] succeeded; its receive is armed.
    Connected {
        /// The connection that `connect` named.
        token: Token,
    },
    /// Bytes arrived. Adjacent receives of one connection in one turn are one run.
    Received {
        /// Who sent them.
        token: Token,
        /// Where they are.
        run: Span,
    },
    /// The peer sent FIN. What was sent to it before may still be under way.
    Ended {
        /// Whose stream ended.
        token: Token,
    },
    /// The peer sent FIN behind bytes that are not read, since receives are paused: it may have closed, or read on.
    /// Told once at most; [`Ended`](Event::Ended) still follows when everything has been read.
    HalfClosed {
        /// Whose stream will end.
        token: Token,
    },
    /// A send was short or refused. The rest is being sent; no other send is taken until `Unblocked`.
    Blocked {
        /// Whose send.
        token: Token,
        /// Bytes the kernel has not taken yet.
        unsent: u32,
    },
    /// The rest of a short send has been copied to the kernel.
    Unblocked {
        /// Whose send.
        token: Token,
    },
    /// The connection failed (reset, timed out, refused). Sends are over; the owner must still call
    /// [`Driver::abort`] or [`Driver::close`].
    Failed {
        /// Which connection.
        token: Token,
        /// The kernel's reason.
        error: io::ErrorKind,
    },
    /// The slot is free again. The last event of a token.
    Closed {
        /// Which connection.
        token: Token,
    },
    /// The answer to [`Driver::find_address`]; [`Driver::address`] tells it until the next turn begins.
    Addressed {
        /// Whose address was asked for.
        token: Token,
    },
    /// Somebody used a [`Waker`].
    Woken,
    /// Accepting stopped for a reason other than our own wish (descriptors, memory). It is tried again by
    /// itself; the owner logs it.
    AcceptFailed {
        /// The kernel's reason, an error number.
        errno: i32,
    },
}

/// Which driver is to do the I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverChoice {
    /// io_uring where the kernel has and allows it, else epoll, said loudly.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

/// How a driver is to be built.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections that may exist at once, all roles together.
    pub connections: u32,
    /// Features that must not be used although the kernel has them. Tests run the degraded paths by it.
    pub without: Features,
    /// Bytes of receive memory; 0 takes the driver's own measured choice.
    pub receive_bytes: usize,
}

/// Optional abilities of the kernel, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// No feature.
    pub const NONE: Features = Features(0);
    /// Incremental provided buffers, `IOU_PBUF_RING_INC` (Linux 6.12).
    pub const INCREMENTAL: Features = Features(1 << 0);
    /// A multishot receive takes a total in `optlen` (Linux 6.17).
    pub const RECEIVE_TOTAL: Features = Features(1 << 1);
    /// `IORING_SETUP_NO_SQARRAY` (Linux 6.6).
    pub const NO_SQARRAY: Features = Features(1 << 2);
    /// `IORING_OP_FIXED_FD_INSTALL` (Linux 6.8), for a half-close without a kernel worker.
    pub const FD_INSTALL: Features = Features(1 << 3);
    /// `IORING_ENTER_NO_IOWAIT` (Linux 6.15): idle waits are not shown as iowait.
    pub const NO_IOWAIT: Features = Features(1 << 4);
    /// Registered ring descriptor (Linux 5.18).
    pub const REGISTERED_RING: Features = Features(1 << 5);
    /// Multishot accept into direct descriptors.
    pub const DIRECT: Features = Features(1 << 6);
    /// Skipped success completions on sends.
    pub const SKIP_SUCCESS: Features = Features(1 << 7);
    /// `IORING_ENTER_ABS_TIMER` (Linux 6.12): a wait takes a deadline, so that a turn reads no clock.
    pub const ABSOLUTE_TIMEOUT: Features = Features(1 << 8);
    /// The ring is restricted to the operations that the driver uses.
    pub const RESTRICTED: Features = Features(1 << 9);

    const NAMES: [(Features, &'static str); 10] = [
        (Features::INCREMENTAL, "incremental-buffers"),
        (Features::RECEIVE_TOTAL, "receive-total"),
        (Features::NO_SQARRAY, "no-sqarray"),
        (Features::FD_INSTALL, "fd-install"),
        (Features::NO_IOWAIT, "no-iowait"),
        (Features::REGISTERED_RING, "registered-ring"),
        (Features::DIRECT, "direct-descriptors"),
        (Features::SKIP_SUCCESS, "skip-success"),
        (Features::ABSOLUTE_TIMEOUT, "absolute-timeout"),
        (Features::RESTRICTED, "restricted"),
    ];

    /// Whether every feature of `other` is in this set.
    pub const fn has(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    pub const fn with(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// This set less `other`.
    pub const fn less(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// The names of the features in this set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(f, _)| self.has(*f)).map(|(_, name)| name)
    }
}

/// What a driver turned out to be, for the log, the `listening` line and `/stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// `uring`, `epoll` or `sim`.
    pub name: &'static str,
    /// Features that are in use.
    pub features: Features,
    /// Features that the driver knows and could not use here.
    pub degraded: Features,
}

/// Completion-based I/O for one shard. See the module's head for the contract.
///
/// Call order within a turn: [`turn`](Driver::turn), then for each event in order the shard looks at the
/// bytes ([`received`](Driver::received)) and stages work ([`send`](Driver::send),
/// [`pause`](Driver::pause), [`close`](Driver::close) …); the next `turn` carries it to the kernel.
pub trait Driver: Sized {
    /// Now, on a monotonic clock. Virtual in `sim`.
    fn now(&self) -> Nanos;

    /// Submits all that is staged, waits for at least one event or until `deadline` (absolute; `None` waits
    /// for ever, a past one only looks), and appends what happened to `events`.
    ///
    /// May return without an event. Buffers of finished sends go back to `pool`.
    ///
    /// # Errors
    /// Only what the shard cannot survive (the ring is broken). A connection's failure is an event.
    fn turn(&mut self, pool: &mut Pool, deadline: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()>;

    /// The bytes of a run reported by the latest turn.
    ///
    /// # Panics
    /// When `run` is not within the receive memory: a bug of the caller's.
    fn received(&mut self, run: Span) -> &mut [u8];

    /// Stages a send behind what is staged for `token` already.
    ///
    /// # Errors
    /// Gives the source back when the connection is blocked, failed or closing, or when
    /// [`SEND_PIECES_MAX`](crate::limits::SEND_PIECES_MAX) pieces are staged.
    fn send(&mut self, token: Token, source: Source) -> Result<(), Source>;

    /// The same for bytes of this turn's receive region, the source of nearly every echo. False when it is not
    /// taken.
    #[inline]
    fn send_received(&mut self, token: Token, run: Span) -> bool {
        self.send(token, Source::Received(run)).is_ok()
    }

    /// Bytes of what a short send left that the kernel has not taken by now; 0 when no send of `token` is unfinished.
    /// While this falls, the peer reads.
    fn unsent_bytes(&self, token: Token) -> usize;

    /// Bytes of the node's budget that are taken by what a short send of `token` left.
    fn held_bytes(&self, token: Token) -> usize;

    /// Tag and bytes of the last piece of what a short send left, if that is a [shared](Source::Shared) one: those
    /// bytes of it that the kernel has not taken. Known between the [`Event::Blocked`] of `token` and the next turn
    /// only, when nothing of it is under way; `None` at any other time.
    fn unsent_shared(&self, token: Token) -> Option<(u64, usize)>;

    /// Drops the last `bytes` of the piece that [`unsent_shared`](Driver::unsent_shared) tells of, so that they are
    /// never sent. A piece may go whole; the one before it is then the last. One that goes in part keeps its tag.
    /// Something must stay, since it is the last byte's leaving that unblocks the connection. False, and nothing
    /// dropped, when there is no such piece.
    ///
    /// # Panics
    /// In debug builds when the piece has fewer bytes, or when nothing would stay. In others that is false, too.
    fn take_back(&mut self, token: Token, bytes: usize) -> bool;

    /// Grants no further receive credit to `token`. What is already under way is still reported: at most
    /// [`RECEIVE_CREDIT_BYTES`](crate::limits::RECEIVE_CREDIT_BYTES) where the kernel knows totals, else
    /// what arrives until the cancellation is done. The peer's end is noticed all the same: a reset is
    /// [`Event::Failed`], and drops what was not read; FIN is [`Event::HalfClosed`].
    fn pause(&mut self, token: Token);

    /// Receives again. Harmless when not paused.
    fn resume(&mut self, token: Token);

    /// Sends FIN once everything staged or under way has been copied to the kernel. Receiving goes on.
    fn shutdown(&mut self, token: Token);

    /// Closes once everything staged or under way has been copied to the kernel. No event of this token
    /// follows but `Closed`. The last bytes may go in one segment with FIN.
    fn close(&mut self, token: Token);

    /// Closes now; what the kernel has not taken is dropped. No event of this token follows but `Closed`.
    fn abort(&mut self, token: Token);

    /// Takes connections from `listener` (a listening socket of any family) until [`stop_listening`](Driver::stop_listening).
    ///
    /// # Errors
    /// What the kernel says.
    fn listen(&mut self, listener: OwnedFd) -> io::Result<()>;

    /// Takes no further connection and closes the listeners. Connections stay.
    fn stop_listening(&mut self);

    /// Opens a connection to `address`, from `source` when given (port 0 lets the kernel choose).
    /// `Connected` or `Failed` follows.
    ///
    /// # Errors
    /// When no socket could be made: descriptors, slots or local ports are used up.
    fn connect(&mut self, address: SocketAddr, source: Option<SocketAddr>) -> io::Result<Token>;

    /// Asks who is at the other end of `token`. `Addressed` follows, unless the connection fails or is closed
    /// before. It costs system calls of its own: only for those who need to know.
    fn find_address(&mut self, token: Token);

    /// The peer's address, between the `Addressed` of `token` and the next turn. `None` for a socket in the file
    /// system, where the kernel cannot tell ([`Features::FD_INSTALL`]), and at any other time.
    fn address(&self, token: Token) -> Option<SocketAddr>;

    /// A handle by which any thread ends this driver's wait. Waking a driver that does not wait makes its
    /// next turn return at once.
    fn waker(&self) -> Waker;

    /// Wakes another shard with the next trip to the kernel where that saves a system call, else at once.
    fn wake(&mut self, other: &Waker);

    /// What this driver is.
    fn describe(&self) -> Description;
}

mod addresses;
mod clock;
mod regions;
mod signals;
mod unsent;
mod waker;

pub use regions::small_pages_only;
pub use signals::ignore_meaningless_signals;
pub use waker::Waker;

pub mod epoll;
pub mod sim;
pub mod uring;
