//! Topics, publications and deliveries.

use super::sum::sum;
use crate::metrics::family::{Families, label};
use echoring_server::Snapshot;
use echoring_topics::{Deliveries, Passed, Publications};

pub(super) fn collect(out: &mut Families, snapshots: &[Snapshot]) {
    let (mut publications, mut deliveries, mut passed) =
        (Publications::default(), Deliveries::default(), Passed::default());
    for snapshot in snapshots {
        publications.add(&snapshot.application.publications);
        deliveries.add(&snapshot.application.deliveries);
        passed.add(&snapshot.application.passed);
    }
    let first = snapshots.first().map(|snapshot| snapshot.application).unwrap_or_default();
    let topics = sum(snapshots, |snapshot| snapshot.application.owned_topics);
    out.gauge("echoring_topics", "Current topics with subscribers or a history.", topics);
    out.gauge("echoring_topics_limit", "Maximum number of topics.", first.topics_limit);
    let subscriptions = sum(snapshots, |snapshot| snapshot.application.subscriptions);
    out.gauge("echoring_subscriptions", "Current subscriptions.", subscriptions);
    out.counters(
        "echoring_publications_total",
        "Messages published, by result.",
        [
            (label("result", "accepted"), publications.accepted),
            (label("result", "refused"), publications.refused),
        ],
    );
    self::deliveries(out, &deliveries);
    out.counters(
        "echoring_forwarded_messages_total",
        "Messages between shards: publications on their way to the topic's owner, and messages to shards with \
         subscribers. Out minus in is the number in transit.",
        [
            (vec![("kind", "publication".to_owned()), ("direction", "out".to_owned())], passed.publications_out),
            (vec![("kind", "publication".to_owned()), ("direction", "in".to_owned())], passed.publications_in),
            (vec![("kind", "message".to_owned()), ("direction", "out".to_owned())], passed.messages_out),
            (vec![("kind", "message".to_owned()), ("direction", "in".to_owned())], passed.messages_in),
        ],
    );
}

fn deliveries(out: &mut Families, deliveries: &Deliveries) {
    out.counter(
        "echoring_deliveries_offered_total",
        "Messages multiplied by their subscribers: the sum of sent, dropped and queued deliveries.",
        deliveries.offered,
    );
    out.counter("echoring_deliveries_sent_total", "Deliveries copied by the kernel.", deliveries.sent);
    out.counters(
        "echoring_deliveries_dropped_total",
        "Deliveries that were dropped: disconnect (the subscriber left or was disconnected first), oldest and conflated \
         (slow consumers), memory (no memory left).",
        [
            (label("reason", "disconnect"), deliveries.dropped_disconnect),
            (label("reason", "oldest"), deliveries.dropped_oldest),
            (label("reason", "conflated"), deliveries.dropped_conflated),
            (label("reason", "memory"), deliveries.dropped_memory),
        ],
    );
    out.gauge(
        "echoring_deliveries_queued",
        "Deliveries waiting in a topic's log or being sent.",
        deliveries.queued,
    );
}
