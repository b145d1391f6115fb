//! Single-writer counters per shard, histograms, snapshots.
