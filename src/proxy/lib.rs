//! A WebSocket-aware reverse proxy: it relays HTTP and WebSockets from one address to one of several upstreams.
//!
//! The proxy has its own threads, each with a tokio runtime. A connection stays on the thread that accepted it. Frames pass
//! unchanged. Messages are never assembled, so a long message costs no memory. A slow reader backpressures its sender.
//! `docs/guide/proxy.md` documents the design decisions.
//!
//! Never: a queue without a bound, or a connection that ends on one side only.

#![forbid(unsafe_code)]

mod figures;
mod forwarder;
mod http;
pub mod limits;
pub mod recording;
mod relay;
#[cfg(test)]
mod tests;
mod transport;
mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::figures::Counters;
pub use self::figures::Metric;
pub use self::http::headers::{Forwarded, HostPolicy};
use crate::limits::{PROXY_IDLE_TIMEOUT, UPSTREAM_CONNECT_TIMEOUT, UPSTREAM_RESPONSE_TIMEOUT};
use crate::recording::{Recorder, Tap};
use echoring_async as aio;
use echoring_async::limits::{CONNECTIONS_DEFAULT, DRAIN_TIMEOUT, LISTEN_BACKLOG};
use echoring_proto::connection::Seed;
use echoring_proto::deflate::Preferences;
use echoring_proto::limits::HANDSHAKE_TIMEOUT;
use echoring_runtime::listening::{descriptors_hint, retry_busy};
use forwarder::MaskingKeys;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector};
pub use upstream::health::HealthCheck;
pub use upstream::{Balance, UpstreamUrl};
use upstream::{Upstreams, health};

/// Configuration of a proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// TLS configuration, if any.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The upstreams, at least one.
    pub upstreams: Vec<UpstreamUrl>,
    /// TLS configuration for upstreams with `wss:` or `https:`; required if there is one.
    pub upstream_tls: Option<Arc<rustls::ClientConfig>>,
    /// Load balancing over the upstreams.
    pub balance: Balance,
    /// Active health checks. Without them, an upstream that could not be connected to is tried again after
    /// [`Settings::health_interval`].
    pub health: Option<HealthCheck>,
    /// Number of worker threads.
    pub threads: usize,
    /// Maximum number of open client connections; further clients wait to be accepted.
    pub max_connections: u32,
    /// Settings for requests and frames.
    pub settings: Settings,
}

/// Settings for the requests and frames that pass through the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time limit for connecting to an upstream.
    pub connect_timeout: Duration,
    /// Time limit from sending a request to receiving the head of its response.
    pub response_timeout: Duration,
    /// Time without a byte in either direction after which a connection is closed; `None` for no limit.
    pub idle_timeout: Option<Duration>,
    /// Time between two health checks of an upstream; also the `Retry-After` of a 503 response.
    pub health_interval: Duration,
    /// The `Host` that upstreams see.
    pub host: HostPolicy,
    /// Header fields that describe the client to upstreams.
    pub forwarded: Forwarded,
    /// How permessage-deflate is handled.
    pub compression: Compression,
}

/// How permessage-deflate (RFC 7692) is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Client and upstream negotiate it, and compressed frames pass unchanged.
    #[default]
    Pass,
    /// It is neither offered nor accepted.
    Off,
    /// The proxy negotiates it with clients that offer it; upstreams receive uncompressed messages.
    Terminate {
        /// The parameters that the proxy accepts.
        preferences: Preferences,
        /// Compression level, 1 to 9.
        level: u8,
        /// Maximum size of a decompressed message in bytes; a longer one closes its connection with 1009.
        max_message: u64,
    },
}

impl Config {
    /// A proxy on `listen` in front of `upstreams`, with the defaults of `echoring proxy`.
    pub fn new(listen: SocketAddr, upstreams: Vec<UpstreamUrl>) -> Config {
        Config {
            listen,
            tls: None,
            upstreams,
            upstream_tls: None,
            balance: Balance::default(),
            health: None,
            threads: 1,
            max_connections: CONNECTIONS_DEFAULT,
            settings: Settings::default(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let secure = self.upstreams.iter().any(UpstreamUrl::is_secure);
        if self.upstreams.is_empty() || (secure && self.upstream_tls.is_none()) {
            return Err(Error(
                "a proxy needs an upstream; upstreams with wss: also need a TLS configuration".to_owned(),
            ));
        }
        Ok(())
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

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    threads: Vec<JoinHandle<io::Result<()>>>,
    handle: Handle,
    recorder: Option<Recorder>,
}

/// Reconfigures a running proxy, reports its metrics, and shuts it down.
#[derive(Clone, Debug)]
pub struct Handle {
    live: Arc<watch::Sender<Arc<Live>>>,
    counters: Arc<Counters>,
    drain: Arc<watch::Sender<bool>>,
    listener: Arc<TcpListener>,
    /// The reason, if a part of the proxy has failed.
    failure: Arc<OnceLock<String>>,
}

impl Handle {
    /// Applies another configuration to new connections and requests, except for `listen` and `threads`. Open WebSockets
    /// and requests under way keep theirs. An upstream that stays keeps its state; one that is removed gets no new
    /// connections.
    ///
    /// # Errors
    /// If there is no upstream, or TLS for upstreams is not configured. Then nothing was changed.
    pub fn reconfigure(&self, config: Config) -> Result<(), Error> {
        config.check()?;
        self.live.send_modify(|live| *live = Live::new(config, Some(live)));
        Ok(())
    }

    /// Its metrics at this moment.
    pub fn metrics(&self) -> Vec<Metric> {
        figures::metrics(&self.counters, self.live.borrow().upstreams.figures())
    }

    /// Why new clients are not welcome, in a few words; `None` if they are.
    pub fn unready(&self) -> Option<&'static str> {
        match *self.drain.borrow() {
            true => Some("draining"),
            false => self.live.borrow().upstreams.are_down().then_some("every upstream is down"),
        }
    }

    /// Whether a part of the proxy has failed. The proxy is then shutting down.
    pub fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Shuts the proxy down because an essential part of it has failed: it drains, and [`Proxy::join`] returns
    /// `reason`.
    pub fn fail(&self, reason: &str) {
        if self.failure.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "the proxy cannot continue and shuts down");
            self.drain();
        }
    }

