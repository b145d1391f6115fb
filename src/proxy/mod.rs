//! A reverse proxy that knows WebSockets: HTTP and WebSockets pass on one address to one of several servers.
//!
//! It runs on threads of its own, each with a runtime of tokio, and each connection stays on the thread that accepted it. Frames pass as they are; messages are never put
//! together, so their length costs nothing. A slow reader pauses its sender. `docs/proxy.md` has what it decides.
//!
//! Never: a queue without a bound, or an end that one side does not hear of.

#![forbid(unsafe_code)]

mod frames;
mod framing;
mod headers;
mod health;
mod http;
mod pump;
mod recode;
mod relay;
#[cfg(test)]
mod simulation;
mod timer;
mod transport;
mod upstream;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::aio;
use crate::connection::Seed;
use crate::limits::{
    CONNECTIONS_DEFAULT, DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, LISTEN_BACKLOG, PROXY_IDLE_TIMEOUT,
    UPSTREAM_CONNECT_TIMEOUT, UPSTREAM_RESPONSE_TIMEOUT,
};
use crate::protocol::deflate::Preferences;
use crate::recording::{Recorder, Tap};
use crate::server::{cure_of_descriptors, retry_busy};
pub use headers::{Forwarded, HostPolicy};
pub use health::HealthCheck;
use pump::MaskingKeys;
use upstream::Upstreams;
pub use upstream::{Balance, UpstreamUrl};

/// What a proxy does.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// With which certificate, if by TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The servers, at least one.
    pub upstreams: Vec<UpstreamUrl>,
    /// How servers with `wss:` or `https:` are spoken to; required where there is one.
    pub upstream_tls: Option<Arc<rustls::ClientConfig>>,
    /// Which of several servers gets the next connection.
    pub balance: Balance,
    /// How servers are checked; without it, one that cannot be connected to is tried again after
    /// [`Settings::health_interval`].
    pub health: Option<HealthCheck>,
    /// Threads.
    pub threads: usize,
    /// Clients at once; further ones wait to be accepted.
    pub connections_max: u32,
    /// The rest.
    pub settings: Settings,
}

/// How requests and frames pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From choosing a server to a connection with it.
    pub connect_timeout: Duration,
    /// From a request to the head of its response.
    pub response_timeout: Duration,
    /// Time without a byte in either direction after which a connection is closed; `None` for ever.
    pub idle_timeout: Option<Duration>,
    /// Time between two checks of a server's health, told to who came when none was healthy.
    pub health_interval: Duration,
    /// Which `Host` servers see.
    pub host: HostPolicy,
    /// What they are told about their clients.
    pub forwarded: Forwarded,
    /// What becomes of permessage-deflate.
    pub compression: Compression,
}

/// What becomes of permessage-deflate (RFC 7692).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Client and server agree on it, and compressed frames pass as they are.
    #[default]
    Pass,
    /// Nobody is offered it.
    Off,
    /// The proxy speaks it with clients that offer it, and servers see plain messages.
    Here {
        /// What is agreed on at most.
        preferences: Preferences,
        /// Effort, 1 to 9.
        level: u8,
        /// Bytes of an inflated message; a longer one ends its connection with 1009.
        message_bytes_max: u64,
    },
}

impl Config {
    /// A proxy on `listen` in front of these servers, with the defaults of `echoring proxy`.
    pub fn new(listen: SocketAddr, upstreams: Vec<UpstreamUrl>) -> Config {
        Config {
            listen,
            tls: None,
            upstreams,
            upstream_tls: None,
            balance: Balance::default(),
            health: None,
            threads: 1,
            connections_max: CONNECTIONS_DEFAULT,
            settings: Settings::default(),
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            connect_timeout: Duration::from_nanos(UPSTREAM_CONNECT_TIMEOUT),
            response_timeout: Duration::from_nanos(UPSTREAM_RESPONSE_TIMEOUT),
            idle_timeout: Some(Duration::from_nanos(PROXY_IDLE_TIMEOUT)),
            health_interval: Duration::from_nanos(crate::limits::HEALTH_INTERVAL),
            host: HostPolicy::default(),
            forwarded: Forwarded::default(),
            compression: Compression::default(),
        }
    }
}

