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

/// Declares [`Cause`]: each variant with its name, the outcome of a handshake that it ends, and the codes with which WebSockets and event
/// streams end by it, as `/metrics` has them from the start. A name may follow from a field; then the first text describes it.
macro_rules! causes {
    ($(#[$meta:meta])* {
        $($(#[$of:meta])* $Variant:ident $(($($field:tt: $Of:ty),+))? = $name:literal $(by $by:expr)?, $outcome:literal, $codes:expr;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Cause {
            $($(#[$of])* $Variant $(($($Of),+))?,)*
        }

        impl Cause {
            /// Its rows.
            #[doc(hidden)]
            pub const ROWS: &'static [CauseRow] = &[$(CauseRow {
                variant: stringify!($Variant),
                name: $name,
                outcome: $outcome,
                codes: &$codes,
            }),*];

            /// A short name for counters and logs.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Cause::$Variant $(($($field),+))? => causes!(@name $name $($by)?),)*
                }
            }

            /// The outcome of a handshake that ended by it, for counters.
            #[doc(hidden)]
            pub fn outcome(&self) -> &'static str {
                match self {
                    $(Cause::$Variant { .. } => $outcome,)*
                }
            }
        }
    };
    (@name $name:literal) => { $name };
    (@name $name:literal $by:expr) => { $by };
}

/// What is known of a [`Cause`] without its fields.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct CauseRow {
    /// The variant.
    pub variant: &'static str,
    /// Its name, or the description of its names.
    pub name: &'static str,
    /// The outcome of a handshake that it ends.
    pub outcome: &'static str,
    /// The codes of ends by it that the server decides on. 3000 and 4000 stand for other codes of peers and dialects.
    pub codes: &'static [u16],
}

causes! {
    /// Why a connection ended.
    ///
    /// ```
    /// # mod echoring { pub use echoring_proto::connection as server; }
    /// use echoring::server::Cause;
    ///
    /// assert_eq!(Cause::PongTimeout.name(), "pong-timeout");
    /// ```
    {
        /// The peer closed, by a Close frame; or by FIN, which is all that the client of an event stream can do.
        Peer = "peer", "abandoned", [1000, 1001, 1005, 3000, 4000];
        /// We closed, for the reason in the code.
        Local = "local", "failed", [
            1000, 1001, 1003, 1006, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 3008, 4000, 4001, 4003, 4008, 4010,
        ];
        /// The peer broke a rule.
        ProtocolError(_: ProtocolError) = "offence", "failed", [1002, 1007, 1008, 1009, 4009];
        /// The request was refused with this status.
        Refused(_: u16) = "refused", "refused", [];
        /// The request was answered with an ordinary response.
        Answered = "answered", "answered", [];
        /// The server's answer was not the upgrade we asked for (client role).
        BadHandshake(_: BadHandshake) = "bad-handshake", "failed", [];
        /// The handshake took too long.
        HandshakeTimeout = "handshake-timeout", "timeout", [];
        /// Nothing was heard after a ping.
        PongTimeout = "pong-timeout", "failed", [1006];
        /// It has lasted for as long as the server lets a connection last.
        LifeOver = "lifetime", "failed", [1001, 3000];
        /// There was no message for as long as the server lets a connection be idle.
        Idle = "idle", "failed", [1001, 3000];
        /// The peer's stream ended without a Close frame.
        Gone = "gone", "abandoned", [1006];
        /// The transport failed.
        Failed(_: io::ErrorKind) = "failed", "abandoned", [1006];
        /// The proxy opened no connection to the server (client role).
        Tunnel(_: TunnelError) = "tunnel", "failed", [];
        /// TLS failed, in the words of the side that noticed.
        Tls(fault: TlsFault, _: String) = "the part of TLS that failed" by fault.name(), "tls_failed", [];
        /// A send made no progress for as long as it may: the peer does not read.
        SendTimeout = "send-timeout", "failed", [1006];
        /// The node was short of memory, and of all connections this one held most beyond its share.
        OverShare = "over-share", "failed", [1006];
        /// The node's memory was spent.
        OutOfMemory = "out-of-memory", "failed", [1006];
        /// A limit or a rule about addresses, with this name, does not admit the client. The peer was not notified.
        NotAdmitted(limit: &'static str) = "the name of a limit or a rule" by limit, "not_admitted", [];
    }
}

crate::happenings! {
    /// The part of TLS that failed.
    #[non_exhaustive]
    pub enum TlsFault: name {
        /// The two did not agree, one is not the expected peer, or the received bytes were not TLS.
        Handshake = "tls-handshake",
        /// The peer gave up, with an alert.
        Alert = "tls-alert",
        /// A record was forged, damaged or malformed.
        Record = "tls-record",
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
