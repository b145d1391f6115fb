//! What `echoring proxy` forwards of requests and responses, and what never reaches an upstream: the real binary
//! between raw sockets.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::program;
use program::command;

const PATIENCE: Duration = Duration::from_secs(30);

/// `echoring proxy`, killed when it goes out of scope at the latest.
struct Proxy {
    process: Child,
    address: SocketAddr,
}

impl Proxy {
    /// Starts in front of `server` with a path prefix, and without health checks.
    fn start(server: &TcpListener, flags: &[&str]) -> Proxy {
        let upstream = format!("http://{}/app", server.local_addr().expect("its address"));
        let mut process = command(&["proxy", "--listen", "127.0.0.1:0", "--shards", "1", "--log", "error"])
            .args(["--health-interval", "off", "--upstream", &upstream])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.split(' ').nth(1).and_then(|url| url.strip_prefix("ws://")?.parse().ok());
        Proxy { process, address: address.unwrap_or_else(|| panic!("no listening line but {line:?}")) }
    }

    /// The complete response to these bytes.
    fn exchange(&self, sent: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(sent).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an end in time");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn server() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a listener")
}

/// Answers one request with `response`; returns the request's head.
fn answer(server: TcpListener, response: &'static str) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        stream.write_all(response.as_bytes()).expect("sent");
        stream.shutdown(Shutdown::Write).expect("ended");
        // What lies unread when a socket is closed resets it, and the answer with it.
        let _ = stream.read_to_end(&mut Vec::new());
        String::from_utf8(head).expect("text")
    })
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn what_may_not_pass_is_400_before_a_server_is_connected_to() {
    let server = server();
    server.set_nonblocking(true).expect("a flag");
    let proxy = Proxy::start(&server, &[]);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for head in [
        "GET / HTTP/1.1\r\nHost: a b/../@evil\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n",
        "GET / HTTP/1.1\r\nHost: user:secret@a\r\n",
        "GET http://user:secret@a/ HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n",
        "GET /../admin HTTP/1.1\r\nHost: a\r\n",
        "GET /a/%2e%2E/admin HTTP/1.1\r\nHost: a\r\n",
        "GET /..%2fadmin HTTP/1.1\r\nHost: a\r\n",
        "GET /..;/admin HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n",
    ] {
        for fields in ["Connection: close\r\n", upgrade] {
            let answer = proxy.exchange(format!("{head}{fields}\r\n").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer:?}");
        }
    }
    let ends_with_lf = proxy.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\n");
    assert!(ends_with_lf.starts_with("HTTP/1.1 400 "), "{ends_with_lf:?}");
    // The proxy answers a connection after it has tried everything, so that there would be one by now.
    assert_eq!(server.accept().expect_err("nobody connected").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_path_is_put_behind_the_servers_own_and_only_the_proxy_tells_of_the_client() {
    let server = server();
    let proxy = Proxy::start(&server, &[]);
    let head = answer(server, OK);
    let told = "X-Forwarded-For: 10.0.0.1\r\nX_Forwarded_For: 10.0.0.2\r\nX-Real-IP: 10.0.0.3\r\nX_Real_IP: 10.0.0.4\r\n\
                Forwarded: for=10.0.0.5\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nTrue-Client-IP: 10.0.0.6\r\n";
    let request =
        format!("GET /a/b?c=/../d HTTP/1.1\r\nHost: app.example\r\n{told}Connection: close\r\n\r\n");
    assert!(proxy.exchange(request.as_bytes()).ends_with("\r\n\r\nok"));
    let head = head.join().expect("no panic");
    assert!(head.starts_with("GET /app/a/b?c=/../d HTTP/1.1\r\n"), "{head}");
    let lower = head.to_ascii_lowercase();
    assert!(!lower.contains("10.0.0.") && !lower.contains("evil") && !lower.contains("real"), "{head}");
    assert!(lower.contains("x-forwarded-for: 127.0.0.1\r\n"), "{head}");
    assert!(lower.contains("x-forwarded-host: app.example\r\n"), "{head}");
}

#[test]
fn a_line_that_ends_with_lf_alone_is_refused_behind_a_body_too() {
    for body in ["Content-Length: 3\r\n\r\na\nb", "Transfer-Encoding: chunked\r\n\r\n3\r\na\nb\r\n0\r\n\r\n"]
    {
        let server = server();
        let proxy = Proxy::start(&server, &[]);
        let head = answer(server, OK);
        let sent = format!("POST / HTTP/1.1\r\nHost: a\r\n{body}GET /two HTTP/1.1\nHost: a\r\n\r\n");
        let answered = proxy.exchange(sent.as_bytes());
        assert!(answered.starts_with("HTTP/1.1 200 OK\r\n"), "{answered}");
        assert!(answered.contains("okHTTP/1.1 400 "), "{answered}");
        assert!(head.join().expect("no panic").starts_with("POST /app/ HTTP/1.1\r\n"));
    }
}

#[test]
fn a_body_that_is_not_chunked_as_it_says_is_the_clients_fault() {
    for chunks in ["zz\r\n", "3\r\nabcdef\r\n", "3\r\nabc\r\nx\r\n", "11111111111111111\r\n"] {
        let server = server();
        let proxy = Proxy::start(&server, &[]);
        // It takes the head, and what comes of the body.
        let taking = thread::spawn(move || {
            let (mut stream, _) = server.accept().expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let sent = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let answer = proxy.exchange(sent.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{chunks:?}: {answer:?}");
        taking.join().expect("no panic");
    }
}

#[test]
fn a_servers_version_of_http_is_not_the_clients() {
    for response in ["HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\nok"] {
        let server = server();
        let proxy = Proxy::start(&server, &[]);
        let head = answer(server, response);
        let answer = proxy.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("ok"), "{answer}");
        head.join().expect("no panic");
    }
}

#[test]
fn a_client_that_has_sent_fin_gets_its_answer() {
    const TIMES: usize = 20;
    let server = server();
    let proxy = Proxy::start(&server, &[]);
    let upstream = thread::spawn(move || {
        for _ in 0..TIMES {
            answer(server.try_clone().expect("a listener"), OK).join().expect("no panic");
        }
    });
    for _ in 0..TIMES {
        let mut stream = TcpStream::connect(proxy.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").expect("sent");
        stream.shutdown(Shutdown::Write).expect("half closed");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an end in time");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer:?}");
    }
    upstream.join().expect("no panic");
}

#[test]
fn a_transfer_coding_that_the_proxy_does_not_undo_does_not_pass_without_its_name() {
    const CHUNKS: &str = "2\r\nok\r\n0\r\n\r\n";
    for codings in ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked"] {
        let server = server();
        let proxy = Proxy::start(&server, &[]);
        server.set_nonblocking(true).expect("a flag");
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {codings}\r\nConnection: close\r\n\r\n{CHUNKS}"
        );
        let refused = proxy.exchange(request.as_bytes());
        assert!(refused.starts_with("HTTP/1.1 501 "), "{codings:?}: {refused:?}");
        assert_eq!(server.accept().expect_err("nobody connected").kind(), ErrorKind::WouldBlock);
    }
    for response in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    ] {
        let server = server();
        let proxy = Proxy::start(&server, &[]);
        let head = answer(server, response);
        let refused = proxy.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(refused.starts_with("HTTP/1.1 502 "), "{response:?}: {refused:?}");
        head.join().expect("no panic");
    }
}

#[test]
fn a_recording_is_its_owners_alone_also_where_there_was_a_file() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("private-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let (new, old) = (folder.join("new"), folder.join("old"));
    fs::write(&old, "before").expect("written");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).expect("set");
    for file in [&new, &old] {
        for driver in ["auto", "epoll"] {
            let server = server();
            let _proxy =
                Proxy::start(&server, &["--record", file.to_str().expect("text"), "--driver", driver]);
            let mode = fs::metadata(file).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
            assert!(
                fs::read_to_string(file).expect("text").starts_with("{\"schema\":\"echoring.recording/1\"")
            );
        }
    }
    let _ = fs::remove_dir_all(folder);
}
