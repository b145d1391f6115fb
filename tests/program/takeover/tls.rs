//! Sessions of TLS 1.3 go on in each successor: their clients notice nothing. Those of TLS 1.2 are told to come again.
//!
//! `TLS_TAKEOVERS` sets the number of successors.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, ClientConnection, SupportedProtocolVersion};

use super::draining::secured;
use super::ends::wait_until;
use super::*;

const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];
/// More than the kernel takes of a connection whose client does not read.
const MUCH: usize = 6 << 20;

/// The configuration of a client of this version, which offers only this suite if there is one.
fn speaking(version: &'static SupportedProtocolVersion, suite: Option<CipherSuite>) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|supported| suite.is_none_or(|suite| supported.suite() == suite));
    let provider = Arc::<CryptoProvider>::new(provider);
    let mut roots = rustls::RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(&certificate::certificate().cert).expect("a certificate");
    roots.add(certificate).expect("a root");
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    Arc::new(builder.expect("a version").with_root_certificates(roots).with_no_client_auth())
}

/// A stream of TLS that can keep the end of what it sends.
pub(super) struct Secured {
    session: ClientConnection,
    stream: Patient,
    /// Bytes of what is sent next that are kept.
    keeps: usize,
    kept: Vec<u8>,
}

impl Secured {
    pub(super) fn connect(at: Addresses, config: &Arc<ClientConfig>) -> Secured {
        let session = ClientConnection::new(config.clone(), certificate::localhost()).expect("a client");
        Secured { session, stream: connected(at), keeps: 0, kept: Vec::new() }
    }

    fn send_sealed(&mut self) -> std::io::Result<()> {
        let mut sealed = std::mem::take(&mut self.kept);
        while self.session.wants_write() {
            self.session.write_tls(&mut sealed)?;
        }
        self.kept = sealed.split_off(sealed.len().saturating_sub(self.keeps));
        self.stream.write_all(&sealed)
    }

    /// Sends what was kept.
    fn catch_up(&mut self) {
        self.keeps = 0;
        self.send_sealed().expect("sent");
    }
}

impl Read for Secured {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.session.reader().read(bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            // An answer to a change of keys may have to go first.
            self.send_sealed()?;
            if self.session.read_tls(&mut self.stream)? > 0 {
                self.session.process_new_packets().expect("records in their order, under their keys");
            }
        }
    }
}

impl Write for Secured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.session.writer().write(bytes)?;
        self.send_sealed()?;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.send_sealed()
    }
}

type SecuredSocket = WebSocket<Secured>;

fn open_secured(at: Addresses, config: &Arc<ClientConfig>, path: &str) -> SecuredSocket {
    opened(at, path, Secured::connect(at, config))
}

/// The flags of a server whose sessions move, with these.
pub(super) fn flags<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    secured(&[flags, &["--takeover-tls", "on"]].concat())
}

