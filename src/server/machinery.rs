//! What the admin address uses of a server beside the interface for programs.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

pub use crate::commands::CommandSender;
pub use crate::commands::watch_order::{WatchOrder, WatchTarget};
pub use crate::connections::{
    CLOSE_REASON_BYTES_MAX, Candidates, ConnectionFilter, ConnectionId, ConnectionReport, OperatorClose,
    OtherProcess, RankBy, ScanAction, ScanReport, address_block, decimal,
};
pub use crate::handover::{DrainingPredecessor, Missing};
pub use crate::node::handle::{ClientLimits, NotReady};
pub use crate::node::listeners::{open_admin_tcp, remove_stale};
pub use crate::node::reconfigure::LiveLimits;

use echoring_runtime::admission::Admission;

use crate::node::handle::Handle;
use crate::node::listeners::InheritedListener;

/// Whether the file of a listener's Unix socket is removed at the end.
pub fn removes_file(listener: &InheritedListener) -> bool {
    listener.removes_file()
}

/// The listener, whose socket file is removed at the end.
pub fn remove_file(listener: InheritedListener) -> InheritedListener {
    listener.remove_file()
}

/// The sockets of a listener.
pub fn sockets(listener: &InheritedListener) -> &[OwnedFd] {
    listener.sockets()
}

/// The number of shards.
pub fn shards(server: &Handle) -> usize {
    server.remotes.len()
}

/// The number of the first shard, as in the ids of connections.
pub fn first_number(server: &Handle) -> u8 {
    server.first_number
}

/// How often a successor, or new shards, did not take over.
pub fn failed_takeovers(server: &Handle) -> u64 {
    server.handover.failed.load(Ordering::Relaxed)
}

/// The server before this one, while it drains.
pub fn predecessor(server: &Handle) -> Option<Arc<DrainingPredecessor>> {
    server.handover.predecessor.get().cloned()
}

/// Lets a server have taken over from another, for tests.
#[cfg(any(test, feature = "testing"))]
pub fn set_predecessor(server: &Handle, predecessor: &Arc<DrainingPredecessor>) {
    let _ = server.handover.predecessor.set(Arc::clone(predecessor));
}

/// The commands to its shards.
pub fn commands(server: &Handle) -> &CommandSender {
    &server.commands
}

/// The addresses of clients.
pub fn admission(server: &Handle) -> &Admission {
    &server.admission
}

/// The limits on clients that hold.
pub fn client_limits(server: &Handle) -> ClientLimits {
    server.client_limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The limits of the node that hold.
pub fn live_limits(server: &Handle) -> &LiveLimits {
    &server.limits
}

/// Why load balancers should send no clients; `None` if they may.
pub fn unready(server: &Handle) -> Option<NotReady> {
    server.readiness.unready()
}
