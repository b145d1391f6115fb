//! The server that the control thread serves.

use std::time::Instant;

use echoring_server::{Handle, Server};

#[derive(Clone, Debug)]
pub(crate) struct Served {
    handle: Handle,
    shards: usize,
    started: Instant,
}

impl Served {
    pub(crate) fn new(server: &Server) -> Served {
        Served { handle: server.handle(), shards: server.shards(), started: Instant::now() }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(crate) fn shards(&self) -> usize {
        self.shards
    }

    /// Since when it is served. Its counters began at zero then.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }
}
