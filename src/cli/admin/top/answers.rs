//! The answers of the admin address that `top` shows. Fields that a server does not send have their defaults, so that
//! other versions can be watched too.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `GET /stats`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stats {
    pub(super) version: String,
    pub(super) pid: u32,
    pub(super) uptime_s: f64,
    /// `serving` or `draining`.
    pub(super) state: String,
    pub(super) driver: Driver,
    pub(super) silent_shards: u64,
    pub(super) budgets: Budgets,
    pub(super) shards: Vec<Shard>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Driver {
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Budgets {
    pub(super) memory_bytes: Budget,
    pub(super) connections: Budget,
}

/// The use of a budget. A limit of 0 is unknown.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Budget {
    pub(super) used: u64,
    pub(super) limit: u64,
}

/// Counters by code, status or cause.
pub(super) type Counts = BTreeMap<String, u64>;

/// The gauges and counters of one shard.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Shard {
    pub(super) shard: usize,
    pub(super) connections: u64,
    pub(super) subscriptions: u64,
    pub(super) blocked: u64,
    pub(super) messages_in: u64,
    pub(super) messages_out: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) opened: u64,
    pub(super) closes: Counts,
    pub(super) causes: Counts,
    pub(super) refusals: Counts,
    pub(super) limited: Counts,
    pub(super) deliveries: Deliveries,
    pub(super) tick_time: Histogram,
    pub(super) receive_to_send: Histogram,
    /// By the pattern of the topics.
    pub(super) delivery_ages: BTreeMap<String, Ages>,
}

/// Ages of deliveries. Each is in one of the two.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ages {
    pub(super) acknowledged: Histogram,
    pub(super) sent: Histogram,
}

impl Shard {
    /// The ages of all deliveries.
    pub(super) fn ages(&self) -> Vec<&Histogram> {
        self.delivery_ages.values().flat_map(|ages| [&ages.acknowledged, &ages.sent]).collect()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Deliveries {
    pub(super) queued: u64,
    pub(super) dropped: Counts,
}

/// Durations since the start. Bucket `n` holds durations above 2^((n - 1) / 8) seconds and at most 2^(n / 8).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Histogram {
    pub(super) sum_ns: u64,
    pub(super) zero: u64,
    pub(super) buckets: Vec<(i32, u64)>,
}

/// `GET /topics`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Topics {
    pub(super) count: u64,
    pub(super) topics: Vec<Topic>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Topic {
    pub(super) topic: String,
    pub(super) subscribers: u64,
    /// Messages per second.
    pub(super) rate: f64,
    pub(super) log_bytes: u64,
    pub(super) history: History,
    pub(super) deliveries: Deliveries,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct History {
    pub(super) bytes: u64,
}

impl Topic {
    /// Bytes of logs and history.
    pub(super) fn bytes(&self) -> u64 {
        self.log_bytes + self.history.bytes
    }

    /// Deliveries that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.deliveries.dropped.values().sum()
    }
}

/// `GET /connections`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connections {
    pub(super) connections: Vec<Connection>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connection {
    pub(super) address: Option<String>,
    pub(super) identity: Option<String>,
    /// Of another process, which drains.
    pub(super) process: Option<String>,
    pub(super) route: String,
    pub(super) path: Option<String>,
    pub(super) topics: Vec<String>,
    pub(super) topic_count: u64,
    pub(super) open_s: Option<f64>,
    pub(super) queued_bytes: u64,
    pub(super) lag_bytes: Option<u64>,
}

/// `GET /limits`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Limits {
    pub(super) addresses: Addresses,
    pub(super) most_refused: Vec<Refused>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Addresses {
    pub(super) banned: u64,
}

/// An address that was over a limit; banned ones come first.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refused {
    pub(super) address: String,
    pub(super) banned_s: u64,
}

/// The answers to one round of questions.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    pub(super) stats: Stats,
    /// The line of `/healthz` if it is not healthy.
    pub(super) unhealthy: Option<String>,
    /// `None` if there was no answer: a stalled shard cannot list its topics and connections.
    pub(super) lists: Option<Lists>,
}

/// The lists that all shards contribute to.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    pub(super) topics: Topics,
    /// `None` if the server has no such list.
    pub(super) consumers: Option<Vec<Connection>>,
    pub(super) limits: Limits,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_send_more_fields_or_fewer() {
        let old: Stats =
            serde_json::from_str(r#"{"schema":"echoring.stats/1","shards":[{"shard":3,"opened":7}]}"#)
                .expect("no field is required");
        assert_eq!((old.shards[0].shard, old.shards[0].opened, old.shards[0].tick_time.zero), (3, 7, 0));
        let new: Connections = serde_json::from_str(
            r#"{"connections":[{"id":"1-2","route":"echo","identity":null,"queued_bytes":5,"new":[]}],"next":null}"#,
        )
        .expect("unknown fields are ignored");
        assert_eq!((new.connections[0].queued_bytes, new.connections[0].lag_bytes), (5, None));
    }
}
