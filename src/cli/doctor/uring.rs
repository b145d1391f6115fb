//! The kernel and its io_uring: whether the driver runs on it, and what each missing feature costs.

use super::check::{Check, shown_size};
use super::host::Host;
use super::plan::Plan;
use super::probes::Probes;
use echoring_runtime::driver::{DriverChoice, uring};

/// A feature of the driver: its name, the Linux version that has it, and the cost of lacking it.
pub(super) type Feature = (&'static str, &'static str, &'static str);

pub(super) const FEATURES: [Feature; 11] = [
    (
        "incremental-buffers",
        "6.12",
        "a receive takes a whole buffer however short it is: 9 MiB of receive memory per shard instead of 3 MiB",
    ),
    (
        "receive-total",
        "6.17",
        "a receive from a peer that floods is cancelled by a second operation, and overshoots its credit",
    ),
    ("no-sqarray", "6.6", "one more array is written for each submission"),
    ("fd-install", "6.8", "a connection that is closed for an error needs a worker thread of the kernel"),
    ("no-iowait", "6.15", "an idle shard shows as 100 % iowait in top and vmstat"),
    ("registered-ring", "5.18", "each tick looks up the ring's descriptor"),
    (
        "direct-descriptors",
        "5.19",
        "each accepted connection takes a descriptor of the process, and each operation counts its references",
    ),
    ("skip-success", "5.17", "each send has a completion to read"),
    ("absolute-timeout", "6.12", "each tick reads the clock"),
    (
        "socket-options",
        "6.7",
        "--notsent-lowat holds for all connections, and ages of deliveries end at the socket",
    ),
    ("restricted", "5.10", "the ring also accepts operations that the driver never uses"),
];

/// Bytes of a ring that count as locked memory: 512 submissions of 64 B, 4,096 completions of 16 B, and the table of receive
/// buffers, each in whole pages.
const RING_BYTES: u64 = 256 << 10;

pub(super) fn checks(host: &Host, plan: &Plan, probes: &Probes) -> Vec<Check> {
    let mut checks = vec![driver(host, plan, probes)];
    checks.extend(disabled(host, plan));
    if let Ok(found) = &probes.uring {
        checks.extend(found.degraded.names().filter_map(missing));
    }
    checks.extend(locked_memory(host, plan));
    checks
}

fn driver(host: &Host, plan: &Plan, probes: &Probes) -> Check {
    const ID: &str = "io_uring";
    let release = host.text("proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown version".to_owned());
    match (&probes.uring, plan.config.driver) {
        (_, DriverChoice::Epoll) => Check::green(ID, format!("Linux {release}; epoll is configured")),
        (Ok(found), _) => {
            let (has, all) = (found.features.names().count(), FEATURES.len());
            Check::green(ID, format!("Linux {release}; {has} of {all} features"))
        }
        (Err(error), DriverChoice::Uring) => Check::red(
            ID,
            format!("Linux {release}; unavailable ({error}), and driver = \"uring\" needs it"),
            uring::hint(error),
        ),
        (Err(error), _) => Check::yellow(
            ID,
            format!("Linux {release}; unavailable ({error}): epoll is used"),
            uring::hint(error),
        ),
    }
}

/// `kernel.io_uring_disabled`: 1 leaves io_uring to a group and to privileged processes, which a server in its sandbox is not.
fn disabled(host: &Host, plan: &Plan) -> Option<Check> {
    const ID: &str = "io_uring_disabled";
    const CURE: &str = "sysctl -w kernel.io_uring_disabled=0";
    let refused: fn(&'static str, String, String) -> Check = match plan.config.driver {
        DriverChoice::Uring => |id, finding, cure| Check::red(id, finding, cure),
        DriverChoice::Epoll => |id, finding, _| Check::green(id, finding),
        _ => |id, finding, cure| Check::yellow(id, finding, cure),
    };
    match host.number::<u32>("proc/sys/kernel/io_uring_disabled")? {
        0 => Some(Check::green(ID, "0: every process may use io_uring")),
        1 => {
            let group = host.text("proc/sys/kernel/io_uring_group").unwrap_or_default();
            let cure = format!("add the server's user to kernel.io_uring_group ({group}), or {CURE}");
            Some(refused(
                ID,
                "1: only a group may use io_uring; the sandbox gives up CAP_SYS_ADMIN".into(),
                cure,
            ))
        }
        other => Some(refused(ID, format!("{other}: no process may use io_uring"), CURE.into())),
    }
}

fn missing(name: &str) -> Option<Check> {
    let (_, since, cost) = FEATURES.into_iter().find(|(known, ..)| *known == name)?;
    Some(Check::yellow(
        format!("io_uring.{name}"),
        format!("missing: {cost}"),
        format!("run on Linux {since} or later"),
    ))
}

/// Rings count as locked memory before Linux 5.12 and again on recent kernels, unless the process has CAP_IPC_LOCK, which
/// the sandbox gives up. A start raises the soft limit to the hard one.
fn locked_memory(host: &Host, plan: &Plan) -> Option<Check> {
    const ID: &str = "memlock";
    let hard = host.limit("Max locked memory")?.hard;
    let needed = plan.shards() * RING_BYTES;
    let shown = if hard == u64::MAX { "unlimited".to_owned() } else { shown_size(hard) };
    let finding = format!("{shown}; the rings of {} shards need {}", plan.shards(), shown_size(needed));
    let cure = format!("ulimit -l {}, or LimitMEMLOCK={needed} of the service", needed / 1024);
    Some(match plan.config.driver {
        _ if hard >= needed => Check::green(ID, finding),
        DriverChoice::Epoll => Check::green(ID, finding),
        DriverChoice::Uring => Check::red(ID, finding, cure),
        _ => Check::yellow(ID, format!("{finding}: shards without a ring use epoll"), cure),
    })
}
