//! Budgets, and the memory that they bound.

use super::sum::sum;
use crate::metrics::allocator;
use crate::metrics::family::Families;
use echoring_runtime::stats::BudgetFigures;
use echoring_server::Snapshot;

pub(super) fn collect(out: &mut Families, snapshots: &[Snapshot]) {
    // The budgets are the node's, so every shard reports the same.
    let Some(first) = snapshots.first() else { return };
    let bytes = [("memory", first.memory), ("compression", first.contexts)];
    out.gauges("echoring_budget_limit_bytes")
        .by("budget", bytes.map(|(name, budget)| (name, budget.limit)))
        .help("Size of each byte budget.");
    out.gauges("echoring_budget_used_bytes")
        .by("budget", bytes.map(|(name, budget)| (name, budget.leased)))
        .help("Bytes of each budget leased by shards, in blocks of up to 1 MiB.");
    out.gauges("echoring_budget_peak_bytes")
        .by("budget", bytes.map(|(name, budget)| (name, budget.peak)))
        .help("Peak of the bytes of each budget leased by shards.");
    let BudgetFigures { limit, peak, .. } = first.seats;
    out.gauge("echoring_connections_limit", limit).help("Maximum number of connections.");
    out.gauge("echoring_connections_leased_peak", peak).help("Peak number of connections.");
    out.gauge("echoring_pool_bytes", sum(snapshots, |snapshot| snapshot.pool_bytes))
        .help("Bytes of pooled buffers, logs, histories and TLS sessions.");
    out.gauge("echoring_history_bytes", first.history_bytes).help(
        "Bytes of the histories of topics, the latest messages of keys, member lists and idempotency keys.",
    );
    out.gauge("echoring_topic_compression_bytes", first.optional_bytes).help(
        "Bytes of the compression contexts of topics, and of the messages that deltas refer to. They are freed \
         first when memory is short.",
    );
    out.counters("echoring_histories_evicted_total")
        .by(
            "shard",
            snapshots.iter().map(|snapshot| (snapshot.shard, snapshot.application.histories_evicted)),
        )
        .help("Histories of topics evicted for lack of memory, by shard: replays from them report a gap.");
    out.gauge(
        "echoring_compression_context_bytes",
        sum(snapshots, |snapshot| snapshot.compressed.context_bytes),
    )
    .help("Bytes of compression windows that connections own.");
    out.gauge(
        "echoring_topic_compression_contexts",
        sum(snapshots, |snapshot| snapshot.application.compression_contexts),
    )
    .help("Compression contexts of topics, one for each shard, protocol and window size.");
    if let Some(figures) = allocator::figures() {
        out.gauge("echoring_allocator_reserved_bytes", figures.reserved_bytes)
            .help("Address space of the allocator.");
        out.gauge("echoring_allocator_committed_bytes", figures.committed_bytes)
            .help("Committed memory of the allocator.");
        out.gauge("echoring_allocator_committed_peak_bytes", figures.committed_peak_bytes)
            .help("Peak of the committed memory of the allocator.");
        out.gauge("echoring_allocator_pages", figures.pages).help("Pages of the allocator in use.");
        out.counter("echoring_allocator_mmap_calls_total", figures.mmap_calls)
            .help("Calls of mmap by the allocator.");
    }
}
