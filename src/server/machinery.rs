//! What the admin address uses of a server beside the interface for programs.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

pub use crate::commands::CommandSender;
pub use crate::commands::connections::{
    CLOSE_REASON_BYTES_MAX, Candidates, ConnectionFilter, ConnectionReport, OperatorClose, OtherProcess,
    RankBy, ScanAction, ScanReport, address_block, decimal,
};
pub use crate::commands::move_order::{StayReason, Staying};
pub use crate::commands::node_order::{CarryOut, ClientCount, NodeOrder, ProgramOrder};
pub use crate::commands::watch_order::{WatchOrder, WatchTarget};
pub use crate::node::handle::{ClientLimits, NotReady};
pub use crate::node::listeners::{open_admin_tcp, remove_stale};
pub use crate::node::reconfigure::LiveLimits;
pub use crate::processes::{Missing, PreviousServer, ProcessFigures};
pub use echoring_broker::broadcast::{ConnectionId, Ids};

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

/// The number of the first shard.
pub fn first_number(server: &Handle) -> u8 {
    server.identity.first_number
}

/// The ids of its connections.
pub fn ids(server: &Handle) -> Ids {
    server.identity.ids
}

/// Figures of the processes before and after this one.
pub fn processes(server: &Handle) -> ProcessFigures {
    server.link.figures()
}

/// The server before this one, which drains or has drained.
pub fn previous(server: &Handle) -> Option<Arc<PreviousServer>> {
    server.link.previous.get().cloned()
}

/// Whether commands of operators are for this server, and not for the one that has replaced it.
pub fn takes_orders(server: &Handle) -> bool {
    !server.link.orders().are_closed
}

/// Lets a server have taken over from another, for tests.
#[cfg(any(test, feature = "testing"))]
pub fn set_previous(server: &Handle, previous: &Arc<PreviousServer>) {
    let _ = server.link.previous.set(Arc::clone(previous));
}

/// The commands to its shards.
pub fn commands(server: &Handle) -> &CommandSender {
    &server.commands
}

/// The addresses of clients.
pub fn admission(server: &Handle) -> &Admission {
    &server.known.admission
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
