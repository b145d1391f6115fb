//! [`Builder`]: configures and starts a server that is embedded in another program.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::node::config::{Compression, DriverChoice, RefusalHook, ServerConfig, StartError};
use crate::node::handle::PacedDrain;
use crate::node::listen_address::ListenAddress;
use crate::node::listeners::InheritedListener;
use crate::node::server::Server;
use crate::node::topic_options::TopicOptions;
use crate::routes::factory::{AnswerRequest, MakeHandler};
use crate::routes::request_context::RequestContext;
use crate::routes::response::Response;
use crate::routes::route::Route;
use crate::routes::times::ConnectionTimes;
use echoring_auth::Authenticator;
use echoring_proto::connection::{MessageProgress, nanos};
use echoring_proto::handshake::{OriginPolicy, Refusal, Request, SubprotocolPreference};
use echoring_topics::Pattern;

/// Configures a server step by step and starts it.
///
/// A new builder has no listener and no route, and pins no threads. [`builtin_routes`](Builder::builtin_routes) and
/// [`test_endpoints`](Builder::test_endpoints) add those of `echoring serve`. Everything else is as there.
///
/// There are no read and write buffer sizes per connection. A shard receives into regions that all its connections
/// share, and an idle connection holds no buffer. Queued bytes are in buffers of fitting sizes, up to
/// [`queue_bytes`](Builder::queue_bytes) per connection and [`memory_budget`](Builder::memory_budget) for
/// all connections.
///
/// A server uses no signals and no other process-wide state, so several can run side by side. The kernel schedules its
/// threads like the others of the program, unless they are [pinned](Builder::pin).
///
/// ```
/// use std::time::Duration;
/// use echoring::server::{Disposition, Handler, Message, Remote, Response, Result, Server};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
///         Ok(Disposition::Echo)
///     }
/// }
///
/// let server = Server::builder()
///     .listen(([127, 0, 0, 1], 0))
///     .shards(1)
///     .handle("/ws", || Echo)
///     .get("/hello", || Response::text(200, "hello\n"))
///     .start()?;
/// println!("listening on {}", server.addresses()[0]);
/// server.shutdown(Duration::from_secs(1))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct Builder {
    config: ServerConfig,
    takeover: Option<PacedDrain>,
    takeover_grace: Duration,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

#[doc(hidden)]
impl From<ServerConfig> for Builder {
    /// Starts from a configuration.
    fn from(config: ServerConfig) -> Builder {
        Builder { config, takeover: None, takeover_grace: Duration::ZERO }
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
        Builder { config, takeover: None, takeover_grace: Duration::ZERO }
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

    /// Adds a WebSocket route with a handler per connection and the default policy: [`Route::new`] with these arguments. See
    /// [`route`](Builder::route) for more.
    pub fn handle<A>(self, pattern: &str, make: impl MakeHandler<A> + Send + Sync + 'static) -> Builder {
        self.route(Route::new(pattern, make))
    }

    /// Adds a WebSocket route. The first route that matches a request is used. A route behind one that takes all its requests is an error of
    /// [`start`](Builder::start).
    pub fn route(mut self, route: Route) -> Builder {
        self.config.routes.add(route);
        self
    }

    /// Answers plain GET and HEAD requests, without bodies and without the checks of [`before`](Builder::before). `answer` returns
    /// a [`Response`], or `Result<Response, Response>` so that `?` can be used. Its arguments are
    /// [extractors](crate::FromRequest), and the first one may be `request: &RequestContext<'_>`.
    ///
    /// ```
    /// use echoring::server::{Path, RequestContext, Response, Server};
    ///
    /// let builder = Server::builder()
    ///     .get("/hello/{name}", |Path(name): Path<String>| Response::text(200, format!("hello {name}\n")))
    ///     .get("/method", |request: &RequestContext<'_>| Response::text(200, request.method));
    /// ```
    pub fn get<A>(mut self, pattern: &str, answer: impl AnswerRequest<A> + Send + Sync + 'static) -> Builder {
        self.config.routes.add_get(pattern, answer);
        self
    }

    /// Adds a state of this type to the server. The extractor [`State`](crate::State) clones it, in routes of every
    /// shard; so all clones share the content of an `Arc`. A shard must not wait for a lock that is held for long. A
    /// second state of the same type replaces the first one.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use echoring::server::{Response, Server, State};
    ///
    /// #[derive(Clone, Default)]
    /// struct Visits(Arc<AtomicU64>);
    ///
    /// let builder = Server::builder().state(Visits::default()).get("/visits", |State(visits): State<Visits>| {
    ///     Response::text(200, format!("{}\n", visits.0.fetch_add(1, Ordering::Relaxed)))
    /// });
    /// ```
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Builder {
        self.config.routes.add_state(state);
        self
    }

    /// Adds a state of this type to each shard; `make` creates it on the thread of the shard. The extractor
    /// [`ShardState`](crate::ShardState) clones it. All handlers of a shard run on its thread, so it needs no locks and no atomics:
    /// an `Rc<RefCell<…>>` is enough. A panic of `make` is an error of [`start`](Builder::start).
    ///
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// use echoring::server::{Handler, Server, ShardState};
    ///
    /// # #[allow(dead_code)]
    /// struct Member(Rc<Cell<u64>>);
    ///
    /// impl Handler for Member {}
    ///
    /// let builder = Server::builder()
    ///     .shard_state(|| Rc::new(Cell::new(0)))
    ///     .handle("/ws", |ShardState(count): ShardState<Rc<Cell<u64>>>| Member(count));
    /// ```
    pub fn shard_state<T: Clone + 'static>(
        mut self,
        make: impl Fn() -> T + Send + Sync + 'static,
    ) -> Builder {
        self.config.routes.add_shard_state(make);
        self
    }

