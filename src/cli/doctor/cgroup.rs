//! Limits of the control groups of this process, of both versions. The smallest limit of a group and its ancestors
//! applies.

use super::check::Check;
use super::host::Host;
use super::plan::Plan;

/// Threads of a server besides its shards: control, log, signals, and those that wait for a successor.
const OTHER_THREADS: u64 = 16;

pub(super) fn checks(host: &Host, plan: &Plan) -> Vec<Check> {
    [cpu_time(host, plan), threads(host, plan)].into_iter().flatten().collect()
}

/// The bound on memory in bytes.
pub(super) fn memory_max(host: &Host) -> Option<u64> {
    let files = files(host, "memory", "memory.max", "memory.limit_in_bytes");
    // Version 1 says "no limit" by a number near 2^63.
    files.iter().filter_map(|file| host.number::<u64>(file)).filter(|bytes| *bytes < 1 << 60).min()
}

/// A group whose quota is used up stands still for the rest of its period, 100 ms by default.
fn cpu_time(host: &Host, plan: &Plan) -> Option<Check> {
    let cpus = quotas(host).into_iter().reduce(f64::min)?;
    let shards = plan.resolved.shards;
    let finding =
        format!("{cpus:.1} CPUs for {shards} shards: busy shards are throttled for part of each period");
    let cure =
        format!("a quota of {shards} CPUs (CPUQuota=, --cpus), or shards = {}", (cpus as usize).max(1));
    let good = format!("{cpus:.1} CPUs for {shards} shards");
    Some(Check::yellow("cpu.max", finding, cure).unless(cpus >= shards as f64, good))
}

/// CPUs that each limited group may use.
fn quotas(host: &Host) -> Vec<f64> {
    let mut quotas = Vec::new();
    for file in files(host, "cpu", "cpu.max", "cpu.cfs_quota_us") {
        // Version 1 has the period in another file.
        let period_file = file.replace("cpu.cfs_quota_us", "cpu.cfs_period_us");
        let period = if period_file == file { host.number_at(&file, 1) } else { host.number(&period_file) };
        if let (Some(quota), Some(period)) = (host.number_at(&file, 0), period)
            && host.text(&file).is_some_and(|text| !text.starts_with("max"))
        {
            quotas.push(quota as f64 / period.max(1) as f64);
        }
    }
    quotas
}

fn threads(host: &Host, plan: &Plan) -> Option<Check> {
    let needed = plan.shards() + OTHER_THREADS;
    let files = files(host, "pids", "pids.max", "pids.max");
    let free = |file: &String| {
        let used = host.number::<u64>(&file.replace("pids.max", "pids.current")).unwrap_or(0);
        Some(host.number::<u64>(file)?.saturating_sub(used))
    };
    let left = files.iter().filter_map(free).min()?;
    let finding = format!("{left} more threads allowed, {needed} needed");
    let cure = format!("TasksMax={} of the service, or --pids-limit", needed * 2);
    Some(Check::red("pids.max", finding.clone(), cure).unless(left >= needed, finding))
}

/// The files of a limit, of the group and of those around it: `unified` with version 2, `legacy` with version 1.
fn files(host: &Host, controller: &str, unified: &str, legacy: &str) -> Vec<String> {
    let groups = host.text("proc/self/cgroup").unwrap_or_default();
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if controllers.is_empty() {
            // Beside version 1, systemd mounts version 2 in a folder.
            for mount in ["sys/fs/cgroup", "sys/fs/cgroup/unified"] {
                files.extend(upwards(path).map(|group| format!("{mount}{group}/{unified}")));
            }
        } else if controllers.split(',').any(|known| known == controller) {
            let mounts = [controllers.to_owned(), controller.to_owned()];
            for mount in mounts {
                files.extend(upwards(path).map(|group| format!("sys/fs/cgroup/{mount}{group}/{legacy}")));
            }
        }
    }
    files
}

/// A path and those around it, without their last slash; the last is the root, which is empty. A namespace may hide the
/// path, so that only the root is there.
fn upwards(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path.trim_end_matches('/')), |path| Some(path.rsplit_once('/')?.0))
}
