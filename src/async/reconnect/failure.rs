//! Why a reconnecting client has no connection, and which causes are final.

#![forbid(unsafe_code)]

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::limits::RETRY_AFTER_MAX;
use crate::{DialError, Error};
use echoring_proto::CloseCode;
use echoring_proto::connection::CloseFrame;

/// Any error of a program, as [`on_open`](super::Reconnecting::on_open) returns it.
///
/// ```
/// use echoring::Dialer;
/// use echoring::reconnect::BoxError;
///
/// let feed = Dialer::new().reconnecting("wss://live.example/").on_open(async |mut conn| {
///     conn.write("subscribe").await?;
///     Ok::<_, BoxError>(conn)
/// });
/// # drop(feed);
/// ```
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why an attempt failed, or a connection ended.
///
/// ```
/// use echoring::Dialer;
/// use echoring::reconnect::Failure;
///
/// // Also after any response other than 101.
/// let feed = Dialer::new()
///     .reconnecting("wss://live.example/")
///     .retry_if(|failure| failure.is_temporary() || matches!(failure, Failure::Dial(error) if error.response().is_some()));
/// # drop(feed);
/// ```
#[non_exhaustive]
pub enum Failure {
    /// The connection could not be opened.
    Dial(DialError),
    /// The function of [`Reconnecting::new`](super::Reconnecting::new) failed with its own error.
    Connect(BoxError),
    /// The callback of [`on_open`](super::Reconnecting::on_open) failed.
    OnOpen(BoxError),
    /// The connection was open, and ended.
    Lost(Error),
    /// The attempt had not succeeded at the time limit of
    /// [`give_up_after`](super::Reconnecting::give_up_after), or the callback of
    /// [`on_open`](super::Reconnecting::on_open) at its own.
    Timeout,
}

impl Failure {
    /// Whether a retry may succeed. A dial may if [its error says so](DialError::is_temporary): after 429 and 5xx, not
    /// after 401, 403 and 404. An end may unless the code of the server's Close frame [is final](CloseCode::is_final).
    pub fn is_temporary(&self) -> bool {
        match self {
            Failure::Dial(error) => error.is_temporary(),
            Failure::Connect(_) => true,
            Failure::OnOpen(_) | Failure::Lost(_) => !self.close_code().is_some_and(CloseCode::is_final),
            Failure::Timeout => true,
        }
    }

    /// The code of the server's Close frame, if one ended the connection.
    pub fn close_code(&self) -> Option<CloseCode> {
        self.close_frame().map(|frame| frame.code)
    }

    fn close_frame(&self) -> Option<&CloseFrame> {
        let ended = match self {
            Failure::Lost(error) => Some(error),
            Failure::OnOpen(error) => error.downcast_ref(),
            Failure::Dial(_) | Failure::Connect(_) | Failure::Timeout => None,
        };
        match ended {
            Some(Error::Closed(frame)) => Some(frame),
            _ => None,
        }
    }

    /// The error of the dial, if that failed.
    pub fn dial(&self) -> Option<&DialError> {
        match self {
            Failure::Dial(error) => Some(error),
            _ => None,
        }
    }

    /// An error of the function that opens connections.
    pub(super) fn of_connect(error: BoxError) -> Failure {
        error.downcast().map_or_else(Failure::Connect, |error| Failure::Dial(*error))
    }

    /// How long the server asks to wait, within reason.
    pub(super) fn retry_after(&self) -> Duration {
        let at_its_end = || self.close_frame().and_then(CloseFrame::retry_after);
        let asked = self.dial().and_then(DialError::retry_after).or_else(at_its_end);
        asked.map_or(Duration::ZERO, |delay| delay.min(Duration::from_nanos(RETRY_AFTER_MAX)))
    }
}

// The text of the wrapped error is also its own.
echoring_proto::error_texts! {
    enum Failure {
        Dial(error) from error => "{error}";
        Connect(error) from error => "{error}";
        OnOpen(error) from error => "{error}";
        Lost(error) from error => "{error}";
        Timeout => "the attempt took too long";
    }
}

/// Why there is no further attempt.
///
/// ```
/// use echoring::reconnect::{GaveUp, Reason};
///
/// fn explain(gave_up: &GaveUp) -> &'static str {
///     match gave_up.reason() {
///         Reason::Permanent => "the server does not want this client",
///         _ => "the server is gone",
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The failure is permanent: see [`retry_if`](super::Reconnecting::retry_if).
    Permanent,
    /// The maximum number of attempts was made.
    Attempts,
    /// The time limit passed, or would pass before the next attempt.
    Time,
}

