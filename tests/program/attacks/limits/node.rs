//! Limits of the node, and on sizes.

use super::*;

/// Limits that need the addresses of clients, so that these are known before anybody goes over another limit.
const KNOWN: [&str; 2] = ["--max-connections-per-address=100", "--ban-after=1"];

/// A request for an upgrade of so many bytes.
pub(super) fn upgrade_of(bytes: usize) -> Vec<u8> {
    let filler = |bytes: usize| format!("X: {}", "x".repeat(bytes));
    let least = upgrade("/echo", &[&filler(0)]).len();
    upgrade("/echo", &[&filler(bytes - least)])
}

/// Nothing in front of the parser is smaller: neither what is kept until the client is known, nor what TLS hands on.
#[test]
fn a_request_head_of_the_maximum_size_is_accepted_on_every_way() {
    const BYTES: usize = 64 * 1024;
    let [uring, epoll] = ["auto", "epoll"].map(|driver| ["--driver", driver]);
    let [known_uring, known_epoll] = [&uring, &epoll].map(|driver| [&driver[..], &KNOWN].concat());
    let secure = [&uring[..], &KNOWN, &tls_flags()].concat();
    let proxied = [&uring[..], &["--trusted-proxy=127.0.0.7", "--proxy-protocol"]].concat();
    let servers: [&[&str]; 6] = [&uring, &epoll, &known_uring, &known_epoll, &secure, &proxied];
    at_once(&servers, &["--max-header=64KiB"], |server| {
        let is_proxied = server.get("/limits")["limits"]["proxy_protocol"] == true;
        let header = if is_proxied { "PROXY TCP4 192.0.2.7 127.0.0.1 12345 80\r\n" } else { "" };
        for (bytes, status) in [(BYTES, 101), (BYTES + 1, 431)] {
            let mut peer = Peer::connect_from(server, STRANGER);
            peer.send(&[header.as_bytes(), &upgrade_of(bytes)].concat());
            assert_eq!(peer.answer().status, status, "{bytes}");
        }
    });
}
