//! The system calls that a server makes once it has started, by seccomp.
//!
//! Any other call fails with EPERM, as under systemd's `SystemCallFilter=` with `SystemCallErrorNumber=EPERM`: a library that
//! probes for something new gets an error that it handles, and a hundred thousand connections are not lost to a call that
//! nobody foresaw. Nothing here lets the process start a program, trace another, mount, load a module or change its identity.
//! The operations of the shards' rings are limited by the rings themselves (`restricted`).

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// A system call: its name behind `SYS_`, and its number.
type Call = (&'static str, c_long);

/// Calls by the names of their constants.
macro_rules! calls {
    ($($call:ident),* $(,)?) => { &[$((stringify!($call), libc::$call)),*] };
}

/// Allowed calls by their reason.
const ALLOWED: &[(&str, &[Call])] = &[
    ("the shards' rings", calls![SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register]),
    (
        "the other driver, the control thread, and waiting",
        calls![
            SYS_epoll_create1,
            SYS_epoll_ctl,
            SYS_epoll_pwait,
            SYS_epoll_pwait2,
            SYS_eventfd2,
            SYS_ppoll,
            SYS_pselect6,
            SYS_timerfd_create,
            SYS_timerfd_settime,
            SYS_timerfd_gettime,
            SYS_pipe2
        ],
    ),
    (
        // `socket` has a rule of its own. Descriptors of listeners travel to a successor by `sendmsg` (SCM_RIGHTS).
        "connections, outgoing ones of hooks included, and the takeover",
        calls![
            SYS_socketpair,
            SYS_bind,
            SYS_listen,
            SYS_accept,
            SYS_accept4,
            SYS_connect,
            SYS_getsockname,
            SYS_getpeername,
            SYS_getsockopt,
            SYS_setsockopt,
            SYS_sendto,
            SYS_recvfrom,
            SYS_sendmsg,
            SYS_recvmsg,
            SYS_sendmmsg,
            SYS_recvmmsg,
            SYS_shutdown
        ],
    ),
    (
        "files: reading configuration, tokens and certificates again, writing and reopening logs, replacing unix sockets",
        calls![
            SYS_openat,
            SYS_openat2,
            SYS_close,
            SYS_close_range,
            SYS_read,
            SYS_write,
            SYS_readv,
            SYS_writev,
            SYS_pread64,
            SYS_pwrite64,
            SYS_lseek,
            SYS_fstat,
            SYS_newfstatat,
            SYS_statx,
            SYS_fstatfs,
            SYS_faccessat,
            SYS_faccessat2,
            SYS_readlinkat,
            SYS_getdents64,
            SYS_getcwd,
            SYS_unlinkat,
            SYS_renameat2,
            SYS_ftruncate,
            SYS_fallocate,
            SYS_fsync,
            SYS_fdatasync,
            SYS_flock,
            SYS_fchmod,
            SYS_fchmodat,
            SYS_umask,
            SYS_fcntl,
            SYS_ioctl,
            SYS_dup,
            SYS_dup3,
            SYS_inotify_init1,
            SYS_inotify_add_watch,
            SYS_inotify_rm_watch
        ],
    ),
    ("memory", calls![SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_mincore]),
    (
        "threads",
        calls![
            SYS_clone,
            SYS_clone3,
            SYS_set_robust_list,
            SYS_rseq,
            SYS_futex,
            SYS_membarrier,
            SYS_sched_yield,
            SYS_sched_getaffinity,
            SYS_sched_setaffinity,
            SYS_getcpu,
            SYS_gettid,
            SYS_prctl,
            SYS_exit
        ],
    ),
    (
        "signals, and the end of the process; an abort signals the calling thread",
        calls![
            SYS_rt_sigaction,
            SYS_rt_sigprocmask,
            SYS_rt_sigreturn,
            SYS_rt_sigtimedwait,
            SYS_sigaltstack,
            SYS_restart_syscall,
            SYS_tgkill,
            SYS_exit_group
        ],
    ),
    (
        "time, randomness, and what the process is",
        calls![
            SYS_clock_gettime,
            SYS_clock_getres,
            SYS_clock_nanosleep,
            SYS_nanosleep,
            SYS_gettimeofday,
            SYS_getrandom,
            SYS_uname,
            SYS_sysinfo,
            SYS_getrusage,
            SYS_times,
            SYS_prlimit64,
            SYS_getpid,
            SYS_getppid,
            SYS_getuid,
            SYS_geteuid,
            SYS_getgid,
            SYS_getegid
        ],
    ),
];

/// Older calls for the same purposes, which C libraries still make on this architecture.
#[cfg(target_arch = "x86_64")]
const OLDER: &[Call] = calls![
    SYS_open,
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_unlink,
    SYS_rename,
    SYS_chmod,
    SYS_dup2,
    SYS_pipe,
    SYS_poll,
    SYS_select,
    SYS_epoll_wait,
    SYS_time,
    SYS_getrlimit
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Call] = &[];

/// Families of sockets: those of connections, and that by which the C library asks for this host's addresses.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Restricts all threads of this process.
///
/// # Errors
/// Why they are not restricted.
pub(super) fn restrict() -> Result<(), String> {
    let program = program().map_err(|error| error.to_string())?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| error.to_string())
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let allowed = ALLOWED.iter().flat_map(|(_, calls)| *calls).chain(OLDER);
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        allowed.map(|(_, call)| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, sockets()?);
    let architecture = std::env::consts::ARCH.try_into()?;
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, denied, SeccompAction::Allow, architecture)?.try_into()
}

