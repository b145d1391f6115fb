//! Messages and publications as a test sees them.

use std::fmt;

use echoring_broker::observer::{ObservedFailure, ObservedPublication};
use echoring_proto::CloseCode;
use echoring_topics::{Content, Position};

/// A message that a test client has received.
///
/// ```
/// use echoring::server::{Disposition, Handler, Message, Remote, Result, Server};
/// use echoring::testing::{TestMessage, TestServer};
///
/// struct Parrot;
///
/// impl Handler for Parrot {
///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
///         Ok(Disposition::Echo)
///     }
/// }
///
/// let server = TestServer::new(Server::builder().handle("/echo", || Parrot));
/// let client = server.connect("/echo")?;
/// client.send_text("hello");
/// assert_eq!(client.next_message(), Some(TestMessage::Text("hello".to_owned())));
/// # Ok::<(), echoring::testing::TestResponse>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TestMessage {
    /// Text.
    Text(String),
    /// Any bytes.
    Binary(Vec<u8>),
}

impl TestMessage {
    /// The text; `None` for a binary message.
    pub fn text(&self) -> Option<&str> {
        match self {
            TestMessage::Text(text) => Some(text),
            TestMessage::Binary(_) => None,
        }
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        match self {
            TestMessage::Text(text) => text.as_bytes(),
            TestMessage::Binary(payload) => payload,
        }
    }
}

impl From<&str> for TestMessage {
    fn from(text: &str) -> TestMessage {
        TestMessage::Text(text.to_owned())
    }
}

impl From<&[u8]> for TestMessage {
    fn from(payload: &[u8]) -> TestMessage {
        TestMessage::Binary(payload.to_vec())
    }
}

/// A publication that a topic's owner has accepted. Repetitions with the same idempotency key are not accepted again.
///
/// ```
/// use echoring::server::{Disposition, Handler, Message, Remote, Result, Server};
/// use echoring::testing::TestServer;
///
/// struct Parrot;
///
/// impl Handler for Parrot {
///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
///         remote.publish("news", message)?;
///         Ok(Disposition::Done)
///     }
/// }
///
/// let server = TestServer::new(Server::builder().handle("/news", || Parrot));
/// let client = server.connect("/news")?;
/// client.send_text("hello");
/// let published = server.take_published("news");
/// assert_eq!((published[0].payload.as_slice(), published[0].position.offset), (&b"hello"[..], 1));
/// # Ok::<(), echoring::testing::TestResponse>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestPublication {
    /// The name of the topic.
    pub topic: String,
    /// Its position. Epochs follow from the seed of the test server.
    pub position: Position,
    /// The type of the payload.
    pub content: Content,
    /// The key of which the message is the latest state; empty for none.
    pub key: String,
    /// The payload.
    pub payload: Vec<u8>,
}

impl TestPublication {
    /// The payload of text or JSON; `None` if it is binary.
    pub fn text(&self) -> Option<&str> {
        match self.content {
            Content::Text | Content::Json => std::str::from_utf8(&self.payload).ok(),
            Content::Binary => None,
        }
    }
}

impl TestPublication {
    pub(super) fn of(observed: ObservedPublication) -> TestPublication {
        let ObservedPublication { topic, position, content, key, payload } = observed;
        TestPublication { topic, position, content, key, payload }
    }
}

/// An error or a panic of a handler, which has closed its connection. `Display` has the error with its code, or the
/// text of the panic.
///
/// ```
/// use echoring::server::{Disposition, Handler, Message, Remote, Result, Server};
/// use echoring::testing::TestServer;
///
/// struct Parrot;
///
/// impl Handler for Parrot {
///     fn message(&mut self, _: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
///         panic!("no {}", message.len())
///     }
/// }
///
/// let server = TestServer::new(Server::builder().handle("/echo", || Parrot));
/// let client = server.connect("/echo")?;
/// client.send_text("hello");
/// let failures = server.take_failures();
/// assert!(failures[0].is_panic);
/// assert_eq!((failures[0].code.0, failures[0].to_string().as_str()), (1011, "a handler panicked: no 5"));
/// # Ok::<(), echoring::testing::TestResponse>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerFailure {
    /// The close code that the peer gets.
    pub code: CloseCode,
    /// Whether it is a panic.
    pub is_panic: bool,
    /// The error's text, which the peer does not get unless it is a [`Failure`](crate::Failure) of its own; or the text
    /// of the panic.
    pub text: String,
}

impl fmt::Display for HandlerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_panic {
            true => write!(f, "a handler panicked: {}", self.text),
            false => f.write_str(&self.text),
        }
    }
}

impl HandlerFailure {
    pub(super) fn of(observed: ObservedFailure) -> HandlerFailure {
        let ObservedFailure { code, is_panic, text } = observed;
        HandlerFailure { code, is_panic, text }
    }
}
