//! Headers of the PROXY protocol, `Forwarded` and `X-Forwarded-For`, of trusted proxies and of others.

use std::io::Write as _;

use super::*;

/// A header of version 2 for a client of IPv4.
fn binary(client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11".to_vec();
    header.extend(client);
    header.extend([127, 0, 0, 1, 0x30, 0x39, 0, 80]);
    // A field of unknown meaning.
    header.extend([0xe0, 0, 2, 1, 2]);
    header
}

fn proxied(server: &Server, header: &[u8]) -> Peer {
    let mut peer = Peer::connect_from(server, PROXY);
    peer.stream.write_all(header).expect("sent");
    peer
}

/// The status that a client behind the proxy gets.
fn status_behind(server: &Server, header: &[u8]) -> (Peer, u16) {
    let mut peer = proxied(server, header);
    peer.send(&upgrade("/echo", &[]));
    let status = peer.answer().status;
    (peer, status)
}

const WITH_HEADER: [&str; 3] =
    ["--trusted-proxy=127.0.0.8/32", "--proxy-protocol", "--max-connections-per-address=1"];

#[test]
fn the_header_of_a_trusted_proxy_names_the_client_before_tls() {
    let [auto, epoll] = ["auto", "epoll"].map(|driver| ["--driver", driver]);
    let tls = [&auto[..], &tls_flags()].concat();
    let tls_epoll = [&epoll[..], &tls_flags()].concat();
    at_once(&[&auto, &epoll, &tls, &tls_epoll], &WITH_HEADER, |server| {
        let line = b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 80\r\n";
        let (mut first, status) = status_behind(server, &binary([192, 0, 2, 7]));
        assert_eq!(status, 101);
        // The same client, told by the other version, has its one connection; TLS is not begun for it.
        let mut refused = proxied(server, line);
        if server.secure {
            assert!(refused.shake().is_err(), "a handshake was made");
        } else {
            refused.send(&upgrade("/echo", &[]));
            assert_eq!(refused.answer().status, 429);
        }
        let entry = known(server, "192.0.2.7").expect("listed");
        assert_eq!(entry["connections"], 1, "{entry}");
        assert!(known(server, "127.0.0.8").is_none());
        // Another client has its own, whatever arrives in pieces.
        let header = binary([192, 0, 2, 8]);
        let mut other = proxied(server, &header[..5]);
        server.wait_until("the pieces apart", |_| true);
        other.stream.write_all(&header[5..]).expect("sent");
        other.upgrade("/echo");
        first.finish();
        // LOCAL: the proxy speaks for itself, as often as it likes.
        for _ in 0..3 {
            let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
            assert_eq!(status_behind(server, local).1, 101);
        }
    });
}

#[test]
fn a_trusted_proxy_without_a_valid_header_is_cut_off() {
    on_both_drivers(&WITH_HEADER, |server| {
        for (number, header) in [
            upgrade("/echo", &[]),
            b"PROXY TCP4 192.0.2.7 127.0.0.1 99999 80\r\n".to_vec(),
            b"PROXY TCP5 a b 1 2\r\n".to_vec(),
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c".to_vec(),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
            [b"PROXY UNKNOWN ".as_slice(), &[b'a'; 500]].concat(),
        ]
        .iter()
        .enumerate()
        {
            expect_silence(&mut proxied(server, header));
            server.wait_until("it is counted", |_| limited(server, "proxy_header") == number as u64 + 1);
        }
        // A proxy that ends within a header, too.
        let mut ended = proxied(server, b"PROXY TCP4");
        ended.finish();
        expect_silence(&mut ended);
        let line = server.wait_for_log("connection of a trusted proxy closed");
        assert!(line.contains("peer=127.0.0.8:") && line.contains("no PROXY header"), "{line}");
    });
}

#[test]
fn the_header_of_anybody_else_is_refused_and_never_believed() {
    on_both_drivers(&WITH_HEADER, |server| {
        for header in [&binary([192, 0, 2, 7])[..], b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n"] {
            let mut peer = Peer::connect_from(server, STRANGER);
            peer.send(&[header, &upgrade("/echo", &[])].concat());
            assert_eq!(peer.answer().status, 400);
            drop(peer);
            // The one connection that the address has.
            server.wait_for_nobody();
        }
        // Without a header, a client that is no proxy is served as itself.
        let (_held, answer) = answer_from(server, STRANGER, &[]);
        assert_eq!(answer.status, 101);
        assert_eq!(answer_from(server, STRANGER, &["X-Forwarded-For: 192.0.2.9"]).1.status, 429);
        assert!(known(server, "192.0.2.7").is_none() && known(server, "192.0.2.9").is_none());
    });
}

#[test]
fn forwarded_fields_of_a_trusted_proxy_name_the_client_and_forged_ones_do_not() {
    let flags = ["--trusted-proxy=127.0.0.8", "--max-connections-per-address=1"];
    on_both_drivers(&flags, |server| {
        let status = |fields: &[&str]| answer_from(server, PROXY, fields);
        let (_held, first) = status(&["X-Forwarded-For: 203.0.113.5, 192.0.2.7"]);
        assert_eq!(first.status, 101);
        // Whatever the client invents in front, it stays who it is.
        assert_eq!(status(&["X-Forwarded-For: 198.51.100.1, 192.0.2.7"]).1.status, 429);
        assert_eq!(status(&["Forwarded: for=198.51.100.1, for=\"192.0.2.7:99\""]).1.status, 429);
        assert_eq!(status(&["Forwarded: for=198.51.100.1", "X-Forwarded-For: 192.0.2.7"]).1.status, 400);
        assert_eq!(status(&["X-Forwarded-For: 192.0.2.8"]).1.status, 101);
        assert_eq!(known(server, "192.0.2.7").expect("listed")["refused"], 2);
        assert!(known(server, "203.0.113.5").is_none() && known(server, "198.51.100.1").is_none());
        // The proxy itself has no limit, and others are not believed.
        let _held = [status(&[]), status(&[])].map(|(peer, answer)| {
            assert_eq!(answer.status, 101);
            peer
        });
        let (_held, _) = answer_from(server, STRANGER, &["X-Forwarded-For: 192.0.2.50"]);
        assert_eq!(answer_from(server, STRANGER, &["X-Forwarded-For: 192.0.2.51"]).1.status, 429);
        assert!(known(server, "127.0.0.7").is_some());
    });
}

#[test]
fn the_access_log_has_the_client_behind_the_proxy() {
    let log = TestFile::new("");
    let flags = [&*log.flag("access-log"), "--trusted-proxy=127.0.0.8", "--proxy-protocol"];
    let server = Server::start(&flags);
    let (mut named, _) = status_behind(&server, &binary([192, 0, 2, 7]));
    let local = b"PROXY UNKNOWN\r\n";
    let mut forwarded = proxied(&server, local);
    forwarded.send(&upgrade("/echo", &["X-Forwarded-For: 192.0.2.9"]));
    assert_eq!(forwarded.answer().status, 101);
    named.finish();
    forwarded.finish();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(log.path()).expect("a file");
        if text.contains("192.0.2.7:12345") && text.contains("192.0.2.9:0") {
            break assert!(!text.contains("127.0.0.8"), "{text}");
        }
        assert!(Instant::now() < deadline, "{text}");
        thread::yield_now();
    }
}
