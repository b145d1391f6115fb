//! [`Server`]: starts one thread per shard, and waits for their ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::cluster::{ClusterNode, ClusterTables, PeerQuery, QuerySender};
use crate::commands::CommandSender;
use crate::handover::{self, Offering, Predecessor};
use crate::limits::{
    BROKEN_END_TIMEOUT, CONNECTION_LEASE, HANDOVER_LAST_MAIL_TIMEOUT, MAILBOX_BYTES_MIN,
    REFUSING_CONNECTIONS_MAX, TOPIC_LEASE,
};
use crate::node::config::{ListenAddress, ServerConfig, StartError, StartErrorKind};
use crate::node::handle::{ClientLimits, End, FailureState, Handle, KeptListeners, Readiness, Snapshot};
use crate::node::host::Resolved;
use crate::node::join_error::JoinError;
use crate::node::listeners::{self, InheritedListener, Listeners};
use crate::node::randomness::Randomness;
use crate::node::reconfigure::LiveLimits;
use crate::node::shard_thread::{NodeIdentity, ServiceSetup, launch_error};
use crate::node::watchdog::Watchdog;
use echoring_async::limits::LISTEN_BACKLOG;
use echoring_broker::broadcast::MAIL_OVERHEAD_BYTES;
use echoring_broker::broadcast::following::FollowingSettings;
use echoring_broker::gate::AuthCounters;
use echoring_broker::gate::quotas::Identities;
use echoring_broker::node_mail::{
    ClusterCommand, Inbox, RelayBatch, RelaySender, StreamCommand, StreamSender,
};
use echoring_broker::publications::{OwnedPublication, PublishError};
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::limits::COMPRESSION_LEASE_BYTES;
use echoring_runtime::admission::Admission;
use echoring_runtime::driver::{Description, Options};
use echoring_runtime::launch::{self, Ended, LaunchError, LaunchOptions, Launched, ShardSpec, ShardThread};
use echoring_runtime::shard::{AccessLog, Allowance, ControlMessage, Mailboxes};
use echoring_topics::{Creators, Placement, Position};
use socket2::Socket;

/// A running server. Dropping it ends it without a drain and waits for its threads; [`shutdown`](Server::shutdown) drains
/// it first.
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
    /// Socket files to remove at the end.
    files: Vec<PathBuf>,
    driver: Description,
    threads: Vec<ShardThread<Snapshot>>,
    /// Ends of threads, and failures.
    ends: Mutex<mpsc::Receiver<End>>,
    handle: Handle,
    node: NodeIdentity,
    cluster: Option<(ClusterTables, ClusterCommands)>,
    outlets: Option<ClusterOutlets>,
    /// The remaining steps to replace a predecessor.
    replacement: Option<Replacement>,
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
}

/// The messages of the shards, and of the server's controllers, to the cluster thread.
pub type ClusterCommands = tokio::sync::mpsc::UnboundedReceiver<ClusterCommand>;

