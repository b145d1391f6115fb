//! The counts of all webhooks of the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use echoring_proto::happenings;

use crate::calls::lock;
use crate::calls::metrics::{CallMetric, CallSamples};
use crate::limits::WEBHOOK_RECEIVERS_MAX;

/// The receivers of all webhooks since the process has started.
pub static WEBHOOKS: WebhookReceivers = WebhookReceivers(Mutex::new(BTreeMap::new()));

/// Counts by receiver. Webhooks with the same host and port have counts in common.
#[derive(Debug)]
pub struct WebhookReceivers(Mutex<BTreeMap<Box<str>, Arc<WebhookCounters>>>);

/// A receiver, named by its host and port, with its counts.
pub type WebhookReceiver = (Box<str>, Arc<WebhookCounters>);

impl WebhookReceivers {
    /// The metrics of a receiver.
    pub const METRICS: [CallMetric<WebhookReceiver>; 6] = [
        CallMetric {
            name: "echoring_webhook_events_delivered_total",
            help: "Events that webhooks have accepted, by host and port of the receiver.",
            samples: |receiver| of_receiver(receiver, &receiver.1.delivered),
        },
        CallMetric {
            name: "echoring_webhook_events_lost_total",
            help: "Events that a webhook did not get, by cause: queue_full (the queue had no room), refused (answered with a status that forbids \
             another attempt), expired (older than give_up_after), ended (the process has ended).",
            samples: |(receiver, counters)| {
                let labels = |cause: Loss| {
                    vec![("cause", cause.word().to_owned()), ("receiver", receiver.clone().into_string())]
                };
                let lost = Loss::ALL.into_iter().zip(&counters.lost);
                lost.map(|(cause, events)| (labels(cause), events.load(Relaxed))).collect()
            },
        },
        CallMetric {
            name: "echoring_webhook_requests_failed_total",
            help: "Requests to webhooks that failed and are made again.",
            samples: |receiver| of_receiver(receiver, &receiver.1.failed_requests),
        },
        CallMetric {
            name: "echoring_webhook_events_waiting",
            help: "Events in the queues of the webhooks.",
            samples: |receiver| of_receiver(receiver, &receiver.1.waiting_events),
        },
        CallMetric {
            name: "echoring_webhook_queue_bytes",
            help: "Bytes of these events.",
            samples: |receiver| of_receiver(receiver, &receiver.1.waiting_bytes),
        },
        CallMetric {
            name: "echoring_webhook_queue_limit_bytes",
            help: "Maximum bytes of these events; 0 for a receiver whose webhooks a reload has removed.",
            samples: |receiver| of_receiver(receiver, &receiver.1.bytes_max),
        },
    ];

    /// The receivers.
    pub fn all(&self) -> Vec<WebhookReceiver> {
        let receivers = lock(&self.0);
        receivers.iter().map(|(name, counters)| (name.clone(), Arc::clone(counters))).collect()
    }

    /// The counts of a receiver. Beyond [`WEBHOOK_RECEIVERS_MAX`], which only reloads can reach, they are those of `others`.
    pub(super) fn of(&self, name: &str) -> Arc<WebhookCounters> {
        let mut receivers = lock(&self.0);
        let is_full = receivers.len() >= WEBHOOK_RECEIVERS_MAX && !receivers.contains_key(name);
        Arc::clone(receivers.entry(if is_full { "others" } else { name }.into()).or_default())
    }
}

fn of_receiver((receiver, _): &WebhookReceiver, figure: &AtomicU64) -> CallSamples {
    vec![(vec![("receiver", receiver.clone().into_string())], figure.load(Relaxed))]
}

happenings! {
    /// Why an event is lost.
    pub(super) enum Loss: word {
        QueueFull = "queue_full",
        Refused = "refused",
        Expired = "expired",
        Ended = "ended",
    }
}

/// Counts of a receiver of webhooks. They begin at zero with the process.
#[derive(Debug, Default)]
pub struct WebhookCounters {
    /// Events that were accepted.
    pub delivered: AtomicU64,
    lost: [AtomicU64; Loss::ALL.len()],
    /// Requests that failed, and are sent again.
    pub failed_requests: AtomicU64,
    /// Events that wait.
    pub waiting_events: AtomicU64,
    /// Their bytes.
    pub waiting_bytes: AtomicU64,
    /// The bound on these bytes; 0 if a reload has removed the webhook.
    pub bytes_max: AtomicU64,
}

impl WebhookCounters {
    pub(super) fn lose(&self, events: u64, cause: Loss) {
        self.lost[cause as usize].fetch_add(events, Relaxed);
    }

    pub(super) fn add(&self, events: u64, bytes: u64) {
        self.waiting_events.fetch_add(events, Relaxed);
        self.waiting_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn remove(&self, events: u64, bytes: u64) {
        self.waiting_events.fetch_sub(events, Relaxed);
        self.waiting_bytes.fetch_sub(bytes, Relaxed);
    }
}
