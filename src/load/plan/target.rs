//! The server to measure: a URL, or a server in this process.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

/// The server to measure.
pub enum Target {
    /// A server that is already running.
    Url {
        /// The URL as given.
        text: String,
        /// Its address.
        address: SocketAddr,
        /// The value of the `Host` field.
        authority: String,
        /// Path and query; `None` if the URL ends after the authority.
        path: Option<String>,
        /// TLS configuration and the name in the certificate; `None` for a plain server.
        security: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    },
    /// A server in this process.
    Embedded(Box<StartServer>),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Url { text, .. } => f.debug_tuple("Url").field(text).finish(),
            Target::Embedded(_) => f.write_str("Embedded"),
        }
    }
}

/// Starts a server in this process on the given CPUs; none leaves it unpinned.
pub type StartServer = dyn FnOnce(&[usize]) -> Result<Embedded, Refused>;

/// A running server in this process.
pub struct Embedded {
    /// Its address.
    pub address: SocketAddr,
    /// Stops the server and waits for its end.
    pub stop: Box<dyn FnOnce()>,
}

/// Why the environment prevents the run, in one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}
