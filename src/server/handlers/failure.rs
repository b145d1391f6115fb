//! [`Failure`]: why a handler's connection closes, from any error.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use crate::handlers::sender::SendError;
use crate::handlers::subscription::close_code;
use echoring_broker::publications::PublishError;
use echoring_broker::subscription::SubscribeError;
use echoring_proto::{CloseCode, error_debug};
use echoring_runtime::shard::Goodbye;
use echoring_topics::Refused;

/// An error that closes the connection of a handler, with its close code.
///
/// `?` converts any error, boxed ones and those of `anyhow` included. The errors of this crate have close codes of their own:
/// [`Busy`] and a full [`RemoteSender`](crate::RemoteSender) close with 4008, refusals by a topic with 1013 or 1008. A
/// refusal because the server drains is no failure of the handler: the connection is closed as the drain closes all,
/// behind the messages of its topics and with 1001. For any other error the peer gets 1011 without the error's text,
/// which is logged.
///
/// ```
/// use echoring::CloseCode;
/// use echoring::server::{Failure, Result};
///
/// fn parse(text: &str) -> Result<u32> {
///     let number: u32 = text.parse()?;
///     if number > 100 {
///         return Err(Failure::new(CloseCode::POLICY, "at most 100"));
///     }
///     Ok(number)
/// }
/// assert_eq!(parse("x").unwrap_err().code(), CloseCode::INTERNAL);
/// assert_eq!(parse("101").unwrap_err().code(), CloseCode::POLICY);
/// ```
pub struct Failure(Box<Inner>);

/// The result of a call of a [`Handler`](crate::Handler): an error closes the connection, see [`Failure`].
///
/// With two parameters it is the standard library's, so a program may import it in its place.
///
/// ```
/// use echoring::server::{Handler, Remote, Result, Server};
///
/// struct Greeter;
///
/// impl Handler for Greeter {
///     fn open(&mut self, remote: &mut Remote<'_>) -> Result {
///         Ok(remote.send_text("hello")?)
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let server = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).handle("/", || Greeter).start()?;
///     server.shutdown(std::time::Duration::from_secs(1))?;
///     Ok(())
/// }
/// ```
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

enum Inner {
    /// Closes at once, behind the queued messages.
    Close { code: CloseCode, reason: Cow<'static, str>, cause: Option<Box<dyn Error + Send + Sync>> },
    /// Leaves the connection to the drain, which has refused something.
    Draining,
}

impl Failure {
    /// Closes with `code` and `reason`; the peer gets the first 123 bytes of the reason (RFC 6455, 5.5.1). A code that
    /// must not be sent (7.4.1) becomes an empty Close frame.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Failure {
        Failure(Box::new(Inner::Close { code, reason: reason.into(), cause: None }))
    }

    /// The close code.
    pub fn code(&self) -> CloseCode {
        match &*self.0 {
            Inner::Close { code, .. } => *code,
            Inner::Draining => Goodbye::GOING_AWAY.code,
        }
    }

    /// The close reason.
    pub fn reason(&self) -> &str {
        match &*self.0 {
            Inner::Close { reason, .. } => reason,
            Inner::Draining => Goodbye::GOING_AWAY.reason,
        }
    }

    /// The refusals were caused by the server's drain.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(*self.0, Inner::Draining)
    }

    fn cause(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        match &*self.0 {
            Inner::Close { cause, .. } => cause.as_deref(),
            Inner::Draining => None,
        }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let cause = error.into();
        if let Some(failure) = known_failure(&*cause) {
            return failure;
        }
        let reason = Cow::Borrowed("internal error");
        Failure(Box::new(Inner::Close { code: CloseCode::INTERNAL, reason, cause: Some(cause) }))
    }
}

