//! Messages of other nodes that the shards have not handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::CLUSTER_INBOX_BYTES_MAX;

/// The bytes of the messages of other nodes that the shards have not handled.
#[derive(Clone, Debug, Default)]
pub struct Inbox(Arc<AtomicU64>);

impl Inbox {
    /// A message of so many bytes waits for a shard.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether more may wait.
    pub fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed) < CLUSTER_INBOX_BYTES_MAX
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}
