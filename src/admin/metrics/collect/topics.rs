//! Topics, publications and deliveries.

use std::collections::BTreeMap;

use super::sum::sum;
use crate::metrics::family::Families;
use echoring_runtime::stats::Counters;
use echoring_server::Snapshot;
use echoring_topics::{DEFAULT_PATTERN, Deliveries, Passed, PatternCounts, Publications};

pub(super) fn collect(out: &mut Families, snapshots: &[Snapshot], counters: &Counters) {
    let (mut publications, mut deliveries, mut passed) =
        (Publications::default(), Deliveries::default(), Passed::default());
    for snapshot in snapshots {
        publications.add(&snapshot.application.publications);
        deliveries.add(&snapshot.application.deliveries);
        passed.add(&snapshot.application.passed);
    }
    let limit = snapshots.first().map_or(0, |snapshot| snapshot.application.topics_limit);
    let topics = sum(snapshots, |snapshot| snapshot.application.owned_topics);
    out.gauge("echoring_topics", topics).help("Current topics with subscribers or a history.");
    out.gauge("echoring_topics_limit", limit).help("Maximum number of topics.");
    let subscriptions = sum(snapshots, |snapshot| snapshot.application.subscriptions);
    out.gauge("echoring_subscriptions", subscriptions).help("Current subscriptions.");
    out.counters("echoring_publications_total")
        .by("result", [("accepted", publications.accepted), ("refused", publications.refused)])
        .help("Messages published, by result.");
    self::deliveries(out, &deliveries);
    patterns(out, snapshots);
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
    out.counter("echoring_deliveries_offered_total", deliveries.offered).help(
        "Messages multiplied by their subscribers: the sum of sent, dropped, filtered and queued deliveries.",
    );
    out.counter("echoring_deliveries_sent_total", deliveries.sent).help("Deliveries copied by the kernel.");
    out.counters("echoring_deliveries_dropped_total")
        .by("reason", deliveries.drops())
        .help(
            "Deliveries that were dropped: disconnect (the subscriber left or was disconnected first), oldest and \
             conflated (slow consumers), memory (no memory left).",
        );
    out.counter("echoring_deliveries_filtered_total", deliveries.filtered)
        .help("Deliveries that the filters of subscribers did not want.");
    out.gauge("echoring_deliveries_queued", deliveries.queued)
        .help("Deliveries waiting in a topic's log or being sent.");
}

/// The counts of each pattern, of all shards together.
fn patterns(out: &mut Families, snapshots: &[Snapshot]) {
    // A series that begins with its first event hides it.
    let mut patterns = BTreeMap::from([(DEFAULT_PATTERN, PatternCounts::default())]);
    for (pattern, counts) in snapshots.iter().flat_map(|snapshot| &snapshot.application.patterns) {
        patterns.entry(pattern).or_default().add(counts);
    }
    let each = |figure: fn(&PatternCounts) -> u64| {
        patterns.iter().map(move |(pattern, counts)| (*pattern, figure(counts)))
    };
    out.gauges("echoring_pattern_subscriptions")
        .by("topics", each(|counts| counts.subscribers))
        .help("Current subscriptions, by the pattern of their topics.");
    let results = patterns.iter().flat_map(|(pattern, PatternCounts { publications, .. })| {
        [(*pattern, "accepted", publications.accepted), (*pattern, "refused", publications.refused)]
    });
    out.counters("echoring_pattern_publications_total")
        .by_both(["topics", "result"], results)
        .help("Messages published, by the pattern of their topics and by result.");
    out.counters("echoring_pattern_published_bytes_total")
        .by("topics", each(|counts| counts.published_bytes))
        .help("Payload bytes of accepted messages, by the pattern of their topics.");
    out.counters("echoring_pattern_deliveries_sent_total")
        .by("topics", each(|counts| counts.deliveries.sent))
        .help("Deliveries copied by the kernel, by the pattern of their topics.");
    out.counters("echoring_pattern_delivered_bytes_total")
        .by("topics", each(|counts| counts.delivered_bytes))
        .help("Bytes of the frames that subscribers were sent, before TLS, by the pattern of their topics.");
    let drops = patterns.iter().flat_map(|(pattern, counts)| {
        counts.deliveries.drops().map(|(reason, count)| (*pattern, reason, count))
    });
    out.counters("echoring_pattern_deliveries_dropped_total")
        .by_both(["topics", "reason"], drops)
        .help("Deliveries that were dropped, by the pattern of their topics and by reason.");
    out.counters("echoring_pattern_histories_evicted_total")
        .by("topics", each(|counts| counts.histories_evicted))
        .help("Histories of topics evicted for lack of memory, by the pattern of the topics.");
}
