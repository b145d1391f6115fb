//! The control thread: it serves the admin address, which answers operators and publishes for other programs.
//!
//! It runs on plain tokio, whatever driver the shards use: tokio-uring loses submissions that the kernel refuses
//! temporarily. It queries and controls shards by messages only; a shard never waits for it.

#![forbid(unsafe_code)]

mod access;
mod actions;
mod centrifugo_api;
mod cluster_reports;
mod connections;
mod http;
pub mod limits;
#[cfg(feature = "cluster")]
mod membership;
mod metrics;
mod page;
mod publications;
mod reload;
mod report;
mod topics;

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::body::{Body as _, Bytes};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::limits::{ADMIN_CERTIFICATES_MAX, ADMIN_PASSED_ON_MAX};
use access::failed_attempts::FailedAttempts;
pub use access::token::{AdminTokens, Token, TokenError};
use access::{Access, Refused, Scope};
use actions::{Action, NoAction};
use centrifugo_api::{CentrifugoApi, Nodes};
use cluster_reports::Question;
use connections::Connections;
use connections::pages::ScanError;
use echoring_async::tls::CertificateReport;
use echoring_auth::WEBHOOKS;
use echoring_broker::limits::SNAPSHOT_TIMEOUT;
use echoring_server::{
    ClusterNode, InheritedListener, ListenAddress, OrderError, Server, Snapshot, machinery,
};
pub use http::socket::open_admin;
use http::socket::{AdminPeer, Reach};
use http::{AdminListener, Answer, ControlInlet, Order, PassedOn, Phase, Reply, RequestBody};
#[cfg(feature = "cluster")]
pub use membership::{Membership, MembershipError, MembershipOptions, NatsClientsThread};
use metrics::program::ProgramService;
pub use metrics::program::{Program, ProgramMetric};
#[cfg(feature = "traces")]
pub use metrics::traces::{finish_traces, start_traces};
pub use metrics::{AllocatorFigures, set_allocator};
use publications::InvalidBody;
pub use reload::log_level::{LogLevel, set_log_level};
pub use reload::reloader::{Change, Configuration, PendingReloads, ReloadReport, Reloader};
use reload::served::Served;
pub use reload::watch::FileVersion;
pub use reload::{Reload, ReloadCounters, Reloaded, Reloading};
use report::Node;
use topics::Topics;

/// The certificates in `/metrics`.
type Certificates = Arc<Mutex<Vec<CertificateReport>>>;

/// A running control thread.
///
/// ```
/// use std::error::Error;
///
/// use echoring_admin::{AdminTokens, Control, Reloading, Token, open_admin};
/// use echoring_server::{ListenAddress, Server};
///
/// fn serve_admin(server: &Server) -> Result<Control, Box<dyn Error>> {
///     let listener = open_admin(&ListenAddress::Tcp(([127, 0, 0, 1], 9002).into()), 0o600, 0)?;
///     let tokens = AdminTokens { write: Some(Token::read("admin.token".as_ref())?), read: None };
///     Ok(Control::start(listener, server, tokens, Reloading::default())?)
/// }
/// ```
#[derive(Debug)]
pub struct Control {
    handle: Handle,
    thread: JoinHandle<()>,
}

impl Control {
    /// Serves `listener` on its own thread, for reports about `server` and for publishing to its topics. With tokens,
    /// every request must present one. Without any, only this machine may publish, or users with access to the Unix
    /// socket.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be started.
    pub fn start(
        listener: InheritedListener,
        server: &Server,
        tokens: AdminTokens,
        reloading: Reloading,
    ) -> io::Result<Control> {
        announce(&listener, &tokens, true);
        let (served, failing) = (Served::new(server), server.handle());
        let service = move |access, certificates| AdminService {
            topics: Topics::new(served.clone()),
            connections: Connections::new(served.clone()),
            attempts: FailedAttempts::default(),
            server: served,
            access,
            reloading,
            certificates,
        };
        Control::serve(listener, tokens, service, move |reason| failing.fail(reason))
    }

    /// The same for another program, which has fewer paths: see [`Program`].
    ///
    /// # Errors
    /// As for [`Control::start`].
    pub fn start_for(
        listener: InheritedListener,
        program: Arc<dyn Program>,
        tokens: AdminTokens,
        reloading: Reloading,
    ) -> io::Result<Control> {
        announce(&listener, &tokens, false);
        let failing = Arc::clone(&program);
        let service = move |access, _| {
            let attempts = FailedAttempts::default();
            ProgramService { program, access, reloading, attempts }
        };
        Control::serve(listener, tokens, service, move |reason| failing.fail(reason))
    }

