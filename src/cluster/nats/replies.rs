//! The subjects at which a node answers other clients of NATS.
//!
//! A client chooses the subject of the answer, and the node publishes it with its own permissions. So a node answers at inboxes only:
//! at any other subject an answer would be a request to JetStream, a message of a stream, a publication, or a packet of a node, which
//! the client itself may not be allowed to send.

use crate::nats::options::{INBOX, NatsOptions, is_within};

/// Where answers may go.
#[derive(Debug)]
pub(crate) struct ReplySubjects {
    inboxes: Vec<String>,
    /// The inboxes of nodes.
    of_nodes: String,
}

impl ReplySubjects {
    pub(crate) fn new(options: &NatsOptions) -> ReplySubjects {
        ReplySubjects { inboxes: options.inboxes.clone(), of_nodes: options.own_inbox() }
    }

    /// Whether a client that is no node may be answered here.
    pub(crate) fn includes(&self, reply: &str) -> bool {
        let mut inboxes = self.inboxes.iter().map(String::as_str).chain([INBOX]);
        inboxes.any(|inbox| is_below(reply, inbox)) && !is_within(reply, &self.of_nodes)
    }
}

/// Whether another node may be answered here.
pub(crate) fn is_of_node(reply: &str) -> bool {
    is_below(reply, INBOX)
}

fn is_below(reply: &str, inbox: &str) -> bool {
    is_within(reply, inbox) && reply.len() > inbox.len() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_answered_at_inboxes_and_nowhere_else() {
        let options = NatsOptions {
            prefix: "edge.eu".into(),
            inboxes: vec!["replies.of.app".into()],
            ..NatsOptions::default()
        };
        let replies = ReplySubjects::new(&options);
        for good in ["_INBOX.a", "_INBOX.a.b", "_INBOX.edge.eux.a", "replies.of.app.7"] {
            assert!(replies.includes(good), "{good}");
        }
        for bad in [
            "",
            "_INBOX",
            "_INBOX.",
            "_INBOXES.a",
            "answers",
            "replies.of.app",
            "replies.of.apps.7",
            "$JS.API.STREAM.PURGE.edge=2eeu-durable-0",
            "$SYS.REQ.SERVER.PING",
            "edge.eu.publish.other",
            "edge.eu.durable.0.t",
            "edge.eu.heartbeat",
            "edge.eu.node.0000000000000001",
            "_INBOX.edge.eu.of-a-node",
            "_R_.AbCdEf.a",
            "_GR_.AbCdEf.GhIjKl._INBOX.a",
        ] {
            assert!(!replies.includes(bad), "{bad}");
        }
        assert!(is_of_node("_INBOX.edge.eu.a") && is_of_node("_INBOX.a"));
        assert!(!is_of_node("edge.eu.publish.t") && !is_of_node("$JS.API.INFO"));
    }
}
