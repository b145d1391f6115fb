//! Resolves a configuration on this host: CPUs, shards and connections.

use crate::limits::RESERVED_DESCRIPTORS;
use crate::node::config::{ServerConfig, StartError, StartErrorKind};
use crate::node::listeners;
use echoring_async::limits::CONNECTIONS_DEFAULT;
use rustix::process::{Resource, getrlimit};

/// The values that a configuration leaves to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Number of event loops.
    pub shards: usize,
    /// The CPUs that the shards are pinned to, round-robin; empty if the kernel does not report any.
    pub cpus: Vec<usize>,
    /// Maximum concurrent connections.
    pub connections_max: u32,
}

impl Resolved {
    /// Inspects the host; binds and starts nothing.
    ///
    /// # Errors
    /// If the process may not use a CPU, its descriptor limit is below the number of connections, or the kernel does not have the
    /// congestion control.
    pub fn of(config: &ServerConfig) -> Result<Resolved, StartError> {
        let cpus = cpus(&config.cpus)?;
        listeners::check_congestion(config).map_err(|error| error.of_setting("congestion"))?;
        let shards = config.shards.unwrap_or(cpus.len()).max(1);
        Ok(Resolved { shards, cpus, connections_max: connections_max(config.connections_max)? })
    }
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
fn connections_max(asked: Option<u32>) -> Result<u32, StartError> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1024);
    let allowed = u32::try_from(limit.saturating_sub(u64::from(RESERVED_DESCRIPTORS))).unwrap_or(u32::MAX);
    if allowed == 0 {
        return Err(StartError::new(
            StartErrorKind::Descriptors,
            format!("only {limit} descriptors are allowed"),
            "raise the limit: ulimit -n 65536, or LimitNOFILE= of the service",
        ));
    }
    match asked {
        Some(asked) if asked > allowed => Err(StartError::new(
            StartErrorKind::Descriptors,
            format!("{asked} connections need more than the limit of {limit} descriptors"),
            format!(
                "raise the limit (ulimit -n {}), or configure at most {allowed}",
                u64::from(asked) + u64::from(RESERVED_DESCRIPTORS)
            ),
        )
        .of_setting("connections_max")),
        Some(asked) => Ok(asked),
        None => Ok(allowed.min(CONNECTIONS_DEFAULT)),
    }
}
