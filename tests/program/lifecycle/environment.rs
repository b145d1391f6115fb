//! Lack of slots, descriptors, or a valid certificate.

use std::net::TcpListener;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use super::*;

#[test]
fn silent_connections_to_the_admin_address_keep_no_health_check_out() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--driver", driver];
        let mut server = Program::start(command(&words).stderr(stderr));
        let admin = log.admin();
        let silent: Vec<TcpStream> =
            (0..192).map(|_| TcpStream::connect(admin).expect("connected")).collect();
        let asked = Instant::now();
        assert_eq!(get(admin, "/healthz"), (200, "ok\n".to_owned()));
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        drop(silent);
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn running_out_of_descriptors_is_survived() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--driver", driver];
        let mut server = Program::start(command(&words).stderr(stderr));
        let admin = log.admin();
        let mut before = server.open();
        let pid = i32::try_from(server.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        let limit = getrlimit_of(pid);
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(0), ..limit }).expect("lowered");
        let address = server.address;
        let clients: Vec<_> =
            (0..20).map(|_| thread::spawn(move || echo(&mut open(address, "/echo")))).collect();
        let health = thread::spawn(move || get(admin, "/healthz").0);
        for _ in 0..100 {
            echo(&mut before);
        }
        log.line_with("cannot accept a connection");
        prlimit(Some(pid), Resource::Nofile, limit).expect("raised");
        for client in clients {
            client.join().expect("an echo");
        }
        assert_eq!(health.join().expect("no panic"), 200);
        echo(&mut before);
        drop(before);
        assert_eq!(server.end(), Some(0));
        let lines = log.text().lines().filter(|line| line.contains("could not")).count();
        assert!(lines < 200, "{lines} lines about the same");
    }
}

fn getrlimit_of(pid: Pid) -> Rlimit {
    let unchanged = getrlimit(Resource::Nofile);
    // What is set is given back: set what this process has, which the child has inherited and at most raised.
    let raised = Rlimit { current: unchanged.maximum, maximum: unchanged.maximum };
    prlimit(Some(pid), Resource::Nofile, raised).expect("its own limit")
}

#[test]
fn an_expired_certificate_is_warned_about() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    (parameters.not_before, parameters.not_after) =
        (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let made = parameters.self_signed(&key).expect("a certificate");
    let (cert, key_file) = (Scratch::new("expired.pem"), Scratch::new("expired.key"));
    std::fs::write(&cert.0, made.pem()).expect("written");
    std::fs::write(&key_file.0, key.serialize_pem()).expect("written");
    let tls = ["--tls-cert", cert.path(), "--tls-key", key_file.path()];
    let words = [&["serve", "--listen", "127.0.0.1:0", "--admin", "off"][..], &tls].concat();
    let check = command(&[&words[..], &["--check"]].concat()).output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(0), "{stderr}");
    assert!(stderr.starts_with("warning: certificate 1 of ") && stderr.contains(" expired "), "{stderr}");
    let proxy = [&["proxy", "--listen", "127.0.0.1:0", "--upstream", NOWHERE][..], &tls].concat();
    for words in [&words[..], &proxy] {
        let (mut log, stderr) = Log::new();
        let mut server = Program::start(command(words).stderr(stderr));
        let line = log.line_with(" expired ");
        assert!(line.contains("WARN") && line.contains("renew it"), "{line}");
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn a_shard_that_cannot_be_pinned_runs_where_the_scheduler_puts_it() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words =
            ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--shards", "1", "--driver", driver];
        let unpinned = vec![(libc::SYS_sched_setaffinity, Vec::new())];
        let mut server = Program::start(refusing(command(&words).stderr(stderr), unpinned));
        let line = log.line_with("cannot pin this thread");
        assert!(line.contains("WARN") && line.contains("cpu="), "{line}");
        echo(&mut server.open());
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn features_that_the_kernel_refuses_are_told_by_the_admin_address() {
    // IORING_REGISTER_RING_FDS.
    let registers_ring = argument(1, SeccompCmpOp::Eq, 20);
    let refused = vec![SeccompRule::new(vec![registers_ring]).expect("valid")];
    let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "2"];
    for (driver, has_feature) in [("uring", true), ("uring", false), ("epoll", false)] {
        let (mut log, stderr) = Log::new();
        let mut command = command(&words);
        command.args(["--driver", driver]).stderr(stderr);
        if !has_feature {
            refusing(&mut command, vec![(libc::SYS_io_uring_register, refused.clone())]);
        }
        let mut server = Program::start(&mut command);
        let admin = log.admin();
        let is_degraded = driver == "uring" && !has_feature;
        let metrics = get(admin, "/metrics").1;
        let series = "echoring_degraded_features{feature=\"registered-ring\"} 1\n";
        assert_eq!(metrics.contains(series), is_degraded, "{metrics}");
        if driver == "epoll" {
            assert!(
                !metrics.contains("echoring_degraded_features{"),
                "epoll uses no such features: {metrics}"
            );
        }
        let report: serde_json::Value = serde_json::from_str(&get(admin, "/stats").1).expect("JSON");
        let degraded = report["driver"]["degraded"].as_array().expect("a list");
        assert_eq!(degraded.iter().any(|name| name == "registered-ring"), is_degraded, "{report}");
        echo(&mut server.open());
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn a_proxy_that_runs_out_of_descriptors_survives() {
    let (mut log, stderr) = Log::new();
    let upstream = Program::serve("epoll", &[], Stdio::null());
    let url = format!("ws://{}", upstream.address);
    let words = ["proxy", "--listen", "127.0.0.1:0", "--upstream", &url, "--health-interval", "off"];
    let mut proxy = Program::start(command(&words).stderr(stderr));
    let mut before = proxy.open();
    let pid = i32::try_from(proxy.child.id()).ok().and_then(Pid::from_raw).expect("a process");
    let limit = getrlimit_of(pid);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(0), ..limit }).expect("lowered");
    let address = proxy.address;
    let clients: Vec<_> = (0..20).map(|_| thread::spawn(move || echo(&mut open(address, "/echo")))).collect();
    for _ in 0..100 {
        echo(&mut before);
    }
    log.line_with("cannot accept a connection");
    echo(&mut before);
    prlimit(Some(pid), Resource::Nofile, limit).expect("raised");
    for client in clients {
        client.join().expect("an echo");
    }
    echo(&mut before);
    drop(before);
    assert_eq!(proxy.end(), Some(0));
}

