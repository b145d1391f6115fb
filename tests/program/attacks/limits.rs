//! Clients over a limit, and clients that claim to be somebody else: each limit is enforced, counted and told, and no
//! header of a stranger is believed.

mod addresses;
mod node;
mod proxies;
mod rates;
pub mod reloads;
mod topics;

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use super::auth::TestFile;
use super::peer::{Answer, Peer, upgrade};
use super::server::{PATIENCE, Server, at_once, on_both_drivers, tls_flags};

/// Another address of this machine than 127.0.0.1, from which the servers are checked at the end.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
/// The address that is trusted.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 8));

/// The answer to an upgrade from an address.
fn answer_from(server: &Server, source: IpAddr, fields: &[&str]) -> (Peer, Answer) {
    let mut peer = Peer::connect_from(server, source);
    peer.send(&upgrade("/echo", fields));
    let answer = peer.answer();
    (peer, answer)
}

/// Checks that a connection is closed without an answer.
fn expect_silence(peer: &mut Peer) {
    let mut bytes = [0; 64];
    match peer.stream.read(&mut bytes) {
        Ok(count) => assert_eq!(count, 0, "{:?}", bytes.escape_ascii().to_string()),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        }
    }
}

/// How often clients were over a limit.
fn limited(server: &Server, limit: &str) -> u64 {
    server.stats()["limited"][limit].as_u64().expect("a count")
}

/// What `/limits` says of an address.
fn known(server: &Server, address: &str) -> Option<Value> {
    let report = server.get("/limits");
    report["most_refused"].as_array()?.iter().find(|entry| entry["address"] == address).cloned()
}
