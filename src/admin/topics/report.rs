//! The responses of `GET /topics` and `GET /topics/{topic}`: the shards' reports as JSON, summed by topic.
//!
//! Scripts rely on their form: fields are added, never renamed.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::topics::query::{TopicOrder, TopicQuery};
use echoring_runtime::stats::{DeliveryAge, DeliveryAges};
use echoring_topics::{Deliveries, OwnerReport, Publications, TopicReport};

/// The schema of the list.
const LIST_SCHEMA: &str = "echoring.topics/1";
/// The schema of the report about one topic.
const TOPIC_SCHEMA: &str = "echoring.topic/1";

#[derive(Debug, Serialize)]
struct List {
    schema: &'static str,
    /// Shards that did not answer in time; their part is missing.
    silent_shards: usize,
    /// Topics with the prefix.
    count: usize,
    /// The list is not complete.
    truncated: bool,
    /// In the order that was asked for.
    topics: Vec<Topic>,
}

#[derive(Debug, Serialize)]
struct One {
    schema: &'static str,
    silent_shards: usize,
    #[serde(flatten)]
    topic: Topic,
    /// Of the topics with the same settings; `None` before the first sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_age: Option<Age>,
    shards: Vec<OnShard>,
}

/// Ages of deliveries of the topics that a pattern decides about.
#[derive(Debug, Serialize)]
struct Age {
    topics: String,
    #[serde(flatten)]
    ages: DeliveryAge,
}

/// A topic on the whole node.
#[derive(Debug, Serialize)]
struct Topic {
    topic: String,
    subscribers: u64,
    /// Of a topic with presence: those that are counted, on all nodes of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<u64>,
    /// Messages per second, over about ten seconds.
    rate: f64,
    /// `None` if the owner did not answer.
    position: Option<PositionFigures>,
    payload_bytes: u64,
    history: HistoryFigures,
    log_bytes: u64,
    publications: Publications,
    deliveries: Deliveries,
}

#[derive(Debug, Serialize)]
struct PositionFigures {
    epoch: String,
    offset: u64,
}

#[derive(Debug, Serialize)]
struct HistoryFigures {
    messages: u64,
    bytes: u64,
}

/// The part of a shard.
#[derive(Debug, Serialize)]
struct OnShard {
    shard: usize,
    /// Whether the shard owns the topic.
    home: bool,
    subscribers: u64,
    log_bytes: u64,
    deliveries: Deliveries,
}

/// A topic, collected from all shards.
#[derive(Debug, Default)]
struct Sum {
    owner: Option<OwnerReport>,
    subscribers: u64,
    deliveries: Deliveries,
    log_bytes: u64,
}

impl Sum {
    fn add(&mut self, report: &TopicReport) {
        let TopicReport { owner, subscribers, deliveries, log_bytes, .. } = report;
        // There is one owner, except for a moment after a shard has failed.
        if self.owner.is_none() {
            self.owner.clone_from(owner);
        }
        self.subscribers += subscribers;
        self.deliveries.add(deliveries);
        self.log_bytes += log_bytes;
    }

    /// Whether the topic exists. Shards that had subscribers keep counters of a topic that its owner has forgotten.
    fn is_there(&self) -> bool {
        self.owner.is_some() || self.subscribers > 0
    }

    /// Compares by the criterion of an order.
    fn compare(&self, other: &Sum, order: TopicOrder) -> Ordering {
        let bytes = |sum: &Sum| sum.log_bytes + sum.owner.as_ref().map_or(0, |owner| owner.history_bytes);
        let rate = |sum: &Sum| sum.owner.as_ref().map_or(0.0, |owner| owner.rate);
        match order {
            TopicOrder::Name => Ordering::Equal,
            TopicOrder::Subscribers => self.subscribers.cmp(&other.subscribers),
            TopicOrder::Rate => rate(self).total_cmp(&rate(other)),
            TopicOrder::Bytes => bytes(self).cmp(&bytes(other)),
            TopicOrder::Dropped => self.deliveries.dropped().cmp(&other.deliveries.dropped()),
        }
    }