/// The result of a start with this number of descriptors.
fn start_within(descriptors: u32, words: &[&str]) -> Result<Program, (Option<i32>, String)> {
    let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
    let mut command = by_shell(&script, words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut stderr = child.stderr.take().expect("piped");
    match program::listening(&mut stdout) {
        (_, Some(address)) => {
            // Whoever reads goes on reading.
            thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
            Ok(Program { child, stdout, address })
        }
        _ => {
            let mut said = String::new();
            stderr.read_to_string(&mut said).expect("text");
            Err((child.wait().expect("ended").code(), said))
        }
    }
}

#[test]
fn a_start_that_lacks_descriptors_fails_with_a_reason_and_exit_code_3() {
    let admin = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let proxy = ["proxy", "--listen", "127.0.0.1:0", "--upstream", NOWHERE, "--shards", "30"];
    let [uring, epoll] =
        DRIVERS.map(|driver| [&["serve", "--shards", "30", "--driver", driver][..], &admin].concat());
    for words in [&uring[..], &epoll, &proxy] {
        // Most of these fail before anything is opened, and the last ones when nearly all is there.
        let enough = (1..400).step_by(20).find(|descriptors| start_within(*descriptors, words).is_ok());
        let enough = enough.expect("400 are enough");
        for descriptors in [8, 30, 64, 65].into_iter().chain(enough - 20..enough) {
            match start_within(descriptors, words) {
                Ok(mut server) => assert_eq!(server.end(), Some(0), "{words:?} with {descriptors}"),
                Err((code, said)) => {
                    assert_eq!(code, Some(3), "{words:?} with {descriptors}: {said}");
                    let last = said.lines().last().unwrap_or_default();
                    let is_told = last.starts_with("error: ") && last.contains("limit");
                    assert!(is_told && !said.contains("panicked"), "{words:?} with {descriptors}: {said}");
                }
            }
        }
    }
}

/// Each shard's ring has its own descriptors, so that only a server on epoll needs one of the process for each connection.
#[test]
fn connections_on_rings_are_more_than_the_process_may_have_descriptors() {
    const OPEN: usize = 1_000;
    let words =
        ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--shards", "4", "--max-connections", "1000"];
    let mut server = start_within(400, &[&words[..], &["--driver", "uring"]].concat()).expect("a start");
    let limit = getrlimit(Resource::Nofile);
    prlimit(None, Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("raised");
    // All that are allowed, however the kernel distributes them.
    let mut clients: Vec<_> = (0..OPEN).map(|_| open(server.address, "/echo")).collect();
    clients.iter_mut().for_each(echo);
    assert_eq!(server.status("/echo"), 503);
    drop(clients);
    assert_eq!(server.end(), Some(0));
    let (code, said) =
        start_within(400, &[&words[..], &["--driver", "epoll"]].concat()).err().expect("no start");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("at most 336"), "{said}");
}

/// Whether the program sleeps, which it does only between two attempts to start.
fn sleeps(child: &Child) -> bool {
    let path = format!("/proc/{}/syscall", child.id());
    let call = std::fs::read_to_string(path).unwrap_or_default();
    let number = call.split(' ').next().and_then(|number| number.parse().ok());
    [Some(libc::SYS_clock_nanosleep), Some(libc::SYS_nanosleep)].contains(&number)
}

/// Starts a program on a port that another process releases once the program has tried to listen on it.
fn start_on_busy(words: &[&str], flag: &str) -> Result<Program, String> {
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let busy = stranger.local_addr().expect("bound").to_string();
    let mut command = command(words);
    command.args([flag, &busy]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stderr = child.stderr.take().expect("piped");
    while !sleeps(&child) {
        if child.try_wait().expect("it is ours").is_some() {
            let mut said = String::new();
            stderr.read_to_string(&mut said).expect("text");
            return Err(said);
        }
    }
    drop(stranger);
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    match program::listening(&mut stdout) {
        (_, Some(address)) => {
            thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
            Ok(Program { child, stdout, address })
        }
        _ => {
            let mut said = String::new();
            stderr.read_to_string(&mut said).expect("text");
            child.wait().expect("ended");
            Err(said)
        }
    }
}

#[test]
fn a_port_that_becomes_free_while_a_start_tries_is_taken() {
    let serve = ["serve", "--shards", "2", "--driver"];
    let [uring, epoll] = DRIVERS.map(|driver| [&serve[..], &[driver]].concat());
    let admin_off = ["--admin", "off"];
    let any_port = ["--listen", "127.0.0.1:0"];
    let proxy = vec!["proxy", "--upstream", NOWHERE];
    for (words, flag) in [
        ([&uring[..], &admin_off].concat(), "--listen"),
        ([&epoll[..], &admin_off].concat(), "--listen"),
        ([&epoll[..], &any_port].concat(), "--admin"),
        (proxy, "--listen"),
    ] {
        let mut server = start_on_busy(&words, flag).unwrap_or_else(|said| panic!("{words:?}: {said}"));
        assert_eq!(server.end(), Some(0));
    }
}
