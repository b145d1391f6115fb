//! The resources that a generator takes from its machine: CPUs, threads, and the kind of address that it connects to.

use std::net::IpAddr;

use super::usage::usage;
use crate::Failure;
use crate::common::environment;
use echoring_load::{Endpoint, Plan, RemoteAddress, Target, Workload};

/// Maximum number of threads.
pub(super) const THREADS_MAX: u32 = 1_024;

/// The IP address that connections lead to.
pub(super) fn ip_of(endpoint: &Endpoint) -> Option<IpAddr> {
    match &endpoint.route.address {
        RemoteAddress::Tcp(address) => Some(address.ip()),
        RemoteAddress::Unix(_) => None,
    }
}

/// Checks that this process may use these CPUs.
pub(super) fn check_cpus(cpus: &[usize]) -> Result<(), Failure> {
    let allowed = echoring_load::allowed_cpus();
    match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(usage("--cpus", &format!("this process may not use CPU {cpu}"))),
        None => Ok(()),
    }
}

/// The threads of a generator that is pinned to these CPUs, if to any.
pub(super) fn threads_or_default(threads: Option<u32>, cpus: &[usize]) -> usize {
    match threads {
        Some(threads) => threads as usize,
        None if !cpus.is_empty() => cpus.len(),
        None => (echoring_load::allowed_cpus().len() / 2).max(1),
    }
}

/// Checks that local addresses are of the kind of the server's.
pub(super) fn check_sources(sources: &[IpAddr], target: IpAddr) -> Result<(), Failure> {
    match sources.first() {
        Some(source) if source.is_ipv4() != target.is_ipv4() => {
            Err(usage("--source-addr", &format!("{source} cannot connect to {target}")))
        }
        _ => Ok(()),
    }
}

/// Address space of a run without threads and connections, of a server in this process, of a thread with its stack, rings
/// and distributions, of a stage's distributions on a thread, and of a connection: measured, and rounded up.
const RUN_BYTES: u64 = 32 << 20;
const SERVER_BYTES: u64 = 32 << 20;
const THREAD_BYTES: u64 = 24 << 20;
const STAGE_BYTES: u64 = 1 << 20;
const CONNECTION_BYTES: u64 = 2 << 10;

/// Where the address space of this process is limited, an allocation that fails would end it without a word.
pub(super) fn enough_address_space(plan: &Plan) -> Result<(), Failure> {
    let Some((limit, used)) = environment::address_space() else { return Ok(()) };
    let threads = plan.resources.threads as u64;
    let of_load = |load: &Workload| {
        let stages = threads * load.pace.stages().len() as u64 * STAGE_BYTES;
        let samples = if load.sample_share.is_some() { echoring_load::SAMPLES_BYTES_MAX as u64 } else { 0 };
        stages + samples + u64::from(load.connections) * CONNECTION_BYTES
    };
    let server = if let Target::Embedded(_) = plan.target { SERVER_BYTES } else { 0 };
    let loads = plan.workloads.iter().map(of_load).max().unwrap_or(0);
    let needed = used + RUN_BYTES + server + threads * THREAD_BYTES + loads;
    if needed <= limit {
        return Ok(());
    }
    Err(Failure::Environment(format!(
        "this process may use {} of address space, but a run with {threads} threads takes about {}: raise the limit \
         (ulimit -v), or lower --threads or --connections",
        echoring_load::plan::bytes(limit as f64),
        echoring_load::plan::bytes(needed as f64),
    )))
}
