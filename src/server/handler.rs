//! [`Handler`]: the code of a program for the connections of its routes, one value per connection.
//!
//! A handler accesses its own connection only, through a [`Remote`].

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

use crate::remote::Remote;
use echoring_proto::CloseCode;
use echoring_proto::connection::{Chunk, Closed, MessageKind};
use echoring_runtime::shard::Disposition;

/// The code of one connection, on the thread of the shard that owns the connection.
///
/// All calls for a connection are sequential and on one thread, so a handler need not be `Send`; state that several
/// handlers share must be. A call must not block, because all connections of the shard wait for it. Messages are
/// borrowed: a handler that keeps none of them allocates nothing per message.
///
/// An error of a call closes its connection only: with the code of a [`Failure`], otherwise with 1011. A panic closes
/// with 1011 too, and is logged and counted. In both cases the handler is dropped, and no function of it is called
/// again, including [`close`](Handler::close).
///
/// ```
/// use echoring::server::{Disposition, Failure, Handler, Message, Remote};
///
/// /// Answers numbers with their doubles, and echoes everything else.
/// struct Doubler;
///
/// impl Handler for Doubler {
///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition, Failure> {
///         match message.text().and_then(|text| text.trim().parse::<i32>().ok()) {
///             Some(number) => {
///                 remote.send_text(&format!("{}", 2 * i64::from(number)))?;
///                 Ok(Disposition::Done)
///             }
///             None => Ok(Disposition::Echo),
///         }
///     }
/// }
/// ```
pub trait Handler {
    /// The 101 is queued. Messages that are sent here follow it.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn open(&mut self, remote: &mut Remote<'_>) -> Result<(), Failure> {
        let _ = remote;
        Ok(())
    }

    /// A whole message. [`Disposition::Echo`] sends it back without a copy.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition, Failure> {
        let _ = (remote, message);
        Ok(Disposition::Done)
    }

    /// Whether messages are passed in [chunks](Handler::chunk) as they arrive instead of whole, for messages that are
    /// too long to buffer. Called once, before [`open`](Handler::open).
    fn is_streaming(&self) -> bool {
        false
    }

    /// Whether to look up the address of the peer, which costs a system call or two. Called once, like
    /// [`is_streaming`](Handler::is_streaming).
    fn wants_address(&self) -> bool {
        false
    }

    /// The address of the peer, if [`wants_address`](Handler::wants_address) asked for it. The call follows
    /// [`open`](Handler::open) by some ticks, so messages may come first. `None` if there is no address, as on a Unix
    /// socket. Behind a proxy it is the address of the proxy.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn addressed(&mut self, remote: &mut Remote<'_>, address: Option<SocketAddr>) -> Result<(), Failure> {
        let _ = (remote, address);
        Ok(())
    }

    /// A chunk of a message, if [`is_streaming`](Handler::is_streaming) returned true. [`Disposition::Echo`] sends it
    /// back as a fragment.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn chunk(&mut self, remote: &mut Remote<'_>, chunk: &Chunk<'_>) -> Result<Disposition, Failure> {
        let _ = (remote, chunk);
        Ok(Disposition::Done)
    }

    /// A ping, which has been answered (RFC 6455, 5.5.2).
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn ping(&mut self, remote: &mut Remote<'_>, payload: &[u8]) -> Result<(), Failure> {
        let _ = (remote, payload);
        Ok(())
    }

    /// A pong, solicited or not (RFC 6455, 5.5.3).
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn pong(&mut self, remote: &mut Remote<'_>, payload: &[u8]) -> Result<(), Failure> {
        let _ = (remote, payload);
        Ok(())
    }

    /// The connection is writable again, after a send was refused with [`Busy`] or after the peer had stopped reading.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn writable(&mut self, remote: &mut Remote<'_>) -> Result<(), Failure> {
        let _ = remote;
        Ok(())
    }

    /// The timer of [`Remote::wake_at`] has expired. It does not repeat.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn timer(&mut self, remote: &mut Remote<'_>) -> Result<(), Failure> {
        let _ = remote;
        Ok(())
    }

    /// The connection is closed, for any reason. Not called if the server is stopped without a drain; the handler is
    /// dropped in any case.
    fn close(&mut self, closed: &Closed) {
        let _ = closed;
    }
}

/// A whole message, borrowed for the length of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub(super) kind: MessageKind,
    pub(super) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Text or binary.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The payload. That of a text message is valid UTF-8.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Length of the payload in bytes.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The text of a text message; `None` for a binary one. The bytes are validated again, with SIMD, because this
    /// crate has no unsafe code.
    pub fn text(&self) -> Option<&'a str> {
        match self.kind {
            MessageKind::Text => simdutf8::basic::from_utf8(self.payload).ok(),
            MessageKind::Binary => None,
        }
    }
}

/// An error that closes the connection of a handler, with its close code.
///
/// `?` converts any error: the peer gets 1011 without the error's text, which is logged.
///
/// ```
/// use echoring::CloseCode;
/// use echoring::server::Failure;
///
/// fn parse(text: &str) -> Result<u32, Failure> {
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

struct Inner {
    code: CloseCode,
    reason: Cow<'static, str>,
    cause: Option<Box<dyn Error>>,
}

impl Failure {
    /// Closes with `code` and `reason`; the peer gets the first 123 bytes of the reason (RFC 6455, 5.5.1). A code that
    /// must not be sent (7.4.1) becomes an empty Close frame.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Failure {
        Failure(Box::new(Inner { code, reason: reason.into(), cause: None }))
    }

    /// The close code.
    pub fn code(&self) -> CloseCode {
        self.0.code
    }

    /// The close reason.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        let reason = Cow::Borrowed("internal error");
        Failure(Box::new(Inner { code: CloseCode::INTERNAL, reason, cause: Some(Box::new(error)) }))
    }
}

impl From<Busy> for Failure {
    fn from(_: Busy) -> Failure {
        Failure::new(CloseCode::SLOW_CONSUMER, "slow consumer")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.code, self.0.reason)?;
        match &self.0.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

/// Nothing was sent, because the queue of the connection is full or the connection is closing. If the queue is full,
/// [`Handler::writable`] follows. As a [`Failure`] it closes with 4008, a slow consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer is too slow, or the connection is closing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_goes_to_the_log_and_not_to_the_peer() {
        let failure = Failure::from(std::io::Error::other("the password is 1234"));
        assert_eq!((failure.code(), failure.reason()), (CloseCode::INTERNAL, "internal error"));
        assert_eq!(failure.to_string(), "1011 internal error: the password is 1234");
        assert_eq!(Failure::from(Busy).code(), CloseCode::SLOW_CONSUMER);
    }

    #[test]
    fn text_is_had_of_text_only() {
        let message = |kind, payload| Message { kind, payload };
        assert_eq!(message(MessageKind::Text, "Grüße".as_bytes()).text(), Some("Grüße"));
        assert_eq!(message(MessageKind::Binary, b"a").text(), None);
    }
}
