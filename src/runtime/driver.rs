//! Completion-based I/O behind one trait.
//!
//! A driver owns every buffer that the kernel may touch and keeps four promises to the shard above it:
//!
//! 1. One [`Driver::tick`] is one trip to the kernel: it submits all that was staged, waits until there is
//!    an event or the deadline, and reports.
//! 2. A span of received bytes ([`Event::Received`]) is readable and writable until the next tick begins.
//!    A send may point into it ([`Source::Received`]); nothing else may keep it.
//! 3. A connection has one send in flight. Sends staged in one tick leave together, in order, as one
//!    operation. Short sends are resumed inside; while that lasts the connection is *blocked*
//!    ([`Event::Blocked`] … [`Event::Unblocked`]) and takes no further send. The resumption begins with the tick
//!    after the one that reported it: until then, shared pieces can be [taken back](Driver::take_back).
//! 4. After [`Event::Closed`] there are no more events of a token; its index may be reused with another
//!    generation.
//!
//! A driver knows nothing about WebSockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use bytes::{Buf, Bytes};

use crate::stats::DriverWork;
use echoring_proto::buffer::{Buffer, Pool};
use echoring_proto::limits::Nanos;

/// Names one connection of one driver. Indexes are small and reused; generations distinguish reuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Position in the driver's table, below [`Options::connections`].
    pub index: u32,
    /// Counts the reuses of `index`, modulo 2^24.
    pub generation: u32,
}

echoring_proto::plain!(for Token { index, generation });

/// A range of this tick's receive region. Valid until the next tick begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte, counted from the start of the driver's receive memory.
    pub offset: u32,
    /// Length in bytes.
    pub bytes: u32,
}

/// The bytes of a send. The driver owns them until the kernel has copied or dropped them.
#[derive(Debug)]
pub enum Source {
    /// Bytes of this tick's receive region, rewritten in place.
    Received(Span),
    /// A pooled buffer; it goes back to the pool when the send is over.
    Pooled(Buffer),
    /// Bytes that many connections send, such as a range of a topic's log.
    Shared(Shared),
}

/// Bytes that many connections send. The unsent rest of a short send can be [taken back](Driver::take_back).
#[derive(Clone, Debug)]
pub struct Shared {
    /// The bytes.
    pub bytes: Bytes,
    /// Identifies the bytes to their owner; drivers ignore it.
    pub tag: u64,
}

impl From<Bytes> for Shared {
    /// Bytes whose owner will not take them back.
    fn from(bytes: Bytes) -> Shared {
        Shared { bytes, tag: 0 }
    }
}

/// Pieces are moved into and out of batches by the hundred.
const _: () = assert!(size_of::<Source>() <= 48);

impl Source {
    /// Bytes still to be sent.
    fn len(&self) -> usize {
        match self {
            Source::Received(span) => span.bytes as usize,
            Source::Pooled(buffer) => buffer.len(),
            Source::Shared(shared) => shared.bytes.len(),
        }
    }

    /// Drops `bytes` from the front: the kernel has accepted them.
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

    /// The send is over: a pooled buffer returns to its pool.
    fn give_back(self, pool: &mut Pool) {
        if let Source::Pooled(buffer) = self {
            pool.put(buffer);
        }
    }
}

/// A connection that a driver has [given up](Driver::release).
#[derive(Debug)]
pub struct Released {
    /// Its socket.
    pub socket: OwnedFd,
    /// The end of what was staged, which the kernel has not taken.
    pub unsent: Vec<u8>,
    /// Whether it [has fallen behind](Driver::set_notsent_lowat).
    pub has_fallen_behind: bool,
}

