//! The control plane: one thread that answers an operator on an address of its own.
//!
//! It runs on tokio-uring where the server's shards run on io_uring, and on plain tokio where they do not.
//! It learns about shards by asking them and changes them by orders; it never touches their data, and a
//! shard never waits for it.

#![forbid(unsafe_code)]

mod http;
mod report;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use hyper::StatusCode;
use tokio::sync::oneshot;

use crate::aio;
use crate::server::Server;
use http::{Answer, Reply};
use report::Node;

/// A running control plane.
#[derive(Debug)]
pub struct Control {
    draining: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Control {
    /// Serves `listener` on a thread of its own, telling about `server`.
    ///
    /// # Errors
    /// When the thread could not be started, or the listener has no address.
    pub fn start(listener: TcpListener, server: &Server) -> io::Result<Control> {
        let address = listener.local_addr()?;
        let draining = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = oneshot::channel();
        let plane = Plane {
            server: server.handle(),
            shards: server.shards(),
            started: Instant::now(),
            draining: Arc::clone(&draining),
            runtime: runtime(server.driver().name),
        };
        let thread =
            thread::Builder::new().name("control".to_owned()).spawn(move || plane.run(listener, stopped))?;
        announce(address);
        Ok(Control { draining, stop, thread })
    }

    /// From now on `/healthz` says 503, so that a load balancer looks elsewhere.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Ends the thread. Requests under way are cut.
    pub fn stop(self) {
        // Either fails only when the thread has ended already.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn announce(address: SocketAddr) {
    tracing::info!("control plane on http://{address}/stats and http://{address}/healthz");
    if !address.ip().is_loopback() {
        tracing::warn!(
            "the control plane on {address} can be reached from other machines and asks nobody who they are; \
             unless a firewall does, give a loopback address to --admin"
        );
    }
}

/// What the control plane's thread runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runtime {
    TokioUring,
    Tokio,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Runtime::TokioUring => "tokio-uring",
            Runtime::Tokio => "tokio",
        }
    }
}

/// Follows the shards: whoever chose epoll for them, or was made to, wants no ring here either. Asking the
/// kernel once more costs nothing and saves tokio-uring's panic.
fn runtime(driver: &str) -> Runtime {
    if driver == "uring" && aio::ring_allowed().is_ok() { Runtime::TokioUring } else { Runtime::Tokio }
}

/// What the thread knows.
#[derive(Clone)]
struct Plane {
    server: crate::server::Handle,
    shards: usize,
    started: Instant,
    draining: Arc<AtomicBool>,
    runtime: Runtime,
}

impl Plane {
    fn run(mut self, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
        if self.runtime == Runtime::TokioUring {
            match http::serve_on_ring(&listener, &self.clone().answer(), &mut stopped) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "the control plane got no ring of its own and runs on plain tokio");
                    self.runtime = Runtime::Tokio;
                }
            }
        }
        if let Err(error) = http::serve_on_tokio(listener, &self.answer(), &mut stopped) {
            tracing::error!(%error, "the control plane ended; the shards go on without it");
        }
    }

    fn answer(self) -> Rc<Answer> {
        Rc::new(move |path: &str| {
            let plane = self.clone();
            match path {
                "/healthz" => Box::pin(async move { plane.health() }),
                "/stats" => Box::pin(plane.stats()),
                _ => Box::pin(async { Reply::text(StatusCode::NOT_FOUND, "ask for /stats or /healthz") }),
            }
        })
    }

    fn health(&self) -> Reply {
        if self.draining.load(Ordering::Relaxed) {
            Reply::text(StatusCode::SERVICE_UNAVAILABLE, "draining")
        } else {
            Reply::text(StatusCode::OK, "ok")
        }
    }

    async fn stats(self) -> Reply {
        let node = Node {
            uptime_s: self.started.elapsed().as_secs_f64(),
            draining: self.draining.load(Ordering::Relaxed),
            control: self.runtime.name(),
            shards: self.shards,
        };
        // Waits for the shards, so it must not happen on this thread.
        let snapshots =
            tokio::task::spawn_blocking(move || self.server.snapshots()).await.unwrap_or_default();
        match report::to_json(node, &snapshots) {
            Ok(body) => Reply { status: StatusCode::OK, content_type: "application/json", body },
            Err(error) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}
