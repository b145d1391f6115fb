//! The needs of a server with a configuration on a host, before anything is started.

use std::path::Path;

use super::host::Host;
use super::probes::Probes;
use crate::common::values::cpu_list;
use echoring_async::limits::CONNECTIONS_DEFAULT;
use echoring_server::limits::RESERVED_DESCRIPTORS;
use echoring_server::{HostMemory, MemoryPeak, Resolved, ServerConfig};

/// A configuration, and its results on a host.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: ServerConfig,
    /// Whether the server changes to another user.
    pub(super) changes_user: bool,
    /// The CPUs that this process may use.
    pub(super) allowed_cpus: Vec<usize>,
    /// Shards, the CPUs that they are pinned to, and the connections that fit the descriptor limit.
    pub(super) resolved: Resolved,
}

impl Plan {
    pub(super) fn new(config: ServerConfig, changes_user: bool, host: &Host) -> Plan {
        let allowed = host.status("Cpus_allowed_list");
        let allowed_cpus = allowed.and_then(|list| cpu_list(&list).ok()).unwrap_or_default();
        let cpus = if config.cpus.is_empty() { allowed_cpus.clone() } else { config.cpus.clone() };
        let shards = config.shards.unwrap_or(cpus.len()).max(1);
        let max_connections = config.max_connections.unwrap_or_else(|| default_connections(host));
        let resolved = Resolved::new(shards, cpus, max_connections, descriptors(host));
        Plan { config, changes_user, allowed_cpus, resolved }
    }

    pub(super) fn shards(&self) -> u64 {
        self.resolved.shards as u64
    }

    pub(super) fn connections(&self) -> u64 {
        u64::from(self.resolved.max_connections)
    }

    /// The most memory that the server takes on this host.
    pub(super) fn peak(&self, host: &Host, probes: &Probes) -> MemoryPeak {
        MemoryPeak::of(&self.config, &self.resolved, host_memory(host, probes))
    }
}

/// The most memory that a server takes on the host of this process.
pub(crate) fn peak_here(config: &ServerConfig, resolved: &Resolved) -> MemoryPeak {
    let host = Host::below(Path::new("/"));
    MemoryPeak::of(config, resolved, host_memory(&host, &Probes::of_this_host()))
}

fn host_memory(host: &Host, probes: &Probes) -> HostMemory {
    let defaults = HostMemory::default();
    let largest = |file| host.number_at(file, 2);
    HostMemory {
        incremental_buffers: probes.has_incremental_buffers(),
        autotuned_send_bytes: largest("proc/sys/net/ipv4/tcp_wmem").unwrap_or(defaults.autotuned_send_bytes),
        autotuned_receive_bytes: largest("proc/sys/net/ipv4/tcp_rmem")
            .unwrap_or(defaults.autotuned_receive_bytes),
    }
}

/// As a start chooses: the default, or the number that the descriptors allow after the soft limit was raised to the
/// hard one.
fn default_connections(host: &Host) -> u32 {
    let allowed = descriptors(host).saturating_sub(RESERVED_DESCRIPTORS.into()).max(1);
    u32::try_from(allowed).unwrap_or(u32::MAX).min(CONNECTIONS_DEFAULT)
}

/// Descriptors that this process may have after a start.
fn descriptors(host: &Host) -> u64 {
    host.limit("Max open files").map_or(u64::MAX, |limit| limit.hard)
}
