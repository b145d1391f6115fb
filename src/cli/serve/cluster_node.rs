//! A process as a node of a cluster: its identity, the thread that carries the cluster's packets, and those for other clients of NATS.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use echoring_cluster::nats::BackboneError;
use echoring_cluster::{ClusterConfig, NodeId, Traffic};
use echoring_server::{ClusterIdentity, ClusterTables, Handle, Server};

use super::cluster::ClusterOptions;
use super::nats_clients::{self, NatsClientsThread};
use crate::Failure;
use crate::limits::CLUSTER_CONNECT_INTERVAL;

/// The thread of a node.
type Carrier = JoinHandle<Result<(ClusterTables, Traffic), BackboneError>>;

/// This process as a node of its cluster, whichever of its servers is in effect.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) identity: ClusterIdentity,
    options: ClusterOptions,
    /// The threads that serve other clients of NATS.
    nats_clients: Arc<Mutex<Vec<Arc<NatsClientsThread>>>>,
}

impl Membership {
    /// With a node of its own, or the one that it continues.
    pub(super) fn new(options: ClusterOptions, continued: Option<NodeId>) -> Membership {
        // 0 means no node on the wire.
        let node = continued.unwrap_or_else(|| NodeId(rand::random::<u64>().max(1)));
        let identity = ClusterIdentity { node, key: options.key };
        Membership { identity, options, nats_clients: Arc::default() }
    }

    /// The same node, which does not wait for a connection when a further server starts.
    pub(super) fn impatient(mut self) -> Membership {
        self.options.nats.waits = false;
        self
    }

    /// Starts the thread that carries the packets of the cluster, and waits for its connection if the options say so. With `resumes`,
    /// the node is silent until the server takes over. If the thread ends by itself, the server fails.
    ///
    /// # Errors
    /// If there is no thread, or no connection.
    pub(super) fn start(&self, server: &mut Server, resumes: bool) -> Result<(), Failure> {
        let Some((tables, commands)) = server.take_cluster() else { return Ok(()) };
        let options = &self.options;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let config = ClusterConfig {
            node: self.identity.node,
            name: options.node.as_str().into(),
            started_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            resumes,
            key: self.identity.key,
            heartbeat_interval: options.heartbeat_interval,
            member_timeout: options.member_timeout,
        };
        let handle = server.handle();
        let started = echoring_cluster::nats::spawn(options.nats.clone(), config, tables, commands);
        let carrier = started.map_err(|error| no_thread(&error))?;
        while !options.nats.waits && !handle.cluster().is_some_and(|node| node.status().connected) {
            if carrier.is_finished() {
                return Err(Failure::Environment(format!(
                    "the server cannot join its cluster: {}",
                    ending(carrier.join())
                )));
            }
            thread::sleep(CLUSTER_CONNECT_INTERVAL);
        }
        watch(carrier, handle).map_err(|error| no_thread(&error))
    }

    /// Starts publishing and subscribing for other clients of NATS.
    ///
    /// # Errors
    /// If there is no thread.
    pub(super) fn start_nats_clients(
        &self,
        server: &mut Server,
        control: Option<echoring_admin::Handle>,
    ) -> Result<(), Failure> {
        let Some(outlets) = server.take_outlets() else { return Ok(()) };
        let started =
            nats_clients::start(&self.options, self.identity.node, server.handle(), control, outlets);
        let thread = started.map_err(|error| no_thread(&error))?;
        if self.options.has_clients {
            let mut threads = self.nats_clients.lock().unwrap_or_else(PoisonError::into_inner);
            threads.retain(|thread| !thread.has_ended());
            threads.push(Arc::new(thread));
        }
        Ok(())
    }

    /// The thread that serves other clients of NATS for the server that was started last, if there may be such clients.
    pub(super) fn nats_clients(&self) -> Option<Arc<NatsClientsThread>> {
        self.nats_clients.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// Waits until other clients of NATS have everything that the servers had for them.
    pub(super) fn wait_for_nats_clients(&self) {
        let threads = std::mem::take(&mut *self.nats_clients.lock().unwrap_or_else(PoisonError::into_inner));
        threads.iter().for_each(|thread| thread.wait());
    }
}

fn no_thread(error: &io::Error) -> Failure {
    Failure::Environment(format!(
        "cannot start a thread of the cluster: {error}; raise the limit on processes"
    ))
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
