//! Why a dial failed.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::ProxyError;
use crate::tls::{Cause, TlsError};
use echoring_proto::handshake::{BadField, BadHandshake};
use echoring_proto::url::BadUrl;

/// A server's response: status, header fields, and the first KiB of the body.
///
/// ```
/// use echoring::{DialError, Dialer};
///
/// async fn cookie(url: &str) -> Result<Option<String>, DialError> {
///     let (_conn, response) = Dialer::new().dial_with_response(url).await?;
///     let cookie = response.headers().get("set-cookie").and_then(|cookie| cookie.to_str().ok());
///     Ok(cookie.map(str::to_owned))
/// }
/// ```
pub type Response = http::Response<Bytes>;

/// A step of a dial.
///
/// ```
/// use echoring::{DialError, Stage};
///
/// let error = DialError::Timeout(Stage::Tls);
/// assert_eq!(Stage::Tls.to_string(), "the TLS handshake");
/// assert!(error.is_temporary());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// The name lookup.
    Resolve,
    /// The TCP connection.
    Connect,
    /// The proxy's handshake.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The WebSocket handshake.
    Upgrade,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Resolve => "the name lookup",
            Stage::Connect => "connecting",
            Stage::Proxy => "the proxy's handshake",
            Stage::Tls => "the TLS handshake",
            Stage::Upgrade => "the WebSocket handshake",
        })
    }
}

/// Why a dial failed, by step. The text includes that of the wrapped error; `source` is its cause.
///
/// ```
/// use echoring::{DialError, dial};
///
/// async fn connect(url: &str) {
///     match dial(url).await {
///         Ok(conn) => drop(conn),
///         Err(DialError::Redirect { location, .. }) => println!("it has moved to {location}"),
///         Err(error) if error.is_temporary() => println!("try again soon: {error}"),
///         Err(error) => println!("{error}: {:?}", error.response().map(|response| response.status())),
///     }
/// }
/// ```
#[non_exhaustive]
pub enum DialError {
    /// The URL is invalid.
    BadUrl(BadUrl),
    /// A header field of the request is not allowed or has an invalid value.
    BadField {
        /// The name of the field.
        name: String,
        /// The problem with the field.
        why: BadField,
    },
    /// The name of the host or the proxy has no address.
    Resolve(io::Error),
    /// No address of the host or the proxy could be connected to; the error of the last one.
    Connect(io::Error),
    /// The proxy refused or failed.
    Proxy(ProxyError),
    /// The TLS configuration is invalid.
    TlsSetup(TlsError),
    /// The TLS handshake failed, most often because the server's certificate is not trusted.
    Tls(Cause),
    /// A step exceeded its time limit.
    Timeout(Stage),
    /// The stream failed during a handshake.
    Io(io::Error),
    /// The server closed the connection without a response.
    Closed,
    /// The server redirects. The program must decide whether it follows, and with which header fields and cookies.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The `Location` as sent; possibly relative, and with `http` for `ws` and `https` for `wss`.
        location: String,
        /// The complete response.
        response: Box<Response>,
    },
    /// The server's response does not accept the WebSocket.
    BadHandshake {
        /// The problem with the response.
        why: BadHandshake,
        /// The response, if it is HTTP.
        response: Option<Box<Response>>,
    },
}

impl DialError {
    /// Whether a retry may succeed: the network, DNS or the proxy failed, the server closed the connection or did not
    /// respond in time, or it responded with 429 or 5xx, as a server does that restarts or has too much to do, and the load
    /// balancer before it (RFC 6585, section 4; RFC 9110, section 15.6).
    ///
    /// Not for an invalid URL, request or configuration, for TLS parameters or certificates that are not accepted, or for
    /// any other response, such as 401, 403 and 404. Nor for 501 and 505, by which a server says that it does not
    /// support WebSockets.
    pub fn is_temporary(&self) -> bool {
        match self {
            DialError::BadHandshake { why: BadHandshake::Status(status), .. } => is_overload(*status),
            DialError::BadUrl(_)
            | DialError::BadField { .. }
            | DialError::TlsSetup(_)
            | DialError::Redirect { .. }
            | DialError::BadHandshake { .. } => false,
            DialError::Tls(error) => error.is_temporary(),
            DialError::Proxy(ProxyError::Status(status)) => !(400..500).contains(status),
            DialError::Proxy(ProxyError::NotEncodable) => false,
            DialError::Proxy(_)
            | DialError::Resolve(_)
            | DialError::Connect(_)
            | DialError::Timeout(_)
            | DialError::Io(_)
            | DialError::Closed => true,
        }
    }

