//! Why a dial failed.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use bytes::Bytes;

use crate::aio::ProxyError;
use crate::protocol::handshake::{BadField, BadHandshake};
use crate::protocol::url::BadUrl;
use crate::tls::TlsError;

/// What a server answered: status, fields, and of a body its first KiB.
pub type Response = http::Response<Bytes>;

/// A step of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Looking the name up.
    Resolve,
    /// TCP.
    Connect,
    /// Asking the proxy.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The request and its answer.
    Upgrade,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Resolve => "looking up the name",
            Stage::Connect => "connecting",
            Stage::Proxy => "asking the proxy",
            Stage::Tls => "the TLS handshake",
            Stage::Upgrade => "the upgrade",
        })
    }
}

/// Why a dial failed, by step.
#[derive(Debug)]
#[non_exhaustive]
pub enum DialError {
    /// The URL is wrong.
    BadUrl(BadUrl),
    /// A field of the request may not be in it, or has a value that it may not have.
    BadField {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: BadField,
    },
    /// The host's name, or the proxy's, has no address.
    Resolve(io::Error),
    /// No address of the host, or of the proxy, could be connected to: what the last one said.
    Connect(io::Error),
    /// The proxy gave no connection.
    Proxy(ProxyError),
    /// The configuration of TLS cannot be made.
    TlsSetup(TlsError),
    /// The TLS handshake failed: above all, the server's certificate is not believed.
    Tls(rustls::Error),
    /// A step took too long.
    Timeout(Stage),
    /// The stream failed during a handshake.
    Io(io::Error),
    /// The server ended the connection without an answer.
    Closed,
    /// The server says that it is elsewhere. It is the program's to decide whether it goes there, and with which
    /// fields and cookies.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// Where, as sent; possibly relative, and with `http` for `ws` and `https` for `wss`.
        location: String,
        /// The whole answer.
        response: Box<Response>,
    },
    /// The server's answer opens no WebSocket.
    BadHandshake {
        /// What is wrong with it.
        why: BadHandshake,
        /// The answer, if it is HTTP.
        response: Option<Box<Response>>,
    },
}

impl DialError {
    /// Whether trying again may help: the network, the name service or the proxy failed, or the server ended the
    /// connection or took too long. Not when the URL, the request or the configuration is wrong, when TLS cannot be agreed
    /// on or the certificate is not believed, or when there was any answer but 101, which a program has to judge.
    pub fn is_temporary(&self) -> bool {
        match self {
            DialError::BadUrl(_)
            | DialError::BadField { .. }
            | DialError::TlsSetup(_)
            | DialError::Redirect { .. }
            | DialError::BadHandshake { .. } => false,
            DialError::Tls(error) => is_passing(error),
            DialError::Proxy(ProxyError::Status(status)) => !(400..500).contains(status),
            DialError::Proxy(ProxyError::Unsayable) => false,
            DialError::Proxy(_)
            | DialError::Resolve(_)
            | DialError::Connect(_)
            | DialError::Timeout(_)
            | DialError::Io(_)
            | DialError::Closed => true,
        }
    }

    /// The server's answer, when there is one.
    pub fn response(&self) -> Option<&Response> {
        match self {
            DialError::Redirect { response, .. } => Some(response),
            DialError::BadHandshake { response, .. } => response.as_deref(),
            _ => None,
        }
    }

    /// rustls's errors come wrapped.
    pub(super) fn of_tls(error: io::Error) -> DialError {
        match error.downcast::<rustls::Error>() {
            Ok(error) => DialError::Tls(error),
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

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::BadUrl(why) => write!(f, "{why}"),
            DialError::BadField { name, why } => write!(f, "the request may not have {name:?} so: {why}"),
            DialError::Resolve(error) => write!(f, "the host's name has no address: {error}"),
            DialError::Connect(error) => write!(f, "cannot connect: {error}"),
            DialError::Proxy(error) => write!(f, "{error}"),
            DialError::TlsSetup(error) => write!(f, "{error}"),
            DialError::Tls(error) => write!(f, "the TLS handshake failed: {error}{}", cure(error)),
            DialError::Timeout(stage) => write!(f, "{stage} took too long"),
            DialError::Io(error) => write!(f, "the stream failed during the handshake: {error}"),
            DialError::Closed => f.write_str("the server ended the connection without an answer"),
            DialError::Redirect { status, location, .. } => {
                write!(f, "the server answered {status}: it is at {location:?}")
            }
            DialError::BadHandshake { why, response } => {
                write!(f, "{why}")?;
                let body = response.as_ref().map(|response| String::from_utf8_lossy(response.body()));
                match body.as_deref().and_then(|body| body.lines().next()) {
                    Some(line) if !line.is_empty() => write!(f, ": {}", line.escape_debug()),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Whether the peer merely failed this time. What is wrong with a certificate, or with what both ends can speak, stays so.
fn is_passing(error: &rustls::Error) -> bool {
    use rustls::{AlertDescription, Error};
    matches!(
        error,
        Error::AlertReceived(
            AlertDescription::CloseNotify | AlertDescription::InternalError | AlertDescription::UserCanceled
        ) | Error::DecryptError
            | Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
    )
}

fn cure(error: &rustls::Error) -> &'static str {
    use rustls::{CertificateError, Error, InvalidMessage};
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; if you know who issued the certificate, believe the file of that authority"
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "; does the server speak ws instead of wss?"
        }
        _ => "",
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DialError::BadUrl(why) => Some(why),
            DialError::BadField { why, .. } => Some(why),
            DialError::Resolve(error) | DialError::Connect(error) | DialError::Io(error) => Some(error),
            DialError::Proxy(error) => Some(error),
            DialError::TlsSetup(error) => Some(error),
            DialError::Tls(error) => Some(error),
            DialError::BadHandshake { why, .. } => Some(why),
            DialError::Timeout(_) | DialError::Closed | DialError::Redirect { .. } => None,
        }
    }
}