    /// Stops accepting connections, closes all WebSockets with 1001 and lets requests under way finish. Connections
    /// that are left after [`DRAIN_TIMEOUT`] are cut.
    pub fn drain(&self) {
        self.drain.send_replace(true);
        // Ends every pending accept, and refuses new connections.
        let _ = SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both);
    }
}

/// Why a proxy did not start, or shut down by itself: one line with a remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Proxy {
    /// Starts the threads; clients are accepted from then on. FrameSplitter are recorded by `recorder`, if there is one.
    ///
    /// # Errors
    /// If the address cannot be bound, there is no upstream, or TLS for upstreams is not configured.
    pub fn start(config: Config, recorder: Option<Recorder>) -> Result<Proxy, Error> {
        config.check()?;
        let listener = Arc::new(retry_busy(|| listen(config.listen)).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => "stop the process that listens there, or choose another --listen",
                io::ErrorKind::PermissionDenied => "use a port above 1023, or grant CAP_NET_BIND_SERVICE",
                io::ErrorKind::AddrNotAvailable => {
                    "use an address of this host, or 0.0.0.0 for all addresses"
                }
                _ => descriptors_hint(&error).unwrap_or("choose another --listen"),
            };
            Error(format!("cannot listen on {}: {error}; {hint}", config.listen))
        })?);
        let cannot_start = |error: io::Error| {
            let hint = descriptors_hint(&error).unwrap_or("free memory for its threads");
            Error(format!("the proxy cannot start: {error}; {hint}"))
        };
        let address = listener.local_addr().map_err(cannot_start)?;
        let (drain, _) = watch::channel(false);
        let count = config.threads.max(1);
        let (live, _) = watch::channel(Live::new(config, None));
        let handle = Handle {
            live: Arc::new(live),
            counters: Arc::default(),
            drain: Arc::new(drain),
            listener: Arc::clone(&listener),
            failure: Arc::default(),
        };
        // Everything that may fail is done before the first thread starts.
        let mut prepared = Vec::with_capacity(count);
        for _ in 0..count {
            let runtime = aio::local_runtime().map_err(cannot_start)?;
            let entered = runtime.enter();
            let listener = listener.try_clone().and_then(transport::listener).map_err(cannot_start)?;
            drop(entered);
            prepared.push((runtime, listener));
        }
        let mut threads = Vec::with_capacity(count);
        for (index, (runtime, listener)) in prepared.into_iter().enumerate() {
            let worker = Worker {
                index,
                threads: count,
                handle: handle.clone(),
                tap: recorder.as_ref().map(Recorder::tap),
            };
            let spawned = thread::Builder::new()
                .name(format!("proxy-{index}"))
                .spawn(move || run_worker(worker, &runtime, listener));
            // The threads that run already end with the failed one.
            threads.push(spawned.inspect_err(|_| handle.drain()).map_err(cannot_start)?);
        }
        Ok(Proxy { address, threads, handle, recorder })
    }

    /// The address that the proxy listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The driver: always `epoll`.
    pub fn driver(&self) -> &'static str {
        "epoll"
    }

    /// Number of worker threads.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// A handle that reconfigures the proxy, reports its metrics, and shuts it down.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the proxy has shut down and the recording is written.
    ///
    /// # Errors
    /// If a part of the proxy failed, or the recording could not be written.
    pub fn join(self) -> Result<(), Error> {
        let mut failure = None;
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                // Its error was reported as the proxy's failure.
                Ok(Err(_)) => {}
                Err(_) => failure = Some(Error("a thread of the proxy panicked".to_owned())),
            }
        }
        if let Some(reason) = self.handle.failure.get() {
            failure = Some(Error(format!("the proxy has failed: {reason}")));
        }
        if let Some(Err(error)) = self.recorder.map(Recorder::finish) {
            failure = Some(Error(format!("the recording is incomplete: {error}")));
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

/// What new connections and requests use. A reload replaces it; a request keeps that of its beginning, and so does its WebSocket.
#[derive(Debug)]
struct Live {
    config: Config,
    upstreams: Upstreams,
}

impl Live {
    /// A configuration in the place of `before`.
    fn new(config: Config, before: Option<&Live>) -> Arc<Live> {
        // With health checks, an upstream that is down is up again when one succeeds.
        let retry_after = config.health.is_none().then_some(config.settings.health_interval);
        let before = before.map(|before| &before.upstreams);
        let upstreams = Upstreams::new(&config.upstreams, config.balance, retry_after, before);
        Arc::new(Live { config, upstreams })
    }

    fn connector(&self) -> Option<TlsConnector> {
        self.config.upstream_tls.clone().map(TlsConnector::from)
    }
}

/// State that the tasks of one thread share.
struct Context {
    live: watch::Receiver<Arc<Live>>,
    counters: Arc<Counters>,
    tap: Option<Tap>,
    /// Masking keys for all WebSockets of the thread.
    keys: MaskingKeys,
    drain: watch::Receiver<bool>,
}

impl Context {
    /// What a connection or a request that begins now uses.
    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.borrow())
    }

    /// Resolves when the proxy drains.
    async fn drained(&self) {
        // An error means that every handle is gone, which ends the proxy too.
        let _ = self.drain.clone().wait_for(|drain| *drain).await;
    }
}

