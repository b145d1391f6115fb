//! A node's part in its cluster, for those who control the server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{ClusterCommand, ClusterStatus};

/// A node's part in its cluster, for those who control the server.
#[derive(Clone, Debug)]
pub struct ClusterNode {
    commands: mpsc::UnboundedSender<ClusterCommand>,
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    status: Mutex<ClusterStatus>,
    /// Signalled when any of this changes.
    pub(super) changed: Condvar,
    pub(super) is_active: AtomicBool,
    pub(super) has_handed_over: AtomicBool,
    pub(super) has_ended: AtomicBool,
}

impl Shared {
    pub(super) fn status(&self) -> MutexGuard<'_, ClusterStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a flag that somebody may wait for.
    pub(super) fn set(&self, flag: &AtomicBool) {
        let _guard = self.status();
        flag.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Waits for a flag. Returns whether it was set in time.
    fn wait(&self, timeout: Duration, is_set: impl Fn() -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.status(), timeout, |_| !is_set());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl ClusterNode {
    pub(crate) fn new(commands: mpsc::UnboundedSender<ClusterCommand>) -> ClusterNode {
        ClusterNode { commands, shared: Arc::default() }
    }

    /// What the node knows of its cluster.
    pub fn status(&self) -> ClusterStatus {
        self.shared.status().clone()
    }

    /// Whether the node owns topics, and is connected to the others.
    pub fn is_ready(&self) -> bool {
        self.shared.is_active.load(Ordering::Relaxed)
    }

    /// Hands all topics over to other nodes, and waits until that is done, for `timeout` at most. Clients are served as before.
    /// Returns whether everything was handed over.
    pub fn hand_over(&self, timeout: Duration) -> bool {
        let _ = self.commands.send(ClusterCommand::Leave);
        self.shared.wait(timeout, || self.shared.has_handed_over.load(Ordering::Acquire))
    }

    /// Leaves the cluster, once the shards have ended, and waits until the others know it, for `timeout` at most.
    pub fn finish(&self, timeout: Duration) {
        let _ = self.commands.send(ClusterCommand::Finish);
        if !self.shared.wait(timeout, || self.shared.has_ended.load(Ordering::Acquire)) {
            tracing::warn!("other nodes of the cluster do not answer; they will take this one for dead");
        }
    }
}
