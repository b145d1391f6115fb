//! Connect mode: each message of the schedule is a connection that opens, sends one message, awaits its echo, stays
//! open for a while, and closes.
//!
//! A thread has *slots* for one connection each. A connection that is due while no slot is free waits, and is measured
//! from when it was due. The server closes TCP first (RFC 6455, 7.1.1), so it keeps the TIME_WAIT state. After that the
//! slot and its port are free.
//!
//! Never: a connection that begins after the end, or one that is neither answered, lost nor counted as an error.

use super::connection::{Flow, State};
use super::slots::{Attempt, AttemptStage};
use super::visits::VisitEnd;
use super::{Client, Link, Peer, Phase, causes};
use crate::measure::track::REPLY_TIME;
use crate::measure::{MessageName, SampleOutcome, Times};
use crate::plan::payload::Id;
use crate::plan::{Mode, Pace};
use crate::record::failures::{NO_REPLY, UNFINISHED};
use echoring_proto::connection::{Cause, Chunk, Closed};
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_runtime::shard::Context;

/// In a closed loop, the pause of a slot after a failure. Without it, a refused connection would be retried at full
/// speed.
const FAILURE_PAUSE: Nanos = 10 * MILLISECOND;

impl Client {
    /// Frees all slots: nothing is opened before the load begins.
    pub(super) fn make_slots(&mut self, cx: &mut Context<'_, Client>) {
        // The lowest numbers come first, so that a light load uses few slots.
        self.slots.free = (0..self.connections.len() as u32).rev().collect();
        for _ in 0..self.connections.len() {
            self.shared.settled(cx.now());
        }
        self.phase = Phase::Ready;
        self.wait_for_threads(cx);
    }

    /// Whether all connections have ended and nothing is left to count. The rest of a schedule counts as unsent, unless
    /// no connection ever opened.
    pub(super) fn has_no_connections(&self) -> bool {
        let is_open_loop = self.pacer.is_open_loop() || self.shared.load.replay.is_some();
        let has_schedule = is_open_loop && self.shared.has_opened();
        self.connector.has_none() && !self.shared.load.mode.opens_when_due() && !has_schedule
    }

    /// A connection is due at `intended`.
    pub(super) fn attempt_due(&mut self, intended: Nanos) {
        if !self.has_slot(intended) {
            return;
        }
        if self.slots.waiting.len() >= self.slots.free.len() {
            self.tally.connections.handshakes.waited += u64::from(self.tally.window.contains(intended));
        }
        self.slots.waiting.push_back(intended);
    }

    /// Closes connections that were held long enough, and opens those that are due. A connection that was due before
    /// the end is opened even if a late tick comes after the end, but not in a closed loop.
    pub(super) fn attempt(&mut self, cx: &mut Context<'_, Client>, now: Nanos, stop_at: Nanos) {
        self.wake_slots(now);
        self.close_held(cx, now);
        let is_closed_loop = matches!(self.shared.load.pace, Pace::Depth(_));
        while let Some(position) = self.slots.free.pop() {
            let intended = match is_closed_loop {
                true => Some(cx.clock()).filter(|now| *now < stop_at),
                false => self.slots.waiting.pop_front(),
            };
            let Some(intended) = intended else {
                self.slots.free.push(position);
                break;
            };
            self.begin_attempt(cx, position, intended);
        }
    }

    fn begin_attempt(&mut self, cx: &mut Context<'_, Client>, position: u32, intended: Nanos) {
        let at = position as usize;
        let is_visit = self.visit_begins(at, intended);
        if let Err(error) = self.dial_one(cx, at) {
            self.connector.failed += 1;
            let cause = causes::of_error(&error);
            self.tally.connections.error(&cause);
            let now = cx.clock();
            match is_visit {
                true => self.visit_ended(at, &VisitEnd::Failed(&cause)),
                false => {
                    let name = self.attempt_name(at);
                    self.tally.damaged(now, name, Times { intended, sent: now }, SampleOutcome::Failed);
                }
            }
            return self.free_slot(position, true, now);
        }
        self.tally.counts.sent += u64::from(!is_visit);
        self.slots.unanswered += 1;
        let sent = self.connections[at].opening.dialled;
        if let Some(attempt) = self.attempt_at(at) {
            attempt.stage = AttemptStage::HandshakeTimes(Times { intended, sent });
        }
    }