impl Settings {
    fn retry_after(&self) -> Duration {
        self.health_interval
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    threads: Vec<JoinHandle<io::Result<()>>>,
    handle: Handle,
    recorder: Option<Recorder>,
}

/// Asks a proxy to end.
#[derive(Clone, Debug)]
pub struct Handle {
    drain: Arc<watch::Sender<bool>>,
    listener: Arc<TcpListener>,
    /// Why it ends, when a part of it has ended by itself.
    failure: Arc<OnceLock<String>>,
}

impl Handle {
    /// Whether the proxy ends because a part of it has ended by itself.
    pub fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Ends the proxy because a part of it has ended that it cannot do without: it drains, and [`Proxy::join`] fails for
    /// this reason.
    pub fn fail(&self, reason: &str) {
        if self.failure.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "the proxy cannot go on, and ends");
            self.drain();
        }
    }

    /// Takes nobody new, tells all WebSockets 1001 and lets requests under way finish; what is left after
    /// [`DRAIN_TIMEOUT`] is cut.
    pub fn drain(&self) {
        self.drain.send_replace(true);
        // Ends every accept, and refuses who comes now.
        let _ = SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both);
    }
}

/// Why a proxy did not start, or ended by itself: one line, with the cure.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl Proxy {
    /// Starts the threads; when this returns, clients are accepted. Frames go to `recorder`, where there is one.
    ///
    /// # Errors
    /// When the address cannot be listened on, or there is no server.
    pub fn start(config: Config, recorder: Option<Recorder>) -> Result<Proxy, Error> {
        let secure = config.upstreams.iter().any(UpstreamUrl::is_secure);
        if config.upstreams.is_empty() || (secure && config.upstream_tls.is_none()) {
            return Err(Error(
                "a proxy needs a server, and for wss: servers to know whom to trust".to_owned(),
            ));
        }
        let listener = Arc::new(retry_busy(|| listen(config.listen)).map_err(|error| {
            let cure = match error.kind() {
                io::ErrorKind::AddrInUse => "stop what listens there, or choose another --listen",
                io::ErrorKind::PermissionDenied => "use a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
                io::ErrorKind::AddrNotAvailable => "use an address of this host, or 0.0.0.0 for all",
                _ => cure_of_descriptors(&error).unwrap_or("choose another --listen"),
            };
            Error(format!("cannot listen on {}: {error}; {cure}", config.listen))
        })?);
        let broken = |error: io::Error| {
            let cure = cure_of_descriptors(&error).unwrap_or("see that there is memory for its threads");
            Error(format!("the proxy cannot start: {error}; {cure}"))
        };
        let address = listener.local_addr().map_err(broken)?;
        let (drain, _) = watch::channel(false);
        let handle =
            Handle { drain: Arc::new(drain), listener: Arc::clone(&listener), failure: Arc::default() };
        let retry_after = config.health.is_none().then_some(config.settings.health_interval);
        let upstreams = Arc::new(Upstreams::new(&config.upstreams, config.balance, retry_after));
        let count = config.threads.max(1);
        // What can be wanting is there before the first thread is, so that a proxy that cannot run does not start.
        let mut equipped = Vec::with_capacity(count);
        for _ in 0..count {
            let runtime = aio::local_runtime().map_err(broken)?;
            let entered = runtime.enter();
            let listener = listener.try_clone().and_then(transport::listener).map_err(broken)?;
            drop(entered);
            equipped.push((runtime, listener));
        }
        let mut threads = Vec::with_capacity(count);
        for (index, (runtime, listener)) in equipped.into_iter().enumerate() {
            let worker = Worker {
                index,
                config: config.clone(),
                upstreams: Arc::clone(&upstreams),
                handle: handle.clone(),
                tap: recorder.as_ref().map(Recorder::tap),
                connections_max: (config.connections_max as usize / count).max(1),
            };
            let spawned = thread::Builder::new()
                .name(format!("proxy-{index}"))
                .spawn(move || run_worker(worker, &runtime, listener));
            // Those that run already end with it.
            threads.push(spawned.inspect_err(|_| handle.drain()).map_err(broken)?);
        }
        Ok(Proxy { address, threads, handle, recorder })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What moves its bytes: always `epoll`, see "The proxy and the control plane run on plain tokio" in ARCHITECTURE.md.
    pub fn driver(&self) -> &'static str {
        "epoll"
    }

    /// How many there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// What ends it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until it has ended, and the recording is written.
    ///
    /// # Errors
    /// When a part of it ended by itself, or the recording could not be written.
    pub fn join(self) -> Result<(), Error> {
        let mut failure = None;
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                // What it ended of has been told as the proxy's failure.
                Ok(Err(_)) => {}
                Err(_) => failure = Some(Error("a thread of the proxy broke".to_owned())),
            }
        }
        if let Some(reason) = self.handle.failure.get() {
            failure = Some(Error(format!("the proxy ended by itself: {reason}")));
        }
        if let Some(Err(error)) = self.recorder.map(Recorder::finish) {
            failure = Some(Error(format!("the recording is not whole: {error}")));
        }
        failure.map_or(Ok(()), Err)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// What the tasks of a thread share.
