//! The event loops, their queues and their drivers.

use super::sum::sum;
use crate::metrics::family::{Families, label};
use echoring_runtime::stats::{Counters, DriverWork};
use echoring_server::Snapshot;

pub(super) fn collect(out: &mut Families, snapshots: &[Snapshot], counters: &Counters) {
    out.counters(
        "echoring_shard_busy_seconds_total",
        "Time that a shard spent outside the kernel's wait, by shard. Its rate is the shard's utilization without its \
         system calls.",
        snapshots.iter().map(|snapshot| {
            (label("shard", snapshot.shard), snapshot.counters.tick_time.sum_ns() as f64 * 1e-9)
        }),
    );
    out.histogram(
        "echoring_tick_seconds",
        "Time of one tick of a shard's event loop, without its system call.",
        counters.tick_time.clone(),
    );
    out.counters(
        "echoring_shard_stalls_total",
        "Ticks of a shard's event loop that took more than half a second, by shard. Its connections waited meanwhile: a \
         handler blocked, or the host gave the thread no CPU.",
        snapshots.iter().map(|snapshot| (label("shard", snapshot.shard), snapshot.counters.stalls)),
    );
    out.histogram(
        "echoring_receive_to_send_seconds",
        "Time from the tick that read a message to the end of the tick that sent it, on any shard: once \
         for each echoed message, and once per shard with subscribers for each broadcast message (the \
         oldest message of a topic in one tick counts for all of them).",
        counters.receive_to_send.clone(),
    );
    queues(out, snapshots, counters);
    ring(out, snapshots);
}

fn queues(out: &mut Families, snapshots: &[Snapshot], counters: &Counters) {
    out.gauge(
        "echoring_blocked_connections",
        "Connections with a partial send because the client does not read.",
        sum(snapshots, |snapshot| snapshot.blocked),
    );
    out.gauge(
        "echoring_mailbox_messages",
        "Messages in the queues between shards.",
        sum(snapshots, |snapshot| snapshot.mailbox_messages),
    );
    out.gauge(
        "echoring_mailbox_bytes",
        "Bytes of messages in the queues between shards.",
        sum(snapshots, |snapshot| snapshot.mailbox_bytes),
    );
    out.gauge(
        "echoring_held_publications",
        "Publications waiting for room in the queue to their topic's owner.",
        sum(snapshots, |snapshot| snapshot.application.held_publications),
    );
    out.counter(
        "echoring_mailbox_full_total",
        "Messages delayed by a full queue between shards.",
        counters.mailbox_full,
    );
    out.counter(
        "echoring_short_sends_total",
        "Sends that the kernel accepted only in part.",
        counters.short_sends,
    );
    out.counter(
        "echoring_backpressure_pauses_total",
        "Pauses in reading from a connection because its outbox was full.",
        counters.pauses,
    );
}

fn ring(out: &mut Families, snapshots: &[Snapshot]) {
    let mut work = DriverWork::default();
    snapshots.iter().for_each(|snapshot| work.add(&snapshot.work));
    out.counter(
        "echoring_ring_enters_total",
        "System calls of the event loops (io_uring_enter, or epoll_wait).",
        work.enters,
    );
    out.counter(
        "echoring_ring_submissions_total",
        "Operations submitted to io_uring; 0 on epoll.",
        work.submissions,
    );
    out.counter(
        "echoring_ring_completions_total",
        "Completions of io_uring, or events of epoll.",
        work.completions,
    );
    out.counter(
        "echoring_ring_overflows_total",
        "Overflows of the completion queue of io_uring.",
        work.overflows,
    );
    out.counter(
        "echoring_ring_buffer_stalls_total",
        "Receives that found no provided buffer.",
        work.buffer_stalls,
    );
}
