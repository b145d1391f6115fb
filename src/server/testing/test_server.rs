//! [`TestServer`]: a server whose shards a test runs itself.

use std::fmt;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use super::client::TestClient;
use super::message::{HandlerFailure, TestPublication};
use super::request::TestRequest;
use super::response::TestResponse;
use super::simulated::Simulated;
use crate::commands::blocking;
use crate::limits::TEST_CONNECTIONS_DEFAULT;
use crate::node::builder::Builder;
use crate::node::config::ServerConfig;
use crate::node::handle::Handle;
use crate::node::host::Resolved;
use crate::node::listeners::Listeners;
use crate::node::randomness::Randomness;
use crate::node::ranges;
use crate::node::server::{Bound, Server, check_routes};
use echoring_proto::limits::Nanos;
use echoring_proto::random::SplitMix64;
use echoring_runtime::driver::sim::{Faults, Network, Random};
use echoring_runtime::simulation::{self, Simulation};

/// A shard runs whenever it can.
const EAGER: u32 = 1000;

/// A server without sockets, threads and waiting: a test runs its shards, in virtual time.
///
/// It takes the [`Builder`] that the program would start, with its routes, policies, limits and topics. The same seed
/// gives the same run, on any machine.
///
/// Nothing happens between two calls. [`run`](TestServer::run), [`advance`](TestServer::advance) and the calls that
/// read results run the server until nothing more happens; time passes only with `advance`. Calls that block, such as
/// [`Handle::publish`] and [`RemoteSender::send`](crate::RemoteSender::send), work from the test: the server runs while they wait.
///
/// When a `TestServer` is dropped, it fails the test if a handler has panicked and
/// [`take_failures`](TestServer::take_failures) has not returned that.
///
/// ```
/// use std::time::Duration;
///
/// use echoring::server::{Disposition, Handler, Message, Remote, Result, Server};
/// use echoring::testing::TestServer;
///
/// /// Publishes its client's messages, and closes clients that are silent for a minute.
/// struct Member;
///
/// impl Handler for Member {
///     fn open(&mut self, remote: &mut Remote<'_>) -> Result {
///         remote.wake_after(Duration::from_secs(60));
///         Ok(remote.subscribe("room")?)
///     }
///
///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
///         remote.wake_after(Duration::from_secs(60));
///         remote.publish("room", message)?;
///         Ok(Disposition::Done)
///     }
///
///     fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
///         remote.close(echoring::CloseCode(4000), "idle");
///         Ok(())
///     }
/// }
///
/// let server = TestServer::new(Server::builder().handle("/room", || Member));
/// let (ann, bob) = (server.connect("/room")?, server.connect("/room")?);
/// server.advance(Duration::from_secs(40));
/// ann.send_text("hello");
/// assert_eq!(bob.take_texts(), ["hello"]);
/// assert_eq!(server.take_published("room").len(), 1);
/// server.advance(Duration::from_secs(40));
/// assert!(ann.is_open());
/// assert_eq!(bob.closed().unwrap().code.0, 4000);
/// # Ok::<(), echoring::testing::TestResponse>(())
/// ```
pub struct TestServer {
    server: Server,
    simulated: Rc<Simulated>,
}

