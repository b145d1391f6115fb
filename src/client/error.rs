//! Why a request, a subscription or the client failed.

use std::error::Error as StdError;
use std::fmt;

use echoring_async::reconnect::{GaveUp, Reason};

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
#[derive(Clone, PartialEq, Eq)]
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

echoring_proto::error_debug!(struct Refusal { code, message, temporary });

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
#[derive(Clone)]
#[non_exhaustive]
pub enum RequestError {
    /// The server refused it, and did nothing.
    Refused(Refusal),
    /// The connection was lost before the answer: the request may have been done.
    Uncertain,
    /// The protocol has no such request.
    Unsupported,
    /// The program has closed the client, before the request or before its answer.
    Closed,
    /// The client had given up before the request, or before its answer.
    Failed(ClientError),
}

echoring_proto::error_texts! {
    enum RequestError {
        Refused(refusal) => "the server refused the request: {refusal}";
        Uncertain => "the connection was lost before the answer; the request may have been carried out";
        Unsupported => "the protocol has no such request";
        Closed => "the client is closed";
        Failed(error) from error => "{error}";
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
#[derive(Clone)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The client has a subscription of that topic.
    AlreadySubscribed,
    /// The protocol has no tokens of subscriptions.
    Unsupported,
    /// The program has closed the client.
    Closed,
    /// The client has given up.
    Failed(ClientError),
}

echoring_proto::error_texts! {
    enum SubscribeError {
        AlreadySubscribed => "the client already has a subscription to that topic";
        Unsupported => "the protocol has no subscription tokens";
        Closed => "the client is closed";
        Failed(error) from error => "{error}";
    }
}

/// Why a client ended although its program did not close it.
///
/// ```
/// use echoring::client::{Client, ClientError};
///
/// async fn run(client: &Client) {
///     match client.closed().await {
///         Ok(()) => {}
///         Err(ClientError::Connection(gave_up)) => eprintln!("gave up after {} attempts", gave_up.attempts()),
///         Err(error) => eprintln!("{error}"),
///     }
/// }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no further attempt to connect.
    Connection(GaveUp),
    /// The server refused the session, for example because of the token.
    Refused(Refusal),
    /// The server does not speak the protocol.
    NotSpoken {
        /// The subprotocol that was offered.
        subprotocol: &'static str,
    },
}

echoring_proto::error_texts! {
    enum ClientError {
        Connection(gave_up) from gave_up.failure() => "{}", connection_text(gave_up);
        Refused(refusal) => "the server refused the session: {refusal}";
        NotSpoken { subprotocol } => "the server does not speak {subprotocol}; check the path of the URL";
    }
}

fn connection_text(gave_up: &GaveUp) -> String {
    match gave_up.reason() {
        Reason::Permanent => gave_up.failure().to_string(),
        _ => format!("{gave_up}: {}", gave_up.failure()),
    }
}

impl From<GaveUp> for ClientError {
    fn from(gave_up: GaveUp) -> ClientError {
        ClientError::Connection(gave_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ended, Unauthorized};

    #[test]
    fn errors_are_readable_where_a_main_returns_them() {
        let refusal =
            || Refusal { code: "forbidden".into(), message: "no such user".into(), temporary: false };
        let failed = || ClientError::NotSpoken { subprotocol: "x" };
        let not_spoken = "the server does not speak x; check the path of the URL";
        let errors: [(&dyn StdError, &str, &str); 11] = [
            (&refusal(), "no such user (forbidden)", "Refusal {"),
            (
                &RequestError::Refused(refusal()),
                "the server refused the request: no such user (forbidden)",
                "Refused(",
            ),
            (&RequestError::Closed, "the client is closed", "Closed"),
            (&RequestError::Failed(failed()), not_spoken, "Failed("),
            (
                &SubscribeError::AlreadySubscribed,
                "the client already has a subscription to that topic",
                "AlreadySubscribed",
            ),
            (&SubscribeError::Failed(failed()), not_spoken, "Failed("),
            (&failed(), not_spoken, "NotSpoken {"),
            (
                &ClientError::Refused(refusal()),
                "the server refused the session: no such user (forbidden)",
                "Refused(",
            ),
            (&Ended::Token("none".into()), "no token for the subscription: none", "Token("),
            (&Ended::Failed(failed()), not_spoken, "Failed("),
            (&Unauthorized, "the user gets no token", "Unauthorized"),
        ];
        for (error, text, fields) in errors {
            assert_eq!(format!("{error:?}"), text);
            assert_eq!(format!("{error:#?}").lines().next(), Some(fields));
        }
    }
}
