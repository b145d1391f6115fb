//! The signals that this process ignores.

/// Signals whose default is to end the process and that mean nothing to a server. SIGXFSZ is a log that became as long as
/// the shell's `ulimit -f` allows.
///
/// Others are not ignored because they have a meaning or end nothing, cannot be ignored (SIGKILL and SIGSTOP), or
/// report a fault of this process (SIGSEGV, SIGBUS, SIGFPE and SIGILL).
const MEANINGLESS: [libc::c_int; 13] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    // Of these three, only those that somebody sent are ignored. `abort` restores the default before it insists, and what
    // the kernel raises for a breakpoint or a seccomp filter (SECCOMP_RET_TRAP) ends a process that ignores it. A handler
    // would return instead, to a system call that was never made.
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// Ignores all signals that would end a server and mean nothing to it, including the real-time signals.
pub fn ignore_meaningless_signals() {
    // The C library keeps those below SIGRTMIN for itself.
    for signal in MEANINGLESS.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        // SAFETY: ignoring a signal runs none of our code. It fails only for numbers that are no signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
