//! The messages between a coordinator and its agents: JSON, in messages of an exchange over NATS.
//!
//! | subject | carries |
//! |---|---|
//! | `PREFIX.find` | a coordinator asks which agents exist |
//! | `PREFIX.agent.ID` | messages for one agent |
//! | `PREFIX.coordinator.ID` | messages for one coordinator |

use clap::ValueEnum as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::target::{GivenUrl, Lookup};
use super::clock::Offset;
use echoring_load::{LiveResults, RunStage, Segment, Workload};
use echoring_proto::limits::Nanos;

/// The id of an agent or a coordinator, drawn when it starts.
pub(super) type Id = u64;

/// A message to an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ToAgent {
    /// Who sends it.
    pub(super) coordinator: Id,
    /// The run that it is about; 0 for none.
    pub(super) run: u64,
    pub(super) body: Order,
}

/// An order of a coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Report that it exists.
    Find,
    /// Open the connections of a segment.
    Open(Box<Assignment>),
    /// Begin the load at this time of the coordinator's clock. These are the subscribers of each topic.
    Begin { start: Nanos, audiences: Vec<u32> },
    /// All agents have stopped sending, after this number of messages by publisher.
    Conclude { published: Vec<u64> },
    /// End early, with results.
    Stop,
    /// The coordinator is still there.
    Alive,
    /// The coordinator leaves.
    Release,
    /// The answer to a comparison of clocks: when it was sent, by the agent's clock, and arrived and was answered, by the coordinator's.
    Clock { sent: Nanos, received: Nanos, answered: Nanos },
}

/// A share of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Assignment {
    pub(super) segment: Segment,
    pub(super) load: Workload,
    pub(super) urls: Vec<GivenUrl>,
    pub(super) lookup: Lookup,
}

/// Resources of an agent's machine that coordinators may use only with its permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Allowed {
    /// Files of certificates and keys: --ca-file, --tls-cert and --tls-key
    Files,
    /// Proxies: --proxy
    Proxies,
    /// Unix sockets: --unix-socket
    UnixSockets,
}

impl Assignment {
    /// Checks that a share uses no resources of the agent's machine except those that it allows.
    pub(super) fn check(&self, allowed: &[Allowed]) -> Result<(), String> {
        let Lookup { ca_file, identity, proxy, unix_socket, .. } = &self.lookup;
        let named = [
            (Allowed::Files, ca_file.is_some() || identity.is_some()),
            (Allowed::Proxies, proxy.is_some()),
            (Allowed::UnixSockets, unix_socket.is_some()),
        ];
        match named.into_iter().find(|(what, is_named)| *is_named && !allowed.contains(what)) {
            Some((what, _)) => {
                let what =
                    what.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
                Err(format!("it does not open {what} named by others; start it with --allow {what}"))
            }
            None => Ok(()),
        }
    }
}

/// A message to a coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ToCoordinator {
    /// Who sends it.
    pub(super) agent: Id,
    /// The run that it is about; 0 for none.
    pub(super) run: u64,
    pub(super) body: Report,
}

/// The messages of an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// It is there.
    Here { name: String, version: String },
    /// The run cannot be made.
    Refused { why: String },
    /// The run has failed at this agent, which has no results.
    Failed { why: String },
    /// All connections are open or have failed. These are the open subscribers of each topic.
    Settled { subscribers: Vec<u32> },
    /// It has stopped sending, after this number of messages by publisher, 0 for publishers of others.
    StoppedSending { published: Vec<u64> },
    /// Progress of the run; also a sign of life.
    Progress(Box<AgentProgress>),
    /// The results: [`SegmentResult`](echoring_load::record::segment::SegmentResult) as bytes, in Base64.
    Finished { result: String },
    /// A signal asks the agent to end.
    Interrupted,
    /// Asks for the coordinator's clock.
    Clock { sent: Nanos },
}

/// Progress of an agent's run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct AgentProgress {
    pub(super) stage: RunStage,
    /// Connections open now.
    pub(super) open: u64,
    /// Connections that failed or ended early.
    pub(super) failed: u64,
    /// Messages that arrived, warm-up included.
    pub(super) messages: u64,
    /// Results of the measured time so far.
    pub(super) live: LiveResults,
    /// The coordinator's clock.
    pub(super) clock: Option<Offset>,
}

/// The subjects under a prefix.
pub(super) fn find_subject(prefix: &str) -> String {
    format!("{prefix}.find")
}

pub(super) fn agent_subject(prefix: &str, agent: Id) -> String {
    format!("{prefix}.agent.{agent:016x}")
}

pub(super) fn coordinator_subject(prefix: &str, coordinator: Id) -> String {
    format!("{prefix}.coordinator.{coordinator:016x}")
}

/// A message as bytes.
pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("keys are names or numbers")
}

/// The message in these bytes; `None` if they are something else. Loads are always parsed from `str`, so that their parser is compiled
/// once.
pub(super) fn decode<T: DeserializeOwned>(content: &[u8]) -> Option<T> {
    serde_json::from_str(str::from_utf8(content).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn an_agent_opens_nothing_of_its_machine_that_it_does_not_allow() {
        let path = PathBuf::from("/etc/shadow");
        let none = Lookup::default;
        for (lookup, what) in [
            (Lookup { ca_file: Some(path.clone()), ..none() }, Allowed::Files),
            (Lookup { identity: Some((path.clone(), path.clone())), ..none() }, Allowed::Files),
            (Lookup { proxy: Some("http://192.0.2.1".to_owned()), ..none() }, Allowed::Proxies),
            (Lookup { proxy: Some("env".to_owned()), ..none() }, Allowed::Proxies),
            (Lookup { unix_socket: Some(path.clone()), ..none() }, Allowed::UnixSockets),
        ] {
            let (segment, load) = (Segment::WHOLE, Workload::default());
            let assignment = Assignment { segment, load, urls: Vec::new(), lookup };
            let others = [Allowed::Files, Allowed::Proxies, Allowed::UnixSockets];
            let others: Vec<_> = others.into_iter().filter(|other| *other != what).collect();
            let refused = assignment.check(&others).expect_err("not allowed");
            let word = what.to_possible_value().expect("none is hidden");
            assert!(refused.ends_with(&format!("--allow {}", word.get_name())), "{refused}");
            assert_eq!(assignment.check(&[what]), Ok(()));
        }
    }
}
