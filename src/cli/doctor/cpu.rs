//! CPUs: the set of this process against the shards, the governor, and the clock source.

use super::check::Check;
use super::host::Host;
use super::plan::Plan;
use crate::common::values::shown_cpus;

pub(super) fn checks(host: &Host, plan: &Plan) -> Vec<Check> {
    [set(plan), governor(host, plan), clock_source(host)].into_iter().flatten().collect()
}

fn set(plan: &Plan) -> Option<Check> {
    const ID: &str = "cpus";
    let (allowed, shards) = (&plan.allowed_cpus, plan.resolved.shards);
    if allowed.is_empty() {
        return None;
    }
    let refused = plan.resolved.cpus.iter().find(|cpu| !allowed.contains(cpu));
    let pinned = plan.resolved.cpus.len();
    Some(if let Some(cpu) = refused {
        let cure = format!("use CPUs of {}, or change the CPU set", shown_cpus(allowed));
        Check::red(ID, format!("this process may not use CPU {cpu}"), cure)
    } else if shards > pinned {
        let finding = format!("{shards} shards on {pinned} CPUs: shards wait for one another");
        Check::yellow(ID, finding, format!("shards = {pinned}, or a larger CPU set"))
    } else {
        Check::green(
            ID,
            format!("{shards} shards, each on one of the CPUs {}", shown_cpus(&plan.resolved.cpus)),
        )
    })
}

/// A CPU that slows down when it is idle wakes up slow: latency at low rates is several times as high.
fn governor(host: &Host, plan: &Plan) -> Option<Check> {
    const ID: &str = "governor";
    let of = |cpu: &usize| host.text(&format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"));
    let mut governors: Vec<String> = plan.resolved.cpus.iter().filter_map(of).collect();
    governors.sort();
    governors.dedup();
    if governors.is_empty() {
        return Some(Check::green(ID, "none: this kernel does not control the frequency"));
    }
    let names = governors.join(", ");
    let finding = format!("{names}: latency is higher at low rates, and figures of bench vary");
    let check = Check::yellow(ID, finding, "cpupower frequency-set -g performance");
    Some(check.unless(governors == ["performance"], names))
}

fn clock_source(host: &Host) -> Option<Check> {
    /// Read without a system call.
    const FAST: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];
    let source = host.text("sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    let finding = format!("{source}: each reading of the clock is a system call");
    let cure = "boot with clocksource=tsc where the TSC is stable (see dmesg)";
    Some(Check::yellow("clocksource", finding, cure).unless(FAST.contains(&source.as_str()), source))
}
