//! The thread that looks after the shards of a running server: it tells while a shard stalls, and balances them.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use crate::limits::{REBALANCE_INTERVAL, STALL_CHECK_INTERVAL};
use crate::node::handle::Handle;

/// Ends the thread when it is dropped.
#[derive(Debug)]
pub(crate) struct Upkeep(#[allow(dead_code, reason = "its drop is the message")] mpsc::Sender<()>);

impl Upkeep {
    /// Starts the thread. A server runs without it, too.
    pub(crate) fn start(server: Handle) -> Option<Upkeep> {
        let (keep, kept) = mpsc::channel();
        let started = thread::Builder::new().name("upkeep".to_owned()).spawn(move || run(&server, &kept));
        match started {
            Ok(_) => Some(Upkeep(keep)),
            Err(error) => {
                tracing::warn!(%error, "no thread for upkeep: stalled shards are not told, shards are not balanced");
                None
            }
        }
    }
}

fn run(server: &Handle, kept: &mpsc::Receiver<()>) {
    let mut balanced_at = Instant::now();
    while let Err(RecvTimeoutError::Timeout) = kept.recv_timeout(STALL_CHECK_INTERVAL) {
        // The log has those that stall, and this is no thread of a shard.
        let _ = server.stalled_shards();
        if balanced_at.elapsed() >= REBALANCE_INTERVAL && server.remotes.len() > 1 && !server.is_leaving() {
            let _ = server.rebalance_if_due();
            balanced_at = Instant::now();
        }
    }
}