/// An event of one connection or of the shard. A plain value, so that a tick's events are dropped without a step for
/// each.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A listener accepted a connection; its receive is armed.
    Accepted {
        /// The new connection.
        token: Token,
        /// The number that [`Driver::listen`] gave to the listener.
        listener: u8,
    },
    /// A [`Driver::connect`] succeeded; its receive is armed.
    Connected {
        /// The connection that `connect` named.
        token: Token,
    },
    /// Bytes arrived. Adjacent receives of one connection in one tick are one span.
    Received {
        /// The sender.
        token: Token,
        /// The received bytes.
        span: Span,
    },
    /// The peer sent FIN. Earlier sends to it may still be under way.
    Ended {
        /// The connection.
        token: Token,
    },
    /// The peer sent FIN behind bytes that are unread because receives are paused: it may have closed, or read on.
    /// Reported once at most; [`Ended`](Event::Ended) still follows when everything has been read.
    HalfClosed {
        /// The connection.
        token: Token,
    },
    /// A send was short or refused. The rest is being sent; no other send is taken until `Unblocked`.
    Blocked {
        /// The connection.
        token: Token,
        /// Bytes that the kernel has not accepted yet.
        unsent: u32,
    },
    /// The rest of a short send has been copied to the kernel.
    Unblocked {
        /// The connection.
        token: Token,
    },
    /// The connection failed (reset, timed out, refused). Sends are over; the owner must still call
    /// [`Driver::abort`] or [`Driver::close`].
    Failed {
        /// The connection.
        token: Token,
        /// The kernel's reason.
        error: io::ErrorKind,
    },
    /// The slot is free again. The last event of a token.
    Closed {
        /// The connection.
        token: Token,
    },
    /// The connection is [given up](Driver::release), and [`take_released`](Driver::take_released) returns it until the next
    /// tick begins. The last event of a token.
    Released {
        /// The connection.
        token: Token,
    },
    /// The connection cannot be given up, and goes on.
    Kept {
        /// The connection.
        token: Token,
    },
    /// The answer to [`Driver::find_address`]; [`Driver::address`] returns it until the next tick begins.
    Addressed {
        /// The connection.
        token: Token,
    },
    /// The peer's TCP has acknowledged the last byte of a send with a [stamp](Driver::stamp).
    Acknowledged {
        /// The connection.
        token: Token,
        /// When, on the clock of [`Driver::now`]: up to a minute before this event.
        at: Nanos,
    },
    /// The receive that follows arrived at the kernel. Only with [`Options::stamps_every`], and the receive is not joined with others
    /// then.
    Arrived {
        /// The connection.
        token: Token,
        /// When its last byte did, on the clock of [`Driver::now`]. `None` if that is unknown, or if the byte may have waited for earlier
        /// ones.
        at: Option<Nanos>,
    },
    /// A [`Waker`] was used.
    Woken,
    /// Accepting failed (descriptors, memory) and is retried automatically; the owner logs it.
    AcceptFailed {
        /// The kernel's error number.
        errno: i32,
    },
}

/// The driver to use.
///
/// ```
/// # mod echoring { pub use echoring_runtime::driver as server; }
/// use echoring::server::DriverChoice;
///
/// let driver = if std::env::var_os("NO_URING").is_some() { DriverChoice::Epoll } else { DriverChoice::default() };
/// # assert_eq!(DriverChoice::default(), DriverChoice::Auto);
/// # let _ = driver;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverChoice {
    /// io_uring if the kernel has and allows it, otherwise epoll, with a warning.
    #[default]
    Auto,
    /// io_uring only.
    Uring,
    /// epoll.
    Epoll,
}

/// Options of a driver.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Maximum concurrent connections, of both roles together.
    pub connections: u32,
    /// Features to leave unused even if the kernel has them. Tests use this for the degraded paths.
    pub without: Features,
    /// Bytes of receive memory; 0 for the driver's own measured choice.
    pub receive_bytes: usize,
    /// The addresses of all peers are looked up: features that prevent it on this kernel are not used.
    pub finds_addresses: bool,
    /// Bytes of the connections with [`Driver::set_notsent_lowat`] that the kernel may hold unsent; 0 for no limit.
    pub notsent_lowat: u32,
    /// On dialled TCP connections, the kernel's times of about each of so many sends and of the answers to them are noted: of all sends and
    /// receives of some connections, if there are enough of them. 0 for no times.
    pub stamps_every: u32,
    /// [`DriverWork::retransmissions`] are counted, at the end of each connection.
    pub counts_retransmissions: bool,
}

