//! Counters with one writer each, and the snapshots that other threads are sent.
//!
//! A shard counts in plain integers in its own memory, which no other thread reads. Readers ask by
//! a message and are sent a copy taken between two ticks, in which the sums hold.
#![forbid(unsafe_code)]

mod ages;
mod durations;
mod ledger;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use echoring_proto::buffer::Budget;
use echoring_proto::connection::{Cause, Compressed};
use echoring_proto::summed;
use serde::{Serialize, Serializer};

use crate::admission::Limit;

pub use ages::{DeliveryAge, DeliveryAges};
pub use durations::{BucketIndex, Durations, SCHEMA as DURATIONS_SCHEMA, zero_threshold_s};
pub use ledger::{Account, HANDSHAKE_CLASS, Ledger, TRAFFIC_CLASSES, Traffic};

/// Counts of this process's log records, over all threads.
pub static LOG: LogCounters = LogCounters { dropped: AtomicU64::new(0), rate_limited: AtomicU64::new(0) };

/// Counts of this process's access log.
pub static ACCESS_LOG: AccessLogCounters =
    AccessLogCounters { written: AtomicU64::new(0), dropped: AtomicU64::new(0) };

/// Counts of this process's spans, in programs that trace.
pub static TRACES: TraceCounters = TraceCounters { exported: AtomicU64::new(0), dropped: AtomicU64::new(0) };

/// Spans of handshakes and publications.
#[derive(Debug)]
pub struct TraceCounters {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// The queue was full, or the collector did not take them.
    pub dropped: AtomicU64,
}

/// Records of an access log.
#[derive(Debug)]
pub struct AccessLogCounters {
    /// Written.
    pub written: AtomicU64,
    /// Not written: the queue was full, or the file could not be written.
    pub dropped: AtomicU64,
}

/// Log records that were not written.
#[derive(Debug)]
pub struct LogCounters {
    /// The queue was full, or stderr could not be written.
    pub dropped: AtomicU64,
    /// Their cause had too many in the same second.
    pub rate_limited: AtomicU64,
}

summed! {
    /// Counters of one shard since its start, in the order of `/stats`.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
    #[non_exhaustive]
    pub struct Counters {
        /// Connections taken from listeners.
        pub accepted: u64,
        /// Connections made by this side.
        #[serde(skip)]
        pub dialled: u64,
        /// Requests that were answered with a 101, either role, or with an event stream.
        pub opened: u64,
        /// TLS handshakes that came to their end, either role.
        pub tls_handshakes: u64,
        /// Those of them that resumed an earlier session.
        pub tls_resumed: u64,
        /// Messages and bytes, by class of connection.
        #[serde(flatten)]
        pub traffic: Ledger,
        /// Sends that the kernel accepted only in part.
        pub short_sends: u64,
        /// Times a connection's reading was paused because its outbox was full.
        pub pauses: u64,
        /// Messages that a full mailbox delayed.
        pub mailbox_full: u64,
        /// Trips to the kernel.
        #[serde(rename = "turns")]
        pub ticks: u64,
        /// Ticks that took longer than [`STALL`](crate::limits::STALL).
        pub stalls: u64,
        /// How long each tick took, without its trip to the kernel.
        pub tick_time: Durations,
        /// From the tick that read a message to the end of the one that sent it.
        pub receive_to_send: Durations,
        /// Ages of messages when subscribers got them, by the pattern of their topic.
        pub delivery_ages: DeliveryAges,
        /// Times that a peer was over a limit, by the limit's name.
        #[serde(serialize_with = "each_limit")]
        pub limited: BTreeMap<&'static str, u64>,
        /// Headers of the PROXY protocol that were read.
        pub proxy_headers: u64,
        /// Failures to accept.
        pub accept_failures: u64,
        /// Connections that have come from other shards, or from another process.
        pub moved_in: u64,
        /// Connections that have left for other shards, or for another process.
        pub moved_out: u64,
        /// Connections of others that were not taken in.
        pub moves_refused: u64,
        /// Connections that could not leave, and went on where they were.
        pub moves_kept: u64,
        /// How long connections that have moved were not read.
        pub move_stall: Durations,
        /// Smoothed round-trip times of a sample of connections, each as it was when it was looked at.
        pub tcp_round_trip: Durations,
        /// Segments with data that the connections of the sample had sent since they began.
        pub tcp_segments_sent: u64,
        /// Those of them that were sent again.
        pub tcp_segments_retransmitted: u64,
        /// Connections that their handler's error or panic closed.
        pub handler_failures: u64,
        /// Those of them that were panics.
        pub handler_panics: u64,
        /// Connections that ended.
        #[serde(flatten, serialize_with = "closes_and_causes")]
        pub ends: BTreeMap<End, u64>,
        /// Requests refused, by HTTP status.
        pub refusals: BTreeMap<u16, u64>,
        /// Requests answered without an upgrade, by HTTP status.
        pub answers: BTreeMap<u16, u64>,
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// The close code of a WebSocket or an event stream; 1006 without a Close frame. `None` for a connection that never became
    /// either.
    pub code: Option<u16>,
    /// The name of the cause.
    pub cause: &'static str,
    /// The outcome of its handshake, if that ended by the cause.
    pub outcome: &'static str,
}

impl End {
    /// The end of a connection with this code by this cause.
    pub fn by(cause: &Cause, code: Option<u16>) -> End {
        End { code, cause: cause.name(), outcome: cause.outcome() }
    }
}

/// A shard's state at one moment between two ticks; `R` is its application's report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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
    /// Connections whose peer does not accept sends.
    pub blocked: u64,
    /// TLS sessions.
    pub tls_sessions: u64,
    /// The node's budget of buffer bytes, which all shards share.
    pub memory: BudgetFigures,
    /// The node's budget of connections.
    pub seats: BudgetFigures,
    /// The node's budget of bytes for compression windows.
    pub contexts: BudgetFigures,
    /// Bytes of the histories of all shards.
    pub history_bytes: u64,
    /// Bytes of the optional memory of all shards.
    pub optional_bytes: u64,
    /// Messages that wait in the mailboxes to this shard.
    pub mailbox_messages: u64,
    /// Bytes of these messages.
    pub mailbox_bytes: u64,
    /// The driver's work.
    pub work: DriverWork,
    /// All counters.
    pub counters: Counters,
    /// The application's report.
    pub application: R,
}

