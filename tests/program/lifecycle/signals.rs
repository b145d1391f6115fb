//! Signals: three end a server, and all others have no effect.

use std::os::unix::process::ExitStatusExt as _;

use super::*;

/// Signals that end a process by default, without those that cannot be ignored, those that report a fault, and those
/// that end a server.
fn meaningless() -> Vec<i32> {
    let others = [libc::SIGKILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
    let to_end = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    let stopping = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let known = [&others[..], &to_end, &harmless, &stopping].concat();
    // Of the real-time ones, the C library has the lowest for itself.
    (1..32).filter(|signal| !known.contains(signal)).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()).collect()
}

#[test]
fn only_a_signal_to_end_ends_a_server() {
    let signals = meaningless();
    assert_eq!(signals.len(), 15 + 31, "{signals:?}");
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let mut server = Program::serve(driver, &[], stderr);
        let mut open = server.open();
        for &signal in &signals {
            for _ in 0..5 {
                server.signal_number(signal);
                echo(&mut open);
            }
        }
        drop(open);
        // A thread of its own reloads.
        log.line_with("the configuration was reloaded");
        assert_eq!(server.end(), Some(0));
        let (mut log, stderr) = Log::new();
        let mut proxy = Program::proxy(driver, &[], stderr);
        for &signal in &signals {
            for _ in 0..5 {
                proxy.signal_number(signal);
                assert_eq!(proxy.status("/"), 502, "after signal {signal}");
            }
        }
        log.line_with("the configuration was reloaded");
        assert_eq!(proxy.end(), Some(0));
    }
}

#[test]
fn a_signal_that_the_kernel_raises_for_a_fault_ends_a_server() {
    // A seccomp filter may raise SIGSYS for what it forbids: a server that went on would take the call for made.
    let long = SeccompRule::new(vec![argument(2, SeccompCmpOp::Gt, 16)]).expect("valid");
    let (rules, trap) = (vec![(libc::SYS_recvfrom, vec![long])], SeccompAction::Trap);
    let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--driver", "epoll"];
    let mut server = Program::start(filtered(&mut command(&words), rules, trap));
    server.signal_number(libc::SIGSYS);
    let mut client = TcpStream::connect(server.address).expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\n").expect("sent");
    assert_eq!(server.exit_status().signal(), Some(libc::SIGSYS));
}

#[test]
fn every_signal_to_end_drains() {
    for driver in DRIVERS {
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            for mut server in
                [Program::serve(driver, &[], Stdio::null()), Program::proxy(driver, &[], Stdio::null())]
            {
                server.signal(signal);
                assert_eq!(server.exit_code(), Some(0), "{signal:?}");
            }
        }
    }
}

#[test]
fn a_second_signal_ends_a_server_with_its_own_exit_code() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let (mut log, stderr) = Log::new();
        let mut server = Program::serve("auto", &["--drain", "60s", "--log", "info"], stderr);
        // It is not closed before its turn, so that the server drains.
        let _open = server.open();
        server.signal(Signal::TERM);
        log.line_with("draining; a second signal ends the process at once");
        server.signal(signal);
        assert_eq!(server.exit_code(), Some(code), "{signal:?}");
    }
}
