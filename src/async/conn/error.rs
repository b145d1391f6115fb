//! Errors of reading and writing, and the distinction between a clean close and a failure.

use std::io;

use echoring_proto::connection::CloseFrame;
use echoring_proto::{CloseCode, ProtocolError};

/// Why a read or write failed.
///
/// Errors that end the connection ([`Closed`](Error::Closed), [`Broken`](Error::Broken),
/// [`ProtocolError`](Error::ProtocolError), [`PongTimeout`](Error::PongTimeout), [`SendTimeout`](Error::SendTimeout), most of
/// [`Io`](Error::Io)) are returned by every later call too. [`ReadTimeout`](Error::ReadTimeout), [`WriteTimeout`](Error::WriteTimeout),
/// [`Json`](Error::Json), [`NotText`](Error::NotText), and invalid arguments leave the connection usable.
///
/// The text of an error includes that of the error that it wraps; `source` is the cause of the wrapped error.
///
/// ```
/// use echoring::{CloseFrame, Error};
/// use echoring::CloseCode;
///
/// let error = Error::Closed(CloseFrame { code: CloseCode::GOING_AWAY, reason: String::new() });
/// assert!(error.is_clean());
/// assert!(error.is_close(&[CloseCode::NORMAL, CloseCode::GOING_AWAY]));
/// assert!(error.is_unexpected_close(&[CloseCode::NORMAL]));
/// assert_eq!(Error::Broken.close_code(), Some(CloseCode::ABNORMAL));
/// ```
#[non_exhaustive]
pub enum Error {
    /// The peer sent a Close frame, first or in answer to ours: a clean close.
    Closed(CloseFrame),
    /// The stream ended without a Close frame (code 1006; RFC 6455, 7.1.5).
    Broken,
    /// The peer violated the protocol, and was sent a Close frame with the violation's code.
    ProtocolError(ProtocolError),
    /// The transport failed.
    Io(io::Error),
    /// The read deadline passed. A partly received message is kept; the next read continues it.
    ReadTimeout,
    /// The write deadline passed. The message stays queued, and is sent once the peer accepts it.
    WriteTimeout,
    /// The peer did not read within the [write timeout](super::Settings::write_timeout). It may have got a frame in part.
    SendTimeout,
    /// The peer sent nothing within the heartbeat's timeout.
    PongTimeout,
    /// The peer did not answer our Close frame in time.
    CloseTimeout,
    /// A received text is not valid JSON, or a value cannot be serialised.
    Json(serde_json::Error),
    /// A text message was expected and a binary one received, or the text to be sent is not UTF-8.
    NotText,
    /// The message exceeds the maximum of 2 GiB.
    TooLong,
    /// The payload of a ping or pong exceeds 125 bytes (RFC 6455, 5.5).
    ControlTooLong,
    /// The compression level is not from 1 to 9.
    CompressionLevel(u8),
    /// This end has begun to close: nothing more can be sent.
    Closing,
    /// A [`MessageWriter`](super::MessageWriter) was dropped inside its message. The message cannot be finished, and
    /// none can follow it: the connection can only be closed.
    Unfinished,
    /// The memory limit for buffers is reached.
    OutOfMemory,
}

impl Error {
    /// The close code, for errors that end the connection: that of the peer's Close frame (1005 if it had none), that
    /// of the peer's violation, or 1006 for an end without a Close frame.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Error::Closed(frame) => Some(frame.code),
            Error::ProtocolError(offence) => Some(offence.close_code()),
            Error::Broken | Error::SendTimeout | Error::PongTimeout | Error::CloseTimeout | Error::Io(_) => {
                Some(CloseCode::ABNORMAL)
            }
            _ => None,
        }
    }

    /// Whether the connection was closed with one of `codes`; 1006 means without a Close frame.
    pub fn is_close(&self, codes: &[CloseCode]) -> bool {
        self.ending_code().is_some_and(|code| codes.contains(&code))
    }

    /// Whether the connection was closed with a code other than `expected`, so that it is worth logging.
    pub fn is_unexpected_close(&self, expected: &[CloseCode]) -> bool {
        self.ending_code().is_some_and(|code| !expected.contains(&code))
    }

    /// Whether the peer sent a Close frame, rather than just ending the stream.
    pub fn is_clean(&self) -> bool {
        matches!(self, Error::Closed(_))
    }

    /// The code of an end that the peer caused.
    fn ending_code(&self) -> Option<CloseCode> {
        match self {
            Error::Closed(frame) => Some(frame.code),
            Error::Broken => Some(CloseCode::ABNORMAL),
            _ => None,
        }
    }
}

echoring_proto::error_texts! {
    enum Error {
        Closed(frame) => "closed by the peer ({frame})";
        Broken => "the connection ended without a Close frame";
        ProtocolError(offence) from offence => "the peer violated the protocol: {offence}";
        Io(error) from error => "the transport failed: {error}";
        ReadTimeout => "nothing was read before the deadline";
        WriteTimeout => "the message was not sent before the deadline";
        SendTimeout => "the peer did not read what was sent to it";
        PongTimeout => "the peer did not answer the heartbeat";
        CloseTimeout => "the peer did not answer our Close frame";
        Json(error) from error => "JSON: {error}";
        NotText => "not a text message";
        TooLong => "the message is longer than 2 GiB";
        ControlTooLong => "the payload of a ping or pong is longer than 125 bytes";
        CompressionLevel(level) => "the compression level {level} is not from 1 to 9";
        Closing => "this end is closing the connection";
        Unfinished => "an earlier message was left unfinished";
        OutOfMemory => "the memory limit for buffers is reached";
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::Json(error)
    }
}

/// For readers and writers of one message, whose traits only know [`io::Error`]. [`io::Error::downcast`] returns the
/// original error.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error {
            Error::Io(error) => return error,
            Error::Closed(_) | Error::Broken | Error::Closing | Error::Unfinished => {
                io::ErrorKind::ConnectionAborted
            }
            Error::ReadTimeout
            | Error::WriteTimeout
            | Error::SendTimeout
            | Error::PongTimeout
            | Error::CloseTimeout => io::ErrorKind::TimedOut,
            Error::OutOfMemory => io::ErrorKind::OutOfMemory,
            Error::ControlTooLong | Error::CompressionLevel(_) => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// How the connection ended, in a form that can be returned repeatedly.
#[derive(Clone, Debug)]
pub(super) enum End {
    Closed(CloseFrame),
    Broken,
    ProtocolError(ProtocolError),
    Io(io::ErrorKind, String),
    SendTimeout,
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
            End::ProtocolError(offence) => Error::ProtocolError(*offence),
            End::Io(kind, text) => Error::Io(io::Error::new(*kind, text.clone())),
            End::SendTimeout => Error::SendTimeout,
            End::PongTimeout => Error::PongTimeout,
            End::CloseTimeout => Error::CloseTimeout,
            End::OutOfMemory => Error::OutOfMemory,
        }
    }
}
