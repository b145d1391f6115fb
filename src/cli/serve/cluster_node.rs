//! A server as a node of a cluster: its identity, and the thread that carries the cluster's packets.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use echoring_cluster::nats::BackboneError;
use echoring_cluster::{ClusterConfig, NodeId, Traffic};
use echoring_server::{ClusterIdentity, ClusterTables, Handle, Server};

use super::cluster::ClusterOptions;
use crate::Failure;
use crate::limits::CLUSTER_CONNECT_INTERVAL;

/// The thread of a node.
type Carrier = JoinHandle<Result<(ClusterTables, Traffic), BackboneError>>;

/// The identity of this run of a node, or of the one that it continues.
pub(super) fn identity(options: &ClusterOptions, continued: Option<NodeId>) -> ClusterIdentity {
    // 0 means no node on the wire.
    let node = continued.unwrap_or_else(|| NodeId(rand::random::<u64>().max(1)));
    ClusterIdentity { node, key: options.key }
}

/// Starts the thread that carries the packets of the cluster, and waits for its connection if the options say so. With `resumes`, the
/// node is silent until the server takes over. If the thread ends by itself, the server fails.
///
/// # Errors
/// If there is no thread, or no connection.
pub(super) fn start(
    server: &mut Server,
    identity: ClusterIdentity,
    options: &ClusterOptions,
    resumes: bool,
) -> Result<(), Failure> {
    let Some((tables, commands)) = server.take_cluster() else { return Ok(()) };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let config = ClusterConfig {
        node: identity.node,
        name: options.node.as_str().into(),
        started_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        resumes,
        key: identity.key,
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

fn no_thread(error: &io::Error) -> Failure {
    Failure::Environment(format!(
        "cannot start the thread of the cluster: {error}; raise the limit on processes"
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
