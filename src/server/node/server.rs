//! [`Server`]: starts one thread per shard, and waits for their ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{ClusterNode, ClusterTables, PeerQuery};
use crate::commands::{CommandSender, blocking};
use crate::handover::{self, Event, MeetingPoint, Offering, Predecessor};
use crate::limits::{BROKEN_END_TIMEOUT, LAST_MAIL_TIMEOUT, SHUTDOWN_END_TIMEOUT, SPARE_DESCRIPTORS};
use crate::node::backends::UsedBackends;
use crate::node::config::{ServerConfig, StartError, StartErrorKind, mailbox_bytes};
use crate::node::handle::{ClientLimits, End, FailureState, Handle, PacedDrain, Readiness, Snapshot};
use crate::node::host::Resolved;
use crate::node::identity::NodeIdentity;
use crate::node::join_error::JoinError;
use crate::node::listen_address::ListenAddress;
use crate::node::listeners::{self, InheritedListener, Listeners};
use crate::node::randomness::Randomness;
use crate::node::reconfigure::LiveLimits;
use crate::node::shard_thread::{Budgets, NodeShared, ServiceSetup, launch_error};
use crate::node::upkeep::Upkeep;
use crate::node::watchdog::Watchdog;
use echoring_async::limits::LISTEN_BACKLOG;
use echoring_auth::{WebhookEvent, Webhooks};
use echoring_broker::broadcast::MAIL_OVERHEAD_BYTES;
use echoring_broker::broadcast::following::FollowingSettings;
use echoring_broker::node_mail::{
    ClusterCommand, ClusterIdentity, Inbox, RelayBatch, RelaySender, StreamCommand, StreamSender,
};
use echoring_broker::publications::{OwnedPublication, PublishError};
use echoring_runtime::driver::Description;
use echoring_runtime::launch::{self, Ended, LaunchError, LaunchOptions, Launched, ShardSpec, ShardThread};
use echoring_runtime::listening::reserve_descriptors;
use echoring_runtime::shard::{AccessLog, ControlMessage, Mailboxes};
use echoring_topics::{Creators, Placement, Position};
use socket2::Socket;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A running server. Dropping it ends it without a drain and waits for its threads, for three seconds at most;
/// [`shutdown`](Server::shutdown) drains it first. On the thread of a shard, where nothing may block, these do not wait: another thread does.
///
/// ```
/// use std::time::Duration;
///
/// use echoring::server::Server;
///
/// let server = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).builtin_routes(true).start()?;
/// println!("ws://{}/echo", server.addresses()[0]);
/// server.shutdown(Duration::from_secs(1))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    addresses: Vec<ListenAddress>,
    driver: Description,
    handle: Handle,
    node: NodeIdentity,
    cluster: Option<(ClusterTables, ClusterCommands)>,
    outlets: Option<ClusterOutlets>,
    /// The remaining steps to replace a predecessor.
    replacement: Option<Replacement>,
    /// `None` once somebody waits for their end.
    running: Option<Running>,
}

/// The threads of a server, and what remains to be done after their end.
#[derive(Debug)]
struct Running {
    threads: Vec<ShardThread<Snapshot>>,
    /// Ends of threads, and failures.
    ends: Mutex<mpsc::Receiver<End>>,
    handle: Handle,
    /// Socket files to remove at the end.
    files: Vec<PathBuf>,
    upkeep: Option<Upkeep>,
}

/// A server to be replaced, and the steps then.
#[derive(Debug)]
struct Replacement {
    predecessor: Predecessor,
    /// The sockets of each shard, from which connections are accepted.
    sockets: Vec<Vec<OwnedFd>>,
    /// Sockets that begin to listen.
    later: Vec<Socket>,
    /// Socket files, which are this server's to remove.
    files: Vec<PathBuf>,
    webhooks: Arc<Webhooks>,
}

/// A server that begins without the topics of an earlier one.
const HISTORY_LOST: WebhookEvent<'_> = WebhookEvent::HistoryLost { topic: None, reason: "restart" };

/// The messages of the shards, and of the server's controllers, to the cluster thread.
pub type ClusterCommands = UnboundedReceiver<ClusterCommand>;

/// Messages and requests of a node for others, in addition to the packets of the cluster.
#[derive(Debug)]
pub struct ClusterOutlets {
    /// Messages for other clients of NATS. Closed without [`ServerConfig::relays`], and when the shards have ended.
    pub relays: UnboundedReceiver<RelayBatch>,
    /// Requests to other nodes.
    pub queries: UnboundedReceiver<PeerQuery>,
    /// Requests to the streams of durable topics.
    pub streams: UnboundedReceiver<StreamCommand>,
}

