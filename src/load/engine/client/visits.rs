//! Session mode: users arrive at the times of the schedule. Each opens a connection, goes through the conversation of the
//! protocol with its pauses, and leaves. The slots are those of [connect mode](super::attempts). Such a session is a *visit* in
//! the code, where a session is the conversation of one connection.
//!
//! An arrival for which no slot is free is refused and counted, because users do not queue for a generator. The first
//! message of a session is due when its conversation is open, and each other when the pause after the last answer is over.
//! So a late answer delays what the same user does next, as it would delay a person, and no arrival of another.
//!
//! Never: a session that has begun and is neither completed, failed nor unfinished.

use super::connection::Flow;
use super::slots::{Attempt, AttemptStage, Visit};
use super::{Client, Link, Phase};
use crate::measure::{MessageName, SampleOutcome, Times};
use crate::plan::Mode;
use crate::plan::payload::Id;
use crate::plan::protocol::CompiledProtocol;
use echoring_proto::limits::Nanos;
use echoring_proto::random::mix;

/// How a session ended.
pub(super) enum VisitEnd<'a> {
    /// All its requests were answered.
    Completed(Nanos),
    Failed(&'a str),
    /// The end of the run cut it off.
    Unfinished,
}

impl Client {
    /// A session is due at `intended`. Returns false if there is no slot for it.
    pub(super) fn has_slot(&mut self, intended: Nanos) -> bool {
        let is_full = self.slots.waiting.len() >= self.slots.free.len();
        if is_full && self.shared.load.mode == Mode::Session {
            self.visit_refused(intended);
            return false;
        }
        true
    }

    pub(super) fn visit_refused(&mut self, intended: Nanos) {
        let counts = u64::from(self.tally.window.contains(intended));
        self.tally.sessions.refused += counts;
        self.tally.counts.unsent += counts;
    }

    /// A connection or session that was due at `intended` gets a slot, and its protocol. Returns whether it is a session.
    pub(super) fn visit_begins(&mut self, position: usize, intended: Nanos) -> bool {
        let connection = &mut self.connections[position];
        let Flow::Attempt(attempt) = &mut connection.flow else { return false };
        // Which slot is free is chance: what is drawn is that of the thread's next connection.
        let (seed, segment) = (self.shared.load.seed, self.shared.segment);
        let thread = self.thread as u64 * u64::from(segment.of()) + u64::from(segment.index());
        let drawn = mix(seed ^ mix(thread << 40 ^ self.slots.begun));
        connection.protocol = self.shared.protocol_for(mix(seed ^ thread) / 2 + self.slots.begun);
        self.slots.begun += 1;
        let protocol = self.protocols.get(connection.protocol);
        let Some(protocol) = protocol.filter(|_| self.shared.load.mode == Mode::Session) else {
            return false;
        };
        let steps = protocol.session_length(mix(drawn));
        attempt.visit = Some(Visit { due: intended, drawn, steps, ..Visit::default() });
        self.tally.sessions.started += u64::from(self.tally.window.contains(intended));
        true
    }

    /// Whether a session has this slot, and is not counted yet.
    pub(super) fn is_visited(&self, position: usize) -> bool {
        matches!(&self.connections[position].flow, Flow::Attempt(Attempt { visit: Some(_), .. }))
    }

    /// The conversation is open: the user sends the first request.
    pub(super) fn visit_opened(&mut self, link: &mut Link<'_>, position: usize) {
        let now = link.now();
        let Flow::Attempt(attempt) = &mut self.connections[position].flow else { return };
        let Some(visit) = &attempt.visit else { return };
        if self.tally.window.contains(visit.due) {
            self.tally.sessions.setup.saturating_record(now.saturating_sub(visit.due));
        }
        attempt.stage = AttemptStage::Thinking;
        self.slots.unanswered -= 1;
        self.visit_sends(link, position, now);
    }

    /// The pause of a session was over at `intended`: the user sends the next request.
    pub(super) fn visit_continues(&mut self, link: &mut Link<'_>, position: usize, intended: Nanos) {
        if matches!(self.phase, Phase::Running { .. }) {
            self.tally.late(link.now(), intended);
        }
        self.visit_sends(link, position, intended);
    }

