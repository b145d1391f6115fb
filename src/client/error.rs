//! Why a request, a subscription or the client failed.

use std::error::Error as StdError;
use std::fmt;

use echoring_async::reconnect::ReconnectError;

/// The server's refusal of a request.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The client has a subscription of that topic.
    AlreadySubscribed,
    /// The task of the client has ended.
    Closed,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SubscribeError::AlreadySubscribed => "the client has a subscription of that topic",
            SubscribeError::Closed => "the client's task has ended",
        })
    }
}

impl StdError for SubscribeError {}

/// Why the task of a client ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no further attempt to connect.
    Connection(ReconnectError),
    /// The server refused the session, for example because of the token.
    Refused(Refusal),
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
            ClientError::NotSpoken { .. } => None,
        }
    }
}

impl From<ReconnectError> for ClientError {
    fn from(error: ReconnectError) -> ClientError {
        ClientError::Connection(error)
    }
}