/// One rule for each family.
fn sockets() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |family: libc::c_int| {
        let equals = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family as u64)?;
        SeccompRule::new(vec![equals])
    };
    FAMILIES.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_fits_the_kernel() {
        let instructions = program().expect("it compiles").len();
        // The kernel's BPF_MAXINSNS is 4,096.
        assert!((100..4_096).contains(&instructions), "{instructions}");
    }

    #[test]
    fn no_call_is_listed_twice_and_none_starts_a_program_or_changes_an_identity() {
        let mut all: Vec<c_long> =
            ALLOWED.iter().flat_map(|(_, calls)| *calls).chain(OLDER).map(|(_, call)| *call).collect();
        let listed = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), listed);
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_init_module,
            libc::SYS_keyctl,
            libc::SYS_capset,
            libc::SYS_setresuid,
            libc::SYS_chroot,
        ];
        assert!(never.iter().all(|call| !all.contains(call)));
    }

    /// The further calls of a container's start, until the server's own filter is in force: the container runtime
    /// enters the namespace's user and starts the program, which loads itself and gives up its privileges.
    const START: &[Call] = calls![
        SYS_execve,
        SYS_set_tid_address,
        SYS_setuid,
        SYS_setgid,
        SYS_setgroups,
        SYS_setresuid,
        SYS_setresgid,
        SYS_getgroups,
        SYS_capget,
        SYS_capset,
        SYS_setrlimit,
        SYS_seccomp,
        SYS_landlock_create_ruleset,
        SYS_landlock_add_rule,
        SYS_landlock_restrict_self,
        SYS_chdir,
        SYS_fchdir,
        SYS_statfs,
        SYS_wait4,
        SYS_futex_waitv,
        SYS_kill,
        SYS_socket
    ];
    #[cfg(target_arch = "x86_64")]
    const START_OLDER: &[Call] = calls![SYS_arch_prctl];
    #[cfg(not(target_arch = "x86_64"))]
    const START_OLDER: &[Call] = &[];

    /// The profile for containers: the list of this file, and the calls of a start. `UPDATE=1` writes it.
    #[test]
    fn the_profile_for_containers_is_this_list() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/docker/seccomp.json");
        if cfg!(not(target_arch = "x86_64")) {
            // The file has the older calls of x86-64, which other architectures do not know.
            return;
        }
        let group = |why: &str, calls: &[Call]| {
            let names: Vec<&str> = calls.iter().map(|(name, _)| name.trim_start_matches("SYS_")).collect();
            serde_json::json!({ "names": names, "action": "SCMP_ACT_ALLOW", "comment": why })
        };
        let mut groups: Vec<_> = ALLOWED.iter().map(|(why, calls)| group(why, calls)).collect();
        groups.push(group("older calls for the same purposes", OLDER));
        groups.push(group("the start of the container and of the program", START));
        groups.push(group("the start, on x86-64", START_OLDER));
        let profile = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": libc::EPERM,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": groups,
        });
        let text = format!("{}\n", serde_json::to_string_pretty(&profile).expect("JSON"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, text).expect("written");
        } else {
            let kept = std::fs::read_to_string(path).unwrap_or_default();
            assert!(kept == text, "packaging/docker/seccomp.json differs: run this test with UPDATE=1");
        }
    }

    /// One thread is restricted here; a server restricts all of them.
    #[test]
    fn a_restricted_thread_serves_and_starts_nothing() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                seccompiler::apply_filter(&program().expect("it compiles")).expect("the kernel takes it");
                let is_denied = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
                assert!(std::process::Command::new("true").spawn().is_err_and(is_denied));
                let socket = |domain: i32| socket2::Socket::new(domain.into(), socket2::Type::DGRAM, None);
                assert!(socket(libc::AF_VSOCK).is_err_and(is_denied), "another family");
                assert!(socket(libc::AF_NETLINK).is_ok());
                let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("allowed");
                let address = listener.local_addr().expect("allowed");
                std::net::TcpStream::connect(address).expect("allowed");
                std::thread::spawn(|| std::fs::read("/proc/self/status").expect("allowed"))
                    .join()
                    .expect("allowed");
            });
        });
    }
}