    /// Serves a listener on its own thread, which makes `service`. `fail` is called with the reason if the thread panics: without it
    /// nobody can observe the program any more.
    fn serve<A: Answer>(
        listener: InheritedListener,
        tokens: AdminTokens,
        service: impl FnOnce(Access, Certificates) -> A + Send + 'static,
        fail: impl FnOnce(&str) + Send + 'static,
    ) -> io::Result<Control> {
        let address = listener.address().clone();
        let (orders, received) = mpsc::unbounded_channel();
        let (requests, passed_on) = mpsc::unbounded_channel();
        let listening = AdminListener::new(&listener)?;
        let file = match &address {
            ListenAddress::Unix(path) if machinery::removes_file(&listener) => Some(path.clone()),
            ListenAddress::Unix(_) | ListenAddress::Tcp(_) => None,
        };
        drop(listener);
        let access = Access::new(tokens, Reach::of(&address));
        let certificates = Certificates::default();
        let (of_thread, reported) = (access.clone(), Arc::clone(&certificates));
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
            let serve = || {
                let inlet = ControlInlet { orders: received, passed_on };
                listening.serve(&Rc::new(service(of_thread, reported)), inlet);
            };
            if catch_unwind(AssertUnwindSafe(serve)).is_err() {
                fail("the control thread panicked");
            }
        })?;
        let room = Arc::new(Semaphore::new(ADMIN_PASSED_ON_MAX));
        let file = Arc::new(Mutex::new(file));
        Ok(Control { handle: Handle { access, certificates, orders, requests, room, file }, thread })
    }

    /// A handle for other threads.
    #[doc(hidden)]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the thread as [`Handle::stop`] does, and waits for that.
    pub fn stop(self) {
        self.handle.stop();
        // The panic has been logged.
        let _ = self.thread.join();
    }
}

/// Controls a running control thread from any thread. A call returns when the thread has done its work, after two
/// seconds at the latest.
#[derive(Clone, Debug)]
pub struct Handle {
    access: Access,
    certificates: Certificates,
    orders: mpsc::UnboundedSender<Order>,
    requests: mpsc::UnboundedSender<PassedOn>,
    /// Further requests at a time.
    room: Arc<Semaphore>,
    /// The socket file to remove.
    file: Arc<Mutex<Option<PathBuf>>>,
}

impl Handle {
    /// Requires other tokens from now on.
    pub fn set_tokens(&self, tokens: AdminTokens) {
        self.access.set_tokens(tokens);
    }

    /// Reports from now on when these certificates expire: the first 128 to do so.
    pub fn set_certificates(&self, mut reports: Vec<CertificateReport>) {
        reports.sort_by_key(|report| report.expires_at);
        reports.truncate(ADMIN_CERTIFICATES_MAX);
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = reports;
    }

    /// Accepts no connections, until resumed. Requests on existing connections are answered; others wait for the next
    /// acceptor of the listener.
    pub fn pause(&self) {
        self.order(Phase::Paused);
    }

    /// Accepts connections again.
    pub fn resume(&self) {
        self.order(Phase::Serving);
    }

    /// The listener is a successor's from now on: closes it, leaves the socket file, and answers the requests of the connections
    /// that were accepted before.
    pub fn leave(&self) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.order(Phase::Left);
    }

    /// Stops listening. Requests in progress are answered, for a second at most. The file of a Unix socket is removed.
    pub fn stop(&self) {
        // Before the socket is closed: later, the file may be that of the next server.
        if let Some(file) = self.file.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A leftover socket is harmless: the next server replaces it.
            let _ = fs::remove_file(file);
        }
        self.order(Phase::Stopped);
    }

    /// Answers a request that did not come through the admin address, as if a client with all rights had made it there.
    /// Waits while [`ADMIN_PASSED_ON_MAX`] others are in progress. 503 if the thread has ended, or does not answer in time.
    pub async fn request(&self, request: Request<Bytes>) -> Response<Bytes> {
        let unanswered = || {
            let mut response = Response::new(Bytes::from_static(UNANSWERED));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        };
        let Ok(_room) = self.room.acquire().await else { return unanswered() };
        let (reply, answer) = oneshot::channel();
        // Fails only if the thread has ended; then the answer fails too.
        let _ = self.requests.send(PassedOn { request, reply });
        answer.await.unwrap_or_else(|_| unanswered())
    }

    fn order(&self, phase: Phase) {
        let (done, carried_out) = std::sync::mpsc::channel();
        // Fails only if the thread has ended.
        let _ = self.orders.send(Order { phase, done });
        // Nothing is ever sent on this channel.
        let _ = carried_out.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT));
    }
}

/// The answer to a request that is not answered.
#[doc(hidden)]
pub const UNANSWERED: &[u8] =
    b"{\"error\":{\"code\":\"ended\",\"message\":\"the server does not answer\"}}\n";

