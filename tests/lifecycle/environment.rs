//! Want of places, of descriptors, of a certificate that still holds.

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
        log.line_with("the admin address could not accept a connection");
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
