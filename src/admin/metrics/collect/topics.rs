//! Topics, publications and deliveries.

use super::sum::sum;
use crate::metrics::family::Families;
use echoring_runtime::stats::Counters;
use echoring_server::Snapshot;
use echoring_topics::{DEFAULT_PATTERN, Deliveries, Passed, Publications};

pub(super) fn collect(out: &mut Families, snapshots: &[Snapshot], counters: &Counters) {
    let (mut publications, mut deliveries, mut passed) =
        (Publications::default(), Deliveries::default(), Passed::default());
    for snapshot in snapshots {
        publications.add(&snapshot.application.publications);
        deliveries.add(&snapshot.application.deliveries);
        passed.add(&snapshot.application.passed);
    }
    let first = snapshots.first().map(|snapshot| snapshot.application).unwrap_or_default();
    let topics = sum(snapshots, |snapshot| snapshot.application.owned_topics);
    out.gauge("echoring_topics", topics).help("Current topics with subscribers or a history.");
    out.gauge("echoring_topics_limit", first.topics_limit).help("Maximum number of topics.");
    let subscriptions = sum(snapshots, |snapshot| snapshot.application.subscriptions);
    out.gauge("echoring_subscriptions", subscriptions).help("Current subscriptions.");
    out.counters("echoring_publications_total")
        .by("result", [("accepted", publications.accepted), ("refused", publications.refused)])
        .help("Messages published, by result.");
    self::deliveries(out, &deliveries);
    let mut ages = counters.delivery_ages.clone();
    // A series that begins with its first sample has no rate then.
    ages.of(DEFAULT_PATTERN);
    let ages = ages.iter().flat_map(|(pattern, ages)| {
        [(pattern, "acknowledged", ages.acknowledged.clone()), (pattern, "sent", ages.sent.clone())]
    });
    out.histograms("echoring_delivery_age_seconds").by_both(["topics", "until"], ages).help(
        "Age of messages when subscribers got them, by the pattern of their topics, for a sample of the deliveries: from \
         acceptance until the client's TCP had acknowledged the last byte or, where that cannot be observed, until the \
         socket had taken it (sent).",
    );
    let forwarded = [
        ("publication", "out", passed.publications_out),
        ("publication", "in", passed.publications_in),
        ("message", "out", passed.messages_out),
        ("message", "in", passed.messages_in),
    ];
    out.counters("echoring_forwarded_messages_total").by_both(["kind", "direction"], forwarded).help(
        "Messages between shards: publications on their way to the topic's owner, and messages to shards \
             with subscribers. Out minus in is the number in transit.",
    );
}

fn deliveries(out: &mut Families, deliveries: &Deliveries) {
    out.counter("echoring_deliveries_offered_total", deliveries.offered)
        .help("Messages multiplied by their subscribers: the sum of sent, dropped and queued deliveries.");
    out.counter("echoring_deliveries_sent_total", deliveries.sent).help("Deliveries copied by the kernel.");
    let dropped = [
        ("disconnect", deliveries.dropped_disconnect),
        ("oldest", deliveries.dropped_oldest),
        ("conflated", deliveries.dropped_conflated),
        ("memory", deliveries.dropped_memory),
    ];
    out.counters("echoring_deliveries_dropped_total")
        .by("reason", dropped)
        .help(
            "Deliveries that were dropped: disconnect (the subscriber left or was disconnected first), oldest and \
             conflated (slow consumers), memory (no memory left).",
        );
    out.gauge("echoring_deliveries_queued", deliveries.queued)
        .help("Deliveries waiting in a topic's log or being sent.");
}