impl Server {
    /// Starts a server from a complete configuration.
    ///
    /// # Errors
    /// One line with the problem and one with the remedy: an address in use, too few descriptors, io_uring requested
    /// but denied.
    #[doc(hidden)]
    pub fn start(config: ServerConfig) -> Result<Server, StartError> {
        Server::bind(config, None)?.start_after(None)
    }

    /// The same in the place of the server of this user that runs at the same addresses, if there is one. The server waits for its own
    /// successor then.
    ///
    /// # Errors
    /// As for [`start`](Server::start). Also if the running server does not hand over, or no successor could find this one.
    pub(crate) fn start_in_place(
        config: ServerConfig,
        drain: PacedDrain,
        grace: Duration,
    ) -> Result<Server, StartError> {
        let points = |addresses: &[ListenAddress]| addresses.iter().filter_map(MeetingPoint::of).collect();
        let (shards, user) = (Resolved::of(&config)?.shards, rustix::process::geteuid().as_raw());
        let met: Vec<MeetingPoint> = points(&config.listen);
        let predecessor = Predecessor::find(&met, user, shards, config.connection.max_message);
        let predecessor = predecessor.map_err(cannot_take_over)?;
        let config = ServerConfig { keeps_listeners: true, ..config };
        let mut server = Server::bind(config, predecessor.as_ref())?.start_after(predecessor)?;
        server.take_over()?;
        let points = points(&server.addresses);
        let offering = Offering { points, admin: None, tickets: None, drain, grace, program: None };
        let failing = server.handle();
        let on = move |event: Event<'_>| match event {
            Event::Leaving | Event::Staying | Event::TakenOver | Event::Drains => {}
            Event::Broken(reason) => failing.fail(reason),
        };
        server.wait_for_successor(offering, on).map_err(cannot_take_over)?;
        Ok(server)
    }

    /// Opens the listeners, or takes those of `predecessor` whose addresses `config` has, and starts nothing. A process gives
    /// up privileges between this and [`Bound::start_after`], which starts threads.
    ///
    /// # Errors
    /// As for [`start`](Server::start), as far as they concern the host and the addresses.
    #[doc(hidden)]
    pub fn bind(mut config: ServerConfig, predecessor: Option<&Predecessor>) -> Result<Bound, StartError> {
        if let Some(predecessor) = predecessor {
            check_cluster(&config, predecessor).map_err(cannot_take_over)?;
            let is_wanted = |listener: &&InheritedListener| config.listen.contains(listener.address());
            let known = |listener: &&InheritedListener| {
                !config.inherited.iter().any(|inherited| inherited.address() == listener.address())
            };
            let passed: Vec<_> =
                predecessor.listeners().iter().filter(is_wanted).filter(known).cloned().collect();
            config.inherited.extend(passed);
        }
        check_routes(&config)?;
        let resolved = Resolved::of(&config)?;
        let listeners = listeners::open(&config, resolved.shards)?;
        Ok(Bound { config, resolved, listeners })
    }

    /// Replaces the predecessor, if the server was started with one, and accepts connections from then on, also if the predecessor's
    /// process ends before it hands over. In a cluster, the server must take part in it before: see
    /// [`take_cluster`](Server::take_cluster).
    ///
    /// # Errors
    /// The predecessor does not hand over, and continues. This server must end.
    #[doc(hidden)]
    pub fn take_over(&mut self) -> Result<(), StartError> {
        let Some(Replacement { predecessor, sockets, later, mut files, webhooks }) = self.replacement.take()
        else {
            return Ok(());
        };
        match predecessor.take_over(&self.handle, self.node.placement) {
            Ok(true) => {}
            Ok(false) => webhooks.tell(&HISTORY_LOST, None),
            Err(error) => {
                if let Some(node) = self.handle.cluster() {
                    node.end();
                }
                return Err(cannot_take_over(error));
            }
        }
        listen_later(&later)?;
        self.listen(sockets)?;
        self.running.iter_mut().for_each(|running| running.files.append(&mut files));
        Ok(())
    }

    /// Accepts connections from these sockets, by shard.
    fn listen(&self, sockets: Vec<Vec<OwnedFd>>) -> Result<(), StartError> {
        let (reply, listening) = mpsc::sync_channel(sockets.len());
        for (remote, sockets) in self.handle.remotes.iter().zip(sockets) {
            remote.send(ControlMessage::Listen(sockets, reply.clone()));
        }
        drop(reply);
        listening.iter().try_for_each(|answer| answer).map_err(listeners::cannot_share)
    }

    /// Waits for a successor, with threads that do not keep the process alive. `on` is called when one has taken over;
    /// this server then drains, and [`join`](Server::join) returns when its last client has left.
    ///
    /// # Errors
    /// If another process waits at one of the points, or a thread cannot be started.
    #[doc(hidden)]
    pub fn wait_for_successor(
        &self,
        offering: Offering,
        on: impl Fn(handover::Event<'_>) + Send + Sync + 'static,
    ) -> io::Result<()> {
        handover::wait_for_successor(self.handle(), offering, on)
    }

    /// The server's part in its cluster, once, for the carrier of the cluster's packets. `None` without
    /// [`ServerConfig::cluster`].
    #[doc(hidden)]
    pub fn take_cluster(&mut self) -> Option<(ClusterTables, ClusterCommands)> {
        self.cluster.take()
    }

    /// The node's messages and requests for others in addition to those packets, once. `None` without
    /// [`ServerConfig::cluster`].
    #[doc(hidden)]
    pub fn take_outlets(&mut self) -> Option<ClusterOutlets> {
        self.outlets.take()
    }

    /// The addresses that the server listens on, with port 0 resolved.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// The I/O driver.
    pub fn driver(&self) -> Description {
        self.driver
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.handle.remotes.len()
    }

    /// Publishes a message to a topic from this thread, as [`Handle::publish`] does. A [handle](Server::handle) publishes from other
    /// threads and tasks.
    ///
    /// # Errors
    /// As for [`Handle::publish`].
    pub fn publish(
        &self,
        topic: &str,
        message: impl Into<OwnedPublication>,
    ) -> Result<Position, PublishError> {
        self.handle.publish(topic, message)
    }

    /// A handle that publishes, counts and drains, for other threads and tasks.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Shuts the server down in order: it accepts nothing more, closes everyone with 1001, and ends once all
    /// connections are closed or `timeout` has passed. Returns the shards' last snapshots.
    ///
    /// # Errors
    /// As for [`join`](Server::join); also if a shard has not ended a second after `timeout`, because a handler or another function of the
    /// program blocks it. Its thread and connections are left behind.
    pub fn shutdown(self, timeout: Duration) -> Result<Vec<Snapshot>, JoinError> {
        self.handle.drain_within(timeout);
        let until = timeout.saturating_add(Duration::from_nanos(SHUTDOWN_END_TIMEOUT));
        // A time that cannot be expressed never comes.
        self.join_until(Instant::now().checked_add(until))
    }

    /// Waits until every shard has ended, after [`Handle::drain`] or [`Handle::stop`]. Returns their last
    /// snapshots.
    ///
    /// # Errors
    /// If a shard's driver failed, a shard panicked, or [`Handle::fail`] was called. A shard that does not end within
    /// three seconds of the failure is not waited for. At once on the thread of a shard.
    pub fn join(self) -> Result<Vec<Snapshot>, JoinError> {
        self.join_until(None)
    }

    fn join_until(mut self, until: Option<Instant>) -> Result<Vec<Snapshot>, JoinError> {
        self.running.take().map_or(Ok(Vec::new()), |running| running.join_or_leave(until))
    }
}

