//! Budgets, and the memory that they bound.

use super::sum::sum;
use crate::metrics::allocator;
use crate::metrics::family::{Families, label};
use echoring_runtime::stats::BudgetFigures;
use echoring_server::Snapshot;

pub(super) fn collect(out: &mut Families, snapshots: &[Snapshot]) {
    // The budgets are the node's, so every shard reports the same.
    let Some(first) = snapshots.first() else { return };
    let bytes = [("memory", first.memory), ("compression", first.contexts)];
    out.gauges(
        "echoring_budget_limit_bytes",
        "Size of each byte budget.",
        by_budget(bytes, |budget| budget.limit),
    );
    out.gauges(
        "echoring_budget_used_bytes",
        "Bytes of each budget leased by shards, in blocks of up to 1 MiB.",
        by_budget(bytes, |budget| budget.leased),
    );
    out.gauges(
        "echoring_budget_peak_bytes",
        "Peak of the bytes of each budget leased by shards.",
        by_budget(bytes, |budget| budget.peak),
    );
    let BudgetFigures { limit, peak, .. } = first.seats;
    out.gauge("echoring_connections_limit", "Maximum number of connections.", limit);
    out.gauge(
        "echoring_connections_leased_peak",
        "Peak number of connections leased by shards, in blocks of 64.",
        peak,
    );
    out.gauge(
        "echoring_pool_bytes",
        "Bytes of pooled buffers, logs, histories and TLS sessions.",
        sum(snapshots, |snapshot| snapshot.pool_bytes),
    );
    out.gauge("echoring_history_bytes", "Bytes of the histories of topics.", first.history_bytes);
    out.gauge(
        "echoring_compression_context_bytes",
        "Bytes of compression windows that connections own.",
        sum(snapshots, |snapshot| snapshot.compressed.context_bytes),
    );
    if let Some(figures) = allocator::figures() {
        out.gauge(
            "echoring_allocator_reserved_bytes",
            "Address space of the allocator.",
            figures.reserved_bytes,
        );
        out.gauge(
            "echoring_allocator_committed_bytes",
            "Committed memory of the allocator.",
            figures.committed_bytes,
        );
        out.gauge(
            "echoring_allocator_committed_peak_bytes",
            "Peak of the committed memory of the allocator.",
            figures.committed_peak_bytes,
        );
        out.gauge("echoring_allocator_pages", "Pages of the allocator in use.", figures.pages);
        out.counter(
            "echoring_allocator_mmap_calls_total",
            "Calls of mmap by the allocator.",
            figures.mmap_calls,
        );
    }
}

fn by_budget(
    budgets: [(&'static str, BudgetFigures); 2],
    figure: fn(BudgetFigures) -> u64,
) -> impl Iterator<Item = (Vec<(&'static str, String)>, u64)> {
    budgets.into_iter().map(move |(name, budget)| (label("budget", name), figure(budget)))
}
