//! What an operator is told.

use super::Broadcast;
use crate::limits::Nanos;
use crate::stats::{Snapshot, TopicReport};

impl Broadcast {
    pub(in crate::server) fn describe(&self, snapshot: &mut Snapshot) {
        snapshot.topics = self.topics.len() as u64;
        snapshot.subscriptions = self.topics.subscriptions() as u64;
        snapshot.publications = self.homes.publications();
        snapshot.deliveries = self.topics.deliveries();
        snapshot.passed = self.passed;
    }

    /// What is known of all topics that have their home or subscribers here, or had subscribers a while ago.
    pub(in crate::server) fn topic_reports(&self, now: Nanos) -> Vec<TopicReport> {
        let mut reports: Vec<TopicReport> = self.topics.reports().chain(self.topics.all_left()).collect();
        for report in &mut reports {
            report.home = self.homes.report(&report.name, now);
        }
        let is_told = |name: &str| self.topics.find(name).is_some() || self.topics.left(name).is_some();
        let homes = self.homes.reports(now).filter(|(name, _)| !is_told(name));
        reports.extend(homes.map(|(name, home)| TopicReport {
            name: name.to_owned(),
            home: Some(home),
            ..TopicReport::default()
        }));
        reports
    }

    /// What is known of one topic.
    pub(in crate::server) fn topic_report(&self, now: Nanos, name: &str) -> Option<TopicReport> {
        let home = self.homes.report(name, now);
        let here = self.topics.find(name).and_then(|topic| self.topics.report(topic));
        match here.or_else(|| self.topics.left(name)) {
            Some(report) => Some(TopicReport { home, ..report }),
            None => home.map(|home| TopicReport {
                name: name.to_owned(),
                home: Some(home),
                ..TopicReport::default()
            }),
        }
    }
}
