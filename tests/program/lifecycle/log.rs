//! The log: a stderr that cannot be written or is not read, floods of records, and the content of records.

use std::time::Instant;

use super::*;

#[test]
fn a_log_on_a_full_disk_stops_nothing() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("a device"));
    each_server(&["--log", "debug"], full, |mut server, refused| {
        for _ in 0..40 {
            assert_eq!(server.status("/nothing-here"), refused);
        }
        assert_eq!(server.end(), Some(0));
    });
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    for driver in DRIVERS {
        let (_reader, stderr) = blocked_stderr();
        let mut server = Program::serve(driver, &["--shards", "1"], stderr);
        let mut open = server.open();
        for _ in 0..40 {
            assert_eq!(server.status("/nothing-here"), 404);
            server.signal(Signal::HUP);
            echo(&mut open);
        }
        drop(open);
        assert_eq!(server.end(), Some(0));
        let (_reader, stderr) = blocked_stderr();
        let mut proxy = Program::proxy(driver, &["--shards", "1"], stderr);
        for _ in 0..40 {
            assert_eq!(proxy.status("/nothing-here"), 502);
            proxy.signal(Signal::HUP);
        }
        assert_eq!(proxy.end(), Some(0));
    }
}

#[test]
fn a_log_whose_reader_is_gone_stops_nothing() {
    let gone = || {
        let (reader, writer) = UnixStream::pair().expect("a pair");
        drop(reader);
        Stdio::from(OwnedFd::from(writer))
    };
    each_server(&[], gone, |mut server, refused| {
        for _ in 0..40 {
            assert_eq!(server.status("/nothing-here"), refused);
        }
        assert_eq!(server.end(), Some(0));
    });
}