fn announce(listener: &InheritedListener, tokens: &AdminTokens, is_servers: bool) {
    let address = listener.address();
    match address {
        ListenAddress::Tcp(address) if is_servers => {
            tracing::info!(
                "admin address http://{address}/stats and http://{address}/healthz, for browsers http://{address}/"
            );
        }
        ListenAddress::Tcp(address) => {
            tracing::info!("admin address http://{address}/metrics and http://{address}/healthz");
        }
        ListenAddress::Unix(_) => tracing::info!("admin address {address}"),
    }
    let (reach, guarded) = (Reach::of(address), tokens.write.is_some() || tokens.read.is_some());
    if reach == Reach::Network && !guarded {
        tracing::warn!(
            "the admin address {address} can be reached from other machines without authentication; \
             make it a loopback address or a Unix socket, require a token, or block the port in a firewall"
        );
    }
}

/// The runtime of the control thread, as reported by `/stats`.
const RUNTIME: &str = "tokio";

/// Answers requests, on the thread itself.
struct AdminService {
    server: Served,
    access: Access,
    reloading: Reloading,
    certificates: Certificates,
    topics: Topics,
    connections: Connections,
    attempts: FailedAttempts,
}

impl AdminService {
    async fn health(&self) -> Reply {
        let unhealthy = |line: &str| Reply::text(StatusCode::SERVICE_UNAVAILABLE, line);
        let server = self.server.handle();
        if server.has_failed() {
            return unhealthy("failed");
        }
        // The call waits for the shards, so it must not block this thread.
        match tokio::task::spawn_blocking(move || server.stalled_shards()).await {
            Ok(Ok(stalled)) if stalled.is_empty() => Reply::text(StatusCode::OK, "ok"),
            Ok(Ok(stalled)) => unhealthy(&format!("stalled shards: {stalled:?}")),
            _ => unhealthy("unknown"),
        }
    }

    /// Whether new clients are welcome.
    fn readiness(&self) -> Reply {
        match machinery::unready(&self.server.handle()) {
            None => Reply::text(StatusCode::OK, "ok"),
            Some(reason) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, reason.line().trim_end()),
        }
    }

    fn node(&self) -> Node {
        let server = self.server.handle();
        Node {
            uptime_s: self.server.started().elapsed().as_secs_f64(),
            draining: server.is_leaving(),
            control: RUNTIME,
            shards: self.server.shards(),
            reloads: Arc::clone(&self.reloading.counters),
            auth: server.auth(),
            admin: self.attempts.figures(),
            backends: server.backends(),
            processes: machinery::processes(&server),
            webhooks: WEBHOOKS.all(),
            bans: machinery::admission(&server).bans(),
            certificates: self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            cluster: server.cluster().map(ClusterNode::status),
        }
    }

    async fn snapshots(&self) -> Vec<Snapshot> {
        let server = self.server.handle();
        // The call waits for the shards, so it must not block this thread.
        tokio::task::spawn_blocking(move || server.snapshots().unwrap_or_default()).await.unwrap_or_default()
    }

    fn cluster(&self) -> Reply {
        match self.server.handle().cluster() {
            Some(node) => Reply::json(StatusCode::OK, serde_json::to_vec(&node.status())),
            None => no_cluster(),
        }
    }
}

impl Answer for AdminService {
    fn is_urgent(&self, request: &Request<RequestBody>) -> bool {
        Action::at(request.method(), request.uri().path()).is_ok_and(|(action, _)| action.is_urgent())
    }

    async fn answer(&self, request: &mut Request<RequestBody>) -> Reply {
        let peer = request.extensions().get().copied().unwrap_or(AdminPeer::Unix(None));
        let answered = match self.access.judge(peer, request.method(), request.uri(), request.headers()) {
            Ok(scope) => self.answer_within(scope, Nodes::All, request).await,
            Err(refused) => Err(refused),
        };
        answered.unwrap_or_else(|refused| self.attempts.refuse(peer, refused))
    }

    async fn answer_passed_on(&self, request: &mut Request<RequestBody>) -> Reply {
        let answered = self.answer_within(Scope::Write, Nodes::This, request).await;
        answered.unwrap_or_else(|refused| refused.reply)
    }
}

impl AdminService {
    /// Answers a request of a client with this scope. The scope has been compared with the path; only commands in a
    /// body can need more.
    async fn answer_within(
        &self,
        scope: Scope,
        nodes: Nodes,
        request: &mut Request<RequestBody>,
    ) -> Result<Reply, Refused> {
        if !centrifugo_api::has(request.uri().path()) {
            return Ok(self.answer_path(request).await);
        }
        if *request.method() != Method::POST {
            return Ok(Reply::wrong_method(&["POST"]));
        }
        let AdminService { server, topics, connections, .. } = self;
        let (server, started) = (&server.handle(), server.started());
        let api = CentrifugoApi { server, started, topics, connections, scope, nodes };
        api.answer(request).await
    }

