//! Resolves a configuration on this host: CPUs, shards and connections.

use std::io;

use crate::limits::{REFUSING_CONNECTIONS_MAX, RESERVED_DESCRIPTORS, SHARD_SHARE_MAX};
use crate::node::config::{ServerConfig, StartError, StartErrorKind};
use crate::node::{listeners, ranges};
use echoring_async::limits::CONNECTIONS_DEFAULT;
use echoring_runtime::driver::{Description, DriverChoice, Features, uring};
use rustix::process::{Resource, getrlimit};

/// The limit of descriptors where the kernel reports none.
const DESCRIPTORS_DEFAULT: u64 = 1024;

/// The values that a configuration leaves to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Number of event loops.
    pub shards: usize,
    /// The CPUs that the shards are pinned to, round-robin; empty if the kernel does not report any.
    pub cpus: Vec<usize>,
    /// Maximum concurrent connections.
    pub max_connections: u32,
    /// Maximum concurrent connections of one shard, those that it refuses included.
    pub shard_connections_max: u32,
}

impl Resolved {
    /// Inspects the host; binds and starts nothing.
    ///
    /// # Errors
    /// If a setting is out of its range, the process may not use a CPU, its descriptor limit is below the number of connections, or the kernel does not have the
    /// congestion control.
    pub fn of(config: &ServerConfig) -> Result<Resolved, StartError> {
        ranges::check(config)?;
        let cpus = cpus(&config.cpus)?;
        listeners::check_congestion(config).map_err(|error| error.of_setting("congestion"))?;
        let shards = config.shards.unwrap_or(cpus.len()).max(1);
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS_DEFAULT);
        let max_connections = max_connections(config, shards, descriptors)?;
        Ok(Resolved::new(shards, cpus, max_connections, descriptors))
    }

    /// The same values on a host that allows a process this many descriptors.
    pub fn new(shards: usize, cpus: Vec<usize>, max_connections: u32, descriptors: u64) -> Resolved {
        // No ring has a larger table.
        let allowed = u32::try_from(descriptors).unwrap_or(u32::MAX);
        let shard_connections_max = max_connections.saturating_add(REFUSING_CONNECTIONS_MAX).min(allowed);
        Resolved { shards, cpus, max_connections, shard_connections_max }
    }
}

/// Connections that a limit of descriptors allows.
fn within(descriptors: u64) -> u32 {
    u32::try_from(descriptors.saturating_sub(u64::from(RESERVED_DESCRIPTORS))).unwrap_or(u32::MAX)
}

/// Connections that a limit of descriptors allows where each shard's ring has a table of its own, as large as that limit; 0 where a
/// connection needs a descriptor of the process. It needs none if the ring has direct descriptors and the kernel can make an ordinary one
/// of a direct one, for the moment in which that is needed.
pub fn connections_on_rings(
    config: &ServerConfig,
    uring: &io::Result<Description>,
    shards: usize,
    descriptors: u64,
) -> u32 {
    let found = uring.as_ref().map_or(Features::NONE, |found| found.features.less(config.without));
    if config.driver == DriverChoice::Epoll || !found.has(Features::DIRECT.with(Features::FD_INSTALL)) {
        return 0;
    }
    let (part, whole) = SHARD_SHARE_MAX;
    let most = u64::from(within(descriptors)).saturating_mul(shards as u64) / whole * part;
    u32::try_from(most).unwrap_or(u32::MAX)
}

fn cpus(asked: &[usize]) -> Result<Vec<usize>, StartError> {
    // A kernel that does not report the CPUs refuses pinning too, which logs a warning.
    let Some(allowed) = core_affinity::get_core_ids().filter(|cores| !cores.is_empty()) else {
        return Ok(asked.to_vec());
    };
    let allowed: Vec<usize> = allowed.into_iter().map(|core| core.id).collect();
    match asked.iter().find(|cpu| !allowed.contains(cpu)) {
        None if asked.is_empty() => Ok(allowed),
        None => Ok(asked.to_vec()),
        Some(cpu) => {
            let known: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            let problem = format!("this process may not use CPU {cpu}");
            let hint = format!("use some of {}", known.join(","));
            Err(StartError::new(StartErrorKind::Cpu, problem, hint).of_setting("cpus"))
        }
    }
}

/// Maximum connections of the node: as configured, or as the descriptor limit allows.
fn max_connections(config: &ServerConfig, shards: usize, descriptors: u64) -> Result<u32, StartError> {
    let allowed = within(descriptors);
    if allowed == 0 {
        return Err(StartError::new(
            StartErrorKind::Descriptors,
            format!("only {descriptors} descriptors are allowed"),
            "raise the limit: ulimit -n 65536, or LimitNOFILE= of the service",
        ));
    }
    let Some(asked) = config.max_connections else { return Ok(allowed.min(CONNECTIONS_DEFAULT)) };
    if asked <= allowed {
        return Ok(asked);
    }
    let allowed = allowed.max(connections_on_rings(config, &uring::probe(), shards, descriptors));
    if asked <= allowed {
        return Ok(asked);
    }
    Err(StartError::new(
        StartErrorKind::Descriptors,
        format!("{asked} connections need more than the limit of {descriptors} descriptors"),
        format!(
            "raise the limit (ulimit -n {}), or configure at most {allowed}",
            u64::from(asked) + u64::from(RESERVED_DESCRIPTORS)
        ),
    )
    .of_setting("max_connections"))
}