    fn told(self, name: &str) -> Topic {
        let position = self
            .owner
            .as_ref()
            .map(|home| PositionFigures { epoch: format!("{:x}", home.epoch), offset: home.offset });
        let home = self.owner.unwrap_or_default();
        Topic {
            topic: name.to_owned(),
            subscribers: self.subscribers,
            members: home.members,
            rate: home.rate,
            position,
            payload_bytes: home.payload_bytes,
            history: HistoryFigures { messages: home.history_messages, bytes: home.history_bytes },
            log_bytes: self.log_bytes,
            publications: home.publications,
            deliveries: self.deliveries,
        }
    }
}

/// The topics that a query asks for.
pub(crate) fn list(
    shards: usize,
    reports: Vec<(usize, Vec<TopicReport>)>,
    query: &TopicQuery,
) -> serde_json::Result<Vec<u8>> {
    let silent_shards = shards.saturating_sub(reports.len());
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for report in reports.iter().flat_map(|(_, reports)| reports) {
        if report.name.starts_with(&query.prefix) {
            sums.entry(&report.name).or_default().add(report);
        }
    }
    sums.retain(|_, sum| sum.is_there());
    let count = sums.len();
    let mut sums: Vec<(&str, Sum)> = sums.into_iter().collect();
    // The sort is stable, so equal figures stay in the order of their names.
    sums.sort_by(|(_, one), (_, other)| other.compare(one, query.order));
    let topics = sums.into_iter().take(query.limit).map(|(name, sum)| sum.told(name)).collect();
    let truncated = count > query.limit;
    serde_json::to_vec_pretty(&List { schema: LIST_SCHEMA, silent_shards, count, truncated, topics })
}