/// A worker thread's configuration.
struct Worker {
    index: usize,
    /// Number of worker threads.
    threads: usize,
    handle: Handle,
    tap: Option<Tap>,
}

/// Runs a worker thread. If one fails, all shut down: a proxy must not continue with half its threads.
fn run_worker(worker: Worker, runtime: &Runtime, listener: tokio::net::TcpListener) -> io::Result<()> {
    let handle = worker.handle.clone();
    let result = catch_unwind(AssertUnwindSafe(|| LocalSet::new().block_on(runtime, worker.serve(listener))))
        .map_err(|_| io::Error::other("it panicked"));
    if let Err(error) = &result {
        handle.fail(&format!("a worker thread has failed: {error}"));
    }
    result
}

impl Worker {
    /// Waits until this thread may have another connection.
    async fn wait_for_room(&self, context: &Context, freed: &Rc<Notify>) {
        let mut live = context.live.clone();
        let max_connections = |live: &Live| (live.config.max_connections as usize / self.threads).max(1);
        // One reference is not a connection's.
        while Rc::strong_count(freed) > max_connections(&live.borrow_and_update()) {
            tokio::select! {
                () = freed.notified() => {}
                _ = live.changed() => {}
            }
        }
    }

    async fn serve(self, listener: tokio::net::TcpListener) {
        let context = Rc::new(Context {
            live: self.handle.live.subscribe(),
            counters: Arc::clone(&self.handle.counters),
            tap: self.tap.clone(),
            keys: MaskingKeys::new(Seed::System),
            drain: self.handle.drain.subscribe(),
        });
        if self.index == 0 {
            health::start(context.live.clone());
            if let Some(tap) = context.tap.clone() {
                let handle = self.handle.clone();
                spawn_local(async move {
                    let failed = tap.failed().await;
                    tracing::error!("{failed}; the proxy shuts down, because nothing may pass unrecorded");
                    handle.drain();
                });
            }
        }
        let freed = Rc::new(Notify::new());
        loop {
            tokio::select! {
                () = self.wait_for_room(&context, &freed) => {}
                () = context.drained() => break,
            }
            let (stream, peer) = tokio::select! {
                accepted = echoring_async::accept("proxy", async || transport::accept(&listener).await) => accepted,
                () = context.drained() => break,
            };
            context.counters.open.fetch_add(1, Relaxed);
            context.counters.accepted.fetch_add(1, Relaxed);
            let slot = Slot { freed: Rc::clone(&freed), counters: Arc::clone(&context.counters) };
            spawn_local(serve_client(Rc::clone(&context), stream, peer, slot));
        }
        let emptied = async {
            while Rc::strong_count(&freed) > 1 {
                freed.notified().await;
            }
        };
        let drained = tokio::time::timeout(Duration::from_nanos(DRAIN_TIMEOUT), emptied).await;
        if drained.is_err() {
            tracing::warn!("closing connections that outlived the drain timeout");
        }
    }
}

/// Counts a connection for as long as it lives, also by a reference to the signal of its end.
struct Slot {
    freed: Rc<Notify>,
    counters: Arc<Counters>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Relaxed);
        self.freed.notify_one();
    }
}

async fn serve_client(context: Rc<Context>, stream: transport::Transport, peer: SocketAddr, _slot: Slot) {
    let Some(acceptor) = context.live().config.tls.clone().map(TlsAcceptor::from) else {
        return http::serve(context, stream, peer, false).await;
    };
    let handshake = Duration::from_nanos(HANDSHAKE_TIMEOUT);
    match tokio::time::timeout(handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => http::serve(context, Box::new(stream), peer, true).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}