impl fmt::Debug for TestServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestServer").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl TestServer {
    /// A server of this configuration, with the seed 0 and one shard unless the program sets their number.
    ///
    /// It binds no address, and speaks no TLS: the shards see decrypted data. It has no threads, so credentials that
    /// are checked on one (passwords, hooks, key sets of a URL) are refused with 503; their expiry is that of the real
    /// time of day.
    ///
    /// # Panics
    /// If the configuration is for a cluster, a setting is out of its range, or a route cannot be used.
    pub fn new(builder: Builder) -> TestServer {
        TestServer::with_seed(builder, 0)
    }

    /// The same with a seed. It decides the order in which shards and clients run, the owners of topics, epochs and masking keys:
    /// run a test with several to see it in several orders.
    ///
    /// # Panics
    /// As for [`new`](TestServer::new).
    pub fn with_seed(builder: Builder, seed: u64) -> TestServer {
        let config = ServerConfig { tls: None, inherited: Vec::new(), ..builder.config().clone() };
        assert!(config.cluster.is_none(), "a node of a cluster needs the other nodes");
        ranges::check(&config).expect("the settings are within their ranges");
        check_routes(&config).expect("all routes can be used");
        let network = Network::new(seed, Faults::NONE);
        let shards = config.shards.unwrap_or(1).max(1);
        let max_connections = config.max_connections.unwrap_or(TEST_CONNECTIONS_DEFAULT);
        let resolved = Resolved::new(shards, Vec::new(), max_connections, u64::MAX);
        let listener = || vec![network.listener().expect("a descriptor for /dev/null")];
        let listeners =
            Listeners { by_shard: (0..shards).map(|_| listener()).collect(), ..Listeners::default() };
        let mut built = Vec::new();
        let randomness = Randomness::Seeded(SplitMix64::new(seed));
        let bound = Bound { config, resolved, listeners };
        let server = bound.start_on(None, randomness, |_, specs, _| {
            let (launched, shards) = blocking::as_shard(|| simulation::launch(&network, specs))?;
            built = shards;
            Ok(launched)
        });
        let server = server.expect("shards without sockets and threads start");
        let random = Random::new(seed ^ 0x7e57);
        let shards = built.into_iter().map(|shard| (shard, EAGER));
        TestServer { server, simulated: Simulated::new(Simulation::new(network, random, shards, 0)) }
    }

    // ---- clients ----

    /// Opens a WebSocket connection, see [`TestRequest::connect`]. [`request`](TestServer::request) sets header fields first.
    ///
    /// # Errors
    /// The response that refuses the request.
    pub fn connect(&self, path: &str) -> Result<TestClient, TestResponse> {
        self.request(path).connect()
    }

    /// Sends a plain GET request, see [`TestRequest::get`].
    pub fn get(&self, path: &str) -> TestResponse {
        self.request(path).get()
    }

    /// A request to be sent, with a path and a query.
    pub fn request(&self, path: &str) -> TestRequest<'_> {
        TestRequest::new(&self.simulated, path)
    }

    /// Connections now, those that are closing included.
    pub fn connections(&self) -> usize {
        self.simulated.run();
        self.simulated.connections()
    }

    // ---- time ----

    /// Runs the server and its clients until nothing more happens without time passing. A message between shards that finds no room
    /// is tried again a millisecond later, so [`advance`](TestServer::advance) after megabytes of publications.
    ///
    /// # Panics
    /// If that takes more than a million steps: handlers that answer one another for ever, or a timer that is always due.
    pub fn run(&self) {
        self.simulated.run();
    }

    /// Lets time pass: timers, pings, time-outs and retries happen when they are due, those at its end included.
    ///
    /// # Panics
    /// As for [`run`](TestServer::run).
    pub fn advance(&self, time: Duration) {
        self.simulated.advance(Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX / 4));
    }

    /// Time since the server was started.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.simulated.now())
    }

    /// Runs the server until a future is ready, such as that of [`Handle::publish_async`] or
    /// [`RemoteSender::send_async`](crate::RemoteSender::send_async).
    ///
    /// # Panics
    /// If the future is not ready when nothing more happens.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        blocking::wait_for(future, None).expect("it is ready or the wait panics")
    }

    // ---- the server ----

    /// The handle of the server: to publish, to look at topics and snapshots, and to drain.
    pub fn handle(&self) -> Handle {
        self.server.handle()
    }

    /// Drains the server, see [`Handle::drain`], and runs it until it has ended, with time passing only if it needs that. Its
    /// clients remain readable.
    pub fn drain(&self) {
        self.server.handle().drain();
        let ended = self.simulated.run_until(|| self.simulated.has_ended());
        assert!(ended, "a drain has a deadline");
    }

    /// Whether the server has drained, or was stopped.
    pub fn has_ended(&self) -> bool {
        self.simulated.run();
        self.simulated.has_ended()
    }

    // ---- what happened ----

    /// Takes the publications to a topic that were accepted and not taken yet, of handlers, clients and
    /// [`Handle::publish`], in the order of the topic. They need no subscriber.
    pub fn take_published(&self, topic: &str) -> Vec<TestPublication> {
        self.simulated.run();
        self.simulated.take_published(topic)
    }

    /// Takes the errors and panics of handlers, each of which has closed its connection. A panic of a route's constructor is among
    /// them, and is answered with 500.
    pub fn take_failures(&self) -> Vec<HandlerFailure> {
        self.simulated.run();
        self.simulated.take_failures()
    }

    /// The events so far, a line for each message, publication, failure and end, with its time: for the output of a
    /// failing test. It has the latest 10,000 lines. Its form may change.
    pub fn transcript(&self) -> String {
        self.simulated.transcript()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        blocking::as_shard(|| self.simulated.end());
        if thread::panicking() {
            return;
        }
        if let Some(failure) = self.simulated.take_failures().iter().find(|failure| failure.is_panic) {
            panic!("{failure}");
        }
    }
}
