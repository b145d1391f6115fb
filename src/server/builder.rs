//! [`Builder`]: configures and starts a server that is embedded in another program.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Compression, DriverChoice, ListenAddress, RefusalHook, ServerConfig, StartError};
use crate::handler::Handler;
use crate::listeners::InheritedListener;
use crate::response::Response;
use crate::route::{PlainRequest, Route};
use crate::server::Server;
use crate::topic_options::TopicOptions;
use echoring_auth::Authenticator;
use echoring_proto::handshake::{OriginPolicy, Refusal, Request, SubprotocolPreference};
use echoring_proto::limits::Nanos;
use echoring_topics::Pattern;

/// Configures a server step by step and starts it.
///
/// A new builder has no listener and no route, and pins no threads. [`builtin_routes`](Builder::builtin_routes) and
/// [`test_endpoints`](Builder::test_endpoints) add those of `echoring serve`. Everything else is as in
/// [`ServerConfig::default`].
///
/// There are no read and write buffer sizes per connection. A shard receives into regions that all its connections
/// share, and an idle connection holds no buffer. Queued bytes are in buffers of fitting sizes, up to
/// [`queue_bytes`](Builder::queue_bytes) per connection and [`memory_budget_bytes`](Builder::memory_budget_bytes) in
/// all.
///
/// A server uses no signals and no other state of the process, so several can run side by side. The kernel schedules its
/// threads beside the others of the program, unless they are [pinned](Builder::pin).
///
/// ```
/// use std::time::Duration;
/// use echoring::server::{Disposition, Failure, Handler, Message, Remote, Response, Server};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition, Failure> {
///         Ok(Disposition::Echo)
///     }
/// }
///
/// let server = Server::builder()
///     .listen(([127, 0, 0, 1], 0))
///     .shards(1)
///     .handle("/ws", || Echo)
///     .get("/hello", |_| Response::text(200, "hello\n"))
///     .start()?;
/// println!("listening on {}", server.addresses()[0]);
/// server.shutdown(Duration::from_secs(1))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct Builder {
    config: ServerConfig,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl From<ServerConfig> for Builder {
    /// Starts from a configuration.
    fn from(config: ServerConfig) -> Builder {
        Builder { config }
    }
}

impl Builder {
    /// A builder without listeners and routes.
    pub fn new() -> Builder {
        let config = ServerConfig {
            listen: Vec::new(),
            builtin_routes: false,
            test_endpoints: false,
            pinned: false,
            ..ServerConfig::default()
        };
        Builder { config }
    }

    /// Accepts connections on an address; port 0 selects a free port. Repeatable.
    pub fn listen(mut self, address: impl Into<SocketAddr>) -> Builder {
        self.config.listen.push(ListenAddress::Tcp(address.into()));
        self
    }

    /// Accepts connections on a Unix socket.
    pub fn listen_unix(mut self, path: impl Into<PathBuf>) -> Builder {
        self.config.listen.push(ListenAddress::Unix(path.into()));
        self
    }

    /// Accepts connections on a socket that listens already, such as an inherited one. All shards accept from it. It
    /// becomes non-blocking if the driver needs that, also for other holders of the socket.
    pub fn listener(mut self, listener: TcpListener) -> Builder {
        self.config.inherited.push(InheritedListener::tcp(listener));
        self
    }

