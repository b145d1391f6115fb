//! Sums over shards.

use echoring_server::Snapshot;

/// The sum of a figure over all shards.
pub(super) fn sum(snapshots: &[Snapshot], figure: impl Fn(&Snapshot) -> u64) -> u64 {
    snapshots.iter().map(figure).sum()
}
