//! One run of several agents as their coordinator sees it: the awaited agents, the messages to them, and the outcome of
//! each.
//!
//! Messages and the time go in, messages for agents come out; nothing is sent here.

use std::time::Duration;

use super::clock::Offset;
use super::wire::{AgentProgress, Assignment, Id, Order, Report};
use crate::limits::{AGENT_ALIVE_INTERVAL, AGENT_LATE_AFTER, AGENT_START_LEAD, AGENT_TIMEOUT};
use echoring_load::record::segment::{SegmentResult, from_text};
use echoring_load::{LiveResults, RunStage, Segment, record};
use echoring_proto::limits::Nanos;

/// An agent that was chosen.
#[derive(Clone, Debug)]
pub(super) struct ChosenAgent {
    pub(super) id: Id,
    pub(super) name: String,
}

/// How far an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Opening,
    Settled,
    WarmingUp,
    Measuring,
    Draining,
    Finished,
}

/// One agent within a run.
#[derive(Debug)]
struct Member {
    agent: ChosenAgent,
    segment: Segment,
    /// When it last sent something.
    heard_at: Nanos,
    /// How far it is, and since when.
    reached: (Step, Nanos),
    subscribers: Option<Vec<u32>>,
    published: Option<Vec<u64>>,
    progress: Option<AgentProgress>,
    result: Option<SegmentResult>,
    lost: Option<String>,
}

impl Member {
    /// Whether it is waited for, until it `has` something.
    fn owes(&self, has: bool) -> bool {
        self.lost.is_none() && !has
    }

    fn step(&self) -> Step {
        let stage = self.progress.as_ref().map_or(RunStage::Connecting, |progress| progress.stage);
        match stage {
            _ if self.result.is_some() => Step::Finished,
            RunStage::WarmingUp => Step::WarmingUp,
            RunStage::Measuring => Step::Measuring,
            RunStage::Draining | RunStage::Done => Step::Draining,
            _ if self.subscribers.is_some() => Step::Settled,
            _ => Step::Opening,
        }
    }
}

/// An order for all members that are not lost, or for one of them.
#[derive(Clone, Debug)]
pub(super) enum Outgoing {
    All(Order),
    One(Id, Order),
}

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    /// With the results of all agents that were not lost, merged, and the outcome of each agent.
    Finished(Box<SegmentResult>, Vec<record::Agent>),
    /// The run could not be made.
    Refused(String),
}

/// A run in progress.
#[derive(Debug)]
pub(super) struct SharedRun {
    members: Vec<Member>,
    connections: u32,
    topics: usize,
    publishers: usize,
    warmup: Nanos,
    duration: Nanos,
    started_at: Option<Nanos>,
    is_concluded: bool,
    is_stopped: bool,
    alive_at: Nanos,
    refused: Option<String>,
}

impl SharedRun {
    /// A run of `load` by these agents, and the first orders to them.
    pub(super) fn new(
        agents: &[ChosenAgent],
        assignment: &Assignment,
        now: Nanos,
    ) -> (SharedRun, Vec<Outgoing>) {
        let load = &assignment.load;
        let segments = (0..).map_while(|index| Segment::new(index, agents.len() as u32));
        let members: Vec<Member> = agents
            .iter()
            .zip(segments)
            .map(|(agent, segment)| Member {
                agent: agent.clone(),
                segment,
                heard_at: now,
                reached: (Step::Opening, now),
                subscribers: None,
                published: None,
                progress: None,
                result: None,
                lost: None,
            })
            .collect();
        let open = |member: &Member| {
            let assignment = Assignment { segment: member.segment, ..assignment.clone() };
            Outgoing::One(member.agent.id, Order::Open(Box::new(assignment)))
        };
        let outgoing = members.iter().map(open).collect();
        let nanos = |time: Duration| time.as_nanos() as Nanos;
        let run = SharedRun {
            members,
            connections: load.connections,
            topics: load.topics as usize,
            publishers: load.publishers as usize,
            warmup: nanos(load.warmup),
            duration: nanos(load.duration),
            started_at: None,
            is_concluded: false,
            is_stopped: false,
            alive_at: now,
            refused: None,
        };
        (run, outgoing)
    }

