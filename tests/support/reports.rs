//! Reports of shards about their topics.

use echoring_topics::HubReport;

/// The accounts of all shards together. Peaks and limits are the node's, and not in the sum.
pub fn sum(reports: impl IntoIterator<Item = HubReport>) -> HubReport {
    let mut sum = HubReport::default();
    for report in reports {
        sum.topics += report.topics;
        sum.subscriptions += report.subscriptions;
        sum.publications.add(&report.publications);
        sum.deliveries.add(&report.deliveries);
        sum.passed.add(&report.passed);
    }
    sum
}
