//! Descriptors: the limits of this process and of the host against the maximum of connections.

use super::check::Check;
use super::host::Host;
use super::plan::Plan;
use super::probes::Probes;
use echoring_async::limits::CONNECTIONS_DEFAULT;
use echoring_server::connections_on_rings;
use echoring_server::limits::RESERVED_DESCRIPTORS;

pub(super) fn checks(host: &Host, plan: &Plan, probes: &Probes) -> Vec<Check> {
    let wanted = plan.config.max_connections.unwrap_or(CONNECTIONS_DEFAULT);
    let needed = u64::from(wanted) + u64::from(RESERVED_DESCRIPTORS);
    [of_process(host, plan, probes, needed), of_host(host, needed)].into_iter().flatten().collect()
}

/// A start raises the soft limit to the hard one.
fn of_process(host: &Host, plan: &Plan, probes: &Probes, needed: u64) -> Option<Check> {
    const ID: &str = "descriptors";
    let hard = host.limit("Max open files")?.hard;
    let ceiling = host.number::<u64>("proc/sys/fs/nr_open").unwrap_or(u64::MAX);
    let cure = if needed > ceiling {
        format!("sysctl -w fs.nr_open={needed}, then LimitNOFILE={needed} of the service")
    } else {
        format!("ulimit -Hn {needed} as root, or LimitNOFILE={needed} of the service")
    };
    Some(if hard >= needed {
        Check::green(ID, format!("{hard} allowed, {needed} needed"))
    } else if let Some(asked) = plan.config.max_connections {
        let shards = plan.resolved.shards;
        if asked <= connections_on_rings(&plan.config, &probes.uring, shards, hard) {
            return Some(Check::green(
                ID,
                format!("{hard} allowed, in each of the rings of {shards} shards"),
            ));
        }
        Check::red(ID, format!("{hard} allowed; max_connections = {asked} needs {needed}"), cure)
    } else {
        let connections = plan.connections();
        Check::yellow(
            ID,
            format!("{hard} allowed: at most {connections} connections, not {CONNECTIONS_DEFAULT}"),
            cure,
        )
    })
}

/// Connections in direct descriptors are open files of the host too.
fn of_host(host: &Host, needed: u64) -> Option<Check> {
    const ID: &str = "file-max";
    let most = host.number::<u64>("proc/sys/fs/file-max")?;
    let open = host.number_at("proc/sys/fs/file-nr", 0).unwrap_or(0);
    let sum = needed.saturating_add(open);
    let finding = format!("{most} of the host, {open} open now, {needed} needed");
    let cure = format!("sysctl -w fs.file-max={}", sum.saturating_mul(2));
    Some(match most {
        _ if most >= sum => Check::green(ID, finding),
        _ if most >= needed => Check::yellow(ID, finding, cure),
        _ => Check::red(ID, finding, cure),
    })
}