impl Running {
    /// Waits for the end. On the thread of a shard, another thread does.
    fn join_or_leave(self, until: Option<Instant>) -> Result<Vec<Snapshot>, JoinError> {
        let Err(refused) = blocking::check() else { return self.join(until) };
        let join = move || match self.join(until) {
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "a server that was ended on the thread of a shard had failed")
            }
        };
        // Without a thread, the shards end by themselves.
        let _ = thread::Builder::new().name("server-end".to_owned()).spawn(join);
        Err(JoinError::new(format!("{refused}: the server ends, but its end is not waited for")))
    }

    /// Waits until the threads of all shards have ended, or until a time; removes what they leave.
    fn join(mut self, until: Option<Instant>) -> Result<Vec<Snapshot>, JoinError> {
        let ended = self.wait(until);
        let mut snapshots = Vec::with_capacity(self.threads.len());
        let (mut broken, mut left) = (None, Vec::new());
        for (shard, thread) in self.threads.drain(..).enumerate() {
            if !ended[shard] {
                tracing::error!(shard, "a shard does not end; giving up on it");
                left.push(shard);
                continue;
            }
            match thread.join() {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(failure) => broken = Some(JoinError::of_shard(shard, &failure)),
            }
        }
        if !left.is_empty() {
            broken = Some(JoinError::of_blocked(&left));
        }
        if let Some(reason) = self.handle.failure.reason.get() {
            broken = Some(JoinError::new(reason));
        }
        // All their connections have ended.
        self.handle.backends.finish(until);
        self.handle.link.end_questions();
        // The last mail to a successor leaves after the shards have ended.
        let mail_timeout = Duration::from_nanos(LAST_MAIL_TIMEOUT);
        let mail_timeout = until.map_or(mail_timeout, |until| mail_timeout.min(left_of(until)));
        if !self.handle.link.wait_for_end(mail_timeout) && self.handle.link.is_replaced() {
            broken.get_or_insert_with(JoinError::of_mail);
        }
        if self.handle.link.is_replaced() || self.handle.link.is_unsettled() {
            self.files.clear();
        }
        for path in self.files.drain(..) {
            // A leftover socket is harmless: the next server replaces it.
            let _ = std::fs::remove_file(path);
        }
        broken.map_or(Ok(snapshots), Err)
    }

    /// Waits until the threads of all shards have ended, until a time, or for a bounded time after a failure. Returns for each shard
    /// whether it has ended.
    fn wait(&mut self, until: Option<Instant>) -> Vec<bool> {
        let mut ended = vec![false; self.threads.len()];
        let broken = |until: Option<Instant>| Some(until.map_or(broken_until(), |at| at.min(broken_until())));
        let mut until = if self.handle.has_failed() { broken(until) } else { until };
        let ends = self.ends.get_mut().unwrap_or_else(PoisonError::into_inner);
        while ended.contains(&false) {
            let end = match until {
                None => ends.recv().ok(),
                Some(until) => ends.recv_timeout(left_of(until)).ok(),
            };
            match end {
                Some(End::Shard(shard)) => ended[shard] = true,
                Some(End::Failure) => until = broken(until),
                None => break,
            }
        }
        ended
    }
}

