//! Why a node has no backbone.

use std::io;
use std::path::PathBuf;

/// Options that no connection can be made with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// There is no server.
    #[error("no NATS server is named")]
    NoServer,
    /// A server is not `nats://HOST[:PORT]` or `tls://HOST[:PORT]`; and why.
    #[error("`{0}` is not a NATS server: {1}")]
    Server(String, &'static str),
    /// The prefix is empty, too long, or no subject.
    #[error(
        "`{0}` is not a subject prefix: use letters, digits, `-` and `_`, with single dots between them, and at most 64 \
         bytes"
    )]
    Prefix(String),
    /// The prefix has this token, which makes its subjects topics of another cluster, or inboxes.
    #[error("`{0}` is not a subject prefix: subjects below `{1}` are reserved; leave that token out")]
    Reserved(String, &'static str),
    /// The first tokens of inboxes are no subject, or the cluster's own subjects would be inboxes.
    #[error(
        "`{0}` is not an inbox prefix: use the first tokens of the reply subjects of NATS clients, outside the prefix of \
         the cluster"
    )]
    Inbox(String),
    /// A file cannot be read, or has invalid contents.
    #[error("{path}: {1}", path = .0.display())]
    File(PathBuf, io::Error),
}

/// Why a node ended without its tables having ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackboneError {
    /// The options are wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// No server could be reached, or none accepts the node's credentials, and the options forbid waiting.
    #[error("cannot connect to NATS at {servers}: {error}")]
    Connect {
        /// The servers.
        servers: String,
        /// The client's own error.
        error: String,
    },
    /// The server denies a subject to the node.
    #[error(
        "NATS denies a subject to this node: {0}; allow its user to publish and subscribe to PREFIX.heartbeat and \
         PREFIX.node.*"
    )]
    Denied(String),
    /// The server's `max_payload` is less than a packet may have.
    #[error(
        "NATS accepts payloads of at most {max} bytes, but packets of this cluster may have {needed}: raise max_payload in the \
         configuration of NATS, or lower the maximum message size"
    )]
    Payload {
        /// Bytes that the server allows.
        max: usize,
        /// Bytes of the longest packet.
        needed: usize,
    },
    /// The client has ended by itself.
    #[error("the NATS client has ended")]
    Ended,
}