    fn attempt_at(&mut self, position: usize) -> Option<&mut Attempt> {
        match &mut self.connections[position].flow {
            Flow::Attempt(attempt) => Some(attempt),
            Flow::Echo(_) | Flow::Broadcast(_) | Flow::Push(_) | Flow::Replay(_) => None,
        }
    }

    /// The message of a slot in samples.
    fn attempt_name(&self, position: usize) -> MessageName {
        let connection = &self.connections[position];
        match &connection.flow {
            Flow::Attempt(attempt) => MessageName::of(connection.number, attempt.sequence),
            Flow::Echo(_) | Flow::Broadcast(_) | Flow::Push(_) | Flow::Replay(_) => {
                MessageName::unnumbered(connection.number)
            }
        }
    }

    /// The handshake succeeded: the slot sends its message, or is done.
    pub(super) fn attempt_opened(&mut self, link: &mut Link<'_>, position: usize) {
        let now = link.now();
        let Client { shared, connections, tally, .. } = self;
        let connection = &mut connections[position];
        let Flow::Attempt(attempt) = &mut connection.flow else { return };
        let AttemptStage::HandshakeTimes(times) = attempt.stage else { return };
        if tally.window.contains(times.intended) {
            tally.connections.handshakes.opened(&connection.opening);
        }
        if attempt.visit.is_some() {
            return self.visit_opened(link, position);
        }
        if !shared.load.connecting.first_message {
            let name = MessageName::of(connection.number, attempt.sequence);
            tally.arrived(now, name, times, 0);
            return self.attempt_served(link, position, now);
        }
        let id = Id { connection: connection.number, sequence: attempt.sequence, ..Id::default() };
        attempt.stage = AttemptStage::Awaiting(times);
        // A send that fails for lack of memory ends the connection, which is counted there.
        self.send_message(link, position, &id);
    }

    /// A message arrived.
    pub(super) fn attempt_answered(&mut self, link: &mut Link<'_>, position: usize, chunk: &Chunk<'_>) {
        let Client { shared, connections, .. } = self;
        let connection = &connections[position];
        let Flow::Attempt(attempt) = &connection.flow else { return };
        let payloads = &shared.payloads;
        let id = Id { connection: connection.number, sequence: attempt.sequence, ..Id::default() };
        let is_its_own =
            !shared.load.verify || (chunk.kind == payloads.kind() && payloads.matches(&id, chunk.payload));
        let outcome = if is_its_own { SampleOutcome::Ok } else { SampleOutcome::Corrupted };
        self.attempt_compared(link, position, outcome, chunk.payload.len());
    }

    /// The answer to the message of a slot arrived and was compared.
    pub(super) fn attempt_compared(
        &mut self,
        link: &mut Link<'_>,
        position: usize,
        outcome: SampleOutcome,
        bytes: usize,
    ) {
        if self.is_visited(position) {
            return self.visit_answered(link, position, outcome, bytes);
        }
        let now = link.now();
        let Client { connections, tally, .. } = self;
        let connection = &mut connections[position];
        let Flow::Attempt(attempt) = &mut connection.flow else { return };
        let name = MessageName::of(connection.number, attempt.sequence);
        let AttemptStage::Awaiting(times) = attempt.stage else {
            // The echo, behind another message that was taken for it; or more than was sent.
            match attempt.replaced.take_if(|_| outcome != SampleOutcome::Corrupted) {
                Some((times, _)) => tally.arrived_as(now, name, times, bytes, outcome),
                None => tally.integrity.duplicated += 1,
            }
            return;
        };
        if outcome != SampleOutcome::Corrupted {
            tally.arrived_as(now, name, times, bytes, outcome);
            if tally.window.contains(times.intended) {
                tally.connections.handshakes.answered(&connection.opening, now);
            }
        } else {
            tally.integrity.corrupted += 1;
            attempt.replaced = Some((times, now));
        }
        self.attempt_served(link, position, now);
    }

