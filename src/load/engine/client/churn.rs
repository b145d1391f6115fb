//! Connections that come and go while the load runs: a ramp, lifetimes, reconnects with back-off, and the cut of a storm.
//!
//! A connection that ends keeps its number, its messages and its place in the schedule. Messages that are due while it is
//! away wait for its return, and are measured from when they were due, as for users who lost their connection. Where
//! the user left on purpose, or has not arrived yet, nobody waits, and these messages are left out.
//!
//! Never: a message that was in flight when its connection ended and is neither answered nor lost.

use super::agenda::Due;
use super::connection::{Departure, Flow, State};
use super::replaced::settle_replaced;
use super::{Client, Link, Phase, causes};
use crate::measure::MessageName;
use crate::measure::track::REPLY_TIME;
use crate::plan::{Cut, Mode};
use crate::record::failures::UNFINISHED;
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_proto::random::{SplitMix64, mix};
use echoring_runtime::shard::Context;

/// Interval of checks whether a connection at the end of its lifetime has its answers.
const RETIRE_INTERVAL: Nanos = 5 * MILLISECOND;

impl Client {
    /// The connection is open or has failed for the first time.
    pub(super) fn settle(&mut self, position: usize, now: Nanos) {
        if !std::mem::replace(&mut self.connections[position].life.is_settled, true) {
            self.shared.settled(now);
        }
    }

    // ---- the ramp ----

    /// Where there is a ramp or a recording, nothing is opened before the load begins.
    pub(super) fn wait_for_load(&mut self, cx: &mut Context<'_, Client>) {
        for position in 0..self.connections.len() {
            self.connections[position].state = State::Away;
            self.settle(position, cx.now());
        }
        self.connector.stop(self.connections.len());
        self.connector.away = self.connections.len();
        self.phase = Phase::Ready;
        self.wait_for_threads(cx);
    }

    /// The load begins at `start`: each connection gets its time in the ramp.
    pub(super) fn begin_ramp(&mut self, start: Nanos) {
        let ramp = self.shared.load.churn.ramp.as_nanos();
        if ramp == 0 {
            return;
        }
        for position in 0..self.connections.len() {
            let number = u128::from(self.connections[position].number);
            let passed = ramp * number / u128::from(self.shared.load.connections);
            self.enter_life(position, start + passed as Nanos, Due::Dial);
        }
    }

    pub(super) fn enter_life(&mut self, position: usize, at: Nanos, due: Due) {
        self.connections[position].life.due_at = at;
        self.enter(at, position, due);
    }

    // ---- the end of a connection ----

