//! Bans of addresses outlive a server that another one replaces.

use std::net::{IpAddr, Ipv4Addr};

use super::peer::{BINARY, Peer, frame};
use super::replaced::Node;

/// Addresses of this machine.
const BANNED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
const LATER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

const FLAGS: [&str; 5] = [
    "--max-connections-per-address=2",
    "--ban-after=1",
    "--ban-time=1h",
    "--byte-rate=64KiB",
    "--rate-action=close",
];

fn open(node: &Node, from: IpAddr) -> Peer {
    let mut peer = Peer::connect_from(&node.server, from);
    peer.upgrade("/echo");
    peer
}

/// Whether a client of this address is refused before its TLS handshake.
fn is_refused(node: &Node, from: IpAddr) -> bool {
    Peer::connect_from(&node.server, from).shake().is_err()
}

/// Waits until so many addresses are banned. Returns the seconds that are left for one of them.
fn banned(node: &Node, count: u64, address: IpAddr) -> u64 {
    node.server.wait_until("banned", |_| node.server.get("/limits")["addresses"]["banned"] == count);
    let report = node.server.get("/limits");
    let mut entries = report["most_refused"].as_array().expect("a list").iter();
    let entry = entries.find(|entry| entry["address"] == address.to_string().as_str());
    entry.unwrap_or_else(|| panic!("{report}"))["banned_s"].as_u64().expect("a number")
}

fn bans_move(driver: &str) {
    let mut node = Node::start(&[&["--driver", driver][..], &FLAGS].concat());
    let _held = [open(&node, BANNED), open(&node, BANNED)];
    assert!(is_refused(&node, BANNED), "a third one");
    assert!((3_500..=3_600).contains(&banned(&node, 1, BANNED)));
    let mut later = open(&node, LATER);
    node.be_taken_over();
    assert!(is_refused(&node, BANNED));
    assert!((3_400..=3_600).contains(&banned(&node, 1, BANNED)));
    // A client that has stayed exceeds a limit.
    for _ in 0..16 {
        let _ = later.offer(&frame(BINARY, &[0; 16 * 1024]));
    }
    assert!((3_400..=3_600).contains(&banned(&node, 2, LATER)));
    assert!(is_refused(&node, LATER));
}

#[test]
fn bans_go_to_a_server_that_takes_over() {
    for driver in ["auto", "epoll"] {
        bans_move(driver);
    }
}