    /// The connection was answered.
    fn attempt_served(&mut self, link: &mut Link<'_>, position: usize, now: Nanos) {
        self.slots.unanswered -= 1;
        let hold = self.shared.load.connecting.hold.as_nanos() as Nanos;
        let Some(attempt) = self.attempt_at(position) else { return };
        if hold == 0 {
            attempt.stage = AttemptStage::Leaving;
            return self.leave(link, position);
        }
        attempt.stage = AttemptStage::Held;
        let sequence = attempt.sequence;
        self.slots.held.push_back((now + hold, position as u32, sequence));
        if self.slots.held.len() > 2 * self.connections.len() {
            self.remove_ended();
        }
    }

    /// Removes connections that the server ended early from the list.
    #[cold]
    fn remove_ended(&mut self) {
        let mut held = std::mem::take(&mut self.slots.held);
        held.retain(|&(_, position, sequence)| self.is_held(position, sequence));
        self.slots.held = held;
    }

    fn is_held(&self, position: u32, sequence: u64) -> bool {
        let flow = &self.connections[position as usize].flow;
        matches!(flow, Flow::Attempt(attempt) if attempt.stage == AttemptStage::Held && attempt.sequence == sequence)
    }

    /// Closes connections that were held long enough.
    fn close_held(&mut self, cx: &mut Context<'_, Client>, now: Nanos) {
        while let Some(&(until, position, sequence)) = self.slots.held.front() {
            if until > now {
                return self.timers.wake_by(until);
            }
            self.slots.held.pop_front();
            if self.is_held(position, sequence) {
                self.close_slot(cx, position as usize);
            }
        }
    }

    fn close_slot(&mut self, cx: &mut Context<'_, Client>, position: usize) {
        self.set_leaving(position);
        if let Some(mut link) = self.connections[position].token.and_then(|token| cx.link(token)) {
            self.leave(&mut link, position);
        }
    }

    /// Closes connections whose echo is overdue, and counts them as lost.
    pub(super) fn close_overdue(&mut self, cx: &mut Context<'_, Client>, now: Nanos) {
        for position in 0..self.connections.len() {
            let opened = self.connections[position].opening.opened;
            if let Flow::Attempt(Attempt { stage: AttemptStage::Awaiting(times), .. }) =
                self.connections[position].flow
                && opened.max(times.sent) + REPLY_TIME <= now
            {
                self.tally.connections.error(NO_REPLY);
                self.give_up_attempt(position, now);
                self.close_slot(cx, position);
            }
        }
    }

    /// Gives up the message or handshake of a slot, with its age at `until`. Returns whether there was one.
    fn give_up_attempt(&mut self, position: usize, until: Nanos) -> bool {
        let Some(attempt) = self.attempt_at(position) else { return false };
        let before = attempt.stage;
        let (AttemptStage::HandshakeTimes(times) | AttemptStage::Awaiting(times)) = before else {
            return false;
        };
        attempt.stage = AttemptStage::Leaving;
        let (outcome, cause) = match before {
            AttemptStage::HandshakeTimes(_) => {
                self.tally.connections.error(UNFINISHED);
                self.tally.connections.handshakes.failed(times.sent, until);
                (SampleOutcome::Failed, UNFINISHED)
            }
            _ => {
                self.tally.integrity.lost += 1;
                (SampleOutcome::Lost, NO_REPLY)
            }
        };
        // A session whose handshake failed has sent no message.
        if outcome == SampleOutcome::Lost || !self.is_visited(position) {
            let name = self.attempt_name(position);
            self.tally.missing(name, times, 1, outcome);
        }
        self.visit_ended(position, &VisitEnd::Failed(cause));
        self.slots.unanswered -= 1;
        true
    }

