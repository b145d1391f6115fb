//! The configuration of a server, and the errors of its start.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::limits::MAILBOX_BYTES_MIN;
use crate::node::backends::Backends;
use crate::node::listen_address::ListenAddress;
use crate::node::listeners::InheritedListener;
use crate::routes::response::Response;
use crate::routes::route::Routes;
use crate::routes::times::{ConnectionTimes, TimesTable};
use echoring_auth::{App, Authenticator, SharedBlocklist, WebhookKinds, Webhooks};
use echoring_broker::broadcast::MAIL_OVERHEAD_BYTES;
use echoring_broker::gate::quotas::Identities;
use echoring_broker::node_mail::ClusterIdentity;
use echoring_proto::CloseCode;
use echoring_proto::connection::{ConnectionConfig, Pings};
use echoring_proto::event_stream::{StreamFormat, WriteEnd};
use echoring_proto::handshake::{HostPolicy, OriginPolicy, Refusal, Request, SubprotocolPreference};
use echoring_proto::limits;
use echoring_runtime::driver::Features;
use echoring_topics::{CreationLimits, Rules};
use echoring_wire::centrifuge::{Encoding, push};

pub use echoring_proto::connection::Compression;
use echoring_runtime::admission::{Admission, PeerLimits};
pub use echoring_runtime::driver::DriverChoice;
use echoring_runtime::shard::{AccessLog, Lifetime, TimesConfig};

/// Replaces the response of a refusal. `None` keeps the default response. The hook is not called for requests that are not
/// HTTP, or that a route refused with its own response.
///
/// ```
/// use std::sync::Arc;
///
/// use echoring_server::{RefusalHook, Response, ServerConfig};
///
/// let hook = RefusalHook(Arc::new(|refusal, _request| Some(Response::text(refusal.status, "see /help\n"))));
/// let config = ServerConfig { on_refusal: Some(hook), ..ServerConfig::default() };
/// # drop(config);
/// ```
#[derive(Clone)]
pub struct RefusalHook(pub Arc<RefusalFn>);

/// The function of a [`RefusalHook`].
///
/// ```
/// use std::sync::Arc;
///
/// use echoring_server::{RefusalFn, RefusalHook, Response};
///
/// let answer: Arc<RefusalFn> = Arc::new(|refusal, request| {
///     (request.path == "/chat").then(|| Response::text(refusal.status, "the chat is for members\n"))
/// });
/// let hook = RefusalHook(answer);
/// # drop(hook);
/// ```
pub type RefusalFn = dyn Fn(&Refusal, &Request<'_>) -> Option<Response> + Send + Sync;

impl fmt::Debug for RefusalHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefusalHook")
    }
}