/// One topic, if any shard knows it; `ages` are those of all shards.
pub(crate) fn one(
    shards: usize,
    name: &str,
    reports: Vec<(usize, Option<TopicReport>)>,
    ages: &DeliveryAges,
) -> Option<serde_json::Result<Vec<u8>>> {
    let silent_shards = shards.saturating_sub(reports.len());
    let known: Vec<(usize, TopicReport)> =
        reports.into_iter().filter_map(|(shard, report)| Some((shard, report?))).collect();
    let mut sum = Sum::default();
    known.iter().for_each(|(_, report)| sum.add(report));
    if !sum.is_there() {
        return None;
    }
    let pattern = known.first().map_or("", |(_, report)| &report.pattern);
    let age = ages.iter().find(|(label, _)| *label == pattern);
    let delivery_age = age.map(|(pattern, age)| Age { topics: pattern.to_owned(), ages: age.clone() });
    let shards = known.iter().map(|(shard, report)| OnShard {
        shard: *shard,
        home: report.owner.is_some(),
        subscribers: report.subscribers,
        log_bytes: report.log_bytes,
        deliveries: report.deliveries,
    });
    let shards = shards.collect();
    Some(serde_json::to_vec_pretty(&One {
        schema: TOPIC_SCHEMA,
        silent_shards,
        topic: sum.told(name),
        delivery_age,
        shards,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_topics::Publications;

    fn report(name: &str, home: Option<u64>, subscribers: u64) -> TopicReport {
        let mut report = TopicReport::default();
        (report.name, report.subscribers, report.log_bytes) = (name.to_owned(), subscribers, 100);
        let Deliveries { offered, sent, queued, dropped_oldest, .. } = &mut report.deliveries;
        (*offered, *sent, *queued, *dropped_oldest) = (5, 2, 1, 2);
        report.owner = home.map(|offset| {
            let mut owner = OwnerReport::default();
            (owner.epoch, owner.offset) = (0x1f3a, offset);
            owner.publications = Publications { published: offset + 1, accepted: offset, refused: 1 };
            (owner.payload_bytes, owner.rate) = (10 * offset, 0.5);
            (owner.history_messages, owner.history_bytes) = (3, 30);
            owner
        });
        report
    }

    fn query(prefix: &str, limit: usize) -> TopicQuery {
        TopicQuery { prefix: prefix.to_owned(), limit, order: TopicOrder::Name }
    }

    fn parsed(json: serde_json::Result<Vec<u8>>) -> serde_json::Value {
        serde_json::from_slice(&json.expect("plain data")).expect("JSON")
    }

    #[test]
    fn topics_are_summed_over_shards_and_sorted_by_name() {
        let reports = || {
            vec![
                (0, vec![report("b", None, 2), report("a", Some(12), 1), report("c", Some(1), 0)]),
                (2, vec![report("b", Some(7), 3)]),
            ]
        };
        let all = parsed(list(3, reports(), &query("", 10)));
        assert_eq!(all["schema"], "echoring.topics/1");
        assert_eq!(
            (&all["silent_shards"], &all["count"], &all["truncated"]),
            (&1.into(), &3.into(), &false.into())
        );
        let names: Vec<_> = all["topics"].as_array().expect("a list").iter().map(|t| &t["topic"]).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let b = &all["topics"][1];
        assert_eq!(b["subscribers"], 5);
        assert_eq!(b["position"], serde_json::json!({"epoch": "1f3a", "offset": 7}));
        assert_eq!(b["deliveries"]["offered"], 10);
        assert_eq!(b["deliveries"]["dropped"]["oldest"], 4);
        assert_eq!(b["publications"], serde_json::json!({"published": 8, "accepted": 7, "refused": 1}));
        assert_eq!((&b["payload_bytes"], &b["log_bytes"]), (&70.into(), &200.into()));
        let some = parsed(list(3, reports(), &query("", 2)));
        assert_eq!((&some["count"], &some["truncated"]), (&3.into(), &true.into()));
        assert_eq!(some["topics"].as_array().map(Vec::len), Some(2));
        let prefixed = parsed(list(3, reports(), &query("b", 1)));
        assert_eq!((&prefixed["count"], &prefixed["truncated"]), (&1.into(), &false.into()));
    }

    #[test]
    fn the_biggest_topics_come_first_in_every_order_but_that_of_names() {
        let reports =
            || vec![(0, vec![report("a", Some(1), 1), report("b", None, 9), report("c", Some(1), 4)])];
        let first = |order| {
            let all = parsed(list(1, reports(), &TopicQuery { order, ..query("", 3) }));
            let names = all["topics"].as_array().expect("a list").iter();
            names.map(|topic| topic["topic"].as_str().expect("a name").to_owned()).collect::<String>()
        };
        assert_eq!(first(TopicOrder::Name), "abc");
        assert_eq!(first(TopicOrder::Subscribers), "bca");
        assert_eq!((first(TopicOrder::Rate), first(TopicOrder::Bytes)), ("acb".to_owned(), "acb".to_owned()));
        assert_eq!(first(TopicOrder::Dropped), "abc", "all the same");
    }

    #[test]
    fn one_topic_is_told_by_shard_as_well() {
        let one_of = |reports| one(2, "b", reports, &DeliveryAges::default());
        assert!(one_of(vec![(0, None), (1, None)]).is_none());
        let told = one_of(vec![(0, Some(report("b", None, 2))), (1, Some(report("b", Some(7), 3)))]);
        let told = parsed(told.expect("it is known"));
        assert_eq!((&told["schema"], &told["topic"]), (&"echoring.topic/1".into(), &"b".into()));
        assert_eq!((&told["subscribers"], &told["silent_shards"]), (&5.into(), &0.into()));
        assert_eq!((&told["shards"][0]["home"], &told["shards"][1]["home"]), (&false.into(), &true.into()));
        assert_eq!(told["shards"][1]["subscribers"], 3);
        let orphan = parsed(one_of(vec![(0, Some(report("b", None, 2)))]).expect("it is known"));
        assert!(orphan["position"].is_null());
        assert_eq!(orphan["silent_shards"], 1);
    }

    #[test]
    fn a_topic_that_is_gone_is_not_told_though_its_figures_are_kept() {
        let reports = || vec![(0, report("b", None, 0)), (1, report("a", Some(1), 0))];
        let lists = reports().into_iter().map(|(shard, report)| (shard, vec![report])).collect();
        let all = parsed(list(2, lists, &query("", 10)));
        assert_eq!((&all["count"], &all["topics"][0]["topic"]), (&1.into(), &"a".into()));
        assert!(
            one(2, "b", vec![(0, Some(report("b", None, 0))), (1, None)], &DeliveryAges::default()).is_none()
        );
    }
}
