//! Building a server for another program: listeners, limits, routes.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Server;
use super::config::{Compression, Config, DriverChoice, ListenAddress, RefusalHook, StartError};
use super::handler::Handler;
use super::response::Response;
use super::route::{Asked, Route};
use crate::limits::Nanos;
use crate::protocol::handshake::{OriginPolicy, Refusal, Request, SubprotocolPreference};

/// Makes a [`Config`] step by step and starts a server with it.
///
/// It begins with nothing: no listener, and no route but those that are added; [`builtin_routes`](Builder::builtin_routes)
/// and [`test_endpoints`](Builder::test_endpoints) add what `echoring serve` has. All else is as in [`Config::default`].
///
/// There are no sizes of read and write buffers to choose, as servers with a buffer for each connection have them: a shard
/// receives into regions that all its connections share, an idle one holds no buffer, and what waits to be sent lies in
/// buffers that fit it, up to [`queue_bytes`](Builder::queue_bytes) for each connection and
/// [`memory_budget_bytes`](Builder::memory_budget_bytes) for all.
///
/// A server uses no signals and no state of the process; several can run side by side. It pins its own threads to CPUs,
/// see [`cpus`](Builder::cpus).
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
    config: Config,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl From<Config> for Builder {
    /// Goes on from a configuration.
    fn from(config: Config) -> Builder {
        Builder { config }
    }
}

impl Builder {
    /// Nothing to listen on, and no routes.
    pub fn new() -> Builder {
        let config =
            Config { listen: Vec::new(), builtin_routes: false, test_endpoints: false, ..Config::default() };
        Builder { config }
    }

    /// Takes connections on an address; port 0 takes a free one. May be said several times.
    pub fn listen(mut self, address: impl Into<SocketAddr>) -> Builder {
        self.config.listen.push(ListenAddress::Tcp(address.into()));
        self
    }

    /// Takes connections on a socket in the file system.
    pub fn listen_unix(mut self, path: impl Into<PathBuf>) -> Builder {
        self.config.listen.push(ListenAddress::Unix(path.into()));
        self
    }

    /// Takes connections from a socket that listens already, such as one that was inherited. All shards take from it.
    /// It becomes non-blocking where the driver needs that, also for others who hold it.
    pub fn listener(mut self, listener: TcpListener) -> Builder {
        self.config.inherited.push(Arc::new(listener));
        self
    }

    /// A WebSocket route without a policy of its own: each connection gets a handler. For more there is
    /// [`route`](Builder::route).
    pub fn handle<H: Handler + 'static>(
        self,
        pattern: &str,
        make: impl Fn() -> H + Send + Sync + 'static,
    ) -> Builder {
        self.route(Route::new(pattern, move |_| Ok(make())))
    }

    /// A WebSocket route. The first that fits a request is taken.
    pub fn route(mut self, route: Route) -> Builder {
        self.config.routes.add(route);
        self
    }

    /// An answer to plain GET and HEAD requests.
    pub fn get(
        mut self,
        pattern: &str,
        answer: impl Fn(&Asked<'_>) -> Response + Send + Sync + 'static,
    ) -> Builder {
        self.config.routes.add_get(pattern, answer);
        self
    }

    /// Whether there are `/`, `/echo`, `/broadcast/NAME` and `/healthz`, behind the program's own routes.
    pub fn builtin_routes(mut self, wanted: bool) -> Builder {
        self.config.builtin_routes = wanted;
        self
    }

    /// Whether there are the endpoints for test harnesses, such as `/delay` and `/close`, behind the program's own
    /// routes. Some of them let anybody make the server busy.
    pub fn test_endpoints(mut self, wanted: bool) -> Builder {
        self.config.test_endpoints = wanted;
        self
    }

    /// Says something else than the responses that refusals have, or nothing: then those are sent. Not asked about what
    /// is no HTTP request, nor where a route refused with a response of its own.
    pub fn on_refusal(
        mut self,
        hook: impl Fn(&Refusal, &Request<'_>) -> Option<Response> + Send + Sync + 'static,
    ) -> Builder {
        self.config.on_refusal = Some(RefusalHook(Arc::new(hook)));
        self
    }

    /// How many event loops; without it one for each CPU.
    pub fn shards(mut self, shards: usize) -> Builder {
        self.config.shards = Some(shards);
        self
    }

    /// CPUs to pin the shards to, in turn; without it those that the process is allowed.
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Builder {
        self.config.cpus = cpus.into_iter().collect();
        self
    }

    /// How I/O is done.
    pub fn driver(mut self, driver: DriverChoice) -> Builder {
        self.config.driver = driver;
        self
    }

    /// Bytes of a message, at most.
    pub fn message_bytes_max(mut self, bytes: u64) -> Builder {
        self.config.message_bytes_max = bytes;
        self
    }

    /// Connections at once; further ones are told 503.
    pub fn connections_max(mut self, connections: u32) -> Builder {
        self.config.connections_max = Some(connections);
        self
    }

    /// Bytes queued to a connection above which sends are refused and it is not read from.
    pub fn queue_bytes(mut self, bytes: u32) -> Builder {
        self.config.queue_bytes = bytes;
        self
    }

    /// Bytes of all buffers and logs together.
    pub fn memory_budget_bytes(mut self, bytes: u64) -> Builder {
        self.config.memory_budget_bytes = bytes;
        self
    }

    /// Compresses messages with clients that offer it (RFC 7692).
    pub fn compression(mut self, compression: Compression) -> Builder {
        self.config.compression = Some(compression);
        self
    }

    /// Speaks TLS on every listener, as [`server_config`](crate::tls::server_config) of a certificate and its key says.
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Builder {
        self.config.tls = Some(config);
        self
    }

    /// Which pages may connect, where a route says nothing else; without it those of the same host.
    pub fn origins(mut self, origins: OriginPolicy) -> Builder {
        self.config.origins = origins;
        self
    }

    /// Subprotocols where a route says nothing else; best first.
    pub fn subprotocols(mut self, names: impl IntoIterator<Item = &'static str>) -> Builder {
        self.config.subprotocols = names.into_iter().collect();
        self
    }

    /// Whose order decides where several subprotocols are possible.
    pub fn subprotocol_preference(mut self, preference: SubprotocolPreference) -> Builder {
        self.config.subprotocol_preference = preference;
        self
    }

    /// From accept to the 101, at most.
    pub fn handshake_timeout(mut self, time: Duration) -> Builder {
        self.config.handshake_timeout = Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX / 2);
        self
    }

    /// Time that a send may go without progress before its connection ends, looked at once a second; zero for any.
    pub fn send_timeout(mut self, time: Duration) -> Builder {
        self.config.send_timeout = Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX / 2);
        self
    }

    /// TCP congestion control of the connections that its addresses accept, such as `cubic`: the choice of each listener,
    /// where the kernel's default is that of the host. Sockets that were inherited keep theirs.
    pub fn congestion(mut self, name: impl Into<String>) -> Builder {
        self.config.congestion = Some(name.into());
        self
    }

    /// The configuration as it is now.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Starts the server; it accepts connections when this returns.
    ///
    /// # Errors
    /// What is wrong and what cures it, see [`StartError::kind`].
    pub fn start(self) -> Result<Server, StartError> {
        Server::start(self.config)
    }
}
