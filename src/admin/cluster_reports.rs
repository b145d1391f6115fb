//! `/cluster/topics`, `/cluster/connections`, `/cluster/stats` and `/cluster/limits`: the answer of each node of the
//! cluster.
//!
//! The nodes are asked at once, and each answers as it does at its own admin address. A node that does not answer is named.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::http::Reply;
use super::publications::InvalidBody;
use super::topics::refuse;
use echoring_server::{ClusterNode, PeerAnswer};

const SCHEMA: &str = "echoring.cluster.reports/1";

/// The asked nodes, and the request.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) method: &'a Method,
    /// The part of the path behind `/cluster/`.
    pub(super) report: &'a str,
    /// The parameters of the report.
    query: String,
    /// The name of the only node that is asked.
    node: Option<String>,
}

impl<'a> Question<'a> {
    /// # Errors
    /// If the name of the node is not UTF-8.
    pub(super) fn new(method: &'a Method, report: &'a str, query: &str) -> Result<Question<'a>, InvalidBody> {
        let mut node = None;
        let mut passed_on = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match super::topics::parameters(parameter).next() {
                Some(("node", Some(name))) => node = Some(name),
                Some(("node", None)) => {
                    return Err(InvalidBody::bad("node", "must be percent-encoded UTF-8"));
                }
                _ => passed_on.push(parameter),
            }
        }
        Ok(Question { method, report, query: passed_on.join("&"), node })
    }

    /// The path and the query at each node.
    pub(super) fn uri(&self) -> String {
        let Question { report, query, .. } = self;
        let separator = if query.is_empty() { "" } else { "?" };
        format!("/{report}{separator}{query}")
    }

    /// Asks other nodes, and adds the answer of this node, `own`, if it is asked too.
    pub(super) async fn answers(self, cluster: &ClusterNode, own: impl Future<Output = Reply>) -> Reply {
        let status = cluster.status();
        let is_asked = |name: &str| self.node.as_ref().is_none_or(|wanted| wanted == name);
        // HEAD has the status of GET, and other nodes need not know of it.
        let method = if *self.method == Method::HEAD { &Method::GET } else { self.method };
        let line = format!("{method} {}", self.uri());
        let own = async {
            if !is_asked(&status.node) {
                return None;
            }
            let Reply { status: code, body, .. } = own.await;
            Some((status.id.clone(), (status.node.clone(), Ok((code.as_u16(), body)))))
        };
        let others = cluster.ask_others(|member| is_asked(&member.node), &line, ("", Bytes::new()));
        let (own, others) = tokio::join!(own, others);
        let others = others.into_iter().map(|(member, answer)| (member.id, (member.node, answer)));
        let answers: BTreeMap<String, (String, PeerAnswer)> = own.into_iter().chain(others).collect();
        if answers.is_empty() {
            return refuse(&InvalidBody::bad("node", "names no node of the cluster"));
        }
        let nodes: Vec<NodeReport<'_>> =
            answers.iter().map(|(id, (name, answer))| NodeReport::new(name, id, answer)).collect();
        let topics = (self.report == "topics").then(|| topics(&nodes));
        let silent_nodes = nodes.iter().filter(|node| node.report.is_none()).count();
        Reply::json(
            StatusCode::OK,
            serde_json::to_vec(&Reports { schema: SCHEMA, silent_nodes, topics, nodes }),
        )
    }
}

#[derive(Debug, Serialize)]
struct Reports<'a> {
    schema: &'static str,
    /// Nodes without a report.
    silent_nodes: usize,
    /// Topics of all nodes together, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<Topic>>,
    nodes: Vec<NodeReport<'a>>,
}

#[derive(Debug, Serialize)]
struct NodeReport<'a> {
    node: &'a str,
    id: &'a str,
    /// The status of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a RawValue>,
    /// Why there is no report.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> NodeReport<'a> {
    fn new(node: &'a str, id: &'a str, answer: &'a PeerAnswer) -> NodeReport<'a> {
        let of_node = NodeReport { node, id, status: None, report: None, error: None };
        match answer {
            Err(error) => NodeReport { error: Some(error), ..of_node },
            Ok((status, body)) => match serde_json::from_slice(body) {
                Ok(report) => NodeReport { status: Some(*status), report: Some(report), ..of_node },
                Err(_) => {
                    NodeReport { status: Some(*status), error: Some("its answer is not JSON"), ..of_node }
                }
            },
        }
    }
}

