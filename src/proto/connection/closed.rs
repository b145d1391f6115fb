//! How a connection ended: for counters, the log and the application.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::ProtocolError;
use crate::close::{self, CloseCode};
use crate::handshake::BadHandshake;
use crate::limits::REASON_BYTES_MAX;
use crate::plain::at_most;
use crate::tunnel::TunnelError;

/// Why a connection ended.
///
/// ```
/// # mod echoring { pub use echoring_proto::connection as server; }
/// use echoring::server::Cause;
///
/// assert_eq!(Cause::PongTimeout.name(), "pong-timeout");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The peer closed, by a Close frame; or by FIN, which is all that the client of an event stream can do.
    Peer,
    /// We closed, for the reason in the code.
    Local,
    /// The peer broke a rule.
    ProtocolError(ProtocolError),
    /// The request was refused with this status.
    Refused(u16),
    /// The request was answered with an ordinary response.
    Answered,
    /// The server's answer was not the upgrade we asked for (client role).
    BadHandshake(BadHandshake),
    /// The handshake took too long.
    HandshakeTimeout,
    /// Nothing was heard after a ping.
    PongTimeout,
    /// It has lasted for as long as the server lets a connection last.
    LifeOver,
    /// There was no message for as long as the server lets a connection be idle.
    Idle,
    /// The peer's stream ended without a Close frame.
    Gone,
    /// The transport failed.
    Failed(io::ErrorKind),
    /// The proxy opened no connection to the server (client role).
    Tunnel(TunnelError),
    /// TLS failed, in the words of the side that noticed.
    Tls(TlsFault, String),
    /// A send made no progress for as long as it may: the peer does not read.
    SendTimeout,
    /// The node was short of memory, and of all connections this one held most beyond its share.
    OverShare,
    /// The node's memory was spent.
    OutOfMemory,
    /// A limit or a rule about addresses, with this name, does not admit the client. The peer was not notified.
    NotAdmitted(&'static str),
}

impl Cause {
    /// A short name for counters and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Cause::Peer => "peer",
            Cause::Local => "local",
            Cause::ProtocolError(_) => "offence",
            Cause::Refused(_) => "refused",
            Cause::Answered => "answered",
            Cause::BadHandshake(_) => "bad-handshake",
            Cause::HandshakeTimeout => "handshake-timeout",
            Cause::PongTimeout => "pong-timeout",
            Cause::LifeOver => "lifetime",
            Cause::Idle => "idle",
            Cause::Gone => "gone",
            Cause::Failed(_) => "failed",
            Cause::Tunnel(_) => "tunnel",
            Cause::Tls(fault, _) => fault.name(),
            Cause::SendTimeout => "send-timeout",
            Cause::OverShare => "over-share",
            Cause::OutOfMemory => "out-of-memory",
            Cause::NotAdmitted(name) => name,
        }
    }
}

/// The part of TLS that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFault {
    /// The two did not agree, one is not the expected peer, or the received bytes were not TLS.
    Handshake,
    /// The peer gave up, with an alert.
    Alert,
    /// A record was forged, damaged or malformed.
    Record,
}

impl TlsFault {
    /// A short name for counters and logs.
    pub fn name(self) -> &'static str {
        match self {
            TlsFault::Handshake => "tls-handshake",
            TlsFault::Alert => "tls-alert",
            TlsFault::Record => "tls-record",
        }
    }
}

/// The contents of a Close frame (RFC 6455, 5.5.1).
///
/// ```
/// # mod echoring { pub use echoring_proto::{CloseCode, connection::CloseFrame}; }
/// use echoring::{CloseCode, CloseFrame};
///
/// let frame = CloseFrame { code: CloseCode::GOING_AWAY, reason: "restart".to_owned() };
/// assert_eq!(frame.to_string(), "1001: restart");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CloseFrame {
    /// [`CloseCode::NO_STATUS`] when the frame was empty.
    pub code: CloseCode,
    /// At most 123 bytes; empty when none was given.
    pub reason: String,
}

crate::plain!(for CloseFrame { code, reason where at_most(REASON_BYTES_MAX) });

impl CloseFrame {
    /// How long the server asks to wait before the next connection, if its reason [says so](crate::close::retry_after).
    ///
    /// ```
    /// # mod echoring { pub use echoring_proto::{CloseCode, connection::CloseFrame}; }
    /// use std::time::Duration;
    ///
    /// use echoring::{CloseCode, CloseFrame};
    ///
    /// let frame = CloseFrame { code: CloseCode::GOING_AWAY, reason: "drain; retry after 250 ms".to_owned() };
    /// assert_eq!(frame.retry_after(), Some(Duration::from_millis(250)));
    /// ```
    pub fn retry_after(&self) -> Option<Duration> {
        close::retry_after(&self.reason)
    }
}

impl fmt::Display for CloseFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.as_str() {
            "" => self.code.fmt(f),
            reason => write!(f, "{}: {reason}", self.code),
        }
    }
}

/// How a connection ended: for counters, the log and the application.
///
/// ```
/// # mod echoring { pub use echoring_proto::{CloseCode, connection as server}; }
/// use echoring::CloseCode;
/// use echoring::server::{Cause, Closed};
///
/// fn log(closed: &Closed) {
///     if closed.cause != Cause::Peer || closed.code != CloseCode::NORMAL {
///         println!("{} ({})", closed.cause.name(), closed.code);
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The code that was sent or received; 1005 for an empty Close frame, 1006 without one.
    pub code: CloseCode,
    /// Why.
    pub cause: Cause,
    /// The peer's Close frame, if one came: its wish to close, or its answer to ours.
    pub peer_close: Option<CloseFrame>,
}

impl Closed {
    /// An end without a Close frame of the peer, so far.
    pub fn new(code: CloseCode, cause: Cause) -> Closed {
        Closed { code, cause, peer_close: None }
    }
}