/// Optional abilities of the kernel, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(#[doc(hidden)] pub u32);

impl Features {
    /// No feature.
    pub const NONE: Features = Features(0);
    /// Incremental provided buffers, `IOU_PBUF_RING_INC` (Linux 6.12).
    pub(crate) const INCREMENTAL: Features = Features(1 << 0);
    /// A multishot receive takes a total in `optlen` (Linux 6.17).
    pub(crate) const RECEIVE_TOTAL: Features = Features(1 << 1);
    /// `IORING_SETUP_NO_SQARRAY` (Linux 6.6).
    pub(crate) const NO_SQARRAY: Features = Features(1 << 2);
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
    /// `IORING_ENTER_ABS_TIMER` (Linux 6.12): a wait takes a deadline, so that a tick reads no clock.
    pub(crate) const ABSOLUTE_TIMEOUT: Features = Features(1 << 8);
    /// The ring is restricted to the operations that the driver uses.
    pub(crate) const RESTRICTED: Features = Features(1 << 9);
    /// Socket options by the ring, `SOCKET_URING_OP_SETSOCKOPT` (Linux 6.7).
    pub const SOCKET_OPTIONS: Features = Features(1 << 10);

    const NAMES: [(Features, &'static str); 11] = [
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
        (Features::SOCKET_OPTIONS, "socket-options"),
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

/// A driver's name and features, for the log, the `listening` line and `/stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// `uring`, `epoll` or `sim`.
    pub name: &'static str,
    /// Features in use.
    pub features: Features,
    /// Features that the driver supports and cannot use here.
    pub degraded: Features,
}

/// Work that calls a [driver](Driver::run) many times.
pub trait Work {
    /// What comes of it.
    type Outcome;

    /// Does the work.
    fn on<D: Operations>(self, driver: &mut D) -> Self::Outcome;
}

/// What a [`Driver`] does: completion-based I/O for one shard. See the module's head for the contract.
///
/// Call order within a tick: [`tick`](Driver::tick), then for each event in order the shard reads the
/// bytes ([`received`](Driver::received)) and stages work ([`send`](Driver::send),
/// [`pause`](Driver::pause), [`close`](Driver::close) …); the next `tick` carries it to the kernel.
pub trait Operations: Sized {
    /// Now, on a monotonic clock. Virtual in `sim`.
    fn now(&self) -> Nanos;

    /// Submits everything that is staged, waits for at least one event or until `deadline` (absolute; `None` waits for
    /// ever, a past one only polls), and appends the events to `events`.
    ///
    /// May return without an event. Buffers of finished sends go back to `pool`.
    ///
    /// # Errors
    /// Only errors that the shard cannot survive (the ring is broken). A connection's failure is an event.
    fn tick(&mut self, pool: &mut Pool, deadline: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()>;

    /// The bytes of a span reported by the latest tick.
    ///
    /// # Panics
    /// If `span` is not within the receive memory: a bug of the caller.
    fn received(&mut self, span: Span) -> &mut [u8];

    /// Stages a send behind earlier ones of `token`.
    ///
    /// # Errors
    /// Returns the source if the connection is blocked, failed or closing, or if
    /// [`SEND_PIECES_MAX`](crate::limits::SEND_PIECES_MAX) pieces are staged.
    fn send(&mut self, token: Token, source: Source) -> Result<(), Source>;

    /// The same for bytes of this tick's receive region, the source of nearly every echo. False if it is not accepted.
    #[inline]
    fn send_received(&mut self, token: Token, span: Span) -> bool {
        self.send(token, Source::Received(span)).is_ok()
    }

    /// Bytes of a partial send that the kernel has not accepted; 0 without one. While this decreases, the peer reads.
    fn unsent_bytes(&self, token: Token) -> usize;

    /// Bytes of the node's budget that a partial send of `token` occupies.
    fn held_bytes(&self, token: Token) -> usize;

    /// Tag and unaccepted bytes of the last piece of a partial send, if that piece is [shared](Source::Shared). Only
    /// known between the [`Event::Blocked`] of `token` and the next tick, when nothing of it is in flight; `None` at
    /// any other time.
    fn unsent_shared(&self, token: Token) -> Option<(u64, usize)>;

    /// Drops the last `bytes` of the piece that [`unsent_shared`](Driver::unsent_shared) returns, so that they are
    /// never sent. A piece may be dropped whole; the previous one is then the last. A piece that is dropped in part
    /// keeps its tag. At least one byte must stay, because sending the last byte unblocks the connection. False, with
    /// nothing dropped, if there is no such piece.
    ///
    /// # Panics
    /// In debug builds, if the piece has fewer bytes, or if nothing would stay. In others that returns false, too.
    fn take_back(&mut self, token: Token, bytes: usize) -> bool;

    /// Asks when the last byte that is staged for `token` in this tick is acknowledged by the peer's TCP. The answer is
    /// [`Event::Acknowledged`], unless the send is short or the connection ends before. False if that cannot be known, if
    /// nothing is staged, or if the connection has [fallen behind](Driver::set_notsent_lowat).
    fn stamp(&mut self, token: Token) -> bool {
        let _ = token;
        false
    }

    /// When the kernel saw the send with what was handed over at `handed_at`, as far as that is known now. `None` if that send was
    /// not to be stamped, see [`Options::stamps_every`]. Nothing is known of what is handed over while a send is partial.
    fn send_times(&mut self, token: Token, handed_at: Nanos) -> Option<SendTimes> {
        let _ = (token, handed_at);
        None
    }

    /// From now on the kernel accepts bytes of `token` only while it holds fewer than [`Options::notsent_lowat`] that it has not
    /// sent (`TCP_NOTSENT_LOWAT`), for the rest of the connection. Does nothing on sockets without that option.
    fn set_notsent_lowat(&mut self, token: Token);

    /// Grants no further receive credit to `token`. Bytes in flight are still reported: at most
    /// [`RECEIVE_CREDIT_BYTES`](echoring_proto::limits::RECEIVE_CREDIT_BYTES) if the kernel supports totals, otherwise
    /// what arrives until the cancellation is done. The end of the peer's stream is still detected: a reset is
    /// [`Event::Failed`] and drops unread bytes; FIN is [`Event::HalfClosed`].
    fn pause(&mut self, token: Token);

    /// Resumes receiving. No effect unless paused.
    fn resume(&mut self, token: Token);

    /// Sends FIN once everything staged or in flight has been copied to the kernel. Receiving continues.
    fn shutdown(&mut self, token: Token);

    /// Closes once everything staged or in flight has been copied to the kernel. No event of this token follows but
    /// `Closed`. The last bytes may share a segment with FIN.
    fn close(&mut self, token: Token);

    /// Closes now; bytes that the kernel has not accepted are dropped. No event of this token follows but `Closed`.
    fn abort(&mut self, token: Token);

    /// Gives `token` up, so that another driver can [continue](Driver::adopt) it: sends what is staged, ends what is under way, and
    /// reports what arrives until then. Nothing further is taken to be sent. [`Event::Released`] or [`Event::Kept`] follows, unless the
    /// connection fails, or is closed or aborted before. One that is [shut down](Driver::shutdown) is kept.
    fn release(&mut self, token: Token);

    /// The connection of an [`Event::Released`].
    fn take_released(&mut self, token: Token) -> Option<Released>;

    /// Continues a connection that another driver has given up. Its receive is armed.
    ///
    /// # Errors
    /// Returns the socket if slots or descriptors are exhausted.
    fn adopt(&mut self, socket: OwnedFd, has_fallen_behind: bool) -> Result<Token, OwnedFd>;

    /// Accepts connections from `listener` (a listening socket of any family) until
    /// [`stop_listening`](Driver::stop_listening). They are reported with `number`, which several listeners may share.
    ///
    /// # Errors
    /// The kernel's error.
    fn listen(&mut self, listener: OwnedFd, number: u8) -> io::Result<()>;

    /// Stops accepting and closes the listeners. Connections stay. Connections that the kernel has accepted meanwhile are
    /// still reported, until [`is_listening`](Driver::is_listening) is false.
    fn stop_listening(&mut self);

    /// Whether connections may still be reported as accepted.
    fn is_listening(&self) -> bool;

    /// Opens a connection to `address`, from `source` if given (port 0 lets the kernel choose; not for Unix sockets). `Connected` or
    /// `Failed` follows. Waits while the queue of a Unix socket's listener is full.
    ///
    /// # Errors
    /// If no socket could be created: descriptors, slots or local ports are exhausted.
    fn connect(&mut self, address: &RemoteAddress, source: Option<SocketAddr>) -> io::Result<Token>;

    /// The generation of the connection at an index, or of the next one there. `None` for an index beyond the table.
    fn generation_at(&self, index: u32) -> Option<u32>;

    /// Looks up the peer's address of `token`. `Addressed` follows, unless the connection fails or is closed before. It
    /// costs extra system calls.
    fn find_address(&mut self, token: Token);

    /// The peer's address, between the `Addressed` of `token` and the next tick. `None` for a Unix socket, if the
    /// kernel cannot tell ([`Features::FD_INSTALL`]), and at any other time.
    fn address(&self, token: Token) -> Option<SocketAddr>;

    /// As [`find_address`](Driver::find_address), and also looks up the state of the connection's TCP, which costs one system call
    /// more. Drivers without sockets find only the address.
    fn find_tcp_info(&mut self, token: Token) {
        self.find_address(token);
    }

    /// The state of the connection's TCP that was looked up, between the `Addressed` of `token` and the next tick. `None` for a Unix
    /// socket, if the kernel cannot tell ([`Features::FD_INSTALL`]), and at any other time.
    fn tcp_info(&self, token: Token) -> Option<TcpInfo> {
        let _ = token;
        None
    }

    /// Whether the peer of `token` is at a Unix socket. Known as long as [`address`](Driver::address) is.
    fn is_unix(&self, token: Token) -> bool;

    /// A handle with which any thread ends this driver's wait. Waking a driver that does not wait makes its next tick
    /// return at once.
    fn waker(&self) -> Waker;

    /// Wakes another shard with the next trip to the kernel if that saves a system call, otherwise at once.
    fn wake(&mut self, other: &Waker);

    /// The driver's name and features.
    fn describe(&self) -> Description;

    /// Totals of the driver's work so far.
    fn work(&self) -> DriverWork {
        DriverWork::default()
    }
}

/// The connection of `token` among those that were given up.
fn take_released(released: &mut Vec<(Token, Released)>, token: Token) -> Option<Released> {
    let at = released.iter().position(|(of, _)| *of == token)?;
    Some(released.swap_remove(at).1)
}

mod addresses;
mod clock;
mod code_pages;
mod kernel_times;
mod notsent;
mod regions;
mod remote;
mod signals;
mod sockets;
mod stamps;
mod system;
mod unsent;
mod waker;

pub use addresses::TcpInfo;
pub use clock::now as monotonic_now;
pub use code_pages::unmap_code_pages;
pub use kernel_times::{SendTimes, has_kernel_times};
pub use regions::small_pages_only;
pub use remote::RemoteAddress;
pub use signals::ignore_meaningless_signals;
pub use system::Driver;
pub use waker::Waker;

pub mod epoll;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod uring;
