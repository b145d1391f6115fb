//! Reports about topics, for the admin address.

use super::Broadcast;
use super::watched::SessionNote;
use crate::peer::Peer;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{HubReport, TopicId, TopicReport};

/// The subscriptions of one connection.
#[derive(Debug, Default)]
pub struct Subscribed {
    /// The first topics.
    pub topics: Vec<Box<str>>,
    /// All topics.
    pub count: usize,
    /// Bytes of their unsent messages; `None` if it never subscribes.
    pub lag_bytes: Option<u64>,
}

impl Broadcast {
    /// Whether a connection subscribes to a topic.
    pub fn subscribes(&self, peer: &Peer, topic: &str) -> bool {
        let Some(topic) = self.fan_out.topics.find(topic) else { return false };
        match peer {
            Peer::Subscriber(subscriber) => subscriber.topic == topic,
            peer => peer.session().is_some_and(|own| own.subscriptions.iter().any(|own| own.topic == topic)),
        }
    }

    /// The subscriptions of a connection, with the names of the first `most`.
    pub fn subscriptions_of(&self, peer: &Peer, most: usize) -> Subscribed {
        let name = |topic| self.fan_out.name(topic).into();
        let (topics, count) = match (peer, peer.session()) {
            (Peer::Subscriber(subscriber), _) => (vec![name(subscriber.topic)], 1),
            (_, Some(session)) => {
                let first = session.subscriptions.iter().take(most);
                (first.map(|own| name(own.topic)).collect(), session.subscriptions.len())
            }
            _ => return Subscribed::default(),
        };
        Subscribed { topics, count, lag_bytes: self.lag_bytes_of(peer) }
    }

    /// Bytes of the messages of its topics that a connection was not sent yet; `None` if it never subscribes.
    pub fn lag_bytes_of(&self, peer: &Peer) -> Option<u64> {
        let lag = |member| self.fan_out.topics.lag_bytes(member).unwrap_or(0);
        if let Peer::Subscriber(subscriber) = peer {
            return Some(subscriber.member.map_or(0, lag));
        }
        let session = peer.session()?;
        Some(session.subscriptions.iter().filter_map(|own| own.member()).map(lag).sum())
    }

    /// The totals of the shard.
    pub fn report(&self) -> HubReport {
        let (local, owned) = (&self.fan_out.topics, &self.sequencer.topics);
        let mut report = HubReport::default();
        report.topics = local.len() as u64;
        report.subscriptions = local.subscriptions() as u64;
        report.publications = owned.publications();
        report.deliveries = local.deliveries();
        report.passed = self.sequencer.forwards.passed;
        report.owned_topics = owned.len() as u64;
        report.topics_peak = owned.budget().peak();
        report.topics_limit = owned.budget().units();
        report.held_publications = self.held.len() as u64;
        report.compression_contexts = local.contexts() as u64;
        report.histories_evicted = owned.histories_evicted();
        local.add_patterns(&mut report.patterns);
        owned.add_patterns(&mut report.patterns);
        report
    }

    /// Reports about all topics that this shard owns or subscribes to, or subscribed to a while ago.
    pub fn topic_reports(&self, now: Nanos) -> Vec<TopicReport> {
        let (local, owned) = (&self.fan_out.topics, &self.sequencer.topics);
        let mut reports: Vec<TopicReport> = local.reports().chain(local.all_left()).collect();
        for report in &mut reports {
            report.owner = owned.report(&report.name, now);
        }
        let is_local = |name: &str| local.find(name).is_some() || local.left(name).is_some();
        let owned_only = owned.reports(now).filter(|(name, _)| !is_local(name));
        reports.extend(owned_only.map(|(name, owner)| TopicReport::of_owner(name, owner)));
        reports
    }

    /// A report about one topic.
    pub fn topic_report(&self, now: Nanos, name: &str) -> Option<TopicReport> {
        let (local, owner) = (&self.fan_out.topics, self.sequencer.topics.report(name, now));
        let report = local.find(name).and_then(|topic| local.report(topic)).or_else(|| local.left(name));
        let mut report = match report {
            Some(mut report) => {
                report.owner = owner;
                report
            }
            None => TopicReport::of_owner(name, owner?),
        };
        report.pattern = local.pattern(name).to_owned();
        Some(report)
    }

    /// Notes from now on what these connections are told, and of no others.
    pub fn watch(&mut self, tokens: Vec<Token>) {
        self.fan_out.follow_ups.watched.set(tokens.clone());
        self.sessions.watched.set(tokens);
    }

    /// The notes since the last call, and how many were lost.
    pub fn take_notes(&mut self) -> (Vec<(Token, SessionNote)>, u64) {
        let (mut notes, lost) = self.sessions.watched.take();
        let (mut gaps, others) = self.fan_out.follow_ups.watched.take();
        notes.append(&mut gaps);
        (notes, lost + others)
    }

    /// The topics of a connection that it gets messages of, with the offsets up to which it was sent everything, or was told of the
    /// loss.
    pub fn reached_by(&self, peer: &Peer) -> Vec<(TopicId, u64)> {
        let topics = &self.fan_out.topics;
        match (peer, peer.session()) {
            (Peer::Subscriber(subscriber), _) => {
                let reached = subscriber.member.and_then(|member| topics.reached(member));
                reached.map(|(offset, _)| (subscriber.topic, offset)).into_iter().collect()
            }
            (_, Some(session)) => session.reached(topics).map(|(topic, offset, _)| (topic, offset)).collect(),
            _ => Vec::new(),
        }
    }

    /// The name of a topic of [`reached_by`](Broadcast::reached_by).
    pub fn topic_name(&self, topic: TopicId) -> &str {
        self.fan_out.name(topic)
    }
}