    /// The measured time, once it is known: its first nanosecond, and one past its last.
    pub(super) fn window(&self) -> Option<(Nanos, Nanos)> {
        let from = self.started_at? + self.warmup;
        Some((from, from + self.duration))
    }

    /// Handles a message of an agent. Returns whether a signal asks it to end, which ends the run.
    pub(super) fn handle(&mut self, agent: Id, report: Report, now: Nanos) -> bool {
        let Some(member) = self.members.iter_mut().find(|member| member.agent.id == agent) else {
            return false;
        };
        member.heard_at = now;
        match report {
            Report::Here { .. } | Report::Clock { .. } => {}
            Report::Refused { why } => {
                member.lost = Some(why.clone());
                self.refused.get_or_insert_with(|| format!("agent {}: {why}", member.agent.name));
            }
            Report::Failed { why } => member.lost = Some(why),
            Report::Settled { subscribers } => member.subscribers = Some(subscribers),
            Report::StoppedSending { published } => member.published = Some(published),
            Report::Progress(progress) => member.progress = Some(*progress),
            Report::Finished { result } => match from_text(&result) {
                Ok(result) => member.result = Some(result),
                Err(why) => member.lost = Some(why.to_string()),
            },
            Report::Interrupted => return true,
        }
        let step = member.step();
        if step > member.reached.0 {
            member.reached = (step, now);
        }
        false
    }

    /// The orders that are due at `now`.
    pub(super) fn poll(&mut self, now: Nanos, is_stopped: bool) -> Vec<Outgoing> {
        let mut outgoing = Vec::new();
        for member in &mut self.members {
            let silence = now.saturating_sub(member.heard_at);
            if member.owes(member.result.is_some()) && silence >= AGENT_TIMEOUT {
                member.lost = Some(format!("silent for {:?}", Duration::from_nanos(AGENT_TIMEOUT)));
            }
        }
        if now >= self.alive_at {
            self.alive_at = now + AGENT_ALIVE_INTERVAL;
            outgoing.push(Outgoing::All(Order::Alive));
        }
        // Before the load begins, an agent that is missing would make it another one.
        if self.started_at.is_none()
            && let Some(member) = self.members.iter().find(|member| member.lost.is_some())
        {
            let why = member.lost.clone().unwrap_or_default();
            self.refused.get_or_insert_with(|| format!("agent {}: {why}", member.agent.name));
        }
        if (is_stopped || self.refused.is_some()) && !self.is_stopped {
            self.is_stopped = true;
            outgoing.push(Outgoing::All(Order::Stop));
        }
        if self.started_at.is_none() && !self.members.iter().any(|it| it.owes(it.subscribers.is_some())) {
            let start = now + AGENT_START_LEAD;
            self.started_at = Some(start);
            outgoing.push(Outgoing::All(Order::Begin { start, audiences: self.audiences() }));
        }
        if !self.is_concluded && !self.members.iter().any(|it| it.owes(it.published.is_some())) {
            self.is_concluded = true;
            outgoing.push(Outgoing::All(Order::Conclude { published: self.published() }));
        }
        outgoing
    }

    /// Whether an agent is no longer awaited.
    pub(super) fn is_lost(&self, agent: Id) -> bool {
        self.members.iter().any(|member| member.agent.id == agent && member.lost.is_some())
    }

    /// Whether all agents have finished, or are lost.
    pub(super) fn is_over(&self) -> bool {
        !self.members.iter().any(|member| member.owes(member.result.is_some()))
    }

    fn audiences(&self) -> Vec<u32> {
        let mut sum = vec![0_u32; self.topics];
        for subscribers in self.members.iter().filter_map(|member| member.subscribers.as_ref()) {
            for (sum, count) in sum.iter_mut().zip(subscribers) {
                *sum = sum.saturating_add(*count);
            }
        }
        sum
    }