    /// Sends the next request, unless it is due after the end.
    fn visit_sends(&mut self, link: &mut Link<'_>, position: usize, intended: Nanos) {
        let Phase::Running { stop_at, .. } = self.phase else { return };
        let Some(protocol) = self.protocol_of(position).filter(|_| intended < stop_at) else { return };
        let connection = &mut self.connections[position];
        let Flow::Attempt(attempt) = &mut connection.flow else { return };
        let (AttemptStage::Thinking, Some(visit)) = (attempt.stage, &mut attempt.visit) else { return };
        let drawn = || protocol.request(visit.drawn, 0, visit.step.into());
        visit.request = protocol.session_request(visit.step).unwrap_or_else(drawn);
        attempt.stage = AttemptStage::Awaiting(Times { intended, sent: link.now() });
        let id = Id { connection: connection.number, sequence: attempt.sequence, ..Id::default() };
        self.slots.unanswered += 1;
        self.tally.counts.sent += 1;
        // A send that fails for lack of memory ends the connection, which is counted there.
        self.send_message(link, position, &id);
    }

    /// The request that a connection sends as its message `sequence`.
    pub(super) fn request_of(&self, protocol: &CompiledProtocol, position: usize, sequence: u64) -> usize {
        let connection = &self.connections[position];
        match &connection.flow {
            Flow::Attempt(Attempt { visit: Some(visit), .. }) => visit.request,
            _ => protocol.request(self.shared.load.seed, connection.number, sequence),
        }
    }

    /// The answer to a request of a session arrived and was compared: the user pauses, or leaves.
    pub(super) fn visit_answered(
        &mut self,
        link: &mut Link<'_>,
        position: usize,
        outcome: SampleOutcome,
        bytes: usize,
    ) {
        let now = link.now();
        let Client { connections, tally, .. } = self;
        let connection = &mut connections[position];
        let Flow::Attempt(attempt) = &mut connection.flow else { return };
        let (AttemptStage::Awaiting(times), Some(visit)) = (attempt.stage, &mut attempt.visit) else {
            // More than was sent.
            tally.integrity.duplicated += 1;
            return;
        };
        let (sequence, request) = (attempt.sequence, visit.request);
        let name = MessageName::of(connection.number, sequence);
        if outcome == SampleOutcome::Corrupted {
            tally.integrity.corrupted += 1;
            tally.damaged(now, name, times, outcome);
        } else {
            tally.arrived_as(now, name, times, bytes, outcome);
        }
        (attempt.stage, attempt.sequence) = (AttemptStage::Thinking, sequence + 1);
        visit.step += 1;
        let is_over = visit.step >= visit.steps;
        self.slots.unanswered -= 1;
        if is_over {
            self.visit_ended(position, &VisitEnd::Completed(now));
            self.set_leaving(position);
            return self.leave(link, position);
        }
        let Some(protocol) = self.protocol_of(position) else { return };
        if !self.think(&protocol, position, request, sequence, now) {
            self.visit_sends(link, position, now);
        }
    }

    /// The slot is counted: what comes now is its goodbye.
    pub(super) fn set_leaving(&mut self, position: usize) {
        if let Flow::Attempt(attempt) = &mut self.connections[position].flow {
            attempt.stage = AttemptStage::Leaving;
        }
    }

    /// Counts the session of a slot, if there is one that is not counted.
    pub(super) fn visit_ended(&mut self, position: usize, end: &VisitEnd<'_>) {
        let Flow::Attempt(attempt) = &mut self.connections[position].flow else { return };
        let Some(visit) = attempt.visit.take().filter(|visit| self.tally.window.contains(visit.due)) else {
            return;
        };
        let sessions = &mut self.tally.sessions;
        match end {
            VisitEnd::Completed(at) => {
                sessions.completed += 1;
                sessions.duration.saturating_record(at.saturating_sub(visit.due));
            }
            VisitEnd::Failed(cause) => sessions.failed(cause),
            VisitEnd::Unfinished => sessions.unfinished += 1,
        }
    }
}
