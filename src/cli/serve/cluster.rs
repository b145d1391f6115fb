//! A server as a node of a cluster: its identity, and the thread that carries the cluster's packets.

use std::io;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use echoring_backbone::BackboneError;
use echoring_cluster::{ClusterConfig, NodeId, Traffic};
use echoring_server::{ClusterIdentity, ClusterTables, Handle, Server};

/// A stand-in.
#[derive(Clone, Debug)]
pub(crate) struct ClusterOptions {
    pub(crate) nats: echoring_backbone::NatsOptions,
    pub(crate) node: String,
    pub(crate) heartbeat_interval: u64,
    pub(crate) member_timeout: u64,
    pub(crate) key: u64,
}


pub(super) fn temporary() -> Option<ClusterOptions> {
    let server = std::env::var("ECHO_TEMP_CLUSTER").ok()?;
    Some(ClusterOptions {
        nats: echoring_backbone::NatsOptions { servers: vec![server], prefix: "echoring".into(), waits: true, message_bytes_max: 500_000, ..Default::default() },
        node: std::env::var("ECHO_TEMP_NODE").ok()?,
        heartbeat_interval: 200_000_000,
        member_timeout: 2_000_000_000,
        key: 7,
    })
}

/// The thread of a node.
type Carrier = JoinHandle<Result<(ClusterTables, Traffic), BackboneError>>;

/// The identity of this run of a node.
pub(super) fn identity(options: &ClusterOptions) -> ClusterIdentity {
    // 0 means no node on the wire.
    ClusterIdentity { node: NodeId(rand::random::<u64>().max(1)), key: options.key }
}

/// Starts the thread that carries the packets of the cluster. If it ends by itself, the server fails.
///
/// # Errors
/// If there is no thread.
pub(super) fn start(server: &mut Server, identity: ClusterIdentity, options: &ClusterOptions) -> io::Result<()> {
    let Some((tables, commands)) = server.take_cluster() else { return Ok(()) };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let config = ClusterConfig {
        node: identity.node,
        name: options.node.as_str().into(),
        started_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        key: identity.key,
        heartbeat_interval: options.heartbeat_interval,
        member_timeout: options.member_timeout,
    };
    let carrier = echoring_backbone::spawn(options.nats.clone(), config, tables, commands)?;
    watch(carrier, server.handle())
}

/// Has the server fail if the thread ends by itself.
fn watch(carrier: Carrier, server: Handle) -> io::Result<()> {
    let watch = move || match carrier.join() {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => server.fail(&error.to_string()),
        Err(_) => server.fail("the thread that carries the packets of the cluster has panicked"),
    };
    std::thread::Builder::new().name("cluster".to_owned()).spawn(watch).map(drop)
}