    /// A connection ended, for any reason.
    pub(super) fn attempt_ended(&mut self, cx: &mut Context<'_, Client>, peer: Peer, closed: &Closed) {
        let position = peer.position as usize;
        let connection = &mut self.connections[position];
        let before = std::mem::replace(&mut connection.state, State::New);
        let was_open = matches!(before, State::Preparing | State::Open);
        connection.token = None;
        connection.ping_at = Nanos::MAX;
        let mut cause = causes::of_end(&closed.cause, was_open);
        if was_open && let Some(failed_step) = self.session_ended(position, &cause) {
            self.tally.connections.error(&failed_step);
            cause = failed_step;
        }
        self.connector.open -= usize::from(was_open);
        self.connector.handshakes -= usize::from(!was_open);
        let Some(attempt) = self.attempt_at(position) else { return };
        let before = std::mem::take(&mut attempt.stage);
        self.settle_replaced_attempt(position);
        let name = self.attempt_name(position);
        if let Some(attempt) = self.attempt_at(position) {
            attempt.sequence += 1;
        }
        let failed = before != AttemptStage::Leaving;
        match before {
            AttemptStage::HandshakeTimes(times) => {
                self.tally.connections.error(&causes::of_end(&closed.cause, false));
                if !self.is_visited(position) {
                    self.tally.damaged(cx.now(), name, times, SampleOutcome::Failed);
                }
                self.tally.connections.handshakes.failed(times.sent, cx.now());
                self.slots.unanswered -= 1;
            }
            AttemptStage::Awaiting(times) => {
                self.tally.integrity.lost += 1;
                self.tally.missing(name, times, 1, SampleOutcome::Lost);
                self.slots.unanswered -= 1;
            }
            AttemptStage::Free | AttemptStage::Held | AttemptStage::Thinking | AttemptStage::Leaving => {}
        }
        self.visit_ended(position, &VisitEnd::Failed(&cause));
        if was_open {
            self.tally.connections.closed(closed.code.0);
            self.tally.connections.ended_early += u64::from(failed);
            if failed && !matches!(closed.cause, Cause::Peer | Cause::Local) {
                self.tally.connections.error(&causes::of_end(&closed.cause, true));
            }
        }
        self.connector.failed += u64::from(failed);
        self.free_slot(peer.position, failed, cx.now());
    }

    /// The message in the place of the echo was the damaged echo, since no other has arrived.
    fn settle_replaced_attempt(&mut self, position: usize) {
        let name = self.attempt_name(position);
        if let Some((times, at)) = self.attempt_at(position).and_then(|attempt| attempt.replaced.take()) {
            self.tally.damaged(at, name, times, SampleOutcome::Corrupted);
        }
    }

    fn free_slot(&mut self, position: u32, failed: bool, now: Nanos) {
        if failed && matches!(self.shared.load.pace, Pace::Depth(_)) {
            self.slots.pausing.push_back((now + FAILURE_PAUSE, position));
        } else {
            self.slots.free.push(position);
        }
    }

    fn wake_slots(&mut self, now: Nanos) {
        while let Some(&(until, position)) = self.slots.pausing.front() {
            if until > now {
                return self.timers.wake_by(until);
            }
            self.slots.pausing.pop_front();
            self.slots.free.push(position);
        }
    }

    /// Counts unfinished connections at the end of the drain time. Connections that were due and not opened get their
    /// age at `until`.
    pub(super) fn settle_attempts(&mut self, cx: &mut Context<'_, Client>, until: Nanos) {
        for intended in std::mem::take(&mut self.slots.waiting) {
            if self.shared.load.mode == Mode::Session {
                self.visit_refused(intended);
                continue;
            }
            // No slot, and so no number, was found for it.
            self.tally.record_unsent(until, MessageName::default(), intended, 1, false);
        }
        for position in 0..self.connections.len() {
            self.settle_replaced_attempt(position);
            let is_idle = self
                .attempt_at(position)
                .is_some_and(|it| matches!(it.stage, AttemptStage::Held | AttemptStage::Thinking));
            if is_idle || self.give_up_attempt(position, until) {
                self.visit_ended(position, &VisitEnd::Unfinished);
                self.close_slot(cx, position);
            }
        }
    }
}
