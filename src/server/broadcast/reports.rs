//! Reports about topics, for the admin address.

use super::Broadcast;
use echoring_proto::limits::Nanos;
use echoring_topics::{HubReport, TopicReport};

impl Broadcast {
    /// The totals of the shard.
    pub(crate) fn report(&self) -> HubReport {
        HubReport {
            topics: self.fan_out.topics.len() as u64,
            subscriptions: self.fan_out.topics.subscriptions() as u64,
            publications: self.sequencer.topics.publications(),
            deliveries: self.fan_out.topics.deliveries(),
            passed: self.sequencer.passed,
            owned_topics: self.sequencer.topics.len() as u64,
            topics_peak: self.sequencer.topics.budget().peak(),
            topics_limit: self.sequencer.topics.budget().units(),
            held_publications: self.held.len() as u64,
        }
    }

    /// Reports about all topics that this shard owns or subscribes to, or subscribed to a while ago.
    pub(crate) fn topic_reports(&self, now: Nanos) -> Vec<TopicReport> {
        let (local, owned) = (&self.fan_out.topics, &self.sequencer.topics);
        let mut reports: Vec<TopicReport> = local.reports().chain(local.all_left()).collect();
        for report in &mut reports {
            report.owner = owned.report(&report.name, now);
        }
        let is_local = |name: &str| local.find(name).is_some() || local.left(name).is_some();
        let owned_only = owned.reports(now).filter(|(name, _)| !is_local(name));
        reports.extend(owned_only.map(|(name, owner)| TopicReport {
            name: name.to_owned(),
            owner: Some(owner),
            ..TopicReport::default()
        }));
        reports
    }

    /// A report about one topic.
    pub(crate) fn topic_report(&self, now: Nanos, name: &str) -> Option<TopicReport> {
        let (local, owner) = (&self.fan_out.topics, self.sequencer.topics.report(name, now));
        let report = local.find(name).and_then(|topic| local.report(topic)).or_else(|| local.left(name));
        match report {
            Some(report) => Some(TopicReport { owner, ..report }),
            None => owner.map(|owner| TopicReport {
                name: name.to_owned(),
                owner: Some(owner),
                ..TopicReport::default()
            }),
        }
    }
}
