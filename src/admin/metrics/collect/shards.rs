//! The event loops, their queues and their drivers.

use super::sum::sum;
use crate::metrics::family::Families;
use echoring_runtime::stats::{Counters, DriverWork};
use echoring_server::Snapshot;

pub(super) fn collect(out: &mut Families, snapshots: &[Snapshot], counters: &Counters) {
    out.counters("echoring_shard_busy_seconds_total").by("shard", snapshots
                .iter()
                .map(|snapshot| (snapshot.shard, snapshot.counters.tick_time.sum_ns() as f64 * 1e-9)))
    .help(
        "Time that a shard spent outside the kernel's wait, by shard. Its rate is the shard's utilization \
         without its system calls.",
    );
    out.histogram("echoring_tick_seconds", counters.tick_time.clone())
        .help("Time of one tick of a shard's event loop, without its system call.");
    out.counters("echoring_shard_stalls_total")
        .by("shard", snapshots.iter().map(|snapshot| (snapshot.shard, snapshot.counters.stalls)))
        .help(
            "Ticks of a shard's event loop that took more than half a second, by shard. Its connections \
             waited meanwhile: a handler blocked, or the host gave the thread no CPU.",
        );
    out.histogram("echoring_receive_to_send_seconds", counters.receive_to_send.clone()).help(
        "Time from the tick that read a message to the end of the tick that sent it, on any shard: once \
         for each echoed message, and once per shard with subscribers for each broadcast message (the \
         oldest message of a topic in one tick counts for all of them).",
    );
    queues(out, snapshots, counters);
    ring(out, snapshots);
}

fn queues(out: &mut Families, snapshots: &[Snapshot], counters: &Counters) {
    out.gauge("echoring_blocked_connections", sum(snapshots, |snapshot| snapshot.blocked))
        .help("Connections with a partial send because the client does not read.");
    out.gauge("echoring_mailbox_messages", sum(snapshots, |snapshot| snapshot.mailbox_messages))
        .help("Messages in the queues between shards.");
    out.gauge("echoring_mailbox_bytes", sum(snapshots, |snapshot| snapshot.mailbox_bytes))
        .help("Bytes of messages in the queues between shards.");
    out.gauge(
        "echoring_held_publications",
        sum(snapshots, |snapshot| snapshot.application.held_publications),
    )
    .help("Publications waiting for room in the queue to their topic's owner.");
    out.counter("echoring_mailbox_full_total", counters.mailbox_full)
        .help("Messages delayed by a full queue between shards.");
    out.counter("echoring_short_sends_total", counters.short_sends)
        .help("Sends that the kernel accepted only in part.");
    out.counter("echoring_backpressure_pauses_total", counters.pauses)
        .help("Pauses in reading from a connection because its outbox was full.");
}

fn ring(out: &mut Families, snapshots: &[Snapshot]) {
    let mut work = DriverWork::default();
    snapshots.iter().for_each(|snapshot| work.add(&snapshot.work));
    out.counter("echoring_ring_enters_total", work.enters)
        .help("System calls of the event loops (io_uring_enter, or epoll_wait).");
    out.counter("echoring_ring_submissions_total", work.submissions)
        .help("Operations submitted to io_uring; 0 on epoll.");
    out.counter("echoring_ring_completions_total", work.completions)
        .help("Completions of io_uring, or events of epoll.");
    out.counter("echoring_ring_overflows_total", work.overflows)
        .help("Overflows of the completion queue of io_uring.");
    out.counter("echoring_ring_buffer_stalls_total", work.buffer_stalls)
        .help("Receives that found no provided buffer.");
}