fn go_on_in_each_successor(driver: &str) {
    let at = Addresses::free();
    let takeovers = std::env::var("TLS_TAKEOVERS").map_or(4, |value| value.parse().expect("a number"));
    // A predecessor that ends has no connection left.
    let flags = flags(&["--takeover", "--driver", driver, "--drain", "24h", "--drain-rate", "1"]);
    let mut server = Server::start(at, &flags).expect("the first");
    let configs = SUITES.map(|suite| speaking(&TLS13, Some(suite)));
    let mut echo: Vec<_> = configs.iter().map(|config| open_secured(at, config, "/echo")).collect();
    let mut raw: Vec<_> = configs.iter().map(|config| open_secured(at, config, "/broadcast/t")).collect();
    let mut idle: Vec<_> = configs.iter().map(|config| open_secured(at, config, "/echo")).collect();
    for round in 0..takeovers {
        let text = format!("message {round}");
        for (number, socket) in echo.iter_mut().enumerate() {
            // The record that is under way is cut in its header, in its middle, and in its tag.
            socket.get_mut().keeps = [1, 30, 70][(round + number) % 3];
            socket.send(Message::text(text.repeat(10))).expect("sent");
        }
        let mut busy = open_secured(at, &configs[round % 3], "/echo");
        busy.send(Message::binary(vec![round as u8; 60_000])).expect("sent");
        let successor = Server::start(at, &flags).expect("a successor");
        assert_eq!(next_binary(&mut busy), vec![round as u8; 60_000]);
        assert_eq!(server.ended(), Some(0));
        server = successor;
        assert!(publish(at, &text).starts_with("HTTP/1.1 200 "));
        for socket in &mut echo {
            socket.get_mut().catch_up();
            assert_eq!(next(socket), Ok(text.repeat(10)));
        }
        for (number, socket) in raw.iter_mut().enumerate() {
            assert_eq!(next(socket), Ok(text.clone()));
            if (round + number) % 2 == 0 {
                // It is told with what the client sends next.
                socket.get_mut().session.refresh_traffic_keys().expect("an open session");
                socket.send(Message::Ping("".into())).expect("sent");
            }
        }
    }
    for socket in &mut idle {
        socket.send("still there".into()).expect("sent");
        assert_eq!(next(socket).as_deref(), Ok("still there"));
    }
    for socket in echo.iter_mut().chain(&mut raw).chain(&mut idle) {
        socket.close(None).expect("sent");
        assert_eq!(next(socket), Err(1005), "the answer to its Close");
    }
}

fn next_binary(socket: &mut SecuredSocket) -> Vec<u8> {
    match socket.read().expect("a message") {
        Message::Binary(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sessions_of_tls_13_go_on_in_each_successor_on_io_uring() {
    if let Err(error) = echoring_async::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        return;
    }
    go_on_in_each_successor("uring");
}

#[test]
fn sessions_of_tls_13_go_on_in_each_successor_on_epoll() {
    go_on_in_each_successor("epoll");
}

/// Records that were sealed before the takeover are sent after it, in their order.
#[test]
fn what_was_sealed_and_not_sent_leaves_from_the_successor() {
    let at = Addresses::free();
    let flags = flags(&[
        "--takeover",
        "--drain",
        "24h",
        "--drain-rate",
        "1",
        "--max-message",
        "8MiB",
        "--queue-bytes",
        "8MiB",
    ]);
    let mut server = Server::start(at, &flags).expect("the first");
    for suite in SUITES {
        let mut socket = open_secured(at, &speaking(&TLS13, Some(suite)), "/echo");
        let sent: Vec<u8> = (0..MUCH).map(|at| (at / 251) as u8).collect();
        socket.send(Message::binary(sent.clone())).expect("the server reads");
        let successor = Server::start(at, &flags).expect("a successor");
        assert_eq!(server.ended(), Some(0));
        server = successor;
        assert!(next_binary(&mut socket) == sent, "{suite:?}");
        socket.send("more".into()).expect("sent");
        assert_eq!(next(&mut socket).as_deref(), Ok("more"));
    }
}

#[test]
fn sessions_of_tls_12_are_told_to_come_again_and_an_operator_sees_how_many() {
    let at = Addresses::free();
    let flags = flags(&["--takeover", "--drain", "3s"]);
    let mut server = Server::start(at, &flags).expect("the first");
    let mut new = open_secured(at, &speaking(&TLS13, None), "/echo");
    let mut old: Vec<_> = (0..3).map(|_| open_secured(at, &speaking(&TLS12, None), "/echo")).collect();
    let successor = Server::start(at, &flags).expect("a successor");
    wait_until("three stay", || {
        http(at.admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .contains("echoring_predecessor_connections{reason=\"tls\"} 3")
    });
    for socket in &mut old {
        assert_eq!(next(socket), Err(1012));
        while socket.read().is_ok() {}
    }
    assert_eq!(server.ended(), Some(0));
    new.send("on".into()).expect("sent");
    assert_eq!(next(&mut new).as_deref(), Ok("on"));
    drop(successor);
}
