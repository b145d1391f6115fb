//! Memory: the configuration's peak against the machine and the control group, and transparent huge pages.

use super::cgroup;
use super::check::{Check, shown_size};
use super::host::Host;
use echoring_server::MemoryPeak;

pub(super) fn checks(host: &Host, peak: &MemoryPeak) -> Vec<Check> {
    let machine =
        host.memory("MemTotal").and_then(|bytes| against("memory", "of the machine", bytes, host, peak));
    let group = cgroup::memory_max(host)
        .and_then(|bytes| against("memory.max", "of the control group", bytes, host, peak));
    [machine, group, huge_pages(host)].into_iter().flatten().collect()
}

/// The kernel's part is bounded by `tcp_mem` too.
fn against(id: &'static str, whose: &str, most: u64, host: &Host, peak: &MemoryPeak) -> Option<Check> {
    let bound =
        host.number_at("proc/sys/net/ipv4/tcp_mem", 2).map_or(u64::MAX, |pages| pages.saturating_mul(4_096));
    let (user, kernel) = (peak.user_bytes(), peak.kernel_bytes().min(bound));
    let finding = format!(
        "{} {whose}; the peak is {} of the process and {} of its sockets",
        shown_size(most),
        shown_size(user),
        shown_size(kernel)
    );
    let cure = "lower memory_budget, max_connections, max_subscriptions or max_topics: see docs/memory.md";
    Some(match most {
        _ if user > most => Check::red(id, format!("{finding}: the process may be killed"), cure),
        _ if user.saturating_add(kernel) > most => {
            Check::yellow(id, format!("{finding}: together they do not fit"), cure)
        }
        _ => Check::green(id, finding),
    })
}

/// The server asks for small pages only, whatever the host's default is.
fn huge_pages(host: &Host) -> Option<Check> {
    const ID: &str = "transparent_hugepage";
    let modes = host.text("sys/kernel/mm/transparent_hugepage/enabled")?;
    let chosen = modes.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'))?;
    Some(match (chosen, host.status("THP_enabled").as_deref()) {
        ("always", None) => Check::yellow(
            ID,
            "always, and this kernel does not tell whether a process can opt out",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        ("always", Some(_)) => Check::green(ID, "always; the server opts out"),
        (other, _) => Check::green(ID, other),
    })
}
