//! A protocol that expands requests and reads messages.

use super::ids::IdSequence;
use super::json::Pointers;
use super::rules::{ConditionList, Extractor, ParsedMessage, Rule};
use super::split::Split;
use crate::plan::listening::TimeUnit;
use crate::plan::random_time::RandomTime;
use crate::plan::template::{BoundTemplate, Scope};
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::Nanos;
use echoring_proto::random::mix;

/// A protocol whose names are looked up.
#[derive(Clone, Debug)]
pub struct CompiledProtocol {
    pub(crate) kind: MessageKind,
    pub(crate) split: Split,
    /// Whether answers come in the order of their requests.
    pub(crate) in_order: bool,
    pub(crate) ids: IdSequence,
    pub(crate) open: Vec<CompiledStep>,
    /// Steps of a subscriber behind those of `open`.
    pub(crate) subscribe: Vec<CompiledStep>,
    /// The same of a subscriber that comes back; empty if it subscribes as before.
    pub(crate) resume: Vec<CompiledStep>,
    /// Whether publishers do the same.
    pub(crate) publishers_subscribe: bool,
    pub(crate) publish: Option<BoundTemplate>,
    pub(crate) close: Vec<CompiledStep>,
    pub(crate) requests: Vec<CompiledRequest>,
    /// Whether requests take turns instead of being drawn by their weights.
    pub(crate) takes_turns: bool,
    pub(super) session: SessionPlan,
    /// Number of requests of the protocols before it.
    pub(crate) first_request: usize,
    /// Sum of the weights.
    pub(super) weights: u64,
    pub(super) rules: Vec<Rule>,
    pub(super) pointers: Pointers,
    pub(crate) captures: usize,
    pub(crate) heartbeat: Option<(Nanos, BoundTemplate)>,
    /// Whether answers are compared with values of their requests.
    pub(crate) compares_requests: bool,
    /// The time of pushed messages.
    pub(crate) time: Option<(Extractor, TimeUnit)>,
}

/// A message to send, and the awaited message.
#[derive(Clone, Debug)]
pub(crate) struct CompiledStep {
    /// `open step 1`, for people.
    pub(crate) name: String,
    pub(crate) send: Option<BoundTemplate>,
    pub(crate) awaits: ConditionList,
    pub(crate) timeout: Nanos,
    /// Values to keep, with their places among the captures.
    pub(crate) capture: Vec<(usize, String, Extractor)>,
}

#[derive(Clone, Debug)]
pub(crate) struct CompiledRequest {
    pub(crate) name: String,
    pub(super) weight: u64,
    pub(crate) send: BoundTemplate,
    pub(crate) has_payload: bool,
    /// Conditions of a right answer.
    pub(crate) expect: ConditionList,
    /// The pause between an answer and the next request.
    pub(crate) think: Option<RandomTime>,
}

/// The requests of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SessionPlan {
    /// These, in order.
    Listed(Vec<usize>),
    /// As many as drawn between the two, each drawn by its weight.
    Drawn(u32, u32),
}

impl CompiledProtocol {
    /// The number of requests of a session to which this random number belongs.
    pub(crate) fn session_length(&self, drawn: u64) -> u32 {
        match &self.session {
            SessionPlan::Listed(requests) => requests.len() as u32,
            SessionPlan::Drawn(least, most) => least + (drawn % u64::from(most - least + 1)) as u32,
        }
    }

    /// The request at a step of a session; `None` if it is drawn.
    pub(crate) fn session_request(&self, step: u32) -> Option<usize> {
        match &self.session {
            SessionPlan::Listed(requests) => requests.get(step as usize).copied(),
            SessionPlan::Drawn(..) => None,
        }
    }

    /// Reads a message.
    #[inline]
    pub(crate) fn read<'a>(&self, message: &'a [u8]) -> ParsedMessage<'a> {
        ParsedMessage::new(&self.pointers, message)
    }

    /// The first rule whose conditions hold.
    #[inline]
    pub(crate) fn rule(&self, message: &ParsedMessage<'_>, scope: &Scope<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.when.hold(message, scope))
    }

    /// The request that a connection sends as its message `sequence`.
    #[inline]
    pub(crate) fn request(&self, seed: u64, connection: u32, sequence: u64) -> usize {
        if self.requests.len() == 1 {
            return 0;
        }
        if self.takes_turns {
            return (sequence % self.requests.len() as u64) as usize;
        }
        let drawn = mix(seed ^ mix(u64::from(connection) << 40 ^ sequence)) % self.weights;
        let mut until = 0;
        let is_drawn = |request: &CompiledRequest| {
            until += request.weight;
            drawn < until
        };
        self.requests.iter().position(is_drawn).unwrap_or(0)
    }

    /// The names of the rules' entries, for people.
    pub(crate) fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.name.as_str())
    }
}
