//! The launch of a shard's thread, and the errors of a failed launch.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::commands::blocking;
use crate::limits::REFUSING_CONNECTIONS_MAX;
use crate::node::config::{ServerConfig, StartError, StartErrorKind};
use crate::node::handle::{Readiness, Snapshot};
use crate::service::Service;
use echoring_broker::broadcast::BroadcastSettings;
use echoring_broker::broadcast::following::FollowingSettings;
pub use echoring_broker::broadcast::shard_mail::ShardMail;
use echoring_broker::gate::AuthCounters;
use echoring_broker::gate::quotas::{Identities, Quotas};
use echoring_proto::buffer::Lease;
use echoring_proto::connection::Seed;
use echoring_runtime::admission::Admission;
use echoring_runtime::driver::{Driver, uring};
use echoring_runtime::launch::{LaunchError, ShardSetup};
use echoring_runtime::shard::{Allowance, Mailboxes, Security, Shard, ShardConfig};
use echoring_topics::{Creators, Placement};

/// The service of a shard, with its routes.
pub(crate) fn service(
    config: &ServerConfig,
    counters: Arc<AuthCounters>,
    topics: Lease,
    creators: Creators,
    seed: u64,
    node: NodeIdentity,
) -> Service {
    let broadcast = BroadcastSettings {
        rules: config.topics.clone(),
        topics,
        subscriptions_max: config.subscriptions_max,
        creators,
        creation: config.creation,
        message_bytes_max: config.message_bytes_max,
        seed,
        placement: node.placement,
        first_number: node.first_number,
        digest_seed: node.digest_seed,
    };
    let mut service = Service::new(config.origins.clone(), config.message_bytes_max, config.queue_bytes)
        .with_broadcast(broadcast)
        .with_subprotocols(config.subprotocols.clone(), config.subprotocol_preference)
        .with_routes(config.routes.clone())
        .with_hosts(config.hosts.clone())
        .with_auth(config.auth.clone(), counters)
        .with_app(config.app.clone())
        .with_refusal_hook(config.on_refusal.clone());
    if config.test_endpoints {
        service = service.with_test_endpoints();
    }
    if !config.demo_pages {
        service = service.without_demo_pages();
    }
    if config.builtin_routes { service } else { service.without_builtin_routes() }
}

/// The common parts of all shards of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeIdentity {
    /// Maps topics to owner shards.
    pub(crate) placement: Placement,
    /// The number of the first shard, in the numbers of clients.
    pub(crate) first_number: u8,
    /// Of the digests of publications with idempotency keys.
    pub(crate) digest_seed: u64,
}

/// Builds the shard of one thread.
pub struct ServiceSetup {
    pub(crate) config: ServerConfig,
    pub(crate) connections: u32,
    pub(crate) sockets: Vec<OwnedFd>,
    pub(crate) mailboxes: Mailboxes<ShardMail>,
    pub(crate) allowance: Allowance,
    pub(crate) topics: Lease,
    pub(crate) creators: Creators,
    pub(crate) seed: u64,
    pub(crate) entropy: Seed,
    pub(crate) node: NodeIdentity,
    pub(crate) readiness: Readiness,
    pub(crate) auth_counters: Arc<AuthCounters>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) identities: Arc<Identities>,
    pub(crate) cluster: Option<FollowingSettings>,
}

impl ShardSetup for ServiceSetup {
    type Application = Service;
    type Output = Snapshot;

    fn build<D: Driver>(self, driver: D) -> io::Result<Shard<D, Service>> {
        blocking::mark_shard();
        let service =
            service(&self.config, self.auth_counters, self.topics, self.creators, self.seed, self.node)
                .with_cluster(self.cluster)
                .with_readiness(self.readiness)
                .with_quotas(Quotas::new(self.identities, &self.config.peers.topics));
        let config = ShardConfig {
            connection: self.config.connection(),
            connections: self.connections + REFUSING_CONNECTIONS_MAX,
            security: Security { server: self.config.tls.clone() },
            seed: self.entropy,
        };
        let mut shard = Shard::new(driver, service, config, self.allowance, self.mailboxes);
        shard.set_limits(self.admission, Arc::clone(&self.config.peers));
        if let Some(log) = self.config.access_log {
            shard.set_access_log(log);
        }
        let remote = shard.remote();
        shard.application().set_shard(remote);
        self.sockets.into_iter().try_for_each(|socket| shard.listen(socket))?;
        Ok(shard)
    }

    fn finish(_: Service, snapshot: Snapshot) -> Snapshot {
        snapshot
    }
}

/// The hint names the limit to change.
pub(crate) fn launch_error(error: LaunchError) -> StartError {
    let (kind, problem, hint) = match error {
        LaunchError::Thread(shard, error) => (
            StartErrorKind::Thread,
            format!("cannot start the thread of shard {shard}: {error}"),
            "raise the limit on processes".to_owned(),
        ),
        LaunchError::Uring(error) => (
            StartErrorKind::Driver,
            format!("io_uring is unavailable: {error}"),
            uring::hint(&error).to_owned(),
        ),
        LaunchError::Epoll(error) => (
            StartErrorKind::Descriptors,
            format!("epoll failed: {error}"),
            "raise the descriptor limit".to_owned(),
        ),
        LaunchError::Setup(error) => (
            StartErrorKind::Descriptors,
            format!("cannot accept: {error}"),
            "raise the descriptor limit".to_owned(),
        ),
        LaunchError::Lost => (
            StartErrorKind::Thread,
            "a shard ended before it was ready".to_owned(),
            "see the log, and report it".to_owned(),
        ),
    };
    StartError::new(kind, problem, hint)
}