/// A topic of the cluster.
#[derive(Debug, Serialize)]
struct Topic {
    topic: String,
    /// The subscribers at all nodes.
    subscribers: u64,
    /// Of a topic with presence: the most members that a node counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<u64>,
    /// The nodes that have it.
    nodes: u64,
    /// The latest that a node knows; `null` if they know of different epochs.
    position: Option<Value>,
    #[serde(skip)]
    is_divided: bool,
}

/// The topics in the reports of nodes, by name.
fn topics(nodes: &[NodeReport<'_>]) -> Vec<Topic> {
    let reports = nodes.iter().filter_map(|node| serde_json::from_str::<Value>(node.report?.get()).ok());
    let mut topics: BTreeMap<String, Topic> = BTreeMap::new();
    for mut report in reports {
        for of_node in report["topics"].as_array_mut().into_iter().flatten() {
            let Some(name) = of_node["topic"].as_str() else { continue };
            let subscribers = of_node["subscribers"].as_u64().unwrap_or_default();
            let topic = topics.entry(name.to_owned()).or_insert_with_key(|name| Topic {
                topic: name.clone(),
                subscribers: 0,
                members: None,
                nodes: 0,
                position: None,
                is_divided: false,
            });
            topic.subscribers += subscribers;
            topic.members = topic.members.max(of_node["members"].as_u64());
            topic.nodes += 1;
            topic.learn(of_node["position"].take());
        }
    }
    topics.into_values().collect()
}

impl Topic {
    fn learn(&mut self, position: Value) {
        if position.is_null() || self.is_divided {
            return;
        }
        match &self.position {
            Some(known) if known["epoch"] != position["epoch"] => {
                (self.position, self.is_divided) = (None, true);
            }
            Some(known) if known["offset"].as_u64() >= position["offset"].as_u64() => {}
            _ => self.position = Some(position),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_names_a_node_and_passes_everything_else_on() {
        for (query, uri, node) in [
            ("", "/topics", None),
            ("limit=5&prefix=a%20b", "/topics?limit=5&prefix=a%20b", None),
            ("node=edge%201&limit=5", "/topics?limit=5", Some("edge 1")),
        ] {
            let question = Question::new(&Method::GET, "topics", query).expect("a question");
            assert_eq!((&*question.uri(), question.node.as_deref()), (uri, node));
        }
        assert!(Question::new(&Method::GET, "topics", "node=%ff").is_err());
    }

    #[test]
    fn topics_of_nodes_are_summed_and_positions_that_contradict_each_other_left_out() {
        let report = |topics: Value| Ok((200, json!({ "topics": topics }).to_string().into_bytes()));
        let at = |epoch: &str, offset: u64| json!({"epoch": epoch, "offset": offset});
        let one = report(json!([
            {"topic": "a", "subscribers": 2, "position": at("1", 7)},
            {"topic": "b", "subscribers": 1, "position": at("1", 7)},
        ]));
        let two = report(json!([
            {"topic": "a", "subscribers": 3, "position": at("1", 9)},
            {"topic": "b", "subscribers": 0, "position": at("2", 1)},
            {"topic": "c", "subscribers": 4, "position": null},
        ]));
        let answers = [one, two, Err("it does not answer in time"), Ok((503, b"no JSON".to_vec()))];
        let nodes: Vec<_> = answers.iter().map(|answer| NodeReport::new("n", "1", answer)).collect();
        let topics: Vec<_> = topics(&nodes)
            .into_iter()
            .map(|topic| (topic.topic, topic.subscribers, topic.nodes, topic.position))
            .collect();
        let expected = [("a", 5, 2, Some(at("1", 9))), ("b", 1, 2, None), ("c", 4, 1, None)];
        assert_eq!(
            topics,
            expected.map(|(name, subscribers, nodes, position)| (
                name.to_owned(),
                subscribers,
                nodes,
                position
            ))
        );
        assert_eq!(nodes.iter().filter(|node| node.report.is_none()).count(), 2);
    }
}
