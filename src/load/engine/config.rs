//! The shard configuration of a worker thread.

use super::shared::Shared;
use crate::plan::{Mode, Protocol, Workload};
use echoring_proto::connection::{self, Seed};
use echoring_proto::handshake::Dial;
use echoring_proto::limits::{MESSAGE_BYTES_DEFAULT, Nanos, QUEUE_BYTES_DEFAULT};
use echoring_runtime::shard::{Security, ShardConfig};

/// Maximum queue size of a connection in bytes, independent of the depth.
const QUEUE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Maximum size of a pushed message in bytes.
const PUSHED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The configuration of the thread `thread`.
pub(super) fn config(shared: &Shared, thread: usize) -> ShardConfig {
    ShardConfig {
        connection: connection(&shared.load),
        connections: shared.connections_of(thread).count() as u32,
        // That of servers is in their routes.
        security: Security::default(),
        // Masking keys must be unpredictable (RFC 6455, 10.3), so they do not depend on the run's seed.
        seed: Seed::System,
    }
}

/// The configuration of every connection.
fn connection(load: &Workload) -> connection::ConnectionConfig {
    let message_bytes = load.message_bytes.1 as u64;
    let recorded_bytes = load.replay.as_ref().map_or(0, |replay| replay.script.answer_bytes_max as u64);
    let depth = match load.pace.depth() {
        Some(_) if load.mode.opens_when_due() => 1,
        depth => u64::from(depth.unwrap_or(load.burst)),
    };
    // The messages of a closed loop, or a burst of an open one, fit into the queue, so they never wait for room.
    let flight = depth * (message_bytes + 14);
    let queue_bytes = flight.clamp(u64::from(QUEUE_BYTES_DEFAULT), QUEUE_BYTES_MAX) as u32;
    let dial = Dial {
        // Written for each connection.
        host: String::new(),
        path: String::new(),
        origin: None,
        subprotocols: subprotocols(load),
        headers: Vec::new(),
    };
    connection::ConnectionConfig {
        // The server's delays are what is measured. Pings are those of the load.
        send_timeout: 0,
        ping_interval: 0,
        // A server that returns more than it received must be recorded, not refused.
        max_message: match load.mode {
            _ if load.protocol.is_some() => PUSHED_BYTES_MAX,
            Mode::Push => PUSHED_BYTES_MAX,
            Mode::Replay => PUSHED_BYTES_MAX.max(2 * recorded_bytes),
            _ => MESSAGE_BYTES_DEFAULT.max(2 * message_bytes),
        },
        queue_bytes,
        // A server that answers in order reads no more until its replies are read.
        reads_when_full: true,
        compression: load.compress.compression,
        dial: Some(dial),
        handshake_timeout: load.connecting.timeout.as_nanos() as Nanos,
        ..connection::ConnectionConfig::default()
    }
}

/// Those of the protocol, unless others are named.
fn subprotocols(load: &Workload) -> Vec<String> {
    let declared = load.protocol.as_ref().map_or(&[][..], Protocol::subprotocols);
    let named = &load.connecting.subprotocols;
    if named.is_empty() { declared.to_vec() } else { named.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers late, or a machine on which generator and server wait for each other, would lose its connections.
    #[test]
    fn a_connection_sends_no_pings_of_its_own_and_ends_for_no_lack_of_pongs() {
        for ping_every in [None, Some(std::time::Duration::from_secs(1))] {
            let load = Workload { ping_every, ..Workload::default() };
            assert_eq!(connection(&load).ping_interval, 0);
        }
    }
}
