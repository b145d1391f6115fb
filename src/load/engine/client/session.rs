//! The conversation of a declared protocol on one connection: its opening, its heartbeats and its goodbye.
//!
//! A connection counts as open once the opening steps are done. Steps and heartbeats are timed by the thread's agenda.

use super::agenda::Due;
use super::connection::{Connection, Flow, State};
use super::conversation::Stage;
use super::{Client, Link};
use crate::engine::shared::{RunEvent, Shared};
use crate::engine::trace::{TraceEvent, Traced};
use crate::plan::protocol::CompiledProtocol;
use crate::plan::protocol::compiled::CompiledStep;
use crate::plan::protocol::rules::{Extractor, ParsedMessage};
use crate::plan::template::{BoundTemplate, Scope};
use echoring_proto::CloseCode;
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::Context;

/// The values of templates on a connection.
pub(super) fn scope<'a>(shared: &'a Shared, connection: &'a Connection, now_ns: u64) -> Scope<'a> {
    let topic = match &connection.flow {
        Flow::Broadcast(broadcast) => shared.topic_names.get(broadcast.topic as usize),
        _ => None,
    };
    let session = connection.session.as_deref();
    Scope {
        seed: shared.load.seed,
        connection: connection.number,
        now_ns,
        row: connection.row.and_then(|row| shared.row(row)),
        captures: session.map_or(&[], |session| &session.captures),
        topic: topic.map_or(b"", |name| name.as_bytes()),
        ..Scope::default()
    }
}

impl Client {
    /// The connection is upgraded: its conversation begins.
    pub(super) fn session_opened(&mut self, link: &mut Link<'_>, position: usize) {
        let resumes = self.resumes(position);
        let Some(protocol) = self.protocol_of(position) else { return };
        let Some(session) = &mut self.connections[position].session else { return };
        if !resumes {
            session.captures.iter_mut().for_each(Vec::clear);
            session.captures.resize(protocol.captures, Vec::new());
        }
        session.stream.clear();
        session.pause_until = 0;
        self.open_from(link, position, 0);
    }

    /// Whether the subscriber resumes from its position.
    fn resumes(&self, position: usize) -> bool {
        let has_steps = self.protocol_of(position).is_some_and(|protocol| !protocol.resume.is_empty());
        has_steps && self.connections[position].life.was_open
    }

