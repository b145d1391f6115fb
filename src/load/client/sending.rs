//! What is sent and when: in a closed loop by the arrival that made room, in an open loop when it is due.

use super::broadcast::GivenUp;
use super::connection::{Flow, State};
use super::{Client, Message, Phase};
use crate::driver::Driver;
use crate::limits::{MILLISECOND, Nanos};
use crate::load::allow::NO_REPLY;
use crate::load::payload::Id;
use crate::load::plan::Mode;
use crate::load::schedule::{Cursor, Schedule};
use crate::load::track::{REPLY_TIME, Times};
use crate::shard::{Context, Lane, Link};

impl Client {
    /// The load begins at `start`: an open loop gets its schedule, a closed one its first messages.
    pub(super) fn begin_sending<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, start: Nanos) {
        let load = &self.shared.load;
        let Some(profile) = load.profile() else {
            for at in 0..self.senders.len() {
                self.pump_at(cx, self.senders[at], cx.now());
            }
            return;
        };
        let schedule = Schedule::of(start, profile, load.senders(), load.arrivals, load.seed);
        let schedule = schedule.in_trains(load.burst).of_period(load.rate_period_s);
        for &at in &self.senders {
            let connection = &mut self.connections[at];
            connection.mark = schedule.first(connection.number);
        }
        let numbers = self.senders.iter().map(|&at| self.connections[at].number).collect();
        self.cursor = Cursor::new(schedule.clone(), numbers);
        self.schedule = Some(schedule);
    }

    /// Sends what is due until `now`.
    pub(super) fn walk_schedule<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, now: Nanos) {
        let Some(mut cursor) = self.cursor.take() else { return };
        let visits = self.shared.load.mode == Mode::Connect;
        while self.places.have_room()
            && let Some((sender, intended)) = cursor.due(now)
        {
            let position = self.senders[sender];
            self.tally.late(now, intended);
            if visits {
                self.visit_due(intended);
                continue;
            }
            self.connections[position].due += 1;
            // One whose earlier messages wait is pumped by what frees it.
            if self.connections[position].held_since.is_none() {
                self.pump_at(cx, position, now);
            }
        }
        self.wake_by(cursor.next());
        self.cursor = Some(cursor);
    }

    /// Tries again what had no room, and publishers that were told their messages are through.
    pub(super) fn retry<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, now: Nanos) {
        let mut held = std::mem::take(&mut self.held);
        held.retain(|&position| {
            self.pump_at(cx, position as usize, now);
            self.connections[position as usize].held_since.is_some()
        });
        self.held = held;
        let mut ready = std::mem::take(&mut self.ready);
        for position in ready.drain(..) {
            self.pump_at(cx, position as usize, now);
        }
        self.ready = ready;
        while let Some(&(publisher, sequence)) = self.unposted.front() {
            let (owner, _) = self.shared.owner(publisher);
            if cx.post(owner, Lane::Forward, Message::Reached(publisher, sequence), &[]).is_err() {
                break;
            }
            self.unposted.pop_front();
        }
        if !self.held.is_empty() || !self.unposted.is_empty() {
            self.wake_by(now + MILLISECOND);
        }
    }

    /// A lost message must not end its connection's part in the run: what is too old is waited for no longer. In an open loop
    /// that makes room only where later ones were answered.
    pub(super) fn stir_silent<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, now: Nanos) {
        let is_open_loop = self.cursor.is_some();
        let sent_by = now.saturating_sub(REPLY_TIME);
        for at in 0..self.senders.len() {
            let position = self.senders[at];
            let connection = &mut self.connections[position];
            let Flow::Echo(awaited) = &mut connection.flow else { return };
            if connection.state != State::Open || awaited.give_up(sent_by, is_open_loop) == 0 {
                continue;
            }
            if !is_open_loop {
                self.tally.error(NO_REPLY);
            }
            self.pump_at(cx, position, now);
        }
    }

    /// The same of a closed loop's publishers, whose messages may have reached some subscribers and not others.
    pub(super) fn stir_publishers<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, now: Nanos) {
        if self.cursor.is_some() {
            return;
        }
        for at in 0..self.senders.len() {
            let position = self.senders[at];
            let Client { shared, connections, tally, .. } = self;
            let connection = &mut connections[position];
            let (Flow::Broadcast(broadcast), Some(board)) = (&mut connection.flow, &shared.board) else {
                return;
            };
            let given_up = broadcast.give_up(connection.number, board, now);
            if given_up == GivenUp::default() || connection.state != State::Open {
                continue;
            }
            if given_up.silent > 0 {
                tally.error(NO_REPLY);
            }
            self.pump_at(cx, position, now);
        }
    }

    pub(super) fn pump_at<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Client>,
        position: usize,
        now: Nanos,
    ) {
        match self.connections[position].token.and_then(|token| cx.link(token)) {
            Some(mut link) => self.pump(&mut link, position, now),
            None => self.connections[position].held_since = None,
        }
    }

    /// Sends what the connection may send at `now`.
    #[inline]
    pub(super) fn pump(&mut self, link: &mut Link<'_, Client>, position: usize, now: Nanos) {
        let Client { shared, connections, phase, schedule, tally, message, held, .. } = self;
        let connection = &mut connections[position];
        let Phase::Running { stop_at, .. } = *phase else { return };
        if connection.state != State::Open || now >= stop_at {
            connection.held_since = None;
            return;
        }
        while let Some(sequence) = connection.may_send(&shared.load.pace) {
            let intended = match schedule {
                Some(_) => connection.mark.at,
                None => connection.held_since.unwrap_or(now),
            };
            let mut id = Id { connection: connection.number, sequence, intended: 0, sent: 0 };
            if let Flow::Broadcast(_) = connection.flow {
                (id.intended, id.sent) = (intended, now);
            }
            shared.payloads.write(&id, message);
            if !link.send(shared.payloads.kind(), message) {
                if connection.held_since.replace(connection.held_since.unwrap_or(now)).is_none() {
                    held.push(position as u32);
                }
                return;
            }
            tally.sent += 1;
            if let Some(schedule) = schedule {
                connection.mark = schedule.after(connection.number, sequence, connection.mark);
            }
            let times = Times { intended, sent: now };
            match &mut connection.flow {
                Flow::Echo(awaited) => {
                    if let Some(forgotten) = awaited.sent(times) {
                        tally.missing.add(forgotten, 1);
                    }
                }
                Flow::Visit(_) | Flow::Push(_) => {}
                Flow::Broadcast(broadcast) => {
                    broadcast.published(now, schedule.is_none());
                    if let Some(board) = &shared.board {
                        board.publish(connection.number, sequence, times);
                    }
                }
            }
        }
        connection.held_since = None;
    }

    /// Counts what was due on a connection and never left, from its message `next` on: each would have had so many copies,
    /// which are as old as they get at `until`.
    pub(super) fn settle_unsent(&mut self, position: usize, next: u64, copies: u64, until: Nanos) {
        let Client { connections, schedule, tally, .. } = self;
        let connection = &connections[position];
        let unsent = connection.due.saturating_sub(next);
        tally.unsent += unsent;
        tally.unsent_gone += if connection.state == State::Open { 0 } else { unsent };
        let Some(schedule) = schedule else { return };
        let mut mark = connection.mark;
        for sequence in next..connection.due {
            tally.never_left(until, mark.at, copies);
            mark = schedule.after(connection.number, sequence, mark);
        }
    }
}