/// The configuration of a server. [`ServerConfig::default`] is that of `echoring serve`. Programs use a
/// [`Builder`](crate::Builder), which fills in one of these.
///
/// ```
/// use echoring_server::{ListenAddress, Server, ServerConfig};
///
/// let listen = vec![ListenAddress::Tcp(([127, 0, 0, 1], 0).into())];
/// let config = ServerConfig { listen, shards: Some(1), test_endpoints: false, ..ServerConfig::default() };
/// let server = Server::start(config)?;
/// # drop(server);
/// # Ok::<(), echoring_server::StartError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Addresses to accept connections on.
    pub listen: Vec<ListenAddress>,
    /// Sockets that listen already. An address of `listen` that is among theirs is not opened again.
    pub inherited: Vec<InheritedListener>,
    /// The cluster that the server joins. Then [`Server::take_cluster`](crate::Server::take_cluster) must be used.
    pub cluster: Option<ClusterIdentity>,
    /// In a cluster, pass the messages of topics whose settings say so to [`Server::take_outlets`](crate::Server::take_outlets).
    pub relays: bool,
    /// The program's own routes, matched before all others.
    pub routes: Routes,
    /// Serve `/`, `/echo`, `/broadcast`, `/broadcast/{topic}`, `/sse/{topic}` and `/healthz`.
    pub builtin_routes: bool,
    /// Serve the endpoints for test harnesses.
    pub test_endpoints: bool,
    /// Serve the demo pages, of `/` and `/broadcast`.
    pub demo_pages: bool,
    /// Replaces the responses of refusals.
    pub on_refusal: Option<RefusalHook>,
    /// Number of event loops; `None` for one per CPU of `cpus`, or per allowed CPU.
    pub shards: Option<usize>,
    /// CPUs to pin the shards to, round-robin; empty for all allowed CPUs.
    pub cpus: Vec<usize>,
    /// Whether shards are pinned: each to one CPU. Otherwise the kernel schedules them like other threads.
    pub pinned: bool,
    /// The I/O driver.
    pub driver: DriverChoice,
    /// Whether idle connections move from full shards to emptier ones.
    pub rebalance: bool,
    /// Kernel features that are not used, for tests of the degraded paths.
    pub without: Features,
    /// What all connections have in common: their limits, times and compression. The server decides on `pings` and `stream_end`.
    pub connection: ConnectionConfig,
    /// Maximum connections of the node; `None` for the descriptor limit, up to
    /// [`CONNECTIONS_DEFAULT`](echoring_async::limits::CONNECTIONS_DEFAULT). Where all are direct descriptors of rings, the limit holds for each
    /// shard.
    pub max_connections: Option<u32>,
    /// The settings of topics, by name. They limit the lag of subscribers, not `queue_bytes`.
    pub topics: Rules,
    /// Maximum topics of the node.
    pub max_topics: u32,
    /// Maximum topics that one connection subscribes to.
    pub max_subscriptions: u32,
    /// Maximum topics that exist because one connection, or one identity, created them.
    pub creation: CreationLimits,
    /// Bytes of the buffers and logs of the node.
    pub memory_budget: u64,
    /// Bytes of the compression windows of all connections of the node.
    pub compression_bytes: u64,
    /// TLS for all connections, from [`server_config`](echoring_async::tls::server_config); `None` for plain TCP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The origins that may connect.
    pub allow_origin: OriginPolicy,
    /// The host names that the server answers to. `/healthz` answers to all.
    pub allow_host: HostPolicy,
    /// Who may connect; `None` lets everybody in. Topics decide about the rights of clients.
    pub auth: Option<Arc<Authenticator>>,
    /// What is known of clients.
    pub known: KnownClients,
    /// The hooks of the application.
    pub hooks: Option<Arc<App>>,
    /// Back ends over HTTP, whose paths are matched before all others.
    pub backends: Backends,
    /// Subprotocols to select from, preferred first; each is a token (RFC 6455, 4.1).
    pub subprotocol: Vec<&'static str>,
    /// Whether the order of the server or of the client selects among several.
    pub subprotocol_preference: SubprotocolPreference,
    /// Limits on addresses and connections of clients, and the proxies that are trusted.
    pub peers: Arc<PeerLimits>,
    /// How long connections last.
    pub lifetime: Lifetime,
    /// The times of some connections instead; the first that fits one applies.
    pub times: Vec<ConnectionTimes>,
    /// Let the kernel size the socket buffers: faster for single bulk peers, but their memory is unbounded.
    pub autotune_sockets: bool,
    /// TCP congestion control of accepted connections; `None` for the kernel's default.
    pub congestion: Option<String>,
    /// Bytes that the kernel may hold unsent for a subscriber that has fallen behind; 0 for no limit.
    pub notsent_lowat: u32,
    /// The age of one delivery in so many is sampled; 0 for none.
    pub age_sample: u32,
    /// The webhooks that are told what happens.
    pub webhooks: Arc<Webhooks>,
    /// Records of ended connections.
    pub access_log: Option<AccessLog>,
    /// Keep the listeners for another process, see [`Server::wait_for_successor`](crate::Server::wait_for_successor).
    pub keeps_listeners: bool,
}

