//! Connections as the load: each message of the schedule is a connection, which is opened, sends one message, awaits its
//! echo, is held for a while, and is closed.
//!
//! A thread has *places*, one connection each at a time. What is due and finds none waits, and is still measured from when
//! it was due. The server closes TCP first (RFC 6455, 7.1.1), so that it is its side that has the address pair in
//! TIME_WAIT; a place is free again when that has happened, and so is its port.
//!
//! Never: a connection that is begun after the end, or is neither answered, lost nor among the errors.

use std::collections::VecDeque;

use super::connection::{Flow, State};
use super::{Client, Peer, Phase, causes};
use crate::connection::{Cause, Chunk, Closed};
use crate::driver::{Driver, Token};
use crate::limits::{MILLISECOND, Nanos};
use crate::load::allow::NO_REPLY;
use crate::load::failures::UNFINISHED;
use crate::load::payload::Id;
use crate::load::plan::{Mode, Pace};
use crate::load::track::{REPLY_TIME, Times};
use crate::protocol::CloseCode;
use crate::shard::{Context, Link};

/// Connections of a thread that may be due and wait for a place. Where there are so many, the walk over the schedule waits.
const WAITING_MAX: usize = 1 << 20;
/// In a closed loop a place whose connection failed rests for so long: what is refused at once would be asked for as fast
/// as this thread can.
const REST_TIME: Nanos = 10 * MILLISECOND;

/// One place, and how far its present connection is.
#[derive(Debug, Default)]
pub(super) struct Visit {
    stage: Stage,
    /// Connections that the place had before: the sequence of its message.
    sequence: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing is there.
    #[default]
    Free,
    /// The 101 is awaited.
    Opening(Times),
    /// The echo of its message is.
    Awaiting(Times),
    /// It has what it was opened for.
    Held,
    /// It was closed, or is accounted for in another way; its end is awaited.
    Leaving,
}

/// The places of a thread.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Positions of the free ones.
    free: Vec<u32>,
    /// When those were due that wait for one.
    waiting: VecDeque<Nanos>,
    /// Until when connections are held, the first in front: their positions and sequences. Some may have ended before.
    held: VecDeque<(Nanos, u32, u64)>,
    /// Until when places rest.
    resting: VecDeque<(Nanos, u32)>,
    /// Connections that were begun and have not got what they were opened for.
    unanswered: usize,
}

impl Places {
    /// Room for another that is due.
    pub(super) fn have_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// All that was begun has got what it was opened for, or failed.
    pub(super) fn are_settled(&self) -> bool {
        self.unanswered == 0
    }
}

