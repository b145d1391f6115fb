//! The server that the control thread serves. Another one of the same process may replace it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use echoring_server::{Handle, Server};

/// The server in effect. Each request takes it once, so that its parts agree.
#[derive(Clone, Debug)]
pub(crate) struct Served(Arc<Mutex<Current>>);

#[derive(Debug)]
struct Current {
    handle: Handle,
    shards: usize,
    started: Instant,
}

impl Current {
    fn of(server: &Server) -> Current {
        Current { handle: server.handle(), shards: server.shards(), started: Instant::now() }
    }
}

impl Served {
    pub(crate) fn new(server: &Server) -> Served {
        Served(Arc::new(Mutex::new(Current::of(server))))
    }

    pub(crate) fn set(&self, server: &Server) {
        *self.current() = Current::of(server);
    }

    pub(crate) fn handle(&self) -> Handle {
        self.current().handle.clone()
    }

    pub(crate) fn shards(&self) -> usize {
        self.current().shards
    }

    /// Since when it is served. Its counters began at zero then.
    pub(crate) fn started(&self) -> Instant {
        self.current().started
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
