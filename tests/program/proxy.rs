//! `echoring proxy` with TLS on either side, as a client sees it: the real binary, real certificates. Everything
//! without TLS is tested with other programs in `tests/interop/test_proxy.py`.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::attacks::peer::{BINARY, CONTINUATION, Peer, fragment, frame, upgrade};
use crate::support::patient;
use patient::Patient;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::WebSocket;

/// Longer than any deadline that a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running command of the binary, killed when it goes out of scope at the latest.
struct Running {
    child: Child,
    scheme: String,
    address: SocketAddr,
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        let mut child = Command::new(env!("CARGO_BIN_EXE_echoring"))
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--shards", "1", "--log", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let url = line.split(' ').nth(1).unwrap_or_else(|| panic!("no listening line but {line:?}"));
        let (scheme, address) = url.split_once("://").expect("a URL");
        Running { scheme: scheme.to_owned(), address: address.parse().expect("an address"), child }
    }

    fn serve() -> Running {
        Running::start(&["serve", "--admin", "off"])
    }

    fn proxy(upstream: &str, flags: &[&str]) -> Running {
        Running::start(&[&["proxy", "--upstream", upstream], flags].concat())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate for `localhost` and its key, in files.
pub(super) struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    pub(super) fn new(test: &str) -> Certificate {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        fs::write(folder.join("cert.pem"), made.cert.pem()).expect("written");
        fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        Certificate { folder }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("text").to_owned()
    }

    /// The configuration of a client that trusts it.
    pub(super) fn trusted(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_file(self.path("cert.pem")).expect("a certificate");
        roots.add(own).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A proxy that terminates TLS in front of `server`.
fn with_tls(server: &Running, certificate: &Certificate) -> Running {
    let (cert, key) = (certificate.path("cert.pem"), certificate.path("key.pem"));
    let upstream = format!("ws://{}", server.address);
    let proxy = Running::proxy(&upstream, &["--tls-cert", &cert, "--tls-key", &key]);
    assert_eq!(proxy.scheme, "wss");
    proxy
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// A WebSocket over TLS, if the certificate is trusted.
pub(super) fn open_with_tls(
    address: SocketAddr,
    config: &ClientConfig,
) -> Option<WebSocket<StreamOwned<ClientConnection, Patient>>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::new(config.clone()), name).expect("a session");
    let stream = StreamOwned::new(session, Patient(connect(address)));
    tungstenite::client("wss://localhost/echo", stream).ok().map(|(socket, _)| socket)
}

/// The response to a GET of `path`.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn tls_ends_at_the_proxy() {
    let certificate = Certificate::new("ends");
    let server = Running::serve();
    let proxy = with_tls(&server, &certificate);
    let mut socket = open_with_tls(proxy.address, &certificate.trusted()).expect("an open connection");
    for message in ["hello", &"x".repeat(60_000)] {
        socket.send(message.into()).expect("sent");
        assert_eq!(socket.read().expect("an echo").into_text().expect("text").as_str(), message);
    }
    socket.close(None).expect("sent");
    while socket.read().is_ok() {}
}

/// A client that ends its own stream without a Close frame gets the answers to everything that it has sent.
#[test]
fn a_client_that_half_closes_gets_all_answers() {
    let certificate = Certificate::new("half");
    let server = Running::serve();
    let plain = Running::proxy(&format!("ws://{}", server.address), &[]);
    let secure = with_tls(&server, &certificate);
    let twice = Running::proxy(
        &format!("wss://localhost:{}", secure.address.port()),
        &["--ca-file", &certificate.path("cert.pem")],
    );
    for (proxy, is_secure) in [(&server, false), (&plain, false), (&secure, true), (&twice, false)] {
        let mut peer = Peer::over(connect(proxy.address));
        if is_secure {
            peer = peer.speaking_tls(Arc::new(certificate.trusted()));
        }
        peer.send(&upgrade("/echo", &["Host: localhost"]));
        assert_eq!(peer.answer().status, 101);
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for number in 0..300_u32 {
            let payload = number.to_be_bytes().repeat(100);
            if number % 5 == 0 {
                sent.extend(fragment(BINARY, &payload[..100]));
                sent.extend(fragment(CONTINUATION, &payload[100..101]));
                sent.extend(frame(CONTINUATION, &payload[101..]));
            } else {
                sent.extend(frame(BINARY, &payload));
            }
            expected.push(payload);
        }
        peer.send(&sent);
        peer.finish();
        for payload in expected {
            assert_eq!(peer.message(), (BINARY, payload), "through {}", proxy.scheme);
        }
        peer.expect_end();
    }
}

#[test]
fn upstreams_are_reached_by_tls_and_believed_as_told() {
    let certificate = Certificate::new("upstream");
    let server = Running::serve();
    let inner = with_tls(&server, &certificate);
    let upstream = format!("wss://localhost:{}", inner.address.port());
    let authority = certificate.path("cert.pem");
    for trusting in [&["--ca-file", authority.as_str()][..], &["--insecure"]] {
        let outer = Running::proxy(&upstream, trusting);
        assert!(get(outer.address, "/healthz").starts_with("HTTP/1.1 200 "), "{trusting:?}");
        let stream = connect(outer.address);
        let url = format!("ws://{}/echo", outer.address);
        let (mut socket, _) = tungstenite::client(url, Patient(stream)).expect("an open connection");
        socket.send("through two".into()).expect("sent");
        assert_eq!(socket.read().expect("an echo").into_text().expect("text").as_str(), "through two");
    }
    // Nobody vouches for it.
    let strict = Running::proxy(&upstream, &[]);
    assert!(get(strict.address, "/healthz").starts_with("HTTP/1.1 502 "));
    // The certificate is another name's.
    let upstream = format!("wss://127.0.0.1:{}", inner.address.port());
    let misled = Running::proxy(&upstream, &["--ca-file", &authority]);
    assert!(get(misled.address, "/healthz").starts_with("HTTP/1.1 502 "));
}

#[test]
fn files_that_are_no_certificates_are_one_line_and_exit_code_3() {
    for flags in [
        &["--upstream", "ws://a", "--tls-cert", "/nowhere/c.pem", "--tls-key", "/nowhere/k.pem"][..],
        &["--upstream", "wss://a", "--ca-file", "/nowhere/ca.pem"],
        &["--upstream", "ws://a", "--record", "/nowhere/recording"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_echoring"))
            .args(["proxy", "--listen", "127.0.0.1:0", "--log", "off"])
            .args(flags)
            .output()
            .expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(3), 1), "{stderr}");
        assert!(stderr.contains("/nowhere/") && output.stdout.is_empty(), "{stderr}");
    }
}