/// A reconnecting client has given up. Clones share the failure.
///
/// ```
/// use echoring::reconnect::State;
///
/// fn report(state: &State) {
///     if let State::Failed(gave_up) = state {
///         println!("{gave_up} ({} attempts): {}", gave_up.attempts(), gave_up.failure());
///     }
/// }
/// ```
#[derive(Clone)]
pub struct GaveUp(Arc<Details>);

#[derive(Debug)]
struct Details {
    failure: Failure,
    reason: Reason,
    attempts: u32,
}

impl GaveUp {
    pub(crate) fn new(failure: Failure, reason: Reason, attempts: u32) -> GaveUp {
        GaveUp(Arc::new(Details { failure, reason, attempts }))
    }

    /// The last failure.
    pub fn failure(&self) -> &Failure {
        &self.0.failure
    }

    /// Why there is no further attempt.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The number of attempts since the last stable connection.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }
}

/// The failure is the [source](StdError::source), and not part of the text.
impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.attempts();
        match self.reason() {
            Reason::Permanent => f.write_str("the failure is permanent; not reconnecting"),
            Reason::Attempts => write!(f, "gave up after {attempts} attempts"),
            Reason::Time => write!(f, "gave up at the time limit, after {attempts} attempts"),
        }
    }
}

impl StdError for GaveUp {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.failure())
    }
}

echoring_proto::error_debug!(struct GaveUp(details));

/// Why a call of a reconnecting client failed.
///
/// ```
/// use echoring::Reconnecting;
/// use echoring::reconnect::ReconnectError;
///
/// async fn follow(mut feed: Reconnecting) {
///     loop {
///         match feed.read().await {
///             Ok(message) => println!("{} bytes", message.len()),
///             // The connection goes on.
///             Err(ReconnectError::Conn(error)) => println!("{error}"),
///             Err(error) => return println!("{error}"),
///         }
///     }
/// }
/// ```
#[non_exhaustive]
pub enum ReconnectError {
    /// There is no connection and no further attempt. Every later call returns this too, until
    /// [`restart`](super::Reconnecting::restart).
    GaveUp(GaveUp),
    /// The call failed, and the connection continues: a deadline passed, a message is too long, or JSON is invalid.
    Conn(Error),
}

impl ReconnectError {
    /// The failure, if the client has given up.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            ReconnectError::GaveUp(gave_up) => Some(gave_up.failure()),
            ReconnectError::Conn(_) => None,
        }
    }

    /// The error of the dial, if the client has given up because of one.
    pub fn dial(&self) -> Option<&DialError> {
        self.failure().and_then(Failure::dial)
    }
}

echoring_proto::error_texts! {
    enum ReconnectError {
        GaveUp(gave_up) from gave_up => "{gave_up}";
        Conn(error) from error => "{error}";
    }
}

impl From<GaveUp> for ReconnectError {
    fn from(gave_up: GaveUp) -> ReconnectError {
        ReconnectError::GaveUp(gave_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CloseFrame;

    fn closed(code: u16) -> Error {
        Error::Closed(CloseFrame { code: CloseCode(code), reason: "because".into() })
    }

    #[test]
    fn a_close_frame_that_refuses_the_client_is_final_and_others_are_not() {
        let temporary = [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 3000, 3999, 4008, 4009, 4010];
        let permanent = [1002, 1003, 1007, 1008, 1009, 1010, 4000, 4001, 4003, 4007, 4011, 4999];
        for (codes, expected) in [(&temporary[..], true), (&permanent[..], false)] {
            for &code in codes {
                assert_eq!(Failure::Lost(closed(code)).is_temporary(), expected, "{code}");
                assert_eq!(Failure::OnOpen(closed(code).into()).is_temporary(), expected, "{code}");
            }
        }
        assert!(Failure::OnOpen("no answer".into()).is_temporary());
        assert!(Failure::Lost(Error::Broken).is_temporary() && Failure::Timeout.is_temporary());
    }

    #[test]
    fn the_failure_is_the_source_and_not_part_of_the_text() {
        let gave_up = GaveUp::new(Failure::Lost(closed(4003)), Reason::Attempts, 3);
        assert_eq!(gave_up.to_string(), "gave up after 3 attempts");
        assert!(gave_up.source().expect("a failure").to_string().contains("4003"));
        let error = ReconnectError::from(gave_up);
        assert_eq!(error.failure().and_then(Failure::close_code), Some(CloseCode(4003)));
    }
}
