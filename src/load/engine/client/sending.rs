//! Sending: in a closed loop after the reply that makes room, in an open loop when a message is due.

use super::connection::{Flow, State};
use super::topic::GivenUp;
use super::{Client, Link, Phase, WorkerMessage};
use crate::measure::track::REPLY_TIME;
use crate::measure::{MessageName, SampleOutcome, Times};
use crate::plan::Mode;
use crate::plan::payload::Id;
use crate::record::failures::NO_REPLY;
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_runtime::shard::{Context, Lane};

impl Client {
    /// The load begins at `start`: an open loop gets its schedule, a closed loop sends its first messages.
    pub(super) fn begin_sending(&mut self, cx: &mut Context<'_, Client>, start: Nanos) {
        let Client { shared, connections, pacer, .. } = self;
        if pacer.begin(&shared.load, connections, start) {
            return;
        }
        for at in 0..self.pacer.senders.len() {
            self.send_allowed_at(cx, self.pacer.senders[at], cx.now());
        }
    }

    /// Sends the messages that are due until `now`.
    pub(super) fn send_due(&mut self, cx: &mut Context<'_, Client>, now: Nanos) {
        let Some(mut cursor) = self.pacer.cursor.take() else { return };
        let attempts = self.shared.load.mode.opens_when_due();
        while self.slots.have_room()
            && let Some((sender, intended)) = cursor.due(now)
        {
            let position = self.pacer.senders[sender];
            self.tally.late(now, intended);
            if attempts {
                self.attempt_due(intended);
                continue;
            }
            self.connections[position].due += 1;
            // A connection that waits for room continues once it gets some.
            if self.connections[position].held_since.is_none() {
                self.send_allowed_at(cx, position, now);
            }
        }
        self.timers.wake_by(cursor.next());
        self.pacer.cursor = Some(cursor);
    }

    /// Retries sends that had no room, and publishers whose messages have reached all subscribers.
    pub(super) fn retry(&mut self, cx: &mut Context<'_, Client>, now: Nanos) {
        let mut held = std::mem::take(&mut self.backlog.held);
        held.retain(|&position| {
            self.send_allowed_at(cx, position as usize, now);
            self.connections[position as usize].held_since.is_some()
        });
        self.backlog.held = held;
        let mut ready = std::mem::take(&mut self.backlog.ready);
        for position in ready.drain(..) {
            self.send_allowed_at(cx, position as usize, now);
        }
        self.backlog.ready = ready;
        while let Some(&(publisher, sequence)) = self.backlog.unposted.front() {
            let (owner, _) = self.shared.owner(publisher);
            if cx.post(owner, Lane::Forward, WorkerMessage::Reached(publisher, sequence), &[]).is_err() {
                break;
            }
            self.backlog.unposted.pop_front();
        }
        if self.backlog.needs_retry() {
            self.timers.wake_by(now + MILLISECOND);
        }
    }

    /// Gives up overdue messages, so that a lost one does not stop its connection. In an open loop that makes room only
    /// if later ones were answered.
    pub(super) fn give_up_overdue(&mut self, cx: &mut Context<'_, Client>, now: Nanos) {
        let is_open_loop = self.pacer.is_open_loop();
        let sent_by = now.saturating_sub(REPLY_TIME);
        for at in 0..self.pacer.senders.len() {
            let position = self.pacer.senders[at];
            let connection = &mut self.connections[position];
            let Flow::Echo(awaited) = &mut connection.flow else { return };
            if connection.state != State::Open || awaited.give_up(sent_by, is_open_loop) == 0 {
                continue;
            }
            if !is_open_loop {
                self.tally.connections.error(NO_REPLY);
            }
            self.send_allowed_at(cx, position, now);
        }
    }

    /// The same for the publishers of a closed loop, whose messages may have reached only some subscribers.
    pub(super) fn give_up_overdue_publications(&mut self, cx: &mut Context<'_, Client>, now: Nanos) {
        if self.pacer.is_open_loop() {
            return;
        }
        for at in 0..self.pacer.senders.len() {
            let position = self.pacer.senders[at];
            let Client { shared, connections, tally, .. } = self;
            let connection = &mut connections[position];
            let (Flow::Broadcast(broadcast), Some(fan_out)) = (&mut connection.flow, &shared.fan_out) else {
                return;
            };
            let given_up = broadcast.give_up(connection.number, fan_out, now);
            if given_up == GivenUp::default() || connection.state != State::Open {
                continue;
            }
            if given_up.silent > 0 {
                tally.connections.error(NO_REPLY);
            }
            self.send_allowed_at(cx, position, now);
        }
    }

    pub(super) fn send_allowed_at(&mut self, cx: &mut Context<'_, Client>, position: usize, now: Nanos) {
        match self.connections[position].token.and_then(|token| cx.link(token)) {
            Some(mut link) => self.send_allowed(&mut link, position, now),
            None => self.connections[position].held_since = None,
        }
    }