/// A server whose listeners are open and that has no threads yet.
pub struct Bound {
    pub(crate) config: ServerConfig,
    pub(crate) resolved: Resolved,
    pub(crate) listeners: Listeners,
}

/// The last call of a shard's thread.
pub(crate) type OnEnd = Box<dyn Fn(usize, &Ended<ServiceSetup>) + Send + Sync>;

impl Bound {
    /// Records connections that have ended.
    pub fn set_access_log(&mut self, log: Option<AccessLog>) {
        self.config.access_log = log;
    }

    /// Starts the server, with the listeners of `Server::bind`. With a predecessor it accepts no connections until
    /// `Server::take_over`.
    ///
    /// # Errors
    /// As for [`Builder::start`](crate::Builder::start).
    pub fn start_after(self, predecessor: Option<Predecessor>) -> Result<Server, StartError> {
        self.config.start_calls().map_err(|problem| {
            StartError::new(StartErrorKind::Thread, problem, "raise the limit on processes")
        })?;
        if predecessor.is_none() {
            self.config.webhooks.tell(&HISTORY_LOST, None);
        }
        reserve_descriptors(u64::from(self.resolved.max_connections).saturating_add(SPARE_DESCRIPTORS));
        let mut server = self.start_on(predecessor, Randomness::System, launch::launch)?;
        let upkeep = Upkeep::start(server.handle());
        if let Some(running) = &mut server.running {
            running.upkeep = upkeep;
        }
        Ok(server)
    }

