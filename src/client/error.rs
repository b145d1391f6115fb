//! Why a request, a subscription or the client failed.

use std::error::Error as StdError;
use std::fmt;

use echoring_async::reconnect::ReconnectError;

/// The server's refusal of a request.
///
/// ```
/// use echoring::client::Refusal;
///
/// fn is_worth_a_retry(refusal: &Refusal) -> bool {
///     eprintln!("{refusal}");
///     refusal.temporary && refusal.code != "draining"
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The code: a word of `echoring.v1.json`, or a number of Centrifuge's protocol.
    pub code: String,
    /// The explanation, for people.
    pub message: String,
    /// Whether the same request may succeed later.
    pub temporary: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.is_empty() {
            true => f.write_str(&self.code),
            false => write!(f, "{} ({})", self.message, self.code),
        }
    }
}

impl StdError for Refusal {}

/// Why a request failed.
///
/// ```
/// use echoring::client::{Client, RequestError};
///
/// async fn order(client: &Client) {
///     match client.publish("orders", "buy 3").await {
///         Ok(published) => println!("order at {:?}", published.position),
///         Err(RequestError::Refused(refusal)) if refusal.temporary => println!("try again soon"),
///         Err(RequestError::Uncertain) => println!("ask whether it was executed"),
///         Err(error) => eprintln!("{error}"),
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The server refused it, and did nothing.
    Refused(Refusal),
    /// The connection was lost before the answer: the request may have been done.
    Uncertain,
    /// The protocol has no such request.
    Unsupported,
    /// The task of the client has ended.
    Closed,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Refused(_) => f.write_str("the server refused the request"),
            RequestError::Uncertain => {
                f.write_str("the connection was lost before the answer; the request may have been done")
            }
            RequestError::Unsupported => f.write_str("the protocol has no such request"),
            RequestError::Closed => f.write_str("the client's task has ended"),
        }
    }
}

impl StdError for RequestError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            RequestError::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// Why there is no subscription.
///
/// ```
/// use echoring::client::{Client, SubscribeError, Subscription};
///
/// async fn follow(client: &Client) -> Option<Subscription> {
///     match client.subscribe("news").await {
///         Ok(subscription) => Some(subscription),
///         // Another part of the program has it.
///         Err(SubscribeError::AlreadySubscribed) => None,
///         Err(error) => panic!("{error}"),
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The client has a subscription of that topic.
    AlreadySubscribed,
    /// The protocol has no tokens of subscriptions.
    Unsupported,
    /// The task of the client has ended.
    Closed,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SubscribeError::AlreadySubscribed => "the client has a subscription of that topic",
            SubscribeError::Unsupported => "the protocol has no tokens of subscriptions",
            SubscribeError::Closed => "the client's task has ended",
        })
    }
}

impl StdError for SubscribeError {}

/// Why the task of a client ended.
///
/// ```
/// use echoring::client::{Client, ClientError, Protocol};
///
/// async fn run() {
///     let (client, task) = Client::new(Protocol::Echoring, "wss://live.example/broadcast");
///     match task.await {
///         Ok(()) => {}
///         Err(ClientError::Connection(error)) => eprintln!("no connection: {error}"),
///         Err(error) => eprintln!("{error}"),
///     }
///     # drop(client);
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no further attempt to connect.
    Connection(ReconnectError),
    /// The server refused the session, for example because of the token.
    Refused(Refusal),
    /// The program's [`TokenSource`](crate::TokenSource) failed.
    Token(Box<dyn StdError + Send + Sync>),
    /// The server does not speak the protocol.
    NotSpoken {
        /// The subprotocol that was offered.
        subprotocol: &'static str,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connection(_) => f.write_str("no connection"),
            ClientError::Refused(_) => f.write_str("the server refused the session"),
            ClientError::Token(_) => f.write_str("there is no token"),
            ClientError::NotSpoken { subprotocol } => {
                write!(f, "the server does not speak {subprotocol}; check the path of the URL")
            }
        }
    }
}

impl StdError for ClientError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            ClientError::Connection(error) => Some(error),
            ClientError::Refused(refusal) => Some(refusal),
            ClientError::Token(error) => Some(&**error),
            ClientError::NotSpoken { .. } => None,
        }
    }
}

impl From<ReconnectError> for ClientError {
    fn from(error: ReconnectError) -> ClientError {
        ClientError::Connection(error)
    }
}
