//! What a server is told before it starts.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::connection;
use crate::driver::Features;
use crate::limits::{self, Nanos};
use crate::protocol::handshake::{OriginPolicy, SubprotocolPreference};

/// Where to take connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A socket in the file system. What lies at the path is replaced when it is a socket nobody answers.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => write!(f, "{address}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

pub use crate::connection::Compression;
pub use crate::driver::DriverChoice;

/// A server's configuration. [`Config::default`] is what `echoring serve` runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to take connections; not empty.
    pub listen: Vec<ListenAddress>,
    /// Event loops; none for one per CPU of `cpus`, or per CPU that the process is allowed.
    pub shards: Option<usize>,
    /// CPUs to pin the shards to, in turn; empty for those that the process is allowed.
    pub cpus: Vec<usize>,
    /// How I/O is done.
    pub driver: DriverChoice,
    /// Kernel features to leave unused, for tests of the degraded paths.
    pub without: Features,
    /// Bytes of a message, at most.
    pub message_bytes_max: u64,
    /// Connections of the node; none for what the descriptor limit allows, up to
    /// [`CONNECTIONS_DEFAULT`](limits::CONNECTIONS_DEFAULT).
    pub connections_max: Option<u32>,
    /// Bytes queued to a connection above which it is not read from, and how far a subscriber may lag.
    pub queue_bytes: u32,
    /// Bytes of buffers and logs of the node.
    pub memory_budget_bytes: u64,
    /// How messages are compressed with clients that offer it; `None` for never.
    pub compression: Option<Compression>,
    /// Bytes of the windows that compressed connections keep, on the whole node.
    pub compression_bytes: u64,
    /// What every connection is secured by, made by [`server_config`](crate::tls::server_config); `None` for nothing.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Which pages may connect.
    pub origins: OriginPolicy,
    /// Subprotocols to choose from where a client offers some, best first; each a token (RFC 6455, 4.1).
    pub subprotocols: Vec<&'static str>,
    /// Whose order decides where several are possible.
    pub subprotocol_preference: SubprotocolPreference,
    /// From accept to the 101.
    pub handshake_timeout: Nanos,
    /// Pings that a peer may send in a second before 1008.
    pub pings_per_second_max: u32,
    /// Leave the sizes of socket buffers to the kernel: faster for single bulk peers, memory unbounded by us.
    pub autotune_sockets: bool,
    /// Take a port although another process listens on it, to replace that process.
    pub takeover: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec![ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9001)))],
            shards: None,
            cpus: Vec::new(),
            driver: DriverChoice::Auto,
            without: Features::NONE,
            message_bytes_max: limits::MESSAGE_BYTES_DEFAULT,
            connections_max: None,
            queue_bytes: limits::QUEUE_BYTES_DEFAULT,
            memory_budget_bytes: limits::MEMORY_BUDGET_DEFAULT,
            compression: None,
            compression_bytes: limits::COMPRESSION_BYTES_DEFAULT,
            tls: None,
            origins: OriginPolicy::SameHost,
            subprotocols: Vec::new(),
            subprotocol_preference: SubprotocolPreference::Server,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            pings_per_second_max: limits::PINGS_PER_SECOND_MAX,
            autotune_sockets: false,
            takeover: false,
        }
    }
}

impl Config {
    pub(super) fn connection(&self) -> connection::Config {
        connection::Config {
            message_bytes_max: self.message_bytes_max,
            queue_bytes: self.queue_bytes,
            handshake_timeout: self.handshake_timeout,
            pings_per_second_max: self.pings_per_second_max,
            compression: self.compression,
            ..connection::Config::default()
        }
    }
}

/// Why a server did not start: what is wrong, and what cures it.
#[derive(Debug)]
pub struct StartError {
    /// One line: what is wrong.
    pub problem: String,
    /// One line: what to do.
    pub cure: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem, self.cure)
    }
}

impl std::error::Error for StartError {}

impl StartError {
    pub(super) fn new(problem: impl Into<String>, cure: impl Into<String>) -> StartError {
        StartError { problem: problem.into(), cure: cure.into() }
    }
}