    /// Starts the shards where `launch` runs them.
    pub fn start_on(
        self,
        predecessor: Option<Predecessor>,
        mut randomness: Randomness,
        launch: impl FnOnce(
            LaunchOptions,
            Vec<ShardSpec<ServiceSetup>>,
            OnEnd,
        ) -> Result<Launched<ServiceSetup>, LaunchError>,
    ) -> Result<Server, StartError> {
        let Bound { config, resolved, listeners } = self;
        let Listeners { by_shard, addresses, files, later, kept } = listeners;
        let webhooks = Arc::clone(&config.webhooks);
        let Resolved { shards, cpus, max_connections: connections, shard_connections_max } = resolved;
        let continued = predecessor.as_ref().map(Predecessor::continued);
        let node = NodeIdentity::new(&config, continued, &mut randomness);
        let budgets = Budgets::new(&config, connections);
        let mailboxes = Mailboxes::connect(shards, mailbox_bytes(config.connection.max_message));
        let continues = predecessor.is_some();
        let cluster = config.cluster.map(|identity| ClusterParts::new(identity, &config, continues));
        let cluster_node = cluster.as_ref().map(|it| it.node.clone());
        let shared = NodeShared {
            connections,
            shard_connections: shard_connections_max,
            node,
            creators: Creators::default(),
            readiness: Readiness::of(cluster_node.clone(), config.auth.as_ref()),
            auth_counters: Arc::default(),
            cluster: cluster.as_ref().map(|cluster| cluster.settings.clone()),
            config,
        };
        // A successor accepts only once it has the topics.
        let (now, then) = now_and_then(by_shard, continues);
        let setups = mailboxes.into_iter().zip(now).map(|(mailboxes, sockets)| {
            ServiceSetup::new(shared.clone(), &budgets, &mut randomness, mailboxes, sockets)
        });
        let cpu_of = |shard: usize| cpus.get(shard % cpus.len().max(1)).copied();
        let specs = setups.enumerate().map(|(shard, setup)| setup.on(cpu_of(shard))).collect();
        let (end, ends) = mpsc::channel();
        let started: Arc<OnceLock<Handle>> = Arc::default();
        let options = LaunchOptions { thread_name: "shard", driver: shared.config.driver };
        let on_end = on_end(end.clone(), Arc::clone(&started));
        let launched = launch(options, specs, on_end).map_err(launch_error)?;
        let failure = FailureState { reason: OnceLock::new(), ends: end };
        let handle = handle(&launched, shared, budgets, kept, failure, cluster_node);
        // This is the only place that sets the failure.
        let _ = started.set(handle.clone());
        if predecessor.is_none() {
            listen_later(&later)?;
        }
        let (cluster, outlets) = cluster.map(|cluster| cluster.connect(&handle, node.placement)).unzip();
        let (replacement, files) = match predecessor {
            Some(predecessor) => {
                (Some(Replacement { predecessor, sockets: then, later, files, webhooks }), Vec::new())
            }
            None => (None, files),
        };
        let (driver, threads, ends) = (launched.driver(), launched.run(), Mutex::new(ends));
        let running = Some(Running { threads, ends, handle: handle.clone(), files, upkeep: None });
        Ok(Server { addresses, driver, handle, node, cluster, outlets, replacement, running })
    }
}

/// The sockets of each shard from which it accepts at once, and those from which it does `later`.
fn now_and_then<T>(by_shard: Vec<Vec<T>>, later: bool) -> (Vec<Vec<T>>, Vec<Vec<T>>) {
    if later { (by_shard.iter().map(|_| Vec::new()).collect(), by_shard) } else { (by_shard, Vec::new()) }
}

/// The handle of shards that have been launched.
fn handle(
    launched: &Launched<ServiceSetup>,
    shared: NodeShared,
    budgets: Budgets,
    kept: Vec<InheritedListener>,
    failure: FailureState,
    cluster: Option<ClusterNode>,
) -> Handle {
    let remotes: Arc<[_]> = launched.remotes().into();
    let config = &shared.config;
    let message_bytes_most = mailbox_bytes(config.connection.max_message) / 2 - MAIL_OVERHEAD_BYTES;
    let limits = LiveLimits {
        max_message: config.connection.max_message.into(),
        message_bytes_most: message_bytes_most as u64,
        connections: budgets.connections,
        connections_most: u64::from(shared.connections),
        topics: budgets.topics,
    };
    Handle {
        commands: CommandSender::new(Arc::clone(&remotes), shared.node.placement),
        limits: Arc::new(limits),
        watchdog: Arc::new(Watchdog::new(remotes.len())),
        failure: Arc::new(failure),
        client_limits: Arc::new(Mutex::new(ClientLimits::of(config))),
        auth_counters: shared.auth_counters,
        known: config.known.clone(),
        backends: Arc::new(UsedBackends::new(&config.backends)),
        readiness: shared.readiness,
        kept: Arc::new(Mutex::new(kept)),
        exits: Arc::clone(launched.exits()),
        rebalances: Arc::new(config.rebalance.into()),
        link: Arc::default(),
        identity: shared.node,
        remotes,
        cluster,
    }
}