    /// The opening step with this index, if there is one.
    fn opening_step<'a>(
        &self,
        protocol: &'a CompiledProtocol,
        position: usize,
        step: usize,
    ) -> Option<&'a CompiledStep> {
        let flow = &self.connections[position].flow;
        let subscribes =
            matches!(flow, Flow::Broadcast(topic) if topic.receives() || protocol.publishers_subscribe);
        protocol.open.get(step).or_else(|| {
            let steps = if self.resumes(position) { &protocol.resume } else { &protocol.subscribe };
            steps.get(step - protocol.open.len()).filter(|_| subscribes)
        })
    }

    /// Sends the messages of the steps from `step` on, up to the first that awaits one.
    fn open_from(&mut self, link: &mut Link<'_>, position: usize, mut step: usize) {
        let Some(protocol) = self.protocol_of(position) else { return };
        let now = link.now();
        while let Some(next) = self.opening_step(&protocol, position, step) {
            self.send_step(link, position, next);
            if !next.awaits.is_empty() {
                let until = now + next.timeout;
                self.set_stage(position, Stage::Opening { step, until });
                return self.enter(until, position, Due::Step);
            }
            step += 1;
        }
        self.set_stage(position, Stage::Ready);
        if let Some((every, _)) = &protocol.heartbeat
            && let Some(session) = &mut self.connections[position].session
        {
            session.heartbeat_at = now + every;
            self.enter(now + every, position, Due::Heartbeat);
        }
        self.connection_ready(link, position);
    }

    fn set_stage(&mut self, position: usize, stage: Stage) {
        if let Some(session) = &mut self.connections[position].session {
            session.stage = stage;
        }
    }

    /// Puts the next action of a connection on the agenda.
    pub(super) fn enter(&mut self, at: Nanos, position: usize, due: Due) {
        self.agenda.push(at, position, due);
        self.timers.wake_by(at);
    }

    fn send_step(&mut self, link: &mut Link<'_>, position: usize, step: &CompiledStep) {
        if let Some(send) = &step.send {
            self.send_control(link, position, send, &step.name);
        }
        if self.shared.traces && !step.awaits.is_empty() {
            self.trace(position, TraceEvent::Expects { entry: step.name.clone(), what: step.awaits.shown() });
        }
    }

    /// Sends a message that is no request.
    pub(super) fn send_control(
        &mut self,
        link: &mut Link<'_>,
        position: usize,
        template: &BoundTemplate,
        entry: &str,
    ) {
        let Some(protocol) = self.protocol_of(position) else { return };
        let now_ns = self.clock_offset.unix_ns(link.now());
        self.message.clear();
        template.expand(&scope(&self.shared, &self.connections[position], now_ns), &mut self.message);
        // A send that fails for lack of memory ends the connection, which is counted there.
        link.send(protocol.kind, &self.message);
        if self.shared.traces {
            self.trace(position, TraceEvent::Sent { entry: entry.to_owned(), message: self.message.clone() });
        }
    }

    pub(super) fn trace(&self, position: usize, event: TraceEvent) {
        let traced = Traced { connection: self.connections[position].number, event };
        // A session that has ended needs no events.
        let _ = self.shared.events.send(RunEvent::Trace(traced));
    }

    /// Whether the message is the one that an opening or closing step awaits; if so, continues with the next step.
    pub(super) fn step_arrived(
        &mut self,
        protocol: &CompiledProtocol,
        link: &mut Link<'_>,
        position: usize,
        message: &ParsedMessage<'_>,
    ) -> bool {
        let Some(stage) = self.connections[position].session.as_ref().map(|session| session.stage) else {
            return false;
        };
        let (step, awaited) = match stage {
            Stage::Opening { step, .. } => (step, self.opening_step(protocol, position, step)),
            Stage::Leaving { step } => (step, protocol.close.get(step)),
            Stage::Idle | Stage::Ready => return false,
        };
        let Some(awaited) = awaited else { return false };
        let now_ns = self.clock_offset.unix_ns(link.now());
        let connection = &mut self.connections[position];
        if !awaited.awaits.hold(message, &scope(&self.shared, connection, now_ns)) {
            return false;
        }
        if let Some(session) = &mut connection.session {
            session.keep(&awaited.capture, message);
        }
        if self.shared.traces {
            let value = |(_, name, extractor): &(usize, String, Extractor)| {
                (name.clone(), extractor.value(message).unwrap_or_default().into_owned())
            };
            let (entry, captured) = (awaited.name.clone(), awaited.capture.iter().map(value).collect());
            self.trace(position, TraceEvent::Stepped { entry, message: message.bytes.to_vec(), captured });
        }
        match stage {
            Stage::Leaving { .. } => self.leave_from(link, position, step + 1),
            _ => self.open_from(link, position, step + 1),
        }
        true
    }

    /// Carries out the actions that are due by now.
    pub(super) fn run_agenda(&mut self, cx: &mut Context<'_, Client>) {
        let now = cx.now();
        while let Some(at) = self.agenda.next_at() {
            if at > now {
                return self.timers.wake_by(at);
            }
            let Some((at, position, due)) = self.agenda.pop() else { return };
            if due == Due::Dial {
                self.dial_away(cx, position, at);
            } else if due == Due::Replay {
                self.replay_due(cx, position);
            } else if let Some(mut link) = self.connections[position].token.and_then(|token| cx.link(token)) {
                self.do_due(&mut link, position, (at, due));
            }
        }
    }

    /// Carries out the action that was due at `at`, unless the connection has another time for it since.
    fn do_due(&mut self, link: &mut Link<'_>, position: usize, (at, due): (Nanos, Due)) {
        let now = link.now();
        let connection = &mut self.connections[position];
        match (due, &mut connection.session) {
            (Due::Retire, _) => self.retire(link, position, at),
            (Due::Ping, _) if connection.ping_at == at => self.ping_beside(link, position, now),
            (Due::Step, Some(session)) => {
                if let Stage::Opening { step, until } = session.stage
                    && until == at
                {
                    self.step_failed(link, position, step);
                }
            }
            (Due::Request, Some(session)) if session.pause_until == at => {
                session.pause_until = 0;
                match connection.flow {
                    Flow::Attempt(_) => self.visit_continues(link, position, at),
                    _ => self.send_allowed(link, position, now),
                }
            }
            (Due::Heartbeat, Some(session)) if session.heartbeat_at == at => {
                let Some(protocol) = self.protocols.get(connection.protocol).cloned() else { return };
                let Some((every, heartbeat)) = &protocol.heartbeat else { return };
                session.heartbeat_at = now + every;
                self.enter(now + every, position, Due::Heartbeat);
                self.send_control(link, position, heartbeat, "heartbeat");
                self.tally.protocol.heartbeats_sent += 1;
            }
            _ => {}
        }
    }

    /// The message that a step awaits did not come in time.
    fn step_failed(&mut self, link: &mut Link<'_>, position: usize, step: usize) {
        let cause = self.failed_step(position, step, |step| {
            let limit = std::time::Duration::from_nanos(step.timeout);
            format!("no message with {} within {limit:?}", step.awaits.shown())
        });
        if let Some(session) = &mut self.connections[position].session {
            (session.stage, session.failure) = (Stage::Idle, cause);
        }
        // Its end is counted where connections end.
        link.close(CloseCode::NORMAL, "");
    }

    /// The connection ended. If its conversation was not open yet, that is a failure of the step, which is returned.
    pub(super) fn session_ended(&mut self, position: usize, cause: &str) -> Option<String> {
        let session = self.connections[position].session.as_mut()?;
        let stage = std::mem::replace(&mut session.stage, Stage::Idle);
        session.heartbeat_at = Nanos::MAX;
        session.pause_until = 0;
        if session.failure.is_some() {
            return session.failure.take();
        }
        match stage {
            Stage::Opening { step, .. } => self.failed_step(position, step, |_| cause.to_owned()),
            Stage::Idle | Stage::Ready | Stage::Leaving { .. } => None,
        }
    }

    /// Why an opening step failed.
    fn failed_step(
        &self,
        position: usize,
        step: usize,
        why: impl FnOnce(&CompiledStep) -> String,
    ) -> Option<String> {
        let protocol = self.protocol_of(position)?;
        let step = self.opening_step(&protocol, position, step)?;
        let cause = format!("{}: {}", step.name, why(step));
        if self.shared.traces {
            self.trace(position, TraceEvent::Failed { entry: step.name.clone(), why: cause.clone() });
        }
        Some(cause)
    }

    /// Sends the protocol's goodbye, then closes.
    pub(super) fn leave(&mut self, link: &mut Link<'_>, position: usize) {
        if let Some(session) = &mut self.connections[position].session {
            session.heartbeat_at = Nanos::MAX;
            session.pause_until = 0;
        }
        self.leave_from(link, position, 0);
    }

    fn leave_from(&mut self, link: &mut Link<'_>, position: usize, mut step: usize) {
        if let Some(protocol) = self.protocol_of(position) {
            while let Some(next) = protocol.close.get(step) {
                self.send_step(link, position, next);
                if !next.awaits.is_empty() {
                    return self.set_stage(position, Stage::Leaving { step });
                }
                step += 1;
            }
            self.set_stage(position, Stage::Idle);
        }
        link.close(CloseCode::NORMAL, "");
    }

    /// The opening steps are done, or there are none: the connection joins the load.
    pub(super) fn connection_ready(&mut self, link: &mut Link<'_>, position: usize) {
        let now = link.now();
        let connection = &mut self.connections[position];
        connection.state = State::Open;
        if connection.session.is_some() {
            self.tally.protocol.opened(connection.protocol, now.saturating_sub(connection.opening.opened));
        }
        if let (Flow::Broadcast(broadcast), Some(fan_out)) = (&connection.flow, &self.shared.fan_out)
            && broadcast.subscribes()
        {
            fan_out.joined(broadcast.topic);
        }
        self.schedule_pings(position, now);
        if let Flow::Attempt(_) = self.connections[position].flow {
            return self.attempt_opened(link, position);
        }
        self.send_hello(link);
        self.settle(position, now);
        self.take_part(link, position);
    }
}