struct Context {
    settings: Settings,
    upstreams: Arc<Upstreams>,
    tls: Option<TlsConnector>,
    tap: Option<Tap>,
    /// Of all its WebSockets.
    keys: MaskingKeys,
    drain: watch::Receiver<bool>,
}

impl Context {
    /// Resolves when the proxy drains.
    async fn drained(&self) {
        // An error says that nobody is left who could ask for it: an end as well.
        let _ = self.drain.clone().wait_for(|drain| *drain).await;
    }
}

/// A thread before it runs.
struct Worker {
    index: usize,
    config: Config,
    upstreams: Arc<Upstreams>,
    handle: Handle,
    tap: Option<Tap>,
    connections_max: usize,
}

/// Runs a thread of the proxy. When it ends by itself, all others end with it: a proxy never goes on with half its threads.
fn run_worker(worker: Worker, runtime: &Runtime, listener: tokio::net::TcpListener) -> io::Result<()> {
    let handle = worker.handle.clone();
    let ended = catch_unwind(AssertUnwindSafe(|| LocalSet::new().block_on(runtime, worker.serve(listener))))
        .map_err(|_| io::Error::other("it panicked"));
    if let Err(error) = &ended {
        handle.fail(&format!("a thread of the proxy has ended by itself: {error}"));
    }
    ended
}

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl Worker {
    async fn serve(self, listener: tokio::net::TcpListener) {
        let acceptor = self.config.tls.map(TlsAcceptor::from);
        let context = Rc::new(Context {
            settings: self.config.settings,
            upstreams: self.upstreams,
            tls: self.config.upstream_tls.map(TlsConnector::from),
            tap: self.tap,
            keys: MaskingKeys::new(Seed::Source(aio::system_seed)),
            drain: self.handle.drain.subscribe(),
        });
        if self.index == 0 {
            if let Some(check) = &self.config.health {
                health::start(&context, check);
            }
            if let Some(tap) = context.tap.clone() {
                let handle = self.handle.clone();
                spawn_local(async move {
                    let failed = tap.failed().await;
                    tracing::error!("{failed}; the proxy drains, for it was to record everything");
                    handle.drain();
                });
            }
        }
        let room = Arc::new(Semaphore::new(self.connections_max));
        loop {
            // The semaphore is never closed, so there is always a permit in the end.
            let permit = tokio::select! {
                permit = Arc::clone(&room).acquire_owned() => permit.ok(),
                () = context.drained() => break,
            };
            let accepted = tokio::select! {
                accepted = transport::accept(&listener) => accepted,
                () = context.drained() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    spawn_local(serve_client(Rc::clone(&context), stream, peer, acceptor.clone(), permit));
                }
                Err(error) if !*context.drain.borrow() => {
                    tracing::warn!(%error, "a client could not be accepted; trying again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
                Err(_) => {}
            }
        }
        let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        let ended = tokio::time::timeout(Duration::from_nanos(DRAIN_TIMEOUT), room.acquire_many(all)).await;
        if ended.is_err() {
            tracing::warn!("clients that did not leave in time are cut");
        }
    }
}

async fn serve_client(
    context: Rc<Context>,
    stream: transport::Transport,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    _permit: Option<OwnedSemaphorePermit>,
) {
    let Some(acceptor) = acceptor else { return http::serve(context, stream, peer, false).await };
    let handshake = Duration::from_nanos(HANDSHAKE_TIMEOUT);
    match tokio::time::timeout(handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => http::serve(context, Box::new(stream), peer, true).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}
