//! The launch of a shard's thread, and the errors of a failed launch.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::commands::blocking;
use crate::node::config::{ServerConfig, StartError, StartErrorKind};
use crate::node::handle::{Readiness, Snapshot};
use crate::node::identity::NodeIdentity;
use crate::node::randomness::Randomness;
use crate::service::Service;
use echoring_broker::broadcast::following::FollowingSettings;
pub use echoring_broker::broadcast::shard_mail::ShardMail;
use echoring_broker::gate::AuthCounters;
use echoring_broker::gate::quotas::Quotas;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::Seed;
use echoring_proto::limits::COMPRESSION_LEASE_BYTES;
use echoring_runtime::driver::{Driver, Options, uring};
use echoring_runtime::launch::{LaunchError, ShardSetup, ShardSpec};
use echoring_runtime::shard::{Allowance, Mailboxes, Security, Shard, ShardConfig};
use echoring_topics::Creators;

/// The parts that the shards of a node share with each other and with its handle.
#[derive(Clone)]
pub(crate) struct NodeShared {
    pub(crate) config: ServerConfig,
    pub(crate) connections: u32,
    /// Of one shard, those that it refuses included.
    pub(crate) shard_connections: u32,
    pub(crate) node: NodeIdentity,
    pub(crate) creators: Creators,
    pub(crate) readiness: Readiness,
    pub(crate) auth_counters: Arc<AuthCounters>,
    pub(crate) cluster: Option<FollowingSettings>,
}

/// The node's budgets, which its shards lease from.
pub(crate) struct Budgets {
    memory: Arc<Budget>,
    contexts: Arc<Budget>,
    pub(crate) connections: Arc<Budget>,
    pub(crate) topics: Arc<Budget>,
}

impl Budgets {
    pub(crate) fn new(config: &ServerConfig, connections: u32) -> Budgets {
        Budgets {
            memory: Budget::new(config.memory_budget),
            contexts: Budget::new(config.compression_bytes),
            connections: Budget::new(u64::from(connections)),
            topics: Budget::new(u64::from(config.max_topics)),
        }
    }

    fn allowance(&self) -> Allowance {
        Allowance {
            pool: Pool::new(self.memory.clone()),
            connections: Lease::new(self.connections.clone(), 1),
            contexts: Lease::new(self.contexts.clone(), COMPRESSION_LEASE_BYTES),
        }
    }
}

/// Builds the shard of one thread.
pub struct ServiceSetup {
    shared: NodeShared,
    sockets: Vec<OwnedFd>,
    mailboxes: Mailboxes<ShardMail>,
    allowance: Allowance,
    topics: Lease,
    seed: u64,
    entropy: Seed,
}

impl ServiceSetup {
    pub(crate) fn new(
        shared: NodeShared,
        budgets: &Budgets,
        randomness: &mut Randomness,
        mailboxes: Mailboxes<ShardMail>,
        sockets: Vec<OwnedFd>,
    ) -> ServiceSetup {
        ServiceSetup {
            shared,
            sockets,
            mailboxes,
            allowance: budgets.allowance(),
            topics: Lease::new(budgets.topics.clone(), 1),
            seed: randomness.seed(),
            entropy: randomness.entropy(),
        }
    }

    /// The thread of the setup, on this CPU if threads are pinned.
    pub(crate) fn on(self, cpu: Option<usize>) -> ShardSpec<ServiceSetup> {
        let NodeShared { config, shard_connections, .. } = &self.shared;
        let driver = Options {
            connections: *shard_connections,
            without: config.without,
            receive_bytes: 0,
            finds_addresses: !config.peer_limits().is_none(),
            notsent_lowat: config.notsent_lowat,
            stamps_every: 0,
            counts_retransmissions: false,
        };
        ShardSpec { cpu: cpu.filter(|_| config.pinned), driver, setup: self }
    }
}

impl ShardSetup for ServiceSetup {
    type Application = Service;
    type Output = Snapshot;

    fn build(self, driver: Driver) -> io::Result<Shard<Service>> {
        blocking::mark_shard();
        let ServiceSetup { shared, sockets, mailboxes, allowance, topics, seed, entropy } = self;
        let NodeShared { config, shard_connections, node, creators, readiness, auth_counters, .. } = shared;
        let broadcast = node.broadcast(&config, topics, creators, seed);
        let quotas = Quotas::new(Arc::clone(&config.known.identities), &config.peers.topics)
            .with_subscriptions_max(config.max_subscriptions);
        let service = Service::new(&config, broadcast, auth_counters).with_node(readiness, quotas);
        let service = match shared.cluster {
            Some(cluster) => service.with_cluster(cluster),
            None => service,
        };
        let shard_config = ShardConfig {
            connection: config.of_connections(),
            connections: shard_connections,
            security: Security { server: config.tls.clone() },
            seed: entropy,
        };
        let mut shard = Shard::new(driver, service, shard_config, allowance, mailboxes);
        shard.set_times(config.times());
        shard.set_limits(Arc::clone(&config.known.admission), config.peer_limits());
        if let Some(log) = config.access_log {
            shard.set_access_log(log);
        }
        let remote = shard.remote();
        shard.application().set_shard(remote);
        sockets.into_iter().try_for_each(|socket| shard.listen(socket))?;
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