    /// Sends all messages that the connection may send at `now`.
    #[inline]
    pub(super) fn send_allowed(&mut self, link: &mut Link<'_>, position: usize, now: Nanos) {
        if let Flow::Replay(_) = self.connections[position].flow {
            return self.replay_sends(link, position);
        }
        let Phase::Running { stop_at, .. } = self.phase else { return };
        let connection = &mut self.connections[position];
        if connection.state != State::Open || now >= stop_at {
            connection.held_since = None;
            return;
        }
        while let Some(sequence) = self.may_send(position) {
            let connection = &self.connections[position];
            let intended = match self.pacer.schedule {
                Some(_) => connection.mark.at,
                None => connection.held_since.unwrap_or(now),
            };
            let mut id = Id { connection: connection.number, sequence, intended: 0, sent: 0 };
            if let Flow::Broadcast(_) = connection.flow {
                (id.intended, id.sent) = (self.shared.written_time(intended), self.shared.written_time(now));
            }
            if !self.send_message(link, position, &id) {
                return self.hold(position, now);
            }
            self.message_sent(position, sequence, Times { intended, sent: now });
        }
        self.connections[position].held_since = None;
    }

    /// The connection has no room: it tries again later.
    pub(super) fn hold(&mut self, position: usize, now: Nanos) {
        let connection = &mut self.connections[position];
        if connection.held_since.is_none() {
            connection.held_since = Some(now);
            self.backlog.held.push(position as u32);
        }
    }

    /// Counts a sent message, and expects its answer or its deliveries.
    #[inline]
    fn message_sent(&mut self, position: usize, sequence: u64, times: Times) {
        let Client { shared, connections, pacer, tally, .. } = self;
        let schedule = &pacer.schedule;
        let connection = &mut connections[position];
        tally.counts.sent += 1;
        if let Some(schedule) = schedule {
            connection.mark = schedule.after(connection.number, sequence, connection.mark);
        }
        match &mut connection.flow {
            Flow::Echo(awaited) => {
                if let Some(forgotten) = awaited.sent(times) {
                    let name = MessageName::unnumbered(connection.number);
                    tally.missing(name, forgotten, 1, SampleOutcome::Lost);
                }
            }
            Flow::Attempt(_) | Flow::Push(_) | Flow::Replay(_) => {}
            Flow::Broadcast(broadcast) => {
                if let Some(fan_out) = shared.fan_out.as_ref().filter(|_| shared.load.churn.is_some()) {
                    broadcast.audience = fan_out.subscribers(broadcast.topic);
                }
                broadcast.published(times.sent, schedule.is_none());
                if let Some(fan_out) = &shared.fan_out {
                    fan_out.publish(connection.number, sequence, times);
                }
            }
        }
    }

    /// The sequence of the message that the connection may send now, if any. Requests of one id are not in flight together, and
    /// where conversations are traced each request is sent once.
    #[inline]
    fn may_send(&self, position: usize) -> Option<u64> {
        let connection = &self.connections[position];
        let sequence = connection.may_send(&self.shared.load.pace)?;
        let protocol = self.protocols.get(connection.protocol);
        let Some(protocol) = protocol.filter(|_| self.shared.load.mode != Mode::Ping) else {
            return Some(sequence);
        };
        let oldest = match &connection.flow {
            Flow::Echo(awaited) => awaited.oldest(),
            Flow::Broadcast(_) | Flow::Attempt(_) | Flow::Push(_) | Flow::Replay(_) => sequence,
        };
        let is_shown = self.shared.traces && sequence >= protocol.requests.len().max(1) as u64;
        (protocol.ids.distinguish(sequence + 1 - oldest) && !is_shown).then_some(sequence)
    }

    /// Writes the message with this id, and sends it. False if the connection has no room for it.
    #[inline]
    pub(super) fn send_message(&mut self, link: &mut Link<'_>, position: usize, id: &Id) -> bool {
        let Client { shared, message, .. } = self;
        if shared.load.mode == Mode::Ping {
            return link.ping(&id.sequence.to_be_bytes());
        }
        if !self.protocols.is_empty() {
            return self.send_request(link, position, id);
        }
        shared.payloads.write(id, message);
        link.send(shared.payloads.kind(), message)
    }

    /// Counts the messages that were due in the measured time and not sent, from its message `next` on. Each has `copies`
    /// deliveries, with their age at `until`.
    pub(super) fn settle_unsent(&mut self, position: usize, next: u64, copies: u64, until: Nanos) {
        let Client { connections, pacer, tally, .. } = self;
        let connection = &connections[position];
        let is_gone = connection.state != State::Open;
        let Some(schedule) = &pacer.schedule else { return };
        let mut mark = connection.mark;
        for sequence in next..connection.due {
            let publisher = matches!(connection.flow, Flow::Broadcast(_)).then_some(connection.number);
            let name = MessageName { publisher, ..MessageName::of(connection.number, sequence) };
            tally.record_unsent(until, name, mark.at, copies, is_gone);
            mark = schedule.after(connection.number, sequence, mark);
        }
    }
}
