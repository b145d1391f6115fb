//! Another process takes a node over: the node comes to rest, falls silent, and is continued there, or here if that fails.

use echoring_proto::limits::{Nanos, SECOND};

use echoring_topics::ClientId;

use super::node::Clock;
use super::store::Subscriber;
use super::truth::Entry;

/// Time in which a node must come to rest.
const REST_TIMEOUT: Nanos = 6 * SECOND;

#[derive(Debug)]
pub struct Takeover {
    /// The clock of the other process.
    clock: Clock,
    /// How long nobody is the node.
    silence: Nanos,
    fails: bool,
    given_up_at: Nanos,
    stage: Stage,
    /// What the clients do meanwhile.
    pub held: Vec<Held>,
}

/// What waits until a process is the node again.
#[derive(Debug)]
pub enum Held {
    Publication(String, Entry),
    Subscriber(Subscriber),
    /// The last subscriber of a topic has left.
    Unsubscribed(String),
    /// A client has joined a topic, or left it.
    Member(String, ClientId, bool),
}

#[derive(Debug)]
enum Stage {
    /// What waits for other nodes is answered.
    ComesToRest,
    /// Packets are taken no more; streams are waited for.
    TakesNothing,
    /// The state, and when a process goes on with it.
    Silent(Vec<u8>, Nanos),
    /// The other process is the node; its table does not know the other nodes yet.
    Continued,
}

/// What the node does next.
#[derive(Debug)]
pub enum Step {
    Wait,
    Suspend,
    /// This process goes on.
    GoOn,
    /// The other process goes on from this state, with its clock.
    Continue(Vec<u8>, Clock),
}

impl Takeover {
    pub fn new(clock: Clock, silence: Nanos, fails: bool, now: Nanos) -> Takeover {
        let given_up_at = now + REST_TIMEOUT;
        Takeover { clock, silence, fails, given_up_at, stage: Stage::ComesToRest, held: Vec::new() }
    }

    /// The subscribers of a topic that wait, or of all topics, go elsewhere.
    pub fn take_subscribers(&mut self, topic: Option<&str>) -> Vec<Subscriber> {
        let mut taken = Vec::new();
        for held in std::mem::take(&mut self.held) {
            match held {
                Held::Subscriber(subscriber) if topic.is_none_or(|topic| topic == subscriber.topic) => {
                    taken.push(subscriber);
                }
                held => self.held.push(held),
            }
        }
        taken
    }

    pub fn takes_packets(&self) -> bool {
        matches!(self.stage, Stage::ComesToRest | Stage::Continued)
    }

    pub fn has_continued(&self) -> bool {
        matches!(self.stage, Stage::Continued)
    }

    pub fn is_silent(&self) -> bool {
        matches!(self.stage, Stage::Silent(..))
    }

    pub fn suspended(&mut self, state: Vec<u8>, now: Nanos) {
        self.stage = Stage::Silent(state, now + self.silence);
    }

    pub fn step(&mut self, now: Nanos, is_at_rest: impl Fn(bool) -> bool) -> Step {
        match &mut self.stage {
            Stage::Silent(_, at) if now < *at => Step::Wait,
            Stage::Silent(..) if self.fails => Step::GoOn,
            Stage::Silent(state, _) => {
                let state = std::mem::take(state);
                self.stage = Stage::Continued;
                Step::Continue(state, self.clock)
            }
            Stage::Continued => Step::Wait,
            _ if now >= self.given_up_at => Step::GoOn,
            Stage::ComesToRest if is_at_rest(false) => {
                self.stage = Stage::TakesNothing;
                Step::Wait
            }
            Stage::TakesNothing if is_at_rest(true) => Step::Suspend,
            Stage::ComesToRest | Stage::TakesNothing => Step::Wait,
        }
    }
}
