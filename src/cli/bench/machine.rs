//! What a generator takes from its machine: CPUs, threads, and the kind of address that it connects to.

use std::net::IpAddr;

use super::usage::usage;
use crate::Failure;
use echoring_load::{Endpoint, RemoteAddress};

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