    /// Calls `check` before a connection is opened: for upgrades of all routes, built-in ones included, and for event streams,
    /// but not for plain requests. It may refuse the request with a response, [add fields](RequestContext::add_header) to the 101,
    /// and [attach values](RequestContext::insert), which the extractor [`Extension`](crate::Extension) reads.
    ///
    /// The order is: the host and origin policy, [authentication](Builder::auth), the functions of `before` in the order in which
    /// they were added, those of [`Route::before`], the extractors of the route in the order of its arguments, the route's own
    /// function, and the functions of [`after`](Builder::after). The first that refuses ends it. A panic is answered with 500.
    ///
    /// The function runs on the thread of the shard and must not block. Decisions that wait, for example for a
    /// database, belong in [authentication](Builder::auth): its HTTP hook runs on a separate thread, and only the
    /// client itself waits.
    ///
    /// ```
    /// use echoring::server::{Cookies, Extension, Handler, Response, Server};
    ///
    /// #[derive(Clone)]
    /// struct User(String);
    ///
    /// # #[allow(dead_code)]
    /// struct Member(User);
    ///
    /// impl Handler for Member {}
    ///
    /// let builder = Server::builder()
    ///     .before(|request| {
    ///         let cookies: Cookies = request.extract()?;
    ///         let user = cookies.get("user").ok_or_else(|| Response::text(401, "log in first\n"))?;
    ///         request.insert(User(user.to_owned()));
    ///         Ok(())
    ///     })
    ///     .handle("/ws", |Extension(user): Extension<User>| Member(user));
    /// ```
    pub fn before(
        mut self,
        check: impl Fn(&mut RequestContext<'_>) -> Result<(), Response> + Send + Sync + 'static,
    ) -> Builder {
        self.config.routes.add_before(check);
        self
    }

    /// Calls `observe` with the outcome of each request of a WebSocket route of the program, to log or to count it: `Ok` for an
    /// upgrade, or the response of a function of [`before`](Builder::before), of an extractor or of the route that refuses it.
    /// For built-in routes it is called with refusals of `before` only. Refusals by the server's own policy are passed
    /// to [`on_refusal`](Builder::on_refusal).
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use echoring::server::Server;
    ///
    /// static REFUSED: AtomicU64 = AtomicU64::new(0);
    ///
    /// let builder = Server::builder().after(|request, outcome| {
    ///     if let Err(response) = outcome {
    ///         REFUSED.fetch_add(1, Ordering::Relaxed);
    ///         println!("{}: {}", request.path, response.status());
    ///     }
    /// });
    /// ```
    pub fn after(
        mut self,
        observe: impl Fn(&RequestContext<'_>, Result<(), &Response>) + Send + Sync + 'static,
    ) -> Builder {
        self.config.routes.add_after(observe);
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

    /// Whether idle connections move from full shards to emptier ones; by default they do. TLS sessions stay where they are unless
    /// they [move](Builder::tls), and those of handlers that do not [migrate](crate::Migrate).
    pub fn rebalance(mut self, rebalance: bool) -> Builder {
        self.config.rebalance = rebalance;
        self
    }

    /// Maximum size of a request head in bytes; a larger one is answered 431. Each handshake may buffer as much.
    pub fn max_header(mut self, bytes: usize) -> Builder {
        self.config.connection.max_header = bytes;
        self
    }

    /// Maximum message size in bytes.
    pub fn max_message(mut self, bytes: u64) -> Builder {
        self.config.connection.max_message = bytes;
        self
    }

    /// Maximum concurrent connections; further ones are answered 503.
    pub fn max_connections(mut self, connections: u32) -> Builder {
        self.config.max_connections = Some(connections);
        self
    }

    /// Maximum topics of the node.
    pub fn max_topics(mut self, topics: u32) -> Builder {
        self.config.max_topics = topics;
        self
    }

    /// Maximum topics that one connection subscribes to.
    pub fn max_subscriptions(mut self, topics: u32) -> Builder {
        self.config.max_subscriptions = topics;
        self
    }

    /// Pings of a client that are answered within a second. More of them end its connection with 1008.
    pub fn pings_per_second_max(mut self, pings: u32) -> Builder {
        self.config.connection.pings_per_second_max = pings;
        self
    }

    /// Bytes queued to a connection above which sends are refused and the connection is not read.
    pub fn queue_bytes(mut self, bytes: u32) -> Builder {
        self.config.connection.queue_bytes = bytes;
        self
    }

    /// Bytes of all buffers and logs.
    pub fn memory_budget(mut self, bytes: u64) -> Builder {
        self.config.memory_budget = bytes;
        self
    }

    /// Compresses messages for clients that offer it (RFC 7692).
    pub fn compress(mut self, compression: Compression) -> Builder {
        self.config.connection.compression = Some(compression);
        self
    }

    /// Uses TLS on every listener, with a configuration from [`server_config`](echoring_async::tls::server_config). Sessions of TLS 1.3 move
    /// with their connections if it is [`with_secrets`](crate::with_secrets).
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Builder {
        self.config.tls = Some(config);
        self
    }

    /// The origins that may connect, unless a route has its own policy; those of the same host by default.
    pub fn allow_origin(mut self, origins: OriginPolicy) -> Builder {
        self.config.allow_origin = origins;
        self
    }

    /// Authenticates clients; without it, everybody is let in. The extractor [`Identity`](crate::Identity) has the
    /// client. Checks that wait (an HTTP hook, key sets, slow hashes of passwords) run on a thread of their own.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use echoring::server::{AuthSettings, Authenticator, Handler, Identity, Server};
    ///
    /// # #[allow(dead_code)]
    /// struct Member(Identity);
    ///
    /// impl Handler for Member {}
    ///
    /// let settings = AuthSettings::default().jwt_keys(["public.pem"]);
    /// let builder = Server::builder()
    ///     .auth(Arc::new(Authenticator::load(&settings)?))
    ///     .handle("/ws", |client: Identity| Member(client));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn auth(mut self, auth: Arc<Authenticator>) -> Builder {
        self.config.auth = Some(auth);
        self
    }

    /// Subprotocols of routes without their own, preferred first.
    pub fn subprotocol(mut self, names: impl IntoIterator<Item = &'static str>) -> Builder {
        self.config.subprotocol = names.into_iter().collect();
        self
    }

    /// Whether the order of the server or of the client selects among several subprotocols.
    pub fn subprotocol_preference(mut self, preference: SubprotocolPreference) -> Builder {
        self.config.subprotocol_preference = preference;
        self
    }

    /// Maximum time from accept to the 101.
    pub fn handshake_timeout(mut self, time: Duration) -> Builder {
        self.config.connection.handshake_timeout = nanos(time);
        self
    }

    /// Time that a send may be without progress before its connection is closed; zero for no limit. Checked once a
    /// second.
    pub fn send_timeout(mut self, time: Duration) -> Builder {
        self.config.connection.send_timeout = nanos(time);
        self
    }

    /// The least progress of a message that has begun: each further `bytes` of it, or its end, must arrive within `time`; otherwise
    /// the connection is closed with 4009. By default 1 KiB in 30 s. There is no limit of a message's whole time, unless `bytes` is
    /// more than a message may have. 0 bytes or no time for no limit. Time in which the server does not read does not count. A
    /// [route](crate::Route::message_progress) may have its own.
    pub fn message_progress(mut self, bytes: u32, time: Duration) -> Builder {
        self.config.connection.message_progress = MessageProgress::new(bytes, time);
        self
    }

    /// Pings a peer that was not heard for `interval`, and closes its connection if nothing of it is heard within `timeout`, or within
    /// another `interval` if that is less. By default after 25 s, and within 10 s. No `interval` for no pings; then a peer that is gone is noticed by what it is sent only.
    /// Event streams are sent a comment at each interval. A [route](crate::Route::pings) may have its own.
    pub fn pings(mut self, interval: Duration, timeout: Duration) -> Builder {
        (self.config.connection.ping_interval, self.config.connection.pong_timeout) =
            (nanos(interval), nanos(timeout));
        self
    }

    /// The longest time without a message in either direction; then a connection is closed with 1001, as in a drain, at most a
    /// quarter of the time later. Pings and pongs are no messages. Zero, the default, for no limit. A
    /// [route](crate::Route::idle_timeout) may have its own.
    ///
    /// Messages of such a connection are counted by themselves, which takes about 250 bytes for each, and echoes them on the common
    /// path.
    pub fn idle_timeout(mut self, time: Duration) -> Builder {
        self.config.lifetime.idle_timeout = nanos(time);
        self
    }

    /// The longest life of a connection; then it is closed with 1001, as in a drain: not in the middle of a message, and once it has
    /// got what it is to be sent. Each connection lives for up to a tenth less, at random, and a shard ends at most a thousand a
    /// second, so that clients do not come back at once. Zero, the default, for no limit. A
    /// [route](crate::Route::max_lifetime) may have its own.
    pub fn max_lifetime(mut self, time: Duration) -> Builder {
        self.config.lifetime.max_lifetime = nanos(time);
        self
    }

    /// Tells clients to wait for up to this time, each for another one at random, before they connect again: in the reason of Close frames
    /// with 1001, 1012, 1013 and 4008 to 4010, which then ends with `retry after N ms`, and as `retry:` of event streams.
    /// A reconnecting client of this library waits for it. Zero, the default, for nothing about that.
    pub fn reconnect_delay(mut self, time: Duration) -> Builder {
        self.config.connection.reconnect_delay = nanos(time);
        self
    }

    /// The times of some connections, by their path and their listener. Repeatable; the first that fits a connection applies. Those of a
    /// [`Route`](crate::Route) come before.
    pub fn times(mut self, times: ConnectionTimes) -> Builder {
        self.config.times.push(times);
        self
    }

    /// TCP congestion control of accepted connections, such as `cubic`, instead of the default of the host. Inherited
    /// sockets keep their own.
    pub fn congestion(mut self, name: impl Into<String>) -> Builder {
        self.config.congestion = Some(name.into());
        self
    }

    /// Bytes that the kernel may hold unsent for a subscriber of topics, from when it has first fallen behind
    /// (`TCP_NOTSENT_LOWAT`), 16 KiB by default; 0 for no limit. What the kernel holds can no longer be dropped, conflated, or
    /// overtaken by a Close. On kernels before Linux 6.7 the io_uring driver sets it for all connections, from their beginning.
    pub fn notsent_lowat(mut self, bytes: u32) -> Builder {
        self.config.notsent_lowat = bytes;
        self
    }

    /// Samples how old messages are when subscribers get them, of one delivery in `one_in` on average, 100 by default; 0 for none. The
    /// ages are in [`Counters::delivery_ages`](crate::report::Counters::delivery_ages) of each snapshot.
    pub fn age_sample(mut self, one_in: u32) -> Builder {
        self.config.age_sample = one_in;
        self
    }

    /// The current configuration.
    #[doc(hidden)]
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Lets the server take the place of a running one, and later give it to another: a new release of the program starts beside the
    /// old one, without a refused connection or a lost message. Both need this call, the same user, and an address in common whose port is
    /// not 0. Without a running server it is a start as any other.
    ///
    /// The new server gets the listening sockets, the topics with their histories, and the open connections: those of the built-in routes,
    /// and of routes whose handlers [migrate](crate::Migrate). The old one closes the others with 1012 (service restart), paced as
    /// `drain` says, and then [ends](Server::join).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use echoring::server::{PacedDrain, Server};
    ///
    /// let drain = PacedDrain { time: Duration::from_secs(60), per_second_max: 1_000 };
    /// let builder = Server::builder().listen(([127, 0, 0, 1], 9001)).builtin_routes(true).takeover(drain);
    /// # drop(builder);
    /// ```
    pub fn takeover(mut self, drain: PacedDrain) -> Builder {
        self.takeover = Some(drain);
        self
    }

    /// For this time after another process has [taken over](Builder::takeover), this server keeps its listening sockets, topics and
    /// connections, and serves again if that process ends. Zero by default. It has no effect in a cluster.
    pub fn takeover_grace(mut self, time: Duration) -> Builder {
        self.takeover_grace = time;
        self
    }

    /// Starts the server; it accepts connections when this returns.
    ///
    /// # Errors
    /// The problem and its remedy, see [`StartError::kind`].
    pub fn start(self) -> Result<Server, StartError> {
        match self.takeover {
            Some(drain) => Server::start_in_place(self.config, drain, self.takeover_grace),
            None => Server::start(self.config),
        }
    }
}

impl Server {
    /// Configures a server.
    pub fn builder() -> Builder {
        Builder::new()
    }
}