impl Counters {
    /// WebSockets that ended, by close code.
    pub fn closes(&self) -> BTreeMap<u16, u64> {
        sums(&self.ends, |end| end.code)
    }

    /// Connections that ended, requests that never became WebSockets included, by cause.
    pub fn causes(&self) -> BTreeMap<&'static str, u64> {
        sums(&self.ends, |end| Some(end.cause))
    }

    /// How often peers were over each limit, those that none was over included.
    pub fn limited(&self) -> BTreeMap<&'static str, u64> {
        every_limit(&self.limited)
    }
}

fn sums<K: Ord>(ends: &BTreeMap<End, u64>, by: impl Fn(&End) -> Option<K>) -> BTreeMap<K, u64> {
    let mut sums = BTreeMap::new();
    for (end, count) in ends {
        if let Some(key) = by(end) {
            *sums.entry(key).or_default() += count;
        }
    }
    sums
}

fn closes_and_causes<S: Serializer>(ends: &BTreeMap<End, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Ends {
        closes: BTreeMap<u16, u64>,
        causes: BTreeMap<&'static str, u64>,
    }
    Ends { closes: sums(ends, |end| end.code), causes: sums(ends, |end| Some(end.cause)) }
        .serialize(serializer)
}

fn every_limit(limited: &BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
    let count = |name| limited.get(name).copied().unwrap_or(0);
    Limit::ALL.map(|limit| (limit.name(), count(limit.name()))).into()
}

fn each_limit<S: Serializer>(
    limited: &BTreeMap<&'static str, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    every_limit(limited).serialize(serializer)
}

/// A budget of the node, as all its shards see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BudgetFigures {
    /// Units that shards have leased, used or not.
    #[serde(rename = "used")]
    pub leased: u64,
    /// The most that they ever had.
    pub peak: u64,
    /// Units in all.
    pub limit: u64,
}

impl BudgetFigures {
    /// The state of a budget now.
    #[doc(hidden)]
    pub fn of(budget: &Budget) -> BudgetFigures {
        BudgetFigures { leased: budget.leased(), peak: budget.peak(), limit: budget.units() }
    }
}

summed! {
    /// Totals of a driver's work since its start.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct DriverWork {
        /// System calls of the event loop.
        pub enters: u64,
        /// Operations handed to the kernel.
        pub submissions: u64,
        /// Completions, or events, that the kernel reported.
        pub completions: u64,
        /// Times that the completion queue was too small.
        pub overflows: u64,
        /// Receives that found no buffer.
        pub buffer_stalls: u64,
        /// Segments that TCP connections which have ended sent again. `None` if they are not
        /// [counted](crate::driver::Options::counts_retransmissions), or if the kernel cannot tell
        /// ([`Features::FD_INSTALL`](crate::driver::Features::FD_INSTALL)).
        pub retransmissions: Option<u64>,
    }
}