    fn published(&self) -> Vec<u64> {
        let mut all = vec![0_u64; self.publishers];
        for published in self.members.iter().filter_map(|member| member.published.as_ref()) {
            for (all, count) in all.iter_mut().zip(published) {
                *all = (*all).max(*count);
            }
        }
        all
    }

    /// The stage that the slowest agent is in.
    pub(super) fn stage(&self) -> RunStage {
        let order = [RunStage::Connecting, RunStage::WarmingUp, RunStage::Measuring, RunStage::Draining];
        let has = |stage: &RunStage| {
            let of = |member: &Member| member.progress.as_ref().map_or(RunStage::Connecting, |it| it.stage);
            self.members.iter().any(|member| member.owes(member.result.is_some()) && of(member) == *stage)
        };
        order.into_iter().find(has).unwrap_or(RunStage::Draining)
    }

    /// The names of the agents that are behind the others, or behind the times that the run has.
    pub(super) fn awaited(&self, now: Nanos) -> Vec<&str> {
        let is_past = |at: Nanos| now.saturating_sub(at) >= AGENT_LATE_AFTER;
        let begins = self.started_at.into_iter().map(|start| (start, Step::WarmingUp));
        let window = self.window().map(|(from, until)| [(from, Step::Measuring), (until, Step::Draining)]);
        let others = self.members.iter().filter(|member| member.lost.is_none());
        let others = others.map(|member| (member.reached.1, member.reached.0));
        let due = begins.chain(window.into_iter().flatten()).chain(others);
        let Some(due) = due.filter(|(at, _)| is_past(*at)).map(|(_, step)| step).max() else {
            return Vec::new();
        };
        let is_late = |member: &&Member| member.owes(member.result.is_some()) && member.reached.0 < due;
        self.members.iter().filter(is_late).map(|member| member.agent.name.as_str()).collect()
    }

    /// Open and failed connections, messages, and results so far, of all agents.
    pub(super) fn progress(&self) -> (u64, u64, u64, LiveResults) {
        let mut sum = (0, 0, 0, LiveResults::default());
        for progress in self.members.iter().filter_map(|member| member.progress.as_ref()) {
            sum.0 += progress.open;
            sum.1 += progress.failed;
            sum.2 += progress.messages;
            sum.3.merge(&progress.live);
        }
        sum
    }

    /// The result, once the run is [over](SharedRun::is_over).
    pub(super) fn end(self) -> End {
        if let Some(why) = self.refused {
            return End::Refused(why);
        }
        let connections = self.connections;
        let agents = self.members.iter().map(|member| described(member, connections)).collect();
        let lost: Vec<String> = self
            .members
            .iter()
            .filter_map(|member| Some(format!("agent {}: {}", member.agent.name, member.lost.as_ref()?)))
            .collect();
        let results = self.members.into_iter().filter_map(|member| member.result);
        let Some(mut sum) = SegmentResult::merged(results) else { return End::Refused(lost.join(", ")) };
        for cause in lost {
            sum.fail(&cause);
        }
        End::Finished(Box::new(sum), agents)
    }
}

fn described(member: &Member, connections: u32) -> record::Agent {
    let Member { agent, segment, progress, result, lost, .. } = member;
    let clock = progress.as_ref().and_then(|progress| progress.clock);
    let seen = progress.as_ref();
    record::Agent {
        name: agent.name.clone(),
        connections: segment.count(connections),
        opened: result.as_ref().map_or_else(|| seen.map_or(0, |it| it.open), SegmentResult::opened),
        messages: result.as_ref().map_or_else(|| seen.map_or(0, |it| it.messages), SegmentResult::messages),
        clock_behind_ns: clock.map(|Offset { ahead_ns, .. }| ahead_ns),
        clock_uncertainty_ns: clock.map(|Offset { uncertainty_ns, .. }| uncertainty_ns),
        lost: lost.clone(),
        environment: result.as_ref().map(|result| result.environment().clone()),
    }
}

#[cfg(test)]
mod tests;