/// What a server knows of clients, whether they are connected or not.
#[derive(Clone, Debug, Default)]
pub struct KnownClients {
    /// Clients that operators have blocked.
    pub blocks: Arc<SharedBlocklist>,
    /// Their addresses: bans, connections and rates.
    pub admission: Arc<Admission>,
    /// What identities use.
    pub identities: Arc<Identities>,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            listen: vec![ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9001)))],
            inherited: Vec::new(),
            cluster: None,
            relays: false,
            routes: Routes::default(),
            builtin_routes: true,
            test_endpoints: true,
            demo_pages: true,
            on_refusal: None,
            shards: None,
            cpus: Vec::new(),
            pinned: true,
            driver: DriverChoice::Auto,
            rebalance: true,
            without: Features::NONE,
            connection: ConnectionConfig::default(),
            max_connections: None,
            topics: Rules::default(),
            max_topics: crate::limits::TOPICS_DEFAULT,
            max_subscriptions: echoring_broker::limits::SUBSCRIPTIONS_DEFAULT,
            creation: CreationLimits::default(),
            memory_budget: limits::MEMORY_BUDGET_DEFAULT,
            compression_bytes: echoring_runtime::limits::COMPRESSION_BYTES_DEFAULT,
            tls: None,
            allow_origin: OriginPolicy::SameHost,
            allow_host: HostPolicy::Any,
            auth: None,
            known: KnownClients::default(),
            hooks: None,
            backends: Backends::default(),
            subprotocol: Vec::new(),
            subprotocol_preference: SubprotocolPreference::Server,
            peers: Arc::default(),
            lifetime: Lifetime::default(),
            times: Vec::new(),
            autotune_sockets: false,
            congestion: None,
            notsent_lowat: crate::limits::NOTSENT_LOWAT_BYTES,
            age_sample: echoring_broker::limits::AGE_SAMPLE_DEFAULT,
            webhooks: Arc::default(),
            access_log: None,
            keeps_listeners: false,
        }
    }
}

/// The bytes of a mailbox: room for two messages of the longest.
pub(crate) fn mailbox_bytes(max_message: u64) -> usize {
    MAILBOX_BYTES_MIN.max(2 * (max_message as usize + MAIL_OVERHEAD_BYTES))
}

impl ServerConfig {
    /// Has calls to other services made by these settings from now on.
    ///
    /// # Errors
    /// If the thread for calls cannot be started.
    #[doc(hidden)]
    pub fn start_calls(&self) -> Result<(), String> {
        let start = || {
            self.hooks.as_deref().map_or(Ok(()), App::start)?;
            self.backends.0.iter().try_for_each(|backend| backend.start())?;
            self.auth.as_deref().map_or(Ok(()), Authenticator::start)?;
            self.webhooks.start()
        };
        start().map_err(|error: io::Error| {
            format!("cannot start the thread for calls to other services: {error}")
        })
    }

    /// The times of connections that are not in `connection`.
    pub(crate) fn times(&self) -> TimesConfig {
        let of_paths = TimesTable::new(&self.times);
        let routes = of_paths.by_name().into_iter().chain(self.routes.times());
        TimesConfig { lifetime: self.lifetime, routes: routes.collect() }
    }

    /// The limits on peers. The clients are known where those of one address have a share of what waits for a service.
    pub(crate) fn peer_limits(&self) -> Arc<PeerLimits> {
        let ServerConfig { auth, hooks, backends, webhooks, peers, .. } = self;
        let knows_clients = auth.as_ref().is_some_and(|auth| auth.asks())
            || hooks.is_some()
            || !backends.0.is_empty()
            || webhooks.kinds().overlap(WebhookKinds::CONNECTIONS);
        if knows_clients {
            Arc::new(PeerLimits { knows_clients, ..(**peers).clone() })
        } else {
            Arc::clone(peers)
        }
    }

