//! What a program writes for the connections of its own routes: a [`Handler`], one value for each connection.
//!
//! Never: the shards, their buffers or other connections. A handler sees its own connection only, through a
//! [`Remote`].

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

use super::Remote;
use crate::connection::{Chunk, Closed, Kind};
use crate::protocol::CloseCode;
use crate::shard::Disposition;

/// The code behind one connection, on the thread of the shard that owns the connection.
///
/// All calls for a connection are made one after the other, on one thread, so a handler need not be `Send`; what
/// several handlers share must be. A call must not block: all connections of the shard wait for it. Messages are lent,
/// not given, and a handler that keeps none of them allocates nothing per message.
///
/// What a call returns as an error closes that connection alone: with the error's code if it is a [`Failure`] that
/// says one, else with 1011. A panic does the same, and is logged and counted. In both cases the handler is dropped and
/// none of its functions is called again, [`close`](Handler::close) included.
///
/// ```
/// use echoring::server::{Disposition, Failure, Handler, Message, Remote};
///
/// /// Answers numbers with their doubles, and sends back what is no number.
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
    /// The 101 is on its way. What is sent here follows it.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn open(&mut self, remote: &mut Remote<'_>) -> Result<(), Failure> {
        let _ = remote;
        Ok(())
    }

    /// A whole message. [`Disposition::Echo`] sends it back from where it lies, without a copy.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition, Failure> {
        let _ = (remote, message);
        Ok(Disposition::Done)
    }

    /// Whether messages are to be shown in [chunks](Handler::chunk) as they arrive, instead of whole: for messages that
    /// are too long to be kept. Asked once, before [`open`](Handler::open).
    fn is_streaming(&self) -> bool {
        false
    }

    /// Whether to look up who is at the other end, which costs a system call or two. Asked once, like
    /// [`is_streaming`](Handler::is_streaming).
    fn wants_address(&self) -> bool {
        false
    }

    /// Who is at the other end, where [`wants_address`](Handler::wants_address) asked for it: some turns after
    /// [`open`](Handler::open), so messages may come before it. `None` where nobody can tell, as for a socket in the
    /// file system. Behind a proxy it is the proxy.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn addressed(&mut self, remote: &mut Remote<'_>, address: Option<SocketAddr>) -> Result<(), Failure> {
        let _ = (remote, address);
        Ok(())
    }

    /// A piece of a message, where [`is_streaming`](Handler::is_streaming) said so. [`Disposition::Echo`] sends it back
    /// as a fragment.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn chunk(&mut self, remote: &mut Remote<'_>, chunk: &Chunk<'_>) -> Result<Disposition, Failure> {
        let _ = (remote, chunk);
        Ok(Disposition::Done)
    }

    /// A ping. It has been answered already (RFC 6455, 5.5.2).
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn ping(&mut self, remote: &mut Remote<'_>, payload: &[u8]) -> Result<(), Failure> {
        let _ = (remote, payload);
        Ok(())
    }

    /// A pong, asked for or not (RFC 6455, 5.5.3).
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn pong(&mut self, remote: &mut Remote<'_>, payload: &[u8]) -> Result<(), Failure> {
        let _ = (remote, payload);
        Ok(())
    }

    /// There is room again after a send was refused with [`Busy`], or after the peer had stopped reading.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn writable(&mut self, remote: &mut Remote<'_>) -> Result<(), Failure> {
        let _ = remote;
        Ok(())
    }

    /// The time of [`Remote::wake_at`] has come. It is not called again unless asked for again.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn timer(&mut self, remote: &mut Remote<'_>) -> Result<(), Failure> {
        let _ = remote;
        Ok(())
    }

    /// The connection is over, in whatever way. Not called when the server is stopped at once; the handler is dropped
    /// in any case.
    fn close(&mut self, closed: &Closed) {
        let _ = closed;
    }
}

/// A whole message, lent for the length of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Text or binary.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its bytes; those of a text message are valid UTF-8.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The text of a text message; `None` for a binary one. Costs a second look at the bytes, by SIMD: no code outside
    /// the fences may take a promise about them on trust.
    pub fn text(&self) -> Option<&'a str> {
        match self.kind {
            Kind::Text => simdutf8::basic::from_utf8(self.payload).ok(),
            Kind::Binary => None,
        }
    }
}

/// Why a handler ends its connection, and with which code.
///
/// Any error becomes one by `?`: the peer is told 1011 and nothing of the error, which goes to the log.
///
/// ```
/// use echoring::protocol::CloseCode;
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
    /// Closes with `code` and `reason`, of which the peer gets the first 123 bytes (RFC 6455, 5.5.1). A code that must
    /// not be sent (7.4.1) becomes an empty Close frame.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Failure {
        Failure(Box::new(Inner { code, reason: reason.into(), cause: None }))
    }

    /// The code that the peer is told.
    pub fn code(&self) -> CloseCode {
        self.0.code
    }

    /// The reason that the peer is told.
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

/// Nothing was sent: more is queued to the peer than the queue's bound, or the connection is closing. In the first case
/// [`Handler::writable`] follows. As a [`Failure`] it closes with 4008, a slow consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer does not keep up, or the connection is closing")
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
        assert_eq!(message(Kind::Text, "Grüße".as_bytes()).text(), Some("Grüße"));
        assert_eq!(message(Kind::Binary, b"a").text(), None);
    }
}
