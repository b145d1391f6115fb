//! The control thread: it serves the admin address, which answers operators and publishes for other programs.
//!
//! It runs on plain tokio, whatever driver the shards use: tokio-uring loses submissions that the kernel refuses
//! temporarily. It queries and controls shards by messages only; a shard never waits for it.

#![forbid(unsafe_code)]

mod access;
mod connection_slots;
mod http;
mod log_level;
mod metrics;
mod publications;
mod reload;
mod report;
mod topic_report;
mod topics;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::sync::oneshot;

use crate::handle::Snapshot;
use crate::limits::SNAPSHOT_TIMEOUT;
use crate::server::Server;
use access::Access;
pub use access::{Token, TokenError};
use http::{AdminListener, Answer, Bodies, Reply};
pub use log_level::{LogLevel, set_log_level};
pub use metrics::{AllocatorFigures, set_allocator};
pub use reload::{Reload, ReloadCounters, Reloaded, Reloading};
use report::Node;
use topics::Topics;

/// A running control thread.
#[derive(Debug)]
pub struct Control {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Control {
    /// Serves `listener` on its own thread, for reports about `server` and for publishing to its topics. With a token,
    /// every request must present it. Without one, only this machine may publish.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be started, or the listener has no address.
    pub fn start(
        listener: TcpListener,
        server: &Server,
        token: Option<Token>,
        reloading: Reloading,
    ) -> io::Result<Control> {
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = mpsc::channel();
        let listening = AdminListener::new(listener)?;
        announce(address, token.is_some());
        let access = Access::new(token, address);
        let plane = ControlThread {
            server: server.handle(),
            shards: server.shards(),
            started: Instant::now(),
            access: access.clone(),
            reloading,
        };
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
            plane.run(listening, stopped);
            drop(ending);
        })?;
        let stop = Arc::new(Mutex::new(Stop { order: Some(stop), ended }));
        Ok(Control { handle: Handle { access, stop }, thread })
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the thread; its listener is closed when this returns. Pending requests are cut off.
    pub fn stop(self) {
        self.handle.stop();
        // The panic has been logged.
        let _ = self.thread.join();
    }
}

/// Controls a running control thread from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    access: Access,
    stop: Arc<Mutex<Stop>>,
}

#[derive(Debug)]
struct Stop {
    order: Option<oneshot::Sender<()>>,
    /// Disconnected when the thread has ended.
    ended: mpsc::Receiver<()>,
}

impl Handle {
    /// Requires another token from now on.
    pub fn set_token(&self, token: Option<Token>) {
        self.access.set_token(token);
    }

    /// Stops listening, and waits for that for two seconds at most. Pending requests are cut off.
    pub fn stop(&self) {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(order) = stop.order.take() {
            // Fails only if the thread has ended.
            let _ = order.send(());
        }
        // Nothing is ever sent on this channel.
        let _ = stop.ended.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT));
    }
}

fn announce(address: SocketAddr, guarded: bool) {
    tracing::info!("control plane on http://{address}/stats and http://{address}/healthz");
    if !address.ip().is_loopback() && !guarded {
        tracing::warn!(
            "the control plane on {address} can be reached from other machines without authentication; \
             give --admin a loopback address, use --admin-token-file, or block the port in a firewall"
        );
    }
}

/// The runtime of the control thread, as reported by `/stats`.
const RUNTIME: &str = "tokio";

/// The state of the thread.
#[derive(Clone)]
struct ControlThread {
    server: crate::handle::Handle,
    shards: usize,
    started: Instant,
    access: Access,
    reloading: Reloading,
}

impl ControlThread {
    /// Serves until it is stopped. If it ends otherwise, it shuts the server down, because nobody could observe it any
    /// more.
    fn run(self, listening: AdminListener, stopped: oneshot::Receiver<()>) {
        let server = self.server.clone();
        if catch_unwind(AssertUnwindSafe(move || listening.serve(&self.desk(), stopped))).is_err() {
            server.fail("the control plane panicked");
        }
    }

    fn desk(self) -> Rc<AdminService> {
        let topics = Topics { server: self.server.clone(), shards: self.shards, bodies: Bodies::default() };
        Rc::new(AdminService { plane: self, topics })
    }

