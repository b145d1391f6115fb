//! Commands about all nodes of a cluster: each node runs them for itself, and their results are put together.

use bytes::Bytes;
use echoring_wire::centrifuge::ErrorCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::reply::{ChannelList, NodeList, Outcome};
use crate::limits::ADMIN_TOPICS_MAX;
use echoring_server::{ClusterNode, PeerAnswer};

/// The reply of a node.
#[derive(Debug, Deserialize)]
struct NodeReply<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<ApiError>,
}

/// Asks the other nodes to run a command that this one runs as `own`.
///
/// # Errors
/// The first error of a node, and if one does not answer.
pub(super) async fn at_all(
    cluster: &ClusterNode,
    method: &str,
    parameters: Bytes,
    own: impl Future<Output = Result<Outcome, ApiError>>,
) -> Result<Outcome, ApiError> {
    let line = format!("POST /api/{method}");
    let (own, others) = tokio::join!(own, cluster.ask_others(|_| true, &line, ("", parameters)));
    let mut outcome = own?;
    for (node, answer) in others {
        match add(&mut outcome, &answer) {
            // The list of the nodes is that of those that answer.
            Err(_) if matches!(outcome, Outcome::Info(_)) => {}
            added => added.map_err(|error| error.at_node(&node.node))?,
        }
    }
    Ok(outcome)
}

/// Adds the result of another node.
fn add(outcome: &mut Outcome, answer: &PeerAnswer) -> Result<(), ApiError> {
    let unanswered = |detail: &str| ApiError::new(ErrorCode::Internal, detail);
    let (_, body) = answer.as_ref().map_err(|detail| unanswered(detail))?;
    let malformed = |_| unanswered("its answer is malformed");
    let NodeReply { result, error } = serde_json::from_slice(body).map_err(malformed)?;
    if let Some(error) = error {
        return Err(error);
    }
    let result = result.map_or("", RawValue::get);
    match outcome {
        Outcome::Channels(ChannelList { channels }) => {
            let other: ChannelList = serde_json::from_str(result).map_err(malformed)?;
            for (name, channel) in other.channels {
                channels.entry(name).or_default().num_clients += channel.num_clients;
            }
            if channels.len() > ADMIN_TOPICS_MAX {
                return Err(ApiError::new(ErrorCode::LimitExceeded, "too many channels; give a pattern"));
            }
        }
        Outcome::Info(NodeList { nodes }) => {
            let other: NodeList = serde_json::from_str(result).map_err(malformed)?;
            nodes.extend(other.nodes);
        }
        _ if result.is_empty() => return Err(unanswered("its answer is malformed")),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> PeerAnswer {
        Ok((200, body.as_bytes().to_vec()))
    }

    fn added(outcome: &mut Outcome, answers: &[PeerAnswer]) -> Result<String, u32> {
        for answer in answers {
            add(outcome, answer).map_err(|error| error.code)?;
        }
        Ok(serde_json::to_string(outcome).expect("plain data"))
    }

    #[test]
    fn results_of_nodes_are_put_together() {
        let mut channels = Outcome::Channels(ChannelList::default());
        let answers = [
            answer(r#"{"result":{"channels":{"a":{"num_clients":2},"b":{"num_clients":1}}}}"#),
            answer(r#"{"result":{"channels":{"a":{"num_clients":3}}}}"#),
        ];
        let expected = r#"{"channels":{"a":{"num_clients":5},"b":{"num_clients":1}}}"#;
        assert_eq!(added(&mut channels, &answers).as_deref(), Ok(expected));
        let node = r#"{"uid":"2","name":"b","version":"0.1.0","num_clients":1,"num_subs":2,"num_channels":3,"uptime":4}"#;
        let mut info = Outcome::Info(NodeList::default());
        let answers = [answer(&format!(r#"{{"result":{{"nodes":[{node}]}}}}"#))];
        assert_eq!(added(&mut info, &answers), Ok(format!(r#"{{"nodes":[{node}]}}"#)));
        let mut done = Outcome::Done {};
        assert_eq!(added(&mut done, &[answer(r#"{"result":{}}"#)]).as_deref(), Ok("{}"));
    }

    #[test]
    fn a_node_that_fails_or_says_nothing_is_an_error() {
        for (answer, code) in [
            (answer(r#"{"error":{"code":111,"message":"too many requests"}}"#), 111),
            (answer("{}"), 100),
            (answer("no JSON"), 100),
            (Err("it does not answer in time"), 100),
        ] {
            assert_eq!(added(&mut Outcome::Done {}, &[answer]), Err(code));
        }
        let mut channels = Outcome::Channels(ChannelList::default());
        assert_eq!(added(&mut channels, &[answer(r#"{"result":{}}"#)]), Err(100));
    }
}