    /// Adds a WebSocket route with a handler per connection and the default policy. See [`route`](Builder::route) for
    /// more.
    pub fn handle<H: Handler + 'static>(
        self,
        pattern: &str,
        make: impl Fn() -> H + Send + Sync + 'static,
    ) -> Builder {
        self.route(Route::new(pattern, move |_| Ok(make())))
    }

    /// Adds a WebSocket route. The first route that matches a request is used.
    pub fn route(mut self, route: Route) -> Builder {
        self.config.routes.add(route);
        self
    }

    /// Answers plain GET and HEAD requests.
    pub fn get(
        mut self,
        pattern: &str,
        answer: impl Fn(&PlainRequest<'_>) -> Response + Send + Sync + 'static,
    ) -> Builder {
        self.config.routes.add_get(pattern, answer);
        self
    }

    /// Adds `/`, `/echo`, `/broadcast`, `/broadcast/{topic}`, `/sse/{topic}` and `/healthz`, behind the program's own routes.
    pub fn builtin_routes(mut self, wanted: bool) -> Builder {
        self.config.builtin_routes = wanted;
        self
    }

    /// Adds the endpoints for test harnesses, such as `/delay` and `/close`, behind the program's own routes. Some of
    /// them let anybody keep the server busy.
    pub fn test_endpoints(mut self, wanted: bool) -> Builder {
        self.config.test_endpoints = wanted;
        self
    }

    /// Replaces the responses of refusals; `None` keeps the default response. The hook is not called for requests that
    /// are not HTTP, or that a route refused with its own response.
    pub fn on_refusal(
        mut self,
        hook: impl Fn(&Refusal, &Request<'_>) -> Option<Response> + Send + Sync + 'static,
    ) -> Builder {
        self.config.on_refusal = Some(RefusalHook(Arc::new(hook)));
        self
    }

    /// Settings of the topics whose names match `pattern`, in which `*` stands for any characters. The first call whose pattern
    /// matches a topic decides; other topics have the defaults.
    pub fn topics(mut self, pattern: &str, options: TopicOptions) -> Builder {
        self.config.topics = self.config.topics.with(Pattern::new(pattern), options.settings());
        self
    }

    /// Number of event loops; one per CPU by default.
    pub fn shards(mut self, shards: usize) -> Builder {
        self.config.shards = Some(shards);
        self
    }

    /// CPUs to pin the shards to, round-robin. See [`pin`](Builder::pin).
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Builder {
        self.config.cpus = cpus.into_iter().collect();
        self.config.pinned = true;
        self
    }

    /// Whether each shard is pinned to one CPU, of all that the process may use unless [`cpus`](Builder::cpus) names some. A
    /// pinned shard keeps its caches and, on hosts with several NUMA nodes, its memory near. But it cannot move away from another
    /// thread that uses its CPU: so pin where the server has its CPUs for itself, as `echoring serve` does. Off by default.
    pub fn pin(mut self, pinned: bool) -> Builder {
        self.config.pinned = pinned;
        self
    }

    /// The I/O driver.
    pub fn driver(mut self, driver: DriverChoice) -> Builder {
        self.config.driver = driver;
        self
    }

    /// Maximum size of a request head in bytes; a larger one is answered 431. Each handshake may buffer as much.
    pub fn head_bytes_max(mut self, bytes: usize) -> Builder {
        self.config.head_bytes_max = bytes;
        self
    }

    /// Maximum message size in bytes.
    pub fn message_bytes_max(mut self, bytes: u64) -> Builder {
        self.config.message_bytes_max = bytes;
        self
    }

    /// Maximum concurrent connections; further ones are answered 503.
    pub fn connections_max(mut self, connections: u32) -> Builder {
        self.config.connections_max = Some(connections);
        self
    }

    /// Bytes queued to a connection above which sends are refused and the connection is not read.
    pub fn queue_bytes(mut self, bytes: u32) -> Builder {
        self.config.queue_bytes = bytes;
        self
    }

    /// Bytes of all buffers and logs.
    pub fn memory_budget_bytes(mut self, bytes: u64) -> Builder {
        self.config.memory_budget_bytes = bytes;
        self
    }

    /// Compresses messages for clients that offer it (RFC 7692).
    pub fn compression(mut self, compression: Compression) -> Builder {
        self.config.compression = Some(compression);
        self
    }

    /// Uses TLS on every listener, with a configuration from [`server_config`](echoring_async::tls::server_config).
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Builder {
        self.config.tls = Some(config);
        self
    }

    /// The origins that may connect, unless a route has its own policy; those of the same host by default.
    pub fn origins(mut self, origins: OriginPolicy) -> Builder {
        self.config.origins = origins;
        self
    }

    /// Authenticates clients; without it, everybody is let in. Handlers learn who a client is from
    /// [`Opening::client`](crate::Opening::client).
    pub fn auth(mut self, auth: Arc<Authenticator>) -> Builder {
        self.config.auth = Some(auth);
        self
    }

    /// Subprotocols of routes without their own, preferred first.
    pub fn subprotocols(mut self, names: impl IntoIterator<Item = &'static str>) -> Builder {
        self.config.subprotocols = names.into_iter().collect();
        self
    }

    /// Whether the order of the server or of the client selects among several subprotocols.
    pub fn subprotocol_preference(mut self, preference: SubprotocolPreference) -> Builder {
        self.config.subprotocol_preference = preference;
        self
    }

    /// Maximum time from accept to the 101.
    pub fn handshake_timeout(mut self, time: Duration) -> Builder {
        self.config.handshake_timeout = Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX / 2);
        self
    }

    /// Time that a send may be without progress before its connection is closed; zero for no limit. Checked once a
    /// second.
    pub fn send_timeout(mut self, time: Duration) -> Builder {
        self.config.send_timeout = Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX / 2);
        self
    }

    /// TCP congestion control of accepted connections, such as `cubic`, instead of the default of the host. Inherited
    /// sockets keep their own.
    pub fn congestion(mut self, name: impl Into<String>) -> Builder {
        self.config.congestion = Some(name.into());
        self
    }

    /// The current configuration.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Starts the server; it accepts connections when this returns.
    ///
    /// # Errors
    /// The problem and what to do, see [`StartError::kind`].
    pub fn start(self) -> Result<Server, StartError> {
        Server::start(self.config)
    }
}

impl Server {
    /// Configures a server.
    pub fn builder() -> Builder {
        Builder::new()
    }
}