/// Tells the server that a shard has ended, and fails it if the shard had an error.
fn on_end(ends: mpsc::Sender<End>, started: Arc<OnceLock<Handle>>) -> OnEnd {
    Box::new(move |shard, ended| {
        if let (Err(failure), Some(handle)) = (ended, started.get()) {
            handle.fail(&JoinError::of_shard(shard, failure).to_string());
        }
        // Nobody joins the server when this fails.
        let _ = ends.send(End::Shard(shard));
    })
}

/// The node's side of its cluster: what the shards and the handle have, and the channels from them.
struct ClusterParts {
    node: ClusterNode,
    settings: FollowingSettings,
    commands: ClusterCommands,
    outlets: ClusterOutlets,
}

impl ClusterParts {
    fn new(identity: ClusterIdentity, config: &ServerConfig, continues: bool) -> ClusterParts {
        let (commands_in, commands) = unbounded_channel();
        let (queries_in, queries) = unbounded_channel();
        let (relay_in, relays) = unbounded_channel();
        let (streams_in, streams) = unbounded_channel();
        let node = ClusterNode::new(identity.node, commands_in.clone(), queries_in);
        node.set_topics(&config.topics);
        let relay = config.relays.then(|| RelaySender::new(relay_in, node.relay_load()));
        let streams_in = StreamSender(streams_in);
        let settings = FollowingSettings {
            identity,
            continues,
            commands: commands_in,
            inbox: Inbox::default(),
            relay,
            streams: streams_in,
        };
        ClusterParts { node, settings, commands, outlets: ClusterOutlets { relays, queries, streams } }
    }

    fn connect(
        self,
        handle: &Handle,
        placement: Placement,
    ) -> ((ClusterTables, ClusterCommands), ClusterOutlets) {
        let tables = ClusterTables::new(handle.clone(), &self.node, placement, self.settings.inbox);
        ((tables, self.commands), self.outlets)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.handle.stop();
            if let Err(error) = running.join_or_leave(Some(broken_until())) {
                tracing::error!(%error, "a dropped server had failed");
            }
        }
    }
}

/// Listens on the further sockets of shared ports.
fn listen_later(sockets: &[Socket]) -> Result<(), StartError> {
    sockets.iter().try_for_each(|socket| socket.listen(LISTEN_BACKLOG)).map_err(listeners::cannot_share)
}

/// The routes can be used, and have the state that their extractors need.
pub(crate) fn check_routes(config: &ServerConfig) -> Result<(), StartError> {
    let preference = config.subprotocol_preference;
    let all = [&config.backends.routes(), &config.routes];
    if let Some(why) = all.iter().find_map(|routes| routes.unusable(preference)) {
        let problem = format!("the route {why}");
        let hint = "put the route with fewer paths first, and leave out the one that is never used";
        return Err(StartError::new(StartErrorKind::Route, problem, hint));
    }
    let Some((route, missing)) = config.routes.missing_state() else { return Ok(()) };
    let (whose, function) = match missing.is_of_shard {
        true => ("of the shard", "shard_state"),
        false => ("of the server", "state"),
    };
    let problem = format!("the route {route} needs the state {} {whose}", missing.name);
    Err(StartError::new(StartErrorKind::State, problem, format!("give it with Builder::{function}")))
}

/// A server replaces one of the same cluster, or one without a cluster.
fn check_cluster(config: &ServerConfig, predecessor: &Predecessor) -> io::Result<()> {
    let refused = match (&config.cluster, predecessor.node()) {
        (None, None) => return Ok(()),
        (Some(identity), Some(node)) if identity.node != node => "it is another node",
        (Some(identity), Some(_)) if identity.key == predecessor.continued().digest_seed => return Ok(()),
        (Some(_), Some(_)) => "it is a node of another cluster",
        (Some(_), None) => "it is a node of no cluster",
        (None, Some(_)) => "it is a node of a cluster, and this server is not",
    };
    Err(io::Error::other(refused))
}

fn cannot_take_over(error: io::Error) -> StartError {
    let line = format!("the running server cannot be taken over: {error}");
    StartError::new(StartErrorKind::Takeover, line, "it keeps running; stop it first")
}

fn left_of(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

fn broken_until() -> Instant {
    Instant::now() + Duration::from_nanos(BROKEN_END_TIMEOUT)
}
