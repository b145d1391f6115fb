//! Support for the server's sandbox on this host, and the filter that this process already has.

use super::check::Check;
use super::host::Host;
use super::plan::Plan;
use super::probes::Probes;

pub(super) fn checks(host: &Host, plan: &Plan, probes: &Probes) -> Vec<Check> {
    let found = [filter(host, probes), Some(seccomp(host)), Some(landlock(probes)), user(host, plan)];
    found.into_iter().flatten().collect()
}

/// The filter that a container or a service has put this process under.
fn filter(host: &Host, probes: &Probes) -> Option<Check> {
    const ID: &str = "seccomp";
    match host.status("Seccomp")?.as_str() {
        "0" => Some(Check::green(ID, "this process has no filter")),
        "2" if probes.uring.is_ok() => {
            Some(Check::green(ID, "this process has a filter, which allows io_uring"))
        }
        "2" => Some(Check::yellow(
            ID,
            "this process has a filter, and io_uring is denied",
            "allow io_uring_setup, io_uring_enter and io_uring_register: packaging/docker/seccomp.json for a container, \
             SystemCallFilter=@aio for a service",
        )),
        _ => Some(Check::red(ID, "this process is in strict mode", "start it without SECCOMP_MODE_STRICT")),
    }
}

fn seccomp(host: &Host) -> Check {
    const ID: &str = "sandbox.seccomp";
    match host.text("proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Check::green(ID, "the server can limit its own system calls")
        }
        _ => Check::yellow(
            ID,
            "the server cannot limit its own system calls",
            "run on a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn landlock(probes: &Probes) -> Check {
    const ID: &str = "sandbox.landlock";
    match probes.landlock {
        0 => Check::yellow(
            ID,
            "the server cannot limit the files that it reaches",
            "add landlock to the kernel's lsm= parameter (Linux 5.13 or later)",
        ),
        version => {
            Check::green(ID, format!("version {version}: the server limits the files that it reaches"))
        }
    }
}

fn user(host: &Host, plan: &Plan) -> Option<Check> {
    const ID: &str = "user";
    let uid = host.status("Uid")?;
    match uid.split_whitespace().nth(1)? {
        "0" if plan.changes_user => Some(Check::green(ID, "root, until the server changes to its user")),
        "0" => {
            Some(Check::yellow(ID, "root: an attacker who controls the server is root", "use --user NAME"))
        }
        uid => Some(Check::green(ID, format!("user {uid}"))),
    }
}
