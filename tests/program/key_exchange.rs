//! The key exchange of TLS 1.3 that each command offers and prefers: the real binary, and rustls on the other side.

use std::io::{BufReader, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use echoring_async::tls::{ServerTls, server_config};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::Acceptor;
use rustls::{ClientConnection, HandshakeKind, NamedGroup, ServerConfig};

use crate::support::{certificate, patient, program};
use certificate::{certificate, localhost, trusting};
use patient::Patient;
use program::{Serve, command, listening};

/// Longer than any deadline that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command, killed when it goes out of scope at the latest.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn proxy(upstream: &str, flags: &[&str]) -> (Running, SocketAddr) {
    let words =
        ["proxy", "--listen", "127.0.0.1:0", "--shards", "1", "--log", "error", "--upstream", upstream];
    let mut child = command(&words).args(flags).stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let running = Running(child);
    let (line, address) = listening(&mut stdout);
    (running, address.unwrap_or_else(|| panic!("no address in {line:?}")))
}

fn files() -> [&'static str; 2] {
    let files = certificate();
    [&files.cert, &files.key].map(|path| path.to_str().expect("a path in UTF-8"))
}

/// A configuration of a server that has only the hybrid.
fn strict() -> Arc<ServerConfig> {
    let [cert, key] = files();
    let own = server_config(&ServerTls::new(cert, key)).expect("a configuration");
    let provider = CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let mut config = builder.with_cert_resolver(Arc::clone(&own.cert_resolver));
    config.alpn_protocols.clone_from(&own.alpn_protocols);
    Arc::new(config)
}

/// Asserts that the client that comes next prefers the hybrid, and has its share in the first flight.
fn assert_prefers_the_hybrid(listener: &TcpListener, who: &str) {
    let (stream, _) = listener.accept().expect("a client");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = Patient(stream);
    let mut acceptor = Acceptor::default();
    let accepted = loop {
        let read = acceptor.read_tls(&mut stream).expect("a hello");
        assert!(read > 0, "{who} ends before its hello does");
        if let Some(accepted) = acceptor.accept().map_err(|(error, _)| error).expect("a hello") {
            break accepted;
        }
    };
    let hello = accepted.client_hello();
    let groups: Vec<NamedGroup> = hello.named_groups().expect("groups").to_vec();
    assert_eq!(groups.first(), Some(&NamedGroup::X25519MLKEM768), "{who}: {groups:?}");
    assert!(groups.contains(&NamedGroup::X25519), "{who}: {groups:?}");
    let mut session = accepted.into_connection(strict()).map_err(|(error, _)| error).expect("a session");
    while session.is_handshaking() {
        match session.complete_io(&mut stream) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("{who} is silent"),
            done => done.expect("a handshake"),
        };
    }
    let group = session.negotiated_key_exchange_group().map(SupportedKxGroup::name);
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768), "{who}");
    assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full), "{who} needs a HelloRetryRequest");
}

#[test]
fn every_client_prefers_the_hybrid() {
    let [authority, _] = files();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("wss://127.0.0.1:{}", listener.local_addr().expect("an address").port());
    let trust = ["--ca-file", authority];
    let commands: [&[&str]; 2] =
        [&["bench", &url, "-c", "1", "--threads", "1", "--warmup", "0s", "-d", "30s"], &["connect", &url]];
    for words in commands {
        let mut command = command(words);
        command.args(trust).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let _running = Running(command.spawn().expect("the binary runs"));
        assert_prefers_the_hybrid(&listener, words[0]);
    }
    let (_running, address) = proxy(&url, &trust);
    let mut client = TcpStream::connect(address).expect("connected");
    let request = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    std::io::Write::write_all(&mut client, request).expect("sent");
    assert_prefers_the_hybrid(&listener, "proxy");
}

#[test]
fn every_server_prefers_the_hybrid() {
    let [cert, key] = files();
    let flags = ["--tls-cert", cert, "--tls-key", key];
    let server = Serve::start(&[&["--shards", "1"][..], &flags].concat());
    let (_proxy, address) = proxy("ws://127.0.0.1:1", &flags);
    for (who, address) in [("serve", server.address), ("proxy", address)] {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut stream = Patient(stream);
        let mut session = ClientConnection::new(trusting(), localhost()).expect("a session");
        while session.is_handshaking() {
            session.complete_io(&mut stream).expect("a handshake");
        }
        let group = session.negotiated_key_exchange_group().map(SupportedKxGroup::name);
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768), "{who}");
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full), "{who}");
    }
}
