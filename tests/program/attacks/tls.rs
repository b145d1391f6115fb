//! TLS: input before a request can be read, and invalid records afterwards.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, NamedGroup, version};

use super::certificate::{certificate, localhost, trusting};
use super::peer::{BINARY, PING, Peer, TEXT, close, frame, status, upgrade};
use super::server::{PATIENCE, Server, on_both_drivers, through_tls};

const MIB: u64 = 1024 * 1024;
/// Types of records (RFC 8446, 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3], &(payload.len() as u16).to_be_bytes()[..], payload].concat()
}

/// A ClientHello.
fn client_hello() -> Vec<u8> {
    let mut session = rustls::ClientConnection::new(trusting(), localhost()).expect("a session");
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("memory");
    hello
}

/// A client that supports one version only.
fn trusting_in(version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_file(&certificate().cert).expect("a certificate");
    roots.add(root).expect("a root");
    let config = ClientConfig::builder_with_provider(trusting().crypto_provider().clone())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A client that offers this group of the key exchange only.
fn trusting_with(group: &'static dyn SupportedKxGroup) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_file(&certificate().cert).expect("a certificate");
    roots.add(root).expect("a root");
    let provider = CryptoProvider { kx_groups: vec![group], ..(**trusting().crypto_provider()).clone() };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Waits until connections have ended with this cause.
fn wait_for_cause(server: &Server, cause: &str, times: u64) {
    server.wait_until(cause, |stats| stats["causes"][cause] == times);
}

#[test]
fn a_session_that_fails_is_logged_with_its_address_and_the_fault() {
    through_tls(&["--log", "info"], |server| {
        let mut peer = Peer::connect_plainly(server);
        // A record of a type that there is not.
        peer.send(&record(99, b"nothing"));
        peer.finish();
        let line = server.wait_for_log("TLS failed");
        assert!(line.contains("peer=127.0.0.1:") && line.contains("fault="), "{line}");
    });
}

#[test]
fn a_request_without_tls_is_told_that_it_lacks_it() {
    through_tls(&[], |server| {
        for request in [upgrade("/echo", &[]), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()] {
            let mut peer = Peer::connect_plainly(server);
            peer.send(&request);
            let answer = peer.answer();
            assert_eq!(answer.status, 400);
            assert!(String::from_utf8_lossy(&answer.body).contains("wss://"), "{answer:?}");
            peer.finish();
            peer.expect_end();
        }
        server.wait_for_nobody();
        assert_eq!(server.stats()["refusals"]["400"], 2);
    });
}

#[test]
fn tls_to_a_server_without_it_is_refused() {
    on_both_drivers(&[], |server| {
        assert_eq!(status(server, &client_hello()), 400);
    });
}

#[test]
fn what_is_no_handshake_ends_with_an_alert() {
    through_tls(&[], |server| {
        let mut mangled = client_hello();
        // The length of its list of ciphers.
        mangled[5 + 4 + 2 + 32 + 33] ^= 0xff;
        let wrong: [&[u8]; 6] = [
            &record(DATA, b"early"),
            &record(HANDSHAKE, &[2, 0, 0, 0]),
            &record(99, b"unknown"),
            &[HANDSHAKE, 3, 1, 0xff, 0xff],
            b"\0\0\0\0\0\0\0\0",
            &mangled,
        ];
        for (at, bytes) in wrong.iter().enumerate() {
            let mut peer = Peer::connect_plainly(server);
            peer.send(bytes);
            assert_eq!(peer.drain(), 7, "an alert, and nothing else: {}", bytes[..5].escape_ascii());
            wait_for_cause(server, "tls-handshake", at as u64 + 1);
        }
        server.wait_for_nobody();
    });
}

#[test]
fn an_old_version_and_another_protocol_are_refused() {
    through_tls(&[], |server| {
        let mut http2 = ClientConfig::clone(&trusting());
        http2.alpn_protocols = vec![b"h2".to_vec()];
        let error = Peer::connect_plainly(server).speaking_tls(Arc::new(http2)).shake().expect_err("no h2");
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
        // TLS 1.1: its version where 1.2 says 3.3, and nothing about later ones.
        let hello = [&[1, 0, 0, 43, 3, 2][..], &[7; 32], &[0, 0, 4, 0xc0, 0x2f, 0xc0, 0x13, 1, 0]].concat();
        let mut peer = Peer::connect_plainly(server);
        peer.send(&record(HANDSHAKE, &hello));
        assert_eq!(peer.drain(), 7);
        wait_for_cause(server, "tls-handshake", 2);
    });
}

#[test]
fn both_versions_are_spoken_and_sessions_resumed() {
    through_tls(&[], |server| {
        for (at, version) in [&version::TLS12, &version::TLS13].into_iter().enumerate() {
            let config = trusting_in(version);
            for resumed in [0, 1] {
                let mut peer = Peer::connect_plainly(server).speaking_tls(config.clone());
                peer.upgrade("/echo");
                peer.send(&frame(TEXT, b"through"));
                assert_eq!(peer.message(), (TEXT, b"through".to_vec()));
                peer.send(&close(1000, b""));
                assert_eq!(peer.close_frame(), Some(1000));
                peer.expect_end();
                assert_eq!(server.figure("tls_handshakes"), 2 * at as u64 + resumed + 1);
                assert_eq!(server.figure("tls_resumed"), at as u64 + resumed);
            }
        }
    });
}

#[test]
fn a_long_hello_may_come_byte_by_byte_and_older_key_exchanges_work() {
    assert!(client_hello().len() > 1_216, "the share of the hybrid alone has 1,216 bytes");
    through_tls(&[], |server| {
        for (config, group) in [
            (trusting(), NamedGroup::X25519MLKEM768),
            (trusting_with(kx_group::X25519MLKEM768), NamedGroup::X25519MLKEM768),
            (trusting_with(kx_group::X25519), NamedGroup::X25519),
            (trusting_with(kx_group::SECP256R1), NamedGroup::secp256r1),
            (trusting_with(kx_group::SECP384R1), NamedGroup::secp384r1),
        ] {
            let mut peer = Peer::connect_plainly(server).speaking_tls(config);
            peer.dribble().expect("a handshake");
            assert_eq!(peer.key_exchange(), Some(group));
            peer.upgrade("/echo");
            peer.send(&frame(TEXT, b"through"));
            assert_eq!(peer.message(), (TEXT, b"through".to_vec()), "{group:?}");
        }
        server.wait_for_nobody();
    });
}

#[test]
fn a_handshake_that_is_dribbled_or_not_begun_ends_at_the_deadline() {
    through_tls(&["--handshake-timeout", "600ms"], |server| {
        let hello = client_hello();
        for (at, begun) in [0, 1, 5, hello.len() - 1].into_iter().enumerate() {
            let started = Instant::now();
            let mut peer = Peer::connect_plainly(server);
            peer.send(&hello[..begun]);
            assert_eq!(peer.drain(), 0);
            let took = started.elapsed();
            assert!(took >= Duration::from_millis(590) && took < PATIENCE, "ended after {took:?}");
            wait_for_cause(server, "handshake-timeout", at as u64 + 1);
        }
    });
    // So does a request that is not made behind the handshake.
    through_tls(&["--handshake-timeout", "3s"], |server| {
        let mut peer = Peer::connect(server);
        peer.shake().expect("a handshake");
        peer.expect_end();
        wait_for_cause(server, "handshake-timeout", 1);
    });
}

#[test]
fn a_stream_that_is_cut_off_is_gone_and_no_clean_close() {
    through_tls(&[], |server| {
        let peer = Peer::open(server, "/echo");
        peer.stream.shutdown(std::net::Shutdown::Write).expect("connected");
        wait_for_cause(server, "gone", 1);
        let mut peer = Peer::open(server, "/echo");
        // A goodbye of TLS is none of the WebSocket's either.
        peer.finish();
        peer.expect_end();
        wait_for_cause(server, "gone", 2);
        assert_eq!(server.stats()["closes"]["1006"], 2);
    });
}

#[test]
fn a_forged_record_ends_the_connection() {
    through_tls(&[], |server| {
        for (at, forged) in
            [record(DATA, &[0; 40]), record(ALERT, &[1, 0]), record(DATA, b"")].iter().enumerate()
        {
            let mut peer = Peer::open(server, "/echo");
            peer.send(&frame(TEXT, b"before"));
            assert_eq!(peer.message(), (TEXT, b"before".to_vec()));
            io::Write::write_all(&mut peer.stream, forged).expect("sent");
            assert_eq!(peer.drain(), 0, "nothing but an alert");
            wait_for_cause(server, "tls-record", at as u64 + 1);
        }
        assert_eq!(server.stats()["closes"]["1006"], 3);
    });
}

#[test]
fn connections_past_the_maximum_are_closed_before_a_handshake_is_made() {
    through_tls(&["--max-connections", "4"], |server| {
        let held: Vec<Peer> = (0..4).map(|_| Peer::open(server, "/echo")).collect();
        for refused in 1..=10 {
            let mut peer = Peer::connect(server);
            assert!(peer.shake().is_err(), "the node is full");
            server.wait_until("refused", |stats| stats["refusals"]["503"] == refused);
        }
        assert_eq!(server.figure("tls_handshakes"), 4);
        drop(held);
        server.wait_for_nobody();
    });
}

#[test]
fn unfinished_handshakes_cost_little_and_keep_nobody_out() {
    through_tls(&[], |server| {
        // As much as is waited for: a first message of 16 MiB is announced, and 24 KiB of it come.
        let mut begun = record(HANDSHAKE, &[&[1, 0xff, 0xff, 0xff][..], &[0; 8_000]].concat());
        begun.extend(record(HANDSHAKE, &[0; 8_000]));
        let waiting: Vec<Peer> = (0..200)
            .map(|_| {
                let mut peer = Peer::connect_plainly(server);
                peer.send(&begun);
                peer
            })
            .collect();
        let sent = (200 * begun.len()) as u64;
        let stats = server.wait_until("read", |stats| stats["bytes_in"].as_u64() >= Some(sent));
        let pooled = stats["pool_bytes"].as_u64().expect("a number");
        assert!(pooled < 200 * 40 * 1024, "{pooled} bytes for what was begun");
        server.serves();
        drop(waiting);
        server.wait_for_nobody();
    });
}

/// Time without progress after which a peer is probably not read any more.
const NOTHING_TAKEN: Duration = Duration::from_millis(150);

#[test]
fn a_peer_that_stops_reading_costs_at_most_its_queue() {
    through_tls(&[], |server| {
        let mut peer = Peer::connect_narrow(server, 4 * 1024);
        peer.upgrade("/echo");
        peer.stream.set_nonblocking(true).expect("a socket");
        let message = frame(BINARY, &[9; 16 * 1024]);
        // Until nothing more is taken, and then some.
        let mut sent = 0_u64;
        let mut stuck_since = Instant::now();
        while stuck_since.elapsed() < 2 * NOTHING_TAKEN {
            match peer.try_send(&message) {
                true => {
                    sent += message.len() as u64;
                    stuck_since = Instant::now();
                }
                // A server that is not run for a while takes nothing either.
                false if stuck_since.elapsed() > NOTHING_TAKEN && server.figure("pauses") == 0 => {
                    stuck_since = Instant::now();
                }
                false => std::thread::yield_now(),
            }
            assert!(sent < 64 * MIB, "everything is taken from a peer that does not read");
        }
        assert!(server.figure("pauses") > 0);
        let peak = server.figure("pool_bytes_peak");
        // Its outbox of 832 KiB, received bytes of 512 KiB and the session (docs/reference/configuration.md#memory), and
        // the free buffers that the shard keeps: 1 MiB of the class in which records are encrypted.
        assert!(peak < 3 * MIB, "{peak} bytes for a peer that does not read");
        // And nothing is lost when it does.
        peer.stream.set_nonblocking(false).expect("a socket");
        let mut left = (sent / message.len() as u64).min(100);
        while left > 0 {
            let (opcode, payload) = peer.message();
            // On a slow machine the server may ask whether it is still there.
            if opcode != PING {
                assert!(opcode == BINARY && payload == [9; 16 * 1024], "{} bytes by {opcode}", payload.len());
                left -= 1;
            }
        }
    });
}