/// Messages and requests of a node for others, in addition to the packets of the cluster.
#[derive(Debug)]
pub struct ClusterOutlets {
    /// Messages for other clients of NATS. Closed without [`ServerConfig::relays`], and when the shards have ended.
    pub relays: tokio::sync::mpsc::UnboundedReceiver<RelayBatch>,
    /// Requests to other nodes.
    pub queries: tokio::sync::mpsc::UnboundedReceiver<PeerQuery>,
    /// Requests to the streams of durable topics.
    pub streams: tokio::sync::mpsc::UnboundedReceiver<StreamCommand>,
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
        check_states(&config)?;
        let resolved = Resolved::of(&config)?;
        let listeners = listeners::open(&config, resolved.shards)?;
        Ok(Bound { config, resolved, listeners })
    }

    /// Replaces the predecessor, if the server was started with one, and accepts connections from then on. In a
    /// cluster, the server must take part in it before: see [`take_cluster`](Server::take_cluster).
    ///
    /// # Errors
    /// The predecessor does not hand over, and continues. This server must end.
    #[doc(hidden)]
    pub fn take_over(&mut self) -> Result<(), StartError> {
        let Some(Replacement { predecessor, sockets, later, files }) = self.replacement.take() else {
            return Ok(());
        };
        let taken = match self.handle.cluster() {
            Some(cluster) => predecessor.take_place(&self.handle, cluster),
            None => predecessor.take_over(&self.handle, self.node.placement),
        };
        taken.map_err(cannot_take_over)?;
        listen_later(&later)?;
        self.listen(sockets)?;
        self.files = files;
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
        let NodeIdentity { first_number, digest_seed, .. } = self.node;
        handover::wait_for_successor(self.handle(), (first_number, digest_seed), offering, on)
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
        self.threads.len()
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
    /// As for [`join`](Server::join).
    pub fn shutdown(self, timeout: Duration) -> Result<Vec<Snapshot>, JoinError> {
        self.handle.drain_within(timeout);
        self.join()
    }

    /// Waits until every shard has ended, after [`Handle::drain`] or [`Handle::stop`]. Returns their last
    /// snapshots.
    ///
    /// # Errors
    /// If a shard's driver failed, a shard panicked, or [`Handle::fail`] was called. A shard that does not end within
    /// three seconds of the failure is not waited for.
    pub fn join(mut self) -> Result<Vec<Snapshot>, JoinError> {
        self.join_all()
    }

    fn join_all(&mut self) -> Result<Vec<Snapshot>, JoinError> {
        let ended = self.wait();
        let mut snapshots = Vec::with_capacity(self.threads.len());
        let mut broken = None;
        for (shard, thread) in self.threads.drain(..).enumerate() {
            if !ended[shard] {
                tracing::error!(shard, "a shard does not end; giving up on it");
                continue;
            }
            match thread.join() {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(failure) => broken = Some(JoinError::of_shard(shard, &failure)),
            }
        }
        if let Some(reason) = self.handle.failure.reason.get() {
            broken = Some(JoinError::new(reason));
        }
        self.handle.link.end_questions();
        // The last mail to a successor leaves after the shards have ended.
        self.handle.link.wait_for_end(Duration::from_nanos(HANDOVER_LAST_MAIL_TIMEOUT));
        if self.handle.link.has_successor() {
            self.files.clear();
        }
        for path in self.files.drain(..) {
            // A leftover socket is harmless: the next server replaces it.
            let _ = std::fs::remove_file(path);
        }
        self.addresses.clear();
        broken.map_or(Ok(snapshots), Err)
    }

    /// Waits until the threads of all shards have ended, or for a bounded time after a failure. Returns for each shard
    /// whether it has ended.
    fn wait(&mut self) -> Vec<bool> {
        let mut ended = vec![false; self.threads.len()];
        let mut until = self.handle.has_failed().then(broken_until);
        let ends = self.ends.get_mut().unwrap_or_else(PoisonError::into_inner);
        while ended.contains(&false) {
            let end = match until {
                None => ends.recv().ok(),
                Some(until) => ends.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
            };
            match end {
                Some(End::Shard(shard)) => ended[shard] = true,
                Some(End::Failure) => drop(until.get_or_insert_with(broken_until)),
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
        if let Some(app) = &self.config.app {
            app.start().map_err(|error| {
                let problem = format!("cannot start the thread for the application's hooks: {error}");
                StartError::new(StartErrorKind::Thread, problem, "raise the limit on processes")
            })?;
        }
        if let Some(auth) = &self.config.auth {
            auth.start().map_err(|error| {
                let problem = format!("cannot start the thread for authentication: {error}");
                StartError::new(StartErrorKind::Thread, problem, "raise the limit on processes")
            })?;
        }
        self.start_on(predecessor, Randomness::System, launch::launch)
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
        let auth_counters = Arc::<AuthCounters>::default();
        let admission = Arc::<Admission>::default();
        let identities = Arc::<Identities>::default();
        let creators = Creators::default();
        let client_limits = Arc::new(Mutex::new(ClientLimits::of(&config)));
        let Resolved { shards, cpus, connections_max: connections } = resolved;
        let budget = Budget::new(config.memory_budget_bytes);
        let seats = Budget::new(u64::from(connections));
        let contexts = Budget::new(config.compression_bytes);
        let topics = Budget::new(u64::from(config.topics_max));
        let mailbox_bytes =
            MAILBOX_BYTES_MIN.max(2 * (config.message_bytes_max as usize + MAIL_OVERHEAD_BYTES));
        let mailboxes = Mailboxes::connect(shards, mailbox_bytes);
        let placement = Placement::new(randomness.seed());
        let node = NodeIdentity {
            placement,
            first_number: predecessor.as_ref().map_or(0, Predecessor::next_number),
            digest_seed: match (&predecessor, &config.cluster) {
                (Some(predecessor), _) => predecessor.digest_seed(),
                // A publication may be repeated at any node.
                (None, Some(cluster)) => cluster.key,
                (None, None) => randomness.seed(),
            },
        };
        let (later, kept) = (listeners.later, KeptListeners::new(listeners.kept));
        let (addresses, files) = (listeners.addresses, listeners.files);
        // A successor accepts only once it has the topics.
        let (now, then): (Vec<_>, Vec<_>) = match predecessor {
            None => (listeners.by_shard, Vec::new()),
            Some(_) => (listeners.by_shard.iter().map(|_| Vec::new()).collect(), listeners.by_shard),
        };
        let (commands_in, commands_out) = tokio::sync::mpsc::unbounded_channel();
        let (queries_in, queries) = tokio::sync::mpsc::unbounded_channel();
        let cluster_node = config
            .cluster
            .map(|identity| ClusterNode::new(identity.node, commands_in.clone(), QuerySender(queries_in)))
            .inspect(|node| node.set_topics(&config.topics));
        let (relay_in, relays) = tokio::sync::mpsc::unbounded_channel();
        let relay = cluster_node.as_ref().filter(|_| config.relays);
        let relay = relay.map(|node| RelaySender::new(relay_in, node.relay_load()));
        let (streams_in, streams) = tokio::sync::mpsc::unbounded_channel();
        let outlets = cluster_node.is_some().then_some(ClusterOutlets { relays, queries, streams });
        let cluster = config.cluster.map(|identity| FollowingSettings {
            identity,
            commands: commands_in.clone(),
            inbox: Inbox::default(),
            relay,
            streams: StreamSender(streams_in.clone()),
        });
        let readiness = Readiness::of(cluster_node.clone(), config.auth.as_ref());
        let (end, ends) = mpsc::channel();
        let started: Arc<OnceLock<Handle>> = Arc::default();
        let setups = mailboxes.into_iter().zip(now);
        let specs = setups.enumerate().map(|(index, (mailboxes, sockets))| ShardSpec {
            cpu: cpus.get(index % cpus.len().max(1)).copied().filter(|_| config.pinned),
            driver: Options {
                connections: connections + REFUSING_CONNECTIONS_MAX,
                without: config.without,
                receive_bytes: 0,
                finds_addresses: !config.peers.is_none(),
            },
            setup: ServiceSetup {
                config: config.clone(),
                connections,
                sockets,
                mailboxes,
                allowance: Allowance {
                    pool: Pool::new(budget.clone()),
                    connections: Lease::new(seats.clone(), CONNECTION_LEASE),
                    contexts: Lease::new(contexts.clone(), COMPRESSION_LEASE_BYTES),
                },
                topics: Lease::new(topics.clone(), TOPIC_LEASE),
                seed: randomness.seed(),
                entropy: randomness.entropy(),
                node,
                readiness: readiness.clone(),
                auth_counters: Arc::clone(&auth_counters),
                admission: Arc::clone(&admission),
                identities: Arc::clone(&identities),
                creators: creators.clone(),
                cluster: cluster.clone(),
            },
        });
        let options = LaunchOptions { thread_name: "shard", driver: config.driver };
        let on_end: OnEnd = Box::new({
            let (ends, started) = (end.clone(), Arc::clone(&started));
            move |shard, ended| {
                if let (Err(failure), Some(handle)) = (ended, started.get()) {
                    handle.fail(&JoinError::of_shard(shard, failure).to_string());
                }
                // Nobody joins the server when this fails.
                let _ = ends.send(End::Shard(shard));
            }
        });
        let launched = launch(options, specs.collect(), on_end).map_err(launch_error)?;
        let failure = Arc::new(FailureState { reason: OnceLock::new(), ends: end });
        let remotes: Arc<[_]> = launched.remotes().into();
        let driver = launched.driver();
        let commands = CommandSender::new(Arc::clone(&remotes), placement);
        let watchdog = Arc::new(Watchdog::new(shards));
        let limits = Arc::new(LiveLimits {
            message_bytes_max: config.message_bytes_max.into(),
            message_bytes_most: (mailbox_bytes / 2 - MAIL_OVERHEAD_BYTES) as u64,
            connections: seats,
            connections_most: u64::from(connections),
            topics,
        });
        let link = Arc::default();
        let handle = Handle {
            remotes,
            commands,
            limits,
            watchdog,
            failure,
            auth_counters,
            admission,
            client_limits,
            readiness,
            kept,
            link,
            first_number: node.first_number,
            cluster: cluster_node,
        };
        // This is the only place that sets the failure.
        let _ = started.set(handle.clone());
        if predecessor.is_none() {
            listen_later(&later)?;
        }
        let threads = launched.run();
        let ends = Mutex::new(ends);
        let tables = cluster.zip(handle.cluster.as_ref()).map(|(cluster, node)| {
            (ClusterTables::new(handle.clone(), node, placement, cluster.inbox), commands_out)
        });
        let (replacement, files) = match predecessor {
            Some(predecessor) => (Some(Replacement { predecessor, sockets: then, later, files }), Vec::new()),
            None => (None, files),
        };
        Ok(Server {
            addresses,
            files,
            driver,
            threads,
            ends,
            handle,
            node,
            cluster: tables,
            outlets,
            replacement,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.handle.stop();
            if let Err(error) = self.join_all() {
                tracing::error!(%error, "a dropped server had failed");
            }
        }
    }
}

/// Listens on the further sockets of shared ports.
fn listen_later(sockets: &[Socket]) -> Result<(), StartError> {
    sockets.iter().try_for_each(|socket| socket.listen(LISTEN_BACKLOG)).map_err(listeners::cannot_share)
}

/// The routes have the state that their extractors need.
fn check_states(config: &ServerConfig) -> Result<(), StartError> {
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
        (Some(identity), Some(_)) if identity.key == predecessor.digest_seed() => return Ok(()),
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

fn broken_until() -> Instant {
    Instant::now() + Duration::from_nanos(BROKEN_END_TIMEOUT)
}