    /// Whether a connection that is not open now may open later.
    fn may_return(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Ready | Phase::Running { .. })
            && !self.shared.is_stopped()
    }

    /// Whether a connection that ended in this state opens again.
    pub(super) fn returns(&self, position: usize, before: State) -> bool {
        let is_retired = before == State::Retiring;
        self.may_return()
            && (is_retired || self.shared.load.churn.reconnect.is_some())
            && self.connections[position].life.is_settled
    }

    /// An open connection ended, and opens again.
    pub(super) fn depart(&mut self, position: usize, before: State, now: Nanos) {
        let departure = self.departure(position, before, now);
        let Client { shared, connections, connector, tally, protocols, .. } = self;
        let connection = &mut connections[position];
        connector.away += 1;
        connection.state = State::Away;
        connection.held_since = None;
        connection.ping_at = Nanos::MAX;
        match &mut connection.flow {
            Flow::Echo(awaited) => {
                let number = connection.number;
                let protocol = protocols.get(connection.protocol);
                let protocol = protocol.map(|protocol| (&**protocol, shared.load.seed));
                for replaced in awaited.take_replaced() {
                    settle_replaced(tally, protocol, number, replaced);
                }
                let lost = awaited.abandon(|sequence, times| {
                    tally.record_lost(now, MessageName::of(number, sequence), times, 1);
                });
                tally.integrity.lost += lost;
            }
            Flow::Push(listener) => {
                (listener.heard_at, listener.bytes) = (0, 0);
            }
            Flow::Broadcast(_) | Flow::Attempt(_) | Flow::Replay(_) => {}
        }
        let life = &mut connection.life;
        (life.ended_at, life.departure) = (now, departure);
        tally.reconnects.retired += u64::from(departure == Departure::Retired);
        tally.reconnects.ended += u64::from(departure != Departure::Retired);
        if departure == Departure::Cut && !std::mem::replace(&mut life.was_cut, true) {
            tally.reconnects.cut += 1;
        }
        tally.count_herd(now, |herd| &mut herd.ended);
        let backoff = shared.load.churn.reconnect.filter(|_| departure != Departure::Retired);
        let pause = backoff.map_or(0, |backoff| backoff.pause(0, self.draw(position)));
        self.enter_life(position, now + pause, Due::Dial);
    }

    /// Why a connection ended.
    fn departure(&self, position: usize, before: State, now: Nanos) -> Departure {
        let load = &self.shared.load;
        let in_window = matches!(self.phase, Phase::Running { .. }) && self.tally.window.contains(now);
        if before == State::Retiring {
            return Departure::Retired;
        }
        let connection = &self.connections[position];
        if load.mode != Mode::Storm || !in_window || connection.life.was_cut {
            return Departure::Ended;
        }
        match load.churn.cut {
            Cut::Client if connection.number < load.publishers => return Departure::Ended,
            Cut::Client => {}
            Cut::Server => self.shared.cut(now),
        }
        Departure::Cut
    }

    /// A connection that was to open again did not.
    pub(super) fn return_failed(&mut self, position: usize, now: Nanos, cause: &str) {
        let Some(backoff) = self.shared.load.churn.reconnect else {
            self.connections[position].state = State::Gone;
            self.connector.failed += 1;
            return self.tally.connections.error(cause);
        };
        self.connections[position].state = State::Away;
        self.connector.away += 1;
        if !self.may_return() {
            return;
        }
        self.tally.reconnects.refused(cause);
        self.tally.count_herd(now, |herd| &mut herd.refused);
        let failures = self.connections[position].life.failures + 1;
        self.connections[position].life.failures = failures;
        let pause = backoff.pause(failures, self.draw(position));
        self.enter_life(position, now + pause, Due::Dial);
    }

    /// A random number of the connection, from 0 up to 1.
    fn draw(&mut self, position: usize) -> f64 {
        let connection = &mut self.connections[position];
        connection.life.drawn += 1;
        let name = u64::from(connection.number) << 32 | u64::from(connection.life.drawn);
        SplitMix64::new(mix(self.shared.load.seed ^ mix(name))).unit()
    }

    // ---- the return ----

    /// The time to dial a connection has come.
    pub(super) fn dial_away(&mut self, cx: &mut Context<'_, Client>, position: usize, at: Nanos) {
        let connection = &self.connections[position];
        let is_due = connection.state == State::Away && connection.life.due_at == at;
        if !is_due || !self.may_return() {
            return;
        }
        let now = cx.now();
        self.connector.away -= 1;
        if connection.life.is_away() {
            self.tally.reconnects.attempts += 1;
            self.tally.count_herd(now, |herd| &mut herd.attempts);
        }
        if let Err(error) = self.dial_one(cx, position) {
            self.return_failed(position, now, &causes::of_error(&error));
        }
    }

    /// The connection takes part in the load from now on.
    pub(super) fn take_part(&mut self, link: &mut Link<'_>, position: usize) {
        let now = link.now();
        let churns = self.shared.load.churn.is_some();
        if churns {
            self.count_return(position, now);
            if let Some(lifetime) =
                self.shared.load.churn.lifetime.filter(|_| self.ends_by_lifetime(position))
            {
                let lifetime = lifetime.draw(self.draw(position));
                self.enter_life(position, now + lifetime, Due::Retire);
            }
        }
        self.connections[position].life.was_open = true;
        self.replay_opened(position);
        if churns || self.shared.load.replay.is_some() {
            self.send_allowed(link, position, now);
        }
    }

    /// Publishers stay, so that missed messages can be counted.
    fn ends_by_lifetime(&self, position: usize) -> bool {
        !matches!(&self.connections[position].flow, Flow::Broadcast(broadcast) if !broadcast.receives())
    }

    fn count_return(&mut self, position: usize, now: Nanos) {
        if matches!(self.phase, Phase::Running { .. }) && self.connections[position].life.has_no_user() {
            self.skip_due(position);
        }
        let Client { shared, connections, tally, .. } = self;
        let connection = &mut connections[position];
        if let (Flow::Broadcast(broadcast), Some(fan_out)) = (&mut connection.flow, &shared.fan_out) {
            for (publisher, at) in broadcast.others(connection.number, shared.load.topics) {
                broadcast.streams[at].returned(fan_out.published(publisher));
            }
        }
        let life = &mut connection.life;
        if life.is_away() {
            tally.reconnects.back.saturating_record(now - life.ended_at);
            if life.departure == Departure::Cut
                && let Some(cut_at) = shared.cut_at()
            {
                tally.reconnects.since_cut.saturating_record(now.saturating_sub(cut_at));
            }
            tally.count_herd(now, |herd| &mut herd.back);
        }
        (life.departure, life.failures) = (Departure::None, 0);
    }

    /// Leaves out the messages that were due while there was no user.
    fn skip_due(&mut self, position: usize) {
        let Client { connections, pacer, .. } = self;
        let connection = &mut connections[position];
        let (Some(schedule), Flow::Echo(awaited)) = (&pacer.schedule, &mut connection.flow) else { return };
        for sequence in awaited.next()..connection.due {
            connection.mark = schedule.after(connection.number, sequence, connection.mark);
        }
        if connection.due > awaited.next() {
            awaited.skip_to(connection.due);
        }
    }

    // ---- the end of a lifetime ----

    /// The lifetime of a connection is over: it is closed once its messages are answered.
    pub(super) fn retire(&mut self, link: &mut Link<'_>, position: usize, at: Nanos) {
        let now = link.now();
        let connection = &mut self.connections[position];
        if connection.life.due_at != at || !matches!(connection.state, State::Open | State::Retiring) {
            return;
        }
        if connection.state == State::Open {
            connection.state = State::Retiring;
            connection.life.retire_by = now + REPLY_TIME;
        }
        let waits = matches!(&connection.flow, Flow::Echo(awaited) if !awaited.is_settled());
        if waits && now < connection.life.retire_by {
            return self.enter_life(position, now + RETIRE_INTERVAL, Due::Retire);
        }
        self.leave(link, position);
    }

    // ---- the storm ----

    /// Cuts all connections but those of publishers, without a closing handshake.
    pub(super) fn cut_all(&mut self, cx: &mut Context<'_, Client>) {
        let load = &self.shared.load;
        if load.mode != Mode::Storm || load.churn.cut != Cut::Client {
            return;
        }
        self.shared.cut(cx.now());
        for connection in self.connections.iter().filter(|connection| connection.number >= load.publishers) {
            if let Some(mut link) = connection.token.and_then(|token| cx.link(token)) {
                link.abort();
            }
        }
    }

    // ---- the end of the run ----

    /// The run ends: connections that are away do not come back.
    pub(super) fn settle_away(&mut self, cx: &mut Context<'_, Client>) {
        if !self.shared.load.churn.is_some() && self.shared.load.replay.is_none() {
            return;
        }
        for position in 0..self.connections.len() {
            let connection = &mut self.connections[position];
            match connection.state {
                State::Connecting => {
                    self.connector.handshakes -= 1;
                    if self.shared.load.replay.is_some() {
                        // The recording has it.
                        self.tally.connections.error(UNFINISHED);
                        let begun = connection.opening.dialled;
                        self.tally.connections.handshakes.failed(begun, cx.now());
                    }
                }
                State::Preparing => self.connector.open -= 1,
                State::Away => self.connector.away -= 1,
                State::New | State::Open | State::Retiring | State::Gone => continue,
            }
            connection.state = State::Gone;
            if let Some(mut link) = connection.token.take().and_then(|token| cx.link(token)) {
                link.abort();
            }
            let life = &connection.life;
            let failed = life.failures > 0 || matches!(life.departure, Departure::Ended | Departure::Cut);
            self.tally.reconnects.away += u64::from(failed);
            self.tally.connections.ended_early += u64::from(failed);
        }
    }

    /// Counts the messages that subscribers missed while they were away.
    pub(super) fn settle_recovery(&mut self, position: usize) {
        let Client { shared, connections, tally, .. } = self;
        let connection = &mut connections[position];
        let (Flow::Broadcast(broadcast), Some(fan_out)) = (&mut connection.flow, &shared.fan_out) else {
            return;
        };
        if !broadcast.subscribes() {
            return;
        }
        let is_away = connection.life.is_away();
        for (publisher, at) in broadcast.others(connection.number, shared.load.topics) {
            let stream = &mut broadcast.streams[at];
            if is_away {
                stream.returned(fan_out.published(publisher));
            }
            let (away, recovered) = stream.away();
            tally.reconnects.published_away += away;
            tally.reconnects.recovered += recovered;
        }
    }
}