    /// `connection` with the server's part.
    pub(crate) fn of_connections(&self) -> ConnectionConfig {
        ConnectionConfig {
            // Only handlers of the program see pings.
            pings: if self.routes.upgrades.is_empty() { Pings::Answered } else { Pings::AnsweredAndShown },
            stream_end: Some(WriteEnd(write_stream_end)),
            ..self.connection.clone()
        }
    }
}

/// The last message of a stream of pushes.
fn write_stream_end(format: StreamFormat, out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    let encoding = match format {
        StreamFormat::Lines => Encoding::Lines,
        StreamFormat::Events | StreamFormat::Messages => Encoding::Events,
    };
    push::disconnect(encoding, out, code.0, reason);
}

/// The kind of a [`StartError`].
///
/// ```
/// use echoring::server::{Server, StartErrorKind};
///
/// let error = Server::builder().start().unwrap_err();
/// assert_eq!(error.kind(), StartErrorKind::NoListener);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// The requested congestion control is unavailable.
    Congestion(io::ErrorKind),
    /// The server cannot listen on an address.
    Listen(io::ErrorKind),
    /// A listener that was passed to the server, as by [`Builder::listener`](crate::Builder::listener), is unusable.
    Inherited(io::ErrorKind),
    /// There is no listener.
    NoListener,
    /// The descriptor limit is too low.
    Descriptors,
    /// [`DriverChoice::Uring`] was requested, and io_uring is unavailable.
    Driver,
    /// The thread of a shard could not be started, or ended at once.
    Thread,
    /// The process may not use a requested CPU.
    Cpu,
    /// A setting is out of its range: [`StartError::setting`] names it, and the hint has the range.
    Range,
    /// A route can never be used: its pattern is wrong, another route before it takes all its requests, or its handlers are not of the
    /// type that [migrates](crate::Route::migrates).
    Route,
    /// A route needs state that the server was not given.
    State,
    /// The running server does not hand over.
    Takeover,
}

/// Why a server did not start, and the remedy. A `main` that returns it prints one line.
///
/// ```
/// use echoring::server::Server;
///
/// let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = taken.local_addr()?;
/// let error = Server::builder().listen(address).start().unwrap_err();
/// assert_eq!(error.problem, format!("cannot listen on {address}: Address already in use (os error 98)"));
/// assert_eq!(error.hint, "stop the process that listens there, or choose another address");
/// assert_eq!(format!("{error:?}"), format!("{}; {}", error.problem, error.hint));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct StartError {
    kind: StartErrorKind,
    setting: Option<&'static str>,
    /// The problem, in one line.
    pub problem: String,
    /// The remedy on this host, in one line.
    pub hint: String,
}

/// In the words of [`Builder`](crate::Builder): the setting, the problem, the hint.
impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(setting) = self.setting {
            write!(f, "{setting}: ")?;
        }
        write!(f, "{}; {}", self.problem, self.hint)?;
        match self.kind {
            StartErrorKind::Driver => f.write_str(", or choose another driver"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for StartError {}

echoring_proto::error_debug!(struct StartError { kind, setting, problem, hint });

impl StartError {
    /// An error of [`Server::take_over`](crate::Server::take_over).
    #[doc(hidden)]
    pub fn new(kind: StartErrorKind, problem: impl Into<String>, hint: impl Into<String>) -> StartError {
        StartError { kind, setting: None, problem: problem.into(), hint: hint.into() }
    }

    pub(crate) fn of_setting(self, setting: &'static str) -> StartError {
        StartError { setting: Some(setting), ..self }
    }

    /// The key of the wrong setting in a configuration file of the program, such as `max_connections`; `None` if the
    /// problem is the host or an address.
    pub fn setting(&self) -> Option<&'static str> {
        self.setting
    }

    /// The kind of error, for programs.
    pub fn kind(&self) -> StartErrorKind {
        self.kind
    }
}
