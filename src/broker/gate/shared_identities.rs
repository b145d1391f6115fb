//! The identities of one shard's clients, each once, however many connections have it.
//!
//! Their content is charged to the node's memory budget: tokens decide how long they are, and clients how many there
//! are.
//!
//! Never: an identity without a connection.

use std::collections::HashMap;
use std::sync::Arc;

use echoring_auth::Identity;
use echoring_proto::buffer::Pool;

/// Identities by their contents, with the number of their connections.
#[derive(Debug, Default)]
pub(crate) struct SharedIdentities(HashMap<Arc<Identity>, u32>);

impl SharedIdentities {
    /// A connection has this identity until [`give`](SharedIdentities::give). `None` if there is no memory for it: then the
    /// last part of the budget's reserve is left to others.
    pub(crate) fn take(&mut self, identity: &Arc<Identity>, pool: &mut Pool) -> Option<Arc<Identity>> {
        if let Some((shared, _)) = self.0.get_key_value(identity) {
            let shared = Arc::clone(shared);
            self.0.entry(Arc::clone(&shared)).and_modify(|connections| *connections += 1);
            return Some(shared);
        }
        if pool.is_low() || !pool.charge(identity.held_bytes()) {
            return None;
        }
        self.0.insert(Arc::clone(identity), 1);
        Some(Arc::clone(identity))
    }

    /// A connection no longer has it.
    pub(crate) fn give(&mut self, identity: &Arc<Identity>, pool: &mut Pool) {
        let Some(connections) = self.0.get_mut(identity) else { return };
        *connections -= 1;
        if *connections == 0 {
            self.0.remove(identity);
            pool.discharge(identity.held_bytes());
        }
    }
}
