//! A server as a node of a cluster: its identity, the thread that carries the cluster's packets, and those for other clients of NATS.

mod nats_clients;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use echoring_cluster::nats::{BackboneError, NatsOptions};
use echoring_cluster::{ClusterConfig, NodeId, Traffic};
use echoring_proto::limits::Nanos;
use echoring_server::{ClusterIdentity, ClusterTables, Handle, Server};

use crate::Handle as ControlHandle;
use crate::limits::CLUSTER_CONNECT_INTERVAL;
pub use nats_clients::NatsClientsThread;

/// The thread of a node.
type Carrier = JoinHandle<Result<(ClusterTables, Traffic), BackboneError>>;

/// How a server takes part in a cluster.
#[derive(Debug, Clone)]
pub struct MembershipOptions {
    /// How it reaches the others, and whether it waits for a server at its start.
    pub nats: NatsOptions,
    /// Its name, which outlives restarts.
    pub node: String,
    /// Interval of its heartbeats.
    pub heartbeat_interval: Nanos,
    /// Silence after which another node is considered dead.
    pub member_timeout: Nanos,
    /// The secret that places topics.
    pub key: u64,
    /// Whether other clients of NATS may publish and receive.
    pub has_clients: bool,
}

/// Why a server does not become a node of its cluster.
#[derive(thiserror::Error)]
pub enum MembershipError {
    /// There is no thread for it.
    #[error("cannot start a thread of the cluster: {0}; raise the limit on processes")]
    Thread(#[from] io::Error),
    /// The thread has ended before it was connected.
    #[error("the server cannot join its cluster: {0}")]
    Ended(String),
}

echoring_proto::error_debug!(
    enum MembershipError {
        Thread(error),
        Ended(line),
    }
);

/// A server as a node of its cluster.
#[derive(Debug)]
pub struct Membership {
    /// What the configuration of the server needs of it.
    pub identity: ClusterIdentity,
    options: MembershipOptions,
    /// The thread that serves other clients of NATS, if there may be such clients.
    nats_clients: Option<Arc<NatsClientsThread>>,
}

impl Membership {
    /// As this node: one of its own, whose number is random and not 0, or the one that it continues.
    pub fn new(options: MembershipOptions, node: NodeId) -> Membership {
        let identity = ClusterIdentity { node, key: options.key };
        Membership { identity, options, nats_clients: None }
    }

    /// Starts the thread that carries the packets of the cluster, and waits for its connection if the options say so. With `continues`,
    /// the node is silent until the server takes over. If the thread ends by itself, the server fails.
    ///
    /// # Errors
    /// If there is no thread, or no connection.
    pub fn start(&self, server: &mut Server, continues: bool) -> Result<(), MembershipError> {
        let Some((tables, commands)) = server.take_cluster() else { return Ok(()) };
        let options = &self.options;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let config = ClusterConfig {
            node: self.identity.node,
            name: options.node.as_str().into(),
            started_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            continues,
            key: self.identity.key,
            heartbeat_interval: options.heartbeat_interval,
            member_timeout: options.member_timeout,
        };
        let handle = server.handle();
        let started = echoring_cluster::nats::spawn(options.nats.clone(), config, tables, commands);
        let carrier = started?;
        while !options.nats.waits && !handle.cluster().is_some_and(|node| node.status().connected) {
            if carrier.is_finished() {
                return Err(MembershipError::Ended(ending(carrier.join())));
            }
            thread::sleep(CLUSTER_CONNECT_INTERVAL);
        }
        Ok(watch(carrier, handle)?)
    }

    /// Starts publishing and subscribing for other clients of NATS.
    ///
    /// # Errors
    /// If there is no thread.
    pub fn start_nats_clients(
        &mut self,
        server: &mut Server,
        control: Option<ControlHandle>,
    ) -> Result<(), MembershipError> {
        let Some(outlets) = server.take_outlets() else { return Ok(()) };
        let thread =
            nats_clients::start(&self.options, self.identity.node, server.handle(), control, outlets)?;
        self.nats_clients = self.options.has_clients.then(|| Arc::new(thread));
        Ok(())
    }

    /// The thread that serves other clients of NATS, if there may be such clients.
    pub fn nats_clients(&self) -> Option<Arc<NatsClientsThread>> {
        self.nats_clients.clone()
    }
}

/// Has the server fail if the thread ends by itself.
fn watch(carrier: Carrier, server: Handle) -> io::Result<()> {
    let watch = move || match carrier.join() {
        // The node has left.
        Ok(Ok(_)) => {}
        ended => server.fail(&ending(ended)),
    };
    thread::Builder::new().name("cluster".to_owned()).spawn(watch).map(drop)
}

/// Why the thread has ended.
fn ending(ended: thread::Result<Result<(ClusterTables, Traffic), BackboneError>>) -> String {
    match ended {
        Ok(Ok(_)) => "the cluster's thread has ended".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the cluster's thread has panicked".to_owned(),
    }
}
