//! How reading and writing fail, and how a clean end is told from a broken one.

use std::fmt;
use std::io;

use crate::connection::CloseFrame;
use crate::protocol::{CloseCode, Offence};

/// Why nothing can be read or written (any more).
///
/// Errors that tell of the end ([`Closed`](Error::Closed), [`Broken`](Error::Broken), [`Offence`](Error::Offence),
/// [`PongTimeout`](Error::PongTimeout), most of [`Io`](Error::Io)) are told again by every later call.
/// [`ReadTimeout`](Error::ReadTimeout), [`WriteTimeout`](Error::WriteTimeout), [`Json`](Error::Json) and
/// [`NotText`](Error::NotText) leave the connection usable.
///
/// ```
/// use echoring::aio::{CloseFrame, Error};
/// use echoring::protocol::CloseCode;
///
/// let error = Error::Closed(CloseFrame { code: CloseCode::GOING_AWAY, reason: String::new() });
/// assert!(error.is_clean());
/// assert!(error.is_close(&[CloseCode::NORMAL, CloseCode::GOING_AWAY]));
/// assert!(error.is_unexpected_close(&[CloseCode::NORMAL]));
/// assert_eq!(Error::Broken.close_code(), Some(CloseCode::ABNORMAL));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The peer sent a Close frame: its wish to close, or its answer to ours. The clean end.
    Closed(CloseFrame),
    /// The stream ended without a Close frame (what code 1006 stands for; RFC 6455, 7.1.5).
    Broken,
    /// The peer broke the protocol, and was told so with the offence's code.
    Offence(Offence),
    /// The transport failed.
    Io(io::Error),
    /// The read deadline passed. What has arrived of a message is kept: a later read goes on with it.
    ReadTimeout,
    /// The write deadline passed. The message stays queued and is sent when the peer takes it.
    WriteTimeout,
    /// Nothing was heard of the peer for the heartbeat's timeout.
    PongTimeout,
    /// The peer did not answer our Close frame in time.
    CloseTimeout,
    /// A JSON text that does not parse, or a value that has no JSON.
    Json(serde_json::Error),
    /// A text was wanted and a binary message came, or what was to be sent as text is not UTF-8.
    NotText,
    /// More than the 2 GiB that a message may have.
    TooLong,
    /// This end has begun to close: nothing more can be sent.
    Closing,
    /// A [`MessageWriter`](super::MessageWriter) was dropped in the middle of its message, which can neither be
    /// finished nor followed by another: all that is left is to close.
    Unfinished,
    /// The memory that buffers may take is spent.
    OutOfMemory,
}

impl Error {
    /// The code that the connection ended with, for the errors that tell of its end: that of the peer's Close frame
    /// (1005 when it had none), that of the peer's offence, 1006 for an end without a Close frame.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Error::Closed(frame) => Some(frame.code),
            Error::Offence(offence) => Some(offence.close_code()),
            Error::Broken | Error::PongTimeout | Error::CloseTimeout | Error::Io(_) => {
                Some(CloseCode::ABNORMAL)
            }
            _ => None,
        }
    }

    /// Whether the connection was closed with one of `codes`; 1006 stands for an end without a Close frame.
    pub fn is_close(&self, codes: &[CloseCode]) -> bool {
        self.ending_code().is_some_and(|code| codes.contains(&code))
    }

    /// Whether the connection was closed, and with none of `expected`: what is worth a line in a log.
    pub fn is_unexpected_close(&self, expected: &[CloseCode]) -> bool {
        self.ending_code().is_some_and(|code| !expected.contains(&code))
    }

    /// Whether the peer said goodbye: the stream did not just end.
    pub fn is_clean(&self) -> bool {
        matches!(self, Error::Closed(_))
    }

    /// The code of what the peer ended.
    fn ending_code(&self) -> Option<CloseCode> {
        match self {
            Error::Closed(frame) => Some(frame.code),
            Error::Broken => Some(CloseCode::ABNORMAL),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Closed(frame) => write!(f, "closed by the peer ({frame})"),
            Error::Broken => f.write_str("the connection ended without a Close frame"),
            Error::Offence(offence) => write!(f, "the peer broke the protocol: {offence}"),
            Error::Io(error) => write!(f, "the transport failed: {error}"),
            Error::ReadTimeout => f.write_str("nothing was read before the deadline"),
            Error::WriteTimeout => f.write_str("the peer did not take the message before the deadline"),
            Error::PongTimeout => f.write_str("the peer did not answer the heartbeat"),
            Error::CloseTimeout => f.write_str("the peer did not answer our Close frame"),
            Error::Json(error) => write!(f, "JSON: {error}"),
            Error::NotText => f.write_str("not a text"),
            Error::TooLong => f.write_str("the message is longer than 2 GiB"),
            Error::Closing => f.write_str("the connection is being closed by this end"),
            Error::Unfinished => f.write_str("an earlier message was left unfinished"),
            Error::OutOfMemory => f.write_str("the memory for buffers is spent"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            Error::Json(error) => Some(error),
            Error::Offence(offence) => Some(offence),
            _ => None,
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::Json(error)
    }
}

/// For readers and writers of one message, whose traits know no other errors. The error comes back by
/// [`io::Error::downcast`].
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::Io(_) => match error {
                Error::Io(error) => return error,
                _ => unreachable!(),
            },
            Error::Closed(_) | Error::Broken | Error::Closing | Error::Unfinished => {
                io::ErrorKind::ConnectionAborted
            }
            Error::ReadTimeout | Error::WriteTimeout | Error::PongTimeout | Error::CloseTimeout => {
                io::ErrorKind::TimedOut
            }
            Error::OutOfMemory => io::ErrorKind::OutOfMemory,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// How the end of a connection is kept, to be told again and again.
#[derive(Clone, Debug)]
pub(super) enum End {
    Closed(CloseFrame),
    Broken,
    Offence(Offence),
    Io(io::ErrorKind, String),
    PongTimeout,
    CloseTimeout,
    OutOfMemory,
}

impl End {
    pub(super) fn io(error: &io::Error) -> End {
        End::Io(error.kind(), error.to_string())
    }

    pub(super) fn error(&self) -> Error {
        match self {
            End::Closed(frame) => Error::Closed(frame.clone()),
            End::Broken => Error::Broken,
            End::Offence(offence) => Error::Offence(*offence),
            End::Io(kind, text) => Error::Io(io::Error::new(*kind, text.clone())),
            End::PongTimeout => Error::PongTimeout,
            End::CloseTimeout => Error::CloseTimeout,
            End::OutOfMemory => Error::OutOfMemory,
        }
    }
}
