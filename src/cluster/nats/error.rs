//! Why a node has no backbone.

use std::path::PathBuf;
use std::{fmt, io};

/// Options that no connection can be made with.
#[derive(Debug)]
#[non_exhaustive]
pub enum OptionsError {
    /// There is no server.
    NoServer,
    /// A server is not `nats://HOST[:PORT]` or `tls://HOST[:PORT]`; and why.
    Server(String, &'static str),
    /// The prefix is empty, too long, or no subject.
    Prefix(String),
    /// The prefix has this token, which makes its subjects topics of another cluster, or inboxes.
    Reserved(String, &'static str),
    /// The first tokens of inboxes are no subject, or the cluster's own subjects would be inboxes.
    Inbox(String),
    /// A file cannot be read, or has invalid contents.
    File(PathBuf, io::Error),
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionsError::NoServer => f.write_str("no NATS server is named"),
            OptionsError::Server(server, problem) => write!(f, "`{server}` is not a NATS server: {problem}"),
            OptionsError::Prefix(prefix) => write!(
                f,
                "`{prefix}` is not a subject prefix: use letters, digits, `-` and `_`, with single dots between them, and at most 64 \
                 bytes"
            ),
            OptionsError::Reserved(prefix, token) => write!(
                f,
                "`{prefix}` is not a subject prefix: subjects below `{token}` are reserved; leave that \
                 token out"
            ),
            OptionsError::Inbox(inbox) => write!(
                f,
                "`{inbox}` is not an inbox prefix: use the first tokens of the reply subjects of NATS \
                 clients, outside the prefix of the cluster"
            ),
            OptionsError::File(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for OptionsError {}

/// Why a node ended without its tables having ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum BackboneError {
    /// The options are wrong.
    Options(OptionsError),
    /// No server could be reached, or none accepts the node's credentials, and the options forbid waiting.
    Connect {
        /// The servers.
        servers: String,
        /// The client's own error.
        error: String,
    },
    /// The server denies a subject to the node.
    Denied(String),
    /// The server's `max_payload` is less than a packet may have.
    Payload {
        /// Bytes that the server allows.
        max: usize,
        /// Bytes of the longest packet.
        needed: usize,
    },
    /// The client has ended by itself.
    Ended,
}

impl fmt::Display for BackboneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackboneError::Options(error) => error.fmt(f),
            BackboneError::Connect { servers, error } => {
                write!(f, "cannot connect to NATS at {servers}: {error}")
            }
            BackboneError::Denied(error) => write!(
                f,
                "NATS denies a subject to this node: {error}; allow its user to publish and subscribe to PREFIX.heartbeat and \
                 PREFIX.node.*"
            ),
            BackboneError::Payload { max, needed } => write!(
                f,
                "NATS accepts payloads of at most {max} bytes, but packets of this cluster may have {needed}: raise max_payload in the \
                 configuration of NATS, or lower the maximum message size"
            ),
            BackboneError::Ended => f.write_str("the NATS client has ended"),
        }
    }
}

impl std::error::Error for BackboneError {}

impl From<OptionsError> for BackboneError {
    fn from(error: OptionsError) -> BackboneError {
        BackboneError::Options(error)
    }
}
