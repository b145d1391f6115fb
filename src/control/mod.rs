//! The control plane: one thread that answers an operator on an address of its own, and publishes for programs beside
//! the server.
//!
//! It runs on plain tokio, whatever the shards run on: tokio-uring forgets what the kernel refused to take for a moment.
//! It learns about shards by asking them and changes them by orders; it never touches their data, and a
//! shard never waits for it.

#![forbid(unsafe_code)]

mod access;
mod http;
mod places;
mod publications;
mod report;
#[cfg(feature = "cli")]
pub mod takeover;
mod topic_report;
mod topics;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::sync::oneshot;

use crate::limits::SNAPSHOT_TIMEOUT;
use crate::server::Server;
use access::Access;
pub use access::{Token, TokenError};
use http::{Answer, Bodies, Listening, Reply};
use report::Node;
use topics::Topics;

/// A running control plane.
#[derive(Debug)]
pub struct Control {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Control {
    /// Serves `listener` on a thread of its own, telling about `server`, and publishing to its topics. With a token
    /// requests have to name it; without one nothing is published that comes from another machine.
    ///
    /// # Errors
    /// When the thread or what it runs on could not be started, or the listener has no address.
    pub fn start(listener: TcpListener, server: &Server, token: Option<Token>) -> io::Result<Control> {
        let address = listener.local_addr()?;
        let draining = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = mpsc::channel();
        let listening = Listening::new(listener)?;
        announce(address, token.is_some());
        let plane = Plane {
            server: server.handle(),
            shards: server.shards(),
            started: Instant::now(),
            draining: Arc::clone(&draining),
            access: Access::new(token, address),
        };
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
            plane.run(listening, stopped);
            drop(ending);
        })?;
        let stop = Arc::new(Mutex::new(Stop { order: Some(stop), ended }));
        Ok(Control { handle: Handle { draining, stop }, thread })
    }

    /// For saying that the server drains, from any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the thread, and closes its listener before it returns. Requests under way are cut.
    pub fn stop(self) {
        self.handle.stop();
        // What it panicked with has been told.
        let _ = self.thread.join();
    }
}

/// Talks to a running control plane from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    draining: Arc<AtomicBool>,
    stop: Arc<Mutex<Stop>>,
}

#[derive(Debug)]
struct Stop {
    order: Option<oneshot::Sender<()>>,
    /// Without a sender once the thread is at its end.
    ended: mpsc::Receiver<()>,
}

impl Handle {
    /// From now on `/healthz` says 503, so that a load balancer looks elsewhere.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Has it stop listening, and waits until it has, two seconds at most. Requests under way are cut.
    pub fn stop(&self) {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(order) = stop.order.take() {
            // Fails only when the thread has ended already.
            let _ = order.send(());
        }
        // Nothing is ever sent.
        let _ = stop.ended.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT));
    }
}

fn announce(address: SocketAddr, guarded: bool) {
    tracing::info!("control plane on http://{address}/stats and http://{address}/healthz");
    if !address.ip().is_loopback() && !guarded {
        tracing::warn!(
            "the control plane on {address} can be reached from other machines and asks nobody who they are; \
             unless a firewall does, give a loopback address to --admin, or use --admin-token-file"
        );
    }
}

/// What the control plane's thread runs on, as `/stats` tells it.
const RUNTIME: &str = "tokio";

/// What the thread knows.
#[derive(Clone)]
struct Plane {
    server: crate::server::Handle,
    shards: usize,
    started: Instant,
    draining: Arc<AtomicBool>,
    access: Access,
}

impl Plane {
    /// Serves until it is stopped. Ended by anything else, it ends the server: nobody could see or publish any more.
    fn run(self, listening: Listening, stopped: oneshot::Receiver<()>) {
        let server = self.server.clone();
        if catch_unwind(AssertUnwindSafe(move || listening.serve(&self.desk(), stopped))).is_err() {
            server.fail("the control plane panicked");
        }
    }

    fn desk(self) -> Rc<Desk> {
        let topics = Topics { server: self.server.clone(), shards: self.shards, bodies: Bodies::default() };
        Rc::new(Desk { plane: self, topics })
    }

    async fn health(&self) -> Reply {
        let unhealthy = |line: &str| Reply::text(StatusCode::SERVICE_UNAVAILABLE, line);
        if self.server.has_failed() {
            return unhealthy("failed");
        }
        if self.draining.load(Ordering::Relaxed) {
            return unhealthy("draining");
        }
        let server = self.server.clone();
        // Waits for the shards, so it must not happen on this thread.
        match tokio::task::spawn_blocking(move || server.stalled_shards()).await {
            Ok(stalled) if stalled.is_empty() => Reply::text(StatusCode::OK, "ok"),
            Ok(stalled) => unhealthy(&format!("stalled shards: {stalled:?}")),
            Err(_) => unhealthy("unknown"),
        }
    }

    async fn stats(&self) -> Reply {
        let node = Node {
            uptime_s: self.started.elapsed().as_secs_f64(),
            draining: self.draining.load(Ordering::Relaxed),
            control: RUNTIME,
            shards: self.shards,
        };
        let server = self.server.clone();
        // Waits for the shards, so it must not happen on this thread.
        let snapshots = tokio::task::spawn_blocking(move || server.snapshots()).await.unwrap_or_default();
        Reply::json(StatusCode::OK, report::to_json(node, &snapshots))
    }
}

/// Where requests are answered, on the thread itself.
struct Desk {
    plane: Plane,
    topics: Topics,
}

const READS: &[Method] = &[Method::GET, Method::HEAD];
const READS_AND_POST: &[Method] = &[Method::GET, Method::HEAD, Method::POST];

impl Answer for Desk {
    fn is_urgent(&self, request: &Request<Incoming>) -> bool {
        READS.contains(request.method()) && request.uri().path() == "/healthz"
    }

    async fn answer(&self, request: &mut Request<Incoming>) -> Reply {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default());
        if let Err(reply) = self.plane.access.judge(request.method(), &path, request.headers()) {
            return reply;
        }
        let topic = path.strip_prefix("/topics/");
        let methods = match &*path {
            "/healthz" | "/stats" | "/topics" => READS,
            _ if topic.is_some() => READS_AND_POST,
            _ => return Reply::text(StatusCode::NOT_FOUND, "ask for /stats, /topics or /healthz"),
        };
        if !methods.contains(request.method()) {
            return wrong_method(methods);
        }
        if request.method() != Method::POST && !request.body().is_end_stream() {
            return Reply::text(StatusCode::PAYLOAD_TOO_LARGE, "a request for this has no body");
        }
        match (&*path, topic) {
            (_, Some(topic)) => self.topics.one(topic, request).await,
            ("/topics", _) => self.topics.list(query).await,
            ("/stats", _) => self.plane.stats().await,
            _ => self.plane.health().await,
        }
    }
}

fn wrong_method(methods: &'static [Method]) -> Reply {
    let allowed = if methods.contains(&Method::POST) { "GET, HEAD, POST" } else { "GET, HEAD" };
    let mut reply =
        Reply::text(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allowed} are understood here"));
    reply.headers.push((ALLOW, HeaderValue::from_static(allowed)));
    reply
}
