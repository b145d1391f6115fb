//! Connections move from full shards to emptier ones, and their clients notice nothing.

use std::net::SocketAddr;
use std::time::Instant;

use echoring_server::{DriverChoice, Handle, ListenAddress, Server, ServerConfig};

use super::{PATIENCE, Peer, address};

const SHARDS: usize = 3;
/// Connections that stay, on the first shard.
const STAYING: usize = 60;

pub fn counts(server: &Handle) -> Vec<u64> {
    server.snapshots().expect("no shard").iter().map(|snapshot| snapshot.connections).collect()
}

/// Waits until the shards have so many connections together.
fn settle(server: &Handle, connections: u64) -> Vec<u64> {
    let given_up = Instant::now() + PATIENCE;
    loop {
        let counts = counts(server);
        if counts.iter().sum::<u64>() == connections {
            return counts;
        }
        assert!(Instant::now() < given_up, "{counts:?} instead of {connections}");
    }
}

/// Opens connections until the first shard has enough of them. Those of other shards are closed.
pub fn fill_first_shard(server: &Handle, address: SocketAddr, path: &str, count: usize) -> Vec<Peer> {
    let (mut first, mut others) = (Vec::new(), Vec::new());
    let mut before = counts(server);
    while first.len() < count {
        let peer = Peer::open(address, path);
        let after = settle(server, before.iter().sum::<u64>() + 1);
        if after[0] > before[0] { &mut first } else { &mut others }.push(peer);
        before = after;
    }
    let left = before.iter().sum::<u64>() - others.len() as u64;
    drop(others);
    settle(server, left);
    first
}

#[test]
fn idle_connections_move_to_emptier_shards_and_notice_nothing() {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let listen = vec![ListenAddress::Tcp(([127, 0, 0, 1], 0).into())];
        let shards = Some(SHARDS);
        let config = ServerConfig { listen, shards, driver, rebalance: false, ..ServerConfig::default() };
        let server = Server::start(config).expect("the server starts");
        let (handle, address) = (server.handle(), address(&server));
        let mut echoing = fill_first_shard(&handle, address, "/echo", STAYING / 2);
        let mut subscribers = fill_first_shard(&handle, address, "/broadcast/news", STAYING / 2);
        assert_eq!(counts(&handle), [STAYING as u64, 0, 0]);
        // One has sent a part of a message.
        let (start, rest) = ([0x81, 0x85, 0, 0, 0, 0, b'h'], b"ello");
        std::io::Write::write_all(&mut echoing[0].0, &start).expect("sent");

        handle.publish("news", "before").expect("published");
        let balanced = handle.rebalance().expect("no shard");
        handle.publish("news", "after").expect("published");
        assert_eq!(balanced.connections.iter().sum::<u64>(), STAYING as u64);
        let (most, least) = (balanced.connections.iter().max(), balanced.connections.iter().min());
        let difference = most.zip(least).map_or(0, |(most, least)| most - least);
        assert!(difference <= STAYING as u64 / SHARDS as u64 / 10 + 1, "{:?}", balanced.connections);
        assert!(balanced.moved >= STAYING as u64 / 2, "{balanced:?}");
        let moved: u64 =
            handle.snapshots().expect("no shard").iter().map(|snapshot| snapshot.counters.moved_in).sum();
        assert_eq!(moved, balanced.moved);

        for peer in &mut subscribers {
            peer.hears("before");
            peer.hears("after");
        }
        std::io::Write::write_all(&mut echoing[0].0, rest).expect("sent");
        echoing[0].hears("hello");
        for (number, peer) in echoing.iter_mut().enumerate() {
            peer.text(&number.to_string());
            peer.hears(&number.to_string());
        }
        // What one of them publishes arrives at all others, once.
        subscribers[0].text("from one");
        subscribers[1..].iter_mut().for_each(|peer| peer.hears("from one"));
        handle.publish("news", "last").expect("published");
        subscribers.iter_mut().for_each(|peer| peer.hears("last"));
        assert_eq!(handle.rebalance().expect("no shard").moved, 0, "it is balanced");
        drop((echoing, subscribers));
        server.shutdown(PATIENCE).expect("it ends in order");
    }
}