    async fn health(&self) -> Reply {
        let unhealthy = |line: &str| Reply::text(StatusCode::SERVICE_UNAVAILABLE, line);
        if self.server.has_failed() {
            return unhealthy("failed");
        }
        let server = self.server.clone();
        // The call waits for the shards, so it must not block this thread.
        match tokio::task::spawn_blocking(move || server.stalled_shards()).await {
            Ok(stalled) if stalled.is_empty() => Reply::text(StatusCode::OK, "ok"),
            Ok(stalled) => unhealthy(&format!("stalled shards: {stalled:?}")),
            Err(_) => unhealthy("unknown"),
        }
    }

    /// Whether new clients are welcome.
    fn readiness(&self) -> Reply {
        match self.server.is_ready() {
            true => Reply::text(StatusCode::OK, "ok"),
            false => Reply::text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        }
    }

    fn node(&self) -> Node {
        Node {
            uptime_s: self.started.elapsed().as_secs_f64(),
            draining: !self.server.is_ready(),
            control: RUNTIME,
            shards: self.shards,
            reloads: self.reloading.counters.figures(),
            auth: self.server.auth(),
        }
    }

    async fn snapshots(&self) -> Vec<Snapshot> {
        let server = self.server.clone();
        // The call waits for the shards, so it must not block this thread.
        tokio::task::spawn_blocking(move || server.snapshots()).await.unwrap_or_default()
    }

    async fn stats(&self) -> Reply {
        Reply::json(StatusCode::OK, report::to_json(self.node(), &self.snapshots().await))
    }

    async fn metrics(&self, headers: &HeaderMap) -> Reply {
        metrics::reply(headers, self.node(), &self.snapshots().await)
    }
}

/// Answers requests, on the thread itself.
struct AdminService {
    plane: ControlThread,
    topics: Topics,
}

const READS: &[Method] = &[Method::GET, Method::HEAD];
const READS_AND_PUT: &[Method] = &[Method::GET, Method::HEAD, Method::PUT];
const READS_AND_POST: &[Method] = &[Method::GET, Method::HEAD, Method::POST];
const POST: &[Method] = &[Method::POST];

impl Answer for AdminService {
    fn is_urgent(&self, request: &Request<Incoming>) -> bool {
        READS.contains(request.method()) && matches!(request.uri().path(), "/healthz" | "/readyz")
    }

    async fn answer(&self, request: &mut Request<Incoming>) -> Reply {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default());
        if let Err(reply) = self.plane.access.judge(request.method(), &path, request.headers()) {
            return reply;
        }
        let topic = path.strip_prefix("/topics/");
        let methods = match &*path {
            "/healthz" | "/metrics" | "/readyz" | "/stats" | "/topics" => READS,
            "/log-level" => READS_AND_PUT,
            "/reload" => POST,
            _ if topic.is_some() => READS_AND_POST,
            _ => {
                return Reply::text(
                    StatusCode::NOT_FOUND,
                    "unknown path; use /metrics, /stats, /topics, /log-level, /reload, /healthz or /readyz",
                );
            }
        };
        if !methods.contains(request.method()) {
            return wrong_method(methods);
        }
        if READS.contains(request.method()) && !request.body().is_end_stream() {
            return Reply::text(StatusCode::PAYLOAD_TOO_LARGE, "this request must not have a body");
        }
        match (&*path, topic) {
            (_, Some(topic)) => self.topics.one(topic, request).await,
            ("/log-level", _) => log_level::answer(request, &self.topics.bodies).await,
            ("/topics", _) => self.topics.list(query).await,
            ("/stats", _) => self.plane.stats().await,
            ("/metrics", _) => self.plane.metrics(request.headers()).await,
            ("/reload", _) => self.plane.reloading.answer().await,
            ("/readyz", _) => self.plane.readiness(),
            _ => self.plane.health().await,
        }
    }
}

fn wrong_method(methods: &[Method]) -> Reply {
    let allowed = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let mut reply =
        Reply::text(StatusCode::METHOD_NOT_ALLOWED, &format!("method not allowed; use {allowed}"));
    reply.headers.extend(HeaderValue::try_from(allowed).map(|allowed| (ALLOW, allowed)));
    reply
}