/// The failure for an error of this crate, or for one that was caused by such an error.
fn known_failure(error: &(dyn Error + 'static)) -> Option<Failure> {
    error_debug::chain(error).find_map(|error| {
        if error.is::<Busy>() || error.downcast_ref() == Some(&SendError::Full) {
            return Some(Failure::new(CloseCode::SLOW_CONSUMER, "slow consumer"));
        }
        if let Some(error) = error.downcast_ref::<SubscribeError>() {
            return Some(match error {
                SubscribeError::Refused(Refused::Draining) => Failure(Box::new(Inner::Draining)),
                SubscribeError::Refused(refused) => {
                    Failure::new(close_code(refused.is_passing()), error.to_string())
                }
                _ => Failure::new(close_code(false), error.to_string()),
            });
        }
        Some(match error.downcast_ref::<PublishError>()? {
            PublishError::Refused(Refused::Draining) => Failure(Box::new(Inner::Draining)),
            error => Failure::new(close_code(error.is_passing()), error.to_string()),
        })
    })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.reason())?;
        match self.cause() {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

/// The text and its causes; `{:#?}` has the fields.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = self.cause();
        if f.alternate() {
            let mut fields = f.debug_struct("Failure");
            fields.field("code", &self.code()).field("reason", &self.reason());
            return fields.field("cause", &cause).finish();
        }
        error_debug::write(f, self, cause.and_then(|cause| cause.source()))
    }
}

/// Nothing was sent, because the queue of the connection is full or the connection is closing. If the queue is full,
/// [`Handler::writable`](crate::Handler::writable) follows. As a [`Failure`] it closes with 4008, a slow consumer.
///
/// ```
/// use echoring::server::{Busy, Handler, Remote, Result};
///
/// /// Sends all numbers up to a million, as fast as the peer takes them.
/// struct Numbers(u32);
///
/// impl Numbers {
///     fn send(&mut self, remote: &mut Remote<'_>) {
///         while self.0 < 1_000_000 && remote.send_text(&self.0.to_string()) != Err(Busy) {
///             self.0 += 1;
///         }
///     }
/// }
///
/// impl Handler for Numbers {
///     fn open(&mut self, remote: &mut Remote<'_>) -> Result {
///         self.send(remote);
///         Ok(())
///     }
///
///     fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
///         self.send(remote);
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer is too slow, or the connection is closing")]
pub struct Busy;

echoring_proto::error_debug!(struct Busy);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_goes_to_the_log_and_not_to_the_peer() {
        let failure = Failure::from(std::io::Error::other("the password is 1234"));
        assert_eq!((failure.code(), failure.reason()), (CloseCode::INTERNAL, "internal error"));
        assert_eq!(failure.to_string(), "1011 internal error: the password is 1234");
    }

    #[test]
    fn errors_of_this_crate_have_close_codes_of_their_own_also_as_causes() {
        #[derive(Debug)]
        struct Outer(SubscribeError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("cannot join")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let boxed: Box<dyn Error + Send + Sync> = Busy.into();
        for (failure, code) in [
            (Failure::from(Busy), CloseCode::SLOW_CONSUMER),
            (Failure::from(boxed), CloseCode::SLOW_CONSUMER),
            (Failure::from(SendError::Full), CloseCode::SLOW_CONSUMER),
            (Failure::from(SendError::Closed), CloseCode::INTERNAL),
            (Failure::from(PublishError::BadTopic), CloseCode::POLICY),
            (Failure::from(PublishError::Refused(Refused::Busy)), CloseCode::TRY_AGAIN_LATER),
            (Failure::from(PublishError::Refused(Refused::Draining)), CloseCode::GOING_AWAY),
            (Failure::from(Outer(SubscribeError::Refused(Refused::Draining))), CloseCode::GOING_AWAY),
            (Failure::from(Outer(SubscribeError::TooMany)), CloseCode::POLICY),
            (Failure::from("a text"), CloseCode::INTERNAL),
        ] {
            assert_eq!(failure.code(), code, "{failure}");
        }
    }
}