    /// The server's response, if there is one.
    pub fn response(&self) -> Option<&Response> {
        match self {
            DialError::Redirect { response, .. } => Some(response),
            DialError::BadHandshake { response, .. } => response.as_deref(),
            _ => None,
        }
    }

    /// How long the server asks to wait before a retry: the `Retry-After` of its response in seconds (RFC 9110, section
    /// 10.2.3). `None` without one, or if it is a date.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// async fn dial_twice(url: &str) -> Result<echoring::Conn<echoring::ClientStream>, echoring::DialError> {
    ///     match echoring::dial(url).await {
    ///         Err(error) if error.is_temporary() => {
    ///             tokio::time::sleep(error.retry_after().unwrap_or(Duration::from_secs(1))).await;
    ///             echoring::dial(url).await
    ///         }
    ///         dialled => dialled,
    ///     }
    /// }
    /// ```
    pub fn retry_after(&self) -> Option<Duration> {
        let field = self.response()?.headers().get(http::header::RETRY_AFTER)?;
        field.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
    }

    /// rustls's errors are wrapped in [`io::Error`].
    pub(super) fn of_tls(error: io::Error) -> DialError {
        match error.downcast::<rustls::Error>() {
            Ok(error) => DialError::Tls(Cause::of(error)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => DialError::Closed,
            Err(error) => DialError::Io(error),
        }
    }

    pub(super) fn of_stream(error: io::Error) -> DialError {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                DialError::Closed
            }
            _ => DialError::of_tls(error),
        }
    }
}

/// Whether a response says that the server, or one behind it, cannot serve now.
fn is_overload(status: u16) -> bool {
    matches!(status, 429 | 500 | 502..=504 | 506..=599)
}

echoring_proto::error_texts! {
    enum DialError {
        BadUrl(why) from why => "{why}";
        BadField { name, why } from why => "invalid request header {name:?}: {why}";
        Resolve(error) from error => "cannot resolve the host name: {error}";
        Connect(error) from error => "cannot connect: {error}";
        Proxy(error) from error => "{error}";
        TlsSetup(error) from error => "{error}";
        Tls(error) from error => "the TLS handshake failed: {error}{}", error.hint();
        Timeout(stage) => "{stage} took too long";
        Io(error) from error => "the stream failed during the handshake: {error}";
        Closed => "the server closed the connection without a response";
        Redirect { status, location, response } => "the server redirects ({status}) to {location:?}";
        BadHandshake { why, response } from why => "{why}{}", first_line(response.as_deref());
    }
}

/// The first line of a response's body, for the text of an error.
fn first_line(response: Option<&Response>) -> String {
    let body = response.map(|response| String::from_utf8_lossy(response.body())).unwrap_or_default();
    let line = body.lines().next().filter(|line| !line.is_empty());
    line.map(|line| format!(": {}", line.escape_debug())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, retry_after: Option<&str>) -> DialError {
        let mut response = http::Response::builder().status(status);
        if let Some(value) = retry_after {
            response = response.header("Retry-After", value);
        }
        let response = response.body(Bytes::new()).expect("a response");
        DialError::BadHandshake { why: BadHandshake::Status(status), response: Some(Box::new(response)) }
    }

    #[test]
    fn a_server_that_is_overloaded_or_restarts_is_worth_a_retry_and_a_refusal_is_not() {
        for status in [429, 500, 502, 503, 504, 507, 520, 521, 530, 599] {
            assert!(refused(status, None).is_temporary(), "{status}");
        }
        for status in [200, 204, 300, 400, 401, 403, 404, 405, 407, 408, 410, 421, 426, 431, 501, 505, 600] {
            assert!(!refused(status, None).is_temporary(), "{status}");
        }
        assert!(!DialError::BadHandshake { why: BadHandshake::WrongAccept, response: None }.is_temporary());
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        let seconds = |value| refused(503, value).retry_after().map(|delay| delay.as_secs());
        assert_eq!(seconds(Some("5")), Some(5));
        assert_eq!(seconds(Some(" 0 ")), Some(0));
        assert_eq!(seconds(Some("18446744073709551615")), Some(u64::MAX));
        for other in [None, Some(""), Some("-1"), Some("1.5"), Some("soon"), Some("18446744073709551616")] {
            assert_eq!(seconds(other), None, "{other:?}");
        }
        assert_eq!(seconds(Some("Wed, 21 Oct 2026 07:28:00 GMT")), None);
        assert_eq!(DialError::Closed.retry_after(), None);
    }
}
