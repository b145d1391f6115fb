//! Counters with one writer each, and the snapshots that other threads are sent.
//!
//! A shard counts in plain integers in its own memory, which no other thread reads. Readers ask by
//! a message and is sent a copy taken between two ticks, in which the sums hold.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use echoring_proto::connection::Compressed;

/// Counts of this process's log records, over all threads.
pub static LOG: LogCounters = LogCounters { dropped: AtomicU64::new(0), rate_limited: AtomicU64::new(0) };

/// Log records that were not written.
#[derive(Debug)]
pub struct LogCounters {
    /// The queue was full, or stderr could not be written.
    pub dropped: AtomicU64,
    /// Their cause had too many in the same second.
    pub rate_limited: AtomicU64,
}

/// Counters of one shard since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections taken from listeners.
    pub accepted: u64,
    /// Connections made by this side.
    pub dialled: u64,
    /// Handshakes that ended in a 101, either role.
    pub opened: u64,
    /// TLS handshakes that came to their end, either role.
    pub tls_handshakes: u64,
    /// Those of them that resumed an earlier session.
    pub tls_resumed: u64,
    /// Messages read to their last byte.
    pub messages_in: u64,
    /// Messages queued or sent, the copies of a broadcast counted each.
    pub messages_out: u64,
    /// Bytes received from sockets.
    pub bytes_in: u64,
    /// Bytes handed to the kernel or to its queue.
    pub bytes_out: u64,
    /// Sends that the kernel did not take whole at once.
    pub short_sends: u64,
    /// Times a connection's reading was paused because its outbox was full.
    pub pauses: u64,
    /// Messages that a full mailbox delayed.
    pub mailbox_full: u64,
    /// Trips to the kernel.
    pub ticks: u64,
    /// WebSockets that ended, by close code; 1006 for those without a Close frame.
    pub closes: BTreeMap<u16, u64>,
    /// Connections that ended, requests that never became WebSockets included, by cause.
    pub causes: BTreeMap<&'static str, u64>,
    /// Requests refused, by HTTP status.
    pub refusals: BTreeMap<u16, u64>,
    /// Requests answered without an upgrade, by HTTP status.
    pub answers: BTreeMap<u16, u64>,
    /// Failures to accept.
    pub accept_failures: u64,
    /// Connections that their handler's error or panic closed.
    pub handler_failures: u64,
    /// Those of them that were panics.
    pub handler_panics: u64,
}

/// A shard's state at one moment between two ticks; `R` is what its application reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot<R> {
    /// Which shard.
    pub shard: usize,
    /// Connections now, in any state.
    pub connections: u64,
    /// Bytes of pooled buffers and logs now.
    pub pool_bytes: u64,
    /// The most they have been.
    pub pool_bytes_peak: u64,
    /// The driver's name.
    pub driver: &'static str,
    /// Kernel features in use.
    pub features: Vec<&'static str>,
    /// Kernel features that could not be used.
    pub degraded: Vec<&'static str>,
    /// Bytes inflated and deflated.
    pub compressed: Compressed,
    /// All counters.
    pub counters: Counters,
    /// The application's report.
    pub application: R,
}

impl Counters {
    /// Adds another shard's counters.
    pub fn add(&mut self, other: &Counters) {
        let Counters {
            accepted,
            dialled,
            opened,
            tls_handshakes,
            tls_resumed,
            messages_in,
            messages_out,
            bytes_in,
            bytes_out,
            short_sends,
            pauses,
            mailbox_full,
            ticks,
            closes,
            causes,
            refusals,
            answers,
            accept_failures,
            handler_failures,
            handler_panics,
        } = other;
        for (sum, part) in [
            (&mut self.accepted, accepted),
            (&mut self.dialled, dialled),
            (&mut self.opened, opened),
            (&mut self.tls_handshakes, tls_handshakes),
            (&mut self.tls_resumed, tls_resumed),
            (&mut self.messages_in, messages_in),
            (&mut self.messages_out, messages_out),
            (&mut self.bytes_in, bytes_in),
            (&mut self.bytes_out, bytes_out),
            (&mut self.short_sends, short_sends),
            (&mut self.pauses, pauses),
            (&mut self.mailbox_full, mailbox_full),
            (&mut self.ticks, ticks),
            (&mut self.accept_failures, accept_failures),
            (&mut self.handler_failures, handler_failures),
            (&mut self.handler_panics, handler_panics),
        ] {
            *sum += part;
        }
        merge(&mut self.closes, closes);
        merge(&mut self.causes, causes);
        merge(&mut self.refusals, refusals);
        merge(&mut self.answers, answers);
    }
}

fn merge<K: Ord + Copy>(sums: &mut BTreeMap<K, u64>, parts: &BTreeMap<K, u64>) {
    for (key, count) in parts {
        *sums.entry(*key).or_default() += count;
    }
}