impl Client {
    /// There is nothing to be opened before the load begins.
    pub(super) fn make_places<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>) {
        // The lowest numbers are used first, so that few of many places are touched where few are needed.
        self.places.free = (0..self.connections.len() as u32).rev().collect();
        for _ in 0..self.connections.len() {
            self.shared.settled(cx.now());
        }
        self.phase = Phase::Ready;
        self.await_others(cx);
    }

    /// Whether nothing can come any more of a run whose connections are gone. What a schedule has left is due all the same,
    /// and unsent, unless there never was a connection to send it on.
    pub(super) fn is_deserted(&self) -> bool {
        let has_schedule = self.cursor.is_some() && self.shared.has_opened();
        self.open == 0 && self.shared.load.mode != Mode::Connect && !has_schedule
    }

    /// A connection should be begun at `intended`.
    pub(super) fn visit_due(&mut self, intended: Nanos) {
        if self.places.waiting.len() >= self.places.free.len() {
            self.tally.handshakes.waits(self.tally.window.contains(intended));
        }
        self.places.waiting.push_back(intended);
    }

    /// Ends what was held for long enough, and begins what is due. What was due before the end is begun though a late turn
    /// finds it behind that; a closed loop begins nothing then.
    pub(super) fn visit<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, now: Nanos, stop_at: Nanos) {
        self.wake_places(now);
        self.leave_held(cx, now);
        let is_closed_loop = matches!(self.shared.load.pace, Pace::Depth(_));
        while let Some(position) = self.places.free.pop() {
            let intended = match is_closed_loop {
                true => Some(cx.clock()).filter(|now| *now < stop_at),
                false => self.places.waiting.pop_front(),
            };
            let Some(intended) = intended else {
                self.places.free.push(position);
                break;
            };
            self.begin_visit(cx, position, intended);
        }
    }

    fn begin_visit<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, position: u32, intended: Nanos) {
        let at = position as usize;
        if let Err(error) = self.dial_one(cx, at) {
            self.failed += 1;
            self.tally.error(&causes::of_error(&error));
            let now = cx.clock();
            self.tally.damaged(now, Times { intended, sent: now });
            return self.free_place(position, true, now);
        }
        self.tally.sent += 1;
        self.places.unanswered += 1;
        let sent = self.connections[at].opening.dialled;
        if let Some(visit) = self.visit_at(at) {
            visit.stage = Stage::Opening(Times { intended, sent });
        }
    }

    fn visit_at(&mut self, position: usize) -> Option<&mut Visit> {
        match &mut self.connections[position].flow {
            Flow::Visit(visit) => Some(visit),
            Flow::Echo(_) | Flow::Broadcast(_) | Flow::Push(_) => None,
        }
    }

    /// Its handshake succeeded: it sends its message, or has what it was opened for.
    pub(super) fn visit_opened<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Client>,
        token: Token,
        position: usize,
    ) {
        let now = cx.now();
        let Client { shared, connections, tally, message, .. } = self;
        let connection = &mut connections[position];
        let Flow::Visit(visit) = &mut connection.flow else { return };
        let Stage::Opening(times) = visit.stage else { return };
        if tally.window.contains(times.intended) {
            tally.handshakes.opened(&connection.opening);
        }
        let Some(mut link) = cx.link(token) else { return };
        if !shared.load.dialling.first_message {
            tally.arrived(now, times.intended, times.sent, 0);
            return self.visit_served(&mut link, position, now);
        }
        let id = Id { connection: connection.number, sequence: visit.sequence, ..Id::default() };
        shared.payloads.write(&id, message);
        // One that is refused here, for want of memory, ends its connection; that is accounted for there.
        link.send(shared.payloads.kind(), message);
        visit.stage = Stage::Awaiting(times);
    }

    /// A message came.
    pub(super) fn visit_answered(&mut self, link: &mut Link<'_, Client>, position: usize, chunk: &Chunk<'_>) {
        let now = link.now();
        let Client { shared, connections, tally, .. } = self;
        let connection = &mut connections[position];
        let Flow::Visit(visit) = &mut connection.flow else { return };
        let Stage::Awaiting(times) = visit.stage else {
            // More than was sent.
            tally.integrity.duplicated += 1;
            return;
        };
        let payloads = &shared.payloads;
        let id = Id { connection: connection.number, sequence: visit.sequence, ..Id::default() };
        let is_its_own =
            !shared.load.verify || (chunk.kind == payloads.kind() && payloads.matches(&id, chunk.payload));
        if is_its_own {
            tally.arrived(now, times.intended, times.sent, chunk.payload.len());
            if tally.window.contains(times.intended) {
                tally.handshakes.answered(&connection.opening, now);
            }
        } else {
            tally.integrity.corrupted += 1;
            tally.damaged(now, times);
        }
        self.visit_served(link, position, now);
    }

    /// It has what it was opened for.
    fn visit_served(&mut self, link: &mut Link<'_, Client>, position: usize, now: Nanos) {
        self.places.unanswered -= 1;
        let hold = self.shared.load.dialling.hold.as_nanos() as Nanos;
        let Some(visit) = self.visit_at(position) else { return };
        if hold == 0 {
            visit.stage = Stage::Leaving;
            return link.close(CloseCode::NORMAL, "");
        }
        visit.stage = Stage::Held;
        let sequence = visit.sequence;
        self.places.held.push_back((now + hold, position as u32, sequence));
        if self.places.held.len() > 2 * self.connections.len() {
            self.forget_ended();
        }
    }

    /// Drops from the list those that the server ended before their time.
    #[cold]
    fn forget_ended(&mut self) {
        let mut held = std::mem::take(&mut self.places.held);
        held.retain(|&(_, position, sequence)| self.is_held(position, sequence));
        self.places.held = held;
    }

    fn is_held(&self, position: u32, sequence: u64) -> bool {
        let flow = &self.connections[position as usize].flow;
        matches!(flow, Flow::Visit(visit) if visit.stage == Stage::Held && visit.sequence == sequence)
    }

    /// Closes what was held for long enough.
    fn leave_held<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, now: Nanos) {
        while let Some(&(until, position, sequence)) = self.places.held.front() {
            if until > now {
                return self.wake_by(until);
            }
            self.places.held.pop_front();
            if self.is_held(position, sequence) {
                self.leave(cx, position as usize);
            }
        }
    }

    fn leave<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, position: usize) {
        if let Some(visit) = self.visit_at(position) {
            visit.stage = Stage::Leaving;
        }
        if let Some(mut link) = self.connections[position].token.and_then(|token| cx.link(token)) {
            link.close(CloseCode::NORMAL, "");
        }
    }

    /// Looks for connections that have waited for their echo too long: it is lost, and they are closed.
    pub(super) fn leave_silent<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, now: Nanos) {
        for position in 0..self.connections.len() {
            let opened = self.connections[position].opening.opened;
            let is_late = opened + REPLY_TIME <= now;
            if let Flow::Visit(Visit { stage: Stage::Awaiting(_), .. }) = self.connections[position].flow
                && is_late
            {
                self.tally.error(NO_REPLY);
                self.give_up_visit(position, now);
                self.leave(cx, position);
            }
        }
    }

    /// The message of a connection will not come back, or its handshake not end, which are as old as they are at `until`.
    /// Whether there was one of either.
    fn give_up_visit(&mut self, position: usize, until: Nanos) -> bool {
        let Some(visit) = self.visit_at(position) else { return false };
        let before = visit.stage;
        let (Stage::Opening(times) | Stage::Awaiting(times)) = before else { return false };
        visit.stage = Stage::Leaving;
        match before {
            Stage::Opening(_) => {
                self.tally.error(UNFINISHED);
                self.tally.handshakes.failed(until.saturating_sub(times.sent));
            }
            _ => self.tally.integrity.lost += 1,
        }
        self.tally.missing.add(times, 1);
        self.places.unanswered -= 1;
        true
    }

    /// A connection is over, for whatever reason.
    pub(super) fn visit_ended<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Client>,
        peer: Peer,
        closed: &Closed,
    ) {
        let position = peer.position as usize;
        let connection = &mut self.connections[position];
        let was_open = std::mem::replace(&mut connection.state, State::New) == State::Open;
        connection.token = None;
        self.open -= usize::from(was_open);
        self.handshakes -= usize::from(!was_open);
        let Some(visit) = self.visit_at(position) else { return };
        let before = std::mem::take(&mut visit.stage);
        visit.sequence += 1;
        let failed = before != Stage::Leaving;
        match before {
            Stage::Opening(times) => {
                self.tally.error(&causes::of_end(&closed.cause, false));
                self.tally.damaged(cx.now(), times);
                self.tally.handshakes.failed(cx.now().saturating_sub(times.sent));
                self.places.unanswered -= 1;
            }
            Stage::Awaiting(times) => {
                self.tally.integrity.lost += 1;
                self.tally.missing.add(times, 1);
                self.places.unanswered -= 1;
            }
            Stage::Free | Stage::Held | Stage::Leaving => {}
        }
        if was_open {
            *self.tally.closes.entry(closed.code.0).or_default() += 1;
            self.tally.ended_early += u64::from(failed);
            if failed && !matches!(closed.cause, Cause::Peer | Cause::Local) {
                self.tally.error(&causes::of_end(&closed.cause, true));
            }
        }
        self.failed += u64::from(failed);
        self.free_place(peer.position, failed, cx.now());
    }

    fn free_place(&mut self, position: u32, failed: bool, now: Nanos) {
        if failed && matches!(self.shared.load.pace, Pace::Depth(_)) {
            self.places.resting.push_back((now + REST_TIME, position));
        } else {
            self.places.free.push(position);
        }
    }

    fn wake_places(&mut self, now: Nanos) {
        while let Some(&(until, position)) = self.places.resting.front() {
            if until > now {
                return self.wake_by(until);
            }
            self.places.resting.pop_front();
            self.places.free.push(position);
        }
    }

    /// Accounts for what has not come to its end when nobody waits any longer: what was due and not begun is as old as it is
    /// at `until`.
    pub(super) fn settle_visits<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, until: Nanos) {
        let Client { places, tally, .. } = self;
        for intended in places.waiting.drain(..) {
            tally.unsent += 1;
            tally.never_left(until, intended, 1);
        }
        for position in 0..self.connections.len() {
            let is_held = self.visit_at(position).is_some_and(|visit| visit.stage == Stage::Held);
            if is_held || self.give_up_visit(position, until) {
                self.leave(cx, position);
            }
        }
    }
}