#[test]
fn a_closed_stderr_stops_nothing() {
    for driver in DRIVERS {
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--driver", driver];
        let mut server = Program::start(&mut by_shell("exec \"$0\" \"$@\" 2>&-", &words));
        for _ in 0..40 {
            assert_eq!(server.status("/nothing-here"), 404);
        }
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn a_log_as_long_as_files_may_be_stops_nothing() {
    for driver in DRIVERS {
        let log = Scratch::new(driver);
        let script = "ulimit -f 2 && log=$1 && shift && exec \"$0\" \"$@\" 2>\"$log\"";
        let words = [log.path(), "serve", "--listen", "127.0.0.1:0", "--admin", "off", "--driver", driver];
        let mut server = Program::start(&mut by_shell(script, &words));
        // Ten records of each of these, some 250 bytes each.
        for path in ["/nothing-here", "/echo", "/broadcast/x", "//"] {
            for _ in 0..10 {
                assert!([404, 426, 400].contains(&server.status(path)));
            }
        }
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn records_of_one_cause_are_limited_and_the_others_counted() {
    const REQUESTS: u64 = 500;
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--driver", driver];
        let mut server = Program::start(command(&words).stderr(stderr));
        let admin = log.admin();
        let started = Instant::now();
        for _ in 0..REQUESTS {
            assert_eq!(server.status("/nothing-here"), 404);
        }
        // Each second that began has its own ten.
        let at_most = 10 * (started.elapsed().as_secs() + 2);
        let stats: serde_json::Value = serde_json::from_str(&get(admin, "/stats").1).expect("JSON");
        assert_eq!(server.end(), Some(0));
        let text = log.text();
        let refusals = text.lines().filter(|line| line.contains("/nothing-here")).count() as u64;
        let left_out: u64 = text
            .lines()
            .filter(|line| line.contains("suppressed further records like this one: request refused"))
            .filter_map(|line| line.split("left_out=").nth(1)?.split(' ').next()?.parse::<u64>().ok())
            .sum();
        assert!((10..=at_most).contains(&refusals), "{refusals} of at most {at_most}:\n{text}");
        assert_eq!(refusals + left_out, REQUESTS, "{text}");
        assert_eq!(stats["log"]["rate_limited"], left_out, "{text}");
    }
}

#[test]
fn what_a_peer_chose_is_cut_in_the_log() {
    for driver in DRIVERS {
        let (log, stderr) = Log::new();
        let mut server = Program::serve(driver, &[], stderr);
        assert_eq!(server.status(&format!("/{}", "x".repeat(10_000))), 404);
        assert_eq!(server.end(), Some(0));
        let text = log.text();
        let line = text.lines().find(|line| line.contains("/xxx")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains('…') && line.len() < 1_000, "{line}");
    }
}

#[test]
fn what_is_logged_about_a_connection_names_its_peer() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let mut server = Program::serve(driver, &["--shards", "2", "--queue-bytes", "4KiB"], stderr);
        let peer = |stream: &TcpStream| format!("peer={}", stream.local_addr().expect("connected"));
        for request in ["GET /nothing-here HTTP/1.1\r\nHost: localhost\r\n\r\n", "nonsense\r\n\r\n"] {
            let mut client = TcpStream::connect(server.address).expect("connected");
            client.write_all(request.as_bytes()).expect("sent");
            let line = log.line_with("request refused");
            assert!(line.contains(&peer(&client)), "{line}");
        }
        let mut offender = server.open();
        // No client may send a frame without a mask.
        offender.write_all(&[0x81, 0]).expect("sent");
        let line = log.line_with("connection closed for a protocol error");
        assert!(line.contains(&peer(&offender)), "{line}");
        let slow = open(server.address, "/broadcast/topic");
        let mut publisher = open(server.address, "/broadcast/topic");
        let mut frame = vec![0x82, 0xfe, 0x40, 0, 0, 0, 0, 0];
        frame.resize(frame.len() + 0x4000, 0);
        for _ in 0..400 {
            publisher.write_all(&frame).expect("sent");
        }
        let line = log.line_with("slow consumer disconnected");
        assert!(line.contains(&peer(&slow)) && line.contains("4008"), "{line}");
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn a_client_without_tls_on_a_port_with_tls_is_logged_with_its_address() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let made = parameters.self_signed(&key).expect("a certificate");
    let (cert, key_file) = (Scratch::new("plain.pem"), Scratch::new("plain.key"));
    std::fs::write(&cert.0, made.pem()).expect("written");
    std::fs::write(&key_file.0, key.serialize_pem()).expect("written");
    let flags = ["--log", "info", "--tls-cert", cert.path(), "--tls-key", key_file.path()];
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let mut server = Program::serve(driver, &flags, stderr);
        let mut client = TcpStream::connect(server.address).expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // A request would be answered by a hint.
        client.write_all(b"neither TLS nor a request\r\n\r\n").expect("sent");
        let line = log.line_with("TLS failed");
        let address = client.local_addr().expect("its address");
        assert!(line.contains(" INFO ") && line.contains(&format!("peer={address}")), "{line}");
        assert!(line.contains("fault=\"tls-handshake\"") && line.contains("detail="), "{line}");
        // An alert, or nothing, and never an answer in plain text.
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn openings_and_closings_are_logged_at_debug() {
    for driver in DRIVERS {
        let (mut log, stderr) = Log::new();
        let mut server = Program::serve(driver, &["--log", "debug"], stderr);
        let client = server.open();
        let peer = format!("peer={}", client.local_addr().expect("connected"));
        let line = log.line_with("connection opened");
        assert!(line.contains(&peer) && line.contains("/echo"), "{line}");
        drop(client);
        let line = log.line_with("connection closed");
        assert!(line.contains(&peer), "{line}");
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn dropped_records_are_counted_and_told_once_the_log_is_read() {
    for driver in DRIVERS {
        let (reader, writer) = UnixStream::pair().expect("a pair");
        reader.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let words = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "debug"];
        let mut command = command(&words);
        let stderr = OwnedFd::from(writer);
        let mut server = Program::start(command.args(["--driver", driver]).stderr(stderr));
        let mut lines = BufReader::new(reader).lines();
        let mut line_with = |words: &str| {
            let mut lines = lines.by_ref().map(|line| line.expect("a line in time"));
            lines.find(|line| line.contains(words)).expect("the log goes on")
        };
        let admin = admin_of(&line_with("admin address http://"));
        // Now nobody reads. Each of these is a record for its opening and one for its closing; 1,024 records are queued at most
        // (LOG_QUEUE_RECORDS).
        for _ in 0..1_024 {
            drop(server.open());
        }
        let stats: serde_json::Value = serde_json::from_str(&get(admin, "/stats").1).expect("JSON");
        assert!(stats["log"]["dropped"].as_u64().is_some_and(|dropped| dropped > 0), "{}", stats["log"]);
        let told = line_with("log records were dropped");
        assert!(told.contains("WARN") && told.contains("records="), "{told}");
        // Whoever reads goes on reading.
        thread::spawn(move || lines.count());
        assert_eq!(server.end(), Some(0));
    }
}
