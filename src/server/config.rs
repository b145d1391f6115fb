//! What a server is told before it starts.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use super::response::Response;
use super::route::Routes;
use crate::connection::{self, Pings};
use crate::driver::Features;
use crate::hub::Rules;
use crate::limits::{self, Nanos};
use crate::protocol::handshake::{HostPolicy, OriginPolicy, Refusal, Request, SubprotocolPreference};

/// Where to take connections.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

/// Says something else than a refusal's own response, or nothing: then that is sent. Not asked about requests that are
/// no HTTP, and about those that a route refused with a response of its own.
#[derive(Clone)]
pub struct RefusalHook(pub Arc<RefusalFn>);

/// What a [`RefusalHook`] calls.
pub type RefusalFn = dyn Fn(&Refusal, &Request<'_>) -> Option<Response> + Send + Sync;

impl fmt::Debug for RefusalHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefusalHook")
    }
}

/// A server's configuration. [`Config::default`] is what `echoring serve` runs with; for a program of one's own there
/// is [`Builder`](super::Builder), which fills in one of these.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to take connections.
    pub listen: Vec<ListenAddress>,
    /// Sockets that listen already and are taken over.
    pub inherited: Vec<Arc<TcpListener>>,
    /// The program's own routes, looked at before all others.
    pub routes: Routes,
    /// Whether there are `/`, `/echo`, `/broadcast/NAME` and `/healthz`.
    pub builtin_routes: bool,
    /// Whether there are the endpoints for test harnesses.
    pub test_endpoints: bool,
    /// Whether, of the built-in routes, there are those for trying the server out: the pages and the chat room.
    pub demo_pages: bool,
    /// Who may say something else than the refusals' own responses.
    pub on_refusal: Option<RefusalHook>,
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
    /// Bytes queued to a connection above which it is not read from.
    pub queue_bytes: u32,
    /// What holds for topics, by their names. How far subscribers may lag is said here, not by `queue_bytes`.
    pub topics: Rules,
    /// Topics of the node, at most.
    pub topics_max: u32,
    /// Topics that one connection may subscribe to.
    pub subscriptions_max: u32,
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
    /// Which names the server answers to. `/healthz` answers to all.
    pub hosts: HostPolicy,
    /// Subprotocols to choose from where a client offers some, best first; each a token (RFC 6455, 4.1).
    pub subprotocols: Vec<&'static str>,
    /// Whose order decides where several are possible.
    pub subprotocol_preference: SubprotocolPreference,
    /// From accept to the 101.
    pub handshake_timeout: Nanos,
    /// Time that a send may go without progress; 0 for any. Looked at once a second.
    pub send_timeout: Nanos,
    /// Pings that a peer may send in a second before 1008.
    pub pings_per_second_max: u32,
    /// Leave the sizes of socket buffers to the kernel: faster for single bulk peers, memory unbounded by us.
    pub autotune_sockets: bool,
    /// TCP congestion control of the connections that its listeners accept; `None` for the kernel's default.
    pub congestion: Option<String>,
    /// Take a port although another process listens on it, to replace that process.
    pub takeover: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec![ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9001)))],
            inherited: Vec::new(),
            routes: Routes::default(),
            builtin_routes: true,
            test_endpoints: true,
            demo_pages: true,
            on_refusal: None,
            shards: None,
            cpus: Vec::new(),
            driver: DriverChoice::Auto,
            without: Features::NONE,
            message_bytes_max: limits::MESSAGE_BYTES_DEFAULT,
            connections_max: None,
            queue_bytes: limits::QUEUE_BYTES_DEFAULT,
            topics: Rules::default(),
            topics_max: limits::TOPICS_DEFAULT,
            subscriptions_max: limits::SUBSCRIPTIONS_DEFAULT,
            memory_budget_bytes: limits::MEMORY_BUDGET_DEFAULT,
            compression: None,
            compression_bytes: limits::COMPRESSION_BYTES_DEFAULT,
            tls: None,
            origins: OriginPolicy::SameHost,
            hosts: HostPolicy::Any,
            subprotocols: Vec::new(),
            subprotocol_preference: SubprotocolPreference::Server,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            send_timeout: limits::SEND_TIMEOUT,
            pings_per_second_max: limits::PINGS_PER_SECOND_MAX,
            autotune_sockets: false,
            congestion: None,
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
            send_timeout: self.send_timeout,
            pings_per_second_max: self.pings_per_second_max,
            compression: self.compression,
            // Only a program's own handlers look at them.
            pings: if self.routes.has_no_upgrades() { Pings::Answered } else { Pings::AnsweredAndShown },
            ..connection::Config::default()
        }
    }
}

/// What kind of thing kept a server from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// The congestion control that was asked for is not to be had.
    Congestion(io::ErrorKind),
    /// An address cannot be listened on.
    Listen(io::ErrorKind),
    /// There is nothing to listen on.
    NoListener,
    /// Too few descriptors are allowed.
    Descriptors,
    /// The driver that was asked for is not to be had.
    Driver,
    /// A shard's thread could not be started, or ended at once.
    Thread,
    /// A CPU was named that this process may not use.
    Cpu,
}

/// Why a server did not start: what is wrong, and what cures it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    kind: StartErrorKind,
    /// The setting that is wrong, by the name of its flag: `--cpus`.
    setting: Option<&'static str>,
    /// One line: what is wrong.
    pub problem: String,
    /// One line: what to do.
    pub cure: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(setting) = self.setting {
            write!(f, "{setting}: ")?;
        }
        write!(f, "{}; {}", self.problem, self.cure)
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// An error of what is done before a server accepts, see [`Server::start_after`](super::Server::start_after).
    pub fn new(kind: StartErrorKind, problem: impl Into<String>, cure: impl Into<String>) -> StartError {
        StartError { kind, setting: None, problem: problem.into(), cure: cure.into() }
    }

    pub(super) fn of_setting(self, setting: &'static str) -> StartError {
        StartError { setting: Some(setting), ..self }
    }

    /// The setting that is wrong, by the name of its flag, such as `--cpus`; `None` where it is the host or an address.
    pub fn setting(&self) -> Option<&'static str> {
        self.setting
    }

    /// What kind of thing it is, for programs to decide by.
    pub fn kind(&self) -> StartErrorKind {
        self.kind
    }
}