    async fn answer_path(&self, request: &mut Request<RequestBody>) -> Reply {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default());
        let (action, name) = match Action::at(request.method(), &path) {
            Ok(asked) => asked,
            Err(NoAction::Path) => {
                let line = format!("unknown path; use /api, {}", Action::paths().join(", "));
                return Reply::text(StatusCode::NOT_FOUND, &line);
            }
            Err(NoAction::Method(methods)) => return Reply::wrong_method(&methods),
        };
        if action.only_reads() && !request.body().is_end_stream() {
            return Reply::text(StatusCode::PAYLOAD_TOO_LARGE, "this request must not have a body");
        }
        let server = self.server.handle();
        if action.is_refused_by(&server) {
            return taken_over();
        }
        let (topics, connections) = (&self.topics, &self.connections);
        let bodies = &topics.bodies;
        match action {
            Action::ReadTopic => topics.one(name).await,
            Action::Publish => {
                topics.publish(name, request).await.unwrap_or_else(|fault| topics::refuse(&fault))
            }
            Action::ListTopics => topics.list(query).await,
            Action::Broadcast => topics.broadcast(request).await,
            Action::ReadCluster | Action::CloseInCluster => {
                self.of_cluster(request.method(), &path, query).await
            }
            Action::Cluster => self.cluster(),
            Action::SendToIdentity => connections.send_to_identity(name, bodies, request).await,
            Action::SendToOne => connections.send_to_one(name, bodies, request).await,
            Action::SendToMatching => connections.send_to_matching(bodies, request).await,
            Action::CloseOne => connections.close_one(name).await,
            Action::CloseMatching => connections.close_matching(query).await,
            Action::ListConnections => connections.list(query).await,
            Action::Trace => connections.trace(request, bodies).await,
            Action::ReadLogLevel => reload::log_level::reply(),
            Action::SetLogLevel => reload::log_level::set(request, bodies, server).await,
            Action::Page => page::reply(),
            Action::Stats => {
                Reply::json(StatusCode::OK, report::to_json(&self.node(), &self.snapshots().await))
            }
            Action::Limits => report::limits_report::reply(&server, &self.snapshots().await),
            Action::Metrics => metrics::reply(request.headers(), self.node(), &self.snapshots().await),
            Action::Rebalance => rebalance(server).await,
            Action::Reload => self.reloading.answer().await,
            Action::Readiness => self.readiness(),
            Action::Health => self.health().await,
            // Requests to the API do not come here, see `answer_within`.
            _ => Reply::wrong_method(&["POST"]),
        }
    }

    /// `/cluster/REPORT`: the report of each node.
    async fn of_cluster(&self, method: &Method, path: &str, query: &str) -> Reply {
        let report = path.strip_prefix("/cluster/").unwrap_or_default();
        let server = self.server.handle();
        let Some(cluster) = server.cluster() else { return no_cluster() };
        let question = match Question::new(method, report, query) {
            Ok(question) => question,
            Err(fault) => return topics::refuse(&fault),
        };
        let mut request = Request::new(RequestBody::default());
        *request.method_mut() = method.clone();
        match question.uri().parse() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(_) => return topics::refuse(&InvalidBody::bad("query", "is not a valid HTTP query")),
        }
        // It asks no other node, as its path is another.
        let own = async { Box::pin(self.answer_passed_on(&mut request)).await };
        question.answers(cluster, own).await
    }
}

/// `POST /rebalance`: connections move from full shards to emptier ones.
async fn rebalance(server: echoring_server::Handle) -> Reply {
    // The calls wait for the shards, so they must not block this thread.
    let balanced = tokio::task::spawn_blocking(move || {
        server.rebalance().map(|balanced| (balanced, server.previous_clients()))
    });
    match balanced.await {
        Ok(Ok((balanced, Ok(previous)))) => {
            Reply::json(StatusCode::OK, report::rebalanced(&balanced, previous.connections))
        }
        Ok(Ok((_, Err(missing)))) => connections::failed(&ScanError::Previous(missing)),
        _ => Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the rebalancing panicked"),
    }
}

/// The answer to a command for the successor of this server. It is sent again on another connection.
fn taken_over() -> Reply {
    let message = OrderError::TakenOver.to_string();
    Reply::problem(StatusCode::SERVICE_UNAVAILABLE, "taken-over", &message)
}

fn no_cluster() -> Reply {
    Reply::text(StatusCode::NOT_FOUND, "this server belongs to no cluster")
}
